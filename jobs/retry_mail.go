package jobs

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"usher/internal/postgres"
	"usher/internal/roster"
)

// retryMail writes an invitation's mail again after one that came back for now.
type retryMail struct {
	river.WorkerDefaults[roster.RetryMail]
	*Worker
}

func (w *retryMail) Work(ctx context.Context, job *river.Job[roster.RetryMail]) error {
	return postgres.InTx(ctx, w.DB, func(tx pgx.Tx) error {
		if err := fence(ctx, tx, job); err != nil {
			return err
		}
		mailed, err := w.Roster.In(tx).MailAgain(ctx, job.Args)
		if err != nil {
			return err
		}
		if !mailed {
			return complete(ctx, tx, job, "skipped: the invitation moved on")
		}
		return complete(ctx, tx, job, "mailed again")
	})
}
