package webtest

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/chromedp/chromedp"
)

// poor is a page with what the helpers are there to find: text too faint in dark
// mode only, a link too small to hit, no heading, a box wider than a phone, an
// inline style.
const poor = `<!doctype html><html lang="en"><title>Poor</title>
<style nonce="n">
  .box { width: 600px } .faint { color: #000; background: #fff }
  @media (prefers-color-scheme: dark) { .faint { color: #777; background: #666 } }
</style>
<main><p class="faint">Faint</p><div class="box">Wide</div><p style="color: red">Inline</p>
<input type="checkbox"></main></html>`

func TestHelpersFindWhatIsWrong(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Content-Security-Policy", "default-src 'none'; style-src 'nonce-n'")
		_, _ = fmt.Fprint(w, poor)
	}))
	t.Cleanup(server.Close)
	ctx := Browser(t)
	complaints := Watch(t, ctx)
	if err := chromedp.Do(ctx, chromedp.Navigate(server.URL)); err != nil {
		t.Fatal(err)
	}

	check := func(width int, dark bool, wantFaint, wantWide bool) {
		t.Helper()
		if err := Emulate(ctx, width, dark); err != nil {
			t.Fatal(err)
		}
		violations, err := Axe(ctx)
		if err != nil {
			t.Fatal(err)
		}
		found := map[string]bool{}
		for _, v := range violations {
			found[v.ID] = true
			if len(v.Nodes) == 0 || !strings.Contains(v.String(), v.Help) {
				t.Errorf("violation %s tells nothing: %s", v.ID, v)
			}
		}
		if !found["label"] || !found["page-has-heading-one"] {
			t.Errorf("axe found %v, want label and page-has-heading-one among them", found)
		}
		if found["color-contrast"] != wantFaint {
			t.Errorf("dark %v: contrast found %v, want %v", dark, found["color-contrast"], wantFaint)
		}
		pixels, err := Overflow(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if (pixels > 0) != wantWide {
			t.Errorf("width %d: overflow is %d px, want any %v", width, pixels, wantWide)
		}
	}
	check(1280, false, false, false)
	check(320, true, true, true)

	blocked := false
	for _, line := range complaints() {
		blocked = blocked || strings.Contains(line, "Content Security Policy")
	}
	if !blocked {
		t.Errorf("the inline style was not complained of: %q", complaints())
	}
}
