package jobs

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"usher/internal/roster"
)

// retryMail writes an invitation's mail again after one that came back for now.
type retryMail struct {
	river.WorkerDefaults[roster.RetryMail]
	*Worker
}

func (w *retryMail) Work(ctx context.Context, job *river.Job[roster.RetryMail]) error {
	return finish(ctx, w.Worker, job, func(tx pgx.Tx) (string, error) {
		if mailed, err := w.Roster.In(tx).MailAgain(ctx, job.Args); err != nil || mailed {
			return "mailed again", err
		}
		return "skipped: the invitation moved on", nil
	})
}
