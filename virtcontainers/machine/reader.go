package machine

import (
	"context"
	"errors"
	"fmt"
	"net"

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

// startReader starts the process that reads what the guest's agent says, where it is
// configured.
func (m *Machine) startReader(ctx context.Context, spec Spec) error {
	if !spec.Config.Hypervisor.ConfineAgent {
		return nil
	}
	process, err := backend.Start(ctx, backend.Options{
		Program: m.program, Role: reader.Role, Jail: readerJail(m.jail(spec)), Starter: m.starter, Log: spec.Log,
	})
	if err != nil {
		return err
	}
	m.reader = process
	// The pod's owner is the only one that has it: with its end ends the process.
	conn, err := net.FileConn(process.Socket())
	if err = errors.Join(err, process.Socket().Close()); err != nil {
		return fmt.Errorf("talk with the process that reads what the guest says: %w", err)
	}
	m.reading, _ = conn.(*net.UnixConn) // which backend has made
	return nil
}

// readerJail says what the process keeps: nothing of the host.
func readerJail(o *jail.Options) *jail.Spec {
	if o == nil {
		return nil
	}
	return &jail.Spec{
		Namespaces: jail.Empty, Root: &jail.Root{}, User: o.User, MaxFiles: readerFiles, MaxThreads: readerThreads,
		SystemCalls: &jail.SystemCalls{Allowed: append(backend.SystemCalls(), unix.SYS_PPOLL), Log: o.LogCalls},
		Without:     o.Without,
	}
}

// Reader implements agent.WithReader.
func (m *Machine) Reader() *net.UnixConn { return m.reading }

// stopReader ends the process.
func (m *Machine) stopReader() error {
	if m.reader == nil {
		return nil
	}
	var err error
	if m.reading != nil {
		err = m.reading.Close()
		if errors.Is(err, net.ErrClosed) {
			err = nil // its user has closed it
		}
	}
	return errors.Join(err, m.reader.Stop())
}
