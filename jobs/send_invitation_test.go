package jobs

import (
	"context"
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"usher/internal/mail"
	"usher/internal/mail/mailtest"
	"usher/internal/roster"
)

func TestSendInvitation(t *testing.T) {
	t.Parallel()
	p, sender := provider(t)
	w := newWorld(t, sender)
	inv := w.invite("Ann.Okafor@Bücher.dev")
	row := w.workWell(w.job("send_invitation"))

	m := w.message()
	if m.State != mail.Accepted || m.ProviderID == "" || m.SettledAt == nil || m.Attempts != 1 {
		t.Errorf("message is %+v", m)
	}
	if d := w.delivery(inv); d != roster.MailAccepted {
		t.Errorf("delivery is %s", d)
	}
	if out := string(row.Output()); !strings.Contains(out, m.ID.String()) || !strings.Contains(out, "accepted") {
		t.Errorf("the job's output is %s", out)
	}
	mails, err := p.Mails(t.Context(), "", 10*time.Second)
	if err != nil || len(mails) != 1 {
		t.Fatalf("%d mails (%v)", len(mails), err)
	}
	have := mails[0]
	link := "https://usher.dev/i/" + w.worker.Keys.Token(roster.PurposeInvitation, inv.Ticket())
	if have.ID != m.ProviderID || have.IdempotencyKey != m.ID.String() || have.From != "Usher <usher@usher.dev>" ||
		have.To[0] != "Ann.Okafor@xn--bcher-kva.dev" {
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

func TestSendInvitationAsTheApp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.exec(`UPDATE app SET mail_from = 'Kindred <mail@kindred.dev>', locale = 'fr'`)
	w.exec(`INSERT INTO account (id, app_id, kind, status, full_name, email, email_key, locale, created_at)
		VALUES (gen_random_uuid(), $1, 'client', 'active', 'Ann', 'ann@client.dev', 'ann@client.dev', 'es', now())`, w.app.ID)
	w.invite("bob@client.dev")
	w.workWell(w.job("send_invitation"))
	if m := w.message(); m.Sender != "Kindred <mail@kindred.dev>" || !strings.Contains(m.Text, "Bonjour") {
		t.Errorf("message is from %s: %s", m.Sender, m.Text)
	}
	w.exec(`DELETE FROM message`)
	w.invite("ann@client.dev")
	w.workWell(w.job("send_invitation"))
	if m := w.message(); !strings.Contains(m.Text, "Hola") {
		t.Errorf("the account's own language is es, the mail says %s", m.Text)
	}
}

// TestLateCheck lets the invitation move on between the job and its work: no
// mail, and the job says why.
func TestLateCheck(t *testing.T) {
	t.Parallel()
	none := roster.IdempotencyKey{}
	tests := map[string]struct {
		moveOn func(w *world, inv roster.Invitation) error
		output string
	}{
		"accepted": {func(w *world, inv roster.Invitation) error { w.accept(inv); return nil }, "accepted"},
		"declined": {func(w *world, inv roster.Invitation) error {
			_, err := w.worker.Roster.DeclineInvitation(w.t.Context(), inv.Ticket())
			return err
		}, "declined"},
		"revoked": {func(w *world, inv roster.Invitation) error {
			_, err := w.worker.Roster.RevokeInvitation(w.t.Context(), w.app.ID, w.inviter.ID, inv.ID, none)
			return err
		}, "revoked"},
		"corrected": {func(w *world, inv roster.Invitation) error {
			_, err := w.worker.Roster.CorrectInvitationAddress(w.t.Context(), w.app.ID, w.inviter.ID, inv.ID, "anna@client.dev", none)
			return err
		}, "replaced"},
		"sent anew": {func(w *world, inv roster.Invitation) error {
			w.now = w.now.Add(2 * time.Hour)
			_, err := w.worker.Roster.ResendInvitation(w.t.Context(), w.app.ID, w.inviter.ID, inv.ID, none)
			return err
		}, "newer mail"},
		"expired": {func(w *world, inv roster.Invitation) error {
			w.now = inv.ExpiresAt
			_, err := w.worker.Roster.ExpireInvitations(w.t.Context(), 10)
			return err
		}, "expired"},
		"over, not yet swept": {func(w *world, inv roster.Invitation) error { w.now = inv.ExpiresAt; return nil }, "expired"},
		"on hold": {func(w *world, inv roster.Invitation) error {
			w.exec(`UPDATE invitation SET state = 'on_hold'`)
			return nil
		}, "on_hold"},
		"workspace archived": {func(w *world, inv roster.Invitation) error {
			w.exec(`UPDATE workspace SET state = 'archived'`)
			return nil
		}, "revoked"},
		"gone": {func(w *world, inv roster.Invitation) error { w.exec(`DELETE FROM invitation`); return nil }, "gone"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			inv := w.invite("ann@client.dev")
			job := w.job("send_invitation")
			if err := test.moveOn(w, inv); err != nil {
				t.Fatal(err)
			}
			row := w.workWell(job)
			if out := string(row.Output()); !strings.HasPrefix(out, `"skipped: `) || !strings.Contains(out, test.output) {
				t.Errorf("output is %s, want skipped with %q", out, test.output)
			}
			if n := value[int](w, `SELECT count(*) FROM message`); n != 0 || w.mails() != 0 {
				t.Errorf("%d messages and %d mails, want none", n, w.mails())
			}
		})
	}
}

// TestLateCheckAfterUnknownOutcome: the first attempt may have got through, then
// the invitation was revoked. It is not sent again, and not called sent.
func TestLateCheckAfterUnknownOutcome(t *testing.T) {
	t.Parallel()
	p, sender := provider(t)
	w := newWorld(t, sender)
	inv := w.invite("ann@client.dev")
	fail(t, p, mailtest.Fault{When: "before", Drop: true})
	row, err := w.work(w.job("send_invitation"))
	if err == nil {
		t.Fatal("a dropped connection was taken for an answer")
	}
	if _, err := w.worker.Roster.RevokeInvitation(t.Context(), w.app.ID, w.inviter.ID, inv.ID, roster.IdempotencyKey{}); err != nil {
		t.Fatal(err)
	}
	w.workWell(row)
	if m := w.message(); m.State != mail.Uncertain || m.Error == "" {
		t.Errorf("message is %+v", m)
	}
	if l := ledger(t, p); l.Counters.Accepted != 0 {
		t.Errorf("%d mails accepted", l.Counters.Accepted)
	}
}

func TestRefusedForGood(t *testing.T) {
	t.Parallel()
	p, sender := provider(t)
	w := newWorld(t, sender)
	inv := w.invite("ann@example.com") // which the provider does not take
	row := w.workWell(w.job("send_invitation"))
	if m := w.message(); m.State != mail.Failed || !strings.Contains(m.Error, "422 validation_error") || m.SettledAt == nil {
		t.Errorf("message is %+v", m)
	}
	if d := w.delivery(inv); d != roster.MailFailed {
		t.Errorf("delivery is %s", d)
	}
	if state := value[string](w, `SELECT state FROM invitation`); state != "pending" {
		t.Errorf("a delivery decided the invitation: %s", state)
	}
	if !strings.Contains(string(row.Output()), "failed") {
		t.Errorf("output is %s", row.Output())
	}
	if l := ledger(t, p); l.Counters.Requests != 1 {
		t.Errorf("%d requests, want 1", l.Counters.Requests)
	}
}

// TestRefusedForNow snoozes on definite refusals: no attempt is spent, nothing
// is settled, and the mail goes out later.
func TestRefusedForNow(t *testing.T) {
	t.Parallel()
	body := func(status, name string) *string {
		s := `{"statusCode":` + status + `,"message":"because","name":"` + name + `"}`
		return &s
	}
	tests := map[string]struct {
		fault mailtest.Fault
		wait  time.Duration
	}{
		"too fast": {mailtest.Fault{Status: http.StatusTooManyRequests, Body: body("429", "rate_limit_exceeded"), Headers: map[string]string{"retry-after": "30"}}, 30 * time.Second},
		"quota":    {mailtest.Fault{Status: http.StatusTooManyRequests, Body: body("429", "daily_quota_exceeded")}, time.Hour},
		"API key":  {mailtest.Fault{Status: http.StatusUnauthorized, Body: body("401", "restricted_api_key")}, time.Minute},
		"domain":   {mailtest.Fault{Status: http.StatusForbidden, Body: body("403", "validation_error")}, time.Minute},
		"in flight": {mailtest.Fault{
			Status: http.StatusConflict, Body: body("409", "concurrent_idempotent_requests"),
		}, 3 * time.Second},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, sender := provider(t)
			w := newWorld(t, sender)
			inv := w.invite("ann@client.dev")
			test.fault.Times = 3
			fail(t, p, test.fault)
			row := w.job("send_invitation")
			for range 3 {
				began := time.Now()
				var err error
				if row, err = w.work(row); err != nil {
					t.Fatalf("the attempt failed: %v", err)
				}
				if row.State != rivertype.JobStateScheduled && row.State != rivertype.JobStateAvailable || row.Attempt != 0 || len(row.Errors) != 0 {
					t.Fatalf("the job is %s after %d attempts and %d errors, want it snoozed and none", row.State, row.Attempt, len(row.Errors))
				}
				if wait := row.ScheduledAt.Sub(began); wait < test.wait-time.Second || wait > test.wait+10*time.Second {
					t.Errorf("it waits %s, want %s", wait, test.wait)
				}
			}
			if m := w.message(); m.State != mail.Sending || w.delivery(inv) != roster.MailSending {
				t.Errorf("message is %s, delivery %s", m.State, w.delivery(inv))
			}
			w.workWell(row)
			if l := ledger(t, p); l.Counters.Accepted != 1 || w.delivery(inv) != roster.MailAccepted {
				t.Errorf("%d mails accepted, delivery %s", l.Counters.Accepted, w.delivery(inv))
			}
		})
	}
}

// TestUnknownOutcomeIsSentAgainAsItWas: everything the letter is made of has
// changed before the second attempt, which still sends the first one's bytes
// under the same key. The stand-in answers 409 if they differ.
func TestUnknownOutcomeIsSentAgainAsItWas(t *testing.T) {
	t.Parallel()
	cut := `{"id":"49a3`
	tests := map[string]struct {
		fault    mailtest.Fault
		replayed int
	}{
		"answer lost":      {mailtest.Fault{When: "after", Drop: true}, 1},
		"fault afterwards": {mailtest.Fault{When: "after", Status: 500}, 1},
		"answer cut off":   {mailtest.Fault{When: "after", Status: 200, Body: &cut}, 1},
		"request lost":     {mailtest.Fault{When: "before", Drop: true}, 0},
		"fault before":     {mailtest.Fault{When: "before", Status: 503}, 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, sender := provider(t)
			w := newWorld(t, sender)
			inv := w.invite("ann@client.dev")
			fail(t, p, test.fault)
			row, err := w.work(w.job("send_invitation"))
			if err == nil || row.State != rivertype.JobStateRetryable && row.State != rivertype.JobStateAvailable {
				t.Fatalf("the job is %s after %v, want it retried", row.State, err)
			}
			first := w.message()
			if first.State != mail.Sending || w.delivery(inv) != roster.MailSending {
				t.Fatalf("message is %s, delivery %s", first.State, w.delivery(inv))
			}

			w.now = w.now.Add(22 * time.Hour)
			w.exec(`UPDATE account SET full_name = 'Maria Duval'`)
			w.exec(`UPDATE app SET name = 'Other Brand', brand_color = '#112233', locale = 'es', mail_from = 'Other <other@kindred.dev>'`)
			w.exec(`UPDATE workspace SET name = 'Other Workspace'`)
			w.exec(`UPDATE company SET name = 'Other Company', time_zone = 'Asia/Tokyo'`)
			w.exec(`UPDATE invitation SET full_name = 'Anna', note = 'other words'`)
			w.workWell(row)

			m := w.message()
			if m.ID != first.ID || m.State != mail.Accepted || m.Attempts != 2 || w.delivery(inv) != roster.MailAccepted {
				t.Errorf("message is %+v, delivery %s", m, w.delivery(inv))
			}
			l := ledger(t, p)
			if l.Counters.Accepted != 1 || l.Counters.Replayed != test.replayed || l.Counters.ConflictingKeys != 0 || len(l.Messages) != 1 || l.Messages[0].MessageID != m.ID.String() {
				t.Errorf("ledger is %+v", l)
			}
			mails, err := p.Mails(t.Context(), "", 10*time.Second)
			if err != nil || len(mails) != 1 || mails[0].Text != first.Text || !strings.Contains(mails[0].Text, "Marie Dupont") || mails[0].ID != m.ProviderID {
				t.Errorf("mails are %+v (%v)", mails, err)
			}
		})
	}
}

func TestUncertainAfter23Hours(t *testing.T) {
	t.Parallel()
	p, sender := provider(t)
	w := newWorld(t, sender)
	inv := w.invite("ann@client.dev")
	fail(t, p, mailtest.Fault{When: "after", Drop: true})
	row, err := w.work(w.job("send_invitation"))
	if err == nil {
		t.Fatal("a lost answer was taken for one")
	}
	w.now = w.now.Add(23 * time.Hour)
	if err := p.Advance(t.Context(), 25*time.Hour); err != nil {
		t.Fatal(err)
	}
	w.workWell(row)
	if m := w.message(); m.State != mail.Uncertain || m.SettledAt == nil || m.Error == "" {
		t.Errorf("message is %+v", m)
	}
	if d := w.delivery(inv); d != roster.MailSending {
		t.Errorf("delivery is %s, though nobody knows", d)
	}
	if l := ledger(t, p); l.Counters.Requests != 1 || l.Counters.Accepted != 1 {
		t.Errorf("%d requests and %d mails, want 1 of each", l.Counters.Requests, l.Counters.Accepted)
	}
}

func TestContested(t *testing.T) {
	t.Parallel()
	p, sender := provider(t)
	w := newWorld(t, sender)
	inv := w.invite("ann@client.dev")
	body := `{"statusCode":409,"message":"because","name":"invalid_idempotent_request"}`
	fail(t, p, mailtest.Fault{Status: http.StatusConflict, Body: &body})
	row := w.workWell(w.job("send_invitation"))
	if m := w.message(); m.State != mail.Uncertain || !strings.Contains(m.Error, "invalid_idempotent_request") || w.delivery(inv) != roster.MailSending {
		t.Errorf("message is %+v, delivery %s", m, w.delivery(inv))
	}
	if !strings.Contains(string(row.Output()), "uncertain") {
		t.Errorf("output is %s", row.Output())
	}
}

// TestSentTwiceIsTwoMails: a resend is a message of its own, and the older
// one's late word does not show on the invitation.
func TestSentTwiceIsTwoMails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	inv := w.invite("ann@client.dev")
	w.workWell(w.job("send_invitation"))
	w.now = w.now.Add(2 * time.Hour)
	if _, err := w.worker.Roster.ResendInvitation(t.Context(), w.app.ID, w.inviter.ID, inv.ID, roster.IdempotencyKey{}); err != nil {
		t.Fatal(err)
	}
	if d := w.delivery(inv); d != roster.MailQueued {
		t.Errorf("delivery is %s", d)
	}
	w.workWell(w.job("send_invitation"))
	if n := value[int](w, `SELECT count(DISTINCT dedupe_key) FROM message WHERE state = 'accepted'`); n != 2 || w.mails() != 2 {
		t.Errorf("%d messages and %d mails, want 2", n, w.mails())
	}
}

// senderFunc stands for the provider where a test acts during the call.
type senderFunc func(ctx context.Context, m mail.Message) (string, error)

func (f senderFunc) Send(ctx context.Context, m mail.Message) (string, error) { return f(ctx, m) }

// TestFence gives the job to another attempt while this one talks to the
// provider, as a rescue does: this one then changes nothing.
func TestFence(t *testing.T) {
	t.Parallel()
	for name, takeAway := range map[string]string{
		"another attempt runs": `UPDATE river_job SET attempt = attempt + 1 WHERE id = $1`,
		"it waits again":       `UPDATE river_job SET state = 'available' WHERE id = $1`,
		"an operator ended it": `UPDATE river_job SET state = 'cancelled', finalized_at = now() WHERE id = $1`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			box := w.worker.Sender
			var job *rivertype.JobRow
			w.worker.Sender = senderFunc(func(ctx context.Context, m mail.Message) (string, error) {
				w.exec(takeAway, job.ID)
				return box.Send(ctx, m)
			})
			inv := w.invite("ann@client.dev")
			job = w.job("send_invitation")
			if _, err := w.work(job); err == nil || !strings.Contains(err.Error(), errOvertaken.Error()) {
				t.Fatalf("the attempt ended with %v", err)
			}
			if m := w.message(); m.State != mail.Sending || m.ProviderID != "" || w.delivery(inv) != roster.MailSending {
				t.Errorf("message is %+v, delivery %s", m, w.delivery(inv))
			}
			if n := value[int](w, `SELECT count(*) FROM river_job WHERE state = 'completed'`); n != 0 {
				t.Error("the attempt completed another one's job")
			}

			// Whoever has the job sends under the same key: one mail in effect.
			w.worker.Sender = box
			w.exec(`UPDATE river_job SET state = 'available', finalized_at = NULL WHERE id = $1`, job.ID)
			w.workWell(w.row(job.ID))
			if m := w.message(); m.State != mail.Accepted || w.mails() != 1 {
				t.Errorf("message is %s, %d mails", m.State, w.mails())
			}
		})
	}
}

// TestFenceOnSkip: an attempt that was given up ends nothing either where it
// finds nothing to do.
func TestFenceOnSkip(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	inv := w.invite("ann@client.dev")
	send := w.job("send_invitation")
	w.accept(inv)
	tell := w.job("tell_inviter")
	w.exec(`UPDATE account SET status = 'archived' WHERE id = $1`, w.inviter.ID)
	w.exec(`UPDATE river_job SET state = 'running', attempt = 2`)
	before := value[string](w, `SELECT string_agg(river_job::text, ' ' ORDER BY id) FROM river_job`)
	send.Attempt, tell.Attempt = 1, 1
	err := (&sendInvitation{Worker: w.worker}).Work(t.Context(), &river.Job[roster.SendInvitation]{
		JobRow: send, Args: roster.SendInvitation{ID: inv.ID, Version: 1, Send: 1},
	})
	if !errors.Is(err, errOvertaken) {
		t.Errorf("the send job ended with %v", err)
	}
	err = (&tellInviter{Worker: w.worker}).Work(t.Context(), &river.Job[roster.TellInviter]{
		JobRow: tell, Args: roster.TellInviter{AppID: w.app.ID, InviterID: w.inviter.ID, EventIDs: uuids(1)},
	})
	if !errors.Is(err, errOvertaken) {
		t.Errorf("the tell job ended with %v", err)
	}
	if after := value[string](w, `SELECT string_agg(river_job::text, ' ' ORDER BY id) FROM river_job`); after != before {
		t.Errorf("the jobs changed from\n%s to\n%s", before, after)
	}
}

// TestOutcomeIsRecordedAfterTheStop: the process is told to stop while the
// provider answers; the answer is kept all the same.
func TestOutcomeIsRecordedAfterTheStop(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	inv := w.invite("ann@client.dev")
	box := w.worker.Sender
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	w.worker.Sender = senderFunc(func(_ context.Context, m mail.Message) (string, error) {
		id, err := box.Send(t.Context(), m)
		stop()
		return id, err
	})
	row, err := attemptIn(ctx, w, w.job("send_invitation"), &sendInvitation{Worker: w.worker})
	if err != nil || row.State != rivertype.JobStateCompleted {
		t.Errorf("the job is %s after %v", row.State, err)
	}
	if m := w.message(); m.State != mail.Accepted || w.delivery(inv) != roster.MailAccepted {
		t.Errorf("message is %s, delivery %s", m.State, w.delivery(inv))
	}
}
