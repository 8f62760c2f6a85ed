package hook

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

// Waiting are the endpoints at which something is due. It looks once at each
// endpoint for which anything waits, however much that is.
func (d *Deliverer) Waiting(ctx context.Context) (endpoints []uuid.UUID, err error) {
	err = postgres.InTx(ctx, d.DB, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			WITH RECURSIVE waiting AS (
				(SELECT endpoint_id, due_at FROM webhook_delivery WHERE state = 'waiting' ORDER BY endpoint_id, due_at LIMIT 1)
				UNION ALL
				SELECT next.endpoint_id, next.due_at FROM waiting CROSS JOIN LATERAL (
					SELECT endpoint_id, due_at FROM webhook_delivery
					WHERE state = 'waiting' AND endpoint_id > waiting.endpoint_id ORDER BY endpoint_id, due_at LIMIT 1) AS next
			)
			SELECT e.id FROM waiting JOIN webhook_endpoint AS e ON e.id = waiting.endpoint_id
			WHERE e.state = 'deleted' OR e.state = 'enabled' AND waiting.due_at <= $1 AND (e.paused_until IS NULL OR e.paused_until <= $1)`, d.now())
		if err != nil {
			return fmt.Errorf("look for due webhooks: %w", err)
		}
		endpoints, err = pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
		return err
	})
	return endpoints, err
}
