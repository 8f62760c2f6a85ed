package roster

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// unmailedRest is when to look again at something whose first mail has not left.
const unmailedRest = time.Hour

// plannedAt is when to look next at the reminders of a row of invitation or
// access_request; null: never. The indexes are on it as it stands.
const plannedAt = `CASE WHEN planned_for = message_id THEN planned_at ELSE queued_at END`

// Why nobody was reminded of something that was due.
const (
	SkippedUnmailed     = "first_mail_waits"
	SkippedBlocked      = "address_blocked"
	SkippedUnsubscribed = "unsubscribed"
	SkippedBudget       = "mailbox_budget" // they were reminded of something else within a day
	SkippedDigest       = "in_digest"      // it was named in another one's mail
	SkippedClaimed      = "claimed"        // the person has a password by now
)

// thing is something a person may be reminded of.
type thing struct {
	Kind      string // MailReminder, MailRequestReminder or MailNewAccount
	ID        uuid.UUID
	AppID     uuid.UUID
	EmailKey  string
	SubjectID uuid.UUID // of the mail
	MessageID uuid.UUID // its newest mail
	Version   int       // of its link
	Done      int
	Due       bool
	From      time.Time
	Till      time.Time
	Zones     []string // of whom to take the zone, first to last
	Blocked   bool
	Silent    bool // they want no reminders
	MailState Delivery
	Claimed   bool

	now   due
	next  *time.Time
	named bool // in another thing's mail
}

func (t *thing) reminded() Reminded {
	return Reminded{ID: t.ID, From: t.From, Till: t.Till, Zone: zone(t.Zones...)}
}

// is what the thing is, for people.
func (t *thing) is() string {
	return map[string]string{MailReminder: "an invitation", MailRequestReminder: "an access request", MailNewAccount: "a new account"}[t.Kind]
}

func (t *thing) deed(does, why string) Deed {
	return Deed{AppID: t.AppID, Subject: t.SubjectID, To: t.EmailKey, Does: does, Why: why}
}

// thingsOf are all things that are open for the mailboxes of $2 and $3, at $1.
// $4 is how long an account that was made waits for its person, in seconds.
const thingsOf = `
	WITH mailbox AS (SELECT DISTINCT app_id, email_key FROM unnest($2::uuid[], $3::text[]) AS m (app_id, email_key)), facts AS (
		SELECT mailbox.app_id, mailbox.email_key, app.time_zone AS app_zone,
			COALESCE((SELECT account.time_zone FROM account WHERE account.app_id = mailbox.app_id AND account.email_key = mailbox.email_key AND account.status = 'active'), '') AS person_zone,
			COALESCE(address.block, '') <> '' AS blocked, address.unsubscribed_at IS NOT NULL AS silent
		FROM mailbox JOIN app ON app.id = mailbox.app_id
		LEFT JOIN address ON address.app_id = mailbox.app_id AND address.email_key = mailbox.email_key
	)
	SELECT '` + MailReminder + `', i.id, i.app_id, i.email_key, i.id, i.message_id, i.version,
		CASE WHEN i.planned_for = i.message_id THEN i.planned_done ELSE 0 END,
		COALESCE(` + plannedAt + ` <= $1, false), i.queued_at, i.expires_at, ARRAY[person_zone, company.time_zone, app_zone], blocked, silent,
		COALESCE((SELECT state FROM message WHERE message.id = i.message_id), 'none'), false
	FROM facts JOIN invitation i ON i.email_key = facts.email_key AND i.app_id = facts.app_id AND i.state = 'pending' AND i.queued_at IS NOT NULL AND i.message_id IS NOT NULL
	JOIN workspace ON workspace.id = i.workspace_id JOIN company ON company.id = workspace.company_id
	UNION ALL
	SELECT CASE q.option WHEN 'new_account' THEN '` + MailNewAccount + `' ELSE '` + MailRequestReminder + `' END, q.id, q.app_id, q.email_key,
		CASE q.option WHEN 'new_account' THEN q.made_id ELSE q.id END, q.message_id,
		CASE q.option WHEN 'new_account' THEN made.password_version ELSE q.version END,
		CASE WHEN q.planned_for = q.message_id THEN q.planned_done ELSE 0 END,
		COALESCE(` + plannedAt + ` <= $1, false), q.queued_at, CASE q.option WHEN 'new_account' THEN q.queued_at + $4 * interval '1 second' ELSE q.expires_at END,
		ARRAY[COALESCE(NULLIF(made.time_zone, ''), person_zone), company.time_zone, app_zone], blocked, silent,
		COALESCE((SELECT state FROM message WHERE message.id = q.message_id), 'none'), q.option = 'new_account' AND NOT (made.unclaimed AND made.status = 'active')
	FROM facts JOIN access_request q ON q.app_id = facts.app_id AND q.email_key = facts.email_key AND q.queued_at IS NOT NULL AND q.message_id IS NOT NULL
		AND (q.state = 'pending' OR q.option = 'new_account' AND q.state = 'granted')
	JOIN company ON company.id = q.company_id LEFT JOIN account made ON made.id = q.made_id`

// sweepReminders reminds people of what is due. Who has several things open gets
// one mail that names them all, and nobody more than one within a day. It looks
// at what is due only, whatever else is open.
func (r *Roster) sweepReminders(ctx context.Context, tx pgx.Tx, now time.Time, s *Swept) (more bool, err error) {
	var apps []uuid.UUID
	var keys []string
	for _, from := range []string{
		`invitation WHERE state = 'pending'`,
		`access_request WHERE (state = 'pending' OR option = 'new_account' AND state = 'granted')`,
	} {
		rows, err := tx.Query(ctx, `
			SELECT app_id, email_key FROM `+from+` AND `+plannedAt+` <= $1
			ORDER BY `+plannedAt+`, id LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED`, now, sweepChunk)
		if err != nil {
			return false, fmt.Errorf("look for reminders: %w", err)
		}
		found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
			App uuid.UUID
			Key string
		}])
		if err != nil {
			return false, fmt.Errorf("look for reminders: %w", err)
		}
		more = more || len(found) == sweepChunk
		for _, f := range found {
			apps, keys = append(apps, f.App), append(keys, f.Key)
		}
	}
	if len(apps) == 0 {
		return false, nil
	}
	things, err := readThings(ctx, tx, now, apps, keys)
	if err != nil {
		return false, err
	}
	settings, err := remindersOf(ctx, tx, apps)
	if err != nil {
		return false, err
	}
	wanting := decideAll(things, settings, now, s)
	lately, err := remindedLately(ctx, tx, wanting, now)
	if err != nil {
		return false, err
	}
	var mails []Mail
	for _, mailbox := range wanting {
		if at, ok := lately[mailbox[0].mailbox()]; ok {
			for _, t := range mailbox {
				if t.now.remind {
					t.postpone(settings[t.AppID], at.Add(leastApart), s)
				}
			}
			continue
		}
		mails = append(mails, remind(mailbox, settings, now, s))
	}
	if err := saveThings(ctx, tx, things); err != nil {
		return false, err
	}
	return more, r.ask(ctx, tx, now, mails...)
}

// mailbox names whom a thing is mailed to.
func (t *thing) mailbox() string { return t.AppID.String() + t.EmailKey }

func readThings(ctx context.Context, tx pgx.Tx, now time.Time, apps []uuid.UUID, keys []string) ([]*thing, error) {
	rows, err := tx.Query(ctx, thingsOf, now, apps, keys, newAccountLife.Seconds())
	if err != nil {
		return nil, fmt.Errorf("read what people are reminded of: %w", err)
	}
	things, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*thing, error) {
		t := &thing{}
		return t, row.Scan(&t.Kind, &t.ID, &t.AppID, &t.EmailKey, &t.SubjectID, &t.MessageID, &t.Version, &t.Done, &t.Due, &t.From, &t.Till, &t.Zones,
			&t.Blocked, &t.Silent, &t.MailState, &t.Claimed)
	})
	if err != nil {
		return nil, fmt.Errorf("read what people are reminded of: %w", err)
	}
	return things, nil
}

// remindersOf are the settings of apps.
func remindersOf(ctx context.Context, tx pgx.Tx, apps []uuid.UUID) (map[uuid.UUID]ReminderSettings, error) {
	settings := map[uuid.UUID]ReminderSettings{}
	for _, app := range apps {
		if _, ok := settings[app]; ok {
			continue
		}
		p, err := policyOf(ctx, tx, app)
		if err != nil {
			return nil, err
		}
		settings[app] = p.Reminders
	}
	return settings, nil
}

// decideAll sees what is due about each thing, and answers the mailboxes in which
// somebody is to be reminded, each with all its things.
func decideAll(things []*thing, settings map[uuid.UUID]ReminderSettings, now time.Time, s *Swept) (wanting [][]*thing) {
	byMailbox := map[string][]*thing{}
	var order []string
	for _, t := range things {
		if byMailbox[t.mailbox()] == nil {
			order = append(order, t.mailbox())
		}
		byMailbox[t.mailbox()] = append(byMailbox[t.mailbox()], t)
		if t.Due {
			s.Scanned++
			t.decide(settings[t.AppID], now, s)
		}
	}
	for _, mailbox := range order {
		if slices.ContainsFunc(byMailbox[mailbox], func(t *thing) bool { return t.now.remind }) {
			wanting = append(wanting, byMailbox[mailbox])
		}
	}
	return wanting
}

// decide sees what is due about a thing now, and when to look at it again.
func (t *thing) decide(settings ReminderSettings, now time.Time, s *Swept) {
	switch {
	case t.Claimed:
		s.skip(SkippedClaimed, t.deed("", ""))
		return
	case t.Blocked:
		s.skip(SkippedBlocked, t.deed("", ""))
		return
	case t.Silent:
		s.skip(SkippedUnsubscribed, t.deed("", ""))
		return
	}
	t.now = settings.at(t.reminded(), t.Done, now)
	if t.now.remind && (t.MailState == MailQueued || t.MailState == MailHeld || t.MailState == MailSending) {
		at := now.Add(unmailedRest)
		t.now, t.next = due{}, &at
		s.skip(SkippedUnmailed, t.deed("", ""))
		return
	}
	for _, reason := range t.now.skipped {
		s.skip(reason, t.deed("", ""))
	}
	t.Done = t.now.done
	if !t.now.next.IsZero() {
		t.next = &t.now.next
	}
}

// postpone puts a reminder off until a window opens at a time or later.
func (t *thing) postpone(settings ReminderSettings, until time.Time, s *Swept) {
	t.now.remind, t.next = false, nil
	if at, ok := settings.open(until, t.reminded()); ok && !at.After(t.Till.Add(-leastLeft)) {
		t.Done--
		t.next = &at
	}
	s.skip(SkippedBudget, t.deed("", ""))
}

// remindedLately are the mailboxes that got a reminder within the last day, with
// when that was.
func remindedLately(ctx context.Context, tx pgx.Tx, wanting [][]*thing, now time.Time) (map[string]time.Time, error) {
	if len(wanting) == 0 {
		return nil, nil
	}
	apps, keys := make([]uuid.UUID, len(wanting)), make([]string, len(wanting))
	for i, mailbox := range wanting {
		apps[i], keys[i] = mailbox[0].AppID, mailbox[0].EmailKey
	}
	rows, err := tx.Query(ctx, `
		SELECT q.app_id, q.email_key, last.at FROM unnest($1::uuid[], $2::text[]) AS q (app_id, email_key)
		CROSS JOIN LATERAL (SELECT max(created_at) AS at FROM message
			WHERE message.app_id = q.app_id AND message.email_key = q.email_key AND created_at > $3 AND state <> 'cancelled'
				AND (kind IN ($4, $5, $6) OR kind = $7 AND purpose LIKE '%:remind:%')) AS last
		WHERE last.at IS NOT NULL`, apps, keys, now.Add(-leastApart), MailReminder, MailRequestReminder, MailDigest, MailNewAccount)
	if err != nil {
		return nil, fmt.Errorf("look for reminders of the last day: %w", err)
	}
	found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
		App uuid.UUID
		Key string
		At  time.Time
	}])
	if err != nil {
		return nil, fmt.Errorf("look for reminders of the last day: %w", err)
	}
	lately := make(map[string]time.Time, len(found))
	for _, f := range found {
		lately[f.App.String()+f.Key] = f.At
	}
	return lately, nil
}

// remind is the mail to a mailbox in which a reminder is due: of the one thing
// there is, or of all that can still be answered.
func remind(mailbox []*thing, settings map[uuid.UUID]ReminderSettings, now time.Time, s *Swept) Mail {
	var first *thing
	var open []*thing
	for _, t := range mailbox {
		if t.now.remind && first == nil {
			first = t
		}
		if t.Kind != MailNewAccount && t.Till.Add(-leastLeft).After(now) {
			open = append(open, t)
		}
	}
	m := Mail{ID: newID(), AppID: first.AppID, Kind: first.Kind, SubjectID: first.SubjectID, Lane: Bulk, EmailKey: first.EmailKey, Args: MailArgs{Version: first.Version}}
	m.Purpose = fmt.Sprintf("v%d:of:%s:remind:%d", first.Version, first.MessageID, first.Done)
	if len(open) < 2 || first.Kind == MailNewAccount {
		s.did(first.deed("reminds", fmt.Sprintf("reminder %d of %s", first.Done, first.is())))
		for _, t := range mailbox {
			if t != first && t.now.remind { // of something else, which waits for its day
				t.postpone(settings[t.AppID], now.Add(leastApart), s)
			}
		}
		return m
	}
	m.Kind, m.Args = MailDigest, MailArgs{}
	for _, t := range open {
		m.Args.Items = append(m.Args.Items, MailItem{t.ID, t.Version, t.Kind == MailRequestReminder})
		if t == first || t.now.remind {
			s.did(t.deed("reminds", fmt.Sprintf("in one mail about %d things", len(open))))
			continue
		}
		// It is named in this mail, and so is not due again for a day.
		t.named = true
		var next time.Time
		var close []string
		plan := settings[t.AppID].Plan(t.reminded())
		t.Done, next, close = settings[t.AppID].after(plan, min(t.Done, len(plan)), now, nil)
		if t.next = nil; !next.IsZero() {
			t.next = &next
		}
		for range close {
			s.skip(SkippedDigest, t.deed("", ""))
		}
	}
	return m
}

// saveThings keeps when to look at each thing again. One that was decided or
// mailed anew meanwhile stays as it is.
func saveThings(ctx context.Context, tx pgx.Tx, things []*thing) error {
	batch := &pgx.Batch{}
	for _, table := range []string{"invitation", "access_request"} {
		var ids, messages []uuid.UUID
		var next []*time.Time
		var done []int
		for _, t := range things {
			if (t.Kind == MailReminder) != (table == "invitation") || !t.Due && !t.named {
				continue
			}
			ids, messages, next, done = append(ids, t.ID), append(messages, t.MessageID), append(next, t.next), append(done, t.Done)
		}
		if len(ids) > 0 {
			batch.Queue(`
				UPDATE `+table+` SET planned_for = q.message_id, planned_at = q.next, planned_done = q.done
				FROM unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::int[]) AS q (id, message_id, next, done)
				WHERE `+table+`.id = q.id AND `+table+`.message_id = q.message_id
					AND q.id = ANY(ARRAY(SELECT id FROM `+table+` WHERE id = ANY ($1) FOR NO KEY UPDATE SKIP LOCKED)) -- who holds one may wait for another of ours`, ids, messages, next, done)
		}
	}
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("plan reminders: %w", err)
	}
	return nil
}

// closedUntil is when a window for reminders opens for a person; nil: one is open.
// A mail that waited, as for a provider that was away, waits for it.
func closedUntil(settings ReminderSettings, id uuid.UUID, till time.Time, zone *time.Location, now time.Time) *MailStop {
	at, ok := settings.open(now, Reminded{ID: id, Till: till, Zone: zone})
	if !ok || !at.After(now) {
		return nil
	}
	return &MailStop{at, "reminders wait for the person's day"}
}
