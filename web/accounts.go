package web

import (
	"context"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"usher/internal/roster"
)

func (s *Server) accountRoutes() {
	register(s, huma.Operation{
		OperationID: "create-account", Method: http.MethodPost, Path: "/v1/accounts", Tags: []string{tagAccounts},
		DefaultStatus: http.StatusCreated, Errors: []int{409}, Summary: "Add an account for a person your app knows",
		Description: "Nobody is written to. An address that has an account gets 409 `email_in_use`, for a client with the three `options` there are; an address of a professional 409 `email_of_professional`, and a username that somebody has 409 `username_taken`.",
	}, s.createAccount)
	register(s, huma.Operation{
		OperationID: "list-accounts", Method: http.MethodGet, Path: "/v1/accounts", Tags: []string{tagAccounts},
		Summary: "Search or list accounts", Errors: []int{404},
		Description: "With `query`, those whose name has words that begin with the words asked for, in any order, and those whose address begins with it, in the order of what was found; accents and capitals make no difference. " +
			"A search has one page: ask for more letters rather than more rows. Without `query`, all of them by their ids. Archived and merged accounts are left out.",
	}, s.listAccounts)
	register(s, huma.Operation{
		OperationID: "get-account", Method: http.MethodGet, Path: "/v1/accounts/{id}", Tags: []string{tagAccounts},
		Summary: "Read an account", Errors: []int{404},
	}, func(ctx context.Context, in *Subject) (*ok[accountBody], error) {
		account, err := s.Roster.Account(ctx, requestOf(ctx).app, id(in.ID))
		return &ok[accountBody]{newAccountBody(account)}, err
	})
	register(s, huma.Operation{
		OperationID: "update-account", Method: http.MethodPost, Path: "/v1/accounts/{id}", Tags: []string{tagAccounts},
		Summary: "Change an account", Errors: []int{404, 409},
		Description: "What is missing from the body stays as it is. The address people log in by cannot be changed here: they have to show that a new one is theirs.",
	}, s.updateAccount)
	register(s, huma.Operation{
		OperationID: "archive-account", Method: http.MethodPost, Path: "/v1/accounts/{id}/archive", Tags: []string{tagAccounts},
		Summary: "Archive an account", Errors: []int{404, 409},
		Description: "For good: nobody logs in to it any more, it leaves its companies and workspaces, and its address is free for another account; its username is not. Its records stay. " +
			"Invitations it sent that are open are held, transferred or revoked, as the app's policy `orphaned_inviter` says. Archiving it again is a success.",
	}, func(ctx context.Context, in *struct {
		Subject
		Keyed
	},
	) (*ok[accountBody], error) {
		account, err := s.Roster.ArchiveAccount(ctx, requestOf(ctx).app, id(in.ID), in.key(ctx, "", nil))
		return &ok[accountBody]{newAccountBody(account)}, err
	})
	register(s, huma.Operation{
		OperationID: "list-account-workspaces", Method: http.MethodGet, Path: "/v1/accounts/{id}/workspaces", Tags: []string{tagAccounts},
		Summary: "List the workspaces a person shares", Errors: []int{404},
		Description: "Active ones only. Reading the list does not mark it as seen: see `POST /v1/accounts/{id}/workspaces/seen`.",
	}, s.listAccountWorkspaces)
	register(s, huma.Operation{
		OperationID: "see-account-workspaces", Method: http.MethodPost, Path: "/v1/accounts/{id}/workspaces/seen", Tags: []string{tagAccounts},
		Summary: "Say that a person has seen their list of workspaces", Errors: []int{404}, DefaultStatus: http.StatusOK,
		Description: "None of them is `new` any more. For apps that show the list themselves; Usher's own pages do it by themselves.",
	}, s.seeAccountWorkspaces)
	register(s, huma.Operation{
		OperationID: "list-account-companies", Method: http.MethodGet, Path: "/v1/accounts/{id}/companies", Tags: []string{tagAccounts},
		Summary: "List the companies that employ a person", Errors: []int{404},
	}, s.listAccountCompanies)
	register(s, huma.Operation{
		OperationID: "add-record", Method: http.MethodPost, Path: "/v1/accounts/{id}/records", Tags: []string{tagAccounts},
		Summary: "Note something your app keeps for a person", Errors: []int{404, 409}, DefaultStatus: http.StatusCreated,
		Description: "A record is a reference: your word for what it is, and your id. Adding it again answers 200 with the first; one that another account has gets 409 `record_elsewhere`.",
		Responses: map[string]*huma.Response{"200": {
			Description: "The account has it already.",
			Content:     map[string]*huma.MediaType{"application/json": {Schema: s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[recordBody](), true, "")}},
		}},
	}, s.addRecord)
	register(s, huma.Operation{
		OperationID: "list-records", Method: http.MethodGet, Path: "/v1/accounts/{id}/records", Tags: []string{tagAccounts},
		Summary: "List what your app keeps for a person", Errors: []int{403, 404},
		Description: "With `Usher-Actor`, as far as that person may see it: their own, or, for professionals, those of clients who gave their company access. Without, all of it, for your app itself.",
	}, s.listRecords)
	register(s, huma.Operation{
		OperationID: "remove-record", Method: http.MethodDelete, Path: "/v1/records/{id}", Tags: []string{tagAccounts},
		Summary: "Forget a record", Errors: []int{404},
		Description: "Answers what it was. What it stands for is yours to keep.",
	}, func(ctx context.Context, in *Subject) (*ok[recordBody], error) {
		rec, err := s.Roster.RemoveRecord(ctx, requestOf(ctx).app, id(in.ID))
		return &ok[recordBody]{newRecordBody(rec)}, err
	})
}

// accountBody is an account in the API.
type accountBody struct {
	ID              string    `json:"id" format:"uuid"`
	Kind            string    `json:"kind" enum:"professional,client"`
	Status          string    `json:"status" enum:"invited,active,temporary,merged,archived"`
	FullName        string    `json:"full_name"`
	Email           string    `json:"email,omitempty" doc:"As typed. Missing: the person has none of their own."`
	Username        string    `json:"username,omitempty" doc:"Another name to log in by, in small letters. Missing: none."`
	SecondaryEmails []string  `json:"secondary_emails,omitempty" doc:"As typed. Nobody logs in by them."`
	Locale          string    `json:"locale,omitempty" doc:"Missing: the app's."`
	TimeZone        string    `json:"time_zone,omitempty" doc:"Missing: the company's, then the app's."`
	BirthDate       string    `json:"birth_date,omitempty" doc:"Missing: not told." example:"1984-05-30"`
	CreatedAt       time.Time `json:"created_at"`
}

func newAccountBody(a roster.Account) accountBody {
	return accountBody{
		ID: a.ID.String(), Kind: a.Kind, Status: a.Status, FullName: a.FullName, Email: a.Email,
		Username: a.Username, SecondaryEmails: a.SecondaryEmails,
		Locale: a.Locale, TimeZone: a.TimeZone, BirthDate: a.BirthDate, CreatedAt: a.CreatedAt,
	}
}

func (s *Server) createAccount(ctx context.Context, in *struct {
	Keyed
	RawBody []byte
	Body    struct {
		Kind            string   `json:"kind" enum:"professional,client"`
		FullName        string   `json:"full_name" maxLength:"120" example:"Bea Example"`
		Email           string   `json:"email,omitempty" maxLength:"320" doc:"The address the person logs in by. A client may have none." example:"bea@example.org"`
		Username        string   `json:"username,omitempty" maxLength:"64" doc:"2 to 64 letters from a to z, digits, dots, hyphens, underscores or plus signs; capitals become small." example:"bea.example"`
		SecondaryEmails []string `json:"secondary_emails,omitempty" maxItems:"10" doc:"Further addresses of the person. Nobody logs in by them."`
		Locale          string   `json:"locale,omitempty" maxLength:"35" example:"fr"`
		TimeZone        string   `json:"time_zone,omitempty" maxLength:"64" example:"Europe/Paris"`
		BirthDate       string   `json:"birth_date,omitempty" maxLength:"10" doc:"Two accounts with different ones are not merged before somebody says that they are of one person." example:"1984-05-30"`
	}
},
) (*created[accountBody], error) {
	account, err := s.Roster.CreateAccount(ctx, requestOf(ctx).app, roster.NewAccount{
		Kind: in.Body.Kind, FullName: in.Body.FullName, Email: in.Body.Email, Locale: in.Body.Locale, TimeZone: in.Body.TimeZone,
		Username: in.Body.Username, SecondaryEmails: in.Body.SecondaryEmails, BirthDate: in.Body.BirthDate,
	}, in.key(ctx, "", in.RawBody))
	if in.Body.Kind == roster.Client {
		err = offerOptions(err, in.Body.Email, in.Body.FullName)
	}
	return &created[accountBody]{http.StatusCreated, newAccountBody(account)}, err
}

func (s *Server) listAccounts(ctx context.Context, in *struct {
	Paged
	Query     string `query:"query" maxLength:"254" doc:"The first letters of words of the name, or of the address." example:"ma lind"`
	CompanyID string `query:"company_id" format:"uuid" doc:"Only members of this company."`
	Kind      string `query:"kind" enum:"professional,client" doc:"Only of this kind."`
},
) (*ok[list[accountBody]], error) {
	l := roster.AccountList{Query: in.Query, Company: id(in.CompanyID), Kind: in.Kind, After: id(in.After), Limit: in.Limit}
	if in.Query == "" {
		l.Limit++ // to see whether there are more
	}
	rows, err := s.Roster.Accounts(ctx, requestOf(ctx).app, l)
	return &ok[list[accountBody]]{listOf(rows, in.Limit, func(a roster.Account) uuid.UUID { return a.ID }, newAccountBody)}, err
}

func (s *Server) updateAccount(ctx context.Context, in *struct {
	Subject
	Keyed
	RawBody []byte
	Body    struct {
		FullName        *string   `json:"full_name,omitempty" maxLength:"120" example:"Bea Example"`
		Username        *string   `json:"username,omitempty" maxLength:"64" doc:"Empty: none any more." example:"bea.example"`
		SecondaryEmails *[]string `json:"secondary_emails,omitempty" maxItems:"10" doc:"All of them: those that are missing are forgotten."`
		Locale          *string   `json:"locale,omitempty" maxLength:"35" doc:"Empty: the app's." example:"fr"`
		TimeZone        *string   `json:"time_zone,omitempty" maxLength:"64" doc:"Empty: the company's, then the app's." example:"Europe/Paris"`
		BirthDate       *string   `json:"birth_date,omitempty" maxLength:"10" doc:"Empty: not told." example:"1984-05-30"`
	}
},
) (*ok[accountBody], error) {
	account, err := s.Roster.ChangeAccount(ctx, requestOf(ctx).app, id(in.ID), roster.AccountChange{
		FullName: in.Body.FullName, Locale: in.Body.Locale, TimeZone: in.Body.TimeZone,
		Username: in.Body.Username, SecondaryEmails: in.Body.SecondaryEmails, BirthDate: in.Body.BirthDate,
	}, in.key(ctx, "", in.RawBody))
	return &ok[accountBody]{newAccountBody(account)}, err
}

// sharedBody is a workspace in the API as one of its members sees it.
type sharedBody struct {
	WorkspaceID string    `json:"workspace_id" format:"uuid"`
	Name        string    `json:"name"`
	Kind        string    `json:"kind" enum:"client_file,company,private"`
	CompanyName string    `json:"company_name"`
	Role        string    `json:"role" enum:"stakeholder,client_user"`
	Visibility  string    `json:"visibility" enum:"basic,standard,full"`
	New         bool      `json:"new,omitempty" doc:"The person has not seen it in their list yet."`
	JoinedAt    time.Time `json:"joined_at"`
}

func newSharedBody(w roster.AccountWorkspace) sharedBody {
	return sharedBody{w.ID.String(), w.Name, w.Kind, w.CompanyName, w.Role, string(w.Visibility), w.New, w.JoinedAt}
}

func (s *Server) listAccountWorkspaces(ctx context.Context, in *struct {
	Subject
	Paged
},
) (*ok[list[sharedBody]], error) {
	rows, err := s.Roster.AccountWorkspaces(ctx, requestOf(ctx).app, id(in.ID), id(in.After), in.Limit+1)
	return &ok[list[sharedBody]]{listOf(rows, in.Limit, func(w roster.AccountWorkspace) uuid.UUID { return w.ID }, newSharedBody)}, err
}

type seenBody struct {
	Seen bool `json:"seen"`
}

func (s *Server) seeAccountWorkspaces(ctx context.Context, in *struct {
	Subject
	Keyed
},
) (*ok[seenBody], error) {
	app := requestOf(ctx).app
	if _, err := s.Roster.Account(ctx, app, id(in.ID)); err != nil {
		return nil, err
	}
	return &ok[seenBody]{seenBody{true}}, s.Roster.SeeWorkspaces(ctx, app, id(in.ID))
}

// employmentBody is a company in the API as one of its members sees it.
type employmentBody struct {
	CompanyID   string    `json:"company_id" format:"uuid"`
	CompanyName string    `json:"company_name"`
	Role        string    `json:"role" enum:"admin,member"`
	CreatedAt   time.Time `json:"created_at" doc:"When the person became a member."`
}

func (s *Server) listAccountCompanies(ctx context.Context, in *struct {
	Subject
	Paged
},
) (*ok[list[employmentBody]], error) {
	rows, err := s.Roster.AccountCompanies(ctx, requestOf(ctx).app, id(in.ID), id(in.After), in.Limit+1)
	return &ok[list[employmentBody]]{listOf(rows, in.Limit,
		func(e roster.Employment) uuid.UUID { return e.CompanyID },
		func(e roster.Employment) employmentBody {
			return employmentBody{e.CompanyID.String(), e.CompanyName, e.Role, e.CreatedAt}
		})}, err
}

// recordBody is a record in the API.
type recordBody struct {
	ID         string    `json:"id" format:"uuid"`
	AccountID  string    `json:"account_id" format:"uuid"`
	Kind       string    `json:"kind" doc:"Your word." example:"programme"`
	ExternalID string    `json:"external_id" doc:"Your id." example:"4711"`
	CreatedAt  time.Time `json:"created_at"`
}

func newRecordBody(r roster.Record) recordBody {
	return recordBody{r.ID.String(), r.AccountID.String(), r.Kind, r.ExternalID, r.CreatedAt}
}

func (s *Server) addRecord(ctx context.Context, in *struct {
	Subject
	Keyed
	RawBody []byte
	Body    struct {
		Kind       string `json:"kind" maxLength:"40" doc:"Your word for what it is: letters from a to z, digits and underscores." example:"programme"`
		ExternalID string `json:"external_id" maxLength:"200" doc:"Your id of it. Only one account of the app has it." example:"4711"`
	}
},
) (*created[recordBody], error) {
	rec, added, err := s.Roster.AddRecord(ctx, requestOf(ctx).app, id(in.ID), in.Body.Kind, in.Body.ExternalID, in.key(ctx, "", in.RawBody))
	status := http.StatusOK
	if added {
		status = http.StatusCreated
	}
	return &created[recordBody]{status, newRecordBody(rec)}, err
}

func (s *Server) listRecords(ctx context.Context, in *struct {
	Subject
	Paged
	Actor string `header:"Usher-Actor" format:"uuid" doc:"Who looks. Missing: the app itself, which sees all."`
},
) (*ok[list[recordBody]], error) {
	rows, err := s.Roster.Records(ctx, requestOf(ctx).app, id(in.Actor), id(in.ID), id(in.After), in.Limit+1)
	return &ok[list[recordBody]]{listOf(rows, in.Limit, func(r roster.Record) uuid.UUID { return r.ID }, newRecordBody)}, err
}
