package web

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/http/httputil"
	"reflect"
	"runtime/debug"
	"sync"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humafiber"
	"github.com/gofiber/fiber/v2"

	"usher/internal/roster"
)

const (
	batchPath = "/v1/invitations/batch"

	// maxBatchRows and maxBatchBody bound one call. A row of the usual kind has
	// 200 bytes, one with everything in it 1.6 KB.
	maxBatchRows = 10_000
	maxBatchBody = 16 << 20

	// batchChunk is how many rows share a transaction. Fewer cost more round
	// trips and commits; more are answered later and gain nothing.
	batchChunk = 500

	// batchAhead is how many chunks are read while one is stored.
	batchAhead = 1

	// batchesAtOnce is how many are worked on by this process: each takes a
	// connection to the database and about half a processor there, and single
	// invitations shall not feel it.
	batchesAtOnce = 2

	// batchTime bounds the work on a batch. What is left of it then is answered
	// as not done.
	batchTime = 2 * time.Minute

	// batchPause bounds the wait for the client, either way.
	batchPause = 10 * time.Second

	// batchRetry is when to come again while others are worked on: a batch
	// takes some seconds.
	batchRetry = "5"

	mediaNDJSON = "application/x-ndjson"
)

// batches counts those at work.
type batches struct {
	slots   chan struct{}
	running sync.WaitGroup
	ending  context.Context //nolint:containedctx // ends when the server stops
	stop    context.CancelFunc
}

func newBatches() *batches {
	b := &batches{slots: make(chan struct{}, batchesAtOnce)}
	b.ending, b.stop = context.WithCancel(context.Background())
	return b
}

// batchOutcome is the answer to one row.
type batchOutcome struct {
	Index      int             `json:"index" doc:"Which row, from 0."`
	Status     int             `json:"status" doc:"What the call for a single invitation would have answered." example:"201"`
	Invitation *invitationBody `json:"invitation,omitempty" doc:"With a status below 300."`
	Problem    *Problem        `json:"problem,omitempty" doc:"With a status from 400 on."`
}

type batchOutcomes struct {
	Outcomes []batchOutcome `json:"outcomes" doc:"One for each row, in order. One more tells why the rest was not read, if so."`
}

func (s *Server) batchRoutes() {
	doc := s.api.OpenAPI()
	single := doc.Paths["/v1/invitations"].Post.RequestBody.Content[fiber.MIMEApplicationJSON].Schema
	schemas := doc.Components.Schemas
	outcome := schemas.Schema(reflect.TypeFor[batchOutcome](), true, "")
	most := maxBatchRows
	register(s, huma.Operation{
		OperationID: "create-invitations", Method: http.MethodPost, Path: batchPath, Tags: []string{tagInvitations},
		Summary: "Invite many people at once", Errors: []int{408, 503},
		Description: "Up to 10,000 rows, each as for a single invitation: as JSON, or as NDJSON, one row in a line. The answer has the same form and tells of each row what the single call would have answered; it begins while rows are still being read, and what was answered is done. " +
			"With an Idempotency-Key, each row is remembered by its place: the same call again, after a broken connection too, gives the same answers and does only what is left; a row that changed gets 422.",
		Responses: map[string]*huma.Response{"200": {
			Description: "The outcome of each row.",
			Content: map[string]*huma.MediaType{
				fiber.MIMEApplicationJSON: {Schema: schemas.Schema(reflect.TypeFor[batchOutcomes](), true, "")},
				mediaNDJSON:               {Schema: outcome},
			},
		}},
	}, func(_ context.Context, in *batchInput) (*huma.StreamResponse, error) {
		return &huma.StreamResponse{Body: func(ctx huma.Context) { s.createInvitations(ctx, in) }}, nil
	})
	// Described afterwards: huma would read a body it knows of.
	doc.Paths[batchPath].Post.RequestBody = &huma.RequestBody{Required: true, Content: map[string]*huma.MediaType{
		fiber.MIMEApplicationJSON: {Schema: &huma.Schema{
			Type: huma.TypeObject, Required: []string{"rows"}, AdditionalProperties: false,
			Properties: map[string]*huma.Schema{"rows": {Type: huma.TypeArray, Items: single, MaxItems: &most}},
		}},
		mediaNDJSON: {Schema: single},
	}}
}

type batchInput struct {
	Acting
	Keyed
}

func isBatch(c *fiber.Ctx) bool { return c.Path() == batchPath && c.Method() == fiber.MethodPost }

// takeBatch leaves the body to the handler. Where that answers at once, the
// rest is read, since many clients look at no answer before they have sent all.
func takeBatch(c *fiber.Ctx) error {
	c.Context().SetConnectionClose()
	if c.Request().Header.ContentLength() > maxBatchBody {
		return fiber.ErrRequestEntityTooLarge
	}
	stream := c.Request().BodyStream()
	err := c.Next()
	if !c.Context().Hijacked() {
		_, _ = io.Copy(io.Discard, io.LimitReader(stream, maxBatchBody)) // bounded by readTime too
	}
	return err
}

// createInvitations takes over the connection once the first rows have been
// read: the answer is written while the others come.
func (s *Server) createInvitations(ctx huma.Context, in *batchInput) {
	c := humafiber.Unwrap(ctx)
	refuse := func(err error) {
		if err := s.answerError(c, err); err != nil {
			s.Log.Error().Err(err).Msg("answer failed")
		}
	}
	b := &batch{server: s, in: in, request: requestOf(ctx.Context())}
	media, _, err := mime.ParseMediaType(c.Get(fiber.HeaderContentType))
	switch {
	case err == nil && media == mediaNDJSON:
		b.lines = true
	case err == nil && media == fiber.MIMEApplicationJSON:
	default:
		refuse(newProblem(http.StatusUnsupportedMediaType, plainCode(http.StatusUnsupportedMediaType), "A batch is application/json or "+mediaNDJSON+"."))
		return
	}
	stream := c.Request().BodyStream()
	if stream == nil {
		refuse(newProblem(http.StatusBadRequest, plainCode(http.StatusBadRequest), "A batch has a body."))
		return
	}
	select {
	case s.batch.slots <- struct{}{}:
	default:
		p := fault(http.StatusServiceUnavailable)
		p.header = http.Header{"Retry-After": {batchRetry}}
		refuse(p)
		return
	}
	b.rows = newRowReader(stream, c.Request().Header.ContentLength(), b.lines)
	first := b.read()
	if first.last && len(first.rows) == 1 && first.rows[0].ends {
		<-s.batch.slots
		refuse(first.rows[0].problem)
		return
	}
	s.batch.running.Add(1)
	answer := newBatchAnswer(c, b.lines)
	c.Context().HijackSetNoResponse(true)
	c.Context().Hijack(func(conn net.Conn) {
		defer s.batch.running.Done()
		defer func() { <-s.batch.slots }()
		answer.over(conn)
		b.serve(conn, answer, first)
	})
}

// batch is one call at work.
type batch struct {
	server  *Server
	in      *batchInput
	request request
	lines   bool // NDJSON, else JSON
	rows    *rowReader
	next    int // the index of the next row

	mu      sync.Mutex
	moved   sync.Cond
	waiting []batchPart // read, and not yet stored
	stuck   bool        // the client does not read: let it send all first
	left    bool        // nobody takes further parts

	broken bool // the database or the time failed: further rows are not tried
	done   int  // rows that were answered
}

// batchPart are rows that share a transaction.
type batchPart struct {
	rows []batchRow
	last bool
}

type batchRow struct {
	index   int
	in      *createInvitationInput
	key     roster.IdempotencyKey
	problem *Problem // refused before the domain saw it
	ends    bool     // it is no row: what comes cannot be read
}

// serve works on the batch until it is done or the client is gone.
func (b *batch) serve(conn net.Conn, out *batchAnswer, part batchPart) {
	s, start := b.server, time.Now()
	b.moved.L = &b.mu
	ctx, cancel := context.WithTimeout(s.batch.ending, batchTime)
	reader := make(chan struct{})
	defer func() {
		cancel()
		if fault := recover(); fault != nil {
			s.Log.Error().Str("request_id", b.request.id).Bytes("stack", debug.Stack()).Msgf("batch panicked: %v", fault)
		}
		b.leave(conn)
		<-reader
		s.Log.Info().Str("request_id", b.request.id).Str("route", b.request.route).
			Int("rows", b.done).Dur("ms", time.Since(start)).Msg("batch")
	}()
	go func() {
		defer close(reader)
		for last := part.last; !last && b.arm(conn); {
			next := b.readSafely()
			last = next.last
			b.push(next)
		}
	}()

	for ; ; part = b.pop() {
		if ctx.Err() != nil {
			b.broken = true
		}
		outcomes := b.store(part.rows)
		b.setStuck(true)
		err := out.write(outcomes, part.last)
		b.setStuck(false)
		if err != nil {
			return // the client is gone
		}
		b.done += len(outcomes)
		if part.last {
			b.rows.body.drain(conn)
			return
		}
	}
}

// arm bounds the next reading. It is false once nobody wants to read.
func (b *batch) arm(conn net.Conn) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.left && conn.SetReadDeadline(time.Now().Add(batchPause)) == nil
}

// leave ends the reading.
func (b *batch) leave(conn net.Conn) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left = true
	_ = conn.SetReadDeadline(time.Unix(1, 0)) // in the past
	b.moved.Broadcast()
}

// push hands on what was read, once there is room for it.
func (b *batch) push(part batchPart) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.waiting) >= batchAhead && !b.stuck && !b.left {
		b.moved.Wait()
	}
	b.waiting = append(b.waiting, part)
	b.moved.Broadcast()
}

// pop takes the next part, once there is one.
func (b *batch) pop() batchPart {
	b.mu.Lock()
	defer b.mu.Unlock()
	for len(b.waiting) == 0 {
		b.moved.Wait()
	}
	part := b.waiting[0]
	b.waiting = b.waiting[1:]
	b.moved.Broadcast()
	return part
}

// setStuck tells whether we wait for the client to take what was written.
func (b *batch) setStuck(stuck bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stuck = stuck
	b.moved.Broadcast()
}

// readSafely is read in a goroutine of its own, where a panic would end the
// process: it ends the batch instead.
func (b *batch) readSafely() (part batchPart) {
	defer func() {
		if fault := recover(); fault != nil {
			b.server.Log.Error().Str("request_id", b.request.id).Bytes("stack", debug.Stack()).Msgf("batch panicked: %v", fault)
			part = batchPart{[]batchRow{{index: b.next, problem: notTried(), ends: true}}, true}
		}
	}()
	return b.read()
}

// read reads the rows of one part and refuses those that do not fit.
func (b *batch) read() (part batchPart) {
	for len(part.rows) < batchChunk {
		raw, problem, err := b.rows.next()
		if errors.Is(err, io.EOF) {
			part.last = true
			return part
		}
		row := batchRow{index: b.next, problem: problem}
		switch {
		case err != nil:
			row.problem, row.ends = asProblem(err), true
		case b.next >= maxBatchRows:
			row.problem, row.ends = newProblem(http.StatusRequestEntityTooLarge, "too_many_rows", fmt.Sprintf("A batch has at most %d rows. Send the others in another one.", maxBatchRows)), true
		case problem == nil:
			row.in, row.problem = b.parse(raw)
			row.key = b.key(raw)
		}
		b.next++
		part.rows = append(part.rows, row)
		if row.ends {
			part.last = true
			return part
		}
	}
	return part
}

// parse reads a row as the call for a single one does.
func (b *batch) parse(raw []byte) (*createInvitationInput, *Problem) {
	var value any
	if err := json.Unmarshal(raw, &value); err != nil {
		return nil, newProblem(http.StatusBadRequest, plainCode(http.StatusBadRequest), "This row is not JSON.")
	}
	doc, result := b.server.api.OpenAPI(), &huma.ValidateResult{}
	schema := doc.Paths["/v1/invitations"].Post.RequestBody.Content[fiber.MIMEApplicationJSON].Schema
	huma.Validate(doc.Components.Schemas, schema, huma.NewPathBuffer([]byte("body"), 4), huma.ModeWriteToServer, value, result)
	if len(result.Errors) > 0 {
		return nil, asProblem(humaError(http.StatusUnprocessableEntity, "", result.Errors...))
	}
	in := &createInvitationInput{Acting: b.in.Acting}
	if err := json.Unmarshal(raw, &in.Body); err != nil {
		return nil, asProblem(humaError(http.StatusUnprocessableEntity, "", err))
	}
	if in.Body.Kind == "" {
		in.Body.Kind = roster.KindNewUser
	}
	if err := in.fits(); err != nil {
		return nil, asProblem(err)
	}
	return in, nil
}

// key is a row's idempotency key: the call's, with the row's place.
func (b *batch) key(raw []byte) roster.IdempotencyKey {
	if b.in.IdempotencyKey == "" {
		return roster.IdempotencyKey{}
	}
	sum := sha256.New()
	fmt.Fprintf(sum, "%s\n%s\n", b.request.path, b.in.Actor)
	sum.Write(raw)
	return roster.IdempotencyKey{Route: b.request.route, Key: fmt.Sprintf("%s#%d", b.in.IdempotencyKey, b.next), Hash: sum.Sum(nil)}
}

func asProblem(err error) *Problem {
	p, _ := problemOf(err)
	return p
}

// store commits the rows and tells what became of each.
func (b *batch) store(rows []batchRow) []batchOutcome {
	outcomes := make([]batchOutcome, len(rows))
	var (
		invited, added []int // places in rows
		invitations    []roster.NewInvitation
		members        []roster.NewMember
		keys           []roster.IdempotencyKey
	)
	for i, row := range rows {
		switch {
		case row.problem != nil:
			outcomes[i] = b.refusal(row.index, row.problem)
		case b.broken:
			outcomes[i] = b.refusal(row.index, notTried())
		case direct(row.in.Body.Kind):
			added, members, keys = append(added, i), append(members, row.in.member()), append(keys, row.key)
		default:
			invited, invitations = append(invited, i), append(invitations, row.in.row(b.request, row.key))
		}
	}
	if len(invited) > 0 {
		for i, out := range createAll(b.server.Roster, invitations) {
			var body *created[invitationBody]
			if out.Err == nil {
				body = b.server.createdBody(invitations[i], out.Created)
			}
			outcomes[invited[i]] = b.outcome(rows[invited[i]].index, body, out.Err)
		}
	}
	if len(added) > 0 {
		ctx, cancel := context.WithTimeout(context.Background(), commitTime)
		defer cancel()
		out, err := b.server.Roster.AddMembersEach(ctx, b.request.app, id(b.in.Actor), members, keys)
		for i, at := range added {
			var body *created[invitationBody]
			rowErr := err
			if err == nil {
				body, rowErr = b.server.addedBody(rows[at].in, out[i])
			}
			outcomes[at] = b.outcome(rows[at].index, body, rowErr)
		}
	}
	return outcomes
}

// outcome is what became of a row that was tried.
func (b *batch) outcome(index int, body *created[invitationBody], err error) batchOutcome {
	if err == nil {
		return batchOutcome{Index: index, Status: body.Status, Invitation: &body.Body}
	}
	p, ours := problemOf(err)
	if ours && !b.broken {
		b.broken = !isDataError(err)
		b.server.Log.Error().Err(err).Str("request_id", b.request.id).Str("route", b.request.route).Int("row", index).Msg("row failed")
	}
	return b.refusal(index, p)
}

func (b *batch) refusal(index int, p *Problem) batchOutcome {
	answer := *p
	answer.RequestID = b.request.id
	return batchOutcome{Index: index, Status: p.Status, Problem: &answer}
}

// notTried is the answer to rows after the one at which the batch had to end.
func notTried() *Problem {
	return newProblem(http.StatusServiceUnavailable, "not_tried", "This row was not tried: the batch took too long, Usher stops, or something went wrong on our side. Send the same batch again; with the same Idempotency-Key only what is left is done.")
}

// batchAnswer writes the answer.
type batchAnswer struct {
	head    []byte // status and headers
	chunked bool   // else it ends with the connection
	lines   bool   // NDJSON, else JSON
	begun   bool   // there was an outcome

	conn   net.Conn
	buffer *bufio.Writer
	chunks io.WriteCloser // over buffer; nil if not chunked
}

func newBatchAnswer(c *fiber.Ctx, lines bool) *batchAnswer {
	a := &batchAnswer{chunked: c.Request().Header.IsHTTP11(), lines: lines}
	header := &c.Response().Header
	header.SetStatusCode(http.StatusOK)
	header.SetContentType(map[bool]string{false: fiber.MIMEApplicationJSON, true: mediaNDJSON}[lines])
	header.SetConnectionClose()
	header.SetContentLength(map[bool]int{true: -1, false: -2}[a.chunked]) // fasthttp's word for chunked, and for until the end
	a.head = bytes.Clone(header.Header())
	return a
}

// over begins the answer on a connection.
func (a *batchAnswer) over(conn net.Conn) {
	a.conn, a.buffer = conn, bufio.NewWriter(conn)
	_, _ = a.buffer.Write(a.head) // what goes wrong goes wrong again at the next write
	if a.chunked {
		a.chunks = httputil.NewChunkedWriter(a.buffer)
	}
}

// write sends outcomes off.
func (a *batchAnswer) write(outcomes []batchOutcome, last bool) error {
	if err := a.conn.SetWriteDeadline(time.Now().Add(batchPause)); err != nil {
		return err
	}
	var body []byte
	for _, out := range outcomes {
		encoded, err := json.Marshal(out)
		if err != nil {
			return fmt.Errorf("write outcome %d: %w", out.Index, err)
		}
		if !a.lines {
			body = append(body, map[bool]string{false: `{"outcomes":[`, true: ",\n"}[a.begun]...)
			a.begun = true
		}
		body = append(body, encoded...)
		if a.lines {
			body = append(body, '\n')
		}
	}
	if last && !a.lines {
		if !a.begun {
			body = append(body, `{"outcomes":[`...)
		}
		body = append(body, "]}\n"...)
	}
	var to io.Writer = a.buffer
	if a.chunks != nil {
		to = a.chunks
	}
	if len(body) > 0 { // an empty chunk would be the last
		if _, err := to.Write(body); err != nil {
			return err
		}
	}
	if last && a.chunks != nil {
		if err := a.chunks.Close(); err != nil {
			return err
		}
		if _, err := a.buffer.WriteString("\r\n"); err != nil {
			return err
		}
	}
	return a.buffer.Flush()
}

// rowReader takes a body apart.
type rowReader struct {
	body  *limited
	lines *bufio.Reader // NDJSON
	json  *json.Decoder // JSON; nil where NDJSON
	begun bool
}

func newRowReader(stream io.Reader, length int, lines bool) *rowReader {
	body := &limited{body: stream, left: maxBatchBody, length: length}
	if lines {
		return &rowReader{body: body, lines: bufio.NewReaderSize(body, maxBody)}
	}
	return &rowReader{body: body, json: json.NewDecoder(body)}
}

// limited is a body up to a bound.
type limited struct {
	body   io.Reader
	left   int   // bytes
	length int   // of the body as announced; negative: it was not
	err    error // of the last reading; the stream must not be read after it
}

func (l *limited) Read(p []byte) (n int, err error) {
	if l.err != nil {
		return 0, l.err
	}
	n, l.err = l.body.Read(p)
	if l.left -= n; l.left < 0 {
		l.err = fiber.ErrRequestEntityTooLarge
		return 0, l.err
	}
	if errors.Is(l.err, io.EOF) && maxBatchBody-l.left < l.length {
		l.err = io.ErrUnexpectedEOF
	}
	return n, l.err
}

// drain reads what is left: closing a connection on unread bytes can take the
// answer from the client.
func (l *limited) drain(conn net.Conn) {
	if l.err == nil && conn.SetReadDeadline(time.Now().Add(batchPause)) == nil {
		_, _ = io.Copy(io.Discard, l)
	}
}

// next is the next row's JSON without spaces between its tokens, or what is
// wrong with that row alone. An error ends the body, io.EOF a good one.
func (r *rowReader) next() (raw []byte, problem *Problem, err error) {
	if r.json == nil {
		return r.nextLine()
	}
	return r.nextItem()
}

func (r *rowReader) nextLine() ([]byte, *Problem, error) {
	for {
		line, err := r.lines.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = r.lines.ReadSlice('\n')
			}
			if err != nil && !errors.Is(err, io.EOF) {
				return nil, nil, bodyError(err)
			}
			return nil, tooLong(), nil
		}
		if err != nil && (!errors.Is(err, io.EOF) || len(line) == 0) {
			if errors.Is(err, io.EOF) {
				return nil, nil, io.EOF
			}
			return nil, nil, bodyError(err)
		}
		if raw, problem := compact(line); raw != nil || problem != nil {
			return raw, problem, nil
		}
		if err != nil {
			return nil, nil, io.EOF
		}
	}
}

func (r *rowReader) nextItem() ([]byte, *Problem, error) {
	const form = `A batch is {"rows": […]}, and nothing else.`
	shape := func(wanted ...json.Token) error {
		for _, w := range wanted {
			got, err := r.json.Token()
			if err != nil {
				return r.jsonError()
			}
			if got != w {
				return newProblem(http.StatusUnprocessableEntity, plainCode(http.StatusUnprocessableEntity), form)
			}
		}
		return nil
	}
	if !r.begun {
		if err := shape(json.Delim('{'), "rows", json.Delim('[')); err != nil {
			return nil, nil, err
		}
		r.begun = true
	}
	if !r.json.More() {
		if err := shape(json.Delim(']'), json.Delim('}')); err != nil {
			return nil, nil, err
		}
		if _, err := r.json.Token(); !errors.Is(err, io.EOF) {
			return nil, nil, newProblem(http.StatusBadRequest, plainCode(http.StatusBadRequest), form)
		}
		return nil, nil, io.EOF
	}
	var raw json.RawMessage
	if err := r.json.Decode(&raw); err != nil {
		return nil, nil, r.jsonError()
	}
	if len(raw) > maxBody {
		return nil, tooLong(), nil
	}
	compacted, problem := compact(raw)
	return compacted, problem, nil
}

// jsonError is why a JSON body cannot be read further.
func (r *rowReader) jsonError() error {
	if r.body.err == nil || errors.Is(r.body.err, io.EOF) {
		return newProblem(http.StatusBadRequest, plainCode(http.StatusBadRequest), "From here on the body is not JSON.")
	}
	return bodyError(r.body.err)
}

func tooLong() *Problem {
	return newProblem(http.StatusRequestEntityTooLarge, plainCode(http.StatusRequestEntityTooLarge), fmt.Sprintf("A row has at most %d bytes.", maxBody))
}

// compact is a row's JSON without spaces between its tokens, so that it is the
// same however it is laid out. An empty line is neither a row nor a problem.
func compact(row []byte) ([]byte, *Problem) {
	if len(bytes.TrimSpace(row)) == 0 {
		return nil, nil
	}
	var out bytes.Buffer
	if err := json.Compact(&out, row); err != nil {
		return nil, newProblem(http.StatusBadRequest, plainCode(http.StatusBadRequest), "This row is not JSON.")
	}
	return out.Bytes(), nil
}
