package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

const (
	workers = 2

	// postEvery is the time between two invitations, bulkEvery that between two
	// loads of bulkSize mails that nobody waits for.
	postEvery = 40 * time.Millisecond
	bulkEvery = 4 * time.Second
	bulkSize  = 300

	// revokeShare of the invitations are withdrawn within revokeWithin.
	revokeShare  = 0.15
	revokeWithin = 1500 * time.Millisecond

	// standStill is how long a stopped worker stands: past the provider's
	// patience and its own.
	standStill = 10 * time.Second
)

// points are where a worker may kill itself.
var points = []string{"after-claim", "after-freeze", "before-call", "after-call", "after-commit"}

// spoilt are the provider's failures, each with its share of the requests.
var spoilt = []map[string]any{
	{"kind": "reset", "when": "after", "probability": 0.01},
	{"kind": "eof", "when": "after", "probability": 0.01},
	{"kind": "status", "status": 500, "when": "after", "probability": 0.01},
	{"kind": "truncated", "probability": 0.01},
	{"kind": "no_id", "probability": 0.01},
	{"kind": "timeout", "when": "after", "probability": 0.003},
	{"kind": "status", "status": 503, "probability": 0.01},
	{"kind": "html_502", "probability": 0.01},
	{"kind": "text_429", "probability": 0.005},
	{"kind": "reset", "probability": 0.01},
	{"kind": "slow", "delay": "2s", "probability": 0.01},
}

// rage lets everything happen at once until enough workers were killed.
func (s *stage) rage(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := s.tell(ctx, http.MethodPut, "/_admin/faults", spoilt, nil); err != nil {
		return err
	}
	var over atomic.Bool
	crew := make([]*keeper, workers)
	var kept, busy sync.WaitGroup
	for i := range crew {
		crew[i] = &keeper{stage: s, name: fmt.Sprintf("worker-%d", i+1), random: s.random(uint64(i) + 1)}
		kept.Go(func() { crew[i].keep(&over) })
	}
	defer func() {
		for _, k := range crew {
			k.signal(syscall.SIGCONT)
			k.signal(syscall.SIGTERM)
		}
		kept.Wait()
	}()
	busy.Go(func() { s.merging(ctx, s.random(300)) })
	if !s.merges {
		busy.Go(func() { s.post(ctx, s.random(100)) })
		busy.Go(func() { s.ask(ctx) })
	}
	defer busy.Wait()
	defer cancel()
	defer over.Store(true)

	random := s.random(0)
	restartAt := s.options.kills / 2
	for shown := 0; s.killed() < s.options.kills; {
		select {
		case <-time.After(time.Duration(200+random.IntN(900)) * time.Millisecond):
		case <-ctx.Done():
			return ctx.Err()
		}
		if s.tally.Restarts == 0 && s.killed() >= restartAt {
			if err := s.restart(ctx); err != nil {
				return err
			}
		}
		switch target, dice := crew[random.IntN(workers)], random.IntN(100); {
		case dice < 65:
			if !s.merges { // there they choose the moment themselves
				target.signal(syscall.SIGKILL)
			}
		case dice < 70:
			s.tally.Stopped++
			target.signal(syscall.SIGSTOP)
			time.AfterFunc(standStill, func() { target.signal(syscall.SIGCONT) })
		case dice < 78:
			s.tally.CutOff++
			_, _ = s.pool.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1 AND pid <> pg_backend_pid()`, database)
		case dice < 80:
			if err := s.tell(ctx, http.MethodPut, "/_admin/faults", append([]map[string]any{{"kind": "down", "delay": "2s"}}, spoilt...), nil); err != nil {
				return err
			}
		}
		if n := s.killed(); n >= shown+10 {
			shown = n
			progress("%d killed", n)
		}
	}
	return nil
}

// random is a source of its own for each who needs one: what the others do
// does not change it.
func (s *stage) random(stream uint64) *rand.Rand {
	return rand.New(rand.NewPCG(s.seed, stream))
}

func (s *stage) killed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.kills)
}

// restart ends PostgreSQL at once, as a crash does, and starts it again.
func (s *stage) restart(ctx context.Context) error {
	s.tally.Restarts++
	pid, err := os.ReadFile(filepath.Join(s.dir, "data", "postmaster.pid"))
	if err != nil {
		return fmt.Errorf("find PostgreSQL: %w", err)
	}
	line, _, _ := strings.Cut(string(pid), "\n")
	postmaster, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		return fmt.Errorf("find PostgreSQL: %w", err)
	}
	if err := syscall.Kill(postmaster, syscall.SIGQUIT); err != nil {
		return fmt.Errorf("end PostgreSQL: %w", err)
	}
	_ = s.server.Stop() // it tells that the server is gone
	return s.startServer(ctx)
}

// keeper keeps one worker running, however often it is killed.
type keeper struct {
	*stage
	name   string
	random *rand.Rand

	mu  sync.Mutex
	cmd *process
}

func (k *keeper) signal(sig syscall.Signal) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.cmd != nil {
		_ = k.cmd.cmd.Process.Signal(sig)
	}
}

func (k *keeper) keep(over *atomic.Bool) {
	for !over.Load() {
		env := k.environment()
		switch {
		case k.mutant != "": // where every one of the safeguards counts
			env = append(env, fmt.Sprintf("CHAOS_KILL=after-call:0.3:%d", k.random.Uint64N(1e9)))
		case k.merges:
			env = append(env, fmt.Sprintf("CHAOS_KILL=%s:0.3:%d", mergePoints[k.random.IntN(len(mergePoints))], k.random.Uint64N(1e9)))
		default: // every third is killed by others only
			if all := slices.Concat(points, mergePoints); k.random.IntN(3) > 0 {
				env = append(env, fmt.Sprintf("CHAOS_KILL=%s:0.1:%d", all[k.random.IntN(len(all))], k.random.Uint64N(1e9)))
			}
		}
		p, err := launch(k.dir, k.name, env, k.usher, "worker")
		if err != nil {
			progress("%v", err)
			return
		}
		k.mu.Lock()
		k.cmd = p
		k.mu.Unlock()
		<-p.ended
		if status, ok := p.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && status.Signal() == syscall.SIGKILL {
			k.died()
		}
	}
}

// died notes a kill and what was under way.
func (k *keeper) died() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	end := kill{at: time.Now()}
	// While PostgreSQL restarts nobody knows, and the kill counts all the same.
	if rows, err := k.pool.Query(ctx, `SELECT id FROM dispatch WHERE state = 'sending'`); err == nil {
		end.underWay, _ = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	}
	k.stage.mu.Lock()
	defer k.stage.mu.Unlock()
	k.kills = append(k.kills, end)
}

// post asks for invitations over HTTP, and withdraws some.
func (s *stage) post(ctx context.Context, random *rand.Rand) {
	client := &http.Client{Timeout: 15 * time.Second}
	var under sync.WaitGroup
	defer under.Wait()
	tick := time.NewTicker(postEvery)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		revoke := time.Duration(0)
		if random.Float64() < revokeShare {
			revoke = time.Duration(random.Int64N(int64(revokeWithin)))
		}
		under.Go(func() {
			id, err := s.call(client, "/v1/invitations", map[string]any{
				"email": fmt.Sprintf("guest-%d@people.example", n), "full_name": "Ann Example", "workspace_id": s.workspace,
			}, fmt.Sprintf("chaos-%d", n))
			if err != nil {
				return // who gets no answer knows nothing
			}
			s.mu.Lock()
			s.published = append(s.published, id)
			s.mu.Unlock()
			if revoke > 0 {
				time.Sleep(revoke)
				_, _ = s.call(client, "/v1/invitations/"+id.String()+"/revoke", struct{}{}, "")
			}
		})
	}
}

// call posts to the API and returns the id in the answer.
func (s *stage) call(client *http.Client, path string, in any, key string) (uuid.UUID, error) {
	answer, err := s.postAPI(client, path, in, key)
	if err != nil {
		return uuid.Nil, err
	}
	var made struct {
		ID uuid.UUID `json:"id"`
	}
	return made.ID, json.Unmarshal(answer, &made)
}

// postAPI posts to the API and returns the answer, which is a success.
func (s *stage) postAPI(client *http.Client, path string, in any, key string) ([]byte, error) {
	var body []byte
	if in != nil {
		var err error
		if body, err = json.Marshal(in); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequest(http.MethodPost, s.webURL+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+s.key)
	req.Header.Set("Usher-Actor", s.account.String())
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	resp, err := client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err == nil && resp.StatusCode >= 300 {
		err = fmt.Errorf("%s: %s", resp.Status, answer)
	}
	return answer, err
}

// ask stores loads of mail that nobody waits for.
func (s *stage) ask(ctx context.Context) {
	tick := time.NewTicker(bulkEvery)
	defer tick.Stop()
	for {
		// What fails, as while PostgreSQL restarts, was not asked for.
		_, _ = s.pool.Exec(ctx, `
			WITH asked AS (
				INSERT INTO invitation (id, app_id, workspace_id, inviter_id, kind, email, email_key, full_name, locale, note, state, sends, message_id, queued_at, expires_at, created_at)
				SELECT gen_random_uuid(), $1, $2, $3, 'new_user', e, e, 'Ann Example', '', '', 'pending', 1, gen_random_uuid(), now(), now() + interval '14 days', now()
				FROM (SELECT 'bulk-' || gen_random_uuid() || '@people.example' AS e FROM generate_series(1, $4::int)) q
				RETURNING *
			), message AS (
				INSERT INTO message (id, app_id, kind, subject_id, purpose, args, lane, email_key, state, due_at, created_at)
				SELECT message_id, app_id, 'invitation', id, 'v1:send:1', '{"version": 1, "send": 1}', 'bulk', email_key, 'queued', now(), now() FROM asked
			)
			INSERT INTO river_job (kind, args, queue, max_attempts)
			VALUES ('compose_mail', '{"lane": "bulk"}', 'mail_bulk', 3)`, s.app, s.workspace, s.account, bulkSize)
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
	}
}
