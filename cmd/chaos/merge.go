package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/roster"
	"usher/jobs"
)

const (
	// pairs of accounts are merged and taken apart again all the time; each has
	// so many records and workspaces.
	pairs      = 40
	perAccount = 12

	// mergeEvery is the time between two calls about a merge.
	mergeEvery = 60 * time.Millisecond
)

// mergePoints are where a worker may kill itself amid a merge. What begins with
// "mid-" is within a transaction that is about to commit.
var mergePoints = []string{
	"mid-merge-running-preparing", "mid-merge-running-moved", "mid-merge-merged-moved", "mid-merge-undoing-restored", "mid-merge-undone-restored",
	"after-merge-step", "before-merge-call", "after-merge-call",
}

// mergePair is a client's own account and the one that was made meanwhile, with
// all their rows as they were in the beginning.
type mergePair struct {
	request, survivor, absorbed uuid.UUID
	rows                        string
}

// portal is an app's endpoint for merges: what it knows of each, and how badly
// it answers.
type portal struct {
	mu     sync.Mutex
	random *rand.Rand
	calm   bool
	knows  map[string]string // by merge: the last call that counted
	calls  int
}

func (p *portal) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	var call struct {
		Type string `json:"type"`
		Data struct {
			SubjectID string `json:"subject_id"`
		} `json:"data"`
	}
	if err != nil || json.Unmarshal(body, &call) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	p.mu.Lock()
	dice := p.random.IntN(100)
	if p.calm {
		dice = 100
	}
	// Some calls fail before they count, some after.
	if counts := strings.HasPrefix(call.Type, "merge.") && dice >= 15; counts {
		p.calls++
		if p.knows[call.Data.SubjectID] != "merge.undo" { // which is the last word
			p.knows[call.Data.SubjectID] = call.Type
		}
	}
	p.mu.Unlock()
	switch {
	case dice < 25:
		w.WriteHeader(http.StatusServiceUnavailable)
	case dice < 32:
		panic(http.ErrAbortHandler) // the connection breaks
	case dice < 40:
		time.Sleep(time.Duration(dice-31) * 300 * time.Millisecond)
	}
}

// openPortal starts the app's endpoint and the accounts that are merged.
func (s *stage) openPortal(ctx context.Context) error {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("open the app's endpoint: %w", err)
	}
	s.portal = &portal{random: s.random(200), knows: map[string]string{}}
	server := &http.Server{Handler: s.portal, ReadHeaderTimeout: time.Second}
	go func() { _ = server.Serve(listener) }()
	s.portalServer = server
	queue, err := jobs.NewInserter(s.pool, nil)
	if err != nil {
		return err
	}
	keys, err := roster.NewKeyring(secret)
	if err != nil {
		return err
	}
	r, none := &roster.Roster{DB: s.pool, Jobs: queue, Now: time.Now}, roster.IdempotencyKey{}
	if _, err := r.CreateEndpoint(ctx, s.app, roster.NewEndpoint{
		URL: "http://" + listener.Addr().String(), Merges: true, SecretKey: keys.ID(), Types: []string{roster.EventEndpointTest},
	}, none); err != nil {
		return err
	}
	for i := range pairs {
		email := fmt.Sprintf("client-%d@people.example", i)
		own, err := r.CreateAccount(ctx, s.app, roster.NewAccount{Kind: roster.Client, FullName: "Ann Example", Email: email}, none)
		if err != nil {
			return err
		}
		out, err := r.RequestAccess(ctx, s.app, s.account, roster.NewAccessRequest{Option: roster.OptionTemporary, Email: email, FullName: "Ann Example"}, none)
		if err != nil {
			return err
		}
		if _, err := r.ApproveRequestAs(ctx, s.app, own.ID, out.Request.ID, "", none); err != nil {
			return err
		}
		p := mergePair{request: out.Request.ID, survivor: own.ID, absorbed: out.Made.ID}
		for side, account := range []uuid.UUID{p.survivor, p.absorbed} {
			if _, err := s.pool.Exec(ctx, `
				WITH w AS (
					INSERT INTO workspace (id, app_id, company_id, name, created_at)
					SELECT gen_random_uuid(), app_id, company_id, 'Of a client', now() FROM workspace, generate_series(1, $4) WHERE id = $3 RETURNING id, app_id
				), m AS (
					INSERT INTO membership (app_id, workspace_id, account_id, role, visibility, created_at)
					SELECT app_id, id, $1, 'client_user', (ARRAY['basic', 'standard', 'full'])[1 + (random() * 2)::int], now() FROM w
				)
				INSERT INTO record (id, app_id, account_id, kind, external_id, created_at)
				SELECT gen_random_uuid(), app_id, $1, 'programme', id::text, now() FROM w WHERE $2 >= 0`, account, side, s.workspace, perAccount); err != nil {
				return fmt.Errorf("furnish account: %w", err)
			}
		}
		// Some workspaces both are in, with other rights.
		if _, err := s.pool.Exec(ctx, `
			INSERT INTO membership (app_id, workspace_id, account_id, role, visibility, created_at)
			SELECT app_id, workspace_id, $1, role, 'standard', created_at FROM membership WHERE account_id = $2 ORDER BY workspace_id LIMIT 4`, p.survivor, p.absorbed); err != nil {
			return fmt.Errorf("furnish account: %w", err)
		}
		if p.rows, err = s.rowsOf(ctx, p); err != nil {
			return err
		}
		s.pairs = append(s.pairs, p)
	}
	return nil
}

// rowsOf is a checksum over all rows of a pair.
func (s *stage) rowsOf(ctx context.Context, p mergePair) (sum string, err error) {
	err = s.pool.QueryRow(ctx, `
		SELECT encode(sha256(convert_to(string_agg(line, chr(10) ORDER BY line), 'UTF8')), 'hex') FROM (
			SELECT to_jsonb(t)::text AS line FROM account t WHERE id IN ($1, $2)
			UNION ALL SELECT to_jsonb(t)::text FROM secondary_email t WHERE account_id IN ($1, $2)
			UNION ALL SELECT to_jsonb(t)::text FROM membership t WHERE account_id IN ($1, $2)
			UNION ALL SELECT to_jsonb(t)::text FROM record t WHERE account_id IN ($1, $2)
			UNION ALL SELECT to_jsonb(t)::text FROM record_access t WHERE account_id IN ($1, $2)
			UNION ALL SELECT to_jsonb(t)::text FROM notification t WHERE account_id IN ($1, $2)
			UNION ALL SELECT to_jsonb(t)::text FROM account_search t WHERE account_id IN ($1, $2)
			UNION ALL SELECT id::text || state || COALESCE(target_id::text, '') FROM access_request t WHERE made_id = $2
		) AS lines`, p.survivor, p.absorbed).Scan(&sum)
	if err != nil {
		return "", fmt.Errorf("sum up rows: %w", err)
	}
	return sum, nil
}

// merging merges pairs, calls some of it off, and undoes what is done.
func (s *stage) merging(ctx context.Context, random *rand.Rand) {
	client := &http.Client{Timeout: 15 * time.Second}
	tick := time.NewTicker(mergeEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		s.steerMerge(ctx, client, s.pairs[random.IntN(len(s.pairs))], random.IntN(100))
	}
}

// steerMerge makes the next call about a pair's merge. Calls that fail, as while
// PostgreSQL restarts, are made again some other time.
func (s *stage) steerMerge(ctx context.Context, client *http.Client, p mergePair, dice int) {
	var id uuid.UUID
	var state string
	err := s.pool.QueryRow(ctx, `SELECT id, state FROM merge WHERE absorbed_id = $1 ORDER BY id DESC LIMIT 1`, p.absorbed).Scan(&id, &state)
	switch {
	case errors.Is(err, pgx.ErrNoRows), state == "undone", state == "cancelled", state == "previewed":
		merge, err := s.callMerge(client, "/v1/merges/preview", map[string]any{"access_request_id": p.request})
		if err == nil {
			_, _ = s.callMerge(client, "/v1/merges/"+merge.ID.String()+"/confirm", map[string]any{"hash": merge.Hash})
		}
	case state == "merged":
		_, _ = s.callMerge(client, "/v1/merges/"+id.String()+"/undo", nil)
	case state == "running" && dice < 5, state == "confirmed" && dice < 5:
		_, _ = s.callMerge(client, "/v1/merges/"+id.String()+"/cancel", nil)
	}
}

type mergeAnswer struct {
	ID   uuid.UUID `json:"id"`
	Hash string    `json:"hash"`
}

func (s *stage) callMerge(client *http.Client, path string, in any) (m mergeAnswer, err error) {
	answer, err := s.postAPI(client, path, in, "")
	if err == nil {
		err = json.Unmarshal(answer, &m)
	}
	return m, err
}

// mergesLeft is what has not come to an end about merges.
const mergesLeft = `
	SELECT count(*) FROM merge WHERE state IN ('confirmed', 'running', 'undoing') OR state IN ('cancelled', 'failed') AND step = 'preparing'`

// apart undoes every merge that is done, so that all pairs can be compared with
// what they were.
func (s *stage) apart(ctx context.Context) error {
	if err := s.whole(ctx); err != nil {
		return err
	}
	rows, err := s.pool.Query(ctx, `SELECT id FROM merge WHERE state = 'merged'`)
	if err != nil {
		return fmt.Errorf("look for merges: %w", err)
	}
	done, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return fmt.Errorf("look for merges: %w", err)
	}
	client := &http.Client{Timeout: 15 * time.Second}
	for _, id := range done {
		if _, err := s.callMerge(client, "/v1/merges/"+id.String()+"/undo", nil); err != nil {
			progress("torn: merge %s cannot be undone: %v", id, err)
			s.tally.Torn++
		}
	}
	return nil
}

// whole looks at pairs that are merged: what went in came out.
func (s *stage) whole(ctx context.Context) error {
	for _, p := range s.pairs {
		var merged bool
		var records, workspaces, left int
		if err := s.pool.QueryRow(ctx, `
			SELECT (SELECT status = 'merged' AND merged_into = $1 FROM account WHERE id = $2),
				(SELECT count(*) FROM record WHERE account_id = $1), (SELECT count(*) FROM membership WHERE account_id = $1 AND state = 'active'),
				(SELECT count(*) FROM record WHERE account_id = $2) + (SELECT count(*) FROM membership WHERE account_id = $2 AND state = 'active')`,
			p.survivor, p.absorbed).Scan(&merged, &records, &workspaces, &left); err != nil {
			return fmt.Errorf("look at a pair: %w", err)
		}
		if merged && (records != 2*perAccount || workspaces != 2*perAccount || left != 0) {
			progress("torn: account %s has %d records and %d workspaces, and %d rows stayed behind", p.survivor, records, workspaces, left)
			s.tally.Torn++
		}
	}
	return nil
}

// countMerges compares pairs with what they were, and merges with what the app
// knows of them.
func (s *stage) countMerges(ctx context.Context, t *tally) error {
	for _, p := range s.pairs {
		sum, err := s.rowsOf(ctx, p)
		if err != nil {
			return err
		}
		if sum != p.rows {
			progress("torn: the rows of account %s are not what they were", p.survivor)
			t.Torn++
		}
	}
	rows, err := s.pool.Query(ctx, `SELECT id::text, state, moved_at IS NOT NULL FROM merge ORDER BY id`)
	if err != nil {
		return fmt.Errorf("read merges: %w", err)
	}
	merges, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
		ID, State string
		Moved     bool
	}])
	if err != nil {
		return fmt.Errorf("read merges: %w", err)
	}
	for _, m := range merges {
		t.Merges++
		if m.Moved {
			t.Moved++
		}
		if knows := s.portal.knows[m.ID]; m.State == "undone" && knows != "merge.undo" || m.State == "merged" && knows != "merge.apply" ||
			m.State == "cancelled" && knows != "" && knows != "merge.undo" || m.State == "failed" {
			progress("torn: merge %s is %s, and the app knows %q", m.ID, m.State, knows)
			t.Torn++
		}
	}
	t.MergeKills = map[string]int{}
	for i := range workers {
		log, err := os.ReadFile(filepath.Join(s.dir, fmt.Sprintf("worker-%d.log", i+1)))
		if err != nil {
			return fmt.Errorf("read what a worker said: %w", err)
		}
		for _, found := range killedAt.FindAllSubmatch(log, -1) {
			t.MergeKills[string(found[1])]++
		}
	}
	return nil
}

// killedAt is what a worker says before it kills itself amid a merge.
var killedAt = regexp.MustCompile(`killed at (\S*merge\S*)`)
