// Command bench measures how fast Usher is: every figure in the same run as a
// floor, which does the least that could be called the same work on the same
// machine, so that a ratio says more than a number.
//
// Usher is measured as it is deployed: the real binary with its default
// settings, request log included, on a private PostgreSQL that waits for its
// disk.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

// figure is one line of the result.
type figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"` // Usher's
	Unit  string  `json:"unit"`
	Floor float64 `json:"floor"` // in the same unit
	Ratio float64 `json:"ratio"` // Value / Floor
	N     int     `json:"n"`     // requests or jobs of Usher's that were measured

	P99          float64 `json:"p99,omitempty"` // of Usher, in Unit
	Connections  int     `json:"connections,omitempty"`
	Rejected     float64 `json:"rejected,omitempty"`      // share of the requests that the provider answered 429
	MemoryBefore float64 `json:"rss_before_mb,omitempty"` // of Usher's process, at most before a round
	MemoryPeak   float64 `json:"rss_peak_mb,omitempty"`   // and within one

	ByDue     float64 `json:"cost_by_due,omitempty"`     // of 100,000 due rows to that of 10,000
	ByPending float64 `json:"cost_by_pending,omitempty"` // of 10,000 due rows among a million to that among 100,000

	Locked float64 `json:"locked,omitempty"` // of Value, while rows were locked

	Rounds      []float64 `json:"rounds,omitempty"`       // Usher's, of which Value is the median
	FloorRounds []float64 `json:"floor_rounds,omitempty"` // likewise
}

// figures are all there are, in the order they are measured.
var figures = []struct {
	name    string
	measure func(ctx context.Context, b *bench) (figure, error)
}{
	{"post_invitation", postRate(32)},
	{"post_invitation_256", postRate(256)},
	{"post_invitation_p50", postLatency},
	{"bulk_invitations", bulkInvitations},
	{"list_invitations", listInvitations},
	{"job_pickup", jobPickup},
	{"mail_render", mailRender},
	{"mail_free", mailFree},
	{"mail_paced", mailPaced},
	{"mail_interactive", mailInteractive},
	{"account_search", accountSearch},
	{"request_decide", requestDecide},
	{"merge", merge},
	{"sweep_reminders", sweepRate(remindCase)},
	{"sweep_expiry", sweepRate(expireCase)},
	{"webhook_out", webhookOut},
	{"webhook_isolated", webhookIsolated},
}

func main() {
	var (
		only    = flag.String("run", "", "measure this figure only")
		seconds = flag.Float64("seconds", 30, "how long each figure may take")
		usher   = flag.String("usher", "bin/usher", "the program to measure")
		mailer  = flag.String("provider", "bin/fakeresend", "the mail provider's stand-in")
		dir     = flag.String("dir", ".usher/bench", "where the private PostgreSQL lives")
		out     = flag.String("out", "bench.jsonl", "file for the figures, besides standard output")
		floor   = flag.Bool("floor", false, "be the floor's server instead; the other flags are for that")
		f       floorOptions
	)
	flag.StringVar(&f.database, "database", "", "the floor's database")
	flag.StringVar(&f.address, "listen", "", "the floor's address")
	flag.StringVar(&f.app, "app", "", "the app the floor stores for")
	flag.IntVar(&f.pool, "pool", floorPool, "the floor's connections")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	err := func() error {
		if *floor {
			return serveFloor(ctx, f)
		}
		return measure(ctx, *only, *out, place{dir: *dir, usher: *usher, provider: *mailer, floorPool: f.pool}, time.Duration(*seconds*float64(time.Second)))
	}()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench: "+err.Error())
		os.Exit(1)
	}
}

// measure takes the figures and writes each as a line of JSON.
func measure(ctx context.Context, only, out string, p place, perFigure time.Duration) (err error) {
	chosen := slices.Clone(figures)
	if only != "" {
		chosen = chosen[:0]
		var names []string
		for _, f := range figures {
			names = append(names, f.name)
			if f.name == only {
				chosen = append(chosen, f)
			}
		}
		if len(chosen) == 0 {
			return fmt.Errorf("there is no figure %q; there are %s", only, strings.Join(names, ", "))
		}
	}
	if perFigure <= 0 {
		return errors.New("-seconds is how long each figure may take; it is more than 0")
	}
	b, err := open(ctx, p, perFigure)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	file, err := os.Create(out)
	if err != nil {
		return fmt.Errorf("keep figures: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	for _, f := range chosen {
		progress("%s, %s", f.name, perFigure)
		got, err := f.measure(ctx, b)
		if err != nil {
			return fmt.Errorf("measure %s: %w", f.name, err)
		}
		got.Name = f.name
		line, err := json.Marshal(got.rounded())
		if err != nil {
			return fmt.Errorf("write %s: %w", f.name, err)
		}
		fmt.Println(string(line))
		if _, err := file.Write(append(line, '\n')); err != nil {
			return fmt.Errorf("keep figures: %w", err)
		}
	}
	return nil
}

// progress tells whoever waits what is going on.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "==> "+format+"\n", args...)
}
