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

// onceEach is once for many requests that share a transaction, each under a key
// of its own, no two of them alike. op answers those that todo names, in order,
// and keeps refusals within its answers. Where the first has no key, none has.
func onceEach[T any](ctx context.Context, r *Roster, app uuid.UUID, keys []IdempotencyKey, op func(tx pgx.Tx, todo []int) ([]T, error)) (answers []answer[T], err error) {
	n := len(keys)
	answers = make([]answer[T], n)
	todo := make([]int, 0, n)
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		routes, names, hashes := make([]string, n), make([]string, n), make([][]byte, n)
		keyed := n > 0 && keys[0].Key != ""
		mine := map[string]bool{}
		if keyed {
			for i, k := range keys {
				routes[i], names[i], hashes[i] = k.Route, k.Key, k.Hash
			}
			rows, err := tx.Query(ctx, `
				INSERT INTO idempotency_key (app_id, route, key, body_hash, answer, created_at)
				SELECT $1, route, key, body_hash, 'null', $5
				FROM unnest($2::text[], $3::text[], $4::bytea[]) AS q (route, key, body_hash)
				ORDER BY key -- two calls with the same keys wait for each other, and in one order not in a circle
				ON CONFLICT DO NOTHING RETURNING key`, app, routes, names, hashes, r.now())
			if err != nil {
				return fmt.Errorf("claim %d idempotency keys: %w", n, err)
			}
			claimed, err := pgx.CollectRows(rows, pgx.RowTo[string])
			if err != nil {
				return fmt.Errorf("claim %d idempotency keys: %w", n, err)
			}
			for _, key := range claimed {
				mine[key] = true
			}
		}
		for i, k := range keys {
			if !keyed || mine[k.Key] {
				todo = append(todo, i)
			}
		}
		if len(todo) < n {
			if err := recallEach(ctx, tx, app, keys, mine, answers); err != nil {
				return err
			}
		}
		if len(todo) == 0 {
			return nil
		}
		results, err := op(tx, todo)
		if err != nil {
			return err
		}
		kept := make([][]byte, len(todo))
		routes, names = make([]string, len(todo)), make([]string, len(todo))
		for i, at := range todo {
			answers[at].Result = results[i]
			routes[i], names[i] = keys[at].Route, keys[at].Key
			if kept[i], err = json.Marshal(answers[at]); err != nil {
				return fmt.Errorf("write remembered answer: %w", err)
			}
		}
		if !keyed {
			return nil
		}
		if _, err := tx.Exec(ctx, `
			UPDATE idempotency_key k SET answer = q.answer
			FROM unnest($2::text[], $3::text[], $4::jsonb[]) AS q (route, key, answer)
			WHERE k.app_id = $1 AND k.route = q.route AND k.key = q.key`, app, routes, names, kept); err != nil {
			return fmt.Errorf("remember %d answers: %w", len(todo), err)
		}
		return nil
	})
	return answers, err
}

// recallEach fills in the answers that were remembered under keys that are not mine.
func recallEach[T any](ctx context.Context, tx pgx.Tx, app uuid.UUID, keys []IdempotencyKey, mine map[string]bool, answers []answer[T]) error {
	var routes, names []string
	var places []int
	for i, k := range keys {
		if !mine[k.Key] {
			routes, names, places = append(routes, k.Route), append(names, k.Key), append(places, i)
		}
	}
	rows, err := tx.Query(ctx, `
		SELECT q.n, k.body_hash, k.answer
		FROM unnest($2::text[], $3::text[]) WITH ORDINALITY AS q (route, key, n)
		CROSS JOIN LATERAL (
			SELECT body_hash, answer FROM idempotency_key
			WHERE app_id = $1 AND route = q.route AND key = q.key LIMIT 1) AS k`, app, routes, names)
	if err != nil {
		return fmt.Errorf("read idempotency keys: %w", err)
	}
	remembered, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
		N            int
		Hash, Answer []byte
	}])
	if err != nil {
		return fmt.Errorf("read idempotency keys: %w", err)
	}
	for _, k := range remembered {
		at := places[k.N-1]
		var refusal *Error
		if answers[at], err = recall[T](keys[at], k.Hash, k.Answer); errors.As(err, &refusal) {
			answers[at].Err = refusal
		} else if err != nil {
			return err
		}
	}
	return nil
}
