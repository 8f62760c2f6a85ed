package roster_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"usher/internal/postgres"
	"usher/internal/roster"
	"usher/internal/roster/rostertest"
)

func TestCreateInvitation(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	row := b.Row(" Ann@Example.ORG ")
	row.FullName, row.Locale, row.Note = "  Ann  Example ", "es-mx", "Hello,\r\nAnn"
	inv := b.Create(t, row)[0].Invitation

	now := b.Clock.Now()
	want := roster.Invitation{
		ID: inv.ID, AppID: b.App.ID, WorkspaceID: b.Workspace.ID, InviterID: b.Stakeholder.ID, Kind: roster.KindNewUser,
		Email: "Ann@Example.ORG", EmailKey: "ann@example.org", FullName: "Ann  Example", Locale: "es-MX", Note: "Hello,\nAnn",
		State: roster.Pending, Delivery: roster.MailQueued, Version: 1, Sends: 1, QueuedAt: &now, MessageID: inv.MessageID,
		ExpiresAt: now.Add(inviteLife), CreatedAt: now, Visibility: roster.VisibilityFull,
	}
	if !reflect.DeepEqual(inv, want) {
		t.Errorf("answer:\n got %+v\nwant %+v", inv, want)
	}
	stored := reread(t, b, inv)
	if a, b := asJSON(t, stored), asJSON(t, want); a != b {
		t.Errorf("stored:\n got %s\nwant %s", a, b)
	}
	events, err := b.InvitationEvents(t.Context(), b.App.ID, inv.ID)
	done(t, err)
	if len(events) != 1 || events[0].Type != roster.EventCreated || *events[0].ActorID != b.Stakeholder.ID ||
		events[0].SubjectID != inv.ID || !events[0].At.Equal(now) || events[0].Data["version"] != 1.0 {
		t.Errorf("events: got %+v", events)
	}
	if strings.Contains(strings.ToLower(asJSON(t, events)), "ann") {
		t.Errorf("the event keeps personal data: %s", asJSON(t, events))
	}
	mail := roster.Mail{
		ID: *inv.MessageID, AppID: b.App.ID, Kind: roster.MailInvitation, SubjectID: inv.ID, Purpose: "v1:send:1",
		Args: roster.MailArgs{Version: 1, Send: 1}, Lane: roster.Interactive, EmailKey: "ann@example.org",
	}
	if mails := b.Mails(t, inv.ID); len(mails) != 1 || !reflect.DeepEqual(mails[0], mail) {
		t.Errorf("mails: got %+v, want %+v", mails, mail)
	}
	if job := rostertest.Value[string](t, b, `
		SELECT queue || ' ' || (args->>'lane') FROM river_job WHERE kind = 'compose_mail'`); job != "mail_interactive interactive" {
		t.Errorf("job: got %s", job)
	}
}

func asJSON(t *testing.T, v any) string {
	t.Helper()
	text, err := json.Marshal(v)
	done(t, err)
	return string(text)
}

// The creation inserts its job by itself, in the form River gives it.
func TestCreateWakesLikeRiver(t *testing.T) {
	t.Parallel()
	b, pool := rostertest.Database(t)
	listener, err := pool.Acquire(t.Context())
	done(t, err)
	defer listener.Release()
	_, err = listener.Exec(t.Context(), `LISTEN "public.river_insert"`)
	done(t, err)
	rung := func() string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		n, err := listener.Conn().WaitForNotification(ctx)
		done(t, err)
		var payload any
		done(t, json.Unmarshal([]byte(n.Payload), &payload))
		return fmt.Sprint(payload)
	}
	const newest = `SELECT to_jsonb(j) - '{id,created_at,scheduled_at}'::text[] || jsonb_build_object('due', scheduled_at <= now(), 'fresh', created_at > now() - interval '1 minute')
		FROM river_job j ORDER BY id DESC LIMIT 1`
	b.Invite(t, "ann@example.org")
	ours, ourBell := rostertest.Value[string](t, b, newest), rung()
	done(t, postgres.InTx(t.Context(), pool, func(tx pgx.Tx) error {
		_, err := b.Jobs.InsertTx(t.Context(), tx, roster.ComposeMail{Lane: roster.Interactive}, nil)
		return err
	}))
	rivers, riversBell := rostertest.Value[string](t, b, newest), rung()
	if ours != rivers || ourBell != riversBell {
		t.Errorf("job:\n got %s, %s\nwant %s, %s", ours, ourBell, rivers, riversBell)
	}
}

func TestCreateByCompanyAdmin(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	row := b.Row("ann@example.org")
	row.ActorID = b.Admin.ID
	if out := b.Create(t, row)[0]; out.Err != nil || out.Invitation.InviterID != b.Admin.ID {
		t.Errorf("got %+v", out)
	}
}

func TestCreateWithoutMail(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	row := b.Row("ann@example.org")
	row.Notify = false
	inv := b.Create(t, row)[0].Invitation
	if inv.Delivery != roster.NotMailed || inv.Sends != 0 || inv.QueuedAt != nil {
		t.Errorf("got %+v", inv)
	}
	if jobs := b.Mails(t, inv.ID); len(jobs) != 0 {
		t.Errorf("jobs: got %+v, want none", jobs)
	}
	wantEvents(t, b, inv, "created")

	inv, err := b.ResendInvitation(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, noKey)
	done(t, err)
	if inv.Sends != 1 || len(b.Mails(t, inv.ID)) != 1 {
		t.Errorf("the first mail, asked for later: got %+v", inv)
	}
}

// An event, a job or an invitation alone would be a lie: a create whose jobs
// cannot be stored does nothing.
func TestCreateIsOneTransaction(t *testing.T) {
	t.Parallel()
	b, pool := rostertest.Database(t)
	_, err := pool.Exec(t.Context(), `ALTER TABLE river_job RENAME TO hidden`)
	done(t, err)
	_, err = b.CreateInvitations(t.Context(), []roster.NewInvitation{b.Row("ann@example.org")})
	var refusal *roster.Error
	if err == nil || errors.As(err, &refusal) {
		t.Fatalf("got %v, want a fault", err)
	}
	_, err = pool.Exec(t.Context(), `ALTER TABLE hidden RENAME TO river_job`)
	done(t, err)
	for _, rows := range []string{"invitation WHERE", "event WHERE type = 'invitation.created' AND", "message WHERE"} {
		if n := rostertest.Value[int](t, b, `SELECT count(*) FROM `+rows+` app_id = $1`, b.App.ID); n != 0 {
			t.Errorf("%s: %d rows stayed", rows, n)
		}
	}
	b.Invite(t, "ann@example.org")
}

// withoutQueue is the bundle's Roster with a queue that takes no jobs.
func withoutQueue(t *testing.T, b *rostertest.Bundle) *roster.Roster {
	t.Helper()
	client, err := river.NewClient(riverpgxv5.New(nil), &river.Config{SkipUnknownJobCheck: true, Schema: "nowhere"})
	done(t, err)
	return &roster.Roster{DB: b.DB, Jobs: client, Now: b.Clock.Now}
}

func TestCreateDuplicate(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, first, again string }{
		{"same", "ann@example.org", "ann@example.org"},
		{"case and space", "Ann@Example.org", " ANN@EXAMPLE.ORG\t"},
		{"Unicode form of the domain", "ann@caf\u00e9.example", "ann@cafe\u0301.example"},
		{"punycode", "ann@caf\u00e9.example", "ann@xn--caf-dma.example"},
		{"wide letters", "ann@example.org", "ann@\uff45xample.org"},
		{"ideographic stop", "ann@example.org", "ann@example\u3002org"},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := rostertest.Begin(t)
			inv := b.Invite(t, test.first)
			out := b.Create(t, b.Row(test.again))[0]
			if out.Err != nil || !out.Duplicate || out.Invitation.ID != inv.ID || out.Invitation.Email != inv.Email {
				t.Errorf("got %+v, want the duplicate of %s", out, inv.ID)
			}
			wantEvents(t, b, inv, "created")
			if jobs := b.Mails(t, inv.ID); len(jobs) != 1 {
				t.Errorf("jobs: got %+v, want one", jobs)
			}
		})
	}
}

func TestCreateNotDuplicate(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	b.Invite(t, "ann.example@mail.example")
	b.Invite(t, "annexample@mail.example") // dots and tags are parts of an address
	b.Invite(t, "ann.example+usher@mail.example")
	elsewhere := b.Row("ann.example@mail.example")
	elsewhere.WorkspaceID = b.NewWorkspace(t, "Another file").ID
	if out := b.Create(t, elsewhere)[0]; out.Err != nil || out.Duplicate {
		t.Errorf("another workspace: got %+v", out)
	}
	other := b.Another(t)
	other.Invite(t, "ann.example@mail.example")
}

// A duplicate is also one that is on hold; one that was decided is not in the
// way of another invitation.
func TestCreateBesideOlder(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	hold(t, b, inv)
	if out := b.Create(t, b.Row("ann@example.org"))[0]; !out.Duplicate || out.Invitation.State != roster.OnHold {
		t.Errorf("on hold: got %+v", out)
	}
	for _, state := range []roster.State{roster.Declined, roster.Revoked, roster.Superseded, roster.Expired} {
		b.Exec(t, `UPDATE invitation SET state = $2, decided_at = $3 WHERE id = $1`, inv.ID, state, b.Clock.Now())
		inv = b.Invite(t, "ann@example.org")
	}
}

func TestCreateForMember(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := accept(t, b, b.Invite(t, "ann@example.org"))
	out := b.Create(t, b.Row("ANN@example.org"))[0]
	if out.Err != nil || !out.AlreadyMember || *out.AccountID != *inv.AccountID || out.Invitation.ID != uuid.Nil {
		t.Errorf("got %+v", out)
	}
	if n := rostertest.Value[int](t, b, `SELECT count(*) FROM invitation WHERE app_id = $1`, b.App.ID); n != 1 {
		t.Errorf("invitations: got %d, want 1", n)
	}
	if out := b.Create(t, b.Row(b.Stakeholder.Email))[0]; !out.AlreadyMember {
		t.Errorf("the stakeholder: got %+v", out)
	}
	b.Exec(t, `UPDATE account SET status = 'archived' WHERE id = $1`, *inv.AccountID)
	b.Invite(t, "ann@example.org") // an archived account does not own its address any more
}

func TestCreateRefusals(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	other := b.Another(t)
	inactive := b.NewAccount(t, roster.Professional, "Ina Active", "ina@greenvalley.example")
	b.Exec(t, `INSERT INTO membership (app_id, workspace_id, account_id, role, created_at) VALUES ($1, $2, $3, 'stakeholder', now())`,
		b.App.ID, b.Workspace.ID, inactive.ID)
	b.Exec(t, `UPDATE account SET status = 'archived' WHERE id = $1`, inactive.ID)
	gone := b.NewAccount(t, roster.Professional, "Guy Gone", "guy@greenvalley.example")
	b.Exec(t, `INSERT INTO membership (app_id, workspace_id, account_id, role, state, created_at) VALUES ($1, $2, $3, 'stakeholder', 'archived', now())`,
		b.App.ID, b.Workspace.ID, gone.ID)
	client := b.NewAccount(t, roster.Client, "Cleo Client", "cleo@example.org")
	b.Exec(t, `INSERT INTO membership (app_id, workspace_id, account_id, role, created_at) VALUES ($1, $2, $3, 'client_user', now())`,
		b.App.ID, b.Workspace.ID, client.ID)
	colleague := b.NewAccount(t, roster.Professional, "Cole League", "cole@greenvalley.example")
	done(t, b.SetCompanyMember(t.Context(), b.App.ID, b.Company.ID, colleague.ID, roster.RoleMember, noKey))
	archived := b.NewWorkspace(t, "Old file")
	b.Exec(t, `UPDATE workspace SET state = 'archived' WHERE id = $1`, archived.ID)

	tests := []struct {
		name string
		edit func(*roster.NewInvitation)
		kind roster.Kind
		code string
	}{
		{"kind", func(n *roster.NewInvitation) { n.Kind = "friend" }, roster.Invalid, "kind_unknown"},
		{"address", func(n *roster.NewInvitation) { n.Email = "ann" }, roster.Invalid, "email_invalid"},
		{"no name", func(n *roster.NewInvitation) { n.FullName = " " }, roster.Invalid, "name_missing"},
		{"locale", func(n *roster.NewInvitation) { n.Locale = "!!" }, roster.Invalid, "locale_invalid"},
		{"note", func(n *roster.NewInvitation) { n.Note = "a\x00b" }, roster.Invalid, "message_invalid"},
		{"archived workspace", func(n *roster.NewInvitation) { n.WorkspaceID = archived.ID }, roster.Conflict, "workspace_archived"},
		{"unknown workspace", func(n *roster.NewInvitation) { n.WorkspaceID = uuid.New() }, roster.NotFound, "workspace_not_found"},
		{"workspace of another app", func(n *roster.NewInvitation) { n.WorkspaceID = other.Workspace.ID }, roster.NotFound, "workspace_not_found"},
		{"unknown actor", func(n *roster.NewInvitation) { n.ActorID = uuid.New() }, roster.Forbidden, "actor_invalid"},
		{"no actor", func(n *roster.NewInvitation) { n.ActorID = uuid.Nil }, roster.Forbidden, "actor_invalid"},
		{"actor of another app", func(n *roster.NewInvitation) { n.ActorID = other.Stakeholder.ID }, roster.Forbidden, "actor_invalid"},
		{"all of another app but the app", func(n *roster.NewInvitation) {
			n.ActorID, n.WorkspaceID = other.Stakeholder.ID, other.Workspace.ID
		}, roster.Forbidden, "actor_invalid"},
		{"actor no longer active", func(n *roster.NewInvitation) { n.ActorID = inactive.ID }, roster.Forbidden, "actor_invalid"},
		{"former stakeholder", func(n *roster.NewInvitation) { n.ActorID = gone.ID }, roster.Forbidden, "actor_not_allowed"},
		{"client user", func(n *roster.NewInvitation) { n.ActorID = client.ID }, roster.Forbidden, "actor_not_allowed"},
		{"company member", func(n *roster.NewInvitation) { n.ActorID = colleague.ID }, roster.Forbidden, "actor_not_allowed"},
		{"outsider", func(n *roster.NewInvitation) { n.ActorID = b.Outsider.ID }, roster.Forbidden, "actor_not_allowed"},
		// Who may not act learns nothing about the rest.
		{"outsider with a bad address", func(n *roster.NewInvitation) { n.ActorID, n.Email = b.Outsider.ID, "ann" }, roster.Forbidden, "actor_not_allowed"},
		{"outsider and a member's address", func(n *roster.NewInvitation) { n.ActorID, n.Email = b.Outsider.ID, client.Email }, roster.Forbidden, "actor_not_allowed"},
	}
	// All in one batch, each beside a good row: a refusal is its row's alone.
	var rows []roster.NewInvitation
	for i, test := range tests {
		bad := b.Row(fmt.Sprintf("bad%d@example.org", i))
		test.edit(&bad)
		rows = append(rows, bad, b.Row(fmt.Sprintf("good%d@example.org", i)))
	}
	out := b.Create(t, rows...)
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			refused(t, out[2*i].Err, test.kind, test.code)
			if out[2*i].Invitation.ID != uuid.Nil {
				t.Errorf("refused, but answered with invitation %+v", out[2*i].Invitation)
			}
			good := out[2*i+1]
			done(t, good.Err)
			wantEvents(t, b, good.Invitation, "created")
			if len(b.Mails(t, good.Invitation.ID)) != 1 {
				t.Error("the good neighbour has no job")
			}
		})
	}
	if n := rostertest.Value[int](t, b, `SELECT count(*) FROM invitation`); n != len(tests) {
		t.Errorf("invitations: got %d, want %d", n, len(tests))
	}
}

func TestCreateBatch(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	other := b.Another(t)
	member := accept(t, b, b.Invite(t, "member@example.org"))
	open := b.Invite(t, "open@example.org")
	out := b.Create(t,
		b.Row("ann@example.org"),
		other.Row("ann@example.org"),
		b.Row("open@example.org"),
		b.Row("member@example.org"),
		b.Row("Ann@example.org"),
		b.Row("not an address"),
		other.Row("bob@example.org"),
	)
	if len(out) != 7 {
		t.Fatalf("got %d answers", len(out))
	}
	for i, want := range []struct {
		app       uuid.UUID
		duplicate bool
	}{0: {b.App.ID, false}, 1: {other.App.ID, false}, 2: {b.App.ID, true}, 4: {b.App.ID, true}, 6: {other.App.ID, false}} {
		if want.app == uuid.Nil {
			continue
		}
		if out[i].Err != nil || out[i].Invitation.AppID != want.app || out[i].Duplicate != want.duplicate {
			t.Errorf("row %d: got %+v", i, out[i])
		}
	}
	if out[0].Invitation.ID == out[1].Invitation.ID {
		t.Error("two apps share an invitation")
	}
	if out[2].Invitation.ID != open.ID || out[4].Invitation.ID != out[0].Invitation.ID {
		t.Error("duplicates are of other invitations")
	}
	if !out[3].AlreadyMember || *out[3].AccountID != *member.AccountID {
		t.Errorf("member: got %+v", out[3])
	}
	refused(t, out[5].Err, roster.Invalid, "email_invalid")
	for _, i := range []int{0, 1, 6} {
		wantEvents(t, b, out[i].Invitation, "created")
		if len(b.Mails(t, out[i].Invitation.ID)) != 1 {
			t.Errorf("row %d: no job", i)
		}
	}
	if out := b.Create(t); len(out) != 0 {
		t.Errorf("no rows: got %+v", out)
	}
}

// The sweep runs every minute; a create need not wait for it.
func TestCreateReplacesOverdue(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	old := b.Invite(t, "ann@example.org")
	b.Clock.Set(old.ExpiresAt.Add(-time.Microsecond))
	if out := b.Create(t, b.Row("ann@example.org"))[0]; !out.Duplicate {
		t.Errorf("a microsecond before the end: got %+v", out)
	}
	b.Clock.Set(old.ExpiresAt)
	out := b.Create(t, b.Row("ann@example.org"), b.Row("ann@example.org"))
	if out[0].Err != nil || out[0].Duplicate || out[0].Invitation.ID == old.ID {
		t.Fatalf("at the end: got %+v", out[0])
	}
	if !out[1].Duplicate || out[1].Invitation.ID != out[0].Invitation.ID {
		t.Errorf("the row after: got %+v", out[1])
	}
	wantState(t, b, old, roster.Expired)
	wantEvents(t, b, old, "created", "expired")
	if jobs := b.Mails(t, b.Stakeholder.ID); len(jobs) != 1 || len(jobs[0].Args.EventIDs) != 1 {
		t.Errorf("word to the inviter: got %+v", jobs)
	}
	if ended, err := b.ExpireInvitations(t.Context(), 10); err != nil || ended != 0 {
		t.Errorf("the sweep after: got %d %v, want nothing left", ended, err)
	}
}

// keyed is a row under a key. The hash stands for its whole content.
func keyed(row roster.NewInvitation, key string) roster.NewInvitation {
	row.Key = keyFor(key, fmt.Sprint(row.ActorID, row.WorkspaceID, row.Email, row.FullName))
	return row
}

func TestCreateAgainUnderKey(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	first := b.Create(t, keyed(b.Row("ann@example.org"), "one"))[0]
	done(t, first.Err)
	again := b.Create(t, keyed(b.Row("ann@example.org"), "one"))[0]
	if a, b := asJSON(t, again), asJSON(t, first); a != b {
		t.Errorf("first answer not given again:\n got %s\nwant %s", a, b)
	}

	// The first answer stays, whatever happened since.
	_, err := b.RevokeInvitation(t.Context(), b.App.ID, b.Stakeholder.ID, first.Invitation.ID, noKey)
	done(t, err)
	again = b.Create(t, keyed(b.Row("ann@example.org"), "one"))[0]
	if again.Invitation.ID != first.Invitation.ID || again.Invitation.State != roster.Pending {
		t.Errorf("after a revocation: got %+v", again)
	}

	other := keyed(b.Row("bob@example.org"), "one")
	refused(t, b.Create(t, other)[0].Err, roster.Reused, "idempotency_key_reused")
	elsewhere := keyed(b.Row("bob@example.org"), "one")
	elsewhere.Key.Route = "POST /elsewhere"
	done(t, b.Create(t, elsewhere)[0].Err)
	another := b.Another(t)
	if out := another.Create(t, keyed(another.Row("ann@example.org"), "one"))[0]; out.Err != nil || out.Invitation.AppID != another.App.ID {
		t.Errorf("another app's key of the same name: got %+v", out)
	}
	if n := rostertest.Value[int](t, b, `SELECT count(*) FROM invitation WHERE app_id = $1`, b.App.ID); n != 2 {
		t.Errorf("invitations: got %d, want 2", n)
	}
}

func TestCreateUnderKeyWithinBatch(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	out := b.Create(t,
		keyed(b.Row("ann@example.org"), "one"),
		keyed(b.Row("ann@example.org"), "one"),
		keyed(b.Row("bob@example.org"), "one"),
		keyed(b.Row("ann@example.org"), "two"),
	)
	if a, b := asJSON(t, out[1]), asJSON(t, out[0]); a != b {
		t.Errorf("first answer not given again:\n got %s\nwant %s", a, b)
	}
	refused(t, out[2].Err, roster.Reused, "idempotency_key_reused")
	if !out[3].Duplicate || out[3].Invitation.ID != out[0].Invitation.ID {
		t.Errorf("another key: got %+v", out[3])
	}
	// What was remembered is what was answered.
	later := b.Create(t, keyed(b.Row("ann@example.org"), "two"), keyed(b.Row("ann@example.org"), "one"))
	for i, want := range []roster.CreateOutcome{out[3], out[0]} {
		if a, b := asJSON(t, later[i]), asJSON(t, want); a != b {
			t.Errorf("later:\n got %s\nwant %s", a, b)
		}
	}
}

func TestCreateRemembersRefusals(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	archive := func(state string) {
		b.Exec(t, `UPDATE workspace SET state = $2 WHERE id = $1`, b.Workspace.ID, state)
	}
	archive("archived")
	refused(t, b.Create(t, keyed(b.Row("ann@example.org"), "one"))[0].Err, roster.Conflict, "workspace_archived")
	archive("active")
	e := refused(t, b.Create(t, keyed(b.Row("ann@example.org"), "one"))[0].Err, roster.Conflict, "workspace_archived")
	if e.Message == "" {
		t.Error("the sentence was not remembered")
	}
	b.Invite(t, "ann@example.org")

	bad := keyed(b.Row("ann"), "two")
	refused(t, b.Create(t, bad)[0].Err, roster.Invalid, "email_invalid")
	if e := refused(t, b.Create(t, bad)[0].Err, roster.Invalid, "email_invalid"); e.Field != "email" {
		t.Errorf("field: got %q", e.Field)
	}
}

// Two connections at once, for each of many addresses: with one key for one
// request, with one key for two requests, in batches that take the addresses
// in opposite orders.
func TestCreateConcurrently(t *testing.T) {
	t.Parallel()
	b, _ := rostertest.Database(t)
	const rounds = 25
	for round := range rounds {
		rows := [2][]roster.NewInvitation{}
		const n = 6
		for i := range n {
			same := keyed(b.Row(fmt.Sprintf("same%d-%d@example.org", round, i)), fmt.Sprintf("same%d-%d", round, i))
			rows[0] = append(rows[0], same)
			rows[1] = append([]roster.NewInvitation{same}, rows[1]...)
			key := fmt.Sprintf("other%d-%d", round, i)
			rows[0] = append(rows[0], keyed(b.Row(fmt.Sprintf("left%d-%d@example.org", round, i)), key))
			rows[1] = append([]roster.NewInvitation{keyed(b.Row(fmt.Sprintf("right%d-%d@example.org", round, i)), key)}, rows[1]...)
		}
		var out [2][]roster.CreateOutcome
		var errs [2]error
		atOnce(2, func(i int) { out[i], errs[i] = b.CreateInvitations(context.Background(), rows[i]) })
		done(t, errors.Join(errs[:]...))
		for i := range 2 * n {
			left, right := out[0][i], out[1][2*n-1-i]
			if i%2 == 0 { // one request
				if a, b := asJSON(t, left), asJSON(t, right); a != b || left.Err != nil || left.Duplicate {
					t.Fatalf("one request twice:\n got %s\n and %s", a, b)
				}
				continue
			}
			if (left.Err == nil) == (right.Err == nil) {
				t.Fatalf("two requests under one key: got %v and %v, want one refusal", left.Err, right.Err)
			}
			refused(t, errors.Join(left.Err, right.Err), roster.Reused, "idempotency_key_reused")
		}
	}
	if n := rostertest.Value[int](t, b, `SELECT count(*) FROM invitation`); n != rounds*12 {
		t.Errorf("invitations: got %d, want %d", n, rounds*12)
	}
	if n := rostertest.Value[int](t, b, `SELECT count(*) FROM message`); n != rounds*12 {
		t.Errorf("mails: got %d, want %d", n, rounds*12)
	}
	if n := rostertest.Value[int](t, b, `SELECT count(*) FROM idempotency_key`); n != rounds*12 {
		t.Errorf("remembered answers: got %d, want %d", n, rounds*12)
	}
}

// atOnce runs n calls of fn that start together.
func atOnce(n int, fn func(i int)) {
	start := make(chan struct{})
	var wait sync.WaitGroup
	for i := range n {
		wait.Go(func() {
			<-start
			fn(i)
		})
	}
	close(start)
	wait.Wait()
}

// A batch may be part of a longer transaction; it then ends with that one.
func TestCreateInTransaction(t *testing.T) {
	t.Parallel()
	b, pool := rostertest.Database(t)
	tx, err := pool.Begin(t.Context())
	done(t, err)
	out, err := b.In(tx).CreateInvitations(t.Context(), []roster.NewInvitation{b.Row("ann@example.org")})
	done(t, err)
	if err := tx.Rollback(t.Context()); err != nil && !errors.Is(err, pgx.ErrTxClosed) {
		t.Fatal(err)
	}
	_, err = b.Invitation(t.Context(), b.App.ID, out[0].Invitation.ID)
	refused(t, err, roster.NotFound, "invitation_not_found")
}
