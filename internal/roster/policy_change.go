package roster

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/agnivade/levenshtein"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"usher/internal/postgres"
)

// EventPolicyChanged is the Event of an app, its subject, whose policy was
// changed: its data names the version, and of each setting the value before and
// after.
const EventPolicyChanged = "policy.changed"

// The bounds of a Policy's numbers.
const (
	maxInvitationDays = 365          // a link that works for longer is a key somebody forgot
	minResendMinutes  = 5            // less, and a double click is two mails
	maxResendMinutes  = 30 * 24 * 60 // as long as most invitations live
	mostResends       = 20           // whoever does not react to twenty mails calls the next one spam
	mostReopens       = 5            // with corrections of the address, they share the ten versions of a link
	mostReminders     = 5            // likewise
	maxReminderDays   = 90           // a quarter after the invitation nobody remembers it
	maxReminderHours  = 30 * 24      // before the expiry, likewise
	maxHolidays       = 200          // those of some years and regions
	maxRequestDays    = 90           // who did not decide in a quarter will not
	maxCoolOffDays    = 365          // a year is a long no
	maxMergeUndoDays  = 90           // both accounts' rows are kept for as long
	maxArchiveDays    = 730          // two years are as good as never
	maxPageURL        = 500          // bytes; the token comes on top, and mail programs break long links
)

// AppPolicy is the policy that holds for an app, and where it comes from.
type AppPolicy struct {
	Policy
	Version   int        // how often it was changed
	Own       []string   // the settings that the app made, in order: "reminders.max"
	ChangedAt *time.Time // nil: never
}

// PolicyChange is what is to be different.
type PolicyChange struct {
	// Settings are values by their names: those of Policy's fields in JSON,
	// with "reminders" an object of its own. A null is the default again. What
	// is not named stays.
	Settings map[string]json.RawMessage

	IfVersion *int // refuse if the policy has another version by now; nil: never refuse
	Plain     bool // accept_url may lead to this machine by http, which developers need
}

// AppPolicy reads the policy of an app.
func (r *Roster) AppPolicy(ctx context.Context, app uuid.UUID) (p AppPolicy, err error) {
	err = postgres.InTx(ctx, r.DB, func(tx pgx.Tx) error {
		p, _, err = readPolicy(ctx, tx, app, "")
		return err
	})
	return p, err
}

// ChangePolicy changes settings of an app's policy and answers the whole.
// Settings of a version that changes nothing are no new version.
func (r *Roster) ChangePolicy(ctx context.Context, app uuid.UUID, change PolicyChange, key IdempotencyKey) (AppPolicy, error) {
	return once(ctx, r, app, key, func(tx pgx.Tx) (AppPolicy, error) {
		now := r.now()
		if _, err := tx.Exec(ctx, `
			INSERT INTO policy (app_id, version, settings, updated_at) VALUES ($1, 0, '{}', $2)
			ON CONFLICT (app_id) DO NOTHING`, app, now); err != nil {
			return AppPolicy{}, fmt.Errorf("begin policy of app %s: %w", app, err)
		}
		p, own, err := readPolicy(ctx, tx, app, "FOR UPDATE")
		if err != nil {
			return p, err
		}
		if change.IfVersion != nil && *change.IfVersion != p.Version {
			return p, errorf(Conflict, "policy_changed", "The policy has version %d by now. Read it, and send your change with that version.", p.Version)
		}
		before := p.Policy
		if p.Policy, own, err = change.apply(own); err != nil {
			return p, err
		}
		settings := nest(own)
		tag, err := tx.Exec(ctx, `
			UPDATE policy SET version = version + 1, settings = $2, updated_at = $3
			WHERE app_id = $1 AND settings <> $2::jsonb`, app, settings, now)
		if err != nil {
			return p, fmt.Errorf("change policy of app %s: %w", app, err)
		}
		if tag.RowsAffected() == 0 {
			return p, nil
		}
		p.Version, p.ChangedAt, p.Own = p.Version+1, &now, slices.Sorted(maps.Keys(own))
		data, err := json.Marshal(map[string]any{"version": p.Version, "changed": differences(before, p.Policy)})
		if err != nil {
			return p, fmt.Errorf("tell change of policy of app %s: %w", app, err)
		}
		_, err = recordEvents(ctx, tx, now, newEvent{app, EventPolicyChanged, app, uuid.Nil, data})
		return p, err
	})
}

// readPolicy reads an app's policy and its own settings by their whole names;
// lock is a locking clause or empty.
func readPolicy(ctx context.Context, tx pgx.Tx, app uuid.UUID, lock string) (p AppPolicy, own map[string]json.RawMessage, err error) {
	p.Policy = DefaultPolicy()
	var settings []byte
	var at time.Time
	err = tx.QueryRow(ctx, `SELECT version, settings, updated_at FROM policy WHERE app_id = $1 `+lock, app).Scan(&p.Version, &settings, &at)
	if errors.Is(err, pgx.ErrNoRows) {
		return p, nil, nil
	}
	if err == nil {
		err = json.Unmarshal(settings, &p.Policy)
	}
	if err == nil {
		own, err = flatten(settings)
	}
	if err != nil {
		return p, nil, fmt.Errorf("read policy of app %s: %w", app, err)
	}
	if p.Version > 0 {
		p.ChangedAt, p.Own = &at, slices.Sorted(maps.Keys(own))
	}
	return p, own, nil
}

// apply lays the change over an app's own settings and checks the outcome.
func (c PolicyChange) apply(own map[string]json.RawMessage) (p Policy, changed map[string]json.RawMessage, err error) {
	known := flat(DefaultPolicy())
	changed = maps.Clone(own)
	if changed == nil {
		changed = map[string]json.RawMessage{}
	}
	given, err := spread(c.Settings)
	if err != nil {
		return p, nil, err
	}
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if known[name] == nil {
			return p, nil, invalidField(name, "setting_unknown", "There is no setting %q; perhaps %q is meant.", name, nearest(name, slices.Sorted(maps.Keys(known))))
		}
		if bytes.Equal(given[name], []byte("null")) {
			delete(changed, name)
			continue
		}
		changed[name] = given[name]
	}
	p = DefaultPolicy()
	for name, value := range changed { // one by one, to say which does not fit
		if err := json.Unmarshal(nest(map[string]json.RawMessage{name: value}), &p); err != nil {
			return p, nil, invalidField(name, "setting_invalid", "The setting %s cannot be %s; it is something like %s.", name, value, known[name])
		}
	}
	return p, changed, p.check(c.Plain)
}

// check says which setting is out of its bounds, and why there are any.
func (p Policy) check(plain bool) error {
	invalid := func(name, format string, args ...any) error {
		return invalidField(name, "setting_invalid", format, args...)
	}
	r := p.Reminders
	for _, number := range []struct {
		name             string
		value, min, most int
		why              string
	}{
		{"invitation_days", p.InvitationDays, 1, maxInvitationDays, "a link that works for longer is a key somebody forgot"},
		{"resend_minutes", p.ResendMinutes, minResendMinutes, maxResendMinutes, "mails in quick succession are a nuisance"},
		{"max_resends", p.MaxResends, 0, mostResends, "whoever does not react to many mails calls the next one spam"},
		{"max_reopens", p.MaxReopens, 0, mostReopens, "each reopening takes one of the ten versions a link can have"},
		{"request_days", p.RequestDays, 1, maxRequestDays, "who has not decided within some months will not"},
		{"request_cool_off_days", p.RequestCoolOffDays, 1, maxCoolOffDays, "a person who said no is not asked again at once"},
		{"merge_undo_days", p.MergeUndoDays, 1, maxMergeUndoDays, "what is needed to undo a merge is kept that long"},
		{"archive_temporary_days", p.ArchiveTemporary, 0, maxArchiveDays, "0 keeps them for good"},
		{"archive_unclaimed_days", p.ArchiveUnclaimed, 0, maxArchiveDays, "0 keeps them for good"},
		{"reminders.max", r.Max, 0, mostReminders, "whoever does not react to many mails calls the next one spam"},
		{"reminders.first_after_days", r.FirstAfterDays, 1, maxReminderDays, "people need a day to react, and forget after some months"},
		{"reminders.last_before_hours", r.LastBeforeHours, 1, maxReminderHours, "people need an hour to react, and forget after some weeks"},
	} {
		if number.value < number.min || number.value > number.most {
			return invalid(number.name, "The setting %s is from %d to %d: %s.", number.name, number.min, number.most, number.why)
		}
	}
	for _, choice := range []struct {
		name, value string
		among       []string
	}{
		{"duplicate", string(p.Duplicate), []string{string(DuplicateReturn), string(DuplicateResend)}},
		{"orphaned_inviter", string(p.OrphanedInviter), []string{string(OrphanHold), string(OrphanTransfer), string(OrphanRevoke)}},
		{"merge_mode", string(p.MergeMode), []string{string(MergeOnCommand), string(MergeAutomatic)}},
	} {
		if !slices.Contains(choice.among, choice.value) {
			return invalid(choice.name, "The setting %s is one of %s; perhaps %q is meant.", choice.name, strings.Join(choice.among, ", "), nearest(choice.value, choice.among))
		}
	}
	for _, at := range []struct{ name, value string }{{"reminders.window_from", r.WindowFrom}, {"reminders.window_to", r.WindowTo}} {
		if _, err := time.Parse("15:04", at.value); err != nil || len(at.value) != len("15:04") {
			return invalid(at.name, "The setting %s is a time of day from 00:00 to 23:59, like 08:00.", at.name)
		}
	}
	if days := r.Holidays.List(); len(days) > maxHolidays {
		return invalid("reminders.holidays", "There are at most %d holidays: leave out those that have been.", maxHolidays)
	}
	for _, day := range r.Holidays.List() {
		if _, err := time.Parse(time.DateOnly, day); err != nil {
			return invalid("reminders.holidays", "A holiday is a day like 2026-12-25, not %q.", day)
		}
	}
	if r.WindowFrom >= r.WindowTo {
		return invalid("reminders.window_to", "The window for reminders ends after it begins, on the same day: set reminders.window_from to less than %s, or reminders.window_to to more than %s.", r.WindowTo, r.WindowFrom)
	}
	if err := checkPageURL("accept_url", p.AcceptURL, plain); err != nil {
		return err
	}
	return checkPageURL("request_url", p.RequestURL, plain)
}

// checkPageURL sees that links lead to a page nobody can listen in on.
func checkPageURL(name, address string, plain bool) error {
	if address == "" {
		return nil
	}
	invalid := func(format string, args ...any) error {
		return invalidField(name, "setting_invalid", strings.ReplaceAll(format, "accept_url", name), args...)
	}
	if len(address) > maxPageURL {
		return invalid("An accept_url has at most %d bytes: mail programs break long links.", maxPageURL)
	}
	u, err := url.Parse(address)
	switch {
	case err != nil || u.Hostname() == "" || u.Opaque != "" || strings.ContainsFunc(address, unprintable) || strings.Contains(address, " "):
		return invalid("An accept_url is the whole address of a page, like https://app.example.org/invitations.")
	case u.User != nil:
		return invalid("An accept_url has no user name or password: everybody who is invited would read it.")
	case u.Fragment != "" || strings.HasSuffix(address, "#"):
		return invalid("An accept_url has no part after #: the server of the page would not see the token.")
	case u.Query().Has("token"):
		return invalid("An accept_url has no parameter named token: that is where the invitation's token goes.")
	case u.Scheme == "https":
		return nil
	case u.Scheme == "http" && plain && loopback(u.Hostname()):
		return nil
	}
	return invalid("An accept_url begins with https://: who reads the link on its way can accept the invitation.")
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || ip != nil && ip.IsLoopback()
}

// group is the one setting that consists of others.
const group = "reminders"

// spread gives the members of a group their whole names. A group that is null
// is all of its settings at once.
func spread(settings map[string]json.RawMessage) (map[string]json.RawMessage, error) {
	whole := map[string]json.RawMessage{}
	for name, value := range settings {
		value = bytes.TrimSpace(value)
		if name != group {
			whole[name] = value
			continue
		}
		var members map[string]json.RawMessage
		if err := json.Unmarshal(value, &members); err != nil {
			return nil, invalidField(group, "setting_invalid", "The setting %s is an object of settings.", group)
		}
		if members == nil {
			for known := range flat(DefaultPolicy()) {
				if strings.HasPrefix(known, group+".") {
					whole[known] = value
				}
			}
		}
		for member, value := range members {
			whole[group+"."+member] = bytes.TrimSpace(value)
		}
	}
	return whole, nil
}

// nest is the JSON of settings with whole names, as Policy reads it.
func nest(whole map[string]json.RawMessage) []byte {
	nested, members := map[string]any{}, map[string]json.RawMessage{}
	for name, value := range whole {
		if member, ok := strings.CutPrefix(name, group+"."); ok {
			members[member] = value
			nested[group] = members
			continue
		}
		nested[name] = value
	}
	encoded, err := json.Marshal(nested)
	if err != nil {
		panic(err) // every value was read as JSON
	}
	return encoded
}

// flatten is the way back from nest.
func flatten(nested []byte) (map[string]json.RawMessage, error) {
	var settings map[string]json.RawMessage
	if err := json.Unmarshal(nested, &settings); err != nil {
		return nil, err
	}
	return spread(settings)
}

// flat are all settings of a policy by their whole names.
func flat(p Policy) map[string]json.RawMessage {
	encoded, err := json.Marshal(p)
	if err != nil {
		panic(err) // plain data: it always marshals
	}
	settings, err := flatten(encoded)
	if err != nil {
		panic(err) // it was just written
	}
	return settings
}

// difference is a setting's value before and after.
type difference struct {
	From json.RawMessage `json:"from"`
	To   json.RawMessage `json:"to"`
}

// differences are the settings that two policies do not share.
func differences(before, after Policy) map[string]difference {
	was, is := flat(before), flat(after)
	changed := map[string]difference{}
	for name := range is {
		if !bytes.Equal(was[name], is[name]) {
			changed[name] = difference{was[name], is[name]}
		}
	}
	return changed
}

// nearest is the candidate with the fewest letters changed.
func nearest(name string, candidates []string) string {
	return slices.MinFunc(candidates, func(x, y string) int {
		return cmp.Compare(levenshtein.ComputeDistance(name, x), levenshtein.ComputeDistance(name, y))
	})
}
