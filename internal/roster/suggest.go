package roster

import "strings"

// mailboxDomains are where most people have their mail. Names of fewer than
// five letters are left out: too many real domains are one letter away.
var mailboxDomains = []string{
	"gmail.com", "googlemail.com", "outlook.com", "outlook.es", "outlook.fr", "hotmail.com", "hotmail.es", "hotmail.fr", "hotmail.co.uk",
	"yahoo.com", "yahoo.es", "yahoo.fr", "yahoo.co.uk", "icloud.com", "protonmail.com",
	"wanadoo.fr", "laposte.net", "telefonica.net", "btinternet.com", "comcast.net", "verizon.net",
}

// realNeighbours are one slip away from a domain of the list, and are mailbox
// domains themselves.
var realNeighbours = map[string]bool{"mail.com": true, "email.com": true, "ymail.com": true}

// SuggestAddress is the address that was probably meant, where one slip of the
// keyboard (a letter missing, added, replaced, or two swapped) leads from the
// domain of a large mailbox provider to the one typed; empty: none comes to
// mind. It is a question to ask about an address that mail came back from, no
// reason to refuse one.
func SuggestAddress(email string) string {
	at := strings.LastIndexByte(email, '@')
	typed := strings.ToLower(email[at+1:])
	if at <= 0 || realNeighbours[typed] {
		return ""
	}
	meant := ""
	for _, domain := range mailboxDomains {
		if domain == typed {
			return ""
		}
		if meant == "" && oneSlip(typed, domain) && !otherCountry(typed, domain) {
			meant = domain
		}
	}
	if meant == "" {
		return ""
	}
	return email[:at+1] + meant
}

// otherCountry tells whether two domains are one name in two countries, such
// as yahoo.se and yahoo.es: many names are at home in both.
func otherCountry(a, b string) bool {
	nameA, endA, _ := strings.Cut(a, ".")
	nameB, endB, _ := strings.Cut(b, ".")
	return nameA == nameB && len(endA) == 2 && len(endB) == 2
}

// oneSlip tells whether one letter missing, added or replaced, or two
// neighbours swapped, makes b of a.
func oneSlip(a, b string) bool {
	for a != "" && b != "" && a[0] == b[0] {
		a, b = a[1:], b[1:]
	}
	for a != "" && b != "" && a[len(a)-1] == b[len(b)-1] {
		a, b = a[:len(a)-1], b[:len(b)-1]
	}
	switch {
	case len(a)+len(b) == 1, len(a) == 1 && len(b) == 1:
		return true
	case len(a) == 2 && len(b) == 2:
		return a[0] == b[1] && a[1] == b[0]
	}
	return false
}
