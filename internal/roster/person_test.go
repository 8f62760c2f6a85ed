package roster_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"

	"usher/internal/roster"
	"usher/internal/roster/rostertest"
)

// onlyTold checks that the inviter was told of exactly these events.
func onlyTold(t *testing.T, b *rostertest.Bundle, want ...string) {
	t.Helper()
	jobs := b.Mails(t, b.Stakeholder.ID)
	if len(jobs) != len(want) {
		t.Fatalf("word to the inviter: got %+v, want %q", jobs, want)
	}
	for i, job := range jobs {
		if len(job.Args.EventIDs) != 1 || job.AppID != b.App.ID {
			t.Fatalf("word to the inviter: got %+v", job)
		}
		if got := rostertest.Value[string](t, b, `SELECT type FROM event WHERE id = $1`, job.Args.EventIDs[0]); got != want[i] {
			t.Errorf("told: got %s, want %s", got, want[i])
		}
	}
}

func TestAcceptAsNewcomer(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	row := b.Row("Ann@example.org")
	row.Locale = "fr"
	inv := b.Create(t, row)[0].Invitation
	b.Clock.Add(time.Hour)
	now := b.Clock.Now()
	yes := newcomer()
	yes.FullName = " Ann Newname "
	accepted, proved, err := b.AcceptInvitation(t.Context(), inv.Ticket(), yes)
	done(t, err)
	if !proved || accepted.State != roster.Accepted || accepted.Version != 1 || !accepted.DecidedAt.Equal(now) || accepted.AccountID == nil {
		t.Fatalf("got %+v, proved %t", accepted, proved)
	}
	if a, b := asJSON(t, reread(t, b, inv)), asJSON(t, accepted); a != b {
		t.Errorf("stored:\n got %s\nwant %s", a, b)
	}
	account, err := b.Account(t.Context(), b.App.ID, *accepted.AccountID)
	done(t, err)
	want := roster.Account{
		ID: *accepted.AccountID, AppID: b.App.ID, Kind: roster.Client, Status: "active", FullName: "Ann Newname",
		Email: "Ann@example.org", Locale: "fr", CreatedAt: now,
	}
	if a, b := asJSON(t, account), asJSON(t, want); a != b {
		t.Errorf("account:\n got %s\nwant %s", a, b)
	}
	if hash := rostertest.Value[string](t, b, `SELECT password_hash FROM account WHERE id = $1`, account.ID); hash != yes.PasswordHash {
		t.Errorf("password hash: got %q", hash)
	}
	if role := rostertest.Value[string](t, b, `SELECT role || ' ' || state FROM membership WHERE account_id = $1`, account.ID); role != "client_user active" {
		t.Errorf("membership: got %s", role)
	}
	wantEvents(t, b, inv, "created", "accepted")
	onlyTold(t, b, roster.EventAccepted)
	actor := rostertest.Value[uuid.UUID](t, b, `SELECT actor_id FROM event WHERE subject_id = $1 AND type = 'invitation.accepted'`, inv.ID)
	if actor != account.ID {
		t.Errorf("actor: got %s", actor)
	}
}

func TestAcceptOnHold(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	hold(t, b, inv)
	if accept(t, b, inv).State != roster.Accepted {
		t.Error("the copied link of an invitation on hold works")
	}
}

func TestAcceptAsNewcomerNeedsNameAndPassword(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	for _, test := range []struct {
		name string
		yes  roster.Acceptance
		code string
	}{
		{"nothing", roster.Acceptance{}, "name_missing"},
		{"name only", roster.Acceptance{FullName: "Ann"}, "password_too_short"},
		{"a bad name", roster.Acceptance{FullName: "www.evil.example", PasswordHash: "x"}, "name_has_url"},
	} {
		_, proved, err := b.AcceptInvitation(t.Context(), inv.Ticket(), test.yes)
		refused(t, err, roster.Invalid, test.code)
		if proved {
			t.Errorf("%s: proved", test.name)
		}
	}
	wantState(t, b, inv, roster.Pending)
	wantEvents(t, b, inv, "created")
	onlyTold(t, b)
}

// setPassword lets an account be logged in to.
func setPassword(t *testing.T, b *rostertest.Bundle, account roster.Account) {
	t.Helper()
	b.Exec(t, `UPDATE account SET password_hash = 'hash' WHERE id = $1`, account.ID)
}

func TestAcceptWithAccount(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	ann := b.NewAccount(t, roster.Client, "Ann", "Ann@Example.org")
	bob := b.NewAccount(t, roster.Client, "Bob", "bob@example.org")
	setPassword(t, b, ann)
	inv := b.Invite(t, "ann@example.org")

	for _, yes := range []roster.Acceptance{{}, newcomer()} {
		_, proved, err := b.AcceptInvitation(t.Context(), inv.Ticket(), yes)
		if refused(t, err, roster.Unauthorized, "log_in_needed"); proved {
			t.Error("proved without a log-in")
		}
	}
	_, _, err := b.AcceptInvitation(t.Context(), inv.Ticket(), roster.Acceptance{AccountID: bob.ID})
	refused(t, err, roster.Forbidden, "wrong_account")
	_, _, err = b.AcceptInvitation(t.Context(), inv.Ticket(), roster.Acceptance{AccountID: uuid.New()})
	refused(t, err, roster.Forbidden, "wrong_account")
	wantState(t, b, inv, roster.Pending)
	onlyTold(t, b)

	accepted, proved, err := b.AcceptInvitation(t.Context(), inv.Ticket(), roster.Acceptance{AccountID: ann.ID, FullName: "Mallory", PasswordHash: "other"})
	done(t, err)
	if !proved || *accepted.AccountID != ann.ID {
		t.Errorf("got %+v, proved %t", accepted, proved)
	}
	if got := rostertest.Value[string](t, b, `SELECT full_name || ' ' || password_hash FROM account WHERE id = $1`, ann.ID); got != "Ann hash" {
		t.Errorf("account after: got %s", got)
	}
	if memberships(t, b, inv, "active") != 1 {
		t.Error("not a member")
	}
	onlyTold(t, b, roster.EventAccepted)
}

// The inviter can copy the link: it must not give anybody the account.
func TestAcceptWithoutPasswordGivesNone(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	ann := b.NewAccount(t, roster.Client, "Ann", "ann@example.org")
	inv := b.Invite(t, "ann@example.org")
	accepted, proved, err := b.AcceptInvitation(t.Context(), inv.Ticket(), newcomer())
	done(t, err)
	if proved {
		t.Error("the link alone proved the account")
	}
	if *accepted.AccountID != ann.ID || memberships(t, b, inv, "active") != 1 {
		t.Errorf("got %+v", accepted)
	}
	if hash := rostertest.Value[string](t, b, `SELECT password_hash FROM account WHERE id = $1`, ann.ID); hash != "" {
		t.Errorf("the account was given password %q", hash)
	}
}

func TestAcceptAsAccountOfUnknownAddress(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	yes := newcomer()
	yes.AccountID = b.Outsider.ID
	_, proved, err := b.AcceptInvitation(t.Context(), inv.Ticket(), yes)
	refused(t, err, roster.Forbidden, "wrong_account")
	if proved || rostertest.Value[int](t, b, `SELECT count(*) FROM account WHERE email_key = 'ann@example.org'`) != 0 {
		t.Error("an account was made for somebody logged in as another")
	}
}

// An account of the same address in another app is another person.
func TestAcceptBesideAccountOfOtherApp(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	other := b.Another(t)
	theirs := other.NewAccount(t, roster.Client, "Ann", "ann@example.org")
	setPassword(t, b, theirs)
	inv := b.Invite(t, "ann@example.org")
	_, _, err := b.AcceptInvitation(t.Context(), inv.Ticket(), roster.Acceptance{AccountID: theirs.ID})
	refused(t, err, roster.Forbidden, "wrong_account")
	if accepted := accept(t, b, inv); *accepted.AccountID == theirs.ID {
		t.Error("the other app's account became a member")
	}
}

func TestAcceptAgain(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	accepted := accept(t, b, inv)
	b.Clock.Set(inv.ExpiresAt.Add(time.Hour)) // even long afterwards
	for _, test := range []struct {
		name   string
		yes    roster.Acceptance
		proved bool
	}{
		{"the form again", newcomer(), false},
		{"the account", roster.Acceptance{AccountID: *accepted.AccountID}, true},
		{"another account", roster.Acceptance{AccountID: b.Outsider.ID}, false},
	} {
		again, proved, err := b.AcceptInvitation(t.Context(), inv.Ticket(), test.yes)
		done(t, err)
		if a, b := asJSON(t, again), asJSON(t, accepted); a != b || proved != test.proved {
			t.Errorf("%s: proved %t\n got %s\nwant %s", test.name, proved, a, b)
		}
	}
	wantEvents(t, b, inv, "created", "accepted")
	onlyTold(t, b, roster.EventAccepted)
	_, err := b.DeclineInvitation(t.Context(), inv.Ticket())
	stands(t, refused(t, err, roster.Conflict, "already_accepted"), roster.Accepted, *accepted.DecidedAt)
}

func TestRemovedMember(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	accepted := accept(t, b, inv)
	b.Exec(t, `UPDATE membership SET state = 'archived', role = 'stakeholder' WHERE account_id = $1`, *accepted.AccountID)

	// The old link does not bring them back.
	_, _, err := b.AcceptInvitation(t.Context(), inv.Ticket(), roster.Acceptance{AccountID: *accepted.AccountID})
	done(t, err)
	if memberships(t, b, inv, "active") != 0 {
		t.Fatal("the old link added a removed member again")
	}
	if _, err := b.ViewInvitation(t.Context(), inv.Ticket()); roster.CodeOf(err) != "link_dead" {
		t.Errorf("the old link shows %v, want that it is no longer valid", err)
	}

	// A new invitation does, in its own role.
	again := b.Invite(t, "ann@example.org")
	_, _, err = b.AcceptInvitation(t.Context(), again.Ticket(), roster.Acceptance{AccountID: *accepted.AccountID})
	done(t, err)
	if role := rostertest.Value[string](t, b, `SELECT role || ' ' || state FROM membership WHERE account_id = $1`, *accepted.AccountID); role != "client_user active" {
		t.Errorf("membership: got %s", role)
	}
}

// Somebody who became a member by another way keeps the role they have.
func TestAcceptAsMember(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, b.Outsider.Email)
	b.Exec(t, `INSERT INTO membership (app_id, workspace_id, account_id, role, created_at) VALUES ($1, $2, $3, 'stakeholder', now())`,
		b.App.ID, b.Workspace.ID, b.Outsider.ID)
	_, _, err := b.AcceptInvitation(t.Context(), inv.Ticket(), roster.Acceptance{AccountID: b.Outsider.ID})
	done(t, err)
	if role := rostertest.Value[string](t, b, `SELECT role FROM membership WHERE account_id = $1`, b.Outsider.ID); role != "stakeholder" {
		t.Errorf("role: got %s", role)
	}
}

func TestAcceptIntoArchivedWorkspace(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	b.Exec(t, `UPDATE workspace SET state = 'archived' WHERE id = $1`, b.Workspace.ID)
	_, _, err := b.AcceptInvitation(t.Context(), inv.Ticket(), newcomer())
	refused(t, err, roster.Gone, "workspace_archived")
	_, err = b.DeclineInvitation(t.Context(), inv.Ticket())
	refused(t, err, roster.Gone, "workspace_archived")
	if memberships(t, b, inv, "active") != 0 {
		t.Error("a member of an archived workspace")
	}
}

// A decision whose jobs cannot be stored did not happen.
func TestDecisionsAreOneTransaction(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	broken := withoutQueue(t, b)
	if _, _, err := broken.AcceptInvitation(t.Context(), inv.Ticket(), newcomer()); err == nil {
		t.Error("accepted without a queue")
	}
	if _, err := broken.DeclineInvitation(t.Context(), inv.Ticket()); err == nil {
		t.Error("declined without a queue")
	}
	if _, err := broken.CorrectInvitationAddress(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, "anne@example.org", noKey); err == nil {
		t.Error("corrected without a queue")
	}
	b.Clock.Set(inv.ExpiresAt)
	if _, err := broken.ExpireInvitations(t.Context(), 10); err == nil {
		t.Error("expired without a queue")
	}
	if a, b := asJSON(t, reread(t, b, inv)), asJSON(t, inv); a != b {
		t.Errorf("changed:\n got %s\nwant %s", a, b)
	}
	wantEvents(t, b, inv, "created")
	if n := rostertest.Value[int](t, b, `SELECT count(*) FROM account WHERE email_key = $1`, inv.EmailKey); n != 0 {
		t.Error("an account stayed")
	}
}

func TestDecline(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	b.Clock.Add(time.Hour)
	now := b.Clock.Now()
	declined, err := b.DeclineInvitation(t.Context(), inv.Ticket())
	done(t, err)
	if declined.State != roster.Declined || !declined.DecidedAt.Equal(now) || declined.Version != 1 {
		t.Errorf("got %+v", declined)
	}
	b.Clock.Set(inv.ExpiresAt)
	again, err := b.DeclineInvitation(t.Context(), inv.Ticket())
	done(t, err)
	if a, b := asJSON(t, again), asJSON(t, declined); a != b {
		t.Errorf("again:\n got %s\nwant %s", a, b)
	}
	wantEvents(t, b, inv, "created", "declined")
	onlyTold(t, b, roster.EventDeclined)
	_, _, err = b.AcceptInvitation(t.Context(), inv.Ticket(), newcomer())
	stands(t, refused(t, err, roster.Conflict, "already_declined"), roster.Declined, now)
	_, err = b.RevokeInvitation(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, noKey)
	stands(t, refused(t, err, roster.Conflict, "already_declined"), roster.Declined, now)
	b.Invite(t, "ann@example.org")
}

func TestDeclineTooLate(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	b.Clock.Set(inv.ExpiresAt)
	_, err := b.DeclineInvitation(t.Context(), inv.Ticket())
	stands(t, refused(t, err, roster.Gone, "expired"), roster.Expired, inv.ExpiresAt)
}

func TestDeadTickets(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	for _, ticket := range []roster.Ticket{
		{}, {ID: inv.ID}, {ID: inv.ID, Version: 2}, {ID: inv.ID, Version: -1}, {ID: uuid.New(), Version: 1}, {ID: b.Workspace.ID, Version: 1},
	} {
		_, _, err := b.AcceptInvitation(t.Context(), ticket, newcomer())
		refused(t, err, roster.NotFound, "link_dead")
		_, err = b.DeclineInvitation(t.Context(), ticket)
		refused(t, err, roster.NotFound, "link_dead")
		_, err = b.ViewInvitation(t.Context(), ticket)
		refused(t, err, roster.NotFound, "link_dead")
		done(t, b.AskRenewal(t.Context(), ticket))
	}
	wantState(t, b, inv, roster.Pending)
	wantEvents(t, b, inv, "created")
}

func TestAskRenewal(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	ask := func(at time.Time) {
		t.Helper()
		b.Clock.Set(at)
		done(t, b.AskRenewal(t.Context(), inv.Ticket()))
	}
	ask(inv.ExpiresAt.Add(-time.Microsecond))
	wantEvents(t, b, inv, "created")
	ask(inv.ExpiresAt) // the sweep has not been there
	wantState(t, b, inv, roster.Expired)
	wantEvents(t, b, inv, "created", "expired", "renewal_asked")
	first := b.Clock.Now()
	ask(first.Add(renewEvery - time.Microsecond))
	wantEvents(t, b, inv, "created", "expired", "renewal_asked")
	ask(first.Add(renewEvery))
	wantEvents(t, b, inv, "created", "expired", "renewal_asked", "renewal_asked")
	onlyTold(t, b, roster.EventExpired, roster.EventRenewalAsked, roster.EventRenewalAsked)
	wantState(t, b, inv, roster.Expired)
	if len(b.Mails(t, inv.ID)) != 1 {
		t.Error("asking mailed the invited person")
	}
	if _, err := reopen(t, b, inv); err != nil {
		t.Fatal(err)
	}
	ask(b.Clock.Now()) // by the old link
	wantState(t, b, inv, roster.Pending)
}

func TestAskRenewalOfWhatWasDecided(t *testing.T) {
	t.Parallel()
	for _, state := range []roster.State{roster.Accepted, roster.Declined, roster.Revoked, roster.Superseded} {
		t.Run(string(state), func(t *testing.T) {
			t.Parallel()
			b := rostertest.Begin(t)
			inv := b.Invite(t, "ann@example.org")
			b.Exec(t, `UPDATE invitation SET state = $2 WHERE id = $1`, inv.ID, state)
			b.Clock.Set(inv.ExpiresAt)
			done(t, b.AskRenewal(t.Context(), inv.Ticket()))
			onlyTold(t, b)
			wantState(t, b, inv, state)
		})
	}
}

func TestViewInvitation(t *testing.T) {
	t.Parallel()
	for _, state := range []roster.State{
		roster.Pending, roster.OnHold, roster.Accepted, roster.Declined, roster.Superseded, roster.Expired, roster.Revoked,
	} {
		for version := 2; version <= 5; version++ { // the invitation's is 4
			t.Run(fmt.Sprintf("%s with version %d", state, version), func(t *testing.T) {
				t.Parallel()
				b := rostertest.Begin(t)
				inv := b.Invite(t, "ann@example.org")
				b.Exec(t, `UPDATE invitation SET state = $2, version = 4 WHERE id = $1`, inv.ID, state)
				if state == roster.Accepted { // by somebody who is still a member
					b.Exec(t, `UPDATE invitation SET account_id = $2 WHERE id = $1`, inv.ID, b.Stakeholder.ID)
				}
				v, err := b.ViewInvitation(t.Context(), roster.Ticket{ID: inv.ID, Version: version})
				if version != 4 && (state != roster.Revoked || version != 3) {
					refused(t, err, roster.NotFound, "link_dead")
					return
				}
				done(t, err)
				if v.State != state || v.ID != inv.ID || v.App.ID != b.App.ID || v.InviterName != b.Stakeholder.FullName ||
					v.CompanyName != b.Company.Name || v.WorkspaceName != b.Workspace.Name || v.Zone.String() != "Europe/Madrid" {
					t.Errorf("got %+v", v)
				}
				if v.Account != nil || v.HasPassword {
					t.Errorf("account: got %+v", v.Account)
				}
				wantState(t, b, inv, state) // looking changes nothing
				wantEvents(t, b, inv, "created")
			})
		}
	}
}

func TestViewOverdue(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	for _, test := range []struct {
		at   time.Duration
		want roster.State
	}{{-time.Microsecond, roster.Pending}, {0, roster.Expired}} {
		b.Clock.Set(inv.ExpiresAt.Add(test.at))
		v, err := b.ViewInvitation(t.Context(), inv.Ticket())
		done(t, err)
		if v.State != test.want {
			t.Errorf("%v from the end: got %s, want %s", test.at, v.State, test.want)
		}
		wantState(t, b, inv, roster.Pending)
	}
	b.Exec(t, `UPDATE workspace SET state = 'archived' WHERE id = $1`, b.Workspace.ID)
	b.Clock.Set(inv.CreatedAt)
	v, err := b.ViewInvitation(t.Context(), inv.Ticket())
	done(t, err)
	if v.State != roster.Revoked {
		t.Errorf("to an archived workspace: got %s, want revoked", v.State)
	}
}

func TestViewWithAccount(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	other := b.Another(t)
	setPassword(t, b, other.NewAccount(t, roster.Client, "Ann", "ann@example.org"))
	inv := b.Invite(t, "ann@example.org")
	view := func() roster.InvitationView {
		t.Helper()
		v, err := b.ViewInvitation(t.Context(), inv.Ticket())
		done(t, err)
		return v
	}
	if v := view(); v.Account != nil || v.HasPassword {
		t.Errorf("another app's account shows: %+v", v.Account)
	}
	b.Exec(t, `UPDATE company SET time_zone = 'Asia/Tokyo' WHERE id = $1`, b.Company.ID)
	if v := view(); v.Zone.String() != "Asia/Tokyo" {
		t.Errorf("zone: got %s, want the company's", v.Zone)
	}
	ann := b.NewAccount(t, roster.Client, "Ann", "ANN@example.org")
	if v := view(); v.Account == nil || v.Account.ID != ann.ID || v.HasPassword || v.Zone.String() != "Asia/Tokyo" {
		t.Errorf("account: got %+v in %s", v.Account, v.Zone)
	}
	b.Exec(t, `UPDATE account SET time_zone = 'America/Lima' WHERE id = $1`, ann.ID)
	setPassword(t, b, ann)
	if v := view(); !v.HasPassword || v.Zone.String() != "America/Lima" {
		t.Errorf("got password %t, zone %s", v.HasPassword, v.Zone)
	}
	b.Exec(t, `UPDATE account SET status = 'archived' WHERE id = $1`, ann.ID)
	if v := view(); v.Account != nil {
		t.Errorf("an archived account shows: %+v", v.Account)
	}
}
