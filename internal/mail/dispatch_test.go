package mail

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"usher/internal/postgres/postgrestest"
)

// accepted is the provider's word that it took n mails.
func accepted(n int) Receipt {
	r := Receipt{Items: make([]Item, n)}
	for i := range r.Items {
		r.Items[i].ProviderID = fmt.Sprintf("re_%d", i)
	}
	return r
}

func (d *desk) settle(dispatch Dispatch, r Receipt) {
	d.t.Helper()
	d.must(d.Settle(d.t.Context(), d.way, dispatch, r))
}

// wantGone sees that a dispatch is not begun.
func (d *desk) wantGone(id uuid.UUID) {
	d.t.Helper()
	if have, ok, err := d.Begin(d.t.Context(), id); err != nil || ok {
		d.t.Errorf("begun as %+v, %v", have, err)
	}
}

func TestBegin(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	id, ids := d.freeze(interactive, 3)
	first := d.begin(id)
	if first.ID != id || first.State != DispatchSending || first.Attempts != 1 || first.Unknown != 1 || !first.FirstAttemptAt.Equal(noon) {
		t.Errorf("begun as %+v", first)
	}
	d.now = noon.Add(replayFor - time.Microsecond)
	again := d.begin(id)
	if again.Attempts != 2 || again.Unknown != 2 || !again.FirstAttemptAt.Equal(noon) || !bytes.Equal(again.Body, first.Body) ||
		!slices.Equal(again.MessageIDs, ids) || again.Endpoint != first.Endpoint {
		t.Errorf("begun again as %+v, want the same mails", again)
	}
	d.wantMessages(ids, Sending, Sending, Sending)
	d.wantGone(uuid.New())
}

// TestGivenUp lets the provider forget the key of what may have been sent.
func TestGivenUp(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	id, ids := d.freeze(interactive, 3)
	d.begin(id)
	other := d.begun(1)
	d.exec(`UPDATE message SET state = 'bounced', reason = '550' WHERE id = $1`, ids[1]) // which a webhook said
	d.now = noon.Add(replayFor)
	for range 2 { // and it stays given up
		d.wantGone(id)
		d.wantDispatch(id, DispatchUncertain, 1, 1)
		d.wantMessages(ids, Uncertain, Bounced, Uncertain)
		d.now = d.now.Add(time.Hour)
	}
	if !value[bool](d, `SELECT body IS NULL FROM dispatch WHERE id = $1`, id) {
		t.Error("the bytes are kept though they are never sent again")
	}
	if m := d.message(ids[0]); m.Reason == "" || m.SettledAt == nil || !m.SettledAt.Equal(noon.Add(replayFor)) {
		t.Errorf("given up as %+v, want it to say why and when", m)
	}
	if m := d.message(ids[1]); m.Reason != "550" {
		t.Errorf("what is known of a mail became %+v", m)
	}
	d.wantDispatch(other.ID, DispatchSending, 1, 1)
	d.wantMessages(other.MessageIDs, Sending)
}

// TestStale: each attempt was refused without doubt until the key was forgotten.
func TestStale(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	first := d.begun(2)
	if first.Stale(noon.Add(48 * time.Hour)) {
		t.Error("a first attempt is stale")
	}
	d.must(d.Reopen(t.Context(), first, true, "429"))
	d.now = noon.Add(replayFor - time.Microsecond)
	second := d.begin(first.ID)
	if second.Stale(d.now) {
		t.Error("it is stale before the key is forgotten")
	}
	d.must(d.Reopen(t.Context(), second, true, "429"))
	d.now = noon.Add(replayFor)
	third := d.begin(first.ID)
	if third.Unknown != 1 || !third.Stale(d.now) {
		t.Errorf("%+v is not stale", third)
	}
	if third.Unknown = 2; third.Stale(d.now) {
		t.Error("what may have been sent is called stale")
	}
}

func TestSettle(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	dispatch := d.begun(3)
	ids := dispatch.MessageIDs
	d.now = noon.Add(time.Minute)
	r := accepted(3)
	r.Items[1] = Item{Refusal: "refused: bad address"}
	d.settle(dispatch, r)
	d.wantDispatch(dispatch.ID, Settled, 1, 0)
	if !value[bool](d, `SELECT body IS NULL FROM dispatch`) {
		t.Error("the bytes are kept though they are never sent again")
	}
	want := func() {
		t.Helper()
		d.wantMessages(ids, Accepted, Failed, Accepted)
		for i, item := range r.Items {
			if m := d.message(ids[i]); m.ProviderID != item.ProviderID || m.Reason != item.Refusal || m.SettledAt == nil {
				t.Errorf("message %d is %+v, want %+v", i, m, item)
			}
		}
	}
	want()

	// The first word stands.
	d.now = d.now.Add(time.Hour)
	other := accepted(3)
	other.Items[0], other.Items[1].ProviderID, other.Items[2].ProviderID = Item{Refusal: "refused"}, "", "re_other"
	d.settle(dispatch, other)
	if ok, err := d.Refuse(t.Context(), dispatch, "422"); ok || err != nil {
		t.Errorf("refused, %v", err)
	}
	d.must(d.Doubt(t.Context(), dispatch, "409"))
	d.must(d.Reopen(t.Context(), dispatch, true, "429"))
	if ok, err := d.Dissolve(t.Context(), dispatch, "", d.now); ok || err != nil {
		t.Errorf("dissolved, %v", err)
	}
	if parts, ok, err := d.Split(t.Context(), dispatch, "422"); ok || err != nil || len(parts) != 0 {
		t.Errorf("split into %v, %v", parts, err)
	}
	d.wantGone(dispatch.ID)
	want()
	d.wantDispatch(dispatch.ID, Settled, 1, 0)
}

// TestSettleLowersNothing: webhooks were faster than our own word.
func TestSettleLowersNothing(t *testing.T) {
	t.Parallel()
	known := []State{Delayed, Delivered, Bounced, Complained, Suppressed, Failed, Accepted}
	d := newDesk(t)
	dispatch := d.begun(len(known) + 1)
	ids := dispatch.MessageIDs
	for i, s := range known {
		d.exec(`UPDATE message SET state = $2, reason = 'as told' WHERE id = $1`, ids[i], s)
	}
	d.settle(dispatch, accepted(len(ids)))
	d.wantMessages(ids, append(known, Accepted)...)
	for i, id := range ids {
		if m := d.message(id); m.ProviderID != fmt.Sprintf("re_%d", i) || i < len(known) && m.Reason != "as told" {
			t.Errorf("message %d is %+v", i, m)
		}
	}
}

func TestSettleWhatWasUncertain(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	dispatch := d.begun(2)
	d.now = noon.Add(replayFor)
	d.wantGone(dispatch.ID)
	d.settle(dispatch, accepted(2))
	d.wantDispatch(dispatch.ID, Settled, 1, 0)
	d.wantMessages(dispatch.MessageIDs, Accepted, Accepted)
	for _, id := range dispatch.MessageIDs {
		if m := d.message(id); m.Reason != "" {
			t.Errorf("it is still said that %q", m.Reason)
		}
	}
}

func TestReopen(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	dispatch := d.begun(2)
	d.must(d.Reopen(t.Context(), dispatch, false, "cut off"))
	d.wantDispatch(dispatch.ID, DispatchSending, 1, 1)
	dispatch = d.begin(dispatch.ID)
	d.must(d.Reopen(t.Context(), dispatch, true, "429"))
	d.wantDispatch(dispatch.ID, DispatchSending, 2, 1)
	if have := value[string](d, `SELECT outcome FROM dispatch`); have != "429" {
		t.Errorf("the operator reads %q", have)
	}
	d.wantMessages(dispatch.MessageIDs, Sending, Sending)
	if have := d.begin(dispatch.ID); have.Attempts != 3 || have.Unknown != 2 || !bytes.Equal(have.Body, dispatch.Body) {
		t.Errorf("sent again as %+v", have)
	}
}

func TestDissolve(t *testing.T) {
	t.Parallel()
	due := noon.Add(time.Hour)
	for reason, state := range map[string]State{"401 restricted": Held, "": Queued} {
		d := newDesk(t)
		dispatch := d.begun(3)
		ids := dispatch.MessageIDs
		d.exec(`UPDATE message SET state = 'bounced' WHERE id = $1`, ids[1])
		if ok, err := d.Dissolve(t.Context(), dispatch, reason, due); !ok || err != nil {
			t.Fatalf("dissolved: %v, %v", ok, err)
		}
		d.wantDispatch(dispatch.ID, Dissolved, 1, 0)
		d.wantMessages(ids, state, Bounced, state)
		if m := d.message(ids[0]); m.Reason != reason || m.DueAt == nil || !m.DueAt.Equal(due) || m.SettledAt != nil {
			t.Errorf("given back as %+v", m)
		}
		if !value[bool](d, `SELECT body IS NULL FROM dispatch`) {
			t.Error("the bytes are kept")
		}
		d.wantGone(dispatch.ID)
		if have := d.take(interactive); len(have) != 0 {
			t.Errorf("%d messages can be taken before their time", len(have))
		}
		d.now = due
		have := d.take(interactive)
		if !slices.Equal(have, []uuid.UUID{ids[0], ids[2]}) {
			t.Errorf("taken again %v", have)
		}
		again, err := d.Freeze(t.Context(), interactive, drafts(have))
		d.must(err)
		if m := d.message(ids[0]); *m.DispatchID != again || m.Reason != "" || m.State != Sending {
			t.Errorf("frozen again as %+v", m)
		}
	}
}

func TestDissolveWhatWasNeverTried(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	id, ids := d.freeze(interactive, 2)
	if ok, err := d.Dissolve(t.Context(), Dispatch{ID: id}, "", noon); !ok || err != nil {
		t.Fatalf("dissolved: %v, %v", ok, err)
	}
	d.wantDispatch(id, Dissolved, 0, 0)
	d.wantMessages(ids, Queued, Queued)

	dispatch := d.begun(1)
	if ok, err := d.Dissolve(t.Context(), Dispatch{ID: dispatch.ID}, "", noon); ok || err != nil {
		t.Errorf("dissolved as never tried: %v, %v", ok, err)
	}
	d.must(d.Reopen(t.Context(), dispatch, true, "429"))
	if ok, err := d.Dissolve(t.Context(), Dispatch{ID: dispatch.ID}, "", noon); ok || err != nil {
		t.Errorf("dissolved as never tried: %v, %v", ok, err)
	}
	d.wantMessages(dispatch.MessageIDs, Sending)
}

// TestGivenUpOnlyWhatIsKnown: an earlier attempt may have sent it, or a
// later one is at work.
func TestGivenUpOnlyWhatIsKnown(t *testing.T) {
	t.Parallel()
	for name, makeUnknown := range map[string]func(d *desk, first Dispatch) Dispatch{
		"an earlier attempt was never recorded": func(d *desk, first Dispatch) Dispatch { return d.begin(first.ID) },
		"an earlier attempt broke off": func(d *desk, first Dispatch) Dispatch {
			d.must(d.Reopen(d.t.Context(), first, false, "cut off"))
			return d.begin(first.ID)
		},
		"a later attempt is at work": func(d *desk, first Dispatch) Dispatch { d.begin(first.ID); return first },
		"a later attempt was refused, this one is not over": func(d *desk, first Dispatch) Dispatch {
			d.must(d.Reopen(d.t.Context(), d.begin(first.ID), true, "429"))
			return first
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t)
			dispatch := makeUnknown(d, d.begun(3))
			before := value[string](d, `SELECT dispatch::text FROM dispatch`)
			if ok, err := d.Dissolve(t.Context(), dispatch, "401", noon); ok || err != nil {
				t.Errorf("dissolved: %v, %v", ok, err)
			}
			if parts, ok, err := d.Split(t.Context(), dispatch, "422"); ok || err != nil || len(parts) != 0 {
				t.Errorf("split into %v: %v, %v", parts, ok, err)
			}
			if ok, err := d.Refuse(t.Context(), dispatch, "422"); ok || err != nil {
				t.Errorf("refused: %v, %v", ok, err)
			}
			d.wantMessages(dispatch.MessageIDs, times(3, Sending)...)
			if after := value[string](d, `SELECT string_agg(dispatch::text, ' ') FROM dispatch`); after != before {
				t.Errorf("the dispatch changed from\n%.200s to\n%.200s", before, after)
			}
		})
	}
}

// TestSplit halves a dispatch until each mail is alone: the mails keep their
// order and their bytes.
func TestSplit(t *testing.T) {
	t.Parallel()
	for _, n := range []int{2, 3, 7} {
		d := newDesk(t)
		whole := d.begun(n)
		var mails []json.RawMessage
		d.must(json.Unmarshal(whole.Body, &mails))
		var alone []Dispatch
		var halve func(Dispatch)
		halve = func(dispatch Dispatch) {
			if len(dispatch.MessageIDs) == 1 {
				alone = append(alone, dispatch)
				return
			}
			parts, ok, err := d.Split(t.Context(), dispatch, "422")
			if err != nil || !ok || len(parts) != 2 {
				t.Fatalf("split into %v: %v, %v", parts, ok, err)
			}
			d.wantDispatch(dispatch.ID, Dissolved, 1, 0)
			d.wantGone(dispatch.ID)
			for i, part := range parts {
				d.wantDispatch(part, Ready, 0, 0)
				half := d.begin(part)
				if half.Lane != interactive || half.Attempts != 1 || half.Unknown != 1 {
					t.Errorf("half %d is %+v", i, half)
				}
				for _, id := range half.MessageIDs {
					if m := d.message(id); m.State != Sending || *m.DispatchID != part {
						t.Errorf("message is %+v, want it in %s", m, part)
					}
				}
				if i == 0 && len(half.MessageIDs) != len(dispatch.MessageIDs)/2 {
					t.Errorf("%d of %d in the first half", len(half.MessageIDs), len(dispatch.MessageIDs))
				}
				halve(half)
			}
		}
		halve(whole)
		if len(alone) != n {
			t.Fatalf("%d mails became %d", n, len(alone))
		}
		for i, one := range alone {
			if one.MessageIDs[0] != whole.MessageIDs[i] || one.Endpoint != "/emails" || !bytes.Equal(one.Body, mails[i]) {
				t.Errorf("mail %d is %+v with\n%s, want\n%s", i, one, one.Body, mails[i])
			}
		}
	}
}

// TestSplitToTheByte holds a half's body to the bytes of its mails and the three
// that make an array of them.
func TestSplitToTheByte(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	whole := d.begun(5)
	var mails []json.RawMessage
	d.must(json.Unmarshal(whole.Body, &mails))
	parts, ok, err := d.Split(t.Context(), whole, "422")
	if err != nil || !ok {
		t.Fatal(ok, err)
	}
	for i, half := range [][]json.RawMessage{mails[:2], mails[2:]} {
		have := d.begin(parts[i])
		want := "[" + string(bytes.Join(func() (b [][]byte) {
			for _, m := range half {
				b = append(b, m)
			}
			return b
		}(), []byte(","))) + "]"
		if have.Endpoint != "/emails/batch" || string(have.Body) != want || !bytes.Contains(whole.Body, []byte(want[1:len(want)-1])) {
			t.Errorf("half %d is %s with\n%s, want\n%s", i, have.Endpoint, have.Body, want)
		}
		if !slices.Equal(have.MessageIDs, [][]uuid.UUID{whole.MessageIDs[:2], whole.MessageIDs[2:]}[i]) {
			t.Errorf("half %d has %v", i, have.MessageIDs)
		}
	}
}

func TestRefuseAndDoubt(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		end      func(d *desk, dispatch Dispatch) error
		dispatch DispatchState
		messages State
	}{
		"refuse": {func(d *desk, dispatch Dispatch) error {
			_, err := d.Refuse(d.t.Context(), dispatch, "why")
			return err
		}, Settled, Failed},
		"doubt": {func(d *desk, dispatch Dispatch) error { return d.Doubt(d.t.Context(), dispatch, "why") }, DispatchUncertain, Uncertain},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := newDesk(t)
			first := d.begun(2)
			d.exec(`UPDATE message SET state = 'delivered' WHERE id = $1`, first.MessageIDs[0])
			d.must(d.Reopen(t.Context(), first, true, "429"))
			dispatch := d.begin(first.ID)
			d.must(test.end(d, first)) // it is another attempt's to say
			d.wantDispatch(dispatch.ID, DispatchSending, 2, 1)
			d.wantMessages(dispatch.MessageIDs, Delivered, Sending)

			d.now = noon.Add(time.Minute)
			d.must(test.end(d, dispatch))
			d.wantMessages(dispatch.MessageIDs, Delivered, test.messages)
			if m := d.message(dispatch.MessageIDs[1]); m.Reason != "why" || m.SettledAt == nil || !m.SettledAt.Equal(d.now) || m.DueAt != nil {
				t.Errorf("ended as %+v", m)
			}
			if have := value[string](d, `SELECT state || ' ' || outcome || ' ' || (body IS NULL) FROM dispatch`); have != string(test.dispatch)+" why true" {
				t.Errorf("dispatch is %s", have)
			}
			d.wantGone(dispatch.ID)
		})
	}
}

// TestBeginAtOnce: of attempts that begin together each is counted.
func TestBeginAtOnce(t *testing.T) {
	t.Parallel()
	d := newDeskOn(t, postgrestest.Database(t))
	id, _ := d.freeze(interactive, 1)
	const n = 20
	attempts := make(chan int, n)
	for range n {
		go func() {
			have, ok, err := d.Begin(t.Context(), id)
			if err != nil || !ok {
				t.Errorf("begun: %v, %v", ok, err)
			}
			attempts <- have.Attempts
		}()
	}
	sum := 0
	for range n {
		sum += <-attempts
	}
	if sum != n*(n+1)/2 {
		t.Error("two attempts have one number")
	}
	d.wantDispatch(id, DispatchSending, n, n)
}

func TestPack(t *testing.T) {
	t.Parallel()
	random := make([]byte, 1<<20)
	for i := range random {
		random[i] = byte(i * i >> 3)
	}
	for _, body := range [][]byte{{}, []byte("a"), random, bytes.Repeat([]byte("letter "), 3<<20)} {
		if have, err := unpack(pack(body)); err != nil || !bytes.Equal(have, body) {
			t.Errorf("%d bytes came back as %d (%v)", len(body), len(have), err)
		}
	}
	for name, bad := range map[string][]byte{
		"cut off": pack(random)[:1000], "not compressed": []byte(`{"from":"x"}`), "too long": pack(make([]byte, maxBody+1)),
	} {
		if have, err := unpack(bad); err == nil || !strings.HasPrefix(err.Error(), "unpack body: ") {
			t.Errorf("%s: %d bytes, %v", name, len(have), err)
		}
	}
}

// TestBeginSaysThatTheBytesAreBad keeps a damaged body from being sent.
func TestBeginSaysThatTheBytesAreBad(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	id, _ := d.freeze(interactive, 1)
	d.exec(`UPDATE dispatch SET body = substr(body, 1, length(body) - 1)`)
	if have, ok, err := d.Begin(t.Context(), id); err == nil || ok || !strings.HasPrefix(err.Error(), "begin dispatch "+id.String()) {
		t.Errorf("begun as %+v, %v, %v", have, ok, err)
	}
}
