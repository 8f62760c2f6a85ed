package main

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// ladder is how long Resend waits before each attempt at telling an event,
// since the one before.
var ladder = []time.Duration{
	0, 5 * time.Second, 5 * time.Minute, 30 * time.Minute, 2 * time.Hour, 5 * time.Hour, 10 * time.Hour, 10 * time.Hour,
}

const (
	// webhookTimeout is how long an endpoint may take to answer 2xx.
	webhookTimeout = 15 * time.Second
	// webhooksAtOnce bounds the requests under way to the endpoint.
	webhooksAtOnce = 16
	// staleBy is older than the five minutes an endpoint should put up with.
	staleBy = 10 * time.Minute
	// behind is by how much a reordered event comes after the next one.
	behind = 50 * time.Millisecond
)

// webhookConfig says where events are told, and what goes wrong on the way.
// The shares are probabilities from 0 to 1, each drawn once per event.
type webhookConfig struct {
	URL        string   `json:"url"`         // empty: nobody is told
	Secrets    []string `json:"secrets"`     // whsec_...; all of them sign
	Hold       bool     `json:"hold"`        // tell nothing but on /_admin/deliver
	RetryScale float64  `json:"retry_scale"` // by which the waits between attempts are multiplied

	Duplicate      float64    `json:"duplicate"`       // told twice under one id
	Reorder        float64    `json:"reorder"`         // told after the mail's next event
	Delay          float64    `json:"delay"`           // told later, by delay_ms
	DelayMS        [2]float64 `json:"delay_ms"`        // shortest and longest delay
	Drop           float64    `json:"drop"`            // never told
	BeforeAnswer   float64    `json:"before_answer"`   // share of accepting requests whose mails' first events are told before the answer
	BadSignature   float64    `json:"bad_signature"`   // preceded by a forgery of it
	StaleSignature float64    `json:"stale_signature"` // preceded by one that was signed long ago
	Foreign        float64    `json:"foreign"`         // joined by an event about somebody else's mail
	UnknownType    float64    `json:"unknown_type"`    // joined by an event of a type that does not exist
	UnknownFields  float64    `json:"unknown_fields"`  // carries fields that do not exist
	Replay         float64    `json:"replay"`          // followed by an earlier event once more
}

func (c *webhookConfig) check() error {
	if c.URL != "" {
		if u, err := url.Parse(c.URL); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
			return fmt.Errorf("webhook url %q: want one that begins with http:// or https://", c.URL)
		}
		if len(c.Secrets) == 0 {
			return errors.New("webhook secrets: a url needs at least one")
		}
	}
	for _, secret := range c.Secrets {
		if _, err := secretKey(secret); err != nil {
			return err
		}
	}
	if c.RetryScale < 0 {
		return errors.New("webhook retry_scale: must not be negative")
	}
	if c.DelayMS[0] < 0 || c.DelayMS[1] < c.DelayMS[0] {
		return fmt.Errorf("webhook delay_ms %v: want 0 <= shortest <= longest", c.DelayMS)
	}
	for _, share := range []float64{
		c.Duplicate, c.Reorder, c.Delay, c.Drop, c.BeforeAnswer, c.BadSignature, c.StaleSignature,
		c.Foreign, c.UnknownType, c.UnknownFields, c.Replay,
	} {
		if share < 0 || share > 1 {
			return fmt.Errorf("webhook share %v: want 0 to 1", share)
		}
	}
	return nil
}

// secretKey is the key in a webhook secret.
func secretKey(secret string) ([]byte, error) {
	text, ok := strings.CutPrefix(secret, "whsec_")
	key, err := base64.StdEncoding.DecodeString(text)
	if !ok || err != nil || len(key) == 0 {
		return nil, fmt.Errorf("webhook secret %q: want whsec_ and base64", secret)
	}
	return key, nil
}

// delivery is an event on its way.
type delivery struct {
	event  *event
	rung   int    // of the ladder
	what   string // empty for a plain delivery; any other is tried once
	origin int    // the reset after which it began
}

// tell puts an event's delivery on the agenda, with the company that its luck
// gives it; the caller holds mu.
func (s *server) tell(news *entry, ev *event, e *email) {
	hook, now := &s.config.Webhook, s.now()
	lucky := func(share float64, what string) bool { return s.luck(what, ev.Number) < share }
	send := func(at time.Time, ev *event, what string) {
		s.put(task{at: at, delivery: &delivery{event: ev, what: what, origin: s.resets}})
	}
	if lucky(hook.Drop, "drop") {
		return
	}
	at := now
	if lucky(hook.Delay, "delay") {
		at = at.Add(s.between(hook.DelayMS, "delay for", ev.Number))
	}
	if e != nil && ev.Step > 0 && ev.Step < len(e.plan) && lucky(hook.Reorder, "reorder") {
		at = at.Add(time.Duration(e.plan[ev.Step].After-e.plan[ev.Step-1].After) + behind)
	}
	if lucky(hook.BadSignature, badSignature) {
		send(at, ev, badSignature)
	}
	if lucky(hook.StaleSignature, staleSignature) {
		send(at, ev, staleSignature)
	}
	send(at, ev, "")
	if lucky(hook.Duplicate, "duplicate") {
		send(at.Add(s.between([2]float64{0, 100}, "duplicate after", ev.Number)), ev, "duplicate")
	}
	if n := int(s.luck("which", ev.Number) * float64(len(s.events))); lucky(hook.Replay, "replay") && s.events[n].Told {
		send(at, s.events[n], "replay")
	}
	if e == nil {
		return // company has no company
	}
	if lucky(hook.Foreign, "foreign") {
		data := s.data(ev, e)
		data["email_id"], data["message_id"] = uuid.NewString(), "<"+uuid.NewString()+"@elsewhere.test>"
		data["to"], data["tags"] = []string{"stranger@elsewhere.test"}, map[string]string{"message_id": uuid.NewString()}
		s.occur(news, &event{Type: ev.Type, Data: data}, nil)
	}
	if lucky(hook.UnknownType, "unknown type") {
		s.occur(news, &event{Type: "email.teleported", Data: s.data(ev, e)}, nil)
	}
}

// What a forgery is called.
const (
	badSignature   = "bad_signature"
	staleSignature = "stale_signature"
)

// data is what a webhook says of a mail; the caller holds mu.
func (s *server) data(ev *event, e *email) map[string]any {
	data := map[string]any{
		"email_id": e.ID, "message_id": e.headerID(), "created_at": webhookTime(e.AcceptedAt),
		"from": e.From, "to": e.To, "subject": e.Subject,
	}
	if len(ev.To) > 0 {
		data["to"] = ev.To
	}
	if len(e.Tags) > 0 {
		tags := map[string]string{}
		for _, t := range e.Tags {
			tags[t.Name] = t.Value
		}
		data["tags"] = tags
	}
	if len(e.Headers) > 0 {
		headers := []tag{}
		for name, value := range e.Headers {
			headers = append(headers, tag{name, value})
		}
		data["headers"] = headers
	}
	if ev.Bounce != nil {
		data["bounce"] = ev.Bounce
	}
	if ev.Failed != nil {
		data["failed"] = ev.Failed
	}
	if ev.Suppressed != nil {
		data["suppressed"] = ev.Suppressed
	}
	return data
}

// payload is a webhook's body; the caller holds mu.
func (s *server) payload(ev *event) []byte {
	data := ev.Data
	if e := s.byID[ev.EmailID]; e != nil {
		data = s.data(ev, e)
	}
	body := map[string]any{"type": ev.Type, "created_at": webhookTime(ev.At), "data": data}
	if s.luck("unknown fields", ev.Number) < s.config.Webhook.UnknownFields {
		body["flavour"] = map[string]any{"of": []string{"the", "month"}}
		data = maps.Clone(data)
		data["sent_by_pigeon"] = true
		body["data"] = data
	}
	return mustJSON(body)
}

// webhookTime is a time as webhooks spell it.
func webhookTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// deliver makes one attempt at telling an event, and puts the next one on the
// agenda if it fails. It returns the status, 0 if there was no answer.
func (s *server) deliver(d *delivery) int {
	s.slots <- struct{}{}
	defer func() { <-s.slots }()
	s.mu.Lock()
	hook, ev := s.config.Webhook, d.event
	if d.origin != s.resets || hook.URL == "" {
		s.busy--
		s.announce()
		s.mu.Unlock()
		return 0
	}
	body, at := s.payload(ev), s.now()
	s.mu.Unlock()

	status, err := s.post(&hook, ev.ID, d.what, body)
	told := status >= 200 && status < 300
	try := attempt{At: at, What: d.what, Status: status}
	if err != nil {
		try.Error = err.Error()
	}

	s.gate.RLock()
	defer s.gate.RUnlock()
	s.mu.Lock()
	s.busy--
	var news entry
	if d.origin == s.resets {
		ev.Attempts = append(ev.Attempts, try)
		switch {
		case d.what == badSignature || d.what == staleSignature:
			if told {
				s.count.ForgeriesTaken++
			}
		case told && !ev.Told:
			ev.Told = true
			news.Told = []string{ev.ID}
		case !told && d.what == "" && d.rung+1 < len(ladder):
			wait := time.Duration(float64(ladder[d.rung+1]) * hook.RetryScale)
			s.put(task{at: s.now().Add(wait), delivery: &delivery{event: ev, rung: d.rung + 1, origin: d.origin}})
		}
	}
	s.announce()
	s.mu.Unlock()
	s.note(news)
	return status
}

// post sends a signed request and returns the status of its answer.
func (s *server) post(hook *webhookConfig, id, what string, body []byte) (int, error) {
	ctx, cancel := context.WithTimeout(s.life, webhookTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, hook.URL, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	// The endpoint's clock is the real one, whatever ours says.
	signedAt := time.Now()
	if what == staleSignature {
		signedAt = signedAt.Add(-staleBy)
	}
	stamp := strconv.FormatInt(signedAt.Unix(), 10)
	var signatures []string
	for _, secret := range hook.Secrets {
		key, err := secretKey(secret)
		if err != nil {
			return 0, err
		}
		if what == badSignature {
			key = append(key, '!')
		}
		mac := hmac.New(sha256.New, key)
		fmt.Fprintf(mac, "%s.%s.%s", id, stamp, body)
		signatures = append(signatures, "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)))
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "fakeresend")
	req.Header.Set("svix-id", id)
	req.Header.Set("svix-timestamp", stamp)
	req.Header.Set("svix-signature", strings.Join(signatures, " "))
	res, err := s.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, io.LimitReader(res.Body, maxAdminBody)) // so that the connection can be used again
	return res.StatusCode, nil
}

// tellFirst tells the first event of each mail of an accepted request, and
// waits for the endpoint's answers: the application hears of its mail before
// it hears that it was accepted.
func (s *server) tellFirst(emails []*email) {
	s.gate.RLock()
	s.mu.Lock()
	var news entry
	var first []*delivery
	for _, e := range emails {
		if len(e.plan) == 0 {
			continue
		}
		ev := e.event(0)
		s.enter(&news, ev, e)
		first = append(first, &delivery{event: ev, origin: s.resets})
		s.busy++
	}
	s.mu.Unlock()
	s.note(news)
	s.gate.RUnlock()

	done := make(chan struct{}, len(first))
	for _, d := range first {
		go func() {
			s.deliver(d)
			done <- struct{}{}
		}()
	}
	for range first {
		<-done
	}
}
