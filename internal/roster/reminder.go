package roster

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// unmailedRest is when to look again at something whose first mail has not left.
const unmailedRest = time.Hour

// remindChunk bounds a chunk of the sweep. It locks nothing that people wait for,
// and each chunk passes over what those before it left dead in the index.
const remindChunk = 5_000

// reminderLanes share the mailboxes among them: two keep the database and the
// process busy at once, where one has either wait for the other. The index
// reminder_plan_due and the rows of reminder_lane follow it.
const reminderLanes = 2

// inLane holds for the rows of the lane $1, which is a mailbox's for good: what
// one person is told of is decided at one place.
var inLane = fmt.Sprintf(`abs(hashtext(email_key) %% %d) = $1`, reminderLanes)

// planAnew has the database plan a statement each time: a plan that was right when
// there was hardly any mail would read all of it for each person once there is.
const planAnew = pgx.QueryExecModeCacheDescribe

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
	Planned   bool // its newest mail has a plan already
	From      time.Time
	Till      time.Time
	Zone      string     // of the person, else of the company, else of the app
	Hindrance string     // why nobody is reminded of it, one of Skipped…; empty: nothing
	Reminded  *time.Time // when the mailbox got a reminder of anything within leastApart; nil: it did not

	now   due
	next  *time.Time
	named bool // in another thing's mail
}

func (t *thing) reminded() Reminded {
	return Reminded{ID: t.ID, From: t.From, Till: t.Till, Zone: zone(t.Zone)}
}

// is what the thing is, for people.
func (t *thing) is() string {
	switch t.Kind {
	case MailRequestReminder:
		return "an access request"
	case MailNewAccount:
		return "a new account"
	default:
		return "an invitation"
	}
}

// mailbox is whom things are mailed to.
type mailbox struct {
	app uuid.UUID
	key string
}

func (t *thing) mailbox() mailbox { return mailbox{t.AppID, t.EmailKey} }

func (t *thing) deed(does, why string) Deed {
	return Deed{AppID: t.AppID, Subject: t.SubjectID, To: t.EmailKey, Does: does, Why: why}
}

// thingsOf are all things that are open for the mailboxes of $2 and $3, at $1.
// $4 is how long an account that was made waits for its person, in seconds, and
// $5 the time after which a mailbox that got a reminder gets no other.
const thingsOf = `
	WITH mailbox AS (SELECT DISTINCT app_id, email_key FROM unnest($2::uuid[], $3::text[]) AS m (app_id, email_key)), facts AS (
		SELECT mailbox.app_id, mailbox.email_key, app.time_zone AS app_zone,
			COALESCE((SELECT account.time_zone FROM account WHERE account.app_id = mailbox.app_id AND account.email_key = mailbox.email_key AND account.status = 'active'), '') AS person_zone,
			CASE WHEN address.block <> '' THEN '` + SkippedBlocked + `' WHEN address.unsubscribed_at IS NOT NULL THEN '` + SkippedUnsubscribed + `' ELSE '' END AS hindrance,
			reminded, COALESCE(waiting, '{}') AS waiting
		FROM mailbox JOIN app ON app.id = mailbox.app_id
		LEFT JOIN address ON address.app_id = mailbox.app_id AND address.email_key = mailbox.email_key
		CROSS JOIN LATERAL (
			SELECT max(created_at) FILTER (WHERE created_at > $5 AND state <> 'cancelled'
					AND (kind IN ('` + MailReminder + `', '` + MailRequestReminder + `', '` + MailDigest + `') OR kind = '` + MailNewAccount + `' AND purpose LIKE '%:remind:%')) AS reminded,
				array_agg(id) FILTER (WHERE state IN ('queued', 'held', 'sending')) AS waiting
			FROM message WHERE message.app_id = mailbox.app_id AND message.email_key = mailbox.email_key) AS mails
	)
	SELECT '` + MailReminder + `', i.id, i.app_id, i.email_key, i.id, i.message_id, i.version,
		CASE WHEN plan.message_id = i.message_id THEN plan.done ELSE 0 END,
		plan.message_id IS DISTINCT FROM i.message_id OR COALESCE(plan.planned_at <= $1, false), COALESCE(plan.message_id = i.message_id, false), i.queued_at, i.expires_at, COALESCE(NULLIF(person_zone, ''), NULLIF(company.time_zone, ''), app_zone),
		CASE WHEN facts.hindrance <> '' THEN facts.hindrance WHEN i.message_id = ANY (waiting) THEN '` + SkippedUnmailed + `' ELSE '' END, reminded
	FROM facts JOIN invitation i ON i.email_key = facts.email_key AND i.app_id = facts.app_id AND i.state = 'pending' AND i.queued_at IS NOT NULL AND i.message_id IS NOT NULL
	JOIN workspace ON workspace.id = i.workspace_id JOIN company ON company.id = workspace.company_id
	LEFT JOIN reminder_plan plan ON plan.subject_id = i.id
	UNION ALL
	SELECT CASE q.option WHEN 'new_account' THEN '` + MailNewAccount + `' ELSE '` + MailRequestReminder + `' END, q.id, q.app_id, q.email_key,
		CASE q.option WHEN 'new_account' THEN q.made_id ELSE q.id END, q.message_id,
		CASE q.option WHEN 'new_account' THEN made.password_version ELSE q.version END,
		CASE WHEN plan.message_id = q.message_id THEN plan.done ELSE 0 END,
		plan.message_id IS DISTINCT FROM q.message_id OR COALESCE(plan.planned_at <= $1, false), COALESCE(plan.message_id = q.message_id, false), q.queued_at, CASE q.option WHEN 'new_account' THEN q.queued_at + $4 * interval '1 second' ELSE q.expires_at END,
		COALESCE(NULLIF(made.time_zone, ''), NULLIF(person_zone, ''), NULLIF(company.time_zone, ''), app_zone),
		CASE WHEN q.option = 'new_account' AND NOT (made.unclaimed AND made.status = 'active') THEN '` + SkippedClaimed + `' WHEN facts.hindrance <> '' THEN facts.hindrance
			WHEN q.message_id = ANY (waiting) THEN '` + SkippedUnmailed + `' ELSE '' END, reminded
	FROM facts JOIN access_request q ON q.app_id = facts.app_id AND q.email_key = facts.email_key AND q.queued_at IS NOT NULL AND q.message_id IS NOT NULL
		AND (q.state = 'pending' OR q.option = 'new_account' AND q.state = 'granted')
	JOIN company ON company.id = q.company_id LEFT JOIN account made ON made.id = q.made_id
	LEFT JOIN reminder_plan plan ON plan.subject_id = q.id`

// sweepReminders reminds people of what is due. Who has several things open gets
// one mail that names them all, and nobody more than one within a day. It looks
// at what is due only, whatever else is open.
func (r *Roster) sweepReminders(ctx context.Context, tx pgx.Tx, now time.Time, lane int, s *Swept) (more bool, err error) {
	d, err := dueMailboxes(ctx, tx, now, lane)
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
	var mails []Mail
	for _, together := range decideAll(things, settings, now, s) {
		if at := together[0].Reminded; at != nil {
			for _, t := range together {
				if t.now.remind {
					t.postpone(settings[t.AppID], at.Add(leastApart), s)
				}
			}
			continue
		}
		mails = append(mails, remind(together, settings, now, s))
	}
	if err := saveThings(ctx, tx, now, things, d.subjects); err != nil {
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
// the last look. Who looks meanwhile in the same lane waits.
func dueMailboxes(ctx context.Context, tx pgx.Tx, now time.Time, lane int) (d dueNow, err error) {
	var cursor uuid.UUID
	if err := tx.QueryRow(ctx, `
		SELECT COALESCE(cursor, '00000000-0000-0000-0000-000000000000'::uuid) FROM reminder_lane WHERE lane = $1 FOR UPDATE`, lane).Scan(&cursor); err != nil {
		return d, fmt.Errorf("look for reminders: %w", err)
	}
	// look adds the mailboxes that a query finds, and answers the last id.
	look := func(query string, args ...any) (newest uuid.UUID, n int, _ error) {
		rows, err := tx.Query(ctx, query, append([]any{planAnew}, args...)...)
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
			SELECT i.id FROM invitation i WHERE message.kind = $3 AND i.id = message.subject_id AND i.message_id = message.id AND i.state = 'pending'
			UNION ALL SELECT q.id FROM access_request q WHERE message.kind = $4 AND q.id = message.subject_id AND q.message_id = message.id AND q.state = 'pending'
			UNION ALL SELECT q.id FROM access_request q WHERE message.kind = $5 AND q.made_id = message.subject_id AND q.message_id = message.id) AS thing
		WHERE message.kind IN ('invitation', 'access_request', 'new_account') AND message.id > $2 AND `+inLane+` AND NOT EXISTS (SELECT FROM reminder_plan plan WHERE plan.subject_id = thing.id AND plan.message_id = message.id)
		ORDER BY message.id LIMIT $6`, lane, from, MailInvitation, MailRequest, MailNewAccount, remindChunk)
	if err != nil {
		return d, err
	}
	if bytes.Compare(newest[:], cursor[:]) > 0 {
		if _, err := tx.Exec(ctx, `UPDATE reminder_lane SET cursor = $2 WHERE lane = $1`, lane, newest); err != nil {
			return d, fmt.Errorf("look for reminders: %w", err)
		}
	}
	d.subjects = nil // those were mails
	_, due, err := look(`
		SELECT app_id, email_key, subject_id FROM reminder_plan WHERE planned_at <= $2 AND `+inLane+` ORDER BY planned_at, subject_id LIMIT $3`, lane, now, remindChunk)
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

func readThings(ctx context.Context, tx pgx.Tx, now time.Time, apps []uuid.UUID, keys []string) ([]*thing, error) {
	rows, err := tx.Query(ctx, thingsOf, planAnew, now, apps, keys, newAccountLife.Seconds(), now.Add(-leastApart))
	if err != nil {
		return nil, fmt.Errorf("read what people are reminded of: %w", err)
	}
	things, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (*thing, error) {
		t := &thing{}
		return t, row.Scan(&t.Kind, &t.ID, &t.AppID, &t.EmailKey, &t.SubjectID, &t.MessageID, &t.Version, &t.Done, &t.Due, &t.Planned, &t.From, &t.Till, &t.Zone, &t.Hindrance, &t.Reminded)
	})
	if err != nil {
		return nil, fmt.Errorf("read what people are reminded of: %w", err)
	}
	return things, nil
}

// remindersOf are the settings of apps.
func remindersOf(ctx context.Context, tx pgx.Tx, apps []uuid.UUID) (map[uuid.UUID]ReminderSettings, error) {
	settings := make(map[uuid.UUID]ReminderSettings)
	for _, app := range apps {
		settings[app] = DefaultPolicy().Reminders
	}
	rows, err := tx.Query(ctx, `SELECT app_id, settings FROM policy WHERE app_id = ANY ($1)`, slices.Collect(maps.Keys(settings)))
	if err != nil {
		return nil, fmt.Errorf("read policies: %w", err)
	}
	own, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
		App      uuid.UUID
		Settings []byte
	}])
	if err != nil {
		return nil, fmt.Errorf("read policies: %w", err)
	}
	for _, o := range own {
		p := DefaultPolicy()
		if err := json.Unmarshal(o.Settings, &p); err != nil {
			return nil, fmt.Errorf("read policy of app %s: %w", o.App, err)
		}
		settings[o.App] = p.Reminders
	}
	return settings, nil
}

// decideAll sees what is due about each thing, and answers the mailboxes in which
// somebody is to be reminded, each with all its things.
func decideAll(things []*thing, settings map[uuid.UUID]ReminderSettings, now time.Time, s *Swept) (wanting [][]*thing) {
	byMailbox := make(map[mailbox][]*thing, len(things))
	var order []mailbox
	for _, t := range things {
		to := t.mailbox()
		if byMailbox[to] == nil {
			order = append(order, to)
		}
		byMailbox[to] = append(byMailbox[to], t)
		if t.Due {
			s.Scanned++
			t.decide(settings[t.AppID], now, s)
		}
	}
	for _, to := range order {
		if slices.ContainsFunc(byMailbox[to], func(t *thing) bool { return t.now.remind }) {
			wanting = append(wanting, byMailbox[to])
		}
	}
	return wanting
}

// decide sees what is due about a thing now, and when to look at it again.
func (t *thing) decide(settings ReminderSettings, now time.Time, s *Swept) {
	if t.Hindrance != "" && t.Hindrance != SkippedUnmailed {
		s.skip(t.Hindrance, t.deed("", ""))
		return
	}
	t.now = settings.at(t.reminded(), t.Done, now)
	if t.now.remind && t.Hindrance == SkippedUnmailed {
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
	if at, ok := settings.open(tick(until), t.reminded()); ok && !at.After(t.Till.Add(-leastLeft)) {
		t.Done--
		t.next = &at
	}
	s.skip(SkippedBudget, t.deed("", ""))
}

// remind is the mail to a mailbox in which a reminder is due: of the one thing
// there is, or of all that can still be answered.
func remind(together []*thing, settings map[uuid.UUID]ReminderSettings, now time.Time, s *Swept) Mail {
	var first *thing
	var open []*thing
	for _, t := range together {
		if t.now.remind && first == nil {
			first = t
		}
		if t.Kind != MailNewAccount && t.Till.Add(-leastLeft).After(now) {
			open = append(open, t)
		}
	}
	m := Mail{ID: newID(), AppID: first.AppID, Kind: first.Kind, SubjectID: first.SubjectID, Lane: Bulk, EmailKey: first.EmailKey, Args: MailArgs{Version: first.Version}}
	m.Purpose = "v" + strconv.Itoa(first.Version) + ":of:" + first.MessageID.String() + ":remind:" + strconv.Itoa(first.Done)
	if len(open) < 2 || first.Kind == MailNewAccount {
		s.did(first.deed("reminds", "reminder "+strconv.Itoa(first.Done)+" of "+first.is()))
		for _, t := range together {
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
func saveThings(ctx context.Context, tx pgx.Tx, now time.Time, things []*thing, due []uuid.UUID) error {
	var again, fresh []*thing
	open := make(map[uuid.UUID]bool, len(things))
	for _, t := range things {
		switch {
		case !t.Due && !t.named:
			continue
		case t.Planned:
			again = append(again, t)
		default:
			fresh = append(fresh, t)
		}
		open[t.ID] = true
	}
	over := slices.DeleteFunc(due, func(id uuid.UUID) bool { return open[id] })
	batch := &pgx.Batch{}
	ids, next, done := looks(again)
	batch.Queue(`
		UPDATE reminder_plan SET planned_at = look.at, done = look.done
		FROM unnest($1::uuid[], $2::timestamptz[], $3::int[]) AS look (id, at, done) WHERE subject_id = look.id`, ids, next, done)
	ids, next, done = looks(fresh)
	of, messages, to := make([]uuid.UUID, len(fresh)), make([]uuid.UUID, len(fresh)), make([]string, len(fresh))
	for i, t := range fresh {
		of[i], messages[i], to[i] = t.AppID, t.MessageID, t.EmailKey
	}
	batch.Queue(`
		INSERT INTO reminder_plan (subject_id, planned_at, done, app_id, message_id, email_key)
		SELECT * FROM unnest($1::uuid[], $2::timestamptz[], $3::int[], $4::uuid[], $5::uuid[], $6::text[])
		ON CONFLICT (subject_id) DO UPDATE SET email_key = excluded.email_key, message_id = excluded.message_id, planned_at = excluded.planned_at, done = excluded.done`,
		ids, next, done, of, messages, to)
	// One that the other lane planned anew meanwhile, for another address, stays.
	batch.Queue(`DELETE FROM reminder_plan WHERE subject_id = ANY ($1) AND planned_at <= $2`, over, now)
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return fmt.Errorf("plan reminders: %w", err)
	}
	return nil
}

// looks are when to look at things again, as columns.
func looks(things []*thing) (ids []uuid.UUID, next []*time.Time, done []int) {
	ids, next, done = make([]uuid.UUID, len(things)), make([]*time.Time, len(things)), make([]int, len(things))
	for i, t := range things {
		ids[i], next[i], done[i] = t.ID, t.next, t.Done
	}
	return ids, next, done
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
