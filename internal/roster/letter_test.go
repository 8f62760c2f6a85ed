package roster_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"usher/internal/roster"
	"usher/internal/roster/rostertest"
)

func TestInvitationLetter(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	l := letter(t, b, onlyMail(t, b, inv.ID))
	v := l.Invitation
	if l.Skip != "" || l.Block != "" || l.News != nil || v.ID != inv.ID || v.Email != inv.Email || v.App.ID != b.App.ID || v.InviterName != b.Stakeholder.FullName ||
		v.WorkspaceName != b.Workspace.Name || v.CompanyName != b.Company.Name || v.Zone == nil {
		t.Errorf("got %+v", l)
	}
}

// A later mail joins the first one to the same address, if its id is known.
func TestLetterJoinsTheFirst(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	told := func(m roster.Mail, id string) {
		t.Helper()
		b.Exec(t, `INSERT INTO provider_event (id, type, message_id, body, at, received_at)
			VALUES ($1, 'email.sent', $2, jsonb_build_object('message_id', $3::text), $4, $4)`, uuid.NewString(), m.ID, id, b.Clock.Now())
	}
	told(onlyMail(t, b, inv.ID), "<first@provider>")
	b.Clock.Add(resendAfter)
	resent, err := b.ResendInvitation(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, noKey)
	done(t, err)
	mails := b.Mails(t, inv.ID)
	told(mails[1], "<second@provider>")
	if l := letter(t, b, mails[1]); l.Skip != "" || l.FirstMessageID != "<first@provider>" {
		t.Errorf("joins %q (%s)", l.FirstMessageID, l.Skip)
	}
	if _, err = correct(t, b, resent, "anne@example.org"); err != nil {
		t.Fatal(err)
	}
	b.Clock.Add(resendAfter)
	_, err = b.ResendInvitation(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, noKey)
	done(t, err)
	mails = b.Mails(t, inv.ID)
	if l := letter(t, b, mails[3]); l.Skip != "" || l.FirstMessageID != "" {
		t.Errorf("joins another's mail: %q (%s)", l.FirstMessageID, l.Skip)
	}
}

// An address that cannot be written to is known before a mail is written.
func TestLetterBlocked(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	accept(t, b, b.Invite(t, "bea@example.org"))
	b.Exec(t, `INSERT INTO address (app_id, email_key, block) VALUES ($1, 'ann@example.org', 'hard'), ($1, $2, 'complaint')`, b.App.ID, strings.ToLower(b.Stakeholder.Email))
	if l := letter(t, b, onlyMail(t, b, inv.ID)); l.Block != "hard" || l.Skip != "" {
		t.Errorf("the invited: got %q, %q", l.Block, l.Skip)
	}
	if l := letter(t, b, onlyMail(t, b, b.Stakeholder.ID)); l.Block != "complaint" || l.Skip != "" {
		t.Errorf("the inviter: got %q, %q", l.Block, l.Skip)
	}
}

// A mail that waited is not sent once its subject moved on.
func TestInvitationLetterLateCheck(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, skip string
		happens    func(t *testing.T, b *rostertest.Bundle, inv roster.Invitation)
	}{
		{"accepted", "accepted", func(t *testing.T, b *rostertest.Bundle, inv roster.Invitation) { accept(t, b, inv) }},
		{"declined", "declined", func(t *testing.T, b *rostertest.Bundle, inv roster.Invitation) {
			_, err := b.DeclineInvitation(t.Context(), inv.Ticket())
			done(t, err)
		}},
		{"revoked", "revoked", func(t *testing.T, b *rostertest.Bundle, inv roster.Invitation) {
			_, err := b.RevokeInvitation(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, noKey)
			done(t, err)
		}},
		{"on hold", "on_hold", hold},
		{"swept", "expired", expire},
		{"overdue", "expired", func(_ *testing.T, b *rostertest.Bundle, inv roster.Invitation) { b.Clock.Set(inv.ExpiresAt) }},
		{"workspace archived", "revoked", func(t *testing.T, b *rostertest.Bundle, _ roster.Invitation) {
			b.Exec(t, `UPDATE workspace SET state = 'archived' WHERE id = $1`, b.Workspace.ID)
		}},
		{"address corrected", "replaced", func(t *testing.T, b *rostertest.Bundle, inv roster.Invitation) {
			_, err := correct(t, b, inv, "anne@example.org")
			done(t, err)
		}},
		{"reopened", "replaced", func(t *testing.T, b *rostertest.Bundle, inv roster.Invitation) {
			expire(t, b, inv)
			_, err := reopen(t, b, inv)
			done(t, err)
		}},
		{"resent", "newer", func(t *testing.T, b *rostertest.Bundle, inv roster.Invitation) {
			b.Clock.Add(resendAfter)
			_, err := b.ResendInvitation(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, noKey)
			done(t, err)
		}},
		{"deleted", "gone", func(t *testing.T, b *rostertest.Bundle, inv roster.Invitation) {
			b.Exec(t, `DELETE FROM invitation WHERE id = $1`, inv.ID)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := rostertest.Begin(t)
			inv := b.Invite(t, "ann@example.org")
			m := onlyMail(t, b, inv.ID)
			test.happens(t, b, inv)
			if l := letter(t, b, m); !strings.Contains(string(l.Skip), test.skip) {
				t.Errorf("skip: got %q, want something with %q", l.Skip, test.skip)
			}
		})
	}
}

// While a mail is being frozen, a decision waits.
func TestInvitationLetterLocks(t *testing.T) {
	t.Parallel()
	b, pool := rostertest.Database(t)
	inv := b.Invite(t, "ann@example.org")
	tx, err := pool.Begin(t.Context())
	done(t, err)
	defer tx.Rollback(t.Context())
	m := onlyMail(t, b, inv.ID)
	letters, err := b.In(tx).Letters(t.Context(), []roster.Mail{m})
	done(t, err)
	if skip := letters[m.ID].Skip; skip != "" {
		t.Fatal(skip)
	}
	other, err := pool.Begin(t.Context())
	done(t, err)
	defer other.Rollback(t.Context())
	if _, err := other.Exec(t.Context(), `SELECT FROM invitation WHERE id = $1 FOR UPDATE NOWAIT`, inv.ID); err == nil {
		t.Error("the invitation is not locked")
	}
}

// While no mail could be sent, the time to accept did not run.
func TestExpiryOutlastsOutage(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	m := onlyMail(t, b, inv.ID)
	b.Clock.Add(outage - time.Second)
	if l := letter(t, b, m); !l.Invitation.ExpiresAt.Equal(inv.ExpiresAt) {
		t.Errorf("after a busy hour: %s", l.Invitation.ExpiresAt)
	}
	wantEvents(t, b, inv, "created")
	for range 2 { // it was composed, given back, and composed again
		b.Clock.Add(3 * 24 * time.Hour)
		if l := letter(t, b, m); !l.Invitation.ExpiresAt.Equal(b.Clock.Now().Add(inviteLife)) {
			t.Errorf("in the letter: %s, want %s", l.Invitation.ExpiresAt, b.Clock.Now().Add(inviteLife))
		}
	}
	if got := reread(t, b, inv); !got.ExpiresAt.Equal(b.Clock.Now().Add(inviteLife)) {
		t.Errorf("stored: %s", got.ExpiresAt)
	}
	wantEvents(t, b, inv, "created", "expiry_extended", "expiry_extended")

	// A later mail of the same invitation does not prolong it.
	b.Clock.Add(resendAfter)
	inv, err := b.ResendInvitation(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, noKey)
	done(t, err)
	mails := b.Mails(t, inv.ID)
	b.Clock.Add(24 * time.Hour)
	if l := letter(t, b, mails[1]); l.Skip != "" || !l.Invitation.ExpiresAt.Equal(inv.ExpiresAt) {
		t.Errorf("a resent one: %q %s, want %s", l.Skip, l.Invitation.ExpiresAt, inv.ExpiresAt)
	}
}

// An invitation shows the state of its newest mail, which decides nothing.
func TestDelivery(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	fares := func(inv roster.Invitation, state roster.Delivery) {
		t.Helper()
		b.Exec(t, `UPDATE message SET state = $2 WHERE id = $1`, *inv.MessageID, state)
	}
	delivery := func(want roster.Delivery) {
		t.Helper()
		if got := reread(t, b, inv).Delivery; got != want {
			t.Errorf("delivery: got %s, want %s", got, want)
		}
	}
	fares(inv, roster.MailSending)
	delivery(roster.MailSending)
	b.Clock.Add(resendAfter)
	_, err := b.ResendInvitation(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, noKey)
	done(t, err)
	fares(inv, roster.MailFailed) // the older mail
	delivery(roster.MailQueued)
	corrected, err := correct(t, b, inv, "anne@example.org")
	done(t, err)
	delivery(roster.MailQueued)
	accept(t, b, corrected)
	fares(corrected, roster.MailBounced)
	delivery(roster.MailBounced)
	wantState(t, b, inv, roster.Accepted)
}

// What waited and what was frozen is looked at once more before it leaves.
func TestMailMoved(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		moved   bool
		happens func(t *testing.T, b *rostertest.Bundle, inv roster.Invitation)
	}{
		{"nothing", false, func(*testing.T, *rostertest.Bundle, roster.Invitation) {}},
		{"accepted", true, func(t *testing.T, b *rostertest.Bundle, inv roster.Invitation) { accept(t, b, inv) }},
		{"on hold", true, hold},
		{"overdue", true, func(_ *testing.T, b *rostertest.Bundle, inv roster.Invitation) { b.Clock.Set(inv.ExpiresAt) }},
		{"address corrected", true, func(t *testing.T, b *rostertest.Bundle, inv roster.Invitation) {
			_, err := correct(t, b, inv, "anne@example.org")
			done(t, err)
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			b := rostertest.Begin(t)
			other, inv := b.Invite(t, "bea@example.org"), b.Invite(t, "ann@example.org")
			dispatch := uuid.New()
			b.Exec(t, `INSERT INTO dispatch (id, lane, endpoint, message_ids, state, created_at) VALUES ($1, 'interactive', '/emails/batch', $2, 'ready', $3)`,
				dispatch, []uuid.UUID{*other.MessageID, *inv.MessageID}, b.Clock.Now())
			test.happens(t, b, inv)
			moved, err := b.MailMoved(t.Context(), dispatch)
			done(t, err)
			if moved != test.moved {
				t.Errorf("moved: got %t, want %t", moved, test.moved)
			}
		})
	}
}

func TestNewsLetter(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	row := b.Row("ann@example.org")
	row.FullName = "As Invited"
	inv := b.Create(t, row)[0].Invitation
	b.Clock.Add(time.Minute)
	yes := newcomer()
	yes.FullName = "As Accepted"
	_, _, err := b.AcceptInvitation(t.Context(), inv.Ticket(), yes)
	done(t, err)
	m := onlyMail(t, b, b.Stakeholder.ID)
	if m.EmailKey != strings.ToLower(b.Stakeholder.Email) || m.Lane != roster.Bulk {
		t.Errorf("mail: got %+v", m)
	}
	l := letter(t, b, m)
	news := l.News
	want := roster.NewsLine{
		Type: roster.EventAccepted, SubjectID: inv.ID, PersonName: "As Accepted", Email: "ann@example.org",
		WorkspaceName: b.Workspace.Name, At: b.Clock.Now(),
	}
	if l.Skip != "" || l.Invitation != nil || len(news.Lines) != 1 || asJSON(t, news.Lines[0]) != asJSON(t, want) || news.Inviter.ID != b.Stakeholder.ID || news.Zone.String() != "Europe/Madrid" {
		t.Errorf("got %+v, skip %q", news, l.Skip)
	}

	empty := m
	empty.Args.EventIDs = []uuid.UUID{uuid.New()}
	if l := letter(t, b, empty); l.Skip == "" {
		t.Error("told of nothing")
	}
	nobody := m
	nobody.SubjectID = uuid.New()
	if l := letter(t, b, nobody); l.Skip == "" {
		t.Error("told nobody")
	}
	b.Exec(t, `UPDATE account SET status = 'archived' WHERE id = $1`, b.Stakeholder.ID)
	if l := letter(t, b, m); l.Skip == "" {
		t.Error("told an archived account")
	}
}
