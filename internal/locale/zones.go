package locale

import (
	_ "embed"
	"strings"
)

// zoneNames are the zones of zone.tab in the IANA time zone database, which are
// those that people choose from, and UTC. A name that a later release renames
// goes on working.
//
//go:embed zones.txt
var zoneNames string

// ZoneRegion is a part of the world and the names of its time zones.
type ZoneRegion struct {
	Name  string // "Europe"; empty for what is nowhere
	Zones []string
}

// ZoneRegions lists the time zones that people choose from, by regions, both in
// the order of the alphabet.
func ZoneRegions() []ZoneRegion {
	var regions []ZoneRegion
	for _, zone := range strings.Fields(zoneNames) {
		region, _, ok := strings.Cut(zone, "/")
		if !ok {
			region = ""
		}
		if n := len(regions); n == 0 || regions[n-1].Name != region {
			regions = append(regions, ZoneRegion{Name: region})
		}
		last := &regions[len(regions)-1]
		last.Zones = append(last.Zones, zone)
	}
	return regions
}
