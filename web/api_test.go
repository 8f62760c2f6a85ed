package web

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"usher/internal/roster"
)

// operations are all operations of the document by their ids.
func operations(doc *huma.OpenAPI) map[string]*huma.Operation {
	all := map[string]*huma.Operation{}
	for _, item := range doc.Paths {
		for _, op := range []*huma.Operation{item.Get, item.Post, item.Put, item.Patch, item.Delete} {
			if op != nil {
				all[op.OperationID] = op
			}
		}
	}
	return all
}

// wantDeclared checks an answer against what the document says of it: its
// status, and the shape of its body.
func wantDeclared(t *testing.T, doc *huma.OpenAPI, op *huma.Operation, r reply) {
	t.Helper()
	declared, ok := op.Responses[strconv.Itoa(r.StatusCode)]
	if !ok {
		t.Errorf("%s answers %d, which the document does not declare", op.OperationID, r.StatusCode)
		return
	}
	if r.StatusCode == http.StatusNoContent && r.body == "" && declared.Content == nil {
		return
	}
	kind, _, _ := strings.Cut(r.Header.Get("Content-Type"), ";")
	content := declared.Content[kind]
	if content == nil {
		t.Errorf("%s answers %d as %q, which the document does not declare", op.OperationID, r.StatusCode, kind)
		return
	}
	var body any
	if err := json.Unmarshal([]byte(r.body), &body); err != nil {
		t.Errorf("%s: %v", op.OperationID, err)
		return
	}
	schema := content.Schema
	if schema.Ref != "" {
		schema = doc.Components.Schemas.SchemaFromRef(schema.Ref)
	}
	result := &huma.ValidateResult{}
	huma.Validate(doc.Components.Schemas, schema, huma.NewPathBuffer(nil, 0), huma.ModeReadFromServer, body, result)
	for _, err := range result.Errors {
		t.Errorf("%s answers %d with a body that is not as declared: %v: %s", op.OperationID, r.StatusCode, err, r.body)
	}
}

// TestEveryOperation makes each call of the API once as it is meant, and, where
// it is a POST, again under the same key: the answer is the same to the byte
// and nothing happens twice. Another request under the key is refused.
func TestEveryOperation(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	doc := s.server.api.OpenAPI()
	todo := operations(doc)
	var invitation, company, workspace, account, record, message, item string // ids, as answered
	var endpoint, secret, event string
	itsOwner := func(c call) call { c.header["Usher-Actor"] = account; return c }
	wanted := func() int { // the events that the endpoint wants
		return read[int](s, `SELECT count(*) FROM event WHERE app_id = $1 AND type IN ('invitation.created', 'invitation.link_copied')`, s.app.ID)
	}
	var request, merge string // ids
	actors := map[string]string{}
	// asksFor makes a request for the account of a new client, who decides it.
	asksFor := func(email string, actorOf string) string {
		client := s.person("client", "Ann Client", email)
		q := s.want(post("/v1/access-requests", fmt.Sprintf(`{"option":"request","email":%q,"full_name":"Ann Client","company_id":%q}`, email, s.company.ID)), 201).text(t, "id")
		actors[actorOf] = client
		return q
	}
	requestLink := func(email string) string {
		q, err := s.roster.AccessRequest(t.Context(), s.app.ID, id(asksFor(email, "")))
		if err != nil {
			t.Fatal(err)
		}
		return s.server.Keys.Token(roster.PurposeRequest, q.Ticket())
	}
	token, pro := "", ""
	own := func(fields map[string]string) string {
		if token == "" {
			out, err := s.roster.CreateInvitations(t.Context(), []roster.NewInvitation{{
				AppID: s.app.ID, ActorID: s.actor.ID, WorkspaceID: s.workspace.ID, Kind: roster.KindExternal, Email: "pro@clinic.example", Warning: "I know.", Notify: true,
			}})
			if err != nil || out[0].Err != nil {
				t.Fatal(err, out)
			}
			token = s.token(out[0].Invitation)
		}
		body := map[string]string{"token": token}
		maps.Copy(body, fields)
		raw, err := json.Marshal(body)
		if err != nil {
			t.Fatal(err)
		}
		return string(raw)
	}
	steps := []struct {
		op     string
		call   func() (path, body string)
		status int
		check  func(r reply)
	}{
		{"create-account", func() (string, string) {
			return "/v1/accounts", `{"kind":"professional","full_name":"Bea Example","email":"Bea@Kindred.example","locale":"fr","time_zone":"Europe/Paris"}`
		}, 201, func(r reply) { account = r.text(t, "id") }},
		{"get-account", func() (string, string) { return "/v1/accounts/" + account, "" }, 200, func(r reply) {
			if r.text(t, "email") != "Bea@Kindred.example" || r.text(t, "status") != "active" {
				t.Errorf("account is %s", r.body)
			}
		}},
		{"change-policies", func() (string, string) { return "/v1/policies", `{"max_resends":4}` }, 200, func(r reply) {
			if r.value(t, "version") != 1.0 {
				t.Errorf("policy is %s", r.body)
			}
		}},
		{"simulate-policies", func() (string, string) {
			return "/v1/policies/simulate", `{"settings":{"reminders":{"max":1}},"mails":[{"time_zone":"Asia/Tokyo","mailed_at":"2026-12-01T15:00:00Z"}]}`
		}, 200, func(r reply) {
			if !strings.Contains(r.body, `"local":["2026-12-07 08:00"]`) { // a Saturday in Tokyo at midnight
				t.Errorf("the simulation is %s", r.body)
			}
		}},
		{"get-policies", func() (string, string) { return "/v1/policies", "" }, 200, func(r reply) {
			if !strings.Contains(r.body, `"own":["max_resends"]`) || !strings.Contains(r.body, `"max_resends":4`) || !strings.Contains(r.body, `"max_resends":3`) {
				t.Errorf("policy is %s", r.body)
			}
		}},
		{"create-company", func() (string, string) { return "/v1/companies", `{"name":"Harbour Physio"}` }, 201, func(r reply) { company = r.text(t, "id") }},
		{"set-company-member", func() (string, string) {
			return "/v1/companies/" + company + "/members", `{"account_id":"` + account + `","role":"admin"}`
		}, 200, nil},
		{"create-workspace", func() (string, string) {
			return "/v1/workspaces", `{"company_id":"` + company + `","name":"Ann - Private","owner_id":"` + s.actor.ID.String() + `"}`
		}, 201, func(r reply) { workspace = r.text(t, "id") }},
		{"list-workspace-members", func() (string, string) { return "/v1/workspaces/" + workspace + "/members", "" }, 200, func(r reply) {
			if !strings.Contains(r.body, s.actor.ID.String()) {
				t.Errorf("members are %s", r.body)
			}
		}},
		{"update-account", func() (string, string) {
			return "/v1/accounts/" + account, `{"username":"Bea","secondary_emails":["bea@home.example"]}`
		}, 200, func(r reply) {
			if r.text(t, "username") != "bea" || r.text(t, "full_name") != "Bea Example" || !strings.Contains(r.body, "bea@home.example") {
				t.Errorf("account is %s", r.body)
			}
		}},
		{"list-accounts", func() (string, string) {
			return "/v1/accounts?query=exa+be&kind=professional&company_id=" + company, ""
		}, 200, func(r reply) {
			if !strings.Contains(r.body, account) || strings.Count(r.body, `"id"`) != 1 {
				t.Errorf("found %s", r.body)
			}
		}},
		{"list-account-companies", func() (string, string) { return "/v1/accounts/" + account + "/companies", "" }, 200, func(r reply) {
			if !strings.Contains(r.body, `"role":"admin"`) || !strings.Contains(r.body, company) {
				t.Errorf("companies are %s", r.body)
			}
		}},
		{"add-record", func() (string, string) {
			return "/v1/accounts/" + account + "/records", `{"kind":"programme","external_id":"4711"}`
		}, 201, func(r reply) { record = r.text(t, "id") }},
		{"list-records", func() (string, string) { return "/v1/accounts/" + account + "/records", "" }, 200, func(r reply) {
			if !strings.Contains(r.body, record) {
				t.Errorf("records are %s", r.body)
			}
		}},
		{"check-address", func() (string, string) {
			s.exec(`INSERT INTO company_member (app_id, company_id, account_id, role, created_at) VALUES ($1, $2, $3, 'member', now()) ON CONFLICT DO NOTHING`, s.app.ID, s.company.ID, s.actor.ID)
			s.person("client", "Ann Client", "access@client.example")
			return "/v1/access-requests/check", fmt.Sprintf(`{"email":"access@client.example","company_id":%q}`, s.company.ID)
		}, 200, func(r reply) {
			if strings.Count(r.body, `"path":"/v1/access-requests"`) != 3 {
				t.Errorf("the options are %s", r.body)
			}
		}},
		{"create-access-request", func() (string, string) {
			return "/v1/access-requests", fmt.Sprintf(`{"option":"request_with_temporary","email":"access@client.example","full_name":"Ann Client","company_id":%q}`, s.company.ID)
		}, 201, func(r reply) { request = r.text(t, "id") }},
		{"get-access-request", func() (string, string) { return "/v1/access-requests/" + request, "" }, 200, nil},
		{"list-access-requests", func() (string, string) { return "/v1/access-requests?state=pending", "" }, 200, func(r reply) {
			if !strings.Contains(r.body, request) {
				t.Errorf("requests are %s", r.body)
			}
		}},
		{"resend-access-request", func() (string, string) {
			s.pass(time.Hour)
			return "/v1/access-requests/" + request + "/resend", ""
		}, 200, nil},
		{"correct-access-request-address", func() (string, string) {
			s.person("client", "Anna Client", "other@client.example")
			return "/v1/access-requests/" + request + "/correct-address", `{"email":"other@client.example"}`
		}, 200, nil},
		{"authorize-access-request", func() (string, string) {
			return "/v1/access-requests/" + request + "/authorize", `{"operator":"Sam","statement":"I agree.","reference":"4711"}`
		}, 200, func(r reply) {
			if r.text(t, "state") != "granted" || !strings.Contains(r.body, `"operator":"Sam"`) {
				t.Errorf("authorized is %s", r.body)
			}
		}},
		{"get-timeline", func() (string, string) { return "/v1/timelines/" + request, "" }, 200, func(r reply) {
			if r.text(t, "subject") != "access_request" || !strings.Contains(r.body, `"access_request.granted"`) || !strings.Contains(r.body, `"mail"`) {
				t.Errorf("the timeline is %s", r.body)
			}
		}},
		{"preview-merge", func() (string, string) {
			return "/v1/merges/preview", fmt.Sprintf(`{"access_request_id":%q}`, request)
		}, 200, func(r reply) { merge = r.text(t, "id") }},
		{"get-merge", func() (string, string) { return "/v1/merges/" + merge, "" }, 200, nil},
		{"list-merges", func() (string, string) { return "/v1/merges?state=previewed", "" }, 200, func(r reply) {
			if !strings.Contains(r.body, merge) {
				t.Errorf("merges are %s", r.body)
			}
		}},
		{"resolve-merge", func() (string, string) { return "/v1/merges/" + merge + "/resolve", `{"same_person":true}` }, 200, nil},
		{"confirm-merge", func() (string, string) {
			return "/v1/merges/" + merge + "/confirm", fmt.Sprintf(`{"hash":%q}`, s.want(get("/v1/merges/"+merge), 200).text(t, "hash"))
		}, 200, func(reply) {
			for _, step := range []func(context.Context, uuid.UUID) (roster.Merge, error){s.roster.BeginMerge, s.roster.MoveMerge, s.roster.FinishMerge} {
				if _, err := step(t.Context(), uuid.MustParse(merge)); err != nil {
					t.Fatal(err)
				}
			}
		}},
		{"list-merge-changes", func() (string, string) { return "/v1/merges/" + merge + "/changes?limit=1", "" }, 200, func(r reply) {
			if !strings.Contains(r.body, `"next"`) || strings.Contains(r.body, "password") {
				t.Errorf("changes are %s", r.body)
			}
		}},
		{"list-merge-edits", func() (string, string) { return "/v1/merges/" + merge + "/edits", "" }, 200, nil},
		{"undo-merge", func() (string, string) {
			return "/v1/merges/" + merge + "/undo", `{"keep":{"edited":"now","rows":{"1":"before"}}}`
		}, 200, func(reply) {
			for _, step := range []func(context.Context, uuid.UUID) (roster.Merge, error){s.roster.RestoreMerge, s.roster.FinishUndo} {
				if _, err := step(t.Context(), uuid.MustParse(merge)); err != nil {
					t.Fatal(err)
				}
			}
		}},
		{"cancel-merge", func() (string, string) {
			again := s.want(post("/v1/merges/preview", fmt.Sprintf(`{"access_request_id":%q}`, request)), 200).text(t, "id")
			return "/v1/merges/" + again + "/cancel", ""
		}, 200, nil},
		{"revoke-access-request", func() (string, string) {
			actors["revoke-access-request"] = s.want(get("/v1/access-requests/"+request), 200).text(t, "account_id")
			return "/v1/access-requests/" + request + "/revoke", ""
		}, 200, nil},
		{"approve-access-request", func() (string, string) {
			return "/v1/access-requests/" + asksFor("approve@client.example", "approve-access-request") + "/approve", `{"visibility":"basic"}`
		}, 200, nil},
		{"deny-access-request", func() (string, string) {
			return "/v1/access-requests/" + asksFor("deny@client.example", "deny-access-request") + "/deny", `{"reported":true}`
		}, 200, nil},
		{"open-access-request", func() (string, string) {
			return "/v1/access-requests/open", `{"token":"` + requestLink("open@client.example") + `"}`
		}, 200, func(r reply) {
			if r.text(t, "step") != "approve" {
				t.Errorf("opened: %s", r.body)
			}
		}},
		{"approve-access-request-by-token", func() (string, string) {
			return "/v1/access-requests/approve", `{"token":"` + requestLink("approve2@client.example") + `"}`
		}, 200, nil},
		{"deny-access-request-by-token", func() (string, string) {
			return "/v1/access-requests/deny", `{"token":"` + requestLink("deny2@client.example") + `"}`
		}, 200, nil},
		{"cancel-access-request", func() (string, string) {
			return "/v1/access-requests/" + asksFor("cancel@client.example", "") + "/cancel", ""
		}, 200, nil},
		{"get-company", func() (string, string) { return "/v1/companies/" + company, "" }, 200, nil},
		{"list-companies", func() (string, string) { return "/v1/companies?limit=200", "" }, 200, func(r reply) {
			if !strings.Contains(r.body, company) {
				t.Errorf("companies are %s", r.body)
			}
		}},
		{"list-company-members", func() (string, string) { return "/v1/companies/" + company + "/members", "" }, 200, func(r reply) {
			if !strings.Contains(r.body, account) {
				t.Errorf("members are %s", r.body)
			}
		}},
		{"get-workspace", func() (string, string) { return "/v1/workspaces/" + workspace, "" }, 200, func(r reply) {
			if r.text(t, "kind") != "client_file" || r.text(t, "state") != "active" {
				t.Errorf("workspace is %s", r.body)
			}
		}},
		{"rename-workspace", func() (string, string) { return "/v1/workspaces/" + workspace, `{"name":"Ann Okafor - Private"}` }, 200, func(r reply) {
			if r.text(t, "name") != "Ann Okafor - Private" {
				t.Errorf("workspace is %s", r.body)
			}
		}},
		{"list-company-workspaces", func() (string, string) {
			s.exec(`INSERT INTO company_member (app_id, company_id, account_id, role, created_at) VALUES ($1, $2, $3, 'admin', now())`, s.app.ID, company, s.actor.ID)
			return "/v1/companies/" + company + "/workspaces?state=active", ""
		}, 200, func(r reply) {
			if !strings.Contains(r.body, workspace) || !strings.Contains(r.body, `"joined":true`) {
				t.Errorf("workspaces are %s", r.body)
			}
		}},
		{"join-workspace", func() (string, string) { return "/v1/workspaces/" + workspace + "/join", "" }, 200, func(r reply) {
			if r.value(t, "already_member") != true {
				t.Errorf("joined: %s", r.body)
			}
		}},
		{"update-workspace-member", func() (string, string) {
			return "/v1/workspaces/" + workspace + "/members/" + s.actor.ID.String(), `{"visibility":"standard"}`
		}, 200, func(r reply) {
			if r.text(t, "visibility") != "standard" {
				t.Errorf("member is %s", r.body)
			}
		}},
		{"list-account-workspaces", func() (string, string) {
			s.exec(`UPDATE membership SET seen_at = NULL WHERE workspace_id = $1`, workspace)
			return "/v1/accounts/" + s.actor.ID.String() + "/workspaces", ""
		}, 200, func(r reply) {
			if !strings.Contains(r.body, workspace) || strings.Count(r.body, `"new":true`) != 1 {
				t.Errorf("workspaces are %s", r.body)
			}
		}},
		{"see-account-workspaces", func() (string, string) { return "/v1/accounts/" + s.actor.ID.String() + "/workspaces/seen", "" }, 200, func(reply) {
			if n := read[int](s, `SELECT count(*) FROM membership WHERE account_id = $1 AND seen_at IS NULL`, s.actor.ID); n != 0 {
				t.Errorf("%d are still new", n)
			}
		}},
		{"create-invitation", func() (string, string) {
			return "/v1/invitations", invitationJSON(s.tenant, map[string]any{"workspace_id": workspace, "locale": "es", "message": "Hello"})
		}, 201, func(r reply) { invitation = r.text(t, "id") }},
		{"create-invitations", func() (string, string) {
			return batchPath, asJSON([]string{
				invitationJSON(s.tenant, map[string]any{"workspace_id": workspace, "email": "bea@client.example", "notify": false}),
				invitationJSON(s.tenant, map[string]any{"workspace_id": workspace}),
			})
		}, 200, func(r reply) {
			if out := r.outcomes(t); len(out) != 2 || out[0].Status != 201 || out[1].Invitation.ID != invitation {
				t.Errorf("outcomes are %s", r.body)
			}
			s.exec(`UPDATE invitation SET state = 'declined' WHERE email = 'bea@client.example'`)
		}},
		{"get-invitation", func() (string, string) { return "/v1/invitations/" + invitation, "" }, 200, func(r reply) {
			if r.text(t, "link") != "" || r.text(t, "state") != "pending" {
				t.Errorf("invitation is %s", r.body)
			}
		}},
		{"list-invitations", func() (string, string) { return "/v1/invitations?state=pending&workspace_id=" + workspace, "" }, 200, func(r reply) {
			if !strings.Contains(r.body, invitation) || strings.Contains(r.body, "/i/") {
				t.Errorf("list is %s", r.body)
			}
		}},
		{"list-client-users", func() (string, string) { return "/v1/workspaces/" + workspace + "/client-users", "" }, 200, func(r reply) {
			if !strings.Contains(r.body, invitation) || !strings.Contains(r.body, `"state":"pending"`) {
				t.Errorf("client users are %s", r.body)
			}
		}},
		{"link-invitation", func() (string, string) { return "/v1/invitations/" + invitation + "/link", "" }, 200, func(r reply) {
			link := r.text(t, "link")
			if p := s.browser().get(strings.TrimPrefix(link, s.base)); p.StatusCode != 200 || !strings.HasPrefix(link, s.base+"/i/") {
				t.Errorf("the copied link %s leads to %d", link, p.StatusCode)
			}
		}},
		{"resend-invitation", func() (string, string) {
			s.pass(time.Hour)
			return "/v1/invitations/" + invitation + "/resend", ""
		}, 200, nil},
		{"correct-invitation-address", func() (string, string) {
			return "/v1/invitations/" + invitation + "/correct-address", `{"email":"anna@client.example"}`
		}, 200, func(r reply) {
			if r.text(t, "email") != "anna@client.example" || r.text(t, "delivery") != "queued" {
				t.Errorf("invitation is %s", r.body)
			}
		}},
		{"reopen-invitation", func() (string, string) {
			s.pass(15 * 24 * time.Hour)
			if n, err := s.roster.ExpireInvitations(t.Context(), 100); err != nil || n != 1 {
				t.Errorf("%d expired (%v)", n, err)
			}
			return "/v1/invitations/" + invitation + "/reopen", ""
		}, 200, nil},
		{"revoke-invitation", func() (string, string) { return "/v1/invitations/" + invitation + "/revoke", "" }, 200, func(r reply) {
			if r.text(t, "state") != "revoked" || r.text(t, "decided_at") == "" || r.text(t, "link") != "" {
				t.Errorf("invitation is %s", r.body)
			}
		}},
		{"get-external-warning", func() (string, string) { return "/v1/warnings/external-professional?locale=fr", "" }, 200, func(r reply) {
			if r.text(t, "locale") != "fr" || r.text(t, "text") == "" {
				t.Errorf("warning is %s", r.body)
			}
		}},
		{"add-account-to-workspaces", func() (string, string) {
			return "/v1/accounts/" + account + "/workspaces", `{"kind":"existing_user","origin_workspace_id":"` + s.workspace.ID.String() + `","workspace_ids":["` + workspace + `"]}`
		}, 200, func(r reply) {
			if r.value(t, "added") != 0.0 || !strings.Contains(r.body, `"code":"not_in_origin"`) {
				t.Errorf("added %s", r.body)
			}
		}},
		{"list-notifications", func() (string, string) {
			if r := s.api(s.tenant, call{method: http.MethodPost, path: "/v1/invitations", body: invitationJSON(s.tenant, map[string]any{"email": "bea@kindred.example"})}); r.StatusCode != 201 {
				t.Fatalf("%d %s", r.StatusCode, r.body)
			}
			return "/v1/notifications?action=open", ""
		}, 200, func(r reply) {
			items, _ := r.value(t, "items").([]any)
			item = items[0].(map[string]any)["id"].(string)
		}},
		{"read-notification", func() (string, string) { return "/v1/notifications/" + item + "/read", "" }, 200, nil},
		{"unread-notification", func() (string, string) { return "/v1/notifications/" + item + "/unread", "" }, 200, nil},
		{"archive-notification", func() (string, string) { return "/v1/notifications/" + item + "/archive", "" }, 200, func(r reply) {
			if r.text(t, "view") != "archived" || r.text(t, "action") != "open" {
				t.Errorf("item is %s", r.body)
			}
		}},
		{"unarchive-notification", func() (string, string) { return "/v1/notifications/" + item + "/unarchive", "" }, 200, nil},
		{"archive-notifications", func() (string, string) { return "/v1/notifications/archive", `{"action":"open"}` }, 200, func(r reply) {
			if r.value(t, "archived") != 1.0 {
				t.Errorf("archived %s", r.body)
			}
		}},
		{"approve-notification", func() (string, string) { return "/v1/notifications/" + item + "/approve", "" }, 200, func(r reply) {
			if !strings.Contains(r.body, `"state":"accepted"`) || !strings.Contains(r.body, `"account_id":"`+account) {
				t.Errorf("invitation is %s", r.body)
			}
		}},
		{"decline-notification", func() (string, string) {
			s.exec(`UPDATE membership SET state = 'archived' WHERE account_id = $1`, account)
			if r := s.api(s.tenant, call{method: http.MethodPost, path: "/v1/invitations", body: invitationJSON(s.tenant, map[string]any{"email": "bea@kindred.example"})}); r.StatusCode != 201 {
				t.Fatalf("%d %s", r.StatusCode, r.body)
			}
			item = s.inbox(account, "action=open")[0].ID
			return "/v1/notifications/" + item + "/decline", ""
		}, 200, func(r reply) {
			if !strings.Contains(r.body, `"state":"declined"`) {
				t.Errorf("invitation is %s", r.body)
			}
		}},
		{"list-events", func() (string, string) { return "/v1/events?order=oldest&limit=2&subject_id=" + invitation, "" }, 200, func(r reply) {
			if event = r.text(t, "next"); !strings.Contains(r.body, `"id":"`+event+`","type":"invitation.link_copied","subject_id":"`+invitation+`"`) {
				t.Errorf("events are %s", r.body)
			}
		}},
		{"get-event", func() (string, string) { return "/v1/events/" + event, "" }, 200, func(r reply) {
			if r.text(t, "type") != "invitation.link_copied" || r.text(t, "actor_id") != s.actor.ID.String() {
				t.Errorf("event is %s", r.body)
			}
		}},
		{"create-webhook-endpoint", func() (string, string) {
			return "/v1/webhook-endpoints", `{"url":"https://example.org/hooks","types":["invitation.link_copied"],"description":"Ours"}`
		}, 201, func(r reply) {
			if endpoint, secret = r.text(t, "id"), r.text(t, "secret"); !strings.HasPrefix(secret, "whsec_") || r.text(t, "state") != "enabled" {
				t.Errorf("endpoint is %s", r.body)
			}
		}},
		{"get-webhook-endpoint", func() (string, string) { return "/v1/webhook-endpoints/" + endpoint, "" }, 200, func(r reply) {
			if r.text(t, "url") != "https://example.org/hooks" || strings.Contains(r.body, "whsec_") {
				t.Errorf("endpoint is %s", r.body)
			}
		}},
		{"update-webhook-endpoint", func() (string, string) {
			return "/v1/webhook-endpoints/" + endpoint, `{"types":["invitation.created","invitation.link_copied"]}`
		}, 200, func(r reply) {
			if !strings.Contains(r.body, "invitation.created") || r.text(t, "description") != "Ours" {
				t.Errorf("endpoint is %s", r.body)
			}
		}},
		{"rotate-webhook-secret", func() (string, string) { return "/v1/webhook-endpoints/" + endpoint + "/rotate-secret", "" }, 200, func(r reply) {
			if next := r.text(t, "secret"); next == secret || r.text(t, "old_secret_until") == "" {
				t.Errorf("endpoint is %s", r.body)
			}
		}},
		{"test-webhook-endpoint", func() (string, string) { return "/v1/webhook-endpoints/" + endpoint + "/test", "" }, 202, nil},
		{"replay-webhook-delivery", func() (string, string) {
			return "/v1/webhook-endpoints/" + endpoint + "/deliveries/" + event + "/replay", ""
		}, 202, func(r reply) {
			if r.text(t, "event_id") != event {
				t.Errorf("replayed: %s", r.body)
			}
		}},
		{"get-webhook-delivery", func() (string, string) { return "/v1/webhook-endpoints/" + endpoint + "/deliveries/" + event, "" }, 200, func(r reply) {
			if r.text(t, "state") != "waiting" || r.text(t, "type") != "invitation.link_copied" {
				t.Errorf("delivery is %s", r.body)
			}
		}},
		{"replay-webhook-deliveries", func() (string, string) {
			return "/v1/webhook-endpoints/" + endpoint + "/replay", `{"from":"2020-01-01T00:00:00Z","to":"2040-01-01T00:00:00Z"}`
		}, 202, func(r reply) {
			if r.value(t, "queued") != float64(wanted()-1) { // the copied link waits already
				t.Errorf("replayed: %s", r.body)
			}
		}},
		{"list-webhook-deliveries", func() (string, string) { return "/v1/webhook-endpoints/" + endpoint + "/deliveries?state=waiting", "" }, 200, func(r reply) {
			if strings.Count(r.body, `"event_id"`) != wanted()+1 { // and the test
				t.Errorf("deliveries are %s", r.body)
			}
		}},
		{"list-webhook-endpoints", func() (string, string) { return "/v1/webhook-endpoints", "" }, 200, func(r reply) {
			if !strings.Contains(r.body, endpoint) || strings.Contains(r.body, "whsec_") {
				t.Errorf("endpoints are %s", r.body)
			}
		}},
		{"delete-webhook-endpoint", func() (string, string) { return "/v1/webhook-endpoints/" + endpoint, "" }, 204, nil},
		{"list-messages", func() (string, string) {
			return "/v1/messages?email=Anna%40Client.example&subject_id=" + invitation + "&limit=1", ""
		}, 200, func(r reply) {
			if message = r.text(t, "next"); !strings.Contains(r.body, `"id":"`+message+`"`) || !strings.Contains(r.body, `"state":"queued"`) {
				t.Errorf("messages are %s", r.body)
			}
		}},
		{"get-message", func() (string, string) {
			s.exec(`UPDATE message SET state = 'uncertain', due_at = NULL WHERE id = $1`, message)
			s.exec(`INSERT INTO provider_event (id, type, message_id, body, at, received_at) VALUES ('e', 'email.opened', $1, '{}', now(), now())`, message)
			return "/v1/messages/" + message, ""
		}, 200, func(r reply) {
			if r.text(t, "state") != "uncertain" || !strings.Contains(r.text(t, "next"), "settle it") || !strings.Contains(r.body, "email.opened") {
				t.Errorf("message is %s", r.body)
			}
		}},
		{"settle-message", func() (string, string) { return "/v1/messages/" + message + "/settle", `{"outcome":"not_sent"}` }, 200, func(r reply) {
			if r.text(t, "id") != message || r.text(t, "outcome") != "not_sent" || r.text(t, "new_message_id") != "" { // the invitation is revoked
				t.Errorf("settled: %s", r.body)
			}
		}},
		{"get-mail-health", func() (string, string) { return "/v1/mail/health", "" }, 200, func(r reply) {
			if r.value(t, "flowing") != true || r.value(t, "uncertain") != 0.0 {
				t.Errorf("health is %s", r.body)
			}
		}},
		{"list-suppressions", func() (string, string) {
			s.exec(`INSERT INTO address (app_id, email_key, block, detail, blocked_at) VALUES ($1, 'a+b@client.example', 'hard', '550', now()), ($1, 'b@client.example', 'complaint', '', now())`, s.app.ID)
			return "/v1/suppressions?limit=1", ""
		}, 200, func(r reply) {
			if r.text(t, "next") != "a+b@client.example" || !strings.Contains(r.body, `"reason":"hard"`) {
				t.Errorf("suppressions are %s", r.body)
			}
		}},
		{"get-suppression", func() (string, string) { return "/v1/suppressions/A+b%40client.example", "" }, 200, func(r reply) {
			if r.text(t, "detail") != "550" || r.text(t, "email") != "a+b@client.example" {
				t.Errorf("suppression is %s", r.body)
			}
		}},
		{"lift-suppression", func() (string, string) {
			s.exec(`UPDATE message SET email_key = 'a+b@client.example' WHERE id = $1`, message)
			return "/v1/suppressions/a+b@client.example", ""
		}, 202, func(r reply) {
			if r.value(t, "lifting") != true || r.text(t, "lifted_at") == "" {
				t.Errorf("suppression is %s", r.body)
			}
		}},
		{"list-invitation-events", func() (string, string) { return "/v1/invitations/" + invitation + "/events", "" }, 200, func(r reply) {
			var have []string
			for _, part := range strings.Split(r.body, `"type":"invitation.`)[1:] {
				kind, _, _ := strings.Cut(part, `"`)
				have = append(have, kind)
			}
			if want := []string{"created", "link_copied", "resent", "address_corrected", "expired", "reopened", "revoked"}; !slices.Equal(have, want) {
				t.Errorf("events are %q, want %q", have, want)
			}
		}},
		// The pages' steps: TestOwnPages goes further.
		{"open-invitation", func() (string, string) { return "/v1/invitations/open", own(nil) }, 200, func(r reply) {
			if r.text(t, "step") != "sign_up" {
				t.Errorf("opened: %s", r.body)
			}
		}},
		{"ask-renewal", func() (string, string) { return "/v1/invitations/ask-renewal", own(nil) }, 200, nil},
		{"sign-up", func() (string, string) {
			return "/v1/invitations/sign-up", own(map[string]string{"full_name": "Sara Cohen", "password": goodPassword})
		}, 201, func(r reply) { pro = r.text(t, "id") }},
		{"create-session", func() (string, string) {
			return "/v1/sessions", `{"identifier":"pro@clinic.example","password":"` + goodPassword + `"}`
		}, 200, func(r reply) {
			if r.text(t, "id") != pro {
				t.Errorf("session: %s", r.body)
			}
		}},
		{"accept-invitation", func() (string, string) {
			return "/v1/invitations/accept", own(map[string]string{"account_id": pro})
		}, 200, nil},
		{"decline-invitation", func() (string, string) {
			return "/v1/invitations/decline", `{"token":"` + s.token(s.invite(s.tenant, "cleo@client.example")) + `"}`
		}, 200, nil},
		{"ask-password", func() (string, string) { return "/v1/passwords/reset", `{"identifier":"pro@clinic.example"}` }, 202, nil},
		{"set-password", func() (string, string) {
			return "/v1/passwords", `{"token":"` + s.passwordToken(roster.Account{ID: id(pro)}) + `","password":"` + goodPassword + `"}`
		}, 200, nil},
		{"take-over-invitation", func() (string, string) {
			invitation = s.invite(s.tenant, "orphan@client.example").ID.String()
			s.exec(`UPDATE invitation SET state = 'on_hold', held_for = 'inviter' WHERE id = $1`, invitation)
			return "/v1/invitations/" + invitation + "/take-over", ""
		}, 200, func(r reply) {
			if r.text(t, "state") != "pending" || r.text(t, "held_for") != "" || r.text(t, "link") == "" {
				t.Errorf("invitation is %s", r.body)
			}
		}},
		{"remove-record", func() (string, string) { return "/v1/records/" + record, "" }, 200, nil},
		{"archive-workspace-member", func() (string, string) {
			return "/v1/workspaces/" + workspace + "/members/" + s.actor.ID.String() + "/archive", ""
		}, 200, func(r reply) {
			if r.text(t, "state") != "archived" || r.text(t, "archived_at") == "" {
				t.Errorf("member is %s", r.body)
			}
		}},
		{"delete-workspace-member", func() (string, string) {
			return "/v1/workspaces/" + workspace + "/members/" + s.actor.ID.String(), ""
		}, 200, nil},
		{"archive-workspace", func() (string, string) { return "/v1/workspaces/" + workspace + "/archive", "" }, 200, func(r reply) {
			if r.text(t, "state") != "archived" || r.text(t, "archived_at") == "" {
				t.Errorf("workspace is %s", r.body)
			}
		}},
		{"remove-company-member", func() (string, string) { return "/v1/companies/" + company + "/members/" + account, "" }, 200, nil},
		{"archive-account", func() (string, string) { return "/v1/accounts/" + account + "/archive", "" }, 200, func(r reply) {
			if r.text(t, "status") != "archived" {
				t.Errorf("account is %s", r.body)
			}
		}},
	}
	for _, step := range steps {
		op := todo[step.op]
		if op == nil {
			t.Fatalf("there is no operation %s", step.op)
		}
		delete(todo, step.op)
		path, body := step.call()
		c := call{method: op.Method, path: path, body: body, header: map[string]string{"Idempotency-Key": "key-of-" + step.op}}
		if slices.Contains(op.Tags, tagInbox) || step.op == "list-records" {
			c = itsOwner(c)
		}
		if actors[step.op] != "" {
			c.header["Usher-Actor"] = actors[step.op]
		}
		r := s.api(s.tenant, c)
		if r.StatusCode != step.status {
			t.Fatalf("%s: %d %s, want %d", step.op, r.StatusCode, r.body, step.status)
		}
		wantDeclared(t, doc, op, r)
		if step.check != nil {
			step.check(r)
		}
		if op.Method != http.MethodPost || slices.Contains(readsOnly, step.op) {
			continue
		}
		before := s.everything()
		again := s.api(s.tenant, c)
		if again.StatusCode != r.StatusCode || again.body != r.body {
			t.Errorf("%s again: %d %s, want %d %s", step.op, again.StatusCode, again.body, r.StatusCode, r.body)
		}
		if body != "" && op.RequestBody.Required && step.op != "create-invitations" { // whose rows have keys of their own: TestBatchAgain
			c.body += " "
			other := s.api(s.tenant, c)
			other.wantProblem(t, 422, "idempotency_key_reused")
			wantDeclared(t, doc, op, other)
		}
		if after := s.everything(); after != before {
			t.Errorf("%s again changed rows:\n%s", step.op, changed(before, after))
		}
	}
	for _, id := range slices.Sorted(maps.Keys(todo)) {
		t.Errorf("no step makes the call %s", id)
	}
}

// readsOnly are the POSTs that change nothing: what they are asked does not
// belong into an address.
var readsOnly = []string{"check-address", "simulate-policies", "open-invitation", "open-access-request", "create-session"}

// TestEveryPostTakesAKey reads in the document that every POST is repeatable.
func TestEveryPostTakesAKey(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.browser().get("/healthz")
	for id, op := range operations(s.server.api.OpenAPI()) {
		keyed := slices.ContainsFunc(op.Parameters, func(p *huma.Param) bool { return p.Name == "Idempotency-Key" })
		if keyed != (op.Method == http.MethodPost && !slices.Contains(readsOnly, id)) {
			t.Errorf("%s %s takes a key: %v", op.Method, id, keyed)
		}
	}
}

// TestRefusalsAreDeclared makes each operation fail in the ways that all share
// and compares with the document.
func TestRefusalsAreDeclared(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	doc := s.server.api.OpenAPI()
	for id, op := range operations(doc) {
		path := strings.NewReplacer("{id}", newID(), "{account_id}", newID()).Replace(op.Path)
		r := s.api(s.tenant, call{method: op.Method, path: path, header: map[string]string{"Authorization": ""}})
		r.wantProblem(t, 401, "api_key_invalid")
		wantDeclared(t, doc, op, r)
		if r.Header.Get("WWW-Authenticate") == "" {
			t.Errorf("%s: 401 without WWW-Authenticate", id)
		}
		if strings.Contains(op.Path, "{id}") {
			r := s.api(s.tenant, call{method: op.Method, path: strings.Replace(path, strings.Split(path, "/")[3], "x", 1), body: map[bool]string{true: "{}"}[op.RequestBody != nil]})
			r.wantProblem(t, 422, "validation_failed")
			wantDeclared(t, doc, op, r)
		}
		if op.RequestBody == nil {
			continue
		}
		for _, bad := range []call{
			{body: "{"},
			{body: `{"a":1}`, header: map[string]string{"Content-Type": "text/csv"}},
			{body: `{"a":"` + strings.Repeat("x", maxBody) + `"}`},
		} {
			bad.method, bad.path = op.Method, path
			r := s.api(s.tenant, bad)
			if r.StatusCode < 400 || r.StatusCode >= 500 {
				t.Errorf("%s takes %.40s: %d", id, bad.body, r.StatusCode)
			}
			wantDeclared(t, doc, op, r)
		}
	}
}

// item puts an open invitation into the inbox of the tenant's professional.
func (s *site) item(te tenant) uuid.UUID {
	s.t.Helper()
	none := roster.IdempotencyKey{}
	host, err := s.roster.CreateAccount(s.t.Context(), te.app.ID, roster.NewAccount{Kind: roster.Professional, FullName: te.app.Name + " Host", Email: "host@kindred.example"}, none)
	if err != nil {
		s.t.Fatal(err)
	}
	file, err := s.roster.CreateWorkspace(s.t.Context(), te.app.ID, roster.NewWorkspace{CompanyID: te.company.ID, Name: te.app.Name + " File", OwnerID: host.ID}, none)
	if err != nil {
		s.t.Fatal(err)
	}
	te.workspace, te.actor.ID = file, host.ID
	inv := s.invite(te, te.actor.Email)
	return read[uuid.UUID](s, `SELECT id FROM notification WHERE subject_id = $1`, inv.ID)
}

// TestAddingCrossesNoApps adds with another app's ids.
func TestAddingCrossesNoApps(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	other := s.newTenant("Secret Society")
	cleo := s.colleague("Cleo League", "cleo@kindred.example")
	theirs := other.workspace.ID.String()
	before := s.everything()
	for name, c := range map[string]call{
		"account":   s.adding("colleague", other.actor.ID.String(), nil),
		"workspace": s.adding("colleague", cleo, map[string]any{"workspace_id": theirs}),
	} {
		s.api(s.tenant, c).wantProblem(t, 404, name+"_not_found")
	}
	s.api(s.tenant, s.adding("existing_user", cleo, map[string]any{"origin_workspace_id": theirs})).wantProblem(t, 403, "origin_not_allowed")
	many := post("/v1/accounts/"+cleo+"/workspaces", `{"workspace_ids":["`+theirs+`"]}`)
	if r := s.answered(many); !strings.Contains(r.body, "workspace_not_found") || strings.Contains(r.body, other.workspace.Name) && other.workspace.Name != s.workspace.Name {
		t.Errorf("another app's workspace: %s", r.body)
	}
	if after := s.everything(); after != before {
		t.Errorf("changed:\n%s", changed(before, after))
	}
}

// newEndpoint adds a webhook endpoint to the tenant and gives its id.
func (s *site) newEndpoint(te tenant) string {
	s.t.Helper()
	e, err := s.roster.CreateEndpoint(s.t.Context(), te.app.ID, roster.NewEndpoint{
		URL: "https://example.org/secret%20", Types: []string{roster.EventReopened}, SecretKey: s.server.Keys.ID(),
	}, roster.IdempotencyKey{})
	if err != nil {
		s.t.Fatal(err)
	}
	return e.ID.String()
}

// walk reads a list page by page and gives the ids in order.
func (s *site) walk(path string, limit int, id string) (ids []string) {
	s.t.Helper()
	after := ""
	for range 100 {
		r := s.api(s.tenant, call{method: http.MethodGet, path: fmt.Sprintf("%s&limit=%d%s", path, limit, after)})
		var page list[map[string]any]
		if err := json.Unmarshal([]byte(r.body), &page); err != nil || r.StatusCode != 200 {
			s.t.Fatalf("%d %s", r.StatusCode, r.body)
		}
		if len(page.Items) > limit {
			s.t.Errorf("%d rows on a page of %d", len(page.Items), limit)
		}
		for _, row := range page.Items {
			ids = append(ids, fmt.Sprint(row[id]))
		}
		if page.Next == "" {
			return ids
		}
		after = "&after=" + page.Next
	}
	s.t.Fatal("the list does not end")
	return nil
}

func TestPages(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	var newest []string
	for i := range 7 {
		inv := s.invite(s.tenant, fmt.Sprintf("ann%d@client.example", i))
		newest = slices.Insert(newest, 0, inv.ID.String())
		s.accept(inv)
	}
	for _, limit := range []int{1, 2, 3, 6, 7, 8, 200} {
		if have := s.walk("/v1/invitations?state=accepted", limit, "id"); !slices.Equal(have, newest) {
			t.Errorf("limit %d: invitations %v, want %v", limit, have, newest)
		}
		members := s.walk("/v1/workspaces/"+s.workspace.ID.String()+"/members?", limit, "account_id")
		if len(members) != 8 || !slices.IsSorted(members) || len(slices.Compact(members)) != 8 {
			t.Errorf("limit %d: members %v", limit, members)
		}
	}
	if have := s.walk("/v1/invitations?state=revoked", 5, "id"); len(have) != 0 {
		t.Errorf("revoked: %v", have)
	}
	if have := s.walk("/v1/invitations?workspace_id="+newID(), 5, "id"); len(have) != 0 {
		t.Errorf("in another workspace: %v", have)
	}
	if r := s.api(s.tenant, call{method: http.MethodGet, path: "/v1/invitations?state=revoked"}); !strings.Contains(r.body, `"items":[]`) {
		t.Errorf("an empty list is %s", r.body)
	}
}

// accept takes an invitation as a new person.
func (s *site) accept(inv roster.Invitation) {
	s.t.Helper()
	if _, _, err := s.roster.AcceptInvitation(s.t.Context(), inv.Ticket(), roster.Acceptance{FullName: "Ann Okafor", PasswordHash: "not looked at"}); err != nil {
		s.t.Fatal(err)
	}
}

// atOnce sends calls at the same moment and gives their answers in order.
func (s *site) atOnce(calls []call) []reply {
	s.t.Helper()
	replies := make([]reply, len(calls))
	var group sync.WaitGroup
	for i, c := range calls {
		group.Go(func() { replies[i] = s.api(s.tenant, c) })
	}
	group.Wait()
	return replies
}

func TestSameKeyAtOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	calls := make([]call, 20)
	for i := range calls {
		calls[i] = call{method: http.MethodPost, path: "/v1/invitations", body: invitationJSON(s.tenant, nil), header: map[string]string{"Idempotency-Key": "k"}}
	}
	replies := s.atOnce(calls)
	for _, r := range replies {
		if r.StatusCode != 201 || r.body != replies[0].body {
			t.Errorf("%d %s, want 201 %s", r.StatusCode, r.body, replies[0].body)
		}
	}
	s.wantOneInvitation()

	// The same for an operation that is not batched.
	id := replies[0].text(t, "id")
	for i := range calls {
		calls[i] = call{method: http.MethodPost, path: "/v1/invitations/" + id + "/link", header: map[string]string{"Idempotency-Key": "k"}}
	}
	replies = s.atOnce(calls)
	for _, r := range replies {
		if r.StatusCode != 200 || r.body != replies[0].body {
			t.Errorf("%d %s, want 200 %s", r.StatusCode, r.body, replies[0].body)
		}
	}
	if n := read[int](s, `SELECT count(*) FROM event WHERE type = 'invitation.link_copied'`); n != 1 {
		t.Errorf("%d copies noted, want 1", n)
	}
}

func (s *site) wantOneInvitation() {
	s.t.Helper()
	for table, sql := range map[string]string{
		"invitations": `SELECT count(*) FROM invitation`,
		"events":      `SELECT count(*) FROM event WHERE type LIKE 'invitation.%'`,
		"jobs":        `SELECT count(*) FROM river_job`,
	} {
		if n := read[int](s, sql); n != 1 {
			s.t.Errorf("%d %s, want 1", n, table)
		}
	}
}

func TestSameKeyOtherBodiesAtOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	calls := make([]call, 20)
	for i := range calls {
		calls[i] = call{
			method: http.MethodPost, path: "/v1/invitations", header: map[string]string{"Idempotency-Key": "k"},
			body: invitationJSON(s.tenant, map[string]any{"email": fmt.Sprintf("ann%d@client.example", i%4)}),
		}
	}
	won := 0
	for _, r := range s.atOnce(calls) {
		if r.StatusCode == 201 {
			won++
			continue
		}
		r.wantProblem(t, 422, "idempotency_key_reused")
	}
	if won != 5 {
		t.Errorf("%d were answered, want the 5 with one body", won)
	}
	s.wantOneInvitation()
}

func TestSameAddressAtOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	calls := make([]call, 20)
	for i := range calls {
		calls[i] = call{method: http.MethodPost, path: "/v1/invitations", body: invitationJSON(s.tenant, nil)}
	}
	statuses, ids := map[int]int{}, map[string]bool{}
	for _, r := range s.atOnce(calls) {
		statuses[r.StatusCode]++
		ids[r.text(t, "id")] = true
	}
	if statuses[201] != 1 || statuses[200] != 19 || len(ids) != 1 {
		t.Errorf("answers %v about %d invitations", statuses, len(ids))
	}
	s.wantOneInvitation()
}

// TestKeysReach says how far a key reaches: its app and its route.
func TestKeysReach(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	key := map[string]string{"Idempotency-Key": "k"}
	other := s.newTenant("Other")
	for _, te := range []tenant{s.tenant, other} {
		for path, body := range map[string]string{
			"/v1/invitations": invitationJSON(te, nil),
			"/v1/companies":   `{"name":"Harbour"}`,
		} {
			if r := s.api(te, call{method: http.MethodPost, path: path, body: body, header: key}); r.StatusCode != 201 {
				t.Errorf("%s of %s: %d %s", path, te.app.Name, r.StatusCode, r.body)
			}
		}
	}
	// Without a key a repetition is a request of its own.
	c := call{method: http.MethodPost, path: "/v1/companies", body: `{"name":"Harbour"}`}
	if a, b := s.api(s.tenant, c), s.api(s.tenant, c); a.text(t, "id") == b.text(t, "id") {
		t.Error("without a key the first answer came again")
	}
}

// TestRefusalIsRemembered: what was refused under a key stays refused under it,
// though it would now succeed.
func TestRefusalIsRemembered(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.exec(`UPDATE workspace SET state = 'archived'`)
	c := call{method: http.MethodPost, path: "/v1/invitations", body: invitationJSON(s.tenant, nil), header: map[string]string{"Idempotency-Key": "k"}}
	s.api(s.tenant, c).wantProblem(t, 409, "workspace_archived")
	s.exec(`UPDATE workspace SET state = 'active'`)
	s.api(s.tenant, c).wantProblem(t, 409, "workspace_archived")
	c.header = nil
	if r := s.api(s.tenant, c); r.StatusCode != 201 {
		t.Errorf("without the key: %d %s", r.StatusCode, r.body)
	}
}

func TestAlreadyMember(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.accept(s.invite(s.tenant, "ann@client.example"))
	jobs := read[int](s, `SELECT count(*) FROM river_job`)
	r := s.api(s.tenant, call{method: http.MethodPost, path: "/v1/invitations", body: invitationJSON(s.tenant, map[string]any{"email": "ANN@client.example"})})
	if r.StatusCode != 200 || r.value(t, "already_member") != true || r.text(t, "state") != "already_member" || r.text(t, "link") != "" || r.text(t, "id") != "" {
		t.Errorf("%d %s", r.StatusCode, r.body)
	}
	wantDeclared(t, s.server.api.OpenAPI(), operations(s.server.api.OpenAPI())["create-invitation"], r)
	if n := read[int](s, `SELECT count(*) FROM river_job`); n != jobs {
		t.Errorf("%d jobs, want %d as before", n, jobs)
	}
}

// TestDecidedTells: a refused transition names the state that stands and since
// when; too soon names the moment it will work.
func TestDecidedTells(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	inv := s.invite(s.tenant, "ann@client.example")
	path := "/v1/invitations/" + inv.ID.String()
	r := s.api(s.tenant, call{method: http.MethodPost, path: path + "/resend"})
	r.wantProblem(t, 429, "resend_too_soon")
	at, err := time.Parse(time.RFC3339, r.text(t, "retry_at"))
	seconds, _ := strconv.Atoi(r.Header.Get("Retry-After"))
	if err != nil || !at.Equal(inv.QueuedAt.Add(time.Hour)) || seconds < 3500 || seconds > 3600 {
		t.Errorf("retry at %s (%v), after %d s", at, err, seconds)
	}
	s.accept(inv)
	for _, action := range []string{"revoke", "resend", "link", "reopen"} {
		r := s.api(s.tenant, call{method: http.MethodPost, path: path + "/" + action})
		r.wantProblem(t, 409, "already_accepted")
		if _, err := time.Parse(time.RFC3339, r.text(t, "decided_at")); err != nil || r.text(t, "state") != "accepted" {
			t.Errorf("%s: %s", action, r.body)
		}
	}
	late := s.invite(s.tenant, "bea@client.example")
	s.pass(15 * 24 * time.Hour)
	s.api(s.tenant, call{method: http.MethodPost, path: "/v1/invitations/" + late.ID.String() + "/resend"}).wantProblem(t, 410, "expired")
}

// TestRevokedKeyEnds: a key that was in use stops working soon after it was
// revoked.
func TestRevokedKeyEnds(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	list := call{method: http.MethodGet, path: "/v1/invitations"}
	if r := s.api(s.tenant, list); r.StatusCode != 200 {
		t.Fatalf("%d %s", r.StatusCode, r.body)
	}
	keys, err := s.roster.APIKeys(t.Context(), s.app.ID)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.roster.RevokeAPIKey(t.Context(), keys[0].ID); err != nil {
		t.Fatal(err)
	}
	revoked := time.Now()
	s.until("the key is refused", func() bool { return s.api(s.tenant, list).StatusCode == 401 })
	if took := time.Since(revoked); took > 3*keyTime {
		t.Errorf("it worked for another %s", took)
	}
}
