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
	return lift(ctx, w.Worker, job, email, skip, (*roster.Roster).AddressLifted)
}

// liftAddress does the same for an address whatever it was invited to.
type liftAddress struct {
	river.WorkerDefaults[roster.LiftAddress]
	*Worker
}

func (w *liftAddress) Work(ctx context.Context, job *river.Job[roster.LiftAddress]) error {
	email, skip, err := w.Roster.BlockedAddress(ctx, job.Args)
	if err != nil {
		return err
	}
	return lift(ctx, w.Worker, job, email, skip, (*roster.Roster).AddressUnblocked)
}

// lift has the provider take an address off its list, unless there is a reason
// to skip it, and draws the consequences.
func lift[T river.JobArgs](ctx context.Context, w *Worker, job *river.Job[T], email string, skip roster.Skip, lifted func(*roster.Roster, context.Context, T) error) error {
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
	return finish(ctx, w, job, func(tx pgx.Tx) (string, error) {
		if skip != "" {
			return "skipped: " + string(skip), nil
		}
		return "lifted", lifted(w.Roster.In(tx), ctx, job.Args)
	})
}
