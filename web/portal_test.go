package web

import (
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"usher/internal/roster"
)

func newAccountForm() url.Values {
	return url.Values{"full_name": {"Ann N. Okafor"}, "password": {goodPassword}}
}

// known makes an account with that address, with goodPassword unless hash says
// otherwise.
func (s *site) known(te tenant, email string, passwordless bool) roster.Account {
	s.t.Helper()
	account, err := s.roster.CreateAccount(s.t.Context(), te.app.ID, roster.NewAccount{Kind: roster.Client, FullName: "Ann Okafor", Email: email}, roster.IdempotencyKey{})
	if err != nil {
		s.t.Fatal(err)
	}
	if !passwordless {
		hash, err := roster.HashPassword(s.t.Context(), goodPassword)
		if err != nil {
			s.t.Fatal(err)
		}
		s.exec(`UPDATE account SET password_hash = $2 WHERE id = $1`, account.ID, hash)
	}
	return account
}

func (s *site) state(inv roster.Invitation) string {
	s.t.Helper()
	return read[string](s, `SELECT state FROM invitation WHERE id = $1`, inv.ID)
}

func (s *site) members(inv roster.Invitation) int {
	s.t.Helper()
	return read[int](s, `SELECT count(*) FROM membership WHERE workspace_id = $1 AND role = 'client_user'`, inv.WorkspaceID)
}

func TestAcceptAsNewPerson(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	inv := s.invite(s.tenant, "ann@client.example")
	path := "/i/" + s.token(inv)
	b := s.browser()
	opened := b.get(path)
	if opened.StatusCode != 200 || !slices.Equal(opened.forms(), []string{"accept", "decline"}) {
		t.Fatalf("page is %d with forms %q", opened.StatusCode, opened.forms())
	}
	for _, want := range []string{"Marie Dupont", "Acme Therapy", "Family Okafor", "ann@client.example", "Ann Okafor"} {
		if !strings.Contains(opened.body, want) {
			t.Errorf("the page does not say %q", want)
		}
	}

	// What is wrong is said at the field, and nothing happens.
	before := s.everything()
	for wrong, form := range map[formError]url.Values{
		nameMissing:      {"full_name": {" "}, "password": {goodPassword}},
		nameTooLong:      {"full_name": {strings.Repeat("x", 121)}, "password": {goodPassword}},
		nameUnusable:     {"full_name": {"Ann\r\nBcc: eve"}, "password": {goodPassword}},
		passwordTooShort: {"full_name": {"Ann"}, "password": {"1234567"}},
		passwordTooLong:  {"full_name": {"Ann"}, "password": {strings.Repeat("x", 201)}},
	} {
		posted := b.post(path+"/accept", form)
		want := page{Printer: s.server.pages.texts.In("en")}.Error(wrong)
		if posted.StatusCode != 422 || !strings.Contains(text(posted.root), want) || strings.Contains(posted.body, goodPassword) {
			t.Errorf("%s: %d, want it to say %q", wrong, posted.StatusCode, want)
		}
	}
	if page := b.post(path+"/accept", nil); page.StatusCode != 422 {
		t.Errorf("an empty form: %d", page.StatusCode)
	}
	if after := s.everything(); after != before {
		t.Errorf("refused forms changed:\n%s", changed(before, after))
	}

	// The decision, once and again: the same success, nothing doubled.
	for _, ends := range []string{path, path + "/accept"} {
		page := b.post(path+"/accept", newAccountForm())
		page.wantPage(t, 200, s.say("en", "accepted.title", "workspace", "Family Okafor"))
		if page.Request.URL.Path != ends || !strings.Contains(page.body, s.app.URL) {
			t.Errorf("it ended at %s, want %s", page.Request.URL, ends)
		}
	}
	if s.state(inv) != "accepted" || s.members(inv) != 1 {
		t.Errorf("state %s, %d members", s.state(inv), s.members(inv))
	}
	for sql, want := range map[string]int{
		`SELECT count(*) FROM event WHERE type = 'invitation.accepted'`:                                                           1,
		`SELECT count(*) FROM message WHERE kind = 'news'`:                                                                        1,
		`SELECT count(*) FROM account WHERE full_name = 'Ann N. Okafor' AND kind = 'client' AND password_hash LIKE '$argon2id$%'`: 1,
		`SELECT count(*) FROM session`:                                                                                            1,
	} {
		if have := read[int](s, sql); have != want {
			t.Errorf("%s: %d, want %d", sql, have, want)
		}
	}
	// Somebody else with the link learns that it was accepted, no more.
	other := s.browser().get(path)
	other.wantPage(t, 200, s.say("en", "already_accepted.title"))
	if strings.Contains(other.body, "ann@client") || strings.Contains(other.body, "Okafor N") {
		t.Error("the page tells a stranger who accepted")
	}
}

func TestAcceptByLogIn(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	account := s.known(s.tenant, "ann@client.example", false)
	inv := s.invite(s.tenant, "ANN@client.example")
	path := "/i/" + s.token(inv)
	b := s.browser()
	page := b.get(path)
	if page.StatusCode != 200 || !strings.Contains(text(page.root), s.say("en", "accept.log_in.title")) || strings.Contains(page.body, `name="full_name"`) {
		t.Fatalf("page is %d %q", page.StatusCode, page.title())
	}
	page = b.post(path+"/accept", url.Values{"password": {"wrong password"}})
	if page.StatusCode != 422 || !strings.Contains(text(page.root), s.say("en", "error.password_wrong")) || s.state(inv) != "pending" {
		t.Errorf("a wrong password: %d, state %s", page.StatusCode, s.state(inv))
	}
	// A name and a password of one's choice make no second account.
	if page := b.post(path+"/accept", url.Values{"full_name": {"Eve"}, "password": {"wrong password"}}); page.StatusCode != 422 {
		t.Errorf("a form for new people: %d", page.StatusCode)
	}
	b.post(path+"/accept", url.Values{"password": {goodPassword}}).wantPage(t, 200, s.say("en", "accepted.title", "workspace", "Family Okafor"))
	if have := read[string](s, `SELECT account_id::text FROM invitation WHERE id = $1`, inv.ID); have != account.ID.String() {
		t.Errorf("accepted by %s", have)
	}
	if n := read[int](s, `SELECT count(*) FROM account WHERE email_key = 'ann@client.example'`); n != 1 {
		t.Errorf("%d accounts, want 1", n)
	}

	// Signed in, the next invitation takes one click.
	other, err := s.roster.CreateWorkspace(t.Context(), s.app.ID, roster.NewWorkspace{CompanyID: s.company.ID, Name: "Second", OwnerID: s.actor.ID}, roster.IdempotencyKey{})
	if err != nil {
		t.Fatal(err)
	}
	te := s.tenant
	te.workspace = other
	next := "/i/" + s.token(s.invite(te, "ann@client.example"))
	page = b.get(next)
	if page.StatusCode != 200 || strings.Contains(page.body, `type="password"`) {
		t.Errorf("signed in, the page is %d and asks for a password", page.StatusCode)
	}
	b.post(next+"/accept", nil).wantPage(t, 200, s.say("en", "accepted.title", "workspace", "Second"))
}

func TestLogInLocks(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.known(s.tenant, "ann@client.example", false)
	inv := s.invite(s.tenant, "ann@client.example")
	path := "/i/" + s.token(inv) + "/accept"
	b := s.browser()
	for try := range 10 {
		if page := b.post(path, url.Values{"password": {"wrong password"}}); page.StatusCode != 422 {
			t.Fatalf("try %d: %d", try+1, page.StatusCode)
		}
	}
	page := b.post(path, url.Values{"password": {goodPassword}})
	page.wantPage(t, 429, s.say("en", "too_many_tries.title"))
	s.browser().post(path, url.Values{"password": {goodPassword}}).wantPage(t, 429, s.say("en", "too_many_tries.title"))
	if s.state(inv) != "pending" {
		t.Errorf("state is %s", s.state(inv))
	}
	s.pass(15*time.Minute + time.Second)
	b.post(path, url.Values{"password": {goodPassword}}).wantPage(t, 200, s.say("en", "accepted.title", "workspace", "Family Okafor"))
}

func TestAcceptWithoutPassword(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	account := s.known(s.tenant, "ann@client.example", true)
	inv := s.invite(s.tenant, "ann@client.example")
	path := "/i/" + s.token(inv)
	b := s.browser()
	page := b.get(path)
	if page.StatusCode != 200 || strings.Contains(page.body, `type="password"`) || strings.Contains(page.body, `id="full_name"`) {
		t.Fatalf("page is %d and asks for something", page.StatusCode)
	}
	// A password sent along is not taken: the inviter has the link too.
	page = b.post(path+"/accept", newAccountForm())
	page.wantPage(t, 200, s.say("en", "already_accepted.title")) // whoever held the link is not signed in
	if s.state(inv) != "accepted" || s.members(inv) != 1 {
		t.Errorf("state %s, %d members", s.state(inv), s.members(inv))
	}
	if have := read[string](s, `SELECT full_name || password_hash FROM account WHERE id = $1`, account.ID); have != "Ann Okafor" {
		t.Errorf("the account became %s", have)
	}
	if n := read[int](s, `SELECT count(*) FROM session`); n != 0 {
		t.Errorf("%d sessions without proof", n)
	}
}

// signIn makes the browser be signed in to an account.
func (b *browser) signIn(te tenant, account roster.Account) {
	b.s.t.Helper()
	value, _, err := b.s.roster.StartSession(b.s.t.Context(), te.app.ID, account.ID)
	if err != nil {
		b.s.t.Fatal(err)
	}
	base, err := url.Parse(b.s.base)
	if err != nil {
		b.s.t.Fatal(err)
	}
	b.client.Jar.SetCookies(base, []*http.Cookie{{Name: sessionCookie(te.app), Value: value, Path: "/"}})
}

func TestWrongAccount(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	bea := s.known(s.tenant, "bea@client.example", false)
	inv := s.invite(s.tenant, "annabelle@client.example")
	path := "/i/" + s.token(inv)
	b := s.browser()
	b.signIn(s.tenant, bea)

	before := s.everything()
	for _, page := range []sheet{b.get(path), b.post(path+"/accept", newAccountForm())} {
		page.wantPage(t, 409, s.say("en", "wrong_account.title"))
		if !strings.Contains(page.body, "bea@client.example") || !strings.Contains(page.body, "a•••@client.example") || strings.Contains(page.body, "annabelle") {
			t.Error("the page does not name the one account and mask the other")
		}
	}
	if after := s.everything(); after != before {
		t.Errorf("opening it as somebody else changed:\n%s", changed(before, after))
	}
	page := b.post(path+"/switch", nil)
	if page.StatusCode != 200 || !slices.Equal(page.forms(), []string{"accept", "decline"}) {
		t.Errorf("after the switch: %d %q", page.StatusCode, page.title())
	}
	if n := read[int](s, `SELECT count(*) FROM session`); n != 0 {
		t.Errorf("%d sessions after the switch", n)
	}
	b.post(path+"/accept", newAccountForm()).wantPage(t, 200, s.say("en", "accepted.title", "workspace", "Family Okafor"))
}

// TestSessionsStayInTheirApp signs in to one app and opens another's link.
func TestSessionsStayInTheirApp(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	other := s.newTenant("Other")
	account := s.known(s.tenant, "ann@client.example", false)
	s.known(other, "ann@client.example", false)
	path := "/i/" + s.token(s.invite(other, "ann@client.example"))
	b := s.browser()
	b.signIn(s.tenant, account)
	page := b.get(path)
	if page.StatusCode != 200 || !strings.Contains(page.body, `type="password"`) {
		t.Errorf("the other app's page is %d and asks for no password", page.StatusCode)
	}

	// Even the value itself means nothing under the other app's cookie.
	value, _, err := s.roster.StartSession(t.Context(), s.app.ID, account.ID)
	if err != nil {
		t.Fatal(err)
	}
	page = s.browser().get(path, "Cookie", sessionCookie(other.app)+"="+value)
	if page.StatusCode != 200 || !strings.Contains(page.body, `type="password"`) {
		t.Errorf("with the session's value under the other name: %d", page.StatusCode)
	}
	if page := b.post(path+"/accept", nil); page.StatusCode != 422 {
		t.Errorf("accepting without a password: %d", page.StatusCode)
	}
}

func TestSessionEnds(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	account := s.known(s.tenant, "ann@client.example", false)
	b := s.browser()
	b.signIn(s.tenant, account)
	asks := func() bool {
		path := "/i/" + s.token(s.invite(s.tenant, "ann@client.example"))
		return strings.Contains(b.get(path).body, `type="password"`)
	}
	if asks() {
		t.Error("a signed-in person is asked for a password")
	}
	s.exec(`UPDATE account SET status = 'archived' WHERE id = $1`, account.ID)
	if page := b.get("/i/" + s.token(s.invite(s.tenant, "ann@client.example"))); !strings.Contains(page.body, `id="full_name"`) {
		t.Errorf("an archived account's session counts: %d %q", page.StatusCode, page.title())
	}
	s.exec(`UPDATE account SET status = 'active' WHERE id = $1`, account.ID)
	s.pass(31 * 24 * time.Hour)
	if !asks() {
		t.Error("a session of a month ago counts")
	}
}

func TestDecline(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	inv := s.invite(s.tenant, "ann@client.example")
	path := "/i/" + s.token(inv)
	b := s.browser()
	b.post(path+"/decline", nil).wantPage(t, 200, s.say("en", "declined.title"))
	b.post(path+"/decline", nil).wantPage(t, 200, s.say("en", "already_declined.title"))
	b.post(path+"/accept", newAccountForm()).wantPage(t, 200, s.say("en", "already_declined.title"))
	b.get(path).wantPage(t, 200, s.say("en", "already_declined.title"))
	if s.state(inv) != "declined" || s.members(inv) != 0 {
		t.Errorf("state %s, %d members", s.state(inv), s.members(inv))
	}
	if n := read[int](s, `SELECT count(*) FROM message WHERE kind = 'news'`); n != 1 {
		t.Errorf("the inviter is told %d times", n)
	}
}

// Case 4: of the sweep and somebody who accepts at the very moment of expiry one
// wins, and the other sees what it was.
func TestCase4(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for round := range 12 {
		s.ahead.Store(0)
		inv := s.invite(s.tenant, fmt.Sprintf("ann%d@client.example", round))
		path := "/i/" + s.token(inv)
		s.ahead.Store(int64(time.Until(inv.ExpiresAt)) - int64(10*time.Millisecond))
		swept := make(chan error, 1)
		go func() {
			var err error
			for until := time.Now().Add(20 * time.Millisecond); err == nil && time.Now().Before(until); {
				_, err = s.roster.ExpireInvitations(t.Context(), 10)
			}
			swept <- err
		}()
		page := s.browser().post(path+"/accept", newAccountForm())
		if err := <-swept; err != nil {
			t.Fatal(err)
		}
		if _, err := s.roster.ExpireInvitations(t.Context(), 10); err != nil {
			t.Fatal(err)
		}
		switch state := s.state(inv); {
		case state == "accepted" && page.StatusCode < 400 && s.members(inv) == 1:
		case state == "expired" && page.StatusCode == 410 && s.members(inv) == 0:
		default:
			t.Errorf("state %s, answer %d, %d members", state, page.StatusCode, s.members(inv))
		}
		events := read[int](s, `SELECT count(*) FROM event WHERE type IN ('invitation.accepted', 'invitation.expired') AND subject_id = $1`, inv.ID)
		if events != 1 {
			t.Errorf("%d decisions", events)
		}
	}
}

// Case 3: who accepts or declines a moment too late is told so, and can ask for a
// new link.
func TestCase3(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	inv := s.invite(s.tenant, "ann@client.example")
	path := "/i/" + s.token(inv)
	b := s.browser()
	s.ahead.Store(int64(time.Until(inv.ExpiresAt)) + int64(time.Second)) // the sweep was not there yet
	for range 2 {
		page := b.get(path)
		page.wantPage(t, 410, s.say("en", "expired.title"))
		if !slices.Equal(page.forms(), []string{"renew"}) {
			t.Errorf("forms are %q", page.forms())
		}
		b.post(path+"/accept", newAccountForm()).wantPage(t, 410, s.say("en", "expired.title"))
		b.post(path+"/decline", nil).wantPage(t, 410, s.say("en", "expired.title"))
		if _, err := s.roster.ExpireInvitations(t.Context(), 10); err != nil {
			t.Fatal(err)
		}
	}
	asked := func() int { return read[int](s, `SELECT count(*) FROM event WHERE type = 'invitation.renewal_asked'`) }
	for range 3 {
		b.post(path+"/renew", nil).wantPage(t, 200, s.say("en", "renewal_asked.title"))
	}
	if n := asked(); n != 1 {
		t.Errorf("the inviter is asked %d times in a day", n)
	}
	s.pass(24*time.Hour + time.Second)
	b.post(path+"/renew", nil)
	if n := asked(); n != 2 {
		t.Errorf("the inviter is asked %d times in two days", n)
	}
	if s.state(inv) != "expired" || s.members(inv) != 0 {
		t.Errorf("state %s, %d members", s.state(inv), s.members(inv))
	}

	// Reopened, the old link stays dead and the new one works.
	again, err := s.roster.ReopenInvitation(t.Context(), s.app.ID, s.actor.ID, inv.ID, roster.IdempotencyKey{})
	if err != nil {
		t.Fatal(err)
	}
	b.get(path).wantPage(t, 404, s.say("en", "dead_link.title"))
	if page := b.get("/i/" + s.token(again)); page.StatusCode != 200 {
		t.Errorf("the new link: %d", page.StatusCode)
	}
}

func TestRevokedPage(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	inv := s.invite(s.tenant, "ann@client.example")
	if _, err := s.roster.RevokeInvitation(t.Context(), s.app.ID, s.actor.ID, inv.ID, roster.IdempotencyKey{}); err != nil {
		t.Fatal(err)
	}
	closed := s.invite(s.tenant, "bea@client.example")
	b := s.browser()
	for _, path := range []string{"/i/" + s.token(inv), "/i/" + s.token(closed)} {
		b.get(path).wantPage(t, 410, s.say("en", "revoked.title"))
		b.post(path+"/accept", newAccountForm()).wantPage(t, 410, s.say("en", "revoked.title"))
		b.post(path+"/decline", nil).wantPage(t, 410, s.say("en", "revoked.title"))
		s.exec(`UPDATE workspace SET state = 'archived'`) // closes the second one's
	}
	if n := read[int](s, `SELECT count(*) FROM membership WHERE role = 'client_user'`); n != 0 {
		t.Errorf("%d members", n)
	}
}

// TestDeadLinks: whatever is wrong with a link, the page is the same but for
// the token itself, and nothing tells whether it was ever genuine.
func TestDeadLinks(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	inv := s.invite(s.tenant, "ann@client.example")
	good := s.token(inv)
	stale := good
	inv, err := s.roster.CorrectInvitationAddress(t.Context(), s.app.ID, s.actor.ID, inv.ID, "anna@client.example", roster.IdempotencyKey{})
	if err != nil {
		t.Fatal(err)
	}
	good = s.token(inv)
	foreign, err := roster.NewKeyring(strings.Repeat("f", roster.MinSecret))
	if err != nil {
		t.Fatal(err)
	}
	flip := func(at int) string {
		letter := byte('A')
		if good[at] == 'A' {
			letter = 'B'
		}
		return good[:at] + string(letter) + good[at+1:]
	}
	unknown := inv.Ticket()
	unknown.ID[15]++
	later := inv.Ticket()
	later.Version++
	tests := map[string]string{
		"stale":           stale,
		"of the future":   s.server.Keys.Token(roster.PurposeInvitation, later),
		"unknown":         s.server.Keys.Token(roster.PurposeInvitation, unknown),
		"other purpose":   s.server.Keys.Token("request", inv.Ticket()),
		"other key":       foreign.Token(roster.PurposeInvitation, inv.Ticket()),
		"key id tampered": flip(0),
		"id tampered":     flip(10),
		"version changed": flip(28),
		"MAC tampered":    flip(len(good) - 3),
		"cut off":         good[:len(good)-1],
		"longer":          good + "A",
		"twice":           good + good,
		"padded":          good + "=",
		"the id itself":   inv.ID.String(),
		"nonsense":        "x",
		"escaped":         "%00%ff",
		"a script":        "%3Cscript%3Ealert(1)%3C%2Fscript%3E",
		"very long":       strings.Repeat("A", 2000),
	}
	b := s.browser()
	nonce := regexp.MustCompile(`nonce="[^"]*"`)
	address := regexp.MustCompile(`/i/[^"?]*`)
	plain := func(p sheet) string {
		return address.ReplaceAllString(nonce.ReplaceAllString(p.body, ""), "/i/")
	}
	want, wantRenewed := "", ""
	before := s.everything()
	for name, token := range tests {
		path := "/i/" + token
		page := b.get(path)
		page.wantPage(t, 404, s.say("en", "dead_link.title"))
		if want == "" {
			want = plain(page)
		} else if have := plain(page); have != want {
			t.Errorf("%s: the page differs:\n%s\nfrom\n%s", name, have, want)
		}
		if strings.Contains(page.body, "<script") || strings.Contains(page.body, "Okafor") || strings.Contains(page.body, "Kindred") {
			t.Errorf("%s: the page tells something, or runs it", name)
		}
		for _, action := range []string{"/accept", "/decline", "/switch"} {
			if page := b.post(path+action, newAccountForm()); page.StatusCode != 404 || plain(page) != want {
				t.Errorf("%s%s: %d", name, action, page.StatusCode)
			}
		}
		page = b.post(path+"/renew", nil)
		page.wantPage(t, 200, s.say("en", "renewal_asked.title"))
		if wantRenewed == "" {
			wantRenewed = plain(page)
		} else if have := plain(page); have != wantRenewed {
			t.Errorf("%s: the answer to asking for a new link differs:\n%s", name, have)
		}
	}
	// So does the answer for the genuine link of an open invitation.
	if page := b.post("/i/"+good+"/renew", nil); plain(page) != wantRenewed {
		t.Errorf("for a genuine link it differs:\n%s", plain(page))
	}
	if after := s.everything(); after != before {
		t.Errorf("dead links changed:\n%s", changed(before, after))
	}
	if page := b.get("/i/" + good); page.StatusCode != 200 {
		t.Errorf("the good link: %d", page.StatusCode)
	}
}

// TestFetchingLinksChangesNothing does what mail scanners do.
func TestFetchingLinksChangesNothing(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	expired := s.invite(s.tenant, "old@client.example")
	s.exec(`UPDATE invitation SET expires_at = now() - interval '1 minute' WHERE id = $1`, expired.ID)
	before := s.everything()
	b := s.browser().stay()
	for _, inv := range []roster.Invitation{s.invite(s.tenant, "ann@client.example"), expired} {
		if inv.ID != expired.ID {
			before = s.everything()
		}
		path := "/i/" + s.token(inv)
		status := map[bool]int{true: 410, false: 200}[inv.ID == expired.ID]
		for _, method := range []string{http.MethodGet, http.MethodHead} {
			for range 3 {
				if page := b.do(method, path+"?lang=es", nil); page.StatusCode != status {
					t.Errorf("%s: %d, want %d", method, page.StatusCode, status)
				}
			}
		}
		for _, action := range []string{"accept", "decline", "renew", "switch"} {
			for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodPut, http.MethodDelete, http.MethodPatch, http.MethodOptions} {
				if page := b.do(method, path+"/"+action, nil); page.StatusCode != 405 {
					t.Errorf("%s %s: %d, want 405", method, action, page.StatusCode)
				}
			}
		}
	}
	if after := s.everything(); after != before {
		t.Errorf("fetching links changed:\n%s", changed(before, after))
	}
}

// TestFormsOfOtherSites: a form that another site's page sends is refused.
func TestFormsOfOtherSites(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	inv := s.invite(s.tenant, "ann@client.example")
	path := "/i/" + s.token(inv)
	before := s.everything()
	b := s.browser()
	for _, header := range [][]string{
		{"Sec-Fetch-Site", "cross-site"},
		{"Sec-Fetch-Site", "same-site"},
		{"Sec-Fetch-Site", "nonsense"},
		{"Sec-Fetch-Site", "cross-site", "Origin", s.base},
		{"Origin", "https://evil.example"},
		{"Origin", s.base + ".evil.example"},
		{"Origin", "%"},
	} {
		for _, action := range []string{"accept", "decline", "renew", "switch"} {
			page := b.post(path+"/"+action, newAccountForm(), header...)
			page.wantPage(t, 403, s.say("en", "problem.forbidden.title"))
		}
	}
	if page := b.do(http.MethodPost, path+"/accept", url.Values{"full_name": {"Ann"}, "password": {goodPassword}, "more": {strings.Repeat("x", maxBody)}}); page.StatusCode != 413 {
		t.Errorf("a form too large: %d", page.StatusCode)
	}
	if after := s.everything(); after != before {
		t.Errorf("refused forms changed:\n%s", changed(before, after))
	}
	for _, header := range [][]string{{"Sec-Fetch-Site", "same-origin"}, {"Sec-Fetch-Site", "none"}, {"Origin", s.base}, {"Origin", "null"}, {"Origin", "null", "Sec-Fetch-Site", "same-origin"}} {
		if page := b.post(path+"/accept", url.Values{}, header...); page.StatusCode != 422 {
			t.Errorf("our own form with %q: %d, want 422 for what is missing in it", header, page.StatusCode)
		}
	}
	// Another site's page may link to ours.
	if page := b.get(path, "Sec-Fetch-Site", "cross-site"); page.StatusCode != 200 {
		t.Errorf("a link from another site: %d", page.StatusCode)
	}
}

func TestLanguage(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	plain, spanish := s.invite(s.tenant, "ann@client.example"), s.invite(s.tenant, "bea@client.example")
	s.exec(`UPDATE invitation SET locale = 'es' WHERE id = $1`, spanish.ID)
	lang := func(p sheet) string { return attr(p.all("html")[0], "lang") }
	tests := []struct {
		name   string
		inv    roster.Invitation
		query  string
		accept string
		want   string
	}{
		{"nothing said", plain, "", "", "en"},
		{"the browser's", plain, "", "fr-CA,fr;q=0.9,en;q=0.8", "fr"},
		{"the browser's second", plain, "", "ja,es;q=0.5", "es"},
		{"none we have", plain, "", "ja", "en"},
		{"the inviter's word over the browser's", spanish, "", "fr", "es"},
		{"chosen on the page", spanish, "?lang=fr", "en", "fr"},
		{"chosen, none we have", plain, "?lang=xx", "", "en"},
		{"chosen, nonsense", plain, "?lang=%00%22%3E", "", "en"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			page := s.browser().get("/i/"+s.token(test.inv)+test.query, "Accept-Language", test.accept)
			if have := lang(page); have != test.want || page.StatusCode != 200 {
				t.Errorf("%d in %q, want %q", page.StatusCode, have, test.want)
			}
		})
	}
	b := s.browser()
	b.get("/i/" + s.token(spanish) + "?lang=fr")
	if have := lang(b.get("/i/" + s.token(plain))); have != "fr" {
		t.Errorf("a language chosen before: %q, want fr", have)
	}
	// A form's answer comes in the language of its page, also after the redirect.
	page := s.browser().post("/i/"+s.token(plain)+"/accept?lang=es", newAccountForm())
	page.wantPage(t, 200, s.say("es", "accepted.title", "workspace", "Family Okafor"))
	if page := s.browser().get("/i/nonsense", "Accept-Language", "fr"); page.title() != s.say("fr", "dead_link.title") {
		t.Errorf("a dead link's page is %q", page.title())
	}
}

// TestHeaders checks what browsers are told about people's pages.
func TestHeaders(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.browser()
	path := "/i/" + s.token(s.invite(s.tenant, "ann@client.example"))
	nonces := map[string]bool{}
	for _, p := range []sheet{
		b.get(path), b.get(path), b.get("/i/nonsense"), b.post("/i/nonsense/renew", nil), b.post(path+"/accept", nil),
		b.post(path+"/decline", nil, "Sec-Fetch-Site", "cross-site"), b.get(path + "/nowhere"), b.post(path+"/accept", newAccountForm()),
	} {
		for name, want := range map[string]string{
			"Cache-Control": "no-store", "Referrer-Policy": "no-referrer", "X-Content-Type-Options": "nosniff",
			"X-Robots-Tag": "noindex", "Content-Type": "text/html; charset=utf-8",
		} {
			if have := p.Header.Get(name); have != want {
				t.Errorf("%d %q: %s is %q, want %q", p.StatusCode, p.title(), name, have, want)
			}
		}
		policy := p.Header.Get("Content-Security-Policy")
		nonce := attr(p.all("style")[0], "nonce")
		if nonce == "" || nonces[nonce] || !strings.Contains(policy, "'nonce-"+nonce+"'") {
			t.Errorf("nonce %q is used twice or not in the policy %q", nonce, policy)
		}
		nonces[nonce] = true
		for _, want := range []string{"default-src 'none'", "frame-ancestors 'none'", "base-uri 'none'", "form-action 'self'"} {
			if !strings.Contains(policy, want) {
				t.Errorf("the policy does not say %s: %s", want, policy)
			}
		}
		if strings.Contains(policy, "unsafe") || strings.Contains(policy, "script-src") {
			t.Errorf("the policy is loose: %s", policy)
		}
		if p.Header.Get("X-Request-Id") == "" || p.Header.Get("Strict-Transport-Security") != "" {
			t.Errorf("headers are %v", p.Header)
		}
		for _, cookie := range p.Cookies() {
			if !cookie.HttpOnly || cookie.SameSite != http.SameSiteLaxMode || cookie.Secure {
				t.Errorf("cookie is %s", cookie)
			}
		}
	}
}

func TestHeadersOverHTTPS(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(o *Options) { o.URL = &url.URL{Scheme: "https", Host: "usher.example"} })
	inv := s.invite(s.tenant, "ann@client.example")
	page := s.browser().stay().post("/i/"+s.token(inv)+"/accept", newAccountForm())
	if page.StatusCode != 303 || page.Header.Get("Strict-Transport-Security") == "" || len(page.Cookies()) != 1 || !page.Cookies()[0].Secure {
		t.Errorf("%d %v", page.StatusCode, page.Header)
	}
	if where := page.Header.Get("Location"); where != "/i/"+s.token(inv) {
		t.Errorf("it leads to %q", where)
	}
}

// TestPagesEscape sends words through the API that would be markup on a page.
func TestPagesEscape(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	name := `<img src=x onerror=alert(1)>"'&{{.}}`
	s.exec(`UPDATE workspace SET name = $1`, name)
	r := s.api(s.tenant, call{method: http.MethodPost, path: "/v1/invitations", body: invitationJSON(s.tenant, map[string]any{"full_name": name, "message": name})})
	if r.StatusCode != 201 {
		t.Fatalf("%d %s", r.StatusCode, r.body)
	}
	page := s.browser().get(strings.TrimPrefix(r.text(t, "link"), s.base))
	if len(page.all("img")) != 0 || !strings.Contains(text(page.root), name) {
		t.Errorf("the page shows %s", page.body)
	}
}

// TestDecisionsAtOnce posts the two decisions many times at the same moment.
func TestDecisionsAtOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.known(s.tenant, "ann@client.example", true) // no hashing, so that they meet
	inv := s.invite(s.tenant, "ann@client.example")
	path := "/i/" + s.token(inv)
	done := make(chan int, 20)
	for i := range 20 {
		action := map[bool]string{true: "/accept", false: "/decline"}[i%2 == 0]
		go func() { done <- s.browser().post(path+action, nil).StatusCode }()
	}
	for range 20 {
		if status := <-done; status != 200 {
			t.Errorf("answered %d", status)
		}
	}
	members := map[string]int{"accepted": 1, "declined": 0}
	if state := s.state(inv); s.members(inv) != members[state] {
		t.Errorf("%s with %d members", state, s.members(inv))
	}
	if n := read[int](s, `SELECT count(*) FROM event WHERE type IN ('invitation.accepted', 'invitation.declined')`); n != 1 {
		t.Errorf("%d decisions", n)
	}
	if n := read[int](s, `SELECT count(*) FROM message WHERE kind = 'news'`); n != 1 {
		t.Errorf("the inviter is told %d times", n)
	}
}
