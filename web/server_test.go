package web

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/rs/zerolog"
	"golang.org/x/net/html"

	"usher/internal/mail"
	"usher/internal/postgres"
	"usher/internal/postgres/postgrestest"
	"usher/internal/roster"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

const (
	opsPassword  = "ops-open-sesame"
	goodPassword = "correct horse battery"
)

// site is a server that answers on a port of its own, over a database of its
// own, with a clock the test moves. Its log is searched in the end for what no
// log may hold.
type site struct {
	t      *testing.T
	base   string // http://127.0.0.1:PORT
	pool   *pgxpool.Pool
	server *Server
	roster *roster.Roster
	log    *logBuffer
	ahead  atomic.Int64 // how far the clock is ahead, in nanoseconds
	stop   func() error

	tenant // the app that most tests are about
}

// tenant is an app with a key, a professional, a company and a workspace of
// which the professional is a stakeholder.
type tenant struct {
	app       roster.App
	key       string
	actor     roster.Account
	company   roster.Company
	workspace roster.Workspace
}

// logBuffer collects what many goroutines log.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// newSite starts a site; change, if any, adapts its options before.
func newSite(t *testing.T, change ...func(*Options)) *site {
	t.Helper()
	ctx := t.Context()
	s := &site{t: t, pool: postgrestest.Database(t), log: &logBuffer{}}
	now := func() time.Time { return time.Now().Add(time.Duration(s.ahead.Load())) }
	queue, err := river.NewClient(riverpgxv5.New(s.pool), &river.Config{Logger: slog.New(slog.DiscardHandler), SkipUnknownJobCheck: true})
	if err != nil {
		t.Fatal(err)
	}
	s.roster = &roster.Roster{DB: s.pool, Jobs: queue, Now: now}
	keys, err := roster.NewKeyring(strings.Repeat("s", roster.MinSecret))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.base = "http://" + listener.Addr().String()
	base, err := url.Parse(s.base)
	if err != nil {
		t.Fatal(err)
	}
	options := Options{
		Roster: s.roster, Keys: keys, Mailbox: &mail.Mailbox{DB: s.pool, Now: now}, URL: base,
		OpsPassword: opsPassword, Version: "test", Log: zerolog.New(s.log),
		Ready: func(ctx context.Context) error { return postgres.CheckSchema(ctx, s.pool) },
	}
	for _, f := range change {
		f(&options)
	}
	if s.server, err = New(options); err != nil {
		t.Fatal(err)
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	served := make(chan error, 1)
	go func() { served <- s.server.Serve(serving, listener) }()
	s.stop = sync.OnceValue(func() error { stop(); return <-served })
	t.Cleanup(func() {
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		if err := s.stop(); err != nil {
			t.Errorf("stop server: %v", err)
		}
		s.checkLog()
	})
	s.tenant = s.newTenant("Kindred Care")
	return s
}

// inLogs is what would give somebody away: keys, links' tokens, e-mail
// addresses, cookies' values.
var inLogs = regexp.MustCompile(`usk_|@|%40|/[iu]/[A-Za-z0-9_-]|[A-Za-z0-9_-]{43,}`)

// checkLog fails the test if the log says what it must not.
func (s *site) checkLog() {
	s.t.Helper()
	log := s.log.String()
	if !strings.Contains(log, `"route"`) {
		s.t.Error("no request was logged")
	}
	for _, secret := range []string{goodPassword, opsPassword, "wrong password"} {
		if strings.Contains(log, secret) {
			s.t.Errorf("the log has the password %q", secret)
		}
	}
	if at := inLogs.FindStringIndex(log); at != nil {
		s.t.Errorf("the log has %q in …%s…", log[at[0]:at[1]], log[max(0, at[0]-100):min(len(log), at[1]+100)])
	}
}

// pass moves the clock forward.
func (s *site) pass(d time.Duration) { s.ahead.Add(int64(d)) }

func (s *site) newTenant(name string) (te tenant) {
	s.t.Helper()
	ctx, r, none := s.t.Context(), s.roster, roster.IdempotencyKey{}
	var err error
	check := func() {
		s.t.Helper()
		if err != nil {
			s.t.Fatal(err)
		}
	}
	te.app, err = r.CreateApp(ctx, roster.NewApp{Name: name, TimeZone: "Europe/Madrid", URL: "https://app.kindred.example/"})
	check()
	te.key, _, err = r.CreateAPIKey(ctx, te.app.ID, "test")
	check()
	te.actor, err = r.CreateAccount(ctx, te.app.ID, roster.NewAccount{Kind: roster.Professional, FullName: "Marie Dupont", Email: "marie@kindred.example"}, none)
	check()
	te.company, err = r.CreateCompany(ctx, te.app.ID, "Acme Therapy", "", none)
	check()
	te.workspace, err = r.CreateWorkspace(ctx, te.app.ID, roster.NewWorkspace{CompanyID: te.company.ID, Name: "Family Okafor", OwnerID: te.actor.ID}, none)
	check()
	return te
}

// invite creates an invitation of the tenant to an address.
func (s *site) invite(te tenant, email string) roster.Invitation {
	s.t.Helper()
	out, err := s.roster.CreateInvitations(s.t.Context(), []roster.NewInvitation{{
		AppID: te.app.ID, ActorID: te.actor.ID, WorkspaceID: te.workspace.ID, Kind: roster.KindNewUser,
		Email: email, FullName: "Ann Okafor", Notify: true,
	}})
	if err != nil {
		s.t.Fatal(err)
	}
	if out[0].Err != nil {
		s.t.Fatal(out[0].Err)
	}
	return out[0].Invitation
}

func (s *site) token(inv roster.Invitation) string {
	return s.server.Keys.Token(roster.PurposeInvitation, inv.Ticket())
}

func (s *site) exec(sql string, args ...any) {
	s.t.Helper()
	if _, err := s.pool.Exec(s.t.Context(), sql, args...); err != nil {
		s.t.Fatal(err)
	}
}

// read reads one value.
func read[T any](s *site, sql string, args ...any) (v T) {
	s.t.Helper()
	if err := s.pool.QueryRow(s.t.Context(), sql, args...).Scan(&v); err != nil {
		s.t.Fatal(err)
	}
	return v
}

// everything is all rows of all tables, to be compared. Tables named in but
// are left out.
func (s *site) everything(but ...string) string {
	s.t.Helper()
	ctx := s.t.Context()
	rows, err := s.pool.Query(ctx, `SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> ALL ($1) ORDER BY 1`, append(but, "river_leader"))
	if err != nil {
		s.t.Fatal(err)
	}
	tables, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		s.t.Fatal(err)
	}
	var parts []string
	for _, table := range tables {
		name := pgx.Identifier{table}.Sanitize()
		parts = append(parts, `SELECT '`+table+`: ' || r::text AS line FROM `+name+` AS r`)
	}
	return read[string](s, `SELECT COALESCE(string_agg(line, E'\n' ORDER BY line), '') FROM (`+strings.Join(parts, " UNION ALL ")+`) AS all_lines`)
}

// changed are the rows that are in one of two states of everything only.
func changed(before, after string) string {
	var lines []string
	old := strings.Split(before, "\n")
	for _, line := range strings.Split(after, "\n") {
		if at := slices.Index(old, line); at >= 0 {
			old = slices.Delete(old, at, at+1)
		} else {
			lines = append(lines, "+ "+line)
		}
	}
	for _, line := range old {
		lines = append(lines, "- "+line)
	}
	return strings.Join(lines, "\n")
}

// call is a request of the API.
type call struct {
	method string
	path   string
	body   string
	header map[string]string // on top of the usual ones; "" leaves a usual one out
}

// reply is an answer, read to its end.
type reply struct {
	*http.Response
	body string
}

// value reads a field of a JSON answer.
func (r reply) value(t *testing.T, field string) any {
	t.Helper()
	var object map[string]any
	if err := json.Unmarshal([]byte(r.body), &object); err != nil {
		t.Fatalf("answer %d is no JSON object: %v: %s", r.StatusCode, err, r.body)
	}
	return object[field]
}

func (r reply) text(t *testing.T, field string) string {
	t.Helper()
	value, _ := r.value(t, field).(string)
	return value
}

// api sends a call as the tenant's backend, its professional acting.
func (s *site) api(te tenant, c call) reply {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), c.method, s.base+c.path, strings.NewReader(c.body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+te.key)
	req.Header.Set("Usher-Actor", te.actor.ID.String())
	if c.body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for name, value := range c.header {
		if req.Header.Del(name); value != "" {
			req.Header.Set(name, value)
		}
	}
	return s.send(http.DefaultClient, req)
}

func (s *site) send(client *http.Client, req *http.Request) reply {
	s.t.Helper()
	do := client.Do
	if req.ContentLength > maxBody && req.URL.Path != batchPath || req.ContentLength > maxBatchBody {
		do = announce
	}
	resp, err := do(req)
	if err != nil {
		s.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return reply{resp, string(body)}
}

// announce sends a request's head and the first byte of its body. The server refuses a body by its length
// and closes the connection; a client that still writes may miss the answer.
func announce(req *http.Request) (*http.Response, error) {
	var head bytes.Buffer
	if err := req.Write(&head); err != nil {
		return nil, err
	}
	conn, err := net.Dial("tcp", req.URL.Host)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	end := bytes.Index(head.Bytes(), []byte("\r\n\r\n")) + 5
	if _, err := conn.Write(head.Bytes()[:end]); err != nil {
		return nil, err
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return nil, err
	}
	return http.ReadResponse(bufio.NewReader(bytes.NewReader(answer)), req)
}

// internals are words of our own workings that no answer may show.
var internals = regexp.MustCompile(`(?i)pgx|pgconn|sqlstate|\bsql\b|goroutine|panic|runtime error|roster\.|huma|fiber|fasthttp|river|\*web\.|\.go:|0x[0-9a-f]{6}|nil pointer|no rows|json: cannot|unmarshal|deadline exceeded|context canceled`)

// wantProblem checks that an answer is a problem of that status and code, and
// says nothing of our insides.
func (r reply) wantProblem(t *testing.T, status int, code string) {
	t.Helper()
	if r.StatusCode != status {
		t.Errorf("status %d, want %d: %s", r.StatusCode, status, r.body)
		return
	}
	if r.Header.Get("X-Request-Id") == "" {
		t.Errorf("there is no X-Request-Id")
	}
	if kind := r.Header.Get("Content-Type"); kind != "application/problem+json" {
		t.Errorf("Content-Type is %q", kind)
	}
	var p Problem
	decoder := json.NewDecoder(strings.NewReader(r.body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&p); err != nil {
		t.Errorf("the answer is no problem: %v: %s", err, r.body)
		return
	}
	if p.Type != "about:blank" || p.Title != http.StatusText(status) || p.Status != status || p.Code != code ||
		!strings.HasSuffix(p.Detail, ".") || p.Detail[:1] != strings.ToUpper(p.Detail[:1]) || len(p.Detail) > 300 {
		t.Errorf("problem is %s, want code %s and a sentence", r.body, code)
	}
	if p.RequestID != "" && p.RequestID != r.Header.Get("X-Request-Id") {
		t.Errorf("the problem names request %s, the header %s", p.RequestID, r.Header.Get("X-Request-Id"))
	}
	if found := internals.FindString(r.body); found != "" {
		t.Errorf("the answer says %q: %s", found, r.body)
	}
}

// invitationJSON is a good body of POST /v1/invitations, with fields changed
// or added; a nil leaves one out.
func invitationJSON(te tenant, fields map[string]any) string {
	body := map[string]any{
		"kind": "new_user", "email": "ann@client.example", "full_name": "Ann Okafor", "workspace_id": te.workspace.ID.String(),
	}
	for name, value := range fields {
		if body[name] = value; value == nil {
			delete(body, name)
		}
	}
	raw, err := json.Marshal(body)
	if err != nil {
		panic(err) // maps of plain values
	}
	return string(raw)
}

// browser is a person at a browser that keeps cookies.
type browser struct {
	s      *site
	client *http.Client
	header map[string]string // sent with every request
}

// browser opens one. It follows redirects, as they do.
func (s *site) browser() *browser {
	s.t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		s.t.Fatal(err)
	}
	return &browser{s: s, client: &http.Client{Jar: jar}, header: map[string]string{"Accept": "text/html"}}
}

// sheet is a page as the browser got it.
type sheet struct {
	reply
	document
}

// title is the page's h1.
func (p sheet) title() string {
	if h := p.all("h1"); len(h) == 1 {
		return text(h[0])
	}
	return ""
}

// forms are the addresses of the page's forms, without what follows a "?".
func (p sheet) forms() (actions []string) {
	for _, f := range p.all("form") {
		action, _, _ := strings.Cut(attr(f, "action"), "?")
		actions = append(actions, action[strings.LastIndexByte(action, '/')+1:])
	}
	return actions
}

func (b *browser) do(method, path string, form url.Values, header ...string) sheet {
	b.s.t.Helper()
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(b.s.t.Context(), method, b.s.base+path, body)
	if err != nil {
		b.s.t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	for name, value := range b.header {
		req.Header.Set(name, value)
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	r := b.s.send(b.client, req)
	if found := internals.FindString(stripURLs(r.body)); found != "" && strings.HasPrefix(path, "/i/") {
		b.s.t.Errorf("%s %s says %q", method, path, found)
	}
	root, err := html.Parse(strings.NewReader(r.body))
	if err != nil {
		b.s.t.Fatal(err)
	}
	return sheet{r, document{source: r.body, root: root}}
}

// stripURLs takes out attributes, which hold tokens that may spell anything.
func stripURLs(page string) string { return attributes.ReplaceAllString(page, "") }

var attributes = regexp.MustCompile(`="[^"]*"`)

func (b *browser) get(path string, header ...string) sheet {
	b.s.t.Helper()
	return b.do(http.MethodGet, path, nil, header...)
}

func (b *browser) post(path string, form url.Values, header ...string) sheet {
	b.s.t.Helper()
	if form == nil {
		form = url.Values{}
	}
	return b.do(http.MethodPost, path, form, header...)
}

// stay makes the browser show redirects instead of following them.
func (b *browser) stay() *browser {
	b.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	return b
}

// wantPage checks a page by its status and its h1.
func (p sheet) wantPage(t *testing.T, status int, title string) {
	t.Helper()
	if p.StatusCode != status || p.title() != title {
		t.Errorf("page is %d %q, want %d %q", p.StatusCode, p.title(), status, title)
	}
}

func (s *site) say(lang, key string, data ...any) string {
	return s.server.pages.texts.In(lang).T(key, data...)
}

func newID() string { return uuid.Must(uuid.NewV7()).String() }

func TestHealth(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.browser()
	for _, path := range []string{"/healthz", "/readyz"} {
		if p := b.get(path); p.StatusCode != 200 || p.body != "ok\n" {
			t.Errorf("%s: %d %s", path, p.StatusCode, p.body)
		}
	}
	s.exec(`INSERT INTO usher_migration (version, name) VALUES (9999, 'later')`)
	if p := b.get("/readyz"); p.StatusCode != 503 || p.Header.Get("Retry-After") == "" || strings.Contains(p.body, "9999") {
		t.Errorf("over another schema: %d %v %s", p.StatusCode, p.Header, p.body)
	}
	if p := b.get("/healthz"); p.StatusCode != 200 {
		t.Errorf("the process is not healthy because of the database: %d", p.StatusCode)
	}
}

func TestRequestID(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.browser()
	if id := b.get("/healthz", "X-Request-Id", "caller-1.a_B").Header.Get("X-Request-Id"); id != "caller-1.a_B" {
		t.Errorf("a caller's request id became %q", id)
	}
	for _, bad := range []string{"", "a b", "ann@client.example", `{"a":1}`, strings.Repeat("a", 65)} {
		id := b.get("/healthz", "X-Request-Id", bad).Header.Get("X-Request-Id")
		if _, err := uuid.Parse(id); err != nil {
			t.Errorf("request id %q became %q, want one of our own", bad, id)
		}
	}
	if !strings.Contains(s.log.String(), `"request_id":"caller-1.a_B"`) {
		t.Error("the log does not name the request")
	}
}

// TestStopFinishesWhatWasBegun stops the server while a creation waits for the
// database: it is answered.
func TestStopFinishesWhatWasBegun(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	lock, err := s.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer lock.Rollback(context.WithoutCancel(t.Context()))
	if _, err := lock.Exec(t.Context(), `LOCK TABLE invitation IN ACCESS EXCLUSIVE MODE`); err != nil {
		t.Fatal(err)
	}
	answered := make(chan reply, 1)
	go func() {
		answered <- s.api(s.tenant, call{method: "POST", path: "/v1/invitations", body: invitationJSON(s.tenant, nil), header: map[string]string{"Connection": "close"}})
	}()
	s.untilBlocked(1)
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	s.until("the server takes no new connection", func() bool {
		conn, err := net.Dial("tcp", strings.TrimPrefix(s.base, "http://"))
		if err == nil {
			conn.Close()
		}
		return err != nil
	})
	if err := lock.Rollback(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r := <-answered; r.StatusCode != 201 {
		t.Errorf("answered %d %s", r.StatusCode, r.body)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

// until waits for a condition that comes about elsewhere.
func (s *site) until(what string, ok func() bool) {
	s.t.Helper()
	deadline, tick := time.After(20*time.Second), time.NewTicker(5*time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-deadline:
			s.t.Fatalf("waited in vain until %s", what)
		case <-tick.C:
		}
	}
}

// untilBlocked waits until n connections wait for a lock.
func (s *site) untilBlocked(n int) {
	s.t.Helper()
	s.until(fmt.Sprintf("%d statements wait", n), func() bool {
		return read[int](s, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'`) >= n
	})
}

// raw sends bytes and reads what comes back until the server closes or falls
// silent. status is 0 where there was no answer.
func (s *site) raw(request string) (status int, answer string) {
	s.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.base, "http://"))
	if err != nil {
		s.t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, request); err != nil {
		return 0, "" // closed while we wrote
	}
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		return 0, ""
	}
	if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		s.t.Fatal(err)
	}
	all, _ := io.ReadAll(conn) // a reset ends it as well
	fmt.Sscanf(string(all), "HTTP/1.1 %d", &status)
	return status, string(all)
}
