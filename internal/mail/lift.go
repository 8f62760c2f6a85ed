package mail

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
)

// Lifter is a Sender whose provider keeps a list of addresses it sends nothing
// to.
type Lifter interface {
	// Lift takes an address off the list. One that is not on it is fine.
	Lift(ctx context.Context, email string) error
}

// Lift takes an address off the provider's list of suppressed ones.
func (r *Resend) Lift(ctx context.Context, email string) error {
	var reply reply
	req, err := r.client.NewRequest(context.WithValue(ctx, replyKey{}, &reply), http.MethodDelete, "suppressions/"+url.PathEscape(email), nil)
	if err != nil {
		return fmt.Errorf("lift suppression: %w", err)
	}
	if _, err := r.client.Perform(req, nil); err != nil && reply.status != http.StatusNotFound { //nolint:bodyclose // the library closes it
		var failed *url.Error
		if errors.As(err, &failed) {
			err = failed.Err // without the address, which stands in the URL: a job keeps its errors
		}
		return fmt.Errorf("lift suppression: %w", err)
	}
	return nil
}
