package mail

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

const (
	// paceShare is how much of the provider's limit is used: requests leave
	// evenly, but the network does not keep them so.
	paceShare = 0.95

	// maxAhead is how far ahead interactive mail may book its slot. Bulk mail
	// books only the next one, so that what is asked for after it goes first.
	maxAhead = 5 * time.Second

	// maxWait is how long a job waits for its slot before it gives its worker
	// back and comes again.
	maxWait = 10 * time.Second
)

// TooFar says that there is no slot within reach.
type TooFar struct{ After time.Duration }

func (e *TooFar) Error() string { return fmt.Sprintf("the next slot is %s away", e.After) }

// Pace books the next slot of the way named pace and waits for it. Every
// process books from the same row, by one statement that is a transaction of
// its own: together they keep the provider's limit. The clock is the
// database's, since the machines' own may differ.
func (o *Outbox) Pace(ctx context.Context, pace string, lane Lane) error {
	for end := time.Now().Add(maxWait); ; {
		booked, wait, err := o.book(ctx, pace, lane)
		if err != nil {
			return fmt.Errorf("book a slot of %s: %w", pace, err)
		}
		if !booked && time.Now().Add(wait).After(end) {
			return &TooFar{wait}
		}
		if wait > 0 {
			timer := time.NewTimer(wait)
			select {
			case <-timer.C:
			case <-ctx.Done():
				timer.Stop()
				return ctx.Err()
			}
		}
		if booked {
			return nil
		}
	}
}

// book tries to book a slot. wait is how long until it, or until it is worth
// another try.
func (o *Outbox) book(ctx context.Context, pace string, lane Lane) (booked bool, wait time.Duration, err error) {
	ahead := time.Duration(0)
	if lane == interactive {
		ahead = maxAhead
	}
	var seconds float64
	err = postgres.Send(ctx, o.DB, func(batch *pgx.Batch) {
		batch.Queue(`
			WITH booked AS (
				UPDATE pace SET tat = GREATEST(tat, clock_timestamp(), blocked_until) + make_interval(secs => 1 / (rate * $2::float8))
				WHERE id = $1 AND GREATEST(tat, blocked_until) <= clock_timestamp() + make_interval(secs => $3::float8 + 1 / (rate * $2::float8))
				RETURNING tat - make_interval(secs => 1 / (rate * $2::float8)) AS slot
			)
			SELECT booked.slot IS NOT NULL,
				extract(epoch FROM COALESCE(booked.slot, GREATEST(pace.tat, pace.blocked_until)) - clock_timestamp())::float8
			FROM pace LEFT JOIN booked ON true WHERE pace.id = $1`,
			pace, paceShare, ahead.Seconds()).QueryRow(func(row pgx.Row) error { return row.Scan(&booked, &seconds) })
	})
	return booked, max(0, time.Duration(seconds*float64(time.Second))), err
}

// Block lets nothing leave by the way named pace for a while; a longer block
// stands. rate is the limit that the refusal named; 0: none.
func (o *Outbox) Block(ctx context.Context, pace string, d time.Duration, reason string, rate float64) error {
	err := postgres.Send(ctx, o.DB, func(batch *pgx.Batch) {
		batch.Queue(`
			UPDATE pace SET blocked_until = GREATEST(blocked_until, clock_timestamp() + make_interval(secs => $2)),
				blocked_since = COALESCE(blocked_since, clock_timestamp()), blocked_reason = $3, rate = COALESCE(NULLIF($4::float8, 0), rate)
			WHERE id = $1`, pace, d.Seconds(), reason, rate)
	})
	if err != nil {
		return fmt.Errorf("block %s: %w", pace, err)
	}
	return nil
}

// queueFlows notes what an accepted request shows: the way named pace is open,
// unless another request was told otherwise meanwhile, and what its limit is; 0
// where the answer did not say.
func queueFlows(batch *pgx.Batch, pace string, rate float64) {
	batch.Queue(`
		UPDATE pace SET rate = COALESCE(NULLIF($2::float8, 0), rate),
			blocked_since = CASE WHEN blocked_until > clock_timestamp() THEN blocked_since END,
			blocked_reason = CASE WHEN blocked_until > clock_timestamp() THEN blocked_reason ELSE '' END
		WHERE id = $1 AND (rate <> COALESCE(NULLIF($2::float8, 0), rate) OR blocked_since IS NOT NULL AND blocked_until <= clock_timestamp())`, pace, rate)
}
