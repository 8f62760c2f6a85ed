package web

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// clientFolder is where "make node" installs what TypeScript needs.
const clientFolder = "../.usher/client"

// TestReadmeCalls runs the README's calls as they stand there, in each
// language, against a server: they print the link and the state.
func TestReadmeCalls(t *testing.T) {
	t.Parallel()
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, found := strings.Cut(string(readme), "## The three calls an app needs\n")
	if !found {
		t.Fatal("the README has no section of the three calls")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	for language, run := range map[string]func(t *testing.T, s *site, code string) *exec.Cmd{
		"sh": func(t *testing.T, _ *site, code string) *exec.Cmd {
			return exec.CommandContext(t.Context(), "sh", "-euc", code)
		},
		"go": func(t *testing.T, _ *site, code string) *exec.Cmd {
			dir := t.TempDir()
			write(t, dir, "main.go", code)
			write(t, dir, "go.mod", "module app\n\ngo 1.26\n")
			mustRun(t, dir, "go", "vet", ".")
			return command(t, dir, "go", "run", ".")
		},
		"ts": func(t *testing.T, s *site, code string) *exec.Cmd {
			installed, err := filepath.Abs(filepath.Join(clientFolder, "node_modules"))
			if err != nil {
				t.Fatal(err)
			}
			if _, err := os.Stat(filepath.Join(installed, "typescript")); err != nil {
				t.Fatal("The TypeScript compiler is not installed: run 'make node', which installs it.")
			}
			dir := t.TempDir()
			if err := os.Symlink(installed, filepath.Join(dir, "node_modules")); err != nil {
				t.Fatal(err)
			}
			write(t, dir, "package.json", `{"type":"module"}`)
			write(t, dir, "app.ts", code)
			const options = "--default-non-nullable=false -o usher.d.ts"
			if !strings.Contains(section, "`npx openapi-typescript $USHER/openapi.json "+options+"`") {
				t.Errorf("the README makes the types in another way than with %s", options)
			}
			mustRun(t, dir, "node", append([]string{"node_modules/openapi-typescript/bin/cli.js", s.base + "/openapi.json"}, strings.Fields(options)...)...)
			mustRun(t, dir, "node", "node_modules/typescript/bin/tsc", "--strict", "--module", "nodenext", "--target", "es2022", "--types", "node", "app.ts")
			return command(t, dir, "node", "app.js")
		},
	} {
		t.Run(language, func(t *testing.T) {
			t.Parallel()
			_, code, found := strings.Cut(section, "\n```"+language+"\n")
			if !found {
				t.Fatalf("the README has no calls in %s", language)
			}
			code, _, _ = strings.Cut(code, "\n```\n")
			s := newSite(t)
			cmd := run(t, s, code+"\n")
			cmd.Env = append(os.Environ(), "USHER="+s.base, "KEY="+s.key, "ACTOR="+s.actor.ID.String(), "WORKSPACE="+s.workspace.ID.String())
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v: %s", err, out)
			}
			lines := strings.Fields(string(out))
			if len(lines) != 2 || !strings.HasPrefix(lines[0], s.base+"/i/") || lines[1] != "pending" {
				t.Errorf("it prints %q, want the link and the state", out)
			}
			events := read[string](s, `SELECT string_agg(type, ' ' ORDER BY id) FROM event WHERE subject_id = (SELECT id FROM invitation)`)
			if events != "invitation.created invitation.link_copied" {
				t.Errorf("events are %s", events)
			}
		})
	}
}

func write(t *testing.T, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func command(t *testing.T, dir, name string, args ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Dir = dir
	return cmd
}

func mustRun(t *testing.T, dir, name string, args ...string) {
	t.Helper()
	if out, err := command(t, dir, name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v: %s", name, args, err, out)
	}
}
