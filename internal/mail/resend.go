package mail

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/resend/resend-go/v2"
)

const (
	// sendTimeout bounds one call. It lies well inside the job's own timeout,
	// so that the outcome can still be recorded.
	sendTimeout = 15 * time.Second

	// configurationPause is the wait after the provider refused our key or
	// domain: an operator has to act, and no mail is lost meanwhile.
	configurationPause = time.Minute

	// inFlightPause is the wait when another call with the same key is still at
	// work.
	inFlightPause = 3 * time.Second

	// maxReply bounds what is read of an error's body.
	maxReply = 64 << 10
)

// Resend sends through the Resend API. The message's id is the Idempotency-Key
// and stands in the tag message_id, by which later events find it.
type Resend struct {
	client *resend.Client
}

// NewResend is a sender with an API key. base is the API's address, empty for
// Resend's own.
func NewResend(apiKey, base string) (*Resend, error) {
	client := resend.NewCustomClient(&http.Client{
		Timeout:   sendTimeout,
		Transport: keepReply{http.DefaultTransport},
		// A redirect would carry the key to wherever it points.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}, apiKey)
	if base == "" {
		base = "https://api.resend.com"
	}
	address, err := url.Parse(strings.TrimRight(base, "/") + "/")
	if err != nil || address.Host == "" {
		return nil, fmt.Errorf("read RESEND_BASE_URL %q: not an absolute URL", base)
	}
	client.BaseURL = address
	return &Resend{client}, nil
}

// Send posts m under its id. Sending it again within the provider's 24 h gets
// the first call's answer and no second mail.
func (r *Resend) Send(ctx context.Context, m Message) (string, error) {
	var reply reply
	ctx = context.WithValue(ctx, replyKey{}, &reply)
	sent, err := r.client.Emails.SendWithOptions(ctx, &resend.SendEmailRequest{
		From:    m.Sender,
		To:      []string{m.Recipient},
		Subject: m.Subject,
		Text:    m.Text,
		Html:    m.HTML,
		Headers: map[string]string{"Auto-Submitted": "auto-generated"},
		Tags:    []resend.Tag{{Name: "message_id", Value: m.ID.String()}},
	}, &resend.SendEmailOptions{IdempotencyKey: m.ID.String()})
	switch {
	case err == nil && sent.Id != "":
		return sent.Id, nil
	case err == nil:
		return "", errors.New("the provider answered 200 without an id")
	case reply.status == 0 || reply.status < 300:
		return "", fmt.Errorf("send message %s: %w", m.ID, err)
	}
	return "", reply.sendError()
}

// reply is what the client library drops of an answer: its status, its error's
// name, its headers.
type reply struct {
	status  int
	name    string
	message string
	header  http.Header
}

type replyKey struct{}

// keepReply is a transport that copies what it sees into the request's reply.
type keepReply struct{ next http.RoundTripper }

func (k keepReply) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := k.next.RoundTrip(req)
	r, ok := req.Context().Value(replyKey{}).(*reply)
	if err != nil || !ok {
		return resp, err
	}
	r.status, r.header = resp.StatusCode, resp.Header
	if resp.StatusCode < 300 {
		return resp, nil
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	resp.Body.Close()
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	var named struct{ Name, Message string }
	if json.Unmarshal(body, &named) == nil {
		r.name, r.message = named.Name, named.Message
	}
	return resp, nil
}

// sendError reads the outcome off an answer that is not 2xx.
func (r *reply) sendError() error {
	reason := strings.TrimSpace(fmt.Sprintf("%d %s: %s", r.status, r.name, r.message))
	switch {
	case r.status == http.StatusTooManyRequests:
		after := time.Second
		if s, err := strconv.Atoi(r.header.Get("Retry-After")); err == nil && s > 0 && s < 86400 {
			after = time.Duration(s) * time.Second
		} else if strings.HasSuffix(r.name, "_quota_exceeded") {
			after = time.Hour
		}
		return &SendError{Outcome: Later, After: after, Reason: reason}
	case r.status == http.StatusUnauthorized, r.status == http.StatusForbidden:
		return &SendError{Outcome: Later, After: configurationPause, Reason: reason}
	case r.status == http.StatusConflict && r.name == "concurrent_idempotent_requests":
		return &SendError{Outcome: Later, After: inFlightPause, Reason: reason}
	case r.status == http.StatusConflict && r.name != "":
		return &SendError{Outcome: Contested, Reason: reason}
	case r.status >= 400 && r.status < 500 && r.name != "":
		return &SendError{Outcome: Refused, Reason: reason}
	}
	// 5xx, redirects, and pages of a proxy in between say nothing of the mail.
	return errors.New("the outcome is unknown: " + reason)
}
