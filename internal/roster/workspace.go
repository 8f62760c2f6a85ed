package roster

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

const workspaceActive = "active"

// The roles of a company's members.
const (
	RoleAdmin  = "admin"
	RoleMember = "member"
)

// Company employs professionals within an app.
type Company struct {
	ID        uuid.UUID
	AppID     uuid.UUID
	Name      string
	TimeZone  string // empty: the app's
	CreatedAt time.Time
}

// Workspace is what is shared.
type Workspace struct {
	ID        uuid.UUID
	AppID     uuid.UUID
	CompanyID uuid.UUID
	Name      string
	State     string
	CreatedAt time.Time
}

var (
	errActor  = errorf(Forbidden, "actor_invalid", "The account in Usher-Actor does not exist in this app, or is not active.")
	errMayNot = errorf(Forbidden, "actor_not_allowed", "This account is neither a stakeholder of the workspace nor an admin of its company.")
)

// mayManage refuses an actor who is neither a stakeholder of the workspace nor
// an admin of its company.
func mayManage(ctx context.Context, tx pgx.Tx, app, actor, workspace uuid.UUID) error {
	var active, allowed bool
	if err := tx.QueryRow(ctx, `
		SELECT
			EXISTS (SELECT FROM account WHERE app_id = $1 AND id = $2 AND status = 'active'),
			EXISTS (SELECT FROM membership
				WHERE app_id = $1 AND workspace_id = $3 AND account_id = $2 AND state = 'active' AND role = 'stakeholder')
			OR EXISTS (SELECT FROM workspace w JOIN company_member c ON c.company_id = w.company_id
				WHERE w.app_id = $1 AND w.id = $3 AND c.account_id = $2 AND c.role = 'admin')`,
		app, actor, workspace).Scan(&active, &allowed); err != nil {
		return fmt.Errorf("check rights of account %s: %w", actor, err)
	}
	if !active {
		return errActor
	}
	if !allowed {
		return errMayNot
	}
	return nil
}

// CreateCompany adds a company to an app.
func (r *Roster) CreateCompany(ctx context.Context, app uuid.UUID, name, timeZone string, key IdempotencyKey) (Company, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (company Company, err error) {
		if name, err = cleanName("name", name); err != nil {
			return company, err
		}
		if timeZone, err = cleanZone(timeZone); err != nil {
			return company, err
		}
		company = Company{ID: newID(), AppID: app, Name: name, TimeZone: timeZone, CreatedAt: r.now()}
		if _, err := tx.Exec(ctx, `
			INSERT INTO company (id, app_id, name, time_zone, created_at) VALUES ($1, $2, $3, $4, $5)`,
			company.ID, app, name, timeZone, company.CreatedAt); err != nil {
			return company, fmt.Errorf("create company: %w", err)
		}
		return company, nil
	})
}

// SetCompanyMember makes an account a member of a company, or changes the role
// of one.
func (r *Roster) SetCompanyMember(ctx context.Context, app, company, account uuid.UUID, role string, key IdempotencyKey) error {
	_, err := once(ctx, r, app, key, func(tx pgx.Tx) (struct{}, error) {
		if role != RoleAdmin && role != RoleMember {
			return struct{}{}, invalidField("role", "role_unknown", "The role in a company is %q or %q.", RoleAdmin, RoleMember)
		}
		tag, err := tx.Exec(ctx, `
			INSERT INTO company_member (app_id, company_id, account_id, role, created_at)
			VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (company_id, account_id) DO UPDATE SET role = EXCLUDED.role
			WHERE company_member.app_id = EXCLUDED.app_id`, app, company, account, role, r.now())
		switch {
		case postgres.Violates(err, "company_member_app_id_company_id_fkey"):
			return struct{}{}, notFound("company")
		case postgres.Violates(err, "company_member_app_id_account_id_fkey"):
			return struct{}{}, notFound("account")
		case err != nil:
			return struct{}{}, fmt.Errorf("set member %s of company %s: %w", account, company, err)
		case tag.RowsAffected() == 0: // both are another app's
			return struct{}{}, notFound("company")
		}
		return struct{}{}, nil
	})
	return err
}

// CreateWorkspace adds a workspace to a company. Where owner is given, that
// account is its first stakeholder.
func (r *Roster) CreateWorkspace(ctx context.Context, app, company uuid.UUID, name string, owner uuid.UUID, key IdempotencyKey) (Workspace, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (workspace Workspace, err error) {
		if name, err = cleanName("name", name); err != nil {
			return workspace, err
		}
		workspace = Workspace{ID: newID(), AppID: app, CompanyID: company, Name: name, State: workspaceActive, CreatedAt: r.now()}
		_, err = tx.Exec(ctx, `
			INSERT INTO workspace (id, app_id, company_id, name, created_at) VALUES ($1, $2, $3, $4, $5)`,
			workspace.ID, app, company, name, workspace.CreatedAt)
		if postgres.Violates(err, "workspace_app_id_company_id_fkey") {
			return workspace, notFound("company")
		}
		if err != nil {
			return workspace, fmt.Errorf("create workspace: %w", err)
		}
		if owner == uuid.Nil {
			return workspace, nil
		}
		_, err = addMember(ctx, tx, newMember{
			app: app, workspace: workspace.ID, account: owner, role: RoleStakeholder, visibility: VisibilityFull, seen: true,
		}, r.now())
		if postgres.Violates(err, "membership_app_id_account_id_fkey") {
			return workspace, notFound("account")
		}
		return workspace, err
	})
}
