package roster_test

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"usher/internal/roster"
	"usher/internal/roster/rostertest"
)

// policy changes the app's policy by a JSON object of settings.
func policy(t *testing.T, b *rostertest.Bundle, settings string) (roster.AppPolicy, error) {
	t.Helper()
	var c roster.PolicyChange
	done(t, json.Unmarshal([]byte(settings), &c.Settings))
	return b.ChangePolicy(t.Context(), b.App.ID, c, noKey)
}

func TestPolicyDefaults(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	p, err := b.AppPolicy(t.Context(), b.App.ID)
	done(t, err)
	if p.Policy != roster.DefaultPolicy() || p.Version != 0 || p.ChangedAt != nil || len(p.Own) != 0 {
		t.Errorf("an app without settings has %+v", p)
	}
	if d := roster.DefaultPolicy(); d.Life() != inviteLife || d.Rest() != resendAfter || d.MaxResends != maxResends || d.MaxReopens != maxReopens {
		t.Errorf("the defaults are %+v", d)
	}
}

func TestPolicyChanges(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	p, err := policy(t, b, `{"invitation_days":7,"reminders":{"max":0,"window_from":"09:30"},"accept_url":"https://app.example.org/join?x=1"}`)
	done(t, err)
	want := roster.DefaultPolicy()
	want.InvitationDays, want.Reminders.Max, want.Reminders.WindowFrom, want.AcceptURL = 7, 0, "09:30", "https://app.example.org/join?x=1"
	if p.Policy != want || p.Version != 1 || p.ChangedAt == nil {
		t.Errorf("changed to %+v", p)
	}
	if own := []string{"accept_url", "invitation_days", "reminders.max", "reminders.window_from"}; !slices.Equal(p.Own, own) {
		t.Errorf("own settings are %q, want %q", p.Own, own)
	}
	if again, err := policy(t, b, `{"invitation_days": 7}`); err != nil || again.Version != 1 || again.Policy != want || !slices.Equal(again.Own, p.Own) {
		t.Errorf("the same again: %+v, %v", again, err)
	}
	b.Clock.Add(time.Minute)
	p, err = policy(t, b, `{"invitation_days":null,"reminders":null,"max_resends":5}`)
	done(t, err)
	want.InvitationDays, want.Reminders, want.MaxResends = 14, roster.DefaultPolicy().Reminders, 5
	if read, err := b.AppPolicy(t.Context(), b.App.ID); err != nil || read.Policy != want || p.Policy != want || read.Version != 2 || !read.ChangedAt.Equal(*p.ChangedAt) || !slices.Equal(read.Own, []string{"accept_url", "max_resends"}) {
		t.Errorf("after resetting: %+v, read %+v, %v", p, read, err)
	}
	events := rostertest.Column[string](t, b, `SELECT data::text FROM event WHERE subject_id = $1 AND type = 'policy.changed' ORDER BY id`, b.App.ID)
	if len(events) != 2 || !strings.Contains(events[0], `"invitation_days": {"to": 7, "from": 14}`) || !strings.Contains(events[1], `"invitation_days": {"to": 14, "from": 7}`) ||
		!strings.Contains(events[1], `"version": 2`) || strings.Contains(events[1], "accept_url") {
		t.Errorf("events are %q", events)
	}
}

func TestPolicyVersions(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	set := func(version int, days string) error {
		_, err := b.ChangePolicy(t.Context(), b.App.ID, roster.PolicyChange{
			IfVersion: &version, Settings: map[string]json.RawMessage{"invitation_days": json.RawMessage(days)},
		}, noKey)
		return err
	}
	done(t, set(0, "7"))
	done(t, set(1, "8"))
	refused(t, set(1, "9"), roster.Conflict, "policy_changed")
	if p, err := b.AppPolicy(t.Context(), b.App.ID); err != nil || p.InvitationDays != 8 || p.Version != 2 {
		t.Errorf("%+v, %v", p, err)
	}
}

func TestPolicyRefuses(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	for _, bad := range []struct{ settings, field, code, says string }{
		{`{"invitation_day":7}`, "invitation_day", "setting_unknown", `"invitation_days"`},
		{`{"reminders":{"maxx":1}}`, "reminders.maxx", "setting_unknown", `"reminders.max"`},
		{`{"invitation_days":0}`, "invitation_days", "setting_invalid", "1 to 365"},
		{`{"invitation_days":366}`, "invitation_days", "setting_invalid", "1 to 365"},
		{`{"invitation_days":"7"}`, "invitation_days", "setting_invalid", "like 14"},
		{`{"invitation_days":1.5}`, "invitation_days", "setting_invalid", "like 14"},
		{`{"invitation_days":1e99}`, "invitation_days", "setting_invalid", "like 14"},
		{`{"resend_minutes":4}`, "resend_minutes", "setting_invalid", "5 to"},
		{`{"max_resends":-1}`, "max_resends", "setting_invalid", "0 to 20"},
		{`{"max_reopens":6}`, "max_reopens", "setting_invalid", "0 to 5"},
		{`{"merge_undo_days":0}`, "merge_undo_days", "setting_invalid", "1 to 90"},
		{`{"duplicate":"resent"}`, "duplicate", "setting_invalid", `"resend"`},
		{`{"orphaned_inviter":""}`, "orphaned_inviter", "setting_invalid", "hold, transfer, revoke"},
		{`{"merge_mode":true}`, "merge_mode", "setting_invalid", "on_command"},
		{`{"notice_by_mail":1}`, "notice_by_mail", "setting_invalid", "like false"},
		{`{"reminders":[]}`, "reminders", "setting_invalid", "object"},
		{`{"reminders":{"max":6}}`, "reminders.max", "setting_invalid", "0 to 5"},
		{`{"reminders":{"first_after_days":0}}`, "reminders.first_after_days", "setting_invalid", "1 to 90"},
		{`{"reminders":{"last_before_hours":0}}`, "reminders.last_before_hours", "setting_invalid", "1 to 720"},
		{`{"reminders":{"window_from":"8:00"}}`, "reminders.window_from", "setting_invalid", "08:00"},
		{`{"reminders":{"window_to":"24:00"}}`, "reminders.window_to", "setting_invalid", "23:59"},
		{`{"reminders":{"window_from":"18:00"}}`, "reminders.window_to", "setting_invalid", "ends after it begins"},
		{`{"accept_url":"http://app.example.org/"}`, "accept_url", "setting_invalid", "https://"},
		{`{"accept_url":"http://localhost:3000/"}`, "accept_url", "setting_invalid", "https://"},
		{`{"accept_url":"https://ann:secret@app.example.org/"}`, "accept_url", "setting_invalid", "password"},
		{`{"accept_url":"javascript:alert(1)"}`, "accept_url", "setting_invalid", "whole address"},
		{`{"accept_url":"//app.example.org/"}`, "accept_url", "setting_invalid", "https://"},
		{`{"accept_url":"https://"}`, "accept_url", "setting_invalid", "whole address"},
		{`{"accept_url":"https://app.example.org/#x"}`, "accept_url", "setting_invalid", "after #"},
		{`{"accept_url":"https://app.example.org/?token=1"}`, "accept_url", "setting_invalid", "token"},
		{`{"accept_url":"https://app.example.org/a b"}`, "accept_url", "setting_invalid", "whole address"},
		{`{"accept_url":"https://app.example.org/` + strings.Repeat("x", 500) + `"}`, "accept_url", "setting_invalid", "500 bytes"},
	} {
		_, err := policy(t, b, bad.settings)
		if e := refused(t, err, roster.Invalid, bad.code); e.Field != bad.field || !strings.Contains(e.Message, bad.says) {
			t.Errorf("%s: field %q, %q", bad.settings, e.Field, e.Message)
		}
	}
	if p, err := b.AppPolicy(t.Context(), b.App.ID); err != nil || p.Version != 0 || p.Policy != roster.DefaultPolicy() || len(p.Own) != 0 {
		t.Errorf("after refusals: %+v, %v", p, err)
	}
	for _, address := range []string{`"http://localhost:3000/join"`, `"http://127.0.0.1/"`, `"http://[::1]:8080/x"`, `""`} {
		if _, err := b.ChangePolicy(t.Context(), b.App.ID, roster.PolicyChange{
			Plain: true, Settings: map[string]json.RawMessage{"accept_url": json.RawMessage(address)},
		}, noKey); err != nil {
			t.Errorf("%s while developing: %v", address, err)
		}
	}
}

// A policy holds for what is done from then on.
func TestPolicyHolds(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	old := b.Invite(t, "old@example.org")
	p, err := policy(t, b, `{"invitation_days":3,"resend_minutes":120,"max_resends":1,"max_reopens":1}`)
	done(t, err)
	row := b.Row("ann@example.org")
	row.Policy = p.Policy
	inv := b.Create(t, row)[0].Invitation
	now := b.Clock.Now()
	if !inv.ExpiresAt.Equal(now.Add(72*time.Hour)) || !reread(t, b, old).ExpiresAt.Equal(old.ExpiresAt) {
		t.Errorf("expires %s, the old one %s", inv.ExpiresAt, old.ExpiresAt)
	}
	resend := func() error {
		_, err := b.ResendInvitation(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, noKey)
		return err
	}
	b.Clock.Add(2*time.Hour - time.Second)
	if e := refused(t, resend(), roster.TooSoon, "resend_too_soon"); !e.RetryAt.Equal(now.Add(2*time.Hour)) || !strings.Contains(e.Message, "2 hours") {
		t.Errorf("too soon until %s: %s", e.RetryAt, e.Message)
	}
	b.Clock.Add(time.Second)
	done(t, resend())
	b.Clock.Add(2 * time.Hour)
	refused(t, resend(), roster.Conflict, "resend_limit")
	reopen := func() (roster.Invitation, error) {
		expire(t, b, reread(t, b, inv))
		return b.ReopenInvitation(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, noKey)
	}
	reopened, err := reopen()
	done(t, err)
	if !reopened.ExpiresAt.Equal(b.Clock.Now().Add(72 * time.Hour)) {
		t.Errorf("reopened until %s", reopened.ExpiresAt)
	}
	_, err = reopen()
	refused(t, err, roster.Conflict, "reopen_limit")
}

// The rule for duplicates is the policy's, unless the request has its own.
func TestDuplicatesAreResent(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	row := func(rule, own roster.DuplicateRule) roster.NewInvitation {
		row := b.Row("ANN@example.org")
		row.Policy = roster.DefaultPolicy()
		row.Policy.Duplicate, row.IfDuplicate = rule, own
		return row
	}
	mails := 1
	check := func(rows []roster.NewInvitation, resent ...bool) {
		t.Helper()
		for i, out := range b.Create(t, rows...) {
			if out.Err != nil || !out.Duplicate || out.Invitation.ID != inv.ID || out.Resent != resent[i] {
				t.Errorf("row %d: %+v, %v; want resent %v", i, out.Created, out.Err, resent[i])
			}
			if out.Resent {
				mails++
			}
			if now := reread(t, b, inv); out.Invitation.Sends != now.Sends || *out.Invitation.MessageID != *now.MessageID {
				t.Errorf("row %d shows %+v, which is %+v", i, out.Invitation, now)
			}
		}
		if n := len(b.Mails(t, inv.ID)); n != mails {
			t.Errorf("%d mails, want %d", n, mails)
		}
	}
	resend := []roster.NewInvitation{row(roster.DuplicateResend, "")}
	check(resend, false) // its rest is not over
	b.Clock.Add(resendAfter)
	check([]roster.NewInvitation{row(roster.DuplicateReturn, ""), row(roster.DuplicateResend, roster.DuplicateReturn)}, false, false)
	quiet := row(roster.DuplicateResend, "")
	quiet.Notify = false
	check([]roster.NewInvitation{quiet}, false)
	check([]roster.NewInvitation{resend[0], row(roster.DuplicateReturn, roster.DuplicateResend)}, true, false)
	b.Clock.Add(resendAfter)
	keyed := row(roster.DuplicateReturn, roster.DuplicateResend)
	keyed.Key = roster.IdempotencyKey{Route: "r", Key: "k", Hash: []byte("h")}
	if out := b.Create(t, keyed, keyed); !out[0].Resent || !out[1].Resent || *out[0].Invitation.MessageID != *out[1].Invitation.MessageID {
		t.Errorf("twice under one key: %+v", out)
	}
	mails++
	b.Clock.Add(resendAfter)
	if out := b.Create(t, keyed); !out[0].Resent || len(b.Mails(t, inv.ID)) != mails {
		t.Errorf("the key again: %+v, %d mails", out[0], len(b.Mails(t, inv.ID)))
	}
	if events := b.Events(t, inv.ID); !slices.Equal(events, []string{"created", "resent", "resent"}) {
		t.Errorf("events are %q", events)
	}
	wrong := row(roster.DuplicateReturn, "again")
	refused(t, b.Create(t, wrong)[0].Err, roster.Invalid, "if_duplicate_unknown")
}

func TestTenancyOfPolicies(t *testing.T) {
	t.Parallel()
	own := rostertest.Begin(t)
	other := own.Another(t)
	_, err := policy(t, own, `{"invitation_days":3}`)
	done(t, err)
	if p, err := other.AppPolicy(t.Context(), other.App.ID); err != nil || p.Policy != roster.DefaultPolicy() || p.Version != 0 {
		t.Errorf("the other app has %+v, %v", p, err)
	}
	for _, b := range []*rostertest.Bundle{own, other} {
		key, _, err := b.CreateAPIKey(t.Context(), b.App.ID, "key")
		done(t, err)
		want, err := b.AppPolicy(t.Context(), b.App.ID)
		done(t, err)
		if app, p, err := b.AuthenticateKey(t.Context(), key); err != nil || app != b.App.ID || p != want.Policy {
			t.Errorf("the key is of app %s with %+v, %v; want %+v", app, p, err, want.Policy)
		}
	}
}
