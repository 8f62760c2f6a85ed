// Package mailtest runs the mail provider's stand-in for tests.
package mailtest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	apiKey = "re_test_mailtest"
	// stopTimeout is longer than the process itself waits for answers under way.
	stopTimeout = 10 * time.Second
)

// Provider is a running stand-in for Resend: a process of its own, with its
// own mails, whose rate limit and latency are off unless a flag says otherwise.
type Provider struct {
	URL    string // http://127.0.0.1:PORT without a trailing slash
	APIKey string
}

// Mail is a mail the stand-in accepted.
type Mail struct {
	ID             string            `json:"id"`
	From           string            `json:"from"`
	To             []string          `json:"to"`
	Cc             []string          `json:"cc"`
	Bcc            []string          `json:"bcc"`
	ReplyTo        []string          `json:"reply_to"`
	Subject        string            `json:"subject"`
	HTML           string            `json:"html"`
	Text           string            `json:"text"`
	Headers        map[string]string `json:"headers"`
	Tags           []Tag             `json:"tags"`
	IdempotencyKey string            `json:"idempotency_key"`
	AcceptedAt     time.Time         `json:"accepted_at"` // by the stand-in's clock
	Answered       bool              `json:"answered"`    // an answer with its id was written in full
	Events         []Event           `json:"events"`      // what happened to it, in order
}

// Tag is a label on a mail.
type Tag struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Ledger is the stand-in's account of what it accepted.
type Ledger struct {
	Messages []LedgerLine `json:"messages"` // in order of first acceptance
	Counters Counters     `json:"counters"`
	Faults   []FaultHit   `json:"faults"` // in order
	// TwoHashes are the idempotency keys that came with more than one payload:
	// none if all is well.
	TwoHashes []struct {
		Scope  string   `json:"scope"` // POST /emails
		Key    string   `json:"key"`
		Hashes []string `json:"hashes"` // SHA-256 of the payloads, byte by byte
	} `json:"two_hashes"`
}

// LedgerLine is the accepted mails with one value of the tag message_id; those
// without the tag share the empty one.
type LedgerLine struct {
	MessageID string   `json:"message_id"`
	Count     int      `json:"count"`    // accepted mails: 1 if all is well
	Answered  int      `json:"answered"` // of them, told to the sender
	To        []string `json:"to"`
	Keys      []string `json:"keys"` // idempotency keys, each once
	EmailIDs  []string `json:"email_ids"`
}

// Counters are figures since the last reset. Accepted and Answered count
// mails, the others requests.
type Counters struct {
	Accepted           int `json:"accepted"`
	Answered           int `json:"answered"`
	Requests           int `json:"requests"`
	MaxInAnySecond     int `json:"max_in_any_second"`
	Rejected429        int `json:"rejected_429"`
	OverQuota          int `json:"over_quota"`
	ForgeriesTaken     int `json:"forgeries_taken"` // webhooks with a bad or stale signature that were answered 2xx
	Replayed           int `json:"replayed"`
	ConflictingKeys    int `json:"conflicting_keys"`
	ConcurrentRequests int `json:"concurrent_requests"`
}

// FaultHit says what a fault did. Status is 0 where there was no answer, or
// the regular one; EmailIDs are the mails accepted behind the failed answer.
type FaultHit struct {
	When     string   `json:"when"`
	Kind     string   `json:"kind"`
	Status   int      `json:"status"`
	Request  int      `json:"request"` // which one since the last reset, from 1
	Key      string   `json:"key"`     // its idempotency key
	EmailIDs []string `json:"email_ids"`
}

// Config changes settings; what is nil or empty stays.
type Config struct {
	Rate           *int        `json:"rate,omitempty"`          // requests per second, 0 unlimited and unannounced
	Window         string      `json:"window,omitempty"`        // sliding or fixed
	DailyQuota     *int        `json:"daily_quota,omitempty"`   // recipients, 0 unlimited
	MonthlyQuota   *int        `json:"monthly_quota,omitempty"` // recipients, 0 unlimited
	LatencyMS      *[2]float64 `json:"latency_ms,omitempty"`    // shortest and longest wait between acceptance and answer
	Seed           *uint64     `json:"seed,omitempty"`          // of everything that is left to luck
	Idempotency    string      `json:"idempotency,omitempty"`   // how payloads compare: bytes or canonical
	KeyScope       string      `json:"key_scope,omitempty"`     // endpoint or team
	HoldFailedKeys *bool       `json:"hold_failed_keys,omitempty"`
	EventGapMS     *float64    `json:"event_gap_ms,omitempty"` // from one thing that happens to a mail to the next
	Webhook        *Webhook    `json:"webhook,omitempty"`
}

// Webhook says where events are told and what goes wrong on the way. It is
// set as a whole. The shares are probabilities from 0 to 1, drawn once per
// event.
type Webhook struct {
	URL        string   `json:"url"`                   // empty: nobody is told
	Secrets    []string `json:"secrets"`               // whsec_...; all of them sign
	Hold       bool     `json:"hold"`                  // tell nothing but on Deliver
	RetryScale float64  `json:"retry_scale,omitempty"` // of the waits between attempts (5 s, 5 min, ... 10 h); 0 leaves it

	Duplicate      float64    `json:"duplicate"`
	Reorder        float64    `json:"reorder"` // told after the mail's next event
	Delay          float64    `json:"delay"`
	DelayMS        [2]float64 `json:"delay_ms"`
	Drop           float64    `json:"drop"`
	BeforeAnswer   float64    `json:"before_answer"` // share of accepting requests whose mails' first events are told before the answer
	BadSignature   float64    `json:"bad_signature"`
	StaleSignature float64    `json:"stale_signature"`
	Foreign        float64    `json:"foreign"`
	UnknownType    float64    `json:"unknown_type"`
	UnknownFields  float64    `json:"unknown_fields"`
	Replay         float64    `json:"replay"` // followed by an earlier event once more
}

// Fault is a failure to come. When is "before" (nothing is accepted, the
// default) or "after" (the mail is accepted, or was by an earlier request with
// the same key, and the answer is lost).
type Fault struct {
	Match Match `json:"match"`
	Times int   `json:"times,omitempty"` // 0 is once, or for ever with a Probability
	// Probability is the share of matching requests it strikes; 0 is all.
	Probability float64 `json:"probability,omitempty"`
	When        string  `json:"when,omitempty"`
	// Kind is status (the default), html_502, text_429, slow, timeout, reset,
	// eof, truncated, no_id or down; cmd/fakeresend/README.md describes them.
	Kind    string            `json:"kind,omitempty"`
	Status  int               `json:"status,omitempty"`
	Body    *string           `json:"body,omitempty"` // nil is the provider's error body for Status
	Headers map[string]string `json:"headers,omitempty"`
	Delay   Duration          `json:"delay,omitempty"` // of slow and down
	Drop    bool              `json:"drop,omitempty"`  // close the connection without an answer, as kind eof
}

// Duration is a time.Duration that JSON spells "50ms".
type Duration time.Duration

// MarshalText spells the duration.
func (d Duration) MarshalText() ([]byte, error) { return []byte(time.Duration(d).String()), nil }

// Match picks requests; the empty one matches all.
type Match struct {
	To        string `json:"to,omitempty"`         // an address among the recipients
	MessageID string `json:"message_id,omitempty"` // the value of a mail's tag message_id
	Path      string `json:"path,omitempty"`       // /emails or /emails/batch
}

// Step is something that happens to a mail. What it needs and lacks is filled
// in: a bounce is then permanent.
type Step struct {
	After      Duration    `json:"after"` // since its request was answered, by the stand-in's clock
	Type       string      `json:"type"`  // email.delivered
	Bounce     *Bounce     `json:"bounce,omitempty"`
	Failed     *Failed     `json:"failed,omitempty"`
	Suppressed *Suppressed `json:"suppressed,omitempty"`
}

// Bounce, Failed and Suppressed are what webhooks of these types tell, spelt
// as the provider spells it.
type (
	// Bounce says how a mail bounced.
	Bounce struct {
		Type           string   `json:"type"`    // Permanent, Transient or Undetermined
		SubType        string   `json:"subType"` // General, NoEmail, MailboxFull, ...
		Message        string   `json:"message"`
		DiagnosticCode []string `json:"diagnosticCode"`
	}
	// Failed says why a mail was not sent.
	Failed struct {
		Reason string `json:"reason"`
	}
	// Suppressed says why a mail was held back.
	Suppressed struct {
		Type           string   `json:"type"`
		Reason         string   `json:"reason"` // previous_bounce or previous_complaint
		Message        string   `json:"message"`
		DiagnosticCode []string `json:"diagnosticCode"`
	}
)

// Event is something that happened, as the webhook tells it.
type Event struct {
	ID        string    `json:"id"` // svix-id
	Type      string    `json:"type"`
	At        time.Time `json:"at"`         // by the stand-in's clock
	EmailID   string    `json:"email_id"`   // empty if it is about no mail of ours
	MessageID string    `json:"message_id"` // the value of the mail's tag message_id
	Told      bool      `json:"told"`       // the webhook answered 2xx
	Attempts  []Attempt `json:"attempts"`
}

// Attempt is one request to the webhook.
type Attempt struct {
	At     time.Time `json:"at"`
	What   string    `json:"what"`   // empty for a plain delivery, else duplicate, bad_signature, ...
	Status int       `json:"status"` // 0: no answer
	Error  string    `json:"error"`
}

// Suppression is an address the provider does not write to.
type Suppression struct {
	ID     string `json:"id"`
	Email  string `json:"email"`
	Origin string `json:"origin"` // bounce, complaint or manual
}

// Unlimited is a rate nobody meets, but which is announced like any other, so
// that a sender that follows the provider's headers goes as fast as it can.
const Unlimited = 100_000

// Start runs a stand-in until the test ends. flags are those of
// cmd/fakeresend, and win over the helper's own except for -api-key.
func Start(t testing.TB, flags ...string) *Provider {
	t.Helper()
	binary, err := build()
	if err != nil {
		t.Fatal(err)
	}
	args := slices.Concat([]string{"-rate", "0", "-latency", "0s"}, flags, []string{"-api-key", apiKey, "-until-stdin-closes"})
	cmd := exec.Command(binary, args...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatalf("start fakeresend: %v", err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatalf("start fakeresend: %v", err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatalf("start fakeresend: %v", err)
	}
	t.Cleanup(func() {
		stdin.Close()
		hung := time.AfterFunc(stopTimeout, func() { _ = cmd.Process.Kill() })
		defer hung.Stop()
		if err := cmd.Wait(); err != nil {
			t.Errorf("stop fakeresend: %v", err)
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	address, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if err != nil || !ok {
		t.Fatalf("start fakeresend: it said %q (%v)", line, err)
	}
	return &Provider{URL: address, APIKey: apiKey}
}

// build returns the path of the stand-in's binary, built at most once per
// process. The binary lives in Go's build cache: "go run" keeps it there, and
// -exec echo makes it tell where instead of running it. The first run after a
// change names a temporary copy, which is gone by then.
var build = sync.OnceValues(func() (string, error) {
	for range 2 {
		var stderr bytes.Buffer
		cmd := exec.Command("go", "run", "-exec", "echo", "usher/cmd/fakeresend")
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			return "", fmt.Errorf("build fakeresend: %w\n%s", err, stderr.Bytes())
		}
		path := strings.TrimSpace(string(out))
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", errors.New("build fakeresend: go run kept no binary")
})

// Mails returns the mails to an address, or all if it is empty, in order of
// acceptance. It waits up to wait for the first one; none is no error.
func (p *Provider) Mails(ctx context.Context, to string, wait time.Duration) ([]Mail, error) {
	return p.MailsN(ctx, to, 1, wait)
}

// MailsN is Mails that waits for n mails instead of one.
func (p *Provider) MailsN(ctx context.Context, to string, n int, wait time.Duration) ([]Mail, error) {
	q := url.Values{"count": {fmt.Sprint(n)}, "wait": {wait.String()}}
	if to != "" {
		q.Set("to", to)
	}
	var mails []Mail
	err := p.admin(ctx, http.MethodGet, "mails?"+q.Encode(), nil, &mails)
	return mails, err
}

// Ledger returns the account of everything accepted.
func (p *Provider) Ledger(ctx context.Context) (Ledger, error) {
	var l Ledger
	err := p.admin(ctx, http.MethodGet, "ledger", nil, &l)
	return l, err
}

// Config changes the stand-in's settings.
func (p *Provider) Config(ctx context.Context, c Config) error {
	return p.admin(ctx, http.MethodPost, "config", c, nil)
}

// Fail sets the failures to come, the first that matches first. They replace
// those set before; without any, nothing fails.
func (p *Provider) Fail(ctx context.Context, faults ...Fault) error {
	return p.admin(ctx, http.MethodPut, "faults", append([]Fault{}, faults...), nil)
}

// Fate sets what happens to mail to an address that is accepted from now on,
// instead of what its name says. No steps are silence.
func (p *Provider) Fate(ctx context.Context, address string, steps ...Step) error {
	return p.admin(ctx, http.MethodPut, "fates/"+url.PathEscape(address), append([]Step{}, steps...), nil)
}

// ForgetFate makes an address like any other again.
func (p *Provider) ForgetFate(ctx context.Context, address string) error {
	return p.admin(ctx, http.MethodDelete, "fates/"+url.PathEscape(address), nil, nil)
}

// Happen makes something happen to an accepted mail now, beside its fate;
// After does not count.
func (p *Provider) Happen(ctx context.Context, emailID string, step Step) (Event, error) {
	var ev Event
	err := p.admin(ctx, http.MethodPost, "events", struct {
		EmailID string `json:"email_id"`
		Step
	}{emailID, step}, &ev)
	return ev, err
}

// Events returns what happened to mails to an address, or everything if it is
// empty, in order. It waits up to wait for n events; fewer are no error.
func (p *Provider) Events(ctx context.Context, to string, n int, wait time.Duration) ([]Event, error) {
	return p.events(ctx, url.Values{"to": {to}, "count": {fmt.Sprint(n)}, "wait": {wait.String()}})
}

// Quiet waits up to wait until no answer is owed, nothing is left to happen to
// any mail, and nothing is left to be told, retries included. It returns all
// events, and an error if it did not get so far.
func (p *Provider) Quiet(ctx context.Context, wait time.Duration) ([]Event, error) {
	began := time.Now()
	list, err := p.events(ctx, url.Values{"quiet": {"true"}, "wait": {wait.String()}})
	if err == nil && wait > 0 && time.Since(began) >= wait {
		err = fmt.Errorf("wait for quiet: not yet after %s", wait)
	}
	return list, err
}

func (p *Provider) events(ctx context.Context, q url.Values) ([]Event, error) {
	var list []Event
	err := p.admin(ctx, http.MethodGet, "events?"+q.Encode(), nil, &list)
	return list, err
}

// Deliver tells the webhook of events now, one after the other in this order,
// whether they were told before or not. It returns the status of each answer,
// 0 where there was none.
func (p *Provider) Deliver(ctx context.Context, eventIDs ...string) ([]int, error) {
	var out struct {
		Statuses []int `json:"statuses"`
	}
	err := p.admin(ctx, http.MethodPost, "deliver", map[string][]string{"ids": append([]string{}, eventIDs...)}, &out)
	return out.Statuses, err
}

// Suppressions returns the newest 100 addresses on the suppression list. It is
// a request to the provider like any other, and counts as one.
func (p *Provider) Suppressions(ctx context.Context) ([]Suppression, error) {
	var out struct {
		Data []Suppression `json:"data"`
	}
	err := p.call(ctx, http.MethodGet, "/suppressions?limit=100", nil, &out)
	return out.Data, err
}

// Suppress puts an address on the suppression list, as the provider's
// dashboard would. It is a request like any other, too.
func (p *Provider) Suppress(ctx context.Context, address string) error {
	return p.call(ctx, http.MethodPost, "/suppressions", map[string]string{"email": address}, nil)
}

// Advance moves the stand-in's clock, by which idempotency keys grow old, days
// and months begin, and events and webhook retries come due.
func (p *Provider) Advance(ctx context.Context, d time.Duration) error {
	return p.admin(ctx, http.MethodPost, "clock", map[string]string{"advance": d.String()}, nil)
}

// Reset forgets mails, keys, events, suppressions, counters, faults and fates,
// and goes back to the flags.
func (p *Provider) Reset(ctx context.Context) error {
	return p.admin(ctx, http.MethodPost, "reset", nil, nil)
}

// admin calls /_admin/path; in and out may be nil.
func (p *Provider) admin(ctx context.Context, method, path string, in, out any) error {
	return p.call(ctx, method, "/_admin/"+path, in, out)
}

// call calls a path; in and out may be nil.
func (p *Provider) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode %s: %w", path, err)
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, p.URL+path, body)
	if err != nil {
		return fmt.Errorf("ask fakeresend: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+p.APIKey)
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("ask fakeresend: %w", err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("ask fakeresend: %w", err)
	}
	if resp.StatusCode > 299 {
		return fmt.Errorf("ask fakeresend: %s: %s", resp.Status, bytes.TrimSpace(data))
	}
	if out == nil {
		return nil
	}
	if err := json.Unmarshal(data, out); err != nil {
		return fmt.Errorf("decode %s: %w", path, err)
	}
	return nil
}
