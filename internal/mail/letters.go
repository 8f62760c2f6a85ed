package mail

import (
	"errors"
	"fmt"
	"html/template"
	"slices"
	"strings"
	"time"
)

// maxNews caps the lines of one NewsLetter, so that it stays below maxHTML; the
// letter counts the rest.
const maxNews = 25

// InvitationLetter invites somebody to a workspace.
//
// Every name is cleaned before use: one line, no invisible characters, capped
// in length, and without anything a mail program would turn into a link.
type InvitationLetter struct {
	Brand          Brand
	Locale         string // a BCP 47 tag; unsupported languages get locale.Default
	RecipientName  string // may be empty
	InviterName    string // if empty, the company or the brand invites
	CompanyName    string // the inviter's; may be empty
	WorkspaceName  string // required
	Note           string // the inviter's own words: plain text, several lines, may be empty
	Link           string // absolute http(s) URL of the invitation's page
	StopLink       string // absolute http(s) URL of the page that stops such mail
	ExpiresAt      time.Time
	Zone           *time.Location // of the recipient; nil is UTC
	Again          bool           // the invitation was mailed before
	Professional   bool           // the recipient works elsewhere: they log in or sign up, and approve there
	FirstMessageID string         // the Message-ID of that first mail, which this one joins; may be empty
}

// RenderInvitation writes an invitation in the recipient's language. It fails
// if the letter lacks something it cannot do without.
func RenderInvitation(l InvitationLetter) (Content, error) {
	v, err := l.view()
	if err != nil {
		return Content{}, fmt.Errorf("render invitation: %w", err)
	}
	v.setNote(l.Note)
	v.Again = l.Again
	h := letterHeaders()
	if l.Again {
		threadUnder(h, l.FirstMessageID)
	}
	return invitationLetter.render(v, h)
}

func (v *view) setNote(note string) {
	v.Note = noteLines(note)
	v.NoteHTML = template.HTML(strings.ReplaceAll(template.HTMLEscapeString(strings.Join(v.Note, "\n")), "\n", "<br>\n")) //nolint:gosec // escaped, and then broken into lines
}

// RenderReminder reminds somebody of an invitation they have not answered at
// now. It is short, without the inviter's note, joins the first mail, and can be
// unsubscribed from by one click. It fails where RenderInvitation does, and
// where no time is left.
func RenderReminder(l InvitationLetter, now time.Time) (Content, error) {
	l.Again = true
	v, err := l.view()
	if err != nil {
		return Content{}, fmt.Errorf("render reminder: %w", err)
	}
	left := l.ExpiresAt.Sub(now)
	switch {
	case left <= 0:
		return Content{}, errors.New("render reminder: no time is left")
	case left < time.Hour:
		v.Left = v.printer.T("reminder.minutes_left")
	case left < 48*time.Hour: // never more than is left
		v.Left = v.printer.T("reminder.hours_left", "count", int(left/time.Hour))
	default:
		v.Left = v.printer.T("reminder.days_left", "count", int(left/(24*time.Hour)))
	}
	h := letterHeaders()
	threadUnder(h, l.FirstMessageID)
	unsubscribable(h, l.StopLink)
	return reminderLetter.render(v, h)
}

// view is what an invitation and its reminder show alike.
func (l InvitationLetter) view() (view, error) {
	v := newView(l.Brand, l.Locale, l.RecipientName)
	v.Inviter = cleanName(l.InviterName)
	v.Company = cleanName(l.CompanyName)
	v.Workspace = cleanName(l.WorkspaceName)
	v.Link, v.StopLink = l.Link, l.StopLink
	switch {
	case v.Brand.Name == "":
		return v, errors.New("no brand name")
	case v.Workspace == "":
		return v, errors.New("no workspace name")
	case !webURL(l.Link):
		return v, errors.New("the link is no absolute http URL")
	case !webURL(l.StopLink):
		return v, errors.New("the link that stops mail is no absolute http URL")
	case l.ExpiresAt.IsZero():
		return v, errors.New("no expiry")
	}
	if v.Inviter == "" {
		v.Inviter = v.Company
	}
	if v.Inviter == "" {
		v.Inviter = v.Brand.Name
	}
	if v.Company == v.Inviter {
		v.Company = "" // the company itself invites
	}
	v.When = v.printer.DateTime(l.ExpiresAt, l.Zone)
	v.Professional = l.Professional
	subject := "invitation.subject"
	switch {
	case l.Professional && l.Again:
		subject = "professional.subject_again"
	case l.Professional:
		subject = "professional.subject"
	case l.Again:
		subject = "invitation.subject_again"
	}
	v.Subject = v.printer.T(subject,
		"inviter", shorten(v.Inviter, maxSubjectName),
		"workspace", shorten(v.Workspace, maxSubjectName))
	return v, nil
}

// The kinds of NewsLine. From NewsBounced on they tell why the mail of an
// invitation did not get through; the invitation is on hold until somebody acts.
// From NewsOrphaned to NewsWithdrawn they tell a workspace's owner of an
// invitation whose inviter may no longer invite to it.
const (
	NewsAccepted     = "accepted"
	NewsDeclined     = "declined"
	NewsExpired      = "expired"
	NewsRenewalAsked = "renewal_asked"
	NewsOrphaned     = "orphaned"     // nobody can accept it until somebody takes it over
	NewsTransferred  = "transferred"  // it is the owner's from now on
	NewsWithdrawn    = "withdrawn"    // it was revoked
	NewsBounced      = "bounced"      // the mail server refuses the address for good
	NewsMailboxFull  = "mailbox_full" // it did so time and again for now
	NewsSuppressed   = "suppressed"   // not sent, because earlier mail came back
	NewsComplained   = "complained"   // the person wants no mail; told in neutral words, without any reason
	NewsUndelivered  = "undelivered"  // our own mail was at fault
)

// The kinds of NewsLine about access requests, which have no workspace.
const (
	NewsRequestGranted = "request_granted"
	NewsRequestDenied  = "request_denied"
	NewsRequestExpired = "request_expired"
	NewsRequestRevoked = "request_revoked"
	NewsRequestHeld    = "request_held" // its mail does not get through
)

// heldNews are the kinds about mail that did not get through.
var heldNews = map[string]bool{
	NewsBounced: true, NewsMailboxFull: true, NewsSuppressed: true, NewsComplained: true, NewsUndelivered: true,
}

// The colours at a line's edge, readable on both grounds of a letter.
var newsEdges = map[string]string{
	NewsAccepted: "#1f8a52", NewsRenewalAsked: "#b7791f", NewsDeclined: "#98a2ae", NewsExpired: "#98a2ae",
	NewsOrphaned: "#b7791f", NewsTransferred: "#1f8a52", NewsWithdrawn: "#98a2ae",
	NewsRequestGranted: "#1f8a52", NewsRequestDenied: "#98a2ae", NewsRequestExpired: "#98a2ae", NewsRequestRevoked: "#98a2ae", NewsRequestHeld: "#c9442e",
	NewsBounced: "#c9442e", NewsMailboxFull: "#c9442e", NewsSuppressed: "#c9442e", NewsComplained: "#c9442e", NewsUndelivered: "#c9442e",
}

// NewsLetter tells an inviter what became of their invitations.
type NewsLetter struct {
	Brand         Brand
	Locale        string // a BCP 47 tag; unsupported languages get locale.Default
	RecipientName string // may be empty
	Zone          *time.Location
	AppURL        string     // absolute http(s) URL of the app; else the letter links nowhere
	Lines         []NewsLine // at least one; shown in this order
}

// NewsLine is what became of one invitation.
type NewsLine struct {
	Kind          string // one of the kinds above
	PersonName    string // of the invited person; if empty, Email stands in
	Email         string
	WorkspaceName string // of an invitation
	At            time.Time
	Diagnostic    string // what the mail server said, for NewsBounced and NewsMailboxFull; may be empty
	Suggestion    string // the address that may have been meant, for NewsBounced and NewsSuppressed; may be empty
}

// lineView is a NewsLine as its templates see it: Plain and HTML are the same
// sentence.
type lineView struct {
	Edge, Plain, Email, When string
	HTML                     template.HTML
	Diagnostic, Suggestion   string
	Link                     string // of a digest's
}

// RenderNews writes the news of one or more invitations in the inviter's language.
func RenderNews(l NewsLetter) (Content, error) {
	v := newView(l.Brand, l.Locale, l.RecipientName)
	switch {
	case v.Brand.Name == "":
		return Content{}, errors.New("render news: no brand name")
	case len(l.Lines) == 0:
		return Content{}, errors.New("render news: no lines")
	}
	if webURL(l.AppURL) {
		v.Link = l.AppURL
	}
	more := max(0, len(l.Lines)-maxNews)
	var preheader []string
	for i, line := range l.Lines[:len(l.Lines)-more] {
		if newsEdges[line.Kind] == "" {
			return Content{}, fmt.Errorf("render news: line %d has the unknown kind %q", i, line.Kind)
		}
		v.Lines = append(v.Lines, v.line(line, l.Zone))
		if i < 3 { // programs show no more than a line or two
			preheader = append(preheader, v.Lines[i].Plain)
		}
	}
	v.Preheader = strings.Join(preheader, " ")
	if more > 0 {
		v.More = v.printer.T("news.more", "count", more, "brand", v.Brand.Name)
	}
	v.Title = v.printer.T("news.title", "count", len(l.Lines))
	if slices.ContainsFunc(l.Lines, NewsLine.ofRequest) {
		v.Title = v.printer.T("news.title_requests")
	}
	v.Subject = v.Title
	if len(l.Lines) == 1 {
		kind := l.Lines[0].Kind
		if heldNews[kind] {
			kind = "held"
		}
		v.Subject = v.printer.T("news.subject_"+kind, "person", shorten(l.Lines[0].person(), maxSubjectName))
	}
	return newsLetter.render(v, letterHeaders())
}

// ofRequest tells whether the line is about an access request.
func (n NewsLine) ofRequest() bool { return strings.HasPrefix(n.Kind, "request_") }

// person is the invited person's name, or the address. The inviter typed that:
// it is no stranger's way in, and stays as it was.
func (n NewsLine) person() string {
	if name := cleanName(n.PersonName); name != "" {
		return name
	}
	return shorten(oneLine(n.Email), maxName)
}

func (v view) line(n NewsLine, zone *time.Location) lineView {
	data := []any{"person", n.person()}
	if !n.ofRequest() {
		data = append(data, "workspace", cleanName(n.WorkspaceName))
	}
	line := lineView{
		Edge:  newsEdges[n.Kind],
		Plain: v.printer.T("news."+n.Kind, data...),
		HTML:  v.printer.Strong("news."+n.Kind, data...),
		When:  v.printer.DateTime(n.At, zone),
	}
	if email := shorten(oneLine(n.Email), maxName); email != n.person() {
		line.Email = email
	}
	if n.Kind == NewsBounced || n.Kind == NewsMailboxFull {
		line.Diagnostic = shorten(unlink(oneLine(n.Diagnostic)), maxDiagnostic)
	}
	if (n.Kind == NewsBounced || n.Kind == NewsSuppressed) && bareAddress(n.Suggestion) {
		line.Suggestion = n.Suggestion
	}
	return line
}

// WorkspacesLetter tells a person of workspaces they were added to.
type WorkspacesLetter struct {
	Brand         Brand
	Locale        string   // a BCP 47 tag; unsupported languages get locale.Default
	RecipientName string   // may be empty
	Names         []string // of the workspaces, at least one; shown in this order
	AppURL        string   // absolute http(s) URL of the app; else the letter links nowhere
}

// RenderWorkspaces writes of one or more new workspaces in the recipient's
// language.
func RenderWorkspaces(l WorkspacesLetter) (Content, error) {
	v := newView(l.Brand, l.Locale, l.RecipientName)
	for _, name := range l.Names {
		if name = cleanName(name); name != "" {
			v.Names = append(v.Names, name)
		}
	}
	n := len(v.Names)
	switch {
	case v.Brand.Name == "":
		return Content{}, errors.New("render workspaces: no brand name")
	case n == 0:
		return Content{}, errors.New("render workspaces: no names")
	}
	if webURL(l.AppURL) {
		v.Link = l.AppURL
	}
	v.Title = v.printer.T("workspaces.title", "count", n)
	v.Intro = v.printer.T("workspaces.intro", "count", n, "brand", v.Brand.Name)
	v.Subject = v.Title
	if n == 1 {
		v.Subject = v.printer.T("workspaces.subject", "workspace", shorten(v.Names[0], maxSubjectName))
	}
	if n > maxNews {
		v.Names, v.More = v.Names[:maxNews], v.printer.T("news.more", "count", n-maxNews, "brand", v.Brand.Name)
	}
	return workspacesLetter.render(v, letterHeaders())
}

// PasswordLetter gives a person the link to set their password.
type PasswordLetter struct {
	Brand         Brand
	Locale        string // a BCP 47 tag; unsupported languages get locale.Default
	RecipientName string // may be empty
	Username      string // the account's, by which its person may log in; may be empty
	First         bool   // the account has no password yet
	MakerName     string // who made the account for the person; empty: the person asked for this mail
	CompanyName   string // the maker's
	Link          string // absolute http(s) URL of the page that sets it
	ExpiresAt     time.Time
	Zone          *time.Location // of the recipient; nil is UTC
}

// RenderPassword writes of a link to set a password in the recipient's language.
// It fails if the letter lacks something it cannot do without.
func RenderPassword(l PasswordLetter) (Content, error) {
	v := newView(l.Brand, l.Locale, l.RecipientName)
	switch {
	case v.Brand.Name == "":
		return Content{}, errors.New("render password: no brand name")
	case !webURL(l.Link):
		return Content{}, errors.New("render password: the link is no absolute http URL")
	case l.ExpiresAt.IsZero():
		return Content{}, errors.New("render password: no expiry")
	}
	// The username has to be typed as it is, so it is not taken apart as a name
	// that looks like a link is. It has no more than letters, digits and "._+-".
	v.Link, v.First, v.Username = l.Link, l.First, shorten(oneLine(l.Username), maxName)
	v.When = v.printer.DateTime(l.ExpiresAt, l.Zone)
	v.Inviter, v.Company = cleanName(l.MakerName), cleanName(l.CompanyName)
	if v.Inviter == "" {
		v.Inviter = v.Company
	}
	v.Made = v.Inviter != ""
	subject := "password.subject"
	switch {
	case v.Made:
		subject = "password.subject_made"
	case l.First:
		subject = "password.subject_first"
	}
	v.Subject = v.printer.T(subject, "brand", shorten(v.Brand.Name, maxSubjectName))
	return passwordLetter.render(v, letterHeaders())
}

// RequestLetter asks the holder of an address for access to their account. Names
// are cleaned as in an InvitationLetter.
type RequestLetter struct {
	Brand         Brand
	Locale        string // a BCP 47 tag; unsupported languages get locale.Default
	RecipientName string // may be empty
	RequesterName string // if empty, the company asks
	CompanyName   string // required
	Note          string // the requester's own words: plain text, several lines, may be empty
	Link          string // absolute http(s) URL of the request's page
	StopLink      string // absolute http(s) URL of the page that stops such mail
	ExpiresAt     time.Time
	Zone          *time.Location // of the recipient; nil is UTC
	Again         bool           // the request was mailed before
	Reminder      bool           // and this only calls it to mind: it can be unsubscribed from by one click
}

// RenderRequest writes an access request in the recipient's language. It fails
// if the letter lacks something it cannot do without.
func RenderRequest(l RequestLetter) (Content, error) {
	v := newView(l.Brand, l.Locale, l.RecipientName)
	v.Inviter, v.Company, v.Link, v.StopLink, v.Again = cleanName(l.RequesterName), cleanName(l.CompanyName), l.Link, l.StopLink, l.Again
	switch {
	case v.Brand.Name == "":
		return Content{}, errors.New("render access request: no brand name")
	case v.Company == "":
		return Content{}, errors.New("render access request: no company name")
	case !webURL(l.Link) || !webURL(l.StopLink):
		return Content{}, errors.New("render access request: a link is no absolute http URL")
	case l.ExpiresAt.IsZero():
		return Content{}, errors.New("render access request: no expiry")
	}
	if v.Inviter == "" {
		v.Inviter = v.Company
	}
	v.When = v.printer.DateTime(l.ExpiresAt, l.Zone)
	v.setNote(l.Note)
	v.Again = l.Again || l.Reminder
	subject := "request.subject"
	if v.Again {
		subject = "request.subject_again"
	}
	v.Subject = v.printer.T(subject, "requester", shorten(v.Inviter, maxSubjectName))
	h := letterHeaders()
	if l.Reminder {
		unsubscribable(h, l.StopLink)
	}
	return requestLetter.render(v, h)
}

// maxDigest bounds the things that a digest names one by one.
const maxDigest = 12

// DigestLetter reminds a person of several things that wait for their answer.
type DigestLetter struct {
	Brand         Brand
	Locale        string // a BCP 47 tag; unsupported languages get locale.Default
	RecipientName string // may be empty
	Items         []DigestItem
	StopLink      string         // absolute http(s) URL that stops reminders
	Zone          *time.Location // of the recipient; nil is UTC
}

// DigestItem is an invitation, or an access request, which names no workspace.
type DigestItem struct {
	InviterName   string
	CompanyName   string // may be empty where there is a workspace
	WorkspaceName string
	Link          string // absolute http(s) URL of its page
	ExpiresAt     time.Time
}

// RenderDigest writes that letter in the recipient's language. It fails if the
// letter lacks something it cannot do without.
func RenderDigest(l DigestLetter) (Content, error) {
	v := newView(l.Brand, l.Locale, l.RecipientName)
	v.StopLink = l.StopLink
	switch {
	case v.Brand.Name == "":
		return Content{}, errors.New("render digest: no brand name")
	case len(l.Items) == 0:
		return Content{}, errors.New("render digest: nothing to name")
	case !webURL(l.StopLink):
		return Content{}, errors.New("render digest: the link that stops reminders is no absolute http URL")
	}
	items := slices.Clone(l.Items)
	slices.SortStableFunc(items, func(a, b DigestItem) int { return a.ExpiresAt.Compare(b.ExpiresAt) })
	for i, item := range items {
		if !webURL(item.Link) || item.ExpiresAt.IsZero() {
			return Content{}, fmt.Errorf("render digest: item %d has no link or no end", i)
		}
		if i >= maxDigest {
			continue
		}
		inviter, company, workspace := cleanName(item.InviterName), cleanName(item.CompanyName), cleanName(item.WorkspaceName)
		if inviter == "" {
			inviter = company
		}
		expiry := "invitation.expiry"
		key, args := "digest.invitation", []any{"inviter", inviter, "workspace", workspace}
		if workspace == "" {
			expiry = "request.expiry"
			key, args = "digest.request", []any{"inviter", inviter, "company", company}
		}
		v.Lines = append(v.Lines, lineView{
			HTML: v.printer.Strong(key, args...), Plain: v.printer.T(key, args...), Link: item.Link, Edge: v.Brand.Color,
			When: v.printer.T(expiry, "when", v.printer.DateTime(item.ExpiresAt, l.Zone)),
		})
	}
	if more := len(items) - maxDigest; more > 0 {
		v.More = v.printer.T("digest.more", "count", more)
	}
	v.Title = v.printer.T("digest.title", "count", len(items))
	v.Preheader = v.Lines[0].Plain
	v.Subject = v.printer.T("digest.subject", "count", len(items), "brand", shorten(v.Brand.Name, maxSubjectName))
	h := letterHeaders()
	unsubscribable(h, l.StopLink)
	return digestLetter.render(v, h)
}

// AuthorizedLetter tells a person that support gave a company access to their
// account.
type AuthorizedLetter struct {
	Brand         Brand
	Locale        string // a BCP 47 tag; unsupported languages get locale.Default
	RecipientName string // may be empty
	CompanyName   string // required
	Link          string // absolute http(s) URL of the page that ends the access
	At            time.Time
	Zone          *time.Location // of the recipient; nil is UTC
}

// RenderAuthorized writes that letter in the recipient's language. It fails if
// the letter lacks something it cannot do without.
func RenderAuthorized(l AuthorizedLetter) (Content, error) {
	v := newView(l.Brand, l.Locale, l.RecipientName)
	v.Company, v.Link = cleanName(l.CompanyName), l.Link
	switch {
	case v.Brand.Name == "":
		return Content{}, errors.New("render authorized access: no brand name")
	case v.Company == "":
		return Content{}, errors.New("render authorized access: no company name")
	case !webURL(l.Link):
		return Content{}, errors.New("render authorized access: the link is no absolute http URL")
	case l.At.IsZero():
		return Content{}, errors.New("render authorized access: no time")
	}
	v.When = v.printer.DateTime(l.At, l.Zone)
	v.Subject = v.printer.T("authorized.subject", "company", shorten(v.Company, maxSubjectName))
	return authorizedLetter.render(v, letterHeaders())
}
