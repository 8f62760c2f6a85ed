package jobs

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/riverqueue/river/rivertype"

	"usher/internal/mail"
	"usher/internal/mail/mailtest"
	"usher/internal/roster"
)

// TestTellInviter goes through everything an inviter is told: one mail each, in
// the inviter's language.
func TestTellInviter(t *testing.T) {
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
				inv := w.invite("ann@client.dev")
				test.happen(w, inv)
				job := w.job("tell_inviter")
				row := w.workWell(job)
				m := w.message()
				if m.Recipient != "marie@kindred.dev" || m.State != mail.Accepted || m.Sender != "Usher <usher@usher.dev>" {
					t.Errorf("message is %+v", m)
				}
				if !strings.Contains(m.Subject, subject) {
					t.Errorf("subject is %q, want %q in it", m.Subject, subject)
				}
				for _, want := range []string{"Marie Dupont", test.person, "Family Okafor"} {
					if !strings.Contains(m.Text, want) {
						t.Errorf("the text does not say %q:\n%s", want, m.Text)
					}
				}
				if strings.Contains(m.Text, "/i/") {
					t.Errorf("the inviter got the person's link:\n%s", m.Text)
				}
				if !strings.Contains(string(row.Output()), m.ID.String()) {
					t.Errorf("output is %s", row.Output())
				}

				// The same news in a job of its own, as a replay would insert it.
				if _, err := w.worker.Roster.Jobs.InsertTx(t.Context(), w.tx, roster.TellInviter{
					AppID: w.app.ID, InviterID: w.inviter.ID, EventIDs: eventsOf(w, job),
				}, nil); err != nil {
					t.Fatal(err)
				}
				again := w.job("tell_inviter")
				if again.ID == job.ID {
					t.Fatal("there is no second job")
				}
				w.workWell(again)
				if w.mails() != 1 {
					t.Errorf("%d mails about one event, want 1", w.mails())
				}
			})
		}
	}
}

// eventsOf are the events a job tells of.
func eventsOf(w *world, job *rivertype.JobRow) (ids []uuid.UUID) {
	w.t.Helper()
	var args roster.TellInviter
	if err := json.Unmarshal(job.EncodedArgs, &args); err != nil {
		w.t.Fatal(err)
	}
	return args.EventIDs
}

func TestTellInviterOfMany(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	var last roster.Invitation
	for _, email := range []string{"ann@client.dev", "bea@client.dev", "cem@client.dev"} {
		last = w.invite(email)
	}
	w.now = last.ExpiresAt
	if n, err := w.worker.Roster.ExpireInvitations(t.Context(), 10); err != nil || n != 3 {
		t.Fatalf("%d expired (%v)", n, err)
	}
	w.workWell(w.job("tell_inviter"))
	if n := value[int](w, `SELECT count(*) FROM river_job WHERE kind = 'tell_inviter'`); n != 1 {
		t.Errorf("%d jobs, want 1 for one sweep and one inviter", n)
	}
	m := w.message()
	for _, want := range []string{"3", "ann@client.dev", "bea@client.dev", "cem@client.dev"} {
		if !strings.Contains(m.Subject+m.Text, want) {
			t.Errorf("the letter does not say %q: %s\n%s", want, m.Subject, m.Text)
		}
	}
}

func TestTellInviterLateCheck(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ sql, output string }{
		"inviter archived": {`UPDATE account SET status = 'archived' WHERE email = 'marie@kindred.dev'`, "archived"},
		"event gone":       {`DELETE FROM event`, "no news"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			w.accept(w.invite("ann@client.dev"))
			w.exec(test.sql)
			row := w.workWell(w.job("tell_inviter"))
			if out := string(row.Output()); !strings.HasPrefix(out, `"skipped: `) || !strings.Contains(out, test.output) {
				t.Errorf("output is %s", out)
			}
			if w.mails() != 0 {
				t.Error("a mail was sent")
			}
		})
	}
}

// TestTellInviterStaysInTheApp: a job whose ids do not belong together tells
// nothing.
func TestTellInviterStaysInTheApp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.accept(w.invite("ann@client.dev"))
	events := eventsOf(w, w.job("tell_inviter"))
	other, err := w.worker.Roster.CreateApp(t.Context(), roster.NewApp{Name: "Other"})
	if err != nil {
		t.Fatal(err)
	}
	stranger, err := w.worker.Roster.CreateAccount(t.Context(), other.ID, roster.NewAccount{
		Kind: roster.Professional, FullName: "Eve", Email: "eve@other.dev",
	}, roster.IdempotencyKey{})
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range []roster.TellInviter{
		{AppID: other.ID, InviterID: stranger.ID, EventIDs: events},
		{AppID: other.ID, InviterID: w.inviter.ID, EventIDs: events},
		{AppID: w.app.ID, InviterID: stranger.ID, EventIDs: events},
	} {
		if _, err := w.worker.Roster.Jobs.InsertTx(t.Context(), w.tx, args, nil); err != nil {
			t.Fatal(err)
		}
		row := w.workWell(w.job("tell_inviter"))
		if !strings.HasPrefix(string(row.Output()), `"skipped: `) {
			t.Errorf("%+v ended with %s", args, row.Output())
		}
	}
	if w.mails() != 0 {
		t.Errorf("%d mails", w.mails())
	}
}

func TestTellInviterOfNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	if _, err := w.worker.Roster.Jobs.InsertTx(t.Context(), w.tx, roster.TellInviter{AppID: w.app.ID, InviterID: w.inviter.ID}, nil); err != nil {
		t.Fatal(err)
	}
	row, _ := w.work(w.job("tell_inviter"))
	if row.State != rivertype.JobStateCancelled {
		t.Errorf("the job is %s, want it cancelled: no attempt can mend it", row.State)
	}
}

// TestTellInviterUnknownOutcome repeats the mail as it was, though the inviter
// and the person have other names by then.
func TestTellInviterUnknownOutcome(t *testing.T) {
	t.Parallel()
	p, sender := provider(t)
	w := newWorld(t, sender)
	w.accept(w.invite("ann@client.dev"))
	fail(t, p, mailtest.Fault{When: "after", Drop: true})
	row, err := w.work(w.job("tell_inviter"))
	if err == nil {
		t.Fatal("a lost answer was taken for one")
	}
	w.exec(`UPDATE account SET full_name = full_name || ' II', locale = 'fr'`)
	w.workWell(row)
	if l := ledger(t, p); l.Counters.Accepted != 1 || l.Counters.Replayed != 1 || l.Counters.ConflictingKeys != 0 {
		t.Errorf("counters are %+v", l.Counters)
	}
}
