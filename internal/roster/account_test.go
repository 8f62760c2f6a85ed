package roster_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"usher/internal/roster"
	"usher/internal/roster/rostertest"
)

func TestUsernames(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	other := b.Another(t)
	create := func(app uuid.UUID, email, username string) (roster.Account, error) {
		return b.CreateAccount(t.Context(), app, roster.NewAccount{
			Kind: roster.Client, FullName: "Ann", Email: email, Username: username,
		}, keyFor(newKey(), ""))
	}
	ann, err := create(b.App.ID, "ann@example.org", " Ann.O+1 ")
	done(t, err)
	if ann.Username != "ann.o+1" {
		t.Errorf("username: got %q", ann.Username)
	}
	_, err = create(b.App.ID, "bob@example.org", "ANN.O+1")
	refused(t, err, roster.Conflict, "username_taken")
	_, err = create(other.App.ID, "bob@example.org", "ann.o+1")
	done(t, err) // names are the app's own
	for _, name := range []string{"a", strings.Repeat("a", 65), "-ann", "ann.", "ann@example.org", "ann bee", "änn", "ann\x00", "ann\nbee"} {
		_, err := create(b.App.ID, "bob@example.org", name)
		refused(t, err, roster.Invalid, "username_invalid")
	}
	for _, name := range []string{"admin", "Support", "no-reply"} {
		_, err := create(b.App.ID, "bob@example.org", name)
		refused(t, err, roster.Invalid, "username_reserved")
	}
	bob, err := create(b.App.ID, "bob@example.org", "")
	done(t, err)
	_, err = b.ChangeAccount(t.Context(), b.App.ID, bob.ID, roster.AccountChange{Username: ptr("ann.o+1")}, keyFor("change", ""))
	refused(t, err, roster.Conflict, "username_taken")
	_, err = b.ArchiveAccount(t.Context(), b.App.ID, ann.ID, noKey)
	done(t, err)
	_, err = b.ChangeAccount(t.Context(), b.App.ID, bob.ID, roster.AccountChange{Username: ptr("ann.o+1")}, keyFor("change again", ""))
	refused(t, err, roster.Conflict, "username_taken") // nobody comes to be who another was
}

func TestSecondaryEmails(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	create := func(emails ...string) (roster.Account, error) {
		return b.CreateAccount(t.Context(), b.App.ID, roster.NewAccount{
			Kind: roster.Client, FullName: "Ann", Email: "ann@example.org", SecondaryEmails: emails,
		}, keyFor(strings.Join(emails, ","), ""))
	}
	_, err := create("ann@home.example", "not an address")
	refused(t, err, roster.Invalid, "email_invalid")
	_, err = create("ANN@example.org")
	refused(t, err, roster.Invalid, "email_is_primary")
	_, err = create(slices.Repeat([]string{"ann@home.example"}, 11)...)
	refused(t, err, roster.Invalid, "too_many_emails")
	ann, err := create("Ann@Home.example", "ann@home.EXAMPLE", "stan@greenvalley.example")
	done(t, err)
	want := []string{"Ann@Home.example", "stan@greenvalley.example"} // another account's own address may be one
	if stored, err := b.Account(t.Context(), b.App.ID, ann.ID); err != nil || !slices.Equal(stored.SecondaryEmails, want) || !slices.Equal(ann.SecondaryEmails, want) {
		t.Errorf("secondary addresses: got %q, stored %q, %v", ann.SecondaryEmails, stored.SecondaryEmails, err)
	}
	change := func(emails ...string) (roster.Account, error) {
		return b.ChangeAccount(t.Context(), b.App.ID, ann.ID, roster.AccountChange{SecondaryEmails: &emails}, keyFor("change"+strings.Join(emails, ","), ""))
	}
	_, err = change("ann@example.org")
	refused(t, err, roster.Invalid, "email_is_primary")
	ann, err = change("ann@work.example", "ann@home.example")
	done(t, err)
	if want := []string{"ann@home.example", "ann@work.example"}; !slices.Equal(ann.SecondaryEmails, want) { // the older one first
		t.Errorf("changed: got %q", ann.SecondaryEmails)
	}
	ann, err = change()
	done(t, err)
	if len(ann.SecondaryEmails) != 0 {
		t.Errorf("forgotten: got %q", ann.SecondaryEmails)
	}
}

func TestChangeAccount(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	before, err := b.Account(t.Context(), b.App.ID, b.Outsider.ID)
	done(t, err)
	changed, err := b.ChangeAccount(t.Context(), b.App.ID, b.Outsider.ID, roster.AccountChange{}, noKey)
	done(t, err)
	if asJSON(t, changed) != asJSON(t, before) {
		t.Errorf("nothing asked for: got %+v, want %+v", changed, before)
	}
	changed, err = b.ChangeAccount(t.Context(), b.App.ID, b.Outsider.ID, roster.AccountChange{
		FullName: ptr("Zoë Quist"), Locale: ptr("fr"), TimeZone: ptr("Europe/Paris"), Username: ptr("zoe"),
	}, noKey)
	done(t, err)
	if changed.FullName != "Zoë Quist" || changed.Locale != "fr" || changed.TimeZone != "Europe/Paris" || changed.Username != "zoe" || changed.Email != before.Email {
		t.Errorf("changed: got %+v", changed)
	}
	if names := search(t, b, roster.AccountList{Query: "olga other"}); len(names) != 0 {
		t.Errorf("found by the name she had: %q", names)
	}
	if names := search(t, b, roster.AccountList{Query: "zoe"}); !slices.Equal(names, []string{"Zoë Quist"}) {
		t.Errorf("found by her name: %q", names)
	}
	for _, c := range []roster.AccountChange{{FullName: ptr("")}, {Locale: ptr("??")}, {TimeZone: ptr("Mars/Base")}, {Username: ptr("@")}} {
		_, err := b.ChangeAccount(t.Context(), b.App.ID, b.Outsider.ID, c, noKey)
		refused(t, err, roster.Invalid, roster.CodeOf(err))
	}
	_, err = b.ArchiveAccount(t.Context(), b.App.ID, b.Outsider.ID, noKey)
	done(t, err)
	_, err = b.ChangeAccount(t.Context(), b.App.ID, b.Outsider.ID, roster.AccountChange{FullName: ptr("Zoë")}, noKey)
	if e := refused(t, err, roster.Conflict, "account_archived"); e.State != "archived" {
		t.Errorf("what stands: got %q", e.State)
	}
}

func TestArchiveAccount(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	done(t, b.SetCompanyMember(t.Context(), b.App.ID, b.Company.ID, b.Stakeholder.ID, roster.RoleMember, noKey))
	session, _, err := b.StartSession(t.Context(), b.App.ID, b.Stakeholder.ID)
	done(t, err)
	_, _, err = b.AddRecord(t.Context(), b.App.ID, b.Stakeholder.ID, "programme", "1", noKey)
	done(t, err)
	inv := b.Invite(t, "ann@example.org")
	for range 2 { // the second time is a success that changes nothing
		account, err := b.ArchiveAccount(t.Context(), b.App.ID, b.Stakeholder.ID, noKey)
		done(t, err)
		if account.Status != "archived" {
			t.Errorf("status: got %q", account.Status)
		}
	}
	if _, ok, err := b.SessionAccount(t.Context(), session); ok || err != nil {
		t.Errorf("the session goes on (%v)", err)
	}
	for what, sql := range map[string]string{
		"sessions":           `SELECT count(*) FROM session WHERE account_id = $1`,
		"search keys":        `SELECT count(*) FROM account_search WHERE account_id = $1`,
		"companies":          `SELECT count(*) FROM company_member WHERE account_id = $1`,
		"active memberships": `SELECT count(*) FROM membership WHERE account_id = $1 AND (state = 'active' OR archived_at IS NULL)`,
		"second events":      `SELECT count(*) - 1 FROM event WHERE type = 'account.archived' AND subject_id = $1`,
	} {
		if n := rostertest.Value[int](t, b, sql, b.Stakeholder.ID); n != 0 {
			t.Errorf("%s: %d", what, n)
		}
	}
	if got := reread(t, b, inv); got.State != roster.OnHold || got.HeldFor != "inviter" {
		t.Errorf("their invitation: got %s, held for %q", got.State, got.HeldFor)
	}
	if records, err := b.Records(t.Context(), b.App.ID, uuid.Nil, b.Stakeholder.ID, uuid.Nil, 10); err != nil || len(records) != 1 {
		t.Errorf("records: got %d, %v", len(records), err)
	}
	again := b.NewAccount(t, roster.Professional, "Stan Holder", b.Stakeholder.Email)
	if again.ID == b.Stakeholder.ID {
		t.Error("the address is not free")
	}
	_, err = b.CreateWorkspace(t.Context(), b.App.ID, roster.NewWorkspace{CompanyID: b.Company.ID, Name: "Late", OwnerID: b.Stakeholder.ID}, noKey)
	refused(t, err, roster.Conflict, "account_archived")
	err = b.SetCompanyMember(t.Context(), b.App.ID, b.Company.ID, b.Stakeholder.ID, roster.RoleAdmin, noKey)
	refused(t, err, roster.Conflict, "account_archived")
}

func TestRecords(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	other := b.Another(t)
	add := func(b *rostertest.Bundle, account uuid.UUID, kind, id string) (roster.Record, bool, error) {
		return b.AddRecord(t.Context(), b.App.ID, account, kind, id, keyFor(newKey(), ""))
	}
	first, added, err := add(b, b.Outsider.ID, "programme", "4711")
	done(t, err)
	if !added || first.Kind != "programme" || first.ExternalID != "4711" || first.AccountID != b.Outsider.ID {
		t.Errorf("added: got %+v", first)
	}
	again, added, err := add(b, b.Outsider.ID, "programme", "4711")
	if err != nil || added || asJSON(t, again) != asJSON(t, first) {
		t.Errorf("added again: got %+v, %v", again, err)
	}
	_, _, err = add(b, b.Admin.ID, "programme", "4711")
	refused(t, err, roster.Conflict, "record_elsewhere")
	_, added, err = add(b, b.Admin.ID, "data", "4711")
	if err != nil || !added {
		t.Errorf("of another kind: %v, %v", added, err)
	}
	theirs, added, err := add(other, other.Outsider.ID, "programme", "4711")
	if err != nil || !added {
		t.Errorf("in another app: %v, %v", added, err)
	}
	for code, bad := range map[string][2]string{
		"kind_invalid": {"Programme!", "1"}, "external_id_missing": {"programme", " "},
		"external_id_too_long": {"programme", strings.Repeat("ü", 201)}, "external_id_invalid": {"programme", "a\nb"},
	} {
		_, _, err := add(b, b.Outsider.ID, bad[0], bad[1])
		refused(t, err, roster.Invalid, code)
	}
	second, _, err := add(b, b.Outsider.ID, "programme", strings.Repeat("ü", 200))
	done(t, err)
	page, err := b.Records(t.Context(), b.App.ID, uuid.Nil, b.Outsider.ID, first.ID, 10)
	done(t, err)
	if len(page) != 1 || page[0].ID != second.ID {
		t.Errorf("second page: got %+v", page)
	}
	_, err = b.RemoveRecord(t.Context(), b.App.ID, theirs.ID)
	refused(t, err, roster.NotFound, "record_not_found")
	removed, err := b.RemoveRecord(t.Context(), b.App.ID, first.ID)
	if err != nil || removed.ID != first.ID {
		t.Errorf("removed: got %+v, %v", removed, err)
	}
	_, err = b.RemoveRecord(t.Context(), b.App.ID, first.ID)
	refused(t, err, roster.NotFound, "record_not_found")
	_, err = b.ArchiveAccount(t.Context(), b.App.ID, b.Outsider.ID, noKey)
	done(t, err)
	_, _, err = add(b, b.Outsider.ID, "programme", "late")
	refused(t, err, roster.Conflict, "account_archived")
	if got := rostertest.Column[string](t, b, `SELECT type FROM event WHERE subject_id = $1 AND type LIKE 'record.%' ORDER BY id`, b.Outsider.ID); !slices.Equal(got,
		[]string{"record.added", "record.added", "record.removed"}) {
		t.Errorf("events: got %q", got)
	}
}

func newKey() string { return uuid.NewString() }

// search gives the names of the accounts that are found, in their order.
func search(t *testing.T, b *rostertest.Bundle, l roster.AccountList) (names []string) {
	t.Helper()
	if l.Limit == 0 {
		l.Limit = 20
	}
	found, err := b.Accounts(t.Context(), b.App.ID, l)
	done(t, err)
	for _, a := range found {
		names = append(names, a.FullName)
	}
	return names
}

func TestSearch(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	b.Exec(t, `DELETE FROM account_search`)
	for email, name := range map[string]string{
		"maria@north.example": "María Lindqvist", "mark@north.example": "Mark Linden", "ml@south.example": "Anna Maria Malmö",
		"100%_sure@south.example": "Percy O’Brien", "jl@south.example": "Jean-Luc Picard", "x@mango.example": "Ørsted Ångström",
	} {
		b.NewAccount(t, roster.Client, name, email)
	}
	pro := b.NewAccount(t, roster.Professional, "Marion Pro", "marion@north.example")
	done(t, b.SetCompanyMember(t.Context(), b.App.ID, b.Company.ID, pro.ID, roster.RoleMember, noKey))
	for query, want := range map[string][]string{
		"m":                   {"Anna Maria Malmö", "María Lindqvist", "Marion Pro", "Mark Linden"},
		"ma":                  {"Anna Maria Malmö", "María Lindqvist", "Marion Pro", "Mark Linden"},
		"maria":               {"Anna Maria Malmö", "María Lindqvist"},
		"MARÍA":               {"Anna Maria Malmö", "María Lindqvist"},
		"mari\u0301a  ":       {"Anna Maria Malmö", "María Lindqvist"},
		"lind ma":             {"Mark Linden", "María Lindqvist"},
		"ma lind":             {"Mark Linden", "María Lindqvist"},
		"ma lindq":            {"María Lindqvist"},
		"malmo anna":          {"Anna Maria Malmö"},
		"ma ma":               {"Anna Maria Malmö", "María Lindqvist", "Marion Pro", "Mark Linden"},
		"lind xy":             nil,
		"aria":                nil,
		"obrien":              nil,
		"o brien":             {"Percy O’Brien"},
		"o'brien":             {"Percy O’Brien"},
		"jean-luc":            {"Jean-Luc Picard"},
		"orsted":              {"Ørsted Ångström"},
		"angstrom":            {"Ørsted Ångström"},
		"mark@":               {"Mark Linden"},
		"MARK@North.Example":  {"Mark Linden"},
		"100%":                {"Percy O’Brien"},
		"100%_s":              {"Percy O’Brien"},
		"%":                   nil,
		"_":                   nil,
		"m%":                  nil,
		"mar_on":              nil,
		"\\":                  nil,
		"m\\":                 nil,
		"@":                   nil,
		"....":                nil,
		"anna maria malmo xx": nil,
		"m \xff":              {"Anna Maria Malmö", "María Lindqvist", "Marion Pro", "Mark Linden"},
	} {
		got := search(t, b, roster.AccountList{Query: query})
		slices.Sort(got)
		slices.Sort(want)
		if !slices.Equal(got, want) {
			t.Errorf("%q: got %q, want %q", query, got, want)
		}
	}
	if got := search(t, b, roster.AccountList{Query: "m"}); !slices.Equal(got, []string{"Anna Maria Malmö", "María Lindqvist", "Marion Pro", "Mark Linden"}) {
		t.Errorf("in order: got %q", got) // malmo anna maria, maria lindqvist, marion pro, mark linden
	}
	if got := search(t, b, roster.AccountList{Query: "m", Limit: 2}); !slices.Equal(got, []string{"Anna Maria Malmö", "María Lindqvist"}) {
		t.Errorf("the first two: got %q", got)
	}
	if got := search(t, b, roster.AccountList{Query: "mar", Kind: roster.Professional}); !slices.Equal(got, []string{"Marion Pro"}) {
		t.Errorf("professionals: got %q", got)
	}
	for _, query := range []string{"m", "pro ma", "marion@"} {
		if got := search(t, b, roster.AccountList{Query: query, Company: b.Company.ID}); !slices.Equal(got, []string{"Marion Pro"}) {
			t.Errorf("%q among colleagues: got %q", query, got)
		}
	}
	if got := search(t, b, roster.AccountList{Query: "mark", Company: b.Company.ID}); len(got) != 0 {
		t.Errorf("no colleague: got %q", got)
	}
	_, err := b.Accounts(t.Context(), b.App.ID, roster.AccountList{Query: strings.Repeat("m", 255), Limit: 1})
	refused(t, err, roster.Invalid, "query_too_long")
}

// However many names begin alike, somebody is found by two of theirs.
func TestSearchAmongMany(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	b.Exec(t, `
		WITH a AS (
			INSERT INTO account (id, app_id, kind, status, full_name, email, email_key, created_at)
			SELECT gen_random_uuid(), $1, 'client', 'active', 'Ma' || n || ' Common', n || '@many.example', n || '@many.example', now()
			FROM generate_series(1, 6000) n RETURNING *
		) INSERT INTO account_search (app_id, kind, key, account_id) SELECT app_id, kind, key, id FROM a, search_keys(full_name, email_key) AS key`, b.App.ID)
	b.NewAccount(t, roster.Client, "Mz Obscure", "mz@many.example")
	for _, query := range []string{"mz obs", "m o", "obs m"} {
		if got := search(t, b, roster.AccountList{Query: query}); !slices.Equal(got, []string{"Mz Obscure"}) {
			t.Errorf("%q: got %q", query, got)
		}
	}
	if got := search(t, b, roster.AccountList{Query: "comm ma5999", Limit: 200}); !slices.Equal(got, []string{"Ma5999 Common"}) {
		t.Errorf("got %q", got)
	}
	if got := search(t, b, roster.AccountList{Query: "ma", Limit: 200}); len(got) != 200 {
		t.Errorf("got %d of 200", len(got))
	}
}

func TestListAccounts(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	done(t, b.SetCompanyMember(t.Context(), b.App.ID, b.Company.ID, b.Outsider.ID, roster.RoleMember, noKey))
	client := b.NewAccount(t, roster.Client, "Cleo Client", "cleo@example.org")
	_, err := b.ArchiveAccount(t.Context(), b.App.ID, b.Stakeholder.ID, noKey)
	done(t, err)
	for _, test := range []struct {
		l    roster.AccountList
		want []string
	}{
		{roster.AccountList{}, []string{"Ada Admin", "Olga Other", "Cleo Client"}},
		{roster.AccountList{After: b.Outsider.ID}, []string{"Cleo Client"}},
		{roster.AccountList{After: client.ID}, nil},
		{roster.AccountList{Limit: 2}, []string{"Ada Admin", "Olga Other"}},
		{roster.AccountList{Kind: roster.Client}, []string{"Cleo Client"}},
		{roster.AccountList{Kind: roster.Professional}, []string{"Ada Admin", "Olga Other"}},
		{roster.AccountList{Company: b.Company.ID}, []string{"Ada Admin", "Olga Other"}},
		{roster.AccountList{Company: b.Company.ID, After: b.Admin.ID}, []string{"Olga Other"}},
		{roster.AccountList{Company: b.Company.ID, Kind: roster.Client}, nil},
	} {
		if got := search(t, b, test.l); !slices.Equal(got, test.want) {
			t.Errorf("%+v: got %q, want %q", test.l, got, test.want)
		}
	}
}
