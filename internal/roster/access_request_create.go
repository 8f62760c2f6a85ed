package roster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

// usernameTries bounds how often a username is looked for that somebody else
// took in the same instant.
const usernameTries = 20

var (
	errEmailInUse        = &Error{Kind: Conflict, Code: "email_in_use", Message: "There is an account with this e-mail address already.", Field: "email"}
	errEmailProfessional = &Error{Kind: Conflict, Code: "email_of_professional", Message: "This address belongs to a professional. Clients have another; invite the professional to a workspace instead.", Field: "email"}
	errNoAddress         = invalidField("email", "needs_address", "There is no address to ask. Add the client's address first, or give access by hand.")
	errEmailFree         = &Error{Kind: Conflict, Code: "email_not_in_use", Message: "No account has this address, so there is nobody to ask. Create the client's account.", Field: "email"}
	errNotOfCompany      = errorf(Forbidden, "actor_not_allowed", "This account is no professional of the company.")
)

// holder is an account that has an address.
type holder struct {
	ID      uuid.UUID
	Kind    string
	Primary bool // it is the one its person logs in by
}

type holders []holder

// clients are those that are people's own, of whom access can be asked.
func (h holders) clients() (clients holders) {
	for _, one := range h {
		if one.Kind == Client {
			clients = append(clients, one)
		}
	}
	return clients
}

// target is the account that is meant; nil where several may be.
func (h holders) target() *uuid.UUID {
	if len(h) != 1 {
		return nil
	}
	return &h[0].ID
}

// has tells whether an account is one of them.
func (h holders) has(account uuid.UUID) bool {
	for _, one := range h {
		if one.ID == account {
			return true
		}
	}
	return false
}

// inUse is the refusal of a new client with the address.
func (h holders) inUse() *Error {
	if len(h.clients()) == 0 {
		return errEmailProfessional
	}
	return errEmailInUse
}

// holdersOf are the active accounts that have an address, as their own or as a
// secondary one. Temporary ones stand for another and are none, and neither are
// those made for a person who has not taken possession of them.
func holdersOf(ctx context.Context, tx pgx.Tx, app uuid.UUID, emailKey string) (holders, error) {
	rows, err := tx.Query(ctx, `
		SELECT account.id, account.kind, true FROM account WHERE app_id = $1 AND email_key = $2 AND status IN ('active', 'invited') AND NOT unclaimed
		UNION ALL
		SELECT account.id, account.kind, false FROM secondary_email JOIN account ON account.id = secondary_email.account_id
		WHERE secondary_email.app_id = $1 AND secondary_email.email_key = $2 AND account.status IN ('active', 'invited') AND NOT account.unclaimed`, app, emailKey)
	if err != nil {
		return nil, fmt.Errorf("read holders of an address: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[holder])
	if err != nil {
		return nil, fmt.Errorf("read holders of an address: %w", err)
	}
	return found, nil
}

// companyOf is the company that a professional acts for: the one named, or the
// only one they are a member of.
func companyOf(ctx context.Context, tx pgx.Tx, app, actor, company uuid.UUID) (uuid.UUID, error) {
	var active bool
	if err := tx.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM account WHERE app_id = $1 AND id = $2 AND status = 'active')`, app, actor).Scan(&active); err != nil {
		return company, fmt.Errorf("read account %s: %w", actor, err)
	}
	if !active {
		return company, errActor
	}
	if company != uuid.Nil {
		if err := exists(ctx, tx, "company", app, company); err != nil {
			return company, err
		}
	}
	rows, err := tx.Query(ctx, `
		SELECT company_member.company_id FROM account JOIN company_member ON company_member.account_id = account.id
		WHERE account.app_id = $1 AND account.id = $2 AND account.status = 'active' AND account.kind = 'professional'
			AND ($3 = '00000000-0000-0000-0000-000000000000'::uuid OR company_member.company_id = $3) LIMIT 2`, app, actor, company)
	if err != nil {
		return company, fmt.Errorf("read companies of account %s: %w", actor, err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	switch {
	case err != nil:
		return company, fmt.Errorf("read companies of account %s: %w", actor, err)
	case len(found) == 0:
		return company, errNotOfCompany
	case len(found) > 1:
		return company, invalidField("company_id", "company_missing", "This professional has several companies. Say which one asks.")
	}
	return found[0], nil
}

// AddressCheck is what a professional learns of an address before they create a
// client with it: no more than whether it is in use.
type AddressCheck struct {
	InUse          bool
	AlreadyGranted bool       // the company has access to the account
	OpenID         *uuid.UUID // the company's open request for it; nil: none
}

// CheckAddress tells whether a client can be created with an address, or which
// of its holders can be asked for access.
func (r *Roster) CheckAddress(ctx context.Context, app, actor, company uuid.UUID, email string) (c AddressCheck, err error) {
	if strings.TrimSpace(email) == "" {
		return c, errNoAddress
	}
	address, err := ParseAddress(email)
	if err != nil {
		return c, err
	}
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if company, err = companyOf(ctx, tx, app, actor, company); err != nil {
			return err
		}
		held, err := holdersOf(ctx, tx, app, address.Key)
		if err != nil {
			return err
		}
		// The company's own facts are read for every address, so that none takes
		// longer.
		if err := tx.QueryRow(ctx, `
			SELECT EXISTS (SELECT FROM record_access WHERE company_id = $1 AND account_id = $2 AND revoked_at IS NULL),
				(SELECT id FROM access_request WHERE company_id = $1 AND email_key = $3 AND `+requestIsOpen+`)`,
			company, held.clients().target(), address.Key).Scan(&c.AlreadyGranted, &c.OpenID); err != nil {
			return fmt.Errorf("check address: %w", err)
		}
		if c.InUse = len(held) > 0; c.InUse && len(held.clients()) == 0 {
			return errEmailProfessional
		}
		return nil
	})
	return c, err
}

// NewAccessRequest is what a professional wants done about an address that has
// an account.
type NewAccessRequest struct {
	Option    string
	CompanyID uuid.UUID // Nil: the only one the actor is a member of
	Email     string
	FullName  string // of the client, as the professional knows it
	Locale    string // empty: the app's
	Note      string // the professional's own words; may be empty
}

// AccessRequested is the answer to a NewAccessRequest.
type AccessRequested struct {
	Request        AccessRequest // not set where AlreadyGranted
	Duplicate      bool          // there was one already; here it is
	AlreadyGranted bool          // the company has access; nothing was done
	Made           *Account      // the account that was made, now or before; nil: none
}

// RequestAccess asks the holder of an address for access to their account, or
// makes the client another account, or both. Asking again while a request is
// open answers that one; after a denial, the requester has to wait.
func (r *Roster) RequestAccess(ctx context.Context, app, actor uuid.UUID, n NewAccessRequest, key IdempotencyKey) (AccessRequested, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (out AccessRequested, err error) {
		q, err := r.newRequest(ctx, tx, app, actor, n)
		if err != nil {
			return out, err
		}
		held, err := holdersOf(ctx, tx, app, q.EmailKey)
		switch {
		case err != nil:
			return out, err
		case len(held) == 0:
			return out, errEmailFree
		case len(held.clients()) == 0:
			return out, errEmailProfessional
		}
		if q.Option == OptionNewAccount {
			out, err = r.requestNewAccount(ctx, tx, q)
		} else {
			out, err = r.requestFrom(ctx, tx, q, held.clients())
		}
		if err == nil && out.Request.MadeID != nil {
			var made Account
			if made, err = readAccount(ctx, tx, app, *out.Request.MadeID); err == nil {
				out.Made = &made
			}
		}
		return out, err
	})
}

// newRequest is the request that n describes, not stored yet.
func (r *Roster) newRequest(ctx context.Context, tx pgx.Tx, app, actor uuid.UUID, n NewAccessRequest) (q AccessRequest, err error) {
	known := false
	for _, option := range Options {
		known = known || n.Option == option
	}
	if !known {
		return q, invalidField("option", "option_unknown", "The option is one of %s.", strings.Join(Options, ", "))
	}
	company, err := companyOf(ctx, tx, app, actor, n.CompanyID)
	if err != nil {
		return q, err
	}
	if strings.TrimSpace(n.Email) == "" {
		return q, errNoAddress
	}
	address, err := ParseAddress(n.Email)
	if err != nil {
		return q, err
	}
	if n.FullName, err = cleanName("full_name", n.FullName); err != nil {
		return q, err
	}
	if n.Locale, err = cleanLocale(n.Locale); err != nil {
		return q, err
	}
	if n.Note, err = cleanNote(n.Note); err != nil {
		return q, err
	}
	now := r.now()
	message := newID()
	return AccessRequest{
		ID: newID(), AppID: app, CompanyID: company, RequesterID: actor, Option: n.Option,
		Email: address.Typed, EmailKey: address.Key, FullName: n.FullName, Locale: n.Locale, Note: n.Note,
		State: Pending, Delivery: MailQueued, Version: 1, Sends: 1, MessageID: &message, QueuedAt: &now, CreatedAt: now,
	}, nil
}

// insert stores a new request; ok is false where the company has an open one for
// the address or the account.
func (q AccessRequest) insert(ctx context.Context, tx pgx.Tx) (ok bool, err error) {
	tag, err := tx.Exec(ctx, `
		INSERT INTO access_request (id, app_id, company_id, requester_id, option, target_id, made_id, email, email_key, full_name, locale, note,
			state, message_id, queued_at, visibility, expires_at, decided_at, decided_by, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, NULLIF($16, ''), $17, $18, $19, $20)
		ON CONFLICT DO NOTHING`,
		q.ID, q.AppID, q.CompanyID, q.RequesterID, q.Option, q.TargetID, q.MadeID, q.Email, q.EmailKey, q.FullName, q.Locale, q.Note,
		q.State, q.MessageID, q.QueuedAt, q.Visibility, q.ExpiresAt, q.DecidedAt, q.DecidedBy, q.CreatedAt)
	if err != nil {
		return false, fmt.Errorf("create access request: %w", err)
	}
	return tag.RowsAffected() == 1, nil
}

// requestFrom asks clients for access, with a temporary account meanwhile if the
// option wants one.
func (r *Roster) requestFrom(ctx context.Context, tx pgx.Tx, q AccessRequest, clients holders) (out AccessRequested, err error) {
	policy, err := policyOf(ctx, tx, q.AppID)
	if err != nil {
		return out, err
	}
	q.TargetID, q.ExpiresAt = clients.target(), q.CreatedAt.Add(policy.RequestLife())
	var deniedAt *time.Time
	if err := tx.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM record_access WHERE company_id = $1 AND account_id = $2 AND revoked_at IS NULL),
			(SELECT max(decided_at) FROM access_request WHERE company_id = $1 AND state = 'denied' AND app_id = $4 AND email_key = $3)`,
		q.CompanyID, q.TargetID, q.EmailKey, q.AppID).Scan(&out.AlreadyGranted, &deniedAt); err != nil {
		return out, fmt.Errorf("create access request: %w", err)
	}
	if out.AlreadyGranted {
		return out, nil
	}
	// The sweep has perhaps not been there yet.
	if _, err := r.expireRequests(ctx, tx, q.CreatedAt, `company_id = $2 AND email_key = $3`, q.CompanyID, q.EmailKey); err != nil {
		return out, err
	}
	if deniedAt != nil && deniedAt.Add(policy.RequestCoolOff()).After(q.CreatedAt) {
		at := deniedAt.Add(policy.RequestCoolOff())
		refusal := errorf(TooSoon, "denied_lately", "A request for this address was denied. It can be asked again from %s on.", at.UTC().Format(time.DateOnly))
		refusal.State, refusal.DecidedAt, refusal.RetryAt = Denied, deniedAt, &at
		return out, refusal
	}
	ok, err := q.insert(ctx, tx)
	if err != nil {
		return out, err
	}
	if !ok {
		out.Duplicate = true
		if out.Request, err = openRequest(ctx, tx, q); err != nil || q.Option != OptionTemporary {
			return out, err
		}
	} else {
		if _, err := q.record(ctx, tx, q.CreatedAt, q.RequesterID, EventRequestCreated); err != nil {
			return out, err
		}
		if err := q.note(ctx, tx, clients, q.CreatedAt); err != nil {
			return out, err
		}
		if err := r.ask(ctx, tx, q.CreatedAt, q.mail()); err != nil {
			return out, err
		}
		out.Request = q
	}
	if q.Option == OptionTemporary && out.Request.MadeID == nil {
		out.Request, err = r.addTemporary(ctx, tx, out.Request)
	}
	return out, err
}

// openRequest is the open one that a new request met.
func openRequest(ctx context.Context, tx pgx.Tx, q AccessRequest) (AccessRequest, error) {
	open, err := collectRequest(tx.Query(ctx, `
		SELECT `+requestColumns+` FROM access_request
		WHERE app_id = $1 AND company_id = $2 AND `+requestIsOpen+` AND (email_key = $3 OR target_id = $4)
		ORDER BY email_key = $3 DESC LIMIT 1 FOR UPDATE`, q.AppID, q.CompanyID, q.EmailKey, q.TargetID))
	if errors.Is(err, pgx.ErrNoRows) {
		return open, errorf(Conflict, "request_changed", "Somebody changed the request for this address in the same instant. Try again.")
	}
	if err != nil {
		return open, fmt.Errorf("read open access request: %w", err)
	}
	return open, nil
}

// note puts the request into the inboxes of the accounts it may be about.
func (q AccessRequest) note(ctx context.Context, tx pgx.Tx, clients holders, now time.Time) error {
	ids, accounts := make([]uuid.UUID, len(clients)), make([]uuid.UUID, len(clients))
	for i, c := range clients {
		ids[i], accounts[i] = newID(), c.ID
	}
	if _, err := tx.Exec(ctx, `
		INSERT INTO notification (id, app_id, account_id, kind, subject_id, created_at)
		SELECT id, $3, account_id, 'access_request', $4, $5 FROM unnest($1::uuid[], $2::uuid[]) AS n (id, account_id)
		ON CONFLICT (subject_id, account_id) DO UPDATE SET view = 'unread', read_at = NULL, archived_at = NULL`,
		ids, accounts, q.AppID, q.ID, now); err != nil {
		return fmt.Errorf("note access request %s: %w", q.ID, err)
	}
	return nil
}

// addTemporary gives an open request its temporary account: the one that the
// company had for the address before, or a new one.
func (r *Roster) addTemporary(ctx context.Context, tx pgx.Tx, q AccessRequest) (AccessRequest, error) {
	now := r.now()
	if err := oneAtATime(ctx, tx, q.CompanyID); err != nil {
		return q, err
	}
	var made uuid.UUID
	err := tx.QueryRow(ctx, `
		SELECT account.id FROM access_request JOIN account ON account.id = access_request.made_id
		WHERE access_request.app_id = $1 AND access_request.email_key = $2 AND access_request.company_id = $3
			AND access_request.option = 'request_with_temporary' AND `+isUsable+` AND account.unclaimed
		ORDER BY access_request.id LIMIT 1`, q.AppID, q.EmailKey, q.CompanyID).Scan(&made)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		if made, err = r.makeAccount(ctx, tx, q, statusTemporary); err != nil {
			return q, err
		}
	case err != nil:
		return q, fmt.Errorf("look for temporary account: %w", err)
	default:
		if _, err := tx.Exec(ctx, `UPDATE account SET status = 'temporary' WHERE id = $1 AND status = 'active'`, made); err != nil {
			return q, fmt.Errorf("take up temporary account %s: %w", made, err)
		}
	}
	q, err = collectRequest(tx.Query(ctx, `
		UPDATE access_request SET made_id = $3, option = 'request_with_temporary' WHERE app_id = $1 AND id = $2
		RETURNING `+requestColumns, q.AppID, q.ID, made))
	if err != nil {
		return q, fmt.Errorf("add temporary account to request: %w", err)
	}
	return q, openRecords(ctx, tx, q, made, VisibilityFull, now)
}

// oneAtATime keeps a company's other requests from making an account before this
// one is through: two would not see each other's.
func oneAtATime(ctx context.Context, tx pgx.Tx, company uuid.UUID) error {
	if _, err := tx.Exec(ctx, `SELECT FROM company WHERE id = $1 FOR NO KEY UPDATE`, company); err != nil {
		return fmt.Errorf("lock company %s: %w", company, err)
	}
	return nil
}

// requestNewAccount makes the client an account of their own without asking,
// since nothing of another is opened by it. A second of the same name at the
// same address is the first.
func (r *Roster) requestNewAccount(ctx context.Context, tx pgx.Tx, q AccessRequest) (out AccessRequested, err error) {
	if err := oneAtATime(ctx, tx, q.CompanyID); err != nil {
		return out, err
	}
	before, err := collectRequest(tx.Query(ctx, `
		SELECT `+requestColumns+` FROM access_request JOIN account ON account.id = access_request.made_id AND account.unclaimed AND `+isLive+`
		WHERE access_request.app_id = $1 AND access_request.email_key = $2 AND access_request.company_id = $3
			AND access_request.option = 'new_account' AND access_request.state = 'granted' AND fold(access_request.full_name) = fold($4)
		ORDER BY access_request.id LIMIT 1`, q.AppID, q.EmailKey, q.CompanyID, q.FullName))
	if err == nil {
		return AccessRequested{Request: before, Duplicate: true}, nil
	}
	if !errors.Is(err, pgx.ErrNoRows) {
		return out, fmt.Errorf("look for account made before: %w", err)
	}
	made, err := r.makeAccount(ctx, tx, q, statusActive)
	if err != nil {
		return out, err
	}
	q.MadeID, q.State, q.Visibility, q.DecidedAt, q.ExpiresAt = &made, Granted, VisibilityFull, &q.CreatedAt, q.CreatedAt
	if _, err := q.insert(ctx, tx); err != nil {
		return out, err
	}
	if _, err := q.record(ctx, tx, q.CreatedAt, q.RequesterID, EventRequestCreated, EventRequestGranted); err != nil {
		return out, err
	}
	if err := openRecords(ctx, tx, q, made, VisibilityFull, q.CreatedAt); err != nil {
		return out, err
	}
	return AccessRequested{Request: q}, r.ask(ctx, tx, q.CreatedAt, q.newAccountMail())
}

// newAccountMail is the mail that tells the client of the account made for them.
func (q AccessRequest) newAccountMail() Mail {
	return Mail{
		ID: *q.MessageID, AppID: q.AppID, Kind: MailNewAccount, SubjectID: *q.MadeID,
		Purpose: fmt.Sprintf("new_account:%s:%d:%d", q.ID, q.Version, q.Sends), Lane: Interactive, EmailKey: q.EmailKey,
	}
}

// makeAccount makes a client's account without an address of its own: what was
// typed becomes a secondary one, and its person logs in by a username made of
// what stands before the @.
func (r *Roster) makeAccount(ctx context.Context, tx pgx.Tx, q AccessRequest, status string) (uuid.UUID, error) {
	now, id, base := r.now(), newID(), usernameOf(q.EmailKey)
	for range usernameTries {
		var ok bool
		if err := tx.QueryRow(ctx, `
			WITH RECURSIVE tried (n, username) AS (
				SELECT CASE WHEN $5 THEN 2 ELSE 1 END, CASE WHEN $5 THEN $4 || '-2' ELSE $4 END
				UNION ALL
				SELECT n + 1, $4 || '-' || n + 1 FROM tried
				WHERE n < 100000 AND EXISTS (SELECT FROM account a WHERE a.app_id = $2 AND a.username = tried.username AND a.username <> '')
			), free AS (
				SELECT username FROM tried ORDER BY n DESC LIMIT 1 -- all before it are taken
			), made AS (
				INSERT INTO account (id, app_id, kind, status, full_name, email, email_key, locale, time_zone, password_hash, created_at, username, unclaimed)
				SELECT $1, $2, 'client', $3, $6, '', NULL, $7, '', '', $8, username, true FROM free
				ON CONFLICT DO NOTHING RETURNING id, app_id, kind, full_name
			), further AS (
				INSERT INTO secondary_email (app_id, account_id, email, email_key, created_at)
				SELECT app_id, id, $9, $10, $8 FROM made
			), found_by AS (
				INSERT INTO account_search (app_id, kind, key, account_id)
				SELECT made.app_id, made.kind, key, made.id FROM made, search_keys(made.full_name, '') AS key
			)
			SELECT count(*) = 1 FROM made`,
			id, q.AppID, status, base, reserved(base), q.FullName, q.Locale, now, q.Email, q.EmailKey).Scan(&ok); err != nil {
			return id, fmt.Errorf("make account: %w", err)
		}
		if ok {
			_, err := recordEvents(ctx, tx, now, newEvent{q.AppID, EventAccountCreated, id, q.RequesterID, fmt.Appendf(nil, `{"kind":%q,"status":%q}`, Client, status)})
			return id, err
		}
	}
	return id, errorf(Conflict, "username_taken", "Many accounts were made with this username in the same instant. Try again.")
}

// usernameOf makes a username of what stands before an address's @, which is of
// plain letters: a dot for whatever a username cannot have.
func usernameOf(emailKey string) string {
	local := emailKey[:strings.LastIndexByte(emailKey, '@')]
	name := strings.Trim(strings.Map(func(c rune) rune {
		if plainLetter(byte(c)) || strings.ContainsRune("._+-", c) {
			return c
		}
		return '.'
	}, local), "._+-")
	name = strings.TrimRight(name[:min(len(name), maxUsername-len("-100000"))], "._+-")
	if len(name) < minUsername {
		name = "client" + name
	}
	return name
}

// openRecords gives a company access to an account's records, or changes how
// much it sees of them.
func openRecords(ctx context.Context, tx pgx.Tx, q AccessRequest, account uuid.UUID, v Visibility, now time.Time) error {
	if _, err := tx.Exec(ctx, `
		INSERT INTO record_access (id, app_id, account_id, company_id, visibility, request_id, granted_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7)
		ON CONFLICT (account_id, company_id) WHERE revoked_at IS NULL DO UPDATE SET visibility = EXCLUDED.visibility, request_id = EXCLUDED.request_id`,
		newID(), q.AppID, account, q.CompanyID, v, q.ID, now); err != nil {
		return fmt.Errorf("open records of account %s: %w", account, err)
	}
	return nil
}
