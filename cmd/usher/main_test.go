package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"usher/internal/postgres/postgrestest"
)

// shots is where TestBrowser leaves pictures of what it saw; empty: nowhere.
var shots = flag.String("shots", "", "folder for screenshots of the browser test")

func TestMain(m *testing.M) { postgrestest.Main(m) }

const (
	// patience is how long a test waits for what should happen, on a machine
	// that does three other things. The longest is the rescue of orphaned jobs:
	// River's new leader comes within 21 s, their next attempt 7 s later.
	patience = 60 * time.Second

	// graceTime is what a process may take to end once it is asked to.
	graceTime = 15 * time.Second

	// testSecret signs links in all processes of a test.
	testSecret = "0123456789abcdef0123456789abcdef"
)

// binary returns the path of the usher program, built at most once per process
// of tests. It lives in Go's build cache: "go run" keeps it there, and -exec
// echo tells where instead of running it. The first run after a change names a
// temporary copy, which is gone by then.
var binary = sync.OnceValues(func() (string, error) {
	for range 2 {
		var stderr bytes.Buffer
		cmd := exec.Command("go", "run", "-exec", "echo", "usher/cmd/usher")
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			return "", fmt.Errorf("build usher: %w\n%s", err, stderr.Bytes())
		}
		path := strings.TrimSpace(string(out))
		if _, err := os.Stat(path); err == nil {
			return path, nil
		}
	}
	return "", errors.New("build usher: go run kept no binary")
})

// process is a running usher.
type process struct {
	*exec.Cmd
	stdout, stderr output
	ended          chan struct{} // closed once it is gone
}

// output keeps what a process writes.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.String()
}

// command prepares usher with an environment of its own: what the tests were
// started with says nothing in it.
func command(t testing.TB, dir string, env []string, args ...string) *process {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	p := &process{Cmd: exec.Command(path, args...), ended: make(chan struct{})}
	p.Dir = dir
	p.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + os.Getenv("HOME"), "TMPDIR=" + os.Getenv("TMPDIR")}, env...)
	p.Stdout, p.Stderr = &p.stdout, &p.stderr
	return p
}

// begin starts what command prepared. The process is killed in the end, if it
// is still there.
func (p *process) begin(t testing.TB) *process {
	t.Helper()
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		_ = p.Wait() // ProcessState tells
		close(p.ended)
	}()
	t.Cleanup(func() {
		// SIGTERM first: a private server of its should end in order.
		for _, s := range []os.Signal{syscall.SIGTERM, syscall.SIGKILL} {
			_ = p.Process.Signal(s)
			select {
			case <-p.ended:
			case <-time.After(graceTime):
			}
		}
	})
	return p
}

// start runs usher in the background.
func start(t testing.TB, dir string, env []string, args ...string) *process {
	t.Helper()
	p := command(t, dir, env, args...)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("usher %s wrote\n%s\n%s", strings.Join(args, " "), tail(p.stdout.String()), tail(p.stderr.String()))
		}
	})
	return p.begin(t)
}

// toEnd runs what command prepared to its end.
func (p *process) toEnd(t testing.TB) *process {
	t.Helper()
	p.begin(t)
	p.wait(t, patience)
	return p
}

// wait waits for the end and returns the exit code.
func (p *process) wait(t testing.TB, atMost time.Duration) int {
	t.Helper()
	select {
	case <-p.ended:
	case <-time.After(atMost):
		t.Fatalf("usher %s did not end within %s", strings.Join(p.Args[1:], " "), atMost)
	}
	return p.ProcessState.ExitCode()
}

// signal sends a signal to a process that is alive.
func (p *process) signal(t testing.TB, s os.Signal) {
	t.Helper()
	if err := p.Process.Signal(s); err != nil {
		t.Fatalf("signal usher %s: %v", strings.Join(p.Args[1:], " "), err)
	}
}

// kill ends the process as the kernel would, and waits for it.
func (p *process) kill(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGKILL)
	p.wait(t, patience)
}

// finish ends the process in order and wants exit code 0 within the grace time.
func (p *process) finish(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGTERM)
	if code := p.wait(t, graceTime); code != 0 {
		t.Errorf("usher %s ended with code %d:\n%s", strings.Join(p.Args[1:], " "), code, tail(p.stderr.String()))
	}
}

// logged waits for a line of the JSON log and returns it.
func (p *process) logged(t testing.TB, message string) map[string]any {
	t.Helper()
	var line map[string]any
	eventually(t, "usher "+strings.Join(p.Args[1:], " ")+" logs "+message, func() (bool, error) {
		select {
		case <-p.ended:
			return false, fmt.Errorf("it ended: %s", tail(p.stderr.String()))
		default:
		}
		for text := range strings.Lines(p.stderr.String()) {
			if line = nil; json.Unmarshal([]byte(text), &line) == nil && line["message"] == message {
				return true, nil
			}
		}
		return false, nil
	})
	return line
}

// address waits until the web front answers and returns its host and port.
func (p *process) address(t testing.TB) string {
	t.Helper()
	bound, ok := p.logged(t, "web front answers")["address"].(string)
	if !ok {
		t.Fatal("the log names no address")
	}
	return "127.0.0.1" + bound[strings.LastIndex(bound, ":"):]
}

// eventually polls until done says so or fails, for as long as patience lasts.
func eventually(t testing.TB, what string, done func() (bool, error)) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(patience)
	for {
		ok, err := done()
		switch {
		case err != nil:
			t.Fatalf("%s: %v", what, err)
		case ok:
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not within %s", what, patience)
		}
	}
}

// tail is the end of a long text.
func tail(s string) string {
	const most = 4000
	if len(s) > most {
		return "…" + s[len(s)-most:]
	}
	return s
}

// tempDir is a folder that a private server can be started in whoever runs the
// tests: the paths of t.TempDir are too long for its socket on some systems.
func tempDir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "usher")
	if err != nil {
		t.Fatal(err)
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}
