package hook

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

const (
	// concurrency is how many webhooks one process has under way to an endpoint.
	concurrency = 8

	// leastBatch and mostBatch bound how many deliveries are claimed ahead. The
	// least leaves a sender something to do while outcomes are recorded; the
	// most is a fraction of a second's work for a quick endpoint.
	leastBatch = 2 * concurrency
	mostBatch  = 256

	// flushAfter is how long an outcome may wait to be recorded with others.
	flushAfter = 50 * time.Millisecond

	// quick is how soon half of a batch is done where the next may be larger.
	quick = 250 * time.Millisecond

	// runTime is how long one job sends before it lets others go first.
	runTime = 10 * time.Second

	// lease is how long a claimed delivery is nobody else's. It outlasts the run
	// that claimed it, so that only what a killed process left is claimed twice.
	lease = runTime + answerTime + 35*time.Second

	// recordTime bounds the recording of what was sent after a job's time is over.
	recordTime = 5 * time.Second
)

// Deliverer sends webhooks. All endpoints of a process share one.
type Deliverer struct {
	DB     postgres.DB
	Now    func() time.Time
	Client *http.Client // of NewClient
	Log    *slog.Logger

	// Key is what a version of an endpoint's secret signs with, from the
	// installation's key of that id.
	Key func(keyID []byte, endpoint uuid.UUID, version int) ([]byte, error)

	// Disabled writes down, in the transaction that did it, that an endpoint was
	// disabled.
	Disabled func(ctx context.Context, tx pgx.Tx, app, endpoint uuid.UUID, reason string) error

	mu      sync.Mutex
	running map[uuid.UUID]chan struct{} // endpoints that are being served; a value: look again
}

// now is the clock in the precision Postgres keeps.
func (d *Deliverer) now() time.Time { return d.Now().UTC().Truncate(time.Microsecond) }

// Deliver sends what is due at an endpoint, for runTime at most. next is when
// it is worth while to call again; zero: when something happens. A call while
// another of this process serves the endpoint only tells that one to look
// again, so that no endpoint ever takes more than one job's place.
func (d *Deliverer) Deliver(ctx context.Context, endpoint uuid.UUID) (next time.Time, err error) {
	again := make(chan struct{}, 1)
	d.mu.Lock()
	if other, ok := d.running[endpoint]; ok {
		select {
		case other <- struct{}{}:
		default:
		}
		d.mu.Unlock()
		return time.Time{}, nil
	}
	if d.running == nil {
		d.running = map[uuid.UUID]chan struct{}{}
	}
	d.running[endpoint] = again
	d.mu.Unlock()

	r := &run{Deliverer: d, endpoint: endpoint, again: again, deadline: time.Now().Add(runTime), batch: leastBatch}
	err = r.serveAlone(ctx)
	switch {
	case err != nil:
		return time.Time{}, err
	case r.more || len(again) > 0: // somebody came after the last look
		return d.now(), nil
	}
	return d.nextDue(ctx, endpoint)
}

// run is one turn of serving an endpoint. Its goroutine talks to the database
// while senders post.
type run struct {
	*Deliverer
	endpoint uuid.UUID
	again    chan struct{}
	deadline time.Time

	target target // as last read
	batch  int    // how many to claim ahead
	open   int    // claimed and without an outcome
	done   []outcome
	more   bool // something is left to do
}

// outcome is what became of a claimed delivery.
type outcome struct {
	claim
	Attempt
	unsent bool // given back as it was
}

// serveAlone is serve, after which another may serve the endpoint.
func (r *run) serveAlone(ctx context.Context) error {
	defer func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.running, r.endpoint)
	}()
	return r.serve(ctx)
}

func (r *run) serve(ctx context.Context) error {
	ready, outcomes := make(chan job, mostBatch), make(chan outcome, mostBatch)
	var senders sync.WaitGroup
	for range concurrency {
		senders.Go(func() {
			for j := range ready {
				outcomes <- j.send(ctx, r.Client, r.Now)
			}
		})
	}
	err := r.pump(ctx, ready, outcomes)
	// Whatever is not begun is given back, and what is under way is waited for.
	for len(ready) > 0 {
		select {
		case j := <-ready:
			r.finish(outcome{claim: j.claim, unsent: true})
		default:
		}
	}
	close(ready)
	senders.Wait()
	close(outcomes)
	for o := range outcomes {
		r.finish(o)
	}
	if len(r.done) == 0 {
		return err
	}
	// The job's time may be over; what was sent is to be known all the same.
	rest, cancel := context.WithTimeout(context.WithoutCancel(ctx), recordTime)
	defer cancel()
	_, recordErr := r.exchange(rest, 0)
	return errors.Join(err, recordErr)
}

// pump claims, hands out and records until nothing is due, or the run's time
// is over, or the endpoint takes no more.
func (r *run) pump(ctx context.Context, ready chan<- job, outcomes <-chan outcome) error {
	clock := time.NewTimer(time.Until(r.deadline))
	defer clock.Stop()
	var flush <-chan time.Time
	last := time.Now()
	for hungry := true; ; {
		if ctx.Err() != nil {
			r.more = true
			return nil
		}
		wanted := 0
		if hungry {
			wanted = max(0, r.batch-r.open)
		}
		if wanted > 0 || len(r.done) > 0 {
			r.adapt(time.Since(last))
			last, flush = time.Now(), nil
			claims, err := r.exchange(ctx, wanted)
			if err != nil {
				return err
			}
			r.open += len(claims)
			open := r.target.open(r.now())
			var keys [][]byte
			if open {
				keys, err = r.target.keys(r.Key, r.endpoint, r.now())
			}
			if !open || err != nil {
				for _, c := range claims {
					r.finish(outcome{claim: c, unsent: true})
				}
				return err
			}
			for _, c := range claims {
				ready <- job{c, r.target.URL, keys}
			}
			if wanted > 0 {
				hungry = len(claims) == wanted
			}
		}
		if r.open == 0 && !hungry {
			return nil
		}
		// More is claimed when half of the batch is done. Where no more is due,
		// outcomes are recorded together.
		for len(r.done) == 0 || r.open > 0 && !(hungry && r.open <= r.batch/2) {
			select {
			case o := <-outcomes:
				r.finish(o)
				if flush == nil {
					flush = time.After(flushAfter)
				}
				continue
			case <-flush:
			case <-r.again:
				hungry = true
			case <-clock.C:
				r.more = true
				return nil
			case <-ctx.Done():
			}
			break
		}
	}
}

// finish notes an outcome.
func (r *run) finish(o outcome) {
	r.open--
	r.done = append(r.done, o)
}

// adapt claims more of a quick endpoint at a time, and few of one that fails or
// takes its time: those would be kept from others for nothing.
func (r *run) adapt(took time.Duration) {
	if len(r.done) == 0 {
		return
	}
	for _, o := range r.done {
		if !o.ok() {
			r.batch = leastBatch
			return
		}
	}
	switch {
	case took > 4*quick:
		r.batch = leastBatch
	case took < quick && len(r.done) >= r.batch/2:
		r.batch = min(2*r.batch, mostBatch)
	}
}

// job is a delivery to be sent.
type job struct {
	claim
	url  string
	keys [][]byte
}

// send posts a webhook. One that the end of the job's time broke off says
// nothing of the endpoint.
func (j job) send(ctx context.Context, client *http.Client, now func() time.Time) outcome {
	if ctx.Err() != nil {
		return outcome{claim: j.claim, unsent: true}
	}
	a := post(ctx, client, j.url, j.keys, j.event, now)
	return outcome{j.claim, a, !a.ok() && a.Status == 0 && ctx.Err() != nil}
}
