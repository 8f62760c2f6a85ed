package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/resend/resend-go/v2" //nolint:depguard // the official client is the judge of the stand-in
)

const testKey = "re_test_server"

// provider is a stand-in behind a real listener, without limit and latency.
type provider struct {
	*server
	url string
	t   testing.TB
}

func testOptions() options {
	o := options{APIKey: testKey, Config: defaults()}
	o.Config.Rate, o.Config.LatencyMS = 0, [2]float64{}
	return o
}

func start(t *testing.T) *provider {
	t.Helper()
	s, err := newServer(testOptions(), "")
	if err != nil {
		t.Fatal(err)
	}
	ts := httptest.NewServer(s.handler())
	t.Cleanup(ts.Close)
	t.Cleanup(s.stop) // first: it frees who waits
	return &provider{s, ts.URL, t}
}

// response is an answer read to its end.
type response struct {
	*http.Response
	body string
}

// do sends a request as a well-behaved client would, unless headers, given as
// name and value in turn, say otherwise. An empty value omits the header.
func (p *provider) do(method, path, body string, headers ...string) (response, error) {
	return p.doContext(context.WithoutCancel(p.t.Context()), method, path, body, headers...)
}

func (p *provider) doContext(ctx context.Context, method, path, body string, headers ...string) (response, error) {
	req, err := http.NewRequestWithContext(ctx, method, p.url+path, strings.NewReader(body))
	if err != nil {
		return response{}, err
	}
	req.Header.Set("Authorization", "Bearer "+testKey)
	req.Header.Set("User-Agent", "test")
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	req.GetBody = nil // so that net/http does not repeat a dropped request by itself
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return response{}, err
	}
	defer res.Body.Close()
	data, err := io.ReadAll(res.Body)
	return response{res, string(data)}, err
}

func (p *provider) must(method, path, body string, headers ...string) response {
	p.t.Helper()
	res, err := p.do(method, path, body, headers...)
	if err != nil {
		p.t.Fatal(err)
	}
	return res
}

// admin posts to the admin and wants 200.
func (p *provider) admin(path, body string) {
	p.t.Helper()
	if res := p.must("POST", "/_admin/"+path, body); res.StatusCode != http.StatusOK {
		p.t.Fatalf("%s: %s %s", path, res.Status, res.body)
	}
}

// faults sets the failures to come.
func (p *provider) faults(list string) {
	p.t.Helper()
	if res := p.must("PUT", "/_admin/faults", list); res.StatusCode != http.StatusOK {
		p.t.Fatalf("%s: %s %s", list, res.Status, res.body)
	}
}

func (p *provider) ledger() ledger {
	p.t.Helper()
	return decode[ledger](p.t, p.must("GET", "/_admin/ledger", "").body)
}

func (p *provider) client() *resend.Client {
	c := resend.NewCustomClient(http.DefaultClient, testKey)
	c.BaseURL, _ = url.Parse(p.url + "/")
	return c
}

func decode[T any](t testing.TB, s string) T {
	t.Helper()
	var v T
	if err := json.Unmarshal([]byte(s), &v); err != nil {
		t.Fatalf("decode %q: %v", s, err)
	}
	return v
}

// with is a good mail with one field set to a JSON value, or without it if
// the value is empty.
func with(field, value string) string {
	m := map[string]json.RawMessage{
		"from": []byte(`"Acme <mail@acme.dev>"`), "to": []byte(`["ann@b.dev"]`), "subject": []byte(`"Hello"`), "text": []byte(`"Hi"`),
	}
	delete(m, field)
	if value != "" {
		m[field] = []byte(value)
	}
	return string(mustJSON(m))
}

var good = with("", "")

func TestPipelineAnswers(t *testing.T) {
	t.Parallel()
	list := func(n int, item string) string { return "[" + strings.Join(repeat(n, item), ",") + "]" }
	for _, tt := range []struct {
		name         string
		method, path string
		body         string
		headers      []string
		status       int
		error        string // name in the body
		message      string // part of it
	}{
		{name: "no authorization", headers: []string{"Authorization", ""}, status: 401, error: "missing_api_key"},
		{name: "no bearer", headers: []string{"Authorization", testKey}, status: 401, error: "missing_api_key"},
		{name: "other key", headers: []string{"Authorization", "Bearer re_other"}, status: 403, error: "invalid_api_key"},
		{name: "unknown path", path: "/domains", status: 404, error: "not_found"},
		{name: "path too deep", path: "/emails/a/b", status: 404, error: "not_found"},
		{name: "root", path: "/", status: 404, error: "not_found"},
		{name: "wrong method", method: "PATCH", status: 405, error: "method_not_allowed"},
		{name: "wrong method on batch", method: "GET", path: "/emails/batch", status: 405, error: "method_not_allowed"},
		{name: "no uuid", method: "GET", path: "/emails/x", status: 422, error: "validation_error"},
		{name: "unknown id", method: "GET", path: "/emails/49a3999c-0ce1-4ea6-ab68-afcd6dc2e794", status: 404, error: "not_found"},
		{name: "empty body", body: " ", status: 400, error: "validation_error"},
		{name: "half a body", body: good[:20], status: 400, error: "validation_error"},
		{name: "list", body: list(1, good), status: 422, error: "validation_error"},
		{name: "too large", body: strings.Repeat(" ", maxBody+1), status: 413, error: "validation_error"},
		{name: "key empty", headers: []string{"Idempotency-Key", ""}, status: 400, error: "invalid_idempotency_key"},
		{name: "key too long", headers: []string{"Idempotency-Key", strings.Repeat("k", 257)}, status: 400, error: "invalid_idempotency_key"},
		{name: "key as long as may be", headers: []string{"Idempotency-Key", strings.Repeat("k", 256)}, status: 200},

		{name: "no from", body: with("from", ""), status: 422, error: "missing_required_field", message: "`from`"},
		{name: "no to", body: with("to", ""), status: 422, error: "missing_required_field", message: "`to`"},
		{name: "to null", body: with("to", "null"), status: 422, error: "missing_required_field", message: "`to`"},
		{name: "to nobody", body: with("to", "[]"), status: 422, error: "missing_required_field", message: "`to`"},
		{name: "no subject", body: with("subject", ""), status: 422, error: "missing_required_field", message: "`subject`"},
		{name: "no content", body: with("text", ""), status: 422, error: "missing_required_field", message: "`html` or `text`"},
		{name: "to a number", body: with("to", "5"), status: 422, error: "validation_error", message: "`to`"},
		{name: "to a list of numbers", body: with("to", "[5]"), status: 422, error: "validation_error", message: "`to`"},
		{name: "subject a number", body: with("subject", "5"), status: 422, error: "validation_error", message: "`subject`"},
		{name: "subject with a line break", body: with("subject", `"a\nBcc: x@y.dev"`), status: 422, error: "validation_error", message: "`subject`"},
		{name: "from without a domain", body: with("from", `"acme"`), status: 422, error: "validation_error", message: "`from`"},
		{name: "to without a domain", body: with("to", `["ann"]`), status: 422, error: "validation_error", message: "`to`"},
		{name: "to two in one", body: with("to", `["a@b.dev, c@d.dev"]`), status: 422, error: "validation_error", message: "`to`"},
		{name: "to 50", body: with("to", list(50, `"a@b.dev"`)), status: 200},
		{name: "to 51", body: with("to", list(51, `"a@b.dev"`)), status: 422, error: "validation_error", message: "`to`"},
		{name: "to a string", body: with("to", `"Ann <ann@b.dev>"`), status: 200},
		{name: "to example.com", body: with("to", `["ann@Example.com"]`), status: 422, error: "validation_error", message: "`example.com`"},
		{name: "cc test.com", body: with("cc", `"ann@test.com"`), status: 422, error: "validation_error", message: "`test.com`"},
		{name: "reply to a string", body: with("reply_to", `"help@acme.dev"`), status: 200},
		{name: "tag with a space", body: with("tags", `[{"name":"a","value":"b c"}]`), status: 422, error: "validation_error", message: "`tags`"},
		{name: "tag too long", body: with("tags", `[{"name":"a","value":"`+strings.Repeat("b", 257)+`"}]`), status: 422, error: "validation_error", message: "`tags`"},
		{name: "75 tags", body: with("tags", list(75, `{"name":"a","value":"b"}`)), status: 200},
		{name: "76 tags", body: with("tags", list(76, `{"name":"a","value":"b"}`)), status: 422, error: "validation_error", message: "`tags`"},
		{name: "header with a line break", body: with("headers", `{"X-A":"b\r\nc"}`), status: 422, error: "validation_error", message: "`headers`"},
		{name: "header with a space", body: with("headers", `{"X A":"b"}`), status: 422, error: "validation_error", message: "`headers`"},
		{name: "scheduled", body: with("scheduled_at", `"in 1 hour"`), status: 422, error: "validation_error", message: "`scheduled_at`"},
		{name: "attachment", body: with("attachments", `[{"filename":"a","content":"aGk="},{"filename":"b","content":[104,105]},{"filename":"c","path":"https://x.dev/c"}]`), status: 200},
		{name: "attachment without content", body: with("attachments", `[{"filename":"a"}]`), status: 422, error: "invalid_attachment"},
		{name: "attachment not base64", body: with("attachments", `[{"filename":"a","content":"!"}]`), status: 422, error: "invalid_attachment"},
		{name: "unknown field", body: with("whatever", `1`), status: 200},

		{name: "batch no list", path: "/emails/batch", status: 422, error: "validation_error"},
		{name: "batch empty", path: "/emails/batch", body: "[]", status: 422, error: "validation_error"},
		{name: "batch of 100", path: "/emails/batch", body: list(100, good), status: 200},
		{name: "batch of 101", path: "/emails/batch", body: list(101, good), status: 422, error: "validation_error"},
		{name: "batch with attachment", path: "/emails/batch", body: list(1, with("attachments", `[{"content":"aGk="}]`)), status: 422, error: "validation_error", message: "`attachments`"},
		{name: "batch mode", path: "/emails/batch", body: list(1, good), headers: []string{"x-batch-validation", "lax"}, status: 422, error: "validation_error"},
		{name: "batch strict", path: "/emails/batch", body: "[" + good + "," + with("to", "") + "]", headers: []string{"x-batch-validation", "strict"}, status: 422, error: "missing_required_field", message: "`to`"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p := start(t)
			if tt.method == "" {
				tt.method = "POST"
			}
			if tt.path == "" {
				tt.path = "/emails"
			}
			if tt.body == "" {
				tt.body = good
			}
			res := p.must(tt.method, tt.path, tt.body, tt.headers...)
			if res.StatusCode != tt.status || res.Header.Get("Content-Type") != "application/json" {
				t.Fatalf("%s %s: %.300s; want %d", res.Status, res.Header.Get("Content-Type"), res.body, tt.status)
			}
			accepted := p.ledger().Counters.Accepted
			if tt.status == http.StatusOK {
				if accepted == 0 {
					t.Error("answered 200 and accepted nothing")
				}
				return
			}
			if accepted != 0 {
				t.Errorf("refused, and accepted %d mails", accepted)
			}
			got := decode[map[string]any](t, res.body)
			if len(got) != 3 || got["statusCode"] != float64(tt.status) || got["name"] != tt.error || !strings.Contains(got["message"].(string), tt.message) {
				t.Errorf("body = %s; want statusCode %d, name %s, message with %q", res.body, tt.status, tt.error, tt.message)
			}
		})
	}
}

func repeat(n int, s string) []string {
	list := make([]string, n)
	for i := range list {
		list[i] = s
	}
	return list
}

func TestNoUserAgent(t *testing.T) {
	t.Parallel()
	p := start(t)
	res := p.must("POST", "/emails", good, "User-Agent", "", "Authorization", "")
	if res.StatusCode != http.StatusForbidden || res.body != "error code: 1010" {
		t.Errorf("%s %s", res.Status, res.body)
	}
}

func TestChunkedBody(t *testing.T) {
	t.Parallel()
	p := start(t)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, p.url+"/emails", io.MultiReader(strings.NewReader(good[:9]), strings.NewReader(good[9:])))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+testKey)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if req.ContentLength != 0 || res.StatusCode != http.StatusOK {
		t.Errorf("length %d: %s", req.ContentLength, res.Status)
	}
}

func TestSendAndGet(t *testing.T) {
	t.Parallel()
	p := start(t)
	c := p.client()
	sent, err := c.Emails.SendWithOptions(t.Context(), &resend.SendEmailRequest{
		From: "Acme <mail@acme.dev>", To: []string{"Ann <ann@b.dev>"}, Cc: []string{"cc@b.dev"}, ReplyTo: "help@acme.dev",
		Subject: "Hello <you> & me", Html: "<p>Hi</p>", Text: "Hi", Headers: map[string]string{"Auto-Submitted": "auto-generated"},
		Tags:        []resend.Tag{{Name: "message_id", Value: "m1"}},
		Attachments: []*resend.Attachment{{Filename: "a.txt", Content: []byte("hello")}},
	}, &resend.SendEmailOptions{IdempotencyKey: "k1"})
	if err != nil {
		t.Fatal(err)
	}
	got, err := c.Emails.GetWithContext(t.Context(), sent.Id)
	if err != nil || got.Subject != "Hello <you> & me" || got.To[0] != "Ann <ann@b.dev>" || got.LastEvent != "queued" || got.CreatedAt == "" {
		t.Errorf("get = %+v, %v", got, err)
	}
	mails := decode[[]email](t, p.must("GET", "/_admin/mails?to=ANN@b.dev", "").body)
	if len(mails) != 1 {
		t.Fatalf("%d mails to ann", len(mails))
	}
	m := mails[0]
	if m.ID != sent.Id || m.HTML.String() != "<p>Hi</p>" || m.Text.String() != "Hi" || m.ReplyTo[0] != "help@acme.dev" || m.Headers["Auto-Submitted"] != "auto-generated" ||
		m.messageID() != "m1" || m.IdempotencyKey != "k1" || m.Attachments[0] != (attachment{"a.txt", "", 5}) || !m.Answered || time.Since(m.AcceptedAt) > time.Minute {
		t.Errorf("mail = %+v", m)
	}
	for query, n := range map[string]int{"cc@b.dev": 1, "an@b.dev": 0, "": 1} {
		if mails := decode[[]email](t, p.must("GET", "/_admin/mails?to="+query, "").body); len(mails) != n {
			t.Errorf("%d mails to %q, want %d", len(mails), query, n)
		}
	}
}

func TestBatchPermissive(t *testing.T) {
	t.Parallel()
	p := start(t)
	mail := func(to string) *resend.SendEmailRequest {
		return &resend.SendEmailRequest{From: "a@acme.dev", To: []string{to}, Subject: "s", Text: "t"}
	}
	emails := []*resend.SendEmailRequest{mail("one@b.dev"), mail("nobody"), mail("three@b.dev")}
	res, err := p.client().Batch.SendWithOptions(t.Context(), emails, &resend.BatchSendEmailOptions{BatchValidation: resend.BatchValidationPermissive, IdempotencyKey: "k"})
	if err != nil {
		t.Fatal(err)
	}
	if len(res.Data) != 2 || len(res.Errors) != 1 || res.Errors[0].Index != 1 || !strings.Contains(res.Errors[0].Message, "`to`") {
		t.Fatalf("%+v", res)
	}
	for i, to := range []string{"one@b.dev", "three@b.dev"} {
		if mails := decode[[]email](t, p.must("GET", "/_admin/mails?to="+to, "").body); len(mails) != 1 || mails[0].ID != res.Data[i].Id {
			t.Errorf("id %d is not that of %s", i, to)
		}
	}
	again, err := p.client().Batch.SendWithOptions(t.Context(), emails, &resend.BatchSendEmailOptions{BatchValidation: resend.BatchValidationPermissive, IdempotencyKey: "k"})
	if err != nil || fmt.Sprint(again) != fmt.Sprint(res) {
		t.Errorf("replay = %+v, %v; want %+v", again, err, res)
	}
	if n := p.ledger().Counters.Accepted; n != 2 {
		t.Errorf("%d accepted, want 2", n)
	}
}

func TestIdempotency(t *testing.T) {
	t.Parallel()
	p := start(t)
	send := func(path, key, body string) response { return p.must("POST", path, body, "Idempotency-Key", key) }

	first := send("/emails", "k1", good)
	if again := send("/emails", "k1", good); again.StatusCode != http.StatusOK || again.body != first.body {
		t.Errorf("replay: %s %s; want %s", again.Status, again.body, first.body)
	}
	if res := send("/emails", "k1", good+" "); res.StatusCode != http.StatusConflict || !strings.Contains(res.body, `"invalid_idempotent_request"`) {
		t.Errorf("other payload: %s %s", res.Status, res.body)
	}
	if res := send("/emails", "k2", good); res.StatusCode != http.StatusOK || res.body == first.body {
		t.Errorf("other key: %s %s", res.Status, res.body)
	}
	if res := send("/emails/batch", "k1", "["+good+"]"); res.StatusCode != http.StatusOK {
		t.Errorf("same key on batch: %s %s", res.Status, res.body)
	}
	if res := send("/emails", "k3", with("to", "")); res.StatusCode != http.StatusUnprocessableEntity {
		t.Errorf("bad mail: %s", res.Status)
	}
	if res := send("/emails", "k3", good); res.StatusCode != http.StatusOK {
		t.Errorf("mended mail with the same key: %s %s", res.Status, res.body)
	}
	p.admin("config", `{"idempotency":"canonical"}`)
	send("/emails", "k4", `{"from":"a@b.dev","to":"c@d.dev","subject":"s","text":"t"}`)
	if res := send("/emails", "k4", `{ "to":"c@d.dev", "from":"a@b.dev", "subject":"s","text":"t"}`); res.StatusCode != http.StatusOK {
		t.Errorf("same payload spelt differently: %s %s", res.Status, res.body)
	}
	p.admin("config", `{"idempotency":"bytes"}`)

	p.admin("clock", `{"advance":"23h59m"}`)
	if again := send("/emails", "k1", good); again.body != first.body {
		t.Errorf("after 23 h 59 min: %s %s", again.Status, again.body)
	}
	p.admin("clock", `{"advance":"1m"}`)
	if res := send("/emails", "k1", good); res.StatusCode != http.StatusOK || res.body == first.body {
		t.Errorf("after 24 h: %s %s; want a new mail", res.Status, res.body)
	}
	c := p.ledger().Counters
	if c.Accepted != 6 || c.Replayed != 3 || c.ConflictingKeys != 1 || c.Requests != 11 {
		t.Errorf("counters = %+v", c)
	}
}

// Twenty requests with one key at once: one is accepted, the others hear that
// it is in flight, or get its answer if they come late.
func TestConcurrentKeys(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.admin("config", `{"latency_ms":[150,150]}`)
	var ids, conflicts sync.Map
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			res, err := p.do("POST", "/emails", good, "Idempotency-Key", "k")
			switch {
			case err != nil:
				t.Error(err)
			case res.StatusCode == http.StatusOK:
				ids.Store(res.body, i)
			case res.StatusCode == http.StatusConflict && strings.Contains(res.body, `"concurrent_idempotent_requests"`):
				conflicts.Store(i, true)
			default:
				t.Errorf("%s %s", res.Status, res.body)
			}
		})
	}
	wg.Wait()
	count := func(m *sync.Map) (n int) {
		m.Range(func(_, _ any) bool { n++; return true })
		return n
	}
	if count(&ids) != 1 || count(&conflicts) == 0 {
		t.Errorf("%d ids, %d conflicts; want 1 and some", count(&ids), count(&conflicts))
	}
	if n := p.ledger().Counters.Accepted; n != 1 {
		t.Errorf("%d accepted", n)
	}
}

// The mail is accepted while the client still waits, and stays accepted, but
// not answered, when the client gives up.
func TestAcceptedBeforeAnswered(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.admin("config", `{"latency_ms":[500,500]}`)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, p.url+"/emails", strings.NewReader(good))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+testKey)
	req.Header.Set("Idempotency-Key", "k")
	gone := make(chan error, 1)
	go func() {
		res, err := http.DefaultClient.Do(req)
		if err == nil {
			res.Body.Close()
		}
		gone <- err
	}()
	mails := decode[[]email](t, p.must("GET", "/_admin/mails?to=ann@b.dev&wait=30s", "").body)
	if len(mails) != 1 || mails[0].Answered {
		t.Fatalf("mails = %+v", mails)
	}
	cancel()
	if err := <-gone; !errors.Is(err, context.Canceled) {
		t.Fatalf("the answer came before the client gave up: %v", err)
	}
	// Until the stand-in is through with the first request, its key is in
	// flight; then the fault keeps the replay from telling.
	p.admin("config", `{"latency_ms":[0,0]}`)
	p.faults(`[{"when":"after","status":503}]`)
	status := http.StatusConflict
	for deadline := time.Now().Add(30 * time.Second); status == http.StatusConflict && time.Now().Before(deadline); {
		status = p.must("POST", "/emails", good, "Idempotency-Key", "k").StatusCode
	}
	if c := p.ledger().Counters; status != http.StatusServiceUnavailable || c.Accepted != 1 || c.Answered != 0 {
		t.Errorf("status %d, counters = %+v", status, c)
	}
	if res := p.must("POST", "/emails", good, "Idempotency-Key", "k"); !strings.Contains(res.body, mails[0].ID) {
		t.Errorf("replay: %s", res.body)
	}
	if c := p.ledger().Counters; c.Accepted != 1 || c.Answered != 1 {
		t.Errorf("counters = %+v", c)
	}
}

func TestRateLimit(t *testing.T) {
	t.Parallel()
	p := start(t)
	const limit, senders = 20, 8
	p.admin("config", fmt.Sprintf(`{"rate":%d}`, limit))
	deadline := time.Now().Add(2500 * time.Millisecond)
	var mu sync.Mutex
	accepted, refused := 0, 0
	var wg sync.WaitGroup
	for range senders {
		wg.Go(func() {
			for time.Now().Before(deadline) {
				res, err := p.do("POST", "/emails", good)
				if err != nil {
					t.Error(err)
					return
				}
				h := res.Header
				if h.Get("ratelimit-limit") != "20" || h.Get("ratelimit-policy") != "20;w=1" || h.Get("ratelimit-reset") != "1" || h.Get("ratelimit-remaining") == "" {
					t.Errorf("headers = %v", h)
				}
				mu.Lock()
				switch res.StatusCode {
				case http.StatusOK:
					accepted++
				case http.StatusTooManyRequests:
					refused++
					if h.Get("retry-after") != "1" || h.Get("ratelimit-remaining") != "0" || !strings.Contains(res.body, `"name":"rate_limit_exceeded"`) {
						t.Errorf("429: %v %s", h, res.body)
					}
				default:
					t.Errorf("%s %s", res.Status, res.body)
				}
				mu.Unlock()
				// A request every few milliseconds is well above the limit
				// without keeping the machine busy.
				select {
				case <-time.After(5 * time.Millisecond):
				case <-t.Context().Done():
				}
			}
		})
	}
	wg.Wait()
	// 2.5 s hold three windows: full ones at 0, 1 and 2 s.
	if accepted < 2*limit || accepted > 3*limit {
		t.Errorf("%d accepted in 2.5 s at %d/s", accepted, limit)
	}
	c := p.ledger().Counters
	if c.Accepted != accepted || c.Rejected429 != refused || refused == 0 || c.MaxInAnySecond <= limit || c.Requests != accepted+refused {
		t.Errorf("counters = %+v; saw %d accepted, %d refused", c, accepted, refused)
	}
}

func TestEverythingCountsForTheLimit(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.admin("config", `{"rate":4}`)
	want := []int{200, 200, 404, 200, 429}
	var got []int
	for _, res := range []response{
		p.must("POST", "/emails", good, "Idempotency-Key", "k"),
		p.must("POST", "/emails", good, "Idempotency-Key", "k"),
		p.must("GET", "/nowhere", ""),
		p.must("POST", "/emails/batch", "["+good+","+good+","+good+"]"),
		p.must("POST", "/emails", good, "Idempotency-Key", "k"),
	} {
		got = append(got, res.StatusCode)
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("statuses = %v, want %v", got, want)
	}
	_, err := p.client().Emails.SendWithContext(t.Context(), &resend.SendEmailRequest{From: "a@b.dev", To: []string{"c@d.dev"}, Subject: "s", Text: "t"})
	var limited *resend.RateLimitError
	if !errors.As(err, &limited) || limited.Limit != "4" || limited.RetryAfter != "1" || limited.Remaining != "0" || limited.Reset != "1" {
		t.Errorf("resend-go's error = %+v", err)
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	p := start(t)
	key := []string{"Idempotency-Key", "k"}
	p.faults(`[
		{"match":{"to":"ann@b.dev"},"times":2,"status":502,"body":"<html>bad gateway</html>","content_type":"text/html"},
		{"match":{"to":"ann@b.dev"},"status":500,"when":"after"},
		{"match":{"to":"ann@b.dev"},"drop":true,"when":"after"},
		{"match":{"to":"bob@b.dev"},"status":429,"headers":{"retry-after":"7"}}]`)
	for range 2 {
		if res := p.must("POST", "/emails", good, key...); res.StatusCode != http.StatusBadGateway || res.body != "<html>bad gateway</html>" || res.Header.Get("Content-Type") != "text/html" {
			t.Fatalf("before: %s %s", res.Status, res.body)
		}
	}
	if n := p.ledger().Counters.Accepted; n != 0 {
		t.Fatalf("%d accepted behind a fault before acceptance", n)
	}
	if res := p.must("POST", "/emails", good, key...); res.StatusCode != http.StatusInternalServerError || !strings.Contains(res.body, `"name":"internal_server_error"`) {
		t.Fatalf("after: %s %s", res.Status, res.body)
	}
	if res, err := p.do("POST", "/emails", good, key...); err == nil {
		t.Fatalf("drop: %s %s", res.Status, res.body)
	}
	if l := p.ledger(); l.Counters.Accepted != 1 || l.Counters.Answered != 0 || len(l.Faults) != 4 || l.Faults[2].EmailIDs[0] != l.Messages[0].EmailIDs[0] {
		t.Errorf("ledger = %+v", l)
	}
	if res := p.must("POST", "/emails", good, key...); res.StatusCode != http.StatusOK {
		t.Errorf("when the faults are used up: %s %s", res.Status, res.body)
	}
	bob := "[" + good + "," + with("to", `"Bob <BOB@b.dev>"`) + "]"
	if res := p.must("POST", "/emails/batch", bob); res.StatusCode != http.StatusTooManyRequests || res.Header.Get("retry-after") != "7" || !strings.Contains(res.body, "rate_limit_exceeded") {
		t.Errorf("batch: %s %s", res.Status, res.body)
	}
	if res := p.must("POST", "/emails/batch", bob); res.StatusCode != http.StatusOK {
		t.Errorf("batch, faults used up: %s %s", res.Status, res.body)
	}
	if left := p.must("GET", "/_admin/faults", "").body; left != "[]\n" {
		t.Errorf("faults left: %s", left)
	}
}

func TestLedger(t *testing.T) {
	t.Parallel()
	p := start(t)
	m := func(id string) string {
		return with("tags", `[{"name":"x","value":"y"},{"name":"message_id","value":"`+id+`"}]`)
	}
	p.must("POST", "/emails/batch", "["+m("m1")+","+m("m2")+"]", "Idempotency-Key", "k1")
	p.must("POST", "/emails/batch", "["+m("m1")+","+m("m2")+"]", "Idempotency-Key", "k1")
	p.must("POST", "/emails", m("m1"), "Idempotency-Key", "k2")
	p.must("POST", "/emails", m("m1"), "Idempotency-Key", "k3")
	p.must("POST", "/emails", good)
	l := p.ledger()
	var got []string
	for _, line := range l.Messages {
		if len(line.EmailIDs) != line.Count {
			t.Errorf("%d ids for %d mails", len(line.EmailIDs), line.Count)
		}
		got = append(got, fmt.Sprint(line.MessageID, " ", line.Count, line.Answered, line.To, line.Keys))
	}
	want := "m1 3 3 [ann@b.dev] [k1 k2 k3]; m2 1 1 [ann@b.dev] [k1];  1 1 [ann@b.dev] []"
	if s := strings.Join(got, "; "); s != want {
		t.Errorf("ledger = %s\nwant     %s", s, want)
	}
	if c := l.Counters; c.Accepted != 5 || c.Answered != 5 || c.Requests != 5 || c.Replayed != 1 {
		t.Errorf("counters = %+v", c)
	}
}

func TestWaitForMails(t *testing.T) {
	t.Parallel()
	p := start(t)
	got := make(chan int, 1)
	go func() {
		res, err := p.do("GET", "/_admin/mails?to=ann@b.dev&count=3&wait=1m", "")
		if err != nil {
			t.Error(err)
		}
		var list []email
		_ = json.Unmarshal([]byte(res.body), &list)
		got <- len(list)
	}()
	for range 3 {
		p.must("POST", "/emails", with("to", `"bob@b.dev"`))
		p.must("POST", "/emails", good)
	}
	select {
	case n := <-got:
		if n != 3 {
			t.Errorf("%d mails", n)
		}
	case <-time.After(20 * time.Second):
		t.Error("no answer once the mails were there")
	}
	began := time.Now()
	if list := decode[[]email](t, p.must("GET", "/_admin/mails?to=nobody@b.dev&wait=50ms", "").body); list == nil || len(list) != 0 || time.Since(began) < 50*time.Millisecond {
		t.Errorf("%v after %s", list, time.Since(began))
	}
}

// Who waits is not forgotten by a reset, and not kept when the process stops.
func TestWaitEnds(t *testing.T) {
	t.Parallel()
	p := start(t)
	answers := make(chan string, 1)
	wait := func() {
		res, err := p.do("GET", "/_admin/mails?count=2&wait=30s", "")
		if err != nil {
			t.Error(err)
		}
		answers <- res.body
	}
	wantMails := func(n int) {
		t.Helper()
		select {
		case body := <-answers:
			if list := decode[[]email](t, body); len(list) != n {
				t.Errorf("%d mails, want %d", len(list), n)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("no answer")
		}
	}
	go wait()
	for range 50 {
		p.admin("reset", "")
		p.must("POST", "/emails", good)
	}
	p.must("POST", "/emails", good)
	wantMails(2)
	p.admin("reset", "")
	go wait()
	p.stop()
	wantMails(0)
}

func TestReset(t *testing.T) {
	t.Parallel()
	p := start(t)
	first := p.must("POST", "/emails", good, "Idempotency-Key", "k")
	p.admin("config", `{"rate":1,"latency_ms":[1,2]}`)
	p.faults(`[{"status":500}]`)
	p.admin("clock", `{"advance":"5h"}`)
	p.admin("reset", "")
	res := p.must("POST", "/emails", good, "Idempotency-Key", "k")
	if res.StatusCode != http.StatusOK || res.body == first.body || res.Header.Get("ratelimit-limit") != "" {
		t.Errorf("%s %s", res.Status, res.body)
	}
	l := p.ledger()
	if l.Counters.Accepted != 1 || l.Counters.Requests != 1 || len(l.Faults) != 0 {
		t.Errorf("ledger = %+v", l)
	}
	if at := decode[[]email](t, p.must("GET", "/_admin/mails", "").body)[0].AcceptedAt; time.Until(at) > time.Hour {
		t.Errorf("the clock is still ahead: %s", at)
	}
}

func TestAdminRefuses(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.faults(`[{"status":500,"match":{"to":"nobody@b.dev"}}]`)
	for _, tt := range []struct{ method, path, body string }{
		{"PUT", "faults", `[{"status":501},{"status":99}]`},
		{"PUT", "faults", `[null]`},
		{"PUT", "faults", `[{"status":99}]`},
		{"PUT", "faults", `[{}]`},
		{"PUT", "faults", `[{"status":500,"drop":true}]`},
		{"PUT", "faults", `[{"kind":"reset","drop":true}]`},
		{"PUT", "faults", `[{"kind":"magic"}]`},
		{"PUT", "faults", `[{"kind":"slow"}]`},
		{"PUT", "faults", `[{"kind":"slow","delay":"-1s"}]`},
		{"PUT", "faults", `[{"kind":"truncated","when":"before"}]`},
		{"PUT", "faults", `[{"status":500,"when":"between"}]`},
		{"PUT", "faults", `[{"status":500,"times":-1}]`},
		{"PUT", "faults", `[{"status":500,"probability":1.5}]`},
		{"PUT", "faults", `[{"status":500,"match":{"from":"x"}}]`},
		{"POST", "config", `{"rat":1}`},
		{"POST", "config", `{"rate":-1}`},
		{"POST", "config", `{"window":"round"}`},
		{"POST", "config", `{"daily_quota":-1}`},
		{"POST", "config", `{"latency_ms":[5,1]}`},
		{"POST", "config", `{"event_gap_ms":-1}`},
		{"POST", "config", `{"idempotency":"magic"}`},
		{"POST", "config", `{"key_scope":"world"}`},
		{"POST", "config", `{"rate":1} {}`},
		{"POST", "config", `{"webhook":{"url":"http://x.dev"}}`},
		{"POST", "config", `{"webhook":{"url":"ftp://x.dev","secrets":["whsec_aGk="]}}`},
		{"POST", "config", `{"webhook":{"secrets":["aGk="]}}`},
		{"POST", "config", `{"webhook":{"secrets":["whsec_!"]}}`},
		{"POST", "config", `{"webhook":{"drop":2}}`},
		{"POST", "config", `{"webhook":{"retry_scale":-1}}`},
		{"POST", "config", `{"webhook":{"delay_ms":[2,1]}}`},
		{"POST", "config", `{`},
		{"PUT", "fates/ann@b.dev", `[{"type":"bounced"}]`},
		{"PUT", "fates/ann@b.dev", `[{"type":"email.bounced","after":"-1s"}]`},
		{"PUT", "fates/ann@b.dev", `[{"type":"email.bounced","after":"soon"}]`},
		{"POST", "events", `{"type":"opened"}`},
		{"POST", "clock", `{"advance":"-1h"}`},
		{"POST", "clock", `{"advance":"soon"}`},
	} {
		state := func() string {
			return p.must("GET", "/_admin/config", "").body + p.must("GET", "/_admin/faults", "").body + p.must("GET", "/_admin/fates", "").body
		}
		before := state()
		if res := p.must(tt.method, "/_admin/"+tt.path, tt.body); res.StatusCode != http.StatusBadRequest || !strings.Contains(res.body, `"error"`) {
			t.Errorf("%s %s: %s %s", tt.path, tt.body, res.Status, res.body)
		}
		if after := state(); after != before {
			t.Errorf("%s changed the state to %s", tt.body, after)
		}
	}
	for _, query := range []string{"count=x", "wait=x", "wait=6m"} {
		if res := p.must("GET", "/_admin/mails?"+query, ""); res.StatusCode != http.StatusBadRequest {
			t.Errorf("%s: %s", query, res.Status)
		}
	}
	if res := p.must("POST", "/_admin/reset", "", "Sec-Fetch-Site", "cross-site"); res.StatusCode != http.StatusForbidden {
		t.Errorf("from another site's page: %s", res.Status)
	}
}

func TestAdminIsLocal(t *testing.T) {
	t.Parallel()
	s, err := newServer(testOptions(), "")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.stop)
	for remote, want := range map[string]int{"192.0.2.7:1000": 403, "127.0.0.1:1000": 200, "[::1]:1000": 200} {
		r := httptest.NewRequest(http.MethodGet, "/_admin/ledger", nil)
		r.RemoteAddr = remote
		w := httptest.NewRecorder()
		s.handler().ServeHTTP(w, r)
		if w.Code != want {
			t.Errorf("from %s: %d, want %d", remote, w.Code, want)
		}
	}
}

// A client that stops in the middle of its request gets no mail accepted and
// does not keep the stand-in.
func TestHalfARequest(t *testing.T) {
	t.Parallel()
	p := start(t)
	var d net.Dialer
	conn, err := d.DialContext(t.Context(), "tcp", strings.TrimPrefix(p.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintf(conn, "POST /emails HTTP/1.1\r\nHost: x\r\nUser-Agent: x\r\nAuthorization: Bearer %s\r\nContent-Length: %d\r\n\r\n%s", testKey, len(good), good[:20])
	if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
		t.Fatal(err)
	}
	rest, err := io.ReadAll(conn)
	if err != nil || bytes.Contains(rest, []byte("200")) {
		t.Errorf("answer %q, %v", rest, err)
	}
	if l := p.ledger(); l.Counters.Accepted != 0 || l.Counters.Requests != 1 {
		t.Errorf("counters = %+v", l.Counters)
	}
}
