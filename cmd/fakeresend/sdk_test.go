package main

import (
	"encoding/json"
	"os/exec"
	"path/filepath"
	"testing"
)

// sdkFolder is where "make node" installs the official SDK for Node.
const sdkFolder = "../../.usher/node"

// The official SDK for Node, another implementation than resend-go, gets from
// the stand-in what it gets from Resend.
func TestNodeSDK(t *testing.T) {
	t.Parallel()
	folder, err := filepath.Abs(sdkFolder)
	if err != nil {
		t.Fatal(err)
	}
	node, err := exec.LookPath("node")
	if err != nil {
		t.Fatal("There is no Node.js for this test: run 'make node', which installs it.")
	}
	if found, _ := filepath.Glob(filepath.Join(folder, "node_modules/resend/package.json")); len(found) == 0 {
		t.Fatal("Resend's SDK for Node is not installed: run 'make node', which installs it.")
	}
	p := start(t)
	p.admin("config", `{"rate":20}`)
	cmd := exec.CommandContext(t.Context(), node, "testdata/node/sdk.cjs", folder, p.url, testKey)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("node: %v %s", err, errText(err))
	}

	type answer[T any] struct {
		Data  T
		Error *struct {
			StatusCode    int
			Name, Message string
		}
		Headers map[string]string
	}
	type item struct{ ID, Object, Email, Origin, Subject string }
	type list struct {
		Data    []item
		HasMore bool `json:"has_more"`
		Errors  []struct {
			Index   int
			Message string
		}
	}
	var seen struct {
		Sent, Again, Other, Got          answer[item]
		Batch, List                      answer[list]
		Strict, Permissive               answer[list]
		Suppressed, Suppression, Removed answer[item]
		Limited                          []answer[item]
	}
	if err := json.Unmarshal(out, &seen); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if id := seen.Sent.Data.ID; id == "" || seen.Again.Data.ID != id || seen.Got.Data.Subject != "Hello" {
		t.Errorf("sent %+v, again %+v, got %+v", seen.Sent, seen.Again, seen.Got)
	}
	if e := seen.Other.Error; e == nil || e.Name != "invalid_idempotent_request" || e.StatusCode != 409 {
		t.Errorf("the key with another mail: %+v", e)
	}
	if len(seen.Batch.Data.Data) != 2 || seen.Batch.Error != nil {
		t.Errorf("batch: %+v", seen.Batch)
	}
	if e := seen.Strict.Error; e == nil || e.Name != "validation_error" || e.StatusCode != 422 {
		t.Errorf("strict: %+v", e)
	}
	if d := seen.Permissive.Data; len(d.Data) != 1 || len(d.Errors) != 1 || d.Errors[0].Index != 1 || d.Errors[0].Message == "" {
		t.Errorf("permissive: %+v", d)
	}
	if d := seen.List.Data; len(d.Data) != 2 || !d.HasMore || d.Data[0].ID != seen.Permissive.Data.Data[0].ID {
		t.Errorf("list: %+v", d)
	}
	if s := seen.Suppression.Data; s.ID != seen.Suppressed.Data.ID || s.Email != "gone@b.dev" || s.Origin != "manual" || seen.Removed.Error != nil {
		t.Errorf("suppression: %+v, removed %+v", s, seen.Removed)
	}
	limited := 0
	for _, a := range seen.Limited {
		if a.Error == nil {
			continue
		}
		limited++
		if a.Error.Name != "rate_limit_exceeded" || a.Error.StatusCode != 429 || a.Headers["retry-after"] != "1" || a.Headers["ratelimit-limit"] != "20" {
			t.Errorf("limited: %+v %v", a.Error, a.Headers)
		}
	}
	if limited < 20 {
		t.Errorf("%d of 40 at once limited at 20 a second", limited)
	}
	if c := p.ledger().Counters; c.Accepted != 4+len(seen.Limited)-limited || c.ConflictingKeys != 1 || c.Replayed != 1 {
		t.Errorf("counters = %+v, %d limited", c, limited)
	}
}

// errText is what a command that failed said.
func errText(err error) []byte {
	if e, ok := err.(*exec.ExitError); ok { //nolint:errorlint // Output wraps nothing
		return e.Stderr
	}
	return nil
}
