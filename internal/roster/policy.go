package roster

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Policy is what an app decides about its invitations and notices. The zero
// value is no policy: DefaultPolicy is what holds for an app that has none of
// its own.
type Policy struct {
	InvitationDays     int              `json:"invitation_days"`        // how long an invitation can be accepted
	ResendMinutes      int              `json:"resend_minutes"`         // rest between two mails of one invitation
	MaxResends         int              `json:"max_resends"`            // how often one address may be mailed again by hand
	MaxReopens         int              `json:"max_reopens"`            // how often an expired invitation may start anew
	Duplicate          DuplicateRule    `json:"duplicate"`              // what inviting an address again does
	OrphanedInviter    OrphanRule       `json:"orphaned_inviter"`       // what becomes of open invitations whose inviter may no longer invite
	NoticeByMail       bool             `json:"notice_by_mail"`         // whether people are mailed about new workspaces
	Reminders          ReminderSettings `json:"reminders"`              // of open invitations
	RequestDays        int              `json:"request_days"`           // how long an access request can be decided
	RequestCoolOffDays int              `json:"request_cool_off_days"`  // after a denial, before the same company may ask again
	MergeMode          MergeMode        `json:"merge_mode"`             // who starts the merge of a temporary account
	MergeUndoDays      int              `json:"merge_undo_days"`        // how long a merge can be undone
	ArchiveTemporary   int              `json:"archive_temporary_days"` // after the request of a temporary account came to nothing; 0: never
	ArchiveUnclaimed   int              `json:"archive_unclaimed_days"` // after an account was made whose person never set a password; 0: never
	AcceptURL          string           `json:"accept_url"`             // the app's own page that invitations lead to, with ?token=; empty: Usher's
	RequestURL         string           `json:"request_url"`            // likewise, for access requests
}

// ReminderSettings say when people are reminded of what they have not done: to
// answer an invitation or an access request, to create a password.
type ReminderSettings struct {
	Max             int    `json:"max"`               // how many are sent by themselves; 0: none
	FirstAfterDays  int    `json:"first_after_days"`  // after the invitation
	LastBeforeHours int    `json:"last_before_hours"` // before its expiry
	WindowFrom      string `json:"window_from"`       // "08:00", in the recipient's zone
	WindowTo        string `json:"window_to"`         // "18:00"
	Weekends        bool   `json:"weekends"`          // whether Saturday and Sunday count
	Holidays        Days   `json:"holidays"`          // on which nobody is reminded
}

// DuplicateRule is what inviting an address does that has an open invitation to
// the workspace.
type DuplicateRule string

// The rules for duplicates.
const (
	DuplicateReturn DuplicateRule = "return" // the open one is the answer
	DuplicateResend DuplicateRule = "resend" // and it is mailed again, if its rest is over
)

// OrphanRule is what becomes of an open invitation whose inviter may no longer
// invite to its workspace.
type OrphanRule string

// The rules for orphaned invitations.
const (
	OrphanHold     OrphanRule = "hold"     // nobody can accept it until somebody takes it over
	OrphanTransfer OrphanRule = "transfer" // the workspace's owner is its inviter from now on
	OrphanRevoke   OrphanRule = "revoke"
)

// MergeMode is who starts the merge of a temporary account once its client
// approved.
type MergeMode string

// The modes of merging.
const (
	MergeOnCommand MergeMode = "on_command" // the professional
	MergeAutomatic MergeMode = "automatic"  // Usher, where there is no conflict
)

// DefaultPolicy holds for apps that have none of their own.
func DefaultPolicy() Policy {
	return Policy{
		// Two weeks outlast a holiday, and a forgotten link does not stay open
		// for ever. An hour between two mails keeps an impatient inviter from
		// becoming a nuisance.
		InvitationDays: 14, ResendMinutes: 60,
		MaxResends: 3, MaxReopens: 3,
		Duplicate: DuplicateReturn, OrphanedInviter: OrphanHold,
		Reminders: ReminderSettings{Max: 2, FirstAfterDays: 3, LastBeforeHours: 24, WindowFrom: "08:00", WindowTo: "18:00"},
		// A client who said no is left alone for a month.
		RequestDays: 14, RequestCoolOffDays: 30,
		MergeMode: MergeOnCommand, MergeUndoDays: 30,
	}
}

// Life is how long an invitation can be accepted.
func (p Policy) Life() time.Duration { return time.Duration(p.InvitationDays) * 24 * time.Hour }

// RequestLife is how long an access request can be decided.
func (p Policy) RequestLife() time.Duration { return time.Duration(p.RequestDays) * 24 * time.Hour }

// RequestCoolOff is how long a denial keeps the same company from asking again.
func (p Policy) RequestCoolOff() time.Duration {
	return time.Duration(p.RequestCoolOffDays) * 24 * time.Hour
}

// Rest is how long one mail of an invitation keeps the next one back.
func (p Policy) Rest() time.Duration { return time.Duration(p.ResendMinutes) * time.Minute }

// policyOf reads an app's policy: its own settings over the defaults.
func policyOf(ctx context.Context, tx pgx.Tx, app uuid.UUID) (Policy, error) {
	p, _, err := readPolicy(ctx, tx, app, "")
	return p.Policy, err
}
