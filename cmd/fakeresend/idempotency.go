package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"time"
)

const (
	// keyLife is how long Resend remembers an idempotency key.
	keyLife = 24 * time.Hour
	// maxKeyLen is the longest key Resend takes, in characters.
	maxKeyLen = 256
)

// How far a key reaches. Resend does not say, so clients must work with both.
const (
	scopeEndpoint = "endpoint" // the same key on /emails and on /emails/batch is two keys
	scopeTeam     = "team"
)

// scopedKey is an idempotency key with the method and path it belongs to,
// empty if it reaches further.
type scopedKey struct{ Scope, Key string }

// remembered is a key in use: in flight while reply is nil.
type remembered struct {
	hash  string
	since time.Time
	reply *reply
}

// keyring holds the idempotency keys. Of a refused request the answer is kept
// only if asked to; else it frees its key, so that the caller may mend and
// repeat it.
type keyring map[scopedKey]*remembered

// claim asks to use key for a payload with this hash at now. It returns the
// key's record, or why the key cannot be used. A record without a reply is the
// caller's claim, to be settled; one with a reply is to be answered again.
func (k keyring) claim(key scopedKey, hash string, now time.Time) (*remembered, *apiError) {
	switch r := k[key]; {
	case r == nil, now.Sub(r.since) >= keyLife:
		k[key] = &remembered{hash: hash, since: now}
		return k[key], nil
	case r.hash != hash:
		return nil, errInvalidIdempotentRequest
	case r.reply == nil:
		return nil, errConcurrentIdempotentRequests
	default:
		return r, nil
	}
}

// settle ends a claim with the reply to repeat, or frees the key if there is
// none. A claim that a reset forgot meanwhile stays forgotten.
func (k keyring) settle(key scopedKey, claim *remembered, a *reply) {
	switch {
	case k[key] != claim:
	case a == nil:
		delete(k, key)
	default:
		claim.reply = a
	}
}

// How payloads under one key are compared. Resend does not document which it
// does, so that clients must work with both.
const (
	compareBytes     = "bytes"     // two spellings of the same JSON differ
	compareCanonical = "canonical" // order of fields and white space do not matter
)

// payloadHash is the fingerprint by which two payloads are compared.
func payloadHash(body []byte, compare string) string {
	if compare == compareCanonical {
		dec := json.NewDecoder(bytes.NewReader(body))
		dec.UseNumber()
		var v any
		if dec.Decode(&v) == nil {
			body, _ = json.Marshal(v) // what JSON gave, JSON takes
		}
	}
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}
