package roster

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// unmailedRest is when to look again at something whose first mail has not left.
const unmailedRest = time.Hour

// remindChunk bounds a chunk of the sweep. It locks nothing that people wait for,
// and each chunk passes over what those before it left dead in the index.
const remindChunk = 5_000

// commitTime is longer than any transaction that asks for mail: one that began
// before another may commit after it.
const commitTime = 2 * time.Minute

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
		CASE WHEN plan.message_id = i.message_id THEN plan.done ELSE 0 END,
		plan.message_id IS DISTINCT FROM i.message_id OR COALESCE(plan.planned_at <= $1, false), i.queued_at, i.expires_at, ARRAY[person_zone, company.time_zone, app_zone], blocked, silent,
		COALESCE((SELECT state FROM message WHERE message.id = i.message_id), 'none'), false
	FROM facts JOIN invitation i ON i.email_key = facts.email_key AND i.app_id = facts.app_id AND i.state = 'pending' AND i.queued_at IS NOT NULL AND i.message_id IS NOT NULL
	JOIN workspace ON workspace.id = i.workspace_id JOIN company ON company.id = workspace.company_id
	LEFT JOIN reminder_plan plan ON plan.subject_id = i.id
	UNION ALL
	SELECT CASE q.option WHEN 'new_account' THEN '` + MailNewAccount + `' ELSE '` + MailRequestReminder + `' END, q.id, q.app_id, q.email_key,
		CASE q.option WHEN 'new_account' THEN q.made_id ELSE q.id END, q.message_id,
		CASE q.option WHEN 'new_account' THEN made.password_version ELSE q.version END,
		CASE WHEN plan.message_id = q.message_id THEN plan.done ELSE 0 END,
		plan.message_id IS DISTINCT FROM q.message_id OR COALESCE(plan.planned_at <= $1, false), q.queued_at, CASE q.option WHEN 'new_account' THEN q.queued_at + $4 * interval '1 second' ELSE q.expires_at END,
		ARRAY[COALESCE(NULLIF(made.time_zone, ''), person_zone), company.time_zone, app_zone], blocked, silent,
		COALESCE((SELECT state FROM message WHERE message.id = q.message_id), 'none'), q.option = 'new_account' AND NOT (made.unclaimed AND made.status = 'active')
	FROM facts JOIN access_request q ON q.app_id = facts.app_id AND q.email_key = facts.email_key AND q.queued_at IS NOT NULL AND q.message_id IS NOT NULL
		AND (q.state = 'pending' OR q.option = 'new_account' AND q.state = 'granted')
	JOIN company ON company.id = q.company_id LEFT JOIN account made ON made.id = q.made_id
	LEFT JOIN reminder_plan plan ON plan.subject_id = q.id`

// sweepReminders reminds people of what is due. Who has several things open gets
// one mail that names them all, and nobody more than one within a day. It looks
// at what is due only, whatever else is open.
func (r *Roster) sweepReminders(ctx context.Context, tx pgx.Tx, now time.Time, s *Swept) (more bool, err error) {
	d, err := dueMailboxes(ctx, tx, now)
	if err != nil || len(d.apps) == 0 {
		return false, err
	}
	apps := d.apps
	things, err := readThings(ctx, tx, now, apps, d.keys)
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
	if err := saveThings(ctx, tx, things, d.subjects); err != nil {
		return false, err
	}
	return d.more, r.ask(ctx, tx, now, mails...)
}

// dueNow are mailboxes for which something is due.
type dueNow struct {
	apps     []uuid.UUID
	keys     []string
	subjects []uuid.UUID // whose plans are due
	more     bool        // there may be others
}

// dueMailboxes are the mailboxes for which something is due, or was mailed since
// the last look. Who looks meanwhile waits.
func dueMailboxes(ctx context.Context, tx pgx.Tx, now time.Time) (d dueNow, err error) {
	if _, err := tx.Exec(ctx, `INSERT INTO sweep (name) VALUES ($1) ON CONFLICT DO NOTHING`, SweepReminders); err != nil {
		return d, fmt.Errorf("look for reminders: %w", err)
	}
	var cursor uuid.UUID
	if err := tx.QueryRow(ctx, `
		SELECT COALESCE(cursor, '00000000-0000-0000-0000-000000000000'::uuid) FROM sweep WHERE name = $1 FOR UPDATE`, SweepReminders).Scan(&cursor); err != nil {
		return d, fmt.Errorf("look for reminders: %w", err)
	}
	// look adds the mailboxes that a query finds, and answers the last id.
	look := func(query string, args ...any) (newest uuid.UUID, n int, _ error) {
		rows, err := tx.Query(ctx, query, args...)
		if err != nil {
			return newest, 0, fmt.Errorf("look for reminders: %w", err)
		}
		found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
			App uuid.UUID
			Key string
			ID  uuid.UUID
		}])
		if err != nil {
			return newest, 0, fmt.Errorf("look for reminders: %w", err)
		}
		for _, f := range found {
			d.apps, d.keys, d.subjects, newest = append(d.apps, f.App), append(d.keys, f.Key), append(d.subjects, f.ID), f.ID
		}
		return newest, len(found), nil
	}
	from := uuid.Nil
	if cursor != uuid.Nil {
		from = firstIDAt(timeOfID(cursor).Add(-commitTime))
	}
	newest, n, err := look(`
		SELECT message.app_id, message.email_key, message.id FROM message CROSS JOIN LATERAL (
			SELECT i.id FROM invitation i WHERE message.kind = $2 AND i.id = message.subject_id AND i.message_id = message.id AND i.state = 'pending'
			UNION ALL SELECT q.id FROM access_request q WHERE message.kind = $3 AND q.id = message.subject_id AND q.message_id = message.id AND q.state = 'pending'
			UNION ALL SELECT q.id FROM access_request q WHERE message.kind = $4 AND q.made_id = message.subject_id AND q.message_id = message.id) AS thing
		WHERE message.id > $1 AND NOT EXISTS (SELECT FROM reminder_plan plan WHERE plan.subject_id = thing.id AND plan.message_id = message.id)
		ORDER BY message.id LIMIT $5`, from, MailInvitation, MailRequest, MailNewAccount, remindChunk)
	if err != nil {
		return d, err
	}
	if bytes.Compare(newest[:], cursor[:]) > 0 {
		if _, err := tx.Exec(ctx, `UPDATE sweep SET cursor = $2 WHERE name = $1`, SweepReminders, newest); err != nil {
			return d, fmt.Errorf("look for reminders: %w", err)
		}
	}
	d.subjects = nil // those were mails
	_, due, err := look(`
		SELECT app_id, email_key, subject_id FROM reminder_plan WHERE planned_at <= $1 ORDER BY planned_at, subject_id LIMIT $2`, now, remindChunk)
	d.more = n == remindChunk || due == remindChunk
	return d, err
}

// timeOfID is when an id of UUIDv7 was made, to the millisecond.
func timeOfID(id uuid.UUID) time.Time {
	var ms int64
	for _, b := range id[:6] {
		ms = ms<<8 | int64(b)
	}
	return time.UnixMilli(ms)
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

// saveThings keeps when to look at each thing again. What was due and is not among
// them any more was decided meanwhile, and is not looked at again.
func saveThings(ctx context.Context, tx pgx.Tx, things []*thing, due []uuid.UUID) error {
	n := len(things)
	ids, of, messages := make([]uuid.UUID, 0, n), make([]uuid.UUID, 0, n), make([]uuid.UUID, 0, n)
	to, next, done := make([]string, 0, n), make([]*time.Time, 0, n), make([]int, 0, n)
	for _, t := range things {
		if t.Due || t.named {
			ids, of, messages, to, next, done = append(ids, t.ID), append(of, t.AppID), append(messages, t.MessageID), append(to, t.EmailKey), append(next, t.next), append(done, t.Done)
		}
	}
	open := make(map[uuid.UUID]bool, len(ids))
	for _, id := range ids {
		open[id] = true
	}
	over := slices.DeleteFunc(due, func(id uuid.UUID) bool { return open[id] })
	batch := &pgx.Batch{}
	batch.Queue(`
		INSERT INTO reminder_plan (subject_id, app_id, email_key, message_id, planned_at, done)
		SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::text[], $4::uuid[], $5::timestamptz[], $6::int[])
		ON CONFLICT (subject_id) DO UPDATE SET email_key = excluded.email_key, message_id = excluded.message_id, planned_at = excluded.planned_at, done = excluded.done`,
		ids, of, to, messages, next, done)
	batch.Queue(`DELETE FROM reminder_plan WHERE subject_id = ANY ($1)`, over)
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
