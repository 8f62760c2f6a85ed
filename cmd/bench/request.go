package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

const (
	// requestsDecided is how many access requests are approved, each by its own
	// client, and how many the floor writes.
	requestsDecided = 6_000

	// requestConnections is how many approve at once.
	requestConnections = 32
)

// openRequest is an access request that waits, and the client who decides it.
type openRequest struct{ ID, Client uuid.UUID }

// requestDecide measures approvals a second over HTTP, each with its access,
// its two events, and the word to who asked. The floor writes the same rows by
// one statement for each, without HTTP.
func requestDecide(ctx context.Context, b *bench) (f figure, err error) {
	f = figure{Unit: "1/s", Connections: requestConnections, N: requestsDecided}
	web, err := b.startWeb(ctx)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, web.stop()) }()
	transport := &http.Transport{MaxIdleConnsPerHost: requestConnections}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport, Timeout: answerTime}
	for range 3 {
		for _, side := range []struct {
			rounds *[]float64
			decide func(ctx context.Context, q openRequest) error
		}{
			{&f.Rounds, func(ctx context.Context, q openRequest) error { return b.approve(ctx, client, web.address, q) }},
			{&f.FloorRounds, b.approveBare},
		} {
			waiting, err := b.fillRequests(ctx)
			if err != nil {
				return f, err
			}
			took, err := decideAll(ctx, waiting, side.decide)
			if err != nil {
				return f, err
			}
			*side.rounds = append(*side.rounds, float64(len(waiting))/took.Seconds())
			var granted, events int
			if err := b.pool.QueryRow(ctx, `
				SELECT (SELECT count(*) FROM access_request WHERE state = 'granted'), (SELECT count(*) FROM event)`).Scan(&granted, &events); err != nil {
				return f, fmt.Errorf("count what was decided: %w", err)
			}
			if granted != len(waiting) || events != 2*len(waiting) {
				return f, fmt.Errorf("%d of %d were granted, with %d events", granted, len(waiting), events)
			}
		}
	}
	f.Value, f.Floor = median(f.Rounds), median(f.FloorRounds)
	return f, nil
}

// fillRequests stores clients and an open request for each.
func (b *bench) fillRequests(ctx context.Context) ([]openRequest, error) {
	if _, err := b.pool.Exec(ctx, `TRUNCATE access_request, record_access, merge, merge_change`); err != nil {
		return nil, fmt.Errorf("clear tables: %w", err)
	}
	if err := b.clear(ctx); err != nil {
		return nil, err
	}
	rows, err := b.pool.Query(ctx, `
		WITH person AS (
			INSERT INTO account (id, app_id, kind, status, full_name, email, email_key, created_at)
			SELECT gen_random_uuid(), $1, 'client', 'active', 'Guest', e, e, now()
			FROM (SELECT gen_random_uuid() || '@example.org' AS e FROM generate_series(1, $3)) AS q RETURNING id, email, email_key
		)
		INSERT INTO access_request (id, app_id, company_id, requester_id, option, target_id, email, email_key, full_name, locale, note, state, queued_at, expires_at, created_at)
		SELECT gen_random_uuid(), $1, (SELECT company_id FROM workspace WHERE id = $4), $2, 'request', id, email, email_key, 'Guest', '', '', 'pending', now(), now() + interval '14 days', now()
		FROM person RETURNING id, target_id`, b.app, b.account, requestsDecided, b.workspace)
	if err != nil {
		return nil, fmt.Errorf("store access requests: %w", err)
	}
	waiting, err := pgx.CollectRows(rows, pgx.RowToStructByPos[openRequest])
	if err != nil {
		return nil, fmt.Errorf("store access requests: %w", err)
	}
	if _, err := b.pool.Exec(ctx, `ANALYZE account, access_request, record_access`); err != nil {
		return nil, fmt.Errorf("store access requests: %w", err)
	}
	return waiting, nil
}

// decideAll decides all requests, as many at once as there are connections.
func decideAll(ctx context.Context, waiting []openRequest, decide func(context.Context, openRequest) error) (took time.Duration, err error) {
	var next atomic.Int64
	var wg sync.WaitGroup
	failed := make([]error, requestConnections)
	began := time.Now()
	for i := range requestConnections {
		wg.Go(func() {
			for {
				at := int(next.Add(1)) - 1
				if at >= len(waiting) {
					return
				}
				if failed[i] = decide(ctx, waiting[at]); failed[i] != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return time.Since(began), errors.Join(failed...)
}

// approve approves a request as its client's app does.
func (b *bench) approve(ctx context.Context, client *http.Client, address string, q openRequest) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/v1/access-requests/"+q.ID.String()+"/approve", http.NoBody)
	if err != nil {
		return fmt.Errorf("approve: %w", err)
	}
	req.Header.Set("Authorization", "Bearer "+b.key)
	req.Header.Set("Usher-Actor", q.Client.String())
	resp, err := client.Do(req)
	if err != nil {
		return fmt.Errorf("approve: %w", err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		return fmt.Errorf("approve: %s %.200s: %w", resp.Status, body, err)
	}
	return nil
}

// approveBare writes what an approval writes by one statement.
func (b *bench) approveBare(ctx context.Context, q openRequest) error {
	if _, err := b.pool.Exec(ctx, `
		WITH granted AS (
			UPDATE access_request SET state = 'granted', visibility = 'standard', decided_at = now(), decided_by = $2
			WHERE id = $1 AND state = 'pending' AND expires_at > now() RETURNING *
		), opened AS (
			INSERT INTO record_access (id, app_id, account_id, company_id, visibility, request_id, granted_at)
			SELECT gen_random_uuid(), app_id, target_id, company_id, 'standard', id, now() FROM granted
		), recorded AS (
			INSERT INTO event (id, app_id, type, subject_id, actor_id, data, at)
			SELECT gen_random_uuid(), app_id, 'access_request.' || t, id, $2,
				jsonb_build_object('company_id', company_id, 'option', option, 'version', 1, 'account_id', $2, 'visibility', 'standard'), now()
			FROM granted, unnest('{approved,granted}'::text[]) AS t
		), told AS (
			INSERT INTO message (id, app_id, kind, subject_id, purpose, args, lane, email_key, state, due_at, created_at)
			SELECT gen_random_uuid(), app_id, 'news', requester_id, 'news:' || id, jsonb_build_object('event_ids', jsonb_build_array(id)), 'bulk', 'bea@harbour.example', 'queued', now(), now()
			FROM granted
		)
		INSERT INTO river_job (kind, args, queue, max_attempts, state)
		SELECT 'compose_mail', '{"lane": "bulk"}', 'mail_bulk', 3, 'available' FROM granted`, q.ID, q.Client); err != nil {
		return fmt.Errorf("approve by one statement: %w", err)
	}
	return nil
}
