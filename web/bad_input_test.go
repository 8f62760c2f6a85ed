package web

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"usher/internal/roster"
)

// TestBadInput is the table of what callers of the API get wrong. Every row is
// answered by a problem with its own code, shows nothing of our insides, and
// leaves no row of any table changed.
func TestBadInput(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	other := s.newTenant("Other")
	me := s.tenant
	inv, theirs := s.invite(me, "known@client.example"), s.invite(other, "known@client.example")
	plain, err := s.roster.CreateAccount(t.Context(), me.app.ID, roster.NewAccount{
		Kind: roster.Professional, FullName: "No Body", Email: "nobody@kindred.example",
	}, roster.IdempotencyKey{})
	if err != nil {
		t.Fatal(err)
	}
	archived, err := s.roster.CreateWorkspace(t.Context(), me.app.ID, roster.NewWorkspace{CompanyID: me.company.ID, Name: "Closed", OwnerID: me.actor.ID}, roster.IdempotencyKey{})
	if err != nil {
		t.Fatal(err)
	}
	s.exec(`UPDATE workspace SET state = 'archived' WHERE id = $1`, archived.ID)
	revoked, record, err := s.roster.CreateAPIKey(t.Context(), me.app.ID, "old")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.roster.RevokeAPIKey(t.Context(), record.ID); err != nil {
		t.Fatal(err)
	}

	const post, get = http.MethodPost, http.MethodGet
	create := func(fields map[string]any) call {
		return call{method: post, path: "/v1/invitations", body: invitationJSON(me, fields)}
	}
	field := func(name string, value any) call { return create(map[string]any{name: value}) }
	raw := func(body string) call { return call{method: post, path: "/v1/invitations", body: body} }
	with := func(name, value string) call {
		c := create(nil)
		c.header = map[string]string{name: value}
		return c
	}
	steer := func(id, action string) call { return call{method: post, path: "/v1/invitations/" + id + "/" + action} }
	steerPath := func(method, path string) call { return call{method: method, path: path} }
	correct := func(body string) call {
		return call{method: post, path: "/v1/invitations/" + inv.ID.String() + "/correct-address", body: body}
	}
	settle := func(id, body string) call {
		return call{method: post, path: "/v1/messages/" + id + "/settle", body: body}
	}
	s.exec(`INSERT INTO address (app_id, email_key, block, blocked_at) VALUES ($1, 'blocked@client.example', 'hard', now()), ($2, 'angry@client.example', 'complaint', now())`,
		other.app.ID, me.app.ID)
	keyed := func(c call, key string) call {
		if c.header == nil {
			c.header = map[string]string{}
		}
		c.header["Idempotency-Key"] = key
		return c
	}
	acting := func(c call, actor string) call {
		if c.header == nil {
			c.header = map[string]string{}
		}
		c.header["Usher-Actor"] = actor
		return c
	}

	// What the rows about repeated keys repeat.
	if r := s.api(me, keyed(field("email", "first@client.example"), "used")); r.StatusCode != 201 {
		t.Fatalf("first use of a key: %d %s", r.StatusCode, r.body)
	}
	if r := s.api(me, keyed(steer(inv.ID.String(), "link"), "used for a link"[:4]+"-link")); r.StatusCode != 200 {
		t.Fatalf("first use of a key for a link: %d %s", r.StatusCode, r.body)
	}
	second := s.invite(me, "second@client.example")

	longName := strings.Repeat("ü", 121)
	tests := []struct {
		name   string
		call   call
		status int
		code   string
	}{
		// Addresses.
		{"address missing", field("email", nil), 422, "email_missing"},
		{"address empty", field("email", ""), 422, "email_missing"},
		{"address blank", field("email", " \t "), 422, "email_missing"},
		{"address null", raw(strings.Replace(invitationJSON(me, nil), `"ann@client.example"`, "null", 1)), 422, "email_missing"},
		{"address with display name", field("email", "Ann <ann@client.example>"), 422, "email_invalid"},
		{"address in brackets", field("email", "<ann@client.example>"), 422, "email_invalid"},
		{"address in quotes", field("email", `"ann"@client.example`), 422, "email_invalid"},
		{"address quoted with a space", field("email", `"ann b"@client.example`), 422, "email_invalid"},
		{"address with comment", field("email", "ann(work)@client.example"), 422, "email_invalid"},
		{"address with inner space", field("email", "ann b@client.example"), 422, "email_invalid"},
		{"address with no-break space", field("email", "ann\u00a0b@client.example"), 422, "email_invalid"},
		{"address with zero-width space", field("email", "ann\u200b@client.example"), 422, "email_invalid"},
		{"two addresses, comma", field("email", "ann@client.example,bea@client.example"), 422, "email_invalid"},
		{"two addresses, semicolon", field("email", "ann@client.example;bea@client.example"), 422, "email_invalid"},
		{"two at signs", field("email", "ann@b@client.example"), 422, "email_invalid"},
		{"no at sign", field("email", "ann.client.example"), 422, "email_invalid"},
		{"no local part", field("email", "@client.example"), 422, "email_invalid"},
		{"no domain", field("email", "ann@"), 422, "email_invalid"},
		{"domain without dot", field("email", "ann@localhost"), 422, "email_domain_invalid"},
		{"domain with trailing dot", field("email", "ann@client.example."), 422, "email_invalid"},
		{"domain with empty label", field("email", "ann@client..example"), 422, "email_invalid"},
		{"domain with leading hyphen", field("email", "ann@-client.example"), 422, "email_domain_invalid"},
		{"domain with underscore", field("email", "ann@cli_ent.example"), 422, "email_domain_invalid"},
		{"domain as a number", field("email", "ann@[192.0.2.1]"), 422, "email_invalid"},
		{"dots at the edge of the local part", field("email", ".ann@client.example"), 422, "email_invalid"},
		{"local part not ASCII", field("email", "änn@client.example"), 422, "email_local_not_ascii"},
		{"local part too long", field("email", strings.Repeat("a", 65)+"@client.example"), 422, "email_too_long"},
		{"address too long", field("email", "ann@"+strings.Repeat(strings.Repeat("a", 60)+".", 4)+"client.example"), 422, "email_too_long"},
		{"address far too long", field("email", strings.Repeat("a", 400)+"@client.example"), 422, "validation_failed"},
		{"address with line feed", field("email", "ann@client.example\nBcc: eve@evil.example"), 422, "email_invalid"},
		{"address with carriage return", field("email", "ann\r@client.example"), 422, "email_invalid"},
		{"address with NUL", field("email", "ann\x00@client.example"), 422, "email_invalid"},
		{"address in a list", field("email", []string{"ann@client.example"}), 422, "validation_failed"},
		{"address as a number", field("email", 5), 422, "validation_failed"},
		{"address not UTF-8", raw(strings.Replace(invitationJSON(me, nil), "ann@", "an\xff@", 1)), 422, "email_local_not_ascii"},

		// Names and messages.
		{"name missing", field("full_name", nil), 422, "name_missing"},
		{"name empty", field("full_name", ""), 422, "name_missing"},
		{"name blank", field("full_name", " \u00a0 "), 422, "name_missing"},
		{"name too long", field("full_name", longName), 422, "validation_failed"},
		{"name with a header", field("full_name", "Ann\r\nBcc: eve@evil.example"), 422, "name_invalid"},
		{"name with line feed", field("full_name", "Ann\nOkafor"), 422, "name_invalid"},
		{"name with NUL", field("full_name", "Ann\x00"), 422, "name_invalid"},
		{"name with escape", field("full_name", "Ann\x1b[31m"), 422, "name_invalid"},
		{"name with line separator", field("full_name", "Ann\u2028Okafor"), 422, "name_invalid"},
		{"name with bidi override", field("full_name", "Ann\u202eelpmaxe"), 422, "name_invalid"},
		{"name with bidi isolate", field("full_name", "Ann\u2066x"), 422, "name_invalid"},
		{"name with web address", field("full_name", "Win at https://evil.example"), 422, "name_has_url"},
		{"name with www", field("full_name", "WWW.evil.example"), 422, "name_has_url"},
		{"message too long", field("message", strings.Repeat("x", 1001)), 422, "validation_failed"},
		{"message with NUL", field("message", "Hello\x00"), 422, "message_invalid"},
		{"message with bidi override", field("message", "Hello \u202e"), 422, "message_invalid"},
		{"message as an object", field("message", map[string]any{"a": 1}), 422, "validation_failed"},

		// Other fields.
		{"locale unknown", field("locale", "klingon!"), 422, "locale_invalid"},
		{"locale too long", field("locale", strings.Repeat("en-", 20)), 422, "validation_failed"},
		{"kind unknown", field("kind", "friend"), 422, "validation_failed"},
		{"notify not a boolean", field("notify", "yes"), 422, "validation_failed"},
		{"workspace missing", field("workspace_id", nil), 422, "validation_failed"},
		{"workspace not a UUID", field("workspace_id", "7"), 422, "validation_failed"},
		{"workspace a UUID and more", field("workspace_id", me.workspace.ID.String()+"0"), 422, "validation_failed"},
		{"workspace unknown", field("workspace_id", newID()), 404, "workspace_not_found"},
		{"workspace of another app", field("workspace_id", other.workspace.ID.String()), 404, "workspace_not_found"},
		{"workspace archived", field("workspace_id", archived.ID.String()), 409, "workspace_archived"},
		{"field unknown", field("role", "admin"), 422, "validation_failed"},

		// Bodies.
		{"no body", raw(""), 400, "request_malformed"},
		{"body not JSON", raw("email=ann"), 400, "request_malformed"},
		{"body cut off", raw(invitationJSON(me, nil)[:40]), 400, "request_malformed"},
		{"body with more behind it", raw(invitationJSON(me, nil) + "{}"), 400, "request_malformed"},
		{"body null", raw("null"), 422, "validation_failed"},
		{"body a list", raw("[" + invitationJSON(me, nil) + "]"), 422, "validation_failed"},
		{"body a string", raw(`"ann@client.example"`), 422, "validation_failed"},
		{"body a number", raw(`7`), 422, "validation_failed"},
		{"body deep", raw(strings.Repeat(`{"a":`, 9000) + "1" + strings.Repeat("}", 9000)), 422, "validation_failed"},
		{"body too deep to read", raw(strings.Repeat("[", 20_000) + strings.Repeat("]", 20_000)), 400, "request_malformed"},
		{"body deep in a field", raw(strings.Replace(invitationJSON(me, nil), `"ann@client.example"`, strings.Repeat("[", 9000)+strings.Repeat("]", 9000), 1)), 422, "validation_failed"},
		{"body too large", field("message", strings.Repeat("x", maxBody)), 413, "body_too_large"},
		{"form instead of JSON", call{method: post, path: "/v1/invitations", body: "email=ann", header: map[string]string{"Content-Type": "application/x-www-form-urlencoded"}}, 415, "media_type_unsupported"},
		{"text instead of JSON", with("Content-Type", "text/plain"), 415, "media_type_unsupported"},
		{"XML instead of JSON", with("Content-Type", "application/xml"), 415, "media_type_unsupported"},

		// Who calls, and who acts.
		{"no key", with("Authorization", ""), 401, "api_key_invalid"},
		{"key unknown", with("Authorization", "Bearer usk_"+strings.Repeat("A", 43)), 401, "api_key_invalid"},
		{"key too short", with("Authorization", "Bearer usk_"), 401, "api_key_invalid"},
		{"key cut off", with("Authorization", "Bearer "+me.key[:len(me.key)-1]), 401, "api_key_invalid"},
		{"key with a blank in it", with("Authorization", "Bearer "+me.key[:10]+" "+me.key[10:]), 401, "api_key_invalid"},
		{"key in other case", with("Authorization", "Bearer "+strings.ToUpper(me.key)), 401, "api_key_invalid"},
		{"key by another scheme", with("Authorization", "Basic "+me.key), 401, "api_key_invalid"},
		{"key without scheme", with("Authorization", me.key), 401, "api_key_invalid"},
		{"key revoked", with("Authorization", "Bearer "+revoked), 401, "api_key_invalid"},
		{"no key on a list", call{method: get, path: "/v1/invitations", header: map[string]string{"Authorization": ""}}, 401, "api_key_invalid"},
		{"key in the address", call{method: get, path: "/v1/invitations?key=" + me.key[:8], header: map[string]string{"Authorization": ""}}, 401, "api_key_invalid"},
		{"no actor", with("Usher-Actor", ""), 422, "validation_failed"},
		{"actor not a UUID", with("Usher-Actor", "marie"), 422, "validation_failed"},
		{"actor unknown", with("Usher-Actor", newID()), 403, "actor_invalid"},
		{"actor of another app", with("Usher-Actor", other.actor.ID.String()), 403, "actor_invalid"},
		{"actor without rights", with("Usher-Actor", plain.ID.String()), 403, "actor_not_allowed"},
		{"actor without rights, revoking", acting(steer(inv.ID.String(), "revoke"), plain.ID.String()), 403, "actor_not_allowed"},
		{"actor of another app, revoking", acting(steer(inv.ID.String(), "revoke"), other.actor.ID.String()), 403, "actor_invalid"},

		// Ids in paths.
		{"id not a UUID", steer("7", "revoke"), 422, "validation_failed"},
		{"id unknown", steer(newID(), "revoke"), 404, "invitation_not_found"},
		{"id of another app", steer(theirs.ID.String(), "revoke"), 404, "invitation_not_found"},
		{"id of another thing", steer(me.workspace.ID.String(), "revoke"), 404, "invitation_not_found"},
		{"reading another app's", call{method: get, path: "/v1/invitations/" + theirs.ID.String()}, 404, "invitation_not_found"},
		{"id with a NUL", call{method: get, path: "/v1/invitations/%00"}, 422, "validation_failed"},
		{"id with a slash", call{method: get, path: "/v1/invitations/%2e%2e%2faccounts"}, 422, "validation_failed"},

		// States.
		{"resent too soon", steer(inv.ID.String(), "resend"), 429, "resend_too_soon"},
		{"reopened while open", steer(inv.ID.String(), "reopen"), 409, "already_pending"},
		{"corrected to the same address", correct(`{"email":"KNOWN@client.example"}`), 422, "email_unchanged"},
		{"corrected to no address", correct(`{"email":"ann"}`), 422, "email_invalid"},
		{"corrected to one with an invitation", correct(`{"email":"second@client.example"}`), 409, "already_invited"},
		{"corrected without a body", correct(``), 400, "request_malformed"},

		// Repeated keys.
		{"key again, other body", keyed(field("email", "other@client.example"), "used"), 422, "idempotency_key_reused"},
		{"key again, other order of fields", keyed(raw(`{ `+invitationJSON(me, map[string]any{"email": "first@client.example"})[1:]), "used"), 422, "idempotency_key_reused"},
		{"key again, other actor", acting(keyed(field("email", "first@client.example"), "used"), plain.ID.String()), 422, "idempotency_key_reused"},
		{"key again, other path", keyed(steer(second.ID.String(), "link"), "used-link"), 422, "idempotency_key_reused"},
		{"key again, other actor, by path", acting(keyed(steer(inv.ID.String(), "link"), "used-link"), plain.ID.String()), 422, "idempotency_key_reused"},
		{"key too long", with("Idempotency-Key", strings.Repeat("k", 256)), 422, "validation_failed"},
		{"key not printable", with("Idempotency-Key", "a\tb"), 422, "validation_failed"},
		{"key not ASCII", with("Idempotency-Key", "clé"), 422, "validation_failed"},
		{"key with a space", with("Idempotency-Key", "a b"), 422, "validation_failed"},

		// Mails.
		{"message id not a UUID", call{method: get, path: "/v1/messages/7"}, 422, "validation_failed"},
		{"message unknown", call{method: get, path: "/v1/messages/" + newID()}, 404, "message_not_found"},
		{"message of another app", call{method: get, path: "/v1/messages/" + theirs.MessageID.String()}, 404, "message_not_found"},
		{"messages to no address", call{method: get, path: "/v1/messages?email=ann"}, 422, "email_invalid"},
		{"messages in no state", call{method: get, path: "/v1/messages?state=lost"}, 422, "validation_failed"},
		{"messages about no id", call{method: get, path: "/v1/messages?subject_id=7"}, 422, "validation_failed"},
		{"messages after no id", call{method: get, path: "/v1/messages?after=7"}, 422, "validation_failed"},
		{"too many messages", call{method: get, path: "/v1/messages?limit=201"}, 422, "validation_failed"},
		{"settled without a body", settle(inv.MessageID.String(), ``), 400, "request_malformed"},
		{"settled without an outcome", settle(inv.MessageID.String(), `{}`), 422, "validation_failed"},
		{"settled as lost", settle(inv.MessageID.String(), `{"outcome":"lost"}`), 422, "validation_failed"},
		{"settled though known", settle(inv.MessageID.String(), `{"outcome":"sent"}`), 409, "not_uncertain"},
		{"settled though unknown", settle(newID(), `{"outcome":"sent"}`), 404, "message_not_found"},
		{"settled for another app", settle(theirs.MessageID.String(), `{"outcome":"sent"}`), 404, "message_not_found"},
		{"suppression of no address", call{method: get, path: "/v1/suppressions/ann"}, 422, "email_invalid"},
		{"suppression with a slash", call{method: get, path: "/v1/suppressions/%2e%2e%2fann@client.example"}, 422, "email_invalid"},
		{"suppression of percent signs", call{method: get, path: "/v1/suppressions/100%25@client.example"}, 404, "suppression_not_found"},
		{"suppression unknown", call{method: get, path: "/v1/suppressions/ann@client.example"}, 404, "suppression_not_found"},
		{"suppression of another app", call{method: get, path: "/v1/suppressions/blocked@client.example"}, 404, "suppression_not_found"},
		{"suppression of another app lifted", call{method: http.MethodDelete, path: "/v1/suppressions/blocked@client.example"}, 404, "suppression_not_found"},
		{"complaint lifted", call{method: http.MethodDelete, path: "/v1/suppressions/angry@client.example"}, 409, "no_mail_wanted"},
		{"no address lifted", call{method: http.MethodDelete, path: "/v1/suppressions/ann"}, 422, "email_invalid"},

		// Lists.
		{"limit zero", call{method: get, path: "/v1/invitations?limit=0"}, 422, "validation_failed"},
		{"limit negative", call{method: get, path: "/v1/invitations?limit=-1"}, 422, "validation_failed"},
		{"limit too high", call{method: get, path: "/v1/invitations?limit=201"}, 422, "validation_failed"},
		{"limit not a number", call{method: get, path: "/v1/invitations?limit=ten"}, 422, "validation_failed"},
		{"limit beyond all numbers", call{method: get, path: "/v1/invitations?limit=99999999999999999999"}, 422, "validation_failed"},
		{"after not a UUID", call{method: get, path: "/v1/invitations?after=x"}, 422, "validation_failed"},
		{"state unknown", call{method: get, path: "/v1/invitations?state=lost"}, 422, "validation_failed"},
		{"workspace filter not a UUID", call{method: get, path: "/v1/invitations?workspace_id=x"}, 422, "validation_failed"},
		{"members of an unknown workspace", call{method: get, path: "/v1/workspaces/" + newID() + "/members"}, 404, "workspace_not_found"},

		// Routes.
		{"route unknown", call{method: get, path: "/v1/unheard-of"}, 404, "route_not_found"},
		{"route without version", call{method: get, path: "/invitations", header: map[string]string{"Accept": "application/json"}}, 404, "route_not_found"},
		{"route in other case", call{method: get, path: "/V1/invitations", header: map[string]string{"Accept": "application/json"}}, 404, "route_not_found"},
		{"route with a slash behind", call{method: get, path: "/v1/invitations/"}, 404, "route_not_found"},
		{"method not there", call{method: http.MethodDelete, path: "/v1/invitations/" + inv.ID.String()}, 405, "method_not_allowed"},
		{"PUT", call{method: http.MethodPut, path: "/v1/invitations", body: "{}"}, 405, "method_not_allowed"},
		{"GET of an action", call{method: get, path: "/v1/invitations/" + inv.ID.String() + "/revoke"}, 405, "method_not_allowed"},
		{"header too large", with("X-Filler", strings.Repeat("x", 20_000)), 431, "headers_too_large"},

		// Accounts, companies, workspaces.
		{"account with a taken address", call{method: post, path: "/v1/accounts", body: `{"kind":"client","full_name":"M","email":"MARIE@kindred.example"}`}, 409, "email_of_professional"},
		{"professional with a taken address", call{method: post, path: "/v1/accounts", body: `{"kind":"professional","full_name":"M","email":"MARIE@kindred.example"}`}, 409, "email_in_use"},
		{"account of unknown kind", call{method: post, path: "/v1/accounts", body: `{"kind":"robot","full_name":"M","email":"m@client.example"}`}, 422, "validation_failed"},
		{"account in no time zone", call{method: post, path: "/v1/accounts", body: `{"kind":"client","full_name":"M","email":"m@client.example","time_zone":"Mars/Base"}`}, 422, "time_zone_invalid"},
		{"account in a file as time zone", call{method: post, path: "/v1/accounts", body: `{"kind":"client","full_name":"M","email":"m@client.example","time_zone":"../../etc/passwd"}`}, 422, "time_zone_invalid"},
		{"company with a web address", call{method: post, path: "/v1/companies", body: `{"name":"http://evil.example"}`}, 422, "name_has_url"},
		{"company without a name", call{method: post, path: "/v1/companies", body: `{}`}, 422, "validation_failed"},
		{"member of another app's company", call{method: post, path: "/v1/companies/" + other.company.ID.String() + "/members", body: `{"account_id":"` + me.actor.ID.String() + `","role":"member"}`}, 404, "company_not_found"},
		{"another app's account as member", call{method: post, path: "/v1/companies/" + me.company.ID.String() + "/members", body: `{"account_id":"` + other.actor.ID.String() + `","role":"member"}`}, 404, "account_not_found"},
		{"member of unknown role", call{method: post, path: "/v1/companies/" + me.company.ID.String() + "/members", body: `{"account_id":"` + me.actor.ID.String() + `","role":"owner"}`}, 422, "validation_failed"},
		{"account with a reserved username", call{method: post, path: "/v1/accounts", body: `{"kind":"client","full_name":"M","email":"m@client.example","username":"Admin"}`}, 422, "username_reserved"},
		{"account with an address as username", call{method: post, path: "/v1/accounts", body: `{"kind":"client","full_name":"M","email":"m@client.example","username":"m@client.example"}`}, 422, "username_invalid"},
		{"account with a username of one letter", call{method: post, path: "/v1/accounts", body: `{"kind":"client","full_name":"M","email":"m@client.example","username":"m"}`}, 422, "username_invalid"},
		{"account whose second address is its first", call{method: post, path: "/v1/accounts", body: `{"kind":"client","full_name":"M","email":"m@client.example","secondary_emails":["M@client.example"]}`}, 422, "email_is_primary"},
		{"account whose second address is none", call{method: post, path: "/v1/accounts", body: `{"kind":"client","full_name":"M","email":"m@client.example","secondary_emails":["M"]}`}, 422, "email_invalid"},
		{"account with eleven second addresses", call{method: post, path: "/v1/accounts", body: `{"kind":"client","full_name":"M","email":"m@client.example","secondary_emails":[` + strings.Repeat(`"x@client.example",`, 10) + `"y@client.example"]}`}, 422, "validation_failed"},
		{"account changed that is another app's", call{method: post, path: "/v1/accounts/" + other.actor.ID.String(), body: `{"username":"mallory"}`}, 404, "account_not_found"},
		{"account changed to no name", call{method: post, path: "/v1/accounts/" + me.actor.ID.String(), body: `{"full_name":" "}`}, 422, "name_missing"},
		{"account's address changed", call{method: post, path: "/v1/accounts/" + me.actor.ID.String(), body: `{"email":"new@kindred.example"}`}, 422, "validation_failed"},
		{"search for more than anybody is called", call{method: get, path: "/v1/accounts?query=" + strings.Repeat("m", 255)}, 422, "validation_failed"},
		{"search among another app's colleagues", call{method: get, path: "/v1/accounts?query=m&company_id=" + other.company.ID.String()}, 404, "company_not_found"},
		{"search for accounts of no kind", call{method: get, path: "/v1/accounts?kind=robot"}, 422, "validation_failed"},
		{"record of no kind", call{method: post, path: "/v1/accounts/" + me.actor.ID.String() + "/records", body: `{"kind":"My programme","external_id":"1"}`}, 422, "kind_invalid"},
		{"record without an id", call{method: post, path: "/v1/accounts/" + me.actor.ID.String() + "/records", body: `{"kind":"programme","external_id":" "}`}, 422, "external_id_missing"},
		{"record of two lines", call{method: post, path: "/v1/accounts/" + me.actor.ID.String() + "/records", body: `{"kind":"programme","external_id":"1\n2"}`}, 422, "external_id_invalid"},
		{"record unknown", call{method: http.MethodDelete, path: "/v1/records/" + newID()}, 404, "record_not_found"},
		{"company member unknown", call{method: http.MethodDelete, path: "/v1/companies/" + me.company.ID.String() + "/members/" + newID()}, 404, "member_not_found"},
		{"all workspaces for who is no admin", call{method: get, path: "/v1/companies/" + me.company.ID.String() + "/workspaces"}, 403, "actor_not_allowed"},
		{"workspace of no kind", call{method: post, path: "/v1/workspaces", body: `{"company_id":"` + me.company.ID.String() + `","name":"W","kind":"castle"}`}, 422, "validation_failed"},
		{"workspace joined by who is no admin", steerPath(post, "/v1/workspaces/"+me.workspace.ID.String()+"/join"), 403, "actor_not_allowed"},
		{"workspace renamed by a stranger", acting(call{method: post, path: "/v1/workspaces/" + me.workspace.ID.String(), body: `{"name":"Mine"}`}, plain.ID.String()), 403, "actor_not_allowed"},
		{"workspace archived by a stranger", acting(steerPath(post, "/v1/workspaces/"+me.workspace.ID.String()+"/archive"), plain.ID.String()), 403, "actor_not_allowed"},
		{"archived workspace renamed", call{method: post, path: "/v1/workspaces/" + archived.ID.String(), body: `{"name":"Mine"}`}, 409, "workspace_archived"},
		{"visibility unknown", call{method: post, path: "/v1/workspaces/" + me.workspace.ID.String() + "/members/" + me.actor.ID.String(), body: `{"visibility":"all"}`}, 422, "validation_failed"},
		{"visibility of nobody", call{method: post, path: "/v1/workspaces/" + me.workspace.ID.String() + "/members/" + newID(), body: `{"visibility":"full"}`}, 404, "member_not_found"},
		{"last stakeholder's visibility lowered", call{method: post, path: "/v1/workspaces/" + me.workspace.ID.String() + "/members/" + me.actor.ID.String(), body: `{"visibility":"basic"}`}, 409, "last_stakeholder"},
		{"last stakeholder archived", steerPath(post, "/v1/workspaces/"+me.workspace.ID.String()+"/members/"+me.actor.ID.String()+"/archive"), 409, "last_stakeholder"},
		{"active member deleted", steerPath(http.MethodDelete, "/v1/workspaces/"+me.workspace.ID.String()+"/members/"+me.actor.ID.String()), 409, "member_not_archived"},
		{"invitation taken over that somebody looks after", acting(steer(inv.ID.String(), "take-over"), plain.ID.String()), 403, "actor_not_allowed"},
		{"workspace of another app's company", call{method: post, path: "/v1/workspaces", body: `{"company_id":"` + other.company.ID.String() + `","name":"W"}`}, 404, "company_not_found"},
		{"workspace owned by another app's account", call{method: post, path: "/v1/workspaces", body: `{"company_id":"` + me.company.ID.String() + `","name":"W","owner_id":"` + other.actor.ID.String() + `"}`}, 404, "account_not_found"},
	}
	if len(tests) < 60 {
		t.Errorf("%d rows, want at least 60", len(tests))
	}
	seen := map[string]bool{}
	before := s.everything()
	for _, test := range tests {
		if seen[test.name] {
			t.Errorf("two rows are called %q", test.name)
		}
		seen[test.name] = true
		t.Run(test.name, func(t *testing.T) {
			r := s.api(me, test.call)
			r.wantProblem(t, test.status, test.code)
			if after := s.everything(); after != before {
				t.Errorf("a refused request changed rows:\n%s", changed(before, after))
				before = after
			}
		})
	}
	if strings.Contains(s.log.String(), `"level":"error"`) {
		t.Errorf("bad input was logged as a fault of ours:\n%s", s.log.String())
	}
}

// TestGoodInput is the other half of the table: odd, and right.
func TestGoodInput(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	me := s.tenant
	tests := []struct {
		name   string
		fields map[string]any
		header map[string]string
		want   map[string]string // fields of the answer
		mailed string            // the address as compared
	}{
		{"blanks around the address", map[string]any{"email": " \tann@client.example\r\n "}, nil, map[string]string{"email": "ann@client.example"}, "ann@client.example"},
		{"capitals", map[string]any{"email": "Bea.Smith+Tag@Client.Example"}, nil, map[string]string{"email": "Bea.Smith+Tag@Client.Example"}, "bea.smith+tag@client.example"},
		{"an international domain", map[string]any{"email": "cem@Bücher.example"}, nil, map[string]string{"email": "cem@Bücher.example"}, "cem@xn--bcher-kva.example"},
		{"a decomposed letter", map[string]any{"email": "dan@bu\u0308cher.example"}, nil, map[string]string{"email": "dan@bücher.example"}, "dan@xn--bcher-kva.example"},
		{"odd but allowed letters", map[string]any{"email": "o'neil/x=y!#$%&*?^_`{|}~@client.example"}, nil, map[string]string{"email": "o'neil/x=y!#$%&*?^_`{|}~@client.example"}, "o'neil/x=y!#$%&*?^_`{|}~@client.example"},
		{"longest local part", map[string]any{"email": strings.Repeat("a", 64) + "@client.example"}, nil, nil, strings.Repeat("a", 64) + "@client.example"},
		{"blanks around the name", map[string]any{"email": "eve@client.example", "full_name": "  Eve  "}, nil, map[string]string{"full_name": "Eve"}, "eve@client.example"},
		{"a name in Arabic", map[string]any{"email": "f@client.example", "full_name": "ليلى النجار"}, nil, map[string]string{"full_name": "ليلى النجار"}, "f@client.example"},
		{"a joined emoji", map[string]any{"email": "g@client.example", "full_name": "Ann 👩\u200d💻"}, nil, map[string]string{"full_name": "Ann 👩\u200d💻"}, "g@client.example"},
		{"the longest name", map[string]any{"email": "h@client.example", "full_name": strings.Repeat("ü", 120)}, nil, nil, "h@client.example"},
		{"a message of lines", map[string]any{"email": "i@client.example", "message": "Dear Ann,\r\n\tsee you"}, nil, map[string]string{"message": "Dear Ann,\n\tsee you"}, "i@client.example"},
		{"the longest message", map[string]any{"email": "j@client.example", "message": strings.Repeat("ü", 1000)}, nil, nil, "j@client.example"},
		{"no kind", map[string]any{"email": "k@client.example", "kind": nil}, nil, map[string]string{"kind": "new_user"}, "k@client.example"},
		{"a locale in other case", map[string]any{"email": "l@client.example", "locale": "ES-mx"}, nil, map[string]string{"locale": "es-MX"}, "l@client.example"},
		{"no mail wanted", map[string]any{"email": "m@client.example", "notify": false}, nil, map[string]string{"delivery": "none"}, "m@client.example"},
		{"mail wanted", map[string]any{"email": "n@client.example", "notify": true}, nil, map[string]string{"delivery": "queued"}, "n@client.example"},
		{"media type with charset", map[string]any{"email": "o@client.example"}, map[string]string{"Content-Type": "application/json; charset=utf-8"}, nil, "o@client.example"},
		{"scheme in other case", map[string]any{"email": "p@client.example"}, map[string]string{"Authorization": "bearer " + me.key}, nil, "p@client.example"},
		{"the longest key", map[string]any{"email": "q@client.example"}, map[string]string{"Idempotency-Key": strings.Repeat("~", 255)}, nil, "q@client.example"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			r := s.api(me, call{method: http.MethodPost, path: "/v1/invitations", body: invitationJSON(me, test.fields), header: test.header})
			if r.StatusCode != http.StatusCreated {
				t.Fatalf("answered %d %s", r.StatusCode, r.body)
			}
			for name, want := range test.want {
				if have := r.text(t, name); have != want {
					t.Errorf("%s is %q, want %q", name, have, want)
				}
			}
			if have := read[string](s, `SELECT email_key FROM invitation WHERE id = $1`, r.text(t, "id")); have != test.mailed {
				t.Errorf("compared as %q, want %q", have, test.mailed)
			}
			jobs := read[int](s, `SELECT count(*) FROM message WHERE subject_id = $1`, r.text(t, "id"))
			if want := map[bool]int{true: 0, false: 1}[test.fields["notify"] == false]; jobs != want {
				t.Errorf("%d mails, want %d", jobs, want)
			}
		})
	}
}

// Case 8: however an address is written, it is invited
// once.
func TestCase8(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	for i, email := range []string{"ann@bücher.example", "ANN@BÜCHER.example", "ann@xn--bcher-kva.example", " ann@bu\u0308cher.EXAMPLE"} {
		r := s.api(s.tenant, call{method: http.MethodPost, path: "/v1/invitations", body: invitationJSON(s.tenant, map[string]any{"email": email})})
		if want := map[bool]int{true: 201, false: 200}[i == 0]; r.StatusCode != want || r.value(t, "duplicate") != map[bool]any{true: nil, false: true}[i == 0] {
			t.Errorf("%q: %d %s", email, r.StatusCode, r.body)
		}
	}
	if n := read[int](s, `SELECT count(*) FROM invitation`); n != 1 {
		t.Errorf("%d invitations, want 1", n)
	}
}

// TestRawRequests are requests that no client library would send.
func TestRawRequests(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	before := s.everything()
	head := fmt.Sprintf("Host: x\r\nAuthorization: Bearer %s\r\nUsher-Actor: %s\r\nContent-Type: application/json\r\n", s.key, s.actor.ID)
	body := invitationJSON(s.tenant, nil)
	tests := map[string]struct {
		request string
		status  int
	}{
		"method of no standard":     {"FOO /v1/invitations HTTP/1.1\r\n" + head + "\r\n", 0},
		"no HTTP at all":            {"hello\r\n\r\n", 0},
		"header with a bare return": {"POST /v1/invitations HTTP/1.1\r\n" + head + "X: a\rb\r\nContent-Length: 2\r\n\r\n{}", 0},
		"length that is no number":  {"POST /v1/invitations HTTP/1.1\r\n" + head + "Content-Length: many\r\n\r\n" + body, 0},
		"length and chunks":         {"POST /v1/invitations HTTP/1.1\r\n" + head + "Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n0\r\n\r\n", 0},
		"body that ends too early":  {"POST /v1/invitations HTTP/1.1\r\n" + head + fmt.Sprintf("Content-Length: %d\r\n\r\n", len(body)+10) + body, -1},
		"chunked body too large":    {"POST /v1/invitations HTTP/1.1\r\n" + head + "Transfer-Encoding: chunked\r\n\r\n20000\r\n" + strings.Repeat("x", 0x20000) + "\r\n0\r\n\r\n", 0},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			status, answer := s.raw(test.request)
			switch {
			case test.status > 0 && status != test.status:
				t.Errorf("answered %d %s", status, answer)
			case test.status == 0 && status != 0 && (status < 400 || status > 501):
				t.Errorf("answered %d %s, want a refusal or none", status, answer)
			}
			if found := internals.FindString(answer); found != "" {
				t.Errorf("the answer says %q: %s", found, answer)
			}
			if after := s.everything(); after != before {
				t.Error("rows changed")
			}
		})
	}
	s.browser().get("/healthz") // and the server lives
}
