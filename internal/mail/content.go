package mail

import (
	"embed"
	"errors"
	"fmt"
	htmltemplate "html/template"
	"io/fs"
	"math"
	netmail "net/mail"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"text/template"
	"text/template/parse"
	"time"
	"unicode"
	"unicode/utf8"

	"usher/internal/locale"
)

const (
	// maxName caps a name in a letter, in characters: as long as real names and
	// titles get, and too short for somebody to write a letter of their own in it.
	maxName = 100
	// maxSubjectName caps a name in a subject, in characters. Phones show 40 to
	// 70 of a subject, and a longer name pushes what we say out of sight.
	maxSubjectName = 40
	// maxNote caps the inviter's words, in characters, and maxNoteLines their
	// lines: with them the letter stays far below maxHTML.
	maxNote      = 2000
	maxNoteLines = 60
	// maxLine is what is read of a name or a line of a note, in bytes: whatever is
	// sent, cleaning it stays cheap.
	maxLine = 8 * maxNote
	// maxNews caps the lines of one NewsLetter, for the same reason; the letter
	// counts the rest.
	maxNews = 40
	// maxHTML is where Gmail clips a message, in bytes.
	maxHTML = 102 << 10
	// textWidth is the width plain text is wrapped to: quoted a few times it
	// still fits the customary 80 columns.
	textWidth = 72
	// defaultColor stands in for a brand's colour that is missing or malformed.
	defaultColor = "#1f5fa8"
	// The backgrounds of a letter in the templates, against which a button must
	// stand out, and the outlines it gets where it does not.
	lightCard, lightOutline = "#ffffff", "#6b7480"
	darkCard, darkOutline   = "#1b2027", "#8b95a1"
	// minEdge is WCAG 1.4.11's contrast for the edge of a control.
	minEdge = 3.0
)

// Brand is how an app looks in its mail.
type Brand struct {
	Name         string // required
	Color        string // "#rrggbb", of the button; anything else is replaced by a plain blue
	LogoURL      string // absolute http(s) URL of an image shown 40 px high; else the name is shown
	SupportEmail string // a bare address; else no help is offered
}

// Content is a rendered mail. Subject is one line; Text is wrapped plain text.
type Content struct{ Subject, Text, HTML string }

// InvitationLetter invites somebody to a workspace.
//
// Every name is cleaned before use: one line, no invisible characters, capped
// in length, and without anything a mail program would turn into a link.
type InvitationLetter struct {
	Brand         Brand
	Locale        string // a BCP 47 tag; unsupported languages get locale.Default
	RecipientName string // may be empty
	InviterName   string // if empty, the company or the brand invites
	CompanyName   string // the inviter's; may be empty
	WorkspaceName string // required
	Note          string // the inviter's own words: plain text, several lines, may be empty
	Link          string // absolute http(s) URL of the invitation's page
	ExpiresAt     time.Time
	Zone          *time.Location // of the recipient; nil is UTC
	Again         bool           // the invitation was mailed before
}

// The kinds of NewsLine.
const (
	NewsAccepted     = "accepted"
	NewsDeclined     = "declined"
	NewsExpired      = "expired"
	NewsRenewalAsked = "renewal_asked"
)

// NewsLetter tells an inviter what became of their invitations.
type NewsLetter struct {
	Brand         Brand
	Locale        string // a BCP 47 tag; unsupported languages get locale.Default
	RecipientName string // may be empty
	Zone          *time.Location
	Lines         []NewsLine // at least one; shown in this order
}

// NewsLine is what became of one invitation.
type NewsLine struct {
	Kind          string // NewsAccepted, NewsDeclined, NewsExpired or NewsRenewalAsked
	PersonName    string // of the invited person; if empty, Email stands in
	Email         string
	WorkspaceName string
	At            time.Time
}

//go:embed templates
var templateFiles embed.FS

// The letters, parsed and checked when the program starts.
var (
	texts          = mustTexts()
	invitationView = mustLetter("invitation")
	newsView       = mustLetter("news")
)

// RenderInvitation writes an invitation in the recipient's language. It fails
// if the letter lacks something it cannot do without.
func RenderInvitation(l InvitationLetter) (Content, error) {
	view := struct {
		view
		Inviter, Company, Workspace, When string
		Note                              []string
		Link                              string
		Again                             bool
	}{
		view:      newView(l.Brand, l.Locale, l.RecipientName),
		Inviter:   firstName(l.InviterName, l.CompanyName, l.Brand.Name),
		Company:   cleanName(l.CompanyName),
		Workspace: cleanName(l.WorkspaceName),
		Note:      noteLines(l.Note),
		Link:      l.Link,
		Again:     l.Again,
	}
	switch {
	case view.Brand.Name == "":
		return Content{}, errors.New("render invitation: no brand name")
	case view.Workspace == "":
		return Content{}, errors.New("render invitation: no workspace name")
	case !webURL(l.Link):
		return Content{}, errors.New("render invitation: the link is no absolute http URL")
	case l.ExpiresAt.IsZero():
		return Content{}, errors.New("render invitation: no expiry")
	}
	if view.Company == view.Inviter {
		view.Company = "" // the company itself invites
	}
	view.When = view.P.DateTime(l.ExpiresAt, l.Zone)
	subject := "invitation.subject"
	if l.Again {
		subject = "invitation.subject_again"
	}
	view.Subject = view.P.T(subject,
		"inviter", shorten(view.Inviter, maxSubjectName),
		"workspace", shorten(view.Workspace, maxSubjectName))
	return invitationView.render(view.Subject, view)
}

// RenderNews writes the news of one or more invitations in the inviter's language.
func RenderNews(l NewsLetter) (Content, error) {
	type line struct {
		P                                    locale.Printer
		Kind, Person, Email, Workspace, When string
	}
	view := struct {
		view
		Total, More int
		Lines       []line
	}{
		view:  newView(l.Brand, l.Locale, l.RecipientName),
		Total: len(l.Lines),
		More:  max(0, len(l.Lines)-maxNews),
	}
	switch {
	case view.Brand.Name == "":
		return Content{}, errors.New("render news: no brand name")
	case len(l.Lines) == 0:
		return Content{}, errors.New("render news: no lines")
	}
	for i, news := range l.Lines[:len(l.Lines)-view.More] {
		switch news.Kind {
		case NewsAccepted, NewsDeclined, NewsExpired, NewsRenewalAsked:
		default:
			return Content{}, fmt.Errorf("render news: line %d has the unknown kind %q", i, news.Kind)
		}
		shown := line{
			P:         view.P,
			Kind:      news.Kind,
			Person:    cleanName(news.PersonName),
			Email:     shorten(oneLine(news.Email), maxName),
			Workspace: cleanName(news.WorkspaceName),
			When:      view.P.DateTime(news.At, l.Zone),
		}
		if shown.Person == "" {
			// The inviter typed the address: it is no stranger's way in, and
			// stays as it was.
			shown.Person, shown.Email = shown.Email, ""
		}
		view.Lines = append(view.Lines, shown)
	}
	view.Subject = view.P.T("news.title", "count", view.Total)
	if view.Total == 1 {
		view.Subject = view.P.T("news.subject_"+view.Lines[0].Kind,
			"person", shorten(view.Lines[0].Person, maxSubjectName))
	}
	return newsView.render(view.Subject, view)
}

// view is what every letter shows.
type view struct {
	P         locale.Printer
	Brand     brandView
	Subject   string
	Recipient string
}

// brandView is a Brand checked, with the colours that follow from its own.
type brandView struct {
	Name, LogoURL, SupportEmail string
	// Color is the button's, Ink its text's; LightEdge and DarkEdge outline it
	// where it would melt into the letter.
	Color, Ink, LightEdge, DarkEdge string
}

func newView(b Brand, lang, recipient string) view {
	v := view{
		P:         texts.In(lang),
		Recipient: cleanName(recipient),
		Brand:     brandView{Name: cleanName(b.Name), Color: defaultColor},
	}
	if hexColor.MatchString(b.Color) {
		v.Brand.Color = strings.ToLower(b.Color)
	}
	// Black or white, whichever is easier to read: one of them always has 4.58:1.
	v.Brand.Ink = "#ffffff"
	if contrast(v.Brand.Color, "#000000") > contrast(v.Brand.Color, "#ffffff") {
		v.Brand.Ink = "#000000"
	}
	v.Brand.LightEdge, v.Brand.DarkEdge = v.Brand.Color, v.Brand.Color
	if contrast(v.Brand.Color, lightCard) < minEdge {
		v.Brand.LightEdge = lightOutline
	}
	if contrast(v.Brand.Color, darkCard) < minEdge {
		v.Brand.DarkEdge = darkOutline
	}
	if webURL(b.LogoURL) {
		v.Brand.LogoURL = b.LogoURL
	}
	if a, err := netmail.ParseAddress(b.SupportEmail); err == nil && a.Address == b.SupportEmail {
		v.Brand.SupportEmail = b.SupportEmail
	}
	return v
}

// letter is the two parts of one kind of mail.
type letter struct {
	html *htmltemplate.Template
	text *template.Template
}

func (l letter) render(subject string, data any) (Content, error) {
	var html, text strings.Builder
	if err := l.html.ExecuteTemplate(&html, "letter", data); err != nil {
		return Content{}, fmt.Errorf("render letter: %w", err)
	}
	if err := l.text.ExecuteTemplate(&text, "letter", data); err != nil {
		return Content{}, fmt.Errorf("render letter: %w", err)
	}
	if html.Len() > maxHTML {
		return Content{}, fmt.Errorf("render letter: %d bytes of HTML, at most %d are shown", html.Len(), maxHTML)
	}
	return Content{Subject: subject, Text: wrap(text.String(), textWidth), HTML: html.String()}, nil
}

func mustTexts() *locale.Texts {
	files, err := fs.Sub(templateFiles, "templates/texts")
	if err != nil {
		panic(err)
	}
	t, err := locale.LoadTexts(files)
	if err != nil {
		panic(fmt.Sprintf("mail: %v", err))
	}
	return t
}

// mustLetter parses layout and body of a letter. Like regexp.MustCompile it
// panics: the files are part of the program.
func mustLetter(name string) letter {
	l := letter{
		html: htmltemplate.Must(htmltemplate.New("").Funcs(htmltemplate.FuncMap{"outlook": outlook}).
			ParseFS(templateFiles, "templates/layout.html", "templates/"+name+".html")),
		text: template.Must(template.ParseFS(templateFiles, "templates/layout.txt", "templates/"+name+".txt")),
	}
	var trees []*parse.Tree
	for _, t := range l.html.Templates() {
		trees = append(trees, t.Tree)
	}
	for _, t := range l.text.Templates() {
		trees = append(trees, t.Tree)
	}
	if err := texts.Check(trees...); err != nil {
		panic(fmt.Sprintf("mail: %v", err))
	}
	return l
}

// outlook hides HTML from everything but Outlook for Windows, which lays out
// with Word and needs tables of a fixed width. html/template drops comments, so
// they come from here; only literals of our templates do.
func outlook(html string) htmltemplate.HTML {
	return htmltemplate.HTML("<!--[if mso]>" + html + "<![endif]-->") //nolint:gosec // a literal of a template
}

// webURL reports whether s is an absolute http or https URL that stays in one
// piece where it is written out.
func webURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil &&
		!strings.ContainsFunc(s, func(r rune) bool {
			return r <= ' ' || r > '~' || strings.ContainsRune(`<>"'\^{|}`+"`", r)
		})
}

// firstName is the first of the names that is not empty when cleaned.
func firstName(names ...string) string {
	for _, name := range names {
		if name = cleanName(name); name != "" {
			return name
		}
	}
	return ""
}

var (
	// linkLike is what asks to be opened: a scheme, www, a numeric host, a
	// domain with a path.
	linkLike = regexp.MustCompile(`(?i)[a-z][a-z0-9+.-]*:/+\S*|\bwww\.\S*|\b\d{1,3}(?:\.\d{1,3}){3}\S*|\S+\.\pL[\pL\d-]+[/?#]\S*`)
	// domainDot is the dot of what may be a domain, or somebody's initials.
	domainDot = regexp.MustCompile(`([\pL\pN\pM])[.。．｡](\pL)`)
)

// cleanName makes a name safe to show in a letter that people trust because we
// sent it: names are chosen by anybody, and are how a stranger would get a link
// into our mail. A link becomes "…"; a dot inside a word gets a space after it,
// which is right for "J.Smith" and keeps mail programs from linking "evil.com".
func cleanName(name string) string {
	name = linkLike.ReplaceAllString(oneLine(name), "…")
	for domainDot.MatchString(name) { // twice for overlaps, as in a.b.c
		name = domainDot.ReplaceAllString(name, "$1. $2")
	}
	return shorten(name, maxName)
}

// oneLine drops what a name or a header cannot hold: controls and line breaks
// turn into spaces, and what is invisible or turns the reading direction goes.
func oneLine(s string) string {
	if len(s) > maxLine {
		s = strings.ToValidUTF8(s[:maxLine], "")
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case r == utf8.RuneError, unicode.Is(unicode.Cf, r) && r != '\u200c' && r != '\u200d':
			return -1 // the two joiners that stay are spelling in Persian and Hindi
		case unicode.IsControl(r), unicode.IsSpace(r):
			return ' '
		}
		return r
	}, s)
	return strings.Join(strings.Fields(s), " ")
}

// shorten caps s at limit characters, the last of them an ellipsis. It does not
// part a letter from its accents.
func shorten(s string, limit int) string {
	runes := []rune(s)
	if len(runes) <= limit {
		return s
	}
	end := limit - 1
	for end > 0 && (unicode.Is(unicode.M, runes[end]) || runes[end] == '\u200d' || runes[end-1] == '\u200d') {
		end--
	}
	return strings.TrimRight(string(runes[:end]), " ") + "…"
}

// noteLines splits the inviter's words into lines, without empty ones at either
// end or several in a row.
func noteLines(note string) []string {
	var lines []string
	for line := range strings.Lines(shorten(strings.ReplaceAll(strings.TrimSpace(note), "\r\n", "\n"), maxNote)) {
		line = oneLine(line)
		if line == "" && (len(lines) == 0 || lines[len(lines)-1] == "") {
			continue
		}
		if len(lines) == maxNoteLines {
			lines[maxNoteLines-1] = "…"
			break
		}
		lines = append(lines, line)
	}
	if n := len(lines); n > 0 && lines[n-1] == "" {
		lines = lines[:n-1]
	}
	return lines
}

// wrap breaks the lines of a text at ordinary spaces, so that none is longer
// than width characters except for a word that is, as a link may be. Quoted
// lines ("> ") stay quoted. Several empty lines become one.
func wrap(text string, width int) string {
	var out []string
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		line = strings.TrimRight(line, " ")
		if line == "" && out[len(out)-1] == "" {
			continue
		}
		quote := ""
		if rest, ok := strings.CutPrefix(line, ">"); ok {
			quote, line = "> ", strings.TrimLeft(rest, " ")
		}
		current := quote
		for word := range strings.SplitSeq(line, " ") {
			if current != quote && utf8.RuneCountInString(current)+1+utf8.RuneCountInString(word) > width {
				out = append(out, current)
				current = quote
			}
			if current != quote {
				current += " "
			}
			current += word
		}
		out = append(out, strings.TrimRight(current, " "))
	}
	return strings.Join(out, "\n") + "\n"
}

var hexColor = regexp.MustCompile(`^#[0-9a-fA-F]{6}$`)

// contrast is WCAG 2's contrast ratio of two "#rrggbb" colours, 1 to 21.
func contrast(a, b string) float64 {
	la, lb := luminance(a), luminance(b)
	return (max(la, lb) + 0.05) / (min(la, lb) + 0.05)
}

// luminance is WCAG 2's relative luminance of a "#rrggbb" colour, 0 to 1.
func luminance(color string) float64 {
	channel := func(hex string) float64 {
		n, _ := strconv.ParseUint(hex, 16, 8) // checked by hexColor, or our own
		c := float64(n) / 255
		if c <= 0.04045 {
			return c / 12.92
		}
		return math.Pow((c+0.055)/1.055, 2.4)
	}
	return 0.2126*channel(color[1:3]) + 0.7152*channel(color[3:5]) + 0.0722*channel(color[5:7])
}
