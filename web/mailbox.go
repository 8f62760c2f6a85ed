package web

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/gofiber/fiber/v2"
	"github.com/google/uuid"

	"usher/internal/mail"
)

// GET /dev/mailbox?to=. Who calls: a developer.
func (s *Server) mailboxPage(c *fiber.Ctx) (view, error) {
	letters, err := s.Mailbox.Letters(c.UserContext(), c.Query("to"))
	if err != nil {
		return nil, err
	}
	v := mailboxView{frame: s.frame(c, Brand{}), To: c.Query("to"), Curl: FirstCall(s.URL, s.Example)}
	for _, l := range letters {
		v.Mails = append(v.Mails, mailRow{ID: l.ID.String(), To: l.To, Subject: l.Subject, At: l.CreatedAt})
	}
	return v, nil
}

// FirstCall is the curl line that sends a first invitation.
func FirstCall(base *url.URL, e Example) string {
	if e.APIKey == "" {
		return ""
	}
	return fmt.Sprintf(`curl -s %s/v1/invitations -H 'Authorization: Bearer %s' -H 'Usher-Actor: %s' -H 'Content-Type: application/json' -d '{"kind":"new_user","email":"ann@client.example","full_name":"Ann Example","workspace_id":"%s"}'`,
		base, e.APIKey, e.AccountID, e.WorkspaceID)
}

// letterBody is one mail of GET /dev/mailbox.json.
type letterBody struct {
	ID      string   `json:"id"`
	To      string   `json:"to"`
	Subject string   `json:"subject"`
	Text    string   `json:"text"`
	HTML    string   `json:"html"`
	Links   []string `json:"links"`
}

// GET /dev/mailbox.json?to=. Who calls: a developer's tests.
func (s *Server) mailboxJSON(c *fiber.Ctx) error {
	letters, err := s.Mailbox.Letters(c.UserContext(), c.Query("to"))
	if err != nil {
		return err
	}
	bodies := make([]letterBody, 0, len(letters))
	for _, l := range letters {
		bodies = append(bodies, letterBody{l.ID.String(), l.To, l.Subject, l.Text, l.HTML, l.Links()})
	}
	return c.JSON(bodies)
}

func (s *Server) letter(c *fiber.Ctx) (mail.Letter, error) {
	notThere := fiber.NewError(fiber.StatusNotFound, "There is no such mail in the mailbox.")
	letterID, err := uuid.Parse(c.Params("id"))
	if err != nil {
		return mail.Letter{}, notThere
	}
	l, ok, err := s.Mailbox.Letter(c.UserContext(), letterID)
	if err == nil && !ok {
		err = notThere
	}
	return l, err
}

// GET /dev/mailbox/{id}. Who calls: a developer.
func (s *Server) mailPage(c *fiber.Ctx) (view, error) {
	l, err := s.letter(c)
	if err != nil {
		return nil, err
	}
	return mailView{
		frame: s.frame(c, Brand{}), ID: l.ID.String(), From: l.From, To: l.To, Subject: l.Subject,
		At: l.CreatedAt, Links: l.Links(), Text: l.Text,
	}, nil
}

// GET /dev/mailbox/{id}/html, shown in a frame. The mail is shown as a mail
// program would: no scripts, and links open in a new tab.
func (s *Server) mailHTML(c *fiber.Ctx) error {
	l, err := s.letter(c)
	if err != nil {
		return err
	}
	c.Set(fiber.HeaderContentSecurityPolicy, "default-src 'none'; style-src 'unsafe-inline'; img-src https: data:; base-uri 'none'; "+
		"frame-ancestors 'self'; sandbox allow-popups allow-popups-to-escape-sandbox")
	c.Set(fiber.HeaderContentType, fiber.MIMETextHTMLCharsetUTF8)
	return c.SendString(strings.Replace(l.HTML, "<head>", `<head><base target="_blank">`, 1))
}
