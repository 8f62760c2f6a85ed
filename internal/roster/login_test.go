package roster_test

import (
	"testing"
	"time"

	"github.com/google/uuid"

	"usher/internal/roster"
	"usher/internal/roster/rostertest"
)

// askedFor is the mail that an account's person just asked for, as the late
// check gets it.
func askedFor(t *testing.T, b *rostertest.Bundle, account roster.Account) roster.Mail {
	t.Helper()
	done(t, b.AskPassword(t.Context(), b.App.ID, account.Email, roster.Destination{}, noKey))
	m := roster.Mail{AppID: b.App.ID, Kind: roster.MailPassword, SubjectID: account.ID, EmailKey: "ann@example.org"}
	m.ID = rostertest.Value[uuid.UUID](t, b, `SELECT id FROM message WHERE subject_id = $1 AND kind = 'password' ORDER BY id DESC LIMIT 1`, account.ID)
	m.Args.Version = rostertest.Value[int](t, b, `SELECT COALESCE((args->>'version')::int, 0) FROM message WHERE id = $1`, m.ID)
	return m
}

// TestPasswordLetters is the late check of mails with links to set a password.
func TestPasswordLetters(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	account := withPassword(t, b)
	check := func(m roster.Mail) roster.Letter {
		t.Helper()
		letters, err := b.Letters(t.Context(), []roster.Mail{m})
		done(t, err)
		return letters[m.ID]
	}
	skip := func(m roster.Mail, want roster.Skip) {
		t.Helper()
		if l := check(m); l.Skip != want {
			t.Errorf("skip is %q, want %q", l.Skip, want)
		}
	}
	moved := func(m roster.Mail, want bool) {
		t.Helper()
		id := uuid.New()
		b.Exec(t, `INSERT INTO dispatch (id, lane, endpoint, message_ids, state, created_at) VALUES ($1, 'interactive', '/emails', ARRAY[$2::uuid], 'ready', now())`, id, m.ID)
		if got, err := b.MailMoved(t.Context(), id); got != want || err != nil {
			t.Errorf("moved: %v, want %v (%v)", got, want, err)
		}
	}
	m := askedFor(t, b, account)
	l := check(m)
	if l.Skip != "" || l.Password == nil || !l.Password.HasPassword || l.Password.Version != 0 || !l.Password.ExpiresAt.Equal(b.Clock.Now().Add(time.Hour)) {
		t.Errorf("letter is %+v, %+v", l, l.Password)
	}
	moved(m, false)
	b.Exec(t, `UPDATE account SET status = 'archived' WHERE id = $1`, account.ID)
	skip(m, "the account is archived")
	moved(m, true)
	b.Exec(t, `UPDATE account SET status = 'active', email_key = 'other@example.org' WHERE id = $1`, account.ID)
	skip(m, "the account has another address now")
	b.Exec(t, `UPDATE account SET email_key = 'ann@example.org' WHERE id = $1`, account.ID)
	b.Clock.Add(time.Hour)
	skip(m, "the link's time is over")
	m = askedFor(t, b, account)
	_, err := b.SetPassword(t.Context(), b.App.ID, roster.Ticket{ID: m.ID, Version: 0}, hash(t, goodPassword), noKey)
	done(t, err)
	skip(m, "the password was set since")
	moved(m, true)
	b.Exec(t, `INSERT INTO address (app_id, email_key, block, blocked_at) VALUES ($1, 'ann@example.org', 'hard', now())`, b.App.ID)
	b.Clock.Add(time.Hour)
	if l := check(askedFor(t, b, account)); l.Block != "hard" || l.Skip != "" {
		t.Errorf("letter to a blocked address is %+v", l)
	}
}

func TestTenancyOfPasswords(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	other := b.Another(t)
	account := withPassword(t, b)
	done(t, other.AskPassword(t.Context(), other.App.ID, account.Email, roster.Destination{}, noKey))
	theirs := other.Invite(t, "ann@example.org")
	done(t, b.AskPassword(t.Context(), b.App.ID, account.Email, roster.Destination{InvitationID: theirs.ID}, noKey))
	if n := rostertest.Value[int](t, b, `SELECT count(*) FROM message WHERE kind = 'password'`); n != 1 {
		t.Fatalf("%d mails, want that of the own app", n)
	}
	id := rostertest.Value[uuid.UUID](t, b, `SELECT id FROM message WHERE kind = 'password'`)
	link, err := b.ViewPasswordLink(t.Context(), roster.Ticket{ID: id})
	done(t, err)
	if link.InvitationID != nil || link.Account.ID != account.ID {
		t.Errorf("the link leads to %+v", link)
	}
	_, err = b.SetPassword(t.Context(), other.App.ID, roster.Ticket{ID: id}, hash(t, "another password"), noKey)
	refused(t, err, roster.NotFound, "link_dead")
	done(t, b.CheckPassword(t.Context(), b.App.ID, account.ID, goodPassword))
	_, err = other.LogIn(t.Context(), other.App.ID, account.Email, goodPassword)
	refused(t, err, roster.Invalid, "credentials_wrong")
	_, err = b.LogIn(t.Context(), b.App.ID, account.Email, goodPassword)
	done(t, err)
	value, _, err := b.StartSession(t.Context(), b.App.ID, account.ID)
	done(t, err)
	done(t, other.EndSessions(t.Context(), other.App.ID, account.ID))
	if _, ok, err := b.SessionAccount(t.Context(), value); !ok || err != nil {
		t.Errorf("another app ended the session (%v)", err)
	}
}

// TestRaceSetPassword opens two links at once: one password is set.
func TestRaceSetPassword(t *testing.T) {
	t.Parallel()
	b, _ := rostertest.Database(t)
	account := withPassword(t, b)
	m := askedFor(t, b, account)
	one, other := hash(t, "the first password"), hash(t, "the other password")
	results := make(chan error, 2)
	for _, phc := range []string{one, other} {
		go func() {
			_, err := b.SetPassword(t.Context(), b.App.ID, roster.Ticket{ID: m.ID}, phc, noKey)
			results <- err
		}()
	}
	var failed []error
	for range 2 {
		if err := <-results; err != nil {
			failed = append(failed, err)
		}
	}
	if len(failed) != 1 {
		t.Fatalf("failed: %v, want one of the two", failed)
	}
	refused(t, failed[0], roster.NotFound, "link_dead")
}
