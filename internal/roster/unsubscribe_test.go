package roster_test

import (
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"usher/internal/roster"
	"usher/internal/roster/rostertest"
)

// mailed invites an address and returns the ticket that its mail carries.
func mailed(t *testing.T, b *rostertest.Bundle, email string) (roster.Invitation, roster.Ticket) {
	t.Helper()
	inv := b.Invite(t, email)
	return inv, roster.UnsubscribeTicket(*inv.MessageID)
}

// wanted checks what mail an address gets, and what is kept of it.
func wanted(t *testing.T, b *rostertest.Bundle, ticket roster.Ticket, want roster.Wanted, row string) {
	t.Helper()
	s, err := b.Subscription(t.Context(), ticket)
	done(t, err)
	if s.Wanted != want || s.App.ID != b.App.ID || s.Email != "a•••@example.org" {
		t.Errorf("got %+v, want %s", s, want)
	}
	got := rostertest.Column[string](t, b, `
		SELECT email_key || ' ' || block || ' ' || (unsubscribed_at IS NOT NULL) || ' ' || (blocked_at IS NOT NULL) FROM address`)
	if row == "" && len(got) != 0 || row != "" && !slices.Equal(got, []string{row}) {
		t.Errorf("rows of addresses: got %q, want %q", got, row)
	}
}

func TestStopAndResume(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv, ticket := mailed(t, b, "Ann@Example.org")
	ctx := t.Context()
	wanted(t, b, ticket, roster.WantsAll, "")

	for _, step := range []struct {
		do   func() (roster.Subscription, error)
		want roster.Wanted
		row  string
	}{
		{func() (roster.Subscription, error) { return b.ResumeMail(ctx, ticket) }, roster.WantsAll, ""},
		{func() (roster.Subscription, error) { return b.StopReminders(ctx, ticket) }, roster.WantsNoReminders, "ann@example.org  true false"},
		{func() (roster.Subscription, error) { return b.StopMail(ctx, ticket) }, roster.WantsNone, "ann@example.org complaint true true"},
		{func() (roster.Subscription, error) { return b.StopReminders(ctx, ticket) }, roster.WantsNone, "ann@example.org complaint true true"},
		{func() (roster.Subscription, error) { return b.ResumeMail(ctx, ticket) }, roster.WantsAll, "ann@example.org  false false"},
		{func() (roster.Subscription, error) { return b.StopMail(ctx, ticket) }, roster.WantsNone, "ann@example.org complaint true true"},
	} {
		for range 2 { // again changes nothing
			s, err := step.do()
			done(t, err)
			if s.Wanted != step.want || s.Final {
				t.Fatalf("got %s, final %t, want %s", s.Wanted, s.Final, step.want)
			}
			wanted(t, b, ticket, step.want, step.row)
		}
		b.Clock.Add(time.Minute)
	}
	wantEvents(t, b, inv, "created", roster.EventRemindersStopped, roster.EventMailStopped, roster.EventMailResumed, roster.EventMailStopped)
	if n := rostertest.Value[int](t, b, `SELECT count(*) FROM event WHERE data::text LIKE '%ann%' OR data::text LIKE '%@%'`); n != 0 {
		t.Error("an event keeps the address")
	}

	// What was said holds for every mail to the address, and for it alone.
	if l := letter(t, b, onlyMail(t, b, inv.ID)); l.Block != "complaint" {
		t.Errorf("the late check finds block %q", l.Block)
	}
	_, other := mailed(t, b, "abe@example.org")
	if s, err := b.Subscription(ctx, other); err != nil || s.Wanted != roster.WantsAll {
		t.Errorf("another address: %s, %v", s.Wanted, err)
	}
}

// TestStopAfterCorrection shows that a mail's link stands for the address the
// mail went to, whatever became of the invitation.
func TestStopAfterCorrection(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv, ticket := mailed(t, b, "amy@example.org")
	_, err := b.CorrectInvitationAddress(t.Context(), b.App.ID, b.Admin.ID, inv.ID, "ann@example.org", noKey)
	done(t, err)
	_, err = b.StopMail(t.Context(), ticket)
	done(t, err)
	wanted(t, b, ticket, roster.WantsNone, "amy@example.org complaint true true")
}

func TestResumeKeepsOtherBlocks(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	_, ticket := mailed(t, b, "ann@example.org")
	ctx := t.Context()
	b.Exec(t, `INSERT INTO address (app_id, email_key, block, detail, blocked_at) VALUES ($1, 'ann@example.org', 'hard', '550 5.1.1', now())`, b.App.ID)
	_, err := b.StopReminders(ctx, ticket)
	done(t, err)
	wanted(t, b, ticket, roster.WantsNoReminders, "ann@example.org hard true true")
	_, err = b.ResumeMail(ctx, ticket)
	done(t, err)
	wanted(t, b, ticket, roster.WantsAll, "ann@example.org hard false true")

	// A complaint to the provider is its own, and stays.
	b.Exec(t, `UPDATE address SET block = 'complaint', detail = ''`)
	for _, do := range []func() (roster.Subscription, error){
		func() (roster.Subscription, error) { return b.StopMail(ctx, ticket) },
		func() (roster.Subscription, error) { return b.ResumeMail(ctx, ticket) },
	} {
		if s, err := do(); err != nil || s.Wanted != roster.WantsNone || !s.Final {
			t.Errorf("after a complaint: %+v, %v", s, err)
		}
	}
	wanted(t, b, ticket, roster.WantsNone, "ann@example.org complaint false true")
	if n := rostertest.Value[int](t, b, `SELECT count(*) FROM event WHERE type IN ('mail.stopped', 'mail.resumed')`); n != 1 {
		t.Errorf("%d events", n)
	}
}

func TestStopUnknownMail(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	before := snapshot(t, b)
	for _, do := range []func(roster.Ticket) (roster.Subscription, error){
		func(ticket roster.Ticket) (roster.Subscription, error) { return b.Subscription(t.Context(), ticket) },
		func(ticket roster.Ticket) (roster.Subscription, error) { return b.StopReminders(t.Context(), ticket) },
		func(ticket roster.Ticket) (roster.Subscription, error) { return b.StopMail(t.Context(), ticket) },
		func(ticket roster.Ticket) (roster.Subscription, error) { return b.ResumeMail(t.Context(), ticket) },
	} {
		_, err := do(roster.UnsubscribeTicket(uuid.New()))
		refused(t, err, roster.NotFound, "link_dead")
	}
	if after := snapshot(t, b); after != before {
		t.Error("an unknown mail changed something")
	}
}
