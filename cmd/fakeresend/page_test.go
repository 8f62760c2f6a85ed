package main

import (
	"net/http"
	"strings"
	"testing"

	"golang.org/x/net/html"
)

// parsePage returns the text of a page, and its elements by tag.
func parsePage(t *testing.T, page string) (text string, elements map[string][]*html.Node) {
	t.Helper()
	root, err := html.Parse(strings.NewReader(page))
	if err != nil {
		t.Fatal(err)
	}
	elements = map[string][]*html.Node{}
	for n := range root.Descendants() {
		if n.Type == html.TextNode {
			text += n.Data
		}
		if n.Type == html.ElementNode {
			elements[n.Data] = append(elements[n.Data], n)
		}
	}
	return text, elements
}

func attr(n *html.Node, name string) (string, bool) {
	for _, a := range n.Attr {
		if a.Key == name {
			return a.Val, true
		}
	}
	return "", false
}

func TestPages(t *testing.T) {
	t.Parallel()
	p := start(t)
	if text, _ := parsePage(t, p.must("GET", "/", "").body); !strings.Contains(text, "No mail yet.") {
		t.Errorf("empty mailbox: %s", text)
	}
	evil := `<script>alert(1)</script>`
	p.must("POST", "/emails", with("subject", `"older"`))
	id := decode[map[string]string](t, p.must("POST", "/emails", string(mustJSON(map[string]any{
		"from": "Acme <mail@acme.dev>", "to": `"` + evil + `" <ann@b.dev>`, "subject": "Hi " + evil, "text": "text " + evil,
		"html":    `<!doctype html><html><head lang="en"><title>x</title></head><body>` + evil + `<a href="https://x.dev">go</a></body></html>`,
		"headers": map[string]string{"X-Evil": evil},
	})), "Idempotency-Key", evil).body)["id"]

	list := p.must("GET", "/", "")
	text, elements := parsePage(t, list.body)
	if !strings.Contains(text, "Hi "+evil) || len(elements["script"]) != 0 || strings.Index(text, "Hi ") > strings.Index(text, "older") {
		t.Errorf("list = %s", list.body)
	}
	if href, _ := attr(elements["a"][0], "href"); href != "/mails/"+id {
		t.Errorf("first link is %s", href)
	}

	view := p.must("GET", "/mails/"+id, "")
	text, elements = parsePage(t, view.body)
	for _, want := range []string{"Hi " + evil, "text " + evil, "X-Evil", evil, "ann@b.dev", "mail@acme.dev"} {
		if !strings.Contains(text, want) {
			t.Errorf("the mail's page lacks %s", want)
		}
	}
	if len(elements["script"]) != 0 || len(elements["h1"]) != 1 || len(elements["iframe"]) != 1 {
		t.Fatalf("page = %s", view.body)
	}
	if sandbox, ok := attr(elements["iframe"][0], "sandbox"); !ok || strings.Contains(sandbox, "scripts") || strings.Contains(sandbox, "same-origin") {
		t.Errorf("sandbox = %q", sandbox)
	}
	src, _ := attr(elements["iframe"][0], "src")
	frame := p.must("GET", src, "")
	if csp := frame.Header.Get("Content-Security-Policy"); !strings.HasPrefix(csp, "sandbox ") || strings.Contains(csp, "allow-scripts") {
		t.Errorf("the frame's policy is %q", csp)
	}
	if !strings.Contains(frame.body, `<head lang="en"><base target="_blank">`) {
		t.Errorf("links stay in the frame: %s", frame.body)
	}
	p.admin("config", `{"event_gap_ms":1}`)
	id = p.send(to("hard@fake.test"))
	p.quiet()
	text, _ = parsePage(t, p.must("GET", "/mails/"+id, "").body)
	for _, want := range []string{"email.sent", "email.bounced: Permanent, NoEmail: smtp; 550 5.1.1 user unknown"} {
		if !strings.Contains(text, want) {
			t.Errorf("the page of a bounced mail lacks %q", want)
		}
	}
	if text, _ := parsePage(t, p.must("GET", "/", "").body); !strings.Contains(text, "to hard@fake.test: bounced") {
		t.Errorf("list = %s", text)
	}
	for _, path := range []string{"/mails/x", "/mails/x/html"} {
		if res := p.must("GET", path, ""); res.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", path, res.Status)
		}
	}
}
