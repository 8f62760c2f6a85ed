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
	"net/url"
	"slices"
	"strings"
	"text/template/parse"
	"time"
	"unicode"
	"unicode/utf8"

	"usher/internal/locale"
	"usher/internal/roster"
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
		"place":       place,
		"zoneRegions": locale.ZoneRegions,
		"prose":       prose,

		"visibilities": func() []roster.Visibility {
			return []roster.Visibility{roster.VisibilityBasic, roster.VisibilityStandard, roster.VisibilityFull}
		},
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
	Path      string // of the GET page in other languages: "/i/{token}", perhaps with a query; empty shows no language links
	Nonce     string // of the one style element with the brand's colour; the CSP's style-src names it. Empty leaves the colour out.
	RequestID string // shown where something went wrong, for support
}

// In is the page's address in another language.
func (f frame) In(lang string) string {
	if strings.Contains(f.Path, "?") {
		return f.Path + "&lang=" + lang
	}
	return f.Path + "?lang=" + lang
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

// place is the part of a time zone's name that tells where it is.
func place(zone string) string {
	_, at, ok := strings.Cut(zone, "/")
	if !ok {
		at = zone
	}
	return strings.NewReplacer("/", " – ", "_", " ").Replace(at)
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
	modeSignUp     = "sign_up"     // the same of an external professional, who answers from the inbox then
	modeLogIn      = "log_in"      // an account has it: its password
	modeSignedIn   = "signed_in"   // logged in to it: one button
	modeKnown      = "known"       // it has no password to log in with: one button
)

// formError is what is wrong with one field of a form the person sent.
type formError string

// What may be wrong with the fields of the forms.
const (
	nameMissing      formError = "name_missing"
	nameTooLong      formError = "name_too_long"
	nameUnusable     formError = "name_unusable" // line breaks, control characters, links
	passwordMissing  formError = "password_missing"
	passwordTooShort formError = "password_too_short"
	passwordTooLong  formError = "password_too_long"
	passwordWrong    formError = "password_wrong" // log in: not this account's password

	identifierMissing formError = "identifier_missing"
	credentialsWrong  formError = "credentials_wrong" // the two do not belong together
	accountMerged     formError = "account_merged"    // it lives on in another
)

// formErrors lists them all.
var formErrors = []formError{
	nameMissing, nameTooLong, nameUnusable,
	passwordMissing, passwordTooShort, passwordTooLong, passwordWrong,
	identifierMissing, credentialsWrong, accountMerged,
}

// Field is the name and id of the field the error is about.
func (e formError) Field() string {
	switch {
	case strings.HasPrefix(string(e), "name_"):
		return "full_name"
	case e == identifierMissing || e == credentialsWrong || e == accountMerged:
		return "identifier"
	}
	return "password"
}

// formErrorsOf are the errors of the form just sent, at most one per field.
type formErrorsOf []formError

// On is the error of one field, or "".
func (all formErrorsOf) On(field string) formError {
	for _, e := range all {
		if e.Field() == field {
			return e
		}
	}
	return ""
}

// invitationView is /i/{token} while the invitation can be answered. Its forms
// POST full_name and password to /i/{token}/accept, or /i/{token}/sign-up for
// modeSignUp, and nothing to /i/{token}/decline. Every form's address carries ?lang= so that the answer
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

	FullName string // as filled in so far
	Errors   formErrorsOf
	Password string // path of the page that mails a link to set the password; for modeLogIn
}

func (invitationView) template() string { return "person/invitation.html" }

// wrongAccountView is /i/{token} opened by somebody logged in to another account.
// Its form POSTs to /i/{token}/switch, which logs out and shows /i/{token} again.
type wrongAccountView struct {
	frame
	Token       string
	SignedInAs  string // the address, in full or masked
	MaskedEmail string // whom the invitation is for
}

func (wrongAccountView) template() string { return "person/wrong_account.html" }

// requestStage is where an access request stands, as its page tells it.
type requestStage string

// The stages, and what each shows besides the names.
const (
	stageOpen      requestStage = "open"      // the question, with everything but LogIn, Password, At
	stageApproved  requestStage = "approved"  // a yes that waits for a log-in: ExpiresAt, LogIn, Password, or SignedInAs, or OtherAccount
	stageGranted   requestStage = "granted"   // At, BySupport, Visibility
	stageDenied    requestStage = "denied"    // Reported
	stageExpired   requestStage = "expired"   // ExpiresAt
	stageCancelled requestStage = "cancelled" // by those who asked
	stageRevoked   requestStage = "revoked"   // access was given, and ended
)

// requestView is /r/{token}. Its forms POST to /r/{token}/approve, which takes
// visibility, and to …/deny, …/report, …/revoke and …/switch, which take
// nothing. Every form's address carries ?lang=.
type requestView struct {
	frame
	Token         string
	Stage         requestStage
	RequesterName string
	CompanyName   string
	RecipientName string // for the greeting; may be empty
	Email         string // where the request was sent to
	Note          string // the requester's own words, plain text; may be empty
	ExpiresAt     time.Time
	At            time.Time // of the decision
	Zone          *time.Location
	Visibility    roster.Visibility // chosen, or suggested
	NeedsLogIn    bool              // the link alone does not show whose account is meant
	SignedInAs    string            // the account the answer counts for; empty: nobody who may give it
	OtherAccount  string            // somebody else who is logged in; empty: nobody
	LogIn         string            // path
	Password      string            // path of the page that mails a link to set the password
	Home          string            // path of the person's own page, where they are signed in
	BySupport     bool
	Reported      bool
}

func (requestView) template() string { return "person/request.html" }

// Action is where a form POSTs to.
func (v requestView) Action(what, lang string) string {
	return "/r/" + v.Token + "/" + what + "?lang=" + lang
}

// Deniable tells whether there is still something to say no to.
func (v requestView) Deniable() bool { return v.Stage == stageOpen || v.Stage == stageApproved }

// Tone picks the icon and its colour.
func (v requestView) Tone() string {
	switch v.Stage {
	case stageGranted:
		return "good"
	case stageApproved:
		return "person"
	case stageExpired:
		return "clock"
	default:
		return "closed"
	}
}

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
	messageWhichApp        messageKind = "which_app"        // nobody knows whose page is meant
	messagePasswordAsked   messageKind = "password_asked"   // the same answer for every name: Back (the log-in)
	messageDeadPassword    messageKind = "dead_password"    // the link to set a password is over: Back (asks for a new one)
	messageProblem         messageKind = "problem"          // Status, RequestID, Back
)

// messageKinds lists them all.
var messageKinds = []messageKind{
	messageAccepted, messageAlreadyAccepted, messageDeclined, messageAlreadyDeclined, messageExpired,
	messageRevoked, messageWaiting, messageDeadLink, messageRenewalAsked, messageTooManyTries,
	messageWhichApp, messagePasswordAsked, messageDeadPassword, messageProblem,
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
	Home          string        // path of the person's own page, where they are signed in; else empty
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
	case messageRenewalAsked, messagePasswordAsked:
		return "sent"
	case messageDeclined, messageAlreadyDeclined, messageRevoked:
		return "closed"
	case messageExpired, messageWaiting, messageTooManyTries:
		return "clock"
	case messageDeadLink, messageDeadPassword:
		return "link"
	case messageWhichApp:
		return "person"
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

// logInView is /login. Its form POSTs identifier, password and next to /login.
type logInView struct {
	frame
	App        string // its id
	Next       string // path to go on to; may be empty
	Identifier string // as filled in so far
	Errors     formErrorsOf
	LoggedOut  bool // just now
}

func (logInView) template() string { return "person/login.html" }

// askPasswordView is /password. Its form POSTs identifier and next to /password.
type askPasswordView struct {
	frame
	App        string // its id
	Next       string // path to go on to once the password is set; may be empty
	Identifier string // as filled in so far
	Errors     formErrorsOf
}

func (askPasswordView) template() string { return "person/ask_password.html" }

// setPasswordView is /password/{token}. Its form POSTs password there.
type setPasswordView struct {
	frame
	Token    string
	First    bool // the account has none yet
	Email    string
	Username string // may be empty
	Errors   formErrorsOf
}

func (setPasswordView) template() string { return "person/set_password.html" }

// personHomeView is /home. Its forms POST to /home/… and /logout; their
// addresses carry the app and the language.
type personHomeView struct {
	frame
	App      string // its id
	AppURL   string // of the app itself, http or https; else left out
	FullName string
	Email    string
	Username string // may be empty
	Done     homeDone
	Zone     *time.Location

	Archived      bool       // Inbox holds the archived items, and there is nothing else
	Open          []homeItem // what waits for an answer, oldest first
	Inbox         []homeItem // everything else, oldest first
	Next          string     // the last item of a page that another follows
	Workspaces    []roster.AccountWorkspace
	NextWorkspace string
	Settings      settingsForm
}

func (personHomeView) template() string { return "person/home.html" }

// Action is where a form POSTs to.
func (v personHomeView) Action(path, lang string) string {
	q := url.Values{"app": {v.App}, "lang": {lang}}
	if v.Archived {
		q.Set("view", viewArchived)
	}
	return path + "?" + q.Encode()
}

// Page is another part of the page, in the language it has.
func (v personHomeView) Page(name, value, lang string) string {
	q := url.Values{"app": {v.App}, "lang": {lang}}
	if name != "" {
		q.Set(name, value)
	}
	if name == "after" && v.Archived {
		q.Set("view", viewArchived)
	}
	return "/home?" + q.Encode()
}

// News is how many of the workspaces are new to the person.
func (v personHomeView) News() int {
	n := 0
	for _, w := range v.Workspaces {
		if w.New {
			n++
		}
	}
	return n
}

// HasRead tells whether there is something read to be put away.
func (v personHomeView) HasRead() bool {
	for _, item := range v.Inbox {
		if item.View == roster.ViewRead {
			return true
		}
	}
	return false
}

// homeItem is an item of the inbox.
type homeItem struct{ roster.Notification }

// Workspace is the name of the one an invitation is to.
func (i homeItem) Workspace() string {
	if len(i.Workspaces) == 0 {
		return ""
	}
	return i.Workspaces[0].Name
}

// StandardVisibility is what is suggested of access that is asked for.
func (homeItem) StandardVisibility() roster.Visibility { return roster.VisibilityStandard }

// Unread tells whether its person has not read it yet.
func (i homeItem) Unread() bool { return i.View == roster.ViewUnread }

// settingsForm is what a person chooses for themselves; empty is what the app
// has.
type settingsForm struct {
	Locale, TimeZone string
	Wrong            bool // what was sent is none of what can be chosen
}

// Language is the one of ours that the locale stands for, or "".
func (f settingsForm) Language() string {
	if f.Locale == "" {
		return ""
	}
	return locale.Match(f.Locale)
}

// Listed tells whether the time zone is one of those to choose from.
func (f settingsForm) Listed() bool {
	for _, region := range locale.ZoneRegions() {
		if slices.Contains(region.Zones, f.TimeZone) {
			return true
		}
	}
	return f.TimeZone == ""
}

// homeDone is what /home says about what was just done.
type homeDone string

// What there is to say.
const (
	doneApproved homeDone = "approved"
	doneDeclined homeDone = "declined"
	doneGranted  homeDone = "granted"
	doneDenied   homeDone = "denied"
	doneOver     homeDone = "over"    // it was decided otherwise or withdrawn
	doneExpired  homeDone = "expired" // its time was over
	doneWaiting  homeDone = "waiting" // nobody stands behind it at the moment
	doneSaved    homeDone = "saved"
	donePassword homeDone = "password"
)

// homeDones lists them all.
var homeDones = []homeDone{doneApproved, doneDeclined, doneGranted, doneDenied, doneOver, doneExpired, doneWaiting, doneSaved, donePassword}

// Known tells whether there is something to say.
func (d homeDone) Known() bool { return slices.Contains(homeDones, d) }

// Bad tells whether it is that something did not happen.
func (d homeDone) Bad() bool { return d == doneOver || d == doneExpired || d == doneWaiting }

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

// opsSweepsView is /ops/sweeps. Its forms POST to /ops/sweeps/{name}/run and,
// with hours, to /ops/sweeps/{name}/pause.
type opsSweepsView struct {
	frame
	Sweeps  []opsSweep
	Pauses  []int  // hours
	Started string // the sweep that was just started by hand; empty: none
}

func (opsSweepsView) template() string { return "staff/ops_sweeps.html" }

type opsSweep struct {
	Name, Does, Cron string
	NextAt           time.Time
	PausedUntil      *time.Time // nil: it is not paused
	Late             bool
	Last             *opsRun // nil: there was none yet
}

// opsSweepView is /ops/sweeps/{name}: its newest runs, newest first.
type opsSweepView struct {
	frame
	Name string
	Runs []opsRun
}

func (opsSweepView) template() string { return "staff/ops_sweep.html" }

type opsRun struct {
	Tick           time.Time
	Missed         int
	ByHand         bool
	Lag            string // how late it began; empty: in time
	Took           string // empty while it runs
	Scanned, Acted int64
	Skipped        []string // "3 unsubscribed"
	Error          string
}

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
