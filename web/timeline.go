package web

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"usher/internal/roster"
)

func (s *Server) timelineRoutes() {
	register(s, huma.Operation{
		OperationID: "get-timeline", Method: http.MethodGet, Path: "/v1/timelines/{id}", Tags: []string{tagEvents},
		Summary: "Read what happened to something, and what comes next", Errors: []int{404},
		Description: "Of an invitation, an access request, a merge, an account, or whatever has events: its events and mails in their order, and what the clock will do about it, by the code that does it. Of an account, also what happened to those that were merged into it.",
	}, s.getTimeline)
}

// momentBody is one thing that happened.
type momentBody struct {
	At    time.Time     `json:"at"`
	Event *eventBody    `json:"event,omitempty"`
	Mail  *timelineMail `json:"mail,omitempty"`
}

// timelineMail is a mail about the subject.
type timelineMail struct {
	ID        string     `json:"id" format:"uuid"`
	Kind      string     `json:"kind" example:"invitation"`
	State     string     `json:"state" enum:"queued,held,sending,accepted,delayed,delivered,bounced,complained,suppressed,failed,cancelled,uncertain"`
	Reason    string     `json:"reason,omitempty" doc:"Why it is so, where there is something to say."`
	SettledAt *time.Time `json:"settled_at,omitempty" doc:"When the provider took it, or it was given up."`
}

// comingBody is something that the clock will do.
type comingBody struct {
	At     time.Time `json:"at"`
	What   string    `json:"what" enum:"reminder,expires,final,archives"`
	Unless string    `json:"unless" doc:"What keeps it from happening, for people."`
}

// timelineBody is what happened to a subject, and what comes.
type timelineBody struct {
	Subject string       `json:"subject" enum:"invitation,access_request,merge,account,other"`
	Past    []momentBody `json:"past" doc:"Oldest first; the first 1,000 events and mails."`
	Coming  []comingBody `json:"coming" doc:"Soonest first."`
}

func (s *Server) getTimeline(ctx context.Context, in *Subject) (*ok[timelineBody], error) {
	t, err := s.Roster.Timeline(ctx, requestOf(ctx).app, id(in.ID))
	if err != nil {
		return nil, err
	}
	b := timelineBody{Subject: t.Subject, Past: make([]momentBody, len(t.Past)), Coming: make([]comingBody, len(t.Coming))}
	for i, m := range t.Past {
		b.Past[i].At = m.At
		if m.Event != nil {
			e := newEventBody(*m.Event)
			b.Past[i].Event = &e
		} else {
			b.Past[i].Mail = newTimelineMail(*m.Mail)
		}
	}
	for i, c := range t.Coming {
		b.Coming[i] = comingBody{c.At, c.What, c.Unless}
	}
	return &ok[timelineBody]{b}, nil
}

func newTimelineMail(m roster.MailMoment) *timelineMail {
	return &timelineMail{ID: m.ID.String(), Kind: m.Kind, State: string(m.State), Reason: m.Reason, SettledAt: m.SettledAt}
}
