package roster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"usher/internal/postgres"
)

// sweepChunk bounds one transaction of a sweep: short locks, and little to do
// again if it fails.
const sweepChunk = 1_000

// maxDeeds bounds what a dry run tells one by one.
const maxDeeds = 1_000

// The names of the sweeps.
const (
	SweepInvitations = "expire_invitations"
	SweepRequests    = "expire_requests"
	SweepMerges      = "finalize_merges"
	SweepReminders   = "send_reminders"
	SweepAccounts    = "archive_accounts"
	SweepRetention   = "forget"
)

// sweeps are what there is to do. Each does one chunk of its work at a time; more
// tells that there may be another. Its work may be divided among lanes that do not
// wait for each other.
var sweeps = map[string]struct {
	chunk func(r *Roster, ctx context.Context, tx pgx.Tx, now time.Time, lane int, s *Swept) (more bool, err error)
	lanes int
	cron  string // its ticks, in UTC
	does  string // for people
}{
	SweepInvitations: {(*Roster).sweepInvitations, 1, "* * * * *", "Ends the invitations whose time is over, and tells their inviters."},
	SweepRequests:    {(*Roster).sweepRequests, 1, "* * * * *", "Ends the access requests whose time is over, and tells who asked."},
	SweepReminders:   {(*Roster).sweepReminders, reminderLanes, "* * * * *", "Reminds people of what they have not answered, within their day."},
	SweepMerges:      {(*Roster).sweepMerges, 1, "*/10 * * * *", "Makes merges final that can no longer be undone."},
	SweepAccounts:    {(*Roster).sweepAccounts, 1, "47 * * * *", "Archives accounts that were made for clients and that nobody took, where the app's policy says so."},
	SweepRetention:   {(*Roster).sweepRetention, 1, "17 * * * *", "Forgets what nobody needs any more: keys, sessions, old events, people of invitations that came to nothing."},
}

// SweepLanes is among how many lanes a sweep's work is divided.
func SweepLanes(name string) int { return sweeps[name].lanes }

// SweepNames are the names of all sweeps, sorted.
func SweepNames() []string {
	names := make([]string, 0, len(sweeps))
	for name := range sweeps {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// Swept is what a sweep did, or would do.
type Swept struct {
	Scanned int            // rows that were due
	Acted   int            // of them, those about which something was done
	Skipped map[string]int // of them, the others, by the reason
	Deeds   []Deed         // what was done and what not, one by one, where Tell is set; at most maxDeeds
	Tell    bool
}

// Deed is one thing that a sweep does, or passes over.
type Deed struct {
	AppID   uuid.UUID
	Subject uuid.UUID
	To      string // an address, where somebody is written to
	Does    string // "expires", "reminds"; empty: nothing
	Why     string
}

func (s *Swept) did(d Deed) {
	s.Acted++
	s.tell(d)
}

func (s *Swept) skip(reason string, d Deed) {
	if s.Skipped == nil {
		s.Skipped = map[string]int{}
	}
	s.Skipped[reason]++
	d.Does, d.Why = "", reason
	s.tell(d)
}

func (s *Swept) tell(d Deed) {
	if s.Tell && len(s.Deeds) < maxDeeds {
		s.Deeds = append(s.Deeds, d)
	}
}

// Sweep is the job that runs one. Of a sweep there is one at a time: a tick that
// comes while one is at work is part of the next one's window.
type Sweep struct {
	Name   string    `json:"name" river:"unique"`
	Tick   time.Time `json:"tick"`
	ByHand bool      `json:"by_hand,omitempty"` // somebody started it, not the clock
}

// Kind is the job's name in River.
func (Sweep) Kind() string { return "sweep" }

// InsertOpts say where the job waits.
func (Sweep) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: QueueSweeps, MaxAttempts: 5, UniqueOpts: river.UniqueOpts{ByArgs: true, ByState: []rivertype.JobState{
		rivertype.JobStateAvailable, rivertype.JobStatePending, rivertype.JobStateRetryable, rivertype.JobStateRunning, rivertype.JobStateScheduled,
	}}}
}

// SweepRun is a line of the ledger.
type SweepRun struct {
	Name       string
	Tick       time.Time
	Since      *time.Time // nil: it is the first
	Missed     int        // ticks since then that had no run
	ByHand     bool
	StartedAt  time.Time
	FinishedAt *time.Time
	Scanned    int64
	Acted      int64
	Skipped    map[string]int64
	Error      string
}

// Lag is how late the run began.
func (r SweepRun) Lag() time.Duration { return max(0, r.StartedAt.Sub(r.Tick)) }

const sweepRunColumns = `name, tick, since, missed, by_hand, started_at, finished_at, scanned, acted, skipped, error`

// BeginSweep writes the line of a run, whose window goes from the run before to
// its tick. missed counts the ticks between two times. A run that a process left
// unfinished goes on; skip says why there is nothing to run. A run by hand has no
// window, and goes before a pause.
func (r *Roster) BeginSweep(ctx context.Context, name string, tick time.Time, byHand bool, missed func(since, until time.Time) int) (run SweepRun, skip Skip, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		now := r.now()
		var last, paused *time.Time
		if _, err := tx.Exec(ctx, `INSERT INTO sweep (name) VALUES ($1) ON CONFLICT DO NOTHING`, name); err != nil {
			return fmt.Errorf("begin sweep %s: %w", name, err)
		}
		if err := tx.QueryRow(ctx, `SELECT last_tick, paused_until FROM sweep WHERE name = $1 FOR UPDATE`, name).Scan(&last, &paused); err != nil {
			return fmt.Errorf("begin sweep %s: %w", name, err)
		}
		switch {
		case byHand: // beside the clock's runs, whose windows stay as they are
			if _, err := tx.Exec(ctx, `
				INSERT INTO sweep_run (name, tick, by_hand, started_at) VALUES ($1, $2, true, $3) ON CONFLICT DO NOTHING`, name, tick, now); err != nil {
				return fmt.Errorf("begin sweep %s: %w", name, err)
			}
			run, err = readRun(ctx, tx, `name = $1 AND tick = $2`, name, tick)
			return err
		case paused != nil && paused.After(now):
			skip = Skip("paused until " + paused.UTC().Format(time.RFC3339))
			return nil
		case last != nil && !tick.After(*last):
			run, err = readRun(ctx, tx, `name = $1 AND tick = $2 AND finished_at IS NULL`, name, tick)
			if errors.Is(err, pgx.ErrNoRows) {
				skip, err = "this tick was run", nil
			}
			return err
		}
		between := 0
		if last != nil {
			between = missed(*last, tick)
		}
		// What a run before left undone is due still, and this one's.
		if _, err := tx.Exec(ctx, `
			UPDATE sweep_run SET finished_at = $3, error = CASE error WHEN '' THEN 'it did not end' ELSE error END
			WHERE name = $1 AND tick < $2 AND finished_at IS NULL AND NOT by_hand`, name, tick, now); err != nil {
			return fmt.Errorf("begin sweep %s: %w", name, err)
		}
		if _, err := tx.Exec(ctx, `
			INSERT INTO sweep_run (name, tick, since, missed, started_at) VALUES ($1, $2, $3, $4, $5)`,
			name, tick, last, between, now); err != nil {
			return fmt.Errorf("begin sweep %s: %w", name, err)
		}
		if _, err := tx.Exec(ctx, `UPDATE sweep SET last_tick = $2 WHERE name = $1`, name, tick); err != nil {
			return fmt.Errorf("begin sweep %s: %w", name, err)
		}
		run, err = readRun(ctx, tx, `name = $1 AND tick = $2`, name, tick)
		return err
	})
	return run, skip, err
}

func readRun(ctx context.Context, tx pgx.Tx, condition string, args ...any) (run SweepRun, err error) {
	rows, err := tx.Query(ctx, `SELECT `+sweepRunColumns+` FROM sweep_run WHERE `+condition, args...)
	if err != nil {
		return run, fmt.Errorf("read run of a sweep: %w", err)
	}
	run, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[SweepRun])
	if err != nil {
		return run, fmt.Errorf("read run of a sweep: %w", err)
	}
	return run, nil
}

// RunSweep does the next chunk of a lane's share of a sweep's work and adds it to
// the run's line. more tells that there may be another chunk.
func (r *Roster) RunSweep(ctx context.Context, name string, lane int, tick time.Time) (s Swept, more bool, err error) {
	sweep, ok := sweeps[name]
	if !ok {
		return s, false, errNoSweep(name)
	}
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if more, err = sweep.chunk(r, ctx, tx, r.now(), lane, &s); err != nil {
			return fmt.Errorf("sweep %s: %w", name, err)
		}
		skipped := s.Skipped
		if skipped == nil {
			skipped = map[string]int{}
		}
		if _, err := tx.Exec(ctx, `
			UPDATE sweep_run SET scanned = scanned + $3, acted = acted + $4, error = '', skipped = COALESCE((
				SELECT jsonb_object_agg(reason, n) FROM (
					SELECT key AS reason, sum(value::bigint) AS n FROM (
						SELECT * FROM jsonb_each_text(sweep_run.skipped) UNION ALL SELECT * FROM jsonb_each_text($5::jsonb)) AS counted GROUP BY key) AS summed), '{}')
			WHERE name = $1 AND tick = $2`, name, tick, s.Scanned, s.Acted, skipped); err != nil {
			return fmt.Errorf("note sweep %s: %w", name, err)
		}
		return nil
	})
	return s, more, err
}

// EndSweep closes a run's line, once all lanes are through.
func (r *Roster) EndSweep(ctx context.Context, name string, tick time.Time) error {
	err := postgres.Send(ctx, r.DB, func(batch *pgx.Batch) {
		batch.Queue(`UPDATE sweep_run SET finished_at = $3 WHERE name = $1 AND tick = $2 AND finished_at IS NULL`, name, tick, r.now())
	})
	if err != nil {
		return fmt.Errorf("end sweep %s: %w", name, err)
	}
	return nil
}

// SweepFailed notes in a run's line why its newest attempt failed.
func (r *Roster) SweepFailed(ctx context.Context, name string, tick time.Time, why error) error {
	err := postgres.Send(ctx, r.DB, func(batch *pgx.Batch) {
		batch.Queue(`UPDATE sweep_run SET error = $3 WHERE name = $1 AND tick = $2 AND finished_at IS NULL`, name, tick, why.Error())
	})
	if err != nil {
		return fmt.Errorf("note failure of sweep %s: %w", name, err)
	}
	return nil
}

// errUndone rolls a dry run back.
var errUndone = errors.New("only looked at")

// DrySweep tells what a sweep would do at the Roster's time, and does nothing.
// It goes on to the end, or until it has told maxDeeds.
func (r *Roster) DrySweep(ctx context.Context, name string) (s Swept, err error) {
	sweep, ok := sweeps[name]
	if !ok {
		return s, errNoSweep(name)
	}
	s.Tell = true
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		for lane := range sweep.lanes {
			for more := true; more && len(s.Deeds) < maxDeeds; {
				if more, err = sweep.chunk(r, ctx, tx, r.now(), lane, &s); err != nil {
					return fmt.Errorf("sweep %s: %w", name, err)
				}
			}
		}
		return errUndone
	})
	if errors.Is(err, errUndone) {
		err = nil
	}
	return s, err
}

// SweepState is how a sweep stands.
type SweepState struct {
	Name        string
	Does        string     // for people
	Cron        string     // its ticks, in UTC
	NextAt      time.Time  // its next tick
	PausedUntil *time.Time // nil: it is not paused
	Late        bool       // three of its ticks have gone by without a run
	Last        *SweepRun  // nil: there was none yet
}

// SweepStates are all sweeps with their newest runs, by their names.
func (r *Roster) SweepStates(ctx context.Context) (states []SweepState, err error) {
	now := r.now()
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT name, paused_until FROM sweep WHERE paused_until > $1`, now)
		if err != nil {
			return fmt.Errorf("list sweeps: %w", err)
		}
		found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
			Name   string
			Paused *time.Time
		}])
		if err != nil {
			return fmt.Errorf("list sweeps: %w", err)
		}
		if rows, err = tx.Query(ctx, `
			SELECT `+sweepRunColumns+` FROM sweep_run
			WHERE (name, tick) IN (SELECT name, last_tick FROM sweep)`); err != nil {
			return fmt.Errorf("list runs of sweeps: %w", err)
		}
		runs, err := pgx.CollectRows(rows, pgx.RowToStructByPos[SweepRun])
		if err != nil {
			return fmt.Errorf("list runs of sweeps: %w", err)
		}
		for _, name := range SweepNames() {
			schedule, err := SweepSchedule(name)
			if err != nil {
				return err
			}
			s := SweepState{Name: name, Does: sweeps[name].does, Cron: sweeps[name].cron, NextAt: schedule.Next(now.UTC())}
			for _, f := range found {
				if f.Name == name {
					s.PausedUntil = f.Paused
				}
			}
			if i := slices.IndexFunc(runs, func(run SweepRun) bool { return run.Name == name }); i >= 0 {
				s.Last = &runs[i]
				s.Late = s.PausedUntil == nil && s.Last.FinishedAt != nil && now.After(schedule.Next(schedule.Next(schedule.Next(s.Last.Tick.UTC()))))
			}
			states = append(states, s)
		}
		return nil
	})
	return states, err
}

// SweepRuns are the newest lines of a sweep's ledger, newest first.
func (r *Roster) SweepRuns(ctx context.Context, name string, limit int) (runs []SweepRun, err error) {
	if _, ok := sweeps[name]; !ok {
		return nil, errNoSweep(name)
	}
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT `+sweepRunColumns+` FROM sweep_run WHERE name = $1 ORDER BY tick DESC LIMIT $2`, name, limit)
		if err != nil {
			return fmt.Errorf("list runs of sweep %s: %w", name, err)
		}
		runs, err = pgx.CollectRows(rows, pgx.RowToStructByPos[SweepRun])
		return err
	})
	return runs, err
}

// PauseSweep keeps a sweep from being begun by the clock before a time; nil lets
// it go on.
func (r *Roster) PauseSweep(ctx context.Context, name string, until *time.Time) error {
	if _, ok := sweeps[name]; !ok {
		return errNoSweep(name)
	}
	err := postgres.Send(ctx, r.DB, func(batch *pgx.Batch) {
		batch.Queue(`INSERT INTO sweep (name, paused_until) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET paused_until = $2`, name, until)
	})
	if err != nil {
		return fmt.Errorf("pause sweep %s: %w", name, err)
	}
	return nil
}
