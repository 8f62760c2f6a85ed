package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"
)

const (
	// maxAdminBody bounds the body of an admin request.
	maxAdminBody = 1 << 20
	// maxWait is the longest a caller may wait for mail.
	maxWait = 5 * time.Minute
)

// config is what can be set while the process runs.
type config struct {
	Rate        int        `json:"rate"`        // requests per second, 0 unlimited
	LatencyMS   [2]float64 `json:"latency_ms"`  // shortest and longest wait before an answer
	Idempotency string     `json:"idempotency"` // compareBytes or compareCanonical
	Fail        []*fault   `json:"fail"`        // faults that still have to strike, first match first
}

func (l latency) milliseconds() [2]float64 {
	return [2]float64{float64(l.Min) / float64(time.Millisecond), float64(l.Max) / float64(time.Millisecond)}
}

func (c *config) check() error {
	switch {
	case c.Rate < 0:
		return fmt.Errorf("rate %d: must not be negative", c.Rate)
	case c.LatencyMS[0] < 0 || c.LatencyMS[1] < c.LatencyMS[0]:
		return fmt.Errorf("latency_ms %v: want 0 <= shortest <= longest", c.LatencyMS)
	case c.Idempotency != compareBytes && c.Idempotency != compareCanonical:
		return fmt.Errorf("idempotency %q: want %s or %s", c.Idempotency, compareBytes, compareCanonical)
	case slices.Contains(c.Fail, nil):
		return errors.New("fail: null is no fault")
	}
	return nil
}

// admin serves /_admin to callers on this machine. A browser there must not
// be led to it from another site's page.
func (s *server) admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /_admin/mails", s.adminMails)
	mux.HandleFunc("GET /_admin/ledger", s.adminLedger)
	mux.HandleFunc("GET /_admin/config", s.adminConfig)
	mux.HandleFunc("POST /_admin/config", s.adminSetConfig)
	mux.HandleFunc("POST /_admin/clock", s.adminClock)
	mux.HandleFunc("POST /_admin/reset", s.adminReset)
	return http.NewCrossOriginProtection().Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil || !net.ParseIP(host).IsLoopback() {
			adminError(w, http.StatusForbidden, "The admin answers callers on this machine only.")
			return
		}
		mux.ServeHTTP(w, r)
	}))
}

// adminMails serves GET /_admin/mails?to=ADDRESS&count=1&wait=5s: the mails to
// an address, or all, in order of acceptance. With wait it answers as soon as
// there are count of them, or with fewer when the time is over.
func (s *server) adminMails(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	count, wait := 1, time.Duration(0)
	var err error
	if v := q.Get("count"); v != "" {
		if count, err = strconv.Atoi(v); err != nil || count < 0 {
			adminError(w, http.StatusBadRequest, "count must be a number.")
			return
		}
	}
	if v := q.Get("wait"); v != "" {
		if wait, err = time.ParseDuration(v); err != nil || wait < 0 || wait > maxWait {
			adminError(w, http.StatusBadRequest, fmt.Sprintf("wait must be a duration of at most %s, like 5s.", maxWait))
			return
		}
	}
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	for over := false; ; {
		list, changed := s.mailsTo(q.Get("to"), count, over)
		if list != nil {
			adminJSON(w, list)
			return
		}
		select {
		case <-changed:
		case <-timeout.C:
			over = true
		case <-s.closing:
			over = true
		case <-r.Context().Done():
			return
		}
	}
}

// mailsTo returns copies of the mails to an address, or of all if it is
// empty: nil while there are fewer than count, unless fewer will do. The
// channel is closed when more have come.
func (s *server) mailsTo(address string, count int, fewer bool) ([]email, <-chan struct{}) {
	s.gate.Lock()
	defer s.gate.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.emails
	if address != "" {
		found = s.byAddress[bareAddress(address)]
	}
	if len(found) < count && !fewer {
		return nil, s.changed
	}
	list := []email{}
	for _, e := range found {
		list = append(list, *e)
	}
	return list, s.changed
}

// ledger is the account of everything accepted.
type ledger struct {
	Messages []*ledgerLine `json:"messages"` // in order of first acceptance
	Counters struct {
		Accepted int `json:"accepted"` // mails
		Answered int `json:"answered"` // mails of which an answer told in full
		counters
	} `json:"counters"`
	Faults []faultHit `json:"faults"` // in order
}

// ledgerLine is the mails with one value of the tag message_id; those without
// the tag share the empty one.
type ledgerLine struct {
	MessageID string   `json:"message_id"`
	Count     int      `json:"count"`
	Answered  int      `json:"answered"`
	To        []string `json:"to"`
	Keys      []string `json:"keys"` // idempotency keys, each once
	EmailIDs  []string `json:"email_ids"`
}

// adminLedger serves GET /_admin/ledger.
func (s *server) adminLedger(w http.ResponseWriter, _ *http.Request) {
	s.gate.Lock()
	defer s.gate.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	l := ledger{Messages: []*ledgerLine{}, Faults: append([]faultHit{}, s.hits...)}
	l.Counters.counters = s.count
	lines := map[string]*ledgerLine{}
	for _, e := range s.emails {
		line := lines[e.messageID()]
		if line == nil {
			line = &ledgerLine{MessageID: e.messageID(), Keys: []string{}}
			lines[line.MessageID] = line
			l.Messages = append(l.Messages, line)
		}
		line.Count++
		l.Counters.Accepted++
		if e.Answered {
			line.Answered++
			l.Counters.Answered++
		}
		for _, to := range e.To {
			line.To = addOnce(line.To, to)
		}
		if e.IdempotencyKey != "" {
			line.Keys = addOnce(line.Keys, e.IdempotencyKey)
		}
		line.EmailIDs = append(line.EmailIDs, e.ID)
	}
	adminJSON(w, l)
}

func addOnce(list []string, s string) []string {
	if slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

// adminConfig serves GET /_admin/config.
func (s *server) adminConfig(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.showConfig(w)
}

// showConfig answers with the configuration, without the faults that are
// used up; the caller holds mu.
func (s *server) showConfig(w http.ResponseWriter) {
	shown := s.config
	shown.Fail = slices.DeleteFunc(slices.Clone(shown.Fail), func(f *fault) bool { return f.Times == 0 })
	if shown.Fail == nil {
		shown.Fail = []*fault{}
	}
	adminJSON(w, shown)
}

// adminSetConfig serves POST /_admin/config: what the body names is set, the
// rest stays. fail replaces the whole list.
func (s *server) adminSetConfig(w http.ResponseWriter, r *http.Request) {
	body, err := readAdminBody(w, r)
	if err != nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.config
	next.Fail = nil // else decoding would write into the faults in use
	if err := decodeStrict(body, &next); err != nil {
		adminError(w, http.StatusBadRequest, err.Error())
		return
	}
	if err := next.check(); err != nil {
		adminError(w, http.StatusBadRequest, err.Error())
		return
	}
	if next.Fail == nil {
		next.Fail = s.config.Fail
	}
	s.config = next
	s.showConfig(w)
}

// adminClock serves POST /_admin/clock {"advance":"25h"}: it moves the clock
// by which idempotency keys grow old and mails are dated. Time does not run
// backwards.
func (s *server) adminClock(w http.ResponseWriter, r *http.Request) {
	body, err := readAdminBody(w, r)
	if err != nil {
		return
	}
	var req struct {
		Advance string `json:"advance"`
	}
	if err := decodeStrict(body, &req); err != nil {
		adminError(w, http.StatusBadRequest, err.Error())
		return
	}
	d, err := time.ParseDuration(req.Advance)
	if err != nil || d < 0 {
		adminError(w, http.StatusBadRequest, "advance must be a duration like 25h.")
		return
	}
	s.gate.RLock()
	defer s.gate.RUnlock()
	if d > 0 {
		if err := s.journal.append(entry{Clock: d}); err != nil {
			adminError(w, http.StatusInternalServerError, err.Error())
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.advance += d
	adminJSON(w, map[string]time.Time{"now": s.now()})
}

// adminReset serves POST /_admin/reset.
func (s *server) adminReset(w http.ResponseWriter, _ *http.Request) {
	s.gate.Lock()
	defer s.gate.Unlock()
	if err := s.journal.clear(); err != nil {
		adminError(w, http.StatusInternalServerError, err.Error())
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.changed) // whoever waits for mail looks again
	s.forget()
	s.showConfig(w)
}

func readAdminBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxAdminBody))
	if err != nil {
		adminError(w, http.StatusBadRequest, err.Error())
	}
	return body, err
}

// decodeStrict decodes one JSON value and refuses unknown fields, so that a
// misspelt setting does not pass for a default.
func decodeStrict(data []byte, v any) error {
	dec := json.NewDecoder(bytes.NewReader(data))
	dec.DisallowUnknownFields()
	if err := dec.Decode(v); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("more than one JSON value")
	}
	return nil
}

func adminJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json")
	_, _ = w.Write(append(mustJSON(v), '\n')) // a caller that left needs no answer
}

func adminError(w http.ResponseWriter, status int, message string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(append(mustJSON(map[string]string{"error": message}), '\n'))
}
