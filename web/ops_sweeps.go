package web

import (
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"usher/internal/roster"
)

// shownRuns is how many of a sweep's newest runs its page shows.
const shownRuns = 50

// pauses are how long an operator can pause a sweep for, in hours.
var pauses = []int{1, 8, 24, 72}

// GET /ops/sweeps. Who calls: an operator.
func (s *Server) sweepsPage(c *fiber.Ctx) (view, error) {
	states, err := s.Roster.SweepStates(c.UserContext())
	if err != nil {
		return nil, err
	}
	v := opsSweepsView{frame: s.frame(c, Brand{}), Pauses: pauses}
	for _, state := range states {
		v.Sweeps = append(v.Sweeps, newOpsSweep(state))
		if state.Name == c.Query("started") {
			v.Started = state.Name
		}
	}
	return v, nil
}

// GET /ops/sweeps/{name}. Who calls: an operator.
func (s *Server) sweepPage(c *fiber.Ctx) (view, error) {
	runs, err := s.Roster.SweepRuns(c.UserContext(), c.Params("name"), shownRuns)
	if err != nil {
		return nil, err
	}
	v := opsSweepView{frame: s.frame(c, Brand{}), Name: strings.Clone(c.Params("name"))}
	for _, run := range runs {
		v.Runs = append(v.Runs, newOpsRun(run))
	}
	return v, nil
}

// POST /ops/sweeps/{name}/run. Who calls: an operator.
func (s *Server) startSweep(c *fiber.Ctx) error {
	name := strings.Clone(c.Params("name"))
	if err := s.Roster.StartSweep(c.UserContext(), name); err != nil {
		return err
	}
	return c.Redirect("/ops/sweeps?started="+url.QueryEscape(name), fiber.StatusSeeOther)
}

// POST /ops/sweeps/{name}/pause with hours, of which none lets it go on. Who
// calls: an operator.
func (s *Server) pauseSweep(c *fiber.Ctx) error {
	var until *time.Time
	if typed := c.FormValue("hours"); typed != "" {
		hours, err := strconv.Atoi(typed)
		if err != nil || !slices.Contains(pauses, hours) {
			return fiber.NewError(fiber.StatusUnprocessableEntity, fmt.Sprintf("A sweep is paused for one of %v hours.", pauses))
		}
		at := time.Now().Add(time.Duration(hours) * time.Hour)
		until = &at
	}
	if err := s.Roster.PauseSweep(c.UserContext(), c.Params("name"), until); err != nil {
		return err
	}
	return c.Redirect("/ops/sweeps", fiber.StatusSeeOther)
}

func newOpsSweep(state roster.SweepState) opsSweep {
	v := opsSweep{Name: state.Name, Does: state.Does, Cron: state.Cron, NextAt: state.NextAt, PausedUntil: state.PausedUntil, Late: state.Late}
	if state.Last != nil {
		last := newOpsRun(*state.Last)
		v.Last = &last
	}
	return v
}

func newOpsRun(run roster.SweepRun) opsRun {
	v := opsRun{Tick: run.Tick, Missed: run.Missed, ByHand: run.ByHand, Scanned: run.Scanned, Acted: run.Acted, Error: run.Error}
	if lag := run.Lag().Round(time.Second); run.Since != nil && lag > 0 { // the first run has nothing to be late for
		v.Lag = lag.String()
	}
	if run.FinishedAt != nil {
		v.Took = run.FinishedAt.Sub(run.StartedAt).Round(10 * time.Millisecond).String()
	}
	for reason, n := range run.Skipped {
		v.Skipped = append(v.Skipped, fmt.Sprintf("%d %s", n, strings.ReplaceAll(reason, "_", " ")))
	}
	slices.Sort(v.Skipped)
	return v
}
