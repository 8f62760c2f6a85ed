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

const (
	// maxVersion bounds corrections and reopenings together: each sends a mail
	// to an address the app chose.
	maxVersion = 10

	// renewEvery is the rest between two requests for a new link, each of which
	// writes to the inviter.
	renewEvery = 24 * time.Hour
)

// State is where an invitation stands.
type State string

// The states of an invitation. Pending and OnHold are open: it can still be
// accepted. Only Expired can be opened again.
const (
	Pending    State = "pending"
	OnHold     State = "on_hold" // its mail cannot be delivered; the link works
	Accepted   State = "accepted"
	Declined   State = "declined"
	Revoked    State = "revoked"
	Superseded State = "superseded"
	Expired    State = "expired"
)

// Open tells whether the invitation can still be decided.
func (s State) Open() bool { return s == Pending || s == OnHold }

// Delivery is what happened to the newest mail of an invitation: the message's
// state. It never decides the invitation.
type Delivery string

// The delivery of an invitation's newest mail.
const (
	NotMailed      Delivery = "none"       // nobody asked for a mail
	MailQueued     Delivery = "queued"     // asked for, not yet tried
	MailHeld       Delivery = "held"       // waits until something is mended
	MailSending    Delivery = "sending"    // handed to the provider, no word yet
	MailAccepted   Delivery = "accepted"   // the provider has it
	MailDelayed    Delivery = "delayed"    // the recipient's server does not take it yet
	MailDelivered  Delivery = "delivered"  // the recipient's server took it
	MailBounced    Delivery = "bounced"    // the recipient's server refused it
	MailComplained Delivery = "complained" // the recipient called it spam
	MailSuppressed Delivery = "suppressed" // not sent: the address bounced or complained before
	MailFailed     Delivery = "failed"     // the provider refused it for good
	MailCancelled  Delivery = "cancelled"  // not sent: it was no longer wanted
	MailUncertain  Delivery = "uncertain"  // nobody knows, and trying again could send it twice
)

// The kinds of invitation. The last two are for accounts the actor knows: they
// are members at once, and the invitation is accepted from the start.
const (
	KindNewUser      = "new_user"              // by name and address; who accepts becomes a client user
	KindExternal     = "external_professional" // by address, after a warning; who approves becomes a stakeholder
	KindColleague    = "colleague"             // of the actor or of the workspace's company; becomes a stakeholder
	KindExistingUser = "existing_user"         // of another of the actor's workspaces; becomes a client user
)

// role is what somebody becomes by an invitation of that kind.
func role(kind string) string {
	if kind == KindExternal || kind == KindColleague {
		return RoleStakeholder
	}
	return RoleClientUser
}

// Invitation asks a person to join a workspace.
type Invitation struct {
	ID             uuid.UUID
	AppID          uuid.UUID
	WorkspaceID    uuid.UUID
	InviterID      uuid.UUID
	Kind           string
	Email          string // as typed
	EmailKey       string // as compared
	FullName       string
	Locale         string // empty: the app's
	Note           string // the inviter's own words, plain text
	State          State
	HeldFor        string // of OnHold: empty for its mail's sake, "inviter" where nobody can accept it until somebody takes it over
	Delivery       Delivery
	Version        int // links carry it; older ones are dead
	Sends          int // mails asked for since the version began
	Reopens        int
	QueuedAt       *time.Time // when the newest mail was asked for
	MessageID      *uuid.UUID // the newest mail; nil: nobody asked for one
	MailNote       *MailNote  // what came of it; nil: nothing to tell
	ExpiresAt      time.Time
	DecidedAt      *time.Time // when it left the open states
	AccountID      *uuid.UUID // who accepted
	RenewalAskedAt *time.Time
	CreatedAt      time.Time

	Visibility        Visibility // of whoever joins by it
	OriginWorkspaceID *uuid.UUID `json:",omitempty"` // of KindExistingUser: where the person was found
	Warning           *Warning   `json:",omitempty"` // of KindExternal
}

// Warning is the proof that an inviter read what it means to share with
// somebody from outside.
type Warning struct {
	Text           string    // as shown
	AcknowledgedBy uuid.UUID // the account that ticked it
	AcknowledgedAt time.Time
}

// Role is what the person becomes, or became, in the workspace.
func (inv Invitation) Role() string { return role(inv.Kind) }

// Ticket is what the invitation's current link carries.
func (inv Invitation) Ticket() Ticket { return Ticket{ID: inv.ID, Version: inv.Version} }

// invitationColumns are the columns of Invitation, in its order.
const invitationColumns = `invitation.id, invitation.app_id, invitation.workspace_id, invitation.inviter_id,
	invitation.kind, invitation.email, invitation.email_key, invitation.full_name, invitation.locale, invitation.note,
	invitation.state, invitation.held_for, COALESCE((SELECT message.state FROM message WHERE message.id = invitation.message_id), 'none'),
	invitation.version, invitation.sends, invitation.reopens, invitation.queued_at, invitation.message_id,
	(SELECT jsonb_build_object('Reason', message.reason, 'FactAt', message.fact_at, 'Retry', COALESCE((message.args->>'retry')::int, 0))
		FROM message WHERE message.id = invitation.message_id AND message.reason <> ''),
	invitation.expires_at, invitation.decided_at, invitation.account_id, invitation.renewal_asked_at, invitation.created_at,
	invitation.visibility, invitation.origin_workspace_id,
	CASE WHEN invitation.warning_id IS NOT NULL THEN (
		SELECT jsonb_build_object('Text', warning.text, 'AcknowledgedBy', event.actor_id, 'AcknowledgedAt', event.at)
		FROM warning JOIN event ON event.app_id = invitation.app_id AND event.subject_id = invitation.id AND event.type = 'invitation.created'
		WHERE warning.id = invitation.warning_id LIMIT 1) END`

// isOpen is the condition of State.Open.
const isOpen = `invitation.state IN ('pending', 'on_hold')`

func collectInvitation(rows pgx.Rows, err error) (Invitation, error) {
	if err != nil {
		return Invitation{}, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Invitation])
}

func readInvitation(ctx context.Context, tx pgx.Tx, app, id uuid.UUID) (Invitation, error) {
	inv, err := collectInvitation(tx.Query(ctx, `
		SELECT `+invitationColumns+` FROM invitation WHERE app_id = $1 AND id = $2`, app, id))
	if errors.Is(err, pgx.ErrNoRows) {
		return inv, notFound("invitation")
	}
	if err != nil {
		return inv, fmt.Errorf("read invitation %s: %w", id, err)
	}
	return inv, nil
}

// Invitation is one invitation of an app.
func (r *Roster) Invitation(ctx context.Context, app, id uuid.UUID) (inv Invitation, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		inv, err = readInvitation(ctx, tx, app, id)
		return err
	})
	return inv, err
}

// InvitationList says which invitations to list.
type InvitationList struct {
	Workspace uuid.UUID // Nil: of all workspaces
	State     State     // empty: in any state
	After     uuid.UUID // the last id of the page before; Nil: the first page
	Limit     int       // rows
}

// states are all a State can be.
var states = []State{Pending, OnHold, Accepted, Declined, Revoked, Superseded, Expired}

// Invitations lists an app's invitations, newest first.
//
// The newest of each state are read and the newest of those taken: whichever
// states are asked for, and however rare they are, a page costs a few rows of
// an index that begins with what is asked for.
func (r *Roster) Invitations(ctx context.Context, app uuid.UUID, l InvitationList) (list []Invitation, err error) {
	wanted := states
	if l.State != "" {
		wanted = []State{l.State}
	}
	before := l.After
	if before == uuid.Nil {
		before = uuid.Max
	}
	args := []any{app, wanted, l.Limit, before}
	of := ""
	if l.Workspace != uuid.Nil {
		of = ` AND workspace_id = $5`
		args = append(args, l.Workspace)
	}
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		// The state is bounded from both sides, and part of the order, which only
		// an index with it serves: by "=" the planner would rather walk through
		// the newest of all apps.
		rows, err := tx.Query(ctx, `
			SELECT `+invitationColumns+`
			FROM unnest($2::text[]) AS wanted (state) CROSS JOIN LATERAL (
				SELECT * FROM invitation
				WHERE app_id = $1`+of+` AND state >= wanted.state AND (state, id) < (wanted.state, $4::uuid)
				ORDER BY state DESC, id DESC LIMIT $3) AS invitation
			ORDER BY invitation.id DESC LIMIT $3`, args...)
		if err != nil {
			return fmt.Errorf("list invitations: %w", err)
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Invitation])
		return err
	})
	return list, err
}

// stands is why a transition found nothing to change: the invitation is in
// another state already.
func (inv Invitation) stands() *Error {
	messages := map[State]string{
		Pending:    "This invitation is open.",
		OnHold:     "This invitation is open, but its mail cannot be delivered.",
		Accepted:   "This invitation was already accepted.",
		Declined:   "This invitation was already declined.",
		Revoked:    "This invitation was withdrawn.",
		Superseded: "This invitation was replaced by another.",
		Expired:    "This invitation has expired.",
	}
	if inv.HeldFor != "" && inv.State.Open() {
		return inv.errHeldForInviter()
	}
	kind := Conflict
	code := "already_" + string(inv.State)
	if inv.State == Expired {
		kind, code = Gone, "expired"
	}
	err := errorf(kind, code, "%s", messages[inv.State])
	err.State, err.DecidedAt = inv.State, inv.DecidedAt
	return err
}

// late is what somebody hears whose decision came after the time, whether the
// sweep has been there yet or not.
func (inv Invitation) late() *Error {
	inv.State = Expired
	err := inv.stands()
	err.DecidedAt = &inv.ExpiresAt
	return err
}

// QueueSweeps holds the work of the clock.
const QueueSweeps = "sweeps"

// enqueue inserts jobs within tx.
func (r *Roster) enqueue(ctx context.Context, tx pgx.Tx, jobs ...river.JobArgs) error {
	if len(jobs) == 0 {
		return nil
	}
	params := make([]river.InsertManyParams, len(jobs))
	for i, args := range jobs {
		params[i].Args = args
	}
	if _, err := r.Jobs.InsertManyTx(ctx, tx, params); err != nil {
		return fmt.Errorf("insert %d jobs: %w", len(jobs), err)
	}
	return nil
}
