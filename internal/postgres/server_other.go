//go:build !linux

package postgres

import (
	"os/exec"
	"strconv"
	"strings"
	"syscall"
)

// prepareThread does nothing: only Linux can tie a process to its parent. The
// next start stops what this one leaves behind.
func prepareThread(*exec.Cmd, syscall.Signal) error { return nil }

// attributes are what a process of the account starts with.
func (a account) attributes() *syscall.SysProcAttr {
	if !a.switched {
		return &syscall.SysProcAttr{}
	}
	return &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(a.uid), Gid: uint32(a.gid)}}
}

// canLendReach says whether a process of another user can be given the right to
// pass any directory: only on Linux.
func canLendReach() bool { return false }

// serverProcesses returns the postmaster that works in data, if it runs. Its
// sessions end soon after it.
func serverProcesses(data string, postmaster int) ([]int, error) {
	if postmaster <= 0 {
		return nil, nil
	}
	out, err := exec.Command("ps", "-o", "command=", "-p", strconv.Itoa(postmaster)).Output()
	if err != nil { // no such process
		return nil, nil
	}
	if command := string(out); strings.Contains(command, "postgres") && strings.Contains(command, data) {
		return []int{postmaster}, nil
	}
	return nil, nil
}
