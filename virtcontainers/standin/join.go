package standin

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Join moves the calling thread, which must be locked and must not go on to
// other work, into the namespaces of a stand-in that has not entered its
// container yet: in its mount namespace, paths are still the host's. What is
// mounted there does not show on the host. A hostname, if not empty, is set as
// the stand-in does in its own time.
func Join(pid int, hostname string) error {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("find the stand-in, process %d: %w", pid, err)
	}
	defer unix.Close(pidfd)
	// A thread that shares its working directory cannot change its mounts.
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("part from the other threads: %w", err)
	}
	const all = unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWPID | unix.CLONE_NEWCGROUP | unix.CLONE_NEWNS
	if err := unix.Setns(pidfd, all); err != nil {
		return fmt.Errorf("join the stand-in's namespaces: %w", err)
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

// InnerPID is the pid of a stand-in in its own PID namespace.
func InnerPID(pid int) (int, error) {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/status")
	if err != nil {
		return 0, fmt.Errorf("find the stand-in, process %d: %w", pid, err)
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
