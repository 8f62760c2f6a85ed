package main

import (
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"usher/internal/mail/mailtest"
)

// message is what the API says of a mail.
type message struct {
	ID, State, Next string
	Instead         string `json:"new_message_id"`
}

// told runs usher why and returns what it printed, and its exit code.
func (i *installation) told(t testing.TB, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	p := command(t, t.TempDir(), i.env, append([]string{"why"}, args...)...).toEnd(t)
	if s := p.stderr.String(); s != "" {
		t.Log(s)
	}
	return p.stdout.String(), p.stderr.String(), p.ProcessState.ExitCode()
}

// TestUncertain lets a day pass after two mails whose outcome nobody knows, one
// that the provider took and one that it did not. Neither is sent again, both
// are to be seen, and each is settled by somebody's word.
func TestUncertain(t *testing.T) {
	t.Parallel()
	i := install(t, 0)
	fail := func(faults ...mailtest.Fault) {
		if err := i.provider.Fail(t.Context(), faults...); err != nil {
			t.Fatal(err)
		}
	}
	sent, lost := "Taken@client.dev", "lost@client.dev"
	fail(mailtest.Fault{Match: mailtest.Match{To: strings.ToLower(sent)}, Times: 1000, When: "after", Kind: "reset"},
		mailtest.Fault{Match: mailtest.Match{To: lost}, Times: 1000, When: "before", Kind: "reset"})
	worker := i.worker(t)
	invited := map[string]invitation{}
	for _, email := range []string{sent, lost} {
		invited[email] = i.site.invite(t, email, "Ann Okafor", "en")
		eventually(t, "the outcome of a mail is unknown", func() (bool, error) {
			return i.count(t, `
				SELECT count(*) FROM message JOIN dispatch ON dispatch.id = message.dispatch_id
				WHERE message.subject_id = $1 AND dispatch.unknown > 0 AND dispatch.outcome <> ''`, invited[email].ID) == 1, nil
		})
	}
	if out, _, code := i.told(t, lost); code != 0 || !strings.Contains(out, "may or may not have it") {
		t.Errorf("while it is tried again, why ends with %d:\n%s", code, out)
	}
	worker.finish(t)

	if _, err := i.pool.Exec(t.Context(), `
		UPDATE dispatch SET first_attempt_at = first_attempt_at - interval '25 hours', last_attempt_at = last_attempt_at - interval '25 hours'`); err != nil {
		t.Fatal(err)
	}
	if err := i.provider.Advance(t.Context(), 25*time.Hour); err != nil {
		t.Fatal(err)
	}
	fail() // the provider is well again, and has forgotten the keys
	worker = i.worker(t)
	eventually(t, "both mails are uncertain", func() (bool, error) {
		return i.count(t, `SELECT count(*) FROM message WHERE state = 'uncertain'`) == 2, nil
	})
	ledger := func() map[string]int {
		l, err := i.provider.Ledger(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		counts := map[string]int{}
		for _, line := range l.Messages {
			counts[strings.Join(line.To, " ")] += line.Count
		}
		return counts
	}
	if l := ledger(); l[sent] != 1 || l[lost] != 0 {
		t.Errorf("the provider took %v", l)
	}

	var health struct{ Uncertain int }
	i.site.must(t, http.MethodGet, "/v1/mail/health", nil, &health)
	if health.Uncertain != 2 {
		t.Errorf("health is %+v", health)
	}
	for email, settled := range map[string]string{sent: "sent", lost: "not_sent"} {
		var list struct{ Items []message }
		i.site.must(t, http.MethodGet, "/v1/messages?state=uncertain&email="+url.QueryEscape(strings.ToUpper(email)), nil, &list)
		if len(list.Items) != 1 || list.Items[0].State != "uncertain" {
			t.Fatalf("the API lists %+v", list)
		}
		m := list.Items[0]
		i.site.must(t, http.MethodGet, "/v1/messages/"+m.ID, nil, &m)
		if !strings.Contains(m.Next, "settle it as") {
			t.Errorf("the API says %q", m.Next)
		}
		out, _, code := i.told(t, email)
		if code != 0 || !strings.Contains(out, "mail uncertain") || !strings.Contains(out, "usher mail settle "+m.ID) || !strings.Contains(out, "can be accepted until") {
			t.Errorf("why ends with %d:\n%s", code, out)
		}
		i.site.must(t, http.MethodPost, "/v1/messages/"+m.ID+"/settle", map[string]string{"outcome": settled}, &m)
		if (m.Instead != "") != (settled == "not_sent") {
			t.Errorf("settled as %s: %+v", settled, m)
		}
		eventually(t, "the mail is with the provider", func() (bool, error) {
			return i.count(t, `SELECT count(*) FROM invitation JOIN message ON message.id = invitation.message_id WHERE invitation.id = $1 AND message.state = 'accepted'`, invited[email].ID) == 1, nil
		})
		out, _, _ = i.told(t, email)
		t.Logf("\n%s", out)
	}
	if l := ledger(); l[sent] != 1 || l[lost] != 1 {
		t.Errorf("in the end the provider took %v", l)
	}
	worker.finish(t)
}

// TestWhy asks about addresses that are known, nearly known, and none.
func TestWhy(t *testing.T) {
	t.Parallel()
	i := install(t, 0)
	i.site.invite(t, "Ann@client.dev", "Ann Okafor", "en")
	other := newSite(t, i.env, i.site.transport)
	other.invite(t, "ann@client.dev", "Ann Okafor", "en")
	if _, err := i.pool.Exec(t.Context(), `
		UPDATE app SET name = 'Harbour' WHERE id = (SELECT max(id::text)::uuid FROM app);
		INSERT INTO address (app_id, email_key, block, detail, blocked_at) SELECT id, 'ann@client.dev', 'hard', '550 5.1.1 no such user', now() FROM app WHERE name = 'Harbour'`); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args []string
		code int
		says []string // on stdout, or stderr where the code is not 0
	}{
		{[]string{"ANN@client.dev"}, 0, []string{"ann@client.dev in Lighthouse", "ann@client.dev in Harbour", "blocked (hard)", "550 5.1.1", "It waits for its turn since", "invitation created"}},
		{[]string{"ann@client.dev", "--app", "harbour"}, 0, []string{"in Harbour"}},
		{[]string{"ann@client.dev", "--app", "Lighthose"}, 2, []string{`did you mean "Lighthouse"?`}},
		{[]string{"anm@client.dev"}, 3, []string{"nothing is known of anm@client.dev; did you mean ann@client.dev?"}},
		{[]string{"somebody.else@example.org"}, 3, []string{"nothing is known of somebody.else@example.org\n"}},
		{[]string{"ann"}, 2, []string{"This is not an e-mail address"}},
		{nil, 2, []string{"name one address"}},
	} {
		stdout, stderr, code := i.told(t, test.args...)
		out := stdout
		if code != 0 {
			out = stderr
		}
		if code != test.code {
			t.Errorf("why %q ends with %d, want %d", test.args, code, test.code)
		}
		for _, want := range test.says {
			if !strings.Contains(out, want) {
				t.Errorf("why %q does not say %q:\n%s", test.args, want, out)
			}
		}
		t.Logf("why %q\n%s", test.args, out)
	}
	var asJSON story
	handTool(t, i.env, &asJSON, "why", "ann@client.dev", "--app", "Harbour")
	if len(asJSON.Apps) != 1 || len(asJSON.Apps[0].History) != 2 || len(asJSON.Apps[0].Next) != 2 || asJSON.Apps[0].Address.Blocked != "hard" {
		t.Errorf("as JSON: %+v", asJSON)
	}
	var health healthLine
	handTool(t, i.env, &health, "mail", "health")
	if !health.Flowing || len(health.Lanes) != 2 || health.Lanes[0].Queued+health.Lanes[1].Queued != 2 {
		t.Errorf("health is %+v", health)
	}
	p := command(t, t.TempDir(), i.env, "mail", "health").toEnd(t)
	t.Logf("mail health\n%s", p.stdout.String())
	for want, args := range map[int][]string{2: {"mail", "settle", "7", "sent"}, 1: {"mail", "settle", i.site.actor, "sent"}} {
		if p := command(t, t.TempDir(), i.env, args...).toEnd(t); p.ProcessState.ExitCode() != want {
			t.Errorf("usher %q ends with %d, want %d: %s", args, p.ProcessState.ExitCode(), want, p.stderr.String())
		}
	}
}
