package main

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
	"usher/internal/roster"
)

const (
	// mergedRecords and mergedMemberships are what the absorbed account has.
	mergedRecords     = 10_000
	mergedMemberships = 500

	mergeRounds = 5
)

// twoAccounts are a client's own and the one that was made for a granted
// request.
type twoAccounts struct{ request, survivor, absorbed uuid.UUID }

// merge measures the seconds that a merge takes from the look at it to its end,
// without an app that is called, and of these the ones in which both accounts
// are locked. The floor moves the same rows by two bare UPDATEs in one
// transaction.
func merge(ctx context.Context, b *bench) (f figure, err error) {
	f = figure{Unit: "s", N: mergedRecords + mergedMemberships}
	r := b.roster()
	if err := r.SetCompanyMember(ctx, b.app, b.company(ctx), b.account, roster.RoleAdmin, roster.IdempotencyKey{}); err != nil {
		return f, err
	}
	var locked []float64
	for range mergeRounds {
		pair, err := b.fillAccounts(ctx)
		if err != nil {
			return f, err
		}
		began := time.Now()
		lock, err := mergeOnce(ctx, r, b, pair)
		if err != nil {
			return f, err
		}
		f.Rounds, locked = append(f.Rounds, time.Since(began).Seconds()), append(locked, lock.Seconds())
		var n int
		if err := b.pool.QueryRow(ctx, `SELECT count(*) FROM record WHERE account_id = $1`, pair.survivor).Scan(&n); err != nil || n != mergedRecords {
			return f, fmt.Errorf("%d of %d records were moved: %w", n, mergedRecords, err)
		}
		if pair, err = b.fillAccounts(ctx); err != nil {
			return f, err
		}
		began = time.Now()
		if err := b.mergeBare(ctx, pair); err != nil {
			return f, err
		}
		f.FloorRounds = append(f.FloorRounds, time.Since(began).Seconds())
	}
	f.Value, f.Floor, f.Locked = median(f.Rounds), median(f.FloorRounds), median(locked)
	return f, nil
}

func mergeOnce(ctx context.Context, r *roster.Roster, b *bench, pair twoAccounts) (locked time.Duration, err error) {
	none := roster.IdempotencyKey{}
	m, err := r.PreviewMerge(ctx, b.app, b.account, pair.request, uuid.Nil, none)
	if err != nil {
		return 0, err
	}
	if m, err = r.ConfirmMerge(ctx, b.app, b.account, m.ID, m.Hash, none); err != nil {
		return 0, err
	}
	if _, err := r.BeginMerge(ctx, m.ID); err != nil {
		return 0, err
	}
	began := time.Now()
	if _, err := r.MoveMerge(ctx, m.ID); err != nil {
		return 0, err
	}
	locked = time.Since(began)
	if m, err = r.FinishMerge(ctx, m.ID); err == nil && m.State != roster.MergeMerged {
		err = fmt.Errorf("the merge is %s for %s", m.State, m.Failure)
	}
	return locked, err
}

// mergeBare moves the rows and nothing else.
func (b *bench) mergeBare(ctx context.Context, pair twoAccounts) error {
	return postgres.InTx(ctx, b.pool, func(tx pgx.Tx) error {
		for _, statement := range []string{
			`SELECT FROM account WHERE id IN ($1, $2) ORDER BY id FOR UPDATE`,
			`UPDATE record SET account_id = $1 WHERE account_id = $2`,
			`UPDATE membership SET account_id = $1 WHERE account_id = $2`,
		} {
			if _, err := tx.Exec(ctx, statement, pair.survivor, pair.absorbed); err != nil {
				return fmt.Errorf("move rows: %w", err)
			}
		}
		return nil
	})
}

// company is the one that owns the workspace.
func (b *bench) company(ctx context.Context) (id uuid.UUID) {
	_ = b.pool.QueryRow(ctx, `SELECT company_id FROM workspace WHERE id = $1`, b.workspace).Scan(&id)
	return id
}

// fillAccounts stores a pair of accounts, the absorbed one full of rows.
func (b *bench) fillAccounts(ctx context.Context) (pair twoAccounts, err error) {
	if _, err := b.pool.Exec(ctx, `TRUNCATE record, record_access, merge_change, merge, access_request`); err != nil {
		return pair, fmt.Errorf("clear tables: %w", err)
	}
	if err := b.clear(ctx); err != nil {
		return pair, err
	}
	pair = twoAccounts{uuid.Must(uuid.NewV7()), uuid.Must(uuid.NewV7()), uuid.Must(uuid.NewV7())}
	for _, statement := range []string{
		`INSERT INTO account (id, app_id, kind, status, full_name, email, email_key, created_at)
			VALUES ($2, $1, 'client', 'active', 'Ann Guest', $2::text || '@example.org', $2::text || '@example.org', now()),
				($3, $1, 'client', 'temporary', 'Ann Guest', '', NULL, now())`,
		`INSERT INTO access_request (id, app_id, company_id, requester_id, option, target_id, made_id, email, email_key, full_name, locale, note, state, expires_at, created_at)
			SELECT $4, $1, company_id, $6, 'request_with_temporary', $2, $3, 'e', 'e', 'Ann Guest', '', '', 'granted', now(), now() FROM workspace WHERE id = $5`,
		`INSERT INTO record_access (id, app_id, account_id, company_id, visibility, request_id, granted_at)
			SELECT gen_random_uuid(), $1, a, company_id, 'full', $4, now() FROM workspace, unnest(ARRAY[$2, $3]::uuid[]) AS a WHERE id = $5`,
		`INSERT INTO record (id, app_id, account_id, kind, external_id, created_at)
			SELECT gen_random_uuid(), $1, $3, 'programme', gen_random_uuid()::text, now() FROM generate_series(1, ` + fmt.Sprint(mergedRecords) + `)`,
		`, w AS (INSERT INTO workspace (id, app_id, company_id, name, created_at)
				SELECT gen_random_uuid(), $1, company_id, 'A file', now() FROM workspace, generate_series(1, ` + fmt.Sprint(mergedMemberships) + `) WHERE id = $5 RETURNING id)
			INSERT INTO membership (app_id, workspace_id, account_id, role, created_at) SELECT $1, id, $3, 'client_user', now() FROM w`,
	} {
		// Each statement names all parameters, whichever it needs.
		statement = `WITH given AS (SELECT $1::uuid, $2::uuid, $3::uuid, $4::uuid, $5::uuid, $6::uuid) ` + statement
		if _, err := b.pool.Exec(ctx, statement, b.app, pair.survivor, pair.absorbed, pair.request, b.workspace, b.account); err != nil {
			return pair, fmt.Errorf("store accounts: %w", err)
		}
	}
	if _, err := b.pool.Exec(ctx, `ANALYZE account, record, membership`); err != nil {
		return pair, fmt.Errorf("store accounts: %w", err)
	}
	return pair, nil
}
