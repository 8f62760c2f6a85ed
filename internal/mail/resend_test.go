package mail

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/resend/resend-go/v2"

	"usher/internal/mail/mailtest"
)

const testKey = "re_test_of_resend"

// testDispatch is a frozen dispatch of a mail to each of the addresses.
func testDispatch(t *testing.T, to ...string) Dispatch {
	t.Helper()
	d := Dispatch{ID: uuid.Must(uuid.NewV7()), Endpoint: endpointBatch}
	if len(to) == 1 {
		d.Endpoint = endpointOne
	}
	for range to {
		d.MessageIDs = append(d.MessageIDs, uuid.Must(uuid.NewV7()))
	}
	written := drafts(d.MessageIDs)
	emails := make([]*resend.SendEmailRequest, len(to))
	for i := range written {
		written[i].Recipient = to[i]
		emails[i] = written[i].email()
	}
	var err error
	if d.Body, err = encode(emails); err != nil {
		t.Fatal(err)
	}
	return d
}

// testResend is a sender whose clock stands at noon.
func testResend(t *testing.T, key, base string) *Resend {
	t.Helper()
	r, err := NewResend(key, base, func() time.Time { return noon })
	if err != nil {
		t.Fatal(err)
	}
	return r
}

const unknown Outcome = 0

// wantOutcome compares what a Send that failed says is known.
func wantOutcome(t *testing.T, receipt Receipt, err error, want Outcome, after time.Duration) {
	t.Helper()
	if err == nil {
		t.Fatalf("sent as %+v", receipt)
	}
	have := AsSendError(err)
	if have == nil {
		have = &SendError{}
	}
	if have.Outcome != want || have.After != after {
		t.Errorf("outcome %d after %s, want %d after %s (%v)", have.Outcome, have.After, want, after, err)
	}
	if strings.Contains(err.Error(), testKey) {
		t.Errorf("error %q gives the API key away", err)
	}
}

// TestResendAnswers is the table of what each answer of the provider means.
func TestResendAnswers(t *testing.T) {
	t.Parallel()
	problem := func(name string) string { return fmt.Sprintf(`{"statusCode":0,"message":"because","name":%q}`, name) }
	const html = "text/html; charset=utf-8"
	tests := []struct {
		name   string
		status int
		body   string
		header string // one line
		want   Outcome
		after  time.Duration
	}{
		{"validation", 422, problem("validation_error"), "", Refused, 0},
		{"missing field", 422, problem("missing_required_field"), "", Refused, 0},
		{"parameter", 422, problem("invalid_parameter"), "", Refused, 0},
		{"attachment", 422, problem("invalid_attachment"), "", Refused, 0},
		{"sender", 422, problem("invalid_from_address"), "", Refused, 0},
		{"bad request", 400, problem("validation_error"), "", Refused, 0},
		{"bad key form", 400, problem("invalid_idempotency_key"), "", Refused, 0},
		{"a name nobody knows", 418, problem("teapot"), "", Refused, 0},
		{"no such address", 404, problem("not_found"), "", Stopped, configurationPause},
		{"no such method", 405, problem("method_not_allowed"), "", Stopped, configurationPause},
		{"no API key", 401, problem("missing_api_key"), "", Stopped, configurationPause},
		{"restricted API key", 401, problem("restricted_api_key"), "", Stopped, configurationPause},
		{"wrong API key", 403, problem("invalid_api_key"), "", Stopped, configurationPause},
		{"suspended", 403, problem("suspended"), "", Stopped, configurationPause},
		{"domain not verified", 403, problem("validation_error"), "", SenderRefused, 0},
		{"a proxy's 403", 403, "<html>Forbidden</html>", "Content-Type: " + html, unknown, 0},
		{"in flight", 409, problem("concurrent_idempotent_requests"), "", InFlight, inFlightPause},
		{"other content", 409, problem("invalid_idempotent_request"), "", Contested, 0},
		{"a proxy's 409", 409, "<html>conflict</html>", "Content-Type: " + html, unknown, 0},
		{"too fast", 429, problem("rate_limit_exceeded"), "Retry-After: 7", Throttled, 7 * time.Second},
		{"too fast, no hint", 429, problem("rate_limit_exceeded"), "", Throttled, time.Second},
		{"too fast, odd hint", 429, problem("rate_limit_exceeded"), "Retry-After: soon", Throttled, time.Second},
		{"too fast, zero hint", 429, problem("rate_limit_exceeded"), "Retry-After: 0", Throttled, time.Second},
		{"too fast, negative hint", 429, problem("rate_limit_exceeded"), "Retry-After: -7", Throttled, time.Second},
		{"too fast, endless hint", 429, problem("rate_limit_exceeded"), "Retry-After: 99999999", Throttled, maxThrottle},
		{"too fast, overflowing hint", 429, problem("rate_limit_exceeded"), "Retry-After: 9223372036854775807", Throttled, maxThrottle},
		{"too fast, in plain text", 429, "slow down", "Content-Type: text/plain", Throttled, time.Second},
		{"daily quota", 429, problem("daily_quota_exceeded"), "Retry-After: 7", Stopped, 12 * time.Hour},
		{"monthly quota", 429, problem("monthly_quota_exceeded"), "", Stopped, 12 * time.Hour},
		{"fault", 500, problem("application_error"), "", unknown, 0},
		{"bad gateway", 502, "<html>Bad Gateway</html>", "Content-Type: " + html, unknown, 0},
		{"unavailable", 503, problem("service_unavailable"), "", unknown, 0},
		{"gateway timeout", 504, "", "", unknown, 0},
		{"a proxy's 400", 400, "<html>Bad Request</html>", "Content-Type: " + html, unknown, 0},
		{"a proxy's 401", 401, "log in to the proxy", "Content-Type: text/plain", unknown, 0},
		{"a page with a name of its own", 413, `["name"]`, "", unknown, 0},
		{"a name that is no text", 422, `{"name":7}`, "", unknown, 0},
		{"no id", 200, `{}`, "", unknown, 0},
		{"empty id", 200, `{"id":""}`, "", unknown, 0},
		{"an id that is no text", 200, `{"id":7}`, "", unknown, 0},
		{"a list for one mail", 200, `{"data":[{"id":"x"}]}`, "", unknown, 0},
		{"not JSON", 200, `thanks`, "Content-Type: text/plain", unknown, 0},
		{"HTML", 200, `<html>Welcome to the hotel</html>`, "Content-Type: " + html, unknown, 0},
		{"nothing", 200, ``, "", unknown, 0},
		{"cut off", 200, `{"id":"49a3999c-0c`, "", unknown, 0},
		{"no content", 204, ``, "", unknown, 0},
		{"not modified", 304, ``, "", unknown, 0},
	}
	provider := mailtest.Start(t)
	faults := make([]mailtest.Fault, len(tests))
	to := func(i int) string { return fmt.Sprintf("case.%d@client.dev", i) }
	for i, test := range tests {
		faults[i] = mailtest.Fault{Match: mailtest.Match{To: to(i)}, Status: test.status, Body: &test.body, Headers: map[string]string{"Ratelimit-Limit": "10"}}
		if name, value, ok := strings.Cut(test.header, ": "); ok {
			faults[i].Headers[name] = value
		}
	}
	if err := provider.Fail(t.Context(), faults...); err != nil {
		t.Fatal(err)
	}
	sender := testResend(t, provider.APIKey, provider.URL)
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			d := testDispatch(t, to(i))
			receipt, err := sender.Send(t.Context(), d)
			wantOutcome(t, receipt, err, test.want, test.after)
			if test.want == Refused && err.Error() != fmt.Sprintf("%d %s: because", test.status, strings.Split(test.body, `"`)[9]) {
				t.Errorf("reason %q", err)
			}
			if test.status >= 400 && receipt.Rate != 10 {
				t.Errorf("the limit was read as %f, want 10", receipt.Rate)
			}
			// Whatever it was, the same again does no harm.
			receipt, err = sender.Send(t.Context(), d)
			if err != nil || len(receipt.Items) != 1 || receipt.Items[0].ProviderID == "" {
				t.Errorf("sent again as %+v, %v", receipt, err)
			}
		})
	}
}

// TestResendLimit reads the provider's limit where it can be believed.
func TestResendLimit(t *testing.T) {
	t.Parallel()
	for header, want := range map[string]float64{
		"10": 10, "2": 2, "0.5": 0.5, "": 0, "many": 0, "0": 0, "-1": 0, "NaN": 0, "Inf": 0, "1e7": 0,
	} {
		r := reply{header: http.Header{"Ratelimit-Limit": {header}}}
		if have := r.rate(); have != want {
			t.Errorf("%q is %f, want %f", header, have, want)
		}
	}
	if have := (&reply{}).rate(); have != 0 {
		t.Errorf("no answer is %f", have)
	}
}

// TestQuotaEndsAtMidnight in UTC, whatever the machine's zone.
func TestQuotaEndsAtMidnight(t *testing.T) {
	t.Parallel()
	zone := time.FixedZone("far east", 9*3600)
	r := reply{status: 429, body: []byte(`{"name":"daily_quota_exceeded"}`)}
	for at, want := range map[time.Time]time.Duration{
		noon.In(zone):                            12 * time.Hour,
		time.Date(2026, 3, 1, 0, 0, 0, 0, zone):  9 * time.Hour,
		time.Date(2026, 3, 1, 8, 59, 0, 0, zone): time.Minute,
		time.Date(2026, 3, 1, 9, 0, 0, 0, zone):  24 * time.Hour,
	} {
		if have := AsSendError(r.sendError(at)); have == nil || have.After != want {
			t.Errorf("at %s: %+v, want %s", at, have, want)
		}
	}
}

// TestResendBatchAnswers goes through what the provider may say of three mails.
func TestResendBatchAnswers(t *testing.T) {
	t.Parallel()
	ok, refused := func(id string) Item { return Item{ProviderID: id} }, Item{Refusal: "refused: bad"}
	tests := []struct {
		name, body string
		want       []Item // nil: the outcome is unknown
	}{
		{"all", `{"data":[{"id":"a"},{"id":"b"},{"id":"c"}]}`, []Item{ok("a"), ok("b"), ok("c")}},
		{"all, said twice", `{"data":[{"id":"a"},{"id":"b"},{"id":"c"}],"errors":[]}`, []Item{ok("a"), ok("b"), ok("c")}},
		{"one refused", `{"data":[{"id":"a"},{"id":"c"}],"errors":[{"index":1,"message":"bad"}]}`, []Item{ok("a"), refused, ok("c")}},
		{"two refused, unsorted", `{"data":[{"id":"b"}],"errors":[{"index":2,"message":"bad"},{"index":0,"message":"bad"}]}`, []Item{refused, ok("b"), refused}},
		{"all refused", `{"data":[],"errors":[{"index":0,"message":"bad"},{"index":1,"message":"bad"},{"index":2,"message":"bad"}]}`, []Item{refused, refused, refused}},
		{"an id missing", `{"data":[{"id":"a"},{"id":"b"}]}`, nil},
		{"an id too many", `{"data":[{"id":"a"},{"id":"b"},{"id":"c"},{"id":"d"}]}`, nil},
		{"an empty id", `{"data":[{"id":"a"},{"id":""},{"id":"c"}]}`, nil},
		{"an empty object", `{"data":[{"id":"a"},{},{"id":"c"}]}`, nil},
		{"an id and an error too many", `{"data":[{"id":"a"},{"id":"b"},{"id":"c"}],"errors":[{"index":1,"message":"bad"}]}`, nil},
		{"one refused twice", `{"data":[{"id":"a"}],"errors":[{"index":1,"message":"bad"},{"index":1,"message":"bad"}]}`, nil},
		{"a refusal of nobody", `{"data":[{"id":"a"},{"id":"b"}],"errors":[{"index":3,"message":"bad"}]}`, nil},
		{"a refusal before the first", `{"data":[{"id":"a"},{"id":"b"}],"errors":[{"index":-1,"message":"bad"}]}`, nil},
		{"nothing", `{}`, nil},
		{"one mail's answer", `{"id":"a"}`, nil},
		{"cut off", `{"data":[{"id":"a"},{"id":"b"},{"id":"c"}]`, nil},
		{"HTML", `<html></html>`, nil},
	}
	provider := mailtest.Start(t)
	faults := make([]mailtest.Fault, len(tests))
	to := func(i int) string { return fmt.Sprintf("batch.%d@client.dev", i) }
	for i, test := range tests {
		faults[i] = mailtest.Fault{Match: mailtest.Match{To: to(i)}, Status: 200, Body: &test.body}
	}
	if err := provider.Fail(t.Context(), faults...); err != nil {
		t.Fatal(err)
	}
	sender := testResend(t, provider.APIKey, provider.URL)
	for i, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			receipt, err := sender.Send(t.Context(), testDispatch(t, to(i), "bea@client.dev", "cem@client.dev"))
			if test.want == nil {
				wantOutcome(t, receipt, err, unknown, 0)
			} else if err != nil || !reflect.DeepEqual(receipt.Items, test.want) {
				t.Errorf("received %+v (%v), want %+v", receipt.Items, err, test.want)
			}
		})
	}
}

// TestResendBrokenConnections goes through what happens below HTTP.
func TestResendBrokenConnections(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	tests := map[string]http.HandlerFunc{
		"dropped": func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) },
		"shorter than announced": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			io.WriteString(w, `{"id":"49a3999c"}`)
		},
		"a refusal that breaks off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			w.WriteHeader(422)
			io.WriteString(w, `{"name":"validation_error"}`)
		},
		"no answer in time": func(http.ResponseWriter, *http.Request) { <-release },
		"an answer without end": func(w http.ResponseWriter, _ *http.Request) {
			io.WriteString(w, `{"id":"`)
			for range maxReply / 1024 {
				io.WriteString(w, strings.Repeat("x", 1024))
			}
			io.WriteString(w, `"}`)
		},
	}
	var providers []*httptest.Server
	t.Cleanup(func() {
		close(release)
		for _, p := range providers {
			p.Close()
		}
	})
	for name, handler := range tests {
		provider := httptest.NewServer(handler)
		providers = append(providers, provider)
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			defer cancel()
			receipt, err := testResend(t, testKey, provider.URL).Send(ctx, testDispatch(t, "ann@client.dev"))
			wantOutcome(t, receipt, err, unknown, 0)
		})
	}
}

// TestResendUnreachable: where no connection stood, nothing was sent.
func TestResendUnreachable(t *testing.T) {
	t.Parallel()
	gone := httptest.NewServer(nil)
	gone.Close()
	for _, base := range []string{gone.URL, "http://nobody.invalid"} {
		receipt, err := testResend(t, testKey, base).Send(t.Context(), testDispatch(t, "ann@client.dev"))
		wantOutcome(t, receipt, err, Stopped, unreachablePause)
	}
}

// TestResendGoesWhileItAnswers: a provider that took a request over a connection
// that had served before, and was gone before its answer, leaves the outcome
// unknown, though nobody listens any more.
func TestResendGoesWhileItAnswers(t *testing.T) {
	t.Parallel()
	var requests atomic.Int64
	var provider *httptest.Server
	provider = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err != nil {
			t.Error(err)
		}
		if requests.Add(1) == 1 {
			_, _ = io.WriteString(w, `{"id":"1"}`)
			return
		}
		if err := provider.Listener.Close(); err != nil {
			t.Error(err)
		}
		panic(http.ErrAbortHandler) // which closes the connection
	}))
	t.Cleanup(provider.Close)
	sender := testResend(t, testKey, provider.URL)
	if _, err := sender.Send(t.Context(), testDispatch(t, "ann@client.dev")); err != nil {
		t.Fatal(err)
	}
	receipt, err := sender.Send(t.Context(), testDispatch(t, "bea@client.dev"))
	wantOutcome(t, receipt, err, unknown, 0)
	if requests.Load() != 2 {
		t.Errorf("%d requests", requests.Load())
	}
}

// TestResendRequest looks at the request itself, and that a repetition is the
// same to the byte: the provider may compare it so.
func TestResendRequest(t *testing.T) {
	t.Parallel()
	for _, to := range [][]string{{"ann@client.dev"}, {"ann@client.dev", "bea@client.dev"}} {
		d := testDispatch(t, to...)
		var requests int
		provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			requests++
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			if !bytes.Equal(body, d.Body) || r.ContentLength != int64(len(d.Body)) {
				t.Errorf("the body is %s of %d bytes, want what was frozen", body, r.ContentLength)
			}
			if r.Method != http.MethodPost || r.URL.Path != "/base"+d.Endpoint {
				t.Errorf("%s %s", r.Method, r.URL)
			}
			for name, want := range map[string]string{
				"Authorization": "Bearer " + testKey, "Idempotency-Key": d.ID.String(), "Content-Type": "application/json",
				"X-Batch-Validation": "permissive",
			} {
				if have := r.Header.Get(name); have != want {
					t.Errorf("%s is %q, want %q", name, have, want)
				}
			}
			if r.UserAgent() == "" {
				t.Error("there is no User-Agent, which the provider refuses")
			}
			w.Header().Set("ratelimit-limit", "5")
			if len(to) == 1 {
				io.WriteString(w, `{"id":"a"}`)
			} else {
				io.WriteString(w, `{"data":[{"id":"a"},{"id":"b"}]}`)
			}
		}))
		t.Cleanup(provider.Close)
		for _, base := range []string{provider.URL + "/base", provider.URL + "/base/"} {
			receipt, err := testResend(t, testKey, base).Send(t.Context(), d)
			want := Receipt{Items: []Item{{ProviderID: "a"}, {ProviderID: "b"}}[:len(to)], Rate: 5}
			if err != nil || !reflect.DeepEqual(receipt, want) {
				t.Fatalf("received %+v, %v, want %+v", receipt, err, want)
			}
		}
		if requests != 2 {
			t.Errorf("%d requests, want 2", requests)
		}
	}
}

// TestResendFollowsNoRedirect keeps the API key from whoever a redirect names.
func TestResendFollowsNoRedirect(t *testing.T) {
	t.Parallel()
	elsewhere := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		t.Errorf("followed to %s with Authorization %q", r.URL, r.Header.Get("Authorization"))
	}))
	t.Cleanup(elsewhere.Close)
	for _, status := range []int{301, 302, 303, 307, 308} {
		provider := httptest.NewServer(http.RedirectHandler(elsewhere.URL, status))
		t.Cleanup(provider.Close)
		receipt, err := testResend(t, testKey, provider.URL).Send(t.Context(), testDispatch(t, "ann@client.dev"))
		wantOutcome(t, receipt, err, unknown, 0)
	}
}

func TestNewResendRefusesBadBase(t *testing.T) {
	t.Parallel()
	for _, base := range []string{"api.resend.com", "/emails", "http://", "http://a b/", "://x"} {
		if _, err := NewResend(testKey, base, time.Now); err == nil {
			t.Errorf("%q was taken", base)
		}
	}
	if r := testResend(t, testKey, ""); r.client.BaseURL.String() != "https://api.resend.com/" || r.Name() != "resend" {
		t.Errorf("without a base: %v, by the way %s", r.client.BaseURL, r.Name())
	}
}

// TestResendAgainstStandIn sends through the provider's stand-in, which knows
// the rules of the real one and none of our code.
func TestResendAgainstStandIn(t *testing.T) {
	t.Parallel()
	cut := `{"id":"49a3`
	for name, lost := range map[string]mailtest.Fault{
		"closed after":            {When: "after", Drop: true},
		"closed before":           {When: "before", Drop: true},
		"connection reset after":  {When: "after", Kind: "reset"},
		"connection reset before": {When: "before", Kind: "reset"},
		"broken off after":        {Kind: "truncated"},
		"no id after":             {Kind: "no_id"},
		"proxy's page before":     {Kind: "html_502"},
		"500 after":               {When: "after", Status: 500},
		"503 before":              {When: "before", Status: 503},
		"504 after":               {When: "after", Status: 504},
		"cut off after":           {When: "after", Status: 200, Body: &cut},
	} {
		for _, to := range [][]string{{"ann@client.dev"}, {"ann@client.dev", "bea@client.dev", "cem@client.dev"}} {
			t.Run(fmt.Sprint(name, " ", len(to)), func(t *testing.T) {
				t.Parallel()
				sendAgain(t, lost, to)
			})
		}
	}
}

// sendAgain loses the answer to a dispatch and sends it until there is one:
// each mail arrives once, as it was frozen.
func sendAgain(t *testing.T, lost mailtest.Fault, to []string) {
	ctx := t.Context()
	provider := mailtest.Start(t)
	sender := testResend(t, provider.APIKey, provider.URL)
	if err := provider.Config(ctx, mailtest.Config{Idempotency: "bytes"}); err != nil {
		t.Fatal(err)
	}
	if err := provider.Fail(ctx, lost); err != nil {
		t.Fatal(err)
	}
	d := testDispatch(t, to...)
	receipt, err := sender.Send(ctx, d)
	if lost.Status > 0 || err != nil { // on a connection used before, net/http itself sends again what was cut off
		wantOutcome(t, receipt, err, unknown, 0)
	}
	first, err := sender.Send(ctx, d)
	if err != nil || len(first.Items) != len(to) {
		t.Fatalf("sent again as %+v, %v", first, err)
	}
	again, err := sender.Send(ctx, d)
	if err != nil || !reflect.DeepEqual(again, first) {
		t.Errorf("sent a third time as %+v (%v), want %+v", again, err, first)
	}
	mails, err := provider.MailsN(ctx, "", len(to), 10*time.Second)
	if err != nil || len(mails) != len(to) {
		t.Fatalf("%d mails, want %d (%v)", len(mails), len(to), err)
	}
	for i, have := range mails {
		want := drafts(d.MessageIDs)[i]
		if have.ID != first.Items[i].ProviderID || have.IdempotencyKey != d.ID.String() || have.To[0] != to[i] ||
			have.Subject != want.Subject || have.Text != want.Text || have.HTML != want.HTML || have.From != want.Sender ||
			have.Headers["Auto-Submitted"] != "auto-generated" ||
			!reflect.DeepEqual(have.Tags, []mailtest.Tag{{Name: "message_id", Value: d.MessageIDs[i].String()}}) {
			t.Errorf("mail %d is %+v", i, have)
		}
	}
	changed := d
	changed.Body = bytes.Replace(d.Body, []byte("Hello"), []byte("Hallo"), 1)
	receipt, err = sender.Send(ctx, changed)
	wantOutcome(t, receipt, err, Contested, 0)
}

// TestResendRefusals are those of the stand-in's own rules.
func TestResendRefusals(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	provider := mailtest.Start(t)
	sender := testResend(t, provider.APIKey, provider.URL)
	// The provider does not take mail to example.com.
	receipt, err := sender.Send(ctx, testDispatch(t, "nobody@example.com"))
	wantOutcome(t, receipt, err, Refused, 0)
	receipt, err = sender.Send(ctx, testDispatch(t, "ann@client.dev", "nobody@example.com", "bea@client.dev"))
	if err != nil || len(receipt.Items) != 3 || receipt.Items[0].ProviderID == "" || receipt.Items[2].ProviderID == "" ||
		receipt.Items[1].ProviderID != "" || !strings.HasPrefix(receipt.Items[1].Refusal, "refused: ") {
		t.Errorf("with one bad address among three: %+v, %v", receipt, err)
	}
	receipt, err = testResend(t, "re_wrong", provider.URL).Send(ctx, testDispatch(t, "ann@client.dev"))
	wantOutcome(t, receipt, err, Stopped, configurationPause)
}
