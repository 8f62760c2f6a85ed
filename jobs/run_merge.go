package jobs

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"usher/internal/hook"
	"usher/internal/postgres"
	"usher/internal/roster"
)

// What an app is called about. It gets the first two for a merge, and the third
// for one that was undone, or that was prepared and came to nothing.
const (
	callPrepare = "merge.prepare"
	callApply   = "merge.apply"
	callUndo    = "merge.undo"
)

// runMerge carries out a confirmed merge. Each step looks where the merge
// stands, so that one which is done, or which the merge does not need any more,
// does nothing; River leaves out those whose end it knows of.
//
// Where the process dies, the next attempt goes on: before the rows have moved
// the merge is as if it had not begun, save that the app may know of it; from
// then on it ends merged, unless somebody undoes it.
type runMerge struct {
	river.WorkerDefaults[roster.RunMerge]
	*Worker
}

func (w *runMerge) Work(ctx context.Context, job *river.Job[roster.RunMerge]) error {
	id := job.Args.MergeID
	river.ResumableStep(ctx, "begin", nil, func(ctx context.Context) error {
		return mergeStep(ctx, w.Worker, job, id, (*roster.Roster).BeginMerge)
	})
	river.ResumableStep(ctx, "prepare", nil, func(ctx context.Context) error {
		return w.callApp(ctx, id, callPrepare, func(m roster.Merge) bool { return m.State == roster.MergeRunning && m.Step == roster.StepPreparing })
	})
	river.ResumableStep(ctx, "move", nil, func(ctx context.Context) error {
		err := mergeStep(ctx, w.Worker, job, id, (*roster.Roster).MoveMerge)
		if errors.Is(err, roster.ErrMoveWrong) {
			w.Log.Error("merge failed", "merge", id, "err", err)
			return mergeStep(ctx, w.Worker, job, id, (*roster.Roster).FailMerge)
		}
		return err
	})
	river.ResumableStep(ctx, "apply", nil, func(ctx context.Context) error {
		return w.callApp(ctx, id, callApply, func(m roster.Merge) bool { return m.State == roster.MergeRunning && m.Step == roster.StepMoved })
	})
	river.ResumableStep(ctx, "finish", nil, func(ctx context.Context) error {
		return mergeStep(ctx, w.Worker, job, id, (*roster.Roster).FinishMerge)
	})
	river.ResumableStep(ctx, "call off", nil, func(ctx context.Context) error {
		return w.callApp(ctx, id, callUndo, roster.Merge.Telling)
	})
	river.ResumableStep(ctx, "release", nil, func(ctx context.Context) error {
		return mergeStep(ctx, w.Worker, job, id, (*roster.Roster).ReleaseMerge)
	})
	return nil
}

// undoMerge takes a merge apart again in the same way: first the rows, in one
// transaction, and then the app.
type undoMerge struct {
	river.WorkerDefaults[roster.UndoMerge]
	*Worker
}

func (w *undoMerge) Work(ctx context.Context, job *river.Job[roster.UndoMerge]) error {
	id := job.Args.MergeID
	river.ResumableStep(ctx, "restore", nil, func(ctx context.Context) error {
		return mergeStep(ctx, w.Worker, job, id, (*roster.Roster).RestoreMerge)
	})
	river.ResumableStep(ctx, "undo", nil, func(ctx context.Context) error {
		return w.callApp(ctx, id, callUndo, func(m roster.Merge) bool { return m.State == roster.MergeUndoing && m.Step == roster.StepRestored })
	})
	river.ResumableStep(ctx, "finish", nil, func(ctx context.Context) error {
		return mergeStep(ctx, w.Worker, job, id, (*roster.Roster).FinishUndo)
	})
	return nil
}

// mergeStep does one step of a merge, and notes that it is done, in one
// transaction that only this attempt at the job can commit.
func mergeStep[T river.JobArgs](ctx context.Context, w *Worker, job *river.Job[T], id uuid.UUID, step func(*roster.Roster, context.Context, uuid.UUID) (roster.Merge, error)) error {
	err := postgres.InTxAfter(ctx, w.DB, func(batch *pgx.Batch) { fence(batch, job) }, func(tx pgx.Tx) error {
		m, err := step(w.Roster.In(tx), ctx, id)
		if err != nil {
			return err
		}
		if _, err := river.ResumableSetStepTx[*riverpgxv5.Driver](ctx, tx, job); err != nil {
			return fmt.Errorf("note step of merge %s: %w", id, err)
		}
		w.at("mid-merge-" + string(m.State) + "-" + string(m.Step))
		return nil
	})
	if err == nil {
		w.at("after-merge-step")
	}
	return err
}

// callApp calls the app about a merge, if it stands so that the app is to be
// called and the app wants to be. Attempts of one call carry the same id; what
// the app does not take is tried again.
func (w *Worker) callApp(ctx context.Context, id uuid.UUID, name string, wanted func(roster.Merge) bool) error {
	c, err := w.Roster.MergeCall(ctx, id)
	if err != nil || c.Endpoint == nil || !wanted(c.Merge) {
		return err
	}
	w.at("before-merge-call")
	err = w.hooks.Call(ctx, *c.Endpoint, hook.Call{
		ID: uuid.NewSHA1(id, []byte(name)), Type: name, At: *c.Merge.ConfirmedAt, Subject: id, Actor: c.Merge.ActorID, Details: c.Details(),
	})
	w.at("after-merge-call")
	return err
}
