package jobs

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"usher/internal/mail"
	"usher/internal/mail/mailtest"
	"usher/internal/roster"
)

// problem is the provider's error body.
func problem(status int, name string) *string {
	body := fmt.Sprintf(`{"statusCode":%d,"message":"because","name":%q}`, status, name)
	return &body
}

// refusal is a fault that answers with the provider's error body.
func refusal(status int, name string) mailtest.Fault {
	return mailtest.Fault{Status: status, Body: problem(status, name)}
}

var (
	tooFast    = mailtest.Fault{Status: http.StatusTooManyRequests, Body: problem(429, "rate_limit_exceeded"), Headers: map[string]string{"retry-after": "30", "ratelimit-limit": "7"}}
	overQuota  = refusal(http.StatusTooManyRequests, "daily_quota_exceeded")
	wrongKey   = refusal(http.StatusUnauthorized, "restricted_api_key")
	badDomain  = refusal(http.StatusForbidden, "validation_error")
	badRequest = refusal(http.StatusUnprocessableEntity, "validation_error")
	inFlight   = refusal(http.StatusConflict, "concurrent_idempotent_requests")
	contested  = refusal(http.StatusConflict, "invalid_idempotent_request")
	lostAnswer = mailtest.Fault{When: "after", Status: http.StatusInternalServerError}
)

// wantSnoozed sees that the job waits without having failed.
func wantSnoozed(t *testing.T, row *rivertype.JobRow, err error, began time.Time, wait time.Duration) {
	t.Helper()
	if err != nil {
		t.Fatalf("the attempt failed: %v", err)
	}
	if row.State != rivertype.JobStateScheduled && row.State != rivertype.JobStateAvailable || row.Attempt != len(row.Errors) {
		t.Fatalf("the job is %s after %d attempts and %d errors, want it snoozed and the attempt not counted", row.State, row.Attempt, len(row.Errors))
	}
	if have := row.ScheduledAt.Sub(began); have < wait-time.Second || have > wait+10*time.Second {
		t.Errorf("it waits %s, want %s", have, wait)
	}
}

// wantRetried sees that the job failed and is tried again.
func wantRetried(t *testing.T, row *rivertype.JobRow, err error) {
	t.Helper()
	if err == nil || row.State != rivertype.JobStateRetryable && row.State != rivertype.JobStateAvailable {
		t.Fatalf("the job is %s after %v, want it retried", row.State, err)
	}
}

// TestThrottled: too fast is nobody's fault. The dispatch waits as it is.
func TestThrottled(t *testing.T) {
	t.Parallel()
	p, sender := provider(t)
	w := newWorld(t, sender)
	inv := w.inviteAll("ann@client.dev", "bea@client.dev")
	row := w.compose()
	for n := range 3 {
		fail(t, p, tooFast)
		began := time.Now()
		var err error
		row, err = w.work(row)
		wantSnoozed(t, row, err, began, 30*time.Second)
		w.wantDispatches(fmt.Sprintf("sending %d 0", n+1))
		if reason, wait := w.pace(); !strings.HasPrefix(reason, "429 rate_limit_exceeded") || wait < 25 || wait > 30 {
			t.Errorf("the way is blocked for %f s by %q", wait, reason)
		}
		if rate := value[float64](w, `SELECT rate FROM pace WHERE id = $1`, w.worker.Sender.Name()); rate != 7 {
			t.Errorf("the rate is %f, want what the provider said", rate)
		}
		w.later(30 * time.Second)
	}
	w.wantMails(inv, mail.Sending, mail.Sending)
	w.workWell(row)
	w.wantMails(inv, mail.Accepted, mail.Accepted)
	if reason, _ := w.pace(); reason != "" {
		t.Errorf("mail flows and is said to be blocked by %q", reason)
	}
	if l := ledger(t, p); l.Counters.Accepted != 2 || l.Counters.ConflictingKeys != 0 {
		t.Errorf("counters are %+v", l.Counters)
	}
}

// TestStopped: something is to be mended before any mail can leave. All is held
// with the reason, checked again when its time comes, and then flows.
func TestStopped(t *testing.T) {
	t.Parallel()
	midnight := func() time.Duration {
		now := time.Now().UTC()
		return now.Truncate(24 * time.Hour).Add(24 * time.Hour).Sub(now)
	}
	gone := senderFunc(func(context.Context, mail.Dispatch) (mail.Receipt, error) {
		return mail.Receipt{}, &mail.SendError{Outcome: mail.Stopped, After: 15 * time.Second, Reason: "the provider cannot be reached"}
	})
	for name, test := range map[string]struct {
		fault  mailtest.Fault
		sender mail.Sender
		reason string
		wait   time.Duration
	}{
		"quota":       {overQuota, nil, "429 daily_quota_exceeded", midnight()},
		"month":       {refusal(429, "monthly_quota_exceeded"), nil, "429 monthly_quota_exceeded", midnight()},
		"API key":     {wrongKey, nil, "401 restricted_api_key", time.Minute},
		"wrong":       {refusal(403, "invalid_api_key"), nil, "403 invalid_api_key", time.Minute},
		"address":     {refusal(404, "not_found"), nil, "404 not_found", time.Minute},
		"unreachable": {mailtest.Fault{}, gone, "cannot be reached", 15 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, sender := provider(t)
			w := newWorld(t, sender)
			inv := w.inviteAll("ann@client.dev", "bea@client.dev", "cem@client.dev")
			job := w.compose()
			if test.sender != nil {
				w.sendsBy(test.sender)
			} else {
				fail(t, p, test.fault)
			}
			row := w.workWell(job)
			if out := string(row.Output()); !strings.Contains(out, "dissolved: "+test.reason) && !strings.Contains(out, test.reason) {
				t.Errorf("output is %s", out)
			}
			w.wantDispatches("dissolved 1 0")
			w.wantMails(inv, mail.Held, mail.Held, mail.Held)
			if m := w.message(inv[0].ID); !strings.Contains(m.Reason, test.reason) || m.DueAt == nil {
				t.Errorf("message is %+v, want the reason and when it is tried again", m)
			} else if wait := m.DueAt.Sub(w.now); (wait-test.wait).Abs() > 10*time.Minute || test.wait < time.Hour && wait != test.wait {
				t.Errorf("it waits %s, want %s", wait, test.wait)
			}
			due := *w.message(inv[0].ID).DueAt
			if reason, wait := w.pace(); !strings.Contains(reason, test.reason) || wait < due.Sub(w.now).Seconds()-20 {
				t.Errorf("the way is blocked for %f s by %q", wait, reason)
			}
			// A new one waits with them, and nothing is frozen.
			later := w.invite("dan@client.dev")
			w.workWell(w.job("compose_mail"))
			w.wantDispatches("dissolved 1 0")
			w.wantMails([]roster.Invitation{later}, mail.Queued)
			if have := value[time.Time](w, `SELECT max(scheduled_at) FROM river_job WHERE kind = 'compose_mail'`); (have.Sub(due)).Abs() > time.Second {
				t.Errorf("the composer comes at %s, want %s", have, due)
			}

			// Meanwhile one decides, and the operator mends it.
			w.accept(inv[1])
			w.sendsBy(sender)
			w.later(due.Sub(w.now))
			w.wake()
			w.workWell(w.compose())
			w.wantMails(append(inv, later), mail.Accepted, mail.Cancelled, mail.Accepted, mail.Accepted)
			if m := w.message(inv[0].ID); m.Reason != "" {
				t.Errorf("a sent mail is said to be held: %s", m.Reason)
			}
			if reason, wait := w.pace(); reason != "" || wait != 0 {
				t.Errorf("the way is blocked for %f s by %q", wait, reason)
			}
			if l := ledger(t, p); l.Counters.Accepted != 3 {
				t.Errorf("%d mails accepted, want 3", l.Counters.Accepted)
			}
		})
	}
}

// TestSenderRefused holds the mail of the app whose sender the provider does not
// take, and no other app's.
func TestSenderRefused(t *testing.T) {
	t.Parallel()
	p, sender := provider(t)
	w := newWorld(t, sender)
	other := w.another()
	inv := w.inviteAll("ann@client.dev", "bea@client.dev", "cem@client.dev")
	theirs := other.inviteAll("dan@client.dev", "eve@client.dev")
	bad := badDomain // which is about one mail of the dispatch
	bad.Match.To, bad.Times = "bea@client.dev", 100
	fail(t, p, bad)
	w.drain(w.compose())
	w.wantMails(inv, mail.Accepted, mail.Held, mail.Accepted)
	w.wantMails(theirs, mail.Accepted, mail.Accepted)
	if reason, wait := w.pace(); reason != "" || wait != 0 {
		t.Errorf("everybody is blocked for %f s by %q", wait, reason)
	}
	later, others := w.invite("fay@client.dev"), other.invite("gus@client.dev")
	w.workWell(w.compose())
	w.wantMails([]roster.Invitation{inv[1], later, others}, mail.Held, mail.Held, mail.Accepted)
	for _, held := range []roster.Invitation{inv[1], later} {
		m := w.message(held.ID)
		if !strings.HasPrefix(m.Reason, "403 validation_error") || m.DueAt == nil || !m.DueAt.Equal(w.now.Add(senderPause)) {
			t.Errorf("message is %+v", m)
		}
	}

	fail(t, p)
	w.later(senderPause)
	w.wake()
	w.workWell(w.compose())
	w.wantMails(append(inv, later), mail.Accepted, mail.Accepted, mail.Accepted, mail.Accepted)
	if l := ledger(t, p); l.Counters.Accepted != 7 || len(l.Messages) != 7 {
		t.Errorf("%d mails accepted, want 7", l.Counters.Accepted)
	}
}

// wake has what a person waits for composed, as the clock does each minute.
func (w *world) wake() {
	w.t.Helper()
	if _, err := w.worker.Roster.Jobs.InsertTx(w.t.Context(), w.tx, roster.ComposeMail{Lane: roster.Interactive}, nil); err != nil {
		w.t.Fatal(err)
	}
}

// drain works a dispatch's job and all that come of it.
func (w *world) drain(job *rivertype.JobRow) {
	w.t.Helper()
	for range 100 {
		w.workWell(job)
		next := value[*int64](w, `SELECT min(id) FROM river_job WHERE kind = 'send_dispatch' AND finalized_at IS NULL`)
		if next == nil {
			return
		}
		job = w.row(*next)
	}
	w.t.Fatal("there is no end of dispatches")
}

func TestRefusedForGood(t *testing.T) {
	t.Parallel()
	p, sender := provider(t)
	w := newWorld(t, sender)
	inv := w.invite("ann@example.com") // which the provider does not take
	row := w.workWell(w.compose())
	if m := w.message(inv.ID); m.State != mail.Failed || !strings.HasPrefix(m.Reason, "422 validation_error") || m.DueAt != nil {
		t.Errorf("message is %+v", m)
	}
	w.wantDispatches("settled 1 0")
	if state := value[string](w, `SELECT state FROM invitation`); state != "pending" {
		t.Errorf("a mail decided the invitation: %s", state)
	}
	if out := string(row.Output()); out != `"refused"` {
		t.Errorf("output is %s", out)
	}
	if l := ledger(t, p); l.Counters.Requests != 1 {
		t.Errorf("%d requests, want 1", l.Counters.Requests)
	}
}

// TestRefusedAmongOthers: the provider names the one it refuses, the rest goes.
func TestRefusedAmongOthers(t *testing.T) {
	t.Parallel()
	p, sender := provider(t)
	w := newWorld(t, sender)
	inv := w.inviteAll("ann@client.dev", "bea@example.com", "cem@client.dev")
	w.workWell(w.compose())
	w.wantMails(inv, mail.Accepted, mail.Failed, mail.Accepted)
	w.wantDispatches("settled 1 0")
	if m := w.message(inv[1].ID); !strings.HasPrefix(m.Reason, "refused: ") || m.ProviderID != "" {
		t.Errorf("message is %+v", m)
	}
	if l := ledger(t, p); l.Counters.Accepted != 2 || l.Counters.Requests != 1 {
		t.Errorf("counters are %+v", l.Counters)
	}
}

// TestRefusedAsAWhole halves a dispatch until the mail that the provider objects
// to is alone. Everybody else gets the mail, once.
func TestRefusedAsAWhole(t *testing.T) {
	t.Parallel()
	p, sender := provider(t)
	w := newWorld(t, sender)
	emails := make([]string, 7)
	want := slices.Repeat([]mail.State{mail.Accepted}, len(emails))
	for i := range emails {
		emails[i] = fmt.Sprintf("ann.%d@client.dev", i)
	}
	want[3] = mail.Failed
	inv := w.inviteAll(emails...)
	bad := badRequest
	bad.Match.To, bad.Times = emails[3], 100
	fail(t, p, bad)
	row := w.workWell(w.compose())
	if out := string(row.Output()); !strings.Contains(out, "split: 422 validation_error") {
		t.Errorf("output is %s", out)
	}
	w.wantDispatches("dissolved 1 0", "ready 0 0", "ready 0 0")
	w.drain(w.job("send_dispatch"))
	w.wantMails(inv, want...)
	if m := w.message(inv[3].ID); !strings.HasPrefix(m.Reason, "422 validation_error") {
		t.Errorf("it failed because %q", m.Reason)
	}
	l := ledger(t, p)
	if l.Counters.Accepted != 6 || len(l.Messages) != 6 || l.Counters.ConflictingKeys != 0 || l.Counters.Requests > 7 {
		t.Errorf("counters are %+v", l.Counters)
	}
}

// TestInFlight: the same request is at work already. What comes of it is
// unknown, so it is asked again and never dissolved.
func TestInFlight(t *testing.T) {
	t.Parallel()
	p, sender := provider(t)
	w := newWorld(t, sender)
	inv := w.invite("ann@client.dev")
	fail(t, p, inFlight)
	began := time.Now()
	row, err := w.work(w.compose())
	wantSnoozed(t, row, err, began, 3*time.Second)
	w.wantDispatches("sending 1 1")
	if reason, wait := w.pace(); reason != "" || wait != 0 {
		t.Errorf("everybody is blocked for %f s by %q", wait, reason)
	}
	w.workWell(row)
	w.wantMails([]roster.Invitation{inv}, mail.Accepted)
	w.wantDispatches("settled 2 0")
}

// TestUnknownOutcomeIsSentAgainAsItWas: everything the letters are made of has
// changed before the second attempt, one of them is no longer wanted, and the
// way out was blocked. Still the first one's bytes are sent under the same key.
// The stand-in answers 409 if they differ.
func TestUnknownOutcomeIsSentAgainAsItWas(t *testing.T) {
	t.Parallel()
	cut := `{"id":"49a3`
	tests := map[string]struct {
		fault    mailtest.Fault
		replayed int
	}{
		"answer lost":      {mailtest.Fault{When: "after", Status: 504}, 1},
		"fault afterwards": {lostAnswer, 1},
		"answer cut off":   {mailtest.Fault{When: "after", Status: 200, Body: &cut}, 1},
		"broken off":       {mailtest.Fault{Kind: "truncated"}, 1},
		"no id":            {mailtest.Fault{Kind: "no_id"}, 1},
		"proxy's page":     {mailtest.Fault{Kind: "html_502"}, 0},
		"fault before":     {mailtest.Fault{When: "before", Status: 503}, 0},
	}
	for name, test := range tests {
		for _, emails := range [][]string{{"ann@client.dev"}, {"ann@client.dev", "bea@client.dev", "cem@client.dev"}} {
			t.Run(fmt.Sprint(name, " ", len(emails)), func(t *testing.T) {
				t.Parallel()
				p, sender := provider(t)
				if err := p.Config(t.Context(), mailtest.Config{Idempotency: "bytes"}); err != nil {
					t.Fatal(err)
				}
				w := newWorld(t, sender)
				inv := w.inviteAll(emails...)
				fail(t, p, test.fault)
				row, err := w.work(w.compose())
				wantRetried(t, row, err)
				w.wantDispatches("sending 1 1")
				w.wantMails(inv, slices.Repeat([]mail.State{mail.Sending}, len(inv))...)

				w.exec(`UPDATE account SET full_name = 'Maria Duval'`)
				w.exec(`UPDATE app SET name = 'Other Brand', brand_color = '#112233', locale = 'es', mail_from = 'Other <other@kindred.dev>'`)
				w.exec(`UPDATE workspace SET name = 'Other Workspace'`)
				w.exec(`UPDATE company SET name = 'Other Company', time_zone = 'Asia/Tokyo'`)
				w.exec(`UPDATE invitation SET full_name = 'Anna', note = 'other words'`)
				w.accept(inv[0])
				w.later(22 * time.Hour)
				row, err = w.attemptBlocked(row)
				wantSnoozed(t, row, err, time.Now(), time.Hour)
				w.wantDispatches("sending 1 1")
				w.workWell(row)

				w.wantDispatches("settled 2 0")
				w.wantMails(inv, slices.Repeat([]mail.State{mail.Accepted}, len(inv))...)
				l := ledger(t, p)
				if l.Counters.Accepted != len(inv) || l.Counters.Replayed != test.replayed || l.Counters.ConflictingKeys != 0 || len(l.Messages) != len(inv) {
					t.Errorf("ledger is %+v", l)
				}
				mails, err := p.MailsN(t.Context(), "", len(inv), 10*time.Second)
				if err != nil || len(mails) != len(inv) || !strings.Contains(mails[0].Text, "Marie Dupont") || mails[0].ID != w.message(inv[0].ID).ProviderID {
					t.Errorf("mails are %+v (%v)", mails, err)
				}
			})
		}
	}
}

// attemptBlocked makes an attempt at the job while the way out is blocked for an
// hour, which is over then.
func (w *world) attemptBlocked(job *rivertype.JobRow) (*rivertype.JobRow, error) {
	w.t.Helper()
	const set = `UPDATE pace SET blocked_until = blocked_until + $2::interval WHERE id = $1`
	way := w.worker.Sender.Name()
	w.exec(`UPDATE pace SET blocked_until = clock_timestamp() + interval '1 hour' WHERE id = $1`, way)
	row, err := w.work(job)
	w.exec(set, way, -time.Hour)
	return row, err
}

func TestUncertainAfter23Hours(t *testing.T) {
	t.Parallel()
	p, sender := provider(t)
	w := newWorld(t, sender)
	inv := w.inviteAll("ann@client.dev", "bea@client.dev")
	fail(t, p, lostAnswer)
	row, err := w.work(w.compose())
	wantRetried(t, row, err)
	w.exec(`UPDATE message SET state = 'delivered' WHERE subject_id = $1`, inv[1].ID) // which a webhook said
	w.later(23 * time.Hour)
	if err := p.Advance(t.Context(), 25*time.Hour); err != nil {
		t.Fatal(err)
	}
	w.workWell(row)
	w.wantMails(inv, mail.Uncertain, mail.Delivered)
	w.wantDispatches("uncertain 1 1")
	if m := w.message(inv[0].ID); m.Reason == "" || m.DueAt != nil {
		t.Errorf("message is %+v", m)
	}
	w.wantNothingMore()
	if l := ledger(t, p); l.Counters.Requests != 1 || l.Counters.Accepted != 2 {
		t.Errorf("%d requests and %d mails, want 1 and 2", l.Counters.Requests, l.Counters.Accepted)
	}
}

// wantNothingMore has both lanes composed once more, and nothing come of it.
func (w *world) wantNothingMore() {
	w.t.Helper()
	before := w.dispatches()
	for _, lane := range []roster.Lane{roster.Interactive, roster.Bulk} {
		if err := w.worker.compose(w.t.Context(), lane); err != nil {
			w.t.Fatal(err)
		}
	}
	w.wantDispatches(before...)
}

// TestStaleIsWrittenAnew: what was refused without doubt until the provider
// forgot its key gets another key, and is checked again.
func TestStaleIsWrittenAnew(t *testing.T) {
	t.Parallel()
	p, sender := provider(t)
	w := newWorld(t, sender)
	inv := w.inviteAll("ann@client.dev", "bea@client.dev")
	fail(t, p, tooFast)
	row, err := w.work(w.compose())
	wantSnoozed(t, row, err, time.Now(), 30*time.Second)
	w.accept(inv[1])
	w.later(23 * time.Hour)
	w.workWell(row)
	w.wantDispatches("dissolved 2 0", "ready 0 0")
	w.workWell(w.job("send_dispatch"))
	w.wantMails(inv, mail.Accepted, mail.Cancelled)
	if l := ledger(t, p); l.Counters.Requests != 2 || l.Counters.Accepted != 1 {
		t.Errorf("%d requests and %d mails, want 2 and 1", l.Counters.Requests, l.Counters.Accepted)
	}
}

func TestContested(t *testing.T) {
	t.Parallel()
	p, sender := provider(t)
	w := newWorld(t, sender)
	inv := w.inviteAll("ann@client.dev", "bea@client.dev")
	fail(t, p, contested)
	row := w.workWell(w.compose())
	w.wantMails(inv, mail.Uncertain, mail.Uncertain)
	w.wantDispatches("uncertain 1 1")
	if m := w.message(inv[0].ID); !strings.Contains(m.Reason, "invalid_idempotent_request") {
		t.Errorf("message is %+v", m)
	}
	if out := string(row.Output()); out != `"uncertain"` {
		t.Errorf("output is %s", out)
	}
	w.wantNothingMore()
}

// TestMovedOnBeforeTheFirstAttempt: a decision between the composer and the
// sender takes that mail back, and the other is sent.
func TestMovedOnBeforeTheFirstAttempt(t *testing.T) {
	t.Parallel()
	for name, test := range movesOn {
		if name == "gone" || name == "workspace archived" {
			continue // nothing in Usher does that and leaves the invitation pending
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			inv := w.invite("ann@client.dev")
			first := w.message(inv.ID).ID
			job := w.compose()
			if err := test.how(w, inv); err != nil {
				t.Fatal(err)
			}
			if out := string(w.workWell(job).Output()); out != `"given back"` {
				t.Errorf("output is %s", out)
			}
			if have := value[string](w, `SELECT state || ' ' || reason FROM message WHERE id = $1`, first); !strings.HasPrefix(have, "cancelled ") || !strings.Contains(have, test.reason) {
				t.Errorf("the mail is %s, want it cancelled with %q", have, test.reason)
			}
			if n := value[int](w, `SELECT count(*) FROM dev_mail WHERE id = $1`, first); n != 0 {
				t.Error("it was sent")
			}
		})
	}
}

// TestGivenBack takes one mail of a dispatch back, for every reason: the others
// are written anew and sent.
func TestGivenBack(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		sql   string // with the invitation's id
		state mail.State
	}{
		"revoked":     {`UPDATE invitation SET state = 'revoked' WHERE id = $1`, mail.Cancelled},
		"blocked":     {`INSERT INTO address (app_id, email_key, block) SELECT app_id, email_key, 'hard' FROM invitation WHERE id = $1`, mail.Suppressed},
		"app stopped": {`UPDATE app SET mail_stopped_until = now() + interval '1 day', mail_stopped_reason = '403' WHERE id = (SELECT app_id FROM invitation WHERE id = $1)`, mail.Held},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p, sender := provider(t)
			w := newWorld(t, sender)
			inv := w.another().invite("ann@client.dev")
			others := w.inviteAll("bea@client.dev", "cem@client.dev")
			job := w.compose()
			w.exec(test.sql, inv.ID)
			w.workWell(job)
			w.wantDispatches("dissolved 0 0", "ready 0 0")
			w.wantMails(append(others, inv), mail.Sending, mail.Sending, test.state)
			w.workWell(w.job("send_dispatch"))
			w.wantMails(append(others, inv), mail.Accepted, mail.Accepted, test.state)
			if l := ledger(t, p); l.Counters.Accepted != 2 || l.Counters.Requests != 1 {
				t.Errorf("counters are %+v", l.Counters)
			}
		})
	}
}

// TestGivenBackWhileBlocked: what was never tried does not stay frozen until the
// way out is free, so that it is checked then.
func TestGivenBackWhileBlocked(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	inv := w.inviteAll("ann@client.dev", "bea@client.dev")
	row, err := w.attemptBlocked(w.compose())
	if err != nil || row.State != rivertype.JobStateCompleted {
		t.Fatalf("the job is %s after %v", row.State, err)
	}
	w.wantDispatches("dissolved 0 0")
	w.wantMails(inv, mail.Queued, mail.Queued)
	m := w.message(inv[0].ID)
	if wait := m.DueAt.Sub(w.now); wait < 50*time.Minute || wait > time.Hour {
		t.Errorf("it waits %s, want the hour of the block", wait)
	}
	if have := value[time.Time](w, `SELECT max(scheduled_at) FROM river_job WHERE kind = 'compose_mail'`); have.Sub(*m.DueAt).Abs() > time.Second {
		t.Errorf("the composer comes at %s, want %s", have, m.DueAt)
	}
	w.accept(inv[0])
	w.now = *m.DueAt
	w.wake()
	w.workWell(w.compose())
	w.wantMails(inv, mail.Cancelled, mail.Accepted)
}

// TestFence gives the job to another attempt while this one talks to the
// provider, as a rescue does: this one then changes nothing.
func TestFence(t *testing.T) {
	t.Parallel()
	for name, takeAway := range map[string]string{
		"another attempt runs": `UPDATE river_job SET attempt = attempt + 1 WHERE id = $1`,
		"it waits again":       `UPDATE river_job SET state = 'available' WHERE id = $1`,
		"an operator ended it": `UPDATE river_job SET state = 'cancelled', finalized_at = now() WHERE id = $1`,
	} {
		for answer, err := range map[string]error{
			"accepted": nil,
			"unknown":  errors.New("cut off"),
			"stopped":  &mail.SendError{Outcome: mail.Stopped, After: time.Minute, Reason: "401"},
			"refused":  &mail.SendError{Outcome: mail.Refused, Reason: "422"},
			"other":    &mail.SendError{Outcome: mail.Contested, Reason: "409"},
		} {
			t.Run(name+", "+answer, func(t *testing.T) {
				t.Parallel()
				w := newWorld(t, nil)
				box := w.worker.Sender
				inv := w.inviteAll("ann@client.dev", "bea@client.dev")
				job := w.compose()
				w.sendsBy(senderFunc(func(ctx context.Context, d mail.Dispatch) (mail.Receipt, error) {
					w.exec(takeAway, job.ID)
					receipt, sent := box.Send(ctx, d)
					if err != nil {
						return mail.Receipt{}, err
					}
					return receipt, sent
				}))
				if _, err := w.work(job); err == nil || !strings.Contains(err.Error(), errOvertaken.Error()) {
					t.Fatalf("the attempt ended with %v", err)
				}
				w.wantMails(inv, mail.Sending, mail.Sending)
				w.wantDispatches("sending 1 1")
				if reason, wait := w.pace(); reason != "" || wait != 0 {
					t.Errorf("the way is blocked for %f s by %q", wait, reason)
				}
				if n := value[int](w, `SELECT count(*) FROM river_job WHERE kind = 'send_dispatch' AND state = 'completed'`); n != 0 {
					t.Error("the attempt completed another one's job")
				}

				// Whoever has the job sends under the same key: one mail in effect.
				w.sendsBy(box)
				w.exec(`UPDATE river_job SET state = 'available', finalized_at = NULL WHERE id = $1`, job.ID)
				w.workWell(w.row(job.ID))
				w.wantMails(inv, mail.Accepted, mail.Accepted)
				if w.mails() != 2 {
					t.Errorf("%d mails", w.mails())
				}
			})
		}
	}
}

// TestFenceOnGivingBack: an attempt that was given up does not take the dispatch
// away from the one that has it now.
func TestFenceOnGivingBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	inv := w.invite("ann@client.dev")
	job := w.compose()
	w.accept(inv)
	w.exec(`UPDATE river_job SET state = 'running', attempt = 2 WHERE id = $1`, job.ID)
	job.Attempt = 1
	err := (&sendDispatch{Worker: w.worker}).Work(t.Context(), &river.Job[mail.SendDispatch]{
		JobRow: job, Args: mail.SendDispatch{ID: *w.message(inv.ID).DispatchID, Lane: mail.Lane(roster.Interactive)},
	})
	if !errors.Is(err, errOvertaken) {
		t.Errorf("the job ended with %v", err)
	}
	w.wantDispatches("ready 0 0")
}

// TestFenceOnAPool sees that what an attempt that was given up had written is
// undone where the fence travels with the BEGIN.
func TestFenceOnAPool(t *testing.T) {
	t.Parallel()
	w, pool := newWorldOnPool(t, nil)
	inv := w.invite("ann@client.dev")
	if err := w.worker.compose(t.Context(), roster.Interactive); err != nil {
		t.Fatal(err)
	}
	job := w.job("send_dispatch")
	if _, err := pool.Exec(t.Context(), `UPDATE river_job SET state = 'running', attempt = 2 WHERE id = $1`, job.ID); err != nil {
		t.Fatal(err)
	}
	for attempt, want := range map[int]error{1: errOvertaken, 3: errOvertaken} {
		job.Attempt = attempt
		err := (&sendDispatch{Worker: w.worker}).Work(t.Context(), &river.Job[mail.SendDispatch]{
			JobRow: job, Args: mail.SendDispatch{ID: *w.message(inv.ID).DispatchID, Lane: mail.Lane(roster.Interactive)},
		})
		if !errors.Is(err, want) {
			t.Errorf("attempt %d ended with %v", attempt, err)
		}
	}
	w.wantMails([]roster.Invitation{inv}, mail.Sending)
	w.wantDispatches("sending 2 2")
	if have := value[string](w, `SELECT state || ' ' || attempt FROM river_job WHERE id = $1`, job.ID); have != "running 2" {
		t.Errorf("the job is %s", have)
	}
}

// TestRefusedAfterAnUnknownAttempt: attempt 1 began and never recorded; it may
// have sent all. Attempt 2 is refused without doubt, which says nothing of the
// first: the dispatch is neither dissolved nor split nor called failed, and goes
// on under its key.
func TestRefusedAfterAnUnknownAttempt(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]mailtest.Fault{
		"too fast": tooFast, "quota": overQuota, "API key": wrongKey, "domain": badDomain, "refused": badRequest, "in flight": inFlight,
	} {
		for _, emails := range [][]string{{"ann@client.dev"}, {"ann@client.dev", "bea@client.dev", "cem@client.dev"}} {
			for _, first := range []string{"killed", "cut off"} {
				t.Run(fmt.Sprint(name, " ", len(emails), " ", first), func(t *testing.T) {
					t.Parallel()
					p, sender := provider(t)
					if err := p.Config(t.Context(), mailtest.Config{Idempotency: "bytes"}); err != nil {
						t.Fatal(err)
					}
					w := newWorld(t, sender)
					inv := w.inviteAll(emails...)
					job := w.compose()
					if first == "killed" {
						d, ok, err := w.worker.Outbox.Begin(t.Context(), *w.message(inv[0].ID).DispatchID)
						if err != nil || !ok {
							t.Fatal(ok, err)
						}
						if _, err := sender.Send(t.Context(), d); err != nil {
							t.Fatal(err)
						}
					} else {
						fail(t, p, lostAnswer)
						row, err := w.work(job)
						wantRetried(t, row, err)
						job = row
					}
					fail(t, p, fault)
					row, _ := w.work(job)
					if row.FinalizedAt != nil {
						t.Fatalf("the job is %s: %s", row.State, row.Output())
					}
					unknown := 1
					if name == "in flight" {
						unknown = 2
					}
					w.wantDispatches(fmt.Sprintf("sending 2 %d", unknown))
					w.wantMails(inv, slices.Repeat([]mail.State{mail.Sending}, len(inv))...)

					w.exec(`UPDATE invitation SET note = 'other words'`)
					w.later(22 * time.Hour)
					w.exec(`UPDATE pace SET blocked_until = 'epoch' WHERE id = $1`, w.worker.Sender.Name())
					w.workWell(row)
					w.wantMails(inv, slices.Repeat([]mail.State{mail.Accepted}, len(inv))...)
					l := ledger(t, p)
					if l.Counters.Accepted != len(inv) || l.Counters.ConflictingKeys != 0 {
						t.Errorf("ledger is %+v", l)
					}
				})
			}
		}
	}
}

// TestOutcomeIsRecordedAfterTheStop: the process is told to stop while the
// provider answers; the answer is kept all the same.
func TestOutcomeIsRecordedAfterTheStop(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	inv := w.invite("ann@client.dev")
	job := w.compose()
	box := w.worker.Sender
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	w.sendsBy(senderFunc(func(_ context.Context, d mail.Dispatch) (mail.Receipt, error) {
		receipt, err := box.Send(t.Context(), d)
		stop()
		return receipt, err
	}))
	row, err := attemptIn(ctx, w, job, &sendDispatch{Worker: w.worker})
	if err != nil || row.State != rivertype.JobStateCompleted {
		t.Errorf("the job is %s after %v", row.State, err)
	}
	w.wantMails([]roster.Invitation{inv}, mail.Accepted)
}

// TestSentTwiceIsTwoMails: a resend is a message of its own under its own key.
func TestSentTwiceIsTwoMails(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	inv := w.invite("ann@client.dev")
	w.workWell(w.compose())
	w.now = w.now.Add(2 * time.Hour)
	if _, err := w.worker.Roster.ResendInvitation(t.Context(), w.app.ID, w.inviter.ID, inv.ID, roster.IdempotencyKey{}); err != nil {
		t.Fatal(err)
	}
	w.wantMails([]roster.Invitation{inv}, mail.Queued)
	w.workWell(w.compose())
	if n := value[int](w, `SELECT count(DISTINCT dispatch_id) FROM message WHERE state = 'accepted'`); n != 2 || w.mails() != 2 {
		t.Errorf("%d dispatches and %d mails, want 2", n, w.mails())
	}
}

// TestSettledIsDone: a job whose dispatch is settled, as after a commit that the
// job's own row did not see, asks nobody again.
func TestSettledIsDone(t *testing.T) {
	t.Parallel()
	p, sender := provider(t)
	w := newWorld(t, sender)
	w.invite("ann@client.dev")
	job := w.compose()
	w.workWell(job)
	w.exec(`UPDATE river_job SET state = 'available', finalized_at = NULL WHERE id = $1`, job.ID)
	w.workWell(w.row(job.ID))
	if l := ledger(t, p); l.Counters.Requests != 1 {
		t.Errorf("%d requests, want 1", l.Counters.Requests)
	}
}

// TestReplayWaits 2, 4, 8 … seconds and never long: once the provider is back
// the mail goes.
func TestReplayWaits(t *testing.T) {
	t.Parallel()
	for failures, want := range map[int]time.Duration{0: 2 * time.Second, 3: 16 * time.Second, 4: maxReplayWait, 5000: maxReplayWait} {
		job := &river.Job[mail.SendDispatch]{JobRow: &rivertype.JobRow{Attempt: failures + 1, Errors: make([]rivertype.AttemptError, failures)}}
		if have := time.Until((&sendDispatch{}).NextRetry(job)); have > want || have < want-time.Second {
			t.Errorf("after %d failures it waits %s, want %s", failures, have, want)
		}
	}
}

// TestFlowsByItself stops everything under a running client, and mends it: the
// mail that waited goes out without anybody's doing.
func TestFlowsByItself(t *testing.T) {
	t.Parallel()
	p, sender := provider(t)
	w, pool := newWorldOnPool(t, sender)
	stop := wrongKey
	stop.Times = 1000
	fail(t, p, stop)
	w.run(pool)
	emails := make([]string, 150)
	for i := range emails {
		emails[i] = fmt.Sprintf("ann.%d@client.dev", i)
	}
	inv := w.inviteAll(emails...)
	w.eventually("everything waits", `SELECT count(*) = 150 AND bool_and(state IN ('held', 'queued')) AND bool_or(state = 'held')
		AND NOT EXISTS (SELECT FROM dispatch WHERE state IN ('ready', 'sending')) FROM message`)
	if n := ledger(t, p).Counters.Requests; n == 0 || n > 10 {
		t.Errorf("the provider was asked %d times while it refused our key", n)
	}
	fail(t, p)
	// A minute passes, for the limiter, the messages and the composer's job.
	for _, sql := range []string{
		`UPDATE pace SET blocked_until = 'epoch'`,
		`UPDATE message SET due_at = due_at - interval '10 minutes'`,
		`UPDATE river_job SET state = 'available', scheduled_at = now() WHERE state = 'scheduled' AND kind = 'compose_mail'`,
	} {
		if _, err := pool.Exec(t.Context(), sql); err != nil {
			t.Fatal(err)
		}
	}
	w.eventually("all mail is accepted", `SELECT count(*) = $1 AND bool_and(state = 'accepted') FROM message`, len(inv))
	if l := ledger(t, p); l.Counters.Accepted != len(inv) || len(l.Messages) != len(inv) {
		t.Errorf("%d mails of %d messages accepted, want %d", l.Counters.Accepted, len(l.Messages), len(inv))
	}
}
