package virtiofsd

import (
	"crypto/rand"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// connectedSocket returns a listening unix socket and a connection to it, which
// waits in its queue, with no path left. dir must let nobody else in, since for
// a moment the socket has a name there.
func connectedSocket(dir string) (listening, connected *os.File, err error) {
	folder, err := os.Open(dir)
	if err != nil {
		return nil, nil, fmt.Errorf("make virtiofsd's socket: %w", err)
	}
	defer folder.Close()
	name := "virtiofsd-" + rand.Text()
	// A socket's address has 108 bytes, fewer than some directories' paths.
	address := &unix.SockaddrUnix{Name: fmt.Sprintf("/proc/self/fd/%d/%s", folder.Fd(), name)}
	listening, err = newSocket("virtiofsd listener", func(fd int) error {
		if err := unix.Bind(fd, address); err != nil {
			return fmt.Errorf("bind: %w", err)
		}
		return unix.Listen(fd, 1)
	})
	defer func() {
		if unlinkErr := unix.Unlinkat(int(folder.Fd()), name, 0); unlinkErr != nil && err == nil {
			_ = listening.Close()
			_ = connected.Close()
			err = fmt.Errorf("remove virtiofsd's socket in %s: %w", dir, unlinkErr)
		}
	}()
	if err != nil {
		return nil, nil, fmt.Errorf("make virtiofsd's socket in %s: %w", dir, err)
	}
	connected, err = newSocket("virtiofsd connection", func(fd int) error { return unix.Connect(fd, address) })
	if err != nil {
		_ = listening.Close()
		return nil, nil, fmt.Errorf("connect to virtiofsd's socket in %s: %w", dir, err)
	}
	return listening, connected, nil
}

// newSocket makes a unix stream socket and prepares it.
func newSocket(name string, prepare func(fd int) error) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	if err := prepare(fd); err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}
