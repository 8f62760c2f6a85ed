package roster_test

import (
	"crypto/sha256"
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"

	"usher/internal/postgres/postgrestest"
	"usher/internal/roster"
	"usher/internal/roster/rostertest"
)

func TestMain(m *testing.M) { postgrestest.Main(m) }

// The limits as people are told them; a change of one must be meant.
const (
	inviteLife   = 14 * 24 * time.Hour
	resendAfter  = time.Hour
	maxResends   = 3
	maxReopens   = 3
	maxVersion   = 10
	renewEvery   = 24 * time.Hour
	outage       = time.Hour
	maxWrong     = 10
	loginRest    = 15 * time.Minute
	sessionLife  = 30 * 24 * time.Hour
	goodPassword = "correct horse battery"
)

// noKey is a request that is not to be remembered.
var noKey = roster.IdempotencyKey{}

// keyFor is a key under which a request with that body came in.
func keyFor(key, body string) roster.IdempotencyKey {
	sum := sha256.Sum256([]byte(body))
	return roster.IdempotencyKey{Route: "POST /test", Key: key, Hash: sum[:]}
}

// refused checks that err is the domain's refusal with that kind and code.
func refused(t *testing.T, err error, kind roster.Kind, code string) *roster.Error {
	t.Helper()
	var e *roster.Error
	if !errors.As(err, &e) {
		t.Fatalf("error: got %v, want refusal %s", err, code)
	}
	if e.Kind != kind || e.Code != code {
		t.Fatalf("refusal: got %s %s, want %s %s", e.Kind, e.Code, kind, code)
	}
	if e.Message == "" {
		t.Errorf("refusal %s has no sentence", code)
	}
	return e
}

// stands checks that a refusal says what stands instead, and since when.
func stands(t *testing.T, e *roster.Error, state roster.State, decided time.Time) {
	t.Helper()
	if e.State != state || e.DecidedAt == nil || !e.DecidedAt.Equal(decided) {
		t.Errorf("what stands: got %s since %v, want %s since %v", e.State, e.DecidedAt, state, decided)
	}
}

func ptr[T any](v T) *T { return &v }

// done ends the test where err is one.
func done(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantEvents(t *testing.T, b *rostertest.Bundle, inv roster.Invitation, want ...string) {
	t.Helper()
	if got := b.Events(t, inv.ID); !slices.Equal(got, want) {
		t.Errorf("events: got %q, want %q", got, want)
	}
}

// reread is an invitation as it stands.
func reread(t *testing.T, b *rostertest.Bundle, inv roster.Invitation) roster.Invitation {
	t.Helper()
	inv, err := b.Invitation(t.Context(), inv.AppID, inv.ID)
	done(t, err)
	return inv
}

func wantState(t *testing.T, b *rostertest.Bundle, inv roster.Invitation, want roster.State) {
	t.Helper()
	if got := reread(t, b, inv).State; got != want {
		t.Errorf("state: got %s, want %s", got, want)
	}
}

// newcomer is the acceptance of somebody without an account. The hash is of no
// password: making one takes long.
func newcomer() roster.Acceptance {
	return roster.Acceptance{FullName: "Ann Example", PasswordHash: "$argon2id$v=19$m=8,t=1,p=1$AAAA$AAAA"}
}

// accept accepts an invitation as a newcomer.
func accept(t *testing.T, b *rostertest.Bundle, inv roster.Invitation) roster.Invitation {
	t.Helper()
	inv, _, err := b.AcceptInvitation(t.Context(), inv.Ticket(), newcomer())
	done(t, err)
	return inv
}

// hold puts an invitation on hold, as a bounce will.
func hold(t *testing.T, b *rostertest.Bundle, inv roster.Invitation) {
	t.Helper()
	b.Exec(t, `UPDATE invitation SET state = 'on_hold' WHERE id = $1`, inv.ID)
}

// memberships counts an address's memberships of a workspace in a state.
func memberships(t *testing.T, b *rostertest.Bundle, inv roster.Invitation, state string) int {
	t.Helper()
	return rostertest.Value[int](t, b, `
		SELECT count(*) FROM membership m JOIN account a ON a.id = m.account_id
		WHERE m.workspace_id = $1 AND a.email_key = $2 AND m.state = $3`, inv.WorkspaceID, inv.EmailKey, state)
}

// onlyMail is the one mail asked for about a subject.
func onlyMail(t *testing.T, b *rostertest.Bundle, subject uuid.UUID) roster.Mail {
	t.Helper()
	mails := b.Mails(t, subject)
	if len(mails) != 1 {
		t.Fatalf("mails about %s: got %d, want 1", subject, len(mails))
	}
	return mails[0]
}

// letter is what the late check says of a mail.
func letter(t *testing.T, b *rostertest.Bundle, m roster.Mail) roster.Letter {
	t.Helper()
	letters, err := b.Letters(t.Context(), []roster.Mail{m})
	done(t, err)
	l, ok := letters[m.ID]
	if !ok || len(letters) != 1 {
		t.Fatalf("letters: got %d, want one for %s", len(letters), m.ID)
	}
	return l
}
