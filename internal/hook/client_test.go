package hook

import (
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
)

func TestPublic(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]bool{
		"93.184.216.34": true, "8.8.8.8": true, "2606:4700:4700::1111": true, "::ffff:8.8.8.8": true,
		"172.15.255.255": true, "172.32.0.1": true, "100.63.255.255": true, "100.128.0.1": true, "64:ff9b::808:808": true,
		"127.0.0.1": false, "127.255.0.3": false, "::1": false, "0.0.0.0": false, "0.1.2.3": false, "::": false,
		"10.0.0.1": false, "172.16.0.1": false, "172.31.255.255": false, "192.168.1.1": false, "fc00::1": false, "fd12::1": false,
		"169.254.169.254": false, "fe80::1": false, "fe80::1%eth0": false, "2606:4700::1%eth0": false, "fec0::1": false,
		"100.64.0.1": false, "100.127.255.255": false, "224.0.0.1": false, "ff02::1": false, "255.255.255.255": false, "240.0.0.1": false,
		"192.0.0.8": false, "192.0.2.1": false, "198.18.0.1": false, "198.51.100.1": false, "203.0.113.1": false, "2001:db8::1": false,
		"::ffff:127.0.0.1": false, "::ffff:10.0.0.1": false, "::127.0.0.1": false,
		"64:ff9b::7f00:1": false, "64:ff9b::a9fe:a9fe": false, "64:ff9b:1::1": false, "2002:7f00:1::": false, "2001:0:7f00:1::": false,
	} {
		if got := public(netip.MustParseAddr(address)); got != want {
			t.Errorf("%s: public is %t, want %t", address, got, want)
		}
	}
}

func TestURLProblem(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		url           string
		public, local string // the beginning of what is wrong; empty: nothing
	}{
		{"https://example.org/hooks?app=1", "", ""},
		{"https://example.org:8443", "", ""},
		{"https://8.8.8.8/", "", ""},
		{"http://example.org/", "Webhooks go to https", ""},
		{"http://127.0.0.1:8080/", "Webhooks go to https", ""},
		{"https://127.0.0.1/", "This address is not on", ""},
		{"https://[::ffff:10.0.0.1]/", "This address is not on", ""},
		{"https://[fe80::1%25eth0]/", "This address is not on", ""},
		{"https://name:word@example.org/", "Leave user name", "Leave user name"},
		{"https://example.org/#part", "Leave out the part", "Leave out the part"},
		{"https://example.org/#", "Leave out the part", "Leave out the part"},
		{"ftp://example.org/", "Webhooks go to https", "Webhooks go to https"},
		{"file:///etc/passwd", "This is not a complete", "This is not a complete"},
		{"https:///path", "This is not a complete", "This is not a complete"},
		{"https:example.org", "This is not a complete", "This is not a complete"},
		{"example.org", "This is not a complete", "This is not a complete"},
		{"", "This is not a complete", "This is not a complete"},
		{"https://exa mple.org/", "This is not a complete", "This is not a complete"},
		{"https://example.org/\nx", "This is not a complete", "This is not a complete"},
		{"https://example.org/" + strings.Repeat("a", maxURL), "An address has", "An address has"},
	} {
		for private, want := range map[bool]string{false: c.public, true: c.local} {
			got := URLProblem(c.url, private)
			if want == "" && got != "" || !strings.HasPrefix(got, want) {
				t.Errorf("%q, private %t: %q, want %q…", c.url, private, got, want)
			}
		}
	}
}

// Names and numbers that lead to our own machine reach nothing, whatever they
// look like.
func TestClientRefusesPrivateAddresses(t *testing.T) {
	t.Parallel()
	var hits atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { hits.Add(1) }))
	t.Cleanup(server.Close)
	u, err := url.Parse(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	client, open := NewClient(false), NewClient(true)
	for _, host := range []string{"127.0.0.1", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]"} {
		address := "http://" + host + ":" + u.Port()
		resp, err := client.Post(address, "application/json", strings.NewReader("{}"))
		if err == nil {
			resp.Body.Close()
			t.Errorf("%s answered", address)
			continue
		}
		if got := reason(err); got != errNotPublic.Error() {
			t.Errorf("%s: %q", address, got)
		}
		if resp, err = open.Post(address, "application/json", strings.NewReader("{}")); err != nil {
			t.Errorf("%s, allowed: %v", address, err)
			continue
		}
		resp.Body.Close()
	}
	if hits.Load() != 4 {
		t.Errorf("the server was reached %d times, want 4: once for each address where it is allowed", hits.Load())
	}
}
