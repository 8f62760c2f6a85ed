package roster_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"usher/internal/roster"
	"usher/internal/roster/rostertest"
)

// pair is a client's own account, and one that was made meanwhile for a request
// that the client has granted.
type pair struct {
	*rostertest.Bundle
	request            roster.AccessRequest
	survivor, absorbed uuid.UUID
}

// granted makes a pair in which the two accounts agree.
func granted(t testing.TB, b *rostertest.Bundle, email string) pair {
	t.Helper()
	own := client(t, b, email)
	out, err := b.RequestAccess(t.Context(), b.App.ID, b.Admin.ID, roster.NewAccessRequest{Option: roster.OptionTemporary, Email: email, FullName: own.FullName}, noKey)
	done(t, err)
	q, err := b.ApproveRequestAs(t.Context(), b.App.ID, own.ID, out.Request.ID, roster.VisibilityStandard, noKey)
	done(t, err)
	return pair{b, q, own.ID, *q.MadeID}
}

// furnish gives both accounts what accounts have: records, workspaces of which
// one is shared, further addresses, items, and a session.
func (p pair) furnish(t testing.TB) {
	t.Helper()
	ctx, app := t.Context(), p.App.ID
	for account, n := range map[uuid.UUID]int{p.survivor: 2, p.absorbed: 3} {
		for i := range n {
			_, _, err := p.AddRecord(ctx, app, account, "programme", fmt.Sprintf("%s-%d", account, i), noKey)
			done(t, err)
		}
	}
	for i, in := range []struct {
		account    uuid.UUID
		visibility string
	}{{p.survivor, "full"}, {p.absorbed, "full"}, {p.absorbed, "basic"}, {p.absorbed, "standard"}} {
		w := p.NewWorkspace(t, fmt.Sprintf("Workspace %d", i))
		p.Exec(t, `INSERT INTO membership (app_id, workspace_id, account_id, role, visibility, created_at) VALUES ($1, $2, $3, 'client_user', $4, $5)`,
			app, w.ID, in.account, in.visibility, p.Clock.Now())
		if i == 2 { // both are in it, and the survivor sees more
			p.Exec(t, `INSERT INTO membership (app_id, workspace_id, account_id, role, visibility, created_at) VALUES ($1, $2, $3, 'client_user', 'full', $4)`,
				app, w.ID, p.survivor, p.Clock.Now())
		}
		if i == 3 { // an invitation of the survivor becomes pointless
			row := p.Row(rostertest.Value[string](t, p.Bundle, `SELECT email FROM account WHERE id = $1`, p.survivor))
			row.WorkspaceID = w.ID
			done(t, p.Create(t, row)[0].Err)
		}
	}
	more := []string{"second@client.example"}
	zone, born := "Europe/Paris", "1984-05-30"
	_, err := p.ChangeAccount(ctx, app, p.absorbed, roster.AccountChange{SecondaryEmails: &more, TimeZone: &zone, BirthDate: &born}, noKey)
	done(t, err)
	_, _, err = p.StartSession(ctx, app, p.absorbed)
	done(t, err)
}

// rowsOf are all rows of the two accounts, one line each, but sessions and what
// they are found by.
func (p pair) rowsOf(t testing.TB) []string {
	t.Helper()
	return rostertest.Column[string](t, p.Bundle, `
		SELECT line FROM (
			SELECT 'account ' || to_jsonb(t)::text AS line FROM account t WHERE id IN ($1, $2)
			UNION ALL SELECT 'secondary ' || to_jsonb(t)::text FROM secondary_email t WHERE account_id IN ($1, $2)
			UNION ALL SELECT 'membership ' || to_jsonb(t)::text FROM membership t WHERE account_id IN ($1, $2)
			UNION ALL SELECT 'record ' || to_jsonb(t)::text FROM record t WHERE account_id IN ($1, $2)
			UNION ALL SELECT 'access ' || to_jsonb(t)::text FROM record_access t WHERE account_id IN ($1, $2)
			UNION ALL SELECT 'request ' || to_jsonb(t)::text FROM access_request t WHERE target_id IN ($1, $2) OR made_id IN ($1, $2)
			UNION ALL SELECT 'notification ' || to_jsonb(t)::text FROM notification t WHERE account_id IN ($1, $2)
			UNION ALL SELECT 'search ' || to_jsonb(t)::text FROM account_search t WHERE account_id IN ($1, $2)
			UNION ALL SELECT 'invitation ' || to_jsonb(t)::text FROM invitation t
				WHERE account_id IN ($1, $2) OR (app_id, email_key) IN (SELECT app_id, email_key FROM account WHERE id IN ($1, $2))
		) AS lines ORDER BY line`, p.survivor, p.absorbed)
}

// without are the lines that the others lack.
func without(lines, others []string) string {
	return strings.Join(slices.DeleteFunc(slices.Clone(lines), func(line string) bool { return slices.Contains(others, line) }), "\n")
}

func (p pair) preview(t testing.TB) roster.Merge {
	t.Helper()
	m, err := p.PreviewMerge(t.Context(), p.App.ID, p.Admin.ID, p.request.ID, uuid.Nil, noKey)
	done(t, err)
	return m
}

func (p pair) confirm(t testing.TB) roster.Merge {
	t.Helper()
	m := p.preview(t)
	m, err := p.ConfirmMerge(t.Context(), p.App.ID, p.Admin.ID, m.ID, m.Hash, noKey)
	done(t, err)
	return m
}

// carryOut does what the job does, without an app.
func (p pair) carryOut(t testing.TB, id uuid.UUID) roster.Merge {
	t.Helper()
	var m roster.Merge
	for _, step := range []func(context.Context, uuid.UUID) (roster.Merge, error){p.BeginMerge, p.MoveMerge, p.FinishMerge} {
		var err error
		m, err = step(t.Context(), id)
		done(t, err)
	}
	return m
}

func (p pair) undo(t testing.TB, id uuid.UUID, keep *roster.MergeKeep) roster.Merge {
	t.Helper()
	_, err := p.UndoMerge(t.Context(), p.App.ID, uuid.Nil, id, keep, noKey)
	done(t, err)
	_, err = p.RestoreMerge(t.Context(), id)
	done(t, err)
	m, err := p.FinishUndo(t.Context(), id)
	done(t, err)
	return m
}

func TestMerge(t *testing.T) {
	t.Parallel()
	p := granted(t, rostertest.Begin(t), "ann@client.example")
	p.furnish(t)
	before := p.rowsOf(t)
	m := p.preview(t)
	if want := (roster.MergeMoves{Records: 3, Memberships: 2, SecondaryEmails: 1, Superseded: 1}); m.State != roster.MergePreviewed || m.Preview.Moves != want {
		t.Errorf("the preview is %s %+v, want %+v", m.State, m.Preview.Moves, want)
	}
	if len(m.Preview.Conflicts) != 1 || m.Preview.Conflicts[0].Code != roster.ConflictMembership {
		t.Errorf("the conflicts are %+v", m.Preview.Conflicts)
	}
	if again := p.preview(t); again.ID != m.ID || !slices.Equal(again.Hash, m.Hash) {
		t.Error("asked again, it is another merge")
	}
	if got := p.rowsOf(t); !slices.Equal(got, before) {
		t.Error("the preview changed something")
	}
	m, err := p.ConfirmMerge(t.Context(), p.App.ID, p.Admin.ID, m.ID, m.Hash, noKey)
	done(t, err)
	if m, err = p.ConfirmMerge(t.Context(), p.App.ID, p.Admin.ID, m.ID, m.Hash, noKey); err != nil || m.State != roster.MergeConfirmed {
		t.Errorf("confirmed again: %s, %v", m.State, err)
	}
	if n := rostertest.Value[int](t, p.Bundle, `SELECT count(*) FROM river_job WHERE kind = 'run_merge'`); n != 1 {
		t.Errorf("%d jobs, want 1", n)
	}
	m = p.carryOut(t, m.ID)
	if m.State != roster.MergeMerged || !m.UndoUntil.Equal(p.Clock.Now().Add(30*24*time.Hour)) {
		t.Errorf("it is %s until %s", m.State, m.UndoUntil)
	}
	for what, test := range map[string]struct {
		want int
		sql  string
	}{
		"records":             {5, `SELECT count(*) FROM record WHERE account_id = $1 AND $2::uuid IS NOT NULL`},
		"workspaces":          {4, `SELECT count(*) FROM membership WHERE account_id = $1 AND state = 'active' AND $2::uuid IS NOT NULL`},
		"lowered":             {1, `SELECT count(*) FROM membership WHERE account_id = $1 AND visibility = 'basic' AND $2::uuid IS NOT NULL`},
		"workspaces left":     {0, `SELECT count(*) FROM membership WHERE account_id = $2 AND state = 'active' AND $1::uuid IS NOT NULL`},
		"companies that see":  {1, `SELECT count(*) FROM record_access WHERE account_id = $1 AND revoked_at IS NULL AND visibility = 'standard' AND $2::uuid IS NOT NULL`},
		"access left":         {0, `SELECT count(*) FROM record_access WHERE account_id = $2 AND revoked_at IS NULL AND $1::uuid IS NOT NULL`},
		"sessions":            {0, `SELECT count(*) FROM session WHERE account_id = $2 AND $1::uuid IS NOT NULL`},
		"open invitations":    {0, `SELECT count(*) FROM invitation WHERE state = 'pending' AND email_key = (SELECT email_key FROM account WHERE id = $1) AND $2::uuid IS NOT NULL`},
		"further addresses":   {1, `SELECT count(*) FROM secondary_email WHERE account_id = $1 AND email_key = 'second@client.example' AND $2::uuid IS NOT NULL`},
		"filled":              {1, `SELECT count(*) FROM account WHERE id = $1 AND time_zone = 'Europe/Paris' AND birth_date = '1984-05-30' AND $2::uuid IS NOT NULL`},
		"tombstone":           {1, `SELECT count(*) FROM account WHERE id = $2 AND status = 'merged' AND merged_into = $1 AND username = 'ann'`},
		"found by its name":   {0, `SELECT count(*) FROM account_search WHERE account_id = $2 AND $1::uuid IS NOT NULL`},
		"jobs that tell them": {1, `SELECT count(*) FROM river_job WHERE kind = 'notify_workspace' AND args->>'account_id' = $1::text AND $2::uuid IS NOT NULL`},
	} {
		if got := rostertest.Value[int](t, p.Bundle, test.sql, p.survivor, p.absorbed); got != test.want {
			t.Errorf("%s: %d, want %d", what, got, test.want)
		}
	}
	if got := p.Events(t, m.ID); !slices.Equal(got, []string{"merge.previewed", "merge.confirmed", "merge.merged"}) {
		t.Errorf("events are %q", got)
	}
	// Nothing secret is kept of accounts.
	for _, noted := range rostertest.Column[string](t, p.Bundle, `SELECT before::text || after::text FROM merge_change WHERE what LIKE 'account%'`) {
		if strings.Contains(noted, "password") {
			t.Errorf("a change notes %s", noted)
		}
	}
	m = p.undo(t, m.ID, nil)
	if m.State != roster.MergeUndone {
		t.Errorf("it is %s", m.State)
	}
	if got := p.rowsOf(t); !slices.Equal(got, before) {
		t.Errorf("undone, the rows are\n%s\nwant\n%s", without(got, before), without(before, got))
	}
	// It can be merged anew.
	if again := p.confirm(t); again.ID == m.ID {
		t.Error("an undone merge begins again")
	}
}
