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

var (
	errVisibility = invalidField("visibility", "visibility_unknown", "The visibility of a member is %q, %q or %q.",
		VisibilityBasic, VisibilityStandard, VisibilityFull)

	errLastStakeholder = errorf(Conflict, "last_stakeholder",
		"Nobody else could look after this workspace: its company has no admin, and no other stakeholder has full visibility. Give that to somebody first.")
)

// newMember is a membership that is about to begin.
type newMember struct {
	app, workspace, account uuid.UUID
	actor                   uuid.UUID // who does it; Nil: the app
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
		SELECT $1, $2, id, $4, $5, NULLIF($6, '00000000-0000-0000-0000-000000000000'::uuid), NULLIF($7, '00000000-0000-0000-0000-000000000000'::uuid), $8::timestamptz, $9
		FROM account WHERE app_id = $1 AND id = $3 AND `+isLive+` FOR KEY SHARE -- it may be merged away this moment
		ON CONFLICT (workspace_id, account_id) DO UPDATE SET state = 'active', role = EXCLUDED.role, visibility = EXCLUDED.visibility,
			added_by = EXCLUDED.added_by, origin_workspace_id = EXCLUDED.origin_workspace_id, seen_at = EXCLUDED.seen_at,
			created_at = EXCLUDED.created_at, archived_at = NULL
		WHERE membership.state = 'archived'`,
		m.app, m.workspace, m.account, m.role, m.visibility, m.addedBy, m.origin, seen, at)
	if err != nil {
		return false, fmt.Errorf("add account %s to workspace %s: %w", m.account, m.workspace, err)
	}
	if tag.RowsAffected() == 0 {
		return false, nil
	}
	_, err = recordEvents(ctx, tx, at, newEvent{m.app, EventMembershipCreated, m.workspace, m.actor, joinedData(m.account, m.role, m.visibility)})
	return true, err
}

// joinedData is the data of EventMembershipCreated.
func joinedData(account uuid.UUID, role string, visibility Visibility) json.RawMessage {
	return fmt.Appendf(nil, `{"account_id":%q,"role":%q,"visibility":%q}`, account, role, visibility)
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
		if err := living(ctx, tx, app, &account); err != nil {
			return err
		}
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

// readMember reads a member of a workspace.
func readMember(ctx context.Context, tx pgx.Tx, app, workspace, account uuid.UUID) (m Member, err error) {
	rows, err := tx.Query(ctx, `
		SELECT `+memberColumns+`
		FROM membership m JOIN account a ON a.id = m.account_id
		WHERE m.app_id = $1 AND m.workspace_id = $2 AND m.account_id = $3`, app, workspace, account)
	if err == nil {
		m, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Member])
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return m, notFound("member")
	}
	if err != nil {
		return m, fmt.Errorf("read member %s of workspace %s: %w", account, workspace, err)
	}
	return m, nil
}

// Joined is the answer to JoinWorkspace.
type Joined struct {
	Member        Member
	AlreadyMember bool // they were in already, and stay as they were
}

// JoinWorkspace makes an admin of its company a stakeholder of a workspace, at
// once and without asking anybody.
func (r *Roster) JoinWorkspace(ctx context.Context, app, actor, id uuid.UUID, key IdempotencyKey) (Joined, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (j Joined, err error) {
		// Held against an archiving at the same moment.
		workspace, err := collectWorkspace(tx.Query(ctx, `SELECT `+workspaceColumns+` FROM workspace WHERE app_id = $1 AND id = $2 FOR SHARE`, app, id))
		if errors.Is(err, pgx.ErrNoRows) {
			return j, notFound("workspace")
		}
		if err != nil {
			return j, fmt.Errorf("read workspace %s: %w", id, err)
		}
		if err := mustBeAdmin(ctx, tx, app, actor, workspace.CompanyID); err != nil {
			return j, err
		}
		if workspace.State != workspaceActive {
			return j, errWorkspaceArchived
		}
		added, err := addMember(ctx, tx, newMember{
			app: app, workspace: id, account: actor, actor: actor, addedBy: actor,
			role: RoleStakeholder, visibility: VisibilityFull, seen: true,
		}, r.now())
		if err != nil {
			return j, err
		}
		j.AlreadyMember = !added
		j.Member, err = readMember(ctx, tx, app, id, actor)
		return j, err
	})
}

// othersLead is the condition that somebody but account $3 can look after
// workspace $2 of app $1.
const othersLead = `(
	EXISTS (SELECT FROM membership o JOIN account a ON a.id = o.account_id
		WHERE o.workspace_id = $2 AND o.account_id <> $3 AND o.state = 'active' AND o.role = 'stakeholder' AND o.visibility = 'full' AND a.status = 'active')
	OR EXISTS (SELECT FROM workspace w JOIN company_member c ON c.company_id = w.company_id JOIN account a ON a.id = c.account_id
		WHERE w.app_id = $1 AND w.id = $2 AND c.role = 'admin' AND c.account_id <> $3 AND a.status = 'active'))`

// changeMember runs one conditional UPDATE of a membership, after the check of
// the actor's right: the clause is what follows "SET", in which $1 to $3 are the
// app, the workspace and the account. Changes of one workspace's members go one
// after the other, so that its last two leaders cannot remove each other. ok is
// false where no row met the conditions; m then is the member as they stand.
func changeMember(ctx context.Context, tx pgx.Tx, app, actor, workspace, account uuid.UUID, clause string, args ...any) (m Member, ok bool, err error) {
	if err := mayLead(ctx, tx, app, actor, workspace); err != nil {
		return m, false, err
	}
	if _, err := tx.Exec(ctx, `SELECT FROM workspace WHERE app_id = $1 AND id = $2 FOR NO KEY UPDATE`, app, workspace); err != nil {
		return m, false, fmt.Errorf("lock workspace %s: %w", workspace, err)
	}
	tag, err := tx.Exec(ctx, `UPDATE membership SET `+clause, append([]any{app, workspace, account}, args...)...)
	if err != nil {
		return m, false, fmt.Errorf("change member %s of workspace %s: %w", account, workspace, err)
	}
	m, err = readMember(ctx, tx, app, workspace, account)
	return m, tag.RowsAffected() == 1, err
}

// SetVisibility changes how much of a workspace a member sees. The last one who
// leads a workspace stays so.
func (r *Roster) SetVisibility(ctx context.Context, app, actor, workspace, account uuid.UUID, v Visibility, key IdempotencyKey) (Member, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (Member, error) {
		if !v.valid() {
			return Member{}, errVisibility
		}
		m, ok, err := changeMember(ctx, tx, app, actor, workspace, account, `visibility = $4
			WHERE app_id = $1 AND workspace_id = $2 AND account_id = $3 AND state = 'active' AND visibility <> $4
				AND ($4 = 'full' OR role <> 'stakeholder' OR `+othersLead+`)`, v)
		switch {
		case err != nil:
			return m, err
		case ok:
			data := fmt.Appendf(nil, `{"account_id":%q,"visibility":%q}`, account, v)
			_, err = recordEvents(ctx, tx, r.now(), newEvent{app, EventMembershipChanged, workspace, actor, data})
			return m, err
		case m.State != workspaceActive:
			return m, errorf(Conflict, "member_archived", "This person is archived in this workspace.")
		case m.Visibility == v:
			return m, nil
		}
		return m, errLastStakeholder
	})
}

// ArchiveMember ends a membership: the person sees the workspace no more, may
// no longer act in it, and the links they came by stay dead. What they did
// stays in the history. Their open invitations to it are orphaned. Archiving
// again is a success.
func (r *Roster) ArchiveMember(ctx context.Context, app, actor, workspace, account uuid.UUID, key IdempotencyKey) (Member, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (Member, error) {
		now := r.now()
		m, ok, err := changeMember(ctx, tx, app, actor, workspace, account, `state = 'archived', archived_at = $4, notice_due = false
			WHERE app_id = $1 AND workspace_id = $2 AND account_id = $3 AND state = 'active'
				AND (role <> 'stakeholder' OR visibility <> 'full' OR `+othersLead+`)`, now)
		switch {
		case err != nil:
			return m, err
		case ok:
			if _, err := recordEvents(ctx, tx, now, newEvent{app, EventMembershipArchived, workspace, actor, memberData(account)}); err != nil {
				return m, err
			}
			return m, r.orphan(ctx, tx, app, account, actor, now)
		case m.State != workspaceActive:
			return m, nil
		}
		return m, errLastStakeholder
	})
}

// DeleteMember takes an archived membership out of the workspace's list, and
// answers what it was.
func (r *Roster) DeleteMember(ctx context.Context, app, actor, workspace, account uuid.UUID) (m Member, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if err := mayLead(ctx, tx, app, actor, workspace); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `
			DELETE FROM membership m USING account a
			WHERE m.app_id = $1 AND m.workspace_id = $2 AND m.account_id = $3 AND m.state = 'archived' AND a.id = m.account_id
			RETURNING `+memberColumns, app, workspace, account)
		if err == nil {
			m, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Member])
		}
		if errors.Is(err, pgx.ErrNoRows) {
			if _, err := readMember(ctx, tx, app, workspace, account); err != nil {
				return err
			}
			return errorf(Conflict, "member_not_archived", "Only an archived member can be deleted. Archive them first.")
		}
		if err != nil {
			return fmt.Errorf("delete member %s of workspace %s: %w", account, workspace, err)
		}
		_, err = recordEvents(ctx, tx, r.now(), newEvent{app, EventMembershipDeleted, workspace, actor, memberData(account)})
		return err
	})
	return m, err
}

// ClientUser is a client user of a workspace, or somebody who is invited to
// become one.
type ClientUser struct {
	ID           uuid.UUID  // of the account, else of the invitation
	AccountID    *uuid.UUID // nil: invited
	InvitationID *uuid.UUID // nil: a member
	FullName     string
	Email        string
	State        string // "active", or that of the invitation
	Visibility   Visibility
	Since        time.Time  // when they joined, or were invited
	ExpiresAt    *time.Time // of the invitation
}

// ClientUsers lists a workspace's active client users and the open invitations
// to become one, newest first, from before on, at most limit.
func (r *Roster) ClientUsers(ctx context.Context, app, workspace, before uuid.UUID, limit int) (list []ClientUser, err error) {
	if before == uuid.Nil {
		before = uuid.Max
	}
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if err := exists(ctx, tx, "workspace", app, workspace); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `
			SELECT * FROM ((SELECT a.id, a.id, NULL::uuid, a.full_name, a.email, m.state, m.visibility, m.created_at, NULL::timestamptz
				FROM membership m JOIN account a ON a.id = m.account_id
				WHERE m.app_id = $1 AND m.workspace_id = $2 AND m.account_id < $3 AND m.state = 'active' AND m.role = 'client_user'
				ORDER BY m.account_id DESC LIMIT $4)
			UNION ALL
			(SELECT i.id, NULL, i.id, i.full_name, i.email, i.state, i.visibility, i.created_at, i.expires_at
				FROM invitation i
				WHERE i.workspace_id = $2 AND i.app_id = $1 AND i.id < $3 AND i.state IN ('pending', 'on_hold') AND i.kind <> 'external_professional' AND i.expires_at > $5
				ORDER BY i.id DESC LIMIT $4)) AS users
			ORDER BY 1 DESC LIMIT $4`, app, workspace, before, limit, r.now())
		if err != nil {
			return fmt.Errorf("list client users of workspace %s: %w", workspace, err)
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[ClientUser])
		return err
	})
	return list, err
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
