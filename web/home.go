package web

import "github.com/gofiber/fiber/v2"

// GET /. Who calls: whoever opens the address by hand.
func (s *Server) homePage(c *fiber.Ctx) (view, error) {
	return homeView{frame: s.frame(c, Brand{}), Version: s.Version, Dev: s.Mailbox != nil}, nil
}

// GET /docs. Who calls: a developer.
func (s *Server) docsPage(c *fiber.Ctx) (view, error) {
	v := s.docs
	v.frame = s.frame(c, Brand{})
	return v, nil
}

// GET /openapi.json. Who calls: a developer's tools.
func (s *Server) openAPI(c *fiber.Ctx) error {
	raw, err := marshalOpenAPI(s.api)
	if err != nil {
		return err
	}
	c.Set(fiber.HeaderContentType, fiber.MIMEApplicationJSONCharsetUTF8)
	return c.Send(raw)
}
