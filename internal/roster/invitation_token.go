package roster

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// ofApp refuses a ticket to an invitation that is none of the app's, as one that
// leads nowhere.
func ofApp(ctx context.Context, tx pgx.Tx, app uuid.UUID, t Ticket) error {
	var is bool
	if err := tx.QueryRow(ctx, `SELECT EXISTS (SELECT FROM invitation WHERE app_id = $1 AND id = $2)`, app, t.ID).Scan(&is); err != nil {
		return fmt.Errorf("read invitation %s: %w", t.ID, err)
	}
	if !is {
		return ErrDeadLink
	}
	return nil
}

// OpenInvitation is ViewInvitation for the app's own page.
func (r *Roster) OpenInvitation(ctx context.Context, app uuid.UUID, t Ticket) (v InvitationView, err error) {
	if v, err = r.ViewInvitation(ctx, t); err == nil && v.AppID != app {
		return InvitationView{}, ErrDeadLink
	}
	return v, err
}

// AcceptFromApp is AcceptInvitation from the app's own page: the app vouches for
// the account in a, if there is one.
func (r *Roster) AcceptFromApp(ctx context.Context, app uuid.UUID, t Ticket, a Acceptance, key IdempotencyKey) (Invitation, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (inv Invitation, err error) {
		if err := ofApp(ctx, tx, app, t); err != nil {
			return inv, err
		}
		if a.AccountID != uuid.Nil {
			if err := living(ctx, tx, app, &a.AccountID); err != nil {
				return inv, err
			}
		}
		inv, _, err = r.accept(ctx, tx, t, a, r.now())
		return inv, err
	})
}

// SignUpFromApp is SignUp from the app's own page.
func (r *Roster) SignUpFromApp(ctx context.Context, app uuid.UUID, t Ticket, a Acceptance, key IdempotencyKey) (Account, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (account Account, err error) {
		if err := ofApp(ctx, tx, app, t); err != nil {
			return account, err
		}
		id, err := r.signUp(ctx, tx, t, a, r.now())
		if err != nil {
			return account, err
		}
		return readAccount(ctx, tx, app, id)
	})
}

// DeclineFromApp is DeclineInvitation from the app's own page.
func (r *Roster) DeclineFromApp(ctx context.Context, app uuid.UUID, t Ticket, key IdempotencyKey) (Invitation, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (inv Invitation, err error) {
		if err := ofApp(ctx, tx, app, t); err != nil {
			return inv, err
		}
		return r.decline(ctx, tx, t, uuid.Nil, r.now())
	})
}

// AskRenewalFromApp is AskRenewal from the app's own page.
func (r *Roster) AskRenewalFromApp(ctx context.Context, app uuid.UUID, t Ticket, key IdempotencyKey) error {
	_, err := once(ctx, r, app, key, func(tx pgx.Tx) (struct{}, error) {
		if err := ofApp(ctx, tx, app, t); err != nil {
			return struct{}{}, err
		}
		return struct{}{}, r.In(tx).AskRenewal(ctx, t)
	})
	return err
}
