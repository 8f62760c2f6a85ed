package web

import (
	"fmt"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"net/http"

	"github.com/chromedp/chromedp"

	"usher/web/webtest"
)

// notForMail are axe's rules about landmarks: a letter is a part of the mail
// program's page, whose landmarks are its own.
var notForMail = []string{"landmark-one-main", "region"}

// TestLettersAreAccessible looks at the golden file of every letter in Chromium,
// wide and narrow, light and dark: no rule of axe may be broken, nothing may stick
// out sideways, and the button may be no smaller than a thumb.
func TestLettersAreAccessible(t *testing.T) {
	t.Parallel()
	const folder = "../internal/mail/testdata"
	files, err := filepath.Glob(folder + "/*.html")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) < 20 {
		t.Fatalf("only %d letters", len(files))
	}
	server := httptest.NewServer(http.FileServer(http.Dir(folder)))
	t.Cleanup(server.Close)
	ctx := webtest.Browser(t)
	looks := []look{{1280, false}, {320, true}, {320, false}, {1280, true}}
	for i, file := range files {
		name := filepath.Base(file)
		if err := chromedp.Do(ctx, chromedp.Navigate(server.URL+"/"+name)); err != nil {
			t.Fatalf("open %s: %v", name, err)
		}
		lang := strings.Split(name, ".")[1]
		facts, err := chromedp.Run(ctx, chromedp.Evaluate[string](`[
			document.documentElement.lang, document.documentElement.dir, document.querySelectorAll("h1").length,
			[...document.querySelectorAll("a")].every(a => a.textContent.trim() && a.href)].join(" ")`))
		if err != nil {
			t.Fatal(err)
		}
		if want := lang + " ltr 1 true"; facts != want {
			t.Errorf("%s: language, direction, h1s, and whether links have words: %s, want %s", name, facts, want)
		}
		// Each letter is seen in two looks, and each kind, in its three languages, in all.
		for _, l := range []look{looks[i%4], looks[(i+1)%4]} {
			what := fmt.Sprintf("%s, %d px, dark %v", name, l.width, l.dark)
			if err := webtest.Emulate(ctx, l.width, l.dark); err != nil {
				t.Fatal(err)
			}
			if pixels, err := webtest.Overflow(ctx); err != nil || pixels != 0 {
				t.Errorf("%s: the letter is %d px too wide, %v", what, pixels, err)
			}
			height, err := chromedp.Run(ctx, chromedp.Evaluate[float64](`document.querySelector(".button a")?.getBoundingClientRect().height ?? 44`))
			if err != nil {
				t.Fatal(err)
			}
			if height < 44 {
				t.Errorf("%s: the button is %g px high", what, height)
			}
			violations, err := webtest.Axe(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, v := range violations {
				if !slices.Contains(notForMail, v.ID) {
					t.Errorf("%s: %s", what, v)
				}
			}
		}
	}
}
