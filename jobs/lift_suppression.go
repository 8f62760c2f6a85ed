package jobs

import (
	"context"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"usher/internal/mail"
	"usher/internal/roster"
)

// liftSuppression takes an address off the provider's list, because somebody
// said that the mailbox exists now, and mails the invitation then. Doing it
// twice changes nothing.
type liftSuppression struct {
	river.WorkerDefaults[roster.LiftSuppression]
	*Worker
}

func (w *liftSuppression) Work(ctx context.Context, job *river.Job[roster.LiftSuppression]) error {
	email, skip, err := w.Roster.AddressToLift(ctx, job.Args)
	if err != nil {
		return err
	}
	if lifter, ok := w.Sender.(mail.Lifter); ok && skip == "" {
		var far *mail.TooFar
		if err := w.Outbox.Pace(ctx, w.Sender.Name(), mail.Lane(roster.Interactive)); errors.As(err, &far) {
			return river.JobSnooze(far.After)
		} else if err != nil {
			return err
		}
		if err := lifter.Lift(ctx, email); err != nil {
			return err
		}
	}
	return finish(ctx, w.Worker, job, func(tx pgx.Tx) (string, error) {
		if skip != "" {
			return "skipped: " + string(skip), nil
		}
		return "lifted", w.Roster.In(tx).AddressLifted(ctx, job.Args)
	})
}
