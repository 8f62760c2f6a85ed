package hook

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

// logWindow bounds the deliveries that one page of a list looks at, so that a
// state few of them are in costs no more than one that all are in.
const logWindow = 5_000

// Log reads what became of webhooks.
type Log struct {
	DB postgres.DB
}

// Delivery is one event on its way to one endpoint.
type Delivery struct {
	EventID   uuid.UUID
	Type      string // the event's
	State     string // waiting, delivered, failed or cancelled
	DueAt     *time.Time
	Status    *int   // of the newest answer; nil: there was none
	Error     string // why the newest attempt failed
	Attempts  []Attempt
	CreatedAt time.Time
	SettledAt *time.Time // when it stopped waiting
}

// DeliveryList says which deliveries to list.
type DeliveryList struct {
	State string    // empty: in any state
	After uuid.UUID // the last event's id of the page before; Nil: the first page
	Limit int       // rows
}

// A delivery that waits before all others is due since it was made.
const deliveryColumns = `d.event_id, event.type, d.state, GREATEST(d.due_at, CASE WHEN d.due_at IS NOT NULL THEN d.created_at END), d.status, d.error, d.log, d.created_at, d.settled_at`

// Deliveries lists what became of events at an app's endpoint, newest first.
// next is where the next page begins, Nil after the last. A page of one state
// looks through logWindow of all: it may have fewer rows than asked for, or
// none, and still a next one. Of an endpoint that is not the app's there are
// none.
func (g *Log) Deliveries(ctx context.Context, app, endpoint uuid.UUID, l DeliveryList) (list []Delivery, next uuid.UUID, err error) {
	clause, args := `WHERE d.app_id = $1 AND d.endpoint_id = $2`, []any{app, endpoint}
	where := func(condition string, arg any) {
		args = append(args, arg)
		clause += fmt.Sprintf(` AND `+condition, len(args))
	}
	if l.After != uuid.Nil {
		where(`d.event_id < $%d`, l.After)
	}
	err = postgres.InTx(ctx, g.DB, func(tx pgx.Tx) error {
		if l.State != "" {
			err := tx.QueryRow(ctx, `SELECT d.event_id FROM webhook_delivery AS d `+clause+fmt.Sprintf(` ORDER BY d.event_id DESC OFFSET %d LIMIT 1`, logWindow-1), args...).Scan(&next)
			if err != nil && !errors.Is(err, pgx.ErrNoRows) {
				return fmt.Errorf("list deliveries: %w", err)
			}
			where(`d.event_id >= $%d`, next)
			where(`d.state = $%d`, l.State)
		}
		args = append(args, l.Limit+1)
		rows, err := tx.Query(ctx, `SELECT `+deliveryColumns+` FROM webhook_delivery AS d JOIN event ON event.id = d.event_id `+
			clause+fmt.Sprintf(` ORDER BY d.event_id DESC LIMIT $%d`, len(args)), args...)
		if err != nil {
			return fmt.Errorf("list deliveries: %w", err)
		}
		list, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Delivery])
		return err
	})
	if err != nil {
		return nil, uuid.Nil, err
	}
	if len(list) > l.Limit {
		list = list[:l.Limit]
		next = list[l.Limit-1].EventID
	}
	return list, next, nil
}

// Delivery is what became of one event at an app's endpoint; ok is false where
// it was never queued for it.
func (g *Log) Delivery(ctx context.Context, app, endpoint, event uuid.UUID) (found Delivery, ok bool, err error) {
	err = postgres.InTx(ctx, g.DB, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			SELECT `+deliveryColumns+` FROM webhook_delivery AS d JOIN event ON event.id = d.event_id
			WHERE d.app_id = $1 AND d.endpoint_id = $2 AND d.event_id = $3`, app, endpoint, event)
		if err == nil {
			found, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Delivery])
		}
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		ok = err == nil
		return err
	})
	if err != nil {
		return found, false, fmt.Errorf("read delivery of event %s: %w", event, err)
	}
	return found, ok, nil
}
