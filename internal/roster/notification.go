package roster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

// EventNotified is the event of an item that told a person of workspaces. Its
// subject is the notification.
const EventNotified = "notification.created"

// The kinds of Notification.
const (
	NoticeInvitation = "invitation" // somebody invites the person
	NoticeWorkspaces = "workspaces" // the person was added to workspaces

	NoticeRequest = "access_request" // a company asks for access to the person's account
)

// NotificationView is what its person did with an item. It says nothing of what
// became of its subject.
type NotificationView string

// The views of an item.
const (
	ViewUnread   NotificationView = "unread"
	ViewRead     NotificationView = "read"
	ViewArchived NotificationView = "archived"
)

// NotificationAction is what there is to decide about an item's subject. It is
// not stored: it follows from where the subject stands.
type NotificationAction string

// The actions of an item.
const (
	ActionNone      NotificationAction = "none" // there is nothing to decide
	ActionOpen      NotificationAction = "open"
	ActionDone      NotificationAction = "done"      // decided, one way or the other
	ActionWithdrawn NotificationAction = "withdrawn" // by who asked, or it is somebody else's now
	ActionExpired   NotificationAction = "expired"
)

// Notification is an item in a person's inbox.
type Notification struct {
	ID         uuid.UUID
	AppID      uuid.UUID
	AccountID  uuid.UUID // whose inbox it is in
	Kind       string
	View       NotificationView
	Action     NotificationAction
	Workspaces []NamedWorkspace // what it is about; those of NoticeWorkspaces the person is still in
	CreatedAt  time.Time
	ReadAt     *time.Time
	ArchivedAt *time.Time

	// Of NoticeInvitation and NoticeRequest, of which one of the ids is set.
	InvitationID   *uuid.UUID
	RequestID      *uuid.UUID
	InvitationKind string // of an invitation only
	State          State  // of the invitation or the request
	InviterName    string // or the requester's
	CompanyName    string
	Note           string // their own words, while it is open
	ExpiresAt      *time.Time
	DecidedAt      *time.Time
}

// NamedWorkspace is a workspace as a list shows it.
type NamedWorkspace struct {
	ID   uuid.UUID
	Name string
}

// actionOfItem derives the action of a row of itemTables. $1 is now.
const actionOfItem = `CASE
	WHEN n.kind = 'access_request' THEN CASE
		WHEN req.state IN ('granted', 'revoked') AND req.target_id = n.account_id OR req.state = 'denied' THEN 'done'
		WHEN req.state IN ('granted', 'revoked', 'cancelled') THEN 'withdrawn'
		WHEN account.email_key IS DISTINCT FROM req.email_key AND NOT EXISTS (
			SELECT FROM secondary_email s WHERE s.account_id = n.account_id AND s.email_key = req.email_key) THEN 'withdrawn'
		WHEN req.state = 'expired' OR req.expires_at <= $1 THEN 'expired'
		ELSE 'open' END
	WHEN n.kind <> 'invitation' THEN 'none'
	WHEN inv.account_id = n.account_id THEN 'done'
	WHEN inv.email_key IS DISTINCT FROM account.email_key OR inv.account_id IS NOT NULL THEN 'withdrawn'
	WHEN inv.state = 'declined' THEN 'done'
	WHEN inv.state IN ('revoked', 'superseded') OR inv.state IN ('pending', 'on_hold') AND workspace.state <> 'active' THEN 'withdrawn'
	WHEN inv.state = 'expired' OR inv.expires_at <= $1 THEN 'expired'
	ELSE 'open' END`

// itemTables are the notification n, whose account it is, and the invitation or
// the access request it is about, if it is about one. The caller's conditions
// follow it.
const itemTables = `
	FROM notification n
	JOIN account ON account.id = n.account_id
	LEFT JOIN invitation inv ON inv.id = n.subject_id AND n.kind = 'invitation'
	LEFT JOIN access_request req ON req.id = n.subject_id AND n.kind = 'access_request'
	LEFT JOIN workspace ON workspace.id = inv.workspace_id
	LEFT JOIN company ON company.id = COALESCE(req.company_id, workspace.company_id)
	LEFT JOIN account inviter ON inviter.id = COALESCE(req.requester_id, inv.inviter_id)`

// itemColumns are the columns of Notification, in its order.
const itemColumns = `n.id, n.app_id, n.account_id, n.kind, n.view, ` + actionOfItem + ` AS action,
	CASE n.kind WHEN 'invitation' THEN jsonb_build_array(jsonb_build_object('ID', workspace.id, 'Name', workspace.name))
	ELSE (SELECT jsonb_agg(jsonb_build_object('ID', w.id, 'Name', w.name) ORDER BY w.name, w.id)
		FROM jsonb_array_elements_text(n.data->'workspace_ids') AS told (id)
		JOIN workspace w ON w.id = told.id::uuid
		JOIN membership m ON m.workspace_id = w.id AND m.account_id = n.account_id AND m.state = 'active') END,
	n.created_at, n.read_at, n.archived_at,
	inv.id, req.id, COALESCE(inv.kind, ''), COALESCE(req.state, inv.state, ''), COALESCE(inviter.full_name, ''), COALESCE(company.name, ''),
	CASE ` + actionOfItem + ` WHEN 'open' THEN COALESCE(req.note, inv.note) ELSE '' END,
	COALESCE(req.expires_at, inv.expires_at), COALESCE(req.decided_at, inv.decided_at)`

// NotificationList says which items of an inbox to list, and in which order.
type NotificationList struct {
	View        NotificationView   // empty: unread and read ones; with ActionOpen, archived ones as well
	Action      NotificationAction // empty: whatever there is to decide
	Newest      bool               // newest first, not oldest first
	UnreadFirst bool               // all unread ones before all others
	After       uuid.UUID          // the last item of the page before; Nil: the first page
	AfterSeen   bool               // with UnreadFirst: that item was not among the unread
	Limit       int                // rows
}

// Notifications lists the inbox of an account, oldest first unless asked
// otherwise. An open request stays listed under ActionOpen after its item was
// archived: putting an item away decides nothing.
func (r *Roster) Notifications(ctx context.Context, app, account uuid.UUID, l NotificationList) (items []Notification, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if err := mayRead(ctx, tx, app, &account); err != nil {
			return err
		}
		order, beyond := "n.id", "n.id > $6"
		if l.Newest {
			order, beyond = "n.id DESC", "n.id < $6"
		}
		if l.UnreadFirst {
			order = "(n.view = 'unread') DESC, " + order
			if l.AfterSeen {
				beyond = "n.view <> 'unread' AND " + beyond
			} else {
				beyond = "(n.view <> 'unread' OR " + beyond + ")"
			}
		}
		if l.After == uuid.Nil {
			beyond = "$6::uuid IS NOT NULL"
		}
		items, err = collectItems(tx.Query(ctx, `
			SELECT `+itemColumns+itemTables+`
			WHERE n.account_id = $2 AND n.app_id = $3
				AND CASE WHEN $4 <> '' THEN n.view = $4 WHEN $5 = 'open' THEN true ELSE n.view <> 'archived' END
				AND ($5 = '' OR `+actionOfItem+` = $5) AND `+beyond+`
			ORDER BY `+order+` LIMIT $7`, r.now(), account, app, string(l.View), string(l.Action), l.After, l.Limit))
		return err
	})
	return items, err
}

// mayRead refuses an account that is not one of the app's that its person can
// use. The id of one that was merged away becomes that of the one it lives on in.
func mayRead(ctx context.Context, tx pgx.Tx, app uuid.UUID, account *uuid.UUID) error {
	err := tx.QueryRow(ctx, `
		SELECT account.id FROM account named JOIN account ON account.id = COALESCE(named.merged_into, named.id)
		WHERE named.app_id = $1 AND named.id = $2 AND `+isUsable, app, *account).Scan(account)
	if errors.Is(err, pgx.ErrNoRows) {
		return errActor
	}
	if err != nil {
		return fmt.Errorf("read account %s: %w", *account, err)
	}
	return nil
}

func collectItems(rows pgx.Rows, err error) ([]Notification, error) {
	if err != nil {
		return nil, fmt.Errorf("read notifications: %w", err)
	}
	items, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Notification])
	if err != nil {
		return nil, fmt.Errorf("read notifications: %w", err)
	}
	return items, nil
}

// readItem is one item of an account's inbox.
func readItem(ctx context.Context, tx pgx.Tx, app, account, id uuid.UUID, now time.Time) (Notification, error) {
	items, err := collectItems(tx.Query(ctx, `SELECT `+itemColumns+itemTables+`
		WHERE n.id = $2 AND n.account_id = $3 AND n.app_id = $4`, now, id, account, app))
	if err != nil {
		return Notification{}, err
	}
	if len(items) == 0 {
		return Notification{}, notFound("notification")
	}
	return items[0], nil
}

// SetNotificationView marks an item as unread or read, or archives it. One that
// was archived comes back by either of the others.
func (r *Roster) SetNotificationView(ctx context.Context, app, account, id uuid.UUID, view NotificationView, key IdempotencyKey) (Notification, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (item Notification, err error) {
		now := r.now()
		if err := mayRead(ctx, tx, app, &account); err != nil {
			return item, err
		}
		if _, err := tx.Exec(ctx, setView+` WHERE id = $3 AND account_id = $4 AND app_id = $5 AND view <> $2`, now, view, id, account, app); err != nil {
			return item, fmt.Errorf("set view of notification %s: %w", id, err)
		}
		return readItem(ctx, tx, app, account, id, now)
	})
}

// setView sets the view of notifications to $2 at the time $1.
const setView = `
	UPDATE notification SET view = $2,
		read_at = CASE $2 WHEN 'unread' THEN NULL ELSE COALESCE(read_at, $1) END,
		archived_at = CASE $2 WHEN 'archived' THEN $1::timestamptz END`

// NotificationFilter picks items to archive; its zero value picks all.
type NotificationFilter struct {
	View   NotificationView   // empty: whichever
	Action NotificationAction // empty: whichever
	Kind   string             // empty: whichever
	Before time.Time          // created before this; zero: whenever
}

// ArchiveNotifications archives the items of an inbox that meet the filter and
// answers how many it archived.
func (r *Roster) ArchiveNotifications(ctx context.Context, app, account uuid.UUID, f NotificationFilter, key IdempotencyKey) (int, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (int, error) {
		if err := mayRead(ctx, tx, app, &account); err != nil {
			return 0, err
		}
		now := r.now()
		before := f.Before
		if before.IsZero() {
			before = now.Add(time.Minute) // of this very moment, too
		}
		tag, err := tx.Exec(ctx, setView+`
			WHERE account_id = $3 AND app_id = $4 AND view <> 'archived' AND id = ANY(ARRAY(
				SELECT n.id `+itemTables+`
				WHERE n.account_id = $3 AND n.app_id = $4 AND n.view <> 'archived' AND ($5 = '' OR n.view = $5)
					AND ($6 = '' OR `+actionOfItem+` = $6) AND ($7 = '' OR n.kind = $7) AND n.created_at < $8))`,
			now, ViewArchived, account, app, string(f.View), string(f.Action), f.Kind, before)
		if err != nil {
			return 0, fmt.Errorf("archive notifications of account %s: %w", account, err)
		}
		return int(tag.RowsAffected()), nil
	})
}

// Decided is what a decision about an item came to.
type Decided struct {
	Invitation *Invitation    `json:",omitempty"` // one of the two
	Request    *AccessRequest `json:",omitempty"`
}

// DecideNotification accepts or declines the invitation an item is about, or
// gives or refuses the access it asks for, for the account in whose inbox it is.
// It is the decision of the link: the first of the two counts, and the same one
// again is a success. v is how much is seen by access that is given; empty:
// standard.
func (r *Roster) DecideNotification(ctx context.Context, app, account, id uuid.UUID, accept bool, v Visibility, key IdempotencyKey) (Decided, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (d Decided, err error) {
		if err := mayRead(ctx, tx, app, &account); err != nil {
			return d, err
		}
		item, err := readItem(ctx, tx, app, account, id, r.now())
		switch {
		case err != nil:
			return d, err
		case item.RequestID != nil:
			var q AccessRequest
			if accept {
				q, err = r.approve(ctx, tx, app, *item.RequestID, answerer{account: account}, v)
			} else {
				q, err = r.deny(ctx, tx, app, *item.RequestID, answerer{account: account}, false)
			}
			if errors.Is(err, errNotHolder) {
				err = errNotYours
			}
			return Decided{Request: &q}, err
		case item.InvitationID != nil:
			inv, err := r.decideInvitation(ctx, tx, item, accept)
			return Decided{Invitation: &inv}, err
		}
		return d, errorf(Conflict, "nothing_to_decide", "There is nothing to decide about this notification.")
	})
}

// decideInvitation accepts or declines the invitation that an item is about.
func (r *Roster) decideInvitation(ctx context.Context, tx pgx.Tx, item Notification, accept bool) (inv Invitation, err error) {
	now, app, account := r.now(), item.AppID, item.AccountID
	if inv, err = readInvitation(ctx, tx, app, *item.InvitationID); err != nil {
		return inv, err
	}
	if item.Action == ActionWithdrawn && inv.State != Revoked && inv.State != Superseded {
		return inv, errNotYours
	}
	// The version is that of the moment we saw whose invitation it is: were its
	// address corrected since, the ticket is an old one.
	if accept {
		inv, _, err = r.accept(ctx, tx, inv.Ticket(), Acceptance{AccountID: account}, now)
	} else {
		inv, err = r.decline(ctx, tx, inv.Ticket(), account, now)
	}
	if errors.Is(err, ErrDeadLink) || errors.Is(err, ErrWrongAccount) {
		return inv, errNotYours
	}
	return inv, err
}

// errNotYours answers a decision about something that was yours to decide.
var errNotYours = errorf(Gone, "withdrawn", "This was withdrawn, or is for another address by now.")

// noteInvitation puts an open invitation into the inbox of the account that has
// its address, if there is one. An item that was there before is unread again.
func noteInvitation(ctx context.Context, tx pgx.Tx, inv Invitation, now time.Time) error {
	if _, err := tx.Exec(ctx, `
		INSERT INTO notification (id, app_id, account_id, kind, subject_id, created_at)
		SELECT $1, app_id, id, 'invitation', $2, $3 FROM account
		WHERE app_id = $4 AND email_key = $5 AND status = 'active'
		ON CONFLICT (subject_id, account_id) DO UPDATE SET view = 'unread', read_at = NULL, archived_at = NULL`,
		newID(), inv.ID, now, inv.AppID, inv.EmailKey); err != nil {
		return fmt.Errorf("note invitation %s: %w", inv.ID, err)
	}
	return nil
}

// noteOpenInvitations puts the open invitations to a new account's address into
// its inbox: they are its person's to decide, and none is accepted by itself.
func noteOpenInvitations(ctx context.Context, tx pgx.Tx, app, account uuid.UUID, emailKey string, now time.Time) error {
	rows, err := tx.Query(ctx, `
		SELECT id FROM invitation WHERE email_key = $2 AND app_id = $1 AND `+isOpen+` ORDER BY id`, app, emailKey)
	if err != nil {
		return fmt.Errorf("find open invitations: %w", err)
	}
	open, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return fmt.Errorf("find open invitations: %w", err)
	}
	if len(open) == 0 {
		return nil
	}
	ids := make([]uuid.UUID, len(open))
	for i := range ids {
		ids[i] = newID()
	}
	if _, err := tx.Exec(ctx, `
		INSERT INTO notification (id, app_id, account_id, kind, subject_id, created_at)
		SELECT id, $3, $4, 'invitation', subject_id, $5 FROM unnest($1::uuid[], $2::uuid[]) AS q (id, subject_id)
		ON CONFLICT (subject_id, account_id) DO NOTHING`, ids, open, app, account, now); err != nil {
		return fmt.Errorf("note %d invitations: %w", len(open), err)
	}
	return nil
}
