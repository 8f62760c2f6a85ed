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

// second is another stakeholder of the bundle's workspace, with full visibility.
func second(t *testing.T, b *rostertest.Bundle) roster.Account {
	t.Helper()
	account := b.NewAccount(t, roster.Professional, "Sue Second", "sue@greenvalley.example")
	stakeholder(t, b, account, roster.VisibilityFull)
	return account
}

// stakeholder puts an account into the bundle's workspace.
func stakeholder(t *testing.T, b *rostertest.Bundle, account roster.Account, v roster.Visibility) {
	t.Helper()
	b.Exec(t, `INSERT INTO membership (app_id, workspace_id, account_id, role, visibility, created_at) VALUES ($1, $2, $3, 'stakeholder', $4, $5)`,
		b.App.ID, b.Workspace.ID, account.ID, v, b.Clock.Now())
}

// leaving are the ways somebody loses the right to invite.
var leaving = []struct {
	name string
	do   func(t *testing.T, b *rostertest.Bundle, inviter uuid.UUID) error
}{
	{"archived in the workspace", func(t *testing.T, b *rostertest.Bundle, inviter uuid.UUID) error {
		_, err := b.ArchiveMember(t.Context(), b.App.ID, b.Admin.ID, b.Workspace.ID, inviter, noKey)
		return err
	}},
	{"account archived", func(t *testing.T, b *rostertest.Bundle, inviter uuid.UUID) error {
		_, err := b.ArchiveAccount(t.Context(), b.App.ID, inviter, noKey)
		return err
	}},
	{"admin no more", func(t *testing.T, b *rostertest.Bundle, inviter uuid.UUID) error {
		b.Exec(t, `DELETE FROM membership WHERE account_id = $1`, inviter)
		done(t, b.SetCompanyMember(t.Context(), b.App.ID, b.Company.ID, inviter, roster.RoleAdmin, noKey))
		return b.SetCompanyMember(t.Context(), b.App.ID, b.Company.ID, inviter, roster.RoleMember, noKey)
	}},
	{"out of the company", func(t *testing.T, b *rostertest.Bundle, inviter uuid.UUID) error {
		b.Exec(t, `DELETE FROM membership WHERE account_id = $1`, inviter)
		done(t, b.SetCompanyMember(t.Context(), b.App.ID, b.Company.ID, inviter, roster.RoleAdmin, noKey))
		_, err := b.RemoveCompanyMember(t.Context(), b.App.ID, b.Company.ID, inviter)
		return err
	}},
}

func orphanRule(t *testing.T, b *rostertest.Bundle, rule roster.OrphanRule) {
	t.Helper()
	b.Exec(t, `INSERT INTO policy (app_id, version, settings, updated_at) VALUES ($1, 1, $2, now())`,
		b.App.ID, fmt.Appendf(nil, `{"orphaned_inviter":%q}`, rule))
}

func TestOrphanedInviter(t *testing.T) {
	t.Parallel()
	for _, way := range leaving {
		for _, rule := range []roster.OrphanRule{roster.OrphanHold, roster.OrphanTransfer, roster.OrphanRevoke} {
			t.Run(way.name+" "+string(rule), func(t *testing.T) {
				t.Parallel()
				b := rostertest.Begin(t)
				orphanRule(t, b, rule)
				owner := second(t, b)
				first, two := b.Invite(t, "ann@example.org"), b.Invite(t, "bob@example.org")
				over := b.Invite(t, "cleo@example.org")
				accept(t, b, over)
				theirs := b.Row("dan@example.org")
				theirs.ActorID = owner.ID
				other := b.Create(t, theirs)[0].Invitation
				done(t, way.do(t, b, b.Stakeholder.ID))
				for _, inv := range []roster.Invitation{first, two} {
					got := reread(t, b, inv)
					want := inv
					var event string
					switch rule {
					case roster.OrphanHold:
						want.State, want.HeldFor, event = roster.OnHold, "inviter", "held"
					case roster.OrphanTransfer:
						want.InviterID, event = owner.ID, "transferred"
					case roster.OrphanRevoke:
						want.State, want.Version, want.DecidedAt, event = roster.Revoked, 2, got.DecidedAt, "revoked"
					}
					if asJSON(t, got) != asJSON(t, want) {
						t.Errorf("got %s\nwant %s", asJSON(t, got), asJSON(t, want))
					}
					wantEvents(t, b, inv, "created", event)
				}
				wantState(t, b, over, roster.Accepted)
				wantEvents(t, b, other, "created")

				// The owner hears of both in one mail, and of nothing else.
				l := letter(t, b, onlyMail(t, b, owner.ID))
				if l.Skip != "" || len(l.News.Lines) != 2 || l.News.Lines[0].Reason != roster.ReasonInviterGone || l.News.Inviter.ID != owner.ID {
					t.Errorf("news: got %+v", l.News)
				}
				done(t, b.SetCompanyMember(t.Context(), b.App.ID, b.Company.ID, owner.ID, roster.RoleAdmin, noKey)) // changes nothing
				wantEvents(t, b, first, b.Events(t, two.ID)...)
			})
		}
	}
}

// Who may still invite keeps what they sent.
func TestOrphanOnlyWithoutRight(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	done(t, b.SetCompanyMember(t.Context(), b.App.ID, b.Company.ID, b.Stakeholder.ID, roster.RoleAdmin, noKey))
	elsewhere := b.NewWorkspace(t, "Bob's file")
	inv := b.Invite(t, "ann@example.org")
	row := b.Row("bob@example.org")
	row.WorkspaceID = elsewhere.ID
	there := b.Create(t, row)[0].Invitation
	_, err := b.ArchiveMember(t.Context(), b.App.ID, b.Admin.ID, b.Workspace.ID, b.Stakeholder.ID, noKey)
	done(t, err)
	wantState(t, b, inv, roster.Pending) // an admin
	done(t, b.SetCompanyMember(t.Context(), b.App.ID, b.Company.ID, b.Stakeholder.ID, roster.RoleMember, noKey))
	wantState(t, b, inv, roster.OnHold)
	wantState(t, b, there, roster.Pending) // a stakeholder there
}

// The owner is whoever has looked after the workspace longest.
func TestOwner(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	orphanRule(t, b, roster.OrphanTransfer)
	inv := b.Invite(t, "ann@example.org")
	leave := func() {
		t.Helper()
		_, err := b.ArchiveAccount(t.Context(), b.App.ID, reread(t, b, inv).InviterID, noKey)
		done(t, err)
	}
	b.Clock.Add(time.Second)
	stakeholder(t, b, b.NewAccount(t, roster.Professional, "Basil Basic", "basil@example.org"), roster.VisibilityStandard)
	owner := second(t, b)
	b.Clock.Add(time.Second)
	younger := b.NewAccount(t, roster.Professional, "Young Er", "young@example.org")
	stakeholder(t, b, younger, roster.VisibilityFull)
	for _, want := range []uuid.UUID{owner.ID, younger.ID, b.Admin.ID} {
		leave()
		if got := reread(t, b, inv); got.InviterID != want || got.State != roster.Pending {
			t.Errorf("got %s by %s, want %s", got.State, got.InviterID, want)
		}
	}
	leave() // nobody is left
	if got := reread(t, b, inv); got.InviterID != b.Admin.ID || got.State != roster.OnHold || got.HeldFor != "inviter" {
		t.Errorf("without an owner: got %+v", got)
	}
}

func TestHeldForInviter(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	_, err := b.TakeOverInvitation(t.Context(), b.App.ID, b.Admin.ID, inv.ID, noKey)
	refused(t, err, roster.Conflict, "inviter_present")
	mailed := onlyMail(t, b, inv.ID)
	_, err = b.ArchiveMember(t.Context(), b.App.ID, b.Admin.ID, b.Workspace.ID, b.Stakeholder.ID, noKey)
	done(t, err)
	b.Clock.Add(2 * resendAfter)
	_, _, err = b.AcceptInvitation(t.Context(), inv.Ticket(), newcomer())
	refused(t, err, roster.Conflict, "inviter_gone")
	for _, act := range acts[:3] {
		_, err := act.do(t, b, b.App.ID, b.Admin.ID, inv.ID)
		if e := refused(t, err, roster.Conflict, "inviter_gone"); e.State != roster.OnHold {
			t.Errorf("%s: what stands is %s", act.name, e.State)
		}
	}
	b.Exec(t, `INSERT INTO address (app_id, email_key, block, blocked_at) VALUES ($1, 'ann@example.org', 'hard', $2)`, b.App.ID, b.Clock.Now())
	_, err = b.ResendToBlocked(t.Context(), b.App.ID, b.Admin.ID, inv.ID, noKey)
	refused(t, err, roster.Conflict, "inviter_gone")
	b.Exec(t, `DELETE FROM address`)
	if l := letter(t, b, mailed); l.Skip == "" {
		t.Error("mail goes on")
	}
	if v, err := b.ViewInvitation(t.Context(), inv.Ticket()); err != nil || v.HeldFor != "inviter" || v.State != roster.OnHold {
		t.Errorf("view: got %s, %v", v.State, err)
	}
	_, err = b.TakeOverInvitation(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, noKey)
	refused(t, err, roster.Forbidden, "actor_not_allowed")
	for range 2 { // the second time is a success
		got, err := b.TakeOverInvitation(t.Context(), b.App.ID, b.Admin.ID, inv.ID, noKey)
		done(t, err)
		if got.State != roster.Pending || got.HeldFor != "" || got.InviterID != b.Admin.ID || got.Version != 1 || got.Sends != 1 {
			t.Errorf("taken over: got %+v", got)
		}
	}
	if l := letter(t, b, mailed); l.Skip != "" || l.Invitation.InviterName != "Ada Admin" {
		t.Errorf("its mail: got %+v", l)
	}
	wantEvents(t, b, inv, "created", "held", "taken_over", "expiry_extended")
	accept(t, b, inv)
	_, err = b.TakeOverInvitation(t.Context(), b.App.ID, b.Admin.ID, inv.ID, noKey)
	refused(t, err, roster.Conflict, "already_accepted")
}

// What became of its mail while an invitation was held for its inviter is not
// forgotten.
func TestTakeOverAfterMail(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	bounced, dropped := b.Invite(t, "ann@example.org"), b.Invite(t, "bob@example.org")
	hold(t, b, bounced)
	b.Exec(t, `UPDATE message SET state = 'bounced' WHERE id = $1`, *bounced.MessageID)
	_, err := b.ArchiveMember(t.Context(), b.App.ID, b.Admin.ID, b.Workspace.ID, b.Stakeholder.ID, noKey)
	done(t, err)
	b.Exec(t, `UPDATE message SET state = 'cancelled' WHERE id = $1`, *dropped.MessageID)
	got, err := b.TakeOverInvitation(t.Context(), b.App.ID, b.Admin.ID, bounced.ID, noKey)
	done(t, err)
	if got.State != roster.OnHold || got.HeldFor != "" {
		t.Errorf("bounced: got %s, held for %q", got.State, got.HeldFor)
	}
	got, err = b.TakeOverInvitation(t.Context(), b.App.ID, b.Admin.ID, dropped.ID, noKey)
	done(t, err)
	if got.State != roster.Pending || got.Delivery != roster.MailQueued || got.Sends != 2 || len(b.Mails(t, dropped.ID)) != 2 {
		t.Errorf("mailed again: got %+v", got)
	}
	b.Clock.Set(got.ExpiresAt)
	_, err = b.TakeOverInvitation(t.Context(), b.App.ID, b.Admin.ID, bounced.ID, noKey)
	refused(t, err, roster.Gone, "expired")
}

// A held invitation can be declined and revoked, and expires.
func TestEndsWhileHeldForInviter(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	declined, revoked, expired := b.Invite(t, "ann@example.org"), b.Invite(t, "bob@example.org"), b.Invite(t, "cleo@example.org")
	_, err := b.ArchiveMember(t.Context(), b.App.ID, b.Admin.ID, b.Workspace.ID, b.Stakeholder.ID, noKey)
	done(t, err)
	_, err = b.DeclineInvitation(t.Context(), declined.Ticket())
	done(t, err)
	wantState(t, b, declined, roster.Declined)
	_, err = b.RevokeInvitation(t.Context(), b.App.ID, b.Admin.ID, revoked.ID, noKey)
	done(t, err)
	wantState(t, b, revoked, roster.Revoked)
	b.Clock.Set(expired.ExpiresAt)
	_, err = b.ExpireInvitations(t.Context(), 10)
	done(t, err)
	reopened, err := b.ReopenInvitation(t.Context(), b.App.ID, b.Admin.ID, expired.ID, noKey)
	done(t, err)
	if reopened.State != roster.Pending || reopened.HeldFor != "" || reopened.InviterID != b.Admin.ID {
		t.Errorf("reopened: got %+v", reopened)
	}
	if !slices.Contains(b.Events(t, expired.ID), "reopened") {
		t.Error("not recorded")
	}
}
