package roster_test

import (
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"usher/internal/roster"
	"usher/internal/roster/rostertest"
)

func TestInvitationToSend(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	job := sendJob(t, b, inv)
	v, skip, err := b.InvitationToSend(t.Context(), job)
	done(t, err)
	if skip != "" || v.ID != inv.ID || v.Email != inv.Email || v.App.ID != b.App.ID || v.InviterName != b.Stakeholder.FullName ||
		v.WorkspaceName != b.Workspace.Name || v.CompanyName != b.Company.Name || v.Zone == nil {
		t.Errorf("got %+v, skip %q", v, skip)
	}
}

// A mail that waited is not sent once its subject moved on.
func TestInvitationToSendLateCheck(t *testing.T) {
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
			job := sendJob(t, b, inv)
			test.happens(t, b, inv)
			_, skip, err := b.InvitationToSend(t.Context(), job)
			done(t, err)
			if !strings.Contains(string(skip), test.skip) {
				t.Errorf("skip: got %q, want something with %q", skip, test.skip)
			}
		})
	}
}

// While a mail is being frozen, a decision waits.
func TestInvitationToSendLocks(t *testing.T) {
	t.Parallel()
	b, pool := rostertest.Database(t)
	inv := b.Invite(t, "ann@example.org")
	tx, err := pool.Begin(t.Context())
	done(t, err)
	defer tx.Rollback(t.Context())
	_, skip, err := b.In(tx).InvitationToSend(t.Context(), sendJob(t, b, inv))
	done(t, err)
	if skip != "" {
		t.Fatal(skip)
	}
	other, err := pool.Begin(t.Context())
	done(t, err)
	defer other.Rollback(t.Context())
	if _, err := other.Exec(t.Context(), `SELECT FROM invitation WHERE id = $1 FOR UPDATE NOWAIT`, inv.ID); err == nil {
		t.Error("the invitation is not locked")
	}
}

func TestRecordDelivery(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "ann@example.org")
	job := sendJob(t, b, inv)
	delivery := func(want roster.Delivery) {
		t.Helper()
		if got := reread(t, b, inv).Delivery; got != want {
			t.Errorf("delivery: got %s, want %s", got, want)
		}
	}
	done(t, b.RecordDelivery(t.Context(), job, roster.MailSending))
	delivery(roster.MailSending)
	b.Clock.Add(resendAfter)
	_, err := b.ResendInvitation(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, noKey)
	done(t, err)
	done(t, b.RecordDelivery(t.Context(), job, roster.MailFailed)) // news of the older mail
	delivery(roster.MailQueued)
	corrected, err := correct(t, b, inv, "anne@example.org")
	done(t, err)
	done(t, b.RecordDelivery(t.Context(), roster.SendInvitation{ID: inv.ID, Version: 1, Send: 1}, roster.MailFailed))
	delivery(roster.MailQueued)
	accept(t, b, corrected)
	done(t, b.RecordDelivery(t.Context(), roster.SendInvitation{ID: inv.ID, Version: 2, Send: 1}, roster.MailFailed))
	delivery(roster.MailFailed)
	wantState(t, b, inv, roster.Accepted) // mail never decides
}

func TestNewsToTell(t *testing.T) {
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
	job := tellJob(t, b, b.Stakeholder)
	news, skip, err := b.NewsToTell(t.Context(), job)
	done(t, err)
	want := roster.NewsLine{
		Type: roster.EventAccepted, SubjectID: inv.ID, PersonName: "As Accepted", Email: "ann@example.org",
		WorkspaceName: b.Workspace.Name, At: b.Clock.Now(),
	}
	if skip != "" || len(news.Lines) != 1 || asJSON(t, news.Lines[0]) != asJSON(t, want) || news.Inviter.ID != b.Stakeholder.ID || news.Zone.String() != "Europe/Madrid" {
		t.Errorf("got %+v, skip %q", news, skip)
	}

	_, skip, err = b.NewsToTell(t.Context(), roster.TellInviter{AppID: b.App.ID, InviterID: b.Stakeholder.ID, EventIDs: []uuid.UUID{uuid.New()}})
	if done(t, err); skip == "" {
		t.Error("told of nothing")
	}
	_, skip, err = b.NewsToTell(t.Context(), roster.TellInviter{AppID: b.App.ID, InviterID: uuid.New(), EventIDs: job.EventIDs})
	if done(t, err); skip == "" {
		t.Error("told nobody")
	}
	b.Exec(t, `UPDATE account SET status = 'archived' WHERE id = $1`, b.Stakeholder.ID)
	_, skip, err = b.NewsToTell(t.Context(), job)
	if done(t, err); skip == "" {
		t.Error("told an archived account")
	}
}
