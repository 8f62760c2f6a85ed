package roster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

// maxStatement bounds what is kept of a client's written statement, in
// characters: a letter.
const maxStatement = 4_000

// errNotHolder refuses an answer from an account that the request is not about.
var errNotHolder = errorf(Forbidden, "wrong_account", "This account does not have the address that the request was sent to.")

// changeRequest runs one conditional UPDATE of an access request, as change does
// of an invitation.
func changeRequest(ctx context.Context, tx pgx.Tx, app, id uuid.UUID, clause string, args ...any) (q AccessRequest, ok bool, err error) {
	q, err = collectRequest(tx.Query(ctx, `UPDATE access_request `+clause+` RETURNING `+requestColumns, args...))
	if err == nil {
		return q, true, nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return q, false, fmt.Errorf("change access request %s: %w", id, err)
	}
	q, err = readRequest(ctx, tx, app, id, "")
	return q, false, err
}

// answerer is who answers a request, and how: by the link, which shows that they
// read the mailbox, or logged in.
type answerer struct {
	version int       // of the link; 0: not by it
	account uuid.UUID // logged in; Nil: nobody
}

// ApproveRequest gives access by the link: at once where the address is the one
// that the account's person logs in by, and nobody else's. Otherwise the yes is
// kept until somebody logs in to the account meant and says so there; account is
// who is logged in, Nil nobody.
func (r *Roster) ApproveRequest(ctx context.Context, t Ticket, account uuid.UUID, v Visibility) (q AccessRequest, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		app, err := appOfRequest(ctx, tx, t)
		if err != nil {
			return err
		}
		q, err = r.approve(ctx, tx, app, t.ID, answerer{t.Version, account}, v)
		return err
	})
	return q, err
}

// ApproveRequestAs gives access to an account in the name of its person.
func (r *Roster) ApproveRequestAs(ctx context.Context, app, account, id uuid.UUID, v Visibility, key IdempotencyKey) (AccessRequest, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (AccessRequest, error) {
		if err := mayRead(ctx, tx, app, &account); err != nil {
			return AccessRequest{}, err
		}
		return r.approve(ctx, tx, app, id, answerer{account: account}, v)
	})
}

func (r *Roster) approve(ctx context.Context, tx pgx.Tx, app, id uuid.UUID, a answerer, v Visibility) (AccessRequest, error) {
	if v == "" {
		v = VisibilityStandard
	}
	if !v.valid() {
		return AccessRequest{}, errVisibility
	}
	now := r.now()
	// The lock keeps the holders and the decision together; the UPDATE decides.
	q, err := readRequest(ctx, tx, app, id, "FOR UPDATE")
	if err != nil {
		return q, err
	}
	if a.version != 0 && a.version != q.Version {
		return q, ErrDeadLink
	}
	held, err := holdersOf(ctx, tx, app, q.EmailKey)
	if err != nil {
		return q, err
	}
	clients := held.clients()
	target, proven := a.account, clients.has(a.account)
	switch {
	case a.account != uuid.Nil && !proven:
		if a.version == 0 {
			return q, errNotHolder
		}
		a.account, target = uuid.Nil, uuid.Nil // by the link alone
	case a.account == uuid.Nil && len(held) == 1 && len(clients) == 1 && clients[0].Primary:
		target, proven = clients[0].ID, true
	}
	switch {
	case q.State == Granted && a.account != uuid.Nil && *q.TargetID != a.account:
		return q, q.stands() // access to another's account was given
	case q.State == Granted, q.State == Approved && !proven:
		return q, nil // said before
	case !q.Open() || !q.ExpiresAt.After(now):
		return q, q.notOpen()
	case len(clients) == 0:
		return q, errorf(Gone, "withdrawn", "No account has the address of this request any more.")
	}
	if !proven {
		return r.keepApproval(ctx, tx, q, v, now)
	}
	before := q.State
	q, ok, err := changeRequest(ctx, tx, app, id, `
		SET state = 'granted', visibility = $3, target_id = $4, decided_at = $5, decided_by = $4
		WHERE app_id = $1 AND id = $2 AND `+requestIsOpen+` AND expires_at > $5`, app, id, v, target, now)
	if err != nil {
		return q, err
	}
	if !ok {
		return q, q.notOpen()
	}
	events := []string{EventRequestApproved, EventRequestGranted}
	if before == Approved {
		events = events[1:]
	}
	return q, r.grant(ctx, tx, q, target, now, events...)
}

// keepApproval remembers a yes that has yet to be shown to be the right person's.
func (r *Roster) keepApproval(ctx context.Context, tx pgx.Tx, q AccessRequest, v Visibility, now time.Time) (AccessRequest, error) {
	q, ok, err := changeRequest(ctx, tx, q.AppID, q.ID, `
		SET state = 'approved', visibility = $3, decided_at = $4, expires_at = greatest(expires_at, $5)
		WHERE app_id = $1 AND id = $2 AND state IN ('pending', 'on_hold') AND expires_at > $4`, q.AppID, q.ID, v, now, now.Add(approvedLife))
	if err != nil {
		return q, err
	}
	if !ok {
		return q, q.notOpen()
	}
	_, err = q.record(ctx, tx, now, uuid.Nil, EventRequestApproved)
	return q, err
}

// grant opens the records of a request that was just granted, begins the merge
// if the app's policy wants that, and tells who asked.
func (r *Roster) grant(ctx context.Context, tx pgx.Tx, q AccessRequest, actor uuid.UUID, now time.Time, events ...string) error {
	if err := openRecords(ctx, tx, q, *q.TargetID, q.Visibility, now); err != nil {
		return err
	}
	ids, err := q.record(ctx, tx, now, actor, events...)
	if err != nil {
		return err
	}
	if err := r.mergeIfAutomatic(ctx, tx, q, now); err != nil {
		return err
	}
	return r.tellRequester(ctx, tx, q, now, ids[len(ids)-1])
}

// DenyRequest refuses access by the link, without a log-in: nothing is opened by
// it. reported says that the request was not about the person at all. By the
// link of a request that was granted, reported ends the access.
func (r *Roster) DenyRequest(ctx context.Context, t Ticket, reported bool) (q AccessRequest, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		app, err := appOfRequest(ctx, tx, t)
		if err != nil {
			return err
		}
		q, err = r.deny(ctx, tx, app, t.ID, answerer{version: t.Version}, reported)
		return err
	})
	return q, err
}

// DenyRequestAs refuses access to an account in the name of its person.
func (r *Roster) DenyRequestAs(ctx context.Context, app, account, id uuid.UUID, reported bool, key IdempotencyKey) (AccessRequest, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (AccessRequest, error) {
		if err := mayRead(ctx, tx, app, &account); err != nil {
			return AccessRequest{}, err
		}
		return r.deny(ctx, tx, app, id, answerer{account: account}, reported)
	})
}

func (r *Roster) deny(ctx context.Context, tx pgx.Tx, app, id uuid.UUID, a answerer, reported bool) (AccessRequest, error) {
	now := r.now()
	q, ok, err := changeRequest(ctx, tx, app, id, `
		SET state = 'denied', reported = $3, decided_at = $4, decided_by = NULLIF($6, '00000000-0000-0000-0000-000000000000'::uuid), visibility = NULL
		WHERE app_id = $1 AND id = $2 AND `+requestIsOpen+` AND expires_at > $4 AND ($5 = 0 OR version = $5)
			AND ($6 = '00000000-0000-0000-0000-000000000000'::uuid OR EXISTS (SELECT FROM account
				WHERE account.id = $6 AND account.app_id = $1 AND account.kind = 'client' AND account.status IN ('active', 'invited') AND (account.email_key = access_request.email_key
					OR EXISTS (SELECT FROM secondary_email s WHERE s.account_id = account.id AND s.email_key = access_request.email_key))))`,
		app, id, reported, now, a.version, a.account)
	if err != nil {
		return q, err
	}
	if !ok {
		switch {
		case a.version != 0 && q.Version != a.version:
			return q, ErrDeadLink
		case q.State == Denied && (a.account == uuid.Nil || q.DecidedBy == nil || *q.DecidedBy == a.account):
			return q, nil
		case q.Open() && q.ExpiresAt.After(now):
			return q, errNotHolder
		}
		return q, q.notOpen()
	}
	events := []string{EventRequestDenied}
	if reported {
		events = append(events, EventRequestReported)
	}
	ids, err := q.record(ctx, tx, now, a.account, events...)
	if err != nil {
		return q, err
	}
	if err := r.keepTemporary(ctx, tx, now, q); err != nil {
		return q, err
	}
	return q, r.tellRequester(ctx, tx, q, now, ids[0])
}

// keepTemporary turns the temporary accounts of requests that came to nothing
// into separate ones: nothing of what was done in them is lost.
func (r *Roster) keepTemporary(ctx context.Context, tx pgx.Tx, now time.Time, requests ...AccessRequest) error {
	var made []uuid.UUID
	for _, q := range requests {
		if q.MadeID != nil {
			made = append(made, *q.MadeID)
		}
	}
	if len(made) == 0 {
		return nil
	}
	rows, err := tx.Query(ctx, `
		UPDATE account SET status = 'active' WHERE id = ANY($1) AND status = 'temporary' RETURNING app_id, id`, made)
	if err != nil {
		return fmt.Errorf("keep %d temporary accounts: %w", len(made), err)
	}
	kept, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ App, ID uuid.UUID }])
	if err != nil {
		return fmt.Errorf("keep %d temporary accounts: %w", len(made), err)
	}
	events := make([]newEvent, len(kept))
	for i, account := range kept {
		events[i] = newEvent{account.App, EventAccountKept, account.ID, uuid.Nil, json.RawMessage(`{}`)}
	}
	_, err = recordEvents(ctx, tx, now, events...)
	return err
}

// RevokeRequest ends access by the link: whoever reads the mailbox may take back
// what was opened. It is what "this was not me" does after support gave access.
func (r *Roster) RevokeRequest(ctx context.Context, t Ticket) (q AccessRequest, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		app, err := appOfRequest(ctx, tx, t)
		if err != nil {
			return err
		}
		q, err = r.revoke(ctx, tx, app, t.ID, answerer{version: t.Version}, true)
		return err
	})
	return q, err
}

// RevokeRequestAs ends access to an account in the name of its person; Nil is
// the app itself.
func (r *Roster) RevokeRequestAs(ctx context.Context, app, account, id uuid.UUID, key IdempotencyKey) (AccessRequest, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (AccessRequest, error) {
		if account != uuid.Nil {
			if err := mayRead(ctx, tx, app, &account); err != nil {
				return AccessRequest{}, err
			}
		}
		return r.revoke(ctx, tx, app, id, answerer{account: account}, false)
	})
}

func (r *Roster) revoke(ctx context.Context, tx pgx.Tx, app, id uuid.UUID, a answerer, reported bool) (AccessRequest, error) {
	now := r.now()
	q, ok, err := changeRequest(ctx, tx, app, id, `
		SET state = 'revoked', decided_at = $3, reported = reported OR ($6 AND evidence IS NOT NULL)
		WHERE app_id = $1 AND id = $2 AND state = 'granted' AND option <> 'new_account' AND ($4 = 0 OR version = $4)
			AND ($5 = '00000000-0000-0000-0000-000000000000'::uuid OR target_id = $5)`, app, id, now, a.version, a.account, reported)
	if err != nil {
		return q, err
	}
	if !ok {
		switch {
		case a.version != 0 && q.Version != a.version:
			return q, ErrDeadLink
		case a.account != uuid.Nil && (q.TargetID == nil || *q.TargetID != a.account):
			return q, errNotHolder
		case q.State == Revoked:
			return q, nil
		case q.Option == OptionNewAccount:
			return q, errorf(Conflict, "nothing_to_revoke", "This account was made by the company itself: there is no access to take back.")
		}
		return q, q.stands()
	}
	if err := r.cancelMergesOf(ctx, tx, q, a.account, now); err != nil {
		return q, err
	}
	if _, err := tx.Exec(ctx, `
		UPDATE record_access SET revoked_at = $4
		WHERE app_id = $1 AND account_id = $2 AND company_id = $3 AND revoked_at IS NULL`, app, q.TargetID, q.CompanyID, now); err != nil {
		return q, fmt.Errorf("close records of account %s: %w", q.TargetID, err)
	}
	events := []string{EventRequestRevoked}
	if reported && q.Reported {
		events = append(events, EventRequestReported)
	}
	ids, err := q.record(ctx, tx, now, a.account, events...)
	if err != nil {
		return q, err
	}
	if err := r.keepTemporary(ctx, tx, now, q); err != nil {
		return q, err
	}
	return q, r.tellRequester(ctx, tx, q, now, ids[0])
}

// steerRequest runs an operation of a professional on a request of their
// company, and remembers the answer under the key.
func (r *Roster) steerRequest(ctx context.Context, app, actor, id uuid.UUID, key IdempotencyKey, op func(tx pgx.Tx, now time.Time) (AccessRequest, error)) (AccessRequest, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (AccessRequest, error) {
		q, err := readRequest(ctx, tx, app, id, "")
		if err != nil {
			return q, err
		}
		if _, err := companyOf(ctx, tx, app, actor, q.CompanyID); err != nil {
			return q, err
		}
		return op(tx, r.now())
	})
}

// CancelRequest withdraws an open request; its links die.
func (r *Roster) CancelRequest(ctx context.Context, app, actor, id uuid.UUID, key IdempotencyKey) (AccessRequest, error) {
	return r.steerRequest(ctx, app, actor, id, key, func(tx pgx.Tx, now time.Time) (AccessRequest, error) {
		q, ok, err := changeRequest(ctx, tx, app, id, `
			SET state = 'cancelled', decided_at = $3 WHERE app_id = $1 AND id = $2 AND `+requestIsOpen, app, id, now)
		if err != nil {
			return q, err
		}
		if !ok {
			if q.State == Cancelled {
				return q, nil
			}
			return q, q.stands()
		}
		if _, err := q.record(ctx, tx, now, actor, EventRequestCancelled); err != nil {
			return q, err
		}
		return q, r.keepTemporary(ctx, tx, now, q)
	})
}

// ResendRequest mails a request again, with the same link: an open one, or one
// whose account its person has not taken possession of.
func (r *Roster) ResendRequest(ctx context.Context, app, actor, id uuid.UUID, key IdempotencyKey) (AccessRequest, error) {
	return r.steerRequest(ctx, app, actor, id, key, func(tx pgx.Tx, now time.Time) (AccessRequest, error) {
		p, err := policyOf(ctx, tx, app)
		if err != nil {
			return AccessRequest{}, err
		}
		q, ok, err := changeRequest(ctx, tx, app, id, `
			SET state = CASE state WHEN 'on_hold' THEN 'pending' ELSE state END, sends = sends + 1, message_id = $4, queued_at = $3
			WHERE app_id = $1 AND id = $2 AND `+mailable+` AND sends <= $5 AND (queued_at IS NULL OR queued_at <= $6)
				AND NOT EXISTS (SELECT FROM address WHERE address.app_id = access_request.app_id AND address.email_key = access_request.email_key AND address.block <> '')`,
			app, id, now, newID(), p.MaxResends, now.Add(-p.Rest()))
		if err != nil {
			return q, err
		}
		if !ok {
			return q, notMailable(ctx, tx, q, p, now)
		}
		if _, err := q.record(ctx, tx, now, actor, EventRequestResent); err != nil {
			return q, err
		}
		return q, r.mailRequest(ctx, tx, &q, now)
	})
}

// mailable is the condition, on $3 the time, of requests whose mail is still
// wanted: those that can be decided, and those whose new account its person has
// not taken possession of.
const mailable = `(` + requestIsOpen + ` AND access_request.state <> 'approved' AND access_request.expires_at > $3
	OR access_request.option = 'new_account' AND EXISTS (SELECT FROM account WHERE account.id = access_request.made_id AND account.unclaimed AND account.status = 'active'))`

// notMailable says which condition of ResendRequest failed.
func notMailable(ctx context.Context, tx pgx.Tx, q AccessRequest, p Policy, now time.Time) error {
	switch {
	case q.Option == OptionNewAccount && q.Sends <= p.MaxResends && q.QueuedAt.Add(p.Rest()).Before(now):
		var block string
		if err := tx.QueryRow(ctx, `SELECT COALESCE((SELECT block FROM address WHERE app_id = $1 AND email_key = $2), '')`, q.AppID, q.EmailKey).Scan(&block); err != nil {
			return fmt.Errorf("read address of access request %s: %w", q.ID, err)
		}
		if block == "" {
			return errorf(Conflict, "already_claimed", "The client has set a password: there is nothing to mail.")
		}
	case q.Option != OptionNewAccount && (q.State != Pending && q.State != OnHold || !q.ExpiresAt.After(now)):
		return q.notOpen()
	}
	switch {
	case q.Sends > p.MaxResends:
		return errorf(Conflict, "resend_limit", "This request was mailed %d times, which is the most. Ask the client to look into the spam folder, correct the address, or have support give access.", q.Sends)
	case q.QueuedAt != nil && q.QueuedAt.Add(p.Rest()).After(now):
		err := errorf(TooSoon, "resend_too_soon", "This request was mailed less than %s ago.", minutes(p.ResendMinutes))
		at := q.QueuedAt.Add(p.Rest())
		err.RetryAt = &at
		return err
	}
	err := errorf(Conflict, "address_blocked", "Mail to this address came back, or its owner wants none. Correct the address, or have support give access.")
	err.State = q.State
	return err
}

// mailRequest asks for the mail that q.MessageID was just set to.
func (r *Roster) mailRequest(ctx context.Context, tx pgx.Tx, q *AccessRequest, now time.Time) error {
	q.Delivery = MailQueued
	m := q.mail()
	if q.Option == OptionNewAccount {
		m = q.newAccountMail()
		if err := tx.QueryRow(ctx, `SELECT password_version FROM account WHERE id = $1`, q.MadeID).Scan(&m.Args.Version); err != nil {
			return fmt.Errorf("read account %s: %w", q.MadeID, err)
		}
	}
	return r.ask(ctx, tx, now, m)
}

// CorrectRequestAddress gives an open request another address, which an account
// has to have, and mails it there. Links sent to the old one die. Of a new
// account it is the secondary address that is corrected.
func (r *Roster) CorrectRequestAddress(ctx context.Context, app, actor, id uuid.UUID, email string, key IdempotencyKey) (AccessRequest, error) {
	return r.steerRequest(ctx, app, actor, id, key, func(tx pgx.Tx, now time.Time) (AccessRequest, error) {
		address, err := ParseAddress(email)
		if err != nil {
			return AccessRequest{}, err
		}
		q, err := readRequest(ctx, tx, app, id, "FOR UPDATE")
		if err != nil {
			return q, err
		}
		if q.EmailKey == address.Key {
			return q, invalidField("email", "email_unchanged", "The request has this address already. To mail it again, resend it.")
		}
		held, err := holdersOf(ctx, tx, app, address.Key)
		if err != nil {
			return q, err
		}
		clients := held.clients()
		if q.Option != OptionNewAccount {
			switch {
			case len(held) == 0:
				return q, errEmailFree
			case len(clients) == 0:
				return q, errEmailProfessional
			}
		}
		before := q.EmailKey
		q, ok, err := changeRequest(ctx, tx, app, id, `
			SET email = $4, email_key = $5, target_id = CASE option WHEN 'new_account' THEN NULL ELSE $6::uuid END,
				state = CASE option WHEN 'new_account' THEN state ELSE 'pending' END,
				version = version + 1, sends = 1, message_id = $7, queued_at = $3
			WHERE app_id = $1 AND id = $2 AND `+mailable+` AND version < $8`,
			app, id, now, address.Typed, address.Key, clients.target(), newID(), maxVersion)
		if postgres.Violates(err, "access_request_open") || postgres.Violates(err, "access_request_open_target") {
			return q, errorf(Conflict, "already_requested", "The company has an open request for this address already.")
		}
		if err != nil {
			return q, err
		}
		switch {
		case !ok && q.Version >= maxVersion:
			return q, errorf(Conflict, "correction_limit", "This request was corrected %d times, which is the most. Cancel it and create a new one.", q.Version-1)
		case !ok && q.Option == OptionNewAccount:
			return q, errorf(Conflict, "already_claimed", "The client has set a password: the address is theirs to change.")
		case !ok:
			return q, q.notOpen()
		}
		if q.MadeID != nil {
			if _, err := tx.Exec(ctx, `
				UPDATE secondary_email SET email = $3, email_key = $4
				WHERE account_id = $1 AND email_key = $2 AND NOT EXISTS (SELECT FROM secondary_email s WHERE s.account_id = $1 AND s.email_key = $4)`,
				q.MadeID, before, address.Typed, address.Key); err != nil {
				return q, fmt.Errorf("correct address of account %s: %w", q.MadeID, err)
			}
		}
		if q.Option != OptionNewAccount {
			if err := q.note(ctx, tx, clients, now); err != nil {
				return q, err
			}
		}
		if _, err := q.record(ctx, tx, now, actor, EventRequestCorrected); err != nil {
			return q, err
		}
		return q, r.mailRequest(ctx, tx, &q, now)
	})
}

// Authorization is what support writes down when it gives access on the client's
// own word.
type Authorization struct {
	Operator, Statement, Reference string
	AccountID                      uuid.UUID  // the account meant; Nil: the only one with the address
	Visibility                     Visibility // empty: standard
}

// AuthorizeRequest gives access by hand, on the client's written statement. It
// is never done over a denial. Every address of the client is told, and so is
// their inbox: by the link there, access ends at once.
func (r *Roster) AuthorizeRequest(ctx context.Context, app, id uuid.UUID, a Authorization, key IdempotencyKey) (AccessRequest, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (AccessRequest, error) {
		now := r.now()
		evidence, err := a.evidence(now)
		if err != nil {
			return AccessRequest{}, err
		}
		q, err := readRequest(ctx, tx, app, id, "FOR UPDATE")
		if err != nil {
			return q, err
		}
		held, err := holdersOf(ctx, tx, app, q.EmailKey)
		if err != nil {
			return q, err
		}
		clients := held.clients()
		target := a.AccountID
		if only := clients.target(); target == uuid.Nil && only != nil {
			target = *only
		}
		if target == uuid.Nil && len(clients) > 1 {
			return q, invalidField("account_id", "account_ambiguous", "Several accounts have this address. Say which one is meant.")
		}
		if a.AccountID != uuid.Nil {
			if err := living(ctx, tx, app, &a.AccountID); err != nil {
				return q, err
			}
		}
		if q.Option == OptionNewAccount || !clients.has(target) {
			return q, errorf(Conflict, "account_not_meant", "This is no client's account with the address of the request.")
		}
		v := a.Visibility
		if v == "" {
			v = VisibilityStandard
		}
		q, ok, err := changeRequest(ctx, tx, app, id, `
			SET state = 'granted', visibility = $3, target_id = $4, decided_at = $5, decided_by = NULL, evidence = $6
			WHERE app_id = $1 AND id = $2 AND (`+requestIsOpen+` OR state = 'expired')`, app, id, v, target, now, evidence)
		if err != nil {
			return q, err
		}
		if !ok {
			return q, q.stands()
		}
		if err := r.grant(ctx, tx, q, uuid.Nil, now, EventRequestAuthorized, EventRequestGranted); err != nil {
			return q, err
		}
		if err := q.note(ctx, tx, holders{{ID: target}}, now); err != nil {
			return q, err
		}
		return q, r.tellAuthorized(ctx, tx, q, now)
	})
}

func (a Authorization) evidence(now time.Time) (*Evidence, error) {
	if a.Visibility != "" && !a.Visibility.valid() {
		return nil, errVisibility
	}
	e := &Evidence{At: now}
	for _, f := range []struct {
		name, typed string
		kept        *string
		most        int
	}{{"operator", a.Operator, &e.Operator, maxName}, {"statement", a.Statement, &e.Statement, maxStatement}, {"reference", a.Reference, &e.Reference, maxName}} {
		*f.kept = strings.TrimSpace(f.typed)
		if *f.kept == "" || len(*f.kept) > 4*f.most || strings.ContainsFunc(*f.kept, func(r rune) bool { return r != '\n' && r != '\t' && unprintable(r) }) {
			return nil, invalidField(f.name, "evidence_missing", "To give access by hand, say who does it (operator), what the client wrote (statement), and where that is kept (reference): plain text, the statement at most %d characters.", maxStatement)
		}
	}
	return e, nil
}

// tellAuthorized asks for a mail to each address of the client.
func (r *Roster) tellAuthorized(ctx context.Context, tx pgx.Tx, q AccessRequest, now time.Time) error {
	rows, err := tx.Query(ctx, `
		SELECT email_key FROM account WHERE id = $1 AND email_key IS NOT NULL
		UNION SELECT email_key FROM secondary_email WHERE account_id = $1`, q.TargetID)
	if err != nil {
		return fmt.Errorf("read addresses of account %s: %w", q.TargetID, err)
	}
	keys, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("read addresses of account %s: %w", q.TargetID, err)
	}
	mails := make([]Mail, len(keys))
	for i, key := range keys {
		mails[i] = Mail{
			ID: newID(), AppID: q.AppID, Kind: MailAuthorized, SubjectID: q.ID, Purpose: fmt.Sprintf("authorized:%d", i+1),
			Args: MailArgs{Version: q.Version}, Lane: Interactive, EmailKey: key,
		}
	}
	return r.ask(ctx, tx, now, mails...)
}

// ExpireRequests ends at most limit open access requests whose time is over and
// tells who asked. It answers how many it ended, as ExpireInvitations does.
func (r *Roster) ExpireRequests(ctx context.Context, limit int) (ended int, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		expired, err := r.expireDueRequests(ctx, tx, r.now(), limit)
		ended = len(expired)
		return err
	})
	return ended, err
}

func (r *Roster) expireDueRequests(ctx context.Context, tx pgx.Tx, now time.Time, limit int) ([]AccessRequest, error) {
	return r.expireRequests(ctx, tx, now, `id = ANY(ARRAY(
			SELECT id FROM access_request WHERE `+requestIsOpen+` AND expires_at <= $1
			ORDER BY expires_at LIMIT $2 FOR UPDATE SKIP LOCKED))`, limit)
}

// sweepRequests is a chunk of the sweep that ends access requests.
func (r *Roster) sweepRequests(ctx context.Context, tx pgx.Tx, now time.Time, _ int, s *Swept) (more bool, err error) {
	expired, err := r.expireDueRequests(ctx, tx, now, sweepChunk)
	s.Scanned += len(expired)
	for _, q := range expired {
		s.did(Deed{q.AppID, q.ID, q.EmailKey, "expires", "its time was over at " + q.ExpiresAt.UTC().Format(time.RFC3339)})
	}
	return len(expired) == sweepChunk, err
}

// expireRequests ends the open requests that meet the condition, in which $1 is
// now and the args follow.
func (r *Roster) expireRequests(ctx context.Context, tx pgx.Tx, now time.Time, condition string, args ...any) ([]AccessRequest, error) {
	rows, err := tx.Query(ctx, `
		UPDATE access_request SET state = 'expired', decided_at = $1
		WHERE `+condition+` AND `+requestIsOpen+` AND expires_at <= $1
		RETURNING `+requestColumns, append([]any{now}, args...)...)
	if err != nil {
		return nil, fmt.Errorf("expire access requests: %w", err)
	}
	expired, err := pgx.CollectRows(rows, pgx.RowToStructByPos[AccessRequest])
	if err != nil || len(expired) == 0 {
		return nil, err
	}
	events := make([]newEvent, len(expired))
	for i, q := range expired {
		events[i] = q.eventOf(EventRequestExpired, uuid.Nil)
	}
	ids, err := recordEvents(ctx, tx, now, events...)
	if err != nil {
		return nil, err
	}
	type requester struct{ app, id uuid.UUID }
	news := map[requester][]uuid.UUID{}
	for i, q := range expired {
		to := requester{q.AppID, q.RequesterID}
		news[to] = append(news[to], ids[i])
	}
	mails := make([]Mail, 0, len(news))
	for to, events := range news {
		mails = append(mails, newsMail(to.app, to.id, events))
	}
	if err := r.keepTemporary(ctx, tx, now, expired...); err != nil {
		return nil, err
	}
	return expired, r.ask(ctx, tx, now, mails...)
}

// holdRequest puts a pending request on hold because its newest mail does not
// get through, and tells who asked, as HoldInvitation does.
func (r *Roster) holdRequest(ctx context.Context, m Mail, reason string) (held bool, err error) {
	now := r.now()
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		q, err := collectRequest(tx.Query(ctx, `
			UPDATE access_request SET state = 'on_hold'
			WHERE app_id = $1 AND id = $2 AND message_id <= $3 AND email_key = $4 AND state = 'pending' AND expires_at > $5
			RETURNING `+requestColumns, m.AppID, m.SubjectID, m.ID, m.EmailKey, now))
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("hold access request %s: %w", m.SubjectID, err)
		}
		held = true
		data, err := json.Marshal(map[string]any{"company_id": q.CompanyID, "version": q.Version, "reason": reason})
		if err != nil {
			return fmt.Errorf("hold access request %s: %w", m.SubjectID, err)
		}
		ids, err := recordEvents(ctx, tx, now, newEvent{q.AppID, EventRequestHeld, q.ID, uuid.Nil, data})
		if err != nil {
			return err
		}
		return r.tellRequester(ctx, tx, q, now, ids...)
	})
	return held, err
}

// mailRequestAgain is MailAgain for an access request.
func (r *Roster) mailRequestAgain(ctx context.Context, tx pgx.Tx, job RetryMail, now time.Time) (mailed bool, err error) {
	q, err := collectRequest(tx.Query(ctx, `
		UPDATE access_request SET message_id = $2, queued_at = $3
		WHERE id = (SELECT subject_id FROM message WHERE id = $1) AND message_id = $1 AND state = 'pending' AND expires_at > $3
		RETURNING `+requestColumns, job.MessageID, newID(), now))
	if errors.Is(err, pgx.ErrNoRows) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("mail again after message %s: %w", job.MessageID, err)
	}
	if _, err := q.record(ctx, tx, now, uuid.Nil, EventRequestResent); err != nil {
		return false, err
	}
	m := q.mail()
	m.Purpose, m.Args.Retry = purposeInstead(job.MessageID), job.Retry
	return true, r.ask(ctx, tx, now, m)
}

// unholdRequests mails the access requests that were held for an address's sake.
func (r *Roster) unholdRequests(ctx context.Context, tx pgx.Tx, app uuid.UUID, key string, now time.Time) error {
	rows, err := tx.Query(ctx, `
		SELECT id FROM access_request WHERE app_id = $1 AND email_key = $2 AND state = 'on_hold' AND expires_at > $3
		ORDER BY id LIMIT $4 FOR UPDATE`, app, key, now, maxUnheld)
	if err != nil {
		return fmt.Errorf("find access requests on hold: %w", err)
	}
	held, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return fmt.Errorf("find access requests on hold: %w", err)
	}
	for _, id := range held { // few: a company has at most one
		q, err := collectRequest(tx.Query(ctx, `
			UPDATE access_request SET state = 'pending', sends = sends + 1, message_id = $2, queued_at = $3
			WHERE id = $1 RETURNING `+requestColumns, id, newID(), now))
		if err != nil {
			return fmt.Errorf("mail access request %s again: %w", id, err)
		}
		if _, err := q.record(ctx, tx, now, uuid.Nil, EventRequestResent); err != nil {
			return err
		}
		if err := r.mailRequest(ctx, tx, &q, now); err != nil {
			return err
		}
	}
	return nil
}
