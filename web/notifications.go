package web

import (
	"context"
	"net/http"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/google/uuid"

	"usher/internal/roster"
)

func (s *Server) notificationRoutes() {
	register(s, huma.Operation{
		OperationID: "list-notifications", Method: http.MethodGet, Path: "/v1/notifications", Tags: []string{tagInbox},
		Summary: "List a person's inbox, oldest first", Errors: []int{403},
		Description: "What a person did with an item (`view`) is one thing, and whether there is something to decide (`action`) another: an archived request that is still open stays listed under `action=open`.",
	}, s.listNotifications)

	view := func(action string, view roster.NotificationView, summary string) {
		register(s, huma.Operation{
			OperationID: action + "-notification", Method: http.MethodPost, Path: "/v1/notifications/{id}/" + action, Tags: []string{tagInbox},
			Summary: summary, Errors: []int{403, 404},
		}, func(ctx context.Context, in *struct {
			Subject
			Person
			Keyed
		},
		) (*ok[notificationBody], error) {
			item, err := s.Roster.SetNotificationView(ctx, requestOf(ctx).app, id(in.Actor), id(in.ID), view, in.key(ctx, in.Actor, nil))
			return &ok[notificationBody]{newNotificationBody(item)}, err
		})
	}
	view("read", roster.ViewRead, "Mark an item as read")
	view("unread", roster.ViewUnread, "Mark an item as unread")
	view("archive", roster.ViewArchived, "Put an item away; a request stays open")
	view("unarchive", roster.ViewRead, "Take an item back into the inbox")
	register(s, huma.Operation{
		OperationID: "archive-notifications", Method: http.MethodPost, Path: "/v1/notifications/archive", Tags: []string{tagInbox},
		Summary: "Put away all items that meet a filter", DefaultStatus: http.StatusOK, Errors: []int{403},
	}, s.archiveNotifications)

	decide := func(action string, accept bool, summary string) {
		register(s, huma.Operation{
			OperationID: action + "-notification", Method: http.MethodPost, Path: "/v1/notifications/{id}/" + action, Tags: []string{tagInbox},
			Summary: summary, Errors: []int{403, 404, 409, 410},
			Description: "The same decision as the link's: the first one counts, the same one again is a success, and the other one is told what stands.",
		}, func(ctx context.Context, in *struct {
			Subject
			Person
			Keyed
			Body *struct {
				Visibility string `json:"visibility,omitempty" enum:"basic,standard,full" doc:"Of access that is given: how much is seen. Missing: standard."`
			}
		},
		) (*ok[decidedBody], error) {
			var v roster.Visibility
			if in.Body != nil {
				v = roster.Visibility(in.Body.Visibility)
			}
			d, err := s.Roster.DecideNotification(ctx, requestOf(ctx).app, id(in.Actor), id(in.ID), accept, v, in.key(ctx, in.Actor, []byte(v)))
			if err != nil {
				return nil, err
			}
			return &ok[decidedBody]{s.decidedBody(d)}, nil
		})
	}
	decide("approve", true, "Accept the invitation an item is about, or give the access it asks for")
	decide("decline", false, "Decline the invitation an item is about, or refuse the access it asks for")
}

// decidedBody is what was decided: one of the two.
type decidedBody struct {
	Invitation *invitationBody `json:"invitation,omitempty"`
	Request    *requestExcerpt `json:"access_request,omitempty"`
}

func (s *Server) decidedBody(d roster.Decided) (b decidedBody) {
	if d.Invitation != nil {
		inv := s.invitationBody(*d.Invitation, false)
		b.Invitation = &inv
	}
	if q := d.Request; q != nil {
		b.Request = &requestExcerpt{ID: q.ID.String(), State: string(q.State), ExpiresAt: &q.ExpiresAt, DecidedAt: q.DecidedAt, Visibility: string(q.Visibility)}
	}
	return b
}

// requestExcerpt is what the client sees of an access request.
type requestExcerpt struct {
	ID            string     `json:"id" format:"uuid"`
	State         string     `json:"state" enum:"pending,on_hold,approved,granted,denied,expired,cancelled,revoked"`
	RequesterName string     `json:"requester_name,omitempty"`
	CompanyName   string     `json:"company_name,omitempty"`
	Visibility    string     `json:"visibility,omitempty" enum:"basic,standard,full"`
	Message       string     `json:"message,omitempty" doc:"The requester's own words, while it is open."`
	ExpiresAt     *time.Time `json:"expires_at,omitempty"`
	DecidedAt     *time.Time `json:"decided_at,omitempty"`
}

// Person is the part of an input that says whose inbox it is about.
type Person struct {
	Actor string `header:"Usher-Actor" required:"true" format:"uuid" doc:"The account of the person whose inbox it is."`
}

// notificationBody is an item of an inbox in the API.
type notificationBody struct {
	ID         string             `json:"id" format:"uuid"`
	Kind       string             `json:"kind" enum:"invitation,workspaces,access_request" doc:"invitation: somebody invites the person. workspaces: they were added to some. access_request: a company asks for access to their account."`
	View       string             `json:"view" enum:"unread,read,archived"`
	Action     string             `json:"action" enum:"none,open,done,withdrawn,expired" doc:"What there is to decide: nothing ever, it is open, it was decided, it was taken back, or its time is over."`
	Workspaces []namedWorkspace   `json:"workspaces"`
	Invitation *invitationExcerpt `json:"invitation,omitempty" doc:"Of kind invitation."`
	Request    *requestExcerpt    `json:"access_request,omitempty" doc:"Of kind access_request."`
	CreatedAt  time.Time          `json:"created_at"`
	ReadAt     *time.Time         `json:"read_at,omitempty"`
	ArchivedAt *time.Time         `json:"archived_at,omitempty"`
}

type namedWorkspace struct {
	ID   string `json:"id" format:"uuid"`
	Name string `json:"name"`
}

// invitationExcerpt is what the invited person sees of an invitation.
type invitationExcerpt struct {
	ID          string     `json:"id" format:"uuid"`
	Kind        string     `json:"kind" enum:"new_user,external_professional,colleague,existing_user"`
	State       string     `json:"state" enum:"pending,on_hold,accepted,declined,revoked,superseded,expired"`
	InviterName string     `json:"inviter_name"`
	CompanyName string     `json:"company_name"`
	Message     string     `json:"message,omitempty" doc:"The inviter's own words, while it is open."`
	ExpiresAt   *time.Time `json:"expires_at,omitempty"`
	DecidedAt   *time.Time `json:"decided_at,omitempty"`
}

func newNotificationBody(n roster.Notification) notificationBody {
	b := notificationBody{
		ID: n.ID.String(), Kind: n.Kind, View: string(n.View), Action: string(n.Action), Workspaces: []namedWorkspace{},
		CreatedAt: n.CreatedAt, ReadAt: n.ReadAt, ArchivedAt: n.ArchivedAt,
	}
	for _, w := range n.Workspaces {
		b.Workspaces = append(b.Workspaces, namedWorkspace{w.ID.String(), w.Name})
	}
	if n.InvitationID != nil {
		b.Invitation = &invitationExcerpt{
			ID: n.InvitationID.String(), Kind: n.InvitationKind, State: string(n.State), InviterName: n.InviterName,
			CompanyName: n.CompanyName, Message: n.Note, ExpiresAt: n.ExpiresAt, DecidedAt: n.DecidedAt,
		}
	}
	if n.RequestID != nil {
		b.Request = &requestExcerpt{
			ID: n.RequestID.String(), State: string(n.State), RequesterName: n.InviterName, CompanyName: n.CompanyName,
			Message: n.Note, ExpiresAt: n.ExpiresAt, DecidedAt: n.DecidedAt,
		}
	}
	return b
}

// seenPage marks the cursor of a list that begins with what is unread, once it
// is past that.
const seenPage = "seen-"

func (s *Server) listNotifications(ctx context.Context, in *struct {
	Person
	Limit       int    `query:"limit" minimum:"1" maximum:"200" default:"50" doc:"Rows in an answer."`
	After       string `query:"after" pattern:"^(seen-)?[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$" doc:"The next of the answer before."`
	Order       string `query:"order" enum:"asc,desc" default:"asc" doc:"asc: oldest first."`
	UnreadFirst bool   `query:"unread_first" doc:"All unread items before all others."`
	View        string `query:"view" enum:"unread,read,archived" doc:"Only these. Missing: unread and read ones, and with action=open archived ones too."`
	Action      string `query:"action" enum:"none,open,done,withdrawn,expired" doc:"Only these."`
},
) (*ok[list[notificationBody]], error) {
	after, seen := strings.CutPrefix(in.After, seenPage)
	rows, err := s.Roster.Notifications(ctx, requestOf(ctx).app, id(in.Actor), roster.NotificationList{
		View: roster.NotificationView(in.View), Action: roster.NotificationAction(in.Action),
		Newest: in.Order == "desc", UnreadFirst: in.UnreadFirst, After: id(after), AfterSeen: seen, Limit: in.Limit + 1,
	})
	if err != nil {
		return nil, err
	}
	page := listOf(rows, in.Limit, func(n roster.Notification) uuid.UUID { return n.ID }, newNotificationBody)
	if page.Next != "" && in.UnreadFirst && rows[in.Limit-1].View != roster.ViewUnread {
		page.Next = seenPage + page.Next
	}
	return &ok[list[notificationBody]]{page}, nil
}

type archivedBody struct {
	Archived int `json:"archived" doc:"How many items were put away."`
}

func (s *Server) archiveNotifications(ctx context.Context, in *struct {
	Person
	Keyed
	RawBody []byte
	Body    struct {
		View   string    `json:"view,omitempty" enum:"unread,read" doc:"Only these."`
		Action string    `json:"action,omitempty" enum:"none,open,done,withdrawn,expired" doc:"Only these."`
		Kind   string    `json:"kind,omitempty" enum:"invitation,workspaces,access_request" doc:"Only these."`
		Before time.Time `json:"before,omitempty" doc:"Only those created before."`
	}
},
) (*ok[archivedBody], error) {
	n, err := s.Roster.ArchiveNotifications(ctx, requestOf(ctx).app, id(in.Actor), roster.NotificationFilter{
		View: roster.NotificationView(in.Body.View), Action: roster.NotificationAction(in.Body.Action), Kind: in.Body.Kind, Before: in.Body.Before,
	}, in.key(ctx, in.Actor, in.RawBody))
	return &ok[archivedBody]{archivedBody{n}}, err
}
