package web

import (
	"bytes"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/html"

	"usher/internal/locale"
)

func testPages(t *testing.T) *pages {
	t.Helper()
	p, err := newPages()
	if err != nil {
		t.Fatalf("load pages: %v", err)
	}
	return p
}

// document is a rendered page, parsed.
type document struct {
	source string
	root   *html.Node
}

func renderTo(t *testing.T, p *pages, lang string, v view) document {
	t.Helper()
	var b bytes.Buffer
	if err := p.render(&b, lang, v); err != nil {
		t.Fatal(err)
	}
	root, err := html.Parse(bytes.NewReader(b.Bytes()))
	if err != nil {
		t.Fatal(err)
	}
	return document{source: b.String(), root: root}
}

// all lists the elements with a tag, in order; "*" is every element.
func (d document) all(tag string) []*html.Node {
	var found []*html.Node
	for n := range d.root.Descendants() {
		if n.Type == html.ElementNode && (tag == "*" || n.Data == tag) {
			found = append(found, n)
		}
	}
	return found
}

func attr(n *html.Node, name string) string {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val
		}
	}
	return ""
}

func has(n *html.Node, name string) bool {
	return slices.ContainsFunc(n.Attr, func(a html.Attribute) bool { return a.Key == name })
}

func text(n *html.Node) string {
	var b strings.Builder
	for d := range n.Descendants() {
		if d.Type == html.TextNode {
			b.WriteString(d.Data)
		}
	}
	return strings.Join(strings.Fields(b.String()), " ")
}

// TestPagesAreSound goes through every page in every language, and through what
// neither the templates' parser nor axe would tell.
func TestPagesAreSound(t *testing.T) {
	t.Parallel()
	p := testPages(t)
	shown := map[string]bool{}
	for name, v := range samples() {
		shown[v.template()] = true
		for _, lang := range locale.Supported() {
			t.Run(name+" "+lang, func(t *testing.T) {
				t.Parallel()
				d := renderTo(t, p, lang, v)
				checkSound(t, d)
				want := lang
				if strings.HasPrefix(v.template(), "staff/") {
					want = "en"
				}
				if got := attr(d.all("html")[0], "lang"); got != want {
					t.Errorf("html lang is %q, want %q", got, want)
				}
			})
		}
	}
	for file := range p.byFile {
		if !shown[file] {
			t.Errorf("no sample shows %s", file)
		}
	}
}

func checkSound(t *testing.T, d document) {
	t.Helper()
	if n := len(d.all("h1")); n != 1 {
		t.Errorf("%d h1, want 1", n)
	}
	if n := len(d.all("main")); n != 1 {
		t.Errorf("%d main, want 1", n)
	}
	if title := text(d.all("title")[0]); title == "" || strings.HasPrefix(title, "–") {
		t.Errorf("title is %q", title)
	}
	ids, labelled := map[string]bool{}, map[string]bool{}
	level := 0
	for _, n := range d.all("*") {
		if id := attr(n, "id"); id != "" {
			if ids[id] {
				t.Errorf("id %q is there twice", id)
			}
			ids[id] = true
		}
		for _, a := range n.Attr {
			switch {
			case a.Key == "style", strings.HasPrefix(a.Key, "on"):
				t.Errorf("<%s> has the attribute %s, which the CSP blocks", n.Data, a.Key)
			case a.Key == "href" || a.Key == "src" || a.Key == "action":
				if strings.HasPrefix(a.Val, "javascript:") || strings.Contains(a.Val, "ZgotmplZ") {
					t.Errorf("<%s> has %s=%q", n.Data, a.Key, a.Val)
				}
			}
		}
		switch n.Data {
		case "script":
			t.Error("there is a script")
		case "style":
			if attr(n, "nonce") != sampleNonce {
				t.Error("a style element has no nonce")
			}
		case "link":
			if !strings.HasPrefix(attr(n, "href"), "/static/") {
				t.Errorf("link to %s", attr(n, "href"))
			}
		case "label":
			labelled[attr(n, "for")] = text(n) != ""
		case "button", "a":
			if text(n) == "" {
				t.Errorf("<%s> without a name", n.Data)
			}
		case "h1", "h2", "h3", "h4":
			now := int(n.Data[1] - '0')
			if level > 0 && now > level+1 {
				t.Errorf("%s %q follows an h%d", n.Data, text(n), level)
			}
			if now > 1 && level == 0 && attr(n, "id") != "errors-title" {
				t.Errorf("%s %q comes before the h1", n.Data, text(n))
			}
			if attr(n, "id") != "errors-title" {
				level = now
			}
		}
	}
	for _, n := range d.all("input") {
		if attr(n, "type") != "hidden" && !has(n, "hidden") && !labelled[attr(n, "id")] {
			t.Errorf("input %q has no label", attr(n, "name"))
		}
	}
	for _, n := range d.all("*") {
		for _, name := range []string{"aria-describedby", "aria-labelledby"} {
			for _, id := range strings.Fields(attr(n, name)) {
				if !ids[id] {
					t.Errorf("%s names %q, which is not there", name, id)
				}
			}
		}
		if href := attr(n, "href"); strings.HasPrefix(href, "#") && !ids[href[1:]] {
			t.Errorf("link to %s, which is not there", href)
		}
	}
}

func TestHostileTextStaysText(t *testing.T) {
	t.Parallel()
	p := testPages(t)
	bad := frame{
		Brand: Brand{Name: hostile, Color: "red;}</style>" + hostile, LogoURL: "javascript:alert(1)", SupportEmail: hostile},
		Path:  "/i/x", Nonce: sampleNonce, RequestID: hostile,
	}
	views := []view{
		invitationView{
			frame: bad, Token: hostile, Mode: modeNewAccount, InviterName: hostile, CompanyName: hostile,
			WorkspaceName: hostile, RecipientName: hostile, Email: hostile, Note: hostile, FullName: hostile,
		},
		invitationView{frame: bad, Token: hostile, Mode: modeSignedIn, InviterName: hostile, WorkspaceName: hostile, Email: hostile},
		logInView{frame: bad, App: hostile, Next: hostile, Identifier: hostile},
		askPasswordView{frame: bad, App: hostile, Next: hostile, Identifier: hostile},
		setPasswordView{frame: bad, Token: hostile, Email: hostile, Username: hostile},
		sampleHome(func(v *personHomeView) {
			v.frame, v.App, v.AppURL, v.FullName, v.Email, v.Username, v.Done = bad, hostile, "javascript:alert(1)", hostile, hostile, hostile, hostile
			v.Open[0].InviterName, v.Open[0].CompanyName, v.Open[0].Note, v.Open[0].Workspaces[0].Name = hostile, hostile, hostile, hostile
			v.Inbox[0].Workspaces[0].Name, v.Inbox[1].Workspaces[0].Name = hostile, hostile
			v.Workspaces[0].Name, v.Workspaces[0].CompanyName = hostile, hostile
			v.Next, v.NextWorkspace, v.Settings = hostile, hostile, settingsForm{Locale: hostile, TimeZone: hostile}
		}),
		wrongAccountView{frame: bad, Token: hostile, SignedInAs: hostile, MaskedEmail: hostile},
		mailboxView{frame: bad, To: hostile, Mails: []mailRow{{ID: hostile, To: hostile, Subject: hostile}}},
		mailView{frame: bad, ID: hostile, From: hostile, To: hostile, Subject: hostile, Text: hostile, Links: []string{"javascript:alert(1)", hostile, "data:text/html,x"}},
		opsLoginView{frame: bad, Error: hostile},
		opsSweepsView{frame: bad, Started: hostile, Sweeps: []opsSweep{{Name: hostile, Does: hostile, Cron: hostile, Last: &opsRun{Error: hostile}}}},
		opsSweepView{frame: bad, Name: hostile, Runs: []opsRun{{Took: hostile, Lag: hostile, Scanned: 1, Skipped: []string{hostile}}}},
		opsHomeView{frame: bad, Facts: []fact{{Name: hostile, Value: hostile}}},
		homeView{frame: bad, Version: hostile},
		docsView{
			frame: bad, Title: hostile, Version: hostile, BaseURL: hostile, Intro: hostile + "\n\n- `" + hostile + "`\n- `" + hostile,
			Sections: []docsSection{{ID: "s", Title: hostile, Text: hostile, Example: hostile}},
			Groups: []docsGroup{{ID: "g", Title: hostile, Description: hostile, Operations: []docsOperation{{
				ID: "o", Method: hostile, Path: hostile, Summary: hostile, Description: hostile, Curl: hostile,
				Body:      []docsField{{Name: hostile, In: hostile, Type: hostile, Limits: hostile, Description: hostile}},
				Responses: []docsResponse{{Status: hostile, Description: hostile, Example: hostile}},
			}}}},
		},
	}
	for _, kind := range messageKinds {
		views = append(views, messageView{
			frame: bad, Kind: kind, Token: hostile, WorkspaceName: hostile, InviterName: hostile,
			AppURL: "javascript:alert(1)", Back: "javascript:alert(1)", Status: 400,
		})
	}
	for i, v := range views {
		t.Run(fmt.Sprintf("%d %s", i, v.template()), func(t *testing.T) {
			t.Parallel()
			d := renderTo(t, p, "en", v)
			for _, n := range d.all("*") {
				if n.Data == "script" || n.Data == "img" {
					t.Errorf("there is a <%s>", n.Data)
				}
				for _, a := range n.Attr {
					if strings.HasPrefix(a.Key, "on") {
						t.Errorf("<%s> has %s", n.Data, a.Key)
					}
					if (a.Key == "href" || a.Key == "src" || a.Key == "action") && (strings.HasPrefix(a.Val, "javascript:") || strings.HasPrefix(a.Val, "data:")) {
						t.Errorf("<%s> has %s=%q", n.Data, a.Key, a.Val)
					}
				}
			}
			if style := text(d.all("style")[0]); strings.Contains(style, "red") {
				t.Errorf("the colour was not checked: %s", style)
			}
		})
	}
}

func TestInvitationForms(t *testing.T) {
	t.Parallel()
	p := testPages(t)
	tests := map[string]struct {
		mode string
		want string // the fields of the accept form, with autocomplete
	}{
		"new account": {mode: modeNewAccount, want: "email=username full_name=name password=new-password"},
		"sign up":     {mode: modeSignUp, want: "email=username full_name=name password=new-password"},
		"log in":      {mode: modeLogIn, want: "email=username password=current-password"},
		"signed in":   {mode: modeSignedIn, want: ""},
		"known":       {mode: modeKnown, want: ""},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := renderTo(t, p, "es", sampleInvitation(func(v *invitationView) { v.Mode = test.mode }))
			forms := d.all("form")
			if len(forms) != 2 {
				t.Fatalf("%d forms, want accept and decline", len(forms))
			}
			accept := "accept"
			if test.mode == modeSignUp {
				accept = "sign-up"
			}
			for i, action := range []string{accept, "decline"} {
				if got, want := attr(forms[i], "action"), "/i/"+sampleToken+"/"+action+"?lang=es"; got != want {
					t.Errorf("form's action is %s, want %s", got, want)
				}
				if attr(forms[i], "method") != "post" {
					t.Errorf("%s is no POST", action)
				}
			}
			var fields []string
			for n := range forms[0].Descendants() {
				if n.Data == "input" {
					fields = append(fields, attr(n, "name")+"="+attr(n, "autocomplete"))
				}
			}
			if got := strings.Join(fields, " "); got != test.want {
				t.Errorf("fields are %q, want %q", got, test.want)
			}
			if !strings.Contains(d.source, "martes 1 de diciembre de 2026 a las 9:00\u00a0CET") {
				t.Error("the page does not say until when, with date, time and zone")
			}
		})
	}
}

func TestInvitationKeepsWhatWasFilledIn(t *testing.T) {
	t.Parallel()
	d := renderTo(t, testPages(t), "en", sampleInvitation(func(v *invitationView) {
		v.FullName, v.Errors = "Ann B.", []formError{passwordTooShort}
	}))
	byName := map[string]*html.Node{}
	for _, n := range d.all("input") {
		byName[attr(n, "name")] = n
	}
	if got := attr(byName["full_name"], "value"); got != "Ann B." {
		t.Errorf("name is %q", got)
	}
	password := byName["password"]
	if attr(password, "value") != "" {
		t.Error("the password came back")
	}
	if attr(password, "aria-invalid") != "true" || !strings.Contains(attr(password, "aria-describedby"), "password-error") {
		t.Errorf("password field has %v", password.Attr)
	}
	if attr(byName["full_name"], "aria-invalid") != "" {
		t.Error("the name is called wrong")
	}
	for _, n := range d.all("div") {
		if attr(n, "role") == "alert" && !strings.Contains(text(n), "The password needs at least 8 characters.") {
			t.Errorf("summary says %q", text(n))
		}
	}
	if title := text(d.all("title")[0]); !strings.HasPrefix(title, "Please check: ") {
		t.Errorf("title is %q", title)
	}
}

// TestEveryErrorHasItsText guards the keys Check cannot see.
func TestEveryErrorHasItsText(t *testing.T) {
	t.Parallel()
	p := testPages(t)
	for _, e := range formErrors {
		for _, lang := range locale.Supported() {
			var v view = sampleInvitation(func(v *invitationView) { v.Errors = []formError{e} })
			if e.Field() == "identifier" {
				v = logInView{frame: sampleFrame("/login"), Errors: []formError{e}}
			}
			d := renderTo(t, p, lang, v)
			found := false
			for _, n := range d.all("p") {
				found = found || attr(n, "id") == e.Field()+"-error" && text(n) != ""
			}
			if !found {
				t.Errorf("%s in %s is not shown at its field", e, lang)
			}
		}
	}
}

// TestDeadLinkTellsNothing holds the dead link's page and the renewal's answer to
// their token alone: nothing on them may show whether an invitation exists.
func TestDeadLinkTellsNothing(t *testing.T) {
	t.Parallel()
	p := testPages(t)
	for _, kind := range []messageKind{messageDeadLink, messageRenewalAsked} {
		known := renderTo(t, p, "en", sampleMessage(kind, func(*messageView) {}))
		unknown := renderTo(t, p, "en", messageView{frame: sampleFrame("/i/" + sampleToken), Kind: kind, Token: sampleToken})
		if known.source != unknown.source {
			t.Errorf("%s differs between a known and an unknown invitation", kind)
		}
	}
}

func TestEveryDoneHasItsText(t *testing.T) {
	t.Parallel()
	p := testPages(t)
	seen := map[string]homeDone{}
	for _, done := range homeDones {
		for _, n := range renderTo(t, p, "es", sampleHome(func(v *personHomeView) { v.Done = done })).all("p") {
			if attr(n, "role") != "status" {
				continue
			}
			if other, twice := seen[text(n)]; twice || text(n) == "" {
				t.Errorf("%s and %s both say %q", done, other, text(n))
			}
			seen[text(n)] = done
		}
	}
	if len(seen) != len(homeDones) {
		t.Errorf("said: %v", seen)
	}
	unknown := renderTo(t, p, "es", sampleHome(func(v *personHomeView) { v.Done = hostile }))
	if strings.Contains(unknown.source, `role="status"`) {
		t.Error("something unknown is said")
	}
}

func TestMessageKindsDiffer(t *testing.T) {
	t.Parallel()
	p := testPages(t)
	for _, lang := range locale.Supported() {
		seen := map[string]messageKind{}
		for _, kind := range messageKinds {
			h := text(renderTo(t, p, lang, sampleMessage(kind, func(v *messageView) { v.Status = 400 })).all("h1")[0])
			if other, twice := seen[h]; twice {
				t.Errorf("%s: %s and %s are both %q", lang, kind, other, h)
			}
			seen[h] = kind
		}
	}
}

// TestAppIsOfferedToMembersOnly: whoever declined, or may not join, is not sent on
// to the app.
func TestAppIsOfferedToMembersOnly(t *testing.T) {
	t.Parallel()
	p := testPages(t)
	const app = "https://app.kindred.example/"
	for _, kind := range messageKinds {
		d := renderTo(t, p, "en", sampleMessage(kind, func(v *messageView) { v.AppURL, v.Status = app, 400 }))
		offered := slices.ContainsFunc(d.all("a"), func(n *html.Node) bool { return attr(n, "href") == app })
		if want := kind == messageAccepted || kind == messageAlreadyAccepted; offered != want {
			t.Errorf("%s: the app is offered %v, want %v", kind, offered, want)
		}
	}
}

func TestLanguageLinks(t *testing.T) {
	t.Parallel()
	d := renderTo(t, testPages(t), "fr", sampleMessage(messageDeclined, func(*messageView) {}))
	var got []string
	for _, n := range d.all("a") {
		if attr(n, "hreflang") != "" {
			got = append(got, attr(n, "lang")+" "+attr(n, "href")+" "+attr(n, "aria-current"))
		}
	}
	path := "/i/" + sampleToken
	want := []string{"en " + path + "?lang=en ", "es " + path + "?lang=es ", "fr " + path + "?lang=fr true"}
	if strings.Join(got, "|") != strings.Join(want, "|") {
		t.Errorf("language links are %q, want %q", got, want)
	}
	for _, code := range locale.Supported() {
		if ownNames[code] == "" {
			t.Errorf("language %s has no name", code)
		}
	}
}

func TestMinutesRoundUp(t *testing.T) {
	t.Parallel()
	for after, want := range map[time.Duration]int{0: 1, time.Second: 1, time.Minute: 1, 61 * time.Second: 2, time.Hour: 60} {
		if got := (messageView{RetryAfter: after}).Minutes(); got != want {
			t.Errorf("%s is shown as %d minutes, want %d", after, got, want)
		}
	}
}

// failingWriter takes nothing.
type failingWriter struct{ wrote bool }

func (w *failingWriter) Write([]byte) (int, error) {
	w.wrote = true
	return 0, fmt.Errorf("connection is gone")
}

// noView is a page that nobody wrote a template for.
type noView struct{ frame }

func (noView) template() string { return "person/none.html" }

func TestRenderReportsFailure(t *testing.T) {
	t.Parallel()
	p := testPages(t)
	var w failingWriter
	if err := p.render(&w, "en", homeView{}); err == nil || !w.wrote {
		t.Errorf("a failed write is not reported: %v", err)
	}
	w = failingWriter{}
	if err := p.render(&w, "en", noView{}); err == nil || w.wrote {
		t.Errorf("a page without a template is not reported: %v", err)
	}
	// An error nobody wrote a sentence for must not leave half a page behind.
	w = failingWriter{}
	broken := sampleInvitation(func(v *invitationView) { v.Errors = []formError{"unheard_of"} })
	if err := p.render(&w, "en", broken); err == nil || w.wrote {
		t.Errorf("a broken page is not reported before the first byte: %v", err)
	}
}
