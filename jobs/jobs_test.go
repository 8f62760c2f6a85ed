package jobs

import (
	"context"
	"log/slog"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertest"
	"github.com/riverqueue/river/rivertype"

	"usher/internal/mail"
	"usher/internal/mail/mailtest"
	"usher/internal/postgres"
	"usher/internal/postgres/postgrestest"
	"usher/internal/roster"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

// world is an app with an inviter and a workspace, in a transaction that is
// undone in the end, and a worker whose clock the test moves.
type world struct {
	t      *testing.T
	tx     pgx.Tx
	worker *Worker
	now    time.Time

	app       roster.App
	inviter   roster.Account
	workspace roster.Workspace
}

// newWorld makes a world whose mail goes to sender; nil means the mailbox.
func newWorld(t *testing.T, sender mail.Sender) *world {
	t.Helper()
	tx, err := postgrestest.Database(t).Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tx.Rollback(context.WithoutCancel(t.Context())) })
	return newWorldOn(t, tx, tx, sender)
}

func newWorldOn(t *testing.T, db postgres.DB, tx pgx.Tx, sender mail.Sender) *world {
	t.Helper()
	ctx := t.Context()
	w := &world{t: t, tx: tx, now: time.Now().UTC().Truncate(time.Microsecond)}
	clock := func() time.Time { return w.now }
	queue, err := river.NewClient(riverpgxv5.New(nil), &river.Config{Logger: quiet(), SkipUnknownJobCheck: true})
	if err != nil {
		t.Fatal(err)
	}
	keys, err := roster.NewKeyring(strings.Repeat("s", roster.MinSecret))
	if err != nil {
		t.Fatal(err)
	}
	if sender == nil {
		sender = &mail.Mailbox{DB: db, Now: clock}
	}
	w.worker = &Worker{
		DB:     db,
		Roster: &roster.Roster{DB: db, Jobs: queue, Now: clock},
		Outbox: &mail.Outbox{DB: db, Now: clock},
		Sender: sender, Keys: keys,
		URL:  &url.URL{Scheme: "https", Host: "usher.dev"},
		From: "Usher <usher@usher.dev>",
	}
	r := w.worker.Roster
	if w.app, err = r.CreateApp(ctx, roster.NewApp{Name: "Kindred Care", TimeZone: "Europe/Madrid"}); err != nil {
		t.Fatal(err)
	}
	if w.inviter, err = r.CreateAccount(ctx, w.app.ID, roster.NewAccount{
		Kind: roster.Professional, FullName: "Marie Dupont", Email: "marie@kindred.dev",
	}, roster.IdempotencyKey{}); err != nil {
		t.Fatal(err)
	}
	company, err := r.CreateCompany(ctx, w.app.ID, "Acme Therapy", "", roster.IdempotencyKey{})
	if err != nil {
		t.Fatal(err)
	}
	if w.workspace, err = r.CreateWorkspace(ctx, w.app.ID, company.ID, "Family Okafor", w.inviter.ID, roster.IdempotencyKey{}); err != nil {
		t.Fatal(err)
	}
	return w
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

func (w *world) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.tx.Exec(w.t.Context(), sql, args...); err != nil {
		w.t.Fatal(err)
	}
}

// value reads one value.
func value[T any](w *world, sql string, args ...any) (v T) {
	w.t.Helper()
	if err := w.tx.QueryRow(w.t.Context(), sql, args...).Scan(&v); err != nil {
		w.t.Fatal(err)
	}
	return v
}

// invite creates an invitation to a new person of that address.
func (w *world) invite(email string) roster.Invitation {
	w.t.Helper()
	out, err := w.worker.Roster.CreateInvitations(w.t.Context(), []roster.NewInvitation{{
		AppID: w.app.ID, ActorID: w.inviter.ID, WorkspaceID: w.workspace.ID, Kind: roster.KindNewUser,
		Email: email, FullName: "Ann Okafor", Note: "See you on Monday!", Notify: true,
	}})
	if err != nil {
		w.t.Fatal(err)
	}
	if out[0].Err != nil {
		w.t.Fatal(out[0].Err)
	}
	return out[0].Invitation
}

// accept takes the invitation as a new person.
func (w *world) accept(inv roster.Invitation) {
	w.t.Helper()
	if _, _, err := w.worker.Roster.AcceptInvitation(w.t.Context(), inv.Ticket(), roster.Acceptance{
		FullName: "Ann N. Okafor", PasswordHash: "not looked at",
	}); err != nil {
		w.t.Fatal(err)
	}
}

// job is the newest waiting job of a kind.
func (w *world) job(kind string) *rivertype.JobRow {
	w.t.Helper()
	id := value[int64](w, `SELECT max(id) FROM river_job WHERE kind = $1 AND finalized_at IS NULL`, kind)
	return w.row(id)
}

func (w *world) row(id int64) *rivertype.JobRow {
	w.t.Helper()
	row, err := w.worker.Roster.Jobs.JobGetTx(w.t.Context(), w.tx, id)
	if err != nil {
		w.t.Fatal(err)
	}
	return row
}

// work makes one attempt at the job and gives its row after it, and the error
// that the attempt ended with, if any.
func (w *world) work(job *rivertype.JobRow) (*rivertype.JobRow, error) {
	w.t.Helper()
	switch job.Kind {
	case roster.SendInvitation{}.Kind():
		return attempt(w, job, &sendInvitation{Worker: w.worker})
	case roster.TellInviter{}.Kind():
		return attempt(w, job, &tellInviter{Worker: w.worker})
	}
	return attempt(w, job, &expireInvitations{Worker: w.worker})
}

func attempt[T river.JobArgs](w *world, job *rivertype.JobRow, worker river.Worker[T]) (*rivertype.JobRow, error) {
	w.t.Helper()
	return attemptIn(w.t.Context(), w, job, worker)
}

func attemptIn[T river.JobArgs](ctx context.Context, w *world, job *rivertype.JobRow, worker river.Worker[T]) (*rivertype.JobRow, error) {
	w.t.Helper()
	config := &river.Config{Logger: quiet(), JobTimeout: jobTimeout, RetryPolicy: retryPolicy{}}
	result, err := rivertest.NewWorker(w.t, riverpgxv5.New(nil), config, worker).WorkJob(ctx, w.t, w.tx, job)
	if result == nil {
		w.t.Fatal(err)
	}
	return w.row(job.ID), err
}

// workWell is work that must complete.
func (w *world) workWell(job *rivertype.JobRow) *rivertype.JobRow {
	w.t.Helper()
	row, err := w.work(job)
	if err != nil || row.State != rivertype.JobStateCompleted {
		w.t.Fatalf("job %s ended %s with %v", job.Kind, row.State, err)
	}
	return row
}

func (w *world) delivery(inv roster.Invitation) roster.Delivery {
	w.t.Helper()
	return value[roster.Delivery](w, `SELECT delivery FROM invitation WHERE id = $1`, inv.ID)
}

// message is the one message there is.
func (w *world) message() (m mail.Message) {
	w.t.Helper()
	if err := w.tx.QueryRow(w.t.Context(), `SELECT id, state, provider_id, error, attempts, recipient, sender, subject, text, settled_at FROM message`).
		Scan(&m.ID, &m.State, &m.ProviderID, &m.Error, &m.Attempts, &m.Recipient, &m.Sender, &m.Subject, &m.Text, &m.SettledAt); err != nil {
		w.t.Fatal(err)
	}
	return m
}

func (w *world) mails() int {
	w.t.Helper()
	return value[int](w, `SELECT count(*) FROM dev_mail`)
}

// provider is a stand-in of the mail provider and the sender that uses it.
func provider(t *testing.T) (*mailtest.Provider, mail.Sender) {
	t.Helper()
	p := mailtest.Start(t)
	sender, err := mail.NewResend(p.APIKey, p.URL)
	if err != nil {
		t.Fatal(err)
	}
	return p, sender
}

func fail(t *testing.T, p *mailtest.Provider, faults ...mailtest.Fault) {
	t.Helper()
	if err := p.Config(t.Context(), mailtest.Config{Fail: faults}); err != nil {
		t.Fatal(err)
	}
}

func ledger(t *testing.T, p *mailtest.Provider) mailtest.Ledger {
	t.Helper()
	l, err := p.Ledger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func TestEveryKindHasAQueue(t *testing.T) {
	t.Parallel()
	for _, args := range []river.JobArgsWithInsertOpts{roster.SendInvitation{}, roster.TellInviter{}, roster.ExpireInvitations{}} {
		if _, ok := queues()[args.InsertOpts().Queue]; !ok {
			t.Errorf("nobody works the queue %q of %T", args.InsertOpts().Queue, args)
		}
	}
}

// TestTimesNest holds the times together that must lie inside each other.
func TestTimesNest(t *testing.T) {
	t.Parallel()
	if !(softStop < jobTimeout && jobTimeout < rescueAfter) {
		t.Errorf("soft stop %s, job %s, rescue %s", softStop, jobTimeout, rescueAfter)
	}
}

func TestRetryPolicy(t *testing.T) {
	t.Parallel()
	for failures, want := range map[int]time.Duration{
		0: 2 * time.Second, 1: 4 * time.Second, 4: 32 * time.Second, 8: 512 * time.Second,
		9: maxRetryWait, 50: maxRetryWait, 999: maxRetryWait,
	} {
		job := &rivertype.JobRow{Attempt: 1 + 7*failures, Errors: make([]rivertype.AttemptError, failures)} // snoozes count as attempts
		wait := time.Until(retryPolicy{}.NextRetry(job))
		if diff := want - wait; diff < -time.Second || diff > 2*time.Second {
			t.Errorf("after %d failures it waits %s, want %s", failures, wait, want)
		}
	}
}

func TestParseCron(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{
		"", "* * * *", "* * * * * *", "61 * * * *", "* * * * funday", "@sometimes",
		"TZ=UTC * * * * *", "CRON_TZ=Europe/Madrid 0 8 * * *", " TZ=UTC * * * * *",
	} {
		if _, err := parseCron(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if _, err := parseCron("TZ=UTC 0 8 * * *"); err == nil || !strings.Contains(err.Error(), "UTC") {
		t.Errorf("a zone is refused with %v, which does not say why", err)
	}
	schedule, err := parseCron("30 2 * * *")
	if err != nil {
		t.Fatal(err)
	}
	madrid, err := time.LoadLocation("Europe/Madrid")
	if err != nil {
		t.Fatal(err)
	}
	// The night in which 02:30 does not exist in Madrid.
	night := time.Date(2026, 3, 29, 0, 0, 0, 0, madrid)
	if have, want := (utc{schedule}).Next(night), time.Date(2026, 3, 29, 2, 30, 0, 0, time.UTC); !have.Equal(want) {
		t.Errorf("the next tick is %s, want %s", have, want)
	}
}

func TestScheduleIsSound(t *testing.T) {
	t.Parallel()
	periodic, err := periodicJobs()
	if err != nil || len(periodic) != len(schedule) {
		t.Fatalf("%d periodic jobs, want %d (%v)", len(periodic), len(schedule), err)
	}
	seen := map[string]bool{}
	for _, entry := range schedule {
		if entry.id == "" || seen[entry.id] {
			t.Errorf("schedule entry %q has no name of its own", entry.id)
		}
		seen[entry.id] = true
	}
}

// TestClientWorksEveryKind runs the client as the worker process does: from an
// invitation to the mail, its end, and the word to the inviter.
func TestClientWorksEveryKind(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	pool := postgrestest.Database(t)
	tx, err := pool.Begin(ctx) // for looking only
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tx.Rollback(context.WithoutCancel(ctx)) })
	w := newWorldOn(t, pool, tx, nil)
	client, err := NewClient(pool, w.worker, quiet())
	if err != nil {
		t.Fatal(err)
	}
	w.worker.Roster.Jobs = client
	w.invite("ann@client.dev")
	gone := w.invite("bea@client.dev")
	if _, err := pool.Exec(ctx, `UPDATE invitation SET expires_at = $2 WHERE id = $1`, gone.ID, w.now); err != nil {
		t.Fatal(err)
	}

	done, stop := client.Subscribe(river.EventKindJobCompleted)
	defer stop()
	if err := client.Start(ctx); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := client.Stop(context.WithoutCancel(ctx)); err != nil {
			t.Errorf("stop workers: %v", err)
		}
	})
	want := map[string]int{"send_invitation": 2, "expire_invitations": 1, "tell_inviter": 1}
	patience := time.After(30 * time.Second)
	for len(want) > 0 {
		select {
		case event := <-done:
			if want[event.Job.Kind]--; want[event.Job.Kind] <= 0 {
				delete(want, event.Job.Kind)
			}
		case <-patience:
			t.Fatalf("these jobs were not worked: %v", want)
		}
	}
	if n := value[int](w, `SELECT count(*) FROM dev_mail WHERE recipient = 'ann@client.dev'`); n != 1 {
		t.Errorf("%d mails to Ann, want 1", n)
	}
	if n := value[int](w, `SELECT count(*) FROM dev_mail WHERE recipient = 'bea@client.dev'`); n != 0 {
		t.Errorf("%d mails to Bea, whose invitation is over, want none", n)
	}
	if n := value[int](w, `SELECT count(*) FROM dev_mail WHERE recipient = 'marie@kindred.dev'`); n != 1 {
		t.Errorf("%d mails to the inviter, want 1", n)
	}
	if state := value[string](w, `SELECT state FROM invitation WHERE id = $1`, gone.ID); state != "expired" {
		t.Errorf("the invitation that is over is %s", state)
	}
}

// uuids is a list of new ids.
func uuids(n int) []uuid.UUID {
	ids := make([]uuid.UUID, n)
	for i := range ids {
		ids[i] = uuid.Must(uuid.NewV7())
	}
	return ids
}
