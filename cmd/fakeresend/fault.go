package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
)

// Where in the pipeline a fault strikes: ahead of every check, or in place of
// an answer that tells of accepted mail, a replayed one too.
const (
	beforeAccept = "before"
	afterAccept  = "after"
)

// fault is a scripted failure. The first one that matches is used.
type fault struct {
	Match struct {
		To string `json:"to,omitempty"` // an address among the recipients; empty matches every request
	} `json:"match"`
	Times       int               `json:"times"` // how often it still strikes
	When        string            `json:"when"`
	Status      int               `json:"status,omitempty"`
	Body        *string           `json:"body,omitempty"` // unset: Resend's error body for Status
	ContentType string            `json:"content_type,omitempty"`
	Headers     map[string]string `json:"headers,omitempty"`
	Drop        bool              `json:"drop,omitempty"` // close the connection without an answer
}

// faultHit says what a fault did.
type faultHit struct {
	When     string   `json:"when"`
	Status   int      `json:"status"` // 0: connection dropped
	EmailIDs []string `json:"email_ids"`
}

// UnmarshalJSON reads a fault, once and before unless it says otherwise.
func (f *fault) UnmarshalJSON(data []byte) error {
	type plain fault
	p := plain{Times: 1, When: beforeAccept}
	if err := decodeStrict(data, &p); err != nil {
		return err
	}
	*f = fault(p)
	switch {
	case f.Times < 1:
		return fmt.Errorf("times %d: want 1 or more", f.Times)
	case f.When != beforeAccept && f.When != afterAccept:
		return fmt.Errorf("when %q: want before or after", f.When)
	case f.Drop && f.Status != 0:
		return fmt.Errorf("want drop or status, not both")
	case !f.Drop && (f.Status < 200 || f.Status > 599):
		return fmt.Errorf("status %d: want 200 to 599, or drop", f.Status)
	}
	return nil
}

// fault uses up and returns the fault that strikes here, if one does.
func (s *server) fault(when string, sentTo func(address string) bool, ids []string) *fault {
	s.mu.Lock()
	candidates := s.config.Fail
	s.mu.Unlock()
	for _, f := range candidates {
		if f.When == when && (f.Match.To == "" || sentTo(f.Match.To)) && s.strike(f, ids) {
			return f
		}
	}
	return nil
}

// strike uses a fault once, unless others used it up.
func (s *server) strike(f *fault, ids []string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f.Times == 0 {
		return false
	}
	f.Times--
	s.hits = append(s.hits, faultHit{f.When, f.Status, ids})
	return true
}

// answer is what the client gets.
func (f *fault) answer() *answer {
	if f.Drop {
		return &answer{drop: true}
	}
	a := jsonAnswer(f.Status, &apiError{f.Status, errorName(f.Status), http.StatusText(f.Status)})
	if f.Body != nil {
		a.body = []byte(*f.Body)
		if !json.Valid(a.body) {
			a.contentType = "text/plain; charset=utf-8"
		}
	}
	if f.ContentType != "" {
		a.contentType = f.ContentType
	}
	a.header = http.Header{}
	for name, value := range f.Headers {
		a.header.Set(name, value)
	}
	return a
}

// errorName is the name Resend most often gives to a status.
func errorName(status int) string {
	switch {
	case status == http.StatusTooManyRequests:
		return "rate_limit_exceeded"
	case status < http.StatusInternalServerError:
		return "validation_error"
	default:
		return errInternal.Name
	}
}

// addressedTo says whether the body of a request, possibly one that will be
// refused, names address as a recipient.
func addressedTo(body []byte, address string) bool {
	type recipients struct {
		To  stringList `json:"to"`
		Cc  stringList `json:"cc"`
		Bcc stringList `json:"bcc"`
	}
	var many []recipients
	if json.Unmarshal(body, &many) != nil {
		many = make([]recipients, 1)
		if json.Unmarshal(body, &many[0]) != nil {
			return false
		}
	}
	return slices.ContainsFunc(many, func(r recipients) bool {
		return slices.Contains(bareAddresses(r.To, r.Cc, r.Bcc), bareAddress(address))
	})
}
