package web

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humafiber"
	"github.com/google/uuid"

	"usher/internal/roster"
)

// apiVersion is the version in the API's description. It grows with what the
// API can do; /v1 in the paths stays.
const apiVersion = "1.0.0"

func init() {
	// huma asks this variable, and no field of its Config, how its own errors
	// look.
	huma.NewError = humaError
}

// apiRoutes are the routes of the JSON API. Callers are apps' backends.
func (s *Server) apiRoutes() {
	config := huma.DefaultConfig("Usher", apiVersion)
	config.Info.Description = apiIntro
	config.DocsPath, config.SchemasPath = "", ""
	config.OpenAPIPath = ""
	config.CreateHooks = nil                                                                                            // no $schema in answers
	config.Formats = map[string]huma.Format{"application/json": huma.DefaultJSONFormat, "json": huma.DefaultJSONFormat} // "json": whatever ends in +json
	config.Components.SecuritySchemes = map[string]*huma.SecurityScheme{
		"key": {Type: "http", Scheme: "bearer", Description: "An app's API key, usk_…"},
	}
	config.Security = []map[string][]string{{"key": {}}}
	config.Tags = []*huma.Tag{
		{Name: tagInvitations, Description: "Invitations ask a person to join a workspace."},
		{Name: tagOwnPages, Description: "Your app can show its own pages instead of Usher's: each of their steps is here. Set `accept_url` in your policy, and invitations' links lead there, with `?token=`; `request_url` does the same for access requests."},
		{Name: tagAccess, Description: "What to do about a client's address that has an account: ask its holder, make another, or both."},
		{Name: tagMerges, Description: "Folding an account that was made meanwhile into the client's own: with a preview, in one step, and so that it can be undone."},
		{Name: tagInbox, Description: "What awaits a person, and what they did with it."},
		{Name: tagMail, Description: "What happened to each mail, and the addresses that get none."},
		{Name: tagAccounts, Description: "People your app knows, and what it keeps for them."},
		{Name: tagCompanies, Description: "Companies employ professionals."},
		{Name: tagWorkspaces, Description: "What people share, and who they are: stakeholders and client users."},
		{Name: tagPolicies, Description: "What your app decides about its invitations, reminders and notices."},
		{Name: tagEvents, Description: "What happened: who did what to which subject, and when."},
		{Name: tagWebhooks, Description: "Endpoints of yours that hear of events as they happen."},
	}
	s.api = humafiber.New(s.app, config)
	s.api.UseMiddleware(s.authenticate)
	s.app.Get("/openapi.json", s.openAPI)

	s.invitationRoutes()
	s.memberRoutes()
	s.accessRequestRoutes()
	s.mergeRoutes()
	s.notificationRoutes()
	s.sessionRoutes()
	s.requestTokenRoutes()
	s.mailRoutes()
	s.accountRoutes()
	s.companyRoutes()
	s.workspaceRoutes()
	s.policyRoutes()
	s.webhookRoutes()
	s.timelineRoutes()
	describeWebhooks(s.api.OpenAPI())
}

const (
	tagInvitations = "Invitations"
	tagInbox       = "Inbox"
	tagAccess      = "Access requests"
	tagMerges      = "Merges"
	tagOwnPages    = "Pages of your own"
	tagMail        = "Mail"
	tagAccounts    = "Accounts"
	tagCompanies   = "Companies"
	tagWorkspaces  = "Workspaces"
	tagPolicies    = "Policies"
	tagEvents      = "Events"
	tagWebhooks    = "Webhooks"
)

// request is what the middleware learned of an API request.
type request struct {
	caller
	id    string
	route string // "POST /v1/invitations/{id}/resend"
	path  string // with the ids filled in
}

type requestKey struct{}

func requestOf(ctx context.Context) request {
	r, _ := ctx.Value(requestKey{}).(request)
	return r
}

// authenticate finds the app that calls.
func (s *Server) authenticate(ctx huma.Context, next func(huma.Context)) {
	c := humafiber.Unwrap(ctx)
	r := request{id: requestID(c), route: ctx.Method() + " " + ctx.Operation().Path, path: c.Path()}
	scheme, key, _ := strings.Cut(ctx.Header("Authorization"), " ")
	if !strings.EqualFold(scheme, "Bearer") {
		key = ""
	}
	var err error
	if r.caller, err = s.keys.caller(ctx.Context(), strings.TrimSpace(key)); err != nil {
		c.Set("WWW-Authenticate", `Bearer realm="usher"`)
		if err := s.answerError(c, err); err != nil {
			s.Log.Error().Err(err).Msg("answer failed")
		}
		return
	}
	next(huma.WithValue(ctx, requestKey{}, r))
}

// caller is an app that sends a request, and the policy it has.
type caller struct {
	app    uuid.UUID
	policy roster.Policy
}

// keyTime is how long a checked API key counts without asking the database
// again, and so how long a revoked one still works and a changed policy is not
// yet followed.
const keyTime = time.Second

// maxKeys bounds the keys remembered: far more than call within keyTime.
const maxKeys = 10_000

// keyCache remembers for keyTime whom a key belongs to. Keys are kept as
// their hashes.
type keyCache struct {
	roster *roster.Roster
	mu     sync.Mutex
	known  map[[sha256.Size]byte]knownKey
}

type knownKey struct {
	caller
	until time.Time
}

func newKeyCache(r *roster.Roster) *keyCache {
	return &keyCache{roster: r, known: map[[sha256.Size]byte]knownKey{}}
}

func (k *keyCache) caller(ctx context.Context, key string) (c caller, err error) {
	hash, now := sha256.Sum256([]byte(key)), time.Now()
	k.mu.Lock()
	known, ok := k.known[hash]
	k.mu.Unlock()
	if ok && now.Before(known.until) {
		return known.caller, nil
	}
	if c.app, c.policy, err = k.roster.AuthenticateKey(ctx, key); err != nil {
		return c, err
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if len(k.known) >= maxKeys {
		clear(k.known)
	}
	k.known[hash] = knownKey{c, now.Add(keyTime)}
	return c, nil
}

// register adds an operation. Its handler returns the domain's errors as they
// are.
func register[I, O any](s *Server, op huma.Operation, handler func(context.Context, *I) (*O, error)) {
	op.Errors = append(op.Errors, http.StatusUnauthorized, http.StatusUnprocessableEntity)
	if op.Method == http.MethodPost || op.Method == http.MethodPatch {
		op.Errors = append(op.Errors, http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType)
	}
	op.MaxBodyBytes = maxBody
	huma.Register(s.api, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := handler(ctx, in)
		if err != nil {
			return nil, s.answerAPIError(ctx, err)
		}
		return out, nil
	})
}

// Keyed is the part of a POST's input that makes it repeatable.
type Keyed struct {
	IdempotencyKey string `header:"Idempotency-Key" maxLength:"255" pattern:"^[!-~]*$" doc:"Any string of your choice, new for each new request. The same key with the same request gets the first answer again, for at least 24 hours; with another request it gets 422." example:"5f0c6a0e-invite-ann"`
}

// key is the input's idempotency key with the hash of all that makes the
// request what it is.
func (k Keyed) key(ctx context.Context, actor string, body []byte) roster.IdempotencyKey {
	r := requestOf(ctx)
	if k.IdempotencyKey == "" {
		return roster.IdempotencyKey{}
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\n%s\n", r.path, actor)
	sum.Write(body)
	return roster.IdempotencyKey{Route: r.route, Key: k.IdempotencyKey, Hash: sum.Sum(nil)}
}

// Acting is the part of an input that says who acts.
type Acting struct {
	Actor string `header:"Usher-Actor" required:"true" format:"uuid" doc:"The account of the person who acts: a stakeholder of the workspace, or an admin of its company."`
}

// Subject is the part of an input that names one thing.
type Subject struct {
	ID string `path:"id" format:"uuid"`
}

// Paged is the part of a list's input that walks through it.
type Paged struct {
	Limit int    `query:"limit" minimum:"1" maximum:"200" default:"50" doc:"Rows in an answer."`
	After string `query:"after" format:"uuid" doc:"The next of the answer before."`
}

// list is a page of rows.
type list[T any] struct {
	Items []T    `json:"items"`
	Next  string `json:"next,omitempty" doc:"Send this as after to get the next rows; missing after the last."`
}

// listOf makes the page from at most limit+1 rows, of which the one too many
// shows that there are more.
func listOf[R, T any](rows []R, limit int, id func(R) uuid.UUID, body func(R) T) list[T] {
	l := list[T]{Items: make([]T, 0, len(rows))}
	if len(rows) > limit {
		rows = rows[:limit]
		l.Next = id(rows[limit-1]).String()
	}
	for _, row := range rows {
		l.Items = append(l.Items, body(row))
	}
	return l
}

// id parses an id that huma has seen to be a UUID; an empty one is Nil.
func id(s string) uuid.UUID {
	parsed, err := uuid.Parse(s)
	if err != nil {
		return uuid.Nil
	}
	return parsed
}

type created[T any] struct {
	Status int
	Body   T
}

type ok[T any] struct {
	Body T
}

func marshalOpenAPI(api huma.API) ([]byte, error) {
	raw, err := json.MarshalIndent(api.OpenAPI(), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("write OpenAPI document: %w", err)
	}
	return append(raw, '\n'), nil
}
