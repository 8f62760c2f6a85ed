package roster

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

const (
	// maxRecordKind bounds the app's word for a kind of record.
	maxRecordKind = 40

	// maxExternalID bounds the app's own ids, in characters: a UUID, a URL or a
	// number of theirs fits.
	maxExternalID = 200
)

// Record is a reference to something the app keeps for an account.
type Record struct {
	ID         uuid.UUID
	AppID      uuid.UUID
	AccountID  uuid.UUID
	Kind       string // the app's word: "programme"
	ExternalID string // the app's id
	CreatedAt  time.Time
}

const recordColumns = `id, app_id, account_id, kind, external_id, created_at`

// cleanRecord checks the app's word and the app's id for a thing.
func cleanRecord(kind, externalID string) error {
	fits := kind != "" && len(kind) <= maxRecordKind && kind[0] >= 'a' && kind[0] <= 'z'
	for i := range len(kind) {
		fits = fits && (plainLetter(kind[i]) || kind[i] == '_')
	}
	if !fits {
		return invalidField("kind", "kind_invalid", "The kind of a record is one word of at most %d letters from a to z, digits and underscores, beginning with a letter.", maxRecordKind)
	}
	switch {
	case strings.TrimSpace(externalID) == "":
		return invalidField("external_id", "external_id_missing", "Your id of what the record stands for is needed.")
	case utf8.RuneCountInString(externalID) > maxExternalID:
		return invalidField("external_id", "external_id_too_long", "Your id of what the record stands for has at most %d characters.", maxExternalID)
	case !utf8.ValidString(externalID) || strings.ContainsFunc(externalID, unprintable):
		return invalidField("external_id", "external_id_invalid", "Your id of what the record stands for is one line of plain text.")
	}
	return nil
}

// AddRecord notes that the app keeps something for an account. Adding it again
// answers the first, and added is false; what another account has already is
// refused.
func (r *Roster) AddRecord(ctx context.Context, app, account uuid.UUID, kind, externalID string, key IdempotencyKey) (Record, bool, error) {
	type answer struct {
		Record Record
		Added  bool
	}
	a, err := once(ctx, r, app, key, func(tx pgx.Tx) (a answer, err error) {
		if err := living(ctx, tx, app, &account); err != nil {
			return a, err
		}
		if err := cleanRecord(kind, externalID); err != nil {
			return a, err
		}
		now := r.now()
		tag, err := tx.Exec(ctx, `
			INSERT INTO record (id, app_id, account_id, kind, external_id, created_at)
			SELECT $1, $2, $3, $4, $5, $6 FROM account WHERE app_id = $2 AND id = $3 AND `+isLive+` FOR KEY SHARE -- it may be merged away this moment
			ON CONFLICT (app_id, kind, external_id) DO NOTHING`, newID(), app, account, kind, externalID, now)
		if err != nil {
			return a, fmt.Errorf("add record to account %s: %w", account, err)
		}
		rows, err := tx.Query(ctx, `SELECT `+recordColumns+` FROM record WHERE app_id = $1 AND kind = $2 AND external_id = $3`, app, kind, externalID)
		if err == nil {
			a.Record, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Record])
		}
		switch {
		case errors.Is(err, pgx.ErrNoRows):
			return a, accountOver(ctx, tx, app, account)
		case err != nil:
			return a, fmt.Errorf("read record of account %s: %w", account, err)
		case a.Record.AccountID != account:
			return answer{}, errorf(Conflict, "record_elsewhere", "This record belongs to another account. Remove it there first.")
		}
		if a.Added = tag.RowsAffected() == 1; !a.Added {
			return a, nil
		}
		_, err = recordEvents(ctx, tx, now, newEvent{app, EventRecordAdded, account, uuid.Nil, dataOfRecord(a.Record)})
		return a, err
	})
	return a.Record, a.Added, err
}

// dataOfRecord is what an event about a record, whose subject is the account,
// keeps.
func dataOfRecord(rec Record) json.RawMessage {
	return fmt.Appendf(nil, `{"record_id":%q,"kind":%q}`, rec.ID, rec.Kind)
}

// Records lists an account's records by their ids, from after on, at most limit,
// for an actor who may see them; Nil is the app itself.
func (r *Roster) Records(ctx context.Context, app, actor, account, after uuid.UUID, limit int) (records []Record, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		if err := living(ctx, tx, app, &account); err != nil {
			return err
		}
		if err := mayReadRecords(ctx, tx, app, actor, account); err != nil {
			return err
		}
		rows, err := tx.Query(ctx, `
			SELECT `+recordColumns+` FROM record
			WHERE app_id = $1 AND account_id = $2 AND id > $3 ORDER BY id LIMIT $4`, app, account, after, limit)
		if err != nil {
			return fmt.Errorf("list records of account %s: %w", account, err)
		}
		records, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Record])
		return err
	})
	return records, err
}

// RemoveRecord forgets a record. What it stands for is the app's to keep.
func (r *Roster) RemoveRecord(ctx context.Context, app, id uuid.UUID) (rec Record, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `DELETE FROM record WHERE app_id = $1 AND id = $2 RETURNING `+recordColumns, app, id)
		if err == nil {
			rec, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Record])
		}
		if errors.Is(err, pgx.ErrNoRows) {
			return notFound("record")
		}
		if err != nil {
			return fmt.Errorf("remove record %s: %w", id, err)
		}
		_, err = recordEvents(ctx, tx, r.now(), newEvent{app, EventRecordRemoved, rec.AccountID, uuid.Nil, dataOfRecord(rec)})
		return err
	})
	return rec, err
}
