package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
)

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
		return s.refuse(c, err)
	}
	e.ID = uuid.NewString()
	return s.accept(c, false, []*email{e}, map[string]string{"id": e.ID})
}

// sendBatch serves POST /emails/batch. Strict, the default, refuses the whole
// batch for one bad item; permissive accepts the good ones and names the bad.
func (s *server) sendBatch(c *call) *answer {
	items, refusal := parseBatch(c.body)
	if refusal == errNotJSON {
		return refusal.answer()
	}
	if a := s.claim(c); a != nil {
		return a
	}
	mode := c.r.Header.Get("x-batch-validation")
	if mode != "" && mode != "strict" && mode != "permissive" {
		return s.refuse(c, invalid("Invalid `x-batch-validation` header. It must be `strict` or `permissive`."))
	}
	if refusal != nil {
		return s.refuse(c, refusal)
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
		e, err := item.email, item.err
		if err != nil && mode != "permissive" {
			return s.refuse(c, err)
		}
		if err != nil {
			body.Errors = append(body.Errors, itemError{i, err.Message})
			continue
		}
		e.ID = uuid.NewString()
		emails = append(emails, e)
		body.Data = append(body.Data, itemID{e.ID})
	}
	return s.accept(c, true, emails, body)
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
	shown := e.shown()
	shown["object"], shown["html"], shown["text"], shown["tags"] = "email", e.HTML, e.Text, e.Tags
	return jsonAnswer(http.StatusOK, shown)
}

// listEmails serves GET /emails, newest first.
func (s *server) listEmails(c *call) *answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return listAnswer(s.emails, c.r.URL.Query(), func(e *email) string { return e.ID }, (*email).shown)
}

// shown is a mail as the API lists it.
func (e *email) shown() map[string]any {
	return map[string]any{
		"id": e.ID, "message_id": e.headerID(), "from": e.From, "to": e.To, "cc": e.Cc, "bcc": e.Bcc, "reply_to": e.ReplyTo,
		"subject": e.Subject, "created_at": apiTime(e.AcceptedAt), "last_event": e.lastEvent(), "scheduled_at": nil,
	}
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
	s.mu.Lock()
	key, compare := scopedKey{Key: values[0]}, s.config.Idempotency
	if s.config.KeyScope == scopeEndpoint {
		key.Scope = c.r.Method + " " + c.r.URL.Path
	}
	s.mu.Unlock()
	c.hash = payloadHash(c.body, compareBytes)
	hash := c.hash
	if compare != compareBytes {
		hash = payloadHash(c.body, compare)
	}
	claim, first, refusal := s.claimKey(key, c.hash, hash)
	switch {
	case refusal != nil:
		return refusal.answer()
	case first != nil:
		return s.afterFault(c, first)
	}
	c.key, c.claim = &key, claim
	return nil
}

// claimKey returns the caller's claim, or the reply to repeat, or a refusal.
// hash is what payloads are compared by, bodyHash that of their bytes.
func (s *server) claimKey(key scopedKey, bodyHash, hash string) (*remembered, *reply, *apiError) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noteHash(key, bodyHash)
	claim, refusal := s.keys.claim(key, hash, s.now())
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

// keyHash is one payload an idempotency key came with.
type keyHash struct {
	Key  scopedKey `json:"key"`
	Hash string    `json:"hash"`
}

// noteHash remembers every payload a key ever came with, byte by byte; the
// caller holds mu. Two are a client's mistake, whatever became of them.
func (s *server) noteHash(key scopedKey, hash string) {
	if before := s.hashes[key]; !slices.Contains(before, hash) {
		s.hashes[key] = append(before, hash)
		if len(before) > 0 {
			s.note(entry{Hash: &keyHash{key, hash}})
		}
	}
}

// refuse answers a request that reached the point where it holds its key.
func (s *server) refuse(c *call, err *apiError) *answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.config.HoldFailedKeys {
		c.reply = &reply{Status: err.StatusCode, Body: mustJSON(err)}
	}
	return err.answer()
}

// accept journals mails and then shows them. body is the answer's.
func (s *server) accept(c *call, batch bool, emails []*email, body any) *answer {
	s.gate.RLock()
	defer s.gate.RUnlock()
	a := &acceptance{Reply: &reply{Status: http.StatusOK, Body: mustJSON(body)}, Batch: batch, Request: bytes.TrimSpace(c.body), emails: emails}
	if c.key != nil {
		a.Key, a.Hash, a.BodyHash = c.key, c.claim.hash, c.hash
	}
	if err := s.admit(a); err != nil {
		return s.refuse(c, err)
	}
	a.date()
	for _, e := range emails {
		a.Reply.IDs = append(a.Reply.IDs, e.ID)
	}
	if err := s.journal.append(entry{Accept: a}); err != nil {
		return errInternal.withMessage(err.Error()).answer()
	}
	c.reply, c.accepted = a.Reply, emails
	s.mu.Lock()
	s.record(a)
	s.busy += len(emails)
	s.mu.Unlock()
	return s.afterFault(c, a.Reply)
}

// admit counts mails against the quotas, dates them, and plans what will
// happen to them.
func (s *server) admit(a *acceptance) *apiError {
	s.mu.Lock()
	defer s.mu.Unlock()
	a.At = s.now()
	n := countRecipients(a.emails)
	if err := s.sent.refuse(a.At, n, s.config.DailyQuota, s.config.MonthlyQuota); err != nil {
		s.count.OverQuota++
		return err
	}
	s.sent.add(a.At, n)
	for _, e := range a.emails {
		a.Plans = append(a.Plans, s.plan(e))
	}
	return nil
}

func countRecipients(emails []*email) int {
	n := 0
	for _, e := range emails {
		n += len(e.To) + len(e.Cc) + len(e.Bcc)
	}
	return n
}

// record shows accepted mails; the caller holds mu or is alone.
func (s *server) record(a *acceptance) {
	for _, e := range a.emails {
		s.emails = append(s.emails, e)
		s.byID[e.ID] = e
		for _, address := range e.recipients() {
			s.byAddress[address] = append(s.byAddress[address], e)
		}
	}
	s.announce()
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

// afterFault returns the remembered answer, unless a fault takes its place.
func (s *server) afterFault(c *call, a *reply) *answer {
	regular := &answer{status: a.Status, contentType: "application/json", body: a.Body, ids: a.IDs}
	if len(a.IDs) == 0 {
		return regular // it tells of no accepted mail
	}
	if f := s.fault(c, afterAccept, a.IDs); f != nil {
		return f.answer(regular)
	}
	return regular
}
