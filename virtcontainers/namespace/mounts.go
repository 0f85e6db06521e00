package namespace

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/osthread"
)

// SlaveMounts makes the mount namespace of this process, which must be a new one,
// a slave of the one that it was cloned from: what is mounted there later shows
// here, as far as it is shared there, and what is mounted here shows nowhere else.
func SlaveMounts() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("make the mount namespace a slave: %w", err)
	}
	return nil
}

// WithMounts calls f on a thread that is in another mount namespace (CAP_SYS_ADMIN,
// CAP_SYS_CHROOT): there, a path means what it means in that one. What f opens
// stays open; a mount is made a copy that can be attached elsewhere by open_tree(2).
// f must not start goroutines that are to be there too, nor processes.
func WithMounts(mounts *os.File, f func() error) error {
	return osthread.Run(func() error {
		// A thread that shares its root directory with others stays where it is.
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return fmt.Errorf("enter the mount namespace %s: %w", mounts.Name(), err)
		}
		if err := unix.Setns(int(mounts.Fd()), unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("enter the mount namespace %s: %w", mounts.Name(), err)
		}
		return f()
	})
}

// InCopyOfMounts is WithMounts in a copy of that mount namespace: what f mounts
// shows nowhere else, and goes when it returns.
func InCopyOfMounts(mounts *os.File, f func() error) error {
	return WithMounts(mounts, func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("copy the mount namespace %s: %w", mounts.Name(), err)
		}
		if err := SlaveMounts(); err != nil {
			return err
		}
		return f()
	})
}
