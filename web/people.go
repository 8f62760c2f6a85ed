package web

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"usher/internal/roster"
)

func (s *Server) peopleRoutes() {
	register(s, huma.Operation{
		OperationID: "create-account", Method: http.MethodPost, Path: "/v1/accounts", Tags: []string{tagPeople},
		DefaultStatus: http.StatusCreated, Errors: []int{409}, Summary: "Add an account for a person your app knows",
		Description: "Nobody is written to. An address that has an account gets 409 `email_in_use`.",
	}, s.createAccount)
	register(s, huma.Operation{
		OperationID: "get-account", Method: http.MethodGet, Path: "/v1/accounts/{id}", Tags: []string{tagPeople},
		Summary: "Read an account", Errors: []int{404},
	}, func(ctx context.Context, in *Subject) (*ok[accountBody], error) {
		account, err := s.Roster.Account(ctx, requestOf(ctx).app, id(in.ID))
		return &ok[accountBody]{newAccountBody(account)}, err
	})
	register(s, huma.Operation{
		OperationID: "create-company", Method: http.MethodPost, Path: "/v1/companies", Tags: []string{tagPeople},
		DefaultStatus: http.StatusCreated, Summary: "Add a company",
	}, s.createCompany)
	register(s, huma.Operation{
		OperationID: "set-company-member", Method: http.MethodPost, Path: "/v1/companies/{id}/members", Tags: []string{tagPeople},
		DefaultStatus: http.StatusOK, Errors: []int{404}, Summary: "Make an account a member of a company, or change its role",
	}, s.setCompanyMember)
	register(s, huma.Operation{
		OperationID: "create-workspace", Method: http.MethodPost, Path: "/v1/workspaces", Tags: []string{tagPeople},
		DefaultStatus: http.StatusCreated, Errors: []int{404}, Summary: "Add a workspace to a company",
	}, s.createWorkspace)
	register(s, huma.Operation{
		OperationID: "list-workspace-members", Method: http.MethodGet, Path: "/v1/workspaces/{id}/members", Tags: []string{tagPeople},
		Summary: "List a workspace's members", Errors: []int{404},
	}, s.listMembers)
}

// accountBody is an account in the API.
type accountBody struct {
	ID        string    `json:"id" format:"uuid"`
	Kind      string    `json:"kind" enum:"professional,client"`
	Status    string    `json:"status" enum:"invited,active,temporary,merged,archived"`
	FullName  string    `json:"full_name"`
	Email     string    `json:"email" doc:"As typed."`
	Locale    string    `json:"locale,omitempty" doc:"Missing: the app's."`
	TimeZone  string    `json:"time_zone,omitempty" doc:"Missing: the company's, then the app's."`
	CreatedAt time.Time `json:"created_at"`
}

func newAccountBody(a roster.Account) accountBody {
	return accountBody{
		ID: a.ID.String(), Kind: a.Kind, Status: a.Status, FullName: a.FullName, Email: a.Email,
		Locale: a.Locale, TimeZone: a.TimeZone, CreatedAt: a.CreatedAt,
	}
}

func (s *Server) createAccount(ctx context.Context, in *struct {
	Keyed
	RawBody []byte
	Body    struct {
		Kind     string `json:"kind" enum:"professional,client"`
		FullName string `json:"full_name" maxLength:"120" example:"Bea Example"`
		Email    string `json:"email" maxLength:"320" example:"bea@example.org"`
		Locale   string `json:"locale,omitempty" maxLength:"35" example:"fr"`
		TimeZone string `json:"time_zone,omitempty" maxLength:"64" example:"Europe/Paris"`
	}
},
) (*created[accountBody], error) {
	account, err := s.Roster.CreateAccount(ctx, requestOf(ctx).app, roster.NewAccount{
		Kind: in.Body.Kind, FullName: in.Body.FullName, Email: in.Body.Email, Locale: in.Body.Locale, TimeZone: in.Body.TimeZone,
	}, in.key(ctx, "", in.RawBody))
	return &created[accountBody]{http.StatusCreated, newAccountBody(account)}, err
}

// companyBody is a company in the API.
type companyBody struct {
	ID        string    `json:"id" format:"uuid"`
	Name      string    `json:"name"`
	TimeZone  string    `json:"time_zone,omitempty" doc:"Missing: the app's."`
	CreatedAt time.Time `json:"created_at"`
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
	return &created[companyBody]{http.StatusCreated, companyBody{c.ID.String(), c.Name, c.TimeZone, c.CreatedAt}}, err
}

type companyMemberBody struct {
	AccountID string `json:"account_id" format:"uuid"`
	Role      string `json:"role" enum:"admin,member"`
}

func (s *Server) setCompanyMember(ctx context.Context, in *struct {
	Subject
	Keyed
	RawBody []byte
	Body    companyMemberBody
},
) (*ok[companyMemberBody], error) {
	err := s.Roster.SetCompanyMember(ctx, requestOf(ctx).app, id(in.ID), id(in.Body.AccountID), in.Body.Role, in.key(ctx, "", in.RawBody))
	return &ok[companyMemberBody]{in.Body}, err
}

// workspaceBody is a workspace in the API.
type workspaceBody struct {
	ID        string    `json:"id" format:"uuid"`
	CompanyID string    `json:"company_id" format:"uuid"`
	Name      string    `json:"name"`
	State     string    `json:"state" enum:"active,archived"`
	CreatedAt time.Time `json:"created_at"`
}

func (s *Server) createWorkspace(ctx context.Context, in *struct {
	Keyed
	RawBody []byte
	Body    struct {
		CompanyID string `json:"company_id" format:"uuid"`
		Name      string `json:"name" maxLength:"120" example:"Ann Example - Private"`
		OwnerID   string `json:"owner_id,omitempty" format:"uuid" doc:"The account that becomes its first stakeholder."`
	}
},
) (*created[workspaceBody], error) {
	w, err := s.Roster.CreateWorkspace(ctx, requestOf(ctx).app, id(in.Body.CompanyID), in.Body.Name, id(in.Body.OwnerID), in.key(ctx, "", in.RawBody))
	return &created[workspaceBody]{http.StatusCreated, workspaceBody{w.ID.String(), w.CompanyID.String(), w.Name, w.State, w.CreatedAt}}, err
}

// memberBody is a workspace's member in the API.
type memberBody struct {
	AccountID string    `json:"account_id" format:"uuid"`
	FullName  string    `json:"full_name"`
	Email     string    `json:"email"`
	Role      string    `json:"role" enum:"stakeholder,client_user"`
	State     string    `json:"state" enum:"active,archived"`
	CreatedAt time.Time `json:"created_at"`
}

func (s *Server) listMembers(ctx context.Context, in *struct {
	Subject
	Paged
},
) (*ok[list[memberBody]], error) {
	rows, err := s.Roster.Members(ctx, requestOf(ctx).app, id(in.ID), id(in.After), in.Limit+1)
	return &ok[list[memberBody]]{listOf(rows, in.Limit,
		func(m roster.Member) uuid.UUID { return m.AccountID },
		func(m roster.Member) memberBody {
			return memberBody{m.AccountID.String(), m.FullName, m.Email, m.Role, m.State, m.CreatedAt}
		})}, err
}
