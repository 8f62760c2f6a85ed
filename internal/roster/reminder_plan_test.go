package roster

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
)

// still is an id without jitter.
var still = func() uuid.UUID {
	for n := byte(0); ; n++ {
		if id := (uuid.UUID{15: n}); jitter(id, 24*time.Hour) == 0 {
			return id
		}
	}
}()

// reminders are the default settings as change makes them.
func reminders(change func(*ReminderSettings)) ReminderSettings {
	s := DefaultPolicy().Reminders
	if change != nil {
		change(&s)
	}
	return s
}

type planCase struct {
	name       string
	zone       string
	from, till string // "2026-01-05 10:00", in the zone
	change     func(*ReminderSettings)
	want       string // "01-08 10:00, …", in the zone, or with a Z in UTC
}

// sameEverywhere are cases in which clocks are left alone, which come out alike
// in each zone. The fifth of January 2026 is a Monday.
var sameEverywhere = []planCase{
	{name: "two weeks", from: "2026-01-05 10:00", till: "2026-01-19 10:00", want: "01-08 10:00, 01-19 08:00"},
	{name: "mailed at night", from: "2026-01-09 22:00", till: "2026-01-23 22:00", want: "01-13 08:00, 01-23 08:00"},
	{name: "the third day is a Saturday", from: "2026-01-07 12:00", till: "2026-01-21 12:00", want: "01-12 08:00, 01-20 12:00"},
	{name: "the window opens after the end", from: "2026-01-05 07:00", till: "2026-01-19 07:00", want: "01-08 08:00, 01-16 17:59"},
	{name: "a day", from: "2026-01-05 10:00", till: "2026-01-06 10:00", want: ""},
	{name: "two days", from: "2026-01-05 10:00", till: "2026-01-07 10:00", want: "01-06 10:00"},
}

var zonesOfPlans = []string{
	"UTC", "Europe/Madrid", "America/New_York", "America/Sao_Paulo", "Asia/Kolkata", "Asia/Kathmandu",
	"Pacific/Auckland", "Pacific/Chatham", "Pacific/Honolulu", "Australia/Lord_Howe", "Pacific/Kiritimati",
}

var planCases = []planCase{
	{"none wanted", "UTC", "2026-01-05 10:00", "2026-01-19 10:00", func(s *ReminderSettings) { s.Max = 0 }, ""},
	{"one", "UTC", "2026-01-05 10:00", "2026-01-19 10:00", func(s *ReminderSettings) { s.Max = 1 }, "01-08 10:00"},
	{"one, of a short life", "UTC", "2026-01-05 10:00", "2026-01-07 10:00", func(s *ReminderSettings) { s.Max = 1 }, "01-06 10:00"},
	{"one, and no time", "UTC", "2026-01-05 10:00", "2026-01-05 20:00", func(s *ReminderSettings) { s.Max = 1 }, ""},
	{"three", "UTC", "2026-01-05 10:00", "2026-01-19 10:00", func(s *ReminderSettings) { s.Max = 3 }, "01-08 10:00, 01-13 10:00, 01-19 08:00"},
	{"four", "UTC", "2026-01-05 10:00", "2026-01-20 10:00", func(s *ReminderSettings) { s.Max = 4 }, "01-08 10:00, 01-12 08:00, 01-16 08:00, 01-19 10:00"},
	{"five in a week", "UTC", "2026-01-05 10:00", "2026-01-12 10:00", func(s *ReminderSettings) { s.Max = 5 }, "01-08 10:00, 01-09 08:00, 01-12 08:00"},
	{"weekends count", "UTC", "2026-01-05 10:00", "2026-01-19 10:00", func(s *ReminderSettings) { s.Weekends = true }, "01-08 10:00, 01-18 10:00"},
	{"weekends count, at night", "UTC", "2026-01-07 23:00", "2026-01-17 23:00", func(s *ReminderSettings) { s.Weekends = true }, "01-11 08:00, 01-17 08:00"},
	{"a holiday", "UTC", "2026-01-05 10:00", "2026-01-19 10:00", func(s *ReminderSettings) { s.Holidays = "2026-01-08" }, "01-09 08:00, 01-19 08:00"},
	{"a long weekend", "UTC", "2026-01-05 10:00", "2026-01-19 10:00", func(s *ReminderSettings) { s.Holidays = "2026-01-08,2026-01-09" }, "01-12 08:00, 01-19 08:00"},
	{"the last day is a holiday", "UTC", "2026-01-05 10:00", "2026-01-19 10:00", func(s *ReminderSettings) { s.Holidays = "2026-01-19" }, "01-08 10:00, 01-16 17:59"},
	{"the last days are holidays", "UTC", "2026-01-05 10:00", "2026-01-19 10:00", func(s *ReminderSettings) { s.Holidays = "2026-01-15,2026-01-16,2026-01-19" }, "01-08 10:00, 01-14 17:59"},
	{"nothing but holidays", "UTC", "2026-01-05 10:00", "2026-01-09 10:00", func(s *ReminderSettings) { s.Holidays = "2026-01-06,2026-01-07,2026-01-08,2026-01-09" }, ""},
	{"a holiday of another year", "UTC", "2026-01-05 10:00", "2026-01-19 10:00", func(s *ReminderSettings) { s.Holidays = "2025-01-08" }, "01-08 10:00, 01-19 08:00"},
	{"the first after the end", "UTC", "2026-01-05 10:00", "2026-01-19 10:00", func(s *ReminderSettings) { s.FirstAfterDays = 30 }, "01-19 08:00"},
	{"the first a day before the last", "UTC", "2026-01-05 10:00", "2026-01-16 10:00", func(s *ReminderSettings) { s.FirstAfterDays = 9 }, "01-14 10:00, 01-15 10:00"},
	{"the first at the last", "UTC", "2026-01-05 10:00", "2026-01-16 10:00", func(s *ReminderSettings) { s.FirstAfterDays = 10 }, "01-15 10:00"},
	{"long before the end", "UTC", "2026-01-05 10:00", "2026-01-19 10:00", func(s *ReminderSettings) { s.LastBeforeHours = 120 }, "01-08 10:00, 01-14 10:00"},
	{"an hour before the end", "UTC", "2026-01-05 10:00", "2026-01-19 10:00", func(s *ReminderSettings) { s.LastBeforeHours = 1 }, "01-08 10:00, 01-19 09:00"},
	{"an hour before an end at night", "UTC", "2026-01-05 22:00", "2026-01-19 22:00", func(s *ReminderSettings) { s.LastBeforeHours = 1 }, "01-09 08:00, 01-19 17:59"},
	{"an hour before the end, as the window opens", "UTC", "2026-01-05 09:00", "2026-01-19 09:00", func(s *ReminderSettings) { s.LastBeforeHours = 1 }, "01-08 09:00, 01-19 08:00"},
	{"a narrow window", "UTC", "2026-01-05 10:00", "2026-01-19 10:00", func(s *ReminderSettings) { s.WindowFrom, s.WindowTo = "09:00", "09:30" }, "01-09 09:00, 01-19 09:00"},
	{"a window of a minute", "UTC", "2026-01-05 10:00", "2026-01-19 10:00", func(s *ReminderSettings) { s.WindowFrom, s.WindowTo = "12:00", "12:01" }, "01-08 12:00, 01-16 12:00"},
	{"all day", "UTC", "2026-01-05 23:30", "2026-01-20 23:30", func(s *ReminderSettings) { s.WindowFrom, s.WindowTo = "00:00", "23:59" }, "01-08 23:30, 01-19 23:30"},
	{"the minute a window closes", "UTC", "2026-01-05 18:00", "2026-01-20 18:00", nil, "01-09 08:00, 01-20 08:00"},
	{"the minute before it closes", "UTC", "2026-01-05 17:59", "2026-01-20 17:59", nil, "01-08 17:59, 01-19 17:59"},
	{"the minute it opens", "UTC", "2026-01-05 08:00", "2026-01-20 08:00", nil, "01-08 08:00, 01-19 08:00"},
	{"over before it began", "UTC", "2026-01-19 10:00", "2026-01-05 10:00", nil, ""},
	{"a year", "UTC", "2026-01-05 10:00", "2027-01-05 10:00", nil, "01-08 10:00, 01-04 10:00"},
	// Clocks are set forward on 29 March 2026 in Madrid, from 02:00 to 03:00.
	{"the same time of day in summer", "Europe/Madrid", "2026-03-27 10:00", "2026-04-10 10:00", nil, "03-30 10:00, 04-09 10:00"},
	{"the window opens in a skipped hour", "Europe/Madrid", "2026-03-25 22:00", "2026-04-08 22:00", func(s *ReminderSettings) { s.Weekends, s.WindowFrom, s.WindowTo = true, "02:30", "05:00" }, "03-29 01:00Z, 04-08 00:30Z"},
	{"and closes in it", "Europe/Madrid", "2026-03-25 22:00", "2026-03-29 03:30", func(s *ReminderSettings) { s.Weekends, s.Max, s.WindowFrom, s.WindowTo = true, 1, "00:30", "02:30" }, "03-28 23:30Z"},
	{"the hour after a day that is one short", "Europe/Madrid", "2026-03-26 09:00", "2026-03-30 09:00", func(s *ReminderSettings) { s.Weekends = true }, "03-29 07:00Z"},
	// And back on 25 October, from 03:00 to 02:00.
	{"the window opens in an hour that comes twice", "Europe/Madrid", "2026-10-21 22:00", "2026-11-04 22:00", func(s *ReminderSettings) { s.Weekends, s.WindowFrom, s.WindowTo = true, "02:30", "05:00" }, "10-25 00:30Z, 11-04 01:30Z"},
	{"the same time of day in winter", "Europe/Madrid", "2026-10-22 10:00", "2026-11-05 10:00", func(s *ReminderSettings) { s.Weekends = true }, "10-25 10:00, 11-04 10:00"},
	{"24 hours before the end are another time of day", "Europe/Madrid", "2026-10-12 10:00", "2026-10-26 10:00", func(s *ReminderSettings) { s.Weekends = true }, "10-15 10:00, 10-25 10:00"},
	{"a skipped hour in New York", "America/New_York", "2026-03-04 22:00", "2026-03-18 22:00", func(s *ReminderSettings) { s.Weekends, s.WindowFrom, s.WindowTo = true, "02:15", "05:00" }, "03-08 07:00Z, 03-18 06:15Z"},
	{"an hour that comes twice in New York", "America/New_York", "2026-10-28 22:00", "2026-11-11 22:00", func(s *ReminderSettings) { s.Weekends, s.WindowFrom, s.WindowTo = true, "01:30", "05:00" }, "11-01 05:30Z, 11-11 06:30Z"},
	{"half an hour that comes twice", "Australia/Lord_Howe", "2026-04-01 22:00", "2026-04-15 22:00", func(s *ReminderSettings) { s.Weekends, s.WindowFrom, s.WindowTo = true, "01:45", "05:00" }, "04-04 14:45Z, 04-14 15:15Z"},
	{"half an hour that is skipped", "Australia/Lord_Howe", "2026-09-30 22:00", "2026-10-14 22:00", func(s *ReminderSettings) { s.Weekends, s.WindowFrom, s.WindowTo = true, "02:15", "05:00" }, "10-03 15:30Z, 10-13 15:15Z"},
	{"a day that begins at one", "Africa/Cairo", "2026-04-20 22:00", "2026-05-04 22:00", func(s *ReminderSettings) { s.Weekends, s.WindowFrom, s.WindowTo = true, "00:00", "05:00" }, "04-23 22:00Z, 05-03 21:00Z"},
	{"Friday here, Saturday there", "Pacific/Kiritimati", "2026-01-07 09:00", "2026-01-21 09:00", nil, "01-12 08:00, 01-20 09:00"},
	{"Sunday here, Saturday there", "Pacific/Honolulu", "2026-01-08 10:00", "2026-01-22 10:00", nil, "01-12 08:00, 01-21 10:00"},
}

// written are times as planCase wants them.
func written(times []time.Time, zone *time.Location, want string) string {
	parts := make([]string, len(times))
	for i, t := range times {
		if strings.Contains(want, "Z") {
			parts[i] = t.UTC().Format("01-02 15:04Z")
		} else {
			parts[i] = t.In(zone).Format("01-02 15:04")
		}
	}
	return strings.Join(parts, ", ")
}

func TestReminderPlan(t *testing.T) {
	t.Parallel()
	cases := slices.Clone(planCases)
	for _, c := range sameEverywhere {
		for _, zone := range zonesOfPlans {
			c.zone = zone
			cases = append(cases, c)
		}
	}
	if len(cases) < 80 {
		t.Errorf("%d cases", len(cases))
	}
	for _, c := range cases {
		zone, err := time.LoadLocation(c.zone)
		if err != nil {
			t.Fatal(err)
		}
		at := func(text string) time.Time {
			parsed, err := time.ParseInLocation("2006-01-02 15:04", text, zone)
			if err != nil {
				t.Fatal(err)
			}
			return parsed
		}
		plan := reminders(c.change).Plan(Reminded{ID: still, From: at(c.from), Till: at(c.till), Zone: zone})
		if got := written(plan, zone, c.want); got != c.want {
			t.Errorf("%s in %s: %s, want %s", c.name, c.zone, got, c.want)
		}
	}
}

// Whatever the settings, the zone and the times: no reminder lies outside a
// window, on a day without any, after the end or too close to another, and there
// are never more than wanted.
func TestReminderPlanHolds(t *testing.T) {
	t.Parallel()
	seed := uint64(time.Now().UnixNano())
	random := rand.New(rand.NewPCG(seed, 0))
	names := append(slices.Clone(zonesOfPlans), "Africa/Cairo", "America/Santiago", "Asia/Beirut", "Europe/London", "America/St_Johns")
	planned := 0
	for n := range 20_000 {
		zone, err := time.LoadLocation(names[random.IntN(len(names))])
		if err != nil {
			t.Fatal(err)
		}
		opens := random.IntN(23 * 60)
		closes := opens + 1 + random.IntN(24*60-opens-1)
		s := ReminderSettings{
			Max: random.IntN(6), FirstAfterDays: 1 + random.IntN(20), LastBeforeHours: 1 + random.IntN(200), Weekends: random.IntN(2) == 0,
			WindowFrom: fmt.Sprintf("%02d:%02d", opens/60, opens%60), WindowTo: fmt.Sprintf("%02d:%02d", closes/60, closes%60),
		}
		from := time.Date(2026, 1, 1, 0, random.IntN(366*24*60), random.IntN(60), 0, time.UTC)
		var days []string
		for range random.IntN(5) {
			days = append(days, from.AddDate(0, 0, random.IntN(30)).Format(time.DateOnly))
		}
		slices.Sort(days)
		s.Holidays = Days(strings.Join(slices.Compact(days), ","))
		r := Reminded{ID: uuid.New(), From: from, Till: from.Add(time.Duration(random.IntN(40*24*60*60)) * time.Second), Zone: zone}
		plan := s.Plan(r)
		planned += len(plan)
		fail := func(format string, args ...any) {
			t.Errorf("seed %d, %d: %+v, %+v: %v: %s", seed, n, s, r, plan, fmt.Sprintf(format, args...))
		}
		if len(plan) > s.Max {
			fail("more than wanted")
		}
		for i, at := range plan {
			local := at.In(zone)
			weekday, clock := local.Weekday(), local.Format("15:04")
			switch {
			case !at.Equal(at.Truncate(time.Minute)):
				fail("%s is between two looks of the clock", at)
			case !at.After(r.From) || at.Add(leastLeft).After(r.Till):
				fail("%s is too early or too late", at)
			case !s.Weekends && (weekday == time.Saturday || weekday == time.Sunday), s.Holidays.has(local.Format(time.DateOnly)):
				fail("%s is no day for it", local)
			case i > 0 && at.Sub(plan[i-1]) < leastApart:
				fail("%s is too close", at)
			}
			// On days when clocks are set, a window may begin or end where no clock
			// shows its time.
			opens, closes := s.window(local, zone)
			if (clock < s.WindowFrom || clock >= s.WindowTo) && closes.Sub(opens) == wallLength(s) || at.Before(opens) || !at.Before(closes) {
				fail("%s is outside the window", local)
			}
		}
	}
	if planned < 10_000 {
		t.Errorf("only %d reminders were planned", planned)
	}
}

// wallLength is how long a window is on most days.
func wallLength(s ReminderSettings) time.Duration {
	day := time.Date(2026, 1, 5, 0, 0, 0, 0, time.UTC)
	opens, closes := s.window(day, time.UTC)
	return closes.Sub(opens)
}

// What is due at a time, when all went well and when the work was late.
func TestRemindersDue(t *testing.T) {
	t.Parallel()
	r := Reminded{ID: still, From: time.Date(2026, 1, 5, 10, 0, 0, 0, time.UTC), Till: time.Date(2026, 1, 19, 10, 0, 0, 0, time.UTC), Zone: time.UTC}
	at := func(text string) time.Time {
		parsed, err := time.Parse("2006-01-02 15:04", "2026-"+text)
		if err != nil {
			t.Fatal(err)
		}
		return parsed
	}
	s := reminders(func(s *ReminderSettings) { s.Max = 3 }) // 01-08 10:00, 01-13 10:00, 01-19 08:00
	for _, c := range []struct {
		now     string
		done    int
		remind  bool
		after   int
		next    string
		skipped string
	}{
		{"01-06 10:00", 0, false, 0, "01-08 10:00", ""},
		{"01-08 10:00", 0, true, 1, "01-13 10:00", ""},
		{"01-08 10:00", 1, false, 1, "01-13 10:00", ""},
		{"01-08 19:00", 0, false, 0, "01-09 08:00", ""},                // at night the window is waited for
		{"01-09 08:00", 0, true, 1, "01-13 10:00", ""},                 // and then
		{"01-13 11:00", 0, true, 2, "01-19 08:00", "missed"},           // one for two
		{"01-12 17:00", 0, true, 2, "01-19 08:00", "too_close"},        // the second would come on the next morning
		{"01-19 08:30", 0, true, 3, "", "missed missed"},               // one for three
		{"01-19 09:01", 0, false, 3, "", "too_late too_late too_late"}, // who could still do anything?
		{"01-17 12:00", 1, false, 1, "01-19 08:00", ""},                // a Saturday
		{"01-20 12:00", 2, false, 3, "", "too_late"},                   // it is over
		{"01-25 12:00", 3, false, 3, "", ""},                           // all is done
		{"01-18 12:00", 0, false, 1, "01-19 08:00", "missed"},          // a Sunday, and two are due
		{"01-05 10:00", 7, false, 3, "", ""},                           // there were more once
		{"01-15 12:00", 1, true, 2, "01-19 08:00", ""},                 // two days late
		{"01-16 17:59", 1, true, 2, "01-19 08:00", ""},                 // in the last minute of the window
	} {
		d := s.at(r, c.done, at(c.now))
		next := ""
		if !d.next.IsZero() {
			next = d.next.Format("01-02 15:04")
		}
		if d.remind != c.remind || d.done != c.after || next != c.next || strings.Join(d.skipped, " ") != c.skipped {
			t.Errorf("at %s with %d done: %+v, next %s; want %+v", c.now, c.done, d, next, c)
		}
	}
}
