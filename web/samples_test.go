package web

import (
	"time"

	"github.com/google/uuid"

	"usher/internal/roster"
)

// hostile is text as an attacker, or a careless person, writes it.
const hostile = `<script>alert(1)</script>"'><img src=x onerror=alert(2)>{{.}}`

// sampleNonce stands for the random value the server makes for each answer.
const sampleNonce = "c2FtcGxlLW5vbmNl"

const sampleToken = "1.inv.AZrQkGdyc3-0h7uQ.Zm9vYmFyYmF6"

func sampleFrame(path string) frame {
	return frame{
		Brand: Brand{Name: "Kindred Care", Color: "#0b6e8f", SupportEmail: "support@kindred.example"},
		Path:  path, Nonce: sampleNonce,
	}
}

func sampleZone() *time.Location { return time.FixedZone("CET", int(time.Hour/time.Second)) }

func sampleInvitation(change func(*invitationView)) invitationView {
	v := invitationView{
		frame:         sampleFrame("/i/" + sampleToken),
		Token:         sampleToken,
		Mode:          modeNewAccount,
		InviterName:   "Marie Dupont",
		CompanyName:   "Acme Therapy",
		WorkspaceName: "Family Okafor – Private",
		RecipientName: "Ann Okafor",
		Email:         "ann.okafor@example.com",
		Note:          "Dear Ann,\nhere is the space we spoke about on Monday.\n\nSee you soon!",
		ExpiresAt:     time.Date(2026, 12, 1, 8, 0, 0, 0, time.UTC),
		Zone:          sampleZone(),
		FullName:      "Ann Okafor",
	}
	change(&v)
	return v
}

func sampleRequest(stage requestStage, change func(*requestView)) requestView {
	v := requestView{
		frame: sampleFrame("/r/" + sampleToken), Token: sampleToken, Stage: stage,
		RequesterName: "Dr. Ravi Menon", CompanyName: "Harbour Physiotherapy", RecipientName: "Ann Okafor", Email: "ann.okafor@example.com",
		Note:      "We met last week about your knee.",
		ExpiresAt: time.Date(2026, 12, 1, 8, 0, 0, 0, time.UTC), At: time.Date(2026, 11, 20, 16, 45, 0, 0, time.UTC), Zone: sampleZone(),
		Visibility: roster.VisibilityStandard, LogIn: "/login?next=%2Fr%2F" + sampleToken, Password: "/password?next=%2Fr%2F" + sampleToken,
	}
	change(&v)
	return v
}

func sampleMessage(kind messageKind, change func(*messageView)) messageView {
	v := messageView{
		frame:         sampleFrame("/i/" + sampleToken),
		Kind:          kind,
		Token:         sampleToken,
		WorkspaceName: "Family Okafor – Private",
		InviterName:   "Marie Dupont",
		At:            time.Date(2026, 11, 20, 16, 45, 0, 0, time.UTC),
		Zone:          sampleZone(),
	}
	change(&v)
	return v
}

func sampleUnsubscribe(wanted roster.Wanted, final bool) unsubscribeView {
	return unsubscribeView{frame: sampleFrame("/u/" + sampleToken), Token: sampleToken, Wanted: wanted, Final: final, Email: "a•••@example.com"}
}

func sampleHome(change func(*personHomeView)) personHomeView {
	at := time.Date(2026, 11, 20, 16, 45, 0, 0, time.UTC)
	until := at.AddDate(0, 0, 14)
	item := func(n int, kind string, view roster.NotificationView, action roster.NotificationAction, state roster.State, names ...string) homeItem {
		item := roster.Notification{
			ID: uuid.UUID{15: byte(n)}, Kind: kind, View: view, Action: action, State: state, CreatedAt: at.Add(time.Duration(n) * time.Hour),
			InviterName: "Marie Dupont", CompanyName: "Acme Therapy", ExpiresAt: &until,
		}
		for _, name := range names {
			item.Workspaces = append(item.Workspaces, roster.NamedWorkspace{Name: name})
		}
		if kind == roster.NoticeWorkspaces {
			item.InviterName, item.CompanyName, item.ExpiresAt = "", "", nil
		}
		return homeItem{item}
	}
	request := func(n int, action roster.NotificationAction, state roster.State) homeItem {
		i := item(n, roster.NoticeRequest, roster.ViewRead, action, state)
		i.RequestID = &i.ID
		return i
	}
	open := item(1, roster.NoticeInvitation, roster.ViewUnread, roster.ActionOpen, roster.Pending, "Family Okafor – Private")
	open.Note = "Dear Ann,\nhere is the space we spoke about on Monday."
	v := personHomeView{
		frame: sampleFrame("/home?app=0"), App: "0190a7e2-0000-7000-8000-000000000000", AppURL: "https://app.kindred.example/",
		FullName: "Ann Okafor", Email: "ann.okafor@example.com", Username: "ann.okafor", Zone: sampleZone(),
		Open: []homeItem{open, item(2, roster.NoticeInvitation, roster.ViewRead, roster.ActionOpen, roster.OnHold, "Lee family"), request(8, roster.ActionOpen, roster.Pending)},
		Inbox: []homeItem{
			item(3, roster.NoticeWorkspaces, roster.ViewUnread, roster.ActionNone, "", "Berg & Co", "Petit – Suivi <2>"),
			item(4, roster.NoticeInvitation, roster.ViewRead, roster.ActionDone, roster.Accepted, "Ann – Recovery plan"),
			item(5, roster.NoticeInvitation, roster.ViewRead, roster.ActionDone, roster.Declined, "Berg & Co"),
			item(6, roster.NoticeInvitation, roster.ViewRead, roster.ActionExpired, roster.Expired, "Berg & Co"),
			item(7, roster.NoticeInvitation, roster.ViewUnread, roster.ActionWithdrawn, roster.Revoked, "Berg & Co"),
			request(9, roster.ActionDone, roster.Granted), request(10, roster.ActionDone, roster.Denied), request(11, roster.ActionDone, roster.Revoked),
			request(12, roster.ActionExpired, roster.Expired), request(13, roster.ActionWithdrawn, roster.Cancelled),
		},
		Workspaces: []roster.AccountWorkspace{
			{Name: "Ann – Recovery plan", CompanyName: "Acme Therapy"},
			{Name: "Berg & Co", CompanyName: "Berg Physio", New: true},
		},
		Settings: settingsForm{Locale: "es-MX", TimeZone: "Europe/Madrid"},
	}
	change(&v)
	return v
}

// samples are all views in all their forms: what every test of pages goes through.
// A name with a comma is a variant that differs from its page in words only.
func samples() map[string]view {
	as := func(status int) func(*messageView) {
		return func(v *messageView) {
			v.Status, v.RequestID, v.Back = status, "01931f0e-6b7a-7c3e-9a51-0d6f2f1f7f10", "/"
		}
	}
	plain := func(*messageView) {}
	all := map[string]view{
		"invitation new account": sampleInvitation(func(*invitationView) {}),
		"invitation sent back": sampleInvitation(func(v *invitationView) {
			v.FullName, v.Errors = "", []formError{nameMissing, passwordTooShort}
		}),
		"invitation sign up": sampleInvitation(func(v *invitationView) { v.Mode = modeSignUp }),
		"invitation log in": sampleInvitation(func(v *invitationView) {
			v.Mode, v.Errors, v.Note, v.CompanyName = modeLogIn, []formError{passwordWrong}, "", ""
		}),
		"invitation signed in": sampleInvitation(func(v *invitationView) { v.Mode, v.RecipientName = modeSignedIn, "" }),
		"invitation known":     sampleInvitation(func(v *invitationView) { v.Mode = modeKnown }),
		"invitation long words": sampleInvitation(func(v *invitationView) {
			long := "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"
			v.WorkspaceName, v.InviterName, v.CompanyName, v.Note, v.Email = long, long, long, long, long+"@example.com"
			v.Brand = Brand{Name: long, Color: "#fff200"}
		}),
		"invitation, right to left": sampleInvitation(func(v *invitationView) {
			v.WorkspaceName, v.InviterName, v.RecipientName = "ملف عائلة النجار", "سارة كوهين", "אבי לוי"
			v.Brand.Color = "#000000"
		}),
		"wrong account": wrongAccountView{
			frame: sampleFrame("/i/" + sampleToken), Token: sampleToken,
			SignedInAs: "joe@example.com", MaskedEmail: "a•••@example.com",
		},
		"request":            sampleRequest(stageOpen, func(*requestView) {}),
		"request, to log in": sampleRequest(stageOpen, func(v *requestView) { v.NeedsLogIn, v.Note = true, "" }),
		"request, signed in": sampleRequest(stageOpen, func(v *requestView) { v.SignedInAs = v.Email }),
		"request long words": sampleRequest(stageOpen, func(v *requestView) {
			long := "Donaudampfschifffahrtselektrizitätenhauptbetriebswerkbauunterbeamtengesellschaft"
			v.RequesterName, v.CompanyName, v.Note, v.Email = long, long, long, long+"@example.com"
		}),
		"request approved":            sampleRequest(stageApproved, func(*requestView) {}),
		"request approved, signed in": sampleRequest(stageApproved, func(v *requestView) { v.SignedInAs = v.Email }),
		"request approved, other":     sampleRequest(stageApproved, func(v *requestView) { v.OtherAccount = "joe@example.com" }),
		"request granted":             sampleRequest(stageGranted, func(v *requestView) { v.Home = "/home" }),
		"request granted, support":    sampleRequest(stageGranted, func(v *requestView) { v.BySupport = true }),
		"request denied":              sampleRequest(stageDenied, func(*requestView) {}),
		"request denied, reported":    sampleRequest(stageDenied, func(v *requestView) { v.Reported = true }),
		"request expired":             sampleRequest(stageExpired, func(*requestView) {}),
		"request cancelled":           sampleRequest(stageCancelled, func(*requestView) {}),
		"request revoked":             sampleRequest(stageRevoked, func(*requestView) {}),
		"accepted":                    sampleMessage(messageAccepted, func(v *messageView) { v.AppURL = "https://app.kindred.example/" }),
		"accepted, no app":            sampleMessage(messageAccepted, plain),
		"already accepted":            sampleMessage(messageAlreadyAccepted, func(v *messageView) { v.AppURL = "https://app.kindred.example/" }),
		"already accepted, once":      sampleMessage(messageAlreadyAccepted, func(v *messageView) { v.At = time.Time{} }),
		"declined":                    sampleMessage(messageDeclined, plain),
		"already declined":            sampleMessage(messageAlreadyDeclined, plain),
		"already declined, once":      sampleMessage(messageAlreadyDeclined, func(v *messageView) { v.At = time.Time{} }),
		"expired":                     sampleMessage(messageExpired, plain),
		"expired, once":               sampleMessage(messageExpired, func(v *messageView) { v.At = time.Time{} }),
		"revoked":                     sampleMessage(messageRevoked, plain),
		"waiting":                     sampleMessage(messageWaiting, plain),
		"dead link":                   sampleMessage(messageDeadLink, func(v *messageView) { v.WorkspaceName, v.InviterName = "", "" }),
		"renewal asked":               sampleMessage(messageRenewalAsked, plain),
		"too many tries":              sampleMessage(messageTooManyTries, func(v *messageView) { v.RetryAfter = 14*time.Minute + time.Second }),
		"too many tries, one":         sampleMessage(messageTooManyTries, func(v *messageView) { v.RetryAfter = time.Second }),
		"problem, 400":                sampleMessage(messageProblem, as(400)),
		"problem, 403":                sampleMessage(messageProblem, as(403)),
		"problem":                     sampleMessage(messageProblem, as(404)),
		"problem, 500":                sampleMessage(messageProblem, as(500)),
		"problem, 503":                sampleMessage(messageProblem, as(503)),

		"accepted, signed in": sampleMessage(messageAccepted, func(v *messageView) { v.AppURL, v.Home = "https://app.kindred.example/", "/home?app=0" }),
		"which app":           messageView{frame: frame{Nonce: sampleNonce}, Kind: messageWhichApp},
		"password asked":      sampleMessage(messagePasswordAsked, func(v *messageView) { v.Back = "/login?app=0" }),
		"dead password":       sampleMessage(messageDeadPassword, func(v *messageView) { v.Back = "/password?app=0" }),
		"log in":              logInView{frame: sampleFrame("/login?app=0"), App: "0", Next: "/home?app=0"},
		"log in, logged out":  logInView{frame: sampleFrame("/login?app=0"), App: "0", LoggedOut: true},
		"log in sent back": logInView{
			frame: sampleFrame("/login?app=0"), App: "0", Identifier: "ann", Errors: []formError{credentialsWrong, passwordMissing},
		},
		"ask password":           askPasswordView{frame: sampleFrame("/password?app=0"), App: "0", Next: "/i/" + sampleToken},
		"ask password sent back": askPasswordView{frame: sampleFrame("/password?app=0"), App: "0", Errors: []formError{identifierMissing}},
		"set password": setPasswordView{
			frame: sampleFrame("/password/" + sampleToken), Token: sampleToken, Email: "ann.okafor@example.com", Errors: []formError{passwordTooShort},
		},
		"set password, first": setPasswordView{
			frame: sampleFrame("/password/" + sampleToken), Token: sampleToken, Email: "ann.okafor@example.com", Username: "ann.okafor", First: true,
		},
		"home of a person": sampleHome(func(v *personHomeView) { v.Done, v.Next, v.NextWorkspace = doneApproved, "0", "0" }),
		"home of a person, too late": sampleHome(func(v *personHomeView) {
			v.Done, v.Settings = doneOver, settingsForm{TimeZone: "US/Eastern", Wrong: true}
		}),
		"home of a person, request":  sampleHome(func(v *personHomeView) { v.Open, v.Inbox, v.Done = v.Open[2:], nil, doneGranted }),
		"home of a person, nothing":  sampleHome(func(v *personHomeView) { v.Open, v.Inbox, v.Workspaces, v.AppURL, v.Username = nil, nil, nil, "", "" }),
		"home of a person, archived": sampleHome(func(v *personHomeView) { v.Archived = true }),

		"unsubscribe":              sampleUnsubscribe(roster.WantsAll, false),
		"unsubscribe no reminders": sampleUnsubscribe(roster.WantsNoReminders, false),
		"unsubscribe none":         sampleUnsubscribe(roster.WantsNone, false),
		"unsubscribe none, final":  sampleUnsubscribe(roster.WantsNone, true),
		"unsubscribe dead":         unsubscribeView{frame: frame{Path: "/u/" + sampleToken, Nonce: sampleNonce}, Token: sampleToken},

		"home":          homeView{frame: frame{Nonce: sampleNonce}, Version: "v0.1.0", Dev: true},
		"mailbox empty": mailboxView{frame: frame{Nonce: sampleNonce}, Curl: sampleCurl},
		"mailbox no match": mailboxView{
			frame: frame{Nonce: sampleNonce}, To: "nobody@example.com",
		},
		"mailbox": mailboxView{
			frame: frame{Nonce: sampleNonce},
			Mails: []mailRow{
				{ID: "3", To: "ann.okafor@example.com", Subject: "Marie Dupont invites you to Family Okafor – Private", At: time.Date(2026, 11, 20, 16, 46, 0, 0, time.UTC)},
				{ID: "2", To: "luis@example.es", Subject: "Marie Dupont le invita a Expediente de Luis", At: time.Date(2026, 11, 20, 16, 45, 0, 0, time.UTC)},
				{ID: "1", To: "jo@example.fr", Subject: "", At: time.Date(2026, 11, 19, 8, 1, 0, 0, time.UTC)},
			},
		},
		"mail": mailView{
			frame: frame{Nonce: sampleNonce},
			ID:    "3", From: "Kindred Care <invitations@kindred.example>", To: "ann.okafor@example.com",
			Subject: "Marie Dupont invites you to Family Okafor – Private",
			At:      time.Date(2026, 11, 20, 16, 46, 0, 0, time.UTC),
			Links:   []string{"http://localhost:8080/i/" + sampleToken, "mailto:support@kindred.example"},
			Text:    "Hello Ann Okafor,\n\nMarie Dupont from Acme Therapy invites you to join this workspace.\n\nhttp://localhost:8080/i/" + sampleToken + "\n",
		},
		"ops log-in":        opsLoginView{frame: frame{Nonce: sampleNonce}},
		"ops log-in failed": opsLoginView{frame: frame{Nonce: sampleNonce}, Error: "This password is not right."},
		"ops home": opsHomeView{frame: frame{Nonce: sampleNonce}, Facts: []fact{
			{Name: "Version", Value: "v0.1.0"},
			{Name: "Mail goes to", Value: "the dev mailbox", Bad: true},
			{Name: "Database schema", Value: "0001, current"},
		}},
		"ops sweeps": opsSweepsView{frame: frame{Nonce: sampleNonce}, Pauses: pauses, Started: "send_reminders", Sweeps: []opsSweep{
			{Name: "expire_invitations", Does: "Ends the invitations whose time is over.", Cron: "* * * * *", NextAt: sampleRuns[0].Tick, Last: &sampleRuns[1]},
			{Name: "forget", Does: "Forgets what nobody needs any more.", Cron: "17 * * * *", NextAt: sampleRuns[0].Tick, Late: true, Last: &sampleRuns[2]},
			{Name: "send_reminders", Does: "Reminds people of what they have not answered.", Cron: "* * * * *", NextAt: sampleRuns[0].Tick, PausedUntil: &sampleRuns[0].Tick},
		}},
		"ops sweep":       opsSweepView{frame: frame{Nonce: sampleNonce}, Name: "send_reminders", Runs: sampleRuns},
		"ops sweep empty": opsSweepView{frame: frame{Nonce: sampleNonce}, Name: "send_reminders"},
		"ops home empty":  opsHomeView{frame: frame{Nonce: sampleNonce}},
		"docs":            sampleDocs(),
	}
	return all
}

// sampleRuns are runs of a sweep: one at work, one that ended, one that failed.
var sampleRuns = []opsRun{
	{Tick: time.Date(2026, 11, 20, 16, 47, 0, 0, time.UTC), Scanned: 9_000, Acted: 8_000},
	{Tick: time.Date(2026, 11, 20, 16, 46, 0, 0, time.UTC), Lag: "1.2s", Took: "2.31s", Missed: 3, ByHand: true, Scanned: 120, Acted: 100, Skipped: []string{"15 mailbox budget", "5 unsubscribed"}},
	{Tick: time.Date(2026, 11, 20, 16, 45, 0, 0, time.UTC), Took: "1m0s", Error: "sweep send_reminders: look for reminders: timeout: context deadline exceeded"},
	{Tick: time.Date(2026, 11, 20, 16, 44, 0, 0, time.UTC), Took: "10ms"},
}

const sampleCurl = `curl -X POST http://localhost:8080/v1/invitations \
  -H 'Authorization: Bearer usk_demo_0123456789abcdef' -H 'Content-Type: application/json' \
  -d '{"kind":"new_user","email":"ann@example.com","full_name":"Ann Okafor","workspace_id":"0193…"}'`

func sampleDocs() docsView {
	invitation := []docsField{
		{Name: "id", Type: "string (uuid)", Required: true},
		{Name: "state", Type: "string", Required: true, Limits: "one of pending, accepted, declined, revoked, superseded, expired", Description: "What people decided. See `delivery` for what happened to the mail."},
		{Name: "workspace.name", Type: "string", Required: true},
	}
	return docsView{
		frame: frame{Nonce: sampleNonce},
		Title: "Usher API", Version: "0.1.0", BaseURL: "http://localhost:8080",
		Intro: "Post an invitation; Usher mails it, minds it and tells you how it ended.",
		Sections: []docsSection{
			{ID: "authentication", Title: "Authentication", Text: "Send your key as `Authorization: Bearer usk_…`.\n\n- Keys are shown once.\n- Keys can be revoked.", Example: sampleCurl},
			{ID: "errors", Title: "Errors", Text: "Problems as in RFC 9457, with a stable `code`.", Fields: []docsField{
				{Name: "code", Type: "string", Required: true, Description: "For programs."},
				{Name: "detail", Type: "string", Description: "For people."},
			}},
		},
		Groups: []docsGroup{{
			ID: "invitations", Title: "Invitations", Description: "An invitation asks a person to join a workspace.",
			Operations: []docsOperation{
				{
					ID: "create-invitation", Method: "POST", Path: "/v1/invitations", Summary: "Create an invitation",
					Description: "Creating the same one again answers 200 with `duplicate`.",
					Parameters:  []docsField{{Name: "Idempotency-Key", In: "header", Type: "string", Limits: "at most 255 characters", Description: "Replays the first answer for 24 hours."}},
					Body: []docsField{
						{Name: "email", Type: "string", Required: true, Limits: "at most 254 bytes", Description: "As typed."},
						{Name: "message", Type: "string", Limits: "at most 2000 characters"},
					},
					Curl: sampleCurl,
					Responses: []docsResponse{
						{Status: "201", Description: "Created", Fields: invitation, Example: `{"id":"01931f0e-6b7a-7c3e-9a51-0d6f2f1f7f10","state":"pending"}`},
						{Status: "422", Description: "Something in the body is wrong"},
					},
				},
				{
					ID: "revoke-invitation", Method: "DELETE", Path: "/v1/invitations/{id}", Summary: "Revoke an invitation",
					Parameters: []docsField{{Name: "id", In: "path", Type: "string (uuid)", Required: true}},
					Responses:  []docsResponse{{Status: "200", Description: "Revoked", Fields: invitation}},
				},
				{
					ID: "get-invitation", Method: "GET", Path: "/v1/invitations/{id}", Summary: "Get an invitation",
					Responses: []docsResponse{{Status: "200", Description: "The invitation", Fields: invitation}},
				},
			},
		}},
	}
}
