// Package postgres connects Usher to PostgreSQL: pools, transactions, the
// schema, and a private server for machines that have none running.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// connectTimeout bounds one attempt to reach the server, so that a wrong
	// address fails at start instead of hanging.
	connectTimeout = 5 * time.Second

	// idleInTransaction ends transactions whose process hangs while it holds
	// locks. Ours last milliseconds: no network call happens inside one.
	idleInTransaction = 30 * time.Second
)

// DB is anything a transaction can begin on: a pool in production, a
// transaction (as a savepoint) where operations are joined or in tests.
type DB interface {
	Begin(ctx context.Context) (pgx.Tx, error)
}

// Open connects a pool of at most size connections to url and sees that the
// server answers.
func Open(ctx context.Context, url string, size int) (*pgxpool.Pool, error) {
	config, err := pgxpool.ParseConfig(url)
	if err != nil {
		return nil, fmt.Errorf("read DATABASE_URL: %w", err)
	}
	config.MaxConns = int32(min(size, 1000))
	config.ConnConfig.ConnectTimeout = connectTimeout
	config.ConnConfig.RuntimeParams["application_name"] = "usher"
	config.ConnConfig.RuntimeParams["timezone"] = "UTC"
	config.ConnConfig.RuntimeParams["idle_in_transaction_session_timeout"] = fmt.Sprint(idleInTransaction.Milliseconds())
	// Statements run by plans made once for each connection, by index. Left alone,
	// the planner takes an array it does not know for ten rows, finds one it
	// knows cheaper and plans anew for every call, which takes longer than to run
	// it; and a plan made on a young table reads all of it, also when it has grown.
	config.ConnConfig.RuntimeParams["plan_cache_mode"] = "force_generic_plan"
	config.ConnConfig.RuntimeParams["enable_seqscan"] = "off"
	config.ConnConfig.RuntimeParams["jit"] = "off" // a plan that has to read all of a table looks dear enough to compile it
	config.AfterConnect = func(_ context.Context, conn *pgx.Conn) error {
		registerIDs(conn.TypeMap())
		return nil
	}
	pool, err := pgxpool.NewWithConfig(ctx, config)
	if err != nil {
		return nil, fmt.Errorf("open database: %w", err)
	}
	if err := pool.Ping(ctx); err != nil {
		pool.Close()
		return nil, fmt.Errorf("reach the database of DATABASE_URL: %w", err)
	}
	return pool, nil
}

// InTx runs fn in one transaction on db: committed when fn returns nil,
// rolled back otherwise, also when ctx has ended or fn panics.
func InTx(ctx context.Context, db DB, fn func(tx pgx.Tx) error) error {
	tx, err := db.Begin(ctx)
	if err != nil {
		return fmt.Errorf("begin transaction: %w", err)
	}
	return finish(ctx, tx, func() error { return fn(tx) })
}

// Join makes tx a DB, for operations that are parts of it: they commit or fail
// with it, and cost no savepoints. One that fails may leave some of its writes
// behind in tx, so its error has to end tx.
func Join(tx pgx.Tx) DB { return joined{tx} }

type joined struct{ tx pgx.Tx }

func (j joined) Begin(context.Context) (pgx.Tx, error) { return part{j.tx}, nil }

// part is a transaction whose end is decided by who began it. Its own Begin
// still makes a savepoint.
type part struct{ pgx.Tx }

func (part) Commit(context.Context) error   { return nil }
func (part) Rollback(context.Context) error { return nil }

// InTxAfter is InTx for a transaction whose first statements are known: those
// that first queues have been answered when fn is called. On a pool they take
// no round trip of their own, they travel with the BEGIN.
func InTxAfter(ctx context.Context, db DB, first func(*pgx.Batch), fn func(tx pgx.Tx) error) error {
	batch := &pgx.Batch{}
	pool, ok := db.(*pgxpool.Pool)
	if !ok {
		return InTx(ctx, db, func(tx pgx.Tx) error {
			first(batch)
			if err := tx.SendBatch(ctx, batch).Close(); err != nil {
				return fmt.Errorf("send first statements: %w", err)
			}
			return fn(tx)
		})
	}
	batch.BeginTx(pgx.TxOptions{})
	first(batch)
	results := pool.SendBatch(ctx, batch)
	return finish(ctx, results.Tx(), func() error {
		if err := results.Close(); err != nil {
			return fmt.Errorf("begin transaction with its first statements: %w", err)
		}
		return fn(results.Tx())
	})
}

// Send runs statements that need nothing of each other's answers as one
// transaction. On a pool that takes one round trip, and no lock is held
// across it.
func Send(ctx context.Context, db DB, queue func(*pgx.Batch)) error {
	batch := &pgx.Batch{}
	queue(batch)
	if pool, ok := db.(*pgxpool.Pool); ok {
		return pool.SendBatch(ctx, batch).Close()
	}
	return InTx(ctx, db, func(tx pgx.Tx) error { return tx.SendBatch(ctx, batch).Close() })
}

// finish runs fn and ends tx after it.
func finish(ctx context.Context, tx pgx.Tx, fn func() error) error {
	defer func() {
		// After a commit this does nothing; after a failure the rollback must
		// reach the server even though ctx may be over. If it cannot, the
		// server undoes the transaction with the connection.
		_ = tx.Rollback(context.WithoutCancel(ctx))
	}()
	if err := fn(); err != nil {
		return err
	}
	if err := tx.Commit(ctx); err != nil {
		return fmt.Errorf("commit transaction: %w", err)
	}
	return nil
}

// Violates tells whether err is the violation of the named constraint or
// unique index.
func Violates(err error, constraint string) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.ConstraintName == constraint
}

// Deadlocked tells whether err is a transaction's that the server ended because
// it and another waited for each other. It can be tried again.
func Deadlocked(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && pgErr.Code == "40P01" // deadlock_detected
}
