package accel

import "golang.org/x/sys/unix"

// pauseThread blocks the thread until a signal arrives, and returns EINTR then.
func pauseThread() error {
	_, _, errno := unix.Syscall6(unix.SYS_PPOLL, 0, 0, 0, 0, 0, 0)
	if errno == 0 {
		return nil
	}
	return errno
}
