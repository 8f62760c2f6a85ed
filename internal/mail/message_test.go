package mail

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"usher/internal/postgres"
	"usher/internal/postgres/postgrestest"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// desk is an Outbox whose clock stands until the test moves it, and an app
// whose messages it keeps.
type desk struct {
	*Outbox
	t   *testing.T
	db  database
	now time.Time
	app uuid.UUID
	way string // the row of the limiter
}

// database is a pool or a transaction.
type database interface {
	Begin(ctx context.Context) (pgx.Tx, error)
	Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error)
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// newDesk is a desk in a transaction that is undone in the end.
func newDesk(t *testing.T) *desk {
	t.Helper()
	return newDeskOn(t, postgrestest.Begin(t))
}

func newDeskOn(t *testing.T, db database) *desk {
	t.Helper()
	d := &desk{t: t, db: db, now: noon, app: uuid.Must(uuid.NewV7())}
	d.way = d.app.String()
	d.Outbox = &Outbox{DB: db, Now: func() time.Time { return d.now }}
	d.exec(`INSERT INTO pace (id, rate) VALUES ($1, 2)`, d.way)
	d.exec(`INSERT INTO app (id, name, created_at) VALUES ($1, 'Kindred', now())`, d.app)
	return d
}

func (d *desk) exec(sql string, args ...any) {
	d.t.Helper()
	if _, err := d.db.Exec(d.t.Context(), sql, args...); err != nil {
		d.t.Fatal(err)
	}
}

// value reads one value.
func value[T any](d *desk, sql string, args ...any) (v T) {
	d.t.Helper()
	if err := d.db.QueryRow(d.t.Context(), sql, args...).Scan(&v); err != nil {
		d.t.Fatal(err)
	}
	return v
}

// must ends the test where err is one.
func (d *desk) must(err error) {
	d.t.Helper()
	if err != nil {
		d.t.Fatal(err)
	}
}

// ask stores n messages that are due now, in the order of their ids.
func (d *desk) ask(lane Lane, n int) []uuid.UUID {
	d.t.Helper()
	ids := make([]uuid.UUID, n)
	for i := range ids {
		ids[i] = uuid.Must(uuid.NewV7())
	}
	slices.SortFunc(ids, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
	d.exec(`
		INSERT INTO message (id, app_id, kind, subject_id, purpose, args, lane, email_key, state, due_at, created_at)
		SELECT id, $2, 'invitation', gen_random_uuid(), 'v1:send:1', '{"version":1}', $3, 'ann@client.dev', 'queued', $4, $4
		FROM unnest($1::uuid[]) AS q (id)`, ids, d.app, lane, d.now)
	return ids
}

// claim takes what is due by the way named pace, until the transaction of o ends.
func claim(t *testing.T, o *Outbox, pace string, lane Lane) (taken []Message) {
	t.Helper()
	if err := postgres.Send(t.Context(), o.DB, func(batch *pgx.Batch) { o.Take(batch, pace, lane, &taken) }); err != nil {
		t.Fatal(err)
	}
	return taken
}

// take are the ids of what is due by the desk's way.
func (d *desk) take(lane Lane) []uuid.UUID {
	d.t.Helper()
	messages := claim(d.t, d.Outbox, d.way, lane)
	ids := make([]uuid.UUID, len(messages))
	for i, m := range messages {
		ids[i] = m.ID
	}
	return ids
}

// drafts are drafts of messages, each with a recipient of its own.
func drafts(ids []uuid.UUID) []Draft {
	all := make([]Draft, len(ids))
	for i, id := range ids {
		all[i] = Draft{
			ID: id, EmailKey: fmt.Sprintf("ann.%d@client.dev", i), Recipient: fmt.Sprintf("Ann.%d@client.dev", i),
			Sender: "Kindred Care <hello@kindred.dev>",
			Content: Content{
				Subject: fmt.Sprintf("Marie invites you – «today» %d", i),
				Text:    "Hello\nAnn <&>", HTML: "<p>Hello <b>Ann</b> &amp; all\u2028</p>",
				Headers: map[string]string{"Auto-Submitted": "auto-generated"},
			},
		}
	}
	return all
}

// freeze asks for n messages and makes them one dispatch.
func (d *desk) freeze(lane Lane, n int) (dispatch uuid.UUID, messages []uuid.UUID) {
	d.t.Helper()
	messages = d.ask(lane, n)
	dispatch, err := d.Freeze(d.t.Context(), lane, drafts(messages))
	d.must(err)
	return dispatch, messages
}

// begin opens an attempt that must be possible.
func (d *desk) begin(id uuid.UUID) Dispatch {
	d.t.Helper()
	dispatch, ok, err := d.Begin(d.t.Context(), id)
	d.must(err)
	if !ok {
		d.t.Fatalf("dispatch %s cannot be begun", id)
	}
	return dispatch
}

// begun freezes n messages and opens the first attempt.
func (d *desk) begun(n int) Dispatch {
	d.t.Helper()
	id, _ := d.freeze(interactive, n)
	return d.begin(id)
}

// stored is a message's row.
type stored struct {
	State      State
	Reason     string
	DueAt      *time.Time
	DispatchID *uuid.UUID
	EmailKey   string
	Sender     string
	Recipient  string
	Subject    string
	ProviderID string
	SettledAt  *time.Time
}

func (d *desk) message(id uuid.UUID) stored {
	d.t.Helper()
	rows, err := d.db.Query(d.t.Context(), `
		SELECT state, reason, due_at, dispatch_id, email_key, sender, recipient, subject, provider_id, settled_at
		FROM message WHERE id = $1`, id)
	d.must(err)
	m, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[stored])
	d.must(err)
	return m
}

// states are the states of messages, in their order.
func (d *desk) states(ids []uuid.UUID) []State {
	d.t.Helper()
	states := make([]State, len(ids))
	for i, id := range ids {
		states[i] = d.message(id).State
	}
	return states
}

// times is a state n times.
func times(n int, s State) []State { return slices.Repeat([]State{s}, n) }

// wantMessages compares the states of messages.
func (d *desk) wantMessages(ids []uuid.UUID, want ...State) {
	d.t.Helper()
	if have := d.states(ids); !slices.Equal(have, want) {
		d.t.Errorf("messages are %q, want %q", have, want)
	}
}

// wantDispatch compares where a dispatch stands, and sees that no other is kept
// than the bytes that may be sent again.
func (d *desk) wantDispatch(id uuid.UUID, state DispatchState, attempts, unknown int) {
	d.t.Helper()
	type row struct {
		State             DispatchState
		Attempts, Unknown int
		Settled           bool
	}
	rows, err := d.db.Query(d.t.Context(), `SELECT state, attempts, unknown, settled_at IS NOT NULL FROM dispatch WHERE id = $1`, id)
	d.must(err)
	have, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[row])
	d.must(err)
	if want := (row{state, attempts, unknown, state != Ready && state != DispatchSending}); have != want {
		d.t.Errorf("dispatch is %+v, want %+v", have, want)
	}
}
