package postgres

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// childDir names the directory in which the test program, started as a child,
// runs a server instead of tests, until it is interrupted.
const childDir = "USHER_TEST_SERVER_DIR"

func init() {
	dir := os.Getenv(childDir)
	if dir == "" {
		return
	}
	interrupts := make(chan os.Signal, 1)
	signal.Notify(interrupts, os.Interrupt)
	began := time.Now()
	s, err := StartServer(context.Background(), ServerOptions{
		Dir:      dir,
		Programs: testPrograms(),
		Volatile: true,
		Progress: func(sentence string) { fmt.Fprintln(os.Stderr, sentence) },
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Fprintf(os.Stderr, "up after %.1f s\n", time.Since(began).Seconds())
	fmt.Println(s.URL("postgres"))
	<-interrupts
	conn, err := pgx.Connect(context.Background(), s.URL("postgres"))
	if err == nil {
		err = conn.Close(context.Background())
	}
	fmt.Println("after the interrupt:", err)
	fmt.Println("stopped:", s.Stop())
	os.Exit(0)
}

// testPrograms is where a PostgreSQL fetched for tests is kept, since each test
// has a directory of its own.
func testPrograms() string {
	cache, err := os.UserCacheDir()
	if err != nil {
		panic(err)
	}
	return filepath.Join(cache, "usher", "postgresql")
}

// startChild starts a child that runs a server in dir. It leads a process
// group of its own, as a terminal's foreground program does.
func startChild(t *testing.T, dir string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(program)
	cmd.Env = append(os.Environ(), childDir+"="+dir)
	cmd.Stderr = t.Output()
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill() })
	return cmd, bufio.NewScanner(out)
}

func startServer(t *testing.T, dir string) *Server {
	t.Helper()
	return startWith(t, ServerOptions{Dir: dir, Programs: testPrograms(), Volatile: true})
}

func startWith(t *testing.T, o ServerOptions) *Server {
	t.Helper()
	s, err := StartServer(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Stop() })
	return s
}

// wantFailure starts a server that must not start, and returns why not.
func wantFailure(t *testing.T, o ServerOptions, texts ...string) error {
	t.Helper()
	s, err := StartServer(t.Context(), o)
	if err == nil {
		s.Stop()
		t.Fatal("the server started")
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			t.Errorf("error %q does not say %q", err, text)
		}
	}
	return err
}

// query runs a statement that returns one text.
func query(t *testing.T, url, sql string) string {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	var text string
	if err := conn.QueryRow(t.Context(), sql).Scan(&text); err != nil {
		t.Fatal(err)
	}
	return text
}

// write leaves a word in the server for wantWord to find.
func write(t *testing.T, s *Server) {
	t.Helper()
	conn, err := pgx.Connect(t.Context(), s.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(t.Context())
	if _, err := conn.Exec(t.Context(), `CREATE TABLE kept AS SELECT 'here' AS word`); err != nil {
		t.Fatal(err)
	}
}

func wantWord(t *testing.T, s *Server) {
	t.Helper()
	if word := query(t, s.URL("postgres"), `SELECT word FROM kept`); word != "here" {
		t.Fatalf("read %q, want what was written before", word)
	}
}

// eventually waits until done says so.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	look, deadline := time.NewTicker(5*time.Millisecond), time.After(30*time.Second)
	defer look.Stop()
	for !done() {
		select {
		case <-look.C:
		case <-deadline:
			t.Fatal("waited in vain: " + what)
		}
	}
}

// gone says whether a process has ended, taken note of by its parent or not.
func gone(pid int) bool { return errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) }

// canonical returns dir as the system reports it.
func canonical(t *testing.T, dir string) string {
	t.Helper()
	dir, err := filepath.EvalSymlinks(dir)
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

func TestServerTemporary(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for range 2 { // the second time in the directory that the first left
		s := startWith(t, ServerOptions{Dir: dir, Programs: testPrograms(), Volatile: true, Temporary: true})
		if err := s.EnsureDatabase(t.Context(), "kept"); err != nil {
			t.Fatal(err)
		}
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(dataDir(dir)); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("the data is still there: %v", err)
		}
	}
}

func TestServerKeepsData(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "made", "on the way")
	s := startServer(t, dir)
	write(t, s)
	for range 2 {
		if err := s.EnsureDatabase(t.Context(), "Some name"); err != nil {
			t.Fatal(err)
		}
	}
	pid := s.process.Pid
	for range 2 {
		if err := s.Stop(); err != nil {
			t.Fatal(err)
		}
	}
	if !gone(pid) {
		t.Fatalf("postmaster %d outlived Stop", pid)
	}

	s = startServer(t, dir)
	wantWord(t, s)
	if name := query(t, s.URL("Some name"), `SELECT current_database()::text`); name != "Some name" {
		t.Errorf("database %q", name)
	}
	for setting, want := range map[string]string{"listen_addresses": "", "jit": "off", "fsync": "off", "server_encoding": "UTF8", "TimeZone": "UTC"} {
		if got := query(t, s.URL("postgres"), `SHOW "`+setting+`"`); got != want {
			t.Errorf("%s is %q, want %q", setting, got, want)
		}
	}
}

func TestServerInUse(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startServer(t, dir)
	write(t, s)

	err := wantFailure(t, ServerOptions{Dir: dir}, "process "+strconv.Itoa(os.Getpid())+" ", "DATABASE_URL")
	if !errors.Is(err, ErrServerInUse) {
		t.Errorf("error %v, want ErrServerInUse", err)
	}
	// The same from another process.
	child, _ := startChild(t, dir)
	if err := child.Wait(); err == nil {
		t.Error("a second process got the server")
	}
	wantWord(t, s)
}

func TestServerAfterPostmasterWasKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := startWith(t, ServerOptions{Dir: dir, Programs: testPrograms()})
	write(t, s)

	// A session that is busy does not notice that its postmaster died.
	conn, err := pgx.Connect(t.Context(), s.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	busy := make(chan error)
	go func() {
		_, err := conn.Exec(context.WithoutCancel(t.Context()), `DO $$ BEGIN LOOP END LOOP; END $$`)
		busy <- err
	}()
	pid := int(conn.PgConn().PID())
	eventually(t, "the session is busy", func() bool {
		return query(t, s.URL("postgres"), `SELECT coalesce(max(state), '') FROM pg_stat_activity WHERE pid = `+strconv.Itoa(pid)) == "active"
	})

	if err := s.process.Kill(); err != nil {
		t.Fatal(err)
	}
	<-s.exited
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	wantWord(t, startServer(t, dir))
	if err := <-busy; err == nil {
		t.Error("the old session went on")
	}
}

func TestServerAfterItsProcessWasKilled(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	child, out := startChild(t, dir)
	if !out.Scan() {
		t.Fatal("the child did not start a server")
	}
	text, err := os.ReadFile(filepath.Join(dir, "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(text), "\n")
	postmaster, err := strconv.Atoi(first)
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	child.Wait()
	if runtime.GOOS == "linux" {
		eventually(t, "the server ends with its process", func() bool { return gone(postmaster) })
	}
	startServer(t, dir)
	if !gone(postmaster) {
		t.Error("the old server runs beside the new one")
	}
}

func TestServerReplacesOrphan(t *testing.T) {
	t.Parallel()
	dir := canonical(t, t.TempDir())
	s := startServer(t, dir)
	write(t, s)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}

	// A postmaster that nothing tied to the process that started it.
	o, err := ServerOptions{Dir: dir, Programs: testPrograms()}.complete()
	if err != nil {
		t.Fatal(err)
	}
	data := filepath.Join(dir, "data")
	major, err := dataVersion(data)
	if err != nil {
		t.Fatal(err)
	}
	p, err := o.programs(t.Context(), major)
	if err != nil {
		t.Fatal(err)
	}
	who, err := serverAccount(data)
	if err != nil {
		t.Fatal(err)
	}
	if who, err = who.reaching(dir, p.bin, s.socket); err != nil {
		t.Fatal(err)
	}
	orphan := p.command(who, "postgres", settings(data, s.socket, ServerOptions{Volatile: true})...)
	orphan.Dir = data
	orphan.Stderr = t.Output()
	ended, err := startTied(orphan, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { orphan.Process.Signal(syscall.SIGQUIT) })
	eventually(t, "the orphan answers", func() bool {
		conn, err := pgx.Connect(t.Context(), s.URL("postgres"))
		return err == nil && conn.Close(t.Context()) == nil
	})

	s = startServer(t, dir)
	wantWord(t, s)
	<-ended
	if log := s.logTail(); !strings.Contains(log, "database system was shut down at") {
		t.Errorf("the orphan was not stopped in order; the new server says:\n%s", log)
	}
}

func TestServerTakesNoStrangerForOrphan(t *testing.T) {
	t.Parallel()
	dir := canonical(t, t.TempDir())
	if err := startServer(t, dir).Stop(); err != nil {
		t.Fatal(err)
	}
	// After a restart of the machine the number may be anybody's. Ours is,
	// and to PostgreSQL a process of its own user would be a server.
	data := filepath.Join(dir, "data")
	who, err := serverAccount(data)
	if err != nil {
		t.Fatal(err)
	}
	stranger := exec.Command("/bin/sleep", "600")
	stranger.SysProcAttr = who.attributes()
	if err := stranger.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stranger.Process.Kill(); stranger.Wait() })
	pid := stranger.Process.Pid
	if err := os.WriteFile(filepath.Join(data, "postmaster.pid"), []byte(strconv.Itoa(pid)+"\n"+data+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	startServer(t, dir)
	if err := stranger.Process.Signal(syscall.Signal(0)); err != nil {
		t.Errorf("the stranger was ended: %v", err)
	}
}

func TestServerAfterHalfDoneInitdb(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	child, _ := startChild(t, dir)
	halfDone := filepath.Join(dir, "initdb-*")
	eventually(t, "initdb has begun", func() bool {
		matches, _ := filepath.Glob(filepath.Join(halfDone, "PG_VERSION"))
		return len(matches) == 1
	})
	if err := child.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	child.Wait()
	if _, err := os.Stat(filepath.Join(dir, "data")); err == nil {
		t.Fatal("the data directory exists before it is complete")
	}
	startServer(t, dir)
	if left, _ := filepath.Glob(halfDone); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}

func TestServerInDeepDirectory(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), strings.Repeat("deep/", 30))
	s := startServer(t, dir)
	t.Cleanup(func() { os.RemoveAll(filepath.Dir(s.socket)) })
	write(t, s)
	if strings.HasPrefix(s.socket, dir) {
		t.Errorf("socket in %s", s.socket)
	}
	info, err := os.Stat(filepath.Dir(s.socket))
	if err != nil {
		t.Fatal(err)
	}
	if mode := info.Mode().Perm(); mode != 0o700 {
		t.Errorf("socket's directory is open to others: %o", mode)
	}
}

// As root the server runs as somebody who may not enter the directory.
func TestServerInClosedDirectory(t *testing.T) {
	t.Parallel()
	closed := t.TempDir()
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(closed, "server")
	s := startServer(t, dir)
	write(t, s)
	if err := s.Stop(); err != nil {
		t.Fatal(err)
	}
	wantWord(t, startServer(t, dir))
}

// Only a server that cannot go where it must is lent the right to, and then
// nobody else gets near it.
func TestReaching(t *testing.T) {
	t.Parallel()
	parent := canonical(t, t.TempDir())
	dir := filepath.Join(parent, "server")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	mode := func() os.FileMode {
		info, err := os.Stat(dir)
		if err != nil {
			t.Fatal(err)
		}
		return info.Mode().Perm()
	}
	// Whose directories the temporary ones are, so that only modes matter.
	who := account{switched: true, uid: os.Geteuid(), gid: os.Getegid()}

	got, err := who.reaching(dir, dir)
	if err != nil || got.reach || mode() != 0o711 {
		t.Errorf("open: lent a right %v, directory %o, error %v", got.reach, mode(), err)
	}

	if err := os.Chmod(parent, 0o600); err != nil {
		t.Fatal(err)
	}
	got, err = who.reaching(dir, dir)
	if err := os.Chmod(parent, 0o700); err != nil {
		t.Fatal(err)
	}
	if canLendReach() {
		if err != nil || !got.reach || mode() != 0o700 {
			t.Errorf("closed: lent a right %v, directory %o, error %v", got.reach, mode(), err)
		}
	} else if err == nil || !strings.Contains(err.Error(), "may not enter "+parent+":") {
		t.Errorf("closed, with no right to lend: error %v", err)
	}
}

func TestServerOutlivesInterrupt(t *testing.T) {
	t.Parallel()
	child, out := startChild(t, t.TempDir())
	if !out.Scan() {
		t.Fatal("the child did not start a server")
	}
	if err := syscall.Kill(-child.Process.Pid, syscall.SIGINT); err != nil { // as a terminal does
		t.Fatal(err)
	}
	var lines []string
	for out.Scan() {
		lines = append(lines, out.Text())
	}
	if want := []string{"after the interrupt: <nil>", "stopped: <nil>"}; !slices.Equal(lines, want) {
		t.Errorf("the child said %q, want %q", lines, want)
	}
	if err := child.Wait(); err != nil {
		t.Error(err)
	}
}

func TestServerFailureQuotesLog(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	if err := startServer(t, dir).Stop(); err != nil {
		t.Fatal(err)
	}
	conf, err := os.OpenFile(filepath.Join(dir, "data", "postgresql.conf"), os.O_APPEND|os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer conf.Close()
	if _, err := conf.WriteString("no_such_setting = on\n"); err != nil {
		t.Fatal(err)
	}
	o := ServerOptions{Dir: dir, Programs: testPrograms()}
	wantFailure(t, o, "no_such_setting", filepath.Join(canonical(t, dir), "log"))
	wantFailure(t, o, "no_such_setting") // the failed start holds nothing
}

func TestServerOfAnotherUser(t *testing.T) {
	t.Parallel()
	dir := "/" // root's
	if os.Geteuid() == 0 {
		dir = t.TempDir()
		if err := os.Chown(dir, 12345, 12345); err != nil {
			t.Fatal(err)
		}
	}
	wantFailure(t, ServerOptions{Dir: dir}, "belongs to user ", "DATABASE_URL")
}

func nothingFound(string) (string, error) { return "", exec.ErrNotFound }

func TestServerWithoutPrograms(t *testing.T) {
	t.Parallel()
	o := ServerOptions{Dir: t.TempDir(), places: []string{}, lookPath: nothingFound}
	wantFailure(t, o, "find PostgreSQL 14 or newer", "install it", "DATABASE_URL")
}

func TestServerWithoutProgramsOfDataVersion(t *testing.T) {
	t.Parallel()
	o := ServerOptions{Dir: t.TempDir(), lookPath: nothingFound}
	data := filepath.Join(o.Dir, "data")
	if err := os.Mkdir(data, 0o700); err != nil {
		t.Fatal(err)
	}
	wantFailure(t, o, "is no PostgreSQL data directory")
	if err := os.WriteFile(filepath.Join(data, "PG_VERSION"), []byte("9\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantFailure(t, o, "find PostgreSQL 9, which made the data in "+canonical(t, o.Dir), "move the data away", "DATABASE_URL")
}

// fakePrograms makes programs that only tell their version.
func fakePrograms(t *testing.T, root string, major int) {
	t.Helper()
	bin := filepath.Join(root, strconv.Itoa(major), "bin")
	if err := os.MkdirAll(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"initdb", "postgres"} {
		script := fmt.Sprintf("#!/bin/sh\necho '%s (PostgreSQL) %d.3 (Fake 1)'\n", name, major)
		if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

func TestChooseVersion(t *testing.T) {
	t.Parallel()
	root := canonical(t, t.TempDir())
	for _, major := range []int{9, 13, 16, 15} {
		fakePrograms(t, root, major)
	}
	if err := os.Remove(filepath.Join(root, "16", "bin", "initdb")); err != nil { // only a client
		t.Fatal(err)
	}
	o := ServerOptions{
		Programs: t.TempDir(),
		places:   []string{filepath.Join(root, "*", "bin")},
		lookPath: func(name string) (string, error) { return filepath.Join(root, "15", "bin", name), nil },
	}
	found := o.installed(t.Context())
	found = append(found, programs{bin: "found later", major: 15})
	for want, chosen := range map[int]int{0: 15, 15: 15, 13: 13, 16: 0, 17: 0} {
		if p, ok := choose(found, want); p.major != chosen || ok != (chosen != 0) || p.bin == "found later" {
			t.Errorf("for version %d chose %d, %v; want %d", want, p.major, ok, chosen)
		}
	}
	if got := versions(found); got != "9 13 15" {
		t.Errorf("found versions %s", got)
	}
}

func TestNeededPackages(t *testing.T) {
	t.Parallel()
	plan := `NOTE: This is only a simulation!
Reading package lists...
Building dependency tree...
The following NEW packages will be installed:
  libicu72 postgresql-15
Inst perl-base [5.36.0-7+deb12u2] (5.36.0-7+deb12u4 Debian:12.15/oldstable [amd64])
Inst libc6 [2.36-9] (2.36-10 Debian:12.15/oldstable [amd64])
Inst libperl5.36 (5.36.0-7+deb12u4 Debian:12.15/oldstable [amd64])
Inst libssl3 [3.0.16-1] (3.0.22-1~deb12u2 Debian-Security:12/oldstable-security [amd64])
Inst libc-l10n (2.36-9+deb12u14 Debian:12.15/oldstable [all])
Inst libcap2 (1:2.66-4 Debian:12.15/oldstable [amd64])
Inst libjson-perl (4.10000-1 Debian:12.15/oldstable [all])
Inst libicu72 (72.1-3+deb12u1 Debian:12.15/oldstable [amd64])
Inst libllvm14 (1:14.0.6-12 Debian:12.15/oldstable [amd64])
Inst libz3-4 (4.8.12-3.1 Debian:12.15/oldstable [amd64])
Inst postgresql-client-common (248+deb12u2 Debian:12.15/oldstable [all])
Inst postgresql-client-15 (15.20-0+deb12u1 Debian-Security:12/oldstable-security [amd64])
Inst postgresql-common (248+deb12u2 Debian:12.15/oldstable [all])
Inst postgresql-15 (15.20-0+deb12u1 Debian-Security:12/oldstable-security [amd64])
Conf libssl3 (3.0.22-1~deb12u2 Debian-Security:12/oldstable-security [amd64])
`
	want := []string{"libssl3", "libcap2", "libicu72", "postgresql-client-15", "postgresql-15"}
	if got := neededPackages([]byte(plan)); !slices.Equal(got, want) {
		t.Errorf("needed packages %q, want %q", got, want)
	}
}
