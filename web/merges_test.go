package web

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"usher/internal/roster"
)

// granted asks for access with a temporary account to the account of a client,
// who gives it. It answers the request, the client's account and the other.
func (s *site) granted(name, email, typed string) (request, own, temporary string) {
	s.t.Helper()
	own = s.person("client", name, email)
	request, temporary = s.temporaryOf(own, email, typed)
	return request, own, temporary
}

func (s *site) temporaryOf(own, email, typed string) (request, temporary string) {
	s.t.Helper()
	asked := s.want(requesting("request_with_temporary", email, typed), 201)
	made, _ := asked.value(s.t, "made_account").(map[string]any)
	request = asked.text(s.t, "id")
	s.want(as(own, post("/v1/access-requests/"+request+"/approve", `{"visibility":"standard"}`)), 200)
	return request, fmt.Sprint(made["id"])
}

// otherCompany is a professional of another company.
func (s *site) otherCompany() string {
	s.t.Helper()
	other := s.person("professional", "Otto Other", "otto@other.example")
	company := s.want(post("/v1/companies", `{"name":"Blue Hill"}`), 201).text(s.t, "id")
	s.want(post("/v1/companies/"+company+"/members", fmt.Sprintf(`{"account_id":%q,"role":"admin"}`, other)), 200)
	return other
}

// preview looks at the merge of what was made for a request.
func (s *site) preview(request string) reply {
	s.t.Helper()
	return s.want(post("/v1/merges/preview", fmt.Sprintf(`{"access_request_id":%q}`, request)), 200)
}

func (s *site) confirm(preview reply) reply {
	s.t.Helper()
	return s.want(post("/v1/merges/"+preview.text(s.t, "id")+"/confirm", fmt.Sprintf(`{"hash":%q}`, preview.text(s.t, "hash"))), 200)
}

// work does what a merge's job does.
func (s *site) work(merge reply, steps ...func(context.Context, uuid.UUID) (roster.Merge, error)) reply {
	s.t.Helper()
	if len(steps) == 0 {
		steps = append(steps, s.roster.BeginMerge, s.roster.MoveMerge, s.roster.FinishMerge)
	}
	for _, step := range steps {
		if _, err := step(s.t.Context(), id(merge.text(s.t, "id"))); err != nil {
			s.t.Fatal(err)
		}
	}
	return s.want(get("/v1/merges/"+merge.text(s.t, "id")), 200)
}

// R4, the second half: once the client approved, and only then, the professional
// can merge the two, and have it back.
func TestR4Merge(t *testing.T) {
	t.Parallel()
	s := accessSite(t)
	s.want(post("/v1/policies", `{"merge_undo_days":7}`), 200)
	own := s.person("client", "Ann Client", "ann@client.example")
	asked := s.want(requesting("request_with_temporary", "ann@client.example", "Ann Client"), 201)
	request := asked.text(t, "id")
	s.api(s.tenant, post("/v1/merges/preview", fmt.Sprintf(`{"access_request_id":%q}`, request))).wantProblem(t, 409, "not_granted")
	made, _ := asked.value(t, "made_account").(map[string]any)
	temporary := fmt.Sprint(made["id"])
	s.want(as(own, post("/v1/access-requests/"+request+"/approve", `{}`)), 200)
	for account, external := range map[string]string{own: "1", temporary: "2"} {
		s.want(post("/v1/accounts/"+account+"/records", fmt.Sprintf(`{"kind":"programme","external_id":%q}`, external)), 201)
	}
	preview := s.preview(request)
	if preview.text(t, "state") != "previewed" || !strings.Contains(preview.body, `"records":1`) || preview.text(t, "survivor_id") != own || preview.text(t, "absorbed_id") != temporary {
		t.Errorf("the preview is %s", preview.body)
	}
	s.api(s.tenant, post("/v1/merges/"+preview.text(t, "id")+"/undo", "")).wantProblem(t, 409, "merge_previewed")
	s.confirm(preview)
	s.confirm(preview) // and again
	merged := s.work(preview)
	if merged.text(t, "state") != "merged" || !strings.Contains(merged.body, `"undo_until"`) {
		t.Errorf("the merge is %s", merged.body)
	}
	for _, account := range []string{own, temporary} { // the old id leads there as well
		if r := s.want(get("/v1/accounts/"+account), 200); r.text(t, "id") != own {
			t.Errorf("the account %s is %s", account, r.body)
		}
		records := s.items("/v1/accounts/"+account+"/records", "external_id")
		slices.Sort(records)
		if !slices.Equal(records, []string{"1", "2"}) {
			t.Errorf("records are %q", records)
		}
	}
	s.want(post("/v1/merges/"+preview.text(t, "id")+"/undo", ""), 200)
	if r := s.work(preview, s.roster.RestoreMerge, s.roster.FinishUndo); r.text(t, "state") != "undone" {
		t.Errorf("after the undo it is %s", r.body)
	}
	if records := s.items("/v1/accounts/"+temporary+"/records", "external_id"); !slices.Equal(records, []string{"2"}) {
		t.Errorf("records of the temporary account are %q", records)
	}
	again := s.work(s.confirm(s.preview(request)))
	s.pass(7 * 24 * time.Hour)
	s.api(s.tenant, post("/v1/merges/"+again.text(t, "id")+"/undo", "")).wantProblem(t, 410, "undo_over")
}

// Who is not certain that it is one person says so first.
func TestMergeQuestion(t *testing.T) {
	t.Parallel()
	s := accessSite(t)
	request, _, _ := s.granted("Ann Client", "ann@client.example", "Ann Other")
	preview := s.preview(request)
	path := "/v1/merges/" + preview.text(t, "id")
	if preview.text(t, "state") != "needs_resolution" || !strings.Contains(preview.body, `"code":"same_person"`) {
		t.Errorf("the preview is %s", preview.body)
	}
	s.api(s.tenant, post(path+"/confirm", fmt.Sprintf(`{"hash":%q}`, preview.text(t, "hash")))).wantProblem(t, 409, "needs_resolution")
	if r := s.want(post(path+"/resolve", `{"same_person":true}`), 200); r.text(t, "state") != "previewed" {
		t.Errorf("resolved it is %s", r.body)
	}
	if r := s.want(post(path+"/resolve", `{"same_person":false}`), 200); r.text(t, "state") != "cancelled" || r.text(t, "reason") != "not_same_person" {
		t.Errorf("after a no it is %s", r.body)
	}
	s.api(s.tenant, post(path+"/resolve", `{"same_person":true}`)).wantProblem(t, 409, "merge_cancelled")
}

// Case 21: two professionals hold temporary accounts for one client. The merges
// come one after the other, and the second is looked at again.
func TestCase21(t *testing.T) {
	t.Parallel()
	s := accessSite(t)
	first, own, _ := s.granted("Ann Client", "ann@client.example", "Ann Client")
	other := s.otherCompany()
	asked := s.want(as(other, requesting("request_with_temporary", "ann@client.example", "Ann Client")), 201)
	s.want(as(own, post("/v1/access-requests/"+asked.text(t, "id")+"/approve", `{}`)), 200)
	second := s.want(as(other, post("/v1/merges/preview", fmt.Sprintf(`{"access_request_id":%q}`, asked.text(t, "id")))), 200)
	confirm := as(other, post("/v1/merges/"+second.text(t, "id")+"/confirm", fmt.Sprintf(`{"hash":%q}`, second.text(t, "hash"))))
	merge := s.confirm(s.preview(first))
	s.api(s.tenant, confirm).wantProblem(t, 409, "merge_running")
	s.work(merge)
	s.api(s.tenant, confirm).wantProblem(t, 409, "preview_changed")
	second = s.want(as(other, post("/v1/merges/preview", fmt.Sprintf(`{"access_request_id":%q}`, asked.text(t, "id")))), 200)
	s.want(as(other, post("/v1/merges/"+second.text(t, "id")+"/confirm", fmt.Sprintf(`{"hash":%q}`, second.text(t, "hash")))), 200)
	s.pass(time.Second)
	if r := s.work(second); r.text(t, "state") != "merged" {
		t.Errorf("the second is %s", r.body)
	}
	s.api(s.tenant, post("/v1/merges/"+merge.text(t, "id")+"/undo", "")).wantProblem(t, 409, "later_merge")
}

// Case 22: access is taken back between the approval and the merge. The merge is
// cancelled, and the temporary account stays.
func TestCase22(t *testing.T) {
	t.Parallel()
	for _, confirmed := range []bool{false, true} {
		t.Run(fmt.Sprintf("confirmed %t", confirmed), func(t *testing.T) {
			t.Parallel()
			s := accessSite(t)
			request, own, temporary := s.granted("Ann Client", "ann@client.example", "Ann Client")
			merge := s.preview(request)
			if confirmed {
				s.confirm(merge)
			}
			s.want(as(own, post("/v1/access-requests/"+request+"/revoke", "")), 200)
			if r := s.work(merge); r.text(t, "state") != "cancelled" || r.text(t, "reason") != "access_revoked" {
				t.Errorf("the merge is %s", r.body)
			}
			if r := s.want(get("/v1/accounts/"+temporary), 200); r.text(t, "id") != temporary || r.text(t, "status") != "active" {
				t.Errorf("the temporary account is %s", r.body)
			}
			s.api(s.tenant, post("/v1/merges/"+merge.text(t, "id")+"/confirm", fmt.Sprintf(`{"hash":%q}`, merge.text(t, "hash")))).wantProblem(t, 409, "merge_cancelled")
		})
	}
}

// Case 23: the account that access was given to was merged away meanwhile. What
// is merged into it goes to the account that lives on.
func TestCase23(t *testing.T) {
	t.Parallel()
	s := accessSite(t)
	own := s.person("client", "Ann Client", "ann@client.example")
	// An account that was made, and stands by itself since the client said no.
	asked := s.want(requesting("request_with_temporary", "ann@client.example", "Ann Client"), 201)
	made, _ := asked.value(t, "made_account").(map[string]any)
	kept := fmt.Sprint(made["id"])
	s.want(as(own, post("/v1/access-requests/"+asked.text(t, "id")+"/deny", "")), 200)
	s.exec(`UPDATE account SET unclaimed = false WHERE id = $1`, kept)
	s.want(post("/v1/accounts/"+kept, `{"secondary_emails":["ann@client.example","ann@work.example"]}`), 200)
	// Another company is given access to that one, with an account made meanwhile.
	other := s.otherCompany()
	asked = s.want(as(other, requesting("request_with_temporary", "ann@work.example", "Ann Client")), 201)
	request := asked.text(t, "id")
	made, _ = asked.value(t, "made_account").(map[string]any)
	temporary := fmt.Sprint(made["id"])
	s.want(as(kept, post("/v1/access-requests/"+request+"/approve", `{"visibility":"standard"}`)), 200)
	look := as(other, post("/v1/merges/preview", fmt.Sprintf(`{"access_request_id":%q}`, request)))
	seen := s.want(look, 200)
	also := s.want(as(other, requesting("request", "ann@client.example", "Ann Client")), 201).text(t, "id")
	s.want(as(own, post("/v1/access-requests/"+also+"/approve", `{}`)), 200)
	// And the kept one is merged into the client's own.
	s.pass(31 * 24 * time.Hour)
	again := s.want(requesting("request", "ann@client.example", "Ann Client"), 201).text(t, "id")
	s.want(as(own, post("/v1/access-requests/"+again+"/approve", `{}`)), 200)
	outer := s.want(post("/v1/merges/preview", fmt.Sprintf(`{"access_request_id":%q,"absorbed_id":%q}`, again, kept)), 200)
	s.work(s.confirm(outer))

	confirm := func(r reply) call {
		return as(other, post("/v1/merges/"+seen.text(t, "id")+"/confirm", fmt.Sprintf(`{"hash":%q}`, r.text(t, "hash"))))
	}
	s.api(s.tenant, confirm(seen)).wantProblem(t, 409, "preview_changed")
	anew := s.want(look, 200)
	if anew.text(t, "id") != seen.text(t, "id") || anew.text(t, "survivor_id") != own {
		t.Fatalf("looked at again, it is %s", anew.body)
	}
	s.pass(time.Second)
	s.want(confirm(anew), 200)
	s.work(anew)
	for _, account := range []string{kept, temporary} {
		if r := s.want(get("/v1/accounts/"+account), 200); r.text(t, "id") != own {
			t.Errorf("the account %s is %s", account, r.body)
		}
	}
}

func TestMergeInput(t *testing.T) {
	t.Parallel()
	s := accessSite(t)
	request, own, _ := s.granted("Ann Client", "ann@client.example", "Ann Client")
	merge := s.preview(request).text(t, "id")
	before := s.everything()
	for _, test := range []struct {
		call   call
		status int
		code   string
	}{
		{post("/v1/merges/preview", `{}`), 422, "validation_failed"},
		{post("/v1/merges/preview", `{"access_request_id":"x"}`), 422, "validation_failed"},
		{post("/v1/merges/preview", fmt.Sprintf(`{"access_request_id":%q}`, newID())), 404, "access_request_not_found"},
		{post("/v1/merges/preview", fmt.Sprintf(`{"access_request_id":%q,"absorbed_id":%q}`, request, own)), 422, "account_not_made"},
		{post("/v1/merges/preview", fmt.Sprintf(`{"access_request_id":%q,"absorbed_id":%q}`, request, newID())), 404, "account_not_found"},
		{as(own, post("/v1/merges/preview", fmt.Sprintf(`{"access_request_id":%q}`, request))), 403, "actor_not_allowed"},
		{post("/v1/merges/"+merge+"/confirm", `{"hash":"abc"}`), 422, "validation_failed"},
		{post("/v1/merges/"+merge+"/confirm", `{"hash":"`+strings.Repeat("0", 64)+`"}`), 409, "preview_changed"},
		{post("/v1/merges/"+newID()+"/confirm", `{"hash":"`+strings.Repeat("0", 64)+`"}`), 404, "merge_not_found"},
		{post("/v1/merges/"+merge+"/resolve", `{}`), 422, "validation_failed"},
		{post("/v1/merges/"+merge+"/undo", `{"keep":{"edited":"perhaps"}}`), 422, "validation_failed"},
		{post("/v1/merges/"+merge+"/undo", `{"keep":{"edited":"now","rows":{"x":"now"}}}`), 422, "keep_unknown"},
		{post("/v1/merges/"+merge+"/undo", `{"keep":{"edited":"now","rows":{"1":"x"}}}`), 422, "keep_unknown"},
		{get("/v1/merges/" + newID()), 404, "merge_not_found"},
		{get("/v1/merges/" + newID() + "/changes"), 404, "merge_not_found"},
		{get("/v1/merges/" + merge + "/changes?limit=0"), 422, "validation_failed"},
		{get("/v1/merges?state=done"), 422, "validation_failed"},
	} {
		r := s.api(s.tenant, test.call)
		if r.StatusCode != test.status || !strings.Contains(r.body, `"`+test.code+`"`) {
			t.Errorf("%s %s: %d %s, want %d %s", test.call.path, test.call.body, r.StatusCode, r.body, test.status, test.code)
		}
	}
	if after := s.everything(); after != before {
		t.Errorf("something was stored:\n%s", changed(before, after))
	}
}

// One endpoint of an app is called about its merges.
func TestMergesEndpoint(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	first := s.want(post("/v1/webhook-endpoints", `{"url":"https://example.org/one","merges":true}`), 201)
	if first.value(t, "merges") != true {
		t.Errorf("it is %s", first.body)
	}
	s.api(s.tenant, post("/v1/webhook-endpoints", `{"url":"https://example.org/two","merges":true}`)).wantProblem(t, 409, "merges_elsewhere")
	second := s.want(post("/v1/webhook-endpoints", `{"url":"https://example.org/two"}`), 201)
	take := call{method: "PATCH", path: "/v1/webhook-endpoints/" + second.text(t, "id"), body: `{"merges":true}`}
	s.api(s.tenant, take).wantProblem(t, 409, "merges_elsewhere")
	s.want(call{method: "DELETE", path: "/v1/webhook-endpoints/" + first.text(t, "id")}, 204)
	s.want(take, 200)
}

// The log-in page says what became of a merged account to who knows its
// password.
func TestMergedLogIn(t *testing.T) {
	t.Parallel()
	s := accessSite(t)
	request, _, temporary := s.granted("Ann Client", "ann@client.example", "Ann Client")
	hash, err := roster.HashPassword(t.Context(), goodPassword)
	if err != nil {
		t.Fatal(err)
	}
	s.exec(`UPDATE account SET password_hash = $2 WHERE id = $1`, temporary, hash)
	s.work(s.confirm(s.preview(request)))
	for _, lang := range []string{"en", "fr", "es"} {
		page := s.browser().post(s.page("/login")+"&lang="+lang, credentials("ann", goodPassword))
		if page.StatusCode != 409 || !strings.Contains(text(page.root), strings.Join(strings.Fields(s.say(lang, "error.account_merged")), " ")) {
			t.Errorf("%s: %d %s", lang, page.StatusCode, text(page.root))
		}
	}
	if page := s.browser().post(s.page("/login"), credentials("ann", "seven red boats")); page.StatusCode != 422 || strings.Contains(text(page.root), s.say("en", "error.account_merged")) {
		t.Errorf("with another password: %d", page.StatusCode)
	}
}
