//go:build quick

package jobs

import "time"

// The chaos suite's short form has less patience, to be over sooner: whatever
// holds must hold with any.
const (
	jobTimeout  = 18 * time.Second
	rescueAfter = 20 * time.Second
)
