// Package web is Usher's front: the JSON API, the pages people reach by link,
// and the pages of those who run Usher.
//
// All routes stand in Server.routes. Handlers call one operation of the domain
// and turn its answer into HTTP; the one place that turns errors into answers
// is problem.go.
package web

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/gofiber/fiber/v2"
	"github.com/gofiber/fiber/v2/middleware/adaptor"
	"github.com/gofiber/fiber/v2/middleware/filesystem"
	"github.com/gofiber/fiber/v2/middleware/recover"
	"github.com/google/uuid"
	"github.com/rs/zerolog"

	"usher/internal/hook"
	"usher/internal/mail"
	"usher/internal/roster"
)

const (
	// maxBody bounds a request's body, in bytes: the largest one, an
	// invitation with its message, has a tenth of it. Batches have a bound of
	// their own.
	maxBody = 64 << 10

	// requestTime bounds the work on one request.
	requestTime = 10 * time.Second

	// readTime bounds how long a request may take to arrive, idleTime how long
	// a connection may wait for the next one. Without them a shutdown waits for
	// clients that are gone; readTime is shorter than stopTime for the same reason.
	readTime = 10 * time.Second
	idleTime = 60 * time.Second

	// stopTime is how long a stopping server lets requests end.
	stopTime = requestTime + 5*time.Second
)

// Options are what a Server needs.
type Options struct {
	Roster      *roster.Roster
	Keys        *roster.Keyring
	Mailbox     *mail.Mailbox // the development mailbox; nil where mail goes to a provider
	Hook        *mail.Hook    // takes the provider's webhooks; nil: none can be believed
	URL         *url.URL      // Usher's public address
	OpsPassword string        // empty: the ops pages are closed

	// PrivateWebhooks lets webhooks go to addresses that are not on the public
	// internet.
	PrivateWebhooks bool

	Example Example // what the pages for developers show as a first call
	Version string
	Log     zerolog.Logger
	Ready   func(context.Context) error // the database answers and has the right schema
}

// Example is the first call a newcomer can paste.
type Example struct {
	APIKey, AccountID, WorkspaceID string
}

// Server answers HTTP.
type Server struct {
	Options

	outbox *mail.Outbox
	hooks  *hook.Log
	app    *fiber.App
	api    huma.API
	pages  *pages
	docs   docsView
	intake *intake
	batch  *batches
	keys   *keyCache
	jobs   *jobsUI

	opsTries, resumeTries tries
	logIns, nameTries     throttle
}

// New prepares a server; nothing runs yet. It fails if a template, a text or
// the API's description is broken.
func New(o Options) (*Server, error) {
	s := &Server{Options: o, outbox: &mail.Outbox{DB: o.Roster.DB, Now: o.Roster.Now}, hooks: &hook.Log{DB: o.Roster.DB}}
	var err error
	if s.pages, err = newPages(); err != nil {
		return nil, err
	}
	s.keys = newKeyCache(o.Roster)
	s.logIns = throttle{limit: maxLogIns, window: logInsTime}
	s.nameTries = throttle{limit: maxNameTries, window: nameTriesTime}
	s.intake = newIntake(o.Roster)
	s.batch = newBatches()
	if s.jobs, err = newJobsUI(o.Roster.Jobs, slog.New(zerolog.NewSlogHandler(o.Log))); err != nil {
		return nil, err
	}
	s.app = fiber.New(fiber.Config{
		AppName:               "Usher",
		DisableStartupMessage: true,
		ErrorHandler:          s.answerError,
		StreamRequestBody:     true, // for batches; takeBody reads the others
		BodyLimit:             1,    // what is read before takeBody sees how long it is

		DisablePreParseMultipartForm: true, // it would be read before its size is looked at
		ReadTimeout:                  readTime,
		IdleTimeout:                  idleTime,
		Immutable:                    true, // else kept strings turn into the next request's
		StrictRouting:                true,
		CaseSensitive:                true,
	})
	s.routes()
	s.docs = describe(s.api.OpenAPI(), o)
	return s, nil
}

// routes is everything Usher answers, and to whom.
func (s *Server) routes() {
	s.app.Use(s.identify, s.log, recover.New(), takeBody, s.deadline)

	// Machines that watch this process.
	s.app.Get("/healthz", s.healthz)
	s.app.Get("/readyz", s.readyz)

	// Apps, with an API key.
	s.apiRoutes()
	s.app.Get("/docs", s.page(s.docsPage))
	s.app.Get("/", s.page(s.homePage))

	// The mail provider, with what became of mail.
	if s.Hook != nil {
		s.app.Post("/hooks/resend", s.resendHook)
	} else {
		s.app.Post("/hooks/resend", s.noResendHook)
	}

	// People, by link. A GET changes nothing: scanners fetch links.
	person := s.app.Group("/i", private, sameOrigin)
	person.Get("/:token", s.page(s.invitationPage))
	person.Post("/:token/accept", s.page(s.acceptInvitation))
	person.Post("/:token/sign-up", s.page(s.signUp))
	person.Post("/:token/decline", s.page(s.declineInvitation))
	person.Post("/:token/renew", s.page(s.renewInvitation))
	person.Post("/:token/switch", s.page(s.switchAccount))

	person = s.app.Group("/r", private, sameOrigin)
	person.Get("/:token", s.page(s.requestPage))
	person.Post("/:token/approve", s.page(s.decideRequest(s.approveRequest)))
	person.Post("/:token/deny", s.page(s.decideRequest(s.denyRequest)))
	person.Post("/:token/report", s.page(s.decideRequest(s.reportRequest)))
	person.Post("/:token/revoke", s.page(s.decideRequest(s.revokeRequest)))
	person.Post("/:token/switch", s.page(s.decideRequest(s.switchForRequest)))

	// People, by their account in an app, which the address names.
	s.app.Get("/login", private, s.page(s.logInPage))
	s.app.Post("/login", private, sameOrigin, s.page(s.logIn))
	s.app.Post("/logout", private, sameOrigin, s.page(s.logOut))
	s.app.Post("/logout/everywhere", private, sameOrigin, s.page(s.logOutEverywhere))
	s.app.Get("/password", private, s.page(s.askPasswordPage))
	s.app.Post("/password", private, sameOrigin, s.page(s.askPassword))
	s.app.Get("/password/:token", private, s.page(s.passwordPage))
	s.app.Post("/password/:token", private, sameOrigin, s.page(s.setPassword))
	s.app.Get("/home", private, s.page(s.personHomePage))
	own := s.app.Group("/home", private, sameOrigin)
	own.Post("/settings", s.page(s.saveSettings))
	own.Post("/workspaces/seen", s.page(s.seeWorkspaces))
	own.Post("/items/archive", s.page(s.archiveReadItems))
	own.Post("/items/:id/approve", s.page(s.decideItem(true)))
	own.Post("/items/:id/decline", s.page(s.decideItem(false)))
	own.Post("/items/:id/:what", s.page(s.viewItem))

	// People and their mail programs, by the link that stops mail. A program's
	// POST comes from another site, so that one is open to them.
	s.app.Get("/u/:token", private, s.page(s.unsubscribePage))
	s.app.Post("/u/:token", private, s.page(s.stopReminders))
	s.app.Post("/u/:token/all", private, sameOrigin, s.page(s.stopMail))
	s.app.Post("/u/:token/resume", private, sameOrigin, s.page(s.resumeMail))

	// Developers, where mail goes to the development mailbox.
	if s.Mailbox != nil {
		s.app.Get("/dev/mailbox", s.page(s.mailboxPage))
		s.app.Get("/dev/mailbox.json", s.mailboxJSON)
		s.app.Get("/dev/mailbox/:id", s.page(s.mailPage))
		s.app.Get("/dev/mailbox/:id/html", s.mailHTML)
	}

	// Operators, with the ops password.
	s.app.Get("/ops/login", s.page(s.opsLoginPage))
	s.app.Post("/ops/login", sameOrigin, s.page(s.opsLogin))
	s.app.Post("/ops/logout", sameOrigin, s.opsLogout)
	s.app.Get("/ops", s.operator, s.page(s.opsPage))
	s.app.Get("/ops/sweeps", s.operator, s.page(s.sweepsPage))
	s.app.Get("/ops/sweeps/:name", s.operator, s.page(s.sweepPage))
	s.app.Post("/ops/sweeps/:name/run", sameOrigin, s.operator, s.startSweep)
	s.app.Post("/ops/sweeps/:name/pause", sameOrigin, s.operator, s.pauseSweep)
	jobs := adaptor.HTTPHandler(http.NewCrossOriginProtection().Handler(s.jobs))
	s.app.All("/ops/jobs", s.operator, jobs)
	s.app.All("/ops/jobs/*", s.operator, jobs)

	s.app.Use("/static", cacheable, filesystem.New(filesystem.Config{Root: http.FS(staticFiles())}))
}

// Serve answers on the listener until ctx ends, then finishes what was begun.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	work, stopWork := context.WithCancel(context.WithoutCancel(ctx))
	defer stopWork()
	s.intake.start()
	if err := s.jobs.Start(work); err != nil {
		return fmt.Errorf("start job pages: %w", err)
	}
	served := make(chan error, 1)
	go func() { served <- s.app.Listener(listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve HTTP: %w", err)
	case <-ctx.Done():
	}
	s.batch.stop()
	if err := s.app.ShutdownWithTimeout(stopTime); err != nil {
		return fmt.Errorf("stop HTTP server: %w", err) // requests are still at work, so the intake stays open
	}
	s.batch.running.Wait()
	s.intake.stop()
	return nil
}

// OpenAPI is the description of the API as JSON.
func (s *Server) OpenAPI() ([]byte, error) { return marshalOpenAPI(s.api) }

// validRequestID is what we take over of a caller's X-Request-Id: it goes into
// logs and answers.
var validRequestID = regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`)

// identify gives the request an id, and every answer the headers that hold for
// all of them.
func (s *Server) identify(c *fiber.Ctx) error {
	s.setCommonHeaders(c)
	return c.Next()
}

func (s *Server) setCommonHeaders(c *fiber.Ctx) {
	id := c.Get(fiber.HeaderXRequestID)
	if !validRequestID.MatchString(id) {
		id = uuid.NewString()
	}
	c.Set(fiber.HeaderXRequestID, id)
	c.Set(fiber.HeaderXContentTypeOptions, "nosniff")
	if s.URL.Scheme == "https" {
		c.Set(fiber.HeaderStrictTransportSecurity, "max-age=31536000")
	}
}

func requestID(c *fiber.Ctx) string { return c.GetRespHeader(fiber.HeaderXRequestID) }

// log writes a line per request: the route, never the path, since paths of
// people's pages carry tokens.
func (s *Server) log(c *fiber.Ctx) error {
	start := time.Now()
	err := c.Next()
	if err != nil {
		// The answer's status is known only once the error was answered.
		if err := s.answerError(c, err); err != nil {
			return err
		}
	}
	s.Log.Info().
		Str("request_id", requestID(c)).
		Str("method", c.Method()).
		Str("route", c.Route().Path).
		Int("status", c.Response().StatusCode()).
		Dur("ms", time.Since(start)).
		Msg("request")
	return nil
}

// takeBody reads a request's body, so that handlers find it whole and nothing
// of it is left on the connection, where it would be taken for the next request.
// A batch reads its own.
func takeBody(c *fiber.Ctx) error {
	stream := c.Request().BodyStream()
	if stream == nil {
		return c.Next()
	}
	if isBatch(c) {
		return takeBatch(c)
	}
	var body []byte
	var err error
	if c.Request().Header.ContentLength() <= maxBody { // chunks have none
		body, err = io.ReadAll(io.LimitReader(stream, maxBody+1))
	}
	switch length := c.Request().Header.ContentLength(); {
	case err != nil:
	case max(len(body), length) > maxBody:
		err = fiber.ErrRequestEntityTooLarge
	case len(body) < length:
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		c.Context().SetConnectionClose()
		return bodyError(err)
	}
	c.Request().SetBodyStream(bytes.NewReader(body), len(body))
	return c.Next()
}

// bodyError is the answer to a body that could not be read to its end.
func bodyError(err error) *fiber.Error {
	var known *fiber.Error
	switch {
	case errors.As(err, &known):
		return known
	case errors.Is(err, os.ErrDeadlineExceeded):
		return fiber.NewError(fiber.StatusRequestTimeout, "The body took too long to arrive.")
	}
	return fiber.NewError(fiber.StatusBadRequest, "The body ends before its length, or its chunks are malformed.")
}

// deadline ends the work on a request in time, whatever it waits for.
func (s *Server) deadline(c *fiber.Ctx) error {
	ctx, cancel := context.WithTimeout(c.UserContext(), requestTime)
	defer cancel()
	c.SetUserContext(ctx)
	return c.Next()
}

// private keeps a page out of caches and its address out of other sites' logs.
func private(c *fiber.Ctx) error {
	c.Set(fiber.HeaderCacheControl, "no-store")
	c.Set(fiber.HeaderReferrerPolicy, "no-referrer")
	c.Set("X-Robots-Tag", "noindex")
	return c.Next()
}

func cacheable(c *fiber.Ctx) error {
	c.Set(fiber.HeaderCacheControl, "public, max-age=31536000, immutable") // addresses carry a hash of the content
	return c.Next()
}

// sameOrigin refuses forms that another site's page sent. Programs send none of
// these headers; browsers send "Origin: null" from our own pages, whose address
// no one shall learn, and then say in Sec-Fetch-Site where the form came from.
// Where that is missing too (plain HTTP), the session cookie's SameSite keeps
// another site's form from acting for somebody signed in.
func sameOrigin(c *fiber.Ctx) error {
	if c.Method() == fiber.MethodGet || c.Method() == fiber.MethodHead {
		return c.Next()
	}
	ok := true
	switch site := c.Get("Sec-Fetch-Site"); site {
	case "same-origin", "none":
	case "":
		if origin := c.Get(fiber.HeaderOrigin); origin != "" && origin != "null" {
			u, err := url.Parse(origin)
			ok = err == nil && strings.EqualFold(u.Host, string(c.Request().Host()))
		}
	default:
		ok = false
	}
	if !ok {
		return fiber.NewError(fiber.StatusForbidden, "This form was sent from another site. Open the page itself and try again.")
	}
	return c.Next()
}

// Who calls: the platform's liveness probe. It asks nothing of the database,
// since restarting this process would not mend that.
func (s *Server) healthz(c *fiber.Ctx) error {
	return c.SendString("ok\n")
}

// Who calls: the load balancer's readiness probe.
func (s *Server) readyz(c *fiber.Ctx) error {
	if err := s.Ready(c.UserContext()); err != nil {
		s.Log.Error().Err(err).Msg("not ready")
		c.Set(fiber.HeaderRetryAfter, "5")
		return c.Status(fiber.StatusServiceUnavailable).SendString("not ready: the database does not answer or has another schema\n")
	}
	return c.SendString("ok\n")
}

// page turns a handler that gives a view into one of fiber's.
func (s *Server) page(handler func(c *fiber.Ctx) (view, error)) fiber.Handler {
	return func(c *fiber.Ctx) error {
		v, err := handler(c)
		if err != nil || v == nil {
			return err
		}
		return s.render(c, v)
	}
}

// nonceKey is where a request keeps the nonce of its page's style element.
const nonceKey = "nonce"

// nonce is the request's, made when it is first asked for.
func nonce(c *fiber.Ctx) string {
	if n, ok := c.Locals(nonceKey).(string); ok {
		return n
	}
	raw := make([]byte, 16)
	if _, err := rand.Read(raw); err != nil {
		panic(err) // crypto/rand does not fail
	}
	n := base64.RawURLEncoding.EncodeToString(raw)
	c.Locals(nonceKey, n)
	return n
}

// pagePolicy is what a page may load and do: our own style sheet and the one
// style element with this nonce, images, and forms back to us.
func pagePolicy(nonce string) string {
	return "default-src 'none'; style-src 'self' 'nonce-" + nonce + "'; img-src 'self' https: data:; " +
		"form-action 'self'; frame-src 'self'; base-uri 'none'; frame-ancestors 'none'"
}

func (s *Server) render(c *fiber.Ctx, v view) error {
	c.Set(fiber.HeaderContentSecurityPolicy, pagePolicy(nonce(c)))
	c.Set(fiber.HeaderContentType, fiber.MIMETextHTMLCharsetUTF8)
	if c.GetRespHeader(fiber.HeaderReferrerPolicy) == "" {
		c.Set(fiber.HeaderReferrerPolicy, "same-origin")
	}
	var body strings.Builder
	if err := s.pages.render(&body, s.language(c), v); err != nil {
		return err
	}
	return c.SendString(body.String())
}

// frame is the part every page shares.
func (s *Server) frame(c *fiber.Ctx, brand Brand) frame {
	return frame{Brand: brand, Nonce: nonce(c), RequestID: requestID(c)}
}

// isTimeout tells whether err came from the deadline.
func isTimeout(err error) bool {
	return errors.Is(err, context.DeadlineExceeded)
}
