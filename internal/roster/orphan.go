package roster

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// heldForInviter is Invitation.HeldFor of one that nobody can accept, because
// whoever invited may no longer.
const heldForInviter = "inviter"

// ReasonInviterGone is the reason in the data of an event that happened to an
// invitation because its inviter may no longer invite.
const ReasonInviterGone = "inviter_gone"

// maxOrphansTold bounds the invitations named in one mail to their workspaces'
// owner, who finds the rest in the list.
const maxOrphansTold = 100

// orphan looks after the open invitations of somebody who has just lost rights:
// those to workspaces to which they may no longer invite are held until somebody
// takes them over, go to the workspace's owner, or are revoked, as the app's
// policy says. The owner is the active stakeholder with full visibility who has
// been one longest, else the admin of its company who has; where there is none,
// an invitation to be transferred is held. Owners are told.
func (r *Roster) orphan(ctx context.Context, tx pgx.Tx, app, inviter, actor uuid.UUID, now time.Time) error {
	policy, err := policyOf(ctx, tx, app)
	if err != nil {
		return err
	}
	rows, err := tx.Query(ctx, `
		WITH orphaned AS (
			SELECT i.id, COALESCE((
				SELECT m.account_id FROM membership m JOIN account a ON a.id = m.account_id
				WHERE m.workspace_id = i.workspace_id AND m.state = 'active' AND m.role = 'stakeholder' AND m.visibility = 'full'
					AND m.account_id <> $2 AND a.status = 'active'
				ORDER BY m.created_at, m.account_id LIMIT 1
			), (
				SELECT c.account_id FROM company_member c JOIN account a ON a.id = c.account_id
				WHERE c.company_id = w.company_id AND c.role = 'admin' AND c.account_id <> $2 AND a.status = 'active'
				ORDER BY c.created_at, c.account_id LIMIT 1
			)) AS owner_id
			FROM invitation i JOIN workspace w ON w.id = i.workspace_id
			WHERE i.inviter_id = $2 AND i.app_id = $1 AND i.state IN ('pending', 'on_hold') AND i.held_for = ''
				AND NOT (
					EXISTS (SELECT FROM account a WHERE a.id = $2 AND a.status = 'active') AND (
						EXISTS (SELECT FROM membership m
							WHERE m.workspace_id = i.workspace_id AND m.account_id = $2 AND m.state = 'active' AND m.role = 'stakeholder')
						OR EXISTS (SELECT FROM company_member c
							WHERE c.company_id = w.company_id AND c.account_id = $2 AND c.role = 'admin')))
			ORDER BY i.id FOR UPDATE OF i
		)
		UPDATE invitation SET
			state = CASE WHEN $3 = 'revoke' THEN 'revoked' WHEN $3 = 'hold' OR owner_id IS NULL THEN 'on_hold' ELSE invitation.state END,
			held_for = CASE WHEN $3 = 'hold' OR $3 = 'transfer' AND owner_id IS NULL THEN $4 ELSE '' END,
			inviter_id = CASE WHEN $3 = 'transfer' THEN COALESCE(owner_id, inviter_id) ELSE inviter_id END,
			version = version + CASE WHEN $3 = 'revoke' THEN 1 ELSE 0 END,
			decided_at = CASE WHEN $3 = 'revoke' THEN $5::timestamptz END
		FROM orphaned WHERE invitation.id = orphaned.id AND `+isOpen+`
		RETURNING orphaned.owner_id, `+invitationColumns, app, inviter, policy.OrphanedInviter, heldForInviter, now)
	if err != nil {
		return fmt.Errorf("look after invitations of account %s: %w", inviter, err)
	}
	orphans, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
		OwnerID *uuid.UUID
		Invitation
	}])
	if err != nil {
		return fmt.Errorf("look after invitations of account %s: %w", inviter, err)
	}
	events := make([]newEvent, len(orphans))
	for i, o := range orphans {
		eventType := EventTransferred
		switch {
		case o.State == Revoked:
			eventType = EventRevoked
		case o.HeldFor != "":
			eventType = EventHeld
		}
		data := fmt.Appendf(nil, `{"version":%d,"workspace_id":%q,"reason":%q,"inviter_id":%q}`, o.Version, o.WorkspaceID, ReasonInviterGone, inviter)
		if o.OwnerID != nil {
			data = fmt.Appendf(data[:len(data)-1], `,"owner_id":%q}`, *o.OwnerID)
		}
		events[i] = newEvent{app, eventType, o.ID, actor, data}
	}
	ids, err := recordEvents(ctx, tx, now, events...)
	if err != nil {
		return err
	}
	news := map[uuid.UUID][]uuid.UUID{}
	for i, o := range orphans {
		if o.OwnerID != nil && len(news[*o.OwnerID]) < maxOrphansTold {
			news[*o.OwnerID] = append(news[*o.OwnerID], ids[i])
		}
	}
	mails := make([]Mail, 0, len(news))
	for owner, told := range news {
		mails = append(mails, newsMail(app, owner, told))
	}
	return r.ask(ctx, tx, now, mails...)
}

// errHeldForInviter refuses what an invitation is not ready for as long as
// nobody stands behind it.
func (inv Invitation) errHeldForInviter() *Error {
	err := errorf(Conflict, "inviter_gone", "Whoever invited may no longer invite to this workspace. Take the invitation over first, or revoke it.")
	err.State = inv.State
	return err
}

// TakeOverInvitation makes the actor the inviter of an open invitation whose
// inviter may no longer invite: it can be accepted again, with the link it had.
// Where its mail was dropped meanwhile, it is mailed again. Taking over what one
// has is a success.
func (r *Roster) TakeOverInvitation(ctx context.Context, app, actor, id uuid.UUID, key IdempotencyKey) (Invitation, error) {
	return r.steer(ctx, app, actor, id, key, func(tx pgx.Tx, now time.Time) (Invitation, error) {
		// The mail's own hold, if there was one, is back.
		inv, ok, err := change(ctx, tx, app, id, `
			SET inviter_id = $3, held_for = '',
				state = CASE WHEN (SELECT m.state FROM message m WHERE m.id = invitation.message_id) IN ('bounced', 'complained', 'suppressed') THEN 'on_hold' ELSE 'pending' END
			WHERE app_id = $1 AND id = $2 AND `+isOpen+` AND expires_at > $4 AND held_for = $5`,
			app, id, actor, now, heldForInviter)
		if err != nil {
			return inv, err
		}
		if !ok {
			switch {
			case !inv.State.Open():
				return inv, inv.stands()
			case !inv.ExpiresAt.After(now):
				return inv, inv.late()
			case inv.InviterID == actor:
				return inv, nil
			}
			return inv, errorf(Conflict, "inviter_present", "Whoever invited still looks after this invitation.")
		}
		if _, err := record(ctx, tx, inv, EventTakenOver, actor, now); err != nil {
			return inv, err
		}
		if inv.Delivery != MailCancelled {
			return inv, nil
		}
		inv, _, err = change(ctx, tx, app, id, `SET sends = sends + 1, message_id = $3, queued_at = $4 WHERE app_id = $1 AND id = $2`, app, id, newID(), now)
		if err != nil {
			return inv, err
		}
		return inv, r.mailInvitation(ctx, tx, &inv, now)
	})
}
