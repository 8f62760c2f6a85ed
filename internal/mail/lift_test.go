package mail

import (
	"strings"
	"testing"
)

// A job keeps its errors, and they are shown: no address stands in them.
func TestLiftTellsNoAddress(t *testing.T) {
	t.Parallel()
	err := testResend(t, "re_1", "http://127.0.0.1:1").Lift(t.Context(), "ann@client.dev")
	if err == nil || strings.Contains(err.Error(), "ann") || !strings.Contains(err.Error(), "refused") {
		t.Errorf("lifted with nobody there: %v", err)
	}
}
