package postgres_test

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"usher/internal/postgres"
	"usher/internal/postgres/postgrestest"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

var update = flag.Bool("update", false, "write migrations/schema.sql anew")

// emptyDatabase is a pool on a new database without any schema.
func emptyDatabase(t *testing.T) *pgxpool.Pool {
	t.Helper()
	ctx := t.Context()
	server, err := pgx.Connect(ctx, postgrestest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	name := "test_empty_" + strings.ToLower(rand.Text())
	if _, err := server.Exec(ctx, `CREATE DATABASE `+name); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx := context.WithoutCancel(ctx)
		if _, err := server.Exec(ctx, `DROP DATABASE `+name+` WITH (FORCE)`); err != nil {
			t.Errorf("drop test database: %v", err)
		}
		server.Close(ctx)
	})
	u, err := url.Parse(postgrestest.URL(t))
	if err != nil {
		t.Fatal(err)
	}
	u.Path = "/" + name
	pool, err := pgxpool.New(ctx, u.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

func execute(t *testing.T, pool *pgxpool.Pool, sql string, args ...any) {
	t.Helper()
	if _, err := pool.Exec(t.Context(), sql, args...); err != nil {
		t.Fatal(err)
	}
}

func TestMigrateFromNothingAndAgain(t *testing.T) {
	t.Parallel()
	pool := emptyDatabase(t)
	for _, run := range []string{"first", "second"} {
		if err := postgres.Migrate(t.Context(), pool); err != nil {
			t.Fatalf("%s run: %v", run, err)
		}
		if err := postgres.CheckSchema(t.Context(), pool); err != nil {
			t.Fatalf("after the %s run: %v", run, err)
		}
	}
	if have, want := dump(t, pool), dump(t, postgrestest.Database(t)); have != want {
		t.Error("the schema differs from that of the test databases")
	}
}

func TestMigrateAtOnce(t *testing.T) {
	t.Parallel()
	pool := emptyDatabase(t)
	const processes = 6
	ended := make(chan error, processes)
	for range processes {
		go func() {
			own, err := pgxpool.New(t.Context(), pool.Config().ConnString())
			if err != nil {
				ended <- err
				return
			}
			defer own.Close()
			ended <- postgres.Migrate(t.Context(), own)
		}()
	}
	for range processes {
		if err := <-ended; err != nil {
			t.Error(err)
		}
	}
	if err := postgres.CheckSchema(t.Context(), pool); err != nil {
		t.Error(err)
	}
	var locks int
	if err := pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
		AND database = (SELECT oid FROM pg_database WHERE datname = current_database())`).Scan(&locks); err != nil || locks != 0 {
		t.Errorf("%d migration locks are still held (%v)", locks, err)
	}
}

// TestMigrateStepsAreWhole breaks a step in its middle: nothing of it stays, the
// lock is given back, and the next run can mend it.
func TestMigrateStepsAreWhole(t *testing.T) {
	t.Parallel()
	pool := emptyDatabase(t)
	execute(t, pool, `CREATE TABLE session (in_the_way int)`) // the first step's last table
	if err := postgres.Migrate(t.Context(), pool); err == nil || !strings.Contains(err.Error(), "0001_first.sql") {
		t.Fatalf("migrating over a table in the way: %v, want an error that names the step", err)
	}
	var left int
	if err := pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_tables WHERE schemaname = 'public'`).Scan(&left); err != nil || left != 2 {
		t.Errorf("%d tables after a failed step (%v), want session and usher_migration", left, err)
	}
	execute(t, pool, `DROP TABLE session`)
	if err := postgres.Migrate(t.Context(), pool); err != nil {
		t.Error(err)
	}
}

func TestCheckSchemaRefuses(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		change string
		texts  []string // that the error tells
	}{
		"an older one": {`DELETE FROM usher_migration WHERE version = (SELECT max(version) FROM usher_migration)`, []string{"needs", "usher migrate"}},
		"a newer one":  {`INSERT INTO usher_migration (version, name) VALUES (9999, 'later')`, []string{"9999", "newer than this program's", "deploy"}},
		"none of ours": {`DROP TABLE usher_migration`, []string{"version 0", "usher migrate"}},
		"an older one of River": {
			`DELETE FROM river_migration WHERE version = (SELECT max(version) FROM river_migration)`,
			[]string{"River", "usher migrate"},
		},
		"a newer one of River": {`INSERT INTO river_migration (line, version) VALUES ('main', 9999)`, []string{"River", "9999", "newer than this program's", "deploy"}},
		"none of River":        {`DROP TABLE river_migration`, []string{"River", "version 0", "usher migrate"}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := postgrestest.Database(t)
			execute(t, pool, test.change)
			err := postgres.CheckSchema(t.Context(), pool)
			if err == nil {
				t.Fatal("accepted")
			}
			for _, text := range test.texts {
				if !strings.Contains(err.Error(), text) {
					t.Errorf("error %q does not say %q", err, text)
				}
			}
		})
	}
}

func TestMigrateRefusesNewerSchema(t *testing.T) {
	t.Parallel()
	pool := postgrestest.Database(t)
	execute(t, pool, `INSERT INTO usher_migration (version, name) VALUES (9999, 'later')`)
	if err := postgres.Migrate(t.Context(), pool); err == nil || !strings.Contains(err.Error(), "newer") {
		t.Errorf("migrating a newer schema: %v", err)
	}
}

func TestCheckSchemaWithoutDatabase(t *testing.T) {
	t.Parallel()
	pool, err := pgxpool.New(t.Context(), "postgres://nobody@127.0.0.1:1/nothing?connect_timeout=1")
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if err := postgres.CheckSchema(t.Context(), pool); err == nil {
		t.Error("a database that does not answer has the right schema")
	}
}

const schemaFile = "../../migrations/schema.sql"

// TestSchemaDump compares the schema that the migrations build, River's
// included, with the committed one, so that a change of either shows in review.
func TestSchemaDump(t *testing.T) {
	t.Parallel()
	have := dump(t, postgrestest.Database(t))
	if *update {
		if err := os.WriteFile(schemaFile, []byte(have), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(schemaFile)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if have != string(want) {
		t.Errorf("%s is not what the migrations build, from this line on; run 'make schema':\n%s", schemaFile, firstDifference(have, string(want)))
	}
}

// firstDifference shows where two texts part.
func firstDifference(have, want string) string {
	h, w := strings.Split(have, "\n"), strings.Split(want, "\n")
	for i := range h {
		if i >= len(w) || h[i] != w[i] {
			committed := "(nothing)"
			if i < len(w) {
				committed = w[i]
			}
			return "built:     " + h[i] + "\ncommitted: " + committed
		}
	}
	return "the committed file has more lines"
}

// dump describes the schema public in SQL. It reads the catalog: pg_dump says
// the same in other words from one version to the next, and has to be there.
func dump(t *testing.T, pool *pgxpool.Pool) string {
	t.Helper()
	rows, err := pool.Query(t.Context(), dumpSQL)
	if err != nil {
		t.Fatal(err)
	}
	parts, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		t.Fatal(err)
	}
	if len(parts) == 0 {
		t.Fatal("the database is empty")
	}
	return "-- The schema that the migrations build, River's tables included.\n-- Written by 'make schema'; do not edit.\n\n" +
		strings.Join(parts, "\n\n") + "\n"
}

// dumpSQL gives types, functions, and tables with all that hangs on them, in
// the order of their names.
const dumpSQL = `
WITH mine AS (
	SELECT c.oid, c.relname, c.relpersistence FROM pg_class c
	WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'r'
), lines AS (
	SELECT a.attrelid AS oid, 1 AS rank, a.attnum::text AS place, format('    %I %s%s%s', a.attname, format_type(a.atttypid, a.atttypmod),
		CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END,
		CASE WHEN d.oid IS NULL THEN '' ELSE ' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid) END) AS line, a.attnum AS n
	FROM pg_attribute a JOIN mine ON mine.oid = a.attrelid
	LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
	WHERE a.attnum > 0 AND NOT a.attisdropped
	UNION ALL
	SELECT c.conrelid, 2, c.conname, format('    CONSTRAINT %I %s', c.conname, pg_get_constraintdef(c.oid)), 0
	FROM pg_constraint c JOIN mine ON mine.oid = c.conrelid
	WHERE c.contype <> 'n' -- PostgreSQL 18 also lists NOT NULL here
), after AS (
	SELECT i.indrelid AS oid, 1 AS rank, x.relname AS place, pg_get_indexdef(i.indexrelid) || ';' AS line
	FROM pg_index i JOIN mine ON mine.oid = i.indrelid JOIN pg_class x ON x.oid = i.indexrelid
	WHERE NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid AND c.contype IN ('p', 'u', 'x'))
	UNION ALL
	SELECT t.tgrelid, 2, t.tgname, pg_get_triggerdef(t.oid) || ';'
	FROM pg_trigger t JOIN mine ON mine.oid = t.tgrelid WHERE NOT t.tgisinternal
)
SELECT part FROM (
	SELECT 1 AS rank, t.typname AS name, format(E'CREATE TYPE %I AS ENUM (\n%s\n);', t.typname,
		(SELECT string_agg('    ' || quote_literal(e.enumlabel), E',\n' ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = t.oid)) AS part
	FROM pg_type t WHERE t.typnamespace = 'public'::regnamespace AND t.typtype = 'e'
	UNION ALL
	SELECT 2, p.proname, rtrim(pg_get_functiondef(p.oid), E'\n') || ';'
	FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace
	UNION ALL
	SELECT 3, mine.relname, format(E'CREATE %sTABLE %I (\n%s\n);', CASE mine.relpersistence WHEN 'u' THEN 'UNLOGGED ' ELSE '' END, mine.relname,
		(SELECT string_agg(line, E',\n' ORDER BY rank, n, place COLLATE "C") FROM lines WHERE lines.oid = mine.oid))
		|| COALESCE((SELECT E'\n' || string_agg(line, E'\n' ORDER BY rank, place COLLATE "C") FROM after WHERE after.oid = mine.oid), '')
	FROM mine
) parts
ORDER BY rank, name COLLATE "C"`
