package mail

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres/postgrestest"
)

const bulk Lane = "bulk"

func TestTake(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	late := d.ask(interactive, 1)
	d.exec(`UPDATE message SET due_at = $2 WHERE id = $1`, late[0], noon.Add(time.Microsecond))
	waiting := d.ask(interactive, 3)
	d.exec(`UPDATE message SET due_at = due_at - interval '1 minute', state = 'held', reason = 'the provider was away' WHERE id = $1`, waiting[2])
	done := d.ask(interactive, 1)
	d.exec(`UPDATE message SET due_at = NULL, state = 'cancelled' WHERE id = $1`, done[0])
	others := d.ask(bulk, 1)

	if have, want := d.take(interactive), []uuid.UUID{waiting[2], waiting[0], waiting[1]}; !slices.Equal(have, want) {
		t.Errorf("taken %v, want %v: what is due, the longest first", have, want)
	}
	if have := d.take(bulk); !slices.Equal(have, others) {
		t.Errorf("taken of the other lane %v, want %v", have, others)
	}
	d.now = d.now.Add(time.Microsecond)
	if have := d.take(interactive); len(have) != 4 || have[3] != late[0] {
		t.Errorf("a microsecond later %v, want %s at the end", have, late[0])
	}
	messages := claim(t, d.Outbox, d.way, bulk)
	if m := messages[0]; m.AppID != d.app || m.Kind != "invitation" || m.Purpose != "v1:send:1" || m.SubjectID == uuid.Nil ||
		string(m.Args) != `{"version": 1}` || m.Lane != bulk || m.EmailKey != "ann@client.dev" {
		t.Errorf("taken as %+v with %s", m, m.Args)
	}
}

func TestTakeNoMoreThanOneRequestHolds(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	ids := d.ask(bulk, maxBatch+1)
	messages := claim(t, d.Outbox, d.way, bulk)
	if len(messages) != maxBatch || !Full(messages) || messages[0].ID != ids[0] || messages[maxBatch-1].ID != ids[maxBatch-1] {
		t.Errorf("%d taken, full %v", len(messages), Full(messages))
	}
	if Full(messages[:maxBatch-1]) {
		t.Error("one less than can be is called full")
	}
}

func TestTakeWhileBlocked(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	d.ask(interactive, 1)
	d.must(d.Block(t.Context(), d.way, time.Hour, "401", 0))
	if have := d.take(interactive); len(have) != 0 {
		t.Errorf("%d messages taken while nothing can leave", len(have))
	}
	for name, want := range map[string]int{"mailbox": 1, "nobody's": 0} {
		if messages := claim(t, d.Outbox, name, interactive); len(messages) != want {
			t.Errorf("%d messages taken by the way %s, want %d", len(messages), name, want)
		}
	}
	d.exec(`UPDATE pace SET blocked_until = clock_timestamp() WHERE id = $1`, d.way)
	if have := d.take(interactive); len(have) != 1 {
		t.Errorf("%d messages taken after the block, want 1", len(have))
	}
}

// TestTakeWindow fills the lane with dispatches of every age and fate.
func TestTakeWindow(t *testing.T) {
	t.Parallel()
	tests := map[string]struct {
		open int
		sql  string // what happened to them
		want int
	}{
		"none":                              {0, ``, 1},
		"one less than the window":          {interactive.window() - 1, ``, 1},
		"as many as the window":             {interactive.window(), ``, 0},
		"tried once, no word yet":           {interactive.window(), `UPDATE dispatch SET state = 'sending', attempts = 1`, 0},
		"waiting to be tried again":         {interactive.window(), `UPDATE dispatch SET state = 'sending', attempts = 2`, 1},
		"answered":                          {maxOpen, `UPDATE dispatch SET state = 'settled'`, 1},
		"dissolved":                         {maxOpen, `UPDATE dispatch SET state = 'dissolved'`, 1},
		"uncertain":                         {maxOpen, `UPDATE dispatch SET state = 'uncertain'`, 1},
		"of the other lane":                 {maxOpen, `UPDATE dispatch SET lane = 'bulk'`, 1},
		"19 s old":                          {interactive.window(), `UPDATE dispatch SET created_at = created_at - interval '19 seconds'`, 0},
		"20 s old, as a killed process'":    {interactive.window(), `UPDATE dispatch SET created_at = created_at - interval '20 seconds'`, 1},
		"as many as may be, old":            {maxOpen, `UPDATE dispatch SET created_at = created_at - interval '1 hour'`, 0},
		"as many as may be, tried again":    {maxOpen, `UPDATE dispatch SET state = 'sending', attempts = 7`, 0},
		"one less than may be, tried again": {maxOpen - 1, `UPDATE dispatch SET state = 'sending', attempts = 7`, 1},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t)
			for range test.open {
				d.freeze(interactive, 1)
			}
			d.exec(test.sql)
			d.ask(interactive, 1)
			if have := d.take(interactive); len(have) != test.want {
				t.Errorf("%d taken, want %d", len(have), test.want)
			}
		})
	}
	if bulk.window() <= interactive.window() {
		t.Error("bulk mail has no more room than what a person waits for")
	}
}

// TestDue tells what Take would find if nothing were in its way.
func TestDue(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	want := func(lane Lane, want bool) {
		t.Helper()
		if have, err := d.Due(t.Context(), lane); err != nil || have != want {
			t.Errorf("%s mail is due: %v, %v, want %v", lane, have, err, want)
		}
	}
	want(interactive, false)
	ids := d.ask(interactive, 1)
	want(interactive, true)
	want(bulk, false)
	d.exec(`UPDATE message SET due_at = due_at + interval '1 microsecond' WHERE id = $1`, ids[0])
	want(interactive, false)
	d.now = d.now.Add(time.Microsecond)
	want(interactive, true)
	d.freeze(interactive, 1)
	d.must(d.Drop(t.Context(), []Drop{{ID: ids[0], State: Cancelled}}))
	want(interactive, false)
}

// TestTakeAtOnce has two transactions take from one lane: no message twice, and
// neither waits for the other.
func TestTakeAtOnce(t *testing.T) {
	t.Parallel()
	pool := postgrestest.Database(t)
	d := newDeskOn(t, pool)
	ids := d.ask(bulk, 150)
	var taken []uuid.UUID
	for _, want := range []int{100, 50, 0} {
		tx, err := pool.Begin(t.Context())
		d.must(err)
		defer tx.Rollback(t.Context())
		if _, err := tx.Exec(t.Context(), `SET LOCAL lock_timeout = '5s'`); err != nil {
			t.Fatal(err)
		}
		messages := claim(t, d.In(tx), d.way, bulk)
		if len(messages) != want {
			t.Errorf("%d taken, want %d", len(messages), want)
		}
		for _, m := range messages {
			taken = append(taken, m.ID)
		}
	}
	if !slices.Equal(taken, ids) {
		t.Error("what was taken is not each message once")
	}
}

func TestFreeze(t *testing.T) {
	t.Parallel()
	for _, n := range []int{1, 2, maxBatch} {
		d := newDesk(t)
		ids := d.ask(bulk, n)
		written := drafts(ids)
		d.now = noon.Add(time.Minute)
		id, err := d.Freeze(t.Context(), bulk, written)
		d.must(err)
		d.wantDispatch(id, Ready, 0, 0)
		for i, have := range ids {
			m, draft := d.message(have), written[i]
			if m.State != Sending || m.Reason != "" || m.DueAt != nil || m.DispatchID == nil || *m.DispatchID != id || m.SettledAt != nil ||
				m.EmailKey != draft.EmailKey || m.Sender != draft.Sender || m.Recipient != draft.Recipient || m.Subject != draft.Subject {
				t.Errorf("message %d of %d is %+v", i, n, m)
			}
		}
		frozen := d.begin(id)
		if frozen.Lane != bulk || !slices.Equal(frozen.MessageIDs, ids) || !frozen.FirstAttemptAt.Equal(d.now) {
			t.Errorf("dispatch of %d is %+v", n, frozen)
		}
		if want := map[bool]string{true: "/emails", false: "/emails/batch"}[n == 1]; frozen.Endpoint != want {
			t.Errorf("%d mails go to %s, want %s", n, frozen.Endpoint, want)
		}
		if packed := value[[]byte](d, `SELECT body FROM dispatch`); n > 1 && len(packed) > len(frozen.Body)/2 {
			t.Errorf("the body of %d bytes is stored in %d", len(frozen.Body), len(packed))
		}
		if !bytes.Contains(frozen.Body, []byte("<p>Hello")) || bytes.Contains(frozen.Body, []byte(`\u003c`)) {
			t.Errorf("the letters are escaped: %.200s", frozen.Body)
		}
		var have any
		d.must(json.Unmarshal(frozen.Body, &have))
		var want any
		mails := make([]any, n)
		for i, draft := range written {
			mails[i] = map[string]any{
				"from": draft.Sender, "to": []any{draft.Recipient}, "subject": draft.Subject, "text": draft.Text, "html": draft.HTML,
				"headers": map[string]any{"Auto-Submitted": "auto-generated"},
				"tags":    []any{map[string]any{"name": "message_id", "value": draft.ID.String()}},
			}
		}
		if want = mails; n == 1 {
			want = mails[0]
		}
		if !reflect.DeepEqual(have, want) {
			t.Errorf("the body of %d mails is\n%v, want\n%v", n, have, want)
		}
	}
}

func TestDrop(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	ids := d.ask(interactive, 5)
	later := noon.Add(time.Hour)
	d.must(d.Drop(t.Context(), []Drop{
		{ID: ids[0], State: Cancelled, Reason: "revoked"},
		{ID: ids[1], State: Suppressed, Reason: "bounced", Due: later}, // an end, whatever Due says
		{ID: ids[2], State: Failed, Reason: "unwritable"},
		{ID: ids[3], State: Held, Reason: "night", Due: later},
	}))
	for i, state := range []State{Cancelled, Suppressed, Failed} {
		if m := d.message(ids[i]); m.State != state || m.Reason == "" || m.DueAt != nil || m.SettledAt == nil || !m.SettledAt.Equal(noon) {
			t.Errorf("dropped as %+v, want %s, ended", m, state)
		}
	}
	if m := d.message(ids[3]); m.State != Held || m.Reason != "night" || m.DueAt == nil || !m.DueAt.Equal(later) || m.SettledAt != nil {
		t.Errorf("put off as %+v", m)
	}
	if have := d.take(interactive); !slices.Equal(have, ids[4:]) {
		t.Errorf("taken %v, want the one that is left", have)
	}
	d.now = later
	if have := d.take(interactive); len(have) != 2 {
		t.Errorf("%d taken later, want the one put off as well", len(have))
	}

	// What waits no longer is not dropped.
	id, frozen := d.freeze(interactive, 1)
	d.must(d.Drop(t.Context(), []Drop{{ID: frozen[0], State: Cancelled, Reason: "too late"}}))
	d.wantMessages(frozen, Sending)
	d.wantDispatch(id, Ready, 0, 0)
	d.must(d.Drop(t.Context(), nil))
}

// TestFreezeFailsWhole leaves no dispatch where the messages cannot be stored.
func TestFreezeFailsWhole(t *testing.T) {
	t.Parallel()
	pool := postgrestest.Database(t)
	d := newDeskOn(t, pool)
	ids := d.ask(bulk, 2)
	written := drafts(ids)
	written[1].Subject = "nul \x00"
	if id, err := d.Freeze(t.Context(), bulk, written); err == nil || !strings.HasPrefix(err.Error(), "freeze 2 messages: ") {
		t.Errorf("frozen as %s, %v", id, err)
	}
	if n := value[int](d, `SELECT count(*) FROM dispatch`); n != 0 {
		t.Errorf("%d dispatches, want none", n)
	}
	d.wantMessages(ids, Queued, Queued)
}

// TestFrozenOnlyWithTheTransaction: a process that dies between Take and the
// commit leaves the messages to be taken again.
func TestFrozenOnlyWithTheTransaction(t *testing.T) {
	t.Parallel()
	pool := postgrestest.Database(t)
	d := newDeskOn(t, pool)
	ids := d.ask(bulk, 2)
	tx, err := pool.BeginTx(t.Context(), pgx.TxOptions{})
	d.must(err)
	if _, err := d.In(tx).Freeze(t.Context(), bulk, drafts(ids)); err != nil {
		t.Fatal(err)
	}
	d.must(tx.Rollback(t.Context()))
	if have := d.take(bulk); !slices.Equal(have, ids) {
		t.Errorf("taken again %v, want %v", have, ids)
	}
}
