package roster

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/robfig/cron/v3"

	"usher/internal/postgres"
)

// Schedule are ticks of the clock: Next is the first after a time.
type Schedule interface {
	Next(after time.Time) time.Time
}

// ParseCron reads a cron expression of five fields. Zones are refused: ticks
// are in UTC, where no hour is missing or comes twice.
func ParseCron(expression string) (Schedule, error) {
	if strings.Contains(expression, "TZ=") {
		return nil, fmt.Errorf("read cron expression %q: ticks are in UTC, leave the zone out", expression)
	}
	parsed, err := cron.ParseStandard(expression)
	if err != nil {
		return nil, fmt.Errorf("read cron expression %q: %w", expression, err)
	}
	return parsed, nil
}

// SweepSchedule are a sweep's ticks, in UTC.
func SweepSchedule(name string) (Schedule, error) {
	sweep, ok := sweeps[name]
	if !ok {
		return nil, errNoSweep(name)
	}
	return ParseCron(sweep.cron)
}

func errNoSweep(name string) error {
	return errorf(NotFound, "sweep_not_found", "There is no sweep %q.", name)
}

// StartSweep has a worker run a sweep now, besides its ticks. One that waits or
// runs already is enough.
func (r *Roster) StartSweep(ctx context.Context, name string) error {
	if _, ok := sweeps[name]; !ok {
		return errNoSweep(name)
	}
	return postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		return r.enqueue(ctx, tx, Sweep{Name: name, Tick: r.now().UTC().Truncate(time.Second), ByHand: true})
	})
}
