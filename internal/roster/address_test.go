package roster_test

import (
	"net/mail"
	"strings"
	"testing"

	"usher/internal/roster"
)

func TestParseAddress(t *testing.T) {
	t.Parallel()
	local64 := strings.Repeat("a", 64)
	for _, test := range []struct{ typed, want, key, mailbox string }{
		{"ann@example.org", "ann@example.org", "ann@example.org", "ann@example.org"},
		{"\t Ann.Lee+Files@Example.ORG \n", "Ann.Lee+Files@Example.ORG", "ann.lee+files@example.org", "Ann.Lee+Files@example.org"},
		{"ann@cafe\u0301.example", "ann@caf\u00e9.example", "ann@xn--caf-dma.example", "ann@xn--caf-dma.example"},
		{"ann@XN--CAF-DMA.example", "ann@XN--CAF-DMA.example", "ann@xn--caf-dma.example", "ann@xn--caf-dma.example"},
		{"ann@B\u00dcCHER.example", "ann@B\u00dcCHER.example", "ann@xn--bcher-kva.example", "ann@xn--bcher-kva.example"},
		{"o'brien_x-{y}|z@mail.example.co.uk", "o'brien_x-{y}|z@mail.example.co.uk", "o'brien_x-{y}|z@mail.example.co.uk", "o'brien_x-{y}|z@mail.example.co.uk"},
		{"1@2.example", "1@2.example", "1@2.example", "1@2.example"},
		{local64 + "@example.org", local64 + "@example.org", local64 + "@example.org", local64 + "@example.org"},
	} {
		got, err := roster.ParseAddress(test.typed)
		if err != nil || got.Typed != test.want || got.Key != test.key || got.Mailbox() != test.mailbox {
			t.Errorf("%q: got %+v, mailbox %q, %v; want %q, key %q, mailbox %q", test.typed, got, got.Mailbox(), err, test.want, test.key, test.mailbox)
		}
	}
}

func TestParseAddressRefusals(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a", 60) + "." // a label
	for _, test := range []struct{ typed, code string }{
		{"", "email_missing"},
		{" \t\n", "email_missing"},
		{"ann", "email_invalid"},
		{"@example.org", "email_invalid"},
		{"ann@", "email_invalid"},
		{"ann@@example.org", "email_invalid"},
		{"ann@example.org@example.org", "email_invalid"},
		{"Ann <ann@example.org>", "email_invalid"},
		{"<ann@example.org>", "email_invalid"},
		{"ann@example.org (Ann)", "email_invalid"},
		{`"ann"@example.org`, "email_invalid"},
		{`"ann lee"@example.org`, "email_invalid"},
		{"ann@example.org, bob@example.org", "email_invalid"},
		{"ann@example.org;bob@example.org", "email_invalid"},
		{"ann@example.org\r\nBcc: bob@example.org", "email_invalid"},
		{"ann\x00@example.org", "email_invalid"},
		{"ann\u200b@example.org", "email_invalid"},
		{"ann\u202e@example.org", "email_invalid"},
		{"ann\xff@example.org", "email_invalid"},
		{".ann@example.org", "email_invalid"},
		{"ann.@example.org", "email_invalid"},
		{"an..n@example.org", "email_invalid"},
		{"ann@[192.0.2.1]", "email_invalid"},
		{"ann@localhost", "email_domain_invalid"},
		{"ann@-bad-.example", "email_domain_invalid"},
		{"ann@xn--.example", "email_domain_invalid"},
		{"ann@example.xn--", "email_domain_invalid"},
		{"ann@xn--a.example", "email_domain_invalid"},
		{"ann@" + strings.Repeat("a", 64) + ".example", "email_domain_invalid"},
		{"\u00e4nn@example.org", "email_local_not_ascii"},
		{strings.Repeat("a", 65) + "@example.org", "email_too_long"},
		{strings.Repeat("a", 50) + "@" + strings.Repeat(long, 3) + strings.Repeat("b", 20) + ".example", "email_too_long"},
		{strings.Repeat("a", 2000), "email_too_long"},
	} {
		t.Run(test.typed, func(t *testing.T) {
			got, err := roster.ParseAddress(test.typed)
			if e := refused(t, err, roster.Invalid, test.code); e.Field != "email" || got != (roster.Address{}) {
				t.Errorf("got %+v, field %q", got, e.Field)
			}
		})
	}
}

func TestMask(t *testing.T) {
	t.Parallel()
	for typed, want := range map[string]string{
		"ann@example.org": "a•••@example.org",
		"a@example.org":   "a•••@example.org",
		"\u00e9va@x.fr":   "\u00e9•••@x.fr",
		"@example.org":    "•••",
		"nothing":         "•••",
		"":                "•••",
	} {
		if got := roster.Mask(typed); got != want {
			t.Errorf("%q: got %q, want %q", typed, got, want)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, typed := range []string{
		"ann@example.org", " Ann+x@Example.ORG", "ann@caf\u00e9.example", "ann@cafe\u0301.example", "ann@xn--caf-dma.example",
		"Ann <ann@example.org>", `"a b"@example.org`, "ann@example\u3002org", "ann@\uff45xample.org", "ann@stra\u00dfe.example",
		"ann@example.org\r\nBcc: x@y.example", "\u212aelvin@example.org", "k@\u212aelvin.example", "ann@\u0130.example", "=?utf-8?q?a?=@example.org",
	} {
		f.Add(typed)
	}
	f.Fuzz(func(t *testing.T, typed string) {
		a, err := roster.ParseAddress(typed)
		if err != nil {
			if roster.CodeOf(err) == "" || a != (roster.Address{}) {
				t.Errorf("%q: got %+v, %v", typed, a, err)
			}
			return
		}
		mailbox := a.Mailbox()
		if parsed, err := mail.ParseAddress(mailbox); err != nil || parsed.Address != mailbox || parsed.Name != "" {
			t.Errorf("%q: mailbox %q reads as %+v, %v", typed, mailbox, parsed, err)
		}
		if a.Key != strings.ToLower(a.Key) || !strings.EqualFold(a.Key, mailbox) {
			t.Errorf("%q: key %q of mailbox %q", typed, a.Key, mailbox)
		}
		for _, text := range []string{a.Key, mailbox} {
			if strings.ContainsFunc(text, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
				t.Errorf("%q: %q is not plain ASCII", typed, text)
			}
		}
		if strings.ContainsAny(a.Typed, "\r\n\x00 ") {
			t.Errorf("%q: kept as %q", typed, a.Typed)
		}
		for _, again := range []string{mailbox, a.Key, a.Typed} {
			if b, err := roster.ParseAddress(again); err != nil || b.Key != a.Key {
				t.Errorf("%q: key %q, but %q gives %q, %v", typed, a.Key, again, b.Key, err)
			}
		}
	})
}
