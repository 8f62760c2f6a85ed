// Package jobs works what the domain put into the queue: its kinds, its queues
// and the schedule of the periodic ones.
package jobs

import (
	"fmt"
	"log/slog"
	"math"
	"net/url"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"

	"usher/internal/hook"
	"usher/internal/mail"
	"usher/internal/postgres"
	"usher/internal/roster"
)

const (
	// softStop is how long a stopping worker lets its jobs finish before it cuts
	// them off. Those start anew elsewhere at once, without losing an attempt.
	softStop = 20 * time.Second

	// keepCompleted is how long finished jobs can be looked at.
	keepCompleted = 6 * time.Hour

	// mailCooldown is the least time between two fetches of mail that somebody
	// waits for. A job that comes right after a fetch waits for so long, so it
	// is short; each fetch costs a query, so it is not shorter.
	mailCooldown = 2 * time.Millisecond

	// bulkCooldown is the same for mail that nobody waits for: what is written is
	// sent soon, so that the next can be written.
	bulkCooldown = 20 * time.Millisecond

	// webhookWorkers is how many endpoints one process serves at once: far more
	// than hang at any time, as each of those is soon left alone.
	webhookWorkers = 100

	// webhookCooldown is the least time between two fetches of jobs that send
	// webhooks: nobody looks at a screen until they arrive.
	webhookCooldown = 10 * time.Millisecond

	// mergeWorkers is how many merges one process works at once: most of them
	// wait for an app.
	mergeWorkers = 20

	// mailPoll is how often such mail is looked for even if no notification
	// came: one that follows another within mailCooldown is not sent.
	mailPoll = 100 * time.Millisecond

	// maxRetryWait bounds the wait between attempts: the longest a mail waits
	// once a provider is back.
	maxRetryWait = 10 * time.Minute
)

// Worker is what the jobs need.
type Worker struct {
	DB     postgres.DB
	Roster *roster.Roster
	Outbox *mail.Outbox
	Sender mail.Sender
	Keys   *roster.Keyring
	URL    *url.URL // Usher's public address
	From   string   // the installation's sender, "Name <address>"

	// Webhooks tells that the provider is to say what becomes of mail; it is an
	// alarm if it does not.
	Webhooks bool

	Log *slog.Logger

	// PrivateWebhooks lets webhooks go to addresses that are not on the public
	// internet.
	PrivateWebhooks bool

	// At is told where a job stands, at the points between which a process may
	// die. Only the chaos suite's build sets it, to do just that.
	At func(point string)

	turns [2]turns // of composing, by lane
	hooks *hook.Deliverer
}

// queues and their workers: mail that somebody waits for is fetched within
// milliseconds, the rest may wait for River's default of 100 ms.
func queues() map[string]river.QueueConfig {
	return map[string]river.QueueConfig{
		roster.Interactive.Queue(): {MaxWorkers: 50, FetchCooldown: mailCooldown, FetchPollInterval: mailPoll},
		roster.Bulk.Queue():        {MaxWorkers: 50, FetchCooldown: bulkCooldown},
		roster.QueueWebhooks:       {MaxWorkers: webhookWorkers, FetchCooldown: webhookCooldown, FetchPollInterval: mailPoll},
		mail.QueueHooks:            {MaxWorkers: 10, FetchCooldown: river.FetchCooldownDefault},
		roster.QueueNotices:        {MaxWorkers: 10, FetchCooldown: river.FetchCooldownDefault},
		roster.QueueMerges:         {MaxWorkers: mergeWorkers, FetchCooldown: river.FetchCooldownDefault},
		roster.QueueSweeps:         {MaxWorkers: 2, FetchCooldown: river.FetchCooldownDefault},
	}
}

// schedule is what the clock starts besides the sweeps, in UTC: what looks after
// work that is under way. River's leader starts it.
var schedule = []struct {
	id   string
	cron string
	args river.JobArgs
}{
	{"compose_interactive", "* * * * *", roster.ComposeMail{Lane: roster.Interactive}},
	{"compose_bulk", "* * * * *", roster.ComposeMail{Lane: roster.Bulk}},
	{"reconcile_mail", "*/10 * * * *", mail.ReconcileMail{}},
	{"wake_webhooks", "* * * * *", roster.WakeWebhooks{}},
	{"watch_webhooks", "*/10 * * * *", mail.WatchWebhooks{}},
}

// NewInserter is a client that only inserts, for processes that work no jobs.
func NewInserter(pool *pgxpool.Pool, logger *slog.Logger) (*river.Client[pgx.Tx], error) {
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		Logger:              logger,
		SkipUnknownJobCheck: true,
		FetchCooldown:       mailCooldown, // here: the least time between two notifications that wake workers
	})
	if err != nil {
		return nil, fmt.Errorf("open job queue: %w", err)
	}
	return client, nil
}

// NewClient is a client that works every kind of job once it is started. Every
// worker process registers every kind and the whole schedule, since any of them
// may become River's leader.
func NewClient(pool *pgxpool.Pool, w *Worker, logger *slog.Logger) (*river.Client[pgx.Tx], error) {
	w.hooks = w.deliverer()
	workers := river.NewWorkers()
	river.AddWorker(workers, &composeMail{Worker: w})
	river.AddWorker(workers, &sendDispatch{Worker: w})
	river.AddWorker(workers, &sweep{Worker: w})
	river.AddWorker(workers, &runMerge{Worker: w})
	river.AddWorker(workers, &undoMerge{Worker: w})
	river.AddWorker(workers, &notifyWorkspace{Worker: w})
	river.AddWorker(workers, &applyProviderEvent{Worker: w})
	river.AddWorker(workers, &retryMail{Worker: w})
	river.AddWorker(workers, &liftSuppression{Worker: w})
	river.AddWorker(workers, &liftAddress{Worker: w})
	river.AddWorker(workers, &reconcileMail{Worker: w})
	river.AddWorker(workers, &watchWebhooks{Worker: w})
	river.AddWorker(workers, &deliverWebhooks{Worker: w})
	river.AddWorker(workers, &wakeWebhooks{Worker: w})
	periodic, err := periodicJobs()
	if err != nil {
		return nil, err
	}
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		Logger:                      logger,
		Queues:                      queues(),
		Workers:                     workers,
		FetchCooldown:               mailCooldown, // here: the least time between two notifications that wake workers
		PeriodicJobs:                periodic,
		JobTimeout:                  jobTimeout,
		RescueStuckJobsAfter:        rescueAfter,
		SoftStopTimeout:             softStop,
		CompletedJobRetentionPeriod: keepCompleted,
		RetryPolicy:                 retryPolicy{},
	})
	if err != nil {
		return nil, fmt.Errorf("open job queue: %w", err)
	}
	return client, nil
}

func periodicJobs() ([]*river.PeriodicJob, error) {
	periodic := make([]*river.PeriodicJob, len(schedule))
	for i, entry := range schedule {
		tick, err := roster.ParseCron(entry.cron)
		if err != nil {
			return nil, fmt.Errorf("schedule %s: %w", entry.id, err)
		}
		periodic[i] = river.NewPeriodicJob(utc{tick}, func() (river.JobArgs, *river.InsertOpts) {
			// A tick is dropped while the work of an earlier one is still
			// waiting or running: it would find the same rows.
			return entry.args, &river.InsertOpts{UniqueOpts: river.UniqueOpts{ByArgs: true, ByState: []rivertype.JobState{
				rivertype.JobStateAvailable, rivertype.JobStatePending, rivertype.JobStateRunning, rivertype.JobStateScheduled,
			}}}
		}, &river.PeriodicJobOpts{ID: entry.id, RunOnStart: true}) // a new leader makes up for ticks that fell into the gap
	}
	sweeps, err := periodicSweeps()
	return append(periodic, sweeps...), err
}

// utc asks a schedule for its next tick in UTC, whatever the machine's zone.
type utc struct{ roster.Schedule }

func (u utc) Next(t time.Time) time.Time { return u.Schedule.Next(t.UTC()) }

// retryPolicy waits 2, 4, 8 … seconds after failed attempts, at most
// maxRetryWait.
type retryPolicy struct{}

func (p retryPolicy) NextRetry(job *rivertype.JobRow) time.Time { return p.after(job, maxRetryWait) }

func (retryPolicy) after(job *rivertype.JobRow, longest time.Duration) time.Time {
	failures := min(len(job.Errors)+1, 20) // an error is added after this is asked
	wait := time.Duration(math.Exp2(float64(failures))) * time.Second
	return time.Now().UTC().Add(min(wait, longest))
}
