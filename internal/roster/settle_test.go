package roster_test

import (
	"slices"
	"testing"

	"usher/internal/roster"
	"usher/internal/roster/rostertest"
)

// doubt makes the newest mail of an invitation uncertain.
func doubt(t *testing.T, b *rostertest.Bundle, inv roster.Invitation) {
	t.Helper()
	b.Exec(t, `UPDATE message SET state = 'uncertain', reason = 'who knows', due_at = NULL WHERE id = $1`, *inv.MessageID)
}

func TestSettleMailAsSent(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	doubt(t, b, inv)
	for range 2 { // and saying it again
		again, err := b.SettleMail(t.Context(), b.App.ID, *inv.MessageID, true, noKey)
		done(t, err)
		if again != nil {
			t.Errorf("mail %s is written in place of one that was sent", again)
		}
	}
	if state := rostertest.Value[string](t, b, `SELECT state || reason FROM message WHERE id = $1`, *inv.MessageID); state != "accepted" {
		t.Errorf("the mail is %s", state)
	}
	if events := b.Events(t, *inv.MessageID); !slices.Equal(events, []string{"message.settled"}) {
		t.Errorf("events are %v", events)
	}
	if _, err := b.SettleMail(t.Context(), b.App.ID, *inv.MessageID, false, noKey); roster.CodeOf(err) != "not_uncertain" {
		t.Errorf("the opposite afterwards: %v", err)
	}
}

func TestSettleMailAsNotSent(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	doubt(t, b, inv)
	first, err := b.SettleMail(t.Context(), b.App.ID, *inv.MessageID, false, noKey)
	done(t, err)
	second, err := b.SettleMail(t.Context(), b.App.ID, *inv.MessageID, false, noKey)
	done(t, err)
	now, err := b.Invitation(t.Context(), b.App.ID, inv.ID)
	done(t, err)
	if first == nil || second == nil || *first != *second || *first != *now.MessageID || now.Delivery != roster.MailQueued {
		t.Errorf("settled by %v, then %v; the invitation's mail is %s, %s", first, second, now.MessageID, now.Delivery)
	}
	if n := len(b.Mails(t, inv.ID)); n != 2 {
		t.Errorf("%d mails, want 2", n)
	}
	if letters, err := b.Letters(t.Context(), b.Mails(t, inv.ID)); err != nil || letters[*first].Skip != "" || letters[*inv.MessageID].Skip == "" {
		t.Errorf("the late check says %+v (%v)", letters, err)
	}
}

// What is no longer wanted is not written anew.
func TestSettleMailOfTheDecided(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	doubt(t, b, inv)
	_, err := b.RevokeInvitation(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, noKey)
	done(t, err)
	again, err := b.SettleMail(t.Context(), b.App.ID, *inv.MessageID, false, noKey)
	done(t, err)
	if again != nil || len(b.Mails(t, inv.ID)) != 1 {
		t.Errorf("mail %v is written for a revoked invitation", again)
	}
}

func TestSettleNews(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	_, err := b.DeclineInvitation(t.Context(), inv.Ticket())
	done(t, err)
	news := b.Mails(t, b.Stakeholder.ID)[0]
	b.Exec(t, `UPDATE message SET state = 'uncertain', due_at = NULL WHERE id = $1`, news.ID)
	again, err := b.SettleMail(t.Context(), b.App.ID, news.ID, false, noKey)
	done(t, err)
	mails := b.Mails(t, b.Stakeholder.ID)
	if len(mails) != 2 || again == nil || mails[1].ID != *again || !slices.Equal(mails[1].Args.EventIDs, news.Args.EventIDs) || mails[1].EmailKey != news.EmailKey {
		t.Errorf("in place of %+v: %v, %+v", news, again, mails)
	}
}

func TestSettleOnlyTheUncertain(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	for _, sent := range []bool{true, false} {
		if _, err := b.SettleMail(t.Context(), b.App.ID, *inv.MessageID, sent, noKey); roster.CodeOf(err) != "not_uncertain" {
			t.Errorf("a queued mail settled as sent=%v: %v", sent, err)
		}
	}
	// What the provider refused for good was not settled by anybody's word.
	b.Exec(t, `UPDATE message SET state = 'failed', reason = '422', due_at = NULL WHERE id = $1`, *inv.MessageID)
	if _, err := b.SettleMail(t.Context(), b.App.ID, *inv.MessageID, false, noKey); roster.CodeOf(err) != "not_uncertain" {
		t.Errorf("a refused mail settled as not sent: %v", err)
	}
}

func TestSettleMailOfAnotherApp(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	doubt(t, b, inv)
	other := b.Another(t)
	if _, err := other.SettleMail(t.Context(), other.App.ID, *inv.MessageID, true, noKey); roster.CodeOf(err) != "message_not_found" {
		t.Errorf("another app settles it: %v", err)
	}
	if state := rostertest.Value[string](t, b, `SELECT state FROM message WHERE id = $1`, *inv.MessageID); state != "uncertain" {
		t.Errorf("another app made the mail %s", state)
	}
}
