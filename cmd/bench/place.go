package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"usher/internal/postgres"
	"usher/internal/roster"
)

const (
	// database is made anew by every run.
	database = "usher_bench"

	// startTime bounds how long a process may take until it answers, stopTime
	// until it has ended.
	startTime = 15 * time.Second
	stopTime  = 30 * time.Second

	// providerKey is the stand-in's.
	providerKey = "re_bench"

	// secret signs links nobody follows.
	secret = "a secret for measuring that guards nothing at all"
)

// place is where a run happens.
type place struct {
	dir       string // of the private server
	usher     string // the program
	provider  string // the stand-in of the mail provider
	floorPool int    // the floor's connections
}

// bench is a run: a private PostgreSQL with one app in it.
type bench struct {
	place
	perFigure time.Duration
	server    *postgres.Server
	pool      *pgxpool.Pool

	app, account, workspace uuid.UUID
	key                     string
}

func open(ctx context.Context, p place, perFigure time.Duration) (_ *bench, err error) {
	b := &bench{place: p, perFigure: perFigure}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.close())
		}
	}()
	if err := b.startServer(ctx); err != nil {
		return nil, err
	}
	if err := b.recreate(ctx, database); err != nil {
		return nil, err
	}
	if b.pool, err = postgres.Open(ctx, b.server.URL(database), 4); err != nil {
		return nil, err
	}
	if err := postgres.Migrate(ctx, b.pool); err != nil {
		return nil, err
	}
	if err := b.seed(ctx); err != nil {
		return nil, fmt.Errorf("seed: %w", err)
	}
	return b, nil
}

// startServer starts a PostgreSQL that keeps its promises, and notes when
// transactions committed.
func (b *bench) startServer(ctx context.Context) (err error) {
	b.server, err = postgres.StartServer(ctx, postgres.ServerOptions{
		Dir: b.dir, Progress: func(s string) { progress("%s", s) },
		Settings: map[string]string{"track_commit_timestamp": "on"},
	})
	return err
}

// recreate leaves nothing of an earlier run in a database.
func (b *bench) recreate(ctx context.Context, database string) error {
	conn, err := pgx.Connect(ctx, b.server.URL("postgres"))
	if err != nil {
		return fmt.Errorf("connect to private PostgreSQL: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	if _, err := conn.Exec(ctx, "DROP DATABASE IF EXISTS "+database+" WITH (FORCE)"); err != nil {
		return fmt.Errorf("drop database %s: %w", database, err)
	}
	return b.server.EnsureDatabase(ctx, database)
}

// seed makes an app with somebody who may invite.
func (b *bench) seed(ctx context.Context) error {
	return postgres.InTx(ctx, b.pool, func(tx pgx.Tx) error {
		r := &roster.Roster{DB: tx, Now: time.Now}
		app, err := r.CreateApp(ctx, roster.NewApp{Name: "Harbour Portal", TimeZone: "Europe/Madrid"})
		if err != nil {
			return err
		}
		if b.key, _, err = r.CreateAPIKey(ctx, app.ID, "bench"); err != nil {
			return err
		}
		company, err := r.CreateCompany(ctx, app.ID, "Harbour Physiotherapy", "Europe/Madrid", roster.IdempotencyKey{})
		if err != nil {
			return err
		}
		account, err := r.CreateAccount(ctx, app.ID, roster.NewAccount{
			Kind: roster.Professional, FullName: "Bea Moreno", Email: "bea@harbour.example",
		}, roster.IdempotencyKey{})
		if err != nil {
			return err
		}
		if err := r.SetCompanyMember(ctx, app.ID, company.ID, account.ID, roster.RoleAdmin, roster.IdempotencyKey{}); err != nil {
			return err
		}
		workspace, err := r.CreateWorkspace(ctx, app.ID, roster.NewWorkspace{CompanyID: company.ID, Name: "Ann Example - Private", OwnerID: account.ID}, roster.IdempotencyKey{})
		if err != nil {
			return err
		}
		b.app, b.account, b.workspace = app.ID, account.ID, workspace.ID
		return nil
	})
}

func (b *bench) close() error {
	if b.pool != nil {
		b.pool.Close()
	}
	if b.server == nil {
		return nil
	}
	return b.server.Stop()
}

// clear empties the tables that requests fill, and settles the server, so that
// every round starts from the same.
func (b *bench) clear(ctx context.Context) error {
	for _, statement := range []string{
		"TRUNCATE invitation, event, idempotency_key, river_job, message, dispatch, dev_mail, webhook_endpoint, webhook_delivery",
		"CHECKPOINT",
	} {
		if _, err := b.pool.Exec(ctx, statement); err != nil {
			return fmt.Errorf("clear tables: %w", err)
		}
	}
	return nil
}

// process is a running program.
type process struct {
	name    string
	address string // empty where it does not listen
	ready   string // the path that tells that it does; empty: /readyz
	cmd     *exec.Cmd
	log     *os.File
	ended   chan struct{}
	err     error // how it ended, once it has
}

// startWeb starts Usher's web front with the settings a deployment has.
func (b *bench) startWeb(ctx context.Context) (*process, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	return b.startUsher(ctx, "web", address)
}

// startProvider starts the mail provider's stand-in.
func (b *bench) startProvider(ctx context.Context, rate int, latency time.Duration) (*process, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	p := &process{name: "fakeresend", address: address, ready: "/_admin/config", cmd: exec.CommandContext(ctx, b.provider,
		"-addr", address, "-api-key", providerKey, "-rate", fmt.Sprint(rate), "-latency", latency.String(),
		"-journal", filepath.Join(b.dir, "fakeresend.journal"))}
	if err := os.Remove(filepath.Join(b.dir, "fakeresend.journal")); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("forget what the stand-in accepted: %w", err)
	}
	return p, p.start(ctx, b.dir)
}

// startUsher starts a process of Usher's; env are further settings.
func (b *bench) startUsher(ctx context.Context, command, address string, env ...string) (*process, error) {
	p := &process{name: "usher " + command, address: address, cmd: exec.CommandContext(ctx, b.usher, command)}
	// Nothing of our own environment goes in: there might be a provider's key.
	p.cmd.Env = []string{"DATABASE_URL=" + b.server.URL(database), "USHER_URL=http://localhost:8080", "USHER_SECRET=" + secret}
	p.cmd.Env = append(p.cmd.Env, env...)
	if address != "" {
		_, port, err := net.SplitHostPort(address)
		if err != nil {
			return nil, fmt.Errorf("read address %s: %w", address, err)
		}
		p.cmd.Env = append(p.cmd.Env, "PORT="+port)
	}
	return p, p.start(ctx, b.dir)
}

func (b *bench) startFloor(ctx context.Context) (*process, error) {
	address, err := freeAddress()
	if err != nil {
		return nil, err
	}
	self, err := os.Executable()
	if err != nil {
		return nil, fmt.Errorf("find this program: %w", err)
	}
	p := &process{name: "floor", address: address, cmd: exec.CommandContext(ctx, self, "-floor",
		"-database", b.server.URL(database), "-listen", address, "-app", b.app.String(), "-pool", fmt.Sprint(b.floorPool))}
	p.cmd.Env = []string{}
	return p, p.start(ctx, b.dir)
}

// start runs the program, its output in a file of dir, until it answers.
func (p *process) start(ctx context.Context, dir string) (err error) {
	if p.ready == "" {
		p.ready = "/readyz"
	}
	if p.log, err = os.Create(filepath.Join(dir, p.name+".log")); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	p.cmd.Stdout, p.cmd.Stderr = p.log, p.log
	p.cmd.Cancel = func() error { return p.cmd.Process.Signal(syscall.SIGTERM) }
	p.cmd.WaitDelay = stopTime
	if err := p.cmd.Start(); err != nil {
		return errors.Join(fmt.Errorf("start %s: %w", p.name, err), p.log.Close())
	}
	p.ended = make(chan struct{})
	go func() {
		defer close(p.ended)
		p.err = p.cmd.Wait()
	}()
	if p.address == "" {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if p.answers(ctx) {
			return nil
		}
		select {
		case <-tick.C:
		case <-p.ended:
			return p.stop()
		case <-ctx.Done():
			return errors.Join(fmt.Errorf("%s does not answer; see %s", p.name, p.log.Name()), p.stop())
		}
	}
}

func (p *process) answers(ctx context.Context) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.address+p.ready, http.NoBody)
	if err != nil {
		return false
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK
}

// stop ends the program as a deployment does and waits for its end.
func (p *process) stop() error {
	err := p.cmd.Process.Signal(syscall.SIGTERM)
	if err == nil || errors.Is(err, os.ErrProcessDone) {
		<-p.ended
		err = p.err
	}
	if err = errors.Join(err, p.log.Close()); err != nil {
		return fmt.Errorf("run %s: %w; see %s", p.name, err, p.log.Name())
	}
	return nil
}

// freeAddress is one nobody listens on.
func freeAddress() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return listener.Addr().String(), listener.Close()
}
