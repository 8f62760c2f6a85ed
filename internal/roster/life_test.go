package roster_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"usher/internal/roster"
	"usher/internal/roster/rostertest"
)

// acts are the operations of an actor on an invitation, for what holds for all.
var acts = []struct {
	name string
	do   func(t *testing.T, b *rostertest.Bundle, app, actor, id uuid.UUID) (roster.Invitation, error)
}{
	{"resend", func(t *testing.T, b *rostertest.Bundle, app, actor, id uuid.UUID) (roster.Invitation, error) {
		return b.ResendInvitation(t.Context(), app, actor, id, noKey)
	}},
	{"copy link", func(t *testing.T, b *rostertest.Bundle, app, actor, id uuid.UUID) (roster.Invitation, error) {
		return b.CopyInvitationLink(t.Context(), app, actor, id, noKey)
	}},
	{"correct address", func(t *testing.T, b *rostertest.Bundle, app, actor, id uuid.UUID) (roster.Invitation, error) {
		return b.CorrectInvitationAddress(t.Context(), app, actor, id, "corrected@example.org", noKey)
	}},
	{"revoke", func(t *testing.T, b *rostertest.Bundle, app, actor, id uuid.UUID) (roster.Invitation, error) {
		return b.RevokeInvitation(t.Context(), app, actor, id, noKey)
	}},
	{"reopen", func(t *testing.T, b *rostertest.Bundle, app, actor, id uuid.UUID) (roster.Invitation, error) {
		return b.ReopenInvitation(t.Context(), app, actor, id, noKey)
	}},
}

func TestActsNeedTheRight(t *testing.T) {
	t.Parallel()
	for _, act := range acts {
		t.Run(act.name, func(t *testing.T) {
			t.Parallel()
			b := rostertest.Begin(t)
			inv := b.Invite(t, "ann@example.org")
			if act.name == "reopen" {
				expire(t, b, inv)
			} else {
				b.Clock.Add(resendAfter)
			}
			before := asJSON(t, reread(t, b, inv))
			_, err := act.do(t, b, b.App.ID, b.Outsider.ID, inv.ID)
			refused(t, err, roster.Forbidden, "actor_not_allowed")
			_, err = act.do(t, b, b.App.ID, uuid.New(), inv.ID)
			refused(t, err, roster.Forbidden, "actor_invalid")
			_, err = act.do(t, b, b.App.ID, b.Stakeholder.ID, uuid.New())
			refused(t, err, roster.NotFound, "invitation_not_found")
			if after := asJSON(t, reread(t, b, inv)); after != before {
				t.Errorf("changed by somebody without the right:\n got %s\nwant %s", after, before)
			}
			_, err = act.do(t, b, b.App.ID, b.Admin.ID, inv.ID)
			done(t, err)
		})
	}
}

// What was decided, and what is too late, is said by each act alike.
func TestActsOnWhatIsOver(t *testing.T) {
	t.Parallel()
	for _, act := range acts {
		for _, state := range []roster.State{roster.Accepted, roster.Declined, roster.Revoked, roster.Superseded, roster.Expired} {
			if act.name == "revoke" && state == roster.Revoked || act.name == "reopen" && state == roster.Expired {
				continue // they succeed
			}
			t.Run(act.name+" "+string(state), func(t *testing.T) {
				t.Parallel()
				b := rostertest.Begin(t)
				inv := b.Invite(t, "ann@example.org")
				decided := b.Clock.Now().Add(time.Minute)
				b.Exec(t, `UPDATE invitation SET state = $2, decided_at = $3 WHERE id = $1`, inv.ID, state, decided)
				b.Clock.Add(2 * resendAfter)
				_, err := act.do(t, b, b.App.ID, b.Stakeholder.ID, inv.ID)
				kind, code := roster.Conflict, "already_"+string(state)
				if state == roster.Expired {
					kind, code = roster.Gone, "expired"
				}
				stands(t, refused(t, err, kind, code), state, decided)
				wantEvents(t, b, inv, "created")
				if len(b.Mails(t, inv.ID)) != 1 {
					t.Error("mailed again")
				}
			})
		}
	}
}

// Before the sweep has been there an overdue invitation is expired already.
func TestActsOnOverdue(t *testing.T) {
	t.Parallel()
	for _, act := range acts[:3] {
		t.Run(act.name, func(t *testing.T) {
			t.Parallel()
			b := rostertest.Begin(t)
			inv := b.Invite(t, "ann@example.org")
			b.Clock.Set(inv.ExpiresAt)
			_, err := act.do(t, b, b.App.ID, b.Stakeholder.ID, inv.ID)
			stands(t, refused(t, err, roster.Gone, "expired"), roster.Expired, inv.ExpiresAt)
			b.Clock.Set(inv.ExpiresAt.Add(-time.Microsecond))
			_, err = act.do(t, b, b.App.ID, b.Stakeholder.ID, inv.ID)
			done(t, err)
		})
	}
}

func TestActsOnArchivedWorkspace(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	b.Exec(t, `UPDATE workspace SET state = 'archived' WHERE id = $1`, b.Workspace.ID)
	_, err := b.RevokeInvitation(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, noKey)
	done(t, err)
}

func TestResend(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	resend := func(inv roster.Invitation) (roster.Invitation, error) {
		return b.ResendInvitation(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, noKey)
	}
	inv := b.Invite(t, "ann@example.org")
	first := inv
	b.Clock.Add(resendAfter - time.Microsecond)
	_, err := resend(inv)
	if e := refused(t, err, roster.TooSoon, "resend_too_soon"); e.RetryAt == nil || !e.RetryAt.Equal(first.QueuedAt.Add(resendAfter)) {
		t.Errorf("retry at: got %v", e.RetryAt)
	}
	b.Clock.Add(time.Microsecond)
	for n := range maxResends {
		now := b.Clock.Now()
		inv, err = resend(inv)
		done(t, err)
		if inv.Sends != n+2 || inv.Version != 1 || inv.Delivery != roster.MailQueued || !inv.QueuedAt.Equal(now) || !inv.ExpiresAt.Equal(first.ExpiresAt) {
			t.Errorf("resend %d: got %+v", n+1, inv)
		}
		if jobs := b.Mails(t, inv.ID); len(jobs) != n+2 || jobs[n+1].Purpose != fmt.Sprintf("v1:send:%d", n+2) || jobs[n+1].ID != *inv.MessageID {
			t.Errorf("jobs: got %+v", jobs)
		}
		b.Clock.Add(resendAfter)
	}
	_, err = resend(inv)
	refused(t, err, roster.Conflict, "resend_limit")
	wantEvents(t, b, inv, "created", "resent", "resent", "resent")
	if n := len(b.Mails(t, inv.ID)); n != 1+maxResends {
		t.Errorf("jobs: got %d", n)
	}
}

func TestCopyLink(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	for range 3 {
		copied, err := b.CopyInvitationLink(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, noKey)
		done(t, err)
		if copied.Ticket() != inv.Ticket() {
			t.Errorf("ticket: got %+v, want %+v", copied.Ticket(), inv.Ticket())
		}
	}
	if a, b := asJSON(t, reread(t, b, inv)), asJSON(t, inv); a != b {
		t.Errorf("copying changed it:\n got %s\nwant %s", a, b)
	}
	wantEvents(t, b, inv, "created", "link_copied", "link_copied", "link_copied")
	if len(b.Mails(t, inv.ID)) != 1 {
		t.Error("copying mailed")
	}
	hold(t, b, inv)
	_, err := b.CopyInvitationLink(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, noKey)
	done(t, err)
}

func correct(t *testing.T, b *rostertest.Bundle, inv roster.Invitation, email string) (roster.Invitation, error) {
	t.Helper()
	return b.CorrectInvitationAddress(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, email, noKey)
}

func TestCorrectAddress(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	b.Clock.Add(resendAfter)
	_, err := b.ResendInvitation(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, noKey)
	done(t, err)
	hold(t, b, inv)
	b.Clock.Add(time.Minute) // no cool-down: it is another address
	now := b.Clock.Now()
	corrected, err := correct(t, b, inv, " Anne@Example.ORG ")
	done(t, err)
	want := inv
	want.Email, want.EmailKey, want.State, want.Version, want.Sends, want.QueuedAt, want.MessageID = "Anne@Example.ORG", "anne@example.org", roster.Pending, 2, 1, &now, corrected.MessageID
	if a, b := asJSON(t, corrected), asJSON(t, want); a != b {
		t.Errorf("corrected:\n got %s\nwant %s", a, b)
	}
	if jobs := b.Mails(t, inv.ID); len(jobs) != 3 || jobs[2].Purpose != "v2:send:1" || jobs[2].EmailKey != corrected.EmailKey {
		t.Errorf("jobs: got %+v", jobs)
	}
	wantEvents(t, b, inv, "created", "resent", "address_corrected")

	// Whoever has the old link has the wrong mailbox.
	_, err = b.ViewInvitation(t.Context(), inv.Ticket())
	refused(t, err, roster.NotFound, "link_dead")
	_, _, err = b.AcceptInvitation(t.Context(), inv.Ticket(), newcomer())
	refused(t, err, roster.NotFound, "link_dead")
	_, err = b.DeclineInvitation(t.Context(), inv.Ticket())
	refused(t, err, roster.NotFound, "link_dead")
	wantState(t, b, inv, roster.Pending)
	accept(t, b, corrected)
	b.Create(t, b.Row("ann@example.org")) // the address is free again
}

func TestCorrectAddressRefusals(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	b.Invite(t, "taken@example.org")
	member := accept(t, b, b.Invite(t, "member@example.org"))
	before := asJSON(t, inv)
	for _, test := range []struct {
		name, email string
		kind        roster.Kind
		code        string
	}{
		{"no address", "ann", roster.Invalid, "email_invalid"},
		{"the same", "ANN@example.org", roster.Invalid, "email_unchanged"},
		{"of another open invitation", "Taken@example.org", roster.Conflict, "already_invited"},
		{"a member's", "Member@example.org", roster.Conflict, "already_member"},
		{"the stakeholder's", b.Stakeholder.Email, roster.Conflict, "already_member"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := correct(t, b, inv, test.email)
			refused(t, err, test.kind, test.code)
			if after := asJSON(t, reread(t, b, inv)); after != before {
				t.Errorf("changed:\n got %s\nwant %s", after, before)
			}
		})
	}
	wantEvents(t, b, inv, "created")
	if len(b.Mails(t, inv.ID)) != 1 {
		t.Error("a refused correction mailed")
	}
	b.Exec(t, `UPDATE membership SET state = 'archived' WHERE account_id = $1`, *member.AccountID)
	_, err := correct(t, b, inv, "member@example.org")
	done(t, err)
}

func TestCorrectAddressLimit(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	var err error
	for n := 2; n <= maxVersion; n++ {
		inv, err = correct(t, b, inv, fmt.Sprintf("ann%d@example.org", n))
		done(t, err)
		if inv.Version != n {
			t.Fatalf("version: got %d, want %d", inv.Version, n)
		}
	}
	_, err = correct(t, b, inv, "once-more@example.org")
	refused(t, err, roster.Conflict, "correction_limit")
	if reread(t, b, inv).Email != inv.Email {
		t.Error("changed beyond the limit")
	}
}

func TestRevoke(t *testing.T) {
	t.Parallel()
	for _, onHold := range []bool{false, true} {
		t.Run(fmt.Sprintf("on hold %t", onHold), func(t *testing.T) {
			t.Parallel()
			b := rostertest.Begin(t)
			inv := b.Invite(t, "ann@example.org")
			if onHold {
				hold(t, b, inv)
			}
			b.Clock.Add(time.Minute)
			now := b.Clock.Now()
			revoked, err := b.RevokeInvitation(t.Context(), b.App.ID, b.Admin.ID, inv.ID, noKey)
			done(t, err)
			if revoked.State != roster.Revoked || revoked.Version != 2 || !revoked.DecidedAt.Equal(now) {
				t.Errorf("got %+v", revoked)
			}
			b.Clock.Add(time.Minute)
			again, err := b.RevokeInvitation(t.Context(), b.App.ID, b.Admin.ID, inv.ID, noKey)
			done(t, err)
			if a, b := asJSON(t, again), asJSON(t, revoked); a != b {
				t.Errorf("again:\n got %s\nwant %s", a, b)
			}
			wantEvents(t, b, inv, "created", "revoked")
			if jobs := b.Mails(t, b.Stakeholder.ID); len(jobs) != 0 {
				t.Errorf("word to the inviter: got %+v, want none", jobs)
			}

			for _, ticket := range []roster.Ticket{inv.Ticket(), revoked.Ticket()} {
				_, _, err = b.AcceptInvitation(t.Context(), ticket, newcomer())
				stands(t, refused(t, err, roster.Conflict, "already_revoked"), roster.Revoked, now)
				_, err = b.DeclineInvitation(t.Context(), ticket)
				stands(t, refused(t, err, roster.Conflict, "already_revoked"), roster.Revoked, now)
			}
			if memberships(t, b, inv, "active") != 0 {
				t.Error("a revoked invitation made a member")
			}
		})
	}
}

func TestRevokeAfterAccept(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	b.Clock.Add(time.Minute)
	decided := b.Clock.Now()
	accept(t, b, inv)
	b.Clock.Add(time.Minute)
	_, err := b.RevokeInvitation(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, noKey)
	stands(t, refused(t, err, roster.Conflict, "already_accepted"), roster.Accepted, decided)
	wantState(t, b, inv, roster.Accepted)
	if memberships(t, b, inv, "active") != 1 {
		t.Error("the late revocation took the membership")
	}
}

// expire moves the clock to an invitation's end and runs the sweep.
func expire(t *testing.T, b *rostertest.Bundle, inv roster.Invitation) {
	t.Helper()
	b.Clock.Set(inv.ExpiresAt)
	if _, err := b.ExpireInvitations(t.Context(), 100); err != nil {
		t.Fatal(err)
	}
	wantState(t, b, inv, roster.Expired)
}

func TestExpireSweep(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	var due []roster.Invitation
	for n := range 5 {
		due = append(due, b.Invite(t, fmt.Sprintf("due%d@example.org", n)))
	}
	hold(t, b, due[1])
	byAdmin := b.Row("admin@example.org")
	byAdmin.ActorID = b.Admin.ID
	due = append(due, b.Create(t, byAdmin)[0].Invitation)
	accepted := accept(t, b, b.Invite(t, "accepted@example.org"))
	b.Clock.Add(time.Microsecond)
	later := b.Invite(t, "later@example.org")

	sweep := func(at time.Time, limit, want int) {
		t.Helper()
		b.Clock.Set(at)
		if ended, err := b.ExpireInvitations(t.Context(), limit); err != nil || ended != want {
			t.Fatalf("sweep at %s: ended %d, %v; want %d", at, ended, err, want)
		}
	}
	told := func(inviter roster.Account) (events []uuid.UUID) {
		t.Helper()
		for _, job := range b.Mails(t, inviter.ID) {
			if job.AppID != b.App.ID {
				t.Errorf("job of app %s", job.AppID)
			}
			events = append(events, job.Args.EventIDs...)
		}
		return events
	}
	end := due[0].ExpiresAt
	told0 := len(told(b.Stakeholder)) // of the acceptance
	sweep(end.Add(-time.Microsecond), 10, 0)
	sweep(end, 2, 2)
	sweep(end, 2, 2)
	sweep(end, 10, 2)
	sweep(end, 10, 0)
	wantState(t, b, accepted, roster.Accepted)
	wantState(t, b, later, roster.Pending)
	for _, inv := range due {
		if got := reread(t, b, inv); got.State != roster.Expired || !got.DecidedAt.Equal(end) || got.Version != 1 {
			t.Errorf("swept: got %+v", got)
		}
		wantEvents(t, b, inv, "created", "expired")
	}
	if n := len(told(b.Stakeholder)) - told0; n != 5 {
		t.Errorf("the stakeholder is told of %d, want 5", n)
	}
	if n := len(told(b.Admin)); n != 1 {
		t.Errorf("the admin is told of %d, want 1", n)
	}
}

func TestExpireTellsEachInviterOnce(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	other := b.Another(t)
	var inv roster.Invitation
	for n := range 7 {
		inv = b.Invite(t, fmt.Sprintf("ann%d@example.org", n))
		other.Invite(t, fmt.Sprintf("ann%d@example.org", n))
	}
	expire(t, b, inv)
	for _, bundle := range []*rostertest.Bundle{b, other} {
		jobs := b.Mails(t, bundle.Stakeholder.ID)
		if len(jobs) != 1 || jobs[0].AppID != bundle.App.ID || len(jobs[0].Args.EventIDs) != 7 {
			t.Fatalf("jobs: got %+v, want one with 7 events", jobs)
		}
		l := letter(t, b, jobs[0])
		news, skip := l.News, l.Skip
		if skip != "" || len(news.Lines) != 7 || news.App.ID != bundle.App.ID || news.Inviter.ID != bundle.Stakeholder.ID {
			t.Errorf("news: got %q %+v", skip, news)
		}
		for _, line := range news.Lines {
			if line.Type != roster.EventExpired || line.WorkspaceName != bundle.Workspace.Name || line.PersonName != "Ann Example" {
				t.Errorf("line: got %+v", line)
			}
		}
	}
}

// At the last microsecond accepting works, at the end itself only the sweep
// does, in either order.
func TestExpiryIsSharp(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name       string
		at         time.Duration // after the expiry
		sweepFirst bool
		want       roster.State
	}{
		{"accept in time, then sweep", -time.Microsecond, false, roster.Accepted},
		{"sweep, then accept in time", -time.Microsecond, true, roster.Accepted},
		{"accept late, then sweep", 0, false, roster.Expired},
		{"sweep, then accept late", 0, true, roster.Expired},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := rostertest.Begin(t)
			inv := b.Invite(t, "ann@example.org")
			b.Clock.Set(inv.ExpiresAt.Add(test.at))
			sweep := func() {
				_, err := b.ExpireInvitations(t.Context(), 10)
				done(t, err)
			}
			if test.sweepFirst {
				sweep()
			}
			_, _, err := b.AcceptInvitation(t.Context(), inv.Ticket(), newcomer())
			if test.want == roster.Accepted {
				done(t, err)
			} else {
				stands(t, refused(t, err, roster.Gone, "expired"), roster.Expired, inv.ExpiresAt)
			}
			if !test.sweepFirst {
				sweep()
			}
			wantState(t, b, inv, test.want)
			wantEvents(t, b, inv, "created", string(test.want))
		})
	}
}

func reopen(t *testing.T, b *rostertest.Bundle, inv roster.Invitation) (roster.Invitation, error) {
	t.Helper()
	return b.ReopenInvitation(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, noKey)
}

func TestReopen(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	_, err := reopen(t, b, inv)
	if e := refused(t, err, roster.Conflict, "already_pending"); e.State != roster.Pending {
		t.Errorf("state: got %s", e.State)
	}
	for n := 1; n <= maxReopens; n++ {
		old := inv
		expire(t, b, inv)
		b.Clock.Add(time.Hour)
		now := b.Clock.Now()
		inv, err = reopen(t, b, inv)
		done(t, err)
		want := old
		want.Version, want.Reopens, want.ExpiresAt, want.QueuedAt, want.MessageID = n+1, n, now.Add(inviteLife), &now, inv.MessageID
		if *inv.MessageID == *old.MessageID {
			t.Error("no new mail")
		}
		if a, b := asJSON(t, inv), asJSON(t, want); a != b {
			t.Errorf("reopened:\n got %s\nwant %s", a, b)
		}
		if jobs := b.Mails(t, inv.ID); len(jobs) != n+1 || jobs[n].Purpose != fmt.Sprintf("v%d:send:1", n+1) {
			t.Errorf("jobs: got %+v", jobs)
		}
		_, err = b.ViewInvitation(t.Context(), old.Ticket())
		refused(t, err, roster.NotFound, "link_dead")
	}
	expire(t, b, inv)
	_, err = reopen(t, b, inv)
	refused(t, err, roster.Conflict, "reopen_limit")
	wantEvents(t, b, inv, "created", "expired", "reopened", "expired", "reopened", "expired", "reopened", "expired")
	b.Invite(t, "ann@example.org")
}

func TestReopenBesideNewer(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	old := b.Invite(t, "ann@example.org")
	expire(t, b, old)
	newer := b.Invite(t, "ann@example.org")
	_, err := reopen(t, b, old)
	refused(t, err, roster.Conflict, "already_invited")
	wantState(t, b, old, roster.Expired)
	accept(t, b, newer)
	_, err = reopen(t, b, old)
	refused(t, err, roster.Conflict, "nothing_to_join")
	wantEvents(t, b, old, "created", "expired")
}

func TestReopenForArchivedWorkspace(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	expire(t, b, inv)
	b.Exec(t, `UPDATE workspace SET state = 'archived' WHERE id = $1`, b.Workspace.ID)
	_, err := reopen(t, b, inv)
	refused(t, err, roster.Conflict, "nothing_to_join")
	wantState(t, b, inv, roster.Expired)
}

func TestInvitationList(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	other := b.Another(t)
	second := b.NewWorkspace(t, "Second file")
	var all, inSecond []uuid.UUID // newest first
	for n := range 9 {
		row := b.Row(fmt.Sprintf("ann%d@example.org", n))
		if n%3 == 0 {
			row.WorkspaceID = second.ID
		}
		inv := b.Create(t, row)[0].Invitation
		other.Invite(t, row.Email)
		all = slices.Insert(all, 0, inv.ID)
		if n%3 == 0 {
			inSecond = slices.Insert(inSecond, 0, inv.ID)
		}
	}
	_, err := b.RevokeInvitation(t.Context(), b.App.ID, b.Stakeholder.ID, inSecond[1], noKey)
	done(t, err)
	list := func(l roster.InvitationList) (ids []uuid.UUID) {
		t.Helper()
		found, err := b.Invitations(t.Context(), b.App.ID, l)
		done(t, err)
		for _, inv := range found {
			ids = append(ids, inv.ID)
		}
		return ids
	}
	for _, test := range []struct {
		name string
		list roster.InvitationList
		want []uuid.UUID
	}{
		{"all", roster.InvitationList{Limit: 100}, all},
		{"of a workspace", roster.InvitationList{Workspace: second.ID, Limit: 100}, inSecond},
		{"in a state", roster.InvitationList{State: roster.Revoked, Limit: 100}, inSecond[1:2]},
		{"of a workspace in a state", roster.InvitationList{Workspace: second.ID, State: roster.Pending, Limit: 100}, []uuid.UUID{inSecond[0], inSecond[2]}},
		{"of a workspace after", roster.InvitationList{Workspace: second.ID, After: inSecond[0], Limit: 1}, inSecond[1:2]},
		{"of another app's workspace", roster.InvitationList{Workspace: other.Workspace.ID, Limit: 100}, nil},
	} {
		if got := list(test.list); !slices.Equal(got, test.want) {
			t.Errorf("%s: got %v, want %v", test.name, got, test.want)
		}
	}
	var paged []uuid.UUID
	for after := (uuid.UUID{}); ; after = paged[len(paged)-1] {
		page := list(roster.InvitationList{After: after, Limit: 4})
		paged = append(paged, page...)
		if len(page) < 4 {
			break
		}
	}
	if !slices.Equal(paged, all) {
		t.Errorf("page by page: got %v, want %v", paged, all)
	}
}
