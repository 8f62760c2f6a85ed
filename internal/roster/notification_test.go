package roster_test

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"usher/internal/roster"
	"usher/internal/roster/rostertest"
)

// externalRow is a good request to invite email from outside the company.
func externalRow(b *rostertest.Bundle, email string) roster.NewInvitation {
	row := b.Row(email)
	row.Kind, row.FullName, row.Visibility = roster.KindExternal, "", roster.VisibilityBasic
	row.Warning, _ = roster.ExternalWarning("en")
	return row
}

// inbox lists an account's items.
func inbox(t *testing.T, b *rostertest.Bundle, account roster.Account, l roster.NotificationList) []roster.Notification {
	t.Helper()
	if l.Limit == 0 {
		l.Limit = 50
	}
	items, err := b.Notifications(t.Context(), b.App.ID, account.ID, l)
	done(t, err)
	return items
}

// onlyItem is the one item of an account's inbox.
func onlyItem(t *testing.T, b *rostertest.Bundle, account roster.Account) roster.Notification {
	t.Helper()
	items := inbox(t, b, account, roster.NotificationList{})
	if len(items) != 1 {
		t.Fatalf("inbox has %d items, want 1: %+v", len(items), items)
	}
	return items[0]
}

func wantAction(t *testing.T, b *rostertest.Bundle, account roster.Account, want roster.NotificationAction) {
	t.Helper()
	if got := onlyItem(t, b, account).Action; got != want {
		t.Errorf("action: got %s, want %s", got, want)
	}
}

func TestNotificationOfInvitation(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	row := externalRow(b, b.Outsider.Email)
	row.Note = "Hello"
	inv := b.Create(t, row)[0].Invitation
	item := onlyItem(t, b, b.Outsider)
	if item.Kind != roster.NoticeInvitation || item.View != roster.ViewUnread || item.Action != roster.ActionOpen ||
		*item.InvitationID != inv.ID || item.InvitationKind != roster.KindExternal || item.State != roster.Pending ||
		item.InviterName != b.Stakeholder.FullName || item.CompanyName != b.Company.Name || item.Note != "Hello" ||
		!item.ExpiresAt.Equal(inv.ExpiresAt) || !slices.Equal(item.Workspaces, []roster.NamedWorkspace{{ID: b.Workspace.ID, Name: b.Workspace.Name}}) {
		t.Errorf("item is %+v", item)
	}

	// It follows the invitation, whatever becomes of that.
	b.Exec(t, `UPDATE workspace SET state = 'archived' WHERE id = $1`, b.Workspace.ID)
	wantAction(t, b, b.Outsider, roster.ActionWithdrawn)
	b.Exec(t, `UPDATE workspace SET state = 'active' WHERE id = $1`, b.Workspace.ID)
	hold(t, b, inv)
	wantAction(t, b, b.Outsider, roster.ActionOpen)
	b.Clock.Set(inv.ExpiresAt)
	wantAction(t, b, b.Outsider, roster.ActionExpired)
	expire(t, b, inv)
	wantAction(t, b, b.Outsider, roster.ActionExpired)
	_, err := b.SetNotificationView(t.Context(), b.App.ID, b.Outsider.ID, item.ID, roster.ViewArchived, noKey)
	done(t, err)
	inv, err = b.ReopenInvitation(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, noKey)
	done(t, err)
	if item := onlyItem(t, b, b.Outsider); item.Action != roster.ActionOpen || item.View != roster.ViewUnread || item.ArchivedAt != nil {
		t.Errorf("a reopened invitation's item is %+v", item)
	}
	_, err = b.RevokeInvitation(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, noKey)
	done(t, err)
	wantAction(t, b, b.Outsider, roster.ActionWithdrawn)
	_, err = b.DecideNotification(t.Context(), b.App.ID, b.Outsider.ID, item.ID, true, "", noKey)
	refused(t, err, roster.Conflict, "already_revoked")
}

// Which decision counts is settled between the item and the link as between two
// links.
func TestDecideNotification(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Create(t, externalRow(b, b.Outsider.Email))[0].Invitation
	item := onlyItem(t, b, b.Outsider)
	decide := func(account uuid.UUID, accept bool) error {
		_, err := b.DecideNotification(t.Context(), b.App.ID, account, item.ID, accept, "", noKey)
		return err
	}
	refused(t, decide(b.Admin.ID, true), roster.NotFound, "notification_not_found")
	done(t, decide(b.Outsider.ID, true))
	done(t, decide(b.Outsider.ID, true))
	stands(t, refused(t, decide(b.Outsider.ID, false), roster.Conflict, "already_accepted"), roster.Accepted, b.Clock.Now())
	_, err := b.DeclineInvitation(t.Context(), inv.Ticket())
	refused(t, err, roster.Conflict, "already_accepted")
	wantAction(t, b, b.Outsider, roster.ActionDone)
	if got := rostertest.Column[string](t, b, `SELECT role || ' ' || visibility || ' ' || state FROM membership WHERE account_id = $1 AND added_by = $2`,
		b.Outsider.ID, b.Stakeholder.ID); !slices.Equal(got, []string{"stakeholder basic active"}) {
		t.Errorf("memberships: got %q", got)
	}
	wantEvents(t, b, inv, "created", "accepted")

	late := b.Create(t, b.Row(b.Admin.Email))[0].Invitation
	item = onlyItem(t, b, b.Admin)
	b.Clock.Set(late.ExpiresAt)
	refused(t, decide(b.Admin.ID, false), roster.Gone, "expired")
	b.Clock.Add(-time.Second)
	done(t, decide(b.Admin.ID, false))
	wantState(t, b, late, roster.Declined)
	wantAction(t, b, b.Admin, roster.ActionDone)
	if got := rostertest.Value[uuid.UUID](t, b, `SELECT actor_id FROM event WHERE subject_id = $1 AND type = 'invitation.declined'`, late.ID); got != b.Admin.ID {
		t.Errorf("declined by %s, want %s", got, b.Admin.ID)
	}
}

// A corrected address takes the item along.
func TestNotificationMoves(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Invite(t, b.Outsider.Email)
	item := onlyItem(t, b, b.Outsider)
	_, err := b.CorrectInvitationAddress(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, b.Admin.Email, noKey)
	done(t, err)
	wantAction(t, b, b.Outsider, roster.ActionWithdrawn)
	wantAction(t, b, b.Admin, roster.ActionOpen)
	_, err = b.DecideNotification(t.Context(), b.App.ID, b.Outsider.ID, item.ID, true, "", noKey)
	refused(t, err, roster.Gone, "withdrawn")
	_, err = b.DecideNotification(t.Context(), b.App.ID, b.Admin.ID, onlyItem(t, b, b.Admin).ID, true, "", noKey)
	done(t, err)
	wantAction(t, b, b.Outsider, roster.ActionWithdrawn)
	wantAction(t, b, b.Admin, roster.ActionDone)
}

// An account that appears finds what its address was invited to before, and has
// accepted none of it.
func TestNotificationOfNewAccount(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	open := b.Invite(t, "ann@example.org")
	closed := b.Invite(t, "bea@example.org")
	_, err := b.RevokeInvitation(t.Context(), b.App.ID, b.Stakeholder.ID, closed.ID, noKey)
	done(t, err)
	b.Another(t).Invite(t, "ann@example.org")
	ann := b.NewAccount(t, roster.Client, "Ann", "Ann@Example.org")
	if item := onlyItem(t, b, ann); *item.InvitationID != open.ID || item.Action != roster.ActionOpen {
		t.Errorf("item is %+v", item)
	}
	wantState(t, b, open, roster.Pending)
	if items := inbox(t, b, b.NewAccount(t, roster.Client, "Bea", "bea@example.org"), roster.NotificationList{}); len(items) != 0 {
		t.Errorf("a withdrawn invitation shows: %+v", items)
	}

	// Who accepts one while signing up has nothing to decide about that one.
	first := b.Invite(t, "cat@example.org")
	second := b.Row("cat@example.org")
	second.WorkspaceID = b.NewWorkspace(t, "Another file").ID
	other := b.Create(t, second)[0].Invitation
	cat, err := b.Roster.Account(t.Context(), b.App.ID, *accept(t, b, first).AccountID)
	done(t, err)
	if item := onlyItem(t, b, cat); *item.InvitationID != other.ID || item.Action != roster.ActionOpen {
		t.Errorf("item is %+v", item)
	}
}

func TestSignUp(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	inv := b.Create(t, externalRow(b, "pro@example.org"))[0].Invitation
	id, err := b.SignUp(t.Context(), inv.Ticket(), newcomer())
	done(t, err)
	pro, err := b.Roster.Account(t.Context(), b.App.ID, id)
	done(t, err)
	if pro.Kind != roster.Professional || pro.Status != "active" || pro.Email != "pro@example.org" {
		t.Errorf("account is %+v", pro)
	}
	wantAction(t, b, pro, roster.ActionOpen)
	wantState(t, b, inv, roster.Pending)
	if n := memberships(t, b, inv, "active"); n != 0 {
		t.Error("signing up made a member")
	}
	_, err = b.SignUp(t.Context(), inv.Ticket(), newcomer())
	refused(t, err, roster.Unauthorized, "log_in_needed")

	over := b.Create(t, externalRow(b, "late@example.org"))[0].Invitation
	old := over.Ticket()
	old.Version++
	_, err = b.SignUp(t.Context(), old, newcomer())
	refused(t, err, roster.NotFound, "link_dead")
	b.Clock.Set(over.ExpiresAt)
	_, err = b.SignUp(t.Context(), over.Ticket(), newcomer())
	refused(t, err, roster.Gone, "expired")
}

// inboxOf gives the outsider an inbox of n invitations, oldest first.
func inboxOf(t *testing.T, b *rostertest.Bundle, n int) []roster.Notification {
	t.Helper()
	for i := range n {
		row := b.Row(b.Outsider.Email)
		row.WorkspaceID = b.NewWorkspace(t, fmt.Sprintf("File %d", i)).ID
		done(t, b.Create(t, row)[0].Err)
		b.Clock.Add(time.Minute)
	}
	return inbox(t, b, b.Outsider, roster.NotificationList{})
}

func TestNotificationOrder(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	all := inboxOf(t, b, 6)
	for _, i := range []int{1, 2, 4} {
		_, err := b.SetNotificationView(t.Context(), b.App.ID, b.Outsider.ID, all[i].ID, roster.ViewRead, noKey)
		done(t, err)
	}
	for _, test := range []struct {
		list roster.NotificationList
		want []int
	}{
		{roster.NotificationList{}, []int{0, 1, 2, 3, 4, 5}},
		{roster.NotificationList{Newest: true}, []int{5, 4, 3, 2, 1, 0}},
		{roster.NotificationList{UnreadFirst: true}, []int{0, 3, 5, 1, 2, 4}},
		{roster.NotificationList{UnreadFirst: true, Newest: true}, []int{5, 3, 0, 4, 2, 1}},
		{roster.NotificationList{View: roster.ViewRead}, []int{1, 2, 4}},
	} {
		for _, size := range []int{1, 2, 4, 6} {
			l := test.list
			l.Limit = size
			var got []int
			for {
				page := inbox(t, b, b.Outsider, l)
				for _, item := range page {
					got = append(got, slices.IndexFunc(all, func(n roster.Notification) bool { return n.ID == item.ID }))
				}
				if len(page) < size || len(got) > len(all) {
					break
				}
				last := page[len(page)-1]
				l.After, l.AfterSeen = last.ID, last.View != roster.ViewUnread
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("%+v in pages of %d: got %v, want %v", test.list, size, got, test.want)
			}
		}
	}
}

// What is put away is still to be decided.
func TestArchiveNotifications(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	all := inboxOf(t, b, 4)
	set := func(id uuid.UUID, view roster.NotificationView) roster.Notification {
		item, err := b.SetNotificationView(t.Context(), b.App.ID, b.Outsider.ID, id, view, noKey)
		done(t, err)
		return item
	}
	_, err := b.DecideNotification(t.Context(), b.App.ID, b.Outsider.ID, all[0].ID, true, "", noKey)
	done(t, err)
	if item := set(all[3].ID, roster.ViewArchived); item.View != roster.ViewArchived || item.Action != roster.ActionOpen || item.ArchivedAt == nil || item.ReadAt == nil {
		t.Errorf("archived item is %+v", item)
	}
	if got := len(inbox(t, b, b.Outsider, roster.NotificationList{})); got != 3 {
		t.Errorf("%d items in the inbox, want 3", got)
	}
	if got := len(inbox(t, b, b.Outsider, roster.NotificationList{Action: roster.ActionOpen})); got != 3 {
		t.Errorf("%d open decisions, want 3: an archived one is one of them", got)
	}
	for _, test := range []struct {
		filter roster.NotificationFilter
		want   int
	}{
		{roster.NotificationFilter{View: roster.ViewRead}, 0},
		{roster.NotificationFilter{Kind: roster.NoticeWorkspaces}, 0},
		{roster.NotificationFilter{Before: all[0].CreatedAt}, 0},
		{roster.NotificationFilter{Action: roster.ActionDone}, 1},
		{roster.NotificationFilter{Before: all[2].CreatedAt}, 1},
		{roster.NotificationFilter{}, 1},
		{roster.NotificationFilter{}, 0},
	} {
		n, err := b.ArchiveNotifications(t.Context(), b.App.ID, b.Outsider.ID, test.filter, noKey)
		done(t, err)
		if n != test.want {
			t.Errorf("%+v: archived %d, want %d", test.filter, n, test.want)
		}
	}
	if got := len(inbox(t, b, b.Outsider, roster.NotificationList{View: roster.ViewArchived})); got != 4 {
		t.Errorf("%d archived, want 4", got)
	}
	if item := set(all[1].ID, roster.ViewRead); item.View != roster.ViewRead || item.ArchivedAt != nil {
		t.Errorf("item that came back is %+v", item)
	}
	if item := set(all[1].ID, roster.ViewUnread); item.View != roster.ViewUnread || item.ReadAt != nil {
		t.Errorf("unread item is %+v", item)
	}
	done(t, func() error {
		_, err := b.DecideNotification(t.Context(), b.App.ID, b.Outsider.ID, all[3].ID, false, "", noKey)
		return err
	}())
}

func TestCreateExternal(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	row := externalRow(b, "pro@example.org")
	row.Warning = ""
	refused(t, b.Create(t, row)[0].Err, roster.Invalid, "warning_not_acknowledged")
	row.Warning = "  \n"
	refused(t, b.Create(t, row)[0].Err, roster.Invalid, "warning_not_acknowledged")
	row.Warning = "bad\x00"
	refused(t, b.Create(t, row)[0].Err, roster.Invalid, "warning_text_invalid")
	row.Warning, row.Visibility = "I know.", "everything"
	refused(t, b.Create(t, row)[0].Err, roster.Invalid, "visibility_unknown")
	if n := rostertest.Value[int](t, b, `SELECT count(*) FROM warning`); n != 0 {
		t.Errorf("%d warnings kept of refused requests", n)
	}

	row.Visibility = roster.VisibilityStandard
	again := row
	again.Email = "other@example.org"
	out := b.Create(t, row, again)
	inv := out[0].Invitation
	done(t, out[0].Err)
	done(t, out[1].Err)
	stored := reread(t, b, inv)
	if stored.Warning == nil || stored.Warning.Text != "I know." || stored.Warning.AcknowledgedBy != b.Stakeholder.ID ||
		!stored.Warning.AcknowledgedAt.Equal(b.Clock.Now()) || stored.Visibility != roster.VisibilityStandard || stored.FullName != "" {
		t.Errorf("stored %+v, warning %+v", stored, stored.Warning)
	}
	if *inv.Warning != (roster.Warning{Text: "I know.", AcknowledgedBy: b.Stakeholder.ID, AcknowledgedAt: b.Clock.Now()}) {
		t.Errorf("answered %+v", inv.Warning)
	}
	if n := rostertest.Value[int](t, b, `SELECT count(*) FROM warning`); n != 1 {
		t.Errorf("%d texts kept, want one for both", n)
	}

	// Colleagues and clients are not external professionals.
	b.NewAccount(t, roster.Client, "Ann", "ann@example.org")
	refused(t, b.Create(t, externalRow(b, b.Admin.Email))[0].Err, roster.Conflict, "use_colleague")
	refused(t, b.Create(t, externalRow(b, "ann@example.org"))[0].Err, roster.Conflict, "not_a_professional")
	if out := b.Create(t, externalRow(b, b.Stakeholder.Email))[0]; !out.AlreadyMember {
		t.Errorf("a member is answered with %+v (%v)", out.Created, out.Err)
	}
	_, err := b.CorrectInvitationAddress(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, b.Admin.Email, noKey)
	refused(t, err, roster.Conflict, "use_colleague")
	_, err = b.CorrectInvitationAddress(t.Context(), b.App.ID, b.Stakeholder.ID, inv.ID, b.Outsider.Email, noKey)
	done(t, err)
	wantAction(t, b, b.Outsider, roster.ActionOpen)
}

// TestRaceItemAndLink decides by the item and by the link at once: the first
// counts, and the other is told.
func TestRaceItemAndLink(t *testing.T) {
	t.Parallel()
	b, _ := rostertest.Database(t)
	var invitations []roster.Invitation
	for i := range rounds / 4 {
		row := externalRow(b, b.Outsider.Email)
		row.WorkspaceID = b.NewWorkspace(t, fmt.Sprintf("File %d", i)).ID
		out := b.Create(t, row)[0]
		done(t, out.Err)
		invitations = append(invitations, out.Invitation)
	}
	items := inbox(t, b, b.Outsider, roster.NotificationList{Limit: rounds})
	for round, inv := range invitations {
		approveErr, declineErr := race(round, func(ctx context.Context) error {
			_, err := b.DecideNotification(ctx, b.App.ID, b.Outsider.ID, items[round].ID, true, "", noKey)
			return err
		}, func(ctx context.Context) error {
			_, err := b.DeclineInvitation(ctx, inv.Ticket())
			return err
		})
		if approveErr == nil {
			stands(t, refused(t, declineErr, roster.Conflict, "already_accepted"), roster.Accepted, b.Clock.Now())
		} else {
			stands(t, refused(t, approveErr, roster.Conflict, "already_declined"), roster.Declined, b.Clock.Now())
			done(t, declineErr)
		}
	}
	wantNone(t, b, "member without approval, or approval without membership", `
		SELECT i.id::text FROM invitation i LEFT JOIN membership m ON m.workspace_id = i.workspace_id AND m.account_id = i.account_id
		WHERE (i.state = 'accepted') <> (m.account_id IS NOT NULL)`)
}
