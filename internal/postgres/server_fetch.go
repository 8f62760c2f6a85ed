package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"syscall"
)

// fetch gets PostgreSQL, in the version major unless that is 0: as a private
// copy where Debian's packages are to be had, with Homebrew on macOS.
func (o ServerOptions) fetch(ctx context.Context, major int) error {
	if apt, err := o.lookPath("apt-get"); err == nil {
		if _, err := o.lookPath("dpkg"); err == nil {
			return o.fetchDebian(ctx, apt, major)
		}
	}
	if brew, err := o.lookPath("brew"); err == nil && runtime.GOOS == "darwin" {
		if major == 0 {
			major = brewMajor
		}
		formula := "postgresql@" + strconv.Itoa(major)
		o.Progress("Getting PostgreSQL from Homebrew: brew install " + formula + ".")
		if out, err := exec.CommandContext(ctx, brew, "install", formula).CombinedOutput(); err != nil {
			return fmt.Errorf("brew install %s: %w\n%s", formula, err, tail(out))
		}
		return nil
	}
	return errors.New("it is not installed, and it can be fetched only from Debian's packages or Homebrew")
}

// brewMajor is the version got from Homebrew, which names no newest one.
const brewMajor = 17

// fetchDebian puts the packages of PostgreSQL, and those it needs that this
// system lacks, into o.Programs. Nothing of the system changes and no root is
// needed: apt keeps its lists in a directory of ours, packages are unpacked and
// never installed, and Debian's PostgreSQL finds its files from wherever it is.
func (o ServerOptions) fetchDebian(ctx context.Context, apt string, major int) (err error) {
	if err := os.MkdirAll(filepath.Dir(o.Programs), 0o755); err != nil {
		return fmt.Errorf("fetch PostgreSQL: %w", err)
	}
	// Servers that share o.Programs take turns.
	lock, err := os.OpenFile(o.Programs+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("fetch PostgreSQL: %w", err)
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX); err != nil {
		return fmt.Errorf("fetch PostgreSQL: %w", err)
	}
	if _, ok := choose(o.installed(ctx), major); ok {
		return nil
	}

	work := o.Programs + ".new"
	if err := os.RemoveAll(work); err != nil { // a killed run's
		return fmt.Errorf("fetch PostgreSQL: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	a, err := newAptDir(work)
	if err != nil {
		return err
	}

	o.Progress("Getting PostgreSQL from Debian's packages into " + o.Programs + "; nothing is installed in the system.")
	if _, err := a.run(ctx, apt, "update"); err != nil {
		return err
	}
	if major == 0 {
		if major, err = a.newest(ctx); err != nil {
			return err
		}
	}
	plan, err := a.run(ctx, apt, "--simulate", "--no-install-recommends", "install", "postgresql-"+strconv.Itoa(major))
	if err != nil {
		return err
	}
	packages := neededPackages(plan)
	o.Progress(fmt.Sprintf("Downloading PostgreSQL %d and what it needs: %d packages.", major, len(packages)))
	if _, err := a.run(ctx, apt, append([]string{"download"}, packages...)...); err != nil {
		return err
	}
	return a.unpack(ctx, o.Programs)
}

// aptDir is a directory in which apt works without touching the system.
type aptDir struct{ dir string }

// newAptDir makes dir with a configuration that sends all of apt's writing
// there and leaves out what the system does after an update.
func newAptDir(dir string) (aptDir, error) {
	a := aptDir{dir}
	for _, sub := range []string{"lists/partial", "cache/archives/partial", "debs", "root"} {
		if err := os.MkdirAll(filepath.Join(dir, sub), 0o755); err != nil {
			return a, fmt.Errorf("fetch PostgreSQL: %w", err)
		}
	}
	conf := `#clear APT::Update::Pre-Invoke;
#clear APT::Update::Post-Invoke;
#clear APT::Update::Post-Invoke-Success;
Dir::State::Lists "` + filepath.Join(dir, "lists") + `";
Dir::Cache "` + filepath.Join(dir, "cache") + `";
Debug::NoLocking "true";
APT::Sandbox::User "";
Acquire::Languages "none";
Acquire::Retries "3";
`
	if err := os.WriteFile(a.conf(), []byte(conf), 0o644); err != nil {
		return a, fmt.Errorf("fetch PostgreSQL: %w", err)
	}
	return a, nil
}

func (a aptDir) conf() string { return filepath.Join(a.dir, "apt.conf") }

// run runs one of apt's programs and returns what it printed.
func (a aptDir) run(ctx context.Context, program string, args ...string) ([]byte, error) {
	cmd := exec.CommandContext(ctx, program, append([]string{"-q", "-c", a.conf()}, args...)...)
	cmd.Dir = filepath.Join(a.dir, "debs")
	cmd.Env = append(cmd.Environ(), "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive")
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w\n%s", filepath.Base(program), args[0], err, tail(out))
	}
	return out, nil
}

var serverPackage = regexp.MustCompile(`(?m)^postgresql-(\d+) - `)

// newest returns the newest major version that the package lists offer.
func (a aptDir) newest(ctx context.Context) (int, error) {
	out, err := a.run(ctx, "apt-cache", "search", "--names-only", "^postgresql-[0-9]+$")
	if err != nil {
		return 0, err
	}
	newest := 0
	for _, m := range serverPackage.FindAllSubmatch(out, -1) {
		major, _ := strconv.Atoi(string(m[1])) // digits
		newest = max(newest, major)
	}
	if newest < oldestMajor {
		return 0, fmt.Errorf("the package lists offer no PostgreSQL %d or newer", oldestMajor)
	}
	return newest, nil
}

var (
	plannedInstall = regexp.MustCompile(`(?m)^Inst (\S+) `)

	// wantedPackage are the libraries and PostgreSQL's own two packages. The
	// rest of the plan sets up system services.
	wantedPackage = regexp.MustCompile(`^(lib.*|postgresql-\d+|postgresql-client-\d+|tzdata)$`)

	// unwantedPackage are libraries that must be the system's own (C) or that
	// a server without just-in-time compilation and Perl never loads, which
	// are half of the download.
	unwantedPackage = regexp.MustCompile(`^(libc6|libc-.*|libllvm.*|libz3-.*|libperl.*|.*-perl)$`)
)

// neededPackages returns which packages of apt's simulated installation the
// server needs.
func neededPackages(plan []byte) []string {
	var names []string
	for _, m := range plannedInstall.FindAllSubmatch(plan, -1) {
		name := string(m[1])
		if wantedPackage.MatchString(name) && !unwantedPackage.MatchString(name) {
			names = append(names, name)
		}
	}
	return names
}

// unpack unpacks the downloaded packages into dest, which appears complete or
// not at all.
func (a aptDir) unpack(ctx context.Context, dest string) error {
	debs, err := filepath.Glob(filepath.Join(a.dir, "debs", "*.deb"))
	if err != nil {
		return fmt.Errorf("unpack PostgreSQL: %w", err)
	}
	root := filepath.Join(a.dir, "root")
	for _, deb := range debs {
		if out, err := exec.CommandContext(ctx, "dpkg", "--extract", deb, root).CombinedOutput(); err != nil {
			return fmt.Errorf("unpack %s: %w\n%s", filepath.Base(deb), err, tail(out))
		}
	}
	if err := relocateTimeZones(root); err != nil {
		return err
	}
	// The server's user, who may be another one, must get in.
	if err := os.Chmod(root, 0o755); err != nil {
		return fmt.Errorf("unpack PostgreSQL: %w", err)
	}
	if err := os.RemoveAll(dest); err != nil { // another version, or one that no longer runs
		return fmt.Errorf("unpack PostgreSQL: %w", err)
	}
	if err := os.Rename(root, dest); err != nil {
		return fmt.Errorf("unpack PostgreSQL: %w", err)
	}
	return nil
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

const (
	// systemTimeZones is where Debian's PostgreSQL looks for time zones, the
	// one path it cannot be told.
	systemTimeZones = "/usr/share/zoneinfo"

	// ownTimeZones replaces it in the program: as seen from its working
	// directory, the data directory. It must not be longer.
	ownTimeZones = "../zoneinfo"
)

// relocateTimeZones lets the server unpacked in root use the time zones
// unpacked with it, if there are any because the system has none.
func relocateTimeZones(root string) error {
	if !isDir(filepath.Join(root, systemTimeZones)) {
		return nil
	}
	servers, err := filepath.Glob(filepath.Join(root, "usr/lib/postgresql/*/bin/postgres"))
	if err != nil {
		return fmt.Errorf("set time zones of PostgreSQL: %w", err)
	}
	for _, server := range servers {
		program, err := os.ReadFile(server)
		if err != nil {
			return fmt.Errorf("set time zones of PostgreSQL: %w", err)
		}
		before := []byte(systemTimeZones + "\x00")
		after := slices.Concat([]byte(ownTimeZones), make([]byte, len(before)-len(ownTimeZones)))
		if err := os.WriteFile(server, bytes.ReplaceAll(program, before, after), 0o755); err != nil {
			return fmt.Errorf("set time zones of PostgreSQL: %w", err)
		}
	}
	return nil
}

// linkTimeZones puts the time zones of fetched programs where a server that
// works in a directory below dir finds them.
func (p programs) linkTimeZones(dir string) error {
	if p.zones == "" {
		return nil
	}
	link := filepath.Join(dir, filepath.Base(ownTimeZones))
	if to, err := os.Readlink(link); err == nil && to == p.zones {
		return nil
	}
	if err := errors.Join(os.RemoveAll(link), os.Symlink(p.zones, link)); err != nil {
		return fmt.Errorf("set time zones of PostgreSQL: %w", err)
	}
	return nil
}

// libraryDirs returns where packages unpacked into root have their libraries.
func libraryDirs(root string) []string {
	var dirs []string
	for _, place := range []string{"usr/lib/*-linux-*", "lib/*-linux-*"} {
		matches, _ := filepath.Glob(filepath.Join(root, place)) // fails on a bad pattern only
		dirs = append(dirs, matches...)
	}
	return dirs
}
