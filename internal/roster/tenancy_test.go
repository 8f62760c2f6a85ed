package roster_test

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"usher/internal/roster"
	"usher/internal/roster/rostertest"
)

// snapshot is everything an operation could change.
func snapshot(t *testing.T, b *rostertest.Bundle) string {
	t.Helper()
	var all strings.Builder
	for _, table := range []string{
		"app", "api_key", "account", "account_search", "secondary_email", "record", "company", "company_member", "workspace", "membership",
		"invitation", "event", "idempotency_key", "session", "river_job", "notification", "warning", "webhook_endpoint", "webhook_delivery",
	} {
		rows := rostertest.Column[string](t, b, `SELECT x::text FROM `+table+` x ORDER BY 1`)
		all.WriteString(table + "\n" + strings.Join(rows, "\n") + "\n")
	}
	return all.String()
}

// tenancy names every exported method of Roster, so that a new one must be
// thought of here: how it is called with another app's ids, and how it refuses.
// Methods without a call answer to no app's key; why is said beside them.
var tenancy = map[string]struct {
	call func(ctx context.Context, own, other *rostertest.Bundle, theirs roster.Invitation) error
	kind roster.Kind
}{
	"Invitation": {func(ctx context.Context, own, _ *rostertest.Bundle, theirs roster.Invitation) error {
		_, err := own.Invitation(ctx, own.App.ID, theirs.ID)
		return err
	}, roster.NotFound},
	"InvitationEvents": {func(ctx context.Context, own, _ *rostertest.Bundle, theirs roster.Invitation) error {
		_, err := own.InvitationEvents(ctx, own.App.ID, theirs.ID)
		return err
	}, roster.NotFound},
	"ResendInvitation": {func(ctx context.Context, own, _ *rostertest.Bundle, theirs roster.Invitation) error {
		_, err := own.ResendInvitation(ctx, own.App.ID, own.Admin.ID, theirs.ID, noKey)
		return err
	}, roster.NotFound},
	"ResendToBlocked": {func(ctx context.Context, own, _ *rostertest.Bundle, theirs roster.Invitation) error {
		_, err := own.ResendToBlocked(ctx, own.App.ID, own.Admin.ID, theirs.ID, noKey)
		return err
	}, roster.NotFound},
	"SettleMail": {func(ctx context.Context, own, _ *rostertest.Bundle, theirs roster.Invitation) error {
		_, err := own.SettleMail(ctx, own.App.ID, *theirs.MessageID, true, noKey)
		return err
	}, roster.NotFound},
	"LiftSuppression": {func(ctx context.Context, own, _ *rostertest.Bundle, theirs roster.Invitation) error {
		return own.LiftSuppression(ctx, own.App.ID, theirs.EmailKey)
	}, roster.NotFound},
	"CopyInvitationLink": {func(ctx context.Context, own, _ *rostertest.Bundle, theirs roster.Invitation) error {
		_, err := own.CopyInvitationLink(ctx, own.App.ID, own.Admin.ID, theirs.ID, noKey)
		return err
	}, roster.NotFound},
	"CorrectInvitationAddress": {func(ctx context.Context, own, _ *rostertest.Bundle, theirs roster.Invitation) error {
		_, err := own.CorrectInvitationAddress(ctx, own.App.ID, own.Admin.ID, theirs.ID, "mallory@example.org", noKey)
		return err
	}, roster.NotFound},
	"RevokeInvitation": {func(ctx context.Context, own, _ *rostertest.Bundle, theirs roster.Invitation) error {
		_, err := own.RevokeInvitation(ctx, own.App.ID, own.Admin.ID, theirs.ID, noKey)
		return err
	}, roster.NotFound},
	"ReopenInvitation": {func(ctx context.Context, own, _ *rostertest.Bundle, theirs roster.Invitation) error {
		_, err := own.ReopenInvitation(ctx, own.App.ID, own.Admin.ID, theirs.ID, noKey)
		return err
	}, roster.NotFound},
	"CreateInvitations": {func(ctx context.Context, own, other *rostertest.Bundle, _ roster.Invitation) error {
		row := own.Row("mallory@example.org")
		row.WorkspaceID = other.Workspace.ID
		out, err := own.CreateInvitations(ctx, []roster.NewInvitation{row})
		if err != nil {
			return err
		}
		return out[0].Err
	}, roster.NotFound},
	"Account": {func(ctx context.Context, own, other *rostertest.Bundle, _ roster.Invitation) error {
		_, err := own.Roster.Account(ctx, own.App.ID, other.Stakeholder.ID)
		return err
	}, roster.NotFound},
	"Members": {func(ctx context.Context, own, other *rostertest.Bundle, _ roster.Invitation) error {
		_, err := own.Members(ctx, own.App.ID, other.Workspace.ID, uuid.Nil, 10)
		return err
	}, roster.NotFound},
	"AccountWorkspaces": {func(ctx context.Context, own, other *rostertest.Bundle, _ roster.Invitation) error {
		_, err := own.AccountWorkspaces(ctx, own.App.ID, other.Stakeholder.ID, uuid.Nil, 10)
		return err
	}, roster.NotFound},
	"Accounts": {func(ctx context.Context, own, other *rostertest.Bundle, _ roster.Invitation) error {
		_, err := own.Accounts(ctx, own.App.ID, roster.AccountList{Query: "s", Company: other.Company.ID, Limit: 10})
		return err
	}, roster.NotFound},
	"ChangeAccount": {func(ctx context.Context, own, other *rostertest.Bundle, _ roster.Invitation) error {
		_, err := own.ChangeAccount(ctx, own.App.ID, other.Stakeholder.ID, roster.AccountChange{Username: ptr("mallory")}, noKey)
		return err
	}, roster.NotFound},
	"ArchiveAccount": {func(ctx context.Context, own, other *rostertest.Bundle, _ roster.Invitation) error {
		_, err := own.ArchiveAccount(ctx, own.App.ID, other.Stakeholder.ID, noKey)
		return err
	}, roster.NotFound},
	"AddRecord": {func(ctx context.Context, own, other *rostertest.Bundle, _ roster.Invitation) error {
		_, _, err := own.AddRecord(ctx, own.App.ID, other.Stakeholder.ID, "programme", "1", noKey)
		return err
	}, roster.NotFound},
	"Records": {func(ctx context.Context, own, other *rostertest.Bundle, _ roster.Invitation) error {
		_, err := own.Records(ctx, own.App.ID, uuid.Nil, other.Stakeholder.ID, uuid.Nil, 10)
		return err
	}, roster.NotFound},
	"AccountCompanies": {func(ctx context.Context, own, other *rostertest.Bundle, _ roster.Invitation) error {
		_, err := own.AccountCompanies(ctx, own.App.ID, other.Stakeholder.ID, uuid.Nil, 10)
		return err
	}, roster.NotFound},
	"Company": {func(ctx context.Context, own, other *rostertest.Bundle, _ roster.Invitation) error {
		_, err := own.Roster.Company(ctx, own.App.ID, other.Company.ID)
		return err
	}, roster.NotFound},
	"CompanyMembers": {func(ctx context.Context, own, other *rostertest.Bundle, _ roster.Invitation) error {
		_, err := own.CompanyMembers(ctx, own.App.ID, other.Company.ID, uuid.Nil, 10)
		return err
	}, roster.NotFound},
	"CompanyWorkspaces": {func(ctx context.Context, own, other *rostertest.Bundle, _ roster.Invitation) error {
		_, err := own.CompanyWorkspaces(ctx, own.App.ID, own.Admin.ID, other.Company.ID, "", uuid.Nil, 10)
		return err
	}, roster.NotFound},
	"RemoveCompanyMember": {func(ctx context.Context, own, other *rostertest.Bundle, _ roster.Invitation) error {
		_, err := own.RemoveCompanyMember(ctx, own.App.ID, other.Company.ID, other.Admin.ID)
		return err
	}, roster.NotFound},
	"Workspace": {func(ctx context.Context, own, other *rostertest.Bundle, _ roster.Invitation) error {
		_, err := own.Roster.Workspace(ctx, own.App.ID, other.Workspace.ID)
		return err
	}, roster.NotFound},
	"RenameWorkspace": {func(ctx context.Context, own, other *rostertest.Bundle, _ roster.Invitation) error {
		_, err := own.RenameWorkspace(ctx, own.App.ID, own.Admin.ID, other.Workspace.ID, "Mine", noKey)
		return err
	}, roster.NotFound},
	"ArchiveWorkspace": {func(ctx context.Context, own, other *rostertest.Bundle, _ roster.Invitation) error {
		_, err := own.ArchiveWorkspace(ctx, own.App.ID, own.Admin.ID, other.Workspace.ID, noKey)
		return err
	}, roster.NotFound},
	"JoinWorkspace": {func(ctx context.Context, own, other *rostertest.Bundle, _ roster.Invitation) error {
		_, err := own.JoinWorkspace(ctx, own.App.ID, own.Admin.ID, other.Workspace.ID, noKey)
		return err
	}, roster.NotFound},
	"SetVisibility": {func(ctx context.Context, own, other *rostertest.Bundle, _ roster.Invitation) error {
		_, err := own.SetVisibility(ctx, own.App.ID, own.Admin.ID, other.Workspace.ID, other.Stakeholder.ID, roster.VisibilityBasic, noKey)
		return err
	}, roster.NotFound},
	"ArchiveMember": {func(ctx context.Context, own, other *rostertest.Bundle, _ roster.Invitation) error {
		_, err := own.ArchiveMember(ctx, own.App.ID, own.Admin.ID, other.Workspace.ID, other.Stakeholder.ID, noKey)
		return err
	}, roster.NotFound},
	"DeleteMember": {func(ctx context.Context, own, other *rostertest.Bundle, _ roster.Invitation) error {
		_, err := own.DeleteMember(ctx, own.App.ID, own.Admin.ID, other.Workspace.ID, other.Stakeholder.ID)
		return err
	}, roster.NotFound},
	"ClientUsers": {func(ctx context.Context, own, other *rostertest.Bundle, _ roster.Invitation) error {
		_, err := own.ClientUsers(ctx, own.App.ID, other.Workspace.ID, uuid.Nil, 10)
		return err
	}, roster.NotFound},
	"TakeOverInvitation": {func(ctx context.Context, own, _ *rostertest.Bundle, theirs roster.Invitation) error {
		_, err := own.TakeOverInvitation(ctx, own.App.ID, own.Admin.ID, theirs.ID, noKey)
		return err
	}, roster.NotFound},
	"SetCompanyMember": {func(ctx context.Context, own, other *rostertest.Bundle, _ roster.Invitation) error {
		return own.SetCompanyMember(ctx, own.App.ID, other.Company.ID, own.Outsider.ID, roster.RoleAdmin, noKey)
	}, roster.NotFound},
	"CreateWorkspace": {func(ctx context.Context, own, other *rostertest.Bundle, _ roster.Invitation) error {
		_, err := own.CreateWorkspace(ctx, own.App.ID, roster.NewWorkspace{CompanyID: other.Company.ID, Name: "Mine", OwnerID: own.Stakeholder.ID}, noKey)
		return err
	}, roster.NotFound},
	"CreateCompany": {func(ctx context.Context, own, _ *rostertest.Bundle, _ roster.Invitation) error {
		_, err := own.CreateCompany(ctx, uuid.New(), "Nowhere", "Nowhere/None", noKey)
		return err
	}, roster.Invalid},
	"CreateAccount": {func(ctx context.Context, own, _ *rostertest.Bundle, _ roster.Invitation) error {
		_, err := own.CreateAccount(ctx, own.App.ID, roster.NewAccount{Kind: roster.Client, FullName: "Stan", Email: own.Stakeholder.Email}, noKey)
		return err
	}, roster.Conflict},
	"CreateAPIKey": {func(ctx context.Context, own, _ *rostertest.Bundle, _ roster.Invitation) error {
		_, _, err := own.CreateAPIKey(ctx, uuid.New(), "key")
		return err
	}, roster.NotFound},
	"RevokeAPIKey": {func(ctx context.Context, own, _ *rostertest.Bundle, _ roster.Invitation) error {
		return own.RevokeAPIKey(ctx, uuid.New())
	}, roster.NotFound},
	"AuthenticateKey": {func(ctx context.Context, own, _ *rostertest.Bundle, _ roster.Invitation) error {
		_, _, err := own.AuthenticateKey(ctx, "usk_"+strings.Repeat("A", 43))
		return err
	}, roster.Unauthorized},
	"CheckPassword": {func(ctx context.Context, own, other *rostertest.Bundle, _ roster.Invitation) error {
		return own.CheckPassword(ctx, own.App.ID, other.Stakeholder.ID, goodPassword)
	}, roster.TooSoon}, // an account that is not there looks like one at rest
	"AcceptInvitation": {func(ctx context.Context, own, _ *rostertest.Bundle, theirs roster.Invitation) error {
		_, _, err := own.AcceptInvitation(ctx, theirs.Ticket(), roster.Acceptance{AccountID: own.Stakeholder.ID})
		return err
	}, roster.Forbidden},
	"Endpoint": {onEndpoint(func(ctx context.Context, own *rostertest.Bundle, id uuid.UUID) error {
		_, err := own.Endpoint(ctx, own.App.ID, id)
		return err
	}), roster.NotFound},
	"UpdateEndpoint": {onEndpoint(func(ctx context.Context, own *rostertest.Bundle, id uuid.UUID) error {
		_, err := own.UpdateEndpoint(ctx, own.App.ID, id, roster.EndpointChange{Enabled: new(bool)})
		return err
	}), roster.NotFound},
	"DeleteEndpoint": {onEndpoint(func(ctx context.Context, own *rostertest.Bundle, id uuid.UUID) error {
		return own.DeleteEndpoint(ctx, own.App.ID, id)
	}), roster.NotFound},
	"RotateEndpointSecret": {onEndpoint(func(ctx context.Context, own *rostertest.Bundle, id uuid.UUID) error {
		_, err := own.RotateEndpointSecret(ctx, own.App.ID, id, keyID, noKey)
		return err
	}), roster.NotFound},
	"TestEndpoint": {onEndpoint(func(ctx context.Context, own *rostertest.Bundle, id uuid.UUID) error {
		_, err := own.TestEndpoint(ctx, own.App.ID, id, noKey)
		return err
	}), roster.NotFound},
	"ReplayDelivery": {onEndpoint(func(ctx context.Context, own *rostertest.Bundle, id uuid.UUID) error {
		_, err := own.ReplayDelivery(ctx, own.App.ID, id, uuid.New(), noKey)
		return err
	}), roster.NotFound},
	"ReplayDeliveries": {onEndpoint(func(ctx context.Context, own *rostertest.Bundle, id uuid.UUID) error {
		_, err := own.ReplayDeliveries(ctx, own.App.ID, id, roster.Replay{To: time.Now(), Which: roster.ReplayAll}, noKey)
		return err
	}), roster.NotFound},
	"Event": {func(ctx context.Context, own, other *rostertest.Bundle, _ roster.Invitation) error {
		events, _, err := other.Roster.Events(ctx, other.App.ID, roster.EventList{Limit: 1})
		if err == nil {
			_, err = own.Event(ctx, own.App.ID, events[0].ID)
		}
		return err
	}, roster.NotFound},

	"OpenInvitation": {func(ctx context.Context, own, _ *rostertest.Bundle, theirs roster.Invitation) error {
		_, err := own.OpenInvitation(ctx, own.App.ID, theirs.Ticket())
		return err
	}, roster.NotFound},
	"AcceptFromApp": {func(ctx context.Context, own, _ *rostertest.Bundle, theirs roster.Invitation) error {
		_, err := own.AcceptFromApp(ctx, own.App.ID, theirs.Ticket(), newcomer(), noKey)
		return err
	}, roster.NotFound},
	"SignUpFromApp": {func(ctx context.Context, own, _ *rostertest.Bundle, theirs roster.Invitation) error {
		_, err := own.SignUpFromApp(ctx, own.App.ID, theirs.Ticket(), newcomer(), noKey)
		return err
	}, roster.NotFound},
	"DeclineFromApp": {func(ctx context.Context, own, _ *rostertest.Bundle, theirs roster.Invitation) error {
		_, err := own.DeclineFromApp(ctx, own.App.ID, theirs.Ticket(), noKey)
		return err
	}, roster.NotFound},
	"AskRenewalFromApp": {func(ctx context.Context, own, _ *rostertest.Bundle, theirs roster.Invitation) error {
		return own.AskRenewalFromApp(ctx, own.App.ID, theirs.Ticket(), noKey)
	}, roster.NotFound},
	"AddMembersEach": {func(ctx context.Context, own, other *rostertest.Bundle, _ roster.Invitation) error {
		out, err := own.AddMembersEach(ctx, own.App.ID, own.Admin.ID, []roster.NewMember{
			{Kind: roster.KindColleague, WorkspaceID: other.Workspace.ID, AccountID: other.Outsider.ID},
		}, []roster.IdempotencyKey{noKey})
		if err != nil {
			return err
		}
		return out[0].Err
	}, roster.NotFound},
	"AddMembers": {func(ctx context.Context, own, other *rostertest.Bundle, _ roster.Invitation) error {
		out, err := own.AddMembers(ctx, own.App.ID, own.Admin.ID, []roster.NewMember{
			{Kind: roster.KindColleague, WorkspaceID: other.Workspace.ID, AccountID: own.Outsider.ID},
		}, noKey)
		if err != nil {
			return err
		}
		return out[0].Err
	}, roster.NotFound},
	"Notifications": {func(ctx context.Context, own, other *rostertest.Bundle, _ roster.Invitation) error {
		_, err := own.Notifications(ctx, own.App.ID, other.Stakeholder.ID, roster.NotificationList{Limit: 1})
		return err
	}, roster.Forbidden},
	"SetNotificationView": {func(ctx context.Context, own, other *rostertest.Bundle, theirs roster.Invitation) error {
		_, err := own.SetNotificationView(ctx, own.App.ID, own.Outsider.ID, itemOf(ctx, other, theirs), roster.ViewArchived, noKey)
		return err
	}, roster.NotFound},
	"ArchiveNotifications": {func(ctx context.Context, own, other *rostertest.Bundle, _ roster.Invitation) error {
		_, err := own.ArchiveNotifications(ctx, own.App.ID, other.Outsider.ID, roster.NotificationFilter{}, noKey)
		return err
	}, roster.Forbidden},
	"DecideNotification": {func(ctx context.Context, own, other *rostertest.Bundle, theirs roster.Invitation) error {
		_, err := own.DecideNotification(ctx, own.App.ID, own.Outsider.ID, itemOf(ctx, other, theirs), true, "", noKey)
		return err
	}, roster.NotFound},

	"Simulate":          {}, // as AppPolicy
	"AppPolicy":         {}, // the app's key is all it takes: TestTenancyOfPolicies
	"ChangePolicy":      {}, // TestTenancyOfPolicies
	"CreateEndpoint":    {}, // names nothing but the app
	"EndpointFailed":    {}, // who sends webhooks calls it, in its own transaction
	"Endpoints":         {}, // TestTenancyOfLists
	"Events":            {}, // TestTenancyOfLists
	"Apps":              {}, // for the operator's commands
	"App":               {}, // the pages', which show an app's name and nothing it keeps
	"OnlyApp":           {}, // the pages', as App
	"LogIn":             {}, // TestTenancyOfPasswords
	"AskPassword":       {}, // TestTenancyOfPasswords
	"SetPassword":       {}, // TestTenancyOfPasswords
	"ViewPasswordLink":  {}, // the ticket is signed
	"EndSessions":       {}, // TestTenancyOfSessions
	"CreateApp":         {}, // for the operator's commands
	"APIKeys":           {}, // TestTenancyOfLists
	"Invitations":       {}, // TestTenancyOfLists
	"Letters":           {}, // TestTenancyOfMail
	"StartSession":      {}, // TestTenancyOfSessions
	"SessionAccount":    {}, // the cookie proves the account
	"EndSession":        {}, // the cookie proves the account
	"ViewInvitation":    {}, // the ticket is signed
	"DeclineInvitation": {}, // the ticket is signed
	"SignUp":            {}, // the ticket is signed
	"AskRenewal":        {}, // the ticket is signed
	"Subscription":      {}, // the ticket is signed
	"StopReminders":     {}, // the ticket is signed
	"StopMail":          {}, // the ticket is signed
	"ResumeMail":        {}, // the ticket is signed
	"ExpireInvitations": {}, // the clock's
	"HoldInvitation":    {}, // TestHoldOnlyFor
	"MailAgain":         {}, // a message's, whose id is all there is
	"AddressToLift":     {}, // a job's, inserted by ResendToBlocked
	"AddressLifted":     {}, // a job's, inserted by ResendToBlocked
	"BlockedAddress":    {}, // a job's, inserted by LiftSuppression
	"AddressUnblocked":  {}, // a job's, inserted by LiftSuppression
	"History":           {}, // TestHistory
	"NearAddresses":     {}, // for the operator's commands
	"HoldAppMail":       {}, // the app of a message of ours
	"MailMoved":         {}, // a dispatch's, which carries mail of several apps
	"NotifyWorkspaces":  {}, // a job's, inserted by AddMembers
	"SeeWorkspaces":     {}, // TestAccountWorkspaces
	"Companies":         {}, // TestTenancyOfLists
	"AccessRequest": {onRequest(func(ctx context.Context, own *rostertest.Bundle, id uuid.UUID) error {
		_, err := own.AccessRequest(ctx, own.App.ID, id)
		return err
	}), roster.NotFound},
	"OpenRequest": {onRequest(func(ctx context.Context, own *rostertest.Bundle, id uuid.UUID) error {
		_, err := own.OpenRequest(ctx, own.App.ID, roster.Ticket{ID: id, Version: 1})
		return err
	}), roster.NotFound},
	"ApproveRequestFromApp": {onRequest(func(ctx context.Context, own *rostertest.Bundle, id uuid.UUID) error {
		_, err := own.ApproveRequestFromApp(ctx, own.App.ID, roster.Ticket{ID: id, Version: 1}, uuid.Nil, "", noKey)
		return err
	}), roster.NotFound},
	"DenyRequestFromApp": {onRequest(func(ctx context.Context, own *rostertest.Bundle, id uuid.UUID) error {
		_, err := own.DenyRequestFromApp(ctx, own.App.ID, roster.Ticket{ID: id, Version: 1}, true, noKey)
		return err
	}), roster.NotFound},
	"ApproveRequestAs": {onRequest(func(ctx context.Context, own *rostertest.Bundle, id uuid.UUID) error {
		_, err := own.ApproveRequestAs(ctx, own.App.ID, own.Outsider.ID, id, "", noKey)
		return err
	}), roster.NotFound},
	"AuthorizeRequest": {onRequest(func(ctx context.Context, own *rostertest.Bundle, id uuid.UUID) error {
		_, err := own.AuthorizeRequest(ctx, own.App.ID, id, roster.Authorization{Operator: "Sam", Statement: "I agree.", Reference: "1"}, noKey)
		return err
	}), roster.NotFound},
	"CancelRequest": {onRequest(func(ctx context.Context, own *rostertest.Bundle, id uuid.UUID) error {
		_, err := own.CancelRequest(ctx, own.App.ID, own.Admin.ID, id, noKey)
		return err
	}), roster.NotFound},
	"CorrectRequestAddress": {onRequest(func(ctx context.Context, own *rostertest.Bundle, id uuid.UUID) error {
		_, err := own.CorrectRequestAddress(ctx, own.App.ID, own.Admin.ID, id, "mallory@example.org", noKey)
		return err
	}), roster.NotFound},
	"DenyRequestAs": {onRequest(func(ctx context.Context, own *rostertest.Bundle, id uuid.UUID) error {
		_, err := own.DenyRequestAs(ctx, own.App.ID, own.Outsider.ID, id, false, noKey)
		return err
	}), roster.NotFound},
	"ResendRequest": {onRequest(func(ctx context.Context, own *rostertest.Bundle, id uuid.UUID) error {
		_, err := own.ResendRequest(ctx, own.App.ID, own.Admin.ID, id, noKey)
		return err
	}), roster.NotFound},
	"RevokeRequestAs": {onRequest(func(ctx context.Context, own *rostertest.Bundle, id uuid.UUID) error {
		_, err := own.RevokeRequestAs(ctx, own.App.ID, own.Outsider.ID, id, noKey)
		return err
	}), roster.NotFound},
	"Merge": {onMerge(func(ctx context.Context, own *rostertest.Bundle, id uuid.UUID) error {
		_, err := own.Merge(ctx, own.App.ID, id)
		return err
	}), roster.NotFound},
	"ResolveMerge": {onMerge(func(ctx context.Context, own *rostertest.Bundle, id uuid.UUID) error {
		_, err := own.ResolveMerge(ctx, own.App.ID, own.Admin.ID, id, true, noKey)
		return err
	}), roster.NotFound},
	"ConfirmMerge": {onMerge(func(ctx context.Context, own *rostertest.Bundle, id uuid.UUID) error {
		_, err := own.ConfirmMerge(ctx, own.App.ID, own.Admin.ID, id, nil, noKey)
		return err
	}), roster.NotFound},
	"CancelMerge": {onMerge(func(ctx context.Context, own *rostertest.Bundle, id uuid.UUID) error {
		_, err := own.CancelMerge(ctx, own.App.ID, own.Admin.ID, id, noKey)
		return err
	}), roster.NotFound},
	"UndoMerge": {onMerge(func(ctx context.Context, own *rostertest.Bundle, id uuid.UUID) error {
		_, err := own.UndoMerge(ctx, own.App.ID, uuid.Nil, id, nil, noKey)
		return err
	}), roster.NotFound},
	"MergeChanges": {onMerge(func(ctx context.Context, own *rostertest.Bundle, id uuid.UUID) error {
		_, err := own.MergeChanges(ctx, own.App.ID, id, 0, 1)
		return err
	}), roster.NotFound},
	"EditedRows": {onMerge(func(ctx context.Context, own *rostertest.Bundle, id uuid.UUID) error {
		_, err := own.EditedRows(ctx, own.App.ID, id)
		return err
	}), roster.NotFound},
	"Timeline": {onRequest(func(ctx context.Context, own *rostertest.Bundle, id uuid.UUID) error {
		_, err := own.Timeline(ctx, own.App.ID, id)
		return err
	}), roster.NotFound},
	"PreviewMerge": {onRequest(func(ctx context.Context, own *rostertest.Bundle, id uuid.UUID) error {
		_, err := own.PreviewMerge(ctx, own.App.ID, own.Admin.ID, id, uuid.Nil, noKey)
		return err
	}), roster.NotFound},
	"Merges":         {}, // TestMergesStayApart
	"BeginMerge":     {}, // a job's, inserted by ConfirmMerge
	"MergeCall":      {}, // likewise
	"MoveMerge":      {}, // likewise
	"FailMerge":      {}, // likewise
	"FinishMerge":    {}, // likewise
	"ReleaseMerge":   {}, // likewise
	"RestoreMerge":   {}, // a job's, inserted by UndoMerge
	"FinishUndo":     {}, // likewise
	"WakeMerges":     {}, // of all apps
	"BeginSweep":     {}, // the clock's
	"RunSweep":       {}, // the clock's
	"EndSweep":       {}, // the clock's
	"StartSweep":     {}, // for operators
	"SweepFailed":    {}, // the clock's
	"DrySweep":       {}, // for the operator's commands
	"SweepStates":    {}, // for the operator's commands
	"SweepRuns":      {}, // for the operator's commands
	"PauseSweep":     {}, // for the operator's commands
	"FinalizeMerges": {}, // of all apps
	"AccessRequests": {}, // TestAccessRequestsStayApart
	"CheckAddress":   {}, // TestAccessRequestsStayApart
	"RequestAccess":  {}, // TestAccessRequestsStayApart
	"ApproveRequest": {}, // by a ticket, which names its app
	"DenyRequest":    {}, // by a ticket, which names its app
	"RevokeRequest":  {}, // by a ticket, which names its app
	"ViewRequest":    {}, // by a ticket, which names its app
	"ExpireRequests": {}, // of all apps
	"Hold":           {}, // TestHoldOnlyFor
	"RemoveRecord":   {}, // TestRecords
	"In":             {}, // no operation
}

// itemOf is the item of an invitation in the inbox of the bundle's outsider.
func itemOf(ctx context.Context, b *rostertest.Bundle, inv roster.Invitation) uuid.UUID {
	items, err := b.Notifications(ctx, b.App.ID, b.Outsider.ID, roster.NotificationList{Limit: 1})
	if err != nil || len(items) != 1 || *items[0].InvitationID != inv.ID {
		panic(fmt.Sprintf("the inbox is %+v (%v)", items, err))
	}
	return items[0].ID
}

// onRequest calls with an access request of the other app.
func onRequest(call func(ctx context.Context, own *rostertest.Bundle, id uuid.UUID) error) func(context.Context, *rostertest.Bundle, *rostertest.Bundle, roster.Invitation) error {
	return func(ctx context.Context, own, other *rostertest.Bundle, _ roster.Invitation) error {
		requests, err := other.AccessRequests(ctx, other.App.ID, roster.RequestList{Limit: 1})
		if err != nil {
			return err
		}
		return call(ctx, own, requests[0].ID)
	}
}

// onMerge calls with a merge of the other app.
func onMerge(call func(ctx context.Context, own *rostertest.Bundle, id uuid.UUID) error) func(context.Context, *rostertest.Bundle, *rostertest.Bundle, roster.Invitation) error {
	return func(ctx context.Context, own, other *rostertest.Bundle, _ roster.Invitation) error {
		merges, err := other.Merges(ctx, other.App.ID, roster.MergeList{Limit: 1})
		if err != nil {
			return err
		}
		return call(ctx, own, merges[0].ID)
	}
}

// onEndpoint calls with the other app's endpoint.
func onEndpoint(call func(ctx context.Context, own *rostertest.Bundle, id uuid.UUID) error) func(context.Context, *rostertest.Bundle, *rostertest.Bundle, roster.Invitation) error {
	return func(ctx context.Context, own, other *rostertest.Bundle, _ roster.Invitation) error {
		endpoints, err := other.Endpoints(ctx, other.App.ID)
		if err != nil {
			return err
		}
		return call(ctx, own, endpoints[0].ID)
	}
}

func TestTenancy(t *testing.T) {
	t.Parallel()
	methods := reflect.TypeFor[*roster.Roster]()
	for i := range methods.NumMethod() {
		name := methods.Method(i).Name
		test, ok := tenancy[name]
		if !ok {
			t.Errorf("%s: add how it keeps apps apart", name)
		}
		if test.call == nil {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			own := rostertest.Begin(t)
			other := own.Another(t)
			theirs := other.Invite(t, other.Outsider.Email)
			listen(t, other, roster.EventRevoked)
			granted(t, other, "bea@client.example").preview(t)
			ask(t, other, "ann@client.example")
			if name == "ReopenInvitation" {
				expire(t, other, theirs)
			} else {
				own.Clock.Add(2 * resendAfter)
			}
			before := snapshot(t, own)
			err := test.call(t.Context(), own, other, theirs)
			refused(t, err, test.kind, roster.CodeOf(err))
			if after := snapshot(t, own); after != before {
				t.Errorf("changed something:\n%s\nbefore:\n%s", after, before)
			}
		})
	}
}

// The second id of a call may be another app's too.
func TestTenancyOfSecondIDs(t *testing.T) {
	t.Parallel()
	own := rostertest.Begin(t)
	other := own.Another(t)
	inv := own.Invite(t, "ann@example.org")
	own.Clock.Add(2 * resendAfter)
	before := snapshot(t, own)
	err := own.SetCompanyMember(t.Context(), own.App.ID, own.Company.ID, other.Stakeholder.ID, roster.RoleAdmin, noKey)
	refused(t, err, roster.NotFound, "account_not_found")
	_, err = own.CreateWorkspace(t.Context(), own.App.ID, roster.NewWorkspace{CompanyID: own.Company.ID, Name: "Mine", OwnerID: other.Stakeholder.ID}, noKey)
	refused(t, err, roster.NotFound, "account_not_found")
	for _, act := range acts {
		for _, actor := range []uuid.UUID{other.Stakeholder.ID, other.Admin.ID} {
			_, err := act.do(t, own, own.App.ID, actor, inv.ID)
			refused(t, err, roster.Forbidden, "actor_invalid")
		}
	}
	if after := snapshot(t, own); after != before {
		t.Errorf("changed something:\n%s\nbefore:\n%s", after, before)
	}

	// A member's role is not changed from another app either.
	done(t, other.SetCompanyMember(t.Context(), other.App.ID, other.Company.ID, other.Outsider.ID, roster.RoleMember, noKey))
	err = own.SetCompanyMember(t.Context(), own.App.ID, other.Company.ID, other.Outsider.ID, roster.RoleAdmin, noKey)
	if role := rostertest.Value[string](t, own, `SELECT role FROM company_member WHERE account_id = $1`, other.Outsider.ID); role != roster.RoleMember {
		t.Errorf("role after a call of another app: got %s", role)
	}
	if err == nil {
		t.Error("a change of another app's member that did not happen was answered as success")
	}
}

func TestTenancyOfLists(t *testing.T) {
	t.Parallel()
	own := rostertest.Begin(t)
	other := own.Another(t)
	other.Invite(t, "ann@example.org")
	listen(t, other)
	if list, err := own.Endpoints(t.Context(), own.App.ID); err != nil || len(list) != 0 {
		t.Errorf("another app's endpoints show: %+v, %v", list, err)
	}
	list, _, err := own.Roster.Events(t.Context(), own.App.ID, roster.EventList{Limit: 100})
	done(t, err)
	for _, e := range list {
		if e.AppID != own.App.ID {
			t.Errorf("another app's event shows: %+v", e)
		}
	}
	_, key, err := other.CreateAPIKey(t.Context(), other.App.ID, "key")
	done(t, err)
	for _, l := range []roster.InvitationList{{}, {Workspace: other.Workspace.ID}, {State: roster.Pending}} {
		l.Limit = 10
		list, err := own.Invitations(t.Context(), own.App.ID, l)
		done(t, err)
		if len(list) != 0 {
			t.Errorf("list %+v shows another app's invitations", l)
		}
	}
	accounts, err := own.Accounts(t.Context(), own.App.ID, roster.AccountList{Limit: 10})
	done(t, err)
	found, err := own.Accounts(t.Context(), own.App.ID, roster.AccountList{Query: "stan", Limit: 10})
	done(t, err)
	for _, a := range append(accounts, found...) {
		if a.AppID != own.App.ID {
			t.Errorf("another app's account shows: %+v", a)
		}
	}
	if len(accounts) != 3 || len(found) != 1 {
		t.Errorf("got %d accounts and found %d, want 3 and 1", len(accounts), len(found))
	}
	companies, err := own.Companies(t.Context(), own.App.ID, uuid.Nil, 10)
	done(t, err)
	if len(companies) != 1 || companies[0].ID != own.Company.ID {
		t.Errorf("companies: got %+v", companies)
	}
	keys, err := own.APIKeys(t.Context(), own.App.ID)
	done(t, err)
	if slices.ContainsFunc(keys, func(k roster.APIKey) bool { return k.ID == key.ID }) {
		t.Error("another app's key shows")
	}
}

func TestTenancyOfMail(t *testing.T) {
	t.Parallel()
	own := rostertest.Begin(t)
	other := own.Another(t)
	accept(t, other, other.Invite(t, "ann@example.org"))
	m := onlyMail(t, own, other.Stakeholder.ID)
	for _, mixed := range []struct{ app, inviter uuid.UUID }{
		{own.App.ID, m.SubjectID},
		{own.App.ID, own.Stakeholder.ID},
		{m.AppID, other.Admin.ID},
	} {
		wrong := m
		wrong.AppID, wrong.SubjectID = mixed.app, mixed.inviter
		if l := letter(t, own, wrong); l.Skip == "" {
			t.Errorf("%+v: got %+v", mixed, l.News)
		}
	}
	theirs := onlyMail(t, own, other.Invite(t, "bea@example.org").ID)
	theirs.AppID = own.App.ID
	if l := letter(t, own, theirs); l.Skip == "" {
		t.Errorf("another app's invitation: got %+v", l.Invitation)
	}
}

func TestTenancyOfSessions(t *testing.T) {
	t.Parallel()
	own := rostertest.Begin(t)
	other := own.Another(t)
	value, _, err := own.StartSession(t.Context(), own.App.ID, other.Stakeholder.ID)
	if err == nil || value != "" {
		t.Errorf("signed in to another app's account: %q, %v", value, err)
	}
}
