package stream

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// ResizeTerminal sets the size of the terminal whose master side is open, in
// characters.
func ResizeTerminal(master *os.File, rows, columns uint16) error {
	raw, err := master.SyscallConn()
	if err != nil {
		return fmt.Errorf("resize terminal: %w", err)
	}
	var ioctlErr error
	err = raw.Control(func(fd uintptr) {
		ioctlErr = unix.IoctlSetWinsize(int(fd), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: columns})
	})
	if err == nil {
		err = ioctlErr
	}
	if err != nil {
		return fmt.Errorf("resize terminal: %w", err)
	}
	return nil
}
