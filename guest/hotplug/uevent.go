// Package hotplug waits for what the host plugs into the running guest: disks,
// processors and memory. It looks, and looks again after each event of the
// kernel's; it never polls.
package hotplug

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// kernelGroup is the multicast group of the kernel's own device events.
const kernelGroup = 1

// await calls look until it says that what it looks for is there, each time
// after an event. An error of look's ends the wait.
func await(ctx context.Context, look func() (bool, error)) error {
	// The socket first: an event between the two would be lost.
	events, err := listen()
	if err != nil {
		return err
	}
	defer events.Close()
	stop := context.AfterFunc(ctx, func() { _ = events.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	// The content does not matter; what does not fit is cut off.
	event := make([]byte, 1)
	for {
		found, err := look()
		if found || err != nil {
			return err
		}
		_, err = events.Read(event)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && !errors.Is(err, unix.ENOBUFS): // Events were lost: look.
			return fmt.Errorf("wait for a device event: %w", err)
		}
	}
}

func listen() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return nil, fmt.Errorf("listen to device events: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: kernelGroup}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listen to device events: %w", err)
	}
	return os.NewFile(uintptr(fd), "device events"), nil
}
