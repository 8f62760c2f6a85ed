package main

import (
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// TestPostgresRunsACommand looks at what the command gets, and at what is left
// when it ends.
func TestPostgresRunsACommand(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	p := command(t, dir, nil, "postgres", "--volatile", "--",
		"sh", "-c", `echo "$DATABASE_URL $USHER_TEST_DATABASE_URL"; cat; exit 7`)
	p.Stdin = strings.NewReader("from standard input\n")
	p.toEnd(t)
	if code := p.ProcessState.ExitCode(); code != 7 {
		t.Errorf("ended with code %d, want the command's 7: %s", code, p.stderr.String())
	}
	first, second, _ := strings.Cut(p.stdout.String(), "\n")
	url, same, _ := strings.Cut(first, " ")
	if !strings.HasPrefix(url, "postgres://") || same != url || second != "from standard input\n" {
		t.Errorf("the command printed %q", p.stdout.String())
	}
	noPostgres(t, dir)

	// The same data serves again, and a command that cannot start is an error.
	p = command(t, dir, nil, "postgres", "--", "no-such-program").toEnd(t)
	if code := p.ProcessState.ExitCode(); code != exitFailure || !strings.Contains(p.stderr.String(), "no-such-program") {
		t.Errorf("a missing program ended with code %d and %q", code, p.stderr.String())
	}
	if p := command(t, dir, nil, "postgres", "--", "false").toEnd(t); p.ProcessState.ExitCode() != 1 || strings.Contains(p.stderr.String(), "usher:") {
		t.Errorf("false ended with code %d and %q", p.ProcessState.ExitCode(), p.stderr.String())
	}
	noPostgres(t, dir)
}

// TestPostgresIsStopped ends the command from outside: by Ctrl-C, which the
// terminal sends to the whole process group, and by a signal to usher alone.
func TestPostgresIsStopped(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name   string
		group  bool
		signal syscall.Signal
	}{
		{"Ctrl-C", true, syscall.SIGINT},
		{"SIGTERM to usher", false, syscall.SIGTERM},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			dir := tempDir(t)
			p := command(t, dir, nil, "postgres", "--volatile", "--",
				"sh", "-c", `trap 'echo told; exit 3' INT TERM; echo $$; while :; do sleep 0.1; done`)
			p.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			p.begin(t)
			eventually(t, "the command starts", func() (bool, error) {
				return strings.Contains(p.stdout.String(), "\n"), nil
			})
			target := p.Process.Pid
			if c.group {
				target = -target
			}
			if err := syscall.Kill(target, c.signal); err != nil {
				t.Fatal(err)
			}
			if code := p.wait(t, graceTime); code != 3 {
				t.Errorf("ended with code %d, want the command's 3: %s", code, p.stderr.String())
			}
			text, said, _ := strings.Cut(p.stdout.String(), "\n")
			if said != "told\n" {
				t.Errorf("the command said %q, want it to be told once", said)
			}
			pid, err := strconv.Atoi(text)
			if err != nil {
				t.Fatal(err)
			}
			if child, err := os.FindProcess(pid); err == nil && child.Signal(syscall.Signal(0)) == nil {
				t.Errorf("the command, process %d, is left", pid)
			}
			noPostgres(t, dir)
		})
	}
}
