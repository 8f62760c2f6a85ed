package roster

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"usher/internal/postgres"
)

// What a MergeChange is about: a table, and of accounts the part of it.
const (
	whatFields       = "account"        // what the survivor did not have
	whatStatus       = "account_status" // of the absorbed account, and of those merged into it before
	whatEmail        = "secondary_email"
	whatMembership   = "membership"
	whatRecord       = "record"
	whatRequest      = "access_request"
	whatAccess       = "record_access"
	whatInvitation   = "invitation"
	whatNotification = "notification"
)

// mergeWhat tells how one kind of change is undone.
type mergeWhat struct {
	what, table string
	key         []string // its primary key
	compare     []string // the columns that the merge is about: one that differs by now was edited since
	restore     []string // what is set back besides those
	show        []string // what else is noted of the row
	blocked     string   // a condition on the row before, b: it cannot be set back any more
	made        bool     // the merge made the row, and nothing is compared
}

// columns are all that is noted of a row.
func (w mergeWhat) columns() []string { return slices.Concat(w.key, w.compare, w.restore, w.show) }

// noted is what is noted of a row of the table, by its alias.
func (w mergeWhat) noted(alias string) string {
	var pairs []string
	for _, column := range w.columns() {
		pairs = append(pairs, "'"+column+"', "+alias+"."+column)
	}
	return "jsonb_build_object(" + strings.Join(pairs, ", ") + ")"
}

// mergeWhats are in the order in which changes are undone.
var mergeWhats = []mergeWhat{
	{what: whatNotification, table: "notification", key: []string{"id"}, compare: []string{"account_id"}, show: []string{"kind", "subject_id"}},
	{
		what: whatInvitation, table: "invitation", key: []string{"id"}, compare: []string{"account_id", "state"}, restore: []string{"decided_at"},
		show: []string{"workspace_id", "email_key"},
		blocked: `b.state IN ('pending', 'on_hold') AND EXISTS (SELECT FROM invitation o WHERE o.workspace_id = b.workspace_id AND o.email_key = b.email_key
			AND o.state IN ('pending', 'on_hold') AND o.id <> b.id)`,
	},
	{what: whatAccess, table: "record_access", key: []string{"id"}, compare: []string{"visibility", "revoked_at"}, show: []string{"account_id", "company_id"}},
	{
		what: whatRequest, table: "access_request", key: []string{"id"}, compare: []string{"target_id", "state"}, restore: []string{"decided_at"},
		show: []string{"company_id", "email_key"},
		blocked: `b.state IN ('pending', 'on_hold', 'approved') AND EXISTS (SELECT FROM access_request o WHERE o.company_id = b.company_id
			AND (o.email_key = b.email_key OR o.target_id = b.target_id) AND o.state IN ('pending', 'on_hold', 'approved') AND o.id <> b.id)`,
	},
	{what: whatRecord, table: "record", key: []string{"id"}, compare: []string{"account_id"}, show: []string{"kind", "external_id"}},
	{
		what: whatMembership, table: "membership", key: []string{"workspace_id", "account_id"},
		compare: []string{"role", "visibility", "state"}, restore: []string{"archived_at", "notice_due"},
	},
	{what: whatEmail, table: "secondary_email", key: []string{"account_id", "email_key"}, show: []string{"email"}, made: true},
	{what: whatStatus, table: "account", key: []string{"id"}, compare: []string{"status", "merged_into"}},
	{what: whatFields, table: "account", key: []string{"id"}, compare: []string{"locale", "time_zone", "birth_date"}},
}

// prefixed is a list of columns of a table.
func prefixed(table string, columns []string) string {
	return table + "." + strings.Join(columns, ", "+table+".")
}

// joined are the changes c of the merge $1 with the row before, b, the row as the
// merge left it, a, and the row now, t, which may be gone.
func (w mergeWhat) joined() string {
	return fmt.Sprintf(`merge_change c
		CROSS JOIN LATERAL jsonb_populate_record(%[5]s, c.before) AS b
		CROSS JOIN LATERAL jsonb_populate_record(%[5]s, c.after) AS a
		LEFT JOIN %[1]s t ON (%[2]s) = (%[3]s)
		WHERE c.merge_id = $1 AND c.what = '%[4]s'`, w.table, prefixed("t", w.key), prefixed("a", w.key), w.what, w.none())
}

// none is no row of the table. It is not NULL::record, since that is a type of
// its own.
func (w mergeWhat) none() string { return `(SELECT r FROM ` + w.table + ` r LIMIT 0)` }

// edited is the condition of a change that somebody made another one after.
func (w mergeWhat) edited() string {
	if w.made {
		return "false"
	}
	condition := fmt.Sprintf(`((%s) IS DISTINCT FROM (%s)`, prefixed("t", w.compare), prefixed("a", w.compare))
	if w.blocked != "" {
		condition += ` OR ` + w.blocked
	}
	return condition + `)`
}

// MergeChange is a row that a merge changed.
type MergeChange struct {
	N      int64
	What   string          // the table, or "account_status"
	Before json.RawMessage // nil: the merge made the row
	After  json.RawMessage // as the merge left it
}

// MergeChanges lists what a merge changed, in its order. A merge that is final,
// or was undone, has none.
func (r *Roster) MergeChanges(ctx context.Context, app, id uuid.UUID, after int64, limit int) (changes []MergeChange, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if _, err := readMerge(ctx, tx, app, id, ""); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `SELECT n, what, before, after FROM merge_change WHERE merge_id = $1 AND n > $2 ORDER BY n LIMIT $3`, id, after, limit)
		if err != nil {
			return fmt.Errorf("list changes of merge %s: %w", id, err)
		}
		changes, err = pgx.CollectRows(rows, pgx.RowToStructByPos[MergeChange])
		return err
	})
	return changes, err
}

// EditedRow is a row that was edited after a merge changed it.
type EditedRow struct {
	MergeChange
	Now json.RawMessage // nil: it was removed
}

// maxEdited bounds the edited rows that an undo is refused with.
const maxEdited = 100

// editedSince are the first rows that were edited since a merge.
func editedSince(ctx context.Context, tx pgx.Tx, id uuid.UUID) (edited []EditedRow, err error) {
	parts := make([]string, len(mergeWhats))
	for i, w := range mergeWhats {
		parts[i] = `SELECT c.n, c.what, c.before, c.after, CASE WHEN t.` + w.key[0] + ` IS NOT NULL THEN ` + w.noted("t") + ` END FROM ` + w.joined() + ` AND ` + w.edited()
	}
	rows, err := tx.Query(ctx, strings.Join(parts, ` UNION ALL `)+fmt.Sprintf(` ORDER BY 1 LIMIT %d`, maxEdited), id)
	if err != nil {
		return nil, fmt.Errorf("look for rows edited since merge %s: %w", id, err)
	}
	edited, err = pgx.CollectRows(rows, pgx.RowToStructByPos[EditedRow])
	if err != nil {
		return nil, fmt.Errorf("look for rows edited since merge %s: %w", id, err)
	}
	return edited, nil
}

// EditedRows are the first hundred rows that were edited since a merge: what an
// undo needs a choice for.
func (r *Roster) EditedRows(ctx context.Context, app, id uuid.UUID) (edited []EditedRow, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if _, err := readMerge(ctx, tx, app, id, ""); err != nil {
			return err
		}
		edited, err = editedSince(ctx, tx, id)
		return err
	})
	return edited, err
}

// What an undo does with a row that was edited since the merge.
const (
	KeepNow    = "now"    // leave it as it is
	KeepBefore = "before" // set it back; one that was removed stays removed
)

// MergeKeep says what an undo does with rows that were edited since the merge.
type MergeKeep struct {
	Edited string           `json:"edited"`         // KeepNow or KeepBefore, for all that Rows does not name
	Rows   map[int64]string `json:"rows,omitempty"` // by MergeChange.N
}

func (k *MergeKeep) check() error {
	if k == nil {
		return nil
	}
	for _, choice := range append([]string{k.Edited}, values(k.Rows)...) {
		if choice != KeepNow && choice != KeepBefore {
			return invalidField("keep", "keep_unknown", "Of a row that was edited since, either what it is %q is kept, or what it was %q.", KeepNow, KeepBefore)
		}
	}
	return nil
}

func values(m map[int64]string) (all []string) {
	for _, v := range m {
		all = append(all, v)
	}
	return all
}

// UndoMerge takes a merge apart again: every row it changed is set back. Only
// the latest merge of an account can be undone, in the time that the app's
// policy leaves for it. actor is a professional of the company or the client;
// Nil is the app itself. Where rows were edited since, keep has to say what is
// done with them.
func (r *Roster) UndoMerge(ctx context.Context, app, actor, id uuid.UUID, keep *MergeKeep, key IdempotencyKey) (Merge, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (Merge, error) {
		if err := keep.check(); err != nil {
			return Merge{}, err
		}
		m, err := readMerge(ctx, tx, app, id, "FOR UPDATE")
		if err != nil {
			return m, err
		}
		if actor != uuid.Nil && actor != m.SurvivorID {
			if _, err := companyOf(ctx, tx, app, actor, m.CompanyID); err != nil {
				return m, err
			}
		}
		if m.State == MergeUndoing || m.State == MergeUndone {
			return m, nil
		}
		if err := lockSurvivor(ctx, tx, m); err != nil {
			return m, err
		}
		if err := undoable(ctx, tx, m, r.now()); err != nil {
			return m, err
		}
		if keep == nil {
			edited, err := editedSince(ctx, tx, id)
			if err != nil {
				return m, err
			}
			if len(edited) > 0 {
				return m, errorf(Conflict, "rows_edited", "%d rows or more were edited since the merge. Look at them, and say what is kept of them: what they are now, or what they were before.", len(edited))
			}
		}
		now := r.now()
		m, ok, err := changeMerge(ctx, tx, app, id, `
			SET state = 'undoing', step = '', keep = $3 WHERE app_id = $1 AND id = $2
				AND (state = 'merged' AND undo_until > $4 OR state = 'running' AND step = 'moved')`, app, id, keep, now)
		if err == nil && !ok {
			err = m.stands()
		}
		if err != nil {
			return m, err
		}
		if err := m.record(ctx, tx, now, actor, EventMergeUndoing); err != nil {
			return m, err
		}
		return m, r.enqueue(ctx, tx, UndoMerge{id})
	})
}

// undoable says why a merge cannot be undone, if so. One whose rows have moved
// can be, although the app never did its part.
func undoable(ctx context.Context, tx pgx.Tx, m Merge, now time.Time) error {
	switch {
	case m.State == MergeFinalized, m.State == MergeMerged && !m.UndoUntil.After(now):
		err := errorf(Gone, "undo_over", "The time in which this merge could be undone is over.")
		err.State, err.DecidedAt = State(MergeFinalized), m.UndoUntil
		return err
	case m.State != MergeMerged && (m.State != MergeRunning || m.Step != StepMoved):
		return m.stands()
	}
	var later bool
	if err := tx.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM account WHERE id = $1 AND merged_into IS NOT NULL)
			OR EXISTS (SELECT FROM merge o WHERE o.survivor_id = $1 AND o.moved_at > $2 AND o.state <> 'undone')
			OR EXISTS (SELECT FROM merge o WHERE o.survivor_id = $1 AND o.id <> $3 AND o.state IN ('confirmed', 'running', 'undoing'))`,
		m.SurvivorID, m.MovedAt, m.ID).Scan(&later); err != nil {
		return fmt.Errorf("look for later merges than %s: %w", m.ID, err)
	}
	if later {
		return errorf(Conflict, "later_merge", "Something else was merged since, or is about to be. Only the latest merge can be undone: undo that one first.")
	}
	return nil
}

// RestoreMerge sets back what a merge changed, in one transaction. Rows that
// were edited since the undo was asked for are left as they are.
func (r *Roster) RestoreMerge(ctx context.Context, id uuid.UUID) (m Merge, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if m, err = mergeWork(ctx, tx, id); err != nil || m.State != MergeUndoing || m.Step != StepNone {
			return err
		}
		if err := lockPair(ctx, tx, m); err != nil {
			return err
		}
		now := r.now()
		if err := restoreRows(ctx, tx, m); err != nil {
			return err
		}
		q, err := readRequest(ctx, tx, m.AppID, m.RequestID, "")
		if err != nil {
			return err
		}
		if !q.Open() && q.State != Granted { // it was revoked since
			if err := r.keepTemporary(ctx, tx, now, q); err != nil {
				return err
			}
		}
		if m, _, err = changeMerge(ctx, tx, m.AppID, id, `SET step = 'restored' WHERE id = $1 AND state = 'undoing' AND step = ''`, id); err != nil {
			return err
		}
		return m.record(ctx, tx, now, uuid.Nil, EventAccountUnmerged)
	})
	return m, err
}

func restoreRows(ctx context.Context, tx pgx.Tx, m Merge) error {
	keep := m.Keep
	if keep == nil {
		keep = &MergeKeep{Edited: KeepNow} // edited after all were looked at
	}
	var back, stay []int64
	for n, choice := range keep.Rows {
		if choice == KeepBefore {
			back = append(back, n)
		} else {
			stay = append(stay, n)
		}
	}
	batch := &pgx.Batch{}
	for _, w := range mergeWhats {
		if w.made {
			batch.Queue(`DELETE FROM `+w.table+` WHERE (`+strings.Join(w.key, ", ")+`) IN (SELECT `+prefixed("a", w.key)+` FROM `+w.joined()+`)`, m.ID)
			continue
		}
		// The key, too: the merge may have changed a part of it.
		columns := slices.Concat(w.key, w.compare, w.restore)
		unblocked := ""
		if w.blocked != "" {
			unblocked = ` AND NOT (` + w.blocked + `)`
		}
		batch.Queue(fmt.Sprintf(`
			WITH back AS MATERIALIZED (
				SELECT c.n, c.before, c.after FROM %s%s AND (NOT %s OR CASE WHEN c.n = ANY ($3) THEN true WHEN c.n = ANY ($4) THEN false ELSE $2 = 'before' END)
			)
			UPDATE %s AS t SET (%s) = ROW (%s)
			FROM back CROSS JOIN LATERAL jsonb_populate_record(%[9]s, back.before) AS b CROSS JOIN LATERAL jsonb_populate_record(%[9]s, back.after) AS a
			WHERE (%[7]s) = (%[8]s)`,
			w.joined(), unblocked, w.edited(), w.table, strings.Join(columns, ", "), prefixed("b", columns), prefixed("t", w.key), prefixed("a", w.key), w.none()),
			m.ID, keep.Edited, back, stay)
	}
	batch.Queue(`DELETE FROM account_search WHERE account_id = $1`, m.AbsorbedID)
	batch.Queue(`
		INSERT INTO account_search (app_id, kind, key, account_id)
		SELECT account.app_id, account.kind, key, account.id FROM account, search_keys(full_name, email_key) AS key WHERE account.id = $1`, m.AbsorbedID)
	batch.Queue(`DELETE FROM merge_change WHERE merge_id = $1`, m.ID)
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("restore rows of merge %s: %w", m.ID, err)
	}
	return nil
}

// FinishUndo ends an undo whose rows are back, once the app has done its part.
func (r *Roster) FinishUndo(ctx context.Context, id uuid.UUID) (m Merge, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if m, err = mergeWork(ctx, tx, id); err != nil || m.State != MergeUndoing || m.Step != StepRestored {
			return err
		}
		now := r.now()
		m, _, err = changeMerge(ctx, tx, m.AppID, id, `SET state = 'undone', ended_at = $2 WHERE id = $1 AND state = 'undoing' AND step = 'restored'`, id, now)
		if err != nil {
			return err
		}
		return m.record(ctx, tx, now, uuid.Nil, EventMergeUndone)
	})
	return m, err
}

// WakeMerges gives a job to each merge that is under way and has none any more,
// such as one whose job somebody deleted. It answers how many are under way.
func (r *Roster) WakeMerges(ctx context.Context) (n int, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			SELECT id, state FROM merge WHERE state IN ('confirmed', 'running', 'undoing')
			UNION SELECT id, state FROM merge WHERE step = 'preparing'`)
		if err != nil {
			return fmt.Errorf("look for merges under way: %w", err)
		}
		found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
			ID    uuid.UUID
			State MergeState
		}])
		if err != nil {
			return fmt.Errorf("look for merges under way: %w", err)
		}
		var jobs []river.JobArgs
		for _, m := range found {
			if m.State == MergeUndoing {
				jobs = append(jobs, UndoMerge{m.ID})
			} else {
				jobs = append(jobs, RunMerge{m.ID})
			}
		}
		n = len(jobs)
		return r.enqueue(ctx, tx, jobs...)
	})
	return n, err
}

// FinalizeMerges makes at most limit merges final whose time to be undone is
// over, and forgets what they changed. It answers how many.
func (r *Roster) FinalizeMerges(ctx context.Context, limit int) (ended int, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		final, err := r.finalizeMerges(ctx, tx, r.now(), limit)
		ended = len(final)
		return err
	})
	return ended, err
}

func (r *Roster) finalizeMerges(ctx context.Context, tx pgx.Tx, now time.Time, limit int) ([]Merge, error) {
	rows, err := tx.Query(ctx, `
		UPDATE merge SET state = 'finalized', ended_at = $1
		WHERE state = 'merged' AND undo_until <= $1 AND id = ANY(ARRAY(
			SELECT id FROM merge WHERE state = 'merged' AND undo_until <= $1 ORDER BY undo_until, id LIMIT $2 FOR UPDATE SKIP LOCKED))
		RETURNING `+mergeColumns, now, limit)
	if err != nil {
		return nil, fmt.Errorf("finalize merges: %w", err)
	}
	final, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Merge])
	if err != nil {
		return nil, fmt.Errorf("finalize merges: %w", err)
	}
	ids, events := make([]uuid.UUID, len(final)), make([]newEvent, len(final))
	for i, m := range final {
		ids[i], events[i] = m.ID, m.eventOf(EventMergeFinalized, uuid.Nil)
	}
	if _, err := tx.Exec(ctx, `DELETE FROM merge_change WHERE merge_id = ANY ($1)`, ids); err != nil {
		return nil, fmt.Errorf("forget what %d merges changed: %w", len(final), err)
	}
	_, err = recordEvents(ctx, tx, now, events...)
	return final, err
}

// sweepMerges is a chunk of the sweep that makes merges final. It also wakes
// those that are under way and have no job.
func (r *Roster) sweepMerges(ctx context.Context, tx pgx.Tx, now time.Time, _ int, s *Swept) (more bool, err error) {
	if _, err := r.In(tx).WakeMerges(ctx); err != nil {
		return false, err
	}
	// Of each, what it changed is forgotten: that may be many rows.
	const few = 20
	final, err := r.finalizeMerges(ctx, tx, now, few)
	s.Scanned += len(final)
	for _, m := range final {
		s.did(Deed{m.AppID, m.ID, "", "makes final", "it could be undone until " + m.UndoUntil.UTC().Format(time.RFC3339)})
	}
	return len(final) == few, err
}
