package hook

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"syscall"
	"time"
)

const (
	// answerTime bounds one attempt, from the name's look-up to the end of the
	// answer. Who needs longer shall answer first and work then.
	answerTime = 15 * time.Second

	// maxURL bounds an endpoint's address, in bytes.
	maxURL = 2_000

	// maxHeader bounds an answer's headers, in bytes.
	maxHeader = 32 << 10

	// idlePerHost is how many connections to one host are kept for the next
	// webhooks: enough for two endpoints there.
	idlePerHost = 2 * concurrency
)

// errNotPublic refuses an address that webhooks may not reach. Which one it is
// stays unsaid: the names of a private network are nobody's business.
var errNotPublic = errors.New("its name leads to an address that is not on the public internet")

// URLProblem says, in a sentence for people, why webhooks cannot be posted to
// an address; empty: they can. Private ones, and http, are allowed for
// development only. Where a name leads is checked each time it is used.
func URLProblem(raw string, private bool) string {
	u, err := url.Parse(raw)
	switch {
	case len(raw) > maxURL:
		return fmt.Sprintf("An address has at most %d characters.", maxURL)
	case err != nil || u.Hostname() == "" || u.Opaque != "":
		return "This is not a complete address; it is like https://example.org/webhooks."
	case u.Scheme != "https" && (u.Scheme != "http" || !private):
		return "Webhooks go to https only: the address begins with https://."
	case u.User != nil:
		return "Leave user name and password out of the address: the signature shows who posts."
	case strings.Contains(raw, "#"):
		return "Leave out the part of the address from # on: it is never sent."
	}
	if ip, err := netip.ParseAddr(u.Hostname()); err == nil && !private && !public(ip) {
		return "This address is not on the public internet; webhooks do not go there."
	}
	return ""
}

// NewClient posts webhooks: straight to where names lead, never by a proxy,
// following no redirect, and to addresses of the public internet only, unless
// private ones are allowed. It may be shared by any number of endpoints.
func NewClient(private bool) *http.Client {
	dialer := &net.Dialer{Timeout: answerTime}
	if !private {
		// Asked after the look-up, for the address that is connected to: a name
		// may lead elsewhere each time.
		dialer.Control = func(_, address string, _ syscall.RawConn) error {
			at, err := netip.ParseAddrPort(address)
			if err != nil || !public(at.Addr()) {
				return errNotPublic
			}
			return nil
		}
	}
	return &http.Client{
		Timeout: answerTime,
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return http.ErrUseLastResponse
		},
		Transport: &http.Transport{
			DialContext:            dialer.DialContext,
			ForceAttemptHTTP2:      true,
			DisableCompression:     true, // an answer counts as many bytes as it has
			MaxIdleConnsPerHost:    idlePerHost,
			IdleConnTimeout:        time.Minute,
			TLSHandshakeTimeout:    answerTime,
			MaxResponseHeaderBytes: maxHeader,
		},
	}
}

// notPublic are the ranges that are never anybody's server on the internet, by
// IANA's registries of special purposes.
var notPublic = func() (prefixes []netip.Prefix) {
	for _, p := range []string{
		"0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12",
		"192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
		"224.0.0.0/4", "240.0.0.0/4",
		"2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", // within 2000::/3: protocols, documents, 6to4
	} {
		prefixes = append(prefixes, netip.MustParsePrefix(p))
	}
	return prefixes
}()

var (
	globalIPv6 = netip.MustParsePrefix("2000::/3")     // all that is handed out
	nat64      = netip.MustParsePrefix("64:ff9b::/96") // an IPv4 address in the last four bytes
)

// public tells whether an address is one of the public internet.
func public(ip netip.Addr) bool {
	if ip.Zone() != "" {
		return false
	}
	ip = ip.Unmap()
	if nat64.Contains(ip) {
		raw := ip.As16()
		ip = netip.AddrFrom4([4]byte(raw[12:]))
	}
	if ip.Is6() && !globalIPv6.Contains(ip) || !ip.IsValid() {
		return false
	}
	for _, p := range notPublic {
		if p.Contains(ip) {
			return false
		}
	}
	return true
}
