package roster

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

// PurposeRequest tokens open /r/{token}.
const PurposeRequest Purpose = "access_request"

// RequestView is what the holder of a request's link may see.
type RequestView struct {
	AccessRequest
	App           App
	RequesterName string
	CompanyName   string
	Zone          *time.Location // of the company, then the app; the person's where the account meant is known

	// ByLink tells that the link alone shows whose account is meant: its address
	// is the one that the account's person logs in by, and nobody else's.
	ByLink bool

	RequestURL string // by ViewRequest: the app's own page for it; empty: Usher's

	clients       holders
	block         string
	unsubscribed  bool // the person wants no reminders
	stoppedUntil  *time.Time
	stoppedReason string
}

// MayAnswer tells whether an account is one of those the request may be about.
func (v RequestView) MayAnswer(account uuid.UUID) bool {
	if v.State == Granted || v.State == Revoked {
		return v.TargetID != nil && *v.TargetID == account
	}
	return v.clients.has(account)
}

// appOfRequest is the app of the request that a ticket stands for.
func appOfRequest(ctx context.Context, tx pgx.Tx, t Ticket) (app uuid.UUID, err error) {
	err = tx.QueryRow(ctx, `SELECT app_id FROM access_request WHERE id = $1`, t.ID).Scan(&app)
	if errors.Is(err, pgx.ErrNoRows) {
		return app, ErrDeadLink
	}
	if err != nil {
		return app, fmt.Errorf("read access request %s: %w", t.ID, err)
	}
	return app, nil
}

// ViewRequest is what a ticket of PurposeRequest stands for. Links of earlier
// versions are dead.
func (r *Roster) ViewRequest(ctx context.Context, t Ticket) (v RequestView, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		views, err := viewRequests(ctx, tx, []uuid.UUID{t.ID}, "")
		if err != nil {
			return err
		}
		var ok bool
		if v, ok = views[t.ID]; !ok || v.Version != t.Version {
			v = RequestView{}
			return ErrDeadLink
		}
		held, err := holdersOf(ctx, tx, v.AppID, v.EmailKey)
		if err != nil {
			return err
		}
		v.clients = held.clients()
		v.ByLink = len(held) == 1 && len(v.clients) == 1 && v.clients[0].Primary
		if v.Open() && !v.ExpiresAt.After(r.now()) {
			v.State = Expired // the sweep has not been there yet
		}
		policy, err := policyOf(ctx, tx, v.AppID)
		v.RequestURL = policy.RequestURL
		return err
	})
	return v, err
}

// viewRequests reads requests with what is shown of them; suffix may lock them.
func viewRequests(ctx context.Context, tx pgx.Tx, ids []uuid.UUID, suffix string) (map[uuid.UUID]RequestView, error) {
	rows, err := tx.Query(ctx, `
		SELECT `+requestColumns+`, `+appColumns+`, requester.full_name, company.name, company.time_zone,
			COALESCE((SELECT account.time_zone FROM account WHERE account.id = access_request.target_id), ''),
			COALESCE(address.block, ''), address.unsubscribed_at IS NOT NULL, app.mail_stopped_until, app.mail_stopped_reason
		FROM access_request
		JOIN app ON app.id = access_request.app_id
		JOIN account requester ON requester.id = access_request.requester_id
		JOIN company ON company.id = access_request.company_id
		LEFT JOIN address ON address.app_id = access_request.app_id AND address.email_key = access_request.email_key
		WHERE access_request.id = ANY($1) `+suffix, ids)
	if err != nil {
		return nil, fmt.Errorf("read %d access requests: %w", len(ids), err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
		AccessRequest
		App
		RequesterName, CompanyName, CompanyZone, PersonZone string
		Block                                               string
		Unsubscribed                                        bool
		StoppedUntil                                        *time.Time
		StoppedReason                                       string
	}])
	if err != nil {
		return nil, fmt.Errorf("read %d access requests: %w", len(ids), err)
	}
	views := make(map[uuid.UUID]RequestView, len(found))
	for _, f := range found {
		views[f.AccessRequest.ID] = RequestView{
			AccessRequest: f.AccessRequest, App: f.App, RequesterName: f.RequesterName, CompanyName: f.CompanyName,
			Zone:  zone(f.PersonZone, f.CompanyZone, f.App.TimeZone),
			block: f.Block, unsubscribed: f.Unsubscribed, stoppedUntil: f.StoppedUntil, stoppedReason: f.StoppedReason,
		}
	}
	return views, nil
}

// requestLetters checks mails about access requests.
func (r *Roster) requestLetters(ctx context.Context, tx pgx.Tx, mails []Mail, letters map[uuid.UUID]Letter) error {
	if len(mails) == 0 {
		return nil
	}
	ids := make([]uuid.UUID, len(mails))
	for i, m := range mails {
		ids[i] = m.SubjectID
	}
	views, err := viewRequests(ctx, tx, ids, "ORDER BY access_request.id FOR UPDATE OF access_request")
	if err != nil {
		return err
	}
	blocks, err := blocksOf(ctx, tx, mails)
	if err != nil {
		return err
	}
	var apps []uuid.UUID
	for _, m := range mails {
		if m.Kind == MailRequestReminder {
			apps = append(apps, m.AppID)
		}
	}
	settings, err := remindersOf(ctx, tx, apps)
	if err != nil {
		return err
	}
	now := r.now()
	var late []uuid.UUID
	for _, m := range mails {
		v, ok := views[m.SubjectID]
		l := Letter{Request: &v, Block: blocks[m.ID], Stop: stopped(v.stoppedUntil, v.stoppedReason, now)}
		switch {
		case !ok || v.AppID != m.AppID:
			l.Skip = "the access request is gone"
		case v.Version != m.Args.Version:
			l.Skip = "its address or link was replaced"
		case m.Kind == MailAuthorized && v.State != Granted:
			l.Skip = Skip("the access request is " + string(v.State))
		case (m.Kind == MailRequest || m.Kind == MailRequestReminder) && v.State != Pending:
			l.Skip = Skip("the access request is " + string(v.State))
		case m.Kind == MailRequest && (v.MessageID == nil || *v.MessageID != m.ID):
			l.Skip = "a newer mail was asked for"
		case m.Kind == MailRequestReminder && v.unsubscribed:
			l.Skip = "the person wants no reminders"
		case m.Kind != MailAuthorized && !v.ExpiresAt.After(now):
			l.Skip = "the access request has expired"
		case m.Kind == MailRequestReminder && l.Block == "" && l.Stop == nil:
			l.Stop = closedUntil(settings[m.AppID], v.AccessRequest.ID, v.ExpiresAt, v.Zone, now)
		case m.Kind == MailRequest && m.Args.Send == 1 && l.Block == "" && l.Stop == nil && v.QueuedAt != nil && now.Sub(*v.QueuedAt) >= outage:
			late = append(late, v.AccessRequest.ID)
		}
		if m.Kind == MailAuthorized {
			l.To = m.EmailKey
		}
		letters[m.ID] = l
	}
	return extendRequests(ctx, tx, late, letters, now)
}

// extendRequests gives requests whose first mail waited for an outage the time
// back that it cost them, as extendLate does for invitations.
func extendRequests(ctx context.Context, tx pgx.Tx, late []uuid.UUID, letters map[uuid.UUID]Letter, now time.Time) error {
	if len(late) == 0 {
		return nil
	}
	rows, err := tx.Query(ctx, `
		UPDATE access_request SET expires_at = expires_at + ($2::timestamptz - queued_at), queued_at = $2
		WHERE id = ANY($1) RETURNING `+requestColumns, late, now)
	if err != nil {
		return fmt.Errorf("extend %d access requests: %w", len(late), err)
	}
	extended, err := pgx.CollectRows(rows, pgx.RowToStructByPos[AccessRequest])
	if err != nil {
		return fmt.Errorf("extend %d access requests: %w", len(late), err)
	}
	events := make([]newEvent, len(extended))
	for i, q := range extended {
		letters[*q.MessageID].Request.AccessRequest = q
		events[i] = q.eventOf(EventRequestExtended, uuid.Nil)
	}
	_, err = recordEvents(ctx, tx, now, events...)
	return err
}

// blocksOf are the blocks of the mails' addresses, by the mails' ids.
func blocksOf(ctx context.Context, tx pgx.Tx, mails []Mail) (map[uuid.UUID]string, error) {
	ids := make([]uuid.UUID, len(mails))
	for i, m := range mails {
		ids[i] = m.ID
	}
	rows, err := tx.Query(ctx, `
		SELECT message.id, address.block FROM message
		JOIN address ON address.app_id = message.app_id AND address.email_key = message.email_key
		WHERE message.id = ANY($1)`, ids)
	if err != nil {
		return nil, fmt.Errorf("read addresses of %d mails: %w", len(mails), err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
		ID    uuid.UUID
		Block string
	}])
	if err != nil {
		return nil, fmt.Errorf("read addresses of %d mails: %w", len(mails), err)
	}
	blocks := map[uuid.UUID]string{}
	for _, f := range found {
		blocks[f.ID] = f.Block
	}
	return blocks, nil
}

// mayReadRecords refuses an actor who may not see an account's records: they are
// open to its person, and to the professionals of companies with access. Nil is
// the app itself, which keeps what the records stand for.
func mayReadRecords(ctx context.Context, tx pgx.Tx, app, actor, account uuid.UUID) error {
	if actor == uuid.Nil || actor == account {
		return nil
	}
	if err := mayRead(ctx, tx, app, &actor); err != nil {
		return err
	}
	var may bool
	if err := tx.QueryRow(ctx, `
		SELECT EXISTS (
			SELECT FROM record_access
			JOIN company_member ON company_member.company_id = record_access.company_id AND company_member.account_id = $2
			WHERE record_access.app_id = $1 AND record_access.account_id = $3 AND record_access.revoked_at IS NULL)`, app, actor, account).Scan(&may); err != nil {
		return fmt.Errorf("read access to records of account %s: %w", account, err)
	}
	if !may {
		return errorf(Forbidden, "no_access", "This account's records are open to its person and to companies that were given access. Ask for it with POST /v1/access-requests.")
	}
	return nil
}
