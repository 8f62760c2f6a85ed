package roster_test

import (
	"slices"
	"testing"

	"github.com/google/uuid"

	"usher/internal/roster"
	"usher/internal/roster/rostertest"
)

// workspaceNames are the names of an account's workspaces, those that are new
// to it with a star.
func workspaceNames(t *testing.T, b *rostertest.Bundle, account uuid.UUID) []string {
	t.Helper()
	list, err := b.AccountWorkspaces(t.Context(), b.App.ID, account, uuid.Nil, 10)
	done(t, err)
	var names []string
	for _, w := range list {
		name := w.Name
		if w.New {
			name += "*"
		}
		names = append(names, name)
	}
	return names
}

func TestAccountWorkspaces(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	second := b.NewWorkspace(t, "Bob's file")
	if got := workspaceNames(t, b, b.Stakeholder.ID); !slices.Equal(got, []string{"Ann's file", "Bob's file"}) {
		t.Errorf("workspaces: got %q", got)
	}
	list, err := b.AccountWorkspaces(t.Context(), b.App.ID, b.Stakeholder.ID, b.Workspace.ID, 1)
	done(t, err)
	if len(list) != 1 || list[0].ID != second.ID || list[0].CompanyName != "Green Valley" || list[0].Kind != "client_file" ||
		list[0].Role != roster.RoleStakeholder || list[0].Visibility != roster.VisibilityFull || !list[0].JoinedAt.Equal(b.Clock.Now()) {
		t.Errorf("second page: got %+v", list)
	}

	b.Exec(t, `UPDATE membership SET seen_at = NULL WHERE workspace_id = $1`, second.ID)
	if got := workspaceNames(t, b, b.Stakeholder.ID); !slices.Equal(got, []string{"Ann's file", "Bob's file*"}) {
		t.Errorf("workspaces, one of them new: got %q", got)
	}
	done(t, b.SeeWorkspaces(t.Context(), uuid.New(), b.Stakeholder.ID)) // another app's
	if got := workspaceNames(t, b, b.Stakeholder.ID); !slices.Equal(got, []string{"Ann's file", "Bob's file*"}) {
		t.Errorf("workspaces after another app's look: got %q", got)
	}
	done(t, b.SeeWorkspaces(t.Context(), b.App.ID, b.Stakeholder.ID))
	if got := workspaceNames(t, b, b.Stakeholder.ID); !slices.Equal(got, []string{"Ann's file", "Bob's file"}) {
		t.Errorf("workspaces once seen: got %q", got)
	}

	b.Exec(t, `UPDATE membership SET state = 'archived' WHERE workspace_id = $1`, b.Workspace.ID)
	b.Exec(t, `UPDATE workspace SET state = 'archived' WHERE id = $1`, second.ID)
	if got := workspaceNames(t, b, b.Stakeholder.ID); len(got) != 0 {
		t.Errorf("archived ones show: %q", got)
	}
	_, err = b.AccountWorkspaces(t.Context(), b.App.ID, uuid.New(), uuid.Nil, 10)
	refused(t, err, roster.NotFound, "account_not_found")
}

func TestWhoLeads(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	basic := b.NewAccount(t, roster.Professional, "Basil Basic", "basil@example.org")
	stakeholder(t, b, basic, roster.VisibilityStandard)
	accept(t, b, b.Invite(t, "ann@example.org"))
	client := rostertest.Value[uuid.UUID](t, b, `SELECT id FROM account WHERE email_key = 'ann@example.org'`)
	second(t, b)
	ctx, app, w := t.Context(), b.App.ID, b.Workspace.ID
	for name, do := range map[string]func(actor, workspace uuid.UUID) error{
		"visibility": func(actor, w uuid.UUID) error {
			_, err := b.SetVisibility(ctx, app, actor, w, b.Stakeholder.ID, roster.VisibilityBasic, noKey)
			return err
		},
		"archive member": func(actor, w uuid.UUID) error {
			_, err := b.ArchiveMember(ctx, app, actor, w, b.Stakeholder.ID, noKey)
			return err
		},
		"delete member": func(actor, w uuid.UUID) error {
			_, err := b.DeleteMember(ctx, app, actor, w, b.Stakeholder.ID)
			return err
		},
		"rename": func(actor, w uuid.UUID) error {
			_, err := b.RenameWorkspace(ctx, app, actor, w, "Mine", noKey)
			return err
		},
		"archive": func(actor, w uuid.UUID) error {
			_, err := b.ArchiveWorkspace(ctx, app, actor, w, noKey)
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			before := snapshot(t, b)
			for _, actor := range []uuid.UUID{basic.ID, client, b.Outsider.ID} {
				refused(t, do(actor, w), roster.Forbidden, "actor_not_allowed")
			}
			refused(t, do(uuid.New(), w), roster.Forbidden, "actor_invalid")
			refused(t, do(b.Admin.ID, uuid.New()), roster.NotFound, "workspace_not_found")
			if after := snapshot(t, b); after != before {
				t.Error("changed by somebody without the right")
			}
		})
	}
}

func TestSetVisibility(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	set := func(account uuid.UUID, v roster.Visibility) (roster.Member, error) {
		return b.SetVisibility(t.Context(), b.App.ID, b.Admin.ID, b.Workspace.ID, account, v, noKey)
	}
	for range 2 {
		m, err := set(b.Stakeholder.ID, roster.VisibilityBasic)
		done(t, err)
		if m.Visibility != roster.VisibilityBasic {
			t.Errorf("got %+v", m)
		}
	}
	if n := rostertest.Value[int](t, b, `SELECT count(*) FROM event WHERE type = 'membership.changed' AND subject_id = $1`, b.Workspace.ID); n != 1 {
		t.Errorf("%d events, want 1", n)
	}
	_, err := set(b.Stakeholder.ID, "all")
	refused(t, err, roster.Invalid, "visibility_unknown")
	_, err = set(b.Outsider.ID, roster.VisibilityFull)
	refused(t, err, roster.NotFound, "member_not_found")
	_, err = b.ArchiveMember(t.Context(), b.App.ID, b.Admin.ID, b.Workspace.ID, b.Stakeholder.ID, noKey)
	done(t, err)
	_, err = set(b.Stakeholder.ID, roster.VisibilityFull)
	refused(t, err, roster.Conflict, "member_archived")
}

// Somebody has to be able to look after a workspace.
func TestLastStakeholder(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	_, err := b.RemoveCompanyMember(t.Context(), b.App.ID, b.Company.ID, b.Admin.ID)
	done(t, err)
	leave := func() error {
		_, err := b.ArchiveMember(t.Context(), b.App.ID, b.Stakeholder.ID, b.Workspace.ID, b.Stakeholder.ID, noKey)
		return err
	}
	stakeholder(t, b, b.NewAccount(t, roster.Professional, "Basil Basic", "basil@example.org"), roster.VisibilityStandard)
	refused(t, leave(), roster.Conflict, "last_stakeholder")
	_, err = b.SetVisibility(t.Context(), b.App.ID, b.Stakeholder.ID, b.Workspace.ID, b.Stakeholder.ID, roster.VisibilityBasic, noKey)
	refused(t, err, roster.Conflict, "last_stakeholder")
	owner := second(t, b)
	done(t, leave())
	_, err = b.ArchiveMember(t.Context(), b.App.ID, owner.ID, b.Workspace.ID, owner.ID, noKey)
	refused(t, err, roster.Conflict, "last_stakeholder")
	done(t, b.SetCompanyMember(t.Context(), b.App.ID, b.Company.ID, b.Outsider.ID, roster.RoleAdmin, noKey))
	_, err = b.ArchiveMember(t.Context(), b.App.ID, owner.ID, b.Workspace.ID, owner.ID, noKey)
	done(t, err)
}

// The last two cannot send each other away in the same moment.
func TestRaceLastStakeholders(t *testing.T) {
	t.Parallel()
	b, _ := rostertest.Database(t)
	owner := second(t, b)
	_, err := b.RemoveCompanyMember(t.Context(), b.App.ID, b.Company.ID, b.Admin.ID)
	done(t, err)
	for range 10 {
		errs := make(chan error, 2)
		for _, pair := range [][2]uuid.UUID{{owner.ID, b.Stakeholder.ID}, {b.Stakeholder.ID, owner.ID}} {
			go func() {
				_, err := b.ArchiveMember(t.Context(), b.App.ID, pair[0], b.Workspace.ID, pair[1], noKey)
				errs <- err
			}()
		}
		refusals := 0
		for range 2 {
			if err := <-errs; err != nil {
				if code := roster.CodeOf(err); code != "last_stakeholder" && code != "actor_not_allowed" {
					t.Fatal(err)
				}
				refusals++
			}
		}
		active := rostertest.Value[int](t, b, `SELECT count(*) FROM membership WHERE workspace_id = $1 AND state = 'active'`, b.Workspace.ID)
		if refusals != 1 || active != 1 {
			t.Fatalf("%d refusals, %d are left", refusals, active)
		}
		b.Exec(t, `UPDATE membership SET state = 'active' WHERE workspace_id = $1`, b.Workspace.ID)
	}
}

func TestArchiveThenDeleteMember(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	ctx, app, w, who := t.Context(), b.App.ID, b.Workspace.ID, b.Stakeholder.ID
	remove := func() error {
		_, err := b.DeleteMember(ctx, app, b.Admin.ID, w, who)
		return err
	}
	refused(t, remove(), roster.Conflict, "member_not_archived")
	for range 2 {
		m, err := b.ArchiveMember(ctx, app, b.Admin.ID, w, who, noKey)
		done(t, err)
		if m.State != "archived" || m.ArchivedAt == nil || !m.ArchivedAt.Equal(b.Clock.Now()) {
			t.Errorf("archived: got %+v", m)
		}
	}
	out := b.Create(t, b.Row("ann@example.org"))[0]
	refused(t, out.Err, roster.Forbidden, "actor_not_allowed") // who is archived may do nothing
	_, err := b.RenameWorkspace(ctx, app, who, w, "Mine", noKey)
	refused(t, err, roster.Forbidden, "actor_not_allowed")
	done(t, remove())
	refused(t, remove(), roster.NotFound, "member_not_found")
	if got := rostertest.Column[string](t, b, `SELECT type FROM event WHERE subject_id = $1 ORDER BY id`, w); !slices.Equal(got,
		[]string{"workspace.created", "membership.created", "membership.archived", "membership.deleted"}) {
		t.Errorf("events: got %q", got)
	}
}

func TestJoinWorkspace(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	join := func(actor, w uuid.UUID) (roster.Joined, error) {
		return b.JoinWorkspace(t.Context(), b.App.ID, actor, w, noKey)
	}
	for already := range 2 {
		j, err := join(b.Admin.ID, b.Workspace.ID)
		done(t, err)
		if j.AlreadyMember != (already == 1) || j.Member.AccountID != b.Admin.ID || j.Member.Role != roster.RoleStakeholder ||
			j.Member.Visibility != roster.VisibilityFull || j.Member.AddedBy == nil || *j.Member.AddedBy != b.Admin.ID {
			t.Errorf("joined: got %+v", j)
		}
	}
	if names := workspaceNames(t, b, b.Admin.ID); !slices.Equal(names, []string{"Ann's file"}) { // and it is no news to them
		t.Errorf("workspaces: got %q", names)
	}
	for _, actor := range []uuid.UUID{b.Stakeholder.ID, b.Outsider.ID} {
		_, err := join(actor, b.Workspace.ID)
		refused(t, err, roster.Forbidden, "actor_not_allowed")
	}
	_, err := b.ArchiveMember(t.Context(), b.App.ID, b.Admin.ID, b.Workspace.ID, b.Admin.ID, noKey)
	done(t, err)
	if j, err := join(b.Admin.ID, b.Workspace.ID); err != nil || j.AlreadyMember || j.Member.State != "active" || j.Member.ArchivedAt != nil {
		t.Errorf("joined again: got %+v, %v", j, err)
	}
	_, err = b.ArchiveWorkspace(t.Context(), b.App.ID, b.Admin.ID, b.Workspace.ID, noKey)
	done(t, err)
	_, err = join(b.Admin.ID, b.Workspace.ID)
	refused(t, err, roster.Conflict, "workspace_archived")
}

func TestArchiveWorkspace(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	open, over := b.Invite(t, "ann@example.org"), b.Invite(t, "bob@example.org")
	accept(t, b, over)
	for range 2 {
		w, err := b.ArchiveWorkspace(t.Context(), b.App.ID, b.Stakeholder.ID, b.Workspace.ID, noKey)
		done(t, err)
		if w.State != "archived" || w.ArchivedAt == nil || !w.ArchivedAt.Equal(b.Clock.Now()) {
			t.Errorf("archived: got %+v", w)
		}
	}
	if got := reread(t, b, open); got.State != roster.Revoked || got.Version != 2 || got.DecidedAt == nil {
		t.Errorf("open invitation: got %+v", got)
	}
	wantEvents(t, b, open, "created", "revoked")
	wantState(t, b, over, roster.Accepted)
	_, _, err := b.AcceptInvitation(t.Context(), open.Ticket(), newcomer())
	refused(t, err, roster.Conflict, "already_revoked")
	_, err = b.RenameWorkspace(t.Context(), b.App.ID, b.Stakeholder.ID, b.Workspace.ID, "Late", noKey)
	refused(t, err, roster.Conflict, "workspace_archived")
}

func TestCompanyWorkspaces(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	second := b.NewWorkspace(t, "Bob's file")
	_, err := b.JoinWorkspace(t.Context(), b.App.ID, b.Admin.ID, second.ID, noKey)
	done(t, err)
	all := func(state string, after uuid.UUID, limit int) (names []string) {
		t.Helper()
		list, err := b.CompanyWorkspaces(t.Context(), b.App.ID, b.Admin.ID, b.Company.ID, state, after, limit)
		done(t, err)
		for _, w := range list {
			name := w.Name
			if w.Joined {
				name += "+"
			}
			names = append(names, name)
		}
		return names
	}
	if got := all("", uuid.Nil, 10); !slices.Equal(got, []string{"Ann's file", "Bob's file+"}) {
		t.Errorf("all: got %q", got)
	}
	if got := all("", b.Workspace.ID, 10); !slices.Equal(got, []string{"Bob's file+"}) {
		t.Errorf("second page: got %q", got)
	}
	_, err = b.ArchiveWorkspace(t.Context(), b.App.ID, b.Admin.ID, b.Workspace.ID, noKey)
	done(t, err)
	if got := all("archived", uuid.Nil, 10); !slices.Equal(got, []string{"Ann's file"}) {
		t.Errorf("archived: got %q", got)
	}
	if got := all("active", uuid.Nil, 10); !slices.Equal(got, []string{"Bob's file+"}) {
		t.Errorf("active: got %q", got)
	}
	_, err = b.CompanyWorkspaces(t.Context(), b.App.ID, b.Stakeholder.ID, b.Company.ID, "", uuid.Nil, 10)
	refused(t, err, roster.Forbidden, "actor_not_allowed")
}

func TestClientUsers(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	list := func(before uuid.UUID, limit int) (users []roster.ClientUser) {
		t.Helper()
		users, err := b.ClientUsers(t.Context(), b.App.ID, b.Workspace.ID, before, limit)
		done(t, err)
		return users
	}
	if got := list(uuid.Nil, 10); len(got) != 0 { // stakeholders are none
		t.Errorf("got %+v", got)
	}
	member := b.Invite(t, "ann@example.org")
	member = accept(t, b, member)
	pending, gone := b.Invite(t, "bob@example.org"), b.Invite(t, "cleo@example.org")
	_, err := b.RevokeInvitation(t.Context(), b.App.ID, b.Stakeholder.ID, gone.ID, noKey)
	done(t, err)
	got := list(uuid.Nil, 10)
	if len(got) != 2 || got[0].State != "pending" || got[0].InvitationID == nil || *got[0].InvitationID != pending.ID || got[0].AccountID != nil ||
		got[1].State != "active" || got[1].AccountID == nil || *got[1].AccountID != *member.AccountID {
		t.Errorf("got %+v", got)
	}
	if page := list(got[0].ID, 1); len(page) != 1 || page[0].ID != got[1].ID {
		t.Errorf("second page: got %+v", page)
	}
	b.Clock.Set(pending.ExpiresAt)
	_, err = b.ArchiveMember(t.Context(), b.App.ID, b.Admin.ID, b.Workspace.ID, *member.AccountID, noKey)
	done(t, err)
	if got := list(uuid.Nil, 10); len(got) != 0 {
		t.Errorf("what is over shows: %+v", got)
	}
}
