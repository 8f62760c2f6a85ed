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

// Skip is why a job found nothing left to do. It is a good end: the subject
// moved on while the job waited.
type Skip string

// InvitationToSend is the late check of a SendInvitation job: the letter's
// facts as they are at this moment, or why nothing is to be sent. The
// invitation stays locked until the caller's transaction ends, so what is
// frozen there cannot be overtaken by a decision.
func (r *Roster) InvitationToSend(ctx context.Context, job SendInvitation) (v InvitationView, skip Skip, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		v, err = viewInvitation(ctx, tx, job.ID, "FOR UPDATE OF invitation")
		switch {
		case CodeOf(err) == errDeadLink.Code:
			skip = "the invitation is gone"
			return nil
		case err != nil:
			return err
		case v.State != Pending:
			skip = Skip("the invitation is " + string(v.State))
		case v.Version != job.Version:
			skip = "its address or link was replaced"
		case v.Sends != job.Send:
			skip = "a newer mail was asked for"
		case !v.ExpiresAt.After(r.now()):
			skip = "the invitation has expired"
		}
		return nil
	})
	return v, skip, err
}

// RecordDelivery notes what happened to the mail of a SendInvitation job. Only
// the invitation's newest mail shows on it; an older one's news is kept with
// the message alone.
func (r *Roster) RecordDelivery(ctx context.Context, job SendInvitation, d Delivery) error {
	return postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `
			UPDATE invitation SET delivery = $4
			WHERE id = $1 AND version = $2 AND sends = $3`, job.ID, job.Version, job.Send, d); err != nil {
			return fmt.Errorf("record delivery of invitation %s: %w", job.ID, err)
		}
		return nil
	})
}

// News is what an inviter is told about invitations.
type News struct {
	App     App
	Inviter Account
	Zone    *time.Location
	Lines   []NewsLine
}

// NewsLine is one event of one invitation.
type NewsLine struct {
	Type          string // EventAccepted, EventDeclined, EventExpired or EventRenewalAsked
	SubjectID     uuid.UUID
	PersonName    string
	Email         string
	WorkspaceName string
	At            time.Time
}

// NewsToTell is the late check of a TellInviter job: the news, or why there is
// nobody to tell.
func (r *Roster) NewsToTell(ctx context.Context, job TellInviter) (n News, skip Skip, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			SELECT `+appColumns+`, `+accountColumns+`
			FROM account JOIN app ON app.id = account.app_id
			WHERE account.app_id = $1 AND account.id = $2`, job.AppID, job.InviterID)
		if err != nil {
			return fmt.Errorf("read inviter %s: %w", job.InviterID, err)
		}
		found, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[struct {
			App
			Account
		}])
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			skip = "the inviter is gone"
			return nil
		case err != nil:
			return fmt.Errorf("read inviter %s: %w", job.InviterID, err)
		case found.Status != statusActive:
			skip = Skip("the inviter's account is " + found.Status)
			return nil
		}
		n.App, n.Inviter = found.App, found.Account
		n.Zone = zone(found.Account.TimeZone, found.App.TimeZone)
		rows, err = tx.Query(ctx, `
			SELECT event.type, event.subject_id, COALESCE(account.full_name, invitation.full_name), invitation.email, workspace.name, event.at
			FROM event
			JOIN invitation ON invitation.app_id = event.app_id AND invitation.id = event.subject_id
			JOIN workspace ON workspace.id = invitation.workspace_id
			LEFT JOIN account ON account.id = invitation.account_id
			WHERE event.app_id = $1 AND event.id = ANY($2) AND invitation.inviter_id = $3
			ORDER BY event.id`, job.AppID, job.EventIDs, job.InviterID)
		if err != nil {
			return fmt.Errorf("read news of inviter %s: %w", job.InviterID, err)
		}
		if n.Lines, err = pgx.CollectRows(rows, pgx.RowToStructByPos[NewsLine]); err != nil {
			return fmt.Errorf("read news of inviter %s: %w", job.InviterID, err)
		}
		if len(n.Lines) == 0 {
			skip = "there is no news left"
		}
		return nil
	})
	return n, skip, err
}
