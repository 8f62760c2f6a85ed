package web

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/net/html"

	"usher/internal/roster"
)

// unsubscribePath is where the link in the invitation's mail leads to.
func (s *site) unsubscribePath(inv roster.Invitation) string {
	return "/u/" + s.server.Keys.Token(roster.PurposeUnsubscribe, roster.UnsubscribeTicket(*inv.MessageID))
}

func TestUnsubscribe(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	path := s.unsubscribePath(s.invite(s.tenant, "ann@client.example"))
	b := s.browser()

	// Looking changes nothing, whoever looks.
	before := s.everything()
	page := b.get(path)
	page.wantPage(t, 200, s.say("en", "unsubscribe.title"))
	token := strings.TrimPrefix(path, "/u/")
	if got := page.forms(); !slices.Equal(got, []string{token, "all"}) {
		t.Errorf("forms %q", got)
	}
	if !strings.Contains(page.body, "a•••@client.example") || strings.Contains(page.body, "ann@") || !strings.Contains(page.body, "Kindred Care") {
		t.Error("the page does not name the app and the masked address")
	}
	if page.Header.Get("Cache-Control") != "no-store" || page.Header.Get("Referrer-Policy") != "no-referrer" {
		t.Errorf("headers %q", page.Header)
	}
	if head := b.do(http.MethodHead, path, nil); head.StatusCode != 200 {
		t.Errorf("HEAD: %d", head.StatusCode)
	}
	for _, elsewhere := range []string{"/all", "/resume"} {
		if page := b.get(path + elsewhere); page.StatusCode != 404 && page.StatusCode != 405 {
			t.Errorf("GET %s: %d", elsewhere, page.StatusCode)
		}
	}
	if after := s.everything(); after != before {
		t.Errorf("looking changed:\n%s", changed(before, after))
	}

	for _, step := range []struct{ post, title, button string }{
		{"", "unsubscribe.no_reminders.title", "unsubscribe.no_reminders.undo"},
		{"/resume", "unsubscribe.title", "unsubscribe.button"},
		{"/all", "unsubscribe.none.title", "unsubscribe.none.undo"},
		{"", "unsubscribe.none.title", "unsubscribe.none.undo"}, // never more mail than before
		{"/resume", "unsubscribe.title", "unsubscribe.button"},
	} {
		for _, page := range []sheet{b.post(path+step.post, nil), b.post(path+step.post, nil), b.get(path)} {
			page.wantPage(t, 200, s.say("en", step.title))
			if page.Request.URL.Path != path+step.post && page.Request.Method == http.MethodPost {
				t.Errorf("POST %q was redirected", step.post)
			}
			if !slices.ContainsFunc(page.all("button"), func(n *html.Node) bool { return text(n) == s.say("en", step.button) }) {
				t.Errorf("after POST %q there is no button %s", step.post, step.button)
			}
		}
	}
	if got := read[string](s, `SELECT string_agg(type, ' ' ORDER BY id) FROM event WHERE type LIKE 'mail.%'`); got != "mail.reminders_stopped mail.resumed mail.stopped mail.resumed" {
		t.Errorf("events: %s", got)
	}
}

// TestOneClick stops reminders as mail programs do (RFC 8058): from anywhere,
// without cookies, in both encodings, any number of times.
func TestOneClick(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	path := s.unsubscribePath(s.invite(s.tenant, "ann@client.example"))
	multipart := "--x\r\nContent-Disposition: form-data; name=\"List-Unsubscribe\"\r\n\r\nOne-Click\r\n--x--\r\n"
	for _, click := range []struct{ kind, body string }{
		{"application/x-www-form-urlencoded", "List-Unsubscribe=One-Click"},
		{"multipart/form-data; boundary=x", multipart},
		{"", ""},
	} {
		s.exec(`DELETE FROM address`)
		for range 2 {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.base+path, strings.NewReader(click.body))
			if err != nil {
				t.Fatal(err)
			}
			if click.kind != "" {
				req.Header.Set("Content-Type", click.kind)
			}
			req.Header.Set("Origin", "https://mail.example")
			req.Header.Set("Sec-Fetch-Site", "cross-site")
			// A redirect would come back as it is.
			client := &http.Client{CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
			if r := s.send(client, req); r.StatusCode != 200 || len(r.Cookies()) > 0 {
				t.Errorf("%s: %d, cookies %v", click.kind, r.StatusCode, r.Cookies())
			}
			if !read[bool](s, `SELECT unsubscribed_at IS NOT NULL AND block = '' FROM address WHERE app_id = $1 AND email_key = 'ann@client.example'`, s.app.ID) {
				t.Errorf("%s: reminders still come", click.kind)
			}
		}
	}
}

// TestUnsubscribeFromOtherSites shows that another site's form can stop
// reminders and nothing else.
func TestUnsubscribeFromOtherSites(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	path := s.unsubscribePath(s.invite(s.tenant, "ann@client.example"))
	before := s.everything()
	for _, post := range []string{"/all", "/resume"} {
		if page := s.browser().do(http.MethodPost, path+post, url.Values{}, "Sec-Fetch-Site", "cross-site"); page.StatusCode != 403 {
			t.Errorf("POST %s: %d", post, page.StatusCode)
		}
	}
	if after := s.everything(); after != before {
		t.Errorf("another site changed:\n%s", changed(before, after))
	}
}

func TestUnsubscribeLinksThatLeadNowhere(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	inv := s.invite(s.tenant, "ann@client.example")
	path := s.unsubscribePath(inv)
	before := s.everything()
	for what, path := range map[string]string{
		"tampered":            path[:len(path)-2] + "xx",
		"cut":                 path[:20],
		"of another purpose":  "/u/" + s.token(inv),
		"of a mail long gone": "/u/" + s.server.Keys.Token(roster.PurposeUnsubscribe, roster.UnsubscribeTicket(uuid.New())),
		"too long":            "/u/" + strings.Repeat("x", 2000),
		"of no mail":          "/u/" + s.server.Keys.Token(roster.PurposeUnsubscribe, inv.Ticket()),
	} {
		for _, page := range []sheet{s.browser().get(path), s.browser().post(path, nil), s.browser().post(path+"/all", nil), s.browser().post(path+"/resume", nil)} {
			page.wantPage(t, 404, s.say("en", "unsubscribe.dead.title"))
			if len(page.forms()) > 0 || strings.Contains(page.body, "Kindred") {
				t.Errorf("%s: the page offers or tells something", what)
			}
		}
	}
	if page := s.browser().get("/i/" + strings.TrimPrefix(path, "/u/")); page.StatusCode != 404 {
		t.Errorf("the link opens the invitation: %d", page.StatusCode)
	}
	if after := s.everything(); after != before {
		t.Errorf("a dead link changed:\n%s", changed(before, after))
	}
}

func TestUnsubscribeLanguage(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	inv := s.invite(s.tenant, "ann@client.example")
	s.exec(`UPDATE invitation SET locale = 'es' WHERE id = $1`, inv.ID)
	path := s.unsubscribePath(inv)
	s.browser().get(path).wantPage(t, 200, s.say("es", "unsubscribe.title"))
	s.browser().get(path+"?lang=en").wantPage(t, 200, s.say("en", "unsubscribe.title"))
	s.browser().post(path+"?lang=fr", nil).wantPage(t, 200, s.say("fr", "unsubscribe.no_reminders.title"))
}

// TestResumeIsBounded shows that going back and forth is, and stopping is not.
func TestResumeIsBounded(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	path := s.unsubscribePath(s.invite(s.tenant, "ann@client.example"))
	b := s.browser()
	for range maxTries {
		b.post(path, nil).wantPage(t, 200, s.say("en", "unsubscribe.no_reminders.title"))
		b.post(path+"/resume", nil).wantPage(t, 200, s.say("en", "unsubscribe.title"))
	}
	b.post(path, nil).wantPage(t, 200, s.say("en", "unsubscribe.no_reminders.title"))
	b.post(path+"/resume", nil).wantPage(t, 429, s.say("en", "too_many_tries.title"))
	b.post(path+"/all", nil).wantPage(t, 200, s.say("en", "unsubscribe.none.title"))
	if d := triesTime; d > time.Minute {
		t.Errorf("people wait %s", d)
	}
}
