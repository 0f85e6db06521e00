package jail

import (
	"bytes"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// hostShare says how much one process may have of all files that the host may have
// open: one part in so many.
const hostShare = 10

// FileLimit returns the limit of open files to give to a process that has as many
// open as its guest wants: the wanted one where it can be had and is not too much of
// what the host has, otherwise the hard limit of this process.
func FileLimit(wanted uint64) (uint64, error) {
	var now unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &now); err != nil {
		return 0, fmt.Errorf("read the limit of open files: %w", err)
	}
	// The kernel takes no limit above fs.nr_open, whoever asks.
	if most, ok := parameter("/proc/sys/fs/nr_open"); ok {
		wanted = min(wanted, most)
	}
	if all, ok := parameter("/proc/sys/fs/file-max"); ok {
		wanted = min(wanted, max(all/hostShare, 1024))
	}
	if now.Max >= wanted || mayRaiseLimits() {
		return wanted, nil
	}
	return now.Max, nil
}

// parameter reads a number of the kernel's.
func parameter(path string) (uint64, bool) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, false
	}
	value, err := strconv.ParseUint(string(bytes.TrimSpace(text)), 10, 64)
	return value, err == nil
}

// mayRaiseLimits says whether this process has CAP_SYS_RESOURCE in the initial
// user namespace, the only one where it counts.
func mayRaiseLimits() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	if data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) == 0 {
		return false
	}
	ids, err := os.ReadFile("/proc/self/uid_map")
	return err == nil && isInitialMap(ids)
}

// isInitialMap says whether a uid_map is that of the initial user namespace: all
// ids, as they are.
func isInitialMap(text []byte) bool {
	fields := bytes.Fields(text)
	return len(fields) == 3 && string(fields[0]) == "0" && string(fields[1]) == "0" &&
		string(fields[2]) == "4294967295"
}
