package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"runtime/debug"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/rs/zerolog"

	"usher/internal/mail"
	"usher/internal/postgres"
	"usher/internal/roster"
	"usher/jobs"
	"usher/web"
)

const (
	// webConnections serve requests: two of them commit creations, the rest
	// read. More would only queue in the database.
	webConnections = 16

	// workConnections serve the jobs' own statements, queueConnections River's:
	// apart, so that jobs that hold on to theirs cannot keep River from
	// renewing its leadership.
	workConnections  = 20
	queueConnections = 10

	// stopWorkers is how long a worker may take to stop: its jobs' soft stop,
	// and what they need to record their outcome after it.
	stopWorkers = 30 * time.Second

	// garbage is how far a worker's memory may outgrow what it holds, in percent.
	// Written mails are large and soon gone: collected at Go's default of 100, a
	// tenth of the time would go into that.
	garbage = 400

	// devSender is the sender of mail that goes nowhere.
	devSender = "Usher <usher@usher.localhost>"
)

// parts are what processes are put together from.
type parts struct {
	config
	log  zerolog.Logger
	keys *roster.Keyring
}

func newParts(c config, out io.Writer) (*parts, error) {
	keys, err := roster.NewKeyring(c.Secret)
	if err != nil {
		return nil, usageError{fmt.Errorf("USHER_SECRET: %w", err)}
	}
	return &parts{config: c, log: newLogger(c, out), keys: keys}, nil
}

func newLogger(c config, out io.Writer) zerolog.Logger {
	if c.LogFormat == "text" {
		out = zerolog.ConsoleWriter{Out: out, TimeFormat: time.TimeOnly, NoColor: !isTerminal(out)}
	}
	return zerolog.New(out).Level(c.LogLevel).With().Timestamp().Logger()
}

// isTerminal tells whether out shows colours; in a file they would be noise.
func isTerminal(out io.Writer) bool {
	file, ok := out.(*os.File)
	if !ok {
		return false
	}
	info, err := file.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// slog is the log for libraries that write theirs through log/slog. They tell
// much that is of no use to who runs Usher, so they start at warnings.
func (p *parts) slog() *slog.Logger {
	return slog.New(zerolog.NewSlogHandler(p.log.Level(max(zerolog.WarnLevel, p.LogLevel))))
}

// mailbox is the development mailbox over a pool; nil where mail goes to a
// provider or nobody may read it here.
func (p *parts) mailbox(pool *pgxpool.Pool) *mail.Mailbox {
	if p.ResendAPIKey != "" || !p.Dev {
		return nil
	}
	return &mail.Mailbox{DB: pool, Now: time.Now}
}

// hook takes the provider's webhooks; nil where no secret is set.
func (p *parts) hook(pool *pgxpool.Pool, queue *river.Client[pgx.Tx]) *mail.Hook {
	if p.HookSecrets == nil {
		return nil
	}
	return &mail.Hook{DB: pool, Jobs: queue, Now: time.Now, Secrets: p.HookSecrets}
}

// serve runs the web front on listener until ctx ends.
func (p *parts) serve(ctx context.Context, listener net.Listener, example web.Example) error {
	pool, err := postgres.Open(ctx, p.DatabaseURL, webConnections)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := postgres.CheckSchema(ctx, pool); err != nil {
		return err
	}
	queue, err := jobs.NewInserter(pool, p.slog())
	if err != nil {
		return err
	}
	server, err := p.newServer(pool, queue, example)
	if err != nil {
		return err
	}
	p.log.Info().Str("address", listener.Addr().String()).Msg("web front answers")
	return server.Serve(ctx, listener)
}

func (p *parts) newServer(pool *pgxpool.Pool, queue *river.Client[pgx.Tx], example web.Example) (*web.Server, error) {
	return web.New(web.Options{
		Roster:          &roster.Roster{DB: pool, Jobs: queue, Now: time.Now},
		Keys:            p.keys,
		Mailbox:         p.mailbox(pool),
		Hook:            p.hook(pool, queue),
		URL:             p.URL,
		OpsPassword:     p.OpsPassword,
		PrivateWebhooks: p.Dev,
		Example:         example,
		Version:         version,
		Log:             p.log,
		Ready:           func(ctx context.Context) error { return postgres.CheckSchema(ctx, pool) },
	})
}

// work runs the workers until ctx ends, then lets their jobs finish.
func (p *parts) work(ctx context.Context) error {
	debug.SetGCPercent(garbage)
	pool, err := postgres.Open(ctx, p.DatabaseURL, workConnections)
	if err != nil {
		return err
	}
	defer pool.Close()
	queuePool, err := postgres.Open(ctx, p.DatabaseURL, queueConnections)
	if err != nil {
		return err
	}
	defer queuePool.Close()
	if err := postgres.CheckSchema(ctx, pool); err != nil {
		return err
	}

	worker := &jobs.Worker{
		DB:     pool,
		Roster: &roster.Roster{DB: pool, Now: time.Now},
		Outbox: &mail.Outbox{DB: pool, Now: time.Now},
		Keys:   p.keys, URL: p.URL, From: p.MailFrom, PrivateWebhooks: p.Dev, Log: p.slog(),
	}
	worker.Webhooks = p.ResendAPIKey != "" && p.HookSecrets != nil
	if worker.From == "" {
		worker.From = devSender
	}
	if p.ResendAPIKey == "" {
		p.log.Warn().Msg("RESEND_API_KEY is not set: mail is delivered to nobody, it stays in the development mailbox")
		worker.Sender = &mail.Mailbox{DB: pool, Now: time.Now}
	} else if worker.Sender, err = mail.NewResend(p.ResendAPIKey, p.ResendBaseURL, time.Now); err != nil {
		return err
	}
	arm(worker)
	client, err := jobs.NewClient(queuePool, worker, p.slog())
	if err != nil {
		return err
	}
	worker.Roster.Jobs = client
	if err := client.Start(context.WithoutCancel(ctx)); err != nil {
		return fmt.Errorf("start workers: %w", err)
	}
	if p.ResendAPIKey != "" && p.HookSecrets == nil {
		p.log.Warn().Msg("RESEND_WEBHOOK_SECRET is not set: nobody hears of mail that comes back")
	}
	p.log.Info().Msg("workers are at work")
	<-ctx.Done()
	stopping, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopWorkers)
	defer cancel()
	if err := client.Stop(stopping); err != nil {
		return fmt.Errorf("stop workers: %w", err)
	}
	return nil
}

// listen takes the port.
func listen(port int) (net.Listener, error) {
	listener, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("port %d is taken by another program, perhaps by an Usher that runs already; stop that one, or choose another port, like PORT=%d", port, port%65535+1)
	}
	if err != nil {
		return nil, fmt.Errorf("listen on port %d: %w", port, err)
	}
	return listener, nil
}

// together runs functions at once until ctx ends or one of them fails, and
// waits for all.
func together(ctx context.Context, functions ...func(context.Context) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	failed := make(chan error, len(functions))
	for _, function := range functions {
		go func() {
			err := function(ctx)
			cancel()
			failed <- err
		}()
	}
	var err error
	for range functions {
		err = errors.Join(err, <-failed)
	}
	return err
}

// deployed reads the configuration of a process that runs by itself.
func deployed() (*parts, error) {
	c, err := readConfig()
	if err != nil {
		return nil, err
	}
	if err := c.needDeployment(); err != nil {
		return nil, err
	}
	return newParts(c, os.Stderr)
}
