package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"usher/internal/mail"
	"usher/internal/postgres"
	"usher/internal/roster"
)

// maxReplayWait bounds the wait between attempts of a dispatch: the longest it
// waits once the provider is back.
const maxReplayWait = 30 * time.Second

// senderPause is how long an app's mail waits after the provider refused its
// sender. What is sent after it tells whether that is mended.
const senderPause = 5 * time.Minute

// sendDispatch posts a frozen dispatch to the provider and records the answer.
type sendDispatch struct {
	river.WorkerDefaults[mail.SendDispatch]
	*Worker
}

// NextRetry waits 2, 4, 8 … seconds.
func (w *sendDispatch) NextRetry(job *river.Job[mail.SendDispatch]) time.Time {
	return retryPolicy{}.after(job.JobRow, maxReplayWait)
}

func (w *sendDispatch) Work(ctx context.Context, job *river.Job[mail.SendDispatch]) error {
	w.at("after-claim")
	lane := job.Args.Lane
	var far *mail.TooFar
	if err := w.Outbox.Pace(ctx, w.Sender.Name(), lane); errors.As(err, &far) {
		// What was never tried is not kept frozen: who decides meanwhile gets no mail.
		if ok, err := w.giveBack(ctx, job, far.After); ok || err != nil {
			return err
		}
		return river.JobSnooze(far.After)
	} else if err != nil {
		return err
	}
	moved, err := w.Roster.MailMoved(ctx, job.Args.ID)
	if err != nil {
		return err
	}
	if moved {
		if ok, err := w.giveBack(ctx, job, 0); ok || err != nil {
			return err
		}
	}
	d, ok, err := w.Outbox.Begin(ctx, job.Args.ID)
	if err != nil {
		return err
	}
	if !ok {
		return nil // settled by an earlier attempt, dissolved, or given up as uncertain
	}
	if d.Stale(w.Outbox.Now()) {
		return w.settle(ctx, job, func(ctx context.Context, tx pgx.Tx) (string, error) {
			return w.dissolve(ctx, tx, d, "", 0)
		})
	}
	w.at("before-call")
	receipt, err := w.Sender.Send(ctx, d)
	w.at("after-call")
	// The answer is recorded even if the job's time is up or the process was
	// told to stop meanwhile.
	return w.settle(context.WithoutCancel(ctx), job, func(ctx context.Context, tx pgx.Tx) (string, error) {
		return w.record(ctx, tx, d, receipt, err)
	})
}

// giveBack dissolves a dispatch that was never tried. ok is false where it was.
func (w *sendDispatch) giveBack(ctx context.Context, job *river.Job[mail.SendDispatch], after time.Duration) (ok bool, err error) {
	err = w.settle(ctx, job, func(ctx context.Context, tx pgx.Tx) (string, error) {
		due := w.Outbox.Now().Add(after)
		if ok, err = w.Outbox.In(tx).Dissolve(ctx, mail.Dispatch{ID: job.Args.ID}, "", due); err != nil {
			return "", err
		}
		if !ok {
			return "", &goesOn{}
		}
		return "given back", w.wake(ctx, tx, job.Args.Lane, due)
	})
	return ok, err
}

// settle records the end of an attempt, and of the job unless the attempt is to
// be followed by another, in one transaction; then it composes what waited for
// the dispatch's place.
func (w *sendDispatch) settle(ctx context.Context, job *river.Job[mail.SendDispatch], record func(context.Context, pgx.Tx) (output string, err error)) error {
	var again *goesOn
	err := postgres.InTxAfter(ctx, w.DB, func(batch *pgx.Batch) { fence(batch, job) }, func(tx pgx.Tx) error {
		output, err := record(ctx, tx)
		if errors.As(err, &again) {
			return nil
		}
		if err != nil {
			return err
		}
		return complete(ctx, tx, job, output)
	})
	if err != nil {
		return err
	}
	w.at("after-commit")
	if again != nil {
		return again.how
	}
	// If this fails, the clock's next turn does it.
	due, err := w.Outbox.Due(ctx, job.Args.Lane)
	if err == nil && due {
		err = w.compose(ctx, roster.Lane(job.Args.Lane))
	}
	if err != nil {
		w.Log.Warn("Mail waits for the next minute.", "error", err)
	}
	return nil
}

// goesOn is an outcome that is recorded but does not end the job; how is what
// River is told.
type goesOn struct{ how error }

func (*goesOn) Error() string { return "the job goes on" }

// record writes down what the provider said of a dispatch.
func (w *sendDispatch) record(ctx context.Context, tx pgx.Tx, d mail.Dispatch, receipt mail.Receipt, err error) (string, error) {
	outbox := w.Outbox.In(tx)
	if err == nil {
		return "accepted", outbox.Settle(ctx, w.Sender.Name(), d, receipt)
	}
	failed := mail.AsSendError(err)
	if failed == nil {
		if err := outbox.Reopen(ctx, d, false, err.Error()); err != nil {
			return "", err
		}
		return "", &goesOn{fmt.Errorf("dispatch %s is sent again under its key: %w", d.ID, err)}
	}
	switch failed.Outcome {
	case mail.Throttled:
		if err := outbox.Reopen(ctx, d, true, failed.Reason); err != nil {
			return "", err
		}
		if err := outbox.Block(ctx, w.Sender.Name(), failed.After, failed.Reason, receipt.Rate); err != nil {
			return "", err
		}
		return "", &goesOn{river.JobSnooze(failed.After)}
	case mail.InFlight:
		if err := outbox.Reopen(ctx, d, false, failed.Reason); err != nil {
			return "", err
		}
		return "", &goesOn{river.JobSnooze(failed.After)}
	case mail.Stopped:
		w.Log.Error("No mail leaves until this is mended.", "reason", failed.Reason, "next_try_in", failed.After.String())
		if err := outbox.Block(ctx, w.Sender.Name(), failed.After, failed.Reason, receipt.Rate); err != nil {
			return "", err
		}
		return w.dissolve(ctx, tx, d, failed.Reason, failed.After)
	case mail.Contested:
		w.Log.Error("The provider has other mail under a dispatch's key.", "dispatch_id", d.ID, "reason", failed.Reason)
		return "uncertain", outbox.Doubt(ctx, d, failed.Reason)
	case mail.SenderRefused, mail.Refused:
		if len(d.MessageIDs) > 1 {
			return w.split(ctx, tx, d, failed.Reason)
		}
		if failed.Outcome == mail.SenderRefused {
			w.Log.Error("The provider refuses an app's sender; the app's mail waits.", "message_id", d.MessageIDs[0], "reason", failed.Reason)
			stop := roster.MailStop{Until: w.Outbox.Now().Add(senderPause), Reason: failed.Reason}
			if err := w.Roster.In(tx).HoldAppMail(ctx, d.MessageIDs[0], stop); err != nil {
				return "", err
			}
			return w.dissolve(ctx, tx, d, failed.Reason, senderPause)
		}
		return w.refuse(ctx, tx, d, failed.Reason)
	}
	return "", fmt.Errorf("dispatch %s: outcome %d is unknown", d.ID, failed.Outcome)
}

// dissolve gives the dispatch back to the composer, for a time after which it
// is composed anew. If an earlier attempt may have sent it, it is kept as it is
// and sent again then.
func (w *sendDispatch) dissolve(ctx context.Context, tx pgx.Tx, d mail.Dispatch, reason string, after time.Duration) (string, error) {
	outbox := w.Outbox.In(tx)
	due := w.Outbox.Now().Add(after)
	ok, err := outbox.Dissolve(ctx, d, reason, due)
	if err != nil {
		return "", err
	}
	if !ok {
		if err := outbox.Reopen(ctx, d, true, reason); err != nil {
			return "", err
		}
		return "", &goesOn{river.JobSnooze(after)}
	}
	return "dissolved: " + reason, w.wake(ctx, tx, d.Lane, due)
}

// wake has the lane composed at a time.
func (w *sendDispatch) wake(ctx context.Context, tx pgx.Tx, lane mail.Lane, at time.Time) error {
	return w.enqueue(ctx, tx, river.InsertManyParams{
		Args: roster.ComposeMail{Lane: roster.Lane(lane)}, InsertOpts: &river.InsertOpts{ScheduledAt: at},
	})
}

// refuse ends a dispatch whose only mail the provider objects to.
func (w *sendDispatch) refuse(ctx context.Context, tx pgx.Tx, d mail.Dispatch, reason string) (string, error) {
	ok, err := w.Outbox.In(tx).Refuse(ctx, d, reason)
	if err != nil {
		return "", err
	}
	if !ok {
		return w.again(ctx, tx, d, reason)
	}
	return "refused", nil
}

// again has a dispatch sent once more as it is: this attempt was refused, but an
// earlier one may have sent it, and only its own key can tell.
func (w *sendDispatch) again(ctx context.Context, tx pgx.Tx, d mail.Dispatch, reason string) (string, error) {
	if err := w.Outbox.In(tx).Reopen(ctx, d, true, reason); err != nil {
		return "", err
	}
	return "", &goesOn{fmt.Errorf("dispatch %s may have been sent before: %s", d.ID, reason)}
}

// split halves the dispatch, until the mail that the provider objects to stands
// alone.
func (w *sendDispatch) split(ctx context.Context, tx pgx.Tx, d mail.Dispatch, reason string) (string, error) {
	parts, ok, err := w.Outbox.In(tx).Split(ctx, d, reason)
	if err != nil {
		return "", err
	}
	if !ok {
		return w.again(ctx, tx, d, reason)
	}
	jobs := make([]river.InsertManyParams, len(parts))
	for i, id := range parts {
		jobs[i].Args = mail.SendDispatch{ID: id, Lane: d.Lane}
	}
	return "split: " + reason, w.enqueue(ctx, tx, jobs...)
}
