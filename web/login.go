package web

import (
	"net"
	"net/url"
	"regexp"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"

	"usher/internal/roster"
)

const (
	// maxLogIns of one caller's address are let through each minute: those of an
	// office behind one address, and far from enough to guess.
	maxLogIns  = 60
	logInsTime = time.Minute

	// maxNameTries of one address or username are let through in nameTriesTime,
	// whether there is such an account or not. It is what the account itself
	// counts, across processes.
	maxNameTries  = 10
	nameTriesTime = 15 * time.Minute

	// askTime is how long the answer takes to somebody who asks for a password,
	// whether there was an account to write to or not: longer than either.
	askTime = 300 * time.Millisecond
)

// visitor is who looks at a page of an app's accounts.
type visitor struct {
	app     roster.App
	account *roster.Account // signed in; nil: nobody
}

// query is what the addresses of the app's pages carry.
func (v visitor) query() url.Values { return url.Values{"app": {v.app.ID.String()}} }

// path is the address of one of the app's pages.
func (v visitor) path(page string, more ...string) string {
	q := v.query()
	for i := 0; i+1 < len(more); i += 2 {
		if more[i+1] != "" {
			q.Set(more[i], more[i+1])
		}
	}
	return page + "?" + q.Encode()
}

// isSessionCookie tells the names that sessionCookie makes.
var isSessionCookie = regexp.MustCompile(`^usher_[0-9a-f]{12}$`)

// visit finds the app whose page is asked for and who is signed in to it: the
// app in the address, else the one the browser is signed in to, else the only
// one there is. Where that is none, tell is the page that says so.
func (s *Server) visit(c *fiber.Ctx) (v visitor, tell view, err error) {
	s.rememberLanguage(c)
	if v.app, err = s.askedApp(c); roster.CodeOf(err) == "app_not_found" {
		c.Status(fiber.StatusNotFound)
		return v, messageView{frame: s.frame(c, Brand{}), Kind: messageWhichApp}, nil
	}
	if err != nil {
		return v, nil, err
	}
	account, ok, err := s.Roster.SessionAccount(c.UserContext(), c.Cookies(sessionCookie(v.app)))
	if err != nil {
		return v, nil, err
	}
	if ok && account.AppID == v.app.ID {
		v.account = &account
		s.preferLanguage(c, account.Locale)
	}
	return v, nil, nil
}

func (s *Server) askedApp(c *fiber.Ctx) (roster.App, error) {
	if asked := c.Query("app"); asked != "" {
		return s.Roster.App(c.UserContext(), id(asked))
	}
	var sessions []string
	for name, value := range c.Request().Header.Cookies() {
		if isSessionCookie.Match(name) {
			sessions = append(sessions, string(value))
		}
	}
	if len(sessions) == 1 {
		account, ok, err := s.Roster.SessionAccount(c.UserContext(), sessions[0])
		if err != nil {
			return roster.App{}, err
		}
		if ok {
			return s.Roster.App(c.UserContext(), account.AppID)
		}
	}
	return s.Roster.OnlyApp(c.UserContext())
}

// accountFrame is the frame of a page of the app, with the parts of its address
// that other languages' pages keep.
func (s *Server) accountFrame(c *fiber.Ctx, v visitor, path string, more ...string) frame {
	f := s.frame(c, appBrand(v.app))
	f.Path = v.path(path, more...)
	return f
}

// ownPath is a place on these pages to go on to, or "" for any other: a link
// could otherwise lead from our log-in to somebody's copy of it.
func ownPath(next string) string {
	u, err := url.Parse(next)
	if err != nil || u.IsAbs() || u.Host != "" || u.User != nil || u.Opaque != "" || u.Fragment != "" ||
		!strings.HasPrefix(u.Path, "/") || strings.HasPrefix(u.Path, "//") || strings.ContainsAny(u.Path, "\\\r\n\t") || len(next) > 500 {
		return ""
	}
	return u.RequestURI()
}

// clientAddress is where a request came from. A proxy next to us, which is known
// by its own address being a private one, names it as the last of those it was
// told; nobody else is believed.
func clientAddress(c *fiber.Ctx) string {
	ip := c.Context().RemoteIP()
	if ip.IsPrivate() || ip.IsLoopback() {
		forwarded := c.Get(fiber.HeaderXForwardedFor)
		if told := net.ParseIP(strings.TrimSpace(forwarded[strings.LastIndexByte(forwarded, ',')+1:])); told != nil {
			ip = told
		}
	}
	if ip.To4() == nil { // a household has a whole network of them
		ip = ip.Mask(net.CIDRMask(64, 128))
	}
	return ip.String()
}

// tooManyTries is the page for who has to wait.
func (s *Server) tooManyTries(c *fiber.Ctx, f frame, wait time.Duration) view {
	c.Status(fiber.StatusTooManyRequests)
	c.Set(fiber.HeaderRetryAfter, retryAfter(wait))
	return messageView{frame: f, Kind: messageTooManyTries, RetryAfter: wait}
}

// nameKey is what the tries of an address or username of an app are counted
// under.
func nameKey(app uuid.UUID, identifier string) string {
	return app.String() + strings.ToLower(strings.TrimSpace(identifier))
}

// GET /login. Who calls: a person.
func (s *Server) logInPage(c *fiber.Ctx) (view, error) {
	v, tell, err := s.visit(c)
	if err != nil || tell != nil {
		return tell, err
	}
	next := ownPath(c.Query("next"))
	if v.account != nil {
		return nil, c.Redirect(v.goOn(next), fiber.StatusSeeOther)
	}
	return s.logInForm(c, v, next, ""), nil
}

// goOn is where somebody goes who is signed in.
func (v visitor) goOn(next string) string {
	if next != "" {
		return next
	}
	return v.path("/home")
}

func (s *Server) logInForm(c *fiber.Ctx, v visitor, next, identifier string, wrong ...formError) view {
	return logInView{
		frame: s.accountFrame(c, v, "/login", "next", next), App: v.app.ID.String(), Next: next,
		Identifier: identifier, Errors: wrong, LoggedOut: c.Query("done") == "out",
	}
}

// POST /login. Who calls: a person, by the button.
func (s *Server) logIn(c *fiber.Ctx) (view, error) {
	v, tell, err := s.visit(c)
	if err != nil || tell != nil {
		return tell, err
	}
	next, identifier, password := ownPath(c.FormValue("next")), c.FormValue("identifier"), c.FormValue("password")
	var wrong []formError
	if strings.TrimSpace(identifier) == "" {
		wrong = append(wrong, identifierMissing)
	}
	if password == "" {
		wrong = append(wrong, passwordMissing)
	}
	if wrong != nil {
		c.Status(fiber.StatusUnprocessableEntity)
		return s.logInForm(c, v, next, identifier, wrong...), nil
	}
	now := s.Roster.Now()
	if !s.logIns.take(now, clientAddress(c)) {
		return s.tooManyTries(c, s.accountFrame(c, v, "/login", "next", next), logInsTime), nil
	}
	if !s.nameTries.take(now, nameKey(v.app.ID, identifier)) {
		return s.tooManyTries(c, s.accountFrame(c, v, "/login", "next", next), nameTriesTime), nil
	}
	account, err := s.Roster.LogIn(c.UserContext(), v.app.ID, identifier, password)
	switch roster.CodeOf(err) {
	case "credentials_wrong":
		c.Status(fiber.StatusUnprocessableEntity)
		return s.logInForm(c, v, next, identifier, credentialsWrong), nil
	case "account_merged":
		c.Status(fiber.StatusConflict)
		return s.logInForm(c, v, next, identifier, accountMerged), nil
	}
	if err != nil {
		return nil, err
	}
	s.nameTries.forget(nameKey(v.app.ID, identifier))
	if err := s.signIn(c, v.app, account.ID); err != nil {
		return nil, err
	}
	return nil, c.Redirect(v.goOn(next), fiber.StatusSeeOther)
}

// signIn begins a session in this browser; the one it had ends.
func (s *Server) signIn(c *fiber.Ctx, app roster.App, account uuid.UUID) error {
	cookie := sessionCookie(app)
	if old := c.Cookies(cookie); old != "" {
		if err := s.Roster.EndSession(c.UserContext(), old); err != nil {
			return err
		}
	}
	value, until, err := s.Roster.StartSession(c.UserContext(), app.ID, account)
	if err != nil {
		return err
	}
	s.setCookie(c, cookie, value, "/", until)
	return nil
}

// POST /logout. Who calls: a person, by the button.
func (s *Server) logOut(c *fiber.Ctx) (view, error) {
	v, tell, err := s.visit(c)
	if err != nil || tell != nil {
		return tell, err
	}
	cookie := sessionCookie(v.app)
	if err := s.Roster.EndSession(c.UserContext(), c.Cookies(cookie)); err != nil {
		return nil, err
	}
	return nil, s.loggedOut(c, v)
}

// POST /logout/everywhere. Who calls: a person, by the button.
func (s *Server) logOutEverywhere(c *fiber.Ctx) (view, error) {
	v, tell, err := s.visit(c)
	if err != nil || tell != nil {
		return tell, err
	}
	if v.account != nil {
		if err := s.Roster.EndSessions(c.UserContext(), v.app.ID, v.account.ID); err != nil {
			return nil, err
		}
	}
	return nil, s.loggedOut(c, v)
}

func (s *Server) loggedOut(c *fiber.Ctx, v visitor) error {
	s.setCookie(c, sessionCookie(v.app), "", "/", time.Time{})
	return c.Redirect(v.path("/login", "done", "out"), fiber.StatusSeeOther)
}

// GET /password. Who calls: a person who has no password, or not any more.
func (s *Server) askPasswordPage(c *fiber.Ctx) (view, error) {
	v, tell, err := s.visit(c)
	if err != nil || tell != nil {
		return tell, err
	}
	identifier := ""
	if v.account != nil {
		identifier = nameOfAccount(*v.account)
	}
	return s.askPasswordForm(c, v, ownPath(c.Query("next")), identifier), nil
}

func (s *Server) askPasswordForm(c *fiber.Ctx, v visitor, next, identifier string, wrong ...formError) view {
	return askPasswordView{
		frame: s.accountFrame(c, v, "/password", "next", next), App: v.app.ID.String(), Next: next,
		Identifier: identifier, Errors: wrong,
	}
}

// POST /password. Who calls: a person, by the button. Whoever asks for whatever
// account gets the same answer after the same time.
func (s *Server) askPassword(c *fiber.Ctx) (view, error) {
	answerAt := time.After(askTime)
	v, tell, err := s.visit(c)
	if err != nil || tell != nil {
		return tell, err
	}
	next, identifier := ownPath(c.FormValue("next")), strings.TrimSpace(c.FormValue("identifier"))
	if identifier == "" {
		c.Status(fiber.StatusUnprocessableEntity)
		return s.askPasswordForm(c, v, next, "", identifierMissing), nil
	}
	if !s.logIns.take(s.Roster.Now(), clientAddress(c)) {
		return s.tooManyTries(c, s.accountFrame(c, v, "/password", "next", next), logInsTime), nil
	}
	if err := s.Roster.AskPassword(c.UserContext(), v.app.ID, identifier, s.destinationOf(next), roster.IdempotencyKey{}); err != nil {
		return nil, err
	}
	<-answerAt
	return messageView{frame: s.accountFrame(c, v, "/password", "next", next), Kind: messagePasswordAsked, Back: v.path("/login", "next", next)}, nil
}

// destinationOf is the invitation or access request whose page next is.
func (s *Server) destinationOf(next string) (d roster.Destination) {
	path, _, _ := strings.Cut(next, "?")
	if token, ok := strings.CutPrefix(path, "/i/"); ok {
		if ticket, err := s.Keys.Open(roster.PurposeInvitation, token); err == nil {
			d.InvitationID = ticket.ID
		}
	}
	if token, ok := strings.CutPrefix(path, "/r/"); ok {
		if ticket, err := s.Keys.Open(roster.PurposeRequest, token); err == nil {
			d.RequestID = ticket.ID
		}
	}
	return d
}

// openPasswordLink reads what the link in the address leads to. Where it does
// not work any more, tell is the page that says so.
func (s *Server) openPasswordLink(c *fiber.Ctx) (l roster.PasswordLink, t roster.Ticket, tell view, err error) {
	s.rememberLanguage(c)
	if t, err = s.Keys.Open(roster.PurposePassword, c.Params("token")); err != nil {
		return l, t, s.deadPasswordLink(c, l), nil
	}
	l, err = s.Roster.ViewPasswordLink(c.UserContext(), t)
	if roster.CodeOf(err) == "link_dead" {
		return l, t, s.deadPasswordLink(c, l), nil
	}
	if err == nil {
		s.preferLanguage(c, l.Account.Locale)
	}
	return l, t, nil, err
}

// deadPasswordLink offers a new link, of the app as far as it is known.
func (s *Server) deadPasswordLink(c *fiber.Ctx, l roster.PasswordLink) view {
	c.Status(fiber.StatusNotFound)
	v := messageView{frame: s.frame(c, appBrand(l.App)), Kind: messageDeadPassword, Back: "/password"}
	v.Path = "/password/" + c.Params("token")
	if l.App.ID != uuid.Nil {
		v.Back = visitor{app: l.App}.path("/password")
	}
	return v
}

// GET /password/{token}. Who calls: a person, a mail scanner.
func (s *Server) passwordPage(c *fiber.Ctx) (view, error) {
	l, _, tell, err := s.openPasswordLink(c)
	if err != nil || tell != nil {
		return tell, err
	}
	return s.passwordForm(c, l), nil
}

func (s *Server) passwordForm(c *fiber.Ctx, l roster.PasswordLink, wrong ...formError) view {
	f := s.frame(c, appBrand(l.App))
	f.Path = "/password/" + c.Params("token")
	return setPasswordView{
		frame: f, Token: c.Params("token"), First: !l.HasPassword, Email: l.Account.Email, Username: l.Account.Username, Errors: wrong,
	}
}

// POST /password/{token}. Who calls: a person, by the button.
func (s *Server) setPassword(c *fiber.Ctx) (view, error) {
	l, ticket, tell, err := s.openPasswordLink(c)
	if err != nil || tell != nil {
		return tell, err
	}
	hash, err := roster.HashPassword(c.UserContext(), c.FormValue("password"))
	if wrong, ok := formErrorOf[roster.CodeOf(err)]; ok {
		c.Status(fiber.StatusUnprocessableEntity)
		return s.passwordForm(c, l, wrong), nil
	}
	if err != nil {
		return nil, err
	}
	_, err = s.Roster.SetPassword(c.UserContext(), l.App.ID, ticket, hash, roster.IdempotencyKey{})
	if roster.CodeOf(err) == "link_dead" {
		return s.deadPasswordLink(c, l), nil
	}
	if err != nil {
		return nil, err
	}
	if err := s.signIn(c, l.App, l.Account.ID); err != nil {
		return nil, err
	}
	return nil, c.Redirect(s.afterPassword(c, l), fiber.StatusSeeOther)
}

// afterPassword is where a person goes on who set their password: to the
// invitation or the access request they came from, if it can still be opened, or
// home.
func (s *Server) afterPassword(c *fiber.Ctx, l roster.PasswordLink) string {
	if l.InvitationID != nil {
		if inv, err := s.Roster.Invitation(c.UserContext(), l.App.ID, *l.InvitationID); err == nil {
			return "/i/" + s.Keys.Token(roster.PurposeInvitation, inv.Ticket())
		}
	}
	if l.RequestID != nil {
		if q, err := s.Roster.AccessRequest(c.UserContext(), l.App.ID, *l.RequestID); err == nil {
			return "/r/" + s.Keys.Token(roster.PurposeRequest, q.Ticket())
		}
	}
	return visitor{app: l.App}.path("/home", "done", string(donePassword))
}
