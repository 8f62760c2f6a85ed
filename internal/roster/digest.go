package roster

import (
	"context"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Digest is what a person is reminded of who has several things to answer: those
// of its mail that are still open, in the order of their ends.
type Digest struct {
	App         App
	Email       string // as typed
	Name        string
	Locale      string
	Zone        *time.Location
	Invitations []InvitationView
	Requests    []RequestView
}

// Len is how many things there are.
func (d Digest) Len() int { return len(d.Invitations) + len(d.Requests) }

// digestLetters checks mails that name several things. What was answered is left
// out of them.
func (r *Roster) digestLetters(ctx context.Context, tx pgx.Tx, mails []Mail, letters map[uuid.UUID]Letter) error {
	if len(mails) == 0 {
		return nil
	}
	var invitations, requests, apps []uuid.UUID
	for _, m := range mails {
		apps = append(apps, m.AppID)
		for _, item := range m.Args.Items {
			if item.Request {
				requests = append(requests, item.ID)
			} else {
				invitations = append(invitations, item.ID)
			}
		}
	}
	invited, err := viewInvitations(ctx, tx, invitations, "ORDER BY invitation.id FOR UPDATE OF invitation")
	if err != nil {
		return err
	}
	asked, err := viewRequests(ctx, tx, requests, "ORDER BY access_request.id FOR UPDATE OF access_request")
	if err != nil {
		return err
	}
	settings, err := remindersOf(ctx, tx, apps)
	if err != nil {
		return err
	}
	now := r.now()
	for _, m := range mails {
		var l Letter
		d := &Digest{}
		unsubscribed := false
		for _, item := range m.Args.Items {
			if v, ok := invited[item.ID]; ok && v.AppID == m.AppID && v.State == Pending && v.Version == item.Version && v.ExpiresAt.After(now) {
				d.Invitations = append(d.Invitations, v)
				d.App, d.Email, d.Name, d.Locale, d.Zone = v.App, v.Email, v.FullName, v.Locale, v.Zone
				if v.Account != nil && v.Account.Locale != "" {
					d.Locale = v.Account.Locale
				}
				l.Block, l.Stop, unsubscribed = v.block, stopped(v.stoppedUntil, v.stoppedReason, now), v.unsubscribed
			}
			if v, ok := asked[item.ID]; ok && v.AppID == m.AppID && v.State == Pending && v.Version == item.Version && v.ExpiresAt.After(now) {
				d.Requests = append(d.Requests, v)
				d.App, d.Email, d.Name, d.Locale, d.Zone = v.App, v.Email, v.FullName, v.Locale, v.Zone
				l.Block, l.Stop, unsubscribed = v.block, stopped(v.stoppedUntil, v.stoppedReason, now), v.unsubscribed
			}
		}
		switch {
		case d.Len() == 0:
			l.Skip = "all that it names was answered, or is over"
		case unsubscribed:
			l.Skip = "the person wants no reminders"
		case l.Block == "" && l.Stop == nil:
			l.Stop = closedUntil(settings[m.AppID], m.ID, now.Add(24*time.Hour), d.Zone, now)
		}
		l.Digest = d
		letters[m.ID] = l
	}
	return nil
}
