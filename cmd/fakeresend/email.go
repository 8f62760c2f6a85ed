package main

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/mail"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"time"
)

// Limits of Resend's API.
const (
	maxRecipients     = 50
	maxTags           = 75
	maxBatch          = 100
	maxAttachmentSize = 40 << 20 // bytes over all attachments, after base64
)

// email is an accepted mail, as the admin API shows it and the journal keeps
// it.
type email struct {
	ID             string            `json:"id"`
	From           string            `json:"from"`
	To             []string          `json:"to"`
	Cc             []string          `json:"cc"`
	Bcc            []string          `json:"bcc"`
	ReplyTo        []string          `json:"reply_to"`
	Subject        string            `json:"subject"`
	HTML           jsonText          `json:"html"`
	Text           jsonText          `json:"text"`
	Headers        map[string]string `json:"headers"`
	Tags           []tag             `json:"tags"`
	Attachments    []attachment      `json:"attachments"`
	IdempotencyKey string            `json:"idempotency_key"`
	AcceptedAt     time.Time         `json:"accepted_at"`
	Answered       bool              `json:"answered"` // an answer with its id was written in full
	Events         []*event          `json:"events,omitempty"`

	plan []step // what happens to it
}

type tag struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// attachment is what is kept of one; its content is not.
type attachment struct {
	Filename    string `json:"filename"`
	ContentType string `json:"content_type"`
	Bytes       int    `json:"bytes"`
}

// messageID is the value of the tag by which the ledger groups mails.
func (e *email) messageID() string {
	for _, t := range e.Tags {
		if t.Name == "message_id" {
			return t.Value
		}
	}
	return ""
}

// headerID is the mail's Message-ID header.
func (e *email) headerID() string { return "<" + e.ID + "@fakeresend.test>" }

// recipients is where the mail goes, in whatever field, as bare addresses.
func (e *email) recipients() []string { return bareAddresses(e.To, e.Cc, e.Bcc) }

// bareAddresses returns the addresses in the lists, each once.
func bareAddresses(lists ...[]string) []string {
	var all []string
	for _, s := range slices.Concat(lists...) {
		all = addOnce(all, bareAddress(s))
	}
	return all
}

// bareAddress is a@b.dev for "a@b.dev", "A@B.dev" and "Ann <a@b.dev>".
func bareAddress(s string) string {
	if a, err := mail.ParseAddress(s); err == nil {
		s = a.Address
	}
	return strings.ToLower(strings.TrimSpace(s))
}

// emailRequest is the body of POST /emails and one item of a batch. Fields
// that are not listed are ignored.
type emailRequest struct {
	From        string              `json:"from"`
	To          stringList          `json:"to"`
	Cc          stringList          `json:"cc"`
	Bcc         stringList          `json:"bcc"`
	ReplyTo     stringList          `json:"reply_to"`
	Subject     string              `json:"subject"`
	HTML        jsonText            `json:"html"`
	Text        jsonText            `json:"text"`
	Headers     map[string]string   `json:"headers"`
	Tags        []tag               `json:"tags"`
	Attachments []attachmentRequest `json:"attachments"`
	ScheduledAt string              `json:"scheduled_at"`
}

type attachmentRequest struct {
	Filename    string          `json:"filename"`
	ContentType string          `json:"content_type"`
	Path        string          `json:"path"`
	Content     json.RawMessage `json:"content"` // base64, or an array of byte values
}

// jsonText is a text as JSON has it, quotes and all; nil: an empty one. The
// long parts of a mail are kept so and decoded for those who look at them.
type jsonText []byte

func (t *jsonText) UnmarshalJSON(data []byte) error {
	switch {
	case string(data) == "null" || string(data) == `""`:
		*t = nil
	case data[0] != '"':
		return &json.UnmarshalTypeError{Value: "other type", Type: reflect.TypeFor[string]()} // encoding/json adds the field
	default:
		*t = bytes.Clone(data)
	}
	return nil
}

// MarshalJSON gives back what came.
func (t jsonText) MarshalJSON() ([]byte, error) { //nolint:unparam // as json.Marshaler has it
	if t == nil {
		return []byte(`""`), nil
	}
	return t, nil
}

func (t jsonText) String() string {
	var s string
	_ = json.Unmarshal(t, &s) // nil leaves it empty; all else was read from JSON
	return s
}

// stringList is a string or a list of strings.
type stringList []string

func (l *stringList) UnmarshalJSON(data []byte) error {
	var many []string
	if json.Unmarshal(data, &many) == nil {
		*l = many
		return nil
	}
	var one string
	if json.Unmarshal(data, &one) != nil {
		return &json.UnmarshalTypeError{Value: "other type", Type: reflect.TypeFor[stringList]()} // encoding/json adds the field
	}
	*l = stringList{one}
	return nil
}

// parseEmail reads and checks one mail. The mail has no id and no time yet.
func parseEmail(data []byte) (*email, *apiError) {
	var req emailRequest
	if err := json.Unmarshal(data, &req); err != nil {
		var wrong *json.UnmarshalTypeError
		switch {
		case !json.Valid(data):
			return nil, errNotJSON
		case errors.As(err, &wrong) && wrong.Field != "":
			return nil, invalid("Invalid `%s` field. It has the wrong type.", wrong.Field)
		default:
			return nil, invalid("Invalid mail: it is not a JSON object.")
		}
	}
	return req.check()
}

// parsed is a mail, or why it is none.
type parsed struct {
	email *email
	err   *apiError
}

// parseMails reads and checks the mails of a request that is a batch or one
// mail. It leaves out what is wrong with the request as a whole.
func parseMails(batch bool, data []byte) []parsed {
	if !batch {
		e, err := parseEmail(data)
		return []parsed{{e, err}}
	}
	list, _ := parseBatch(data)
	return list
}

// parseBatch reads and checks the mails of a batch. What is wrong with one of
// them leaves the others as they are.
func parseBatch(data []byte) ([]parsed, *apiError) {
	var requests []emailRequest
	var items []json.RawMessage
	// A batch whose fields have the right types, as nearly all have, is read
	// in one pass.
	err := json.Unmarshal(data, &requests)
	var syntax *json.SyntaxError
	switch {
	case errors.As(err, &syntax):
		return nil, errNotJSON
	case err != nil && json.Unmarshal(data, &items) != nil:
		return nil, invalid("The request body must be an array of emails.")
	case err != nil:
		requests = nil
	}
	n := len(requests) + len(items)
	if n == 0 || n > maxBatch {
		return nil, invalid("A batch takes between 1 and %d emails.", maxBatch)
	}
	list := make([]parsed, n)
	for i := range requests {
		list[i].email, list[i].err = requests[i].check()
	}
	for i, item := range items {
		list[i].email, list[i].err = parseEmail(item)
	}
	for i := range list {
		if list[i].err == nil && len(list[i].email.Attachments) > 0 {
			list[i].err = invalid("Invalid `attachments` field. A batch takes no attachments.")
		}
	}
	return list, nil
}

var (
	tagText    = regexp.MustCompile(`^[A-Za-z0-9_-]{1,256}$`)
	headerName = regexp.MustCompile("^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")
)

// check returns the mail, or the first thing Resend would refuse it for.
func (r *emailRequest) check() (*email, *apiError) {
	switch {
	case r.From == "":
		return nil, missing("from")
	case len(r.To) == 0:
		return nil, missing("to")
	case r.Subject == "":
		return nil, missing("subject")
	case r.HTML == nil && r.Text == nil:
		return nil, &apiError{http.StatusUnprocessableEntity, "missing_required_field", "Missing `html` or `text` field."}
	case strings.ContainsAny(r.Subject, "\r\n\x00"):
		return nil, invalid("Invalid `subject` field. Line breaks are not allowed.")
	case r.ScheduledAt != "":
		return nil, invalid("Invalid `scheduled_at` field. This stand-in schedules nothing.")
	case len(r.Tags) > maxTags:
		return nil, invalid("Invalid `tags` field. At most %d tags are allowed.", maxTags)
	}
	for _, f := range []struct {
		name string
		list []string
	}{{"from", []string{r.From}}, {"to", r.To}, {"cc", r.Cc}, {"bcc", r.Bcc}, {"reply_to", r.ReplyTo}} {
		if err := checkAddresses(f.name, f.list); err != nil {
			return nil, err
		}
	}
	for _, t := range r.Tags {
		if !tagText.MatchString(t.Name) || !tagText.MatchString(t.Value) {
			return nil, invalid("Invalid `tags` field. Tags should only contain ASCII letters, numbers, underscores, or dashes, at most 256 of them.")
		}
	}
	for name, value := range r.Headers {
		if !headerName.MatchString(name) || strings.ContainsAny(value, "\r\n\x00") {
			return nil, invalid("Invalid `headers` field. %q is no header.", name)
		}
	}
	attachments, err := checkAttachments(r.Attachments)
	if err != nil {
		return nil, err
	}
	return &email{
		From: r.From, To: orEmpty(r.To), Cc: orEmpty(r.Cc), Bcc: orEmpty(r.Bcc), ReplyTo: orEmpty(r.ReplyTo),
		Subject: r.Subject, HTML: r.HTML, Text: r.Text,
		Headers: r.Headers, Tags: orEmpty(r.Tags), Attachments: orEmpty(attachments),
	}, nil
}

// orEmpty makes a missing list show as [] rather than null.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func checkAddresses(field string, list []string) *apiError {
	if len(list) > maxRecipients {
		return invalid("Invalid `%s` field. At most %d addresses are allowed.", field, maxRecipients)
	}
	for _, s := range list {
		a, err := mail.ParseAddress(s)
		if err != nil || strings.ContainsAny(s, "\r\n\x00") {
			return invalid("Invalid `%s` field. The email address needs to follow the `email@example.com` or `Name <email@example.com>` format.", field)
		}
		_, domain, _ := strings.Cut(a.Address, "@")
		if field == "from" || field == "reply_to" {
			continue
		}
		if strings.EqualFold(domain, "example.com") || strings.EqualFold(domain, "test.com") {
			return invalid("Invalid `%s` field. Please use our testing email address instead of domains like `%s`.", field, strings.ToLower(domain))
		}
	}
	return nil
}

func checkAttachments(list []attachmentRequest) ([]attachment, *apiError) {
	var kept []attachment
	total := 0
	for _, a := range list {
		size, encoded, err := a.size()
		if err != nil {
			return nil, &apiError{http.StatusUnprocessableEntity, "invalid_attachment", "Invalid attachment: " + err.Error() + "."}
		}
		if total += encoded; total > maxAttachmentSize {
			return nil, &apiError{http.StatusUnprocessableEntity, "invalid_attachment", "Attachments exceed 40 MB after base64."}
		}
		kept = append(kept, attachment{Filename: a.Filename, ContentType: a.ContentType, Bytes: size})
	}
	return kept, nil
}

// size returns how long the content is, plain and as base64. A path is not
// fetched and counts nothing.
func (a *attachmentRequest) size() (plain, encoded int, err error) {
	if len(a.Content) == 0 {
		if a.Path == "" {
			return 0, 0, errors.New("it needs a `content` or a `path`")
		}
		return 0, 0, nil
	}
	var text string
	if json.Unmarshal(a.Content, &text) == nil {
		data, err := base64.StdEncoding.DecodeString(text)
		if err != nil {
			return 0, 0, errors.New("its `content` is not base64")
		}
		return len(data), len(text), nil
	}
	var values []uint16 // an array of []uint8 would be base64 to encoding/json
	if json.Unmarshal(a.Content, &values) != nil {
		return 0, 0, errors.New("its `content` is neither base64 nor bytes")
	}
	return len(values), base64.StdEncoding.EncodedLen(len(values)), nil
}

// apiError is a refusal. Its JSON is exactly Resend's error body.
type apiError struct {
	StatusCode int    `json:"statusCode"`
	Name       string `json:"name"`
	Message    string `json:"message"`
}

func invalid(format string, args ...any) *apiError {
	return &apiError{http.StatusUnprocessableEntity, "validation_error", fmt.Sprintf(format, args...)}
}

func missing(field string) *apiError {
	return &apiError{http.StatusUnprocessableEntity, "missing_required_field", "Missing `" + field + "` field."}
}

var (
	errMissingAPIKey                = &apiError{http.StatusUnauthorized, "missing_api_key", "Missing API key in the authorization header."}
	errInvalidAPIKey                = &apiError{http.StatusForbidden, "invalid_api_key", "API key is invalid."}
	errNotFound                     = &apiError{http.StatusNotFound, "not_found", "The requested endpoint does not exist."}
	errEmailNotFound                = &apiError{http.StatusNotFound, "not_found", "Email not found."}
	errMethodNotAllowed             = &apiError{http.StatusMethodNotAllowed, "method_not_allowed", "This endpoint does not support the specified HTTP method."}
	errNotJSON                      = &apiError{http.StatusBadRequest, "validation_error", "The request body is not valid JSON."}
	errTooLarge                     = &apiError{http.StatusRequestEntityTooLarge, "validation_error", "The request body is too large."}
	errInvalidIdempotencyKey        = &apiError{http.StatusBadRequest, "invalid_idempotency_key", "The key must be between 1-256 chars."}
	errInvalidIdempotentRequest     = &apiError{http.StatusConflict, "invalid_idempotent_request", "This idempotency key was used with another request body in the last 24 hours."}
	errConcurrentIdempotentRequests = &apiError{http.StatusConflict, "concurrent_idempotent_requests", "Another request with this idempotency key is still in progress."}
	errDailyQuota                   = &apiError{http.StatusTooManyRequests, "daily_quota_exceeded", "You have reached your daily email sending quota."}
	errMonthlyQuota                 = &apiError{http.StatusTooManyRequests, "monthly_quota_exceeded", "You have reached your monthly email sending quota."}
	errSuppressionNotFound          = &apiError{http.StatusNotFound, "not_found", "Suppression not found"}
	errInternal                     = &apiError{http.StatusInternalServerError, "internal_server_error", "An unexpected error occurred."}
)
