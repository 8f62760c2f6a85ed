package mail

import (
	"context"
	"errors"
	"time"
)

// Sender hands dispatches to whoever delivers them.
type Sender interface {
	// Name is the row of the limiter that its requests keep.
	Name() string

	// Send posts a dispatch. An error is a *SendError where the outcome is
	// known; any other means that it is not, and the same dispatch has to be
	// sent again.
	Send(ctx context.Context, d Dispatch) (Receipt, error)
}

// Outcome is what is known after a failed Send.
type Outcome int

// The known outcomes of a failed Send.
const (
	Refused       Outcome = iota + 1 // not sent: the provider objects to one of the mails, for good
	SenderRefused                    // not sent: the provider objects to a sender's domain
	Throttled                        // not sent: too many requests; the same again after a while
	Stopped                          // not sent, and nothing else will be until something is mended
	InFlight                         // the same request is at work already; ask again
	Contested                        // the key was used for other bytes: never send it again
)

// SendError is a failed Send with a known outcome.
type SendError struct {
	Outcome Outcome
	After   time.Duration // how long to wait, for Throttled, Stopped and InFlight
	Reason  string        // for the operator: "422 validation_error: …"
}

func (e *SendError) Error() string { return e.Reason }

// AsSendError is err as a SendError, nil where the outcome is unknown.
func AsSendError(err error) *SendError {
	var e *SendError
	if errors.As(err, &e) {
		return e
	}
	return nil
}
