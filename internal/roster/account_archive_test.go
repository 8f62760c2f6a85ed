package roster_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"

	"usher/internal/roster"
	"usher/internal/roster/rostertest"
)

// An account that was made for a client and that nobody took is archived after
// the days that the app says, and not before, not at all by default, and not
// where its person has a password or is asked again.
func TestUntakenAccountsAreArchived(t *testing.T) {
	t.Parallel()
	made := func(t *testing.T, option, settings string, more func(t *testing.T, b *rostertest.Bundle, q roster.AccessRequest)) (b *rostertest.Bundle, account uuid.UUID) {
		b = rostertest.Begin(t)
		client(t, b, "ann@client.example")
		if settings != "" {
			var s map[string]json.RawMessage
			done(t, json.Unmarshal([]byte(settings), &s))
			_, err := b.ChangePolicy(t.Context(), b.App.ID, roster.PolicyChange{Settings: s}, noKey)
			done(t, err)
		}
		out, err := asked(t, b, option, "ann@client.example")
		done(t, err)
		if more != nil {
			more(t, b, out.Request)
		}
		return b, *out.Request.MadeID
	}
	cancel := func(t *testing.T, b *rostertest.Bundle, q roster.AccessRequest) {
		_, err := b.CancelRequest(t.Context(), b.App.ID, b.Admin.ID, q.ID, noKey)
		done(t, err)
	}
	both := `{"archive_temporary_days": 30, "archive_unclaimed_days": 10}`
	for _, test := range []struct {
		name, option, settings string
		more                   func(t *testing.T, b *rostertest.Bundle, q roster.AccessRequest)
		days                   int // after which it is archived; 0: never
		kept                   string
	}{
		{"no setting", roster.OptionTemporary, "", cancel, 0, ""},
		{"cancelled", roster.OptionTemporary, both, cancel, 30, ""},
		{"denied", roster.OptionTemporary, both, func(t *testing.T, b *rostertest.Bundle, q roster.AccessRequest) {
			_, err := b.DenyRequest(t.Context(), q.Ticket(), false)
			done(t, err)
		}, 30, ""},
		{"waiting", roster.OptionTemporary, both, nil, 0, ""},
		{"granted", roster.OptionTemporary, both, func(t *testing.T, b *rostertest.Bundle, q roster.AccessRequest) {
			_, err := b.ApproveRequest(t.Context(), q.Ticket(), uuid.Nil, "")
			done(t, err)
		}, 0, ""},
		{"taken", roster.OptionTemporary, both, func(t *testing.T, b *rostertest.Bundle, q roster.AccessRequest) {
			cancel(t, b, q)
			b.Exec(t, `UPDATE account SET unclaimed = false WHERE id = $1`, *q.MadeID)
		}, 0, roster.KeptClaimed},
		{"asked again", roster.OptionTemporary, both, func(t *testing.T, b *rostertest.Bundle, q roster.AccessRequest) {
			cancel(t, b, q)
			again, err := asked(t, b, roster.OptionTemporary, "ann@client.example")
			done(t, err)
			if again.Request.ID == q.ID || *again.Request.MadeID != *q.MadeID {
				t.Fatalf("asking again made %+v", again.Request)
			}
		}, 0, roster.KeptAsked},
		{"unclaimed", roster.OptionNewAccount, both, nil, 10, ""},
		{"claimed", roster.OptionNewAccount, both, func(t *testing.T, b *rostertest.Bundle, q roster.AccessRequest) {
			b.Exec(t, `UPDATE account SET unclaimed = false WHERE id = $1`, *q.MadeID)
		}, 0, roster.KeptClaimed},
		{"unclaimed, no setting", roster.OptionNewAccount, `{"archive_temporary_days": 1}`, nil, 0, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b, account := made(t, test.option, test.settings, test.more)
			status := func() string {
				return rostertest.Value[string](t, b, `SELECT status FROM account WHERE id = $1`, account)
			}
			timeline, err := b.Timeline(t.Context(), b.App.ID, account)
			done(t, err)
			if coming := timeline.Coming; (len(coming) == 1) != (test.days > 0) ||
				test.days > 0 && (coming[0].What != "archives" || !coming[0].At.Equal(b.Clock.Now().AddDate(0, 0, test.days))) {
				t.Errorf("what comes is %+v", coming)
			}
			began, kept := status(), map[string]int{}
			for day := 1; day <= 60; day++ {
				b.Clock.Add(24 * time.Hour)
				s, more, err := b.RunSweep(t.Context(), roster.SweepAccounts, 0, b.Clock.Now())
				if err != nil || more {
					t.Fatal(more, err)
				}
				for reason, n := range s.Skipped {
					kept[reason] += n
				}
				want := began
				if test.days > 0 && day >= test.days {
					want = "archived"
				}
				if got := status(); got != want {
					t.Fatalf("on day %d it is %s, want %s", day, got, want)
				}
			}
			if n := rostertest.Value[int](t, b, `SELECT count(*) FROM event WHERE subject_id = $1 AND type = 'account.archived'`, account); (n == 1) != (test.days > 0) || n > 1 {
				t.Errorf("%d events tell that it was archived", n)
			}
			if kept[test.kept] != 1 && test.kept != "" || test.kept == "" && len(kept) > 0 {
				t.Errorf("it was kept for %v", kept)
			}
		})
	}
}
