package roster

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
)

// A token is base64url over
//
//	key id (4) | subject id (16) | version (4, big endian) | MAC (20)
//
// where the MAC is HMAC-SHA256, cut to 160 bits, over purpose and everything
// before it. Nothing of it is stored: it is recomputed whenever a link is
// shown, and dies when the subject's version is raised.
const (
	keyIDSize = 4
	macSize   = 20
	tokenSize = keyIDSize + 16 + 4 + macSize
)

// MinSecret is the least length of a signing secret, in bytes: as long as the
// hash, so that guessing it is no shorter a way than guessing the MAC.
const MinSecret = 32

// Purpose is what a token is good for; one never opens another's door.
type Purpose string

// PurposeInvitation tokens open /i/{token}.
const PurposeInvitation Purpose = "invitation"

// Ticket is what a genuine token says: somebody holds the link to this version
// of this subject.
type Ticket struct {
	ID      uuid.UUID
	Version int
}

// ErrBadToken is all there is to say about a token that is not genuine.
var ErrBadToken = errors.New("token is not genuine")

// Keyring signs and checks tokens. The first key signs, all of them check, so
// a new secret is put in front and the old one dropped when its links have
// run out.
type Keyring struct {
	keys []signingKey
}

type signingKey struct {
	id      [keyIDSize]byte
	secret  []byte // of tokens
	webhook []byte // of webhooks' secrets
}

// NewKeyring reads a comma list of secrets, each of at least MinSecret bytes.
func NewKeyring(secrets string) (*Keyring, error) {
	ring := &Keyring{}
	for i, secret := range strings.Split(secrets, ",") {
		secret = strings.TrimSpace(secret)
		if len(secret) < MinSecret {
			return nil, fmt.Errorf("secret %d has %d characters, %d are needed", i+1, len(secret), MinSecret)
		}
		key := signingKey{secret: derive(secret, "token"), webhook: derive(secret, "webhook")}
		copy(key.id[:], derive(secret, "key id"))
		ring.keys = append(ring.keys, key)
	}
	return ring, nil
}

// derive makes a key of its own for each use of a secret.
func derive(secret, use string) []byte {
	mac := hmac.New(sha256.New, []byte(secret))
	mac.Write([]byte("usher " + use))
	return mac.Sum(nil)
}

// Token is the token for a version of a subject.
func (k *Keyring) Token(purpose Purpose, t Ticket) string {
	raw := make([]byte, 0, tokenSize)
	raw = append(raw, k.keys[0].id[:]...)
	raw = append(raw, t.ID[:]...)
	raw = binary.BigEndian.AppendUint32(raw, uint32(t.Version))
	raw = append(raw, k.keys[0].mac(purpose, raw)...)
	return base64.RawURLEncoding.EncodeToString(raw)
}

// Open gives back what a genuine token of that purpose was made from, or
// ErrBadToken.
func (k *Keyring) Open(purpose Purpose, token string) (Ticket, error) {
	if len(token) != base64.RawURLEncoding.EncodedLen(tokenSize) {
		return Ticket{}, ErrBadToken
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(token)
	if err != nil || len(raw) != tokenSize {
		return Ticket{}, ErrBadToken
	}
	body, mac := raw[:tokenSize-macSize], raw[tokenSize-macSize:]
	for _, key := range k.keys {
		if !bytes.Equal(key.id[:], body[:keyIDSize]) {
			continue
		}
		if !hmac.Equal(mac, key.mac(purpose, body)) {
			continue
		}
		return Ticket{
			ID:      uuid.UUID(body[keyIDSize : keyIDSize+16]),
			Version: int(binary.BigEndian.Uint32(body[keyIDSize+16:])),
		}, nil
	}
	return Ticket{}, ErrBadToken
}

// ErrUnknownKey is the answer where a key is asked for that is not in the ring
// any more.
var ErrUnknownKey = errors.New("the installation's secret that this was made with is no longer in USHER_SECRET")

// ID names the key that signs now.
func (k *Keyring) ID() []byte { return bytes.Clone(k.keys[0].id[:]) }

// WebhookKey is what an endpoint's webhooks are signed with: 32 bytes made from
// the key of that id, the endpoint and the version of its secret, or
// ErrUnknownKey.
func (k *Keyring) WebhookKey(id []byte, endpoint uuid.UUID, version int) ([]byte, error) {
	for _, key := range k.keys {
		if bytes.Equal(key.id[:], id) {
			mac := hmac.New(sha256.New, key.webhook)
			mac.Write(binary.BigEndian.AppendUint32(endpoint[:], uint32(version)))
			return mac.Sum(nil), nil
		}
	}
	return nil, ErrUnknownKey
}

func (k signingKey) mac(purpose Purpose, body []byte) []byte {
	mac := hmac.New(sha256.New, k.secret)
	mac.Write([]byte(purpose))
	mac.Write([]byte{0})
	mac.Write(body)
	return mac.Sum(nil)[:macSize]
}

// Seal signs a short text for the holder's own browser, such as a cookie's
// value, under a purpose of its own.
func (k *Keyring) Seal(purpose Purpose, text string) string {
	return text + "." + base64.RawURLEncoding.EncodeToString(k.keys[0].mac(purpose, []byte(text)))
}

// Unseal gives back a text that Seal signed for that purpose, or ErrBadToken.
func (k *Keyring) Unseal(purpose Purpose, sealed string) (string, error) {
	dot := strings.LastIndexByte(sealed, '.')
	if dot < 0 {
		return "", ErrBadToken
	}
	// The text of the MAC is compared, not its bytes: base64 has many texts for
	// the same bytes, with line breaks in them.
	for _, key := range k.keys {
		mac := base64.RawURLEncoding.EncodeToString(key.mac(purpose, []byte(sealed[:dot])))
		if hmac.Equal([]byte(sealed[dot+1:]), []byte(mac)) {
			return sealed[:dot], nil
		}
	}
	return "", ErrBadToken
}
