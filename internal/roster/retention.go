package roster

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// How long things are kept that nobody needs any more.
const (
	keepKeys       = 48 * time.Hour       // idempotency keys: twice what is promised
	keepSessions   = 24 * time.Hour       // after their end
	keepDeliveries = 30 * 24 * time.Hour  // webhook deliveries, after they were settled
	keepRuns       = 30 * 24 * time.Hour  // lines of the sweeps' ledger
	keepPlans      = 400 * 24 * time.Hour // of reminders, after the mail: longer than anything can be answered
	keepEvents     = 730 * 24 * time.Hour // two years
	keepPeople     = 180 * 24 * time.Hour // names and addresses of invitations that came to nothing, after their end
	keepAsked      = 400 * 24 * time.Hour // likewise of access requests: longer than a denial can keep others from asking
)

// sweepRetention is a chunk of the sweep that forgets: of each kind of thing, some
// of those whose time is over.
func (r *Roster) sweepRetention(ctx context.Context, tx pgx.Tx, now time.Time, _ int, s *Swept) (more bool, err error) {
	for _, kind := range []struct {
		what, sql string
		before    time.Time
	}{
		{"idempotency keys", `DELETE FROM idempotency_key WHERE (app_id, route, key) IN (
			SELECT app_id, route, key FROM idempotency_key WHERE created_at < $1 ORDER BY created_at LIMIT $2 FOR UPDATE SKIP LOCKED)`, now.Add(-keepKeys)},
		{"sessions", `DELETE FROM session WHERE hash = ANY(ARRAY(
			SELECT hash FROM session WHERE expires_at < $1 ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED))`, now.Add(-keepSessions)},
		{"webhook deliveries", `DELETE FROM webhook_delivery WHERE (endpoint_id, event_id) IN (
			SELECT endpoint_id, event_id FROM webhook_delivery WHERE settled_at < $1 ORDER BY settled_at LIMIT $2 FOR UPDATE SKIP LOCKED)`, now.Add(-keepDeliveries)},
		{"runs of sweeps", `DELETE FROM sweep_run WHERE (name, tick) IN (
			SELECT name, tick FROM sweep_run WHERE started_at < $1 AND finished_at IS NOT NULL ORDER BY started_at LIMIT $2 FOR UPDATE SKIP LOCKED)`, now.Add(-keepRuns)},
	} {
		tag, err := tx.Exec(ctx, kind.sql, kind.before, sweepChunk)
		if err != nil {
			return false, fmt.Errorf("forget %s: %w", kind.what, err)
		}
		more = s.forgot(kind.what, int(tag.RowsAffected())) || more
	}
	// Events are in the order of their ids, which begin with their time. One that
	// still has to be told stays.
	tag, err := tx.Exec(ctx, `
		DELETE FROM event WHERE id = ANY(ARRAY(
			SELECT id FROM event WHERE id < $1 AND NOT EXISTS (SELECT FROM webhook_delivery d WHERE d.event_id = event.id) ORDER BY id LIMIT $2 FOR UPDATE SKIP LOCKED))`,
		firstIDAt(now.Add(-keepEvents)), sweepChunk)
	if err != nil {
		return false, fmt.Errorf("forget events: %w", err)
	}
	more = s.forgot("events", int(tag.RowsAffected())) || more
	if tag, err = tx.Exec(ctx, `DELETE FROM reminder_plan WHERE subject_id = ANY(ARRAY(
		SELECT subject_id FROM reminder_plan WHERE planned_at IS NULL AND message_id < $1 ORDER BY message_id LIMIT $2 FOR UPDATE SKIP LOCKED))`,
		firstIDAt(now.Add(-keepPlans)), sweepChunk); err != nil {
		return false, fmt.Errorf("forget plans: %w", err)
	}
	more = s.forgot("plans of reminders", int(tag.RowsAffected())) || more
	for _, kind := range []struct {
		what, table, states string
		before              time.Time
	}{
		{"people of invitations", "invitation", `'declined', 'revoked', 'superseded', 'expired'`, now.Add(-keepPeople)},
		{"people of access requests", "access_request", `'denied', 'expired', 'cancelled'`, now.Add(-keepAsked)},
	} {
		people, err := forgetPeople(ctx, tx, kind.table, kind.states, kind.before)
		if err != nil {
			return false, fmt.Errorf("forget %s: %w", kind.what, err)
		}
		more = s.forgot(kind.what, people) || more
	}
	return more, nil
}

// forgot counts what was forgotten; more tells that there may be more of it.
func (s *Swept) forgot(what string, n int) (more bool) {
	s.Scanned, s.Acted = s.Scanned+n, s.Acted+n
	if n > 0 {
		s.tell(Deed{Does: "forgets", Why: fmt.Sprintf("%d %s", n, what)})
	}
	return n == sweepChunk
}

// forgetPeople keeps of invitations or access requests that came to nothing only
// that they were: what is left of an address tells whether another is the same,
// and no more.
func forgetPeople(ctx context.Context, tx pgx.Tx, table, states string, before time.Time) (n int, err error) {
	rows, err := tx.Query(ctx, `
		UPDATE `+table+` SET email = '', full_name = '', note = '', email_key = 'forgotten:' || encode(sha256(convert_to(email_key, 'UTF8')), 'hex')
		WHERE id = ANY(ARRAY(
			SELECT id FROM `+table+`
			WHERE state IN (`+states+`) AND email <> '' AND decided_at < $1
			ORDER BY decided_at LIMIT $2 FOR UPDATE SKIP LOCKED))
		RETURNING id`, before, sweepChunk)
	if err != nil {
		return 0, err
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return 0, err
	}
	_, err = tx.Exec(ctx, `
		UPDATE message SET recipient = '', subject = '', email_key = 'forgotten:' || encode(sha256(convert_to(email_key, 'UTF8')), 'hex')
		WHERE subject_id = ANY ($1) AND email_key NOT LIKE 'forgotten:%' AND state NOT IN ('queued', 'held', 'sending')`, ids)
	return len(ids), err
}

// firstIDAt is before all ids of UUIDv7 that were made at a time or later.
func firstIDAt(at time.Time) (id uuid.UUID) {
	ms := at.UnixMilli()
	for i := range 6 {
		id[i] = byte(ms >> (8 * (5 - i)))
	}
	id[6] = 0x70
	return id
}
