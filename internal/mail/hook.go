package mail

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	webhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"usher/internal/postgres"
)

const (
	// clockBound is how far a webhook's time may lie from ours: a recorded
	// request is of no use to anybody for longer. Each retry is signed anew.
	clockBound = 5 * time.Minute

	// minHookKey is the least length of a secret, in bytes: the provider's have
	// 24 or more, and what is much shorter was cut off on its way here.
	minHookKey = 16

	// maxHookID and maxHookType bound the names we keep as they came, in bytes.
	maxHookID   = 128
	maxHookType = 64

	// maxSaid bounds what is kept of a mail server's words, in bytes.
	maxSaid = 500

	// secretPrefix begins every webhook secret.
	secretPrefix = "whsec_"
)

// QueueHooks holds what the provider told us.
const QueueHooks = "hooks"

// ApplyProviderEvent is the job that draws the consequences of a stored event.
type ApplyProviderEvent struct {
	ID string `json:"event_id"`
}

// Kind is the job's name in River.
func (ApplyProviderEvent) Kind() string { return "apply_provider_event" }

// InsertOpts say where the job waits.
func (ApplyProviderEvent) InsertOpts() river.InsertOpts { return river.InsertOpts{Queue: QueueHooks} }

// HookSecrets are the secrets that webhooks may be signed with: while one is
// replaced by another, both.
type HookSecrets []*webhooks.Webhook

// ParseHookSecrets reads a comma list of secrets, each "whsec_" and base64.
func ParseHookSecrets(list string) (HookSecrets, error) {
	var secrets HookSecrets
	for i, secret := range strings.Split(list, ",") {
		encoded, ok := strings.CutPrefix(strings.TrimSpace(secret), secretPrefix)
		key, err := base64.StdEncoding.DecodeString(encoded)
		if !ok || err != nil || len(key) < minHookKey {
			return nil, fmt.Errorf("secret %d is not complete: it begins with %q, and base64 follows", i+1, secretPrefix)
		}
		hook, err := webhooks.NewWebhookRaw(key)
		if err != nil {
			return nil, fmt.Errorf("read secret %d: %w", i+1, err)
		}
		secrets = append(secrets, hook)
	}
	return secrets, nil
}

// ErrUnsigned refuses a webhook that the provider did not sign, or not now.
var ErrUnsigned = errors.New("the signature does not fit the body, or its time is more than five minutes from ours")

// ErrUnreadable refuses a signed webhook that is no event.
var ErrUnreadable = errors.New("the body is not a JSON object with a type")

// ProviderEvent is one thing the provider told us about a mail.
type ProviderEvent struct {
	ID         string    // the same for every delivery of one event
	Type       string    // "email.bounced"
	MessageID  uuid.UUID // from the mail's tag; Nil: it has none, so it is not ours
	ProviderID string    // of the mail
	At         time.Time // when it happened, by the provider's clock
	Said       Said
}

// Said is what is kept of an event's body: what the bounce table asks for, what
// a person may be told, and the Message-ID that answers refer to. Everything
// else, the mail's content and people's addresses first of all, is dropped.
type Said struct {
	MessageID string `json:"message_id,omitempty"` // RFC 5322
	Bounce    struct {
		Type       string `json:"type,omitempty"`
		SubType    string `json:"subType,omitempty"`
		Message    string `json:"message,omitempty"`
		Diagnostic words  `json:"diagnosticCode,omitempty"`
	} `json:"bounce,omitzero"`
	Failed struct {
		Reason string `json:"reason,omitempty"`
	} `json:"failed,omitzero"`
	Suppressed struct {
		Type    string `json:"type,omitempty"`
		Reason  string `json:"reason,omitempty"`
		Message string `json:"message,omitempty"`
	} `json:"suppressed,omitzero"`
}

// words are one text or a list of them.
type words []string

// UnmarshalJSON takes "a" for ["a"].
func (w *words) UnmarshalJSON(raw []byte) error {
	var one string
	if json.Unmarshal(raw, &one) == nil {
		*w = words{one}
		return nil
	}
	return json.Unmarshal(raw, (*[]string)(w))
}

// Open verifies a webhook over its body as it came, and reads it. header gives
// a header's value by its name. Of what a body says more, or otherwise than
// expected, nothing is read; only one without a type is refused.
func (s HookSecrets) Open(header func(string) string, body []byte, now time.Time) (e ProviderEvent, err error) {
	e.ID = header("svix-id")
	stamp := header("svix-timestamp")
	seconds, err := strconv.ParseInt(stamp, 10, 64)
	if err != nil || e.ID == "" || len(e.ID) > maxHookID || now.Sub(time.Unix(seconds, 0)).Abs() > clockBound {
		return e, ErrUnsigned
	}
	signed := http.Header{}
	signed.Set(webhooks.HeaderWebhookID, e.ID)
	signed.Set(webhooks.HeaderWebhookTimestamp, stamp)
	signed.Set(webhooks.HeaderWebhookSignature, header("svix-signature"))
	for _, secret := range s {
		if secret.VerifyIgnoringTimestamp(body, signed) == nil { // the library's own check knows no clock but the machine's
			return e, e.read(body, now)
		}
	}
	return e, ErrUnsigned
}

// read takes from the body what is kept. Each part is read by itself, so that
// one of another shape does not hide the others.
func (e *ProviderEvent) read(body []byte, now time.Time) error {
	var envelope struct {
		Type string
		At   json.RawMessage            `json:"created_at"`
		Data map[string]json.RawMessage `json:"data"`
	}
	// Data of another shape leaves the rest readable.
	if err := json.Unmarshal(body, &envelope); err != nil && !isShape(err) || len(envelope.Type) > maxHookType {
		return ErrUnreadable
	}
	if e.Type = clean(envelope.Type); e.Type == "" {
		return ErrUnreadable
	}
	// An event without a time happened when we heard of it; none happened later.
	if json.Unmarshal(envelope.At, &e.At) != nil || e.At.IsZero() || e.At.After(now) {
		e.At = now
	}
	e.At = e.At.UTC().Truncate(time.Microsecond)
	take := func(name string, into any) { _ = json.Unmarshal(envelope.Data[name], into) }
	take("email_id", &e.ProviderID)
	take("message_id", &e.Said.MessageID)
	take("bounce", &e.Said.Bounce)
	take("failed", &e.Said.Failed)
	take("suppressed", &e.Said.Suppressed)
	e.MessageID = messageTag(envelope.Data["tags"])
	e.ProviderID = clean(e.ProviderID)
	e.Said.clean()
	return nil
}

func isShape(err error) bool {
	var shape *json.UnmarshalTypeError
	return errors.As(err, &shape)
}

// messageTag is the message's id in a mail's tags: an object, or a list of
// names and values, as they are written when the mail is sent.
func messageTag(tags json.RawMessage) uuid.UUID {
	var object map[string]json.RawMessage
	var list []struct{ Name, Value string }
	value := ""
	if json.Unmarshal(tags, &object) == nil {
		_ = json.Unmarshal(object[tagMessage], &value)
	} else if json.Unmarshal(tags, &list) == nil {
		for _, tag := range list {
			if tag.Name == tagMessage {
				value = tag.Value
			}
		}
	}
	id, err := uuid.Parse(value)
	if err != nil {
		return uuid.Nil
	}
	return id
}

func (s *Said) clean() {
	if len(s.Bounce.Diagnostic) > 1 {
		s.Bounce.Diagnostic = s.Bounce.Diagnostic[:1] // one recipient, one answer
	}
	for i := range s.Bounce.Diagnostic {
		s.Bounce.Diagnostic[i] = clean(s.Bounce.Diagnostic[i])
	}
	for _, text := range []*string{
		&s.MessageID, &s.Bounce.Type, &s.Bounce.SubType, &s.Bounce.Message,
		&s.Failed.Reason, &s.Suppressed.Type, &s.Suppressed.Reason, &s.Suppressed.Message,
	} {
		*text = clean(*text)
	}
}

// clean makes one short line of a stranger's text.
func clean(text string) string {
	text = strings.Join(strings.FieldsFunc(text, func(r rune) bool { return r <= ' ' || r == 0x7f }), " ")
	if len(text) > maxSaid {
		text = strings.ToValidUTF8(text[:maxSaid], "")
	}
	return text
}

// Hook stores what the provider tells us.
type Hook struct {
	DB      postgres.DB
	Jobs    *river.Client[pgx.Tx]
	Now     func() time.Time
	Secrets HookSecrets
}

// Reception is what became of a webhook.
type Reception string

// The receptions.
const (
	Stored  Reception = "stored"
	Known   Reception = "known"   // it came before
	NotOurs Reception = "foreign" // about mail that Usher did not send
)

// Receive verifies a webhook and stores it, with the job that will work it. An
// event about mail of somebody else who uses the same provider's account is
// not kept. That is known at once: a message is committed before it is sent.
func (h *Hook) Receive(ctx context.Context, header func(string) string, body []byte) (reception Reception, err error) {
	now := h.Now().UTC().Truncate(time.Microsecond)
	e, err := h.Secrets.Open(header, body, now)
	if err != nil {
		return "", err
	}
	if e.MessageID == uuid.Nil {
		return NotOurs, nil
	}
	reception = NotOurs
	err = postgres.InTx(ctx, h.DB, func(tx pgx.Tx) error {
		var ours, stored bool
		if err := tx.QueryRow(ctx, `
			WITH ours AS (
				SELECT id FROM message WHERE id = $3
			), stored AS (
				INSERT INTO provider_event (id, type, message_id, provider_id, body, at, received_at)
				SELECT $1, $2, id, $4, $5, $6, $7 FROM ours
				ON CONFLICT (id) DO NOTHING
				RETURNING 1
			)
			SELECT EXISTS (SELECT FROM ours), EXISTS (SELECT FROM stored)`,
			e.ID, e.Type, e.MessageID, e.ProviderID, e.Said, e.At, now).Scan(&ours, &stored); err != nil {
			return fmt.Errorf("store provider event %s: %w", e.ID, err)
		}
		switch {
		case !ours:
			return nil
		case !stored:
			reception = Known
			return nil
		}
		reception = Stored
		if _, err := h.Jobs.InsertTx(ctx, tx, ApplyProviderEvent{ID: e.ID}, nil); err != nil {
			return fmt.Errorf("insert job for provider event %s: %w", e.ID, err)
		}
		return nil
	})
	if err != nil {
		return "", err
	}
	return reception, nil
}
