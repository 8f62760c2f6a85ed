package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/resend/resend-go/v2" //nolint:depguard // the official client is the judge of the stand-in
)

const (
	secretOne = "whsec_b25lIG9uZSBvbmU="
	secretTwo = "whsec_dHdvIHR3byB0d28="
)

// endpoint is an application's webhook: it takes what the official client's
// check takes, and refuses the rest.
type endpoint struct {
	*httptest.Server
	mu       sync.Mutex
	took     []hookRequest
	refused  int
	failing  int // answers 500 this often first
	onArrive func()
}

type hookRequest struct {
	id, raw string
	Type    string         `json:"type"`
	Created time.Time      `json:"created_at"`
	Data    map[string]any `json:"data"`
}

func newEndpoint(t *testing.T, secret string) *endpoint {
	t.Helper()
	verify := resend.NewCustomClient(http.DefaultClient, "").Webhooks
	e := &endpoint{}
	e.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		err := verify.Verify(&resend.VerifyWebhookOptions{Payload: string(body), WebhookSecret: secret, Headers: resend.WebhookHeaders{
			Id: r.Header.Get("svix-id"), Timestamp: r.Header.Get("svix-timestamp"), Signature: r.Header.Get("svix-signature"),
		}})
		e.mu.Lock()
		defer e.mu.Unlock()
		if e.onArrive != nil {
			e.onArrive()
		}
		if err != nil {
			e.refused++
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		if e.failing > 0 {
			e.failing--
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		got := hookRequest{id: r.Header.Get("svix-id"), raw: string(body)}
		if err := json.Unmarshal(body, &got); err != nil {
			t.Errorf("webhook %s: %v", body, err)
		}
		e.took = append(e.took, got)
	}))
	t.Cleanup(e.Close)
	return e
}

// types are those of the events taken about a mail, or of all, in order.
func (e *endpoint) types(emailID string) []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	var list []string
	for _, r := range e.took {
		if emailID == "" || r.Data["email_id"] == emailID {
			list = append(list, strings.TrimPrefix(r.Type, "email."))
		}
	}
	return list
}

// hook points the stand-in at an endpoint, with settings in JSON besides.
func (p *provider) hook(e *endpoint, settings string) {
	p.t.Helper()
	if settings != "" {
		settings = "," + settings
	}
	p.admin("config", fmt.Sprintf(`{"event_gap_ms":5,"webhook":{"url":%q,"secrets":[%q]%s}}`, e.URL, secretOne, settings))
}

// quiet waits until nothing is left to happen, and returns the events.
func (p *provider) quiet() []event {
	p.t.Helper()
	list := decode[[]event](p.t, p.must("GET", "/_admin/events?quiet=true&wait=20s", "").body)
	if p.must("GET", "/_admin/events?type=none&quiet=true", "").body != "[]\n" {
		p.t.Fatal("events: want none of that type")
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.busy != 0 || len(p.agenda) != 0 {
		p.t.Fatalf("not quiet: %d busy, %d on the agenda", p.busy, len(p.agenda))
	}
	return list
}

func to(address string) string {
	return with("to", fmt.Sprintf("%q", address))
}

func (p *provider) send(body string, headers ...string) string {
	p.t.Helper()
	res := p.must("POST", "/emails", body, headers...)
	if res.StatusCode != http.StatusOK {
		p.t.Fatalf("send: %s %s", res.Status, res.body)
	}
	return decode[map[string]string](p.t, res.body)["id"]
}

func TestWebhookData(t *testing.T) {
	t.Parallel()
	p, e := start(t), newEndpoint(t, secretOne)
	p.hook(e, "")
	id := p.send(`{"from":"Acme <mail@acme.dev>","to":"hard@fake.test","subject":"Hi","text":"x","headers":{"X-A":"b"},"tags":[{"name":"message_id","value":"m1"},{"name":"app","value":"acme"}]}`)
	events := p.quiet()
	took := map[string]hookRequest{}
	for _, r := range e.took {
		took[r.Type] = r
	}
	b := took["email.bounced"]
	if b.Created.IsZero() || b.Data["email_id"] != id || b.Data["message_id"] != "<"+id+"@fakeresend.test>" || b.Data["from"] != "Acme <mail@acme.dev>" ||
		fmt.Sprint(b.Data["to"]) != "[hard@fake.test]" || b.Data["subject"] != "Hi" || fmt.Sprint(b.Data["tags"]) != "map[app:acme message_id:m1]" ||
		fmt.Sprint(b.Data["headers"]) != "[map[name:X-A value:b]]" {
		t.Errorf("data = %v", b.Data)
	}
	if got := fmt.Sprint(b.Data["bounce"]); got != "map[diagnosticCode:[smtp; 550 5.1.1 user unknown] message:The recipient's mail server answered: smtp; 550 5.1.1 user unknown subType:NoEmail type:Permanent]" {
		t.Errorf("bounce = %s", got)
	}
	if a := took["suppression.added"].Data; a["email"] != "hard@fake.test" || a["origin"] != "bounce" || a["source_id"] != id {
		t.Errorf("suppression = %v", a)
	}
	if len(events) != 3 {
		t.Errorf("%d events", len(events))
	}
	for _, ev := range events {
		if !ev.Told || len(ev.Attempts) != 1 || ev.Attempts[0].Status != 200 {
			t.Errorf("event = %+v", ev)
		}
	}
}

// During a rotation both secrets sign; either alone is enough to check.
func TestWebhookRotation(t *testing.T) {
	t.Parallel()
	for _, secret := range []string{secretOne, secretTwo} {
		p, e := start(t), newEndpoint(t, secret)
		p.admin("config", fmt.Sprintf(`{"event_gap_ms":1,"webhook":{"url":%q,"secrets":[%q,%q]}}`, e.URL, secretOne, secretTwo))
		p.send(good)
		p.quiet()
		if got := fmt.Sprint(slices.Sorted(slices.Values(e.types("")))); got != "[delivered sent]" || e.refused != 0 {
			t.Errorf("with %s: %s, %d refused", secret, got, e.refused)
		}
	}
}

// An endpoint that fails is asked again on Resend's ladder, seven times; one
// that comes back gets everything.
func TestWebhookRetries(t *testing.T) {
	t.Parallel()
	p, e := start(t), newEndpoint(t, secretOne)
	p.hook(e, `"retry_scale":0.00001`)
	e.failing = 3
	p.send(good)
	for _, ev := range p.quiet() {
		if !ev.Told {
			t.Errorf("not told: %+v", ev)
		}
	}
	if got := slices.Sorted(slices.Values(e.types(""))); fmt.Sprint(got) != "[delivered sent]" {
		t.Errorf("took %v", got)
	}

	p.admin("config", `{"webhook":{"retry_scale":1}}`)
	e.failing = 1000
	id := p.send(good)
	attempts := func() int { // at both events
		var counts []int
		for _, ev := range decode[[]event](t, p.must("GET", "/_admin/events", "").body) {
			if ev.EmailID == id {
				counts = append(counts, len(ev.Attempts))
			}
		}
		if len(counts) < 2 || counts[0] != counts[1] {
			return 0
		}
		return counts[0]
	}
	total := time.Duration(0)
	for n := 1; n <= len(ladder); n++ {
		deadline := time.Now().Add(10 * time.Second)
		for attempts() < n && time.Now().Before(deadline) {
			<-time.After(time.Millisecond) // there is nothing to wait for but the count
		}
		if got := attempts(); got != n {
			t.Fatalf("after %s: %d attempts, want %d", total, got, n)
		}
		if n < len(ladder) {
			total += ladder[n]
			p.admin("clock", fmt.Sprintf(`{"advance":%q}`, ladder[n]+time.Second))
		}
	}
	p.quiet() // nothing comes after the last
}

// Every mishap, and what an endpoint that checks sees of it.
func TestWebhookMishaps(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		settings string
		want     string // types taken, sorted
		refused  int
	}{
		{`"duplicate":1`, "delivered delivered sent sent", 0},
		{`"drop":1`, "", 0},
		{`"reorder":1`, "delivered sent", 0},
		{`"delay":1,"delay_ms":[20,30]`, "delivered sent", 0},
		{`"bad_signature":1`, "delivered sent", 2},
		{`"stale_signature":1`, "delivered sent", 2},
		{`"foreign":1`, "delivered delivered sent sent", 0},
		{`"unknown_type":1`, "delivered sent teleported teleported", 0},
		{`"unknown_fields":1`, "delivered sent", 0},
		{`"before_answer":1`, "delivered sent", 0},
	} {
		t.Run(tt.settings, func(t *testing.T) {
			t.Parallel()
			p, e := start(t), newEndpoint(t, secretOne)
			p.hook(e, tt.settings)
			id := p.send(good)
			p.quiet()
			if got := strings.Join(slices.Sorted(slices.Values(e.types(""))), " "); got != tt.want || e.refused != tt.refused {
				t.Errorf("took %q, refused %d; want %q, %d", got, e.refused, tt.want, tt.refused)
			}
			if n := p.ledger().Counters.ForgeriesTaken; n != 0 {
				t.Errorf("%d forgeries taken", n)
			}
			switch ids := map[string]bool{}; {
			case strings.Contains(tt.settings, "duplicate"):
				for _, r := range e.took {
					ids[r.id] = true
				}
				if len(ids) != 2 {
					t.Errorf("%d ids for two events told twice", len(ids))
				}
			case strings.Contains(tt.settings, "reorder"):
				if got := fmt.Sprint(e.types("")); got != "[delivered sent]" {
					t.Errorf("order = %s", got)
				}
			case strings.Contains(tt.settings, "foreign"):
				if n := len(e.types(id)); n != 2 {
					t.Errorf("%d of our mail, want 2 of 4", n)
				}
			case strings.Contains(tt.settings, "unknown_fields"):
				if !strings.Contains(e.took[0].raw, `"flavour"`) || e.took[0].Data["sent_by_pigeon"] != true {
					t.Errorf("body = %s", e.took[0].raw)
				}
			}
		})
	}
}

// A forgery that the endpoint takes is counted against it.
func TestForgeryTaken(t *testing.T) {
	t.Parallel()
	p := start(t)
	trusting := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	t.Cleanup(trusting.Close)
	p.admin("config", fmt.Sprintf(`{"event_gap_ms":1,"webhook":{"url":%q,"secrets":[%q],"bad_signature":1,"stale_signature":1}}`, trusting.URL, secretOne))
	p.send(good)
	p.quiet()
	if n := p.ledger().Counters.ForgeriesTaken; n != 4 {
		t.Errorf("%d forgeries taken, want 4", n)
	}
}

// An event can be there before the answer that its mail was accepted.
func TestWebhookBeforeAnswer(t *testing.T) {
	t.Parallel()
	p, e := start(t), newEndpoint(t, secretOne)
	p.hook(e, `"before_answer":1`)
	p.admin("config", `{"event_gap_ms":60000}`) // the rest is far away
	var batch []string
	for i := range 30 {
		batch = append(batch, to(fmt.Sprintf("p%d@b.dev", i)))
	}
	if res := p.must("POST", "/emails/batch", "["+strings.Join(batch, ",")+"]"); res.StatusCode != http.StatusOK {
		t.Fatal(res.body)
	}
	if n := len(e.types("")); n != 30 {
		t.Errorf("%d events before the answer, want 30", n)
	}
}

func TestReplayOfEarlierEvents(t *testing.T) {
	t.Parallel()
	p, e := start(t), newEndpoint(t, secretOne)
	p.hook(e, "")
	p.send(good)
	p.quiet()
	p.hook(e, `"replay":1`)
	for range 8 {
		p.send(good)
		p.quiet()
	}
	ids := map[string]int{}
	for _, r := range e.took {
		ids[r.id]++
	}
	if len(ids) != 18 || len(e.took) == 18 {
		t.Errorf("%d requests with %d ids, want more than 18 with 18", len(e.took), len(ids))
	}
}

// With hold, tests decide what is told when, and in which order.
func TestDeliverOnRequest(t *testing.T) {
	t.Parallel()
	p, e := start(t), newEndpoint(t, secretOne)
	p.hook(e, `"hold":true`)
	id := p.send(to("ooo@fake.test"))
	events := p.quiet()
	if len(events) != 3 || len(e.took) != 0 {
		t.Fatalf("%d events, %d told", len(events), len(e.took))
	}
	ids := fmt.Sprintf(`{"ids":[%q,%q,%q,%q]}`, events[2].ID, events[0].ID, events[1].ID, events[0].ID)
	if res := p.must("POST", "/_admin/deliver", ids); res.body != "{\"statuses\":[200,200,200,200]}\n" {
		t.Errorf("deliver: %s", res.body)
	}
	if got := fmt.Sprint(e.types(id)); got != "[bounced sent delivered sent]" {
		t.Errorf("order = %s", got)
	}
	p.admin("events", fmt.Sprintf(`{"email_id":%q,"type":"email.opened"}`, id))
	if events = p.quiet(); len(events) != 4 || events[3].Type != "email.opened" || events[3].Told {
		t.Errorf("events = %+v", events)
	}
	for path, body := range map[string]string{"deliver": `{"ids":["msg_none"]}`, "events": `{"email_id":"none","type":"email.opened"}`} {
		if res := p.must("POST", "/_admin/"+path, body); res.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, res.Status)
		}
	}
}

// The same seed brings the same mishaps, another one others.
func TestSeed(t *testing.T) {
	t.Parallel()
	run := func(seed int) string {
		p := start(t)
		p.admin("config", fmt.Sprintf(`{"seed":%d}`, seed))
		p.faults(`[{"probability":0.3,"status":500},{"probability":0.3,"kind":"eof","when":"after"}]`)
		var got strings.Builder
		for range 40 {
			res, err := p.do("POST", "/emails", good)
			if err != nil {
				got.WriteString("x")
				continue
			}
			got.WriteString(res.Status[:1])
		}
		return got.String()
	}
	one, again, two := run(1), run(1), run(2)
	if one != again || one == two {
		t.Errorf("seed 1: %s, again %s; seed 2: %s", one, again, two)
	}
	for _, kind := range []string{"2", "5", "x"} {
		if n := strings.Count(one, kind); n < 4 || n > 30 {
			t.Errorf("%d of 40 are %s", n, kind)
		}
	}
}
