package machine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"time"

	"kata-runtime/guest/protocol"
	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/child"
	"kata-runtime/hypervisor/tail"
)

// Saved is what a machine begins as instead of booting.
type Saved struct {
	// Memory is the guest's: a copy of what Save has left there, once Copied has returned
	// nil. New takes a duplicate.
	Memory *os.File
	Copied func() error
	// State is what Save has written.
	State []byte
}

// ErrNoTemplate says that a machine of this configuration cannot be saved or restored.
var ErrNoTemplate = errors.New("machines of this configuration cannot be saved")

var (
	errNotPlugged = fmt.Errorf("%w: the share is served by 9p, which cannot be plugged in", ErrNoTemplate)
	errOnDisk     = fmt.Errorf("%w: their root file system is on a disk", ErrNoTemplate)
)

// Save boots a machine that has neither vsock nor share nor network, and saves it once its
// agent waits for the host: its memory is in the file then, which has room for it. Nothing
// else is left of the machine. Of the spec, what every machine of the configuration has
// counts, and ID and Log.
func Save(ctx context.Context, spec Spec, memory *os.File, state io.Writer) (err error) {
	settings := spec.Config.Hypervisor
	if settings.Image != "" {
		return errOnDisk
	}
	choice, err := selectAccelerator(ctx, settings)
	if err != nil {
		return err
	}
	m := &Machine{starter: child.NewStarter(), console: tail.New(consoleSize)}
	defer func() { err = errors.Join(err, m.Stop(context.WithoutCancel(ctx))) }()
	if settings.Confine {
		if m.user, err = claimUser(settings); err != nil {
			return fmt.Errorf("confine the machine's processes: %w", err)
		}
	}
	params := append([]string{protocol.TemplateParameter + "=1"}, strings.Fields(settings.KernelParams)...)
	if m.VM, err = m.newVM(spec, choice.Name, params, nil, m.jail(spec), memory); err != nil {
		return err
	}
	saver, ok := m.VM.(hypervisor.Saver)
	if !ok {
		return fmt.Errorf("%w: the driver %s does not save", ErrNoTemplate, settings.Driver)
	}
	if err := m.VM.Start(ctx); err != nil {
		return err
	}
	if err := m.awaitAgent(ctx); err != nil {
		return err
	}
	return saver.Save(ctx, state)
}

// awaitAgent waits until the console tells that the agent waits for the host.
func (m *Machine) awaitAgent(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() { // ends with the VM, or with ctx
		err := m.VM.Wait(ctx)
		if err == nil {
			err = hypervisor.ErrEnded
		}
		cancel(err)
	}()
	if err := m.AwaitConsole(ctx, protocol.TemplateMarker); err != nil {
		return fmt.Errorf("wait for the agent of the machine that is to be saved: %w; console: %q", context.Cause(ctx), m.ConsoleTail())
	}
	return nil
}

// Start is that of hypervisor.VM. A machine that is restored has its devices then, and
// its guest runs.
func (m *Machine) Start(ctx context.Context) error {
	if err := m.VM.Start(ctx); err != nil {
		return err
	}
	// A guest that boots does so meanwhile.
	if err := m.startReader(ctx); err != nil || m.saved == nil {
		return err
	}
	restorer, ok := m.VM.(hypervisor.Restorer)
	if !ok {
		return fmt.Errorf("%w: its driver does not restore", ErrNoTemplate)
	}
	if err := m.saved.Copied(); err != nil {
		return err
	}
	if err := restorer.Restore(ctx, bytes.NewReader(m.saved.State)); err != nil {
		return err
	}
	m.saved = &Saved{} // nobody needs it any more
	for _, device := range m.plugged {
		if err := m.VM.Attach(ctx, device); err != nil {
			return err
		}
	}
	if err := m.VM.Resume(ctx); err != nil {
		return err
	}
	return m.awaitVsock(ctx)
}

// awaitVsock waits until the guest has found its vsock device. With a device of ours it is
// Dial that waits. The host's kernel tells nobody when a guest is there.
func (m *Machine) awaitVsock(ctx context.Context) error {
	for pause := 5 * time.Millisecond; ; pause = min(2*pause, 100*time.Millisecond) {
		conn, err := m.VM.Dial(ctx, protocol.AgentPort)
		switch {
		case err == nil:
			return conn.Close()
		case m.Vsock() != "vhost" || !notThereYet(err):
			return fmt.Errorf("reach the agent of the restored machine: %w", err)
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return fmt.Errorf("reach the agent of the restored machine: %w", context.Cause(ctx))
		}
	}
}

func notThereYet(err error) bool {
	var timeout net.Error
	return errors.Is(err, syscall.ENODEV) || errors.Is(err, syscall.ECONNRESET) || errors.As(err, &timeout) && timeout.Timeout()
}
