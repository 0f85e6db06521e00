package vsock

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/virtio/vhostuser"
	"kata-runtime/hypervisor/vsock/device"
)

// userCID is the CID of every guest with a device of ours: nobody else sees it.
const userCID = 3

// user is a Host that serves a vhost-user device in this process.
type user struct {
	device  *device.Device
	server  *vhostuser.Server
	backend *os.File // the VMM's end
	log     *slog.Logger
	serving sync.WaitGroup
}

func openUser(log *slog.Logger) (Host, error) {
	conn, backend, err := socketPair()
	if err != nil {
		return nil, fmt.Errorf("vhost-user socket: %w", err)
	}
	dev := device.New(userCID, log)
	u := &user{device: dev, server: vhostuser.NewServer(conn, dev, log), backend: backend, log: log}
	u.serving.Go(u.serve)
	return u, nil
}

// socketPair returns two ends: one of this process, one for the VMM.
func socketPair() (*net.UnixConn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, fmt.Errorf("socketpair: %w", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "vhost-user"), os.NewFile(uintptr(fds[1]), "vhost-user of the VMM")
	defer func() { _ = ours.Close() }() // FileConn duplicates
	conn, err := net.FileConn(ours)
	if err != nil {
		_ = theirs.Close()
		return nil, nil, err
	}
	unixConn, ok := conn.(*net.UnixConn)
	if !ok {
		_, _ = conn.Close(), theirs.Close()
		return nil, nil, fmt.Errorf("socketpair is a %T", conn)
	}
	return unixConn, theirs, nil
}

// serve answers the VMM until it or this process closes the connection.
func (u *user) serve() {
	// Once the VMM talks, it has its own duplicate; with ours closed, its end is
	// the end of the connection.
	err := u.server.Serve(func() { _ = u.backend.Close() })
	switch {
	case errors.Is(err, io.EOF):
		u.device.Fail(fmt.Errorf("VMM closed the vsock device: %w", syscall.ECONNRESET))
	case errors.Is(err, net.ErrClosed):
		u.device.Fail(net.ErrClosed)
	default:
		if u.device.Fail(fmt.Errorf("vsock device: %w", err)) {
			u.log.LogAttrs(context.Background(), slog.LevelError, "vsock device ended", slog.Any("error", err))
		}
	}
}

func (u *user) Dial(ctx context.Context, port uint32) (net.Conn, error) {
	return u.device.Dial(ctx, port)
}

func (u *user) Listen(port uint32) (hypervisor.Listener, error) {
	l, err := u.device.Listen(port)
	if err != nil {
		return nil, err
	}
	return l, nil
}

func (u *user) Device() *hypervisor.Vsock {
	return &hypervisor.Vsock{ID: DeviceID, CID: userCID, Backend: u.backend}
}

func (u *user) Kind() string { return string(ModeUser) }

func (u *user) Close() error {
	err := errors.Join(u.device.Close(), u.server.Close())
	u.serving.Wait()
	if cerr := u.backend.Close(); cerr != nil && !errors.Is(cerr, os.ErrClosed) {
		err = errors.Join(err, fmt.Errorf("close the VMM's end of the vsock device: %w", cerr))
	}
	return err
}
