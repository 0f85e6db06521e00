package vsock_test

import (
	"context"
	"fmt"
	"log/slog"

	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/vsock"
)

// A Host exists before its VM: listen first, then hand the device to the VMM.
func ExampleOpen() {
	host, err := vsock.Open(context.Background(), vsock.Options{Mode: vsock.ModeUser, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = host.Close() }()
	ready, err := host.Listen(1026)
	if err != nil {
		fmt.Println(err)
		return
	}
	defer func() { _ = ready.Close() }()
	fmt.Println("the VMM plugs in", host.Device().DeviceID())
	fmt.Println("the guest dials port", hypervisor.DialedPort(ready))
	// Output:
	// the VMM plugs in vsock0
	// the guest dials port 1026
}
