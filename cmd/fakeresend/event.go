package main

import (
	"container/heap"
	"strings"
	"time"

	"github.com/google/uuid"
)

// event is something that happened, as a webhook tells it.
type event struct {
	ID        string    `json:"id"` // svix-id
	Type      string    `json:"type"`
	At        time.Time `json:"at"` // by the stand-in's clock
	EmailID   string    `json:"email_id,omitempty"`
	MessageID string    `json:"message_id,omitempty"` // value of the mail's tag message_id
	outcome
	Data     map[string]any `json:"data,omitempty"`    // for an event that is about no mail of ours
	Step     int            `json:"step,omitempty"`    // of the mail's plan, from 1
	Webhook  bool           `json:"webhook,omitempty"` // there was a URL to tell it to
	Told     bool           `json:"told,omitempty"`    // the URL answered 2xx
	Number   int            `json:"number"`            // from 1, by which its luck is drawn
	Attempts []attempt      `json:"attempts,omitempty"`
}

// attempt is one request to the webhook's URL.
type attempt struct {
	At     time.Time `json:"at"`
	What   string    `json:"what,omitempty"`   // empty for a plain delivery, else duplicate, bad_signature, ...
	Status int       `json:"status,omitempty"` // 0: no answer
	Error  string    `json:"error,omitempty"`
}

// task is something due at a time: a step of a mail's plan, or a delivery.
type task struct {
	at       time.Time
	number   int // the one put on the agenda first comes first
	email    *email
	step     int // index into the mail's plan
	delivery *delivery
}

// agenda is a heap of tasks, the earliest on top.
type agenda []task

// Len, Less, Swap, Push and Pop make it a heap.Interface.
func (a agenda) Len() int { return len(a) }

// Less orders by time, then by order of arrival.
func (a agenda) Less(i, j int) bool {
	if a[i].at.Equal(a[j].at) {
		return a[i].number < a[j].number
	}
	return a[i].at.Before(a[j].at)
}

// Swap exchanges two tasks.
func (a agenda) Swap(i, j int) { a[i], a[j] = a[j], a[i] }

// Push is called by package heap.
func (a *agenda) Push(x any) { *a = append(*a, x.(task)) }

// Pop is called by package heap.
func (a *agenda) Pop() any {
	last := len(*a) - 1
	t := (*a)[last]
	(*a)[last] = task{}
	*a = (*a)[:last]
	return t
}

// put adds a task; the caller holds mu.
func (s *server) put(t task) {
	s.tasks++
	t.number = s.tasks
	heap.Push(&s.agenda, t)
	if s.agenda[0].number == t.number {
		s.wakeUp()
	}
}

// wakeUp makes live look at its agenda again.
func (s *server) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// schedule puts a mail's plan, from a step on, on the agenda; the caller
// holds mu.
func (s *server) schedule(e *email, from time.Time, first int) {
	for i := first; i < len(e.plan); i++ {
		s.put(task{at: from.Add(time.Duration(e.plan[i].After)), email: e, step: i})
	}
}

// live does what is on the agenda when it is due, until the process stops.
func (s *server) live() {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		next, any := s.doDue()
		var due <-chan time.Time
		if any {
			timer.Reset(next)
			due = timer.C
		}
		select {
		case <-due:
		case <-s.wake:
		case <-s.closing:
			return
		}
	}
}

// doDue does what is due and returns how long until something else is, if
// anything.
func (s *server) doDue() (time.Duration, bool) {
	s.gate.RLock()
	defer s.gate.RUnlock()
	s.mu.Lock()
	now := s.now()
	var news entry
	for len(s.agenda) > 0 && !s.agenda[0].at.After(now) {
		t := heap.Pop(&s.agenda).(task)
		if t.delivery != nil {
			s.busy++
			go s.deliver(t.delivery)
			continue
		}
		s.occur(&news, t.email.event(t.step), t.email)
	}
	var next time.Duration
	more := len(s.agenda) > 0
	if more {
		next = s.agenda[0].at.Sub(now)
	}
	s.announce()
	s.mu.Unlock()
	s.note(news)
	return next, more
}

// note writes what happened to the journal, without waiting for the disk:
// what is lost with the machine happens again after a restart.
func (s *server) note(news entry) {
	if len(news.Events) > 0 || len(news.Suppress) > 0 || news.Lift != "" || len(news.Told) > 0 || news.Fault != nil || news.Hash != nil {
		_, _ = s.journal.write(news)
	}
}

// event is a step of the mail's plan come true.
func (e *email) event(step int) *event {
	st := e.plan[step]
	return &event{Type: st.Type, EmailID: e.ID, MessageID: e.messageID(), outcome: st.outcome, Step: step + 1}
}

// occur records an event and tells the webhook; the caller holds mu. e is nil
// for an event that is about no mail of ours.
func (s *server) occur(news *entry, ev *event, e *email) {
	s.enter(news, ev, e)
	if ev.Webhook && !s.config.Webhook.Hold {
		s.tell(news, ev, e)
	}
}

// enter records an event, and does to the suppression list what it does to
// Resend's; the caller holds mu.
func (s *server) enter(news *entry, ev *event, e *email) {
	ev.ID = "msg_" + strings.ReplaceAll(uuid.NewString(), "-", "")
	ev.At = s.now()
	s.numbered++
	ev.Number = s.numbered
	ev.Webhook = s.config.Webhook.URL != ""
	s.remember(ev)
	news.Events = append(news.Events, ev)
	if e == nil {
		return
	}
	origin := ""
	switch {
	case ev.Type == "email.complained":
		origin = "complaint"
	case ev.Type == "email.bounced" && ev.Bounce != nil && ev.Bounce.Type == "Permanent":
		origin = "bounce"
	default:
		return
	}
	to := ev.To
	if len(to) == 0 {
		to = e.To
	}
	for _, address := range bareAddresses(to) {
		// Resend's own test addresses can be used again and again.
		if !strings.HasSuffix(address, "@resend.dev") {
			s.suppress(news, address, origin, &e.ID)
		}
	}
}

// remember takes up an event, new or from the journal; the caller holds mu or
// is alone.
func (s *server) remember(ev *event) {
	s.events = append(s.events, ev)
	s.eventByID[ev.ID] = ev
	if e := s.byID[ev.EmailID]; e != nil {
		e.Events = append(e.Events, ev)
	}
}

// copyEvents returns events that nobody changes; the caller holds mu.
func copyEvents(list []*event) []*event {
	copies := make([]*event, len(list))
	for i, ev := range list {
		c := *ev
		copies[i] = &c
	}
	return copies
}

// copy returns the mail as it is now; the caller holds mu.
func (e *email) copy() email {
	c := *e
	c.Events = copyEvents(e.Events)
	return c
}

// lastEvent is the mail's status in Resend's words.
func (e *email) lastEvent() string {
	if len(e.Events) == 0 {
		return "queued"
	}
	return strings.TrimPrefix(e.Events[len(e.Events)-1].Type, "email.")
}
