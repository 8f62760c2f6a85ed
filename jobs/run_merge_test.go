package jobs

import (
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/riverqueue/river/rivertype"
	webhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"usher/internal/roster"
)

// mergingApp is an app's endpoint for merges. It answers with the statuses in
// their order, then with 204.
type mergingApp struct {
	*httptest.Server
	mu       sync.Mutex
	statuses []int
	calls    []mergingCall
	during   func() // while a call is answered
}

type mergingCall struct {
	name, id string
	header   http.Header
	body     []byte
}

func newMergingApp(t *testing.T, statuses ...int) *mergingApp {
	t.Helper()
	a := &mergingApp{statuses: statuses}
	a.Server = httptest.NewServer(a)
	t.Cleanup(a.Close)
	return a
}

func (a *mergingApp) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	name, _, _ := strings.Cut(strings.TrimPrefix(string(body), `{"type":"`), `"`)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls = append(a.calls, mergingCall{name, r.Header.Get("webhook-id"), r.Header, body})
	if a.during != nil {
		a.during()
	}
	status := http.StatusNoContent
	if len(a.statuses) > 0 {
		status, a.statuses = a.statuses[0], a.statuses[1:]
	}
	w.WriteHeader(status)
}

func (a *mergingApp) names() (names []string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, c := range a.calls {
		names = append(names, c.name)
	}
	return names
}

// merge confirms the merge of an account that was made meanwhile, with a record,
// for a client who has granted access. at is the app's endpoint; nil: none.
func (w *world) merge(at *mergingApp) (roster.Merge, roster.Endpoint) {
	w.t.Helper()
	ctx, r, app, none := w.t.Context(), w.worker.Roster, w.app.ID, roster.IdempotencyKey{}
	must := func(err error) {
		w.t.Helper()
		if err != nil {
			w.t.Fatal(err)
		}
	}
	if at != nil {
		w.worker.PrivateWebhooks = true
		w.worker.hooks = w.worker.deliverer()
	}
	var e roster.Endpoint
	if at != nil {
		var err error
		e, err = r.CreateEndpoint(ctx, app, roster.NewEndpoint{URL: at.URL, Merges: true, SecretKey: w.worker.Keys.ID(), Types: []string{roster.EventEndpointTest}}, none)
		must(err)
	}
	must(r.SetCompanyMember(ctx, app, w.workspace.CompanyID, w.inviter.ID, roster.RoleAdmin, none))
	own, err := r.CreateAccount(ctx, app, roster.NewAccount{Kind: roster.Client, FullName: "Cleo Client", Email: "cleo@client.dev"}, none)
	must(err)
	out, err := r.RequestAccess(ctx, app, w.inviter.ID, roster.NewAccessRequest{Option: roster.OptionTemporary, Email: "cleo@client.dev", FullName: "Cleo Client"}, none)
	must(err)
	_, _, err = r.AddRecord(ctx, app, *out.Request.MadeID, "programme", "p-1", none)
	must(err)
	_, err = r.ApproveRequestAs(ctx, app, own.ID, out.Request.ID, "", none)
	must(err)
	m, err := r.PreviewMerge(ctx, app, w.inviter.ID, out.Request.ID, uuid.Nil, none)
	must(err)
	m, err = r.ConfirmMerge(ctx, app, w.inviter.ID, m.ID, m.Hash, none)
	must(err)
	return m, e
}

func (w *world) mergeState(id uuid.UUID) string {
	w.t.Helper()
	return value[string](w, `SELECT state || ' ' || step FROM merge WHERE id = $1`, id)
}

// workMerge makes one attempt at a merge's job, which is to end it, or to be
// followed by another.
func (w *world) workMerge(kind string, ends bool) {
	w.t.Helper()
	job := w.job(kind)
	var err error
	if kind == (roster.RunMerge{}).Kind() {
		job, err = attempt(w, job, &runMerge{Worker: w.worker})
	} else {
		job, err = attempt(w, job, &undoMerge{Worker: w.worker})
	}
	if (job.State == rivertype.JobStateCompleted) != ends {
		w.t.Fatalf("the job is %s: %v", job.State, err)
	}
}

func TestMergeCallsTheApp(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	app := newMergingApp(t, 500, 204, 503, 302)
	m, e := w.merge(app)
	w.workMerge("run_merge", false)
	if got := w.mergeState(m.ID); got != "running preparing" {
		t.Errorf("after a failed call it is %s", got)
	}
	w.workMerge("run_merge", false)
	if got := w.mergeState(m.ID); got != "running moved" {
		t.Errorf("after the move it is %s", got)
	}
	w.workMerge("run_merge", false)
	w.workMerge("run_merge", true)
	if got := w.mergeState(m.ID); got != "merged moved" {
		t.Errorf("in the end it is %s", got)
	}
	if got, want := app.names(), []string{"merge.prepare", "merge.prepare", "merge.apply", "merge.apply", "merge.apply"}; !slices.Equal(got, want) {
		t.Errorf("the app was called %q, want %q", got, want)
	}
	secret, err := e.Secret(w.worker.Keys)
	if err != nil {
		t.Fatal(err)
	}
	verifier, err := webhooks.NewWebhook(secret)
	if err != nil {
		t.Fatal(err)
	}
	for i, c := range app.calls {
		if err := verifier.Verify(c.body, c.header); err != nil {
			t.Errorf("call %d: %v", i, err)
		}
		if !strings.Contains(string(c.body), m.AbsorbedID.String()) || !strings.Contains(string(c.body), m.SurvivorID.String()) {
			t.Errorf("call %d says %s", i, c.body)
		}
		if i > 0 && (c.id == app.calls[i-1].id) != (c.name == app.calls[i-1].name) {
			t.Errorf("call %d, %s, has the id %s", i, c.name, c.id)
		}
	}
	if _, err := w.worker.Roster.UndoMerge(t.Context(), w.app.ID, w.inviter.ID, m.ID, nil, roster.IdempotencyKey{}); err != nil {
		t.Fatal(err)
	}
	app.statuses = []int{500}
	w.workMerge("undo_merge", false)
	if got := w.mergeState(m.ID); got != "undoing restored" {
		t.Errorf("after a failed call it is %s", got)
	}
	w.workMerge("undo_merge", true)
	if got := w.mergeState(m.ID); got != "undone restored" {
		t.Errorf("undone it is %s", got)
	}
	if got := app.names()[5:]; !slices.Equal(got, []string{"merge.undo", "merge.undo"}) {
		t.Errorf("the app was called %q", got)
	}
}

// An app that knows of a merge which will not be is told.
func TestMergeIsCalledOff(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	app := newMergingApp(t, 500)
	m, _ := w.merge(app)
	w.workMerge("run_merge", false)
	if _, err := w.worker.Roster.RevokeRequestAs(t.Context(), w.app.ID, m.SurvivorID, m.RequestID, roster.IdempotencyKey{}); err != nil {
		t.Fatal(err)
	}
	w.workMerge("run_merge", true)
	if got := w.mergeState(m.ID); got != "cancelled released" {
		t.Errorf("it is %s", got)
	}
	if got := app.names(); !slices.Equal(got, []string{"merge.prepare", "merge.undo"}) {
		t.Errorf("the app was called %q", got)
	}
}

// A disabled endpoint is waited for; without one, and with one that was deleted,
// the merge is Usher's alone.
func TestMergeWithoutTheApp(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		prepare func(w *world, e roster.Endpoint) error
		ends    bool
	}{
		"none": {func(*world, roster.Endpoint) error { return nil }, true},
		"disabled": {func(w *world, e roster.Endpoint) error {
			_, err := w.worker.Roster.UpdateEndpoint(t.Context(), w.app.ID, e.ID, roster.EndpointChange{Enabled: new(bool)})
			return err
		}, false},
		"deleted": {func(w *world, e roster.Endpoint) error {
			return w.worker.Roster.DeleteEndpoint(t.Context(), w.app.ID, e.ID)
		}, true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, nil)
			var app *mergingApp
			if name != "none" {
				app = newMergingApp(t)
			}
			_, e := w.merge(app)
			if err := test.prepare(w, e); err != nil {
				t.Fatal(err)
			}
			w.workMerge("run_merge", test.ends)
			if app != nil && len(app.names()) > 0 {
				t.Errorf("it was called: %q", app.names())
			}
		})
	}
}

// An attempt that was given up changes nothing any more.
func TestOvertakenMergeChangesNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	app := newMergingApp(t)
	m, _ := w.merge(app)
	app.during = func() { // meanwhile the job is rescued and begun anew
		if _, err := w.tx.Exec(t.Context(), `UPDATE river_job SET attempt = attempt + 1 WHERE kind = 'run_merge'`); err != nil {
			t.Error(err)
		}
	}
	job, err := attempt(w, w.job("run_merge"), &runMerge{Worker: w.worker})
	if err == nil || !strings.Contains(err.Error(), errOvertaken.Error()) {
		t.Errorf("it ended %s with %v", job.State, err)
	}
	if got := w.mergeState(m.ID); got != "running preparing" {
		t.Errorf("it is %s", got)
	}
}

// A merge whose job was lost gets another, and one that has its job no second.
func TestMergesAreWoken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	m, _ := w.merge(nil)
	wake := func(want int) {
		t.Helper()
		if n, err := w.worker.Roster.WakeMerges(t.Context()); err != nil || n != want {
			t.Errorf("%d are under way: %v", n, err)
		}
	}
	wake(1)
	if n := value[int](w, `SELECT count(*) FROM river_job WHERE kind = 'run_merge'`); n != 1 {
		t.Errorf("%d jobs, want 1", n)
	}
	if _, err := w.tx.Exec(t.Context(), `DELETE FROM river_job WHERE kind = 'run_merge'`); err != nil {
		t.Fatal(err)
	}
	wake(1)
	w.workMerge("run_merge", true)
	wake(0)
	if got := w.mergeState(m.ID); got != "merged moved" {
		t.Errorf("it is %s", got)
	}
	w.now = w.now.Add(31 * 24 * time.Hour)
	w.sweep(roster.SweepMerges, w.now.Truncate(time.Minute))
	if got := w.mergeState(m.ID); got != "finalized moved" {
		t.Errorf("in the end it is %s", got)
	}
}
