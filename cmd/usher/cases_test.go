package main

import (
	"encoding/base64"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"usher/internal/mail/mailtest"
)

// mailed is an installation whose provider tells of mail by webhook, but of none
// by itself: the test says what happens.
func mailed(t *testing.T) *installation {
	t.Helper()
	secret := "whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("s", 24)))
	i := install(t, 0, "RESEND_WEBHOOK_SECRET="+secret)
	if err := i.provider.Config(t.Context(), mailtest.Config{Webhook: &mailtest.Webhook{
		URL: "http://" + i.web.address(t) + "/hooks/resend", Secrets: []string{secret},
	}}); err != nil {
		t.Fatal(err)
	}
	i.worker(t)
	return i
}

// inviteSilent invites an address of whose mail nothing is heard, and waits
// until the provider has it.
func (i *installation) inviteSilent(t testing.TB, email string) (inv invitation, mail mailtest.Mail) {
	t.Helper()
	if err := i.provider.Fate(t.Context(), email); err != nil {
		t.Fatal(err)
	}
	inv = i.site.invite(t, email, "Ann Okafor", "en")
	return inv, i.sent(t, inv, 1)
}

// sent is the nth mail of an invitation, once its acceptance is recorded.
func (i *installation) sent(t testing.TB, inv invitation, n int) mailtest.Mail {
	t.Helper()
	eventually(t, "the mail is with the provider", func() (bool, error) { return i.site.read(t, inv.ID).Delivery == "accepted", nil })
	mails, err := i.provider.MailsN(t.Context(), i.site.read(t, inv.ID).Email, n, 10*time.Second)
	if err != nil || len(mails) != n {
		t.Fatalf("%d mails, want %d: %v", len(mails), n, err)
	}
	return mails[n-1]
}

// happen has the provider tell what became of a mail, and waits until it was
// worked.
func (i *installation) happen(t testing.TB, mail mailtest.Mail, step mailtest.Step) {
	t.Helper()
	event, err := i.provider.Happen(t.Context(), mail.ID, step)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, step.Type+" is worked", func() (bool, error) {
		return i.count(t, `SELECT count(*) FROM provider_event WHERE id = $1 AND applied_at IS NOT NULL`, event.ID) == 1, nil
	})
}

var hardBounce = mailtest.Step{Type: "email.bounced", Bounce: &mailtest.Bounce{
	Type: "Permanent", SubType: "General", Message: "no such user", DiagnosticCode: []string{"550 5.1.1 no such user"},
}}

// TestCase1: a mail that comes back after its invitation was accepted changes
// nothing of that, and the address is flagged.
func TestCase1(t *testing.T) {
	t.Parallel()
	i := mailed(t)
	inv, mail := i.inviteSilent(t, "ann@client.example")
	person := &http.Client{Transport: i.site.transport, Timeout: patience}
	i.site.browse(t, person, inv.Link+"/accept", url.Values{"full_name": {"Ann Okafor"}, "password": {"seven green boats"}})
	before := i.site.read(t, inv.ID)
	i.happen(t, mail, hardBounce)
	if after := i.site.read(t, inv.ID); after.State != "accepted" || after.AccountID != before.AccountID || after.Delivery != "bounced" {
		t.Errorf("after the bounce: %+v, before: %+v", after, before)
	}
	if i.site.members(t)[before.AccountID] != "client_user" {
		t.Error("who accepted is no member any more")
	}
	var list struct {
		Items []struct{ Email string }
	}
	i.site.must(t, http.MethodGet, "/v1/suppressions", nil, &list)
	if len(list.Items) != 1 || list.Items[0].Email != "ann@client.example" {
		t.Errorf("flagged addresses: %+v", list.Items)
	}
}

// TestCase2: what becomes of mail to an address that was replaced is recorded
// and holds nothing.
func TestCase2(t *testing.T) {
	t.Parallel()
	i := mailed(t)
	inv, old := i.inviteSilent(t, "ann@cleint.example")
	if err := i.provider.Fate(t.Context(), "ann@client.example"); err != nil {
		t.Fatal(err)
	}
	i.site.must(t, http.MethodPost, "/v1/invitations/"+inv.ID+"/correct-address", map[string]string{"email": "ann@client.example"}, nil)
	i.sent(t, inv, 1)
	i.happen(t, old, hardBounce)
	if after := i.site.read(t, inv.ID); after.State != "pending" || after.Delivery != "accepted" {
		t.Errorf("after the old address's bounce: %+v", after)
	}
	if n := i.count(t, `SELECT count(*) FROM message WHERE state = 'bounced' AND email_key = 'ann@cleint.example'`); n != 1 {
		t.Errorf("%d bounces are recorded, want 1", n)
	}
}

// TestCase28: after a complaint nobody is mailed for this app again, the inviter
// reads neutral words, and the link can still be copied.
func TestCase28(t *testing.T) {
	t.Parallel()
	i := mailed(t)
	inv, mail := i.inviteSilent(t, "ann@client.example")
	i.happen(t, mail, mailtest.Step{Type: "email.complained"})
	var held struct {
		State, Delivery string
		Detail          struct{ Code, Message string } `json:"delivery_detail"`
	}
	i.site.must(t, http.MethodGet, "/v1/invitations/"+inv.ID, nil, &held)
	if held.State != "on_hold" || held.Delivery != "complained" || held.Detail.Code != "complained" {
		t.Errorf("after the complaint: %+v", held)
	}
	if words := strings.ToLower(held.Detail.Message); strings.Contains(words, "spam") || strings.Contains(words, "complain") {
		t.Errorf("the inviter reads %q", held.Detail.Message)
	}
	for _, body := range []any{nil, map[string]bool{"mailbox_exists": true}} {
		if err := i.site.call(t.Context(), http.MethodPost, "/v1/invitations/"+inv.ID+"/resend", body, nil); err == nil || !strings.Contains(err.Error(), "409") {
			t.Errorf("resend %v: %v", body, err)
		}
	}
	var copied invitation
	i.site.must(t, http.MethodPost, "/v1/invitations/"+inv.ID+"/link", nil, &copied)
	if copied.Link != inv.Link {
		t.Errorf("the copied link is %q, want %q", copied.Link, inv.Link)
	}

	// Another invitation of the same address is stored and not mailed.
	var w struct{ ID string }
	i.site.must(t, http.MethodPost, "/v1/workspaces", map[string]string{"company_id": i.site.company, "name": "Second", "owner_id": i.site.actor}, &w)
	second := i.site
	second.workspace = w.ID
	if again := second.invite(t, "ANN@client.example", "Ann Okafor", "en"); again.State != "on_hold" || again.Delivery != "suppressed" {
		t.Errorf("invited elsewhere: %+v", again)
	}
	if mails, err := i.provider.Mails(t.Context(), "ann@client.example", 0); err != nil || len(mails) != 1 {
		t.Errorf("%d mails, want 1: %v", len(mails), err)
	}
}
