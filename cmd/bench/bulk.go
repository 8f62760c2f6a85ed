package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

const (
	bulkRows = 10_000 // as many as one call takes

	// bulkRounds bounds how often Usher and the floor take turns, which take a
	// second or two each.
	bulkRounds = 5
)

// bulkTables are what a batch fills, in an order that foreign keys allow.
var bulkTables = []string{"invitation", "event", "message", "idempotency_key"}

// bulkInvitations measures how fast one call invites ten thousand people. The
// floor stores the very rows that Usher stored, in tables with the same indexes
// and keys, by COPY in one transaction.
func bulkInvitations(ctx context.Context, b *bench) (f figure, err error) {
	f = figure{Unit: "1/s", N: bulkRows}
	web, err := b.startWeb(ctx)
	if err != nil {
		return f, err
	}
	defer func() { err = errors.Join(err, web.stop()) }()
	if err := b.bulkRound(ctx, web, nil); err != nil { // warms up
		return f, err
	}
	for end, round := time.Now().Add(b.perFigure), 0; round < 2 || round < bulkRounds && time.Now().Before(end); round++ {
		if err := b.bulkRound(ctx, web, &f); err != nil {
			return f, err
		}
		progress("  round %d: usher %.0f/s, floor %.0f/s", round+1, f.Rounds[round], f.FloorRounds[round])
	}
	f.Value, f.Floor = median(f.Rounds), median(f.FloorRounds)
	return f, nil
}

// bulkRound measures both once and adds what it saw to f, if there is one.
func (b *bench) bulkRound(ctx context.Context, web *process, f *figure) error {
	if err := b.clear(ctx); err != nil {
		return err
	}
	before := resident(web.cmd.Process.Pid, true)
	ours, err := b.postBatch(ctx, web.address)
	if err != nil {
		return err
	}
	peak := resident(web.cmd.Process.Pid, false)
	rows := make([][]byte, len(bulkTables))
	conn, err := pgx.Connect(ctx, b.server.URL(database))
	if err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for i, table := range bulkTables {
		var out bytes.Buffer
		tag, err := conn.PgConn().CopyTo(ctx, &out, "COPY "+table+" TO STDOUT (FORMAT binary)")
		if err != nil {
			return fmt.Errorf("read %s: %w", table, err)
		}
		if tag.RowsAffected() != bulkRows {
			return fmt.Errorf("%d rows are stored in %s, not %d", tag.RowsAffected(), table, bulkRows)
		}
		rows[i] = out.Bytes()
	}
	if err := b.clear(ctx); err != nil {
		return err
	}
	start := time.Now()
	err = postgres.InTx(ctx, conn, func(tx pgx.Tx) error {
		for i, table := range bulkTables {
			if _, err := tx.Conn().PgConn().CopyFrom(ctx, bytes.NewReader(rows[i]), "COPY "+table+" FROM STDIN (FORMAT binary)"); err != nil {
				return fmt.Errorf("copy %s: %w", table, err)
			}
		}
		return nil
	})
	if err != nil || f == nil {
		return err
	}
	f.FloorRounds = append(f.FloorRounds, bulkRows/time.Since(start).Seconds())
	f.Rounds = append(f.Rounds, bulkRows/ours.Seconds())
	f.MemoryBefore, f.MemoryPeak = max(f.MemoryBefore, before), max(f.MemoryPeak, peak)
	return nil
}

// postBatch invites new people in one call and tells how long it took until the
// last was answered.
func (b *bench) postBatch(ctx context.Context, address string) (time.Duration, error) {
	var body bytes.Buffer
	for range bulkRows {
		id := spread(lastRequest.Add(1))
		fmt.Fprintf(&body, `{"email":"guest.%016x@example.org","full_name":"Guest %016x","workspace_id":"%s","locale":"es"}`+"\n", id, id, b.workspace)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://"+address+"/v1/invitations/batch", &body)
	if err != nil {
		return 0, fmt.Errorf("post batch: %w", err)
	}
	for name, value := range map[string]string{
		"Authorization": "Bearer " + b.key, "Usher-Actor": b.account.String(), "Content-Type": "application/x-ndjson",
		"Idempotency-Key": fmt.Sprintf("bench-%016x", spread(lastRequest.Add(1))),
	} {
		req.Header.Set(name, value)
	}
	start := time.Now()
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, fmt.Errorf("post batch: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return 0, fmt.Errorf("post batch: %s", resp.Status)
	}
	answered := 0
	lines := bufio.NewScanner(resp.Body)
	for ; lines.Scan(); answered++ {
		if !bytes.Contains(lines.Bytes(), []byte(`"status":201,`)) {
			return 0, fmt.Errorf("post batch: row %d is answered %s", answered, lines.Bytes())
		}
	}
	if err := lines.Err(); err != nil || answered != bulkRows {
		return 0, fmt.Errorf("post batch: %d rows were answered: %w", answered, err)
	}
	return time.Since(start), nil
}

// resident is how much memory a process had at most since it was last reset, in
// MB; 0 where the system does not tell.
func resident(pid int, reset bool) float64 {
	folder := "/proc/" + strconv.Itoa(pid)
	if reset {
		_ = os.WriteFile(folder+"/clear_refs", []byte("5"), 0) // 5: the peak is what it is now
	}
	status, err := os.ReadFile(folder + "/status")
	if err != nil {
		return 0
	}
	_, rest, _ := strings.Cut(string(status), "VmHWM:")
	kilobytes, _, _ := strings.Cut(strings.TrimSpace(rest), " ")
	n, err := strconv.Atoi(kilobytes)
	if err != nil {
		return 0
	}
	return float64(n) / 1024
}
