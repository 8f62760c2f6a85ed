package web

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"

	"usher/web/webtest"
)

// serveSamples serves every sample at /?sample=name&lang=xx, under the real
// policy, with its stylesheet.
func serveSamples(t *testing.T, p *pages) *httptest.Server {
	t.Helper()
	views := samples()
	mux := http.NewServeMux()
	mux.Handle("/static/", http.StripPrefix("/static/", http.FileServerFS(staticFiles())))
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, r *http.Request) {
		v, ok := views[r.URL.Query().Get("sample")]
		if !ok {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		w.Header().Set("Content-Security-Policy", pagePolicy(sampleNonce))
		if err := p.render(w, r.URL.Query().Get("lang"), v); err != nil {
			t.Error(err)
		}
	})
	mux.HandleFunc("/dev/mailbox/{id}/html", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = fmt.Fprint(w, `<!doctype html><html lang="en"><title>Mail</title><base target="_blank"><h1>Hello Ann Okafor,</h1><p>Marie Dupont invites you.</p>`)
	})
	server := httptest.NewServer(mux)
	t.Cleanup(server.Close)
	return server
}

// look is one way of looking at a page.
type look struct {
	width int // CSS pixels
	dark  bool
}

// visit is one load of a page in a language and the ways it is looked at.
type visit struct {
	lang  string
	looks []look
	axe   bool // else only the width is checked
}

// visitsTo plans the visits to a sample. Loading a page and axe costs four times
// as much as another look, so looks are what a page gets plenty of: both widths
// in both schemes, spread over the languages with the longer words.
func visitsTo(name string, v view) []visit {
	all := []look{{1280, false}, {320, true}, {320, false}, {1280, true}}
	if strings.HasPrefix(v.template(), "staff/") {
		return []visit{{lang: "en", looks: all, axe: true}}
	}
	french := visit{lang: "fr", looks: []look{{320, true}}, axe: v.template() == "person/invitation.html"}
	if strings.Contains(name, ",") {
		return []visit{{lang: "en", looks: all[:2], axe: true}, french}
	}
	return []visit{{lang: "en", looks: all[:2], axe: true}, {lang: "es", looks: all[2:], axe: true}, french}
}

// TestPagesAreAccessible looks at every page in Chromium with axe-core, under
// the real Content-Security-Policy: no rule may be broken, nothing may stick out
// sideways, and the browser may block nothing.
func TestPagesAreAccessible(t *testing.T) {
	t.Parallel()
	p := testPages(t)
	server := serveSamples(t, p)
	ctx := webtest.Browser(t)
	complaints := webtest.Watch(t, ctx)
	views := samples()
	for _, name := range slices.Sorted(maps.Keys(views)) {
		for _, visit := range visitsTo(name, views[name]) {
			address := server.URL + "/?" + url.Values{"sample": {name}, "lang": {visit.lang}}.Encode()
			if err := chromedp.Do(ctx, chromedp.Navigate(address)); err != nil {
				t.Fatalf("open %s: %v", address, err)
			}
			for _, l := range visit.looks {
				checkLook(t, ctx, fmt.Sprintf("%s, %s, %d px, dark %v", name, visit.lang, l.width, l.dark), l, visit.axe)
			}
		}
	}
	for _, line := range complaints() {
		t.Error(line)
	}
}

func checkLook(t *testing.T, ctx context.Context, what string, l look, axe bool) {
	t.Helper()
	if err := webtest.Emulate(ctx, l.width, l.dark); err != nil {
		t.Fatal(err)
	}
	pixels, err := webtest.Overflow(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if pixels != 0 {
		t.Errorf("%s: the page is %d px too wide", what, pixels)
	}
	if !axe {
		return
	}
	violations, err := webtest.Axe(ctx)
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range violations {
		t.Errorf("%s: %s", what, v)
	}
}
