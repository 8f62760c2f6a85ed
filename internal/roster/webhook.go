package roster

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"

	"usher/internal/postgres"
)

const (
	// maxEndpoints bounds an app's endpoints: each event is a row for every one
	// that wants it.
	maxEndpoints = 20

	// maxEndpointText bounds an endpoint's description, in characters.
	maxEndpointText = 200

	// oldSecretLife is how long the secret before also signs: a day is enough to
	// deploy the new one.
	oldSecretLife = 24 * time.Hour

	// replayWindow is how many events one replay looks at: some hundred
	// milliseconds' work.
	replayWindow = 10_000
)

// The types of Event about an endpoint, which is their subject.
const (
	EventEndpointCreated  = "webhook_endpoint.created"
	EventEndpointUpdated  = "webhook_endpoint.updated"
	EventEndpointEnabled  = "webhook_endpoint.enabled"
	EventEndpointDisabled = "webhook_endpoint.disabled"
	EventEndpointDeleted  = "webhook_endpoint.deleted"
	EventSecretRotated    = "webhook_endpoint.secret_rotated"
	EventEndpointTest     = "webhook_endpoint.test"
)

// QueueWebhooks is where the jobs that send webhooks wait.
const QueueWebhooks = "webhooks"

// DeliverWebhooks is the job that sends what is due at an endpoint. One is
// enough for any number of events, and one too many does nothing.
type DeliverWebhooks struct {
	EndpointID uuid.UUID `json:"endpoint_id"`
}

// Kind is the job's name in River.
func (DeliverWebhooks) Kind() string { return "deliver_webhooks" }

// InsertOpts say where the job waits. It is not retried for long: the clock
// inserts one every minute where something is due.
func (DeliverWebhooks) InsertOpts() river.InsertOpts {
	return river.InsertOpts{Queue: QueueWebhooks, MaxAttempts: 3} // as in fanOut
}

// WakeWebhooks is the job that wakes the endpoints at which something is due.
type WakeWebhooks struct{}

// Kind is the job's name in River.
func (WakeWebhooks) Kind() string { return "wake_webhooks" }

// InsertOpts say where the job waits.
func (WakeWebhooks) InsertOpts() river.InsertOpts { return river.InsertOpts{Queue: QueueSweeps} }

// fanOut is the part of a statement that queues the events of its part recorded
// (id, app_id, type, at) for the endpoints that want them, and wakes who sends.
// An endpoint's test goes to that endpoint alone. The job is as River's
// InsertTx makes it; a test holds the two together.
const fanOut = `fanned AS (
			INSERT INTO webhook_delivery (endpoint_id, event_id, app_id, state, due_at, created_at)
			SELECT e.id, recorded.id, recorded.app_id, 'waiting', recorded.at, recorded.at
			FROM recorded JOIN webhook_endpoint e ON e.app_id = recorded.app_id AND e.state = 'enabled'
				AND (e.types = '{}' OR recorded.type = ANY (e.types)) AND recorded.type <> '` + EventEndpointTest + `'
			RETURNING endpoint_id
		), rung AS (
			INSERT INTO river_job (kind, args, queue, max_attempts, state)
			SELECT 'deliver_webhooks', jsonb_build_object('endpoint_id', endpoint_id), '` + QueueWebhooks + `', 3, 'available'
			FROM (SELECT DISTINCT endpoint_id FROM fanned) AS endpoint
			` + wokenNotified + `
		)`

// EndpointState is whether webhooks go to an endpoint.
type EndpointState string

// The states of endpoints. What is deleted is in no answer.
const (
	EndpointEnabled  EndpointState = "enabled"
	EndpointDisabled EndpointState = "disabled"
)

// Why an endpoint is disabled.
const (
	DisabledAsked   = "asked"
	DisabledFailing = "failing" // it did not take a webhook for days
	DisabledGone    = "gone"    // it answered 410
)

// Endpoint is where an app hears of its events.
type Endpoint struct {
	ID             uuid.UUID
	AppID          uuid.UUID
	URL            string
	Description    string
	Types          []string // empty: all
	State          EndpointState
	Reason         string // why it is disabled
	DisabledAt     *time.Time
	SecretVersion  int
	SecretKey      []byte     // names the installation's key that the secret is made with
	OldSecretUntil *time.Time // until when the version before also signs
	Failures       int        // attempts that failed since the last success
	FailingSince   *time.Time
	PausedUntil    *time.Time // nothing is sent before this
	CreatedAt      time.Time
	Merges         bool // the app is called about its merges here
}

const endpointColumns = `id, app_id, url, description, types, state, reason, disabled_at, secret_version, secret_key,
	old_secret_until, failures, failing_since, paused_until, created_at, merges`

// errMergesElsewhere refuses a second endpoint for merges.
var errMergesElsewhere = &Error{Kind: Conflict, Code: "merges_elsewhere", Message: "Another endpoint of the app is called about merges already. Take it from that one first.", Field: "merges"}

// Secret is what an app verifies the endpoint's webhooks with, or
// ErrUnknownKey.
func (e Endpoint) Secret(keys *Keyring) (string, error) {
	key, err := keys.WebhookKey(e.SecretKey, e.ID, e.SecretVersion)
	if err != nil {
		return "", err
	}
	return "whsec_" + base64.StdEncoding.EncodeToString(key), nil
}

// NewEndpoint asks for an endpoint. Whether URL can be posted to is for who
// posts to say, before.
type NewEndpoint struct {
	URL         string
	Description string
	Types       []string // empty: all
	SecretKey   []byte   // of Keyring.ID
	Merges      bool     // call the app about its merges here, too; one endpoint of an app does
}

// EndpointChange is what to change of an endpoint; nil: leave it.
type EndpointChange struct {
	URL         *string
	Description *string
	Types       *[]string
	Enabled     *bool
	Merges      *bool
}

// cleanTypes refuses types there are none of, and drops doubles.
func cleanTypes(types []string) ([]string, error) {
	types = slices.Clone(types)
	slices.Sort(types)
	types = slices.Compact(types)
	for _, t := range types {
		if !slices.ContainsFunc(EventTypes, func(known EventType) bool { return known.Type == t }) {
			return nil, invalidField("types", "event_type_unknown", "There is no event of the type %q.", t)
		}
	}
	if types == nil {
		types = []string{}
	}
	return types, nil
}

func cleanDescription(text string) (string, error) {
	text = strings.TrimSpace(text)
	if len([]rune(text)) > maxEndpointText {
		return "", invalidField("description", "description_too_long", "A description has at most %d characters.", maxEndpointText)
	}
	return text, nil
}

// CreateEndpoint adds an endpoint. From then on it gets the app's events.
func (r *Roster) CreateEndpoint(ctx context.Context, app uuid.UUID, n NewEndpoint, key IdempotencyKey) (Endpoint, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (e Endpoint, err error) {
		if n.Types, err = cleanTypes(n.Types); err != nil {
			return e, err
		}
		if n.Description, err = cleanDescription(n.Description); err != nil {
			return e, err
		}
		now := r.now()
		e, err = oneEndpoint(tx.Query(ctx, `
			INSERT INTO webhook_endpoint (id, app_id, url, description, types, secret_key, created_at, merges)
			SELECT $2, $1, $3, $4, $5, $6, $7, $9
			WHERE (SELECT count(*) FROM webhook_endpoint WHERE app_id = $1 AND state <> 'deleted') < $8
			RETURNING `+endpointColumns, app, newID(), n.URL, n.Description, n.Types, n.SecretKey, now, maxEndpoints, n.Merges))
		if postgres.Violates(err, "webhook_endpoint_merges") {
			return e, errMergesElsewhere
		}
		if errors.Is(err, pgx.ErrNoRows) {
			return e, errorf(Conflict, "too_many_endpoints", "An app has at most %d endpoints. Delete one first.", maxEndpoints)
		}
		if err != nil {
			return e, fmt.Errorf("create endpoint: %w", err)
		}
		return e, recordEndpoint(ctx, tx, e, EventEndpointCreated, nil, now)
	})
}

func oneEndpoint(rows pgx.Rows, err error) (Endpoint, error) {
	if err != nil {
		return Endpoint{}, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[Endpoint])
}

// recordEndpoint writes an event of an endpoint.
func recordEndpoint(ctx context.Context, tx pgx.Tx, e Endpoint, eventType string, data map[string]any, at time.Time) error {
	if data == nil {
		data = map[string]any{}
	}
	raw, err := json.Marshal(data)
	if err != nil {
		return fmt.Errorf("write %s of %s: %w", eventType, e.ID, err)
	}
	_, err = recordEvents(ctx, tx, at, newEvent{e.AppID, eventType, e.ID, uuid.Nil, raw})
	return err
}

// Endpoints are an app's endpoints, oldest first.
func (r *Roster) Endpoints(ctx context.Context, app uuid.UUID) (endpoints []Endpoint, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			SELECT `+endpointColumns+` FROM webhook_endpoint
			WHERE app_id = $1 AND state <> 'deleted' ORDER BY id`, app)
		if err != nil {
			return fmt.Errorf("list endpoints: %w", err)
		}
		endpoints, err = pgx.CollectRows(rows, pgx.RowToStructByPos[Endpoint])
		return err
	})
	return endpoints, err
}

// Endpoint reads one endpoint.
func (r *Roster) Endpoint(ctx context.Context, app, id uuid.UUID) (e Endpoint, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		e, err = readEndpoint(ctx, tx, app, id, "")
		return err
	})
	return e, err
}

// readEndpoint reads an endpoint; lock is empty or " FOR UPDATE".
func readEndpoint(ctx context.Context, tx pgx.Tx, app, id uuid.UUID, lock string) (Endpoint, error) {
	e, err := oneEndpoint(tx.Query(ctx, `
		SELECT `+endpointColumns+` FROM webhook_endpoint
		WHERE app_id = $1 AND id = $2 AND state <> 'deleted'`+lock, app, id))
	if errors.Is(err, pgx.ErrNoRows) {
		return e, notFound("endpoint")
	}
	if err != nil {
		return e, fmt.Errorf("read endpoint %s: %w", id, err)
	}
	return e, nil
}

// UpdateEndpoint changes an endpoint. Enabling it, or sending it elsewhere,
// forgets that it failed, and what waits goes out at once. While it is disabled
// nothing is sent to it and no event is queued for it; what waited before stays.
func (r *Roster) UpdateEndpoint(ctx context.Context, app, id uuid.UUID, c EndpointChange) (e Endpoint, err error) {
	if c.Types != nil {
		types, err := cleanTypes(*c.Types)
		if err != nil {
			return e, err
		}
		c.Types = &types
	}
	if c.Description != nil {
		text, err := cleanDescription(*c.Description)
		if err != nil {
			return e, err
		}
		c.Description = &text
	}
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		before, err := readEndpoint(ctx, tx, app, id, " FOR UPDATE")
		if err != nil {
			return err
		}
		now := r.now()
		after := before.with(c, now)
		if e, err = oneEndpoint(tx.Query(ctx, `
			UPDATE webhook_endpoint SET url = $3, description = $4, types = $5, state = $6, reason = $7, disabled_at = $8,
				failures = $9, failing_since = $10, paused_until = $11, merges = $12
			WHERE app_id = $1 AND id = $2
			RETURNING `+endpointColumns, app, id, after.URL, after.Description, after.Types, after.State, after.Reason, after.DisabledAt,
			after.Failures, after.FailingSince, after.PausedUntil, after.Merges)); err != nil {
			if postgres.Violates(err, "webhook_endpoint_merges") {
				return errMergesElsewhere
			}
			return fmt.Errorf("update endpoint %s: %w", id, err)
		}
		changed := []string{}
		for field, differs := range map[string]bool{
			"url": e.URL != before.URL, "description": e.Description != before.Description, "types": !slices.Equal(e.Types, before.Types),
			"merges": e.Merges != before.Merges,
		} {
			if differs {
				changed = append(changed, field)
			}
		}
		if len(changed) > 0 {
			slices.Sort(changed)
			if err := recordEndpoint(ctx, tx, e, EventEndpointUpdated, map[string]any{"changed": changed}, now); err != nil {
				return err
			}
		}
		switch {
		case e.State == before.State:
		case e.State == EndpointEnabled:
			err = recordEndpoint(ctx, tx, e, EventEndpointEnabled, nil, now)
		default:
			err = recordEndpoint(ctx, tx, e, EventEndpointDisabled, map[string]any{"reason": e.Reason}, now)
		}
		if err != nil {
			return err
		}
		return r.enqueue(ctx, tx, DeliverWebhooks{id})
	})
	return e, err
}

// with is the endpoint as it is after the change.
func (e Endpoint) with(c EndpointChange, now time.Time) Endpoint {
	renewed := false
	if c.URL != nil && *c.URL != e.URL {
		e.URL, renewed = *c.URL, true
	}
	if c.Description != nil {
		e.Description = *c.Description
	}
	if c.Types != nil {
		e.Types = *c.Types
	}
	if c.Merges != nil {
		e.Merges = *c.Merges
	}
	switch {
	case c.Enabled == nil || *c.Enabled == (e.State == EndpointEnabled):
	case *c.Enabled:
		e.State, e.Reason, e.DisabledAt, renewed = EndpointEnabled, "", nil, true
	default:
		e.State, e.Reason, e.DisabledAt = EndpointDisabled, DisabledAsked, &now
	}
	if renewed {
		e.Failures, e.FailingSince, e.PausedUntil = 0, nil, nil
	}
	return e
}

// DeleteEndpoint ends an endpoint. What waits for it is cancelled.
func (r *Roster) DeleteEndpoint(ctx context.Context, app, id uuid.UUID) error {
	return postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		now := r.now()
		e, err := oneEndpoint(tx.Query(ctx, `
			UPDATE webhook_endpoint SET state = 'deleted', reason = '', disabled_at = $3
			WHERE app_id = $1 AND id = $2 AND state <> 'deleted'
			RETURNING `+endpointColumns, app, id, now))
		if errors.Is(err, pgx.ErrNoRows) {
			return notFound("endpoint")
		}
		if err != nil {
			return fmt.Errorf("delete endpoint %s: %w", id, err)
		}
		if err := recordEndpoint(ctx, tx, e, EventEndpointDeleted, nil, now); err != nil {
			return err
		}
		return r.enqueue(ctx, tx, DeliverWebhooks{id})
	})
}

// RotateEndpointSecret gives an endpoint a new secret, made with the key that
// secretKey names. For oldSecretLife the one before signs as well, beside it.
func (r *Roster) RotateEndpointSecret(ctx context.Context, app, id uuid.UUID, secretKey []byte, key IdempotencyKey) (Endpoint, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (Endpoint, error) {
		now := r.now()
		e, err := oneEndpoint(tx.Query(ctx, `
			UPDATE webhook_endpoint SET secret_version = secret_version + 1, secret_key = $3, old_secret_key = secret_key, old_secret_until = $4
			WHERE app_id = $1 AND id = $2 AND state <> 'deleted'
			RETURNING `+endpointColumns, app, id, secretKey, now.Add(oldSecretLife)))
		if errors.Is(err, pgx.ErrNoRows) {
			return e, notFound("endpoint")
		}
		if err != nil {
			return e, fmt.Errorf("rotate secret of endpoint %s: %w", id, err)
		}
		return e, recordEndpoint(ctx, tx, e, EventSecretRotated, map[string]any{"version": e.SecretVersion}, now)
	})
}

// EndpointFailed records, within a transaction that just disabled an endpoint,
// that it did. Who sends webhooks calls it.
func (r *Roster) EndpointFailed(ctx context.Context, app, id uuid.UUID, reason string) error {
	return postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		return recordEndpoint(ctx, tx, Endpoint{ID: id, AppID: app}, EventEndpointDisabled, map[string]any{"reason": reason}, r.now())
	})
}

// enabledEndpoint reads an endpoint that webhooks are to go to.
func enabledEndpoint(ctx context.Context, tx pgx.Tx, app, id uuid.UUID) (Endpoint, error) {
	e, err := readEndpoint(ctx, tx, app, id, " FOR UPDATE")
	if err == nil && e.State != EndpointEnabled {
		err = errorf(Conflict, "endpoint_disabled", "This endpoint is disabled. Enable it first.")
	}
	return e, err
}

// TestEndpoint sends an event to an endpoint, whichever types it wants, before
// all that waits for it, and answers the event's id.
func (r *Roster) TestEndpoint(ctx context.Context, app, id uuid.UUID, key IdempotencyKey) (event uuid.UUID, err error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (event uuid.UUID, err error) {
		e, err := enabledEndpoint(ctx, tx, app, id)
		if err != nil {
			return event, err
		}
		now := r.now()
		ids, err := recordEvents(ctx, tx, now, newEvent{app, EventEndpointTest, e.ID, uuid.Nil, json.RawMessage(`{}`)})
		if err != nil {
			return event, err
		}
		if _, err := tx.Exec(ctx, `
			WITH resumed AS (
				UPDATE webhook_endpoint SET paused_until = NULL WHERE app_id = $1 AND id = $2 AND paused_until IS NOT NULL
			)
			INSERT INTO webhook_delivery (endpoint_id, event_id, app_id, state, due_at, created_at)
			VALUES ($2, $3, $1, 'waiting', 'epoch', $4)`, app, id, ids[0], now); err != nil {
			return event, fmt.Errorf("queue test of endpoint %s: %w", id, err)
		}
		return ids[0], r.enqueue(ctx, tx, DeliverWebhooks{id})
	})
}

// requeue is how a delivery starts anew.
const requeue = `state = 'waiting', tries = 0, due_at = excluded.due_at, settled_at = NULL`

// ReplayDelivery sends one event to an endpoint again, or for the first time,
// under the same id.
func (r *Roster) ReplayDelivery(ctx context.Context, app, id, event uuid.UUID, key IdempotencyKey) (uuid.UUID, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (uuid.UUID, error) {
		if _, err := enabledEndpoint(ctx, tx, app, id); err != nil {
			return event, err
		}
		queued, err := tx.Exec(ctx, `
			INSERT INTO webhook_delivery (endpoint_id, event_id, app_id, state, due_at, created_at)
			SELECT $2, id, $1, 'waiting', $4, $4 FROM event WHERE app_id = $1 AND id = $3
			ON CONFLICT (endpoint_id, event_id) DO UPDATE SET `+requeue, app, id, event, r.now())
		if err != nil {
			return event, fmt.Errorf("replay event %s to endpoint %s: %w", event, id, err)
		}
		if queued.RowsAffected() == 0 {
			return event, notFound("event")
		}
		return event, r.enqueue(ctx, tx, DeliverWebhooks{id})
	})
}

// Replay says which events an endpoint is to get again.
type Replay struct {
	From, To time.Time // from the first to before the second
	Types    []string  // empty: those the endpoint wants
	Which    ReplayWhich
	After    uuid.UUID // the Next of the replay before; Nil: begin
}

// ReplayWhich narrows a replay down by what became of the events before.
type ReplayWhich string

// What a replay can be narrowed down to.
const (
	ReplayFailed      ReplayWhich = "failed"      // those that were given up
	ReplayUndelivered ReplayWhich = "undelivered" // those, and those that were never queued
	ReplayAll         ReplayWhich = "all"
)

// Replayed is what came of a Replay.
type Replayed struct {
	Queued int
	Next   uuid.UUID // there may be more, after this event; Nil: that was all
}

// ReplayDeliveries sends an app's events of a time to an endpoint again, under
// the ids they had. One call looks at replayWindow events. What waits already
// is left to it.
func (r *Roster) ReplayDeliveries(ctx context.Context, app, id uuid.UUID, p Replay, key IdempotencyKey) (Replayed, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (done Replayed, err error) {
		e, err := enabledEndpoint(ctx, tx, app, id)
		if err != nil {
			return done, err
		}
		if p.Types, err = cleanTypes(p.Types); err != nil {
			return done, err
		}
		if len(p.Types) == 0 {
			p.Types = e.Types
		}
		if !p.From.Before(p.To) {
			return done, invalidField("to", "range_empty", "The end of the time is after its beginning.")
		}
		if p.After != uuid.Nil {
			if _, err := readEvent(ctx, tx, app, p.After); err != nil {
				return done, err
			}
		}
		unwanted := map[ReplayWhich][]string{
			ReplayFailed: {"waiting", "delivered", "cancelled", "never"}, ReplayUndelivered: {"waiting", "delivered"}, ReplayAll: {"waiting"},
		}[p.Which]
		var last *uuid.UUID
		var looked int
		if err := tx.QueryRow(ctx, `
			WITH looked AS MATERIALIZED (
				SELECT id, type, at FROM event
				WHERE app_id = $1 AND at >= $3 AND at < $4
					AND ($5 = '00000000-0000-0000-0000-000000000000'::uuid OR (at, id) > ((SELECT at FROM event WHERE app_id = $1 AND id = $5), $5))
				ORDER BY at, id LIMIT $9
			), queued AS (
				INSERT INTO webhook_delivery (endpoint_id, event_id, app_id, state, due_at, created_at)
				SELECT $2, looked.id, $1, 'waiting', $8, $8
				FROM looked LEFT JOIN webhook_delivery d ON d.endpoint_id = $2 AND d.event_id = looked.id
				WHERE (cardinality($6::text[]) = 0 OR looked.type = ANY ($6)) AND looked.type <> '`+EventEndpointTest+`'
					AND COALESCE(d.state, 'never') <> ALL ($7)
				ON CONFLICT (endpoint_id, event_id) DO UPDATE SET `+requeue+`
				RETURNING 1
			)
			SELECT (SELECT count(*) FROM queued), (SELECT count(*) FROM looked), (SELECT id FROM looked ORDER BY at DESC, id DESC LIMIT 1)`,
			app, id, p.From, p.To, p.After, p.Types, unwanted, r.now(), replayWindow).Scan(&done.Queued, &looked, &last); err != nil {
			return done, fmt.Errorf("replay events to endpoint %s: %w", id, err)
		}
		if looked == replayWindow {
			done.Next = *last
		}
		if done.Queued == 0 {
			return done, nil
		}
		return done, r.enqueue(ctx, tx, DeliverWebhooks{id})
	})
}
