package server

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

// describeGuest answers Hello.
func describeGuest(version string) (*protocol.HelloResponse, error) {
	var uname unix.Utsname
	if err := unix.Uname(&uname); err != nil {
		return nil, fmt.Errorf("describe guest: %w", err)
	}
	// The seccomp action exists when the kernel filters at all; absent files
	// mean absent features.
	_, seccompErr := os.Stat("/proc/sys/kernel/seccomp/actions_avail")
	controllers, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
	if err != nil {
		controllers = nil
	}
	return &protocol.HelloResponse{
		Version:           protocol.Version,
		AgentVersion:      version,
		KernelRelease:     unix.ByteSliceToString(uname.Release[:]),
		AgentRssBytes:     residentBytes(),
		CgroupControllers: strings.Fields(string(controllers)),
		Seccomp:           seccompErr == nil,
	}, nil
}

// residentBytes returns the agent's resident memory, 0 when unknown.
func residentBytes() uint64 {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	fields := bytes.Fields(data)
	if len(fields) < 2 {
		return 0
	}
	pages, err := strconv.ParseUint(string(fields[1]), 10, 64)
	if err != nil {
		return 0
	}
	return pages * uint64(os.Getpagesize())
}
