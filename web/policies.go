package web

import (
	"context"
	"encoding/json"
	"net/http"
	"time"

	"github.com/danielgtaylor/huma/v2"

	"usher/internal/roster"
)

func (s *Server) policyRoutes() {
	register(s, huma.Operation{
		OperationID: "get-policies", Method: http.MethodGet, Path: "/v1/policies", Tags: []string{tagPolicies},
		Summary: "Read what holds for your app, and where it comes from",
	}, func(ctx context.Context, _ *struct{}) (*ok[policyBody], error) {
		p, err := s.Roster.AppPolicy(ctx, requestOf(ctx).app)
		return &ok[policyBody]{newPolicyBody(p)}, err
	})
	register(s, huma.Operation{
		OperationID: "change-policies", Method: http.MethodPost, Path: "/v1/policies", Tags: []string{tagPolicies},
		Summary: "Change some of your app's settings", Errors: []int{409},
		Description: "What you leave out stays; null is the default again. A change holds within a second, for what is done from then on: invitations keep the expiry they got. Each change is a new version, and an event `policy.changed` with the values before and after.",
	}, s.changePolicies)
}

// policySettings are the settings of a policy in the API.
type policySettings struct {
	InvitationDays  int    `json:"invitation_days"`
	ResendMinutes   int    `json:"resend_minutes"`
	MaxResends      int    `json:"max_resends"`
	MaxReopens      int    `json:"max_reopens"`
	Duplicate       string `json:"duplicate" enum:"return,resend"`
	OrphanedInviter string `json:"orphaned_inviter" enum:"hold,transfer,revoke"`
	NoticeByMail    bool   `json:"notice_by_mail"`
	Reminders       struct {
		Max             int    `json:"max"`
		FirstAfterDays  int    `json:"first_after_days"`
		LastBeforeHours int    `json:"last_before_hours"`
		WindowFrom      string `json:"window_from"`
		WindowTo        string `json:"window_to"`
		Weekends        bool   `json:"weekends"`

		Holidays []string `json:"holidays"`
	} `json:"reminders"`
	RequestDays        int    `json:"request_days"`
	RequestCoolOffDays int    `json:"request_cool_off_days"`
	MergeMode          string `json:"merge_mode" enum:"on_command,automatic"`
	MergeUndoDays      int    `json:"merge_undo_days"`
	AcceptURL          string `json:"accept_url"`
}

// policyBody is an app's policy in the API.
type policyBody struct {
	Version   int            `json:"version" doc:"How often it was changed."`
	ChangedAt *time.Time     `json:"changed_at,omitempty" doc:"Missing: never."`
	Settings  policySettings `json:"settings" doc:"What holds."`
	Own       []string       `json:"own" doc:"The settings that your app made; the others are defaults, which may change with Usher." example:"[\"invitation_days\",\"reminders.max\"]"`
	Defaults  policySettings `json:"defaults" doc:"What holds where your app made no setting."`
}

func newPolicyBody(p roster.AppPolicy) policyBody {
	own := p.Own
	if own == nil {
		own = []string{}
	}
	return policyBody{p.Version, p.ChangedAt, newPolicySettings(p.Policy), own, newPolicySettings(roster.DefaultPolicy())}
}

func newPolicySettings(p roster.Policy) (s policySettings) {
	s.InvitationDays, s.ResendMinutes, s.MaxResends, s.MaxReopens = p.InvitationDays, p.ResendMinutes, p.MaxResends, p.MaxReopens
	s.Duplicate, s.OrphanedInviter, s.NoticeByMail = string(p.Duplicate), string(p.OrphanedInviter), p.NoticeByMail
	s.Reminders.Max, s.Reminders.FirstAfterDays, s.Reminders.LastBeforeHours = p.Reminders.Max, p.Reminders.FirstAfterDays, p.Reminders.LastBeforeHours
	s.Reminders.WindowFrom, s.Reminders.WindowTo, s.Reminders.Weekends = p.Reminders.WindowFrom, p.Reminders.WindowTo, p.Reminders.Weekends
	s.Reminders.Holidays = p.Reminders.Holidays.List()
	s.RequestDays, s.RequestCoolOffDays = p.RequestDays, p.RequestCoolOffDays
	s.MergeMode, s.MergeUndoDays, s.AcceptURL = string(p.MergeMode), p.MergeUndoDays, p.AcceptURL
	return s
}

// policyChange describes the body of a change. The domain reads it: it tells a
// null from what is missing, and what an unknown name was perhaps meant to be.
type policyChange struct {
	_               struct{}         `json:"-" additionalProperties:"true"`
	IfVersion       *int             `json:"if_version,omitempty" doc:"Refuse the change with 409 if the policy has another version by now." example:"3"`
	InvitationDays  *int             `json:"invitation_days,omitempty" nullable:"true" doc:"How long an invitation can be accepted: 1 to 365 days." example:"14"`
	ResendMinutes   *int             `json:"resend_minutes,omitempty" nullable:"true" doc:"The rest between two mails of one invitation: 5 to 43200." example:"60"`
	MaxResends      *int             `json:"max_resends,omitempty" nullable:"true" doc:"How often an invitation may be mailed again by hand: 0 to 20." example:"3"`
	MaxReopens      *int             `json:"max_reopens,omitempty" nullable:"true" doc:"How often an expired invitation may start anew: 0 to 5." example:"3"`
	Duplicate       *string          `json:"duplicate,omitempty" nullable:"true" doc:"What inviting an address again does: return the open invitation, or resend it too if its rest is over. A request's if_duplicate goes before." example:"return"`
	OrphanedInviter *string          `json:"orphaned_inviter,omitempty" nullable:"true" doc:"What becomes of open invitations whose inviter may no longer invite: hold, transfer to the workspace's owner, or revoke." example:"hold"`
	NoticeByMail    *bool            `json:"notice_by_mail,omitempty" nullable:"true" doc:"Whether people are mailed about new workspaces, beside their inbox." example:"false"`
	Reminders       *policyReminders `json:"reminders,omitempty" doc:"Of open invitations and access requests, and of accounts whose person has yet to create a password."`
	MergeMode       *string          `json:"merge_mode,omitempty" nullable:"true" doc:"Who starts the merge of a temporary account: on_command, or automatic where there is no conflict." example:"on_command"`
	MergeUndoDays   *int             `json:"merge_undo_days,omitempty" nullable:"true" doc:"How long a merge can be undone: 1 to 90." example:"30"`
	AcceptURL       *string          `json:"accept_url,omitempty" nullable:"true" doc:"Your own page, by https, that links of invitations lead to, with the parameter token. Empty: Usher's." example:"https://app.example.org/invitation"`
}

type policyReminders struct {
	_               struct{} `json:"-" additionalProperties:"true" nullable:"true"`
	Max             *int     `json:"max,omitempty" nullable:"true" doc:"How many are sent by themselves: 0 to 5." example:"2"`
	FirstAfterDays  *int     `json:"first_after_days,omitempty" nullable:"true" doc:"After the invitation: 1 to 90." example:"3"`
	LastBeforeHours *int     `json:"last_before_hours,omitempty" nullable:"true" doc:"Before its expiry: 1 to 720." example:"24"`
	WindowFrom      *string  `json:"window_from,omitempty" nullable:"true" doc:"None earlier in the day than this, in the recipient's time zone." example:"08:00"`
	WindowTo        *string  `json:"window_to,omitempty" nullable:"true" doc:"None later." example:"18:00"`
	Weekends        *bool    `json:"weekends,omitempty" nullable:"true" doc:"Whether there are any on Saturday and Sunday." example:"false"`

	Holidays *[]string `json:"holidays,omitempty" nullable:"true" maxItems:"200" doc:"Days without any, such as [\"2026-12-25\"]."`
}

func (s *Server) changePolicies(ctx context.Context, in *struct {
	Keyed
	RawBody []byte
	Body    policyChange
},
) (*ok[policyBody], error) {
	change := roster.PolicyChange{IfVersion: in.Body.IfVersion, Plain: s.URL.Scheme == "http"}
	if err := json.Unmarshal(in.RawBody, &change.Settings); err != nil {
		return nil, newProblem(http.StatusBadRequest, plainCode(http.StatusBadRequest), "The body is not a JSON object.")
	}
	delete(change.Settings, "if_version")
	p, err := s.Roster.ChangePolicy(ctx, requestOf(ctx).app, change, in.key(ctx, "", in.RawBody))
	return &ok[policyBody]{newPolicyBody(p)}, err
}
