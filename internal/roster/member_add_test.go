package roster_test

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"github.com/google/uuid"

	"usher/internal/roster"
	"usher/internal/roster/rostertest"
)

// add answers rows of the bundle's admin.
func add(t *testing.T, b *rostertest.Bundle, rows ...roster.NewMember) []roster.AddedMember {
	t.Helper()
	out, err := b.AddMembers(t.Context(), b.App.ID, b.Admin.ID, rows, noKey)
	done(t, err)
	return out
}

// added is the invitation of a row that was added.
func added(t *testing.T, out roster.AddedMember) roster.Invitation {
	t.Helper()
	if out.Err != nil || out.AlreadyMember || out.Invitation.ID == uuid.Nil {
		t.Fatalf("not added: %+v", out)
	}
	return out.Invitation
}

// colleague is a member of the bundle's company.
func colleague(t *testing.T, b *rostertest.Bundle, email string) roster.Account {
	t.Helper()
	account := b.NewAccount(t, roster.Professional, "Cleo League", email)
	done(t, b.SetCompanyMember(t.Context(), b.App.ID, b.Company.ID, account.ID, roster.RoleMember, noKey))
	return account
}

// jobsOf counts the jobs of a kind about an account.
func jobsOf(t *testing.T, b *rostertest.Bundle, account roster.Account) int {
	t.Helper()
	return rostertest.Value[int](t, b, `SELECT count(*) FROM river_job WHERE kind = 'notify_workspace' AND args->>'account_id' = $1::uuid::text`, account.ID)
}

func TestAddMembers(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	cleo := colleague(t, b, "cleo@greenvalley.example")
	ann := b.NewAccount(t, roster.Client, "Ann", "ann@example.org")
	private := b.NewWorkspace(t, "Ann - Private")
	b.Exec(t, `INSERT INTO membership (app_id, workspace_id, account_id, role, created_at) VALUES ($1, $2, $3, 'client_user', now())`,
		b.App.ID, b.Workspace.ID, ann.ID)

	out := add(t, b,
		roster.NewMember{Kind: roster.KindColleague, WorkspaceID: b.Workspace.ID, AccountID: cleo.ID, Visibility: roster.VisibilityBasic},
		roster.NewMember{Kind: roster.KindColleague, WorkspaceID: private.ID, AccountID: cleo.ID},
		roster.NewMember{Kind: roster.KindExistingUser, WorkspaceID: private.ID, AccountID: ann.ID, OriginID: b.Workspace.ID},
		roster.NewMember{Kind: roster.KindColleague, WorkspaceID: private.ID, AccountID: cleo.ID, Visibility: roster.VisibilityBasic},
	)
	for i, out := range out[:3] {
		inv := added(t, out)
		if stored := reread(t, b, inv); asJSON(t, stored) != asJSON(t, inv) {
			t.Errorf("row %d: stored:\n%s\nanswered:\n%s", i, asJSON(t, stored), asJSON(t, inv))
		}
		if inv.State != roster.Accepted || inv.InviterID != b.Admin.ID || len(b.Mails(t, inv.ID)) != 0 {
			t.Errorf("row %d: %+v", i, inv)
		}
		wantEvents(t, b, inv, "created", "accepted")
	}
	if !out[3].AlreadyMember {
		t.Errorf("a row that comes twice is answered with %+v", out[3])
	}
	if out[2].WorkspaceName != private.Name || out[2].OriginName != b.Workspace.Name || *out[2].Invitation.OriginWorkspaceID != b.Workspace.ID {
		t.Errorf("confirmation is %+v", out[2])
	}
	members := rostertest.Column[string](t, b, `
		SELECT a.full_name || ' ' || role || ' ' || visibility || ' ' || notice_due || ' ' || (m.added_by = $1)
		FROM membership m JOIN account a ON a.id = m.account_id WHERE m.added_by IS NOT NULL ORDER BY 1`, b.Admin.ID)
	if want := []string{"Ann client_user full true true", "Cleo League stakeholder basic true true", "Cleo League stakeholder full true true"}; !slices.Equal(members, want) {
		t.Errorf("memberships: got %q, want %q", members, want)
	}
	if jobsOf(t, b, cleo) != 1 || jobsOf(t, b, ann) != 1 {
		t.Errorf("%d and %d jobs, want one for each person", jobsOf(t, b, cleo), jobsOf(t, b, ann))
	}

	// Again: nothing is done, and nobody told.
	if out := add(t, b, roster.NewMember{Kind: roster.KindColleague, WorkspaceID: private.ID, AccountID: cleo.ID})[0]; !out.AlreadyMember || jobsOf(t, b, cleo) != 1 {
		t.Errorf("a member is answered with %+v", out)
	}
	// Who was archived comes back in the new role, and is told.
	b.Exec(t, `UPDATE membership SET state = 'archived', notice_due = false, archived_at = now() WHERE account_id = $1`, cleo.ID)
	added(t, add(t, b, roster.NewMember{Kind: roster.KindColleague, WorkspaceID: private.ID, AccountID: cleo.ID, Visibility: roster.VisibilityStandard})[0])
	if got := rostertest.Value[string](t, b, `SELECT state || visibility || notice_due || (archived_at IS NULL) FROM membership WHERE account_id = $1 AND workspace_id = $2`,
		cleo.ID, private.ID); got != "activestandardtruetrue" {
		t.Errorf("the membership is %s", got)
	}
}

func TestAddMembersRefused(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	cleo := colleague(t, b, "cleo@greenvalley.example")
	ann := b.NewAccount(t, roster.Client, "Ann", "ann@example.org")
	file, closed, elsewhere := b.NewWorkspace(t, "File"), b.NewWorkspace(t, "Closed"), b.NewWorkspace(t, "Elsewhere")
	b.Exec(t, `UPDATE workspace SET state = 'archived' WHERE id = $1`, closed.ID)
	other, err := b.CreateCompany(t.Context(), b.App.ID, "Other", "", noKey)
	done(t, err)
	foreign, err := b.CreateWorkspace(t.Context(), b.App.ID, roster.NewWorkspace{CompanyID: other.ID, Name: "Foreign"}, noKey)
	done(t, err)
	b.Exec(t, `INSERT INTO membership (app_id, workspace_id, account_id, role, created_at) VALUES ($1, $2, $3, 'client_user', now())`, b.App.ID, foreign.ID, ann.ID)
	temp := b.NewAccount(t, roster.Client, "Tom Porary", "tom@example.org")
	b.Exec(t, `UPDATE account SET status = 'temporary' WHERE id = $1`, temp.ID)
	theirs := b.Another(t)

	col := func(workspace, account uuid.UUID) roster.NewMember {
		return roster.NewMember{Kind: roster.KindColleague, WorkspaceID: workspace, AccountID: account}
	}
	user := func(account, origin uuid.UUID) roster.NewMember {
		return roster.NewMember{Kind: roster.KindExistingUser, WorkspaceID: file.ID, AccountID: account, OriginID: origin}
	}
	tests := []struct {
		row  roster.NewMember
		kind roster.Kind
		code string
	}{
		{col(file.ID, b.Outsider.ID), roster.Conflict, "not_a_colleague"},
		{col(closed.ID, cleo.ID), roster.Conflict, "workspace_archived"},
		{col(foreign.ID, cleo.ID), roster.Forbidden, "actor_not_allowed"},
		{col(theirs.Workspace.ID, cleo.ID), roster.NotFound, "workspace_not_found"},
		{col(file.ID, theirs.Admin.ID), roster.NotFound, "account_not_found"},
		{roster.NewMember{Kind: "friend", WorkspaceID: file.ID, AccountID: cleo.ID}, roster.Invalid, "kind_unknown"},
		{user(temp.ID, elsewhere.ID), roster.Conflict, "account_not_active"},
		{user(ann.ID, uuid.Nil), roster.Invalid, "origin_missing"},
		{user(b.Outsider.ID, foreign.ID), roster.Forbidden, "origin_not_allowed"},
		{user(ann.ID, foreign.ID), roster.Forbidden, "origin_not_allowed"},
		{user(b.Outsider.ID, theirs.Workspace.ID), roster.Forbidden, "origin_not_allowed"},
	}
	for i, test := range tests {
		good := col(b.NewWorkspace(t, fmt.Sprintf("Neighbour %d", i)).ID, cleo.ID)
		out := add(t, b, test.row, good)
		added(t, out[1])
		if out[0].Err == nil {
			t.Errorf("%+v was answered with %+v", test.row, out[0])
			continue
		}
		refused(t, out[0].Err, test.kind, test.code)
	}
	if out := add(t, b, user(ann.ID, elsewhere.ID))[0]; out.Err == nil || out.Err.Code != "not_in_origin" {
		t.Errorf("nobody of the originating workspace: %+v", out)
	}
	if n := rostertest.Value[int](t, b, `SELECT count(*) FROM membership WHERE added_by = $1`, b.Admin.ID); n != len(tests) {
		t.Errorf("%d were added, want %d", n, len(tests))
	}
	for _, actor := range []uuid.UUID{theirs.Admin.ID, temp.ID, uuid.New()} {
		out, err := b.AddMembers(t.Context(), b.App.ID, actor, []roster.NewMember{col(file.ID, cleo.ID)}, noKey)
		done(t, err)
		refused(t, out[0].Err, roster.Forbidden, "actor_invalid")
	}
	_, err = b.AddMembers(t.Context(), b.App.ID, b.Admin.ID, make([]roster.NewMember, roster.MaxAdds+1), noKey)
	refused(t, err, roster.Invalid, "too_many_rows")
}

// Who is added need not answer an invitation to the same workspace any more.
func TestAddSupersedes(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	cleo := b.NewAccount(t, roster.Professional, "Cleo", "cleo@example.org")
	inv := b.Create(t, externalRow(b, cleo.Email))[0].Invitation
	done(t, b.SetCompanyMember(t.Context(), b.App.ID, b.Company.ID, cleo.ID, roster.RoleMember, noKey))
	added(t, add(t, b, roster.NewMember{Kind: roster.KindColleague, WorkspaceID: b.Workspace.ID, AccountID: cleo.ID})[0])
	wantState(t, b, inv, roster.Superseded)
	wantEvents(t, b, inv, "created", "superseded")
	wantAction(t, b, cleo, roster.ActionWithdrawn)
	if l := letter(t, b, onlyMail(t, b, inv.ID)); l.Skip == "" {
		t.Error("its mail is still wanted")
	}
}

func TestNotifyWorkspaces(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	cleo := colleague(t, b, "cleo@greenvalley.example")
	var rows []roster.NewMember
	var files []roster.Workspace
	for i := range 5 {
		files = append(files, b.NewWorkspace(t, fmt.Sprintf("File %d", i)))
		rows = append(rows, roster.NewMember{Kind: roster.KindColleague, WorkspaceID: files[i].ID, AccountID: cleo.ID})
	}
	add(t, b, rows...)
	b.Exec(t, `UPDATE membership SET state = 'archived' WHERE workspace_id = $1 AND account_id = $2`, files[0].ID, cleo.ID)
	b.Exec(t, `UPDATE workspace SET state = 'archived' WHERE id = $1`, files[1].ID)
	notify := func() (int, roster.Skip) {
		told, skip, err := b.NotifyWorkspaces(t.Context(), cleo.ID)
		done(t, err)
		return told, skip
	}
	if told, skip := notify(); told != 3 || skip != "" {
		t.Errorf("told of %d (%s), want 3", told, skip)
	}
	item := onlyItem(t, b, cleo)
	want := []roster.NamedWorkspace{{ID: files[2].ID, Name: "File 2"}, {ID: files[3].ID, Name: "File 3"}, {ID: files[4].ID, Name: "File 4"}}
	if item.Kind != roster.NoticeWorkspaces || item.Action != roster.ActionNone || item.View != roster.ViewUnread || !slices.Equal(item.Workspaces, want) {
		t.Errorf("item is %+v", item)
	}
	if events := b.Events(t, item.ID); !slices.Equal(events, []string{roster.EventNotified}) {
		t.Errorf("events: %q", events)
	}
	data := rostertest.Value[string](t, b, `SELECT (data->>'account_id' = $2::uuid::text) || ' ' || jsonb_array_length(data->'workspace_ids') FROM event WHERE subject_id = $1`, item.ID, cleo.ID)
	if data != "true 3" {
		t.Errorf("the event's data: %s", data)
	}
	if n := len(b.Mails(t, item.ID)); n != 0 {
		t.Errorf("%d mails without the app's policy", n)
	}
	_, err := b.DecideNotification(t.Context(), b.App.ID, cleo.ID, item.ID, true, "", noKey)
	refused(t, err, roster.Conflict, "nothing_to_decide")
	if told, skip := notify(); told != 0 || skip == "" {
		t.Errorf("told again of %d", told)
	}

	// Nobody is told of what they lost meanwhile, or once their account is closed.
	add(t, b, roster.NewMember{Kind: roster.KindColleague, WorkspaceID: b.NewWorkspace(t, "Later").ID, AccountID: cleo.ID})
	b.Exec(t, `UPDATE account SET status = 'archived' WHERE id = $1`, cleo.ID)
	if told, skip := notify(); told != 0 || skip == "" {
		t.Errorf("a closed account was told of %d", told)
	}
}

func TestNoticeByMail(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	b.Exec(t, `INSERT INTO policy (app_id, version, settings, updated_at) VALUES ($1, 1, '{"notice_by_mail": true}', now())`, b.App.ID)
	cleo := colleague(t, b, "cleo@greenvalley.example")
	file := b.NewWorkspace(t, "File")
	add(t, b,
		roster.NewMember{Kind: roster.KindColleague, WorkspaceID: b.Workspace.ID, AccountID: cleo.ID},
		roster.NewMember{Kind: roster.KindColleague, WorkspaceID: file.ID, AccountID: cleo.ID})
	_, _, err := b.NotifyWorkspaces(t.Context(), cleo.ID)
	done(t, err)
	item := onlyItem(t, b, cleo)
	m := onlyMail(t, b, item.ID)
	if l := letter(t, b, m); l.Skip != "" || !slices.Equal(l.Notice.Workspaces, []string{"Ann's file", "File"}) || l.Notice.Account.ID != cleo.ID {
		t.Errorf("letter is %+v", l)
	}
	skips := func(why string) {
		t.Helper()
		if l := letter(t, b, m); l.Skip == "" {
			t.Errorf("a mail is wanted although %s", why)
		}
	}
	b.Exec(t, `UPDATE membership SET state = 'archived' WHERE account_id = $1`, cleo.ID)
	skips("the person is in no workspace")
	b.Exec(t, `UPDATE membership SET state = 'active' WHERE account_id = $1`, cleo.ID)
	_, err = b.SetNotificationView(t.Context(), b.App.ID, cleo.ID, item.ID, roster.ViewRead, noKey)
	done(t, err)
	skips("the person has seen the item")
	m.AppID = uuid.New()
	skips("it is another app's")
}

// TestRaceAddAdd adds the same people at once: each becomes a member once, by one
// of the calls.
func TestRaceAddAdd(t *testing.T) {
	t.Parallel()
	b, _ := rostertest.Database(t)
	cleo, dora := colleague(t, b, "cleo@greenvalley.example"), colleague(t, b, "dora@greenvalley.example")
	for round := range rounds / 4 {
		one, two := b.NewWorkspace(t, "One").ID, b.NewWorkspace(t, "Two").ID
		rows := []roster.NewMember{
			{Kind: roster.KindColleague, WorkspaceID: one, AccountID: cleo.ID}, {Kind: roster.KindColleague, WorkspaceID: two, AccountID: cleo.ID},
			{Kind: roster.KindColleague, WorkspaceID: one, AccountID: dora.ID}, {Kind: roster.KindColleague, WorkspaceID: two, AccountID: dora.ID},
		}
		back := slices.Clone(rows)
		slices.Reverse(back)
		var first, second []roster.AddedMember
		firstErr, secondErr := race(round, func(ctx context.Context) (err error) {
			first, err = b.AddMembers(ctx, b.App.ID, b.Admin.ID, rows, noKey)
			return err
		}, func(ctx context.Context) (err error) {
			second, err = b.AddMembers(ctx, b.App.ID, b.Stakeholder.ID, back, noKey)
			return err
		})
		done(t, firstErr)
		done(t, secondErr)
		slices.Reverse(second)
		for i := range rows {
			if first[i].Err != nil || second[i].Err != nil || first[i].AlreadyMember == second[i].AlreadyMember {
				t.Fatalf("row %d: %+v and %+v", i, first[i], second[i])
			}
		}
	}
	wantNone(t, b, "not one invitation for each membership", `
		SELECT m.workspace_id::text FROM membership m LEFT JOIN invitation i ON i.workspace_id = m.workspace_id AND i.account_id = m.account_id
		WHERE m.added_by IS NOT NULL GROUP BY m.workspace_id, m.account_id HAVING count(i) <> 1`)

	// And of two jobs at once, one tells of everything.
	var told [2]int
	for _, account := range []roster.Account{cleo, dora} {
		atOnce(2, func(i int) {
			n, _, err := b.NotifyWorkspaces(context.Background(), account.ID)
			if err != nil {
				t.Error(err)
			}
			told[i] = n
		})
		if told[0]+told[1] != 2*(rounds/4) || told[0] != 0 && told[1] != 0 {
			t.Errorf("told of %v workspaces, want all %d at once", told, 2*(rounds/4))
		}
	}
}

// TestRaceAddAccept adds somebody who accepts an invitation to the same
// workspace at that moment.
func TestRaceAddAccept(t *testing.T) {
	t.Parallel()
	b, _ := rostertest.Database(t)
	for round, inv := range inviteForRounds(t, b)[:rounds/4] {
		account := colleague(t, b, inv.Email)
		var out []roster.AddedMember
		addErr, acceptErr := race(round, func(ctx context.Context) (err error) {
			out, err = b.AddMembers(ctx, b.App.ID, b.Admin.ID, []roster.NewMember{
				{Kind: roster.KindColleague, WorkspaceID: inv.WorkspaceID, AccountID: account.ID},
			}, noKey)
			return err
		}, func(ctx context.Context) error {
			_, _, err := b.AcceptInvitation(ctx, inv.Ticket(), roster.Acceptance{AccountID: account.ID})
			return err
		})
		done(t, addErr)
		if out[0].AlreadyMember {
			done(t, acceptErr)
			wantState(t, b, inv, roster.Accepted)
		} else {
			added(t, out[0])
			refused(t, acceptErr, roster.Conflict, "already_superseded")
			wantState(t, b, inv, roster.Superseded)
		}
	}
}
