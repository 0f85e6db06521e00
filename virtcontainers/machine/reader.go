package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/jail"
	"kata-runtime/hypervisor/virtio/backend"
	"kata-runtime/virtcontainers/agent/reader"
)

const (
	// readerFiles is more than what the process has open.
	readerFiles = 64
	// readerThreads is that of the pod's user, whose the VMM's threads are too.
	readerThreads = 2048
)

// readerOptions say how the process is started that reads what the guest's agent says; nil:
// there is to be none. One with all privileges would be no gain.
func (m *Machine) readerOptions(spec Spec) *backend.Options {
	confinement := m.jail(spec)
	if !spec.Config.Hypervisor.ConfineAgent || confinement == nil {
		return nil
	}
	return &backend.Options{
		Program: m.program, Role: reader.Role, Jail: readerJail(confinement), Starter: m.starter, Log: spec.Log,
	}
}

// startReader starts the process.
func (m *Machine) startReader(ctx context.Context) error {
	if m.reads == nil {
		return nil
	}
	process, err := backend.Start(ctx, *m.reads)
	if err != nil {
		return err
	}
	// The pod's owner is the only one that has it: with its end ends the process.
	conn, err := net.FileConn(process.Socket())
	if err != nil {
		return errors.Join(fmt.Errorf("talk with the process that reads what the guest says: %w", err), process.Stop())
	}
	_ = process.Socket().Close() // conn is a duplicate
	m.mu.Lock()
	defer m.mu.Unlock()
	m.reader = process
	m.reading, _ = conn.(*net.UnixConn) // which backend has made
	return nil
}

// readerProcess returns the process and its socket, or nil before it was started, or where
// there is none.
func (m *Machine) readerProcess() (*backend.Process, *net.UnixConn) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.reader, m.reading
}

// readerJail says what the process keeps: nothing of the host.
func readerJail(o *jail.Options) *jail.Spec {
	return &jail.Spec{
		Namespaces: jail.Empty, Root: &jail.Root{}, User: o.User, MaxFiles: readerFiles, MaxThreads: readerThreads,
		SystemCalls: &jail.SystemCalls{Allowed: readerCalls(), Log: o.LogCalls},
		Without:     o.Without,
	}
}

// readerCalls are a back end's, but for those that send descriptors and change sockets: the
// agent's may be one of the host's vsock, whose buffers no limit bounds but the one that
// its owner sets.
func readerCalls() []uintptr {
	calls := slices.DeleteFunc(backend.SystemCalls(), func(call uintptr) bool {
		return slices.Contains([]uintptr{unix.SYS_SENDMSG, unix.SYS_SENDTO, unix.SYS_SETSOCKOPT, unix.SYS_SHUTDOWN}, call)
	})
	return append(calls, unix.SYS_PPOLL)
}

// Reader implements agent.WithReader, of a machine that was started.
func (m *Machine) Reader() *net.UnixConn {
	_, conn := m.readerProcess()
	return conn
}

// stopReader ends the process.
func (m *Machine) stopReader() error {
	process, conn := m.readerProcess()
	if process == nil {
		return nil
	}
	err := conn.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil // its user has closed it
	}
	return errors.Join(err, process.Stop())
}
