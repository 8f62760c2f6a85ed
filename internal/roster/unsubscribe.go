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

// PurposeUnsubscribe tokens open /u/{token}. Their ticket is made by
// UnsubscribeTicket.
const PurposeUnsubscribe Purpose = "unsubscribe"

// UnsubscribeTicket is what the link in a mail carries that stops further ones:
// the mail's own id, which stands for the address it went to, whatever becomes
// of the invitation or its address.
func UnsubscribeTicket(mail uuid.UUID) Ticket { return Ticket{ID: mail} }

// The types of Event about what mail a person wants. Their subject is what the
// mail was about.
const (
	EventRemindersStopped = "mail.reminders_stopped"
	EventMailStopped      = "mail.stopped"
	EventMailResumed      = "mail.resumed"
)

// Wanted is which mail of an app an address gets.
type Wanted string

// What a person may want.
const (
	WantsAll         Wanted = "all"
	WantsNoReminders Wanted = "no_reminders"
	WantsNone        Wanted = "none"
)

// Subscription is what the holder of a mail may see and change: which mail its
// app sends to its address.
type Subscription struct {
	App    App
	Email  string // masked: links are passed on
	Locale string // of the person, as far as known; else the app's
	Wanted Wanted
	Final  bool // WantsNone because of a complaint to the provider, which is not taken back here
}

const (
	// blockComplaint is the address's block that no one but the person lifts.
	blockComplaint = "complaint"

	// byPerson is the detail of a complaint that came by our own page. Only such
	// a one can be taken back there: the provider keeps its own.
	byPerson = "the person asked for no more mail"
)

// Subscription is which mail the address behind a ticket gets.
func (r *Roster) Subscription(ctx context.Context, t Ticket) (s Subscription, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		s, err = readSubscription(ctx, tx, t)
		return err
	})
	return s, err
}

// StopReminders keeps reminders from the address behind a ticket. It never
// brings back what was stopped before, and again changes nothing.
func (r *Roster) StopReminders(ctx context.Context, t Ticket) (Subscription, error) {
	now := r.now()
	return r.subscribe(ctx, t, now, EventRemindersStopped, `
		INSERT INTO address (app_id, email_key, unsubscribed_at)
		SELECT app_id, email_key, $2 FROM message WHERE id = $1
		ON CONFLICT (app_id, email_key) DO UPDATE SET unsubscribed_at = $2
		WHERE address.unsubscribed_at IS NULL`, now)
}

// StopMail keeps all mail of the app from the address behind a ticket, for good
// as far as the app is concerned: like a complaint, it can be lifted by nobody
// but the person. Again changes nothing.
func (r *Roster) StopMail(ctx context.Context, t Ticket) (Subscription, error) {
	now := r.now()
	return r.subscribe(ctx, t, now, EventMailStopped, `
		INSERT INTO address (app_id, email_key, unsubscribed_at, block, detail, blocked_at)
		SELECT app_id, email_key, $2, '`+blockComplaint+`', '`+byPerson+`', $2 FROM message WHERE id = $1
		ON CONFLICT (app_id, email_key) DO UPDATE SET
			unsubscribed_at = COALESCE(address.unsubscribed_at, $2), block = excluded.block, detail = excluded.detail, blocked_at = $2
		WHERE address.block <> '`+blockComplaint+`'`, now)
}

// ResumeMail takes back StopReminders and StopMail. A block for another reason
// stays.
func (r *Roster) ResumeMail(ctx context.Context, t Ticket) (Subscription, error) {
	return r.subscribe(ctx, t, r.now(), EventMailResumed, `
		UPDATE address SET unsubscribed_at = NULL,
			blocked_at = CASE WHEN address.block = '`+blockComplaint+`' THEN NULL ELSE address.blocked_at END,
			detail = CASE WHEN address.block = '`+blockComplaint+`' THEN '' ELSE address.detail END,
			block = CASE WHEN address.block = '`+blockComplaint+`' THEN '' ELSE address.block END
		FROM message
		WHERE message.id = $1 AND address.app_id = message.app_id AND address.email_key = message.email_key
			AND (address.block <> '`+blockComplaint+`' AND address.unsubscribed_at IS NOT NULL
				OR address.block = '`+blockComplaint+`' AND address.detail = '`+byPerson+`')`)
}

// subscribe does one conditional write to the address of mail $1, records it
// where it changed something, and reads what holds then.
func (r *Roster) subscribe(ctx context.Context, t Ticket, now time.Time, eventType, write string, args ...any) (s Subscription, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, write, append([]any{t.ID}, args...)...)
		if err != nil {
			return fmt.Errorf("change what mail is wanted after message %s: %w", t.ID, err)
		}
		if tag.RowsAffected() > 0 {
			e := newEvent{eventType: eventType}
			if err := tx.QueryRow(ctx, `
				SELECT app_id, subject_id, jsonb_build_object('message_id', id) FROM message WHERE id = $1`, t.ID).Scan(&e.app, &e.subject, &e.data); err != nil {
				return fmt.Errorf("read message %s: %w", t.ID, err)
			}
			if _, err := recordEvents(ctx, tx, now, e); err != nil {
				return err
			}
		}
		s, err = readSubscription(ctx, tx, t)
		return err
	})
	return s, err
}

// readSubscription fails with ErrDeadLink where the mail is no longer known.
func readSubscription(ctx context.Context, tx pgx.Tx, t Ticket) (s Subscription, err error) {
	rows, err := tx.Query(ctx, `
		SELECT `+appColumns+`, message.email_key, COALESCE(NULLIF(invitation.locale, ''), NULLIF(access_request.locale, ''), app.locale),
			COALESCE(address.block, ''), COALESCE(address.detail, ''), address.unsubscribed_at
		FROM message
		JOIN app ON app.id = message.app_id
		LEFT JOIN invitation ON invitation.app_id = message.app_id AND invitation.id = message.subject_id
		LEFT JOIN access_request ON access_request.app_id = message.app_id AND access_request.id = message.subject_id
		LEFT JOIN address ON address.app_id = message.app_id AND address.email_key = message.email_key
		WHERE message.id = $1`, t.ID)
	if err != nil {
		return s, fmt.Errorf("read what mail is wanted after message %s: %w", t.ID, err)
	}
	found, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[struct {
		App
		EmailKey, Language, Block, Detail string
		UnsubscribedAt                    *time.Time
	}])
	if errors.Is(err, pgx.ErrNoRows) {
		return s, ErrDeadLink
	}
	if err != nil {
		return s, fmt.Errorf("read what mail is wanted after message %s: %w", t.ID, err)
	}
	s = Subscription{App: found.App, Email: Mask(found.EmailKey), Locale: found.Language, Wanted: WantsAll}
	switch {
	case found.Block == blockComplaint:
		s.Wanted, s.Final = WantsNone, found.Detail != byPerson
	case found.UnsubscribedAt != nil:
		s.Wanted = WantsNoReminders
	}
	return s, nil
}
