package web

import (
	"encoding/hex"
	"errors"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"

	"usher/internal/locale"
	"usher/internal/roster"
)

// languageCookie remembers the language somebody chose on a page.
const languageCookie = "usher_lang"

// language is the one a page is shown in: chosen on the page, chosen before,
// or what the browser asks for.
func (s *Server) language(c *fiber.Ctx) string {
	return locale.Match(c.Query("lang"), c.Cookies(languageCookie), c.Get(fiber.HeaderAcceptLanguage))
}

// rememberLanguage keeps a choice made by ?lang= for the pages that follow. It
// is a matter of this browser alone, so a GET may do it.
func (s *Server) rememberLanguage(c *fiber.Ctx) {
	if chosen := c.Query("lang"); chosen != "" {
		s.setCookie(c, languageCookie, locale.Match(chosen), "/", time.Now().AddDate(1, 0, 0))
	}
}

// preferLanguage shows the page in the language its person is known to read,
// unless they chose one here. A browser set to another may be a borrowed one, and
// one click changes it.
func (s *Server) preferLanguage(c *fiber.Ctx, lang string) {
	if c.Query("lang") == "" && c.Cookies(languageCookie) == "" && lang != "" {
		c.Request().Header.Set(fiber.HeaderAcceptLanguage, lang)
	}
}

// setCookie sets a cookie that scripts cannot read and other sites' forms do
// not send. An empty value takes it back.
func (s *Server) setCookie(c *fiber.Ctx, name, value, path string, until time.Time) {
	if value == "" {
		until = time.Unix(0, 0)
	}
	c.Cookie(&fiber.Cookie{
		Name: name, Value: value, Path: path, Expires: until,
		HTTPOnly: true, Secure: s.URL.Scheme == "https", SameSite: fiber.CookieSameSiteLaxMode,
	})
}

// sessionCookie is the name of an app's cookie: being signed in to one app
// says nothing in another.
func sessionCookie(app roster.App) string { return "usher_" + hex.EncodeToString(app.ID[10:]) }

func appBrand(app roster.App) Brand {
	return Brand{Name: app.Name, Color: app.BrandColor, LogoURL: app.LogoURL, SupportEmail: app.SupportEmail}
}

// opened is an invitation's page in the making: what the link leads to and who
// looks at it.
type opened struct {
	roster.InvitationView
	ticket   roster.Ticket
	signedIn *roster.Account // nil: nobody
}

// openInvitation reads what the link in the address leads to. Where that is a
// page that tells one thing (no such link, decided, over), tell is that page.
func (s *Server) openInvitation(c *fiber.Ctx) (o opened, tell view, err error) {
	s.rememberLanguage(c)
	token := c.Params("token")
	dead := messageView{frame: s.frame(c, Brand{}), Kind: messageDeadLink, Token: token}
	dead.Path = "/i/" + token
	if o.ticket, err = s.Keys.Open(roster.PurposeInvitation, token); err != nil {
		c.Status(fiber.StatusNotFound)
		return o, dead, nil
	}
	if o.InvitationView, err = s.Roster.ViewInvitation(c.UserContext(), o.ticket); err != nil {
		if roster.CodeOf(err) == "link_dead" {
			c.Status(fiber.StatusNotFound)
			return o, dead, nil
		}
		return o, nil, err
	}
	account, ok, err := s.Roster.SessionAccount(c.UserContext(), c.Cookies(sessionCookie(o.App)))
	if err != nil {
		return o, nil, err
	}
	if ok && account.AppID == o.AppID {
		o.signedIn = &account
	}
	s.preferLanguage(c, o.Locale)
	return o, s.decidedPage(c, o), nil
}

// decidedPage tells what became of an invitation that cannot be decided, or not
// now; nil for any other.
func (s *Server) decidedPage(c *fiber.Ctx, o opened) view {
	if o.State.Open() && o.HeldFor == "" {
		return nil
	}
	v := messageView{
		frame: s.personFrame(c, o), Token: c.Params("token"), Home: o.home(),
		WorkspaceName: o.WorkspaceName, InviterName: o.InviterName, AppURL: o.App.URL, Zone: o.Zone,
	}
	if o.DecidedAt != nil {
		v.At = *o.DecidedAt
	}
	switch o.State {
	case roster.Accepted:
		v.Kind = messageAlreadyAccepted
		if o.isAccepter() {
			v.Kind = messageAccepted
		}
	case roster.Declined:
		v.Kind = messageAlreadyDeclined
	case roster.Expired:
		v.Kind, v.At = messageExpired, o.ExpiresAt
		c.Status(fiber.StatusGone)
	case roster.Pending, roster.OnHold: // nobody stands behind it at the moment
		v.Kind = messageWaiting
		c.Status(fiber.StatusConflict)
	case roster.Revoked, roster.Superseded:
		v.Kind = messageRevoked
		c.Status(fiber.StatusGone)
	case roster.Approved, roster.Granted, roster.Denied, roster.Cancelled: // of access requests only
	}
	return v
}

// isAccepter tells whether the one who looks is the one who accepted.
func (o opened) isAccepter() bool {
	return o.signedIn != nil && o.AccountID != nil && o.signedIn.ID == *o.AccountID
}

// home is the path of the page of whoever is signed in, or "".
func (o opened) home() string {
	if o.signedIn == nil {
		return ""
	}
	return visitor{app: o.App}.path("/home")
}

func (s *Server) personFrame(c *fiber.Ctx, o opened) frame {
	f := s.frame(c, appBrand(o.App))
	f.Path = "/i/" + c.Params("token")
	return f
}

// The ways to accept.
func (o opened) mode() string {
	switch {
	case o.Account == nil && o.Kind == roster.KindExternal:
		return modeSignUp
	case o.Account == nil:
		return modeNewAccount
	case o.signedIn != nil:
		return modeSignedIn
	case !o.HasPassword:
		return modeKnown
	}
	return modeLogIn
}

// isWrongAccount tells whether somebody else than the invited person is signed
// in.
func (o opened) isWrongAccount() bool {
	return o.signedIn != nil && (o.Account == nil || o.signedIn.ID != o.Account.ID)
}

// GET /i/{token}. Who calls: a person, a mail scanner. An app with a page of its
// own gets the token there.
func (s *Server) invitationPage(c *fiber.Ctx) (view, error) {
	o, tell, err := s.openInvitation(c)
	if err == nil {
		if page, ok := ownPage(c, o.AcceptURL); ok {
			return nil, c.Redirect(page, fiber.StatusFound)
		}
	}
	if err != nil || tell != nil {
		return tell, err
	}
	return s.openPage(c, o, o.FullName), nil
}

// ownPage is the app's own page for the token in the address, if it has one.
func ownPage(c *fiber.Ctx, address string) (string, bool) {
	page, ok := webURL(address, "https", "http")
	if address == "" || !ok {
		return "", false
	}
	q := page.Query()
	q.Set("token", c.Params("token"))
	page.RawQuery = q.Encode()
	return page.String(), true
}

// openPage is the page of an open invitation, with the errors of the form just
// sent, if any.
func (s *Server) openPage(c *fiber.Ctx, o opened, fullName string, wrong ...formError) view {
	if o.isWrongAccount() {
		c.Status(fiber.StatusConflict)
		return wrongAccountView{
			frame: s.personFrame(c, o), Token: c.Params("token"),
			SignedInAs: o.signedIn.Email, MaskedEmail: roster.Mask(o.Email),
		}
	}
	return invitationView{
		frame: s.personFrame(c, o), Token: c.Params("token"), Mode: o.mode(),
		InviterName: o.InviterName, CompanyName: o.CompanyName, WorkspaceName: o.WorkspaceName,
		RecipientName: o.FullName, Email: o.Email, Note: o.Note, ExpiresAt: o.ExpiresAt, Zone: o.Zone,
		FullName: fullName, Errors: wrong,
		Password: visitor{app: o.App}.path("/password", "next", "/i/"+c.Params("token")),
	}
}

// POST /i/{token}/accept. Who calls: a person, by the button.
func (s *Server) acceptInvitation(c *fiber.Ctx) (view, error) {
	o, tell, err := s.openInvitation(c)
	if err != nil || tell != nil {
		return tell, err
	}
	if o.isWrongAccount() {
		return s.openPage(c, o, ""), nil
	}
	ctx, name, password := c.UserContext(), c.FormValue("full_name"), c.FormValue("password")
	var a roster.Acceptance
	switch o.mode() {
	case modeSignUp: // first the account, then the decision: the form is signUp's
		return s.openPage(c, o, name), nil
	case modeNewAccount:
		a.FullName = name
		a.PasswordHash, err = roster.HashPassword(ctx, password)
	case modeLogIn:
		a.AccountID = o.Account.ID
		err = s.Roster.CheckPassword(ctx, o.AppID, o.Account.ID, password)
	case modeSignedIn:
		a.AccountID = o.signedIn.ID
	case modeKnown: // who holds the link is as much as there is to know
	}
	var inv roster.Invitation
	proved := false
	if err == nil {
		inv, proved, err = s.Roster.AcceptInvitation(ctx, o.ticket, a)
	}
	if err != nil {
		return s.acceptFailed(c, o, name, err)
	}
	if proved && o.signedIn == nil {
		if err := s.signIn(c, o.App, *inv.AccountID); err != nil {
			return nil, err
		}
	}
	return nil, s.backToInvitation(c)
}

// POST /i/{token}/sign-up. Who calls: an external professional without an
// account, by the button. The invitation then waits in their inbox.
func (s *Server) signUp(c *fiber.Ctx) (view, error) {
	o, tell, err := s.openInvitation(c)
	if err != nil || tell != nil {
		return tell, err
	}
	if o.isWrongAccount() || o.mode() != modeSignUp { // the account is there by now
		return s.openPage(c, o, ""), nil
	}
	a := roster.Acceptance{FullName: c.FormValue("full_name")}
	var account uuid.UUID
	if a.PasswordHash, err = roster.HashPassword(c.UserContext(), c.FormValue("password")); err == nil {
		account, err = s.Roster.SignUp(c.UserContext(), o.ticket, a)
	}
	if err != nil {
		return s.acceptFailed(c, o, a.FullName, err)
	}
	if err := s.signIn(c, o.App, account); err != nil {
		return nil, err
	}
	return nil, c.Redirect(visitor{app: o.App}.path("/home"), fiber.StatusSeeOther)
}

// backToInvitation shows the invitation's page after a form changed it, so that
// reloading sends nothing again.
func (s *Server) backToInvitation(c *fiber.Ctx) error {
	path := "/i/" + c.Params("token")
	if lang := c.Query("lang"); lang != "" {
		path += "?lang=" + locale.Match(lang)
	}
	return c.Redirect(path, fiber.StatusSeeOther)
}

// acceptFailed shows why an acceptance did not go through: at the form's
// fields, or as what stands instead.
func (s *Server) acceptFailed(c *fiber.Ctx, o opened, fullName string, err error) (view, error) {
	var refusal *roster.Error
	if !errors.As(err, &refusal) {
		return nil, err
	}
	if wrong, ok := formErrorOf[refusal.Code]; ok {
		c.Status(fiber.StatusUnprocessableEntity)
		return s.openPage(c, o, fullName, wrong), nil
	}
	if refusal.Kind == roster.TooSoon {
		c.Status(fiber.StatusTooManyRequests)
		return messageView{frame: s.personFrame(c, o), Kind: messageTooManyTries, RetryAfter: 15 * time.Minute}, nil
	}
	// It was decided, or the account appeared, between our reading and now.
	o, tell, err := s.openInvitation(c)
	if err != nil || tell != nil {
		return tell, err
	}
	return s.openPage(c, o, fullName), nil
}

// formErrorOf maps the domain's refusals to the form's fields.
var formErrorOf = map[string]formError{
	"name_missing":       nameMissing,
	"name_too_long":      nameTooLong,
	"name_invalid":       nameUnusable,
	"name_has_url":       nameUnusable,
	"password_too_short": passwordTooShort,
	"password_too_long":  passwordTooLong,
	"password_invalid":   passwordTooShort,
	"password_wrong":     passwordWrong,
}

// POST /i/{token}/decline. Who calls: a person, by the button; no log-in.
func (s *Server) declineInvitation(c *fiber.Ctx) (view, error) {
	o, tell, err := s.openInvitation(c)
	if err != nil || tell != nil {
		return tell, err
	}
	if _, err := s.Roster.DeclineInvitation(c.UserContext(), o.ticket); err != nil {
		return s.acceptFailed(c, o, "", err)
	}
	return messageView{
		frame: s.personFrame(c, o), Kind: messageDeclined,
		WorkspaceName: o.WorkspaceName, InviterName: o.InviterName,
	}, nil
}

// POST /i/{token}/renew. Who calls: a person whose link is over. Every token,
// genuine or not, gets the same answer.
func (s *Server) renewInvitation(c *fiber.Ctx) (view, error) {
	s.rememberLanguage(c)
	if ticket, err := s.Keys.Open(roster.PurposeInvitation, c.Params("token")); err == nil {
		if err := s.Roster.AskRenewal(c.UserContext(), ticket); err != nil {
			return nil, err
		}
	}
	v := messageView{frame: s.frame(c, Brand{}), Kind: messageRenewalAsked}
	v.Path = "/i/" + c.Params("token")
	return v, nil
}

// POST /i/{token}/switch. Who calls: a person signed in as somebody else.
func (s *Server) switchAccount(c *fiber.Ctx) (view, error) {
	o, tell, err := s.openInvitation(c)
	if err != nil || tell != nil {
		return tell, err
	}
	cookie := sessionCookie(o.App)
	if err := s.Roster.EndSession(c.UserContext(), c.Cookies(cookie)); err != nil {
		return nil, err
	}
	s.setCookie(c, cookie, "", "/", time.Time{})
	return nil, s.backToInvitation(c)
}
