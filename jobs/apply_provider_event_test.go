package jobs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/mail"
	"usher/internal/postgres"
	"usher/internal/roster"
)

// send composes and sends what waits.
func (w *world) send() {
	w.t.Helper()
	for _, lane := range []roster.Lane{roster.Interactive, roster.Bulk} {
		if err := w.worker.compose(w.t.Context(), lane); err != nil {
			w.t.Fatal(err)
		}
	}
	for value[int](w, `SELECT count(*) FROM river_job WHERE kind = 'send_dispatch' AND finalized_at IS NULL`) > 0 {
		job := w.job("send_dispatch")
		if _, err := attempt(w, job, &sendDispatch{Worker: w.worker}); err != nil {
			w.t.Fatal(err)
		}
	}
}

// sent is a new invitation whose mail the provider has.
func (w *world) sent(email string) roster.Invitation {
	w.t.Helper()
	inv := w.invite(email)
	w.send()
	return w.reread(inv)
}

func (w *world) reread(inv roster.Invitation) roster.Invitation {
	w.t.Helper()
	inv, err := w.worker.Roster.Invitation(w.t.Context(), inv.AppID, inv.ID)
	if err != nil {
		w.t.Fatal(err)
	}
	return inv
}

// store keeps an event about a message, as the webhook does.
func store(ctx context.Context, tx pgx.Tx, id, kind string, message uuid.UUID, at time.Time, body string) error {
	_, err := tx.Exec(ctx, `
		INSERT INTO provider_event (id, type, message_id, body, at, received_at) VALUES ($1, $2, $3, $4, $5, $5)`, id, kind, message, body, at)
	return err
}

// tell stores an event and works its job.
func (w *world) tell(kind string, message uuid.UUID, body string) {
	w.t.Helper()
	id := uuid.NewString()
	if err := store(w.t.Context(), w.tx, id, kind, message, w.now, cmp.Or(body, "{}")); err != nil {
		w.t.Fatal(err)
	}
	if _, err := w.worker.Roster.Jobs.InsertTx(w.t.Context(), w.tx, mail.ApplyProviderEvent{ID: id}, nil); err != nil {
		w.t.Fatal(err)
	}
	if row, err := attempt(w, w.job("apply_provider_event"), &applyProviderEvent{Worker: w.worker}); err != nil || row.FinalizedAt == nil {
		w.t.Fatalf("job ended %s with %v", row.State, err)
	}
}

func bounceOf(kind, subType string) string {
	return fmt.Sprintf(`{"bounce":{"type":%q,"subType":%q,"diagnosticCode":["550 5.1.1 x"]}}`, kind, subType)
}

// TestBouncesOfInvitations goes through the bounce table with a real mail each:
// what becomes of the message, the address and the invitation, what follows by
// itself, and what the inviter is told.
func TestBouncesOfInvitations(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		name, kind, body string
		message          mail.State
		address          string // block and soft count
		held             bool
		again            time.Duration // until a new mail; 0: none
		says             string        // in the letter to the inviter
		then             string        // what the address's next invitation is
	}{
		{"slow", "email.delivery_delayed", "", mail.Delayed, "", false, 0, "", "pending"},
		{"delivered", "email.delivered", "", mail.Delivered, " 0", false, 0, "", "pending"},
		{"gone", "email.bounced", bounceOf("Permanent", "NoEmail"), mail.Bounced, "hard 0", true, 0, "does not accept mail", "on_hold"},
		{"away", "email.bounced", bounceOf("Transient", "General"), mail.Delivered, "", false, 0, "", "pending"},
		{"full", "email.bounced", bounceOf("Transient", "MailboxFull"), mail.Bounced, " 1", false, 24 * time.Hour, "", "pending"},
		{"undetermined", "email.bounced", bounceOf("Undetermined", "Undetermined"), mail.Bounced, " 1", false, 24 * time.Hour, "", "pending"},
		{"large", "email.bounced", bounceOf("Transient", "MessageTooLarge"), mail.Bounced, "", false, 0, "", "pending"},
		{"content", "email.bounced", bounceOf("Transient", "ContentRejected"), mail.Bounced, "", false, 0, "", "pending"},
		{"attachment", "email.bounced", bounceOf("Transient", "AttachmentRejected"), mail.Bounced, "", false, 0, "", "pending"},
		{"on the provider's list", "email.suppressed", `{"suppressed":{"type":"OnAccountSuppressionList"}}`, mail.Suppressed, "provider 0", true, 0, "earlier mail", "on_hold"},
		{"complained", "email.complained", "", mail.Complained, "complaint 0", true, 0, "does not receive mail from us", "on_hold"},
		{"complained before", "email.suppressed", `{"suppressed":{"reason":"complaint"}}`, mail.Suppressed, "complaint 0", true, 0, "does not receive mail from us", "on_hold"},
		{"failed", "email.failed", `{"failed":{"reason":"domain"}}`, mail.Failed, "", false, 0, "", "pending"},
		{"quota", "email.failed", `{"failed":{"reason":"reached_daily_quota"}}`, mail.Failed, "", false, 6 * time.Hour, "", "pending"},
		{"unknown", "email.folded", "", mail.Accepted, "", false, 0, "", "pending"},
	} {
		t.Run(row.name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			w.worker.Log = quiet()
			w.now = time.Date(2030, 3, 4, 18, 0, 0, 0, time.UTC)
			inv := w.sent("ann@gmial.com")
			for range 2 { // the provider may say it twice
				w.tell(row.kind, *inv.MessageID, row.body)
			}
			w.send()
			after := w.reread(inv)
			if string(after.Delivery) != string(row.message) || (after.State == roster.OnHold) != row.held {
				t.Errorf("message %s, invitation %s", after.Delivery, after.State)
			}
			if have := value[string](w, `SELECT COALESCE((SELECT block || ' ' || soft_bounces FROM address), '')`); have != row.address {
				t.Errorf("address %q, want %q", have, row.address)
			}
			due := value[string](w, `SELECT COALESCE(string_agg(scheduled_at::text, ','), '') FROM river_job WHERE kind = 'retry_mail'`)
			want := ""
			if row.again > 0 {
				want = w.now.Add(row.again).Format("2006-01-02 15:04:05+00")
			}
			if due != want {
				t.Errorf("again at %q, want %q", due, want)
			}
			letter := value[string](w, `SELECT COALESCE((SELECT text FROM dev_mail WHERE email_key = 'marie@kindred.dev'), '')`)
			if (letter != "") != row.held || !strings.Contains(letter, row.says) {
				t.Errorf("the inviter is told %q", letter)
			}
			if told := strings.Contains(letter, "550 5.1.1 x") && strings.Contains(letter, "ann@gmail.com"); told != (row.name == "gone") {
				t.Errorf("the inviter is told %q", letter)
			}
			w.exec(`INSERT INTO workspace (id, app_id, company_id, name, created_at) SELECT $2, app_id, company_id, 'Other', now() FROM workspace WHERE id = $1`, w.workspace.ID, uuid.New())
			w.exec(`UPDATE invitation SET state = 'revoked'`)
			if next := w.sent("ann@gmial.com"); string(next.State) != row.then {
				t.Errorf("the next invitation is %s", next.State)
			}
		})
	}
}

// TestFullMailbox lets a mailbox be full until Usher gives up.
func TestFullMailbox(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.worker.Log = quiet()
	full := bounceOf("Transient", "MailboxFull")
	inv := w.sent("ann@client.dev")
	for n, wait := range []time.Duration{24 * time.Hour, 72 * time.Hour} {
		w.tell("email.bounced", *inv.MessageID, full)
		job := w.job("retry_mail")
		if !job.ScheduledAt.Equal(w.now.Add(wait)) {
			t.Fatalf("try %d is due at %s", n+1, job.ScheduledAt)
		}
		w.now = w.now.Add(wait)
		w.exec(`UPDATE river_job SET state = 'available' WHERE id = $1`, job.ID)
		if row, err := attempt(w, w.row(job.ID), &retryMail{Worker: w.worker}); err != nil || row.FinalizedAt == nil {
			t.Fatalf("try %d: %v", n+1, err)
		}
		w.send()
		again := w.reread(inv)
		if *again.MessageID == *inv.MessageID || again.Delivery != roster.MailAccepted || again.State != roster.Pending || again.Sends != 1 {
			t.Fatalf("try %d: %+v", n+1, again)
		}
		inv = again
	}
	w.tell("email.bounced", *inv.MessageID, full)
	inv = w.reread(inv)
	if inv.State != roster.OnHold || inv.Delivery != roster.MailBounced {
		t.Errorf("in the end: %s, %s", inv.State, inv.Delivery)
	}
	if have := value[string](w, `SELECT block || ' ' || soft_bounces FROM address`); have != " 3" {
		t.Errorf("address %q: a full mailbox does not block it", have)
	}
	if n := value[int](w, `SELECT count(*) FROM dev_mail WHERE email_key = 'ann@client.dev'`); n != 3 {
		t.Errorf("%d mails", n)
	}
}

// TestBounceThatHoldsNothing: what people decided stands, and what became of
// mail to a former address is recorded only.
func TestBounceThatHoldsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.worker.Log = quiet()
	accepted, replaced := w.sent("ann@client.dev"), w.sent("bob@client.dev")
	w.accept(accepted)
	if _, err := w.worker.Roster.CorrectInvitationAddress(t.Context(), w.app.ID, w.inviter.ID, replaced.ID, "bobby@client.dev", roster.IdempotencyKey{}); err != nil {
		t.Fatal(err)
	}
	w.tell("email.bounced", *accepted.MessageID, bounceOf("Permanent", ""))
	w.tell("email.bounced", *replaced.MessageID, bounceOf("Permanent", ""))
	if a, r := w.reread(accepted), w.reread(replaced); a.State != roster.Accepted || a.Delivery != roster.MailBounced || r.State != roster.Pending || r.Delivery != roster.MailQueued {
		t.Errorf("accepted: %s, %s; replaced: %s, %s", a.State, a.Delivery, r.State, r.Delivery)
	}
	if have := value[string](w, `SELECT string_agg(email_key || ' ' || block, ', ' ORDER BY email_key) FROM address`); have != "ann@client.dev hard, bob@client.dev hard" {
		t.Errorf("addresses: %s", have)
	}
}

// early is a provider whose webhook is worked before its answer arrives.
type early struct {
	mail.Sender
	before func(mail.Dispatch)
}

func (e early) Send(ctx context.Context, d mail.Dispatch) (mail.Receipt, error) {
	e.before(d)
	return e.Sender.Send(ctx, d)
}

func TestEventBeforeTheAnswer(t *testing.T) {
	t.Parallel()
	for kind, want := range map[string]string{
		"email.delivered": "delivered pending", "email.complained": "complained on_hold", "email.sent": "accepted pending",
	} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			w.worker.Log = quiet()
			w.worker.Sender = early{w.worker.Sender, func(d mail.Dispatch) {
				for _, id := range d.MessageIDs {
					w.tell(kind, id, "")
				}
				w.worker.Sender = w.worker.Sender.(early).Sender // the letter to the inviter is not of interest
			}}
			inv := w.sent("ann@client.dev")
			if have := fmt.Sprint(inv.Delivery, " ", inv.State); have != want {
				t.Errorf("%s, want %s", have, want)
			}
			if id := value[string](w, `SELECT provider_id FROM message WHERE id = $1`, inv.MessageID); id == "" {
				t.Error("the provider's id is missing")
			}
		})
	}
}

// TestOrderOfEvents tells what became of three mails to one address in every
// order, one of them twice: two mails of an invitation, of which only the newer
// can hold it, and one of another invitation.
func TestOrderOfEvents(t *testing.T) {
	t.Parallel()
	full, gone := bounceOf("Transient", "MailboxFull"), bounceOf("Permanent", "NoEmail")
	type line struct {
		message    int
		kind, body string
		hour       int
	}
	for name, test := range map[string]struct {
		ends   string // both invitations
		stream []line
	}{
		"the old one bounces": {"pending; pending", []line{
			{0, "email.bounced", gone, 3}, {1, "email.delivered", "{}", 2}, {1, "email.sent", "{}", 1}, {2, "email.bounced", full, 4}, {2, "email.delivered", "{}", 1},
		}},
		"the newest bounces": {"on_hold; on_hold", []line{
			{0, "email.delivered", "{}", 1}, {1, "email.bounced", full, 2}, {1, "email.bounced", gone, 3}, {1, "email.delivered", "{}", 4}, {2, "email.suppressed", "{}", 5},
		}},
		"a complaint": {"on_hold; on_hold", []line{
			{0, "email.complained", "{}", 3}, {1, "email.bounced", gone, 2}, {2, "email.bounced", full, 1}, {2, "email.complained", "{}", 5}, {0, "email.delivered", "{}", 1},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			w.worker.Log = quiet()
			w.now = time.Date(2030, 3, 4, 18, 0, 0, 0, time.UTC)
			first := w.sent("ann@client.dev")
			w.now = w.now.Add(2 * time.Hour)
			second, err := w.worker.Roster.ResendInvitation(t.Context(), w.app.ID, w.inviter.ID, first.ID, roster.IdempotencyKey{})
			if err != nil {
				t.Fatal(err)
			}
			w.send()
			other := w.invite("bob@client.dev")
			w.exec(`UPDATE invitation SET email = 'ann@client.dev', email_key = 'ann@client.dev', workspace_id = (
				SELECT id FROM workspace WHERE id <> $2 LIMIT 1) WHERE id = $1`, other.ID, w.anotherWorkspace())
			w.exec(`UPDATE message SET email_key = 'ann@client.dev' WHERE id = $1`, other.MessageID)
			w.send()
			messages := []uuid.UUID{*first.MessageID, *second.MessageID, *other.MessageID}

			stream, want, orders := test.stream, "", 0
			prefix := uuid.NewString() // other tests share the database
			errUndo := errors.New("undo")
			tell := func(tx pgx.Tx, id string, l line) error {
				if err := store(t.Context(), tx, id, l.kind, messages[l.message], w.now.Add(time.Duration(l.hour-12)*time.Hour), l.body); err != nil {
					return err
				}
				_, err := w.worker.apply(t.Context(), tx, id)
				return err
			}
			var visit func(db postgres.DB, told []int) error
			visit = func(db postgres.DB, told []int) error {
				for i, l := range stream {
					if slices.Contains(told, i) {
						continue
					}
					if err := postgres.InTx(t.Context(), db, func(tx pgx.Tx) error {
						told := append(slices.Clone(told), i)
						if err := tell(tx, fmt.Sprint(prefix, i), l); err != nil {
							return err
						}
						if len(told) < len(stream) {
							return cmp.Or(visit(tx, told), errUndo)
						}
						orders++
						again := told[orders%len(told)]
						if err := tell(tx, prefix+"again", stream[again]); err != nil {
							return err
						}
						var have string
						if err := tx.QueryRow(t.Context(), `SELECT concat_ws(' / ',
							(SELECT string_agg(concat_ws(' ', state, reason, fact_at), '; ' ORDER BY id) FROM message WHERE kind = 'invitation'),
							(SELECT concat_ws(' ', block, detail, blocked_at, soft_bounces, soft_at) FROM address),
							(SELECT string_agg(state, '; ' ORDER BY id) FROM invitation),
							(SELECT string_agg(type, '; ' ORDER BY type) FROM event WHERE type = 'invitation.held'),
							(SELECT count(*) FROM message WHERE kind = 'news'))`).Scan(&have); err != nil {
							return err
						}
						if want = cmp.Or(want, have); have != want {
							return fmt.Errorf("in the order %v, then %d again: %s\nwant %s", told, again, have, want)
						}
						return errUndo
					}); !errors.Is(err, errUndo) {
						return err
					}
				}
				return nil
			}
			if err := visit(w.tx, nil); err != nil {
				t.Fatal(err)
			}
			if !strings.Contains(want, " / "+test.ends+" / ") {
				t.Errorf("ends in %s, want the invitations %s", want, test.ends)
			}
			if orders != 120 {
				t.Errorf("%d orders, want 5!", orders)
			}
		})
	}
}

// anotherWorkspace adds a workspace and answers the first one's id.
func (w *world) anotherWorkspace() uuid.UUID {
	w.exec(`INSERT INTO workspace (id, app_id, company_id, name, created_at) SELECT $2, app_id, company_id, 'Other', now() FROM workspace WHERE id = $1`, w.workspace.ID, uuid.New())
	return w.workspace.ID
}
