package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"usher/internal/postgres"
	"usher/internal/roster"
)

const (
	database    = "usher_chaos"
	providerKey = "re_chaos"
	secret      = "a secret for chaos that guards nothing at all"

	// limit is the provider's, in requests a second: enough to be busy, and low
	// enough to be met.
	limit = 40

	// downTime is longer than the stand-in is ever told to be down.
	downTime = 10 * time.Second

	// startTime bounds how long a process may take until it answers.
	startTime = 20 * time.Second
)

type options struct {
	kills                        int
	seed                         uint64
	usher, provider, dir, mutant string
	merges                       bool
	patience                     time.Duration
}

// stage is where a run plays: a private PostgreSQL, the provider's stand-in, a
// web front and workers, each a process of its own.
type stage struct {
	options
	server *postgres.Server
	pool   *pgxpool.Pool
	admin  *http.Client

	key                     string
	app, account, workspace uuid.UUID

	providerURL, webURL string
	processes           []*process // provider and web

	portal       *portal // the app's
	portalServer *http.Server
	pairs        []mergePair

	mu        sync.Mutex
	kills     []kill
	tally     tally
	published []uuid.UUID // invitations that were answered 201
}

// kill is the end of a worker and what was under way then.
type kill struct {
	at       time.Time
	underWay []uuid.UUID // dispatches
}

// process is a running program.
type process struct {
	cmd   *exec.Cmd
	log   *os.File
	ended chan struct{}
}

// launch starts a program, its output in a file of dir.
func launch(dir, name string, env []string, program string, args ...string) (*process, error) {
	log, err := os.OpenFile(filepath.Join(dir, name+".log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	p := &process{cmd: exec.Command(program, args...), log: log, ended: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.Env = log, log, env
	if err := p.cmd.Start(); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), log.Close())
	}
	go func() {
		_ = p.cmd.Wait()
		log.Close()
		close(p.ended)
	}()
	return p, nil
}

// end stops a program; one that does not care is killed.
func (p *process) end() {
	_ = p.cmd.Process.Signal(syscall.SIGCONT)
	_ = p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.ended:
	case <-time.After(30 * time.Second):
		_ = p.cmd.Process.Kill()
		<-p.ended
	}
}

func open(ctx context.Context, o options) (_ *stage, err error) {
	s := &stage{options: o, admin: &http.Client{Timeout: time.Minute}}
	s.tally = tally{Seed: o.seed, Limit: limit, Mutant: o.mutant}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.close())
		}
	}()
	if s.dir, err = filepath.Abs(o.dir); err != nil {
		return nil, fmt.Errorf("find %s: %w", o.dir, err)
	}
	if err := s.startServer(ctx); err != nil {
		return nil, err
	}
	for _, old := range []string{"fakeresend.journal", "fakeresend.log", "web.log", "worker-1.log", "worker-2.log"} {
		_ = os.Remove(filepath.Join(s.dir, old))
	}
	conn, err := pgx.Connect(ctx, s.server.URL("postgres"))
	if err != nil {
		return nil, fmt.Errorf("connect to private PostgreSQL: %w", err)
	}
	_, err = conn.Exec(ctx, "DROP DATABASE IF EXISTS "+database+" WITH (FORCE)")
	if err = errors.Join(err, conn.Close(ctx)); err != nil {
		return nil, fmt.Errorf("drop database %s: %w", database, err)
	}
	if err := s.server.EnsureDatabase(ctx, database); err != nil {
		return nil, err
	}
	if s.pool, err = postgres.Open(ctx, s.server.URL(database), 4); err != nil {
		return nil, err
	}
	if err := postgres.Migrate(ctx, s.pool); err != nil {
		return nil, err
	}
	if err := s.seedApp(ctx); err != nil {
		return nil, fmt.Errorf("seed: %w", err)
	}
	if err := s.openPortal(ctx); err != nil {
		return nil, fmt.Errorf("seed: %w", err)
	}
	if s.providerURL, err = freeURL(); err != nil {
		return nil, err
	}
	if err := s.start(ctx, "fakeresend", s.providerURL+"/_admin/config", nil, s.provider,
		"-addr", strings.TrimPrefix(s.providerURL, "http://"), "-api-key", providerKey, "-rate", strconv.Itoa(limit), "-latency", "40ms-120ms",
		"-seed", strconv.FormatUint(s.seed, 10), "-journal", filepath.Join(s.dir, "fakeresend.journal")); err != nil {
		return nil, err
	}
	if err := s.tell(ctx, http.MethodPost, "/_admin/config", map[string]any{"idempotency": "bytes"}, nil); err != nil {
		return nil, err
	}
	if s.webURL, err = freeURL(); err != nil {
		return nil, err
	}
	return s, s.start(ctx, "web", s.webURL+"/readyz", append(s.environment(), "PORT="+s.webURL[strings.LastIndex(s.webURL, ":")+1:]), s.usher, "web")
}

// startServer starts PostgreSQL. What survives its restarts has to be on the
// disk or in the machine's cache, so it need not wait for the disk.
func (s *stage) startServer(ctx context.Context) (err error) {
	s.server, err = postgres.StartServer(ctx, postgres.ServerOptions{Dir: s.dir, Progress: func(line string) { progress("%s", line) }})
	return err
}

func (s *stage) seedApp(ctx context.Context) error {
	return postgres.InTx(ctx, s.pool, func(tx pgx.Tx) error {
		r := &roster.Roster{DB: tx, Now: time.Now}
		app, err := r.CreateApp(ctx, roster.NewApp{Name: "Harbour Portal", TimeZone: "Europe/Madrid"})
		if err != nil {
			return err
		}
		if s.key, _, err = r.CreateAPIKey(ctx, app.ID, "chaos"); err != nil {
			return err
		}
		company, err := r.CreateCompany(ctx, app.ID, "Harbour Physiotherapy", "", roster.IdempotencyKey{})
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
		s.app, s.account, s.workspace = app.ID, account.ID, workspace.ID
		return err
	})
}

// environment is that of Usher's processes.
func (s *stage) environment() []string {
	return []string{
		"DATABASE_URL=" + s.server.URL(database), "USHER_URL=http://localhost:8080", "USHER_SECRET=" + secret,
		"RESEND_API_KEY=" + providerKey, "RESEND_BASE_URL=" + s.providerURL, "USHER_MAIL_FROM=Usher <usher@usher.example>",
		"CHAOS_MUTANT=" + s.mutant,
		"USHER_DEV=1", // the app's endpoint is on this machine
	}
}

// start launches a program that has to answer at a URL.
func (s *stage) start(ctx context.Context, name, ready string, env []string, program string, args ...string) error {
	p, err := launch(s.dir, name, env, program, args...)
	if err != nil {
		return err
	}
	s.processes = append(s.processes, p)
	ctx, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	for {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, ready, http.NoBody)
		if err != nil {
			return err
		}
		if resp, err := s.admin.Do(req); err == nil {
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return nil
			}
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-p.ended:
			return fmt.Errorf("%s ended; see %s", name, p.log.Name())
		case <-ctx.Done():
			return fmt.Errorf("%s does not answer; see %s", name, p.log.Name())
		}
	}
}

// tell calls the stand-in's administration. While that is down it takes no new
// connection, so it is told again.
func (s *stage) tell(ctx context.Context, method, path string, in, out any) error {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return fmt.Errorf("tell the stand-in: %w", err)
		}
	}
	resp, err := s.administer(ctx, method, path, body)
	for end := time.Now().Add(downTime); errors.Is(err, syscall.ECONNREFUSED) && time.Now().Before(end); {
		select {
		case <-time.After(100 * time.Millisecond):
		case <-ctx.Done():
		}
		resp, err = s.administer(ctx, method, path, body)
	}
	if err != nil {
		return fmt.Errorf("tell the stand-in: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode >= 300 {
		why, _ := io.ReadAll(io.LimitReader(resp.Body, 1000))
		return fmt.Errorf("tell the stand-in %s %s: %d %s", method, path, resp.StatusCode, why)
	}
	if out == nil {
		return nil
	}
	if err := json.NewDecoder(resp.Body).Decode(out); err != nil {
		return fmt.Errorf("read the stand-in's answer: %w", err)
	}
	return nil
}

// administer sends one request to the stand-in's admin.
func (s *stage) administer(ctx context.Context, method, path string, body []byte) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, method, s.providerURL+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	return s.admin.Do(req)
}

func (s *stage) close() error {
	for _, p := range s.processes {
		p.end()
	}
	if s.portalServer != nil {
		_ = s.portalServer.Close()
	}
	if s.pool != nil {
		s.pool.Close()
	}
	if s.server == nil {
		return nil
	}
	return s.server.Stop()
}

// freeURL is an address nobody listens on.
func freeURL() (string, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", fmt.Errorf("find a free port: %w", err)
	}
	return "http://" + listener.Addr().String(), listener.Close()
}
