package main

import (
	"bytes"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
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
	APIKey  string
	Rate    int // requests per second, 0 unlimited
	Latency latency
}

// server is the stand-in: one team with one API key.
type server struct {
	options options
	journal *journal
	closing chan struct{} // closed when the process stops

	// gate keeps a line of the journal or an answer on the wire together with
	// its record in memory: whoever does both holds it for reading, whoever
	// must not see one without the other for writing.
	gate sync.RWMutex

	mu        sync.Mutex // guards what follows
	config    config
	advance   time.Duration // of the stand-in's clock
	emails    []*email      // in order of acceptance
	byID      map[string]*email
	byAddress map[string][]*email // by each of email.recipients
	changed   chan struct{}       // closed and replaced at every acceptance
	keys      keyring
	limiter   limiter
	arrived   window
	count     counters
	hits      []faultHit
}

// counters are figures since the start of the process or the last reset.
type counters struct {
	Requests           int `json:"requests"`            // API requests, whatever the answer
	MaxInAnySecond     int `json:"max_in_any_second"`   // most requests in any one second
	Rejected429        int `json:"rejected_429"`        // refused by the rate limit
	Replayed           int `json:"replayed"`            // answered from an idempotency key
	ConflictingKeys    int `json:"conflicting_keys"`    // refused as invalid_idempotent_request
	ConcurrentRequests int `json:"concurrent_requests"` // refused as concurrent_idempotent_requests
}

// newServer returns a server with what the journal file holds, if one is named.
func newServer(opts options, journalFile string) (*server, error) {
	s := &server{options: opts, closing: make(chan struct{})}
	s.forget()
	j, err := openJournal(journalFile, s.replay)
	if err != nil {
		return nil, err
	}
	s.journal = j
	return s, nil
}

// forget goes back to the start; the caller holds mu or is alone.
func (s *server) forget() {
	s.config = config{Rate: s.options.Rate, LatencyMS: s.options.Latency.milliseconds(), Idempotency: compareBytes}
	s.advance, s.keys = 0, keyring{}
	s.emails, s.byID, s.byAddress = nil, map[string]*email{}, map[string][]*email{}
	s.limiter, s.arrived, s.count, s.hits = limiter{}, window{}, counters{}, nil
	s.changed = make(chan struct{})
}

// replay takes up a line of the journal.
func (s *server) replay(e entry) {
	s.advance += e.Clock
	s.markAnswered(e.Answer)
	if e.Accept != nil {
		s.record(e.Accept)
		if k := e.Accept.Key; k != nil {
			s.keys[*k] = &remembered{hash: e.Accept.Hash, since: e.Accept.At, reply: e.Accept.Reply}
		}
	}
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
	r         *http.Request
	body      []byte
	rateLimit http.Header // for the answer
	key       *scopedKey  // its idempotency key, if it claimed one
	claim     *remembered // of key; settled with accepted
	accepted  *reply      // nil unless the request was accepted
}

// reply is an accepting answer, as an idempotency key remembers it.
type reply struct {
	Body json.RawMessage `json:"body"`
	IDs  []string        `json:"ids"`
}

// answer is what goes out.
type answer struct {
	drop        bool // close the connection instead
	status      int
	contentType string
	header      http.Header
	body        []byte
	ids         []string // of the mails whose acceptance it tells
}

// serveAPI runs one request through the pipeline and answers it. Between
// acceptance and answer lies the latency, during which the mail is accepted,
// its key in flight, and the client none the wiser.
func (s *server) serveAPI(w http.ResponseWriter, r *http.Request) {
	c := &call{r: r}
	a := s.pipeline(c, w)
	time.Sleep(s.pause())
	if c.key != nil {
		s.mu.Lock()
		s.keys.settle(*c.key, c.claim, c.accepted)
		s.mu.Unlock()
	}
	s.write(w, c, a)
}

// pipeline takes the steps in Resend's order; the first that refuses answers.
func (s *server) pipeline(c *call, w http.ResponseWriter) *answer {
	s.arrive()
	body, tooLarge, err := readBody(w, c.r)
	if err != nil {
		return &answer{drop: true}
	}
	c.body = body
	if f := s.fault(beforeAccept, func(to string) bool { return addressedTo(body, to) }, nil); f != nil {
		return f.answer()
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
	id, isEmail := strings.CutPrefix(path, "/emails/")
	method, endpoint := http.MethodPost, s.sendEmail
	switch {
	case path == "/emails":
	case path == "/emails/batch":
		endpoint = s.sendBatch
	case isEmail && id != "" && !strings.Contains(id, "/"):
		method, endpoint = http.MethodGet, s.getEmail
	default:
		return nil, errNotFound
	}
	if r.Method != method {
		return nil, errMethodNotAllowed
	}
	return endpoint, nil
}

// arrive counts a request.
func (s *server) arrive() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count.Requests++
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
	if c.rateLimit, ok = s.limiter.take(time.Now(), limit); ok {
		return nil
	}
	s.count.Rejected429++
	return &apiError{http.StatusTooManyRequests, "rate_limit_exceeded", "Too many requests. You can only make " +
		strconv.Itoa(limit) + " requests per second. See rate limit response headers for more information."}
}

// sendEmail serves POST /emails.
func (s *server) sendEmail(c *call) *answer {
	if !json.Valid(c.body) {
		return errNotJSON.answer()
	}
	if a := s.claim(c); a != nil {
		return a
	}
	e, err := parseEmail(c.body)
	if err != nil {
		return err.answer()
	}
	e.ID = uuid.NewString()
	return s.accept(c, []*email{e}, map[string]string{"id": e.ID})
}

// sendBatch serves POST /emails/batch. Strict, the default, refuses the whole
// batch for one bad item; permissive accepts the good ones and names the bad.
func (s *server) sendBatch(c *call) *answer {
	if !json.Valid(c.body) {
		return errNotJSON.answer()
	}
	if a := s.claim(c); a != nil {
		return a
	}
	mode := c.r.Header.Get("x-batch-validation")
	if mode != "" && mode != "strict" && mode != "permissive" {
		return invalid("Invalid `x-batch-validation` header. It must be `strict` or `permissive`.").answer()
	}
	var items []json.RawMessage
	if json.Unmarshal(c.body, &items) != nil {
		return invalid("The request body must be an array of emails.").answer()
	}
	if len(items) == 0 || len(items) > maxBatch {
		return invalid("A batch takes between 1 and %d emails.", maxBatch).answer()
	}

	type itemID struct {
		ID string `json:"id"`
	}
	type itemError struct {
		Index   int    `json:"index"`
		Message string `json:"message"`
	}
	var emails []*email
	body := struct {
		Data   []itemID    `json:"data"`
		Errors []itemError `json:"errors,omitempty"`
	}{Data: []itemID{}}
	for i, item := range items {
		e, err := parseEmail(item)
		if err == nil && len(e.Attachments) > 0 {
			err = invalid("Invalid `attachments` field. A batch takes no attachments.")
		}
		if err != nil && mode != "permissive" {
			return err.answer()
		}
		if err != nil {
			body.Errors = append(body.Errors, itemError{i, err.Message})
			continue
		}
		e.ID = uuid.NewString()
		emails = append(emails, e)
		body.Data = append(body.Data, itemID{e.ID})
	}
	return s.accept(c, emails, body)
}

// getEmail serves GET /emails/{id}.
func (s *server) getEmail(c *call) *answer {
	id := strings.TrimPrefix(c.r.URL.Path, "/emails/")
	if _, err := uuid.Parse(id); err != nil {
		return invalid("The `id` must be a valid UUID.").answer()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.byID[id]
	if e == nil {
		return errEmailNotFound.answer()
	}
	return jsonAnswer(http.StatusOK, struct {
		Object    string    `json:"object"`
		ID        string    `json:"id"`
		From      string    `json:"from"`
		To        []string  `json:"to"`
		Cc        []string  `json:"cc"`
		Bcc       []string  `json:"bcc"`
		ReplyTo   []string  `json:"reply_to"`
		Subject   string    `json:"subject"`
		HTML      string    `json:"html"`
		Text      string    `json:"text"`
		Tags      []tag     `json:"tags"`
		CreatedAt time.Time `json:"created_at"`
		LastEvent string    `json:"last_event"`
	}{"email", e.ID, e.From, e.To, e.Cc, e.Bcc, e.ReplyTo, e.Subject, e.HTML, e.Text, e.Tags, e.AcceptedAt, "sent"})
}

// claim reserves the request's idempotency key, if it has one. It returns an
// answer if the key cannot be used or was used before, else nil.
func (s *server) claim(c *call) *answer {
	values, ok := c.r.Header["Idempotency-Key"]
	if !ok {
		return nil
	}
	if n := utf8.RuneCountInString(values[0]); n < 1 || n > maxKeyLen {
		return errInvalidIdempotencyKey.answer()
	}
	key := scopedKey{Scope: c.r.Method + " " + c.r.URL.Path, Key: values[0]}
	claim, first, refusal := s.claimKey(key, c.body)
	switch {
	case refusal != nil:
		return refusal.answer()
	case first != nil:
		return s.afterFault(first)
	}
	c.key, c.claim = &key, claim
	return nil
}

// claimKey returns the caller's claim, or the reply to repeat, or a refusal.
func (s *server) claimKey(key scopedKey, body []byte) (*remembered, *reply, *apiError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	claim, refusal := s.keys.claim(key, payloadHash(body, s.config.Idempotency), s.now())
	switch {
	case refusal == errInvalidIdempotentRequest:
		s.count.ConflictingKeys++
	case refusal == errConcurrentIdempotentRequests:
		s.count.ConcurrentRequests++
	case claim.reply != nil:
		s.count.Replayed++
		return nil, claim.reply, nil
	}
	return claim, nil, refusal
}

// accept journals mails and then shows them. body is the answer's.
func (s *server) accept(c *call, emails []*email, body any) *answer {
	s.gate.RLock()
	defer s.gate.RUnlock()
	a := &acceptance{Reply: &reply{Body: mustJSON(body)}, Emails: emails}
	if c.key != nil {
		a.Key, a.Hash = c.key, c.claim.hash
	}
	s.mu.Lock()
	a.At = s.now()
	s.mu.Unlock()
	for _, e := range emails {
		e.AcceptedAt = a.At
		if c.key != nil {
			e.IdempotencyKey = c.key.Key
		}
		a.Reply.IDs = append(a.Reply.IDs, e.ID)
	}
	if err := s.journal.append(entry{Accept: a}); err != nil {
		return errInternal.withMessage(err.Error()).answer()
	}
	c.accepted = a.Reply
	s.mu.Lock()
	s.record(a)
	s.mu.Unlock()
	return s.afterFault(a.Reply)
}

// record shows accepted mails; the caller holds mu or is alone.
func (s *server) record(a *acceptance) {
	for _, e := range a.Emails {
		s.emails = append(s.emails, e)
		s.byID[e.ID] = e
		for _, address := range e.recipients() {
			s.byAddress[address] = append(s.byAddress[address], e)
		}
	}
	close(s.changed)
	s.changed = make(chan struct{})
}

// markAnswered notes that answers with these ids were written and returns the
// ids that had none before; the caller holds mu or is alone.
func (s *server) markAnswered(ids []string) []string {
	var fresh []string
	for _, id := range ids {
		if e := s.byID[id]; e != nil && !e.Answered {
			e.Answered = true
			fresh = append(fresh, id)
		}
	}
	return fresh
}

// afterFault returns the accepting answer, unless a fault takes its place.
func (s *server) afterFault(a *reply) *answer {
	matches := func(to string) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return slices.ContainsFunc(s.byAddress[bareAddress(to)], func(e *email) bool { return slices.Contains(a.IDs, e.ID) })
	}
	if f := s.fault(afterAccept, matches, a.IDs); f != nil {
		return f.answer()
	}
	return &answer{status: http.StatusOK, contentType: "application/json", body: a.Body, ids: a.IDs}
}

// pause is the time to wait before the next answer.
func (s *server) pause() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	lo, hi := s.config.LatencyMS[0], s.config.LatencyMS[1]
	return time.Duration((lo + rand.Float64()*(hi-lo)) * float64(time.Millisecond))
}

// write sends the answer and notes that it was sent. An answer counts as
// written once the kernel took all of it for a client that had not hung up.
func (s *server) write(w http.ResponseWriter, c *call, a *answer) {
	s.gate.RLock()
	defer s.gate.RUnlock()
	if a.drop {
		panic(http.ErrAbortHandler) // net/http's way to close the connection
	}
	rc := http.NewResponseController(w)
	// A connection that is gone fails below. The deadline must not outlive
	// this answer: the next request on the connection may wait for mail.
	_ = rc.SetWriteDeadline(time.Now().Add(ioTimeout))
	defer func() { _ = rc.SetWriteDeadline(time.Time{}) }()
	h := w.Header()
	for _, from := range []http.Header{c.rateLimit, a.header} {
		for name, values := range from {
			h[name] = values
		}
	}
	h.Set("Content-Type", a.contentType)
	h.Set("Content-Length", strconv.Itoa(len(a.body)))
	gone := c.r.Context().Err() != nil
	w.WriteHeader(a.status)
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
