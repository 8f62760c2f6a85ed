package web

import (
	"encoding/json"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"usher/internal/mail"
)

// deliver puts a letter into the development mailbox.
func (s *site) deliver(to, subject, html string) string {
	s.t.Helper()
	body, err := json.Marshal(map[string]any{
		"from": "Kindred <hello@kindred.example>", "to": []string{to}, "subject": subject,
		"text": "Open http://usher.example/i/x, please.", "html": html,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	receipt, err := s.server.Mailbox.Send(s.t.Context(), mail.Dispatch{
		Endpoint: "/emails", MessageIDs: []uuid.UUID{uuid.Must(uuid.NewV7())}, Body: body,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	return receipt.Items[0].ProviderID
}

func TestMailboxPages(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(o *Options) { o.Example = Example{APIKey: "usk_demo", AccountID: "a-1", WorkspaceID: "w-1"} })
	b := s.browser()
	if page := b.get("/dev/mailbox"); page.StatusCode != 200 || !strings.Contains(text(page.root), "Bearer usk_demo") {
		t.Errorf("an empty mailbox shows no first call: %d", page.StatusCode)
	}
	if page := b.get("/dev/mailbox.json"); page.StatusCode != 200 || page.body != "[]" {
		t.Errorf("an empty mailbox as JSON: %d %s", page.StatusCode, page.body)
	}
	hostileHTML := `<html><head><title>x</title></head><body><script>alert(1)</script><a href="http://usher.example/i/x">Open</a></body></html>`
	first := s.deliver("Ann@client.example", `Hello <b>"Ann"</b>`, hostileHTML)
	second := s.deliver("bea@client.example", "Hello Bea", "<html><head></head></html>")

	page := b.get("/dev/mailbox")
	words := text(page.root)
	if page.StatusCode != 200 || !strings.Contains(words, `Hello <b>"Ann"</b>`) || strings.Index(words, "Bea") > strings.Index(words, "Ann") {
		t.Errorf("the list is %d %q", page.StatusCode, words)
	}
	if page := b.get("/dev/mailbox?to=ann@CLIENT.example"); !strings.Contains(page.body, first) || strings.Contains(page.body, second) {
		t.Error("the search shows others")
	}

	var letters []letterBody
	if err := json.Unmarshal([]byte(b.get("/dev/mailbox.json?to="+url.QueryEscape("ann@client.example")).body), &letters); err != nil {
		t.Fatal(err)
	}
	if len(letters) != 1 || letters[0].ID != first || letters[0].To != "Ann@client.example" || letters[0].Subject != `Hello <b>"Ann"</b>` ||
		letters[0].HTML != hostileHTML || !slices.Equal(letters[0].Links, []string{"http://usher.example/i/x"}) {
		t.Errorf("letters are %+v", letters)
	}

	page = b.get("/dev/mailbox/" + first)
	if page.StatusCode != 200 || len(page.all("script")) != 0 || !strings.Contains(page.body, "/dev/mailbox/"+first+"/html") {
		t.Errorf("the letter's page: %d", page.StatusCode)
	}
	page = b.get("/dev/mailbox/" + first + "/html")
	policy := page.Header.Get("Content-Security-Policy")
	if page.StatusCode != 200 || !strings.Contains(policy, "sandbox") || strings.Contains(policy, "allow-scripts") || !strings.Contains(policy, "default-src 'none'") ||
		!strings.Contains(page.body, `<base target="_blank">`) {
		t.Errorf("the letter itself: %d under %q", page.StatusCode, policy)
	}
	for _, path := range []string{"/dev/mailbox/x", "/dev/mailbox/" + newID(), "/dev/mailbox/" + newID() + "/html", "/dev/mailbox/x/html"} {
		b.get(path).wantPage(t, 404, s.say("en", "problem.not_found.title"))
	}
}

// TestNoMailboxInProduction: where mail goes to a provider nobody reads it here.
func TestNoMailboxInProduction(t *testing.T) {
	t.Parallel()
	s := newSite(t, func(o *Options) { o.Mailbox = nil })
	for _, path := range []string{"/dev/mailbox", "/dev/mailbox.json", "/dev/mailbox/" + newID(), "/dev/mailbox/" + newID() + "/html"} {
		if page := s.browser().get(path); page.StatusCode != 404 {
			t.Errorf("%s: %d, want 404", path, page.StatusCode)
		}
	}
}
