package main

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/chromedp"

	"usher/internal/postgres/postgrestest"
	"usher/web/webtest"
)

// shown is the text of the elements that a selector names, each on a line.
func (v visitor) shown(selector string) string {
	v.t.Helper()
	text, err := chromedp.Run(v.ctx, chromedp.Evaluate[string](fmt.Sprintf(
		`[...document.querySelectorAll(%q)].map(e => e.innerText.replace(/\s+/g, " ").trim()).join("\n")`, selector)))
	if err != nil {
		v.t.Fatalf("%s: %v", v.name, err)
	}
	return text
}

// wants fails unless the elements that a selector names say so.
func (v visitor) wants(selector, says string) {
	v.t.Helper()
	if got := v.shown(selector); !strings.Contains(got, says) {
		v.t.Errorf("%s: %s says %q, want %q", v.name, selector, got, says)
	}
}

// logsIn goes to the log-in and through it.
func (v visitor) logsIn(identifier, password string) {
	v.t.Helper()
	v.step("log-in", chromedp.Navigate(v.site.url+"/login?lang=en"))
	v.sees("Log in", "en")
	v.step("home", chromedp.SendKeys("#identifier", identifier), chromedp.SendKeys("#password", password), chromedp.Click(`form[action^="/login"] button`))
}

const (
	setPassword  = `form[action^="/password/"] button`
	askPassword  = `form[action^="/password?"] button`
	approve      = `form[action*="/approve?"] button`
	decline      = `form[action*="/decline?"] button`
	logOut       = `form[action^="/logout?"] button`
	told         = `.told`
	openItems    = `.accent h3`
	inboxItems   = `.letter .name`
	workspaces   = `.line .name`
	proPassword  = "nueve faros blancos"
	passwordMail = "Your password for"
)

// TestInBrowser goes the ways of people who have an account, in Chromium: each
// part is named after what it shows.
func TestInBrowser(t *testing.T) {
	t.Parallel()
	usher, s := runEverything(t, tempDir(t), "DATABASE_URL="+postgrestest.DatabaseURL(t))
	ctx, cancel := context.WithTimeout(webtest.Browser(t), browsing)
	defer cancel()
	complaints := webtest.Watch(t, ctx)
	begin := func(t *testing.T, name string, width int, dark bool) visitor {
		t.Helper()
		if err := webtest.Emulate(ctx, width, dark); err != nil {
			t.Fatal(err)
		}
		if _, err := chromedp.Call(ctx, network.ClearBrowserCookies, cdp.Empty{}); err != nil {
			t.Fatal(err)
		}
		return visitor{t: t, ctx: ctx, site: s, name: name, width: width, dark: dark}
	}
	external := func(t *testing.T, email, workspace string) (inv invitation) {
		t.Helper()
		s.must(t, http.MethodPost, "/v1/invitations", map[string]any{
			"kind": "external_professional", "email": email, "workspace_id": workspace, "locale": "es",
			"warning": map[string]any{"acknowledged": true},
		}, &inv)
		return inv
	}
	var workspace struct {
		CompanyID string `json:"company_id"`
	}
	s.must(t, http.MethodGet, "/v1/workspaces/"+s.workspace, nil, &workspace)
	newWorkspace := func(t *testing.T, name string) string {
		t.Helper()
		return s.made(t, "/v1/workspaces", map[string]any{"company_id": workspace.CompanyID, "name": name, "owner_id": s.actor})
	}
	anyMail := func(letter) bool { return true }

	pro := someAddress()
	t.Run("F6", func(t *testing.T) {
		// An external professional without an account: the mail leads to sign-up,
		// and the notification waits behind it.
		v := begin(t, "F6", 320, true)
		inv := external(t, pro, s.workspace)
		got := s.mail(t, pro, anyMail)
		v.step("invitation", chromedp.Navigate(got.Links[0]))
		v.sees("Invitación a Ann Example - Private", "es")
		v.step("home", chromedp.SendKeys(nameField, "Sara Cohen"), chromedp.SendKeys(password, proPassword), chromedp.Click(`form[action*="/sign-up"] button`))
		v.sees("Hola, Sara Cohen", "es")
		v.wants(openItems, "Invitación a Ann Example - Private")
		if state := s.read(t, inv.ID).State; state != "pending" {
			t.Fatalf("signing up made the invitation %s", state)
		}
		v.step("approved", chromedp.Click(approve))
		v.wants(told, "Ha aceptado la invitación")
		v.wants(workspaces, "Ann Example - Private")
		if done := s.read(t, inv.ID); done.State != "accepted" || s.members(t)[done.AccountID] != "stakeholder" {
			t.Errorf("the invitation is %+v", done)
		}
	})

	t.Run("F7", func(t *testing.T) {
		v := begin(t, "F7", 1280, false)
		first, second := external(t, pro, newWorkspace(t, "File one")), external(t, pro, newWorkspace(t, "File two"))
		v.logsIn(pro, proPassword)
		if got := v.shown(openItems); got != "Invitation to File one\nInvitation to File two" {
			t.Errorf("open are %q, want the oldest first", got)
		}
		v.step("declined", chromedp.Click(`.item:has(h3) `+decline))
		v.step("approved", chromedp.Click(approve))
		if a, b := s.read(t, first.ID).State, s.read(t, second.ID).State; a != "declined" || b != "accepted" {
			t.Errorf("the invitations are %s and %s", a, b)
		}
		want := "You accepted the invitation to Ann Example - Private\nYou declined the invitation to File one\nYou accepted the invitation to File two"
		if got := v.shown(inboxItems); got != want {
			t.Errorf("the inbox has %q, want the oldest first", got)
		}
		v.step("read", chromedp.Click(`form[action*="/read?"] button`))
		v.step("archived", chromedp.Click(`.letter:nth-child(2) form[action*="/archive?"] button`))
		if got := v.shown(inboxItems); got != strings.Replace(want, "You declined the invitation to File one\n", "", 1) {
			t.Errorf("after archiving, the inbox has %q", got)
		}
		v.step("archive", chromedp.Click(`a[href*="view=archived"]`))
		v.wants(inboxItems, "You declined the invitation to File one")
		v.step("empty archive", chromedp.Click(`form[action*="/unarchive?"] button`))
		v.step("home", chromedp.Click(`a.back`))
		if got := v.shown(inboxItems); got != want {
			t.Errorf("back from the archive, the inbox has %q", got)
		}
	})

	ann, annID := someAddress(), ""
	t.Run("W2", func(t *testing.T) {
		v := begin(t, "W2", 1280, true)
		inv := s.invite(t, ann, "Ann Okafor", "en")
		got := s.mail(t, ann, anyMail)
		v.step("invitation", chromedp.Navigate(got.Links[0]))
		v.step("accepted", chromedp.SendKeys(password, newPassword), chromedp.Click(acceptForm+` button`))
		annID = s.read(t, inv.ID).AccountID
		v.step("home", chromedp.Click(`a[href^="/home"]`))
		v.sees("Hello, Ann Okafor", "en")
		v.step("logged out", chromedp.Click(logOut))
		v.wants(told, "You are logged out.")
		v.logsIn(strings.ToUpper(ann), newPassword)
		v.sees("Hello, Ann Okafor", "en")

		// Whom the app made an account for creates a password by mail.
		v = begin(t, "W2 password", 320, false)
		bob := someAddress()
		s.made(t, "/v1/accounts", map[string]any{"kind": "client", "full_name": "Bob Ito", "email": bob, "username": "bob.ito"})
		v.step("log-in", chromedp.Navigate(s.url+"/login?lang=en"))
		v.step("ask", chromedp.Click(`a[href^="/password"]`))
		v.sees("Create a password", "en")
		v.step("asked", chromedp.SendKeys("#identifier", "bob.ito"), chromedp.Click(askPassword))
		v.sees("Please look into your mailbox", "en")
		got = s.mail(t, bob, func(l letter) bool { return strings.HasPrefix(l.Subject, passwordMail) })
		v.step("password", chromedp.Navigate(got.Links[0]))
		v.sees("Create your password", "en")
		v.step("home", chromedp.SendKeys(password, newPassword), chromedp.Click(setPassword))
		v.sees("Hello, Bob Ito", "en")
		v.wants(told, "Your password is set")
	})

	t.Run("W6", func(t *testing.T) {
		// Further workspaces come without mail, and show at the next log-in.
		v := begin(t, "W6", 320, false)
		s.must(t, http.MethodPost, "/v1/invitations", map[string]any{
			"kind": "existing_user", "account_id": annID, "workspace_id": newWorkspace(t, "Ann - Second"), "origin_workspace_id": s.workspace,
		}, nil)
		v.logsIn(ann, newPassword)
		v.wants(workspaces, "Ann - Second New")
		eventually(t, "the notice is there", func() (bool, error) {
			if err := chromedp.Do(ctx, chromedp.Reload()); err != nil {
				return false, err
			}
			return strings.Contains(v.shown(inboxItems), "You were added to a workspace"), nil
		})
		v.wants(workspaces, "Ann - Second New") // looking at the list changes nothing
		v.step("seen", chromedp.Click(`form[action^="/home/workspaces/seen"] button`))
		if got := v.shown(workspaces); got != "Ann Example - Private\nAnn - Second" {
			t.Errorf("seen, the list has %q", got)
		}
		var letters []letter
		s.must(t, http.MethodGet, "/dev/mailbox.json?to="+url.QueryEscape(ann), nil, &letters)
		if len(letters) != 1 {
			t.Errorf("%d mails, want the invitation alone", len(letters))
		}
	})

	// A professional asks for access to the accounts of clients.
	s.must(t, http.MethodPost, "/v1/companies/"+workspace.CompanyID+"/members", map[string]any{"account_id": s.actor, "role": "member"}, nil)
	type requested struct {
		ID    string
		State string
		Made  struct{ ID, Status, Username string } `json:"made_account"`
	}
	ask := func(t *testing.T, option, email, locale string) (q requested) {
		t.Helper()
		s.must(t, http.MethodPost, "/v1/access-requests", map[string]any{
			"option": option, "email": email, "full_name": "Cleo Fine", "locale": locale, "message": "We spoke on Monday.", "company_id": workspace.CompanyID,
		}, &q)
		return q
	}
	stateOf := func(t *testing.T, q requested) string {
		t.Helper()
		s.must(t, http.MethodGet, "/v1/access-requests/"+q.ID, nil, &q)
		return q.State
	}
	const shareForm = `form[action*="/approve"] button`

	t.Run("R2", func(t *testing.T) {
		// By the mail's button, and in the inbox.
		v := begin(t, "R2", 320, true)
		cleo := someAddress()
		s.made(t, "/v1/accounts", map[string]any{"kind": "client", "full_name": "Cleo Fine", "email": cleo})
		q := ask(t, "request", cleo, "es")
		got := s.mail(t, cleo, func(l letter) bool { return strings.Contains(l.Subject, "solicita acceso") })
		v.step("request", chromedp.Navigate(got.Links[0]))
		v.sees("Solicitud de Harbour Physiotherapy", "es")
		v.step("granted", chromedp.Click(`input[value="basic"]`), chromedp.Click(shareForm))
		v.sees("Harbour Physiotherapy tiene acceso", "es")
		if state := stateOf(t, q); state != "granted" {
			t.Errorf("the request is %s", state)
		}
		v.step("revoked", chromedp.Click(`form[action*="/revoke"] button`))
		v.sees("El acceso se ha retirado", "es")

		v = begin(t, "R2 inbox", 1280, false)
		q = ask(t, "request", ann, "en")
		v.logsIn(ann, newPassword)
		v.wants(openItems, "Harbour Physiotherapy asks for access")
		v.step("approved", chromedp.Click(approve))
		v.wants(told, "They have access now.")
		if state := stateOf(t, q); state != "granted" {
			t.Errorf("the request is %s", state)
		}
	})

	t.Run("R3", func(t *testing.T) {
		v := begin(t, "R3", 1280, true)
		dora := someAddress()
		s.made(t, "/v1/accounts", map[string]any{"kind": "client", "full_name": "Dora Elder", "email": dora})
		q := ask(t, "new_account", dora, "en")
		got := s.mail(t, dora, func(l letter) bool { return strings.HasPrefix(l.Subject, "Your account on") })
		if !strings.Contains(got.Text, "Your username is "+q.Made.Username) {
			t.Errorf("the mail says %s", got.Text)
		}
		v.step("password", chromedp.Navigate(got.Links[0]))
		v.step("home", chromedp.SendKeys(password, newPassword), chromedp.Click(setPassword))
		v.sees("Hello, Cleo Fine", "en")
		v.step("logged out", chromedp.Click(logOut))
		v.logsIn(q.Made.Username, newPassword)
		v.sees("Hello, Cleo Fine", "en")
	})

	t.Run("R4", func(t *testing.T) {
		// The address is a secondary one: the yes waits for a log-in, and a
		// password that has to be made on the way does not lose it.
		v := begin(t, "R4", 320, false)
		own, second := someAddress(), someAddress()
		s.made(t, "/v1/accounts", map[string]any{"kind": "client", "full_name": "Eda Noor", "email": own, "secondary_emails": []string{second}})
		q := ask(t, "request_with_temporary", second, "en")
		if q.Made.Status != "temporary" {
			t.Errorf("made is %+v", q.Made)
		}
		got := s.mail(t, second, func(l letter) bool { return strings.Contains(l.Subject, "asks for access") })
		v.step("request", chromedp.Navigate(got.Links[0]))
		v.step("approved", chromedp.Click(`input[value="full"]`), chromedp.Click(shareForm))
		v.sees("One more step: log in", "en")
		if state := stateOf(t, q); state != "approved" {
			t.Errorf("the request is %s", state)
		}
		v.step("ask", chromedp.Click(`a[href^="/password"]`))
		v.step("asked", chromedp.SendKeys("#identifier", own), chromedp.Click(askPassword))
		got = s.mail(t, own, func(l letter) bool { return strings.HasPrefix(l.Subject, passwordMail) })
		v.step("password", chromedp.Navigate(got.Links[0]))
		v.step("back", chromedp.SendKeys(password, newPassword), chromedp.Click(setPassword))
		v.sees("One more step: log in", "en")
		v.step("granted", chromedp.Click(shareForm))
		v.sees("Harbour Physiotherapy has access", "en")
		if state := stateOf(t, q); state != "granted" {
			t.Errorf("the request is %s", state)
		}
	})

	t.Run("Case13", func(t *testing.T) {
		// A link that is opened while somebody else is logged in consumes nothing.
		v := begin(t, "Case13", 1280, false)
		v.logsIn(ann, newPassword)
		inv := s.invite(t, "carla@client.example", "Carla Ruiz", "en")
		if _, err := chromedp.RunResponse(ctx, chromedp.Navigate(inv.Link)); err != nil { // a 409
			t.Fatal(err)
		}
		v.sees("You are logged in with another account", "en")
		v.look("wrong account")
		if text := v.shown("dd"); !strings.Contains(text, ann) || strings.Contains(text, "carla@") || !strings.Contains(text, "@client.example") {
			t.Errorf("the page names %q", text)
		}
		v.step("invitation", chromedp.Click(`form[action*="/switch"] button`))
		v.sees("Invitation to Ann Example - Private", "en")
		if state := s.read(t, inv.ID).State; state != "pending" {
			t.Errorf("the invitation is %s", state)
		}
	})

	t.Run("Case14", func(t *testing.T) {
		// A scanner that fetches the links of the mails has no effect.
		v := begin(t, "Case14", 320, true)
		dora := someAddress()
		inv := s.invite(t, dora, "Dora Vega", "en")
		s.made(t, "/v1/accounts", map[string]any{"kind": "client", "full_name": "Dora Vega", "email": dora})
		s.must(t, http.MethodPost, "/v1/passwords/reset", map[string]any{"identifier": dora}, nil)
		mail := s.mail(t, dora, func(l letter) bool { return strings.HasPrefix(l.Subject, passwordMail) })
		for _, link := range []string{inv.Link, mail.Links[0]} {
			for _, method := range []string{http.MethodGet, http.MethodHead, http.MethodGet} {
				req, err := http.NewRequestWithContext(t.Context(), method, link, nil)
				if err != nil {
					t.Fatal(err)
				}
				resp, err := http.DefaultClient.Do(req)
				if err != nil {
					t.Fatal(err)
				}
				_ = resp.Body.Close()
				if resp.StatusCode != http.StatusOK || len(resp.Cookies()) > 0 {
					t.Errorf("%s of a link: %s, cookies %v", method, resp.Status, resp.Cookies())
				}
			}
		}
		if state := s.read(t, inv.ID).State; state != "pending" {
			t.Errorf("the invitation is %s", state)
		}
		v.step("password", chromedp.Navigate(mail.Links[0]))
		v.step("home", chromedp.SendKeys(password, newPassword), chromedp.Click(setPassword))
		v.sees("Hello, Dora Vega", "en")

		// Case16: who got an account by another way meanwhile finds the invitation
		// in the inbox, and nothing was accepted.
		v.name = "Case16"
		v.wants(openItems, "Invitation to Ann Example - Private")
		if n := len(s.members(t)); s.read(t, inv.ID).State != "pending" || n == 0 {
			t.Errorf("the invitation is %s", s.read(t, inv.ID).State)
		}
		v.step("approved", chromedp.Click(approve))
		if done := s.read(t, inv.ID); done.State != "accepted" || s.members(t)[done.AccountID] != "client_user" {
			t.Errorf("approved, the invitation is %+v", done)
		}
	})

	for _, line := range complaints() {
		if !strings.Contains(line, "409") { // the page of Case13
			t.Errorf("the browser complains: %s", line)
		}
	}
	usher.finish(t)
}
