package roster_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
	"usher/internal/roster"
	"usher/internal/roster/rostertest"
)

// clockZones are where the people of these tests live.
var clockZones = []string{"Europe/Madrid", "America/New_York", "Asia/Kolkata", "Pacific/Auckland", "America/Sao_Paulo", "Pacific/Honolulu", "UTC"}

// What a simulation tells is what the sweep does, to the minute.
func TestSimulationComesTrue(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	b := rostertest.Begin(t)
	remindersOf(t, b, `{"max":4,"holidays":["2026-03-19","2026-04-03"]}`)
	random := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	var things []roster.Simulated
	for n := range 60 {
		b.Clock.Add(time.Duration(random.IntN(6*60*60)) * time.Second)
		email, zone := fmt.Sprintf("person%d@client.example", n), clockZones[n%len(clockZones)]
		_, err := b.CreateAccount(ctx, b.App.ID, roster.NewAccount{Kind: roster.Client, FullName: "Ann Client", Email: email, TimeZone: zone}, noKey)
		done(t, err)
		if n%3 == 0 {
			out, err := asked(t, b, roster.OptionRequest, email)
			done(t, err)
			things = append(things, roster.Simulated{ID: out.Request.ID, Kind: roster.SimulateRequest, Zone: zone, MailedAt: b.Clock.Now()})
		} else {
			things = append(things, roster.Simulated{ID: b.Invite(t, email).ID, Kind: roster.SimulateInvitation, Zone: zone, MailedAt: b.Clock.Now()})
		}
		sent(t, b)
	}
	_, plans, err := b.Simulate(ctx, b.App.ID, roster.PolicyChange{}, things)
	done(t, err)
	want, sends := map[uuid.UUID][]string{}, 0
	for i, plan := range plans {
		for _, at := range plan.Times {
			minute := at.Add(time.Minute - time.Nanosecond).Truncate(time.Minute) // the first tick that sees it
			want[things[i].ID] = append(want[things[i].ID], minute.Format("01-02 15:04"))
			sends++
		}
	}
	// Time was long past some of these when the first sweep runs: begin anew.
	b.Clock.Set(things[0].MailedAt.Truncate(time.Minute))
	for end := b.Clock.Now().Add(45 * 24 * time.Hour); b.Clock.Now().Before(end); {
		tick(t, b)
		sent(t, b)
		next := rostertest.Value[*time.Time](t, b, `SELECT min(planned_at) FROM reminder_plan`)
		if next == nil {
			break
		}
		b.Clock.Set(maxTime(b.Clock.Now().Add(time.Minute), next.Add(time.Minute-time.Nanosecond).Truncate(time.Minute)))
	}
	got := map[uuid.UUID][]string{}
	for _, thing := range things {
		for _, at := range rostertest.Column[time.Time](t, b, `SELECT created_at FROM message WHERE subject_id = $1 AND purpose LIKE '%remind%' ORDER BY created_at`, thing.ID) {
			got[thing.ID] = append(got[thing.ID], at.UTC().Format("01-02 15:04"))
		}
	}
	for i, thing := range things {
		if !slices.Equal(got[thing.ID], want[thing.ID]) {
			t.Errorf("%s in %s, mailed at %s: reminded at %q, simulated %q", thing.Kind, thing.Zone, things[i].MailedAt, got[thing.ID], want[thing.ID])
		}
	}
	if sends < 100 {
		t.Errorf("only %d reminders were simulated", sends)
	}
}

func maxTime(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// TestMonthOfLife lives through a month in an hour's steps: two thousand
// invitations and requests, people who decide when they like, gaps of hours in
// which no sweep runs, and sweeps that are broken off amid their work. Nobody is
// reminded after a decision, at night, on a Sunday or too often; everything that
// ends by the clock ends once; and the ledger has no holes.
func TestMonthOfLife(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	ctx := t.Context()
	b, pool := rostertest.Database(t)
	const things, mailboxes = 2_000, 1_400
	zones := map[string]string{}
	if err := postgres.InTx(ctx, pool, func(tx pgx.Tx) error {
		r := b.In(tx)
		for n := range mailboxes {
			email := fmt.Sprintf("person%d@client.example", n)
			zones[email] = clockZones[n%len(clockZones)]
			if _, err := r.CreateAccount(ctx, b.App.ID, roster.NewAccount{Kind: roster.Client, FullName: "Ann Client", Email: email, TimeZone: zones[email]}, noKey); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	var workspaces []uuid.UUID
	for n := range 40 {
		workspaces = append(workspaces, b.NewWorkspace(t, fmt.Sprintf("File %d", n)).ID)
	}
	emails := slices.Sorted(maps.Keys(zones))
	decided := map[uuid.UUID]time.Time{}
	var invitations []roster.Invitation
	var requests []roster.AccessRequest
	start := b.Clock.Now()
	gap, made := 0, 0
	for hour := range 31 * 24 {
		b.Clock.Set(start.Add(time.Duration(hour) * time.Hour))
		now := b.Clock.Now()
		if hour < 16*24 && made < things {
			var rows []roster.NewInvitation
			for range 6 {
				row := b.Row(emails[random.IntN(len(emails))])
				row.WorkspaceID = workspaces[random.IntN(len(workspaces))]
				rows = append(rows, row)
				made++
			}
			for _, out := range b.Create(t, rows...) {
				if out.Err == nil && !out.Duplicate && !out.AlreadyMember {
					invitations = append(invitations, out.Invitation)
				}
			}
			if out, err := asked(t, b, roster.OptionRequest, emails[random.IntN(len(emails))]); err == nil && !out.Duplicate && !out.AlreadyGranted {
				requests = append(requests, out.Request)
				made++
			}
		}
		b.Exec(t, `UPDATE message SET state = 'accepted', due_at = NULL, settled_at = $1 WHERE state = 'queued'`, now)
		for range random.IntN(5) {
			if len(invitations) > 0 {
				inv := invitations[random.IntN(len(invitations))]
				var err error
				if random.IntN(2) == 0 {
					_, err = b.DeclineInvitation(ctx, inv.Ticket())
				} else {
					_, err = b.RevokeInvitation(ctx, b.App.ID, b.Stakeholder.ID, inv.ID, noKey)
				}
				if _, again := decided[inv.ID]; err == nil && !again {
					decided[inv.ID] = now
				}
			}
		}
		if len(requests) > 0 && random.IntN(3) == 0 {
			q := requests[random.IntN(len(requests))]
			if _, err := b.CancelRequest(ctx, b.App.ID, b.Admin.ID, q.ID, noKey); err == nil {
				if _, again := decided[q.ID]; !again {
					decided[q.ID] = now
				}
			}
		}
		if gap > 0 {
			gap--
			continue
		}
		if random.IntN(40) == 0 {
			gap = random.IntN(30) // nobody is there for hours
		}
		for _, name := range []string{roster.SweepInvitations, roster.SweepRequests, roster.SweepReminders} {
			_, skip, err := b.BeginSweep(ctx, name, now, false, func(since, until time.Time) int { return int(until.Sub(since)/time.Hour) - 1 })
			if err != nil || skip != "" {
				t.Fatal(skip, err)
			}
			if random.IntN(8) == 0 { // the process dies amid a chunk
				_ = postgres.InTx(ctx, pool, func(tx pgx.Tx) error {
					if _, _, err := b.In(tx).RunSweep(ctx, name, random.IntN(roster.SweepLanes(name)), now); err != nil {
						t.Error(err)
					}
					return errDied
				})
				if random.IntN(2) == 0 {
					continue // and the next tick makes up for it
				}
			}
			for _, lane := range random.Perm(roster.SweepLanes(name)) {
				for more := true; more; {
					if _, more, err = b.RunSweep(ctx, name, lane, now); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := b.EndSweep(ctx, name, now); err != nil {
				t.Fatal(err)
			}
		}
	}
	type reminder struct {
		ID      uuid.UUID
		Kind    string
		Subject uuid.UUID
		Email   string
		At      time.Time
		Args    json.RawMessage
	}
	var reminders []reminder
	if err := postgres.InTx(ctx, pool, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT id, kind, subject_id, email_key, created_at, args FROM message WHERE kind IN ('reminder', 'request_reminder', 'digest') ORDER BY created_at, id`)
		if err != nil {
			return err
		}
		reminders, err = pgx.CollectRows(rows, pgx.RowToStructByPos[reminder])
		return err
	}); err != nil {
		t.Fatal(err)
	}
	count, last, digests := map[uuid.UUID]int{}, map[string]time.Time{}, 0
	for _, m := range reminders {
		subjects := []uuid.UUID{m.Subject}
		if m.Kind == roster.MailDigest {
			digests++
			var args roster.MailArgs
			done(t, json.Unmarshal(m.Args, &args))
			subjects = nil
			for _, item := range args.Items {
				subjects = append(subjects, item.ID)
			}
		} else {
			count[m.Subject]++
		}
		for _, subject := range subjects {
			if at, ok := decided[subject]; ok && m.At.After(at) {
				t.Errorf("%s is reminded of at %s, and was decided at %s", subject, m.At, at)
			}
		}
		local := m.At.In(zone(t, zones[m.Email]))
		if clock := local.Format("15:04"); clock < "08:00" || clock >= "18:00" || local.Weekday() == time.Saturday || local.Weekday() == time.Sunday {
			t.Errorf("%s is reminded on %s", m.Email, local.Format("Mon 15:04"))
		}
		if m.At.Sub(last[m.Email]) < 20*time.Hour {
			t.Errorf("%s is reminded at %s and %s", m.Email, last[m.Email], m.At)
		}
		last[m.Email] = m.At
	}
	for subject, n := range count {
		if n > 2 {
			t.Errorf("%s is reminded of %d times", subject, n)
		}
	}
	for what, sql := range map[string]string{
		"ended twice":       `SELECT count(*) FROM (SELECT subject_id FROM event WHERE type IN ('invitation.expired', 'access_request.expired') GROUP BY subject_id HAVING count(*) > 1) AS twice`,
		"open for too long": `SELECT (SELECT count(*) FROM invitation WHERE state = 'pending' AND expires_at < '` + b.Clock.Now().Add(-31*time.Hour).UTC().Format(time.RFC3339) + `') + (SELECT count(*) FROM access_request WHERE state = 'pending' AND expires_at < '` + b.Clock.Now().Add(-31*time.Hour).UTC().Format(time.RFC3339) + `')`,
		"ended silently":    `SELECT count(*) FROM invitation WHERE state = 'expired' AND NOT EXISTS (SELECT FROM event WHERE subject_id = invitation.id AND type = 'invitation.expired')`,
		"holes": `SELECT count(*) FROM (SELECT since, lag(tick) OVER (PARTITION BY name ORDER BY tick) AS before FROM sweep_run) AS windows
			WHERE before IS NOT NULL AND since IS DISTINCT FROM before`,
		"unfinished": `SELECT count(*) FROM sweep_run WHERE finished_at IS NULL AND tick < (SELECT max(last_tick) FROM sweep)`,
	} {
		if n := rostertest.Value[int](t, b, sql); n != 0 {
			t.Errorf("%s: %d", what, n)
		}
	}
	expired := rostertest.Value[int](t, b, `SELECT count(*) FROM event WHERE type IN ('invitation.expired', 'access_request.expired')`)
	t.Logf("%d invitations and %d requests, %d decided, %d expired; %d reminders, of them %d digests", len(invitations), len(requests), len(decided), expired, len(reminders), digests)
	if len(invitations)+len(requests) < 1_500 || expired < 200 || len(reminders) < 500 || digests < 20 {
		t.Error("too little happened")
	}
}

var errDied = fmt.Errorf("the process died")
