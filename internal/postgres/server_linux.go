package postgres

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// keepCapabilities is the kernel's SECBIT_NO_SETUID_FIXUP.
const keepCapabilities = 1 << 2

// prepareThread readies the calling thread, which must end with cmd, to start
// cmd: the kernel sends cmd's process the signal when this thread ends.
func prepareThread(cmd *exec.Cmd, signal syscall.Signal) error {
	cmd.SysProcAttr.Pdeathsig = signal
	if len(cmd.SysProcAttr.AmbientCaps) == 0 {
		return nil
	}
	// Otherwise the kernel leaves capabilities out of account on the way to
	// the program, and wherever a program asks with access(2), as initdb does.
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, keepCapabilities, 0, 0, 0); err != nil {
		return fmt.Errorf("keep capabilities: %w", err)
	}
	return nil
}

// attributes are what a process of the account starts with.
func (a account) attributes() *syscall.SysProcAttr {
	if !a.switched {
		return &syscall.SysProcAttr{}
	}
	attr := &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}}
	if c, ok := reachCapability(); ok && a.reach {
		attr.AmbientCaps = []uintptr{c}
	}
	return attr
}

// canLendReach says whether a process of another user can be given the right to
// pass any directory.
func canLendReach() bool {
	_, ok := reachCapability()
	return ok
}

// reachCapability returns the smallest capability we have, and may hand on,
// that passes closed directories. Containers often have only the second.
func reachCapability() (uintptr, bool) {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var have [2]unix.CapUserData
	if err := unix.Capget(&header, &have[0]); err != nil {
		return 0, false
	}
	if have[0].Permitted&(1<<unix.CAP_SETPCAP) == 0 {
		return 0, false
	}
	for _, c := range []uintptr{unix.CAP_DAC_READ_SEARCH, unix.CAP_DAC_OVERRIDE} {
		if have[0].Permitted&(1<<c) != 0 {
			return c, true
		}
	}
	return 0, false
}

// serverProcesses returns the PostgreSQL processes that work in data, which all
// have as their working directory. Without /proc it looks for postmaster only.
func serverProcesses(data string, postmaster int) ([]int, error) {
	all, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	var pids []int
	mounted := false
	for _, entry := range all {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		mounted = true
		dir := filepath.Join("/proc", entry.Name())
		// Processes of others cannot be read, and ours may end meanwhile.
		if cwd, err := os.Readlink(filepath.Join(dir, "cwd")); err != nil || cwd != data {
			continue
		}
		stat, err := os.ReadFile(filepath.Join(dir, "stat"))
		if err != nil || !strings.Contains(string(stat), "(postgres) ") || strings.Contains(string(stat), "(postgres) Z") {
			continue
		}
		pids = append(pids, pid)
	}
	if !mounted && postmaster > 0 && !errors.Is(syscall.Kill(postmaster, 0), syscall.ESRCH) {
		return nil, fmt.Errorf("process %d may be a server that an earlier run left in %s, but /proc is not there to tell: stop it, or remove %[2]s/postmaster.pid", postmaster, data)
	}
	slices.Sort(pids)
	return pids, nil
}
