package mail

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

// said is an event of a type about a mail, with the rest of its data.
func said(t *testing.T, kind, data string) ProviderEvent {
	t.Helper()
	e := ProviderEvent{ID: "msg_1"}
	body := fmt.Sprintf(`{"type":%q,"data":{%s}}`, kind, data)
	if err := e.read([]byte(body), hookNow); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return e
}

func bounce(kind, subType string) string {
	return fmt.Sprintf(`"bounce":{"type":%q,"subType":%q,"message":"m"}`, kind, subType)
}

// TestBounceTable goes through what the provider can say, line by line.
func TestBounceTable(t *testing.T) {
	t.Parallel()
	const quiet = false
	for _, test := range []struct {
		kind, data string
		code       string
		state      State
		block      Block
		soft       bool
		then       Consequence
		says       bool
	}{
		{"email.sent", "", "accepted", Accepted, "", false, Nothing, quiet},
		{"email.delivered", "", "delivered", Delivered, "", false, Nothing, quiet},
		{"email.opened", "", "opened", Delivered, "", false, Nothing, quiet},
		{"email.clicked", "", "opened", Delivered, "", false, Nothing, quiet},
		{"email.delivery_delayed", "", "slow", Delayed, "", false, Nothing, true},
		{"email.bounced", bounce("Permanent", "General"), "bounced", Bounced, BlockHard, false, Hold, true},
		{"email.bounced", bounce("Permanent", "NoEmail"), "bounced", Bounced, BlockHard, false, Hold, true},
		{"email.bounced", bounce("Permanent", "NewWord"), "bounced", Bounced, BlockHard, false, Hold, true},
		{"email.bounced", bounce("permanent", ""), "bounced", Bounced, BlockHard, false, Hold, true},
		{"email.bounced", bounce("Permanent", "Suppressed"), "suppressed", Suppressed, BlockProvider, false, Hold, true},
		{"email.bounced", bounce("Permanent", "OnAccountSuppressionList"), "suppressed", Suppressed, BlockProvider, false, Hold, true},
		{"email.bounced", bounce("Transient", "General"), "automatic_reply", Delivered, "", false, Nothing, true},
		{"email.bounced", bounce("Transient", "MailboxFull"), "mailbox_full", Bounced, "", true, TryAgain, true},
		{"email.bounced", bounce("Transient", "Undetermined"), "not_now", Bounced, "", true, TryAgain, true},
		{"email.bounced", bounce("Transient", "NewWord"), "not_now", Bounced, "", true, TryAgain, true},
		{"email.bounced", bounce("Undetermined", "Undetermined"), "not_now", Bounced, "", true, TryAgain, true},
		{"email.bounced", bounce("", ""), "not_now", Bounced, "", true, TryAgain, true},
		{"email.bounced", "", "not_now", Bounced, "", true, TryAgain, true},
		{"email.bounced", bounce("Transient", "MessageTooLarge"), "content_refused", Bounced, "", false, Alarm, true},
		{"email.bounced", bounce("Transient", "ContentRejected"), "content_refused", Bounced, "", false, Alarm, true},
		{"email.bounced", bounce("Permanent", "ContentRejected"), "content_refused", Bounced, "", false, Alarm, true},
		{"email.bounced", bounce("Transient", "AttachmentRejected"), "content_refused", Bounced, "", false, Alarm, true},
		{"email.suppressed", `"suppressed":{"type":"OnAccountSuppressionList","message":"previous bounce"}`, "suppressed", Suppressed, BlockProvider, false, Hold, true},
		{"email.suppressed", `"suppressed":{"type":"bounce","reason":"hard bounce"}`, "suppressed", Suppressed, BlockProvider, false, Hold, true},
		{"email.suppressed", `"suppressed":{"type":"Complaint"}`, "complained_before", Suppressed, BlockComplaint, false, Hold, true},
		{"email.suppressed", `"suppressed":{"type":"x","reason":"previous complaint"}`, "complained_before", Suppressed, BlockComplaint, false, Hold, true},
		{"email.complained", "", "complained", Complained, BlockComplaint, false, Hold, true},
		{"email.failed", `"failed":{"reason":"reached_daily_quota"}`, "quota", Failed, "", false, TryAgainByQuota, true},
		{"email.failed", `"failed":{"reason":"domain_not_verified"}`, "failed", Failed, "", false, Alarm, true},
		{"email.failed", "", "failed", Failed, "", false, Alarm, true},
	} {
		v, ok := said(t, test.kind, test.data).verdict()
		if !ok || v.Code != test.code || v.State != test.state || v.Block != test.block || v.Soft != test.soft || v.Then != test.then || (v.Says != "") != test.says {
			t.Errorf("%s %s: %+v %v", test.kind, test.data, v, ok)
		}
		if v.Clear != (test.code == "delivered") {
			t.Errorf("%s: clears %v", test.kind, v.Clear)
		}
	}
	for _, kind := range []string{"email.scheduled", "email.folded", "suppression.added", "contact.created"} {
		if v, ok := said(t, kind, "").verdict(); ok {
			t.Errorf("%s means %+v", kind, v)
		}
	}
}

// TestEveryCodeIsReached finds codes that no fact leads to, and the other way
// round.
func TestEveryCodeIsReached(t *testing.T) {
	t.Parallel()
	reached := map[string]bool{"complained_before": true, "quota": true} // by their words
	for _, f := range facts {
		reached[f.code] = true
	}
	for _, v := range verdicts {
		if !reached[v.Code] {
			t.Errorf("nothing leads to %s", v.Code)
		}
		delete(reached, v.Code)
		if v.Says != "" && !strings.HasSuffix(v.Says, ".") {
			t.Errorf("%s says no sentence: %q", v.Code, v.Says)
		}
		if v.Then == Hold && v.Block == "" || v.Block != "" && v.Then != Hold {
			t.Errorf("%s: what blocks an address holds what it is for", v.Code)
		}
	}
	for code := range reached {
		t.Errorf("there is no verdict %q", code)
	}
}

func TestOutlook(t *testing.T) {
	t.Parallel()
	sent := hookNow.Add(-slowAfter)
	late := time.Date(2026, 11, 20, 18, 30, 0, 0, time.UTC)
	midnight := time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)
	day, days := late.Add(24*time.Hour), late.Add(72*time.Hour)
	for _, test := range []struct {
		reason     string
		factAt     *time.Time
		retry      int
		sent       time.Time
		code       string
		diagnostic string
		retryAt    *time.Time
	}{
		{"", nil, 0, sent, "", "", nil},
		{"422 validation_error: bounced: x", nil, 0, sent, "", "", nil}, // the sender's own words
		{"", &late, 0, sent, "", "", nil},                               // delivered
		{"bounced: 550 5.1.1: no such user", &late, 0, sent, "bounced", "550 5.1.1: no such user", nil},
		{"complained", &late, 0, sent, "complained", "", nil},
		{"slow", &late, 0, sent, "slow", "", nil},
		{"slow", &late, 0, sent.Add(time.Second), "", "", nil},
		{"mailbox_full: 552", &late, 0, sent, "mailbox_full", "552", &day},
		{"mailbox_full: 552", &late, 1, sent, "mailbox_full", "552", &days},
		{"mailbox_full: 552", &late, 2, sent, "mailbox_full", "552", nil},
		{"quota: reached_daily_quota", &late, 0, sent, "quota", "reached_daily_quota", &midnight},
	} {
		have := NewOutlook(test.reason, test.factAt, test.retry, test.sent, hookNow)
		same := have.RetryAt == test.retryAt || have.RetryAt != nil && test.retryAt != nil && have.RetryAt.Equal(*test.retryAt)
		if have.Code != test.code || have.Diagnostic != test.diagnostic || !same || (have.Says != "") != (test.code != "") {
			t.Errorf("%q, retry %d: %+v", test.reason, test.retry, have)
		}
	}
}

// apply works a stored event.
func (w *hookWorld) apply(id string) Aftermath {
	w.t.Helper()
	a, err := (&Outbox{DB: w.pool, Now: w.hook.Now}).Apply(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return a
}

// tell receives and works an event, under an id of its own.
func (w *hookWorld) tell(kind string, message uuid.UUID, at time.Time, data string) Aftermath {
	w.t.Helper()
	id := "msg_" + uuid.NewString()
	if data != "" {
		data = "," + data
	}
	if r := w.receive(id, event(kind, message, at, data)); r != Stored {
		w.t.Fatalf("%s was %s", kind, r)
	}
	return w.apply(id)
}

// TestFactsBeatOurOwnWord raises a message from every state it can be in when
// the provider speaks, also before its answer to us was recorded.
func TestFactsBeatOurOwnWord(t *testing.T) {
	t.Parallel()
	w := newHookWorld(t)
	for _, state := range []State{Queued, Held, Sending, Accepted, Failed, Uncertain, Cancelled} {
		for kind, want := range map[string]State{"email.sent": Accepted, "email.delivered": Delivered, "email.complained": Complained} {
			message := w.message(uuid.NewString()+"@client.dev", state)
			w.exec(`UPDATE message SET due_at = now(), reason = 'ours' WHERE id = $1`, message)
			w.tell(kind, message, hookNow, "")
			have := one[string](w, `SELECT concat_ws(' ', state, provider_id = 'e-' || id, due_at IS NULL, settled_at = $2, fact_at = $2, reason = 'ours')
				FROM message WHERE id = $1`, message, hookNow)
			if have != string(want)+" t t t t f" {
				t.Errorf("%s on %s: %s", kind, state, have)
			}
		}
	}
}

func (w *hookWorld) address(email string) string {
	w.t.Helper()
	return one[string](w, `
		SELECT COALESCE((SELECT concat_ws(' ', block, detail, to_char(blocked_at, 'DD HH24:MI'), soft_bounces, to_char(soft_at, 'DD HH24:MI'))
			FROM address WHERE app_id = $1 AND email_key = $2), 'unknown')`, w.app, email)
}

func TestSoftBounces(t *testing.T) {
	t.Parallel()
	w := newHookWorld(t)
	full := bounce("Transient", "MailboxFull")
	day := func(d, hour int) time.Time { return time.Date(2026, 11, d, hour, 0, 0, 0, time.UTC) }
	expect := func(want string) {
		t.Helper()
		if have := w.address("ann@client.dev"); have != want {
			t.Errorf("the address is %q, want %q", have, want)
		}
	}
	message := func() uuid.UUID { return w.message("ann@client.dev", Accepted) }
	w.tell("email.sent", message(), day(1, 8), "")
	expect("unknown")
	w.tell("email.bounced", message(), day(1, 8), full)
	expect("  1 01 08:00")
	w.tell("email.bounced", message(), day(1, 20), full) // the same day counts once
	expect("  1 01 20:00")
	w.tell("email.bounced", message(), day(3, 8), full)
	expect("  2 03 08:00")
	w.tell("email.delivered", message(), day(2, 8), "") // ends what was before it
	expect("  1 03 08:00")
	w.tell("email.opened", message(), day(4, 8), "") // an old mail is opened while the mailbox is full
	expect("  1 03 08:00")
	w.tell("email.delivered", message(), day(5, 8), "")
	expect("  0")
	w.tell("email.bounced", message(), day(4, 9), full) // old news
	expect("  0")
	w.tell("email.bounced", message(), day(6, 8), full)
	expect("  1 06 08:00")

	bob := func() uuid.UUID { return w.message("bob@client.dev", Accepted) }
	w.tell("email.bounced", bob(), hookNow.Add(-softLife), full)
	w.tell("email.bounced", bob(), hookNow.Add(-softLife+time.Minute), full)
	w.tell("email.bounced", bob(), hookNow, full)
	if have := w.address("bob@client.dev"); have != "  2 20 12:00" {
		t.Errorf("after 30 days: %q", have)
	}
}

func TestBlocks(t *testing.T) {
	t.Parallel()
	w := newHookWorld(t)
	ann := func() uuid.UUID { return w.message("ann@client.dev", Accepted) }
	at := func(hour int) time.Time { return time.Date(2026, 11, 20, hour, 0, 0, 0, time.UTC) }
	expect := func(want string) {
		t.Helper()
		if have := w.address("ann@client.dev"); have != want {
			t.Errorf("the address is %q, want %q", have, want)
		}
	}
	w.tell("email.bounced", ann(), at(3), bounce("Permanent", "NoEmail"))
	expect("hard m 20 03:00 0")
	w.tell("email.suppressed", ann(), at(5), `"suppressed":{"type":"bounce"}`)
	expect("provider  20 05:00 0")
	w.tell("email.bounced", ann(), at(4), bounce("Permanent", "NoEmail")) // older
	expect("provider  20 05:00 0")
	w.tell("email.delivered", ann(), at(6), "") // is no word that the mailbox works
	expect("provider  20 05:00 0")

	w.exec(`UPDATE address SET block = '', detail = '', blocked_at = NULL, lifted_at = $1`, at(7))
	w.tell("email.suppressed", ann(), at(7), "")
	expect("  0")
	w.tell("email.bounced", ann(), at(8), bounce("Permanent", "NoEmail"))
	expect("hard m 20 08:00 0")

	w.tell("email.complained", ann(), at(1), "") // also an old one, from before the lift
	expect("complaint  20 01:00 0")
	w.tell("email.bounced", ann(), at(9), bounce("Permanent", "NoEmail"))
	expect("complaint  20 01:00 0")
	w.tell("email.suppressed", ann(), at(10), `"suppressed":{"type":"complaint","message":"m"}`)
	expect("complaint m 20 10:00 0")

	// The same address in another app can be written to.
	if n := one[int](w, `SELECT count(*) FROM address`); n != 1 {
		t.Errorf("%d addresses", n)
	}
}

// TestOrderOfFacts tells three mails' facts in every order, and one of them
// again, and compares what is left of the messages and the address.
func TestOrderOfFacts(t *testing.T) {
	t.Parallel()
	type line struct {
		message int
		what    string // a type, or a bounce
		at      time.Time
	}
	at := func(d, hour int) time.Time { return time.Date(2026, 11, d, hour, 0, 0, 0, time.UTC) }
	full, reply, gone := bounce("Transient", "MailboxFull"), bounce("Transient", "General"), bounce("Permanent", "NoEmail")
	for name, stream := range map[string][]line{
		"full, then gone": {
			{0, "email.delivered", at(1, 1)}, {0, reply, at(1, 2)}, {1, full, at(2, 1)}, {2, gone, at(3, 1)}, {2, "email.delivered", at(3, 2)},
		},
		"full, cleared, full": {
			{0, full, at(1, 1)}, {1, "email.delivered", at(1, 5)}, {1, "email.delivery_delayed", at(1, 4)}, {2, full, at(4, 1)}, {2, full, at(5, 1)},
		},
		"everything at one moment": {
			{0, gone, at(1, 1)}, {0, bounce("Permanent", "Suppressed"), at(1, 1)}, {1, "email.delivered", at(1, 1)}, {1, gone, at(1, 1)}, {2, full, at(1, 1)},
		},
		"a complaint among bounces": {
			{0, "email.complained", at(1, 2)}, {1, "email.suppressed", at(1, 3)}, {1, "email.sent", at(1, 2)}, {2, gone, at(2, 3)}, {2, "email.complained", at(1, 1)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newHookWorld(t)
			var messages [3]uuid.UUID
			for i := range messages {
				messages[i] = w.message("ann@client.dev", Sending)
			}
			var events []ProviderEvent
			for i, l := range stream {
				kind, data := l.what, ""
				if strings.HasPrefix(kind, `"bounce"`) {
					kind, data = "email.bounced", kind
				}
				e := said(t, kind, data)
				e.ID, e.MessageID, e.At = fmt.Sprintf("msg_%d", i), messages[l.message], l.at
				events = append(events, e)
			}
			want, orders := "", 0
			errUndo := errors.New("undo")
			tell := func(tx pgx.Tx, id string, e ProviderEvent) error {
				if _, err := tx.Exec(t.Context(), `INSERT INTO provider_event (id, type, message_id, body, at, received_at) VALUES ($1, $2, $3, $4, $5, $5)`,
					id, e.Type, e.MessageID, e.Said, e.At); err != nil {
					return err
				}
				_, err := (&Outbox{DB: postgres.Join(tx), Now: w.hook.Now}).Apply(t.Context(), id)
				return err
			}
			// Orders that begin alike share their beginning, which is then undone.
			var visit func(db postgres.DB, told []int) error
			visit = func(db postgres.DB, told []int) error {
				for i, e := range events {
					if slices.Contains(told, i) {
						continue
					}
					if err := postgres.InTx(t.Context(), db, func(tx pgx.Tx) error {
						told := append(slices.Clone(told), i)
						if err := tell(tx, e.ID, e); err != nil {
							return err
						}
						if len(told) < len(events) {
							return cmp.Or(visit(tx, told), errUndo)
						}
						orders++
						again := told[orders%len(told)]
						if err := tell(tx, "again", events[again]); err != nil {
							return err
						}
						var have string
						if err := tx.QueryRow(t.Context(), `
							SELECT (SELECT string_agg(concat_ws(' ', state, reason, fact_at), '; ' ORDER BY id) FROM message)
								|| ' / ' || (SELECT concat_ws(' ', block, detail, blocked_at, soft_bounces, soft_at) FROM address)`).Scan(&have); err != nil {
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
			if err := visit(w.pool, nil); err != nil {
				t.Fatal(err)
			}
			if orders != 120 {
				t.Errorf("%d orders, want 5!", orders)
			}
		})
	}
}
