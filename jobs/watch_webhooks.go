package jobs

import (
	"context"

	"github.com/riverqueue/river"

	"usher/internal/mail"
)

// watchWebhooks alarms when the provider accepts mail and its webhooks stay
// away: bounces would go unseen. The clock starts it.
type watchWebhooks struct {
	river.WorkerDefaults[mail.WatchWebhooks]
	*Worker
}

func (w *watchWebhooks) Work(ctx context.Context, _ *river.Job[mail.WatchWebhooks]) error {
	if !w.Webhooks {
		return nil
	}
	mails, err := w.Outbox.Silence(ctx)
	if err != nil {
		return err
	}
	if mails > 0 {
		w.Log.Error("The provider says nothing of mail it accepted; look at the webhook's page there: it must post to /hooks/resend, and not be disabled.", "mails", mails)
	}
	return river.RecordOutput(ctx, map[string]int{"silent_mails": mails})
}
