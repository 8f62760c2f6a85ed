package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

const (
	listRows   = 1_000_000 // invitations of the app; each third row more is another's
	listSpaces = 1_000     // workspaces they are in
	listPage   = 1_000     // the page that is compared with the first
	listLimit  = 50        // rows on a page
)

// fillInvitations stores what years leave behind: most invitations are
// accepted, few are open, and one in ten thousand was declined.
var fillInvitations = []string{
	`SET LOCAL session_replication_role = replica`, // foreign keys need not be looked up for each row
	`CREATE TEMPORARY TABLE app_of ON COMMIT DROP AS SELECT @app::uuid AS app UNION ALL SELECT gen_random_uuid()`,
	`INSERT INTO invitation (id, app_id, workspace_id, inviter_id, kind, email, email_key, full_name, locale, note,
			state, sends, message_id, queued_at, expires_at, decided_at, created_at)
		SELECT (lpad(to_hex(1700000000000 + n * 1000), 12, '0') || '7' || substr(md5(n::text), 1, 3) || '8' || substr(md5(n::text), 4, 15))::uuid,
			CASE n % 4 WHEN 3 THEN (SELECT app FROM app_of WHERE app <> @app) ELSE @app END,
			md5('space' || n * 7919 % @spaces)::uuid, @account, 'new_user', e, e, 'Guest ' || n, 'es', '',
			CASE WHEN n % 10000 = 5 THEN 'declined' WHEN n % 100 = 1 THEN 'pending' WHEN n % 10 = 2 THEN 'expired' ELSE 'accepted' END,
			1, md5('mail' || n)::uuid, at, at + interval '14 days', CASE WHEN n % 100 <> 1 THEN at END, at
		FROM (SELECT n, 'guest' || n || '@example.org' AS e, 'epoch'::timestamptz + (1700000000 + n) * interval '1 second' AS at
			FROM generate_series(1::bigint, @rows * 4 / 3) n) q`,
	`INSERT INTO message (id, app_id, kind, subject_id, purpose, args, lane, email_key, state, created_at)
		SELECT message_id, app_id, 'invitation', id, 'v1:send:1', '{"version": 1, "send": 1}', 'interactive', email_key, 'delivered', created_at FROM invitation`,
}

// listInvitations measures what a page of a long list costs: the 99th
// percentile of the thousandth page, with that of the first as its floor. Lists
// of one state and of one workspace are measured beside them.
func listInvitations(ctx context.Context, b *bench) (f figure, err error) {
	f = figure{Unit: "ms"}
	if err := b.clear(ctx); err != nil {
		return f, err
	}
	progress("  storing %d invitations", listRows)
	args := pgx.NamedArgs{"app": b.app, "account": b.account, "rows": listRows, "spaces": listSpaces}
	if err := postgres.InTx(ctx, b.pool, func(tx pgx.Tx) error {
		for _, sql := range fillInvitations {
			if _, err := tx.Exec(ctx, sql, args); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return f, fmt.Errorf("store invitations: %w", err)
	}
	defer func() { err = errors.Join(err, b.clear(context.WithoutCancel(ctx))) }()
	if _, err := b.pool.Exec(ctx, "VACUUM ANALYZE invitation, message"); err != nil {
		return f, fmt.Errorf("settle tables: %w", err)
	}
	var space string
	if err := b.pool.QueryRow(ctx, `SELECT workspace_id::text FROM invitation WHERE app_id = $1 ORDER BY id DESC LIMIT 1`, b.app).Scan(&space); err != nil {
		return f, fmt.Errorf("find a workspace: %w", err)
	}

	web, err := b.startWeb(ctx)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, web.stop()) }()
	lists := []struct{ name, filter, condition string }{
		{"all", "", ""},
		{"of a workspace", "&workspace_id=" + space, " AND workspace_id = '" + space + "'"},
		{"accepted", "&state=accepted", " AND state = 'accepted'"},
		{"declined, which is rare", "&state=declined", " AND state = 'declined'"},
		{"declined of a workspace", "&state=declined&workspace_id=" + space, " AND state = 'declined' AND workspace_id = '" + space + "'"},
	}
	for i, list := range lists {
		// The last row of the page before the thousandth, or of the last but one.
		var cursor string
		if err := b.pool.QueryRow(ctx, `SELECT COALESCE(min(id::text), '00000000-0000-7000-8000-000000000000') FROM (
			SELECT id FROM invitation WHERE app_id = $1`+list.condition+` ORDER BY id DESC LIMIT $2) AS seen`, b.app, (listPage-1)*listLimit).Scan(&cursor); err != nil {
			return f, fmt.Errorf("find the cursor: %w", err)
		}
		first := fmt.Sprintf("/v1/invitations?limit=%d%s", listLimit, list.filter)
		waits := [2][]time.Duration{}
		share := b.perFigure / time.Duration(2*(len(lists)-1))
		if i == 0 {
			share = b.perFigure / 2
		}
		for end := time.Now().Add(share); time.Now().Before(end) || len(waits[0]) < 200; {
			for page, path := range []string{first, first + "&after=" + cursor} {
				took, err := b.get(ctx, web.address, path)
				if err != nil {
					return f, err
				}
				waits[page] = append(waits[page], took)
			}
		}
		n := len(waits[0])
		one, thousandth := milliseconds(quantile(waits[0], 0.99)), milliseconds(quantile(waits[1], 0.99))
		progress("  %s: first page %.1f ms, page %d %.1f ms at p99; medians %.1f and %.1f ms", list.name, one, listPage, thousandth,
			milliseconds(quantile(waits[0], 0.5)), milliseconds(quantile(waits[1], 0.5)))
		if i == 0 {
			f.N, f.Floor, f.Value = n, one, thousandth
		}
	}
	return f, nil
}

// get reads a page and tells how long that took.
func (b *bench) get(ctx context.Context, address, path string) (time.Duration, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+path, http.NoBody)
	if err != nil {
		return 0, fmt.Errorf("get %s: %w", path, err)
	}
	req.Header.Set("Authorization", "Bearer "+b.key)
	start := time.Now()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, fmt.Errorf("get %s: %w", path, err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK || !strings.HasPrefix(string(body), `{"items":[`) {
		return 0, fmt.Errorf("get %s: %s %.200s: %w", path, resp.Status, body, err)
	}
	return time.Since(start), nil
}
