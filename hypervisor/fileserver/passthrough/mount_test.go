package passthrough_test

import (
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"

	"kata-runtime/hypervisor/fileserver/passthrough"
)

func options() passthrough.Options { return passthrough.Options{Cache: passthrough.Shared()} }

func TestPosix(t *testing.T) {
	for name, f := range posixtest.All {
		t.Run(name, func(t *testing.T) {
			_, mnt := mounted(t, options())
			f(t, mnt)
		})
	}
}
