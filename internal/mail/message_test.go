package mail

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"usher/internal/postgres"
	"usher/internal/postgres/postgrestest"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

// inTx is a transaction on a database with our schema, undone in the end.
func inTx(t *testing.T) pgx.Tx {
	t.Helper()
	tx, err := postgrestest.Database(t).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tx.Rollback(context.WithoutCancel(t.Context())) })
	return tx
}

// testApp stores an app for messages to belong to.
func testApp(t *testing.T, db postgres.DB) uuid.UUID {
	t.Helper()
	id := uuid.Must(uuid.NewV7())
	err := postgres.InTx(t.Context(), db, func(tx pgx.Tx) error {
		_, err := tx.Exec(t.Context(), `INSERT INTO app (id, name, created_at) VALUES ($1, 'Kindred', now())`, id)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func testDraft(app uuid.UUID) Draft {
	return Draft{
		AppID: app, DedupeKey: "invitation:x:v1:send:1", SubjectID: uuid.Must(uuid.NewV7()),
		Sender: "Kindred <hello@kindred.dev>", Recipient: "ann@client.dev",
		Content: Content{Subject: "Marie invites you", Text: "Hello", HTML: "<p>Hello</p>"},
	}
}

var noon = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// testOutbox is an Outbox whose clock stands until the test moves it.
func testOutbox(db postgres.DB) (o *Outbox, now *time.Time) {
	at := noon
	return &Outbox{DB: db, Now: func() time.Time { return at }}, &at
}

func freeze(t *testing.T, o *Outbox, d Draft) Message {
	t.Helper()
	m, err := o.Freeze(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestFreezeKeepsTheFirst(t *testing.T) {
	t.Parallel()
	tx := inTx(t)
	outbox, now := testOutbox(tx)
	draft := testDraft(testApp(t, tx))
	first := freeze(t, outbox, draft)
	if first.State != Sending || first.Attempts != 1 || !first.FirstAttemptAt.Equal(noon) || first.Subject != draft.Subject ||
		first.HTML != draft.HTML || first.Recipient != draft.Recipient || first.SettledAt != nil {
		t.Fatalf("frozen as %+v", first)
	}

	*now = noon.Add(replayFor - time.Second)
	draft.Subject, draft.Text, draft.HTML = "Maria invites you", "Hi", "<p>Hi</p>"
	draft.Sender, draft.Recipient = "Other <other@kindred.dev>", "anne@client.dev"
	second := freeze(t, outbox, draft)
	want := first
	want.Attempts = 2
	second.FirstAttemptAt = want.FirstAttemptAt // the same instant behind another pointer
	if second != want {
		t.Errorf("frozen again as %+v, want %+v", second, want)
	}

	draft.DedupeKey = "invitation:x:v1:send:2"
	if other := freeze(t, outbox, draft); other.ID == first.ID || other.Subject != draft.Subject {
		t.Errorf("another key got %+v", other)
	}
}

func TestFreezeGivesUpAfterTheProviderForgot(t *testing.T) {
	t.Parallel()
	tx := inTx(t)
	outbox, now := testOutbox(tx)
	draft := testDraft(testApp(t, tx))
	freeze(t, outbox, draft)
	*now = noon.Add(replayFor)
	for range 2 { // and stays given up
		m := freeze(t, outbox, draft)
		if m.State != Uncertain || m.Error == "" || m.SettledAt == nil || !m.SettledAt.Equal(*now) || m.Attempts != 1 {
			t.Errorf("after 23 h: %+v, want uncertain and settled, with the reason and no attempt more", m)
		}
	}
}

func TestSettleOnce(t *testing.T) {
	t.Parallel()
	tx := inTx(t)
	outbox, now := testOutbox(tx)
	draft := testDraft(testApp(t, tx))
	m := freeze(t, outbox, draft)
	settle := func(to State, id, reason string) Message {
		t.Helper()
		*now = now.Add(time.Minute)
		if err := outbox.Settle(t.Context(), m.ID, to, id, reason); err != nil {
			t.Fatal(err)
		}
		return freeze(t, outbox, draft)
	}
	have := settle(Accepted, "re_1", "")
	if have.State != Accepted || have.ProviderID != "re_1" || have.SettledAt == nil || !have.SettledAt.Equal(*now) || have.Attempts != 1 {
		t.Errorf("settled as %+v", have)
	}
	if again := settle(Failed, "", "422"); again.State != Accepted || again.ProviderID != "re_1" || again.Error != "" || !again.SettledAt.Equal(*have.SettledAt) {
		t.Errorf("settled twice as %+v", again)
	}
	*now = noon.Add(48 * time.Hour)
	if later := freeze(t, outbox, draft); later.State != Accepted {
		t.Errorf("two days later it is %s", later.State)
	}
}

func TestAbandon(t *testing.T) {
	t.Parallel()
	tx := inTx(t)
	outbox, _ := testOutbox(tx)
	app := testApp(t, tx)
	open, done := testDraft(app), testDraft(app)
	done.DedupeKey += " done"
	freeze(t, outbox, open)
	if err := outbox.Settle(t.Context(), freeze(t, outbox, done).ID, Accepted, "re_1", ""); err != nil {
		t.Fatal(err)
	}
	for _, key := range []string{open.DedupeKey, done.DedupeKey, "never frozen"} {
		if err := outbox.Abandon(t.Context(), key); err != nil {
			t.Fatal(err)
		}
	}
	if m := freeze(t, outbox, open); m.State != Uncertain || m.Error == "" || m.SettledAt == nil {
		t.Errorf("an open one is abandoned as %+v", m)
	}
	if m := freeze(t, outbox, done); m.State != Accepted || m.Error != "" {
		t.Errorf("a sent one is abandoned as %+v", m)
	}
}

func TestFreezeAtOnce(t *testing.T) {
	t.Parallel()
	pool := postgrestest.Database(t)
	outbox, _ := testOutbox(pool)
	draft := testDraft(testApp(t, pool))
	const workers = 20
	ids := make(chan uuid.UUID, workers)
	for range workers {
		go func() {
			m, err := outbox.Freeze(t.Context(), draft)
			if err != nil {
				t.Error(err)
			}
			ids <- m.ID
		}()
	}
	first := <-ids
	for range workers - 1 {
		if id := <-ids; id != first {
			t.Errorf("ids %s and %s, want one", first, id)
		}
	}
	if n := count(t, pool, `SELECT count(*) FROM message`); n != 1 {
		t.Errorf("%d messages, want 1", n)
	}
}

func count(t *testing.T, pool *pgxpool.Pool, sql string) (n int) {
	t.Helper()
	if err := pool.QueryRow(t.Context(), sql).Scan(&n); err != nil {
		t.Fatal(err)
	}
	return n
}
