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

const companyColumns = `company.id, company.app_id, company.name, company.time_zone, company.created_at`

// CompanyMember is an account a company employs.
type CompanyMember struct {
	AccountID uuid.UUID
	FullName  string
	Email     string
	Role      string
	CreatedAt time.Time // when they became one
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
		_, err = recordEvents(ctx, tx, company.CreatedAt, newEvent{app, EventCompanyCreated, company.ID, uuid.Nil, json.RawMessage(`{}`)})
		return company, err
	})
}

// Company is one company of an app.
func (r *Roster) Company(ctx context.Context, app, id uuid.UUID) (company Company, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT `+companyColumns+` FROM company WHERE app_id = $1 AND id = $2`, app, id)
		if err != nil {
			return err
		}
		company, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Company])
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return company, notFound("company")
	}
	if err != nil {
		return company, fmt.Errorf("read company %s: %w", id, err)
	}
	return company, nil
}

// Companies lists an app's companies by their ids, from after on, at most
// limit.
func (r *Roster) Companies(ctx context.Context, app, after uuid.UUID, limit int) (list []Company, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT `+companyColumns+` FROM company WHERE app_id = $1 AND id > $2 ORDER BY id LIMIT $3`, app, after, limit)
		if err != nil {
			return fmt.Errorf("list companies: %w", err)
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Company])
		return err
	})
	return list, err
}

// CompanyMembers lists a company's members by their accounts' ids, from after
// on, at most limit.
func (r *Roster) CompanyMembers(ctx context.Context, app, company, after uuid.UUID, limit int) (members []CompanyMember, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if err := exists(ctx, tx, "company", app, company); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `
			SELECT a.id, a.full_name, a.email, c.role, c.created_at
			FROM company_member c JOIN account a ON a.id = c.account_id
			WHERE c.app_id = $1 AND c.company_id = $2 AND c.account_id > $3
			ORDER BY c.account_id LIMIT $4`, app, company, after, limit)
		if err != nil {
			return fmt.Errorf("list members of company %s: %w", company, err)
		}
		members, err = pgx.CollectRows(rows, pgx.RowToStructByPos[CompanyMember])
		return err
	})
	return members, err
}

// Employment is a company as one of its members sees it.
type Employment struct {
	CompanyID   uuid.UUID
	CompanyName string
	Role        string
	CreatedAt   time.Time // when they became a member
}

// AccountCompanies lists the companies an account is a member of by their ids,
// from after on, at most limit.
func (r *Roster) AccountCompanies(ctx context.Context, app, account, after uuid.UUID, limit int) (list []Employment, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if err := exists(ctx, tx, "account", app, account); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `
			SELECT company.id, company.name, c.role, c.created_at
			FROM company_member c JOIN company ON company.id = c.company_id
			WHERE c.app_id = $1 AND c.account_id = $2 AND c.company_id > $3
			ORDER BY c.company_id LIMIT $4`, app, account, after, limit)
		if err != nil {
			return fmt.Errorf("list companies of account %s: %w", account, err)
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Employment])
		return err
	})
	return list, err
}

// SetCompanyMember makes an account a member of a company, or changes the role
// of one. Who is an admin no more may no longer invite to workspaces they are
// not a stakeholder of: see orphan.
func (r *Roster) SetCompanyMember(ctx context.Context, app, company, account uuid.UUID, role string, key IdempotencyKey) error {
	_, err := once(ctx, r, app, key, func(tx pgx.Tx) (struct{}, error) {
		if role != RoleAdmin && role != RoleMember {
			return struct{}{}, invalidField("role", "role_unknown", "The role in a company is %q or %q.", RoleAdmin, RoleMember)
		}
		now := r.now()
		tag, err := tx.Exec(ctx, `
			INSERT INTO company_member (app_id, company_id, account_id, role, created_at)
			SELECT $1, $2, $3, $4, $5 WHERE NOT EXISTS (SELECT FROM account WHERE app_id = $1 AND id = $3 AND NOT (`+isLive+`))
			ON CONFLICT (company_id, account_id) DO UPDATE SET role = EXCLUDED.role
			WHERE company_member.app_id = EXCLUDED.app_id AND company_member.role <> EXCLUDED.role`, app, company, account, role, now)
		switch {
		case postgres.Violates(err, "company_member_app_id_company_id_fkey"):
			return struct{}{}, notFound("company")
		case postgres.Violates(err, "company_member_app_id_account_id_fkey"):
			return struct{}{}, notFound("account")
		case err != nil:
			return struct{}{}, fmt.Errorf("set member %s of company %s: %w", account, company, err)
		case tag.RowsAffected() == 0:
			return struct{}{}, companyMemberStands(ctx, tx, app, company, account, role)
		}
		data := fmt.Appendf(nil, `{"account_id":%q,"role":%q}`, account, role)
		if _, err := recordEvents(ctx, tx, now, newEvent{app, EventCompanyMemberSet, company, uuid.Nil, data}); err != nil {
			return struct{}{}, err
		}
		if role == RoleAdmin {
			return struct{}{}, nil
		}
		return struct{}{}, r.orphan(ctx, tx, app, account, uuid.Nil, now)
	})
	return err
}

// companyMemberStands is the answer where SetCompanyMember had nothing to
// write: success where the member has the role already.
func companyMemberStands(ctx context.Context, tx pgx.Tx, app, company, account uuid.UUID, role string) error {
	var have string
	err := tx.QueryRow(ctx, `SELECT role FROM company_member WHERE app_id = $1 AND company_id = $2 AND account_id = $3`, app, company, account).Scan(&have)
	switch {
	case err == nil && have == role:
		return nil
	case err != nil && !errors.Is(err, pgx.ErrNoRows):
		return fmt.Errorf("read member %s of company %s: %w", account, company, err)
	}
	if err := exists(ctx, tx, "company", app, company); err != nil {
		return err
	}
	return accountOver(ctx, tx, app, account)
}

// RemoveCompanyMember ends an account's membership of a company. The
// workspaces it is a stakeholder of stay: those end one by one, or with the
// account. Its open invitations to workspaces it managed as an admin are
// orphaned.
func (r *Roster) RemoveCompanyMember(ctx context.Context, app, company, account uuid.UUID) (member CompanyMember, err error) {
	now := r.now()
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			DELETE FROM company_member c USING account a
			WHERE c.app_id = $1 AND c.company_id = $2 AND c.account_id = $3 AND a.id = c.account_id
			RETURNING a.id, a.full_name, a.email, c.role, c.created_at`, app, company, account)
		if err == nil {
			member, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[CompanyMember])
		}
		if errors.Is(err, pgx.ErrNoRows) {
			if err := exists(ctx, tx, "company", app, company); err != nil {
				return err
			}
			return notFound("member")
		}
		if err != nil {
			return fmt.Errorf("remove member %s of company %s: %w", account, company, err)
		}
		if _, err := recordEvents(ctx, tx, now, newEvent{app, EventCompanyMemberRemoved, company, uuid.Nil, memberData(account)}); err != nil {
			return err
		}
		return r.orphan(ctx, tx, app, account, uuid.Nil, now)
	})
	return member, err
}
