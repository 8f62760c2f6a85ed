package web

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"usher/internal/roster"
)

func (s *Server) workspaceRoutes() {
	register(s, huma.Operation{
		OperationID: "create-workspace", Method: http.MethodPost, Path: "/v1/workspaces", Tags: []string{tagWorkspaces},
		DefaultStatus: http.StatusCreated, Errors: []int{404, 409}, Summary: "Add a workspace to a company",
	}, s.createWorkspace)
	register(s, huma.Operation{
		OperationID: "get-workspace", Method: http.MethodGet, Path: "/v1/workspaces/{id}", Tags: []string{tagWorkspaces},
		Summary: "Read a workspace", Errors: []int{404},
	}, func(ctx context.Context, in *Subject) (*ok[workspaceBody], error) {
		w, err := s.Roster.Workspace(ctx, requestOf(ctx).app, id(in.ID))
		return &ok[workspaceBody]{newWorkspaceBody(w)}, err
	})
	register(s, huma.Operation{
		OperationID: "rename-workspace", Method: http.MethodPost, Path: "/v1/workspaces/{id}", Tags: []string{tagWorkspaces},
		Summary: "Give a workspace another name", Errors: []int{403, 404, 409},
	}, s.renameWorkspace)
	register(s, huma.Operation{
		OperationID: "archive-workspace", Method: http.MethodPost, Path: "/v1/workspaces/{id}/archive", Tags: []string{tagWorkspaces},
		Summary: "Archive a workspace", Errors: []int{403, 404},
		Description: "Nobody sees it in their list any more, nobody joins it, and invitations to it that are open are revoked at the same moment: their links die. Archiving it again is a success.",
	}, func(ctx context.Context, in *struct {
		Subject
		Leading
		Keyed
	},
	) (*ok[workspaceBody], error) {
		w, err := s.Roster.ArchiveWorkspace(ctx, requestOf(ctx).app, id(in.Actor), id(in.ID), in.key(ctx, in.Actor, nil))
		return &ok[workspaceBody]{newWorkspaceBody(w)}, err
	})
	register(s, huma.Operation{
		OperationID: "join-workspace", Method: http.MethodPost, Path: "/v1/workspaces/{id}/join", Tags: []string{tagWorkspaces},
		Summary: "Join a workspace as an admin of its company", Errors: []int{403, 404, 409},
		Description: "The admin is a stakeholder with full visibility at once; nobody is asked. Who is in already stays as they are: `already_member`.",
	}, s.joinWorkspace)
	register(s, huma.Operation{
		OperationID: "list-workspace-members", Method: http.MethodGet, Path: "/v1/workspaces/{id}/members", Tags: []string{tagWorkspaces},
		Summary: "List a workspace's members", Errors: []int{404},
		Description: "Archived ones as well, until they are deleted.",
	}, s.listMembers)
	register(s, huma.Operation{
		OperationID: "update-workspace-member", Method: http.MethodPost, Path: "/v1/workspaces/{id}/members/{account_id}", Tags: []string{tagWorkspaces},
		Summary: "Change how much of a workspace a member sees", Errors: []int{403, 404, 409},
		Description: "Somebody has to be able to look after the workspace: where its company has no admin, the last stakeholder with full visibility keeps it (409 `last_stakeholder`).",
	}, s.updateMember)
	register(s, huma.Operation{
		OperationID: "archive-workspace-member", Method: http.MethodPost, Path: "/v1/workspaces/{id}/members/{account_id}/archive", Tags: []string{tagWorkspaces},
		Summary: "Archive a member of a workspace", Errors: []int{403, 404, 409},
		Description: "The person sees the workspace no more and may do nothing in it; the link they once accepted does not bring them back. Their open invitations to it are held, transferred or revoked, as the app's policy `orphaned_inviter` says. " +
			"The last stakeholder who can look after the workspace cannot go unless its company has an admin (409 `last_stakeholder`). Archiving again is a success; inviting or adding the person again lets them back in.",
	}, func(ctx context.Context, in *struct {
		MemberOf
		Leading
		Keyed
	},
	) (*ok[memberBody], error) {
		m, err := s.Roster.ArchiveMember(ctx, requestOf(ctx).app, id(in.Actor), id(in.ID), id(in.AccountID), in.key(ctx, in.Actor, nil))
		return &ok[memberBody]{newMemberBody(m)}, err
	})
	register(s, huma.Operation{
		OperationID: "delete-workspace-member", Method: http.MethodDelete, Path: "/v1/workspaces/{id}/members/{account_id}", Tags: []string{tagWorkspaces},
		Summary: "Delete an archived member of a workspace", Errors: []int{403, 404, 409},
		Description: "Answers who it was. One who is not archived gets 409 `member_not_archived`: archive them first.",
	}, func(ctx context.Context, in *struct {
		MemberOf
		Leading
	},
	) (*ok[memberBody], error) {
		m, err := s.Roster.DeleteMember(ctx, requestOf(ctx).app, id(in.Actor), id(in.ID), id(in.AccountID))
		return &ok[memberBody]{newMemberBody(m)}, err
	})
	register(s, huma.Operation{
		OperationID: "list-client-users", Method: http.MethodGet, Path: "/v1/workspaces/{id}/client-users", Tags: []string{tagWorkspaces},
		Summary: "List a workspace's client users, and those invited to become one, newest first", Errors: []int{404},
		Description: "An invitation shows from the moment it was made, as `pending`, until it is decided or over.",
	}, s.listClientUsers)
}

// Leading is the part of an input that says who acts, where it takes more than
// inviting.
type Leading struct {
	Actor string `header:"Usher-Actor" required:"true" format:"uuid" doc:"The account of the person who acts: a stakeholder of the workspace with full visibility, or an admin of its company."`
}

// Admin is the part of an input that says who acts, where only an admin may.
type Admin struct {
	Actor string `header:"Usher-Actor" required:"true" format:"uuid" doc:"The account of the person who acts: an admin of the company."`
}

// workspaceBody is a workspace in the API.
type workspaceBody struct {
	ID         string     `json:"id" format:"uuid"`
	CompanyID  string     `json:"company_id" format:"uuid"`
	Kind       string     `json:"kind" enum:"client_file,company,private"`
	Name       string     `json:"name"`
	State      string     `json:"state" enum:"active,archived"`
	CreatedAt  time.Time  `json:"created_at"`
	ArchivedAt *time.Time `json:"archived_at,omitempty"`
	Joined     *bool      `json:"joined,omitempty" doc:"Whether the admin who asks is a member of it. Only in the list of all of a company's workspaces."`
}

func newWorkspaceBody(w roster.Workspace) workspaceBody {
	return workspaceBody{
		ID: w.ID.String(), CompanyID: w.CompanyID.String(), Kind: w.Kind, Name: w.Name, State: w.State,
		CreatedAt: w.CreatedAt, ArchivedAt: w.ArchivedAt,
	}
}

func (s *Server) createWorkspace(ctx context.Context, in *struct {
	Keyed
	RawBody []byte
	Body    struct {
		CompanyID string `json:"company_id" format:"uuid"`
		Kind      string `json:"kind,omitempty" enum:"client_file,company,private" default:"client_file" doc:"A client's file, a company's workspace for its clients, or a private thread."`
		Name      string `json:"name" maxLength:"120" example:"Ann Example - Private"`
		OwnerID   string `json:"owner_id,omitempty" format:"uuid" doc:"The account that becomes its first stakeholder, with full visibility."`
	}
},
) (*created[workspaceBody], error) {
	w, err := s.Roster.CreateWorkspace(ctx, requestOf(ctx).app, roster.NewWorkspace{
		CompanyID: id(in.Body.CompanyID), Kind: in.Body.Kind, Name: in.Body.Name, OwnerID: id(in.Body.OwnerID),
	}, in.key(ctx, "", in.RawBody))
	return &created[workspaceBody]{http.StatusCreated, newWorkspaceBody(w)}, err
}

func (s *Server) renameWorkspace(ctx context.Context, in *struct {
	Subject
	Leading
	Keyed
	RawBody []byte
	Body    struct {
		Name string `json:"name" maxLength:"120" example:"Ann Example - Private"`
	}
},
) (*ok[workspaceBody], error) {
	w, err := s.Roster.RenameWorkspace(ctx, requestOf(ctx).app, id(in.Actor), id(in.ID), in.Body.Name, in.key(ctx, in.Actor, in.RawBody))
	return &ok[workspaceBody]{newWorkspaceBody(w)}, err
}

// memberBody is a workspace's member in the API.
type memberBody struct {
	AccountID         string     `json:"account_id" format:"uuid"`
	FullName          string     `json:"full_name"`
	Email             string     `json:"email"`
	Kind              string     `json:"kind" enum:"professional,client" doc:"Of the account."`
	Role              string     `json:"role" enum:"stakeholder,client_user"`
	Visibility        string     `json:"visibility" enum:"basic,standard,full" doc:"How much of the workspace they see. What belongs to each level is your app's to say."`
	State             string     `json:"state" enum:"active,archived"`
	AddedBy           string     `json:"added_by,omitempty" format:"uuid" doc:"The account that added or invited them. Missing: your app."`
	OriginWorkspaceID string     `json:"origin_workspace_id,omitempty" format:"uuid" doc:"The workspace they were added from."`
	CreatedAt         time.Time  `json:"created_at" doc:"When they joined."`
	ArchivedAt        *time.Time `json:"archived_at,omitempty"`
	AlreadyMember     bool       `json:"already_member,omitempty" doc:"Who joins was in already, and stays as they were."`
}

func newMemberBody(m roster.Member) memberBody {
	return memberBody{
		AccountID: m.AccountID.String(), FullName: m.FullName, Email: m.Email, Kind: m.Kind, Role: m.Role,
		Visibility: string(m.Visibility), State: m.State, AddedBy: idOrNone(m.AddedBy), OriginWorkspaceID: idOrNone(m.OriginID),
		CreatedAt: m.CreatedAt, ArchivedAt: m.ArchivedAt,
	}
}

// idOrNone is an id that may be missing.
func idOrNone(id *uuid.UUID) string {
	if id == nil {
		return ""
	}
	return id.String()
}

func (s *Server) listMembers(ctx context.Context, in *struct {
	Subject
	Paged
},
) (*ok[list[memberBody]], error) {
	rows, err := s.Roster.Members(ctx, requestOf(ctx).app, id(in.ID), id(in.After), in.Limit+1)
	return &ok[list[memberBody]]{listOf(rows, in.Limit, func(m roster.Member) uuid.UUID { return m.AccountID }, newMemberBody)}, err
}

func (s *Server) joinWorkspace(ctx context.Context, in *struct {
	Subject
	Admin
	Keyed
},
) (*ok[memberBody], error) {
	j, err := s.Roster.JoinWorkspace(ctx, requestOf(ctx).app, id(in.Actor), id(in.ID), in.key(ctx, in.Actor, nil))
	body := newMemberBody(j.Member)
	body.AlreadyMember = j.AlreadyMember
	return &ok[memberBody]{body}, err
}

func (s *Server) updateMember(ctx context.Context, in *struct {
	MemberOf
	Leading
	Keyed
	RawBody []byte
	Body    struct {
		Visibility string `json:"visibility" enum:"basic,standard,full"`
	}
},
) (*ok[memberBody], error) {
	m, err := s.Roster.SetVisibility(ctx, requestOf(ctx).app, id(in.Actor), id(in.ID), id(in.AccountID),
		roster.Visibility(in.Body.Visibility), in.key(ctx, in.Actor, in.RawBody))
	return &ok[memberBody]{newMemberBody(m)}, err
}

// clientUserBody is a client user in the API, or who is to become one.
type clientUserBody struct {
	AccountID    string     `json:"account_id,omitempty" format:"uuid" doc:"Missing for who is invited."`
	InvitationID string     `json:"invitation_id,omitempty" format:"uuid" doc:"Missing for a member."`
	FullName     string     `json:"full_name"`
	Email        string     `json:"email"`
	State        string     `json:"state" enum:"active,pending,on_hold" doc:"A member is active. An invitation is pending, or on_hold where its mail cannot be delivered or its inviter may no longer invite."`
	Visibility   string     `json:"visibility" enum:"basic,standard,full"`
	Since        time.Time  `json:"since" doc:"When they joined, or were invited."`
	ExpiresAt    *time.Time `json:"expires_at,omitempty" doc:"Until when the invitation can be accepted."`
}

func (s *Server) listClientUsers(ctx context.Context, in *struct {
	Subject
	Paged
},
) (*ok[list[clientUserBody]], error) {
	rows, err := s.Roster.ClientUsers(ctx, requestOf(ctx).app, id(in.ID), id(in.After), in.Limit+1)
	return &ok[list[clientUserBody]]{listOf(rows, in.Limit,
		func(u roster.ClientUser) uuid.UUID { return u.ID },
		func(u roster.ClientUser) clientUserBody {
			return clientUserBody{
				AccountID: idOrNone(u.AccountID), InvitationID: idOrNone(u.InvitationID), FullName: u.FullName, Email: u.Email,
				State: u.State, Visibility: string(u.Visibility), Since: u.Since, ExpiresAt: u.ExpiresAt,
			}
		})}, err
}
