package roster

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

// The roles of a workspace's members.
const (
	RoleStakeholder = "stakeholder"
	RoleClientUser  = "client_user"
)

// Visibility is how much of a workspace a member sees. What belongs to each
// level is the app's to say; Usher knows their order.
type Visibility string

// The levels of visibility, from little to all.
const (
	VisibilityBasic    Visibility = "basic"
	VisibilityStandard Visibility = "standard"
	VisibilityFull     Visibility = "full"
)

// valid tells whether v is one of the levels.
func (v Visibility) valid() bool {
	return v == VisibilityBasic || v == VisibilityStandard || v == VisibilityFull
}

var errVisibility = invalidField("visibility", "visibility_unknown", "The visibility of a member is %q, %q or %q.",
	VisibilityBasic, VisibilityStandard, VisibilityFull)

// newMember is a membership that is about to begin.
type newMember struct {
	app, workspace, account uuid.UUID
	role                    string
	visibility              Visibility
	addedBy                 uuid.UUID // who added or invited them; Nil: the app
	origin                  uuid.UUID // the workspace they were added from; Nil: none
	seen                    bool      // they know of the workspace, so it is not shown as new to them
}

// addMember puts an account into a workspace. Who is in already stays as they
// are; who was archived begins anew. ok tells whether a membership began.
func addMember(ctx context.Context, tx pgx.Tx, m newMember, at time.Time) (ok bool, err error) {
	var seen *time.Time
	if m.seen {
		seen = &at
	}
	tag, err := tx.Exec(ctx, `
		INSERT INTO membership (app_id, workspace_id, account_id, role, visibility, added_by, origin_workspace_id, seen_at, created_at)
		VALUES ($1, $2, $3, $4, $5, NULLIF($6, '00000000-0000-0000-0000-000000000000'::uuid), NULLIF($7, '00000000-0000-0000-0000-000000000000'::uuid), $8, $9)
		ON CONFLICT (workspace_id, account_id) DO UPDATE SET state = 'active', role = EXCLUDED.role, visibility = EXCLUDED.visibility,
			added_by = EXCLUDED.added_by, origin_workspace_id = EXCLUDED.origin_workspace_id, seen_at = EXCLUDED.seen_at,
			created_at = EXCLUDED.created_at, archived_at = NULL
		WHERE membership.state = 'archived'`,
		m.app, m.workspace, m.account, m.role, m.visibility, m.addedBy, m.origin, seen, at)
	if err != nil {
		return false, fmt.Errorf("add account %s to workspace %s: %w", m.account, m.workspace, err)
	}
	return tag.RowsAffected() == 1, nil
}

// AccountWorkspace is a workspace as one of its members sees it.
type AccountWorkspace struct {
	ID          uuid.UUID
	Name        string
	Kind        string
	CompanyName string
	Role        string
	Visibility  Visibility
	State       string    // of the membership
	New         bool      // the person has not seen it in their list yet
	JoinedAt    time.Time // when the membership began
}

// AccountWorkspaces lists the active workspaces in which an account is an
// active member, by their ids, from after on, at most limit.
func (r *Roster) AccountWorkspaces(ctx context.Context, app, account, after uuid.UUID, limit int) (list []AccountWorkspace, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			SELECT w.id, w.name, w.kind, c.name, m.role, m.visibility, m.state, m.seen_at IS NULL, m.created_at
			FROM membership m JOIN workspace w ON w.id = m.workspace_id JOIN company c ON c.id = w.company_id
			WHERE m.app_id = $1 AND m.account_id = $2 AND m.workspace_id > $3 AND m.state = 'active' AND w.state = 'active'
			ORDER BY m.workspace_id LIMIT $4`, app, account, after, limit)
		if err != nil {
			return fmt.Errorf("list workspaces of account %s: %w", account, err)
		}
		if list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[AccountWorkspace]); err != nil {
			return fmt.Errorf("list workspaces of account %s: %w", account, err)
		}
		if len(list) == 0 {
			return exists(ctx, tx, "account", app, account)
		}
		return nil
	})
	return list, err
}

// SeeWorkspaces notes that a person has seen the list of their workspaces: none
// of those in it is new to them any more.
func (r *Roster) SeeWorkspaces(ctx context.Context, app, account uuid.UUID) error {
	err := postgres.Send(ctx, r.DB, func(batch *pgx.Batch) {
		batch.Queue(`
			UPDATE membership SET seen_at = $3
			WHERE app_id = $1 AND account_id = $2 AND seen_at IS NULL AND state = 'active'`, app, account, r.now())
	})
	if err != nil {
		return fmt.Errorf("see workspaces of account %s: %w", account, err)
	}
	return nil
}

// Member is a person in a workspace.
type Member struct {
	AccountID  uuid.UUID
	FullName   string
	Email      string
	Kind       string // of the account
	Role       string
	Visibility Visibility
	State      string
	AddedBy    *uuid.UUID // the account that added or invited them; nil: the app
	OriginID   *uuid.UUID // the workspace they were added from; nil: none
	CreatedAt  time.Time  // when the membership began
	ArchivedAt *time.Time
}

// memberColumns are the columns of Member, in its order, of membership m and
// account a.
const memberColumns = `a.id, a.full_name, a.email, a.kind, m.role, m.visibility, m.state, m.added_by, m.origin_workspace_id, m.created_at, m.archived_at`

// Members lists a workspace's members in the order of their accounts, from
// after on, at most limit.
func (r *Roster) Members(ctx context.Context, app, workspace, after uuid.UUID, limit int) (members []Member, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if err := exists(ctx, tx, "workspace", app, workspace); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `
			SELECT `+memberColumns+`
			FROM membership m JOIN account a ON a.id = m.account_id
			WHERE m.app_id = $1 AND m.workspace_id = $2 AND m.account_id > $3
			ORDER BY m.account_id LIMIT $4`, app, workspace, after, limit)
		if err != nil {
			return fmt.Errorf("list members of workspace %s: %w", workspace, err)
		}
		members, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Member])
		return err
	})
	return members, err
}

// exists refuses what an app does not have: an account, a company or a
// workspace.
func exists(ctx context.Context, tx pgx.Tx, what string, app, id uuid.UUID) error {
	var found bool
	if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM `+what+` WHERE app_id = $1 AND id = $2)`, app, id).Scan(&found); err != nil {
		return fmt.Errorf("read %s %s: %w", what, id, err)
	}
	if !found {
		return notFound(what)
	}
	return nil
}
