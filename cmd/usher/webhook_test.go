package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os/exec"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// receiver is an app's webhook endpoint. It notes what it is sent and takes a
// moment to answer.
type receiver struct {
	url   string
	delay time.Duration
	mu    sync.Mutex
	got   []webhook
	ids   map[string]int // how often each event came
}

// webhook is a request as the reference library wants it.
type webhook struct {
	Secret  string            `json:"secret"`
	Headers map[string]string `json:"headers"`
	Body    string            `json:"body"`
}

func newReceiver(t *testing.T, delay time.Duration) *receiver {
	t.Helper()
	r := &receiver{delay: delay, ids: map[string]int{}}
	server := httptest.NewServer(r)
	t.Cleanup(server.Close)
	r.url = server.URL
	return r
}

func (r *receiver) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	body, _ := io.ReadAll(req.Body)
	got := webhook{Headers: map[string]string{}, Body: string(body)}
	for _, name := range []string{"webhook-id", "webhook-timestamp", "webhook-signature"} {
		got.Headers[name] = req.Header.Get(name)
	}
	r.mu.Lock()
	r.got = append(r.got, got)
	r.ids[got.Headers["webhook-id"]]++
	r.mu.Unlock()
	select {
	case <-time.After(r.delay):
	case <-req.Context().Done():
	}
	w.WriteHeader(http.StatusNoContent)
}

// count is how many webhooks came, and how many different ones.
func (r *receiver) count() (all, different int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.got), len(r.ids)
}

// verify asks the reference library about webhooks by a secret, and wants each
// to be an event of the type.
func verify(t *testing.T, requests []webhook, secret, eventType string) {
	t.Helper()
	folder, err := filepath.Abs("../../.usher/node")
	if err != nil {
		t.Fatal(err)
	}
	if found, _ := filepath.Glob(filepath.Join(folder, "node_modules/standardwebhooks/package.json")); len(found) == 0 {
		t.Fatal("The library that verifies webhooks is not installed: run 'make node', which installs it.")
	}
	for i := range requests {
		requests[i].Secret = secret
	}
	in, err := json.Marshal(requests)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "node", "testdata/node/verify.cjs", folder)
	cmd.Stdin = bytes.NewReader(in)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("node: %v", err)
	}
	var types []string
	if err := json.Unmarshal(out, &types); err != nil || len(types) != len(requests) {
		t.Fatalf("%d answers for %d webhooks, %v", len(types), len(requests), err)
	}
	for i, got := range types {
		if got != eventType {
			t.Fatalf("webhook %d of %d: %s, want %s: %+v", i, len(types), got, eventType, requests[i])
		}
	}
}

// TestKilledWhileSendingWebhooks kills the worker while webhooks are under way,
// a few times. Every event arrives, in the same bytes each time, verified by
// the library that receivers use, by the old secret and, once there is one, by
// the new.
func TestKilledWhileSendingWebhooks(t *testing.T) {
	t.Parallel()
	const kills = 3
	i := install(t, 0)
	r := newReceiver(t, 100*time.Millisecond)
	var endpoint struct{ ID, Secret string }
	i.site.must(t, http.MethodPost, "/v1/webhook-endpoints", map[string]any{"url": r.url, "types": []string{"invitation.created"}}, &endpoint)
	events := 0
	for n := range kills {
		for range 40 {
			i.site.must(t, http.MethodPost, "/v1/invitations", map[string]any{
				"email": someAddress(), "full_name": "Ann Okafor", "workspace_id": i.site.workspace, "notify": false,
			}, nil)
			events++
		}
		before, _ := r.count()
		worker := i.worker(t)
		eventually(t, "webhooks are under way", func() (bool, error) {
			all, _ := r.count()
			return all >= before+12, nil
		})
		worker.kill(t)
		if left := i.count(t, `SELECT count(*) FROM webhook_delivery WHERE state = 'waiting' AND due_at > now()`); left == 0 {
			t.Fatalf("kill %d came when nothing was under way", n+1)
		}
		// What a killed process claimed, with its last statement even, is free a
		// minute later: let it be.
		eventually(t, "its last statements are over", func() (bool, error) {
			return i.count(t, `
				SELECT count(*) FROM pg_stat_activity
				WHERE datname = current_database() AND application_name = 'usher' AND state <> 'idle'`) == 0, nil
		})
		if _, err := i.pool.Exec(t.Context(), `UPDATE webhook_delivery SET due_at = now() WHERE state = 'waiting'`); err != nil {
			t.Fatal(err)
		}
	}
	var rotated struct{ Secret string }
	i.site.must(t, http.MethodPost, "/v1/webhook-endpoints/"+endpoint.ID+"/rotate-secret", nil, &rotated)
	rotatedAt, _ := r.count()
	i.site.invite(t, someAddress(), "Ann Okafor", "en") // which also wakes who sends
	events++
	worker := i.worker(t)
	eventually(t, "all webhooks are delivered", func() (bool, error) {
		return i.count(t, `SELECT count(*) FROM webhook_delivery WHERE state <> 'delivered'`) == 0, nil
	})
	all, different := r.count()
	t.Logf("%d events came in %d webhooks over %d kills", different, all, kills)
	if different != events || i.count(t, `SELECT count(*) FROM webhook_delivery`) != events {
		t.Errorf("%d different webhooks came, want %d", different, events)
	}
	if all <= events || all > events+kills*20 {
		t.Errorf("%d webhooks for %d events: want some twice, as %d kills left them, and not many", all, events, kills)
	}
	bodies := map[string]string{}
	for _, w := range r.got {
		id := w.Headers["webhook-id"]
		if bodies[id] == "" {
			bodies[id] = w.Body
		}
		if bodies[id] != w.Body {
			t.Errorf("event %s came as %s and as %s", id, bodies[id], w.Body)
		}
	}
	verify(t, slices.Clone(r.got), endpoint.Secret, "invitation.created")
	verify(t, slices.Clone(r.got[rotatedAt:]), rotated.Secret, "invitation.created")
	if rotated.Secret == endpoint.Secret {
		t.Error("the secret is the same after the rotation")
	}

	// A test and a replay, as an app asks for them.
	var queued struct {
		EventID string `json:"event_id"`
	}
	i.site.must(t, http.MethodPost, "/v1/webhook-endpoints/"+endpoint.ID+"/test", nil, &queued)
	delivery := func(id string) (d struct {
		State    string
		Attempts []struct{ Status int }
	}) {
		i.site.must(t, http.MethodGet, fmt.Sprintf("/v1/webhook-endpoints/%s/deliveries/%s", endpoint.ID, id), nil, &d)
		return d
	}
	eventually(t, "the test is delivered", func() (bool, error) { return delivery(queued.EventID).State == "delivered", nil })
	var replayed struct{ Queued int }
	i.site.must(t, http.MethodPost, "/v1/webhook-endpoints/"+endpoint.ID+"/replay", map[string]any{
		"from": time.Now().Add(-time.Hour), "to": time.Now().Add(time.Hour), "which": "all",
	}, &replayed)
	if replayed.Queued != events {
		t.Errorf("%d events are replayed, want %d", replayed.Queued, events)
	}
	eventually(t, "the replayed are delivered", func() (bool, error) {
		return i.count(t, `SELECT count(*) FROM webhook_delivery WHERE state <> 'delivered'`) == 0, nil
	})
	if _, different := r.count(); different != events+1 {
		t.Errorf("%d different ids came, want %d and the test's", different, events)
	}
	if n := i.count(t, `SELECT count(*) FROM river_job WHERE state IN ('discarded', 'cancelled')`); n > 0 {
		t.Errorf("%d jobs were given up", n)
	}
	worker.finish(t)
	i.web.finish(t)
}

// TestWebhooksStayOnThePublicInternet posts, in an installation that is not for
// development, to a name and to addresses of our own machine.
func TestWebhooksStayOnThePublicInternet(t *testing.T) {
	t.Parallel()
	i := install(t, 0, "USHER_DEV=0")
	r := newReceiver(t, 0)
	for _, address := range []string{r.url, "https://127.0.0.1/hook", "https://[::1]/hook", "https://10.1.2.3/"} {
		if err := i.site.call(t.Context(), http.MethodPost, "/v1/webhook-endpoints", map[string]any{"url": address}, nil); err == nil {
			t.Errorf("%s is taken", address)
		}
	}
	// A name is looked up when it is used.
	var endpoint struct{ ID string }
	i.site.must(t, http.MethodPost, "/v1/webhook-endpoints", map[string]any{"url": "https://localhost/hook"}, &endpoint)
	if _, err := i.pool.Exec(t.Context(), `UPDATE webhook_endpoint SET url = replace($1, '127.0.0.1', 'localhost')`, r.url); err != nil {
		t.Fatal(err)
	}
	worker := i.worker(t)
	var queued struct {
		EventID string `json:"event_id"`
	}
	i.site.must(t, http.MethodPost, "/v1/webhook-endpoints/"+endpoint.ID+"/test", nil, &queued)
	var d struct{ State, Error string }
	eventually(t, "the test is tried", func() (bool, error) {
		i.site.must(t, http.MethodGet, fmt.Sprintf("/v1/webhook-endpoints/%s/deliveries/%s", endpoint.ID, queued.EventID), nil, &d)
		return d.Error != "", nil
	})
	if d.Error != "its name leads to an address that is not on the public internet" || d.State != "waiting" {
		t.Errorf("it is %+v", d)
	}
	if all, _ := r.count(); all != 0 {
		t.Errorf("%d webhooks reached our own machine", all)
	}
	worker.finish(t)
	i.web.finish(t)
}
