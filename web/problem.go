package web

import (
	"context"
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gofiber/fiber/v2"

	"usher/internal/roster"
)

// Problem is the body of every answer of the API that is not a success, after
// RFC 9457.
type Problem struct {
	Type      string          `json:"type" doc:"Always about:blank; tell problems apart by code."`
	Title     string          `json:"title" doc:"The status in words." example:"Conflict"`
	Status    int             `json:"status" doc:"The HTTP status." example:"409"`
	Code      string          `json:"code" doc:"What is wrong, for programs. Codes never change their meaning." example:"already_accepted"`
	Detail    string          `json:"detail" doc:"What is wrong and what to do, for people." example:"This invitation was already accepted."`
	Field     string          `json:"field,omitempty" doc:"The input it is about." example:"email"`
	State     string          `json:"state,omitempty" doc:"The state that stands instead, with 409 and 410." example:"accepted"`
	DecidedAt *time.Time      `json:"decided_at,omitempty" doc:"When that was decided."`
	RetryAt   *time.Time      `json:"retry_at,omitempty" doc:"When the same request can succeed, with 429."`
	Options   []requestOption `json:"options,omitempty" doc:"What can be done instead, with email_in_use: each a call that is ready to be made."`
	RequestID string          `json:"request_id,omitempty" doc:"Names this request in Usher's log."`
	Errors    []fieldError    `json:"errors,omitempty" doc:"Every input that does not fit, with validation_failed."`

	header http.Header
}

type fieldError struct {
	Location string `json:"location" example:"body.email"`
	Message  string `json:"message" example:"expected string"`
}

func (p *Problem) Error() string { return p.Code + ": " + p.Detail }

// GetStatus is the HTTP status, for huma.
func (p *Problem) GetStatus() int { return p.Status }

// GetHeaders are the headers that belong to the problem, for huma.
func (p *Problem) GetHeaders() http.Header { return p.header }

// ContentType is the media type of problems, for huma.
func (p *Problem) ContentType(string) string { return "application/problem+json" }

// statuses is the one table from the domain's errors to HTTP.
var statuses = map[roster.Kind]int{
	roster.Invalid:      http.StatusUnprocessableEntity,
	roster.Unauthorized: http.StatusUnauthorized,
	roster.Forbidden:    http.StatusForbidden,
	roster.NotFound:     http.StatusNotFound,
	roster.Conflict:     http.StatusConflict,
	roster.Gone:         http.StatusGone,
	roster.TooSoon:      http.StatusTooManyRequests,
	roster.Reused:       http.StatusUnprocessableEntity,
}

// plainCodes are the codes of answers that come from the HTTP layers below us.
var plainCodes = map[int]string{
	http.StatusBadRequest:            "request_malformed",
	http.StatusNotFound:              "route_not_found",
	http.StatusMethodNotAllowed:      "method_not_allowed",
	http.StatusNotAcceptable:         "not_acceptable",
	http.StatusRequestTimeout:        "request_timeout",
	http.StatusRequestEntityTooLarge: "body_too_large",
	http.StatusUnsupportedMediaType:  "media_type_unsupported",
	http.StatusUnprocessableEntity:   "validation_failed",
	http.StatusUnauthorized:          "log_in_needed",
	http.StatusForbidden:             "forbidden",
	http.StatusServiceUnavailable:    "overloaded",
	http.StatusGatewayTimeout:        "timeout",

	http.StatusRequestHeaderFieldsTooLarge: "headers_too_large",
}

// plainCode is the code for a status, "request_failed" for those nobody met yet.
func plainCode(status int) string {
	if code, ok := plainCodes[status]; ok {
		return code
	}
	return "request_failed"
}

func newProblem(status int, code, detail string) *Problem {
	return &Problem{Type: "about:blank", Title: http.StatusText(status), Status: status, Code: code, Detail: detail}
}

// fault is the answer where the trouble is ours: nothing of it is shown.
func fault(status int) *Problem {
	p := newProblem(status, "internal", "Something went wrong on our side. Try again; with the same Idempotency-Key nothing happens twice.")
	if status != http.StatusInternalServerError {
		p.Code = plainCodes[status]
		p.Detail = "Usher is too busy right now. Try again in a moment; with the same Idempotency-Key nothing happens twice."
		p.header = http.Header{"Retry-After": {"1"}}
	}
	return p
}

// problemOf turns any error into its answer. ours tells that it has to be
// logged: the caller is not told what it was.
func problemOf(err error) (p *Problem, ours bool) {
	var domain *roster.Error
	var plain *fiber.Error
	switch {
	case errors.As(err, &p):
		return p, false
	case errors.As(err, &domain):
		p = newProblem(statuses[domain.Kind], domain.Code, domain.Message)
		p.Field, p.State, p.DecidedAt, p.RetryAt = domain.Field, string(domain.State), domain.DecidedAt, domain.RetryAt
		if p.RetryAt != nil {
			p.header = http.Header{"Retry-After": {retryAfter(time.Until(*p.RetryAt))}}
		}
		return p, false
	case errors.As(err, &plain):
		detail := plain.Message
		if !strings.HasSuffix(detail, ".") {
			detail = http.StatusText(plain.Code) + "."
		}
		return newProblem(plain.Code, plainCode(plain.Code), detail), plain.Code >= 500
	case errors.Is(err, errOverloaded):
		return fault(http.StatusServiceUnavailable), false
	case isTimeout(err):
		return fault(http.StatusGatewayTimeout), true
	}
	return fault(http.StatusInternalServerError), true
}

func retryAfter(d time.Duration) string {
	return strconv.Itoa(max(1, int(math.Ceil(d.Seconds()))))
}

// answerError is the one place errors become answers outside the API's
// handlers: a problem for programs, a page for people.
func (s *Server) answerError(c *fiber.Ctx, err error) error {
	if requestID(c) == "" { // refused before the middleware saw it: it could not be read
		s.setCommonHeaders(c)
	}
	p, ours := problemOf(err)
	if ours {
		s.Log.Error().Err(err).Str("request_id", requestID(c)).Str("route", c.Route().Path).Msg("request failed")
	}
	for name, values := range p.header {
		c.Set(name, values[0])
	}
	c.Status(p.Status)
	// The first of them is for those who do not say.
	if c.Accepts(fiber.MIMEApplicationJSON, fiber.MIMETextHTML) == fiber.MIMETextHTML && !isAPI(c.Path()) {
		return s.render(c, messageView{frame: s.frame(c, Brand{}), Kind: messageProblem, Status: p.Status, Back: "/"})
	}
	answer := *p
	answer.RequestID = requestID(c)
	return c.JSON(answer, "application/problem+json")
}

func isAPI(path string) bool {
	return strings.HasPrefix(path, "/v1/") || path == "/openapi.json" || strings.HasPrefix(path, "/hooks/")
}

// humaError builds the problems that huma itself finds: bodies that cannot be
// read, inputs that do not fit. What was sent is not sent back: it may hold
// what does not belong into logs.
func humaError(status int, message string, errs ...error) huma.StatusError {
	p := newProblem(status, plainCode(status), "")
	if status >= 500 {
		return fault(http.StatusInternalServerError)
	}
	for _, err := range errs {
		var d *huma.ErrorDetail
		if errors.As(err, &d) {
			p.Errors = append(p.Errors, fieldError{d.Location, d.Message})
		} else if err != nil {
			p.Errors = append(p.Errors, fieldError{"", err.Error()})
		}
	}
	switch {
	case len(p.Errors) == 1:
		p.Detail = "This request does not fit: " + strings.TrimSpace(p.Errors[0].Location+" "+p.Errors[0].Message) + "."
	case len(p.Errors) > 1:
		p.Detail = "This request does not fit; see errors."
	default:
		p.Detail = strings.ToUpper(message[:min(1, len(message))]) + message[min(1, len(message)):] + "."
	}
	return p
}

// answerAPIError turns the error of an API handler into its problem.
func (s *Server) answerAPIError(ctx context.Context, err error) error {
	p, ours := problemOf(err)
	r := requestOf(ctx)
	if ours {
		s.Log.Error().Err(err).Str("request_id", r.id).Str("route", r.route).Msg("request failed")
	}
	answer := *p
	answer.RequestID = r.id
	return &answer
}
