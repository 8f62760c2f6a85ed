package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"testing"

	"usher/internal/roster"
)

// hold keeps the table from every writer until the returned function is called.
func (s *site) hold(table string) (release func()) {
	s.t.Helper()
	lock, err := s.pool.Begin(s.t.Context())
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := lock.Exec(s.t.Context(), `LOCK TABLE `+table+` IN SHARE MODE`); err != nil {
		s.t.Fatal(err)
	}
	release = sync.OnceFunc(func() {
		if err := lock.Rollback(context.WithoutCancel(s.t.Context())); err != nil {
			s.t.Error(err)
		}
	})
	s.t.Cleanup(release)
	return release
}

// row is a good creation for the address.
func (s *site) row(email string) roster.NewInvitation {
	return roster.NewInvitation{
		AppID: s.app.ID, ActorID: s.actor.ID, WorkspaceID: s.workspace.ID, Kind: roster.KindNewUser,
		Email: email, FullName: "Ann Okafor", Notify: true,
	}
}

// post creates an invitation to the address over HTTP.
func (s *site) post(email string) reply {
	s.t.Helper()
	return s.api(s.tenant, call{method: http.MethodPost, path: "/v1/invitations", body: invitationJSON(s.tenant, map[string]any{"email": email})})
}

// TestOverload fills the queue while the database keeps the committers waiting:
// who comes then hears at once when to come again, and who waits is served.
func TestOverload(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	release := s.hold("invitation")
	in := s.server.intake
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	answers := make(chan error, maxWaiting+committers)
	ask := func(email string) {
		go func() {
			_, err := in.create(ctx, s.row(email))
			answers <- err
		}()
	}
	for i := range committers { // one for each, so that none is free
		ask(fmt.Sprintf("first%d@client.example", i))
		s.untilBlocked(i + 1)
	}
	for i := range maxWaiting {
		ask(fmt.Sprintf("ann%d@client.example", i))
	}
	s.until("the queue is full", func() bool { return len(in.queue) == maxWaiting })

	before := read[int](s, `SELECT count(*) FROM invitation`)
	r := s.post("late@client.example")
	r.wantProblem(t, 503, "overloaded")
	wantDeclared(t, s.server.api.OpenAPI(), operations(s.server.api.OpenAPI())["create-invitation"], r)
	if r.Header.Get("Retry-After") == "" {
		t.Error("it does not say when to come again")
	}
	if r := s.api(s.tenant, call{method: http.MethodGet, path: "/v1/invitations"}); r.StatusCode != 200 {
		t.Errorf("reading meanwhile: %d", r.StatusCode)
	}

	// Those in the queue leave; they are not stored. Those at work are.
	leave()
	for range maxWaiting + committers {
		if err := <-answers; !errors.Is(err, context.Canceled) {
			t.Errorf("who left was answered %v", err)
		}
	}
	release()
	s.until("the queue is empty", func() bool { return len(in.queue) == 0 })
	if r := s.post("after@client.example"); r.StatusCode != 201 {
		t.Errorf("after the overload: %d %s", r.StatusCode, r.body)
	}
	s.until("those at work are stored", func() bool { return read[int](s, `SELECT count(*) FROM invitation`) >= before+committers+1 })
	if n := read[int](s, `SELECT count(*) FROM invitation WHERE email LIKE 'ann%' OR email LIKE 'late%'`); n != 0 {
		t.Errorf("%d requests were stored that nobody waited for", n)
	}
	if n := read[int](s, `SELECT count(*) FROM invitation WHERE email LIKE 'first%'`); n != committers {
		t.Errorf("%d of those at work were stored, want %d", n, committers)
	}
}

// TestOneCommitForMany: requests that queue up behind a commit share the next.
func TestOneCommitForMany(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	release := s.hold("invitation")
	const many = 60
	statuses := make(chan int, many+committers)
	for i := range committers {
		go func() { statuses <- s.post(fmt.Sprintf("first%d@client.example", i)).StatusCode }()
		s.untilBlocked(i + 1)
	}
	for i := range many {
		go func() { statuses <- s.post(fmt.Sprintf("ann%d@client.example", i)).StatusCode }()
	}
	s.until("all have queued up", func() bool { return len(s.server.intake.queue) == many })
	release()
	for range many + committers {
		if status := <-statuses; status != 201 {
			t.Errorf("answered %d", status)
		}
	}
	// Rows of one transaction have one creator.
	if n := read[int](s, `SELECT count(DISTINCT xmin::text) FROM invitation WHERE email LIKE 'ann%'`); n > committers {
		t.Errorf("%d transactions for %d requests that waited together, want at most %d", n, many, committers)
	}
	for _, sql := range []string{`SELECT count(*) FROM invitation`, `SELECT count(*) FROM event WHERE type LIKE 'invitation.%'`, `SELECT count(*) FROM message`} {
		if n := read[int](s, sql); n != many+committers {
			t.Errorf("%s: %d, want %d", sql, n, many+committers)
		}
	}
}

// TestBadRowFailsAlone puts rows the database objects to among good ones: a
// trigger stands for a check that we do not have.
func TestBadRowFailsAlone(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.exec(`CREATE FUNCTION object() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF NEW.email LIKE 'bad%' THEN RAISE EXCEPTION 'secret of the database' USING ERRCODE = '22023'; END IF;
			RETURN NEW;
		END $$`)
	s.exec(`CREATE TRIGGER object BEFORE INSERT ON invitation FOR EACH ROW EXECUTE FUNCTION object()`)
	release := s.hold("invitation")
	type answered struct {
		email string
		reply
	}
	const many = 40
	answers := make(chan answered, many+committers)
	post := func(email string) { go func() { answers <- answered{email, s.post(email)} }() }
	for i := range committers {
		post(fmt.Sprintf("first%d@client.example", i))
		s.untilBlocked(i + 1)
	}
	for i := range many {
		post(map[bool]string{true: "bad", false: "good"}[i%13 == 5] + fmt.Sprint(i) + "@client.example")
	}
	s.until("all have queued up", func() bool { return len(s.server.intake.queue) == many })
	release()
	for range many + committers {
		a := <-answers
		if strings.HasPrefix(a.email, "bad") {
			a.wantProblem(t, 500, "internal")
			if strings.Contains(a.body, "secret") {
				t.Errorf("the answer says what the database said: %s", a.body)
			}
		} else if a.StatusCode != 201 {
			t.Errorf("%s: %d %s", a.email, a.StatusCode, a.body)
		}
	}
	for _, sql := range []string{`SELECT count(*) FROM invitation`, `SELECT count(*) FROM event WHERE type LIKE 'invitation.%'`, `SELECT count(*) FROM message`} {
		if n := read[int](s, sql); n != many+committers-3 {
			t.Errorf("%s: %d, want %d", sql, n, many+committers-3)
		}
	}
}

// TestFaultFailsAll: where the database itself is at fault, nothing is halved,
// everybody hears of it, and the next request is served.
func TestFaultFailsAll(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.exec(`ALTER TABLE event RENAME TO event_away`)
	s.post("ann@client.example").wantProblem(t, 500, "internal")
	if n := read[int](s, `SELECT count(*) FROM invitation`); n != 0 {
		t.Errorf("%d invitations without an event", n)
	}
	s.exec(`ALTER TABLE event_away RENAME TO event`)
	if r := s.post("ann@client.example"); r.StatusCode != 201 {
		t.Errorf("afterwards: %d %s", r.StatusCode, r.body)
	}
}
