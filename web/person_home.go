package web

import (
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"usher/internal/locale"
	"usher/internal/roster"
)

const (
	// itemsShown are the items of an inbox on one page, and the workspaces.
	itemsShown = 50

	// openShown bounds the open decisions, which are all on the first page: more
	// than anybody has.
	openShown = 200
)

// resident lets those pass who are signed in. Others are sent to the log-in,
// tell is nil then as well, and v.account.
func (s *Server) resident(c *fiber.Ctx) (v visitor, tell view, err error) {
	v, tell, err = s.visit(c)
	if err != nil || tell != nil || v.account != nil {
		return v, tell, err
	}
	next := "" // of a form that came too late, the page it stands on
	if c.Method() == fiber.MethodGet && c.Query("view") == viewArchived {
		next = v.path("/home", "view", viewArchived)
	}
	return v, nil, c.Redirect(v.path("/login", "next", next), fiber.StatusSeeOther)
}

const viewArchived = "archived"

// GET /home. Who calls: a person. What is new stays new until a form says that
// it was seen.
func (s *Server) personHomePage(c *fiber.Ctx) (view, error) {
	v, tell, err := s.resident(c)
	if err != nil || tell != nil || v.account == nil {
		return tell, err
	}
	return s.personHome(c, v, settingsForm{Locale: v.account.Locale, TimeZone: v.account.TimeZone})
}

func (s *Server) personHome(c *fiber.Ctx, v visitor, settings settingsForm) (view, error) {
	ctx, app, account := c.UserContext(), v.app.ID, *v.account
	archived := c.Query("view") == viewArchived
	list := roster.NotificationList{After: id(c.Query("after")), Limit: itemsShown + 1}
	if archived {
		list.View = roster.ViewArchived
	}
	items, err := s.Roster.Notifications(ctx, app, account.ID, list)
	if err != nil {
		return nil, err
	}
	h := personHomeView{
		frame: s.accountFrame(c, v, "/home", "view", map[bool]string{true: viewArchived}[archived]),
		App:   app.String(), AppURL: v.app.URL, FullName: account.FullName, Email: account.Email, Username: account.Username,
		Archived: archived, Done: homeDone(c.Query("done")), Zone: zoneOf(account, v.app), Settings: settings,
	}
	if len(items) > itemsShown {
		items = items[:itemsShown]
		h.Next = items[itemsShown-1].ID.String()
	}
	for _, item := range items {
		if archived || item.Action != roster.ActionOpen {
			h.Inbox = append(h.Inbox, homeItem{item})
		}
	}
	if archived {
		return h, nil
	}
	open, err := s.Roster.Notifications(ctx, app, account.ID, roster.NotificationList{Action: roster.ActionOpen, Limit: openShown})
	if err != nil {
		return nil, err
	}
	for _, item := range open {
		h.Open = append(h.Open, homeItem{item})
	}
	h.Workspaces, err = s.Roster.AccountWorkspaces(ctx, app, account.ID, id(c.Query("workspaces_after")), itemsShown+1)
	if err != nil {
		return nil, err
	}
	if len(h.Workspaces) > itemsShown {
		h.Workspaces = h.Workspaces[:itemsShown]
		h.NextWorkspace = h.Workspaces[itemsShown-1].ID.String()
	}
	return h, nil
}

// zoneOf is the zone whose times a person reads.
func zoneOf(account roster.Account, app roster.App) *time.Location {
	for _, name := range []string{account.TimeZone, app.TimeZone} {
		if zone, err := time.LoadLocation(name); name != "" && err == nil {
			return zone
		}
	}
	return time.UTC
}

// backHome shows the person's page after a form changed something, so that
// reloading sends nothing again. done says what there is to be told.
func (s *Server) backHome(c *fiber.Ctx, v visitor, done homeDone) error {
	lang := ""
	if c.Query("lang") != "" {
		lang = locale.Match(c.Query("lang"))
	}
	view := ""
	if c.Query("view") == viewArchived {
		view = viewArchived
	}
	return c.Redirect(v.path("/home", "done", string(done), "view", view, "lang", lang), fiber.StatusSeeOther)
}

// itemViews are what a person can do with an item.
var itemViews = map[string]roster.NotificationView{
	"read": roster.ViewRead, "unread": roster.ViewUnread, "archive": roster.ViewArchived, "unarchive": roster.ViewRead,
}

// POST /home/items/{id}/{what}: read, unread, archive, unarchive. Who calls: a
// person, by the button.
func (s *Server) viewItem(c *fiber.Ctx) (view, error) {
	v, tell, err := s.resident(c)
	if err != nil || tell != nil || v.account == nil {
		return tell, err
	}
	as, ok := itemViews[c.Params("what")]
	if !ok {
		return nil, fiber.ErrNotFound
	}
	if _, err := s.Roster.SetNotificationView(c.UserContext(), v.app.ID, v.account.ID, id(c.Params("id")), as, roster.IdempotencyKey{}); err != nil {
		return nil, err
	}
	return nil, s.backHome(c, v, "")
}

// POST /home/items/{id}/approve and /decline. Who calls: a person, by the button.
func (s *Server) decideItem(accept bool) func(c *fiber.Ctx) (view, error) {
	return func(c *fiber.Ctx) (view, error) {
		v, tell, err := s.resident(c)
		if err != nil || tell != nil || v.account == nil {
			return tell, err
		}
		d, err := s.Roster.DecideNotification(c.UserContext(), v.app.ID, v.account.ID, id(c.Params("id")), accept,
			roster.Visibility(c.FormValue("visibility")), roster.IdempotencyKey{})
		done := map[bool]homeDone{true: doneApproved, false: doneDeclined}[accept]
		if d.Request != nil {
			done = map[bool]homeDone{true: doneGranted, false: doneDenied}[accept]
		}
		switch code := roster.CodeOf(err); {
		case err == nil:
			return nil, s.backHome(c, v, done)
		case code == "inviter_gone":
			return nil, s.backHome(c, v, doneWaiting)
		case code == "expired":
			return nil, s.backHome(c, v, doneExpired)
		case strings.HasPrefix(code, "already_") || code == "withdrawn" || code == "workspace_archived":
			return nil, s.backHome(c, v, doneOver)
		}
		return nil, err
	}
}

// POST /home/items/archive. Who calls: a person, by the button: it puts away
// what was read.
func (s *Server) archiveReadItems(c *fiber.Ctx) (view, error) {
	v, tell, err := s.resident(c)
	if err != nil || tell != nil || v.account == nil {
		return tell, err
	}
	if _, err := s.Roster.ArchiveNotifications(c.UserContext(), v.app.ID, v.account.ID, roster.NotificationFilter{View: roster.ViewRead}, roster.IdempotencyKey{}); err != nil {
		return nil, err
	}
	return nil, s.backHome(c, v, "")
}

// POST /home/workspaces/seen. Who calls: a person, by the button.
func (s *Server) seeWorkspaces(c *fiber.Ctx) (view, error) {
	v, tell, err := s.resident(c)
	if err != nil || tell != nil || v.account == nil {
		return tell, err
	}
	if err := s.Roster.SeeWorkspaces(c.UserContext(), v.app.ID, v.account.ID); err != nil {
		return nil, err
	}
	return nil, s.backHome(c, v, "")
}

// POST /home/settings. Who calls: a person, by the button. The language is kept
// for mail, and for the pages in whichever browser.
func (s *Server) saveSettings(c *fiber.Ctx) (view, error) {
	v, tell, err := s.resident(c)
	if err != nil || tell != nil || v.account == nil {
		return tell, err
	}
	form := settingsForm{Locale: c.FormValue("locale"), TimeZone: c.FormValue("time_zone")}
	locales, zones := form.Locale, form.TimeZone
	_, err = s.Roster.ChangeAccount(c.UserContext(), v.app.ID, v.account.ID, roster.AccountChange{Locale: &locales, TimeZone: &zones}, roster.IdempotencyKey{})
	if code := roster.CodeOf(err); code == "locale_invalid" || code == "time_zone_invalid" {
		c.Status(fiber.StatusUnprocessableEntity)
		form.Wrong = true
		form.Locale, form.TimeZone = v.account.Locale, v.account.TimeZone
		return s.personHome(c, v, form)
	}
	if err != nil {
		return nil, err
	}
	// What was chosen for this browser before gives way.
	s.setCookie(c, languageCookie, "", "/", time.Time{})
	return nil, c.Redirect(v.path("/home", "done", string(doneSaved)), fiber.StatusSeeOther)
}
