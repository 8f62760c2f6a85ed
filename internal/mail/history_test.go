package mail

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"usher/internal/postgres/postgrestest"
)

// all walks through a list in pages of n.
func (d *desk) all(l RecordList, n int) (ids []uuid.UUID) {
	d.t.Helper()
	l.Limit = n
	for {
		page, next, err := d.Records(d.t.Context(), d.app, l)
		d.must(err)
		if len(page) > n {
			d.t.Fatalf("%d rows in a page of %d", len(page), n)
		}
		for _, r := range page {
			ids = append(ids, r.ID)
		}
		if next == uuid.Nil {
			return ids
		}
		l.After = next
	}
}

func TestRecords(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	ids := d.ask(bulk, 5)
	_, frozen := d.freeze(interactive, 3) // to ann.0 to ann.2
	slices.Reverse(ids)
	slices.Reverse(frozen)
	everything := slices.Concat(frozen, ids)
	elsewhere := newDeskOn(t, d.db)
	elsewhere.ask(bulk, 2)
	for name, test := range map[string]struct {
		list RecordList
		want []uuid.UUID
	}{
		"all":              {RecordList{}, everything},
		"to one":           {RecordList{EmailKey: "ann.1@client.dev"}, frozen[1:2]},
		"in a state":       {RecordList{State: Queued}, ids},
		"in another state": {RecordList{State: Sending}, frozen},
		"in no state":      {RecordList{State: Bounced}, nil},
		"about one":        {RecordList{Subject: value[uuid.UUID](d, `SELECT subject_id FROM message WHERE id = $1`, ids[3])}, ids[3:4]},
	} {
		for _, n := range []int{1, 2, 100} {
			if have := d.all(test.list, n); !slices.Equal(have, test.want) {
				t.Errorf("%s, in pages of %d: %v, want %v", name, n, have, test.want)
			}
		}
	}
	d.must(d.Doubt(t.Context(), d.begin(value[uuid.UUID](d, `SELECT dispatch_id FROM message WHERE id = $1`, frozen[0])), "who knows"))
	if have := d.all(RecordList{State: Uncertain}, 2); !slices.Equal(have, frozen) {
		t.Errorf("uncertain are %v, want %v", have, frozen)
	}
}

// A rare state is found although most of the app's mail lies before it.
func TestRecordsBeyondTheWindow(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	rare := d.ask(bulk, 1)
	d.exec(`UPDATE message SET state = 'bounced', due_at = NULL WHERE id = $1`, rare[0])
	d.ask(bulk, 2*listWindow+1)
	page, next, err := d.Records(t.Context(), d.app, RecordList{State: Bounced, Limit: 10})
	if err != nil || len(page) != 0 || next == uuid.Nil {
		t.Fatalf("the first page: %v, %s, %v", page, next, err)
	}
	if have := d.all(RecordList{State: Bounced}, 10); !slices.Equal(have, rare) {
		t.Errorf("bounced are %v, want %v", have, rare)
	}
}

func TestPersonAndRecord(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	dispatch, messages := d.freeze(interactive, 2)
	d.begin(dispatch)
	d.exec(`INSERT INTO provider_event (id, type, message_id, body, at, received_at, outcome)
		VALUES ('b', 'email.bounced', $1, '{"bounce":{"type":"Permanent","diagnosticCode":["550 5.1.1"]}}', $2, $2, 'bounced'), ('a', 'email.sent', $1, '{}', $2::timestamptz - interval '1 s', $2, ''), ('c', 'email.sent', $3, '{}', $2, $2, '')`,
		messages[0], d.now, messages[1])
	d.exec(`INSERT INTO address (app_id, email_key, block, blocked_at) VALUES ($1, 'ann.0@client.dev', 'hard', $2)`, d.app, d.now)
	p, err := d.Person(t.Context(), d.app, "ann.0@client.dev")
	d.must(err)
	if len(p.Messages) != 1 || len(p.Facts) != 2 || p.Facts[1].Said != "550 5.1.1" || p.Standing == nil || p.Standing.Block != BlockHard {
		t.Errorf("the person's mail is %+v", p)
	}
	r, facts, ok, err := d.Record(t.Context(), d.app, messages[0])
	if err != nil || !ok || len(facts) != 2 || facts[0].Type != "email.sent" || r.Attempts != 1 || r.Unknown != 1 || r.Together != 2 || r.Recipient != "Ann.0@client.dev" {
		t.Errorf("the mail is %+v, %+v, %v, %v", r, facts, ok, err)
	}
	other := newDeskOn(t, d.db)
	if _, _, ok, err := d.Record(t.Context(), other.app, messages[0]); ok || err != nil {
		t.Errorf("another app reads the mail (%v)", err)
	}
	if p, err := d.Person(t.Context(), other.app, "ann.0@client.dev"); err != nil || len(p.Messages)+len(p.Facts) > 0 || p.Standing != nil {
		t.Errorf("another app reads %+v (%v)", p, err)
	}
}

func TestNext(t *testing.T) {
	t.Parallel()
	at := func(d time.Duration) *time.Time { t := noon.Add(d); return &t }
	flows := Way{BlockedUntil: noon.Add(-time.Hour)}
	blocked := Way{BlockedUntil: noon.Add(12 * time.Hour), Reason: "429 daily_quota_exceeded"}
	for want, test := range map[string]struct {
		r   Record
		way Way
	}{
		"It waits for its turn since 12 s.":                                       {Record{State: Queued, CreatedAt: *at(-12 * time.Second), DueAt: at(-12 * time.Second)}, flows},
		"before 2026-11-21 00:00:00 UTC: 429 daily_quota_exceeded.":               {Record{State: Queued, CreatedAt: *at(-time.Hour), DueAt: at(-time.Hour)}, blocked},
		"Held until 2026-11-20 12:05:00 UTC, then tried again: 403 not verified.": {Record{State: Held, DueAt: at(5 * time.Minute), Reason: "403 not verified"}, flows},
		"is written at 2026-11-20 13:00:00 UTC":                                   {Record{State: Queued, DueAt: at(time.Hour)}, flows},
		"It is written and waits for its turn since 1 min.":                       {Record{State: Sending, WrittenAt: at(-time.Minute)}, flows},
		"under the same key, by which it counts once, until 2026-11-21 10:00":     {Record{State: Sending, WrittenAt: at(-time.Hour), Attempts: 2, Unknown: 1, FirstAttemptAt: at(-time.Hour)}, flows},
		"The provider did not take it so far.":                                    {Record{State: Sending, WrittenAt: at(-time.Hour), Attempts: 2, FirstAttemptAt: at(-time.Hour)}, flows},
		"settle it as sent, else as not_sent":                                     {Record{State: Uncertain}, flows},
		"A new mail is written at 2026-11-21 12:00:00 UTC":                        {Record{State: Bounced, Reason: "mailbox_full", FactAt: at(0)}, flows},
		"does not receive mail from us":                                           {Record{State: Complained, Reason: "complained: 5.7.1", FactAt: at(0)}, flows},
		"Nothing by itself.":                                                      {Record{State: Failed, Reason: "422 validation_error"}, flows},
	} {
		if have := test.r.Next(test.way, noon); !strings.Contains(have, want) {
			t.Errorf("of %+v it says %q, want %q", test.r, have, want)
		}
	}
	for _, s := range []State{Queued, Held, Sending, Accepted, Delayed, Delivered, Bounced, Complained, Suppressed, Failed, Cancelled, Uncertain} {
		if (Record{State: s, WrittenAt: at(0)}).Next(flows, noon) == "" {
			t.Errorf("of what is %s nothing is said", s)
		}
	}
}

func TestHealth(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.ask(bulk, 3)
	held := d.ask(bulk, 1)
	d.exec(`UPDATE message SET state = 'held', due_at = $2 WHERE id = $1`, held[0], d.now.Add(time.Hour))
	dispatch, _ := d.freeze(interactive, 1)
	d.begin(dispatch)
	doubted, _ := d.freeze(interactive, 2)
	d.must(d.Doubt(t.Context(), d.begin(doubted), "who knows"))
	d.exec(`INSERT INTO provider_event (id, type, body, at, received_at) VALUES ('a', 'email.sent', '{}', $1, $1)`, d.now)
	d.exec(`UPDATE pace SET tat = 'infinity', blocked_until = $2, blocked_reason = 'quota' WHERE id = $1`, d.way, d.now.Add(time.Hour))
	h, err := d.Health(t.Context(), uuid.Nil)
	d.must(err)
	if h.Name != d.way || !h.Blocked(d.now) || h.Uncertain != 2 || h.LastEventAt == nil || len(h.Lanes) != 2 {
		t.Errorf("health is %+v", h)
	}
	for _, l := range h.Lanes {
		if l.Lane == bulk && (l.Queued != 3 || l.Held != 1 || l.More || l.WaitsSince == nil || !l.WaitsSince.Equal(d.now) || l.Open != 0) ||
			l.Lane == interactive && (l.Queued != 0 || l.WaitsSince != nil || l.Open != 1 || l.OldestAttempt == nil) {
			t.Errorf("lane is %+v", l)
		}
	}
	other := newDeskOn(t, d.db)
	if h, err := d.Health(t.Context(), other.app); err != nil || h.Uncertain != 0 || h.Lanes != nil {
		t.Errorf("another app is told %+v (%v)", h, err)
	}
}

func TestSuppressions(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.exec(`INSERT INTO address (app_id, email_key, block, blocked_at) VALUES
		($1, 'a@x.dev', 'hard', $2), ($1, 'b@x.dev', '', NULL), ($1, 'c@x.dev', 'complaint', $2), ($1, 'd@x.dev', 'provider', $2)`, d.app, d.now)
	first, err := d.Suppressions(t.Context(), d.app, "", 2)
	d.must(err)
	rest, err := d.Suppressions(t.Context(), d.app, first[1].EmailKey, 2)
	d.must(err)
	if len(first) != 2 || first[1].Block != BlockComplaint || len(rest) != 1 || rest[0].EmailKey != "d@x.dev" || !rest[0].Since.Equal(d.now) {
		t.Errorf("listed %+v, then %+v", first, rest)
	}
	if _, ok, err := d.Suppression(t.Context(), d.app, "b@x.dev"); ok || err != nil {
		t.Errorf("an address without a block is found (%v)", err)
	}
	other := newDeskOn(t, d.db)
	if list, err := d.Suppressions(t.Context(), other.app, "", 9); err != nil || len(list) != 0 {
		t.Errorf("another app is told %+v (%v)", list, err)
	}
}

// planMessages is how many messages the plans are asked for with.
const planMessages = 50_000

// What people look at costs what is shown, not what there is.
func TestPlans(t *testing.T) {
	t.Parallel()
	seen := &postgrestest.Recorder{}
	config, err := pgxpool.ParseConfig(postgrestest.DatabaseURL(t))
	if err != nil {
		t.Fatal(err)
	}
	config.ConnConfig.Tracer = seen
	traced, err := pgxpool.NewWithConfig(t.Context(), config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(traced.Close)
	d := newDeskOn(t, traced)
	dispatch, messages := d.freeze(interactive, 2)
	d.must(d.Doubt(t.Context(), d.begin(dispatch), "who knows"))
	for _, sql := range []string{
		`INSERT INTO app (id, name, created_at) SELECT gen_random_uuid(), 'App', now() FROM generate_series(1, 20)`,
		`WITH apps AS (SELECT id, row_number() OVER () - 1 AS n FROM app)
		INSERT INTO message (id, app_id, kind, subject_id, purpose, lane, email_key, state, due_at, dispatch_id, created_at)
			SELECT gen_random_uuid(), apps.id, 'invitation', gen_random_uuid(), 'p', 'bulk', 'person' || i || '@x.dev', CASE WHEN i % 5 = 0 THEN 'queued' ELSE 'delivered' END,
				CASE WHEN i % 5 = 0 THEN now() END, gen_random_uuid(), now()
			FROM generate_series(1, $1::int) AS i JOIN apps ON apps.n = i % 20`,
		`INSERT INTO dispatch (id, lane, endpoint, message_ids, state, created_at)
			SELECT dispatch_id, lane, '/emails', ARRAY[id], 'settled', now() FROM message WHERE state = 'delivered'`,
		`INSERT INTO provider_event (id, type, message_id, body, at, received_at) SELECT id::text, 'email.sent', id, '{}', now(), now() FROM message`,
		`INSERT INTO address (app_id, email_key, block, blocked_at) SELECT app_id, email_key, CASE WHEN id::text < '1' THEN 'hard' ELSE '' END, now() FROM message WHERE kind = 'invitation' ON CONFLICT DO NOTHING`,
	} {
		var args []any
		if strings.Contains(sql, "$1") {
			args = append(args, planMessages)
		}
		d.exec(sql, args...)
	}
	d.exec(`ANALYZE`)
	plain, err := pgxpool.New(t.Context(), config.ConnString())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(plain.Close)
	ctx := t.Context()
	list := func(l RecordList) func() error {
		l.Limit = 50
		return func() error { _, _, err := d.Records(ctx, d.app, l); return err }
	}
	middle := uuid.MustParse("80000000-0000-0000-0000-000000000000")
	for _, op := range []struct {
		name, uses string
		do         func() error
	}{
		{"list", "message_app", list(RecordList{})},
		{"list from a row on", "message_app", list(RecordList{After: middle})},
		{"list a state", "message_app", list(RecordList{State: Bounced})},
		{"list a person", "message_person", list(RecordList{EmailKey: "person7@x.dev"})},
		{"list a subject", "message_subject_id_purpose_key", list(RecordList{Subject: uuid.New()})},
		{"list the uncertain", "dispatch_uncertain", list(RecordList{State: Uncertain})},
		{"one", "message_pkey", func() error { _, _, _, err := d.Record(ctx, d.app, messages[0]); return err }},
		{"a person", "message_person", func() error { _, err := d.Person(ctx, d.app, "person7@x.dev"); return err }},
		{"app of", "message_pkey", func() error { _, err := d.AppOf(ctx, messages[0]); return err }},
		{"health of all", "message_due", func() error { _, err := d.Health(ctx, uuid.Nil); return err }},
		{"health of an app", "dispatch_uncertain", func() error { _, err := d.Health(ctx, d.app); return err }},
		{"suppressions", "address_blocked", func() error { _, err := d.Suppressions(ctx, d.app, "", 50); return err }},
		{"suppression", "address_", func() error { _, _, err := d.Suppression(ctx, d.app, "person7@x.dev"); return err }},
		{"doubts", "dispatch_uncertain", func() error { _, err := d.Doubts(ctx); return err }},
		{"sent after", "dispatch_pkey", func() error { _, err := d.SentAfter(ctx, noon); return err }},
		{"found", "message_pkey", func() error { return d.Found(ctx, messages[0], "re_1") }},
	} {
		seen.Take()
		d.must(op.do())
		used := false
		for _, s := range seen.Take() {
			if !s.Plannable() {
				continue
			}
			plan := postgrestest.Explain(t, plain, s)
			plan.Walk(func(p postgrestest.Plan) {
				used = used || strings.HasPrefix(p.Index, op.uses)
				if p.Type == "Seq Scan" && slices.Contains([]string{"message", "dispatch", "provider_event", "address"}, p.Relation) {
					t.Errorf("%s reads all of %s (%s):\n%s", op.name, p.Relation, plan, s.SQL)
				}
			})
			if testing.Verbose() {
				t.Logf("%s: %s", op.name, plan)
			}
		}
		if !used {
			t.Errorf("%s does not use %s", op.name, op.uses)
		}
	}
}
