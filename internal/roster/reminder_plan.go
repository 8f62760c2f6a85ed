package roster

import (
	"encoding/json"
	"hash/fnv"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

const (
	// leastLeft is how long before the end a reminder leaves at the latest: who
	// reads it has to be able to do something.
	leastLeft = time.Hour

	// leastApart is the least time between two reminders of one thing, and to one
	// mailbox: not two on a day, and one early and one late on two days are fine.
	leastApart = 20 * time.Hour

	// mostJitter spreads what was put off until the window opens, so that its
	// first minute is no spike.
	mostJitter = time.Hour

	// farthest bounds the days that are looked at for an open window: more than
	// any holidays last.
	farthest = 60
)

// Days are calendar days, as "2026-12-25,2027-01-01": sorted, each once. In JSON
// they are a list.
type Days string

// MarshalJSON writes the list.
func (d Days) MarshalJSON() ([]byte, error) { return json.Marshal(d.List()) }

// UnmarshalJSON reads the list. Whether each is a day is for Policy.check to say.
func (d *Days) UnmarshalJSON(data []byte) error {
	var list []string
	if err := json.Unmarshal(data, &list); err != nil {
		return err
	}
	slices.Sort(list)
	*d = Days(strings.Join(slices.Compact(list), ","))
	return nil
}

// List are the days, one by one.
func (d Days) List() []string {
	if d == "" {
		return []string{}
	}
	return strings.Split(string(d), ",")
}

func (d Days) has(day string) bool { return day != "" && strings.Contains(string(d), day) }

// Reminded is a thing that people are reminded of, as far as the plan of its
// reminders goes.
type Reminded struct {
	ID   uuid.UUID      // spreads what falls on one minute
	From time.Time      // when it was mailed
	Till time.Time      // when its time is over
	Zone *time.Location // of the person
}

// Plan is when a person is reminded of a thing by itself, at most Max times: some
// days after the mail, some hours before the end, and in even steps between the
// two. Each time lies in a window that is open then; the last one in the last
// window that opens before the end. What finds no place is left out.
func (s ReminderSettings) Plan(r Reminded) (plan []time.Time) {
	latest := r.Till.Add(-leastLeft)
	if s.Max <= 0 || !latest.After(r.From) {
		return nil
	}
	first := tick(r.From.In(r.Zone).AddDate(0, 0, s.FirstAfterDays))
	want := tick(r.Till.Add(-time.Duration(s.LastBeforeHours) * time.Hour))
	last, ok := s.open(want, r)
	if !ok || last.After(latest) {
		last, ok = s.lastOpen(want, r)
	}
	if ok = ok && !last.Before(r.From.Add(leastApart)); s.Max == 1 || !ok && !first.Before(want) {
		if once, open := s.open(first, r); open && !once.After(latest) {
			return []time.Time{once}
		}
		if ok {
			return []time.Time{last}
		}
		return nil
	}
	if !first.Before(want) {
		return []time.Time{last}
	}
	step := want.Sub(first) / time.Duration(s.Max-1)
	for n := range s.Max - 1 {
		at, open := s.open(tick(first.Add(time.Duration(n)*step)), r)
		switch {
		case !open || at.After(latest) || ok && at.Add(leastApart).After(last):
		case len(plan) > 0 && plan[len(plan)-1].Add(leastApart).After(at):
		default:
			plan = append(plan, at)
		}
	}
	if ok {
		plan = append(plan, last)
	}
	return plan
}

// tick is the first whole minute from t on: the clock looks no more often, and a
// window may close in between.
func tick(t time.Time) time.Time { return t.Add(time.Minute - 1).Truncate(time.Minute) }

// open is the first moment from t on at which a window is open; what is put off
// until one opens is spread over its first hour. ok is false where none opens
// for months.
func (s ReminderSettings) open(t time.Time, r Reminded) (at time.Time, ok bool) {
	day := t.In(r.Zone)
	for range farthest {
		opens, closes := s.window(day, r.Zone)
		if opens.Before(closes) && t.Before(closes) && s.works(day) {
			if !t.Before(opens) {
				return t.UTC(), true
			}
			return opens.Add(jitter(r.ID, closes.Sub(opens))).UTC(), true
		}
		day = time.Date(day.Year(), day.Month(), day.Day()+1, 12, 0, 0, 0, r.Zone)
	}
	return time.Time{}, false
}

// lastOpen is a moment within the last hour of the last window before t.
func (s ReminderSettings) lastOpen(t time.Time, r Reminded) (at time.Time, ok bool) {
	day := t.In(r.Zone)
	for range farthest {
		opens, closes := s.window(day, r.Zone)
		if s.works(day) && opens.Before(closes) && opens.Before(t) {
			if t.Before(closes) {
				closes = t
			}
			return closes.Add(-time.Minute - jitter(r.ID, closes.Sub(opens)-time.Minute)).UTC(), true
		}
		day = time.Date(day.Year(), day.Month(), day.Day()-1, 12, 0, 0, 0, r.Zone)
	}
	return time.Time{}, false
}

// works tells whether people are reminded on a day at all.
func (s ReminderSettings) works(day time.Time) bool {
	weekday := day.Weekday()
	return (s.Weekends || weekday != time.Saturday && weekday != time.Sunday) && !s.Holidays.has(day.Format(time.DateOnly))
}

// window is when the window of a day opens and closes.
func (s ReminderSettings) window(day time.Time, zone *time.Location) (opens, closes time.Time) {
	return wallTime(day, s.WindowFrom, zone), wallTime(day, s.WindowTo, zone)
}

// wallTime is when clocks in a zone show "15:04" on a day: the first time where
// they do twice, and the next minute there is where they skip it.
func wallTime(day time.Time, clock string, zone *time.Location) time.Time {
	hour, minute := int(clock[0]-'0')*10+int(clock[1]-'0'), int(clock[3]-'0')*10+int(clock[4]-'0')
	t := time.Date(day.Year(), day.Month(), day.Day(), hour, minute, 0, 0, zone)
	began, ends := t.ZoneBounds()
	if far := 48 * time.Hour; t.Sub(began) > far && (ends.IsZero() || ends.Sub(t) > far) {
		return t // no clock is changed around that day
	}
	wanted := time.Date(day.Year(), day.Month(), day.Day(), hour, minute, 0, 0, time.UTC)
	switch shown := time.Date(t.Year(), t.Month(), t.Day(), t.Hour(), t.Minute(), 0, 0, time.UTC); {
	case shown.After(wanted): // skipped: time.Date gives one on either side
		return began
	case shown.Before(wanted):
		return ends
	}
	if began.IsZero() {
		return t
	}
	_, offset := t.Zone()
	_, before := began.Add(-time.Second).Zone()
	if twice := t.Add(time.Duration(offset-before) * time.Second); before > offset && twice.Before(began) {
		return twice
	}
	return t
}

// jitter is a thing's own share of the first hour of a window, or of half of a
// short one; none for what has no id.
func jitter(id uuid.UUID, window time.Duration) time.Duration {
	if id == uuid.Nil {
		return 0
	}
	h := fnv.New32a()
	_, _ = h.Write(id[:])
	minutes := int(min(mostJitter, window/2) / time.Minute)
	if minutes <= 0 {
		return 0
	}
	return time.Duration(int(h.Sum32()%uint32(minutes))) * time.Minute
}

// Why a planned reminder was not sent.
const (
	SkippedLate   = "too_late" // no window opens before the end
	SkippedMissed = "missed"   // a later one was due as well when the work could be done
	SkippedClose  = "too_close"
)

// due is what is to be done now about a thing whose plan has come to the nth
// time: remind of it or not, and when to look again.
type due struct {
	remind  bool
	done    int       // how many times of the plan are behind it now
	next    time.Time // when to look again; zero: never
	skipped []string  // why times of the plan were passed over
}

// at decides what is due at a time. done is how many times of the plan are behind
// it already.
func (s ReminderSettings) at(r Reminded, done int, now time.Time) (d due) {
	plan := s.Plan(r)
	d.done = min(done, len(plan))
	for d.done < len(plan) && !plan[d.done].After(now) {
		d.done++
	}
	passed := d.done - min(done, len(plan))
	if passed == 0 {
		if d.done < len(plan) {
			d.next = plan[d.done]
		}
		return d
	}
	opens, ok := s.open(now, r)
	if !ok || opens.After(r.Till.Add(-leastLeft)) {
		d.skipped = slices.Repeat([]string{SkippedLate}, passed)
		d.done = len(plan)
		return d
	}
	if opens.After(now) { // the work was late, and it is night by now
		d.done--
		d.skipped = slices.Repeat([]string{SkippedMissed}, passed-1)
		d.next = opens
		return d
	}
	d.remind = true
	d.skipped = slices.Repeat([]string{SkippedMissed}, passed-1)
	d.done, d.next, d.skipped = s.after(plan, d.done, now, d.skipped)
	return d
}

// after is the next time of a plan that is far enough from a reminder of now.
func (s ReminderSettings) after(plan []time.Time, done int, now time.Time, skipped []string) (int, time.Time, []string) {
	for ; done < len(plan); done++ {
		if !plan[done].Before(now.Add(leastApart)) {
			return done, plan[done], skipped
		}
		skipped = append(skipped, SkippedClose)
	}
	return done, time.Time{}, skipped
}
