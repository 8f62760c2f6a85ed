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

// The kinds of Account.
const (
	Professional = "professional"
	Client       = "client"
)

const statusActive = "active"

// Account is a person in an app.
type Account struct {
	ID        uuid.UUID
	AppID     uuid.UUID
	Kind      string
	Status    string
	FullName  string
	Email     string // as typed
	Locale    string // empty: the app's
	TimeZone  string // empty: the company's, then the app's
	CreatedAt time.Time
}

const accountColumns = `account.id, account.app_id, account.kind, account.status, account.full_name, account.email, account.locale, account.time_zone, account.created_at`

// isLive is the condition of accounts that own their address.
const isLive = `account.status NOT IN ('merged', 'archived')`

// NewAccount describes an account that an app makes for a person it knows.
type NewAccount struct {
	Kind, FullName, Email, Locale, TimeZone string
}

// CreateAccount adds an active account. The person has no password with Usher
// yet; an address that has an account already is refused.
func (r *Roster) CreateAccount(ctx context.Context, app uuid.UUID, n NewAccount, key IdempotencyKey) (Account, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (account Account, err error) {
		if n.Kind != Professional && n.Kind != Client {
			return account, invalidField("kind", "kind_unknown", "The kind of an account is %q or %q.", Professional, Client)
		}
		address, err := ParseAddress(n.Email)
		if err != nil {
			return account, err
		}
		if n.FullName, err = cleanName("full_name", n.FullName); err != nil {
			return account, err
		}
		if n.Locale, err = cleanLocale(n.Locale); err != nil {
			return account, err
		}
		if n.TimeZone, err = cleanZone(n.TimeZone); err != nil {
			return account, err
		}
		account = Account{
			ID: newID(), AppID: app, Kind: n.Kind, Status: statusActive, FullName: n.FullName,
			Email: address.Typed, Locale: n.Locale, TimeZone: n.TimeZone, CreatedAt: r.now(),
		}
		tag, err := insertAccount(ctx, tx, account, address.Key, "")
		if err == nil && !tag {
			err = errorf(Conflict, "email_in_use", "There is an account with this e-mail address already.")
		}
		return account, err
	})
}

// insertAccount stores a new account unless its address has one, and puts the
// open invitations to the address into its inbox; ok tells whether it did.
func insertAccount(ctx context.Context, tx pgx.Tx, a Account, emailKey, passwordHash string) (ok bool, err error) {
	tag, err := tx.Exec(ctx, `
		INSERT INTO account (id, app_id, kind, status, full_name, email, email_key, locale, time_zone, password_hash, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
		ON CONFLICT (app_id, email_key) WHERE status NOT IN ('merged', 'archived') DO NOTHING`,
		a.ID, a.AppID, a.Kind, a.Status, a.FullName, a.Email, emailKey, a.Locale, a.TimeZone, passwordHash, a.CreatedAt)
	if err != nil {
		return false, fmt.Errorf("create account: %w", err)
	}
	if tag.RowsAffected() == 0 {
		return false, nil
	}
	if a.Status == statusActive {
		err = noteOpenInvitations(ctx, tx, a.AppID, a.ID, emailKey, a.CreatedAt)
	}
	return true, err
}

// Account is one account of an app.
func (r *Roster) Account(ctx context.Context, app, id uuid.UUID) (account Account, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT `+accountColumns+` FROM account WHERE app_id = $1 AND id = $2`, app, id)
		if err != nil {
			return err
		}
		account, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Account])
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return account, notFound("account")
	}
	if err != nil {
		return account, fmt.Errorf("read account %s: %w", id, err)
	}
	return account, nil
}
