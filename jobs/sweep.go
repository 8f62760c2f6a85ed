package jobs

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"golang.org/x/sync/errgroup"

	"usher/internal/postgres"
	"usher/internal/roster"
)

// lateAfter is how long after its tick a sweep may begin without an alarm: longer
// than the gap that a dead leader leaves.
const lateAfter = 2 * time.Minute

// sweep runs one sweep to its end, chunk by chunk: what a process that dies
// leaves, the next attempt or the next tick goes on with. The clock inserts it,
// and so does an operator.
type sweep struct {
	river.WorkerDefaults[roster.Sweep]
	*Worker
}

func (w *sweep) Work(ctx context.Context, job *river.Job[roster.Sweep]) error {
	swept, err := w.Sweep(ctx, w.Roster, job.Args.Name, job.Args.Tick, job.Args.ByHand, func(ctx context.Context, run func(r *roster.Roster) error) error {
		return postgres.InTxAfter(ctx, w.DB, func(batch *pgx.Batch) { fenceShared(batch, job) }, func(tx pgx.Tx) error { return run(w.Roster.In(tx)) })
	})
	if err != nil {
		return errors.Join(err, w.Roster.SweepFailed(ctx, job.Args.Name, job.Args.Tick, err))
	}
	return river.RecordOutput(ctx, swept)
}

// SweepOutput is what a run of a sweep came to.
type SweepOutput struct {
	Skipped string         `json:"not_run,omitempty"` // why there was nothing to run
	Scanned int            `json:"scanned"`
	Acted   int            `json:"acted"`
	Passed  map[string]int `json:"skipped,omitempty"` // how many were passed over, by the reason
}

// Sweep runs a sweep for a tick; chunk runs a part of it in a transaction of its
// own. Parts of several lanes run at a time.
func (w *Worker) Sweep(
	ctx context.Context, r *roster.Roster, name string, tick time.Time, byHand bool, chunk func(context.Context, func(*roster.Roster) error) error,
) (out SweepOutput, err error) {
	schedule, err := roster.SweepSchedule(name)
	if err != nil {
		return out, err
	}
	run, skip, err := r.BeginSweep(ctx, name, tick, byHand, func(since, until time.Time) int { return ticksBetween(schedule, since, until) })
	if err != nil || skip != "" {
		return SweepOutput{Skipped: string(skip)}, err
	}
	if lag := run.Lag(); run.Since != nil && (lag > lateAfter || run.Missed > 0) {
		w.Log.Error("A sweep is late.", "sweep", name, "tick", tick, "lag", lag.Round(time.Second).String(), "missed", run.Missed)
	}
	out.Passed = map[string]int{}
	var mu sync.Mutex
	lanes, running := errgroup.WithContext(ctx)
	for lane := range roster.SweepLanes(name) {
		lanes.Go(func() error {
			for more := true; more; {
				var s roster.Swept
				if err := chunk(running, func(r *roster.Roster) (err error) {
					s, more, err = r.RunSweep(running, name, lane, tick)
					return err
				}); err != nil {
					return err
				}
				mu.Lock()
				out.Scanned, out.Acted = out.Scanned+s.Scanned, out.Acted+s.Acted
				for reason, n := range s.Skipped {
					out.Passed[reason] += n
				}
				mu.Unlock()
				w.at("mid-sweep")
			}
			return nil
		})
	}
	if err := lanes.Wait(); err != nil {
		return out, err
	}
	return out, r.EndSweep(ctx, name, tick)
}

// ticksBetween counts the ticks after since and before until. More than a
// thousand are as many.
func ticksBetween(schedule roster.Schedule, since, until time.Time) (n int) {
	for t := schedule.Next(since.UTC()); t.Before(until) && n < 1_000; t = schedule.Next(t) {
		n++
	}
	return n
}

// lastTick is the newest tick of a schedule that is not after now.
func lastTick(schedule roster.Schedule, now time.Time) time.Time {
	for _, back := range []time.Duration{time.Minute, time.Hour, 25 * time.Hour, 32 * 24 * time.Hour} {
		last := time.Time{}
		for t := schedule.Next(now.Add(-back - time.Second)); !t.After(now); t = schedule.Next(t) {
			last = t
		}
		if !last.IsZero() {
			return last
		}
	}
	return now
}

// periodicSweeps insert a sweep at each of its ticks, and one when a leader takes
// over: its window begins where the last run's ended.
func periodicSweeps() (periodic []*river.PeriodicJob, err error) {
	for _, name := range roster.SweepNames() {
		schedule, err := roster.SweepSchedule(name)
		if err != nil {
			return nil, err
		}
		periodic = append(periodic, river.NewPeriodicJob(utc{schedule}, func() (river.JobArgs, *river.InsertOpts) {
			return roster.Sweep{Name: name, Tick: lastTick(schedule, time.Now().UTC())}, nil
		}, &river.PeriodicJobOpts{ID: name, RunOnStart: true}))
	}
	return periodic, nil
}
