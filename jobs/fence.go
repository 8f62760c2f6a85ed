package jobs

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"usher/internal/postgres"
)

// errOvertaken ends an attempt that took so long that the job was given to
// another one. Its effects are rolled back. River may write the error to the
// job's row while the other attempt is at work; that one is then overtaken as
// well, and the next one settles the matter.
var errOvertaken = errors.New("this attempt was given up and another one has the job")

// fence makes a transaction that begins with it happen only if this attempt
// still holds the job, and keeps any other from taking it until then. River tests the job's
// state, not the attempt: a worker that was stopped and woke up after a rescue
// would otherwise complete somebody else's attempt.
func fence[T river.JobArgs](batch *pgx.Batch, job *river.Job[T]) {
	fenceBy(batch, job, "FOR UPDATE")
}

// fenceShared is fence for several transactions of one attempt at a time, none of
// which ends the job.
func fenceShared[T river.JobArgs](batch *pgx.Batch, job *river.Job[T]) {
	fenceBy(batch, job, "FOR SHARE")
}

func fenceBy[T river.JobArgs](batch *pgx.Batch, job *river.Job[T], lock string) {
	batch.Queue(`
		SELECT 1 FROM river_job WHERE id = $1 AND state = 'running' AND attempt = $2 `+lock,
		job.ID, job.Attempt).QueryRow(func(row pgx.Row) error {
		var one int
		if err := row.Scan(&one); !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		return errOvertaken
	})
}

// at tells where a job stands.
func (w *Worker) at(point string) {
	if w.At != nil {
		w.At(point)
	}
}

// complete ends the job within tx and notes in its output how it ended.
func complete[T river.JobArgs](ctx context.Context, tx pgx.Tx, job *river.Job[T], output string) error {
	if err := river.RecordOutput(ctx, output); err != nil {
		return fmt.Errorf("record output of job %d: %w", job.ID, err)
	}
	if _, err := river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, job); err != nil {
		return fmt.Errorf("complete job %d: %w", job.ID, err)
	}
	return nil
}

// finish does the job's work and ends the job, with what the work says of
// itself, in one transaction.
func finish[T river.JobArgs](ctx context.Context, w *Worker, job *river.Job[T], work func(tx pgx.Tx) (output string, err error)) error {
	return postgres.InTxAfter(ctx, w.DB, func(batch *pgx.Batch) { fence(batch, job) }, func(tx pgx.Tx) error {
		output, err := work(tx)
		if err != nil {
			return err
		}
		return complete(ctx, tx, job, output)
	})
}
