package roster

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

// maxMoments bounds the events and the mails of a timeline.
const maxMoments = 1_000

// Timeline is what happened to a subject, and what comes next if nobody does
// anything.
type Timeline struct {
	Subject string // what it is: "invitation", "access_request", "merge", "account", or "other"
	Past    []Moment
	Coming  []Coming
}

// Moment is one thing that happened: an event, or a mail.
type Moment struct {
	At    time.Time
	Event *Event      // one of the two
	Mail  *MailMoment // likewise
}

// MailMoment is a mail about the subject.
type MailMoment struct {
	ID        uuid.UUID
	Kind      string
	State     Delivery
	Reason    string
	CreatedAt time.Time
	SettledAt *time.Time
}

// Coming is something that the clock will do.
type Coming struct {
	At     time.Time
	What   string // "reminder", "expires", "final" or "archives"
	Unless string // what keeps it from happening, for people
}

// The conditions of what comes.
const (
	unlessAnswered = "it is answered before"
	unlessReminded = "it is answered before, the address cannot be written to, or the person wants no reminders; several things of a person go into one mail"
	unlessUndone   = "it is undone before"
	unlessTaken    = "its person creates a password before, it is merged, or access is asked for again"
)

// Timeline tells what happened to a subject of an app, and what comes next.
func (r *Roster) Timeline(ctx context.Context, app, subject uuid.UUID) (t Timeline, err error) {
	events, _, err := r.Events(ctx, app, EventList{Subject: subject, Limit: maxMoments})
	if err != nil {
		return t, err
	}
	for i := range events {
		t.Past = append(t.Past, Moment{At: events[i].At, Event: &events[i]})
	}
	now := r.now()
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			SELECT id, kind, state, reason, created_at, settled_at FROM message
			WHERE subject_id = $2 AND app_id = $1 ORDER BY created_at LIMIT $3`, app, subject, maxMoments)
		if err != nil {
			return fmt.Errorf("read mails of %s: %w", subject, err)
		}
		mails, err := pgx.CollectRows(rows, pgx.RowToStructByPos[MailMoment])
		if err != nil {
			return fmt.Errorf("read mails of %s: %w", subject, err)
		}
		for i := range mails {
			t.Past = append(t.Past, Moment{At: mails[i].CreatedAt, Mail: &mails[i]})
		}
		t.Subject, t.Coming, err = coming(ctx, tx, app, subject, now)
		return err
	})
	if err == nil && t.Subject == "other" && len(t.Past) == 0 {
		err = notFound("subject")
	}
	slices.SortStableFunc(t.Past, func(a, b Moment) int { return a.At.Compare(b.At) })
	return t, err
}

// coming finds what a subject is, and what the clock will do about it.
func coming(ctx context.Context, tx pgx.Tx, app, subject uuid.UUID, now time.Time) (what string, c []Coming, err error) {
	var key string
	var ends *time.Time
	var open bool
	err = tx.QueryRow(ctx, `
		SELECT 'invitation', email_key, expires_at, `+isOpen+` FROM invitation WHERE app_id = $1 AND id = $2
		UNION ALL SELECT 'access_request', email_key, expires_at, `+requestIsOpen+` FROM access_request WHERE app_id = $1 AND id = $2 AND option <> 'new_account'
		UNION ALL SELECT 'access_request', email_key, queued_at + $3 * interval '1 second', false FROM access_request WHERE app_id = $1 AND id = $2 AND option = 'new_account'
		UNION ALL SELECT 'merge', '', undo_until, state = 'merged' FROM merge WHERE app_id = $1 AND id = $2
		UNION ALL SELECT 'account', '', NULL, false FROM account WHERE app_id = $1 AND id = $2`, app, subject, newAccountLife.Seconds()).Scan(&what, &key, &ends, &open)
	if errors.Is(err, pgx.ErrNoRows) {
		return "other", nil, nil
	}
	if err != nil {
		return "", nil, fmt.Errorf("look for subject %s: %w", subject, err)
	}
	if what == "merge" && open {
		return what, []Coming{{*ends, "final", unlessUndone}}, nil
	}
	if what == "account" {
		c, err = archival(ctx, tx, app, subject, now)
		return what, c, err
	}
	if key == "" {
		return what, nil, nil
	}
	things, err := readThings(ctx, tx, now, []uuid.UUID{app}, []string{key})
	if err != nil {
		return what, nil, err
	}
	settings, err := remindersOf(ctx, tx, []uuid.UUID{app})
	if err != nil {
		return what, nil, err
	}
	for _, t := range things {
		if t.ID != subject || t.Hindrance != "" && t.Hindrance != SkippedUnmailed {
			continue
		}
		plan := settings[app].Plan(t.reminded())
		for _, at := range plan[min(t.Done, len(plan)):] {
			c = append(c, Coming{maxTimeOf(at, now), "reminder", unlessReminded})
		}
	}
	if open {
		c = append(c, Coming{maxTimeOf(*ends, now), "expires", unlessAnswered})
	}
	return what, c, nil
}

// archival is when an account that was made for a client, and that nobody took so
// far, is archived.
func archival(ctx context.Context, tx pgx.Tx, app, account uuid.UUID, now time.Time) ([]Coming, error) {
	var option string
	var since time.Time
	err := tx.QueryRow(ctx, `
		SELECT option, decided_at FROM access_request JOIN account ON account.id = made_id AND account.unclaimed AND account.status IN ('temporary', 'active')
		WHERE access_request.app_id = $1 AND made_id = $2 AND `+isOver+` AND NOT `+isAskedAgain+`
		ORDER BY decided_at DESC LIMIT 1`, app, account).Scan(&option, &since)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for the archival of account %s: %w", account, err)
	}
	policy, err := policyOf(ctx, tx, app)
	days := policy.ArchiveTemporary
	if option == OptionNewAccount {
		days = policy.ArchiveUnclaimed
	}
	if err != nil || days == 0 {
		return nil, err
	}
	return []Coming{{maxTimeOf(since.AddDate(0, 0, days), now), "archives", unlessTaken}}, nil
}

// maxTimeOf is a time of a plan, or now where that is behind.
func maxTimeOf(at, now time.Time) time.Time {
	if at.Before(now) {
		return now
	}
	return at
}
