package roster

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"usher/internal/postgres"
)

// QueueNotices holds what tells people of their workspaces.
const QueueNotices = "notices"

// NotifyWorkspace is the job that tells a person of all workspaces they were
// added to and not told of yet. One is enough for any number of them, and one
// too many does nothing.
type NotifyWorkspace struct {
	AccountID uuid.UUID `json:"account_id"`
}

// Kind is the job's name in River.
func (NotifyWorkspace) Kind() string { return "notify_workspace" }

// InsertOpts say where the job waits.
func (NotifyWorkspace) InsertOpts() river.InsertOpts { return river.InsertOpts{Queue: QueueNotices} }

// NotifyWorkspaces puts one item into an account's inbox for all workspaces it
// was added to and not told of, and answers how many those are; skip says why
// there was nobody or nothing to tell. Mail goes out only if the app's policy
// wants it.
func (r *Roster) NotifyWorkspaces(ctx context.Context, account uuid.UUID) (told int, skip Skip, err error) {
	now := r.now()
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		// The memberships are locked by their writing: of two at once, the second
		// finds nothing due.
		rows, err := tx.Query(ctx, `
			UPDATE membership SET notice_due = false
			FROM workspace, account
			WHERE membership.account_id = $1 AND membership.notice_due
				AND workspace.id = membership.workspace_id AND account.id = membership.account_id
			RETURNING account.app_id, COALESCE(`+mailKey+`, ''), membership.workspace_id,
				membership.state = 'active' AND workspace.state = 'active' AND `+isUsable, account)
		if err != nil {
			return fmt.Errorf("read notices due to account %s: %w", account, err)
		}
		due, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
			App       uuid.UUID
			EmailKey  string
			Workspace uuid.UUID
			Wanted    bool
		}])
		if err != nil {
			return fmt.Errorf("read notices due to account %s: %w", account, err)
		}
		var workspaces []uuid.UUID
		for _, d := range due {
			if d.Wanted {
				workspaces = append(workspaces, d.Workspace)
			}
		}
		switch {
		case len(due) == 0:
			skip = "there is nothing to tell"
			return nil
		case len(workspaces) == 0:
			skip = "the account or the workspaces are not active any more"
			return nil
		}
		told = len(workspaces)
		return r.notice(ctx, tx, due[0].App, account, due[0].EmailKey, workspaces, now)
	})
	return told, skip, err
}

// notice stores the item, its event and, if the policy wants it, its mail.
func (r *Roster) notice(ctx context.Context, tx pgx.Tx, app, account uuid.UUID, emailKey string, workspaces []uuid.UUID, now time.Time) error {
	id := newID()
	item, err := json.Marshal(map[string]any{"workspace_ids": workspaces})
	if err != nil {
		return fmt.Errorf("notify account %s: %w", account, err)
	}
	data, err := json.Marshal(map[string]any{"account_id": account, "workspace_ids": workspaces})
	if err != nil {
		return fmt.Errorf("notify account %s: %w", account, err)
	}
	if _, err := tx.Exec(ctx, `
		INSERT INTO notification (id, app_id, account_id, kind, subject_id, data, created_at)
		VALUES ($1, $2, $3, 'workspaces', $1, $4, $5)`, id, app, account, item, now); err != nil {
		return fmt.Errorf("notify account %s: %w", account, err)
	}
	if _, err := recordEvents(ctx, tx, now, newEvent{app, EventNotified, id, uuid.Nil, data}); err != nil {
		return err
	}
	policy, err := policyOf(ctx, tx, app)
	if err != nil || !policy.NoticeByMail || emailKey == "" {
		return err
	}
	return r.ask(ctx, tx, now, Mail{
		ID: newID(), AppID: app, Kind: MailWorkspaces, SubjectID: id, Purpose: "notice", Lane: Bulk, EmailKey: emailKey,
	})
}

// Notice is what a mail tells a person of workspaces they were added to.
type Notice struct {
	App        App
	Account    Account
	Workspaces []string // names
}

// noticeLetters checks mails about new workspaces.
func (r *Roster) noticeLetters(ctx context.Context, tx pgx.Tx, mails []Mail, letters map[uuid.UUID]Letter) error {
	if len(mails) == 0 {
		return nil
	}
	ids := make([]uuid.UUID, len(mails))
	for i, m := range mails {
		ids[i] = m.SubjectID
	}
	rows, err := tx.Query(ctx, `
		SELECT n.id, n.view, `+appColumns+`, `+accountColumns+`, COALESCE(address.block, ''), app.mail_stopped_until, app.mail_stopped_reason,
			ARRAY(SELECT w.name
				FROM jsonb_array_elements_text(n.data->'workspace_ids') AS told (id)
				JOIN workspace w ON w.id = told.id::uuid AND w.state = 'active'
				JOIN membership m ON m.workspace_id = w.id AND m.account_id = n.account_id AND m.state = 'active'
				ORDER BY w.name, w.id)
		FROM notification n
		JOIN account ON account.id = n.account_id
		JOIN app ON app.id = n.app_id
		LEFT JOIN address ON address.app_id = account.app_id AND address.email_key = `+mailKey+`
		WHERE n.id = ANY($1)`, ids)
	if err != nil {
		return fmt.Errorf("read %d notices: %w", len(ids), err)
	}
	type noticed struct {
		ID   uuid.UUID
		View NotificationView
		newsAccount
		Workspaces []string
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[noticed])
	if err != nil {
		return fmt.Errorf("read %d notices: %w", len(ids), err)
	}
	notices := make(map[uuid.UUID]noticed, len(found))
	for _, n := range found {
		notices[n.ID] = n
	}
	for _, m := range mails {
		n, ok := notices[m.SubjectID]
		l := Letter{
			Block: n.Block, Stop: stopped(n.StoppedUntil, n.StoppedReason, r.now()),
			Notice: &Notice{App: n.App, Account: n.Account, Workspaces: n.Workspaces},
		}
		switch {
		case !ok || n.App.ID != m.AppID:
			l.Skip = "the notice is gone"
		case !usable(n.Account.Status):
			l.Skip = Skip("the account is " + n.Account.Status)
		case n.View != ViewUnread:
			l.Skip = "the person has seen the notice"
		case len(n.Workspaces) == 0:
			l.Skip = "the person is in none of the workspaces any more"
		}
		letters[m.ID] = l
	}
	return nil
}
