package web

import (
	"context"
	"net/http"

	"github.com/danielgtaylor/huma/v2"

	"usher/internal/roster"
)

func (s *Server) memberRoutes() {
	register(s, huma.Operation{
		OperationID: "add-account-to-workspaces", Method: http.MethodPost, Path: "/v1/accounts/{id}/workspaces", Tags: []string{tagInvitations},
		DefaultStatus: http.StatusOK, Errors: []int{403, 404},
		Summary:     "Add an account to many workspaces at once",
		Description: "Each workspace has an outcome of its own, in the order of the request: a refusal of one troubles no other, and the same request again adds nothing. The person gets no mail and one notice of all.",
	}, s.addToWorkspaces)
}

// direct tells whether invitations of a kind are accepted at once.
func direct(kind string) bool {
	return kind == roster.KindColleague || kind == roster.KindExistingUser
}

// fits refuses a mixture of an invitation by address and one of an account.
func (in *createInvitationInput) fits() error {
	b := in.Body
	switch {
	case direct(b.Kind) && b.AccountID == "":
		return misfit("account_id", "account_missing", "Say in account_id who is to be added.")
	case direct(b.Kind) && b.Email != "":
		return misfit("email", "email_unwanted", "An account is added by its account_id; leave the email out.")
	case !direct(b.Kind) && b.AccountID != "":
		return misfit("account_id", "account_unwanted", "An invitation of this kind goes to an email; leave account_id out.")
	case !direct(b.Kind) && b.OriginID != "":
		return misfit("origin_workspace_id", "origin_unwanted", "Only an existing_user is picked from a workspace; leave origin_workspace_id out.")
	case b.Kind != roster.KindExternal && b.Warning != nil:
		return misfit("warning", "warning_unwanted", "Only an external_professional comes with a warning; leave it out.")
	}
	return nil
}

// misfit is the refusal of an input that belongs to another kind.
func misfit(field, code, detail string) error {
	p := newProblem(http.StatusUnprocessableEntity, code, detail)
	p.Field = field
	return p
}

// addMember is createInvitation for the kinds that are accepted at once.
func (s *Server) addMember(ctx context.Context, in *createInvitationInput) (*created[invitationBody], error) {
	out, err := s.Roster.AddMembers(ctx, requestOf(ctx).app, id(in.Actor), []roster.NewMember{in.member()}, in.key(ctx, in.Actor, in.RawBody))
	if err != nil {
		return nil, err
	}
	return s.addedBody(in, out[0])
}

// member is what the input asks for, of the kinds that are accepted at once.
func (in *createInvitationInput) member() roster.NewMember {
	return roster.NewMember{
		Kind: in.Body.Kind, WorkspaceID: id(in.Body.WorkspaceID), AccountID: id(in.Body.AccountID),
		Visibility: roster.Visibility(in.Body.Visibility), OriginID: id(in.Body.OriginID),
	}
}

// addedBody is the answer to it.
func (s *Server) addedBody(in *createInvitationInput, added roster.AddedMember) (*created[invitationBody], error) {
	switch {
	case added.Err != nil:
		return nil, added.Err
	case added.AlreadyMember:
		return &created[invitationBody]{http.StatusOK, invitationBody{
			Kind: in.Body.Kind, WorkspaceID: in.Body.WorkspaceID, InviterID: in.Actor, WorkspaceName: added.WorkspaceName,
			State: "already_member", Delivery: string(roster.NotMailed), AccountID: in.Body.AccountID, AlreadyMember: true,
		}}, nil
	}
	body := s.invitationBody(added.Invitation, false)
	body.WorkspaceName, body.OriginWorkspaceName = added.WorkspaceName, added.OriginName
	body.Membership = &membershipBody{added.Invitation.Role(), string(added.Invitation.Visibility), "active"}
	return &created[invitationBody]{http.StatusCreated, body}, nil
}

// addedRow is what became of one workspace.
type addedRow struct {
	WorkspaceID   string `json:"workspace_id" format:"uuid"`
	Outcome       string `json:"outcome" enum:"added,already_member,refused"`
	WorkspaceName string `json:"workspace_name,omitempty"`
	InvitationID  string `json:"invitation_id,omitempty" format:"uuid" doc:"The accepted invitation that records the addition."`
	Code          string `json:"code,omitempty" doc:"Why it was refused, for programs." example:"actor_not_allowed"`
	Detail        string `json:"detail,omitempty" doc:"Why it was refused and what to do, for people."`
}

// addedRows is the answer to many additions.
type addedRows struct {
	Added int        `json:"added" doc:"How many workspaces are new to the account."`
	Items []addedRow `json:"items"`
}

func (s *Server) addToWorkspaces(ctx context.Context, in *struct {
	Subject
	Acting
	Keyed
	RawBody []byte
	Body    struct {
		Kind         string   `json:"kind,omitempty" enum:"colleague,existing_user" default:"colleague"`
		WorkspaceIDs []string `json:"workspace_ids" minItems:"1" maxItems:"1000" format:"uuid"`
		Visibility   string   `json:"visibility,omitempty" enum:"basic,standard,full" default:"full" doc:"How much of each workspace the person sees."`
		OriginID     string   `json:"origin_workspace_id,omitempty" format:"uuid" doc:"The workspace the person was picked from. Of existing_user."`
	}
},
) (*ok[addedRows], error) {
	rows := make([]roster.NewMember, len(in.Body.WorkspaceIDs))
	for i, workspace := range in.Body.WorkspaceIDs {
		rows[i] = roster.NewMember{
			Kind: in.Body.Kind, WorkspaceID: id(workspace), AccountID: id(in.ID),
			Visibility: roster.Visibility(in.Body.Visibility), OriginID: id(in.Body.OriginID),
		}
	}
	out, err := s.Roster.AddMembers(ctx, requestOf(ctx).app, id(in.Actor), rows, in.key(ctx, in.Actor, in.RawBody))
	if err != nil {
		return nil, err
	}
	answer := addedRows{Items: make([]addedRow, len(out))}
	for i, added := range out {
		row := addedRow{WorkspaceID: in.Body.WorkspaceIDs[i], Outcome: "added", WorkspaceName: added.WorkspaceName}
		switch {
		case added.Err != nil && (added.Err.Code == "actor_invalid" || added.Err.Code == "account_not_found"):
			return nil, added.Err // that of all of them
		case added.Err != nil:
			row.Outcome, row.Code, row.Detail = "refused", added.Err.Code, added.Err.Message
		case added.AlreadyMember:
			row.Outcome = "already_member"
		default:
			row.InvitationID = added.Invitation.ID.String()
			answer.Added++
		}
		answer.Items[i] = row
	}
	return &ok[addedRows]{answer}, nil
}
