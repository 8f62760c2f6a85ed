// Command fakeresend stands in for the mail provider Resend.
//
// It answers the part of Resend's HTTP API that sends mail as Resend does,
// delivers nothing, and keeps a journal of what it accepted. Tests use it as
// the oracle of "every mail once"; developers use it to read what their
// application sends. It shares no code with the programs that talk to it.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
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
  /_admin/config        POST {"rate":10,"latency_ms":[40,120],"idempotency":"bytes",
                        "fail":[{"match":{"to":"a@b.dev"},"times":1,"when":"after",
                        "status":500,"body":"..."}]}; "drop":true instead of a
                        status closes the connection without an answer
  /_admin/clock         POST {"advance":"25h"} moves the clock of the idempotency keys
  /_admin/reset         POST forgets mails, keys, counters, faults and the journal,
                        and goes back to the flags

/_admin answers callers on this machine only.
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
	opts := options{Latency: latency{40 * time.Millisecond, 120 * time.Millisecond}}
	addr := flags.String("addr", "127.0.0.1:0", "`host:port` to listen on; port 0 takes a free one")
	journalFile := flags.String("journal", "", "`file` that keeps accepted mails and idempotency keys over a restart; empty keeps them in memory")
	flags.StringVar(&opts.APIKey, "api-key", "re_test_fakeresend", "the one API `key` that is accepted")
	flags.IntVar(&opts.Rate, "rate", 10, "requests per second before 429; 0 is unlimited")
	flags.Var(&opts.Latency, "latency", "wait between accepting a mail and answering: a `duration`, or a range like 40ms-120ms")
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
	if opts.Rate < 0 {
		return fmt.Errorf("-rate %d: must not be negative", opts.Rate)
	}
	if opts.APIKey == "" {
		return errors.New("-api-key: must not be empty")
	}

	s, err := newServer(opts, *journalFile)
	if err != nil {
		return err
	}
	defer s.journal.close()
	ln, err := net.Listen("tcp", *addr)
	if err != nil {
		return fmt.Errorf("listen: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if *untilStdin {
		go func() {
			_, _ = io.Copy(io.Discard, stdin)
			cancel()
		}()
	}

	srv := &http.Server{Handler: s.handler(), ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 2 * time.Minute}
	srv.RegisterOnShutdown(func() { close(s.closing) })
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

// latency is the shortest and the longest wait before an answer.
type latency struct{ Min, Max time.Duration }

func (l *latency) String() string {
	if l.Min == l.Max {
		return l.Min.String()
	}
	return l.Min.String() + "-" + l.Max.String()
}

// Set reads "80ms" or "40ms-120ms".
func (l *latency) Set(s string) error {
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
	*l = latency{lo, hi}
	return nil
}
