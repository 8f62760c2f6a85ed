package roster_test

import (
	"strings"
	"testing"

	"usher/internal/roster"
	"usher/internal/roster/rostertest"
)

func TestParseCron(t *testing.T) {
	t.Parallel()
	for _, bad := range []string{
		"", "* * * *", "* * * * * *", "61 * * * *", "* * * * funday", "@sometimes",
		"TZ=UTC * * * * *", "CRON_TZ=Europe/Madrid 0 8 * * *", " TZ=UTC * * * * *",
	} {
		if _, err := roster.ParseCron(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
	if _, err := roster.ParseCron("TZ=UTC 0 8 * * *"); err == nil || !strings.Contains(err.Error(), "UTC") {
		t.Errorf("a zone is refused with %v, which does not say why", err)
	}
}

func TestNoSuchSweep(t *testing.T) {
	t.Parallel()
	b := rostertest.Begin(t)
	_, err := roster.SweepSchedule("no_such")
	refused(t, err, roster.NotFound, "sweep_not_found")
	_, err = b.SweepRuns(t.Context(), "no_such", 5)
	refused(t, err, roster.NotFound, "sweep_not_found")
	_, _, err = b.RunSweep(t.Context(), "no_such", 0, b.Clock.Now())
	refused(t, err, roster.NotFound, "sweep_not_found")
	refused(t, b.StartSweep(t.Context(), "no_such"), roster.NotFound, "sweep_not_found")
	refused(t, b.PauseSweep(t.Context(), "no_such", nil), roster.NotFound, "sweep_not_found")
}
