package roster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/text/unicode/norm"

	"usher/internal/postgres"
)

// PurposePassword tokens open /password/{token}. Their ticket is the mail's id,
// which says for which account and when it was asked for, with the account's
// password version: a new password kills all links that are out.
const PurposePassword Purpose = "password"

const (
	// passwordLife is how long the link to set a password works, from when its
	// mail was asked for: the person waits for it, and whoever finds it in a
	// mailbox tomorrow shall not have it.
	passwordLife = time.Hour

	// newAccountLife is the same for the link in the first mail of an account
	// that was made for a person, who did not ask for it.
	newAccountLife = 14 * 24 * time.Hour

	// passwordEvery is the rest between two such mails to an account, and
	// maxPasswordMails how many it gets in passwordDay: anybody can ask for them.
	passwordEvery    = 5 * time.Minute
	maxPasswordMails = 10
	passwordDay      = 24 * time.Hour
)

// The types of Event about passwords. Their subject is the account.
const (
	EventPasswordAsked = "account.password_asked"
	EventPasswordSet   = "account.password_set"
)

// errAccountMerged tells who logs in by the username of an account that lives on
// in another. Only who knows its password learns it.
var errAccountMerged = errorf(Conflict, "account_merged", "This account was merged into your own. Log in with the address or the username of that one.")

var errCredentials = errorf(Invalid, "credentials_wrong", "The address or username and the password do not belong together. After several wrong tries, an account rests for a quarter of an hour.")

// identifierCondition is what finds the account that an identifier names, its
// primary address or its username, on $1 the app and $2 named. A secondary
// address names nobody.
func identifierCondition(identifier string) (condition, named string) {
	identifier = strings.TrimSpace(identifier)
	if strings.Contains(identifier, "@") {
		address, err := ParseAddress(identifier)
		if err != nil {
			return `app_id = $1 AND $2 <> '' AND false`, ""
		}
		return `app_id = $1 AND email_key = $2 AND ` + isLive, address.Key
	}
	return `app_id = $1 AND username = $2 AND username <> ''`, strings.ToLower(norm.NFC.String(identifier))
}

// LogIn is the active account whose primary address or username is identifier
// and whose password is password. There is one refusal, for whatever does not
// fit: an unknown name, a wrong password, an account without one, and one that
// rests after too many wrong ones; all of them take the same time. The password
// of an account that was merged away gets errAccountMerged.
func (r *Roster) LogIn(ctx context.Context, app uuid.UUID, identifier, password string) (account Account, err error) {
	condition, named := identifierCondition(identifier)
	id, err := r.checkPassword(ctx, condition, app, named, password)
	if errors.Is(err, pgx.ErrNoRows) || errors.Is(err, errWrongPassword) {
		return account, errCredentials
	}
	if err != nil {
		return account, err
	}
	return r.Account(ctx, app, id)
}

// Destination is where a person goes on once their password is set: to the page
// of an invitation or of an access request, or, if both are Nil, nowhere in
// particular.
type Destination struct{ InvitationID, RequestID uuid.UUID }

// AskPassword mails a link to set a password to the account whose primary
// address or username is identifier, at most once in five minutes and ten times
// a day. Whether it did is told to nobody. The person comes back to next, if
// that is one of the app's, once the password is set.
func (r *Roster) AskPassword(ctx context.Context, app uuid.UUID, identifier string, next Destination, key IdempotencyKey) error {
	condition, named := identifierCondition(identifier)
	_, err := once(ctx, r, app, key, func(tx pgx.Tx) (struct{}, error) {
		return struct{}{}, r.askPassword(ctx, tx, condition, app, named, next)
	})
	return err
}

func (r *Roster) askPassword(ctx context.Context, tx pgx.Tx, condition string, app uuid.UUID, named string, next Destination) error {
	now := r.now()
	m := Mail{ID: newID(), AppID: app, Kind: MailPassword, Lane: Interactive}
	err := tx.QueryRow(ctx, `
		UPDATE account SET password_asked_at = $3
		WHERE `+condition+` AND `+isUsable+` AND `+isLive+`
			AND (password_asked_at IS NULL OR password_asked_at <= $4)
			AND (SELECT count(*) FROM message
				WHERE message.subject_id = account.id AND message.kind = $5 AND message.created_at > $6) < $7
		RETURNING id, password_version,
			(SELECT invitation.id FROM invitation WHERE invitation.app_id = $1 AND invitation.id = $8),
			(SELECT access_request.id FROM access_request WHERE access_request.app_id = $1 AND access_request.id = $9)`,
		app, named, now, now.Add(-passwordEvery), MailPassword, now.Add(-passwordDay), maxPasswordMails, next.InvitationID, next.RequestID).
		Scan(&m.SubjectID, &m.Args.Version, &m.Args.InvitationID, &m.Args.RequestID)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("ask for a password's mail: %w", err)
	}
	m.Purpose = "password:" + m.ID.String()
	if _, err := recordEvents(ctx, tx, now, newEvent{app, EventPasswordAsked, m.SubjectID, uuid.Nil, []byte(`{}`)}); err != nil {
		return err
	}
	return r.ask(ctx, tx, now, m)
}

// PasswordLink is what the holder of a link to set a password may see.
type PasswordLink struct {
	App          App
	Account      Account
	HasPassword  bool       // there is one to be replaced
	InvitationID *uuid.UUID // where the person goes on afterwards; nil: not to an invitation
	RequestID    *uuid.UUID // likewise; nil: not to an access request
	ExpiresAt    time.Time
}

// passwordLink reads what a link leads to. Of one that does not work any more
// it is no more than the app.
func (r *Roster) passwordLink(ctx context.Context, tx pgx.Tx, t Ticket, suffix string) (l PasswordLink, err error) {
	rows, err := tx.Query(ctx, `
		SELECT `+appColumns+`, `+accountColumns+`, account.password_hash <> '', account.password_version,
			(message.args->>'invitation_id')::uuid, (message.args->>'request_id')::uuid, message.kind, message.created_at
		FROM message
		JOIN account ON account.app_id = message.app_id AND account.id = message.subject_id
		JOIN app ON app.id = account.app_id
		WHERE message.id = $1 AND message.kind IN ($2, $3) `+suffix, t.ID, MailPassword, MailNewAccount)
	if err != nil {
		return l, fmt.Errorf("read password link: %w", err)
	}
	found, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[struct {
		App
		Account
		HasPassword  bool
		Version      int
		InvitationID *uuid.UUID
		RequestID    *uuid.UUID
		Kind         string
		AskedAt      time.Time
	}])
	if errors.Is(err, pgx.ErrNoRows) {
		return l, ErrDeadLink
	}
	if err != nil {
		return l, fmt.Errorf("read password link: %w", err)
	}
	l = PasswordLink{found.App, found.Account, found.HasPassword, found.InvitationID, found.RequestID, found.AskedAt.Add(linkLife(found.Kind))}
	if found.Version != t.Version || !usable(found.Account.Status) || !l.ExpiresAt.After(r.now()) {
		return PasswordLink{App: l.App}, ErrDeadLink
	}
	return l, nil
}

// linkLife is how long the link in a mail of that kind works.
func linkLife(kind string) time.Duration {
	if kind == MailNewAccount {
		return newAccountLife
	}
	return passwordLife
}

// ViewPasswordLink is what a ticket of PurposePassword stands for. Of a link
// that does not work any more it is no more than the app, with the refusal.
func (r *Roster) ViewPasswordLink(ctx context.Context, t Ticket) (l PasswordLink, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		l, err = r.passwordLink(ctx, tx, t, "")
		return err
	})
	return l, err
}

// SetPassword gives the account a link stands for the password with that hash,
// by HashPassword. All links that are out die, all browsers are signed out, and
// wrong tries are forgotten. Another app's link is as good as none.
func (r *Roster) SetPassword(ctx context.Context, app uuid.UUID, t Ticket, hash string, key IdempotencyKey) (PasswordLink, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (l PasswordLink, err error) {
		if l, err = r.passwordLink(ctx, tx, t, "FOR UPDATE OF account"); err != nil {
			return l, err
		}
		if app != l.App.ID {
			return PasswordLink{}, ErrDeadLink
		}
		tag, err := tx.Exec(ctx, `
			UPDATE account SET password_hash = $3, password_version = password_version + 1, failed_logins = 0, locked_until = NULL, unclaimed = false
			WHERE id = $1 AND password_version = $2`, l.Account.ID, t.Version, hash)
		if err != nil {
			return l, fmt.Errorf("set password of account %s: %w", l.Account.ID, err)
		}
		if tag.RowsAffected() == 0 {
			return PasswordLink{}, ErrDeadLink
		}
		if err := endSessions(ctx, tx, l.App.ID, l.Account.ID); err != nil {
			return l, err
		}
		_, err = recordEvents(ctx, tx, r.now(), newEvent{l.App.ID, EventPasswordSet, l.Account.ID, l.Account.ID, []byte(`{}`)})
		return l, err
	})
}

// PasswordLetter is what a mail with a link to set a password needs.
type PasswordLetter struct {
	PasswordLink
	Version int            // of the link's ticket; the mail is its subject
	Zone    *time.Location // of the person

	// Who made the account, for MailNewAccount.
	MakerName   string
	CompanyName string
}

// passwordLetters checks mails with links to set a password.
func (r *Roster) passwordLetters(ctx context.Context, tx pgx.Tx, mails []Mail, letters map[uuid.UUID]Letter) error {
	if len(mails) == 0 {
		return nil
	}
	ids := make([]uuid.UUID, len(mails))
	for i, m := range mails {
		ids[i] = m.ID
	}
	rows, err := tx.Query(ctx, `
		SELECT message.id, `+appColumns+`, `+accountColumns+`, COALESCE(address.block, ''), app.mail_stopped_until, app.mail_stopped_reason,
			COALESCE(`+mailKey+`, ''), account.password_hash <> '', account.password_version, message.created_at,
			COALESCE(maker.full_name, ''), COALESCE(company.name, '')
		FROM message
		JOIN account ON account.app_id = message.app_id AND account.id = message.subject_id
		JOIN app ON app.id = account.app_id
		LEFT JOIN address ON address.app_id = account.app_id AND address.email_key = `+mailKey+`
		LEFT JOIN access_request ON access_request.made_id = account.id AND message.kind = $2
		LEFT JOIN account maker ON maker.id = access_request.requester_id
		LEFT JOIN company ON company.id = access_request.company_id
		WHERE message.id = ANY($1)`, ids, MailNewAccount)
	if err != nil {
		return fmt.Errorf("read %d password mails: %w", len(ids), err)
	}
	type asked struct {
		MailID uuid.UUID
		newsAccount
		EmailKey    string
		HasPassword bool
		Version     int
		AskedAt     time.Time
		Maker       string
		Company     string
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[asked])
	if err != nil {
		return fmt.Errorf("read %d password mails: %w", len(ids), err)
	}
	byMail := make(map[uuid.UUID]asked, len(found))
	for _, a := range found {
		byMail[a.MailID] = a
	}
	now := r.now()
	for _, m := range mails {
		a, ok := byMail[m.ID]
		until := a.AskedAt.Add(linkLife(m.Kind))
		l := Letter{Block: a.Block, Stop: stopped(a.StoppedUntil, a.StoppedReason, now), Password: &PasswordLetter{
			PasswordLink: PasswordLink{App: a.App, Account: a.Account, HasPassword: a.HasPassword, ExpiresAt: until},
			Version:      a.Version, Zone: zone(a.Account.TimeZone, a.App.TimeZone), MakerName: a.Maker, CompanyName: a.Company,
		}}
		switch {
		case !ok:
			l.Skip = "the account is gone"
		case !usable(a.Status):
			l.Skip = Skip("the account is " + a.Status)
		case a.EmailKey != m.EmailKey:
			l.Skip = "the account has another address now"
		case a.Version != m.Args.Version:
			l.Skip = "the password was set since"
		case !until.After(now):
			l.Skip = "the link's time is over"
		}
		letters[m.ID] = l
	}
	return nil
}
