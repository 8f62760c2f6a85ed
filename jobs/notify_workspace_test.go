package jobs

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"

	"usher/internal/roster"
)

// addColleague puts a colleague of the inviter into n new workspaces at once.
func (w *world) addColleague(n int) roster.Account {
	w.t.Helper()
	ctx, r, none := w.t.Context(), w.worker.Roster, roster.IdempotencyKey{}
	account, err := r.CreateAccount(ctx, w.app.ID, roster.NewAccount{Kind: roster.Professional, FullName: "Cleo League", Email: "cleo@kindred.dev", Locale: "fr"}, none)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, member := range []uuid.UUID{account.ID, w.inviter.ID} {
		if err := r.SetCompanyMember(ctx, w.app.ID, w.workspace.CompanyID, member, roster.RoleMember, none); err != nil {
			w.t.Fatal(err)
		}
	}
	rows := make([]roster.NewMember, n)
	for i := range rows {
		workspace, err := r.CreateWorkspace(ctx, w.app.ID, roster.NewWorkspace{CompanyID: w.workspace.CompanyID, Name: "File", OwnerID: w.inviter.ID}, none)
		if err != nil {
			w.t.Fatal(err)
		}
		rows[i] = roster.NewMember{Kind: roster.KindColleague, WorkspaceID: workspace.ID, AccountID: account.ID}
	}
	out, err := r.AddMembers(ctx, w.app.ID, w.inviter.ID, rows, none)
	if err != nil {
		w.t.Fatal(err)
	}
	for _, o := range out {
		if o.Err != nil {
			w.t.Fatal(o.Err)
		}
	}
	return account
}

// notify works a job that must complete, and gives its output.
func (w *world) notify(job *rivertype.JobRow) string {
	w.t.Helper()
	row, err := attempt(w, job, &notifyWorkspace{Worker: w.worker})
	if err != nil || row.State != rivertype.JobStateCompleted {
		w.t.Fatalf("the job ended %s with %v", row.State, err)
	}
	return string(row.Output())
}

func TestNotifyWorkspace(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	account := w.addColleague(3)
	job := w.job("notify_workspace")
	if out := w.notify(job); out != `"told of 3 workspaces"` {
		t.Errorf("the job's output is %s", out)
	}
	if n := value[int](w, `SELECT count(*) FROM notification WHERE account_id = $1 AND jsonb_array_length(data->'workspace_ids') = 3`, account.ID); n != 1 {
		t.Errorf("%d items, want one of all three", n)
	}

	// One job too many does nothing, and no mail is asked for.
	if _, err := w.worker.Roster.Jobs.InsertTx(t.Context(), w.tx, roster.NotifyWorkspace{AccountID: account.ID}, nil); err != nil {
		t.Fatal(err)
	}
	if out := w.notify(w.job("notify_workspace")); !strings.Contains(out, "skipped") {
		t.Errorf("a second job's output is %s", out)
	}
	if n := value[int](w, `SELECT (SELECT count(*) FROM notification) + (SELECT count(*) FROM message)`); n != 1 {
		t.Errorf("%d items and mails, want one item", n)
	}
}

// TestNotifyWorkspaceOvertaken: an attempt that was given up leaves nothing, and
// what is due stays due.
func TestNotifyWorkspaceOvertaken(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	account := w.addColleague(2)
	job := w.job("notify_workspace")
	w.exec(`UPDATE river_job SET state = 'running', attempt = 2 WHERE id = $1`, job.ID)
	job.Attempt = 1
	err := (&notifyWorkspace{Worker: w.worker}).Work(t.Context(), &river.Job[roster.NotifyWorkspace]{JobRow: job, Args: roster.NotifyWorkspace{AccountID: account.ID}})
	if !errors.Is(err, errOvertaken) {
		t.Errorf("the job ended with %v", err)
	}
	if n := value[int](w, `SELECT count(*) FROM notification`); n != 0 {
		t.Errorf("%d items of an attempt that was given up", n)
	}
	w.exec(`UPDATE river_job SET state = 'available' WHERE id = $1`, job.ID)
	if out := w.notify(w.row(job.ID)); out != `"told of 2 workspaces"` {
		t.Errorf("the job's output is %s", out)
	}
}

// TestNoticeMail writes one mail of all new workspaces, where the app's policy
// wants one.
func TestNoticeMail(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	w.exec(`INSERT INTO policy (app_id, version, settings, updated_at) VALUES ($1, 1, '{"notice_by_mail": true}', now())`, w.app.ID)
	w.addColleague(3)
	w.notify(w.job("notify_workspace"))
	w.workWell(w.compose())
	text := value[string](w, `SELECT subject || ' ' || text FROM dev_mail WHERE recipient = 'cleo@kindred.dev'`)
	if w.mails() != 1 || !strings.Contains(text, "3 nouveaux espaces") || strings.Count(text, "- File") != 3 || !strings.Contains(text, "Cleo League") {
		t.Errorf("%d mails, of which one says:\n%s", w.mails(), text)
	}
}

// TestExternalMail invites a professional in words of its own.
func TestExternalMail(t *testing.T) {
	t.Parallel()
	w := newWorld(t, nil)
	out, err := w.worker.Roster.CreateInvitations(t.Context(), []roster.NewInvitation{{
		AppID: w.app.ID, ActorID: w.inviter.ID, WorkspaceID: w.workspace.ID, Kind: roster.KindExternal,
		Email: "pro@elsewhere.dev", Warning: "I know.", Notify: true,
	}})
	if err != nil || out[0].Err != nil {
		t.Fatal(err, out[0].Err)
	}
	w.workWell(w.compose())
	text := strings.Join(strings.Fields(value[string](w, `SELECT subject || ' ' || text FROM dev_mail WHERE recipient = 'pro@elsewhere.dev'`)), " ")
	for _, want := range []string{"Marie Dupont wants to share Family Okafor with you", "create one first", w.worker.Keys.Token(roster.PurposeInvitation, out[0].Invitation.Ticket())} {
		if !strings.Contains(text, want) {
			t.Errorf("the mail does not say %q:\n%s", want, text)
		}
	}
}
