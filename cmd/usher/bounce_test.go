package main

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"time"

	"usher/internal/mail/mailtest"
)

// TestBounces sends mail to addresses of every fate through whole processes,
// while the provider's webhooks come twice, in disorder, before its answers,
// forged, stale, about mail of others, and with news nobody has heard of.
func TestBounces(t *testing.T) {
	t.Parallel()
	secret := "whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("s", 24)))
	i := install(t, 20*time.Millisecond, "RESEND_WEBHOOK_SECRET="+secret)
	gap := 20.0
	if err := i.provider.Config(t.Context(), mailtest.Config{EventGapMS: &gap, Webhook: &mailtest.Webhook{
		URL: "http://" + i.web.address(t) + "/hooks/resend", Secrets: []string{secret}, RetryScale: 0.001,
		Duplicate: 0.5, Reorder: 0.3, BeforeAnswer: 0.5, BadSignature: 0.2, StaleSignature: 0.2, Foreign: 0.3, UnknownType: 0.3, UnknownFields: 0.5, Replay: 0.3,
	}}); err != nil {
		t.Fatal(err)
	}
	i.worker(t)
	type detailed struct {
		invitation
		Detail struct {
			Code       string     `json:"code"`
			Diagnostic string     `json:"diagnostic"`
			RetryAt    *time.Time `json:"retry_at"`
		} `json:"delivery_detail"`
	}
	read := func(inv invitation) (d detailed) {
		i.site.must(t, http.MethodGet, "/v1/invitations/"+inv.ID, nil, &d)
		return d
	}
	if err := i.provider.Suppress(t.Context(), "known@client.example"); err != nil {
		t.Fatal(err)
	}
	var hard invitation
	for _, row := range []struct {
		to, delivery, state, code string
		again                     bool
	}{
		{"plain@client.example", "delivered", "pending", "", false},
		{"delayed@fake.test", "delivered", "pending", "", false},
		{"hard@fake.test", "bounced", "on_hold", "bounced", false},
		{"late-bounce@fake.test", "bounced", "on_hold", "bounced", false},
		{"ooo@fake.test", "delivered", "pending", "automatic_reply", false},
		{"softfull@fake.test", "bounced", "pending", "mailbox_full", true},
		{"undetermined@fake.test", "bounced", "pending", "not_now", true},
		{"toolarge@fake.test", "bounced", "pending", "content_refused", false},
		{"content@fake.test", "bounced", "pending", "content_refused", false},
		{"known@client.example", "suppressed", "on_hold", "suppressed", false},
		{"complained@resend.dev", "complained", "on_hold", "complained", false},
		{"failed@fake.test", "failed", "pending", "quota", true},
		{"silent@fake.test", "accepted", "pending", "", false},
	} {
		inv := i.site.invite(t, row.to, "Ann Okafor", "en")
		if row.to == "hard@fake.test" {
			hard = inv
		}
		eventually(t, "mail to "+row.to+" is "+row.delivery, func() (bool, error) {
			d := read(inv)
			return d.Delivery == row.delivery && d.State == row.state && d.Detail.Code == row.code && (d.Detail.RetryAt != nil) == row.again, nil
		})
	}
	if _, err := i.provider.Quiet(t.Context(), 30*time.Second); err != nil {
		t.Fatal(err)
	}
	eventually(t, "every event is worked", func() (bool, error) {
		return i.count(t, `SELECT count(*) FROM river_job WHERE kind = 'apply_provider_event' AND finalized_at IS NULL`) == 0, nil
	})
	for query, want := range map[string]int{
		`SELECT count(*) FROM provider_event WHERE applied_at IS NULL`:                                     0,
		`SELECT count(*) FROM provider_event WHERE NOT EXISTS (SELECT FROM message WHERE id = message_id)`: 0,
		`SELECT count(*) FROM event WHERE type = 'invitation.held'`:                                        4,
		`SELECT count(*) FROM address WHERE block <> ''`:                                                   4,
		`SELECT count(*) FROM invitation WHERE state = 'on_hold'`:                                          4,
	} {
		if have := i.count(t, query); have != want {
			t.Errorf("%s: %d, want %d", query, have, want)
		}
	}
	ledger, err := i.provider.Ledger(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if ledger.Counters.ForgeriesTaken != 0 {
		t.Errorf("%d forged webhooks were taken", ledger.Counters.ForgeriesTaken)
	}

	// The mailbox is said to exist: the provider is asked to forget, and the
	// mail goes out again.
	if err := i.provider.Fate(t.Context(), "hard@fake.test", mailtest.Step{Type: "email.delivered"}); err != nil {
		t.Fatal(err)
	}
	i.site.must(t, http.MethodPost, "/v1/invitations/"+hard.ID+"/resend", map[string]bool{"mailbox_exists": true}, nil)
	eventually(t, "the mail arrives after all", func() (bool, error) {
		d := read(hard)
		return d.State == "pending" && d.Delivery == "delivered", nil
	})
	list, err := i.provider.Suppressions(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range list {
		if s.Email == "hard@fake.test" {
			t.Error("the provider still keeps the address on its list")
		}
	}
}
