package mail

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

const (
	// softLife is how long a full mailbox counts against an address.
	softLife = 30 * 24 * time.Hour

	// slowAfter is when a mail that is still on its way is called slow. Most
	// servers that put mail off take it within hours.
	slowAfter = 24 * time.Hour
)

// softWaits are the waits before a mail that met a full mailbox is written
// again, and again. After the last one, the next full mailbox is final.
var softWaits = []time.Duration{24 * time.Hour, 72 * time.Hour}

// Block is why an address cannot be written to; empty: it can.
type Block string

// The blocks, the weakest first.
const (
	BlockHard      Block = "hard"      // its server said that there is no such mailbox
	BlockProvider  Block = "provider"  // the provider keeps it on its own list
	BlockComplaint Block = "complaint" // the person called our mail spam; never lifted
)

// Consequence is what follows by itself from what became of a mail.
type Consequence int

// The consequences.
const (
	Nothing         Consequence = iota
	Hold                        // whatever the mail is about waits for a person
	TryAgain                    // a new mail later; Hold when that was tried often enough
	TryAgainByQuota             // a new mail when the provider's day is over
	Alarm                       // operators have to look
)

// Verdict is what a fact about a mail means.
type Verdict struct {
	Code  string // stable, for programs
	State State  // of the message
	Block Block  // of the address
	Soft  bool   // counts against the address for a while
	Clear bool   // ends that count
	Then  Consequence
	News  string // the kind of NewsLine that tells it, where Then may be Hold
	Says  string // to who asked for the mail; empty: nothing to say
}

// verdicts are the bounce table, ranked: of all facts about one mail the one
// whose verdict stands last counts, in whatever order they came.
var verdicts = []Verdict{
	{Code: "accepted", State: Accepted},
	{
		Code: "slow", State: Delayed,
		Says: "Delivery is slow: the recipient's mail server does not take the mail yet. It is tried again by itself.",
	},
	{Code: "opened", State: Delivered},
	{Code: "delivered", State: Delivered, Clear: true},
	{
		Code: "automatic_reply", State: Delivered,
		Says: "An automatic reply came back, so the mail arrived. The person may be away.",
	},
	{
		Code: "failed", State: Failed, Then: Alarm,
		Says: "The mail could not be sent, and we were told. Copy the link and give it on another way, or send it again later.",
	},
	{
		Code: "quota", State: Failed, Then: TryAgainByQuota,
		Says: "The mail could not be sent today. It is sent again by itself.",
	},
	{
		Code: "content_refused", State: Bounced, Then: Alarm,
		Says: "The mail could not be delivered, and we were told. Copy the link and give it on another way.",
	},
	{
		Code: "not_now", State: Bounced, Soft: true, Then: TryAgain, News: NewsMailboxFull,
		Says: "The mailbox does not take mail at the moment.",
	},
	{
		Code: "mailbox_full", State: Bounced, Soft: true, Then: TryAgain, News: NewsMailboxFull,
		Says: "The mailbox is full.",
	},
	{
		Code: "suppressed", State: Suppressed, Block: BlockProvider, Then: Hold, News: NewsSuppressed,
		Says: "Mail to this address came back earlier, so it is not sent any more. Correct the address, or copy the link and give it on another way; if the mailbox works now, resend and say so.",
	},
	{
		Code: "bounced", State: Bounced, Block: BlockHard, Then: Hold, News: NewsBounced,
		Says: "This address does not accept mail. Correct it, or copy the link and give it on another way.",
	},
	{
		Code: "complained_before", State: Suppressed, Block: BlockComplaint, Then: Hold, News: NewsComplained,
		Says: "This person does not receive mail from us. Copy the link and give it on another way.",
	},
	{
		Code: "complained", State: Complained, Block: BlockComplaint, Then: Hold, News: NewsComplained,
		Says: "This person does not receive mail from us. Copy the link and give it on another way.", // the same: a complaint is the person's own affair
	},
}

// rankOf is the place of each verdict's code.
var rankOf = func() map[string]int {
	ranks := make(map[string]int, len(verdicts))
	for i, v := range verdicts {
		ranks[v.Code] = i
	}
	return ranks
}()

// facts lead from what the provider says to a verdict's code: the first line
// that fits, where an empty field fits all. Type and subType are a bounce's;
// what a mail was refused for weighs more than how final the server was.
var facts = []struct{ event, bounce, subType, code string }{
	{event: "email.sent", code: "accepted"},
	{event: "email.delivery_delayed", code: "slow"},
	{event: "email.opened", code: "opened"},
	{event: "email.clicked", code: "opened"},
	{event: "email.delivered", code: "delivered"},
	{event: "email.failed", code: "failed"},
	{event: "email.complained", code: "complained"},
	{event: "email.suppressed", code: "suppressed"},
	{"email.bounced", "", "suppressed", "suppressed"},
	{"email.bounced", "", "onaccountsuppressionlist", "suppressed"},
	{"email.bounced", "", "messagetoolarge", "content_refused"},
	{"email.bounced", "", "contentrejected", "content_refused"},
	{"email.bounced", "", "attachmentrejected", "content_refused"},
	{"email.bounced", "permanent", "", "bounced"},
	{"email.bounced", "transient", "general", "automatic_reply"},
	{"email.bounced", "transient", "mailboxfull", "mailbox_full"},
	{event: "email.bounced", code: "not_now"}, // undetermined, and what we have not heard of
}

// factTypes are the events that facts know.
var factTypes = func() (types []string) {
	for _, f := range facts {
		types = append(types, f.event)
	}
	return slices.Compact(types)
}()

// verdict is what the event means; ok is false where it says nothing about the
// mail's delivery.
func (e ProviderEvent) verdict() (v Verdict, ok bool) {
	for _, f := range facts {
		if f.event != e.Type || f.bounce != "" && !strings.EqualFold(f.bounce, e.Said.Bounce.Type) ||
			f.subType != "" && !strings.EqualFold(f.subType, e.Said.Bounce.SubType) {
			continue
		}
		code := f.code
		switch {
		case code == "suppressed" && e.Said.complaint():
			code = "complained_before"
		case code == "failed" && strings.Contains(e.Said.Failed.Reason, "quota"):
			code = "quota"
		}
		return verdicts[rankOf[code]], true
	}
	return v, false
}

// complaint tells whether a suppressed mail was so for a complaint.
func (s Said) complaint() bool {
	return strings.Contains(strings.ToLower(s.Suppressed.Type+s.Suppressed.Reason+s.Suppressed.Message), "complain")
}

// words are the mail server's own, or the provider's.
func (s Said) words() string {
	if len(s.Bounce.Diagnostic) > 0 && s.Bounce.Diagnostic[0] != "" {
		return s.Bounce.Diagnostic[0]
	}
	return cmp.Or(s.Bounce.Message, s.Failed.Reason, s.Suppressed.Message, s.Suppressed.Reason)
}

// fact is an event with its verdict.
type fact struct {
	ProviderEvent
	Verdict
}

// weigh orders facts by rank, then by time.
func weigh(a, b fact) int {
	return cmp.Or(
		cmp.Compare(rankOf[a.Code], rankOf[b.Code]),
		a.At.Compare(b.At),
		cmp.Compare(a.ProviderEvent.ID, b.ProviderEvent.ID),
	)
}

// reason is what a message keeps of the fact that counted, for NewOutlook:
// nothing, where there is nothing to say.
func (f fact) reason() string {
	if f.Says == "" {
		return ""
	}
	return strings.TrimSuffix(f.Code+": "+f.Said.words(), ": ")
}

// Outlook is what may be said of a mail to who asked for it.
type Outlook struct {
	Code       string
	Says       string
	Diagnostic string     // the mail server's own words, if it said any
	RetryAt    *time.Time // when a new mail is written by itself
	Typo       bool       // the address may have been mistyped
}

// NewOutlook reads an Outlook off a message: its reason, when the fact in it
// happened (nil: there is none), how often it was written again for a full
// mailbox, and when it was asked for. Its Code is empty where there is nothing
// to say.
func NewOutlook(reason string, factAt *time.Time, retry int, asked, now time.Time) Outlook {
	code, words, _ := strings.Cut(reason, ": ")
	rank, ok := rankOf[code]
	if !ok {
		return Outlook{}
	}
	v := verdicts[rank]
	if v.Says == "" || v.State == Delayed && now.Sub(asked) < slowAfter {
		return Outlook{}
	}
	o := Outlook{Code: v.Code, Says: v.Says, Diagnostic: words, Typo: v.Block == BlockHard || v.Block == BlockProvider}
	if factAt != nil {
		o.RetryAt = v.retryAt(*factAt, retry)
	}
	if v.Block == BlockComplaint {
		o.Code, o.Diagnostic = complained, "" // how the person said so is their own affair
	}
	return o
}

// complained is what is told of every complaint.
const complained = "complained"

// NewsOf is the kind of NewsLine that tells an inviter of a verdict by its
// code, empty where none does.
func NewsOf(code string) string {
	if rank, ok := rankOf[code]; ok {
		return verdicts[rank].News
	}
	return ""
}

// retryAt is when a mail with this verdict is written again by itself, nil if
// it is not. retry is how often it was already, for a full mailbox.
func (v Verdict) retryAt(at time.Time, retry int) *time.Time {
	switch {
	case v.Then == TryAgain && retry < len(softWaits):
		at = at.Add(softWaits[retry])
	case v.Then == TryAgainByQuota:
		at = at.UTC().Truncate(24 * time.Hour).Add(24 * time.Hour) // quotas begin anew at midnight UTC
	default:
		return nil
	}
	return &at
}

// Aftermath is what an event led to for its message, and what is left to do for
// others.
type Aftermath struct {
	MessageID uuid.UUID
	AppID     uuid.UUID
	Kind      string
	SubjectID uuid.UUID
	EmailKey  string
	Verdict              // Code is empty where no event so far tells of the delivery
	Words     string     // the mail server's
	RetryAt   *time.Time // when a new mail is to be written
	Retry     int        // which one that will be, of those for a full mailbox
}

// Apply draws an event's consequences for its message and its address. It
// looks at all that was ever stored about them, so that it makes no difference
// in which order and how often events come. Words that came before the
// provider's own answer count as that answer.
func (o *Outbox) Apply(ctx context.Context, eventID string) (a Aftermath, err error) {
	err = postgres.InTx(ctx, o.DB, func(tx pgx.Tx) error {
		var retry int
		err := tx.QueryRow(ctx, `
			SELECT id, app_id, kind, subject_id, email_key, COALESCE((args->>'retry')::int, 0)
			FROM message WHERE id = (SELECT message_id FROM provider_event WHERE id = $1)
			FOR NO KEY UPDATE`, eventID).Scan(&a.MessageID, &a.AppID, &a.Kind, &a.SubjectID, &a.EmailKey, &retry)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil // the message was deleted meanwhile
		}
		if err != nil {
			return fmt.Errorf("read message of provider event %s: %w", eventID, err)
		}
		known, err := readFacts(ctx, tx, `WHERE provider_event.message_id = $1 AND provider_event.type = ANY($2)`, a.MessageID, factTypes)
		if err != nil {
			return err
		}
		outcome := "ignored"
		if len(known) > 0 {
			counts := slices.MaxFunc(known, weigh)
			a.Verdict, a.Words, a.RetryAt, a.Retry = counts.Verdict, counts.Said.words(), counts.retryAt(counts.At, retry), retry
			switch {
			case a.Then == TryAgain && a.RetryAt == nil:
				a.Then = Hold
			case a.Then == TryAgain:
				a.Retry++
			}
			outcome = string(a.State) + ": " + a.Code
			if err := o.note(ctx, tx, a.MessageID, counts); err != nil {
				return err
			}
			if err := remember(ctx, tx, a.AppID, a.EmailKey, known); err != nil {
				return err
			}
		}
		_, err = tx.Exec(ctx, `UPDATE provider_event SET applied_at = $2, outcome = $3 WHERE id = $1`, eventID, o.Now().UTC(), outcome)
		if err != nil {
			return fmt.Errorf("note outcome of provider event %s: %w", eventID, err)
		}
		return nil
	})
	return a, err
}

// readFacts reads the stored events that tell of a delivery. The clause is
// what follows "FROM provider_event".
func readFacts(ctx context.Context, tx pgx.Tx, clause string, args ...any) ([]fact, error) {
	rows, err := tx.Query(ctx, `
		SELECT provider_event.id, provider_event.type, provider_event.message_id, provider_event.provider_id, provider_event.at, provider_event.body
		FROM provider_event `+clause, args...)
	if err != nil {
		return nil, fmt.Errorf("read provider events: %w", err)
	}
	events, err := pgx.CollectRows(rows, pgx.RowToStructByPos[ProviderEvent])
	if err != nil {
		return nil, fmt.Errorf("read provider events: %w", err)
	}
	known := make([]fact, 0, len(events))
	for _, e := range events {
		if v, ok := e.verdict(); ok {
			known = append(known, fact{e, v})
		}
	}
	return known, nil
}

// note writes what counts into the message. A fact beats all that was known
// without one: it proves that the provider has the mail, so nobody sends it
// again.
func (o *Outbox) note(ctx context.Context, tx pgx.Tx, id uuid.UUID, counts fact) error {
	if _, err := tx.Exec(ctx, `
		UPDATE message SET state = $2, reason = $3, fact_at = $4, due_at = NULL,
			provider_id = CASE WHEN provider_id = '' THEN $5 ELSE provider_id END,
			settled_at = COALESCE(settled_at, $6)
		WHERE id = $1`, id, counts.State, counts.reason(), counts.At, counts.ProviderID, o.Now().UTC()); err != nil {
		return fmt.Errorf("note what became of message %s: %w", id, err)
	}
	return nil
}

// address is what is known of where mail goes.
type address struct {
	Block       Block
	Detail      string
	BlockedAt   *time.Time
	LiftedAt    *time.Time
	SoftBounces int
	SoftAt      *time.Time
}

// remember brings an address up to date with the facts about one of its mails.
// Its row is locked before other mails are looked at: of two at once, the later
// sees what the earlier did.
func remember(ctx context.Context, tx pgx.Tx, app uuid.UUID, key string, known []fact) error {
	has := func(what func(fact) bool) bool { return slices.ContainsFunc(known, what) }
	soft := has(func(f fact) bool { return f.Soft })
	if !soft && !has(func(f fact) bool { return f.Block != "" || f.Clear }) {
		return nil
	}
	if _, err := tx.Exec(ctx, `
		INSERT INTO address (app_id, email_key) VALUES ($1, $2) ON CONFLICT (app_id, email_key) DO NOTHING`, app, key); err != nil {
		return fmt.Errorf("remember address: %w", err)
	}
	rows, err := tx.Query(ctx, `
		SELECT block, detail, blocked_at, lifted_at, soft_bounces, soft_at
		FROM address WHERE app_id = $1 AND email_key = $2 FOR UPDATE`, app, key)
	if err != nil {
		return fmt.Errorf("lock address: %w", err)
	}
	before, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[address])
	if err != nil {
		return fmt.Errorf("lock address: %w", err)
	}
	a := before
	for _, f := range known {
		a.block(f)
	}
	if soft || a.SoftBounces > 0 {
		if err := a.countSoft(ctx, tx, app, key); err != nil {
			return err
		}
	}
	if a == before {
		return nil
	}
	if _, err := tx.Exec(ctx, `
		UPDATE address SET block = $3, detail = $4, blocked_at = $5, soft_bounces = $6, soft_at = $7
		WHERE app_id = $1 AND email_key = $2`, app, key, a.Block, a.Detail, a.BlockedAt, a.SoftBounces, a.SoftAt); err != nil {
		return fmt.Errorf("remember address: %w", err)
	}
	return nil
}

// block lets the fact block the address, if it does and nothing outweighs it.
// What happened before somebody said that the mailbox works is over. A
// complaint outweighs all and is never over; of others the newest counts.
func (a *address) block(f fact) {
	complaint := f.Block == BlockComplaint
	switch {
	case f.Block == "":
		return
	case complaint != (a.Block == BlockComplaint):
		if !complaint {
			return
		}
	case a.Block != "" && cmp.Or(f.At.Compare(*a.BlockedAt), cmp.Compare(f.Block, a.Block), cmp.Compare(f.Said.words(), a.Detail)) <= 0:
		return
	}
	if !complaint && a.LiftedAt != nil && !f.At.After(*a.LiftedAt) {
		return
	}
	a.Block, a.BlockedAt, a.Detail = f.Block, &f.At, f.Said.words()
}

// countSoft counts the days on which the address met a full mailbox: since its
// last delivery, and within softLife of the newest of them.
func (a *address) countSoft(ctx context.Context, tx pgx.Tx, app uuid.UUID, key string) error {
	known, err := readFacts(ctx, tx, `
		JOIN message ON message.id = provider_event.message_id
		WHERE message.app_id = $1 AND message.email_key = $2 AND provider_event.type IN ('email.bounced', 'email.delivered')`, app, key)
	if err != nil {
		return err
	}
	var newest, delivered time.Time
	for _, f := range known {
		if f.Soft && f.At.After(newest) {
			newest = f.At
		}
		if f.Clear && f.At.After(delivered) {
			delivered = f.At
		}
	}
	days := map[time.Time]bool{}
	for _, f := range known {
		if f.Soft && f.At.After(delivered) && newest.Sub(f.At) < softLife {
			days[f.At.UTC().Truncate(24*time.Hour)] = true
		}
	}
	a.SoftBounces, a.SoftAt = len(days), nil
	if len(days) > 0 {
		a.SoftAt = &newest
	}
	return nil
}
