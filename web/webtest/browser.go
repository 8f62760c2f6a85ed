// Package webtest drives a real browser for tests of pages: one Chromium per
// test, checked with axe-core, the accessibility rules of deque.com. Axe is
// embedded (see axe/LICENSE), so the machine needs no node.
package webtest

import (
	"context"
	_ "embed"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/chromedp"
)

//go:embed axe/axe.min.js
var axeSource string

// stopWithin bounds the browser's own shutting down; then it is killed.
const stopWithin = 10 * time.Second

// height of the emulated window in CSS pixels: a small laptop's.
const height = 800

// browsers are the names and places Chromium goes by.
var browsers = []string{
	"chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "headless-shell",
	"/usr/bin/chromium",
	"/Applications/Chromium.app/Contents/MacOS/Chromium",
	"/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
}

// Browser starts a Chromium with a profile of its own and returns the chromedp
// context of its one tab. It ends with the test. Further tabs come from
// chromedp.NewContext. A machine without Chromium fails the test.
func Browser(t testing.TB) context.Context {
	t.Helper()
	path := ""
	for _, name := range browsers {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Fatalf("find browser: none of %s; install chromium", strings.Join(browsers, ", "))
	}
	// Chromedp makes the profile's folder, and removes it once the process is gone.
	allocator, cancel := chromedp.NewExecAllocator(context.Background(), append(
		chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path),
		chromedp.NoSandbox, // the tests may run as root
		chromedp.DisableGPU,
		chromedp.Flag("disable-quic", true),
		chromedp.Flag("disable-component-update", true),
	)...)
	t.Cleanup(cancel)
	ctx, closeTab := chromedp.NewContext(allocator)
	t.Cleanup(closeTab)
	if err := chromedp.Do(ctx); err != nil {
		t.Fatalf("start browser %s: %v", path, err)
	}
	t.Cleanup(func() {
		stopping, cancel := context.WithTimeout(ctx, stopWithin)
		defer cancel()
		if err := chromedp.Cancel(stopping); err != nil {
			t.Logf("stop browser: %v", err)
		}
	})
	return ctx
}

// Emulate makes the tab width CSS pixels wide, with the light or dark colour
// scheme, and without motion: a transition would be caught half-way.
func Emulate(ctx context.Context, width int, dark bool) error {
	scheme := "light"
	if dark {
		scheme = "dark"
	}
	_, err := chromedp.Call(ctx, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: int64(width), Height: height, DeviceScaleFactor: 1,
	})
	if err == nil {
		_, err = chromedp.Call(ctx, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{
			Features: []*emulation.MediaFeature{
				{Name: "prefers-color-scheme", Value: scheme},
				{Name: "prefers-reduced-motion", Value: "reduce"},
			},
		})
	}
	if err != nil {
		return fmt.Errorf("emulate width %d, %s: %w", width, scheme, err)
	}
	return nil
}

// Violation is one rule of axe that the page breaks.
type Violation struct {
	ID     string `json:"id"`
	Impact string `json:"impact"` // minor, moderate, serious, critical
	Help   string `json:"help"`
	Nodes  []struct {
		HTML    string `json:"html"`
		Summary string `json:"failureSummary"`
	} `json:"nodes"`
}

// String is the rule and every element that breaks it.
func (v Violation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s (%s): %s", v.ID, v.Impact, v.Help)
	for _, n := range v.Nodes {
		fmt.Fprintf(&b, "\n  %s\n    %s", n.HTML, strings.ReplaceAll(n.Summary, "\n", "\n    "))
	}
	return b.String()
}

// runAxe checks the document with all rules that are on by default, and with the
// target size of WCAG 2.2, which is not. Frames are documents of their own.
const runAxe = `axe.run(document, {iframes: false, resultTypes: ["violations"], rules: {"target-size": {enabled: true}}})
	.then(result => result.violations)`

// Axe checks the tab's document as it is shown now. It works under any
// Content-Security-Policy. No violation is an empty slice.
func Axe(ctx context.Context) ([]Violation, error) {
	there, err := chromedp.Run(ctx, chromedp.Evaluate[bool](`typeof axe !== "undefined"`))
	if err == nil && !there {
		_, err = chromedp.Run(ctx, chromedp.Evaluate[chromedp.Void](axeSource))
	}
	if err != nil {
		return nil, fmt.Errorf("load axe: %w", err)
	}
	found, err := chromedp.Run(ctx, chromedp.Evaluate[[]Violation](runAxe, chromedp.EvalAwaitPromise))
	if err != nil {
		return nil, fmt.Errorf("run axe: %w", err)
	}
	return found, nil
}

// Overflow is by how many CSS pixels the document is wider than the window.
func Overflow(ctx context.Context) (int, error) {
	pixels, err := chromedp.Run(ctx, chromedp.Evaluate[int](
		`Math.max(0, document.scrollingElement.scrollWidth - innerWidth)`))
	if err != nil {
		return 0, fmt.Errorf("measure overflow: %w", err)
	}
	return pixels, nil
}

// Watch collects what the tab's browser complains of from now on: what the
// Content-Security-Policy blocked, what could not be loaded. The returned
// function lists it.
func Watch(t testing.TB, ctx context.Context) func() []string {
	t.Helper()
	var mu sync.Mutex
	var lines []string
	err := chromedp.Listen(ctx, func(event any) {
		e, ok := event.(*log.EventEntryAdded)
		if !ok || e.Entry.Level != log.EntryLevelError {
			return
		}
		mu.Lock()
		defer mu.Unlock()
		lines = append(lines, strings.TrimSpace(fmt.Sprintf("%s: %s %s", e.Entry.Source, e.Entry.Text, e.Entry.URL)))
	})
	if err != nil {
		t.Fatalf("watch browser: %v", err)
	}
	return func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(lines)
	}
}
