package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Every kind of fault, before and after acceptance: what the client sees, and
// what it finds when it asks again with the same key.
func TestFaultKinds(t *testing.T) {
	t.Parallel()
	const keyed, timeLimit = "Idempotency-Key", 400 * time.Millisecond
	for _, tt := range []struct {
		fault    string
		status   int    // 0: no whole answer
		seen     string // in the body, or in the error
		accepted int
	}{
		{`{"kind":"html_502"}`, 502, "<html>", 0},
		{`{"kind":"html_502","when":"after"}`, 502, "<html>", 1},
		{`{"kind":"text_429"}`, 429, "Too Many Requests", 0},
		{`{"status":500}`, 500, "internal_server_error", 0},
		{`{"status":500,"when":"after"}`, 500, "internal_server_error", 1},
		{`{"kind":"slow","delay":"100ms"}`, 200, `"id"`, 1},
		{`{"kind":"slow","delay":"100ms","when":"after"}`, 200, `"id"`, 1},
		{`{"kind":"slow","delay":"2s","when":"after"}`, 0, "deadline", 1},
		{`{"kind":"timeout"}`, 0, "deadline", 0},
		{`{"kind":"timeout","when":"after"}`, 0, "deadline", 1},
		{`{"kind":"reset"}`, 0, "reset", 0},
		{`{"kind":"reset","when":"after"}`, 0, "reset", 1},
		{`{"kind":"eof"}`, 0, "EOF", 0},
		{`{"kind":"eof","when":"after"}`, 0, "EOF", 1},
		{`{"drop":true,"when":"after"}`, 0, "EOF", 1},
		{`{"kind":"truncated"}`, 0, "unexpected EOF", 1},
		{`{"kind":"no_id"}`, 200, "{}", 1},
	} {
		t.Run(tt.fault, func(t *testing.T) {
			t.Parallel()
			p := start(t)
			p.faults("[" + tt.fault + "]")
			ctx, cancel := context.WithTimeout(t.Context(), timeLimit)
			defer cancel()
			res, err := p.doContext(ctx, "POST", "/emails", good, keyed, "k")
			if errors.Is(err, syscall.ECONNRESET) != (tt.seen == "reset") {
				t.Errorf("error = %v", err)
			}
			status, seen := 0, fmt.Sprint(err)
			if err == nil {
				status, seen = res.StatusCode, res.body
			}
			if status != tt.status || !strings.Contains(seen, tt.seen) {
				t.Errorf("%d %s; want %d %s", status, seen, tt.status, tt.seen)
			}
			l := p.ledger()
			if l.Counters.Accepted != tt.accepted || len(l.Faults) != 1 || len(l.Faults[0].EmailIDs) != btoi(l.Faults[0].When == "after") ||
				l.Faults[0].Key != "k" || l.Faults[0].Request != 1 {
				t.Errorf("%d accepted, faults %+v", l.Counters.Accepted, l.Faults[0])
			}
			if strings.Contains(tt.fault, "2s") {
				if res := p.must("POST", "/emails", good, keyed, "k"); !strings.Contains(res.body, "concurrent_idempotent_requests") {
					t.Errorf("while in flight: %s", res.body)
				}
				return
			}
			if res := p.must("POST", "/emails", good, keyed, "k"); res.StatusCode != http.StatusOK || !strings.Contains(res.body, `"id"`) {
				t.Errorf("again: %s %s", res.Status, res.body)
			}
			if c := p.ledger().Counters; c.Accepted != 1 || c.Answered != 1 {
				t.Errorf("in the end: %+v", c)
			}
		})
	}
}

func btoi(b bool) int {
	if b {
		return 1
	}
	return 0
}

// A proxy's own 429 says nothing about Resend's limits.
func TestText429(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.admin("config", `{"rate":5}`)
	p.faults(`[{"kind":"text_429","when":"after"}]`)
	if res := p.must("POST", "/emails", good); res.StatusCode != 429 || res.Header.Get("ratelimit-limit") != "" || res.Header.Get("retry-after") != "" {
		t.Errorf("%s %v", res.Status, res.Header)
	}
}

func TestFaultMatches(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.faults(`[{"match":{"path":"/emails/batch"},"status":501},{"match":{"message_id":"m2"},"status":502,"when":"after"},
		{"match":{"message_id":"m3","to":"bob@b.dev"},"status":503}]`)
	tagged := func(id string) string { return with("tags", `[{"name":"message_id","value":"`+id+`"}]`) }
	for _, tt := range []struct {
		path, body string
		status     int
	}{
		{"/emails", tagged("m1"), 200},
		{"/emails/batch", "[" + tagged("m1") + "]", 501},
		{"/emails", tagged("m3"), 200},
		{"/emails/batch", "[" + tagged("m1") + "," + tagged("m2") + "]", 502},
		{"/emails", tagged("m2"), 200},
	} {
		if res := p.must("POST", tt.path, tt.body); res.StatusCode != tt.status {
			t.Errorf("%s %s: %s", tt.path, tt.body, res.Status)
		}
	}
}

// A listener that is down refuses connections and resets those it has; the
// admin's stay, and afterwards all is as before.
func TestDown(t *testing.T) {
	t.Parallel()
	p := startProcess(t, "")
	sender := &http.Client{Transport: &http.Transport{}} // its connections are not the admin's
	t.Cleanup(sender.CloseIdleConnections)
	send := func() error {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+"/emails", io.MultiReader(strings.NewReader(good)))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Authorization", "Bearer "+testKey)
		res, err := sender.Do(req)
		if err == nil {
			res.Body.Close()
		}
		return err
	}
	if err := send(); err != nil {
		t.Fatal(err)
	}
	// A connection is the admin's once a request said so; the waiter's did
	// before it waits.
	admin := &http.Client{Transport: &http.Transport{MaxConnsPerHost: 1}}
	t.Cleanup(admin.CloseIdleConnections)
	mails := func(query string) (string, error) {
		res, err := admin.Get(p.url + "/_admin/mails" + query)
		if err != nil {
			return "", err
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		return string(body), err
	}
	if _, err := mails(""); err != nil {
		t.Fatal(err)
	}
	var waiting sync.WaitGroup
	waiting.Go(func() {
		body, err := mails("?count=2&wait=30s")
		if err != nil || strings.Count(body, `"subject"`) != 2 {
			t.Errorf("who waited got %s, %v", body, err)
		}
	})
	p.faults(`[{"kind":"down","delay":"500ms"}]`)
	began := time.Now()
	if err := send(); !errors.Is(err, syscall.ECONNRESET) && !errors.Is(err, io.EOF) {
		t.Errorf("the request that brought it down: %v", err)
	}
	refused := 0
	for {
		err := send()
		if err == nil {
			break
		}
		if !errors.Is(err, syscall.ECONNREFUSED) || time.Since(began) > 10*time.Second {
			t.Fatalf("while down: %v", err)
		}
		refused++
		<-time.After(10 * time.Millisecond)
	}
	if took := time.Since(began); took < 400*time.Millisecond || refused == 0 {
		t.Errorf("up again after %s, %d refused", took, refused)
	}
	waiting.Wait()
	if l := p.ledger(); l.Counters.Accepted != 2 || len(l.Faults) != 1 || l.Faults[0].Kind != "down" {
		t.Errorf("ledger = %+v", l)
	}
}

func TestStopsWhileDown(t *testing.T) {
	t.Parallel()
	p := startProcess(t, "")
	p.faults(`[{"kind":"down","delay":"1m"}]`)
	if _, err := p.do("POST", "/emails", good); err == nil {
		t.Fatal("it answered")
	}
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Errorf("exit: %v", err)
	}
}

// After a kill -9 the stand-in knows what happened, and goes on with what did
// not happen yet: events, webhooks, suppressions, quotas, faults.
func TestJournalKeepsFates(t *testing.T) {
	t.Parallel()
	file, e := filepath.Join(t.TempDir(), "journal"), newEndpoint(t, secretOne)
	webhook := []string{"-webhook", e.URL, "-webhook-secret", secretOne}
	p := startProcess(t, file, webhook...)
	p.admin("config", `{"event_gap_ms":1}`)
	p.must("PUT", "/_admin/fates/ann@b.dev", `[{"after":"1ms","type":"email.sent"},{"after":"30h","type":"email.delivered"}]`)
	p.faults(`[{"status":500,"match":{"to":"x@b.dev"}}]`)
	p.must("POST", "/emails", to("x@b.dev"), "Idempotency-Key", "faulty")
	ann, hard := p.send(good), p.send(to("hard@fake.test"), "Idempotency-Key", "k")
	p.must("POST", "/emails", good, "Idempotency-Key", "k") // another payload
	p.must("POST", "/suppressions", `{"email":"gone@b.dev"}`)
	p.must("DELETE", "/suppressions/gone@b.dev", "")
	// sent, sent, bounced, and three about suppressions: taken, and known to be, or they are told again
	deadline := time.Now().Add(10 * time.Second)
	for strings.Count(p.must("GET", "/_admin/events", "").body, `"told":true`) < 6 && time.Now().Before(deadline) {
		<-time.After(time.Millisecond)
	}
	e.mu.Lock()
	e.failing = 1
	e.mu.Unlock()
	p.admin("events", fmt.Sprintf(`{"email_id":%q,"type":"email.opened"}`, ann)) // told to a deaf endpoint, then the process dies
	for {
		e.mu.Lock()
		heard := e.failing == 0
		e.mu.Unlock()
		if heard {
			break
		}
		<-time.After(time.Millisecond)
	}
	p.ledger()
	p.kill()

	p = startProcess(t, file, webhook...)
	for len(e.types(ann)) < 2 && time.Now().Before(deadline) {
		<-time.After(time.Millisecond)
	}
	if got := fmt.Sprint(e.types(ann)); got != "[sent opened]" {
		t.Errorf("told of ann: %s", got)
	}
	if res := p.must("GET", "/suppressions", ""); strings.Count(res.body, `"email"`) != 1 || !strings.Contains(res.body, hard) {
		t.Errorf("suppressions: %s", res.body)
	}
	l := p.ledger()
	if len(l.Faults) != 1 || l.Faults[0].Key != "faulty" || len(l.TwoHashes) != 1 || l.TwoHashes[0].Key != "k" || len(l.TwoHashes[0].Hashes) != 2 {
		t.Errorf("ledger = %+v", l)
	}
	if res := p.must("GET", "/emails/"+hard, ""); res.Header.Get("x-resend-daily-quota") != "2" || !strings.Contains(res.body, `"last_event":"bounced"`) {
		t.Errorf("hard: %v %s", res.Header, res.body)
	}
	p.admin("clock", `{"advance":"31h"}`)
	for len(e.types(ann)) < 3 && time.Now().Before(deadline) {
		<-time.After(time.Millisecond)
	}
	if got := fmt.Sprint(e.types(ann)); got != "[sent opened delivered]" {
		t.Errorf("told of ann a day later: %s", got)
	}
	if got := len(e.types("")); got != 8 {
		t.Errorf("%d told, want each of 8 once", got)
	}
}

func TestQuotas(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.admin("config", `{"daily_quota":5,"monthly_quota":7}`)
	try := func(body string, status int, name, daily, monthly string) {
		t.Helper()
		res := p.must("POST", "/emails/batch", body)
		h := res.Header
		if res.StatusCode != status || !strings.Contains(res.body, name) || h.Get("x-resend-daily-quota") != daily || h.Get("x-resend-monthly-quota") != monthly {
			t.Errorf("%s %s, daily %s, monthly %s; want %d %s, %s, %s", res.Status, res.body, h.Get("x-resend-daily-quota"), h.Get("x-resend-monthly-quota"), status, name, daily, monthly)
		}
	}
	one, three := "["+good+"]", "["+good+","+good+","+good+"]"
	p.toMonth(2) // far from its end
	try(three, 200, `"id"`, "3", "3")
	try(three, 429, "daily_quota_exceeded", "3", "3")
	try(one, 200, `"id"`, "4", "4")
	try(`[`+with("to", `["a@b.dev","c@b.dev"]`)+`]`, 429, "daily_quota_exceeded", "4", "4")
	p.admin("clock", `{"advance":"24h"}`)
	try(three, 200, `"id"`, "3", "7")
	try(one, 429, "monthly_quota_exceeded", "3", "7")
	p.toMonth(1)
	try(one, 200, `"id"`, "1", "1")
	if c := p.ledger().Counters; c.OverQuota != 3 || c.Rejected429 != 0 || c.Accepted != 8 {
		t.Errorf("counters = %+v", c)
	}
}

// toMonth advances the clock to a day of the next month.
func (p *provider) toMonth(day int) {
	p.t.Helper()
	p.mu.Lock()
	now := p.now()
	p.mu.Unlock()
	then := time.Date(now.Year(), now.Month()+1, day, 1, 0, 0, 0, time.UTC)
	p.admin("clock", fmt.Sprintf(`{"advance":%q}`, then.Sub(now)))
}

// Whether a refused request holds its key is a switch: with it, the key
// repeats the refusal, and another payload conflicts.
func TestHoldFailedKeys(t *testing.T) {
	t.Parallel()
	bad := with("to", `"nobody"`)
	for hold, want := range map[bool][]int{false: {422, 422, 200, 200}, true: {422, 422, 409, 422}} {
		p := start(t)
		p.admin("config", fmt.Sprintf(`{"hold_failed_keys":%t}`, hold))
		var got []int
		for _, body := range []string{bad, bad, good} {
			got = append(got, p.must("POST", "/emails", body, "Idempotency-Key", "k").StatusCode)
		}
		last := bad
		if !hold {
			last = good
		}
		got = append(got, p.must("POST", "/emails", last, "Idempotency-Key", "k").StatusCode)
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("hold %t: %v, want %v", hold, got, want)
		}
		if n := len(p.ledger().TwoHashes); n != 1 {
			t.Errorf("hold %t: %d keys with two hashes, want 1", hold, n)
		}
	}
}

// How far a key reaches is a switch.
func TestKeyScope(t *testing.T) {
	t.Parallel()
	for scope, want := range map[string]int{"endpoint": 200, "team": 409} {
		p := start(t)
		p.admin("config", fmt.Sprintf(`{"key_scope":%q}`, scope))
		p.send(good, "Idempotency-Key", "k")
		if res := p.must("POST", "/emails/batch", "["+good+"]", "Idempotency-Key", "k"); res.StatusCode != want {
			t.Errorf("%s: %s", scope, res.Status)
		}
	}
}

// Latencies lie in their range and are the same for the same seed.
func TestLatency(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.admin("config", `{"latency_ms":[30,60]}`)
	low, high := time.Hour, time.Duration(0)
	for n := range 200 {
		d := p.latency(&call{number: n})
		if d != p.latency(&call{number: n}) {
			t.Fatalf("request %d has two latencies", n)
		}
		low, high = min(low, d), max(high, d)
	}
	if low < 30*time.Millisecond || low > 33*time.Millisecond || high > 60*time.Millisecond || high < 57*time.Millisecond {
		t.Errorf("latencies from %s to %s", low, high)
	}
	began := time.Now()
	p.must("POST", "/emails", good)
	if took := time.Since(began); took < 30*time.Millisecond {
		t.Errorf("answered after %s", took)
	}
}
