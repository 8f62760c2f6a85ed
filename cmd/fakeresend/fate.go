package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"
)

// lateGaps is how many gaps after its delivery a late bounce comes, and how
// many gaps a delayed delivery takes.
const lateGaps = 40

// step is one thing that happens to a mail once it is accepted.
type step struct {
	After duration `json:"after"` // since its request was answered
	Type  string   `json:"type"`  // email.delivered
	outcome
}

// outcome is what an event tells beside its type.
type outcome struct {
	To         []string           `json:"to,omitempty"` // whom it is about; empty: all in the mail's to
	Bounce     *bounce            `json:"bounce,omitempty"`
	Failed     *failed            `json:"failed,omitempty"`
	Suppressed *suppressedOutcome `json:"suppressed,omitempty"`
}

// These three are spelt as Resend spells them.
type (
	bounce struct {
		Type           string   `json:"type"`
		SubType        string   `json:"subType"`
		Message        string   `json:"message"`
		DiagnosticCode []string `json:"diagnosticCode"`
	}
	failed struct {
		Reason string `json:"reason"`
	}
	suppressedOutcome struct {
		Type           string   `json:"type"`
		Reason         string   `json:"reason"` // previous_bounce or previous_complaint
		Message        string   `json:"message"`
		DiagnosticCode []string `json:"diagnosticCode"`
	}
)

// check completes a step of a script, or says what is wrong with it.
func (st *step) check() error {
	switch {
	case st.After < 0:
		return errors.New("after: must not be negative")
	case !strings.HasPrefix(st.Type, "email."):
		return fmt.Errorf("type %q: want one like email.delivered", st.Type)
	case st.Type == "email.bounced" && st.Bounce == nil:
		st.Bounce = bounced("Permanent", "General", "smtp; 550 5.1.1 user unknown")
	case st.Type == "email.failed" && st.Failed == nil:
		st.Failed = &failed{Reason: "reached_daily_quota"}
	case st.Type == "email.suppressed" && st.Suppressed == nil:
		st.Suppressed = suppressedBy("bounce")
	}
	return nil
}

// duration is a time.Duration that JSON spells "50ms".
type duration time.Duration

// MarshalJSON writes a duration as a string.
func (d duration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

// UnmarshalJSON reads a duration from a string.
func (d *duration) UnmarshalJSON(data []byte) error {
	var s string
	if err := json.Unmarshal(data, &s); err != nil {
		return errors.New(`want a duration like "50ms"`)
	}
	v, err := time.ParseDuration(s)
	if err != nil {
		return fmt.Errorf(`%q: want a duration like "50ms"`, s)
	}
	*d = duration(v)
	return nil
}

func bounced(kind, subType, diagnostic string) *bounce {
	return &bounce{Type: kind, SubType: subType, Message: "The recipient's mail server answered: " + diagnostic, DiagnosticCode: []string{diagnostic}}
}

// suppressedBy is the outcome for an address that is on the suppression list.
func suppressedBy(origin string) *suppressedOutcome {
	reason := "previous_bounce"
	if origin == "complaint" {
		reason = "previous_complaint"
	}
	return &suppressedOutcome{
		Type: "OnAccountSuppressionList", Reason: reason,
		Message:        "Resend has suppressed sending to this address because it is on the account-level suppression list.",
		DiagnosticCode: []string{},
	}
}

// fateOf is what happens to a mail to an address, with gap between one event
// and the next. Only the addresses for tests have a fate of their own; any
// other mail is delivered.
func fateOf(address string, gap time.Duration) []step {
	at := func(gaps int, kind string, o outcome) step {
		return step{After: duration(time.Duration(gaps) * gap), Type: kind, outcome: o}
	}
	sent, delivered := at(1, "email.sent", outcome{}), at(2, "email.delivered", outcome{})
	bounces := func(gaps int, b *bounce) step { return at(gaps, "email.bounced", outcome{Bounce: b}) }

	name, domain, _ := strings.Cut(address, "@")
	name, _, _ = strings.Cut(name, "+")
	if domain != "resend.dev" && domain != "fake.test" {
		name = ""
	}
	switch name {
	case "hard", "bounced":
		return []step{sent, bounces(2, bounced("Permanent", "NoEmail", "smtp; 550 5.1.1 user unknown"))}
	case "softfull":
		return []step{sent, bounces(2, bounced("Transient", "MailboxFull", "smtp; 452 4.2.2 mailbox full"))}
	case "ooo":
		return []step{sent, delivered, bounces(3, bounced("Transient", "General", "smtp; 550 out of office"))}
	case "toolarge":
		return []step{sent, bounces(2, bounced("Transient", "MessageTooLarge", "smtp; 552 5.3.4 message too large"))}
	case "content":
		return []step{sent, bounces(2, bounced("Transient", "ContentRejected", "smtp; 554 5.7.1 content rejected"))}
	case "undetermined":
		return []step{sent, bounces(2, bounced("Undetermined", "Undetermined", "smtp; 421 no reason given"))}
	case "delayed":
		return []step{sent, at(2, "email.delivery_delayed", outcome{}), at(lateGaps, "email.delivered", outcome{})}
	case "failed":
		return []step{at(1, "email.failed", outcome{Failed: &failed{Reason: "reached_daily_quota"}})}
	case "late-bounce":
		return []step{sent, delivered, bounces(lateGaps, bounced("Permanent", "General", "smtp; 550 5.1.1 user unknown"))}
	case "complained":
		return []step{sent, delivered, at(3, "email.complained", outcome{})}
	case "suppressed":
		return []step{at(1, "email.suppressed", outcome{Suppressed: suppressedBy("bounce")})}
	case "silent":
		return []step{}
	}
	return []step{sent, delivered}
}

// plan is all that will happen to a mail, in order of time; the caller holds
// mu. A mail to several addresses is sent once and then has the fate of each.
func (s *server) plan(e *email) []step {
	var all []step
	sent := false
	recipients := e.recipients()
	for _, address := range recipients {
		for _, st := range s.fate(address) {
			switch {
			case len(recipients) == 1:
			case st.Type != "email.sent":
				st.To = []string{address}
			case sent:
				continue
			}
			sent = sent || st.Type == "email.sent"
			all = append(all, st)
		}
	}
	slices.SortStableFunc(all, func(a, b step) int { return cmp.Compare(a.After, b.After) })
	return all
}

// fate is what will happen to a mail to a bare address that is accepted now;
// the caller holds mu.
func (s *server) fate(address string) []step {
	gap := time.Duration(s.config.EventGapMS * float64(time.Millisecond))
	if by := s.suppressed[address]; by != nil {
		return []step{{After: duration(gap), Type: "email.suppressed", outcome: outcome{Suppressed: suppressedBy(by.Origin)}}}
	}
	if script, ok := s.scripts[address]; ok {
		return script
	}
	return fateOf(address, gap)
}
