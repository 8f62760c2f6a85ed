package roster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"usher/internal/postgres"
)

// The types of Event about merges, their subject.
const (
	EventMergePreviewed = "merge.previewed"
	EventMergeConfirmed = "merge.confirmed"
	EventMergeMerged    = "merge.merged"
	EventMergeFailed    = "merge.failed"
	EventMergeCancelled = "merge.cancelled"
	EventMergeUndoing   = "merge.undoing"
	EventMergeUndone    = "merge.undone"
	EventMergeFinalized = "merge.finalized"

	EventAccountMerged   = "account.merged"   // its subject is the account that lives on
	EventAccountUnmerged = "account.unmerged" // likewise
)

// MergeState is where a merge stands.
type MergeState string

// The states of a Merge.
const (
	MergePreviewed       MergeState = "previewed"
	MergeNeedsResolution MergeState = "needs_resolution" // a question has to be answered first
	MergeConfirmed       MergeState = "confirmed"
	MergeRunning         MergeState = "running"
	MergeMerged          MergeState = "merged" // it can be undone
	MergeFinalized       MergeState = "finalized"
	MergeFailed          MergeState = "failed"    // nothing was changed
	MergeCancelled       MergeState = "cancelled" // likewise
	MergeUndoing         MergeState = "undoing"
	MergeUndone          MergeState = "undone"
)

var mergeStates = []MergeState{
	MergePreviewed, MergeNeedsResolution, MergeConfirmed, MergeRunning, MergeMerged, MergeFinalized, MergeFailed, MergeCancelled, MergeUndoing, MergeUndone,
}

// MergeStep is how far the work on a merge's state has come.
type MergeStep string

// The steps. The app is called before the rows move, after that, and after they
// were moved back or were left where they are.
const (
	StepNone      MergeStep = ""
	StepPreparing MergeStep = "preparing" // the app may have been called
	StepMoved     MergeStep = "moved"     // the rows are the survivor's
	StepRestored  MergeStep = "restored"  // they are back
	StepReleased  MergeStep = "released"  // the app knows that there will be no merge
)

// QueueMerges is where the jobs that merge wait. They call apps, which may be
// slow, so nothing else waits behind them.
const QueueMerges = "merges"

// mergeAttempts is how often a job of a merge is tried, with at most ten minutes
// between: a week, in which somebody mends the app's endpoint.
const mergeAttempts = 1_000

// mergeJob says where a merge's job waits. There is one at a time.
var mergeJob = river.InsertOpts{Queue: QueueMerges, MaxAttempts: mergeAttempts, UniqueOpts: river.UniqueOpts{
	ByArgs: true, ByState: []rivertype.JobState{
		rivertype.JobStateAvailable, rivertype.JobStatePending, rivertype.JobStateRetryable, rivertype.JobStateRunning, rivertype.JobStateScheduled,
	},
}}

// RunMerge is the job that carries out a confirmed merge.
type RunMerge struct {
	MergeID uuid.UUID `json:"merge_id"`
}

// Kind is the job's name in River.
func (RunMerge) Kind() string { return "run_merge" }

// InsertOpts say where the job waits.
func (RunMerge) InsertOpts() river.InsertOpts {
	return mergeJob
}

// UndoMerge is the job that undoes a merge.
type UndoMerge struct {
	MergeID uuid.UUID `json:"merge_id"`
}

// Kind is the job's name in River.
func (UndoMerge) Kind() string { return "undo_merge" }

// InsertOpts say where the job waits.
func (UndoMerge) InsertOpts() river.InsertOpts {
	return mergeJob
}

// Merge folds an account that was made meanwhile, the absorbed one, into the
// person's own, which lives on: the survivor.
type Merge struct {
	ID          uuid.UUID
	AppID       uuid.UUID
	CompanyID   uuid.UUID // whose temporary account it is
	RequestID   uuid.UUID // the granted access request that allows it
	SurvivorID  uuid.UUID
	AbsorbedID  uuid.UUID
	ActorID     *uuid.UUID // who confirmed it; nil: nobody yet, or the app's policy
	State       MergeState
	Step        MergeStep
	Preview     MergePreview // as it was shown last
	Hash        []byte       // of all that the preview depends on
	SamePerson  []byte       // the question that was answered with yes; nil: none was
	Keep        *MergeKeep   // of an undo
	Failure     string       // why it failed or was cancelled: a code
	CreatedAt   time.Time
	ConfirmedAt *time.Time
	MovedAt     *time.Time // when the rows were
	MergedAt    *time.Time // when the app had done its part as well
	UndoUntil   *time.Time
	EndedAt     *time.Time
}

const mergeColumns = `merge.id, merge.app_id, merge.company_id, merge.request_id, merge.survivor_id, merge.absorbed_id, merge.actor_id, merge.state, merge.step,
	merge.preview, merge.hash, merge.same_person, merge.keep, merge.failure, merge.created_at, merge.confirmed_at, merge.moved_at, merge.merged_at, merge.undo_until, merge.ended_at`

func collectMerge(rows pgx.Rows, err error) (Merge, error) {
	if err != nil {
		return Merge{}, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Merge])
}

// readMerge reads a merge; lock is a locking clause or empty.
func readMerge(ctx context.Context, tx pgx.Tx, app, id uuid.UUID, lock string) (Merge, error) {
	m, err := collectMerge(tx.Query(ctx, `SELECT `+mergeColumns+` FROM merge WHERE app_id = $1 AND id = $2 `+lock, app, id))
	if errors.Is(err, pgx.ErrNoRows) {
		return m, notFound("merge")
	}
	if err != nil {
		return m, fmt.Errorf("read merge %s: %w", id, err)
	}
	return m, nil
}

// changeMerge runs one conditional UPDATE of a merge, as change does of an
// invitation.
func changeMerge(ctx context.Context, tx pgx.Tx, app, id uuid.UUID, clause string, args ...any) (m Merge, ok bool, err error) {
	m, err = collectMerge(tx.Query(ctx, `UPDATE merge `+clause+` RETURNING `+mergeColumns, args...))
	if err == nil {
		return m, true, nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return m, false, fmt.Errorf("change merge %s: %w", id, err)
	}
	m, err = readMerge(ctx, tx, app, id, "")
	return m, false, err
}

// Merge is one merge of an app.
func (r *Roster) Merge(ctx context.Context, app, id uuid.UUID) (m Merge, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		m, err = readMerge(ctx, tx, app, id, "")
		return err
	})
	return m, err
}

// MergeList says which merges to list.
type MergeList struct {
	Account uuid.UUID  // into this one, or of it; Nil: of all
	State   MergeState // empty: in any state
	After   uuid.UUID  // the last id of the page before; Nil: the first page
	Limit   int        // rows
}

// Merges lists an app's merges, newest first.
func (r *Roster) Merges(ctx context.Context, app uuid.UUID, l MergeList) (merges []Merge, err error) {
	wanted := mergeStates
	if l.State != "" {
		wanted = []MergeState{l.State}
	}
	before := l.After
	if before == uuid.Nil {
		before = uuid.Max
	}
	query := `
		SELECT ` + mergeColumns + `
		FROM unnest($2::text[]) AS wanted (state) CROSS JOIN LATERAL (
			SELECT * FROM merge WHERE app_id = $1 AND state = wanted.state AND id < $4
			ORDER BY id DESC LIMIT $3) AS merge
		ORDER BY merge.id DESC LIMIT $3`
	args := []any{app, wanted, l.Limit, before}
	if l.Account != uuid.Nil {
		// Of one account there are few.
		query = `
		SELECT ` + mergeColumns + ` FROM merge
		WHERE id = ANY(ARRAY(SELECT id FROM merge WHERE survivor_id = $5 UNION SELECT id FROM merge WHERE absorbed_id = $5))
			AND app_id = $1 AND state = ANY ($2) AND id < $4
		ORDER BY id DESC LIMIT $3`
		args = append(args, l.Account)
	}
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, query, args...)
		if err != nil {
			return fmt.Errorf("list merges: %w", err)
		}
		merges, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Merge])
		return err
	})
	return merges, err
}

// stands is why a transition found nothing to change: the merge is in another
// state already.
func (m Merge) stands() *Error {
	messages := map[MergeState]string{
		MergePreviewed: "This merge waits for its confirmation.", MergeNeedsResolution: "A question about this merge has to be answered first.",
		MergeConfirmed: "This merge was confirmed, and is about to begin.", MergeRunning: "This merge is under way.",
		MergeMerged: "This merge is done.", MergeFinalized: "This merge is final.",
		MergeFailed: "This merge failed; nothing was changed.", MergeCancelled: "This merge was cancelled; nothing was changed.",
		MergeUndoing: "This merge is being undone.", MergeUndone: "This merge was undone.",
	}
	err := errorf(Conflict, "merge_"+string(m.State), "%s", messages[m.State])
	err.State = State(m.State)
	for _, at := range []*time.Time{m.EndedAt, m.MergedAt, m.ConfirmedAt} {
		if at != nil {
			err.DecidedAt = at
			break
		}
	}
	return err
}

// Telling tells whether the app may know of a merge that will not be, and has
// to be told.
func (m Merge) Telling() bool {
	return (m.State == MergeCancelled || m.State == MergeFailed) && m.Step == StepPreparing
}

// record writes an event of the merge.
func (m Merge) record(ctx context.Context, tx pgx.Tx, now time.Time, actor uuid.UUID, eventType string) error {
	_, err := recordEvents(ctx, tx, now, m.eventOf(eventType, actor))
	return err
}

func (m Merge) eventOf(eventType string, actor uuid.UUID) newEvent {
	data := map[string]any{"company_id": m.CompanyID, "request_id": m.RequestID, "survivor_id": m.SurvivorID, "absorbed_id": m.AbsorbedID}
	if m.Failure != "" {
		data["reason"] = m.Failure
	}
	subject := m.ID
	if eventType == EventAccountMerged || eventType == EventAccountUnmerged {
		subject = m.SurvivorID
		data = map[string]any{"merge_id": m.ID, "absorbed_id": m.AbsorbedID}
	}
	encoded, err := json.Marshal(data)
	if err != nil {
		panic(err) // plain data: it always marshals
	}
	return newEvent{m.AppID, eventType, subject, actor, encoded}
}

// living makes an account's id that of the account it lives on in, should it
// have been merged away: ids that apps keep stay good. An id that the app does
// not have is refused.
func living(ctx context.Context, tx pgx.Tx, app uuid.UUID, id *uuid.UUID) error {
	err := tx.QueryRow(ctx, `SELECT COALESCE(merged_into, id) FROM account WHERE app_id = $1 AND id = $2`, app, *id).Scan(id)
	if errors.Is(err, pgx.ErrNoRows) {
		return notFound("account")
	}
	if err != nil {
		return fmt.Errorf("read account %s: %w", *id, err)
	}
	return nil
}
