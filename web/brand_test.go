package web

import (
	"regexp"
	"strings"
	"testing"
)

// TestBrandColoursCanBeRead tries colours all over the cube: whatever an app
// chose, its buttons and links can be read in both modes.
func TestBrandColoursCanBeRead(t *testing.T) {
	t.Parallel()
	property := regexp.MustCompile(`--(brand[a-z-]*):(#[0-9a-f]{6})`)
	card := map[bool]rgb{false: white, true: darkSurface}
	page := map[bool]rgb{false: lightSurface, true: {0x13, 0x15, 0x18}}
	const step = 15 // 18 values a channel, the ends among them
	for r := 0; r <= 255; r += step {
		for g := 0; g <= 255; g += step {
			for b := 0; b <= 255; b += step {
				color := rgb{uint8(r), uint8(g), uint8(b)}.String()
				light, dark, _ := strings.Cut(string(Brand{Color: color}.CSS()), "@media")
				for isDark, css := range map[bool]string{false: light, true: dark} {
					c := map[string]rgb{}
					for _, m := range property.FindAllStringSubmatch(css, -1) {
						c[m[1]], _ = parseColor(m[2])
					}
					if len(c) != 5 {
						t.Fatalf("%s: properties are %v", color, c)
					}
					atLeast := func(what string, a, b rgb, want float64) {
						if got := contrast(a, b); got < want {
							t.Errorf("%s, dark %v: %s has contrast %.2f, want %.1f", color, isDark, what, got, want)
						}
					}
					atLeast("button's text", c["brand-ink"], c["brand"], 4.5)
					atLeast("hovered button's text", c["brand-ink"], c["brand-hover"], 4.5)
					atLeast("link on the card", c["brand-text"], card[isDark], 4.5)
					atLeast("link on the page", c["brand-text"], page[isDark], 4.5)
					atLeast("button's edge on the card", c["brand-edge"], card[isDark], 3)
					atLeast("stripe on the page", c["brand-edge"], page[isDark], 3)
				}
				if t.Failed() {
					return
				}
			}
		}
	}
}

// TestBrandSurfacesAreTheStylesheets holds brand.go and usher.css together.
func TestBrandSurfacesAreTheStylesheets(t *testing.T) {
	t.Parallel()
	css, err := assets.ReadFile("static/usher.css")
	if err != nil {
		t.Fatal(err)
	}
	light, dark, _ := strings.Cut(string(css), "@media (prefers-color-scheme: dark)")
	for want, in := range map[string]string{
		"--page: " + lightSurface.String(): light,
		"--card: " + white.String():        light,
		"--card: " + darkSurface.String():  dark,
		"--page: #131518":                  dark,
		"--brand: " + defaultBrandColor:    light,
	} {
		if !strings.Contains(in, want+";") {
			t.Errorf("usher.css does not set %s", want)
		}
	}
}

func TestBrandColourIsLeftAloneWhereItMay(t *testing.T) {
	t.Parallel()
	if css := string(Brand{Color: "#0B6E8F"}.CSS()); !strings.HasPrefix(css, ":root{--brand:#0b6e8f;") {
		t.Errorf("a readable colour was changed: %s", css)
	}
	standard := Brand{}.CSS()
	for _, bad := range []string{"", "red", "#fff", "#12345g", "#1234567", "#+12345", "0b6e8f#", "#0b6e8f}"} {
		if got := (Brand{Color: bad}).CSS(); got != standard {
			t.Errorf("%q is taken for a colour: %s", bad, got)
		}
	}
}

func TestBrandLogo(t *testing.T) {
	t.Parallel()
	tests := map[string]bool{
		"https://cdn.example.com/logo.png":          true,
		"data:image/png;base64,iVBORw0KGgo=":        true,
		"data:image/svg+xml;base64,PHN2Zy8+":        true,
		"":                                          false,
		"javascript:alert(1)":                       false,
		" javascript:alert(1)":                      false,
		"http://cdn.example.com/logo.png":           false,
		"//cdn.example.com/logo.png":                false,
		"/logo.png":                                 false,
		"https:logo.png":                            false,
		"https://user:secret@example.com/logo.png":  false,
		"data:text/html;base64,PHN2Zy8+":            false,
		"data:image/svg+xml,<svg onload=alert(1)/>": false,
		"data:image/png;base64,====":                false,
	}
	for address, want := range tests {
		if got := (Brand{LogoURL: address}).Logo(); (got != "") != want {
			t.Errorf("logo %q: shown as %q, want shown %v", address, got, want)
		}
	}
}

func TestInitial(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{"kindred": "K", "éclat": "É", "7up": "7", "": "•", "\xff": "•", "<b>": "•"} {
		if got := initial(name); got != want {
			t.Errorf("initial of %q is %q, want %q", name, got, want)
		}
	}
}
