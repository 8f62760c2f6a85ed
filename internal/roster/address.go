package roster

import (
	"net/mail"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/net/idna"
	"golang.org/x/text/unicode/norm"
)

const (
	maxAddress = 254 // RFC 5321 4.5.3.1.3: a path is 256 octets with its brackets
	maxLocal   = 64  // RFC 5321 4.5.3.1.1
	maxLabel   = 63  // RFC 1035 2.3.4
)

// Address is an e-mail address: as typed, for people, and as compared.
type Address struct {
	Typed string // trimmed and in NFC, otherwise as the person wrote it
	Key   string // lower case, the domain in punycode; dots and +tags stay
}

// ParseAddress reads one plain address, local@domain. It refuses display
// names, quotes, comments, several addresses, domains without a dot, and
// addresses the mail provider cannot carry, each with its own code.
func ParseAddress(typed string) (Address, error) {
	refuse := func(code, message string) (Address, error) {
		return Address{}, invalidField("email", code, "%s", message)
	}
	if len(typed) > 4*maxAddress {
		return refuse("email_too_long", "This e-mail address is too long.")
	}
	if !utf8.ValidString(typed) {
		return refuse("email_invalid", "This e-mail address is not valid text.")
	}
	typed = norm.NFC.String(strings.TrimSpace(typed))
	switch {
	case typed == "":
		return refuse("email_missing", "An e-mail address is needed.")
	case strings.ContainsFunc(typed, func(r rune) bool {
		return unicode.IsSpace(r) || unicode.IsControl(r) || unicode.Is(unicode.Cf, r) || strings.ContainsRune(`"<>(),:;\[]`, r)
	}):
		return refuse("email_invalid", "Write one plain e-mail address, like ann@example.org: no name, quotes, spaces or brackets.")
	}
	parsed, err := mail.ParseAddress(typed)
	if err != nil || parsed.Address != typed || parsed.Name != "" {
		return refuse("email_invalid", "This is not an e-mail address like ann@example.org.")
	}
	at := strings.LastIndexByte(typed, '@')
	local, domain := typed[:at], typed[at+1:]
	for i := range len(local) {
		if local[i] >= utf8.RuneSelf {
			return refuse("email_local_not_ascii", "The part before @ has letters that mail cannot be sent to yet; ask the person for an address in plain letters.")
		}
	}
	ascii, err := idna.Lookup.ToASCII(domain)
	if err == nil { // its own answer must be a domain again: it lets through mixes of writing directions that it then refuses
		_, err = idna.Lookup.ToASCII(ascii)
	}
	if err != nil || !complete(ascii) {
		return refuse("email_domain_invalid", "The part after @ is not a complete domain, like example.org.")
	}
	if len(local) > maxLocal || len(local)+1+len(ascii) > maxAddress {
		return refuse("email_too_long", "This e-mail address is too long.")
	}
	return Address{Typed: typed, Key: strings.ToLower(local) + "@" + strings.ToLower(ascii)}, nil
}

// complete tells whether a domain has several labels, each of a length that
// DNS knows. The idna package leaves that to us: it makes "" of "xn--".
func complete(domain string) bool {
	labels := strings.Split(domain, ".")
	return len(labels) > 1 && !slices.ContainsFunc(labels, func(label string) bool {
		return label == "" || len(label) > maxLabel
	})
}

// Mailbox is the address in the form mail is sent to: the local part as typed,
// since some servers mind its case, and the domain in punycode.
func (a Address) Mailbox() string {
	local, _, _ := strings.Cut(a.Typed, "@")
	_, domain, _ := strings.Cut(a.Key, "@")
	return local + "@" + domain
}

// Mask hides all of an address but what its owner needs to know it by:
// a•••@example.org.
func Mask(address string) string {
	at := strings.LastIndexByte(address, '@')
	if at <= 0 {
		return "•••"
	}
	_, size := utf8.DecodeRuneInString(address)
	return address[:size] + "•••" + address[at:]
}
