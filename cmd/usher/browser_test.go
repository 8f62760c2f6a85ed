package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/target"
	"github.com/chromedp/chromedp"

	"usher/internal/postgres/postgrestest"
	"usher/web/webtest"
)

// visitor is a person with a browser.
type visitor struct {
	t     *testing.T
	ctx   context.Context // of the tab
	site  site
	name  string // of the journey, for pictures and failures
	width int    // CSS pixels
	dark  bool

	noScript bool // axe is a script, too
}

// browsing bounds the whole of TestBrowser: a page that hangs fails the test.
const browsing = 3 * time.Minute

// mailAlone is the page that is a mail's HTML and nothing else. A mail has no
// landmarks: it is shown inside a mail program's.
const mailAlone = "mail alone"

// step does something that leads to another page, and looks at that page.
func (v visitor) step(page string, actions ...chromedp.Action[chromedp.Void]) {
	v.t.Helper()
	ctx, cancel := context.WithTimeout(v.ctx, patience)
	defer cancel()
	resp, err := chromedp.RunResponse(ctx, actions...)
	if err != nil {
		v.t.Fatalf("%s: on the way to the %s page: %v", v.name, page, err)
	}
	if resp.Status != 200 {
		v.t.Fatalf("%s: the %s page answers %d", v.name, page, resp.Status)
	}
	v.look(page)
}

// look checks the page as it is shown, and takes its picture.
func (v visitor) look(page string) {
	v.t.Helper()
	if !v.noScript {
		violations, err := webtest.Axe(v.ctx)
		if err != nil {
			v.t.Fatalf("%s: %v", v.name, err)
		}
		for _, found := range violations {
			if page == mailAlone && (found.ID == "landmark-one-main" || found.ID == "region") {
				continue
			}
			v.t.Errorf("%s: %s page: %s", v.name, page, found)
		}
	}
	pixels, err := webtest.Overflow(v.ctx)
	if err != nil {
		v.t.Fatalf("%s: %v", v.name, err)
	}
	if pixels > 0 {
		v.t.Errorf("%s: the %s page is %d px too wide", v.name, page, pixels)
	}
	if *shots == "" {
		return
	}
	picture, err := chromedp.Run(v.ctx, chromedp.FullScreenshot(100))
	if err == nil {
		err = os.MkdirAll(*shots, 0o755)
	}
	if err == nil {
		err = os.WriteFile(filepath.Join(*shots, v.name+" "+page+".png"), picture, 0o644)
	}
	if err != nil {
		v.t.Error(err)
	}
}

// sees wants the page's first heading and language.
func (v visitor) sees(heading, lang string) {
	v.t.Helper()
	got, err := chromedp.Run(v.ctx, chromedp.Evaluate[[]string](
		`[document.querySelector("h1").innerText.replace(/\s+/g, " ").trim(), document.documentElement.lang]`))
	if err != nil {
		v.t.Fatalf("%s: %v", v.name, err)
	}
	if !strings.EqualFold(got[0], heading) || got[1] != lang {
		v.t.Fatalf("%s: the page says %q in %q, want %q in %q", v.name, got[0], got[1], heading, lang)
	}
}

// press presses a key.
func press(key string) chromedp.Action[chromedp.Void] { return chromedp.KeyEvent(key) }

const tab, enter = "\t", "\r"

// tabTo presses Tab until the element has the focus, and wants the focus to be
// seen on it.
func (v visitor) tabTo(selector string) {
	v.t.Helper()
	const enough = 60 // more than any of the pages has to offer
	for range enough {
		if err := chromedp.Do(v.ctx, press(tab)); err != nil {
			v.t.Fatalf("%s: %v", v.name, err)
		}
		state, err := chromedp.Run(v.ctx, chromedp.Evaluate[string](fmt.Sprintf(`(() => {
			const e = document.activeElement;
			if (!e.matches(%q)) return "elsewhere";
			if (e.tagName === "IFRAME") return "seen"; // what is focused is inside
			for (let o = e; o !== document.body; o = o.parentElement) {
				const s = getComputedStyle(o);
				if (s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 2) return "seen";
			}
			return "unseen";
		})()`, selector)))
		if err != nil {
			v.t.Fatalf("%s: %v", v.name, err)
		}
		switch state {
		case "elsewhere":
			continue
		case "seen":
		default:
			v.t.Errorf("%s: the focus on %s is not seen", v.name, selector)
		}
		return
	}
	v.t.Fatalf("%s: %s cannot be reached by Tab", v.name, selector)
}

// words are what the pages say in a language.
type words struct{ name, invitation, accepted string }

var said = map[string]words{
	"en": {"Ann Okafor", "Invitation to Ann Example - Private", "Welcome to Ann Example - Private"},
	"es": {"Ana Íñiguez", "Invitación a Ann Example - Private", "Le damos la bienvenida a Ann Example - Private"},
}

const (
	mailLink    = `.mails a`
	linkInMail  = `.links a[href*="/i/"]`
	nameField   = `#full_name`
	password    = `#password`
	acceptForm  = `form[action*="/accept"]`
	newPassword = "siete barcas verdes"
)

// TestBrowser goes from the mailbox to the accepted invitation in a real
// browser, in every way people do.
func TestBrowser(t *testing.T) {
	t.Parallel()
	usher, s := runEverything(t, tempDir(t), "DATABASE_URL="+postgrestest.DatabaseURL(t))
	ctx, cancel := context.WithTimeout(webtest.Browser(t), browsing)
	defer cancel()
	complaints := webtest.Watch(t, ctx)
	begin := func(name, lang string, width int, dark bool) (visitor, invitation, string) {
		t.Helper()
		v := visitor{t: t, ctx: ctx, site: s, name: name, width: width, dark: dark}
		if err := webtest.Emulate(ctx, width, dark); err != nil {
			t.Fatal(err)
		}
		// Each journey is another person's.
		if _, err := chromedp.Call(ctx, network.ClearBrowserCookies, cdp.Empty{}); err != nil {
			t.Fatal(err)
		}
		address := someAddress()
		inv := s.invite(t, address, said[lang].name, lang)
		s.mail(t, address, func(letter) bool { return true })
		return v, inv, address
	}
	end := func(v visitor, inv invitation, lang string) {
		t.Helper()
		v.sees(said[lang].accepted, lang)
		if got := s.read(t, inv.ID); got.State != "accepted" || s.members(t)[got.AccountID] != "client_user" {
			t.Errorf("%s: the invitation is %+v", v.name, got)
		}
	}
	withMouse := func(v visitor, address, lang string) {
		t.Helper()
		v.step("mailbox", chromedp.Navigate(s.url+"/dev/mailbox"))
		v.step("found", chromedp.SendKeys("#to", address), chromedp.Click(`form.search button`))
		v.step("mail", chromedp.Click(mailLink))
		v.step("invitation", chromedp.Click(linkInMail))
		v.sees(said[lang].invitation, lang)
		v.step("accepted", chromedp.Clear(nameField), chromedp.SendKeys(nameField, said[lang].name),
			chromedp.SendKeys(password, newPassword), chromedp.Click(acceptForm+` button`))
	}

	for _, lang := range []string{"en", "es"} {
		for _, width := range []int{1280, 320} {
			for _, scheme := range []string{"light", "dark"} {
				name := fmt.Sprintf("%s %d %s", lang, width, scheme)
				v, inv, address := begin(name, lang, width, scheme == "dark")
				withMouse(v, address, lang)
				end(v, inv, lang)
			}
		}
	}

	// Without JavaScript.
	v, inv, address := begin("en 320 no script", "en", 320, false)
	scripts := func(off bool) {
		t.Helper()
		if _, err := chromedp.Call(ctx, emulation.SetScriptExecutionDisabled, emulation.SetScriptExecutionDisabledParams{Value: off}); err != nil {
			t.Fatal(err)
		}
	}
	v.noScript = true
	scripts(true)
	withMouse(v, address, "en")
	end(v, inv, "en")
	scripts(false)

	// By keyboard alone, and past one mistake.
	v, inv, address = begin("es 1280 keyboard", "es", 1280, false)
	v.step("mailbox", chromedp.Navigate(s.url+"/dev/mailbox"))
	v.tabTo(".skip")
	v.tabTo("#to")
	v.step("found", press(address+enter))
	v.tabTo(mailLink)
	v.step("mail", press(enter))
	v.tabTo(linkInMail)
	v.step("invitation", press(enter))
	v.tabTo(nameField)
	if err := chromedp.Do(ctx, press(said["es"].name)); err != nil { // over what is filled in
		t.Fatal(err)
	}
	v.tabTo(password)
	if err := chromedp.Do(ctx, press(newPassword)); err != nil {
		t.Fatal(err)
	}
	v.tabTo(acceptForm + " button")
	v.step("accepted", press(enter))
	end(v, inv, "es")

	// By the button of the mail itself, which opens a tab of its own.
	v, inv, address = begin("en 320 frame", "en", 320, true)
	got := s.mail(t, address, func(letter) bool { return true })
	alone := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = io.WriteString(w, got.HTML)
	}))
	defer alone.Close()
	v.step(mailAlone, chromedp.Navigate(alone.URL)) // where axe may run: the mailbox lets no script
	v.step("mail list", chromedp.Navigate(s.url+"/dev/mailbox?to="+address))
	v.step("mail", chromedp.Click(mailLink))
	opened := chromedp.WaitNewTarget(ctx, func(info *target.Info) bool { return info.URL != "" })
	v.tabTo("iframe.mail")
	v.ctx = v.openedTab(opened)
	v.sees(said["en"].invitation, "en")
	v.look("invitation")
	v.step("accepted", chromedp.SendKeys(password, newPassword), chromedp.Click(acceptForm+` button`))
	end(v, inv, "en")

	for _, line := range complaints() {
		t.Errorf("the browser complains: %s", line)
	}
	usher.finish(t)
}

// openedTab presses Enter on the focused link and goes to the tab it opens.
func (v visitor) openedTab(opened <-chan target.ID) context.Context {
	v.t.Helper()
	var id target.ID
	eventually(v.t, "the mail's button opens a tab", func() (bool, error) {
		select {
		case id = <-opened:
			return true, nil
		default:
		}
		return false, chromedp.Do(v.ctx, press(enter))
	})
	ctx, cancel := chromedp.NewContext(v.ctx, chromedp.WithTargetID(id))
	v.t.Cleanup(cancel)
	if err := chromedp.Do(ctx, chromedp.WaitReady("h1")); err != nil {
		v.t.Fatal(err)
	}
	if err := webtest.Emulate(ctx, v.width, v.dark); err != nil {
		v.t.Fatal(err)
	}
	return ctx
}
