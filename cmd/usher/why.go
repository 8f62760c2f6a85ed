package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/agnivade/levenshtein"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/spf13/cobra"

	"usher/internal/mail"
	"usher/internal/roster"
)

// maxSlips is how many letters an address that is suggested may differ in.
const maxSlips = 3

func whyCommand() *cobra.Command {
	var app string
	var asJSON bool
	cmd := &cobra.Command{
		Use:   "why EMAIL",
		Short: "Tell everything that happened to a person's mail, and what happens next",
		Long: "Tell everything that happened to a person's mail, and what happens next.\n\n" +
			"Exit codes: 0 something is known of the address, 3 nothing is known of it, 2 it is no address, 1 anything else.",
		Example: "  usher why ann@example.org\n  usher why ann@example.org --app 'Harbour Portal' --json",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) != 1 {
				return usageError{errors.New("name one address, like 'usher why ann@example.org'")}
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			address, err := roster.ParseAddress(args[0])
			if err != nil {
				return usageError{err}
			}
			return withDatabase(cmd.Context(), func(pool *pgxpool.Pool) error {
				w := &why{&roster.Roster{DB: pool, Now: time.Now}, &mail.Outbox{DB: pool, Now: time.Now}}
				story, err := w.tell(cmd.Context(), address, app)
				if err != nil {
					return err
				}
				if asJSON {
					encoder := json.NewEncoder(os.Stdout)
					encoder.SetIndent("", "  ")
					return encoder.Encode(story)
				}
				return story.write(os.Stdout)
			})
		},
	}
	cmd.Flags().StringVar(&app, "app", "", "only in this app, by its name or id")
	cmd.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return cmd
}

// why joins what the domain and the mail engine know of a person.
type why struct {
	roster *roster.Roster
	outbox *mail.Outbox
}

// story is what happened to the mail of one address.
type story struct {
	Email string     `json:"email"` // as compared
	Apps  []appStory `json:"apps"`
}

// appStory is the part of a story in one app.
type appStory struct {
	App     appLine       `json:"app"`
	Account string        `json:"account,omitempty"`
	Address *addressState `json:"address,omitempty"`
	History []entry       `json:"history"`
	Next    []future      `json:"next"`
}

// addressState is what is remembered of the address.
type addressState struct {
	Blocked      string     `json:"blocked,omitempty"` // hard, provider or complaint
	Since        *time.Time `json:"since,omitempty"`
	Detail       string     `json:"detail,omitempty"`
	LiftedAt     *time.Time `json:"lifted_at,omitempty"`
	SoftBounces  int        `json:"soft_bounces,omitempty"`
	Unsubscribed *time.Time `json:"unsubscribed_at,omitempty"`
}

// entry is one thing that happened.
type entry struct {
	At     time.Time `json:"at"`
	Of     uuid.UUID `json:"of"` // the invitation or the message
	What   string    `json:"what"`
	Detail string    `json:"detail,omitempty"`
}

// future is what will happen, or what somebody has to do.
type future struct {
	Of   uuid.UUID `json:"of"`
	Says string    `json:"says"`
}

// tell finds the story of an address. One of which nothing is known is an
// unknownError.
func (w *why) tell(ctx context.Context, address roster.Address, app string) (s story, err error) {
	s = story{Email: address.Key}
	apps, err := w.roster.Apps(ctx)
	if err != nil {
		return s, err
	}
	only := uuid.Nil
	if app != "" {
		one, err := pickApp(apps, app)
		if err != nil {
			return s, err
		}
		apps, only = []roster.App{one}, one.ID
	}
	health, err := w.outbox.Health(ctx, only)
	if err != nil {
		return s, err
	}
	for _, app := range apps {
		part, known, err := w.inApp(ctx, app, address.Key, health.Way)
		if err != nil {
			return s, err
		}
		if known {
			s.Apps = append(s.Apps, part)
		}
	}
	if len(s.Apps) > 0 {
		return s, nil
	}
	near, err := w.roster.NearAddresses(ctx, only, address.Key)
	if err != nil {
		return s, err
	}
	unknown := fmt.Sprintf("nothing is known of %s", address.Typed)
	if meant := nearest(address.Key, near); meant != "" && levenshtein.ComputeDistance(meant, address.Key) <= maxSlips {
		unknown += fmt.Sprintf("; did you mean %s?", meant)
	}
	return s, unknownError{errors.New(unknown)}
}

// pickApp finds the app that was named.
func pickApp(apps []roster.App, named string) (roster.App, error) {
	var found []roster.App
	var names []string
	for _, app := range apps {
		names = append(names, app.Name)
		if app.ID.String() == strings.ToLower(named) || strings.EqualFold(app.Name, named) {
			found = append(found, app)
		}
	}
	switch {
	case len(found) == 1:
		return found[0], nil
	case len(found) > 1:
		return roster.App{}, usageError{fmt.Errorf("%d apps are named %q; give the id of one, 'usher apps list' shows them", len(found), named)}
	case len(apps) == 0:
		return roster.App{}, usageError{errors.New("there is no app yet")}
	}
	return roster.App{}, usageError{fmt.Errorf("there is no app %q; did you mean %q?", named, nearest(named, names))}
}

// inApp is the story in one app; known is false where there is none.
func (w *why) inApp(ctx context.Context, app roster.App, key string, way mail.Way) (s appStory, known bool, err error) {
	person, err := w.outbox.Person(ctx, app.ID, key)
	if err != nil {
		return s, false, err
	}
	var subjects, messages []uuid.UUID
	for _, m := range person.Messages {
		subjects, messages = append(subjects, m.SubjectID), append(messages, m.ID)
	}
	history, err := w.roster.History(ctx, app.ID, key, subjects, messages)
	if err != nil {
		return s, false, err
	}
	s = appStory{App: appRow(app), History: []entry{}, Next: []future{}}
	if a := history.Account; a != nil {
		s.Account = fmt.Sprintf("%s, %s account, %s", a.FullName, a.Kind, a.Status)
	}
	if p := person.Standing; p != nil && (p.Block != "" || p.LiftedAt != nil || p.SoftBounces > 0 || p.UnsubscribedAt != nil) {
		s.Address = &addressState{string(p.Block), p.BlockedAt, p.Detail, p.LiftedAt, p.SoftBounces, p.UnsubscribedAt}
	}
	now := w.outbox.Now()
	s.invitations(history, now)
	if err := w.reminders(ctx, app.ID, history, &s); err != nil {
		return s, false, err
	}
	s.mails(person, way, now)
	slices.SortStableFunc(s.History, func(a, b entry) int { return a.At.Compare(b.At) })
	known = len(s.History) > 0 || s.Account != "" || s.Address != nil
	return s, known, nil
}

func (s *appStory) happened(at *time.Time, of uuid.UUID, what, detail string) {
	if at != nil {
		s.History = append(s.History, entry{at.UTC(), of, what, detail})
	}
}

// invitations adds what people did about invitations and access requests, and
// what is left to do.
func (s *appStory) invitations(h roster.History, now time.Time) {
	views := map[uuid.UUID]roster.InvitationView{}
	for _, v := range h.Invitations {
		views[v.ID] = v
		switch {
		case v.State == roster.OnHold:
			s.Next = append(s.Next, future{v.ID, "The invitation is on hold until its address is corrected, or somebody says that the mailbox exists. It expires at " + moment(v.ExpiresAt) + "."})
		case v.State.Open() && v.ExpiresAt.After(now):
			s.Next = append(s.Next, future{v.ID, "The invitation can be accepted until " + moment(v.ExpiresAt) + ", when it expires."})
		case v.State.Open():
			s.Next = append(s.Next, future{v.ID, "The invitation is over and expires within a minute."})
		}
	}
	requests := map[uuid.UUID]roster.RequestView{}
	for _, q := range h.Requests {
		requests[q.ID] = q
		if next := nextOfRequest(q, now); next != "" {
			s.Next = append(s.Next, future{q.ID, next})
		}
	}
	for _, m := range h.Merges {
		if next := nextOfMerge(m); next != "" {
			s.Next = append(s.Next, future{m.ID, next})
		}
	}
	for _, e := range h.Events {
		detail := ""
		switch e.Type {
		case roster.EventMergePreviewed:
			detail = fmt.Sprintf("of account %s into account %s", e.Data["absorbed_id"], e.Data["survivor_id"])
		case roster.EventMergeCancelled, roster.EventMergeFailed:
			detail, _ = e.Data["reason"].(string)
		case roster.EventRequestCreated:
			q := requests[e.SubjectID]
			detail = fmt.Sprintf("%s of %q, as %s", q.RequesterName, q.CompanyName, q.Option)
		case roster.EventRequestHeld:
			detail, _ = e.Data["reason"].(string)
		case roster.EventRequestAuthorized:
			if evidence := requests[e.SubjectID].Evidence; evidence != nil {
				detail = fmt.Sprintf("by %s, on %s", evidence.Operator, evidence.Reference)
			}
		case roster.EventCreated:
			v := views[e.SubjectID]
			detail = fmt.Sprintf("%s invites to %q", v.InviterName, v.WorkspaceName)
			if v.MessageID == nil {
				detail += ", without mail"
			}
		case roster.EventHeld:
			detail, _ = e.Data["reason"].(string)
			if domain, ok := e.Data["suggested_domain"].(string); ok {
				detail += "; perhaps @" + domain + " was meant"
			}
		case roster.EventMailSettled:
			detail = fmt.Sprintf("by hand, as %s", e.Data["outcome"])
			if instead, ok := e.Data["new_message_id"].(string); ok {
				detail += ", written anew as " + instead
			}
		}
		s.happened(&e.At, e.SubjectID, strings.NewReplacer(".", " ", "_", " ", "message", "mail").Replace(e.Type), detail)
	}
}

// nextOfRequest is what happens next to an access request; empty: nothing.
func nextOfRequest(q roster.RequestView, now time.Time) string {
	switch {
	case !q.Open():
		return ""
	case !q.ExpiresAt.After(now):
		return "The access request is over and expires within a minute."
	case q.State == roster.OnHold:
		return "The access request is on hold until its address is corrected, or support gives access by hand. It expires at " + moment(q.ExpiresAt) + "."
	case q.State == roster.Approved:
		return "The person said yes, and has until " + moment(q.ExpiresAt) + " to log in to the account meant."
	}
	return "The access request can be answered until " + moment(q.ExpiresAt) + ", when it expires."
}

// reminders adds when the person is reminded of what is open.
func (w *why) reminders(ctx context.Context, app uuid.UUID, h roster.History, s *appStory) error {
	var open []uuid.UUID
	for _, v := range h.Invitations {
		if v.State == roster.Pending {
			open = append(open, v.ID)
		}
	}
	for _, q := range h.Requests {
		if q.State == roster.Pending {
			open = append(open, q.AccessRequest.ID)
		}
	}
	for _, id := range open {
		t, err := w.roster.Timeline(ctx, app, id)
		if err != nil {
			return err
		}
		for _, c := range t.Coming {
			if c.What == "reminder" {
				s.Next = append(s.Next, future{id, "A reminder is due at " + moment(c.At) + ", unless " + c.Unless + "."})
			}
		}
	}
	return nil
}

// nextOfMerge is what happens next to a merge; empty: nothing.
func nextOfMerge(m roster.Merge) string {
	switch m.State {
	case roster.MergePreviewed:
		return "The merge waits for the professional to confirm it."
	case roster.MergeNeedsResolution:
		return "The merge waits for the professional to say whether both accounts are of the same person."
	case roster.MergeConfirmed, roster.MergeRunning:
		if m.Step == roster.StepMoved {
			return "The rows of the merge have moved; the app's endpoint is called until it takes the call. Look at the job run_merge for why it does not, or undo the merge."
		}
		return "The merge is carried out. Where the app's endpoint does not take the call, it is called again; the job run_merge says why."
	case roster.MergeMerged:
		return "The merge can be undone until " + moment(*m.UndoUntil) + ", when it becomes final."
	case roster.MergeUndoing:
		return "The merge is being undone; the job undo_merge says what it waits for."
	case roster.MergeFinalized, roster.MergeFailed, roster.MergeCancelled, roster.MergeUndone:
	}
	return ""
}

// mails adds what became of mail, and what will.
func (s *appStory) mails(p mail.Person, way mail.Way, now time.Time) {
	newest := map[uuid.UUID]uuid.UUID{}
	for _, m := range p.Messages {
		newest[m.SubjectID] = m.ID
	}
	for _, m := range p.Messages {
		s.happened(&m.CreatedAt, m.ID, "mail asked for", m.Kind)
		s.happened(m.WrittenAt, m.ID, "mail written", fmt.Sprintf("%q", m.Subject))
		switch {
		case m.Attempts == 1:
			s.happened(m.FirstAttemptAt, m.ID, "handed over", strings.TrimPrefix(unsure(m), "; "))
		case m.Attempts > 1:
			s.happened(m.FirstAttemptAt, m.ID, "handed over", "the first time")
			s.happened(m.LastAttemptAt, m.ID, "handed over", fmt.Sprintf("the %d. time, the same under the same key%s", m.Attempts, unsure(m)))
		}
		switch {
		case m.ProviderID != "":
			s.happened(m.SettledAt, m.ID, "provider took it", m.ProviderID)
		case m.State == mail.Cancelled:
			s.happened(m.SettledAt, m.ID, "mail dropped", m.Reason)
		default:
			s.happened(m.SettledAt, m.ID, "mail "+string(m.State), m.Reason)
		}
		switch m.State {
		case mail.Queued, mail.Held, mail.Sending, mail.Delayed, mail.Uncertain:
			s.Next = append(s.Next, future{m.ID, nextOf(m, way, now)})
		default:
			if newest[m.SubjectID] == m.ID {
				s.Next = append(s.Next, future{m.ID, nextOf(m, way, now)})
			}
		}
	}
	for _, f := range p.Facts {
		detail := f.Said
		if f.Outcome != "" {
			detail = strings.TrimPrefix(detail+" → "+f.Outcome, " → ")
		}
		s.happened(&f.At, f.MessageID, "provider: "+strings.TrimPrefix(f.Type, "email."), detail)
	}
}

// unsure tells how an attempt ended, if nobody knows.
func unsure(m mail.Record) string {
	if m.Unknown == 0 || m.ProviderID != "" || m.Outcome == "" {
		return ""
	}
	return "; " + m.Outcome
}

// nextOf is what becomes of a mail, with the hand tool that is of use.
func nextOf(m mail.Record, way mail.Way, now time.Time) string {
	next := m.Next(way, now)
	if m.State == mail.Uncertain {
		next += fmt.Sprintf(" That is 'usher mail settle %s sent', or not_sent.", m.ID)
	}
	return next
}

func moment(at time.Time) string { return at.UTC().Format("2006-01-02 15:04 UTC") }

// write prints the story for people.
func (s story) write(out *os.File) error {
	for i, app := range s.Apps {
		if i > 0 {
			fmt.Fprintln(out)
		}
		fmt.Fprintf(out, "%s in %s (%s)\n", s.Email, app.App.Name, app.App.ID)
		if app.Account != "" {
			fmt.Fprintln(out, "Account: "+app.Account)
		}
		if app.Address != nil {
			fmt.Fprintln(out, "Address: "+app.Address.words())
		}
		fmt.Fprintln(out)
		w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "TIME (UTC)\tOF\tWHAT\tDETAIL")
		for _, e := range app.History {
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\n", e.At.Format("2006-01-02 15:04:05"), short(e.Of), e.What, e.Detail)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		fmt.Fprintln(out, "\nNext:")
		for _, n := range app.Next {
			fmt.Fprintf(out, "  %s  %s\n", short(n.Of), n.Says)
		}
		if len(app.Next) == 0 {
			fmt.Fprintln(out, "  nothing")
		}
	}
	return nil
}

// short is the end of an id, which tells ids made at one time apart.
func short(id uuid.UUID) string { return "…" + id.String()[28:] }

func (a addressState) words() string {
	var words []string
	if a.Blocked != "" {
		words = append(words, strings.TrimSpace(fmt.Sprintf("blocked (%s) since %s: no mail is sent to it. %s", a.Blocked, moment(*a.Since), a.Detail)))
	}
	if a.LiftedAt != nil {
		words = append(words, "somebody said at "+moment(*a.LiftedAt)+" that the mailbox exists")
	}
	if a.SoftBounces > 0 {
		words = append(words, fmt.Sprintf("its mailbox was full on %d days", a.SoftBounces))
	}
	if a.Unsubscribed != nil {
		words = append(words, "unsubscribed from reminders at "+moment(*a.Unsubscribed))
	}
	return strings.Join(words, "; ")
}
