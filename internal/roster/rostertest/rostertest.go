// Package rostertest gives tests a Roster with an app in which there is
// somebody to invite people, and something to invite them to.
package rostertest

import (
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"

	"usher/internal/postgres"
	"usher/internal/postgres/postgrestest"
	"usher/internal/roster"
)

// Bundle is a Roster, its clock, and an app with the people a test needs.
type Bundle struct {
	*roster.Roster
	Clock *Clock

	App       roster.App
	Company   roster.Company
	Workspace roster.Workspace // of Company

	Admin       roster.Account // of Company; in no workspace
	Stakeholder roster.Account // of Workspace; in no company
	Outsider    roster.Account // a professional without any part in this
}

// Begin returns a Bundle over one transaction, which is rolled back when the
// test ends. It cannot be used by two goroutines at once.
func Begin(t testing.TB) *Bundle {
	t.Helper()
	return open(t, postgrestest.Begin(t))
}

// Database returns a Bundle over a database of its own, for tests of what only
// committed transactions of several connections show.
func Database(t testing.TB) (*Bundle, *pgxpool.Pool) {
	t.Helper()
	pool := postgrestest.Database(t)
	return open(t, pool), pool
}

// Over returns a Bundle over a database the test has opened in its own way.
func Over(t testing.TB, db postgres.DB) *Bundle {
	t.Helper()
	return open(t, db)
}

// open fills db with one app.
func open(t testing.TB, db postgres.DB) *Bundle {
	t.Helper()
	// A whole second keeps times readable where they are printed.
	clock := &Clock{now: time.Date(2026, 3, 2, 9, 0, 0, 0, time.UTC)}
	return app(t, &roster.Roster{DB: db, Jobs: inserter(t), Now: clock.Now}, clock)
}

// inserter is a client that only inserts jobs into transactions it is given.
func inserter(t testing.TB) *river.Client[pgx.Tx] {
	t.Helper()
	client, err := river.NewClient(riverpgxv5.New(nil), &river.Config{SkipUnknownJobCheck: true})
	if err != nil {
		t.Fatalf("make job inserter: %v", err)
	}
	return client
}

// Another is a Bundle with another app over the same database and clock.
func (b *Bundle) Another(t testing.TB) *Bundle {
	t.Helper()
	return app(t, b.Roster, b.Clock)
}

// At is the same Bundle with a clock of its own, which shows at.
func (b *Bundle) At(at time.Time) *Bundle {
	c := *b
	c.Clock = &Clock{now: at}
	c.Roster = &roster.Roster{DB: b.DB, Jobs: b.Jobs, Now: c.Clock.Now}
	return &c
}

func app(t testing.TB, r *roster.Roster, clock *Clock) *Bundle {
	t.Helper()
	ctx := t.Context()
	b := &Bundle{Roster: r, Clock: clock}
	var err error
	if b.App, err = r.CreateApp(ctx, roster.NewApp{Name: "Practice", URL: "https://practice.example", TimeZone: "Europe/Madrid"}); err != nil {
		t.Fatal(err)
	}
	if b.Company, err = r.CreateCompany(ctx, b.App.ID, "Green Valley", "", roster.IdempotencyKey{}); err != nil {
		t.Fatal(err)
	}
	b.Admin = b.NewAccount(t, roster.Professional, "Ada Admin", "ada@greenvalley.example")
	b.Stakeholder = b.NewAccount(t, roster.Professional, "Stan Holder", "stan@greenvalley.example")
	b.Outsider = b.NewAccount(t, roster.Professional, "Olga Other", "olga@elsewhere.example")
	if err := r.SetCompanyMember(ctx, b.App.ID, b.Company.ID, b.Admin.ID, roster.RoleAdmin, roster.IdempotencyKey{}); err != nil {
		t.Fatal(err)
	}
	b.Workspace = b.NewWorkspace(t, "Ann's file")
	return b
}

// NewAccount adds an account to the bundle's app.
func (b *Bundle) NewAccount(t testing.TB, kind, name, email string) roster.Account {
	t.Helper()
	account, err := b.CreateAccount(t.Context(), b.App.ID, roster.NewAccount{Kind: kind, FullName: name, Email: email}, roster.IdempotencyKey{})
	if err != nil {
		t.Fatalf("create account %s: %v", email, err)
	}
	return account
}

// NewWorkspace adds a workspace to the bundle's company, with its stakeholder.
func (b *Bundle) NewWorkspace(t testing.TB, name string) roster.Workspace {
	t.Helper()
	workspace, err := b.CreateWorkspace(t.Context(), b.App.ID, roster.NewWorkspace{CompanyID: b.Company.ID, Name: name, OwnerID: b.Stakeholder.ID}, roster.IdempotencyKey{})
	if err != nil {
		t.Fatalf("create workspace %s: %v", name, err)
	}
	return workspace
}

// Row is a good request by the stakeholder to invite email to the workspace,
// with a mail.
func (b *Bundle) Row(email string) roster.NewInvitation {
	return roster.NewInvitation{
		AppID: b.App.ID, ActorID: b.Stakeholder.ID, WorkspaceID: b.Workspace.ID,
		Kind: roster.KindNewUser, Email: email, FullName: "Ann Example", Notify: true,
	}
}

// Create answers rows.
func (b *Bundle) Create(t testing.TB, rows ...roster.NewInvitation) []roster.CreateOutcome {
	t.Helper()
	out, err := b.CreateInvitations(t.Context(), rows)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Invite makes the new invitation of Row(email).
func (b *Bundle) Invite(t testing.TB, email string) roster.Invitation {
	t.Helper()
	out := b.Create(t, b.Row(email))[0]
	if out.Err != nil {
		t.Fatalf("invite %s: %v", email, out.Err)
	}
	if out.Duplicate || out.AlreadyMember {
		t.Fatalf("invite %s: no new invitation, but %+v", email, out.Created)
	}
	return out.Invitation
}

// Exec runs one statement.
func (b *Bundle) Exec(t testing.TB, sql string, args ...any) {
	t.Helper()
	if err := postgres.InTx(t.Context(), b.DB, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), sql, args...)
		return err
	}); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// Column runs a query of one column.
func Column[T any](t testing.TB, b *Bundle, sql string, args ...any) (values []T) {
	t.Helper()
	if err := postgres.InTx(t.Context(), b.DB, func(tx pgx.Tx) error {
		rows, err := tx.Query(t.Context(), sql, args...)
		if err != nil {
			return err
		}
		values, err = pgx.CollectRows(rows, pgx.RowTo[T])
		return err
	}); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
	return values
}

// Value runs a query of one value.
func Value[T any](t testing.TB, b *Bundle, sql string, args ...any) T {
	t.Helper()
	values := Column[T](t, b, sql, args...)
	if len(values) != 1 {
		t.Fatalf("%s: %d rows, want 1", sql, len(values))
	}
	return values[0]
}

// Events are the types of what happened to an invitation, oldest first,
// without "invitation.".
func (b *Bundle) Events(t testing.TB, invitation uuid.UUID) []string {
	t.Helper()
	return Column[string](t, b, `SELECT replace(type, 'invitation.', '') FROM event WHERE subject_id = $1 ORDER BY id`, invitation)
}

// Mails are the mails asked for about a subject, oldest first.
func (b *Bundle) Mails(t testing.TB, subject uuid.UUID) (mails []roster.Mail) {
	t.Helper()
	if err := postgres.InTx(t.Context(), b.DB, func(tx pgx.Tx) error {
		rows, err := tx.Query(t.Context(), `
			SELECT id, app_id, kind, subject_id, purpose, args, lane, email_key
			FROM message WHERE subject_id = $1 ORDER BY created_at, id`, subject)
		if err != nil {
			return err
		}
		mails, err = pgx.CollectRows(rows, pgx.RowToStructByPos[roster.Mail])
		return err
	}); err != nil {
		t.Fatalf("read mails of %s: %v", subject, err)
	}
	return mails
}

// Clock is a clock that stands until it is moved.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// Now is the time the clock shows.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Set moves the clock to at, also backwards.
func (c *Clock) Set(at time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = at
}

// Add moves the clock on by d.
func (c *Clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}
