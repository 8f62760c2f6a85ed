package roster

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

// eventWindow bounds the events that one page of a list looks at, so that a
// type that few of them have costs no more than one that all have.
const eventWindow = 5_000

// EventType is a type of Event, with what it says.
type EventType struct {
	Type string
	Doc  string // for people
}

// EventTypes are all types of Event there are. A test holds them to the
// constants.
var EventTypes = []EventType{
	{EventCreated, "Somebody was invited."},
	{EventResent, "An invitation's mail was asked for again."},
	{EventLinkCopied, "An invitation's link was shown, to be given on by hand."},
	{EventAddressCorrected, "An invitation goes to another address; links of before are dead."},
	{EventAccepted, "An invitation was accepted: the person is a member of its workspace."},
	{EventDeclined, "An invitation was declined."},
	{EventRevoked, "An invitation was withdrawn."},
	{EventExpired, "An invitation's time is over."},
	{EventReopened, "An expired invitation started anew."},
	{EventRenewalAsked, "A person with an expired link asked for a new one."},
	{EventExpiryExtended, "An invitation's time was extended, since its mail could not leave."},
	{EventHeld, "An invitation is on hold: mail does not reach its address, or its inviter may no longer invite."},
	{EventSuperseded, "An invitation ended because its person was added otherwise."},
	{EventTransferred, "An invitation has another inviter, since the one before may no longer invite."},
	{EventTakenOver, "Somebody took over an invitation whose inviter may no longer invite."},
	{EventMailboxExists, "Somebody says that the mailbox of an address exists, although mail to it came back."},
	{EventMailSettled, "Somebody settled what became of an uncertain mail."},
	{EventRemindersStopped, "A person asked for no more reminders."},
	{EventMailStopped, "A person asked for no more mail."},
	{EventMailResumed, "A person wants mail again."},
	{EventNotified, "A person was told of workspaces that are new to them, in their inbox."},
	{EventPolicyChanged, "The app's policy was changed."},
	{EventAccountCreated, "An account was added."},
	{EventAccountUpdated, "An account was changed."},
	{EventAccountArchived, "An account was archived: nobody can use it, and its address is free."},
	{EventAccountKept, "An account that was temporary stands by itself: the request it was made for came to nothing."},
	{EventRequestCreated, "A company asked for access to the account that has an address, or made its holder another."},
	{EventRequestResent, "An access request's mail was asked for again."},
	{EventRequestCorrected, "An access request goes to another address; links of before are dead."},
	{EventRequestHeld, "An access request is on hold: mail does not reach its address."},
	{EventRequestExtended, "An access request's time was extended, since its mail could not leave."},
	{EventRequestApproved, "The holder of the address said yes. Unless access is given at once, they have yet to log in."},
	{EventRequestAuthorized, "Support gave access by hand, on the client's written statement."},
	{EventRequestGranted, "A company has access to an account."},
	{EventRequestDenied, "The holder of the address said no."},
	{EventRequestReported, "The holder of the address says that a request was not about them."},
	{EventRequestExpired, "An access request's time is over."},
	{EventRequestCancelled, "An access request was withdrawn."},
	{EventRequestRevoked, "A company's access to an account has ended."},
	{EventMergePreviewed, "Somebody asked what a merge of an account that was made meanwhile would do."},
	{EventMergeConfirmed, "A merge was confirmed, by a professional or by the app's policy."},
	{EventMergeMerged, "A merge is done; until its time is over, it can be undone."},
	{EventMergeFailed, "A merge failed; nothing was changed."},
	{EventMergeCancelled, "A merge was cancelled; nothing was changed."},
	{EventMergeUndoing, "Somebody asked to undo a merge."},
	{EventMergeUndone, "A merge was undone: every row is back."},
	{EventMergeFinalized, "The time in which a merge could be undone is over."},
	{EventAccountMerged, "An account that was made meanwhile was merged into this one, the subject."},
	{EventAccountUnmerged, "A merge into this account, the subject, was undone."},
	{EventRecordAdded, "A record was added to an account, the subject."},
	{EventRecordRemoved, "A record was removed from an account, the subject."},
	{EventCompanyCreated, "A company was added."},
	{EventCompanyMemberSet, "An account became a member of a company, the subject, or has another role in it."},
	{EventCompanyMemberRemoved, "An account is no longer a member of a company, the subject."},
	{EventWorkspaceCreated, "A workspace was added."},
	{EventWorkspaceUpdated, "A workspace was changed."},
	{EventWorkspaceArchived, "A workspace was closed; open invitations to it were withdrawn."},
	{EventMembershipCreated, "An account became a member of a workspace, the subject."},
	{EventMembershipChanged, "A member of a workspace, the subject, sees more or less of it."},
	{EventMembershipArchived, "A member of a workspace, the subject, was archived."},
	{EventMembershipDeleted, "An archived member of a workspace, the subject, was deleted."},
	{EventPasswordAsked, "A person asked for a link to set a password."},
	{EventPasswordSet, "A person set a password."},
	{EventEndpointCreated, "A webhook endpoint was added."},
	{EventEndpointUpdated, "A webhook endpoint was changed."},
	{EventEndpointEnabled, "A webhook endpoint was enabled again."},
	{EventEndpointDisabled, "A webhook endpoint was disabled: somebody asked for it, it failed for days, or it answered 410."},
	{EventEndpointDeleted, "A webhook endpoint was deleted."},
	{EventSecretRotated, "A webhook endpoint has a new secret."},
	{EventEndpointTest, "A test; it goes only to the endpoint that is tested."},
}

// EventList says which events to list.
type EventList struct {
	Type    string    // empty: of any type
	Subject uuid.UUID // Nil: about everything
	After   uuid.UUID // the last id of the page before; Nil: the first page
	Newest  bool      // newest first
	Limit   int       // rows
}

const eventColumns = `id, app_id, type, subject_id, actor_id, data, at`

// Events lists an app's events in the order of their times. next is where the
// next page begins, Nil after the last. A page of one type looks through
// eventWindow of all: it may have fewer rows than asked for, or none, and still
// a next one.
func (r *Roster) Events(ctx context.Context, app uuid.UUID, l EventList) (events []Event, next uuid.UUID, err error) {
	after, until, direction := ">", "<=", "ASC"
	if l.Newest {
		after, until, direction = "<", ">=", "DESC"
	}
	// Of one subject there are few events, and their ids are in order, too.
	key, position, order := "(at, id)", "((SELECT at FROM event WHERE app_id = $1 AND id = $%[1]d), $%[1]d)", fmt.Sprintf("at %s, id %[1]s", direction)
	clause, args := `WHERE app_id = $1`, []any{app}
	where := func(condition string, arg any) {
		args = append(args, arg)
		clause += fmt.Sprintf(` AND `+condition, len(args))
	}
	if l.Subject != uuid.Nil {
		key, position, order = "id", "$%[1]d", "id "+direction
	}
	if l.After != uuid.Nil {
		where(key+` `+after+` `+position, l.After)
	}
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if l.Subject != uuid.Nil {
			if err := aboutSubject(ctx, tx, app, l.Subject, where); err != nil {
				return err
			}
		}
		if l.Type != "" {
			err := tx.QueryRow(ctx, `SELECT id FROM event `+clause+fmt.Sprintf(` ORDER BY %s OFFSET %d LIMIT 1`, order, eventWindow-1), args...).Scan(&next)
			if err != nil && !errors.Is(err, pgx.ErrNoRows) {
				return fmt.Errorf("list events: %w", err)
			}
			if next != uuid.Nil {
				where(key+` `+until+` `+position, next)
			}
			where(`type = $%d`, l.Type)
		}
		args = append(args, l.Limit+1)
		rows, err := tx.Query(ctx, `SELECT `+eventColumns+` FROM event `+clause+fmt.Sprintf(` ORDER BY %s LIMIT $%d`, order, len(args)), args...)
		if err != nil {
			return fmt.Errorf("list events: %w", err)
		}
		events, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Event])
		return err
	})
	if err != nil {
		return nil, uuid.Nil, err
	}
	if len(events) > l.Limit {
		events = events[:l.Limit]
		next = events[l.Limit-1].ID
	}
	return events, next, nil
}

// aboutSubject narrows events down to those about a subject, and about the
// accounts that were merged into it: events keep the id they were written under.
func aboutSubject(ctx context.Context, tx pgx.Tx, app, subject uuid.UUID, where func(condition string, arg any)) error {
	rows, err := tx.Query(ctx, `SELECT id FROM account WHERE app_id = $1 AND merged_into = $2`, app, subject)
	if err != nil {
		return fmt.Errorf("look for accounts merged into %s: %w", subject, err)
	}
	merged, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	switch {
	case err != nil:
		return fmt.Errorf("look for accounts merged into %s: %w", subject, err)
	case len(merged) == 0: // one id comes in the order of its events
		where(`subject_id = $%d`, subject)
	default:
		where(`subject_id = ANY ($%d)`, append(merged, subject))
	}
	return nil
}

// Event reads one event.
func (r *Roster) Event(ctx context.Context, app, id uuid.UUID) (e Event, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		e, err = readEvent(ctx, tx, app, id)
		return err
	})
	return e, err
}

func readEvent(ctx context.Context, tx pgx.Tx, app, id uuid.UUID) (e Event, err error) {
	rows, err := tx.Query(ctx, `SELECT `+eventColumns+` FROM event WHERE app_id = $1 AND id = $2`, app, id)
	if err == nil {
		e, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Event])
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return e, notFound("event")
	}
	if err != nil {
		return e, fmt.Errorf("read event %s: %w", id, err)
	}
	return e, nil
}
