package jobs

import (
	"context"

	"github.com/riverqueue/river"

	"usher/internal/roster"
)

// expireChunk bounds one transaction of the sweep: short locks, and little to
// do again if it fails.
const expireChunk = 1000

// expireInvitations ends invitations whose time is over. The clock starts it
// every minute; two at once share the work.
type expireInvitations struct {
	river.WorkerDefaults[roster.ExpireInvitations]
	*Worker
}

func (w *expireInvitations) Work(ctx context.Context, _ *river.Job[roster.ExpireInvitations]) error {
	total := 0
	for {
		ended, err := w.Roster.ExpireInvitations(ctx, expireChunk)
		if err != nil {
			return err
		}
		total += ended
		if ended < expireChunk {
			return river.RecordOutput(ctx, map[string]int{"expired": total})
		}
	}
}
