package web

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"usher/internal/roster"
)

// ann is an account with goodPassword, a username and a secondary address.
func (s *site) ann(te tenant) roster.Account {
	s.t.Helper()
	account := s.known(te, "ann@client.example", false)
	username, secondary := "ann.okafor", []string{"second@client.example"}
	account, err := s.roster.ChangeAccount(s.t.Context(), te.app.ID, account.ID, roster.AccountChange{Username: &username, SecondaryEmails: &secondary}, roster.IdempotencyKey{})
	if err != nil {
		s.t.Fatal(err)
	}
	return account
}

func (te tenant) page(path string) string { return path + "?app=" + te.app.ID.String() }

// hello is the heading of ann's own page.
func (s *site) hello(lang string) string { return s.say(lang, "home.hello", "name", "Ann Okafor") }

func credentials(identifier, password string) url.Values {
	return url.Values{"identifier": {identifier}, "password": {password}}
}

// passwordToken is the token of the newest mail with a link to set a password,
// "" for none.
func (s *site) passwordToken(account roster.Account) string {
	s.t.Helper()
	newest := read[*string](s, `SELECT (SELECT id::text || ' ' || COALESCE(args->>'version', '0') FROM message WHERE subject_id = $1 AND kind = 'password' ORDER BY id DESC LIMIT 1)`, account.ID)
	if newest == nil {
		return ""
	}
	var id string
	version := 0
	if _, err := fmt.Sscanf(*newest, "%s %d", &id, &version); err != nil {
		s.t.Fatal(err)
	}
	return s.server.Keys.Token(roster.PurposePassword, roster.Ticket{ID: uuid.MustParse(id), Version: version})
}

func TestLogIn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.ann(s.tenant)
	s.newTenant("Another App") // so that the app has to be named
	home := s.hello("en")
	for _, name := range []string{"ann@client.example", " ANN@Client.example ", "ann.okafor", "Ann.Okafor"} {
		b := s.browser()
		page := b.post(s.page("/login"), credentials(name, goodPassword))
		page.wantPage(t, 200, home)
		if page.Request.URL.Path != "/home" || page.Header.Get("Cache-Control") != "no-store" || page.Header.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("%s leads to %s with %v", name, page.Request.URL, page.Header)
		}
		b.get("/login").wantPage(t, 200, home) // the cookie names the app
		if page := b.stay().get("/login?next=//evil.example/"); page.Header.Get("Location") != s.page("/home") {
			t.Errorf("signed in, the log-in leads to %s", page.Header.Get("Location"))
		}
	}

	// What does not fit is answered alike, and changes nothing but counts.
	var first string
	before := s.everything("account")
	for _, c := range [][2]string{
		{"ann@client.example", "wrong password"},
		{"nobody@client.example", goodPassword},
		{"second@client.example", goodPassword}, // a secondary address is nobody's name
		{"nobody", goodPassword},
		{"not@@an address", goodPassword},
		{"marie@kindred.example", goodPassword}, // has no password
	} {
		page := s.browser().post(s.page("/login"), credentials(c[0], c[1]))
		said := strings.ReplaceAll(text(page.root), c[0], "")
		if first == "" {
			first = said
		}
		if page.StatusCode != 422 || said != first || !strings.Contains(said, s.say("en", "error.credentials_wrong")) || len(page.Cookies()) > 0 {
			t.Errorf("%s: %d %s", c[0], page.StatusCode, said)
		}
	}
	for name, form := range map[string]url.Values{"error.identifier_missing": credentials(" ", goodPassword), "error.password_missing": credentials("ann", "")} {
		if page := s.browser().post(s.page("/login"), form); page.StatusCode != 422 || !strings.Contains(text(page.root), s.say("en", name)) {
			t.Errorf("%s: %d", name, page.StatusCode)
		}
	}
	if after := s.everything("account"); after != before {
		t.Errorf("refused log-ins changed:\n%s", changed(before, after))
	}
	page := s.browser().post(s.page("/login"), credentials("ann@client.example", goodPassword), "Origin", "https://evil.example", "Sec-Fetch-Site", "cross-site")
	if page.StatusCode != 403 {
		t.Errorf("another site's form: %d", page.StatusCode)
	}

	// Nobody is logged in to an account that ended.
	s.exec(`UPDATE account SET status = 'archived' WHERE username = 'ann.okafor'`)
	if page := s.browser().post(s.page("/login"), credentials("ann.okafor", goodPassword)); page.StatusCode != 422 {
		t.Errorf("an archived account: %d", page.StatusCode)
	}
}

// TestLogInOfWhichApp: without a name of the app its pages ask for one, unless
// there is no choice.
func TestLogInOfWhichApp(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.browser().get("/login").wantPage(t, 200, s.say("en", "login.title"))
	other := s.newTenant("Another App")
	for _, path := range []string{"/login", "/password", "/home", "/login?app=" + newID(), "/login?app=x"} {
		s.browser().get(path).wantPage(t, 404, s.say("en", "which_app.title"))
	}
	if page := s.browser().get(other.page("/login")); page.StatusCode != 200 || !strings.Contains(page.body, "Log in – Another App</title>") {
		t.Errorf("%d %s", page.StatusCode, page.title())
	}

	// Being signed in to one app says nothing in another.
	s.ann(s.tenant)
	b := s.browser()
	b.post(s.page("/login"), credentials("ann.okafor", goodPassword)).wantPage(t, 200, s.hello("en"))
	b.get(other.page("/home")).wantPage(t, 200, s.say("en", "login.title"))
	if page := b.post(other.page("/login"), credentials("ann.okafor", goodPassword)); page.StatusCode != 422 {
		t.Errorf("another app's account: %d", page.StatusCode)
	}
	b.get("/home").wantPage(t, 200, s.hello("en"))
}

// TestNextIsOurOwn: a log-in leads on to our own pages only.
func TestNextIsOurOwn(t *testing.T) {
	t.Parallel()
	for next, want := range map[string]string{
		"/home?app=x": "/home?app=x", "/i/abc": "/i/abc", "/i/abc?lang=fr": "/i/abc?lang=fr",
		"": "", "home": "", "//evil.example": "", "///evil.example": "", `/\evil.example`: "", "https://evil.example/": "", "javascript:alert(1)": "",
		"/\t/evil.example": "", "/%09/evil": "", "/%5cevil.example": "", "http:/evil": "", "/a#b": "", "/" + strings.Repeat("x", 500): "",
	} {
		if got := ownPath(next); got != want {
			t.Errorf("%q leads to %q, want %q", next, got, want)
		}
	}
}

func TestLogInIsThrottled(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.ann(s.tenant)
	title := s.say("en", "too_many_tries.title")
	// Whether there is such an account or not.
	for _, name := range []string{"ann.okafor", "nobody.here"} {
		for range 10 {
			if page := s.browser().post(s.page("/login"), credentials(name, "wrong password")); page.StatusCode != 422 {
				t.Fatalf("%s: %d", name, page.StatusCode)
			}
		}
		page := s.browser().post(s.page("/login"), credentials(name, goodPassword))
		page.wantPage(t, 429, title)
		if page.Header.Get("Retry-After") == "" {
			t.Error("no Retry-After")
		}
		r := s.api(s.tenant, call{method: http.MethodPost, path: "/v1/sessions", body: fmt.Sprintf(`{"identifier":%q,"password":%q}`, name, goodPassword)})
		r.wantProblem(t, 429, "too_many_tries")
	}
	// By its address the account rests as well, and says so no more than any.
	if page := s.browser().post(s.page("/login"), credentials("ann@client.example", goodPassword)); page.StatusCode != 422 {
		t.Errorf("an account at rest: %d", page.StatusCode)
	}
	s.pass(15*time.Minute + time.Second)
	s.browser().post(s.page("/login"), credentials("ann.okafor", goodPassword)).wantPage(t, 200, s.hello("en"))

	// One caller, many names. A proxy names the caller; who is no proxy does not.
	from := func(ip string, n int) sheet {
		return s.browser().post(s.page("/login"), credentials(fmt.Sprintf("name%d", n), "wrong password"), "X-Forwarded-For", "198.51.100.9, "+ip)
	}
	for n := range maxLogIns {
		if page := from("203.0.113.7", n); page.StatusCode != 422 {
			t.Fatalf("try %d: %d", n+1, page.StatusCode)
		}
	}
	from("203.0.113.7", maxLogIns).wantPage(t, 429, title)
	if page := from("203.0.113.8", maxLogIns); page.StatusCode != 422 {
		t.Errorf("another caller: %d", page.StatusCode)
	}
	s.pass(logInsTime + time.Second)
	if page := from("203.0.113.7", maxLogIns); page.StatusCode != 422 {
		t.Errorf("a minute later: %d", page.StatusCode)
	}
}

// TestThrottleIsBounded: what is remembered of callers does not grow without end.
func TestThrottleIsBounded(t *testing.T) {
	t.Parallel()
	now := time.Now()
	th := throttle{limit: 1, window: time.Minute}
	for i := range maxThrottled + 100 {
		if !th.take(now, fmt.Sprint(i)) {
			t.Fatalf("key %d is refused", i)
		}
	}
	if len(th.counts) != maxThrottled || th.take(now, "5") {
		t.Errorf("%d keys, and the fifth again is let through: %v", len(th.counts), th.counts)
	}
	th.forget("5")
	if !th.take(now, "5") || !th.take(now.Add(time.Minute+1), "7") || len(th.counts) != 1 {
		t.Error("it does not forget")
	}
}

func TestSessionsEnd(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	account := s.ann(s.tenant)
	home, login := s.hello("en"), s.say("en", "login.title")
	one, other := s.browser(), s.browser()
	in := func(b *browser) {
		b.post(s.page("/login"), credentials("ann.okafor", goodPassword)).wantPage(t, 200, home)
	}
	sessions := func(want int) {
		t.Helper()
		if n := read[int](s, `SELECT count(*) FROM session WHERE account_id = $1`, account.ID); n != want {
			t.Errorf("%d sessions, want %d", n, want)
		}
	}
	in(one)
	old := one.client.Jar.Cookies(mustParse(t, s.base))[0].Value
	in(one) // the session is a new one, and the old one is over
	if now := one.client.Jar.Cookies(mustParse(t, s.base))[0].Value; now == old {
		t.Error("the session stayed the same")
	}
	sessions(1)
	in(other)
	sessions(2)
	page := one.post(s.page("/logout"), url.Values{})
	page.wantPage(t, 200, login)
	if !strings.Contains(text(page.root), s.say("en", "login.logged_out")) {
		t.Error("the log-in does not say that one is logged out")
	}
	sessions(1)
	one.get(s.page("/home")).wantPage(t, 200, login)
	in(one)
	one.post(s.page("/logout/everywhere"), url.Values{}).wantPage(t, 200, login)
	sessions(0)
	other.get(s.page("/home")).wantPage(t, 200, login)

	// A GET logs nobody out, nor does another site's form.
	in(one)
	for _, path := range []string{"/logout", "/logout/everywhere"} {
		if page := one.get(s.page(path)); page.StatusCode != 404 && page.StatusCode != 405 {
			t.Errorf("GET %s: %d", path, page.StatusCode)
		}
		if page := one.post(s.page(path), url.Values{}, "Sec-Fetch-Site", "cross-site"); page.StatusCode != 403 {
			t.Errorf("%s from another site: %d", path, page.StatusCode)
		}
	}
	sessions(1)
}

func mustParse(t *testing.T, address string) *url.URL {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func TestPasswordByMail(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	account := s.ann(s.tenant)
	ask := func(name string) sheet {
		return s.browser().post(s.page("/password"), url.Values{"identifier": {name}})
	}
	mails := func(want int) {
		t.Helper()
		if n := read[int](s, `SELECT count(*) FROM message WHERE kind = 'password'`); n != want {
			t.Errorf("%d mails, want %d", n, want)
		}
	}
	title := s.say("en", "password_asked.title")
	start := time.Now()
	known := ask("ann@client.example")
	known.wantPage(t, 200, title)
	mails(1)
	if have := read[string](s, `SELECT lane || ' ' || email_key FROM message WHERE kind = 'password'`); have != "interactive ann@client.example" {
		t.Errorf("mail is %s", have)
	}
	for _, name := range []string{"nobody@client.example", "second@client.example", "nobody", "ann.okafor"} { // the last: too soon
		page := ask(name)
		page.wantPage(t, 200, title)
		if text(page.root) != text(known.root) {
			t.Errorf("%s is answered differently", name)
		}
	}
	if took := time.Since(start); took < 5*askTime {
		t.Errorf("five answers took %s, each should take %s", took, askTime)
	}
	mails(1)
	if page := ask(" "); page.StatusCode != 422 {
		t.Errorf("nobody: %d", page.StatusCode)
	}

	first := s.passwordToken(account)
	s.pass(passwordRest)
	ask("Ann.Okafor").wantPage(t, 200, title)
	mails(2)
	second := s.passwordToken(account)
	if first == second {
		t.Fatal("both mails have one link")
	}

	// A GET changes nothing; what is wrong is said at the field.
	elsewhere := s.browser()
	elsewhere.post(s.page("/login"), credentials("ann.okafor", goodPassword))
	before := s.everything()
	b := s.browser()
	page := b.get("/password/" + first)
	page.wantPage(t, 200, s.say("en", "set_password.title"))
	if !strings.Contains(page.body, "ann@client.example") || page.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("page is %s", page.body)
	}
	if page := b.post("/password/"+first, url.Values{"password": {"short"}}); page.StatusCode != 422 || !strings.Contains(text(page.root), s.say("en", "error.password_too_short", "min", minPassword)) {
		t.Errorf("a short password: %d", page.StatusCode)
	}
	if after := s.everything(); after != before {
		t.Errorf("looking changed:\n%s", changed(before, after))
	}

	// Wrong tries are forgotten, everybody else is logged out, and all links die.
	s.exec(`UPDATE account SET failed_logins = 10, locked_until = now() + interval '1 day' WHERE id = $1`, account.ID)
	const another = "battery staple correct"
	page = b.post("/password/"+first, url.Values{"password": {another}})
	page.wantPage(t, 200, s.hello("en"))
	if !strings.Contains(text(page.root), s.say("en", "home.done.password")) {
		t.Error("the page does not say that the password is set")
	}
	elsewhere.get(s.page("/home")).wantPage(t, 200, s.say("en", "login.title"))
	dead := s.say("en", "dead_password.title")
	for _, token := range []string{first, second, "x", s.token(s.invite(s.tenant, "bob@client.example"))} {
		s.browser().get("/password/"+token).wantPage(t, 404, dead)
		s.browser().post("/password/"+token, url.Values{"password": {goodPassword}}).wantPage(t, 404, dead)
	}
	if page := s.browser().post(s.page("/login"), credentials("ann.okafor", goodPassword)); page.StatusCode != 422 {
		t.Errorf("the old password: %d", page.StatusCode)
	}
	s.browser().post(s.page("/login"), credentials("ann.okafor", another)).wantPage(t, 200, s.hello("en"))
	if strings.Contains(s.log.String(), another) {
		t.Error("the log has the password")
	}

	// A link works for an hour; ten mails are a day's.
	s.pass(passwordRest)
	ask("ann.okafor")
	late := s.passwordToken(account)
	s.pass(time.Hour - time.Second)
	s.browser().get("/password/"+late).wantPage(t, 200, s.say("en", "set_password.title"))
	s.pass(2 * time.Second)
	s.browser().get("/password/"+late).wantPage(t, 404, dead)
	s.exec(`INSERT INTO message (id, app_id, kind, subject_id, purpose, lane, email_key, state, created_at)
		SELECT gen_random_uuid(), app_id, kind, subject_id, n::text, lane, email_key, 'accepted', created_at
		FROM message, generate_series(1, 7) AS n WHERE id = (SELECT max(id::text)::uuid FROM message WHERE kind = 'password')`)
	mails(10)
	ask("ann.okafor")
	mails(10)
	s.pass(24 * time.Hour)
	ask("ann.okafor")
	mails(11)
}

// passwordRest is the rest between two mails with a link to set a password.
const passwordRest = 5*time.Minute + time.Second

// TestPasswordOnTheWayToAnInvitation: who has to set a password first gets back
// to the invitation they came for, whatever browser they open the mail in.
func TestPasswordOnTheWayToAnInvitation(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	account := s.ann(s.tenant)
	inv := s.invite(s.tenant, "ann@client.example")
	page := s.browser().get("/i/" + s.token(inv))
	forgotten := ""
	for _, a := range (document{root: page.root}).all("a") {
		if strings.HasPrefix(attr(a, "href"), "/password?") {
			forgotten = attr(a, "href")
		}
	}
	page = s.browser().get(forgotten)
	next := ""
	for _, input := range (document{root: page.root}).all("input") {
		if attr(input, "name") == "next" {
			next = attr(input, "value")
		}
	}
	s.browser().post(s.page("/password"), url.Values{"identifier": {"ann.okafor"}, "next": {next}}).wantPage(t, 200, s.say("en", "password_asked.title"))
	page = s.browser().post("/password/"+s.passwordToken(account), url.Values{"password": {goodPassword}})
	if page.Request.URL.Path != "/i/"+s.token(inv) || !strings.Contains(text(page.root), s.say("en", "accept.signed_in.title")) {
		t.Errorf("it ended at %s: %s", page.Request.URL, page.title())
	}
	if s.state(inv) != "pending" {
		t.Errorf("invitation is %s", s.state(inv))
	}
	if args := read[string](s, `SELECT args::text FROM message WHERE kind = 'password'`); strings.Contains(args, s.token(inv)) {
		t.Error("the token is stored")
	}
}
