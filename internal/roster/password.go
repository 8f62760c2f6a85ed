package roster

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"runtime"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"golang.org/x/crypto/argon2"
	"golang.org/x/text/unicode/norm"

	"usher/internal/postgres"
)

const (
	// MinPassword is the least length of a password, in characters: the floor
	// of NIST SP 800-63B.
	MinPassword = 8
	maxPassword = 200 // long enough for any sentence, short enough to hash

	// The first recommended choice of the OWASP password storage guide.
	argonMemory = 19 * 1024 // KiB
	argonTime   = 2
	argonSize   = 32
	argonSalt   = 16

	// After maxFailedLogins wrong passwords in a row an account rests for
	// loginRest: guessing gets nowhere, a forgetful owner waits a coffee.
	maxFailedLogins = 10
	loginRest       = 15 * time.Minute

	// sessionLife is how long a browser stays signed in.
	sessionLife = 30 * 24 * time.Hour
)

// hashing bounds how many hashes are computed at once, each of which takes
// argonMemory and a core.
var hashing = make(chan struct{}, max(2, runtime.NumCPU()))

func argon(ctx context.Context, password string, salt []byte) ([]byte, error) {
	select {
	case hashing <- struct{}{}:
		defer func() { <-hashing }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait to hash password: %w", ctx.Err())
	}
	return argon2.IDKey([]byte(norm.NFC.String(password)), salt, argonTime, argonMemory, 1, argonSize), nil
}

// HashPassword checks a new password and gives the form that is stored, a PHC
// string. It takes tens of milliseconds: call it outside transactions.
func HashPassword(ctx context.Context, password string) (string, error) {
	switch n := utf8.RuneCountInString(password); {
	case !utf8.ValidString(password):
		return "", invalidField("password", "password_invalid", "This password is not valid text.")
	case n < MinPassword:
		return "", invalidField("password", "password_too_short", "A password has at least %d characters.", MinPassword)
	case n > maxPassword:
		return "", invalidField("password", "password_too_long", "A password has at most %d characters.", maxPassword)
	}
	salt := make([]byte, argonSalt)
	if _, err := rand.Read(salt); err != nil {
		return "", fmt.Errorf("make salt: %w", err)
	}
	hash, err := argon(ctx, password, salt)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=1$%s$%s", argon2.Version, argonMemory, argonTime,
		base64.RawStdEncoding.EncodeToString(salt), base64.RawStdEncoding.EncodeToString(hash)), nil
}

// matches tells whether password is the one that phc was made from.
func matches(ctx context.Context, phc, password string) (bool, error) {
	parts := strings.Split(phc, "$")
	if len(parts) != 6 || parts[1] != "argon2id" {
		return false, errors.New("stored password hash has an unknown form")
	}
	salt, err := base64.RawStdEncoding.DecodeString(parts[4])
	if err != nil {
		return false, fmt.Errorf("read stored password hash: %w", err)
	}
	want, err := base64.RawStdEncoding.DecodeString(parts[5])
	if err != nil {
		return false, fmt.Errorf("read stored password hash: %w", err)
	}
	have, err := argon(ctx, password, salt)
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(want, have) == 1, nil
}

// CheckPassword refuses unless password is the account's. Too many wrong ones
// in a row close the account to guesses for a while. It hashes, so it works
// between two transactions instead of inside one.
func (r *Roster) CheckPassword(ctx context.Context, app, account uuid.UUID, password string) error {
	_, err := r.checkPassword(ctx, `app_id = $1 AND id = $2 AND `+isLive, app, account, password)
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return ErrTooManyTries
	case errors.Is(err, errWrongPassword):
		return invalidField("password", "password_wrong", "This is not the password of the account.")
	}
	return err
}

// ErrTooManyTries refuses whoever tried too many passwords.
var ErrTooManyTries = errorf(TooSoon, "too_many_tries", "There were too many tries with a wrong password. Wait a quarter of an hour.")

var errWrongPassword = errors.New("wrong password")

// checkPassword tells which account has the password, of the one that the
// condition on $1 and $2 names: pgx.ErrNoRows where that is none which may try,
// and errWrongPassword. All three take the time of one hash.
func (r *Roster) checkPassword(ctx context.Context, condition string, app uuid.UUID, named any, password string) (account uuid.UUID, err error) {
	// The attempt is counted before the hash is computed, in one statement, so
	// that guesses made at once cannot outrun the count.
	now := r.now()
	var phc, status string
	counted := postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		return tx.QueryRow(ctx, `
			UPDATE account SET
				failed_logins = CASE WHEN locked_until <= $3 THEN 1 ELSE failed_logins + 1 END,
				locked_until = CASE WHEN locked_until IS NULL AND failed_logins + 1 >= $4 THEN $5::timestamptz
					WHEN locked_until <= $3 THEN NULL ELSE locked_until END
			WHERE `+condition+` AND (locked_until IS NULL OR locked_until <= $3) AND (`+isUsable+` OR account.status = 'merged')
			RETURNING id, password_hash, status`, app, named, now, maxFailedLogins, now.Add(loginRest)).Scan(&account, &phc, &status)
	})
	if counted != nil && !errors.Is(counted, pgx.ErrNoRows) {
		return account, fmt.Errorf("count log-in: %w", counted)
	}
	if len(password) > 4*maxPassword {
		password = "" // nobody's, and quick to hash
	}
	if phc == "" {
		phc = nobodysPassword
	}
	ok, err := matches(ctx, phc, password)
	switch {
	case err != nil:
		return account, fmt.Errorf("check password of account %s: %w", account, err)
	case counted != nil:
		return account, counted
	case !ok || phc == nobodysPassword:
		return account, errWrongPassword
	case status == statusMerged:
		return account, errAccountMerged
	}
	return account, postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `UPDATE account SET failed_logins = 0, locked_until = NULL WHERE app_id = $1 AND id = $2`, app, account)
		return err
	})
}

// nobodysPassword is what a password is compared with where there is no hash, so
// that it takes as long as where there is one.
var nobodysPassword = fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=1$%s$%s", argon2.Version, argonMemory, argonTime,
	base64.RawStdEncoding.EncodeToString(make([]byte, argonSalt)), base64.RawStdEncoding.EncodeToString(make([]byte, argonSize)))

// StartSession signs a browser in to an active account and returns the cookie's
// value, of which only the hash is kept, and when it ends.
func (r *Roster) StartSession(ctx context.Context, app, account uuid.UUID) (value string, until time.Time, err error) {
	raw := make([]byte, 32)
	if _, err := rand.Read(raw); err != nil {
		return "", until, fmt.Errorf("make session: %w", err)
	}
	value, until = base64.RawURLEncoding.EncodeToString(raw), r.now().Add(sessionLife)
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `
			INSERT INTO session (hash, app_id, account_id, created_at, expires_at)
			SELECT $1, app_id, id, $4, $5 FROM account WHERE app_id = $2 AND id = $3 AND `+isUsable,
			hashSession(value), app, account, r.now(), until)
		if err == nil && tag.RowsAffected() == 0 {
			err = notFound("account")
		}
		return err
	})
	if err != nil {
		return "", until, fmt.Errorf("start session: %w", err)
	}
	return value, until, nil
}

func hashSession(value string) []byte {
	sum := sha256.Sum256([]byte(value))
	return sum[:]
}

// SessionAccount is the account a browser is signed in to; ok is false for no
// session, an ended one, or one whose account is no longer active.
func (r *Roster) SessionAccount(ctx context.Context, value string) (account Account, ok bool, err error) {
	if value == "" {
		return account, false, nil
	}
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			SELECT `+accountColumns+` FROM session JOIN account ON account.id = session.account_id
			WHERE session.hash = $1 AND session.expires_at > $2 AND `+isUsable, hashSession(value), r.now())
		if err != nil {
			return err
		}
		account, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Account])
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return account, false, nil
	}
	if err != nil {
		return account, false, fmt.Errorf("read session: %w", err)
	}
	return account, true, nil
}

// EndSession signs a browser out.
func (r *Roster) EndSession(ctx context.Context, value string) error {
	return postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, `DELETE FROM session WHERE hash = $1`, hashSession(value)); err != nil {
			return fmt.Errorf("end session: %w", err)
		}
		return nil
	})
}

// EndSessions signs an account out everywhere.
func (r *Roster) EndSessions(ctx context.Context, app, account uuid.UUID) error {
	return postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error { return endSessions(ctx, tx, app, account) })
}

func endSessions(ctx context.Context, tx pgx.Tx, app, account uuid.UUID) error {
	if _, err := tx.Exec(ctx, `DELETE FROM session WHERE app_id = $1 AND account_id = $2`, app, account); err != nil {
		return fmt.Errorf("end sessions of account %s: %w", account, err)
	}
	return nil
}
