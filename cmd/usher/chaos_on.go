//go:build chaos

package main

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"syscall"

	"usher/jobs"
)

// arm has the worker kill its own process at one of its points, by the chance
// and the seed in CHAOS_KILL: "after-accept:0.1:42".
func arm(w *jobs.Worker) {
	parts := strings.Split(os.Getenv("CHAOS_KILL"), ":")
	if len(parts) != 3 {
		return
	}
	chance, _ := strconv.ParseFloat(parts[1], 64)
	seed, _ := strconv.ParseUint(parts[2], 10, 64)
	random := rand.New(rand.NewPCG(seed, 0))
	var mu sync.Mutex
	w.At = func(point string) {
		mu.Lock()
		defer mu.Unlock()
		if point == parts[0] && random.Float64() < chance {
			fmt.Fprintln(os.Stderr, "killed at", point)
			_ = syscall.Kill(os.Getpid(), syscall.SIGKILL)
			select {}
		}
	}
}
