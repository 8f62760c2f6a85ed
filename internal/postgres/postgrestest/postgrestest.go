// Package postgrestest gives tests a real PostgreSQL with our schema.
//
// A package that uses it has
//
//	func TestMain(m *testing.M) { postgrestest.Main(m) }
package postgrestest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"usher/internal/postgres"
)

// serverURL is the environment variable that names a server for all packages'
// tests, by the URL of its maintenance database. Its user must be a superuser.
const serverURL = "USHER_TEST_DATABASE_URL"

// templateLock is the advisory lock under which processes make the template.
const templateLock = 0x7E_57_DB // arbitrary, but the same in all of them

// patience bounds what is done before and after a test. The slowest is the
// first start, which may have to fetch PostgreSQL.
const patience = 5 * time.Minute

// running is what the tests of this process share, begun by the first that asks.
var running struct {
	main   bool // Main will end it
	server *postgres.Server
	dir    string // of server
	pool   *pgxpool.Pool
	shared *pgxpool.Pool
}

// Main runs a package's tests, ends what they shared, and exits. It is called
// from TestMain.
func Main(m *testing.M) {
	running.main = true
	code := m.Run()
	if err := end(); err != nil {
		fmt.Fprintln(os.Stderr, "postgrestest:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

// URL returns the URL of the maintenance database of the server that
// USHER_TEST_DATABASE_URL names, or else of one of this process, which is
// started when first asked for and forgets everything in the end.
func URL(t testing.TB) string {
	t.Helper()
	if !running.main {
		t.Fatal("TestMain must call postgrestest.Main")
	}
	u, err := maintenance()
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// DatabaseURL returns the URL of a new, empty database with our schema, for
// tests with processes of their own. It is dropped, whoever is connected, when
// the test ends.
func DatabaseURL(t testing.TB) string {
	t.Helper()
	u, err := url.Parse(URL(t))
	if err != nil {
		t.Fatal(err)
	}
	template, err := template()
	if err != nil {
		t.Fatal(err)
	}
	name := "test_" + strings.ToLower(rand.Text())
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if _, err := running.pool.Exec(ctx, `CREATE DATABASE `+name+` TEMPLATE `+template+copied(ctx)); err != nil {
		t.Fatalf("create test database: %v", err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if _, err := running.pool.Exec(ctx, `DROP DATABASE `+name+` WITH (FORCE)`); err != nil {
			t.Errorf("drop test database: %v", err)
		}
	})
	u.Path = "/" + name
	return u.String()
}

// copied returns how CREATE DATABASE is to copy the template: file by file, which
// is five times as fast as through the log where nothing is synced, and the only
// way PostgreSQL 14 knows.
func copied(ctx context.Context) string {
	var version int
	err := running.pool.QueryRow(ctx, `SELECT current_setting('server_version_num')::int`).Scan(&version)
	if err != nil || version < 15_00_00 {
		return ""
	}
	return ` STRATEGY file_copy`
}

// Database returns a pool on a new, empty database with our schema, for tests
// of what a transaction cannot show. It is closed, and the database dropped,
// when the test ends.
func Database(t testing.TB) *pgxpool.Pool {
	t.Helper()
	pool, err := pgxpool.New(t.Context(), DatabaseURL(t))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(pool.Close)
	return pool
}

// Begin returns a transaction on a database with our schema that all packages'
// tests share and leave empty: it is rolled back when the test ends. It cannot
// be used by two goroutines at once.
func Begin(t testing.TB) pgx.Tx {
	t.Helper()
	URL(t)
	pool, err := shared()
	if err != nil {
		t.Fatal(err)
	}
	tx, err := pool.Begin(t.Context())
	if err != nil {
		t.Fatalf("begin test transaction: %v", err)
	}
	ctx := context.WithoutCancel(t.Context()) // which is over before the clean-up
	t.Cleanup(func() {
		if err := tx.Rollback(ctx); err != nil {
			t.Errorf("roll back test transaction: %v", err)
		}
	})
	return tx
}

// maintenance returns the URL of the maintenance database, having connected
// running.pool to it.
var maintenance = sync.OnceValues(func() (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	u := os.Getenv(serverURL)
	if u == "" {
		if err := startServer(ctx); err != nil {
			return "", err
		}
		u = running.server.URL("postgres")
	}
	var err error
	if running.pool, err = pgxpool.New(ctx, u); err != nil {
		return "", fmt.Errorf("connect to test server: %w", err)
	}
	return u, nil
})

// startServer starts a server for this process. Should it have to fetch
// PostgreSQL, other packages' tests find it afterwards.
func startServer(ctx context.Context) (err error) {
	if running.dir, err = os.MkdirTemp("", "ushertest-"); err != nil {
		return fmt.Errorf("start test server: %w", err)
	}
	cache, err := os.UserCacheDir()
	if err != nil {
		return fmt.Errorf("start test server: %w", err)
	}
	running.server, err = postgres.StartServer(ctx, postgres.ServerOptions{
		Dir:      running.dir,
		Programs: filepath.Join(cache, "usher", "postgresql"),
		Volatile: true,
		Progress: func(sentence string) { fmt.Fprintln(os.Stderr, sentence) },
	})
	return err
}

// template returns the name of the database that test databases are copied
// from. It is made once per server and schema: another schema has another name.
var template = sync.OnceValues(func() (name string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	conn, err := running.pool.Acquire(ctx)
	if err != nil {
		return "", fmt.Errorf("connect to test server: %w", err)
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock($1)`, templateLock); err != nil {
		return "", fmt.Errorf("lock template database: %w", err)
	}
	defer func() {
		_, unlockErr := conn.Exec(ctx, `SELECT pg_advisory_unlock($1)`, templateLock)
		err = errors.Join(err, unlockErr)
	}()

	name = "usher_template_" + postgres.SchemaHash()
	var made bool
	if err := conn.QueryRow(ctx, `SELECT EXISTS (SELECT FROM pg_database WHERE datname = $1)`, name).Scan(&made); err != nil {
		return "", fmt.Errorf("look for template database: %w", err)
	}
	if made {
		return name, nil
	}
	// It gets its name when it is complete.
	draft := name + "_draft"
	for _, statement := range []string{
		`DROP DATABASE IF EXISTS ` + draft + ` WITH (FORCE)`, // a killed run's
		`CREATE DATABASE ` + draft,
	} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return "", fmt.Errorf("create template database: %w", err)
		}
	}
	if err := migrate(ctx, conn.Conn().Config(), draft); err != nil {
		return "", err
	}
	for _, statement := range []string{
		`ALTER DATABASE ` + draft + ` ALLOW_CONNECTIONS false`, // a connected one cannot be copied
		`ALTER DATABASE ` + draft + ` RENAME TO ` + name,
	} {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return "", fmt.Errorf("create template database: %w", err)
		}
	}
	return name, nil
})

// shared gives the pool of this process on the database that test transactions
// begin on. Like the template it is made once per server and schema.
var shared = sync.OnceValues(func() (*pgxpool.Pool, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	template, err := template()
	if err != nil {
		return nil, err
	}
	name := "usher_shared_" + postgres.SchemaHash()
	if _, err := running.pool.Exec(ctx, `CREATE DATABASE `+name+` TEMPLATE `+template); err != nil && !exists(err) {
		return nil, fmt.Errorf("create shared test database: %w", err)
	}
	config := running.pool.Config()
	config.ConnConfig.Database = name
	running.shared, err = pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("connect to shared test database: %w", err)
	}
	return running.shared, nil
})

// exists tells whether a database could not be created because it is there, or
// is being made by another process at this moment.
func exists(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && (pgErr.Code == "42P04" || pgErr.Code == "23505") // duplicate_database, unique_violation
}

// migrate gives the database, on the server of config, our schema.
func migrate(ctx context.Context, config *pgx.ConnConfig, database string) error {
	options, err := pgxpool.ParseConfig(config.ConnString())
	if err != nil {
		return fmt.Errorf("connect to template database: %w", err)
	}
	options.ConnConfig.Database = database
	pool, err := pgxpool.NewWithConfig(ctx, options)
	if err != nil {
		return fmt.Errorf("connect to template database: %w", err)
	}
	defer pool.Close()
	return postgres.Migrate(ctx, pool)
}

// end ends what the tests shared.
func end() error {
	for _, pool := range []*pgxpool.Pool{running.shared, running.pool} {
		if pool != nil {
			pool.Close()
		}
	}
	var err error
	if running.server != nil {
		err = running.server.Stop()
	}
	if running.dir != "" {
		err = errors.Join(err, os.RemoveAll(running.dir))
	}
	return err
}
