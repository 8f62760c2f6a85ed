package roster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"usher/internal/postgres"
)

// liftEvery is the rest between two words that a mailbox exists now. If it did
// not, the next mail bounces, and the provider counts that against the sender.
const liftEvery = 24 * time.Hour

// ReasonOf is the MailNote's reason of mail that was not sent at all because
// its address has a block.
func ReasonOf(block string) string {
	if block == blockComplaint {
		return "complained_before"
	}
	return "suppressed"
}

// MailNote is what the newest mail of an invitation came to, in the words of
// who sent it.
type MailNote struct {
	Reason string     // a code, and perhaps ": " with a mail server's words
	FactAt *time.Time // when it happened; nil: before the mail was sent
	Retry  int        // how often the mail was written again because the mailbox was full
}

// RetryMail is the job that writes the mail of an invitation or an access
// request again by itself, after one that came back for now.
type RetryMail struct {
	MessageID uuid.UUID `json:"message_id"` // the one that came back
	Retry     int       `json:"retry"`      // how often this was done, with this time
}

// Kind is the job's name in River.
func (RetryMail) Kind() string { return "retry_mail" }

// InsertOpts say where the job waits. However often a mail is said to have come
// back, it is written again once.
func (RetryMail) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: Bulk.Queue(), UniqueOpts: river.UniqueOpts{ByArgs: true}}
}

// LiftSuppression is the job that has the provider take an address off its list
// of those it sends nothing to, and mails the invitation then.
type LiftSuppression struct {
	InvitationID uuid.UUID `json:"invitation_id"`
	Version      int       `json:"version"`
	Send         int       `json:"send"` // the mails asked for so far
	ActorID      uuid.UUID `json:"actor_id"`
}

// Kind is the job's name in River.
func (LiftSuppression) Kind() string { return "lift_suppression" }

// InsertOpts say where the job waits.
func (LiftSuppression) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: Interactive.Queue()}
}

// Hold puts what a mail asked a decision about on hold, since the mail does not
// get through.
func (r *Roster) Hold(ctx context.Context, m Mail, reason string) (held bool, err error) {
	if m.Kind == MailRequest {
		return r.holdRequest(ctx, m, reason)
	}
	return r.HoldInvitation(ctx, m, reason)
}

// HoldInvitation puts a pending invitation on hold because its newest mail, m,
// does not get through, and tells the inviter. Mail to an earlier address, or
// one after which another was asked for (ids grow with time), holds nothing,
// and neither does what became of a mail change a decision.
func (r *Roster) HoldInvitation(ctx context.Context, m Mail, reason string) (held bool, err error) {
	now := r.now()
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		inv, err := collectInvitation(tx.Query(ctx, `
			UPDATE invitation SET state = 'on_hold'
			WHERE app_id = $1 AND id = $2 AND message_id <= $3 AND email_key = $4 AND state = 'pending' AND expires_at > $5
			RETURNING `+invitationColumns, m.AppID, m.SubjectID, m.ID, m.EmailKey, now))
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("hold invitation %s: %w", m.SubjectID, err)
		}
		held = true
		return r.tellHeld(ctx, tx, inv, reason, now)
	})
	return held, err
}

// tellHeld records that an invitation is on hold, and lets its inviter know.
func (r *Roster) tellHeld(ctx context.Context, tx pgx.Tx, inv Invitation, reason string, now time.Time) error {
	event, err := recordData(ctx, tx, inv, EventHeld, uuid.Nil, heldData(inv, reason), now)
	if err != nil {
		return err
	}
	return r.ask(ctx, tx, now, newsMail(inv.AppID, inv.InviterID, []uuid.UUID{event}))
}

// heldData is the data of EventHeld: of the address that was perhaps meant, the
// domain only, which is nobody's own.
func heldData(inv Invitation, reason string) json.RawMessage {
	data := struct {
		Version     int       `json:"version"`
		WorkspaceID uuid.UUID `json:"workspace_id"`
		Reason      string    `json:"reason"`
		Suggestion  string    `json:"suggested_domain,omitempty"`
	}{inv.Version, inv.WorkspaceID, reason, ""}
	if meant := SuggestAddress(inv.Email); meant != "" {
		_, data.Suggestion, _ = strings.Cut(meant, "@")
	}
	encoded, err := json.Marshal(data)
	if err != nil {
		panic(err) // plain data: it always marshals
	}
	return encoded
}

// MailAgain is the operation of a RetryMail job: a new mail with the same link,
// if the one that came back is still the newest of a pending invitation or access
// request. It is none of the inviter's own resends.
func (r *Roster) MailAgain(ctx context.Context, job RetryMail) (mailed bool, err error) {
	now := r.now()
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		inv, err := collectInvitation(tx.Query(ctx, `
			UPDATE invitation SET message_id = $2, queued_at = $3
			WHERE id = (SELECT subject_id FROM message WHERE id = $1) AND message_id = $1 AND state = 'pending' AND expires_at > $3
			RETURNING `+invitationColumns, job.MessageID, newID(), now))
		if errors.Is(err, pgx.ErrNoRows) {
			mailed, err = r.mailRequestAgain(ctx, tx, job, now)
			return err
		}
		if err != nil {
			return fmt.Errorf("mail again after message %s: %w", job.MessageID, err)
		}
		mailed = true
		if _, err := record(ctx, tx, inv, EventResent, uuid.Nil, now); err != nil {
			return err
		}
		m := inv.mail()
		m.Purpose, m.Args.Retry = purposeInstead(job.MessageID), job.Retry
		return r.ask(ctx, tx, now, m)
	})
	return mailed, err
}

// ResendToBlocked is ResendInvitation with the actor's word that the mailbox
// exists now. If mail to the address came back, the provider has to take it off
// its list first: the invitation stays as it is until a job has seen to that.
func (r *Roster) ResendToBlocked(ctx context.Context, app, actor, id uuid.UUID, key IdempotencyKey) (Invitation, error) {
	return r.steer(ctx, app, actor, id, key, func(tx pgx.Tx, now time.Time) (Invitation, error) {
		lifted, err := tx.Exec(ctx, `
			UPDATE address SET lifted_at = $3
			WHERE app_id = $1 AND email_key = (SELECT email_key FROM invitation WHERE app_id = $1 AND id = $2)
				AND block IN ('hard', 'provider') AND (lifted_at IS NULL OR lifted_at <= $4)`, app, id, now, now.Add(-liftEvery))
		if err != nil {
			return Invitation{}, fmt.Errorf("note that the mailbox of invitation %s exists: %w", id, err)
		}
		if lifted.RowsAffected() == 0 { // it is not blocked, or is so for good or for another while
			return r.resend(ctx, tx, app, actor, id, now)
		}
		p, err := policyOf(ctx, tx, app)
		if err != nil {
			return Invitation{}, err
		}
		inv, ok, err := change(ctx, tx, app, id, `
			SET queued_at = $3 WHERE app_id = $1 AND id = $2 AND `+isOpen+` AND held_for = '' AND expires_at > $3 AND sends <= $4`, app, id, now, p.MaxResends)
		if err != nil {
			return inv, err
		}
		if !ok {
			return inv, r.notResendable(ctx, tx, inv, p, now)
		}
		if _, err := record(ctx, tx, inv, EventMailboxExists, actor, now); err != nil {
			return inv, err
		}
		return inv, r.enqueue(ctx, tx, LiftSuppression{InvitationID: inv.ID, Version: inv.Version, Send: inv.Sends, ActorID: actor})
	})
}

// blocked says why the invitation's address is not mailed, nil if it is.
func blocked(ctx context.Context, tx pgx.Tx, inv Invitation, now time.Time) error {
	var block string
	var liftedAt *time.Time
	err := tx.QueryRow(ctx, `
		SELECT block, lifted_at FROM address WHERE app_id = $1 AND email_key = $2`, inv.AppID, inv.EmailKey).Scan(&block, &liftedAt)
	if errors.Is(err, pgx.ErrNoRows) || err == nil && block == "" {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read address of invitation %s: %w", inv.ID, err)
	}
	refusal := errorf(Conflict, "address_blocked", "Mail to this address came back. Correct the address, or copy the link and give it on another way; if the mailbox works now, say so with mailbox_exists.")
	switch {
	case block == blockComplaint:
		refusal = errorf(Conflict, "no_mail_wanted", "This person does not receive mail from us. Copy the link and give it on another way.")
	case liftedAt != nil && liftedAt.Add(liftEvery).After(now):
		at := liftedAt.Add(liftEvery)
		refusal = errorf(TooSoon, "mailbox_asked_lately", "Within the last day somebody said that this mailbox works. Correct the address, or copy the link and give it on another way.")
		refusal.RetryAt = &at
	}
	refusal.State = inv.State
	return refusal
}

// AddressToLift is the late check of a LiftSuppression job: the address in the
// form mail is sent to, or why there is nothing to lift.
func (r *Roster) AddressToLift(ctx context.Context, job LiftSuppression) (email string, skip Skip, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		inv, err := collectInvitation(tx.Query(ctx, `SELECT `+invitationColumns+` FROM invitation WHERE id = $1`, job.InvitationID))
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			skip = "the invitation is gone"
			return nil
		case err != nil:
			return fmt.Errorf("read invitation %s: %w", job.InvitationID, err)
		case !inv.State.Open():
			skip = Skip("the invitation is " + string(inv.State))
			return nil
		case inv.Version != job.Version:
			skip = "its address or link was replaced"
			return nil
		case inv.Sends != job.Send:
			skip = "a newer mail was asked for"
			return nil
		}
		address, err := ParseAddress(inv.Email)
		if err != nil {
			return fmt.Errorf("read address of invitation %s: %w", inv.ID, err)
		}
		email = address.Mailbox()
		return nil
	})
	return email, skip, err
}

// AddressLifted ends a LiftSuppression job: the address can be written to
// again, and the invitation is mailed to it.
func (r *Roster) AddressLifted(ctx context.Context, job LiftSuppression) error {
	now := r.now()
	return postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `
			UPDATE address SET block = '', detail = '', blocked_at = NULL, lifted_at = $2
			FROM invitation
			WHERE invitation.id = $1 AND invitation.version = $3 AND address.app_id = invitation.app_id AND address.email_key = invitation.email_key
				AND address.block IN ('hard', 'provider')`, job.InvitationID, now, job.Version); err != nil {
			return fmt.Errorf("lift block for invitation %s: %w", job.InvitationID, err)
		}
		inv, err := collectInvitation(tx.Query(ctx, `
			UPDATE invitation SET state = 'pending', sends = sends + 1, message_id = $3, queued_at = $4
			WHERE id = $1 AND version = $2 AND sends = $5 AND `+isOpen+` AND held_for = '' AND expires_at > $4
			RETURNING `+invitationColumns, job.InvitationID, job.Version, newID(), now, job.Send))
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("mail invitation %s again: %w", job.InvitationID, err)
		}
		if _, err := record(ctx, tx, inv, EventResent, job.ActorID, now); err != nil {
			return err
		}
		return r.mailInvitation(ctx, tx, &inv, now)
	})
}
