package main

import (
	_ "embed"
	"html/template"
	"net/http"
	"regexp"
	"strings"
	"time"
)

// pageMails is how many mails the list shows, newest first.
const pageMails = 200

//go:embed page.html
var pageSource string

var pages = template.Must(template.New("").Funcs(template.FuncMap{
	"join": func(list []string) string { return strings.Join(list, ", ") },
	"when": func(t time.Time) string { return t.UTC().Format("2 Jan 2006 15:04:05 UTC") },
}).Parse(pageSource))

// listPage serves GET /.
func (s *server) listPage(w http.ResponseWriter, _ *http.Request) {
	s.mu.Lock()
	data := struct {
		Total  int
		Emails []email
	}{Total: len(s.emails)}
	for i := len(s.emails) - 1; i >= 0 && len(data.Emails) < pageMails; i-- {
		data.Emails = append(data.Emails, *s.emails[i])
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
	_, _ = w.Write([]byte(linksOutside(e.HTML)))
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
	return *e, true
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
