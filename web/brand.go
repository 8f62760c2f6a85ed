package web

import (
	"encoding/base64"
	"fmt"
	"html/template"
	"math"
	"net/url"
	"regexp"
	"strconv"
	"strings"
)

// Brand is how an app presents itself to the people it invites.
type Brand struct {
	Name         string // empty is "Usher"
	Color        string // "#rrggbb"; anything else is the default colour
	LogoURL      string // https: or an image as data:…;base64; anything else shows the name's initial
	SupportEmail string // may be empty
}

const (
	defaultBrandName  = "Usher"
	defaultBrandColor = "#1a6b60"
)

// Title is the name to show.
func (b Brand) Title() string {
	if strings.TrimSpace(b.Name) == "" {
		return defaultBrandName
	}
	return b.Name
}

// logoData is an image inside its own address. SVG is harmless in an img element:
// browsers run no scripts there.
var logoData = regexp.MustCompile(`^data:image/(?:png|jpeg|gif|webp|svg\+xml);base64,([A-Za-z0-9+/]+=*)$`)

// Logo is LogoURL if a page may load it, else "".
func (b Brand) Logo() template.URL {
	if m := logoData.FindStringSubmatch(b.LogoURL); m != nil {
		if _, err := base64.StdEncoding.DecodeString(m[1]); err == nil {
			return template.URL(b.LogoURL) //nolint:gosec // an image by the pattern
		}
	}
	if u, ok := webURL(b.LogoURL, "https"); ok {
		return template.URL(u.String()) //nolint:gosec // https by the check
	}
	return ""
}

// webURL parses an absolute address of one of the schemes.
func webURL(s string, schemes ...string) (*url.URL, bool) {
	u, err := url.Parse(s)
	if err != nil || u.Host == "" || u.User != nil {
		return nil, false
	}
	for _, scheme := range schemes {
		if u.Scheme == scheme {
			return u, true
		}
	}
	return nil, false
}

// The surfaces the brand's colour stands on: the worst of each mode for contrast.
// They are --page of light mode and --card of dark mode in usher.css.
var (
	lightSurface = rgb{0xf4, 0xf3, 0xf0}
	darkSurface  = rgb{0x1e, 0x20, 0x25}
	white        = rgb{0xff, 0xff, 0xff}
	black        = rgb{0x00, 0x00, 0x00}
)

// Contrast ratios of WCAG 2.2 AA, with a little over for rounding.
const (
	textContrast  = 4.6 // 1.4.3 asks for 4.5
	shapeContrast = 3.1 // 1.4.11 asks for 3
)

// CSS sets the brand's custom properties in light and dark mode. The colour
// itself fills buttons, with text in black or white, whichever reads better. For
// edges, and for links, it is moved towards black or white as far as it must be
// to be seen and to be read, and no further.
func (b Brand) CSS() template.CSS {
	color, ok := parseColor(b.Color)
	if !ok {
		color, _ = parseColor(defaultBrandColor)
	}
	//nolint:gosec // made of numbers
	return template.CSS(":root{" + brandProperties(color, lightSurface, black) + "}" +
		"@media (prefers-color-scheme:dark){:root{" + brandProperties(color, darkSurface, white) + "}}")
}

// brandProperties derives the colours of one mode. A colour too close to the
// surface is moved towards the given end.
func brandProperties(color, surface, towards rgb) string {
	ink, away := white, black
	if contrast(color, black) > contrast(color, white) {
		ink, away = black, white
	}
	return fmt.Sprintf("--brand:%s;--brand-ink:%s;--brand-hover:%s;--brand-edge:%s;--brand-text:%s",
		color, ink, mix(color, away, 0.16),
		reach(color, surface, towards, shapeContrast), reach(color, surface, towards, textContrast))
}

// reach mixes as little of towards into c as gives it the contrast to surface.
func reach(c, surface, towards rgb, want float64) rgb {
	const steps = 64
	for i := range steps {
		if got := mix(c, towards, float64(i)/steps); contrast(got, surface) >= want {
			return got
		}
	}
	return towards
}

// rgb is a colour in sRGB.
type rgb struct{ r, g, b uint8 }

func (c rgb) String() string { return fmt.Sprintf("#%02x%02x%02x", c.r, c.g, c.b) }

func parseColor(s string) (rgb, bool) {
	if len(s) != 7 || s[0] != '#' {
		return rgb{}, false
	}
	n, err := strconv.ParseUint(s[1:], 16, 24)
	if err != nil {
		return rgb{}, false
	}
	return rgb{uint8(n >> 16), uint8(n >> 8 & 0xff), uint8(n & 0xff)}, true
}

func mix(a, b rgb, share float64) rgb {
	channel := func(a, b uint8) uint8 {
		return uint8(math.Round(float64(a)*(1-share) + float64(b)*share))
	}
	return rgb{channel(a.r, b.r), channel(a.g, b.g), channel(a.b, b.b)}
}

// contrast is the ratio WCAG defines, 1 to 21.
func contrast(a, b rgb) float64 {
	x, y := luminance(a), luminance(b)
	return (max(x, y) + 0.05) / (min(x, y) + 0.05)
}

func luminance(c rgb) float64 {
	linear := func(v uint8) float64 {
		s := float64(v) / 255
		if s <= 0.04045 {
			return s / 12.92
		}
		return math.Pow((s+0.055)/1.055, 2.4)
	}
	return 0.2126*linear(c.r) + 0.7152*linear(c.g) + 0.0722*linear(c.b)
}
