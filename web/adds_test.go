package web

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"usher/internal/roster"
)

// makes creates something by the API and gives its id.
func (s *site) makes(path, body string) string {
	s.t.Helper()
	r := s.api(s.tenant, call{method: http.MethodPost, path: path, body: body})
	if r.StatusCode != 201 {
		s.t.Fatalf("%s: %d %s", path, r.StatusCode, r.body)
	}
	return r.text(s.t, "id")
}

// account makes an account of the tenant.
func (s *site) account(kind, name, email string) string {
	s.t.Helper()
	return s.makes("/v1/accounts", fmt.Sprintf(`{"kind":%q,"full_name":%q,"email":%q}`, kind, name, email))
}

// colleague makes a member of the tenant's company.
func (s *site) colleague(name, email string) string {
	s.t.Helper()
	account := s.account(roster.Professional, name, email)
	r := s.api(s.tenant, call{method: http.MethodPost, path: "/v1/companies/" + s.company.ID.String() + "/members", body: `{"account_id":"` + account + `","role":"member"}`})
	if r.StatusCode != 200 {
		s.t.Fatalf("%d %s", r.StatusCode, r.body)
	}
	return account
}

// file makes a workspace of the tenant's professional.
func (s *site) file(name string) string {
	s.t.Helper()
	return s.makes("/v1/workspaces", fmt.Sprintf(`{"company_id":%q,"name":%q,"owner_id":%q}`, s.company.ID, name, s.actor.ID))
}

// as is a call that another account makes.
func as(account string, c call) call {
	c.header = map[string]string{"Usher-Actor": account}
	return c
}

func post(path, body string) call { return call{method: http.MethodPost, path: path, body: body} }

func get(path string) call { return call{method: http.MethodGet, path: path} }

// created is a call that must make something new.
func (s *site) created(c call) reply {
	s.t.Helper()
	r := s.api(s.tenant, c)
	if r.StatusCode != 201 {
		s.t.Fatalf("%s: %d %s", c.path, r.StatusCode, r.body)
	}
	return r
}

// answered is a call that must be a success with nothing new.
func (s *site) answered(c call) reply {
	s.t.Helper()
	r := s.api(s.tenant, c)
	if r.StatusCode != 200 {
		s.t.Fatalf("%s: %d %s", c.path, r.StatusCode, r.body)
	}
	return r
}

// inbox lists an account's items.
func (s *site) inbox(account, query string) []notificationBody {
	s.t.Helper()
	var page list[notificationBody]
	if err := json.Unmarshal([]byte(s.answered(as(account, get("/v1/notifications?"+query))).body), &page); err != nil {
		s.t.Fatal(err)
	}
	return page.Items
}

// external is a good request to invite somebody from outside.
func (s *site) external(email string, fields map[string]any) call {
	body := map[string]any{"kind": "external_professional", "full_name": nil, "email": email, "warning": map[string]any{"acknowledged": true}}
	for name, value := range fields {
		body[name] = value
	}
	return post("/v1/invitations", invitationJSON(s.tenant, body))
}

// adding is a request to add an account to the tenant's workspace.
func (s *site) adding(kind, account string, fields map[string]any) call {
	body := map[string]any{"kind": kind, "account_id": account, "email": nil, "full_name": nil}
	for name, value := range fields {
		body[name] = value
	}
	return post("/v1/invitations", invitationJSON(s.tenant, body))
}

// memberList is the answer that lists a workspace's members.
func (s *site) memberList(workspace string) string {
	s.t.Helper()
	return s.answered(get("/v1/workspaces/" + workspace + "/members")).body
}

// TestF2: adding a colleague and inviting an external professional are two
// distinct actions, and each tells when the other was meant.
func TestF2(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	cleo := s.colleague("Cleo League", "cleo@kindred.example")
	olga := s.account(roster.Professional, "Olga Other", "olga@elsewhere.example")
	s.api(s.tenant, s.external("cleo@kindred.example", nil)).wantProblem(t, 409, "use_colleague")
	s.api(s.tenant, s.adding("colleague", olga, nil)).wantProblem(t, 409, "not_a_colleague")

	r := s.created(s.adding("colleague", cleo, map[string]any{"visibility": "standard"}))
	if r.text(t, "state") != "accepted" || r.text(t, "link") != "" || r.text(t, "delivery") != "none" || r.text(t, "account_id") != cleo ||
		!strings.Contains(r.body, `"membership":{"role":"stakeholder","visibility":"standard","state":"active"}`) {
		t.Errorf("added: %s", r.body)
	}
	if !strings.Contains(s.memberList(s.workspace.ID.String()), cleo) {
		t.Error("the colleague is no member at once")
	}
	r = s.created(s.external("olga@elsewhere.example", nil))
	if r.text(t, "state") != "pending" || strings.Contains(s.memberList(s.workspace.ID.String()), olga) {
		t.Errorf("an external professional is in without approval: %s", r.body)
	}

	s.api(s.tenant, s.adding("colleague", cleo, map[string]any{"email": "x@y.example"})).wantProblem(t, 422, "email_unwanted")
	s.api(s.tenant, s.adding("colleague", cleo, map[string]any{"account_id": nil})).wantProblem(t, 422, "account_missing")
	s.api(s.tenant, s.adding("new_user", cleo, nil)).wantProblem(t, 422, "account_unwanted")
	s.api(s.tenant, post("/v1/invitations", invitationJSON(s.tenant, map[string]any{"origin_workspace_id": s.workspace.ID.String()}))).wantProblem(t, 422, "origin_unwanted")
	s.api(s.tenant, post("/v1/invitations", invitationJSON(s.tenant, map[string]any{"warning": map[string]any{"acknowledged": true}}))).wantProblem(t, 422, "warning_unwanted")
	if r := s.answered(s.adding("colleague", cleo, nil)); r.value(t, "already_member") != true || r.text(t, "account_id") != cleo {
		t.Errorf("added again: %s", r.body)
	}
}

// TestF4: one colleague is added to many files in one call, with an outcome for
// each, and once however often it is sent.
func TestF4(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	other := s.newTenant("Other")
	cleo := s.colleague("Cleo League", "cleo@kindred.example")
	var files []string
	for i := range 40 {
		files = append(files, s.file(fmt.Sprintf("File %d", i)))
	}
	s.exec(`UPDATE workspace SET state = 'archived' WHERE id = $1`, files[7])
	s.created(s.adding("colleague", cleo, map[string]any{"workspace_id": files[3]}))
	all := append(slices.Clone(files), other.workspace.ID.String(), files[0])
	body, err := json.Marshal(map[string]any{"workspace_ids": all, "visibility": "basic"})
	if err != nil {
		t.Fatal(err)
	}
	add := post("/v1/accounts/"+cleo+"/workspaces", string(body))
	var answer addedRows
	if err := json.Unmarshal([]byte(s.answered(add).body), &answer); err != nil {
		t.Fatal(err)
	}
	if answer.Added != 38 || len(answer.Items) != len(all) {
		t.Fatalf("%d of %d were added", answer.Added, len(answer.Items))
	}
	for i, row := range answer.Items {
		want, code := "added", ""
		switch i {
		case 3, 41:
			want = "already_member"
		case 7:
			want, code = "refused", "workspace_archived"
		case 40:
			want, code = "refused", "workspace_not_found"
		}
		if row.WorkspaceID != all[i] || row.Outcome != want || row.Code != code || (row.InvitationID != "") != (want == "added") {
			t.Errorf("row %d: %+v, want %s %s", i, row, want, code)
		}
	}
	if n := read[int](s, `SELECT count(*) FROM membership WHERE account_id = $1 AND visibility = 'basic' AND role = 'stakeholder'`, cleo); n != 38 {
		t.Errorf("%d memberships of that visibility, want 38", n)
	}
	if n := read[int](s, `SELECT count(*) FROM river_job WHERE kind = 'notify_workspace' AND args->>'account_id' = $1`, cleo); n != 2 {
		t.Errorf("%d jobs to tell one person of two calls", n)
	}
	if n := read[int](s, `SELECT count(*) FROM message`); n != 0 {
		t.Errorf("%d mails", n)
	}
	if again := s.answered(add); again.value(t, "added") != 0.0 || strings.Contains(again.body, `"outcome":"added"`) {
		t.Errorf("again: %s", again.body)
	}
	s.api(s.tenant, post("/v1/accounts/"+cleo+"/workspaces", `{"workspace_ids":[]}`)).wantProblem(t, 422, "validation_failed")
	s.api(s.tenant, post("/v1/accounts/"+other.actor.ID.String()+"/workspaces", string(body))).wantProblem(t, 404, "account_not_found")
}

// TestF5: an external professional is invited only by who ticked the warning,
// and the proof of it is kept: who, when, which text.
func TestF5(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	before := s.everything()
	for _, warning := range []any{nil, map[string]any{"acknowledged": false}, map[string]any{"acknowledged": false, "text": "Read."}} {
		s.api(s.tenant, s.external("pro@elsewhere.example", map[string]any{"warning": warning})).wantProblem(t, 422, "warning_not_acknowledged")
	}
	if after := s.everything(); after != before {
		t.Errorf("a refusal changed:\n%s", changed(before, after))
	}
	texts := map[string]bool{}
	for _, locale := range []string{"en", "fr", "es-MX"} {
		shown := s.answered(get("/v1/warnings/external-professional?locale=" + locale))
		texts[shown.text(t, "text")] = true
		if shown.text(t, "locale") != locale[:2] {
			t.Errorf("%s: %s", locale, shown.body)
		}
		r := s.created(s.external(locale+"@elsewhere.example", map[string]any{"warning": map[string]any{"acknowledged": true, "locale": locale}}))
		proof, _ := s.answered(get("/v1/invitations/"+r.text(t, "id"))).value(t, "warning").(map[string]any)
		if proof["text"] != shown.text(t, "text") || proof["acknowledged_by"] != s.actor.ID.String() || proof["acknowledged_at"] != r.text(t, "created_at") {
			t.Errorf("%s: the proof is %v", locale, proof)
		}
	}
	if len(texts) != 3 || texts[""] {
		t.Errorf("texts: %v", texts)
	}
	r := s.created(s.external("own@elsewhere.example", map[string]any{"warning": map[string]any{"acknowledged": true, "text": "Our own words."}}))
	s.answered(post("/v1/invitations/"+r.text(t, "id")+"/revoke", ""))
	proof, _ := s.answered(get("/v1/invitations/"+r.text(t, "id"))).value(t, "warning").(map[string]any)
	if proof["text"] != "Our own words." {
		t.Errorf("the proof is %v", proof)
	}
}

// TestF6: an external professional without an account signs up by the mail's
// link, and the invitation waits for their approval; one with an account approves
// in the app.
func TestF6(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	inv := s.created(s.external("pro@elsewhere.example", map[string]any{"visibility": "basic"}))
	path := strings.TrimPrefix(inv.text(t, "link"), s.base)
	b := s.browser()
	if p := b.get(path); p.StatusCode != 200 || !slices.Equal(p.forms(), []string{"sign-up", "decline"}) {
		t.Fatalf("the link shows %d with forms %q", p.StatusCode, p.forms())
	}
	form := url.Values{"full_name": {"Pro Fessional"}, "password": {goodPassword}}
	state := func() string { return s.answered(get("/v1/invitations/"+inv.text(t, "id"))).text(t, "state") }
	if p := b.post(path+"/accept", form); !slices.Equal(p.forms(), []string{"sign-up", "decline"}) || state() != "pending" {
		t.Errorf("approving without an account shows forms %q", p.forms())
	}
	if p := b.post(path+"/sign-up", url.Values{"full_name": {""}, "password": {goodPassword}}); p.StatusCode != 422 {
		t.Errorf("signing up without a name: %d", p.StatusCode)
	}
	if p := b.post(path+"/sign-up", form); p.StatusCode != 200 || !slices.Contains(p.forms(), "approve") || !slices.Contains(p.forms(), "decline") || state() != "pending" {
		t.Errorf("after signing up: %d with forms %q, and the invitation is %s", p.StatusCode, p.forms(), state())
	}
	pro := read[string](s, `SELECT id::text FROM account WHERE email_key = 'pro@elsewhere.example' AND kind = 'professional' AND status = 'active'`)
	items := s.inbox(pro, "action=open")
	if len(items) != 1 || items[0].Invitation.Kind != "external_professional" || items[0].Invitation.CompanyName != "Acme Therapy" {
		t.Fatalf("the inbox has %+v", items)
	}
	if r := s.answered(as(pro, post("/v1/notifications/"+items[0].ID+"/approve", ""))); !strings.Contains(r.body, `"state":"accepted"`) || strings.Contains(r.body, `"link"`) {
		t.Errorf("approved: %s", r.body)
	}
	if n := read[int](s, `SELECT count(*) FROM membership WHERE account_id = $1 AND role = 'stakeholder' AND visibility = 'basic' AND state = 'active'`, pro); n != 1 {
		t.Errorf("%d memberships after the approval", n)
	}
	if p := s.browser().post(path+"/sign-up", form); p.StatusCode == 200 && len(p.forms()) > 0 {
		t.Errorf("an accepted invitation's link still has the forms %q", p.forms())
	}
}

// TestF7: the inbox lists oldest to newest, and what is not needed is put away.
func TestF7(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	olga := s.account(roster.Professional, "Olga Other", "olga@elsewhere.example")
	var want []string
	for i := range 5 {
		name := fmt.Sprintf("File %d", i)
		s.created(s.external("olga@elsewhere.example", map[string]any{"workspace_id": s.file(name)}))
		want = append(want, name)
	}
	names := func(query string) (names []string) {
		for _, item := range s.inbox(olga, query) {
			names = append(names, item.Workspaces[0].Name)
		}
		return names
	}
	if have := names(""); !slices.Equal(have, want) {
		t.Errorf("the inbox lists %q, want %q", have, want)
	}
	items := s.inbox(olga, "")
	s.answered(as(olga, post("/v1/notifications/"+items[0].ID+"/read", "")))
	s.answered(as(olga, post("/v1/notifications/"+items[2].ID+"/archive", "")))
	for query, want := range map[string][]string{
		"":                             {want[0], want[1], want[3], want[4]},
		"order=desc":                   {want[4], want[3], want[1], want[0]},
		"unread_first=true":            {want[1], want[3], want[4], want[0]},
		"unread_first=true&order=desc": {want[4], want[3], want[1], want[0]},
		"view=archived":                {want[2]},
		"view=unread":                  {want[1], want[3], want[4]},
		"action=open":                  want, // put away is not decided
		"action=done":                  nil,
	} {
		if have := names(query); !slices.Equal(have, want) {
			t.Errorf("%s lists %q, want %q", query, have, want)
		}
	}
	header := map[string]string{"Usher-Actor": olga}
	for _, query := range []string{"unread_first=true", "order=desc", "action=open"} {
		var have []string
		after := ""
		for range 10 {
			c := get("/v1/notifications?limit=2&" + query + after)
			c.header = header
			r := s.answered(c)
			var page list[notificationBody]
			if err := json.Unmarshal([]byte(r.body), &page); err != nil {
				t.Fatal(err)
			}
			for _, item := range page.Items {
				have = append(have, item.Workspaces[0].Name)
			}
			if page.Next == "" {
				break
			}
			after = "&after=" + page.Next
		}
		if want := names(query); !slices.Equal(have, want) {
			t.Errorf("%s in pages: %q, want %q", query, have, want)
		}
	}
	s.answered(as(olga, post("/v1/notifications/"+items[2].ID+"/unarchive", "")))
	s.answered(as(olga, post("/v1/notifications/"+items[2].ID+"/decline", "")))
	if r := s.answered(as(olga, post("/v1/notifications/archive", `{"action":"done"}`))); r.value(t, "archived") != 1.0 {
		t.Errorf("archived by filter: %s", r.body)
	}
	if r := s.answered(as(olga, post("/v1/notifications/archive", `{}`))); r.value(t, "archived") != 4.0 || len(names("")) != 0 || len(names("action=open")) != 4 {
		t.Errorf("archived the rest: %s, and %q are left", r.body, names(""))
	}
	s.api(s.tenant, as(s.actor.ID.String(), post("/v1/notifications/"+items[0].ID+"/archive", ""))).wantProblem(t, 404, "notification_not_found")
}

// TestW5: an existing user is picked from another workspace of the actor, only if
// active, and the answer is the confirmation.
func TestW5(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	inv := s.invite(s.tenant, "ann@client.example")
	accepted, _, err := s.roster.AcceptInvitation(t.Context(), inv.Ticket(), roster.Acceptance{FullName: "Ann Okafor", PasswordHash: "x"})
	if err != nil {
		t.Fatal(err)
	}
	ann := accepted.AccountID.String()
	private := s.file("Ann Okafor - Private")
	pick := func(fields map[string]any) call {
		all := map[string]any{"workspace_id": private, "origin_workspace_id": s.workspace.ID.String()}
		for name, value := range fields {
			all[name] = value
		}
		return s.adding("existing_user", ann, all)
	}
	s.api(s.tenant, pick(map[string]any{"origin_workspace_id": nil})).wantProblem(t, 422, "origin_missing")
	s.api(s.tenant, pick(map[string]any{"origin_workspace_id": s.file("Empty")})).wantProblem(t, 409, "not_in_origin")
	invited := s.account(roster.Client, "Not Yet", "notyet@client.example")
	s.exec(`UPDATE account SET status = 'invited' WHERE id = $1`, invited)
	s.api(s.tenant, pick(map[string]any{"account_id": invited})).wantProblem(t, 409, "account_not_active")
	s.api(s.tenant, as(s.colleague("Cleo League", "cleo@kindred.example"), pick(nil))).wantProblem(t, 403, "actor_not_allowed")

	mails := read[int](s, `SELECT count(*) FROM message`)
	r := s.created(pick(nil))
	if r.text(t, "state") != "accepted" || r.text(t, "account_id") != ann || r.text(t, "full_name") != "Ann Okafor" || r.text(t, "email") != "ann@client.example" ||
		r.text(t, "workspace_name") != "Ann Okafor - Private" || r.text(t, "origin_workspace_name") != s.workspace.Name || r.text(t, "origin_workspace_id") != s.workspace.ID.String() ||
		!strings.Contains(r.body, `"membership":{"role":"client_user","visibility":"full","state":"active"}`) || r.text(t, "expires_at") != "" {
		t.Errorf("the confirmation is %s", r.body)
	}
	if !strings.Contains(s.memberList(private), ann) {
		t.Errorf("members are %s", s.memberList(private))
	}
	if n := read[int](s, `SELECT count(*) FROM message`); n != mails {
		t.Errorf("%d mails were asked for", n-mails)
	}
	if r := s.answered(pick(nil)); r.value(t, "already_member") != true {
		t.Errorf("again: %s", r.body)
	}
}

// TestCase5: the app approves and the link declines at once: the first wins, and
// the second is told the decision.
func TestCase5(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	olga := s.account(roster.Professional, "Olga Other", "olga@elsewhere.example")
	for round := range 12 {
		inv := s.created(s.external("olga@elsewhere.example", map[string]any{"workspace_id": s.file("File")}))
		items := s.inbox(olga, "action=open")
		approve := as(olga, post("/v1/notifications/"+items[len(items)-1].ID+"/approve", ""))
		var link sheet
		done := make(chan struct{})
		go func() {
			defer close(done)
			link = s.browser().post(strings.TrimPrefix(inv.text(t, "link"), s.base)+"/decline", url.Values{})
		}()
		if round%3 == 0 { // so that each wins for certain
			<-done
		}
		app := s.api(s.tenant, approve)
		<-done
		state := s.answered(get("/v1/invitations/"+inv.text(t, "id"))).text(t, "state")
		switch {
		case app.StatusCode == 200 && state == "accepted":
			if link.StatusCode == 200 && strings.Contains(link.body, "You have declined") {
				t.Errorf("both won: %s", link.body)
			}
		case app.StatusCode == 409 && state == "declined":
			if app.text(t, "state") != "declined" || app.text(t, "decided_at") == "" || app.text(t, "code") != "already_declined" {
				t.Errorf("the loser is told %s", app.body)
			}
		default:
			t.Errorf("the app got %d, the link %d, the invitation is %s", app.StatusCode, link.StatusCode, state)
		}
	}
}

// TestCase6: whatever is added or decided by a retried request happens once.
func TestCase6(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	cleo := s.colleague("Cleo League", "cleo@kindred.example")
	add := s.adding("colleague", cleo, nil)
	add.header = map[string]string{"Idempotency-Key": "add-cleo"}
	first := s.created(add)
	if again := s.created(add); again.body != first.body {
		t.Errorf("again: %s, first %s", again.body, first.body)
	}
	if n := read[int](s, `SELECT count(*) FROM invitation`); n != 1 {
		t.Errorf("%d invitations", n)
	}
}

// TestCase9: who is in the workspace is answered as a member, and nothing is
// sent or noted.
func TestCase9(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	olga := s.account(roster.Professional, "Olga Other", "olga@elsewhere.example")
	s.created(s.external("olga@elsewhere.example", nil))
	s.answered(as(olga, post("/v1/notifications/"+s.inbox(olga, "")[0].ID+"/approve", "")))
	before := s.everything()
	if r := s.answered(s.external("Olga@Elsewhere.example", nil)); r.value(t, "already_member") != true || r.text(t, "account_id") != olga || r.text(t, "id") != "" {
		t.Errorf("a member is answered with %s", r.body)
	}
	if after := s.everything(); after != before {
		t.Errorf("changed:\n%s", changed(before, after))
	}
}

// TestCase12: acceptance from the inbox and revocation at once: if the acceptance
// won, the revocation hears of it.
func TestCase12(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	olga := s.account(roster.Professional, "Olga Other", "olga@elsewhere.example")
	for round := range 12 {
		inv := s.created(s.external("olga@elsewhere.example", map[string]any{"workspace_id": s.file("File")})).text(t, "id")
		items := s.inbox(olga, "action=open")
		var approved reply
		done := make(chan struct{})
		go func() {
			defer close(done)
			approved = s.api(s.tenant, as(olga, post("/v1/notifications/"+items[len(items)-1].ID+"/approve", "")))
		}()
		if round%3 == 0 {
			<-done
		}
		revoked := s.api(s.tenant, post("/v1/invitations/"+inv+"/revoke", ""))
		<-done
		if approved.StatusCode == 200 {
			revoked.wantProblem(t, 409, "already_accepted")
		} else {
			approved.wantProblem(t, 409, "already_revoked")
			if revoked.StatusCode != 200 {
				t.Errorf("nobody won: %d %s", revoked.StatusCode, revoked.body)
			}
		}
	}
}

// TestCase15: the same decision again is a success that doubles nothing.
func TestCase15(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	olga := s.account(roster.Professional, "Olga Other", "olga@elsewhere.example")
	s.created(s.external("olga@elsewhere.example", map[string]any{"visibility": "basic"}))
	approve := as(olga, post("/v1/notifications/"+s.inbox(olga, "")[0].ID+"/approve", ""))
	first := s.answered(approve)
	before := s.everything()
	if again := s.answered(approve); again.body != first.body {
		t.Errorf("again: %s, first %s", again.body, first.body)
	}
	if after := s.everything(); after != before {
		t.Errorf("changed:\n%s", changed(before, after))
	}
	s.api(s.tenant, as(olga, post("/v1/notifications/"+s.inbox(olga, "")[0].ID+"/decline", ""))).wantProblem(t, 409, "already_accepted")
	if n := read[int](s, `SELECT count(*) FROM membership WHERE account_id = $1 AND role = 'stakeholder' AND visibility = 'basic'`, olga); n != 1 {
		t.Errorf("%d memberships", n)
	}
}

// TestCase16: who registers by another path while an invitation is open finds it
// in the inbox, not accepted.
func TestCase16(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	inv := s.created(post("/v1/invitations", invitationJSON(s.tenant, nil))).text(t, "id")
	s.created(post("/v1/invitations", invitationJSON(s.newTenant("Other"), map[string]any{"workspace_id": s.file("Another")})))
	ann := s.account(roster.Client, "Ann Okafor", "Ann@Client.example")
	items := s.inbox(ann, "action=open")
	if len(items) != 2 || items[0].Invitation.ID != inv || items[0].View != "unread" || items[0].Invitation.InviterName != s.actor.FullName {
		t.Errorf("the inbox has %+v", items)
	}
	if state := s.answered(get("/v1/invitations/"+inv)).text(t, "state"); state != "pending" || strings.Contains(s.memberList(s.workspace.ID.String()), ann) {
		t.Errorf("the invitation is %s", state)
	}
	s.pass(15 * 24 * time.Hour)
	s.api(s.tenant, as(ann, post("/v1/notifications/"+items[0].ID+"/approve", ""))).wantProblem(t, 410, "expired")
	if items := s.inbox(ann, ""); items[0].Action != "expired" {
		t.Errorf("the item is %+v", items[0])
	}
}
