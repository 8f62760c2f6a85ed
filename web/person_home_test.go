package web

import (
	"net/url"
	"strings"
	"testing"

	"github.com/google/uuid"

	"usher/internal/roster"
)

// signedIn is a browser signed in to ann's account.
func (s *site) signedIn(identifier string) *browser {
	s.t.Helper()
	b := s.browser()
	b.post(s.page("/login"), credentials(identifier, goodPassword)).wantPage(s.t, 200, s.hello("en"))
	return b
}

// itemOf is the inbox's item of an invitation.
func (s *site) itemOf(inv roster.Invitation, account roster.Account) string {
	s.t.Helper()
	return read[string](s, `SELECT id::text FROM notification WHERE subject_id = $1 AND account_id = $2`, inv.ID, account.ID)
}

// TestHomeDecides approves and declines from the inbox, and tells of what was
// decided otherwise meanwhile.
func TestHomeDecides(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	account := s.ann(s.tenant)
	b := s.signedIn("ann.okafor")
	var invitations []roster.Invitation
	for _, name := range []string{"One", "Two", "Three", "Four"} {
		te := s.tenant
		te.workspace = s.workspace2(name)
		invitations = append(invitations, s.invite(te, "ann@client.example"))
	}
	decide := func(n int, what string) string {
		t.Helper()
		page := b.post(s.page("/home/items/"+s.itemOf(invitations[n], account)+"/"+what), url.Values{})
		page.wantPage(t, 200, s.hello("en"))
		for _, p := range (document{root: page.root}).all("p") {
			if attr(p, "role") == "status" {
				return text(p)
			}
		}
		return ""
	}
	page := b.get(s.page("/home"))
	if body := text(page.root); strings.Index(body, "Invitation to One") > strings.Index(body, "Invitation to Two") || !strings.Contains(body, "Invitation to Four") {
		t.Errorf("the page lists %s", body)
	}
	if _, err := s.roster.RevokeInvitation(t.Context(), s.app.ID, s.actor.ID, invitations[2].ID, roster.IdempotencyKey{}); err != nil {
		t.Fatal(err)
	}
	s.exec(`UPDATE invitation SET expires_at = now() - interval '1 hour' WHERE id = $1`, invitations[3].ID)
	for _, step := range []struct {
		n          int
		what, says string
		state      string
	}{
		{0, "approve", "home.done.approved", "accepted"},
		{0, "approve", "home.done.approved", "accepted"}, // again is a success
		{0, "decline", "home.done.over", "accepted"},
		{1, "decline", "home.done.declined", "declined"},
		{2, "approve", "home.done.over", "revoked"},
		{3, "approve", "home.done.expired", "pending"},
	} {
		if said := decide(step.n, step.what); said != s.say("en", step.says) || s.state(invitations[step.n]) != step.state {
			t.Errorf("%s of %d: %q, state %s", step.what, step.n, said, s.state(invitations[step.n]))
		}
	}
	if n := read[int](s, `SELECT count(*) FROM membership WHERE account_id = $1`, account.ID); n != 1 {
		t.Errorf("%d memberships", n)
	}
	// Somebody else's item is none.
	other := s.known(s.tenant, "bob@client.example", false)
	bobs := s.invite(s.tenant, "bob@client.example")
	before := s.everything()
	for _, what := range []string{"approve", "archive", "read", "nonsense"} {
		if page := b.post(s.page("/home/items/"+s.itemOf(bobs, other)+"/"+what), url.Values{}); page.StatusCode != 404 {
			t.Errorf("%s of another's item: %d", what, page.StatusCode)
		}
	}
	if page := b.post(s.page("/home/items/x/approve"), url.Values{}); page.StatusCode != 404 {
		t.Errorf("no item: %d", page.StatusCode)
	}
	if page := b.post(s.page("/home/items/"+s.itemOf(invitations[3], account)+"/approve"), url.Values{}, "Sec-Fetch-Site", "cross-site"); page.StatusCode != 403 {
		t.Errorf("from another site: %d", page.StatusCode)
	}
	// Who is not signed in is asked to, and nothing happens.
	s.browser().post(s.page("/home/items/"+s.itemOf(bobs, other)+"/approve"), url.Values{}).wantPage(t, 200, s.say("en", "login.title"))
	b.get(s.page("/home"))
	b.get(s.page("/home/items/" + s.itemOf(bobs, other) + "/approve"))
	if after := s.everything(); after != before {
		t.Errorf("changed:\n%s", changed(before, after))
	}
}

// workspace2 is another workspace of the tenant.
func (s *site) workspace2(name string) roster.Workspace {
	s.t.Helper()
	w, err := s.roster.CreateWorkspace(s.t.Context(), s.app.ID, roster.NewWorkspace{CompanyID: s.company.ID, Name: name, OwnerID: s.actor.ID}, roster.IdempotencyKey{})
	if err != nil {
		s.t.Fatal(err)
	}
	return w
}

func TestHomeInbox(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	account := s.ann(s.tenant)
	b := s.signedIn("ann.okafor")
	var items []string
	for _, name := range []string{"One", "Two", "Three"} {
		te := s.tenant
		te.workspace = s.workspace2(name)
		inv := s.invite(te, "ann@client.example")
		item := s.itemOf(inv, account)
		items = append(items, item)
		b.post(s.page("/home/items/"+item+"/approve"), url.Values{})
	}
	shown := func(path string) string {
		t.Helper()
		page := b.get(path)
		var ids []string
		for _, li := range (document{root: page.root}).all("li") {
			if id, ok := strings.CutPrefix(attr(li, "id"), "item-"); ok {
				ids = append(ids, id)
			}
		}
		return strings.Join(ids, " ")
	}
	home, archive := s.page("/home"), s.page("/home")+"&view=archived"
	view := func(n int) string {
		return read[string](s, `SELECT view FROM notification WHERE id = $1`, items[n])
	}
	if got := shown(home); got != strings.Join(items, " ") {
		t.Errorf("the inbox is %s, want %s", got, items)
	}
	if view(0) != "unread" {
		t.Error("looking at the page marked an item as read")
	}
	for _, step := range []struct{ what, view, inbox, archived string }{
		{"read", "read", strings.Join(items, " "), ""},
		{"unread", "unread", strings.Join(items, " "), ""},
		{"archive", "archived", strings.Join(items[:2], " "), items[2]},
		{"unarchive", "read", strings.Join(items, " "), ""},
	} {
		b.post(s.page("/home/items/"+items[2]+"/"+step.what), url.Values{})
		if view(2) != step.view || shown(home) != step.inbox || shown(archive) != step.archived {
			t.Errorf("%s: view %s, inbox %s, archive %s", step.what, view(2), shown(home), shown(archive))
		}
	}
	b.post(s.page("/home/items/archive"), url.Values{}) // what is read
	if got := shown(home); got != strings.Join(items[:2], " ") {
		t.Errorf("after putting away what was read: %s", got)
	}

	// An open request stays where it is, archived or not.
	te := s.tenant
	te.workspace = s.workspace2("Four")
	inv := s.invite(te, "ann@client.example")
	item := s.itemOf(inv, account)
	if _, err := s.roster.SetNotificationView(t.Context(), s.app.ID, account.ID, uuid.MustParse(item), roster.ViewArchived, roster.IdempotencyKey{}); err != nil {
		t.Fatal(err)
	}
	if got := shown(home); !strings.Contains(got, item) || s.state(inv) != "pending" {
		t.Errorf("an archived open request: page shows %s, state %s", got, s.state(inv))
	}
}

func TestHomeSettings(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	account := s.ann(s.tenant)
	b := s.signedIn("ann.okafor")
	b.get(s.page("/home") + "&lang=fr") // chosen for this browser
	page := b.post(s.page("/home/settings"), url.Values{"locale": {"es"}, "time_zone": {"America/Argentina/Buenos_Aires"}})
	page.wantPage(t, 200, s.hello("es"))
	if !strings.Contains(text(page.root), s.say("es", "home.done.saved")) {
		t.Error("the page does not say that it is saved")
	}
	stored := func() string {
		return read[string](s, `SELECT locale || ' ' || time_zone FROM account WHERE id = $1`, account.ID)
	}
	if stored() != "es America/Argentina/Buenos_Aires" {
		t.Errorf("stored %s", stored())
	}
	chosen := ""
	for _, option := range (document{root: page.root}).all("option") {
		if has(option, "selected") {
			chosen += attr(option, "value") + " "
		}
	}
	if chosen != "es America/Argentina/Buenos_Aires " {
		t.Errorf("chosen are %s", chosen)
	}
	for _, form := range []url.Values{{"locale": {"es"}, "time_zone": {"Mars/Base"}}, {"locale": {"<script>"}}} {
		page := b.post(s.page("/home/settings"), form)
		if page.StatusCode != 422 || !strings.Contains(text(page.root), s.say("es", "home.settings.wrong")) {
			t.Errorf("%v: %d", form, page.StatusCode)
		}
	}
	if stored() != "es America/Argentina/Buenos_Aires" {
		t.Errorf("stored %s", stored())
	}
	b.post(s.page("/home/settings"), url.Values{"locale": {""}, "time_zone": {""}}).wantPage(t, 200, s.hello("en"))
}

func TestSignUp(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	out, err := s.roster.CreateInvitations(t.Context(), []roster.NewInvitation{{
		AppID: s.app.ID, ActorID: s.actor.ID, WorkspaceID: s.workspace.ID, Kind: roster.KindExternal, Email: "pro@clinic.example", Warning: "I know.", Notify: true,
	}})
	if err != nil || out[0].Err != nil {
		t.Fatal(err, out)
	}
	inv := out[0].Invitation
	path := "/i/" + s.token(inv)
	b := s.browser()
	if page := b.get(path); strings.Join(page.forms(), " ") != "sign-up decline" {
		t.Errorf("forms are %q", page.forms())
	}
	if page := b.post(path+"/sign-up", url.Values{"full_name": {""}, "password": {goodPassword}}); page.StatusCode != 422 {
		t.Errorf("without a name: %d", page.StatusCode)
	}
	b.post(path+"/accept", newAccountForm())
	if n := read[int](s, `SELECT count(*) FROM account WHERE email_key = 'pro@clinic.example'`); n != 0 || s.state(inv) != "pending" {
		t.Errorf("accepting without an account: %d accounts, invitation %s", n, s.state(inv))
	}
	page := b.post(path+"/sign-up", newAccountForm())
	page.wantPage(t, 200, s.say("en", "home.hello", "name", "Ann N. Okafor"))
	if page.Request.URL.Path != "/home" || !strings.Contains(text(page.root), s.say("en", "home.decide.title")) || s.state(inv) != "pending" {
		t.Errorf("it ended at %s, invitation is %s", page.Request.URL, s.state(inv))
	}
	// Once more is told the way to the account there is by now.
	if page := s.browser().post(path+"/sign-up", newAccountForm()); !strings.Contains(text(page.root), s.say("en", "accept.log_in.title")) {
		t.Errorf("again: %s", page.title())
	}
	// Signed in, the invitation's own page has the button too.
	b.post(path+"/accept", url.Values{}).wantPage(t, 200, s.say("en", "accepted.title", "workspace", "Family Okafor"))
	if have := read[string](s, `SELECT m.role FROM membership m JOIN account a ON a.id = m.account_id WHERE a.email_key = 'pro@clinic.example'`); have != "stakeholder" {
		t.Errorf("role is %s", have)
	}
}

func TestAcceptURL(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	inv := s.invite(s.tenant, "ann@client.example")
	path := "/i/" + s.token(inv)
	s.exec(`INSERT INTO policy (app_id, version, settings, updated_at) VALUES ($1, 1, '{"accept_url":"https://app.kindred.example/join?from=mail"}', now())`, s.app.ID)
	b := s.browser().stay()
	for range 2 {
		page := b.get(path)
		if want := "https://app.kindred.example/join?from=mail&token=" + s.token(inv); page.StatusCode != 302 || page.Header.Get("Location") != want {
			t.Errorf("%d to %s, want %s", page.StatusCode, page.Header.Get("Location"), want)
		}
		if page.Header.Get("Cache-Control") != "no-store" || page.Header.Get("Referrer-Policy") != "no-referrer" {
			t.Errorf("headers are %v", page.Header)
		}
		s.roster.RevokeInvitation(t.Context(), s.app.ID, s.actor.ID, inv.ID, roster.IdempotencyKey{}) //nolint:errcheck // the link tells what became of it, too
	}
	if page := b.get("/i/x"); page.StatusCode != 404 {
		t.Errorf("no link: %d", page.StatusCode)
	}
	other := s.newTenant("Another App")
	if page := b.get("/i/" + s.token(s.invite(other, "ann@client.example"))); page.StatusCode != 200 {
		t.Errorf("another app's link: %d", page.StatusCode)
	}
	s.exec(`UPDATE policy SET settings = '{"accept_url":"javascript:alert(1)"}'`)
	if page := b.get("/i/" + s.token(s.invite(s.tenant, "bob@client.example"))); page.StatusCode != 200 {
		t.Errorf("an address of no page: %d", page.StatusCode)
	}
}
