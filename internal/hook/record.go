package hook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

// retries are the waits after each failed attempt of a delivery; after the one
// that follows the last it is given up: three days.
var retries = []time.Duration{
	5 * time.Second, time.Minute, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour,
	10 * time.Hour, 10 * time.Hour, 10 * time.Hour, 10 * time.Hour, 10 * time.Hour, 10 * time.Hour, 4 * time.Hour,
}

const (
	// jitter is the share by which a wait may be longer, so that what failed
	// together does not come back together.
	jitter = 0.2

	// openAfter is how many attempts at an endpoint fail in a row before it is
	// left alone for a while, and then tried with one. The first rest is
	// firstPause; each further failure doubles it, up to longestPause.
	openAfter    = 10
	firstPause   = 10 * time.Second
	longestPause = 10 * time.Minute

	// disableAfter is how long an endpoint may take nothing before it is
	// disabled: as long as one delivery is tried.
	disableAfter = 72 * time.Hour

	// keptAttempts bounds a delivery's log.
	keptAttempts = 20

	// clockSkew is how far the clocks of two machines may differ without a
	// delivery having to wait for the next look.
	clockSkew = time.Second

	// cancelBatch is how many deliveries of a deleted endpoint are cancelled at
	// a time.
	cancelBatch = 2_000
)

// claim is a delivery that this process is to send.
type claim struct {
	event
	attempts int // which claim it is: the outcome of an older one does not count
	tries    int
}

// wait is how long a delivery rests after its tries have failed; ok is false
// where it is given up.
func wait(tries int) (d time.Duration, ok bool) {
	if tries > len(retries) {
		return 0, false
	}
	d = retries[max(tries, 1)-1]
	return d + time.Duration(rand.Float64()*jitter*float64(d)), true
}

// pause is how long an endpoint is left alone after so many failures in a row.
func pause(failures int) time.Duration {
	if failures < openAfter {
		return 0
	}
	return min(firstPause<<min(failures-openAfter, 10), longestPause)
}

// target is an endpoint as far as sending needs it.
type target struct {
	AppID          uuid.UUID
	URL            string
	State          string
	SecretVersion  int
	SecretKey      []byte
	OldSecretKey   []byte
	OldSecretUntil *time.Time
	Failures       int
	FailingSince   *time.Time
	PausedUntil    *time.Time
}

const targetColumns = `app_id, url, state, secret_version, secret_key, old_secret_key, old_secret_until, failures, failing_since, paused_until`

// open tells whether webhooks may be sent to it now.
func (t target) open(now time.Time) bool {
	return t.State == "enabled" && (t.PausedUntil == nil || !t.PausedUntil.After(now))
}

// keys are what its webhooks are signed with: the secret's, and that of the one
// before while it still holds.
func (t target) keys(key func([]byte, uuid.UUID, int) ([]byte, error), endpoint uuid.UUID, now time.Time) ([][]byte, error) {
	current, err := key(t.SecretKey, endpoint, t.SecretVersion)
	if err != nil {
		return nil, fmt.Errorf("make secret of endpoint %s: %w", endpoint, err)
	}
	keys := [][]byte{current}
	if t.OldSecretUntil != nil && t.OldSecretUntil.After(now) {
		// Should that key be gone, the new one is all there is to sign with.
		if old, err := key(t.OldSecretKey, endpoint, t.SecretVersion-1); err == nil {
			keys = append(keys, old)
		}
	}
	return keys, nil
}

// exchange records what is done, reads the endpoint anew and claims up to n due
// deliveries, in one transaction.
func (r *run) exchange(ctx context.Context, n int) (claims []claim, err error) {
	now, done := r.now(), r.done
	tell := func(batch *pgx.Batch) {
		r.queueOutcomes(batch, done, now)
		r.queueHealth(batch, done, now)
		r.queueClaim(batch, n, now, &claims)
	}
	healthy := true
	for _, o := range done {
		healthy = healthy && (o.unsent || o.ok())
	}
	if healthy {
		err = postgres.Send(ctx, r.DB, tell)
	} else {
		err = postgres.InTxAfter(ctx, r.DB, tell, func(tx pgx.Tx) error { return r.judge(ctx, tx, done, now) })
	}
	if errors.Is(err, pgx.ErrNoRows) { // no such endpoint any more
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("exchange with endpoint %s's deliveries: %w", r.endpoint, err)
	}
	r.done = nil
	return claims, nil
}

// queueOutcomes records attempts whose claim is still the newest. Rows are found
// by ANY: however many of the endpoint's there are, and whatever the planner
// thinks that is, only these are read.
func (r *run) queueOutcomes(batch *pgx.Batch, done []outcome, now time.Time) {
	n := len(done)
	if n == 0 {
		return
	}
	ids, attempts, states := make([]uuid.UUID, n), make([]int, n), make([]string, n)
	dues, settled := make([]*time.Time, n), make([]*time.Time, n)
	statuses, failures, logs := make([]*int, n), make([]string, n), make([][]byte, n)
	unsent := make([]bool, n)
	for i, o := range done {
		ids[i], attempts[i], unsent[i] = o.ID, o.attempts, o.unsent
		states[i], dues[i] = "waiting", &now
		if o.unsent {
			continue
		}
		if o.Status != 0 {
			statuses[i] = &o.Status
		}
		failures[i], logs[i] = o.Error, o.encode()
		d, again := wait(o.tries)
		switch {
		case o.ok():
			states[i], dues[i], settled[i] = "delivered", nil, &now
		case again:
			due := now.Add(max(d, o.rest))
			dues[i] = &due
		default:
			states[i], dues[i], settled[i] = "failed", nil, &now
		}
	}
	batch.Queue(`
		UPDATE webhook_delivery AS d SET state = q.state, due_at = q.due_at, settled_at = q.settled_at,
			tries = d.tries - q.unsent::int,
			status = CASE WHEN q.unsent THEN d.status ELSE q.status END,
			error = CASE WHEN q.unsent THEN d.error ELSE q.error END,
			log = CASE WHEN q.unsent THEN d.log
				WHEN jsonb_array_length(d.log) >= $10 THEN (d.log - 0) || q.log
				ELSE d.log || q.log END
		FROM unnest($2::uuid[], $3::int[], $4::text[], $5::timestamptz[], $6::timestamptz[], $7::int[], $8::text[], $9::jsonb[], $11::bool[])
			AS q (event_id, attempts, state, due_at, settled_at, status, error, log, unsent)
		WHERE d.endpoint_id = $1 AND d.event_id = ANY ($2) AND d.event_id = q.event_id AND d.attempts = q.attempts AND d.due_at IS NOT NULL`,
		r.endpoint, ids, attempts, states, dues, settled, statuses, failures, logs, keptAttempts, unsent)
}

func (a Attempt) encode() []byte {
	encoded, err := json.Marshal(a)
	if err != nil {
		panic(err) // plain data: it always marshals
	}
	return encoded
}

// queueHealth notes on the endpoint what its outcomes say of it: any success
// forgets the failures before.
func (r *run) queueHealth(batch *pgx.Batch, done []outcome, now time.Time) {
	failed, succeeded := 0, false
	for _, o := range done {
		switch {
		case o.unsent:
		case o.ok():
			succeeded = true
		default:
			failed++
		}
	}
	switch {
	case succeeded:
		batch.Queue(`
			UPDATE webhook_endpoint SET failures = 0, failing_since = NULL, paused_until = NULL
			WHERE id = $1 AND failures > 0`, r.endpoint)
	case failed > 0:
		batch.Queue(`
			UPDATE webhook_endpoint SET failures = failures + $2, failing_since = COALESCE(failing_since, $3)
			WHERE id = $1`, r.endpoint, failed, now)
	}
}

// queueClaim reads the endpoint and takes what is due longest. From one that
// failed often only one is taken, to see whether it has come back.
func (r *run) queueClaim(batch *pgx.Batch, n int, now time.Time, claims *[]claim) {
	batch.Queue(`SELECT `+targetColumns+` FROM webhook_endpoint WHERE id = $1`, r.endpoint).Query(func(rows pgx.Rows) (err error) {
		r.target, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[target])
		return err
	})
	if n == 0 {
		return
	}
	batch.Queue(`
		WITH due AS MATERIALIZED (
			SELECT event_id FROM webhook_delivery
			WHERE endpoint_id = $1 AND state = 'waiting' AND due_at <= $2
			ORDER BY due_at
			LIMIT COALESCE((SELECT CASE WHEN failures >= $5 THEN 1 ELSE $3::int END FROM webhook_endpoint
				WHERE id = $1 AND state = 'enabled' AND (paused_until IS NULL OR paused_until <= $6)), 0)
			FOR UPDATE SKIP LOCKED
		), claimed AS (
			UPDATE webhook_delivery AS d SET attempts = d.attempts + 1, tries = d.tries + 1, due_at = $4
			WHERE d.endpoint_id = $1 AND d.event_id = ANY (ARRAY(SELECT event_id FROM due))
			RETURNING d.event_id, d.attempts, d.tries
		)
		SELECT event.*, claimed.attempts, claimed.tries
		FROM claimed CROSS JOIN LATERAL (
			SELECT id, app_id, type, at, subject_id, actor_id, data FROM event WHERE id = claimed.event_id LIMIT 1) AS event
		ORDER BY event.id`,
		r.endpoint, now.Add(clockSkew), n, now.Add(lease), openAfter, now).Query(func(rows pgx.Rows) error {
		var c claim
		_, err := pgx.ForEachRow(rows, []any{&c.ID, &c.AppID, &c.Type, &c.At, &c.SubjectID, &c.ActorID, &c.Data, &c.attempts, &c.tries}, func() error {
			*claims = append(*claims, c)
			c = claim{}
			return nil
		})
		return err
	})
}

// judge draws what follows from failures, in the transaction that recorded
// them: a rest for the endpoint, or its end.
func (r *run) judge(ctx context.Context, tx pgx.Tx, done []outcome, now time.Time) error {
	if r.target.State != "enabled" {
		return nil
	}
	var until *time.Time
	reason := ""
	if rest := pause(r.target.Failures); rest > 0 {
		at := now.Add(rest)
		until = &at
	}
	for _, o := range done {
		if at := now.Add(o.rest); o.rest > 0 && (until == nil || at.After(*until)) {
			until = &at
		}
		if o.Status == http.StatusGone {
			reason = "gone"
		}
	}
	if since := r.target.FailingSince; since != nil && now.Sub(*since) >= disableAfter {
		reason = "failing"
	}
	switch {
	case reason != "":
		var app uuid.UUID
		err := tx.QueryRow(ctx, `
			UPDATE webhook_endpoint SET state = 'disabled', reason = $2, disabled_at = $3
			WHERE id = $1 AND state = 'enabled' RETURNING app_id`, r.endpoint, reason, now).Scan(&app)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("disable endpoint %s: %w", r.endpoint, err)
		}
		r.target.State = "disabled"
		r.Log.Error("A webhook endpoint was disabled: it takes nothing any more. The app has to mend and enable it.",
			"endpoint_id", r.endpoint, "app_id", app, "reason", reason)
		return r.Disabled(ctx, tx, app, r.endpoint, reason)
	case until != nil:
		if _, err := tx.Exec(ctx, `
			UPDATE webhook_endpoint SET paused_until = $2 WHERE id = $1`, r.endpoint, until); err != nil {
			return fmt.Errorf("pause endpoint %s: %w", r.endpoint, err)
		}
		r.target.PausedUntil = until
	}
	return nil
}

// nextDue is when something is to be sent to an endpoint; zero: not that
// anybody knows of. Deliveries of a deleted one are cancelled.
func (d *Deliverer) nextDue(ctx context.Context, endpoint uuid.UUID) (next time.Time, err error) {
	err = postgres.InTx(ctx, d.DB, func(tx pgx.Tx) error {
		var state string
		var due *time.Time
		err := tx.QueryRow(ctx, `
			SELECT state, GREATEST(paused_until, (
				SELECT due_at FROM webhook_delivery WHERE endpoint_id = $1 AND state = 'waiting' ORDER BY due_at LIMIT 1))
			FROM webhook_endpoint WHERE id = $1`, endpoint).Scan(&state, &due)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("look for what is next at endpoint %s: %w", endpoint, err)
		}
		switch {
		case state == "enabled" && due != nil:
			next = *due
		case state == "deleted":
			cancelled, err := tx.Exec(ctx, `
				UPDATE webhook_delivery SET state = 'cancelled', due_at = NULL, settled_at = $2
				WHERE endpoint_id = $1 AND event_id = ANY (ARRAY(
					SELECT event_id FROM webhook_delivery WHERE endpoint_id = $1 AND state = 'waiting' ORDER BY due_at LIMIT $3))`,
				endpoint, d.now(), cancelBatch)
			if err != nil {
				return fmt.Errorf("cancel deliveries of endpoint %s: %w", endpoint, err)
			}
			if cancelled.RowsAffected() > 0 {
				next = d.now()
			}
		}
		return nil
	})
	return next, err
}
