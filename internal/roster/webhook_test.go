package roster_test

import (
	"context"
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
	"usher/internal/roster"
	"usher/internal/roster/rostertest"
)

// keyID names a key of the installation.
var keyID = []byte{1, 2, 3, 4}

// listen adds an endpoint for events of the types.
func listen(t *testing.T, b *rostertest.Bundle, types ...string) roster.Endpoint {
	t.Helper()
	e, err := b.CreateEndpoint(t.Context(), b.App.ID, roster.NewEndpoint{URL: "https://example.org/hook", Types: types, SecretKey: keyID}, noKey)
	done(t, err)
	return e
}

// queued are the types of the events that wait for an endpoint.
func queued(t *testing.T, b *rostertest.Bundle, e roster.Endpoint) []string {
	t.Helper()
	return rostertest.Column[string](t, b, `
		SELECT event.type FROM webhook_delivery d JOIN event ON event.id = d.event_id
		WHERE d.endpoint_id = $1 AND d.state = 'waiting' ORDER BY event.id`, e.ID)
}

func wantQueued(t *testing.T, b *rostertest.Bundle, e roster.Endpoint, want ...string) {
	t.Helper()
	if got := queued(t, b, e); !slices.Equal(got, want) {
		t.Errorf("endpoint %v waits for %v, want %v", e.Types, got, want)
	}
}

// An event is queued where it is wanted, in the transaction that writes it,
// whichever statement does, and nowhere else.
func TestEventsAreQueuedForEndpoints(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	other := b.Another(t)
	theirs := listen(t, other)
	some := listen(t, b, roster.EventRevoked, roster.EventCreated, roster.EventCreated)
	off := listen(t, b, roster.EventCreated)
	if _, err := b.UpdateEndpoint(t.Context(), b.App.ID, off.ID, roster.EndpointChange{Enabled: new(bool)}); err != nil {
		t.Fatal(err)
	}
	gone := listen(t, b, roster.EventCreated)
	done(t, b.DeleteEndpoint(t.Context(), b.App.ID, gone.ID))
	b.Exec(t, `DELETE FROM river_job`)

	inv := b.Invite(t, "ann@example.org")
	_, err := b.CopyInvitationLink(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, noKey)
	done(t, err)
	_, err = b.RevokeInvitation(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, noKey)
	done(t, err)

	wantQueued(t, b, some, roster.EventCreated, roster.EventRevoked)
	wantQueued(t, b, off)
	wantQueued(t, b, gone)
	wantQueued(t, b, theirs, roster.EventEndpointCreated)
	if jobs := rostertest.Column[string](t, b, `SELECT args->>'endpoint_id' FROM river_job WHERE kind = 'deliver_webhooks'`); len(jobs) != 2 || jobs[0] != some.ID.String() || jobs[1] != some.ID.String() {
		t.Errorf("jobs for %v, want one for each of the events of %s", jobs, some.ID)
	}
	if n := rostertest.Value[int](t, b, `SELECT count(*) FROM webhook_delivery d JOIN event ON event.id = d.event_id WHERE d.app_id <> event.app_id OR d.due_at <> event.at`); n != 0 {
		t.Errorf("%d deliveries are of another app, or not due at their event's time", n)
	}
}

// One job wakes an endpoint however many events a statement writes.
func TestManyEventsWakeOnce(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	e := listen(t, b, roster.EventCreated, roster.EventExpired)
	b.Exec(t, `DELETE FROM river_job`)
	var rows []roster.NewInvitation
	for i := range 20 {
		rows = append(rows, b.Row(fmt.Sprintf("p%d@example.org", i)))
	}
	b.Create(t, rows...)
	b.Clock.Add(2 * inviteLife)
	_, err := b.ExpireInvitations(t.Context(), 500)
	done(t, err)
	if n := len(queued(t, b, e)); n != 40 {
		t.Errorf("%d events wait, want 40", n)
	}
	if n := rostertest.Value[int](t, b, `SELECT count(*) FROM river_job WHERE kind = 'deliver_webhooks'`); n != 2 {
		t.Errorf("%d jobs, want 2", n)
	}
}

// What queues an event inserts its job by itself, in the form River gives it.
func TestEventWakesLikeRiver(t *testing.T) {
	t.Parallel()
	b, pool := rostertest.Database(t)
	e := listen(t, b, roster.EventEndpointCreated)
	listener, err := pool.Acquire(t.Context())
	done(t, err)
	defer listener.Release()
	_, err = listener.Exec(t.Context(), `LISTEN "public.river_insert"`)
	done(t, err)
	newest := func() string {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		n, err := listener.Conn().WaitForNotification(ctx)
		done(t, err)
		var bell any
		done(t, json.Unmarshal([]byte(n.Payload), &bell))
		return fmt.Sprint(bell) + rostertest.Value[string](t, b, `
			SELECT to_jsonb(j) - '{id,created_at,scheduled_at}'::text[] || jsonb_build_object('due', scheduled_at <= now(), 'fresh', created_at > now() - interval '1 minute')
			FROM river_job j ORDER BY id DESC LIMIT 1`)
	}
	listen(t, b, roster.EventCreated)
	ours := newest()
	done(t, postgres.InTx(t.Context(), pool, func(tx pgx.Tx) error {
		_, err := b.Jobs.InsertTx(t.Context(), tx, roster.DeliverWebhooks{EndpointID: e.ID}, nil)
		return err
	}))
	if rivers := newest(); ours != rivers {
		t.Errorf("job:\n got %s\nwant %s", ours, rivers)
	}
}

func TestEndpointLife(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	ctx, app := t.Context(), b.App.ID
	e := listen(t, b, roster.EventCreated)
	yes, no, text, address := true, false, " Ours ", "https://example.org/other"
	b.Exec(t, `UPDATE webhook_endpoint SET failures = 12, failing_since = now(), paused_until = now() WHERE id = $1`, e.ID)

	changed, err := b.UpdateEndpoint(ctx, app, e.ID, roster.EndpointChange{Description: &text, Types: &[]string{}})
	done(t, err)
	if changed.Description != "Ours" || len(changed.Types) != 0 || changed.Failures != 12 || changed.URL != e.URL {
		t.Errorf("got %+v", changed)
	}
	changed, err = b.UpdateEndpoint(ctx, app, e.ID, roster.EndpointChange{Enabled: &no})
	done(t, err)
	if changed.State != roster.EndpointDisabled || changed.Reason != roster.DisabledAsked || changed.DisabledAt == nil {
		t.Errorf("disabled: %+v", changed)
	}
	_, err = b.TestEndpoint(ctx, app, e.ID, noKey)
	wantCode(t, err, "endpoint_disabled")
	changed, err = b.UpdateEndpoint(ctx, app, e.ID, roster.EndpointChange{Enabled: &yes, URL: &address})
	done(t, err)
	if changed.State != roster.EndpointEnabled || changed.Reason != "" || changed.DisabledAt != nil || changed.Failures != 0 || changed.FailingSince != nil || changed.PausedUntil != nil {
		t.Errorf("enabled: %+v", changed)
	}
	rotated, err := b.RotateEndpointSecret(ctx, app, e.ID, []byte{9}, noKey)
	done(t, err)
	if rotated.SecretVersion != 2 || rotated.SecretKey[0] != 9 || !rotated.OldSecretUntil.Equal(b.Clock.Now().Add(24*time.Hour)) {
		t.Errorf("rotated: %+v", rotated)
	}
	done(t, b.DeleteEndpoint(ctx, app, e.ID))
	_, err = b.Endpoint(ctx, app, e.ID)
	wantCode(t, err, "endpoint_not_found")
	if list, err := b.Endpoints(ctx, app); err != nil || len(list) != 0 {
		t.Errorf("list: %+v, %v", list, err)
	}
	want := []string{"created", "updated", "disabled", "updated", "enabled", "secret_rotated", "deleted"}
	if got := rostertest.Column[string](t, b, `SELECT replace(type, 'webhook_endpoint.', '') FROM event WHERE subject_id = $1 ORDER BY id`, e.ID); !slices.Equal(got, want) {
		t.Errorf("events %v, want %v", got, want)
	}
	_, err = b.CreateEndpoint(ctx, app, roster.NewEndpoint{URL: "https://example.org", Types: []string{"no.such"}, SecretKey: keyID}, noKey)
	wantCode(t, err, "event_type_unknown")
	for range 20 {
		listen(t, b)
	}
	_, err = b.CreateEndpoint(ctx, app, roster.NewEndpoint{URL: "https://example.org", SecretKey: keyID}, noKey)
	wantCode(t, err, "too_many_endpoints")
}

func wantCode(t *testing.T, err error, code string) {
	t.Helper()
	if roster.CodeOf(err) != code {
		t.Errorf("got %v, want %s", err, code)
	}
}

// A test goes to its endpoint alone, whatever that wants, and before all that
// waits.
func TestTestGoesFirst(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	all, e := listen(t, b), listen(t, b, roster.EventCreated)
	b.Invite(t, "ann@example.org")
	event, err := b.TestEndpoint(t.Context(), b.App.ID, e.ID, noKey)
	done(t, err)
	if first := rostertest.Value[uuid.UUID](t, b, `SELECT event_id FROM webhook_delivery WHERE endpoint_id = $1 ORDER BY due_at LIMIT 1`, e.ID); first != event {
		t.Errorf("%s goes first, want the test %s", first, event)
	}
	if slices.Contains(queued(t, b, all), roster.EventEndpointTest) {
		t.Error("another endpoint got the test, too")
	}
}

// A replay sends what is asked for and nothing else, under the ids it had.
func TestReplay(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	ctx, app, start := t.Context(), b.App.ID, b.Clock.Now()
	before := b.Invite(t, "before@example.org")
	b.Clock.Add(time.Hour)
	e := listen(t, b, roster.EventCreated, roster.EventRevoked)
	states := []string{"delivered", "failed", "waiting"}
	var events []uuid.UUID
	for i, state := range states {
		inv := b.Invite(t, fmt.Sprintf("p%d@example.org", i))
		id := rostertest.Value[uuid.UUID](t, b, `SELECT id FROM event WHERE subject_id = $1`, inv.ID)
		events = append(events, id)
		b.Exec(t, `UPDATE webhook_delivery SET state = $2, tries = 14, attempts = 14, due_at = CASE $2 WHEN 'waiting' THEN due_at + interval '9 hours' END WHERE event_id = $1`, id, state)
		b.Clock.Add(time.Hour)
	}
	end := b.Clock.Now()
	replay := func(p roster.Replay) roster.Replayed {
		t.Helper()
		done, err := b.ReplayDeliveries(ctx, app, e.ID, p, noKey)
		if err != nil {
			t.Fatal(err)
		}
		return done
	}
	restore := func() {
		b.Exec(t, `DELETE FROM webhook_delivery WHERE event_id IN (SELECT id FROM event WHERE subject_id = $1)`, before.ID)
		b.Exec(t, `UPDATE webhook_delivery SET state = 'failed', due_at = NULL WHERE event_id = $1`, events[1])
		b.Exec(t, `UPDATE webhook_delivery SET state = 'delivered', due_at = NULL WHERE event_id = $1`, events[0])
	}
	for name, c := range map[string]struct {
		replay roster.Replay
		want   int
	}{
		"failed":                 {roster.Replay{From: start, To: end, Which: roster.ReplayFailed}, 1},
		"undelivered":            {roster.Replay{From: start, To: end, Which: roster.ReplayUndelivered}, 2},
		"all":                    {roster.Replay{From: start, To: end, Which: roster.ReplayAll}, 3},
		"all, but not the first": {roster.Replay{From: start.Add(time.Minute), To: end, Which: roster.ReplayAll}, 2},
		"all up to the third":    {roster.Replay{From: start, To: end.Add(-2 * time.Hour), Which: roster.ReplayAll}, 2},
		"of a type":              {roster.Replay{From: start, To: end, Which: roster.ReplayAll, Types: []string{roster.EventRevoked}}, 0},
		"after one":              {roster.Replay{From: start, To: end, Which: roster.ReplayAll, After: events[0]}, 1},
	} {
		restore()
		if got := replay(c.replay); got.Queued != c.want || got.Next != uuid.Nil {
			t.Errorf("%s: %+v, want %d", name, got, c.want)
		}
	}
	restore()
	replay(roster.Replay{From: start, To: end, Which: roster.ReplayFailed})
	if got := rostertest.Value[string](t, b, `SELECT concat(state, tries, attempts, due_at = $2) FROM webhook_delivery WHERE event_id = $1`, events[1], end); got != "waiting014t" {
		t.Errorf("replayed: %s", got)
	}
	_, err := b.ReplayDeliveries(ctx, app, e.ID, roster.Replay{From: end, To: end, Which: roster.ReplayAll}, noKey)
	wantCode(t, err, "range_empty")

	_, err = b.ReplayDelivery(ctx, app, e.ID, events[2], noKey)
	done(t, err)
	if got := rostertest.Value[time.Time](t, b, `SELECT due_at FROM webhook_delivery WHERE event_id = $1`, events[2]); !got.Equal(end) {
		t.Errorf("what waits is due at %s, want at once", got)
	}
	_, err = b.ReplayDelivery(ctx, app, e.ID, uuid.New(), noKey)
	wantCode(t, err, "event_not_found")
	other := b.Another(t)
	theirs := listen(t, other)
	_, err = other.ReplayDelivery(ctx, other.App.ID, theirs.ID, events[0], noKey)
	wantCode(t, err, "event_not_found")
}

// A replay of more than one call looks at, goes on where it ended.
func TestReplayInParts(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	e := listen(t, b)
	b.Exec(t, `INSERT INTO event (id, app_id, type, subject_id, at)
		SELECT gen_random_uuid(), $1, 'invitation.created', $1, $2::timestamptz + n / 3 * interval '1 ms' FROM generate_series(1, 10050) n`, b.App.ID, b.Clock.Now().Add(time.Minute))
	p := roster.Replay{From: b.Clock.Now().Add(time.Minute), To: b.Clock.Now().Add(time.Hour), Which: roster.ReplayUndelivered}
	total, calls := 0, 0
	for {
		got, err := b.ReplayDeliveries(t.Context(), b.App.ID, e.ID, p, noKey)
		done(t, err)
		total, calls, p.After = total+got.Queued, calls+1, got.Next
		if got.Next == uuid.Nil {
			break
		}
	}
	if total != 10050 || calls != 2 {
		t.Errorf("%d events in %d calls", total, calls)
	}
}

// Events are listed in order, page by page, by type and by subject.
func TestEventsList(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	b.Another(t).Invite(t, "else@example.org")
	before := rostertest.Column[string](t, b, `SELECT id::text FROM event WHERE app_id = $1`, b.App.ID) // of the people and the workspace
	var first roster.Invitation
	for i := range 5 {
		inv := b.Invite(t, fmt.Sprintf("p%d@example.org", i))
		if i == 0 {
			first = inv
		}
		b.Clock.Add(time.Second)
		_, err := b.RevokeInvitation(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, noKey)
		done(t, err)
	}
	// A type that few have is found beyond what one page looks at.
	b.Exec(t, `INSERT INTO event (id, app_id, type, subject_id, at)
		SELECT gen_random_uuid(), $1, 'invitation.held', $1, $2 FROM generate_series(1, 5100) n`, b.App.ID, b.Clock.Now().Add(time.Second))
	rare := uuid.New()
	b.Exec(t, `INSERT INTO event (id, app_id, type, subject_id, at) VALUES ($3, $1, 'mail.stopped', $1, $2)`, b.App.ID, b.Clock.Now().Add(time.Minute), rare)
	for name, c := range map[string]struct {
		list roster.EventList
		want int
	}{
		"all":               {roster.EventList{Limit: 200}, len(before) + 5111},
		"newest first":      {roster.EventList{Limit: 200, Newest: true}, len(before) + 5111},
		"a type":            {roster.EventList{Limit: 2, Type: roster.EventRevoked}, 5},
		"newest of a type":  {roster.EventList{Limit: 2, Type: roster.EventRevoked, Newest: true}, 5},
		"a rare type":       {roster.EventList{Limit: 2, Type: roster.EventMailStopped}, 1},
		"a subject":         {roster.EventList{Limit: 1, Subject: first.ID}, 2},
		"newest of it":      {roster.EventList{Limit: 1, Subject: first.ID, Newest: true}, 2},
		"its type":          {roster.EventList{Limit: 1, Subject: first.ID, Type: roster.EventCreated}, 1},
		"an unknown cursor": {roster.EventList{Limit: 1, After: uuid.New()}, 0},
	} {
		seen, pages := map[uuid.UUID]bool{}, 0
		var last roster.Event
		for {
			events, next, err := b.Roster.Events(t.Context(), b.App.ID, c.list)
			done(t, err)
			pages++
			for _, e := range events {
				if seen[e.ID] || e.AppID != b.App.ID || last.ID != uuid.Nil && (c.list.Newest && e.At.After(last.At) || !c.list.Newest && e.At.Before(last.At)) {
					t.Fatalf("%s: %+v comes after %+v", name, e, last)
				}
				seen[e.ID], last = true, e
			}
			if next == uuid.Nil || pages > 10_000 {
				break
			}
			c.list.After = next
		}
		if len(seen) != c.want {
			t.Errorf("%s: %d events in %d pages, want %d", name, len(seen), pages, c.want)
		}
	}
	if e, err := b.Event(t.Context(), b.App.ID, rare); err != nil || e.Type != roster.EventMailStopped {
		t.Errorf("one: %+v, %v", e, err)
	}
}

// Every type of event there is a constant for is among those that apps are told
// of.
func TestEventTypesAreAll(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	done(t, err)
	known := map[string]bool{}
	for _, et := range roster.EventTypes {
		if known[et.Type] || et.Doc == "" || !strings.HasSuffix(et.Doc, ".") {
			t.Errorf("%s is there twice, or says nothing", et.Type)
		}
		known[et.Type] = true
	}
	found := 0
	for _, name := range files {
		file, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		done(t, err)
		ast.Inspect(file, func(n ast.Node) bool {
			spec, ok := n.(*ast.ValueSpec)
			if !ok || !strings.HasPrefix(spec.Names[0].Name, "Event") || len(spec.Values) == 0 {
				return true
			}
			if literal, ok := spec.Values[0].(*ast.BasicLit); ok && literal.Kind == token.STRING {
				value, err := strconv.Unquote(literal.Value)
				done(t, err)
				found++
				if !known[value] {
					t.Errorf("%s of %s is not in EventTypes", spec.Names[0].Name, name)
				}
			}
			return true
		})
	}
	if found < len(known) {
		t.Errorf("%d constants for %d types", found, len(known))
	}
}

// A secret is made anew from what is kept, and is another for each version,
// endpoint and key.
func TestEndpointSecret(t *testing.T) {
	t.Parallel()
	const first, second = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"
	old, err := roster.NewKeyring(first)
	done(t, err)
	both, err := roster.NewKeyring(second + "," + first)
	done(t, err)
	e := roster.Endpoint{ID: uuid.New(), SecretVersion: 1, SecretKey: old.ID()}
	secret := func(keys *roster.Keyring, e roster.Endpoint) string {
		s, err := e.Secret(keys)
		done(t, err)
		return s
	}
	was := secret(old, e)
	if secret(both, e) != was || !strings.HasPrefix(was, "whsec_") {
		t.Errorf("%s changed with the keyring", was)
	}
	for _, changed := range []roster.Endpoint{
		{ID: e.ID, SecretVersion: 2, SecretKey: e.SecretKey}, {ID: uuid.New(), SecretVersion: 1, SecretKey: e.SecretKey}, {ID: e.ID, SecretVersion: 1, SecretKey: both.ID()},
	} {
		if secret(both, changed) == was {
			t.Errorf("%+v has the same secret", changed)
		}
	}
	if _, err := (roster.Endpoint{SecretKey: both.ID()}).Secret(old); err == nil {
		t.Error("a key that is gone made a secret")
	}
}
