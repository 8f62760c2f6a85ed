package web

import (
	"context"
	"time"

	"github.com/gofiber/fiber/v2"

	"usher/internal/roster"
)

// unsubscribeView is /u/{token}. Its forms POST nothing to /u/{token} (stop
// reminders), /u/{token}/all (stop all mail) and /u/{token}/resume.
type unsubscribeView struct {
	frame
	Token  string
	Wanted roster.Wanted // empty: the link leads nowhere, and nothing else is shown
	Email  string        // masked
	Final  bool          // nothing can be resumed
}

func (unsubscribeView) template() string { return "person/unsubscribe.html" }

// Tone picks the icon and its colour.
func (v unsubscribeView) Tone() string {
	switch v.Wanted {
	case roster.WantsAll:
		return "sent"
	case roster.WantsNoReminders, roster.WantsNone:
		return "closed"
	}
	return "link"
}

// GET /u/{token}. Who calls: a person, a mail scanner. It changes nothing.
func (s *Server) unsubscribePage(c *fiber.Ctx) (view, error) {
	return s.subscription(c, s.Roster.Subscription)
}

// POST /u/{token}. Who calls: a person, by the button; a mail program, for its
// reader's click on its own (RFC 8058), without cookies and from wherever it is.
// Another site's form could send it too, with a token it cannot have, and all
// it would do is stop reminders.
func (s *Server) stopReminders(c *fiber.Ctx) (view, error) {
	return s.subscription(c, s.Roster.StopReminders)
}

// POST /u/{token}/all. Who calls: a person, by the button.
func (s *Server) stopMail(c *fiber.Ctx) (view, error) {
	return s.subscription(c, s.Roster.StopMail)
}

// POST /u/{token}/resume. Who calls: a person who changed their mind. Stopping
// is never refused; going back and forth is bounded, since each time is recorded.
func (s *Server) resumeMail(c *fiber.Ctx) (view, error) {
	if !s.resumeTries.take(time.Now()) {
		c.Status(fiber.StatusTooManyRequests)
		return messageView{frame: s.frame(c, Brand{}), Kind: messageTooManyTries, RetryAfter: triesTime}, nil
	}
	return s.subscription(c, s.Roster.ResumeMail)
}

// subscription does one operation with the ticket in the address and shows what
// holds then. It never redirects: mail programs do not follow (RFC 8058 3.1).
func (s *Server) subscription(c *fiber.Ctx, do func(context.Context, roster.Ticket) (roster.Subscription, error)) (view, error) {
	s.rememberLanguage(c)
	token := c.Params("token")
	v := unsubscribeView{frame: s.frame(c, Brand{}), Token: token}
	v.Path = "/u/" + token
	ticket, err := s.Keys.Open(roster.PurposeUnsubscribe, token)
	if err != nil {
		c.Status(fiber.StatusNotFound)
		return v, nil
	}
	sub, err := do(c.UserContext(), ticket)
	if err != nil {
		if roster.CodeOf(err) == "link_dead" {
			c.Status(fiber.StatusNotFound)
			return v, nil
		}
		return nil, err
	}
	s.preferLanguage(c, sub.Locale)
	v.Brand, v.Email, v.Wanted, v.Final = appBrand(sub.App), sub.Email, sub.Wanted, sub.Final
	return v, nil
}
