package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"

	"usher/migrations"
)

// riverVersion is the version of River's own schema this binary is built and
// tested with. It is pinned, not "newest", so that a dependency's update shows
// up as a change of ours.
const riverVersion = 8

// migrationLock is the advisory lock that lets one process migrate at a time.
const migrationLock = 0x05_4E_12 // arbitrary, but the same in every release

// undefinedTable is what Postgres answers where nothing was migrated yet.
const undefinedTable = "42P01"

type migration struct {
	version int
	name    string
	sql     string
}

// steps are our migrations in order. A file whose name has no number, or a gap
// in the numbers, is a mistake in the build and ends the process.
var steps = func() []migration {
	names, err := fs.Glob(migrations.Files, "[0-9]*.sql")
	if err != nil {
		panic(err)
	}
	slices.Sort(names)
	var all []migration
	for i, name := range names {
		number, _, _ := strings.Cut(name, "_")
		version, err := strconv.Atoi(number)
		if err != nil || version != i+1 {
			panic("migrations: want number " + strconv.Itoa(i+1) + ", have " + name)
		}
		sql, err := migrations.Files.ReadFile(name)
		if err != nil {
			panic(err)
		}
		all = append(all, migration{version, name, string(sql)})
	}
	return all
}()

// SchemaHash names the schema this binary builds: another hash, another schema.
func SchemaHash() string {
	sum := sha256.New()
	for _, step := range steps {
		fmt.Fprintf(sum, "%s\n%s\n", step.name, step.sql)
	}
	fmt.Fprintf(sum, "river %d", riverVersion)
	return hex.EncodeToString(sum.Sum(nil))[:16]
}

// Migrate brings the database to this binary's schema: our steps, each in a
// transaction of its own, then River's. Processes that migrate at once wait
// for each other; a step that fails leaves those before it in place.
func Migrate(ctx context.Context, pool *pgxpool.Pool) (err error) {
	conn, err := pool.Acquire(ctx)
	if err != nil {
		return fmt.Errorf("reach database: %w", err)
	}
	defer conn.Release()
	if _, err := conn.Exec(ctx, `SELECT pg_advisory_lock($1)`, migrationLock); err != nil {
		return fmt.Errorf("lock for migration: %w", err)
	}
	defer func() {
		_, unlockErr := conn.Exec(context.WithoutCancel(ctx), `SELECT pg_advisory_unlock($1)`, migrationLock)
		err = errors.Join(err, unlockErr)
	}()

	if _, err := conn.Exec(ctx, `
		CREATE TABLE IF NOT EXISTS usher_migration (
			version    int         PRIMARY KEY,
			name       text        NOT NULL,
			applied_at timestamptz NOT NULL DEFAULT now()
		)`); err != nil {
		return fmt.Errorf("create migration table: %w", err)
	}
	current, err := schemaVersion(ctx, conn)
	if err != nil {
		return err
	}
	if current > len(steps) {
		return newerSchema(current)
	}
	for _, step := range steps[current:] {
		if err := InTx(ctx, conn, func(tx pgx.Tx) error {
			if _, err := tx.Exec(ctx, step.sql); err != nil {
				return err
			}
			_, err := tx.Exec(ctx, `INSERT INTO usher_migration (version, name) VALUES ($1, $2)`, step.version, step.name)
			return err
		}); err != nil {
			return fmt.Errorf("apply migration %s: %w", step.name, err)
		}
	}

	river, err := riverMigrator(pool)
	if err != nil {
		return err
	}
	if _, err := river.Migrate(ctx, rivermigrate.DirectionUp, &rivermigrate.MigrateOpts{TargetVersion: riverVersion}); err != nil {
		return fmt.Errorf("migrate River: %w", err)
	}
	return nil
}

// CheckSchema fails, saying what to do, unless the database has exactly this
// binary's schema: an older one lacks what we write, a newer one may have
// dropped it.
func CheckSchema(ctx context.Context, pool *pgxpool.Pool) error {
	current, err := schemaVersion(ctx, pool)
	if err != nil {
		return err
	}
	if current > len(steps) {
		return newerSchema(current)
	}
	if current < len(steps) {
		return fmt.Errorf("the database's schema is at version %d, this program needs %d: run 'usher migrate' first", current, len(steps))
	}
	river, err := newestVersion(ctx, pool, `SELECT COALESCE(MAX(version), 0) FROM river_migration`)
	switch {
	case err != nil:
		return err
	case river > riverVersion:
		return fmt.Errorf("the schema of River is at version %d, newer than this program's %d: deploy the release that made it", river, riverVersion)
	case river < riverVersion:
		return fmt.Errorf("the schema of River is at version %d, this program needs %d: run 'usher migrate' first", river, riverVersion)
	}
	return nil
}

func newerSchema(current int) error {
	return fmt.Errorf("the database's schema is at version %d, newer than this program's %d: deploy the release that made it", current, len(steps))
}

// querier is a pool or one of its connections.
type querier interface {
	QueryRow(ctx context.Context, sql string, args ...any) pgx.Row
}

// schemaVersion is the number of our newest applied step, 0 on an empty
// database.
func schemaVersion(ctx context.Context, db querier) (int, error) {
	return newestVersion(ctx, db, `SELECT COALESCE(MAX(version), 0) FROM usher_migration`)
}

// newestVersion is what the query answers, 0 where its table is not there yet.
func newestVersion(ctx context.Context, db querier, query string) (version int, err error) {
	err = db.QueryRow(ctx, query).Scan(&version)
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) && pgErr.Code == undefinedTable {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read schema version: %w", err)
	}
	return version, nil
}

func riverMigrator(pool *pgxpool.Pool) (*rivermigrate.Migrator[pgx.Tx], error) {
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, fmt.Errorf("open River's migrations: %w", err)
	}
	return migrator, nil
}
