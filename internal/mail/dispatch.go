package mail

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/klauspost/compress/zstd"
	"github.com/riverqueue/river"

	"usher/internal/postgres"
)

const (
	// replayFor is how long after its first attempt a dispatch may be sent again
	// under its key. The provider forgets keys after 24 h.
	replayFor = 23 * time.Hour

	// The provider's two ways in.
	endpointOne   = "/emails"
	endpointBatch = "/emails/batch"

	// tagMessage is the tag that carries a message's id, by which the provider's
	// events find it.
	tagMessage = "message_id"

	// sendAttempts is practically without end: what bounds the replays of a
	// dispatch is replayFor, not their number.
	sendAttempts = 10_000
)

// SendDispatch is the job that sends a dispatch.
type SendDispatch struct {
	ID   uuid.UUID `json:"dispatch_id"`
	Lane Lane      `json:"lane"`
}

// Kind is the job's name in River.
func (SendDispatch) Kind() string { return "send_dispatch" }

// InsertOpts say where the job waits and how often it may be tried.
func (s SendDispatch) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: "mail_" + string(s.Lane), MaxAttempts: sendAttempts}
}

// Dispatch is one request to the provider, frozen: what is sent again after an
// unknown outcome is these bytes under this id, never a new rendering.
type Dispatch struct {
	ID             uuid.UUID // the Idempotency-Key
	Lane           Lane
	Endpoint       string
	MessageIDs     []uuid.UUID // in the body's order
	Body           []byte
	State          DispatchState
	Attempts       int // with this one
	Unknown        int // attempts whose outcome nobody knows, with this one
	FirstAttemptAt time.Time
}

// Stale tells whether the dispatch is too old for its key although nothing of
// it was ever sent: it is dissolved, and its mails get another one.
func (d Dispatch) Stale(now time.Time) bool {
	return d.Unknown == 1 && d.Attempts > 1 && now.Sub(d.FirstAttemptAt) >= replayFor
}

// DispatchState is where a dispatch stands.
type DispatchState string

// The states of a dispatch. The first two are open.
const (
	Ready             DispatchState = "ready"
	DispatchSending   DispatchState = "sending"
	Settled           DispatchState = "settled"
	Dissolved         DispatchState = "dissolved" // nothing was sent; its messages are written anew
	DispatchUncertain DispatchState = "uncertain"
)

// Begin opens an attempt to send a dispatch, whose outcome is unknown until it
// is recorded. ok is false where there is nothing to send: it is settled,
// dissolved, or may not be sent again, which makes it and its messages
// uncertain.
func (o *Outbox) Begin(ctx context.Context, id uuid.UUID) (d Dispatch, ok bool, err error) {
	now := o.now()
	err = postgres.Send(ctx, o.DB, func(batch *pgx.Batch) {
		batch.Queue(`
			WITH given_up AS (
				UPDATE dispatch SET state = 'uncertain', body = NULL, settled_at = $2
				WHERE id = $1 AND state = 'sending' AND unknown > 0 AND first_attempt_at <= $3
				RETURNING id
			)
			UPDATE message SET state = 'uncertain', reason = 'the provider may have forgotten its key', settled_at = $2
			FROM given_up WHERE message.dispatch_id = given_up.id AND message.state = 'sending'
				AND message.id = ANY((SELECT message_ids FROM dispatch WHERE id = $1)::uuid[])`, id, now, now.Add(-replayFor))
		batch.Queue(`
			UPDATE dispatch SET state = 'sending', attempts = attempts + 1, unknown = unknown + 1,
				first_attempt_at = COALESCE(first_attempt_at, $2), last_attempt_at = $2
			WHERE id = $1 AND state IN ('ready', 'sending')
			RETURNING id, lane, endpoint, message_ids, body, state, attempts, unknown, first_attempt_at`, id, now).Query(func(rows pgx.Rows) error {
			d, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Dispatch])
			ok = err == nil
			if errors.Is(err, pgx.ErrNoRows) {
				return nil
			}
			return err
		})
	})
	if err == nil && ok {
		d.Body, err = unpack(d.Body)
	}
	if err != nil {
		return d, false, fmt.Errorf("begin dispatch %s: %w", id, err)
	}
	return d, ok, nil
}

// Receipt is the provider's word on an accepted dispatch.
type Receipt struct {
	Items []Item  // one for each message, in the order of the body
	Rate  float64 // the provider's limit in requests a second; 0: it did not say
}

// Item is what became of one message: accepted under ProviderID, or refused.
type Item struct{ ProviderID, Refusal string }

// Settle records that the provider accepted a dispatch by the way named pace.
// The first word stands, and a state that a webhook brought already is never
// lowered.
func (o *Outbox) Settle(ctx context.Context, pace string, d Dispatch, r Receipt) error {
	n := len(r.Items)
	ids, states, reasons := make([]string, n), make([]string, n), make([]string, n)
	for i, item := range r.Items {
		ids[i], reasons[i], states[i] = item.ProviderID, item.Refusal, string(Accepted)
		if item.Refusal != "" {
			states[i] = string(Failed)
		}
	}
	err := postgres.Send(ctx, o.DB, func(batch *pgx.Batch) {
		batch.Queue(`
			UPDATE dispatch SET state = 'settled', unknown = 0, body = NULL, outcome = 'accepted', settled_at = $2
			WHERE id = $1 AND state IN ('sending', 'uncertain')`, d.ID, o.now())
		batch.Queue(`
			UPDATE message SET provider_id = q.provider_id, settled_at = $5,
				state = CASE WHEN message.state IN ('sending', 'uncertain') THEN q.state ELSE message.state END,
				reason = CASE WHEN message.state IN ('sending', 'uncertain') THEN q.reason ELSE message.reason END
			FROM unnest($1::uuid[], $2::text[], $3::text[], $4::text[]) AS q (id, provider_id, state, reason)
			WHERE message.id = q.id AND message.provider_id = ''`, d.MessageIDs, ids, states, reasons, o.now())
		queueFlows(batch, pace, r.Rate)
	})
	if err != nil {
		return fmt.Errorf("settle dispatch %s: %w", d.ID, err)
	}
	return nil
}

// Reopen records that the attempt ended without anything sent, or, with known
// false, in a way nobody knows. The dispatch is sent again as it is.
func (o *Outbox) Reopen(ctx context.Context, d Dispatch, known bool, outcome string) error {
	err := postgres.Send(ctx, o.DB, func(batch *pgx.Batch) {
		batch.Queue(`
			UPDATE dispatch SET unknown = unknown - $3::int, outcome = $4
			WHERE id = $1 AND state = 'sending' AND attempts >= $2`, d.ID, d.Attempts, oneIf(known), outcome)
	})
	if err != nil {
		return fmt.Errorf("reopen dispatch %s: %w", d.ID, err)
	}
	return nil
}

// Dissolve gives a dispatch of which nothing was sent back to the composer: its
// messages wait until due, held where there is a reason, and are checked and
// written anew. ok is false where somebody may have sent something.
func (o *Outbox) Dissolve(ctx context.Context, d Dispatch, reason string, due time.Time) (ok bool, err error) {
	state := Queued
	if reason != "" {
		state = Held
	}
	err = postgres.Send(ctx, o.DB, func(batch *pgx.Batch) {
		batch.Queue(`
			WITH dissolved AS (
				UPDATE dispatch SET state = 'dissolved', unknown = 0, body = NULL, outcome = $4, settled_at = $6
				WHERE id = $1 AND (state = 'ready' AND $2 = 0 OR state = 'sending' AND attempts = $2 AND (unknown = 1 OR $7))
				RETURNING message_ids
			), back AS (
				UPDATE message SET state = $3, reason = $4, due_at = $5
				FROM dissolved WHERE message.id = ANY(dissolved.message_ids) AND message.state = 'sending'
			)
			SELECT EXISTS (SELECT FROM dissolved)`, d.ID, d.Attempts, state, reason, due, o.now(), mutant == "unknown").QueryRow(func(row pgx.Row) error { return row.Scan(&ok) })
	})
	if err != nil {
		return false, fmt.Errorf("dissolve dispatch %s: %w", d.ID, err)
	}
	return ok, nil
}

// Refuse records that the provider refused the only mail of a dispatch for good.
// ok is false where an earlier attempt may have sent it.
func (o *Outbox) Refuse(ctx context.Context, d Dispatch, reason string) (ok bool, err error) {
	return o.end(ctx, d, Settled, Failed, reason)
}

// Doubt records that nobody can know what became of a dispatch and that it must
// not be sent again.
func (o *Outbox) Doubt(ctx context.Context, d Dispatch, reason string) error {
	_, err := o.end(ctx, d, DispatchUncertain, Uncertain, reason)
	return err
}

func (o *Outbox) end(ctx context.Context, d Dispatch, to DispatchState, messages State, reason string) (ok bool, err error) {
	err = postgres.Send(ctx, o.DB, func(batch *pgx.Batch) {
		batch.Queue(`
			WITH ended AS (
				UPDATE dispatch SET state = $3, unknown = CASE WHEN $3 = 'settled' THEN 0 ELSE unknown END,
					body = NULL, outcome = $5, settled_at = $6
				WHERE id = $1 AND state = 'sending' AND attempts = $2 AND (unknown = 1 OR $3 = 'uncertain')
				RETURNING message_ids
			), told AS (
				UPDATE message SET state = $4, reason = $5, settled_at = $6
				FROM ended WHERE message.id = ANY(ended.message_ids) AND message.state = 'sending'
			)
			SELECT EXISTS (SELECT FROM ended)`, d.ID, d.Attempts, to, messages, reason, o.now()).QueryRow(func(row pgx.Row) error { return row.Scan(&ok) })
	})
	if err != nil {
		return false, fmt.Errorf("end dispatch %s: %w", d.ID, err)
	}
	return ok, nil
}

// Split makes two dispatches of one that the provider refused as a whole
// because of some of its mails, and answers their ids. ok is false where an
// earlier attempt may have sent it.
func (o *Outbox) Split(ctx context.Context, d Dispatch, reason string) (parts []uuid.UUID, ok bool, err error) {
	var mails []json.RawMessage
	if err := json.Unmarshal(d.Body, &mails); err != nil {
		return nil, false, fmt.Errorf("split dispatch %s: %w", d.ID, err)
	}
	half := len(mails) / 2
	err = postgres.InTx(ctx, o.DB, func(tx pgx.Tx) error {
		gone, err := tx.Exec(ctx, `
			UPDATE dispatch SET state = 'dissolved', unknown = 0, body = NULL, outcome = $3, settled_at = $4
			WHERE id = $1 AND state = 'sending' AND attempts = $2 AND unknown = 1`, d.ID, d.Attempts, reason, o.now())
		if err != nil || gone.RowsAffected() == 0 {
			return err
		}
		ok = true
		batch := &pgx.Batch{}
		for _, part := range []struct {
			ids   []uuid.UUID
			mails []json.RawMessage
		}{{d.MessageIDs[:half], mails[:half]}, {d.MessageIDs[half:], mails[half:]}} {
			id := queueDispatch(batch, d.Lane, part.ids, joinMails(part.mails), o.now())
			batch.Queue(`UPDATE message SET dispatch_id = $2 WHERE id = ANY($1) AND state = 'sending'`, part.ids, id)
			parts = append(parts, id)
		}
		return tx.SendBatch(ctx, batch).Close()
	})
	if err != nil {
		return nil, false, fmt.Errorf("split dispatch %s: %w", d.ID, err)
	}
	return parts, ok, nil
}

// joinMails is the body of encoded mails: one, or an array of them.
func joinMails(mails []json.RawMessage) []byte {
	if len(mails) == 1 {
		return mails[0]
	}
	joined := []byte{'['}
	for i, m := range mails {
		if i > 0 {
			joined = append(joined, ',')
		}
		joined = append(joined, m...)
	}
	return append(joined, ']')
}

func oneIf(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

// Bodies are kept compressed: a hundred letters are much alike, and what is
// written to the disk is a twentieth.
var (
	packer, _   = zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithEncoderConcurrency(1))
	unpacker, _ = zstd.NewReader(nil, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxMemory(maxBody))
)

// maxBody is more than a dispatch's body can have: 100 letters, each of which
// is below maxHTML and has a text part beside.
const maxBody = 64 << 20

func pack(body []byte) []byte { return packer.EncodeAll(body, nil) }

func unpack(packed []byte) ([]byte, error) {
	body, err := unpacker.DecodeAll(packed, nil)
	if err != nil {
		return nil, fmt.Errorf("unpack body: %w", err)
	}
	return body, nil
}
