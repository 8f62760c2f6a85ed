package postgrestest

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

func TestMain(m *testing.M) { Main(m) }

func TestDatabase(t *testing.T) {
	t.Parallel()
	pool := Database(t)
	if err := postgres.CheckSchema(t.Context(), pool); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.Exec(t.Context(), `CREATE TABLE only_here ()`); err != nil {
		t.Fatal(err)
	}
	var exists bool
	if err := Database(t).QueryRow(t.Context(), `SELECT to_regclass('only_here') IS NOT NULL`).Scan(&exists); err != nil {
		t.Fatal(err)
	}
	if exists {
		t.Error("a table of one test is in another's database")
	}
}

func TestDatabaseIsDropped(t *testing.T) {
	t.Parallel()
	var u string
	t.Run("connected", func(t *testing.T) {
		u = DatabaseURL(t)
		if _, err := pgx.Connect(t.Context(), u); err != nil { // and stays so
			t.Fatal(err)
		}
	})
	if conn, err := pgx.Connect(t.Context(), u); err == nil {
		conn.Close(t.Context())
		t.Error("the database outlived its test")
	}
}

// childServer holds the URL of a server without a template, for processes that
// race to make it.
const childServer = "USHER_TEST_RACE"

func TestProcessesMakeOneTemplate(t *testing.T) {
	t.Parallel()
	if os.Getenv(childServer) != "" {
		Database(t)
		return
	}
	dir := t.TempDir()
	server, err := postgres.StartServer(t.Context(), postgres.ServerOptions{Dir: dir, Volatile: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.Stop() })
	conn, err := pgx.Connect(t.Context(), server.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	// What a process leaves that was killed while it made one.
	draft := "usher_template_" + postgres.SchemaHash() + "_draft"
	if _, err := conn.Exec(t.Context(), `CREATE DATABASE `+draft); err != nil {
		t.Fatal(err)
	}

	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	const processes = 4
	ended := make(chan error, processes)
	for range processes {
		go func() {
			child := exec.Command(program, "-test.run=^TestProcessesMakeOneTemplate$", "-test.v")
			child.Env = append(os.Environ(), childServer+"=1", serverURL+"="+server.URL("postgres"))
			out, err := child.CombinedOutput()
			if err == nil && !bytes.Contains(out, []byte("--- PASS")) {
				err = fmt.Errorf("nothing passed")
			}
			if err != nil {
				err = fmt.Errorf("%w: %s", err, out)
			}
			ended <- err
		}()
	}
	for range processes {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	rows, err := conn.Query(t.Context(), `SELECT datname::text FROM pg_database WHERE datname LIKE 'usher%' OR datname LIKE 'test%'`)
	if err != nil {
		t.Fatal(err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	if want := strings.TrimSuffix(draft, "_draft"); len(names) != 1 || names[0] != want {
		t.Errorf("databases %q, want %q only", names, want)
	}
	if err := conn.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
}
