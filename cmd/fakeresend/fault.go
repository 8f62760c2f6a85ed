package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"slices"
	"strconv"
	"time"
)

// Where in the pipeline a fault strikes: ahead of every check, or in place of
// an answer that tells of accepted mail, a replayed one too.
const (
	beforeAccept = "before"
	afterAccept  = "after"
)

// What a fault does.
const (
	faultStatus    = "status"    // answers status, with body or Resend's error body
	faultHTML502   = "html_502"  // answers as a proxy does whose backend is gone
	faultText429   = "text_429"  // answers as a proxy does that limits by itself: no JSON, no headers
	faultSlow      = "slow"      // waits for delay, then goes on
	faultTimeout   = "timeout"   // never answers
	faultReset     = "reset"     // resets the connection
	faultEOF       = "eof"       // closes the connection without an answer
	faultTruncated = "truncated" // closes it in the middle of the answer
	faultNoID      = "no_id"     // answers 200 without an id
	faultDown      = "down"      // resets every connection and takes none for delay
)

// maxHang is how long a timeout lasts if the client never gives up.
const maxHang = 5 * time.Minute

// fault is a failure to come. The first one that matches a request is used.
type fault struct {
	Match struct { // empty fields match everything
		To        string `json:"to,omitempty"`         // an address among the recipients
		MessageID string `json:"message_id,omitempty"` // the value of a mail's tag message_id
		Path      string `json:"path,omitempty"`       // /emails/batch
	} `json:"match"`
	Times       int               `json:"times"`                 // how often it still strikes
	Probability float64           `json:"probability,omitempty"` // share of the matching requests it strikes; 0 is all
	When        string            `json:"when"`
	Kind        string            `json:"kind"`
	Status      int               `json:"status,omitempty"`
	Body        *string           `json:"body,omitempty"` // unset: Resend's error body for Status
	ContentType string            `json:"content_type,omitempty"`
	Headers     map[string]string `json:"headers,omitempty"`
	Delay       duration          `json:"delay,omitempty"` // of slow and down
	Drop        bool              `json:"drop,omitempty"`  // another word for kind eof
}

// faultHit says what a fault did.
type faultHit struct {
	When     string   `json:"when"`
	Kind     string   `json:"kind"`
	Status   int      `json:"status"`        // 0: no answer, or the regular one
	Request  int      `json:"request"`       // which one since the start, from 1
	Key      string   `json:"key,omitempty"` // its idempotency key
	EmailIDs []string `json:"email_ids"`     // the mails accepted behind the failed answer
}

// UnmarshalJSON reads a fault. One without times strikes once, or for ever if
// it has a probability; one without a word on when strikes before acceptance
// if it can.
func (f *fault) UnmarshalJSON(data []byte) error {
	type plain fault
	var p plain
	if err := decodeStrict(data, &p); err != nil {
		return err
	}
	*f = fault(p)
	switch {
	case f.Kind != "" && f.Drop:
		return errors.New("want drop or kind, not both")
	case f.Drop && f.Status != 0:
		return errors.New("want drop or status, not both")
	case f.Drop:
		f.Kind, f.Drop = faultEOF, false
	case f.Kind == "":
		f.Kind = faultStatus
	}
	if f.Times == 0 {
		f.Times = 1
		if f.Probability > 0 {
			f.Times = math.MaxInt32
		}
	}
	needsAccept := f.Kind == faultTruncated || f.Kind == faultNoID
	if f.When == "" {
		f.When = beforeAccept
		if needsAccept {
			f.When = afterAccept
		}
	}
	switch {
	case f.Times < 1:
		return fmt.Errorf("times %d: want 1 or more", f.Times)
	case f.Probability < 0 || f.Probability > 1:
		return fmt.Errorf("probability %v: want 0 to 1", f.Probability)
	case f.When != beforeAccept && f.When != afterAccept:
		return fmt.Errorf("when %q: want before or after", f.When)
	case f.When == beforeAccept && needsAccept:
		return fmt.Errorf("kind %s: strikes after acceptance only", f.Kind)
	case f.Delay < 0:
		return errors.New("delay: must not be negative")
	}
	switch f.Kind {
	case faultStatus:
		if f.Status < 200 || f.Status > 599 {
			return fmt.Errorf("status %d: want 200 to 599, or a kind", f.Status)
		}
	case faultHTML502:
		f.Status = http.StatusBadGateway
	case faultText429:
		f.Status = http.StatusTooManyRequests
	case faultSlow, faultDown:
		if f.Delay == 0 {
			return fmt.Errorf("kind %s: want a delay", f.Kind)
		}
	case faultTruncated, faultNoID:
		f.Status = http.StatusOK
	case faultTimeout, faultReset, faultEOF:
	default:
		return fmt.Errorf("kind %q: unknown", f.Kind)
	}
	return nil
}

// fault uses up and returns the fault that strikes a request here, if one
// does. ids are the mails accepted behind it.
func (s *server) fault(c *call, when string, ids []string) *fault {
	s.mu.Lock()
	candidates := s.faults
	s.mu.Unlock()
	for i, f := range candidates {
		if f.When == when && f.matches(c) && s.strike(c, f, i, ids) {
			return f
		}
	}
	return nil
}

// strike uses a fault once, unless others used it up or luck is against it.
func (s *server) strike(c *call, f *fault, index int, ids []string) bool {
	s.gate.RLock()
	defer s.gate.RUnlock()
	s.mu.Lock()
	if f.Times == 0 || f.Probability > 0 && s.luck("fault "+strconv.Itoa(index), c.number) >= f.Probability {
		s.mu.Unlock()
		return false
	}
	f.Times--
	hit := &faultHit{When: f.When, Kind: f.Kind, Status: f.Status, Request: c.number, Key: c.r.Header.Get("Idempotency-Key"), EmailIDs: ids}
	s.hits = append(s.hits, hit)
	s.mu.Unlock()
	s.note(entry{Fault: hit})
	return true
}

// answer is what the client gets instead of regular, which is nil before
// acceptance.
func (f *fault) answer(regular *answer) *answer {
	switch f.Kind {
	case faultStatus:
		return f.statusAnswer()
	case faultHTML502:
		return &answer{status: f.Status, contentType: "text/html", body: []byte(
			"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>\r\n<center><h1>502 Bad Gateway</h1></center>\r\n</body>\r\n</html>\r\n")}
	case faultText429:
		return &answer{status: f.Status, contentType: "text/plain", body: []byte("Too Many Requests"), bare: true}
	case faultSlow:
		regular.pause = time.Duration(f.Delay)
		return regular
	case faultNoID:
		body := []byte(`{}`)
		if bytes.HasPrefix(regular.body, []byte(`{"data":`)) {
			body = []byte(`{"data":[]}`)
		}
		return &answer{status: f.Status, contentType: regular.contentType, body: body}
	case faultTruncated:
		return &answer{status: f.Status, contentType: regular.contentType, body: regular.body, broken: faultTruncated}
	case faultDown:
		return &answer{broken: faultDown, pause: time.Duration(f.Delay)}
	default:
		return &answer{broken: f.Kind}
	}
}

func (f *fault) statusAnswer() *answer {
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

// matches says whether the fault is for this request, which may be one that
// will be refused.
func (f *fault) matches(c *call) bool {
	if f.Match.Path != "" && f.Match.Path != c.r.URL.Path {
		return false
	}
	if f.Match.To == "" && f.Match.MessageID == "" {
		return true
	}
	type item struct {
		To   stringList `json:"to"`
		Cc   stringList `json:"cc"`
		Bcc  stringList `json:"bcc"`
		Tags []tag      `json:"tags"`
	}
	var many []item
	if json.Unmarshal(c.body, &many) != nil {
		many = make([]item, 1)
		if json.Unmarshal(c.body, &many[0]) != nil {
			return false
		}
	}
	return slices.ContainsFunc(many, func(i item) bool {
		to := f.Match.To == "" || slices.Contains(bareAddresses(i.To, i.Cc, i.Bcc), bareAddress(f.Match.To))
		id := f.Match.MessageID == "" || slices.Contains(i.Tags, tag{"message_id", f.Match.MessageID})
		return to && id
	})
}
