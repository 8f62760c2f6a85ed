package web

import (
	"context"
	"errors"
	"sync"

	"github.com/jackc/pgx/v5/pgconn"

	"usher/internal/roster"
)

const (
	// committers is how many transactions of creations run at once: while one
	// waits for its commit to reach the disk, the other fills.
	committers = 2

	// maxBatch bounds the rows of one transaction, so that the first of them is
	// not answered much later than it could be.
	maxBatch = 256

	// maxWaiting bounds the requests that wait for a committer. More are
	// answered 503: they would run into their deadline.
	maxWaiting = 4096

	// commitTime bounds one transaction of creations.
	commitTime = requestTime
)

// errOverloaded answers requests that come faster than the database commits.
var errOverloaded = errors.New("too many requests wait to be stored")

// intake lets requests that arrive at the same time share one transaction. It
// waits for nothing: a committer takes whatever has queued up while the last
// commit ran, which is one request if only one is there.
type intake struct {
	roster *roster.Roster
	queue  chan creation
	done   sync.WaitGroup
}

type creation struct {
	ctx    context.Context //nolint:containedctx // tells whether the request is still waited for
	row    roster.NewInvitation
	answer chan<- roster.CreateOutcome
}

func newIntake(r *roster.Roster) *intake {
	return &intake{roster: r, queue: make(chan creation, maxWaiting)}
}

func (in *intake) start() {
	for range committers {
		in.done.Add(1)
		go func() {
			defer in.done.Done()
			in.commit()
		}()
	}
}

// stop ends the committers after the last queued request. No more may come.
func (in *intake) stop() {
	close(in.queue)
	in.done.Wait()
}

// create stores one invitation together with whatever else is being stored.
func (in *intake) create(ctx context.Context, row roster.NewInvitation) (roster.Created, error) {
	answer := make(chan roster.CreateOutcome, 1)
	select {
	case in.queue <- creation{ctx, row, answer}:
	default:
		return roster.Created{}, errOverloaded
	}
	select {
	case out := <-answer:
		return out.Created, out.Err
	case <-ctx.Done():
		return roster.Created{}, context.Cause(ctx)
	}
}

func (in *intake) commit() {
	for first := range in.queue {
		batch := []creation{first}
	fill:
		for len(batch) < maxBatch {
			select {
			case next, ok := <-in.queue:
				if !ok {
					break fill
				}
				batch = append(batch, next)
			default:
				break fill
			}
		}
		waited := batch[:0]
		for _, c := range batch {
			if c.ctx.Err() == nil { // the others were answered already
				waited = append(waited, c)
			}
		}
		in.store(waited)
	}
}

// store commits a batch and answers each of its requests.
func (in *intake) store(batch []creation) {
	if len(batch) == 0 {
		return
	}
	rows := make([]roster.NewInvitation, len(batch))
	for i, c := range batch {
		rows[i] = c.row
	}
	for i, out := range createAll(in.roster, rows) {
		batch[i].answer <- out
	}
}

// createAll commits rows, whether anybody still waits for them or not. If the
// database objects to a row in a way that no check foresaw, the rows are halved
// until that one stands alone, so that it fails by itself.
func createAll(r *roster.Roster, rows []roster.NewInvitation) []roster.CreateOutcome {
	ctx, cancel := context.WithTimeout(context.Background(), commitTime)
	defer cancel()
	outcomes, err := r.CreateInvitations(ctx, rows)
	if err == nil {
		return outcomes
	}
	if half := len(rows) / 2; half > 0 && isDataError(err) {
		return append(createAll(r, rows[:half]), createAll(r, rows[half:])...)
	}
	outcomes = make([]roster.CreateOutcome, len(rows))
	for i := range outcomes {
		outcomes[i].Err = err
	}
	return outcomes
}

// isDataError tells an objection to what was to be stored (SQLSTATE classes 22,
// data exception, and 23, integrity violation) from a fault of the database.
func isDataError(err error) bool {
	var pgErr *pgconn.PgError
	return errors.As(err, &pgErr) && (pgErr.Code[:2] == "22" || pgErr.Code[:2] == "23")
}
