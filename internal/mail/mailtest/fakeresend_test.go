package mailtest_test

import (
	"net/http"
	"net/url"
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
