package roster

import (
	"errors"
	"fmt"
	"time"
)

// Kind is what sort of trouble an Error is. Each transport has one table from
// it to its own status codes.
type Kind string

// The kinds of Error.
const (
	Invalid      Kind = "invalid"      // the request can never work as it is
	Unauthorized Kind = "unauthorized" // the caller did not prove who they are
	Forbidden    Kind = "forbidden"    // the actor may not do this
	NotFound     Kind = "not_found"    // no such thing in this app
	Conflict     Kind = "conflict"     // the state is another already
	Gone         Kind = "gone"         // too late
	TooSoon      Kind = "too_soon"     // a cool-down or a limit; RetryAt says until when
	Reused       Kind = "reused"       // an idempotency key came back with another request
)

// Error is an answer of the domain that a person is meant to read. Anything
// else an operation returns is a fault of ours or of the machine.
type Error struct {
	Kind    Kind
	Code    string // stable, for programs: "already_accepted"
	Message string // a sentence, for people
	Field   string // the input it is about, where there is one: "email"

	// What stands instead, for Conflict and Gone: the state, and when it was
	// decided.
	State     State      `json:",omitempty"`
	DecidedAt *time.Time `json:",omitempty"`
	RetryAt   *time.Time `json:",omitempty"` // when it will work, for TooSoon
}

func (e *Error) Error() string { return e.Message }

// errorf is an Error of a kind with a code.
func errorf(kind Kind, code, format string, args ...any) *Error {
	return &Error{Kind: kind, Code: code, Message: fmt.Sprintf(format, args...)}
}

// invalidField is the refusal of one input.
func invalidField(field, code, format string, args ...any) *Error {
	err := errorf(Invalid, code, format, args...)
	err.Field = field
	return err
}

// CodeOf is the code of err where it is an Error, "" otherwise.
func CodeOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

func notFound(what string) *Error {
	return errorf(NotFound, what+"_not_found", "There is no such %s in this app.", what)
}
