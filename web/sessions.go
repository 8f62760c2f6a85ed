package web

import (
	"cmp"
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"usher/internal/roster"
)

// sessionRoutes are the steps of the person's pages, for apps that have pages of
// their own. Who calls: the app's backend, for somebody at one of them.
func (s *Server) sessionRoutes() {
	register(s, huma.Operation{
		OperationID: "open-invitation", Method: http.MethodPost, Path: "/v1/invitations/open", Tags: []string{tagOwnPages},
		DefaultStatus: http.StatusOK, Errors: []int{404}, Summary: "Read what an invitation's link leads to",
		Description: "What Usher's own page shows, and which step comes next. It changes nothing, and so takes no Idempotency-Key. A token that is not genuine, another app's, or replaced by a newer one gets 404 `link_dead`.",
	}, s.openInvitationByToken)
	register(s, huma.Operation{
		OperationID: "accept-invitation", Method: http.MethodPost, Path: "/v1/invitations/accept", Tags: []string{tagOwnPages},
		DefaultStatus: http.StatusOK, Errors: []int{403, 404, 409, 410}, Summary: "Accept an invitation",
		Description: "For the step `log_in`, let the person log in first and send their `account_id`; for `new_account`, send `full_name` and `password`; for `known`, the token is enough. Accepting again is a success.",
	}, s.acceptInvitationByToken)
	register(s, huma.Operation{
		OperationID: "sign-up", Method: http.MethodPost, Path: "/v1/invitations/sign-up", Tags: []string{tagOwnPages},
		DefaultStatus: http.StatusCreated, Errors: []int{404, 409, 410}, Summary: "Make the account of an invited person, without deciding",
		Description: "For the step `sign_up`: the invitation then waits in the account's inbox. An address that has an account gets 401 `log_in_needed`.",
	}, s.signUpByToken)
	register(s, huma.Operation{
		OperationID: "decline-invitation", Method: http.MethodPost, Path: "/v1/invitations/decline", Tags: []string{tagOwnPages},
		DefaultStatus: http.StatusOK, Errors: []int{404, 409, 410}, Summary: "Decline an invitation",
		Description: "It needs no log-in. Declining again is a success.",
	}, s.declineInvitationByToken)
	register(s, huma.Operation{
		OperationID: "ask-renewal", Method: http.MethodPost, Path: "/v1/invitations/ask-renewal", Tags: []string{tagOwnPages},
		DefaultStatus: http.StatusOK, Errors: []int{404}, Summary: "Ask the inviter for a new link",
		Description: "For an expired invitation, once a day. The answer is the same whether the inviter is told or not.",
	}, s.askRenewalByToken)
	register(s, huma.Operation{
		OperationID: "create-session", Method: http.MethodPost, Path: "/v1/sessions", Tags: []string{tagOwnPages},
		DefaultStatus: http.StatusOK, Errors: []int{429}, Summary: "Check a person's password",
		Description: "For apps without a log-in of their own: answers the account, and keeping the person logged in is up to you. It changes nothing, and so takes no Idempotency-Key. Whatever does not fit gets 422 `credentials_wrong`: nobody learns which accounts there are. The password of an account that was merged away gets 409 `account_merged`. Ten tries for a name are let through in a quarter of an hour; bound the tries of one caller yourself.",
	}, s.checkPassword)
	register(s, huma.Operation{
		OperationID: "ask-password", Method: http.MethodPost, Path: "/v1/passwords/reset", Tags: []string{tagOwnPages},
		DefaultStatus: http.StatusAccepted, Errors: []int{404}, Summary: "Mail a person the link to set their password",
		Description: "Their first one or a new one. The answer is the same, after the same time, whether there is such an account or not. At most one mail in five minutes; the link works once and for an hour.",
	}, s.askPasswordByName)
	register(s, huma.Operation{
		OperationID: "set-password", Method: http.MethodPost, Path: "/v1/passwords", Tags: []string{tagOwnPages},
		DefaultStatus: http.StatusOK, Errors: []int{404}, Summary: "Set a password with the token of a link",
		Description: "All links that are out die, and the account is logged out of Usher's pages everywhere. A token that does not work any more gets 404 `link_dead`.",
	}, s.setPasswordByToken)
}

// TokenBody is a body with the token of an invitation's link.
type TokenBody struct {
	Token string `json:"token" maxLength:"200" doc:"What the person's link ends with, or what your own page was called with."`
}

// invitationTicket opens the token of a link to one of the app's invitations.
// It comes before a password is hashed, so that no token takes longer than
// another one that leads nowhere.
func (s *Server) invitationTicket(ctx context.Context, token string) (roster.Ticket, error) {
	t, err := s.Keys.Open(roster.PurposeInvitation, token)
	if err != nil {
		return t, roster.ErrDeadLink
	}
	_, err = s.Roster.Invitation(ctx, requestOf(ctx).app, t.ID)
	if roster.CodeOf(err) == "invitation_not_found" {
		err = roster.ErrDeadLink
	}
	return t, err
}

// openedBody is an invitation as the invited person sees it.
type openedBody struct {
	ID            string     `json:"id" format:"uuid"`
	Kind          string     `json:"kind" enum:"new_user,external_professional,colleague,existing_user"`
	State         string     `json:"state" enum:"pending,on_hold,accepted,declined,revoked,superseded,expired"`
	Step          string     `json:"step" enum:"new_account,sign_up,log_in,known,wait,none" doc:"What comes next: somebody without an account accepts with a name and a password (new_account), or signs up first and decides in the inbox (sign_up); somebody with one logs in, or accepts as they are where the account has no password here (known). wait: somebody at the company has to confirm it first. none: it is decided."`
	WorkspaceID   string     `json:"workspace_id" format:"uuid"`
	WorkspaceName string     `json:"workspace_name"`
	InviterName   string     `json:"inviter_name"`
	CompanyName   string     `json:"company_name"`
	Email         string     `json:"email" doc:"Whom it is for, as typed."`
	FullName      string     `json:"full_name"`
	Locale        string     `json:"locale,omitempty" doc:"Missing: the app's."`
	Message       string     `json:"message,omitempty" doc:"The inviter's own words."`
	AccountID     string     `json:"account_id,omitempty" format:"uuid" doc:"The account that has this address; missing: none."`
	ExpiresAt     time.Time  `json:"expires_at"`
	DecidedAt     *time.Time `json:"decided_at,omitempty"`
}

func (s *Server) openInvitationByToken(ctx context.Context, in *struct{ Body TokenBody }) (*ok[openedBody], error) {
	t, err := s.invitationTicket(ctx, in.Body.Token)
	if err != nil {
		return nil, err
	}
	v, err := s.Roster.OpenInvitation(ctx, requestOf(ctx).app, t)
	if err != nil {
		return nil, err
	}
	b := openedBody{
		ID: v.ID.String(), Kind: v.Kind, State: string(v.State), Step: opened{InvitationView: v}.mode(),
		WorkspaceID: v.WorkspaceID.String(), WorkspaceName: v.WorkspaceName, InviterName: v.InviterName, CompanyName: v.CompanyName,
		Email: v.Email, FullName: v.FullName, Locale: v.Locale, Message: v.Note, ExpiresAt: v.ExpiresAt, DecidedAt: v.DecidedAt,
	}
	if v.Account != nil {
		b.AccountID = v.Account.ID.String()
	}
	switch {
	case !v.State.Open():
		b.Step = "none"
	case v.HeldFor != "":
		b.Step = "wait"
	}
	return &ok[openedBody]{b}, nil
}

func (s *Server) acceptInvitationByToken(ctx context.Context, in *struct {
	Keyed
	RawBody []byte
	Body    struct {
		TokenBody
		AccountID string `json:"account_id,omitempty" format:"uuid" doc:"The account of a person you have authenticated."`
		FullName  string `json:"full_name,omitempty" maxLength:"120" example:"Ann Example"`
		Password  string `json:"password,omitempty" maxLength:"1000" doc:"The one the new account gets." example:"seven green boats"`
	}
},
) (*ok[invitationBody], error) {
	t, err := s.invitationTicket(ctx, in.Body.Token)
	if err != nil {
		return nil, err
	}
	a := roster.Acceptance{AccountID: id(in.Body.AccountID), FullName: in.Body.FullName}
	if in.Body.Password != "" {
		if a.PasswordHash, err = roster.HashPassword(ctx, in.Body.Password); err != nil {
			return nil, err
		}
	}
	inv, err := s.Roster.AcceptFromApp(ctx, requestOf(ctx).app, t, a, in.key(ctx, "", s.sealed(in.RawBody)))
	return &ok[invitationBody]{s.invitationBody(inv, false)}, err
}

// purposeRequest signs requests that hold a password.
const purposeRequest roster.Purpose = "request"

// sealed stands for a body with a password where the hash of a request is kept:
// without our secret it does not help to guess the password.
func (s *Server) sealed(body []byte) []byte {
	sealed := s.Keys.Seal(purposeRequest, string(body))
	return []byte(sealed[strings.LastIndexByte(sealed, '.'):])
}

func (s *Server) signUpByToken(ctx context.Context, in *struct {
	Keyed
	RawBody []byte
	Body    struct {
		TokenBody
		FullName string `json:"full_name" maxLength:"120" example:"Sara Example"`
		Password string `json:"password" maxLength:"1000" example:"seven green boats"`
	}
},
) (*created[accountBody], error) {
	t, err := s.invitationTicket(ctx, in.Body.Token)
	if err != nil {
		return nil, err
	}
	a := roster.Acceptance{FullName: in.Body.FullName}
	if a.PasswordHash, err = roster.HashPassword(ctx, in.Body.Password); err != nil {
		return nil, err
	}
	account, err := s.Roster.SignUpFromApp(ctx, requestOf(ctx).app, t, a, in.key(ctx, "", s.sealed(in.RawBody)))
	return &created[accountBody]{http.StatusCreated, newAccountBody(account)}, err
}

func (s *Server) declineInvitationByToken(ctx context.Context, in *struct {
	Keyed
	RawBody []byte
	Body    TokenBody
},
) (*ok[invitationBody], error) {
	t, err := s.invitationTicket(ctx, in.Body.Token)
	if err != nil {
		return nil, err
	}
	inv, err := s.Roster.DeclineFromApp(ctx, requestOf(ctx).app, t, in.key(ctx, "", in.RawBody))
	return &ok[invitationBody]{s.invitationBody(inv, false)}, err
}

// askedBody answers whoever asks for something that is not theirs to know.
type askedBody struct {
	Asked bool `json:"asked" doc:"Always true."`
}

func (s *Server) askRenewalByToken(ctx context.Context, in *struct {
	Keyed
	RawBody []byte
	Body    TokenBody
},
) (*ok[askedBody], error) {
	t, err := s.invitationTicket(ctx, in.Body.Token)
	if err != nil {
		return nil, err
	}
	return &ok[askedBody]{askedBody{true}}, s.Roster.AskRenewalFromApp(ctx, requestOf(ctx).app, t, in.key(ctx, "", in.RawBody))
}

// checkPassword has no Idempotency-Key: it changes nothing that could happen
// twice, and no answer of it may be kept.
func (s *Server) checkPassword(ctx context.Context, in *struct {
	Body struct {
		Identifier string `json:"identifier" minLength:"1" maxLength:"320" doc:"The primary address or the username; a secondary address is nobody's name." example:"ann@example.org"`
		Password   string `json:"password" maxLength:"1000" example:"seven green boats"`
	}
},
) (*ok[accountBody], error) {
	app, now := requestOf(ctx).app, s.Roster.Now()
	if !s.nameTries.take(now, nameKey(app, in.Body.Identifier)) {
		wait := *roster.ErrTooManyTries
		at := now.Add(nameTriesTime).UTC()
		wait.RetryAt = &at
		return nil, &wait
	}
	account, err := s.Roster.LogIn(ctx, app, in.Body.Identifier, in.Body.Password)
	if err == nil {
		s.nameTries.forget(nameKey(app, in.Body.Identifier))
	}
	return &ok[accountBody]{newAccountBody(account)}, err
}

func (s *Server) askPasswordByName(ctx context.Context, in *struct {
	Keyed
	RawBody []byte
	Body    struct {
		Identifier      string `json:"identifier" minLength:"1" maxLength:"320" doc:"The primary address or the username." example:"ann@example.org"`
		RequestToken    string `json:"access_request_token,omitempty" maxLength:"200" doc:"Likewise, of an access request's link."`
		InvitationToken string `json:"invitation_token,omitempty" maxLength:"200" doc:"Of the invitation's link that the person came by: they get back to it once the password is set."`
	}
},
) (*created[askedBody], error) {
	answerAt := time.After(askTime)
	var next roster.Destination
	if in.Body.InvitationToken != "" {
		t, err := s.invitationTicket(ctx, in.Body.InvitationToken)
		if err != nil {
			return nil, err
		}
		next.InvitationID = t.ID
	}
	if in.Body.RequestToken != "" {
		t, err := s.requestTicket(in.Body.RequestToken)
		if err != nil {
			return nil, err
		}
		if _, err := s.Roster.AccessRequest(ctx, requestOf(ctx).app, t.ID); err != nil {
			return nil, roster.ErrDeadLink
		}
		next.RequestID = t.ID
	}
	err := s.Roster.AskPassword(ctx, requestOf(ctx).app, in.Body.Identifier, next, in.key(ctx, "", in.RawBody))
	<-answerAt
	return &created[askedBody]{http.StatusAccepted, askedBody{true}}, err
}

func (s *Server) setPasswordByToken(ctx context.Context, in *struct {
	Keyed
	RawBody []byte
	Body    struct {
		Token    string `json:"token" maxLength:"200" doc:"What the link in the mail ends with."`
		Password string `json:"password" maxLength:"1000" example:"seven green boats"`
	}
},
) (*ok[accountBody], error) {
	t, err := s.Keys.Open(roster.PurposePassword, in.Body.Token)
	if err != nil {
		return nil, roster.ErrDeadLink
	}
	if l, err := s.Roster.ViewPasswordLink(ctx, t); l.App.ID != requestOf(ctx).app { // before the hash, as in invitationTicket
		return nil, cmp.Or[error](err, roster.ErrDeadLink)
	}
	hash, err := roster.HashPassword(ctx, in.Body.Password)
	if err != nil {
		return nil, err
	}
	l, err := s.Roster.SetPassword(ctx, requestOf(ctx).app, t, hash, in.key(ctx, "", s.sealed(in.RawBody)))
	return &ok[accountBody]{newAccountBody(l.Account)}, err
}
