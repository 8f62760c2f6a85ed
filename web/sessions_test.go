package web

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"

	"usher/internal/roster"
)

// postJSON calls the API with a JSON body.
func (s *site) postJSON(te tenant, path, key string, body map[string]any) reply {
	s.t.Helper()
	raw, err := json.Marshal(body)
	if err != nil {
		s.t.Fatal(err)
	}
	return s.api(te, call{method: http.MethodPost, path: path, body: string(raw), header: map[string]string{"Idempotency-Key": key}})
}

// TestOwnPages goes through an invitation on pages of the app's own: every step
// is in the API, and a token is good for its own app only.
func TestOwnPages(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	doc := s.server.api.OpenAPI()
	other := s.newTenant("Another App")
	inv := s.invite(s.tenant, "ann@client.example")
	token := s.token(inv)
	post := func(te tenant, path, key string, body map[string]any, status int) reply {
		t.Helper()
		r := s.postJSON(te, path, key, body)
		if r.StatusCode != status {
			t.Errorf("%s: %d %s, want %d", path, r.StatusCode, r.body, status)
		}
		wantDeclared(t, doc, doc.Paths[path].Post, r)
		return r
	}
	name := map[string]any{"token": token, "full_name": "Ann Okafor", "password": goodPassword}

	// Another app's token is as good as none, and changes nothing.
	before := s.everything("idempotency_key")
	for _, path := range []string{"open", "accept", "sign-up", "decline", "ask-renewal"} {
		for te, with := range map[*tenant]string{&other: token, &s.tenant: "x" + token[1:]} {
			body := map[string]any{"token": with}
			if path == "accept" || path == "sign-up" {
				body["full_name"], body["password"] = "Ann Okafor", goodPassword
			}
			post(*te, "/v1/invitations/"+path, newID(), body, 404).wantProblem(t, 404, "link_dead")
		}
	}
	if after := s.everything("idempotency_key"); after != before {
		t.Errorf("foreign tokens changed:\n%s", changed(before, after))
	}

	r := post(s.tenant, "/v1/invitations/open", "", map[string]any{"token": token}, 200)
	for field, want := range map[string]string{
		"state": "pending", "step": "new_account", "workspace_name": "Family Okafor", "inviter_name": "Marie Dupont", "company_name": "Acme Therapy",
		"email": "ann@client.example", "id": inv.ID.String(), "account_id": "",
	} {
		if got := r.text(t, field); got != want {
			t.Errorf("%s is %q, want %q", field, got, want)
		}
	}
	post(s.tenant, "/v1/invitations/accept", "", map[string]any{"token": token, "full_name": "Ann"}, 422).wantProblem(t, 422, "password_too_short")
	post(s.tenant, "/v1/invitations/accept", "", map[string]any{"token": token, "account_id": s.actor.ID.String()}, 403).wantProblem(t, 403, "wrong_account")
	post(s.tenant, "/v1/invitations/accept", "", map[string]any{"token": token, "account_id": other.actor.ID.String()}, 404).wantProblem(t, 404, "account_not_found")
	first := post(s.tenant, "/v1/invitations/accept", "k", name, 200)
	account := first.text(t, "account_id")
	if again := post(s.tenant, "/v1/invitations/accept", "k", name, 200); again.body != first.body || account == "" || first.text(t, "state") != "accepted" {
		t.Errorf("accepted: %s, again: %s", first.body, again.body)
	}
	post(s.tenant, "/v1/invitations/accept", "k", map[string]any{"token": token, "full_name": "Ann Okafor", "password": "wrong password"}, 422).wantProblem(t, 422, "idempotency_key_reused")
	post(s.tenant, "/v1/invitations/accept", "", map[string]any{"token": token}, 200) // case 15
	post(s.tenant, "/v1/invitations/decline", "", map[string]any{"token": token}, 409).wantProblem(t, 409, "already_accepted")
	if r := post(s.tenant, "/v1/invitations/open", "", map[string]any{"token": token}, 200); r.text(t, "step") != "none" {
		t.Errorf("decided, it is %s", r.body)
	}

	// Log in, then accept as who one is.
	te := s.tenant
	te.workspace = s.workspace2("Second")
	second := s.token(s.invite(te, "ann@client.example"))
	if r := post(s.tenant, "/v1/invitations/open", "", map[string]any{"token": second}, 200); r.text(t, "step") != "log_in" || r.text(t, "account_id") != account {
		t.Errorf("of an account: %s", r.body)
	}
	post(s.tenant, "/v1/invitations/accept", "", map[string]any{"token": second}, 401).wantProblem(t, 401, "log_in_needed")
	wrong := post(s.tenant, "/v1/sessions", "", map[string]any{"identifier": "ann@client.example", "password": "wrong password"}, 422)
	wrong.wantProblem(t, 422, "credentials_wrong")
	if nobody := post(other, "/v1/sessions", "", map[string]any{"identifier": "ann@client.example", "password": goodPassword}, 422); nobody.text(t, "detail") != wrong.text(t, "detail") {
		t.Errorf("another app's account: %s", nobody.body)
	}
	if r := post(s.tenant, "/v1/sessions", "", map[string]any{"identifier": "ANN@client.example", "password": goodPassword}, 200); r.text(t, "id") != account {
		t.Errorf("session: %s", r.body)
	}
	post(s.tenant, "/v1/invitations/accept", "", map[string]any{"token": second, "account_id": account}, 200)

	// External professionals sign up first.
	out, err := s.roster.CreateInvitations(t.Context(), []roster.NewInvitation{{
		AppID: s.app.ID, ActorID: s.actor.ID, WorkspaceID: s.workspace.ID, Kind: roster.KindExternal, Email: "pro@clinic.example", Warning: "I know.", Notify: true,
	}})
	if err != nil || out[0].Err != nil {
		t.Fatal(err, out)
	}
	third := s.token(out[0].Invitation)
	if r := post(s.tenant, "/v1/invitations/open", "", map[string]any{"token": third}, 200); r.text(t, "step") != "sign_up" {
		t.Errorf("of an external professional: %s", r.body)
	}
	signedUp := map[string]any{"token": third, "full_name": "Sara Cohen", "password": goodPassword}
	first = post(s.tenant, "/v1/invitations/sign-up", "s", signedUp, 201)
	if again := post(s.tenant, "/v1/invitations/sign-up", "s", signedUp, 201); again.body != first.body || first.text(t, "kind") != "professional" {
		t.Errorf("signed up: %s, again: %s", first.body, again.body)
	}
	post(s.tenant, "/v1/invitations/sign-up", "", signedUp, 401).wantProblem(t, 401, "log_in_needed")
	if s.state(out[0].Invitation) != "pending" {
		t.Error("signing up decided")
	}
	post(s.tenant, "/v1/invitations/decline", "d", map[string]any{"token": third}, 200)
	post(s.tenant, "/v1/invitations/decline", "d", map[string]any{"token": third}, 200)

	// A dead link is asked for anew, once.
	te.workspace = s.workspace2("Third")
	late := s.invite(te, "bob@client.example")
	s.exec(`UPDATE invitation SET expires_at = now() - interval '1 hour' WHERE id = $1`, late.ID)
	post(s.tenant, "/v1/invitations/accept", "", map[string]any{"token": s.token(late), "full_name": "Bob", "password": goodPassword}, 410).wantProblem(t, 410, "expired")
	for range 2 {
		if r := post(s.tenant, "/v1/invitations/ask-renewal", "", map[string]any{"token": s.token(late)}, 200); r.value(t, "asked") != true {
			t.Errorf("asked: %s", r.body)
		}
	}
	if n := read[int](s, `SELECT count(*) FROM event WHERE type = 'invitation.renewal_asked'`); n != 1 {
		t.Errorf("the inviter was told %d times", n)
	}

	// The way to a password.
	var asked []string
	for _, who := range []string{"ann@client.example", "nobody@client.example"} {
		asked = append(asked, post(s.tenant, "/v1/passwords/reset", newID(), map[string]any{"identifier": who, "invitation_token": token}, 202).body)
	}
	if asked[0] != asked[1] || !strings.Contains(asked[0], "true") {
		t.Errorf("answers are %q", asked)
	}
	ann, err := s.roster.Account(t.Context(), s.app.ID, id(account))
	if err != nil {
		t.Fatal(err)
	}
	link := s.passwordToken(ann)
	const another = "battery staple correct"
	post(other, "/v1/passwords", "", map[string]any{"token": link, "password": another}, 404).wantProblem(t, 404, "link_dead")
	post(s.tenant, "/v1/passwords", "", map[string]any{"token": link, "password": "short"}, 422).wantProblem(t, 422, "password_too_short")
	for range 2 {
		if r := post(s.tenant, "/v1/passwords", "p", map[string]any{"token": link, "password": another}, 200); r.text(t, "id") != account {
			t.Errorf("set: %s", r.body)
		}
	}
	post(s.tenant, "/v1/passwords", "", map[string]any{"token": link, "password": another}, 404).wantProblem(t, 404, "link_dead")
	post(s.tenant, "/v1/sessions", "", map[string]any{"identifier": "ann@client.example", "password": another}, 200)
}
