package web

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"
	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"riverqueue.com/riverui"

	"usher/internal/roster"
)

const (
	opsCookie = "usher_ops"

	// opsSession is how long an operator stays logged in: a working day.
	opsSession = 10 * time.Hour

	// purposeOps signs the cookie of a logged-in operator.
	purposeOps roster.Purpose = "ops session"
)

// jobsUI is River UI, which has no log-in of its own: routes puts one before
// it.
type jobsUI struct {
	http.Handler
	start func(context.Context) error
}

func newJobsUI(client *river.Client[pgx.Tx], logger *slog.Logger) (*jobsUI, error) {
	ui, err := riverui.NewHandler(&riverui.HandlerOpts{
		Endpoints: riverui.NewEndpoints(client, nil),
		Logger:    logger,
		Prefix:    "/ops/jobs",
	})
	if err != nil {
		return nil, fmt.Errorf("open River UI: %w", err)
	}
	return &jobsUI{ui, ui.Start}, nil
}

// Start starts what the pages need in the background, until ctx ends.
func (j *jobsUI) Start(ctx context.Context) error { return j.start(ctx) }

// operator lets logged-in operators pass and sends others to the log-in.
func (s *Server) operator(c *fiber.Ctx) error {
	c.Set(fiber.HeaderCacheControl, "no-store")
	if s.OpsPassword == "" {
		return fiber.NewError(fiber.StatusForbidden, "The ops pages are closed: set USHER_OPS_PASSWORD to open them.")
	}
	if s.isOperator(c) {
		return c.Next()
	}
	if c.Method() != fiber.MethodGet || strings.HasPrefix(c.Path(), "/ops/jobs/api") {
		return fiber.NewError(fiber.StatusUnauthorized, "Log in at /ops/login first.")
	}
	return c.Redirect("/ops/login", fiber.StatusSeeOther)
}

// The cookie says until when it counts and for which password, so that a new
// password logs everybody out.
func (s *Server) opsCookieText(until time.Time) string {
	sum := sha256.Sum256([]byte("ops\n" + s.OpsPassword))
	return strconv.FormatInt(until.Unix(), 10) + "." + hex.EncodeToString(sum[:8])
}

func (s *Server) isOperator(c *fiber.Ctx) bool {
	text, err := s.Keys.Unseal(purposeOps, c.Cookies(opsCookie))
	if err != nil {
		return false
	}
	seconds, _, _ := strings.Cut(text, ".")
	unix, err := strconv.ParseInt(seconds, 10, 64)
	until := time.Unix(unix, 0)
	return err == nil && time.Now().Before(until) && text == s.opsCookieText(until)
}

// GET /ops/login. Who calls: an operator.
func (s *Server) opsLoginPage(c *fiber.Ctx) (view, error) {
	c.Set(fiber.HeaderCacheControl, "no-store")
	if s.OpsPassword == "" {
		return nil, fiber.NewError(fiber.StatusForbidden, "The ops pages are closed: set USHER_OPS_PASSWORD to open them.")
	}
	return opsLoginView{frame: s.frame(c, Brand{})}, nil
}

// POST /ops/login. Who calls: an operator.
func (s *Server) opsLogin(c *fiber.Ctx) (view, error) {
	c.Set(fiber.HeaderCacheControl, "no-store")
	if s.OpsPassword == "" {
		return s.opsLoginPage(c)
	}
	if !s.opsTries.take(time.Now()) {
		c.Status(fiber.StatusTooManyRequests)
		c.Set(fiber.HeaderRetryAfter, "60")
		return opsLoginView{frame: s.frame(c, Brand{}), Error: "Too many tries. Wait a minute."}, nil
	}
	have, want := sha256.Sum256([]byte(c.FormValue("password"))), sha256.Sum256([]byte(s.OpsPassword))
	if subtle.ConstantTimeCompare(have[:], want[:]) != 1 {
		c.Status(fiber.StatusUnprocessableEntity)
		return opsLoginView{frame: s.frame(c, Brand{}), Error: "This is not the ops password."}, nil
	}
	s.opsTries.reset()
	until := time.Now().Add(opsSession)
	s.setCookie(c, opsCookie, s.Keys.Seal(purposeOps, s.opsCookieText(until)), "/ops", until)
	return nil, c.Redirect("/ops", fiber.StatusSeeOther)
}

// POST /ops/logout. Who calls: an operator.
func (s *Server) opsLogout(c *fiber.Ctx) error {
	s.setCookie(c, opsCookie, "", "/ops", time.Time{})
	return c.Redirect("/ops/login", fiber.StatusSeeOther)
}

// GET /ops. Who calls: an operator.
func (s *Server) opsPage(c *fiber.Ctx) (view, error) {
	database := fact{Name: "Database", Value: "answers, schema is current"}
	if err := s.Ready(c.UserContext()); err != nil {
		database.Value, database.Bad = "not ready", true
	}
	sender := fact{Name: "Mail", Value: "goes to the provider"}
	if s.Mailbox != nil {
		sender.Value = "stays in the development mailbox at /dev/mailbox"
	}
	return opsHomeView{frame: s.frame(c, Brand{}), Facts: []fact{{Name: "Version", Value: s.Version}, database, sender}}, nil
}
