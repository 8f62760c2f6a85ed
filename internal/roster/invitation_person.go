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

// InvitationView is what the invited person may see of an invitation, and what
// a letter about it needs.
type InvitationView struct {
	Invitation
	App           App
	InviterName   string
	CompanyName   string
	WorkspaceName string
	Zone          *time.Location // of the invited account, else the company, else the app
	Account       *Account       // the account with the invited address, if there is one
	HasPassword   bool           // that account can log in
	AcceptURL     string         // by ViewInvitation: the app's own page for it; empty: Usher's

	isMember      bool       // who accepted is still in the workspace
	block         string     // why its address cannot be written to
	unsubscribed  bool       // the person wants no reminders
	stoppedUntil  *time.Time // the app's mail waits
	stoppedReason string
}

// ErrDeadLink is the answer to every link that leads nowhere: never genuine,
// of something gone, or replaced by a newer one.
var ErrDeadLink = errorf(NotFound, "link_dead", "This link is not valid, or no longer.")

// viewInvitation reads a view.
func viewInvitation(ctx context.Context, tx pgx.Tx, id uuid.UUID) (InvitationView, error) {
	views, err := viewInvitations(ctx, tx, []uuid.UUID{id}, "")
	if v, ok := views[id]; ok || err != nil {
		return v, err
	}
	return InvitationView{}, ErrDeadLink
}

// viewInvitations reads the views of those ids that exist; suffix is appended
// to the query. An open invitation to an archived workspace shows as revoked.
func viewInvitations(ctx context.Context, tx pgx.Tx, ids []uuid.UUID, suffix string) (map[uuid.UUID]InvitationView, error) {
	views := make(map[uuid.UUID]InvitationView, len(ids))
	companyZones := map[uuid.UUID]string{}
	batch := &pgx.Batch{}
	batch.Queue(`
		SELECT `+invitationColumns+`, `+appColumns+`, inviter.full_name, company.name, company.time_zone, workspace.name, workspace.state,
			EXISTS (SELECT FROM membership WHERE workspace_id = invitation.workspace_id AND account_id = invitation.account_id AND state = 'active'),
			COALESCE(address.block, ''), address.unsubscribed_at IS NOT NULL, app.mail_stopped_until, app.mail_stopped_reason
		FROM invitation
		JOIN app ON app.id = invitation.app_id
		JOIN account inviter ON inviter.id = invitation.inviter_id
		JOIN workspace ON workspace.id = invitation.workspace_id
		JOIN company ON company.id = workspace.company_id
		LEFT JOIN address ON address.app_id = invitation.app_id AND address.email_key = invitation.email_key
		WHERE invitation.id = ANY($1) `+suffix, ids).Query(func(rows pgx.Rows) error {
		found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
			Invitation
			App
			InviterName, CompanyName, CompanyZone, WorkspaceName, WorkspaceState string
			IsMember                                                             bool
			Block                                                                string
			Unsubscribed                                                         bool
			StoppedUntil                                                         *time.Time
			StoppedReason                                                        string
		}])
		for _, f := range found {
			v := InvitationView{
				Invitation: f.Invitation, App: f.App,
				InviterName: f.InviterName, CompanyName: f.CompanyName, WorkspaceName: f.WorkspaceName,
				isMember: f.IsMember, block: f.Block, unsubscribed: f.Unsubscribed, stoppedUntil: f.StoppedUntil, stoppedReason: f.StoppedReason,
			}
			if v.State.Open() && f.WorkspaceState != workspaceActive {
				v.State = Revoked // what it leads to is closed; it cannot be accepted
			}
			companyZones[v.ID] = f.CompanyZone
			v.Zone = zone(f.CompanyZone, v.App.TimeZone)
			views[v.ID] = v
		}
		return err
	})
	batch.Queue(`
		SELECT invitation.id, `+accountColumns+`, password_hash <> ''
		FROM invitation JOIN account ON account.app_id = invitation.app_id AND account.email_key = invitation.email_key AND `+isLive+`
		WHERE invitation.id = ANY($1)`, ids).Query(func(rows pgx.Rows) error {
		found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
			InvitationID uuid.UUID
			Account
			HasPassword bool
		}])
		for _, f := range found {
			v, ok := views[f.InvitationID]
			if !ok {
				continue
			}
			v.Account, v.HasPassword = &f.Account, f.HasPassword
			v.Zone = zone(f.TimeZone, companyZones[v.ID], v.App.TimeZone)
			views[v.ID] = v
		}
		return err
	})
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return nil, fmt.Errorf("read %d invitations: %w", len(ids), err)
	}
	return views, nil
}

// ViewInvitation is the invitation a ticket leads to, in whatever state. Only
// the current version's ticket does, and the last one before a revocation, so
// that its holder learns what happened. The link of somebody who accepted and
// was removed later is dead.
func (r *Roster) ViewInvitation(ctx context.Context, t Ticket) (v InvitationView, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if v, err = viewInvitation(ctx, tx, t.ID); err != nil {
			return err
		}
		if t.Version != v.Version && (v.State != Revoked || t.Version != v.Version-1) {
			return ErrDeadLink
		}
		if v.State == Accepted && !v.isMember {
			return ErrDeadLink // the person was removed since; the link does not bring them back
		}
		if v.State.Open() && !v.ExpiresAt.After(r.now()) {
			v.State = Expired // the sweep will say so within a minute
		}
		policy, err := policyOf(ctx, tx, v.AppID)
		v.AcceptURL = policy.AcceptURL
		return err
	})
	return v, err
}

// Acceptance is how the invited person says yes: as the account they proved to
// be or, where the address has no account yet, with a name and a new password.
type Acceptance struct {
	AccountID    uuid.UUID // proved by a session or a password; Nil: none
	FullName     string
	PasswordHash string // by HashPassword
}

// AcceptInvitation takes an open invitation and makes the person a member.
// Accepting again is a success that changes nothing. ErrLogInNeeded asks for
// proof of the account that has the address. proved tells whether the caller is
// the account that accepted: it was proved, or made by this very call.
func (r *Roster) AcceptInvitation(ctx context.Context, t Ticket, a Acceptance) (inv Invitation, proved bool, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		inv, proved, err = r.accept(ctx, tx, t, a, r.now())
		return err
	})
	return inv, proved && err == nil, err
}

func (r *Roster) accept(ctx context.Context, tx pgx.Tx, t Ticket, a Acceptance, now time.Time) (inv Invitation, proved bool, err error) {
	inv, ok, err := decide(ctx, tx, t, Accepted, now)
	if err != nil {
		return inv, false, err
	}
	if !ok {
		return inv, a.AccountID != uuid.Nil && inv.AccountID != nil && a.AccountID == *inv.AccountID, nil
	}
	account, made, err := acceptingAccount(ctx, tx, inv, a, now)
	if err != nil {
		return inv, false, err
	}
	inv.AccountID = &account
	if _, err := tx.Exec(ctx, `UPDATE invitation SET account_id = $2 WHERE id = $1`, inv.ID, account); err != nil {
		return inv, false, fmt.Errorf("note who accepted invitation %s: %w", inv.ID, err)
	}
	if _, err := addMember(ctx, tx, newMember{
		app: inv.AppID, workspace: inv.WorkspaceID, account: account, actor: account, addedBy: inv.InviterID,
		role: inv.Role(), visibility: inv.Visibility, seen: true,
	}, now); err != nil {
		return inv, false, err
	}
	return inv, made || a.AccountID == account, r.tellInviter(ctx, tx, inv, EventAccepted, account, now)
}

// DeclineInvitation says no to an open invitation. It needs no log-in: whoever
// holds the mail may refuse what it offers. Declining again is a success.
func (r *Roster) DeclineInvitation(ctx context.Context, t Ticket) (inv Invitation, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		inv, err = r.decline(ctx, tx, t, uuid.Nil, r.now())
		return err
	})
	return inv, err
}

// errInviterGone answers an acceptance of an invitation that nobody stands
// behind at the moment.
var errInviterGone = errorf(Conflict, "inviter_gone", "This invitation is waiting for somebody at the company to confirm it. You can accept it later, with the same link.")

// decline says no for an account, or for whoever holds the link where that is
// Nil.
func (r *Roster) decline(ctx context.Context, tx pgx.Tx, t Ticket, account uuid.UUID, now time.Time) (Invitation, error) {
	inv, ok, err := decide(ctx, tx, t, Declined, now)
	if err != nil || !ok {
		return inv, err
	}
	return inv, r.tellInviter(ctx, tx, inv, EventDeclined, account, now)
}

// decide moves an open invitation to the state its person chose. ok is false
// where that was decided before; any other state is an error.
func decide(ctx context.Context, tx pgx.Tx, t Ticket, to State, now time.Time) (inv Invitation, ok bool, err error) {
	inv, err = collectInvitation(tx.Query(ctx, `
		UPDATE invitation SET state = $3, decided_at = $4
		WHERE id = $1 AND version = $2 AND `+isOpen+` AND expires_at > $4 AND (held_for = '' OR $3 = 'declined')
			AND EXISTS (SELECT FROM workspace w WHERE w.id = invitation.workspace_id AND w.state = 'active')
		RETURNING `+invitationColumns, t.ID, t.Version, to, now))
	if err == nil {
		return inv, true, nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return inv, false, fmt.Errorf("decide invitation %s: %w", t.ID, err)
	}
	inv, err = collectInvitation(tx.Query(ctx, `SELECT `+invitationColumns+` FROM invitation WHERE id = $1`, t.ID))
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return inv, false, ErrDeadLink
	case err != nil:
		return inv, false, fmt.Errorf("read invitation %s: %w", t.ID, err)
	case inv.State == Revoked && t.Version == inv.Version-1:
		return inv, false, inv.stands()
	case t.Version != inv.Version:
		return inv, false, ErrDeadLink
	case inv.State == to:
		return inv, false, nil
	case inv.State.Open() && !inv.ExpiresAt.After(now):
		return inv, false, inv.late()
	case inv.State.Open() && inv.HeldFor != "":
		return inv, false, errInviterGone
	case inv.State.Open():
		return inv, false, errorf(Gone, "workspace_archived", "What this invitation leads to was closed.")
	}
	return inv, false, inv.stands()
}

// ErrLogInNeeded answers an acceptance by a name and a password where the
// address has an account already.
var ErrLogInNeeded = errorf(Unauthorized, "log_in_needed", "There is an account with this address. Log in with its password to accept.")

// ErrWrongAccount answers an acceptance by an account with another address.
var ErrWrongAccount = errorf(Forbidden, "wrong_account", "This invitation is for another address than your account's.")

// acceptingAccount is the account that accepts: the one with the invited
// address, which must be the proved one if it can be logged in to, or a new one.
//
// An account without a password is not given one here. Its links can be copied
// by the inviter, who would otherwise choose the password of somebody else's
// account.
func acceptingAccount(ctx context.Context, tx pgx.Tx, inv Invitation, a Acceptance, now time.Time) (id uuid.UUID, made bool, err error) {
	id, hasPassword, err := accountByAddress(ctx, tx, inv)
	if errors.Is(err, pgx.ErrNoRows) && a.AccountID == uuid.Nil {
		id, made, err = invitedAccount(ctx, tx, inv, a, now)
		if err != nil || made {
			return id, made, err
		}
		id, hasPassword, err = accountByAddress(ctx, tx, inv) // made by somebody else in this instant
		if err != nil {
			return uuid.Nil, false, fmt.Errorf("read accepting account: %w", err)
		}
	} else if errors.Is(err, pgx.ErrNoRows) {
		return uuid.Nil, false, ErrWrongAccount
	} else if err != nil {
		return uuid.Nil, false, fmt.Errorf("read accepting account: %w", err)
	}
	switch {
	case a.AccountID == id:
		return id, false, nil
	case a.AccountID != uuid.Nil:
		return uuid.Nil, false, ErrWrongAccount
	case hasPassword:
		return uuid.Nil, false, ErrLogInNeeded
	}
	return id, false, nil
}

// invitedAccount makes an account of the invited address with the name and the
// password of a; made is false where somebody else made one in this instant.
func invitedAccount(ctx context.Context, tx pgx.Tx, inv Invitation, a Acceptance, now time.Time) (id uuid.UUID, made bool, err error) {
	account := Account{
		ID: newID(), AppID: inv.AppID, Kind: Client, Status: statusActive,
		Email: inv.Email, Locale: inv.Locale, CreatedAt: now,
	}
	if inv.Kind == KindExternal {
		account.Kind = Professional
	}
	if account.FullName, err = cleanName("full_name", a.FullName); err != nil {
		return uuid.Nil, false, err
	}
	if a.PasswordHash == "" {
		return uuid.Nil, false, invalidField("password", "password_too_short", "A password has at least %d characters.", MinPassword)
	}
	made, err = insertAccount(ctx, tx, account, inv.EmailKey, a.PasswordHash)
	return account.ID, made, err
}

// SignUp makes the account of a person who was invited, without a decision
// about the invitation: that waits in the new account's inbox, with whatever
// else the address was invited to. ErrLogInNeeded is the answer where the address
// has an account.
func (r *Roster) SignUp(ctx context.Context, t Ticket, a Acceptance) (account uuid.UUID, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		account, err = r.signUp(ctx, tx, t, a, r.now())
		return err
	})
	return account, err
}

func (r *Roster) signUp(ctx context.Context, tx pgx.Tx, t Ticket, a Acceptance, now time.Time) (uuid.UUID, error) {
	v, err := viewInvitation(ctx, tx, t.ID)
	switch {
	case err != nil:
		return uuid.Nil, err
	case v.Version != t.Version:
		return uuid.Nil, ErrDeadLink
	case !v.State.Open():
		return uuid.Nil, v.stands()
	case !v.ExpiresAt.After(now):
		return uuid.Nil, v.late()
	case v.Account != nil:
		return uuid.Nil, ErrLogInNeeded
	}
	account, made, err := invitedAccount(ctx, tx, v.Invitation, a, now)
	if err == nil && !made {
		err = ErrLogInNeeded
	}
	return account, err
}

func accountByAddress(ctx context.Context, tx pgx.Tx, inv Invitation) (id uuid.UUID, hasPassword bool, err error) {
	err = tx.QueryRow(ctx, `
		SELECT id, password_hash <> '' FROM account
		WHERE app_id = $1 AND email_key = $2 AND `+isLive+` FOR UPDATE`, inv.AppID, inv.EmailKey).Scan(&id, &hasPassword)
	return id, hasPassword, err
}

// AskRenewal passes on that the invited person wants a new link for an expired
// invitation, at most once a day. Whatever the ticket leads to, the caller
// answers alike, so nothing is told here but faults.
func (r *Roster) AskRenewal(ctx context.Context, t Ticket) error {
	now := r.now()
	return postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if _, err := r.expire(ctx, tx, now, `id = $2`, t.ID); err != nil {
			return err
		}
		inv, err := collectInvitation(tx.Query(ctx, `
			UPDATE invitation SET renewal_asked_at = $3
			WHERE id = $1 AND version = $2 AND state = 'expired'
				AND (renewal_asked_at IS NULL OR renewal_asked_at <= $4)
			RETURNING `+invitationColumns, t.ID, t.Version, now, now.Add(-renewEvery)))
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("ask renewal of invitation %s: %w", t.ID, err)
		}
		return r.tellInviter(ctx, tx, inv, EventRenewalAsked, uuid.Nil, now)
	})
}

// tellInviter records an event and lets its inviter know.
func (r *Roster) tellInviter(ctx context.Context, tx pgx.Tx, inv Invitation, eventType string, actor uuid.UUID, now time.Time) error {
	event, err := record(ctx, tx, inv, eventType, actor, now)
	if err != nil {
		return err
	}
	return r.ask(ctx, tx, now, newsMail(inv.AppID, inv.InviterID, []uuid.UUID{event}))
}
