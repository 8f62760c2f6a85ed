//go:build !chaos

package main

import "usher/jobs"

// arm does nothing but in the build for the chaos suite.
func arm(*jobs.Worker) {}
