package jobs

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"usher/internal/mail"
	"usher/internal/roster"
)

// applyProviderEvent draws the consequences of what the provider told us of a
// mail: for the mail, its address, and the invitation it was about.
type applyProviderEvent struct {
	river.WorkerDefaults[mail.ApplyProviderEvent]
	*Worker
}

func (w *applyProviderEvent) Work(ctx context.Context, job *river.Job[mail.ApplyProviderEvent]) error {
	return finish(ctx, w.Worker, job, func(tx pgx.Tx) (string, error) { return w.apply(ctx, tx, job.Args.ID) })
}

// apply is the work on one event within tx.
func (w *Worker) apply(ctx context.Context, tx pgx.Tx, event string) (output string, err error) {
	a, err := w.Outbox.In(tx).Apply(ctx, event)
	if err != nil {
		return "", err
	}
	output = a.Code
	if a.Then == mail.Alarm {
		w.Log.Error("A mail could not be delivered for a reason of its own.", "message_id", a.MessageID, "reason", a.Code) // the mail server's words may name people
	}
	if !roster.Asks(a.Kind) {
		return output, nil // news of what is already to be seen is not worth a second mail
	}
	switch a.Then {
	case mail.Nothing, mail.Alarm:
	case mail.Hold:
		held, err := w.Roster.In(tx).Hold(ctx, roster.Mail{Kind: a.Kind, ID: a.MessageID, AppID: a.AppID, SubjectID: a.SubjectID, EmailKey: a.EmailKey}, a.Code)
		if err != nil {
			return "", err
		}
		if held {
			output += ": held"
		}
	case mail.TryAgain, mail.TryAgainByQuota:
		if err := w.enqueue(ctx, tx, river.InsertManyParams{
			Args:       roster.RetryMail{MessageID: a.MessageID, Retry: a.Retry},
			InsertOpts: &river.InsertOpts{ScheduledAt: *a.RetryAt},
		}); err != nil {
			return "", err
		}
		output += fmt.Sprintf(": again at %s", a.RetryAt.Format("2006-01-02 15:04 MST"))
	}
	return output, nil
}
