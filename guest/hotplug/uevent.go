// Package hotplug waits for what the host plugs into the running guest: disks,
// network interfaces, processors and memory. It looks, and looks again after each event of the
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
	return awaitFrom(ctx, unix.NETLINK_KOBJECT_UEVENT, kernelGroup, look)
}

// Await calls look, and calls it again after each event of a device's, until it returns
// true, or an error, or ctx ends.
func Await(ctx context.Context, look func() (bool, error)) error { return await(ctx, look) }

// AwaitLinks calls look, and calls it again after each change of a network
// interface, until it returns true, or an error, or ctx ends.
func AwaitLinks(ctx context.Context, look func() (bool, error)) error {
	// Not the device's own event: the kernel sends that before it lists the
	// interface.
	return awaitFrom(ctx, unix.NETLINK_ROUTE, unix.RTMGRP_LINK, look)
}

func awaitFrom(ctx context.Context, protocol int, groups uint32, look func() (bool, error)) error {
	// The socket first: an event between the two would be lost.
	events, err := listen(protocol, groups)
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

func listen(protocol int, groups uint32) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, protocol)
	if err != nil {
		return nil, fmt.Errorf("listen to device events: %w", err)
	}
	if err := unix.Bind(fd, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: groups}); err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("listen to device events: %w", err)
	}
	return os.NewFile(uintptr(fd), "device events"), nil
}
