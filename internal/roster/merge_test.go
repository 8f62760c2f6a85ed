package roster_test

import (
	"context"
	"encoding/json"
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
		email := rostertest.Value[string](t, p.Bundle, `SELECT email FROM account WHERE id = $1`, p.survivor)
		if i == 3 && email != "" { // an invitation of the survivor becomes pointless
			row := p.Row(email)
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

// temporary asks for access with a temporary account in the name of a company of
// its own, and has the client grant it.
func (p pair) temporary(t testing.TB, company string) pair {
	t.Helper()
	ctx, app := t.Context(), p.App.ID
	b := *p.Bundle
	var err error
	b.Company, err = b.CreateCompany(ctx, app, company, "", noKey)
	done(t, err)
	b.Admin = b.NewAccount(t, roster.Professional, "Pro of "+company, strings.ToLower(company)+"@pro.example")
	done(t, b.SetCompanyMember(ctx, app, b.Company.ID, b.Admin.ID, roster.RoleAdmin, noKey))
	out, err := b.RequestAccess(ctx, app, b.Admin.ID, roster.NewAccessRequest{Option: roster.OptionTemporary, Email: p.request.Email, FullName: "Ann Client"}, noKey)
	done(t, err)
	q, err := b.ApproveRequestAs(ctx, app, p.survivor, out.Request.ID, roster.VisibilityFull, noKey)
	done(t, err)
	return pair{&b, q, p.survivor, *q.MadeID}
}

// Two professionals hold temporary accounts for one client: one merge at a time,
// and the second's preview is looked at anew.
func TestTwoMergesOfOneClient(t *testing.T) {
	t.Parallel()
	one := granted(t, rostertest.Begin(t), "ann@client.example")
	two := one.temporary(t, "Blue")
	seen := two.preview(t)
	first := one.confirm(t)
	_, err := two.ConfirmMerge(t.Context(), two.App.ID, two.Admin.ID, seen.ID, seen.Hash, noKey)
	refused(t, err, roster.Conflict, "merge_running")
	one.carryOut(t, first.ID)
	one.Clock.Add(time.Second)
	_, err = two.ConfirmMerge(t.Context(), two.App.ID, two.Admin.ID, seen.ID, seen.Hash, noKey)
	refused(t, err, roster.Conflict, "preview_changed")
	second := two.carryOut(t, two.confirm(t).ID)
	if second.State != roster.MergeMerged || second.ID != seen.ID {
		t.Errorf("the second is %s", second.State)
	}
	// Only the latest can be undone.
	_, err = one.UndoMerge(t.Context(), one.App.ID, uuid.Nil, first.ID, nil, noKey)
	refused(t, err, roster.Conflict, "later_merge")
	two.undo(t, second.ID, nil)
	one.undo(t, first.ID, nil)
}

func TestMergeNeedsAGrant(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	b := rostertest.Begin(t)
	client(t, b, "ann@client.example")
	out, err := asked(t, b, roster.OptionTemporary, "ann@client.example")
	done(t, err)
	_, err = b.PreviewMerge(ctx, b.App.ID, b.Admin.ID, out.Request.ID, uuid.Nil, noKey)
	refused(t, err, roster.Conflict, "not_granted")
	p := granted(t, b, "bob@client.example")
	_, err = b.PreviewMerge(ctx, b.App.ID, b.Outsider.ID, p.request.ID, uuid.Nil, noKey)
	refused(t, err, roster.Forbidden, "actor_not_allowed")
	_, err = b.PreviewMerge(ctx, b.App.ID, b.Admin.ID, p.request.ID, p.survivor, noKey)
	refused(t, err, roster.Invalid, "account_not_made")
	m := p.preview(t)
	_, err = b.ConfirmMerge(ctx, b.App.ID, b.Outsider.ID, m.ID, m.Hash, noKey)
	refused(t, err, roster.Forbidden, "actor_not_allowed")
	_, err = b.UndoMerge(ctx, b.App.ID, uuid.Nil, m.ID, nil, noKey)
	refused(t, err, roster.Conflict, "merge_previewed")
	_, err = b.ArchiveAccount(ctx, b.App.ID, p.absorbed, noKey)
	done(t, err)
	_, err = b.ConfirmMerge(ctx, b.App.ID, b.Admin.ID, m.ID, m.Hash, noKey)
	refused(t, err, roster.Conflict, "preview_changed")
	_, err = b.PreviewMerge(ctx, b.App.ID, b.Admin.ID, p.request.ID, uuid.Nil, noKey)
	refused(t, err, roster.Conflict, "account_archived")
}

// Each change between the confirmation and the move cancels the merge, and
// nothing moves.
func TestMergeLooksLate(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(t *testing.T, p pair)
		begun  bool
		want   string
	}{
		"revoked before it begins": {func(t *testing.T, p pair) {
			_, err := p.RevokeRequestAs(t.Context(), p.App.ID, p.survivor, p.request.ID, noKey)
			done(t, err)
		}, false, "access_revoked"},
		"revoked while the app prepares": {func(t *testing.T, p pair) {
			_, err := p.RevokeRequestAs(t.Context(), p.App.ID, p.survivor, p.request.ID, noKey)
			done(t, err)
		}, true, "access_revoked"},
		"a record more": {func(t *testing.T, p pair) {
			_, _, err := p.AddRecord(t.Context(), p.App.ID, p.absorbed, "note", "n-1", noKey)
			done(t, err)
		}, true, "preview_changed"},
		"another name": {func(t *testing.T, p pair) {
			name := "Ann Other"
			_, err := p.ChangeAccount(t.Context(), p.App.ID, p.survivor, roster.AccountChange{FullName: &name}, noKey)
			done(t, err)
		}, true, "preview_changed"},
		"archived": {func(t *testing.T, p pair) {
			_, err := p.ArchiveAccount(t.Context(), p.App.ID, p.survivor, noKey)
			done(t, err)
		}, false, "preview_changed"},
		"cancelled": {func(t *testing.T, p pair) {
			merges, err := p.Merges(t.Context(), p.App.ID, roster.MergeList{Account: p.absorbed, Limit: 10})
			done(t, err)
			for range 2 {
				_, err = p.CancelMerge(t.Context(), p.App.ID, p.Admin.ID, merges[0].ID, noKey)
				done(t, err)
			}
		}, true, "asked"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := granted(t, rostertest.Begin(t), "ann@client.example")
			p.furnish(t)
			m := p.confirm(t)
			if test.begun {
				_, err := p.BeginMerge(t.Context(), m.ID)
				done(t, err)
			}
			test.change(t, p)
			before := p.rowsOf(t)
			m = p.carryOut(t, m.ID)
			if m.State != roster.MergeCancelled || m.Failure != test.want || m.Telling() != test.begun {
				t.Errorf("it is %s for %q, telling %t", m.State, m.Failure, m.Telling())
			}
			if got := p.rowsOf(t); !slices.Equal(got, before) {
				t.Errorf("something moved:\n%s\nwas\n%s", without(got, before), without(before, got))
			}
			if status := rostertest.Value[string](t, p.Bundle, `SELECT status FROM account WHERE id = $1`, p.absorbed); status == "merged" {
				t.Error("the account is merged")
			}
			if m, err := p.ReleaseMerge(t.Context(), m.ID); err != nil || m.Telling() {
				t.Errorf("released, it is still to be told: %v", err)
			}
		})
	}
}

func TestMergeAsksForTheSamePerson(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for name, test := range map[string]struct {
		survivor, absorbed string
		asks               bool
	}{
		"same":             {"Ann Client", "Ann Client", false},
		"accents and case": {"Zoë Martín", "zoe MARTIN", false},
		"first name only":  {"Annabel Client", "Ann Client", false},
		"two family names": {"Ana García Pérez", "Ana Garcia", false},
		"hyphen":           {"Ann Client-Smith", "Ann Smith", false},
		"one word":         {"Client", "Ann Client", false},
		"another family":   {"Ann Client", "Ann Other", true},
		"only first alike": {"Ann Marie", "Ann", false},
		"nothing alike":    {"Bea Example", "Carl Muster", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := granted(t, rostertest.Begin(t), "ann@client.example")
			for account, name := range map[uuid.UUID]string{p.survivor: test.survivor, p.absorbed: test.absorbed} {
				_, err := p.ChangeAccount(ctx, p.App.ID, account, roster.AccountChange{FullName: &name}, noKey)
				done(t, err)
			}
			m := p.preview(t)
			if got := m.State == roster.MergeNeedsResolution; got != test.asks {
				t.Fatalf("it asks: %t, want %t", got, test.asks)
			}
			if !test.asks {
				return
			}
			_, err := p.ConfirmMerge(ctx, p.App.ID, p.Admin.ID, m.ID, m.Hash, noKey)
			refused(t, err, roster.Conflict, "needs_resolution")
			m, err = p.ResolveMerge(ctx, p.App.ID, p.Admin.ID, m.ID, true, noKey)
			if err != nil || m.State != roster.MergePreviewed {
				t.Fatalf("answered, it is %s: %v", m.State, err)
			}
			if m = p.preview(t); m.State != roster.MergePreviewed {
				t.Errorf("looked at again, it is %s", m.State)
			}
			// The answer was about those names.
			other := "Dora Third"
			_, err = p.ChangeAccount(ctx, p.App.ID, p.absorbed, roster.AccountChange{FullName: &other}, noKey)
			done(t, err)
			if m = p.preview(t); m.State != roster.MergeNeedsResolution {
				t.Errorf("with another name it is %s", m.State)
			}
			if m, err = p.ResolveMerge(ctx, p.App.ID, p.Admin.ID, m.ID, false, noKey); err != nil || m.State != roster.MergeCancelled || m.Failure != "not_same_person" {
				t.Errorf("after a no it is %s for %s: %v", m.State, m.Failure, err)
			}
		})
	}
	p := granted(t, rostertest.Begin(t), "ann@client.example")
	for account, born := range map[uuid.UUID]string{p.survivor: "1980-01-01", p.absorbed: "1980-01-02"} {
		_, err := p.ChangeAccount(ctx, p.App.ID, account, roster.AccountChange{BirthDate: &born}, noKey)
		done(t, err)
	}
	if m := p.preview(t); m.State != roster.MergeNeedsResolution || m.Preview.Conflicts[0].Survivor != "" {
		t.Errorf("with two dates of birth it is %s, %+v", m.State, m.Preview.Conflicts)
	}
}

func TestUndoOfEditedRows(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	for name, keep := range map[string]*roster.MergeKeep{"now": {Edited: roster.KeepNow}, "before": {Edited: roster.KeepBefore}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := granted(t, rostertest.Begin(t), "ann@client.example")
			p.furnish(t)
			before := p.rowsOf(t)
			m := p.carryOut(t, p.confirm(t).ID)
			zone := "America/Bogota"
			_, err := p.ChangeAccount(ctx, p.App.ID, p.survivor, roster.AccountChange{TimeZone: &zone}, noKey)
			done(t, err)
			record := rostertest.Value[uuid.UUID](t, p.Bundle, `SELECT (after->>'id')::uuid FROM merge_change WHERE merge_id = $1 AND what = 'record' ORDER BY n LIMIT 1`, m.ID)
			_, err = p.RemoveRecord(ctx, p.App.ID, record)
			done(t, err)
			_, _, err = p.AddRecord(ctx, p.App.ID, p.absorbed, "note", "since", noKey) // by the old id
			done(t, err)
			_, err = p.UndoMerge(ctx, p.App.ID, p.Admin.ID, m.ID, nil, noKey)
			refused(t, err, roster.Conflict, "rows_edited")
			_, err = p.UndoMerge(ctx, p.App.ID, p.Admin.ID, m.ID, &roster.MergeKeep{Edited: "perhaps"}, noKey)
			refused(t, err, roster.Invalid, "keep_unknown")
			edited, err := p.EditedRows(ctx, p.App.ID, m.ID)
			done(t, err)
			if len(edited) != 2 || edited[0].What != "account" || edited[1].What != "record" || edited[1].Now != nil {
				t.Fatalf("edited are %+v", edited)
			}
			p.undo(t, m.ID, keep)
			now := p.rowsOf(t)
			lost, gained := without(before, now), without(now, before)
			// The removed record stays removed, and what was added since stays.
			if want := map[string]int{"now": 2, "before": 1}[name]; strings.Count(lost, "\n")+1 != want || !strings.Contains(lost, record.String()) {
				t.Errorf("lost is\n%s", lost)
			}
			if want := map[string]int{"now": 2, "before": 1}[name]; strings.Count(gained, "\n")+1 != want || !strings.Contains(gained, `"since"`) || strings.Contains(gained, zone) != (name == "now") {
				t.Errorf("gained is\n%s", gained)
			}
		})
	}
}

// What the merge ended does not come back where something else has its place.
func TestUndoOfSupersededInvitation(t *testing.T) {
	t.Parallel()
	p := granted(t, rostertest.Begin(t), "ann@client.example")
	p.furnish(t)
	m := p.carryOut(t, p.confirm(t).ID)
	workspace := rostertest.Value[uuid.UUID](t, p.Bundle, `SELECT (after->>'workspace_id')::uuid FROM merge_change WHERE merge_id = $1 AND what = 'invitation'`, m.ID)
	p.Exec(t, `UPDATE membership SET state = 'archived' WHERE workspace_id = $1 AND account_id = $2`, workspace, p.survivor)
	row := p.Row("ann@client.example")
	row.WorkspaceID = workspace
	done(t, p.Create(t, row)[0].Err)
	p.undo(t, m.ID, &roster.MergeKeep{Edited: roster.KeepBefore})
	if n := rostertest.Value[int](t, p.Bundle, `SELECT count(*) FROM invitation WHERE workspace_id = $1 AND state = 'pending'`, workspace); n != 1 {
		t.Errorf("%d invitations are open", n)
	}
}

func TestUndoEnds(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p := granted(t, rostertest.Begin(t), "ann@client.example")
	p.furnish(t)
	m := p.carryOut(t, p.confirm(t).ID)
	p.Clock.Add(30*24*time.Hour - time.Second)
	if n, err := p.FinalizeMerges(ctx, 10); err != nil || n != 0 {
		t.Errorf("final too soon: %d, %v", n, err)
	}
	p.Clock.Add(time.Second)
	_, err := p.UndoMerge(ctx, p.App.ID, uuid.Nil, m.ID, nil, noKey)
	refused(t, err, roster.Gone, "undo_over")
	if n, err := p.FinalizeMerges(ctx, 10); err != nil || n != 1 {
		t.Errorf("final: %d, %v", n, err)
	}
	_, err = p.UndoMerge(ctx, p.App.ID, uuid.Nil, m.ID, nil, noKey)
	refused(t, err, roster.Gone, "undo_over")
	if changes, err := p.MergeChanges(ctx, p.App.ID, m.ID, 0, 10); err != nil || len(changes) != 0 {
		t.Errorf("%d changes are kept: %v", len(changes), err)
	}
}

// Ids that an app keeps stay good, and so does what it may do with them.
func TestMergedIDs(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p := granted(t, rostertest.Begin(t), "ann@client.example")
	p.furnish(t)
	m := p.carryOut(t, p.confirm(t).ID)
	if a, err := p.Account(ctx, p.App.ID, p.absorbed); err != nil || a.ID != p.survivor {
		t.Errorf("the account is %s: %v", a.ID, err)
	}
	if records, err := p.Records(ctx, p.App.ID, uuid.Nil, p.absorbed, uuid.Nil, 10); err != nil || len(records) != 5 {
		t.Errorf("%d records: %v", len(records), err)
	}
	if list, err := p.AccountWorkspaces(ctx, p.App.ID, p.absorbed, uuid.Nil, 10); err != nil || len(list) != 4 {
		t.Errorf("%d workspaces: %v", len(list), err)
	}
	if _, err := p.Notifications(ctx, p.App.ID, p.absorbed, roster.NotificationList{Limit: 10}); err != nil {
		t.Errorf("inbox: %v", err)
	}
	if a, err := p.ChangeAccount(ctx, p.App.ID, p.absorbed, roster.AccountChange{Locale: new(string)}, noKey); err != nil || a.ID != p.survivor {
		t.Errorf("changed is %s: %v", a.ID, err)
	}
	_, err := p.ArchiveAccount(ctx, p.App.ID, p.absorbed, noKey)
	refused(t, err, roster.Conflict, "account_merged")
	out, err := p.AddMembers(ctx, p.App.ID, p.Stakeholder.ID, []roster.NewMember{{
		Kind: roster.KindExistingUser, WorkspaceID: p.Workspace.ID, AccountID: p.absorbed,
		OriginID: rostertest.Value[uuid.UUID](t, p.Bundle, `SELECT workspace_id FROM membership WHERE account_id = $1 LIMIT 1`, p.survivor),
	}}, noKey)
	if err != nil || out[0].Err != nil {
		t.Errorf("added: %v, %v", err, out)
	}
	if n := rostertest.Value[int](t, p.Bundle, `SELECT count(*) FROM membership WHERE workspace_id = $1 AND account_id = $2`, p.Workspace.ID, p.survivor); n != 1 {
		t.Error("the survivor was not added")
	}
	events, _, err := p.Bundle.Roster.Events(ctx, p.App.ID, roster.EventList{Subject: p.survivor, Limit: 100})
	done(t, err)
	about := map[uuid.UUID]int{}
	for _, e := range events {
		about[e.SubjectID]++
	}
	if about[p.absorbed] == 0 || about[p.survivor] == 0 {
		t.Errorf("the events are about %v", about)
	}
	if m.State != roster.MergeMerged {
		t.Error(m.State)
	}
}

// The username of a merged account is nobody else's, and says what became of it
// to who knows the password only.
func TestMergedUsername(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p := granted(t, rostertest.Begin(t), "ann@client.example")
	hash, err := roster.HashPassword(ctx, "seven green boats")
	done(t, err)
	p.Exec(t, `UPDATE account SET password_hash = $2, unclaimed = false WHERE id = $1`, p.absorbed, hash)
	if a, err := p.LogIn(ctx, p.App.ID, "ann", "seven green boats"); err != nil || a.ID != p.absorbed {
		t.Fatalf("before, the log-in is %s: %v", a.ID, err)
	}
	p.carryOut(t, p.confirm(t).ID)
	_, err = p.LogIn(ctx, p.App.ID, "ann", "seven green boats")
	refused(t, err, roster.Conflict, "account_merged")
	_, err = p.LogIn(ctx, p.App.ID, "ann", "seven red boats")
	refused(t, err, roster.Invalid, "credentials_wrong")
	client(t, p.Bundle, "ann@other.example")
	out, err := p.RequestAccess(ctx, p.App.ID, p.Admin.ID, roster.NewAccessRequest{Option: roster.OptionNewAccount, Email: "ann@other.example", FullName: "Another Ann"}, noKey)
	if err != nil || out.Made.Username != "ann-2" {
		t.Errorf("the next username is %+v: %v", out.Made, err)
	}
}

func TestAutomaticMerge(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]int{"agree": 1, "differ": 0} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := t.Context()
			b := rostertest.Begin(t)
			_, err := b.ChangePolicy(ctx, b.App.ID, roster.PolicyChange{Settings: map[string]json.RawMessage{"merge_mode": json.RawMessage(`"automatic"`)}}, noKey)
			done(t, err)
			own := client(t, b, "ann@client.example")
			full := map[string]string{"agree": own.FullName, "differ": "Ann B. Client"}[name]
			out, err := b.RequestAccess(ctx, b.App.ID, b.Admin.ID, roster.NewAccessRequest{Option: roster.OptionTemporary, Email: "ann@client.example", FullName: full}, noKey)
			done(t, err)
			_, err = b.ApproveRequestAs(ctx, b.App.ID, own.ID, out.Request.ID, "", noKey)
			done(t, err)
			if n := rostertest.Value[int](t, b, `SELECT count(*) FROM merge WHERE app_id = $1 AND state = 'confirmed' AND actor_id IS NULL`, b.App.ID); n != want {
				t.Errorf("%d merges were confirmed, want %d", n, want)
			}
		})
	}
}

// A made account that stood by itself for a while takes in another, and is then
// merged itself: ids lead to the account that lives, by one step.
func TestChainOfMerges(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	b := rostertest.Begin(t)
	own := client(t, b, "ann@client.example")
	out, err := asked(t, b, roster.OptionTemporary, "ann@client.example")
	done(t, err)
	_, err = b.DenyRequestAs(ctx, b.App.ID, own.ID, out.Request.ID, false, noKey)
	done(t, err)
	kept := *out.Request.MadeID // its person takes it, and has a further address there
	b.Exec(t, `UPDATE account SET unclaimed = false WHERE id = $1`, kept)
	addresses := []string{"ann@client.example", "second@client.example"}
	_, err = b.ChangeAccount(ctx, b.App.ID, kept, roster.AccountChange{SecondaryEmails: &addresses}, noKey)
	done(t, err)

	inner := pair{b, roster.AccessRequest{Email: "second@client.example"}, kept, uuid.Nil}.temporary(t, "Blue")
	inner.furnish(t)
	innerMerge := inner.carryOut(t, inner.confirm(t).ID)
	// And one that is asked of the kept account while it is merged away.
	later := pair{b, roster.AccessRequest{Email: "second@client.example"}, kept, uuid.Nil}.temporary(t, "Red")
	laterSeen := later.preview(t)

	b.Clock.Add(31 * 24 * time.Hour)
	out, err = asked(t, b, roster.OptionRequest, "ann@client.example")
	done(t, err)
	q, err := b.ApproveRequestAs(ctx, b.App.ID, own.ID, out.Request.ID, "", noKey)
	done(t, err)
	outer := pair{b, q, own.ID, kept}
	before := outer.rowsOf(t)
	m, err := b.PreviewMerge(ctx, b.App.ID, b.Admin.ID, q.ID, kept, noKey)
	done(t, err)
	ends := 0
	for _, c := range m.Preview.Conflicts {
		if c.Code == roster.ConflictAccess {
			ends++
		}
	}
	if ends != 2 { // Blue and Red see the kept account, and were never given the client's own
		t.Errorf("access of %d companies ends, want 2: %+v", ends, m.Preview.Conflicts)
	}
	_, err = b.ConfirmMerge(ctx, b.App.ID, b.Admin.ID, m.ID, m.Hash, noKey)
	done(t, err)
	outer.carryOut(t, m.ID)
	for _, old := range []uuid.UUID{kept, inner.absorbed} {
		if a, err := b.Account(ctx, b.App.ID, old); err != nil || a.ID != own.ID {
			t.Errorf("the account of an old id is %s: %v", a.ID, err)
		}
	}
	if n := opened(t, b, own.ID); n != 1 {
		t.Errorf("%d companies see the client's own account, want 1", n)
	}
	if state := requestState(t, b, later.request.ID); state != "revoked" {
		t.Errorf("the request for the kept account is %s", state)
	}
	if m, err := b.Merge(ctx, b.App.ID, laterSeen.ID); err != nil || m.State == roster.MergeConfirmed {
		t.Errorf("the later merge is %s: %v", m.State, err)
	}
	_, err = b.UndoMerge(ctx, b.App.ID, uuid.Nil, innerMerge.ID, nil, noKey)
	refused(t, err, roster.Gone, "undo_over")
	outer.undo(t, m.ID, nil)
	if got := outer.rowsOf(t); !slices.Equal(got, before) {
		t.Errorf("undone, the rows are\n%s\nwant\n%s", without(got, before), without(before, got))
	}
	if a, err := b.Account(ctx, b.App.ID, inner.absorbed); err != nil || a.ID != kept {
		t.Errorf("after the undo the old id leads to %s: %v", a.ID, err)
	}
}

func TestMergesStayApart(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	own := rostertest.Begin(t)
	theirs := granted(t, own.Another(t), "ann@client.example")
	m := theirs.preview(t)
	for _, l := range []roster.MergeList{{Limit: 10}, {Account: theirs.survivor, Limit: 10}, {State: roster.MergePreviewed, Limit: 10}} {
		if merges, err := own.Merges(ctx, own.App.ID, l); err != nil || len(merges) != 0 {
			t.Errorf("%+v: %+v, %v", l, merges, err)
		}
		if merges, err := theirs.Merges(ctx, theirs.App.ID, l); err != nil || len(merges) != 1 || merges[0].ID != m.ID {
			t.Errorf("%+v: %+v, %v", l, merges, err)
		}
	}
	_, err := own.PreviewMerge(ctx, own.App.ID, own.Admin.ID, granted(t, own, "ann@client.example").request.ID, theirs.absorbed, noKey)
	refused(t, err, roster.NotFound, "account_not_found")
}
