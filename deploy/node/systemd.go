package node

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

// Restarter restarts a service of the node and waits until it runs again.
type Restarter func(ctx context.Context, unit string) error

// busSocket is where the node's system bus listens.
const busSocket = "/run/dbus/system_bus_socket"

// restartOn asks the systemd of the node whose root directory is root. Its bus is
// enough for that: it takes neither the node's namespaces nor a systemctl.
func restartOn(root string) Restarter {
	return func(ctx context.Context, unit string) error {
		socket := filepath.Join(root, busSocket)
		if err := restart(ctx, socket, unit); err != nil {
			return fmt.Errorf("restart %s by systemd (%s): %w", unit, socket, err)
		}
		return nil
	}
}

func restart(ctx context.Context, socket, unit string) error {
	manager, err := systemd.NewConnection(func() (*dbus.Conn, error) { return dialBus(ctx, socket) })
	if err != nil {
		return err
	}
	defer manager.Close()
	done := make(chan string, 1)
	if _, err := manager.RestartUnitContext(ctx, unit, "replace", done); err != nil {
		return err
	}
	select {
	case result := <-done:
		if result != "done" {
			return fmt.Errorf("the job ended with %q: `systemctl status %s` on the node tells why", result, unit)
		}
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func dialBus(ctx context.Context, socket string) (_ *dbus.Conn, err error) {
	bus, err := dbus.Dial("unix:path="+dbus.EscapeBusAddressValue(socket), dbus.WithContext(ctx))
	if err != nil {
		return nil, err
	}
	if err = bus.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Getuid()))}); err == nil {
		err = bus.Hello()
	}
	if err != nil {
		bus.Close()
		return nil, err
	}
	return bus, nil
}
