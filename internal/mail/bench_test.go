package mail

import (
	"testing"
	"time"
)

// The cost of one message, both parts.

func BenchmarkRenderInvitation(b *testing.B) {
	l := testInvitation(b, "en")
	b.ReportAllocs()
	for b.Loop() {
		renderInvitation(b, l)
	}
}

func BenchmarkRenderReminder(b *testing.B) {
	l := testInvitation(b, "en")
	b.ReportAllocs()
	for b.Loop() {
		renderReminder(b, l, 4*24*time.Hour)
	}
}
