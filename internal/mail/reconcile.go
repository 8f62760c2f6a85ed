package mail

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"usher/internal/postgres"
)

// What reconciliation settles, and what it leaves to a person
//
// A mail that the provider lists with our message's id was sent: it is accepted.
// So is one without any tag that alone has our sender, recipient and subject,
// in the time of the attempts, if no other message of ours has them. A mail
// that is not listed stays uncertain, however long ago it was: the list may be
// another team's by now, or cut short, and to be wrong would mail somebody
// twice. It is noted that the list does not have it, for who settles it by hand.

const (
	// maxDoubts is how many uncertain messages one run looks for. Which ones is
	// left to chance, so that one that takes long does not keep others from it.
	maxDoubts = 20

	// maxPages bounds how much of the provider's list is read for one message.
	maxPages = 20

	// maxLookups bounds the mails of the list that are read one by one for one
	// message: those to its recipient with its subject, at its time.
	maxLookups = 5

	// lookFor is how long after its last attempt a message is looked for.
	lookFor = 7 * 24 * time.Hour

	// listPage is how many mails the provider lists at most at once.
	listPage = 100

	// listSkew is how far the provider's clock and ours may lie apart.
	listSkew = 5 * time.Minute
)

// ReconcileMail is the job that looks for uncertain mail in the provider's list.
type ReconcileMail struct{}

// Kind is the job's name in River.
func (ReconcileMail) Kind() string { return "reconcile_mail" }

// InsertOpts say where the job waits. It is not retried for long: the next tick
// does the same work.
func (ReconcileMail) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: "mail_bulk", MaxAttempts: 3}
}

// Doubt is an uncertain message, and where to look for it.
type Doubt struct {
	MessageID uuid.UUID
	Sender    string // these three as frozen
	Recipient string
	Subject   string
	From, To  time.Time // between its attempts, the first and the last
	Unique    bool      // no other message of ours has these three
}

// missed is the reason of a message that stays uncertain after the provider's
// list was read.
const missed = "the provider's list of mails does not have it"

// Doubts answers some uncertain messages that are worth looking for, and closes
// the dispatches that have none left.
func (o *Outbox) Doubts(ctx context.Context) (doubts []Doubt, err error) {
	now := o.now()
	err = postgres.Send(ctx, o.DB, func(batch *pgx.Batch) {
		batch.Queue(`
			UPDATE dispatch SET state = 'settled', settled_at = $1
			WHERE state = 'uncertain' AND NOT EXISTS (
				SELECT FROM message WHERE message.id = ANY(dispatch.message_ids) AND message.state = 'uncertain')`, now)
		batch.Queue(`
			SELECT message.id, message.sender, message.recipient, message.subject, dispatch.first_attempt_at, dispatch.last_attempt_at,
				NOT EXISTS (SELECT FROM app JOIN message AS other ON other.app_id = app.id AND other.email_key = message.email_key
					WHERE other.id <> message.id AND other.sender = message.sender AND other.recipient = message.recipient AND other.subject = message.subject)
			FROM message JOIN dispatch ON dispatch.id = message.dispatch_id
			WHERE `+isUncertain+` AND message.reason <> $1 AND dispatch.state = 'uncertain' AND dispatch.last_attempt_at > $2
			ORDER BY random() LIMIT $3`, missed, now.Add(-lookFor), maxDoubts).Query(func(rows pgx.Rows) error {
			doubts, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Doubt])
			return err
		})
	})
	if err != nil {
		return nil, fmt.Errorf("read uncertain messages: %w", err)
	}
	return doubts, nil
}

// SentAfter is the provider's id of a mail of ours that it took soon after a
// time; empty: none is known. Ids of dispatches grow with time.
func (o *Outbox) SentAfter(ctx context.Context, at time.Time) (providerID string, err error) {
	err = postgres.InTx(ctx, o.DB, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `
			SELECT message.provider_id
			FROM (SELECT message_ids FROM dispatch WHERE id > $1 ORDER BY id LIMIT $2) AS later
			JOIN message ON message.id = later.message_ids[1]
			WHERE message.provider_id <> '' LIMIT 1`, firstID(at), maxPages).Scan(&providerID)
	})
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return "", fmt.Errorf("read a mail sent after %s: %w", at, err)
	}
	return providerID, nil
}

// Found records that the provider has an uncertain message.
func (o *Outbox) Found(ctx context.Context, id uuid.UUID, providerID string) error {
	return o.conclude(ctx, id, Accepted, "", providerID)
}

// NotFound notes that the provider's list does not have an uncertain message.
func (o *Outbox) NotFound(ctx context.Context, id uuid.UUID) error {
	return o.conclude(ctx, id, Uncertain, missed, "")
}

func (o *Outbox) conclude(ctx context.Context, id uuid.UUID, state State, reason, providerID string) error {
	err := postgres.Send(ctx, o.DB, func(batch *pgx.Batch) {
		batch.Queue(`
			UPDATE message SET state = $2, reason = $3, provider_id = $4, settled_at = $5
			WHERE id = $1 AND state = 'uncertain'`, id, state, reason, providerID, o.now())
	})
	if err != nil {
		return fmt.Errorf("reconcile message %s: %w", id, err)
	}
	return nil
}

// Finding is what the provider's list says of a Doubt.
type Finding struct {
	ProviderID string // of the mail; empty: it was not found
	Certain    bool   // the list was read through the whole time of the attempts
}

// sentMail is a mail in the provider's list, or read by itself.
type sentMail struct {
	ID        string          `json:"id"`
	From      string          `json:"from"`
	To        []string        `json:"to"`
	Subject   string          `json:"subject"`
	CreatedAt sentTime        `json:"created_at"`
	Tags      json.RawMessage `json:"tags"` // the list leaves them out
}

// sentTime is a time as the provider writes it: RFC 3339, or with a blank in
// place of the T and a zone of hours only.
type sentTime struct{ time.Time }

// UnmarshalJSON reads both forms.
func (t *sentTime) UnmarshalJSON(raw []byte) error {
	var text string
	err := json.Unmarshal(raw, &text)
	if err != nil {
		return err
	}
	for _, layout := range []string{time.RFC3339, "2006-01-02 15:04:05Z07:00", "2006-01-02 15:04:05Z07"} {
		if t.Time, err = time.Parse(layout, text); err == nil {
			return nil
		}
	}
	return fmt.Errorf("read time %q of a mail", text)
}

// Find looks for a message in the provider's list, newest mails first, from the
// mail with the id before on. slot waits until another request may leave.
func (r *Resend) Find(ctx context.Context, d Doubt, before string, slot func(context.Context) error) (Finding, error) {
	candidates, whole, err := r.candidates(ctx, d, before, slot)
	if err != nil {
		return Finding{}, fmt.Errorf("find message %s: %w", d.MessageID, err)
	}
	if len(candidates) > maxLookups {
		candidates, whole = candidates[:maxLookups], false
	}
	var untagged []string
	for _, c := range candidates {
		if len(c.Tags) == 0 {
			if err := r.get(ctx, "emails/"+url.PathEscape(c.ID), &c, slot); err != nil {
				return Finding{}, fmt.Errorf("find message %s: %w", d.MessageID, err)
			}
		}
		switch messageTag(c.Tags) {
		case d.MessageID:
			return Finding{c.ID, true}, nil
		case uuid.Nil:
			untagged = append(untagged, c.ID)
		}
	}
	switch {
	case len(untagged) == 0:
		return Finding{Certain: whole}, nil
	case whole && len(untagged) == 1 && d.Unique:
		return Finding{untagged[0], true}, nil
	}
	return Finding{}, nil // one of them may be it
}

// candidates are the listed mails that may be the message. whole is false where
// the list could not be read through the whole time of the attempts.
func (r *Resend) candidates(ctx context.Context, d Doubt, before string, slot func(context.Context) error) (found []sentMail, whole bool, err error) {
	from, to := d.From.Add(-listSkew), d.To.Add(listSkew)
	for range maxPages {
		var page struct {
			More bool       `json:"has_more"`
			Data []sentMail `json:"data"`
		}
		query := url.Values{"limit": {strconv.Itoa(listPage)}}
		if before != "" {
			query.Set("after", before) // further down the list
		}
		if err := r.get(ctx, "emails?"+query.Encode(), &page, slot); err != nil {
			return nil, false, err
		}
		for _, m := range page.Data {
			if m.CreatedAt.Before(from) {
				return found, true, nil
			}
			if !m.CreatedAt.After(to) && len(m.To) == 1 && strings.EqualFold(m.To[0], d.Recipient) && m.Subject == d.Subject && m.From == d.Sender {
				found = append(found, m)
			}
		}
		if !page.More || len(page.Data) == 0 {
			break // the list may have begun later than the attempts
		}
		before = page.Data[len(page.Data)-1].ID
	}
	return found, false, nil
}

// get reads an answer of the provider. Its error is a *SendError where the
// provider refused.
func (r *Resend) get(ctx context.Context, path string, into any, slot func(context.Context) error) error {
	if err := slot(ctx); err != nil {
		return err
	}
	var reply reply
	req, err := r.client.NewRequest(context.WithValue(ctx, replyKey{}, &reply), http.MethodGet, path, nil)
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	_, err = r.client.Perform(req, into) //nolint:bodyclose // the library closes it
	if reply.status >= 300 {
		return reply.sendError(r.now())
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}
