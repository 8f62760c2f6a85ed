package web

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"usher/internal/mail"
	"usher/internal/roster"
)

func (s *Server) accessRequestRoutes() {
	register(s, huma.Operation{
		OperationID: "check-address", Method: http.MethodPost, Path: "/v1/access-requests/check", Tags: []string{tagAccess}, DefaultStatus: http.StatusOK,
		Summary: "Ask whether an address has an account, before a client is created with it", Errors: []int{403, 409},
		Description: "An address in use gets exactly the three options there are, each a call that is ready to be made. Nothing else is told of the account. An address of a professional gets 409 `email_of_professional`, no address 422 `needs_address`.",
	}, s.checkAddress)
	register(s, huma.Operation{
		OperationID: "create-access-request", Method: http.MethodPost, Path: "/v1/access-requests", Tags: []string{tagAccess}, DefaultStatus: http.StatusCreated,
		Summary: "Ask for access to a client's account, make the client another one, or both", Errors: []int{403, 409, 429},
		Description: "`request` mails the holder of the address and puts the request into their inbox. `new_account` makes a separate account at once: its person logs in by a username, made of what stands before the address's @, and gets a mail to create a password; the address is a secondary one there. " +
			"`request_with_temporary` asks, and makes an account that can be used meanwhile. While a request is open, asking again answers it with `duplicate: true` and status 200; access that was given already answers `already_granted: true`. After a denial the same company waits, as the app's policy `request_cool_off_days` says.",
		Responses: map[string]*huma.Response{"200": {
			Description: "There was one already: `duplicate` or `already_granted` is true.",
			Content:     map[string]*huma.MediaType{"application/json": {Schema: s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[accessRequestBody](), true, "")}},
		}},
	}, s.createAccessRequest)
	register(s, huma.Operation{
		OperationID: "list-access-requests", Method: http.MethodGet, Path: "/v1/access-requests", Tags: []string{tagAccess},
		Summary: "List access requests, newest first",
	}, s.listAccessRequests)
	register(s, huma.Operation{
		OperationID: "get-access-request", Method: http.MethodGet, Path: "/v1/access-requests/{id}", Tags: []string{tagAccess},
		Summary: "Read an access request", Errors: []int{404},
	}, func(ctx context.Context, in *Subject) (*ok[accessRequestBody], error) {
		q, err := s.Roster.AccessRequest(ctx, requestOf(ctx).app, id(in.ID))
		return &ok[accessRequestBody]{s.accessRequestBody(q)}, err
	})

	steer := func(action, summary, description string, op func(context.Context, uuid.UUID, uuid.UUID, uuid.UUID, roster.IdempotencyKey) (roster.AccessRequest, error)) {
		register(s, huma.Operation{
			OperationID: action + "-access-request", Method: http.MethodPost, Path: "/v1/access-requests/{id}/" + action, Tags: []string{tagAccess},
			Summary: summary, Description: description, Errors: []int{403, 404, 409, 410, 429},
		}, func(ctx context.Context, in *struct {
			Subject
			Requesting
			Keyed
		},
		) (*ok[accessRequestBody], error) {
			q, err := op(ctx, requestOf(ctx).app, id(in.Actor), id(in.ID), in.key(ctx, in.Actor, nil))
			return &ok[accessRequestBody]{s.accessRequestBody(q)}, err
		})
	}
	steer("cancel", "Withdraw an open access request", "Its links die, and a temporary account becomes a separate one. Cancelling it again is a success.", s.Roster.CancelRequest)
	steer("resend", "Mail an access request again", "With the same link; of `new_account`, the mail to create a password. One mail an hour, three times at most, unless your policy says otherwise.", s.Roster.ResendRequest)
	register(s, huma.Operation{
		OperationID: "correct-access-request-address", Method: http.MethodPost, Path: "/v1/access-requests/{id}/correct-address", Tags: []string{tagAccess},
		Summary: "Correct the address of an open access request", Errors: []int{403, 404, 409, 410},
		Description: "An account has to have the new address. Links sent to the old one die, and a mail goes to the new one at once.",
	}, func(ctx context.Context, in *struct {
		Subject
		Requesting
		Keyed
		RawBody []byte
		Body    struct {
			Email string `json:"email" maxLength:"320" example:"cleo@example.org"`
		}
	},
	) (*ok[accessRequestBody], error) {
		q, err := s.Roster.CorrectRequestAddress(ctx, requestOf(ctx).app, id(in.Actor), id(in.ID), in.Body.Email, in.key(ctx, in.Actor, in.RawBody))
		return &ok[accessRequestBody]{s.accessRequestBody(q)}, err
	})
	register(s, huma.Operation{
		OperationID: "approve-access-request", Method: http.MethodPost, Path: "/v1/access-requests/{id}/approve", Tags: []string{tagAccess},
		Summary: "Give access, in the name of the client", Errors: []int{403, 404, 409, 410},
		Description: "For your own pages: you vouch that the client is logged in. Usher's page and inbox do the same.",
	}, func(ctx context.Context, in *struct {
		Subject
		Client
		Keyed
		Body *struct {
			Visibility string `json:"visibility,omitempty" enum:"basic,standard,full" doc:"How much of the account they see. Missing: standard."`
		}
	},
	) (*ok[accessRequestBody], error) {
		var v roster.Visibility
		if in.Body != nil {
			v = roster.Visibility(in.Body.Visibility)
		}
		q, err := s.Roster.ApproveRequestAs(ctx, requestOf(ctx).app, id(in.Actor), id(in.ID), v, in.key(ctx, in.Actor, []byte(v)))
		return &ok[accessRequestBody]{s.accessRequestBody(q)}, err
	})
	register(s, huma.Operation{
		OperationID: "deny-access-request", Method: http.MethodPost, Path: "/v1/access-requests/{id}/deny", Tags: []string{tagAccess},
		Summary: "Refuse access, in the name of the client", Errors: []int{403, 404, 409, 410},
		Description: "Who asked learns that the answer is no, and no reason.",
	}, func(ctx context.Context, in *struct {
		Subject
		Client
		Keyed
		Body *struct {
			Reported bool `json:"reported,omitempty" doc:"The client says that the request is not about them at all."`
		}
	},
	) (*ok[accessRequestBody], error) {
		reported, meaning := in.Body != nil && in.Body.Reported, []byte(nil)
		if reported {
			meaning = []byte("reported") // what tells it from the same request without
		}
		q, err := s.Roster.DenyRequestAs(ctx, requestOf(ctx).app, id(in.Actor), id(in.ID), reported, in.key(ctx, in.Actor, meaning))
		return &ok[accessRequestBody]{s.accessRequestBody(q)}, err
	})
	register(s, huma.Operation{
		OperationID: "revoke-access-request", Method: http.MethodPost, Path: "/v1/access-requests/{id}/revoke", Tags: []string{tagAccess},
		Summary: "End access that was given", Errors: []int{403, 404, 409},
		Description: "In the name of the client, or, without `Usher-Actor`, of the app. Ending it again is a success.",
	}, func(ctx context.Context, in *struct {
		Subject
		Keyed
		Actor string `header:"Usher-Actor" format:"uuid" doc:"The client's account. Missing: the app itself."`
	},
	) (*ok[accessRequestBody], error) {
		q, err := s.Roster.RevokeRequestAs(ctx, requestOf(ctx).app, id(in.Actor), id(in.ID), in.key(ctx, in.Actor, nil))
		return &ok[accessRequestBody]{s.accessRequestBody(q)}, err
	})
	register(s, huma.Operation{
		OperationID: "authorize-access-request", Method: http.MethodPost, Path: "/v1/access-requests/{id}/authorize", Tags: []string{tagAccess},
		Summary: "Give access by hand, on the client's written statement", Errors: []int{404, 409},
		Description: "For your support, where mail does not reach the client. What it was done on is kept. Every address of the client is told, and their inbox: with one click there, access ends. It is never done over a denial.",
	}, s.authorizeAccessRequest)
}

// Requesting is the part of an input that says which professional acts.
type Requesting struct {
	Actor string `header:"Usher-Actor" required:"true" format:"uuid" doc:"The account of the professional who acts: a member of the company that asks."`
}

// Client is the part of an input that says which client decides.
type Client struct {
	Actor string `header:"Usher-Actor" required:"true" format:"uuid" doc:"The account of the client who decides. It has to have the address of the request."`
}

// requestOption is one of the three things that can be done about an address
// that has an account, as a call that is ready to be made.
type requestOption struct {
	Option  string            `json:"option" enum:"request,new_account,request_with_temporary"`
	Summary string            `json:"summary" doc:"What it does, for people."`
	Method  string            `json:"method" enum:"POST"`
	Path    string            `json:"path" example:"/v1/access-requests"`
	Body    map[string]string `json:"body" doc:"Add full_name where it is missing."`
}

// requestOptions are the options for an address, with what is known of the
// client so far.
func requestOptions(email, name, company string) []requestOption {
	summaries := map[string]string{
		roster.OptionRequest:    "Ask the client for access to the account they have.",
		roster.OptionNewAccount: "Make the client a separate account, with a username of its own.",
		roster.OptionTemporary:  "Ask, and work with a temporary account meanwhile.",
	}
	options := make([]requestOption, len(roster.Options))
	for i, option := range roster.Options {
		body := map[string]string{"option": option, "email": email}
		if name != "" {
			body["full_name"] = name
		}
		if company != "" {
			body["company_id"] = company
		}
		options[i] = requestOption{option, summaries[option], http.MethodPost, "/v1/access-requests", body}
	}
	return options
}

// offerOptions adds the options to the refusal of a client whose address is in
// use.
func offerOptions(err error, email, name string) error {
	var refusal *roster.Error
	if !errors.As(err, &refusal) || refusal.Code != "email_in_use" {
		return err
	}
	p, _ := problemOf(err)
	p.Options = requestOptions(email, name, "")
	return p
}

// addressCheckBody is what is told of an address.
type addressCheckBody struct {
	InUse          bool            `json:"in_use"`
	AlreadyGranted bool            `json:"already_granted,omitempty" doc:"The company has access to the account."`
	RequestID      string          `json:"request_id,omitempty" format:"uuid" doc:"The company's open request for this address."`
	Options        []requestOption `json:"options,omitempty" doc:"What can be done, where it is in use."`
}

func (s *Server) checkAddress(ctx context.Context, in *struct {
	Requesting
	Body struct {
		Email     string `json:"email,omitempty" maxLength:"320" example:"cleo@example.org"`
		CompanyID string `json:"company_id,omitempty" format:"uuid" doc:"Of the professional. Missing: the only one they have."`
	}
},
) (*ok[addressCheckBody], error) {
	c, err := s.Roster.CheckAddress(ctx, requestOf(ctx).app, id(in.Actor), id(in.Body.CompanyID), in.Body.Email)
	if err != nil {
		return nil, err
	}
	b := addressCheckBody{InUse: c.InUse, AlreadyGranted: c.AlreadyGranted}
	if c.OpenID != nil {
		b.RequestID = c.OpenID.String()
	}
	if c.InUse {
		b.Options = requestOptions(in.Body.Email, "", in.Body.CompanyID)
	}
	return &ok[addressCheckBody]{b}, nil
}

// accessRequestBody is an access request in the API.
type accessRequestBody struct {
	ID          string        `json:"id,omitempty" format:"uuid" doc:"Missing where already_granted."`
	Option      string        `json:"option" enum:"request,new_account,request_with_temporary"`
	CompanyID   string        `json:"company_id,omitempty" format:"uuid" doc:"Who is to have access."`
	RequesterID string        `json:"requester_id,omitempty" format:"uuid" doc:"The professional who asked."`
	Email       string        `json:"email" doc:"As typed."`
	FullName    string        `json:"full_name,omitempty" doc:"As typed."`
	Locale      string        `json:"locale,omitempty"`
	Message     string        `json:"message,omitempty"`
	State       string        `json:"state" enum:"pending,on_hold,approved,granted,denied,expired,cancelled,revoked,already_granted" doc:"approved: the client said yes by the mail, and has yet to log in to the account meant. new_account is granted from the start."`
	Delivery    string        `json:"delivery" enum:"none,queued,held,sending,accepted,delayed,delivered,bounced,complained,suppressed,failed,cancelled,uncertain" doc:"What happened to the newest mail, as with invitations."`
	Detail      *delivery     `json:"delivery_detail,omitempty" doc:"What is to be said of the newest mail, where there is something."`
	Hint        string        `json:"hint,omitempty" enum:"check_spam" doc:"check_spam: the mail was delivered, and nobody has answered. Ask the client to look into the spam folder."`
	Visibility  string        `json:"visibility,omitempty" enum:"basic,standard,full" doc:"How much the client lets the company see."`
	AccountID   string        `json:"account_id,omitempty" format:"uuid" doc:"The account that access was given to. Missing before."`
	Made        *madeBody     `json:"made_account,omitempty" doc:"The account that was made: the new one, or the temporary one."`
	Reported    bool          `json:"reported,omitempty" doc:"The client says that the request was not about them."`
	Evidence    *evidenceBody `json:"evidence,omitempty" doc:"Where access was given by hand."`
	ExpiresAt   *time.Time    `json:"expires_at,omitempty" doc:"Until when it can be decided."`
	DecidedAt   *time.Time    `json:"decided_at,omitempty"`
	CreatedAt   *time.Time    `json:"created_at,omitempty"`

	Duplicate      bool `json:"duplicate,omitempty" doc:"The company had one already; here it is."`
	AlreadyGranted bool `json:"already_granted,omitempty" doc:"The company has access already; nothing was done."`
}

// madeBody is the account that was made for a client.
type madeBody struct {
	ID       string `json:"id" format:"uuid"`
	Status   string `json:"status,omitempty" enum:"active,temporary,merged,archived" doc:"In the answer to who asked only."`
	Username string `json:"username,omitempty" doc:"By which its person logs in. In the answer to who asked only."`
}

// evidenceBody is why access was given by hand.
type evidenceBody struct {
	Operator  string    `json:"operator" doc:"Who did it."`
	Statement string    `json:"statement" doc:"What the client wrote."`
	Reference string    `json:"reference" doc:"Where that is kept."`
	At        time.Time `json:"at"`
}

func (s *Server) accessRequestBody(q roster.AccessRequest) accessRequestBody {
	b := accessRequestBody{
		ID: q.ID.String(), Option: q.Option, CompanyID: q.CompanyID.String(), RequesterID: q.RequesterID.String(), Email: q.Email, FullName: q.FullName,
		Locale: q.Locale, Message: q.Note, State: string(q.State), Delivery: string(q.Delivery), Visibility: string(q.Visibility), Reported: q.Reported,
		ExpiresAt: &q.ExpiresAt, DecidedAt: q.DecidedAt, CreatedAt: &q.CreatedAt,
	}
	if q.MailNote != nil && q.QueuedAt != nil {
		o := mail.NewOutlook(q.MailNote.Reason, q.MailNote.FactAt, q.MailNote.Retry, *q.QueuedAt, s.Roster.Now())
		if o.Code != "" {
			b.Detail = &delivery{Code: o.Code, Message: o.Says, Diagnostic: o.Diagnostic, RetryAt: o.RetryAt}
			if q.State == roster.OnHold && o.Typo {
				b.Detail.Suggestion = roster.SuggestAddress(q.Email)
			}
		}
	}
	switch {
	case q.Option == roster.OptionNewAccount:
		b.ExpiresAt = nil
	case q.State == roster.Pending && q.Delivery == roster.MailDelivered:
		b.Hint = "check_spam"
	}
	if q.TargetID != nil && (q.State == roster.Granted || q.State == roster.Revoked) {
		b.AccountID = q.TargetID.String()
	}
	if q.MadeID != nil {
		b.Made = &madeBody{ID: q.MadeID.String()}
	}
	if e := q.Evidence; e != nil {
		b.Evidence = &evidenceBody{e.Operator, e.Statement, e.Reference, e.At.UTC()}
	}
	return b
}

func (s *Server) createAccessRequest(ctx context.Context, in *struct {
	Requesting
	Keyed
	RawBody []byte
	Body    struct {
		Option    string `json:"option" enum:"request,new_account,request_with_temporary"`
		Email     string `json:"email,omitempty" maxLength:"320" example:"cleo@example.org"`
		FullName  string `json:"full_name" maxLength:"120" doc:"Of the client, as the professional knows it." example:"Ann Example"`
		CompanyID string `json:"company_id,omitempty" format:"uuid" doc:"Who is to have access. Missing: the only company of the professional."`
		Locale    string `json:"locale,omitempty" maxLength:"35" example:"fr"`
		Message   string `json:"message,omitempty" maxLength:"2000" doc:"The professional's own words, plain text."`
	}
},
) (*created[accessRequestBody], error) {
	out, err := s.Roster.RequestAccess(ctx, requestOf(ctx).app, id(in.Actor), roster.NewAccessRequest{
		Option: in.Body.Option, CompanyID: id(in.Body.CompanyID), Email: in.Body.Email, FullName: in.Body.FullName, Locale: in.Body.Locale, Note: in.Body.Message,
	}, in.key(ctx, in.Actor, in.RawBody))
	if err != nil {
		return nil, err
	}
	if out.AlreadyGranted {
		return &created[accessRequestBody]{http.StatusOK, accessRequestBody{
			Option: in.Body.Option, Email: in.Body.Email, State: "already_granted", Delivery: string(roster.NotMailed), AlreadyGranted: true,
		}}, nil
	}
	b := s.accessRequestBody(out.Request)
	b.Duplicate = out.Duplicate
	if out.Made != nil {
		b.Made.Status, b.Made.Username = out.Made.Status, out.Made.Username
	}
	status := http.StatusCreated
	if out.Duplicate {
		status = http.StatusOK
	}
	return &created[accessRequestBody]{status, b}, nil
}

func (s *Server) listAccessRequests(ctx context.Context, in *struct {
	Paged
	CompanyID string `query:"company_id" format:"uuid" doc:"Only of this company."`
	State     string `query:"state" enum:"pending,on_hold,approved,granted,denied,expired,cancelled,revoked" doc:"Only in this state."`
},
) (*ok[list[accessRequestBody]], error) {
	rows, err := s.Roster.AccessRequests(ctx, requestOf(ctx).app, roster.RequestList{
		Company: id(in.CompanyID), State: roster.State(in.State), After: id(in.After), Limit: in.Limit + 1,
	})
	return &ok[list[accessRequestBody]]{listOf(rows, in.Limit, func(q roster.AccessRequest) uuid.UUID { return q.ID }, s.accessRequestBody)}, err
}

func (s *Server) authorizeAccessRequest(ctx context.Context, in *struct {
	Subject
	Keyed
	RawBody []byte
	Body    struct {
		Operator   string `json:"operator" maxLength:"120" doc:"Who does it." example:"Sam of support"`
		Statement  string `json:"statement" maxLength:"4000" doc:"What the client wrote."`
		Reference  string `json:"reference" maxLength:"120" doc:"Where that is kept." example:"ticket 4711"`
		AccountID  string `json:"account_id,omitempty" format:"uuid" doc:"The account meant, where several have the address."`
		Visibility string `json:"visibility,omitempty" enum:"basic,standard,full" doc:"Missing: standard."`
	}
},
) (*ok[accessRequestBody], error) {
	q, err := s.Roster.AuthorizeRequest(ctx, requestOf(ctx).app, id(in.ID), roster.Authorization{
		Operator: in.Body.Operator, Statement: in.Body.Statement, Reference: in.Body.Reference,
		AccountID: id(in.Body.AccountID), Visibility: roster.Visibility(in.Body.Visibility),
	}, in.key(ctx, "", in.RawBody))
	return &ok[accessRequestBody]{s.accessRequestBody(q)}, err
}
