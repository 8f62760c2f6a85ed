package roster_test

import (
	"encoding/base64"
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"

	"usher/internal/roster"
)

const (
	oldSecret = "an old secret that has thirty-two characters"
	newSecret = "a new secret that has thirty-two characters"
)

func keyring(t testing.TB, secrets string) *roster.Keyring {
	t.Helper()
	ring, err := roster.NewKeyring(secrets)
	if err != nil {
		t.Fatal(err)
	}
	return ring
}

var aTicket = roster.Ticket{ID: uuid.MustParse("0190b7a2-7c5e-7d3a-9a51-0c5a1c2e3f40"), Version: 3}

// wantBad checks that a token opens nothing.
func wantBad(t *testing.T, ring *roster.Keyring, purpose roster.Purpose, token string) {
	t.Helper()
	if ticket, err := ring.Open(purpose, token); !errors.Is(err, roster.ErrBadToken) || ticket != (roster.Ticket{}) {
		t.Errorf("token %q: got %+v, %v, want ErrBadToken and nothing", token, ticket, err)
	}
}

func TestToken(t *testing.T) {
	t.Parallel()
	ring := keyring(t, oldSecret)
	for _, ticket := range []roster.Ticket{aTicket, {}, {ID: aTicket.ID, Version: 1 << 31}} {
		token := ring.Token(roster.PurposeInvitation, ticket)
		if len(token) != 59 || strings.Trim(token, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_") != "" {
			t.Errorf("token %q does not fit into a link", token)
		}
		if again := ring.Token(roster.PurposeInvitation, ticket); again != token {
			t.Errorf("token is not recomputable: %q and %q", token, again)
		}
		got, err := ring.Open(roster.PurposeInvitation, token)
		if err != nil || got != ticket {
			t.Errorf("opened: got %+v, %v, want %+v", got, err, ticket)
		}
	}
	// Links that were mailed must open after every update: this one is fixed.
	const mailed = "xRlPDAGQt6J8Xn06mlEMWhwuP0AAAAADA1oDlcw5ijTuMjLvsgALBgjBIFs"
	if got, err := ring.Open(roster.PurposeInvitation, mailed); err != nil || got != aTicket {
		t.Errorf("a token of the first release: got %+v, %v, want %+v", got, err, aTicket)
	}
}

func TestTokenOfAnotherVersion(t *testing.T) {
	t.Parallel()
	ring := keyring(t, oldSecret)
	next := aTicket
	next.Version++
	a, b := ring.Token(roster.PurposeInvitation, aTicket), ring.Token(roster.PurposeInvitation, next)
	if a == b {
		t.Error("versions share a token")
	}
	// The MAC of one version does not sign the other.
	raw, _ := base64.RawURLEncoding.DecodeString(a)
	raw[23]++
	wantBad(t, ring, roster.PurposeInvitation, base64.RawURLEncoding.EncodeToString(raw))
	if got, err := ring.Open(roster.PurposeInvitation, b); err != nil || got != next {
		t.Errorf("got %+v, %v", got, err)
	}
}

func TestTokenKeyRotation(t *testing.T) {
	t.Parallel()
	before, during, after := keyring(t, oldSecret), keyring(t, newSecret+" , "+oldSecret), keyring(t, newSecret)
	old := before.Token(roster.PurposeInvitation, aTicket)
	fresh := during.Token(roster.PurposeInvitation, aTicket)
	if fresh != after.Token(roster.PurposeInvitation, aTicket) || fresh == old {
		t.Error("the first key does not sign")
	}
	for _, token := range []string{old, fresh} {
		if got, err := during.Open(roster.PurposeInvitation, token); err != nil || got != aTicket {
			t.Errorf("while both are there: got %+v, %v", got, err)
		}
	}
	wantBad(t, after, roster.PurposeInvitation, old)
	wantBad(t, before, roster.PurposeInvitation, fresh)

	sealed := before.Seal("session", "text")
	if got, err := during.Unseal("session", sealed); err != nil || got != "text" {
		t.Errorf("sealed before: got %q, %v", got, err)
	}
	if _, err := after.Unseal("session", sealed); !errors.Is(err, roster.ErrBadToken) {
		t.Errorf("sealed by a dropped key: got %v", err)
	}
}

func TestTokenPurpose(t *testing.T) {
	t.Parallel()
	ring := keyring(t, oldSecret)
	token := ring.Token(roster.PurposeInvitation, aTicket)
	for _, purpose := range []roster.Purpose{"", "invitatio", "invitation\x00", "Invitation", "request"} {
		wantBad(t, ring, purpose, token)
	}
}

func TestTokenAltered(t *testing.T) {
	t.Parallel()
	ring := keyring(t, oldSecret)
	token := ring.Token(roster.PurposeInvitation, aTicket)
	raw, err := base64.RawURLEncoding.DecodeString(token)
	done(t, err)
	for i := range raw {
		for bit := range 8 {
			raw[i] ^= 1 << bit
			wantBad(t, ring, roster.PurposeInvitation, base64.RawURLEncoding.EncodeToString(raw))
			raw[i] ^= 1 << bit
		}
	}
	for i := range token {
		wantBad(t, ring, roster.PurposeInvitation, token[:i])
		wantBad(t, ring, roster.PurposeInvitation, token[:i]+"!"+token[i+1:])
		wantBad(t, ring, roster.PurposeInvitation, token[:i]+"\n"+token[i:])
	}
	wantBad(t, ring, roster.PurposeInvitation, token+"A")
	wantBad(t, ring, roster.PurposeInvitation, token+"=")
	wantBad(t, ring, roster.PurposeInvitation, token+token)
	wantBad(t, ring, roster.PurposeInvitation, "\r"+token[:len(token)-1])
	wantBad(t, ring, roster.PurposeInvitation, base64.StdEncoding.EncodeToString(raw))
}

// The last character of 44 bytes in base64url has bits to spare: each token is
// to have one spelling only.
func TestTokenSpelling(t *testing.T) {
	t.Parallel()
	ring := keyring(t, oldSecret)
	const alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
	token := ring.Token(roster.PurposeInvitation, aTicket)
	want, err := base64.RawURLEncoding.DecodeString(token)
	done(t, err)
	spellings := 0
	for _, last := range alphabet {
		spelled := token[:len(token)-1] + string(last)
		raw, err := base64.RawURLEncoding.DecodeString(spelled)
		if err != nil || string(raw) != string(want) || spelled == token {
			continue
		}
		spellings++
		wantBad(t, ring, roster.PurposeInvitation, spelled)
	}
	if spellings == 0 {
		t.Error("no other spelling was tried")
	}
}

func TestSeal(t *testing.T) {
	t.Parallel()
	ring := keyring(t, oldSecret)
	for _, text := range []string{"", "text", "a.b.c", "é\x00\n"} {
		sealed := ring.Seal("session", text)
		if got, err := ring.Unseal("session", sealed); err != nil || got != text {
			t.Errorf("%q: got %q, %v", text, got, err)
		}
		for i := range sealed {
			altered := []byte(sealed)
			altered[i] ^= 1
			if got, err := ring.Unseal("session", string(altered)); !errors.Is(err, roster.ErrBadToken) || got != "" {
				t.Errorf("%q: got %q, %v", altered, got, err)
			}
		}
		if _, err := ring.Unseal("other", sealed); !errors.Is(err, roster.ErrBadToken) {
			t.Errorf("another purpose: got %v", err)
		}
	}
	for _, sealed := range []string{"", ".", "text", "text.", "text.AAAA", "."} {
		if _, err := ring.Unseal("session", sealed); !errors.Is(err, roster.ErrBadToken) {
			t.Errorf("%q: got %v", sealed, err)
		}
	}
}

func TestNewKeyring(t *testing.T) {
	t.Parallel()
	for _, secrets := range []string{"", "short", strings.Repeat("x", roster.MinSecret-1), oldSecret + ",", oldSecret + ",short", "," + oldSecret} {
		if _, err := roster.NewKeyring(secrets); err == nil {
			t.Errorf("secrets %q: accepted", secrets)
		} else if strings.Contains(err.Error(), oldSecret) {
			t.Errorf("the error shows the secret: %v", err)
		}
	}
	keyring(t, strings.Repeat("x", roster.MinSecret))
}

func FuzzOpenToken(f *testing.F) {
	ring, old := keyring(f, newSecret+","+oldSecret), keyring(f, oldSecret)
	token := ring.Token(roster.PurposeInvitation, aTicket)
	f.Add("invitation", token)
	f.Add("other", token)
	f.Add("invitation", old.Token(roster.PurposeInvitation, aTicket))
	f.Add("invitation", token[:len(token)-1]+"B")
	f.Add("invitation", strings.Repeat("A", len(token)))
	f.Add("invitation", "")
	f.Add("session", ring.Seal("session", "a.b"))
	f.Fuzz(func(t *testing.T, purpose, token string) {
		p := roster.Purpose(purpose)
		if ticket, err := ring.Open(p, token); err == nil {
			if token != ring.Token(p, ticket) && token != old.Token(p, ticket) {
				t.Errorf("opened %q, which nobody signed, as %+v", token, ticket)
			}
		} else if ticket != (roster.Ticket{}) {
			t.Errorf("refused %q, but told %+v", token, ticket)
		}
		if text, err := ring.Unseal(p, token); err == nil {
			if token != ring.Seal(p, text) && token != old.Seal(p, text) {
				t.Errorf("unsealed %q, which nobody sealed, as %q", token, text)
			}
		} else if text != "" {
			t.Errorf("refused %q, but told %q", token, text)
		}
	})
}
