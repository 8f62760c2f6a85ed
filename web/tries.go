package web

import (
	"sync"
	"time"
)

const (
	// maxTries wrong ops passwords may come within triesTime, from anybody:
	// there is one password, so there is one count.
	maxTries  = 20
	triesTime = time.Minute
)

// tries bounds how fast a password can be guessed at this process.
type tries struct {
	mu    sync.Mutex
	since time.Time
	count int
}

// take counts a try; false means there were too many.
func (t *tries) take(now time.Time) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Sub(t.since) > triesTime {
		t.since, t.count = now, 0
	}
	t.count++
	return t.count <= maxTries
}

// reset forgets the tries, after a right password.
func (t *tries) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count = 0
}
