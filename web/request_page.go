package web

import (
	"errors"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"

	"usher/internal/locale"
	"usher/internal/roster"
)

// openedRequest is an access request's page in the making: what the link leads
// to and who looks at it.
type openedRequest struct {
	roster.RequestView
	ticket   roster.Ticket
	signedIn *roster.Account // nil: nobody
}

// account is who may answer of those who look; Nil: nobody is known to.
func (o openedRequest) account() uuid.UUID {
	if o.signedIn == nil {
		return uuid.Nil
	}
	return o.signedIn.ID
}

// openRequest reads what the link in the address leads to. Where there is no
// such request, tell is the page that says so.
func (s *Server) openRequest(c *fiber.Ctx) (o openedRequest, tell view, err error) {
	s.rememberLanguage(c)
	dead := messageView{frame: s.frame(c, Brand{}), Kind: messageDeadLink}
	dead.Path = "/r/" + c.Params("token")
	if o.ticket, err = s.Keys.Open(roster.PurposeRequest, c.Params("token")); err == nil {
		o.RequestView, err = s.Roster.ViewRequest(c.UserContext(), o.ticket)
	} else {
		err = roster.ErrDeadLink
	}
	if roster.CodeOf(err) == "link_dead" {
		c.Status(fiber.StatusNotFound)
		return o, dead, nil
	}
	if err != nil {
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
	return o, nil, nil
}

// GET /r/{token}. Who calls: a person, a mail scanner. An app with a page of its
// own gets the token there.
func (s *Server) requestPage(c *fiber.Ctx) (view, error) {
	o, tell, err := s.openRequest(c)
	if err == nil && tell == nil {
		if page, ok := ownPage(c, o.RequestURL); ok {
			return nil, c.Redirect(page, fiber.StatusFound)
		}
	}
	if err != nil || tell != nil {
		return tell, err
	}
	return s.requestView(c, o), nil
}

// requestStages are the stages of the page by the request's state.
var requestStages = map[roster.State]requestStage{
	roster.Pending: stageOpen, roster.OnHold: stageOpen, roster.Approved: stageApproved, roster.Granted: stageGranted, roster.Denied: stageDenied,
	roster.Expired: stageExpired, roster.Cancelled: stageCancelled, roster.Revoked: stageRevoked,
}

func (s *Server) requestView(c *fiber.Ctx, o openedRequest) view {
	token := c.Params("token")
	v := requestView{
		frame: s.frame(c, appBrand(o.App)), Token: token, Stage: requestStages[o.State],
		RequesterName: o.RequesterName, CompanyName: o.CompanyName, RecipientName: o.FullName, Email: o.Email, Note: o.Note,
		ExpiresAt: o.ExpiresAt, Zone: o.Zone, Visibility: o.Visibility, NeedsLogIn: !o.ByLink,
		LogIn: visitor{app: o.App}.path("/login", "next", "/r/"+token), Password: visitor{app: o.App}.path("/password", "next", "/r/"+token),
		BySupport: o.Evidence != nil, Reported: o.Reported,
	}
	v.Path = "/r/" + token
	if v.Visibility == "" {
		v.Visibility = roster.VisibilityStandard
	}
	if o.DecidedAt != nil {
		v.At = *o.DecidedAt
	}
	switch {
	case o.signedIn == nil:
	case o.MayAnswer(o.signedIn.ID):
		v.SignedInAs, v.Home = nameOfAccount(*o.signedIn), visitor{app: o.App}.path("/home")
	default:
		v.OtherAccount = nameOfAccount(*o.signedIn)
	}
	switch v.Stage {
	case stageExpired, stageCancelled:
		c.Status(fiber.StatusGone)
	default:
	}
	return v
}

// nameOfAccount is what its person logs in by.
func nameOfAccount(a roster.Account) string {
	if a.Email == "" {
		return a.Username
	}
	return a.Email
}

// decideRequest answers one of the page's forms: op decides.
func (s *Server) decideRequest(op func(c *fiber.Ctx, o openedRequest) error) func(c *fiber.Ctx) (view, error) {
	return func(c *fiber.Ctx) (view, error) {
		o, tell, err := s.openRequest(c)
		if err != nil || tell != nil {
			return tell, err
		}
		err = op(c, o)
		var refusal *roster.Error
		if err != nil && !errors.As(err, &refusal) {
			return nil, err
		}
		if err != nil { // what stands is on the page
			if o, tell, err = s.openRequest(c); err != nil || tell != nil {
				return tell, err
			}
			v := s.requestView(c, o)
			if c.Response().StatusCode() < fiber.StatusBadRequest {
				c.Status(fiber.StatusConflict)
			}
			return v, nil
		}
		path := "/r/" + c.Params("token")
		if lang := c.Query("lang"); lang != "" {
			path += "?lang=" + locale.Match(lang)
		}
		return nil, c.Redirect(path, fiber.StatusSeeOther)
	}
}

// POST /r/{token}/approve. Who calls: a person, by the button. Somebody else
// than the account's person who is logged in answers by the link alone.
func (s *Server) approveRequest(c *fiber.Ctx, o openedRequest) error {
	_, err := s.Roster.ApproveRequest(c.UserContext(), o.ticket, o.account(), roster.Visibility(c.FormValue("visibility")))
	return err
}

// POST /r/{token}/deny. Who calls: a person, by the button; no log-in.
func (s *Server) denyRequest(c *fiber.Ctx, o openedRequest) error {
	_, err := s.Roster.DenyRequest(c.UserContext(), o.ticket, false)
	return err
}

// POST /r/{token}/report. Who calls: a person whom the request is not about.
func (s *Server) reportRequest(c *fiber.Ctx, o openedRequest) error {
	_, err := s.Roster.DenyRequest(c.UserContext(), o.ticket, true)
	return err
}

// POST /r/{token}/revoke. Who calls: a person who wants access ended; no log-in.
func (s *Server) revokeRequest(c *fiber.Ctx, o openedRequest) error {
	_, err := s.Roster.RevokeRequest(c.UserContext(), o.ticket)
	return err
}

// POST /r/{token}/switch. Who calls: a person signed in as somebody else.
func (s *Server) switchForRequest(c *fiber.Ctx, o openedRequest) error {
	cookie := sessionCookie(o.App)
	if err := s.Roster.EndSession(c.UserContext(), c.Cookies(cookie)); err != nil {
		return err
	}
	s.setCookie(c, cookie, "", "/", time.Time{})
	return nil
}
