// Package mail writes messages, freezes them into requests to the provider, and
// sends each of them once in effect. doc.go tells how.
package mail

import (
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

// State is where a message stands.
type State string

// The states of a message.
const (
	Queued     State = "queued"     // asked for
	Held       State = "held"       // waits until something is mended
	Sending    State = "sending"    // frozen; the provider may or may not have it
	Accepted   State = "accepted"   // the provider has it
	Delayed    State = "delayed"    // the recipient's server does not take it yet
	Delivered  State = "delivered"  // the recipient's server took it
	Bounced    State = "bounced"    // the recipient's server refused it
	Complained State = "complained" // the recipient called it spam
	Suppressed State = "suppressed" // not sent: the address bounced or complained before
	Failed     State = "failed"     // the provider refused it for good
	Cancelled  State = "cancelled"  // not sent: it was no longer wanted
	Uncertain  State = "uncertain"  // nobody knows, and trying again could send it twice
)

// Lane is a way to the provider; see roster.Lane.
type Lane string

// interactive is the lane that goes first.
const interactive Lane = "interactive"

// Message is one e-mail that waits to be written.
type Message struct {
	ID        uuid.UUID // travels with the mail as its tag message_id
	AppID     uuid.UUID
	Kind      string
	SubjectID uuid.UUID
	Purpose   string
	Args      []byte // JSON
	Lane      Lane
	EmailKey  string
}

// Draft is a message as it was written, ready to be frozen.
type Draft struct {
	ID        uuid.UUID // the message's
	EmailKey  string    // of the recipient, as compared
	Sender    string    // "Name <address>"
	Recipient string
	Content
}

// Outbox keeps messages and dispatches.
type Outbox struct {
	DB  postgres.DB
	Now func() time.Time
}

// In is the same Outbox inside tx, which an error has to end.
func (o *Outbox) In(tx pgx.Tx) *Outbox { return &Outbox{DB: postgres.Join(tx), Now: o.Now} }

// now is the clock in the precision Postgres keeps.
func (o *Outbox) now() time.Time { return o.Now().UTC().Truncate(time.Microsecond) }
