package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"usher/internal/mail"
	"usher/internal/postgres"
	"usher/internal/roster"
	"usher/jobs"
)

func sweepCommand() *cobra.Command {
	var at, pause string
	var dryRun, resume, asJSON bool
	var runs int
	cmd := &cobra.Command{
		Use:   "sweep [NAME]",
		Short: "Show what the clock does, run it now, or look at what it would do",
		Long: "Show what the clock does, run it now, or look at what it would do.\n\n" +
			"Without a name it lists all sweeps with their last and next runs. With one it runs\n" +
			"that sweep now, to its end. --dry-run tells what would be done to whom and why, and\n" +
			"does nothing. --at takes a time, or how long from now; for real, a time to come is\n" +
			"for development only, where it lets a demo's days pass.\n\n" +
			"Exit codes: 0 done, 2 there is no such sweep or time, 1 anything else.",
		Example: "  usher sweep\n  usher sweep send_reminders --at 3d --dry-run\n  usher sweep expire_invitations --at 2026-12-24T09:00:00Z --dry-run\n" +
			"  usher sweep send_reminders --pause-until 8h\n  usher sweep send_reminders --runs 20",
		Args: func(_ *cobra.Command, args []string) error {
			names := roster.SweepNames()
			switch {
			case len(args) > 1:
				return usageError{errors.New("name one sweep; without a name all are listed")}
			case len(args) == 1 && !slices.Contains(names, args[0]):
				return usageError{fmt.Errorf("there is no sweep %q; did you mean %q? There are %s", args[0], nearest(args[0], names), strings.Join(names, ", "))}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			now := time.Now().UTC()
			when, err := timeOf(at, now)
			if err != nil {
				return usageError{fmt.Errorf("--at is %q: %w", at, err)}
			}
			until, err := timeOf(pause, now)
			if err != nil {
				return usageError{fmt.Errorf("--pause-until is %q: %w", pause, err)}
			}
			c, err := readConfig()
			if err != nil {
				return err
			}
			return withConfig(cmd.Context(), developing(c), func(c config, pool *pgxpool.Pool) error {
				s := &sweeper{config: c, pool: pool, json: asJSON}
				switch {
				case len(args) == 0:
					return s.list(cmd.Context(), now)
				case pause != "" || resume:
					return s.pause(cmd.Context(), args[0], resume, until)
				case runs > 0:
					return s.ledger(cmd.Context(), args[0], runs)
				case dryRun:
					return s.dry(cmd.Context(), args[0], when)
				}
				return s.run(cmd.Context(), args[0], when, now)
			})
		},
	}
	cmd.Flags().StringVar(&at, "at", "", "at this time, like 2026-12-24T09:00:00Z, or so long from now, like 3d12h")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "tell what would be done, and do nothing")
	cmd.Flags().StringVar(&pause, "pause-until", "", "keep the clock from beginning it before this time")
	cmd.Flags().BoolVar(&resume, "resume", false, "let the clock begin it again")
	cmd.Flags().IntVar(&runs, "runs", 0, "show so many of its newest runs")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// timeOf reads a time, or how long from now; empty is now.
func timeOf(typed string, now time.Time) (time.Time, error) {
	if typed == "" {
		return now, nil
	}
	if t, err := time.Parse(time.RFC3339, typed); err == nil {
		return t.UTC(), nil
	}
	days, rest, found := strings.Cut(strings.TrimPrefix(typed, "+"), "d")
	if !found {
		days, rest = "0", days
	}
	var n int
	if _, err := fmt.Sscanf(days, "%d", &n); err != nil || fmt.Sprint(n) != days || n < 0 || n > 3650 {
		return now, errors.New("it is a time like 2026-12-24T09:00:00Z, or so long from now, like 3d12h")
	}
	if rest == "" {
		rest = "0s"
	}
	d, err := time.ParseDuration(rest)
	if err != nil {
		return now, errors.New("it is a time like 2026-12-24T09:00:00Z, or so long from now, like 3d12h")
	}
	return now.AddDate(0, 0, n).Add(d), nil
}

// sweeper is the hand tool for sweeps.
type sweeper struct {
	config
	pool *pgxpool.Pool
	json bool
}

// sweepLine is a sweep as the hand tool shows it.
type sweepLine struct {
	Name        string     `json:"name"`
	Does        string     `json:"does"`
	Cron        string     `json:"cron"` // in UTC
	NextAt      time.Time  `json:"next_at"`
	PausedUntil *time.Time `json:"paused_until,omitempty"`
	Late        bool       `json:"late,omitempty"`
	Last        *runLine   `json:"last,omitempty"`
}

// runLine is a run of a sweep.
type runLine struct {
	Tick       time.Time        `json:"tick"`
	Since      *time.Time       `json:"since,omitempty"` // where its window begins
	Missed     int              `json:"missed_ticks"`
	ByHand     bool             `json:"by_hand,omitempty"`
	LagSeconds float64          `json:"lag_s"`
	Seconds    float64          `json:"seconds"`
	Finished   bool             `json:"finished"`
	Scanned    int64            `json:"scanned"`
	Acted      int64            `json:"acted"`
	Skipped    map[string]int64 `json:"skipped"`
	Error      string           `json:"error,omitempty"`
}

func newRunLine(r roster.SweepRun, now time.Time) *runLine {
	l := &runLine{
		Tick: r.Tick.UTC(), Since: r.Since, Missed: r.Missed, ByHand: r.ByHand, LagSeconds: r.Lag().Seconds(), Finished: r.FinishedAt != nil,
		Scanned: r.Scanned, Acted: r.Acted, Skipped: r.Skipped, Error: r.Error,
	}
	end := now
	if r.FinishedAt != nil {
		end = *r.FinishedAt
	}
	l.Seconds = max(0, end.Sub(r.StartedAt).Seconds())
	return l
}

// says is how a run ended, for people.
func (l runLine) says() string {
	switch {
	case l.Error != "":
		return "failed: " + l.Error
	case !l.Finished:
		return "runs"
	}
	return "done"
}

func (s *sweeper) roster(at time.Time) *roster.Roster {
	return &roster.Roster{DB: s.pool, Now: func() time.Time { return at }}
}

func (s *sweeper) list(ctx context.Context, now time.Time) error {
	states, err := s.roster(now).SweepStates(ctx)
	if err != nil {
		return err
	}
	lines := make([]sweepLine, len(states))
	for i, state := range states {
		lines[i] = sweepLine{Name: state.Name, Does: state.Does, Cron: state.Cron, NextAt: state.NextAt, PausedUntil: state.PausedUntil, Late: state.Late}
		if state.Last != nil {
			lines[i].Last = newRunLine(*state.Last, now)
		}
	}
	return show(s.json, lines, "NAME\tTIMES (UTC)\tLAST\tLAG\tSCANNED\tACTED\tSKIPPED\tNEXT\tSTATE", func(w *tabwriter.Writer) {
		for _, l := range lines {
			next, state := "in "+l.NextAt.Sub(now).Round(time.Second).String(), "waits for its first tick"
			last, lag, scanned, acted, skipped := "never", "-", "-", "-", "-"
			if l.Last != nil {
				last, lag = ago(now, l.Last.Tick), time.Duration(l.Last.LagSeconds*float64(time.Second)).Round(time.Millisecond).String()
				scanned, acted, skipped, state = fmt.Sprint(l.Last.Scanned), fmt.Sprint(l.Last.Acted), reasons(l.Last.Skipped), l.Last.says()
				if l.Late {
					state = "LATE: is a worker running?"
				}
			}
			if l.PausedUntil != nil {
				state = "paused until " + moment(*l.PausedUntil)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", l.Name, l.Cron, last, lag, scanned, acted, skipped, next, state)
		}
	})
}

// reasons are counts by their reasons, for people.
func reasons(counts map[string]int64) string {
	if len(counts) == 0 {
		return "0"
	}
	var parts []string
	for reason, n := range counts {
		parts = append(parts, fmt.Sprintf("%d %s", n, reason))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

func (s *sweeper) pause(ctx context.Context, name string, resume bool, until time.Time) error {
	if resume {
		if err := s.roster(time.Now()).PauseSweep(ctx, name, nil); err != nil {
			return err
		}
		fmt.Printf("%s goes on with its next tick. It makes up for what it missed.\n", name)
		return nil
	}
	if err := s.roster(time.Now()).PauseSweep(ctx, name, &until); err != nil {
		return err
	}
	fmt.Printf("%s is paused until %s. What falls due waits.\n", name, moment(until))
	return nil
}

func (s *sweeper) ledger(ctx context.Context, name string, limit int) error {
	now := time.Now().UTC()
	found, err := s.roster(now).SweepRuns(ctx, name, min(limit, 1_000))
	if err != nil {
		return err
	}
	lines := make([]*runLine, len(found))
	for i, run := range found {
		lines[i] = newRunLine(run, now)
	}
	return show(s.json, lines, "TICK\tWINDOW BEGINS\tMISSED\tLAG\tTOOK\tSCANNED\tACTED\tSKIPPED\tSTATE", func(w *tabwriter.Writer) {
		for _, l := range lines {
			since := "-"
			if l.Since != nil {
				since = moment(*l.Since)
			}
			fmt.Fprintf(w, "%s\t%s\t%d\t%.1fs\t%.2fs\t%d\t%d\t%s\t%s\n", moment(l.Tick), since, l.Missed, l.LagSeconds, l.Seconds, l.Scanned, l.Acted, reasons(l.Skipped), l.says())
		}
	})
}

// dryLine is one thing that would be done.
type dryLine struct {
	App     string `json:"app_id,omitempty"`
	Subject string `json:"subject_id,omitempty"`
	To      string `json:"to,omitempty"`
	Does    string `json:"does"`
	Why     string `json:"why"`
}

func (s *sweeper) dry(ctx context.Context, name string, at time.Time) error {
	queue, err := jobs.NewInserter(s.pool, nil)
	if err != nil {
		return err
	}
	r := s.roster(at)
	r.Jobs = queue
	swept, err := r.DrySweep(ctx, name)
	if err != nil {
		return err
	}
	out := struct {
		At      time.Time      `json:"at"`
		Scanned int            `json:"scanned"`
		Acted   int            `json:"would_act"`
		Skipped map[string]int `json:"would_skip"`
		Deeds   []dryLine      `json:"deeds"`
	}{at, swept.Scanned, swept.Acted, swept.Skipped, make([]dryLine, len(swept.Deeds))}
	for i, d := range swept.Deeds {
		out.Deeds[i] = dryLine{To: d.To, Does: d.Does, Why: d.Why}
		if d.Does == "" {
			out.Deeds[i].Does = "passes over"
		}
		if d.Subject != uuid.Nil {
			out.Deeds[i].App, out.Deeds[i].Subject = d.AppID.String(), d.Subject.String()
		}
	}
	if s.json {
		encoder := json.NewEncoder(os.Stdout)
		encoder.SetIndent("", "  ")
		return encoder.Encode(out)
	}
	if err := show(false, nil, "DOES\tTO\tSUBJECT\tWHY", func(w *tabwriter.Writer) {
		for _, d := range out.Deeds {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", d.Does, d.To, d.Subject, d.Why)
		}
	}); err != nil {
		return err
	}
	_, err = fmt.Printf("\nAt %s, %s would look at %d and act on %d. Nothing was done.\n", moment(at), name, out.Scanned, out.Acted)
	return err
}

// run runs a sweep now, or in development at a time to come: then the mail that
// it asks for is written as of then, too, so that it can be read at once.
func (s *sweeper) run(ctx context.Context, name string, at, now time.Time) error {
	ahead := at.After(now.Add(time.Minute))
	if ahead && !s.Dev {
		return usageError{errors.New("a time to come is for --dry-run, or for development (USHER_DEV=1): real people would be written to as if it were then")}
	}
	p, err := newParts(s.config, os.Stderr)
	if err != nil {
		return err
	}
	queue, err := jobs.NewInserter(s.pool, p.slog())
	if err != nil {
		return err
	}
	r := s.roster(at)
	r.Jobs = queue
	w := &jobs.Worker{
		DB: s.pool, Roster: r, Outbox: &mail.Outbox{DB: s.pool, Now: r.Now}, Keys: p.keys, URL: p.URL, From: cmp.Or(p.MailFrom, devSender), Log: p.slog(),
		Sender: &mail.Mailbox{DB: s.pool, Now: time.Now},
	}
	out, err := w.Sweep(ctx, r, name, at.Truncate(time.Second), true, func(ctx context.Context, run func(*roster.Roster) error) error {
		return postgres.InTx(ctx, s.pool, func(tx pgx.Tx) error { return run(r.In(tx)) })
	})
	if err != nil {
		return errors.Join(err, r.SweepFailed(ctx, name, at.Truncate(time.Second), err))
	}
	if ahead && s.ResendAPIKey == "" {
		if err := w.ComposeAll(ctx); err != nil {
			return err
		}
	}
	if s.json {
		return json.NewEncoder(os.Stdout).Encode(out)
	}
	if out.Skipped != "" {
		_, err = fmt.Printf("%s was not run: %s.\n", name, out.Skipped)
		return err
	}
	passed := map[string]int64{}
	for reason, n := range out.Passed {
		passed[reason] = int64(n)
	}
	_, err = fmt.Printf("%s, at %s: looked at %d, acted on %d, passed over %s.\n", name, moment(at), out.Scanned, out.Acted, reasons(passed))
	return err
}
