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
	Replayed           int `json:"replayed"`
	ConflictingKeys    int `json:"conflicting_keys"`
	ConcurrentRequests int `json:"concurrent_requests"`
}

// FaultHit says what a scripted fault did. Status is 0 for a dropped
// connection; EmailIDs are the mails accepted behind the failed answer.
type FaultHit struct {
	When     string   `json:"when"`
	Status   int      `json:"status"`
	EmailIDs []string `json:"email_ids"`
}

// Config changes settings; what is nil stays.
type Config struct {
	Rate        *int        `json:"rate,omitempty"`        // requests per second, 0 unlimited
	LatencyMS   *[2]float64 `json:"latency_ms,omitempty"`  // shortest and longest wait between acceptance and answer
	Idempotency string      `json:"idempotency,omitempty"` // how payloads compare: bytes or canonical
}

// Fault is a scripted failure: a status, or another Kind. When is "before"
// (nothing is accepted, the default) or "after" (the mail is accepted, or was by
// an earlier request with the same key, and the answer is lost).
type Fault struct {
	Match   Match             `json:"match"`
	Times   int               `json:"times,omitempty"` // 0 is once
	When    string            `json:"when,omitempty"`
	Kind    string            `json:"kind,omitempty"` // what the stand-in's README lists: reset, truncated, timeout …
	Status  int               `json:"status,omitempty"`
	Body    *string           `json:"body,omitempty"` // nil is the provider's error body for Status
	Headers map[string]string `json:"headers,omitempty"`
	Drop    bool              `json:"drop,omitempty"` // close the connection without an answer
}

// Match picks requests; the empty one matches all.
type Match struct {
	To   string `json:"to,omitempty"`   // an address among the recipients
	Path string `json:"path,omitempty"` // /emails/batch
}

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

// Fail replaces the faults that are to come.
func (p *Provider) Fail(ctx context.Context, faults ...Fault) error {
	if faults == nil {
		faults = []Fault{}
	}
	return p.admin(ctx, http.MethodPut, "faults", faults, nil)
}

// Advance moves the stand-in's clock, by which idempotency keys grow old.
func (p *Provider) Advance(ctx context.Context, d time.Duration) error {
	return p.admin(ctx, http.MethodPost, "clock", map[string]string{"advance": d.String()}, nil)
}

// Reset forgets mails, keys, counters and faults, and goes back to the flags.
func (p *Provider) Reset(ctx context.Context) error {
	return p.admin(ctx, http.MethodPost, "reset", nil, nil)
}

// admin calls /_admin/path; in and out may be nil.
func (p *Provider) admin(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("encode %s: %w", path, err)
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, p.URL+"/_admin/"+path, body)
	if err != nil {
		return fmt.Errorf("ask fakeresend: %w", err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("ask fakeresend: %w", err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		return fmt.Errorf("ask fakeresend: %w", err)
	}
	if resp.StatusCode != http.StatusOK {
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
