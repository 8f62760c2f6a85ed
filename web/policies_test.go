package web

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"
)

func (s *site) changePolicy(body string) reply {
	s.t.Helper()
	return s.api(s.tenant, call{method: http.MethodPost, path: "/v1/policies", body: body})
}

func TestPoliciesAreRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for body, want := range map[string]struct{ code, field string }{
		`{"invitation_dais":3}`:                              {"setting_unknown", "invitation_dais"},
		`{"reminders":{"weekend":true}}`:                     {"setting_unknown", "reminders.weekend"},
		`{"invitation_days":0}`:                              {"setting_invalid", "invitation_days"},
		`{"duplicate":"send"}`:                               {"setting_invalid", "duplicate"},
		`{"accept_url":"http://app.example.org"}`:            {"setting_invalid", "accept_url"},
		`{"reminders":{"window_from":"9"}}`:                  {"setting_invalid", "reminders.window_from"},
		`{"max_resends":5,"reminders":{"window_to":"7:00"}}`: {"setting_invalid", "reminders.window_to"},
		`{"invitation_days":"3"}`:                            {"validation_failed", ""},
		`{"reminders":3}`:                                    {"validation_failed", ""},
		`{"if_version":"x"}`:                                 {"validation_failed", ""},
	} {
		r := s.changePolicy(body)
		r.wantProblem(t, 422, want.code)
		if r.text(t, "field") != want.field {
			t.Errorf("%s is about %q, want %q", body, r.text(t, "field"), want.field)
		}
	}
	s.changePolicy(`{"if_version":1,"max_resends":5}`).wantProblem(t, 409, "policy_changed")
	if n := read[int](s, `SELECT count(*) FROM policy WHERE version > 0`); n != 0 {
		t.Error("a refused change was kept")
	}
}

// TestPolicyHoldsSoon: a change is followed by every call within a second, and
// without a query for each.
func TestPolicyHoldsSoon(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	life := func(email string) time.Duration {
		r := s.post(email)
		expires, err := time.Parse(time.RFC3339, r.text(t, "expires_at"))
		if err != nil || r.StatusCode != 201 {
			t.Fatalf("%d %s", r.StatusCode, r.body)
		}
		created, err := time.Parse(time.RFC3339, r.text(t, "created_at"))
		if err != nil {
			t.Fatal(err)
		}
		return expires.Sub(created)
	}
	if d := life("first@client.example"); d != 14*24*time.Hour {
		t.Errorf("by default it lives for %s", d)
	}
	if r := s.changePolicy(`{"invitation_days":2,"duplicate":"resend","resend_minutes":5}`); r.StatusCode != 200 {
		t.Fatalf("%d %s", r.StatusCode, r.body)
	}
	changed, n := time.Now(), 0
	s.until("it is followed", func() bool {
		n++
		return life(fmt.Sprintf("ann%d@client.example", n)) == 48*time.Hour
	})
	if took := time.Since(changed); took > 3*keyTime {
		t.Errorf("it took %s", took)
	}
	s.pass(5 * time.Minute)
	if r := s.post("first@client.example"); r.StatusCode != 200 || r.value(t, "duplicate") != true || r.value(t, "resent") != true {
		t.Errorf("a duplicate after its rest: %d %s", r.StatusCode, r.body)
	}
	r := s.api(s.tenant, call{method: http.MethodPost, path: "/v1/invitations", body: invitationJSON(s.tenant, map[string]any{"email": "first@client.example", "if_duplicate": "return"})})
	if r.StatusCode != 200 || r.value(t, "duplicate") != true || strings.Contains(r.body, "resent") {
		t.Errorf("a duplicate to be returned: %d %s", r.StatusCode, r.body)
	}
}
