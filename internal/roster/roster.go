// Package roster is Usher's domain: who invites whom to what, what people
// decided, and the rules that hold between these facts.
//
// An exported method is one operation in one transaction: it changes state,
// writes the event, and inserts the jobs the change causes, or does nothing.
// Every transition is decided by one conditional UPDATE; where it finds no row
// the operation re-reads and says why.
package roster

import (
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"usher/internal/postgres"
)

// Roster runs the domain's operations.
type Roster struct {
	DB   postgres.DB
	Jobs *river.Client[pgx.Tx]
	Now  func() time.Time
}

// In is the same Roster inside tx, for callers that join several operations in
// one transaction. An error of one of them has to end it.
func (r *Roster) In(tx pgx.Tx) *Roster {
	return &Roster{DB: postgres.Join(tx), Jobs: r.Jobs, Now: r.Now}
}

// now is the clock in the precision Postgres keeps, so that what was answered
// equals what is read back.
func (r *Roster) now() time.Time { return r.Now().UTC().Truncate(time.Microsecond) }

// newID is a UUIDv7: ids grow with time, so new rows sit together in every
// index and an id is a page cursor.
func newID() uuid.UUID { return uuid.Must(uuid.NewV7()) }
