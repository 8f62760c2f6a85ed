package main

import (
	"net/http"
	"strconv"
	"time"
)

// How a second is counted for the rate limit. Resend does not say.
const (
	windowSliding = "sliding" // any second sees at most the limit
	windowFixed   = "fixed"   // every second of the clock does: twice the limit may come around its turn
)

// window holds the times of the requests of the last second, oldest first.
// It slides: at any moment it holds exactly what happened in the second
// before.
type window struct{ times []time.Time }

// slide forgets what is a second old at now.
func (w *window) slide(now time.Time) {
	n := 0
	for n < len(w.times) && now.Sub(w.times[n]) >= time.Second {
		n++
	}
	w.times = w.times[n:]
}

// add notes a request and returns how many the last second saw, it included.
func (w *window) add(now time.Time) int {
	w.slide(now)
	w.times = append(w.times, now)
	return len(w.times)
}

// limiter admits a number of requests in any second, or in every second of
// the clock. A refused request does not count against the next ones.
type limiter struct{ admitted window }

// take asks for one request at now under limit per second. It returns the
// headers Resend puts on every answer, with retry-after on a refusal, or none
// if limit is 0, which admits everything.
func (l *limiter) take(now time.Time, limit int, kind string) (http.Header, bool) {
	if limit == 0 {
		return http.Header{}, true
	}
	l.admitted.slide(now)
	if second := now.Truncate(time.Second); kind == windowFixed {
		for len(l.admitted.times) > 0 && l.admitted.times[0].Before(second) {
			l.admitted.times = l.admitted.times[1:]
		}
	}
	ok := len(l.admitted.times) < limit
	if ok {
		l.admitted.add(now)
	}
	begun := l.admitted.times[0]
	if kind == windowFixed {
		begun = now.Truncate(time.Second)
	}
	free := begun.Add(time.Second).Sub(now)
	seconds := strconv.Itoa(int((free + time.Second - 1) / time.Second))
	h := http.Header{}
	h.Set("ratelimit-limit", strconv.Itoa(limit))
	h.Set("ratelimit-policy", strconv.Itoa(limit)+";w=1")
	h.Set("ratelimit-remaining", strconv.Itoa(max(0, limit-len(l.admitted.times))))
	h.Set("ratelimit-reset", seconds)
	if !ok {
		h.Set("retry-after", seconds)
	}
	return h, ok
}

// sentCount counts what was sent on the day and in the month of the newest mail,
// by the stand-in's clock. Each recipient of a mail counts.
type sentCount struct {
	day, month     string
	daily, monthly int
}

// at forgets what is of another day or month.
func (c *sentCount) at(now time.Time) {
	day, month := now.UTC().Format(time.DateOnly), now.UTC().Format("2006-01")
	if c.day != day {
		c.day, c.daily = day, 0
	}
	if c.month != month {
		c.month, c.monthly = month, 0
	}
}

// add counts n more at now.
func (c *sentCount) add(now time.Time, n int) {
	c.at(now)
	c.daily += n
	c.monthly += n
}

// refuse says which quota n more at now would break, if one; 0 is none.
func (c *sentCount) refuse(now time.Time, n, daily, monthly int) *apiError {
	c.at(now)
	switch {
	case monthly > 0 && c.monthly+n > monthly:
		return errMonthlyQuota
	case daily > 0 && c.daily+n > daily:
		return errDailyQuota
	}
	return nil
}

// headers puts the used counts on an answer.
func (c *sentCount) headers(now time.Time, h http.Header) {
	c.at(now)
	h.Set("x-resend-daily-quota", strconv.Itoa(c.daily))
	h.Set("x-resend-monthly-quota", strconv.Itoa(c.monthly))
}
