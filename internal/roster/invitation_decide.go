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

// change runs one conditional UPDATE of an invitation. The clause is what
// follows "UPDATE invitation", without RETURNING. ok is false where no row
// met the conditions; inv then is the invitation as it stands.
func change(ctx context.Context, tx pgx.Tx, app, id uuid.UUID, clause string, args ...any) (inv Invitation, ok bool, err error) {
	inv, err = collectInvitation(tx.Query(ctx, `UPDATE invitation `+clause+` RETURNING `+invitationColumns, args...))
	if err == nil {
		return inv, true, nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return inv, false, fmt.Errorf("change invitation %s: %w", id, err)
	}
	inv, err = readInvitation(ctx, tx, app, id)
	return inv, false, err
}

// steer runs an operation of an actor on an invitation: checks the actor's
// right, and remembers the answer under the key.
func (r *Roster) steer(ctx context.Context, app, actor, id uuid.UUID, key IdempotencyKey, op func(tx pgx.Tx, now time.Time) (Invitation, error)) (Invitation, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (Invitation, error) {
		inv, err := readInvitation(ctx, tx, app, id)
		if err != nil {
			return inv, err
		}
		if err := mayManage(ctx, tx, app, actor, inv.WorkspaceID); err != nil {
			return inv, err
		}
		return op(tx, r.now())
	})
}

// ResendInvitation mails an open invitation again, with the same link: one
// whose mail did not get through as well, unless its address is blocked.
func (r *Roster) ResendInvitation(ctx context.Context, app, actor, id uuid.UUID, key IdempotencyKey) (Invitation, error) {
	return r.steer(ctx, app, actor, id, key, func(tx pgx.Tx, now time.Time) (Invitation, error) {
		return r.resend(ctx, tx, app, actor, id, now)
	})
}

func (r *Roster) resend(ctx context.Context, tx pgx.Tx, app, actor, id uuid.UUID, now time.Time) (Invitation, error) {
	p, err := policyOf(ctx, tx, app)
	if err != nil {
		return Invitation{}, err
	}
	mailed, err := r.resendAll(ctx, tx, now, []resending{{app, id, actor, p}})
	if err != nil {
		return Invitation{}, err
	}
	if inv, ok := mailed[id]; ok {
		return inv, nil
	}
	inv, err := readInvitation(ctx, tx, app, id)
	if err != nil {
		return inv, err
	}
	return inv, r.notResendable(ctx, tx, inv, p, now)
}

// resending is an invitation that somebody wants mailed again.
type resending struct {
	app, id, actor uuid.UUID
	policy         Policy
}

// resendAll mails those of the invitations again that may be, with the same
// link, and answers them by their ids.
func (r *Roster) resendAll(ctx context.Context, tx pgx.Tx, now time.Time, wanted []resending) (map[uuid.UUID]Invitation, error) {
	n := len(wanted)
	ids, apps, messages := make([]uuid.UUID, n), make([]uuid.UUID, n), make([]uuid.UUID, n)
	most, before := make([]int, n), make([]time.Time, n)
	actors := map[uuid.UUID]uuid.UUID{}
	for i, w := range wanted {
		ids[i], apps[i], messages[i], most[i], before[i] = w.id, w.app, newID(), w.policy.MaxResends, now.Add(-w.policy.Rest())
		actors[w.id] = w.actor
	}
	rows, err := tx.Query(ctx, `
		UPDATE invitation SET state = 'pending', sends = sends + 1, message_id = q.message_id, queued_at = $1
		FROM unnest($2::uuid[], $3::uuid[], $4::uuid[], $5::int[], $6::timestamptz[]) AS q (id, app_id, message_id, most, before)
		WHERE invitation.id = q.id AND invitation.app_id = q.app_id AND `+isOpen+` AND held_for = '' AND expires_at > $1
			AND sends <= q.most AND (queued_at IS NULL OR queued_at <= q.before)
			AND NOT EXISTS (SELECT FROM address WHERE address.app_id = invitation.app_id AND address.email_key = invitation.email_key AND address.block <> '')
		RETURNING `+invitationColumns, now, ids, apps, messages, most, before)
	if err != nil {
		return nil, fmt.Errorf("resend %d invitations: %w", n, err)
	}
	resent, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Invitation])
	if err != nil {
		return nil, fmt.Errorf("resend %d invitations: %w", n, err)
	}
	mailed := map[uuid.UUID]Invitation{}
	events, mails := make([]newEvent, len(resent)), make([]Mail, len(resent))
	for i, inv := range resent {
		inv.Delivery = MailQueued
		events[i] = newEvent{inv.AppID, EventResent, inv.ID, actors[inv.ID], eventData(inv)}
		mails[i], mailed[inv.ID] = inv.mail(), inv
	}
	if _, err := recordEvents(ctx, tx, now, events...); err != nil {
		return nil, err
	}
	return mailed, r.ask(ctx, tx, now, mails...)
}

// notResendable says which condition of resendAll failed.
func (r *Roster) notResendable(ctx context.Context, tx pgx.Tx, inv Invitation, p Policy, now time.Time) error {
	switch {
	case !inv.State.Open():
		return inv.stands()
	case !inv.ExpiresAt.After(now):
		return inv.late()
	case inv.HeldFor != "":
		return inv.errHeldForInviter()
	case inv.Sends > p.MaxResends:
		return errorf(Conflict, "resend_limit", "This invitation was mailed %d times, which is the most. Copy the link and give it on another way.", inv.Sends)
	}
	if err := blocked(ctx, tx, inv, now); err != nil {
		return err
	}
	err := errorf(TooSoon, "resend_too_soon", "This invitation was mailed less than %s ago.", minutes(p.ResendMinutes))
	if inv.QueuedAt != nil {
		at := inv.QueuedAt.Add(p.Rest())
		err.RetryAt = &at
	}
	return err
}

// minutes is a length of time as people say it.
func minutes(n int) string {
	switch {
	case n == 60:
		return "an hour"
	case n%(24*60) == 0 && n > 24*60:
		return fmt.Sprintf("%d days", n/(24*60))
	case n%60 == 0:
		return fmt.Sprintf("%d hours", n/60)
	}
	return fmt.Sprintf("%d minutes", n)
}

// CopyInvitationLink notes that the actor took the link of an open invitation,
// which stays as it is. The caller computes the link from the answer.
func (r *Roster) CopyInvitationLink(ctx context.Context, app, actor, id uuid.UUID, key IdempotencyKey) (Invitation, error) {
	return r.steer(ctx, app, actor, id, key, func(tx pgx.Tx, now time.Time) (Invitation, error) {
		inv, err := readInvitation(ctx, tx, app, id)
		if err != nil {
			return inv, err
		}
		if !inv.State.Open() {
			return inv, inv.stands()
		}
		if !inv.ExpiresAt.After(now) {
			return inv, inv.late()
		}
		if inv.HeldFor != "" {
			return inv, inv.errHeldForInviter()
		}
		_, err = record(ctx, tx, inv, EventLinkCopied, actor, now)
		return inv, err
	})
}

// CorrectInvitationAddress gives an open invitation another address. Links sent
// to the old one die, mail not yet sent to it is dropped, a hold is cleared,
// and a new mail goes out at once.
func (r *Roster) CorrectInvitationAddress(ctx context.Context, app, actor, id uuid.UUID, email string, key IdempotencyKey) (Invitation, error) {
	return r.steer(ctx, app, actor, id, key, func(tx pgx.Tx, now time.Time) (Invitation, error) {
		address, err := ParseAddress(email)
		if err != nil {
			return Invitation{}, err
		}
		inv, ok, err := change(ctx, tx, app, id, `
			SET email = $3, email_key = $4, state = 'pending', version = version + 1,
				sends = 1, message_id = $7, queued_at = $5
			WHERE app_id = $1 AND id = $2 AND `+isOpen+` AND held_for = '' AND expires_at > $5
				AND version < $6 AND email_key <> $4
				AND NOT EXISTS (SELECT FROM account a JOIN membership m ON m.account_id = a.id
					WHERE a.app_id = $1 AND a.email_key = $4 AND a.status NOT IN ('merged', 'archived')
					AND m.workspace_id = invitation.workspace_id AND m.state = 'active')
				AND (kind <> 'external_professional' OR NOT EXISTS (SELECT FROM account a
					WHERE a.app_id = $1 AND a.email_key = $4 AND a.status NOT IN ('merged', 'archived') AND (a.kind = 'client'
					OR EXISTS (SELECT FROM company_member c JOIN workspace w ON w.company_id = c.company_id
						WHERE c.account_id = a.id AND w.id = invitation.workspace_id))))`,
			app, id, address.Typed, address.Key, now, maxVersion, newID())
		if postgres.Violates(err, "invitation_open") {
			return inv, errorf(Conflict, "already_invited", "There is an open invitation to this address for the same workspace already.")
		}
		if err != nil {
			return inv, err
		}
		if !ok {
			return inv, notCorrectable(ctx, tx, inv, address, now)
		}
		if _, err := record(ctx, tx, inv, EventAddressCorrected, actor, now); err != nil {
			return inv, err
		}
		if err := noteInvitation(ctx, tx, inv, now); err != nil {
			return inv, err
		}
		return inv, r.mailInvitation(ctx, tx, &inv, now)
	})
}

// notCorrectable says which condition of CorrectInvitationAddress failed.
func notCorrectable(ctx context.Context, tx pgx.Tx, inv Invitation, address Address, now time.Time) error {
	switch {
	case !inv.State.Open():
		return inv.stands()
	case !inv.ExpiresAt.After(now):
		return inv.late()
	case inv.HeldFor != "":
		return inv.errHeldForInviter()
	case inv.EmailKey == address.Key:
		return invalidField("email", "email_unchanged", "The invitation has this address already. To mail it again, resend it.")
	case inv.Version >= maxVersion:
		return errorf(Conflict, "correction_limit", "This invitation was changed %d times, which is the most. Revoke it and create a new one.", inv.Version-1)
	}
	var member bool
	var unfit string
	if err := tx.QueryRow(ctx, `
		SELECT f.member_id IS NOT NULL, COALESCE(f.unfit, '')
		FROM (SELECT $1::uuid AS app_id, $2::uuid AS workspace_id, $3::uuid AS inviter_id, $4::text AS email_key, $5::text AS kind) AS q`+factsOfQ,
		inv.AppID, inv.WorkspaceID, inv.InviterID, address.Key, inv.Kind).Scan(&member, &unfit); err != nil {
		return fmt.Errorf("read facts of invitation %s: %w", inv.ID, err)
	}
	if unfit != "" && !member {
		return errUnfit[unfit]
	}
	return errorf(Conflict, "already_member", "The person with this address is in the workspace already.")
}

// RevokeInvitation withdraws an open invitation; its links die.
func (r *Roster) RevokeInvitation(ctx context.Context, app, actor, id uuid.UUID, key IdempotencyKey) (Invitation, error) {
	return r.steer(ctx, app, actor, id, key, func(tx pgx.Tx, now time.Time) (Invitation, error) {
		inv, ok, err := change(ctx, tx, app, id, `
			SET state = 'revoked', version = version + 1, decided_at = $3
			WHERE app_id = $1 AND id = $2 AND `+isOpen, app, id, now)
		if err != nil || !ok {
			return inv, settled(inv, err, Revoked)
		}
		_, err = record(ctx, tx, inv, EventRevoked, actor, now)
		return inv, err
	})
}

// settled is the answer to a decision that found nothing to change: success
// where the same was decided before, otherwise what stands.
func settled(inv Invitation, err error, wanted State) error {
	if err != nil {
		return err
	}
	if inv.State == wanted {
		return nil
	}
	return inv.stands()
}

// ReopenInvitation gives an expired invitation a new life: a new link, a new
// expiry, a new mail. One that was held for its inviter is the actor's then.
func (r *Roster) ReopenInvitation(ctx context.Context, app, actor, id uuid.UUID, key IdempotencyKey) (Invitation, error) {
	return r.steer(ctx, app, actor, id, key, func(tx pgx.Tx, now time.Time) (Invitation, error) {
		p, err := policyOf(ctx, tx, app)
		if err != nil {
			return Invitation{}, err
		}
		inv, ok, err := change(ctx, tx, app, id, `
			SET state = 'pending', version = version + 1, reopens = reopens + 1, decided_at = NULL,
				expires_at = $4, sends = 1, message_id = $7, queued_at = $3,
				inviter_id = CASE held_for WHEN '' THEN inviter_id ELSE $8 END, held_for = ''
			WHERE app_id = $1 AND id = $2 AND state = 'expired' AND email <> '' AND reopens < $5 AND version < $6
				AND EXISTS (SELECT FROM workspace w WHERE w.id = invitation.workspace_id AND w.state = 'active' FOR KEY SHARE)
				AND NOT EXISTS (SELECT FROM account a JOIN membership m ON m.account_id = a.id
					WHERE a.app_id = $1 AND a.email_key = invitation.email_key AND a.status NOT IN ('merged', 'archived')
					AND m.workspace_id = invitation.workspace_id AND m.state = 'active')`,
			app, id, now, now.Add(p.Life()), p.MaxReopens, maxVersion, newID(), actor)
		if postgres.Violates(err, "invitation_open") {
			return inv, errorf(Conflict, "already_invited", "There is a newer open invitation to this address for the same workspace.")
		}
		if err != nil {
			return inv, err
		}
		if !ok {
			switch {
			case inv.State == Expired && (inv.Reopens >= p.MaxReopens || inv.Version >= maxVersion):
				return inv, errorf(Conflict, "reopen_limit", "This invitation was reopened %d times, which is the most. Create a new one.", inv.Reopens)
			case inv.State == Expired:
				return inv, errorf(Conflict, "nothing_to_join", "The workspace is archived, or the person is in it already.")
			}
			err := inv.stands()
			err.Kind = Conflict
			return inv, err
		}
		if _, err := record(ctx, tx, inv, EventReopened, actor, now); err != nil {
			return inv, err
		}
		if err := noteInvitation(ctx, tx, inv, now); err != nil {
			return inv, err
		}
		return inv, r.mailInvitation(ctx, tx, &inv, now)
	})
}

// ExpireInvitations ends at most limit open invitations whose time is over and
// tells each inviter in one mail. It answers how many it ended: limit means
// there may be more. Two sweeps at once share the work.
func (r *Roster) ExpireInvitations(ctx context.Context, limit int) (ended int, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		expired, err := r.expireDue(ctx, tx, r.now(), limit)
		ended = len(expired)
		return err
	})
	return ended, err
}

func (r *Roster) expireDue(ctx context.Context, tx pgx.Tx, now time.Time, limit int) ([]Invitation, error) {
	// An array is computed once; the SELECT behind an IN may run again for every
	// row, each time with another LIMIT rows.
	return r.expire(ctx, tx, now, `id = ANY(ARRAY(
			SELECT id FROM invitation WHERE `+isOpen+` AND expires_at <= $1
			ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED))`, limit)
}

// sweepInvitations is a chunk of the sweep that ends invitations.
func (r *Roster) sweepInvitations(ctx context.Context, tx pgx.Tx, now time.Time, _ int, s *Swept) (more bool, err error) {
	expired, err := r.expireDue(ctx, tx, now, sweepChunk)
	s.Scanned += len(expired)
	for _, inv := range expired {
		s.did(Deed{inv.AppID, inv.ID, inv.EmailKey, "expires", "its time was over at " + inv.ExpiresAt.UTC().Format(time.RFC3339)})
	}
	return len(expired) == sweepChunk, err
}

// expire ends the open invitations that meet the condition, in which $1 is now
// and $2 is arg, with their events and the word to their inviters.
func (r *Roster) expire(ctx context.Context, tx pgx.Tx, now time.Time, condition string, arg any) ([]Invitation, error) {
	rows, err := tx.Query(ctx, `
		UPDATE invitation SET state = 'expired', decided_at = $1
		WHERE `+condition+` AND `+isOpen+` AND expires_at <= $1
		RETURNING `+invitationColumns, now, arg)
	if err != nil {
		return nil, fmt.Errorf("expire invitations: %w", err)
	}
	expired, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Invitation])
	if err != nil {
		return nil, fmt.Errorf("expire invitations: %w", err)
	}
	return expired, r.recordExpired(ctx, tx, expired, now)
}

func (r *Roster) recordExpired(ctx context.Context, tx pgx.Tx, expired []Invitation, now time.Time) error {
	if len(expired) == 0 {
		return nil
	}
	events, err := recordAll(ctx, tx, expired, EventExpired, now)
	if err != nil {
		return err
	}
	type inviter struct{ app, id uuid.UUID }
	news := map[inviter][]uuid.UUID{}
	for i, inv := range expired {
		to := inviter{inv.AppID, inv.InviterID}
		news[to] = append(news[to], events[i])
	}
	mails := make([]Mail, 0, len(news))
	for to, events := range news {
		mails = append(mails, newsMail(to.app, to.id, events))
	}
	return r.ask(ctx, tx, now, mails...)
}
