package roster_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"usher/internal/roster"
	"usher/internal/roster/rostertest"
)

// rounds is how often each race is run. In every tenth round the first runner
// goes alone, and in every tenth the second, so that each has won for certain.
const rounds = 200

// race runs two functions at once.
func race(round int, first, second func(ctx context.Context) error) (firstErr, secondErr error) {
	ctx := context.Background() // of no test: a runner's failure shall not cancel the other
	switch round % 10 {
	case 0:
		firstErr = first(ctx)
		return firstErr, second(ctx)
	case 1:
		secondErr = second(ctx)
		return first(ctx), secondErr
	}
	atOnce(2, func(i int) {
		if i == round%2 {
			firstErr = first(ctx)
		} else {
			secondErr = second(ctx)
		}
	})
	return firstErr, secondErr
}

// inviteForRounds makes an invitation for every round.
func inviteForRounds(t *testing.T, b *rostertest.Bundle) []roster.Invitation {
	t.Helper()
	var rows []roster.NewInvitation
	for round := range rounds {
		rows = append(rows, b.Row(fmt.Sprintf("ann%d@example.org", round)))
	}
	var all []roster.Invitation
	for _, out := range b.Create(t, rows...) {
		done(t, out.Err)
		all = append(all, out.Invitation)
	}
	return all
}

// wantNone checks that a query finds nothing.
func wantNone(t *testing.T, b *rostertest.Bundle, what, query string) {
	t.Helper()
	if found := rostertest.Column[string](t, b, query); len(found) != 0 {
		t.Errorf("%s: %d invitations, such as %s", what, len(found), found[0])
	}
}

// wantWhole checks over all rounds what holds whoever won.
func wantWhole(t *testing.T, b *rostertest.Bundle) {
	t.Helper()
	wantNone(t, b, "still open", `SELECT id::text FROM invitation WHERE state IN ('pending', 'on_hold')`)
	wantNone(t, b, "not exactly one deciding event, and that of the state", `
		SELECT i.id::text FROM invitation i LEFT JOIN event e ON e.subject_id = i.id AND e.type <> 'invitation.created'
		GROUP BY i.id HAVING count(e) <> 1 OR min(e.type) <> 'invitation.' || i.state`)
	wantNone(t, b, "not exactly one created event", `
		SELECT i.id::text FROM invitation i LEFT JOIN event e ON e.subject_id = i.id AND e.type = 'invitation.created'
		GROUP BY i.id HAVING count(e) <> 1`)
	wantNone(t, b, "not exactly one mail", `
		SELECT i.id::text FROM invitation i LEFT JOIN message m ON m.subject_id = i.id
		GROUP BY i.id HAVING count(m) <> 1`)
	wantNone(t, b, "not told of exactly once", `
		SELECT i.id::text FROM invitation i
		JOIN event e ON e.subject_id = i.id AND e.type = 'invitation.' || i.state
		LEFT JOIN (SELECT jsonb_array_elements_text(args->'event_ids') AS event FROM message WHERE kind = 'news') j ON j.event = e.id::text
		GROUP BY i.id HAVING count(j) <> CASE WHEN i.state IN ('accepted', 'declined', 'expired') THEN 1 ELSE 0 END`)
	wantNone(t, b, "membership without acceptance, or acceptance without it", `
		SELECT i.id::text FROM invitation i
		LEFT JOIN account a ON a.app_id = i.app_id AND a.email_key = i.email_key
		LEFT JOIN membership m ON m.account_id = a.id AND m.workspace_id = i.workspace_id AND m.state = 'active' AND a.id = i.account_id
		GROUP BY i.id HAVING count(m) <> CASE WHEN i.state = 'accepted' THEN 1 ELSE 0 END OR count(a) <> count(m)`)
}

// wantBoth checks that each of two states won at least the rounds it ran first
// in.
func wantBoth(t *testing.T, b *rostertest.Bundle, one, other roster.State) {
	t.Helper()
	count := func(s roster.State) int {
		return rostertest.Value[int](t, b, `SELECT count(*) FROM invitation WHERE state = $1`, s)
	}
	n, m := count(one), count(other)
	if n < rounds/10 || m < rounds/10 || n+m != rounds {
		t.Errorf("%s won %d, %s won %d of %d rounds", one, n, other, m, rounds)
	}
	t.Logf("%s won %d, %s won %d", one, n, other, m)
}

func TestRaceAcceptRevoke(t *testing.T) {
	t.Parallel()
	b, _ := rostertest.Database(t)
	for round, inv := range inviteForRounds(t, b) {
		acceptErr, revokeErr := race(round, func(ctx context.Context) error {
			_, _, err := b.AcceptInvitation(ctx, inv.Ticket(), newcomer())
			return err
		}, func(ctx context.Context) error {
			_, err := b.RevokeInvitation(ctx, b.App.ID, b.Stakeholder.ID, inv.ID, noKey)
			return err
		})
		if revokeErr == nil {
			stands(t, refused(t, acceptErr, roster.Conflict, "already_revoked"), roster.Revoked, b.Clock.Now())
		} else {
			stands(t, refused(t, revokeErr, roster.Conflict, "already_accepted"), roster.Accepted, b.Clock.Now())
			done(t, acceptErr)
		}
	}
	wantWhole(t, b)
	wantBoth(t, b, roster.Accepted, roster.Revoked)
}

// The person answers in the last microsecond while the sweep, whose clock is
// one further, is at work.
func TestRaceAcceptExpire(t *testing.T) {
	t.Parallel()
	b, _ := rostertest.Database(t)
	for round := range rounds {
		b.Clock.Add(time.Minute) // each round has an expiry of its own
		inv := b.Invite(t, fmt.Sprintf("ann%d@example.org", round))
		inTime, sweeper := b.At(inv.ExpiresAt.Add(-time.Microsecond)), b.At(inv.ExpiresAt)
		ended := 0
		acceptErr, sweepErr := race(round, func(ctx context.Context) error {
			_, _, err := inTime.AcceptInvitation(ctx, inv.Ticket(), newcomer())
			return err
		}, func(ctx context.Context) (err error) {
			ended, err = sweeper.ExpireInvitations(ctx, 100)
			return err
		})
		done(t, sweepErr)
		if acceptErr == nil {
			if ended != 0 {
				t.Fatal("accepted and expired")
			}
			// The sweep steps over what is being decided; it has lost for good.
			if ended, err := sweeper.ExpireInvitations(t.Context(), 100); err != nil || ended != 0 {
				t.Fatalf("the sweep after: ended %d, %v", ended, err)
			}
			continue
		}
		stands(t, refused(t, acceptErr, roster.Gone, "expired"), roster.Expired, inv.ExpiresAt)
		if ended != 1 {
			t.Fatalf("neither accepted nor expired: sweep ended %d", ended)
		}
	}
	wantWhole(t, b)
	wantBoth(t, b, roster.Accepted, roster.Expired)
}

func TestRaceCreateCreate(t *testing.T) {
	t.Parallel()
	b, _ := rostertest.Database(t)
	for round := range rounds {
		row := b.Row(fmt.Sprintf("ann%d@example.org", round))
		underKey := round%3 == 0
		if underKey {
			row = keyed(row, fmt.Sprint(round))
		}
		var out [2]roster.CreateOutcome
		create := func(i int) func(ctx context.Context) error {
			return func(ctx context.Context) error {
				all, err := b.CreateInvitations(ctx, []roster.NewInvitation{row})
				if err == nil {
					out[i] = all[0]
				}
				return err
			}
		}
		firstErr, secondErr := race(round, create(0), create(1))
		done(t, errors.Join(firstErr, secondErr, out[0].Err, out[1].Err))
		if out[0].Invitation.ID != out[1].Invitation.ID {
			t.Fatalf("two invitations: %s and %s", out[0].Invitation.ID, out[1].Invitation.ID)
		}
		duplicates := 0
		for _, o := range out {
			if o.Duplicate {
				duplicates++
			}
		}
		if want := map[bool]int{true: 0, false: 1}[underKey]; duplicates != want {
			t.Fatalf("under a key %t: %d duplicates, want %d", underKey, duplicates, want)
		}
	}
	if n := rostertest.Value[int](t, b, `SELECT count(*) FROM invitation`); n != rounds {
		t.Errorf("invitations: got %d, want %d", n, rounds)
	}
	b.Exec(t, `UPDATE invitation SET state = 'superseded'`)
	b.Exec(t, `INSERT INTO event (id, app_id, type, subject_id, at) SELECT gen_random_uuid(), app_id, 'invitation.superseded', id, now() FROM invitation`)
	wantWhole(t, b)
}

// The form for new accounts, sent by a double click.
func TestRaceAcceptAccept(t *testing.T) {
	t.Parallel()
	b, _ := rostertest.Database(t)
	for round, inv := range inviteForRounds(t, b) {
		var got [2]roster.Invitation
		var proved [2]bool
		yes := func(i int) func(ctx context.Context) error {
			return func(ctx context.Context) (err error) {
				got[i], proved[i], err = b.AcceptInvitation(ctx, inv.Ticket(), newcomer())
				return err
			}
		}
		firstErr, secondErr := race(round, yes(0), yes(1))
		done(t, errors.Join(firstErr, secondErr))
		if a, b := asJSON(t, got[0]), asJSON(t, got[1]); a != b {
			t.Fatalf("two answers:\n got %s\n and %s", a, b)
		}
		if proved[0] == proved[1] {
			t.Fatalf("proved: got %t twice, want once", proved[0])
		}
	}
	wantWhole(t, b)
	if n := rostertest.Value[int](t, b, `SELECT count(*) FROM account WHERE kind = 'client'`); n != rounds {
		t.Errorf("accounts: got %d, want %d", n, rounds)
	}
}

// One person without an account accepts two invitations at once: whoever is
// second must log in to the account that the first has just made.
func TestRaceNewAccount(t *testing.T) {
	t.Parallel()
	b, _ := rostertest.Database(t)
	other := *b
	other.Workspace = b.NewWorkspace(t, "Second file")
	left, right := inviteForRounds(t, b), inviteForRounds(t, &other)
	for round := range rounds {
		yes := func(inv roster.Invitation) func(ctx context.Context) error {
			return func(ctx context.Context) error {
				_, _, err := b.AcceptInvitation(ctx, inv.Ticket(), newcomer())
				return err
			}
		}
		leftErr, rightErr := race(round, yes(left[round]), yes(right[round]))
		if (leftErr == nil) == (rightErr == nil) {
			t.Fatalf("got %v and %v, want one to have made the account", leftErr, rightErr)
		}
		refused(t, errors.Join(leftErr, rightErr), roster.Unauthorized, "log_in_needed")
	}
	if n := rostertest.Value[int](t, b, `SELECT count(*) FROM account WHERE kind = 'client'`); n != rounds {
		t.Errorf("accounts: got %d, want %d", n, rounds)
	}
	if n := rostertest.Value[int](t, b, `SELECT count(*) FROM invitation WHERE state = 'accepted'`); n != rounds {
		t.Errorf("accepted: got %d, want %d", n, rounds)
	}
}

// Two sweeps share the work and never do it twice.
func TestRaceSweeps(t *testing.T) {
	t.Parallel()
	b, _ := rostertest.Database(t)
	all := inviteForRounds(t, b)
	b.Clock.Set(all[0].ExpiresAt)
	var ended [4]int
	var errs [4]error
	atOnce(4, func(i int) {
		for range rounds { // far more than needed
			var n int
			if n, errs[i] = b.ExpireInvitations(context.Background(), 7); n > 7 {
				errs[i] = fmt.Errorf("ended %d, want at most 7", n)
			}
			if ended[i] += n; n == 0 || errs[i] != nil {
				return
			}
		}
	})
	done(t, errors.Join(errs[:]...))
	if n, err := b.ExpireInvitations(t.Context(), rounds); err != nil || n != 0 {
		t.Errorf("left over: %d, %v", n, err)
	}
	if n := ended[0] + ended[1] + ended[2] + ended[3]; n != rounds {
		t.Errorf("ended %v, %d in all, want %d", ended, n, rounds)
	}
	wantWhole(t, b)
}

// A workspace is archived while somebody is invited to it, or while an expired
// invitation to it is reopened: no invitation to it stays open.
func TestRaceArchive(t *testing.T) {
	t.Parallel()
	b, _ := rostertest.Database(t)
	withdrawn := 0
	for round := range rounds {
		one := *b
		one.Workspace = b.NewWorkspace(t, fmt.Sprintf("File %d", round))
		invite := func(ctx context.Context) error {
			out, err := one.CreateInvitations(ctx, []roster.NewInvitation{one.Row("ann@example.org")})
			return errors.Join(err, out[0].Err)
		}
		if round%2 == 0 {
			inv := one.Invite(t, "ann@example.org")
			b.Exec(t, `UPDATE invitation SET state = 'expired' WHERE id = $1`, inv.ID)
			invite = func(ctx context.Context) error {
				_, err := one.ReopenInvitation(ctx, b.App.ID, b.Stakeholder.ID, inv.ID, noKey)
				return err
			}
		}
		invited, archived := race(round, invite, func(ctx context.Context) error {
			_, err := one.ArchiveWorkspace(ctx, b.App.ID, b.Admin.ID, one.Workspace.ID, noKey)
			return err
		})
		done(t, archived)
		if invited == nil {
			withdrawn++
		} else if code := invited.Error(); !strings.Contains(code, "archived") {
			t.Fatalf("round %d: %v", round, invited)
		}
	}
	wantNone(t, b, "open in an archived workspace", `SELECT id::text FROM invitation WHERE state IN ('pending', 'on_hold')`)
	if n := rostertest.Value[int](t, b, `SELECT count(*) FROM invitation WHERE state = 'revoked'`); n != withdrawn {
		t.Errorf("withdrawn: got %d, want %d", n, withdrawn)
	}
	if withdrawn < rounds/10 || withdrawn > rounds*9/10 {
		t.Errorf("the invitation was first in %d of %d rounds", withdrawn, rounds)
	}
	t.Logf("the invitation was first in %d of %d rounds", withdrawn, rounds)
}
