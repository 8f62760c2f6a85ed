package main

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"usher/internal/postgres/postgrestest"
)

// TestRefusals starts usher in ways that cannot work. Every answer names what
// is wrong and a way out, and touches nothing.
func TestRefusals(t *testing.T) {
	t.Parallel()
	good := environment("postgres://usher@localhost:1/usher")
	without := func(name string) []string {
		var env []string
		for _, entry := range good {
			if !strings.HasPrefix(entry, name+"=") {
				env = append(env, entry)
			}
		}
		return env
	}
	with := func(more ...string) []string { return append(without(""), more...) } // the last one of a name counts
	for _, c := range []struct {
		env  []string
		args string
		want []string // parts of what is said
	}{
		{without("DATABASE_URL"), "web", []string{"DATABASE_URL is missing", "postgres://"}},
		{without("DATABASE_URL"), "worker", []string{"DATABASE_URL is missing"}},
		{without("DATABASE_URL"), "migrate", []string{"DATABASE_URL is missing"}},
		{without("DATABASE_URL"), "apps list", []string{"DATABASE_URL is missing"}},
		{without("USHER_SECRET"), "web", []string{"USHER_SECRET is missing", "openssl rand"}},
		{without("USHER_URL"), "worker", []string{"USHER_URL is missing", "https://"}},
		{nil, "web", []string{"DATABASE_URL is missing", "USHER_SECRET is missing", "USHER_URL is missing"}},
		{with("DATABASE_URL=hello"), "web", []string{"DATABASE_URL", "hello", "postgres://"}},
		{with("DATABASE_URL=postgres://u:hunter2@h/d?sslmode=loud"), "migrate", []string{"DATABASE_URL", "sslmode"}},
		{with("USHER_SECERT=x"), "web", []string{"USHER_SECERT is not a setting", "did you mean USHER_SECRET?"}},
		{with("USHER_MAIL_FORM=x"), "run", []string{"USHER_MAIL_FORM is not a setting", "did you mean USHER_MAIL_FROM?"}},
		{with("USHER_PASSWORD=x"), "worker", []string{"did you mean USHER_OPS_PASSWORD?"}},
		{with("USHER_DEVS=1", "PORT=http"), "migrate", []string{"USHER_DEVS", "did you mean USHER_DEV?", `PORT is "http"`}},
		{with("USHER_SECRET=short"), "web", []string{"USHER_SECRET", "5 characters", "32"}},
		{with("USHER_SECRET=" + testSecret + ",again"), "worker", []string{"USHER_SECRET", "secret 2"}},
		{with("USHER_URL=invite.example"), "web", []string{"USHER_URL", `"invite.example"`, "https://"}},
		{with("USHER_URL=https://invite.example/?a=b"), "web", []string{"USHER_URL"}},
		{with("USHER_MAIL_FROM=Usher"), "worker", []string{"USHER_MAIL_FROM", `"Usher"`, "<hello@example.org>"}},
		{with("RESEND_API_KEY=re_123"), "worker", []string{"USHER_MAIL_FROM is missing", "RESEND_API_KEY"}},
		{with("RESEND_BASE_URL=resend"), "worker", []string{"RESEND_BASE_URL", `"resend"`, "https://"}},
		{with("RESEND_WEBHOOK_SECRET=abc"), "web", []string{"RESEND_WEBHOOK_SECRET", "secret 1", "whsec_"}},
		{with("RESEND_WEBHOOK_SECRET=whsec_c2l4dGVlbiBsZXR0ZXJzIQ==,"), "worker", []string{"RESEND_WEBHOOK_SECRET", "secret 2"}},
		{with("PORT=99999"), "web", []string{`PORT is "99999"`, "65535"}},
		{with("PORT=-1"), "run", []string{`PORT is "-1"`}},
		{with("USHER_DEV=maybe"), "web", []string{"USHER_DEV", `"maybe"`, "1 or 0"}},
		{with("LOG_LEVEL=loud"), "web", []string{"LOG_LEVEL", `"loud"`, "debug, info, warn"}},
		{with("LOG_FORMAT=xml"), "worker", []string{"LOG_FORMAT", `"xml"`, "json or text"}},

		{good, "wbe", []string{`no command "wbe"`, `did you mean "web"?`, "usher --help"}},
		{good, "foo", []string{`no command "foo"`, "usher --help"}},
		{good, "keys revok", []string{`no command "revok"`, `did you mean "revoke"?`, "usher keys --help"}},
		{good, "web now", []string{"takes no arguments", "usher web --help"}},
		{good, "worker --fast", []string{"--fast", "usher worker --help"}},
		{good, "apps create", []string{"--name is missing"}},
		{good, "keys create --app harbour", []string{"--app", `"harbour"`}},
		{good, "keys revoke", []string{"usher keys list"}},
		{good, "postgres", []string{"name a command after --", "usher postgres --help"}},
	} {
		t.Run(c.args+" "+strings.Join(c.want[:1], ""), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			p := command(t, dir, c.env, strings.Fields(c.args)...).toEnd(t)
			if code := p.ProcessState.ExitCode(); code != exitUsage {
				t.Errorf("ended with code %d, want %d", code, exitUsage)
			}
			said := p.stderr.String()
			for _, part := range c.want {
				if !strings.Contains(said, part) {
					t.Errorf("said %q, want it to name %q", said, part)
				}
			}
			if strings.Contains(said, "hunter2") {
				t.Errorf("said a password: %q", said)
			}
			if p.stdout.String() != "" {
				t.Errorf("printed %q", p.stdout.String())
			}
		})
	}
}

// TestHelp asks every command what it is for.
func TestHelp(t *testing.T) {
	t.Parallel()
	for _, args := range []string{
		"", "run", "web", "worker", "migrate", "openapi", "postgres",
		"apps", "apps create", "apps list", "keys", "keys create", "keys list", "keys revoke",
	} {
		// An environment that no command would start with must not keep help back.
		p := command(t, t.TempDir(), []string{"USHER_WRONG=1"}, append(strings.Fields(args), "--help")...).toEnd(t)
		said := p.stdout.String()
		if code := p.ProcessState.ExitCode(); code != 0 || p.stderr.String() != "" {
			t.Errorf("usher %s --help ended with code %d and said %q", args, code, p.stderr.String())
		}
		if want := strings.TrimSpace("usher " + args); !strings.Contains(said, "Usage:\n  "+want) || strings.HasPrefix(said, "Usage") {
			t.Errorf("usher %s --help does not say what it is and how it is used:\n%s", args, said)
		}
	}
}

func TestPortInUse(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	port := taken.Addr().(*net.TCPAddr).Port
	env := append(environment("postgres://usher@localhost:1/usher"), fmt.Sprintf("PORT=%d", port))
	for _, name := range []string{"run", "web"} {
		p := command(t, t.TempDir(), env, name).toEnd(t)
		said := p.stderr.String()
		if code := p.ProcessState.ExitCode(); code != exitFailure || strings.Count(said, "\n") != 1 ||
			!strings.Contains(said, fmt.Sprintf("port %d is taken", port)) || !strings.Contains(said, "PORT=") {
			t.Errorf("usher %s on a taken port ended with code %d and said %q", name, code, said)
		}
	}
}

// TestSchemaRefused starts web and worker on databases they do not fit.
func TestSchemaRefused(t *testing.T) {
	t.Parallel()
	change := func(t *testing.T, database, statement string) {
		t.Helper()
		conn, err := pgx.Connect(t.Context(), database)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close(t.Context())
		if _, err := conn.Exec(t.Context(), statement); err != nil {
			t.Fatal(err)
		}
	}
	for _, c := range []struct{ name, statement, want string }{
		{"nothing migrated", `DROP TABLE usher_migration`, "run 'usher migrate' first"},
		{"newer", `INSERT INTO usher_migration (version, name) VALUES (9999, '9999_later.sql')`, "newer than this program's"},
		{"another River", `DELETE FROM river_migration WHERE version = (SELECT max(version) FROM river_migration)`, "run 'usher migrate' first"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			env := environment(postgrestest.DatabaseURL(t))
			change(t, strings.TrimPrefix(env[0], "DATABASE_URL="), c.statement)
			for _, name := range []string{"web", "worker"} {
				p := command(t, t.TempDir(), env, name).toEnd(t)
				said := p.stderr.String()
				if code := p.ProcessState.ExitCode(); code != exitFailure || !strings.Contains(said, c.want) {
					t.Errorf("usher %s ended with code %d and said %q; want it to say %q", name, code, said, c.want)
				}
				if strings.Contains(said, "answers") || strings.Contains(said, "at work") {
					t.Errorf("usher %s began before it looked at the schema: %s", name, said)
				}
			}
		})
	}
}

// TestJSONLog reads every line of a web and a worker process as JSON.
func TestJSONLog(t *testing.T) {
	t.Parallel()
	env := environment(postgrestest.DatabaseURL(t))
	web, worker := start(t, t.TempDir(), env, "web"), start(t, t.TempDir(), env, "worker")
	worker.logged(t, "workers are at work")
	s := newSite(t, env, newBalancer(web.address(t)))
	inv := s.invite(t, someAddress(), "Ann Okafor", "en")
	_, token, _ := strings.Cut(inv.Link, "/i/")
	s.must(t, http.MethodGet, "/i/"+token, nil, nil)
	web.logged(t, "request")
	web.finish(t)
	worker.finish(t)
	for name, log := range map[string]string{"web": web.stderr.String(), "worker": worker.stderr.String()} {
		for line := range strings.Lines(log) {
			var entry struct{ Level, Time, Message string }
			if err := json.Unmarshal([]byte(line), &entry); err != nil || entry.Level == "" || entry.Time == "" || entry.Message == "" {
				t.Errorf("%s logs %q (%v); want JSON with level, time and message", name, line, err)
			}
		}
		if strings.Contains(log, token) || strings.Contains(log, s.key) {
			t.Errorf("%s logs a link or a key:\n%s", name, log)
		}
	}
}

// TestTextLog reads the log for people where it is not a terminal's: without
// the codes that colour it.
func TestTextLog(t *testing.T) {
	t.Parallel()
	env := environment(postgrestest.DatabaseURL(t), "LOG_FORMAT=text")
	worker := start(t, t.TempDir(), env, "worker")
	eventually(t, "the worker begins", func() (bool, error) {
		return strings.Contains(worker.stderr.String(), "workers are at work"), nil
	})
	worker.finish(t)
	log := worker.stderr.String()
	if strings.Contains(log, "\x1b") || strings.Contains(log, `"level"`) {
		t.Errorf("the log for people is %q", log)
	}
	if !strings.Contains(log, "RESEND_API_KEY is not set") {
		t.Errorf("the log does not say that mail goes nowhere: %q", log)
	}
}

// TestKeys makes a key by hand, lists and revokes it.
func TestKeys(t *testing.T) {
	t.Parallel()
	env := environment(postgrestest.DatabaseURL(t))
	web := start(t, t.TempDir(), env, "web")
	s := newSite(t, env, newBalancer(web.address(t)))
	var apps []struct{ ID, Name string }
	handTool(t, env, &apps, "apps", "list")
	if len(apps) != 1 || apps[0].Name != "Lighthouse" {
		t.Fatalf("apps list: %+v", apps)
	}
	second := s
	var made struct{ ID, Key string }
	handTool(t, env, &made, "keys", "create", "--app", apps[0].ID, "--name", "second")
	second.key = made.Key
	second.must(t, http.MethodGet, "/v1/invitations", nil, nil)

	tool := func(args ...string) string {
		t.Helper()
		p := command(t, t.TempDir(), env, args...).toEnd(t)
		if code := p.ProcessState.ExitCode(); code != 0 {
			t.Fatalf("usher %s ended with code %d: %s", strings.Join(args, " "), code, p.stderr.String())
		}
		return p.stdout.String()
	}
	table := tool("keys", "list", "--app", apps[0].ID)
	if !strings.Contains(table, made.ID) || !strings.Contains(table, "second") || strings.Contains(table, made.Key) {
		t.Errorf("keys list shows\n%s\nwant id, name and not the key itself", table)
	}
	tool("keys", "revoke", made.ID)
	eventually(t, "the revoked key stops working", func() (bool, error) {
		err := second.call(t.Context(), http.MethodGet, "/v1/invitations", nil, nil)
		return err != nil && strings.Contains(err.Error(), "401"), nil
	})
	s.must(t, http.MethodGet, "/v1/invitations", nil, nil)
	p := command(t, t.TempDir(), env, "keys", "create", "--app", made.ID).toEnd(t) // an id, of no app
	if code := p.ProcessState.ExitCode(); code != exitFailure || !strings.HasPrefix(p.stderr.String(), "usher: ") {
		t.Errorf("a key for no app ended with code %d and %q", code, p.stderr.String())
	}
	web.finish(t)
}
