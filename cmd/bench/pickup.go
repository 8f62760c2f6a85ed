package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// pickupRate is how many invitations a second are posted.
	pickupRate = 200

	// pickupClients is how many connections post them: enough that none waits
	// for another's answer.
	pickupClients = 16

	// drainTime is how long the worker may need for the last job.
	drainTime = 10 * time.Second

	// bellEvery is how often the floor rings: often enough for a median, too
	// seldom to be in the way.
	bellEvery = 20 * time.Millisecond
)

// noteStart makes the worker's dispatches tell when it began: a column's default
// is evaluated with the time its transaction started, and starting one is the
// first thing the worker does with a job.
const noteStart = `ALTER TABLE dispatch ADD COLUMN IF NOT EXISTS bench_started_at timestamptz DEFAULT transaction_timestamp()`

// jobPickup measures how long a committed invitation waits for a worker, at a
// steady rate: from the commit, as PostgreSQL noted it, to the begin of the
// transaction in which the worker looks at the invitation. The floor is what a
// notification takes from one connection to another.
func jobPickup(ctx context.Context, b *bench) (f figure, err error) {
	if err := b.clear(ctx); err != nil {
		return f, err
	}
	if _, err := b.pool.Exec(ctx, noteStart); err != nil {
		return f, fmt.Errorf("have starts noted: %w", err)
	}
	web, err := b.startWeb(ctx)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, web.stop()) }()
	worker, err := b.startUsher(ctx, "worker", "")
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, worker.stop()) }()

	warm := time.Duration(warmUp * float64(b.perFigure))
	if _, err := b.drip(ctx, web.address, warm); err != nil {
		return f, err
	}
	if err := b.drain(ctx); err != nil {
		return f, err
	}
	if err := b.clear(ctx); err != nil {
		return f, err
	}
	ringing, stopRinging := context.WithCancel(ctx)
	defer stopRinging()
	rung := make(chan []time.Duration, 1)
	failed := make(chan error, 1)
	go func() {
		bells, err := b.ring(ringing)
		rung <- bells
		failed <- err
	}()
	posted, err := b.drip(ctx, web.address, b.perFigure-warm)
	if err != nil {
		return f, err
	}
	stopRinging()
	bells := <-rung
	if err := <-failed; err != nil {
		return f, err
	}
	if err := b.drain(ctx); err != nil {
		return f, err
	}
	rows, err := b.pool.Query(ctx, `
		SELECT 1000 * extract(epoch FROM dispatch.bench_started_at - pg_xact_commit_timestamp(event.xmin))::float8
		FROM event JOIN message ON message.subject_id = event.subject_id JOIN dispatch ON dispatch.id = message.dispatch_id
		WHERE event.type = 'invitation.created'`)
	if err != nil {
		return f, fmt.Errorf("read waits: %w", err)
	}
	waits, err := pgx.CollectRows(rows, pgx.RowTo[float64])
	if err != nil {
		return f, fmt.Errorf("read waits: %w", err)
	}
	if len(waits) != posted {
		return f, fmt.Errorf("%d invitations were accepted and %d mailed", posted, len(waits))
	}
	return figure{
		Value: quantile(waits, 0.5), P99: quantile(waits, 0.99), Unit: "ms",
		Floor: milliseconds(quantile(bells, 0.5)), N: len(waits),
	}, nil
}

// drip posts invitations at a steady rate, whatever the answers take.
func (b *bench) drip(ctx context.Context, address string, d time.Duration) (posted int, err error) {
	due := make(chan struct{}, pickupRate) // a second's worth may be late
	done := make(chan error, pickupClients)
	for range pickupClients {
		c, err := b.connect(address)
		if err != nil {
			return 0, err
		}
		go func() {
			defer c.conn.Close()
			for range due {
				if err := c.post(); err != nil {
					done <- err
					return
				}
			}
			done <- nil
		}()
	}
	tick := time.NewTicker(time.Second / pickupRate)
	defer tick.Stop()
	for start := time.Now(); time.Since(start) < d && ctx.Err() == nil; {
		<-tick.C
		// A tick that came late is made up for.
		for want := int(time.Since(start).Seconds() * pickupRate); posted < want; posted++ {
			select {
			case due <- struct{}{}:
			default:
				return posted, fmt.Errorf("the web front does not keep up with %d requests a second", pickupRate)
			}
		}
	}
	close(due)
	for range pickupClients {
		err = errors.Join(err, <-done)
	}
	return posted, errors.Join(err, ctx.Err())
}

// drain waits until the worker has nothing left to do.
func (b *bench) drain(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, drainTime)
	defer cancel()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		var left int
		if err := b.pool.QueryRow(ctx, `
			SELECT count(*) FROM message WHERE state IN ('queued', 'sending')`).Scan(&left); err != nil {
			return fmt.Errorf("count messages: %w", err)
		}
		if left == 0 {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("%d mails are still not sent after %s", left, drainTime)
		}
	}
}

// ring measures, until ctx ends, how long a bare notification takes.
func (b *bench) ring(ctx context.Context) ([]time.Duration, error) {
	conn, err := b.pool.Acquire(ctx)
	if err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	listener := conn.Hijack() // it stays subscribed, so nobody else may get it
	defer listener.Close(context.WithoutCancel(ctx))
	if _, err := listener.Exec(ctx, "LISTEN bench_bell"); err != nil {
		return nil, fmt.Errorf("listen: %w", err)
	}
	tick := time.NewTicker(bellEvery)
	defer tick.Stop()
	var bells []time.Duration
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return bells, nil
		}
		start := time.Now()
		_, err := b.pool.Exec(ctx, "NOTIFY bench_bell")
		if err == nil {
			_, err = listener.WaitForNotification(ctx)
		}
		switch {
		case ctx.Err() != nil:
			return bells, nil
		case err != nil:
			return nil, fmt.Errorf("ring: %w", err)
		}
		bells = append(bells, time.Since(start))
	}
}
