package roster_test

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"usher/internal/roster"
	"usher/internal/roster/rostertest"
)

// blockAddress blocks an address in the bundle's app, now.
func blockAddress(t *testing.T, b *rostertest.Bundle, key, block string) string {
	t.Helper()
	b.Exec(t, `INSERT INTO address (app_id, email_key, block, detail, blocked_at) VALUES ($1, $2, $3, '550 5.1.1', $4)
		ON CONFLICT (app_id, email_key) DO UPDATE SET block = $3, blocked_at = $4`, b.App.ID, key, block, b.Clock.Now())
	return key
}

func TestLiftSuppression(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, "Ann@example.org")
	_, err := b.HoldInvitation(t.Context(), roster.Mail{ID: *inv.MessageID, AppID: b.App.ID, SubjectID: inv.ID, EmailKey: inv.EmailKey}, "bounced")
	done(t, err)
	ann := blockAddress(t, b, "ann@example.org", "hard")
	b.Exec(t, `UPDATE message SET recipient = 'Ann@example.org' WHERE id = $1`, *inv.MessageID)
	b.Clock.Add(time.Minute)
	for range 2 { // and saying it again
		done(t, b.LiftSuppression(t.Context(), b.App.ID, ann))
	}
	if n := rostertest.Value[int](t, b, `SELECT count(*) FROM river_job WHERE kind = 'lift_address'`); n != 1 {
		t.Fatalf("%d jobs, want 1", n)
	}
	job := roster.LiftAddress{MessageID: *inv.MessageID}
	if email, skip, err := b.BlockedAddress(t.Context(), job); err != nil || skip != "" || email != "Ann@example.org" {
		t.Errorf("to lift: %s, %s, %v", email, skip, err)
	}
	done(t, b.AddressUnblocked(t.Context(), job))
	now, err := b.Invitation(t.Context(), b.App.ID, inv.ID)
	done(t, err)
	if now.State != roster.Pending || now.Delivery != roster.MailQueued || *now.MessageID == *inv.MessageID {
		t.Errorf("the invitation is %s, its mail %s", now.State, now.Delivery)
	}
	if _, skip, err := b.BlockedAddress(t.Context(), job); err != nil || skip == "" {
		t.Errorf("there is still something to lift (%v)", err)
	}
	if err := b.LiftSuppression(t.Context(), b.App.ID, ann); roster.CodeOf(err) != "suppression_not_found" {
		t.Errorf("lifting what is not blocked: %v", err)
	}

	// It comes back at once: not again within a day.
	b.Clock.Add(time.Minute)
	blockAddress(t, b, "ann@example.org", "hard")
	if err := b.LiftSuppression(t.Context(), b.App.ID, ann); roster.CodeOf(err) != "mailbox_asked_lately" {
		t.Errorf("lifting twice a day: %v", err)
	}
	b.Clock.Add(24 * time.Hour)
	done(t, b.LiftSuppression(t.Context(), b.App.ID, ann))
}

func TestComplaintsAreNotLifted(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	ann := blockAddress(t, b, "ann@example.org", "complaint")
	if err := b.LiftSuppression(t.Context(), b.App.ID, ann); roster.CodeOf(err) != "no_mail_wanted" {
		t.Errorf("lifting a complaint: %v", err)
	}
	other := b.Another(t)
	if err := other.LiftSuppression(t.Context(), other.App.ID, ann); roster.CodeOf(err) != "suppression_not_found" {
		t.Errorf("lifting another app's: %v", err)
	}
}

// An address that no mail ever went to is not on the provider's list.
func TestLiftWithoutMail(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	ann := blockAddress(t, b, "ann@example.org", "hard")
	done(t, b.LiftSuppression(t.Context(), b.App.ID, ann))
	if block := rostertest.Value[string](t, b, `SELECT block FROM address`); block != "" {
		t.Errorf("it is still blocked: %s", block)
	}
}

func TestHistory(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	row := b.Row("ann@example.org")
	row.Notify = false
	quiet := b.Create(t, row)[0].Invitation
	b.Workspace = b.NewWorkspace(t, "Another file")
	moved := b.Invite(t, "ann@example.org")
	first := *moved.MessageID
	_, err := b.CorrectInvitationAddress(t.Context(), b.App.ID, b.Stakeholder.ID, moved.ID, "anna@example.org", noKey)
	done(t, err)
	other := b.Another(t)
	theirs := other.Invite(t, "ann@example.org")

	h, err := b.History(t.Context(), b.App.ID, "ann@example.org", []uuid.UUID{moved.ID, theirs.ID}, []uuid.UUID{first})
	done(t, err)
	if len(h.Invitations) != 2 || h.Invitations[0].ID != quiet.ID || h.Invitations[1].ID != moved.ID || h.Invitations[1].WorkspaceName != "Another file" {
		t.Errorf("invitations are %+v", h.Invitations)
	}
	var types []string
	for _, e := range h.Events {
		types = append(types, e.Type)
	}
	if len(types) != 3 || types[2] != roster.EventAddressCorrected {
		t.Errorf("events are %v", types)
	}
	near, err := b.NearAddresses(t.Context(), b.App.ID, "ana@example.org")
	done(t, err)
	if len(near) != 2 {
		t.Errorf("near addresses are %v", near)
	}
}
