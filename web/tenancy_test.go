package web

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"usher/internal/roster"
)

// TestNothingCrossesApps calls every operation of the document with another
// app's id in each place that takes one. The answer is that for an id which
// exists nowhere, in text and in time, and nothing changes. Both apps have the
// same people and addresses.
//
// Calls are made from the document alone: a new operation is covered by itself,
// or fails the test until the document, or resourceOf and fixtures below, say
// what its ids are.
func TestNothingCrossesApps(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	doc := s.server.api.OpenAPI()
	theirs := s.newCrosser("Secret Society")
	s.exec(`UPDATE workspace SET name = 'Secret Family' WHERE app_id = $1`, theirs.app.ID)
	s.exec(`UPDATE account SET full_name = 'Secret Agent' WHERE app_id = $1`, theirs.app.ID)
	places := 0
	all := operations(doc)
	for _, name := range slices.Sorted(maps.Keys(all)) {
		op := all[name]
		for _, kind := range kindsOf(doc, op) {
			if kind != "" {
				name = op.OperationID + " of " + kind
			}
			mine := s.newCrosser("Kindred Care") // its own: operations end things
			g := generator{s: s, doc: doc, op: op, kind: kind}
			own := g.request(mine)
			before := s.everything()
			for at, place := range own.places {
				places++
				id := theirs.id(g, place.resource)
				foreign, nowhere := own.with(at, id), own.with(at, unknown(id))
				a, b := s.cross(mine, op, foreign), s.cross(mine, op, nowhere)
				if have, want := foreign.masked(a, at), nowhere.masked(b, at); a.StatusCode != b.StatusCode || have != want {
					t.Errorf("%s tells another app's %s from none: %d %s, not %d %s", name, place, a.StatusCode, have, b.StatusCode, want)
				}
				if strings.Contains(strings.ToLower(a.body), "secret ") {
					t.Errorf("%s with another app's %s tells: %s", name, place, a.body)
				}
				if !place.refuses(a) {
					t.Errorf("%s with another app's %s: %d %s", name, place, a.StatusCode, a.body)
				}
				s.sameTime(mine, op, name+" with another app's "+place.String(), foreign, nowhere)
			}
			if after := s.everything(); after != before {
				t.Errorf("%s with another app's ids changed:\n%s", name, changed(before, after))
			}
			// With ids of its own the same call finds everything.
			r := s.cross(mine, op, own)
			if r.StatusCode == 404 || r.StatusCode == 422 && op.OperationID != "create-session" /* the example is nobody's password */ || r.StatusCode >= 500 || op.OperationID == "create-invitations" && !strings.Contains(r.body, `"status":201`) {
				t.Errorf("%s with ids of its own: %d %s; the document's examples have to make a call that works", name, r.StatusCode, r.body)
			}
		}
	}
	if places < 90 {
		t.Errorf("%d places for ids found in the document", places)
	}
}

// crosser is an app and the ids of what it has, by the name of the resource in
// paths. What is not there is made by the document's own POST.
type crosser struct {
	tenant
	ids map[string]string
}

// newCrosser makes an app with fixtures: one id of each resource that no POST
// of its own makes.
func (s *site) newCrosser(name string) crosser {
	s.t.Helper()
	te := s.newTenant(name)
	s.exec(`INSERT INTO company_member (app_id, company_id, account_id, role, created_at) VALUES ($1, $2, $3, 'admin', now())`, te.app.ID, te.company.ID, te.actor.ID)
	inv := s.invite(te, "ann@client.example")
	s.exec(`UPDATE message SET state = 'uncertain', due_at = NULL WHERE id = $1`, *inv.MessageID)
	// Suppressions go by their address, which two apps can share: this one only
	// this app has.
	blocked := "of-" + te.app.ID.String() + "@client.example"
	s.invite(te, blocked)
	s.exec(`INSERT INTO address (app_id, email_key, block, blocked_at) VALUES ($1, $2, 'hard', now())`, te.app.ID, blocked)
	rec, _, err := s.roster.AddRecord(s.t.Context(), te.app.ID, te.actor.ID, "programme", te.app.ID.String(), roster.IdempotencyKey{})
	if err != nil {
		s.t.Fatal(err)
	}
	if err := s.roster.AskPassword(s.t.Context(), te.app.ID, te.actor.Email, roster.Destination{}, roster.IdempotencyKey{}); err != nil {
		s.t.Fatal(err)
	}
	// Somebody who can be added to the workspace, and where they are picked from.
	none := roster.IdempotencyKey{}
	colleague, err := s.roster.CreateAccount(s.t.Context(), te.app.ID, roster.NewAccount{Kind: roster.Professional, FullName: te.app.Name + " Colleague", Email: "colleague@kindred.example"}, none)
	if err != nil {
		s.t.Fatal(err)
	}
	origin, err := s.roster.CreateWorkspace(s.t.Context(), te.app.ID, roster.NewWorkspace{CompanyID: te.company.ID, Name: te.app.Name + " Origin", OwnerID: te.actor.ID}, none)
	if err != nil {
		s.t.Fatal(err)
	}
	s.exec(`INSERT INTO company_member (app_id, company_id, account_id, role, created_at) VALUES ($1, $2, $3, 'member', now())`, te.app.ID, te.company.ID, colleague.ID)
	s.exec(`INSERT INTO membership (app_id, workspace_id, account_id, role, created_at) VALUES ($1, $2, $3, 'client_user', now())`, te.app.ID, origin.ID, colleague.ID)
	// Somebody whose access is asked for, and the address of the examples.
	for _, email := range []string{"asked@client.example", "cleo@example.org"} {
		if _, err := s.roster.CreateAccount(s.t.Context(), te.app.ID, roster.NewAccount{Kind: roster.Client, FullName: te.app.Name + " Client", Email: email}, none); err != nil {
			s.t.Fatal(err)
		}
	}
	asked, err := s.roster.RequestAccess(s.t.Context(), te.app.ID, te.actor.ID, roster.NewAccessRequest{Option: roster.OptionRequest, Email: "asked@client.example", FullName: "Ann"}, none)
	if err != nil {
		s.t.Fatal(err)
	}
	// A merge that is looked at.
	own, err := s.roster.CreateAccount(s.t.Context(), te.app.ID, roster.NewAccount{Kind: roster.Client, FullName: te.app.Name + " Owner", Email: "owner@client.example"}, none)
	if err != nil {
		s.t.Fatal(err)
	}
	granted, err := s.roster.RequestAccess(s.t.Context(), te.app.ID, te.actor.ID, roster.NewAccessRequest{Option: roster.OptionTemporary, Email: "owner@client.example", FullName: "Ann"}, none)
	if err != nil {
		s.t.Fatal(err)
	}
	if _, err := s.roster.ApproveRequestAs(s.t.Context(), te.app.ID, own.ID, granted.Request.ID, "", none); err != nil {
		s.t.Fatal(err)
	}
	merge, err := s.roster.PreviewMerge(s.t.Context(), te.app.ID, te.actor.ID, granted.Request.ID, id(""), none)
	if err != nil {
		s.t.Fatal(err)
	}
	item, endpoint := s.item(te).String(), s.newEndpoint(te)
	event, err := s.roster.TestEndpoint(s.t.Context(), te.app.ID, id(endpoint), roster.IdempotencyKey{})
	if err != nil {
		s.t.Fatal(err)
	}
	return crosser{te, map[string]string{
		"access-requests": asked.Request.ID.String(), "access request links": s.server.Keys.Token(roster.PurposeRequest, asked.Request.Ticket()),
		"merges": merge.ID.String(), "timelines": inv.ID.String(), "granted requests": granted.Request.ID.String(), "made accounts": granted.Made.ID.String(),
		"colleagues": colleague.ID.String(), "origins": origin.ID.String(),
		"notifications": item, "webhook-endpoints": endpoint, "events": event.String(),
		"accounts": te.actor.ID.String(), "companies": te.company.ID.String(), "workspaces": te.workspace.ID.String(),
		"invitation links": s.token(inv), "password links": s.passwordToken(te.actor),
		"invitations": inv.ID.String(), "messages": inv.MessageID.String(), "suppressions": blocked, "records": rec.ID.String(),
	}}
}

// resourceOf names the resources whose ids stand under a name that does not
// say so. A cursor is any id: it is only a position.
var resourceOf = map[string]string{
	"origin_workspace_id": "origins", "owner_id": "accounts", "Usher-Actor": "accounts", "subject_id": "invitations",
	"company_id": "companies", "account_id": "accounts", "after": "invitations",
	"access_request_id": "granted requests", "absorbed_id": "made accounts",
}

// tokens are the members of bodies that take a link's token, and what it leads
// to.
var tokens = map[string]string{"token": "invitation links", "invitation_token": "invitation links", "access_request_token": "access request links"}

// id is the app's id of a resource.
func (c crosser) id(g generator, resource string) string {
	if id := c.ids[resource]; id != "" {
		return id
	}
	t := g.s.t
	t.Helper()
	item := g.doc.Paths["/v1/"+resource]
	if item == nil || item.Post == nil {
		t.Fatalf("%s needs an id of %s, which no POST /v1/%s makes: add one to newCrosser, or the name to resourceOf", g.op.OperationID, resource, resource)
	}
	maker := generator{s: g.s, doc: g.doc, op: item.Post}
	r := g.s.cross(c, item.Post, maker.request(c))
	if c.ids[resource] = r.text(t, "id"); c.ids[resource] == "" {
		t.Fatalf("POST /v1/%s makes no id: %d %s", resource, r.StatusCode, r.body)
	}
	return c.ids[resource]
}

// unknown is an id that exists nowhere, next to one that does.
func unknown(id string) string {
	other := func(digit rune) rune {
		if digit == '0' {
			return 'f'
		}
		return '0'
	}
	at := strings.LastIndexFunc(strings.TrimSuffix(id, "@client.example"), func(r rune) bool { return strings.ContainsRune("0123456789abcdef", r) })
	return id[:at] + string(other(rune(id[at]))) + id[at+1:]
}

// crossing is a request made from the document.
type crossing struct {
	path   map[string]string
	query  url.Values
	header map[string]string
	body   any
	places []idPlace
}

// idPlace is where a request takes an id.
type idPlace struct {
	in       string // path, query, header, body
	name     string // in the body with all that leads there: "rows.0.workspace_id"
	resource string
}

func (p idPlace) String() string { return p.name + " in the " + p.in }

// refuses tells whether an answer is the right one for an id that is not the
// app's: a filter finds nothing, a cursor is only a position, an actor may do
// nothing, and all else is not there.
func (p idPlace) refuses(r reply) bool {
	switch {
	case p.in == "query" && p.name == "after":
		return r.StatusCode == 200
	case p.in == "query":
		return r.StatusCode == 404 || r.StatusCode == 200 && strings.Contains(r.body, `"items":[]`)
	case strings.HasSuffix(p.name, "origin_workspace_id") && strings.Contains(r.body, "origin_not_allowed"):
		return true
	case strings.HasPrefix(r.body, `{"added":0,`): // refused row by row
		return true
	case strings.HasPrefix(r.body, `{"outcomes":`): // likewise
		return strings.Count(r.body, `"status":`) == 2*(strings.Count(r.body, `"status":404`)/2)+2*(strings.Count(r.body, `"code":"actor_invalid"`))
	case p.name == "Usher-Actor":
		return r.StatusCode == 403 && strings.Contains(r.body, "actor_invalid")
	}
	return r.StatusCode == 404
}

// generator makes requests of an operation.
type generator struct {
	s    *site
	doc  *huma.OpenAPI
	op   *huma.Operation
	kind string // which of the kinds its body can be of; empty: it has none
}

// kindsOf are the kinds that a body, or a row of it, can be of.
func kindsOf(doc *huma.OpenAPI, op *huma.Operation) []string {
	var kinds []string
	var find func(schema *huma.Schema)
	find = func(schema *huma.Schema) {
		schema = resolve(doc, schema)
		for name, property := range schema.Properties {
			switch property = resolve(doc, property); {
			case name == "kind" && strings.Contains(fmt.Sprint(property.Description), ": "): // told apart there
				for _, kind := range property.Enum {
					kinds = append(kinds, fmt.Sprint(kind))
				}
			case property.Type == huma.TypeArray:
				find(property.Items)
			}
		}
	}
	if op.RequestBody != nil {
		find(op.RequestBody.Content["application/json"].Schema)
	}
	if kinds == nil {
		return []string{""}
	}
	return kinds
}

// ofKinds are the kinds that a description says a property is of.
var ofKinds = regexp.MustCompile(`\b[Oo]f ([a-z]+_[a-z]+|colleague)((?: and |, )[a-z_]+)*`)

// fits tells whether a property belongs into a body of the kind.
func (g generator) fits(property *huma.Schema) bool {
	of := strings.Join(ofKinds.FindAllString(property.Description, -1), " ")
	return g.kind == "" || of == "" || strings.Contains(of, g.kind)
}

// request is one with the app's own ids, with as much in it as the document
// gives examples for.
func (g generator) request(c crosser) (r crossing) {
	g.s.t.Helper()
	r = crossing{path: map[string]string{}, query: url.Values{}, header: map[string]string{}}
	for _, p := range g.op.Parameters {
		schema := resolve(g.doc, p.Schema)
		takesID := schema.Format == "uuid" || p.In == "path"
		resource := ""
		if takesID {
			resource = g.resource(p.Name)
			r.places = append(r.places, idPlace{p.In, p.Name, resource})
		}
		value := ""
		if takesID {
			value = c.id(g, resource)
		}
		switch p.In {
		case "path":
			r.path[p.Name] = value
		case "header":
			if takesID {
				r.header[p.Name] = value
			}
		case "query":
			if p.Required && !takesID {
				r.query.Set(p.Name, fmt.Sprint(g.value(c, &r, p.Name, schema)))
			}
		default:
			g.s.t.Errorf("%s takes a parameter in the %s, which this test does not know", g.op.OperationID, p.In)
		}
	}
	if g.op.RequestBody != nil {
		media := g.op.RequestBody.Content["application/json"]
		if media == nil {
			g.s.t.Fatalf("%s takes no JSON, which this test does not know", g.op.OperationID)
		}
		r.body = g.value(c, &r, "", media.Schema)
	}
	return r
}

// resource is what an id of that name is of.
func (g generator) resource(name string) string {
	if strings.HasPrefix(g.op.OperationID, "create-invitation") && name == "account_id" {
		return "colleagues"
	}
	if g.op.OperationID == "replay-webhook-deliveries" && name == "after" {
		return "events" // the one cursor that is looked up
	}
	if resource, ok := resourceOf[name]; ok {
		return resource
	}
	if kind, ok := strings.CutSuffix(name, "_id"); ok {
		return kind + "s"
	}
	if kind, ok := strings.CutSuffix(name, "_ids"); ok {
		return kind + "s"
	}
	parts := strings.Split(g.op.Path, "/")
	if at := slices.Index(parts, "{"+name+"}"); at > 0 {
		return parts[at-1]
	}
	g.s.t.Fatalf("%s takes the id %s: of what? Add it to resourceOf", g.op.OperationID, name)
	return ""
}

// value is an example of a schema.
func (g generator) value(c crosser, r *crossing, name string, schema *huma.Schema) any {
	schema = resolve(g.doc, schema)
	last := name[strings.LastIndex(name, ".")+1:]
	under := func(member string) string { return strings.TrimPrefix(name+"."+member, ".") }
	switch {
	case tokens[last] != "":
		resource := tokens[last]
		if strings.HasPrefix(g.op.Path, "/v1/passwords") && last == "token" {
			resource = "password links"
		}
		if strings.HasPrefix(g.op.Path, "/v1/access-requests") {
			resource = "access request links"
		}
		r.places = append(r.places, idPlace{"body", name, resource})
		return c.id(g, resource)
	case schema.Format == "uuid":
		if strings.Trim(last, "0123456789") == "" { // of an array, whose name says it
			parts := strings.Split(name, ".")
			last = parts[len(parts)-2]
		}
		resource := g.resource(last)
		r.places = append(r.places, idPlace{"body", name, resource})
		return c.id(g, resource)
	case schema.Type == huma.TypeObject:
		object := map[string]any{}
		for _, member := range slices.Sorted(maps.Keys(schema.Properties)) {
			property := resolve(g.doc, schema.Properties[member])
			if !g.fits(schema.Properties[member]) {
				continue
			}
			known := tokens[member] != "" || property.Format == "uuid" || len(property.Enum) > 0 || len(property.Examples) > 0 || property.Type == huma.TypeObject
			if property.Type == huma.TypeArray {
				items := resolve(g.doc, property.Items)
				known = items.Format == "uuid" || items.Type == huma.TypeObject
			}
			if member == "kind" && g.kind != "" {
				object[member] = g.kind
			} else if known && member != "if_version" || slices.Contains(schema.Required, member) {
				object[member] = g.value(c, r, under(member), property)
			}
		}
		return object
	case schema.Type == huma.TypeArray:
		return []any{g.value(c, r, under("0"), schema.Items)}
	case len(schema.Enum) > 0:
		return schema.Enum[0]
	case len(schema.Examples) > 0:
		return schema.Examples[0]
	case schema.Type == huma.TypeBoolean:
		return true
	case schema.Type == huma.TypeInteger, schema.Type == huma.TypeNumber:
		return 1
	}
	return "text"
}

// with is the request with another id in one place.
func (r crossing) with(at int, id string) crossing {
	r.path, r.query, r.header = maps.Clone(r.path), maps.Clone(r.query), maps.Clone(r.header)
	switch p := r.places[at]; p.in {
	case "path":
		r.path[p.name] = id
	case "query":
		r.query.Set(p.name, id)
	case "header":
		r.header[p.name] = id
	default:
		r.body = replace(r.body, strings.Split(p.name, "."), id)
	}
	return r
}

// replace is a copy of a JSON value with another value at the end of the path.
func replace(value any, path []string, with any) any {
	if len(path) == 0 {
		return with
	}
	switch value := value.(type) {
	case map[string]any:
		value = maps.Clone(value)
		value[path[0]] = replace(value[path[0]], path[1:], with)
		return value
	case []any:
		return []any{replace(value[0], path[1:], with)}
	}
	return with
}

// id is what the request has in a place.
func (r crossing) id(at int) string {
	switch p := r.places[at]; p.in {
	case "path":
		return r.path[p.name]
	case "query":
		return r.query.Get(p.name)
	case "header":
		return r.header[p.name]
	default:
		value := r.body
		for _, step := range strings.Split(p.name, ".") {
			if list, ok := value.([]any); ok {
				value = list[0]
			} else {
				value = value.(map[string]any)[step]
			}
		}
		return value.(string)
	}
}

// masked is an answer without what differs between any two.
func (r crossing) masked(answer reply, at int) string {
	return strings.NewReplacer(r.id(at), "ID", answer.Header.Get("X-Request-Id"), "REQUEST").Replace(answer.body)
}

// cross sends the request as the app.
func (s *site) cross(c crosser, op *huma.Operation, r crossing) reply {
	s.t.Helper()
	path := op.Path
	for name, value := range r.path {
		path = strings.ReplaceAll(path, "{"+name+"}", url.PathEscape(value))
	}
	if len(r.query) > 0 {
		path += "?" + r.query.Encode()
	}
	request := call{method: op.Method, path: path, header: r.header}
	if r.body != nil {
		raw, err := json.Marshal(r.body)
		if err != nil {
			s.t.Fatal(err)
		}
		request.body = string(raw)
	}
	if op.Method == http.MethodGet {
		request.body = ""
	}
	return s.api(c.tenant, request)
}

const (
	// firstRounds are enough where two requests take the same time; noise is
	// told from a difference in moreRounds.
	firstRounds = 3
	moreRounds  = 25

	// slack is a difference of times that tells nobody anything over a network.
	slack = 4 * time.Millisecond
)

// sameTime sees that two requests take about as long.
func (s *site) sameTime(c crosser, op *huma.Operation, what string, x, y crossing) {
	s.t.Helper()
	var took [2][]time.Duration
	differ := func(rounds int) bool {
		for range rounds {
			for i, r := range []crossing{x, y} {
				start := time.Now()
				s.cross(c, op, r)
				took[i] = append(took[i], time.Since(start))
			}
		}
		a, b := middle(took[0]), middle(took[1])
		return a > 2*b+slack || b > 2*a+slack
	}
	if differ(firstRounds) && differ(moreRounds) {
		s.t.Errorf("%s takes %s, with an id that exists nowhere %s", what, middle(took[0]), middle(took[1]))
	}
}

func middle(all []time.Duration) time.Duration {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}
