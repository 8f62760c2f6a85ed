package main

import (
	"net/http"
	"strconv"
	"time"
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

// limiter admits a number of requests in any second. A refused request does
// not count against the next ones.
type limiter struct{ admitted window }

// take asks for one request at now under limit per second. It returns the
// headers Resend puts on every answer, with retry-after on a refusal, or none
// if limit is 0, which admits everything.
func (l *limiter) take(now time.Time, limit int) (http.Header, bool) {
	if limit == 0 {
		return http.Header{}, true
	}
	l.admitted.slide(now)
	ok := len(l.admitted.times) < limit
	if ok {
		l.admitted.add(now)
	}
	free := l.admitted.times[0].Add(time.Second).Sub(now)
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
