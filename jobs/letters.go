package jobs

import (
	"fmt"
	"strings"

	"usher/internal/locale"
	"usher/internal/mail"
	"usher/internal/roster"
)

// write makes a message's draft of what the late check found.
func (w *Worker) write(m mail.Message, l roster.Letter) (d mail.Draft, err error) {
	var app roster.App
	var email string
	switch {
	case l.Invitation != nil:
		app, email = l.Invitation.App, l.Invitation.Email
		letter := w.invitationLetter(m, *l.Invitation)
		letter.FirstMessageID = l.FirstMessageID
		if m.Kind == roster.MailReminder {
			d.Content, err = mail.RenderReminder(letter, w.Outbox.Now())
		} else {
			d.Content, err = mail.RenderInvitation(letter)
		}
	case l.Digest != nil:
		app, email = l.Digest.App, l.Digest.Email
		d.Content, err = mail.RenderDigest(w.digestLetter(m, *l.Digest))
	case l.News != nil:
		app, email = l.News.App, l.News.Inviter.MailTo()
		d.Content, err = mail.RenderNews(newsLetter(*l.News))
	case l.Notice != nil:
		app, email = l.Notice.App, l.Notice.Account.MailTo()
		d.Content, err = mail.RenderWorkspaces(mail.WorkspacesLetter{
			Brand: brand(app), Locale: locale.Match(l.Notice.Account.Locale, app.Locale), RecipientName: l.Notice.Account.FullName,
			Names: l.Notice.Workspaces, AppURL: app.URL,
		})
	case l.Password != nil:
		app, email = l.Password.App, l.Password.Account.MailTo()
		d.Content, err = mail.RenderPassword(w.passwordLetter(m, *l.Password))
	case l.Request != nil:
		app, email = l.Request.App, l.Request.Email
		if m.Kind == roster.MailAuthorized {
			email = l.To
			d.Content, err = mail.RenderAuthorized(w.authorizedLetter(*l.Request))
		} else {
			letter := w.requestLetter(m, *l.Request)
			letter.Reminder = m.Kind == roster.MailRequestReminder
			d.Content, err = mail.RenderRequest(letter)
		}
	}
	if err != nil {
		return d, fmt.Errorf("write message %s: %w", m.ID, err)
	}
	address, err := roster.ParseAddress(email)
	if err != nil {
		return d, fmt.Errorf("read address of message %s: %w", m.ID, err)
	}
	d.ID, d.EmailKey, d.Recipient, d.Sender = m.ID, address.Key, address.Mailbox(), app.MailFrom
	if d.Sender == "" {
		d.Sender = w.From
	}
	return d, nil
}

func (w *Worker) invitationLetter(m mail.Message, v roster.InvitationView) mail.InvitationLetter {
	wanted := []string{v.Locale, v.App.Locale}
	if v.Account != nil {
		wanted = append([]string{v.Account.Locale}, wanted...)
	}
	return mail.InvitationLetter{
		Brand:         brand(v.App),
		Locale:        locale.Match(wanted...),
		RecipientName: v.FullName,
		InviterName:   v.InviterName,
		CompanyName:   v.CompanyName,
		WorkspaceName: v.WorkspaceName,
		Note:          v.Note,
		Link:          w.URL.JoinPath("i", w.Keys.Token(roster.PurposeInvitation, v.Ticket())).String(),
		StopLink:      w.URL.JoinPath("u", w.Keys.Token(roster.PurposeUnsubscribe, roster.UnsubscribeTicket(m.ID))).String(),
		ExpiresAt:     v.ExpiresAt,
		Zone:          v.Zone,
		Again:         v.Sends > 1,
		Professional:  v.Kind == roster.KindExternal,
	}
}

func (w *Worker) digestLetter(m mail.Message, d roster.Digest) mail.DigestLetter {
	l := mail.DigestLetter{
		Brand: brand(d.App), Locale: locale.Match(d.Locale, d.App.Locale), RecipientName: d.Name, Zone: d.Zone,
		StopLink: w.URL.JoinPath("u", w.Keys.Token(roster.PurposeUnsubscribe, roster.UnsubscribeTicket(m.ID))).String(),
	}
	for _, v := range d.Invitations {
		l.Items = append(l.Items, mail.DigestItem{
			InviterName: v.InviterName, CompanyName: v.CompanyName, WorkspaceName: v.WorkspaceName, ExpiresAt: v.ExpiresAt,
			Link: w.URL.JoinPath("i", w.Keys.Token(roster.PurposeInvitation, v.Ticket())).String(),
		})
	}
	for _, v := range d.Requests {
		l.Items = append(l.Items, mail.DigestItem{
			InviterName: v.RequesterName, CompanyName: v.CompanyName, ExpiresAt: v.ExpiresAt,
			Link: w.URL.JoinPath("r", w.Keys.Token(roster.PurposeRequest, v.Ticket())).String(),
		})
	}
	return l
}

func (w *Worker) passwordLetter(m mail.Message, p roster.PasswordLetter) mail.PasswordLetter {
	return mail.PasswordLetter{
		Brand: brand(p.App), Locale: locale.Match(p.Account.Locale, p.App.Locale), RecipientName: p.Account.FullName,
		Username: p.Account.Username, First: !p.HasPassword,
		Link:      w.URL.JoinPath("password", w.Keys.Token(roster.PurposePassword, roster.Ticket{ID: m.ID, Version: p.Version})).String(),
		ExpiresAt: p.ExpiresAt, Zone: p.Zone, MakerName: p.MakerName, CompanyName: p.CompanyName,
	}
}

func (w *Worker) requestLetter(m mail.Message, v roster.RequestView) mail.RequestLetter {
	return mail.RequestLetter{
		Brand: brand(v.App), Locale: locale.Match(v.Locale, v.App.Locale), RecipientName: v.FullName,
		RequesterName: v.RequesterName, CompanyName: v.CompanyName, Note: v.Note,
		Link:      w.URL.JoinPath("r", w.Keys.Token(roster.PurposeRequest, v.Ticket())).String(),
		StopLink:  w.URL.JoinPath("u", w.Keys.Token(roster.PurposeUnsubscribe, roster.UnsubscribeTicket(m.ID))).String(),
		ExpiresAt: v.ExpiresAt, Zone: v.Zone, Again: v.Sends > 1,
	}
}

func (w *Worker) authorizedLetter(v roster.RequestView) mail.AuthorizedLetter {
	return mail.AuthorizedLetter{
		Brand: brand(v.App), Locale: locale.Match(v.Locale, v.App.Locale), RecipientName: v.FullName, CompanyName: v.CompanyName,
		Link: w.URL.JoinPath("r", w.Keys.Token(roster.PurposeRequest, v.Ticket())).String(), At: *v.DecidedAt, Zone: v.Zone,
	}
}

func newsLetter(news roster.News) mail.NewsLetter {
	lines := make([]mail.NewsLine, len(news.Lines))
	for i, line := range news.Lines {
		lines[i] = mail.NewsLine{
			Kind:       newsKind(line.Type),
			PersonName: line.PersonName, Email: line.Email, WorkspaceName: line.WorkspaceName, At: line.At,
		}
		switch {
		case line.Reason == roster.ReasonInviterGone:
			lines[i].Kind = orphanNews[line.Type]
		case line.Type == roster.EventHeld:
			o := mail.NewOutlook(line.Said, nil, 0, line.At, line.At)
			lines[i].Kind, lines[i].Diagnostic, lines[i].Suggestion = mail.NewsOf(line.Reason), o.Diagnostic, roster.SuggestAddress(line.Email)
		}
	}
	return mail.NewsLetter{
		Brand: brand(news.App), Locale: locale.Match(news.Inviter.Locale, news.App.Locale),
		RecipientName: news.Inviter.FullName, Zone: news.Zone, Lines: lines, AppURL: news.App.URL,
	}
}

// newsKind is the kind of news that an event is: "accepted", "request_granted".
func newsKind(eventType string) string {
	if kind, ok := strings.CutPrefix(eventType, "access_request."); ok {
		return "request_" + kind
	}
	return strings.TrimPrefix(eventType, "invitation.")
}

// orphanNews are the kinds of news about invitations whose inviter may no longer
// invite.
var orphanNews = map[string]string{
	roster.EventHeld: mail.NewsOrphaned, roster.EventTransferred: mail.NewsTransferred, roster.EventRevoked: mail.NewsWithdrawn,
}

func brand(app roster.App) mail.Brand {
	return mail.Brand{Name: app.Name, Color: app.BrandColor, LogoURL: app.LogoURL, SupportEmail: app.SupportEmail}
}
