package hook

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

	"github.com/google/uuid"
	webhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
)

const (
	// maxAnswer bounds what is read of an answer's body, keptAnswer what is kept
	// of it in the log, both in bytes. A connection whose answer is longer is
	// not used again.
	maxAnswer  = 64 << 10
	keptAnswer = 1 << 10

	// maxError bounds the words kept of a failed attempt, in bytes.
	maxError = 300

	// maxRest bounds the rest that an endpoint may ask for by Retry-After.
	maxRest = time.Hour

	userAgent = "Usher-Webhooks/1"
)

// event is what a webhook tells. Every attempt makes the same bytes of it.
type event struct {
	ID        uuid.UUID
	AppID     uuid.UUID
	Type      string
	At        time.Time
	SubjectID uuid.UUID
	ActorID   *uuid.UUID
	Data      json.RawMessage
}

// body is the webhook's: type, timestamp and data, as Standard Webhooks has it.
func (e event) body() ([]byte, error) {
	type data struct {
		AppID     uuid.UUID       `json:"app_id"`
		SubjectID uuid.UUID       `json:"subject_id"`
		ActorID   *uuid.UUID      `json:"actor_id"`
		Details   json.RawMessage `json:"details"`
	}
	body, err := json.Marshal(struct {
		Type      string    `json:"type"`
		Timestamp time.Time `json:"timestamp"`
		Data      data      `json:"data"`
	}{e.Type, e.At.UTC(), data{e.AppID, e.SubjectID, e.ActorID, e.Data}})
	if err != nil {
		return nil, fmt.Errorf("write webhook of event %s: %w", e.ID, err)
	}
	return body, nil
}

// Attempt is one try to deliver an event.
type Attempt struct {
	At     time.Time `json:"at"`
	Status int       `json:"status"` // the answer's; 0: there was none
	MS     int64     `json:"ms"`     // how long it took, in milliseconds
	Error  string    `json:"error"`  // why it failed; empty: it did not
	Body   string    `json:"body"`   // the beginning of the answer's

	rest time.Duration // what the answer asked for
}

// ok tells whether the endpoint took the webhook.
func (a Attempt) ok() bool { return a.Error == "" }

// post tries once.
func post(ctx context.Context, client *http.Client, address string, keys [][]byte, e event, now func() time.Time) (a Attempt) {
	a.At = now().UTC()
	start := time.Now()
	defer func() { a.MS = time.Since(start).Milliseconds() }()
	req, err := request(ctx, address, keys, e, a.At)
	if err != nil {
		a.Error = clean(err.Error(), maxError)
		return a
	}
	resp, err := client.Do(req)
	if err != nil {
		a.Error = reason(err)
		return a
	}
	defer resp.Body.Close()
	a.Status = resp.StatusCode
	// What was read counts, should the rest not come.
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	a.Body = clean(string(body[:min(len(body), keptAnswer)]), keptAnswer)
	switch {
	case a.Status >= 200 && a.Status < 300:
	case a.Status >= 300 && a.Status < 400:
		a.Error = "it answered " + resp.Status + ", and redirects are not followed; enter the address it leads to"
	default:
		a.Error = "it answered " + resp.Status
		a.rest = rest(resp.Header.Get("Retry-After"), a.At)
	}
	a.Error = clean(a.Error, maxError)
	return a
}

// request is the signed webhook, with a signature by each key.
func request(ctx context.Context, address string, keys [][]byte, e event, at time.Time) (*http.Request, error) {
	body, err := e.body()
	if err != nil {
		return nil, err
	}
	signatures := make([]string, len(keys))
	for i, key := range keys {
		signer, err := webhooks.NewWebhookRaw(key)
		if err == nil {
			signatures[i], err = signer.Sign(e.ID.String(), at, body)
		}
		if err != nil {
			return nil, fmt.Errorf("sign webhook: %w", err)
		}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", userAgent)
	req.Header.Set(webhooks.HeaderWebhookID, e.ID.String())
	req.Header.Set(webhooks.HeaderWebhookTimestamp, strconv.FormatInt(at.Unix(), 10))
	req.Header.Set(webhooks.HeaderWebhookSignature, strings.Join(signatures, " "))
	return req, nil
}

// reason is why no answer came, without the address, which the app knows.
func reason(err error) string {
	var u *url.Error
	switch {
	case errors.Is(err, errNotPublic):
		return errNotPublic.Error()
	case errors.As(err, &u) && u.Timeout():
		return fmt.Sprintf("it did not answer within %.0f seconds", answerTime.Seconds())
	case errors.As(err, &u):
		err = u.Err
	}
	return clean(err.Error(), maxError)
}

// rest is what a Retry-After asks for, at most maxRest.
func rest(header string, now time.Time) time.Duration {
	if header == "" {
		return 0
	}
	d := time.Duration(0)
	if seconds, err := strconv.ParseInt(header, 10, 32); err == nil {
		d = time.Duration(seconds) * time.Second
	} else if at, err := http.ParseTime(header); err == nil {
		d = at.Sub(now)
	}
	return min(max(d, 0), maxRest)
}

// clean makes one line of a stranger's text, of at most size bytes.
func clean(text string, size int) string {
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f }), " ")
	if len(text) > size {
		text = text[:size]
	}
	return strings.ToValidUTF8(text, "")
}
