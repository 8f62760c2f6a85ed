package main

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// summary is what happened to a mail, in a few words.
func summary(events []event, emailID string) string {
	var list []string
	for _, ev := range events {
		if ev.EmailID != emailID {
			continue
		}
		s := strings.TrimPrefix(ev.Type, "email.")
		switch {
		case ev.Bounce != nil:
			s += ":" + ev.Bounce.Type + "/" + ev.Bounce.SubType
		case ev.Failed != nil:
			s += ":" + ev.Failed.Reason
		case ev.Suppressed != nil:
			s += ":" + ev.Suppressed.Reason
		}
		list = append(list, s)
	}
	return strings.Join(list, " ")
}

func TestFates(t *testing.T) {
	t.Parallel()
	p := start(t)
	p.admin("config", `{"event_gap_ms":1}`)
	fates := map[string]struct {
		want       string
		suppressed bool
	}{
		"ann@b.dev":                   {"sent delivered", false},
		"hard@b.dev":                  {"sent delivered", false},
		"delivered@resend.dev":        {"sent delivered", false},
		"bounced+label@resend.dev":    {"sent bounced:Permanent/NoEmail", false},
		"complained@resend.dev":       {"sent delivered complained", false},
		"suppressed+x@resend.dev":     {"suppressed:previous_bounce", false},
		"Ann <hard+1@fake.test>":      {"sent bounced:Permanent/NoEmail", true},
		"softfull@fake.test":          {"sent bounced:Transient/MailboxFull", false},
		"ooo@fake.test":               {"sent delivered bounced:Transient/General", false},
		"toolarge@fake.test":          {"sent bounced:Transient/MessageTooLarge", false},
		"content@fake.test":           {"sent bounced:Transient/ContentRejected", false},
		"undetermined@fake.test":      {"sent bounced:Undetermined/Undetermined", false},
		"delayed@fake.test":           {"sent delivery_delayed delivered", false},
		"failed@fake.test":            {"failed:reached_daily_quota", false},
		"late-bounce+label@fake.test": {"sent delivered bounced:Permanent/General", true},
		"complained@fake.test":        {"sent delivered complained", true},
		"silent@fake.test":            {"", false},
	}
	ids := map[string]string{}
	for address := range fates {
		ids[address] = p.send(to(address))
	}
	events := p.quiet()
	for address, fate := range fates {
		if got := summary(events, ids[address]); got != fate.want {
			t.Errorf("%s: %q, want %q", address, got, fate.want)
		}
		status := p.must("GET", "/suppressions/"+url.PathEscape(bareAddress(address)), "").StatusCode
		if (status == http.StatusOK) != fate.suppressed {
			t.Errorf("%s: suppression %d", address, status)
		}
	}
	// What is suppressed is accepted, and goes nowhere.
	for address, want := range map[string]string{"hard+1@fake.test": "suppressed:previous_bounce", "complained@fake.test": "suppressed:previous_complaint"} {
		id := p.send(to(address))
		if got := summary(p.quiet(), id); got != want {
			t.Errorf("%s again: %q, want %q", address, got, want)
		}
		if got := p.must("GET", "/emails/"+id, ""); !strings.Contains(got.body, `"last_event":"suppressed"`) {
			t.Errorf("get: %s", got.body)
		}
	}
}

func TestFatesOfSeveralRecipients(t *testing.T) {
	t.Parallel()
	p, e := start(t), newEndpoint(t, secretOne)
	p.hook(e, "")
	id := p.send(with("to", `["ann@b.dev","hard@fake.test"]`))
	if got := summary(p.quiet(), id); got != "sent delivered bounced:Permanent/NoEmail" {
		t.Errorf("events = %s", got)
	}
	want := map[string]string{"email.sent": "[ann@b.dev hard@fake.test]", "email.delivered": "[ann@b.dev]", "email.bounced": "[hard@fake.test]"}
	for _, r := range e.took {
		if got := fmt.Sprint(r.Data["to"]); r.Type != "suppression.added" && got != want[r.Type] {
			t.Errorf("%s is about %s, want %s", r.Type, got, want[r.Type])
		}
	}
}

func TestScripts(t *testing.T) {
	t.Parallel()
	p := start(t)
	put := func(address, script string) {
		if res := p.must("PUT", "/_admin/fates/"+address, script); res.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s", res.Status, res.body)
		}
	}
	put("Ann@b.dev", `[{"after":"48h","type":"email.bounced","bounce":{"type":"Transient","subType":"General","message":"m","diagnosticCode":["smtp; 421"]}},
		{"after":"1ms","type":"email.sent"},{"after":"24h","type":"email.delivery_delayed"}]`)
	put("bob@b.dev", `[]`)
	ann, bob := p.send(to("ann@b.dev")), p.send(to("bob@b.dev"))
	wait := func(n int, want string) {
		t.Helper()
		events := decode[[]event](t, p.must("GET", fmt.Sprintf("/_admin/events?to=ann@b.dev&count=%d&wait=10s", n), "").body)
		if got := summary(events, ann); got != want {
			t.Errorf("events = %q, want %q", got, want)
		}
	}
	wait(1, "sent")
	p.admin("clock", `{"advance":"25h"}`)
	wait(2, "sent delivery_delayed")
	p.admin("clock", `{"advance":"25h"}`)
	wait(3, "sent delivery_delayed bounced:Transient/General")
	if got := summary(p.quiet(), bob); got != "" {
		t.Errorf("silence says %q", got)
	}
	p.must("DELETE", "/_admin/fates/ann@b.dev", "")
	p.admin("config", `{"event_gap_ms":1}`)
	ann = p.send(to("ann@b.dev"))
	if got := summary(p.quiet(), ann); got != "sent delivered" {
		t.Errorf("without its script: %q", got)
	}
}

func TestSuppressions(t *testing.T) {
	t.Parallel()
	p, e := start(t), newEndpoint(t, secretOne)
	p.hook(e, "")
	var ids []string
	for i := range 25 {
		res := p.must("POST", "/suppressions", fmt.Sprintf(`{"email":" P%02d@b.dev"}`, i))
		if res.StatusCode != http.StatusCreated {
			t.Fatalf("%s %s", res.Status, res.body)
		}
		ids = append(ids, decode[map[string]string](t, res.body)["id"])
	}
	if res := p.must("POST", "/suppressions", `{"email":"p03@b.dev"}`); !strings.Contains(res.body, ids[3]) {
		t.Errorf("again: %s", res.body)
	}
	type page struct {
		Object  string
		HasMore bool `json:"has_more"`
		Data    []struct{ ID, Email, Origin string }
	}
	list := func(query string) page { return decode[page](t, p.must("GET", "/suppressions"+query, "").body) }
	if l := list(""); len(l.Data) != 20 || !l.HasMore || l.Object != "list" {
		t.Errorf("first page: %+v", l)
	}
	if l := list("?origin=bounce"); len(l.Data) != 0 {
		t.Errorf("bounces: %+v", l)
	}
	id := p.send(to("P03@b.dev"))
	if got := summary(p.quiet(), id); got != "suppressed:previous_bounce" {
		t.Errorf("a suppressed address: %q", got)
	}
	for _, key := range []string{"p03@b.dev", ids[4]} {
		if res := p.must("GET", "/suppressions/"+key, ""); !strings.Contains(res.body, `"origin":"manual"`) {
			t.Errorf("get: %s", res.body)
		}
		if res := p.must("DELETE", "/suppressions/"+key, ""); !strings.Contains(res.body, `"deleted":true`) {
			t.Errorf("delete: %s", res.body)
		}
		for _, method := range []string{"GET", "DELETE"} {
			if res := p.must(method, "/suppressions/"+key, ""); res.StatusCode != http.StatusNotFound {
				t.Errorf("%s after that: %s", method, res.Status)
			}
		}
	}
	id = p.send(to("p03@b.dev"))
	if got := summary(p.quiet(), id); got != "sent delivered" {
		t.Errorf("a lifted address: %q", got)
	}
	if got := strings.Count(fmt.Sprint(e.types("")), "suppression.removed"); got != 2 {
		t.Errorf("%d removals told", got)
	}
	for _, body := range []string{`{}`, `{"email":"nobody"}`} {
		if res := p.must("POST", "/suppressions", body); res.StatusCode != http.StatusUnprocessableEntity {
			t.Errorf("%s: %s", body, res.Status)
		}
	}
}

func TestListEmails(t *testing.T) {
	t.Parallel()
	p := start(t)
	var ids []string // newest first, as the list is
	for range 25 {
		ids = append([]string{p.send(good)}, ids...)
	}
	list := func(query string) ([]string, bool) {
		t.Helper()
		res := p.must("GET", "/emails"+query, "")
		l := decode[struct {
			HasMore bool `json:"has_more"`
			Data    []struct{ ID string }
		}](t, res.body)
		var got []string
		for _, d := range l.Data {
			got = append(got, d.ID)
		}
		return got, l.HasMore
	}
	for query, want := range map[string]struct {
		from, to int
		more     bool
	}{
		"":                               {0, 20, true},
		"?limit=25":                      {0, 25, false},
		"?limit=3&after=" + ids[4]:       {5, 8, true},
		"?after=" + ids[20]:              {21, 25, false},
		"?limit=3&before=" + ids[10]:     {7, 10, true},
		"?limit=3&before=" + ids[2]:      {0, 2, false},
		"?limit=100&before=" + ids[24]:   {0, 24, false},
		"?limit=1&after=" + ids[24]:      {0, 0, false},
		"?limit=1&before=" + ids[0] + "": {0, 0, false},
	} {
		got, more := list(query)
		if fmt.Sprint(got) != fmt.Sprint(ids[want.from:want.to]) || more != want.more {
			t.Errorf("%s: %d mails, more %t; want %+v", query, len(got), more, want)
		}
	}
	for _, query := range []string{"?limit=0", "?limit=101", "?limit=x", "?after=none", "?after=" + ids[0] + "&before=" + ids[1]} {
		if res := p.must("GET", "/emails"+query, ""); res.StatusCode != http.StatusUnprocessableEntity {
			t.Errorf("%s: %s", query, res.Status)
		}
	}
	l, err := p.client().Emails.ListWithContext(t.Context())
	if err != nil || len(l.Data) != 20 || !l.HasMore || l.Data[0].Subject != "Hello" || l.Data[0].CreatedAt == "" {
		t.Errorf("resend-go: %+v, %v", l, err)
	}
}
