package mail

import (
	"flag"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/html"

	"usher/internal/locale"
)

var update = flag.Bool("update", false, "write the golden files of the letters anew")

func testInvitation(t *testing.T, lang string) InvitationLetter {
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
		Locale:        lang,
		RecipientName: "Ann Müller",
		InviterName:   "Maya O’Neill",
		CompanyName:   "Stone & Partners",
		WorkspaceName: "Ann Müller – Recovery plan",
		Note:          "Dear Ann,\n\nhere is the file we spoke about. Everything from <Tuesday> is in it, and there is room for your own notes & questions.\n\nSee you soon\nMaya",
		Link:          "https://portal.acorn.example/i/k1.BmKz5mJ0Tq2c8r1u8wYl3w.1.Zk8Qm0m8Yb0vX2QJ7r9sH3nT5pL1aE4cW6dU8fG0iK2",
		ExpiresAt:     time.Date(2026, 12, 1, 8, 0, 0, 0, time.UTC),
		Zone:          zone,
	}
}

func testNews(t *testing.T, lang string) NewsLetter {
	t.Helper()
	l := testInvitation(t, lang)
	return NewsLetter{
		Brand: l.Brand, Locale: lang, RecipientName: "Maya O’Neill", Zone: l.Zone,
		Lines: []NewsLine{
			{NewsAccepted, "Ann Müller", "ann@mail.example", "Ann Müller – Recovery plan", l.ExpiresAt.Add(-30 * time.Hour)},
			{NewsDeclined, "Tom <Tom> Berg", "tom@mail.example", "Berg & Co", l.ExpiresAt.Add(-20 * time.Hour)},
			{NewsExpired, "", "lee@mail.example", "Lee family", l.ExpiresAt.Add(-10 * time.Hour)},
			{NewsRenewalAsked, "Zoé Petit", "zoe@mail.example", "Petit – Suivi", l.ExpiresAt},
		},
	}
}

func renderInvitation(t *testing.T, l InvitationLetter) Content {
	t.Helper()
	c, err := RenderInvitation(l)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func renderNews(t *testing.T, l NewsLetter) Content {
	t.Helper()
	c, err := RenderNews(l)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// letters renders every kind of letter in every language, by name.
func letters(t *testing.T) map[string]Content {
	t.Helper()
	all := map[string]Content{}
	for _, lang := range locale.Supported() {
		all["invitation."+lang] = renderInvitation(t, testInvitation(t, lang))
		again := testInvitation(t, lang)
		again.Again, again.Note, again.CompanyName, again.RecipientName = true, "", "", ""
		again.Brand.Color, again.Brand.SupportEmail = "#ffd43b", ""
		all["invitation_again."+lang] = renderInvitation(t, again)
		all["news."+lang] = renderNews(t, testNews(t, lang))
	}
	return all
}

// TestLetters compares with testdata. After a change on purpose: go test
// ./internal/mail -run TestLetters -update, then read the difference.
func TestLetters(t *testing.T) {
	t.Parallel()
	for name, c := range letters(t) {
		for file, got := range map[string]string{
			name + ".html": c.HTML,
			name + ".txt":  "Subject: " + c.Subject + "\n\n" + c.Text,
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
		if checked < 8 {
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
		c := renderInvitation(t, l)
		var button, bare, decline bool
		for _, a := range elements(t, c.HTML, "a") {
			if strings.HasPrefix(attr(a, "href"), "mailto:") {
				continue
			}
			if attr(a, "href") != l.Link {
				t.Errorf("%s: link to %q", lang, attr(a, "href"))
			}
			switch innerText(a) {
			case texts.In(lang).T("invitation.button"):
				// line-height + paddings + borders, all in pixels
				button = style(a, "line-height") == "24px" && style(a, "padding") == "12px 28px"
			case texts.In(lang).T("invitation.decline"):
				decline = true
			case l.Link:
				bare = true
			}
		}
		if !button || !bare || !decline {
			t.Errorf("%s: button of 44 px %t, bare link %t, decline %t", lang, button, bare, decline)
		}
		if n := strings.Count(c.Text, "\n"+l.Link+"\n"); n != 2 {
			t.Errorf("%s: the link has %d lines of its own in the text", lang, n)
		}
		when := locale.DateTime(lang, l.ExpiresAt, l.Zone)
		if !strings.Contains(strings.Join(strings.Fields(c.Text), " "), when) || strings.Count(c.HTML, when) != 2 {
			t.Errorf("%s: the expiry %q is not in text, preheader and letter", lang, when)
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
		if strings.HasSuffix(name, ".fr") && !strings.HasPrefix(name, "invitation.") {
			if slip := regexp.MustCompile(`[^\x{202f}][:?!;]\s`).FindString(c.Text); slip != "" {
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
	n.Lines = []NewsLine{{NewsAccepted, evil, evil, evil, time.Now()}}
	for name, c := range map[string]Content{"invitation": renderInvitation(t, l), "news": renderNews(t, n)} {
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
	} {
		l := testInvitation(t, "en")
		l.InviterName, l.WorkspaceName = name, name
		one := testNews(t, "en")
		one.Lines = one.Lines[:1]
		one.Lines[0].PersonName = name
		for _, subject := range []string{renderInvitation(t, l).Subject, renderNews(t, one).Subject} {
			if strings.ContainsFunc(subject, unicode.IsControl) || strings.ContainsAny(subject, "\u2028\u2029\u202e") || !utf8.ValidString(subject) {
				t.Errorf("%q: control characters in subject %q", name, subject)
			}
			if n := utf8.RuneCountInString(subject); n > 2*maxSubjectName+30 {
				t.Errorf("%q: subject has %d characters", name, n)
			}
			if regexp.MustCompile(`://|www\.|\w\.[a-z]|\d\.\d`).MatchString(subject) {
				t.Errorf("%q: something like a link in subject %q", name, subject)
			}
		}
	}
}

// TestNewsSubjects renders every kind alone in every language: their keys are
// made at run time, so that no check at start sees them.
func TestNewsSubjects(t *testing.T) {
	t.Parallel()
	for _, lang := range locale.Supported() {
		seen := map[string]bool{}
		all := testNews(t, lang)
		for _, line := range all.Lines {
			one := all
			one.Lines = []NewsLine{line}
			c := renderNews(t, one)
			who := line.PersonName
			if who == "" {
				who = line.Email
			}
			if !strings.Contains(c.Subject, who) || seen[c.Subject] {
				t.Errorf("%s %s: subject %q", lang, line.Kind, c.Subject)
			}
			seen[c.Subject] = true
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
		{"пример.рф 例え。テスト", "пример. рф 例え. テスト"},
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
				if contrast(v.Ink, v.Color) < 4.5 || v.Color != color {
					t.Errorf("%s: %s on %s", color, v.Ink, v.Color)
				}
				if contrast(v.LightEdge, lightCard) < minEdge || contrast(v.DarkEdge, darkCard) < minEdge {
					t.Errorf("%s: edges %s, %s", color, v.LightEdge, v.DarkEdge)
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
	} {
		l := testInvitation(t, "en")
		change(&l)
		if c, err := RenderInvitation(l); err == nil || !strings.Contains(err.Error(), want) || c != (Content{}) {
			t.Errorf("got error %v, want %q", err, want)
		}
	}
	for want, change := range map[string]func(*NewsLetter){
		"no brand name":          func(l *NewsLetter) { l.Brand.Name = "" },
		"no lines":               func(l *NewsLetter) { l.Lines = nil },
		`unknown kind "revoked"`: func(l *NewsLetter) { l.Lines[2].Kind = "revoked" },
	} {
		l := testNews(t, "en")
		change(&l)
		if c, err := RenderNews(l); err == nil || !strings.Contains(err.Error(), want) || c != (Content{}) {
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
		n.Lines = append(n.Lines, NewsLine{NewsRenewalAsked, long, long, long, time.Now()})
	}
	news := renderNews(t, n)
	for name, c := range map[string]Content{"invitation": renderInvitation(t, l), "news": news} {
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
	for _, file := range append(files, "content.go") {
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
	for _, key := range keys {
		made := strings.HasPrefix(string(key[1]), "news.subject_") // TestNewsSubjects shows these
		if !made && !strings.Contains(sources.String(), `"`+string(key[1])+`"`) {
			t.Errorf("text %s is not used", key[1])
		}
	}
}
