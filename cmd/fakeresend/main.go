// Command fakeresend stands in for the mail provider Resend.
//
// It answers the part of Resend's HTTP API that sends mail as Resend does,
// delivers nothing, tells webhooks what became of the mails, and keeps a
// journal of what it accepted. Tests use it as the oracle of "every mail
// once"; developers use it to read what their application sends. It shares no
// code with the programs that talk to it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"time"
)

const usage = `fakeresend stands in for the mail provider Resend: it accepts mail over the same
HTTP API, delivers none of it, and shows what it accepted.

Usage:

  fakeresend [flags]

Flags:

`

const usageEnd = `
Point a Resend client at the printed URL (resend-go: client.BaseURL with a
trailing slash) and give it the API key. Then, in a browser or with curl:

  /                     mailbox
  /_admin/mails         accepted mails; ?to=ADDRESS&count=1&wait=5s waits for them
  /_admin/ledger        accepted mails by the tag "message_id", and counters
  /_admin/events        what happened to them; ?quiet=true&wait=5s waits until nothing is left to happen
  /_admin/config        POST changes limits, latency, quotas, and the webhook and what goes wrong with it
  /_admin/faults        PUT sets failures to come
  /_admin/fates/ADDRESS PUT sets what happens to mail to an address
  /_admin/clock         POST {"advance":"25h"} moves the stand-in's clock
  /_admin/reset         POST forgets everything, the journal too, and goes back to the flags

/_admin answers callers on this machine only. cmd/fakeresend/README.md has it all.
`

// shutdownGrace is how long answers under way may take once the process is
// told to stop.
const shutdownGrace = 2 * time.Second

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdin, os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errFlags):
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "fakeresend:", err)
		os.Exit(1)
	}
}

// errFlags is a command line that flag has already complained about.
var errFlags = errors.New("parse flags")

// run serves until ctx ends or, if asked to, standard input does. It prints
// the one line "listening on http://HOST:PORT" once it accepts connections.
func run(ctx context.Context, args []string, stdin io.Reader, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("fakeresend", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Usage = func() {
		fmt.Fprint(flags.Output(), usage)
		flags.PrintDefaults()
		fmt.Fprint(flags.Output(), usageEnd)
	}
	opts := options{Config: defaults()}
	conf := &opts.Config
	addr := flags.String("addr", "127.0.0.1:0", "`host:port` to listen on; port 0 takes a free one")
	journalFile := flags.String("journal", "", "`file` that keeps accepted mails and idempotency keys over a restart; empty keeps them in memory")
	flags.StringVar(&opts.APIKey, "api-key", "re_test_fakeresend", "the one API `key` that is accepted")
	flags.IntVar(&conf.Rate, "rate", conf.Rate, "requests per second before 429; 0 is unlimited and announces nothing, 100000 announces a limit nobody meets")
	flags.StringVar(&conf.Window, "window", conf.Window, "how a second is counted: sliding or fixed")
	flags.IntVar(&conf.DailyQuota, "daily-quota", 0, "recipients a day, by the stand-in's clock in UTC; 0 is unlimited")
	flags.IntVar(&conf.MonthlyQuota, "monthly-quota", 0, "recipients a month; 0 is unlimited")
	flags.Var((*milliseconds)(&conf.LatencyMS), "latency", "wait between accepting a mail and answering: a `duration`, or a range like 40ms-120ms")
	flags.Uint64Var(&conf.Seed, "seed", conf.Seed, "of latencies, faults and webhook mishaps: the same `number` brings the same ones")
	flags.StringVar(&conf.Webhook.URL, "webhook", "", "`URL` that is told of events")
	flags.Func("webhook-secret", "`whsec_...` that signs webhooks; twice for a rotation", func(secret string) error {
		conf.Webhook.Secrets = append(conf.Webhook.Secrets, secret)
		return nil
	})
	untilStdin := flags.Bool("until-stdin-closes", false, "stop when standard input ends, so that no process outlives the test that started it")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return err
		}
		return errFlags
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	if err := conf.check(); err != nil {
		return fmt.Errorf("flags: %w", err)
	}
	if opts.APIKey == "" {
		return errors.New("-api-key: must not be empty")
	}

	s, err := newServer(opts, *journalFile)
	if err != nil {
		return err
	}
	defer s.journal.close()
	defer s.stop()
	ln, err := listen(*addr)
	if err != nil {
		return err
	}
	s.goDown = ln.goDown
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if *untilStdin {
		go func() {
			_, _ = io.Copy(io.Discard, stdin)
			cancel()
		}()
	}

	srv := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute, ConnContext: withConn}
	srv.RegisterOnShutdown(s.stop)
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(ln) }()
	fmt.Fprintf(stdout, "listening on http://%s\n", ln.Addr())
	select {
	case err := <-failed:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	grace, done := context.WithTimeout(context.Background(), shutdownGrace)
	defer done()
	if err := srv.Shutdown(grace); err != nil {
		_ = srv.Close() // whoever still waits sees what a crash would show
	}
	return nil
}

// milliseconds is the shortest and the longest time of something.
type milliseconds [2]float64

// String shows what Set reads.
func (m *milliseconds) String() string {
	lo, hi := time.Duration(m[0]*float64(time.Millisecond)), time.Duration(m[1]*float64(time.Millisecond))
	if lo == hi {
		return lo.String()
	}
	return lo.String() + "-" + hi.String()
}

// Set reads "80ms" or "40ms-120ms".
func (m *milliseconds) Set(s string) error {
	first, last, isRange := strings.Cut(s, "-")
	if !isRange {
		last = first
	}
	lo, err := time.ParseDuration(first)
	if err != nil {
		return fmt.Errorf("%q is no duration", first)
	}
	hi, err := time.ParseDuration(last)
	if err != nil {
		return fmt.Errorf("%q is no duration", last)
	}
	if lo < 0 || hi < lo {
		return errors.New("want 0 <= shortest <= longest")
	}
	*m = milliseconds{float64(lo) / float64(time.Millisecond), float64(hi) / float64(time.Millisecond)}
	return nil
}
