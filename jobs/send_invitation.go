package jobs

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"usher/internal/locale"
	"usher/internal/mail"
	"usher/internal/postgres"
	"usher/internal/roster"
)

// sendInvitation mails an invitation, unless it moved on while the job waited.
type sendInvitation struct {
	river.WorkerDefaults[roster.SendInvitation]
	*Worker
}

func (w *sendInvitation) Work(ctx context.Context, job *river.Job[roster.SendInvitation]) error {
	key := fmt.Sprintf("invitation:%s:v%d:send:%d", job.Args.ID, job.Args.Version, job.Args.Send)
	var m mail.Message
	var skip roster.Skip
	err := postgres.InTx(ctx, w.DB, func(tx pgx.Tx) (err error) {
		var v roster.InvitationView
		v, skip, err = w.Roster.In(tx).InvitationToSend(ctx, job.Args)
		if err != nil {
			return err
		}
		if skip != "" {
			if err := fence(ctx, tx, job); err != nil {
				return err
			}
			if err := w.Outbox.In(tx).Abandon(ctx, key); err != nil {
				return err
			}
			return complete(ctx, tx, job, "skipped: "+string(skip))
		}
		content, err := w.invitationLetter(v)
		if err != nil {
			return err
		}
		address, err := roster.ParseAddress(v.Email)
		if err != nil {
			return fmt.Errorf("read address of invitation %s: %w", v.ID, err)
		}
		if m, err = w.Outbox.In(tx).Freeze(ctx, mail.Draft{
			AppID: v.AppID, DedupeKey: key, SubjectID: v.ID,
			Sender: w.sender(v.App), Recipient: address.Mailbox(), Content: content,
		}); err != nil {
			return err
		}
		return w.Roster.In(tx).RecordDelivery(ctx, job.Args, roster.MailSending)
	})
	if err != nil || skip != "" {
		return err
	}
	return deliver(ctx, w.Worker, job, m, func(ctx context.Context, tx pgx.Tx, d roster.Delivery) error {
		return w.Roster.In(tx).RecordDelivery(ctx, job.Args, d)
	})
}

func (w *sendInvitation) invitationLetter(v roster.InvitationView) (mail.Content, error) {
	wanted := []string{v.Locale, v.App.Locale}
	if v.Account != nil {
		wanted = append([]string{v.Account.Locale}, wanted...)
	}
	content, err := mail.RenderInvitation(mail.InvitationLetter{
		Brand:         brand(v.App),
		Locale:        locale.Match(wanted...),
		RecipientName: v.FullName,
		InviterName:   v.InviterName,
		CompanyName:   v.CompanyName,
		WorkspaceName: v.WorkspaceName,
		Note:          v.Note,
		Link:          w.URL.JoinPath("i", w.Keys.Token(roster.PurposeInvitation, v.Ticket())).String(),
		ExpiresAt:     v.ExpiresAt,
		Zone:          v.Zone,
		Again:         v.Sends > 1,
	})
	if err != nil {
		return content, fmt.Errorf("render invitation %s: %w", v.ID, err)
	}
	return content, nil
}

func brand(app roster.App) mail.Brand {
	return mail.Brand{Name: app.Name, Color: app.BrandColor, LogoURL: app.LogoURL, SupportEmail: app.SupportEmail}
}

// sender is the app's own sender, or the installation's.
func (w *Worker) sender(app roster.App) string {
	if app.MailFrom != "" {
		return app.MailFrom
	}
	return w.From
}
