package roster

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

// The types of Event about access requests, their subject.
const (
	EventRequestCreated    = "access_request.created"
	EventRequestResent     = "access_request.resent"
	EventRequestCorrected  = "access_request.address_corrected"
	EventRequestHeld       = "access_request.held"
	EventRequestExtended   = "access_request.expiry_extended"
	EventRequestApproved   = "access_request.approved"
	EventRequestGranted    = "access_request.granted"
	EventRequestAuthorized = "access_request.authorized"
	EventRequestDenied     = "access_request.denied"
	EventRequestReported   = "access_request.reported"
	EventRequestExpired    = "access_request.expired"
	EventRequestCancelled  = "access_request.cancelled"
	EventRequestRevoked    = "access_request.revoked"
)

// The options of an AccessRequest: what a professional can do about an address
// that has an account.
const (
	OptionRequest    = "request"                // ask its holder for access to the account
	OptionNewAccount = "new_account"            // make another account, without asking
	OptionTemporary  = "request_with_temporary" // ask, and work with a temporary account meanwhile
)

// Options are the options in the order they are offered in.
var Options = []string{OptionRequest, OptionNewAccount, OptionTemporary}

// The states of an AccessRequest. It is open in Pending, OnHold and Approved.
const (
	Approved  State = "approved" // its holder said yes by the mail, and has yet to log in to the account meant
	Granted   State = "granted"
	Denied    State = "denied"
	Cancelled State = "cancelled" // by those who asked
	// Pending, OnHold, Expired and Revoked are those of invitations.
)

// requestStates are all the state of a request can be.
var requestStates = []State{Pending, OnHold, Approved, Granted, Denied, Expired, Cancelled, Revoked}

// approvedLife is how long, at least, somebody who said yes has to log in: a
// forgotten password, or a day without the means, shall not undo the yes.
const approvedLife = 24 * time.Hour

// AccessRequest is a company's request for access to the account that has an
// address.
type AccessRequest struct {
	ID          uuid.UUID
	AppID       uuid.UUID
	CompanyID   uuid.UUID // who is to have access
	RequesterID uuid.UUID // the professional who asked
	Option      string
	TargetID    *uuid.UUID // the account; nil: several have the address, or there is none to be had (OptionNewAccount)
	MadeID      *uuid.UUID // the account that was made
	Email       string     // as typed
	EmailKey    string     // as compared
	FullName    string     // as typed by the requester
	Locale      string     // empty: the app's
	Note        string     // the requester's own words, plain text
	State       State
	Delivery    Delivery // of its newest mail
	Version     int      // links carry it; older ones are dead
	Sends       int      // mails asked for since the version began
	MessageID   *uuid.UUID
	QueuedAt    *time.Time // when the newest mail was asked for
	MailNote    *MailNote  // what came of it; nil: nothing to tell
	Visibility  Visibility // what the client chose; empty: nothing yet
	Reported    bool       // the client said that it was not about them
	Evidence    *Evidence  // of an authorization by hand; nil: there was none
	ExpiresAt   time.Time
	DecidedAt   *time.Time // when it left the open states, or was approved
	DecidedBy   *uuid.UUID // the account that did; nil: nobody who logged in
	CreatedAt   time.Time
}

// Evidence is why support gave access in the place of the client.
type Evidence struct {
	Operator  string    `json:"operator"`  // who did it
	Statement string    `json:"statement"` // what the client wrote
	Reference string    `json:"reference"` // where that is kept
	At        time.Time `json:"at"`
}

// Ticket is what the request's current link carries.
func (q AccessRequest) Ticket() Ticket { return Ticket{ID: q.ID, Version: q.Version} }

// Open tells whether the request can still be decided.
func (q AccessRequest) Open() bool {
	return q.State == Pending || q.State == OnHold || q.State == Approved
}

// requestIsOpen is the condition of AccessRequest.Open.
const requestIsOpen = `access_request.state IN ('pending', 'on_hold', 'approved')`

// requestColumns are the columns of AccessRequest, in its order.
const requestColumns = `access_request.id, access_request.app_id, access_request.company_id, access_request.requester_id, access_request.option,
	access_request.target_id, access_request.made_id, access_request.email, access_request.email_key, access_request.full_name, access_request.locale,
	access_request.note, access_request.state,
	COALESCE((SELECT message.state FROM message WHERE message.id = access_request.message_id), 'none'),
	access_request.version, access_request.sends, access_request.message_id, access_request.queued_at,
	(SELECT jsonb_build_object('Reason', message.reason, 'FactAt', message.fact_at, 'Retry', COALESCE((message.args->>'retry')::int, 0))
		FROM message WHERE message.id = access_request.message_id AND message.reason <> ''),
	COALESCE(access_request.visibility, ''), access_request.reported, access_request.evidence,
	access_request.expires_at, access_request.decided_at, access_request.decided_by, access_request.created_at`

func collectRequest(rows pgx.Rows, err error) (AccessRequest, error) {
	if err != nil {
		return AccessRequest{}, err
	}
	return pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[AccessRequest])
}

// readRequest reads a request; lock is a locking clause or empty.
func readRequest(ctx context.Context, tx pgx.Tx, app, id uuid.UUID, lock string) (AccessRequest, error) {
	q, err := collectRequest(tx.Query(ctx, `SELECT `+requestColumns+` FROM access_request WHERE app_id = $1 AND id = $2 `+lock, app, id))
	if errors.Is(err, pgx.ErrNoRows) {
		return q, notFound("access_request")
	}
	if err != nil {
		return q, fmt.Errorf("read access request %s: %w", id, err)
	}
	return q, nil
}

// AccessRequest is one access request of an app.
func (r *Roster) AccessRequest(ctx context.Context, app, id uuid.UUID) (q AccessRequest, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		q, err = readRequest(ctx, tx, app, id, "")
		return err
	})
	return q, err
}

// RequestList says which access requests to list.
type RequestList struct {
	Company uuid.UUID // Nil: of all companies
	State   State     // empty: in any state
	After   uuid.UUID // the last id of the page before; Nil: the first page
	Limit   int       // rows
}

// AccessRequests lists an app's access requests, newest first. It reads the
// newest of each state, as Invitations does.
func (r *Roster) AccessRequests(ctx context.Context, app uuid.UUID, l RequestList) (requests []AccessRequest, err error) {
	wanted := requestStates
	if l.State != "" {
		wanted = []State{l.State}
	}
	before := l.After
	if before == uuid.Nil {
		before = uuid.Max
	}
	args, of := []any{app, wanted, l.Limit, before}, ""
	if l.Company != uuid.Nil {
		of = ` AND company_id = $5`
		args = append(args, l.Company)
	}
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		rows, err := tx.Query(ctx, `
			SELECT `+requestColumns+`
			FROM unnest($2::text[]) AS wanted (state) CROSS JOIN LATERAL (
				SELECT * FROM access_request
				WHERE app_id = $1`+of+` AND state >= wanted.state AND (state, id) < (wanted.state, $4::uuid)
				ORDER BY state DESC, id DESC LIMIT $3) AS access_request
			ORDER BY access_request.id DESC LIMIT $3`, args...)
		if err != nil {
			return fmt.Errorf("list access requests: %w", err)
		}
		requests, err = pgx.CollectRows(rows, pgx.RowToStructByPos[AccessRequest])
		return err
	})
	return requests, err
}

// stands is why a transition found nothing to change: the request is in another
// state already.
func (q AccessRequest) stands() *Error {
	messages := map[State]string{
		Pending:   "This request is open.",
		OnHold:    "This request is open, but its mail cannot be delivered.",
		Approved:  "This request was approved; the person has yet to log in.",
		Granted:   "Access was given.",
		Denied:    "This request was denied.",
		Expired:   "This request has expired.",
		Cancelled: "This request was withdrawn.",
		Revoked:   "Access was given, and has ended.",
	}
	kind, code := Conflict, "already_"+string(q.State)
	if q.State == Expired {
		kind, code = Gone, "expired"
	}
	if q.State == Pending || q.State == OnHold {
		code = "still_open"
	}
	err := errorf(kind, code, "%s", messages[q.State])
	err.State, err.DecidedAt = q.State, q.DecidedAt
	return err
}

// late is what somebody hears whose decision came after the time, whether the
// sweep has been there yet or not.
func (q AccessRequest) late() *Error {
	q.State = Expired
	err := q.stands()
	err.DecidedAt = &q.ExpiresAt
	return err
}

// notOpen is why an open request was not found: what stands, or that its time is
// over.
func (q AccessRequest) notOpen() *Error {
	if q.Open() {
		return q.late()
	}
	return q.stands()
}

// eventOf is an event of the request. It says nothing of whom it was asked of.
func (q AccessRequest) eventOf(eventType string, actor uuid.UUID) newEvent {
	data := map[string]any{"company_id": q.CompanyID, "option": q.Option, "version": q.Version}
	if q.State == Granted || q.State == Revoked {
		data["account_id"], data["visibility"] = q.TargetID, q.Visibility
	}
	if q.MadeID != nil {
		data["made_account_id"] = q.MadeID
	}
	encoded, err := json.Marshal(data)
	if err != nil {
		panic(err) // plain data: it always marshals
	}
	return newEvent{q.AppID, eventType, q.ID, actor, encoded}
}

// record writes events of a request and returns their ids.
func (q AccessRequest) record(ctx context.Context, tx pgx.Tx, now time.Time, actor uuid.UUID, types ...string) ([]uuid.UUID, error) {
	events := make([]newEvent, len(types))
	for i, t := range types {
		events[i] = q.eventOf(t, actor)
	}
	return recordEvents(ctx, tx, now, events...)
}

// tellRequester asks for the mail that tells who asked of events.
func (r *Roster) tellRequester(ctx context.Context, tx pgx.Tx, q AccessRequest, now time.Time, events ...uuid.UUID) error {
	return r.ask(ctx, tx, now, newsMail(q.AppID, q.RequesterID, events))
}

// mail is the request's newest mail, which is q.MessageID.
func (q AccessRequest) mail() Mail {
	return Mail{
		ID: *q.MessageID, AppID: q.AppID, Kind: MailRequest, SubjectID: q.ID,
		Purpose: fmt.Sprintf("v%d:send:%d", q.Version, q.Sends),
		Args:    MailArgs{Version: q.Version, Send: q.Sends},
		Lane:    Interactive, EmailKey: q.EmailKey,
	}
}
