package main

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

// TestMergeOfProcesses goes the professional's way with the processes that
// installations run: request, temporary account, approval, merge, undo. The app
// is told of each step, and so is whoever asks why.
func TestMergeOfProcesses(t *testing.T) {
	t.Parallel()
	i := install(t, 0)
	s := &i.site
	app := newReceiver(t, 20*time.Millisecond)
	var endpoint struct{ Secret string }
	s.must(t, http.MethodPost, "/v1/webhook-endpoints", map[string]any{"url": app.url, "merges": true, "types": []string{"webhook_endpoint.test"}}, &endpoint)
	s.must(t, http.MethodPost, "/v1/companies/"+s.company+"/members", map[string]any{"account_id": s.actor, "role": "admin"}, nil)
	var own struct{ ID string }
	s.must(t, http.MethodPost, "/v1/accounts", map[string]any{"kind": "client", "full_name": "Ann Okafor", "email": "ann@client.example"}, &own)
	var asked struct {
		ID   string
		Made struct{ ID string } `json:"made_account"`
	}
	s.must(t, http.MethodPost, "/v1/access-requests", map[string]any{"option": "request_with_temporary", "email": "ann@client.example", "full_name": "Ann Okafor"}, &asked)
	for n, account := range []string{own.ID, asked.Made.ID, asked.Made.ID} {
		s.must(t, http.MethodPost, "/v1/accounts/"+account+"/records", map[string]any{"kind": "programme", "external_id": fmt.Sprint(n)}, nil)
	}
	client := *s
	client.actor = own.ID
	client.must(t, http.MethodPost, "/v1/access-requests/"+asked.ID+"/approve", map[string]any{"visibility": "full"}, nil)

	worker := i.worker(t)
	var merge struct{ ID, State, Hash string }
	s.must(t, http.MethodPost, "/v1/merges/preview", map[string]any{"access_request_id": asked.ID}, &merge)
	s.must(t, http.MethodPost, "/v1/merges/"+merge.ID+"/confirm", map[string]any{"hash": merge.Hash}, nil)
	becomes := func(state string) {
		t.Helper()
		eventually(t, "the merge is "+state, func() (bool, error) {
			s.must(t, http.MethodGet, "/v1/merges/"+merge.ID, nil, &merge)
			return merge.State == state, nil
		})
	}
	records := func(account string) int {
		var list struct{ Items []struct{ ID string } }
		(&site{url: s.url, key: s.key, transport: s.transport}).must(t, http.MethodGet, "/v1/accounts/"+account+"/records", nil, &list)
		return len(list.Items)
	}
	becomes("merged")
	if n := records(own.ID); n != 3 {
		t.Errorf("the client has %d records, want 3", n)
	}
	out, _, code := i.told(t, "ann@client.example")
	for _, want := range []string{"merge confirmed", "merge merged", "The merge can be undone until"} {
		if !strings.Contains(out, want) {
			t.Errorf("why, which ends with %d, does not say %q:\n%s", code, want, out)
		}
	}
	s.must(t, http.MethodPost, "/v1/merges/"+merge.ID+"/undo", nil, nil)
	becomes("undone")
	if mine, theirs := records(own.ID), records(asked.Made.ID); mine != 1 || theirs != 2 {
		t.Errorf("after the undo they have %d and %d records, want 1 and 2", mine, theirs)
	}
	for n, name := range []string{"merge.prepare", "merge.apply", "merge.undo"} {
		if len(app.got) != 3 {
			t.Fatalf("the app got %d calls, want 3: %+v", len(app.got), app.got)
		}
		verify(t, app.got[n:n+1], endpoint.Secret, name)
	}
	worker.finish(t)
	i.web.finish(t)
}
