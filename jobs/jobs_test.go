package jobs

import (
	"context"
	"log/slog"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
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

// world is an app with an inviter and a workspace, and a worker whose clock the
// test moves. Its mail leaves by a way of its own.
type world struct {
	t      *testing.T
	tx     pgx.Tx // for looking, and where there is no pool for everything
	worker *Worker
	now    time.Time

	app       roster.App
	inviter   roster.Account
	workspace roster.Workspace
}

// newWorld makes a world in a transaction that is undone in the end. Its mail
// goes to sender; nil means the mailbox.
func newWorld(t *testing.T, sender mail.Sender) *world {
	t.Helper()
	tx := postgrestest.Begin(t)
	return newWorldOn(t, tx, tx, sender)
}

// newWorldOnPool makes a world in a database of its own, for what only several
// connections show.
func newWorldOnPool(t *testing.T, sender mail.Sender) (*world, *pgxpool.Pool) {
	t.Helper()
	pool := postgrestest.Database(t)
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tx.Rollback(context.WithoutCancel(t.Context())) })
	return newWorldOn(t, pool, tx, sender), pool
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
	way := uuid.NewString()
	if err := postgres.InTx(ctx, db, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `INSERT INTO pace (id, rate) VALUES ($1, 100000)`, way)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	w.worker = &Worker{
		DB:     db,
		Roster: &roster.Roster{DB: db, Jobs: queue, Now: clock},
		Outbox: &mail.Outbox{DB: db, Now: clock},
		Sender: by{sender, way}, Keys: keys,
		URL:  &url.URL{Scheme: "https", Host: "usher.dev"},
		From: "Usher <usher@usher.dev>",
		Log:  quiet(),
	}
	w.settle("Kindred Care", "marie@kindred.dev")
	return w
}

// settle fills the world with an app, its inviter and a workspace.
func (w *world) settle(app, inviter string) {
	w.t.Helper()
	ctx, r := w.t.Context(), w.worker.Roster
	var err error
	if w.app, err = r.CreateApp(ctx, roster.NewApp{Name: app, TimeZone: "Europe/Madrid"}); err != nil {
		w.t.Fatal(err)
	}
	if w.inviter, err = r.CreateAccount(ctx, w.app.ID, roster.NewAccount{
		Kind: roster.Professional, FullName: "Marie Dupont", Email: inviter,
	}, roster.IdempotencyKey{}); err != nil {
		w.t.Fatal(err)
	}
	company, err := r.CreateCompany(ctx, w.app.ID, "Acme Therapy", "", roster.IdempotencyKey{})
	if err != nil {
		w.t.Fatal(err)
	}
	if w.workspace, err = r.CreateWorkspace(ctx, w.app.ID, roster.NewWorkspace{CompanyID: company.ID, Name: "Family Okafor", OwnerID: w.inviter.ID}, roster.IdempotencyKey{}); err != nil {
		w.t.Fatal(err)
	}
}

// another is another app in the same world. Its clock is another variable.
func (w *world) another() *world {
	w.t.Helper()
	other := *w
	other.settle("Other", "olga@other.dev")
	return &other
}

// by is a Sender by a way of its own: tests that share a database do not wait
// for each other's limiter.
type by struct {
	mail.Sender
	way string
}

func (b by) Name() string { return b.way }

// senderFunc stands for the provider where a test acts during the call.
type senderFunc func(ctx context.Context, d mail.Dispatch) (mail.Receipt, error)

func (f senderFunc) Send(ctx context.Context, d mail.Dispatch) (mail.Receipt, error) {
	return f(ctx, d)
}
func (f senderFunc) Name() string { return "a test" }

// sendsBy has the world's mail go to sender by the same way as before.
func (w *world) sendsBy(sender mail.Sender) { w.worker.Sender = by{sender, w.worker.Sender.Name()} }

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
	return w.inviteAll(email)[0]
}

// inviteAll creates invitations to new persons in one call.
func (w *world) inviteAll(emails ...string) []roster.Invitation {
	w.t.Helper()
	rows := make([]roster.NewInvitation, len(emails))
	for i, email := range emails {
		rows[i] = roster.NewInvitation{
			AppID: w.app.ID, ActorID: w.inviter.ID, WorkspaceID: w.workspace.ID, Kind: roster.KindNewUser,
			Email: email, FullName: "Ann Okafor", Note: "See you on Monday!", Notify: true,
		}
	}
	out, err := w.worker.Roster.CreateInvitations(w.t.Context(), rows)
	if err != nil {
		w.t.Fatal(err)
	}
	invitations := make([]roster.Invitation, len(out))
	for i, o := range out {
		if o.Err != nil {
			w.t.Fatal(o.Err)
		}
		invitations[i] = o.Invitation
	}
	return invitations
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
	case roster.ComposeMail{}.Kind():
		return attempt(w, job, &composeMail{Worker: w.worker})
	case mail.SendDispatch{}.Kind():
		return attempt(w, job, &sendDispatch{Worker: w.worker})
	}
	return attempt(w, job, &sweep{Worker: w.worker})
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

// compose works the newest composer and gives the dispatch job that came of it.
func (w *world) compose() *rivertype.JobRow {
	w.t.Helper()
	w.workWell(w.job("compose_mail"))
	return w.job("send_dispatch")
}

// message is what became of the newest mail about a subject.
type message struct {
	ID         uuid.UUID
	State      mail.State
	Reason     string
	DueAt      *time.Time
	DispatchID *uuid.UUID
	ProviderID string
	Sender     string
	Recipient  string
	Subject    string
}

func (w *world) message(subject uuid.UUID) message {
	w.t.Helper()
	rows, err := w.tx.Query(w.t.Context(), `
		SELECT id, state, reason, due_at, dispatch_id, provider_id, sender, recipient, subject
		FROM message WHERE subject_id = $1 ORDER BY id DESC LIMIT 1`, subject)
	if err != nil {
		w.t.Fatal(err)
	}
	m, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[message])
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

// wantMails compares the states of invitations' newest mails.
func (w *world) wantMails(invitations []roster.Invitation, want ...mail.State) {
	w.t.Helper()
	for i, inv := range invitations {
		if m := w.message(inv.ID); m.State != want[i] {
			w.t.Errorf("the mail to %s is %s (%s), want %s", inv.Email, m.State, m.Reason, want[i])
		}
	}
}

// dispatches are the states of all dispatches with attempts and unknown ones,
// the oldest first: "sending 2 1".
func (w *world) dispatches() []string {
	w.t.Helper()
	rows, err := w.tx.Query(w.t.Context(), `SELECT state || ' ' || attempts || ' ' || unknown FROM dispatch ORDER BY id`)
	if err != nil {
		w.t.Fatal(err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		w.t.Fatal(err)
	}
	return all
}

func (w *world) wantDispatches(want ...string) {
	w.t.Helper()
	if have := w.dispatches(); !slices.Equal(have, want) {
		w.t.Errorf("dispatches are %q, want %q", have, want)
	}
}

// pace is whether the way out is open, or why and for how many seconds it is
// not.
func (w *world) pace() (reason string, seconds float64) {
	w.t.Helper()
	if err := w.tx.QueryRow(w.t.Context(), `
		SELECT blocked_reason, GREATEST(0, extract(epoch FROM blocked_until - clock_timestamp())::float8) FROM pace WHERE id = $1`,
		w.worker.Sender.Name()).Scan(&reason, &seconds); err != nil {
		w.t.Fatal(err)
	}
	return reason, seconds
}

// later moves the clock, and what the limiter waits for, on by d.
func (w *world) later(d time.Duration) {
	w.t.Helper()
	w.now = w.now.Add(d)
	w.exec(`UPDATE pace SET tat = tat - $2::interval, blocked_until = blocked_until - $2::interval
		WHERE id = $1 AND blocked_until > 'epoch'`, w.worker.Sender.Name(), d)
}

func (w *world) mails() int {
	w.t.Helper()
	return value[int](w, `SELECT count(*) FROM dev_mail`)
}

// provider is a stand-in of the mail provider and the sender that uses it.
func provider(t *testing.T) (*mailtest.Provider, mail.Sender) {
	t.Helper()
	p := mailtest.Start(t)
	sender, err := mail.NewResend(p.APIKey, p.URL, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return p, sender
}

func fail(t *testing.T, p *mailtest.Provider, faults ...mailtest.Fault) {
	t.Helper()
	if err := p.Fail(t.Context(), faults...); err != nil {
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
	for _, args := range []river.JobArgsWithInsertOpts{
		roster.ComposeMail{Lane: roster.Interactive}, roster.ComposeMail{Lane: roster.Bulk},
		mail.SendDispatch{Lane: mail.Lane(roster.Interactive)}, mail.SendDispatch{Lane: mail.Lane(roster.Bulk)},
		roster.Sweep{}, roster.LiftAddress{}, mail.ReconcileMail{},
	} {
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

func TestTicksAreInUTC(t *testing.T) {
	t.Parallel()
	schedule, err := roster.ParseCron("30 2 * * *")
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
	if want := len(schedule) + len(roster.SweepNames()); err != nil || len(periodic) != want {
		t.Fatalf("%d periodic jobs, want %d (%v)", len(periodic), want, err)
	}
	seen := map[string]bool{}
	for _, entry := range schedule {
		if entry.id == "" || seen[entry.id] {
			t.Errorf("schedule entry %q has no name of its own", entry.id)
		}
		seen[entry.id] = true
	}
}

// run starts the client as the worker process does, until the test ends.
func (w *world) run(pool *pgxpool.Pool) *river.Client[pgx.Tx] {
	w.t.Helper()
	client, err := NewClient(pool, w.worker, quiet())
	if err != nil {
		w.t.Fatal(err)
	}
	w.worker.Roster.Jobs = client
	if err := client.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		if err := client.Stop(context.WithoutCancel(w.t.Context())); err != nil {
			w.t.Errorf("stop workers: %v", err)
		}
	})
	return client
}

// eventually waits until a query answers true.
func (w *world) eventually(what, sql string, args ...any) {
	w.t.Helper()
	poll(w.t, what, func() bool { return value[bool](w, sql, args...) })
}

// poll waits until done answers true.
func poll(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	patience := time.After(30 * time.Second)
	for !done() {
		select {
		case <-tick.C:
		case <-patience:
			t.Fatalf("%s: not within 30 s", what)
		}
	}
}

// TestClientWorksEveryKind runs the client as the worker process does: from an
// invitation to the mail, its end, and the word to the inviter.
func TestClientWorksEveryKind(t *testing.T) {
	t.Parallel()
	w, pool := newWorldOnPool(t, nil)
	w.inviteAll("ann@client.dev", "cem@client.dev")
	gone, blocked := w.invite("bea@client.dev"), w.invite("dan@client.dev")
	if _, err := pool.Exec(t.Context(), `UPDATE invitation SET expires_at = $2 WHERE id = $1`, gone.ID, w.now); err != nil {
		t.Fatal(err)
	}
	client := w.run(pool)
	w.eventually("everybody has the mail", `SELECT count(*) = 4 FROM dev_mail`)
	for to, want := range map[string]int{"ann@client.dev": 1, "cem@client.dev": 1, "dan@client.dev": 1, "marie@kindred.dev": 1, "bea@client.dev": 0} {
		if n := value[int](w, `SELECT count(*) FROM dev_mail WHERE recipient = $1`, to); n != want {
			t.Errorf("%d mails to %s, want %d", n, to, want)
		}
	}

	// The mail to one comes back, is sent again on somebody's word, and again by itself.
	if err := postgres.InTx(t.Context(), pool, func(tx pgx.Tx) error {
		return store(t.Context(), tx, "msg_1", "email.bounced", *blocked.MessageID, w.now, bounceOf("Permanent", ""))
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Insert(t.Context(), mail.ApplyProviderEvent{ID: "msg_1"}, nil); err != nil {
		t.Fatal(err)
	}
	w.eventually("the invitation is on hold", `SELECT state = 'on_hold' FROM invitation WHERE id = $1`, blocked.ID)
	if _, err := w.worker.Roster.ResendToBlocked(t.Context(), w.app.ID, w.inviter.ID, blocked.ID, roster.IdempotencyKey{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("it is mailed again", `SELECT count(*) = 2 FROM dev_mail WHERE recipient = 'dan@client.dev'`)
	if _, err := client.Insert(t.Context(), roster.RetryMail{MessageID: *w.reread(blocked).MessageID, Retry: 1}, nil); err != nil {
		t.Fatal(err)
	}
	w.eventually("and again", `SELECT count(*) = 3 FROM dev_mail WHERE recipient = 'dan@client.dev'`)

	// Another address is said to work.
	if _, err := pool.Exec(t.Context(), `
		INSERT INTO address (app_id, email_key, block, blocked_at) VALUES ($1, 'ann@client.dev', 'hard', $2)`, w.app.ID, w.now); err != nil {
		t.Fatal(err)
	}
	if err := w.worker.Roster.LiftSuppression(t.Context(), w.app.ID, "ann@client.dev"); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Insert(t.Context(), roster.DeliverWebhooks{EndpointID: w.app.ID}, nil); err != nil { // there is no such endpoint any more
		t.Fatal(err)
	}
	merge, _ := w.merge(nil)
	w.eventually("the merge is done", `SELECT state = 'merged' FROM merge WHERE id = $1`, merge.ID)
	if _, err := w.worker.Roster.UndoMerge(t.Context(), w.app.ID, uuid.Nil, merge.ID, nil, roster.IdempotencyKey{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("and undone", `SELECT state = 'undone' FROM merge WHERE id = $1`, merge.ID)
	w.eventually("every kind of job was completed", `
		SELECT count(DISTINCT (kind, queue)) = 16 AND bool_and(state = 'completed') FROM river_job`)
	if state := value[string](w, `SELECT state FROM invitation WHERE id = $1`, gone.ID); state != "expired" {
		t.Errorf("the invitation that is over is %s", state)
	}
	if m := w.message(gone.ID); m.State != mail.Cancelled {
		t.Errorf("its mail is %s", m.State)
	}
}
