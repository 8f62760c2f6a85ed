package jobs

import (
	"testing"
	"time"

	"usher/internal/mail"
	"usher/internal/mail/mailtest"
)

// TestReconcileMail loses the provider's answer for a day. The mail is not sent
// again; it is found in the provider's list.
func TestReconcileMail(t *testing.T) {
	t.Parallel()
	p, sender := provider(t)
	w, pool := newWorldOnPool(t, nil)
	w.worker.Sender = sender
	fail(t, p, mailtest.Fault{When: "after", Kind: "reset", Times: 1000})
	inv := w.invite("Ann@client.dev")
	client := w.run(pool)
	w.eventually("the outcome is unknown", `SELECT EXISTS (SELECT FROM dispatch WHERE unknown > 0 AND outcome <> '')`)
	if err := client.Stop(t.Context()); err != nil {
		t.Fatal(err)
	}

	w.now = w.now.Add(25 * time.Hour)
	if err := p.Advance(t.Context(), 25*time.Hour); err != nil {
		t.Fatal(err)
	}
	fail(t, p)
	client = w.run(pool)
	w.eventually("the mail is uncertain", `SELECT state = 'uncertain' FROM message WHERE subject_id = $1`, inv.ID)
	if _, err := client.Insert(t.Context(), mail.ReconcileMail{}, nil); err != nil {
		t.Fatal(err)
	}
	w.eventually("the mail is found", `SELECT state = 'accepted' AND reason = '' FROM message WHERE subject_id = $1`, inv.ID)
	if l := ledger(t, p); len(l.Messages) != 1 || l.Messages[0].Count != 1 ||
		l.Messages[0].EmailIDs[0] != value[string](w, `SELECT provider_id FROM message WHERE subject_id = $1`, inv.ID) {
		t.Errorf("the provider has %+v", l.Messages)
	}
}
