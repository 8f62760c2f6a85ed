package roster

import (
	"context"
	"fmt"
	"slices"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

const (
	// maxHistory bounds the invitations and the events shown of one address.
	maxHistory = 1_000

	// nearby is how many known addresses before and after one are looked at for
	// the one that was meant.
	nearby = 200
)

// History is what happened to a person by their address, in one app.
type History struct {
	Account     *Account         // nil: nobody has an account with it
	Invitations []InvitationView // oldest first
	Requests    []RequestView    // for access to accounts with the address, oldest first
	Merges      []Merge          // that those requests allowed, oldest first
	Events      []Event          // of them and of their mails, oldest first
}

// History reads what happened to the person with an address. mailed are the
// subjects of mail to it, which may be invitations that have another address by
// now, and messages that mail.
func (r *Roster) History(ctx context.Context, app uuid.UUID, key string, mailed, messages []uuid.UUID) (h History, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT `+accountColumns+` FROM account WHERE app_id = $1 AND email_key = $2 AND status NOT IN ('merged', 'archived')`, app, key)
		if err != nil {
			return fmt.Errorf("read account: %w", err)
		}
		accounts, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByPos[Account])
		if err != nil {
			return fmt.Errorf("read account: %w", err)
		}
		if len(accounts) > 0 {
			h.Account = accounts[0]
		}
		if rows, err = tx.Query(ctx, `
			SELECT id FROM invitation WHERE app_id = $1 AND id = ANY(ARRAY(
				(SELECT id FROM invitation WHERE email_key = $2 AND app_id = $1 ORDER BY id DESC LIMIT $4) UNION SELECT unnest($3::uuid[])))
			ORDER BY id`, app, key, mailed, maxHistory); err != nil {
			return fmt.Errorf("find invitations: %w", err)
		}
		ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		if err != nil {
			return fmt.Errorf("find invitations: %w", err)
		}
		views, err := viewInvitations(ctx, tx, ids, "")
		if err != nil {
			return err
		}
		for _, id := range ids {
			h.Invitations = append(h.Invitations, views[id])
		}
		if rows, err = tx.Query(ctx, `
			SELECT id FROM access_request WHERE app_id = $1 AND id = ANY(ARRAY(
				(SELECT id FROM access_request WHERE email_key = $2 AND app_id = $1 ORDER BY id DESC LIMIT $4) UNION SELECT unnest($3::uuid[])))
			ORDER BY id`, app, key, mailed, maxHistory); err != nil {
			return fmt.Errorf("find access requests: %w", err)
		}
		requests, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		if err != nil {
			return fmt.Errorf("find access requests: %w", err)
		}
		asked, err := viewRequests(ctx, tx, requests, "")
		if err != nil {
			return err
		}
		for _, id := range requests {
			h.Requests = append(h.Requests, asked[id])
		}
		ids = append(ids, requests...)
		if rows, err = tx.Query(ctx, `SELECT `+mergeColumns+` FROM merge WHERE request_id = ANY ($1) ORDER BY id`, requests); err != nil {
			return fmt.Errorf("find merges: %w", err)
		}
		if h.Merges, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Merge]); err != nil {
			return fmt.Errorf("find merges: %w", err)
		}
		for _, m := range h.Merges {
			ids = append(ids, m.ID)
		}
		if rows, err = tx.Query(ctx, `
			SELECT id, app_id, type, subject_id, actor_id, data, at FROM event
			WHERE app_id = $1 AND subject_id = ANY($2) ORDER BY id DESC LIMIT $3`, app, append(ids, messages...), maxHistory); err != nil {
			return fmt.Errorf("read events: %w", err)
		}
		h.Events, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Event])
		slices.Reverse(h.Events)
		return err
	})
	if err != nil {
		return h, fmt.Errorf("read history: %w", err)
	}
	return h, nil
}

// NearAddresses are addresses that were invited in an app, or in any for
// uuid.Nil, and are next to key in the order of their letters, which slips of
// the keyboard after the first letters mostly are.
func (r *Roster) NearAddresses(ctx context.Context, app uuid.UUID, key string) (keys []string, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			SELECT DISTINCT email_key FROM (
				(SELECT email_key, app_id FROM invitation WHERE email_key < $2 ORDER BY email_key DESC LIMIT $3)
				UNION ALL
				(SELECT email_key, app_id FROM invitation WHERE email_key > $2 ORDER BY email_key LIMIT $3)) AS near
			WHERE $1 IN (app_id, '00000000-0000-0000-0000-000000000000'::uuid)`, app, key, nearby)
		if err != nil {
			return err
		}
		keys, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("find addresses: %w", err)
	}
	return keys, nil
}
