package mountpoint

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/share"
)

// Overlay mounts an overlay of the host's directories, which the options of
// mount(8) name (lowerdir=, upperdir=, workdir= ...), and returns it as count
// detached trees, see share.OpenTree (Linux 5.2, CAP_SYS_ADMIN). Directory is an
// existing one, on which it is mounted meanwhile where nobody sees it.
func Overlay(options []string, directory string, count int) (trees []*os.File, err error) {
	data := strings.Join(options, ",")
	if len(data) >= os.Getpagesize() { // the kernel would cut it
		return nil, fmt.Errorf("mount the overlay: its options have %d bytes, the kernel takes less than %d", len(data), os.Getpagesize())
	}
	err = privately(func() error {
		if err := unix.Mount("overlay", directory, "overlay", 0, data); err != nil {
			return fmt.Errorf("options %q: %w", data, err)
		}
		for range count {
			tree, err := share.OpenTree(directory, false)
			if err != nil {
				return err
			}
			trees = append(trees, tree)
		}
		// Until the thread's mounts end they would keep the overlay, when the trees
		// have gone already.
		return unix.Unmount(directory, unix.MNT_DETACH)
	})
	if err != nil {
		for _, tree := range trees {
			err = errors.Join(err, tree.Close())
		}
		return nil, fmt.Errorf("mount the overlay: %w", err)
	}
	return trees, nil
}
