package main

import (
	"math"
	"slices"
	"time"
)

// rounded has no more digits than mean something.
func (f figure) rounded() figure {
	f.Ratio = round(f.Value / f.Floor)
	f.Value, f.Floor, f.P99 = round(f.Value), round(f.Floor), round(f.P99)
	f.Locked, f.ByDue, f.ByPending = round(f.Locked), round(f.ByDue), round(f.ByPending)
	f.MemoryBefore, f.MemoryPeak = round(f.MemoryBefore), round(f.MemoryPeak)
	f.Rounds, f.FloorRounds = roundAll(f.Rounds), roundAll(f.FloorRounds)
	return f
}

func round(v float64) float64 { return math.Round(v*1000) / 1000 }

func roundAll(all []float64) []float64 {
	out := make([]float64, len(all))
	for i, v := range all {
		out[i] = round(v)
	}
	return out
}

// quantile is the value below which a share q of all lies. It sorts them.
func quantile[T float64 | time.Duration](all []T, q float64) T {
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[min(len(all)-1, int(q*float64(len(all))))]
}

func median(all []float64) float64 { return quantile(slices.Clone(all), 0.5) }

func milliseconds(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
