package qemu

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"kata-runtime/hypervisor"
)

func TestOnlyAVMThatWasMadeForItIsSaved(t *testing.T) {
	vm := hostileVM(t, nil, "")
	if err := vm.Save(t.Context(), io.Discard); !errors.Is(err, hypervisor.ErrUnsupported) {
		t.Errorf("save a VM whose memory is its own: %v", err)
	}
	if err := vm.Restore(t.Context(), &bytes.Buffer{}); !errors.Is(err, hypervisor.ErrUnsupported) {
		t.Errorf("restore a VM that boots: %v", err)
	}
	vm.opts.Memory, vm.opts.Incoming = null(t), true
	if err := vm.Save(t.Context(), io.Discard); !errors.Is(err, hypervisor.ErrUnsupported) {
		t.Errorf("save a VM that was restored: %v", err)
	}
}

// What QEMU says of the end of a save is its outcome, whatever it says afterwards; and one
// that says nothing is waited for no longer than the caller wants, or QEMU lives.
func TestHowASaveEnds(t *testing.T) {
	gaveUp := errors.New("gave up")
	nothing := func(context.Context) error { return nil }
	for name, c := range map[string]struct {
		events []string
		answer string
		copy   func(context.Context) error
		ended  bool
		cancel bool
		want   error
		text   string
	}{
		"completed":              {events: []string{"setup", "active", "completed", "failed"}, copy: nothing},
		"failed":                 {events: []string{"setup", "failed", "completed"}, answer: `{"error-desc": "no room"}`, copy: nothing, want: errMigration, text: "no room"},
		"failed without a word":  {events: []string{"failed"}, answer: `{}`, copy: nothing, want: errMigration},
		"QEMU ends":              {copy: nothing, ended: true, want: hypervisor.ErrEnded},
		"whoever waits gives up": {copy: nothing, cancel: true, want: gaveUp},
		"the state goes nowhere": {events: []string{"failed"}, answer: `{"error-desc": "broken pipe"}`, copy: func(context.Context) error { return io.ErrClosedPipe }, want: io.ErrClosedPipe, text: "broken pipe"},
		"QEMU ends meanwhile": {copy: func(ctx context.Context) error {
			<-ctx.Done() // as the pipe's deadline does
			return io.ErrUnexpectedEOF
		}, ended: true, want: hypervisor.ErrEnded},
	} {
		t.Run(name, func(t *testing.T) {
			vm := hostileVM(t, map[string]string{"query-migrate": c.answer}, "")
			vm.migration = make(chan string, 1)
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			if c.cancel {
				cancel(gaveUp)
			}
			if c.ended {
				close(vm.ended)
			}
			for _, status := range c.events {
				vm.migrated(status)
			}
			err := vm.migrateWith(ctx, c.copy)
			if !errors.Is(err, c.want) || c.text != "" && !strings.Contains(err.Error(), c.text) {
				t.Errorf("%v, want %v", err, c.want)
			}
		})
	}
}
