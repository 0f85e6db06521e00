package qemu

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"kata-runtime/hypervisor"
)

var (
	_ hypervisor.Saver    = (*VM)(nil)
	_ hypervisor.Restorer = (*VM)(nil)
)

const (
	// stateName is what QEMU calls the descriptor through which a VM's state goes.
	stateName = "vm-state"
	// maxState bounds the state of a VM: that of its devices, and its firmware.
	maxState = 64 << 20
)

// errMigration is the end of a Save or Restore that QEMU does not explain.
var errMigration = errors.New("QEMU has given up")

// Save stops the guest and writes the state of its devices; see hypervisor.Saver. QEMU
// does not save a VM that has a vhost-user device.
func (vm *VM) Save(ctx context.Context, state io.Writer) error {
	err := vm.migrate(ctx, vm.opts.Memory != nil && !vm.opts.Incoming, func(ctx context.Context) error {
		if err := vm.Pause(ctx); err != nil {
			return err
		}
		reader, writer, err := os.Pipe()
		if err != nil {
			return err
		}
		defer reader.Close()
		err = vm.sendState(ctx, writer, "migrate")
		if err := errors.Join(err, writer.Close()); err != nil {
			return err
		}
		// It ends with QEMU's end of the pipe, or with QEMU.
		stop := context.AfterFunc(ctx, func() { _ = reader.SetReadDeadline(time.Unix(1, 0)) })
		defer stop()
		n, err := io.Copy(state, io.LimitReader(reader, maxState+1))
		if err == nil && n > maxState {
			err = fmt.Errorf("its state has more than %d bytes", maxState)
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("save VM %s: %w", vm.opts.Name, err)
	}
	return nil
}

// Restore gives a VM that waits for it the state that Save has written; see
// hypervisor.Restorer.
func (vm *VM) Restore(ctx context.Context, state io.Reader) error {
	err := vm.migrate(ctx, vm.opts.Incoming, func(ctx context.Context) error {
		reader, writer, err := os.Pipe()
		if err != nil {
			return err
		}
		defer writer.Close()
		err = vm.sendState(ctx, reader, "migrate-incoming")
		if err := errors.Join(err, reader.Close()); err != nil {
			return err
		}
		stop := context.AfterFunc(ctx, func() { _ = writer.SetWriteDeadline(time.Unix(1, 0)) })
		defer stop()
		_, err = io.Copy(writer, state)
		return err
	})
	if err != nil {
		return fmt.Errorf("restore VM %s: %w", vm.opts.Name, err)
	}
	return nil
}

// sendState lets QEMU write its state to a descriptor, or read it.
func (vm *VM) sendState(ctx context.Context, file *os.File, command string) error {
	if err := vm.callWithFile(ctx, "getfd", map[string]any{"fdname": stateName}, nil, file); err != nil {
		return err
	}
	return vm.call(ctx, command, map[string]any{"uri": "fd:" + stateName}, nil)
}

// migrate lets move transfer the VM's state, and waits until QEMU says how that went.
func (vm *VM) migrate(ctx context.Context, able bool, move func(context.Context) error) error {
	if !able {
		return fmt.Errorf("the VM was not made for it: %w", hypervisor.ErrUnsupported)
	}
	unlock, err := vm.lockPlugging(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	capabilities := []map[string]any{
		{"capability": "events", "state": true},
		{"capability": "x-ignore-shared", "state": true}, // the guest's memory is in a file
	}
	if err := vm.call(ctx, "migrate-set-capabilities", map[string]any{"capabilities": capabilities}, nil); err != nil {
		return err
	}
	return vm.migrateWith(ctx, move)
}

// migrateWith is migrate for a VM that was told what to leave out.
func (vm *VM) migrateWith(ctx context.Context, move func(context.Context) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	outcome := make(chan error, 1)
	go func() { // ends with QEMU's answer, with QEMU, or with ctx
		err := vm.awaitMigration(ctx)
		if err != nil {
			cancel(err) // nobody reads or writes at the other end any more
		}
		outcome <- err
	}()
	if err := move(ctx); err != nil {
		// Why QEMU gave up tells more than that nobody was at the other end.
		grace := time.AfterFunc(channelGrace, func() { cancel(err) })
		defer grace.Stop()
		if why := <-outcome; why != nil && !errors.Is(why, err) {
			return errors.Join(why, err)
		}
		return err
	}
	return <-outcome
}

// awaitMigration waits until QEMU has said how it went.
func (vm *VM) awaitMigration(ctx context.Context) error {
	select {
	case status := <-vm.migration:
		if status == "completed" {
			return nil
		}
		var told struct {
			Description string `json:"error-desc"`
		}
		err := vm.call(context.WithoutCancel(ctx), "query-migrate", nil, &told)
		switch {
		case err != nil: // it ends when it cannot be restored, and has told why
			return errors.Join(errMigration, vm.awaitExit())
		case told.Description == "":
			return errMigration
		}
		return fmt.Errorf("%w: %q", errMigration, told.Description)
	case <-vm.ended:
		vm.mu.Lock()
		defer vm.mu.Unlock()
		return errors.Join(hypervisor.ErrEnded, vm.outcome)
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// migrated notes that QEMU says how far a migration is. The end counts, and the first.
func (vm *VM) migrated(status string) {
	switch status {
	case "completed", "failed", "cancelled":
		select {
		case vm.migration <- status:
		default:
		}
	}
}
