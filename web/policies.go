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
	register(s, huma.Operation{
		OperationID: "simulate-policies", Method: http.MethodPost, Path: "/v1/policies/simulate", Tags: []string{tagPolicies}, DefaultStatus: http.StatusOK,
		Summary: "See what would be sent when, under settings that are not made", Errors: []int{404},
		Description: "The same code decides as when mail is sent. A thing that is answered, or whose person wants no reminders, gets none of those; who has several things open gets one mail of all. Of a mail without a `subject_id`, reminders that wait for a window to open come up to an hour later than said, so that they do not all leave in one minute.",
	}, s.simulatePolicies)
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
	ArchiveTemporary   int    `json:"archive_temporary_days"`
	ArchiveUnclaimed   int    `json:"archive_unclaimed_days"`
	AcceptURL          string `json:"accept_url"`
	RequestURL         string `json:"request_url"`
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
	s.MergeMode, s.MergeUndoDays = string(p.MergeMode), p.MergeUndoDays
	s.ArchiveTemporary, s.ArchiveUnclaimed = p.ArchiveTemporary, p.ArchiveUnclaimed
	s.AcceptURL, s.RequestURL = p.AcceptURL, p.RequestURL
	return s
}

// policyChange describes the body of a change. The domain reads it: it tells a
// null from what is missing, and what an unknown name was perhaps meant to be.
type policyChange struct {
	_                struct{}         `json:"-" additionalProperties:"true"`
	IfVersion        *int             `json:"if_version,omitempty" doc:"Refuse the change with 409 if the policy has another version by now." example:"3"`
	InvitationDays   *int             `json:"invitation_days,omitempty" nullable:"true" doc:"How long an invitation can be accepted: 1 to 365 days." example:"14"`
	ResendMinutes    *int             `json:"resend_minutes,omitempty" nullable:"true" doc:"The rest between two mails of one invitation: 5 to 43200." example:"60"`
	MaxResends       *int             `json:"max_resends,omitempty" nullable:"true" doc:"How often an invitation may be mailed again by hand: 0 to 20." example:"3"`
	MaxReopens       *int             `json:"max_reopens,omitempty" nullable:"true" doc:"How often an expired invitation may start anew: 0 to 5." example:"3"`
	Duplicate        *string          `json:"duplicate,omitempty" nullable:"true" doc:"What inviting an address again does: return the open invitation, or resend it too if its rest is over. A request's if_duplicate goes before." example:"return"`
	OrphanedInviter  *string          `json:"orphaned_inviter,omitempty" nullable:"true" doc:"What becomes of open invitations whose inviter may no longer invite: hold, transfer to the workspace's owner, or revoke." example:"hold"`
	NoticeByMail     *bool            `json:"notice_by_mail,omitempty" nullable:"true" doc:"Whether people are mailed about new workspaces, beside their inbox." example:"false"`
	Reminders        *policyReminders `json:"reminders,omitempty" doc:"Of open invitations and access requests, and of accounts whose person has yet to create a password."`
	RequestDays      *int             `json:"request_days,omitempty" nullable:"true" doc:"How long an access request can be decided: 1 to 90." example:"14"`
	RequestCoolOff   *int             `json:"request_cool_off_days,omitempty" nullable:"true" doc:"After a denial, before the same company may ask again: 1 to 365." example:"30"`
	MergeMode        *string          `json:"merge_mode,omitempty" nullable:"true" doc:"Who starts the merge of a temporary account: on_command, or automatic where there is no conflict." example:"on_command"`
	MergeUndoDays    *int             `json:"merge_undo_days,omitempty" nullable:"true" doc:"How long a merge can be undone: 1 to 90." example:"30"`
	ArchiveTemporary *int             `json:"archive_temporary_days,omitempty" nullable:"true" doc:"How long after its request was denied, expired or was cancelled a temporary account stays: 0 to 730; 0: for good." example:"90"`
	ArchiveUnclaimed *int             `json:"archive_unclaimed_days,omitempty" nullable:"true" doc:"How long an account that was made for a client stays without a password: 0 to 730; 0: for good." example:"0"`
	AcceptURL        *string          `json:"accept_url,omitempty" nullable:"true" doc:"Your own page, by https, that links of invitations lead to, with the parameter token. Empty: Usher's." example:"https://app.example.org/invitation"`
	RequestURL       *string          `json:"request_url,omitempty" nullable:"true" doc:"Likewise, for access requests." example:"https://app.example.org/access-request"`
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

// simulatedMail is a mail of a simulation, and what would follow it.
type simulatedMail struct {
	Kind      string      `json:"kind"`
	TimeZone  string      `json:"time_zone" doc:"That its times go by."`
	MailedAt  time.Time   `json:"mailed_at"`
	Reminders []time.Time `json:"reminders" doc:"When the person would be reminded."`
	Local     []string    `json:"local" doc:"The same as the person's clock shows them." example:"[\"2026-12-03 08:00\"]"`
	ExpiresAt time.Time   `json:"expires_at"`
}

// simulationBody is what a simulation tells.
type simulationBody struct {
	Settings policySettings  `json:"settings" doc:"What would hold."`
	Mails    []simulatedMail `json:"mails"`
}

func (s *Server) simulatePolicies(ctx context.Context, in *struct {
	RawBody []byte
	Body    struct {
		Settings *policyChange `json:"settings,omitempty" doc:"What would be different, as with a change of the policy. Missing: nothing."`
		Mails    []struct {
			SubjectID string     `json:"subject_id,omitempty" format:"uuid" doc:"Of an invitation or an access request there is, for its times to the minute."`
			Kind      string     `json:"kind,omitempty" enum:"invitation,access_request,new_account" default:"invitation"`
			TimeZone  string     `json:"time_zone,omitempty" maxLength:"64" doc:"The person's. Missing: the app's." example:"Europe/Paris"`
			MailedAt  time.Time  `json:"mailed_at" example:"2026-12-01T09:00:00Z"`
			ExpiresAt *time.Time `json:"expires_at,omitempty" doc:"Missing: as the settings say."`
		} `json:"mails" minItems:"1" maxItems:"100"`
	}
},
) (*ok[simulationBody], error) {
	var raw struct {
		Settings map[string]json.RawMessage `json:"settings"`
	}
	if err := json.Unmarshal(in.RawBody, &raw); err != nil {
		return nil, newProblem(http.StatusBadRequest, plainCode(http.StatusBadRequest), "The body is not a JSON object.")
	}
	delete(raw.Settings, "if_version")
	things := make([]roster.Simulated, len(in.Body.Mails))
	for i, m := range in.Body.Mails {
		things[i] = roster.Simulated{ID: id(m.SubjectID), Kind: m.Kind, Zone: m.TimeZone, MailedAt: m.MailedAt, Until: m.ExpiresAt}
	}
	p, plans, err := s.Roster.Simulate(ctx, requestOf(ctx).app, roster.PolicyChange{Settings: raw.Settings, Plain: s.URL.Scheme == "http"}, things)
	if err != nil {
		return nil, err
	}
	out := simulationBody{newPolicySettings(p), make([]simulatedMail, len(plans))}
	for i, plan := range plans {
		location, err := time.LoadLocation(plan.Zone)
		if err != nil {
			return nil, err
		}
		out.Mails[i] = simulatedMail{
			Kind: things[i].Kind, TimeZone: plan.Zone, MailedAt: things[i].MailedAt, ExpiresAt: plan.Until.UTC(), Reminders: []time.Time{}, Local: []string{},
		}
		for _, at := range plan.Times {
			out.Mails[i].Reminders, out.Mails[i].Local = append(out.Mails[i].Reminders, at.UTC()), append(out.Mails[i].Local, at.In(location).Format("2006-01-02 15:04"))
		}
	}
	return &ok[simulationBody]{out}, nil
}
