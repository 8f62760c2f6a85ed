package web

import (
	"context"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"usher/internal/roster"
)

// requestTokenRoutes are the steps of an access request's page, for apps that have
// one of their own. Who calls: the app's backend, for somebody at it.
func (s *Server) requestTokenRoutes() {
	register(s, huma.Operation{
		OperationID: "open-access-request", Method: http.MethodPost, Path: "/v1/access-requests/open", Tags: []string{tagOwnPages},
		DefaultStatus: http.StatusOK, Errors: []int{404}, Summary: "Read what an access request's link leads to",
		Description: "What Usher's own page shows, and which step comes next. It changes nothing, and so takes no Idempotency-Key. A token that is not genuine, another app's, or replaced by a newer one gets 404 `link_dead`.",
	}, s.openRequestByToken)
	register(s, huma.Operation{
		OperationID: "approve-access-request-by-token", Method: http.MethodPost, Path: "/v1/access-requests/approve", Tags: []string{tagOwnPages},
		DefaultStatus: http.StatusOK, Errors: []int{403, 404, 409, 410}, Summary: "Give access, by the link",
		Description: "For the step `approve` the token is enough. For `log_in`, the yes is kept as `approved` until you send it again with the `account_id` of the person who has logged in. Approving again is a success.",
	}, s.approveRequestByToken)
	register(s, huma.Operation{
		OperationID: "deny-access-request-by-token", Method: http.MethodPost, Path: "/v1/access-requests/deny", Tags: []string{tagOwnPages},
		DefaultStatus: http.StatusOK, Errors: []int{404, 409, 410}, Summary: "Refuse access, by the link",
		Description: "It needs no log-in. Who asked learns that the answer is no, and no reason. Denying again is a success.",
	}, s.denyRequestByToken)
}

// requestTicket opens the token of a link to one of the app's access requests.
func (s *Server) requestTicket(token string) (roster.Ticket, error) {
	t, err := s.Keys.Open(roster.PurposeRequest, token)
	if err != nil {
		return t, roster.ErrDeadLink
	}
	return t, nil
}

// openedRequestBody is an access request as whoever has its link sees it.
type openedRequestBody struct {
	ID            string     `json:"id" format:"uuid"`
	State         string     `json:"state" enum:"pending,on_hold,approved,granted,denied,expired,cancelled,revoked"`
	Step          string     `json:"step" enum:"approve,log_in,none" doc:"What comes next: a yes by the token alone gives access (approve), or the person logs in to the account meant first (log_in). A no needs the token alone. none: it is decided."`
	RequesterName string     `json:"requester_name"`
	CompanyName   string     `json:"company_name"`
	Email         string     `json:"email" doc:"Whom it was sent to, as typed."`
	FullName      string     `json:"full_name"`
	Locale        string     `json:"locale,omitempty" doc:"Missing: the app's."`
	Message       string     `json:"message,omitempty" doc:"The requester's own words."`
	Visibility    string     `json:"visibility,omitempty" enum:"basic,standard,full" doc:"How much they see. Missing: nobody has said."`
	ExpiresAt     time.Time  `json:"expires_at"`
	DecidedAt     *time.Time `json:"decided_at,omitempty"`
}

func (s *Server) openRequestByToken(ctx context.Context, in *struct{ Body TokenBody }) (*ok[openedRequestBody], error) {
	t, err := s.requestTicket(in.Body.Token)
	if err != nil {
		return nil, err
	}
	v, err := s.Roster.OpenRequest(ctx, requestOf(ctx).app, t)
	if err != nil {
		return nil, err
	}
	b := openedRequestBody{
		ID: v.ID.String(), State: string(v.State), Step: "log_in", RequesterName: v.RequesterName, CompanyName: v.CompanyName,
		Email: v.Email, FullName: v.FullName, Locale: v.Locale, Message: v.Note, Visibility: string(v.Visibility), ExpiresAt: v.ExpiresAt, DecidedAt: v.DecidedAt,
	}
	switch {
	case !v.Open():
		b.Step = "none"
	case v.ByLink:
		b.Step = "approve"
	}
	return &ok[openedRequestBody]{b}, nil
}

func (s *Server) approveRequestByToken(ctx context.Context, in *struct {
	Keyed
	RawBody []byte
	Body    struct {
		TokenBody
		AccountID  string `json:"account_id,omitempty" format:"uuid" doc:"The account of a person you have authenticated."`
		Visibility string `json:"visibility,omitempty" enum:"basic,standard,full" doc:"How much of the account they see. Missing: standard."`
	}
},
) (*ok[accessRequestBody], error) {
	t, err := s.requestTicket(in.Body.Token)
	if err != nil {
		return nil, err
	}
	q, err := s.Roster.ApproveRequestFromApp(ctx, requestOf(ctx).app, t, id(in.Body.AccountID), roster.Visibility(in.Body.Visibility), in.key(ctx, "", in.RawBody))
	return &ok[accessRequestBody]{s.accessRequestBody(q)}, err
}

func (s *Server) denyRequestByToken(ctx context.Context, in *struct {
	Keyed
	RawBody []byte
	Body    struct {
		TokenBody
		Reported bool `json:"reported,omitempty" doc:"The person says that the request is not about them at all."`
	}
},
) (*ok[accessRequestBody], error) {
	t, err := s.requestTicket(in.Body.Token)
	if err != nil {
		return nil, err
	}
	q, err := s.Roster.DenyRequestFromApp(ctx, requestOf(ctx).app, t, in.Body.Reported, in.key(ctx, "", in.RawBody))
	return &ok[accessRequestBody]{s.accessRequestBody(q)}, err
}
