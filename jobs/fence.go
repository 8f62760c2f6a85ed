package jobs

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
)

// errOvertaken ends an attempt that took so long that the job was given to
// another one. Its effects are rolled back. River may write the error to the
// job's row while the other attempt is at work; that one is then overtaken as
// well, and the next one settles the matter.
var errOvertaken = errors.New("this attempt was given up and another one has the job")

// fence makes the rest of tx happen only if this attempt still holds the job,
// and keeps any other from taking it until tx ends. River tests the job's
// state, not the attempt: a worker that was stopped and woke up after a rescue
// would otherwise complete somebody else's attempt.
func fence[T river.JobArgs](ctx context.Context, tx pgx.Tx, job *river.Job[T]) error {
	var one int
	err := tx.QueryRow(ctx, `
		SELECT 1 FROM river_job WHERE id = $1 AND state = 'running' AND attempt = $2 FOR UPDATE`,
		job.ID, job.Attempt).Scan(&one)
	if errors.Is(err, pgx.ErrNoRows) {
		return errOvertaken
	}
	if err != nil {
		return fmt.Errorf("fence job %d: %w", job.ID, err)
	}
	return nil
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
