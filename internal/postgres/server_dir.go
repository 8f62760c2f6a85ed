package postgres

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	// maxSocketPath is what the smallest system of ours (macOS) takes as the
	// path of a unix socket, without the ending zero. Linux takes 107.
	maxSocketPath = 103

	// socketName is how PostgreSQL names its socket for the port nobody asked for.
	socketName = ".s.PGSQL.5432"
)

// claimDir checks that dir is ours.
func claimDir(dir string) error {
	info, err := os.Stat(dir)
	if err != nil {
		return fmt.Errorf("start private PostgreSQL: %w", err)
	}
	if owner := ownerOf(info); owner != os.Geteuid() {
		return fmt.Errorf("start private PostgreSQL: %s belongs to %s, not to %s: "+
			"run this as %[2]s, remove the directory with all its data, or set DATABASE_URL to use another database",
			dir, userName(owner), userName(os.Geteuid()))
	}
	return nil
}

// lockDir takes dir for this process, until the returned file is closed or the
// process ends.
func lockDir(dir string) (*os.File, error) {
	lock, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock private PostgreSQL: %w", err)
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer lock.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock private PostgreSQL: %w", err)
		}
		holder := make([]byte, 20)
		n, _ := lock.ReadAt(holder, 0) // the error is the short file's EOF
		return nil, fmt.Errorf("%w: process %s holds %s; stop that process, or set DATABASE_URL to use another database",
			ErrServerInUse, strings.TrimSpace(string(holder[:n])), dir)
	}
	if err := errors.Join(lock.Truncate(0), writePID(lock)); err != nil {
		return nil, errors.Join(fmt.Errorf("lock private PostgreSQL: %w", err), lock.Close())
	}
	return lock, nil
}

func writePID(lock *os.File) error {
	_, err := lock.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	return err
}

// unlock gives the directory free.
func (s *Server) unlock() error { return s.lock.Close() }

// dataVersion returns the major version of PostgreSQL that made the data
// directory, 0 when there is none yet.
func dataVersion(data string) (int, error) {
	text, err := os.ReadFile(filepath.Join(data, "PG_VERSION"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Stat(data); err == nil {
			return 0, fmt.Errorf("start private PostgreSQL: %s is no PostgreSQL data directory: move it away to start afresh", data)
		}
		return 0, nil
	case err != nil:
		return 0, fmt.Errorf("read version of private PostgreSQL: %w", err)
	}
	major, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, fmt.Errorf("read version of private PostgreSQL in %s: %w", data, err)
	}
	return major, nil
}

// account is the user that the server runs as: our own or, since PostgreSQL
// refuses root, an unprivileged one.
type account struct {
	switched bool // we are root and become uid and gid
	uid, gid int
	reach    bool // is lent the right to pass directories closed to it
}

// serverAccount chooses the account. What data belongs to decides, if it
// exists: users come and go with the system's packages.
func serverAccount(data string) (account, error) {
	if os.Geteuid() != 0 {
		return account{}, nil
	}
	if info, err := os.Stat(data); err == nil {
		return account{switched: true, uid: ownerOf(info), gid: groupOf(info)}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.Atoi(u.Uid)
		gid, gidErr := strconv.Atoi(u.Gid)
		if err := errors.Join(uidErr, gidErr); err != nil {
			return account{}, fmt.Errorf("look up user %s: %w", name, err)
		}
		return account{switched: true, uid: uid, gid: gid}, nil
	}
	return account{}, errors.New("start private PostgreSQL: it refuses to run as root, and this system has neither a user postgres nor nobody: " +
		"run this as an ordinary user, or set DATABASE_URL to use another database")
}

// own hands a directory to the account.
func (a account) own(dir string) error {
	if !a.switched {
		return nil
	}
	if err := os.Chown(dir, a.uid, a.gid); err != nil {
		return fmt.Errorf("hand directory to the server's user: %w", err)
	}
	return nil
}

// reaching returns the account with what it needs to reach all paths. While it
// is lent a right for that, dir is closed to everybody else: another process of
// the same user must not borrow the right through the server.
func (a account) reaching(dir string, paths ...string) (account, error) {
	mode := fs.FileMode(0o700)
	if a.switched {
		blocked := ""
		for _, path := range append(paths, filepath.Dir(dir)) {
			if b := a.blockedAt(path); b != "" && b != dir {
				blocked = b
			}
		}
		if blocked == "" {
			mode = 0o711
		} else if a.reach = canLendReach(); !a.reach {
			return a, fmt.Errorf("start private PostgreSQL: it runs as %s, who may not enter %s: "+
				"open that directory (chmod o+x), run this as an ordinary user, or set DATABASE_URL to use another database",
				userName(a.uid), blocked)
		}
	}
	if err := os.Chmod(dir, mode); err != nil {
		return a, fmt.Errorf("start private PostgreSQL: %w", err)
	}
	return a, nil
}

// blockedAt returns the first directory on the way to path, path included,
// that the account may not enter, or "".
func (a account) blockedAt(path string) string {
	if parent := filepath.Dir(path); parent != path {
		if b := a.blockedAt(parent); b != "" {
			return b
		}
	}
	info, err := os.Stat(path)
	if err != nil {
		return path
	}
	bit := fs.FileMode(0o001)
	switch {
	case ownerOf(info) == a.uid:
		bit = 0o100
	case groupOf(info) == a.gid:
		bit = 0o010
	}
	if info.Mode()&bit == 0 {
		return path
	}
	return ""
}

// socketDir makes the directory of the server's socket, which only the account
// and root can enter: below dir, or in the system's temporary directory when
// that path would be too long.
func socketDir(dir string, who account) (string, error) {
	socket := filepath.Join(dir, "socket")
	if tooLong(socket) {
		// Root's outer directory keeps other processes of the account out.
		outer, err := tempDirFor(dir)
		if err != nil {
			return "", err
		}
		socket = filepath.Join(outer, "s")
	}
	if err := os.Mkdir(socket, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("make socket directory: %w", err)
	}
	if err := who.own(socket); err != nil {
		return "", err
	}
	if err := os.Chmod(socket, 0o700); err != nil {
		return "", fmt.Errorf("make socket directory: %w", err)
	}
	return socket, nil
}

func tooLong(socket string) bool {
	return len(filepath.Join(socket, socketName)) > maxSocketPath
}

// tempDirFor makes a temporary directory of our own whose name follows from
// dir, so that the next run finds it again.
func tempDirFor(dir string) (string, error) {
	name := fmt.Sprintf("usher-%x", sha256.Sum256([]byte(dir)))[:24]
	temp := filepath.Join(os.TempDir(), name)
	if tooLong(filepath.Join(temp, "s")) {
		temp = filepath.Join("/tmp", name)
	}
	if err := os.Mkdir(temp, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return "", fmt.Errorf("make socket directory: %w", err)
	}
	// Everybody can write to the parent: what is there may be a trap.
	info, err := os.Lstat(temp)
	if err != nil {
		return "", fmt.Errorf("make socket directory: %w", err)
	}
	if !info.IsDir() || ownerOf(info) != os.Geteuid() {
		return "", fmt.Errorf("make socket directory: %s exists and is not ours: remove it", temp)
	}
	if err := os.Chmod(temp, 0o700); err != nil {
		return "", fmt.Errorf("make socket directory: %w", err)
	}
	return temp, nil
}

// stopOrphans ends the server that a killed run left behind, if any, and
// removes its postmaster.pid. Only the holder of the lock may call it.
func stopOrphans(ctx context.Context, data string) error {
	pidFile := filepath.Join(data, "postmaster.pid")
	postmaster := 0
	if text, err := os.ReadFile(pidFile); err == nil {
		first, _, _ := strings.Cut(string(text), "\n")
		postmaster, _ = strconv.Atoi(strings.TrimSpace(first)) // a torn file names no process
	}
	// A postmaster is asked to stop in order. Sessions that outlived theirs,
	// and whoever does not listen, are ended; the next start recovers.
	asked := time.Now()
	quit, kill := asked.Add(stopTimeout), asked.Add(stopTimeout+killTimeout)
	told := map[int]syscall.Signal{}
	for {
		pids, err := serverProcesses(data, postmaster)
		if err != nil {
			return fmt.Errorf("stop left-over PostgreSQL: %w", err)
		}
		if len(pids) == 0 {
			break
		}
		now := time.Now()
		if now.After(kill.Add(killTimeout)) {
			return fmt.Errorf("stop left-over PostgreSQL: processes %v in %s do not end", pids, data)
		}
		for _, pid := range pids {
			signal := syscall.SIGQUIT
			switch {
			case now.After(kill):
				signal = syscall.SIGKILL
			case now.After(quit):
			case pid == postmaster:
				signal = syscall.SIGINT
			case slices.Contains(pids, postmaster):
				continue // its postmaster ends it
			}
			if told[pid] == signal {
				continue
			}
			told[pid] = signal
			if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("stop left-over PostgreSQL: signal process %d: %w", pid, err)
			}
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("stop left-over PostgreSQL: %w", ctx.Err())
		case <-time.After(pollInterval):
		}
	}
	// Its process number may be another program's by now, which PostgreSQL
	// would take for a running server.
	if err := os.Remove(pidFile); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("stop left-over PostgreSQL: %w", err)
	}
	return nil
}

func ownerOf(info fs.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Uid) }
func groupOf(info fs.FileInfo) int { return int(info.Sys().(*syscall.Stat_t).Gid) }

// userName returns the name of a user, or the number when it has none.
func userName(uid int) string {
	if u, err := user.LookupId(strconv.Itoa(uid)); err == nil {
		return "user " + u.Username
	}
	return "user " + strconv.Itoa(uid)
}
