package jobs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/riverqueue/river"

	"usher/internal/mail"
	"usher/internal/roster"
)

const (
	// lookTime bounds the look-ups of one run, well inside jobTimeout. The next
	// tick looks for the others.
	lookTime = 30 * time.Second

	// listLag is how long after its last attempt a mail that is not in the
	// provider's list is believed to be missing there: as long as the provider
	// remembers its key.
	listLag = 24 * time.Hour
)

// reconcileMail settles uncertain mail that the provider's list has. The clock
// starts it. The development mailbox leaves nothing uncertain.
type reconcileMail struct {
	river.WorkerDefaults[mail.ReconcileMail]
	*Worker
}

func (w *reconcileMail) Work(ctx context.Context, _ *river.Job[mail.ReconcileMail]) error {
	doubts, err := w.Outbox.Doubts(ctx)
	if err != nil {
		return err
	}
	provider, ok := w.Sender.(*mail.Resend)
	if !ok || len(doubts) == 0 {
		return nil
	}
	found, missing := 0, 0
	err = func() error {
		ctx, cancel := context.WithTimeout(ctx, lookTime)
		defer cancel()
		for _, d := range doubts {
			finding, err := w.find(ctx, provider, d)
			switch {
			case err != nil:
				return err
			case finding.ProviderID != "":
				found++
				err = w.Outbox.Found(ctx, d.MessageID, finding.ProviderID)
			case finding.Certain && w.Outbox.Now().Sub(d.To) >= listLag:
				missing++
				err = w.Outbox.NotFound(ctx, d.MessageID)
			}
			if err != nil {
				return err
			}
		}
		return nil
	}()
	output := fmt.Sprintf("%d uncertain mails looked for, %d found, %d not in the provider's list", len(doubts), found, missing)
	if err != nil {
		// A key that may only send, a busy provider: the messages stay as they
		// are, and the next tick tries again.
		output += "; stopped: " + err.Error()
		w.Log.Warn("The provider's list of mails could not be read.", "error", err)
	}
	return river.RecordOutput(ctx, output)
}

// find looks for one message, in its turn among everything that is sent.
func (w *reconcileMail) find(ctx context.Context, provider *mail.Resend, d mail.Doubt) (mail.Finding, error) {
	slot := func(ctx context.Context) error { return w.Outbox.Pace(ctx, provider.Name(), mail.Lane(roster.Bulk)) }
	before, err := w.Outbox.SentAfter(ctx, d.To.Add(time.Hour))
	if err != nil {
		return mail.Finding{}, err
	}
	finding, err := provider.Find(ctx, d, before, slot)
	refused := mail.AsSendError(err)
	if refused != nil && refused.Outcome == mail.Refused && before != "" { // it does not know the mail to begin at
		finding, err = provider.Find(ctx, d, "", slot)
		refused = mail.AsSendError(err)
	}
	if refused != nil && refused.Outcome == mail.Throttled {
		return finding, errors.Join(err, w.Outbox.Block(ctx, provider.Name(), refused.After, refused.Reason, 0))
	}
	return finding, err
}
