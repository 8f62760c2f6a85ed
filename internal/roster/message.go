package roster

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
)

// Lane is a way to the mail provider. What somebody waits for goes before what
// can wait a while.
type Lane string

// The lanes.
const (
	Interactive Lane = "interactive" // asked for by a person just now
	Bulk        Lane = "bulk"        // everything else
)

// Queue is where the lane's jobs wait.
func (l Lane) Queue() string { return "mail_" + string(l) }

// The kinds of mail.
const (
	MailInvitation = "invitation" // to the invited person
	MailReminder   = "reminder"   // to the invited person, that the invitation is still open
	MailNews       = "news"       // to the inviter: what became of invitations
	MailWorkspaces = "workspaces" // to a person who was added to workspaces, if the app's policy wants it
	MailPassword   = "password"   // to a person who wants to set a password

	MailNewAccount      = "new_account"      // to a person for whom an account was made, to set a password
	MailRequest         = "access_request"   // to whoever has the address of the account that access is asked for
	MailRequestReminder = "request_reminder" // of an access request that is still open
	MailDigest          = "digest"           // to a person who has several things to answer

	MailAuthorized = "access_granted" // to every address of a person whose account support gave access to
)

// Asks tells whether mail of a kind asks a person for a decision, so that its
// subject, an invitation or an access request, hangs on what becomes of it.
func Asks(kind string) bool {
	return kind == MailInvitation || kind == MailReminder || kind == MailRequest || kind == MailRequestReminder
}

// Mail is one e-mail that an action asked for: a row of the table message. It
// names its subject and nothing of its content, which is written when it is
// about to be sent, if the subject then still wants it.
type Mail struct {
	ID        uuid.UUID
	AppID     uuid.UUID
	Kind      string
	SubjectID uuid.UUID
	Purpose   string // at most one mail of a subject ever has it
	Args      MailArgs
	Lane      Lane
	EmailKey  string // to whom; empty: to the account that is the subject, if it can be written to
}

// MailArgs are what the late check compares with the subject.
type MailArgs struct {
	Version  int         `json:"version,omitempty"`   // all but MailNews and MailWorkspaces: of its link
	Send     int         `json:"send,omitempty"`      // MailInvitation, MailRequest: which mail of that version
	Retry    int         `json:"retry,omitempty"`     // likewise: how often it was written again because the mailbox was full
	EventIDs []uuid.UUID `json:"event_ids,omitempty"` // MailNews: what is told

	Items []MailItem `json:"items,omitempty"` // MailDigest: what it names

	InvitationID *uuid.UUID `json:"invitation_id,omitempty"` // MailPassword: where the person goes on; nil: not to an invitation
	RequestID    *uuid.UUID `json:"request_id,omitempty"`    // likewise; nil: not to an access request
}

// MailItem is one of the things that a digest names.
type MailItem struct {
	ID      uuid.UUID `json:"id"`
	Version int       `json:"version"`
	Request bool      `json:"request,omitempty"` // an access request, not an invitation
}

// ComposeMail is the job that writes what waits in a lane. One is enough for
// any number of mails, and one too many does nothing.
type ComposeMail struct {
	Lane Lane `json:"lane"`
}

// Kind is the job's name in River.
func (ComposeMail) Kind() string { return "compose_mail" }

// InsertOpts say where the job waits. It is not retried for long: the clock
// starts one every minute.
func (c ComposeMail) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: c.Lane.Queue(), MaxAttempts: 3} // as in wakeComposer
}

// wakeComposer is what River's InsertTx does with a ComposeMail, as a part of
// another statement, from rows with a lane; wokenNotified follows it and wakes
// the workers at the commit. It is for the one place where a round trip shows,
// the creation of a single invitation; a test holds it to River's own row.
const (
	wakeComposer = `
		INSERT INTO river_job (kind, args, queue, max_attempts, state)
		SELECT 'compose_mail', jsonb_build_object('lane', lane), 'mail_' || lane, 3, 'available'`
	wokenNotified = `
		RETURNING pg_notify(current_schema() || '.river_insert', json_build_object('queue', queue)::text)`
)

// mail is the invitation's newest mail, which is inv.MessageID.
func (inv Invitation) mail() Mail {
	return Mail{
		ID: *inv.MessageID, AppID: inv.AppID, Kind: MailInvitation, SubjectID: inv.ID,
		Purpose: fmt.Sprintf("v%d:send:%d", inv.Version, inv.Sends),
		Args:    MailArgs{Version: inv.Version, Send: inv.Sends},
		Lane:    Interactive, EmailKey: inv.EmailKey,
	}
}

// ask stores mails of one lane within tx and has them written. One whose purpose
// its subject has had is no second mail.
func (r *Roster) ask(ctx context.Context, tx pgx.Tx, now time.Time, mails ...Mail) error {
	if len(mails) == 0 {
		return nil
	}
	n := len(mails)
	ids, apps, subjects := make([]uuid.UUID, n), make([]uuid.UUID, n), make([]uuid.UUID, n)
	kinds, purposes, keys, args := make([]string, n), make([]string, n), make([]string, n), make([][]byte, n)
	for i, m := range mails {
		ids[i], apps[i], subjects[i], kinds[i], purposes[i], keys[i], args[i] = m.ID, m.AppID, m.SubjectID, m.Kind, m.Purpose, m.EmailKey, m.Args.encode()
	}
	if _, err := tx.Exec(ctx, `
		INSERT INTO message (id, app_id, kind, subject_id, purpose, args, lane, email_key, state, due_at, created_at)
		SELECT id, app_id, kind, subject_id, purpose, args, $8, to_key, 'queued', $9, $9
		FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::uuid[], $5::text[], $6::jsonb[], $7::text[])
			AS q (id, app_id, kind, subject_id, purpose, args, email_key)
		CROSS JOIN LATERAL (SELECT COALESCE(NULLIF(q.email_key, ''), (SELECT `+mailKey+` FROM account WHERE account.id = q.subject_id)) AS to_key) AS addressed
		WHERE to_key IS NOT NULL
		ON CONFLICT (subject_id, purpose) DO NOTHING`,
		ids, apps, kinds, subjects, purposes, args, keys, mails[0].Lane, now); err != nil {
		return fmt.Errorf("ask for %d mails: %w", n, err)
	}
	return r.enqueue(ctx, tx, ComposeMail{mails[0].Lane})
}

func (a MailArgs) encode() []byte {
	encoded, err := json.Marshal(a)
	if err != nil {
		panic(err) // plain data: it always marshals
	}
	return encoded
}

// mailInvitation asks for the mail that inv.MessageID was just set to.
func (r *Roster) mailInvitation(ctx context.Context, tx pgx.Tx, inv *Invitation, now time.Time) error {
	inv.Delivery = MailQueued
	return r.ask(ctx, tx, now, inv.mail())
}
