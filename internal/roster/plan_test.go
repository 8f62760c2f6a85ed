package roster_test

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"usher/internal/postgres/postgrestest"
	"usher/internal/roster"
	"usher/internal/roster/rostertest"
)

// planRows is how many invitations the plans are asked for with: enough that
// reading them all is never the planner's choice where an index serves.
const planRows = 100_000

// bigTables grow with use. A plan reads them by an index.
var bigTables = []string{"invitation", "event", "idempotency_key", "account", "membership", "session", "river_job", "message", "address",
	"account_search", "secondary_email", "record", "company", "company_member", "workspace", "notification", "webhook_delivery",
	"access_request", "record_access", "reminder_plan"}

// fill stores n invitations as years of use leave them: in 20 apps of 100
// workspaces, one in eight open, each with its events and a remembered answer.
func fill(t *testing.T, pool *pgxpool.Pool, b *rostertest.Bundle, n int) {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	done(t, err)
	defer tx.Rollback(t.Context())
	for _, sql := range []string{
		`SET LOCAL session_replication_role = replica`, // foreign keys need not be looked up for each row
		`INSERT INTO app (id, name, created_at) SELECT id(1, n), 'App', now() FROM generate_series(1, 19) n`,
		`INSERT INTO company (id, app_id, name, created_at) SELECT id(2, n), id(1, n), 'Company', now() FROM generate_series(1, 19) n`,
		`INSERT INTO company (id, app_id, name, created_at)
			SELECT id(9, n), CASE n % 20 WHEN 0 THEN @app ELSE id(1, n % 20) END, 'Company', now() FROM generate_series(1, 10000) n`,
		`INSERT INTO workspace (id, app_id, company_id, name, created_at)
			SELECT id(3, n), CASE n % 20 WHEN 0 THEN @app ELSE id(1, n % 20) END, CASE n % 20 WHEN 0 THEN @company ELSE id(2, n % 20) END, 'Workspace', now()
			FROM generate_series(1, 2000) n`,
		`INSERT INTO account (id, app_id, kind, status, full_name, email, email_key, created_at)
			SELECT id(4, n), CASE n % 20 WHEN 0 THEN @app ELSE id(1, n % 20) END, 'client', 'active', 'Somebody', e, e, now()
			FROM (SELECT n, 'person' || n || '@example.org' AS e FROM generate_series(1, @n / 4) n) q`,
		`INSERT INTO membership (app_id, workspace_id, account_id, role, created_at)
			SELECT CASE n % 20 WHEN 0 THEN @app ELSE id(1, n % 20) END, id(3, n % 2000 + 1), id(4, n), 'client_user', now()
			FROM generate_series(1, @n / 4) n`,
		`INSERT INTO account_search (app_id, kind, key, account_id)
			SELECT app_id, kind, key, id FROM account, search_keys(full_name || ' ' || left(md5(id::text), 5), email_key) AS key WHERE email_key LIKE 'person%'`,
		`INSERT INTO company_member (app_id, company_id, account_id, role, created_at)
			SELECT app_id, CASE WHEN app_id = @app AND n < @n / 40 THEN @company ELSE id(9, n % 10000) END, id, 'member', now()
			FROM (SELECT *, (row_number() OVER ())::int AS n FROM account WHERE email_key LIKE 'person%') AS account`,
		`INSERT INTO record (id, app_id, account_id, kind, external_id, created_at)
			SELECT gen_random_uuid(), app_id, id, 'programme', id::text, now() FROM account`,
		`INSERT INTO secondary_email (app_id, account_id, email, email_key, created_at)
			SELECT app_id, id, 'x' || email, 'x' || email_key, now() FROM account WHERE email_key IS NOT NULL`,
		`INSERT INTO invitation (id, app_id, workspace_id, inviter_id, kind, email, email_key, full_name, locale, note,
				state, sends, message_id, queued_at, expires_at, decided_at, created_at)
			SELECT id(5, n), CASE n % 20 WHEN 0 THEN @app ELSE id(1, n % 20) END, id(3, n % 2000 + 1), @inviter, 'new_user', e, e, 'Somebody', '', '',
				CASE WHEN n % 8 = 0 THEN 'pending' WHEN n % 8 = 1 THEN 'expired' ELSE 'accepted' END, 1, id(6, n), at, at + interval '14 days', at, at
			FROM (SELECT n, 'person' || n || '@example.org' AS e, @now::timestamptz + n * interval '1 second' AS at FROM generate_series(1, @n) n) q`,
		`INSERT INTO event (id, app_id, type, subject_id, at)
			SELECT gen_random_uuid(), app_id, 'invitation.created', id, created_at FROM invitation`,
		`INSERT INTO webhook_endpoint (id, app_id, url, description, types, secret_key, created_at)
			SELECT id(7, n), CASE n % 20 WHEN 0 THEN @app ELSE id(1, n % 20) END, 'https://example.org', '', '{invitation.revoked}', '', now() FROM generate_series(1, 200) n`,
		`INSERT INTO webhook_delivery (endpoint_id, event_id, app_id, state, due_at, created_at)
			SELECT e.id, event.id, app_id, 'delivered', NULL, at FROM event JOIN webhook_endpoint e USING (app_id) WHERE e.id <= id(7, 20)`,
		`INSERT INTO idempotency_key (app_id, route, key, body_hash, answer, created_at)
			SELECT app_id, 'POST /test', 'key' || id, '', 'null', created_at FROM invitation`,
		`INSERT INTO message (id, app_id, kind, subject_id, purpose, args, lane, email_key, state, created_at)
			SELECT message_id, app_id, 'invitation', id, 'v1:send:1', '{"version": 1, "send": 1}', 'interactive', email_key, 'delivered', created_at FROM invitation WHERE sends = 1 AND decided_at IS NOT NULL`,
		`INSERT INTO address (app_id, email_key, block, blocked_at)
			SELECT app_id, email_key, CASE WHEN row_number() OVER () % 50 = 0 THEN 'hard' ELSE '' END, created_at FROM invitation ON CONFLICT DO NOTHING`,
		`INSERT INTO notification (id, app_id, account_id, kind, subject_id, created_at)
			SELECT gen_random_uuid(), app_id, account_id, 'workspaces', gen_random_uuid(), created_at FROM membership`,
		`INSERT INTO notification (id, app_id, account_id, kind, subject_id, created_at)
			SELECT gen_random_uuid(), invitation.app_id, account.id, 'invitation', invitation.id, invitation.created_at
			FROM invitation JOIN account ON account.app_id = invitation.app_id AND account.email_key = invitation.email_key`,
		`INSERT INTO access_request (id, app_id, company_id, requester_id, option, target_id, email, email_key, full_name, locale, note, state, queued_at, expires_at, decided_at, created_at)
			SELECT id(8, n), app_id, CASE WHEN app_id = @app THEN @company ELSE id(9, n % 10000) END, @inviter, 'request', id, email, email_key, full_name, '', '',
				CASE WHEN n % 8 = 0 THEN 'pending' WHEN n % 8 = 1 THEN 'expired' ELSE 'granted' END, created_at, created_at + interval '14 days', created_at, created_at
			FROM (SELECT *, (row_number() OVER ())::int AS n FROM account WHERE kind = 'client' AND email LIKE 'person%') AS account`,
		`INSERT INTO record_access (id, app_id, account_id, company_id, visibility, request_id, granted_at)
			SELECT gen_random_uuid(), app_id, target_id, company_id, 'full', id, created_at FROM access_request WHERE state = 'granted' ON CONFLICT DO NOTHING`,
		`INSERT INTO reminder_plan (subject_id, app_id, email_key, message_id, planned_at, done)
			SELECT id, app_id, email_key, message_id, CASE WHEN id <= id(5, 800) THEN @now::timestamptz ELSE @now::timestamptz + interval '9 days' END, 0 FROM invitation WHERE state = 'pending' AND message_id IS NOT NULL`,
		`UPDATE reminder_lane SET cursor = 'ffffffff-0000-7000-8000-000000000000'`,
		`INSERT INTO access_request (id, app_id, company_id, requester_id, option, made_id, email, email_key, full_name, locale, note, state, expires_at, decided_at, created_at)
			SELECT gen_random_uuid(), app_id, CASE WHEN app_id = @app THEN @company ELSE id(9, 1) END, @inviter, 'request_with_temporary', id, email, email_key, full_name, '', '',
				'cancelled', created_at, @now::timestamptz - interval '91 days' + n * interval '1 hour', created_at
			FROM (SELECT *, (row_number() OVER ())::int AS n FROM account WHERE kind = 'client' AND email LIKE 'person%') AS account`,
		`INSERT INTO policy (app_id, version, settings, updated_at) VALUES (@app, 1, '{"archive_temporary_days": 90}', @now)`,
		`INSERT INTO session (hash, app_id, account_id, created_at, expires_at)
			SELECT sha256(id::text::bytea), app_id, id, now(), now() FROM account`,
		`ANALYZE`,
	} {
		// Ids that grow with n and tell their kind apart, as ours do.
		for kind := range 10 {
			sql = strings.ReplaceAll(sql, fmt.Sprintf("id(%d, ", kind), fmt.Sprintf("pg_temp.id(%d, ", kind))
		}
		if _, err := tx.Exec(t.Context(), `CREATE OR REPLACE FUNCTION pg_temp.id(kind int, n int) RETURNS uuid LANGUAGE sql IMMUTABLE
			AS $$ SELECT (lpad(to_hex(n), 12, '0') || '7000800' || kind || lpad(to_hex(n), 12, '0'))::uuid $$`); err != nil {
			t.Fatal(err)
		}
		if _, err := tx.Exec(t.Context(), sql, pgx.NamedArgs{
			"n": n, "app": b.App.ID, "company": b.Company.ID, "inviter": b.Stakeholder.ID, "now": b.Clock.Now(),
		}); err != nil {
			t.Fatalf("%s: %v", sql, err)
		}
	}
	done(t, tx.Commit(t.Context()))
	_, err = pool.Exec(t.Context(), `VACUUM account_search`) // as the server does by itself
	done(t, err)
}

// noAccess is the error of a log-in, but for a refusal.
func noAccess(_ roster.Account, err error) error {
	if roster.CodeOf(err) == "credentials_wrong" {
		return nil
	}
	return err
}

// Every statement of the hot operations, as it is really sent, finds its rows
// by an index however many there are.
func TestPlans(t *testing.T) {
	t.Parallel()
	seen := &postgrestest.Recorder{}
	config, err := pgxpool.ParseConfig(postgrestest.DatabaseURL(t))
	done(t, err)
	config.ConnConfig.Tracer = seen
	traced, err := pgxpool.NewWithConfig(t.Context(), config)
	done(t, err)
	t.Cleanup(traced.Close)
	b := rostertest.Over(t, traced)

	n := planRows
	if rows, err := strconv.Atoi(os.Getenv("USHER_TEST_PLAN_ROWS")); err == nil {
		n = rows // to see by hand what more of them change
	}
	inv := b.Invite(t, "ann@example.org")
	other := b.Invite(t, "bob@example.org")
	mergeable := granted(t, b, "merge@client.example")
	fill(t, traced, b, n)
	plain, err := pgxpool.New(t.Context(), config.ConnString())
	done(t, err)
	t.Cleanup(plain.Close)
	config.ConnConfig.Tracer = nil
	config.ConnConfig.RuntimeParams["enable_bitmapscan"] = "off"
	ordered, err := pgxpool.NewWithConfig(t.Context(), config) // as a search sets it for itself
	done(t, err)
	t.Cleanup(ordered.Close)

	ctx, app, actor := t.Context(), b.App.ID, b.Stakeholder.ID
	var rows []roster.NewInvitation
	for i := range 50 {
		rows = append(rows, keyed(b.Row(fmt.Sprintf("new%d@example.org", i)), fmt.Sprintf("new%d", i)))
	}
	done(t, b.SetCompanyMember(t.Context(), app, b.Company.ID, actor, roster.RoleMember, noKey))
	client(t, b, "asked@client.example")
	requested, err := b.RequestAccess(ctx, app, actor, roster.NewAccessRequest{Option: roster.OptionRequest, CompanyID: b.Company.ID, Email: "asked@client.example", FullName: "A"}, noKey)
	done(t, err)
	openRequest := requested.Request
	var adds []roster.NewMember
	done(t, b.SetCompanyMember(t.Context(), app, b.Company.ID, b.Outsider.ID, roster.RoleMember, noKey))
	for _, account := range []uuid.UUID{actor, b.Outsider.ID} {
		workspace, err := b.CreateWorkspace(ctx, app, roster.NewWorkspace{CompanyID: b.Company.ID, Name: "New"}, noKey)
		done(t, err)
		adds = append(adds, roster.NewMember{Kind: roster.KindColleague, WorkspaceID: workspace.ID, AccountID: account})
	}
	dispatch := uuid.New()
	b.Exec(t, `INSERT INTO dispatch (id, lane, endpoint, message_ids, state, created_at) VALUES ($1, 'interactive', '/emails', $2, 'ready', now())`,
		dispatch, []uuid.UUID{*other.MessageID})
	event := rostertest.Value[uuid.UUID](t, b, `SELECT id FROM event WHERE subject_id = $1 LIMIT 1`, inv.ID)
	endpoint := uuid.MustParse("00000000-0014-7000-8007-000000000014") // the twentieth of fill's
	last := uuid.MustParse("00000000-9000-7000-8005-000000009000")
	for _, op := range []struct {
		name string
		uses string // the index that must serve; empty: any
		do   func() error
	}{
		{"create one", "", func() error { _, err := b.CreateInvitations(ctx, rows[:1]); return err }},
		{"create one again", "invitation_open", func() error { _, err := b.CreateInvitations(ctx, rows[:1]); return err }},
		{"create many", "invitation_open", func() error { _, err := b.CreateInvitations(ctx, rows); return err }},
		{"read", "invitation_", func() error { _, err := b.Invitation(ctx, app, inv.ID); return err }},
		{"list a workspace", "invitation_workspace", func() error {
			_, err := b.Invitations(ctx, app, roster.InvitationList{Workspace: b.Workspace.ID, Limit: 50})
			return err
		}},
		{"list a workspace from a row on", "invitation_workspace", func() error {
			_, err := b.Invitations(ctx, app, roster.InvitationList{Workspace: b.Workspace.ID, After: last, Limit: 50})
			return err
		}},
		{"list a workspace in a rare state", "invitation_workspace", func() error {
			_, err := b.Invitations(ctx, app, roster.InvitationList{Workspace: b.Workspace.ID, State: roster.Superseded, After: last, Limit: 50})
			return err
		}},
		{"list an app in a rare state", "invitation_app", func() error {
			_, err := b.Invitations(ctx, app, roster.InvitationList{State: roster.Declined, After: last, Limit: 50})
			return err
		}},
		{"list an app", "invitation_app", func() error {
			_, err := b.Invitations(ctx, app, roster.InvitationList{Limit: 50})
			return err
		}},
		{"list an app from a row on", "invitation_app", func() error {
			_, err := b.Invitations(ctx, app, roster.InvitationList{After: last, Limit: 50})
			return err
		}},
		{"list an app in a state", "invitation_app", func() error {
			_, err := b.Invitations(ctx, app, roster.InvitationList{State: roster.Pending, Limit: 50})
			return err
		}},
		{"events", "event_subject", func() error { _, err := b.InvitationEvents(ctx, app, inv.ID); return err }},
		{"all events", "event_app", func() error {
			_, _, err := b.Roster.Events(ctx, app, roster.EventList{Limit: 50, Newest: true})
			return err
		}},
		{"all events of a type from one on", "event_app", func() error {
			_, _, err := b.Roster.Events(ctx, app, roster.EventList{Limit: 50, Type: roster.EventRevoked, After: event})
			return err
		}},
		{"events of a subject", "event_subject", func() error {
			_, _, err := b.Roster.Events(ctx, app, roster.EventList{Limit: 50, Subject: inv.ID, After: event})
			return err
		}},
		{"replay one", "event_", func() error { _, err := b.ReplayDelivery(ctx, app, endpoint, event, noKey); return err }},
		{"replay many", "event_app", func() error {
			_, err := b.ReplayDeliveries(ctx, app, endpoint, roster.Replay{From: b.Clock.Now(), To: b.Clock.Now().AddDate(1, 0, 0), Which: roster.ReplayFailed}, noKey)
			return err
		}},
		{"members", "membership_", func() error { _, err := b.Members(ctx, app, b.Workspace.ID, uuid.Nil, 50); return err }},
		{"copy link under a key", "idempotency_key_pkey", func() error {
			for range 2 {
				if _, err := b.CopyInvitationLink(ctx, app, actor, inv.ID, keyFor("copy", "")); err != nil {
					return err
				}
			}
			return nil
		}},
		{"correct address", "account_email", func() error {
			_, err := b.CorrectInvitationAddress(ctx, app, actor, other.ID, "bobby@example.org", noKey)
			return err
		}},
		{"view", "invitation_pkey", func() error { _, err := b.ViewInvitation(ctx, inv.Ticket()); return err }},
		{"late check of a mail", "invitation_pkey", func() error {
			_, err := b.Letters(ctx, b.Mails(t, inv.ID))
			return err
		}},
		{"last look at a mail", "invitation_pkey", func() error { _, err := b.MailMoved(ctx, dispatch); return err }},
		{"accept", "invitation_pkey", func() error {
			_, _, err := b.AcceptInvitation(ctx, inv.Ticket(), newcomer())
			return err
		}},
		{"add members", "membership_", func() error {
			out, err := b.AddMembers(ctx, app, b.Admin.ID, adds, noKey)
			if err == nil && (out[0].Err != nil || out[1].Err != nil) {
				t.Error(out[0].Err, out[1].Err)
			}
			return err
		}},
		{"tell of workspaces", "membership_", func() error { _, _, err := b.NotifyWorkspaces(ctx, actor); return err }},
		{"tell of nothing", "membership_", func() error { _, _, err := b.NotifyWorkspaces(ctx, b.Admin.ID); return err }},
		{"inbox", "notification_inbox", func() error {
			_, err := b.Notifications(ctx, app, actor, roster.NotificationList{Limit: 50})
			return err
		}},
		{"inbox by action", "notification_", func() error {
			_, err := b.Notifications(ctx, app, actor, roster.NotificationList{Action: roster.ActionOpen, UnreadFirst: true, After: last, Limit: 50})
			return err
		}},
		{"archive one", "notification_", func() error {
			if _, err := b.SetNotificationView(ctx, app, actor, last, roster.ViewArchived, noKey); roster.CodeOf(err) != "notification_not_found" {
				return err
			}
			return nil
		}},
		{"archive many", "notification_", func() error {
			_, err := b.ArchiveNotifications(ctx, app, actor, roster.NotificationFilter{Action: roster.ActionDone}, noKey)
			return err
		}},
		{"appear", "invitation_person", func() error {
			_, err := b.CreateAccount(ctx, app, roster.NewAccount{Kind: roster.Client, FullName: "New", Email: "new1@example.org"}, noKey)
			return err
		}},
		{"tell the inviter", "event_", func() error {
			_, err := b.Letters(ctx, b.Mails(t, actor))
			return err
		}},
		{"history of an address", "invitation_person", func() error {
			_, err := b.History(ctx, app, "ann@example.org", []uuid.UUID{inv.ID}, []uuid.UUID{*inv.MessageID})
			return err
		}},
		{"addresses nearby", "invitation_person", func() error { _, err := b.NearAddresses(ctx, app, "ann@example.org"); return err }},
		{"settle a mail", "message_pkey", func() error {
			b.Exec(t, `UPDATE message SET state = 'uncertain' WHERE id = $1`, *inv.MessageID)
			_, err := b.SettleMail(ctx, app, *inv.MessageID, false, noKey)
			return err
		}},
		{"lift a block", "message_person", func() error {
			b.Exec(t, `INSERT INTO address (app_id, email_key, block, blocked_at) VALUES ($1, 'ann@example.org', 'hard', now())
				ON CONFLICT (app_id, email_key) DO UPDATE SET block = 'hard'`, app)
			return b.LiftSuppression(ctx, app, "ann@example.org")
		}},
		{"lift it in the end", "invitation_person", func() error { return b.AddressUnblocked(ctx, roster.LiftAddress{MessageID: *inv.MessageID}) }},
		{"log in by address", "account_email", func() error { return noAccess(b.LogIn(ctx, app, "person20@example.org", goodPassword)) }},
		{"log in by username", "account_username", func() error { return noAccess(b.LogIn(ctx, app, "person20", goodPassword)) }},
		{"ask for a password", "message_subject_id_purpose_key", func() error {
			return b.AskPassword(ctx, app, "person20@example.org", roster.Destination{InvitationID: inv.ID}, noKey)
		}},
		{"set a password", "session_account", func() error {
			id := rostertest.Value[uuid.UUID](t, b, `SELECT message.id FROM account JOIN message ON message.subject_id = account.id AND message.kind = 'password'
				WHERE account.app_id = $1 AND account.email_key = 'person20@example.org' AND account.status NOT IN ('merged', 'archived')`, app)
			_, err := b.SetPassword(ctx, app, roster.Ticket{ID: id}, "hash", noKey)
			return err
		}},
		{"log out everywhere", "session_account", func() error { return b.EndSessions(ctx, app, actor) }},
		{"ask renewal", "invitation_pkey", func() error { return b.AskRenewal(ctx, inv.Ticket()) }},
		{"check an address", "account_email", func() error {
			_, err := b.CheckAddress(ctx, app, actor, b.Company.ID, "person20@example.org")
			return err
		}},
		{"ask for access", "secondary_email_key", func() error {
			_, err := b.RequestAccess(ctx, app, actor, roster.NewAccessRequest{Option: roster.OptionTemporary, CompanyID: b.Company.ID, Email: "person200@example.org", FullName: "A"}, noKey)
			return err
		}},
		{"make another account", "account_username", func() error {
			_, err := b.RequestAccess(ctx, app, actor, roster.NewAccessRequest{Option: roster.OptionNewAccount, CompanyID: b.Company.ID, Email: "person220@example.org", FullName: "A"}, noKey)
			return err
		}},
		{"list access requests", "access_request_app", func() error {
			_, err := b.AccessRequests(ctx, app, roster.RequestList{Limit: 20})
			return err
		}},
		{"list access requests of a company", "access_request_company", func() error {
			_, err := b.AccessRequests(ctx, app, roster.RequestList{Company: b.Company.ID, State: roster.Pending, Limit: 20})
			return err
		}},
		{"look at an access request", "access_request_pkey", func() error { _, err := b.ViewRequest(ctx, openRequest.Ticket()); return err }},
		{"write of access requests", "access_request_pkey", func() error { _, err := b.Letters(ctx, b.Mails(t, openRequest.ID)); return err }},
		{"approve access", "access_request_pkey", func() error { _, err := b.ApproveRequest(ctx, openRequest.Ticket(), uuid.Nil, ""); return err }},
		{"read records by access", "record_access_", func() error {
			_, err := b.Records(ctx, app, actor, *openRequest.TargetID, uuid.Nil, 20)
			return err
		}},
		{"revoke access", "record_access_", func() error {
			_, err := b.RevokeRequestAs(ctx, app, *openRequest.TargetID, openRequest.ID, noKey)
			return err
		}},
		{"sweep access requests", "access_request_due", func() error { _, err := b.ExpireRequests(ctx, 500); return err }},
		{"sweep of reminders", "reminder_plan_due", func() error { _, _, err := b.RunSweep(ctx, roster.SweepReminders, 1, b.Clock.Now()); return err }},
		{"sweep that forgets", "idempotency_key_age", func() error { _, _, err := b.RunSweep(ctx, roster.SweepRetention, 0, b.Clock.Now()); return err }},
		{"sweep of accounts", "access_request_over", func() error { _, _, err := b.RunSweep(ctx, roster.SweepAccounts, 0, b.Clock.Now()); return err }},
		{"preview a merge", "record_account", func() error {
			_, err := b.PreviewMerge(ctx, app, b.Admin.ID, mergeable.request.ID, uuid.Nil, noKey)
			return err
		}},
		{"carry out a merge", "record_account", func() error { mergeable.carryOut(t, mergeable.confirm(t).ID); return nil }},
		{"sweep", "invitation_due", func() error { _, err := b.ExpireInvitations(ctx, 500); return err }},
		{"sweep with much to do", "invitation_due", func() error {
			b.Clock.Add(2 * inviteLife)
			_, err := b.ExpireInvitations(ctx, 500)
			return err
		}},
		{"search", "account_search_pkey", func() error {
			_, err := b.Accounts(ctx, app, roster.AccountList{Query: "so", Limit: 20})
			return err
		}},
		{"search by two words", "account_search_pkey", func() error {
			_, err := b.Accounts(ctx, app, roster.AccountList{Query: "some a", Limit: 20})
			return err
		}},
		{"search among colleagues", "company_member_", func() error {
			_, err := b.Accounts(ctx, app, roster.AccountList{Query: "so", Company: b.Company.ID, Limit: 20})
			return err
		}},
		{"list accounts", "account_list", func() error {
			_, err := b.Accounts(ctx, app, roster.AccountList{Limit: 20, After: last})
			return err
		}},
		{"list colleagues", "company_member_", func() error {
			_, err := b.Accounts(ctx, app, roster.AccountList{Limit: 20, Company: b.Company.ID})
			return err
		}},
		{"list companies", "company_list", func() error { _, err := b.Companies(ctx, app, uuid.Nil, 20); return err }},
		{"a company's members", "company_member_pkey", func() error {
			_, err := b.CompanyMembers(ctx, app, b.Company.ID, uuid.Nil, 20)
			return err
		}},
		{"a company's workspaces", "workspace_company", func() error {
			_, err := b.CompanyWorkspaces(ctx, app, b.Admin.ID, b.Company.ID, "", uuid.Nil, 20)
			return err
		}},
		{"a person's workspaces", "membership_account", func() error {
			_, err := b.AccountWorkspaces(ctx, app, actor, uuid.Nil, 20)
			return err
		}},
		{"see workspaces", "membership_account", func() error { return b.SeeWorkspaces(ctx, app, actor) }},
		{"a person's companies", "company_member_account", func() error {
			_, err := b.AccountCompanies(ctx, app, b.Admin.ID, uuid.Nil, 20)
			return err
		}},
		{"add a record", "record_app_id_kind_external_id_key", func() error {
			_, _, err := b.AddRecord(ctx, app, actor, "programme", "new", noKey)
			return err
		}},
		{"records", "record_account", func() error { _, err := b.Records(ctx, app, uuid.Nil, actor, uuid.Nil, 20); return err }},
		{"client users", "membership_", func() error {
			_, err := b.ClientUsers(ctx, app, b.Workspace.ID, uuid.Nil, 20)
			return err
		}},
		{"join", "company_member_", func() error { _, err := b.JoinWorkspace(ctx, app, b.Admin.ID, b.Workspace.ID, noKey); return err }},
		{"change visibility", "membership_pkey", func() error {
			_, err := b.SetVisibility(ctx, app, b.Admin.ID, b.Workspace.ID, actor, roster.VisibilityBasic, noKey)
			return err
		}},
		{"change a name", "account_search_account", func() error {
			_, err := b.ChangeAccount(ctx, app, b.Outsider.ID, roster.AccountChange{FullName: ptr("Olga Newname")}, noKey)
			return err
		}},
		{"archive an account", "invitation_inviter", func() error { _, err := b.ArchiveAccount(ctx, app, b.Outsider.ID, noKey); return err }},
		{"archive a workspace", "invitation_", func() error {
			w := b.NewWorkspace(t, "Closed")
			_, err := b.ArchiveWorkspace(ctx, app, b.Admin.ID, w.ID, noKey)
			return err
		}},
		{"session", "session_pkey", func() error { _, _, err := b.SessionAccount(ctx, "no such session"); return err }},
		{"log in", "account_", func() error {
			if err := b.CheckPassword(ctx, app, actor, goodPassword); roster.CodeOf(err) == "" {
				return err
			}
			return nil
		}},
	} {
		t.Run(op.name, func(t *testing.T) {
			seen.Take()
			done(t, op.do())
			used := false
			statements := 0
			explain := plain
			for _, s := range seen.Take() {
				if strings.Contains(s.SQL, `set_config('enable_bitmapscan', 'off', true)`) {
					explain = ordered
				}
				if !s.Plannable() {
					continue
				}
				statements++
				plan := postgrestest.Explain(t, explain, s)
				plan.Walk(func(n postgrestest.Plan) {
					if strings.HasPrefix(n.Index, op.uses) {
						used = true
					}
					if n.Type == "Bitmap Heap Scan" && n.Relation == "account_search" {
						t.Errorf("reads all keys that begin alike, however many (%s):\n%s", plan, s.SQL)
					}
					for _, table := range bigTables {
						if n.Type == "Seq Scan" && n.Relation == table {
							t.Errorf("reads all of %s (%s):\n%s", table, plan, s.SQL)
						}
					}
				})
				if testing.Verbose() {
					t.Logf("%s", plan)
				}
			}
			if statements == 0 || !used {
				t.Errorf("none of %d statements uses %s", statements, op.uses)
			}
		})
	}
}
