package main

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"usher/internal/postgres/postgrestest"
)

// site is a running installation as an app and its people see it.
type site struct {
	url       string // Usher's public address
	key       string // API key
	actor     string // account that invites
	inviter   string // its address
	name      string // its name
	company   string
	workspace string
	transport http.RoundTripper // nil: the usual one
}

// invitation is what the API says of one.
type invitation struct {
	ID        string `json:"id"`
	State     string `json:"state"`
	Delivery  string `json:"delivery"`
	Email     string `json:"email"`
	AccountID string `json:"account_id"`
	Link      string `json:"link"`
	Duplicate bool   `json:"duplicate"`
}

// letter is a mail in the development mailbox.
type letter struct {
	ID, To, Subject, Text, HTML string
	Links                       []string
}

// call calls the API and decodes the answer into out, which may be nil.
func (s site) call(ctx context.Context, method, path string, in, out any) error {
	var body io.Reader
	if in != nil {
		raw, err := json.Marshal(in)
		if err != nil {
			return err
		}
		body = bytes.NewReader(raw)
	}
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+s.key)
	req.Header.Set("Usher-Actor", s.actor)
	req.Header.Set("Content-Type", "application/json")
	resp, err := (&http.Client{Transport: s.transport, Timeout: patience}).Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	raw, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s %s: %s: %s", method, path, resp.Status, raw)
	}
	if out == nil {
		return nil
	}
	return json.Unmarshal(raw, out)
}

// must calls the API and fails the test unless it answers 2xx.
func (s site) must(t testing.TB, method, path string, in, out any) {
	t.Helper()
	if err := s.call(t.Context(), method, path, in, out); err != nil {
		t.Fatal(err)
	}
}

// invite invites an address by the API.
func (s site) invite(t testing.TB, email, name, locale string) (inv invitation) {
	t.Helper()
	s.must(t, http.MethodPost, "/v1/invitations", map[string]any{
		"kind": "new_user", "email": email, "full_name": name, "workspace_id": s.workspace,
		"locale": locale, "message": "See you on Monday.",
	}, &inv)
	return inv
}

// mail waits for the mail to an address that want picks.
func (s site) mail(t testing.TB, to string, want func(letter) bool) (found letter) {
	t.Helper()
	eventually(t, "mail to "+to, func() (bool, error) {
		var letters []letter
		if err := s.call(t.Context(), http.MethodGet, "/dev/mailbox.json?to="+url.QueryEscape(to), nil, &letters); err != nil {
			return false, err
		}
		i := slices.IndexFunc(letters, want)
		if i < 0 {
			return false, nil
		}
		found = letters[i]
		return true, nil
	})
	return found
}

// browse opens a page, by GET or with a form by POST, and returns its text.
func (s site) browse(t testing.TB, person *http.Client, page string, form url.Values) string {
	t.Helper()
	method, body := http.MethodGet, ""
	if form != nil {
		method, body = http.MethodPost, form.Encode()
	}
	req, err := http.NewRequestWithContext(t.Context(), method, page, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	}
	resp, err := person.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s\n%s", method, page, resp.Status, text)
	}
	return string(text)
}

// someAddress is an address nobody has used.
func someAddress() string { return strings.ToLower(rand.Text()) + "@client.example" }

// journey goes the whole way twice: from the POST to the mail, its link and the
// page, and on to an accepted invitation, then to a declined one.
func journey(t *testing.T, s site) {
	t.Helper()
	jar, err := cookiejar.New(nil)
	if err != nil {
		t.Fatal(err)
	}
	person := &http.Client{Transport: s.transport, Jar: jar, Timeout: patience}

	ann := someAddress()
	inv := s.invite(t, ann, "Ann Okafor", "en")
	if inv.State != "pending" || inv.Delivery != "queued" || !strings.HasPrefix(inv.Link, s.url+"/i/") {
		t.Errorf("created: %+v", inv)
	}
	if again := s.invite(t, strings.ToUpper(ann), "Ann Okafor", "en"); again.ID != inv.ID || !again.Duplicate {
		t.Errorf("created again: %+v, want %s as a duplicate", again, inv.ID)
	}
	got := s.mail(t, ann, func(letter) bool { return true })
	for _, part := range []string{got.Text, got.HTML} {
		if !strings.Contains(part, inv.Link) || !strings.Contains(part, s.name) || !strings.Contains(part, "See you on Monday.") {
			t.Errorf("the mail lacks the link %s, the inviter or the message:\n%s", inv.Link, part)
		}
	}
	if !slices.Contains(got.Links, inv.Link) || got.To != ann || got.Subject == "" {
		t.Errorf("mailbox: to %q, subject %q, links %q; want link %q", got.To, got.Subject, got.Links, inv.Link)
	}
	if page := s.browse(t, person, inv.Link, nil); !strings.Contains(page, `name="password"`) || !strings.Contains(page, ann) {
		t.Errorf("the invitation's page has no form for %s:\n%s", ann, page)
	}
	if s.read(t, inv.ID).State != "pending" {
		t.Error("opening the page decided the invitation")
	}
	accepted := s.browse(t, person, inv.Link+"/accept", url.Values{"full_name": {"Ann Okafor"}, "password": {"seven green boats"}})
	if !strings.Contains(accepted, "You have accepted the invitation") {
		t.Errorf("after accepting, the page says:\n%s", accepted)
	}
	done := s.read(t, inv.ID)
	if done.State != "accepted" || done.AccountID == "" {
		t.Errorf("accepted: %+v", done)
	}
	if role := s.members(t)[done.AccountID]; role != "client_user" {
		t.Errorf("role %q in the workspace, want client_user", role)
	}
	news := s.mail(t, s.inviter, func(l letter) bool { return strings.Contains(l.Text, ann) })
	if !strings.Contains(news.Text, "Ann Okafor") || !strings.Contains(strings.ToLower(news.Text), "accepted") {
		t.Errorf("the inviter reads:\n%s", news.Text)
	}

	ben := someAddress()
	inv = s.invite(t, ben, "Ben Ruiz", "en")
	s.mail(t, ben, func(l letter) bool { return slices.Contains(l.Links, inv.Link) })
	stranger := &http.Client{Transport: s.transport, Timeout: patience}
	if page := s.browse(t, stranger, inv.Link+"/decline", url.Values{}); !strings.Contains(page, "You have declined") {
		t.Errorf("after declining, the page says:\n%s", page)
	}
	if got := s.read(t, inv.ID); got.State != "declined" || got.AccountID != "" {
		t.Errorf("declined: %+v", got)
	}
	s.mail(t, s.inviter, func(l letter) bool {
		return strings.Contains(l.Text, ben) && strings.Contains(strings.ToLower(l.Text), "declined")
	})
	var letters []letter
	s.must(t, http.MethodGet, "/dev/mailbox.json?to="+url.QueryEscape(ann), nil, &letters)
	if len(letters) != 1 {
		t.Errorf("%s has %d mails, want 1", ann, len(letters))
	}
}

func (s site) read(t testing.TB, id string) (inv invitation) {
	t.Helper()
	s.must(t, http.MethodGet, "/v1/invitations/"+id, nil, &inv)
	return inv
}

// members are the workspace's accounts and their roles.
func (s site) members(t testing.TB) map[string]string {
	t.Helper()
	var list struct {
		Items []struct {
			AccountID string `json:"account_id"`
			Role      string
			State     string
		}
	}
	s.must(t, http.MethodGet, "/v1/workspaces/"+s.workspace+"/members?limit=200", nil, &list)
	roles := map[string]string{}
	for _, m := range list.Items {
		if m.State == "active" {
			roles[m.AccountID] = m.Role
		}
	}
	return roles
}

// runEverything starts `usher run` in dir and waits until it answers.
func runEverything(t testing.TB, dir string, env ...string) (*process, site) {
	t.Helper()
	p := start(t, dir, append(env, "PORT=0", "LOG_FORMAT=json"), "run")
	p.address(t)
	p.logged(t, "workers are at work")
	raw, err := os.ReadFile(filepath.Join(dir, ".usher", "demo.json"))
	if err != nil {
		t.Fatal(err)
	}
	var d demo
	if err := json.Unmarshal(raw, &d); err != nil {
		t.Fatal(err)
	}
	return p, site{url: d.URL, key: d.APIKey, actor: d.AccountID, workspace: d.WorkspaceID, inviter: "bea@harbour.example", name: "Bea Moreno"}
}

// TestRun goes the stranger's way: an empty folder, one command, the curl line
// it prints.
func TestRun(t *testing.T) {
	t.Parallel()
	dir := tempDir(t)
	first, s := runEverything(t, dir)

	// The printed line works as it is.
	var line string
	for text := range strings.Lines(first.stdout.String()) {
		if strings.HasPrefix(text, "curl ") {
			line = strings.TrimSpace(text)
		}
	}
	if line == "" {
		t.Fatalf("no curl line is printed:\n%s", first.stdout.String())
	}
	inv := paste(t, line)
	if inv.State != "pending" {
		t.Errorf("%s answers %+v", line, inv)
	}
	s.mail(t, "ann@client.example", func(l letter) bool { return slices.Contains(l.Links, inv.Link) })
	if !strings.Contains(first.stdout.String(), s.url+"/dev/mailbox") {
		t.Errorf("the mailbox's address is not printed:\n%s", first.stdout.String())
	}
	journey(t, s)

	// A second one in the same folder steps back.
	second := command(t, dir, []string{"PORT=0"}, "run").toEnd(t)
	if code := second.ProcessState.ExitCode(); code != exitFailure {
		t.Errorf("a second run in the same folder ended with code %d", code)
	}
	if said := second.stderr.String(); !strings.Contains(said, fmt.Sprint(first.Process.Pid)) || strings.Count(said, "usher: ") != 1 {
		t.Errorf("a second run in the same folder says %q; want one error that names process %d", said, first.Process.Pid)
	}
	if state := s.read(t, inv.ID).State; state != "pending" {
		t.Errorf("after the second run, the first one's invitation is %s", state)
	}
	first.finish(t)
	noPostgres(t, dir)

	// The data stays, and what was printed goes on working.
	again, kept := runEverything(t, dir)
	if kept.key != s.key || kept.workspace != s.workspace {
		t.Errorf("the second start has key %s and workspace %s, the first had %s and %s", kept.key, kept.workspace, s.key, s.workspace)
	}
	if got := kept.read(t, inv.ID); got.State != "pending" || got.Delivery != "accepted" {
		t.Errorf("after a restart: %+v", got)
	}
	_, path, _ := strings.Cut(inv.Link, "/i/") // the port is another one
	if page := kept.browse(t, http.DefaultClient, kept.url+"/i/"+path, nil); !strings.Contains(page, `name="password"`) {
		t.Errorf("the link of before the restart shows\n%s", page)
	}
	again.finish(t)
	noPostgres(t, dir)
}

// paste runs a line as a person would. Where there is no curl, the request is
// read off it.
func paste(t testing.TB, line string) (inv invitation) {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), "sh", "-c", line).Output()
	var exited *exec.ExitError
	if errors.As(err, &exited) && exited.ExitCode() == 127 { // the shell's "not found"
		out, err = withoutCurl(t.Context(), line)
	}
	if err != nil {
		t.Fatalf("%s: %v", line, err)
	}
	if err := json.Unmarshal(out, &inv); err != nil {
		t.Fatalf("%s answers %s", line, out)
	}
	return inv
}

// withoutCurl does what `curl -s URL -H '…' … -d '…'` does.
func withoutCurl(ctx context.Context, line string) ([]byte, error) {
	quoted := strings.Split(line, "'")
	body := quoted[len(quoted)-2]
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.Fields(line)[2], strings.NewReader(body))
	if err != nil {
		return nil, err
	}
	for i := 1; i < len(quoted)-2; i += 2 {
		name, value, _ := strings.Cut(quoted[i], ": ")
		req.Header.Set(name, value)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	return io.ReadAll(resp.Body)
}

// noPostgres fails the test if a server's process is left below dir.
func noPostgres(t testing.TB, dir string) {
	t.Helper()
	pidFiles, err := filepath.Glob(filepath.Join(dir, ".usher", "*", "data", "postmaster.pid"))
	if err != nil {
		t.Fatal(err)
	}
	if len(pidFiles) > 0 {
		t.Errorf("%s is left", pidFiles)
	}
	for _, process := range postgresProcesses(t) {
		if cwd, err := os.Readlink(filepath.Join(process, "cwd")); err == nil && strings.HasPrefix(cwd, dir) {
			t.Errorf("process %s still works in %s", process, cwd)
		}
	}
}

// postgresProcesses are the folders of live servers' processes below /proc;
// none on systems without it.
func postgresProcesses(t testing.TB) []string {
	t.Helper()
	all, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		t.Fatal(err)
	}
	return slices.DeleteFunc(all, func(process string) bool {
		name, err := os.ReadFile(filepath.Join(process, "comm"))
		return err != nil || strings.TrimSpace(string(name)) != "postgres"
	})
}

// environment is what the processes of an installation on a database get.
func environment(database string, more ...string) []string {
	return append([]string{
		"DATABASE_URL=" + database, "PORT=0", "LOG_FORMAT=json", "USHER_DEV=1",
		"USHER_SECRET=" + testSecret, "USHER_URL=http://invite.example",
	}, more...)
}

// balancer spreads requests over web processes, each in turn, as the load
// balancer behind a public address does.
type balancer struct {
	addresses []string
	next      atomic.Uint64
	answered  []atomic.Uint64 // by each
}

func newBalancer(addresses ...string) *balancer {
	return &balancer{addresses: addresses, answered: make([]atomic.Uint64, len(addresses))}
}

func (b *balancer) RoundTrip(req *http.Request) (*http.Response, error) {
	i := int(b.next.Add(1)) % len(b.addresses)
	out := req.Clone(req.Context())
	out.Host, out.URL.Host = req.URL.Host, b.addresses[i]
	resp, err := http.DefaultTransport.RoundTrip(out)
	if err == nil {
		b.answered[i].Add(1)
		resp.Request = req
	}
	return resp, err
}

// handTool runs a hand tool and decodes the JSON it prints.
func handTool(t testing.TB, env []string, out any, args ...string) {
	t.Helper()
	p := command(t, t.TempDir(), env, append(args, "--json")...).toEnd(t)
	if code := p.ProcessState.ExitCode(); code != 0 {
		t.Fatalf("usher %s ended with code %d: %s", strings.Join(args, " "), code, p.stderr.String())
	}
	if err := json.Unmarshal([]byte(p.stdout.String()), out); err != nil {
		t.Fatalf("usher %s printed %s: %v", strings.Join(args, " "), p.stdout.String(), err)
	}
}

// newSite makes an app with its people: the app and its key by hand, the rest by
// the API.
func newSite(t testing.TB, env []string, transport http.RoundTripper) site {
	t.Helper()
	var app, key struct{ ID, Key string }
	handTool(t, env, &app, "apps", "create", "--name", "Lighthouse")
	handTool(t, env, &key, "keys", "create", "--app", app.ID)
	s := site{url: "http://invite.example", key: key.Key, inviter: "marie@lighthouse.example", name: "Marie Dupont", transport: transport}
	var made struct{ ID string }
	s.must(t, http.MethodPost, "/v1/accounts", map[string]string{"kind": "professional", "full_name": s.name, "email": s.inviter}, &made)
	s.actor = made.ID
	s.must(t, http.MethodPost, "/v1/companies", map[string]string{"name": "Lighthouse Physio"}, &made)
	s.company = made.ID
	s.must(t, http.MethodPost, "/v1/companies/"+s.company+"/members", map[string]string{"account_id": s.actor, "role": "admin"}, nil)
	s.must(t, http.MethodPost, "/v1/workspaces", map[string]string{"company_id": s.company, "name": "Ann - Private", "owner_id": s.actor}, &made)
	s.workspace = made.ID
	return s
}

// TestProcessesApart goes the same way as TestRun through the Procfile's
// processes, two of each.
func TestProcessesApart(t *testing.T) {
	t.Parallel()
	env := environment(postgrestest.DatabaseURL(t))
	if code := command(t, t.TempDir(), env, "migrate").toEnd(t).ProcessState.ExitCode(); code != 0 {
		t.Fatalf("usher migrate ended with code %d", code)
	}
	var all []*process
	for _, name := range []string{"web", "web", "worker", "worker"} {
		all = append(all, start(t, t.TempDir(), env, name))
	}
	b := newBalancer(all[0].address(t), all[1].address(t))
	for _, worker := range all[2:] {
		worker.logged(t, "workers are at work")
	}
	journey(t, newSite(t, env, b))
	for i := range b.answered {
		if b.answered[i].Load() < 5 {
			t.Errorf("web process %d answered %d requests", i, b.answered[i].Load())
		}
	}
	for _, p := range all {
		p.finish(t)
	}
}
