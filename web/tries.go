package web

import (
	"sync"
	"time"
)

const (
	// maxTries may be made within triesTime, from anybody together: of the one
	// ops password, and of what is recorded each time.
	maxTries  = 20
	triesTime = time.Minute
)

// tries bounds how often something is done at this process: how fast a password
// can be guessed, how fast the history of an address grows.
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
