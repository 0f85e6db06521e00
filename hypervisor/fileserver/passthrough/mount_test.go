package passthrough_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"

	"kata-runtime/hypervisor/fileserver/passthrough"
)

func options() passthrough.Options { return passthrough.Options{Cache: passthrough.Shared()} }

// TestPosix runs the tests of the protocol's library.
func TestPosix(t *testing.T) {
	_, mnt := mounted(t, options())
	for name, f := range posixtest.All {
		switch name {
		case "FcntlFlockLocksFile":
			continue // wants a process to be refused its own POSIX lock
		case "XAttrLarge":
			continue // wants 64 KiB, which ext4 does not have
		}
		t.Run(name, func(t *testing.T) {
			dir := filepath.Join(mnt, name)
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			f(t, dir)
		})
	}
}
