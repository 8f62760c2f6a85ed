package mail

import (
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

const (
	// maxName caps a name in a letter, in characters: as long as real names and
	// titles get, and too short for somebody to write a letter of their own in it.
	maxName = 100
	// maxSubjectName caps a name in a subject, in characters. Phones show 40 to
	// 70 of a subject, and a longer name pushes what we say out of sight.
	maxSubjectName = 40
	// maxNote caps the inviter's words, in characters, and maxNoteLines their
	// lines: with them the letter stays far below maxHTML.
	maxNote      = 2000
	maxNoteLines = 60
	// maxDiagnostic caps what a mail server said, in characters: the code and
	// its sentence stand in front.
	maxDiagnostic = 200
	// maxLine is what is read of a name or a line of a note, in bytes: whatever is
	// sent, cleaning it stays cheap.
	maxLine = 8 * maxNote
	// textWidth is the width plain text is wrapped to: quoted a few times it
	// still fits the customary 80 columns.
	textWidth = 72
)

var (
	// linkLike is what asks to be opened: a scheme, www, a numeric host, a
	// domain with a path.
	linkLike = regexp.MustCompile(`(?i)[a-z][a-z0-9+.-]*:/+\S*|\bwww\.\S*|\b\d{1,3}(?:\.\d{1,3}){3}\S*|\S+\.\pL[\pL\d-]+[/?#]\S*`)
	// domainDot is the dot of what may be a domain, or somebody's initials, in
	// any of the forms that browsers take for a dot. Joiners that oneLine leaves
	// hide no letter from it.
	domainDot = regexp.MustCompile(`(\S)([.。．｡․﹒])([\pL\x{200c}\x{200d}])`)
)

// linkMarks are the characters without which neither of them matches.
const linkMarks = ".。．｡․﹒/"

// cleanName makes a name safe to show in a letter that people trust because we
// sent it: names are chosen by anybody, and are how a stranger would get a link
// into our mail. A link becomes "…"; a dot inside a word gets a space after it,
// which is right for "J.Smith" and keeps mail programs from linking "evil.com".
func cleanName(name string) string {
	return shorten(unlink(oneLine(name)), maxName)
}

// unlink takes out of a line what mail programs would turn into a link.
func unlink(line string) string {
	if !strings.ContainsAny(line, linkMarks) {
		return line // as most names are
	}
	line = linkLike.ReplaceAllString(line, "…")
	for domainDot.MatchString(line) { // twice for overlaps, as in a.b.c
		line = domainDot.ReplaceAllString(line, "$1$2 $3")
	}
	return line
}

// oneLine drops what a name or a header cannot hold: controls and line breaks
// turn into spaces, and what is invisible or turns the reading direction goes.
func oneLine(s string) string {
	if len(s) > maxLine {
		s = strings.ToValidUTF8(s[:maxLine], "")
	}
	s = strings.Map(func(r rune) rune {
		switch {
		case ' ' < r && r < 0x7f:
			return r
		case r == utf8.RuneError, unicode.Is(unicode.Cf, r) && r != '\u200c' && r != '\u200d':
			return -1 // the two joiners that stay are spelling in Persian and Hindi
		case unicode.IsControl(r), unicode.IsSpace(r):
			return ' '
		}
		return r
	}, s)
	return strings.Join(strings.Fields(s), " ")
}

// shorten caps s at limit characters, the last of them an ellipsis. It does not
// part a letter from its accents.
func shorten(s string, limit int) string {
	if len(s) <= limit { // bytes, of which no character has less than one
		return s
	}
	runes := []rune(s)
	if len(runes) <= limit {
		return s
	}
	end := limit - 1
	for end > 0 && (unicode.Is(unicode.M, runes[end]) || runes[end] == '\u200d' || runes[end-1] == '\u200d') {
		end--
	}
	return strings.TrimRight(string(runes[:end]), " ") + "…"
}

// noteLines splits the inviter's words into lines, without empty ones at either
// end or several in a row.
func noteLines(note string) []string {
	var lines []string
	for line := range strings.Lines(shorten(strings.ReplaceAll(strings.TrimSpace(note), "\r\n", "\n"), maxNote)) {
		line = oneLine(line)
		if line == "" && (len(lines) == 0 || lines[len(lines)-1] == "") {
			continue
		}
		if len(lines) == maxNoteLines {
			lines[maxNoteLines-1] = "…"
			break
		}
		lines = append(lines, line)
	}
	if n := len(lines); n > 0 && lines[n-1] == "" {
		lines = lines[:n-1]
	}
	return lines
}

// wrap breaks the lines of a text at ordinary spaces, so that none is longer
// than width characters except for a word that is, as a link may be. Quoted
// lines ("> ") stay quoted. Several empty lines become one.
func wrap(text string, width int) string {
	var out strings.Builder
	out.Grow(len(text) + len(text)/8)
	empty := false // the line before was
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		line = strings.TrimRight(line, " ")
		if line == "" {
			if !empty {
				out.WriteByte('\n')
			}
			empty = true
			continue
		}
		empty = false
		column := 0
		rest, quoted := strings.CutPrefix(line, ">")
		if quoted {
			line = strings.TrimLeft(rest, " ")
			out.WriteByte('>')
			column = 1
		}
		start := column // of the line's first word
		for word := range strings.SplitSeq(line, " ") {
			if word == "" {
				continue
			}
			n := utf8.RuneCountInString(word)
			switch {
			case column > start && column+1+n > width:
				out.WriteByte('\n')
				column = start
				if quoted {
					out.WriteString("> ")
					column++
				}
			case column > 0:
				out.WriteByte(' ')
				column++
			}
			out.WriteString(word)
			column += n
		}
		out.WriteByte('\n')
	}
	return out.String()
}
