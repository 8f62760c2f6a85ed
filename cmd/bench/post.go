package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"
)

const (
	// pairs is how often Usher and the floor take turns. The median of five
	// survives two that something else disturbed.
	pairs = 5

	// warmUp is the share of a figure's time in which nothing is counted.
	warmUp = 0.15

	// sameBytes is how far the size of Usher's and the floor's rows may differ.
	sameBytes = 0.03
)

// postRate measures accepted POST /v1/invitations per second.
func postRate(connections int) func(context.Context, *bench) (figure, error) {
	return func(ctx context.Context, b *bench) (figure, error) {
		f := figure{Unit: "1/s", Connections: connections}
		ours, floor, err := b.compare(ctx, connections)
		for i := range ours {
			f.N += len(ours[i].waits)
			f.Rounds = append(f.Rounds, ours[i].perSecond())
			f.FloorRounds = append(f.FloorRounds, floor[i].perSecond())
		}
		f.Value, f.Floor = median(f.Rounds), median(f.FloorRounds)
		return f, err
	}
}

// postLatency measures how long one caller waits for an answer.
func postLatency(ctx context.Context, b *bench) (figure, error) {
	f := figure{Unit: "ms", Connections: 1}
	ours, floor, err := b.compare(ctx, 1)
	var all []time.Duration
	for i := range ours {
		all = append(all, ours[i].waits...)
		f.Rounds = append(f.Rounds, milliseconds(quantile(ours[i].waits, 0.5)))
		f.FloorRounds = append(f.FloorRounds, milliseconds(quantile(floor[i].waits, 0.5)))
	}
	f.N = len(all)
	f.P99 = milliseconds(quantile(all, 0.99))
	f.Value, f.Floor = median(f.Rounds), median(f.FloorRounds)
	return f, err
}

// compare lets Usher and the floor answer in turns, on tables that are emptied
// before each turn. No worker runs: the jobs pile up for both.
func (b *bench) compare(ctx context.Context, connections int) (ours, floor []tally, err error) {
	web, err := b.startWeb(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, web.stop()) }()
	bare, err := b.startFloor(ctx)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, bare.stop()) }()

	warm := time.Duration(warmUp * float64(b.perFigure) / 2)
	turn := time.Duration((1 - warmUp) * float64(b.perFigure) / (2 * pairs))
	for _, p := range []*process{web, bare} {
		if _, _, err := b.turn(ctx, p, connections, warm); err != nil {
			return nil, nil, err
		}
	}
	for i := range pairs {
		// Who begins changes, so that a machine that slows down or speeds up
		// favours neither.
		order := []*process{web, bare}
		if i%2 == 1 {
			order = []*process{bare, web}
		}
		var sizes [2]map[string]float64
		for _, p := range order {
			t, bytes, err := b.turn(ctx, p, connections, turn)
			if err != nil {
				return nil, nil, err
			}
			if p == web {
				ours, sizes[0] = append(ours, t), bytes
			} else {
				floor, sizes[1] = append(floor, t), bytes
			}
		}
		progress("  round %d of %d: usher %.0f/s, floor %.0f/s", i+1, pairs, ours[i].perSecond(), floor[i].perSecond())
		if err := sameSizes(sizes[0], sizes[1]); err != nil {
			return nil, nil, err
		}
	}
	return ours, floor, nil
}

// turn measures one process once. It sees that everything it answered is
// stored, and tells how many bytes a row of each table has. Jobs are one for
// each transaction, which is fewer where requests share one.
func (b *bench) turn(ctx context.Context, p *process, connections int, d time.Duration) (t tally, bytes map[string]float64, err error) {
	if err := b.clear(ctx); err != nil {
		return t, nil, err
	}
	if t, err = b.hammer(ctx, p.address, connections, d); err != nil {
		return t, nil, fmt.Errorf("%s: %w", p.name, err)
	}
	bytes = map[string]float64{}
	for table, count := range map[string]string{
		"invitation":      "SELECT count(*), coalesce(avg(pg_column_size(t)), 0)::float8 FROM invitation t",
		"event":           "SELECT count(*), coalesce(avg(pg_column_size(t)), 0)::float8 FROM event t",
		"idempotency_key": "SELECT count(*), coalesce(avg(pg_column_size(t)), 0)::float8 FROM idempotency_key t",
		"message":         "SELECT count(*), coalesce(avg(pg_column_size(t)), 0)::float8 FROM message t",
		"river_job":       "SELECT count(*), coalesce(avg(pg_column_size(t)), 0)::float8 FROM river_job t",
	} {
		var stored int
		var size float64
		if err := b.pool.QueryRow(ctx, count).Scan(&stored, &size); err != nil {
			return t, nil, fmt.Errorf("count %s: %w", table, err)
		}
		if stored != t.answered && (table != "river_job" || stored == 0 || stored > t.answered) {
			return t, nil, fmt.Errorf("%s answered %d requests and stored %d rows of %s", p.name, t.answered, stored, table)
		}
		bytes[table] = size
	}
	return t, bytes, nil
}

// sameSizes sees that the floor stores neither less nor more than Usher.
func sameSizes(ours, floor map[string]float64) error {
	for table, size := range ours {
		if math.Abs(size-floor[table]) > sameBytes*size {
			return fmt.Errorf("a row of %s has %.0f bytes, the floor's has %.0f", table, size, floor[table])
		}
	}
	return nil
}
