package web

import (
	"crypto/sha256"
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

// throttle bounds how often something is done at this process for each of many
// keys, such as addresses, in windows that are the same for all.
type throttle struct {
	limit  int           // tries of one key in a window
	window time.Duration // how long one is

	mu     sync.Mutex
	since  time.Time
	counts map[[sha256.Size]byte]int
}

// maxThrottled bounds the keys that are remembered. Those that come on top are
// let through: what is behind has bounds of its own.
const maxThrottled = 10_000

// take counts a try of a key; false means there were too many.
func (t *throttle) take(now time.Time, key string) bool {
	hash := sha256.Sum256([]byte(key))
	t.mu.Lock()
	defer t.mu.Unlock()
	if now.Sub(t.since) > t.window {
		t.since, t.counts = now, map[[sha256.Size]byte]int{}
	}
	if _, known := t.counts[hash]; !known && len(t.counts) >= maxThrottled {
		return true
	}
	t.counts[hash]++
	return t.counts[hash] <= t.limit
}

// forget forgets the tries of a key.
func (t *throttle) forget(key string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.counts, sha256.Sum256([]byte(key)))
}
