package mail

import (
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/html"

	"usher/internal/locale"
)

var update = flag.Bool("update", false, "write the golden files of the letters anew")

func testInvitation(t testing.TB, lang string) InvitationLetter {
	t.Helper()
	zone, err := time.LoadLocation("Europe/Paris")
	if err != nil {
		t.Fatal(err)
	}
	return InvitationLetter{
		Brand: Brand{
			Name:         "Acorn Practice",
			Color:        "#0f766e",
			SupportEmail: "help@acorn.example",
		},
		Locale:         lang,
		RecipientName:  "Ann Müller",
		InviterName:    "Maya O’Neill",
		CompanyName:    "Stone & Partners",
		WorkspaceName:  "Ann Müller – Recovery plan",
		Note:           "Dear Ann,\n\nhere is the file we spoke about. Everything from <Tuesday> is in it, and there is room for your own notes & questions.\n\nSee you soon\nMaya",
		Link:           "https://portal.acorn.example/i/k1BmKz5mJ0Tq2c8r1u8wYl3wZk8Qm0m8Yb0vX2QJ7r9sH3nT5pL1aE4cW",
		StopLink:       "https://portal.acorn.example/u/k1Qm0m8Yb0vX2QJ7r9sH3nT5pL1aE4cWBmKz5mJ0Tq2c8r1u8wYl3wZk8",
		ExpiresAt:      time.Date(2026, 12, 1, 8, 0, 0, 0, time.UTC),
		Zone:           zone,
		FirstMessageID: "<0102019b-first@mail.acorn.example>",
	}
}

// bare leaves out of an invitation all that may be left out.
func bare(l InvitationLetter) InvitationLetter {
	l.Note, l.CompanyName, l.RecipientName, l.FirstMessageID = "", "", "", ""
	l.Brand.Color, l.Brand.SupportEmail = "#ffd43b", ""
	return l
}

func testNews(t testing.TB, lang string) NewsLetter {
	t.Helper()
	l := testInvitation(t, lang)
	line := func(kind, name, email, workspace string, ago time.Duration) NewsLine {
		return NewsLine{Kind: kind, PersonName: name, Email: email, WorkspaceName: workspace, At: l.ExpiresAt.Add(-ago)}
	}
	return NewsLetter{
		Brand: l.Brand, Locale: lang, RecipientName: "Maya O’Neill", Zone: l.Zone, AppURL: "https://app.acorn.example/",
		Lines: []NewsLine{
			line(NewsAccepted, "Ann Müller", "ann@mail.example", "Ann Müller – Recovery plan", 30*time.Hour),
			line(NewsDeclined, "Tom <Tom> Berg", "tom@mail.example", "Berg & Co", 20*time.Hour),
			line(NewsExpired, "", "lee@mail.example", "Lee family", 10*time.Hour),
			line(NewsRenewalAsked, "Zoé Petit", "zoe@mail.example", "Petit – Suivi", 0),
		},
	}
}

// testOrphans is the news of invitations whose inviter may no longer invite.
func testOrphans(t testing.TB, lang string) NewsLetter {
	t.Helper()
	l := testNews(t, lang)
	for i, kind := range []string{NewsOrphaned, NewsTransferred, NewsWithdrawn} {
		l.Lines[i].Kind = kind
	}
	l.Lines = l.Lines[:3]
	return l
}

// testHolds is the news of mail that did not get through.
func testHolds(t testing.TB, lang string) NewsLetter {
	t.Helper()
	l := testNews(t, lang)
	for i, kind := range []string{NewsBounced, NewsMailboxFull, NewsSuppressed, NewsComplained, NewsUndelivered} {
		line := l.Lines[i%4]
		line.Kind = kind
		line.Email = "ann@gmial.example"
		line.Diagnostic = "550 5.1.1 <ann@gmial.example>: Recipient address rejected: User unknown"
		line.Suggestion = "ann@gmail.example"
		l.Lines = append(l.Lines, line)
	}
	l.Lines = l.Lines[4:]
	return l
}

func renderInvitation(t testing.TB, l InvitationLetter) Content {
	t.Helper()
	c, err := RenderInvitation(l)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// renderReminder reminds some days or hours before the end.
func renderReminder(t testing.TB, l InvitationLetter, left time.Duration) Content {
	t.Helper()
	c, err := RenderReminder(l, l.ExpiresAt.Add(-left))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func renderNews(t testing.TB, l NewsLetter) Content {
	t.Helper()
	c, err := RenderNews(l)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func renderWorkspaces(t testing.TB, l WorkspacesLetter) Content {
	t.Helper()
	c, err := RenderWorkspaces(l)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func renderPassword(t testing.TB, l PasswordLetter) Content {
	t.Helper()
	c, err := RenderPassword(l)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// letters renders every kind of letter in every language, by name: with all
// that may be in it, and with as little as may be.
func letters(t testing.TB) map[string]Content {
	t.Helper()
	all := map[string]Content{}
	for _, lang := range locale.Supported() {
		l := testInvitation(t, lang)
		all["invitation."+lang] = renderInvitation(t, l)
		all["reminder."+lang] = renderReminder(t, l, 4*24*time.Hour)
		l.Again = true
		all["invitation_again."+lang] = renderInvitation(t, l)
		l = bare(l)
		l.Again = false
		all["invitation_bare."+lang] = renderInvitation(t, l)
		l.Brand.LogoURL = "https://acorn.example/logo.png"
		all["reminder_bare."+lang] = renderReminder(t, l, 25*time.Hour)

		news := testNews(t, lang)
		all["news."+lang] = renderNews(t, news)
		news.Lines, news.AppURL, news.RecipientName, news.Brand = news.Lines[2:3], "", "", l.Brand
		all["news_bare."+lang] = renderNews(t, news)
		all["news_held."+lang] = renderNews(t, testHolds(t, lang))
		all["news_orphaned."+lang] = renderNews(t, testOrphans(t, lang))

		professional := testInvitation(t, lang)
		professional.Professional = true
		all["professional."+lang] = renderInvitation(t, professional)
		professional = bare(professional)
		professional.Again = true
		all["professional_bare."+lang] = renderInvitation(t, professional)

		workspaces := WorkspacesLetter{
			Brand: testInvitation(t, lang).Brand, Locale: lang, RecipientName: "Ann Müller", AppURL: "https://app.acorn.example/",
			Names: []string{"Berg & Co", "Petit – Suivi <2>", "Ann Müller – Recovery plan"},
		}
		all["workspaces."+lang] = renderWorkspaces(t, workspaces)
		workspaces.Names, workspaces.AppURL, workspaces.RecipientName, workspaces.Brand = workspaces.Names[2:], "", "", l.Brand
		all["workspaces_bare."+lang] = renderWorkspaces(t, workspaces)

		password := PasswordLetter{
			Brand: workspaces.Brand, Locale: lang, First: true, Link: "https://portal.acorn.example/password/k1BmKz5mJ0Tq2c8r1u8wYl3wZk8Qm0m8Yb0vX2QJ",
			ExpiresAt: l.ExpiresAt,
		}
		all["password_bare."+lang] = renderPassword(t, password)
		password.Brand, password.RecipientName, password.Username, password.Zone, password.First = testInvitation(t, lang).Brand, "Ann Müller", "ann.muller", l.Zone, false
		all["password."+lang] = renderPassword(t, password)
		password.First, password.MakerName, password.CompanyName = true, "Marie Dupont", "Berg & Co"
		all["password_made."+lang] = renderPassword(t, password)

		request := testRequest(t, lang)
		all["request."+lang] = renderRequest(t, request)
		request.Brand, request.RecipientName, request.RequesterName, request.Note, request.Again = l.Brand, "", "", "", true
		all["request_bare."+lang] = renderRequest(t, request)
		authorized, err := RenderAuthorized(testAuthorized(t, lang))
		if err != nil {
			t.Fatal(err)
		}
		all["authorized."+lang] = authorized
		all["news_requests."+lang] = renderNews(t, testRequestNews(t, lang))
		reminder := testRequest(t, lang)
		reminder.Reminder, reminder.Note = true, ""
		all["request_reminder."+lang] = renderRequest(t, reminder)
		digest := testDigest(t, lang)
		all["digest."+lang] = renderDigest(t, digest)
		digest.Brand, digest.RecipientName, digest.Items = l.Brand, "", digest.Items[:1]
		all["digest_bare."+lang] = renderDigest(t, digest)
	}
	return all
}

// testDigest names more than it can.
func testDigest(t testing.TB, lang string) DigestLetter {
	inv, q := testInvitation(t, lang), testRequest(t, lang)
	l := DigestLetter{Brand: inv.Brand, Locale: lang, RecipientName: inv.RecipientName, StopLink: inv.StopLink, Zone: inv.Zone}
	for i := range maxDigest + 2 {
		item := DigestItem{inv.InviterName, inv.CompanyName, fmt.Sprintf("%s %d", inv.WorkspaceName, i+1), inv.Link, inv.ExpiresAt.Add(time.Duration(i) * time.Hour)}
		if i%5 == 3 {
			item = DigestItem{q.RequesterName, q.CompanyName, "", q.Link, inv.ExpiresAt.Add(-time.Duration(i) * time.Hour)}
		}
		l.Items = append(l.Items, item)
	}
	return l
}

func renderDigest(t testing.TB, l DigestLetter) Content {
	t.Helper()
	c, err := RenderDigest(l)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func testRequest(t testing.TB, lang string) RequestLetter {
	inv := testInvitation(t, lang)
	return RequestLetter{
		Brand: inv.Brand, Locale: lang, RecipientName: inv.RecipientName, RequesterName: inv.InviterName, CompanyName: inv.CompanyName, Note: inv.Note,
		Link: "https://portal.acorn.example/r/k1BmKz5mJ0Tq2c8r1u8wYl3wZk8Qm0m8Yb0vX2QJ", StopLink: inv.StopLink, ExpiresAt: inv.ExpiresAt, Zone: inv.Zone,
	}
}

func renderRequest(t testing.TB, l RequestLetter) Content {
	t.Helper()
	c, err := RenderRequest(l)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func testAuthorized(t testing.TB, lang string) AuthorizedLetter {
	q := testRequest(t, lang)
	return AuthorizedLetter{Brand: q.Brand, Locale: lang, RecipientName: q.RecipientName, CompanyName: q.CompanyName, Link: q.Link, At: q.ExpiresAt, Zone: q.Zone}
}

// testRequestNews tells of everything that can become of an access request.
func testRequestNews(t testing.TB, lang string) NewsLetter {
	news := testNews(t, lang)
	at := news.Lines[0].At
	news.Lines = nil
	for _, kind := range []string{NewsRequestGranted, NewsRequestDenied, NewsRequestExpired, NewsRequestRevoked, NewsRequestHeld} {
		news.Lines = append(news.Lines, NewsLine{Kind: kind, PersonName: "Ann Müller", Email: "ann@client.example", At: at})
	}
	return news
}

// A letter that lacks something it cannot do without is not written.
func TestRequestLettersLackNothing(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*RequestLetter){
		"brand": func(l *RequestLetter) { l.Brand.Name = " " }, "company": func(l *RequestLetter) { l.CompanyName = "" },
		"link": func(l *RequestLetter) { l.Link = "javascript:alert(1)" }, "stop link": func(l *RequestLetter) { l.StopLink = "" },
		"expiry": func(l *RequestLetter) { l.ExpiresAt = time.Time{} },
	} {
		l := testRequest(t, "en")
		change(&l)
		if _, err := RenderRequest(l); err == nil {
			t.Errorf("a request without its %s was written", name)
		}
	}
	for name, change := range map[string]func(*AuthorizedLetter){
		"brand": func(l *AuthorizedLetter) { l.Brand.Name = "" }, "company": func(l *AuthorizedLetter) { l.CompanyName = "" },
		"link": func(l *AuthorizedLetter) { l.Link = "x" }, "time": func(l *AuthorizedLetter) { l.At = time.Time{} },
	} {
		l := testAuthorized(t, "en")
		change(&l)
		if _, err := RenderAuthorized(l); err == nil {
			t.Errorf("an authorization without its %s was told", name)
		}
	}
}

// TestLetters compares with testdata. After a change on purpose: go test
// ./internal/mail -run TestLetters -update, then read the difference.
func TestLetters(t *testing.T) {
	t.Parallel()
	for name, c := range letters(t) {
		for file, got := range map[string]string{
			name + ".html": c.HTML,
			name + ".txt":  head(c) + "\n" + c.Text,
		} {
			path := filepath.Join("testdata", file)
			if *update {
				if err := os.WriteFile(path, []byte(got), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if got != string(want) {
				t.Errorf("%s differs from its golden file, got:\n%s", file, got)
			}
		}
	}
}

// head is the mail's headers as far as its content decides them.
func head(c Content) string {
	lines := "Subject: " + c.Subject + "\n"
	for _, name := range slices.Sorted(maps.Keys(c.Headers)) {
		lines += name + ": " + c.Headers[name] + "\n"
	}
	return lines
}

// elements returns the elements of a document with one of the names, in order.
func elements(t *testing.T, doc string, names ...string) []*html.Node {
	t.Helper()
	root, err := html.Parse(strings.NewReader(doc))
	if err != nil {
		t.Fatal(err)
	}
	var found []*html.Node
	for n := range root.Descendants() {
		for _, name := range names {
			if n.Type == html.ElementNode && n.Data == name {
				found = append(found, n)
			}
		}
	}
	return found
}

func attr(n *html.Node, key string) string {
	for _, a := range n.Attr {
		if a.Key == key {
			return a.Val
		}
	}
	return ""
}

func innerText(n *html.Node) string {
	var b strings.Builder
	for child := range n.Descendants() {
		if child.Type == html.TextNode {
			b.WriteString(child.Data)
		}
	}
	return strings.TrimSpace(b.String())
}

// style returns an inline style's value of the element or its nearest ancestor
// that has one.
func style(n *html.Node, property string) string {
	for ; n != nil; n = n.Parent {
		for decl := range strings.SplitSeq(attr(n, "style"), ";") {
			name, value, _ := strings.Cut(decl, ":")
			if strings.TrimSpace(name) == property {
				return strings.TrimSpace(value)
			}
		}
	}
	return ""
}

func TestLetterStructure(t *testing.T) {
	t.Parallel()
	for name, c := range letters(t) {
		lang := name[strings.LastIndexByte(name, '.')+1:]
		root := elements(t, c.HTML, "html")[0]
		if attr(root, "lang") != lang || attr(root, "dir") != "ltr" {
			t.Errorf("%s: html has lang %q dir %q", name, attr(root, "lang"), attr(root, "dir"))
		}
		if n := len(elements(t, c.HTML, "h1")); n != 1 {
			t.Errorf("%s: %d h1", name, n)
		}
		if n := elements(t, c.HTML, "script", "form", "iframe", "link", "svg", "video"); len(n) > 0 {
			t.Errorf("%s: has %s, which mail programs drop", name, n[0].Data)
		}
		if got := innerText(elements(t, c.HTML, "title")[0]); got != c.Subject {
			t.Errorf("%s: title %q, subject %q", name, got, c.Subject)
		}
		for _, table := range elements(t, c.HTML, "table") {
			if attr(table, "role") != "presentation" {
				t.Errorf("%s: a layout table that is read out as data", name)
			}
		}
		for _, img := range elements(t, c.HTML, "img") {
			if attr(img, "alt") == "" {
				t.Errorf("%s: image without alt", name)
			}
		}
		for _, a := range elements(t, c.HTML, "a") {
			if innerText(a) == "" || attr(a, "href") == "" {
				t.Errorf("%s: a link without text or target", name)
			}
		}
		// Outlook for Windows: a fixed width, and nothing it cannot lay out.
		if strings.Count(c.HTML, "<!--[if mso]>") != 3 || strings.Count(c.HTML, "<![endif]-->") != 3 ||
			!strings.Contains(c.HTML, `<!--[if mso]><table role="presentation" width="560"`) {
			t.Errorf("%s: the comments for Outlook are not whole", name)
		}
		for _, bad := range []string{"display:flex", "display:grid", "position:", "float:", "rem;", "var(--"} {
			if strings.Contains(c.HTML, bad) {
				t.Errorf("%s: has %s", name, bad)
			}
		}
		if len(c.HTML) > 20<<10 {
			t.Errorf("%s: %d bytes", name, len(c.HTML))
		}
	}
}

// TestLetterContrast looks at every piece of text as mail programs that keep
// inline styles only do, and at the colours of the dark mode.
func TestLetterContrast(t *testing.T) {
	t.Parallel()
	hex := regexp.MustCompile(`^#[0-9a-f]{6}$`)
	for name, c := range letters(t) {
		checked := 0
		for _, n := range elements(t, c.HTML, "p", "h1", "a", "strong") {
			ink, ground := style(n, "color"), style(n, "background")
			if !hex.MatchString(ink) || !hex.MatchString(ground) {
				t.Errorf("%s: %q has colours %q on %q", name, innerText(n), ink, ground)
				continue
			}
			if got := contrast(ink, ground); got < 4.5 {
				t.Errorf("%s: %q has contrast %.2f", name, innerText(n), got)
			}
			if style(n, "font-family") == "" {
				t.Errorf("%s: %q has no font", name, innerText(n))
			}
			checked++
		}
		if checked < 7 {
			t.Errorf("%s: only %d texts", name, checked)
		}
		_, dark, _ := strings.Cut(c.HTML, "prefers-color-scheme: dark")
		value := func(selector, property string) string {
			m := regexp.MustCompile(`\n  ` + regexp.QuoteMeta(selector) + `[^{\n]*\{[^}\n]*?\b` + property + `: (#[0-9a-f]{6}) !important`).FindStringSubmatch(dark)
			if m == nil {
				t.Fatalf("%s: no dark %s of %s", name, property, selector)
			}
			return m[1]
		}
		for _, ground := range []string{".page", ".card", ".note"} {
			for _, ink := range []string{".ink", ".soft", ".link"} {
				if got := contrast(value(ink, "color"), value(ground, "background")); got < 4.5 {
					t.Errorf("%s: dark %s on %s has contrast %.2f", name, ink, ground, got)
				}
			}
		}
		if value(".card", "background") != darkCard {
			t.Errorf("%s: the dark card is not darkCard", name)
		}
	}
}

func TestInvitationLinks(t *testing.T) {
	t.Parallel()
	for _, lang := range locale.Supported() {
		l := testInvitation(t, lang)
		for kind, c := range map[string]Content{"invitation": renderInvitation(t, l), "reminder": renderReminder(t, l, time.Hour)} {
			var button, bare, decline, stop bool
			for _, a := range elements(t, c.HTML, "a") {
				switch innerText(a) {
				case texts.In(lang).T("invitation.button"):
					// line-height + paddings + borders, all in pixels
					button = attr(a, "href") == l.Link && style(a, "line-height") == "24px" && style(a, "padding") == "12px 28px"
				case texts.In(lang).T("invitation.decline"):
					decline = attr(a, "href") == l.Link
				case l.Link:
					bare = attr(a, "href") == l.Link
				case texts.In(lang).T(kind + ".stop_action"):
					stop = attr(a, "href") == l.StopLink
				case l.Brand.SupportEmail:
				default:
					t.Errorf("%s %s: a link %q to %q", kind, lang, innerText(a), attr(a, "href"))
				}
			}
			if !button || !bare || !decline || !stop {
				t.Errorf("%s %s: button of 44 px %t, bare link %t, decline %t, stop %t", kind, lang, button, bare, decline, stop)
			}
			if n, stops := strings.Count(c.Text, "\n"+l.Link+"\n"), strings.Count(c.Text, "\n"+l.StopLink+"\n"); n != 2 || stops != 1 {
				t.Errorf("%s %s: the links have %d and %d lines of their own in the text", kind, lang, n, stops)
			}
			when := locale.DateTime(lang, l.ExpiresAt, l.Zone)
			if !strings.Contains(strings.ReplaceAll(c.Text, "\n", " "), when) || strings.Count(c.HTML, when) != 2 {
				t.Errorf("%s %s: the expiry %q is not in text, preheader and letter", kind, lang, when)
			}
		}
	}
}

func TestTimeLeft(t *testing.T) {
	t.Parallel()
	l := testInvitation(t, "en")
	for left, want := range map[time.Duration]string{
		time.Nanosecond:                "You have less than an hour left.",
		time.Hour - 1:                  "You have less than an hour left.",
		time.Hour:                      "You have one hour left.",
		25 * time.Hour:                 "You have 25 hours left.",
		48*time.Hour - 1:               "You have 47 hours left.",
		48 * time.Hour:                 "You have 2 days left.",
		11*24*time.Hour + 23*time.Hour: "You have 11 days left.",
	} {
		c := renderReminder(t, l, left)
		if !strings.Contains(c.Text, want) || strings.Count(c.HTML, want) != 2 {
			t.Errorf("%s before the end: want %q in\n%s", left, want, c.Text)
		}
	}
	if c, err := RenderReminder(l, l.ExpiresAt); err == nil {
		t.Errorf("a reminder of something over:\n%s", c.Text)
	}
}

func TestHeaders(t *testing.T) {
	t.Parallel()
	l := testInvitation(t, "en")
	again := l
	again.Again = true
	auto := "auto-generated"
	reply := map[string]string{"Auto-Submitted": auto, "In-Reply-To": l.FirstMessageID, "References": l.FirstMessageID}
	bulk := maps.Clone(reply)
	bulk["List-Unsubscribe"], bulk["List-Unsubscribe-Post"] = "<"+l.StopLink+">", "List-Unsubscribe=One-Click"
	for name, test := range map[string]struct {
		c    Content
		want map[string]string
	}{
		"first":    {renderInvitation(t, l), map[string]string{"Auto-Submitted": auto}},
		"again":    {renderInvitation(t, again), reply},
		"reminder": {renderReminder(t, l, time.Hour), bulk},
		"news":     {renderNews(t, testNews(t, "en")), map[string]string{"Auto-Submitted": auto}},
	} {
		if !maps.Equal(test.c.Headers, test.want) {
			t.Errorf("%s: headers %q, want %q", name, test.c.Headers, test.want)
		}
	}
	for given, want := range map[string]string{
		"":                              "",
		"a.b+c@d.example":               "<a.b+c@d.example>",
		"<a@b.example>\r\nBcc: x@y.z":   "",
		"<a@b.example>\n":               "",
		"a@b.example\x00":               "",
		"<a@b.example> <c@d.example>":   "",
		"<a@b@c.example>":               "",
		"<>":                            "",
		"no id":                         "",
		"<é@b.example>":                 "",
		strings.Repeat("a", 300) + "@b": "",
	} {
		again.FirstMessageID = given
		c := renderInvitation(t, again)
		if c.Headers["In-Reply-To"] != want || c.Headers["References"] != want {
			t.Errorf("message id %q: headers %q", given, c.Headers)
		}
		if _, there := c.Headers["References"]; want == "" && there {
			t.Errorf("message id %q: an empty header", given)
		}
	}
}

func TestTextPart(t *testing.T) {
	t.Parallel()
	for name, c := range letters(t) {
		for line := range strings.Lines(c.Text) {
			line = strings.TrimSuffix(line, "\n")
			if utf8.RuneCountInString(line) > textWidth && !strings.HasPrefix(line, "https://") {
				t.Errorf("%s: line too long: %q", name, line)
			}
			if strings.HasSuffix(line, " ") {
				t.Errorf("%s: line ends with a space: %q", name, line)
			}
		}
		if strings.Contains(c.Text, "\n\n\n") || strings.ContainsAny(c.Text, "\r\t") || strings.Contains(c.Text, "&amp;") {
			t.Errorf("%s: untidy text:\n%s", name, c.Text)
		}
		if strings.HasSuffix(name, ".fr") && !strings.HasPrefix(name, "invitation") {
			// What the mail server said has the server's spelling.
			ours := strings.ReplaceAll(strings.ReplaceAll(c.Text, "\n", " "), "example>: Recipient address rejected: User", "")
			if slip := regexp.MustCompile(`[^\x{202f}][:?!;]\s`).FindString(ours); slip != "" {
				t.Errorf("%s: no narrow space in %q", name, slip)
			}
		}
	}
}

func TestUserTextIsEscaped(t *testing.T) {
	t.Parallel()
	const evil = `<script>alert(1)</script><img src=x onerror=y>"'&amp; {{.Link}} {brand}`
	l := testInvitation(t, "en")
	l.RecipientName, l.InviterName, l.CompanyName, l.WorkspaceName, l.Note, l.Brand.Name = evil, evil, evil+"2", evil, evil+"\n"+evil, evil
	l.Brand.LogoURL = "https://acorn.example/logo.png"
	n := testNews(t, "en")
	n.RecipientName, n.Brand.Name = evil, evil
	n.Lines = []NewsLine{{Kind: NewsBounced, PersonName: evil, Email: evil, WorkspaceName: evil, At: time.Now(), Diagnostic: evil, Suggestion: evil}}
	for name, c := range map[string]Content{"invitation": renderInvitation(t, l), "reminder": renderReminder(t, l, time.Hour), "news": renderNews(t, n)} {
		if found := elements(t, c.HTML, "script"); len(found) > 0 {
			t.Errorf("%s: a script came through", name)
		}
		for _, img := range elements(t, c.HTML, "img") {
			if attr(img, "src") != l.Brand.LogoURL || attr(img, "onerror") != "" {
				t.Errorf("%s: an image came through: %v", name, img.Attr)
			}
		}
		body := innerText(elements(t, c.HTML, "body")[0])
		if !strings.Contains(body, `<script>alert(1)`) || !strings.Contains(c.Text, `<script>alert(1)`) {
			t.Errorf("%s: the name is not shown as typed", name)
		}
		if strings.Contains(c.HTML, "ZgotmplZ") {
			t.Errorf("%s: html/template refused a value", name)
		}
	}
}

func TestSubject(t *testing.T) {
	t.Parallel()
	for _, name := range []string{
		"Eve\r\nBcc: all@acorn.example", "Eve\x00", "Eve\x85Bcc: x", "Eve\u2028Bcc: x", "\x7fEve\x1b[31m", "Eve\xff\xfe", "Eve \u202elive\u202c",
		strings.Repeat("Eve ", 500), "Eve https://evil.example/login now", "evil.example/login", "www.evil.example", "evil.example", "10.0.0.1/x",
		"evil\u200d.example", "evil.\u200cexample", "evil․example", "evil﹒example", "evil。example", "evil-.example", "evil_.example", "a\u0301.example", "\ufe0f.example",
	} {
		l := testInvitation(t, "en")
		l.InviterName, l.WorkspaceName = name, name
		one := testNews(t, "en")
		one.Lines = one.Lines[:1]
		one.Lines[0].PersonName = name
		hold := one
		hold.Lines = slices.Clone(one.Lines)
		hold.Lines[0].Kind = NewsBounced
		for _, subject := range []string{
			renderInvitation(t, l).Subject, renderReminder(t, l, time.Hour).Subject, renderNews(t, one).Subject, renderNews(t, hold).Subject,
		} {
			if strings.ContainsFunc(subject, unicode.IsControl) || strings.ContainsAny(subject, "\u2028\u2029\u202e") || !utf8.ValidString(subject) {
				t.Errorf("%q: control characters in subject %q", name, subject)
			}
			if n := utf8.RuneCountInString(subject); n > 2*maxSubjectName+40 {
				t.Errorf("%q: subject has %d characters", name, n)
			}
			if regexp.MustCompile(`://|www\.|\S[.․﹒。．｡][\x{200c}\x{200d}]*[a-z]|\d\.\d`).MatchString(subject) {
				t.Errorf("%q: something like a link in subject %q", name, subject)
			}
		}
	}
}

// TestNewsKinds renders every kind alone in every language: the keys of their
// texts are made at run time, so that no check at start sees them.
func TestNewsKinds(t *testing.T) {
	t.Parallel()
	for _, lang := range locale.Supported() {
		seen := map[string]bool{}
		all := testNews(t, lang)
		shown := 0
		for _, line := range slices.Concat(all.Lines, testHolds(t, lang).Lines, testOrphans(t, lang).Lines, testRequestNews(t, lang).Lines) {
			one := all
			one.Lines = []NewsLine{line}
			c := renderNews(t, one)
			who := line.PersonName
			if who == "" {
				who = line.Email
			}
			if !strings.Contains(c.Subject, who) || seen[c.Subject] && !heldNews[line.Kind] || seen[c.Text] {
				t.Errorf("%s %s: subject %q", lang, line.Kind, c.Subject)
			}
			seen[c.Subject], seen[c.Text] = true, true
			shown++

			// What the mail server said, and a better address, where they help.
			said := strings.Contains(c.Text, "User unknown") && strings.Contains(c.HTML, "User unknown")
			suggested := strings.Contains(c.Text, "ann@gmail.example") && strings.Contains(c.HTML, "ann@gmail.example")
			if said != (line.Kind == NewsBounced || line.Kind == NewsMailboxFull) {
				t.Errorf("%s %s: the server's words are shown: %t", lang, line.Kind, said)
			}
			if suggested != (line.Kind == NewsBounced || line.Kind == NewsSuppressed) {
				t.Errorf("%s %s: the suggestion is shown: %t", lang, line.Kind, suggested)
			}
			if line.Kind == NewsComplained && regexp.MustCompile(`(?i)spam|complain|plaint|queja|User unknown|gmail`).MatchString(c.Subject+c.Text+c.HTML) {
				t.Errorf("%s: the inviter learns of the complaint:\n%s", lang, c.Text)
			}
		}
		if shown != len(newsEdges) {
			t.Errorf("%d of %d kinds were shown", shown, len(newsEdges))
		}
	}
}

// TestDiagnostic shows that a mail server, which anybody can run, gets no link
// into our mail.
func TestDiagnostic(t *testing.T) {
	t.Parallel()
	l := testHolds(t, "en")
	l.Lines = l.Lines[:1]
	l.Lines[0].Diagnostic = "550-5.1.1 see\r\nhttps://evil.example/login or evil.example " + strings.Repeat("x", 1000)
	l.Lines[0].Suggestion = "Ann <ann@gmail.example>"
	c := renderNews(t, l)
	if !strings.Contains(c.Text, "550-5.1.1 see … or evil. example\nxxxx") || strings.Contains(c.HTML+c.Text, "https://evil") || strings.Count(c.Text, "x") > maxDiagnostic {
		t.Errorf("text:\n%s", c.Text)
	}
	if strings.Contains(c.Text, "gmail") {
		t.Errorf("a suggestion that is no bare address is shown:\n%s", c.Text)
	}
}

func TestAppLink(t *testing.T) {
	t.Parallel()
	l := testNews(t, "en")
	c := renderNews(t, l)
	if links := elements(t, c.HTML, "a"); len(links) != 2 || attr(links[0], "href") != l.AppURL || innerText(links[0]) != "Open Acorn Practice" || !strings.Contains(c.Text, "\n"+l.AppURL+"\n") {
		t.Errorf("no link to the app:\n%s", c.HTML)
	}
	for _, bad := range []string{"", "javascript:alert(1)", "/app", "https://user@evil.example/", "https://a b/"} {
		l.AppURL = bad
		if links := elements(t, renderNews(t, l).HTML, "a"); len(links) != 1 {
			t.Errorf("%q: %d links", bad, len(links))
		}
	}
}

func TestCleanName(t *testing.T) {
	t.Parallel()
	for _, test := range []struct{ name, want string }{
		{"Ann Müller", "Ann Müller"},
		{"  Ann \t Müller\n", "Ann Müller"},
		{"J.R.R. Tolkien", "J. R. R. Tolkien"},
		{"Release 1.2, Dr. Who, 3 p.m.", "Release 1.2, Dr. Who, 3 p. m."},
		{"Booking.com", "Booking. com"},
		{"a.b.c.example", "a. b. c. example"},
		{"пример.рф 例え。テスト", "пример. рф 例え。 テスト"},
		{"Go to https://evil.example/a?b=c now", "Go to … now"},
		{"HTTPS:/evil.example", "…"},
		{"javascript://x", "…"},
		{"see www.evil", "see …"},
		{"evil.example/login", "…"},
		{"192.168.0.1", "…"},
		{"A/B", "A/B"},
		{"me@evil.example", "me@evil. example"},
		{"zero\u200bwidth\ufeff \u202eright\u202c so\u00adft", "zerowidth right soft"},
		{"می\u200cخواهم", "می\u200cخواهم"},
		{"bad\xffbytes\x00", "badbytes"},
		{"evil\u200b.com", "evil. com"},
		{"evil\u200d.com", "evil\u200d. com"},
		{"evil.\u200ccom", "evil. \u200ccom"},
		{"evil․com﹒x", "evil․ com﹒ x"},
		{"evil-.com", "evil-. com"},
		{"wait...what", "wait... what"},
		{".NET group, R&D", ".NET group, R&D"},
		{"\u200b\n", ""},
	} {
		if got := cleanName(test.name); got != test.want {
			t.Errorf("%q: got %q, want %q", test.name, got, test.want)
		}
	}
}

func TestShorten(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		s     string
		limit int
		want  string
	}{
		{"Müller", 6, "Müller"},
		{"Müllers", 6, "Mülle…"},
		{"Ann Bell", 5, "Ann…"},
		{"Zoe\u0301 Petit", 4, "Zo…"},                    // not Zoe without its accent
		{"ab\U0001f469\u200d\U0001f52c!", 5, "ab…"},      // not half of an emoji
		{strings.Repeat("\u0301", 10), 5, "…"},           // accents only
		{"\u200d\u200d\u200d\u200d\u200d\u200d", 4, "…"}, // joiners only
	} {
		if got := shorten(test.s, test.limit); got != test.want {
			t.Errorf("%q: got %q, want %q", test.s, got, test.want)
		}
	}
}

func TestNote(t *testing.T) {
	t.Parallel()
	l := testInvitation(t, "en")
	l.Note = "\r\n\n Dear Ann,\r\n\r\n\n\n one < two & \x00three\n> quoted " + strings.Repeat("word ", 30) + "\n \n"
	c := renderInvitation(t, l)
	if !strings.Contains(c.Text, "> Dear Ann,\n>\n> one < two & three\n> > quoted word") {
		t.Errorf("text:\n%s", c.Text)
	}
	if strings.Contains(c.Text, "\nword") {
		t.Errorf("a wrapped line lost its quote:\n%s", c.Text)
	}
	if !strings.Contains(c.HTML, "Dear Ann,<br>\n<br>\none &lt; two &amp; three<br>") {
		t.Errorf("html:\n%s", c.HTML)
	}
	l.Note = " \n\x00\n"
	if c := renderInvitation(t, l); strings.Contains(c.Text, "writes") || strings.Contains(c.HTML, `class="note"`) {
		t.Errorf("an empty note is shown:\n%s", c.Text)
	}
}

func TestBrand(t *testing.T) {
	t.Parallel()
	// Every colour gets a text of enough contrast, and an edge where it needs one.
	const digits = "0369cf"
	for _, r := range digits {
		for _, g := range digits {
			for _, b := range digits {
				color := "#" + strings.Repeat(string(r), 2) + strings.Repeat(string(g), 2) + strings.Repeat(string(b), 2)
				v := newView(Brand{Color: color}, "en", "").Brand
				dress := regexp.MustCompile(`^border:1px solid (#[0-9a-f]{6}); background:(#[0-9a-f]{6}); color:(#[0-9a-f]{6})$`).FindStringSubmatch(string(v.Button))
				if len(dress) != 4 || contrast(dress[3], color) < 4.5 || dress[2] != color || v.Color != color {
					t.Fatalf("%s: dress %q", color, v.Button)
				}
				if contrast(dress[1], lightCard) < minEdge || contrast(v.DarkEdge, darkCard) < minEdge {
					t.Errorf("%s: edges %s, %s", color, dress[1], v.DarkEdge)
				}
			}
		}
	}
	for _, color := range []string{"", "red", "#fff", "#12345g", "1f5fa8", "#1f5fa8;x:url(//evil.example)", "#1f5fa8\n"} {
		if v := newView(Brand{Color: color}, "en", "").Brand; v.Color != defaultColor {
			t.Errorf("color %q: got %q", color, v.Color)
		}
	}
	for _, logo := range []string{"", "javascript:alert(1)", "//acorn.example/x.png", "/x.png", "data:image/png;base64,AAAA", "https://", "https://a b/"} {
		if v := newView(Brand{LogoURL: logo}, "en", "").Brand; v.LogoURL != "" {
			t.Errorf("logo %q was kept", logo)
		}
	}
	for _, address := range []string{"", "help", "Help <help@acorn.example>", "help@acorn.example\r\nBcc: x@y.example", "a@b.example, c@d.example"} {
		if v := newView(Brand{SupportEmail: address}, "en", "").Brand; v.SupportEmail != "" {
			t.Errorf("support address %q was kept", address)
		}
	}
	l := testInvitation(t, "en")
	l.Brand.LogoURL = "https://acorn.example/logo.png?v=1&s=2"
	img := elements(t, renderInvitation(t, l).HTML, "img")
	if len(img) != 1 || attr(img[0], "src") != l.Brand.LogoURL || attr(img[0], "alt") != l.Brand.Name {
		t.Errorf("logo: %v", img)
	}
}

// TestContrast compares with known values of the formula.
func TestContrast(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		a, b     string
		from, to float64
	}{
		{"#000000", "#ffffff", 21, 21},
		{"#ffffff", "#767676", 4.54, 4.55},
		{"#ff0000", "#ffffff", 3.99, 4.00},
	} {
		if got := contrast(test.a, test.b); got < test.from-0.001 || got > test.to+0.001 {
			t.Errorf("%s on %s: got %.3f", test.a, test.b, got)
		}
	}
}

func TestInviterFallsBack(t *testing.T) {
	t.Parallel()
	l := testInvitation(t, "en")
	l.InviterName = "\u200b"
	if c := renderInvitation(t, l); !strings.Contains(c.Text, "\nStone & Partners invites you to join Ann Müller – Recovery plan on") {
		t.Errorf("without a name the company invites:\n%s", c.Text)
	}
	l.CompanyName = ""
	if c := renderInvitation(t, l); !strings.Contains(c.Text, "\nAcorn Practice invites you") {
		t.Errorf("without a company the brand invites:\n%s", c.Text)
	}
}

func TestRenderRefuses(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(*InvitationLetter){
		"no brand name":        func(l *InvitationLetter) { l.Brand.Name = " " },
		"no workspace name":    func(l *InvitationLetter) { l.WorkspaceName = "\u200b" },
		"no expiry":            func(l *InvitationLetter) { l.ExpiresAt = time.Time{} },
		"link is no absolute ": func(l *InvitationLetter) { l.Link = "javascript:alert(1)" },
		"link is no":           func(l *InvitationLetter) { l.Link = "https://a.example/x\r\nBcc: y" },
		"link is":              func(l *InvitationLetter) { l.Link = "/i/token" },
		"the link":             func(l *InvitationLetter) { l.Link = "https://user@evil.example/" },
		"that stops mail":      func(l *InvitationLetter) { l.StopLink = "" },
		"link that stops mail": func(l *InvitationLetter) { l.StopLink = "https://a.example/u/x>\r\nBcc: y" },
	} {
		l := testInvitation(t, "en")
		change(&l)
		if c, err := RenderInvitation(l); err == nil || !strings.Contains(err.Error(), want) || c.HTML != "" {
			t.Errorf("got error %v, want %q", err, want)
		}
		if c, err := RenderReminder(l, time.Time{}); err == nil || !strings.Contains(err.Error(), want) || c.HTML != "" {
			t.Errorf("reminder: got error %v, want %q", err, want)
		}
	}
	for want, change := range map[string]func(*NewsLetter){
		"no brand name":          func(l *NewsLetter) { l.Brand.Name = "" },
		"no lines":               func(l *NewsLetter) { l.Lines = nil },
		`unknown kind "revoked"`: func(l *NewsLetter) { l.Lines[2].Kind = "revoked" },
	} {
		l := testNews(t, "en")
		change(&l)
		if c, err := RenderNews(l); err == nil || !strings.Contains(err.Error(), want) || c.HTML != "" {
			t.Errorf("got error %v, want %q", err, want)
		}
	}
	for want, l := range map[string]WorkspacesLetter{
		"no brand name": {Names: []string{"Berg"}},
		"no names":      {Brand: Brand{Name: "Acorn"}, Names: []string{"\u200b"}},
	} {
		if c, err := RenderWorkspaces(l); err == nil || !strings.Contains(err.Error(), want) || c.HTML != "" {
			t.Errorf("got error %v, want %q", err, want)
		}
	}
}

// TestLargestLetters shows that no input reaches the size Gmail clips at.
func TestLargestLetters(t *testing.T) {
	t.Parallel()
	long := strings.Repeat(`"`, 100_000) // five bytes each when escaped
	l := testInvitation(t, "fr")
	l.RecipientName, l.InviterName, l.CompanyName, l.WorkspaceName, l.Brand.Name = long, long, long+"x", long, long
	l.Note = strings.Repeat(`"\n`, 100_000)
	n := testNews(t, "fr")
	n.RecipientName, n.Brand.Name, n.Lines = long, long, nil
	for range 3 * maxNews {
		n.Lines = append(n.Lines, NewsLine{
			Kind: NewsBounced, PersonName: long, Email: long, WorkspaceName: long, At: time.Now(),
			Diagnostic: long, Suggestion: strings.Repeat("x", 60) + "@" + strings.Repeat("x.", 90) + "example",
		})
	}
	news := renderNews(t, n)
	w := WorkspacesLetter{Brand: n.Brand, Locale: "fr", RecipientName: long, Names: slices.Repeat([]string{long}, 3*maxNews)}
	for name, c := range map[string]Content{"invitation": renderInvitation(t, l), "news": news, "workspaces": renderWorkspaces(t, w)} {
		if len(c.HTML) > maxHTML || len(c.Text) > maxHTML {
			t.Errorf("%s: %d bytes of HTML, %d of text", name, len(c.HTML), len(c.Text))
		}
	}
	if want := texts.In("fr").T("news.more", "count", 2*maxNews, "brand", "x"); !strings.Contains(news.Text, strings.Fields(want)[0]+" autres") {
		t.Errorf("the rest is not counted: want %q in\n%s", want, news.Text[len(news.Text)-800:])
	}
}

// TestTextsAreUsed finds texts nobody shows any more.
func TestTextsAreUsed(t *testing.T) {
	t.Parallel()
	var sources strings.Builder
	files, err := filepath.Glob("templates/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, "letters.go") {
		if filepath.Ext(file) == "" {
			continue
		}
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		sources.Write(source)
	}
	catalogue, err := os.ReadFile("templates/texts/en.json")
	if err != nil {
		t.Fatal(err)
	}
	keys := regexp.MustCompile(`(?m)^  "([a-z_.]+)":`).FindAllSubmatch(catalogue, -1)
	if len(keys) < 20 {
		t.Fatalf("found only %d keys", len(keys))
	}
	kinds := strings.Join(slices.Collect(maps.Keys(newsEdges)), "|")
	for _, key := range keys {
		made := regexp.MustCompile(`^news\.(subject_)?(held|` + kinds + `)$`).Match(key[1]) // TestNewsKinds shows these
		if !made && !strings.Contains(sources.String(), `"`+string(key[1])+`"`) {
			t.Errorf("text %s is not used", key[1])
		}
	}
}
