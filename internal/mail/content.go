package mail

import (
	"embed"
	"fmt"
	"html"
	htmltemplate "html/template"
	"io/fs"
	"math"
	netmail "net/mail"
	"net/url"
	"regexp"
	"strconv"
	"strings"
	"text/template"

	"usher/internal/locale"
)

const (
	// maxHTML is where Gmail clips a message, in bytes.
	maxHTML = 102 << 10
	// maxMessageID caps a Message-ID in a header, in bytes. Real ones have
	// under 100, and a header's line may have 998 (RFC 5322 2.1.1).
	maxMessageID = 250
	// defaultColor stands in for a brand's colour that is missing or malformed.
	defaultColor = "#1f5fa8"
	// The backgrounds of a letter in the templates, against which a button must
	// stand out, and the outlines it gets where it does not.
	lightCard, lightOutline = "#ffffff", "#6b7480"
	darkCard, darkOutline   = "#1b2027", "#8b95a1"
	// minEdge is WCAG 1.4.11's contrast for the edge of a control.
	minEdge = 3.0
)

// Content is a rendered mail. Subject is one line; Text is wrapped plain text;
// Headers are those besides From, To and Subject, each value one line.
type Content struct {
	Subject, Text, HTML string
	Headers             map[string]string
}

// Brand is how an app looks in its mail.
type Brand struct {
	Name         string // required
	Color        string // "#rrggbb", of the button; anything else is replaced by a plain blue
	LogoURL      string // absolute http(s) URL of an image shown 40 px high; else the name is shown
	SupportEmail string // a bare address; else no help is offered
}

// letterHeaders are those every letter has: no person wrote it, so no machine shall
// answer it (RFC 3834).
func letterHeaders() map[string]string {
	return map[string]string{"Auto-Submitted": "auto-generated"}
}

// threadUnder threads a letter under the mail with that Message-ID (RFC 5322 3.6.4).
// One that is none is left out: a letter is worth more than its place.
func threadUnder(headers map[string]string, messageID string) {
	if messageID == "" {
		return
	}
	if !strings.HasPrefix(messageID, "<") {
		messageID = "<" + messageID + ">"
	}
	if len(messageID) > maxMessageID || !messageIDForm.MatchString(messageID) {
		return
	}
	headers["In-Reply-To"], headers["References"] = messageID, messageID
}

// unsubscribable lets mail programs show a button of their own that stops such
// mail by one POST to the link (RFC 8058).
func unsubscribable(headers map[string]string, link string) {
	headers["List-Unsubscribe"] = "<" + link + ">"
	headers["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
}

var messageIDForm = regexp.MustCompile("^<[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+@[A-Za-z0-9.-]+>$")

//go:embed templates
var templateFiles embed.FS

// The texts and letters, parsed and checked when the program starts.
var (
	texts            = mustTexts()
	invitationLetter = mustLetter("invitation")
	reminderLetter   = mustLetter("reminder")
	digestLetter     = mustLetter("digest")
	newsLetter       = mustLetter("news")
	workspacesLetter = mustLetter("workspaces")
	passwordLetter   = mustLetter("password")
	requestLetter    = mustLetter("request")
	authorizedLetter = mustLetter("authorized")
)

// view is what the templates of letters see. It is flat, and its values are
// strings where they can be: the templates' reflection is most of what a letter
// costs.
type view struct {
	printer locale.Printer

	Brand       brandView
	Subject     string
	Recipient   string
	Link        string // of the button; empty leaves it out
	StopLink    string
	Title, Left string // what depends on a number

	// Of an invitation and its reminder.
	Inviter, Company, Workspace, When string
	Note                              []string
	NoteHTML                          htmltemplate.HTML // the same, with breaks
	Again, Professional               bool
	Made                              bool // of a password's mail: somebody made the account for the person

	// Of news.
	Lines     []lineView
	Preheader string
	More      string

	// Of new workspaces.
	Intro string
	Names []string

	// Of a password.
	First    bool // there is none yet
	Username string
}

// brandView is a Brand checked, with the colours that follow from its own.
type brandView struct {
	Name, LogoURL, SupportEmail string
	// Color is the button's; DarkEdge outlines it where it would melt into the
	// dark letter. Button is its whole dress in the light one.
	Color, DarkEdge string
	Button          htmltemplate.CSS
}

func newView(b Brand, lang, recipient string) view {
	v := view{
		printer:   texts.In(lang),
		Recipient: cleanName(recipient),
		Brand:     brandView{Name: cleanName(b.Name), Color: defaultColor},
	}
	if hexColor.MatchString(b.Color) {
		v.Brand.Color = strings.ToLower(b.Color)
	}
	// Black or white, whichever is easier to read: one of them always has 4.58:1.
	ink, edge := "#ffffff", v.Brand.Color
	if contrast(v.Brand.Color, "#000000") > contrast(v.Brand.Color, "#ffffff") {
		ink = "#000000"
	}
	if contrast(v.Brand.Color, lightCard) < minEdge {
		edge = lightOutline
	}
	v.Brand.Button = htmltemplate.CSS("border:1px solid " + edge + "; background:" + v.Brand.Color + "; color:" + ink) //nolint:gosec // of three colours we checked
	v.Brand.DarkEdge = v.Brand.Color
	if contrast(v.Brand.Color, darkCard) < minEdge {
		v.Brand.DarkEdge = darkOutline
	}
	if webURL(b.LogoURL) {
		v.Brand.LogoURL = b.LogoURL
	}
	if bareAddress(b.SupportEmail) {
		v.Brand.SupportEmail = b.SupportEmail
	}
	return v
}

// letter is the two parts of one kind of mail, by language.
type letter map[string]struct {
	html *htmltemplate.Template
	text *template.Template
}

func (l letter) render(v view, headers map[string]string) (Content, error) {
	parts := l[v.printer.Lang()]
	var html, text strings.Builder
	html.Grow(10 << 10) // as long as most letters
	text.Grow(2 << 10)
	if err := parts.html.ExecuteTemplate(&html, "letter", &v); err != nil {
		return Content{}, fmt.Errorf("render letter: %w", err)
	}
	if err := parts.text.ExecuteTemplate(&text, "letter", &v); err != nil {
		return Content{}, fmt.Errorf("render letter: %w", err)
	}
	if html.Len() > maxHTML {
		return Content{}, fmt.Errorf("render letter: %d bytes of HTML, at most %d are shown", html.Len(), maxHTML)
	}
	return Content{Subject: v.Subject, Text: wrap(text.String(), textWidth), HTML: html.String(), Headers: headers}, nil
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

// mustLetter parses layout and body of a letter in every language. Like
// regexp.MustCompile it panics: the files are part of the program.
func mustLetter(name string) letter {
	source := func(lang, file string, escape func(string) string) string {
		raw, err := templateFiles.ReadFile("templates/" + file)
		if err != nil {
			panic(err)
		}
		fixed := strings.NewReplacer("{{Lang}}", lang, "{{Dir}}", locale.Dir(lang))
		inlined, err := texts.Inline(lang, fixed.Replace(string(raw)), escape)
		if err != nil {
			panic(fmt.Sprintf("mail: read %s: %v", file, err))
		}
		return inlined
	}
	plain := func(s string) string { return s }
	l := letter{}
	for _, lang := range locale.Supported() {
		parts := l[lang]
		parts.html = htmltemplate.New(name).Funcs(htmltemplate.FuncMap{"outlook": outlook})
		parts.text = template.New(name)
		for _, file := range []string{"layout", name} {
			htmltemplate.Must(parts.html.Parse(source(lang, file+".html", html.EscapeString)))
			template.Must(parts.text.Parse(source(lang, file+".txt", plain)))
		}
		l[lang] = parts
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
// piece where it is written out, in a text or in a header.
func webURL(s string) bool {
	u, err := url.Parse(s)
	return err == nil && (u.Scheme == "https" || u.Scheme == "http") && u.Host != "" && u.User == nil &&
		!strings.ContainsAny(s, `<>"'\^{|}`+"`") &&
		!strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' })
}

// bareAddress reports whether s is one e-mail address and nothing else.
func bareAddress(s string) bool {
	a, err := netmail.ParseAddress(s)
	return err == nil && a.Address == s
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
