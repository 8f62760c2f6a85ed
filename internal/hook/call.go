package hook

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

// Call is a webhook that somebody waits for the answer of. It is signed and
// bounded as all are.
type Call struct {
	ID      uuid.UUID // of the call: attempts of one have the same, and the same bytes
	Type    string
	At      time.Time // of what it is about
	Subject uuid.UUID
	Actor   *uuid.UUID
	Details json.RawMessage
}

// Call posts once to an endpoint and answers nil if it took the call. A
// disabled endpoint takes none; of one that was deleted meanwhile nothing is
// asked any more.
func (d *Deliverer) Call(ctx context.Context, endpoint uuid.UUID, c Call) error {
	var t target
	err := postgres.InTx(ctx, d.DB, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `SELECT `+targetColumns+` FROM webhook_endpoint WHERE id = $1 AND state <> 'deleted'`, endpoint)
		if err != nil {
			return err
		}
		t, err = pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[target])
		return err
	})
	switch {
	case errors.Is(err, pgx.ErrNoRows):
		return nil
	case err != nil:
		return fmt.Errorf("read endpoint %s: %w", endpoint, err)
	case t.State != "enabled":
		return fmt.Errorf("call %s of %s: endpoint %s is disabled; enable it, or let another be called about merges", c.Type, c.Subject, endpoint)
	}
	keys, err := t.keys(d.Key, endpoint, d.now())
	if err != nil {
		return err
	}
	a := post(ctx, d.Client, t.URL, keys, event{c.ID, t.AppID, c.Type, c.At, c.Subject, c.Actor, c.Details}, d.Now)
	if !a.ok() {
		return fmt.Errorf("call %s of %s at endpoint %s: %s", c.Type, c.Subject, endpoint, a.Error)
	}
	return nil
}
