package roster_test

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"usher/internal/roster"
	"usher/internal/roster/rostertest"
)

// liftEvery is as in the package.
const liftEvery = 24 * time.Hour

// newestMail is an invitation's newest mail, as its facts name it.
func newestMail(inv roster.Invitation) roster.Mail {
	return roster.Mail{ID: *inv.MessageID, AppID: inv.AppID, SubjectID: inv.ID, EmailKey: inv.EmailKey}
}

// block makes mail to an address impossible.
func block(t *testing.T, b *rostertest.Bundle, email, kind string) {
	t.Helper()
	b.Exec(t, `INSERT INTO address (app_id, email_key, block, blocked_at) VALUES ($1, $2, $3, $4)
		ON CONFLICT (app_id, email_key) DO UPDATE SET block = $3, blocked_at = $4`, b.App.ID, email, kind, b.Clock.Now())
}

// bounceFor puts an invitation on hold, as a bounce of its mail does.
func bounceFor(t *testing.T, b *rostertest.Bundle, inv roster.Invitation, kind string) {
	t.Helper()
	block(t, b, inv.EmailKey, kind)
	held, err := b.HoldInvitation(t.Context(), newestMail(inv), "bounced")
	done(t, err)
	if !held {
		t.Fatal("not held")
	}
}

func resend(t *testing.T, b *rostertest.Bundle, inv roster.Invitation) (roster.Invitation, error) {
	t.Helper()
	return b.ResendInvitation(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, noKey)
}

func resendToBlocked(t *testing.T, b *rostertest.Bundle, inv roster.Invitation) (roster.Invitation, error) {
	t.Helper()
	return b.ResendToBlocked(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, noKey)
}

func TestHold(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@gmial.com")
	for range 2 { // whatever is told twice holds once
		_, err := b.HoldInvitation(t.Context(), newestMail(inv), "bounced")
		done(t, err)
	}
	if held := reread(t, b, inv); held.State != roster.OnHold || held.Version != inv.Version {
		t.Errorf("got %+v", held)
	}
	wantEvents(t, b, inv, "created", "held")
	var data map[string]any
	done(t, json.Unmarshal([]byte(rostertest.Value[string](t, b, `SELECT data::text FROM event WHERE type = 'invitation.held'`)), &data))
	if data["reason"] != "bounced" || data["suggested_domain"] != "gmail.com" || data["version"] != 1.0 {
		t.Errorf("event: %v", data)
	}
	if n := rostertest.Value[int](t, b, `SELECT count(*) FROM message WHERE kind = 'news' AND subject_id = $1`, b.Stakeholder.ID); n != 1 {
		t.Errorf("%d letters to the inviter", n)
	}
	// The link works all the same.
	if _, _, err := b.AcceptInvitation(t.Context(), inv.Ticket(), roster.Acceptance{FullName: "Ann", PasswordHash: "x"}); err != nil {
		t.Error(err)
	}
}

// TestHoldOnlyFor goes through what must not hold an invitation.
func TestHoldOnlyFor(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(t *testing.T, b *rostertest.Bundle, inv roster.Invitation, m *roster.Mail){
		"a mail after which another was asked for": func(t *testing.T, b *rostertest.Bundle, inv roster.Invitation, _ *roster.Mail) {
			b.Clock.Add(resendAfter)
			_, err := resend(t, b, inv)
			done(t, err)
		},
		"a mail to the address before": func(t *testing.T, b *rostertest.Bundle, inv roster.Invitation, _ *roster.Mail) {
			_, err := correct(t, b, inv, "anna@example.org")
			done(t, err)
		},
		"another address": func(_ *testing.T, _ *rostertest.Bundle, _ roster.Invitation, m *roster.Mail) {
			m.EmailKey = "eve@example.org"
		},
		"another app": func(_ *testing.T, _ *rostertest.Bundle, _ roster.Invitation, m *roster.Mail) { m.AppID = uuid.New() },
		"one that was accepted": func(t *testing.T, b *rostertest.Bundle, inv roster.Invitation, _ *roster.Mail) {
			_, _, err := b.AcceptInvitation(t.Context(), inv.Ticket(), roster.Acceptance{FullName: "Ann", PasswordHash: "x"})
			done(t, err)
		},
		"one that was declined": func(t *testing.T, b *rostertest.Bundle, inv roster.Invitation, _ *roster.Mail) {
			_, err := b.DeclineInvitation(t.Context(), inv.Ticket())
			done(t, err)
		},
		"one whose time is over": func(_ *testing.T, b *rostertest.Bundle, inv roster.Invitation, _ *roster.Mail) {
			b.Clock.Set(inv.ExpiresAt)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := rostertest.Begin(t)
			inv := b.Invite(t, "ann@example.org")
			m := newestMail(inv)
			change(t, b, inv, &m)
			before := reread(t, b, inv)
			held, err := b.HoldInvitation(t.Context(), m, "bounced")
			done(t, err)
			if after := reread(t, b, inv); held || after.State != before.State {
				t.Errorf("held %v, state %s", held, after.State)
			}
		})
	}
}

// TestResendAfterBounce is the table of what a resend means then.
func TestResendAfterBounce(t *testing.T) {
	t.Parallel()
	t.Run("a full mailbox", func(t *testing.T) {
		t.Parallel()
		b := rostertest.Begin(t)
		inv := b.Invite(t, "ann@example.org")
		_, err := b.HoldInvitation(t.Context(), newestMail(inv), "mailbox_full")
		done(t, err)
		_, err = resend(t, b, inv)
		refused(t, err, roster.TooSoon, "resend_too_soon")
		for range maxResends {
			b.Clock.Add(resendAfter)
			again, err := resend(t, b, inv)
			done(t, err)
			if again.State != roster.Pending || again.Version != inv.Version || *again.MessageID == *inv.MessageID {
				t.Errorf("got %+v", again)
			}
			_, err = b.HoldInvitation(t.Context(), newestMail(again), "mailbox_full")
			done(t, err)
		}
		b.Clock.Add(resendAfter)
		_, err = resend(t, b, inv)
		refused(t, err, roster.Conflict, "resend_limit")
		_, err = resendToBlocked(t, b, inv) // it is not blocked, so this is the same
		refused(t, err, roster.Conflict, "resend_limit")
	})
	t.Run("a corrected address", func(t *testing.T) {
		t.Parallel()
		b := rostertest.Begin(t)
		inv := b.Invite(t, "ann@example.org")
		bounceFor(t, b, inv, "hard")
		fixed, err := correct(t, b, inv, "anna@example.org")
		done(t, err)
		if fixed.State != roster.Pending || fixed.Version != 2 || fixed.Delivery != roster.MailQueued || !fixed.QueuedAt.Equal(b.Clock.Now()) {
			t.Errorf("got %+v", fixed)
		}
	})
	for _, kind := range []string{"hard", "provider"} {
		t.Run("the mailbox exists now: "+kind, func(t *testing.T) {
			t.Parallel()
			b := rostertest.Begin(t)
			inv := b.Invite(t, "Ann@example.org")
			bounceFor(t, b, inv, kind)
			b.Clock.Add(resendAfter)
			_, err := resend(t, b, inv)
			if e := refused(t, err, roster.Conflict, "address_blocked"); e.State != roster.OnHold {
				t.Errorf("state %s", e.State)
			}
			asked, err := resendToBlocked(t, b, inv)
			done(t, err)
			if asked.State != roster.OnHold || *asked.MessageID != *inv.MessageID {
				t.Errorf("before the provider did its part: %+v", asked)
			}
			_, err = resendToBlocked(t, b, inv)
			if e := refused(t, err, roster.TooSoon, "mailbox_asked_lately"); e.RetryAt == nil || !e.RetryAt.Equal(b.Clock.Now().Add(liftEvery)) {
				t.Errorf("retry at %v", e.RetryAt)
			}
			job := rostertest.Value[roster.LiftSuppression](t, b, `SELECT args FROM river_job WHERE kind = 'lift_suppression'`)
			email, skip, err := b.AddressToLift(t.Context(), job)
			done(t, err)
			if email != "Ann@example.org" || skip != "" {
				t.Errorf("lift %q, skip %q", email, skip)
			}
			b.Clock.Add(time.Minute)
			for range 2 { // the job may run twice
				done(t, b.AddressLifted(t.Context(), job))
			}
			again := reread(t, b, inv)
			if again.State != roster.Pending || again.Sends != 2 || again.Delivery != roster.MailQueued {
				t.Errorf("afterwards: %+v", again)
			}
			if have := rostertest.Value[string](t, b, `SELECT block || lifted_at FROM address`); have != fmt.Sprint(b.Clock.Now().Format("2006-01-02 15:04:05+00")) {
				t.Errorf("the address: %s", have)
			}
			wantEvents(t, b, inv, "created", "held", "mailbox_exists", "resent")

			bounceFor(t, b, again, kind)
			b.Clock.Add(resendAfter)
			_, err = resendToBlocked(t, b, inv)
			refused(t, err, roster.TooSoon, "mailbox_asked_lately")
			b.Clock.Add(liftEvery)
			_, err = resendToBlocked(t, b, inv)
			done(t, err)
			_, err = correct(t, b, inv, "anna@example.org")
			done(t, err)
			job.Version = 1
			if _, skip, err := b.AddressToLift(t.Context(), job); err != nil || skip == "" {
				t.Errorf("a replaced address is lifted: %q %v", skip, err)
			}
		})
	}
	t.Run("a complaint", func(t *testing.T) {
		t.Parallel()
		b := rostertest.Begin(t)
		inv := b.Invite(t, "ann@example.org")
		bounceFor(t, b, inv, "complaint")
		b.Clock.Add(resendAfter)
		for _, again := range []func(*testing.T, *rostertest.Bundle, roster.Invitation) (roster.Invitation, error){resend, resendToBlocked} {
			_, err := again(t, b, inv)
			refused(t, err, roster.Conflict, "no_mail_wanted")
		}
		if have := rostertest.Value[string](t, b, `SELECT block FROM address`); have != "complaint" {
			t.Errorf("the address: %s", have)
		}
		_, err := b.CopyInvitationLink(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, noKey)
		done(t, err)
	})
	t.Run("another invitation blocked the address", func(t *testing.T) {
		t.Parallel()
		b := rostertest.Begin(t)
		inv := b.Invite(t, "ann@example.org")
		block(t, b, "ann@example.org", "hard")
		b.Clock.Add(resendAfter)
		_, err := resend(t, b, inv)
		refused(t, err, roster.Conflict, "address_blocked")
	})
}

func TestMailAgain(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	job := roster.RetryMail{MessageID: *inv.MessageID, Retry: 1}
	b.Clock.Add(liftEvery)
	for _, want := range []bool{true, false} { // twice is once
		mailed, err := b.MailAgain(t.Context(), job)
		done(t, err)
		if mailed != want {
			t.Errorf("mailed %v, want %v", mailed, want)
		}
	}
	again := reread(t, b, inv)
	if again.Sends != 1 || again.Version != 1 || again.Delivery != roster.MailQueued || !again.QueuedAt.Equal(b.Clock.Now()) {
		t.Errorf("got %+v", again)
	}
	mails := b.Mails(t, inv.ID)
	if m := mails[len(mails)-1]; len(mails) != 2 || m.ID != *again.MessageID || m.Purpose != "retry:"+inv.MessageID.String() || m.Args.Retry != 1 || m.Args.Version != 1 {
		t.Errorf("mails %+v", mails)
	}
	letters, err := b.Letters(t.Context(), mails)
	done(t, err)
	if letters[*again.MessageID].Skip != "" || letters[*inv.MessageID].Skip == "" {
		t.Errorf("letters %+v", letters)
	}
	wantEvents(t, b, inv, "created", "resent")
}

func TestCreateForBlockedAddress(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	block(t, b, "ann@example.org", "hard")
	block(t, b, "eve@example.org", "complaint")
	silent := b.Row("Ann@example.org")
	silent.Notify, silent.WorkspaceID = false, b.NewWorkspace(t, "Other").ID
	row := b.Row("Ann@example.org")
	row.Key = roster.IdempotencyKey{Route: "r", Key: "k", Hash: []byte("h")}
	out := b.Create(t, row, b.Row("bob@example.org"), b.Row("eve@example.org"), silent)
	for i, want := range []struct {
		state    roster.State
		delivery roster.Delivery
		reason   string
		events   []string
	}{
		{roster.OnHold, roster.MailSuppressed, "suppressed", []string{"created", "held"}},
		{roster.Pending, roster.MailQueued, "", []string{"created"}},
		{roster.OnHold, roster.MailSuppressed, "complained_before", []string{"created", "held"}},
		{roster.Pending, roster.NotMailed, "", []string{"created"}}, // the link is given on by hand
	} {
		inv := out[i].Invitation
		done(t, out[i].Err)
		if have, kept := asJSON(t, inv), asJSON(t, reread(t, b, inv)); have != kept {
			t.Errorf("answered %s\nkept     %s", have, kept)
		}
		if inv.State != want.state || inv.Delivery != want.delivery || (inv.MailNote != nil) != (want.reason != "") || inv.MailNote != nil && inv.MailNote.Reason != want.reason {
			t.Errorf("row %d: %s", i, asJSON(t, inv))
		}
		wantEvents(t, b, inv, want.events...)
	}
	if due := rostertest.Column[string](t, b, `SELECT email_key FROM message WHERE due_at IS NOT NULL`); len(due) != 1 || due[0] != "bob@example.org" {
		t.Errorf("mail waits for %v", due)
	}
	replayed := b.Create(t, row)[0]
	if have, want := asJSON(t, replayed.Invitation), asJSON(t, out[0].Invitation); have != want {
		t.Errorf("replayed %s\nwant     %s", have, want)
	}
}
