package web

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
)

// person adds an account to the tenant over the API.
func (s *site) person(kind, name, email string) string {
	s.t.Helper()
	return s.want(call{method: http.MethodPost, path: "/v1/accounts", body: fmt.Sprintf(`{"kind":%q,"full_name":%q,"email":%q}`, kind, name, email)}, 201).text(s.t, "id")
}

// want sends a call of the tenant's and ends the test where it is answered
// otherwise.
func (s *site) want(c call, status int) reply {
	s.t.Helper()
	r := s.api(s.tenant, c)
	if r.StatusCode != status {
		s.t.Fatalf("%s %s: %d %s, want %d", c.method, c.path, r.StatusCode, r.body, status)
	}
	return r
}

// items reads one field of each row of a list.
func (s *site) items(path, field string) (values []string) {
	s.t.Helper()
	r := s.want(call{method: http.MethodGet, path: path}, 200)
	var page list[map[string]any]
	if err := json.Unmarshal([]byte(r.body), &page); err != nil {
		s.t.Fatal(err)
	}
	for _, row := range page.Items {
		values = append(values, fmt.Sprint(row[field]))
	}
	return values
}

// F1: many stakeholders on one file, each with a visibility of their own, which
// also says what they may decide.
func TestF1(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	members := "/v1/workspaces/" + s.workspace.ID.String() + "/members"
	ids := map[string]string{}
	for _, v := range []string{"basic", "standard", "full"} {
		ids[v] = s.person("professional", "Pro "+v, v+"@kindred.example")
		s.want(post("/v1/companies/"+s.company.ID.String()+"/members", `{"account_id":"`+ids[v]+`","role":"member"}`), 200)
		s.want(post("/v1/invitations", fmt.Sprintf(`{"kind":"colleague","account_id":%q,"workspace_id":%q}`, ids[v], s.workspace.ID)), 201)
		s.want(post(members+"/"+ids[v], fmt.Sprintf(`{"visibility":%q}`, v)), 200)
	}
	if got := s.items(members, "visibility"); len(got) != 4 || !slices.Contains(got, "basic") || !slices.Contains(got, "standard") {
		t.Errorf("visibilities are %q", got)
	}
	for _, v := range []string{"basic", "standard"} { // they cannot give themselves more
		s.api(s.tenant, as(ids[v], post(members+"/"+ids[v], `{"visibility":"full"}`))).wantProblem(t, 403, "actor_not_allowed")
	}
	s.want(as(ids["full"], post(members+"/"+ids["basic"], `{"visibility":"standard"}`)), 200)
}

// F3: the first letters of a name list matching colleagues, and one who is
// chosen is a stakeholder at once.
func TestF3(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	company := s.company.ID.String()
	for name, email := range map[string]string{"Zoë Lindqvist": "zoe@kindred.example", "Zora Martin": "zora@kindred.example"} {
		s.want(post("/v1/companies/"+company+"/members", `{"account_id":"`+s.person("professional", name, email)+`","role":"member"}`), 200)
	}
	s.person("professional", "Zoe Elsewhere", "zoe@elsewhere.example") // of another company
	s.person("client", "Zoe Client", "zoe@client.example")
	for query, want := range map[string][]string{
		"zo": {"Zora Martin", "Zoë Lindqvist"}, "zoe": {"Zoë Lindqvist"}, "LIND z": {"Zoë Lindqvist"}, "zora@k": {"Zora Martin"}, "zo%": nil, "zx": nil,
	} {
		got := s.items("/v1/accounts?company_id="+company+"&query="+url.QueryEscape(query), "full_name")
		slices.Sort(got)
		if !slices.Equal(got, want) {
			t.Errorf("%q finds %q, want %q", query, got, want)
		}
	}
	chosen := s.items("/v1/accounts?company_id="+company+"&query=zoe", "id")[0]
	s.want(post("/v1/invitations", fmt.Sprintf(`{"kind":"colleague","account_id":%q,"workspace_id":%q}`, chosen, s.workspace.ID)), 201)
	r := s.want(call{method: http.MethodGet, path: "/v1/workspaces/" + s.workspace.ID.String() + "/members"}, 200)
	if !strings.Contains(r.body, chosen) || strings.Count(r.body, `"role":"stakeholder"`) != 2 || !strings.Contains(r.body, `"added_by":"`+s.actor.ID.String()) {
		t.Errorf("members are %s", r.body)
	}
	s.want(as(chosen, post("/v1/workspaces/"+s.workspace.ID.String(), `{"name":"Renamed"}`)), 200) // and may act
}

// F8: a company's admin sees all its files and joins one with one call.
func TestF8(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	company, file := s.company.ID.String(), s.workspace.ID.String()
	admin := s.person("professional", "Ada Admin", "ada@kindred.example")
	all := call{method: http.MethodGet, path: "/v1/companies/" + company + "/workspaces"}
	join := post("/v1/workspaces/"+file+"/join", "")
	set := func(role string) {
		t.Helper()
		s.want(post("/v1/companies/"+company+"/members", `{"account_id":"`+admin+`","role":"`+role+`"}`), 200)
	}
	set("member")
	s.api(s.tenant, as(admin, all)).wantProblem(t, 403, "actor_not_allowed")
	s.api(s.tenant, as(admin, join)).wantProblem(t, 403, "actor_not_allowed")
	set("admin")
	if r := s.want(as(admin, all), 200); !strings.Contains(r.body, file) || !strings.Contains(r.body, `"joined":false`) {
		t.Errorf("all files are %s", r.body)
	}
	if r := s.want(as(admin, join), 200); r.value(t, "already_member") != nil || r.text(t, "role") != "stakeholder" || r.text(t, "visibility") != "full" {
		t.Errorf("joined: %s", r.body)
	}
	if r := s.want(as(admin, join), 200); r.value(t, "already_member") != true {
		t.Errorf("joined again: %s", r.body)
	}
	if r := s.want(as(admin, all), 200); !strings.Contains(r.body, `"joined":true`) {
		t.Errorf("all files are %s", r.body)
	}
	if got := s.items("/v1/accounts/"+admin+"/workspaces", "workspace_id"); !slices.Equal(got, []string{file}) {
		t.Errorf("the admin's workspaces are %q", got)
	}
	if n := read[int](s, `SELECT count(*) FROM membership WHERE account_id = $1`, admin); n != 1 {
		t.Errorf("%d memberships", n)
	}
	s.want(post("/v1/workspaces/"+file+"/archive", ""), 200)
	s.api(s.tenant, as(admin, join)).wantProblem(t, 409, "workspace_archived")
}

// F9: a stakeholder is archived, and after that deleted.
func TestF9(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	file := "/v1/workspaces/" + s.workspace.ID.String()
	sue := s.person("professional", "Sue Second", "sue@kindred.example")
	s.want(post("/v1/companies/"+s.company.ID.String()+"/members", `{"account_id":"`+sue+`","role":"admin"}`), 200)
	s.want(as(sue, post(file+"/join", "")), 200)
	s.want(post("/v1/companies/"+s.company.ID.String()+"/members", `{"account_id":"`+sue+`","role":"member"}`), 200)
	member := file + "/members/" + sue
	remove := call{method: http.MethodDelete, path: member}
	s.api(s.tenant, remove).wantProblem(t, 409, "member_not_archived")
	for range 2 {
		if r := s.want(post(member+"/archive", ""), 200); r.text(t, "state") != "archived" {
			t.Errorf("archived: %s", r.body)
		}
	}
	s.api(s.tenant, as(sue, post("/v1/invitations", invitationJSON(s.tenant, nil)))).wantProblem(t, 403, "actor_not_allowed")
	s.api(s.tenant, as(sue, post(file, `{"name":"Mine"}`))).wantProblem(t, 403, "actor_not_allowed")
	if got := s.items("/v1/accounts/"+sue+"/workspaces", "workspace_id"); len(got) != 0 {
		t.Errorf("she still sees %q", got)
	}
	if got := s.items(file+"/members", "state"); len(got) != 2 || !slices.Contains(got, "archived") {
		t.Errorf("members are %q", got)
	}
	s.want(remove, 200)
	s.api(s.tenant, remove).wantProblem(t, 404, "member_not_found")
	if got := s.items(file+"/members", "account_id"); !slices.Equal(got, []string{s.actor.ID.String()}) {
		t.Errorf("members are %q", got)
	}
	s.api(s.tenant, post(file+"/members/"+s.actor.ID.String()+"/archive", "")).wantProblem(t, 409, "last_stakeholder")
}

// W3: an invitation shows at once in the list of client users, as pending.
func TestW3(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	users := "/v1/workspaces/" + s.workspace.ID.String() + "/client-users"
	if got := s.items(users, "state"); len(got) != 0 {
		t.Errorf("client users are %q", got)
	}
	r := s.want(post("/v1/invitations", invitationJSON(s.tenant, map[string]any{"full_name": "Ann Okafor"})), 201)
	if got := s.items(users, "state"); !slices.Equal(got, []string{"pending"}) || !slices.Equal(s.items(users, "invitation_id"), []string{r.text(t, "id")}) ||
		!slices.Equal(s.items(users, "full_name"), []string{"Ann Okafor"}) {
		t.Errorf("client users are %q", got)
	}
	s.browser().post(strings.TrimPrefix(r.text(t, "link"), s.base)+"/accept", newAccountForm())
	if got := s.items(users, "state"); !slices.Equal(got, []string{"active"}) || s.items(users, "account_id")[0] == "" {
		t.Errorf("client users are %q", got)
	}
}

// Hard case 10: the link of somebody who was removed leads nowhere, and brings
// nobody back.
func TestCase10(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	inv := s.invite(s.tenant, "ann@client.example")
	link := "/i/" + s.token(inv)
	s.browser().post(link+"/accept", newAccountForm())
	account := read[string](s, `SELECT account_id::text FROM invitation WHERE id = $1`, inv.ID)
	member := "/v1/workspaces/" + s.workspace.ID.String() + "/members/" + account
	for _, removal := range []call{post(member+"/archive", ""), {method: http.MethodDelete, path: member}} {
		s.want(removal, 200)
		before := s.everything()
		b := s.browser()
		b.get(link).wantPage(t, 404, s.say("en", "dead_link.title"))
		b.post(link+"/accept", newAccountForm()).wantPage(t, 404, s.say("en", "dead_link.title"))
		if after := s.everything(); after != before {
			t.Errorf("the old link changed:\n%s", changed(before, after))
		}
	}
}

// Hard case 11: what is open when its workspace is archived is revoked with it.
func TestCase11(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	inv := s.invite(s.tenant, "ann@client.example")
	s.want(post("/v1/workspaces/"+s.workspace.ID.String()+"/archive", ""), 200)
	if r := s.want(call{method: http.MethodGet, path: "/v1/invitations/" + inv.ID.String()}, 200); r.text(t, "state") != "revoked" {
		t.Errorf("invitation is %s", r.body)
	}
	b := s.browser()
	b.get("/i/"+s.token(inv)).wantPage(t, 410, s.say("en", "revoked.title"))
	b.post("/i/"+s.token(inv)+"/accept", newAccountForm()).wantPage(t, 410, s.say("en", "revoked.title"))
	s.api(s.tenant, post("/v1/invitations/"+inv.ID.String()+"/reopen", "")).wantProblem(t, 409, "already_revoked")
	s.api(s.tenant, post("/v1/invitations", invitationJSON(s.tenant, nil))).wantProblem(t, 409, "workspace_archived")
}

// Hard case 7: two people of the company invite one address; the second gets
// the first's invitation.
func TestCase7(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	admin := s.person("professional", "Ada Admin", "ada@kindred.example")
	s.want(post("/v1/companies/"+s.company.ID.String()+"/members", `{"account_id":"`+admin+`","role":"admin"}`), 200)
	invite := post("/v1/invitations", invitationJSON(s.tenant, nil))
	first := s.want(invite, 201)
	second := s.want(as(admin, invite), 200)
	if second.text(t, "id") != first.text(t, "id") || second.value(t, "duplicate") != true || second.text(t, "inviter_id") != s.actor.ID.String() {
		t.Errorf("the second got %s", second.body)
	}
	if n := read[int](s, `SELECT count(*) FROM message`); n != 1 {
		t.Errorf("%d mails, want 1", n)
	}
}

// Whoever was invited by somebody who may no longer invite is told kindly, and
// joins with the same link once somebody stands behind it.
func TestHeldPage(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	sue := s.person("professional", "Sue Second", "sue@kindred.example")
	s.want(post("/v1/companies/"+s.company.ID.String()+"/members", `{"account_id":"`+sue+`","role":"admin"}`), 200)
	inv := s.invite(s.tenant, "ann@client.example")
	link := "/i/" + s.token(inv)
	s.want(as(sue, post("/v1/workspaces/"+s.workspace.ID.String()+"/members/"+s.actor.ID.String()+"/archive", "")), 200)
	b := s.browser()
	b.get(link).wantPage(t, 409, s.say("en", "waiting.title"))
	b.post(link+"/accept", newAccountForm()).wantPage(t, 409, s.say("en", "waiting.title"))
	one := "/v1/invitations/" + inv.ID.String()
	if r := s.want(call{method: http.MethodGet, path: one}, 200); r.text(t, "state") != "on_hold" || r.text(t, "held_for") != "inviter" {
		t.Errorf("invitation is %s", r.body)
	}
	s.api(s.tenant, as(sue, post(one+"/resend", ""))).wantProblem(t, 409, "inviter_gone")
	if r := s.want(as(sue, post(one+"/take-over", "")), 200); r.text(t, "state") != "pending" || r.text(t, "inviter_id") != sue {
		t.Errorf("taken over: %s", r.body)
	}
	b.post(link+"/accept", newAccountForm())
	if s.state(inv) != "accepted" || s.members(inv) != 1 {
		t.Errorf("the invitation is %s", s.state(inv))
	}
}

// W1: a client user is somebody new, by name and address, or somebody picked
// from another workspace.
func TestW1(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	users := "/v1/workspaces/" + s.workspace.ID.String() + "/client-users"
	invited := s.want(post("/v1/invitations", invitationJSON(s.tenant, map[string]any{"full_name": "Ann Okafor", "email": "ann@client.example"})), 201)
	s.api(s.tenant, post("/v1/invitations", invitationJSON(s.tenant, map[string]any{"full_name": "", "email": "new@client.example"}))).wantProblem(t, 422, "name_missing")
	s.browser().post(strings.TrimPrefix(invited.text(t, "link"), s.base)+"/accept", newAccountForm())
	ann := s.items(users, "account_id")[0]

	private := s.file("Ann Okafor - Private")
	s.want(post("/v1/invitations", fmt.Sprintf(`{"kind":"existing_user","account_id":%q,"workspace_id":%q,"origin_workspace_id":%q}`, ann, private, s.workspace.ID)), 201)
	if got := s.items("/v1/workspaces/"+private+"/client-users", "account_id"); !slices.Equal(got, []string{ann}) {
		t.Errorf("client users are %q, want %s", got, ann)
	}
}

// W4: a pending invitation's link is copied any number of times; it is the one
// that was mailed, goes on working, and is nobody else's.
func TestW4(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	mailed := s.want(post("/v1/invitations", invitationJSON(s.tenant, nil)), 201)
	other := s.want(post("/v1/invitations", invitationJSON(s.tenant, map[string]any{"email": "bob@client.example"})), 201)
	copyOf := func(r reply) string {
		return s.want(post("/v1/invitations/"+r.text(t, "id")+"/link", ""), 200).text(t, "link")
	}
	for range 5 {
		if got := copyOf(mailed); got != mailed.text(t, "link") {
			t.Fatalf("copied %s, mailed %s", got, mailed.text(t, "link"))
		}
	}
	if copyOf(other) == mailed.text(t, "link") {
		t.Error("two people have one link")
	}
	if got := s.items("/v1/workspaces/"+s.workspace.ID.String()+"/client-users", "state"); !slices.Equal(got, []string{"pending", "pending"}) {
		t.Errorf("client users are %q", got)
	}
	s.browser().post(strings.TrimPrefix(mailed.text(t, "link"), s.base)+"/accept", newAccountForm())
	s.api(s.tenant, post("/v1/invitations/"+mailed.text(t, "id")+"/link", "")).wantProblem(t, 409, "already_accepted")
}
