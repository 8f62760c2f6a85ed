package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	// maxAdminBody bounds the body of an admin request.
	maxAdminBody = 1 << 20
	// maxWait is the longest a caller may wait for mail.
	maxWait = 5 * time.Minute
)

// config is what can be set while the process runs, beside faults and fates.
type config struct {
	Rate           int           `json:"rate"`             // requests per second, 0 unlimited
	Window         string        `json:"window"`           // windowSliding or windowFixed
	DailyQuota     int           `json:"daily_quota"`      // recipients a day, 0 unlimited
	MonthlyQuota   int           `json:"monthly_quota"`    // recipients a month, 0 unlimited
	LatencyMS      [2]float64    `json:"latency_ms"`       // shortest and longest wait before an answer
	Seed           uint64        `json:"seed"`             // of everything that is left to luck
	Idempotency    string        `json:"idempotency"`      // compareBytes or compareCanonical
	KeyScope       string        `json:"key_scope"`        // scopeEndpoint or scopeTeam
	HoldFailedKeys bool          `json:"hold_failed_keys"` // a refused request's key repeats the refusal
	EventGapMS     float64       `json:"event_gap_ms"`     // from one thing that happens to a mail to the next
	Webhook        webhookConfig `json:"webhook"`
}

// defaults is the configuration of a process without flags.
func defaults() config {
	return config{
		Rate: 10, Window: windowSliding, LatencyMS: [2]float64{40, 120}, Seed: 1, Idempotency: compareBytes, KeyScope: scopeEndpoint, EventGapMS: 50,
		Webhook: webhookConfig{RetryScale: 1, DelayMS: [2]float64{1000, 5000}, Secrets: []string{}},
	}
}

func (c *config) check() error {
	switch {
	case c.Rate < 0:
		return fmt.Errorf("rate %d: must not be negative", c.Rate)
	case c.Window != windowSliding && c.Window != windowFixed:
		return fmt.Errorf("window %q: want %s or %s", c.Window, windowSliding, windowFixed)
	case c.DailyQuota < 0 || c.MonthlyQuota < 0:
		return errors.New("daily_quota and monthly_quota must not be negative")
	case c.LatencyMS[0] < 0 || c.LatencyMS[1] < c.LatencyMS[0]:
		return fmt.Errorf("latency_ms %v: want 0 <= shortest <= longest", c.LatencyMS)
	case c.Idempotency != compareBytes && c.Idempotency != compareCanonical:
		return fmt.Errorf("idempotency %q: want %s or %s", c.Idempotency, compareBytes, compareCanonical)
	case c.KeyScope != scopeEndpoint && c.KeyScope != scopeTeam:
		return fmt.Errorf("key_scope %q: want %s or %s", c.KeyScope, scopeEndpoint, scopeTeam)
	case c.EventGapMS < 0:
		return errors.New("event_gap_ms: must not be negative")
	}
	return c.Webhook.check()
}

// admin serves /_admin to callers on this machine. A browser there must not
// be led to it from another site's page.
func (s *server) admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /_admin/mails", s.adminMails)
	mux.HandleFunc("GET /_admin/ledger", s.adminLedger)
	mux.HandleFunc("GET /_admin/config", s.adminConfig)
	mux.HandleFunc("POST /_admin/config", s.adminSetConfig)
	mux.HandleFunc("GET /_admin/faults", s.adminFaults)
	mux.HandleFunc("PUT /_admin/faults", s.adminSetFaults)
	mux.HandleFunc("GET /_admin/fates", s.adminFates)
	mux.HandleFunc("PUT /_admin/fates/{address}", s.adminSetFate)
	mux.HandleFunc("DELETE /_admin/fates/{address}", s.adminDropFate)
	mux.HandleFunc("GET /_admin/events", s.adminEvents)
	mux.HandleFunc("POST /_admin/events", s.adminEmit)
	mux.HandleFunc("POST /_admin/deliver", s.adminDeliver)
	mux.HandleFunc("POST /_admin/clock", s.adminClock)
	mux.HandleFunc("POST /_admin/reset", s.adminReset)
	return http.NewCrossOriginProtection().Handler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.RemoteAddr)
		if err != nil || !net.ParseIP(host).IsLoopback() {
			adminError(w, http.StatusForbidden, "The admin answers callers on this machine only.")
			return
		}
		keepOpen(r)
		mux.ServeHTTP(w, r)
	}))
}

// adminMails serves GET /_admin/mails?to=ADDRESS&count=1&wait=5s: the mails to
// an address, or all, in order of acceptance. With wait it answers as soon as
// there are count of them, or with fewer when the time is over.
func (s *server) adminMails(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	count, err := number(q, "count", 1)
	if err != nil {
		adminError(w, http.StatusBadRequest, err.Error())
		return
	}
	s.await(w, r, func(over bool) any {
		if list := s.mailsTo(q.Get("to"), count, over); list != nil {
			return list
		}
		return nil
	})
}

// adminEvents serves GET /_admin/events?to=ADDRESS&type=TYPE&count=1&wait=5s:
// the events, in order. With wait it answers as soon as there are count of
// them; with quiet=true instead of count, as soon as nothing is left to happen
// or to be told.
func (s *server) adminEvents(w http.ResponseWriter, r *http.Request) {
	q := r.URL.Query()
	count, err := number(q, "count", 1)
	if err != nil {
		adminError(w, http.StatusBadRequest, err.Error())
		return
	}
	s.await(w, r, func(over bool) any {
		s.gate.Lock()
		defer s.gate.Unlock()
		s.mu.Lock()
		defer s.mu.Unlock()
		found := []*event{}
		for _, ev := range s.events {
			if s.picks(q, ev) {
				found = append(found, ev)
			}
		}
		done := len(found) >= count
		if q.Get("quiet") == "true" {
			done = s.busy == 0 && len(s.agenda) == 0
		}
		if !done && !over {
			return nil
		}
		return copyEvents(found)
	})
}

// picks says whether a query asks for an event; the caller holds mu.
func (s *server) picks(q url.Values, ev *event) bool {
	if v := q.Get("type"); v != "" && v != ev.Type {
		return false
	}
	if v := q.Get("to"); v != "" {
		e := s.byID[ev.EmailID]
		return e != nil && slices.Contains(e.recipients(), bareAddress(v))
	}
	return true
}

func number(q url.Values, name string, unset int) (int, error) {
	v := q.Get(name)
	if v == "" {
		return unset, nil
	}
	n, err := strconv.Atoi(v)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%s must be a number.", name) //nolint:staticcheck // a sentence for people
	}
	return n, nil
}

// await answers with what look finds, as soon as it finds something, or when
// the request's wait is over: then look must find something.
func (s *server) await(w http.ResponseWriter, r *http.Request, look func(over bool) any) {
	wait := time.Duration(0)
	if v := r.URL.Query().Get("wait"); v != "" {
		var err error
		if wait, err = time.ParseDuration(v); err != nil || wait < 0 || wait > maxWait {
			adminError(w, http.StatusBadRequest, fmt.Sprintf("wait must be a duration of at most %s, like 5s.", maxWait))
			return
		}
	}
	timeout := time.NewTimer(wait)
	defer timeout.Stop()
	for over := false; ; {
		s.mu.Lock()
		changed := s.changed
		s.mu.Unlock()
		if found := look(over); found != nil {
			adminJSON(w, found)
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
// empty: nil while there are fewer than count, unless fewer will do.
func (s *server) mailsTo(address string, count int, fewer bool) []email {
	s.gate.Lock()
	defer s.gate.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	found := s.emails
	if address != "" {
		found = s.byAddress[bareAddress(address)]
	}
	if len(found) < count && !fewer {
		return nil
	}
	list := []email{}
	for _, e := range found {
		list = append(list, e.copy())
	}
	return list
}

// ledger is the account of everything accepted.
type ledger struct {
	Messages []*ledgerLine `json:"messages"` // in order of first acceptance
	Counters struct {
		Accepted int `json:"accepted"` // mails
		Answered int `json:"answered"` // mails of which an answer told in full
		counters
	} `json:"counters"`
	Faults    []*faultHit `json:"faults"`     // in order
	TwoHashes []twoHashes `json:"two_hashes"` // keys that came with more than one payload
}

// twoHashes is an idempotency key that came with more than one payload, which
// must never happen.
type twoHashes struct {
	scopedKey
	Hashes []string `json:"hashes"` // SHA-256 of the bytes
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
	l := ledger{Messages: []*ledgerLine{}, Faults: orEmpty(slices.Clone(s.hits)), TwoHashes: []twoHashes{}}
	l.Counters.counters = s.count
	for key, hashes := range s.hashes {
		if len(hashes) > 1 {
			l.TwoHashes = append(l.TwoHashes, twoHashes{key, hashes})
		}
	}
	slices.SortFunc(l.TwoHashes, func(a, b twoHashes) int { return strings.Compare(a.Key, b.Key) })
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
	adminJSON(w, s.config)
}

// adminSetConfig serves POST /_admin/config: what the body names is set, the
// rest stays.
func (s *server) adminSetConfig(w http.ResponseWriter, r *http.Request) {
	body, ok := adminBody(w, r)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	next := s.config
	next.Webhook.Secrets = slices.Clone(next.Webhook.Secrets) // else decoding would write into those in use
	err := decodeStrict(body, &next)
	if err == nil {
		err = next.check()
	}
	if err != nil {
		adminError(w, http.StatusBadRequest, err.Error())
		return
	}
	s.config = next
	adminJSON(w, s.config)
}

// adminFaults serves GET /_admin/faults: those that still have to strike.
func (s *server) adminFaults(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	adminJSON(w, slices.DeleteFunc(orEmpty(slices.Clone(s.faults)), func(f *fault) bool { return f.Times == 0 }))
}

// adminSetFaults serves PUT /_admin/faults: the list replaces the one before.
func (s *server) adminSetFaults(w http.ResponseWriter, r *http.Request) {
	var next []*fault
	if !readAdmin(w, r, &next) {
		return
	}
	if slices.Contains(next, nil) {
		adminError(w, http.StatusBadRequest, "null is no fault")
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faults = next
	adminJSON(w, orEmpty(s.faults))
}

// adminFates serves GET /_admin/fates: the scripts by address.
func (s *server) adminFates(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	adminJSON(w, s.scripts)
}

// adminSetFate serves PUT /_admin/fates/{address} with a list of steps: what
// happens to mail to this address that is accepted from now on. An empty list
// is silence.
func (s *server) adminSetFate(w http.ResponseWriter, r *http.Request) {
	var script []step
	if !readAdmin(w, r, &script) {
		return
	}
	for i := range script {
		if err := script[i].check(); err != nil {
			adminError(w, http.StatusBadRequest, err.Error())
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.scripts[bareAddress(r.PathValue("address"))] = orEmpty(script)
	adminJSON(w, script)
}

// adminDropFate serves DELETE /_admin/fates/{address}: its mail is again as
// any other.
func (s *server) adminDropFate(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.scripts, bareAddress(r.PathValue("address")))
	adminJSON(w, s.scripts)
}

// adminEmit serves POST /_admin/events {"email_id":"...","type":"email.opened"}:
// this happens to an accepted mail now, beside its fate.
func (s *server) adminEmit(w http.ResponseWriter, r *http.Request) {
	var req struct {
		EmailID string `json:"email_id"`
		step
	}
	if !readAdmin(w, r, &req) {
		return
	}
	if err := req.check(); err != nil {
		adminError(w, http.StatusBadRequest, err.Error())
		return
	}
	s.gate.RLock()
	defer s.gate.RUnlock()
	s.mu.Lock()
	e := s.byID[req.EmailID]
	if e == nil {
		s.mu.Unlock()
		adminError(w, http.StatusNotFound, "There is no such mail.")
		return
	}
	var news entry
	ev := &event{Type: req.Type, EmailID: e.ID, MessageID: e.messageID(), outcome: req.outcome}
	s.occur(&news, ev, e)
	s.announce()
	shown := *ev
	s.mu.Unlock()
	s.note(news)
	adminJSON(w, shown)
}

// adminDeliver serves POST /_admin/deliver {"ids":["msg_..."]}: the events are
// told now, one after the other in this order, whether they were told before
// or not. It answers with the status of each, 0 where there was no answer.
func (s *server) adminDeliver(w http.ResponseWriter, r *http.Request) {
	var req struct {
		IDs []string `json:"ids"`
	}
	if !readAdmin(w, r, &req) {
		return
	}
	var list []*delivery
	s.mu.Lock()
	for _, id := range req.IDs {
		if ev := s.eventByID[id]; ev != nil {
			list = append(list, &delivery{event: ev, what: "asked", origin: s.resets})
		}
	}
	if len(list) == len(req.IDs) {
		s.busy += len(list)
	}
	s.mu.Unlock()
	if len(list) < len(req.IDs) {
		adminError(w, http.StatusNotFound, "There is no such event.")
		return
	}
	statuses := []int{}
	for _, d := range list {
		statuses = append(statuses, s.deliver(d))
	}
	adminJSON(w, map[string][]int{"statuses": statuses})
}

// adminClock serves POST /_admin/clock {"advance":"25h"}: it moves the clock
// by which idempotency keys grow old, mails are dated, days and months begin,
// and events and webhook retries come due. Time does not run backwards.
func (s *server) adminClock(w http.ResponseWriter, r *http.Request) {
	var req struct {
		Advance string `json:"advance"`
	}
	if !readAdmin(w, r, &req) {
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
	s.wakeUp()
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
	adminJSON(w, s.config)
}

// readAdmin decodes the body of a request, or answers what is wrong with it.
func readAdmin(w http.ResponseWriter, r *http.Request, v any) bool {
	body, ok := adminBody(w, r)
	if !ok {
		return false
	}
	if err := decodeStrict(body, v); err != nil {
		adminError(w, http.StatusBadRequest, err.Error())
		return false
	}
	return true
}

func adminBody(w http.ResponseWriter, r *http.Request) ([]byte, bool) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxAdminBody))
	if err != nil {
		adminError(w, http.StatusBadRequest, err.Error())
	}
	return body, err == nil
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
