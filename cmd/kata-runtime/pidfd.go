package main

import (
	"context"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// pidfdSocketUsage is what create, run and exec say of their flag.
const pidfdSocketUsage = "unix `SOCKET` that receives a pidfd of the process's stand-in"

// sendPIDFD passes a descriptor of a process, this one's child, to the unix
// socket that a caller listens on. Without a socket it does nothing.
func sendPIDFD(ctx context.Context, socket string, pid int) error {
	if socket == "" {
		return nil
	}
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return fmt.Errorf("pidfd socket: open process %d: %w", pid, err)
	}
	file := os.NewFile(uintptr(fd), "pidfd")
	defer file.Close()
	if err := sendDescriptor(ctx, socket, "pidfd", fd); err != nil {
		return fmt.Errorf("pidfd socket: %w", err)
	}
	return nil
}
