package mail

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

// maxCounted bounds what is counted of waiting mail, so that a look at a full
// outbox costs no more than one at an empty one.
const maxCounted = 10_000

// Way is how mail leaves: what the limiter knows.
type Way struct {
	Name         string  // the Sender's
	Rate         float64 // requests a second, as the provider announced
	BlockedUntil time.Time
	BlockedSince *time.Time // nil: mail flows
	Reason       string     // why it is blocked
}

// Blocked tells whether nothing leaves at the moment.
func (w Way) Blocked(now time.Time) bool { return w.BlockedUntil.After(now) }

func (w Way) blocked() string {
	return "Nothing leaves before " + clock(w.BlockedUntil) + ": " + w.Reason + "."
}

// Health is how the mail fares.
type Health struct {
	Way
	LastEventAt *time.Time // when the provider last told us something; nil: never
	Uncertain   int        // messages whose outcome nobody knows
	Lanes       []LaneHealth
}

// LaneHealth is how the mail of one lane fares. Counts end at maxCounted.
type LaneHealth struct {
	Lane          Lane       `json:"lane"`
	Queued        int        `json:"queued"`
	Held          int        `json:"held"`
	More          bool       `json:"more"`                        // there are more than were counted
	WaitsSince    *time.Time `json:"waits_since,omitempty"`       // since when the first in line could be written; nil: nobody waits
	Open          int        `json:"open_dispatches"`             // requests that were written and not answered
	OldestAttempt *time.Time `json:"oldest_attempt_at,omitempty"` // the first attempt of the oldest of them
}

// Health tells how mail fares. The uncertain ones are those of app, and of all
// apps for uuid.Nil; the lanes are everybody's, and read for uuid.Nil only:
// they tell of other apps' trade.
func (o *Outbox) Health(ctx context.Context, app uuid.UUID) (h Health, err error) {
	now := o.now()
	err = postgres.Send(ctx, o.DB, func(batch *pgx.Batch) {
		// Mail leaves by the way that booked a slot last; the provider's, if none did.
		batch.Queue(`
			SELECT id, rate, blocked_until, blocked_since, blocked_reason FROM pace ORDER BY tat DESC, blocked_until DESC, id DESC LIMIT 1`).Query(func(rows pgx.Rows) error {
			h.Way, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Way])
			return err
		})
		batch.Queue(`SELECT max(received_at) FROM provider_event`).QueryRow(func(row pgx.Row) error { return row.Scan(&h.LastEventAt) })
		batch.Queue(`SELECT count(*) FROM message WHERE `+isUncertain+` AND ($1 = '00000000-0000-0000-0000-000000000000'::uuid OR app_id = $1)`, app).
			QueryRow(func(row pgx.Row) error { return row.Scan(&h.Uncertain) })
		if app != uuid.Nil {
			return
		}
		batch.Queue(`
			SELECT q.lane, waiting.queued, waiting.held, waiting.n > $1, first.due_at, open.n, open.oldest
			FROM unnest(ARRAY['interactive', 'bulk']) AS q (lane)
			CROSS JOIN LATERAL (
				SELECT count(*) AS n, count(*) FILTER (WHERE state = 'queued') AS queued, count(*) FILTER (WHERE state = 'held') AS held
				FROM (SELECT state FROM message WHERE message.lane = q.lane AND due_at IS NOT NULL ORDER BY due_at, id LIMIT $1 + 1) AS front
			) AS waiting
			LEFT JOIN LATERAL (
				SELECT due_at FROM message WHERE message.lane = q.lane AND due_at <= $2 ORDER BY due_at, id LIMIT 1
			) AS first ON true
			CROSS JOIN LATERAL (
				SELECT count(*) AS n, min(first_attempt_at) AS oldest FROM dispatch WHERE dispatch.lane = q.lane AND state IN ('ready', 'sending')
			) AS open`, maxCounted, now).Query(func(rows pgx.Rows) error {
			h.Lanes, err = pgx.CollectRows(rows, pgx.RowToStructByPos[LaneHealth])
			return err
		})
	})
	if err != nil {
		return h, fmt.Errorf("read how mail fares: %w", err)
	}
	return h, nil
}
