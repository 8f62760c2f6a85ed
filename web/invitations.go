package web

import (
	"context"
	"net/http"
	"reflect"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"usher/internal/mail"
	"usher/internal/roster"
)

func (s *Server) invitationRoutes() {
	steer := func(action, summary, description string, op func(context.Context, uuid.UUID, uuid.UUID, uuid.UUID, roster.IdempotencyKey) (roster.Invitation, error)) {
		register(s, huma.Operation{
			OperationID: action + "-invitation", Method: http.MethodPost, Path: "/v1/invitations/{id}/" + action, Tags: []string{tagInvitations},
			Summary: summary, Description: description, Errors: []int{403, 404, 409, 410, 429},
		}, func(ctx context.Context, in *struct {
			Subject
			Acting
			Keyed
		},
		) (*ok[invitationBody], error) {
			inv, err := op(ctx, requestOf(ctx).app, id(in.Actor), id(in.ID), in.key(ctx, in.Actor, nil))
			return &ok[invitationBody]{s.invitationBody(inv, true)}, err
		})
	}

	register(s, huma.Operation{
		OperationID: "create-invitation", Method: http.MethodPost, Path: "/v1/invitations", Tags: []string{tagInvitations},
		DefaultStatus: http.StatusCreated, Errors: []int{403, 404, 409, 503},
		Summary:     "Invite a person to a workspace",
		Description: "An invitation by address (`new_user`, `external_professional`) is stored and mailed. One of an account (`colleague`, `existing_user`) is accepted at once: the person is in the workspace, gets no mail, and finds a notice in their inbox. An address that has an open invitation for the workspace gets that one back, with `duplicate: true` and status 200, mailed again if you or your policy ask for that; one that belongs to a member gets `already_member: true`, and nothing is sent.",
		Responses: map[string]*huma.Response{"200": {
			Description: "There was one already: `duplicate` or `already_member` is true.",
			Content:     map[string]*huma.MediaType{"application/json": {Schema: s.api.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[invitationBody](), true, "")}},
		}},
	}, s.createInvitation)
	s.batchRoutes()
	register(s, huma.Operation{
		OperationID: "list-invitations", Method: http.MethodGet, Path: "/v1/invitations", Tags: []string{tagInvitations},
		Summary: "List invitations, newest first",
	}, s.listInvitations)
	register(s, huma.Operation{
		OperationID: "get-external-warning", Method: http.MethodGet, Path: "/v1/warnings/external-professional", Tags: []string{tagInvitations},
		Summary: "Read the warning to show before an external professional is invited",
	}, s.externalWarning)
	register(s, huma.Operation{
		OperationID: "get-invitation", Method: http.MethodGet, Path: "/v1/invitations/{id}", Tags: []string{tagInvitations},
		Summary: "Read an invitation", Errors: []int{404},
	}, func(ctx context.Context, in *Subject) (*ok[invitationBody], error) {
		inv, err := s.Roster.Invitation(ctx, requestOf(ctx).app, id(in.ID))
		return &ok[invitationBody]{s.invitationBody(inv, false)}, err
	})
	register(s, huma.Operation{
		OperationID: "list-invitation-events", Method: http.MethodGet, Path: "/v1/invitations/{id}/events", Tags: []string{tagInvitations},
		Summary: "Read an invitation's history, oldest first", Errors: []int{404},
	}, s.listInvitationEvents)

	steer("revoke", "Withdraw an open invitation", "Its links die. Revoking it again is a success.", s.Roster.RevokeInvitation)
	steer("reopen", "Open an expired invitation again", "It gets a new link, a new expiry and a new mail; older links stay dead.", s.Roster.ReopenInvitation)
	steer("take-over", "Stand behind an invitation whose inviter may no longer invite", "The actor is its inviter from now on. One that is `held_for` its inviter can be accepted again, with the link it had; where its mail was dropped meanwhile, it is mailed again. Taking over what one has is a success; what somebody else still looks after gets 409 `inviter_present`.", s.Roster.TakeOverInvitation)
	steer("link", "Copy the link of an open invitation", "Any number of times; the mailed link goes on working. Whoever has the link can accept, so give it to the invited person only.", s.Roster.CopyInvitationLink)
	register(s, huma.Operation{
		OperationID: "resend-invitation", Method: http.MethodPost, Path: "/v1/invitations/{id}/resend", Tags: []string{tagInvitations},
		Summary: "Mail an open invitation again", Errors: []int{403, 404, 409, 410, 429},
		Description: "The link stays the same. One mail an hour, three times at most, unless your policy says otherwise. An address that mail came back from is mailed only on your word that the mailbox exists now, once a day; one whose owner complained, never.",
	}, func(ctx context.Context, in *struct {
		Subject
		Acting
		Keyed
		Body *struct {
			MailboxExists bool `json:"mailbox_exists,omitempty" doc:"Somebody knows that the mailbox works now, although mail to it came back. The invitation stays on hold until the mail provider has taken the address off its list; then it is mailed."`
		}
	},
	) (*ok[invitationBody], error) {
		resend, meaning := s.Roster.ResendInvitation, []byte(nil)
		if in.Body != nil && in.Body.MailboxExists {
			resend, meaning = s.Roster.ResendToBlocked, []byte("mailbox_exists") // what tells it from the same request without
		}
		inv, err := resend(ctx, requestOf(ctx).app, id(in.Actor), id(in.ID), in.key(ctx, in.Actor, meaning))
		return &ok[invitationBody]{s.invitationBody(inv, true)}, err
	})
	register(s, huma.Operation{
		OperationID: "correct-invitation-address", Method: http.MethodPost, Path: "/v1/invitations/{id}/correct-address", Tags: []string{tagInvitations},
		Summary: "Correct the address of an open invitation", Errors: []int{403, 404, 409, 410},
		Description: "Links sent to the old address die, and a mail goes to the new one at once.",
	}, func(ctx context.Context, in *struct {
		Subject
		Acting
		Keyed
		RawBody []byte
		Body    struct {
			Email string `json:"email" maxLength:"320" example:"ann@example.org"`
		}
	},
	) (*ok[invitationBody], error) {
		inv, err := s.Roster.CorrectInvitationAddress(ctx, requestOf(ctx).app, id(in.Actor), id(in.ID), in.Body.Email, in.key(ctx, in.Actor, in.RawBody))
		return &ok[invitationBody]{s.invitationBody(inv, true)}, err
	})
}

// invitationBody is an invitation in the API.
type invitationBody struct {
	ID            string     `json:"id,omitempty" format:"uuid" doc:"Missing where already_member."`
	Kind          string     `json:"kind" enum:"new_user,external_professional,colleague,existing_user"`
	WorkspaceID   string     `json:"workspace_id" format:"uuid"`
	InviterID     string     `json:"inviter_id" format:"uuid" doc:"The account that invited."`
	Email         string     `json:"email" doc:"As typed."`
	FullName      string     `json:"full_name" doc:"Empty where an external professional's is not known."`
	Visibility    string     `json:"visibility,omitempty" enum:"basic,standard,full" doc:"How much of the workspace the person sees once they are in it."`
	Locale        string     `json:"locale,omitempty" doc:"Missing: the app's."`
	Message       string     `json:"message,omitempty"`
	State         string     `json:"state" enum:"pending,on_hold,accepted,declined,revoked,superseded,expired,already_member"`
	HeldFor       string     `json:"held_for,omitempty" enum:"inviter" doc:"Why it is on_hold, where not for its mail's sake. inviter: who invited may no longer, and nobody can accept it until somebody takes it over."`
	Delivery      string     `json:"delivery" enum:"none,queued,held,sending,accepted,delayed,delivered,bounced,complained,suppressed,failed,cancelled,uncertain" doc:"What happened to the newest mail: none was asked for; it waits (queued, or held until something is mended); it is under way (sending), the mail provider took it (accepted), the recipient's server does not take it yet (delayed) or took it (delivered); it came back (bounced), was called spam (complained), was not sent to an address that bounced or complained before (suppressed), was refused by the provider (failed), was no longer wanted (cancelled), or nobody can know (uncertain)."`
	Detail        *delivery  `json:"delivery_detail,omitempty" doc:"What is to be said of the newest mail, where there is something."`
	ExpiresAt     *time.Time `json:"expires_at,omitempty" doc:"Until when it can be accepted."`
	DecidedAt     *time.Time `json:"decided_at,omitempty" doc:"When it was accepted, declined, revoked, or expired."`
	AccountID     string     `json:"account_id,omitempty" format:"uuid" doc:"Who accepted, or the member."`
	CreatedAt     *time.Time `json:"created_at,omitempty"`
	Link          string     `json:"link,omitempty" doc:"The invited person's page. Only in answers to who creates or steers an open invitation."`
	Duplicate     bool       `json:"duplicate,omitempty" doc:"There was an open invitation to this address; here it is."`
	Resent        bool       `json:"resent,omitempty" doc:"And it was mailed again."`
	AlreadyMember bool       `json:"already_member,omitempty" doc:"The person is in the workspace already; nothing was sent."`

	OriginWorkspaceID   string          `json:"origin_workspace_id,omitempty" format:"uuid" doc:"Of existing_user: where the person was picked from."`
	OriginWorkspaceName string          `json:"origin_workspace_name,omitempty" doc:"In the answer to the addition only."`
	WorkspaceName       string          `json:"workspace_name,omitempty" doc:"In the answer to the addition of an account only."`
	Membership          *membershipBody `json:"membership,omitempty" doc:"What the person is in the workspace now; in the answer to the addition of an account only."`
	Warning             *warningProof   `json:"warning,omitempty" doc:"Of external_professional: the proof that the inviter acknowledged the warning."`
}

// membershipBody is what somebody became by being added.
type membershipBody struct {
	Role       string `json:"role" enum:"stakeholder,client_user"`
	Visibility string `json:"visibility" enum:"basic,standard,full"`
	State      string `json:"state" enum:"active"`
}

// warningProof tells who acknowledged which warning, and when.
type warningProof struct {
	Text           string    `json:"text" doc:"As it was shown."`
	AcknowledgedBy string    `json:"acknowledged_by" format:"uuid"`
	AcknowledgedAt time.Time `json:"acknowledged_at"`
}

// delivery is what may be said of an invitation's newest mail.
type delivery struct {
	Code       string     `json:"code" enum:"slow,automatic_reply,failed,quota,content_refused,not_now,mailbox_full,suppressed,bounced,complained" doc:"What happened, for programs. Further codes may come."`
	Message    string     `json:"message" doc:"What happened and what to do, for the inviter."`
	Diagnostic string     `json:"diagnostic,omitempty" doc:"The mail server's own words." example:"550 5.1.1 no such user"`
	Suggestion string     `json:"suggestion,omitempty" format:"email" doc:"The address that was perhaps meant, where one slip of the keyboard explains the one that mail came back from." example:"ann@gmail.com"`
	RetryAt    *time.Time `json:"retry_at,omitempty" doc:"When a new mail is sent by itself."`
}

// deliveryOf is nil where nothing is to be said.
func (s *Server) deliveryOf(inv roster.Invitation) *delivery {
	if inv.MailNote == nil || inv.QueuedAt == nil {
		return nil
	}
	o := mail.NewOutlook(inv.MailNote.Reason, inv.MailNote.FactAt, inv.MailNote.Retry, *inv.QueuedAt, s.Roster.Now())
	if o.Code == "" {
		return nil
	}
	d := &delivery{Code: o.Code, Message: o.Says, Diagnostic: o.Diagnostic, RetryAt: o.RetryAt}
	if inv.State == roster.OnHold && o.Typo {
		d.Suggestion = roster.SuggestAddress(inv.Email)
	}
	if inv.State != roster.Pending {
		d.RetryAt = nil
	}
	return d
}

func (s *Server) invitationBody(inv roster.Invitation, withLink bool) invitationBody {
	b := invitationBody{
		ID: inv.ID.String(), Kind: inv.Kind, WorkspaceID: inv.WorkspaceID.String(), InviterID: inv.InviterID.String(),
		Email: inv.Email, FullName: inv.FullName, Locale: inv.Locale, Message: inv.Note,
		State: string(inv.State), HeldFor: inv.HeldFor, Delivery: string(inv.Delivery), Detail: s.deliveryOf(inv),
		ExpiresAt: &inv.ExpiresAt, DecidedAt: inv.DecidedAt, CreatedAt: &inv.CreatedAt, Visibility: string(inv.Visibility),
	}
	if direct(inv.Kind) {
		b.ExpiresAt = nil
	}
	if inv.OriginWorkspaceID != nil {
		b.OriginWorkspaceID = inv.OriginWorkspaceID.String()
	}
	if w := inv.Warning; w != nil {
		b.Warning = &warningProof{w.Text, w.AcknowledgedBy.String(), w.AcknowledgedAt.UTC()}
	}
	if inv.AccountID != nil {
		b.AccountID = inv.AccountID.String()
	}
	if withLink && inv.State.Open() && inv.HeldFor == "" {
		b.Link = s.URL.JoinPath("i", s.Keys.Token(roster.PurposeInvitation, inv.Ticket())).String()
	}
	return b
}

type createInvitationInput struct {
	Acting
	Keyed
	RawBody []byte
	Body    struct {
		Kind        string `json:"kind,omitempty" enum:"new_user,external_professional,colleague,existing_user" default:"new_user" doc:"new_user: somebody known by name and address, who becomes a client user. external_professional: somebody from outside the company, who becomes a stakeholder once they approve. colleague: an account of your company or the workspace's, a stakeholder at once. existing_user: an active account of another workspace of yours, a client user at once."`
		Email       string `json:"email,omitempty" maxLength:"320" doc:"One plain address. Of new_user and external_professional." example:"ann@example.org"`
		FullName    string `json:"full_name,omitempty" maxLength:"120" doc:"Of new_user; of external_professional as far as it is known." example:"Ann Example"`
		AccountID   string `json:"account_id,omitempty" format:"uuid" doc:"Who is added. Of colleague and existing_user."`
		OriginID    string `json:"origin_workspace_id,omitempty" format:"uuid" doc:"The workspace the person was picked from. Of existing_user."`
		WorkspaceID string `json:"workspace_id" format:"uuid"`
		Visibility  string `json:"visibility,omitempty" enum:"basic,standard,full" default:"full" doc:"How much of the workspace the person sees."`
		Locale      string `json:"locale,omitempty" maxLength:"35" doc:"The language of mail and pages, as a BCP 47 tag: en, fr, es; others get the nearest. Missing: the app's." example:"es"`
		Message     string `json:"message,omitempty" maxLength:"1000" doc:"The inviter's own words, as plain text."`
		Notify      *bool  `json:"notify,omitempty" default:"true" doc:"false sends no mail: give the link on yourself."`
		IfDuplicate string `json:"if_duplicate,omitempty" enum:"return,resend" doc:"What to do with an open invitation to this address: return it, or mail it again too if its rest is over. Missing: as your policy says."`
		Warning     *struct {
			Acknowledged bool   `json:"acknowledged" doc:"The inviter ticked the box after reading."`
			Text         string `json:"text,omitempty" maxLength:"4000" doc:"What they read. Missing: Usher's own text in the locale below."`
			Locale       string `json:"locale,omitempty" maxLength:"35" doc:"The language they read it in. Missing: that of the invitation." example:"fr"`
		} `json:"warning,omitempty" doc:"Of external_professional: the warning was acknowledged."`
	}
}

// row is what the input asks for.
func (in *createInvitationInput) row(r request, key roster.IdempotencyKey) roster.NewInvitation {
	return roster.NewInvitation{
		AppID: r.app, ActorID: id(in.Actor), WorkspaceID: id(in.Body.WorkspaceID),
		Kind: in.Body.Kind, Email: in.Body.Email, FullName: in.Body.FullName, Locale: in.Body.Locale, Note: in.Body.Message,
		Visibility: roster.Visibility(in.Body.Visibility), Warning: in.warning(),
		Notify: in.Body.Notify == nil || *in.Body.Notify, Key: key,
		Policy: r.policy, IfDuplicate: roster.DuplicateRule(in.Body.IfDuplicate),
	}
}

// warning is the text the inviter acknowledged, empty if they did not.
func (in *createInvitationInput) warning() string {
	w := in.Body.Warning
	if w == nil || !w.Acknowledged {
		return ""
	}
	if w.Text != "" {
		return w.Text
	}
	text, _ := roster.ExternalWarning(w.Locale, in.Body.Locale)
	return text
}

func (s *Server) createInvitation(ctx context.Context, in *createInvitationInput) (*created[invitationBody], error) {
	if err := in.fits(); err != nil {
		return nil, err
	}
	if direct(in.Body.Kind) {
		return s.addMember(ctx, in)
	}
	row := in.row(requestOf(ctx), in.key(ctx, in.Actor, in.RawBody))
	c, err := s.intake.create(ctx, row)
	if err != nil {
		return nil, err
	}
	return s.createdBody(row, c), nil
}

// createdBody is the answer to a row.
func (s *Server) createdBody(row roster.NewInvitation, c roster.Created) *created[invitationBody] {
	if c.AlreadyMember {
		return &created[invitationBody]{http.StatusOK, invitationBody{
			Kind: row.Kind, WorkspaceID: row.WorkspaceID.String(), InviterID: row.ActorID.String(), Email: row.Email, FullName: row.FullName,
			State: "already_member", Delivery: string(roster.NotMailed), AccountID: c.AccountID.String(), AlreadyMember: true,
		}}
	}
	body := s.invitationBody(c.Invitation, true)
	body.Resent = c.Resent
	if body.Duplicate = c.Duplicate; c.Duplicate {
		return &created[invitationBody]{http.StatusOK, body}
	}
	return &created[invitationBody]{http.StatusCreated, body}
}

func (s *Server) listInvitations(ctx context.Context, in *struct {
	Paged
	Workspace string `query:"workspace_id" format:"uuid" doc:"Only of this workspace."`
	State     string `query:"state" enum:"pending,on_hold,accepted,declined,revoked,superseded,expired" doc:"Only in this state."`
},
) (*ok[list[invitationBody]], error) {
	rows, err := s.Roster.Invitations(ctx, requestOf(ctx).app, roster.InvitationList{
		Workspace: id(in.Workspace), State: roster.State(in.State), After: id(in.After), Limit: in.Limit + 1,
	})
	return &ok[list[invitationBody]]{listOf(rows, in.Limit,
		func(inv roster.Invitation) uuid.UUID { return inv.ID },
		func(inv roster.Invitation) invitationBody { return s.invitationBody(inv, false) })}, err
}

// eventBody is an event in the API.
type eventBody struct {
	ID        string         `json:"id" format:"uuid"`
	Type      string         `json:"type" example:"invitation.accepted"`
	SubjectID string         `json:"subject_id" format:"uuid" doc:"What it is about: an invitation, an account, a workspace …, as its type says."`
	ActorID   string         `json:"actor_id,omitempty" format:"uuid" doc:"The account that acted. Missing: the clock, or a person without an account."`
	At        time.Time      `json:"at"`
	Data      map[string]any `json:"data"`
}

func (s *Server) listInvitationEvents(ctx context.Context, in *Subject) (*ok[list[eventBody]], error) {
	events, err := s.Roster.InvitationEvents(ctx, requestOf(ctx).app, id(in.ID))
	return &ok[list[eventBody]]{listOf(events, len(events), func(e roster.Event) uuid.UUID { return e.ID }, newEventBody)}, err
}

func newEventBody(e roster.Event) eventBody {
	b := eventBody{ID: e.ID.String(), Type: e.Type, SubjectID: e.SubjectID.String(), At: e.At, Data: e.Data}
	if e.ActorID != nil {
		b.ActorID = e.ActorID.String()
	}
	return b
}

func (s *Server) externalWarning(_ context.Context, in *struct {
	Locale string `query:"locale" maxLength:"35" doc:"en, fr, es; others get the nearest." example:"fr"`
},
) (*ok[warningText], error) {
	text, lang := roster.ExternalWarning(in.Locale)
	return &ok[warningText]{warningText{lang, text}}, nil
}

// warningText is Usher's own text of a warning.
type warningText struct {
	Locale string `json:"locale" enum:"en,fr,es" doc:"Its language."`
	Text   string `json:"text"`
}
