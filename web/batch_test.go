package web

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

const ndjson = "application/x-ndjson"

// rowJSON is a good row for the address, on one line.
func rowJSON(te tenant, email string) string {
	return invitationJSON(te, map[string]any{"email": email})
}

// rowsJSON are n good rows with addresses of their own.
func rowsJSON(te tenant, n int) []string {
	rows := make([]string, n)
	for i := range rows {
		rows[i] = rowJSON(te, fmt.Sprintf("ann%d@client.example", i))
	}
	return rows
}

func asJSON(rows []string) string { return `{"rows":[` + strings.Join(rows, ",") + `]}` }

func asLines(rows []string) string { return strings.Join(rows, "\n") + "\n" }

// batchCall is a call with those rows, as NDJSON.
func batchCall(rows []string, key string) call {
	return call{method: http.MethodPost, path: batchPath, body: asLines(rows), header: map[string]string{"Content-Type": ndjson, "Idempotency-Key": key}}
}

// outcomes reads the outcomes of an answer in either form, which are one for
// each row in order.
func (r reply) outcomes(t *testing.T) []batchOutcome {
	t.Helper()
	var all batchOutcomes
	decoder := json.NewDecoder(strings.NewReader(r.body))
	if r.StatusCode != 200 {
		t.Fatalf("%d %s", r.StatusCode, r.body)
	}
	if r.Header.Get("Content-Type") == ndjson {
		for decoder.More() {
			var out batchOutcome
			if err := decoder.Decode(&out); err != nil {
				t.Fatalf("%v in %s", err, r.body)
			}
			all.Outcomes = append(all.Outcomes, out)
		}
	} else if err := decoder.Decode(&all); err != nil || all.Outcomes == nil {
		t.Fatalf("%v in %s", err, r.body)
	}
	for i, out := range all.Outcomes {
		if out.Index != i || (out.Invitation == nil) == (out.Problem == nil) || out.Problem != nil && out.Problem.Status != out.Status {
			t.Fatalf("outcome %d is %+v", i, out)
		}
	}
	return all.Outcomes
}

// results are the outcomes in short: 201, or 422 and the problem's code.
func results(outcomes []batchOutcome) (short []string) {
	for _, out := range outcomes {
		s := fmt.Sprint(out.Status)
		if out.Problem != nil {
			s += " " + out.Problem.Code
		}
		short = append(short, s)
	}
	return short
}

func (s *site) wantInvitations(n int) {
	s.t.Helper()
	for _, table := range []string{"invitation", "message", "event WHERE type LIKE 'invitation.%'"} {
		if got := read[int](s, `SELECT count(*) FROM `+table); got != n {
			s.t.Errorf("%d rows in %s, want %d", got, table, n)
		}
	}
}

// TestBatchAnswersAsSingles: each row gets what the single call would answer,
// in both forms.
func TestBatchAnswersAsSingles(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	other := s.newTenant("Other")
	s.accept(s.invite(s.tenant, "member@client.example"))
	with := func(email, field string, value any) string {
		return invitationJSON(s.tenant, map[string]any{"email": email, field: value})
	}
	cases := []struct{ row, want string }{
		{rowJSON(s.tenant, "ann@client.example"), "201"},
		{rowJSON(s.tenant, "ANN@Client.example"), "200"},
		{rowJSON(s.tenant, "member@client.example"), "200"},
		{with("a@client.example", "kind", "friend"), "422 validation_failed"},
		{with("a@client.example", "email", "nobody"), "422 email_invalid"},
		{with("a@client.example", "full_name", 5), "422 validation_failed"},
		{with("a@client.example", "full_name", nil), "422 name_missing"},
		{with("a@client.example", "full_name", "see www.evil.example"), "422 name_has_url"},
		{with("a@client.example", "message", "a\x00b"), "422 message_invalid"},
		{with("a@client.example", "workspace_id", newID()), "404 workspace_not_found"},
		{rowJSON(other, "a@client.example"), "404 workspace_not_found"},
		{with("a@client.example", "unknown", 1), "422 validation_failed"},
		{`[]`, "422 validation_failed"},
		{`null`, "422 validation_failed"},
		{`"row"`, "422 validation_failed"},
		{with("quiet@client.example", "notify", false), "201"},
	}
	var rows, want []string
	for _, c := range cases {
		rows, want = append(rows, c.row), append(want, c.want)
	}
	doc := s.server.api.OpenAPI()
	for i, c := range []call{
		{body: asJSON(rows)},
		{body: asLines(rows), header: map[string]string{"Content-Type": ndjson + "; charset=utf-8"}},
	} {
		c.method, c.path = http.MethodPost, batchPath
		r := s.api(s.tenant, c)
		if r.Header.Get("X-Request-Id") == "" || r.Header.Get("X-Content-Type-Options") != "nosniff" {
			t.Errorf("headers are %v", r.Header)
		}
		out := r.outcomes(t)
		if got := results(out); !slices.Equal(got, want) {
			t.Errorf("outcomes are\n%q, want\n%q", got, want)
		}
		if i == 0 {
			wantDeclared(t, doc, operations(doc)["create-invitations"], r)
			if out[0].Invitation.Link == "" || out[1].Invitation.ID != out[0].Invitation.ID || !out[1].Invitation.Duplicate || !out[2].Invitation.AlreadyMember {
				t.Errorf("outcomes are %s", r.body)
			}
		}
		want[0], want[len(want)-1] = "200", "200"
		for n, row := range rows { // the single call says the same now
			single := s.api(s.tenant, call{method: http.MethodPost, path: "/v1/invitations", body: row})
			o := out[n]
			if o.Problem == nil && i == 0 {
				continue
			}
			if single.StatusCode != o.Status || o.Problem != nil && (single.text(t, "code") != o.Problem.Code || single.text(t, "detail") != o.Problem.Detail || single.text(t, "field") != o.Problem.Field) {
				t.Errorf("row %d: %d %s alone, %+v in the batch", n, single.StatusCode, single.body, o.Problem)
			}
		}
	}
	if r := s.api(other, call{method: http.MethodPost, path: batchPath, body: asJSON(rows[:1])}); results(r.outcomes(t))[0] != "404 workspace_not_found" {
		t.Errorf("another app: %s", r.body)
	}
	if r := s.api(s.tenant, call{method: http.MethodPost, path: batchPath, body: asJSON(rows[:1]), header: map[string]string{"Usher-Actor": other.actor.ID.String()}}); results(r.outcomes(t))[0] != "403 actor_invalid" {
		t.Errorf("another app's actor: %s", r.body)
	}
}

// TestBatchLinesFailAlone: a line that is no row troubles no other.
func TestBatchLinesFailAlone(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	rows := []string{
		rowJSON(s.tenant, "a@client.example"), "{", "", "\r", "  ", `{"email":`, rowJSON(s.tenant, "b@client.example") + "\r",
		`{"message":"` + strings.Repeat("x", 3*maxBody) + `"}`, "\xff\xfe", rowJSON(s.tenant, "c@client.example") + "{}", rowJSON(s.tenant, "d@client.example"),
	}
	c := batchCall(rows, "")
	c.body = strings.TrimSuffix(c.body, "\n") // the last line needs no end
	want := []string{"201", "400 request_malformed", "400 request_malformed", "201", "413 body_too_large", "400 request_malformed", "400 request_malformed", "201"}
	if got := results(s.stream(c).outcomes(t)); !slices.Equal(got, want) {
		t.Errorf("outcomes are %q, want %q", got, want)
	}
	s.wantInvitations(3)

	// JSON cannot be read further from where it breaks, but what came before holds.
	c = call{method: http.MethodPost, path: batchPath, body: `{"rows":[` + rowJSON(s.tenant, "e@client.example") + `,{"message":"` + strings.Repeat("x", 2*maxBody) + `"},` +
		rowJSON(s.tenant, "f@client.example") + `,{"email":x},` + rowJSON(s.tenant, "g@client.example") + `]}`}
	want = []string{"201", "413 body_too_large", "201", "400 request_malformed"}
	if got := results(s.stream(c).outcomes(t)); !slices.Equal(got, want) {
		t.Errorf("outcomes are %q, want %q", got, want)
	}
	s.wantInvitations(5)
}

// stream sends a call whose body may be larger than other routes take.
func (s *site) stream(c call) reply {
	s.t.Helper()
	req, err := http.NewRequestWithContext(s.t.Context(), c.method, s.base+c.path, io.MultiReader(strings.NewReader(c.body))) // its length is not known: chunked
	if err != nil {
		s.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+s.key)
	req.Header.Set("Usher-Actor", s.actor.ID.String())
	req.Header.Set("Content-Type", "application/json")
	for name, value := range c.header {
		req.Header.Set(name, value)
	}
	return s.send(http.DefaultClient, req)
}

// TestBatchRefused: what is wrong with the call as a whole is refused as in
// every other call, and nothing is done.
func TestBatchRefused(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	row := rowJSON(s.tenant, "ann@client.example")
	doc := s.server.api.OpenAPI()
	for name, bad := range map[string]struct {
		body   string
		header map[string]string
		status int
		code   string
	}{
		"no body":        {"", nil, 415, "media_type_unsupported"},
		"empty":          {" ", nil, 400, "request_malformed"},
		"not JSON":       {"{", nil, 400, "request_malformed"},
		"no rows":        {"{}", nil, 422, "validation_failed"},
		"a list":         {"[" + row + "]", nil, 422, "validation_failed"},
		"one row":        {row, nil, 422, "validation_failed"},
		"rows no list":   {`{"rows":{}}`, nil, 422, "validation_failed"},
		"another member": {`{"x":1,"rows":[]}`, nil, 422, "validation_failed"},
		"form":           {"rows=1", map[string]string{"Content-Type": "application/x-www-form-urlencoded"}, 415, "media_type_unsupported"},
		"no actor":       {asJSON([]string{row}), map[string]string{"Usher-Actor": ""}, 422, "validation_failed"},
		"bad actor":      {asJSON([]string{row}), map[string]string{"Usher-Actor": "x"}, 422, "validation_failed"},
		"bad key":        {asJSON([]string{row}), map[string]string{"Idempotency-Key": "a b"}, 422, "validation_failed"},
		"no API key":     {asJSON(rowsJSON(s.tenant, 100)), map[string]string{"Authorization": ""}, 401, "api_key_invalid"},
		"too large":      {strings.Repeat(" ", maxBatchBody+1), nil, 413, "body_too_large"},
	} {
		r := s.api(s.tenant, call{method: http.MethodPost, path: batchPath, body: bad.body, header: bad.header})
		if r.StatusCode != bad.status || r.text(t, "code") != bad.code {
			t.Errorf("%s: %d %s, want %d %s", name, r.StatusCode, r.body, bad.status, bad.code)
		}
		wantDeclared(t, doc, operations(doc)["create-invitations"], r)
	}
	if out := s.api(s.tenant, call{method: http.MethodPost, path: batchPath, body: `{"rows":[]}`}).outcomes(t); len(out) != 0 {
		t.Errorf("no rows: %+v", out)
	}
	s.wantInvitations(0)

	// The bounds, where they show only on the way.
	many := slices.Repeat([]string{"x"}, maxBatchRows+5)
	out := s.stream(batchCall(many, "")).outcomes(t)
	if len(out) != maxBatchRows+1 || out[maxBatchRows].Problem.Code != "too_many_rows" || out[maxBatchRows-1].Status != 400 {
		t.Errorf("%d outcomes, the last is %+v", len(out), out[len(out)-1])
	}
	long := s.stream(batchCall([]string{row, strings.Repeat(" ", maxBatchBody)}, "")).outcomes(t)
	if got := results(long); !slices.Equal(got, []string{"201", "413 body_too_large"}) {
		t.Errorf("a body without length that is too large: %q", got)
	}
	s.wantInvitations(1)
}

// TestBatchAgain: under a key a batch that broke off is taken up where it
// ended, in whatever form; rows that changed are refused.
func TestBatchAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	rows := rowsJSON(s.tenant, batchChunk+200)
	rows[3] = `{"email":"broken"}`
	sent := len(asLines(rows[:batchChunk+150])) + 20 // in the midst of a row
	conn := s.rawBatch(len(asLines(rows)), "k")
	if _, err := io.WriteString(conn, asLines(rows)[:sent]); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	first := reply{resp, string(body)}.outcomes(t)
	if last := len(first) - 1; last != batchChunk+150 || results(first)[last] != "400 request_malformed" || !strings.Contains(first[last].Problem.Detail, "length") {
		t.Fatalf("%d outcomes of a body that breaks off, the last is %+v", len(first), first[last])
	}
	s.wantInvitations(batchChunk + 149)
	again := s.stream(batchCall(rows, "k"))
	out := again.outcomes(t)
	for i, o := range out {
		if want := (map[bool]int{true: 422, false: 201})[i == 3]; o.Status != want || i < len(first)-1 && i != 3 && o.Invitation.ID != first[i].Invitation.ID {
			t.Fatalf("row %d is %+v", i, o)
		}
	}
	s.wantInvitations(len(rows) - 1)
	before := s.everything()
	if third := s.stream(batchCall(rows, "k")); third.body != strings.ReplaceAll(again.body, again.Header.Get("X-Request-Id"), third.Header.Get("X-Request-Id")) {
		t.Error("the third answer is another than the second")
	}
	pretty := make([]string, len(rows))
	for i, row := range rows {
		pretty[i] = strings.ReplaceAll(strings.ReplaceAll(row, `":"`, "\" :\n \""), "ann", `ann`)
	}
	whole := s.stream(call{method: http.MethodPost, path: batchPath, body: asJSON(pretty), header: map[string]string{"Idempotency-Key": "k"}}).outcomes(t)
	if len(whole) != len(out) || whole[7].Invitation == nil || whole[7].Invitation.ID != out[7].Invitation.ID {
		t.Errorf("as JSON: %+v", whole[7])
	}
	if after := s.everything(); after != before {
		t.Errorf("again changed rows:\n%.2000s", changed(before, after))
	}
	rows[5] = rowJSON(s.tenant, "other@client.example")
	if got := results(s.stream(batchCall(rows[:7], "k")).outcomes(t)); !slices.Equal(got, []string{"201", "201", "201", "422 validation_failed", "201", "422 idempotency_key_reused", "201"}) {
		t.Errorf("with another row: %q", got)
	}
}

// raw opens a connection and sends the head of a batch as NDJSON.
func (s *site) rawBatch(length int, key string) *net.TCPConn {
	s.t.Helper()
	conn, err := net.Dial("tcp", strings.TrimPrefix(s.base, "http://"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { _ = conn.Close() })
	fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %s\r\nUsher-Actor: %s\r\nContent-Type: %s\r\nIdempotency-Key: %s\r\nContent-Length: %d\r\n\r\n",
		batchPath, s.key, s.actor.ID, ndjson, key, length)
	return conn.(*net.TCPConn)
}

// TestBatchStreams: the first rows are answered while the last are still to be
// sent.
func TestBatchStreams(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	rows := rowsJSON(s.tenant, 2*batchChunk)
	conn := s.rawBatch(len(asLines(rows)), "")
	if _, err := io.WriteString(conn, asLines(rows[:batchChunk])); err != nil {
		t.Fatal(err)
	}
	in := bufio.NewReader(conn)
	resp, err := http.ReadResponse(in, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	decoder := json.NewDecoder(resp.Body)
	for i := range rows {
		if i == batchChunk {
			if _, err := io.WriteString(conn, asLines(rows[batchChunk:])); err != nil {
				t.Fatal(err)
			}
		}
		var out batchOutcome
		if err := decoder.Decode(&out); err != nil || out.Index != i || out.Status != 201 {
			t.Fatalf("row %d: %+v, %v", i, out, err)
		}
	}
	if rest, err := io.ReadAll(resp.Body); err != nil || strings.TrimSpace(string(rest)) != "" {
		t.Errorf("after the last row: %q, %v", rest, err)
	}
	s.wantInvitations(len(rows))
}

// TestBatchReadLate: a client that reads nothing before it has sent all gets
// its answer, which is larger than the buffers between.
func TestBatchReadLate(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	long := `{"email":"x","full_name":"` + strings.Repeat("y", 600) + `","workspace_id":"` + newID() + `","` + strings.Repeat("z", 600) + `":1}` // refused at no cost
	rows := slices.Repeat([]string{long}, maxBatchRows)
	conn := s.rawBatch(len(asLines(rows)), "")
	if _, err := io.WriteString(conn, asLines(rows)); err != nil {
		t.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if n := strings.Count(string(body), `"status":422`); err != nil || n != 2*len(rows) { // the outcome's and the problem's
		t.Errorf("%d rows answered, %v", n/2, err)
	}
}

// TestBatchesAtOnce: more batches than there is room for are refused before
// anything is read of them, and what is answered of a client that left stays.
func TestBatchesAtOnce(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	release := s.hold("invitation")
	rows := rowsJSON(s.tenant, batchesAtOnce)
	var gone []net.Conn
	for i, row := range rows {
		conn := s.rawBatch(len(asLines([]string{row})), "")
		if _, err := io.WriteString(conn, row+"\n"); err != nil {
			t.Fatal(err)
		}
		gone = append(gone, conn)
		s.untilBlocked(i + 1)
	}
	r := s.api(s.tenant, batchCall(rowsJSON(s.tenant, 50), ""))
	r.wantProblem(t, 503, "overloaded")
	wantDeclared(t, s.server.api.OpenAPI(), operations(s.server.api.OpenAPI())["create-invitations"], r)
	if r.Header.Get("Retry-After") != batchRetry {
		t.Errorf("Retry-After is %q", r.Header.Get("Retry-After"))
	}
	for _, conn := range gone {
		if err := conn.Close(); err != nil {
			t.Fatal(err)
		}
	}
	release()
	s.until("there is room again", func() bool { return len(s.server.batch.slots) == 0 })
	s.wantInvitations(batchesAtOnce)
	if got := results(s.api(s.tenant, batchCall(rows, "")).outcomes(t)); !slices.Equal(got, []string{"200", "200"}) {
		t.Errorf("afterwards: %q", got)
	}
}

// TestBatchMeetsFaults: a row the database objects to fails alone; where the
// database is at fault, the rest is not tried, and done when the batch comes again.
func TestBatchMeetsFaults(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.exec(`CREATE FUNCTION object() RETURNS trigger LANGUAGE plpgsql AS $$
		BEGIN
			IF NEW.email LIKE 'ann7@%' THEN RAISE EXCEPTION 'secret of the database' USING ERRCODE = '22023'; END IF;
			IF NEW.email LIKE 'ann600@%' THEN RAISE EXCEPTION 'secret of the machine' USING ERRCODE = '53100'; END IF;
			RETURN NEW;
		END $$`)
	s.exec(`CREATE TRIGGER object BEFORE INSERT ON invitation FOR EACH ROW EXECUTE FUNCTION object()`)
	rows := rowsJSON(s.tenant, 2*batchChunk+10)
	r := s.stream(batchCall(rows, "k"))
	for i, out := range r.outcomes(t) {
		want := "201"
		switch {
		case i == 7, i >= batchChunk && i < 2*batchChunk:
			want = "500 internal"
		case i >= 2*batchChunk:
			want = "503 not_tried"
		}
		if got := results([]batchOutcome{out})[0]; got != want {
			t.Fatalf("row %d: %s, want %s", i, got, want)
		}
	}
	if strings.Contains(r.body, "secret") {
		t.Error("the answer says what the database said")
	}
	s.wantInvitations(batchChunk - 1)
	s.exec(`DROP TRIGGER object ON invitation`)
	for i, out := range s.stream(batchCall(rows, "k")).outcomes(t) {
		if out.Status != 201 {
			t.Fatalf("row %d again: %+v", i, out)
		}
	}
	s.wantInvitations(len(rows))
}

// TestBatchEndsWithServer: a stopping server ends a batch between two parts and
// says so.
func TestBatchEndsWithServer(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.api(s.tenant, call{method: http.MethodGet, path: "/v1/policies"}) // a line for the log
	rows := rowsJSON(s.tenant, batchChunk+1)
	release := s.hold("invitation")
	conn := s.rawBatch(len(asLines(rows)), "")
	if _, err := io.WriteString(conn, asLines(rows)); err != nil {
		t.Fatal(err)
	}
	s.untilBlocked(1)
	stopped := make(chan error, 1)
	go func() { stopped <- s.stop() }()
	<-s.server.batch.ending.Done()
	release()
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil || strings.Count(string(body), `"status":201`) != batchChunk || !strings.Contains(string(body), "not_tried") {
		t.Errorf("%d created, %v, the end is %s", strings.Count(string(body), `"status":201`), err, body[max(0, len(body)-300):])
	}
	select {
	case err := <-stopped:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(stopTime):
		t.Error("the server does not stop")
	}
}

// TestUnreadBodies: a body nobody asked for is not taken for a request.
func TestUnreadBodies(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	inner := "GET /nowhere/inner HTTP/1.1\r\nHost: x\r\n\r\n"
	for _, path := range []string{"/nowhere", "/healthz", "/v1/invitations", "/openapi.json", batchPath + "/x"} {
		for _, body := range []string{
			fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(inner), inner),
			fmt.Sprintf("Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(inner), inner),
		} {
			conn, err := net.Dial("tcp", strings.TrimPrefix(s.base, "http://"))
			if err != nil {
				t.Fatal(err)
			}
			fmt.Fprintf(conn, "POST %s HTTP/1.1\r\nHost: x\r\n%sGET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", path, body)
			in := bufio.NewReader(conn)
			var codes []int
			for {
				resp, err := http.ReadResponse(in, nil)
				if err != nil {
					break
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				codes = append(codes, resp.StatusCode)
				_ = resp.Body.Close()
			}
			if len(codes) != 2 || codes[1] != 200 {
				t.Errorf("%s: answers are %v", path, codes)
			}
			_ = conn.Close()
		}
	}
}

// TestBatchOfAllKinds: direct adds and external professionals go among the
// others, each row under a key of its own.
func TestBatchOfAllKinds(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.exec(`INSERT INTO company_member (app_id, company_id, account_id, role, created_at) VALUES ($1, $2, $3, 'admin', now())`, s.app.ID, s.company.ID, s.actor.ID)
	cleo := s.colleague("Cleo Colleague", "cleo@kindred.example")
	other := s.newTenant("Other")
	row := func(fields string) string { return `{"workspace_id":"` + s.workspace.ID.String() + `",` + fields + `}` }
	rows := []string{
		row(`"kind":"colleague","account_id":"` + cleo + `"`),
		rowJSON(s.tenant, "ann@client.example"),
		row(`"kind":"external_professional","email":"ext@elsewhere.example","full_name":"Ed","warning":{"acknowledged":true}`),
		row(`"kind":"external_professional","email":"two@elsewhere.example","full_name":"Ed"`),
		row(`"kind":"colleague","account_id":"` + other.actor.ID.String() + `"`),
		row(`"kind":"colleague","email":"a@client.example"`),
		row(`"kind":"colleague","account_id":"` + cleo + `"`),
		row(`"kind":"existing_user","account_id":"` + cleo + `"`),
	}
	first := s.stream(batchCall(rows, "k"))
	got := results(first.outcomes(t))
	if want := []string{"201", "201", "201", "422", "404 account_not_found", "422 account_missing", "200"}; !slices.EqualFunc(got[:7], want, strings.HasPrefix) {
		t.Errorf("outcomes are %q, want %q", got, want)
	}
	for n, body := range rows {
		single := s.api(s.tenant, call{method: http.MethodPost, path: "/v1/invitations", body: body})
		if o := first.outcomes(t)[n]; o.Problem != nil && (single.StatusCode != o.Status || single.text(t, "code") != o.Problem.Code) {
			t.Errorf("row %d: %d %s alone, %s in the batch", n, single.StatusCode, single.body, got[n])
		}
	}
	before := s.everything()
	again := s.stream(batchCall(rows, "k"))
	if again.body != strings.ReplaceAll(first.body, first.Header.Get("X-Request-Id"), again.Header.Get("X-Request-Id")) {
		t.Errorf("again:\n%s\nfirst:\n%s", again.body, first.body)
	}
	rows[0], rows[6] = rows[7], rows[1]
	if got := results(s.stream(batchCall(rows[:7], "k")).outcomes(t)); got[0] != "422 idempotency_key_reused" || got[1] != "201" || got[6] != "422 idempotency_key_reused" {
		t.Errorf("with other rows: %q", got)
	}
	if after := s.everything(); after != before {
		t.Errorf("again changed rows:\n%.2000s", changed(before, after))
	}
}
