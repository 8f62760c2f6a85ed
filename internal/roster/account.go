package roster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

// The kinds of Account.
const (
	Professional = "professional"
	Client       = "client"
)

const (
	statusActive    = "active"
	statusTemporary = "temporary" // usable while its company waits for access to the person's own
	statusArchived  = "archived"
	statusMerged    = "merged"

	// maxSecondary bounds the further addresses of one person: those of a long
	// working life.
	maxSecondary = 10

	// minUsername and maxUsername bound usernames, in characters. The longest is
	// what stands before the @ of an address, since some are made of that.
	minUsername = 2
	maxUsername = maxLocal
)

// Account is a person in an app.
type Account struct {
	ID              uuid.UUID
	AppID           uuid.UUID
	Kind            string
	Status          string
	FullName        string
	Email           string // as typed; empty: none of their own
	Locale          string // empty: the app's
	TimeZone        string // empty: the company's, then the app's
	CreatedAt       time.Time
	Username        string   // empty: none
	SecondaryEmails []string // as typed; nobody logs in by them; nil: none
	BirthDate       string   // "1984-05-30"; empty: not told
}

const accountColumns = `account.id, account.app_id, account.kind, account.status, account.full_name, account.email, account.locale, account.time_zone, account.created_at,
	account.username, NULLIF(ARRAY(SELECT s.email FROM secondary_email s WHERE s.account_id = account.id ORDER BY s.created_at, s.email_key), '{}'), COALESCE(to_char(account.birth_date, 'YYYY-MM-DD'), '')`

// isLive is the condition of accounts that own their address.
const isLive = `account.status NOT IN ('merged', 'archived')`

// isUsable is the condition of accounts whose person may log in.
const isUsable = `account.status IN ('active', 'temporary')`

// usable tells whether a person may log in to an account of that status.
func usable(status string) bool { return status == statusActive || status == statusTemporary }

// mailKey is the address, as compared, that an account is written to: its own,
// or else its first secondary one; null: none.
const mailKey = `COALESCE(account.email_key,
	(SELECT s.email_key FROM secondary_email s WHERE s.account_id = account.id ORDER BY s.created_at, s.email_key LIMIT 1))`

// MailTo is the address, as typed, that the account is written to: its own, or
// else its first secondary one; empty: none.
func (a Account) MailTo() string {
	if a.Email == "" && len(a.SecondaryEmails) > 0 {
		return a.SecondaryEmails[0]
	}
	return a.Email
}

// NewAccount describes an account that an app makes for a person it knows.
type NewAccount struct {
	Kind, FullName, Locale, TimeZone string

	Email string // a client may have none

	Username        string   // empty: none
	SecondaryEmails []string // at most 10
	BirthDate       string   // "1984-05-30"; empty: not told
}

// CreateAccount adds an active account. The person has no password with Usher
// yet; an address that has an account already is refused, and so is a username
// that somebody has. For a client, the address of an account is also what is
// only its secondary one.
func (r *Roster) CreateAccount(ctx context.Context, app uuid.UUID, n NewAccount, key IdempotencyKey) (Account, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (account Account, err error) {
		if n.Kind != Professional && n.Kind != Client {
			return account, invalidField("kind", "kind_unknown", "The kind of an account is %q or %q.", Professional, Client)
		}
		var address Address
		if n.Kind == Professional || n.Email != "" {
			if address, err = ParseAddress(n.Email); err != nil {
				return account, err
			}
		}
		c := AccountChange{FullName: &n.FullName, Locale: &n.Locale, TimeZone: &n.TimeZone, Username: &n.Username, SecondaryEmails: &n.SecondaryEmails, BirthDate: &n.BirthDate}
		if err := c.clean(r.now()); err != nil {
			return account, err
		}
		account = Account{
			ID: newID(), AppID: app, Kind: n.Kind, Status: statusActive, FullName: n.FullName,
			Email: address.Typed, Locale: n.Locale, TimeZone: n.TimeZone, CreatedAt: r.now(),
			Username: n.Username, SecondaryEmails: n.SecondaryEmails, BirthDate: n.BirthDate,
		}
		if n.Kind == Client && address.Key != "" {
			held, err := holdersOf(ctx, tx, app, address.Key)
			if err == nil && len(held) > 0 {
				err = held.inUse()
			}
			if err != nil {
				return account, err
			}
		}
		ok, err := insertAccount(ctx, tx, account, address.Key, "")
		if err == nil && !ok {
			err = errEmailInUse
		}
		return account, err
	})
}

// insertAccount stores a new account with what it is found by, unless its
// address has one, and puts the open invitations to the address into its inbox;
// ok tells whether it did.
func insertAccount(ctx context.Context, tx pgx.Tx, a Account, emailKey, passwordHash string) (ok bool, err error) {
	secondary := secondaryKeys(a.SecondaryEmails)
	if emailKey != "" && slices.Contains(secondary, emailKey) {
		return false, errSecondaryIsPrimary
	}
	err = tx.QueryRow(ctx, `
		WITH made AS (
			INSERT INTO account (id, app_id, kind, status, full_name, email, email_key, locale, time_zone, password_hash, created_at, username, birth_date)
			VALUES ($1, $2, $3, $4, $5, $6, NULLIF($7, ''), $8, $9, $10, $11, $12, NULLIF($15, '')::date)
			ON CONFLICT (app_id, email_key) WHERE status NOT IN ('merged', 'archived') DO NOTHING
			RETURNING id, app_id, kind, full_name, email_key
		), further AS (
			INSERT INTO secondary_email (app_id, account_id, email, email_key, created_at)
			SELECT made.app_id, made.id, s.email, s.email_key, $11 FROM made, unnest($13::text[], $14::text[]) AS s (email, email_key)
		), found_by AS (
			INSERT INTO account_search (app_id, kind, key, account_id)
			SELECT made.app_id, made.kind, key, made.id FROM made, search_keys(made.full_name, made.email_key) AS key
		)
		SELECT count(*) = 1 FROM made`,
		a.ID, a.AppID, a.Kind, a.Status, a.FullName, a.Email, emailKey, a.Locale, a.TimeZone, passwordHash, a.CreatedAt, a.Username,
		a.SecondaryEmails, secondary, a.BirthDate).Scan(&ok)
	if postgres.Violates(err, "account_username") {
		return false, errUsernameTaken
	}
	if err != nil {
		return false, fmt.Errorf("create account: %w", err)
	}
	if !ok {
		return false, nil
	}
	if _, err := recordEvents(ctx, tx, a.CreatedAt, newEvent{a.AppID, EventAccountCreated, a.ID, uuid.Nil, fmt.Appendf(nil, `{"kind":%q}`, a.Kind)}); err != nil {
		return false, err
	}
	if a.Status == statusActive && emailKey != "" {
		err = noteOpenInvitations(ctx, tx, a.AppID, a.ID, emailKey, a.CreatedAt)
	}
	return true, err
}

// Account is one account of an app; of one that was merged away, the account it
// lives on in.
func (r *Roster) Account(ctx context.Context, app, id uuid.UUID) (account Account, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if err := living(ctx, tx, app, &id); err != nil {
			return err
		}
		account, err = readAccount(ctx, tx, app, id)
		return err
	})
	return account, err
}

func readAccount(ctx context.Context, tx pgx.Tx, app, id uuid.UUID) (account Account, err error) {
	rows, err := tx.Query(ctx, `SELECT `+accountColumns+` FROM account WHERE app_id = $1 AND id = $2`, app, id)
	if err == nil {
		account, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Account])
	}
	if errors.Is(err, pgx.ErrNoRows) {
		return account, notFound("account")
	}
	if err != nil {
		return account, fmt.Errorf("read account %s: %w", id, err)
	}
	return account, nil
}

// AccountChange is what is to be different about an account; nil leaves a thing
// as it is. The address is not among them: who logs in by it has to prove it.
type AccountChange struct {
	FullName, Locale, TimeZone *string

	Username        *string   // empty: none any more
	SecondaryEmails *[]string // all of them, at most 10
	BirthDate       *string   // "1984-05-30"; empty: not told
}

var (
	errUsernameTaken      = &Error{Kind: Conflict, Code: "username_taken", Message: "Somebody has this username already. Choose another.", Field: "username"}
	errSecondaryIsPrimary = invalidField("secondary_emails", "email_is_primary", "One of the secondary addresses is the one the person logs in by. Leave it out.")
)

// clean checks the change and brings it into the form that is kept.
func (c AccountChange) clean(now time.Time) (err error) {
	if c.FullName != nil {
		if *c.FullName, err = cleanName("full_name", *c.FullName); err != nil {
			return err
		}
	}
	if c.Locale != nil {
		if *c.Locale, err = cleanLocale(*c.Locale); err != nil {
			return err
		}
	}
	if c.TimeZone != nil {
		if *c.TimeZone, err = cleanZone(*c.TimeZone); err != nil {
			return err
		}
	}
	if c.Username != nil {
		if *c.Username, err = cleanUsername(*c.Username); err != nil {
			return err
		}
	}
	if c.BirthDate != nil && *c.BirthDate != "" {
		if born, err := time.Parse(time.DateOnly, *c.BirthDate); err != nil || born.Before(oldest) || born.After(now) {
			return invalidField("birth_date", "birth_date_invalid", "A date of birth is a day that has been, not before 1900, like 1984-05-30.")
		}
	}
	if c.SecondaryEmails != nil {
		*c.SecondaryEmails, err = cleanSecondary(*c.SecondaryEmails)
	}
	return err
}

// oldest is before the birth of everybody who has an account.
var oldest = time.Date(1900, 1, 1, 0, 0, 0, 0, time.UTC)

// fields names what the change is about, as the API does.
func (c AccountChange) fields() []string {
	fields := []string{}
	for _, f := range []struct {
		name  string
		given bool
	}{
		{"full_name", c.FullName != nil}, {"locale", c.Locale != nil}, {"time_zone", c.TimeZone != nil},
		{"username", c.Username != nil}, {"secondary_emails", c.SecondaryEmails != nil}, {"birth_date", c.BirthDate != nil},
	} {
		if f.given {
			fields = append(fields, f.name)
		}
	}
	return fields
}

// reservedUsernames are names that people would take for somebody in charge, or
// programs for something else.
var reservedUsernames = []string{
	"abuse", "account", "admin", "administrator", "anonymous", "api", "billing", "contact", "help", "home", "hostmaster", "info",
	"login", "logout", "mail", "mailer-daemon", "me", "moderator", "no-reply", "nobody", "noreply", "null", "official", "ops",
	"owner", "password", "postmaster", "root", "security", "service", "staff", "support", "sysadmin", "system", "team", "undefined",
	"usher", "webmaster", "www",
}

// cleanUsername checks a username and returns it in small letters; empty stays
// empty. It never has an @, so that nobody's username is another's address.
func cleanUsername(name string) (string, error) {
	name = strings.ToLower(strings.TrimSpace(name))
	if name == "" {
		return "", nil
	}
	fits := len(name) >= minUsername && len(name) <= maxUsername && plainLetter(name[0]) && plainLetter(name[len(name)-1])
	for i := range len(name) {
		fits = fits && (plainLetter(name[i]) || strings.IndexByte("._+-", name[i]) >= 0)
	}
	if !fits {
		return "", invalidField("username", "username_invalid",
			"A username has %d to %d letters from a to z, digits, dots, hyphens, underscores or plus signs, and begins and ends with a letter or a digit.", minUsername, maxUsername)
	}
	if reserved(name) {
		return "", invalidField("username", "username_reserved", "This username is kept for the service itself. Choose another.")
	}
	return name, nil
}

func reserved(username string) bool { return slices.Contains(reservedUsernames, username) }

func plainLetter(b byte) bool { return b >= 'a' && b <= 'z' || b >= '0' && b <= '9' }

// cleanSecondary checks further addresses; of those that are the same the first
// stays.
func cleanSecondary(typed []string) ([]string, error) {
	if len(typed) > maxSecondary {
		return nil, invalidField("secondary_emails", "too_many_emails", "A person has at most %d secondary addresses.", maxSecondary)
	}
	var kept, keys []string
	for _, t := range typed {
		address, err := ParseAddress(t)
		if err != nil {
			refusal := &Error{}
			if errors.As(err, &refusal) {
				refusal.Field = "secondary_emails"
			}
			return nil, err
		}
		if !slices.Contains(keys, address.Key) {
			kept, keys = append(kept, address.Typed), append(keys, address.Key)
		}
	}
	return kept, nil
}

// secondaryKeys are addresses that cleanSecondary let through, as compared.
func secondaryKeys(typed []string) []string {
	keys := make([]string, 0, len(typed))
	for _, t := range typed {
		if address, err := ParseAddress(t); err == nil {
			keys = append(keys, address.Key)
		}
	}
	return keys
}

// ChangeAccount changes an account, or the one that it lives on in. Archived ones
// stay as they are.
func (r *Roster) ChangeAccount(ctx context.Context, app, id uuid.UUID, c AccountChange, key IdempotencyKey) (Account, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (account Account, err error) {
		if err := c.clean(r.now()); err != nil {
			return account, err
		}
		if err := living(ctx, tx, app, &id); err != nil {
			return account, err
		}
		now := r.now()
		var emailKey string
		err = tx.QueryRow(ctx, `
			UPDATE account SET full_name = COALESCE($3, full_name), locale = COALESCE($4, locale),
				time_zone = COALESCE($5, time_zone), username = COALESCE($6, username),
				birth_date = CASE WHEN $7::text IS NULL THEN birth_date ELSE NULLIF($7, '')::date END
			WHERE app_id = $1 AND id = $2 AND `+isLive+`
			RETURNING COALESCE(email_key, '')`, app, id, c.FullName, c.Locale, c.TimeZone, c.Username, c.BirthDate).Scan(&emailKey)
		switch {
		case postgres.Violates(err, "account_username"):
			return account, errUsernameTaken
		case errors.Is(err, pgx.ErrNoRows):
			return account, accountOver(ctx, tx, app, id)
		case err != nil:
			return account, fmt.Errorf("change account %s: %w", id, err)
		}
		batch := &pgx.Batch{}
		if c.SecondaryEmails != nil {
			keys := secondaryKeys(*c.SecondaryEmails)
			if emailKey != "" && slices.Contains(keys, emailKey) {
				return account, errSecondaryIsPrimary
			}
			batch.Queue(`DELETE FROM secondary_email WHERE account_id = $1 AND email_key <> ALL ($2)`, id, keys)
			batch.Queue(`
				INSERT INTO secondary_email (app_id, account_id, email, email_key, created_at)
				SELECT $1, $2, email, email_key, $5 FROM unnest($3::text[], $4::text[]) AS s (email, email_key)
				ON CONFLICT (account_id, email_key) DO UPDATE SET email = EXCLUDED.email`, app, id, *c.SecondaryEmails, keys, now)
		}
		if c.FullName != nil {
			batch.Queue(`DELETE FROM account_search WHERE account_id = $1`, id)
			batch.Queue(`
				INSERT INTO account_search (app_id, kind, key, account_id)
				SELECT account.app_id, account.kind, key, account.id FROM account, search_keys(full_name, email_key) AS key
				WHERE account.app_id = $1 AND account.id = $2`, app, id)
		}
		if err := tx.SendBatch(ctx, batch).Close(); err != nil {
			return account, fmt.Errorf("change account %s: %w", id, err)
		}
		fields, err := json.Marshal(map[string]any{"fields": c.fields()})
		if err != nil {
			return account, fmt.Errorf("change account %s: %w", id, err)
		}
		if _, err := recordEvents(ctx, tx, now, newEvent{app, EventAccountUpdated, id, uuid.Nil, fields}); err != nil {
			return account, err
		}
		return readAccount(ctx, tx, app, id)
	})
}

// accountOver says why an account cannot be changed.
func accountOver(ctx context.Context, tx pgx.Tx, app, id uuid.UUID) error {
	account, err := readAccount(ctx, tx, app, id)
	if err != nil {
		return err
	}
	stands := errorf(Conflict, "account_"+account.Status, "This account is %s; it stays as it is.", account.Status)
	stands.State = State(account.Status)
	return stands
}

// memberData is what an event about a member, whose subject is the workspace or
// the company, keeps.
func memberData(account uuid.UUID) json.RawMessage {
	return fmt.Appendf(nil, `{"account_id":%q}`, account)
}
