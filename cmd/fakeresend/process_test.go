package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// binary is the built command, for the tests that need a process to kill.
var binary string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "fakeresend-test-")
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(dir)
		binary = filepath.Join(dir, "fakeresend")
		if out, err := exec.Command("go", "build", "-o", binary, ".").CombinedOutput(); err != nil {
			fmt.Fprintf(os.Stderr, "build: %v\n%s", err, out)
			return 1
		}
		return m.Run()
	}())
}

// process is a running stand-in with a journal.
type process struct {
	*provider
	cmd   *exec.Cmd
	stdin io.Closer
}

func startProcess(t testing.TB, journal string, flags ...string) *process {
	t.Helper()
	args := append([]string{"-api-key", testKey, "-rate", "0", "-latency", "0s", "-journal", journal, "-until-stdin-closes"}, flags...)
	cmd := exec.Command(binary, args...)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if cmd.ProcessState == nil {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	url, ok := strings.CutPrefix(strings.TrimSpace(line), "listening on ")
	if err != nil || !ok {
		t.Fatalf("it said %q, %v", line, err)
	}
	return &process{&provider{url: url, t: t}, cmd, stdin}
}

// kill ends the process as kill -9 does.
func (p *process) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	_ = p.cmd.Wait() // it says "signal: killed"
}

// Whatever was answered before a kill -9 is there after it, keys included,
// and what was accepted but not answered is answered from its key.
func TestJournalSurvivesKill(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "journal")
	p := startProcess(t, file)
	p.admin("clock", `{"advance":"1h"}`)
	var mu sync.Mutex
	answers := map[string]string{} // by key
	var wg sync.WaitGroup
	enough := make(chan struct{})
	for sender := range 4 {
		wg.Go(func() {
			for i := 0; ; i++ {
				key := fmt.Sprintf("k-%d-%d", sender, i)
				res, err := p.do("POST", "/emails", with("tags", `[{"name":"message_id","value":"`+key+`"}]`), "Idempotency-Key", key)
				if err != nil {
					return // killed
				}
				mu.Lock()
				if answers[key] = res.body; len(answers) == 40 {
					close(enough)
				}
				mu.Unlock()
			}
		})
	}
	<-enough
	p.kill()
	wg.Wait()

	p = startProcess(t, file)
	l := p.ledger()
	counts := map[string]int{}
	for _, line := range l.Messages {
		counts[line.MessageID] = line.Count
	}
	for key, body := range answers {
		if counts[key] != 1 {
			t.Errorf("%s is there %d times", key, counts[key])
		}
		res := p.must("POST", "/emails", with("tags", `[{"name":"message_id","value":"`+key+`"}]`), "Idempotency-Key", key)
		if res.body != body {
			t.Errorf("replay of %s: %s; was %s", key, res.body, body)
		}
	}
	after := p.ledger().Counters
	if after.Accepted != l.Counters.Accepted || after.Replayed != len(answers) {
		t.Errorf("counters = %+v after %d replays; were %+v", after, len(answers), l.Counters)
	}
	if after.Answered < len(answers) {
		t.Errorf("%d answered, %d seen", after.Answered, len(answers))
	}
	if now := decode[map[string]time.Time](t, p.must("POST", "/_admin/clock", `{"advance":"0s"}`).body)["now"]; time.Until(now) < 59*time.Minute {
		t.Errorf("the clock forgot its advance: %s", now)
	}
	p.admin("reset", "")
	p.must("POST", "/emails", good)
	p.kill()
	if c := startProcess(t, file).ledger().Counters; c.Accepted != 1 {
		t.Errorf("after a reset, a mail and a kill: %+v", c)
	}
}

// A kill between acceptance and answer leaves an accepted mail whose key
// answers when it is used again.
func TestKillBeforeAnswer(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "journal")
	p := startProcess(t, file, "-latency", "1m")
	failed := make(chan error, 1)
	go func() {
		_, err := p.do("POST", "/emails", good, "Idempotency-Key", "k")
		failed <- err
	}()
	mails := decode[[]email](t, p.must("GET", "/_admin/mails?wait=30s", "").body)
	p.kill()
	if err := <-failed; err == nil {
		t.Fatal("it answered")
	}
	p = startProcess(t, file)
	if c := p.ledger().Counters; len(mails) != 1 || c.Accepted != 1 || c.Answered != 0 {
		t.Errorf("counters = %+v", c)
	}
	if res := p.must("POST", "/emails", good, "Idempotency-Key", "k"); !strings.Contains(res.body, mails[0].ID) {
		t.Errorf("%s %s", res.Status, res.body)
	}
	p.ledger() // once it answers, the answer before it is in the journal
	p.kill()
	if c := startProcess(t, file).ledger().Counters; c.Accepted != 1 || c.Answered != 1 {
		t.Errorf("counters = %+v", c)
	}
}

func TestTornLine(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "journal")
	p := startProcess(t, file)
	p.must("POST", "/emails", good)
	p.must("POST", "/emails", good)
	p.kill()
	whole, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	lines := bytes.SplitAfter(whole, []byte("\n"))
	torn := append(bytes.Clone(whole), lines[0][:len(lines[0])-1]...) // all but the newline
	if err := os.WriteFile(file, torn, 0o600); err != nil {
		t.Fatal(err)
	}
	p = startProcess(t, file)
	if c := p.ledger().Counters; c.Accepted != 2 {
		t.Errorf("counters = %+v", c)
	}
	p.must("POST", "/emails", good)
	p.kill()
	if c := startProcess(t, file).ledger().Counters; c.Accepted != 3 {
		t.Errorf("after the next mail: %+v", c)
	}

	broken := append([]byte("{\"accept\n"), whole...)
	if err := os.WriteFile(file, broken, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := newServer(options{}, file); err == nil || !strings.Contains(err.Error(), "line 1") {
		t.Errorf("a broken line that is not the last: %v", err)
	}
}

func TestStops(t *testing.T) {
	t.Parallel()
	for name, stop := range map[string]func(*process) error{
		"interrupt": func(p *process) error { return p.cmd.Process.Signal(os.Interrupt) },
		"stdin":     func(p *process) error { return p.stdin.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := startProcess(t, "", "-latency", "300ms")
			waiting, answered := make(chan error, 1), make(chan error, 1)
			go func() {
				_, err := p.do("GET", "/_admin/mails?to=nobody@b.dev&wait=1m", "")
				waiting <- err
			}()
			go func() {
				_, err := p.do("POST", "/emails", good)
				answered <- err
			}()
			p.must("GET", "/_admin/mails?to=ann@b.dev&wait=30s", "")
			if err := stop(p); err != nil {
				t.Fatal(err)
			}
			if err := p.cmd.Wait(); err != nil {
				t.Errorf("exit: %v", err)
			}
			if err := <-answered; err != nil {
				t.Errorf("a request under way: %v", err)
			}
			<-waiting
			http.DefaultClient.CloseIdleConnections()
		})
	}
}

func TestCommandLine(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		args []string
		code int
		says string
	}{
		{[]string{"-h"}, 0, "/_admin/ledger"},
		{[]string{"-port", "1"}, 2, "-port"},
		{[]string{"-latency", "9s-1s"}, 2, "shortest"},
		{[]string{"-rate", "-1"}, 1, "rate -1"},
		{[]string{"-api-key", ""}, 1, "-api-key"},
		{[]string{"extra"}, 1, "extra"},
		{[]string{"-journal", "/nowhere/at/all"}, 1, "open journal"},
		{[]string{"-addr", "127.0.0.1:99999"}, 1, "listen"},
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		cmd := exec.CommandContext(ctx, binary, tt.args...)
		out, err := cmd.CombinedOutput()
		cancel()
		if code := cmd.ProcessState.ExitCode(); code != tt.code || !strings.Contains(string(out), tt.says) {
			t.Errorf("%v: exit %d (%v), %s; want %d and %q", tt.args, code, err, out, tt.code, tt.says)
		}
	}
}
