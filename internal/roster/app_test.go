package roster_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"usher/internal/roster"
	"usher/internal/roster/rostertest"
)

func TestApps(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	app, err := b.CreateApp(t.Context(), roster.NewApp{Name: " Portal ", Locale: "fr-ca"})
	done(t, err)
	if app.Name != "Portal" || app.Locale != "fr-CA" || app.TimeZone != "UTC" {
		t.Errorf("got %+v", app)
	}
	apps, err := b.Apps(t.Context())
	done(t, err)
	if len(apps) != 2 || asJSON(t, apps[1]) != asJSON(t, app) {
		t.Errorf("apps: got %+v", apps)
	}
	for _, n := range []roster.NewApp{{}, {Name: "A", Locale: "!!"}, {Name: "A", TimeZone: "Mars/Olympus"}} {
		if _, err := b.CreateApp(t.Context(), n); roster.CodeOf(err) == "" {
			t.Errorf("%+v: got %v, want a refusal", n, err)
		}
	}
}

func TestAPIKeys(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	key, k, err := b.CreateAPIKey(t.Context(), b.App.ID, "backend")
	done(t, err)
	if !strings.HasPrefix(key, k.Prefix) || len(k.Prefix) >= len(key)/2 || !strings.HasPrefix(key, "usk_") {
		t.Errorf("key %q with prefix %q", key, k.Prefix)
	}
	app, _, err := b.AuthenticateKey(t.Context(), key)
	if done(t, err); app != b.App.ID {
		t.Errorf("app: got %s", app)
	}
	for _, wrong := range []string{"", key[:len(key)-1], key + "x", strings.ToUpper(key), k.Prefix} {
		app, _, err := b.AuthenticateKey(t.Context(), wrong)
		if refused(t, err, roster.Unauthorized, "api_key_invalid"); app != uuid.Nil {
			t.Errorf("%q is told app %s", wrong, app)
		}
	}
	if n := rostertest.Value[int](t, b, `SELECT count(*) FROM api_key k WHERE k::text LIKE '%' || $1 || '%'`, key); n != 0 {
		t.Error("the key is stored")
	}
	done(t, b.RevokeAPIKey(t.Context(), k.ID))
	first, err := b.APIKeys(t.Context(), b.App.ID)
	done(t, err)
	b.Clock.Add(resendAfter)
	done(t, b.RevokeAPIKey(t.Context(), k.ID))
	again, err := b.APIKeys(t.Context(), b.App.ID)
	done(t, err)
	if len(first) != 1 || first[0].RevokedAt == nil || asJSON(t, again) != asJSON(t, first) {
		t.Errorf("keys: got %+v, then %+v", first, again)
	}
	_, _, err = b.AuthenticateKey(t.Context(), key)
	refused(t, err, roster.Unauthorized, "api_key_invalid")
}

func TestCreateAccount(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	n := roster.NewAccount{Kind: roster.Client, FullName: " Ann ", Email: " Ann@Example.org ", Locale: "es-mx", TimeZone: "America/Lima"}
	account, err := b.CreateAccount(t.Context(), b.App.ID, n, noKey)
	done(t, err)
	stored, err := b.Roster.Account(t.Context(), b.App.ID, account.ID)
	done(t, err)
	want := roster.Account{
		ID: account.ID, AppID: b.App.ID, Kind: roster.Client, Status: "active", FullName: "Ann", Email: "Ann@Example.org",
		Locale: "es-MX", TimeZone: "America/Lima", CreatedAt: b.Clock.Now(),
	}
	if asJSON(t, account) != asJSON(t, want) || asJSON(t, stored) != asJSON(t, want) {
		t.Errorf("got %+v, stored %+v", account, stored)
	}
	for code, edit := range map[string]func(*roster.NewAccount){
		"email_in_use":      func(n *roster.NewAccount) { n.Email = "ANN@example.org" },
		"kind_unknown":      func(n *roster.NewAccount) { n.Kind = "friend" },
		"email_invalid":     func(n *roster.NewAccount) { n.Email = "ann" },
		"name_missing":      func(n *roster.NewAccount) { n.FullName = "" },
		"locale_invalid":    func(n *roster.NewAccount) { n.Locale = strings.Repeat("x", 40) },
		"time_zone_invalid": func(n *roster.NewAccount) { n.TimeZone = "Local" },
	} {
		bad := n
		edit(&bad)
		if _, err := b.CreateAccount(t.Context(), b.App.ID, bad, noKey); roster.CodeOf(err) != code {
			t.Errorf("got %v, want %s", err, code)
		}
	}
	b.Exec(t, `UPDATE account SET status = 'archived' WHERE id = $1`, account.ID)
	_, err = b.CreateAccount(t.Context(), b.App.ID, n, noKey)
	done(t, err)
}

func TestNamesAndNotes(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	long := strings.Repeat("é", 120)
	for name, want := range map[string]string{
		"Ann": "Ann", " Ann\u00a0Lee\t": "Ann\u00a0Lee", "Jose\u0301": "Jos\u00e9", long: long, "Dr. www": "Dr. www", "李小龍": "李小龍",
		"": "name_missing", " \n": "name_missing", long + "é": "name_too_long", "Ann\nLee": "name_invalid", "Ann\x00": "name_invalid",
		"Ann\u202e": "name_invalid", "Ann\u2028Lee": "name_invalid", "Ann\xff": "name_invalid",
		"Win at HTTPS://x.example": "name_has_url", "see WWW.x.example": "name_has_url",
	} {
		company, err := b.CreateCompany(t.Context(), b.App.ID, name, "", noKey)
		if got := company.Name; err == nil && got != want || err != nil && roster.CodeOf(err) != want {
			t.Errorf("name %q: got %q, %v, want %s", name, got, err, want)
		}
	}
	long = strings.Repeat("é", 1000)
	for note, want := range map[string]string{
		"": "", " Hello,\r\n\r\n\tAnn \n": "Hello,\n\n\tAnn", long: long, "cafe\u0301": "caf\u00e9", //nolint:gocritic // the blanks are what is tested
		long + "é": "message_too_long", "a\rb": "message_invalid", "a\x00b": "message_invalid", "a\u2066b": "message_invalid", "\xff": "message_invalid",
	} {
		row := b.Row(uuid.NewString() + "@example.org")
		row.Note = note
		out := b.Create(t, row)[0]
		if got := out.Invitation.Note; out.Err == nil && got != want || out.Err != nil && roster.CodeOf(out.Err) != want {
			t.Errorf("note %q: got %q, %v, want %s", note, got, out.Err, want)
		}
	}
}

func TestCompaniesAndWorkspaces(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	ctx, app := t.Context(), b.App.ID
	row := b.Row("ann@example.org")
	row.ActorID = b.Outsider.ID
	refused(t, b.Create(t, row)[0].Err, roster.Forbidden, "actor_not_allowed")
	done(t, b.SetCompanyMember(ctx, app, b.Company.ID, b.Outsider.ID, roster.RoleAdmin, noKey))
	done(t, b.Create(t, row)[0].Err)
	done(t, b.SetCompanyMember(ctx, app, b.Company.ID, b.Outsider.ID, roster.RoleMember, noKey))
	refused(t, b.Create(t, row)[0].Err, roster.Forbidden, "actor_not_allowed")
	refused(t, b.SetCompanyMember(ctx, app, b.Company.ID, b.Outsider.ID, "owner", noKey), roster.Invalid, "role_unknown")
	refused(t, b.SetCompanyMember(ctx, app, uuid.New(), b.Outsider.ID, roster.RoleAdmin, noKey), roster.NotFound, "company_not_found")
	refused(t, b.SetCompanyMember(ctx, app, b.Company.ID, uuid.New(), roster.RoleAdmin, noKey), roster.NotFound, "account_not_found")

	// An admin of another company has no say.
	company, err := b.CreateCompany(ctx, app, "Elsewhere", "", noKey)
	done(t, err)
	done(t, b.SetCompanyMember(ctx, app, company.ID, b.Outsider.ID, roster.RoleAdmin, noKey))
	refused(t, b.Create(t, row)[0].Err, roster.Forbidden, "actor_not_allowed")

	workspace, err := b.CreateWorkspace(ctx, app, roster.NewWorkspace{CompanyID: company.ID, Name: "No owner yet"}, noKey)
	done(t, err)
	members, err := b.Members(ctx, app, workspace.ID, uuid.Nil, 10)
	if done(t, err); len(members) != 0 {
		t.Errorf("members: got %+v", members)
	}
	for _, email := range []string{"one@example.org", "two@example.org", "three@example.org"} {
		accept(t, b, b.Invite(t, email))
	}
	var emails []string
	after := uuid.Nil
	for {
		page, err := b.Members(ctx, app, b.Workspace.ID, after, 2)
		done(t, err)
		for _, m := range page {
			emails, after = append(emails, m.Email+" "+m.Role+" "+m.State), m.AccountID
		}
		if len(page) < 2 {
			break
		}
	}
	want := []string{
		b.Stakeholder.Email + " stakeholder active", "one@example.org client_user active",
		"two@example.org client_user active", "three@example.org client_user active",
	}
	if !slices.Equal(emails, want) {
		t.Errorf("members page by page: got %q, want %q", emails, want)
	}
}
