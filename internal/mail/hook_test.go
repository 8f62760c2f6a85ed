package mail

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	webhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"usher/internal/postgres/postgrestest"
)

var hookNow = time.Date(2026, 11, 20, 12, 0, 0, 0, time.UTC)

// secretOf is a webhook secret made of a letter.
func secretOf(letter string) string {
	return secretPrefix + base64.StdEncoding.EncodeToString([]byte(strings.Repeat(letter, 24)))
}

func secrets(t *testing.T, list ...string) HookSecrets {
	t.Helper()
	parsed, err := ParseHookSecrets(strings.Join(list, ","))
	if err != nil {
		t.Fatal(err)
	}
	return parsed
}

// signature is body's under a secret.
func signature(t *testing.T, secret, id string, at time.Time, body string) string {
	t.Helper()
	hook, err := webhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := hook.Sign(id, at, []byte(body))
	if err != nil {
		t.Fatal(err)
	}
	return signed
}

func headers(id string, at time.Time, signature string) map[string]string {
	return map[string]string{"svix-id": id, "svix-timestamp": strconv.FormatInt(at.Unix(), 10), "svix-signature": signature}
}

func get(h map[string]string) func(string) string { return func(name string) string { return h[name] } }

const plainEvent = `{"type":"email.delivered","created_at":"2026-11-20T11:59:58.123Z","data":{"email_id":"e1","tags":{"message_id":"018f4e3e-0000-7000-8000-000000000001"}}}`

// TestSignatureOfTheProvider checks a signature that this library did not make.
func TestSignatureOfTheProvider(t *testing.T) {
	t.Parallel()
	// The example of the scheme's public description.
	hook := secrets(t, "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")
	at := time.Unix(1614265330, 0)
	body := []byte(`{"test": 2432232314}`)
	h := headers("msg_p5jXN8AQM9LWM0D4loKWxJek", at, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=")
	if _, err := hook.Open(get(h), body, at); !errors.Is(err, ErrUnreadable) { // it has no type, which is looked at later
		t.Fatalf("a genuine signature: %v", err)
	}
	body[10]++
	if _, err := hook.Open(get(h), body, at); !errors.Is(err, ErrUnsigned) {
		t.Fatalf("a changed body: %v", err)
	}
}

func TestSignatures(t *testing.T) {
	t.Parallel()
	current, next, other := secretOf("a"), secretOf("b"), secretOf("c")
	sign := func(secret string, at time.Time) string { return signature(t, secret, "msg_1", at, plainEvent) }
	good := sign(current, hookNow)
	tests := map[string]struct {
		secrets   []string
		header    map[string]string
		body      string
		wantError error
	}{
		"genuine":                          {header: headers("msg_1", hookNow, good)},
		"among others":                     {header: headers("msg_1", hookNow, "v1,AAAA v2,xyz nonsense "+good+" v1a,"+good)},
		"during rotation, old and new":     {header: headers("msg_1", hookNow, sign(other, hookNow)+" "+good)},
		"with the second of our secrets":   {secrets: []string{next, current}, header: headers("msg_1", hookNow, good)},
		"with spaces in our list":          {secrets: []string{next, " " + current + " "}, header: headers("msg_1", hookNow, good)},
		"five minutes old":                 {header: headers("msg_1", hookNow.Add(-clockBound), sign(current, hookNow.Add(-clockBound)))},
		"five minutes ahead":               {header: headers("msg_1", hookNow.Add(clockBound), sign(current, hookNow.Add(clockBound)))},
		"too old":                          {header: headers("msg_1", hookNow.Add(-clockBound-time.Second), sign(current, hookNow.Add(-clockBound-time.Second))), wantError: ErrUnsigned},
		"too far ahead":                    {header: headers("msg_1", hookNow.Add(clockBound+time.Second), sign(current, hookNow.Add(clockBound+time.Second))), wantError: ErrUnsigned},
		"of another secret":                {header: headers("msg_1", hookNow, sign(other, hookNow)), wantError: ErrUnsigned},
		"after the old secret was removed": {secrets: []string{next}, header: headers("msg_1", hookNow, good), wantError: ErrUnsigned},
		"of another id":                    {header: headers("msg_2", hookNow, good), wantError: ErrUnsigned},
		"of another time":                  {header: headers("msg_1", hookNow.Add(time.Second), good), wantError: ErrUnsigned},
		"of another body":                  {header: headers("msg_1", hookNow, good), body: plainEvent + " ", wantError: ErrUnsigned},
		"of another version":               {header: headers("msg_1", hookNow, "v2"+good[2:]), wantError: ErrUnsigned},
		"without version":                  {header: headers("msg_1", hookNow, good[3:]), wantError: ErrUnsigned},
		"cut off":                          {header: headers("msg_1", hookNow, good[:len(good)-2]), wantError: ErrUnsigned},
		"empty":                            {header: headers("msg_1", hookNow, ""), wantError: ErrUnsigned},
		"no id":                            {header: headers("", hookNow, good), wantError: ErrUnsigned},
		"a long id":                        {header: headers(strings.Repeat("x", maxHookID+1), hookNow, good), wantError: ErrUnsigned},
		"no time":                          {header: map[string]string{"svix-id": "msg_1", "svix-signature": good}, wantError: ErrUnsigned},
		"a time that is no number":         {header: map[string]string{"svix-id": "msg_1", "svix-timestamp": "now", "svix-signature": good}, wantError: ErrUnsigned},
		"no headers":                       {wantError: ErrUnsigned},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if test.secrets == nil {
				test.secrets = []string{current}
			}
			if test.body == "" {
				test.body = plainEvent
			}
			e, err := secrets(t, test.secrets...).Open(get(test.header), []byte(test.body), hookNow)
			if !errors.Is(err, test.wantError) {
				t.Fatalf("error %v, want %v", err, test.wantError)
			}
			if err == nil && (e.Type != "email.delivered" || e.ID != "msg_1") {
				t.Fatalf("read %+v", e)
			}
		})
	}
}

func TestHookSecretsFailEarly(t *testing.T) {
	t.Parallel()
	good := secretOf("a")
	for _, list := range []string{
		"", ",", good + ",", "," + good, strings.TrimPrefix(good, secretPrefix), "whsec_", "whsec_!!!!", good[:len(good)-1] + "!",
		"whsec_" + base64.StdEncoding.EncodeToString([]byte("fifteen letters")), good + ";" + good,
	} {
		if _, err := ParseHookSecrets(list); err == nil {
			t.Errorf("%q was taken", list)
		} else if strings.Contains(err.Error(), "YWFh") {
			t.Errorf("the error tells the secret: %v", err)
		}
	}
}

// TestReadEvents reads bodies of all shapes, signed.
func TestReadEvents(t *testing.T) {
	t.Parallel()
	id := uuid.MustParse("018f4e3e-0000-7000-8000-000000000001")
	at := time.Date(2026, 11, 20, 11, 59, 58, 123e6, time.UTC)
	tagged := func(data string) string {
		return `{"type":"email.bounced","created_at":"2026-11-20T11:59:58.123Z","data":{"email_id":"e1","tags":{"message_id":"` + id.String() + `"}` + data + `}}`
	}
	base := ProviderEvent{ID: "msg_1", Type: "email.bounced", MessageID: id, ProviderID: "e1", At: at}
	with := func(change func(*ProviderEvent)) *ProviderEvent {
		e := base
		change(&e)
		return &e
	}
	tests := map[string]struct {
		body string
		want *ProviderEvent // nil: ErrUnreadable
	}{
		"a bounce": {
			tagged(`,"message_id":"<1@x>","bounce":{"type":"Permanent","subType":"NoEmail","message":"gone","diagnosticCode":["550 5.1.1 \u0000no\r\nsuch  user","x"]}`),
			with(func(e *ProviderEvent) {
				e.Said.MessageID, e.Said.Bounce.Type, e.Said.Bounce.SubType, e.Said.Bounce.Message = "<1@x>", "Permanent", "NoEmail", "gone"
				e.Said.Bounce.Diagnostic = words{"550 5.1.1 no such user"}
			}),
		},
		"one diagnostic, not in a list": {
			tagged(`,"bounce":{"type":"Permanent","diagnosticCode":"550 5.1.1"}`),
			with(func(e *ProviderEvent) { e.Said.Bounce.Type, e.Said.Bounce.Diagnostic = "Permanent", words{"550 5.1.1"} }),
		},
		"the mail itself and unknown fields are dropped": {
			tagged(`,"html":"<p>secret</p>","text":"secret","subject":"secret","to":["ann@client.dev"],"from":"x","headers":[{"name":"a","value":"b"}],"click":{"ipAddress":"1.2.3.4"},"new":{"deep":[1]}`),
			&base,
		},
		"a bounce of another shape": {tagged(`,"bounce":"hard"`), &base},
		"a suppression": {
			tagged(`,"suppressed":{"type":"OnAccountSuppressionList","reason":"complaint","message":"m"}`),
			with(func(e *ProviderEvent) {
				e.Said.Suppressed.Type, e.Said.Suppressed.Reason, e.Said.Suppressed.Message = "OnAccountSuppressionList", "complaint", "m"
			}),
		},
		"tags as a list": {
			`{"type":"email.bounced","created_at":"2026-11-20T11:59:58.123Z","data":{"email_id":"e1","tags":[{"name":"a","value":"b"},{"name":"message_id","value":"` + id.String() + `"}]}}`,
			&base,
		},
		"another zone":     {strings.Replace(tagged(""), "11:59:58.123Z", "13:59:58.123456789+02:00", 1), with(func(e *ProviderEvent) { e.At = at.Add(456 * time.Microsecond) })},
		"no time":          {`{"type":"x"}`, &ProviderEvent{ID: "msg_1", Type: "x", At: hookNow}},
		"a strange time":   {`{"type":"x","created_at":17}`, &ProviderEvent{ID: "msg_1", Type: "x", At: hookNow}},
		"a time to come":   {`{"type":"x","created_at":"2036-11-20T11:59:58Z"}`, &ProviderEvent{ID: "msg_1", Type: "x", At: hookNow}},
		"an unknown type":  {`{"type":"email.folded","data":{"fold":{}}}`, &ProviderEvent{ID: "msg_1", Type: "email.folded", At: hookNow}},
		"foreign: no tags": {`{"type":"email.sent","data":{"email_id":"e9"}}`, &ProviderEvent{ID: "msg_1", Type: "email.sent", ProviderID: "e9", At: hookNow}},
		"foreign: tag of another form": {
			`{"type":"email.sent","data":{"tags":{"message_id":"17"}}}`,
			&ProviderEvent{ID: "msg_1", Type: "email.sent", At: hookNow},
		},
		"foreign: tag that is no text": {
			`{"type":"email.sent","data":{"tags":{"message_id":{"a":1}}}}`,
			&ProviderEvent{ID: "msg_1", Type: "email.sent", At: hookNow},
		},
		"data of another shape": {`{"type":"email.sent","data":[1]}`, &ProviderEvent{ID: "msg_1", Type: "email.sent", At: hookNow}},
		"no data":               {`{"type":"email.sent","data":null}`, &ProviderEvent{ID: "msg_1", Type: "email.sent", At: hookNow}},
		"no type":               {`{"data":{}}`, nil},
		"a type that is a list": {`{"type":["a"]}`, nil},
		"a type that is long":   {`{"type":"` + strings.Repeat("x", maxHookType+1) + `"}`, nil},
		"no object":             {`["email.sent"]`, nil},
		"cut off":               {`{"type":"email.sent","da`, nil},
		"empty":                 {``, nil},
	}
	hook := secrets(t, secretOf("a"))
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			e, err := hook.Open(get(headers("msg_1", hookNow, signature(t, secretOf("a"), "msg_1", hookNow, test.body))), []byte(test.body), hookNow)
			if test.want == nil {
				if !errors.Is(err, ErrUnreadable) {
					t.Fatalf("error %v, read %+v", err, e)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			have, _ := json.Marshal(e)
			want, _ := json.Marshal(test.want)
			if string(have) != string(want) {
				t.Errorf("read %s\nwant %s", have, want)
			}
		})
	}
}

// FuzzOpen looks for signed bodies that break the reading, or what is stored.
func FuzzOpen(f *testing.F) {
	f.Add(plainEvent)
	f.Add("{\"type\":\"\x7f\"}")
	f.Add(`{"type":"email.bounced","data":{"bounce":{"diagnosticCode":["\u0000"]},"tags":[{"name":1}]}}`)
	parsed, err := ParseHookSecrets(secretOf("a"))
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, body string) {
		e, err := parsed.Open(get(headers("msg_1", hookNow, signature(t, secretOf("a"), "msg_1", hookNow, body))), []byte(body), hookNow)
		if errors.Is(err, ErrUnsigned) {
			t.Fatal("a genuine signature was refused")
		}
		kept, marshalErr := json.Marshal(e.Said)
		if marshalErr != nil || strings.Contains(string(kept), `\u0000`) { // PostgreSQL has no place for it
			t.Fatalf("kept %s: %v", kept, marshalErr)
		}
		if err == nil && (e.Type == "" || e.At.IsZero() || e.At.After(hookNow)) {
			t.Fatalf("read %+v", e)
		}
	})
}

// hookWorld is a database with an app and the means to receive webhooks.
type hookWorld struct {
	t    *testing.T
	pool *pgxpool.Pool
	hook *Hook
	app  uuid.UUID
}

func newHookWorld(t *testing.T) *hookWorld {
	t.Helper()
	pool := postgrestest.Database(t)
	jobs, err := river.NewClient(riverpgxv5.New(pool), &river.Config{SkipUnknownJobCheck: true})
	if err != nil {
		t.Fatal(err)
	}
	w := &hookWorld{t, pool, &Hook{DB: pool, Jobs: jobs, Now: func() time.Time { return hookNow }, Secrets: secrets(t, secretOf("a"))}, uuid.Must(uuid.NewV7())}
	w.exec(`INSERT INTO app (id, name, created_at) VALUES ($1, 'Kindred', now())`, w.app)
	return w
}

func (w *hookWorld) exec(sql string, args ...any) {
	w.t.Helper()
	if _, err := w.pool.Exec(w.t.Context(), sql, args...); err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
}

// message stores a message to a person in a state.
func (w *hookWorld) message(email string, state State) uuid.UUID {
	w.t.Helper()
	id := uuid.Must(uuid.NewV7())
	w.exec(`INSERT INTO message (id, app_id, kind, subject_id, purpose, lane, email_key, state, created_at)
		VALUES ($1, $2, 'invitation', $1, 'v1:send:1', 'interactive', $3, $4, $5)`, id, w.app, email, state, hookNow.Add(-time.Hour))
	return id
}

// event is the body of an event.
func event(kind string, message uuid.UUID, at time.Time, data string) string {
	return fmt.Sprintf(`{"type":%q,"created_at":%q,"data":{"email_id":"e-%s","tags":{"message_id":%q}%s}}`,
		kind, at.Format(time.RFC3339Nano), message, message, data)
}

func (w *hookWorld) receive(id, body string) Reception {
	w.t.Helper()
	receipt, err := w.hook.Receive(w.t.Context(), get(headers(id, hookNow, signature(w.t, secretOf("a"), id, hookNow, body))), []byte(body))
	if err != nil {
		w.t.Fatal(err)
	}
	return receipt
}

// one reads a row of one column.
func one[T any](w *hookWorld, sql string, args ...any) T {
	w.t.Helper()
	rows, err := w.pool.Query(w.t.Context(), sql, args...)
	if err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	if err != nil {
		w.t.Fatalf("%s: %v", sql, err)
	}
	return v
}

func TestReceiveStoresOnce(t *testing.T) {
	t.Parallel()
	w := newHookWorld(t)
	message := w.message("ann@client.dev", Sending)
	body := event("email.bounced", message, hookNow.Add(-time.Minute), `,"to":["ann@client.dev"],"html":"<p>","bounce":{"type":"Permanent","diagnosticCode":["550 5.1.1"]}`)

	// At the same moment, as retries of a slow answer come.
	var wait sync.WaitGroup
	receipts := make([]Reception, 8)
	for i := range receipts {
		wait.Go(func() { receipts[i] = w.receive("msg_1", body) })
	}
	wait.Wait()
	count := map[Reception]int{}
	for _, r := range receipts {
		count[r]++
	}
	if !maps.Equal(count, map[Reception]int{Stored: 1, Known: 7}) {
		t.Errorf("receipts %v", count)
	}
	if w.receive("msg_2", body) != Stored {
		t.Error("the same under another id is another event")
	}
	if n := one[int](w, `SELECT count(*) FROM river_job WHERE kind = 'apply_provider_event' AND queue = $1`, QueueHooks); n != 2 {
		t.Errorf("%d jobs, want 2", n)
	}
	if kept := one[string](w, `SELECT body::text FROM provider_event WHERE id = 'msg_1'`); kept != `{"bounce": {"type": "Permanent", "diagnosticCode": ["550 5.1.1"]}}` {
		t.Errorf("kept %s", kept)
	}

	// Mail of somebody else leaves nothing behind, be it tagged like ours.
	for i, foreign := range []string{
		event("email.delivered", uuid.Must(uuid.NewV7()), hookNow, ""),
		`{"type":"email.delivered","data":{"email_id":"x","tags":{"campaign":"7"}}}`,
		`{"type":"contact.created","data":{"email":"eve@client.dev"}}`,
	} {
		if r := w.receive(fmt.Sprint("foreign_", i), foreign); r != NotOurs {
			t.Errorf("foreign mail was %s", r)
		}
	}
	// An unknown kind of event about our mail is kept.
	if r := w.receive("msg_3", event("email.folded", message, hookNow, `,"fold":{"a":1}`)); r != Stored {
		t.Errorf("an unknown type was %s", r)
	}
	ids := one[[]string](w, `SELECT array_agg(id ORDER BY id) FROM provider_event`)
	if !slices.Equal(ids, []string{"msg_1", "msg_2", "msg_3"}) {
		t.Errorf("stored %v", ids)
	}
}
