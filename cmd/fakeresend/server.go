package main

import (
	"bytes"
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

const (
	// maxBody is room for the largest attachments, and for 100 mails.
	maxBody = maxAttachmentSize + 2<<20
	// ioTimeout bounds how long a client may take to hand over its request
	// and to take its answer.
	ioTimeout = 30 * time.Second
)

// options are the settings a process starts with and a reset returns to.
type options struct {
	APIKey string
	Config config
}

// server is the stand-in: one team with one API key.
type server struct {
	options options
	journal *journal
	closing chan struct{} // closed when the process stops
	stop    func()        // closes it, once
	life    context.Context
	goDown  func(time.Duration) // takes the listener away, if there is one
	client  *http.Client        // for webhooks
	slots   chan struct{}       // one for each webhook under way
	wake    chan struct{}       // has one when the agenda may have become shorter or sooner

	// gate keeps a line of the journal or an answer on the wire together with
	// its record in memory: whoever does both holds it for reading, whoever
	// must not see one without the other for writing.
	gate sync.RWMutex

	mu        sync.Mutex // guards what follows
	config    config
	faults    []*fault // first match first
	scripts   map[string][]step
	advance   time.Duration // of the stand-in's clock
	emails    []*email      // in order of acceptance
	byID      map[string]*email
	byAddress map[string][]*email // by each of email.recipients
	changed   chan struct{}       // closed and replaced when there is news to wait for
	keys      keyring
	hashes    map[scopedKey][]string // of the payloads a key ever came with
	limiter   limiter
	sent      sentCount
	arrived   window
	count     counters
	hits      []*faultHit

	suppressed map[string]*suppression // by address
	events     []*event                // in order
	eventByID  map[string]*event
	agenda     agenda
	tasks      int // put on the agenda ever
	numbered   int // events ever
	busy       int // calls and deliveries under way that may yet add to the agenda
	resets     int
}

// counters are figures since the start of the process or the last reset.
type counters struct {
	Requests           int `json:"requests"`            // API requests, whatever the answer
	MaxInAnySecond     int `json:"max_in_any_second"`   // most requests in any one second
	Rejected429        int `json:"rejected_429"`        // refused by the rate limit
	Replayed           int `json:"replayed"`            // answered from an idempotency key
	ConflictingKeys    int `json:"conflicting_keys"`    // refused as invalid_idempotent_request
	ConcurrentRequests int `json:"concurrent_requests"` // refused as concurrent_idempotent_requests
	OverQuota          int `json:"over_quota"`          // refused by a quota
	ForgeriesTaken     int `json:"forgeries_taken"`     // webhooks with a bad or stale signature that were answered 2xx
}

// newServer returns a server with what the journal file holds, if one is
// named. It lives until stopped.
func newServer(opts options, journalFile string) (*server, error) {
	life, end := context.WithCancel(context.Background())
	s := &server{
		options: opts, closing: make(chan struct{}), life: life, wake: make(chan struct{}, 1), slots: make(chan struct{}, webhooksAtOnce),
		client: &http.Client{
			Transport:     &http.Transport{MaxIdleConnsPerHost: webhooksAtOnce},
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}
	s.stop = sync.OnceFunc(func() {
		close(s.closing)
		end()
	})
	s.forget()
	var told []string
	j, err := openJournal(journalFile, func(e entry) {
		s.replay(e)
		told = append(told, e.Told...)
	})
	if err != nil {
		s.stop()
		return nil, err
	}
	// Last, as an event may be told before the line that tells of it is written.
	for _, id := range told {
		if ev := s.eventByID[id]; ev != nil {
			ev.Told = true
		}
	}
	s.journal = j
	s.resume()
	go s.live()
	return s, nil
}

// forget goes back to the start; the caller holds mu or is alone.
func (s *server) forget() {
	s.config = s.options.Config
	s.faults, s.scripts = nil, map[string][]step{}
	s.advance, s.keys, s.hashes = 0, keyring{}, map[scopedKey][]string{}
	s.emails, s.byID, s.byAddress = nil, map[string]*email{}, map[string][]*email{}
	s.limiter, s.sent, s.arrived, s.count, s.hits = limiter{}, sentCount{}, window{}, counters{}, nil
	s.suppressed, s.events, s.eventByID, s.agenda = map[string]*suppression{}, nil, map[string]*event{}, nil
	s.numbered = 0
	s.resets++
	s.changed = make(chan struct{})
}

// replay takes up a line of the journal.
func (s *server) replay(e entry) {
	s.advance += e.Clock
	s.markAnswered(e.Answer)
	if e.Accept != nil {
		s.record(e.Accept)
		s.sent.add(e.Accept.At, countRecipients(e.Accept.emails))
		if k := e.Accept.Key; k != nil {
			s.keys[*k] = &remembered{hash: e.Accept.Hash, since: e.Accept.At, reply: e.Accept.Reply}
			s.hashes[*k] = []string{e.Accept.BodyHash}
		}
	}
	if e.Fault != nil {
		s.hits = append(s.hits, e.Fault)
	}
	if e.Hash != nil {
		s.hashes[e.Hash.Key] = append(s.hashes[e.Hash.Key], e.Hash.Hash)
	}
	for _, ev := range e.Events {
		s.remember(ev)
		s.numbered = max(s.numbered, ev.Number)
	}
	for _, sup := range e.Suppress {
		s.suppressed[sup.Email] = sup
	}
	delete(s.suppressed, e.Lift)
}

// resume puts on the agenda what the process did not live to do.
func (s *server) resume() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, e := range s.emails {
		done := 0
		for _, ev := range e.Events {
			done = max(done, ev.Step)
		}
		s.schedule(e, e.AcceptedAt, done)
	}
	for _, ev := range s.events {
		if ev.Webhook && !ev.Told && s.config.Webhook.URL != "" && !s.config.Webhook.Hold {
			s.put(task{at: s.now(), delivery: &delivery{event: ev, origin: s.resets}})
		}
	}
}

// announce tells whoever waits that there is news; the caller holds mu or is
// alone.
func (s *server) announce() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// handler serves the API, the mailbox and the admin.
func (s *server) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.listPage)
	mux.HandleFunc("GET /mails/{id}", s.mailPage)
	mux.HandleFunc("GET /mails/{id}/html", s.mailHTML)
	mux.Handle("/_admin/", s.admin())
	mux.HandleFunc("/", s.serveAPI)
	return mux
}

// now is the stand-in's clock; the caller holds mu.
func (s *server) now() time.Time { return time.Now().Add(s.advance).UTC() }

// call is one API request on its way through the pipeline.
type call struct {
	r        *http.Request
	number   int // which request it is, from 1
	body     []byte
	headers  http.Header // for the answer
	key      *scopedKey  // its idempotency key, if it claimed one
	hash     string      // of the body's bytes, if it has a key
	claim    *remembered // of key; settled with reply
	reply    *reply      // what its key will repeat; nil frees the key
	accepted []*email    // by this call, not by an earlier one with its key
}

// reply is an answer as an idempotency key remembers it.
type reply struct {
	Status int             `json:"status"`
	Body   json.RawMessage `json:"body"`
	IDs    []string        `json:"ids"` // of the accepted mails; none for a refusal
}

// answer is what goes out.
type answer struct {
	broken      string // kind of fault that keeps it from going out whole
	pause       time.Duration
	status      int
	contentType string
	header      http.Header
	bare        bool // without the headers every answer of Resend's has
	body        []byte
	ids         []string // of the mails whose acceptance it tells
}

// serveAPI runs one request through the pipeline and answers it. Between
// acceptance and answer lies the latency, during which the mail is accepted,
// its key in flight, and the client none the wiser.
func (s *server) serveAPI(w http.ResponseWriter, r *http.Request) {
	c := &call{r: r}
	a := s.pipeline(c, w)
	told := s.beforeAnswer(c)
	s.sleep(s.latency(c))
	if a.broken != faultDown {
		s.sleep(a.pause)
	}
	s.mu.Lock()
	if c.key != nil {
		s.keys.settle(*c.key, c.claim, c.reply)
	}
	now := s.now()
	for _, e := range c.accepted {
		s.busy--
		if s.byID[e.ID] == e { // no reset forgot it
			s.schedule(e, now, told)
		}
	}
	s.mu.Unlock()
	s.write(w, c, a)
}

// beforeAnswer tells the first events of the mails now, if luck has it, and
// returns how many steps of their plans are done.
func (s *server) beforeAnswer(c *call) int {
	s.mu.Lock()
	hook := &s.config.Webhook
	early := len(c.accepted) > 0 && hook.URL != "" && !hook.Hold && s.luck("before answer", c.number) < hook.BeforeAnswer
	s.mu.Unlock()
	if !early {
		return 0
	}
	s.tellFirst(c.accepted)
	return 1
}

// pipeline takes the steps in Resend's order; the first that refuses answers.
func (s *server) pipeline(c *call, w http.ResponseWriter) *answer {
	s.arrive(c)
	body, tooLarge, err := readBody(w, c.r)
	if err != nil {
		return &answer{broken: faultEOF}
	}
	c.body = body
	if f := s.fault(c, beforeAccept, nil); f != nil {
		if f.Kind != faultSlow {
			return f.answer(nil)
		}
		s.sleep(time.Duration(f.Delay))
	}
	if c.r.UserAgent() == "" {
		return &answer{status: http.StatusForbidden, contentType: "text/plain; charset=UTF-8", body: []byte("error code: 1010")}
	}
	if err := s.authenticate(c.r); err != nil {
		return err.answer()
	}
	if err := s.limit(c); err != nil {
		return err.answer()
	}
	endpoint, refusal := s.route(c.r)
	if refusal != nil {
		return refusal.answer()
	}
	if tooLarge {
		return errTooLarge.answer()
	}
	return endpoint(c)
}

// route finds the endpoint, behind the rate limit like everything else.
func (s *server) route(r *http.Request) (func(*call) *answer, *apiError) {
	path := r.URL.Path
	if item, ok := strings.CutPrefix(path, "/emails/"); ok && item != "batch" && item != "" && !strings.Contains(item, "/") {
		path = "/emails/{id}"
	}
	if item, ok := strings.CutPrefix(path, "/suppressions/"); ok && item != "" && !strings.Contains(item, "/") {
		path = "/suppressions/{id}"
	}
	methods, ok := map[string]map[string]func(*call) *answer{
		"/emails":            {http.MethodPost: s.sendEmail, http.MethodGet: s.listEmails},
		"/emails/batch":      {http.MethodPost: s.sendBatch},
		"/emails/{id}":       {http.MethodGet: s.getEmail},
		"/suppressions":      {http.MethodPost: s.addSuppression, http.MethodGet: s.listSuppressions},
		"/suppressions/{id}": {http.MethodGet: s.getSuppression, http.MethodDelete: s.removeSuppression},
	}[path]
	if !ok {
		return nil, errNotFound
	}
	endpoint, ok := methods[r.Method]
	if !ok {
		return nil, errMethodNotAllowed
	}
	return endpoint, nil
}

// arrive counts a request.
func (s *server) arrive(c *call) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count.Requests++
	c.number = s.count.Requests
	s.count.MaxInAnySecond = max(s.count.MaxInAnySecond, s.arrived.add(time.Now()))
}

// readBody reads a body of known or unknown length. An error means that the
// client went away or stalled.
func readBody(w http.ResponseWriter, r *http.Request) (body []byte, tooLarge bool, err error) {
	rc := http.NewResponseController(w)
	if err := rc.SetReadDeadline(time.Now().Add(ioTimeout)); err != nil {
		return nil, false, err
	}
	body, err = io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	var over *http.MaxBytesError
	if errors.As(err, &over) {
		return nil, true, nil
	}
	if err != nil {
		return nil, false, err
	}
	// The deadline would otherwise end the request while it waits.
	return body, false, rc.SetReadDeadline(time.Time{})
}

func (s *server) authenticate(r *http.Request) *apiError {
	key, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	switch {
	case !ok || key == "":
		return errMissingAPIKey
	case subtle.ConstantTimeCompare([]byte(key), []byte(s.options.APIKey)) != 1:
		return errInvalidAPIKey
	}
	return nil
}

func (s *server) limit(c *call) *apiError {
	s.mu.Lock()
	defer s.mu.Unlock()
	limit, ok := s.config.Rate, false
	c.headers, ok = s.limiter.take(time.Now(), limit, s.config.Window)
	if ok {
		return nil
	}
	s.count.Rejected429++
	return &apiError{http.StatusTooManyRequests, "rate_limit_exceeded", "Too many requests. You can only make " +
		strconv.Itoa(limit) + " requests per second. See rate limit response headers for more information."}
}

// latency is the time a call's answer takes.
func (s *server) latency(c *call) time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.between(s.config.LatencyMS, "latency", c.number)
}

// sleep waits, unless the process is told to stop.
func (s *server) sleep(d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.closing:
	}
}

// write sends the answer and notes that it was sent. An answer counts as
// written once the kernel took all of it for a client that had not hung up.
func (s *server) write(w http.ResponseWriter, c *call, a *answer) {
	rc := http.NewResponseController(w)
	switch a.broken {
	case faultEOF:
		panic(http.ErrAbortHandler) // net/http's way to close the connection
	case faultTimeout:
		select {
		case <-c.r.Context().Done():
		case <-time.After(maxHang):
		case <-s.closing:
		}
		panic(http.ErrAbortHandler)
	case faultReset, faultDown:
		if a.broken == faultDown && s.goDown != nil {
			s.goDown(a.pause)
		}
		if conn, _, err := rc.Hijack(); err == nil {
			if tcp, ok := conn.(interface{ SetLinger(seconds int) error }); ok {
				_ = tcp.SetLinger(0) // so that closing resets
			}
			conn.Close()
		}
		return
	}
	s.gate.RLock()
	defer s.gate.RUnlock()
	// A connection that is gone fails below. The deadline must not outlive
	// this answer: the next request on the connection may wait for mail.
	_ = rc.SetWriteDeadline(time.Now().Add(ioTimeout))
	defer func() { _ = rc.SetWriteDeadline(time.Time{}) }()
	h := w.Header()
	if !a.bare && c.headers != nil { // it came past authentication
		maps.Copy(h, c.headers)
		s.mu.Lock()
		s.sent.headers(s.now(), h)
		s.mu.Unlock()
	}
	maps.Copy(h, a.header)
	h.Set("Content-Type", a.contentType)
	h.Set("Content-Length", strconv.Itoa(len(a.body)))
	gone := c.r.Context().Err() != nil
	w.WriteHeader(a.status)
	if a.broken == faultTruncated {
		_, _ = w.Write(a.body[:len(a.body)/2])
		_ = rc.Flush()
		panic(http.ErrAbortHandler)
	}
	if _, err := w.Write(a.body); err != nil || rc.Flush() != nil || gone {
		return
	}
	s.mu.Lock()
	fresh := s.markAnswered(a.ids)
	s.mu.Unlock()
	if len(fresh) > 0 {
		// Not worth failing an answer that is out: only "answered" would be low.
		_, _ = s.journal.write(entry{Answer: fresh})
	}
}

func (e *apiError) answer() *answer { return jsonAnswer(e.StatusCode, e) }

func (e *apiError) withMessage(message string) *apiError {
	return &apiError{e.StatusCode, e.Name, message}
}

func jsonAnswer(status int, v any) *answer {
	return &answer{status: status, contentType: "application/json", body: mustJSON(v)}
}

// mustJSON encodes our own types, which cannot fail, and leaves <, > and & as
// they are.
func mustJSON(v any) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err)
	}
	return bytes.TrimRight(buf.Bytes(), "\n")
}
