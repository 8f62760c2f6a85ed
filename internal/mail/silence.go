package mail

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"usher/internal/postgres"
)

const (
	// silenceAfter is how long the provider may take to say what became of a
	// mail it accepted. It says so within seconds, also where a recipient's
	// server puts the mail off; an hour leaves room for its retries.
	silenceAfter = time.Hour

	// silenceSpan is how far back mail is looked at: an alarm about older mail
	// would not end when the webhooks are mended.
	silenceSpan = 24 * time.Hour

	// silenceSample is how many mails are looked at, the newest ones.
	silenceSample = 100
)

// WatchWebhooks is the job that notices when the provider's webhooks stay away.
type WatchWebhooks struct{}

// Kind is the job's name in River.
func (WatchWebhooks) Kind() string { return "watch_webhooks" }

// InsertOpts say where the job waits. It is not retried for long: the clock
// starts another one soon.
func (WatchWebhooks) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: QueueHooks, MaxAttempts: 3}
}

// Silence is how many of the newest mails the provider accepted more than
// silenceAfter ago without a word since about any of them; 0: its webhooks
// arrive, or there was no mail.
func (o *Outbox) Silence(ctx context.Context) (mails int, err error) {
	now := o.Now()
	err = postgres.InTx(ctx, o.DB, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `
			SELECT CASE WHEN bool_or(fact_at IS NOT NULL) THEN 0 ELSE count(*) FILTER (WHERE state = 'accepted' AND settled_at <= $3) END
			FROM (
				SELECT state, settled_at, fact_at FROM message WHERE id > $1 AND id < $2 ORDER BY id DESC LIMIT $4
			) AS newest`, firstID(now.Add(-silenceSpan)), firstID(now.Add(-silenceAfter)), now.Add(-silenceAfter), silenceSample).Scan(&mails)
	})
	if err != nil {
		return 0, fmt.Errorf("look for the provider's silence: %w", err)
	}
	return mails, nil
}

// firstID is the lowest UUIDv7 of a moment: ids below it are older.
func firstID(at time.Time) (id uuid.UUID) {
	ms := at.UnixMilli()
	for i := range 6 {
		id[i] = byte(ms >> (8 * (5 - i)))
	}
	return id
}
