package web

import (
	"errors"
	"net/http"

	"github.com/gofiber/fiber/v2"

	"usher/internal/mail"
)

// POST /hooks/resend. Who calls: the mail provider, with what became of mail.
// It sends an event again until it is answered 2xx, so one that was stored
// before, and one about mail of somebody else, are answered like any other.
func (s *Server) resendHook(c *fiber.Ctx) error {
	reception, err := s.Hook.Receive(c.UserContext(), func(name string) string { return c.Get(name) }, c.BodyRaw())
	switch {
	case errors.Is(err, mail.ErrUnsigned):
		return newProblem(http.StatusUnauthorized, "signature_invalid",
			"The signature does not fit, or its time is more than five minutes from ours. Compare RESEND_WEBHOOK_SECRET with the webhook's signing secret at the provider.")
	case errors.Is(err, mail.ErrUnreadable):
		return newProblem(http.StatusBadRequest, "event_unreadable", "The body is not an event: a JSON object with a type.")
	case err != nil:
		return err
	}
	return c.JSON(fiber.Map{"event": reception})
}

// noResendHook answers where nobody told us the secret: the provider keeps the
// event and sends it again.
func (s *Server) noResendHook(*fiber.Ctx) error {
	return newProblem(http.StatusServiceUnavailable, "webhook_not_configured", "RESEND_WEBHOOK_SECRET is not set, so that no event can be believed.")
}
