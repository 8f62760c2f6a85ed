package mail

import (
	"testing"
	"time"

	"github.com/google/uuid"
)

func TestSilence(t *testing.T) {
	t.Parallel()
	w := newHookWorld(t)
	outbox := &Outbox{DB: w.pool, Now: w.hook.Now}
	silence := func(want int) {
		t.Helper()
		have, err := outbox.Silence(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if have != want {
			t.Errorf("%d silent mails, want %d", have, want)
		}
	}
	message := func(age time.Duration, state State) uuid.UUID {
		id := uuid.New()
		first := firstID(hookNow.Add(-age))
		copy(id[:6], first[:6])
		w.exec(`INSERT INTO message (id, app_id, kind, subject_id, purpose, lane, email_key, state, created_at, settled_at)
			VALUES ($1, $2, 'invitation', $1, 'x', 'bulk', 'ann@client.dev', $3, $4, $4)`, id, w.app, state, hookNow.Add(-age))
		return id
	}
	silence(0)
	message(silenceAfter-time.Minute, Accepted) // may still be told
	message(silenceSpan+time.Minute, Accepted)  // long ago
	message(2*silenceAfter, Queued)             // not the provider's fault
	message(2*silenceAfter, Cancelled)
	silence(0)
	first := message(2*silenceAfter, Accepted)
	message(3*silenceAfter, Accepted)
	silence(2)
	w.exec(`UPDATE message SET settled_at = $2 WHERE id = $1`, first, hookNow) // it waited for long before it was sent
	silence(1)
	w.tell("email.delivered", first, hookNow, "")
	silence(0)
}
