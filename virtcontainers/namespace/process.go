package namespace

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Join moves the calling thread, which must be locked and must not go on to
// other work, into the namespaces of a process that stands for a container. Its
// mount namespace is joined with mounts, for one in which paths are still the
// host's; otherwise the thread gets a copy of its own. What is mounted there does not
// show on the host in either case. A hostname, if not empty, is set.
func Join(pid int, hostname string, mounts bool) error {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("find the container's process %d: %w", pid, err)
	}
	defer unix.Close(pidfd)
	// A thread that shares its working directory cannot change its mounts.
	alone := unix.CLONE_FS
	flags := unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWPID | unix.CLONE_NEWCGROUP
	if mounts {
		flags |= unix.CLONE_NEWNS
	} else {
		alone |= unix.CLONE_NEWNS
	}
	if err := unix.Unshare(alone); err != nil {
		return fmt.Errorf("part from the other threads: %w", err)
	}
	if err := unix.Setns(pidfd, flags); err != nil {
		return fmt.Errorf("join the container's namespaces: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("keep mounts from the host: %w", err)
	}
	if hostname != "" {
		if err := unix.Sethostname([]byte(hostname)); err != nil {
			return fmt.Errorf("set the host name: %w", err)
		}
	}
	return nil
}

// InnerPID is what a process is called in its own PID namespace.
func InnerPID(pid int) (int, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0, fmt.Errorf("find the container's process %d: %w", pid, err)
	}
	for line := range strings.Lines(string(data)) {
		if list, ok := strings.CutPrefix(line, "NSpid:"); ok {
			if pids := strings.Fields(list); len(pids) > 0 {
				return strconv.Atoi(pids[len(pids)-1])
			}
		}
	}
	return 0, fmt.Errorf("process %d tells no pid of its namespace", pid)
}
