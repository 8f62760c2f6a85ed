package locale_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"usher/internal/locale"
)

func TestSupported(t *testing.T) {
	t.Parallel()
	if got := locale.Supported(); !slices.Equal(got, []string{"en", "es", "fr"}) {
		t.Errorf("supported: got %q", got)
	}
	for _, lang := range locale.Supported() {
		if locale.Dir(lang) != "ltr" {
			t.Errorf("direction of %s: got %q", lang, locale.Dir(lang))
		}
	}
}

func TestMatch(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name      string
		preferred []string
		want      string
	}{
		{"nothing", nil, "en"},
		{"empty", []string{"", ""}, "en"},
		{"exact", []string{"fr"}, "fr"},
		{"region", []string{"fr-CA"}, "fr"},
		{"other case", []string{"ES-mx"}, "es"},
		{"underscore", []string{"es_MX"}, "es"},
		{"three letters", []string{"fra"}, "fr"},
		{"script and region", []string{"es-Latn-419"}, "es"},
		{"first supported wins", []string{"de", "es", "fr"}, "es"},
		{"header", []string{"de-DE,de;q=0.9,fr;q=0.8,en;q=0.7"}, "fr"},
		{"header out of order", []string{"en;q=0.2, es;q=0.9"}, "es"},
		{"header refuses with q=0", []string{"fr;q=0, es;q=0.1"}, "es"},
		{"header with star", []string{"*, es;q=0.1"}, "es"},
		{"preference before header", []string{"es", "fr,en"}, "es"},
		{"unsupported preference, then header", []string{"sv", "fr-FR,en"}, "fr"},
		{"a guessed language is none", []string{"und-FR", "es"}, "es"},
		{"neighbour language is none", []string{"ca", "fr"}, "fr"},
		{"bad, then good", []string{"!!;q=x", "fr"}, "fr"},
		{"controls", []string{"fr\r\nSet-Cookie: a", "\x00", "es"}, "es"},
		{"not UTF-8", []string{"\xff\xfe", "fr"}, "fr"},
		{"too long", []string{strings.Repeat("fr,", 1000), "es"}, "es"},
	} {
		if got := locale.Match(test.preferred...); got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}
}

func FuzzMatch(f *testing.F) {
	f.Add("fr-CA, es;q=0.5")
	f.Add("i-klingon, zh-Hant-x-a;q=1e9, -, ;q=")
	f.Fuzz(func(t *testing.T, s string) {
		if got := locale.Match(s); !slices.Contains(locale.Supported(), got) {
			t.Errorf("match %q: got %q", s, got)
		}
	})
}

func TestDateTime(t *testing.T) {
	t.Parallel()
	load := func(name string) *time.Location {
		zone, err := time.LoadLocation(name)
		if err != nil {
			t.Fatal(err)
		}
		return zone
	}
	morning := time.Date(2026, 12, 1, 8, 0, 0, 0, time.UTC)
	summer := time.Date(2026, 7, 14, 22, 5, 0, 0, time.UTC)
	for _, test := range []struct {
		lang string
		at   time.Time
		zone *time.Location
		want string
	}{
		{"en", morning, load("Europe/Paris"), "Tuesday, December 1, 2026 at 9:00\u00a0AM\u00a0CET"},
		{"fr", morning, load("Europe/Paris"), "mardi 1er décembre 2026 à 09:00\u00a0CET"},
		{"es", morning, load("Europe/Madrid"), "martes 1 de diciembre de 2026 a las 9:00\u00a0CET"},
		{"en", morning, nil, "Tuesday, December 1, 2026 at 8:00\u00a0AM\u00a0UTC"},
		{"en", summer, load("Europe/Paris"), "Wednesday, July 15, 2026 at 12:05\u00a0AM\u00a0CEST"},
		{"fr", summer, load("America/Montreal"), "mardi 14 juillet 2026 à 18:05\u00a0EDT"},
		{"es", summer, load("America/Bogota"), "martes 14 de julio de 2026 a las 17:05\u00a0UTC-5"},
		{"es", summer, load("Asia/Tehran"), "miércoles 15 de julio de 2026 a la 1:35\u00a0UTC+3:30"},
		{"fr-CA", summer, load("America/St_Johns"), "mardi 14 juillet 2026 à 19:35\u00a0NDT"},
		{"en", morning, load("Europe/Istanbul"), "Tuesday, December 1, 2026 at 11:00\u00a0AM\u00a0UTC+3"},
		{"en", morning, time.FixedZone("", -9*3600-1800), "Monday, November 30, 2026 at 10:30\u00a0PM\u00a0UTC-9:30"},
		{"en", morning, time.FixedZone("<b>", 0), "Tuesday, December 1, 2026 at 8:00\u00a0AM\u00a0UTC"},
		{"xx", morning, nil, "Tuesday, December 1, 2026 at 8:00\u00a0AM\u00a0UTC"},
	} {
		if got := locale.DateTime(test.lang, test.at, test.zone); got != test.want {
			t.Errorf("%s %s in %v:\n got %s\nwant %s", test.lang, test.at, test.zone, got, test.want)
		}
	}
}
