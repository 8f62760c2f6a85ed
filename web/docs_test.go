package web

import (
	"bytes"
	"encoding/json"
	"os"
	"strings"
	"testing"
)

// TestOpenAPICopy holds the committed description and the served one together.
func TestOpenAPICopy(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	served := s.browser().get("/openapi.json")
	if served.StatusCode != 200 || !strings.HasPrefix(served.Header.Get("Content-Type"), "application/json") {
		t.Fatalf("%d %s", served.StatusCode, served.Header.Get("Content-Type"))
	}
	committed, err := os.ReadFile("openapi.json")
	if err != nil {
		t.Fatalf("%v; run 'make openapi'", err)
	}
	if served.body != string(committed) {
		have, want := strings.Split(served.body, "\n"), strings.Split(string(committed), "\n")
		for i := range min(len(have), len(want)) {
			if have[i] != want[i] {
				t.Fatalf("openapi.json is not what is served; run 'make openapi'. It begins at line %d:\nserved:    %s\ncommitted: %s", i+1, have[i], want[i])
			}
		}
		t.Fatalf("openapi.json has %d lines, served are %d; run 'make openapi'", len(want), len(have))
	}
}

// TestOpenAPIIsSound checks what generators of clients stumble over.
func TestOpenAPIIsSound(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	raw := []byte(s.browser().get("/openapi.json").body)
	var doc struct {
		OpenAPI    string `json:"openapi"`
		Paths      map[string]any
		Components struct{ Schemas map[string]any }
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	if !strings.HasPrefix(doc.OpenAPI, "3.1") || len(doc.Paths) == 0 {
		t.Errorf("it is OpenAPI %s with %d paths", doc.OpenAPI, len(doc.Paths))
	}
	const start = `"$ref": "#/components/schemas/`
	for _, part := range strings.Split(string(raw), start)[1:] {
		if name, _, _ := strings.Cut(part, `"`); doc.Components.Schemas[name] == nil {
			t.Errorf("it refers to the schema %s, which is not there", name)
		}
	}
	for id, op := range operations(s.server.api.OpenAPI()) {
		if op.Summary == "" || len(op.Tags) != 1 || id == "" {
			t.Errorf("%s %s has no summary, tag or id", op.Method, op.Path)
		}
	}
	if bytes.Contains(raw, []byte(s.key)) || bytes.Contains(raw, []byte("127.0.0.1")) {
		t.Error("it depends on the installation")
	}
}

// TestDocsShowEveryOperation compares the page with the document.
func TestDocsShowEveryOperation(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	page := s.browser().get("/docs")
	if page.StatusCode != 200 {
		t.Fatalf("%d", page.StatusCode)
	}
	ids := map[string]bool{}
	for _, n := range page.all("*") {
		ids[attr(n, "id")] = true
	}
	words := text(page.root)
	for id, op := range operations(s.server.api.OpenAPI()) {
		if !ids[id] {
			t.Errorf("the page has no place for %s", id)
		}
		for _, want := range []string{op.Path, op.Summary} {
			if !strings.Contains(words, want) {
				t.Errorf("the page does not say %q", want)
			}
		}
		for status := range op.Responses {
			if !strings.Contains(words, status) {
				t.Errorf("the page does not say that %s answers %s", id, status)
			}
		}
	}
	for name := range s.server.api.OpenAPI().Components.Schemas.Map()["Problem"].Properties {
		if !ids["problems"] || !strings.Contains(words, name) {
			t.Errorf("the page does not explain a problem's %s", name)
		}
	}
}

func TestHomePage(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	page := s.browser().get("/")
	for _, want := range []string{`href="/docs"`, `href="/dev/mailbox"`} {
		if page.StatusCode != 200 || !strings.Contains(page.body, want) {
			t.Errorf("%d, without %s", page.StatusCode, want)
		}
	}
	production := newSite(t, func(o *Options) { o.Mailbox = nil })
	if page := production.browser().get("/"); page.StatusCode != 200 || strings.Contains(page.body, "/dev/mailbox") {
		t.Errorf("without a mailbox: %d", page.StatusCode)
	}
}

// TestStaticFiles: what pages refer to is there and may be kept for ever.
func TestStaticFiles(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	b := s.browser()
	page := b.get("/")
	links := page.all("link")
	if len(links) == 0 {
		t.Error("the page has no style sheet")
	}
	for _, link := range links {
		file := b.get(attr(link, "href"))
		if file.StatusCode != 200 || !strings.Contains(file.Header.Get("Cache-Control"), "immutable") || file.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("%s: %d %v", attr(link, "href"), file.StatusCode, file.Header)
		}
	}
	for _, path := range []string{"/static/", "/static/nothing.css", "/static/../server.go", "/static/..%2fserver.go", "/static/%2e%2e/server.go"} {
		if file := b.get(path); file.StatusCode != 404 && file.StatusCode != 403 {
			t.Errorf("%s: %d", path, file.StatusCode)
		}
	}
}
