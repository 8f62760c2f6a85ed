package main

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

// item is what the API says of an item in an inbox.
type item struct {
	ID         string
	Kind       string
	Action     string
	Workspaces []struct{ Name string }
	Invitation struct{ ID string }
}

// inbox lists an account's items that meet the query.
func (s site) inbox(t testing.TB, account, query string) []item {
	t.Helper()
	var page struct{ Items []item }
	s.actor = account
	s.must(t, http.MethodGet, "/v1/notifications?"+query, nil, &page)
	return page.Items
}

// made creates something by the API and gives its id.
func (s site) made(t testing.TB, path string, body map[string]any) string {
	t.Helper()
	var made struct{ ID string }
	s.must(t, http.MethodPost, path, body, &made)
	return made.ID
}

// TestW6: somebody who is added to further workspaces gets no mail, and one item
// in their inbox that names them all.
func TestW6(t *testing.T) {
	t.Parallel()
	i := install(t, 0)
	s := i.site
	cleo := s.made(t, "/v1/accounts", map[string]any{"kind": "professional", "full_name": "Cleo League", "email": "cleo@lighthouse.example"})
	s.must(t, http.MethodPost, "/v1/companies/"+s.company+"/members", map[string]any{"account_id": cleo, "role": "member"}, nil)
	var files []string
	for _, name := range []string{"File A", "File B", "File C"} {
		files = append(files, s.made(t, "/v1/workspaces", map[string]any{"company_id": s.company, "name": name, "owner_id": s.actor}))
	}
	var added struct{ Added int }
	s.must(t, http.MethodPost, "/v1/accounts/"+cleo+"/workspaces", map[string]any{"workspace_ids": files}, &added)
	if added.Added != 3 {
		t.Fatalf("%d were added", added.Added)
	}
	if items := s.inbox(t, cleo, ""); len(items) != 0 {
		t.Errorf("the inbox has %+v without a worker", items)
	}
	i.worker(t)
	eventually(t, "the person is told", func() (bool, error) { return len(s.inbox(t, cleo, "")) > 0, nil })
	items := s.inbox(t, cleo, "")
	var names []string
	for _, w := range items[0].Workspaces {
		names = append(names, w.Name)
	}
	if len(items) != 1 || items[0].Kind != "workspaces" || items[0].Action != "none" || !slices.Equal(names, []string{"File A", "File B", "File C"}) {
		t.Errorf("the inbox has %+v", items)
	}
	if n := i.count(t, `SELECT count(*) FROM event WHERE type = 'notification.created' AND subject_id = $1 AND jsonb_array_length(data->'workspace_ids') = 3`, items[0].ID); n != 1 {
		t.Errorf("%d events of the item", n)
	}
	if n := i.count(t, `SELECT count(*) FROM message`); n != 0 {
		t.Errorf("%d mails", n)
	}

	// With the app's policy for it: one mail of all.
	if _, err := i.pool.Exec(t.Context(), `INSERT INTO policy (app_id, version, settings, updated_at) SELECT id, 1, '{"notice_by_mail": true}', now() FROM app`); err != nil {
		t.Fatal(err)
	}
	files = nil
	for _, name := range []string{"File D", "File E"} {
		files = append(files, s.made(t, "/v1/workspaces", map[string]any{"company_id": s.company, "name": name, "owner_id": s.actor}))
	}
	s.must(t, http.MethodPost, "/v1/accounts/"+cleo+"/workspaces", map[string]any{"workspace_ids": files}, &added)
	mails, err := i.provider.MailsN(t.Context(), "cleo@lighthouse.example", 1, patience)
	if err != nil || len(mails) != 1 || !strings.Contains(mails[0].Text, "- File D\n- File E") {
		t.Errorf("mails are %+v (%v)", mails, err)
	}
}

// TestF6 invites a professional with an account by mail, who approves in the app.
func TestF6(t *testing.T) {
	t.Parallel()
	i := install(t, 0)
	i.worker(t)
	s := i.site
	pro := s.made(t, "/v1/accounts", map[string]any{"kind": "professional", "full_name": "Pro Fessional", "email": "pro@elsewhere.example"})
	var inv invitation
	s.must(t, http.MethodPost, "/v1/invitations", map[string]any{
		"kind": "external_professional", "email": "pro@elsewhere.example", "workspace_id": s.workspace, "warning": map[string]any{"acknowledged": true},
	}, &inv)
	mails, err := i.provider.MailsN(t.Context(), "pro@elsewhere.example", 1, patience)
	if err != nil || len(mails) != 1 || !strings.Contains(mails[0].Subject, "wants to share Ann - Private with you") || !strings.Contains(mails[0].Text, inv.Link) {
		t.Fatalf("mails are %+v (%v)", mails, err)
	}
	items := s.inbox(t, pro, "action=open")
	if len(items) != 1 || items[0].Invitation.ID != inv.ID {
		t.Fatalf("the inbox has %+v", items)
	}
	person := s
	person.actor = pro
	person.must(t, http.MethodPost, "/v1/notifications/"+items[0].ID+"/approve", nil, nil)
	if role := s.members(t)[pro]; role != "stakeholder" {
		t.Errorf("role %q after the approval", role)
	}
	if items := s.inbox(t, pro, ""); items[0].Action != "done" {
		t.Errorf("the item is %+v", items[0])
	}
	eventually(t, "the inviter is told", func() (bool, error) {
		mails, err := i.provider.Mails(t.Context(), s.inviter, 0)
		return len(mails) == 1 && strings.Contains(mails[0].Text, "Pro Fessional accepted your invitation"), err
	})
}
