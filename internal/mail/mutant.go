//go:build !chaos

package mail

// mutant names a safeguard that is switched off, to see that the chaos suite
// notices. Nothing can be, but in the build for that suite.
const mutant = ""
