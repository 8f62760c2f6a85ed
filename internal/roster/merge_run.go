package roster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

// mergeWork reads a merge for its job, which knows no app.
func mergeWork(ctx context.Context, tx pgx.Tx, id uuid.UUID) (Merge, error) {
	m, err := collectMerge(tx.Query(ctx, `SELECT `+mergeColumns+` FROM merge WHERE id = $1 FOR UPDATE`, id))
	if errors.Is(err, pgx.ErrNoRows) {
		return m, notFound("merge")
	}
	if err != nil {
		return m, fmt.Errorf("read merge %s: %w", id, err)
	}
	return m, nil
}

// MergeCall is what an app is told of a merge, and where.
type MergeCall struct {
	Merge    Merge
	Endpoint *uuid.UUID // nil: the app has no endpoint for merges
}

// Details are what the call says besides its subject, the merge.
func (c MergeCall) Details() json.RawMessage {
	encoded, err := json.Marshal(map[string]any{
		"merge_id": c.Merge.ID, "company_id": c.Merge.CompanyID, "request_id": c.Merge.RequestID,
		"survivor_id": c.Merge.SurvivorID, "absorbed_id": c.Merge.AbsorbedID, "moves": c.Merge.Preview.Moves,
	})
	if err != nil {
		panic(err) // plain data: it always marshals
	}
	return encoded
}

// callOf is the call about a merge to the app's endpoint as it is now.
func callOf(ctx context.Context, tx pgx.Tx, m Merge) (c MergeCall, err error) {
	c.Merge = m
	var id uuid.UUID
	err = tx.QueryRow(ctx, `SELECT id FROM webhook_endpoint WHERE app_id = $1 AND merges AND state <> 'deleted'`, m.AppID).Scan(&id)
	if errors.Is(err, pgx.ErrNoRows) {
		return c, nil
	}
	if err != nil {
		return c, fmt.Errorf("look for the endpoint of app %s: %w", m.AppID, err)
	}
	c.Endpoint = &id
	return c, nil
}

// MergeCall is what is to be told of a merge as it stands.
func (r *Roster) MergeCall(ctx context.Context, id uuid.UUID) (c MergeCall, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		m, err := mergeWork(ctx, tx, id)
		if err == nil {
			c, err = callOf(ctx, tx, m)
		}
		return err
	})
	return c, err
}

// BeginMerge begins a confirmed merge: from now on the app may know of it. A
// merge that may not be any more is cancelled. One that began before is answered
// as it stands.
func (r *Roster) BeginMerge(ctx context.Context, id uuid.UUID) (m Merge, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if m, err = mergeWork(ctx, tx, id); err != nil || m.State != MergeConfirmed {
			return err
		}
		if _, refusal, err := mergeNow(ctx, tx, m, m.Hash); err != nil || refusal != nil {
			if err == nil {
				m, _, err = r.endMerge(ctx, tx, m, uuid.Nil, MergeCancelled, refusal.Code, r.now(), beforeMove)
			}
			return err
		}
		m, _, err = changeMerge(ctx, tx, m.AppID, id, `SET state = 'running', step = 'preparing' WHERE id = $1 AND state = 'confirmed'`, id)
		return err
	})
	return m, err
}

// MoveMerge makes what is the absorbed account's the survivor's, in one
// transaction: it locks both, looks once more whether the merge may be as it was
// confirmed, notes every row it changes, and counts them afterwards. Where the
// merge may not be any more it is cancelled, and nothing is changed.
func (r *Roster) MoveMerge(ctx context.Context, id uuid.UUID) (m Merge, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if m, err = mergeWork(ctx, tx, id); err != nil || m.State != MergeRunning || m.Step != StepPreparing {
			return err
		}
		now := r.now()
		if err := lockPair(ctx, tx, m); err != nil {
			return err
		}
		f, refusal, err := mergeNow(ctx, tx, m, m.Hash)
		if err == nil && refusal != nil {
			m, _, err = r.endMerge(ctx, tx, m, uuid.Nil, MergeCancelled, refusal.Code, now, beforeMove)
			return err
		}
		if err != nil {
			return err
		}
		events, err := moveRows(ctx, tx, m, now)
		if err != nil {
			return err
		}
		if err := verifyMove(ctx, tx, m, f); err != nil {
			return err
		}
		m, _, err = changeMerge(ctx, tx, m.AppID, id, `SET step = 'moved', moved_at = $2 WHERE id = $1 AND state = 'running' AND step = 'preparing'`, id, now)
		if err != nil {
			return err
		}
		events = append(events, m.eventOf(EventAccountMerged, actorOf(m)))
		if _, err := recordEvents(ctx, tx, now, events...); err != nil {
			return err
		}
		return r.enqueue(ctx, tx, NotifyWorkspace{m.SurvivorID}) // of what the absorbed one was not told of
	})
	return m, err
}

func actorOf(m Merge) uuid.UUID {
	if m.ActorID == nil {
		return uuid.Nil
	}
	return *m.ActorID
}

// lockPair locks both accounts, in the order of their ids, and what the two
// have. Nothing can be added to the absorbed one meanwhile.
func lockPair(ctx context.Context, tx pgx.Tx, m Merge) error {
	for _, statement := range []string{
		`SELECT FROM account WHERE id IN ($1, $2) ORDER BY id FOR UPDATE`,
		`SELECT FROM membership WHERE account_id IN ($1, $2) ORDER BY workspace_id, account_id FOR UPDATE`,
		`SELECT FROM access_request WHERE target_id IN ($1, $2) ORDER BY id FOR UPDATE`,
		`SELECT FROM record_access WHERE account_id IN ($1, $2) AND revoked_at IS NULL ORDER BY id FOR UPDATE`,
	} {
		if _, err := tx.Exec(ctx, statement, m.SurvivorID, m.AbsorbedID); err != nil {
			return fmt.Errorf("lock accounts %s and %s: %w", m.SurvivorID, m.AbsorbedID, err)
		}
	}
	return nil
}

// A moved is one kind of rows that a merge changes: the statement that changes
// those of the account $2, the absorbed one, for $1, the survivor, at $3, and
// returns each as it was, o, and as it is, t. mergeWhats tells how it is undone.
type moved struct {
	what string
	sql  string
}

// visibilityOrder is the rank of a column with a visibility, lowest first.
func visibilityOrder(column string) string {
	return `array_position(ARRAY['basic', 'standard', 'full'], ` + column + `)`
}

// moves are in the order of their running: requests before the access they
// opened, as in everything that changes both.
var moves = []moved{
	{whatFields, `
		UPDATE account t SET
			locale = CASE WHEN t.locale = '' THEN a.locale ELSE t.locale END,
			time_zone = CASE WHEN t.time_zone = '' THEN a.time_zone ELSE t.time_zone END,
			birth_date = COALESCE(t.birth_date, a.birth_date)
		FROM account o, account a
		WHERE o.id = t.id AND t.id = $1 AND a.id = $2 AND $3::timestamptz IS NOT NULL
			AND (t.locale = '' AND a.locale <> '' OR t.time_zone = '' AND a.time_zone <> '' OR t.birth_date IS NULL AND a.birth_date IS NOT NULL)`},
	{whatStatus, `
		UPDATE account t SET status = 'merged', merged_into = $1 FROM account o
		WHERE o.id = t.id AND t.app_id = (SELECT app_id FROM account WHERE id = $1) AND (t.id = $2 OR t.merged_into = $2) AND $3::timestamptz IS NOT NULL`},
	{whatMembership, `
		UPDATE membership t SET account_id = $1 FROM membership o
		WHERE o.workspace_id = t.workspace_id AND o.account_id = t.account_id AND t.account_id = $2 AND $3::timestamptz IS NOT NULL
			AND NOT EXISTS (SELECT FROM membership m WHERE m.workspace_id = t.workspace_id AND m.account_id = $1)`},
	{whatMembership, `
		UPDATE membership t SET role = least(t.role, a.role), -- client_user before stakeholder
			visibility = CASE WHEN ` + visibilityOrder("a.visibility") + ` < ` + visibilityOrder("t.visibility") + ` THEN a.visibility ELSE t.visibility END
		FROM membership o, membership a
		WHERE o.workspace_id = t.workspace_id AND o.account_id = t.account_id AND t.account_id = $1 AND t.state = 'active'
			AND a.workspace_id = t.workspace_id AND a.account_id = $2 AND a.state = 'active' AND $3::timestamptz IS NOT NULL
			AND (a.role < t.role OR ` + visibilityOrder("a.visibility") + ` < ` + visibilityOrder("t.visibility") + `)`},
	{whatMembership, `
		UPDATE membership t SET state = 'archived', archived_at = $3, notice_due = false FROM membership o
		WHERE o.workspace_id = t.workspace_id AND o.account_id = t.account_id AND t.account_id = $2 AND t.state = 'active'
			AND $1::uuid IS NOT NULL`},
	{whatRecord, `
		UPDATE record t SET account_id = $1 FROM record o
		WHERE o.id = t.id AND t.account_id = $2 AND $3::timestamptz IS NOT NULL`},
	{whatRequest, `
		UPDATE access_request t SET
			target_id = CASE WHEN q.lives THEN $1 ELSE t.target_id END,
			state = CASE WHEN q.lives THEN t.state WHEN t.state = 'granted' THEN 'revoked' ELSE 'cancelled' END,
			decided_at = CASE WHEN q.lives THEN t.decided_at ELSE $3::timestamptz END
		FROM access_request o, (
			SELECT id, CASE state
				WHEN 'granted' THEN EXISTS (SELECT FROM record_access a WHERE a.account_id = $1 AND a.company_id = g.company_id AND a.revoked_at IS NULL)
				ELSE NOT EXISTS (SELECT FROM access_request s WHERE s.company_id = g.company_id AND s.target_id = $1 AND s.state IN ('pending', 'on_hold', 'approved')) END AS lives
			FROM access_request g WHERE g.target_id = $2 AND g.state IN ('pending', 'on_hold', 'approved', 'granted')) AS q
		WHERE o.id = t.id AND q.id = t.id`},
	{whatAccess, `
		UPDATE record_access t SET visibility = a.visibility FROM record_access o, record_access a
		WHERE o.id = t.id AND t.account_id = $1 AND t.revoked_at IS NULL AND $3::timestamptz IS NOT NULL
			AND a.account_id = $2 AND a.company_id = t.company_id AND a.revoked_at IS NULL
			AND ` + visibilityOrder("a.visibility") + ` < ` + visibilityOrder("t.visibility")},
	{whatAccess, `
		UPDATE record_access t SET revoked_at = $3 FROM record_access o
		WHERE o.id = t.id AND t.account_id = $2 AND t.revoked_at IS NULL AND $1::uuid IS NOT NULL`},
	{whatInvitation, `
		UPDATE invitation t SET account_id = $1 FROM invitation o
		WHERE o.id = t.id AND t.account_id = $2 AND $3::timestamptz IS NOT NULL`},
	{whatNotification, `
		UPDATE notification t SET account_id = $1 FROM notification o
		WHERE o.id = t.id AND t.account_id = $2 AND $3::timestamptz IS NOT NULL
			AND NOT EXISTS (SELECT FROM notification s WHERE s.account_id = $1 AND s.subject_id = t.subject_id)`},
}

// supersedeOpen ends the open invitations that the survivor has no use for any more.
// It runs first: afterwards the memberships are the survivor's.
const supersedeOpen = `
		UPDATE invitation t SET state = 'superseded', decided_at = $3 FROM invitation o
		WHERE o.id = t.id AND t.id = ANY(ARRAY(SELECT id FROM invitation WHERE ` + supersededBy + `))`

// addEmails gives the survivor the further addresses of the absorbed one.
const addEmails = `
		INSERT INTO secondary_email AS t (app_id, account_id, email, email_key, created_at)
		SELECT have.app_id, $1, have.email, have.email_key, $3 FROM (
			SELECT app_id, email, email_key FROM account WHERE id = $2 AND email_key IS NOT NULL
			UNION ALL SELECT app_id, email, email_key FROM secondary_email WHERE account_id = $2) AS have
		WHERE NOT EXISTS (SELECT FROM account WHERE id = $1 AND email_key = have.email_key)
		ON CONFLICT DO NOTHING`

// moveRows changes the rows and notes each, and answers the events of what
// ended by it.
func moveRows(ctx context.Context, tx pgx.Tx, m Merge, now time.Time) (events []newEvent, err error) {
	batch := &pgx.Batch{}
	note := func(what, sql string) *pgx.QueuedQuery {
		w := mergeWhats[slices.IndexFunc(mergeWhats, func(w mergeWhat) bool { return w.what == what })]
		before := "NULL::jsonb"
		if !w.made {
			before = w.noted("o")
		}
		returning := ""
		if slices.Contains(w.compare, "state") {
			returning = " RETURNING before, after"
		}
		return batch.Queue(`
			WITH changed AS (`+sql+` RETURNING `+before+` AS before, `+w.noted("t")+` AS after)
			INSERT INTO merge_change (merge_id, what, before, after)
			SELECT $4, $5, before, after FROM changed`+returning, m.SurvivorID, m.AbsorbedID, now, m.ID, what)
	}
	// Of what ends by the merge, others hear.
	type subject struct {
		ID    uuid.UUID `json:"id"`
		State State     `json:"state"`
	}
	over := func(rows pgx.Rows) error {
		var before, after subject
		_, err := pgx.ForEachRow(rows, []any{&before, &after}, func() error {
			switch {
			case before.State == after.State:
			case after.State == Superseded:
				events = append(events, newEvent{m.AppID, EventSuperseded, after.ID, uuid.Nil, json.RawMessage(`{}`)})
			case after.State == Cancelled:
				events = append(events, newEvent{m.AppID, EventRequestCancelled, after.ID, uuid.Nil, json.RawMessage(`{}`)})
			case after.State == Revoked:
				events = append(events, newEvent{m.AppID, EventRequestRevoked, after.ID, uuid.Nil, json.RawMessage(`{}`)})
			}
			return nil
		})
		return err
	}
	note(whatInvitation, supersedeOpen).Query(over)
	note(whatEmail, addEmails)
	for _, move := range moves {
		queued := note(move.what, move.sql)
		if move.what == whatRequest {
			queued.Query(over)
		}
	}
	batch.Queue(`DELETE FROM session WHERE account_id = $1`, m.AbsorbedID)
	batch.Queue(`DELETE FROM account_search WHERE account_id = $1`, m.AbsorbedID)
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return nil, fmt.Errorf("move rows of account %s to %s: %w", m.AbsorbedID, m.SurvivorID, err)
	}
	return events, nil
}

// ErrMoveWrong ends a move after which not all is where it should be. It is a
// fault of ours; nothing was changed, and FailMerge ends the merge.
var ErrMoveWrong = errors.New("after the move the rows are not those of before")

// verifyMove counts what the survivor has against what the two had.
func verifyMove(ctx context.Context, tx pgx.Tx, m Merge, f mergeFacts) error {
	p := f.preview()
	var left, records, memberships, emails, status int
	if err := tx.QueryRow(ctx, `
		SELECT (SELECT count(*) FROM record WHERE account_id = $2) + (SELECT count(*) FROM membership WHERE account_id = $2 AND state = 'active')
				+ (SELECT count(*) FROM record_access WHERE account_id = $2 AND revoked_at IS NULL) + (SELECT count(*) FROM session WHERE account_id = $2)
				+ (SELECT count(*) FROM account WHERE merged_into = $2),
			(SELECT count(*) FROM merge_change WHERE merge_id = $3 AND what = 'record' AND EXISTS (SELECT FROM record WHERE id = (after->>'id')::uuid AND account_id = $1)),
			(SELECT count(*) FROM merge_change WHERE merge_id = $3 AND what = 'membership' AND before->>'account_id' = $2::text AND after->>'account_id' = $1::text),
			(SELECT count(*) FROM merge_change WHERE merge_id = $3 AND what = 'secondary_email'),
			(SELECT count(*) FROM account WHERE id = $2 AND status = 'merged' AND merged_into = $1)`,
		m.SurvivorID, m.AbsorbedID, m.ID).Scan(&left, &records, &memberships, &emails, &status); err != nil {
		return fmt.Errorf("verify merge %s: %w", m.ID, err)
	}
	if left != 0 || records != p.Moves.Records || memberships != p.Moves.Memberships || emails != p.Moves.SecondaryEmails || status != 1 {
		return fmt.Errorf("merge %s: %w: %d left, %d of %d records, %d of %d memberships, %d of %d addresses",
			m.ID, ErrMoveWrong, left, records, p.Moves.Records, memberships, p.Moves.Memberships, emails, p.Moves.SecondaryEmails)
	}
	return nil
}

// FailMerge ends a merge whose move went wrong. Nothing was changed by it.
func (r *Roster) FailMerge(ctx context.Context, id uuid.UUID) (m Merge, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if m, err = mergeWork(ctx, tx, id); err == nil {
			m, _, err = r.endMerge(ctx, tx, m, uuid.Nil, MergeFailed, "verification", r.now(), beforeMove)
		}
		return err
	})
	return m, err
}

// FinishMerge ends a merge whose rows have moved, once the app has done its
// part. From then on it can be undone for as long as the app's policy says.
func (r *Roster) FinishMerge(ctx context.Context, id uuid.UUID) (m Merge, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if m, err = mergeWork(ctx, tx, id); err != nil || m.State != MergeRunning || m.Step != StepMoved {
			return err
		}
		policy, err := policyOf(ctx, tx, m.AppID)
		if err != nil {
			return err
		}
		now := r.now()
		m, _, err = changeMerge(ctx, tx, m.AppID, id, `
			SET state = 'merged', merged_at = $2, undo_until = $3 WHERE id = $1 AND state = 'running' AND step = 'moved'`,
			id, now, now.Add(time.Duration(policy.MergeUndoDays)*24*time.Hour))
		if err != nil {
			return err
		}
		return m.record(ctx, tx, now, actorOf(m), EventMergeMerged)
	})
	return m, err
}

// ReleaseMerge notes that the app knows of a merge that will not be.
func (r *Roster) ReleaseMerge(ctx context.Context, id uuid.UUID) (m Merge, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if m, err = mergeWork(ctx, tx, id); err != nil || !m.Telling() {
			return err
		}
		m, _, err = changeMerge(ctx, tx, m.AppID, id, `SET step = 'released' WHERE id = $1 AND state IN ('cancelled', 'failed') AND step = 'preparing'`, id)
		return err
	})
	return m, err
}
