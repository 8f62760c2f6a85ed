package mail

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/resend/resend-go/v2"
)

const (
	// sendTimeout bounds one call. It lies well inside the job's own timeout,
	// so that the outcome can still be recorded.
	sendTimeout = 15 * time.Second

	// configurationPause is the wait after the provider refused our key, or has
	// nothing at the address we were given: an operator has to act, and no mail
	// is lost meanwhile. What is sent after it tells whether it is mended.
	configurationPause = time.Minute

	// unreachablePause is the wait after no connection could be made.
	unreachablePause = 15 * time.Second

	// inFlightPause is the wait when another call with the same key is still at
	// work.
	inFlightPause = 3 * time.Second

	// maxThrottle bounds what is believed of a Retry-After.
	maxThrottle = 10 * time.Minute

	// maxRate bounds what is believed of a limit, in requests a second.
	maxRate = 1e6

	// maxReply bounds what is read of an answer: 100 ids and as many errors.
	maxReply = 1 << 20
)

// Resend sends through the Resend API.
type Resend struct {
	client *resend.Client
	now    func() time.Time
}

// NewResend is a sender with an API key. base is the API's address, empty for
// Resend's own.
func NewResend(apiKey, base string, now func() time.Time) (*Resend, error) {
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
	return &Resend{client, now}, nil
}

// Name is the row of the limiter for the provider.
func (r *Resend) Name() string { return "resend" }

// Send posts d under its id. Sending it again within the provider's 24 h gets
// the first call's answer and no second mail.
func (r *Resend) Send(ctx context.Context, d Dispatch) (Receipt, error) {
	var reply reply
	key := d.ID.String()
	switch {
	case mutant == "key":
		key = uuid.NewString()
	case mutant == "frozen" && d.Attempts > 1:
		d.Body = append(d.Body, ' ')
	}
	req, err := r.client.NewRequestWithOptions(context.WithValue(ctx, replyKey{}, &reply), http.MethodPost, strings.TrimPrefix(d.Endpoint, "/"), nil,
		&resend.BatchSendEmailOptions{IdempotencyKey: key, BatchValidation: resend.BatchValidationPermissive})
	if err != nil {
		return Receipt{}, fmt.Errorf("send dispatch %s: %w", d.ID, err)
	}
	// The library would encode the mails anew.
	req.Header.Set("Content-Type", "application/json")
	req.ContentLength = int64(len(d.Body))
	// Without GetBody: with it, the transport takes the key as leave to post again
	// by itself where a connection broke, and what became of the first time would
	// not be told.
	req.Body = io.NopCloser(bytes.NewReader(d.Body))

	_, err = r.client.Perform(req, nil) //nolint:bodyclose // keepReply read and closed it
	switch {
	case err == nil && reply.status < 300:
		receipt, err := reply.receipt(d)
		if err != nil {
			return receipt, fmt.Errorf("read the answer to dispatch %s: %w", d.ID, err)
		}
		return receipt, nil
	case reply.status == 0 && neverSent(err):
		return Receipt{}, &SendError{Outcome: Stopped, After: unreachablePause, Reason: "the provider cannot be reached: " + err.Error()}
	case reply.status == 0 || reply.status < 300:
		return Receipt{}, fmt.Errorf("send dispatch %s: %w", d.ID, err)
	}
	return Receipt{Rate: reply.rate()}, reply.sendError(r.now())
}

// neverSent tells whether a request failed before a connection stood.
func neverSent(err error) bool {
	var op *net.OpError
	return errors.As(err, &op) && op.Op == "dial"
}

// reply is an answer as the client library does not show it: with status,
// headers and body.
type reply struct {
	status int
	header http.Header
	body   []byte
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
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxReply))
	resp.Body.Close()
	if err != nil {
		return nil, err // cut off: whatever the status was, the answer is not known
	}
	r.status, r.header, r.body = resp.StatusCode, resp.Header, body
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// rate is the limit the answer announces in requests a second; 0: none that can
// be believed.
func (r *reply) rate() float64 {
	rate, err := strconv.ParseFloat(r.header.Get("Ratelimit-Limit"), 64)
	if err != nil || !(rate > 0 && rate <= maxRate) {
		return 0
	}
	return rate
}

// receipt reads the answer 200. One that does not account for every mail
// leaves the outcome unknown.
func (r *reply) receipt(d Dispatch) (Receipt, error) {
	receipt := Receipt{Items: make([]Item, len(d.MessageIDs)), Rate: r.rate()}
	if d.Endpoint == endpointOne {
		var sent resend.SendEmailResponse
		if err := json.Unmarshal(r.body, &sent); err != nil || sent.Id == "" {
			return receipt, fmt.Errorf("%d without an id", r.status)
		}
		receipt.Items[0].ProviderID = sent.Id
		return receipt, nil
	}
	var sent resend.BatchEmailResponse
	if err := json.Unmarshal(r.body, &sent); err != nil {
		return receipt, fmt.Errorf("%d without ids", r.status)
	}
	for _, refused := range sent.Errors {
		if refused.Index < 0 || refused.Index >= len(receipt.Items) || receipt.Items[refused.Index].Refusal != "" {
			return receipt, fmt.Errorf("%d with an error for mail %d of %d", r.status, refused.Index, len(receipt.Items))
		}
		receipt.Items[refused.Index].Refusal = "refused: " + refused.Message
	}
	if len(sent.Data)+len(sent.Errors) != len(receipt.Items) {
		return receipt, fmt.Errorf("%d with %d ids and %d errors for %d mails", r.status, len(sent.Data), len(sent.Errors), len(receipt.Items))
	}
	next := 0
	for i := range receipt.Items {
		if receipt.Items[i].Refusal != "" {
			continue
		}
		if sent.Data[next].Id == "" {
			return receipt, fmt.Errorf("%d with an empty id", r.status)
		}
		receipt.Items[i].ProviderID = sent.Data[next].Id
		next++
	}
	return receipt, nil
}

// sendError reads the outcome off an answer that is not 2xx.
func (r *reply) sendError(now time.Time) error {
	var named struct{ Name, Message string }
	// What is no JSON has no name: a page of a proxy in between, which says
	// nothing of the mail.
	_ = json.Unmarshal(r.body, &named)
	reason := strings.TrimSpace(fmt.Sprintf("%d %s: %s", r.status, named.Name, named.Message))
	switch {
	case r.status == http.StatusTooManyRequests && strings.HasSuffix(named.Name, "_quota_exceeded"):
		midnight := now.UTC().Truncate(24 * time.Hour).Add(24 * time.Hour)
		return &SendError{Outcome: Stopped, After: midnight.Sub(now), Reason: reason}
	case r.status == http.StatusTooManyRequests:
		after := time.Second
		if s, err := strconv.Atoi(r.header.Get("Retry-After")); err == nil && s > 0 {
			after = time.Duration(min(s, int(maxThrottle/time.Second))) * time.Second
		}
		return &SendError{Outcome: Throttled, After: after, Reason: reason}
	case named.Name == "":
	case r.status == http.StatusForbidden && named.Name == "validation_error":
		return &SendError{Outcome: SenderRefused, Reason: reason} // "The … domain is not verified."
	case r.status == http.StatusUnauthorized, r.status == http.StatusForbidden,
		r.status == http.StatusNotFound, r.status == http.StatusMethodNotAllowed: // the API's address is wrong
		return &SendError{Outcome: Stopped, After: configurationPause, Reason: reason}
	case r.status == http.StatusConflict && named.Name == "concurrent_idempotent_requests":
		return &SendError{Outcome: InFlight, After: inFlightPause, Reason: reason}
	case r.status == http.StatusConflict:
		return &SendError{Outcome: Contested, Reason: reason}
	case r.status >= 400 && r.status < 500:
		return &SendError{Outcome: Refused, Reason: reason}
	}
	// 5xx, redirects, and pages of a proxy say nothing of the mail.
	return errors.New("the outcome is unknown: " + reason)
}
