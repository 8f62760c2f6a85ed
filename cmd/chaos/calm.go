package main

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// left is what has not come to an end: mails, requests to the provider, jobs.
const left = `
	SELECT (SELECT count(*) FROM message WHERE state IN ('queued', 'held', 'sending', 'uncertain'))
		+ (SELECT count(*) FROM dispatch WHERE state IN ('ready', 'sending', 'uncertain'))
		+ (SELECT count(*) FROM river_job WHERE kind = 'send_dispatch' AND state <> 'completed')
		+ (SELECT count(*) FROM river_job WHERE state = 'discarded')
		+ (` + mergesLeft + `)`

// calm has nothing go wrong any more, and waits until all that was under way
// has ended.
func (s *stage) calm(ctx context.Context) error {
	progress("%d killed; waiting for what is left", s.killed())
	if err := s.tell(ctx, http.MethodPut, "/_admin/faults", []any{}, nil); err != nil {
		return err
	}
	var crew []*process
	defer func() {
		for _, p := range crew {
			p.end()
		}
	}()
	for i := range workers {
		p, err := launch(s.dir, fmt.Sprintf("worker-%d", i+1), s.environment(), s.usher, "worker")
		if err != nil {
			return err
		}
		crew = append(crew, p)
	}
	s.portal.mu.Lock()
	s.portal.calm = true
	s.portal.mu.Unlock()
	if !s.merges {
		s.shake(ctx)
	}
	if err := s.await(ctx); err != nil {
		return err
	}
	if err := s.apart(ctx); err != nil {
		return err
	}
	return s.await(ctx)
}

// await waits until nothing is left, or for as long as its patience lasts.
func (s *stage) await(ctx context.Context) error {
	shown := time.Now()
	for end := time.Now().Add(s.patience); time.Now().Before(end); {
		var n int
		if err := s.pool.QueryRow(ctx, left).Scan(&n); err != nil {
			return fmt.Errorf("look for what is left: %w", err)
		}
		if n == 0 {
			return nil
		}
		if time.Since(shown) > 10*time.Second {
			shown = time.Now()
			progress("%d left", n)
		}
		select {
		case <-time.After(500 * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	return nil
}

// shake has the provider go away and come back a few times, so that what a kill
// left in doubt meets a plain refusal: it must stay in doubt.
func (s *stage) shake(ctx context.Context) {
	for range 5 {
		_ = s.tell(ctx, http.MethodPut, "/_admin/faults", []map[string]any{{"kind": "down", "delay": "3s"}}, nil)
		select {
		case <-time.After(8 * time.Second):
		case <-ctx.Done():
		}
	}
	_ = s.tell(ctx, http.MethodPut, "/_admin/faults", []any{}, nil)
}

// count compares what was promised with what the provider has.
func (s *stage) count(ctx context.Context) (tally, error) {
	t := s.tally
	t.Kills = s.killed()
	if err := s.pool.QueryRow(ctx, left).Scan(&t.Stuck); err != nil {
		return t, fmt.Errorf("look for what is left: %w", err)
	}
	var ledger struct {
		Messages []struct {
			MessageID string `json:"message_id"`
			Count     int    `json:"count"`
		} `json:"messages"`
		TwoHashes []any `json:"two_hashes"`
		Faults    []any `json:"faults"`
		Counters  struct {
			MaxInAnySecond int `json:"max_in_any_second"`
		} `json:"counters"`
	}
	if err := s.tell(ctx, http.MethodGet, "/_admin/ledger", nil, &ledger); err != nil {
		return t, err
	}
	t.TwoHashes, t.Faults, t.MaxPerSecond = len(ledger.TwoHashes), len(ledger.Faults), ledger.Counters.MaxInAnySecond
	sent := map[string]int{}
	for _, m := range ledger.Messages {
		sent[m.MessageID] = m.Count
	}
	rows, err := s.pool.Query(ctx, `SELECT id::text, state FROM message`)
	if err != nil {
		return t, fmt.Errorf("read messages: %w", err)
	}
	messages, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ ID, State string }])
	if err != nil {
		return t, fmt.Errorf("read messages: %w", err)
	}
	for _, m := range messages {
		id, state := m.ID, m.State
		t.Accepted++
		n := sent[id]
		delete(sent, id)
		switch {
		case n > 1:
			t.Twice++
			progress("sent %d times: message %s, which is %s", n, id, state)
		case n == 1 && state == "accepted":
			t.SentOnce++
		case n == 0 && state == "cancelled":
			t.Cancelled++
		case state == "queued" || state == "held" || state == "sending" || state == "uncertain":
			progress("stuck: message %s is %s, and was sent %d times", id, state, n)
		default:
			t.Lost++
			progress("lost: message %s is %s, and was sent %d times", id, state, n)
		}
	}
	t.Unstored = len(sent) // mails of messages that do not exist
	var stored int
	if err := s.pool.QueryRow(ctx, `SELECT count(*) FROM invitation WHERE id = ANY($1)`, s.published).Scan(&stored); err != nil {
		return t, fmt.Errorf("count invitations: %w", err)
	}
	t.Unstored += len(s.published) - stored
	if err := s.pool.QueryRow(ctx, `
		SELECT count(*) + COALESCE(sum(missed), 0), COALESCE(sum(missed), 0), count(*) FILTER (WHERE before IS NOT NULL AND since IS DISTINCT FROM before)
		FROM (SELECT *, lag(tick) OVER (PARTITION BY name ORDER BY tick) AS before FROM sweep_run) AS run`).Scan(&t.Ticks, &t.Missed, &t.Holes); err != nil {
		return t, fmt.Errorf("look at the sweeps' ledger: %w", err)
	}
	if err := s.countMerges(ctx, &t); err != nil {
		return t, err
	}
	return t, s.recovery(ctx, &t)
}

// recovery finds how long what a kill interrupted took to end, from the last
// kill before its end: what a dead worker left is given to another by River's
// leader, who has to live for a while, and no leader does while a worker is
// killed every second.
func (s *stage) recovery(ctx context.Context, t *tally) error {
	since := map[uuid.UUID]time.Time{}
	for _, k := range s.kills {
		for _, dispatch := range k.underWay {
			since[dispatch] = k.at
		}
	}
	rows, err := s.pool.Query(ctx, `SELECT id, settled_at FROM dispatch WHERE id = ANY($1) AND settled_at IS NOT NULL`, slices.Collect(maps.Keys(since)))
	if err != nil {
		return fmt.Errorf("read ends of dispatches: %w", err)
	}
	ends, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
		Dispatch uuid.UUID
		At       time.Time
	}])
	if err != nil {
		return fmt.Errorf("read ends of dispatches: %w", err)
	}
	for _, end := range ends {
		t.Recovery = max(t.Recovery, end.At.Sub(since[end.Dispatch]).Round(100*time.Millisecond).Seconds())
	}
	return nil
}
