package roster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// EventMailSettled is the Event of a mail, its subject, whose uncertain outcome
// somebody settled by hand.
const EventMailSettled = "message.settled"

// notSentByHand is the reason of a mail that somebody says was not sent.
const notSentByHand = "not sent, as somebody saw at the provider"

// SettleMail ends the doubt about an uncertain mail by the word of somebody who
// looked at the provider's own pages. One that was sent counts as accepted. In
// place of one that was not, a new mail is asked for, if its subject still
// wants one; again is its id, else nil. Saying the same again is a success.
func (r *Roster) SettleMail(ctx context.Context, app, id uuid.UUID, sent bool, key IdempotencyKey) (again *uuid.UUID, err error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (*uuid.UUID, error) {
		now, outcome, to, reason := r.now(), "not_sent", MailFailed, notSentByHand
		if sent {
			outcome, to, reason = "sent", MailAccepted, ""
		}
		m := Mail{ID: id, AppID: app}
		var args []byte
		err := tx.QueryRow(ctx, `
			UPDATE message SET state = $3, reason = $4, settled_at = $5
			WHERE app_id = $1 AND id = $2 AND state = 'uncertain'
			RETURNING kind, subject_id, args, lane, email_key`, app, id, to, reason, now).
			Scan(&m.Kind, &m.SubjectID, &args, &m.Lane, &m.EmailKey)
		if errors.Is(err, pgx.ErrNoRows) {
			return settledBefore(ctx, tx, app, id, sent)
		}
		if err == nil {
			err = json.Unmarshal(args, &m.Args)
		}
		if err != nil {
			return nil, fmt.Errorf("settle message %s: %w", id, err)
		}
		if !sent {
			if again, err = r.askInstead(ctx, tx, m); err != nil {
				return nil, err
			}
		}
		data, err := json.Marshal(map[string]any{"outcome": outcome, "kind": m.Kind, "subject_id": m.SubjectID, "new_message_id": again})
		if err != nil {
			return nil, fmt.Errorf("settle message %s: %w", id, err)
		}
		if _, err := recordEvents(ctx, tx, now, newEvent{app, EventMailSettled, id, uuid.Nil, data}); err != nil {
			return nil, err
		}
		return again, nil
	})
}

// askInstead asks for a mail in place of one that was not sent, and answers its
// id: nil where the subject wants none any more. Of the rest, the late check
// has the last word.
func (r *Roster) askInstead(ctx context.Context, tx pgx.Tx, m Mail) (*uuid.UUID, error) {
	if m.Kind == MailInvitation || m.Kind == MailRequest {
		mailed, err := r.In(tx).MailAgain(ctx, RetryMail{MessageID: m.ID, Retry: m.Args.Retry})
		if err != nil || !mailed {
			return nil, err
		}
		return insteadOf(ctx, tx, m.AppID, m.ID)
	}
	instead := m
	instead.ID, instead.Purpose = newID(), purposeInstead(m.ID)
	return &instead.ID, r.ask(ctx, tx, r.now(), instead)
}

// purposeInstead is the purpose of the mail in place of another.
func purposeInstead(message uuid.UUID) string { return "retry:" + message.String() }

// insteadOf is the id of the mail that was asked for in place of another, nil
// if none was.
func insteadOf(ctx context.Context, tx pgx.Tx, app, message uuid.UUID) (instead *uuid.UUID, err error) {
	err = tx.QueryRow(ctx, `
		SELECT instead.id FROM message JOIN message AS instead ON instead.subject_id = message.subject_id AND instead.purpose = $3
		WHERE message.app_id = $1 AND message.id = $2`, app, message, purposeInstead(message)).Scan(&instead)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return nil, fmt.Errorf("read mail in place of message %s: %w", message, err)
	}
	return instead, nil
}

// settledBefore answers for a mail that is not uncertain: success where the
// same is known of it already, otherwise what stands.
func settledBefore(ctx context.Context, tx pgx.Tx, app, id uuid.UUID, sent bool) (*uuid.UUID, error) {
	var state Delivery
	var reason string
	stands := errorf(Conflict, "not_uncertain", "What became of this mail is known: it is not uncertain.")
	err := tx.QueryRow(ctx, `
		SELECT state, reason, settled_at FROM message WHERE app_id = $1 AND id = $2`, app, id).Scan(&state, &reason, &stands.DecidedAt)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, notFound("message")
	}
	if err != nil {
		return nil, fmt.Errorf("read message %s: %w", id, err)
	}
	stands.State = State(state)
	switch state {
	case MailAccepted, MailDelayed, MailDelivered, MailBounced, MailComplained: // each shows that it was sent
		if sent {
			return nil, nil
		}
	case MailFailed:
		if !sent && reason == notSentByHand {
			return insteadOf(ctx, tx, app, id)
		}
	default:
	}
	return nil, stands
}
