// Package locale knows how people of a language read things: which of the
// supported languages somebody gets, how a moment in time is written in it, and
// the texts of pages and mails.
package locale

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/go-playground/locales"
	"github.com/go-playground/locales/en"
	"github.com/go-playground/locales/es"
	"github.com/go-playground/locales/fr"
	"golang.org/x/text/language"
)

// Default is the language of everybody whose own is not supported.
const Default = "en"

// maxPreference bounds what Match reads of one preference, in bytes. Browsers
// send well under 200; longer values come from nobody who reads a page.
const maxPreference = 512

// speech is one supported language. Its names and plural rules are CLDR's.
type speech struct {
	dir   string // "ltr" or "rtl", as HTML's dir attribute
	names locales.Translator
	date  func(names locales.Translator, t time.Time) string // without the zone
}

var speeches = map[string]speech{
	"en": {dir: "ltr", names: en.New(), date: englishDate},
	"es": {dir: "ltr", names: es.New(), date: spanishDate},
	"fr": {dir: "ltr", names: fr.New(), date: frenchDate},
}

// Supported lists the supported languages, the default first.
func Supported() []string {
	langs := slices.Sorted(maps.Keys(speeches))
	slices.SortStableFunc(langs, func(a, b string) int {
		switch Default {
		case a:
			return -1
		case b:
			return 1
		}
		return 0
	})
	return langs
}

// Match picks the supported language of the first preference that has one, else
// Default. A preference is a BCP 47 tag ("fr-CA") or a whole Accept-Language
// value ("fr-CA, es;q=0.5"). What cannot be read counts as no preference.
func Match(preferred ...string) string {
	for _, p := range preferred {
		if _, ok := speeches[p]; ok {
			return p
		}
		if len(p) > maxPreference {
			continue
		}
		tags, _, err := language.ParseAcceptLanguage(p)
		if err != nil {
			continue
		}
		for _, tag := range tags {
			// Only a language that was named: "und-FR" guesses one.
			base, confidence := tag.Base()
			if _, ok := speeches[base.String()]; ok && confidence == language.Exact {
				return base.String()
			}
		}
	}
	return Default
}

// Dir returns the direction lang is written in, as HTML's dir attribute.
func Dir(lang string) string {
	return speeches[Match(lang)].dir
}

// DateTime writes t as people of lang do, in zone (nil is UTC) and with the
// zone's name: "Tuesday, December 1, 2026 at 9:00 AM CET". It reads on in a
// sentence: after "until" in English, "le" in French, "el" in Spanish. Time and
// zone stay on one line.
func DateTime(lang string, t time.Time, zone *time.Location) string {
	if zone == nil {
		zone = time.UTC
	}
	t = t.In(zone)
	s := speeches[Match(lang)]
	return s.date(s.names, t) + "\u00a0" + zoneName(t)
}

// zoneName is the zone's abbreviation at t. Many zones have none in the tz
// database but a bare offset ("-03"), which nobody takes for a zone: those are
// written "UTC-3".
func zoneName(t time.Time) string {
	name, offset := t.Zone()
	letters := func(r rune) bool { return 'A' <= r && r <= 'Z' || 'a' <= r && r <= 'z' }
	if name != "" && strings.IndexFunc(name, func(r rune) bool { return !letters(r) }) < 0 {
		return name
	}
	sign := "+"
	if offset < 0 {
		sign, offset = "-", -offset
	}
	hours, minutes := offset/3600, offset%3600/60
	switch {
	case hours == 0 && minutes == 0:
		return "UTC"
	case minutes == 0:
		return fmt.Sprintf("UTC%s%d", sign, hours)
	}
	return fmt.Sprintf("UTC%s%d:%02d", sign, hours, minutes)
}

func englishDate(names locales.Translator, t time.Time) string {
	return names.FmtDateFull(t) + " at " + t.Format("3:04\u00a0PM") // CLDR's names have "am"
}

func frenchDate(names locales.Translator, t time.Time) string {
	day := fmt.Sprint(t.Day())
	if t.Day() == 1 {
		day = "1er" // CLDR's patterns write a bare 1, which reads as a slip
	}
	return fmt.Sprintf("%s %s %s %d à %s", names.WeekdayWide(t.Weekday()), day,
		names.MonthWide(t.Month()), t.Year(), names.FmtTimeShort(t))
}

func spanishDate(names locales.Translator, t time.Time) string {
	at := "a las"
	if t.Hour() == 1 {
		at = "a la"
	}
	return fmt.Sprintf("%s %d de %s de %d %s %s", names.WeekdayWide(t.Weekday()), t.Day(),
		names.MonthWide(t.Month()), t.Year(), at, names.FmtTimeShort(t))
}
