package main

import (
	"cmp"
	"encoding/json"
	"net/http"
	"net/mail"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
)

// suppression keeps an address from being written to.
type suppression struct {
	ID       string    `json:"id"`
	Email    string    `json:"email"`
	Origin   string    `json:"origin"`    // bounce, complaint or manual
	SourceID *string   `json:"source_id"` // the mail that bounced or was complained of
	At       time.Time `json:"created_at"`
}

// suppress puts an address on the list, if it is not there, and returns its
// entry; the caller holds mu.
func (s *server) suppress(news *entry, address, origin string, source *string) *suppression {
	if there := s.suppressed[address]; there != nil {
		return there
	}
	sup := &suppression{ID: uuid.NewString(), Email: address, Origin: origin, SourceID: source, At: s.now()}
	s.suppressed[address] = sup
	news.Suppress = append(news.Suppress, sup)
	s.occur(news, &event{Type: "suppression.added", Data: sup.data()}, nil)
	return sup
}

// data is what a webhook says of a suppression.
func (sup *suppression) data() map[string]any {
	return map[string]any{"id": sup.ID, "email": sup.Email, "origin": sup.Origin, "source_id": sup.SourceID, "created_at": webhookTime(sup.At)}
}

// shown is a suppression as the API shows it.
func (sup *suppression) shown() map[string]any {
	return map[string]any{"object": "suppression", "id": sup.ID, "email": sup.Email, "origin": sup.Origin, "source_id": sup.SourceID, "created_at": apiTime(sup.At)}
}

// findSuppression returns the one with an id or address, or nil; the caller
// holds mu.
func (s *server) findSuppression(idOrEmail string) *suppression {
	if sup := s.suppressed[bareAddress(idOrEmail)]; sup != nil {
		return sup
	}
	for _, sup := range s.suppressed {
		if sup.ID == idOrEmail {
			return sup
		}
	}
	return nil
}

// addSuppression serves POST /suppressions.
func (s *server) addSuppression(c *call) *answer {
	var req struct {
		Email string `json:"email"`
	}
	if json.Unmarshal(c.body, &req) != nil {
		return errNotJSON.answer()
	}
	if req.Email == "" {
		return missing("email").answer()
	}
	if _, err := mail.ParseAddress(req.Email); err != nil {
		return invalid("Invalid `email` field.").answer()
	}
	s.gate.RLock()
	defer s.gate.RUnlock()
	s.mu.Lock()
	var news entry
	sup := s.suppress(&news, bareAddress(req.Email), "manual", nil)
	s.announce()
	s.mu.Unlock()
	s.note(news)
	return jsonAnswer(http.StatusCreated, map[string]string{"object": "suppression", "id": sup.ID})
}

// listSuppressions serves GET /suppressions, newest first.
func (s *server) listSuppressions(c *call) *answer {
	q := c.r.URL.Query()
	s.mu.Lock()
	defer s.mu.Unlock()
	var list []*suppression
	for _, sup := range s.suppressed {
		if origin := q.Get("origin"); origin == "" || origin == sup.Origin {
			list = append(list, sup)
		}
	}
	slices.SortFunc(list, func(a, b *suppression) int { return cmp.Or(a.At.Compare(b.At), cmp.Compare(a.ID, b.ID)) })
	return listAnswer(list, q, func(sup *suppression) string { return sup.ID }, (*suppression).shown)
}

// getSuppression serves GET /suppressions/{id or email}.
func (s *server) getSuppression(c *call) *answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	sup := s.findSuppression(strings.TrimPrefix(c.r.URL.Path, "/suppressions/"))
	if sup == nil {
		return errSuppressionNotFound.answer()
	}
	return jsonAnswer(http.StatusOK, sup.shown())
}

// removeSuppression serves DELETE /suppressions/{id or email}.
func (s *server) removeSuppression(c *call) *answer {
	s.gate.RLock()
	defer s.gate.RUnlock()
	s.mu.Lock()
	sup := s.findSuppression(strings.TrimPrefix(c.r.URL.Path, "/suppressions/"))
	if sup == nil {
		s.mu.Unlock()
		return errSuppressionNotFound.answer()
	}
	delete(s.suppressed, sup.Email)
	news := entry{Lift: sup.Email}
	s.occur(&news, &event{Type: "suppression.removed", Data: sup.data()}, nil)
	s.announce()
	s.mu.Unlock()
	s.note(news)
	return jsonAnswer(http.StatusOK, map[string]any{"object": "suppression", "id": sup.ID, "deleted": true})
}

// listAnswer is a page of a list, newest first, as Resend cuts it: at most
// limit items, those that come after or before the one with an id. The list
// given is in order of time.
func listAnswer[T any](list []T, q url.Values, id func(T) string, shown func(T) map[string]any) *answer {
	limit := 20
	if v := q.Get("limit"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 || n > 100 {
			return invalid("The `limit` must be a number between 1 and 100.").answer()
		}
		limit = n
	}
	after, before := q.Get("after"), q.Get("before")
	if after != "" && before != "" {
		return invalid("The `after` and `before` parameters cannot be used together.").answer()
	}
	from, to := 0, len(list) // the part of the list to choose from
	if cursor := after + before; cursor != "" {
		at := slices.IndexFunc(list, func(item T) bool { return id(item) == cursor })
		switch {
		case at < 0:
			return invalid("There is no item with the id `%s`.", cursor).answer()
		case after != "":
			to = at
		default:
			from = at + 1
		}
	}
	hasMore := to-from > limit
	switch {
	case !hasMore:
	case before != "": // the oldest ones, next to the cursor
		to = from + limit
	default:
		from = to - limit
	}
	data := []map[string]any{}
	for _, item := range slices.Backward(list[from:to]) {
		data = append(data, shown(item))
	}
	return jsonAnswer(http.StatusOK, map[string]any{"object": "list", "has_more": hasMore, "data": data})
}

// apiTime is a time as Resend's API spells it.
func apiTime(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05.000000-07") }
