package web

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"usher/internal/roster"
)

func (s *Server) companyRoutes() {
	register(s, huma.Operation{
		OperationID: "create-company", Method: http.MethodPost, Path: "/v1/companies", Tags: []string{tagCompanies},
		DefaultStatus: http.StatusCreated, Summary: "Add a company",
	}, s.createCompany)
	register(s, huma.Operation{
		OperationID: "list-companies", Method: http.MethodGet, Path: "/v1/companies", Tags: []string{tagCompanies},
		Summary: "List companies",
	}, s.listCompanies)
	register(s, huma.Operation{
		OperationID: "get-company", Method: http.MethodGet, Path: "/v1/companies/{id}", Tags: []string{tagCompanies},
		Summary: "Read a company", Errors: []int{404},
	}, func(ctx context.Context, in *Subject) (*ok[companyBody], error) {
		c, err := s.Roster.Company(ctx, requestOf(ctx).app, id(in.ID))
		return &ok[companyBody]{newCompanyBody(c)}, err
	})
	register(s, huma.Operation{
		OperationID: "set-company-member", Method: http.MethodPost, Path: "/v1/companies/{id}/members", Tags: []string{tagCompanies},
		DefaultStatus: http.StatusOK, Errors: []int{404, 409}, Summary: "Make an account a member of a company, or change its role",
		Description: "Members are each other's colleagues. An admin also sees all the company's workspaces and looks after them. Of who is an admin no more, open invitations to workspaces they are no stakeholder of are held, transferred or revoked, as the app's policy `orphaned_inviter` says.",
	}, s.setCompanyMember)
	register(s, huma.Operation{
		OperationID: "list-company-members", Method: http.MethodGet, Path: "/v1/companies/{id}/members", Tags: []string{tagCompanies},
		Summary: "List a company's members", Errors: []int{404},
		Description: "To find a colleague by the first letters of a name, search `/v1/accounts` with `company_id`.",
	}, s.listCompanyMembers)
	register(s, huma.Operation{
		OperationID: "remove-company-member", Method: http.MethodDelete, Path: "/v1/companies/{id}/members/{account_id}", Tags: []string{tagCompanies},
		Summary: "Take an account out of a company", Errors: []int{404},
		Description: "Answers who it was. The person stays a stakeholder of the workspaces they share: archive those memberships too where they shall end. Open invitations to workspaces they looked after as an admin go the way of the app's policy `orphaned_inviter`.",
	}, func(ctx context.Context, in *MemberOf) (*ok[companyMemberBody], error) {
		m, err := s.Roster.RemoveCompanyMember(ctx, requestOf(ctx).app, id(in.ID), id(in.AccountID))
		return &ok[companyMemberBody]{newCompanyMemberBody(m)}, err
	})
	register(s, huma.Operation{
		OperationID: "list-company-workspaces", Method: http.MethodGet, Path: "/v1/companies/{id}/workspaces", Tags: []string{tagCompanies},
		Summary: "List all of a company's workspaces, to one of its admins", Errors: []int{403, 404},
		Description: "Also those the admin is no member of: see `POST /v1/workspaces/{id}/join`.",
	}, s.listCompanyWorkspaces)
}

// MemberOf is the part of an input that names a member of something.
type MemberOf struct {
	Subject
	AccountID string `path:"account_id" format:"uuid"`
}

// companyBody is a company in the API.
type companyBody struct {
	ID        string    `json:"id" format:"uuid"`
	Name      string    `json:"name"`
	TimeZone  string    `json:"time_zone,omitempty" doc:"Missing: the app's."`
	CreatedAt time.Time `json:"created_at"`
}

func newCompanyBody(c roster.Company) companyBody {
	return companyBody{c.ID.String(), c.Name, c.TimeZone, c.CreatedAt}
}

func (s *Server) createCompany(ctx context.Context, in *struct {
	Keyed
	RawBody []byte
	Body    struct {
		Name     string `json:"name" maxLength:"120" example:"Harbour Physio"`
		TimeZone string `json:"time_zone,omitempty" maxLength:"64" example:"Europe/Madrid"`
	}
},
) (*created[companyBody], error) {
	c, err := s.Roster.CreateCompany(ctx, requestOf(ctx).app, in.Body.Name, in.Body.TimeZone, in.key(ctx, "", in.RawBody))
	return &created[companyBody]{http.StatusCreated, newCompanyBody(c)}, err
}

func (s *Server) listCompanies(ctx context.Context, in *Paged) (*ok[list[companyBody]], error) {
	rows, err := s.Roster.Companies(ctx, requestOf(ctx).app, id(in.After), in.Limit+1)
	return &ok[list[companyBody]]{listOf(rows, in.Limit, func(c roster.Company) uuid.UUID { return c.ID }, newCompanyBody)}, err
}

// companyMemberBody is a company's member in the API.
type companyMemberBody struct {
	AccountID string    `json:"account_id" format:"uuid"`
	FullName  string    `json:"full_name"`
	Email     string    `json:"email"`
	Role      string    `json:"role" enum:"admin,member"`
	CreatedAt time.Time `json:"created_at" doc:"When the person became a member."`
}

func newCompanyMemberBody(m roster.CompanyMember) companyMemberBody {
	return companyMemberBody{m.AccountID.String(), m.FullName, m.Email, m.Role, m.CreatedAt}
}

// setCompanyMemberBody is who is to be a member of a company, and as what.
type setCompanyMemberBody struct {
	AccountID string `json:"account_id" format:"uuid"`
	Role      string `json:"role" enum:"admin,member"`
}

func (s *Server) setCompanyMember(ctx context.Context, in *struct {
	Subject
	Keyed
	RawBody []byte
	Body    setCompanyMemberBody
},
) (*ok[setCompanyMemberBody], error) {
	err := s.Roster.SetCompanyMember(ctx, requestOf(ctx).app, id(in.ID), id(in.Body.AccountID), in.Body.Role, in.key(ctx, "", in.RawBody))
	return &ok[setCompanyMemberBody]{in.Body}, err
}

func (s *Server) listCompanyMembers(ctx context.Context, in *struct {
	Subject
	Paged
},
) (*ok[list[companyMemberBody]], error) {
	rows, err := s.Roster.CompanyMembers(ctx, requestOf(ctx).app, id(in.ID), id(in.After), in.Limit+1)
	return &ok[list[companyMemberBody]]{listOf(rows, in.Limit, func(m roster.CompanyMember) uuid.UUID { return m.AccountID }, newCompanyMemberBody)}, err
}

func (s *Server) listCompanyWorkspaces(ctx context.Context, in *struct {
	Subject
	Admin
	Paged
	State string `query:"state" enum:"active,archived" doc:"Only in this state."`
},
) (*ok[list[workspaceBody]], error) {
	rows, err := s.Roster.CompanyWorkspaces(ctx, requestOf(ctx).app, id(in.Actor), id(in.ID), in.State, id(in.After), in.Limit+1)
	return &ok[list[workspaceBody]]{listOf(rows, in.Limit,
		func(w roster.CompanyWorkspace) uuid.UUID { return w.ID },
		func(w roster.CompanyWorkspace) workspaceBody {
			b := newWorkspaceBody(w.Workspace)
			b.Joined = &w.Joined
			return b
		})}, err
}
