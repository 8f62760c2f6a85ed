package jobs

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"usher/internal/hook"
	"usher/internal/postgres"
	"usher/internal/roster"
)

// soon is up to when a job for an endpoint's next webhook is inserted ahead;
// what comes later is the sweep's.
const soon = time.Minute

// deliverWebhooks sends what is due at an endpoint. Who writes an event inserts
// the job; wakeWebhooks does each minute where something is due.
type deliverWebhooks struct {
	river.WorkerDefaults[roster.DeliverWebhooks]
	*Worker
}

func (w *deliverWebhooks) Work(ctx context.Context, job *river.Job[roster.DeliverWebhooks]) error {
	next, err := w.hooks.Deliver(ctx, job.Args.EndpointID)
	if err != nil {
		return err
	}
	if next.IsZero() || time.Until(next) > soon {
		return nil
	}
	// A job of its own, so that others' wait in between. Should the process die
	// before, the sweep makes up for it.
	return postgres.InTx(ctx, w.DB, func(tx pgx.Tx) error {
		return w.enqueue(ctx, tx, river.InsertManyParams{Args: job.Args, InsertOpts: &river.InsertOpts{ScheduledAt: next}})
	})
}

// deliverer sends the webhooks of this process.
func (w *Worker) deliverer() *hook.Deliverer {
	return &hook.Deliverer{
		DB: w.DB, Now: w.Roster.Now, Client: hook.NewClient(w.PrivateWebhooks), Log: w.Log, Key: w.Keys.WebhookKey,
		Disabled: func(ctx context.Context, tx pgx.Tx, app, endpoint uuid.UUID, reason string) error {
			return w.Roster.In(tx).EndpointFailed(ctx, app, endpoint, reason)
		},
	}
}

// wakeWebhooks wakes the endpoints at which something is due: what was put off,
// and what a killed process left. The clock starts it.
type wakeWebhooks struct {
	river.WorkerDefaults[roster.WakeWebhooks]
	*Worker
}

func (w *wakeWebhooks) Work(ctx context.Context, _ *river.Job[roster.WakeWebhooks]) error {
	endpoints, err := w.hooks.Waiting(ctx)
	if err != nil || len(endpoints) == 0 {
		return err
	}
	params := make([]river.InsertManyParams, len(endpoints))
	for i, id := range endpoints {
		// One that waits already is enough.
		params[i] = river.InsertManyParams{Args: roster.DeliverWebhooks{EndpointID: id}, InsertOpts: &river.InsertOpts{UniqueOpts: river.UniqueOpts{
			ByArgs: true, ByState: []rivertype.JobState{
				rivertype.JobStateAvailable, rivertype.JobStatePending, rivertype.JobStateRunning, rivertype.JobStateScheduled,
			},
		}}}
	}
	if err := postgres.InTx(ctx, w.DB, func(tx pgx.Tx) error { return w.enqueue(ctx, tx, params...) }); err != nil {
		return err
	}
	return river.RecordOutput(ctx, map[string]int{"endpoints": len(endpoints)})
}
