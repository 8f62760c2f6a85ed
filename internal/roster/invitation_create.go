package roster

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

// createTries bounds how often a batch starts anew because another process
// used its idempotency keys for other requests at the same moment.
const createTries = 5

// maxRounds bounds how often one try looks again at rows that others were
// faster with. Two do, unless people decide and invite in the same instant.
const maxRounds = 10

// NewInvitation asks for one invitation.
type NewInvitation struct {
	AppID       uuid.UUID
	ActorID     uuid.UUID // the inviter
	WorkspaceID uuid.UUID
	Kind        string // KindNewUser or KindExternal
	Email       string
	FullName    string // may be empty for KindExternal
	Locale      string
	Note        string
	Visibility  Visibility // of whoever joins by it; empty: full
	Warning     string     // KindExternal: the text the actor acknowledged; empty: they did not
	Notify      bool       // send the mail; otherwise the link is given on by hand
	Key         IdempotencyKey

	Policy      Policy        // of the app; the zero value: DefaultPolicy
	IfDuplicate DuplicateRule // empty: as the policy says

	address Address
}

// Created is the answer to one NewInvitation.
type Created struct {
	Invitation    Invitation // not set where AlreadyMember
	Duplicate     bool       // this address had an open invitation; here it is
	Resent        bool       // and was mailed again
	AlreadyMember bool       // the person is in the workspace; nothing was sent
	AccountID     *uuid.UUID // the member's account, where AlreadyMember
}

// CreateOutcome is a Created or the refusal of that row.
type CreateOutcome struct {
	Created
	Err error // an *Error, nil where the row was answered
}

// CreateInvitations creates many invitations, of one app or of several, in one
// transaction, and answers row by row: a row that is refused, is a duplicate or
// a repetition never troubles its neighbours. Rows of the same address or the
// same idempotency key are taken in their order. An error means that nothing
// at all was done.
func (r *Roster) CreateInvitations(ctx context.Context, rows []NewInvitation) ([]CreateOutcome, error) {
	b := &createBatch{rows: rows, now: r.now()}
	b.check()
	var err error
	for range createTries {
		err = postgres.InTxAfter(ctx, r.DB, b.begin, func(tx pgx.Tx) error { return b.run(ctx, tx, r) })
		if !errors.Is(err, errOvertaken) && !postgres.Deadlocked(err) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("create %d invitations: %w", len(rows), err)
	}
	return b.out, nil
}

// errOvertaken ends a try in which another transaction took an idempotency key
// between our reading and our writing.
var errOvertaken = errors.New("overtaken by another transaction")

// createBatch carries one call of CreateInvitations through its steps.
type createBatch struct {
	rows    []NewInvitation
	out     []CreateOutcome
	refused []error // by check, before any reading
	now     time.Time

	todo []int // rows that have no answer yet

	// What one try read and decided, by row.
	remembered []stored
	facts      []createFacts

	// What the round's INSERT was asked for and did.
	fresh         []int // rows that become an invitation, unless something stands against it
	inserted      []uuid.UUID
	keyedInserted int // how many answers it remembered

	stale   []uuid.UUID // open ones whose time is over, in the way of new ones
	created []int       // rows that become an invitation
	keys    []int       // rows whose answer is to be remembered
	again   []int       // duplicates that are to be mailed again, if they may be
	same    [][2]int    // rows that have the answer of an earlier one, under the same key
}

// begin starts a try by inserting what looks like a new invitation: rows in
// order, and the first of the batch with their address and their key. The
// INSERT itself checks all that decides, so that the usual row needs no reading.
func (b *createBatch) begin(batch *pgx.Batch) {
	n := len(b.rows)
	b.out, b.remembered, b.facts = make([]CreateOutcome, n), make([]stored, n), make([]createFacts, n)
	b.created, b.keys, b.again, b.same, b.todo, b.fresh = nil, nil, nil, nil, nil, nil
	addresses, keys := map[openKey]bool{}, map[requestKey]bool{}
	for at, row := range b.rows {
		address, key := openKey{row.WorkspaceID, row.address.Key}, row.requestKey()
		first := !addresses[address] && (row.Key.Key == "" || !keys[key])
		addresses[address], keys[key] = true, true
		if b.refused[at] != nil || !first {
			b.todo = append(b.todo, at)
			continue
		}
		b.fresh = append(b.fresh, at)
		b.out[at].Invitation = row.invitation(b.now)
		if row.Key.Key != "" {
			b.keys = append(b.keys, at)
		}
	}
	b.queueInsert(batch)
}

// run is the rest of the try: rows that were not inserted are read about, and
// answered or inserted in their turn. A row whose address another transaction
// invites at the same moment waits for that one's end and is then looked at
// again, by itself: only such rows cost a further round, however many others
// are in the batch.
func (b *createBatch) run(ctx context.Context, tx pgx.Tx, r *Roster) error {
	for range maxRounds {
		if err := b.sortOut(); err != nil {
			return err
		}
		if len(b.todo) == 0 {
			if err := b.resend(ctx, tx, r); err != nil {
				return err
			}
			return b.record(ctx, tx)
		}
		reads := &pgx.Batch{}
		b.queueReads(reads)
		if err := tx.SendBatch(ctx, reads).Close(); err != nil {
			return fmt.Errorf("read facts: %w", err)
		}
		if err := b.settle(); err != nil {
			return err
		}
		if len(b.stale) > 0 {
			if _, err := r.expire(ctx, tx, b.now, `id = ANY($2)`, b.stale); err != nil {
				return err
			}
		}
		insert := &pgx.Batch{}
		b.queueInsert(insert)
		if err := tx.SendBatch(ctx, insert).Close(); err != nil {
			return fmt.Errorf("insert invitations: %w", err)
		}
	}
	return errOvertaken
}

// stored is a remembered answer, if there is one.
type stored struct{ hash, answer []byte }

// createFacts is what the database says about one row.
type createFacts struct {
	workspaceState *string    // nil: no such workspace in the app
	actorStatus    *string    // nil: no such account in the app
	mayInvite      bool       // the actor is a stakeholder or the company's admin
	memberID       *uuid.UUID // the member with this address
	open           *Invitation
	block          string // of the address; empty: it can be written to
	unfit          string // why the account with this address is not for this kind: 'colleague', 'client', or empty
}

// check refuses what can be refused without the database.
func (b *createBatch) check() {
	b.refused = make([]error, len(b.rows))
	for i := range b.rows {
		b.refused[i] = b.rows[i].clean()
	}
}

// clean checks the row's own content and brings it into the form that is kept.
func (row *NewInvitation) clean() (err error) {
	if row.Policy == (Policy{}) {
		row.Policy = DefaultPolicy()
	}
	if row.Kind != KindNewUser && row.Kind != KindExternal {
		return invalidField("kind", "kind_unknown", "The kind of an invitation to an address is %q or %q.", KindNewUser, KindExternal)
	}
	switch row.IfDuplicate {
	case "", DuplicateReturn, DuplicateResend:
	default:
		return invalidField("if_duplicate", "if_duplicate_unknown", "if_duplicate is %q or %q.", DuplicateReturn, DuplicateResend)
	}
	if row.address, err = ParseAddress(row.Email); err != nil {
		return err
	}
	if row.Kind == KindNewUser || row.FullName != "" {
		if row.FullName, err = cleanName("full_name", row.FullName); err != nil {
			return err
		}
	}
	if row.Visibility == "" {
		row.Visibility = VisibilityFull
	}
	if !row.Visibility.valid() {
		return errVisibility
	}
	if row.Kind == KindExternal {
		if err := checkWarning(row.Warning); err != nil {
			return err
		}
	}
	if row.Locale, err = cleanLocale(row.Locale); err != nil {
		return err
	}
	row.Note, err = cleanNote(row.Note)
	return err
}

// factsOfQ joins to rows q (app_id, workspace_id, inviter_id, email_key, kind)
// what decides about them, each looked up by index. The workspace is locked as
// the foreign key will lock it anyway: it cannot be archived in between.
const factsOfQ = `
	LEFT JOIN LATERAL (
		SELECT state, company_id FROM workspace WHERE app_id = q.app_id AND id = q.workspace_id LIMIT 1 FOR KEY SHARE) AS workspace ON true
	LEFT JOIN LATERAL (
		SELECT status FROM account WHERE app_id = q.app_id AND id = q.inviter_id LIMIT 1) AS actor ON true
	LEFT JOIN LATERAL (
		SELECT a.id, a.kind, a.status FROM account a
		WHERE a.app_id = q.app_id AND a.email_key = q.email_key AND a.status NOT IN ('merged', 'archived') LIMIT 1) AS invitee ON true
	CROSS JOIN LATERAL (SELECT
		EXISTS (SELECT FROM membership m
			WHERE m.workspace_id = q.workspace_id AND m.account_id = q.inviter_id AND m.state = 'active' AND m.role = 'stakeholder')
		OR EXISTS (SELECT FROM company_member c
			WHERE c.company_id = workspace.company_id AND c.account_id = q.inviter_id AND c.role = 'admin') AS may_invite,
		(SELECT m.account_id FROM membership m
			WHERE m.workspace_id = q.workspace_id AND m.state = 'active' AND m.account_id = invitee.id) AS member_id,
		CASE WHEN q.kind = 'external_professional' THEN CASE
			WHEN EXISTS (SELECT FROM company_member c WHERE c.company_id = workspace.company_id AND c.account_id = invitee.id) THEN 'colleague'
			WHEN invitee.kind = 'client' THEN 'client' END END AS unfit,
		(SELECT NULLIF(address.block, '') FROM address WHERE address.app_id = q.app_id AND address.email_key = q.email_key) AS block) AS f`

// queueReads asks for the remembered answers and the facts that decide about
// all of todo.
func (b *createBatch) queueReads(batch *pgx.Batch) {
	todo := b.todo
	n := len(todo)
	var (
		apps, workspaces, actors = make([]uuid.UUID, n), make([]uuid.UUID, n), make([]uuid.UUID, n)
		emails, kinds            = make([]string, n), make([]string, n)
		routes, keys             = make([]string, n), make([]string, n)
	)
	for i, at := range todo {
		row := b.rows[at]
		b.remembered[at], b.facts[at] = stored{}, createFacts{}
		apps[i], workspaces[i], actors[i] = row.AppID, row.WorkspaceID, row.ActorID
		emails[i], kinds[i], routes[i], keys[i] = row.address.Key, row.Kind, row.Key.Route, row.Key.Key
	}

	batch.Queue(`
		SELECT q.n, k.body_hash, k.answer
		FROM unnest($1::uuid[], $2::text[], $3::text[]) WITH ORDINALITY AS q (app_id, route, key, n)
		CROSS JOIN LATERAL (
			SELECT body_hash, answer FROM idempotency_key
			WHERE app_id = q.app_id AND route = q.route AND key = q.key LIMIT 1) AS k`,
		apps, routes, keys).Query(func(rows pgx.Rows) error {
		var n int
		var s stored
		_, err := pgx.ForEachRow(rows, []any{&n, &s.hash, &s.answer}, func() error {
			b.remembered[todo[n-1]] = stored{bytes.Clone(s.hash), bytes.Clone(s.answer)}
			return nil
		})
		return err
	})
	batch.Queue(`
		SELECT q.n, workspace.state, actor.status,
			f.may_invite, f.member_id, COALESCE(f.block, ''), COALESCE(f.unfit, '')
		FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[]) WITH ORDINALITY AS q (app_id, workspace_id, inviter_id, email_key, kind, n)`+factsOfQ,
		apps, workspaces, actors, emails, kinds).Query(func(rows pgx.Rows) error {
		var n int
		var f createFacts
		_, err := pgx.ForEachRow(rows, []any{&n, &f.workspaceState, &f.actorStatus, &f.mayInvite, &f.memberID, &f.block, &f.unfit}, func() error {
			b.facts[todo[n-1]] = f
			return nil
		})
		return err
	})
	batch.Queue(`
		SELECT q.n, invitation.*
		FROM unnest($1::uuid[], $2::uuid[], $3::text[]) WITH ORDINALITY AS q (app_id, workspace_id, email_key, n)
		CROSS JOIN LATERAL (
			SELECT `+invitationColumns+` FROM invitation
			WHERE workspace_id = q.workspace_id AND email_key = q.email_key AND `+isOpen+`
				AND app_id IS NOT DISTINCT FROM q.app_id LIMIT 1) AS invitation`, // not "=": only invitation_open shall serve this
		apps, workspaces, emails).Query(func(rows pgx.Rows) error {
		found, err := pgx.CollectRows(rows, pgx.RowToStructByPos[struct {
			N int
			Invitation
		}])
		for _, f := range found {
			b.facts[todo[f.N-1]].open = &f.Invitation
		}
		return err
	})
}

// openKey is what at most one open invitation has.
type openKey struct {
	workspace uuid.UUID
	email     string
}

// requestKey is what at most one remembered answer has.
type requestKey struct {
	app        uuid.UUID
	route, key string
}

// settle gives the rows of todo their answers. Those that become an invitation,
// unless another transaction is faster, are fresh.
func (b *createBatch) settle() (err error) {
	todo := b.todo
	b.stale, b.fresh, b.todo = nil, nil, nil
	earlier := map[openKey]Invitation{} // created by earlier rows of this batch
	for _, at := range b.created {
		inv := b.out[at].Invitation
		earlier[openKey{inv.WorkspaceID, inv.EmailKey}] = inv
	}
	answered := map[requestKey]int{} // by earlier rows of this batch
	for _, at := range b.keys {
		answered[b.rows[at].requestKey()] = at
	}
	for _, at := range todo {
		row, f := b.rows[at], b.facts[at]
		b.out[at] = CreateOutcome{}
		if row.Key.Key != "" {
			if first, ok := answered[row.requestKey()]; ok {
				b.out[at] = b.out[first]
				if !bytes.Equal(row.Key.Hash, b.rows[first].Key.Hash) {
					b.out[at] = CreateOutcome{Err: errReusedKey}
					continue
				}
				b.same = append(b.same, [2]int{at, first})
				continue
			}
			if s := b.remembered[at]; s.answer != nil {
				if b.out[at], err = recallCreated(row.Key, s); err != nil {
					return err
				}
				continue
			}
			answered[row.requestKey()] = at
			b.keys = append(b.keys, at)
		}
		k := openKey{row.WorkspaceID, row.address.Key}
		if inv, ok := earlier[k]; ok {
			f.open = &inv
		}
		overdue := f.open != nil && !f.open.ExpiresAt.After(b.now)
		switch err := row.refuse(b.refused[at], f); {
		case err != nil:
			b.out[at].Err = err
		case f.memberID != nil:
			b.out[at].Created = Created{AlreadyMember: true, AccountID: f.memberID}
		case f.unfit != "":
			b.out[at].Err = errUnfit[f.unfit]
		case f.open != nil && !overdue:
			b.out[at].Created = Created{Invitation: *f.open, Duplicate: true}
			if cmp.Or(row.IfDuplicate, row.Policy.Duplicate) == DuplicateResend && row.Notify {
				b.again = append(b.again, at)
			}
		default:
			if overdue { // the sweep has not been there yet
				b.stale = append(b.stale, f.open.ID)
			}
			inv := row.invitation(b.now)
			if row.Notify && f.block != "" {
				inv.State, inv.Delivery, inv.MailNote = OnHold, MailSuppressed, &MailNote{Reason: ReasonOf(f.block)}
			}
			earlier[k] = inv
			b.out[at].Created = Created{Invitation: inv}
			b.fresh = append(b.fresh, at)
		}
	}
	return nil
}

// resend mails those duplicates again for which that was asked and whose rest is
// over. The others stay the answer as they are.
func (b *createBatch) resend(ctx context.Context, tx pgx.Tx, r *Roster) error {
	if len(b.again) == 0 {
		return nil
	}
	first := map[uuid.UUID]bool{}
	var wanted []resending
	for _, at := range b.again {
		row, inv := b.rows[at], b.out[at].Invitation
		if !first[inv.ID] {
			first[inv.ID] = true
			wanted = append(wanted, resending{inv.AppID, inv.ID, row.ActorID, row.Policy})
		}
	}
	mailed, err := r.resendAll(ctx, tx, b.now, wanted)
	if err != nil {
		return err
	}
	for _, at := range b.again {
		out := &b.out[at]
		if inv, ok := mailed[out.Invitation.ID]; ok {
			out.Invitation, out.Resent = inv, first[inv.ID]
			first[inv.ID] = false // the others did not cause it
		}
	}
	for _, s := range b.same {
		b.out[s[0]] = b.out[s[1]]
	}
	return nil
}

func (row NewInvitation) requestKey() requestKey {
	return requestKey{row.AppID, row.Key.Route, row.Key.Key}
}

// errUnfit are the answers to inviting somebody as an external professional who
// is none.
var errUnfit = map[string]*Error{
	"colleague": errorf(Conflict, "use_colleague", "This address belongs to a member of the workspace's company. Add them as a colleague: they need no invitation."),
	"client":    errorf(Conflict, "not_a_professional", "This address belongs to an account that is not a professional's. Invite the person with the kind %q.", KindNewUser),
}

// recallCreated is the outcome that was remembered under a row's key, or the
// refusal of another request under it.
func recallCreated(key IdempotencyKey, s stored) (out CreateOutcome, err error) {
	a, err := recall[Created](key, s.hash, s.answer)
	var refusal *Error
	switch {
	case errors.As(err, &refusal):
		return CreateOutcome{Err: refusal}, nil
	case err != nil:
		return out, err
	}
	out.Created = a.Result
	if a.Err != nil {
		out.Err = a.Err
	}
	return out, nil
}

// refuse says why the row cannot become an invitation, if so. What is wrong
// with the row itself comes after whether the actor may act here at all.
func (row NewInvitation) refuse(refused error, f createFacts) error {
	switch {
	case f.actorStatus == nil || *f.actorStatus != statusActive:
		return errActor
	case f.workspaceState == nil:
		return notFound("workspace")
	case !f.mayInvite:
		return errMayNot
	case refused != nil:
		return refused
	case *f.workspaceState != workspaceActive:
		return errWorkspaceArchived
	}
	return nil
}

func (row NewInvitation) invitation(now time.Time) Invitation {
	inv := Invitation{
		ID: newID(), AppID: row.AppID, WorkspaceID: row.WorkspaceID, InviterID: row.ActorID,
		Kind: row.Kind, Email: row.address.Typed, EmailKey: row.address.Key,
		FullName: row.FullName, Locale: row.Locale, Note: row.Note,
		State: Pending, Delivery: NotMailed, Version: 1,
		ExpiresAt: now.Add(row.Policy.Life()), CreatedAt: now, Visibility: row.Visibility,
	}
	if row.Kind == KindExternal {
		inv.Warning = &Warning{Text: row.Warning, AcknowledgedBy: row.ActorID, AcknowledgedAt: now}
	}
	if row.Notify {
		id := newID()
		inv.Sends, inv.Delivery, inv.QueuedAt, inv.MessageID = 1, MailQueued, &now, &id
	}
	return inv
}

// firstMail is what the first mails of all invitations have in common.
var firstMail = Invitation{Version: 1, Sends: 1, MessageID: new(uuid.UUID)}.mail()

// queueInsert stores the fresh rows' invitations with their events, webhooks,
// mails, items in inboxes and remembered answers, and wakes who sends them: one
// statement, since each costs a round trip while the next batch waits. Its
// conditions are those of refuse, of membership and of the key; the open
// invitation is the index's.
func (b *createBatch) queueInsert(batch *pgx.Batch) {
	fresh := b.fresh
	n := len(fresh)
	b.inserted, b.keyedInserted = nil, 0
	if n == 0 {
		return
	}
	// Two batches that insert the same addresses wait for each other; in one
	// order they cannot wait in a circle.
	slices.SortFunc(fresh, func(x, y int) int {
		ix, iy := b.out[x].Invitation, b.out[y].Invitation
		return cmp.Or(bytes.Compare(ix.WorkspaceID[:], iy.WorkspaceID[:]), cmp.Compare(ix.EmailKey, iy.EmailKey))
	})
	var (
		ids, apps, workspaces, inviters, events = make([]uuid.UUID, n), make([]uuid.UUID, n), make([]uuid.UUID, n), make([]uuid.UUID, n), make([]uuid.UUID, n)
		kinds, emails, emailKeys, names         = make([]string, n), make([]string, n), make([]string, n), make([]string, n)
		locales, notes, states, reasons         = make([]string, n), make([]string, n), make([]string, n), make([]string, n)
		messages                                = make([]*uuid.UUID, n)
		expires                                 = make([]time.Time, n)
		routes, keys                            = make([]string, n), make([]string, n)
		data, hashes, answers                   = make([][]byte, n), make([][]byte, n), make([][]byte, n)
		visibilities                            = make([]string, n)
		items, warnings                         = make([]uuid.UUID, n), make([]*uuid.UUID, n)
		texts                                   warningTexts
	)
	for i, at := range fresh {
		inv, key := b.out[at].Invitation, b.rows[at].Key
		ids[i], apps[i], workspaces[i], inviters[i] = inv.ID, inv.AppID, inv.WorkspaceID, inv.InviterID
		kinds[i], emails[i], emailKeys[i], names[i] = inv.Kind, inv.Email, inv.EmailKey, inv.FullName
		locales[i], notes[i], messages[i], expires[i] = inv.Locale, inv.Note, inv.MessageID, inv.ExpiresAt
		events[i], data[i], states[i] = newID(), eventData(inv), string(inv.State)
		items[i], visibilities[i] = newID(), string(inv.Visibility)
		if inv.Warning != nil {
			warnings[i] = texts.add(inv.AppID, inv.Warning.Text)
		}
		if inv.MailNote != nil {
			reasons[i] = inv.MailNote.Reason
		}
		if key.Key == "" {
			continue
		}
		routes[i], keys[i], hashes[i] = key.Route, key.Key, key.Hash
		answers[i] = b.out[at].remember()
	}
	statement := `
		WITH q AS (
			SELECT *, (message_id IS NOT NULL)::int AS mailed
			FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::uuid[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
				$10::text[], $11::uuid[], $12::timestamptz[],
				$13::uuid[], $14::jsonb[], $15::text[], $16::text[], $17::bytea[], $18::jsonb[], $25::text[], $26::text[],
				$27::text[], $28::uuid[], $29::uuid[])
				AS q (id, app_id, workspace_id, inviter_id, kind, email, email_key, full_name, locale,
				note, message_id, expires_at,
				event_id, data, route, key, body_hash, answer, state, reason,
				visibility, warning_id, item_id)
		), fit AS (
			SELECT q.*, CASE invitee.status WHEN 'active' THEN invitee.id END AS invitee_id
			FROM q` + factsOfQ + `
			WHERE workspace.state = 'active' AND actor.status = 'active' AND f.may_invite AND f.member_id IS NULL AND f.unfit IS NULL
				AND (q.state = 'on_hold' OR q.mailed = 0 OR f.block IS NULL)
				AND (SELECT 1 FROM idempotency_key k WHERE k.app_id = q.app_id AND k.route = q.route AND k.key = q.key) IS NULL
		), inserted AS (
			INSERT INTO invitation (id, app_id, workspace_id, inviter_id, kind, email, email_key, full_name, locale, note,
				state, sends, message_id, queued_at, expires_at, created_at, visibility, warning_id)
			SELECT id, app_id, workspace_id, inviter_id, kind, email, email_key, full_name, locale, note,
				state, mailed, message_id, CASE mailed WHEN 1 THEN $19::timestamptz END, expires_at, $19, visibility, warning_id
			FROM fit
			ON CONFLICT (workspace_id, email_key) WHERE state IN ('pending', 'on_hold') DO NOTHING
			RETURNING id, message_id AS mail_id
		), noted AS (
			INSERT INTO notification (id, app_id, account_id, kind, subject_id, created_at)
			SELECT item_id, app_id, invitee_id, 'invitation', id, $19 FROM fit JOIN inserted USING (id) WHERE invitee_id IS NOT NULL
		), recorded AS (
			INSERT INTO event (id, app_id, type, subject_id, actor_id, data, at)
			SELECT event_id, app_id, $20, id, inviter_id, data, $19 FROM q JOIN inserted USING (id)
			RETURNING id, app_id, type, at
		), ` + fanOut + `, remembered AS (
			INSERT INTO idempotency_key (app_id, route, key, body_hash, answer, created_at)
			SELECT app_id, route, key, body_hash, answer, $19 FROM q JOIN inserted USING (id) WHERE key <> ''
			ON CONFLICT (app_id, route, key) DO NOTHING
			RETURNING 1
		` + texts.stored() + `), asked AS (
			INSERT INTO message (id, app_id, kind, subject_id, purpose, args, lane, email_key, state, reason, due_at, created_at, settled_at)
			SELECT mail_id, app_id, $21, id, $22, $23, $24, email_key,
				CASE reason WHEN '' THEN 'queued' ELSE 'suppressed' END, reason,
				CASE reason WHEN '' THEN $19::timestamptz END, $19, CASE reason WHEN '' THEN NULL ELSE $19::timestamptz END
			FROM q JOIN inserted USING (id) WHERE mail_id IS NOT NULL -- of inserted: a condition on q makes this a nested loop
			RETURNING lane, due_at
		), woken AS (
			` + wakeComposer + ` FROM asked WHERE due_at IS NOT NULL LIMIT 1
			` + wokenNotified + `
		)
		SELECT ARRAY(SELECT id FROM inserted), (SELECT count(*) FROM remembered), (SELECT count(*) FROM woken) + (SELECT count(*) FROM rung)`
	args := append([]any{
		ids, apps, workspaces, inviters, kinds, emails, emailKeys, names, locales,
		notes, messages, expires,
		events, data, routes, keys, hashes, answers, b.now, EventCreated,
		MailInvitation, firstMail.Purpose, firstMail.Args.encode(), firstMail.Lane, states, reasons,
		visibilities, warnings, items,
	}, texts.args()...)
	batch.Queue(statement, args...).QueryRow(func(row pgx.Row) error {
		return row.Scan(&b.inserted, &b.keyedInserted, nil)
	})
}

// sortOut takes note of what the INSERT did. Rows that it left out, and rows
// that took theirs for the first of the batch and followed them, are to be
// looked at again.
func (b *createBatch) sortOut() error {
	stored, gone := map[uuid.UUID]bool{}, map[uuid.UUID]bool{}
	for _, id := range b.inserted {
		stored[id] = true
	}
	keyed := 0
	for _, at := range b.fresh {
		id := b.out[at].Invitation.ID
		if !stored[id] {
			gone[id] = true
			continue
		}
		b.created = append(b.created, at)
		if b.rows[at].Key.Key != "" {
			keyed++
		}
	}
	if b.keyedInserted != keyed {
		// The same key came at the same moment with a request for another
		// address, else its row would be among the gone.
		return errOvertaken
	}
	if len(gone) == 0 {
		return nil
	}
	for at, out := range b.out {
		if gone[out.Invitation.ID] {
			b.todo = append(b.todo, at)
		}
	}
	slices.Sort(b.todo)
	lost := func(at int) bool { return gone[b.out[at].Invitation.ID] }
	b.keys, b.again = slices.DeleteFunc(b.keys, lost), slices.DeleteFunc(b.again, lost)
	return nil
}

// record remembers the answers that came with a key and without a new
// invitation, and notes which new ones are on hold.
func (b *createBatch) record(ctx context.Context, tx pgx.Tx) error {
	created := map[int]bool{}
	for _, at := range b.created {
		created[at] = true
		inv := b.out[at].Invitation
		if inv.State == OnHold { // who invites sees it in the answer and needs no letter
			if _, err := recordData(ctx, tx, inv, EventHeld, uuid.Nil, heldData(inv, inv.MailNote.Reason), b.now); err != nil {
				return err
			}
		}
	}
	keyed := slices.DeleteFunc(slices.Clone(b.keys), func(at int) bool { return created[at] })
	n := len(keyed)
	if n == 0 {
		return nil
	}
	slices.SortFunc(keyed, func(x, y int) int { // as above, against waiting in a circle
		kx, ky := b.rows[x].Key, b.rows[y].Key
		return cmp.Or(cmp.Compare(kx.Key, ky.Key), cmp.Compare(kx.Route, ky.Route), bytes.Compare(b.rows[x].AppID[:], b.rows[y].AppID[:]))
	})
	apps, routes, keys := make([]uuid.UUID, n), make([]string, n), make([]string, n)
	hashes, answers := make([][]byte, n), make([][]byte, n)
	for i, at := range keyed {
		row := b.rows[at]
		apps[i], routes[i], keys[i], hashes[i] = row.AppID, row.Key.Route, row.Key.Key, row.Key.Hash
		answers[i] = b.out[at].remember()
	}
	inserted, err := tx.Exec(ctx, `
		INSERT INTO idempotency_key (app_id, route, key, body_hash, answer, created_at)
		SELECT app_id, route, key, body_hash, answer, $6
		FROM unnest($1::uuid[], $2::text[], $3::text[], $4::bytea[], $5::jsonb[]) AS q (app_id, route, key, body_hash, answer)
		ON CONFLICT (app_id, route, key) DO NOTHING`,
		apps, routes, keys, hashes, answers, b.now)
	if err != nil {
		return fmt.Errorf("remember answers: %w", err)
	}
	if inserted.RowsAffected() != int64(n) {
		return errOvertaken
	}
	return nil
}

// remember is the outcome as it is kept under the row's key.
func (out CreateOutcome) remember() []byte {
	a := answer[Created]{Result: out.Created}
	errors.As(out.Err, &a.Err) // every refusal is an *Error
	kept, err := json.Marshal(a)
	if err != nil {
		panic(err) // plain data: it always marshals
	}
	return kept
}
