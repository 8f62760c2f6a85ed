package mail

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"usher/internal/mail/mailtest"
)

const testKey = "re_test_of_resend"

func testMessage() Message {
	return Message{
		ID: uuid.Must(uuid.NewV7()), Sender: "Kindred Care <hello@kindred.dev>", Recipient: "ann@client.dev",
		Subject: "Marie invites you – «today»", Text: "Hello\nAnn <&>", HTML: "<p>Hello <b>Ann</b> &amp; all</p>", State: Sending,
	}
}

func testResend(t *testing.T, base string) *Resend {
	t.Helper()
	r, err := NewResend(testKey, base)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// TestResendAnswers is the table of what each answer of the provider means.
func TestResendAnswers(t *testing.T) {
	t.Parallel()
	problem := func(name string) string { return fmt.Sprintf(`{"statusCode":0,"message":"because","name":%q}`, name) }
	const unknown Outcome = 0
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
		{"bad request", 400, problem("validation_error"), "", Refused, 0},
		{"bad key form", 400, problem("invalid_idempotency_key"), "", Refused, 0},
		{"not found", 404, problem("not_found"), "", Refused, 0},
		{"no API key", 401, problem("missing_api_key"), "", Later, configurationPause},
		{"restricted API key", 401, problem("restricted_api_key"), "", Later, configurationPause},
		{"wrong API key", 403, problem("invalid_api_key"), "", Later, configurationPause},
		{"domain not verified", 403, problem("validation_error"), "", Later, configurationPause},
		{"in flight", 409, problem("concurrent_idempotent_requests"), "", Later, inFlightPause},
		{"other content", 409, problem("invalid_idempotent_request"), "", Contested, 0},
		{"a proxy's 409", 409, "<html>conflict</html>", "", unknown, 0},
		{"too fast", 429, problem("rate_limit_exceeded"), "Retry-After: 7", Later, 7 * time.Second},
		{"too fast, no hint", 429, problem("rate_limit_exceeded"), "", Later, time.Second},
		{"too fast, odd hint", 429, problem("rate_limit_exceeded"), "Retry-After: soon", Later, time.Second},
		{"too fast, zero hint", 429, problem("rate_limit_exceeded"), "Retry-After: 0", Later, time.Second},
		{"too fast, endless hint", 429, problem("rate_limit_exceeded"), "Retry-After: 99999999", Later, time.Second},
		{"too fast, in plain text", 429, "slow down", "Content-Type: text/plain", Later, time.Second},
		{"daily quota", 429, problem("daily_quota_exceeded"), "", Later, time.Hour},
		{"monthly quota", 429, problem("monthly_quota_exceeded"), "", Later, time.Hour},
		{"fault", 500, problem("application_error"), "", unknown, 0},
		{"bad gateway", 502, "<html>Bad Gateway</html>", "Content-Type: text/html", unknown, 0},
		{"unavailable", 503, problem("service_unavailable"), "", unknown, 0},
		{"gateway timeout", 504, "", "", unknown, 0},
		{"a proxy's 400", 400, "<html>Bad Request</html>", "Content-Type: text/html", unknown, 0},
		{"a page with a name of its own", 413, `["name"]`, "", unknown, 0},
		{"no id", 200, `{}`, "", unknown, 0},
		{"empty id", 200, `{"id":""}`, "", unknown, 0},
		{"not JSON", 200, `thanks`, "", unknown, 0},
		{"nothing", 200, ``, "", unknown, 0},
		{"cut off", 200, `{"id":"49a3999c-0c`, "", unknown, 0},
		{"not modified", 304, ``, "", unknown, 0},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				if name, value, ok := strings.Cut(test.header, ": "); ok {
					w.Header().Set(name, value)
				}
				w.WriteHeader(test.status)
				io.WriteString(w, test.body)
			}))
			t.Cleanup(provider.Close)
			id, err := testResend(t, provider.URL).Send(t.Context(), testMessage())
			if err == nil || id != "" {
				t.Fatalf("sent as %q", id)
			}
			have := AsSendError(err)
			if have == nil {
				have = &SendError{}
			}
			if have.Outcome != test.want || have.After != test.after {
				t.Errorf("outcome %d after %s, want %d after %s (%v)", have.Outcome, have.After, test.want, test.after, err)
			}
			if test.want == Refused && have.Reason != fmt.Sprintf("%d %s: because", test.status, strings.Split(test.body, `"`)[9]) {
				t.Errorf("reason %q", have.Reason)
			}
			if strings.Contains(err.Error(), testKey) {
				t.Errorf("error %q gives the API key away", err)
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
			io.WriteString(w, `{"id":"49a3999c`)
		},
		"a refusal that breaks off": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			w.WriteHeader(422)
			io.WriteString(w, `{"name":"validation_error"}`)
		},
		"no answer in time": func(http.ResponseWriter, *http.Request) { <-release },
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
			ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
			defer cancel()
			if id, err := testResend(t, provider.URL).Send(ctx, testMessage()); err == nil || AsSendError(err) != nil {
				t.Errorf("sent as %q with %v, want an unknown outcome", id, err)
			}
		})
	}
	t.Run("nobody listens", func(t *testing.T) {
		t.Parallel()
		gone := httptest.NewServer(nil)
		gone.Close()
		if _, err := testResend(t, gone.URL).Send(t.Context(), testMessage()); err == nil || AsSendError(err) != nil {
			t.Errorf("%v, want an unknown outcome", err)
		}
	})
}

// TestResendRequest looks at the request itself, and that a repetition is the
// same to the byte: the provider may compare it so.
func TestResendRequest(t *testing.T) {
	t.Parallel()
	m := testMessage()
	var bodies [][]byte
	provider := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		bodies = append(bodies, body)
		if r.Method != http.MethodPost || r.URL.Path != "/base/emails" {
			t.Errorf("%s %s", r.Method, r.URL)
		}
		for name, want := range map[string]string{
			"Authorization": "Bearer " + testKey, "Idempotency-Key": m.ID.String(), "Content-Type": "application/json",
		} {
			if have := r.Header.Get(name); have != want {
				t.Errorf("%s is %q, want %q", name, have, want)
			}
		}
		if r.UserAgent() == "" {
			t.Error("there is no User-Agent, which the provider refuses")
		}
		io.WriteString(w, `{"id":"49a3999c-0ce1-4ea6-ab68-afcd6dc2e794"}`)
	}))
	t.Cleanup(provider.Close)
	for _, base := range []string{provider.URL + "/base", provider.URL + "/base/"} {
		id, err := testResend(t, base).Send(t.Context(), m)
		if err != nil || id != "49a3999c-0ce1-4ea6-ab68-afcd6dc2e794" {
			t.Fatalf("sent as %q: %v", id, err)
		}
	}
	if len(bodies) != 2 || !bytes.Equal(bodies[0], bodies[1]) {
		t.Fatalf("the repetition differs: %q", bodies)
	}
	var have map[string]any
	if err := json.Unmarshal(bodies[0], &have); err != nil {
		t.Fatal(err)
	}
	want := map[string]any{
		"from": m.Sender, "to": []any{m.Recipient}, "subject": m.Subject, "text": m.Text, "html": m.HTML,
		"headers": map[string]any{"Auto-Submitted": "auto-generated"},
		"tags":    []any{map[string]any{"name": "message_id", "value": m.ID.String()}},
	}
	if !reflect.DeepEqual(have, want) {
		t.Errorf("body is\n%v, want\n%v", have, want)
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
		if _, err := testResend(t, provider.URL).Send(t.Context(), testMessage()); err == nil || AsSendError(err) != nil {
			t.Errorf("%d: %v, want an unknown outcome", status, err)
		}
	}
}

func TestNewResendRefusesBadBase(t *testing.T) {
	t.Parallel()
	for _, base := range []string{"api.resend.com", "/emails", "http://", "http://a b/", "://x"} {
		if _, err := NewResend(testKey, base); err == nil {
			t.Errorf("%q was taken", base)
		}
	}
	r, err := NewResend(testKey, "")
	if err != nil || r.client.BaseURL.String() != "https://api.resend.com/" {
		t.Errorf("without a base: %v, %v", r.client.BaseURL, err)
	}
}

// TestResendAgainstStandIn sends through the provider's stand-in, which knows
// the rules of the real one and none of our code.
func TestResendAgainstStandIn(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	provider := mailtest.Start(t)
	sender, err := NewResend(provider.APIKey, provider.URL)
	if err != nil {
		t.Fatal(err)
	}
	m := testMessage()
	if err := provider.Config(ctx, mailtest.Config{Fail: []mailtest.Fault{{When: "after", Drop: true}}}); err != nil {
		t.Fatal(err)
	}
	if _, err := sender.Send(ctx, m); err == nil || AsSendError(err) != nil {
		t.Fatalf("answer lost: %v, want an unknown outcome", err)
	}
	first, err := sender.Send(ctx, m)
	if err != nil {
		t.Fatal(err)
	}
	again, err := sender.Send(ctx, m)
	if err != nil || again != first {
		t.Errorf("sent again as %q (%v), want %q", again, err, first)
	}
	mails, err := provider.Mails(ctx, m.Recipient, 10*time.Second)
	if err != nil || len(mails) != 1 {
		t.Fatalf("%d mails, want 1 (%v)", len(mails), err)
	}
	have := mails[0]
	if have.ID != first || have.IdempotencyKey != m.ID.String() || have.Subject != m.Subject || have.Text != m.Text || have.HTML != m.HTML ||
		have.From != m.Sender || have.Headers["Auto-Submitted"] != "auto-generated" ||
		!reflect.DeepEqual(have.Tags, []mailtest.Tag{{Name: "message_id", Value: m.ID.String()}}) {
		t.Errorf("mail is %+v", have)
	}

	changed := m
	changed.Text += " and more"
	if _, err := sender.Send(ctx, changed); AsSendError(err) == nil || AsSendError(err).Outcome != Contested {
		t.Errorf("other content under the key: %v, want contested", err)
	}
	refused := testMessage()
	refused.Recipient = "nobody@example.com" // which the provider does not take
	if _, err := sender.Send(ctx, refused); AsSendError(err) == nil || AsSendError(err).Outcome != Refused {
		t.Errorf("to example.com: %v, want refused", err)
	}
	stranger, err := NewResend("re_wrong", provider.URL)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := stranger.Send(ctx, testMessage()); AsSendError(err) == nil || AsSendError(err).Outcome != Later {
		t.Errorf("with a wrong key: %v, want later", err)
	}
}
