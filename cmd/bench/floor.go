package main

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"usher/internal/postgres"
	"usher/internal/roster"
)

const (
	// floorPool is the best of 8, 16, 32 and 64 connections, each tried with 32
	// and with 256 clients on two cores. Another machine may like another one
	// better: see -pool.
	floorPool = 64

	// floorNotify is how often the floor wakes workers: River's default, which
	// is seldomer than Usher does.
	floorNotify = 100 * time.Millisecond
)

// floorOptions are what the floor's server needs.
type floorOptions struct {
	database, address, app string
	pool                   int
}

// floorInsert stores what Usher stores for an accepted invitation, in one
// statement, which is its own transaction.
const floorInsert = `
	WITH i AS (
		INSERT INTO invitation (id, app_id, workspace_id, inviter_id, kind, email, email_key, full_name, locale, note,
			state, sends, message_id, queued_at, expires_at, created_at)
		VALUES ($1, $2, $3, $4, 'new_user', $5, $5, $6, $7, '', 'pending', 1, $18, $8, $9, $8)
	), e AS (
		INSERT INTO event (id, app_id, type, subject_id, actor_id, data, at)
		VALUES ($10, $2, 'invitation.created', $1, $4, $11, $8)
	), k AS (
		INSERT INTO idempotency_key (app_id, route, key, body_hash, answer, created_at)
		VALUES ($2, 'POST /v1/invitations', $12, $13, $14, $8)
	), m AS (
		INSERT INTO message (id, app_id, kind, subject_id, purpose, args, lane, email_key, state, due_at, created_at)
		VALUES ($18, $2, 'invitation', $1, 'v1:send:1', '{"version": 1, "send": 1}', 'interactive', $5, 'queued', $8, $8)
	)
	INSERT INTO river_job (args, kind, max_attempts, metadata, priority, queue, state, tags)
	VALUES ($15, 'compose_mail', $16, '{}', 1, $17, 'available', '{}')`

// floorInsertNotify also wakes the workers.
const floorInsertNotify = floorInsert + `
	RETURNING pg_notify('public.river_insert', '{"queue": "mail_interactive"}')`

// floorAnswer has the fields of Usher's answer.
type floorAnswer struct {
	ID          uuid.UUID       `json:"id"`
	Kind        string          `json:"kind"`
	WorkspaceID uuid.UUID       `json:"workspace_id"`
	InviterID   uuid.UUID       `json:"inviter_id"`
	Email       string          `json:"email"`
	FullName    string          `json:"full_name"`
	Visibility  string          `json:"visibility"`
	Locale      string          `json:"locale"`
	State       roster.State    `json:"state"`
	Delivery    roster.Delivery `json:"delivery"`
	ExpiresAt   time.Time       `json:"expires_at"`
	CreatedAt   time.Time       `json:"created_at"`
	Link        string          `json:"link"`
}

// floorLink is as long as one of Usher's.
const floorLink = "http://localhost:8080/i/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"

// serveFloor is what a handler cannot do less than: read the JSON, store the
// rows, answer. It checks nothing.
func serveFloor(ctx context.Context, o floorOptions) error {
	app, err := uuid.Parse(o.app)
	if err != nil {
		return fmt.Errorf("read -app: %w", err)
	}
	pool, err := postgres.Open(ctx, o.database, o.pool)
	if err != nil {
		return err
	}
	defer pool.Close()
	server := fiber.New(fiber.Config{DisableStartupMessage: true})
	server.Get("/readyz", func(c *fiber.Ctx) error { return c.SendString("ok\n") })
	server.Post("/v1/invitations", floorHandler(app, pool))
	context.AfterFunc(ctx, func() { _ = server.Shutdown() })
	if err := server.Listen(o.address); err != nil {
		return fmt.Errorf("serve floor: %w", err)
	}
	return nil
}

func floorHandler(app uuid.UUID, pool *pgxpool.Pool) fiber.Handler {
	var notified atomic.Int64 // when, in nanoseconds
	return func(c *fiber.Ctx) error {
		var in struct {
			Email       string    `json:"email"`
			FullName    string    `json:"full_name"`
			WorkspaceID uuid.UUID `json:"workspace_id"`
			Locale      string    `json:"locale"`
		}
		if err := json.Unmarshal(c.Body(), &in); err != nil {
			return err
		}
		actor, err := uuid.Parse(c.Get("Usher-Actor"))
		if err != nil {
			return err
		}
		now, message := time.Now().UTC().Truncate(time.Microsecond), uuid.Must(uuid.NewV7())
		inv := roster.Invitation{
			ID: uuid.Must(uuid.NewV7()), AppID: app, WorkspaceID: in.WorkspaceID, InviterID: actor,
			Kind: roster.KindNewUser, Email: in.Email, EmailKey: in.Email, FullName: in.FullName, Locale: in.Locale,
			State: roster.Pending, Delivery: roster.MailQueued, Version: 1, Sends: 1,
			QueuedAt: &now, MessageID: &message, ExpiresAt: now.AddDate(0, 0, 14), CreatedAt: now,
			Visibility: roster.VisibilityFull,
		}
		answer, err := json.Marshal(struct{ Result roster.Created }{roster.Created{Invitation: inv}})
		if err != nil {
			return err
		}
		job := roster.ComposeMail{Lane: roster.Interactive}
		args, err := json.Marshal(job)
		if err != nil {
			return err
		}
		hash := sha256.Sum256(c.Body())
		statement := floorInsert
		if last := notified.Load(); now.UnixNano()-last > int64(floorNotify) && notified.CompareAndSwap(last, now.UnixNano()) {
			statement = floorInsertNotify
		}
		if _, err := pool.Exec(c.UserContext(), statement,
			inv.ID, app, in.WorkspaceID, actor, in.Email, in.FullName, in.Locale, now, inv.ExpiresAt,
			uuid.Must(uuid.NewV7()), fmt.Appendf(nil, `{"version":1,"workspace_id":%q}`, in.WorkspaceID),
			c.Get("Idempotency-Key"), hash[:], answer, args, job.InsertOpts().MaxAttempts, job.InsertOpts().Queue, message); err != nil {
			return err
		}
		return c.Status(fiber.StatusCreated).JSON(floorAnswer{
			inv.ID, inv.Kind, inv.WorkspaceID, inv.InviterID, inv.Email, inv.FullName, string(inv.Visibility), inv.Locale,
			inv.State, inv.Delivery, inv.ExpiresAt, inv.CreatedAt, floorLink,
		})
	}
}
