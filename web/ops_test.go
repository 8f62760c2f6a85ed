package web

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"usher/internal/roster"
)

func opsForm(password string) url.Values { return url.Values{"password": {password}} }

func TestOpsIsClosedWithoutPassword(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(o *Options) { o.OpsPassword = "" })
	b := s.browser()
	for _, path := range []string{"/ops", "/ops/login", "/ops/sweeps", "/ops/sweeps/forget", "/ops/jobs", "/ops/jobs/", "/ops/jobs/api/states"} {
		if page := b.get(path); page.StatusCode != 403 {
			t.Errorf("%s: %d, want 403", path, page.StatusCode)
		}
	}
	for _, password := range []string{"", "x"} {
		if page := b.post("/ops/login", opsForm(password)); page.StatusCode != 403 || len(page.Cookies()) != 0 {
			t.Errorf("logging in with %q: %d", password, page.StatusCode)
		}
	}
	// A cookie sealed for an empty password opens nothing.
	sealed := s.server.Keys.Seal(purposeOps, s.server.opsCookieText(time.Now().Add(time.Hour)))
	if page := s.browser().get("/ops", "Cookie", opsCookie+"="+sealed); page.StatusCode != 403 {
		t.Errorf("with a cookie: %d", page.StatusCode)
	}
}

func TestOpsLogInAndOut(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.browser().stay()
	for _, path := range []string{"/ops", "/ops/sweeps", "/ops/sweeps/forget", "/ops/jobs", "/ops/jobs/", "/ops/jobs/jobs/1"} {
		if page := b.get(path); page.StatusCode != 303 || page.Header.Get("Location") != "/ops/login" {
			t.Errorf("%s: %d to %q", path, page.StatusCode, page.Header.Get("Location"))
		}
	}
	for _, path := range []string{"/ops/jobs/api/states", "/ops/jobs/api/jobs?limit=5"} {
		if page := b.get(path); page.StatusCode != 401 {
			t.Errorf("%s: %d, want 401", path, page.StatusCode)
		}
	}
	b.header["Accept"] = "application/json"
	b.post("/ops/jobs/api/jobs/cancel", nil).wantProblem(t, 401, "log_in_needed")
	b.header["Accept"] = "text/html"
	for _, wrong := range []string{"", "x", opsPassword + " ", strings.ToUpper(opsPassword)} {
		page := b.post("/ops/login", opsForm(wrong))
		if page.StatusCode != 422 || len(page.Cookies()) != 0 || strings.Contains(page.body, "open-sesame") {
			t.Errorf("password %q: %d", wrong, page.StatusCode)
		}
	}
	page := b.post("/ops/login", opsForm(opsPassword))
	if page.StatusCode != 303 || page.Header.Get("Location") != "/ops" || len(page.Cookies()) != 1 {
		t.Fatalf("the right password: %d %v", page.StatusCode, page.Header)
	}
	cookie := page.Cookies()[0]
	if !cookie.HttpOnly || cookie.SameSite != http.SameSiteLaxMode || cookie.Path != "/ops" ||
		time.Until(cookie.Expires) > opsSession || strings.Contains(cookie.Value, opsPassword) {
		t.Errorf("cookie is %s", cookie)
	}
	page = b.get("/ops")
	if page.StatusCode != 200 || !strings.Contains(page.body, "development mailbox") || page.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("the ops page: %d %v", page.StatusCode, page.Header)
	}
	s.invite(s.tenant, "ann@client.example")
	if page := b.get("/ops/jobs/api/jobs?state=available&limit=5"); page.StatusCode != 200 || !strings.Contains(page.body, "compose_mail") {
		t.Errorf("River UI's jobs: %d %s", page.StatusCode, page.body)
	}
	if page := b.get("/ops/jobs/"); page.StatusCode != 200 || !strings.Contains(page.body, "/ops/jobs") {
		t.Errorf("River UI: %d", page.StatusCode)
	}
	if page := b.post("/ops/logout", nil); page.StatusCode != 303 {
		t.Errorf("logging out: %d", page.StatusCode)
	}
	if page := b.get("/ops"); page.StatusCode != 303 {
		t.Errorf("after logging out: %d", page.StatusCode)
	}
}

func TestOpsRefusesOtherSites(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.browser().stay()
	b.post("/ops/login", opsForm(opsPassword))
	s.invite(s.tenant, "ann@client.example")
	before := s.everything()
	for _, header := range [][]string{{"Sec-Fetch-Site", "cross-site"}, {"Sec-Fetch-Site", "same-site"}, {"Origin", "https://evil.example"}} {
		for _, path := range []string{"/ops/login", "/ops/logout", "/ops/jobs/api/jobs/cancel", "/ops/jobs/api/jobs/delete"} {
			page := b.do(http.MethodPost, path, opsForm(opsPassword), header...)
			if page.StatusCode != 403 || len(page.Cookies()) != 0 {
				t.Errorf("%s with %q: %d, want 403", path, header, page.StatusCode)
			}
		}
	}
	if after := s.everything(); after != before {
		t.Errorf("refused posts changed:\n%s", changed(before, after))
	}
	// The same call from our own pages works.
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.base+"/ops/jobs/api/jobs/cancel", strings.NewReader(`{"ids":["1"]}`))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Sec-Fetch-Site", "same-origin")
	if r := s.send(b.client, req); r.StatusCode != 200 {
		t.Errorf("our own call: %d %s", r.StatusCode, r.body)
	}
	if state := read[string](s, `SELECT state::text FROM river_job`); state != "cancelled" {
		t.Errorf("the job is %s", state)
	}
}

func TestOpsIsThrottled(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.browser().stay()
	for try := range maxTries {
		if page := b.post("/ops/login", opsForm("wrong password")); page.StatusCode != 422 {
			t.Fatalf("try %d: %d", try+1, page.StatusCode)
		}
	}
	page := s.browser().stay().post("/ops/login", opsForm(opsPassword))
	if page.StatusCode != 429 || page.Header.Get("Retry-After") == "" || len(page.Cookies()) != 0 {
		t.Errorf("one try more: %d %v", page.StatusCode, page.Header)
	}
}

// TestTries takes the clock in hand, which the server does not.
func TestTries(t *testing.T) {
	t.Parallel()
	var tries tries
	now := time.Now()
	for range maxTries {
		if !tries.take(now) {
			t.Fatal("refused too early")
		}
	}
	if tries.take(now.Add(triesTime)) {
		t.Error("one too many was let through")
	}
	if !tries.take(now.Add(triesTime + time.Second)) {
		t.Error("refused after the rest")
	}
	for range maxTries {
		tries.take(now.Add(triesTime + time.Second))
	}
	tries.reset()
	if !tries.take(now.Add(triesTime + time.Second)) {
		t.Error("refused after a right password")
	}
}

// TestOpsPrefix: what only begins like the ops pages is no part of them.
func TestOpsPrefix(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.browser().stay()
	for _, path := range []string{"/opsx", "/ops/jobsx", "/ops/x", "/OPS", "/ops/", "/ops/login/", "/ix", "/i", "/i/"} {
		if page := b.get(path); page.StatusCode != 404 {
			t.Errorf("%s: %d to %q, want 404", path, page.StatusCode, page.Header.Get("Location"))
		}
	}
	b.post("/ops/login", opsForm(opsPassword))
	for _, path := range []string{"/ops/jobsx", "/ops/../ops/x"} {
		if page := b.get(path); page.StatusCode != 404 {
			t.Errorf("logged in, %s: %d, want 404", path, page.StatusCode)
		}
	}
}

func TestOpsCookie(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	seal := func(until time.Time) string { return s.server.Keys.Seal(purposeOps, s.server.opsCookieText(until)) }
	good := seal(time.Now().Add(time.Hour))
	other := &Server{Options: Options{OpsPassword: "another"}}
	text := s.server.opsCookieText(time.Now().Add(time.Hour))
	for name, test := range map[string]struct {
		cookie string
		status int
	}{
		"good":                  {good, 200},
		"over":                  {seal(time.Now().Add(-time.Second)), 303},
		"none":                  {"", 303},
		"longer life":           {"9" + good, 303},
		"cut off":               {good[:len(good)-1], 303},
		"without a seal":        {text, 303},
		"of another purpose":    {s.server.Keys.Seal("other", text), 303},
		"of another password":   {s.server.Keys.Seal(purposeOps, other.opsCookieText(time.Now().Add(time.Hour))), 303},
		"an invitation's token": {s.token(s.invite(s.tenant, "ann@client.example")), 303},
		"sealed nonsense":       {s.server.Keys.Seal(purposeOps, "never.x"), 303},
		"sealed with no end":    {s.server.Keys.Seal(purposeOps, "99999999999999999999."+strings.SplitN(text, ".", 2)[1]), 303},
	} {
		if page := s.browser().stay().get("/ops", "Cookie", opsCookie+"="+test.cookie); page.StatusCode != test.status {
			t.Errorf("a cookie that is %s: %d, want %d", name, page.StatusCode, test.status)
		}
	}
}

func TestOpsTellsBadDatabase(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.browser()
	b.post("/ops/login", opsForm(opsPassword))
	s.exec(`INSERT INTO usher_migration (version, name) VALUES (9999, 'later')`)
	if page := b.get("/ops"); page.StatusCode != 200 || !strings.Contains(page.body, "not ready") {
		t.Errorf("%d %s", page.StatusCode, page.body)
	}
}

// An operator sees what the clock did and does next, starts a sweep, and pauses
// one. Nobody else does.
func TestOpsSweeps(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	waiting := func() (jobs []string) {
		rows, err := s.pool.Query(t.Context(), `SELECT args::text FROM river_job WHERE kind = 'sweep'`)
		if err == nil {
			jobs, err = pgx.CollectRows(rows, pgx.RowTo[string])
		}
		if err != nil {
			t.Fatal(err)
		}
		return jobs
	}
	for path, form := range map[string]url.Values{"/ops/sweeps/forget/run": nil, "/ops/sweeps/forget/pause": {"hours": {"8"}}} {
		if page := s.browser().post(path, form); page.StatusCode != 401 {
			t.Errorf("%s without log-in: %d", path, page.StatusCode)
		}
	}
	b := s.browser().stay()
	b.post("/ops/login", opsForm(opsPassword))
	if page := b.post("/ops/sweeps/forget/run", nil, "Sec-Fetch-Site", "cross-site"); page.StatusCode != 403 {
		t.Errorf("from another site: %d", page.StatusCode)
	}
	if jobs := waiting(); len(jobs) != 0 {
		t.Errorf("jobs wait: %q", jobs)
	}
	page := b.get("/ops/sweeps")
	for _, name := range roster.SweepNames() {
		if page.StatusCode != 200 || !strings.Contains(page.body, name) {
			t.Errorf("%s is not on the page: %d", name, page.StatusCode)
		}
	}
	for range 2 {
		if page := b.post("/ops/sweeps/forget/run", nil); page.StatusCode != 303 || page.Header.Get("Location") != "/ops/sweeps?started=forget" {
			t.Errorf("run now: %d %s", page.StatusCode, page.body)
		}
	}
	if page := b.get("/ops/sweeps?started=forget"); !strings.Contains(page.body, "forget was started") {
		t.Errorf("started: %s", page.body)
	}
	if page := b.get("/ops/sweeps?started=Something+else"); strings.Contains(page.body, "Something else") {
		t.Error("the page says what its address says")
	}
	if jobs := waiting(); len(jobs) != 1 || !strings.Contains(jobs[0], `"by_hand": true`) || !strings.Contains(jobs[0], `"forget"`) {
		t.Errorf("jobs wait: %q", jobs)
	}
	if page := b.post("/ops/sweeps/forget/pause", url.Values{"hours": {"8"}}); page.StatusCode != 303 {
		t.Errorf("pause: %d %s", page.StatusCode, page.body)
	}
	if page := b.get("/ops/sweeps"); strings.Count(page.body, "Paused until") != 1 || !strings.Contains(page.body, "Go on") {
		t.Errorf("after the pause: %s", page.body)
	}
	if page := b.post("/ops/sweeps/forget/pause", nil); page.StatusCode != 303 {
		t.Errorf("go on: %d %s", page.StatusCode, page.body)
	}
	if page := b.get("/ops/sweeps"); strings.Contains(page.body, "Paused until") {
		t.Error("it is paused still")
	}
	for path, form := range map[string]url.Values{
		"/ops/sweeps/forget/pause": {"hours": {"9"}}, "/ops/sweeps/nothing/pause": {"hours": {"8"}}, "/ops/sweeps/nothing/run": nil, "/ops/sweeps/forget%00/run": nil,
	} {
		if page := b.post(path, form); page.StatusCode != 422 && page.StatusCode != 404 {
			t.Errorf("%s %v: %d", path, form, page.StatusCode)
		}
	}
	if page := b.get("/ops/sweeps/nothing"); page.StatusCode != 404 {
		t.Errorf("a sweep that is not there: %d", page.StatusCode)
	}
	s.exec(`INSERT INTO sweep_run (name, tick, started_at, finished_at, missed, scanned, acted, skipped) VALUES ('forget', now(), now(), now(), 2, 5, 3, '{"mailbox_budget": 2}')`)
	s.exec(`UPDATE sweep SET last_tick = (SELECT tick FROM sweep_run) WHERE name = 'forget'`)
	for _, path := range []string{"/ops/sweeps", "/ops/sweeps/forget"} {
		if page := b.get(path); !strings.Contains(page.body, "3 of 5 that were due; 2 mailbox budget") || !strings.Contains(page.body, "2 ticks were missed") {
			t.Errorf("%s: %s", path, page.body)
		}
	}
}
