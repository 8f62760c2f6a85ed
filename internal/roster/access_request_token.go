package roster

import (
	"context"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

// OpenRequest is ViewRequest for the app's own page. A request of another app
// takes no longer than one that does not exist.
func (r *Roster) OpenRequest(ctx context.Context, app uuid.UUID, t Ticket) (RequestView, error) {
	if err := postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error { return requestOfApp(ctx, tx, app, t) }); err != nil {
		return RequestView{}, err
	}
	return r.ViewRequest(ctx, t)
}

// ApproveRequestFromApp is ApproveRequest from the app's own page: the app vouches
// for the account, if there is one.
func (r *Roster) ApproveRequestFromApp(ctx context.Context, app uuid.UUID, t Ticket, account uuid.UUID, v Visibility, key IdempotencyKey) (AccessRequest, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (AccessRequest, error) {
		if err := requestOfApp(ctx, tx, app, t); err != nil {
			return AccessRequest{}, err
		}
		if account != uuid.Nil {
			if err := living(ctx, tx, app, &account); err != nil {
				return AccessRequest{}, err
			}
		}
		return r.approve(ctx, tx, app, t.ID, answerer{t.Version, account}, v)
	})
}

// DenyRequestFromApp is DenyRequest from the app's own page.
func (r *Roster) DenyRequestFromApp(ctx context.Context, app uuid.UUID, t Ticket, reported bool, key IdempotencyKey) (AccessRequest, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (AccessRequest, error) {
		if err := requestOfApp(ctx, tx, app, t); err != nil {
			return AccessRequest{}, err
		}
		return r.deny(ctx, tx, app, t.ID, answerer{version: t.Version}, reported)
	})
}

// requestOfApp sees that a ticket stands for a request of the app.
func requestOfApp(ctx context.Context, tx pgx.Tx, app uuid.UUID, t Ticket) error {
	if of, err := appOfRequest(ctx, tx, t); err != nil || of != app {
		if err != nil {
			return err
		}
		return ErrDeadLink
	}
	return nil
}
