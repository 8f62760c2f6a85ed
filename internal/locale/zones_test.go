package locale

import (
	"slices"
	"testing"
	"time"
)

func TestZoneRegions(t *testing.T) {
	t.Parallel()
	n, names := 0, []string{}
	for _, region := range ZoneRegions() {
		names = append(names, region.Name)
		for _, zone := range region.Zones {
			n++
			if _, err := time.LoadLocation(zone); err != nil {
				t.Error(err)
			}
		}
	}
	if n < 400 {
		t.Errorf("%d zones", n)
	}
	slices.Sort(names)
	if len(slices.Compact(names)) != len(ZoneRegions()) || !slices.Contains(names, "Europe") || !slices.Contains(names, "") {
		t.Errorf("regions: %q", names)
	}
}
