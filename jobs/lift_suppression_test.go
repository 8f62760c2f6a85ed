package jobs

import (
	"testing"

	"usher/internal/roster"
)

// TestLiftAddress takes a blocked address off the provider's list, and mails the
// invitation that waited for it.
func TestLiftAddress(t *testing.T) {
	t.Parallel()
	p, sender := provider(t)
	w, pool := newWorldOnPool(t, nil)
	w.worker.Sender = sender
	inv := w.invite("Hard@fake.test") // which bounces, and is suppressed
	w.run(pool)
	w.eventually("the mail is sent", `SELECT state = 'accepted' FROM message WHERE subject_id = $1`, inv.ID)
	if err := p.Suppress(t.Context(), "Hard@fake.test"); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), `INSERT INTO address (app_id, email_key, block, blocked_at) VALUES ($1, 'hard@fake.test', 'hard', $2)`, w.app.ID, w.now); err != nil {
		t.Fatal(err)
	}
	held, err := w.worker.Roster.HoldInvitation(t.Context(), roster.Mail{ID: *inv.MessageID, AppID: w.app.ID, SubjectID: inv.ID, EmailKey: inv.EmailKey}, "bounced")
	if err != nil || !held {
		t.Fatal(held, err)
	}
	if err := w.worker.Roster.LiftSuppression(t.Context(), w.app.ID, "hard@fake.test"); err != nil {
		t.Fatal(err)
	}
	w.eventually("the invitation goes on", `
		SELECT invitation.state = 'pending' AND message_id <> $2 FROM invitation WHERE id = $1`, inv.ID, *inv.MessageID)
	if list, err := p.Suppressions(t.Context()); err != nil || len(list) != 0 {
		t.Errorf("the provider still suppresses %+v (%v)", list, err)
	}
}
