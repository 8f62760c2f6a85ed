package roster_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"usher/internal/roster"
	"usher/internal/roster/rostertest"
)

func TestOnceGivesTheFirstAnswerAgain(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	create := func(name string, key roster.IdempotencyKey) (roster.Company, error) {
		return b.CreateCompany(t.Context(), b.App.ID, name, "", key)
	}
	first, err := create("North", keyFor("one", "North"))
	done(t, err)
	again, err := create("North", keyFor("one", "North"))
	done(t, err)
	if a, b := asJSON(t, again), asJSON(t, first); a != b {
		t.Errorf("again:\n got %s\nwant %s", a, b)
	}
	_, err = create("South", keyFor("one", "South"))
	refused(t, err, roster.Reused, "idempotency_key_reused")

	elsewhere := keyFor("one", "South")
	elsewhere.Route = "POST /elsewhere"
	_, err = create("South", elsewhere)
	done(t, err)
	other := b.Another(t)
	theirs, err := other.CreateCompany(t.Context(), other.App.ID, "North", "", keyFor("one", "North"))
	done(t, err)
	if theirs.ID == first.ID || theirs.AppID != other.App.ID {
		t.Errorf("another app got %+v", theirs)
	}
	if _, err := create("West", noKey); err != nil {
		t.Fatal(err)
	}
	if _, err := create("West", noKey); err != nil {
		t.Fatal(err)
	}
	if n := rostertest.Value[int](t, b, `SELECT count(*) FROM company WHERE app_id = $1`, b.App.ID); n != 5 {
		t.Errorf("companies: got %d, want 5", n)
	}
}

func TestOnceRemembersRefusals(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	key := keyFor("one", "resend")
	resend := func() error {
		_, err := b.ResendInvitation(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, key)
		return err
	}
	first := refused(t, resend(), roster.TooSoon, "resend_too_soon")
	b.Clock.Add(2 * resendAfter)
	if again := refused(t, resend(), roster.TooSoon, "resend_too_soon"); asJSON(t, again) != asJSON(t, first) {
		t.Errorf("again:\n got %s\nwant %s", asJSON(t, again), asJSON(t, first))
	}
	key = keyFor("two", "resend")
	done(t, resend())

	// A refusal found by the database leaves the transaction usable.
	taken := b.Invite(t, "bob@example.org")
	for range 2 {
		_, err := b.CorrectInvitationAddress(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, taken.Email, keyFor("three", "bob"))
		refused(t, err, roster.Conflict, "already_invited")
	}

	// What stands, with its time, comes back whole.
	accept(t, b, inv)
	for range 2 {
		_, err := b.RevokeInvitation(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, keyFor("four", "revoke"))
		stands(t, refused(t, err, roster.Conflict, "already_accepted"), roster.Accepted, *reread(t, b, inv).DecidedAt)
	}
}

// A fault is nobody's answer: the retry does what the first try could not.
func TestOnceForgetsFaults(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	b.Clock.Add(resendAfter)
	key := keyFor("one", "resend")
	_, err := withoutQueue(t, b).ResendInvitation(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, key)
	var refusal *roster.Error
	if err == nil || errors.As(err, &refusal) {
		t.Fatalf("got %v, want a fault", err)
	}
	if n := rostertest.Value[int](t, b, `SELECT count(*) FROM idempotency_key WHERE app_id = $1`, b.App.ID); n != 0 {
		t.Error("the fault is remembered")
	}
	resent, err := b.ResendInvitation(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, key)
	done(t, err)
	if resent.Sends != 2 {
		t.Errorf("sends: got %d, want 2", resent.Sends)
	}
	wantEvents(t, b, inv, "created", "resent")
}

// Every act under a key happens once, and answers the same twice.
func TestOnceForEachAct(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	ctx, app, actor := t.Context(), b.App.ID, b.Stakeholder.ID
	inv := b.Invite(t, "ann@example.org")
	b.Clock.Add(resendAfter)
	twice := func(name string, do func(key roster.IdempotencyKey) (roster.Invitation, error)) {
		t.Helper()
		first, err := do(keyFor(name, name))
		done(t, err)
		again, err := do(keyFor(name, name))
		done(t, err)
		if a, b := asJSON(t, again), asJSON(t, first); a != b {
			t.Errorf("%s again:\n got %s\nwant %s", name, a, b)
		}
	}
	twice("resend", func(key roster.IdempotencyKey) (roster.Invitation, error) {
		return b.ResendInvitation(ctx, app, actor, inv.ID, key)
	})
	twice("copy", func(key roster.IdempotencyKey) (roster.Invitation, error) {
		return b.CopyInvitationLink(ctx, app, actor, inv.ID, key)
	})
	twice("correct", func(key roster.IdempotencyKey) (roster.Invitation, error) {
		return b.CorrectInvitationAddress(ctx, app, actor, inv.ID, "anne@example.org", key)
	})
	expire(t, b, inv)
	twice("reopen", func(key roster.IdempotencyKey) (roster.Invitation, error) {
		return b.ReopenInvitation(ctx, app, actor, inv.ID, key)
	})
	twice("revoke", func(key roster.IdempotencyKey) (roster.Invitation, error) {
		return b.RevokeInvitation(ctx, app, actor, inv.ID, key)
	})
	wantEvents(t, b, inv, "created", "resent", "link_copied", "address_corrected", "expired", "reopened", "revoked")
	if n := len(b.Mails(t, inv.ID)); n != 4 {
		t.Errorf("mails: got %d, want 4", n)
	}
}

func TestOnceConcurrently(t *testing.T) {
	t.Parallel()
	b, _ := rostertest.Database(t)
	const rounds, callers = 20, 4
	for round := range rounds {
		var got [callers]roster.Company
		var errs [callers]error
		atOnce(callers, func(i int) {
			name := fmt.Sprintf("Company %d", i/2) // two requests under one key, each sent twice
			got[i], errs[i] = b.CreateCompany(context.Background(), b.App.ID, name, "", keyFor(fmt.Sprint(round), name))
		})
		won := 0
		if errs[0] != nil {
			won = 2
		}
		done(t, errors.Join(errs[won], errs[won+1]))
		if got[won].ID != got[won+1].ID {
			t.Fatalf("one request made %s and %s", got[won].ID, got[won+1].ID)
		}
		for _, lost := range []int{2 - won, 3 - won} {
			refused(t, errs[lost], roster.Reused, "idempotency_key_reused")
		}
	}
	if n := rostertest.Value[int](t, b, `SELECT count(*) FROM company`); n != rounds+1 {
		t.Errorf("companies: got %d, want %d", n, rounds+1)
	}
}

// What is remembered holds no link and no secret that could make one.
func TestRememberedAnswersHaveNoLinks(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Create(t, keyed(b.Row("ann@example.org"), "one"))[0].Invitation
	token := keyring(t, oldSecret).Token(roster.PurposeInvitation, inv.Ticket())
	if stored := rostertest.Value[string](t, b, `SELECT answer::text FROM idempotency_key`); strings.Contains(stored, token) || strings.Contains(stored, "http") {
		t.Errorf("stored: %s", stored)
	}
}
