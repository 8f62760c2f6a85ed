package roster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

// The states of a workspace and of a membership.
const (
	workspaceActive   = "active"
	workspaceArchived = "archived"
)

// The kinds of Workspace.
const (
	WorkspaceClientFile = "client_file"
	WorkspaceCompany    = "company"
	WorkspacePrivate    = "private"
)

// Workspace is what is shared.
type Workspace struct {
	ID         uuid.UUID
	AppID      uuid.UUID
	CompanyID  uuid.UUID
	Kind       string
	Name       string
	State      string
	CreatedAt  time.Time
	ArchivedAt *time.Time
}

const workspaceColumns = `workspace.id, workspace.app_id, workspace.company_id, workspace.kind, workspace.name, workspace.state, workspace.created_at, workspace.archived_at`

func collectWorkspace(rows pgx.Rows, err error) (Workspace, error) {
	if err != nil {
		return Workspace{}, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Workspace])
}

var (
	errActor    = errorf(Forbidden, "actor_invalid", "The account in Usher-Actor does not exist in this app, or is not active.")
	errMayNot   = errorf(Forbidden, "actor_not_allowed", "This account is neither a stakeholder of the workspace nor an admin of its company.")
	errMayLead  = errorf(Forbidden, "actor_not_allowed", "This account is neither a stakeholder of the workspace with full visibility nor an admin of its company.")
	errNotAdmin = errorf(Forbidden, "actor_not_allowed", "This account is not an admin of the company.")

	errWorkspaceArchived = errorf(Conflict, "workspace_archived", "This workspace is archived; nobody can join it, and nobody can be invited to it.")
)

// rights are what an account may do in a workspace.
type rights struct {
	active     bool       // the account can act at all
	visibility Visibility // as an active stakeholder; empty: it is none
	admin      bool       // of the workspace's company
}

// manages tells whether they invite people to the workspace and steer
// invitations.
func (r rights) manages() bool { return r.admin || r.visibility != "" }

// leads tells whether they also decide about its stakeholders, and about the
// workspace as a whole.
func (r rights) leads() bool { return r.admin || r.visibility == VisibilityFull }

func rightsIn(ctx context.Context, tx pgx.Tx, app, actor, workspace uuid.UUID) (r rights, err error) {
	if err := tx.QueryRow(ctx, `
		SELECT
			EXISTS (SELECT FROM account WHERE app_id = $1 AND id = $2 AND status = 'active'),
			COALESCE((SELECT visibility FROM membership
				WHERE app_id = $1 AND workspace_id = $3 AND account_id = $2 AND state = 'active' AND role = 'stakeholder'), ''),
			EXISTS (SELECT FROM workspace w JOIN company_member c ON c.company_id = w.company_id
				WHERE w.app_id = $1 AND w.id = $3 AND c.account_id = $2 AND c.role = 'admin')`,
		app, actor, workspace).Scan(&r.active, &r.visibility, &r.admin); err != nil {
		return r, fmt.Errorf("check rights of account %s: %w", actor, err)
	}
	return r, nil
}

// mayManage refuses an actor who is neither a stakeholder of the workspace nor
// an admin of its company.
func mayManage(ctx context.Context, tx pgx.Tx, app, actor, workspace uuid.UUID) error {
	r, err := rightsIn(ctx, tx, app, actor, workspace)
	switch {
	case err != nil:
		return err
	case !r.active:
		return errActor
	case !r.manages():
		return errMayNot
	}
	return nil
}

// mayLead refuses an actor who is neither a stakeholder of the workspace with
// full visibility nor an admin of its company. An unknown workspace is refused
// as such.
func mayLead(ctx context.Context, tx pgx.Tx, app, actor, workspace uuid.UUID) error {
	if err := exists(ctx, tx, "workspace", app, workspace); err != nil {
		return err
	}
	r, err := rightsIn(ctx, tx, app, actor, workspace)
	switch {
	case err != nil:
		return err
	case !r.active:
		return errActor
	case !r.leads():
		return errMayLead
	}
	return nil
}

// NewWorkspace describes a workspace that is to be.
type NewWorkspace struct {
	CompanyID uuid.UUID
	Kind      string // empty: WorkspaceClientFile
	Name      string
	OwnerID   uuid.UUID // its first stakeholder; Nil: none yet
}

// CreateWorkspace adds a workspace to a company. Where an owner is given, that
// account is its first stakeholder.
func (r *Roster) CreateWorkspace(ctx context.Context, app uuid.UUID, n NewWorkspace, key IdempotencyKey) (Workspace, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (workspace Workspace, err error) {
		switch n.Kind {
		case "":
			n.Kind = WorkspaceClientFile
		case WorkspaceClientFile, WorkspaceCompany, WorkspacePrivate:
		default:
			return workspace, invalidField("kind", "kind_unknown", "The kind of a workspace is %q, %q or %q.", WorkspaceClientFile, WorkspaceCompany, WorkspacePrivate)
		}
		if n.Name, err = cleanName("name", n.Name); err != nil {
			return workspace, err
		}
		workspace = Workspace{ID: newID(), AppID: app, CompanyID: n.CompanyID, Kind: n.Kind, Name: n.Name, State: workspaceActive, CreatedAt: r.now()}
		_, err = tx.Exec(ctx, `
			INSERT INTO workspace (id, app_id, company_id, kind, name, created_at) VALUES ($1, $2, $3, $4, $5, $6)`,
			workspace.ID, app, n.CompanyID, n.Kind, n.Name, workspace.CreatedAt)
		if postgres.Violates(err, "workspace_app_id_company_id_fkey") {
			return workspace, notFound("company")
		}
		if err != nil {
			return workspace, fmt.Errorf("create workspace: %w", err)
		}
		data := fmt.Appendf(nil, `{"company_id":%q,"kind":%q}`, n.CompanyID, n.Kind)
		if _, err := recordEvents(ctx, tx, workspace.CreatedAt, newEvent{app, EventWorkspaceCreated, workspace.ID, uuid.Nil, data}); err != nil {
			return workspace, err
		}
		if n.OwnerID == uuid.Nil {
			return workspace, nil
		}
		owner, err := readAccount(ctx, tx, app, n.OwnerID)
		switch {
		case err != nil:
			return workspace, err
		case owner.Status == statusArchived || owner.Status == statusMerged:
			return workspace, accountOver(ctx, tx, app, n.OwnerID)
		}
		_, err = addMember(ctx, tx, newMember{
			app: app, workspace: workspace.ID, account: n.OwnerID,
			role: RoleStakeholder, visibility: VisibilityFull, seen: true,
		}, workspace.CreatedAt)
		return workspace, err
	})
}

// Workspace is one workspace of an app.
func (r *Roster) Workspace(ctx context.Context, app, id uuid.UUID) (workspace Workspace, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		workspace, err = readWorkspace(ctx, tx, app, id)
		return err
	})
	return workspace, err
}

func readWorkspace(ctx context.Context, tx pgx.Tx, app, id uuid.UUID) (Workspace, error) {
	workspace, err := collectWorkspace(tx.Query(ctx, `SELECT `+workspaceColumns+` FROM workspace WHERE app_id = $1 AND id = $2`, app, id))
	if errors.Is(err, pgx.ErrNoRows) {
		return workspace, notFound("workspace")
	}
	if err != nil {
		return workspace, fmt.Errorf("read workspace %s: %w", id, err)
	}
	return workspace, nil
}

// CompanyWorkspace is a workspace as an admin of its company sees it.
type CompanyWorkspace struct {
	Workspace
	Joined bool // the admin is a member of it
}

// CompanyWorkspaces lists all workspaces of a company, by their ids, from after
// on, at most limit, to one of its admins. state, where given, is "active" or
// "archived".
func (r *Roster) CompanyWorkspaces(ctx context.Context, app, actor, company uuid.UUID, state string, after uuid.UUID, limit int) (list []CompanyWorkspace, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if err := exists(ctx, tx, "company", app, company); err != nil {
			return err
		}
		if err := mustBeAdmin(ctx, tx, app, actor, company); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `
			SELECT `+workspaceColumns+`, EXISTS (SELECT FROM membership m WHERE m.workspace_id = workspace.id AND m.account_id = $2 AND m.state = 'active')
			FROM workspace
			WHERE app_id = $1 AND company_id = $3 AND id > $4 AND $5 IN ('', state)
			ORDER BY id LIMIT $6`, app, actor, company, after, state, limit)
		if err != nil {
			return fmt.Errorf("list workspaces of company %s: %w", company, err)
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[CompanyWorkspace])
		return err
	})
	return list, err
}

// mustBeAdmin refuses an actor who is no admin of the company.
func mustBeAdmin(ctx context.Context, tx pgx.Tx, app, actor, company uuid.UUID) error {
	var active, admin bool
	if err := tx.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM account WHERE app_id = $1 AND id = $2 AND status = 'active'),
			EXISTS (SELECT FROM company_member WHERE app_id = $1 AND company_id = $3 AND account_id = $2 AND role = 'admin')`,
		app, actor, company).Scan(&active, &admin); err != nil {
		return fmt.Errorf("check rights of account %s: %w", actor, err)
	}
	switch {
	case !active:
		return errActor
	case !admin:
		return errNotAdmin
	}
	return nil
}

// RenameWorkspace gives a workspace another name. An archived one keeps its.
func (r *Roster) RenameWorkspace(ctx context.Context, app, actor, id uuid.UUID, name string, key IdempotencyKey) (Workspace, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (workspace Workspace, err error) {
		if err := mayLead(ctx, tx, app, actor, id); err != nil {
			return workspace, err
		}
		if name, err = cleanName("name", name); err != nil {
			return workspace, err
		}
		workspace, err = collectWorkspace(tx.Query(ctx, `
			UPDATE workspace SET name = $3 WHERE app_id = $1 AND id = $2 AND state = 'active' RETURNING `+workspaceColumns, app, id, name))
		if errors.Is(err, pgx.ErrNoRows) {
			return workspace, errorf(Conflict, "workspace_archived", "This workspace is archived; it stays as it is.")
		}
		if err != nil {
			return workspace, fmt.Errorf("rename workspace %s: %w", id, err)
		}
		_, err = recordEvents(ctx, tx, r.now(), newEvent{app, EventWorkspaceUpdated, id, actor, json.RawMessage(`{"fields":["name"]}`)})
		return workspace, err
	})
}

// ArchiveWorkspace closes a workspace. Invitations to it that are open are
// revoked with it; its members stay who they were, and nobody sees it in their
// list. Archiving it again is a success.
func (r *Roster) ArchiveWorkspace(ctx context.Context, app, actor, id uuid.UUID, key IdempotencyKey) (Workspace, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (workspace Workspace, err error) {
		if err := mayLead(ctx, tx, app, actor, id); err != nil {
			return workspace, err
		}
		now := r.now()
		// The lock waits for invitations being created, and they for it.
		workspace, err = collectWorkspace(tx.Query(ctx, `
			UPDATE workspace SET state = 'archived', archived_at = $3
			WHERE id = (SELECT id FROM workspace WHERE app_id = $1 AND id = $2 AND state = 'active' FOR UPDATE)
			RETURNING `+workspaceColumns, app, id, now))
		if errors.Is(err, pgx.ErrNoRows) {
			return readWorkspace(ctx, tx, app, id)
		}
		if err != nil {
			return workspace, fmt.Errorf("archive workspace %s: %w", id, err)
		}
		rows, err := tx.Query(ctx, `
			UPDATE invitation SET state = 'revoked', version = version + 1, decided_at = $2
			WHERE workspace_id = $1 AND `+isOpen+`
			RETURNING `+invitationColumns, id, now)
		if err != nil {
			return workspace, fmt.Errorf("revoke invitations to workspace %s: %w", id, err)
		}
		revoked, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Invitation])
		if err != nil {
			return workspace, fmt.Errorf("revoke invitations to workspace %s: %w", id, err)
		}
		events := []newEvent{{app, EventWorkspaceArchived, id, actor, json.RawMessage(`{}`)}}
		for _, inv := range revoked {
			events = append(events, newEvent{app, EventRevoked, inv.ID, actor, eventData(inv)})
		}
		_, err = recordEvents(ctx, tx, now, events...)
		return workspace, err
	})
}
