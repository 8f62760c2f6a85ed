package mailtest_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/resend/resend-go/v2"

	"usher/internal/mail/mailtest"
)

func TestProvider(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	p := mailtest.Start(t)
	client := resend.NewCustomClient(http.DefaultClient, p.APIKey)
	client.BaseURL, _ = url.Parse(p.URL + "/")
	send := func() error {
		_, err := client.Emails.SendWithOptions(ctx, &resend.SendEmailRequest{
			From: "Acme <mail@acme.dev>", To: []string{"ann@b.dev"}, Subject: "Hello", Text: "Hi",
			Tags: []resend.Tag{{Name: "message_id", Value: "m1"}},
		}, &resend.SendEmailOptions{IdempotencyKey: "k1"})
		return err
	}

	if err := p.Fail(ctx,
		mailtest.Fault{Match: mailtest.Match{To: "ann@b.dev"}, When: "after", Drop: true},
		mailtest.Fault{When: "before", Status: 503},
	); err != nil {
		t.Fatal(err)
	}
	for _, what := range []string{"before", "after"} {
		if send() == nil {
			t.Fatalf("fault %s acceptance did not strike", what)
		}
	}
	if err := send(); err != nil {
		t.Fatal(err)
	}
	mails, err := p.Mails(ctx, "ann@b.dev", 10*time.Second)
	if err != nil || len(mails) != 1 || mails[0].Subject != "Hello" || mails[0].IdempotencyKey != "k1" || !mails[0].Answered {
		t.Errorf("mails = %+v, %v", mails, err)
	}
	l, err := p.Ledger(ctx)
	if err != nil || len(l.Messages) != 1 || l.Messages[0].Count != 1 || l.Messages[0].MessageID != "m1" ||
		l.Counters.Requests != 3 || l.Counters.Replayed != 1 || len(l.Faults) != 2 || l.Faults[1].EmailIDs[0] != mails[0].ID {
		t.Errorf("ledger = %+v, %v", l, err)
	}

	if err := p.Advance(ctx, 25*time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := send(); err != nil {
		t.Fatal(err)
	}
	if mails, err = p.MailsN(ctx, "", 2, 10*time.Second); err != nil || len(mails) != 2 {
		t.Errorf("after 25 h: %d mails, %v; want a second one", len(mails), err)
	}
	if err := p.Reset(ctx); err != nil {
		t.Fatal(err)
	}
	if mails, err = p.Mails(ctx, "", 0); err != nil || len(mails) != 0 {
		t.Errorf("after a reset: %d mails, %v", len(mails), err)
	}
	if err := p.Fail(ctx, mailtest.Fault{When: "later"}); err == nil {
		t.Error("a wrong fault was taken")
	}
}

// Every helper against the real process.
func TestProviderFates(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	var told []string
	var mu sync.Mutex
	app := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		told = append(told, r.Header.Get("svix-id"))
	}))
	t.Cleanup(app.Close)
	p := mailtest.Start(t, "-rate", fmt.Sprint(mailtest.Unlimited), "-webhook", app.URL, "-webhook-secret", "whsec_aGk=")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	gap, quota, seed, hold := 1.0, 3, uint64(7), true
	must(p.Config(ctx, mailtest.Config{
		EventGapMS: &gap, DailyQuota: &quota, Seed: &seed, HoldFailedKeys: &hold, Window: "fixed",
		Webhook: &mailtest.Webhook{URL: app.URL, Secrets: []string{"whsec_aGk="}, Hold: true, RetryScale: 0.1},
	}))
	must(p.Fate(ctx, "ann@b.dev", mailtest.Step{Type: "email.bounced", After: mailtest.Duration(time.Hour)}))
	must(p.Fate(ctx, "bob@b.dev"))
	must(p.ForgetFate(ctx, "bob@b.dev"))
	must(p.Fail(ctx, mailtest.Fault{Kind: "slow", Delay: mailtest.Duration(time.Millisecond), Match: mailtest.Match{MessageID: "m1", Path: "/emails"}}))

	client := resend.NewCustomClient(http.DefaultClient, p.APIKey)
	client.BaseURL, _ = url.Parse(p.URL + "/")
	send := func(to string) (string, error) {
		res, err := client.Emails.SendWithContext(ctx, &resend.SendEmailRequest{
			From: "mail@acme.dev", To: []string{to}, Subject: "Hello", Text: "Hi", Tags: []resend.Tag{{Name: "message_id", Value: "m1"}},
		})
		if err != nil {
			return "", err
		}
		return res.Id, nil
	}
	ann, err := send("ann@b.dev")
	must(err)
	_, err = send("bob@b.dev")
	must(err)
	if events, err := p.Events(ctx, "bob@b.dev", 2, 10*time.Second); err != nil || len(events) != 2 || events[1].Type != "email.delivered" || events[1].MessageID != "m1" {
		t.Errorf("events of bob = %+v, %v", events, err)
	}
	if _, err := p.Quiet(ctx, 50*time.Millisecond); err == nil {
		t.Error("quiet while a bounce is to come")
	}
	must(p.Advance(ctx, time.Hour))
	events, err := p.Quiet(ctx, 10*time.Second)
	if err != nil || len(events) != 4 || events[2].Type != "email.bounced" || events[2].EmailID != ann {
		t.Fatalf("events = %+v, %v", events, err)
	}
	opened, err := p.Happen(ctx, ann, mailtest.Step{Type: "email.opened"})
	must(err)
	if len(told) != 0 {
		t.Errorf("told while on hold: %v", told)
	}
	statuses, err := p.Deliver(ctx, opened.ID, events[2].ID, opened.ID)
	if err != nil || fmt.Sprint(statuses) != "[200 200 200]" || fmt.Sprint(told) != fmt.Sprint([]string{opened.ID, events[2].ID, opened.ID}) {
		t.Errorf("statuses %v, told %v, %v", statuses, told, err)
	}
	must(p.Suppress(ctx, "gone@b.dev"))
	if list, err := p.Suppressions(ctx); err != nil || len(list) != 2 || list[0].Email != "gone@b.dev" || list[1].Origin != "bounce" {
		t.Errorf("suppressions = %+v, %v", list, err)
	}
	if mails, err := p.Mails(ctx, "ann@b.dev", 0); err != nil || len(mails) != 1 || len(mails[0].Events) != 2 {
		t.Errorf("mails = %+v, %v", mails, err)
	}
	_, err = send("carl@b.dev")
	must(err)
	if _, err = send("dora@b.dev"); !errors.Is(err, resend.ErrRateLimit) {
		t.Errorf("over the quota: %v", err)
	}
	if l, err := p.Ledger(ctx); err != nil || l.Counters.OverQuota != 1 || len(l.Faults) != 1 || l.Faults[0].Kind != "slow" || len(l.TwoHashes) != 0 {
		t.Errorf("ledger = %+v, %v", l, err)
	}
}
