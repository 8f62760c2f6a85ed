//go:build !quick

package jobs

import "time"

const (
	// jobTimeout ends a job that hangs. It is longer than the provider's
	// timeout inside it and shorter than rescueAfter outside it, so that an
	// attempt is over before the next one starts.
	jobTimeout = 45 * time.Second

	// rescueAfter is when a job whose worker died is given to another one. A
	// killed sender must not leave mail waiting for an hour, River's default. To
	// it come up to half a minute until River looks, and the wait before the
	// next attempt.
	rescueAfter = 90 * time.Second
)
