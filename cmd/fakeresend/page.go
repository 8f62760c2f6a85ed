package main

import (
	_ "embed"
	"fmt"
	"html/template"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// pageMails is how many mails the list shows, newest first.
const pageMails = 200

//go:embed page.html
var pageSource string

var pages = template.Must(template.New("").Funcs(template.FuncMap{
	"join":  func(list []string) string { return strings.Join(list, ", ") },
	"last":  func(e email) string { return e.lastEvent() },
	"about": (*event).about,
	"told":  (*event).told,
	"when":  func(t time.Time) string { return t.UTC().Format("2 Jan 2006 15:04:05 UTC") },
}).Parse(pageSource))

// listPage serves GET /.
func (s *server) listPage(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	data := struct {
		Total  int
		Emails []email
	}{Total: len(s.emails)}
	for i := len(s.emails) - 1; i >= 0 && len(data.Emails) < pageMails; i-- {
		data.Emails = append(data.Emails, s.emails[i].copy())
	}
	s.mu.Unlock()
	showPage(w, "list", data)
}

// mailPage serves GET /mails/{id}.
func (s *server) mailPage(w http.ResponseWriter, r *http.Request) {
	if e, ok := s.find(w, r); ok {
		showPage(w, "mail", e)
	}
}

// mailHTML serves GET /mails/{id}/html, the frame in a mail's page. The mail
// is a stranger's document: it runs no scripts, belongs to no origin, and
// its links open outside.
func (s *server) mailHTML(w http.ResponseWriter, r *http.Request) {
	e, ok := s.find(w, r)
	if !ok {
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Content-Security-Policy", "sandbox allow-popups allow-popups-to-escape-sandbox; "+
		"default-src 'none'; img-src https: http: data:; style-src 'unsafe-inline'; form-action 'none'")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Referrer-Policy", "no-referrer")
	_, _ = w.Write([]byte(linksOutside(e.HTML.String())))
}

// told says in words how the webhook took an event.
func (ev *event) told() string {
	failed, last := 0, ""
	for _, a := range ev.Attempts {
		if a.What == "" && (a.Status < 200 || a.Status > 299) {
			failed++
			last = a.Error
			if a.Status != 0 {
				last = strconv.Itoa(a.Status)
			}
		}
	}
	switch {
	case ev.Told && failed == 0:
		return "webhook delivered"
	case ev.Told:
		return fmt.Sprintf("webhook delivered, after %d failures", failed)
	case failed > 0:
		return fmt.Sprintf("webhook failed %d times, last: %s", failed, last)
	case ev.Webhook:
		return "webhook not delivered yet"
	}
	return ""
}

// about is what an event tells beside its type, in a few words.
func (ev *event) about() string {
	switch {
	case ev.Bounce != nil:
		return ev.Bounce.Type + ", " + ev.Bounce.SubType + ": " + strings.Join(ev.Bounce.DiagnosticCode, "; ")
	case ev.Failed != nil:
		return ev.Failed.Reason
	case ev.Suppressed != nil:
		return ev.Suppressed.Reason
	}
	return ""
}

// find returns a copy of the mail the path names, or answers 404.
func (s *server) find(w http.ResponseWriter, r *http.Request) (email, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.byID[r.PathValue("id")]
	if e == nil {
		http.Error(w, "There is no such mail.", http.StatusNotFound)
		return email{}, false
	}
	return e.copy(), true
}

var headTag = regexp.MustCompile(`(?i)<head(\s[^>]*)?>`)

// linksOutside makes the links of a document open in a new tab: inside the
// sandboxed frame most sites refuse to be shown.
func linksOutside(html string) string {
	const base = `<base target="_blank">`
	if at := headTag.FindStringIndex(html); at != nil {
		return html[:at[1]] + base + html[at[1]:]
	}
	return base + html
}

func showPage(w http.ResponseWriter, name string, data any) {
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'unsafe-inline'; frame-src 'self'; form-action 'none'; base-uri 'none'")
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	_ = pages.ExecuteTemplate(w, name, data) // a reader that left needs none
}
