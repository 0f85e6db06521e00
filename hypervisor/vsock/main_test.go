package vsock_test

import (
	"os"
	"testing"

	"kata-runtime/hypervisor/jail"
	"kata-runtime/hypervisor/jail/jailtest"
	"kata-runtime/hypervisor/virtio/backend"
	"kata-runtime/hypervisor/vsock"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case jail.Command:
			os.Exit(jail.Become(os.Args[2:]))
		case backend.Command:
			os.Exit(backend.Run(os.Args[2:], map[string]backend.Role{vsock.Role: vsock.Serve, "hostile": hostile, jailtest.Role: jailtest.BackEnd}))
		}
	}
	os.Exit(m.Run())
}
