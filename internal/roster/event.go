package roster

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

// The types of Event.
const (
	EventCreated          = "invitation.created"
	EventResent           = "invitation.resent"
	EventLinkCopied       = "invitation.link_copied"
	EventAddressCorrected = "invitation.address_corrected"
	EventAccepted         = "invitation.accepted"
	EventDeclined         = "invitation.declined"
	EventRevoked          = "invitation.revoked"
	EventExpired          = "invitation.expired"
	EventSuperseded       = "invitation.superseded"
	EventReopened         = "invitation.reopened"
	EventRenewalAsked     = "invitation.renewal_asked"
	EventExpiryExtended   = "invitation.expiry_extended"
	EventHeld             = "invitation.held"
	EventMailboxExists    = "invitation.mailbox_exists"
	EventTransferred      = "invitation.transferred"
	EventTakenOver        = "invitation.taken_over"

	EventAccountCreated  = "account.created"
	EventAccountUpdated  = "account.updated"
	EventAccountArchived = "account.archived"
	EventAccountKept     = "account.kept"   // it was temporary, and stands by itself now
	EventRecordAdded     = "record.added"   // its subject is the account
	EventRecordRemoved   = "record.removed" // likewise

	EventCompanyCreated       = "company.created"
	EventCompanyMemberSet     = "company_member.set"     // its subject is the company
	EventCompanyMemberRemoved = "company_member.removed" // likewise

	EventWorkspaceCreated  = "workspace.created"
	EventWorkspaceUpdated  = "workspace.updated"
	EventWorkspaceArchived = "workspace.archived"

	EventMembershipCreated  = "membership.created"  // its subject is the workspace
	EventMembershipChanged  = "membership.changed"  // likewise
	EventMembershipArchived = "membership.archived" // likewise
	EventMembershipDeleted  = "membership.deleted"  // likewise
)

// Event is one line of history: who did what to which subject, and when.
type Event struct {
	ID        uuid.UUID
	AppID     uuid.UUID
	Type      string
	SubjectID uuid.UUID
	ActorID   *uuid.UUID // nil: the clock, or a person without an account
	Data      map[string]any
	At        time.Time
}

// record writes one event of an invitation and returns its id. actor may be
// uuid.Nil.
func record(ctx context.Context, tx pgx.Tx, inv Invitation, eventType string, actor uuid.UUID, at time.Time) (uuid.UUID, error) {
	return recordData(ctx, tx, inv, eventType, actor, eventData(inv), at)
}

func recordData(ctx context.Context, tx pgx.Tx, inv Invitation, eventType string, actor uuid.UUID, data json.RawMessage, at time.Time) (uuid.UUID, error) {
	ids, err := recordEvents(ctx, tx, at, newEvent{inv.AppID, eventType, inv.ID, actor, data})
	if err != nil {
		return uuid.Nil, err
	}
	return ids[0], nil
}

// recordAll writes one event of each invitation, by nobody, and returns their
// ids in order.
func recordAll(ctx context.Context, tx pgx.Tx, invitations []Invitation, eventType string, at time.Time) ([]uuid.UUID, error) {
	events := make([]newEvent, len(invitations))
	for i, inv := range invitations {
		events[i] = newEvent{inv.AppID, eventType, inv.ID, uuid.Nil, eventData(inv)}
	}
	return recordEvents(ctx, tx, at, events...)
}

// newEvent is an event that is about to be written.
type newEvent struct {
	app       uuid.UUID
	eventType string
	subject   uuid.UUID
	actor     uuid.UUID       // Nil: nobody
	data      json.RawMessage // no personal data: events outlive it
}

// recordEvents writes events in their order, for those who listen too, and
// returns their ids.
func recordEvents(ctx context.Context, tx pgx.Tx, at time.Time, events ...newEvent) ([]uuid.UUID, error) {
	n := len(events)
	if n == 0 {
		return nil, nil
	}
	ids, apps, subjects, actors := make([]uuid.UUID, n), make([]uuid.UUID, n), make([]uuid.UUID, n), make([]uuid.UUID, n)
	types, data := make([]string, n), make([][]byte, n)
	for i, e := range events {
		ids[i], apps[i], types[i], subjects[i], actors[i], data[i] = newID(), e.app, e.eventType, e.subject, e.actor, e.data
	}
	if _, err := tx.Exec(ctx, `
		WITH recorded AS (
			INSERT INTO event (id, app_id, type, subject_id, actor_id, data, at)
			SELECT id, app_id, type, subject_id, NULLIF(actor_id, '00000000-0000-0000-0000-000000000000'::uuid), data, $7
			FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::uuid[], $5::uuid[], $6::jsonb[]) AS q (id, app_id, type, subject_id, actor_id, data)
			RETURNING id, app_id, type, at
		), `+fanOut+`
		SELECT count(*) FROM rung`,
		ids, apps, types, subjects, actors, data, at); err != nil {
		return nil, fmt.Errorf("record %s of %s and %d more events: %w", events[0].eventType, events[0].subject, n-1, err)
	}
	return ids, nil
}

// eventData is what an event keeps of the invitation as it then was: no
// personal data, since events outlive it.
func eventData(inv Invitation) json.RawMessage {
	return fmt.Appendf(nil, `{"version":%d,"workspace_id":%q}`, inv.Version, inv.WorkspaceID)
}

// InvitationEvents are an invitation's events, oldest first.
func (r *Roster) InvitationEvents(ctx context.Context, app, id uuid.UUID) (events []Event, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if _, err := readInvitation(ctx, tx, app, id); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `
			SELECT id, app_id, type, subject_id, actor_id, data, at
			FROM event WHERE app_id = $1 AND subject_id = $2
			ORDER BY id LIMIT 1000`, app, id)
		if err != nil {
			return fmt.Errorf("read events of invitation %s: %w", id, err)
		}
		events, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Event])
		return err
	})
	return events, err
}
