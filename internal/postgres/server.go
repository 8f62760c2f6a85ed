package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

const (
	// serverUser is the superuser of a private server. The server trusts
	// whoever reaches its socket, and only its owner and root do.
	serverUser = "usher"

	// startTimeout is for the slowest good start: replaying the log after a
	// crash on a busy disk.
	startTimeout = 60 * time.Second

	// stopTimeout is how long a fast shutdown may take. It ends every session
	// at once, so only the last checkpoint is waited for.
	stopTimeout = 20 * time.Second

	// killTimeout is how long a server may take to vanish once its processes
	// were told to quit without a checkpoint.
	killTimeout = 5 * time.Second

	// pollInterval is how often a starting or stopping server is looked at.
	pollInterval = 25 * time.Millisecond

	// logTail is how many of the log's last bytes an error quotes.
	logTail = 1500
)

// ErrServerInUse says that another live process runs the private server of the
// same directory. The error's text names the process and a way out.
var ErrServerInUse = errors.New("private PostgreSQL is in use")

// ServerOptions say where a private PostgreSQL lives and how careful it is.
type ServerOptions struct {
	// Dir holds the data, the log, the lock and the socket. It is made when
	// missing, and belongs to the user who made it.
	Dir string

	// Programs is where PostgreSQL is put when this machine has none; empty
	// means Dir/programs. Several servers may share it.
	Programs string

	// Volatile gives up durability for speed: a crash of the machine may
	// destroy the data, one of the server lose its last second. For tests.
	Volatile bool

	// Settings are further ones of the server, by their names.
	Settings map[string]string

	// Temporary removes the data when the server stops.
	Temporary bool

	// Progress is told, in a sentence, what takes long. May be nil.
	Progress func(string)

	places   []string                     // where to look for programs, instead of everywhere
	lookPath func(string) (string, error) // instead of exec.LookPath
}

// Server is a private PostgreSQL that ends with this process. It listens on a
// unix socket only, so it is in nobody's way.
type Server struct {
	dir    string
	socket string // the socket's directory
	lock   *os.File
	remove string // the data, where it is temporary

	process *os.Process
	exited  <-chan error // gets how the postmaster ended, and is closed then

	stop    sync.Once
	stopErr error
}

// StartServer starts the private server of o.Dir and waits until it answers.
// The first time it makes the data directory and, on a machine without
// PostgreSQL 14 or newer, gets one. It recovers what a killed run left behind,
// a running postmaster included. ctx bounds the start only.
//
// The error is ErrServerInUse while another live process holds o.Dir. When the
// server does not come up, the error quotes its log.
func StartServer(ctx context.Context, o ServerOptions) (*Server, error) {
	o, err := o.complete()
	if err != nil {
		return nil, err
	}
	if err := claimDir(o.Dir); err != nil {
		return nil, err
	}
	lock, err := lockDir(o.Dir)
	if err != nil {
		return nil, err
	}
	s := &Server{dir: o.Dir, lock: lock}
	if o.Temporary {
		s.remove = dataDir(o.Dir)
	}
	if err := s.start(ctx, o); err != nil {
		return nil, errors.Join(err, s.unlock())
	}
	return s, nil
}

// URL returns the address of a database of this server. The database
// "postgres" always exists.
func (s *Server) URL(database string) string {
	u := url.URL{Scheme: "postgres", User: url.User(serverUser), Path: "/" + database}
	// PostgreSQL's clients do not read a plus sign as a space.
	u.RawQuery = "host=" + strings.ReplaceAll(url.QueryEscape(s.socket), "+", "%20")
	return u.String()
}

// RunningURL is the connection URL of a database of the server that runs in a
// folder; ok is false where none does.
func RunningURL(dir, database string) (address string, ok bool) {
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", false
	}
	s := &Server{socket: filepath.Join(dir, "socket")} // of a folder whose name is not too long
	if _, err := os.Stat(filepath.Join(s.socket, socketName)); err != nil {
		return "", false
	}
	return s.URL(database), true
}

// EnsureDatabase creates the database name unless it exists.
func (s *Server) EnsureDatabase(ctx context.Context, name string) error {
	conn, err := pgx.Connect(ctx, s.URL("postgres"))
	if err != nil {
		return fmt.Errorf("connect to private PostgreSQL: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))

	_, err = conn.Exec(ctx, "CREATE DATABASE "+pgx.Identifier{name}.Sanitize())
	var exists *pgconn.PgError
	if errors.As(err, &exists) && exists.Code == "42P04" { // duplicate_database
		return nil
	}
	if err != nil {
		return fmt.Errorf("create database %s: %w", name, err)
	}
	return nil
}

// Stop ends every session, stops the server and gives the directory free. It
// may be called more than once.
func (s *Server) Stop() error {
	s.stop.Do(func() {
		s.stopErr = s.shutdown()
		if s.stopErr == nil {
			s.stopErr = os.RemoveAll(s.remove) // which removes nothing where it is empty
		}
		s.stopErr = errors.Join(s.stopErr, s.unlock())
	})
	return s.stopErr
}

// complete fills what the options leave open. Paths become absolute and free
// of symbolic links, so that they compare equal to what the system reports.
func (o ServerOptions) complete() (ServerOptions, error) {
	if o.Dir == "" {
		return o, errors.New("start private PostgreSQL: no directory given")
	}
	dir, err := filepath.Abs(o.Dir)
	if err != nil {
		return o, fmt.Errorf("start private PostgreSQL: %w", err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return o, fmt.Errorf("start private PostgreSQL: %w", err)
	}
	if o.Dir, err = filepath.EvalSymlinks(dir); err != nil {
		return o, fmt.Errorf("start private PostgreSQL: %w", err)
	}
	if o.Programs == "" {
		o.Programs = filepath.Join(o.Dir, "programs")
	}
	if o.Programs, err = filepath.Abs(o.Programs); err != nil {
		return o, fmt.Errorf("start private PostgreSQL: %w", err)
	}
	if o.Progress == nil {
		o.Progress = func(string) {}
	}
	if o.lookPath == nil {
		o.lookPath = exec.LookPath
	}
	return o, nil
}

// dataDir returns the data directory of the server of dir.
func dataDir(dir string) string { return filepath.Join(dir, "data") }

// start does all of StartServer that needs the lock.
func (s *Server) start(ctx context.Context, o ServerOptions) error {
	data := dataDir(s.dir)
	major, err := dataVersion(data)
	if err != nil {
		return err
	}
	p, err := o.programs(ctx, major)
	if err != nil {
		return err
	}
	who, err := serverAccount(data)
	if err != nil {
		return err
	}
	if s.socket, err = socketDir(s.dir, who); err != nil {
		return err
	}
	if who, err = who.reaching(s.dir, p.bin, s.socket); err != nil {
		return err
	}
	if err := stopOrphans(ctx, data); err != nil {
		return err
	}
	if err := p.linkTimeZones(s.dir); err != nil {
		return err
	}
	if err := initData(ctx, data, p, who, o); err != nil {
		return err
	}
	postmaster := p.command(who, "postgres", settings(data, s.socket, o)...)
	postmaster.Dir = data // from where it sees its time zones at once
	if err := s.launch(postmaster); err != nil {
		return err
	}
	if err := s.ready(ctx); err != nil {
		return errors.Join(err, s.shutdown())
	}
	return nil
}

// settings are the server's arguments. They are given at every start, not kept
// in the data directory, so that a new version of ours changes them.
func settings(data, socket string, o ServerOptions) []string {
	args := []string{"-D", data}
	set := func(name, value string) { args = append(args, "-c", name+"="+value) }

	set("listen_addresses", "")
	set("unix_socket_directories", `"`+strings.ReplaceAll(socket, `"`, `""`)+`"`)
	set("unix_socket_permissions", "0700")
	set("max_connections", "200") // several processes with a pool each, or all packages' tests at once
	set("shared_buffers", "128MB")
	set("jit", "off") // compiling costs our short queries more than it saves
	set("timezone", "UTC")
	set("logging_collector", "off")
	set("log_destination", "stderr")
	set("log_checkpoints", "off") // keeps a quiet server's log from growing
	if o.Volatile {
		set("fsync", "off")
		set("synchronous_commit", "off")
		set("full_page_writes", "off")
		set("max_wal_size", "4GB") // no checkpoint during a run of the tests
	}
	for name, value := range o.Settings {
		set(name, value)
	}
	return args
}

// initData makes the data directory unless it exists. It appears complete or
// not at all: initdb works beside it, under another name.
func initData(ctx context.Context, data string, p programs, who account, o ServerOptions) error {
	halfDone, err := filepath.Glob(filepath.Join(o.Dir, "initdb-*"))
	if err != nil {
		return fmt.Errorf("look for half-made data: %w", err)
	}
	for _, dir := range halfDone {
		if err := stopOrphans(ctx, dir); err != nil {
			return err
		}
		if err := os.RemoveAll(dir); err != nil {
			return fmt.Errorf("remove half-made data: %w", err)
		}
	}
	if _, err := os.Stat(data); err == nil {
		return nil
	}

	dir, err := os.MkdirTemp(o.Dir, "initdb-")
	if err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	if err := who.own(dir); err != nil {
		return err
	}
	args := []string{"-D", dir, "--username=" + serverUser, "--auth=trust", "--encoding=UTF8"}
	if runtime.GOOS == "darwin" { // has no C.UTF-8 of old
		args = append(args, "--locale=C", "--lc-ctype=en_US.UTF-8")
	} else {
		args = append(args, "--locale=C.UTF-8")
	}
	if o.Volatile {
		args = append(args, "--no-sync")
	}
	o.Progress("Making a PostgreSQL " + strconv.Itoa(p.major) + " database in " + o.Dir + ".")
	if out, err := runTied(ctx, p.command(who, "initdb", args...)); err != nil {
		return fmt.Errorf("make data directory: %w\n%s", err, tail(out))
	}
	if err := os.Rename(dir, data); err != nil {
		return fmt.Errorf("make data directory: %w", err)
	}
	return nil
}

// runTied runs cmd to its end, or to the end of ctx or of this process, and
// returns what it printed.
func runTied(ctx context.Context, cmd *exec.Cmd) ([]byte, error) {
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	ended, err := startTied(cmd, syscall.SIGKILL)
	if err != nil {
		return nil, err
	}
	select {
	case err = <-ended:
	case <-ctx.Done():
		err = errors.Join(ctx.Err(), cmd.Process.Kill(), <-ended)
	}
	return out.Bytes(), err
}

// launch starts the postmaster, its output going to a new log.
func (s *Server) launch(cmd *exec.Cmd) error {
	log, err := os.OpenFile(s.logFile(), os.O_CREATE|os.O_TRUNC|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("start private PostgreSQL: %w", err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	// A terminal's Ctrl-C reaches its whole foreground group. The server must
	// not hear it before we have finished with it.
	cmd.SysProcAttr.Setsid = true
	if s.exited, err = startTied(cmd, syscall.SIGINT); err != nil {
		return fmt.Errorf("start private PostgreSQL: %w", err)
	}
	s.process = cmd.Process
	return nil
}

// startTied starts cmd. On Linux it is sent signal should this process die
// before it. The returned channel tells how it ended, then is closed.
func startTied(cmd *exec.Cmd, signal syscall.Signal) (<-chan error, error) {
	started, ended := make(chan error), make(chan error, 1)
	go func() {
		// The signal is sent when the thread ends that started the process, so
		// this thread does nothing else, and ends here: it is never unlocked.
		runtime.LockOSThread()
		err := prepareThread(cmd, signal)
		if err == nil {
			err = cmd.Start()
		}
		started <- err
		if err == nil {
			ended <- cmd.Wait()
			close(ended)
		}
	}()
	return ended, <-started
}

// ready waits until the server takes a connection.
func (s *Server) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for {
		conn, err := pgx.Connect(ctx, s.URL("postgres"))
		if err == nil {
			return conn.Close(ctx)
		}
		select {
		case <-s.exited: //nolint:errcheck // how it ended is in its log
			return fmt.Errorf("start private PostgreSQL: it stopped at once; its log %s ends with:\n%s", s.logFile(), s.logTail())
		case <-ctx.Done():
			return fmt.Errorf("start private PostgreSQL: %w; last attempt: %w; its log %s ends with:\n%s", ctx.Err(), err, s.logFile(), s.logTail())
		case <-time.After(pollInterval):
		}
	}
}

// shutdown stops the postmaster, by force when it does not stop in time.
func (s *Server) shutdown() error {
	for _, try := range []struct {
		signal  syscall.Signal
		timeout time.Duration
	}{{syscall.SIGINT, stopTimeout}, {syscall.SIGQUIT, killTimeout}, {syscall.SIGKILL, killTimeout}} {
		if err := s.process.Signal(try.signal); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return fmt.Errorf("stop private PostgreSQL: %w", err)
		}
		select {
		case <-s.exited: //nolint:errcheck // how it ended is in its log
			return nil
		case <-time.After(try.timeout):
		}
	}
	return fmt.Errorf("stop private PostgreSQL: process %d does not end", s.process.Pid)
}

func (s *Server) logFile() string { return filepath.Join(s.dir, "log") }

func (s *Server) logTail() string {
	log, err := os.ReadFile(s.logFile())
	if err != nil {
		return err.Error()
	}
	return tail(log)
}

// tail returns the last lines of out, at most logTail bytes.
func tail(out []byte) string {
	text := strings.TrimSpace(string(out))
	if len(text) > logTail {
		text = text[len(text)-logTail:]
		_, text, _ = strings.Cut(text, "\n")
	}
	return text
}
