package hypervisortest

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"kata-runtime/hypervisor"
)

// patience is far above what anything takes; its end is a failure.
const patience = 5 * time.Minute

// Config is what a test wants of a VM.
type Config struct {
	// Size and MaxSize are as in a driver's options.
	Size, MaxSize hypervisor.Size
	// Slots is how many devices must be attachable at a time.
	Slots int
	// Console gets the guest's console.
	Console io.Writer
	// BrokenKernel asks for a kernel that the VMM cannot load.
	BrokenKernel bool
}

// Driver is what Run tests.
type Driver struct {
	// New returns a VM that is not started, with the suite's guest. The suite
	// stops it.
	New func(t *testing.T, c Config) hypervisor.VM
	// Kill ends the VMM from outside, as with SIGKILL.
	Kill func(t *testing.T, vm hypervisor.VM)
	// NewTap returns a tap for a NIC. Nil: the driver takes no NIC.
	NewTap func(t *testing.T) *os.File
}

// Run is the conformance suite.
func Run(t *testing.T, d Driver) {
	t.Helper()
	for _, test := range []struct {
		name string
		run  func(*testing.T, Driver)
	}{
		{"Life", testLife},
		{"StopBeforeStart", testStopBeforeStart},
		{"CancelledStart", testCancelledStart},
		{"StopWhileStarting", testStopWhileStarting},
		{"BrokenKernel", testBrokenKernel},
		{"GuestPowersOff", testGuestPowersOff},
		{"GuestPanics", testGuestPanics},
		{"VMMKilled", testVMMKilled},
		{"Disks", testDisks},
		{"ManyDisks", testManyDisks},
		{"Resize", testResize},
		{"ResizeInSmallSteps", testSmallSteps},
	} {
		t.Run(test.name, func(t *testing.T) { test.run(t, d) })
	}
	if d.NewTap != nil {
		t.Run("NIC", func(t *testing.T) { testNIC(t, d) })
	}
}

// bounded is the test's context with the suite's patience.
func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	return ctx
}

// newVM makes a VM that is stopped when the test is over.
func newVM(t *testing.T, d Driver, c Config) hypervisor.VM {
	t.Helper()
	if c.Size == (hypervisor.Size{}) {
		c.Size = hypervisor.Size{VCPUs: 1, MemoryMiB: 256}
	}
	if c.Console == nil {
		c.Console = t.Output()
	}
	vm := d.New(t, c)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
		defer cancel()
		if err := vm.Stop(ctx); err != nil {
			t.Errorf("stop: %v", err)
		}
	})
	return vm
}

// Boot starts a VM whose guest is the suite's, waits until the guest is up, and
// returns the guest's connection to ReadyPort, which stays open until the test
// is over.
func Boot(t *testing.T, vm hypervisor.VM) net.Conn {
	t.Helper()
	ctx := bounded(t)
	ready, err := vm.Listen(ReadyPort)
	if err != nil {
		t.Fatal(err)
	}
	defer ready.Close()
	if err := vm.Start(ctx); err != nil {
		t.Fatal(err)
	}
	// A VM that ends closes its listeners.
	conn, err := ready.Accept()
	if err != nil {
		t.Fatalf("the guest did not come up: %v; the VM: %v", err, vm.Wait(ctx))
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// GuestParam is the kernel parameter of the suite's guest that names the port
// which it dials for the listener of ReadyPort, where that is another one.
func GuestParam(port uint32) string { return fmt.Sprintf("suite.ready=%d", port) }

// boot makes and boots a VM.
func boot(t *testing.T, d Driver, c Config) hypervisor.VM {
	t.Helper()
	vm := newVM(t, d, c)
	Boot(t, vm)
	return vm
}

// Ask asks the suite's guest a question and returns the answer.
func Ask(t *testing.T, vm hypervisor.VM, question string) string {
	t.Helper()
	conn := ask(t, vm, question)
	defer conn.Close()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		t.Fatalf("%s: %v", question, err)
	}
	return strings.TrimSuffix(line, "\n")
}

// Tell gives the suite's guest an order that has no answer.
func Tell(t *testing.T, vm hypervisor.VM, order string) {
	t.Helper()
	conn := ask(t, vm, order)
	// Closed when the test is over, lest the order be lost.
	t.Cleanup(func() { _ = conn.Close() })
}

// ask sends a question and leaves the answer in the connection.
func ask(t *testing.T, vm hypervisor.VM, question string) net.Conn {
	t.Helper()
	conn, err := vm.Dial(bounded(t), CommandPort)
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if _, err := fmt.Fprintln(conn, question); err != nil {
		t.Fatalf("%s: %v", question, err)
	}
	return conn
}

// expect asks and compares.
func expect(t *testing.T, vm hypervisor.VM, question, want string) {
	t.Helper()
	if got := Ask(t, vm, question); got != want {
		t.Errorf("%s: the guest says %q, want %q", question, got, want)
	}
}
