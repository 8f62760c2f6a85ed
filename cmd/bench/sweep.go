package main

import (
	"context"
	"fmt"
	"os"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"usher/internal/roster"
)

// sweepFew and sweepMany are how many rows are due, fewPending and manyPending
// among how many others that are not.
const (
	sweepFew    = 10_000
	sweepMany   = 100_000
	fewPending  = 100_000
	manyPending = 1_000_000
)

// sweepCase is a sweep and the least that could be done instead of it.
type sweepCase struct {
	name  string
	due   string // sets rows due: those with n below $1
	floor string // the same rows by one statement; $1 is how many
}

// The floor writes what the sweep writes: the mails and the jobs, and where a
// state changes, the states and the events.
var (
	remindCase = sweepCase{
		name: roster.SweepReminders,
		due:  `UPDATE reminder_plan p SET planned_at = now() - interval '1 minute', done = 0 FROM invitation i WHERE i.id = p.subject_id AND i.note::int < $1`,
		floor: `WITH due AS (
				SELECT subject_id AS id, app_id, email_key, message_id FROM reminder_plan WHERE planned_at <= now() LIMIT $1
			), asked AS (
				INSERT INTO message (id, app_id, kind, subject_id, purpose, args, lane, email_key, state, due_at, created_at)
				SELECT ordered_id(row_number() OVER ()), app_id, 'reminder', id, 'v1:of:' || message_id || ':remind:1', '{"version": 1}', 'bulk', email_key, 'queued', now(), now() FROM due RETURNING 1
			)
			INSERT INTO river_job (kind, args, queue, max_attempts, state)
			SELECT 'compose_mail', '{"lane": "bulk"}', 'mail_bulk', 3, 'available' FROM generate_series(1, 1 + (SELECT count(*) FROM asked) / 1000)`,
	}
	expireCase = sweepCase{
		name: roster.SweepInvitations,
		due:  `UPDATE invitation SET state = 'pending', decided_at = NULL, expires_at = now() - interval '1 minute' WHERE note::int < $1`,
		floor: `WITH due AS (
				UPDATE invitation SET state = 'expired', decided_at = now() WHERE id IN (SELECT id FROM invitation WHERE state IN ('pending', 'on_hold') AND expires_at <= now() LIMIT $1) RETURNING *
			), recorded AS (
				INSERT INTO event (id, app_id, type, subject_id, data, at)
				SELECT ordered_id(row_number() OVER ()), app_id, 'invitation.expired', id, '{"version": 1}', now() FROM due RETURNING id, app_id, at
			), told AS (
				INSERT INTO message (id, app_id, kind, subject_id, purpose, args, lane, email_key, state, due_at, created_at)
				SELECT gen_random_uuid(), app_id, 'news', inviter_id, 'news:' || g, jsonb_build_object('event_ids', ids), 'bulk', 'bea@harbour.example', 'queued', now(), now()
				FROM (SELECT due.app_id, due.inviter_id, g, array_agg(due.id) AS ids FROM (SELECT *, row_number() OVER () / 1000 AS g FROM due) AS due GROUP BY 1, 2, 3) AS q RETURNING 1
			)
			INSERT INTO river_job (kind, args, queue, max_attempts, state)
			SELECT 'compose_mail', '{"lane": "bulk"}', 'mail_bulk', 3, 'available' FROM told, (SELECT count(*) FROM recorded) AS c`,
	}
)

// sweepRate measures the rows a second that a sweep works off with a hundred
// thousand due among a million, and how its cost grows with what is due and with
// what exists. The floor does the same to the same rows by one statement.
func sweepRate(c sweepCase) func(ctx context.Context, b *bench) (figure, error) {
	return func(ctx context.Context, b *bench) (f figure, err error) {
		f = figure{Unit: "rows/s", N: sweepMany}
		cost := map[[2]int]float64{} // seconds, by due and pending
		for _, at := range [][2]int{{sweepFew, fewPending}, {sweepFew, manyPending}, {sweepMany, manyPending}} {
			due, pending := at[0], at[1]
			if err := b.fillPending(ctx, pending); err != nil {
				return f, err
			}
			var took, floor []float64
			for range 3 {
				if err := b.makeDue(ctx, c, due); err != nil {
					return f, err
				}
				before := resident(os.Getpid(), true)
				began := time.Now()
				n, err := b.sweepOut(ctx, c.name)
				if err != nil || n != due {
					return f, fmt.Errorf("%d of %d were swept: %w", n, due, err)
				}
				took = append(took, time.Since(began).Seconds())
				f.MemoryBefore, f.MemoryPeak = max(f.MemoryBefore, before), max(f.MemoryPeak, resident(os.Getpid(), false))
				if err := b.makeDue(ctx, c, due); err != nil {
					return f, err
				}
				began = time.Now()
				if _, err := b.pool.Exec(ctx, c.floor, due); err != nil {
					return f, fmt.Errorf("sweep by one statement: %w", err)
				}
				floor = append(floor, time.Since(began).Seconds())
			}
			cost[at] = median(took)
			if due == sweepMany {
				for i := range took {
					f.Rounds, f.FloorRounds = append(f.Rounds, float64(due)/took[i]), append(f.FloorRounds, float64(due)/floor[i])
				}
			}
		}
		f.Value, f.Floor = median(f.Rounds), median(f.FloorRounds)
		f.ByDue = cost[[2]int{sweepMany, manyPending}] / cost[[2]int{sweepFew, manyPending}]
		f.ByPending = cost[[2]int{sweepFew, manyPending}] / cost[[2]int{sweepFew, fewPending}]
		return f, nil
	}
}

// sweepOut runs a sweep to its end, in its lanes.
func (b *bench) sweepOut(ctx context.Context, name string) (n int, err error) {
	r := b.roster()
	var acted atomic.Int64
	lanes, ctx := errgroup.WithContext(ctx)
	for lane := range roster.SweepLanes(name) {
		lanes.Go(func() error {
			for more := true; more; {
				s, again, err := r.RunSweep(ctx, name, lane, time.Now())
				if err != nil {
					return err
				}
				more = again
				acted.Add(int64(s.Acted))
			}
			return nil
		})
	}
	err = lanes.Wait()
	return int(acted.Load()), err
}

// fillPending stores open invitations to as many people, none of them due.
func (b *bench) fillPending(ctx context.Context, n int) error {
	if err := b.clear(ctx); err != nil {
		return err
	}
	// Ids are in the order of time, as real ones are.
	if _, err := b.pool.Exec(ctx, `
		CREATE OR REPLACE FUNCTION ordered_id(n bigint) RETURNS uuid LANGUAGE sql VOLATILE AS $$
			SELECT (lpad(to_hex(1760000000000 + n / 4096), 12, '0') || '7' || lpad(to_hex(n % 4096), 3, '0') || substr(md5(n::text), 1, 16))::uuid $$`); err != nil {
		return fmt.Errorf("make ids: %w", err)
	}
	for _, statement := range []string{
		`INSERT INTO invitation (id, app_id, workspace_id, inviter_id, kind, email, email_key, full_name, locale, note, state, sends, message_id, queued_at, expires_at, created_at)
			SELECT ordered_id(n), $1, $2, $3, 'new_user', e, e, 'Ann Example', '', n::text, 'pending', 1, m, now() - interval '3 days 1 hour', now() + interval '11 days', now() - interval '3 days 1 hour'
			FROM (SELECT n, 'guest-' || n || '@people.example' AS e, ordered_id(n) AS m FROM generate_series(0, $4::int - 1) AS n) AS q`,
	} {
		if _, err := b.pool.Exec(ctx, statement, b.app, b.workspace, b.account, n); err != nil {
			return fmt.Errorf("store invitations: %w", err)
		}
	}
	if _, err := b.pool.Exec(ctx, `TRUNCATE reminder_plan`); err != nil {
		return fmt.Errorf("store plans: %w", err)
	}
	if _, err := b.pool.Exec(ctx, `
		INSERT INTO reminder_plan (subject_id, app_id, email_key, message_id, planned_at, done)
		SELECT id, app_id, email_key, message_id, now() + interval '9 days', 0 FROM invitation`); err != nil {
		return fmt.Errorf("store plans: %w", err)
	}
	// People are reminded at any hour, so that this can be measured at any.
	_, err := b.pool.Exec(ctx, `
		INSERT INTO policy (app_id, version, settings, updated_at)
		VALUES ($1, 1, '{"reminders": {"weekends": true, "window_from": "00:00", "window_to": "23:59"}}', now()) ON CONFLICT (app_id) DO UPDATE SET settings = EXCLUDED.settings`, b.app)
	if err == nil {
		_, err = b.pool.Exec(ctx, `VACUUM ANALYZE invitation, reminder_plan`)
	}
	if err != nil {
		return fmt.Errorf("store invitations: %w", err)
	}
	return nil
}

// makeDue has so many rows due, and nothing done about them yet.
func (b *bench) makeDue(ctx context.Context, c sweepCase, n int) error {
	for _, statement := range []string{`TRUNCATE event, river_job, message, webhook_delivery`, `UPDATE invitation SET expires_at = now() + interval '11 days' WHERE expires_at < now() + interval '1 day'`} {
		if _, err := b.pool.Exec(ctx, statement); err != nil {
			return fmt.Errorf("make rows due: %w", err)
		}
	}
	if _, err := b.pool.Exec(ctx, c.due, n); err != nil {
		return fmt.Errorf("make rows due: %w", err)
	}
	if _, err := b.pool.Exec(ctx, `VACUUM ANALYZE invitation, reminder_plan`); err != nil {
		return fmt.Errorf("make rows due: %w", err)
	}
	_, err := b.pool.Exec(ctx, `CHECKPOINT`)
	return err
}
