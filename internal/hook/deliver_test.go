package hook

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	webhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"usher/internal/postgres/postgrestest"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

// bench is a Deliverer over a database of its own, with an app in it.
type bench struct {
	*Deliverer
	pool *pgxpool.Pool
	app  uuid.UUID
	log  Log

	mu       sync.Mutex
	at       time.Time
	disabled []string
}

func newBench(t *testing.T) *bench {
	t.Helper()
	b := &bench{pool: postgrestest.Database(t), app: uuid.Must(uuid.NewV7()), at: time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)}
	b.log = Log{b.pool}
	b.Deliverer = &Deliverer{
		DB: b.pool, Now: b.clock, Client: NewClient(true), Log: slog.New(slog.DiscardHandler), Key: testKey,
		Disabled: func(_ context.Context, _ pgx.Tx, app, endpoint uuid.UUID, reason string) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.disabled = append(b.disabled, fmt.Sprint(app == b.app, " ", endpoint, " ", reason))
			return nil
		},
	}
	t.Cleanup(b.Client.CloseIdleConnections)
	b.exec(t, `INSERT INTO app (id, name, created_at) VALUES ($1, 'App', now())`, b.app)
	return b
}

func testKey(id []byte, endpoint uuid.UUID, version int) ([]byte, error) {
	if len(id) == 0 {
		return nil, errors.New("no such key")
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%x %s %d", id, endpoint, version))
	return sum[:], nil
}

func (b *bench) clock() time.Time {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.at
}

func (b *bench) pass(d time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.at = b.at.Add(d)
}

func (b *bench) exec(t *testing.T, sql string, args ...any) {
	t.Helper()
	if _, err := b.pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

func value[T any](t *testing.T, b *bench, sql string, args ...any) (v T) {
	t.Helper()
	if err := b.pool.QueryRow(t.Context(), sql, args...).Scan(&v); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return v
}

// endpoint adds one that is served by handler.
func (b *bench) endpoint(t *testing.T, handler http.HandlerFunc) uuid.UUID {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	id := uuid.Must(uuid.NewV7())
	b.exec(t, `INSERT INTO webhook_endpoint (id, app_id, url, description, types, secret_key, created_at) VALUES ($1, $2, $3, '', '{}', 'key1', now())`,
		id, b.app, server.URL+"/hook")
	return id
}

// queue stores n events for the endpoint.
func (b *bench) queue(t *testing.T, endpoint uuid.UUID, n int) (events []uuid.UUID) {
	t.Helper()
	for range n {
		events = append(events, uuid.Must(uuid.NewV7()))
	}
	b.exec(t, `INSERT INTO event (id, app_id, type, subject_id, data, at)
		SELECT id, $2, 'invitation.accepted', $2, '{"version": 1, "zeta": [1, 2], "note": "<&>"}', $3 FROM unnest($1::uuid[]) AS id`, events, b.app, b.clock())
	b.exec(t, `INSERT INTO webhook_delivery (endpoint_id, event_id, app_id, state, due_at, created_at)
		SELECT $1, id, $2, 'waiting', $4, $4 FROM unnest($3::uuid[]) AS id`, endpoint, b.app, events, b.clock())
	return events
}

func (b *bench) deliver(t *testing.T, endpoint uuid.UUID) time.Time {
	t.Helper()
	next, err := b.Deliver(t.Context(), endpoint)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func (b *bench) delivery(t *testing.T, endpoint, event uuid.UUID) Delivery {
	t.Helper()
	d, ok, err := b.log.Delivery(t.Context(), b.app, endpoint, event)
	if err != nil || !ok {
		t.Fatalf("no delivery of %s: %v", event, err)
	}
	return d
}

// received is what a receiver got.
type received struct {
	mu     sync.Mutex
	header []http.Header
	body   [][]byte
}

// take notes a request and answers with status.
func (r *received) take(status int) http.HandlerFunc {
	return func(w http.ResponseWriter, req *http.Request) {
		body, _ := io.ReadAll(req.Body)
		r.mu.Lock()
		r.header, r.body = append(r.header, req.Header), append(r.body, body)
		r.mu.Unlock()
		w.WriteHeader(status)
		fmt.Fprint(w, "thanks")
	}
}

func (r *received) ids() (ids []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, h := range r.header {
		ids = append(ids, h.Get("webhook-id"))
	}
	return ids
}

func TestDeliver(t *testing.T) {
	t.Parallel()
	b, got := newBench(t), &received{}
	b.at = time.Now() // libraries look at the clock
	e := b.endpoint(t, got.take(200))
	event := b.queue(t, e, 1)[0]
	if next := b.deliver(t, e); !next.IsZero() {
		t.Errorf("next at %s, want nothing more", next)
	}
	if len(got.body) != 1 {
		t.Fatalf("%d requests, want 1", len(got.body))
	}
	want := fmt.Sprintf(`{"type":"invitation.accepted","timestamp":%q,"data":{"app_id":%q,"subject_id":%[2]q,"actor_id":null,"details":{"note":"\u003c\u0026\u003e","zeta":[1,2],"version":1}}}`,
		b.at.UTC().Truncate(time.Microsecond).Format(time.RFC3339Nano), b.app)
	if string(got.body[0]) != want {
		t.Errorf("body:\n got %s\nwant %s", got.body[0], want)
	}
	h := got.header[0]
	if h.Get("webhook-id") != event.String() || h.Get("Content-Type") != "application/json" || h.Get("User-Agent") != userAgent {
		t.Errorf("headers are %v", h)
	}
	key, _ := testKey([]byte("key1"), e, 1)
	signer, err := webhooks.NewWebhookRaw(key)
	if err == nil {
		err = signer.Verify(got.body[0], h)
	}
	if err != nil {
		t.Errorf("verify: %v", err)
	}
	d := b.delivery(t, e, event)
	if d.State != "delivered" || d.DueAt != nil || d.SettledAt == nil || *d.Status != 200 || d.Error != "" || d.Type != "invitation.accepted" ||
		len(d.Attempts) != 1 || d.Attempts[0].Status != 200 || d.Attempts[0].Body != "thanks" || d.Attempts[0].Error != "" {
		t.Errorf("delivery is %+v", d)
	}
	if b.deliver(t, e); len(got.body) != 1 {
		t.Error("it was sent twice")
	}
}

// What fails comes again, in the same bytes, later each time, until it is given
// up after three days.
func TestRetries(t *testing.T) {
	t.Parallel()
	b, got := newBench(t), &received{}
	e := b.endpoint(t, got.take(503))
	event := b.queue(t, e, 1)[0]
	start := b.clock()
	waits := slices.Clone(retries)
	for n, least := range waits {
		next := b.deliver(t, e)
		d := b.delivery(t, e, event)
		wait := d.DueAt.Sub(b.clock())
		if d.State != "waiting" || wait < least || wait > least+time.Duration(jitter*float64(least)) || len(d.Attempts) != n+1 || next.Before(*d.DueAt) {
			t.Fatalf("after attempt %d: %s, due in %s, %d in the log, next %s; want a wait from %s on", n+1, d.State, wait, len(d.Attempts), next, least)
		}
		if b.pass(wait - 2*clockSkew); wait > 3*clockSkew {
			b.deliver(t, e)
			if len(got.body) != n+1 {
				t.Fatal("it was sent before its time")
			}
		}
		b.pass(2 * clockSkew)
		b.exec(t, `UPDATE webhook_endpoint SET paused_until = NULL, failing_since = NULL`)
	}
	b.deliver(t, e)
	d := b.delivery(t, e, event)
	if d.State != "failed" || d.DueAt != nil || d.SettledAt == nil || *d.Status != 503 || d.Error != "it answered 503 Service Unavailable" {
		t.Errorf("in the end it is %+v", d)
	}
	if lasted := b.clock().Sub(start); lasted < 70*time.Hour || lasted > 90*time.Hour {
		t.Errorf("it was tried for %s, want about three days", lasted)
	}
	for i := range got.body {
		if !bytes.Equal(got.body[i], got.body[0]) || got.header[i].Get("webhook-id") != event.String() {
			t.Errorf("attempt %d differs: %s", i+1, got.body[i])
		}
	}
	// Its log is bounded, and replays go on in it.
	for range 12 {
		b.exec(t, `UPDATE webhook_delivery SET state = 'waiting', tries = 0, due_at = $1`, b.clock())
		b.exec(t, `UPDATE webhook_endpoint SET paused_until = NULL, failing_since = NULL`)
		b.deliver(t, e)
		b.pass(time.Second)
	}
	if d := b.delivery(t, e, event); len(d.Attempts) != keptAttempts || !d.Attempts[keptAttempts-1].At.Equal(b.clock().Add(-time.Second)) {
		t.Errorf("the log has %d attempts up to %s", len(d.Attempts), d.Attempts[len(d.Attempts)-1].At)
	}
}

// Whatever a receiver does, it costs no more than a failed attempt.
func TestBadReceivers(t *testing.T) {
	t.Parallel()
	var elsewhere received
	target := httptest.NewServer(elsewhere.take(200))
	t.Cleanup(target.Close)
	hang := func(r *http.Request) { // until we hang up
		_, _ = io.ReadAll(r.Body)
		<-r.Context().Done()
	}
	for name, c := range map[string]struct {
		handler http.HandlerFunc
		state   string
		error   string // the beginning
		body    int    // bytes kept of the answer
	}{
		"refuses": {func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "no", http.StatusUnauthorized) }, "waiting", "it answered 401 Unauthorized", 2},
		"redirects": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, target.URL, http.StatusTemporaryRedirect)
		}, "waiting", "it answered 307 Temporary Redirect, and redirects are not followed", 0},
		"hangs": {func(_ http.ResponseWriter, r *http.Request) { hang(r) }, "waiting", "it did not answer within 15 seconds", 0},
		"hangs in the end": {func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprint(w, "ok")
			w.(http.Flusher).Flush()
			hang(r)
		}, "delivered", "", 2},
		"answers 2 MB": {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, strings.Repeat("x", 2<<20)) }, "delivered", "", keptAnswer},
		"fails with 2 MB": {func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(500)
			fmt.Fprint(w, strings.Repeat("ü", 1<<20))
		}, "waiting", "it answered 500", keptAnswer},
		"answers rubbish":  {func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("\x00\xff\xfe a\r\nb")) }, "delivered", "", 3},
		"has huge headers": {func(w http.ResponseWriter, _ *http.Request) { w.Header().Set("X", strings.Repeat("x", 1<<20)) }, "waiting", "net/http: HTTP/1.x transport connection broken: net/http: server response headers exceeded", 0},
		"drops us":         {func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, "waiting", "EOF", 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newBench(t)
			b.Client.Timeout = time.Second // not 15
			e := b.endpoint(t, c.handler)
			d := b.queue(t, e, 1)[0]
			b.deliver(t, e)
			got := b.delivery(t, e, d)
			if got.State != c.state || !strings.HasPrefix(got.Error, c.error) || (c.error == "") != (got.Error == "") {
				t.Errorf("it is %s: %q, want %s: %q", got.State, got.Error, c.state, c.error)
			}
			if n := len(got.Attempts[0].Body); c.body == 0 && !strings.Contains(name, "redirect") && n != 0 || n > c.body+40 || n < c.body-40 {
				t.Errorf("%d bytes of the answer are kept, want %d: %.40q", n, c.body, got.Attempts[0].Body)
			}
		})
	}
	t.Cleanup(func() {
		if n := len(elsewhere.ids()); n != 0 {
			t.Errorf("the redirect was followed %d times", n)
		}
	})
}

// A dead endpoint with much waiting is tried seldom and with one webhook; when
// it is back, all goes out.
func TestCircuit(t *testing.T) {
	t.Parallel()
	b, got := newBench(t), &received{}
	var dead sync.Mutex
	status := 500
	e := b.endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		dead.Lock()
		defer dead.Unlock()
		got.take(status)(w, r)
	})
	b.queue(t, e, 500)
	b.deliver(t, e)
	first := len(got.ids())
	if first < openAfter || first > openAfter+2*leastBatch {
		t.Fatalf("%d attempts before it is left alone", first)
	}
	paused := value[time.Time](t, b, `SELECT paused_until FROM webhook_endpoint`)
	if rest := paused.Sub(b.clock()); rest < firstPause || rest > longestPause {
		t.Errorf("it is left alone for %s", rest)
	}
	b.deliver(t, e)
	if n := len(got.ids()); n != first {
		t.Errorf("%d attempts while it is left alone", n-first)
	}
	for n := range 20 {
		b.pass(longestPause + time.Second)
		b.deliver(t, e)
		if probes := len(got.ids()) - first; probes != n+1 {
			t.Fatalf("%d attempts after %d rests", probes, n+1)
		}
	}
	dead.Lock()
	status = 200
	dead.Unlock()
	b.pass(longestPause)
	for next := b.clock(); !next.IsZero(); {
		if next.After(b.clock()) {
			b.pass(next.Sub(b.clock()))
		}
		next = b.deliver(t, e)
	}
	if n := value[int](t, b, `SELECT count(*) FROM webhook_delivery WHERE state = 'delivered'`); n != 500 {
		t.Errorf("%d were delivered, want 500", n)
	}
	if n := value[int](t, b, `SELECT failures + (paused_until IS NOT NULL)::int + (failing_since IS NOT NULL)::int FROM webhook_endpoint`); n != 0 {
		t.Error("the endpoint still counts as failing")
	}
}

func TestRetryAfter(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]time.Duration{
		"120": 2 * time.Minute, "86400": maxRest, "-5": 0, "soon": 0, "99999999999999": 0, "": 0,
		"Mon, 02 Mar 2026 09:10:00 GMT": 10 * time.Minute, "Mon, 02 Mar 2026 08:00:00 GMT": 0,
	} {
		if got := rest(header, time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)); got != want {
			t.Errorf("%q: %s, want %s", header, got, want)
		}
	}
	b, got := newBench(t), &received{}
	e := b.endpoint(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Retry-After", "600")
		got.take(429)(w, r)
	})
	b.queue(t, e, 3)
	b.deliver(t, e)
	b.pass(9 * time.Minute)
	b.queue(t, e, 1)
	b.deliver(t, e)
	if n := len(got.ids()); n != 3 {
		t.Errorf("%d requests within the rest it asked for, want 3", n)
	}
	b.pass(2 * time.Minute)
	b.deliver(t, e)
	if n := len(got.ids()); n != 7 {
		t.Errorf("%d requests after the rest it asked for, want 7", n)
	}
}

// An endpoint is disabled when it says that it is gone, or takes nothing for
// three days; then nothing more is sent.
func TestDisabled(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	var gone, dead received
	one, two := b.endpoint(t, gone.take(410)), b.endpoint(t, dead.take(500))
	b.queue(t, one, 1)
	b.deliver(t, one)
	b.queue(t, one, 1)
	if b.deliver(t, one); len(gone.ids()) != 1 {
		t.Errorf("%d webhooks to who is gone", len(gone.ids()))
	}
	b.queue(t, two, 1)
	b.deliver(t, two)
	b.pass(disableAfter - time.Second)
	b.queue(t, two, 1)
	b.deliver(t, two)
	if state := value[string](t, b, `SELECT state FROM webhook_endpoint WHERE id = $1`, two); state != "enabled" {
		t.Errorf("%s before three days are over", state)
	}
	b.pass(time.Minute)
	b.deliver(t, two)
	want := []string{"true " + one.String() + " gone", "true " + two.String() + " failing"}
	if !slices.Equal(b.disabled, want) {
		t.Errorf("disabled: %v, want %v", b.disabled, want)
	}
	if got := value[string](t, b, `SELECT string_agg(state || reason || (disabled_at IS NOT NULL), ' ' ORDER BY id) FROM webhook_endpoint`); got != "disabledgonetrue disabledfailingtrue" {
		t.Errorf("endpoints are %s", got)
	}
}

// For a day after a rotation the old secret signs, too.
func TestRotation(t *testing.T) {
	t.Parallel()
	b, got := newBench(t), &received{}
	e := b.endpoint(t, got.take(200))
	b.exec(t, `UPDATE webhook_endpoint SET secret_version = 2, secret_key = 'key2', old_secret_key = 'key1', old_secret_until = $1`, b.clock().Add(24*time.Hour))
	verified := func() (by [2]bool) {
		t.Helper()
		b.queue(t, e, 1)
		b.deliver(t, e)
		n := len(got.body) - 1
		for i, name := range []string{"key1", "key2"} {
			key, _ := testKey([]byte(name), e, i+1)
			signer, err := webhooks.NewWebhookRaw(key)
			if err != nil {
				t.Fatal(err)
			}
			by[i] = signer.VerifyIgnoringTimestamp(got.body[n], got.header[n]) == nil
		}
		return by
	}
	if by := verified(); by != [2]bool{true, true} {
		t.Errorf("after a rotation: verified by old and new %v", by)
	}
	b.pass(24 * time.Hour)
	if by := verified(); by != [2]bool{false, true} {
		t.Errorf("a day after it: verified by old and new %v", by)
	}
	// With the installation's key lost nothing is sent, and nothing is spent.
	b.exec(t, `UPDATE webhook_endpoint SET secret_key = ''`)
	event := b.queue(t, e, 1)[0]
	if _, err := b.Deliver(t.Context(), e); err == nil {
		t.Error("it was signed with a lost key")
	}
	if d := b.delivery(t, e, event); d.State != "waiting" || len(d.Attempts) != 0 || value[int](t, b, `SELECT tries FROM webhook_delivery WHERE event_id = $1`, event) != 0 {
		t.Errorf("delivery is %+v", d)
	}
}

// A hanging endpoint holds its own few connections and its one job, whatever
// waits for it, and delays nobody.
func TestHangingDelaysNobody(t *testing.T) {
	t.Parallel()
	b, got := newBench(t), &received{}
	release, busy := make(chan struct{}), make(chan struct{}, 100)
	hanging := b.endpoint(t, func(w http.ResponseWriter, _ *http.Request) {
		busy <- struct{}{}
		<-release
		w.WriteHeader(200)
	})
	healthy := b.endpoint(t, got.take(200))
	b.queue(t, hanging, 50)
	ended := make(chan error, 1)
	go func() {
		_, err := b.Deliver(context.WithoutCancel(t.Context()), hanging)
		ended <- err
	}()
	for range concurrency {
		<-busy
	}
	for range 100 { // what a hundred events insert
		if next := b.deliver(t, hanging); !next.IsZero() {
			t.Fatalf("a second job has to come again at %s", next)
		}
	}
	b.queue(t, healthy, 20)
	if b.deliver(t, healthy); len(got.ids()) != 20 {
		t.Errorf("%d webhooks reached the healthy endpoint, want 20", len(got.ids()))
	}
	if n := len(busy); n != 0 {
		t.Errorf("%d more connections to the hanging endpoint", n)
	}
	close(release)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if n := value[int](t, b, `SELECT count(*) FROM webhook_delivery WHERE state = 'delivered'`); n != 70 {
		t.Errorf("%d delivered in the end, want 70", n)
	}
}

// Much goes out once, and the oldest first.
func TestMany(t *testing.T) {
	t.Parallel()
	b, got := newBench(t), &received{}
	e := b.endpoint(t, got.take(204))
	const n = 3000
	for range 3 {
		b.queue(t, e, n/3)
		b.pass(time.Millisecond)
	}
	for next := b.clock(); !next.IsZero(); {
		next = b.deliver(t, e)
	}
	ids := got.ids()
	if len(ids) != n {
		t.Fatalf("%d requests, want %d", len(ids), n)
	}
	slices.Sort(ids)
	if len(slices.Compact(ids)) != n {
		t.Error("some came twice")
	}
	if left := value[int](t, b, `SELECT count(*) FROM webhook_delivery WHERE state <> 'delivered' OR attempts <> 1`); left != 0 {
		t.Errorf("%d are not delivered at the first attempt", left)
	}
}

// A job whose time is over gives back what it did not send, and says nothing of
// the endpoint for what it broke off.
func TestBrokenOff(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	var once sync.Once
	e := b.endpoint(t, func(_ http.ResponseWriter, r *http.Request) {
		once.Do(cancel)
		_, _ = io.ReadAll(r.Body)
		<-r.Context().Done()
	})
	b.queue(t, e, 40)
	next, err := b.Deliver(ctx, e)
	if err != nil || next.IsZero() {
		t.Errorf("next at %s, %v; want at once", next, err)
	}
	if got := value[string](t, b, `
		SELECT concat(count(*), ' ', sum(tries), ' ', sum(jsonb_array_length(log)), ' ', bool_and(due_at <= $1)) FROM webhook_delivery WHERE state = 'waiting'`, b.clock()); got != "40 0 0 t" {
		t.Errorf("waiting, tries, log, due: %s", got)
	}
	if n := value[int](t, b, `SELECT failures FROM webhook_endpoint`); n != 0 {
		t.Errorf("%d failures count", n)
	}
}

// The outcome of an attempt counts only while its claim is the newest: what a
// process brings that slept through its lease is late.
func TestFence(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	asked, answer := make(chan struct{}, 2), make(chan struct{})
	e := b.endpoint(t, func(w http.ResponseWriter, _ *http.Request) {
		asked <- struct{}{}
		<-answer
		w.WriteHeader(200)
	})
	event := b.queue(t, e, 1)[0]
	ended := make(chan error, 1)
	go func() {
		_, err := b.Deliver(context.WithoutCancel(t.Context()), e)
		ended <- err
	}()
	<-asked
	b.pass(lease + time.Second)
	// As another process would.
	other := &run{Deliverer: b.Deliverer, endpoint: e}
	claims, err := other.exchange(t.Context(), 5)
	if err != nil || len(claims) != 1 || claims[0].attempts != 2 {
		t.Fatalf("after its lease %+v, %v can be claimed", claims, err)
	}
	close(answer)
	if err := <-ended; err != nil {
		t.Fatal(err)
	}
	if d := b.delivery(t, e, event); d.State != "waiting" || len(d.Attempts) != 0 {
		t.Errorf("the older claim's outcome counts: %+v", d)
	}
	other.finish(outcome{claim: claims[0], Attempt: Attempt{At: b.clock(), Status: 200}})
	if _, err := other.exchange(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if d := b.delivery(t, e, event); d.State != "delivered" || len(d.Attempts) != 1 {
		t.Errorf("the newer claim's outcome does not count: %+v", d)
	}
}

// The sweep finds the endpoints at which something is due, and only those.
func TestWaiting(t *testing.T) {
	t.Parallel()
	b, got := newBench(t), &received{}
	due, later, off, paused, deleted, idle := b.endpoint(t, got.take(200)), b.endpoint(t, got.take(200)), b.endpoint(t, got.take(200)),
		b.endpoint(t, got.take(200)), b.endpoint(t, got.take(200)), b.endpoint(t, got.take(200))
	for _, e := range []uuid.UUID{due, later, off, paused, deleted} {
		b.queue(t, e, 3)
	}
	b.exec(t, `UPDATE webhook_delivery SET due_at = due_at + interval '1 hour' WHERE endpoint_id = $1`, later)
	b.exec(t, `UPDATE webhook_endpoint SET state = 'disabled' WHERE id = $1`, off)
	b.exec(t, `UPDATE webhook_endpoint SET paused_until = $2 WHERE id = $1`, paused, b.clock().Add(time.Minute))
	b.exec(t, `UPDATE webhook_endpoint SET state = 'deleted' WHERE id = $1`, deleted)
	want := func(endpoints ...uuid.UUID) {
		t.Helper()
		found, err := b.Waiting(t.Context())
		if err != nil || !slices.Equal(found, endpoints) {
			t.Errorf("found %v, %v; want %v", found, err, endpoints)
		}
	}
	want(due, deleted)
	for _, e := range []uuid.UUID{due, off, paused, idle, uuid.New()} {
		b.deliver(t, e)
	}
	if next := b.deliver(t, deleted); next.IsZero() {
		t.Error("there may be more to cancel")
	}
	if got := value[int](t, b, `SELECT count(*) FROM webhook_delivery WHERE endpoint_id = $1 AND state = 'cancelled'`, deleted); got != 3 {
		t.Errorf("%d of the deleted one's are cancelled, want 3", got)
	}
	want()
	b.pass(2 * time.Hour)
	want(later, paused)
	if n := len(got.ids()); n != 3 {
		t.Errorf("%d webhooks were sent, want 3", n)
	}
}

// The log is listed newest first, by state, page by page, and only to its app.
func TestLog(t *testing.T) {
	t.Parallel()
	b := newBench(t)
	e := b.endpoint(t, (&received{}).take(200))
	events := b.queue(t, e, 7)
	b.exec(t, `UPDATE webhook_delivery SET state = 'failed', due_at = NULL WHERE event_id = ANY ($1)`, events[:3])
	for state, want := range map[string][]uuid.UUID{"": events, "failed": events[:3], "waiting": events[3:], "delivered": nil} {
		var got []uuid.UUID
		for after := uuid.Nil; ; {
			page, next, err := b.log.Deliveries(t.Context(), b.app, e, DeliveryList{State: state, After: after, Limit: 2})
			if err != nil || len(page) > 2 {
				t.Fatal(len(page), err)
			}
			for _, d := range page {
				got = append(got, d.EventID)
			}
			if after = next; next == uuid.Nil {
				break
			}
		}
		slices.Reverse(got)
		if !slices.Equal(got, want) {
			t.Errorf("%q: %v, want %v", state, got, want)
		}
	}
	if page, _, err := b.log.Deliveries(t.Context(), uuid.New(), e, DeliveryList{Limit: 10}); err != nil || len(page) != 0 {
		t.Errorf("another app sees %v, %v", page, err)
	}
	if _, ok, err := b.log.Delivery(t.Context(), uuid.New(), e, events[0]); ok || err != nil {
		t.Error("another app sees a delivery")
	}
}
