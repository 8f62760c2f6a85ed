package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/hook"
	"usher/internal/postgres"
	"usher/internal/roster"
	"usher/jobs"
)

const (
	// webhookBatch is how many webhooks one round sends, webhookRounds how often
	// Usher and the floor take turns.
	webhookBatch  = 5_000
	webhookRounds = 3

	// webhookSenders is how many webhooks Usher has under way to one endpoint.
	webhookSenders = 8

	// webhookEvery is the time between two events of which the delay is measured.
	webhookEvery = 20 * time.Millisecond
)

// receiver is a webhook endpoint on this machine that answers at once, or
// never.
type receiver struct {
	url    string
	hangs  bool
	server *http.Server

	mu     sync.Mutex
	bodies [][]byte
	header []http.Header
	delays []float64 // from the event's time to its receipt, in milliseconds
}

func startReceiver(hangs bool) (*receiver, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("start receiver: %w", err)
	}
	r := &receiver{url: "http://" + listener.Addr().String(), hangs: hangs}
	r.server = &http.Server{Handler: r, ReadHeaderTimeout: time.Minute}
	go func() { _ = r.server.Serve(listener) }() // its end is the receiver's
	return r, nil
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	at := time.Now()
	body, _ := io.ReadAll(req.Body)
	if r.hangs {
		<-req.Context().Done()
		return
	}
	var event struct{ Timestamp time.Time }
	_ = json.Unmarshal(body, &event) // what is no event counts by its delay
	r.mu.Lock()
	r.bodies, r.header = append(r.bodies, body), append(r.header, req.Header)
	r.delays = append(r.delays, milliseconds(at.Sub(event.Timestamp)))
	r.mu.Unlock()
	w.WriteHeader(http.StatusNoContent)
}

// take gives what came, and forgets it.
func (r *receiver) take() (bodies [][]byte, header []http.Header, delays []float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	bodies, header, delays = r.bodies, r.header, r.delays
	r.bodies, r.header, r.delays = nil, nil, nil
	return bodies, header, delays
}

// listen makes the receiver an endpoint of the app.
func (b *bench) listen(ctx context.Context, r *receiver) (roster.Endpoint, error) {
	keys, err := roster.NewKeyring(secret)
	if err != nil {
		return roster.Endpoint{}, err
	}
	return b.roster().CreateEndpoint(ctx, b.app, roster.NewEndpoint{
		URL: r.url, Types: []string{roster.EventCreated}, SecretKey: keys.ID(),
	}, roster.IdempotencyKey{})
}

func (b *bench) roster() *roster.Roster {
	queue, err := jobs.NewInserter(b.pool, nil)
	if err != nil {
		panic(err) // its settings are constants
	}
	return &roster.Roster{DB: b.pool, Jobs: queue, Now: time.Now}
}

// webhookOut measures webhooks a second to one endpoint that answers at once,
// from the committed events to the last recorded answer. The floor posts the
// same bodies and headers, ready made, by the same client over as many
// connections.
func webhookOut(ctx context.Context, b *bench) (f figure, err error) {
	if err := b.clear(ctx); err != nil {
		return f, err
	}
	r, err := startReceiver(false)
	if err != nil {
		return f, err
	}
	defer r.server.Close()
	endpoint, err := b.listen(ctx, r)
	if err != nil {
		return f, err
	}
	worker, err := b.startUsher(ctx, "worker", "", "USHER_DEV=1")
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, worker.stop()) }()
	f = figure{Unit: "1/s", Connections: webhookSenders}
	for n := range webhookRounds + 1 {
		took, err := b.sendWebhooks(ctx, endpoint.ID)
		if err != nil {
			return f, err
		}
		bodies, header, _ := r.take()
		if len(bodies) != webhookBatch {
			return f, fmt.Errorf("%d webhooks came of %d", len(bodies), webhookBatch)
		}
		bare, err := postWebhooks(ctx, r.url, bodies, header)
		if err != nil {
			return f, err
		}
		r.take()
		if n == 0 { // to warm up
			continue
		}
		f.N += webhookBatch
		f.Rounds, f.FloorRounds = append(f.Rounds, webhookBatch/took.Seconds()), append(f.FloorRounds, webhookBatch/bare.Seconds())
	}
	f.Value, f.Floor = median(f.Rounds), median(f.FloorRounds)
	return f, nil
}

// sendWebhooks stores events for the endpoint, wakes it, and waits until all are
// recorded as delivered.
func (b *bench) sendWebhooks(ctx context.Context, endpoint uuid.UUID) (took time.Duration, err error) {
	ids := make([]uuid.UUID, webhookBatch)
	for i := range ids {
		ids[i] = uuid.Must(uuid.NewV7())
	}
	r := b.roster()
	if err := postgres.InTx(ctx, b.pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `
			INSERT INTO event (id, app_id, type, subject_id, actor_id, data, at)
			SELECT id, $2, $3, id, $4, jsonb_build_object('version', 1, 'workspace_id', $5::uuid), now() FROM unnest($1::uuid[]) AS id`,
			ids, b.app, roster.EventCreated, b.account, b.workspace); err != nil {
			return fmt.Errorf("store events: %w", err)
		}
		if _, err := tx.Exec(ctx, `
			INSERT INTO webhook_delivery (endpoint_id, event_id, app_id, state, due_at, created_at)
			SELECT $2, id, $3, 'waiting', now(), now() FROM unnest($1::uuid[]) AS id`, ids, endpoint, b.app); err != nil {
			return fmt.Errorf("queue events: %w", err)
		}
		_, err := r.Jobs.InsertTx(ctx, tx, roster.DeliverWebhooks{EndpointID: endpoint}, nil)
		return err
	}); err != nil {
		return 0, err
	}
	start := time.Now()
	ctx, cancel := context.WithTimeout(ctx, sendingTime)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		var waiting bool
		if err := b.pool.QueryRow(ctx, `
			SELECT EXISTS (SELECT FROM webhook_delivery WHERE endpoint_id = $1 AND state = 'waiting')`, endpoint).Scan(&waiting); err != nil {
			return 0, fmt.Errorf("look for waiting webhooks: %w", err)
		}
		if !waiting {
			return time.Since(start), nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return 0, errors.New("the webhooks were not delivered in time")
		}
	}
}

// postWebhooks posts requests bare, over webhookSenders connections.
func postWebhooks(ctx context.Context, url string, bodies [][]byte, header []http.Header) (time.Duration, error) {
	client := hook.NewClient(true)
	defer client.CloseIdleConnections()
	todo, failed := make(chan int), make(chan error, webhookSenders)
	var senders sync.WaitGroup
	start := time.Now()
	for range webhookSenders {
		senders.Go(func() {
			for i := range todo {
				req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, bytes.NewReader(bodies[i]))
				if err == nil {
					req.Header = header[i]
					var resp *http.Response
					if resp, err = client.Do(req); err == nil {
						_, err = io.Copy(io.Discard, resp.Body)
						err = errors.Join(err, resp.Body.Close())
					}
				}
				if err != nil {
					select {
					case failed <- fmt.Errorf("post bare: %w", err):
					default:
					}
				}
			}
		})
	}
	for i := range bodies {
		todo <- i
	}
	close(todo)
	senders.Wait()
	took := time.Since(start)
	select {
	case err := <-failed:
		return 0, err
	default:
		return took, nil
	}
}

// webhookIsolated measures how long an event takes to arrive at an endpoint
// while another one of the same app hangs: the 95th percentile, from the
// event's time on. The floor is the same while there is no other.
func webhookIsolated(ctx context.Context, b *bench) (f figure, err error) {
	if err := b.clear(ctx); err != nil {
		return f, err
	}
	healthy, err := startReceiver(false)
	if err != nil {
		return f, err
	}
	defer healthy.server.Close()
	hanging, err := startReceiver(true)
	if err != nil {
		return f, err
	}
	defer hanging.server.Close()
	web, err := b.startWeb(ctx)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, web.stop()) }()
	worker, err := b.startUsher(ctx, "worker", "", "USHER_DEV=1")
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, worker.stop()) }()
	c, err := b.connect(web.address)
	if err != nil {
		return f, err
	}
	defer c.conn.Close()
	if _, err := b.listen(ctx, healthy); err != nil {
		return f, err
	}
	// Turns are short of what a hanging endpoint is given up after, so that it
	// hangs all the time; each has a new one.
	turn := time.Duration((1 - warmUp) * float64(b.perFigure) / (2 * webhookRounds))
	if _, err := b.delays(ctx, c, healthy, time.Duration(warmUp*float64(b.perFigure))); err != nil {
		return f, err
	}
	f = figure{Unit: "ms"}
	for range webhookRounds {
		alone, err := b.delays(ctx, c, healthy, turn)
		if err != nil {
			return f, err
		}
		other, err := b.listen(ctx, hanging)
		if err != nil {
			return f, err
		}
		beside, err := b.delays(ctx, c, healthy, turn)
		if err != nil {
			return f, err
		}
		if err := b.roster().DeleteEndpoint(ctx, b.app, other.ID); err != nil {
			return f, err
		}
		f.N += len(beside)
		f.Rounds, f.FloorRounds = append(f.Rounds, quantile(beside, 0.95)), append(f.FloorRounds, quantile(alone, 0.95))
	}
	f.Value, f.Floor = median(f.Rounds), median(f.FloorRounds)
	return f, nil
}

// delays posts invitations for a while and gives how long their events took to
// arrive.
func (b *bench) delays(ctx context.Context, c *client, r *receiver, d time.Duration) ([]float64, error) {
	tick := time.NewTicker(webhookEvery)
	defer tick.Stop()
	posted := 0
	for end := time.Now().Add(d); time.Now().Before(end) && ctx.Err() == nil; posted++ {
		<-tick.C
		if err := c.post(); err != nil {
			return nil, err
		}
	}
	end := time.Now().Add(drainTime)
	for {
		r.mu.Lock()
		n := len(r.bodies)
		r.mu.Unlock()
		if n >= posted {
			_, _, delays := r.take()
			return delays, ctx.Err()
		}
		if time.Now().After(end) || ctx.Err() != nil {
			return nil, errors.Join(fmt.Errorf("%d webhooks came of %d", n, posted), ctx.Err())
		}
		<-tick.C
	}
}
