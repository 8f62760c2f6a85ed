package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"usher/internal/mail/mailtest"
	"usher/internal/postgres/postgrestest"
)

// installation is a database, the provider's stand-in and an app; the processes
// come and go.
type installation struct {
	env      []string
	pool     *pgxpool.Pool
	provider *mailtest.Provider
	web      *process
	site     site
}

// install starts a web process and makes an app. The provider takes latency
// between accepting a mail and answering.
func install(t *testing.T, latency time.Duration, more ...string) *installation {
	t.Helper()
	database := postgrestest.DatabaseURL(t)
	provider := mailtest.Start(t, "-latency", latency.String())
	i := &installation{
		env: environment(database, append(more, "RESEND_API_KEY="+provider.APIKey, "RESEND_BASE_URL="+provider.URL,
			"USHER_MAIL_FROM=Usher <usher@invite.example>", "LOG_LEVEL=warn")...),
		provider: provider,
	}
	var err error
	if i.pool, err = pgxpool.New(t.Context(), database); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(i.pool.Close)
	i.web = start(t, t.TempDir(), append(i.env, "LOG_LEVEL=info"), "web")
	i.site = newSite(t, i.env, newBalancer(i.web.address(t)))
	return i
}

// worker starts a worker process.
func (i *installation) worker(t testing.TB) *process {
	t.Helper()
	return start(t, t.TempDir(), i.env, "worker")
}

// count runs a query that counts.
func (i *installation) count(t testing.TB, query string, args ...any) (n int) {
	t.Helper()
	if err := i.pool.QueryRow(t.Context(), query, args...).Scan(&n); err != nil {
		t.Fatalf("%s: %v", query, err)
	}
	return n
}

// settled waits until no mail is under way, then looks at what became of want
// invitations: one mail each, taken by the provider, and known to be.
func (i *installation) settled(t testing.TB, want int) mailtest.Ledger {
	t.Helper()
	eventually(t, "all mail is settled", func() (bool, error) {
		return i.count(t, `
			SELECT (SELECT count(*) FROM message WHERE settled_at IS NULL)
				+ (SELECT count(*) FROM river_job WHERE kind = 'send_dispatch' AND finalized_at IS NULL)`) == 0, nil
	})
	for query, want := range map[string]int{
		`SELECT count(*) FROM invitation`:                                                      want,
		`SELECT count(*) FROM message`:                                                         want,
		`SELECT count(*) FROM message WHERE state = 'accepted' AND provider_id <> ''`:          want,
		`SELECT count(DISTINCT subject_id) FROM message`:                                       want,
		`SELECT count(DISTINCT provider_id) FROM message`:                                      want,
		`SELECT sum(cardinality(message_ids)) FROM dispatch WHERE state = 'settled'`:           want,
		`SELECT count(*) FROM dispatch WHERE state NOT IN ('settled', 'dissolved')`:            0,
		`SELECT count(*) FROM river_job WHERE state IN ('discarded', 'cancelled')`:             0,
		`SELECT count(*) FROM river_job WHERE kind = 'send_dispatch' AND state <> 'completed'`: 0,
		`SELECT count(*) FROM event WHERE type = 'invitation.created'`:                         want,
	} {
		if got := i.count(t, query); got != want {
			t.Errorf("%s: %d, want %d", query, got, want)
		}
	}
	ledger, err := i.provider.Ledger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if len(ledger.Messages) != want || ledger.Counters.Accepted != want {
		t.Errorf("the provider has %d mails of %d messages, want %d", ledger.Counters.Accepted, len(ledger.Messages), want)
	}
	for _, m := range ledger.Messages {
		if m.Count != 1 || m.MessageID == "" {
			t.Errorf("the provider has message %q %d times", m.MessageID, m.Count)
		}
	}
	return ledger
}

// TestKilledAfterTheAnswer kills workers where it hurts most: the provider said
// 200, and what it said is not committed yet. The commit is held back by a lock
// on a message's row. The dispatches hold one mail to three.
func TestKilledAfterTheAnswer(t *testing.T) {
	t.Parallel()
	const kills = 20
	i := install(t, 300*time.Millisecond)
	mails := 0
	for n := range kills {
		var last invitation
		for range n%3 + 1 {
			last = i.site.invite(t, someAddress(), "Ann Okafor", "en")
			mails++
		}
		i.killBeforeCommit(t, i.worker(t), last.ID)
		// What a killed process leaves is in nobody's way when it is twenty
		// seconds old: let it be.
		if _, err := i.pool.Exec(t.Context(), `UPDATE dispatch SET created_at = created_at - interval '20 seconds'`); err != nil {
			t.Fatal(err)
		}
	}
	if n := i.count(t, `SELECT count(*) FROM dispatch WHERE state = 'sending' AND unknown = 1 AND attempts = 1`); n != kills {
		t.Fatalf("%d dispatches are left without an outcome, want %d: the kills came too late", n, kills)
	}
	if n := i.count(t, `SELECT count(*) FROM message WHERE state = 'sending'`); n != mails {
		t.Fatalf("%d messages are left without an outcome, want %d", n, mails)
	}

	// Orphans are rescued when their jobs are old enough: let them be.
	if _, err := i.pool.Exec(t.Context(), `
		UPDATE river_job SET attempted_at = attempted_at - interval '3 minutes' WHERE state = 'running'`); err != nil {
		t.Fatal(err)
	}
	worker := i.worker(t)
	ledger := i.settled(t, mails)
	if ledger.Counters.Replayed != kills || ledger.Counters.ConflictingKeys != 0 {
		t.Errorf("the provider was asked again %d times, %d of them with other bytes, want %d and 0",
			ledger.Counters.Replayed, ledger.Counters.ConflictingKeys, kills)
	}
	worker.finish(t)
	i.web.finish(t)
}

// killBeforeCommit lets the worker get the provider's answer for an invitation,
// and kills it while it waits to record it.
func (i *installation) killBeforeCommit(t *testing.T, worker *process, invitation string) {
	t.Helper()
	tx, err := i.pool.Begin(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer tx.Rollback(context.WithoutCancel(t.Context()))
	var message string
	eventually(t, "the message is frozen", func() (bool, error) {
		err := tx.QueryRow(t.Context(), `
			SELECT id FROM message WHERE subject_id = $1 AND state = 'sending' FOR UPDATE`, invitation).Scan(&message)
		if errors.Is(err, pgx.ErrNoRows) {
			return false, nil
		}
		return err == nil, err
	})
	eventually(t, "the provider answers", func() (bool, error) {
		ledger, err := i.provider.Ledger(t.Context())
		for _, line := range ledger.Messages {
			if line.MessageID == message && line.Answered == 1 {
				return true, err
			}
		}
		return false, err
	})
	eventually(t, "the worker waits for the message's row", func() (bool, error) {
		return i.count(t, `
			SELECT count(*) FROM pg_stat_activity
			WHERE datname = current_database() AND wait_event_type = 'Lock'`) > 0, nil
	})
	worker.kill(t)
}

// load posts invitations from eight connections until the front is gone, and
// keeps the ids of those that were answered 2xx.
type load struct {
	done     sync.WaitGroup
	stop     atomic.Bool
	answered atomic.Int64
	mu       sync.Mutex
	ids      []string
	refused  []error // answers that are not 2xx
}

func startLoad(t *testing.T, s site) *load {
	t.Helper()
	l := &load{}
	for connection := range 8 {
		transport := http.DefaultTransport.(*http.Transport).Clone()
		t.Cleanup(transport.CloseIdleConnections)
		balanced := s.transport.(*balancer)
		s := s
		s.transport = roundTrip(func(req *http.Request) (*http.Response, error) {
			out := req.Clone(req.Context())
			out.Host, out.URL.Host = req.URL.Host, balanced.addresses[0]
			resp, err := transport.RoundTrip(out)
			if err == nil && resp.StatusCode >= 300 {
				l.mu.Lock()
				l.refused = append(l.refused, fmt.Errorf("answered %s", resp.Status))
				l.mu.Unlock()
			}
			return resp, err
		})
		l.done.Add(1)
		go func() {
			defer l.done.Done()
			for n := 0; !l.stop.Load(); n++ {
				var inv invitation
				err := s.call(t.Context(), http.MethodPost, "/v1/invitations", map[string]any{
					"email": fmt.Sprintf("ann.%d.%d@client.example", connection, n), "full_name": "Ann Okafor", "workspace_id": s.workspace,
				}, &inv)
				if err != nil {
					return // the front is gone
				}
				l.mu.Lock()
				l.ids = append(l.ids, inv.ID)
				l.mu.Unlock()
				l.answered.Add(1)
			}
		}()
	}
	t.Cleanup(func() { l.stop.Store(true); l.done.Wait() })
	return l
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(req *http.Request) (*http.Response, error) { return f(req) }

// reaches waits until n requests were answered 2xx.
func (l *load) reaches(t testing.TB, n int64) {
	t.Helper()
	eventually(t, fmt.Sprintf("%d requests are answered", n), func() (bool, error) {
		l.mu.Lock()
		defer l.mu.Unlock()
		return l.answered.Load() >= n, errors.Join(l.refused...)
	})
}

// kept waits for the load's end and wants everything answered 2xx to be stored
// with its mail. It returns how many that are.
func (l *load) kept(t testing.TB, i *installation) int {
	t.Helper()
	l.done.Wait()
	for _, err := range l.refused {
		t.Errorf("a request was %v; want it answered 2xx or not at all", err)
	}
	if stored := i.count(t, `
		SELECT count(*) FROM invitation
		WHERE id = ANY($1) AND (SELECT count(*) FROM message WHERE subject_id = invitation.id) = 1`, l.ids); stored != len(l.ids) {
		t.Errorf("%d requests were answered 2xx, %d are stored with their mail", len(l.ids), stored)
	}
	return len(l.ids)
}

// TestStoppedUnderLoad sends SIGTERM to the web front while it is posted to, and
// then to the worker while it sends. Both end in time, and nothing is lost.
func TestStoppedUnderLoad(t *testing.T) {
	t.Parallel()
	i := install(t, 400*time.Millisecond)
	worker := i.worker(t)
	l := startLoad(t, i.site)
	l.reaches(t, 300)
	before := time.Now()
	i.web.finish(t)
	kept := l.kept(t, i)
	total := i.count(t, `SELECT count(*) FROM invitation`)
	t.Logf("web ended %s after SIGTERM: %d answered 2xx, %d stored", time.Since(before).Round(time.Millisecond), kept, total)

	eventually(t, "mail is sent", func() (bool, error) {
		ledger, err := i.provider.Ledger(t.Context())
		return ledger.Counters.Answered > 0, err
	})
	before = time.Now()
	worker.finish(t)
	left := i.count(t, `SELECT count(*) FROM message WHERE state IN ('queued', 'sending')`)
	t.Logf("the worker ended %s after SIGTERM and left %d of %d mails", time.Since(before).Round(time.Millisecond), left, total)
	if left == 0 {
		t.Fatal("the worker had nothing left to do when it was stopped")
	}
	if n := i.count(t, `SELECT count(*) FROM river_job WHERE state = 'running'`); n > 0 {
		t.Errorf("the worker left %d jobs running", n)
	}
	if n := i.count(t, `SELECT count(*) FROM dispatch WHERE unknown > 0`); n > 0 {
		t.Errorf("the worker left %d dispatches without an outcome", n)
	}

	second := i.worker(t)
	if replayed := i.settled(t, total).Counters.Replayed; replayed > 0 {
		t.Errorf("the provider was asked again %d times; a worker that ends in order finishes its mails", replayed)
	}
	second.finish(t)
}

// TestWebKilledUnderLoad kills the web front while it is posted to.
func TestWebKilledUnderLoad(t *testing.T) {
	t.Parallel()
	i := install(t, 0)
	l := startLoad(t, i.site)
	l.reaches(t, 300)
	i.web.signal(t, syscall.SIGKILL)
	i.web.wait(t, patience)
	kept := l.kept(t, i)
	eventually(t, "the database is through with what the killed process asked of it", func() (bool, error) {
		return i.count(t, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state <> 'idle' AND pid <> pg_backend_pid()`) == 0, nil
	})
	total := i.count(t, `SELECT count(*) FROM invitation`)
	t.Logf("%d answered 2xx, %d stored", kept, total)
	worker := i.worker(t)
	i.settled(t, total)
	worker.finish(t)
}
