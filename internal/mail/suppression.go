package mail

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

// Suppression is an address that an app's mail is not sent to.
type Suppression struct {
	EmailKey string // as compared
	Block    Block
	Detail   string // what the mail server said; may be empty
	Since    time.Time
	LiftedAt *time.Time // when somebody last said that the mailbox exists
}

// Lifting tells whether the provider was asked to take the address off its list
// and has not done so yet.
func (s Suppression) Lifting() bool { return s.LiftedAt != nil && !s.LiftedAt.Before(s.Since) }

const suppressionColumns = `email_key, block, detail, blocked_at, lifted_at`

// Suppressions lists an app's blocked addresses in the order of their letters,
// from the one after the address after on.
func (o *Outbox) Suppressions(ctx context.Context, app uuid.UUID, after string, limit int) (list []Suppression, err error) {
	err = postgres.InTx(ctx, o.DB, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			SELECT `+suppressionColumns+` FROM address
			WHERE app_id = $1 AND block <> '' AND email_key > $2 ORDER BY email_key LIMIT $3`, app, after, limit)
		if err != nil {
			return err
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Suppression])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list suppressions: %w", err)
	}
	return list, nil
}

// Suppression is the block of one address; ok is false where it has none.
func (o *Outbox) Suppression(ctx context.Context, app uuid.UUID, emailKey string) (s Suppression, ok bool, err error) {
	err = postgres.InTx(ctx, o.DB, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			SELECT `+suppressionColumns+` FROM address WHERE app_id = $1 AND email_key = $2 AND block <> ''`, app, emailKey)
		if err != nil {
			return err
		}
		s, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Suppression])
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return s, false, nil
	}
	if err != nil {
		return s, false, fmt.Errorf("read suppression: %w", err)
	}
	return s, true, nil
}
