package roster_test

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"usher/internal/roster"
	"usher/internal/roster/rostertest"
)

// client adds a client's account that somebody else's company made.
func client(t testing.TB, b *rostertest.Bundle, email string) roster.Account {
	t.Helper()
	return b.NewAccount(t, roster.Client, "Ann Client", email)
}

// asked asks for access with an option.
func asked(t *testing.T, b *rostertest.Bundle, option, email string) (roster.AccessRequested, error) {
	t.Helper()
	return b.RequestAccess(t.Context(), b.App.ID, b.Admin.ID, roster.NewAccessRequest{Option: option, Email: email, FullName: "Ann Client"}, noKey)
}

// ask asks a client, who is added, for access.
func ask(t *testing.T, b *rostertest.Bundle, email string) roster.AccessRequest {
	t.Helper()
	client(t, b, email)
	out, err := asked(t, b, roster.OptionRequest, email)
	done(t, err)
	return out.Request
}

func requestState(t testing.TB, b *rostertest.Bundle, id uuid.UUID) string {
	t.Helper()
	return rostertest.Value[string](t, b, `SELECT state FROM access_request WHERE id = $1`, id)
}

// opened are the companies that see an account's records.
func opened(t testing.TB, b *rostertest.Bundle, account uuid.UUID) int {
	t.Helper()
	return rostertest.Value[int](t, b, `SELECT count(*) FROM record_access WHERE account_id = $1 AND revoked_at IS NULL`, account)
}

func TestUsernamesOfAddresses(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	for i, test := range []struct{ email, want string }{
		{"ann.o@client.example", "ann.o"}, {"Ann.O@other.example", "ann.o-2"}, {"ANN.O@third.example", "ann.o-3"},
		{"zoe+work@client.example", "zoe+work"}, {"info@client.example", "info-2"}, {"info@other.example", "info-3"},
		{"a@client.example", "clienta"}, {"_x_y_@client.example", "x_y"}, {"o'neil@client.example", "o.neil"}, {"__@client.example", "client"},
	} {
		client(t, b, test.email)
		out, err := b.RequestAccess(t.Context(), b.App.ID, b.Admin.ID,
			roster.NewAccessRequest{Option: roster.OptionNewAccount, Email: test.email, FullName: fmt.Sprintf("Person %d", i)}, noKey)
		if err != nil {
			t.Errorf("%s: %v", test.email, err)
			continue
		}
		if out.Made.Username != test.want || out.Made.Email != "" || !slices.Equal(out.Made.SecondaryEmails, []string{test.email}) {
			t.Errorf("%s: the account is %+v, want the username %s", test.email, out.Made, test.want)
		}
	}
}

func TestManyUsernamesAtOnce(t *testing.T) {
	t.Parallel()
	b, _ := rostertest.Database(t)
	const n = 12
	for i := range n {
		client(t, b, fmt.Sprintf("ann@client%d.example", i))
	}
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			out, err := asked(t, b, roster.OptionNewAccount, fmt.Sprintf("ann@client%d.example", i))
			if err != nil || out.Made == nil {
				t.Errorf("%d: %v", i, err)
			}
		})
	}
	wg.Wait()
	got := rostertest.Column[string](t, b, `SELECT username FROM account WHERE unclaimed ORDER BY length(username), username`)
	if len(got) != n || got[0] != "ann" || got[n-1] != fmt.Sprintf("ann-%d", n) {
		t.Errorf("usernames are %q", got)
	}
}

// An address that is only secondary, or that several have, asks for a log-in to
// the account meant; the yes is kept until then.
func TestApprovalThatNeedsALogIn(t *testing.T) {
	t.Parallel()
	for name, add := range map[string]func(*rostertest.Bundle) []roster.Account{
		"secondary": func(b *rostertest.Bundle) []roster.Account {
			a, err := b.CreateAccount(t.Context(), b.App.ID, roster.NewAccount{Kind: roster.Client, FullName: "Ann", Email: "ann@own.example", SecondaryEmails: []string{"ann@client.example"}}, noKey)
			done(t, err)
			return []roster.Account{a}
		},
		"shared": func(b *rostertest.Bundle) []roster.Account {
			first := client(t, b, "ann@client.example")
			second := client(t, b, "bob@own.example")
			second, err := b.ChangeAccount(t.Context(), b.App.ID, second.ID, roster.AccountChange{SecondaryEmails: &[]string{"ann@client.example"}}, noKey)
			done(t, err)
			return []roster.Account{second, first}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := rostertest.Begin(t)
			accounts := add(b)
			out, err := asked(t, b, roster.OptionRequest, "ann@client.example")
			done(t, err)
			q := out.Request
			if (q.TargetID == nil) != (len(accounts) > 1) {
				t.Errorf("the target is %v", q.TargetID)
			}
			if items := rostertest.Value[int](t, b, `SELECT count(*) FROM notification WHERE subject_id = $1`, q.ID); items != len(accounts) {
				t.Errorf("%d inboxes, want %d", items, len(accounts))
			}
			stranger := client(t, b, "eve@client.example")
			b.Clock.Set(q.ExpiresAt.Add(-time.Hour))
			for range 2 { // again is a success
				kept, err := b.ApproveRequest(t.Context(), q.Ticket(), stranger.ID, roster.VisibilityBasic)
				done(t, err)
				if kept.State != roster.Approved || kept.Visibility != roster.VisibilityBasic || !kept.ExpiresAt.Equal(q.ExpiresAt.Add(23*time.Hour)) {
					t.Errorf("kept is %+v", kept)
				}
			}
			if opened(t, b, accounts[0].ID) != 0 {
				t.Error("access was given without a log-in")
			}
			_, err = b.ApproveRequestAs(t.Context(), b.App.ID, stranger.ID, q.ID, "", noKey)
			refused(t, err, roster.Forbidden, "wrong_account")
			_, err = b.DenyRequestAs(t.Context(), b.App.ID, stranger.ID, q.ID, false, noKey)
			refused(t, err, roster.Forbidden, "wrong_account")

			b.Clock.Add(20 * time.Hour) // the request's own time would be over
			granted, err := b.ApproveRequestAs(t.Context(), b.App.ID, accounts[0].ID, q.ID, roster.VisibilityFull, noKey)
			done(t, err)
			if granted.State != roster.Granted || *granted.TargetID != accounts[0].ID || granted.Visibility != roster.VisibilityFull || opened(t, b, accounts[0].ID) != 1 {
				t.Errorf("granted is %+v", granted)
			}
			if got := b.Events(t, q.ID); !slices.Equal(got, []string{"access_request.created", "access_request.approved", "access_request.granted"}) {
				t.Errorf("events are %q", got)
			}
			for i, account := range accounts {
				items, err := b.Notifications(t.Context(), b.App.ID, account.ID, roster.NotificationList{Limit: 5})
				done(t, err)
				if want := map[bool]roster.NotificationAction{true: roster.ActionDone, false: roster.ActionWithdrawn}[i == 0]; items[0].Action != want {
					t.Errorf("the item of account %d is %s, want %s", i, items[0].Action, want)
				}
			}
		})
	}
}

func TestRequestsExpire(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	q := ask(t, b, "ann@client.example")
	client(t, b, "bob@client.example")
	temporary, err := asked(t, b, roster.OptionTemporary, "bob@client.example")
	done(t, err)
	b.Clock.Set(q.ExpiresAt.Add(-time.Microsecond))
	if n, err := b.ExpireRequests(t.Context(), 10); err != nil || n != 0 {
		t.Errorf("%d ended before their time (%v)", n, err)
	}
	b.Clock.Set(q.ExpiresAt)
	for _, late := range []func() error{
		func() error { _, err := b.ApproveRequest(t.Context(), q.Ticket(), uuid.Nil, ""); return err },
		func() error { _, err := b.DenyRequest(t.Context(), q.Ticket(), false); return err },
	} {
		refused(t, late(), roster.Gone, "expired")
	}
	for want := 1; want >= 0; want-- { // in chunks
		if n, err := b.ExpireRequests(t.Context(), 1); err != nil || n != 1 {
			t.Errorf("%d ended (%v)", n, err)
		}
	}
	if n, err := b.ExpireRequests(t.Context(), 10); err != nil || n != 0 {
		t.Errorf("%d ended twice (%v)", n, err)
	}
	if got := rostertest.Value[int](t, b, `SELECT count(*) FROM event WHERE type = 'access_request.expired'`); got != 2 {
		t.Errorf("%d events", got)
	}
	if made, err := b.Account(t.Context(), b.App.ID, temporary.Made.ID); err != nil || made.Status != "active" {
		t.Errorf("the temporary account is %s (%v)", made.Status, err)
	}
}

func TestDenialCoolsOff(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	q := ask(t, b, "ann@client.example")
	denied, err := b.DenyRequest(t.Context(), q.Ticket(), false)
	done(t, err)
	for _, option := range []string{roster.OptionRequest, roster.OptionTemporary} {
		_, err = asked(t, b, option, "ANN@client.example")
		refused(t, err, roster.TooSoon, "denied_lately")
	}
	if _, err = asked(t, b, roster.OptionNewAccount, "ann@client.example"); err != nil {
		t.Errorf("another account is nothing that was denied: %v", err)
	}
	b.Clock.Set(denied.DecidedAt.Add(30 * 24 * time.Hour))
	again, err := asked(t, b, roster.OptionRequest, "ann@client.example")
	done(t, err)
	if again.Request.ID == q.ID || again.Request.State != roster.Pending {
		t.Errorf("asked again is %+v", again.Request)
	}
}

func TestHoldRequest(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	q := ask(t, b, "ann@client.example")
	mail := roster.Mail{Kind: roster.MailRequest, ID: *q.MessageID, AppID: b.App.ID, SubjectID: q.ID, EmailKey: q.EmailKey}
	if held, err := b.Hold(t.Context(), mail, "bounced"); err != nil || !held || requestState(t, b, q.ID) != "on_hold" {
		t.Errorf("held %t (%v), %s", held, err, requestState(t, b, q.ID))
	}
	if held, err := b.Hold(t.Context(), mail, "bounced"); err != nil || held {
		t.Errorf("held twice (%v)", err)
	}
	if _, err := b.ApproveRequest(t.Context(), q.Ticket(), uuid.Nil, ""); err != nil || requestState(t, b, q.ID) != "granted" {
		t.Errorf("a held request cannot be approved: %v", err)
	}
}

// Of two decisions at the same moment one counts, whoever makes them.
func TestRacesOfRequests(t *testing.T) {
	t.Parallel()
	b, _ := rostertest.Database(t)
	type decision struct {
		state string
		make  func(ctx context.Context, q roster.AccessRequest, account uuid.UUID) error
	}
	approve := decision{"granted", func(ctx context.Context, q roster.AccessRequest, _ uuid.UUID) error {
		_, err := b.ApproveRequest(ctx, q.Ticket(), uuid.Nil, "")
		return err
	}}
	for _, race := range []struct {
		name string
		with decision
	}{
		{"deny", decision{"denied", func(ctx context.Context, q roster.AccessRequest, account uuid.UUID) error {
			_, err := b.DenyRequestAs(ctx, b.App.ID, account, q.ID, false, noKey)
			return err
		}}},
		{"cancel", decision{"cancelled", func(ctx context.Context, q roster.AccessRequest, _ uuid.UUID) error {
			_, err := b.CancelRequest(ctx, b.App.ID, b.Admin.ID, q.ID, noKey)
			return err
		}}},
		{"expire", decision{"expired", func(ctx context.Context, q roster.AccessRequest, _ uuid.UUID) error {
			_, err := b.At(q.ExpiresAt).ExpireRequests(ctx, 100)
			return err
		}}},
		{"approve", approve},
	} {
		t.Run(race.name, func(t *testing.T) {
			for round := range 60 {
				email := fmt.Sprintf("%s%d@client.example", race.name, round)
				account := client(t, b, email)
				out, err := asked(t, b, roster.OptionTemporary, email)
				done(t, err)
				q := out.Request
				var wg sync.WaitGroup
				pair := []decision{approve, race.with}
				if round%2 == 1 {
					slices.Reverse(pair) // so that either may be first
				}
				for _, d := range pair {
					wg.Go(func() {
						if err := d.make(context.Background(), q, account.ID); err != nil && roster.CodeOf(err) == "" {
							t.Error(err)
						}
					})
				}
				wg.Wait()
				state := requestState(t, b, q.ID)
				if state != approve.state && state != race.with.state {
					t.Fatalf("the state is %s", state)
				}
				if n := opened(t, b, account.ID); n != map[bool]int{true: 1, false: 0}[state == "granted"] {
					t.Fatalf("%s, and %d companies have access", state, n)
				}
				decisions := rostertest.Value[int](t, b, `SELECT count(*) FROM event WHERE subject_id = $1
					AND type IN ('access_request.granted', 'access_request.denied', 'access_request.cancelled', 'access_request.expired')`, q.ID)
				if decisions != 1 {
					t.Fatalf("%d decisions", decisions)
				}
			}
		})
	}
}

func TestRequestsAtOnce(t *testing.T) {
	t.Parallel()
	b, _ := rostertest.Database(t)
	for round := range 20 {
		email := fmt.Sprintf("ann%d@client.example", round)
		client(t, b, email)
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() {
				option := roster.OptionTemporary
				if i == 0 {
					option = roster.OptionRequest
				}
				if _, err := asked(t, b, option, email); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		got := rostertest.Value[string](t, b, `
			SELECT concat_ws(' ', count(*), count(made_id), (SELECT count(*) FROM account a WHERE a.status = 'temporary' AND a.id IN (SELECT account_id FROM secondary_email WHERE email_key = $1)),
				(SELECT count(*) FROM message WHERE email_key = $1))
			FROM access_request WHERE email_key = $1`, email)
		if got != "1 1 1 1" {
			t.Fatalf("requests, accounts and mails: %s", got)
		}
	}
}

func TestAccessRequestsStayApart(t *testing.T) {
	t.Parallel()
	own := rostertest.Begin(t)
	other := own.Another(t)
	ask(t, other, "ann@client.example")
	if list, err := own.AccessRequests(t.Context(), own.App.ID, roster.RequestList{Limit: 10}); err != nil || len(list) != 0 {
		t.Errorf("another app's requests show: %+v, %v", list, err)
	}
	c, err := own.CheckAddress(t.Context(), own.App.ID, own.Admin.ID, uuid.Nil, "ann@client.example")
	if err != nil || c.InUse || c.OpenID != nil {
		t.Errorf("another app's account shows: %+v, %v", c, err)
	}
	_, err = asked(t, own, roster.OptionRequest, "ann@client.example")
	refused(t, err, roster.Conflict, "email_not_in_use")
	_, err = own.RequestAccess(t.Context(), own.App.ID, other.Admin.ID, roster.NewAccessRequest{Option: roster.OptionRequest, Email: "ann@client.example", FullName: "A"}, noKey)
	refused(t, err, roster.Forbidden, "actor_invalid")
}

// A request whose first mail waited for hours gets the time back; one that was
// mailed in time does not.
func TestLateRequestIsExtended(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	q := ask(t, b, "ann@client.example")
	b.Clock.Add(59 * time.Minute)
	letters, err := b.Letters(t.Context(), b.Mails(t, q.ID))
	done(t, err)
	if l := letters[*q.MessageID]; l.Skip != "" || !l.Request.ExpiresAt.Equal(q.ExpiresAt) {
		t.Errorf("in time: %+v", l)
	}
	b.Clock.Add(5 * time.Hour)
	letters, err = b.Letters(t.Context(), b.Mails(t, q.ID))
	done(t, err)
	want := q.ExpiresAt.Add(5*time.Hour + 59*time.Minute)
	if l := letters[*q.MessageID]; !l.Request.ExpiresAt.Equal(want) {
		t.Errorf("the mail says until %s, want %s", l.Request.ExpiresAt, want)
	}
	if got, err := b.AccessRequest(t.Context(), b.App.ID, q.ID); err != nil || !got.ExpiresAt.Equal(want) {
		t.Errorf("it is open until %s (%v), want %s", got.ExpiresAt, err, want)
	}
	if got := b.Events(t, q.ID); !slices.Equal(got, []string{"access_request.created", "access_request.expiry_extended"}) {
		t.Errorf("events are %q", got)
	}
}
