package jobs

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"usher/internal/roster"
)

// notifyWorkspace tells a person of the workspaces they were added to. Who adds
// them inserts the job.
type notifyWorkspace struct {
	river.WorkerDefaults[roster.NotifyWorkspace]
	*Worker
}

func (w *notifyWorkspace) Work(ctx context.Context, job *river.Job[roster.NotifyWorkspace]) error {
	return finish(ctx, w.Worker, job, func(tx pgx.Tx) (string, error) {
		told, skip, err := w.Roster.In(tx).NotifyWorkspaces(ctx, job.Args.AccountID)
		if err != nil || skip != "" {
			return "skipped: " + string(skip), err
		}
		return fmt.Sprintf("told of %d workspaces", told), nil
	})
}
