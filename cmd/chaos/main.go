// Command chaos kills, stops and cuts off Usher's workers while they send, and
// lets the mail provider's stand-in fail in every way it can. Then it counts:
// every mail that was promised is sent once, and nothing is left over.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// tally is what a run counted. It is good where Lost, Twice, Stuck,
// Torn and TwoHashes are 0 and the provider's limit was kept.
type tally struct {
	Kills     int    `json:"kills"`     // processes that ended by SIGKILL
	Accepted  int    `json:"accepted"`  // mails that were asked for and stored
	SentOnce  int    `json:"sent_once"` // of them, in the provider's ledger once
	Cancelled int    `json:"cancelled"` // of them, no longer wanted and never sent
	Lost      int    `json:"lost"`      // never sent, and nobody would have
	Twice     int    `json:"twice"`
	Stuck     int    `json:"stuck"` // messages, dispatches and jobs that did not come to an end
	Seed      uint64 `json:"seed"`

	Merges     int            `json:"merges"`      // that were confirmed or looked at
	Moved      int            `json:"moved"`       // of them, those whose rows moved; in the end all were undone
	Torn       int            `json:"torn"`        // neither merged nor untouched, or not as before when undone, or else to the app
	MergeKills map[string]int `json:"merge_kills"` // kills amid merges, by the point

	Ticks  int `json:"ticks"`  // of the sweeps' clock, over all runs
	Missed int `json:"missed"` // of them, those that fell into a gap and are in the next run's window
	Holes  int `json:"holes"`  // between the windows of two runs

	Unstored     int     `json:"unstored"`   // answered 201 and not in the database
	TwoHashes    int     `json:"two_hashes"` // keys that came with other bytes
	Stopped      int     `json:"stopped"`    // processes that stood still for a while and went on
	CutOff       int     `json:"cut_off"`    // times that all connections of the workers were ended
	Restarts     int     `json:"restarts"`   // of PostgreSQL, without a word
	Faults       int     `json:"faults"`     // answers the provider spoiled
	MaxPerSecond int     `json:"max_in_any_second"`
	Limit        int     `json:"limit"`
	Recovery     float64 `json:"recovery_s"` // longest from the last kill before it to the end of what a kill interrupted
	Seconds      float64 `json:"seconds"`
	Mutant       string  `json:"mutant,omitempty"`
}

// good tells whether everything held.
func (t tally) good() bool {
	return t.Lost == 0 && t.Twice == 0 && t.Stuck == 0 && t.TwoHashes == 0 && t.Unstored == 0 && t.Torn == 0 && t.Holes == 0 && t.MaxPerSecond <= t.Limit
}

func main() {
	var o options
	flag.IntVar(&o.kills, "kills", 50, "how many workers are killed")
	flag.Uint64Var(&o.seed, "seed", 0, "of all chance; 0 takes one from the clock")
	flag.StringVar(&o.usher, "usher", "bin/usher-chaos", "Usher, built with -tags chaos")
	flag.StringVar(&o.provider, "provider", "bin/fakeresend", "the mail provider's stand-in")
	flag.StringVar(&o.dir, "dir", ".usher/chaos", "where the private PostgreSQL and the logs live")
	flag.BoolVar(&o.merges, "merges", false, "send no mail and kill amid merges only")
	flag.StringVar(&o.mutant, "mutant", "", "a safeguard to switch off, with which the run must fail: key, frozen or unknown")
	flag.DurationVar(&o.patience, "patience", 5*time.Minute, "how long what was left under way may take to end")
	flag.Parse()
	o.seed = cmp.Or(o.seed, uint64(time.Now().UnixNano())%1e9)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop)
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "chaos: "+err.Error())
		os.Exit(1)
	}
}

// run is one run: it prints its tally, and fails where something was lost,
// doubled or left over, or with a mutant where nothing was.
func run(ctx context.Context, o options) (err error) {
	progress("seed %d: %d kills", o.seed, o.kills)
	s, err := open(ctx, o)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, s.close()) }()
	start := time.Now()
	if err := s.rage(ctx); err != nil {
		return err
	}
	if err := s.calm(ctx); err != nil {
		return err
	}
	t, err := s.count(ctx)
	if err != nil {
		return err
	}
	t.Seconds = time.Since(start).Round(time.Second).Seconds()
	line, err := json.Marshal(t)
	if err != nil {
		return fmt.Errorf("write the tally: %w", err)
	}
	fmt.Println(string(line))
	switch {
	case o.mutant == "" && !t.good():
		return errors.New("something was lost, doubled or left over; the logs are in " + o.dir)
	case o.mutant != "" && t.good():
		return fmt.Errorf("without the safeguard %q nothing went wrong: the suite does not test it", o.mutant)
	}
	return nil
}

// progress tells whoever waits what is going on.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "==> "+format+"\n", args...)
}
