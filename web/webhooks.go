package web

import (
	"context"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"usher/internal/hook"
	"usher/internal/roster"
)

func (s *Server) webhookRoutes() {
	register(s, huma.Operation{
		OperationID: "list-events", Method: http.MethodGet, Path: "/v1/events", Tags: []string{tagEvents},
		Summary:     "List events",
		Description: "With `type`, an answer may have fewer rows than asked for, or none, and still a `next`: go on until there is none. An event shows a moment after its time, so that one of the last seconds may still come before others that you saw: to miss none, listen by webhook.",
	}, s.listEvents)
	register(s, huma.Operation{
		OperationID: "get-event", Method: http.MethodGet, Path: "/v1/events/{id}", Tags: []string{tagEvents},
		Summary: "Read an event", Errors: []int{404},
	}, s.getEvent)

	register(s, huma.Operation{
		OperationID: "create-webhook-endpoint", Method: http.MethodPost, Path: "/v1/webhook-endpoints", Tags: []string{tagWebhooks},
		DefaultStatus: http.StatusCreated, Errors: []int{409},
		Summary: "Add an endpoint", Description: "The answer has its secret. Keep it: no other answer shows it, but that of a rotation. Up to 20 endpoints for an app.",
	}, s.createEndpoint)
	register(s, huma.Operation{
		OperationID: "list-webhook-endpoints", Method: http.MethodGet, Path: "/v1/webhook-endpoints", Tags: []string{tagWebhooks},
		Summary: "List endpoints, oldest first",
	}, s.listEndpoints)
	register(s, huma.Operation{
		OperationID: "get-webhook-endpoint", Method: http.MethodGet, Path: "/v1/webhook-endpoints/{id}", Tags: []string{tagWebhooks},
		Summary: "Read an endpoint", Errors: []int{404},
	}, func(ctx context.Context, in *Subject) (*ok[Endpoint], error) {
		e, err := s.Roster.Endpoint(ctx, requestOf(ctx).app, id(in.ID))
		return &ok[Endpoint]{s.endpointBody(e)}, err
	})
	register(s, huma.Operation{
		OperationID: "update-webhook-endpoint", Method: http.MethodPatch, Path: "/v1/webhook-endpoints/{id}", Tags: []string{tagWebhooks},
		Summary: "Change, disable or enable an endpoint", Errors: []int{404, 409},
		Description: "While an endpoint is disabled nothing is sent to it, and no event is queued for it. What was queued before goes out when it is enabled again; a replay brings what happened meanwhile.",
	}, s.updateEndpoint)
	register(s, huma.Operation{
		OperationID: "delete-webhook-endpoint", Method: http.MethodDelete, Path: "/v1/webhook-endpoints/{id}", Tags: []string{tagWebhooks},
		Summary: "Delete an endpoint", DefaultStatus: http.StatusNoContent, Errors: []int{404},
		Description: "What waits for it is cancelled.",
	}, func(ctx context.Context, in *Subject) (*struct{}, error) {
		return nil, s.Roster.DeleteEndpoint(ctx, requestOf(ctx).app, id(in.ID))
	})
	register(s, huma.Operation{
		OperationID: "rotate-webhook-secret", Method: http.MethodPost, Path: "/v1/webhook-endpoints/{id}/rotate-secret", Tags: []string{tagWebhooks},
		Summary: "Give an endpoint a new secret", DefaultStatus: http.StatusOK, Errors: []int{404},
		Description: "For 24 hours webhooks carry two signatures, by the new secret and by the one before.",
	}, s.rotateSecret)
	register(s, huma.Operation{
		OperationID: "test-webhook-endpoint", Method: http.MethodPost, Path: "/v1/webhook-endpoints/{id}/test", Tags: []string{tagWebhooks},
		Summary: "Send a test", DefaultStatus: http.StatusAccepted, Errors: []int{404, 409},
		Description: "An event of the type `webhook_endpoint.test` goes to this endpoint, before all that waits for it. Look at the delivery for what became of it.",
	}, s.testEndpoint)
	register(s, huma.Operation{
		OperationID: "list-webhook-deliveries", Method: http.MethodGet, Path: "/v1/webhook-endpoints/{id}/deliveries", Tags: []string{tagWebhooks},
		Summary:     "List what became of events at an endpoint, newest first",
		Description: "With `state`, an answer may have fewer rows than asked for, or none, and still a `next`: go on until there is none.",
		Errors:      []int{404},
	}, s.listDeliveries)
	register(s, huma.Operation{
		OperationID: "get-webhook-delivery", Method: http.MethodGet, Path: "/v1/webhook-endpoints/{id}/deliveries/{event_id}", Tags: []string{tagWebhooks},
		Summary: "Read what became of an event at an endpoint", Errors: []int{404},
	}, s.getDelivery)
	register(s, huma.Operation{
		OperationID: "replay-webhook-delivery", Method: http.MethodPost, Path: "/v1/webhook-endpoints/{id}/deliveries/{event_id}/replay", Tags: []string{tagWebhooks},
		Summary: "Send an event again", DefaultStatus: http.StatusAccepted, Errors: []int{404, 409},
		Description: "Under the same `webhook-id`, also if it was never queued for this endpoint.",
	}, s.replayDelivery)
	register(s, huma.Operation{
		OperationID: "replay-webhook-deliveries", Method: http.MethodPost, Path: "/v1/webhook-endpoints/{id}/replay", Tags: []string{tagWebhooks},
		Summary: "Send the events of a time again", DefaultStatus: http.StatusAccepted, Errors: []int{404, 409},
		Description: "One call looks at up to 10,000 events. Where there are more, the answer has a `next`: send it as `after`, with the same range.",
	}, s.replayDeliveries)
}

// eventTypeBody is a type of event in the API: one of roster.EventTypes.
type eventTypeBody string

// Schema lists the types, for huma.
func (eventTypeBody) Schema(huma.Registry) *huma.Schema {
	schema := &huma.Schema{Type: huma.TypeString}
	for _, t := range roster.EventTypes {
		schema.Enum = append(schema.Enum, t.Type)
	}
	schema.PrecomputeMessages()
	return schema
}

func (s *Server) listEvents(ctx context.Context, in *struct {
	Paged
	Type    eventTypeBody `query:"type" doc:"Only of this type."`
	Subject string        `query:"subject_id" format:"uuid" doc:"Only about this."`
	Order   string        `query:"order" enum:"oldest,newest" default:"newest" doc:"Which come first."`
},
) (*ok[list[eventBody]], error) {
	rows, next, err := s.Roster.Events(ctx, requestOf(ctx).app, roster.EventList{
		Type: string(in.Type), Subject: id(in.Subject), After: id(in.After), Newest: in.Order == "newest", Limit: in.Limit,
	})
	return &ok[list[eventBody]]{listTo(rows, next, newEventBody)}, err
}

// listTo is a page of rows whose next one is known.
func listTo[R, T any](rows []R, next uuid.UUID, body func(R) T) list[T] {
	page := listOf(rows, len(rows), func(R) uuid.UUID { return uuid.Nil }, body)
	if next != uuid.Nil {
		page.Next = next.String()
	}
	return page
}

func (s *Server) getEvent(ctx context.Context, in *Subject) (*ok[eventBody], error) {
	e, err := s.Roster.Event(ctx, requestOf(ctx).app, id(in.ID))
	return &ok[eventBody]{newEventBody(e)}, err
}

// Endpoint is a webhook endpoint in the API.
type Endpoint struct {
	ID             string     `json:"id" format:"uuid"`
	URL            string     `json:"url" example:"https://example.org/webhooks"`
	Description    string     `json:"description"`
	Types          []string   `json:"types" doc:"The events it gets; none named: all."`
	State          string     `json:"state" enum:"enabled,disabled"`
	Reason         string     `json:"reason,omitempty" enum:"asked,failing,gone" doc:"Why it is disabled. asked: by a call; failing: it took nothing for three days; gone: it answered 410."`
	DisabledAt     *time.Time `json:"disabled_at,omitempty"`
	Failures       int        `json:"failures" doc:"Attempts that failed since the last that did not."`
	FailingSince   *time.Time `json:"failing_since,omitempty" doc:"When the first of them was."`
	PausedUntil    *time.Time `json:"paused_until,omitempty" doc:"Nothing is sent before this: it failed often in a row, or asked for a rest by Retry-After."`
	OldSecretUntil *time.Time `json:"old_secret_until,omitempty" doc:"Until then the secret before the last rotation signs, too."`
	CreatedAt      time.Time  `json:"created_at"`
	Merges         bool       `json:"merges,omitempty" doc:"Your app is called here about its merges: merge.prepare, merge.apply and merge.undo."`
}

func (s *Server) endpointBody(e roster.Endpoint) Endpoint {
	b := Endpoint{
		ID: e.ID.String(), URL: e.URL, Description: e.Description, Types: e.Types, State: string(e.State), Reason: e.Reason,
		DisabledAt: e.DisabledAt, Failures: e.Failures, FailingSince: e.FailingSince, CreatedAt: e.CreatedAt, Merges: e.Merges,
	}
	now := s.Roster.Now()
	if e.PausedUntil != nil && e.PausedUntil.After(now) {
		b.PausedUntil = e.PausedUntil
	}
	if e.OldSecretUntil != nil && e.OldSecretUntil.After(now) {
		b.OldSecretUntil = e.OldSecretUntil
	}
	return b
}

// newEndpointBody is an endpoint with its secret.
type newEndpointBody struct {
	Endpoint
	Secret string `json:"secret" doc:"Verifies this endpoint's webhooks; any library for Standard Webhooks takes it." example:"whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"`
}

func (s *Server) withSecret(e roster.Endpoint) (b newEndpointBody, err error) {
	b.Endpoint = s.endpointBody(e)
	b.Secret, err = e.Secret(s.Keys)
	return b, err
}

// checkURL refuses an address that webhooks cannot be posted to.
func (s *Server) checkURL(address string) error {
	if problem := hook.URLProblem(address, s.PrivateWebhooks); problem != "" {
		p := newProblem(http.StatusUnprocessableEntity, "url_refused", problem)
		p.Field = "url"
		return p
	}
	return nil
}

func typesOf(types []eventTypeBody) []string {
	names := make([]string, len(types))
	for i, t := range types {
		names[i] = string(t)
	}
	return names
}

func (s *Server) createEndpoint(ctx context.Context, in *struct {
	Keyed
	RawBody []byte
	Body    struct {
		URL         string          `json:"url" maxLength:"2000" doc:"Where webhooks are posted: an https address on the public internet." example:"https://example.org/webhooks"`
		Types       []eventTypeBody `json:"types,omitempty" maxItems:"200" doc:"The events it gets; none named: all."`
		Description string          `json:"description,omitempty" maxLength:"200" doc:"Your own words."`
		Merges      bool            `json:"merges,omitempty" doc:"Call your app here about its merges, too. One endpoint of an app does; without one, merges concern what Usher keeps only."`
	}
},
) (*created[newEndpointBody], error) {
	if err := s.checkURL(in.Body.URL); err != nil {
		return nil, err
	}
	e, err := s.Roster.CreateEndpoint(ctx, requestOf(ctx).app, roster.NewEndpoint{
		URL: in.Body.URL, Description: in.Body.Description, Types: typesOf(in.Body.Types), SecretKey: s.Keys.ID(), Merges: in.Body.Merges,
	}, in.key(ctx, "", in.RawBody))
	if err != nil {
		return nil, err
	}
	body, err := s.withSecret(e)
	return &created[newEndpointBody]{http.StatusCreated, body}, err
}

func (s *Server) listEndpoints(ctx context.Context, _ *struct{}) (*ok[list[Endpoint]], error) {
	rows, err := s.Roster.Endpoints(ctx, requestOf(ctx).app)
	return &ok[list[Endpoint]]{listTo(rows, uuid.Nil, s.endpointBody)}, err
}

func (s *Server) updateEndpoint(ctx context.Context, in *struct {
	Subject
	Body struct {
		URL         *string          `json:"url,omitempty" maxLength:"2000" doc:"Where webhooks are posted from now on."`
		Types       *[]eventTypeBody `json:"types,omitempty" maxItems:"200" doc:"The events it gets from now on; an empty list: all."`
		Description *string          `json:"description,omitempty" maxLength:"200"`
		Enabled     *bool            `json:"enabled,omitempty"`
		Merges      *bool            `json:"merges,omitempty" doc:"Whether your app is called here about its merges."`
	}
},
) (*ok[Endpoint], error) {
	c := roster.EndpointChange{URL: in.Body.URL, Description: in.Body.Description, Enabled: in.Body.Enabled, Merges: in.Body.Merges}
	if c.URL != nil {
		if err := s.checkURL(*c.URL); err != nil {
			return nil, err
		}
	}
	if in.Body.Types != nil {
		types := typesOf(*in.Body.Types)
		c.Types = &types
	}
	e, err := s.Roster.UpdateEndpoint(ctx, requestOf(ctx).app, id(in.ID), c)
	return &ok[Endpoint]{s.endpointBody(e)}, err
}

func (s *Server) rotateSecret(ctx context.Context, in *struct {
	Subject
	Keyed
},
) (*ok[newEndpointBody], error) {
	e, err := s.Roster.RotateEndpointSecret(ctx, requestOf(ctx).app, id(in.ID), s.Keys.ID(), in.key(ctx, "", nil))
	if err != nil {
		return nil, err
	}
	body, err := s.withSecret(e)
	return &ok[newEndpointBody]{body}, err
}

// queuedBody names an event that was queued for an endpoint.
type queuedBody struct {
	EventID string `json:"event_id" format:"uuid" doc:"The webhook-id it arrives under."`
}

func (s *Server) testEndpoint(ctx context.Context, in *struct {
	Subject
	Keyed
},
) (*ok[queuedBody], error) {
	event, err := s.Roster.TestEndpoint(ctx, requestOf(ctx).app, id(in.ID), in.key(ctx, "", nil))
	return &ok[queuedBody]{queuedBody{event.String()}}, err
}

// deliveryBody is what became of an event at an endpoint.
type deliveryBody struct {
	EventID   string        `json:"event_id" format:"uuid" doc:"The webhook-id."`
	Type      string        `json:"type" example:"invitation.accepted"`
	State     string        `json:"state" enum:"waiting,delivered,failed,cancelled" doc:"failed: it was tried for three days."`
	DueAt     *time.Time    `json:"due_at,omitempty" doc:"It is tried next at this time; or it is under way, and this is when it is tried anew if nobody records the outcome."`
	Status    int           `json:"status,omitempty" doc:"Of the newest answer. Missing: there was none."`
	Error     string        `json:"error,omitempty" doc:"Why the newest attempt failed." example:"it answered 500 Internal Server Error"`
	CreatedAt time.Time     `json:"created_at"`
	SettledAt *time.Time    `json:"settled_at,omitempty" doc:"When it was delivered or given up."`
	Attempts  []attemptBody `json:"attempts" doc:"The newest 20, oldest first."`
}

type attemptBody struct {
	At     time.Time `json:"at"`
	Status int       `json:"status,omitempty" doc:"Of the answer. Missing: there was none."`
	MS     int64     `json:"ms" doc:"How long it took, in milliseconds."`
	Error  string    `json:"error,omitempty" doc:"Why it failed."`
	Body   string    `json:"body,omitempty" doc:"The beginning of the answer: up to 1,024 bytes."`
}

func newDeliveryBody(d hook.Delivery) deliveryBody {
	b := deliveryBody{
		EventID: d.EventID.String(), Type: d.Type, State: d.State, DueAt: d.DueAt, Error: d.Error,
		CreatedAt: d.CreatedAt, SettledAt: d.SettledAt, Attempts: make([]attemptBody, len(d.Attempts)),
	}
	if d.Status != nil {
		b.Status = *d.Status
	}
	for i, a := range d.Attempts {
		b.Attempts[i] = attemptBody{a.At, a.Status, a.MS, a.Error, a.Body}
	}
	return b
}

func (s *Server) listDeliveries(ctx context.Context, in *struct {
	Subject
	Paged
	State string `query:"state" enum:"waiting,delivered,failed,cancelled" doc:"Only in this state."`
},
) (*ok[list[deliveryBody]], error) {
	app := requestOf(ctx).app
	if _, err := s.Roster.Endpoint(ctx, app, id(in.ID)); err != nil {
		return nil, err
	}
	rows, next, err := s.hooks.Deliveries(ctx, app, id(in.ID), hook.DeliveryList{State: in.State, After: id(in.After), Limit: in.Limit})
	return &ok[list[deliveryBody]]{listTo(rows, next, newDeliveryBody)}, err
}

// EventAtEndpoint is the part of an input that names an event at an endpoint.
type EventAtEndpoint struct {
	Subject
	EventID string `path:"event_id" format:"uuid"`
}

func (s *Server) getDelivery(ctx context.Context, in *EventAtEndpoint) (*ok[deliveryBody], error) {
	app := requestOf(ctx).app
	if _, err := s.Roster.Endpoint(ctx, app, id(in.ID)); err != nil {
		return nil, err
	}
	d, found, err := s.hooks.Delivery(ctx, app, id(in.ID), id(in.EventID))
	if err == nil && !found {
		err = newProblem(http.StatusNotFound, "delivery_not_found", "This event was not queued for this endpoint.")
	}
	return &ok[deliveryBody]{newDeliveryBody(d)}, err
}

func (s *Server) replayDelivery(ctx context.Context, in *struct {
	EventAtEndpoint
	Keyed
},
) (*ok[queuedBody], error) {
	event, err := s.Roster.ReplayDelivery(ctx, requestOf(ctx).app, id(in.ID), id(in.EventID), in.key(ctx, "", nil))
	return &ok[queuedBody]{queuedBody{event.String()}}, err
}

// replayedBody is what came of a replay.
type replayedBody struct {
	Queued int    `json:"queued" doc:"How many events are sent again."`
	Next   string `json:"next,omitempty" format:"uuid" doc:"Send this as after to go on; missing: that was all."`
}

func (s *Server) replayDeliveries(ctx context.Context, in *struct {
	Subject
	Keyed
	RawBody []byte
	Body    struct {
		From  time.Time       `json:"from" doc:"Events from this time on." example:"2026-03-02T00:00:00Z"`
		To    time.Time       `json:"to" doc:"Events before this time." example:"2026-03-03T00:00:00Z"`
		Types []eventTypeBody `json:"types,omitempty" maxItems:"200" doc:"Only events of these types; none named: those the endpoint gets."`
		Which string          `json:"which,omitempty" enum:"failed,undelivered,all" default:"undelivered" doc:"failed: those that were given up; undelivered: also those that were never queued, since the endpoint was disabled or not there yet."`
		After string          `json:"after,omitempty" format:"uuid" doc:"The next of the answer before."`
	}
},
) (*ok[replayedBody], error) {
	done, err := s.Roster.ReplayDeliveries(ctx, requestOf(ctx).app, id(in.ID), roster.Replay{
		From: in.Body.From, To: in.Body.To, Types: typesOf(in.Body.Types), Which: roster.ReplayWhich(in.Body.Which), After: id(in.Body.After),
	}, in.key(ctx, "", in.RawBody))
	b := replayedBody{Queued: done.Queued}
	if done.Next != uuid.Nil {
		b.Next = done.Next.String()
	}
	return &ok[replayedBody]{b}, err
}

// webhookBody is what is posted to endpoints.
type webhookBody struct {
	Type      eventTypeBody `json:"type"`
	Timestamp time.Time     `json:"timestamp" doc:"When it happened."`
	Data      struct {
		AppID     string         `json:"app_id" format:"uuid"`
		SubjectID string         `json:"subject_id" format:"uuid" doc:"What it is about: read it by the API for how it stands now."`
		ActorID   *string        `json:"actor_id" format:"uuid" doc:"The account that acted; null: the clock, or a person without an account."`
		Details   map[string]any `json:"details" doc:"As in the event's data."`
	} `json:"data"`
}

// describeWebhooks adds to the API's description what is posted to endpoints.
func describeWebhooks(doc *huma.OpenAPI) {
	header := func(name, about string) *huma.Param {
		return &huma.Param{Name: name, In: "header", Required: true, Description: about, Schema: &huma.Schema{Type: huma.TypeString}}
	}
	types := ""
	for _, t := range roster.EventTypes {
		types += "- `" + t.Type + "`: " + t.Doc + "\n"
	}
	doc.Webhooks = map[string]*huma.PathItem{"event": {Post: &huma.Operation{
		OperationID: "receive-event", Method: http.MethodPost, Tags: []string{tagWebhooks},
		Summary:     "Posted to every endpoint that wants the event's type",
		Description: webhookIntro + "\n\nThe types:\n\n" + types,
		Parameters: []*huma.Param{
			header("webhook-id", "The event's id: the same at each attempt and each replay, so that you see what you had before. Ids grow with time."),
			header("webhook-timestamp", "When it was sent, in seconds since 1970."),
			header("webhook-signature", "One signature by each secret that holds, with a space between them."),
		},
		RequestBody: &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
			"application/json": {Schema: doc.Components.Schemas.Schema(reflect.TypeFor[webhookBody](), true, "webhook")},
		}},
		Responses: map[string]*huma.Response{
			"2XX": {Description: "Taken. Anything else is a failure, redirects too, and so is no answer within 15 seconds. 410 disables the endpoint; Retry-After is kept to, up to an hour."},
		},
	}}}
}

// webhookIntro tells what a receiver has to know.
const webhookIntro = "Usher posts each event to the endpoints that want it, at least once, signed after Standard Webhooks: verify with any of its libraries and the endpoint's secret, over the body as it came. " +
	"A webhook may come twice, or after a later one: drop those whose `webhook-id` you had. Answer 2xx at once and work afterwards. " +
	"After a failure it is sent again after 5 s, 1 min, 5 min, 30 min, 2 h, 5 h and then every 10 h, for three days. An endpoint that takes nothing for three days is disabled."
