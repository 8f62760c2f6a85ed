package jobs

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"usher/internal/postgres"
	"usher/internal/roster"
)

// TestExpireInvitationsInChunks sweeps more than two chunks, and leaves alone
// what is not due, was decided, or is in the way of nobody.
func TestExpireInvitationsInChunks(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	const chunk = 1000
	const due = 2*chunk + 345
	w.exec(`INSERT INTO invitation (id, app_id, workspace_id, inviter_id, kind, email, email_key, full_name, locale, note, state, sends, expires_at, created_at)
		SELECT gen_random_uuid(), $1, $2, $3, 'new_user', n || '@client.dev', n || '@client.dev', 'Ann', '', '',
			CASE WHEN n % 10 = 0 THEN 'on_hold' ELSE 'pending' END, 1, $4::timestamptz - n * interval '1 second', $4::timestamptz - interval '14 days'
		FROM generate_series(0, $5 - 1) AS n`, w.app.ID, w.workspace.ID, w.inviter.ID, w.now, due)
	later := w.invite("later@client.dev")
	w.exec(`UPDATE invitation SET expires_at = $2 WHERE id = $1`, later.ID, w.now.Add(time.Microsecond))
	accepted := w.invite("accepted@client.dev")
	w.accept(accepted)
	w.exec(`UPDATE invitation SET expires_at = $2 WHERE id = $1`, accepted.ID, w.now.Add(-time.Hour))
	w.exec(`DELETE FROM river_job`)
	w.exec(`DELETE FROM event`)
	w.exec(`DELETE FROM message`)

	for run, want := range []int{due, 0} {
		tick := w.now.Add(time.Duration(run) * time.Minute)
		row := w.sweep(roster.SweepInvitations, tick)
		var out SweepOutput
		if err := json.Unmarshal(row.Output(), &out); err != nil || out.Scanned != want || out.Acted != want {
			t.Errorf("run %d: output is %s, want %d", run, row.Output(), want)
		}
		if got := value[int](w, `SELECT acted FROM sweep_run WHERE name = 'expire_invitations' AND tick = $1 AND finished_at IS NOT NULL`, tick); got != want {
			t.Errorf("run %d: the ledger says %d, want %d", run, got, want)
		}
	}
	for sql, want := range map[string]int{
		`SELECT count(*) FROM invitation WHERE state = 'expired'`:                        due,
		`SELECT count(*) FROM invitation WHERE state = 'pending'`:                        1,
		`SELECT count(*) FROM invitation WHERE state = 'accepted'`:                       1,
		`SELECT count(DISTINCT subject_id) FROM event WHERE type = 'invitation.expired'`: due,
		`SELECT count(*) FROM event`:                                                     due,
		`SELECT count(*) FROM message WHERE kind = 'news'`:                               3, // one for each chunk
		`SELECT max(jsonb_array_length(args->'event_ids')) FROM message`:                 chunk,
	} {
		if have := value[int](w, sql); have != want {
			t.Errorf("%s: %d, want %d", sql, have, want)
		}
	}
	w.workWell(w.compose())
	if w.mails() != 3 {
		t.Errorf("%d mails, want a digest for each chunk", w.mails())
	}
}

// sweep works a sweep's job, which must complete.
func (w *world) sweep(name string, tick time.Time) *rivertype.JobRow {
	w.t.Helper()
	in, err := w.worker.Roster.Jobs.InsertTx(w.t.Context(), w.tx, roster.Sweep{Name: name, Tick: tick}, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	row, err := attempt(w, in.Job, &sweep{Worker: w.worker})
	if err != nil || row.State != rivertype.JobStateCompleted {
		w.t.Fatalf("sweep %s ended %s with %v", name, row.State, err)
	}
	return row
}

// The ledger has no holes: a window begins where the one before ended, and what
// a gap missed is counted. A tick is run once, and none while it is paused.
func TestSweepLedger(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	start := w.now.Truncate(time.Minute)
	run := func(after time.Duration) SweepOutput {
		t.Helper()
		w.now = start.Add(after + time.Second)
		var out SweepOutput
		if err := json.Unmarshal(w.sweep(roster.SweepRequests, start.Add(after)).Output(), &out); err != nil {
			t.Fatal(err)
		}
		return out
	}
	run(0)
	run(time.Minute)
	run(time.Hour) // nobody was there meanwhile
	if out := run(time.Hour); out.Skipped != "this tick was run" {
		t.Errorf("again: %+v", out)
	}
	until := start.Add(3 * time.Hour)
	if err := w.worker.Roster.PauseSweep(t.Context(), roster.SweepRequests, &until); err != nil {
		t.Fatal(err)
	}
	if out := run(2 * time.Hour); !strings.HasPrefix(out.Skipped, "paused until") {
		t.Errorf("paused: %+v", out)
	}
	run(3 * time.Hour)
	runs, err := w.worker.Roster.SweepRuns(t.Context(), roster.SweepRequests, 10)
	if err != nil || len(runs) != 4 {
		t.Fatalf("%d runs: %v", len(runs), err)
	}
	for i, missed := range []int{119, 58, 0, 0} { // newest first
		if runs[i].Missed != missed || runs[i].FinishedAt == nil || runs[i].Lag() != time.Second {
			t.Errorf("run %d: %+v, want %d missed", i, runs[i], missed)
		}
		if i+1 < len(runs) && !runs[i].Since.Equal(runs[i+1].Tick) {
			t.Errorf("between run %d and the one before there is a hole", i)
		}
	}
	states, err := w.worker.Roster.SweepStates(t.Context())
	if err != nil || len(states) != len(roster.SweepNames()) {
		t.Fatalf("%d sweeps: %v", len(states), err)
	}
	for _, s := range states {
		if s.Does == "" || s.Cron == "" || !s.NextAt.After(w.now) || s.NextAt.After(w.now.Add(time.Hour)) {
			t.Errorf("sweep %s stands as %+v", s.Name, s)
		}
	}
}

// A run that a process left goes on, and one that was given up changes nothing.
func TestSweepGoesOn(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	inv := w.invite("ann@client.dev")
	w.exec(`UPDATE invitation SET expires_at = $2 WHERE id = $1`, inv.ID, w.now)
	ctx, r, tick := t.Context(), w.worker.Roster, w.now.Truncate(time.Minute)
	// The job before the ledger, as in life: another test's transaction locks both in this order too.
	in, err := r.Jobs.InsertTx(ctx, w.tx, roster.Sweep{Name: roster.SweepInvitations, Tick: tick}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if again, err := r.Jobs.InsertTx(ctx, w.tx, roster.Sweep{Name: roster.SweepInvitations, Tick: tick.Add(time.Minute)}, nil); err != nil || !again.UniqueSkippedAsDuplicate {
		t.Errorf("a second job waits beside the first: %v", err)
	}
	if _, skip, err := r.BeginSweep(ctx, roster.SweepInvitations, tick, false, func(time.Time, time.Time) int { return 0 }); err != nil || skip != "" {
		t.Fatal(skip, err)
	}
	w.exec(`UPDATE river_job SET attempt = 7 WHERE id = $1`, in.Job.ID) // the job is another attempt's
	stale := *in.Job
	stale.Attempt = 1
	if _, err := w.worker.Sweep(ctx, r, roster.SweepInvitations, tick, false, func(_ context.Context, run func(*roster.Roster) error) error {
		return postgres.InTxAfter(ctx, w.worker.DB, func(batch *pgx.Batch) {
			fenceShared(batch, &river.Job[roster.Sweep]{JobRow: &stale})
		}, func(tx pgx.Tx) error { return run(r.In(tx)) })
	}); !errors.Is(err, errOvertaken) {
		t.Errorf("an attempt that was given up ended with %v", err)
	}
	if state := w.reread(inv).State; state != roster.Pending {
		t.Errorf("and the invitation is %s", state)
	}
	w.exec(`UPDATE river_job SET attempt = 0 WHERE id = $1`, in.Job.ID)
	if row, err := attempt(w, w.row(in.Job.ID), &sweep{Worker: w.worker}); err != nil || row.State != rivertype.JobStateCompleted {
		t.Fatalf("the next attempt ended with %v", err)
	}
	if state := w.reread(inv).State; state != roster.Expired {
		t.Errorf("then the invitation is %s", state)
	}
}
