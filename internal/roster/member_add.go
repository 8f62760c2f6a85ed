package roster

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
)

// MaxAdds bounds the rows of one AddMembers: it is one transaction, and locks
// what it touches until its end.
const MaxAdds = 1000

// NewMember asks to put an account into a workspace at once, without asking the
// person.
type NewMember struct {
	Kind        string // KindColleague or KindExistingUser
	WorkspaceID uuid.UUID
	AccountID   uuid.UUID
	Visibility  Visibility // empty: full
	OriginID    uuid.UUID  // KindExistingUser: the workspace the person was picked from
}

// AddedMember is the answer to one NewMember.
type AddedMember struct {
	Invitation    Invitation // accepted; not set where AlreadyMember
	AlreadyMember bool       // the person is in the workspace; nothing was done
	WorkspaceName string
	OriginName    string // of KindExistingUser
	Err           *Error `json:",omitempty"` // the refusal of that row
}

// AddMembers puts accounts into workspaces: colleagues of the actor or of the
// workspace's company, who become stakeholders, and active users of another of
// the actor's workspaces, who become client users. Nobody is mailed; each person
// gets one notice of all that is new to them. Rows are answered one by one, and
// a row that is refused never troubles its neighbours; of rows for the same
// person and workspace the first counts. An open invitation of somebody who was
// added is superseded. An error means that nothing at all was done.
func (r *Roster) AddMembers(ctx context.Context, app, actor uuid.UUID, rows []NewMember, key IdempotencyKey) ([]AddedMember, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) ([]AddedMember, error) {
		return r.addMembers(ctx, tx, app, actor, rows)
	})
}

// AddMembersEach is AddMembers with an idempotency key for each row, no two of
// them alike: rows that were answered under theirs before get that answer again,
// and only the others are added.
func (r *Roster) AddMembersEach(ctx context.Context, app, actor uuid.UUID, rows []NewMember, keys []IdempotencyKey) ([]AddedMember, error) {
	out, err := onceEach(ctx, r, app, keys, func(tx pgx.Tx, todo []int) ([]AddedMember, error) {
		left := make([]NewMember, len(todo))
		for i, at := range todo {
			left[i] = rows[at]
		}
		return r.addMembers(ctx, tx, app, actor, left)
	})
	if err != nil {
		return nil, err
	}
	added := make([]AddedMember, len(out))
	for i, a := range out {
		if added[i] = a.Result; a.Err != nil {
			added[i].Err = a.Err
		}
	}
	return added, nil
}

func (r *Roster) addMembers(ctx context.Context, tx pgx.Tx, app, actor uuid.UUID, rows []NewMember) ([]AddedMember, error) {
	if len(rows) > MaxAdds {
		return nil, errorf(Invalid, "too_many_rows", "At most %d people are added at once.", MaxAdds)
	}
	rows, err := livingMembers(ctx, tx, app, rows)
	if err != nil {
		return nil, err
	}
	out := make([]AddedMember, len(rows))
	first, again := firstOfEach(rows)
	facts, err := addAll(ctx, tx, app, actor, rows, first, r.now())
	if err != nil {
		return nil, err
	}
	var open []uuid.UUID
	told := map[uuid.UUID]bool{}
	var events []newEvent
	for _, f := range facts {
		out[f.N] = rows[f.N].answer(f, app, actor, r.now())
		if !f.Added {
			continue
		}
		events = append(events, rows[f.N].events(f, app, actor)...)
		if f.OpenID != nil {
			open = append(open, *f.OpenID)
		}
		if f.AccountID != actor {
			told[f.AccountID] = true
		}
	}
	for at, first := range again {
		out[at] = out[first]
		if out[at].Err == nil {
			out[at].Invitation, out[at].AlreadyMember = Invitation{}, true
		}
	}
	if err := supersede(ctx, tx, open, r.now()); err != nil {
		return nil, err
	}
	if _, err := recordEvents(ctx, tx, r.now(), events...); err != nil {
		return nil, err
	}
	jobs := make([]river.JobArgs, 0, len(told))
	for account := range told {
		jobs = append(jobs, NotifyWorkspace{AccountID: account})
	}
	return out, r.enqueue(ctx, tx, jobs...)
}

// livingMembers are the rows with the accounts that those which were merged away
// live on in.
func livingMembers(ctx context.Context, tx pgx.Tx, app uuid.UUID, rows []NewMember) ([]NewMember, error) {
	ids := make([]uuid.UUID, len(rows))
	for i, row := range rows {
		ids[i] = row.AccountID
	}
	merged, err := tx.Query(ctx, `SELECT id, merged_into FROM account WHERE app_id = $1 AND id = ANY ($2) AND merged_into IS NOT NULL`, app, ids)
	if err != nil {
		return nil, fmt.Errorf("look for merged accounts: %w", err)
	}
	found, err := pgx.CollectRows(merged, pgx.RowToStructByPos[struct{ ID, Into uuid.UUID }])
	if err != nil {
		return nil, fmt.Errorf("look for merged accounts: %w", err)
	}
	lives := make(map[uuid.UUID]uuid.UUID, len(found))
	for _, account := range found {
		lives[account.ID] = account.Into
	}
	if len(lives) == 0 {
		return rows, nil
	}
	rows = slices.Clone(rows)
	for i, row := range rows {
		if into, ok := lives[row.AccountID]; ok {
			rows[i].AccountID = into
		}
	}
	return rows, nil
}

// firstOfEach are the rows that are the first for their person and workspace, in
// the order in which their locks are taken, and for each other row its first.
func firstOfEach(rows []NewMember) (first []int, again map[int]int) {
	type place struct{ workspace, account uuid.UUID }
	seen := map[place]int{}
	again = map[int]int{}
	for at, row := range rows {
		p := place{row.WorkspaceID, row.AccountID}
		if before, ok := seen[p]; ok {
			again[at] = before
			continue
		}
		seen[p] = at
		first = append(first, at)
	}
	// Two calls that add the same people wait for each other; in one order they
	// cannot wait in a circle.
	slices.SortFunc(first, func(x, y int) int {
		return cmp.Or(bytes.Compare(rows[x].WorkspaceID[:], rows[y].WorkspaceID[:]), bytes.Compare(rows[x].AccountID[:], rows[y].AccountID[:]))
	})
	return first, again
}

// addFacts is what the database says about one row, and whether it was added.
type addFacts struct {
	N                     int
	ID                    uuid.UUID // of the invitation
	AccountID             uuid.UUID
	ActorActive           bool
	WorkspaceState        *string // nil: no such workspace in the app
	WorkspaceName         *string
	MayManage             bool    // the actor, the workspace
	Status                *string // nil: no such account in the app
	Email, EmailKey, Name *string
	Colleague             bool // of the actor or of the workspace's company
	OriginName            *string
	MayManageOrigin       bool
	InOrigin              bool // the account is an active member there
	Member                bool // the account is an active member here already
	OpenID                *uuid.UUID
	Added                 bool
}

// manages is the condition that account $2 may manage a workspace of a company.
func manages(workspace, company string) string {
	return `(EXISTS (SELECT FROM membership m
			WHERE m.workspace_id = ` + workspace + ` AND m.account_id = $2 AND m.state = 'active' AND m.role = 'stakeholder')
		OR EXISTS (SELECT FROM company_member c WHERE c.company_id = ` + company + ` AND c.account_id = $2 AND c.role = 'admin'))`
}

// addAll adds what can be added of the rows at the places, with the invitations,
// and answers what it found. The conditions are those of answer.
func addAll(ctx context.Context, tx pgx.Tx, app, actor uuid.UUID, rows []NewMember, at []int, now time.Time) (facts []addFacts, err error) {
	n := len(at)
	ids, workspaces, accounts, origins := make([]uuid.UUID, n), make([]uuid.UUID, n), make([]uuid.UUID, n), make([]*uuid.UUID, n)
	kinds, roles, visibilities := make([]string, n), make([]string, n), make([]string, n)
	for i, at := range at {
		row := rows[at].complete()
		ids[i] = newID()
		workspaces[i], accounts[i], kinds[i], roles[i], visibilities[i] = row.WorkspaceID, row.AccountID, row.Kind, role(row.Kind), string(row.Visibility)
		if row.Kind == KindExistingUser {
			origins[i] = &row.OriginID
		}
		if row.check() != nil {
			kinds[i] = "" // nothing is done about it
		}
	}
	batch := &pgx.Batch{}
	// Who accepts an invitation locks it before the membership; so do we.
	batch.Queue(`
		SELECT invitation.id
		FROM unnest($2::uuid[], $3::uuid[]) AS q (workspace_id, account_id)
		JOIN account ON account.app_id = $1 AND account.id = q.account_id
		JOIN invitation ON invitation.workspace_id = q.workspace_id AND invitation.email_key = account.email_key AND `+isOpen+`
		ORDER BY invitation.id FOR UPDATE OF invitation`, app, workspaces, accounts)
	batch.Queue(`
		WITH q AS (
			SELECT q.*, workspace.state AS workspace_state, workspace.name AS workspace_name,
				EXISTS (SELECT FROM account a WHERE a.app_id = $1 AND a.id = $2 AND a.status = 'active') AS actor_active,
				`+manages("q.workspace_id", "workspace.company_id")+` AS may_manage,
				account.status, account.email, account.email_key, account.full_name,
				EXISTS (SELECT FROM company_member c WHERE c.company_id = workspace.company_id AND c.account_id = q.account_id)
				OR EXISTS (SELECT FROM company_member c JOIN company_member mine ON mine.company_id = c.company_id AND mine.account_id = $2
					WHERE c.account_id = q.account_id) AS colleague,
				origin.name AS origin_name,
				`+manages("q.origin_id", "origin.company_id")+` AS may_manage_origin,
				EXISTS (SELECT FROM membership m
					WHERE m.workspace_id = q.origin_id AND m.account_id = q.account_id AND m.state = 'active') AS in_origin,
				EXISTS (SELECT FROM membership m
					WHERE m.workspace_id = q.workspace_id AND m.account_id = q.account_id AND m.state = 'active') AS member,
				(SELECT invitation.id FROM invitation
					WHERE invitation.workspace_id = q.workspace_id AND invitation.email_key = account.email_key AND `+isOpen+`) AS open_id
			FROM unnest($3::int[], $4::uuid[], $5::uuid[], $6::uuid[], $7::uuid[], $8::text[], $9::text[], $10::text[])
				AS q (n, id, workspace_id, account_id, origin_id, kind, role, visibility)
			LEFT JOIN LATERAL (
				SELECT state, name, company_id FROM workspace WHERE app_id = $1 AND id = q.workspace_id LIMIT 1) AS workspace ON true
			LEFT JOIN LATERAL (
				SELECT status, email, COALESCE(email_key, '') AS email_key, full_name FROM account WHERE app_id = $1 AND id = q.account_id LIMIT 1) AS account ON true
			LEFT JOIN LATERAL (
				SELECT name, company_id FROM workspace WHERE app_id = $1 AND id = q.origin_id LIMIT 1) AS origin ON true
		), added AS (
			INSERT INTO membership (app_id, workspace_id, account_id, role, visibility, added_by, origin_workspace_id, notice_due, created_at)
			SELECT $1, workspace_id, account_id, role, visibility, $2, origin_id, account_id <> $2, $11
			FROM q
			WHERE actor_active AND workspace_state = 'active' AND may_manage AND status = 'active' AND NOT member
				AND CASE kind WHEN 'colleague' THEN colleague WHEN 'existing_user' THEN origin_name IS NOT NULL AND may_manage_origin AND in_origin ELSE false END
			ORDER BY workspace_id, account_id
			ON CONFLICT (workspace_id, account_id) DO UPDATE SET state = 'active', role = EXCLUDED.role, visibility = EXCLUDED.visibility,
				added_by = EXCLUDED.added_by, origin_workspace_id = EXCLUDED.origin_workspace_id, notice_due = EXCLUDED.notice_due,
				seen_at = NULL, created_at = EXCLUDED.created_at, archived_at = NULL
			WHERE membership.state = 'archived'
			RETURNING workspace_id, account_id
		), invited AS (
			INSERT INTO invitation (id, app_id, workspace_id, inviter_id, kind, email, email_key, full_name, locale, note,
				state, sends, expires_at, decided_at, account_id, created_at, visibility, origin_workspace_id)
			SELECT id, $1, workspace_id, $2, kind, email, email_key, full_name, '', '',
				'accepted', 0, $11, $11, account_id, $11, visibility, origin_id
			FROM q JOIN added USING (workspace_id, account_id)
		)
		SELECT n, id, account_id, actor_active, workspace_state, workspace_name, may_manage, status, email, email_key, full_name,
			colleague, origin_name, may_manage_origin, in_origin, member, open_id, added.workspace_id IS NOT NULL
		FROM q LEFT JOIN added USING (workspace_id, account_id)`,
		app, actor, at, ids, workspaces, accounts, origins, kinds, roles, visibilities, now).
		Query(func(rows pgx.Rows) (err error) {
			facts, err = pgx.CollectRows(rows, pgx.RowToStructByPos[addFacts])
			return err
		})
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return nil, fmt.Errorf("add %d members: %w", n, err)
	}
	return facts, nil
}

// events are those of a row that was added.
func (row NewMember) events(f addFacts, app, actor uuid.UUID) []newEvent {
	row = row.complete()
	invited := fmt.Appendf(nil, `{"version":1,"workspace_id":%q,"kind":%q,"account_id":%q}`, row.WorkspaceID, row.Kind, row.AccountID)
	return []newEvent{
		{app, EventCreated, f.ID, actor, invited},
		{app, EventAccepted, f.ID, actor, invited},
		{app, EventMembershipCreated, row.WorkspaceID, actor, joinedData(row.AccountID, role(row.Kind), row.Visibility)},
	}
}

// complete is the row with what it left open.
func (row NewMember) complete() NewMember {
	row.Visibility = cmp.Or(row.Visibility, VisibilityFull)
	return row
}

// check refuses what can be refused without the database.
func (row NewMember) check() *Error {
	switch {
	case row.Kind != KindColleague && row.Kind != KindExistingUser:
		return invalidField("kind", "kind_unknown", "The kind of an invitation of an account is %q or %q.", KindColleague, KindExistingUser)
	case !row.complete().Visibility.valid():
		return errVisibility
	case row.Kind == KindExistingUser && row.OriginID == uuid.Nil:
		return invalidField("origin_workspace_id", "origin_missing", "Say from which workspace the person was picked.")
	case row.Kind == KindColleague && row.OriginID != uuid.Nil:
		return invalidField("origin_workspace_id", "origin_unwanted", "A colleague is not picked from a workspace; leave the originating workspace out.")
	}
	return nil
}

// answer is the row's outcome: what was done, or why nothing was.
func (row NewMember) answer(f addFacts, app, actor uuid.UUID, now time.Time) (out AddedMember) {
	if f.WorkspaceName != nil && f.MayManage {
		out.WorkspaceName = *f.WorkspaceName
	}
	if out.Err = row.refuse(f); out.Err != nil {
		return AddedMember{Err: out.Err}
	}
	if f.OriginName != nil {
		out.OriginName = *f.OriginName
	}
	if !f.Added { // before, or by somebody else in this instant
		out.AlreadyMember = true
		return out
	}
	out.Invitation = Invitation{
		ID: f.ID, AppID: app, WorkspaceID: row.WorkspaceID, InviterID: actor, Kind: row.Kind,
		Email: *f.Email, EmailKey: *f.EmailKey, FullName: *f.Name,
		State: Accepted, Delivery: NotMailed, Version: 1, ExpiresAt: now, DecidedAt: &now, AccountID: &row.AccountID, CreatedAt: now,
		Visibility: row.complete().Visibility,
	}
	if row.Kind == KindExistingUser {
		out.Invitation.OriginWorkspaceID = &row.OriginID
	}
	return out
}

// refuse says why the row cannot be added, if so. A member is no refusal.
func (row NewMember) refuse(f addFacts) *Error {
	switch {
	case !f.ActorActive:
		return errActor
	case f.WorkspaceState == nil:
		return notFound("workspace")
	case !f.MayManage:
		return errMayNot
	case f.Status == nil:
		return notFound("account")
	}
	if err := row.check(); err != nil {
		return err
	}
	switch {
	case *f.WorkspaceState != workspaceActive:
		return errorf(Conflict, "workspace_archived", "This workspace is archived; nobody can be added to it.")
	case f.Member || f.Added:
		return nil
	case *f.Status != statusActive:
		return errorf(Conflict, "account_not_active", "This account is not active, so it cannot be added. Invite the person by e-mail.")
	case row.Kind == KindColleague && !f.Colleague:
		return errorf(Conflict, "not_a_colleague", "This account belongs neither to the workspace's company nor to yours. Invite the person as an external professional.")
	case row.Kind == KindExistingUser && (f.OriginName == nil || !f.MayManageOrigin):
		return errorf(Forbidden, "origin_not_allowed", "The originating workspace does not exist in this app, or is not yours to manage.")
	case row.Kind == KindExistingUser && !f.InOrigin:
		return errorf(Conflict, "not_in_origin", "This account is not an active member of the originating workspace.")
	}
	return nil
}

// supersede ends open invitations of people who were added meanwhile.
func supersede(ctx context.Context, tx pgx.Tx, ids []uuid.UUID, now time.Time) error {
	if len(ids) == 0 {
		return nil
	}
	rows, err := tx.Query(ctx, `
		UPDATE invitation SET state = 'superseded', decided_at = $2
		WHERE id = ANY($1) AND `+isOpen+` RETURNING `+invitationColumns, ids, now)
	if err != nil {
		return fmt.Errorf("supersede %d invitations: %w", len(ids), err)
	}
	superseded, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Invitation])
	if err != nil {
		return fmt.Errorf("supersede %d invitations: %w", len(ids), err)
	}
	_, err = recordAll(ctx, tx, superseded, EventSuperseded, now)
	return err
}
