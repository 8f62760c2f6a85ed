package roster

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

// App is a product that uses Usher: a tenant. Nothing crosses apps.
type App struct {
	ID           uuid.UUID
	Name         string
	URL          string // where people go after they accepted; may be empty
	Locale       string
	TimeZone     string
	BrandColor   string // #rrggbb; may be empty
	LogoURL      string // may be empty
	SupportEmail string // may be empty
	MailFrom     string // "Name <address>"; empty: the installation's sender
	CreatedAt    time.Time
}

const appColumns = `app.id, app.name, app.url, app.locale, app.time_zone, app.brand_color, app.logo_url, app.support_email, app.mail_from, app.created_at`

// NewApp names a new app. Locale and TimeZone default to en and UTC.
type NewApp struct {
	Name, URL, Locale, TimeZone, BrandColor, LogoURL, SupportEmail, MailFrom string
}

// CreateApp adds an app.
func (r *Roster) CreateApp(ctx context.Context, n NewApp) (app App, err error) {
	if n.Name, err = cleanName("name", n.Name); err != nil {
		return app, err
	}
	if n.Locale, err = cleanLocale(n.Locale); err != nil {
		return app, err
	}
	if n.TimeZone, err = cleanZone(n.TimeZone); err != nil {
		return app, err
	}
	if n.Locale == "" {
		n.Locale = "en"
	}
	if n.TimeZone == "" {
		n.TimeZone = "UTC"
	}
	app = App{
		ID: newID(), Name: n.Name, URL: n.URL, Locale: n.Locale, TimeZone: n.TimeZone, BrandColor: n.BrandColor,
		LogoURL: n.LogoURL, SupportEmail: n.SupportEmail, MailFrom: n.MailFrom, CreatedAt: r.now(),
	}
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			INSERT INTO app (id, name, url, locale, time_zone, brand_color, logo_url, support_email, mail_from, created_at)
			VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)`,
			app.ID, app.Name, app.URL, app.Locale, app.TimeZone, app.BrandColor, app.LogoURL, app.SupportEmail, app.MailFrom, app.CreatedAt)
		return err
	})
	if err != nil {
		return app, fmt.Errorf("create app: %w", err)
	}
	return app, nil
}

// Apps lists every app, oldest first.
func (r *Roster) Apps(ctx context.Context) (apps []App, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT `+appColumns+` FROM app ORDER BY id`)
		if err != nil {
			return err
		}
		apps, err = pgx.CollectRows(rows, pgx.RowToStructByPos[App])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list apps: %w", err)
	}
	return apps, nil
}

// App is one app.
func (r *Roster) App(ctx context.Context, id uuid.UUID) (app App, err error) {
	err = r.readApp(ctx, &app, `SELECT `+appColumns+` FROM app WHERE id = $1`, id)
	return app, err
}

// OnlyApp is the app of an installation that has no other.
func (r *Roster) OnlyApp(ctx context.Context) (app App, err error) {
	err = r.readApp(ctx, &app, `SELECT `+appColumns+` FROM app WHERE (SELECT count(*) FROM (SELECT FROM app LIMIT 2) AS apps) = 1`)
	return app, err
}

func (r *Roster) readApp(ctx context.Context, app *App, query string, args ...any) error {
	err := postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, query, args...)
		if err != nil {
			return err
		}
		*app, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[App])
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return errorf(NotFound, "app_not_found", "There is no such app.")
	}
	if err != nil {
		return fmt.Errorf("read app: %w", err)
	}
	return nil
}

// APIKey lets an app's backend call the API. The key itself is shown once,
// when it is made, and only its hash is kept.
type APIKey struct {
	ID        uuid.UUID
	AppID     uuid.UUID
	Name      string
	Prefix    string // the key's first characters, to tell keys apart
	CreatedAt time.Time
	RevokedAt *time.Time
}

const (
	keyStart     = "usk_"
	keyPrefixLen = len(keyStart) + 6
	apiKeyLen    = len(keyStart) + 43 // 32 random bytes in base64url
)

func hashKey(key string) []byte {
	sum := sha256.Sum256([]byte(key)) // the key is random, so a fast hash is enough
	return sum[:]
}

// CreateAPIKey makes a key for an app and returns it with its record.
func (r *Roster) CreateAPIKey(ctx context.Context, app uuid.UUID, name string) (key string, k APIKey, err error) {
	if name, err = cleanName("name", name); err != nil {
		return "", k, err
	}
	raw := make([]byte, 32)
	if _, err := rand.Read(raw); err != nil {
		return "", k, fmt.Errorf("make key: %w", err)
	}
	key = keyStart + base64.RawURLEncoding.EncodeToString(raw)
	k = APIKey{ID: newID(), AppID: app, Name: name, Prefix: key[:keyPrefixLen], CreatedAt: r.now()}
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		_, err := tx.Exec(ctx, `
			INSERT INTO api_key (id, app_id, name, prefix, hash, created_at)
			VALUES ($1, $2, $3, $4, $5, $6)`, k.ID, k.AppID, k.Name, k.Prefix, hashKey(key), k.CreatedAt)
		return err
	})
	if postgres.Violates(err, "api_key_app_id_fkey") {
		return "", k, errorf(NotFound, "app_not_found", "There is no such app.")
	}
	if err != nil {
		return "", k, fmt.Errorf("create API key: %w", err)
	}
	return key, k, nil
}

// APIKeys lists an app's keys, revoked ones too, oldest first.
func (r *Roster) APIKeys(ctx context.Context, app uuid.UUID) (keys []APIKey, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			SELECT id, app_id, name, prefix, created_at, revoked_at
			FROM api_key WHERE app_id = $1 ORDER BY id`, app)
		if err != nil {
			return err
		}
		keys, err = pgx.CollectRows(rows, pgx.RowToStructByPos[APIKey])
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list API keys: %w", err)
	}
	return keys, nil
}

// RevokeAPIKey ends a key. Revoking it again changes nothing.
func (r *Roster) RevokeAPIKey(ctx context.Context, id uuid.UUID) error {
	return postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		tag, err := tx.Exec(ctx, `UPDATE api_key SET revoked_at = COALESCE(revoked_at, $2) WHERE id = $1`, id, r.now())
		if err != nil {
			return fmt.Errorf("revoke API key %s: %w", id, err)
		}
		if tag.RowsAffected() == 0 {
			return errorf(NotFound, "key_not_found", "There is no such API key.")
		}
		return nil
	})
}

// AuthenticateKey is the app that a valid key belongs to, and its policy.
func (r *Roster) AuthenticateKey(ctx context.Context, key string) (app uuid.UUID, p Policy, err error) {
	unknown := errorf(Unauthorized, "api_key_invalid", "This API key is not valid. Send a key as 'Authorization: Bearer usk_…'.")
	if len(key) != apiKeyLen {
		return app, p, unknown
	}
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if err := tx.QueryRow(ctx, `SELECT app_id FROM api_key WHERE hash = $1 AND revoked_at IS NULL`, hashKey(key)).Scan(&app); err != nil {
			return err
		}
		p, err = policyOf(ctx, tx, app)
		return err
	})
	if errors.Is(err, pgx.ErrNoRows) {
		return app, p, unknown
	}
	if err != nil {
		return app, p, fmt.Errorf("authenticate API key: %w", err)
	}
	return app, p, nil
}
