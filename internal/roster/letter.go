package roster

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

// outage is how long a first mail may wait without its invitation's life
// becoming longer: what is less is no outage, only a busy day.
const outage = time.Hour

// unknownPause is how long mail waits that this release cannot write: as long
// as it takes until the next one's workers are there.
const unknownPause = time.Minute

// Skip is why a job found nothing left to do. It is a good end: the subject
// moved on while the job waited.
type Skip string

// Letter is what the late check found for one mail: its facts as they are at
// this moment, or why it is not to be sent.
type Letter struct {
	Skip       Skip            // nothing is to be sent any more
	Block      string          // the address cannot be written to: 'hard', 'provider' or 'complaint'
	Stop       *MailStop       // the app's mail waits
	Invitation *InvitationView // for MailInvitation and MailReminder
	News       *News           // for MailNews
	Notice     *Notice         // for MailWorkspaces
	Password   *PasswordLetter // for MailPassword and MailNewAccount
	Request    *RequestView    // for MailRequest, MailRequestReminder and MailAuthorized
	Digest     *Digest         // for MailDigest

	// To is the address, as compared, that is written to where it is none of the
	// above's own; empty otherwise.
	To string

	// FirstMessageID is the Message-ID of the first mail about the invitation to
	// this address, which a later one joins; empty where it is not known.
	FirstMessageID string
}

// MailStop is why an app's mail waits, and until when at least.
type MailStop struct {
	Until  time.Time
	Reason string
}

// HoldAppMail has an app's mail wait, that of the app whose message is named.
// Other apps' mail goes on.
func (r *Roster) HoldAppMail(ctx context.Context, message uuid.UUID, stop MailStop) error {
	err := postgres.Send(ctx, r.DB, func(batch *pgx.Batch) {
		batch.Queue(`
			UPDATE app SET mail_stopped_until = $2, mail_stopped_reason = $3
			WHERE id = (SELECT app_id FROM message WHERE id = $1)`, message, stop.Until, stop.Reason)
	})
	if err != nil {
		return fmt.Errorf("hold mail of the app of message %s: %w", message, err)
	}
	return nil
}

// stopped is the stop that holds at a time; nil: none.
func stopped(until *time.Time, reason string, now time.Time) *MailStop {
	if until == nil || !until.After(now) {
		return nil
	}
	return &MailStop{*until, reason}
}

// Letters is the late check of mails that are about to be written: an answer
// for each, by its id. Their invitations stay locked until the caller's
// transaction ends, so that what is frozen there cannot be overtaken by a
// decision.
func (r *Roster) Letters(ctx context.Context, mails []Mail) (letters map[uuid.UUID]Letter, err error) {
	letters = make(map[uuid.UUID]Letter, len(mails))
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		var invitations, news, notices, passwords, requests, digests []Mail
		for _, m := range mails {
			switch m.Kind {
			case MailInvitation, MailReminder:
				invitations = append(invitations, m)
			case MailNews:
				news = append(news, m)
			case MailWorkspaces:
				notices = append(notices, m)
			case MailPassword, MailNewAccount:
				passwords = append(passwords, m)
			case MailDigest:
				digests = append(digests, m)
			case MailRequest, MailRequestReminder, MailAuthorized:
				requests = append(requests, m)
			default: // asked for by a newer release, whose workers will know it
				letters[m.ID] = Letter{Stop: &MailStop{r.now().Add(unknownPause), fmt.Sprintf("this release does not know mail of the kind %q", m.Kind)}}
			}
		}
		if err := r.invitationLetters(ctx, tx, invitations, letters); err != nil {
			return err
		}
		if err := r.newsLetters(ctx, tx, news, letters); err != nil {
			return err
		}
		if err := r.noticeLetters(ctx, tx, notices, letters); err != nil {
			return err
		}
		if err := r.requestLetters(ctx, tx, requests, letters); err != nil {
			return err
		}
		if err := r.digestLetters(ctx, tx, digests, letters); err != nil {
			return err
		}
		return r.passwordLetters(ctx, tx, passwords, letters)
	})
	return letters, err
}

// invitationLetters checks mails to invited persons.
func (r *Roster) invitationLetters(ctx context.Context, tx pgx.Tx, mails []Mail, letters map[uuid.UUID]Letter) error {
	if len(mails) == 0 {
		return nil
	}
	ids := make([]uuid.UUID, len(mails))
	for i, m := range mails {
		ids[i] = m.SubjectID
	}
	views, err := viewInvitations(ctx, tx, ids, "ORDER BY invitation.id FOR UPDATE OF invitation") // in one order, against waiting in a circle
	if err != nil {
		return err
	}
	now := r.now()
	var late, again, apps []uuid.UUID
	for _, m := range mails {
		if m.Kind == MailReminder {
			apps = append(apps, m.AppID)
		}
		if m.Kind == MailReminder || m.Args.Send > 1 {
			again = append(again, m.SubjectID)
		}
	}
	first, err := firstMessageIDs(ctx, tx, again)
	if err != nil {
		return err
	}
	settings, err := remindersOf(ctx, tx, apps)
	if err != nil {
		return err
	}
	for _, m := range mails {
		v, ok := views[m.SubjectID]
		l := Letter{Invitation: &v, Block: v.block, Stop: stopped(v.stoppedUntil, v.stoppedReason, now), FirstMessageID: first[m.SubjectID]}
		switch {
		case !ok || v.AppID != m.AppID:
			l.Skip = "the invitation is gone"
		case v.State != Pending:
			l.Skip = Skip("the invitation is " + string(v.State))
		case v.Version != m.Args.Version:
			l.Skip = "its address or link was replaced"
		case m.Kind == MailInvitation && (v.MessageID == nil || *v.MessageID != m.ID):
			l.Skip = "a newer mail was asked for"
		case m.Kind == MailReminder && v.unsubscribed:
			l.Skip = "the person wants no reminders"
		case !v.ExpiresAt.After(now):
			l.Skip = "the invitation has expired"
		case m.Kind == MailReminder && l.Block == "" && l.Stop == nil:
			l.Stop = closedUntil(settings[m.AppID], v.ID, v.ExpiresAt, v.Zone, now)
		case m.Args.Send == 1 && l.Block == "" && l.Stop == nil && v.QueuedAt != nil && now.Sub(*v.QueuedAt) >= outage:
			late = append(late, v.ID)
		}
		letters[m.ID] = l
	}
	return extendLate(ctx, tx, late, letters, now)
}

// firstMessageIDs are the Message-IDs of invitations' first mails to the
// addresses they have now, as far as the provider told them.
func firstMessageIDs(ctx context.Context, tx pgx.Tx, invitations []uuid.UUID) (map[uuid.UUID]string, error) {
	if len(invitations) == 0 {
		return nil, nil
	}
	rows, err := tx.Query(ctx, `
		SELECT DISTINCT ON (invitation.id) invitation.id, provider_event.body->>'message_id'
		FROM invitation
		JOIN message ON message.subject_id = invitation.id AND message.email_key = invitation.email_key
		JOIN provider_event ON provider_event.message_id = message.id AND provider_event.body->>'message_id' <> ''
		WHERE invitation.id = ANY($1)
		ORDER BY invitation.id, message.created_at, message.id`, invitations)
	if err != nil {
		return nil, fmt.Errorf("read first mails of %d invitations: %w", len(invitations), err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
		Invitation uuid.UUID
		MessageID  string
	}])
	if err != nil {
		return nil, fmt.Errorf("read first mails of %d invitations: %w", len(invitations), err)
	}
	first := make(map[uuid.UUID]string, len(found))
	for _, f := range found {
		first[f.Invitation] = f.MessageID
	}
	return first, nil
}

// extendLate gives invitations whose first mail waited for an outage the time
// back that it cost them: nobody could have accepted meanwhile.
func extendLate(ctx context.Context, tx pgx.Tx, late []uuid.UUID, letters map[uuid.UUID]Letter, now time.Time) error {
	if len(late) == 0 {
		return nil
	}
	rows, err := tx.Query(ctx, `
		UPDATE invitation SET expires_at = expires_at + ($2::timestamptz - queued_at), queued_at = $2
		WHERE id = ANY($1) RETURNING `+invitationColumns, late, now)
	if err != nil {
		return fmt.Errorf("extend %d invitations: %w", len(late), err)
	}
	extended, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Invitation])
	if err != nil {
		return fmt.Errorf("extend %d invitations: %w", len(late), err)
	}
	for _, inv := range extended {
		letters[*inv.MessageID].Invitation.Invitation = inv
	}
	_, err = recordAll(ctx, tx, extended, EventExpiryExtended, now)
	return err
}

// MailMoved tells whether a mail of the dispatch is no longer wanted, or has to
// wait: the last look before it is sent for the first time, after it was written and waited
// for its turn.
func (r *Roster) MailMoved(ctx context.Context, dispatch uuid.UUID) (moved bool, err error) {
	err = postgres.Send(ctx, r.DB, func(batch *pgx.Batch) {
		batch.Queue(`
			SELECT EXISTS (
				SELECT FROM dispatch
				CROSS JOIN LATERAL unnest(dispatch.message_ids) AS m (id)
				JOIN message ON message.id = m.id
				JOIN app ON app.id = message.app_id
				LEFT JOIN address ON address.app_id = message.app_id AND address.email_key = message.email_key
				LEFT JOIN invitation ON invitation.id = message.subject_id AND message.kind IN ($2, $3)
				LEFT JOIN account ON account.id = message.subject_id AND message.kind IN ($5, $6)
				LEFT JOIN access_request ON access_request.id = message.subject_id AND message.kind IN ($7, $8, $9)
				WHERE dispatch.id = $1 AND (app.mail_stopped_until > $4 OR address.block <> ''
					OR address.unsubscribed_at IS NOT NULL AND message.kind IN ($3, $9, $10)
					OR invitation.state <> 'pending' OR invitation.expires_at <= $4
					OR invitation.message_id <> message.id AND message.kind = $2
					OR invitation.version <> (message.args->>'version')::int
					OR access_request.version <> (message.args->>'version')::int
					OR message.kind = $7 AND (access_request.state <> 'pending' OR access_request.expires_at <= $4 OR access_request.message_id <> message.id)
					OR message.kind = $8 AND access_request.state <> 'granted'
					OR message.kind = $9 AND (access_request.state <> 'pending' OR access_request.expires_at <= $4)
					OR message.kind = $10 AND EXISTS (
						SELECT FROM jsonb_to_recordset(message.args->'items') AS item (id uuid, version int)
						LEFT JOIN invitation i ON i.id = item.id AND i.state = 'pending' AND i.version = item.version AND i.expires_at > $4
						LEFT JOIN access_request q ON q.id = item.id AND q.state = 'pending' AND q.version = item.version AND q.expires_at > $4
						WHERE i.id IS NULL AND q.id IS NULL)
					OR account.status NOT IN ('active', 'temporary') OR account.password_version <> COALESCE((message.args->>'version')::int, 0)))`,
			dispatch, MailInvitation, MailReminder, r.now(), MailPassword, MailNewAccount, MailRequest, MailAuthorized,
			MailRequestReminder, MailDigest).QueryRow(func(row pgx.Row) error { return row.Scan(&moved) })
	})
	if err != nil {
		return false, fmt.Errorf("check dispatch %s: %w", dispatch, err)
	}
	return moved, nil
}

// News is what an inviter is told about invitations.
type News struct {
	App     App
	Inviter Account
	Zone    *time.Location
	Lines   []NewsLine
}

// NewsLine is one event of one invitation.
type NewsLine struct {
	Type          string // EventAccepted, EventDeclined, EventExpired, EventRenewalAsked, EventHeld, EventTransferred, EventRevoked or one of access requests
	SubjectID     uuid.UUID
	PersonName    string
	Email         string
	WorkspaceName string // empty for access requests
	At            time.Time
	Reason        string // of EventHeld: a code; ReasonInviterGone also of EventTransferred and EventRevoked
	Said          string // of EventHeld: what the newest mail came to, as in MailNote
}

// newsLetters checks mails to inviters.
func (r *Roster) newsLetters(ctx context.Context, tx pgx.Tx, mails []Mail, letters map[uuid.UUID]Letter) error {
	if len(mails) == 0 {
		return nil
	}
	inviters := make([]uuid.UUID, len(mails))
	var events, mailOf, inviterOf []uuid.UUID
	for i, m := range mails {
		inviters[i] = m.SubjectID
		for _, event := range m.Args.EventIDs {
			events, mailOf, inviterOf = append(events, event), append(mailOf, m.ID), append(inviterOf, m.SubjectID)
		}
	}
	accounts, lines := map[uuid.UUID]newsAccount{}, map[uuid.UUID][]NewsLine{}
	batch := &pgx.Batch{}
	batch.Queue(`
		SELECT `+appColumns+`, `+accountColumns+`, COALESCE(address.block, ''), app.mail_stopped_until, app.mail_stopped_reason
		FROM account JOIN app ON app.id = account.app_id
		LEFT JOIN address ON address.app_id = account.app_id AND address.email_key = `+mailKey+`
		WHERE account.id = ANY($1)`, inviters).Query(func(rows pgx.Rows) error {
		found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[newsAccount])
		for _, account := range found {
			accounts[account.Account.ID] = account
		}
		return err
	})
	// Of a hold that is over nothing is told.
	batch.Queue(`
		SELECT q.mail_id, event.type, event.subject_id, COALESCE(account.full_name, invitation.full_name), invitation.email, workspace.name, event.at,
			COALESCE(event.data->>'reason', ''), COALESCE((SELECT message.reason FROM message WHERE message.id = invitation.message_id), '')
		FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS q (event_id, mail_id, inviter_id)
		JOIN event ON event.id = q.event_id
		JOIN invitation ON invitation.app_id = event.app_id AND invitation.id = event.subject_id
			AND q.inviter_id::text = COALESCE(event.data->>'owner_id', invitation.inviter_id::text)
		JOIN workspace ON workspace.id = invitation.workspace_id
		LEFT JOIN account ON account.id = invitation.account_id
		WHERE event.type <> $4 OR invitation.state = 'on_hold'
		UNION ALL
		SELECT q.mail_id, event.type, event.subject_id, access_request.full_name, access_request.email, '', event.at, COALESCE(event.data->>'reason', ''), ''
		FROM unnest($1::uuid[], $2::uuid[], $3::uuid[]) AS q (event_id, mail_id, inviter_id)
		JOIN event ON event.id = q.event_id
		JOIN access_request ON access_request.app_id = event.app_id AND access_request.id = event.subject_id AND access_request.requester_id = q.inviter_id
		WHERE event.type <> $5 OR access_request.state = 'on_hold'
		ORDER BY 7, 3`, events, mailOf, inviterOf, EventHeld, EventRequestHeld).Query(func(rows pgx.Rows) error {
		found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
			MailID uuid.UUID
			NewsLine
		}])
		for _, line := range found {
			lines[line.MailID] = append(lines[line.MailID], line.NewsLine)
		}
		return err
	})
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("read news of %d inviters: %w", len(mails), err)
	}
	for _, m := range mails {
		account, ok := accounts[m.SubjectID]
		l := Letter{Block: account.Block, Stop: stopped(account.StoppedUntil, account.StoppedReason, r.now()), News: &News{
			App: account.App, Inviter: account.Account, Zone: zone(account.Account.TimeZone, account.App.TimeZone), Lines: lines[m.ID],
		}}
		switch {
		case !ok || account.App.ID != m.AppID:
			l.Skip = "the inviter is gone"
		case account.Status != statusActive:
			l.Skip = Skip("the inviter's account is " + account.Status)
		case len(l.News.Lines) == 0:
			l.Skip = "there is no news left"
		}
		letters[m.ID] = l
	}
	return nil
}

type newsAccount struct {
	App
	Account
	Block         string
	StoppedUntil  *time.Time
	StoppedReason string
}

// newsMail is the mail that tells an inviter of events. An event is told in one
// mail only, so the first one names the mail.
func newsMail(app, inviter uuid.UUID, events []uuid.UUID) Mail {
	return Mail{
		ID: newID(), AppID: app, Kind: MailNews, SubjectID: inviter,
		Purpose: "news:" + events[0].String(), Args: MailArgs{EventIDs: events},
		Lane: Bulk,
	}
}
