package mountpoint

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Pivot makes root, a mount, all that a process that is alone in its mount
// namespace has of the file system. The mounts before are out of reach afterwards.
func Pivot(root *os.File) error {
	if err := unix.Fchdir(int(root.Fd())); err != nil {
		return fmt.Errorf("change to the root file system: %w", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot to the root file system: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("let go of the host's mounts: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("change to /: %w", err)
	}
	return nil
}
