package jobs

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"usher/internal/mail"
	"usher/internal/postgres"
	"usher/internal/roster"
)

// deliver hands a frozen message to the provider and settles it, its subject
// and the job in one transaction.
//
// Where the process dies: before the call, the next attempt makes it. After the
// call and before the commit, the next attempt makes the same call under the
// same key, and the provider answers with the first mail's id. After the
// commit, the job is complete.
//
// noted writes the delivery into the message's subject, inside that
// transaction; nil where the subject shows none.
func deliver[T river.JobArgs](ctx context.Context, w *Worker, job *river.Job[T], m mail.Message, noted func(ctx context.Context, tx pgx.Tx, d roster.Delivery) error) error {
	state, providerID, reason := m.State, "", ""
	if m.State == mail.Sending {
		var err error
		providerID, err = w.Sender.Send(ctx, m)
		switch failed := mail.AsSendError(err); {
		case err == nil:
			state = mail.Accepted
		case failed == nil:
			return fmt.Errorf("message %s is sent again under its key: %w", m.ID, err)
		case failed.Outcome == mail.Later:
			return river.JobSnooze(failed.After)
		case failed.Outcome == mail.Refused:
			state, reason = mail.Failed, failed.Reason
		case failed.Outcome == mail.Contested:
			state, reason = mail.Uncertain, failed.Reason
		}
	}
	// The provider's answer is recorded even if the job's time is up or the
	// process was told to stop meanwhile.
	ctx = context.WithoutCancel(ctx)
	return postgres.InTx(ctx, w.DB, func(tx pgx.Tx) error {
		if err := fence(ctx, tx, job); err != nil {
			return err
		}
		if err := w.Outbox.In(tx).Settle(ctx, m.ID, state, providerID, reason); err != nil {
			return err
		}
		if noted != nil {
			d := roster.MailFailed
			if state == mail.Accepted {
				d = roster.MailAccepted
			}
			if state == mail.Uncertain {
				d = roster.MailSending
			}
			if err := noted(ctx, tx, d); err != nil {
				return err
			}
		}
		return complete(ctx, tx, job, "message "+m.ID.String()+" "+string(state))
	})
}

// errOvertaken ends an attempt that took so long that the job was given to
// another one. Its effects are rolled back. River may write the error to the
// job's row while the other attempt is at work; that one is then overtaken as
// well, and the next one settles the message under the same key.
var errOvertaken = errors.New("this attempt was given up and another one has the job")

// fence makes the rest of tx happen only if this attempt still holds the job,
// and keeps any other from taking it until tx ends. River tests the job's
// state, not the attempt: a worker that was stopped and woke up after a rescue
// would otherwise complete somebody else's attempt.
func fence[T river.JobArgs](ctx context.Context, tx pgx.Tx, job *river.Job[T]) error {
	var one int
	err := tx.QueryRow(ctx, `
		SELECT 1 FROM river_job WHERE id = $1 AND state = 'running' AND attempt = $2 FOR UPDATE`,
		job.ID, job.Attempt).Scan(&one)
	if errors.Is(err, pgx.ErrNoRows) {
		return errOvertaken
	}
	if err != nil {
		return fmt.Errorf("fence job %d: %w", job.ID, err)
	}
	return nil
}

// complete ends the job within tx and notes in its output how it ended.
func complete[T river.JobArgs](ctx context.Context, tx pgx.Tx, job *river.Job[T], output string) error {
	if err := river.RecordOutput(ctx, output); err != nil {
		return fmt.Errorf("record output of job %d: %w", job.ID, err)
	}
	if _, err := river.JobCompleteTx[*riverpgxv5.Driver](ctx, tx, job); err != nil {
		return fmt.Errorf("complete job %d: %w", job.ID, err)
	}
	return nil
}
