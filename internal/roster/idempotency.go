package roster

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

// IdempotencyKey lets a caller repeat a request without fear. The first answer
// under (app, route, key) is kept with the change it describes, in the same
// transaction, and given again to the same request.
type IdempotencyKey struct {
	Route string
	Key   string // the caller's, 1 to 255 printable characters; empty: none
	Hash  []byte // SHA-256 of the request: actor, path and body
}

// answer is what is remembered: a result or the domain's refusal. Links are
// not in it; who shows one recomputes it.
type answer[T any] struct {
	Result T
	Err    *Error `json:",omitempty"`
}

func (a answer[T]) get() (T, error) {
	if a.Err != nil {
		return a.Result, a.Err
	}
	return a.Result, nil
}

var errReusedKey = errorf(Reused, "idempotency_key_reused", "This Idempotency-Key was used for another request. Take a new key for a new request.")

// recall reads a remembered answer for the request with that hash.
func recall[T any](key IdempotencyKey, hash, stored []byte) (answer[T], error) {
	var a answer[T]
	if !bytes.Equal(hash, key.Hash) {
		return a, errReusedKey
	}
	if err := json.Unmarshal(stored, &a); err != nil {
		return a, fmt.Errorf("read remembered answer: %w", err)
	}
	return a, nil
}

// once runs op in a transaction of r.DB, and under a key at most once: a
// repetition gets the first answer, a refusal included. A fault is not
// remembered, so that a retry can succeed.
func once[T any](ctx context.Context, r *Roster, app uuid.UUID, key IdempotencyKey, op func(tx pgx.Tx) (T, error)) (result T, err error) {
	var first answer[T]
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if key.Key == "" {
			first.Result, err = op(tx)
			return err
		}
		// A request under the same key that is still at work holds this row:
		// the INSERT waits for its end.
		claimed, err := tx.Exec(ctx, `
			INSERT INTO idempotency_key (app_id, route, key, body_hash, answer, created_at)
			VALUES ($1, $2, $3, $4, 'null', $5)
			ON CONFLICT DO NOTHING`, app, key.Route, key.Key, key.Hash, r.now())
		if err != nil {
			return fmt.Errorf("claim idempotency key: %w", err)
		}
		if claimed.RowsAffected() == 0 {
			var hash, stored []byte
			if err := tx.QueryRow(ctx, `
				SELECT body_hash, answer FROM idempotency_key
				WHERE app_id = $1 AND route = $2 AND key = $3`, app, key.Route, key.Key).Scan(&hash, &stored); err != nil {
				return fmt.Errorf("read idempotency key: %w", err)
			}
			first, err = recall[T](key, hash, stored)
			return err
		}
		err = postgres.InTx(ctx, tx, func(tx pgx.Tx) error {
			first.Result, err = op(tx)
			return err
		})
		if err != nil && !errors.As(err, &first.Err) {
			return err
		}
		stored, err := json.Marshal(first)
		if err != nil {
			return fmt.Errorf("write remembered answer: %w", err)
		}
		if _, err := tx.Exec(ctx, `
			UPDATE idempotency_key SET answer = $4
			WHERE app_id = $1 AND route = $2 AND key = $3`, app, key.Route, key.Key, stored); err != nil {
			return fmt.Errorf("remember answer: %w", err)
		}
		return nil
	})
	if err != nil {
		return result, err
	}
	return first.get()
}
