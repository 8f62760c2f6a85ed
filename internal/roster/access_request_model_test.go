package roster_test

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"usher/internal/roster"
	"usher/internal/roster/rostertest"
)

// modelSequences is how many random sequences every run goes through;
// USHER_TEST_SEQUENCES is for more.
const modelSequences = 16

// modelRound is how many sequences share a transaction.
const modelRound = 10

// modelSteps is how long a sequence is.
const modelSteps = 25

// modelRequest is an access request as it is meant to be.
type modelRequest struct {
	id         uuid.UUID
	address    string
	state      roster.State
	version    int
	sends      int
	queuedAt   time.Time
	expiresAt  time.Time
	target     string // the account that access was given to
	made       bool
	madeID     uuid.UUID // which account that is; requests for one address may share it
	visibility roster.Visibility
}

// modelMerge is a merge of a made account as it is meant to be.
type modelMerge struct {
	id     uuid.UUID
	madeID uuid.UUID
	target string
	at     time.Time
	undone bool
}

func (q *modelRequest) open() bool {
	return slices.Contains([]roster.State{roster.Pending, roster.OnHold, roster.Approved}, q.state)
}

// model is what access requests of one company are meant to do, in a few lines
// that share nothing with the operations but their names.
type model struct {
	now      time.Time
	requests []*modelRequest
	deniedAt map[string]time.Time
	access   map[string]bool // by account
	merges   []*modelMerge   // in their order
}

// mergeOf is the merge that holds of a made account.
func (m *model) mergeOf(made uuid.UUID) *modelMerge {
	for _, g := range m.merges {
		if g.madeID == made && !g.undone {
			return g
		}
	}
	return nil
}

// merge answers the merge that there is then.
func (m *model) merge(q *modelRequest) (*modelMerge, string) {
	switch {
	case q.state != roster.Granted:
		return nil, "not_granted"
	case !q.made:
		return nil, "nothing_to_merge"
	}
	g := m.mergeOf(q.madeID)
	if g == nil {
		g = &modelMerge{madeID: q.madeID, target: q.target, at: m.now}
		m.merges = append(m.merges, g)
	}
	return g, ""
}

func (m *model) undo(g *modelMerge) string {
	switch {
	case g.undone:
		return ""
	case !g.at.Add(30 * 24 * time.Hour).After(m.now):
		return "undo_over"
	}
	for _, later := range m.merges[slices.Index(m.merges, g)+1:] {
		if later.target == g.target && !later.undone {
			return "later_merge"
		}
	}
	g.undone = true
	return ""
}

// modelHolders are the accounts that have an address; the first of one is its
// primary holder if it is alone.
var modelHolders = map[string][]string{
	"ann@x.example": {"ann"}, "bob@x.example": {"bob"}, "cem@x.example": {"cem"}, "shared@x.example": {"bob", "cem"}, "also@x.example": {"ann"}, "free@x.example": nil,
}

// provesItself tells whether the link to an address shows whose account is meant.
func provesItself(address string) bool {
	return strings.HasPrefix(address, "ann@") || strings.HasPrefix(address, "bob@") || strings.HasPrefix(address, "cem@")
}

func (m *model) openOf(address string) *modelRequest {
	for _, q := range m.requests {
		if q.open() && q.address == address {
			return q
		}
	}
	return nil
}

// openTo is an open request whose target is known to be the account.
func (m *model) openTo(account string, but *modelRequest) *modelRequest {
	for _, q := range m.requests {
		if q != but && q.open() && len(modelHolders[q.address]) == 1 && modelHolders[q.address][0] == account {
			return q
		}
	}
	return nil
}

func (m *model) grant(q *modelRequest, account string, v roster.Visibility) string {
	q.state, q.target, q.visibility = roster.Granted, account, v
	m.access[account] = true
	return ""
}

func (q *modelRequest) over() string {
	if q.state == roster.Expired {
		return "expired"
	}
	return "already_" + string(q.state)
}

// sweep is what the clock does.
func (m *model) sweep() {
	for _, q := range m.requests {
		if q.open() && !q.expiresAt.After(m.now) {
			q.state = roster.Expired
		}
	}
}

// write is what a worker does that writes the waiting mail now: a first mail
// that waited an hour or more gives its request that time back.
func (m *model) write() {
	for _, q := range m.requests {
		if late := m.now.Sub(q.queuedAt); q.state == roster.Pending && q.sends == 1 && late >= time.Hour {
			q.expiresAt, q.queuedAt = q.expiresAt.Add(late), m.now
		}
	}
}

// ask answers the code of the refusal, "granted" or "duplicate" where nothing
// new was made, or "".
func (m *model) ask(option, address string) (*modelRequest, string) {
	held := modelHolders[address]
	switch {
	case len(held) == 0:
		return nil, "email_not_in_use"
	case len(held) == 1 && m.access[held[0]]:
		return nil, "granted"
	}
	if at, ok := m.deniedAt[address]; ok && at.Add(30*24*time.Hour).After(m.now) {
		return nil, "denied_lately"
	}
	q := m.openOf(address)
	if q == nil && len(held) == 1 {
		q = m.openTo(held[0], nil)
	}
	if q != nil {
		q.made = q.made || option == roster.OptionTemporary
		return q, "duplicate"
	}
	q = &modelRequest{address: address, state: roster.Pending, version: 1, sends: 1, queuedAt: m.now, expiresAt: m.now.Add(14 * 24 * time.Hour), made: option == roster.OptionTemporary}
	m.requests = append(m.requests, q)
	return q, ""
}

func (m *model) approve(q *modelRequest, account string, byLink bool, v roster.Visibility) string {
	proven := slices.Contains(modelHolders[q.address], account)
	if !proven {
		if !byLink {
			return "wrong_account"
		}
		if account == "" && provesItself(q.address) {
			account, proven = modelHolders[q.address][0], true
		} else {
			account = ""
		}
	}
	switch {
	case q.state == roster.Granted && account != "" && q.target != account:
		return "already_granted"
	case q.state == roster.Granted, q.state == roster.Approved && !proven:
		return ""
	case !q.open():
		return q.over()
	case proven:
		return m.grant(q, account, v)
	}
	q.state, q.visibility = roster.Approved, v
	if later := m.now.Add(24 * time.Hour); later.After(q.expiresAt) {
		q.expiresAt = later
	}
	return ""
}

func (m *model) deny(q *modelRequest, account string, byLink bool) string {
	switch {
	case q.open() && (byLink || slices.Contains(modelHolders[q.address], account)):
		q.state, m.deniedAt[q.address] = roster.Denied, m.now
		q.target = account // who said so
		return ""
	case q.open():
		return "wrong_account"
	case q.state == roster.Denied && (byLink || q.target == "" || q.target == account):
		return ""
	}
	return q.over()
}

func (m *model) cancel(q *modelRequest) string {
	if q.open() {
		q.state = roster.Cancelled
	}
	if q.state == roster.Cancelled {
		return ""
	}
	return q.over()
}

// meant is the account that the request is about, as far as that is known.
func (q *modelRequest) meant() string {
	if q.state == roster.Granted || q.state == roster.Revoked {
		return q.target
	}
	if held := modelHolders[q.address]; len(held) == 1 {
		return held[0]
	}
	return ""
}

func (m *model) revoke(q *modelRequest, account string, byLink bool) string {
	switch {
	case !byLink && q.meant() != account:
		return "wrong_account"
	case q.state == roster.Granted:
		q.state = roster.Revoked
		delete(m.access, q.target)
		return ""
	case q.state == roster.Revoked:
		return ""
	case q.state == roster.Pending || q.state == roster.OnHold:
		return "still_open"
	}
	return q.over()
}

func (m *model) authorize(q *modelRequest, account string) string {
	switch {
	case !slices.Contains(modelHolders[q.address], account):
		return "account_not_meant"
	case q.open() || q.state == roster.Expired:
		return m.grant(q, account, roster.VisibilityStandard)
	case q.state == roster.Granted:
		return "already_granted"
	}
	return q.over()
}

func (m *model) resend(q *modelRequest) string {
	switch {
	case q.state != roster.Pending && q.state != roster.OnHold:
		if q.open() {
			return "expired" // it was approved: nothing is mailed any more
		}
		return q.over()
	case q.sends > 3:
		return "resend_limit"
	case q.queuedAt.Add(time.Hour).After(m.now):
		return "resend_too_soon"
	}
	q.sends, q.queuedAt, q.state = q.sends+1, m.now, roster.Pending
	return ""
}

func (m *model) correct(q *modelRequest, address string) string {
	held := modelHolders[address]
	switch {
	case q.address == address:
		return "email_unchanged"
	case len(held) == 0:
		return "email_not_in_use"
	case q.state != roster.Pending && q.state != roster.OnHold:
		if q.open() {
			return "expired"
		}
		return q.over()
	case q.version >= 10:
		return "correction_limit"
	case m.openOf(address) != nil || len(held) == 1 && m.openTo(held[0], q) != nil:
		return "already_requested"
	}
	q.address, q.version, q.sends, q.queuedAt, q.state = address, q.version+1, 1, m.now, roster.Pending
	return ""
}

// TestRequestsFollowTheirModel goes through random sequences of all that people,
// professionals, support and the clock do, and compares with the model after
// each step: the same answers, the same states, the same access, no mail to
// somebody who decided, and no account, item or event that belongs to nothing.
func TestRequestsFollowTheirModel(t *testing.T) {
	t.Parallel()
	n := modelSequences
	if more, err := strconv.Atoi(os.Getenv("USHER_TEST_SEQUENCES")); err == nil {
		n = more
	}
	seed := uint64(time.Now().UnixNano())
	if given, err := strconv.ParseUint(os.Getenv("USHER_TEST_SEED"), 10, 64); err == nil {
		seed = given
	}
	const lanes = 4
	for lane := range lanes {
		t.Run(fmt.Sprintf("seed %d lane %d", seed, lane), func(t *testing.T) {
			t.Parallel()
			random := rand.New(rand.NewPCG(seed, uint64(lane)))
			for i := 0; i < n/lanes && !t.Failed(); i += modelRound {
				// A transaction that grows for long has no statistics to plan by.
				t.Run(fmt.Sprintf("from %d", i), func(t *testing.T) {
					b := rostertest.Begin(t)
					for j := i; j < min(i+modelRound, n/lanes) && !t.Failed(); j++ {
						modelSequence(t, b.Another(t), random)
					}
				})
			}
		})
	}
}

func modelSequence(t *testing.T, b *rostertest.Bundle, random *rand.Rand) {
	ctx, app, admin := t.Context(), b.App.ID, b.Admin.ID
	accounts := map[string]uuid.UUID{}
	for name, secondary := range map[string][]string{"ann": {"also@x.example"}, "bob": {"shared@x.example"}, "cem": {"shared@x.example"}, "eve": nil} {
		account, err := b.CreateAccount(ctx, app, roster.NewAccount{Kind: roster.Client, FullName: "Client " + name, Email: name + "@x.example", SecondaryEmails: secondary}, noKey)
		done(t, err)
		accounts[name] = account.ID
	}
	names := []string{"ann", "bob", "cem", "eve"}
	addresses := []string{"ann@x.example", "bob@x.example", "shared@x.example", "also@x.example", "free@x.example"}
	m := &model{now: b.Clock.Now(), deniedAt: map[string]time.Time{}, access: map[string]bool{}}
	var story []string
	pick := func(from []string) string { return from[random.IntN(len(from))] }
	for range modelSteps {
		var want string
		var err error
		var q *modelRequest
		if len(m.requests) > 0 {
			q = m.requests[random.IntN(len(m.requests))]
		}
		what, account, address := random.IntN(16), pick(names), pick(addresses)
		if q == nil && what > 1 {
			what = 0
		}
		v := []roster.Visibility{roster.VisibilityBasic, roster.VisibilityStandard, roster.VisibilityFull}[random.IntN(3)]
		ticket := roster.Ticket{}
		if q != nil {
			ticket = roster.Ticket{ID: q.id, Version: q.version}
		}
		line := ""
		switch what {
		case 0, 1:
			option := pick([]string{roster.OptionRequest, roster.OptionTemporary})
			line = "ask " + option + " " + address
			var out roster.AccessRequested
			out, err = asked(t, b, option, address)
			var asks *modelRequest
			asks, want = m.ask(option, address)
			if err == nil && (out.AlreadyGranted != (want == "granted") || out.Duplicate != (want == "duplicate")) {
				t.Errorf("%s: answered %+v, want %q", line, out, want)
			}
			if err == nil && asks != nil && want == "" {
				asks.id = out.Request.ID
			}
			if err == nil && out.Request.MadeID != nil {
				asks.madeID = *out.Request.MadeID
			}
			if want == "granted" || want == "duplicate" {
				want = ""
			}
		case 2:
			line = "approve by link"
			_, err = b.ApproveRequest(ctx, ticket, uuid.Nil, v)
			want = m.approve(q, "", true, v)
		case 3:
			line = "approve by link as " + account
			_, err = b.ApproveRequest(ctx, ticket, accounts[account], v)
			want = m.approve(q, account, true, v)
		case 4:
			line = "approve as " + account
			_, err = b.ApproveRequestAs(ctx, app, accounts[account], q.id, v, noKey)
			want = m.approve(q, account, false, v)
		case 5:
			line = "deny by link"
			_, err = b.DenyRequest(ctx, ticket, random.IntN(2) == 0)
			want = m.deny(q, "", true)
		case 6:
			line = "deny as " + account
			_, err = b.DenyRequestAs(ctx, app, accounts[account], q.id, false, noKey)
			want = m.deny(q, account, false)
		case 7:
			line = "cancel"
			_, err = b.CancelRequest(ctx, app, admin, q.id, noKey)
			want = m.cancel(q)
		case 8:
			line = "revoke by link"
			_, err = b.RevokeRequest(ctx, ticket)
			want = m.revoke(q, "", true)
		case 9:
			line = "revoke as " + account
			_, err = b.RevokeRequestAs(ctx, app, accounts[account], q.id, noKey)
			want = m.revoke(q, account, false)
		case 10:
			line = "authorize for " + account
			_, err = b.AuthorizeRequest(ctx, app, q.id, roster.Authorization{Operator: "Sam", Statement: "Yes.", Reference: "1", AccountID: accounts[account]}, noKey)
			want = m.authorize(q, account)
		case 11:
			if random.IntN(2) == 0 {
				line = "resend"
				_, err = b.ResendRequest(ctx, app, admin, q.id, noKey)
				want = m.resend(q)
			} else {
				line = "correct to " + address
				_, err = b.CorrectRequestAddress(ctx, app, admin, q.id, address, noKey)
				want = m.correct(q, address)
			}
		case 13, 14:
			line = "merge"
			b.Clock.Add(time.Millisecond) // no two merges in one instant
			m.now = b.Clock.Now()
			var g *modelMerge
			g, want = m.merge(q)
			var merged roster.Merge
			if merged, err = modelMerges(t, b, q.id); err == nil && g != nil {
				g.id = merged.ID
			}
		case 15:
			if len(m.merges) == 0 {
				continue
			}
			g := m.merges[random.IntN(len(m.merges))]
			line = "undo a merge into " + g.target
			before := g.undone
			want = m.undo(g)
			if _, err = b.UndoMerge(ctx, app, uuid.Nil, g.id, nil, noKey); err == nil && !before {
				_, err = b.RestoreMerge(ctx, g.id)
				done(t, err)
				_, err = b.FinishUndo(ctx, g.id)
			}
		case 12:
			d := []time.Duration{30 * time.Minute, 2 * time.Hour, 26 * time.Hour, 8 * 24 * time.Hour, 31 * 24 * time.Hour}[random.IntN(5)]
			line = "wait " + d.String()
			b.Clock.Add(d)
			m.now = b.Clock.Now()
			m.sweep()
			_, err = b.ExpireRequests(ctx, 1000)
		}
		story = append(story, line)
		if got := roster.CodeOf(err); got != want || err != nil && got == "" {
			t.Fatalf("%s\nanswered %q (%v), want %q", strings.Join(story, "\n"), got, err, want)
		}
		modelHolds(t, b, m, accounts, story)
		m.write()
		if t.Failed() {
			return
		}
	}
}

// modelMerges merges what was made for a request, as the professional and the
// job do; a merge that there was already stays.
func modelMerges(t *testing.T, b *rostertest.Bundle, request uuid.UUID) (roster.Merge, error) {
	ctx := t.Context()
	m, err := b.PreviewMerge(ctx, b.App.ID, b.Admin.ID, request, uuid.Nil, noKey)
	if err != nil {
		return m, err
	}
	if m.State == roster.MergeNeedsResolution {
		m, err = b.ResolveMerge(ctx, b.App.ID, b.Admin.ID, m.ID, true, noKey)
		done(t, err)
	}
	if m, err = b.ConfirmMerge(ctx, b.App.ID, b.Admin.ID, m.ID, m.Hash, noKey); err != nil || m.State != roster.MergeConfirmed {
		return m, err
	}
	return pair{Bundle: b}.carryOut(t, m.ID), nil
}

// modelHolds compares what is stored with the model.
func modelHolds(t *testing.T, b *rostertest.Bundle, m *model, accounts map[string]uuid.UUID, story []string) {
	told := strings.Join(story, "\n")
	for _, q := range m.requests {
		got, err := b.AccessRequest(t.Context(), b.App.ID, q.id)
		done(t, err)
		if got.State != q.state || got.Version != q.version || got.EmailKey != q.address || (got.MadeID != nil) != q.made || !got.ExpiresAt.Equal(q.expiresAt) && q.open() {
			t.Errorf("%s\nit is %s v%d %s made %t until %s, want %+v", told, got.State, got.Version, got.EmailKey, got.MadeID != nil, got.ExpiresAt, q)
		}
		if got.State == roster.Granted && (*got.TargetID != accounts[q.target] || got.Visibility != q.visibility) {
			t.Errorf("%s\nit opened %s to %s, want %+v", told, *got.TargetID, got.Visibility, q)
		}
		// Mail that waits goes to nobody who decided.
		letters, err := b.Letters(t.Context(), b.Mails(t, q.id))
		done(t, err)
		for _, l := range letters {
			if wanted := q.state == roster.Pending || q.state == roster.Granted; l.Skip == "" && !wanted {
				t.Errorf("%s\na mail is written though it is %s", told, q.state)
			}
		}
	}
	for _, g := range m.merges {
		status, into := "temporary", ""
		if g == m.mergeOf(g.madeID) {
			status, into = "merged", accounts[g.target].String()
		} else if m.mergeOf(g.madeID) != nil {
			continue // it was merged anew
		}
		now := rostertest.Value[string](t, b, `SELECT status || ' ' || COALESCE(merged_into::text, '') FROM account WHERE id = $1`, g.madeID)
		if now != status+" "+into && (status == "merged" || now != "active ") {
			t.Errorf("%s\nthe account that was made is %s, want %s %s", told, now, status, into)
		}
	}
	for name, id := range accounts {
		if n := opened(t, b, id); n != map[bool]int{true: 1, false: 0}[m.access[name]] {
			t.Errorf("%s\n%d companies see %s", told, n, name)
		}
	}
	for what, count := range map[string]string{
		"temporary accounts of requests that are not open or granted": `
			SELECT count(*) FROM account WHERE app_id = $1 AND status = 'temporary' AND NOT EXISTS (
				SELECT FROM access_request q WHERE q.made_id = account.id AND q.state IN ('pending', 'on_hold', 'approved', 'granted'))`,
		"items about nothing": `
			SELECT count(*) FROM notification n WHERE n.app_id = $1 AND n.kind = 'access_request' AND NOT EXISTS (SELECT FROM access_request q WHERE q.id = n.subject_id)`,
		"rows of accounts that were merged away": `
			SELECT count(*) FROM account a WHERE app_id = $1 AND status = 'merged' AND (EXISTS (SELECT FROM record_access r WHERE r.account_id = a.id AND r.revoked_at IS NULL)
				OR EXISTS (SELECT FROM account_search s WHERE s.account_id = a.id) OR EXISTS (SELECT FROM account l WHERE l.id = a.merged_into AND l.merged_into IS NOT NULL))`,
		"accounts made for nobody": `
			SELECT count(*) FROM account WHERE app_id = $1 AND unclaimed AND NOT EXISTS (SELECT FROM access_request q WHERE q.made_id = account.id)`,
		"two decisions of one state": `
			SELECT count(*) FROM (SELECT subject_id FROM event WHERE app_id = $1 AND type IN ('access_request.granted', 'access_request.denied', 'access_request.cancelled')
				GROUP BY subject_id HAVING count(*) > 1) AS twice`,
	} {
		if n := rostertest.Value[int](t, b, count, b.App.ID); n != 0 {
			t.Errorf("%s\n%d %s", told, n, what)
		}
	}
}
