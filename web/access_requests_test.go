package web

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"usher/internal/roster"
)

// accessSite is a site whose professional is a member of the company, so that
// they can ask for access.
func accessSite(t *testing.T) *site {
	s := newSite(t)
	s.want(post("/v1/companies/"+s.company.ID.String()+"/members", `{"account_id":"`+s.actor.ID.String()+`","role":"member"}`), 200)
	return s
}

// requesting asks for access with an option.
func requesting(option, email, name string) call {
	return post("/v1/access-requests", fmt.Sprintf(`{"option":%q,"email":%q,"full_name":%q,"message":"We met on Monday."}`, option, email, name))
}

// requestLink is the path of an access request's page.
func (s *site) requestLink(r reply) string {
	s.t.Helper()
	q, err := s.roster.AccessRequest(s.t.Context(), s.app.ID, id(r.text(s.t, "id")))
	if err != nil {
		s.t.Fatal(err)
	}
	return "/r/" + s.server.Keys.Token(roster.PurposeRequest, q.Ticket())
}

func (s *site) requestState(r reply) string {
	s.t.Helper()
	return s.want(get("/v1/access-requests/"+r.text(s.t, "id")), 200).text(s.t, "state")
}

// options are those of an answer, in order.
func options(r reply) (options []string) {
	for _, part := range strings.Split(r.body, `"option":"`)[1:] {
		name, _, _ := strings.Cut(part, `"`)
		if len(options) == 0 || options[len(options)-1] != name {
			options = append(options, name)
		}
	}
	return options
}

// R1: an address that has an account is noticed, and exactly three things can be
// done, each by a call that is ready to be made.
func TestR1(t *testing.T) {
	t.Parallel()
	s := accessSite(t)
	s.want(post("/v1/accounts", `{"kind":"client","full_name":"Ann Client","email":"ann@client.example","secondary_emails":["ann@work.example"]}`), 201)
	three := []string{"request", "new_account", "request_with_temporary"}
	for _, email := range []string{"ann@client.example", " ANN@Client.example", "ann@work.example"} {
		checked := s.want(post("/v1/access-requests/check", fmt.Sprintf(`{"email":%q}`, email)), 200)
		if checked.value(t, "in_use") != true || !slices.Equal(options(checked), three) {
			t.Errorf("%s: %s", email, checked.body)
		}
		refused := s.api(s.tenant, post("/v1/accounts", fmt.Sprintf(`{"kind":"client","full_name":"Ann Other","email":%q}`, email)))
		refused.wantProblem(t, 409, "email_in_use")
		if !slices.Equal(options(refused), three) || !strings.Contains(refused.body, `"full_name":"Ann Other"`) {
			t.Errorf("%s: %s", email, refused.body)
		}
	}
	if free := s.want(post("/v1/access-requests/check", `{"email":"nobody@client.example"}`), 200); strings.TrimSpace(free.body) != `{"in_use":false}` {
		t.Errorf("a free address: %s", free.body)
	}
}

// What is told of an address before approval differs in nothing but what has to
// be told: a name, an id, a status or a number of accounts never shows.
func TestAddressesTellNothing(t *testing.T) {
	t.Parallel()
	s := accessSite(t)
	ann := s.person("client", "Secret Ann", "ann@client.example")
	for i := range 3 {
		s.want(post("/v1/accounts", fmt.Sprintf(`{"kind":"client","full_name":"Secret %d","email":"own%d@client.example"}`, i, i)), 201)
		s.exec(`INSERT INTO secondary_email (app_id, account_id, email, email_key, created_at) SELECT app_id, id, 'shared@client.example', 'shared@client.example', now() FROM account WHERE email = $1`, fmt.Sprintf("own%d@client.example", i))
	}
	mask := func(r reply, email string) string { return strings.ReplaceAll(r.body, email, "EMAIL") }
	one := s.want(post("/v1/access-requests/check", `{"email":"ann@client.example"}`), 200)
	many := s.want(post("/v1/access-requests/check", `{"email":"shared@client.example"}`), 200)
	if mask(one, "ann@client.example") != mask(many, "shared@client.example") {
		t.Errorf("one account: %s\nthree: %s", one.body, many.body)
	}
	asked := s.want(requesting("request", "ann@client.example", "A. Client"), 201)
	for _, r := range []reply{one, many, asked, s.want(get("/v1/access-requests/"+asked.text(t, "id")), 200), s.want(get("/v1/events?subject_id="+asked.text(t, "id")), 200)} {
		if strings.Contains(r.body, "Secret") || strings.Contains(r.body, ann) {
			t.Errorf("tells of the account: %s", r.body)
		}
	}
	s.api(s.tenant, get("/v1/accounts/"+ann+"/records")).wantProblem(t, 403, "no_access")
}

// R2: the client gets the request by mail and in their inbox, and once it is
// approved, what is in the account becomes visible.
func TestR2(t *testing.T) {
	t.Parallel()
	s := accessSite(t)
	ann := s.person("client", "Ann Client", "ann@client.example")
	s.want(as(ann, post("/v1/accounts/"+ann+"/records", `{"kind":"programme","external_id":"4711"}`)), 201)
	asked := s.want(requesting("request", "Ann@Client.example", "Ann Client"), 201)
	if asked.text(t, "state") != "pending" || asked.text(t, "account_id") != "" || asked.text(t, "email") != "Ann@Client.example" {
		t.Errorf("asked: %s", asked.body)
	}
	if mails := read[int](s, `SELECT count(*) FROM message WHERE kind = 'access_request' AND email_key = 'ann@client.example'`); mails != 1 {
		t.Errorf("%d mails", mails)
	}
	items := s.inbox(ann, "action=open")
	if len(items) != 1 || items[0].Kind != "access_request" || items[0].Request.CompanyName != s.company.Name || items[0].Request.Message != "We met on Monday." {
		t.Fatalf("the inbox has %+v", items)
	}
	s.api(s.tenant, get("/v1/accounts/"+ann+"/records")).wantProblem(t, 403, "no_access")

	page := s.browser().get(s.requestLink(asked))
	page.wantPage(t, 200, s.say("en", "request.by")+" "+s.company.Name)
	if got := page.forms(); !slices.Equal(got, []string{"approve", "deny", "report"}) {
		t.Errorf("forms are %q", got)
	}
	if s.requestState(asked) != "pending" {
		t.Error("looking at the page decided something")
	}
	s.browser().post(s.requestLink(asked)+"/approve", url.Values{"visibility": {"basic"}}).wantPage(t, 200, s.say("en", "request.granted.title", "company", s.company.Name))
	got := s.want(get("/v1/access-requests/"+asked.text(t, "id")), 200)
	if got.text(t, "state") != "granted" || got.text(t, "account_id") != ann || got.text(t, "visibility") != "basic" {
		t.Errorf("granted: %s", got.body)
	}
	if records := s.items("/v1/accounts/"+ann+"/records", "external_id"); !slices.Equal(records, []string{"4711"}) {
		t.Errorf("records are %q", records)
	}
	if s.inbox(ann, "")[0].Action != "done" {
		t.Error("the item is still to be decided")
	}
	if news := read[int](s, `SELECT count(*) FROM message WHERE kind = 'news' AND subject_id = $1`, s.actor.ID); news != 1 {
		t.Errorf("who asked is told %d times", news)
	}
	// The client ends it, on the page or in the app.
	s.browser().post(s.requestLink(asked)+"/revoke", nil).wantPage(t, 200, s.say("en", "request.revoked.title"))
	s.api(s.tenant, get("/v1/accounts/"+ann+"/records")).wantProblem(t, 403, "no_access")
}

// R3: another account is made at once, with a username of its own; its address
// logs nobody in, and a mail lets the client create a password.
func TestR3(t *testing.T) {
	t.Parallel()
	s := accessSite(t)
	s.person("client", "Ann Client", "ann@client.example")
	made := s.want(requesting("new_account", "ann@client.example", "Ann Younger"), 201)
	if made.text(t, "state") != "granted" || !strings.Contains(made.body, `"username":"ann"`) || !strings.Contains(made.body, `"status":"active"`) {
		t.Fatalf("made: %s", made.body)
	}
	again := s.want(requesting("new_account", "ann@client.example", "ann younger"), 200)
	if again.text(t, "id") != made.text(t, "id") || again.value(t, "duplicate") != true {
		t.Errorf("again: %s", again.body)
	}
	other := s.want(requesting("new_account", "ann@client.example", "Bob Younger"), 201)
	if !strings.Contains(other.body, `"username":"ann-2"`) {
		t.Errorf("for another person: %s", other.body)
	}

	var account, message string
	if err := s.pool.QueryRow(t.Context(), `
		SELECT account.id::text, message.id::text FROM account JOIN message ON message.subject_id = account.id AND message.kind = 'new_account'
		WHERE account.username = 'ann' AND message.email_key = 'ann@client.example'`).Scan(&account, &message); err != nil {
		t.Fatal(err)
	}
	s.pass(10 * 24 * time.Hour) // nobody asked for the mail, so its link lives longer than an hour
	link := "/password/" + s.server.Keys.Token(roster.PurposePassword, roster.Ticket{ID: id(message)})
	b := s.browser()
	b.get(link).wantPage(t, 200, s.say("en", "set_password.title_first"))
	b.post(link, url.Values{"password": {"correct horse"}}).wantPage(t, 200, s.say("en", "home.hello", "name", "Ann Younger"))
	for identifier, works := range map[string]bool{"ann": true, "ann@client.example": false} {
		p := s.browser().post("/login", url.Values{"identifier": {identifier}, "password": {"correct horse"}})
		if works != strings.Contains(p.body, s.say("en", "home.hello", "name", "Ann Younger")) {
			t.Errorf("log-in as %s: %d", identifier, p.StatusCode)
		}
	}
	s.api(s.tenant, post("/v1/access-requests/"+made.text(t, "id")+"/resend", "")).wantProblem(t, 409, "already_claimed")
	if records := s.want(get("/v1/accounts/"+account+"/records"), 200); !strings.Contains(records.body, `"items":[]`) {
		t.Errorf("records are %s", records.body)
	}
}

// R4: besides the request there is an account that can be used while waiting.
func TestR4(t *testing.T) {
	t.Parallel()
	s := accessSite(t)
	ann := s.person("client", "Ann Client", "ann@client.example")
	asked := s.want(requesting("request_with_temporary", "ann@client.example", "Ann Client"), 201)
	made, _ := asked.value(t, "made_account").(map[string]any)
	if asked.text(t, "state") != "pending" || made["status"] != "temporary" || made["username"] != "ann" {
		t.Fatalf("asked: %s", asked.body)
	}
	temporary := fmt.Sprint(made["id"])
	s.want(post("/v1/accounts/"+temporary+"/records", `{"kind":"programme","external_id":"1"}`), 201)
	if records := s.items("/v1/accounts/"+temporary+"/records", "external_id"); !slices.Equal(records, []string{"1"}) {
		t.Errorf("records meanwhile are %q", records)
	}
	if checked := s.want(post("/v1/access-requests/check", `{"email":"ann@client.example"}`), 200); checked.text(t, "request_id") != asked.text(t, "id") {
		t.Errorf("checked again: %s", checked.body)
	}
	// A denial leaves it standing by itself, and the professional its records.
	s.want(as(ann, post("/v1/access-requests/"+asked.text(t, "id")+"/deny", "")), 200)
	if r := s.want(get("/v1/accounts/"+temporary), 200); r.text(t, "status") != "active" || r.text(t, "email") != "" {
		t.Errorf("afterwards it is %s", r.body)
	}
	if records := s.items("/v1/accounts/"+temporary+"/records", "external_id"); !slices.Equal(records, []string{"1"}) {
		t.Errorf("its records are %q", records)
	}
}

// R5: mail that did not arrive is looked into: the address as typed, a hint, a
// correction, a resend, and support's word.
func TestR5(t *testing.T) {
	t.Parallel()
	s := accessSite(t)
	s.person("client", "Ann Typo", "an@client.example")
	ann := s.want(post("/v1/accounts", `{"kind":"client","full_name":"Ann Client","email":"ann@client.example","secondary_emails":["ann@work.example"]}`), 201).text(t, "id")
	asked := s.want(requesting("request", "an@client.example", "Ann Client"), 201)
	path := "/v1/access-requests/" + asked.text(t, "id")
	old := s.requestLink(asked)
	s.exec(`UPDATE message SET state = 'delivered' WHERE kind = 'access_request'`)
	if r := s.want(get(path), 200); r.text(t, "email") != "an@client.example" || r.text(t, "delivery") != "delivered" || r.text(t, "hint") != "check_spam" {
		t.Errorf("looked at: %s", r.body)
	}
	s.api(s.tenant, post(path+"/resend", "")).wantProblem(t, 429, "resend_too_soon")
	s.pass(time.Hour)
	if r := s.want(post(path+"/resend", ""), 200); r.text(t, "delivery") != "queued" {
		t.Errorf("resent: %s", r.body)
	}
	s.api(s.tenant, post(path+"/correct-address", `{"email":"nobody@client.example"}`)).wantProblem(t, 409, "email_not_in_use")
	s.want(post(path+"/correct-address", `{"email":"ann@client.example"}`), 200)
	s.browser().get(old).wantPage(t, 404, s.say("en", "dead_link.title"))
	if items := s.inbox(ann, "action=open"); len(items) != 1 {
		t.Errorf("the inbox has %+v", items)
	}

	for _, body := range []string{`{"operator":"Sam","statement":" ","reference":"4711"}`, `{"operator":"","statement":"Yes.","reference":"4711"}`} {
		s.api(s.tenant, post(path+"/authorize", body)).wantProblem(t, 422, "evidence_missing")
	}
	granted := s.want(post(path+"/authorize", `{"operator":"Sam of support","statement":"I want Marie to see it. Ann","reference":"ticket 4711"}`), 200)
	if granted.text(t, "state") != "granted" || granted.text(t, "account_id") != ann || !strings.Contains(granted.body, `"operator":"Sam of support"`) || !strings.Contains(granted.body, "ticket 4711") {
		t.Errorf("authorized: %s", granted.body)
	}
	told := read[string](s, `SELECT string_agg(email_key, ' ' ORDER BY email_key) FROM message WHERE kind = 'access_granted'`)
	if told != "ann@client.example ann@work.example" {
		t.Errorf("told are %s", told)
	}
	// "This was not me" ends it without a log-in.
	page := s.browser().get(s.requestLink(asked))
	page.wantPage(t, 200, s.say("en", "request.granted.title", "company", s.company.Name))
	if !strings.Contains(page.body, s.say("en", "request.revoke.title")) {
		t.Error("nothing says how to take it back")
	}
	s.browser().post(s.requestLink(asked)+"/revoke", nil)
	if r := s.want(get(path), 200); r.text(t, "state") != "revoked" || r.value(t, "reported") != true {
		t.Errorf("taken back: %s", r.body)
	}
	// Never over a denial.
	denied := s.want(requesting("request", "ann@work.example", "Ann Client"), 201)
	s.browser().post(s.requestLink(denied)+"/deny", nil)
	s.api(s.tenant, post("/v1/access-requests/"+denied.text(t, "id")+"/authorize", `{"operator":"Sam","statement":"Yes.","reference":"1"}`)).wantProblem(t, 409, "already_denied")
}

// R6: a client has several professionals, and a professional several clients.
func TestR6(t *testing.T) {
	t.Parallel()
	s := accessSite(t)
	other := s.person("professional", "Paul Other", "paul@other.example")
	company := s.want(post("/v1/companies", `{"name":"Other Practice"}`), 201).text(t, "id")
	s.want(post("/v1/companies/"+company+"/members", `{"account_id":"`+other+`","role":"member"}`), 200)
	clients := []string{s.person("client", "Ann Client", "ann@client.example"), s.person("client", "Bob Client", "bob@client.example")}
	for i, email := range []string{"ann@client.example", "bob@client.example"} {
		for _, actor := range []string{s.actor.ID.String(), other} {
			asked := s.want(as(actor, requesting("request", email, "Somebody")), 201)
			s.want(as(clients[i], post("/v1/access-requests/"+asked.text(t, "id")+"/approve", "")), 200)
			s.want(as(actor, get("/v1/accounts/"+clients[i]+"/records")), 200)
		}
	}
	if n := read[int](s, `SELECT count(*) FROM record_access WHERE revoked_at IS NULL`); n != 4 {
		t.Errorf("%d ways in", n)
	}
}

// Cases 3 and 5 of requests: too late is told so, and of two answers the first
// counts.
func TestRequestsDecidedTwice(t *testing.T) {
	t.Parallel()
	s := accessSite(t)
	ann := s.person("client", "Ann Client", "ann@client.example")
	asked := s.want(requesting("request", "ann@client.example", "Ann Client"), 201)
	link, path := s.requestLink(asked), "/v1/access-requests/"+asked.text(t, "id")
	for range 2 {
		s.browser().post(link+"/deny", nil).wantPage(t, 200, s.say("en", "request.denied.title"))
	}
	s.api(s.tenant, as(ann, post(path+"/approve", ""))).wantProblem(t, 409, "already_denied")
	s.browser().post(link+"/approve", nil).wantPage(t, 409, s.say("en", "request.denied.title"))
	s.api(s.tenant, requesting("request", "ann@client.example", "Ann Client")).wantProblem(t, 429, "denied_lately")

	s.person("client", "Bob Client", "bob@client.example")
	late := s.want(requesting("request", "bob@client.example", "Bob Client"), 201)
	s.pass(14*24*time.Hour + time.Second)
	page := s.browser().post(s.requestLink(late)+"/approve", nil)
	page.wantPage(t, 410, s.say("en", "request.expired.title"))
	if !strings.Contains(page.body, "send the request again") {
		t.Errorf("no way out is named: %s", page.body)
	}
	// Asking again begins anew, whether the sweep was there or not.
	if r := s.want(requesting("request", "bob@client.example", "Bob Client"), 201); r.text(t, "id") == late.text(t, "id") {
		t.Errorf("asked again: %s", r.body)
	}
	if s.requestState(late) != "expired" {
		t.Errorf("the first is %s", s.requestState(late))
	}
}

// Case 17: the address of a professional has its own answer.
func TestCase17(t *testing.T) {
	t.Parallel()
	s := accessSite(t)
	for _, c := range []call{
		post("/v1/access-requests/check", `{"email":"marie@kindred.example"}`), requesting("request", "marie@kindred.example", "Marie"),
		requesting("new_account", "marie@kindred.example", "Marie"), post("/v1/accounts", `{"kind":"client","full_name":"Marie","email":"marie@kindred.example"}`),
	} {
		s.api(s.tenant, c).wantProblem(t, 409, "email_of_professional")
	}
}

// Case 18: a client without an address cannot be asked.
func TestCase18(t *testing.T) {
	t.Parallel()
	s := accessSite(t)
	if r := s.want(post("/v1/accounts", `{"kind":"client","full_name":"Old Client"}`), 201); r.text(t, "email") != "" {
		t.Errorf("made: %s", r.body)
	}
	s.want(post("/v1/accounts", `{"kind":"client","full_name":"Second Client"}`), 201) // any number of them
	s.api(s.tenant, post("/v1/access-requests/check", `{}`)).wantProblem(t, 422, "needs_address")
	s.api(s.tenant, requesting("request", " ", "Old Client")).wantProblem(t, 422, "needs_address")
	s.api(s.tenant, post("/v1/accounts", `{"kind":"professional","full_name":"Pro"}`)).wantProblem(t, 422, "email_missing")
}

// Case 19: whoever has access already is told so, and nothing is sent.
func TestCase19(t *testing.T) {
	t.Parallel()
	s := accessSite(t)
	ann := s.person("client", "Ann Client", "ann@client.example")
	asked := s.want(requesting("request", "ann@client.example", "Ann Client"), 201)
	s.want(as(ann, post("/v1/access-requests/"+asked.text(t, "id")+"/approve", "")), 200)
	mails := read[int](s, `SELECT count(*) FROM message`)
	for _, option := range []string{"request", "request_with_temporary"} {
		if r := s.want(requesting(option, "ann@client.example", "Ann Client"), 200); r.value(t, "already_granted") != true || r.text(t, "state") != "already_granted" {
			t.Errorf("%s: %s", option, r.body)
		}
	}
	if r := s.want(post("/v1/access-requests/check", `{"email":"ann@client.example"}`), 200); r.value(t, "already_granted") != true {
		t.Errorf("checked: %s", r.body)
	}
	if n := read[int](s, `SELECT count(*) FROM message`); n != mails {
		t.Errorf("%d mails were sent", n-mails)
	}
}

// Case 20: a second temporary account is the first.
func TestCase20(t *testing.T) {
	t.Parallel()
	s := accessSite(t)
	s.person("client", "Ann Client", "ann@client.example")
	plain := s.want(requesting("request", "ann@client.example", "Ann Client"), 201)
	first := s.want(requesting("request_with_temporary", "ann@client.example", "Ann Client"), 200)
	second := s.want(requesting("request_with_temporary", "ann@client.example", "Ann C."), 200)
	if first.text(t, "id") != plain.text(t, "id") || second.text(t, "id") != plain.text(t, "id") || fmt.Sprint(first.value(t, "made_account")) != fmt.Sprint(second.value(t, "made_account")) {
		t.Errorf("first %s\nsecond %s", first.body, second.body)
	}
	if n := read[int](s, `SELECT count(*) FROM account WHERE status = 'temporary'`); n != 1 {
		t.Errorf("%d temporary accounts", n)
	}
	// Neither does asking again after it was withdrawn make another.
	s.want(post("/v1/access-requests/"+plain.text(t, "id")+"/cancel", ""), 200)
	third := s.want(requesting("request_with_temporary", "ann@client.example", "Ann Client"), 201)
	if fmt.Sprint(first.value(t, "made_account")) != fmt.Sprint(third.value(t, "made_account")) {
		t.Errorf("first %s\nthird %s", first.body, third.body)
	}
}

// The intent to approve outlives a log-in, and a password that had to be made on
// the way.
func TestApprovalOutlivesAPassword(t *testing.T) {
	t.Parallel()
	s := accessSite(t)
	account, err := s.roster.CreateAccount(t.Context(), s.app.ID, roster.NewAccount{Kind: roster.Client, FullName: "Ann Client", Email: "ann@own.example", SecondaryEmails: []string{"ann@client.example"}}, roster.IdempotencyKey{})
	if err != nil {
		t.Fatal(err)
	}
	asked := s.want(requesting("request", "ann@client.example", "Ann Client"), 201)
	link := s.requestLink(asked)
	b := s.browser()
	page := b.post(link+"/approve", url.Values{"visibility": {"full"}})
	page.wantPage(t, 200, s.say("en", "request.approved.title"))
	if s.requestState(asked) != "approved" || !strings.Contains(page.body, "/login?") || !strings.Contains(page.body, "/password?") {
		t.Errorf("%s: %s", s.requestState(asked), page.body)
	}
	b.post("/password", url.Values{"identifier": {"ann@own.example"}, "next": {link}})
	token := s.passwordToken(account)
	page = b.post("/password/"+token, url.Values{"password": {"correct horse"}})
	page.wantPage(t, 200, s.say("en", "request.approved.title")) // back on the request, logged in
	if !strings.Contains(page.body, `value="full" checked`) {
		t.Error("the choice was forgotten")
	}
	b.post(link+"/approve", url.Values{"visibility": {"full"}}).wantPage(t, 200, s.say("en", "request.granted.title", "company", s.company.Name))
	if r := s.want(get("/v1/access-requests/"+asked.text(t, "id")), 200); r.text(t, "state") != "granted" || r.text(t, "account_id") != account.ID.String() {
		t.Errorf("granted: %s", r.body)
	}
}

// Whoever is logged in as somebody else answers by the link alone.
func TestRequestForSomebodyElse(t *testing.T) {
	t.Parallel()
	s := accessSite(t)
	if _, err := s.roster.CreateAccount(t.Context(), s.app.ID, roster.NewAccount{Kind: roster.Client, FullName: "Ann", Email: "ann@own.example", SecondaryEmails: []string{"ann@client.example"}}, roster.IdempotencyKey{}); err != nil {
		t.Fatal(err)
	}
	asked := s.want(requesting("request", "ann@client.example", "Ann Client"), 201)
	link := s.requestLink(asked)
	b := s.signedInAsClient("joe@client.example")
	page := b.post(link+"/approve", nil)
	page.wantPage(t, 200, s.say("en", "request.approved.title"))
	if !slices.Equal(page.forms(), []string{"switch", "deny", "report"}) || !strings.Contains(page.body, "joe@client.example") {
		t.Errorf("forms are %q: %s", page.forms(), page.body)
	}
	page = b.post(link+"/switch", nil)
	if !slices.Equal(page.forms(), []string{"deny", "report"}) {
		t.Errorf("forms after logging out are %q", page.forms())
	}
	b.post(link+"/report", nil).wantPage(t, 200, s.say("en", "request.denied.title"))
	if r := s.want(get("/v1/access-requests/"+asked.text(t, "id")), 200); r.text(t, "state") != "denied" || r.value(t, "reported") != true {
		t.Errorf("reported: %s", r.body)
	}
}

// signedInAsClient is the browser of a new client with that address.
func (s *site) signedInAsClient(email string) *browser {
	s.t.Helper()
	id := s.person("client", "Joe Other", email)
	hash, err := roster.HashPassword(s.t.Context(), "correct horse")
	if err != nil {
		s.t.Fatal(err)
	}
	s.exec(`UPDATE account SET password_hash = $2 WHERE id = $1`, id, hash)
	b := s.browser()
	b.post("/login", url.Values{"app": {s.app.ID.String()}, "identifier": {email}, "password": {"correct horse"}})
	return b
}

// Case 14 of requests: a scanner that fetches links decides nothing, and pages
// that are not there look alike.
func TestRequestLinks(t *testing.T) {
	t.Parallel()
	s := accessSite(t)
	s.person("client", "Ann Client", "ann@client.example")
	asked := s.want(requesting("request", "ann@client.example", "Ann Client"), 201)
	link := s.requestLink(asked)
	before := s.everything()
	for _, what := range []string{"", "/approve", "/deny", "/report", "/revoke"} {
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			req, err := http.NewRequestWithContext(t.Context(), method, s.base+link+what, nil)
			if err != nil {
				t.Fatal(err)
			}
			r := s.send(http.DefaultClient, req)
			if what == "" && (r.StatusCode != 200 || !strings.Contains(r.Header.Get("Cache-Control"), "no-store") || r.Header.Get("Referrer-Policy") != "no-referrer") {
				t.Errorf("%s: %d %v", method, r.StatusCode, r.Header)
			}
		}
	}
	if after := s.everything(); after != before {
		t.Errorf("fetching links changed:\n%s", changed(before, after))
	}
	invitation := s.token(s.invite(s.tenant, "zoe@client.example"))
	for _, dead := range []string{"/r/x", link + "x", "/r/" + invitation, link[:len(link)-2] + "AA"} {
		s.browser().get(dead).wantPage(t, 404, s.say("en", "dead_link.title"))
		s.browser().post(dead+"/approve", nil).wantPage(t, 404, s.say("en", "dead_link.title"))
	}
}

// Bad input to access requests has its codes, and stores nothing.
func TestBadAccessRequests(t *testing.T) {
	t.Parallel()
	s := accessSite(t)
	ann := s.person("client", "Ann Client", "ann@client.example")
	stranger := s.person("professional", "Solo", "solo@else.example")
	asked := s.want(requesting("request", "ann@client.example", "Ann Client"), 201)
	path := "/v1/access-requests/" + asked.text(t, "id")
	before := s.everything()
	for name, test := range map[string]struct {
		call   call
		status int
		code   string
	}{
		"unknown option":      {requesting("steal", "ann@client.example", "A"), 422, "validation_failed"},
		"no name":             {requesting("request", "ann@client.example", ""), 422, "name_missing"},
		"link in name":        {requesting("request", "ann@client.example", "see https://evil.example"), 422, "name_has_url"},
		"no address":          {requesting("request", "not-an-address", "A"), 422, "email_invalid"},
		"free address":        {requesting("request", "free@client.example", "A"), 409, "email_not_in_use"},
		"client asks":         {as(ann, requesting("request", "ann@client.example", "A")), 403, "actor_not_allowed"},
		"no company":          {as(stranger, requesting("request", "ann@client.example", "A")), 403, "actor_not_allowed"},
		"unknown actor":       {as("01a2075c-e42b-72fd-b254-e08a51a32212", requesting("request", "ann@client.example", "A")), 403, "actor_invalid"},
		"unknown company":     {post("/v1/access-requests", `{"option":"request","email":"ann@client.example","full_name":"A","company_id":"01a2075c-e42b-72fd-b254-e08a51a32212"}`), 404, "company_not_found"},
		"foreign field":       {post("/v1/access-requests", `{"option":"request","email":"ann@client.example","full_name":"A","role":"admin"}`), 422, "validation_failed"},
		"stranger cancels":    {as(stranger, post(path+"/cancel", "")), 403, "actor_not_allowed"},
		"stranger resends":    {as(stranger, post(path+"/resend", "")), 403, "actor_not_allowed"},
		"requester approves":  {post(path+"/approve", ""), 403, "wrong_account"},
		"requester denies":    {post(path+"/deny", ""), 403, "wrong_account"},
		"bad visibility":      {as(ann, post(path+"/approve", `{"visibility":"all"}`)), 422, "validation_failed"},
		"revoke what is open": {as(ann, post(path+"/revoke", "")), 409, "still_open"},
		"same address":        {post(path+"/correct-address", `{"email":"ANN@client.example"}`), 422, "email_unchanged"},
		"unknown request":     {post("/v1/access-requests/01a2075c-e42b-72fd-b254-e08a51a32212/cancel", ""), 404, "access_request_not_found"},
		"not an id":           {get("/v1/access-requests/17"), 422, "validation_failed"},
		"unknown state":       {get("/v1/access-requests?state=open"), 422, "validation_failed"},
		"another's account":   {post(path+"/authorize", `{"operator":"S","statement":"Y","reference":"1","account_id":"`+stranger+`"}`), 409, "account_not_meant"},
		"policy":              {post("/v1/policies", `{"request_cool_off_days":0}`), 422, "setting_invalid"},
	} {
		r := s.api(s.tenant, test.call)
		if r.StatusCode != test.status || r.text(t, "code") != test.code {
			t.Errorf("%s: %d %s, want %d %s", name, r.StatusCode, r.body, test.status, test.code)
		}
	}
	if after := s.everything(); after != before {
		t.Errorf("bad input changed:\n%s", changed(before, after))
	}
}

// An app's own page for access requests: the link leads there, and each step is in
// the API.
func TestOwnPagesOfRequests(t *testing.T) {
	t.Parallel()
	s := accessSite(t)
	other := s.newTenant("Another App")
	ask := func(kind, email string) (token, account string) {
		account = s.person(kind, "Ann Client", email)
		return strings.TrimPrefix(s.requestLink(s.want(requesting("request", email, "Ann Client"), 201)), "/r/"), account
	}
	by := func(step, token string, more string) call {
		return post("/v1/access-requests/"+step, fmt.Sprintf(`{"token":%q%s}`, token, more))
	}
	token, account := ask("client", "ann@client.example")

	for _, step := range []string{"open", "approve", "deny"} {
		s.want(by(step, "x"+token[1:], ""), 404).wantProblem(t, 404, "link_dead")
		s.postJSON(other, "/v1/access-requests/"+step, newID(), map[string]any{"token": token}).wantProblem(t, 404, "link_dead")
		s.want(by(step, s.token(s.invite(s.tenant, step+"@client.example")), ""), 404).wantProblem(t, 404, "link_dead")
	}
	r := s.want(by("open", token, ""), 200)
	for field, want := range map[string]string{
		"state": "pending", "step": "approve", "requester_name": "Marie Dupont", "company_name": "Acme Therapy", "email": "ann@client.example", "message": "We met on Monday.",
	} {
		if got := r.text(t, field); got != want {
			t.Errorf("%s is %q, want %q", field, got, want)
		}
	}
	s.want(by("approve", token, `,"account_id":"`+other.actor.ID.String()+`"`), 404).wantProblem(t, 404, "account_not_found")
	if r := s.want(by("approve", token, `,"visibility":"basic"`), 200); r.text(t, "state") != "granted" || r.text(t, "visibility") != "basic" {
		t.Errorf("approved: %s", r.body)
	}
	s.want(by("approve", token, ""), 200)
	s.want(by("deny", token, ""), 409)
	if r := s.want(by("open", token, ""), 200); r.text(t, "step") != "none" || r.text(t, "state") != "granted" {
		t.Errorf("decided, it is %s", r.body)
	}

	// Of an address that is a secondary one, the yes waits for a log-in.
	s.exec(`INSERT INTO secondary_email (app_id, account_id, email, email_key, created_at) SELECT app_id, id, 'second@client.example', 'second@client.example', now() FROM account WHERE id = $1`, account)
	s.exec(`UPDATE record_access SET revoked_at = now()`)
	token = strings.TrimPrefix(s.requestLink(s.want(requesting("request", "second@client.example", "Ann Client"), 201)), "/r/")
	if r := s.want(by("open", token, ""), 200); r.text(t, "step") != "log_in" {
		t.Errorf("opened: %s", r.body)
	}
	if r := s.want(by("approve", token, ""), 200); r.text(t, "state") != "approved" {
		t.Errorf("approved without a log-in: %s", r.body)
	}
	if r := s.want(by("approve", token, `,"account_id":"`+account+`"`), 200); r.text(t, "state") != "granted" {
		t.Errorf("approved after a log-in: %s", r.body)
	}

	token, _ = ask("client", "bob@client.example")
	if r := s.want(by("deny", token, `,"reported":true`), 200); r.text(t, "state") != "denied" {
		t.Errorf("denied: %s", r.body)
	}

	token, _ = ask("client", "cleo@client.example")
	s.want(post("/v1/policies", `{"request_url":"http://app.kindred.example/request"}`), 422)
	s.want(post("/v1/policies", `{"request_url":"https://app.kindred.example/request?from=mail"}`), 200)
	if page := s.browser().stay().get("/r/" + token); page.StatusCode != 302 || page.Header.Get("Location") != "https://app.kindred.example/request?from=mail&token="+token {
		t.Errorf("the link leads to %d %q", page.StatusCode, page.Header.Get("Location"))
	}
	if page := s.browser().stay().get("/r/x" + token[1:]); page.StatusCode != 404 {
		t.Errorf("a dead link leads to %d %q", page.StatusCode, page.Header.Get("Location"))
	}
}
