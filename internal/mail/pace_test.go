package mail

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"usher/internal/postgres/postgrestest"
)

// TestPaceKeepsTheRate books from many goroutines of several processes' pools.
func TestPaceKeepsTheRate(t *testing.T) {
	t.Parallel()
	const rate, slots = 100, 90
	url := postgrestest.DatabaseURL(t)
	var desks []*desk
	for range 3 {
		pool, err := pgxpool.New(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(pool.Close)
		desks = append(desks, newDeskOn(t, pool))
	}
	desks[0].exec(`UPDATE pace SET rate = $1 WHERE id = $2`, rate, desks[0].way)
	var booked sync.WaitGroup
	began := time.Now()
	for i := range slots {
		lane := []Lane{interactive, bulk}[i%2]
		booked.Go(func() {
			if err := desks[i%3].Pace(t.Context(), desks[0].way, lane); err != nil {
				t.Error(err)
			}
		})
	}
	booked.Wait()
	took := time.Since(began)
	// Each has a slot of its own, the first one at once.
	least := (slots - 1) * time.Second / time.Duration(rate*paceShare)
	if took < least {
		t.Errorf("%d slots took %s: faster than %d a second, which takes %s", slots, took, rate, least)
	}
	if took > 3*least {
		t.Errorf("%d slots took %s, want about %s", slots, took, least)
	}
}

// TestBulkBooksOnlyTheNextSlot, so that what a person waits for goes before it.
func TestBulkBooksOnlyTheNextSlot(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.exec(`UPDATE pace SET rate = 1 / $1::float8 WHERE id = $2`, paceShare, d.way) // a slot each second
	book := func(lane Lane, want bool) time.Duration {
		t.Helper()
		booked, wait, err := d.book(t.Context(), d.way, lane)
		if err != nil || booked != want {
			t.Fatalf("booked: %v, %v, want %v", booked, err, want)
		}
		return wait
	}
	about := func(have, want time.Duration) {
		t.Helper()
		if have > want || have < want-900*time.Millisecond {
			t.Errorf("it waits %s, want about %s", have, want)
		}
	}
	about(book(bulk, true), 0)
	about(book(bulk, true), time.Second)
	about(book(bulk, false), 2*time.Second) // when there is another
	about(book(interactive, true), 2*time.Second)
	about(book(interactive, true), 3*time.Second)
	about(book(bulk, false), 4*time.Second)
	about(book(interactive, true), 4*time.Second)
	about(book(interactive, true), 5*time.Second)
	about(book(interactive, true), 6*time.Second)
	about(book(interactive, false), 7*time.Second) // further than maxAhead and a slot
}

func TestBlock(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	ctx := t.Context()
	const left = `SELECT extract(epoch FROM blocked_until - clock_timestamp())::float8 FROM pace WHERE id = $1`
	d.must(d.Block(ctx, d.way, time.Hour, "429 daily_quota_exceeded", 10))
	since := value[time.Time](d, `SELECT blocked_since FROM pace WHERE id = $1`, d.way)
	d.must(d.Block(ctx, d.way, time.Second, "429 rate_limit_exceeded", 0))
	if have := value[float64](d, left, d.way); have < 3590 || have > 3600 {
		t.Errorf("blocked for %f s, want the hour to stand", have)
	}
	if have := value[float64](d, `SELECT rate FROM pace WHERE id = $1`, d.way); have != 10 {
		t.Errorf("the rate is %f, want what the refusal named", have)
	}
	if have := value[time.Time](d, `SELECT blocked_since FROM pace WHERE id = $1`, d.way); !have.Equal(since) {
		t.Errorf("blocked since %s, want %s", have, since)
	}
	if have := value[string](d, `SELECT blocked_reason FROM pace WHERE id = 'mailbox'`); have != "" {
		t.Errorf("the other way is blocked: %s", have)
	}
	for _, lane := range []Lane{interactive, bulk} {
		began := time.Now()
		var far *TooFar
		if err := d.Pace(ctx, d.way, lane); !errors.As(err, &far) || far.After < 59*time.Minute || far.After > time.Hour {
			t.Errorf("%s mail: %v, want no slot for an hour", lane, err)
		} else if !strings.Contains(err.Error(), far.After.String()) {
			t.Errorf("error %q does not say how long", err)
		}
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("%s mail waited %s to be told", lane, took)
		}
	}
	d.must(d.Pace(ctx, "mailbox", bulk))
}

// TestPaceWaitsForAShortBlock gives the worker a slot after it, not an error.
func TestPaceWaitsForAShortBlock(t *testing.T) {
	t.Parallel()
	for _, lane := range []Lane{interactive, bulk} {
		d := newDesk(t)
		const block = 300 * time.Millisecond
		d.must(d.Block(t.Context(), d.way, block, "429", 100))
		began := time.Now()
		d.must(d.Pace(t.Context(), d.way, lane))
		if took := time.Since(began); took < block-50*time.Millisecond {
			t.Errorf("%s mail left after %s", lane, took)
		}
	}
}

func TestPaceEndsWithItsContext(t *testing.T) {
	t.Parallel()
	d := newDeskOn(t, postgrestest.Database(t))
	d.must(d.Block(t.Context(), d.way, 8*time.Second, "429", 0))
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	began := time.Now()
	if err := d.Pace(ctx, d.way, bulk); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("ended with %v", err)
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("ended after %s", took)
	}
}

func TestPaceOfNobody(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	if err := d.Pace(t.Context(), "nobody's", bulk); err == nil || !strings.HasPrefix(err.Error(), "book a slot of nobody's: ") {
		t.Errorf("error %v", err)
	}
}

// TestRateIsLearned from what the provider says with each answer.
func TestRateIsLearned(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	const paces = `SELECT rate || ' ' || (blocked_since IS NULL) || ' ' || blocked_reason FROM pace WHERE id = $1`
	settle := func(rate float64) {
		r := accepted(1)
		r.Rate = rate
		d.settle(d.begun(1), r)
	}
	if have := value[float64](d, `SELECT rate FROM pace WHERE id = 'resend'`); have != 2 {
		t.Errorf("a new installation sends %f a second, want the lowest known limit", have)
	}
	settle(10)
	if have := value[string](d, paces, d.way); have != "10 true " {
		t.Errorf("after an answer with 10: %q", have)
	}
	settle(0)
	if have := value[string](d, paces, d.way); have != "10 true " {
		t.Errorf("after an answer without a limit: %q", have)
	}
	d.must(d.Block(t.Context(), d.way, time.Hour, "401", 5))
	if have := value[string](d, paces, d.way); have != "5 false 401" {
		t.Errorf("blocked: %q", have)
	}
	settle(0) // it was on its way when another was refused
	if have := value[string](d, paces, d.way); have != "5 false 401" {
		t.Errorf("blocked, and one was accepted: %q", have)
	}
	d.exec(`UPDATE pace SET blocked_until = clock_timestamp() WHERE id = $1`, d.way)
	settle(0)
	if have := value[string](d, paces, d.way); have != "5 true " {
		t.Errorf("flowing again: %q", have)
	}
	if have := value[float64](d, `SELECT rate FROM pace WHERE id = 'mailbox'`); have != 100000 {
		t.Errorf("the other way learned %f", have)
	}
}
