package roster_test

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"usher/internal/roster"
	"usher/internal/roster/rostertest"
)

// sent has every mail that waits be with the provider.
func sent(t testing.TB, b *rostertest.Bundle) {
	t.Helper()
	b.Exec(t, `UPDATE message SET state = 'accepted', due_at = NULL, settled_at = $1 WHERE state = 'queued'`, b.Clock.Now())
}

// tick runs the sweep for reminders to its end.
func tick(t testing.TB, b *rostertest.Bundle) (s roster.Swept) {
	t.Helper()
	s.Skipped = map[string]int{}
	for lane := range roster.SweepLanes(roster.SweepReminders) {
		for more := true; more; {
			part, again, err := b.RunSweep(t.Context(), roster.SweepReminders, lane, b.Clock.Now())
			done(t, err)
			s.Scanned, s.Acted, more = s.Scanned+part.Scanned, s.Acted+part.Acted, again
			for reason, n := range part.Skipped {
				s.Skipped[reason] += n
			}
		}
	}
	return s
}

// reminded are the kinds of reminders that were asked for since, and forgets them
// as sent.
func reminded(t testing.TB, b *rostertest.Bundle) []string {
	t.Helper()
	kinds := rostertest.Column[string](t, b, `SELECT kind FROM message WHERE state = 'queued' AND purpose LIKE '%remind%' ORDER BY kind`)
	sent(t, b)
	return kinds
}

// until moves the clock on in steps of an hour, sweeping at each, and tells when
// reminders were asked for.
func until(t testing.TB, b *rostertest.Bundle, end time.Time) (times []string) {
	t.Helper()
	for b.Clock.Now().Before(end) {
		b.Clock.Add(time.Hour)
		tick(t, b)
		for _, kind := range reminded(t, b) {
			times = append(times, kind+" "+b.Clock.Now().In(time.UTC).Format("01-02 15:04"))
		}
	}
	return times
}

// The bundle's app is in Madrid, its clock at Monday the second of March 2026,
// 09:00 UTC.
func TestReminders(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@client.example")
	if s := tick(t, b); s.Acted != 0 {
		t.Errorf("at once: %+v", s)
	}
	sent(t, b)
	times := until(t, b, inv.ExpiresAt.Add(48*time.Hour))
	if len(times) != 2 || !strings.HasPrefix(times[0], "reminder 03-05 ") || !strings.HasPrefix(times[1], "reminder 03-16 ") {
		t.Errorf("reminders are %q", times)
	}
	mails := b.Mails(t, inv.ID)
	if len(mails) != 3 || mails[1].Lane != roster.Bulk || mails[1].Args.Version != 1 || mails[1].Purpose == mails[2].Purpose {
		t.Errorf("mails are %+v", mails)
	}
}

// Whatever ends the waiting, or has to, ends the reminders.
func TestRemindersEnd(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		end  func(t *testing.T, b *rostertest.Bundle, inv roster.Invitation)
		want int
	}{
		"accepted": {func(t *testing.T, b *rostertest.Bundle, inv roster.Invitation) { accept(t, b, inv); sent(t, b) }, 0},
		"revoked":  {func(t *testing.T, b *rostertest.Bundle, inv roster.Invitation) { revoke(t, b, inv) }, 0},
		"blocked":  {func(t *testing.T, b *rostertest.Bundle, _ roster.Invitation) { address(t, b, "block", "'hard'") }, 0},
		"unsubscribed": {func(t *testing.T, b *rostertest.Bundle, _ roster.Invitation) {
			address(t, b, "unsubscribed_at", "now()")
		}, 0},
		"on hold": {func(t *testing.T, b *rostertest.Bundle, inv roster.Invitation) {
			b.Exec(t, `UPDATE invitation SET state = 'on_hold' WHERE id = $1`, inv.ID)
		}, 0},
		"none wanted": {func(t *testing.T, b *rostertest.Bundle, _ roster.Invitation) { remindersOf(t, b, `{"max":0}`) }, 0},
		"never mailed": {func(t *testing.T, b *rostertest.Bundle, _ roster.Invitation) {
			b.Exec(t, `UPDATE message SET state = 'held'`)
		}, 0},
		"nothing": {func(*testing.T, *rostertest.Bundle, roster.Invitation) {}, 2},
		"resent": {func(t *testing.T, b *rostertest.Bundle, inv roster.Invitation) {
			b.Clock.Add(2 * time.Hour)
			_, err := b.ResendInvitation(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, noKey)
			done(t, err)
			sent(t, b)
		}, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := rostertest.Begin(t)
			inv := b.Invite(t, "ann@client.example")
			sent(t, b)
			tick(t, b)
			test.end(t, b, inv)
			if times := until(t, b, inv.ExpiresAt.Add(24*time.Hour)); len(times) != test.want {
				t.Errorf("reminders are %q, want %d", times, test.want)
			}
		})
	}
}

func revoke(t *testing.T, b *rostertest.Bundle, inv roster.Invitation) {
	_, err := b.RevokeInvitation(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, noKey)
	done(t, err)
}

func address(t *testing.T, b *rostertest.Bundle, column, value string) {
	b.Exec(t, fmt.Sprintf(`INSERT INTO address (app_id, email_key, %s) VALUES ($1, 'ann@client.example', %s)`, column, value), b.App.ID)
}

func remindersOf(t *testing.T, b *rostertest.Bundle, reminders string) {
	_, err := b.ChangePolicy(t.Context(), b.App.ID, roster.PolicyChange{Settings: map[string]json.RawMessage{"reminders": json.RawMessage(reminders)}}, noKey)
	done(t, err)
}

// A reminder that was asked for and not written yet is not written to somebody
// who decided, or wants none, or at night.
func TestRemindersLookLate(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(t *testing.T, b *rostertest.Bundle, inv roster.Invitation){
		"accepted": func(t *testing.T, b *rostertest.Bundle, inv roster.Invitation) {
			b.Exec(t, `UPDATE invitation SET state = 'accepted'`)
		},
		"unsubscribed": func(t *testing.T, b *rostertest.Bundle, _ roster.Invitation) {
			address(t, b, "unsubscribed_at", "now()")
		},
		"night": func(_ *testing.T, b *rostertest.Bundle, _ roster.Invitation) { b.Clock.Add(12 * time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := rostertest.Begin(t)
			inv := b.Invite(t, "ann@client.example")
			sent(t, b)
			for len(b.Mails(t, inv.ID)) < 2 {
				b.Clock.Add(time.Hour)
				tick(t, b)
			}
			reminder := b.Mails(t, inv.ID)[1:]
			letters, err := b.Letters(t.Context(), reminder)
			done(t, err)
			if l := letters[reminder[0].ID]; l.Skip != "" || l.Stop != nil {
				t.Fatalf("at once: %+v", l)
			}
			change(t, b, inv)
			letters, err = b.Letters(t.Context(), reminder)
			done(t, err)
			l := letters[reminder[0].ID]
			if (l.Skip == "") != (name == "night") || (l.Stop == nil) == (name == "night") {
				t.Errorf("it says %+v", l)
			}
			if l.Stop != nil {
				if madrid := l.Stop.Until.In(zone(t, "Europe/Madrid")); madrid.Hour() != 8 || madrid.Before(b.Clock.Now()) {
					t.Errorf("it waits until %s", madrid)
				}
			}
		})
	}
}

func zone(t *testing.T, name string) *time.Location {
	z, err := time.LoadLocation(name)
	done(t, err)
	return z
}

// After an outage at most one reminder goes out, and the others are recorded.
func TestRemindersAfterAnOutage(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	remindersOf(t, b, `{"max":4,"last_before_hours":48}`)
	inv := b.Invite(t, "ann@client.example")
	sent(t, b)
	tick(t, b)
	b.Clock.Set(inv.ExpiresAt.Add(-26 * time.Hour).Truncate(24 * time.Hour).Add(10 * time.Hour)) // a day before the end, at noon
	b.Clock.Set(time.Date(2026, 3, 13, 11, 0, 0, 0, time.UTC))                                   // a Friday
	s := tick(t, b)
	if s.Acted != 1 || s.Skipped[roster.SkippedMissed] != 2 {
		t.Errorf("it did %+v", s)
	}
	if kinds := reminded(t, b); len(kinds) != 1 {
		t.Errorf("reminders are %q", kinds)
	}
	if s := tick(t, b); s.Acted != 0 {
		t.Errorf("and again %+v", s)
	}
}

// Who has several things open gets one mail of all, and not two in a day.
func TestDigest(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	first := b.Invite(t, "ann@client.example")
	sent(t, b)
	second := b.Row("ann@client.example")
	second.WorkspaceID = b.NewWorkspace(t, "Another file").ID
	b.Clock.Add(24 * time.Hour)
	out := b.Create(t, second)[0]
	done(t, out.Err)
	client(t, b, "ann@client.example")
	asked, err := asked(t, b, roster.OptionRequest, "ann@client.example")
	done(t, err)
	sent(t, b)
	tick(t, b)
	times := until(t, b, first.ExpiresAt.Add(-30*time.Hour))
	if len(times) == 0 || !strings.HasPrefix(times[0], "digest 03-05 ") {
		t.Fatalf("reminders are %q", times)
	}
	digest := b.Mails(t, first.ID)
	last := digest[len(digest)-1]
	if len(last.Args.Items) != 3 {
		t.Errorf("it names %+v", last.Args.Items)
	}
	for i, at := range times[1:] {
		if at[len(at)-11:len(at)-6] == times[i][len(times[i])-11:len(times[i])-6] {
			t.Errorf("two on a day: %q", times)
		}
	}
	// What was answered is left out, and when all is, nothing is written.
	b.Clock.Set(time.Date(2026, 3, 10, 10, 0, 0, 0, time.UTC))
	letters, err := b.Letters(t.Context(), []roster.Mail{last})
	done(t, err)
	if l := letters[last.ID]; l.Skip != "" || l.Digest.Len() != 3 {
		t.Errorf("it would name %+v", l)
	}
	accept(t, b, first)
	letters, err = b.Letters(t.Context(), []roster.Mail{last})
	done(t, err)
	if l := letters[last.ID]; l.Skip != "" || l.Digest.Len() != 2 {
		t.Errorf("it would name %d, %s", l.Digest.Len(), l.Skip)
	}
	revoke(t, b, out.Invitation)
	_, err = b.CancelRequest(t.Context(), b.App.ID, b.Admin.ID, asked.Request.ID, noKey)
	done(t, err)
	letters, err = b.Letters(t.Context(), []roster.Mail{last})
	done(t, err)
	if l := letters[last.ID]; l.Skip == "" {
		t.Errorf("it would be written, of %d things", l.Digest.Len())
	}
}

// A client whose account was made for them is reminded to create a password, until
// they have.
func TestUnclaimedAccountsAreReminded(t *testing.T) {
	t.Parallel()
	for _, claimed := range []bool{false, true} {
		t.Run(fmt.Sprint(claimed), func(t *testing.T) {
			t.Parallel()
			b := rostertest.Begin(t)
			client(t, b, "ann@client.example")
			out, err := asked(t, b, roster.OptionNewAccount, "ann@client.example")
			done(t, err)
			sent(t, b)
			tick(t, b)
			if claimed {
				b.Exec(t, `UPDATE account SET unclaimed = false WHERE id = $1`, *out.Request.MadeID)
			}
			times := until(t, b, b.Clock.Now().Add(15*24*time.Hour))
			if claimed && len(times) > 0 || !claimed && (len(times) != 2 || !strings.HasPrefix(times[0], "new_account 03-05")) {
				t.Errorf("reminders are %q", times)
			}
		})
	}
}

// A dry run tells what would be done, and does nothing.
func TestDrySweep(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@client.example")
	sent(t, b)
	tick(t, b)
	later := b.At(inv.ExpiresAt.Add(time.Minute))
	s, err := later.DrySweep(t.Context(), roster.SweepInvitations)
	done(t, err)
	if s.Acted != 1 || len(s.Deeds) != 1 || s.Deeds[0].Subject != inv.ID || s.Deeds[0].Does != "expires" || s.Deeds[0].To != "ann@client.example" {
		t.Errorf("it would do %+v", s)
	}
	if state(t, b, inv.ID) != "pending" {
		t.Error("it did")
	}
	_, err = b.DrySweep(t.Context(), "no_such")
	refused(t, err, roster.NotFound, "sweep_not_found")
}

func state(t testing.TB, b *rostertest.Bundle, id uuid.UUID) string {
	t.Helper()
	return rostertest.Value[string](t, b, `SELECT state FROM invitation WHERE id = $1`, id)
}

// What nobody needs any more is forgotten, and what is needed stays.
func TestRetention(t *testing.T) {
	t.Parallel()
	ctx := context.WithoutCancel(t.Context())
	b := rostertest.Begin(t)
	old, young := b.Invite(t, "old@client.example"), b.Invite(t, "young@client.example")
	revoke(t, b, old)
	sent(t, b)
	_, err := b.CreateCompany(ctx, b.App.ID, "Once", "", roster.IdempotencyKey{Route: "r", Key: "k", Hash: []byte{1}})
	done(t, err)
	_, _, err = b.StartSession(ctx, b.App.ID, b.Admin.ID)
	done(t, err)
	b.Clock.Add(181 * 24 * time.Hour)
	for range 2 {
		_, _, err = b.RunSweep(ctx, roster.SweepRetention, 0, b.Clock.Now())
		done(t, err)
	}
	for what, test := range map[string]struct {
		want int
		sql  string
	}{
		"keys":      {0, `SELECT count(*) FROM idempotency_key`},
		"sessions":  {0, `SELECT count(*) FROM session`},
		"forgotten": {1, `SELECT count(*) FROM invitation WHERE email = '' AND full_name = '' AND note = '' AND email_key LIKE 'forgotten:%'`},
		"kept":      {1, `SELECT count(*) FROM invitation WHERE email = 'young@client.example'`},
		"mails":     {0, `SELECT count(*) FROM message WHERE email_key = 'old@client.example'`},
		"events":    {1, `SELECT count(*) FROM event WHERE type = 'invitation.revoked'`},
	} {
		if got := rostertest.Value[int](t, b, test.sql); got != test.want {
			t.Errorf("%s: %d, want %d", what, got, test.want)
		}
	}
	if slices.Contains(b.Events(t, young.ID), "forgotten") {
		t.Error("young")
	}
}

// Of access requests that came to nothing only that is kept, once no denial can
// keep anybody from asking any more; of one that was granted all.
func TestRetentionOfRequests(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	denied, given := ask(t, b, "ann@client.example"), ask(t, b, "bob@client.example")
	_, err := b.DenyRequest(t.Context(), denied.Ticket(), false)
	done(t, err)
	_, err = b.ApproveRequest(t.Context(), given.Ticket(), uuid.Nil, "")
	done(t, err)
	sent(t, b)
	began := b.Clock.Now()
	for _, test := range []struct{ days, left int }{{399, 2}, {401, 1}} {
		b.Clock.Set(began.AddDate(0, 0, test.days))
		_, _, err := b.RunSweep(t.Context(), roster.SweepRetention, 0, b.Clock.Now())
		done(t, err)
		if n := rostertest.Value[int](t, b, `SELECT count(*) FROM access_request WHERE email LIKE '%@client.example' AND full_name <> ''`); n != test.left {
			t.Errorf("after %d days %d are whole, want %d", test.days, n, test.left)
		}
	}
	if n := rostertest.Value[int](t, b, `SELECT count(*) FROM message WHERE email_key = 'ann@client.example'`); n != 0 {
		t.Errorf("%d mails name the person still", n)
	}
}

// A timeline tells what happened and what comes next, as it then comes.
func TestTimeline(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@client.example")
	sent(t, b)
	tick(t, b)
	line, err := b.Timeline(ctx, b.App.ID, inv.ID)
	done(t, err)
	if line.Subject != "invitation" || len(line.Past) != 2 || line.Past[0].Event == nil || line.Past[1].Mail.Kind != roster.MailInvitation {
		t.Errorf("the past is %+v", line.Past)
	}
	if len(line.Coming) != 3 || line.Coming[0].What != "reminder" || line.Coming[2].What != "expires" || !line.Coming[2].At.Equal(inv.ExpiresAt) {
		t.Fatalf("what comes is %+v", line.Coming)
	}
	for _, c := range line.Coming[:2] {
		b.Clock.Set(c.At.Add(-time.Minute))
		tick(t, b)
		if kinds := reminded(t, b); len(kinds) != 0 {
			t.Errorf("before %s: %q", c.At, kinds)
		}
		b.Clock.Set(c.At)
		tick(t, b)
		if kinds := reminded(t, b); len(kinds) != 1 {
			t.Errorf("at %s: %q", c.At, kinds)
		}
	}
	revoke(t, b, inv)
	if line, err = b.Timeline(ctx, b.App.ID, inv.ID); err != nil || len(line.Coming) != 0 || len(line.Past) != 5 {
		t.Errorf("after the end it is %+v, %v", line, err)
	}
	_, err = b.Timeline(ctx, b.App.ID, uuid.New())
	refused(t, err, roster.NotFound, "subject_not_found")
}

// Sweeps at once, as when two processes think that it is their turn, remind
// everybody once.
func TestReminderSweepsAtOnce(t *testing.T) {
	t.Parallel()
	b, _ := rostertest.Database(t)
	var rows []roster.NewInvitation
	for n := range 300 {
		rows = append(rows, b.Row(fmt.Sprintf("ann%d@client.example", n)))
	}
	for _, out := range b.Create(t, rows...) {
		done(t, out.Err)
	}
	sent(t, b)
	for range 2 { // it plans, and four days later it reminds
		atOnce(6, func(i int) {
			for more := true; more; {
				var err error
				if _, more, err = b.RunSweep(context.Background(), roster.SweepReminders, i%roster.SweepLanes(roster.SweepReminders), b.Clock.Now()); err != nil {
					t.Error(err)
				}
			}
		})
		if b.Clock.Now().Hour() != 11 {
			b.Clock.Set(time.Date(2026, 3, 6, 11, 0, 0, 0, time.UTC)) // a Friday
		}
	}
	if n := rostertest.Value[int](t, b, `SELECT count(*) FROM message WHERE kind = 'reminder'`); n != 300 {
		t.Errorf("%d reminders went out, want 300", n)
	}
	wantNone(t, b, "reminded twice", `SELECT subject_id::text FROM message WHERE kind = 'reminder' GROUP BY 1 HAVING count(*) <> 1`)
}
