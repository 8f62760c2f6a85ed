package roster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"usher/internal/postgres"
)

// maxUnheld bounds the invitations that go on when an address can be written to
// again: one for each workspace, so there are few.
const maxUnheld = 100

// LiftAddress is the job that has the provider take an address off its list of
// those it sends nothing to, and lets the invitations go on that waited for it.
type LiftAddress struct {
	MessageID uuid.UUID `json:"message_id"` // a mail to the address, which stands for it
}

// Kind is the job's name in River.
func (LiftAddress) Kind() string { return "lift_address" }

// InsertOpts say where the job waits.
func (LiftAddress) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: Interactive.Queue()}
}

// LiftSuppression notes somebody's word that the mailbox of a blocked address
// exists now, and has a job see to it that mail reaches it again. key is the
// address as compared. Saying so again meanwhile is a success. An address whose
// owner called our mail spam stays blocked.
func (r *Roster) LiftSuppression(ctx context.Context, app uuid.UUID, key string) error {
	now := r.now()
	return postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		var block string
		var since time.Time
		var liftedAt *time.Time
		err := tx.QueryRow(ctx, `
			SELECT block, blocked_at, lifted_at FROM address WHERE app_id = $1 AND email_key = $2 AND block <> '' FOR UPDATE`,
			app, key).Scan(&block, &since, &liftedAt)
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return errNotSuppressed
		case err != nil:
			return fmt.Errorf("read address to lift: %w", err)
		case block == blockComplaint:
			return errorf(Conflict, "no_mail_wanted", "This person called our mail spam. They get no more of it, and nobody can change that here.")
		case liftedAt != nil && !liftedAt.Before(since):
			return nil // the job is on its way
		case liftedAt != nil && liftedAt.Add(liftEvery).After(now):
			at := liftedAt.Add(liftEvery)
			refusal := errorf(TooSoon, "mailbox_asked_lately", "Within the last day somebody said that this mailbox works, and mail came back again.")
			refusal.RetryAt = &at
			return refusal
		}
		if _, err := tx.Exec(ctx, `UPDATE address SET lifted_at = $3 WHERE app_id = $1 AND email_key = $2`, app, key, now); err != nil {
			return fmt.Errorf("note that a mailbox exists: %w", err)
		}
		var message uuid.UUID
		err = tx.QueryRow(ctx, `
			SELECT id FROM message WHERE app_id = $1 AND email_key = $2 ORDER BY id DESC LIMIT 1`, app, key).Scan(&message)
		if errors.Is(err, pgx.ErrNoRows) {
			return r.unhold(ctx, tx, app, key, now) // the provider does not know it from us
		}
		if err != nil {
			return fmt.Errorf("read newest message to an address: %w", err)
		}
		return r.enqueue(ctx, tx, LiftAddress{MessageID: message})
	})
}

var errNotSuppressed = errorf(NotFound, "suppression_not_found", "Mail to this address is not blocked in this app.")

// BlockedAddress is the late check of a LiftAddress job: the address in the
// form mail is sent to, or why there is nothing to lift.
func (r *Roster) BlockedAddress(ctx context.Context, job LiftAddress) (email string, skip Skip, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		err := tx.QueryRow(ctx, `
			SELECT COALESCE(NULLIF((SELECT recipient FROM message AS sent
				WHERE sent.app_id = address.app_id AND sent.email_key = address.email_key AND recipient <> '' ORDER BY id DESC LIMIT 1), ''), address.email_key)
			FROM message JOIN address ON address.app_id = message.app_id AND address.email_key = message.email_key
			WHERE message.id = $1 AND address.block IN ('hard', 'provider')`, job.MessageID).Scan(&email)
		if errors.Is(err, pgx.ErrNoRows) {
			skip = "the address is not blocked"
			return nil
		}
		return err
	})
	if err != nil {
		return "", "", fmt.Errorf("read address of message %s: %w", job.MessageID, err)
	}
	return email, skip, nil
}

// AddressUnblocked ends a LiftAddress job: the address can be written to again,
// and the invitations that waited for it are mailed.
func (r *Roster) AddressUnblocked(ctx context.Context, job LiftAddress) error {
	return postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		var app uuid.UUID
		var key string
		if err := tx.QueryRow(ctx, `SELECT app_id, email_key FROM message WHERE id = $1`, job.MessageID).Scan(&app, &key); err != nil {
			return fmt.Errorf("read address of message %s: %w", job.MessageID, err)
		}
		return r.unhold(ctx, tx, app, key, r.now())
	})
}

// unhold lifts an address's block and mails the invitations and access requests
// that it held.
func (r *Roster) unhold(ctx context.Context, tx pgx.Tx, app uuid.UUID, key string, now time.Time) error {
	if _, err := tx.Exec(ctx, `
		UPDATE address SET block = '', detail = '', blocked_at = NULL, lifted_at = $3
		WHERE app_id = $1 AND email_key = $2 AND block IN ('hard', 'provider')`, app, key, now); err != nil {
		return fmt.Errorf("lift block: %w", err)
	}
	rows, err := tx.Query(ctx, `
		SELECT id FROM invitation WHERE email_key = $2 AND app_id IS NOT DISTINCT FROM $1 AND state = 'on_hold' AND held_for = '' AND expires_at > $3 -- not "=": only invitation_person shall serve this
		ORDER BY id LIMIT $4 FOR UPDATE`, app, key, now, maxUnheld)
	if err != nil {
		return fmt.Errorf("find invitations on hold: %w", err)
	}
	held, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return fmt.Errorf("find invitations on hold: %w", err)
	}
	for _, id := range held {
		inv, err := collectInvitation(tx.Query(ctx, `
			UPDATE invitation SET state = 'pending', sends = sends + 1, message_id = $2, queued_at = $3
			WHERE id = $1 RETURNING `+invitationColumns, id, newID(), now))
		if err != nil {
			return fmt.Errorf("mail invitation %s again: %w", id, err)
		}
		if _, err := record(ctx, tx, inv, EventResent, uuid.Nil, now); err != nil {
			return err
		}
		if err := r.mailInvitation(ctx, tx, &inv, now); err != nil {
			return err
		}
	}
	return r.unholdRequests(ctx, tx, app, key, now)
}
