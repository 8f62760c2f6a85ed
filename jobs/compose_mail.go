package jobs

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"usher/internal/mail"
	"usher/internal/postgres"
	"usher/internal/roster"
)

// composeMail writes what waits in a lane, as far as dispatches are free. Who
// stores mail inserts the job; the clock does each minute, for mail that was
// put off and for whatever a killed process left.
type composeMail struct {
	river.WorkerDefaults[roster.ComposeMail]
	*Worker
}

func (w *composeMail) Work(ctx context.Context, job *river.Job[roster.ComposeMail]) error {
	return w.compose(ctx, job.Args.Lane)
}

// compose writes what waits in a lane. Callers that come while another is at it
// share the next turn: what they know of was stored before it begins.
func (w *Worker) compose(ctx context.Context, lane roster.Lane) error {
	turn := &w.turns[0]
	if lane == roster.Bulk {
		turn = &w.turns[1]
	}
	asked := turn.asked.Add(1)
	turn.Lock()
	defer turn.Unlock()
	if turn.served >= asked {
		return nil
	}
	serving := turn.asked.Load()
	for {
		more, err := w.composeDispatch(ctx, lane)
		if err != nil {
			return err
		}
		if !more {
			turn.served = serving
			return nil
		}
	}
}

// ComposeAll writes all mail that waits at the worker's time, for hand tools.
func (w *Worker) ComposeAll(ctx context.Context) error {
	for _, lane := range []roster.Lane{roster.Interactive, roster.Bulk} {
		if err := w.compose(ctx, lane); err != nil {
			return err
		}
	}
	return nil
}

// turns lets a process compose a lane one time after the other.
type turns struct {
	asked atomic.Int64
	sync.Mutex
	served int64 // every asker up to this one was served
}

// composeDispatch makes one dispatch of the lane's messages that are due, or
// none. more tells whether it is worth another try at once.
func (w *Worker) composeDispatch(ctx context.Context, lane roster.Lane) (more bool, err error) {
	var messages []mail.Message
	err = postgres.InTxAfter(ctx, w.DB, func(batch *pgx.Batch) {
		w.Outbox.Take(batch, w.Sender.Name(), mail.Lane(lane), &messages)
	}, func(tx pgx.Tx) error {
		if len(messages) == 0 {
			return nil
		}
		outbox := w.Outbox.In(tx)
		more = mail.Full(messages)
		letters, err := w.check(ctx, tx, messages)
		if err != nil {
			return err
		}
		var drafts []mail.Draft
		var drops []mail.Drop
		for _, m := range messages {
			l, ok := letters[m.ID]
			switch {
			case !ok:
				w.Log.Error("A mail cannot be read.", "message_id", m.ID)
				drops = append(drops, mail.Drop{ID: m.ID, State: mail.Failed, Reason: "its arguments cannot be read"})
				continue
			case l.Skip != "":
				drops = append(drops, mail.Drop{ID: m.ID, State: mail.Cancelled, Reason: string(l.Skip)})
				continue
			case l.Block != "":
				reason := roster.ReasonOf(l.Block)
				drops = append(drops, mail.Drop{ID: m.ID, State: mail.Suppressed, Reason: reason})
				if !roster.Asks(m.Kind) {
					continue
				}
				if _, err := w.Roster.In(tx).Hold(ctx, mailOf(m), reason); err != nil {
					return err
				}
				continue
			}
			if l.Stop != nil {
				drops = append(drops, mail.Drop{ID: m.ID, State: mail.Held, Reason: l.Stop.Reason, Due: l.Stop.Until})
				continue
			}
			draft, err := w.write(m, l)
			if err != nil {
				// The others must not wait for what cannot be written.
				w.Log.Error("A mail cannot be written.", "message_id", m.ID, "error", err)
				drops = append(drops, mail.Drop{ID: m.ID, State: mail.Failed, Reason: err.Error()})
				continue
			}
			drafts = append(drafts, draft)
		}
		if err := outbox.Drop(ctx, drops); err != nil {
			return err
		}
		if len(drafts) == 0 {
			return nil
		}
		id, err := outbox.Freeze(ctx, mail.Lane(lane), drafts)
		if err != nil {
			return err
		}
		return w.enqueue(ctx, tx, river.InsertManyParams{Args: mail.SendDispatch{ID: id, Lane: mail.Lane(lane)}})
	})
	w.at("after-freeze")
	if err != nil {
		return false, fmt.Errorf("compose mail of the lane %s: %w", lane, err)
	}
	return more, nil
}

// check asks the domain about the messages; one whose arguments cannot be read
// gets no answer.
func (w *Worker) check(ctx context.Context, tx pgx.Tx, messages []mail.Message) (map[uuid.UUID]roster.Letter, error) {
	mails := make([]roster.Mail, 0, len(messages))
	for _, m := range messages {
		checked := mailOf(m)
		if json.Unmarshal(m.Args, &checked.Args) == nil {
			mails = append(mails, checked)
		}
	}
	return w.Roster.In(tx).Letters(ctx, mails)
}

// mailOf is the message as the domain knows it, without its arguments.
func mailOf(m mail.Message) roster.Mail {
	return roster.Mail{ID: m.ID, AppID: m.AppID, Kind: m.Kind, SubjectID: m.SubjectID, Purpose: m.Purpose, EmailKey: m.EmailKey}
}

func (w *Worker) enqueue(ctx context.Context, tx pgx.Tx, jobs ...river.InsertManyParams) error {
	if _, err := w.Roster.Jobs.InsertManyTx(ctx, tx, jobs); err != nil {
		return fmt.Errorf("insert %d jobs: %w", len(jobs), err)
	}
	return nil
}
