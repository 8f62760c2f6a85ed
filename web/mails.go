package web

import (
	"context"
	"net/http"
	"net/url"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"usher/internal/mail"
	"usher/internal/roster"
)

func (s *Server) mailRoutes() {
	register(s, huma.Operation{
		OperationID: "list-messages", Method: http.MethodGet, Path: "/v1/messages", Tags: []string{tagMail},
		Summary:     "List mails, newest first",
		Description: "With `state`, an answer may have fewer rows than asked for, or none, and still a `next`: go on until there is none.",
	}, s.listMessages)
	register(s, huma.Operation{
		OperationID: "get-message", Method: http.MethodGet, Path: "/v1/messages/{id}", Tags: []string{tagMail},
		Summary: "Read a mail with all that is known of it, and what happens next", Errors: []int{404},
	}, s.getMessage)
	register(s, huma.Operation{
		OperationID: "settle-message", Method: http.MethodPost, Path: "/v1/messages/{id}/settle", Tags: []string{tagMail},
		Summary:     "Say what became of an uncertain mail",
		Description: "For somebody who looked at the mail provider's own pages. In place of a mail that was not sent a new one is written, if it is still wanted. Saying the same again is a success.",
		Errors:      []int{404, 409},
	}, s.settleMessage)
	register(s, huma.Operation{
		OperationID: "list-suppressions", Method: http.MethodGet, Path: "/v1/suppressions", Tags: []string{tagMail},
		Summary: "List the addresses that get no mail, by their letters",
	}, s.listSuppressions)
	register(s, huma.Operation{
		OperationID: "get-suppression", Method: http.MethodGet, Path: "/v1/suppressions/{email}", Tags: []string{tagMail},
		Summary: "Read why an address gets no mail", Errors: []int{404},
	}, s.getSuppression)
	register(s, huma.Operation{
		OperationID: "lift-suppression", Method: http.MethodDelete, Path: "/v1/suppressions/{email}", Tags: []string{tagMail},
		Summary:       "Say that a mailbox exists now",
		Description:   "The provider is asked to take the address off its list; then mail reaches it again, and invitations that are on hold for it go on. At most once in 24 hours. A person who called our mail spam gets no more of it: 409.",
		DefaultStatus: http.StatusAccepted, Errors: []int{404, 409, 429},
	}, s.liftSuppression)
	register(s, huma.Operation{
		OperationID: "get-mail-health", Method: http.MethodGet, Path: "/v1/mail/health", Tags: []string{tagMail},
		Summary:     "Read whether mail leaves",
		Description: "The provider's limit and blocks are the whole installation's. How much waits is not told: it is mostly other apps' mail.",
	}, s.getMailHealth)
}

// Message is a mail in the API.
type Message struct {
	ID           string     `json:"id" format:"uuid"`
	Kind         string     `json:"kind" doc:"invitation: to the invited person; news: to the inviter." example:"invitation"`
	SubjectID    string     `json:"subject_id" format:"uuid" doc:"What it is about: the invitation, or the account that is told."`
	Email        string     `json:"email" doc:"To whom: as sent, or before that as compared, in lower case."`
	State        string     `json:"state" enum:"queued,held,sending,accepted,delayed,delivered,bounced,complained,suppressed,failed,cancelled,uncertain" doc:"As in an invitation's delivery."`
	Reason       string     `json:"reason,omitempty" doc:"Why it is held, or ended so."`
	DueAt        *time.Time `json:"due_at,omitempty" doc:"It waits to be written, not before this."`
	Subject      string     `json:"subject,omitempty" doc:"Its subject line. Missing: it is not written yet."`
	ProviderID   string     `json:"provider_id,omitempty" doc:"Its id at the mail provider."`
	CreatedAt    time.Time  `json:"created_at" doc:"When it was asked for."`
	SettledAt    *time.Time `json:"settled_at,omitempty" doc:"When the provider's answer, or the end before one, was recorded."`
	Attempts     int        `json:"attempts" doc:"How often the request that carries it was sent. The provider counts them as one."`
	FirstAttempt *time.Time `json:"first_attempt_at,omitempty"`
	LastAttempt  *time.Time `json:"last_attempt_at,omitempty"`
}

func newMessage(r mail.Record) Message {
	b := Message{
		ID: r.ID.String(), Kind: r.Kind, SubjectID: r.SubjectID.String(), Email: r.Recipient, State: string(r.State), Reason: r.Reason,
		DueAt: r.DueAt, Subject: r.Subject, ProviderID: r.ProviderID, CreatedAt: r.CreatedAt, SettledAt: r.SettledAt,
		Attempts: r.Attempts, FirstAttempt: r.FirstAttemptAt, LastAttempt: r.LastAttemptAt,
	}
	if b.Email == "" {
		b.Email = r.EmailKey
	}
	return b
}

// messageDetail is a mail with all that is known of it.
type messageDetail struct {
	Message
	Outcome string     `json:"outcome,omitempty" doc:"What the newest attempt came to. Missing where the request carries other mails, too."`
	Next    string     `json:"next" doc:"What happens next, for people." example:"Nothing more: it arrived."`
	Facts   []factBody `json:"facts" doc:"What the provider told of it, in the order it happened."`
}

type factBody struct {
	Type       string     `json:"type" example:"email.delivered"`
	At         time.Time  `json:"at" doc:"By the provider's clock."`
	ReceivedAt time.Time  `json:"received_at"`
	AppliedAt  *time.Time `json:"applied_at,omitempty" doc:"Missing: what follows from it is not drawn yet."`
	Outcome    string     `json:"outcome,omitempty" doc:"What it changed."`
	Said       string     `json:"said,omitempty" doc:"The mail server's words, or the provider's."`
}

func (s *Server) listMessages(ctx context.Context, in *struct {
	Paged
	Email   string `query:"email" maxLength:"320" doc:"Only to this address. Letters in upper and lower case are the same." example:"ann@example.org"`
	State   string `query:"state" enum:"queued,held,sending,accepted,delayed,delivered,bounced,complained,suppressed,failed,cancelled,uncertain" doc:"Only in this state."`
	Subject string `query:"subject_id" format:"uuid" doc:"Only about this: an invitation, or an account that is told."`
},
) (*ok[list[Message]], error) {
	l := mail.RecordList{Subject: id(in.Subject), State: mail.State(in.State), After: id(in.After), Limit: in.Limit}
	if in.Email != "" {
		address, err := roster.ParseAddress(in.Email)
		if err != nil {
			return nil, err
		}
		l.EmailKey = address.Key
	}
	rows, next, err := s.outbox.Records(ctx, requestOf(ctx).app, l)
	if err != nil {
		return nil, err
	}
	page := listOf(rows, len(rows), func(r mail.Record) uuid.UUID { return r.ID }, newMessage)
	if next != uuid.Nil {
		page.Next = next.String()
	}
	return &ok[list[Message]]{page}, nil
}

func (s *Server) getMessage(ctx context.Context, in *Subject) (*ok[messageDetail], error) {
	app := requestOf(ctx).app
	r, facts, found, err := s.outbox.Record(ctx, app, id(in.ID))
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, newProblem(http.StatusNotFound, "message_not_found", "There is no such message in this app.")
	}
	health, err := s.outbox.Health(ctx, app)
	if err != nil {
		return nil, err
	}
	d := messageDetail{Message: newMessage(r), Next: r.Next(health.Way, s.outbox.Now()), Facts: make([]factBody, len(facts))}
	if r.Together == 1 {
		d.Outcome = r.Outcome
	}
	for i, f := range facts {
		d.Facts[i] = factBody{f.Type, f.At, f.ReceivedAt, f.AppliedAt, f.Outcome, f.Said}
	}
	return &ok[messageDetail]{d}, nil
}

// settledBody is the answer to who settled a mail.
type settledBody struct {
	ID      string `json:"id" format:"uuid"`
	Outcome string `json:"outcome" enum:"sent,not_sent"`
	Instead string `json:"new_message_id,omitempty" format:"uuid" doc:"The mail that is written in its place. Missing: none is wanted."`
}

func (s *Server) settleMessage(ctx context.Context, in *struct {
	Subject
	Keyed
	RawBody []byte
	Body    struct {
		Outcome string `json:"outcome" enum:"sent,not_sent" doc:"sent: the provider's pages show the mail; not_sent: they do not."`
	}
},
) (*ok[settledBody], error) {
	instead, err := s.Roster.SettleMail(ctx, requestOf(ctx).app, id(in.ID), in.Body.Outcome == "sent", in.key(ctx, "", in.RawBody))
	if err != nil {
		return nil, err
	}
	b := settledBody{ID: in.ID, Outcome: in.Body.Outcome}
	if instead != nil {
		b.Instead = instead.String()
	}
	return &ok[settledBody]{b}, nil
}

// suppressionBody is a blocked address in the API.
type suppressionBody struct {
	Email    string     `json:"email" doc:"As compared, in lower case."`
	Reason   string     `json:"reason" enum:"hard,provider,complaint" doc:"hard: its mail server says that there is no such mailbox; provider: the mail provider sends nothing to it, as mail to it came back before; complaint: the person called our mail spam."`
	Since    time.Time  `json:"since"`
	Detail   string     `json:"detail,omitempty" doc:"What the mail server said." example:"550 5.1.1 no such user"`
	Lifting  bool       `json:"lifting,omitempty" doc:"The provider was asked to take it off its list, and has not done so yet."`
	LiftedAt *time.Time `json:"lifted_at,omitempty" doc:"When somebody last said that the mailbox exists."`
}

func newSuppressionBody(p mail.Suppression) suppressionBody {
	return suppressionBody{p.EmailKey, string(p.Block), p.Since, p.Detail, p.Lifting(), p.LiftedAt}
}

func (s *Server) listSuppressions(ctx context.Context, in *struct {
	Limit int    `query:"limit" minimum:"1" maximum:"200" default:"50" doc:"Rows in an answer."`
	After string `query:"after" maxLength:"320" doc:"The next of the answer before."`
},
) (*ok[list[suppressionBody]], error) {
	rows, err := s.outbox.Suppressions(ctx, requestOf(ctx).app, in.After, in.Limit+1)
	if err != nil {
		return nil, err
	}
	page := listOf(rows[:min(in.Limit, len(rows))], in.Limit, func(mail.Suppression) uuid.UUID { return uuid.Nil }, newSuppressionBody)
	if len(rows) > in.Limit {
		page.Next = rows[in.Limit-1].EmailKey
	}
	return &ok[list[suppressionBody]]{page}, nil
}

// Addressed is the part of an input that names an address in the path.
type Addressed struct {
	Email string `path:"email" maxLength:"960" doc:"One plain address." example:"ann@example.org"`
}

// address reads the address, percent-encoded or not: a plain one has no percent
// sign that a path would leave alone.
func (a Addressed) address() (roster.Address, error) {
	typed, err := url.PathUnescape(a.Email)
	if err != nil {
		typed = a.Email
	}
	return roster.ParseAddress(typed)
}

func (s *Server) getSuppression(ctx context.Context, in *Addressed) (*ok[suppressionBody], error) {
	address, err := in.address()
	if err != nil {
		return nil, err
	}
	p, found, err := s.outbox.Suppression(ctx, requestOf(ctx).app, address.Key)
	if err != nil {
		return nil, err
	}
	if !found {
		return nil, newProblem(http.StatusNotFound, "suppression_not_found", "Mail to this address is not blocked in this app.")
	}
	return &ok[suppressionBody]{newSuppressionBody(p)}, nil
}

func (s *Server) liftSuppression(ctx context.Context, in *Addressed) (*ok[suppressionBody], error) {
	before, err := s.getSuppression(ctx, in)
	if err != nil {
		return nil, err
	}
	if err := s.Roster.LiftSuppression(ctx, requestOf(ctx).app, before.Body.Email); err != nil {
		return nil, err
	}
	now := s.outbox.Now().UTC()
	before.Body.Lifting, before.Body.LiftedAt = true, &now
	return before, nil
}

// mailHealthBody is how mail fares, as far as an app may know.
type mailHealthBody struct {
	Flowing      bool       `json:"flowing" doc:"Mail leaves."`
	BlockedUntil *time.Time `json:"blocked_until,omitempty" doc:"Nothing leaves before this."`
	BlockedSince *time.Time `json:"blocked_since,omitempty"`
	Reason       string     `json:"blocked_reason,omitempty" example:"429 daily_quota_exceeded: You have reached your daily email quota."`
	Rate         float64    `json:"requests_per_second" doc:"The mail provider's limit. A request carries up to 100 mails."`
	Uncertain    int        `json:"uncertain" doc:"Mails of this app of which nobody knows whether they were sent; see the list of messages."`
	LastEventAt  *time.Time `json:"last_event_at,omitempty" doc:"When the mail provider last told what became of a mail. Missing: never."`
}

func (s *Server) getMailHealth(ctx context.Context, _ *struct{}) (*ok[mailHealthBody], error) {
	h, err := s.outbox.Health(ctx, requestOf(ctx).app)
	if err != nil {
		return nil, err
	}
	b := mailHealthBody{Flowing: true, Rate: h.Rate, Uncertain: h.Uncertain, LastEventAt: h.LastEventAt}
	if h.Blocked(s.outbox.Now()) {
		b.Flowing, b.BlockedUntil, b.BlockedSince, b.Reason = false, &h.BlockedUntil, h.BlockedSince, h.Reason
	}
	return &ok[mailHealthBody]{b}, nil
}
