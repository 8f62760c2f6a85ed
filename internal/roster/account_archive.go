package roster

import (
	"context"
	"encoding/json"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// ArchiveAccount ends an account: nobody logs in to it any more, its
// memberships end, nobody finds it, and its address is free for another. Its
// records stay. Invitations it sent that are open go the way of the app's
// policy for those whose inviter may no longer invite. Archiving it again is a
// success.
func (r *Roster) ArchiveAccount(ctx context.Context, app, id uuid.UUID, key IdempotencyKey) (Account, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (account Account, err error) {
		archived, err := r.archive(ctx, tx, r.now(), json.RawMessage(`{}`), `app_id = $1 AND id = $2`, app, id)
		if err != nil {
			return account, err
		}
		if account, err = readAccount(ctx, tx, app, id); err != nil || len(archived) == 1 || account.Status == statusArchived {
			return account, err
		}
		return account, accountOver(ctx, tx, app, id)
	})
}

// archive ends the live accounts that meet the condition, of whatever apps; data
// is what their events keep.
func (r *Roster) archive(ctx context.Context, tx pgx.Tx, now time.Time, data json.RawMessage, condition string, args ...any) (archived []uuid.UUID, err error) {
	rows, err := tx.Query(ctx, `UPDATE account SET status = 'archived' WHERE `+condition+` AND `+isLive+` RETURNING app_id, id`, args...)
	if err != nil {
		return nil, fmt.Errorf("archive accounts: %w", err)
	}
	var events []newEvent
	ended, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ App, ID uuid.UUID }])
	if err != nil || len(ended) == 0 {
		return nil, err
	}
	for _, a := range ended {
		archived = append(archived, a.ID)
		events = append(events, newEvent{a.App, EventAccountArchived, a.ID, uuid.Nil, data})
	}
	batch := &pgx.Batch{}
	batch.Queue(`
		UPDATE membership SET state = 'archived', archived_at = $2, notice_due = false
		WHERE account_id = ANY ($1) AND state = 'active' RETURNING app_id, workspace_id, account_id`, archived, now).
		Query(eventsOfMembers(&events, EventMembershipArchived))
	batch.Queue(`DELETE FROM company_member WHERE account_id = ANY ($1) RETURNING app_id, company_id, account_id`, archived).
		Query(eventsOfMembers(&events, EventCompanyMemberRemoved))
	batch.Queue(`DELETE FROM session WHERE account_id = ANY ($1)`, archived)
	batch.Queue(`DELETE FROM account_search WHERE account_id = ANY ($1)`, archived)
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return nil, fmt.Errorf("archive accounts: %w", err)
	}
	if _, err := recordEvents(ctx, tx, now, events...); err != nil {
		return nil, err
	}
	// Few of them have invited anybody.
	rows, err = tx.Query(ctx, `SELECT DISTINCT app_id, inviter_id FROM invitation WHERE inviter_id = ANY ($1) AND `+isOpen, archived)
	if err != nil {
		return nil, fmt.Errorf("look for invitations of archived accounts: %w", err)
	}
	inviters, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ App, ID uuid.UUID }])
	if err != nil {
		return nil, fmt.Errorf("look for invitations of archived accounts: %w", err)
	}
	for _, inviter := range inviters {
		if err := r.orphan(ctx, tx, inviter.App, inviter.ID, uuid.Nil, now); err != nil {
			return nil, err
		}
	}
	return archived, nil
}

// eventsOfMembers appends an event for each row of an app, the subject, and an
// account that was its member.
func eventsOfMembers(events *[]newEvent, eventType string) func(pgx.Rows) error {
	return func(rows pgx.Rows) error {
		found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct{ App, Subject, Account uuid.UUID }])
		for _, m := range found {
			*events = append(*events, newEvent{m.App, eventType, m.Subject, uuid.Nil, memberData(m.Account)})
		}
		return err
	}
}

// Why an account that the clock looked at is not archived.
const (
	KeptClaimed = "claimed" // its person has a password, or it was merged or archived
	KeptAsked   = "asked"   // it waits for another request by now
)

// sweepAccounts is a chunk of the sweep that archives accounts that were made for
// clients and that nobody took: temporary ones whose request came to nothing, and
// those without a password, each after the days that the app's policy says. Each
// is looked at once.
func (r *Roster) sweepAccounts(ctx context.Context, tx pgx.Tx, now time.Time, _ int, s *Swept) (more bool, err error) {
	rows, err := tx.Query(ctx, `
		WITH due AS (
			SELECT q.* FROM policy CROSS JOIN LATERAL (VALUES
				('request_with_temporary', COALESCE((settings ->> 'archive_temporary_days')::int, 0)),
				('new_account', COALESCE((settings ->> 'archive_unclaimed_days')::int, 0))) AS rule (option, days)
			CROSS JOIN LATERAL (
				SELECT id, app_id, made_id FROM access_request
				WHERE app_id = policy.app_id AND option = rule.option AND decided_at <= $1::timestamptz - days * interval '1 day' AND `+isOver+`
				ORDER BY decided_at LIMIT $2 FOR UPDATE SKIP LOCKED
			) AS q WHERE days > 0 LIMIT $2
		), looked AS (
			UPDATE access_request SET looked_after = true FROM due WHERE access_request.id = due.id
		)
		SELECT access_request.app_id, made_id, account.username, CASE
			WHEN account.status NOT IN ('temporary', 'active') OR NOT account.unclaimed THEN $3
			WHEN `+isAskedAgain+` THEN $4
			ELSE '' END
		FROM due AS access_request JOIN account ON account.id = made_id`, now, sweepChunk, KeptClaimed, KeptAsked)
	if err != nil {
		return false, fmt.Errorf("look for accounts to archive: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
		App, ID        uuid.UUID
		Username, Kept string
	}])
	if err != nil {
		return false, fmt.Errorf("look for accounts to archive: %w", err)
	}
	var over []uuid.UUID
	for _, a := range found {
		s.Scanned++
		if a.Kept != "" {
			s.skip(a.Kept, Deed{AppID: a.App, Subject: a.ID, To: a.Username})
			continue
		}
		over = append(over, a.ID)
		s.did(Deed{a.App, a.ID, a.Username, "archives", "nobody took the account"})
	}
	if len(over) > 0 {
		if _, err := r.archive(ctx, tx, now, json.RawMessage(`{"unclaimed":true}`), `id = ANY ($1) AND unclaimed`, over); err != nil {
			return false, err
		}
	}
	return len(found) == sweepChunk, nil
}

// isOver holds for requests of which nothing comes any more but an account that
// was made for them.
const isOver = `NOT looked_after AND (option = 'new_account' OR option = 'request_with_temporary' AND state IN ('denied', 'expired', 'cancelled'))`

// isAskedAgain holds for requests besides which another one, of the same account,
// waits or was granted.
const isAskedAgain = `EXISTS (SELECT FROM access_request other
	WHERE other.made_id = access_request.made_id AND other.id <> access_request.id AND other.state IN ('pending', 'on_hold', 'approved', 'granted'))`
