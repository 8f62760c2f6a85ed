// Package mail writes messages, keeps them, and hands each to whoever delivers
// it, once in effect.
package mail

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

// State is where a message stands.
type State string

// The states of a message.
const (
	Sending   State = "sending"   // frozen; the provider may or may not have it
	Accepted  State = "accepted"  // the provider has it
	Failed    State = "failed"    // the provider refused it for good
	Uncertain State = "uncertain" // nobody knows, and trying again could send it twice
)

// replayFor is how long after its first attempt a message may be tried again
// under its key. The provider forgets keys after 24 h.
const replayFor = 23 * time.Hour

// Message is one e-mail, frozen: what is sent again after an unknown outcome
// is this, under this id, never a new rendering.
type Message struct {
	ID             uuid.UUID // also the Idempotency-Key at the provider
	AppID          uuid.UUID
	DedupeKey      string
	SubjectID      uuid.UUID // what it is about
	Sender         string    // "Name <address>"
	Recipient      string
	Subject        string
	Text           string
	HTML           string
	State          State
	ProviderID     string
	Error          string
	FirstAttemptAt *time.Time
	Attempts       int
	CreatedAt      time.Time
	SettledAt      *time.Time
}

// Draft is a message before it is frozen.
type Draft struct {
	AppID     uuid.UUID
	DedupeKey string // at most one message ever has it
	SubjectID uuid.UUID
	Sender    string
	Recipient string
	Content
}

// Outbox keeps the messages.
type Outbox struct {
	DB  postgres.DB
	Now func() time.Time
}

// In is the same Outbox inside tx, which an error has to end.
func (o *Outbox) In(tx pgx.Tx) *Outbox { return &Outbox{DB: postgres.Join(tx), Now: o.Now} }

const messageColumns = `id, app_id, dedupe_key, subject_id, sender, recipient, subject, text, html, state, provider_id, error,
	first_attempt_at, attempts, created_at, settled_at`

// Freeze stores the draft and opens an attempt to send it. Where its dedupe key
// has a message already, that one comes back unchanged, whatever the draft says
// now: Sending if it may be tried again under its id, otherwise settled.
func (o *Outbox) Freeze(ctx context.Context, d Draft) (m Message, err error) {
	now := o.Now().UTC()
	err = postgres.InTx(ctx, o.DB, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			INSERT INTO message (id, app_id, dedupe_key, subject_id, sender, recipient, subject, text, html, state, first_attempt_at, attempts, created_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, 'sending', $10, 1, $10)
			ON CONFLICT (dedupe_key) DO UPDATE SET
				attempts = message.attempts + CASE WHEN message.state = 'sending' AND message.first_attempt_at > $11 THEN 1 ELSE 0 END,
				state = CASE WHEN message.state = 'sending' AND message.first_attempt_at <= $11 THEN 'uncertain' ELSE message.state END,
				error = CASE WHEN message.state = 'sending' AND message.first_attempt_at <= $11 THEN 'given up: the provider may have forgotten its id' ELSE message.error END,
				settled_at = CASE WHEN message.state = 'sending' AND message.first_attempt_at <= $11 THEN $10 ELSE message.settled_at END
			RETURNING `+messageColumns,
			uuid.Must(uuid.NewV7()), d.AppID, d.DedupeKey, d.SubjectID, d.Sender, d.Recipient, d.Subject, d.Text, d.HTML,
			now, now.Add(-replayFor))
		if err != nil {
			return err
		}
		m, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Message])
		return err
	})
	if err != nil {
		return m, fmt.Errorf("freeze message %s: %w", d.DedupeKey, err)
	}
	return m, nil
}

// Settle notes what became of a message. The first word stands: a message that
// was settled before stays as it is.
func (o *Outbox) Settle(ctx context.Context, id uuid.UUID, to State, providerID, reason string) error {
	return postgres.InTx(ctx, o.DB, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `
			UPDATE message SET state = $2, provider_id = $3, error = $4, settled_at = $5
			WHERE id = $1 AND state = 'sending'`, id, to, providerID, reason, o.Now().UTC()); err != nil {
			return fmt.Errorf("settle message %s: %w", id, err)
		}
		return nil
	})
}

// Abandon gives up a message whose subject moved on: if an attempt was made and
// its outcome is unknown, it stays unknown.
func (o *Outbox) Abandon(ctx context.Context, dedupeKey string) error {
	return postgres.InTx(ctx, o.DB, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `
			UPDATE message SET state = 'uncertain', error = 'given up: its subject moved on', settled_at = $2
			WHERE dedupe_key = $1 AND state = 'sending'`, dedupeKey, o.Now().UTC()); err != nil {
			return fmt.Errorf("abandon message %s: %w", dedupeKey, err)
		}
		return nil
	})
}

// Sender hands one message to whoever delivers it and answers the provider's
// id. An error is a *SendError where the outcome is known; any other means
// that it is not, and the same message has to be sent again.
type Sender interface {
	Send(ctx context.Context, m Message) (providerID string, err error)
}

// Outcome is what is known after a failed Send.
type Outcome int

// The known outcomes of a failed Send.
const (
	Refused   Outcome = iota + 1 // not sent, and never will be
	Later                        // not sent; the same again after a while
	Contested                    // the id was used for other content: never send it again
)

// SendError is a failed Send with a known outcome.
type SendError struct {
	Outcome Outcome
	After   time.Duration // how long to wait, for Later
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
