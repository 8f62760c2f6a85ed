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
	return expireAll(ctx, w.Roster.ExpireInvitations)
}

// expireRequests does the same for access requests.
type expireRequests struct {
	river.WorkerDefaults[roster.ExpireRequests]
	*Worker
}

func (w *expireRequests) Work(ctx context.Context, _ *river.Job[roster.ExpireRequests]) error {
	return expireAll(ctx, w.Roster.ExpireRequests)
}

// expireAll ends what is due, one chunk after the other.
func expireAll(ctx context.Context, expire func(ctx context.Context, limit int) (int, error)) error {
	total := 0
	for {
		ended, err := expire(ctx, expireChunk)
		if err != nil {
			return err
		}
		total += ended
		if ended < expireChunk {
			return river.RecordOutput(ctx, map[string]int{"expired": total})
		}
	}
}
