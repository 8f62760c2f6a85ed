//go:build chaos

package mail

import "os"

// mutant names the safeguard that this process does without: "key" sends every
// attempt under a key of its own, "frozen" writes the mails anew for each,
// "unknown" takes an attempt of unknown outcome for one that sent nothing.
var mutant = os.Getenv("CHAOS_MUTANT")
