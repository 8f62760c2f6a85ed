package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/mail"
)

const (
	// freeMails and pacedMails are how many mails are sent, bulkMails how many
	// wait beside those that somebody waits for.
	freeMails  = 30_000
	pacedMails = 10_000
	bulkMails  = 50_000

	// freeRate is a limit nobody meets, limitedRate the provider's default.
	freeRate    = 100_000
	limitedRate = 10

	// perRequest is the most mails a request may carry.
	perRequest = 100

	// freeLatency is the provider's, where its limit is none.
	freeLatency = 50 * time.Millisecond

	// workers are the processes that send.
	workers = 2

	// floorSenders is how many requests the floor has open: as many as Usher's
	// bulk lane.
	floorSenders = 8

	// sendingTime bounds the longest of these figures.
	sendingTime = 2 * time.Minute

	// askEvery is the time between two invitations that somebody waits for.
	askEvery = 250 * time.Millisecond
)

// letter is an invitation like those that are sent.
var letter = mail.InvitationLetter{
	Brand: mail.Brand{Name: "Harbour Portal", Color: "#0b6e4f"}, Locale: "es", RecipientName: "Ann Example",
	InviterName: "Bea Moreno", CompanyName: "Harbour Physiotherapy", WorkspaceName: "Ann Example - Private",
	Note: "See you on Monday!", Link: "http://localhost:8080/i/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", StopLink: "http://localhost:8080/u/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
	ExpiresAt: time.Now().AddDate(0, 0, 14), Zone: time.UTC,
}

// mailRender measures how long it takes to write an invitation, HTML and text.
// The floor is encoding the written mail for the provider.
func mailRender(_ context.Context, b *bench) (f figure, err error) {
	micros := func(do func() error) (float64, int, error) {
		n := 0
		start := time.Now()
		for ; time.Since(start) < b.perFigure/4; n++ {
			if err := do(); err != nil {
				return 0, 0, err
			}
		}
		return float64(time.Since(start).Microseconds()) / float64(n), n, nil
	}
	var content mail.Content
	f = figure{Unit: "us"}
	if f.Value, f.N, err = micros(func() (err error) { content, err = mail.RenderInvitation(letter); return err }); err != nil {
		return f, err
	}
	f.Floor, _, err = micros(func() error { _, err := json.Marshal(content); return err })
	return f, err
}

// mailFree measures mails a second from the committed message to the recorded
// acceptance, of a provider that answers after 50 ms and limits nobody. The
// floor posts the same requests, ready made, by the same client.
func mailFree(ctx context.Context, b *bench) (f figure, err error) {
	took, provider, err := b.drainBulk(ctx, freeMails, freeRate, freeLatency)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, provider.stop()) }()
	bodies, err := requests()
	if err != nil {
		return f, err
	}
	floor, err := postBare(ctx, provider, bodies)
	if err != nil {
		return f, err
	}
	return figure{
		Unit: "1/s", Value: freeMails / took.Seconds(), Floor: float64(len(bodies)*perRequest) / floor.Seconds(), N: freeMails,
	}, nil
}

// mailPaced measures mails a second where the provider takes 10 requests a
// second. The floor is that limit with 100 mails in each request.
func mailPaced(ctx context.Context, b *bench) (f figure, err error) {
	took, provider, err := b.drainBulk(ctx, pacedMails, limitedRate, 80*time.Millisecond)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, provider.stop()) }()
	counters, err := provider.counters(ctx)
	if err != nil {
		return f, err
	}
	return figure{
		Unit: "1/s", Value: pacedMails / took.Seconds(), Floor: limitedRate * perRequest, N: pacedMails,
		Rejected: float64(counters.Rejected429) / float64(counters.Requests),
	}, nil
}

// mailInteractive measures how long single invitations take from the POST to
// the provider's acceptance while bulk mail takes all of its limit. Value is
// the 95th percentile; the floor is the time between two requests.
func mailInteractive(ctx context.Context, b *bench) (f figure, err error) {
	if err := b.clear(ctx); err != nil {
		return f, err
	}
	provider, sending, err := b.startSending(ctx, limitedRate, 80*time.Millisecond)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, sending.stop(), provider.stop()) }()
	web, err := b.startWeb(ctx)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, web.stop()) }()
	c, err := b.connect(web.address)
	if err != nil {
		return f, err
	}
	defer c.conn.Close()
	if err := b.askBulk(ctx, bulkMails); err != nil {
		return f, err
	}
	tick := time.NewTicker(askEvery)
	defer tick.Stop()
	for end := time.Now().Add(b.perFigure); time.Now().Before(end); f.N++ {
		<-tick.C
		if err := c.post(); err != nil {
			return f, err
		}
	}
	if err := b.settled(ctx, "lane = 'interactive'"); err != nil {
		return f, err
	}
	var left int
	if err := b.pool.QueryRow(ctx, `SELECT count(*) FROM message WHERE lane = 'bulk' AND state = 'queued'`).Scan(&left); err != nil {
		return f, fmt.Errorf("count bulk mail: %w", err)
	}
	if left == 0 {
		return f, errors.New("the bulk mail was gone before the end; take a shorter time")
	}
	rows, err := b.pool.Query(ctx, `
		SELECT 1000 * extract(epoch FROM message.settled_at - invitation.created_at)::float8
		FROM message JOIN invitation ON invitation.message_id = message.id WHERE lane = 'interactive' AND message.state = 'accepted'`)
	if err != nil {
		return f, fmt.Errorf("read waits: %w", err)
	}
	waits, err := pgx.CollectRows(rows, pgx.RowTo[float64])
	if err != nil {
		return f, fmt.Errorf("read waits: %w", err)
	}
	if len(waits) != f.N {
		return f, fmt.Errorf("%d invitations were posted and %d mailed", f.N, len(waits))
	}
	f.Unit, f.Value, f.P99, f.Floor = "ms", quantile(waits, 0.95), quantile(waits, 0.99), 1000/limitedRate
	return f, nil
}

// sending is the worker processes.
type sending []*process

func (s sending) stop() (err error) {
	for _, p := range s {
		err = errors.Join(err, p.stop())
	}
	return err
}

// startSending starts the provider's stand-in and the workers, and has them
// learn its limit.
func (b *bench) startSending(ctx context.Context, rate int, latency time.Duration) (provider *process, s sending, err error) {
	if provider, err = b.startProvider(ctx, rate, latency); err != nil {
		return nil, nil, err
	}
	for i := range workers {
		p, err := b.startUsher(ctx, "worker", "", "RESEND_API_KEY="+providerKey, "RESEND_BASE_URL=http://"+provider.address, "USHER_MAIL_FROM=Usher <usher@usher.example>")
		if err != nil {
			return nil, nil, errors.Join(err, s.stop(), provider.stop())
		}
		p.name = fmt.Sprintf("%s %d", p.name, i+1)
		s = append(s, p)
	}
	err = b.askBulk(ctx, 1)
	if err == nil {
		err = b.settled(ctx, "true")
	}
	if err == nil {
		_, err = b.pool.Exec(ctx, "DELETE FROM message")
	}
	if err != nil {
		return nil, nil, errors.Join(err, s.stop(), provider.stop())
	}
	return provider, s, nil
}

// drainBulk tells how long the workers take to send that many mails, from their
// commit on. The provider stays.
func (b *bench) drainBulk(ctx context.Context, n, rate int, latency time.Duration) (took time.Duration, provider *process, err error) {
	if err := b.clear(ctx); err != nil {
		return 0, nil, err
	}
	provider, s, err := b.startSending(ctx, rate, latency)
	if err != nil {
		return 0, nil, err
	}
	if err = b.askBulk(ctx, n); err == nil {
		err = b.settled(ctx, "true")
	}
	if err == nil {
		err = b.pool.QueryRow(ctx, `SELECT extract(epoch FROM max(settled_at) - max(pg_xact_commit_timestamp(invitation.xmin)))::float8
			FROM message JOIN invitation ON invitation.id = message.subject_id`).Scan((*seconds)(&took))
	}
	if err = errors.Join(err, s.stop()); err != nil {
		return 0, nil, errors.Join(err, provider.stop())
	}
	return took, provider, nil
}

// seconds scans a number of them.
type seconds time.Duration

// ScanFloat64 takes the number.
func (s *seconds) Scan(v any) error {
	n, ok := v.(float64)
	if !ok {
		return fmt.Errorf("scan seconds from %T", v)
	}
	*s = seconds(n * float64(time.Second))
	return nil
}

// askBulk stores n invitations whose mails wait in the bulk lane, and the job
// that has them written, in one transaction.
func (b *bench) askBulk(ctx context.Context, n int) error {
	tx, err := b.pool.Begin(ctx)
	if err != nil {
		return fmt.Errorf("ask for bulk mail: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	for _, statement := range []string{
		`WITH asked AS (
			INSERT INTO invitation (id, app_id, workspace_id, inviter_id, kind, email, email_key, full_name, locale, note, state, sends, message_id, queued_at, expires_at, created_at)
			SELECT gen_random_uuid(), $1, $2, $3, 'new_user', e, e, 'Ann Example', '', '', 'pending', 1, gen_random_uuid(), now(), now() + interval '14 days', now()
			FROM (SELECT 'bulk-' || gen_random_uuid() || '@people.example' AS e FROM generate_series(1, $4::int)) q
			RETURNING *
		)
		INSERT INTO message (id, app_id, kind, subject_id, purpose, args, lane, email_key, state, due_at, created_at)
		SELECT message_id, app_id, 'invitation', id, 'v1:send:1', '{"version": 1, "send": 1}', 'bulk', email_key, 'queued', now(), now() FROM asked`,
		`INSERT INTO river_job (kind, args, queue, max_attempts) SELECT 'compose_mail', '{"lane": "bulk"}', 'mail_bulk', 3
		FROM (SELECT $1::uuid, $2::uuid, $3::uuid, $4::int) q RETURNING pg_notify('public.river_insert', '{"queue": "mail_bulk"}')`,
	} {
		if _, err := tx.Exec(ctx, statement, b.app, b.workspace, b.account, n); err != nil {
			return fmt.Errorf("ask for bulk mail: %w", err)
		}
	}
	return tx.Commit(ctx)
}

// settled waits until no mail that meets the condition is on its way.
func (b *bench) settled(ctx context.Context, condition string) error {
	ctx, cancel := context.WithTimeout(ctx, sendingTime)
	defer cancel()
	tick := time.NewTicker(200 * time.Millisecond)
	defer tick.Stop()
	for {
		var left bool
		if err := b.pool.QueryRow(ctx, `
			SELECT EXISTS (SELECT FROM message WHERE state IN ('queued', 'held', 'sending') AND `+condition+`)`).Scan(&left); err != nil {
			return fmt.Errorf("look for mail on its way: %w", err)
		}
		if !left {
			break
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("mail is still on its way after %s", sendingTime)
		}
	}
	var lost int
	if err := b.pool.QueryRow(ctx, `SELECT count(*) FROM message WHERE state <> 'accepted' AND `+condition).Scan(&lost); err != nil {
		return fmt.Errorf("count mails: %w", err)
	}
	if lost > 0 {
		return fmt.Errorf("%d mails were not accepted", lost)
	}
	return nil
}

// requests are as many full requests as Usher sends.
func requests() ([]mail.Dispatch, error) {
	content, err := mail.RenderInvitation(letter)
	if err != nil {
		return nil, err
	}
	dispatches := make([]mail.Dispatch, freeMails/perRequest)
	for i := range dispatches {
		d := &dispatches[i]
		d.ID, d.Endpoint, d.MessageIDs = uuid.Must(uuid.NewV7()), "/emails/batch", make([]uuid.UUID, perRequest)
		mails := make([]map[string]any, perRequest)
		for j := range mails {
			d.MessageIDs[j] = uuid.Must(uuid.NewV7())
			mails[j] = map[string]any{
				"from": "Usher <usher@usher.example>", "to": []string{d.MessageIDs[j].String() + "@people.example"},
				"subject": content.Subject, "html": content.HTML, "text": content.Text,
				"tags": []map[string]string{{"name": "message_id", "value": d.MessageIDs[j].String()}},
			}
		}
		if d.Body, err = json.Marshal(mails); err != nil {
			return nil, fmt.Errorf("encode a request: %w", err)
		}
	}
	return dispatches, nil
}

// postBare posts the requests and keeps nothing of the answers.
func postBare(ctx context.Context, provider *process, dispatches []mail.Dispatch) (time.Duration, error) {
	client, err := mail.NewResend(providerKey, "http://"+provider.address, time.Now)
	if err != nil {
		return 0, err
	}
	var next atomic.Int64
	errs := make([]error, floorSenders)
	var done sync.WaitGroup
	start := time.Now()
	for i := range errs {
		done.Go(func() {
			for {
				at := int(next.Add(1)) - 1
				if at >= len(dispatches) || errs[i] != nil {
					return
				}
				_, errs[i] = client.Send(ctx, dispatches[at])
			}
		})
	}
	done.Wait()
	return time.Since(start), errors.Join(errs...)
}

// counters are the stand-in's.
func (p *process) counters(ctx context.Context) (c struct {
	Requests    int `json:"requests"`
	Rejected429 int `json:"rejected_429"`
}, err error) {
	var ledger struct{ Counters any }
	ledger.Counters = &c
	return c, p.get(ctx, "/_admin/ledger", &ledger)
}

// get reads JSON.
func (p *process) get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+p.address+path, http.NoBody)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return fmt.Errorf("read %s of %s: %w", path, p.name, err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
		return fmt.Errorf("read %s of %s: %w", path, p.name, err)
	}
	return nil
}
