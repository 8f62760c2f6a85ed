package web

import (
	"bytes"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"fmt"
	"html/template"
	"io"
	"io/fs"
	"strings"
	"text/template/parse"
	"time"
	"unicode"
	"unicode/utf8"

	"usher/internal/locale"
)

//go:embed templates texts static
var assets embed.FS

// minPassword is the shortest password the pages ask for, in characters: what
// NIST SP 800-63B sets as the floor.
const minPassword = 8

// staticFiles are the files served under /static/. Their addresses carry a hash
// of the content (see asset), so they may be cached for ever.
func staticFiles() fs.FS {
	files, err := fs.Sub(assets, "static")
	if err != nil {
		panic(err) // the folder is compiled in
	}
	return files
}

// view is what one page shows: plain data, ready to be written, nothing that
// reads from anywhere. The types below are all there is.
type view interface {
	// template names the file below templates. Those in person/ are for the
	// people invited and come in every language; those in staff/ are for
	// developers and operators, and in English only.
	template() string
}

// pages holds every template and text, parsed and checked once at start.
type pages struct {
	texts  *locale.Texts
	byFile map[string]*template.Template
}

// page is what a template sees as its dot: the printer's T, Strong, Lang, Dir and
// DateTime, and the view as V.
type page struct {
	locale.Printer
	V view
}

// Error is the sentence for what is wrong with a field.
func (p page) Error(e formError) string {
	if e == passwordTooShort {
		return p.T("error."+string(e), "min", minPassword)
	}
	return p.T("error." + string(e))
}

// Follow is whether a page may link to an address it was given.
func (page) Follow(address string) bool {
	_, ok := webURL(address, "http", "https")
	return ok
}

// newPages parses the embedded templates and texts. It refuses texts that differ
// between languages and templates that use a text that is not there; the error
// names the file and the key.
func newPages() (*pages, error) {
	files, err := fs.Sub(assets, "texts")
	if err != nil {
		return nil, fmt.Errorf("load pages: %w", err)
	}
	texts, err := locale.LoadTexts(files)
	if err != nil {
		return nil, fmt.Errorf("load pages: %w", err)
	}
	styles, err := fs.ReadFile(assets, "static/usher.css")
	if err != nil {
		return nil, fmt.Errorf("load pages: %w", err)
	}
	sum := sha256.Sum256(styles)
	layout, err := template.New("layout.html").Funcs(template.FuncMap{
		"asset":       func(name string) string { return "/static/" + name + "?v=" + hex.EncodeToString(sum[:6]) },
		"languages":   languages,
		"initial":     initial,
		"machine":     func(t time.Time) string { return t.UTC().Format(time.RFC3339) },
		"minPassword": func() int { return minPassword },
		"prose":       prose,
	}).ParseFS(assets, "templates/layout.html")
	if err != nil {
		return nil, fmt.Errorf("load pages: %w", err)
	}
	paths, err := fs.Glob(assets, "templates/*/*.html")
	if err != nil {
		return nil, fmt.Errorf("load pages: %w", err)
	}
	p := &pages{texts: texts, byFile: map[string]*template.Template{}}
	var errs []error
	for _, path := range paths {
		t, err := template.Must(layout.Clone()).ParseFS(assets, path)
		if err != nil {
			errs = append(errs, fmt.Errorf("load pages: %w", err))
			continue
		}
		var trees []*parse.Tree
		for _, named := range t.Templates() {
			trees = append(trees, named.Tree)
		}
		if err := texts.Check(trees...); err != nil {
			errs = append(errs, fmt.Errorf("load page %s: %w", path, err))
		}
		p.byFile[strings.TrimPrefix(path, "templates/")] = t
	}
	return p, errors.Join(errs...)
}

// render writes the page of v in lang, or in the language locale.Match finds for
// it. Nothing is written if the template fails.
func (p *pages) render(w io.Writer, lang string, v view) error {
	t, ok := p.byFile[v.template()]
	if !ok {
		return fmt.Errorf("render page %s: no such template", v.template())
	}
	if strings.HasPrefix(v.template(), "staff/") {
		lang = locale.Default
	}
	var b bytes.Buffer
	if err := t.ExecuteTemplate(&b, "layout.html", page{Printer: p.texts.In(lang), V: v}); err != nil {
		return fmt.Errorf("render page %s: %w", v.template(), err)
	}
	if _, err := b.WriteTo(w); err != nil {
		return fmt.Errorf("render page %s: %w", v.template(), err)
	}
	return nil
}

// frame is what every page has around its own content.
type frame struct {
	Brand     Brand
	Path      string // of the GET page in other languages: "/i/{token}"; empty shows no language links
	Nonce     string // of the one style element with the brand's colour; the CSP's style-src names it. Empty leaves the colour out.
	RequestID string // shown where something went wrong, for support
}

// language is one link of the language choice.
type language struct {
	Code, Name string
	Current    bool
}

// ownNames are the languages' names as their speakers write them.
var ownNames = map[string]string{"en": "English", "es": "Español", "fr": "Français"}

func languages(current string) []language {
	var all []language
	for _, code := range locale.Supported() {
		all = append(all, language{Code: code, Name: ownNames[code], Current: code == current})
	}
	return all
}

// initial is the first letter of a name, for the tile that stands in for a logo.
func initial(name string) string {
	r, _ := utf8.DecodeRuneInString(strings.TrimSpace(name))
	if !unicode.IsLetter(r) && !unicode.IsDigit(r) {
		return "•"
	}
	return string(unicode.ToUpper(r))
}

// prose writes the little of Markdown that API descriptions use: paragraphs,
// lists of "- " lines, and `code`. Everything is escaped.
func prose(s string) template.HTML {
	var b strings.Builder
	for _, block := range strings.Split(strings.ReplaceAll(s, "\r\n", "\n"), "\n\n") {
		block = strings.TrimSpace(block)
		switch {
		case block == "":
		case strings.HasPrefix(block, "- "):
			b.WriteString("<ul>")
			for _, item := range strings.Split("\n"+block, "\n- ")[1:] {
				b.WriteString("<li>" + codeSpans(item) + "</li>")
			}
			b.WriteString("</ul>")
		default:
			b.WriteString("<p>" + codeSpans(block) + "</p>")
		}
	}
	return template.HTML(b.String()) //nolint:gosec // codeSpans escapes every piece
}

// codeSpans escapes a line and sets what stands between backticks as code.
func codeSpans(s string) string {
	var b strings.Builder
	pieces := strings.Split(s, "`")
	for i, piece := range pieces {
		switch {
		case i%2 == 0:
			b.WriteString(template.HTMLEscapeString(piece))
		case i == len(pieces)-1: // a backtick without its partner
			b.WriteString(template.HTMLEscapeString("`" + piece))
		default:
			b.WriteString("<code>" + template.HTMLEscapeString(piece) + "</code>")
		}
	}
	return b.String()
}

// Ways to accept an invitation.
const (
	modeNewAccount = "new_account" // nobody has this address: name and new password
	modeSignUp     = "sign_up"     // the same, of a professional, who decides afterwards
	modeLogIn      = "log_in"      // an account has it: its password
	modeSignedIn   = "signed_in"   // logged in to it: one button
	modeKnown      = "known"       // it has no password to log in with: one button
)

// formError is what is wrong with one field of a form the person sent.
type formError string

// What may be wrong with the fields of the invitation form.
const (
	nameMissing      formError = "name_missing"
	nameTooLong      formError = "name_too_long"
	nameUnusable     formError = "name_unusable" // line breaks, control characters, links
	passwordMissing  formError = "password_missing"
	passwordTooShort formError = "password_too_short"
	passwordTooLong  formError = "password_too_long"
	passwordWrong    formError = "password_wrong" // log in: not this account's password
)

// formErrors lists them all.
var formErrors = []formError{
	nameMissing, nameTooLong, nameUnusable,
	passwordMissing, passwordTooShort, passwordTooLong, passwordWrong,
}

// Field is the name and id of the field the error is about.
func (e formError) Field() string {
	if strings.HasPrefix(string(e), "name_") {
		return "full_name"
	}
	return "password"
}

// invitationView is /i/{token} while the invitation can be answered. Its forms
// POST full_name and password to /i/{token}/accept, and nothing to
// /i/{token}/decline. Every form's address carries ?lang= so that the answer
// comes in the language of the page.
type invitationView struct {
	frame
	Token         string
	Mode          string // modeNewAccount, modeSignUp, modeLogIn, modeSignedIn, modeKnown
	InviterName   string
	CompanyName   string // may be empty
	WorkspaceName string
	RecipientName string // for the greeting; may be empty
	Email         string
	Note          string    // the inviter's own words, plain text, line breaks kept; may be empty
	ExpiresAt     time.Time // always shown with date, time and zone
	Zone          *time.Location

	FullName string      // as filled in so far
	Errors   []formError // of the form just sent, at most one per field
}

func (invitationView) template() string { return "person/invitation.html" }

// ErrorOf is the error of one field, or "".
func (v invitationView) ErrorOf(field string) formError {
	for _, e := range v.Errors {
		if e.Field() == field {
			return e
		}
	}
	return ""
}

// wrongAccountView is /i/{token} opened by somebody logged in to another account.
// Its form POSTs to /i/{token}/switch, which logs out and shows /i/{token} again.
type wrongAccountView struct {
	frame
	Token       string
	SignedInAs  string // the address, in full or masked
	MaskedEmail string // whom the invitation is for
}

func (wrongAccountView) template() string { return "person/wrong_account.html" }

// messageKind says what a messageView tells.
type messageKind string

// The messages, and what each shows besides Frame and Token.
const (
	messageAccepted        messageKind = "accepted"         // just now: WorkspaceName, InviterName, AppURL
	messageAlreadyAccepted messageKind = "already_accepted" // WorkspaceName, At, AppURL
	messageDeclined        messageKind = "declined"         // just now: WorkspaceName, InviterName
	messageAlreadyDeclined messageKind = "already_declined" // WorkspaceName, InviterName, At
	messageExpired         messageKind = "expired"          // WorkspaceName, InviterName, At (when it ended); renewal form
	messageRevoked         messageKind = "revoked"          // WorkspaceName
	messageWaiting         messageKind = "waiting"          // its inviter may no longer invite: WorkspaceName, InviterName
	messageDeadLink        messageKind = "dead_link"        // superseded, tampered, unknown: the same page; renewal form
	messageRenewalAsked    messageKind = "renewal_asked"    // the same answer for every token
	messageTooManyTries    messageKind = "too_many_tries"   // RetryAfter
	messageProblem         messageKind = "problem"          // Status, RequestID, Back
)

// messageKinds lists them all.
var messageKinds = []messageKind{
	messageAccepted, messageAlreadyAccepted, messageDeclined, messageAlreadyDeclined, messageExpired,
	messageRevoked, messageWaiting, messageDeadLink, messageRenewalAsked, messageTooManyTries, messageProblem,
}

// messageView is a page that tells one thing. The renewal form POSTs to
// /i/{token}/renew.
type messageView struct {
	frame
	Kind          messageKind
	Token         string // of the renewal form
	WorkspaceName string
	InviterName   string
	At            time.Time // zero leaves it out
	Zone          *time.Location
	AppURL        string        // of the app itself, http or https; else left out
	RetryAfter    time.Duration // shown in minutes, rounded up
	Status        int           // HTTP status
	Back          string        // path that is a way out; empty leaves it out
}

func (messageView) template() string { return "person/message.html" }

// Tone picks the icon and its colour.
func (v messageView) Tone() string {
	switch v.Kind {
	case messageAccepted, messageAlreadyAccepted:
		return "good"
	case messageRenewalAsked:
		return "sent"
	case messageDeclined, messageAlreadyDeclined, messageRevoked:
		return "closed"
	case messageExpired, messageWaiting, messageTooManyTries:
		return "clock"
	case messageDeadLink:
		return "link"
	default:
		return "problem"
	}
}

// Renewable is whether the page has the form that asks for a new link.
func (v messageView) Renewable() bool {
	return v.Token != "" && (v.Kind == messageExpired || v.Kind == messageDeadLink)
}

// Minutes is RetryAfter in minutes, rounded up, at least 1.
func (v messageView) Minutes() int {
	return max(1, int((v.RetryAfter+time.Minute-1)/time.Minute))
}

// homeView is "/": what this service is and where things are.
type homeView struct {
	frame
	Version string
	Dev     bool // names the dev mailbox
}

func (homeView) template() string { return "staff/home.html" }

// mailboxView is /dev/mailbox.
type mailboxView struct {
	frame
	To    string // the search, as typed
	Mails []mailRow
	Curl  string // the line that sends a first invitation, shown when there is no mail yet
}

func (mailboxView) template() string { return "staff/mailbox.html" }

// mailRow is one mail of the mailbox's list, newest first.
type mailRow struct {
	ID, To, Subject string
	At              time.Time
}

// mailView is /dev/mailbox/{id}. The HTML part is framed from
// /dev/mailbox/{id}/html, which must allow frame-ancestors 'self' and should set
// <base target="_blank">: the frame may open windows, but not leave.
type mailView struct {
	frame
	ID, From, To, Subject string
	At                    time.Time
	Links                 []string // in the order of the mail; those other than http and https are shown, not linked
	Text                  string
}

func (mailView) template() string { return "staff/mail.html" }

// opsLoginView is /ops/login. Its form POSTs password to /ops/login.
type opsLoginView struct {
	frame
	Error string // a sentence; empty shows none
}

func (opsLoginView) template() string { return "staff/ops_login.html" }

// opsHomeView is /ops. Its log-out form POSTs to /ops/logout.
type opsHomeView struct {
	frame
	Facts []fact
}

func (opsHomeView) template() string { return "staff/ops_home.html" }

// fact is a name and its value, as shown. Bad marks what needs somebody's eye.
type fact struct {
	Name, Value string
	Bad         bool
}

// docsView is /docs, the reference made from the OpenAPI document. Descriptions
// are prose: paragraphs, "- " lists, `code`.
type docsView struct {
	frame
	Title, Version string
	BaseURL        string
	Intro          string        // prose
	Sections       []docsSection // authentication, idempotency, errors, pages …
	Groups         []docsGroup
}

func (docsView) template() string { return "staff/docs.html" }

// docsSection explains one thing that holds for all operations.
type docsSection struct {
	ID, Title string
	Text      string // prose
	Example   string // may be empty
	Fields    []docsField
}

// docsGroup is one resource.
type docsGroup struct {
	ID, Title   string
	Description string // prose
	Operations  []docsOperation
}

// docsOperation is one method on one path.
type docsOperation struct {
	ID           string // unique on the page
	Method, Path string
	Summary      string
	Description  string // prose
	Parameters   []docsField
	Body         []docsField // of the request; nested names are written "policy.max_sends"
	Curl         string
	Responses    []docsResponse
}

// docsField is a parameter, or a field of a body.
type docsField struct {
	Name        string
	In          string // "path", "query", "header"; empty in a body
	Type        string
	Required    bool
	Limits      string // "at most 200 characters"
	Description string // prose
}

// docsResponse is one answer of an operation.
type docsResponse struct {
	Status      string // "201", "default"
	Description string
	Fields      []docsField
	Example     string
}
