package main

import (
	"math/rand/v2"
	"testing"
	"time"
)

// However requests arrive, no second sees more than the limit admitted, and
// none is refused while there is room.
func TestLimiter(t *testing.T) {
	t.Parallel()
	const limit = 7
	var l limiter
	var admitted []time.Time
	rng := rand.New(rand.NewPCG(1, 2))
	now := time.Now()
	for i := range 5000 {
		now = now.Add(time.Duration(rng.Int64N(int64(200 * time.Millisecond))))
		recent := 0
		for j := len(admitted) - 1; j >= 0 && now.Sub(admitted[j]) < time.Second; j-- {
			recent++
		}
		h, ok := l.take(now, limit, windowSliding)
		if ok != (recent < limit) {
			t.Fatalf("request %d: admitted %t with %d in the second before", i, ok, recent)
		}
		if ok {
			admitted = append(admitted, now)
		}
		if (h.Get("retry-after") != "") == ok {
			t.Fatalf("request %d: admitted %t, headers %v", i, ok, h)
		}
	}
	if n := len(admitted); n < 100 || n > 4900 {
		t.Errorf("%d of 5000 admitted: the arrivals test nothing", n)
	}
	if h, ok := l.take(now, 0, windowSliding); !ok || len(h) != 0 {
		t.Errorf("unlimited: %t, %v", ok, h)
	}
}

// A fixed window admits the limit in every second of the clock, and so up to
// twice as many around its turn.
func TestFixedWindow(t *testing.T) {
	t.Parallel()
	const limit = 5
	var l limiter
	second := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	take := func(after time.Duration) bool {
		h, ok := l.take(second.Add(after), limit, windowFixed)
		if h.Get("ratelimit-reset") != "1" || (h.Get("retry-after") == "") != ok {
			t.Errorf("at %s: %v", after, h)
		}
		return ok
	}
	for i := range 2 * limit {
		if at := 900*time.Millisecond + time.Duration(i)*20*time.Millisecond; !take(at) {
			t.Errorf("refused at %s", at)
		}
	}
	if take(1100 * time.Millisecond) {
		t.Error("admitted one more than the limit")
	}
	if !take(2 * time.Second) {
		t.Error("refused in the next second")
	}
}
