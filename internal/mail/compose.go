package mail

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/resend/resend-go/v2"

	"usher/internal/postgres"
)

const (
	// maxBatch is the most mails the provider takes in one request.
	maxBatch = 100

	// maxOpen bounds a lane's dispatches that were not answered, those that are
	// tried again and again included. While the provider is away no more than
	// these are frozen; the rest is still checked when its turn comes.
	maxOpen = 40

	// underWay is how long a dispatch that was not answered counts as on its way:
	// longer than a request may take. What a killed process left does not keep
	// others from being written.
	underWay = sendTimeout + 5*time.Second
)

// window is how many dispatches of a lane are on their way for the first time.
// Two keep the provider busy and let what a person waits for gather while they
// are answered; bulk mail comes in thousands and has room for more.
func (l Lane) window() int {
	if l == interactive {
		return 2
	}
	return 8
}

// Take queues what claims, for the rest of the transaction, up to maxBatch
// messages of the lane that are due. None are taken while the way named pace is
// blocked or enough dispatches are open.
func (o *Outbox) Take(batch *pgx.Batch, pace string, lane Lane, taken *[]Message) {
	now := o.now()
	batch.Queue(`
			SELECT id, app_id, kind, subject_id, purpose, args, lane, email_key
			FROM message
			WHERE lane = $1 AND due_at <= $2
				AND (SELECT count(*) FILTER (WHERE attempts <= 1 AND created_at > $7) < $3 AND count(*) < $4
					FROM dispatch WHERE lane = $1 AND state IN ('ready', 'sending'))
				AND (SELECT blocked_until <= clock_timestamp() FROM pace WHERE id = $5)
			ORDER BY due_at, id LIMIT $6 FOR UPDATE SKIP LOCKED`,
		lane, now, lane.window(), maxOpen, pace, maxBatch, now.Add(-underWay)).Query(func(rows pgx.Rows) (err error) {
		*taken, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Message])
		return err
	})
}

// Due tells whether something of the lane waits to be taken now, as far as can
// be told without taking it.
func (o *Outbox) Due(ctx context.Context, lane Lane) (due bool, err error) {
	err = postgres.Send(ctx, o.DB, func(batch *pgx.Batch) {
		batch.Queue(`SELECT EXISTS (SELECT FROM message WHERE lane = $1 AND due_at <= $2)`, lane, o.now()).QueryRow(func(row pgx.Row) error {
			return row.Scan(&due)
		})
	})
	if err != nil {
		return false, fmt.Errorf("look for mail of the lane %s: %w", lane, err)
	}
	return due, nil
}

// Full tells whether Take left messages behind that it would have taken.
func Full(taken []Message) bool { return len(taken) == maxBatch }

// Freeze makes the drafts one dispatch and answers its id. What is sent from
// here on is these bytes.
func (o *Outbox) Freeze(ctx context.Context, lane Lane, drafts []Draft) (uuid.UUID, error) {
	ids := make([]uuid.UUID, len(drafts))
	emails := make([]*resend.SendEmailRequest, len(drafts))
	for i, d := range drafts {
		ids[i], emails[i] = d.ID, d.email()
	}
	body, err := encode(emails)
	if err != nil {
		return uuid.Nil, fmt.Errorf("freeze %d messages: %w", len(drafts), err)
	}
	var id uuid.UUID
	err = postgres.InTx(ctx, o.DB, func(tx pgx.Tx) error {
		n := len(drafts)
		keys, senders, recipients, subjects := make([]string, n), make([]string, n), make([]string, n), make([]string, n)
		for i, d := range drafts {
			keys[i], senders[i], recipients[i], subjects[i] = d.EmailKey, d.Sender, d.Recipient, d.Subject
		}
		batch := &pgx.Batch{}
		id = queueDispatch(batch, lane, ids, body, o.now())
		batch.Queue(`
			UPDATE message SET state = 'sending', reason = '', due_at = NULL, dispatch_id = $1,
				email_key = q.email_key, sender = q.sender, recipient = q.recipient, subject = q.subject
			FROM unnest($2::uuid[], $3::text[], $4::text[], $5::text[], $6::text[]) AS q (id, email_key, sender, recipient, subject)
			WHERE message.id = q.id`, id, ids, keys, senders, recipients, subjects)
		return tx.SendBatch(ctx, batch).Close()
	})
	if err != nil {
		return uuid.Nil, fmt.Errorf("freeze %d messages: %w", len(drafts), err)
	}
	return id, nil
}

// queueDispatch stores a new dispatch.
func queueDispatch(batch *pgx.Batch, lane Lane, messages []uuid.UUID, body []byte, now time.Time) uuid.UUID {
	id := uuid.Must(uuid.NewV7())
	endpoint := endpointBatch
	if len(messages) == 1 {
		endpoint = endpointOne
	}
	batch.Queue(`
		INSERT INTO dispatch (id, lane, endpoint, message_ids, body, state, created_at)
		VALUES ($1, $2, $3, $4, $5, 'ready', $6)`, id, lane, endpoint, messages, pack(body), now)
	return id
}

// email is the draft as the provider takes it.
func (d Draft) email() *resend.SendEmailRequest {
	return &resend.SendEmailRequest{
		From: d.Sender, To: []string{d.Recipient}, Subject: d.Subject, Text: d.Text, Html: d.HTML,
		Headers: d.Headers,
		Tags:    []resend.Tag{{Name: tagMessage, Value: d.ID.String()}},
	}
}

// encode is the body of a request: one mail, or an array of them.
func encode(emails []*resend.SendEmailRequest) ([]byte, error) {
	var body bytes.Buffer
	encoder := json.NewEncoder(&body)
	encoder.SetEscapeHTML(false) // the letters are HTML: escaped they are a third longer
	var err error
	if len(emails) == 1 {
		err = encoder.Encode(emails[0])
	} else {
		err = encoder.Encode(emails)
	}
	return body.Bytes(), err
}

// Drop is why a message that was taken is not sent now.
type Drop struct {
	ID     uuid.UUID
	State  State // Cancelled, Suppressed, Failed or Held
	Reason string
	Due    time.Time // for Held: when to look again
}

// Drop ends or puts off messages that were taken.
func (o *Outbox) Drop(ctx context.Context, drops []Drop) error {
	if len(drops) == 0 {
		return nil
	}
	n := len(drops)
	ids, states, reasons, dues := make([]uuid.UUID, n), make([]string, n), make([]string, n), make([]*time.Time, n)
	for i, d := range drops {
		ids[i], states[i], reasons[i] = d.ID, string(d.State), d.Reason
		if d.State == Held {
			dues[i] = &d.Due
		}
	}
	err := postgres.InTx(ctx, o.DB, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			UPDATE message SET state = q.state, reason = q.reason, due_at = q.due_at,
				settled_at = CASE WHEN q.due_at IS NULL THEN $5::timestamptz END
			FROM unnest($1::uuid[], $2::text[], $3::text[], $4::timestamptz[]) AS q (id, state, reason, due_at)
			WHERE message.id = q.id AND message.due_at IS NOT NULL`, ids, states, reasons, dues, o.now())
		return err
	})
	if err != nil {
		return fmt.Errorf("drop %d messages: %w", n, err)
	}
	return nil
}
