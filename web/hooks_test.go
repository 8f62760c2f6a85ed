package web

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	webhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"usher/internal/mail"
)

var hookSecret = "whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("h", 24)))

// hooked gives a site's front the secret of the provider's webhooks.
func hooked(t *testing.T) func(*Options) {
	secrets, err := mail.ParseHookSecrets(hookSecret)
	if err != nil {
		t.Fatal(err)
	}
	return func(o *Options) {
		o.Hook = &mail.Hook{DB: o.Roster.DB, Jobs: o.Roster.Jobs, Now: o.Roster.Now, Secrets: secrets}
	}
}

// hook posts a webhook, signed now, and changed as the test likes.
func (s *site) hook(id, body string, change func(*http.Request)) reply {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), http.MethodPost, s.base+"/hooks/resend", strings.NewReader(body))
	if err != nil {
		s.t.Fatal(err)
	}
	signer, err := webhooks.NewWebhook(hookSecret)
	if err != nil {
		s.t.Fatal(err)
	}
	at := s.roster.Now()
	signature, err := signer.Sign(id, at, []byte(body))
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("svix-id", id)
	req.Header.Set("svix-timestamp", strconv.FormatInt(at.Unix(), 10))
	req.Header.Set("svix-signature", signature)
	if change != nil {
		change(req)
	}
	return s.send(http.DefaultClient, req)
}

func bounceBody(message uuid.UUID) string {
	return fmt.Sprintf(`{"type":"email.bounced","created_at":%q,"data":{"email_id":"e1","to":["ann@gmial.com"],"tags":{"message_id":%q},"bounce":{"type":"Permanent","subType":"NoEmail","diagnosticCode":["550 5.1.1"]}}}`,
		time.Now().UTC().Format(time.RFC3339Nano), message)
}

func TestHook(t *testing.T) {
	t.Parallel()
	s := newSite(t, hooked(t))
	inv := s.invite(s.tenant, "ann@gmial.com")
	body := bounceBody(*inv.MessageID)
	for i, want := range []string{"stored", "known"} {
		start := time.Now()
		if r := s.hook("msg_1", body, nil); r.StatusCode != http.StatusOK || r.text(t, "event") != want {
			t.Errorf("time %d: %d %s", i+1, r.StatusCode, r.body)
		}
		t.Logf("answered in %s", time.Since(start))
	}
	if n := read[int](s, `SELECT count(*) FROM river_job WHERE kind = 'apply_provider_event' AND args->>'event_id' = 'msg_1'`); n != 1 {
		t.Errorf("%d jobs", n)
	}

	before := s.everything()
	for name, test := range map[string]struct {
		body   string
		change func(*http.Request)
		status int
		code   string // of the problem, or the event's reception
	}{
		"foreign": {strings.Replace(body, inv.MessageID.String(), uuid.NewString(), 1), nil, http.StatusOK, "foreign"},
		"no tags": {`{"type":"email.sent"}`, nil, http.StatusOK, "foreign"},
		"another secret": {body, func(r *http.Request) {
			r.Header.Set("svix-signature", "v1,"+base64.StdEncoding.EncodeToString(make([]byte, 32)))
		}, http.StatusUnauthorized, "signature_invalid"},
		"no signature": {body, func(r *http.Request) { r.Header.Del("svix-signature") }, http.StatusUnauthorized, "signature_invalid"},
		"another id":   {body, func(r *http.Request) { r.Header.Set("svix-id", "msg_2") }, http.StatusUnauthorized, "signature_invalid"},
		"no body":      {"", nil, http.StatusBadRequest, "event_unreadable"},
		"no JSON":      {"bounced", nil, http.StatusBadRequest, "event_unreadable"},
		"no type":      {`{}`, nil, http.StatusBadRequest, "event_unreadable"},
		"too large":    {`{"type":"` + strings.Repeat("x", maxBody) + `"}`, nil, http.StatusRequestEntityTooLarge, "body_too_large"},
	} {
		r := s.hook("msg_"+strings.ReplaceAll(name, " ", "_"), test.body, test.change)
		if test.status != http.StatusOK {
			r.wantProblem(t, test.status, test.code)
		} else if r.StatusCode != test.status || r.text(t, "event") != test.code {
			t.Errorf("%s: %d %s", name, r.StatusCode, r.body)
		}
	}
	if after := s.everything(); after != before {
		t.Errorf("rows changed:\n%s", changed(before, after))
	}
}

func TestHookWithoutSecret(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	inv := s.invite(s.tenant, "ann@client.example")
	before := s.everything()
	s.hook("msg_1", bounceBody(*inv.MessageID), nil).wantProblem(t, http.StatusServiceUnavailable, "webhook_not_configured")
	if after := s.everything(); after != before {
		t.Errorf("rows changed:\n%s", changed(before, after))
	}
}

// TestDeliveryDetail shows what an inviter may know of a mail, and the ways on.
func TestDeliveryDetail(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	inv := s.invite(s.tenant, "ann@gmial.com")
	path := "/v1/invitations/" + inv.ID.String()
	detail := func() map[string]any {
		t.Helper()
		d, _ := s.api(s.tenant, call{method: http.MethodGet, path: path}).value(t, "delivery_detail").(map[string]any)
		return d
	}
	if d := detail(); d != nil {
		t.Errorf("of mail that waits: %v", d)
	}
	set := func(state, reason string) {
		t.Helper()
		s.exec(`UPDATE message SET state = $2, reason = $3, fact_at = now(), due_at = NULL WHERE id = $1`, inv.MessageID, state, reason)
	}
	set("delivered", "")
	if d := detail(); d != nil {
		t.Errorf("of mail that arrived: %v", d)
	}
	set("bounced", "mailbox_full: 552 5.2.2")
	d := detail()
	if d["code"] != "mailbox_full" || d["diagnostic"] != "552 5.2.2" || d["retry_at"] == nil || d["suggestion"] != nil {
		t.Errorf("of a full mailbox: %v", d)
	}
	s.exec(`UPDATE invitation SET state = 'on_hold' WHERE id = $1`, inv.ID)
	s.exec(`INSERT INTO address (app_id, email_key, block, blocked_at) VALUES ($1, 'ann@gmial.com', 'hard', now())`, inv.AppID)
	set("bounced", "bounced: 550 5.1.1")
	d = detail()
	if d["code"] != "bounced" || d["diagnostic"] != "550 5.1.1" || d["retry_at"] != nil || d["suggestion"] != "ann@gmail.com" {
		t.Errorf("of a mailbox that does not exist: %v", d)
	}
	s.pass(2 * time.Hour)
	resend := func(body string) reply {
		return s.api(s.tenant, call{method: http.MethodPost, path: path + "/resend", body: body})
	}
	before := s.everything()
	resend("").wantProblem(t, http.StatusConflict, "address_blocked")
	resend(`{"mailbox_exists":false}`).wantProblem(t, http.StatusConflict, "address_blocked")
	resend(`{"mailbox_exists":"yes"}`).wantProblem(t, http.StatusUnprocessableEntity, "validation_failed")
	resend(`{"mailbox":true}`).wantProblem(t, http.StatusUnprocessableEntity, "validation_failed")
	if after := s.everything(); after != before {
		t.Errorf("rows changed:\n%s", changed(before, after))
	}
	if r := resend(`{"mailbox_exists":true}`); r.StatusCode != http.StatusOK || r.text(t, "state") != "on_hold" {
		t.Errorf("the mailbox exists: %d %s", r.StatusCode, r.body)
	}
	resend(`{"mailbox_exists":true}`).wantProblem(t, http.StatusTooManyRequests, "mailbox_asked_lately")

	s.exec(`UPDATE address SET block = 'complaint'`)
	set("suppressed", "complained_before: who knows")
	d = detail()
	if d["code"] != "complained" || d["diagnostic"] != nil || d["suggestion"] != nil || strings.Contains(fmt.Sprint(d["message"]), "spam") {
		t.Errorf("of a complaint: %v", d)
	}
	resend(`{"mailbox_exists":true}`).wantProblem(t, http.StatusConflict, "no_mail_wanted")
}
