package roster

import (
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/language"
	"golang.org/x/text/unicode/norm"
)

const (
	// maxName bounds names of people, companies and workspaces, in characters.
	// They stand in subjects and headings, which longer ones would break.
	maxName = 120

	// maxNote bounds the inviter's own words, in characters: a greeting, not a
	// newsletter.
	maxNote = 1000
)

// cleanName checks a name people gave and returns it trimmed and in NFC.
// Control characters would break headers; addresses of web pages make a name
// a phishing channel, since it is mailed under the app's good name.
func cleanName(field, name string) (string, error) {
	if len(name) > 4*maxName || utf8.RuneCountInString(name) > maxName {
		return "", invalidField(field, "name_too_long", "A name has at most %d characters.", maxName)
	}
	if !utf8.ValidString(name) {
		return "", invalidField(field, "name_invalid", "This name is not valid text.")
	}
	name = norm.NFC.String(strings.TrimSpace(name))
	switch lower := strings.ToLower(name); {
	case name == "":
		return "", invalidField(field, "name_missing", "A name is needed.")
	case strings.ContainsFunc(name, unprintable):
		return "", invalidField(field, "name_invalid", "A name is one line of plain text.")
	case strings.Contains(lower, "://") || strings.Contains(lower, "www."):
		return "", invalidField(field, "name_has_url", "A name cannot contain the address of a web page.")
	}
	return name, nil
}

// unprintable tells control, line-separating and direction-overriding
// characters, which have no place in one line of text.
func unprintable(r rune) bool {
	return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || (r >= '\u202a' && r <= '\u202e') || (r >= '\u2066' && r <= '\u2069')
}

func cleanNote(note string) (string, error) {
	if len(note) > 4*maxNote || utf8.RuneCountInString(note) > maxNote {
		return "", invalidField("message", "message_too_long", "A message has at most %d characters.", maxNote)
	}
	if !utf8.ValidString(note) {
		return "", invalidField("message", "message_invalid", "This message is not valid text.")
	}
	note = strings.TrimSpace(strings.ReplaceAll(note, "\r\n", "\n"))
	if strings.ContainsFunc(note, func(r rune) bool { return r != '\n' && r != '\t' && unprintable(r) }) {
		return "", invalidField("message", "message_invalid", "A message is plain text.")
	}
	return norm.NFC.String(note), nil
}

// cleanLocale checks a BCP 47 tag; empty stays empty and means the app's.
func cleanLocale(tag string) (string, error) {
	if tag == "" {
		return "", nil
	}
	if len(tag) > 35 { // RFC 5646 4.4.1: the longest registered tags
		return "", invalidField("locale", "locale_invalid", "A locale is a language tag like en, fr or es-MX.")
	}
	parsed, err := language.Parse(tag)
	if err != nil {
		return "", invalidField("locale", "locale_invalid", "A locale is a language tag like en, fr or es-MX.")
	}
	return parsed.String(), nil
}

// cleanZone checks the name of a time zone; empty stays empty and means the
// next one of the chain account, company, app.
func cleanZone(name string) (string, error) {
	if name == "" {
		return "", nil
	}
	if _, err := time.LoadLocation(name); err != nil || name == "Local" {
		return "", invalidField("time_zone", "time_zone_invalid", "A time zone is a name like Europe/Madrid.")
	}
	return name, nil
}

// zone is the first of names that is a time zone, UTC if none is.
func zone(names ...string) *time.Location {
	for _, name := range names {
		if name == "" {
			continue
		}
		if location, ok := zones.Load(name); ok {
			return location.(*time.Location)
		}
		if location, err := time.LoadLocation(name); err == nil {
			zones.Store(name, location)
			return location
		}
	}
	return time.UTC
}

// zones are those that were asked for, by name: there are only so many, and
// each takes a file to read.
var zones sync.Map
