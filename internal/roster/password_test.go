package roster_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"usher/internal/roster"
	"usher/internal/roster/rostertest"
)

func hash(t *testing.T, password string) string {
	t.Helper()
	phc, err := roster.HashPassword(t.Context(), password)
	done(t, err)
	return phc
}

// withPassword is an account that can be logged in to by goodPassword.
func withPassword(t *testing.T, b *rostertest.Bundle) roster.Account {
	t.Helper()
	account := b.NewAccount(t, roster.Client, "Ann Example", "ann@example.org")
	b.Exec(t, `UPDATE account SET password_hash = $2 WHERE id = $1`, account.ID, hash(t, goodPassword))
	return account
}

func TestHashPassword(t *testing.T) {
	t.Parallel()
	one, other := hash(t, goodPassword), hash(t, goodPassword)
	if one == other {
		t.Error("two hashes share their salt")
	}
	// The floor that OWASP names for argon2id.
	if !strings.HasPrefix(one, "$argon2id$v=19$m=19456,t=2,p=1$") || strings.Contains(one, goodPassword) {
		t.Errorf("got %q", one)
	}
	for password, code := range map[string]string{
		"":                       "password_too_short",
		"1234567":                "password_too_short",
		"ééééééé":                "password_too_short", // 14 bytes
		strings.Repeat("é", 201): "password_too_long",
		"correct\xffhorse":       "password_invalid",
	} {
		_, err := roster.HashPassword(t.Context(), password)
		if e := refused(t, err, roster.Invalid, code); e.Field != "password" {
			t.Errorf("%q: field %q", password, e.Field)
		}
	}
	hash(t, "12345678")
	hash(t, strings.Repeat("é", 200))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	// A free place may win over the end of ctx; either is an answer.
	if _, err := roster.HashPassword(ctx, goodPassword); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("after the end: got %v", err)
	}
}

func TestCheckPassword(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	account := withPassword(t, b)
	check := func(password string) error { return b.CheckPassword(t.Context(), b.App.ID, account.ID, password) }
	done(t, check(goodPassword))
	for _, wrong := range []string{"", goodPassword + " ", strings.ToUpper(goodPassword), strings.Repeat("x", 10_000)} {
		refused(t, check(wrong), roster.Invalid, "password_wrong")
	}
	done(t, check(goodPassword))

	// One text in two Unicode forms is one password.
	b.Exec(t, `UPDATE account SET password_hash = $2 WHERE id = $1`, account.ID, hash(t, "caf\u00e9 caf\u00e9"))
	done(t, check("cafe\u0301 cafe\u0301"))

	none := b.NewAccount(t, roster.Client, "Bob", "bob@example.org")
	refused(t, b.CheckPassword(t.Context(), b.App.ID, none.ID, ""), roster.Invalid, "password_wrong")
	b.Exec(t, `UPDATE account SET status = 'archived' WHERE id = $1`, account.ID)
	if err := check("caf\u00e9 caf\u00e9"); err == nil {
		t.Error("an archived account can be logged in to")
	}
	b.Exec(t, `UPDATE account SET status = 'active', password_hash = 'plain' WHERE id = $1`, account.ID)
	if err := check("plain"); err == nil || roster.CodeOf(err) != "" {
		t.Errorf("an unknown form of hash: got %v, want a fault", err)
	}
}

func TestCheckPasswordRests(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	account := withPassword(t, b)
	check := func(password string) error { return b.CheckPassword(t.Context(), b.App.ID, account.ID, password) }
	// Too long to be a password, and so refused without the time of hashing;
	// it counts all the same.
	guess := strings.Repeat("x", 10_000)
	for range maxWrong - 1 {
		refused(t, check(guess), roster.Invalid, "password_wrong")
	}
	done(t, check(goodPassword)) // and the count begins anew
	for range maxWrong {
		refused(t, check(guess), roster.Invalid, "password_wrong")
	}
	refused(t, check(goodPassword), roster.TooSoon, "too_many_tries")
	b.Clock.Add(loginRest - time.Microsecond)
	refused(t, check(goodPassword), roster.TooSoon, "too_many_tries")
	b.Clock.Add(time.Microsecond)
	for range maxWrong - 1 { // the rest over, the count begins anew too
		refused(t, check(guess), roster.Invalid, "password_wrong")
	}
	done(t, check(goodPassword))
}

// Guesses at once do not get more tries than one after the other.
func TestCheckPasswordConcurrently(t *testing.T) {
	t.Parallel()
	b, _ := rostertest.Database(t)
	account := withPassword(t, b)
	const guesses = 30
	errs := make([]error, guesses)
	atOnce(guesses, func(i int) {
		errs[i] = b.CheckPassword(context.Background(), b.App.ID, account.ID, "wrong guess")
	})
	count := map[string]int{}
	for _, err := range errs {
		count[roster.CodeOf(err)]++
	}
	if count["password_wrong"] != maxWrong || count["too_many_tries"] != guesses-maxWrong {
		t.Errorf("got %v, want %d answered and the rest turned away", count, maxWrong)
	}
	refused(t, b.CheckPassword(t.Context(), b.App.ID, account.ID, goodPassword), roster.TooSoon, "too_many_tries")
	b.Clock.Add(loginRest)
	done(t, b.CheckPassword(t.Context(), b.App.ID, account.ID, goodPassword))
}

func TestSession(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	account := b.NewAccount(t, roster.Client, "Ann Example", "ann@example.org")
	value, until, err := b.StartSession(t.Context(), b.App.ID, account.ID)
	done(t, err)
	if !until.Equal(b.Clock.Now().Add(sessionLife)) || len(value) < 40 {
		t.Errorf("got %q until %s", value, until)
	}
	second, _, err := b.StartSession(t.Context(), b.App.ID, account.ID)
	done(t, err)
	signedIn := func(value string, want bool) {
		t.Helper()
		got, ok, err := b.SessionAccount(t.Context(), value)
		done(t, err)
		if ok != want || ok && got.ID != account.ID || !ok && got.ID != uuid.Nil {
			t.Errorf("session %q: got %+v, %t, want %t", value, got, ok, want)
		}
	}
	signedIn(value, true)
	signedIn(second, true)
	signedIn("", false)
	signedIn(value+"x", false)
	if n := rostertest.Value[int](t, b, `SELECT count(*) FROM session WHERE hash = $1`, []byte(value)); n != 0 {
		t.Error("the cookie's value is stored")
	}

	b.Exec(t, `UPDATE account SET status = 'archived' WHERE id = $1`, account.ID)
	signedIn(value, false)
	b.Exec(t, `UPDATE account SET status = 'active' WHERE id = $1`, account.ID)
	done(t, b.EndSession(t.Context(), value))
	done(t, b.EndSession(t.Context(), value))
	signedIn(value, false)
	b.Clock.Set(until.Add(-time.Microsecond))
	signedIn(second, true)
	b.Clock.Set(until)
	signedIn(second, false)
}
