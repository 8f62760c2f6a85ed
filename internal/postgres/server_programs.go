package postgres

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// oldestMajor is the oldest PostgreSQL that still gets fixes.
const oldestMajor = 14

// programPlaces are the directories where packages put PostgreSQL's programs.
var programPlaces = []string{
	"/usr/lib/postgresql/*/bin",                          // Debian, Ubuntu
	"/usr/pgsql-*/bin",                                   // postgresql.org's packages for Red Hat
	"/usr/libexec/postgresql*",                           // Alpine
	"/usr/local/pgsql/bin",                               // built from source
	"/opt/homebrew/opt/postgresql@*/bin",                 // Homebrew on Apple's processors
	"/usr/local/opt/postgresql@*/bin",                    // Homebrew on Intel's
	"/home/linuxbrew/.linuxbrew/opt/postgresql@*/bin",    // Homebrew on Linux
	"/Applications/Postgres.app/Contents/Versions/*/bin", // Postgres.app
}

// programs are one installation of PostgreSQL.
type programs struct {
	bin   string
	major int
	libs  []string // where its libraries are, if not where the system looks
	zones string   // where its time zones are, if not where the system has them
}

// programs finds PostgreSQL in the version major, or the newest one when major
// is 0, and gets one when the machine has none.
func (o ServerOptions) programs(ctx context.Context, major int) (programs, error) {
	found := o.installed(ctx)
	if p, ok := choose(found, major); ok {
		return p, nil
	}
	fetchErr := o.fetch(ctx, major)
	if fetchErr == nil {
		if p, ok := choose(o.installed(ctx), major); ok {
			return p, nil
		}
		fetchErr = errors.New("what was fetched does not run here")
	}
	if major == 0 {
		return programs{}, fmt.Errorf("find PostgreSQL %d or newer: %w: install it with this system's package manager, "+
			"or set DATABASE_URL to use a database elsewhere", oldestMajor, fetchErr)
	}
	return programs{}, fmt.Errorf("find PostgreSQL %d, which made the data in %s (installed: %s): %w: install that version, "+
		"move the data away to start afresh, or set DATABASE_URL to use another database", major, o.Dir, versions(found), fetchErr)
}

// choose returns the installation of the version major, or the newest one that
// is new enough when major is 0. Of equals it is the first found.
func choose(found []programs, major int) (best programs, ok bool) {
	for _, p := range found {
		wanted := p.major == major || major == 0 && p.major >= oldestMajor
		if wanted && p.major > best.major {
			best, ok = p, true
		}
	}
	return best, ok
}

func versions(found []programs) string {
	var majors []int
	for _, p := range found {
		majors = append(majors, p.major)
	}
	if len(majors) == 0 {
		return "none"
	}
	slices.Sort(majors)
	return strings.Trim(fmt.Sprint(slices.Compact(majors)), "[]")
}

// installed returns every PostgreSQL found that runs.
func (o ServerOptions) installed(ctx context.Context) []programs {
	places := o.places
	if places == nil {
		places = programPlaces
	}
	var bins []string
	for _, place := range append(slices.Clone(places), filepath.Join(o.Programs, "usr/lib/postgresql/*/bin")) {
		matches, _ := filepath.Glob(place) // fails on a bad pattern only
		bins = append(bins, matches...)
	}
	if path, err := o.lookPath("postgres"); err == nil {
		if path, err = filepath.EvalSymlinks(path); err == nil {
			bins = append(bins, filepath.Dir(path))
		}
	}
	if path, err := o.lookPath("pg_config"); err == nil {
		if out, err := exec.CommandContext(ctx, path, "--bindir").Output(); err == nil {
			bins = append(bins, strings.TrimSpace(string(out)))
		}
	}

	var found []programs
	seen := map[string]bool{}
	for _, bin := range bins {
		bin, err := filepath.EvalSymlinks(bin)
		if err != nil || seen[bin] {
			continue
		}
		seen[bin] = true
		p := programs{bin: bin}
		if rel, err := filepath.Rel(o.Programs, bin); err == nil && filepath.IsLocal(rel) {
			p.libs = libraryDirs(o.Programs)
			if zones := filepath.Join(o.Programs, systemTimeZones); isDir(zones) {
				p.zones = zones
			}
		}
		if p.major = p.version(); p.major > 0 {
			found = append(found, p)
		}
	}
	return found
}

// versionLine is what "postgres --version" prints, a beta's included.
var versionLine = regexp.MustCompile(`^postgres \(PostgreSQL\) (\d+)`)

// version returns the major version of the programs, 0 when they do not run.
func (p programs) version() int {
	for _, name := range []string{"initdb", "postgres"} {
		out, err := p.command(account{}, name, "--version").Output()
		if err != nil {
			return 0
		}
		if m := versionLine.FindSubmatch(out); m != nil {
			major, _ := strconv.Atoi(string(m[1])) // digits
			return major
		}
	}
	return 0
}

// command returns the program name, to be run as who. Its environment is ours
// to choose: the caller's may hold settings meant for another server.
func (p programs) command(who account, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(p.bin, name), args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=/usr/bin:/bin"}
	if runtime.GOOS == "darwin" { // whose server needs a locale it knows
		cmd.Env = append(cmd.Env, "LC_ALL=en_US.UTF-8")
	} else {
		cmd.Env = append(cmd.Env, "LC_ALL=C.UTF-8")
	}
	if len(p.libs) > 0 {
		cmd.Env = append(cmd.Env, "LD_LIBRARY_PATH="+strings.Join(p.libs, ":"))
	}
	cmd.SysProcAttr = who.attributes()
	return cmd
}
