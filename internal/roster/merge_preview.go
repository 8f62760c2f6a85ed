package roster

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// maxListed bounds the conflicts that a preview lists one by one.
const maxListed = 200

// MergePreview is what a merge would do.
type MergePreview struct {
	Moves     MergeMoves      `json:"moves"`
	Conflicts []MergeConflict `json:"conflicts"`
	Unlisted  int             `json:"unlisted,omitempty"` // conflicts beyond maxListed
}

// MergeMoves count what becomes the survivor's, or ends because the survivor
// has it already.
type MergeMoves struct {
	Records         int `json:"records"`
	Memberships     int `json:"memberships"`
	SecondaryEmails int `json:"secondary_emails"`
	Notifications   int `json:"notifications"`
	Requests        int `json:"access_requests"`
	Superseded      int `json:"superseded"` // open invitations and requests that the merge makes pointless
}

// The codes of MergeConflict.
const (
	ConflictSamePerson = "same_person"        // a question, which blocks the merge until it is answered
	ConflictValue      = "value_differs"      // both have a value
	ConflictMembership = "membership_in_both" // both are in a workspace, with different rights
	ConflictEnded      = "membership_ended"   // the survivor was in the workspace, and was archived there
	ConflictAccess     = "access_ends"        // a company sees the absorbed account, and not the survivor
)

// The rules of MergeConflict: what the merge does about it.
const (
	RuleAsk      = "ask"           // somebody has to say
	RuleSurvivor = "survivor_wins" // the other value is kept beside, in the merge
	RuleLower    = "lower_right"
	RuleEnds     = "ends" // nothing of the survivor is opened without its person's word
)

// MergeConflict is something on which the two accounts do not agree.
type MergeConflict struct {
	Code        string     `json:"code"`
	Rule        string     `json:"rule"`
	Field       string     `json:"field,omitempty"`
	Survivor    string     `json:"survivor,omitempty"`
	Absorbed    string     `json:"absorbed,omitempty"`
	WorkspaceID *uuid.UUID `json:"workspace_id,omitempty"`
	CompanyID   *uuid.UUID `json:"company_id,omitempty"`
}

// mergeFacts are all that a merge depends on. Their JSON is what its hash is of.
type mergeFacts struct {
	Survivor, Absorbed mergeAccount
	LastMerge          *uuid.UUID // into the survivor: another one since changes what is shown
	Records            int        // the absorbed one's
	RecordsDigest      string
	Memberships        []mergeMembership // the absorbed one's
	NewEmails          []string          // those the survivor does not have
	Access             []mergeAccess     // the absorbed one's
	Requests           []mergeRequest    // for access to the absorbed one
	Superseded         []uuid.UUID       // open invitations of the survivor to workspaces it comes into

	notifications int // changes with each look into the inbox, so it is not part of the hash
}

type mergeAccount struct {
	ID        uuid.UUID
	Status    string
	FullName  string
	Email     string
	Locale    string
	TimeZone  string
	BirthDate *time.Time
	Username  string
	MergedTo  *uuid.UUID
	Folded    string // the full name in small letters without accents
}

type mergeMembership struct {
	WorkspaceID             uuid.UUID
	Role, Visibility, State string
	Both                    bool
	TheirRole, TheirVisible string // of the survivor
	TheirState              string
}

type mergeAccess struct {
	CompanyID uuid.UUID
	Level     string
	Theirs    string // how much it sees of the survivor; empty: nothing
}

type mergeRequest struct {
	ID        uuid.UUID
	CompanyID uuid.UUID
	State     string
	Again     bool // the company has an open request for the survivor as well
}

// readMergeFacts reads what a merge of two accounts depends on.
func readMergeFacts(ctx context.Context, tx pgx.Tx, app, survivor, absorbed uuid.UUID) (f mergeFacts, err error) {
	batch := &pgx.Batch{}
	batch.Queue(`
		SELECT id, status, full_name, email, locale, time_zone, birth_date, username, merged_into, fold(full_name)
		FROM account WHERE app_id = $1 AND id IN ($2, $3)`, app, survivor, absorbed).Query(func(rows pgx.Rows) error {
		accounts, err := pgx.CollectRows(rows, pgx.RowToStructByPos[mergeAccount])
		for _, a := range accounts {
			if a.ID == survivor {
				f.Survivor = a
			} else {
				f.Absorbed = a
			}
		}
		return err
	})
	batch.Queue(`
		SELECT (SELECT id FROM merge WHERE survivor_id = $1 AND moved_at IS NOT NULL ORDER BY moved_at DESC LIMIT 1),
			(SELECT count(*) FROM record WHERE account_id = $2),
			COALESCE((SELECT encode(sha256(convert_to(string_agg(id::text, ',' ORDER BY id), 'UTF8')), 'hex') FROM record WHERE account_id = $2), ''),
			ARRAY(SELECT k FROM (SELECT email_key AS k FROM account WHERE id = $2 AND email_key IS NOT NULL UNION SELECT email_key FROM secondary_email WHERE account_id = $2) AS have
				WHERE NOT EXISTS (SELECT FROM account WHERE id = $1 AND email_key = k) AND NOT EXISTS (SELECT FROM secondary_email s WHERE s.account_id = $1 AND s.email_key = k) ORDER BY k),
			(SELECT count(*) FROM notification n WHERE n.account_id = $2 AND NOT EXISTS (SELECT FROM notification o WHERE o.account_id = $1 AND o.subject_id = n.subject_id)),
			ARRAY(SELECT id FROM invitation WHERE `+supersededBy+` ORDER BY id)`, survivor, absorbed).QueryRow(func(row pgx.Row) error {
		return row.Scan(&f.LastMerge, &f.Records, &f.RecordsDigest, &f.NewEmails, &f.notifications, &f.Superseded)
	})
	batch.Queue(`
		SELECT m.workspace_id, m.role, m.visibility, m.state, o.account_id IS NOT NULL, COALESCE(o.role, ''), COALESCE(o.visibility, ''), COALESCE(o.state, '')
		FROM membership m LEFT JOIN membership o ON o.workspace_id = m.workspace_id AND o.account_id = $1
		WHERE m.account_id = $2 ORDER BY m.workspace_id`, survivor, absorbed).Query(collectInto(&f.Memberships))
	batch.Queue(`
		SELECT a.company_id, a.visibility, COALESCE(o.visibility, '')
		FROM record_access a LEFT JOIN record_access o ON o.account_id = $1 AND o.company_id = a.company_id AND o.revoked_at IS NULL
		WHERE a.account_id = $2 AND a.revoked_at IS NULL ORDER BY a.company_id`, survivor, absorbed).Query(collectInto(&f.Access))
	batch.Queue(`
		SELECT q.id, q.company_id, q.state, EXISTS (SELECT FROM access_request o WHERE o.company_id = q.company_id AND o.target_id = $1 AND o.state IN ('pending', 'on_hold', 'approved'))
		FROM access_request q WHERE q.target_id = $2 AND q.state IN ('pending', 'on_hold', 'approved', 'granted') ORDER BY q.id`,
		survivor, absorbed).Query(collectInto(&f.Requests))
	if err := tx.SendBatch(ctx, batch).Close(); err != nil {
		return f, fmt.Errorf("read what a merge of account %s depends on: %w", absorbed, err)
	}
	return f, nil
}

// supersededBy is the condition of open invitations of the account $1 to
// workspaces that it comes into by taking in the account $2.
const supersededBy = isOpen + ` AND (email_key, app_id) IN (SELECT email_key, app_id FROM account WHERE id = $1)
	AND workspace_id IN (SELECT m.workspace_id FROM membership m WHERE m.account_id = $2 AND m.state = 'active'
		AND NOT EXISTS (SELECT FROM membership o WHERE o.workspace_id = m.workspace_id AND o.account_id = $1))`

// collectInto reads rows into a slice of structs by their columns' order.
func collectInto[T any](into *[]T) func(pgx.Rows) error {
	return func(rows pgx.Rows) (err error) {
		*into, err = pgx.CollectRows(rows, pgx.RowToStructByPos[T])
		return err
	}
}

// hash is of all facts.
func (f mergeFacts) hash() []byte {
	encoded, err := json.Marshal(f)
	if err != nil {
		panic(err) // plain data: it always marshals
	}
	sum := sha256.Sum256(encoded)
	return sum[:]
}

// question is a fingerprint of the "same person?" that the facts raise; nil:
// they raise none.
func (f mergeFacts) question() []byte {
	s, a := f.Survivor, f.Absorbed
	if sameFamily(s.Folded, a.Folded) && (s.BirthDate == nil || a.BirthDate == nil || s.BirthDate.Equal(*a.BirthDate)) {
		return nil
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%q %v %q %v", s.FullName, s.BirthDate, a.FullName, a.BirthDate))
	return sum[:]
}

// sameFamily tells whether two folded full names may have the same family name:
// some word after the first is in both, or one is a single word of the other.
func sameFamily(one, other string) bool {
	words := func(name string) []string {
		return strings.FieldsFunc(name, func(c rune) bool { return !unicode.IsLetter(c) && !unicode.IsDigit(c) })
	}
	a, b := words(one), words(other)
	if len(a) > 1 && len(b) > 1 {
		a, b = a[1:], b[1:]
	}
	return slices.ContainsFunc(a, func(w string) bool { return slices.Contains(b, w) })
}

// asks tells whether the merge cannot go on before somebody answers.
func (f mergeFacts) asks(answered []byte) bool {
	question := f.question()
	return question != nil && !bytes.Equal(question, answered)
}

// preview is what the merge would do.
func (f mergeFacts) preview() (p MergePreview) {
	p.Conflicts = []MergeConflict{}
	p.Moves = MergeMoves{Records: f.Records, SecondaryEmails: len(f.NewEmails), Notifications: f.notifications, Superseded: len(f.Superseded)}
	add := func(c MergeConflict) {
		if len(p.Conflicts) == maxListed {
			p.Unlisted++
			return
		}
		p.Conflicts = append(p.Conflicts, c)
	}
	s, a := f.Survivor, f.Absorbed
	if !sameFamily(s.Folded, a.Folded) {
		add(MergeConflict{Code: ConflictSamePerson, Rule: RuleAsk, Field: "full_name", Survivor: s.FullName, Absorbed: a.FullName})
	} else if s.FullName != a.FullName {
		add(MergeConflict{Code: ConflictValue, Rule: RuleSurvivor, Field: "full_name", Survivor: s.FullName, Absorbed: a.FullName})
	}
	if s.BirthDate != nil && a.BirthDate != nil && !s.BirthDate.Equal(*a.BirthDate) {
		// What the client told others of themselves stays unsaid.
		add(MergeConflict{Code: ConflictSamePerson, Rule: RuleAsk, Field: "birth_date", Absorbed: a.BirthDate.Format(time.DateOnly)})
	}
	for _, v := range []struct{ field, survivor, absorbed string }{{"locale", s.Locale, a.Locale}, {"time_zone", s.TimeZone, a.TimeZone}} {
		if v.survivor != "" && v.absorbed != "" && v.survivor != v.absorbed {
			add(MergeConflict{Code: ConflictValue, Rule: RuleSurvivor, Field: v.field, Survivor: v.survivor, Absorbed: v.absorbed})
		}
	}
	for _, m := range f.Memberships {
		workspace := m.WorkspaceID
		switch {
		case !m.Both:
			p.Moves.Memberships++
		case m.TheirState != m.State && m.State == memberActive:
			add(MergeConflict{Code: ConflictEnded, Rule: RuleLower, WorkspaceID: &workspace})
		case m.State == memberActive && (m.TheirRole != m.Role || m.TheirVisible != m.Visibility):
			add(MergeConflict{
				Code: ConflictMembership, Rule: RuleLower, WorkspaceID: &workspace,
				Survivor: m.TheirRole + " " + m.TheirVisible, Absorbed: m.Role + " " + m.Visibility,
			})
		}
	}
	for _, a := range f.Access {
		if company := a.CompanyID; a.Theirs == "" {
			add(MergeConflict{Code: ConflictAccess, Rule: RuleEnds, CompanyID: &company})
		}
	}
	for _, q := range f.Requests {
		if q.Again {
			p.Moves.Superseded++
		} else if q.State != string(Granted) {
			p.Moves.Requests++
		}
	}
	return p
}

// memberActive is the state of who is in a workspace.
const memberActive = "active"

// PreviewMerge tells what a merge of the account that was made for a granted
// access request into the client's own would do, and every conflict. absorbed
// names an earlier account that the company had made for the same client; Nil:
// the request's own. Asking again answers the same merge, looked at anew; one
// that was confirmed stays as it is.
func (r *Roster) PreviewMerge(ctx context.Context, app, actor, request, absorbed uuid.UUID, key IdempotencyKey) (Merge, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (m Merge, err error) {
		q, err := readRequest(ctx, tx, app, request, "")
		if err != nil {
			return m, err
		}
		if _, err := companyOf(ctx, tx, app, actor, q.CompanyID); err != nil {
			return m, err
		}
		return r.previewMerge(ctx, tx, q, actor, absorbed)
	})
}

func (r *Roster) previewMerge(ctx context.Context, tx pgx.Tx, q AccessRequest, actor, absorbed uuid.UUID) (m Merge, err error) {
	absorbed, err = absorbedOf(ctx, tx, q, absorbed)
	if err != nil {
		return m, err
	}
	m, err = collectMerge(tx.Query(ctx, `
		SELECT `+mergeColumns+` FROM merge WHERE absorbed_id = $1 AND state NOT IN ('failed', 'cancelled', 'undone') FOR UPDATE`, absorbed))
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return m, fmt.Errorf("look for merge of account %s: %w", absorbed, err)
	}
	if err == nil && m.State != MergePreviewed && m.State != MergeNeedsResolution {
		return m, nil
	}
	survivor := *q.TargetID
	if err := living(ctx, tx, q.AppID, &survivor); err != nil {
		return m, err
	}
	f, err := readMergeFacts(ctx, tx, q.AppID, survivor, absorbed)
	if err != nil {
		return m, err
	}
	if refusal := f.refusal(); refusal != nil {
		return m, refusal
	}
	now, state := r.now(), MergePreviewed
	if f.asks(m.SamePerson) {
		state = MergeNeedsResolution
	}
	if m.ID != uuid.Nil {
		m, _, err = changeMerge(ctx, tx, q.AppID, m.ID, `SET state = $2, survivor_id = $3, request_id = $4, preview = $5, hash = $6 WHERE id = $1`,
			m.ID, state, survivor, q.ID, f.preview(), f.hash())
		return m, err
	}
	m, err = collectMerge(tx.Query(ctx, `
		INSERT INTO merge (id, app_id, company_id, request_id, survivor_id, absorbed_id, state, preview, hash, created_at)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
		ON CONFLICT (absorbed_id) WHERE state NOT IN ('failed', 'cancelled', 'undone') DO NOTHING
		RETURNING `+mergeColumns, newID(), q.AppID, q.CompanyID, q.ID, survivor, absorbed, state, f.preview(), f.hash(), now))
	if errors.Is(err, pgx.ErrNoRows) {
		return m, errorf(Conflict, "merge_changed", "Somebody asked for a merge of this account in the same instant. Try again.")
	}
	if err != nil {
		return m, fmt.Errorf("create merge: %w", err)
	}
	return m, m.record(ctx, tx, now, actor, EventMergePreviewed)
}

// absorbedOf is the account that a granted request allows to fold away: the one
// made for it, or an earlier one of the same company for the same address.
func absorbedOf(ctx context.Context, tx pgx.Tx, q AccessRequest, absorbed uuid.UUID) (uuid.UUID, error) {
	if q.State != Granted || q.Option == OptionNewAccount {
		err := errorf(Conflict, "not_granted", "A merge needs an access request that the client has granted.")
		err.State = q.State
		return absorbed, err
	}
	if absorbed == uuid.Nil {
		if q.MadeID == nil {
			return absorbed, errorf(Conflict, "nothing_to_merge", "No account was made for this request. Only an account that was made meanwhile can be merged.")
		}
		return *q.MadeID, nil
	}
	if err := exists(ctx, tx, "account", q.AppID, absorbed); err != nil {
		return absorbed, err
	}
	var made bool
	if err := tx.QueryRow(ctx, `
		SELECT EXISTS (SELECT FROM access_request
			WHERE made_id = $1 AND company_id = $2 AND email_key = $3 AND option = 'request_with_temporary')`, absorbed, q.CompanyID, q.EmailKey).Scan(&made); err != nil {
		return absorbed, fmt.Errorf("look for who made account %s: %w", absorbed, err)
	}
	if !made {
		return absorbed, invalidField("absorbed_id", "account_not_made", "This account was not made by your company meanwhile, for the address of the request. Only such a one can be merged.")
	}
	return absorbed, nil
}

// refusal is why the two accounts cannot be merged; nil: they can.
func (f mergeFacts) refusal() *Error {
	s, a := f.Survivor, f.Absorbed
	state := func(code, message, status string) *Error {
		err := errorf(Conflict, code, "%s", message)
		err.State = State(status)
		return err
	}
	switch {
	case a.ID == s.ID, a.Status == statusMerged:
		return state("already_merged", "This account was merged already.", a.Status)
	case a.Status != statusTemporary && a.Status != statusActive:
		return state("account_"+a.Status, "The account that was made is "+a.Status+"; it stays as it is.", a.Status)
	case s.Status != statusActive:
		return state("account_"+s.Status, "The client's own account is "+s.Status+"; nothing can be merged into it.", s.Status)
	}
	return nil
}

// ResolveMerge answers whether the two accounts are of one person. A no cancels
// the merge.
func (r *Roster) ResolveMerge(ctx context.Context, app, actor, id uuid.UUID, samePerson bool, key IdempotencyKey) (Merge, error) {
	return r.steerMerge(ctx, app, actor, id, key, func(tx pgx.Tx, m Merge, now time.Time) (Merge, error) {
		if !samePerson {
			m, ok, err := r.endMerge(ctx, tx, m, actor, MergeCancelled, "not_same_person", now, `state IN ('previewed', 'needs_resolution')`)
			if err == nil && !ok && (m.State != MergeCancelled || m.Failure != "not_same_person") {
				err = m.stands()
			}
			return m, err
		}
		f, err := readMergeFacts(ctx, tx, app, m.SurvivorID, m.AbsorbedID)
		if err != nil {
			return m, err
		}
		m, ok, err := changeMerge(ctx, tx, app, id, `
			SET state = 'previewed', same_person = $3, preview = $4, hash = $5 WHERE app_id = $1 AND id = $2 AND state IN ('previewed', 'needs_resolution')`,
			app, id, f.question(), f.preview(), f.hash())
		if err == nil && !ok {
			err = m.stands()
		}
		return m, err
	})
}

// steerMerge runs an operation of a professional of the company on its merge.
func (r *Roster) steerMerge(ctx context.Context, app, actor, id uuid.UUID, key IdempotencyKey, op func(tx pgx.Tx, m Merge, now time.Time) (Merge, error)) (Merge, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (Merge, error) {
		m, err := readMerge(ctx, tx, app, id, "FOR UPDATE")
		if err != nil {
			return m, err
		}
		if _, err := companyOf(ctx, tx, app, actor, m.CompanyID); err != nil {
			return m, err
		}
		return op(tx, m, r.now())
	})
}

// ConfirmMerge begins a merge as its preview of that hash showed it. If anything
// the preview depends on is different by now, it is refused.
func (r *Roster) ConfirmMerge(ctx context.Context, app, actor, id uuid.UUID, hash []byte, key IdempotencyKey) (Merge, error) {
	return r.steerMerge(ctx, app, actor, id, key, func(tx pgx.Tx, m Merge, now time.Time) (Merge, error) {
		if m.State != MergePreviewed && m.State != MergeNeedsResolution {
			if m.ConfirmedAt != nil && m.Failure == "" && bytes.Equal(m.Hash, hash) {
				return m, nil // confirmed before
			}
			return m, m.stands()
		}
		return r.confirmMerge(ctx, tx, m, actor, hash, now)
	})
}

func (r *Roster) confirmMerge(ctx context.Context, tx pgx.Tx, m Merge, actor uuid.UUID, hash []byte, now time.Time) (Merge, error) {
	if err := lockSurvivor(ctx, tx, m); err != nil {
		return m, err
	}
	f, refusal, err := mergeNow(ctx, tx, m, hash)
	switch {
	case err != nil:
		return m, err
	case refusal != nil:
		return m, refusal
	}
	if f.asks(m.SamePerson) {
		err := errorf(Conflict, "needs_resolution", "Names or dates of birth differ. Say first whether both accounts are of the same person.")
		err.State = State(MergeNeedsResolution)
		return m, err
	}
	m, ok, err := changeMerge(ctx, tx, m.AppID, m.ID, `
		SET state = 'confirmed', actor_id = NULLIF($3, '00000000-0000-0000-0000-000000000000'::uuid), confirmed_at = $4
		WHERE app_id = $1 AND id = $2 AND state IN ('previewed', 'needs_resolution')
			AND NOT EXISTS (SELECT FROM merge o WHERE o.survivor_id = merge.survivor_id AND o.state IN ('confirmed', 'running', 'undoing'))`,
		m.AppID, m.ID, actor, now)
	if err != nil {
		return m, err
	}
	if !ok {
		return m, errorf(Conflict, "merge_running", "Another account is being merged into this client's, or taken out of it, right now. Wait for its end, and look at the preview again.")
	}
	if err := m.record(ctx, tx, now, actor, EventMergeConfirmed); err != nil {
		return m, err
	}
	return m, r.enqueue(ctx, tx, RunMerge{m.ID})
}

// lockSurvivor keeps other merges into the same account from beginning, or from
// being undone, until the transaction is over.
func lockSurvivor(ctx context.Context, tx pgx.Tx, m Merge) error {
	if _, err := tx.Exec(ctx, `SELECT FROM account WHERE id = $1 FOR NO KEY UPDATE`, m.SurvivorID); err != nil {
		return fmt.Errorf("lock account %s: %w", m.SurvivorID, err)
	}
	return nil
}

// mergeNow reads the facts of a merge as they are, and refuses it if they are
// not those of the hash, or do not allow it any more.
func mergeNow(ctx context.Context, tx pgx.Tx, m Merge, hash []byte) (f mergeFacts, refusal *Error, err error) {
	q, err := readRequest(ctx, tx, m.AppID, m.RequestID, "")
	if err != nil {
		return f, nil, err
	}
	if q.State != Granted {
		refusal = errorf(Conflict, "access_revoked", "The client has taken the access back; nothing is merged.")
		refusal.State = q.State
		return f, refusal, nil
	}
	if f, err = readMergeFacts(ctx, tx, m.AppID, m.SurvivorID, m.AbsorbedID); err != nil {
		return f, nil, err
	}
	if !bytes.Equal(f.hash(), hash) {
		refusal = errorf(Conflict, "preview_changed", "Something about the two accounts has changed since the preview. Ask for it again and look at it.")
		return f, refusal, nil
	}
	return f, f.refusal(), nil
}

// mergeIfAutomatic confirms the merge of a request that was just granted, where
// the app's policy wants that and the two accounts agree on everything.
func (r *Roster) mergeIfAutomatic(ctx context.Context, tx pgx.Tx, q AccessRequest, now time.Time) error {
	if q.MadeID == nil || q.Option != OptionTemporary {
		return nil
	}
	policy, err := policyOf(ctx, tx, q.AppID)
	if err != nil || policy.MergeMode != MergeAutomatic {
		return err
	}
	m, err := r.previewMerge(ctx, tx, q, uuid.Nil, uuid.Nil)
	var refusal *Error
	if errors.As(err, &refusal) {
		return nil // it stays for the professional to command
	}
	if err != nil || m.State != MergePreviewed || len(m.Preview.Conflicts) > 0 {
		return err
	}
	if _, err := r.confirmMerge(ctx, tx, m, uuid.Nil, m.Hash, now); err != nil && !errors.As(err, &refusal) {
		return err
	}
	return nil
}

// CancelMerge ends a merge whose rows have not moved.
func (r *Roster) CancelMerge(ctx context.Context, app, actor, id uuid.UUID, key IdempotencyKey) (Merge, error) {
	return r.steerMerge(ctx, app, actor, id, key, func(tx pgx.Tx, m Merge, now time.Time) (Merge, error) {
		m, ok, err := r.endMerge(ctx, tx, m, actor, MergeCancelled, "asked", now, beforeMove)
		if err == nil && !ok && m.State != MergeCancelled {
			err = m.stands()
		}
		return m, err
	})
}

// beforeMove is the condition of merges that nothing was changed by yet.
const beforeMove = `state IN ('previewed', 'needs_resolution', 'confirmed', 'running') AND step IN ('', 'preparing')`

// endMerge ends a merge that has changed nothing; ok is false where the
// condition does not hold any more. If the app may know of it, the merge's job,
// which is then at work, tells it.
func (r *Roster) endMerge(ctx context.Context, tx pgx.Tx, m Merge, actor uuid.UUID, state MergeState, reason string, now time.Time, condition string) (Merge, bool, error) {
	m, ok, err := changeMerge(ctx, tx, m.AppID, m.ID, `
		SET state = $3, failure = $4, ended_at = $5 WHERE app_id = $1 AND id = $2 AND `+condition, m.AppID, m.ID, state, reason, now)
	if err != nil || !ok {
		return m, ok, err
	}
	eventType := EventMergeCancelled
	if state == MergeFailed {
		eventType = EventMergeFailed
	}
	return m, true, m.record(ctx, tx, now, actor, eventType)
}

// cancelMergesOf ends the merges that a request allowed, which was just revoked.
func (r *Roster) cancelMergesOf(ctx context.Context, tx pgx.Tx, q AccessRequest, actor uuid.UUID, now time.Time) error {
	rows, err := tx.Query(ctx, `SELECT `+mergeColumns+` FROM merge WHERE request_id = $1 AND `+beforeMove+` ORDER BY id FOR UPDATE`, q.ID)
	if err != nil {
		return fmt.Errorf("find merges of access request %s: %w", q.ID, err)
	}
	merges, err := pgx.CollectRows(rows, pgx.RowToStructByPos[Merge])
	if err != nil {
		return fmt.Errorf("find merges of access request %s: %w", q.ID, err)
	}
	for _, m := range merges { // one, or an earlier account's beside it
		if _, _, err := r.endMerge(ctx, tx, m, actor, MergeCancelled, "access_revoked", now, beforeMove); err != nil {
			return err
		}
	}
	return nil
}
