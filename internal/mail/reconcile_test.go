package mail

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"usher/internal/mail/mailtest"
)

// free is a limiter that never waits.
func free(context.Context) error { return nil }

// TestReconcile finds a mail in the stand-in's list whose answer was lost, and
// one that was never there does not get found.
func TestReconcile(t *testing.T) {
	t.Parallel()
	p := mailtest.Start(t)
	sender := testResend(t, p.APIKey, p.URL)
	d := newDesk(t)
	d.now = time.Now()
	doubted := func(send bool) (message, dispatch uuid.UUID) {
		id, messages := d.freeze(interactive, 1)
		begun := d.begin(id)
		if send {
			if _, err := sender.Send(t.Context(), begun); err != nil {
				t.Fatal(err)
			}
		}
		d.must(d.Doubt(t.Context(), begun, "who knows"))
		return messages[0], id
	}
	sent, sentDispatch := doubted(true)
	lost, _ := doubted(false)
	findings := map[uuid.UUID]Finding{}
	doubts, err := d.Doubts(t.Context())
	d.must(err)
	for _, doubt := range doubts {
		if findings[doubt.MessageID], err = sender.Find(t.Context(), doubt, "", free); err != nil {
			t.Fatal(err)
		}
	}
	mails, err := p.Mails(t.Context(), "", 0)
	d.must(err)
	if len(doubts) != 2 || len(mails) != 1 || findings[sent].ProviderID != mails[0].ID || findings[lost] != (Finding{}) {
		t.Fatalf("of %+v are found %+v, of mails %+v", doubts, findings, mails)
	}
	d.must(d.Found(t.Context(), sent, mails[0].ID))
	d.must(d.NotFound(t.Context(), lost))
	d.must(d.Found(t.Context(), sent, "another")) // the first word stands
	if m := d.message(sent); m.State != Accepted || m.ProviderID != mails[0].ID || m.Reason != "" {
		t.Errorf("the found one is %+v", m)
	}
	if m := d.message(lost); m.State != Uncertain || m.Reason != missed {
		t.Errorf("the missing one is %+v", m)
	}
	if doubts, err := d.Doubts(t.Context()); err != nil || len(doubts) != 0 {
		t.Errorf("there is still to look for %+v (%v)", doubts, err)
	}
	if state := value[DispatchState](d, `SELECT state FROM dispatch WHERE id = $1`, sentDispatch); state != Settled {
		t.Errorf("the found one's dispatch is %s", state)
	}
}

// TestFind reads lists of many kinds.
func TestFind(t *testing.T) {
	t.Parallel()
	d := Doubt{
		MessageID: uuid.New(), Sender: "Kindred <hello@kindred.dev>", Recipient: "Ann@client.dev", Subject: "Marie invites you",
		From: noon, To: noon.Add(time.Minute), Unique: true,
	}
	type listed struct {
		id, to, subject string
		at              time.Duration // after noon
		tag             string
	}
	like := func(id string, at time.Duration, tag string) listed {
		return listed{id, "ann@client.dev", d.Subject, at, tag}
	}
	early := listed{"early", "bob@client.dev", d.Subject, -time.Hour, ""}
	other := uuid.NewString()
	tests := map[string]struct {
		list   []listed // newest first
		shared bool     // another message of ours is alike
		want   Finding
	}{
		"by its tag":                {[]listed{like("a", time.Second, other), like("b", time.Second, d.MessageID.String())}, false, Finding{"b", true}},
		"not there":                 {[]listed{like("a", time.Second, other), early}, false, Finding{"", true}},
		"the list ends too soon":    {[]listed{like("a", time.Second, other)}, false, Finding{}},
		"an empty list":             {nil, false, Finding{}},
		"without tags":              {[]listed{like("a", time.Second, ""), early}, false, Finding{"a", true}},
		"without tags, two":         {[]listed{like("a", time.Second, ""), like("b", 0, ""), early}, false, Finding{}},
		"without tags, two of ours": {[]listed{like("a", time.Second, ""), early}, true, Finding{}},
		"without tags, list short":  {[]listed{like("a", time.Second, "")}, false, Finding{}},
		"too late":                  {[]listed{like("a", time.Hour, ""), early}, false, Finding{"", true}},
		"to another":                {[]listed{{"a", "bob@client.dev", d.Subject, 0, ""}, early}, false, Finding{"", true}},
		"about another":             {[]listed{{"a", "ann@client.dev", "Hello", 0, ""}, early}, false, Finding{"", true}},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			shown := func(m listed) map[string]any {
				return map[string]any{"id": m.id, "from": d.Sender, "to": []string{m.to}, "subject": m.subject, "created_at": noon.Add(m.at).Format("2006-01-02 15:04:05.999999-07")}
			}
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if id, ok := strings.CutPrefix(r.URL.Path, "/emails/"); ok {
					for _, m := range test.list {
						if m.id == id {
							one := shown(m)
							if m.tag != "" {
								one["tags"] = []map[string]string{{"name": "message_id", "value": m.tag}}
							}
							_ = json.NewEncoder(w).Encode(one)
						}
					}
					return
				}
				// Pages of one mail each, so that the cursor is needed.
				next := 0
				for i, m := range test.list {
					if m.id == r.URL.Query().Get("after") {
						next = i + 1
					}
				}
				data := []any{}
				if next < len(test.list) {
					data = append(data, shown(test.list[next]))
				}
				_ = json.NewEncoder(w).Encode(map[string]any{"object": "list", "has_more": next+1 < len(test.list), "data": data})
			}))
			t.Cleanup(server.Close)
			d := d
			d.Unique = !test.shared
			have, err := testResend(t, "re_1", server.URL).Find(t.Context(), d, "", free)
			if err != nil || have != test.want {
				t.Errorf("found %+v (%v), want %+v", have, err, test.want)
			}
		})
	}
}

// A key that may only send cannot list: nothing is concluded.
func TestFindRefused(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(http.StatusUnauthorized)
		fmt.Fprint(w, `{"statusCode":401,"message":"This API key is restricted to only send emails","name":"restricted_api_key"}`)
	}))
	t.Cleanup(server.Close)
	have, err := testResend(t, "re_1", server.URL).Find(t.Context(), Doubt{From: noon, To: noon}, "", free)
	if e := AsSendError(err); e == nil || e.Outcome != Stopped || have != (Finding{}) {
		t.Errorf("found %+v, %v", have, err)
	}
}

func TestSentAfter(t *testing.T) {
	t.Parallel()
	d := newDesk(t)
	before := time.Now().Add(-time.Second)
	_, messages := d.freeze(interactive, 1)
	d.exec(`UPDATE message SET provider_id = 're_7' WHERE id = $1`, messages[0])
	if id, err := d.SentAfter(t.Context(), before); err != nil || id != "re_7" {
		t.Errorf("after the time before: %q, %v", id, err)
	}
	if id, err := d.SentAfter(t.Context(), time.Now().Add(time.Second)); err != nil || id != "" {
		t.Errorf("after now: %q, %v", id, err)
	}
}
