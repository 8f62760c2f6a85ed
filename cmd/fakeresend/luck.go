package main

import (
	"hash/fnv"
	"math/rand/v2"
	"time"
)

// luck is a number from 0 to below 1 that depends on nothing but the seed,
// what it is drawn for, and the number of the request or event: with the same
// seed the same happens again. The caller holds mu.
func (s *server) luck(what string, number int) float64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(what)) // a hash takes everything
	return rand.New(rand.NewPCG(s.config.Seed^h.Sum64(), uint64(number))).Float64()
}

// between is a time in a range of milliseconds, by luck; the caller holds mu.
func (s *server) between(ms [2]float64, what string, number int) time.Duration {
	return time.Duration((ms[0] + s.luck(what, number)*(ms[1]-ms[0])) * float64(time.Millisecond))
}
