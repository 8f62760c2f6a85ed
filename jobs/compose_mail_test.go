package jobs

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"usher/internal/mail"
	"usher/internal/postgres"
	"usher/internal/roster"
)

func TestInvitationMail(t *testing.T) {
	t.Parallel()
	p, sender := provider(t)
	w := newWorld(t, sender)
	inv := w.invite("Ann.Okafor@Bücher.dev")
	row := w.workWell(w.compose())

	m := w.message(inv.ID)
	if m.State != mail.Accepted || m.ProviderID == "" || m.Reason != "" || m.DueAt != nil {
		t.Errorf("message is %+v", m)
	}
	w.wantDispatches("settled 1 0")
	if out := string(row.Output()); out != `"accepted"` {
		t.Errorf("the job's output is %s", out)
	}
	mails, err := p.Mails(t.Context(), "", 10*time.Second)
	if err != nil || len(mails) != 1 {
		t.Fatalf("%d mails (%v)", len(mails), err)
	}
	have := mails[0]
	link := "https://usher.dev/i/" + w.worker.Keys.Token(roster.PurposeInvitation, inv.Ticket())
	if have.ID != m.ProviderID || have.IdempotencyKey != m.DispatchID.String() || have.From != "Usher <usher@usher.dev>" ||
		have.To[0] != "Ann.Okafor@xn--bcher-kva.dev" || have.Tags[0].Value != m.ID.String() {
		t.Errorf("mail is %+v", have)
	}
	for _, want := range []string{link, "Ann Okafor", "Marie Dupont", "Acme Therapy", "Family Okafor", "See you on Monday!"} {
		if !strings.Contains(have.Text, want) {
			t.Errorf("the text does not say %q:\n%s", want, have.Text)
		}
	}
	if !strings.Contains(have.HTML, link) {
		t.Error("the HTML has no link")
	}
}

func TestMailAsTheApp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.exec(`UPDATE app SET mail_from = 'Kindred <mail@kindred.dev>', locale = 'fr'`)
	w.exec(`INSERT INTO account (id, app_id, kind, status, full_name, email, email_key, locale, created_at)
		VALUES (gen_random_uuid(), $1, 'client', 'active', 'Ann', 'ann@client.dev', 'ann@client.dev', 'es', now())`, w.app.ID)
	w.inviteAll("bob@client.dev", "ann@client.dev")
	w.workWell(w.compose())
	text := `SELECT sender || ': ' || text FROM dev_mail WHERE recipient = $1`
	if have := value[string](w, text, "bob@client.dev"); !strings.HasPrefix(have, "Kindred <mail@kindred.dev>: ") || !strings.Contains(have, "Bonjour") {
		t.Errorf("the app's own language is fr, the mail is %s", have)
	}
	if have := value[string](w, text, "ann@client.dev"); !strings.Contains(have, "Hola") {
		t.Errorf("the account's own language is es, the mail is %s", have)
	}
}

// movesOn are the ways in which an invitation can have moved on before its mail
// is sent, and what the mail's end then says.
var movesOn = map[string]struct {
	how    func(w *world, inv roster.Invitation) error
	reason string
}{
	"accepted": {func(w *world, inv roster.Invitation) error { w.accept(inv); return nil }, "accepted"},
	"declined": {func(w *world, inv roster.Invitation) error {
		_, err := w.worker.Roster.DeclineInvitation(w.t.Context(), inv.Ticket())
		return err
	}, "declined"},
	"revoked": {func(w *world, inv roster.Invitation) error {
		_, err := w.worker.Roster.RevokeInvitation(w.t.Context(), w.app.ID, w.inviter.ID, inv.ID, roster.IdempotencyKey{})
		return err
	}, "revoked"},
	"corrected": {func(w *world, inv roster.Invitation) error {
		_, err := w.worker.Roster.CorrectInvitationAddress(w.t.Context(), w.app.ID, w.inviter.ID, inv.ID, "anna@client.dev", roster.IdempotencyKey{})
		return err
	}, "replaced"},
	"sent anew": {func(w *world, inv roster.Invitation) error {
		w.now = w.now.Add(2 * time.Hour)
		_, err := w.worker.Roster.ResendInvitation(w.t.Context(), w.app.ID, w.inviter.ID, inv.ID, roster.IdempotencyKey{})
		return err
	}, "newer mail"},
	"expired": {func(w *world, inv roster.Invitation) error {
		w.now = inv.ExpiresAt
		_, err := w.worker.Roster.ExpireInvitations(w.t.Context(), 10)
		return err
	}, "expired"},
	"over, not yet swept": {func(w *world, inv roster.Invitation) error { w.now = inv.ExpiresAt; return nil }, "expired"},
	"on hold": {func(w *world, inv roster.Invitation) error {
		w.exec(`UPDATE invitation SET state = 'on_hold' WHERE id = $1`, inv.ID)
		return nil
	}, "on_hold"},
	"workspace archived": {func(w *world, inv roster.Invitation) error {
		w.exec(`UPDATE workspace SET state = 'archived'`)
		return nil
	}, "revoked"},
	"gone": {func(w *world, inv roster.Invitation) error {
		w.exec(`DELETE FROM invitation WHERE id = $1`, inv.ID)
		return nil
	}, "gone"},
}

// TestLateCheck lets the invitation move on between the request and the
// composer: that mail is not written, and says why.
func TestLateCheck(t *testing.T) {
	t.Parallel()
	for name, test := range movesOn {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			inv := w.invite("ann@client.dev")
			first := w.message(inv.ID).ID
			job := w.job("compose_mail")
			if err := test.how(w, inv); err != nil {
				t.Fatal(err)
			}
			w.workWell(job)
			have := value[string](w, `SELECT state || ': ' || reason || (settled_at IS NOT NULL) || (due_at IS NULL) || (dispatch_id IS NULL) FROM message WHERE id = $1`, first)
			if !strings.HasPrefix(have, "cancelled: ") || !strings.Contains(have, test.reason) || !strings.HasSuffix(have, "truetruetrue") {
				t.Errorf("the mail is %s, want it cancelled with %q", have, test.reason)
			}
			if w.mails() != 0 {
				t.Error("a mail was sent")
			}
		})
	}
}

// TestComposeSortsOut goes over mail that can be sent, is blocked, is no longer
// wanted, or cannot be written: one does not keep the other.
func TestComposeSortsOut(t *testing.T) {
	t.Parallel()
	p, sender := provider(t)
	w := newWorld(t, sender)
	all := w.inviteAll("ann@client.dev", "hard@client.dev", "bea@client.dev", "complained@client.dev", "broken@client.dev", "known@client.dev", "cem@client.dev")
	w.exec(`INSERT INTO address (app_id, email_key, block) VALUES ($1, 'hard@client.dev', 'hard'), ($1, 'complained@client.dev', 'complaint'), ($1, 'known@client.dev', '')`, w.app.ID)
	other, err := w.worker.Roster.CreateApp(t.Context(), roster.NewApp{Name: "Other"})
	if err != nil {
		t.Fatal(err)
	}
	w.exec(`INSERT INTO address (app_id, email_key, block) VALUES ($1, 'ann@client.dev', 'complaint')`, other.ID) // which is theirs
	w.exec(`UPDATE invitation SET email = 'no address' WHERE id = $1`, all[4].ID)
	w.exec(`UPDATE invitation SET state = 'revoked' WHERE id = $1`, all[2].ID)

	w.workWell(w.compose())
	w.wantMails(all, mail.Accepted, mail.Suppressed, mail.Cancelled, mail.Suppressed, mail.Failed, mail.Accepted, mail.Accepted)
	for i, want := range map[int]string{1: "suppressed", 3: "complained_before", 4: "read address"} {
		if m := w.message(all[i].ID); !strings.Contains(m.Reason, want) || m.DispatchID != nil || m.DueAt != nil {
			t.Errorf("the mail to %s is %+v, want %q", all[i].Email, m, want)
		}
	}
	if l := ledger(t, p); l.Counters.Requests != 1 || l.Counters.Accepted != 3 {
		t.Errorf("counters are %+v, want 3 mails in 1 request", l.Counters)
	}
}

// TestComposeNothing: a composer that finds nothing, or nothing to send, ends
// well and makes no dispatch.
func TestComposeNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	inv := w.invite("ann@client.dev")
	job := w.job("compose_mail")
	w.exec(`UPDATE invitation SET state = 'revoked'`)
	w.workWell(job)
	w.wantMails([]roster.Invitation{inv}, mail.Cancelled)
	if _, err := w.worker.Roster.Jobs.InsertTx(t.Context(), w.tx, roster.ComposeMail{Lane: roster.Interactive}, nil); err != nil {
		t.Fatal(err)
	}
	w.workWell(w.job("compose_mail"))
	w.wantDispatches()
}

// TestComposeFillsDispatches: of more mail than the window holds the rest waits,
// still checked late, and is composed as places fall free.
func TestComposeFillsDispatches(t *testing.T) {
	t.Parallel()
	p, sender := provider(t)
	w := newWorld(t, sender)
	emails := make([]string, 250)
	for i := range emails {
		emails[i] = fmt.Sprintf("ann.%d@client.dev", i)
	}
	all := w.inviteAll(emails...)
	w.workWell(w.job("compose_mail"))
	sizes := `SELECT string_agg(cardinality(message_ids)::text, ' ' ORDER BY id) FROM dispatch`
	if have := value[string](w, sizes); have != "100 100" {
		t.Fatalf("dispatches of %s mails, want two full ones under way", have)
	}
	w.exec(`UPDATE invitation SET state = 'revoked' WHERE id = (SELECT subject_id FROM message WHERE state = 'queued' LIMIT 1)`)
	for _, want := range []string{"100 100 49", "100 100 49", "100 100 49"} {
		job := value[int64](w, `SELECT min(id) FROM river_job WHERE kind = 'send_dispatch' AND finalized_at IS NULL`)
		w.workWell(w.row(job))
		if have := value[string](w, sizes); have != want {
			t.Errorf("dispatches of %s mails, want %s", have, want)
		}
	}
	l := ledger(t, p)
	if l.Counters.Requests != 3 || len(l.Messages) != 249 {
		t.Errorf("%d requests and %d mails, want 3 and 249", l.Counters.Requests, len(l.Messages))
	}
	if n := value[int](w, `SELECT count(*) FROM message WHERE state = 'accepted'`); n != len(all)-1 {
		t.Errorf("%d mails are accepted, want all but the one revoked", n)
	}
}

// TestComposersAtOnce: of two processes that compose one lane each takes what
// the other has not.
func TestComposersAtOnce(t *testing.T) {
	t.Parallel()
	w, pool := newWorldOnPool(t, nil)
	const n = 350
	if _, err := pool.Exec(t.Context(), `
		INSERT INTO message (id, app_id, kind, subject_id, purpose, args, lane, email_key, state, due_at, created_at)
		SELECT gen_random_uuid(), $1, 'news', $2, n::text, '{}', 'bulk', 'marie@kindred.dev', 'queued', $3, $3
		FROM generate_series(1, $4) AS n`, w.app.ID, w.inviter.ID, w.now, n); err != nil {
		t.Fatal(err)
	}
	inv := w.invite("ann@client.dev")
	w.accept(inv)
	// All tell of the same event, so that each can be written.
	if _, err := pool.Exec(t.Context(), `
		UPDATE message SET args = (SELECT args FROM message WHERE kind = 'news' AND args <> '{}' LIMIT 1) WHERE args = '{}'`); err != nil {
		t.Fatal(err)
	}
	var composing sync.WaitGroup
	for range 4 {
		other := &Worker{
			DB: pool, Roster: w.worker.Roster, Outbox: w.worker.Outbox, Sender: w.worker.Sender, Keys: w.worker.Keys,
			URL: w.worker.URL, From: w.worker.From, Log: quiet(),
		}
		composing.Go(func() {
			if err := other.compose(t.Context(), roster.Bulk); err != nil {
				t.Error(err)
			}
		})
	}
	composing.Wait()
	if have := value[string](w, `
		SELECT count(*) || ' ' || count(DISTINCT m.id) || ' ' || (SELECT count(*) FROM message WHERE state = 'sending')
		FROM dispatch, unnest(message_ids) AS m (id)`); have != fmt.Sprintf("%d %[1]d %[1]d", n+1) {
		t.Errorf("mails in dispatches, different ones, and messages under way: %s, want %d of each", have, n+1)
	}
	if have := value[bool](w, `SELECT count(*) = (SELECT count(*) FROM river_job WHERE kind = 'send_dispatch') FROM dispatch`); !have {
		t.Error("not each dispatch has a job")
	}
}

// gate is a database that counts transactions and lets the first in when it is
// opened. It is no pool, so all begin by Begin.
type gate struct {
	postgres.DB
	begun   atomic.Int64
	opened  chan struct{}
	failing atomic.Int64 // so many of the next transactions fail
}

func (g *gate) Begin(ctx context.Context) (pgx.Tx, error) {
	g.begun.Add(1)
	<-g.opened
	if g.failing.Add(-1) >= 0 {
		return nil, errors.New("the database is away")
	}
	return g.DB.Begin(ctx)
}

// TestComposersShareTurns: who comes while another composes waits for one more
// turn, together with all others that came.
func TestComposersShareTurns(t *testing.T) {
	t.Parallel()
	w, pool := newWorldOnPool(t, nil)
	const others = 20
	compose := func(failing, wantTurns int64, wantErrors int) {
		t.Helper()
		g := &gate{DB: pool, opened: make(chan struct{})}
		g.failing.Store(failing)
		worker := &Worker{DB: g, Outbox: w.worker.Outbox, Roster: w.worker.Roster, Sender: w.worker.Sender, Log: quiet()}
		asked := &worker.turns[0].asked
		errs := make(chan error, others+1)
		for n := range int64(others + 1) {
			go func() { errs <- worker.compose(t.Context(), roster.Interactive) }()
			// The first is at it before the others ask.
			poll(t, "a composer asks", func() bool { return asked.Load() > n && g.begun.Load() > 0 })
		}
		close(g.opened)
		failed := 0
		for range others + 1 {
			if err := <-errs; err != nil {
				failed++
			}
		}
		if turns := g.begun.Load(); turns != wantTurns || failed != wantErrors {
			t.Errorf("%d composers took %d turns and %d failed, want %d and %d", others+1, turns, failed, wantTurns, wantErrors)
		}
	}
	compose(0, 2, 0)
	compose(3, 4, 3) // a turn that failed serves nobody else
}

// TestNews goes through everything an inviter is told: one mail each, in the
// inviter's language.
func TestNews(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		happen func(w *world, inv roster.Invitation)
		en, es string // in the subject
		person string // in the text
	}{
		"accepted": {func(w *world, inv roster.Invitation) { w.accept(inv) }, "accepted", "aceptó", "Ann N. Okafor"},
		"declined": {func(w *world, inv roster.Invitation) {
			if _, err := w.worker.Roster.DeclineInvitation(w.t.Context(), inv.Ticket()); err != nil {
				w.t.Fatal(err)
			}
		}, "declined", "rechazó", "Ann Okafor"},
		"expired": {func(w *world, inv roster.Invitation) {
			w.now = inv.ExpiresAt
			if _, err := w.worker.Roster.ExpireInvitations(w.t.Context(), 10); err != nil {
				w.t.Fatal(err)
			}
		}, "expired", "caducado", "Ann Okafor"},
		"asked for a new link": {func(w *world, inv roster.Invitation) {
			w.now = inv.ExpiresAt
			if err := w.worker.Roster.AskRenewal(w.t.Context(), inv.Ticket()); err != nil {
				w.t.Fatal(err)
			}
		}, "new link", "nuevo enlace", "Ann Okafor"},
	}
	for name, test := range tests {
		for lang, subject := range map[string]string{"en": test.en, "es": test.es} {
			t.Run(name+" "+lang, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, nil)
				w.exec(`UPDATE account SET locale = $1`, lang)
				test.happen(w, w.invite("ann@client.dev"))
				w.workWell(w.compose())
				m := w.message(w.inviter.ID)
				if m.Recipient != "marie@kindred.dev" || m.State != mail.Accepted || m.Sender != "Usher <usher@usher.dev>" {
					t.Errorf("message is %+v", m)
				}
				if !strings.Contains(m.Subject, subject) {
					t.Errorf("subject is %q, want %q in it", m.Subject, subject)
				}
				text := value[string](w, `SELECT text FROM dev_mail WHERE recipient = 'marie@kindred.dev'`)
				for _, want := range []string{"Marie Dupont", test.person, "Family Okafor"} {
					if !strings.Contains(text, want) {
						t.Errorf("the text does not say %q:\n%s", want, text)
					}
				}
				if strings.Contains(text, "/i/") {
					t.Errorf("the inviter got the person's link:\n%s", text)
				}
			})
		}
	}
}

func TestNewsOfMany(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	emails := []string{"ann@client.dev", "bea@client.dev", "cem@client.dev"}
	w.now = w.inviteAll(emails...)[0].ExpiresAt
	if n, err := w.worker.Roster.ExpireInvitations(t.Context(), 10); err != nil || n != 3 {
		t.Fatalf("%d expired (%v)", n, err)
	}
	w.workWell(w.compose())
	if w.mails() != 1 {
		t.Fatalf("%d mails, want 1 for one sweep and one inviter", w.mails())
	}
	text := value[string](w, `SELECT subject || text FROM dev_mail`)
	for _, want := range append(emails, "3") {
		if !strings.Contains(text, want) {
			t.Errorf("the letter does not say %q: %s", want, text)
		}
	}
}

func TestNewsLateCheck(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		sql    string
		state  mail.State
		reason string
	}{
		"inviter archived":   {`UPDATE account SET status = 'archived' WHERE id = $1`, mail.Cancelled, "archived"},
		"inviter blocked":    {`INSERT INTO address (app_id, email_key, block) SELECT app_id, email_key, 'provider' FROM account WHERE id = $1`, mail.Suppressed, "suppressed"},
		"events gone":        {`DELETE FROM event WHERE $1::uuid IS NOT NULL`, mail.Cancelled, "no news"},
		"another's news":     {`UPDATE invitation SET inviter_id = account_id WHERE inviter_id = $1`, mail.Cancelled, "no news"},
		"another app's mail": {`UPDATE message SET app_id = (SELECT id FROM app WHERE name = 'Other') WHERE subject_id = $1`, mail.Cancelled, "gone"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			if _, err := w.worker.Roster.CreateApp(t.Context(), roster.NewApp{Name: "Other"}); err != nil {
				t.Fatal(err)
			}
			w.accept(w.invite("ann@client.dev"))
			w.exec(test.sql, w.inviter.ID)
			w.workWell(w.job("compose_mail"))
			if m := w.message(w.inviter.ID); m.State != test.state || !strings.Contains(m.Reason, test.reason) {
				t.Errorf("message is %+v, want %s with %q", m, test.state, test.reason)
			}
			if w.mails() != 0 {
				t.Error("a mail was sent")
			}
		})
	}
}

// TestComposeUnknownKind: a composer that is older than the mail leaves it to a
// newer one.
func TestComposeUnknownKind(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	strange, torn, plain := w.invite("ann@client.dev"), w.invite("bea@client.dev"), w.invite("cem@client.dev")
	w.exec(`UPDATE message SET kind = 'postcard' WHERE id = $1`, *strange.MessageID)
	w.exec(`UPDATE message SET args = '{"version": "one"}' WHERE id = $1`, *torn.MessageID)
	if _, err := w.work(w.job("compose_mail")); err != nil {
		t.Fatal(err)
	}
	w.wantMails([]roster.Invitation{strange}, mail.Held)
	w.wantMails([]roster.Invitation{torn}, mail.Failed)
	w.wantMails([]roster.Invitation{plain}, mail.Sending)
}
