package mail

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

const (
	// listWindow bounds the messages that one page of a list looks at, so that a
	// state that few of them are in costs no more than one that all are in.
	listWindow = 5_000

	// maxPerson bounds the messages of one person that are shown together: the
	// newest of them.
	maxPerson = 500

	// maxFacts bounds the facts of one person's messages shown together.
	maxFacts = 5_000
)

// Record is a message as it stands, with the dispatch that it was last frozen
// into.
type Record struct {
	ID         uuid.UUID
	AppID      uuid.UUID
	Kind       string
	SubjectID  uuid.UUID
	EmailKey   string // to whom, as compared
	Lane       Lane
	State      State
	Reason     string     // why it is held or ended so
	DueAt      *time.Time // waits to be written, not before this; nil: it does not wait
	Sender     string     // these three as frozen; empty before
	Recipient  string
	Subject    string
	ProviderID string // the provider's id of the mail; empty: it did not name one yet
	Retry      int    // how often it was written anew because the mailbox was full
	CreatedAt  time.Time
	SettledAt  *time.Time // when the provider's answer, or the end before one, was recorded
	FactAt     *time.Time // of the newest fact that counted, by the provider's clock

	// Of the dispatch; zero where it was not written yet.
	DispatchID     *uuid.UUID
	Dispatch       DispatchState
	WrittenAt      *time.Time
	Attempts       int
	Unknown        int // attempts whose outcome nobody knows
	FirstAttemptAt *time.Time
	LastAttemptAt  *time.Time
	Outcome        string // of the newest attempt, in words that may be about another of its messages
	Together       int    // messages in it
}

const recordColumns = `message.id, message.app_id, message.kind, message.subject_id, message.email_key, message.lane, message.state, message.reason,
	message.due_at, message.sender, message.recipient, message.subject, message.provider_id, COALESCE((message.args->>'retry')::int, 0), message.created_at, message.settled_at, message.fact_at,
	dispatch.id, COALESCE(dispatch.state, ''), dispatch.created_at, COALESCE(dispatch.attempts, 0), COALESCE(dispatch.unknown, 0),
	dispatch.first_attempt_at, dispatch.last_attempt_at, COALESCE(dispatch.outcome, ''), COALESCE(cardinality(dispatch.message_ids), 0)`

// Fact is one thing the provider told of a message.
type Fact struct {
	ID         string
	MessageID  uuid.UUID
	Type       string // "email.bounced"
	At         time.Time
	ReceivedAt time.Time
	AppliedAt  *time.Time
	Outcome    string // what it changed
	Said       string // the mail server's words, or the provider's
}

// RecordList says which messages to list.
type RecordList struct {
	EmailKey string    // empty: to everybody
	Subject  uuid.UUID // Nil: about everything
	State    State     // empty: in any state
	After    uuid.UUID // the last id of the page before; Nil: the first page
	Limit    int       // rows
}

// isUncertain finds uncertain messages by their dispatches, which are few.
const isUncertain = `message.state = 'uncertain' AND message.id = ANY(ARRAY(SELECT unnest(message_ids) FROM dispatch WHERE dispatch.state = 'uncertain'))`

// Records lists an app's messages, newest first. next is where the next page
// begins, Nil after the last. A page of messages in one state looks through
// listWindow of all: it may have fewer rows than asked for, or none, and still
// a next one.
func (o *Outbox) Records(ctx context.Context, app uuid.UUID, l RecordList) (list []Record, next uuid.UUID, err error) {
	clause, args := `WHERE message.app_id = $1`, []any{app}
	where := func(condition string, arg any) {
		args = append(args, arg)
		clause += fmt.Sprintf(` AND `+condition, len(args))
	}
	if l.EmailKey != "" {
		where(`message.email_key = $%d`, l.EmailKey)
	}
	if l.Subject != uuid.Nil {
		where(`message.subject_id = $%d`, l.Subject)
	}
	if l.After != uuid.Nil {
		where(`message.id < $%d`, l.After)
	}
	err = postgres.InTx(ctx, o.DB, func(tx pgx.Tx) error {
		switch l.State {
		case "":
		case Uncertain:
			clause += ` AND ` + isUncertain
		default:
			err := tx.QueryRow(ctx, `SELECT id FROM message `+clause+fmt.Sprintf(` ORDER BY id DESC OFFSET %d LIMIT 1`, listWindow-1), args...).Scan(&next)
			if err != nil && !errors.Is(err, pgx.ErrNoRows) {
				return fmt.Errorf("list messages: %w", err)
			}
			where(`message.id >= $%d`, next)
			where(`message.state = $%d`, l.State)
		}
		args = append(args, l.Limit+1)
		list, err = readRecords(ctx, tx, clause+fmt.Sprintf(` ORDER BY message.id DESC LIMIT $%d`, len(args)), args...)
		return err
	})
	if err != nil {
		return nil, uuid.Nil, err
	}
	if len(list) > l.Limit {
		list = list[:l.Limit]
		next = list[l.Limit-1].ID
	}
	return list, next, nil
}

// Record is one message of an app with what the provider told of it, in the
// order it happened; ok is false where there is none with that id.
func (o *Outbox) Record(ctx context.Context, app, id uuid.UUID) (r Record, facts []Fact, ok bool, err error) {
	err = postgres.InTx(ctx, o.DB, func(tx pgx.Tx) error {
		found, err := readRecords(ctx, tx, `WHERE message.app_id = $1 AND message.id = $2`, app, id)
		if err != nil || len(found) == 0 {
			return err
		}
		r, ok = found[0], true
		facts, err = readTold(ctx, tx, found)
		return err
	})
	return r, facts, ok, err
}

// Person is an app's mail with an address.
type Person struct {
	Messages []Record // oldest first; of very many, the newest
	Facts    []Fact   // what the provider told of them, in the order it happened
	Standing *Standing
}

// Standing is what an app remembers of an address.
type Standing struct {
	Block          Block      // empty: it can be written to
	Detail         string     // what the mail server said
	BlockedAt      *time.Time // nil: it is not blocked
	LiftedAt       *time.Time // when somebody last said that the mailbox exists
	SoftBounces    int        // days on which the mailbox was full
	UnsubscribedAt *time.Time // from reminders
}

// Person reads an app's mail with an address. Its Standing is nil where there
// is nothing to remember.
func (o *Outbox) Person(ctx context.Context, app uuid.UUID, emailKey string) (p Person, err error) {
	err = postgres.InTx(ctx, o.DB, func(tx pgx.Tx) error {
		p.Messages, err = readRecords(ctx, tx, `WHERE message.app_id = $1 AND message.email_key = $2 ORDER BY message.id DESC LIMIT $3`, app, emailKey, maxPerson)
		if err != nil {
			return err
		}
		slices.Reverse(p.Messages)
		if p.Facts, err = readTold(ctx, tx, p.Messages); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `
			SELECT block, detail, blocked_at, lifted_at, soft_bounces, unsubscribed_at FROM address WHERE app_id = $1 AND email_key = $2`, app, emailKey)
		if err != nil {
			return fmt.Errorf("read address: %w", err)
		}
		found, err := pgx.CollectRows(rows, pgx.RowToAddrOfStructByPos[Standing])
		if err != nil {
			return fmt.Errorf("read address: %w", err)
		}
		if len(found) > 0 {
			p.Standing = found[0]
		}
		return nil
	})
	return p, err
}

// readRecords reads messages. The clause follows their tables.
func readRecords(ctx context.Context, tx pgx.Tx, clause string, args ...any) ([]Record, error) {
	rows, err := tx.Query(ctx, `SELECT `+recordColumns+` FROM message LEFT JOIN dispatch ON dispatch.id = message.dispatch_id `+clause, args...)
	if err != nil {
		return nil, fmt.Errorf("read messages: %w", err)
	}
	list, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Record])
	if err != nil {
		return nil, fmt.Errorf("read messages: %w", err)
	}
	return list, nil
}

// readTold reads what the provider told of messages.
func readTold(ctx context.Context, tx pgx.Tx, list []Record) ([]Fact, error) {
	ids := make([]uuid.UUID, len(list))
	for i, r := range list {
		ids[i] = r.ID
	}
	rows, err := tx.Query(ctx, `
		SELECT id, message_id, type, at, received_at, applied_at, outcome, body
		FROM provider_event WHERE message_id = ANY($1) ORDER BY at, id LIMIT $2`, ids, maxFacts)
	if err != nil {
		return nil, fmt.Errorf("read provider events: %w", err)
	}
	facts, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (f Fact, err error) {
		var said Said
		err = row.Scan(&f.ID, &f.MessageID, &f.Type, &f.At, &f.ReceivedAt, &f.AppliedAt, &f.Outcome, &said)
		f.Said = said.words()
		return f, err
	})
	if err != nil {
		return nil, fmt.Errorf("read provider events: %w", err)
	}
	return facts, nil
}

// Next says in words what will become of the message by itself, or who has to
// do what. way is how mail leaves.
func (r Record) Next(way Way, now time.Time) string {
	switch r.State {
	case Queued, Held:
		return r.nextWaiting(way, now)
	case Sending:
		return r.nextSending(way, now)
	case Accepted:
		return "The provider has it. What becomes of it there is awaited."
	case Delayed:
		return "The recipient's mail server does not take it yet. The provider tries again by itself."
	case Delivered:
		return "Nothing more: it arrived."
	case Uncertain:
		return "It may or may not have been sent, and sending it again could do so twice. If the provider's dashboard shows it, settle it as sent, else as not_sent."
	case Cancelled:
		return "Nothing more: it was no longer wanted."
	case Bounced, Complained, Suppressed, Failed:
		o := NewOutlook(r.Reason, r.FactAt, r.Retry, r.CreatedAt, now)
		switch {
		case o.RetryAt != nil && o.RetryAt.After(now):
			return o.Says + " A new mail is written at " + clock(*o.RetryAt) + ", if it is still wanted."
		case o.Says != "":
			return o.Says
		}
		return "Nothing by itself."
	}
	return ""
}

func (r Record) nextWaiting(way Way, now time.Time) string {
	switch {
	case r.DueAt != nil && r.DueAt.After(now) && r.State == Held:
		return "Held until " + clock(*r.DueAt) + ", then tried again: " + r.Reason + "."
	case r.DueAt != nil && r.DueAt.After(now):
		return "It is written at " + clock(*r.DueAt) + ", if it is still wanted."
	case way.Blocked(now):
		return "It waits since " + span(now.Sub(r.CreatedAt)) + ": " + way.blocked()
	}
	return "It waits for its turn since " + span(now.Sub(r.CreatedAt)) + "."
}

func (r Record) nextSending(way Way, now time.Time) string {
	var next string
	switch {
	case r.Attempts == 0:
		next = "It is written and waits for its turn since " + span(now.Sub(*r.WrittenAt)) + "."
	case r.Unknown == 0:
		next = "The provider did not take it so far. It is tried again by itself."
	default:
		next = "The provider may or may not have it. The same request is sent again under the same key, by which it counts once, until " + clock(r.FirstAttemptAt.Add(replayFor)) + "."
	}
	if way.Blocked(now) {
		next += " " + way.blocked()
	}
	return next
}

// clock is a time in words.
func clock(at time.Time) string { return at.UTC().Format("2006-01-02 15:04:05 UTC") }

// span is a length of time in words, in the largest unit that it fills.
func span(d time.Duration) string {
	for _, unit := range []struct {
		length time.Duration
		name   string
	}{{24 * time.Hour, "d"}, {time.Hour, "h"}, {time.Minute, "min"}} {
		if d >= unit.length {
			return fmt.Sprintf("%d %s", d/unit.length, unit.name)
		}
	}
	return fmt.Sprintf("%d s", max(0, d)/time.Second)
}

// AppOf is the app that a message belongs to, Nil where there is no such
// message.
func (o *Outbox) AppOf(ctx context.Context, id uuid.UUID) (app uuid.UUID, err error) {
	err = postgres.InTx(ctx, o.DB, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `SELECT app_id FROM message WHERE id = $1`, id).Scan(&app)
	})
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return app, fmt.Errorf("read message %s: %w", id, err)
	}
	return app, nil
}
