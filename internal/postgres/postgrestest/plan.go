package postgrestest

import (
	"context"
	"encoding/json"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// Statement is one that a Recorder saw.
type Statement struct {
	SQL  string
	Args []any
}

// Plannable tells whether the statement has a plan and is of ours: River's,
// which begin with a comment, are its own affair.
func (s Statement) Plannable() bool {
	if len(s.Args) > 0 {
		if mode, ok := s.Args[0].(pgx.QueryExecMode); ok && mode != pgx.QueryExecModeCacheDescribe {
			return false
		}
	}
	sql := strings.TrimSpace(s.SQL)
	for _, verb := range []string{"SELECT", "INSERT", "UPDATE", "DELETE", "WITH"} {
		if strings.HasPrefix(sql, verb) {
			return true
		}
	}
	return false
}

// Recorder notes the statements of a pool's connections, as its tracer.
type Recorder struct {
	mu   sync.Mutex
	seen []Statement
}

func (r *Recorder) note(sql string, args []any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, Statement{sql, args})
}

// Take returns what was seen since it was called last.
func (r *Recorder) Take() []Statement {
	r.mu.Lock()
	defer r.mu.Unlock()
	seen := r.seen
	r.seen = nil
	return seen
}

// TraceQueryStart notes a statement.
func (r *Recorder) TraceQueryStart(ctx context.Context, _ *pgx.Conn, data pgx.TraceQueryStartData) context.Context {
	r.note(data.SQL, data.Args)
	return ctx
}

// TraceQueryEnd does nothing.
func (r *Recorder) TraceQueryEnd(context.Context, *pgx.Conn, pgx.TraceQueryEndData) {}

// TraceBatchStart does nothing.
func (r *Recorder) TraceBatchStart(ctx context.Context, _ *pgx.Conn, _ pgx.TraceBatchStartData) context.Context {
	return ctx
}

// TraceBatchQuery notes a statement of a batch.
func (r *Recorder) TraceBatchQuery(_ context.Context, _ *pgx.Conn, data pgx.TraceBatchQueryData) {
	r.note(data.SQL, data.Args)
}

// TraceBatchEnd does nothing.
func (r *Recorder) TraceBatchEnd(context.Context, *pgx.Conn, pgx.TraceBatchEndData) {}

// Plan is a step of a plan as EXPLAIN (FORMAT JSON) has it.
type Plan struct {
	Type     string  `json:"Node Type"`
	Relation string  `json:"Relation Name"`
	Index    string  `json:"Index Name"`
	Rows     float64 `json:"Plan Rows"`
	Plans    []Plan  `json:"Plans"`
}

// Walk visits a plan's steps.
func (p Plan) Walk(visit func(Plan)) {
	visit(p)
	for _, child := range p.Plans {
		child.Walk(visit)
	}
}

func (p Plan) String() string {
	var steps []string
	p.Walk(func(p Plan) {
		if p.Relation != "" || p.Index != "" {
			steps = append(steps, strings.TrimSpace(p.Type+" "+p.Relation+" "+p.Index))
		}
	})
	return strings.Join(steps, ", ")
}

// Explain asks for a statement's plan without running it.
func Explain(t testing.TB, conn *pgxpool.Pool, s Statement) Plan {
	t.Helper()
	var text []byte
	if err := conn.QueryRow(t.Context(), `EXPLAIN (FORMAT JSON) `+s.SQL, s.Args...).Scan(&text); err != nil {
		t.Fatalf("explain %s: %v", s.SQL, err)
	}
	var plans []struct{ Plan Plan }
	if err := json.Unmarshal(text, &plans); err != nil {
		t.Fatal(err)
	}
	return plans[0].Plan
}
