package roster

import (
	"context"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

// MaxSimulated bounds the things of one simulation.
const MaxSimulated = 100

// Simulated is a thing that a simulation mails.
type Simulated struct {
	ID       uuid.UUID // of an invitation or an access request; Nil: none yet
	Kind     string    // SimulateInvitation, SimulateRequest or SimulateAccount
	Zone     string    // of the person; empty: the app's
	MailedAt time.Time
	Until    *time.Time // nil: as the policy says
}

// The kinds of Simulated.
const (
	SimulateInvitation = "invitation"
	SimulateRequest    = "access_request"
	SimulateAccount    = "new_account"
)

// SimulatedPlan is what would be sent about a thing, if nobody did anything.
type SimulatedPlan struct {
	Zone  string
	Until time.Time   // when it expires
	Times []time.Time // of its reminders
}

// Simulate tells what would be sent when under an app's policy with changes that
// are not made. The times are those that the sweep goes by; of a thing without an
// id, those that wait for a window to open are up to an hour later.
func (r *Roster) Simulate(ctx context.Context, app uuid.UUID, change PolicyChange, things []Simulated) (p Policy, plans []SimulatedPlan, err error) {
	if len(things) > MaxSimulated {
		return p, nil, invalidField("mails", "too_many_rows", "A simulation has at most %d mails.", MaxSimulated)
	}
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		_, own, err := readPolicy(ctx, tx, app, "")
		if err != nil {
			return err
		}
		if p, _, err = change.apply(own); err != nil {
			return err
		}
		var appZone string
		if err := tx.QueryRow(ctx, `SELECT time_zone FROM app WHERE id = $1`, app).Scan(&appZone); err != nil {
			return fmt.Errorf("read app %s: %w", app, err)
		}
		for _, t := range things {
			if t.ID != uuid.Nil {
				var known bool
				if err := tx.QueryRow(ctx, `
					SELECT EXISTS (SELECT FROM invitation WHERE app_id = $1 AND id = $2) OR EXISTS (SELECT FROM access_request WHERE app_id = $1 AND id = $2)`, app, t.ID).Scan(&known); err != nil {
					return fmt.Errorf("look for %s: %w", t.ID, err)
				}
				if !known {
					return notFound("subject")
				}
			}
			if t.Zone, err = cleanZone(t.Zone); err != nil {
				return err
			}
			location := zone(t.Zone, appZone)
			plan := SimulatedPlan{Zone: location.String(), Until: t.MailedAt.Add(p.lifeOf(t.Kind))}
			if t.Until != nil {
				plan.Until = *t.Until
			}
			plan.Times = p.Reminders.Plan(Reminded{ID: t.ID, From: t.MailedAt, Till: plan.Until, Zone: location})
			plans = append(plans, plan)
		}
		return nil
	})
	return p, plans, err
}

// lifeOf is how long a thing of a kind can be answered.
func (p Policy) lifeOf(kind string) time.Duration {
	switch kind {
	case SimulateRequest:
		return p.RequestLife()
	case SimulateAccount:
		return newAccountLife
	}
	return p.Life()
}
