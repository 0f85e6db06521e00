package hypervisortest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"syscall"
	"testing"

	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/tail"
)

// testLife walks through the states of a VM.
func testLife(t *testing.T, d Driver) {
	console := tail.New(0)
	vm := newVM(t, d, Config{Console: console})
	refusesAll(t, vm, hypervisor.ErrNotRunning)
	if info := vm.Info(); info.State != hypervisor.StateNew || info.PID != 0 || info.Driver == "" {
		t.Errorf("before Start: %+v", info)
	}
	Boot(t, vm)
	info := vm.Info()
	if info.State != hypervisor.StateRunning || info.PID <= 0 || info.Version == "" || info.Size.VCPUs != 1 {
		t.Errorf("after Start: %+v", info)
	}
	if err := vm.Start(t.Context()); !errors.Is(err, hypervisor.ErrStarted) {
		t.Errorf("second Start: %v", err)
	}
	expect(t, vm, "print the console works", "printed")
	if err := console.WaitLine(bounded(t), "the console works"); err != nil {
		t.Errorf("console: %v; it has %q", err, console)
	}
	connections(t, vm)
	pauseAndResume(t, vm)
	refusesDevices(t, vm)

	listener, err := vm.Listen(2500)
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := vm.Stop(bounded(t)); err != nil {
			t.Errorf("Stop: %v", err)
		}
	}
	if err := vm.Wait(bounded(t)); err != nil {
		t.Errorf("Wait after Stop: %v", err)
	}
	if conn, err := listener.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("a listener outlives its VM: %v, %v", conn, err)
	}
	if err := listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		t.Errorf("close a listener after the end: %v", err)
	}
	if state := vm.Info().State; state != hypervisor.StateEnded {
		t.Errorf("after Stop: %v", state)
	}
	refusesAll(t, vm, hypervisor.ErrEnded)
	if _, err := vm.Listen(2501); !errors.Is(err, hypervisor.ErrEnded) {
		t.Errorf("Listen: %v", err)
	}
	if err := vm.Start(t.Context()); !errors.Is(err, hypervisor.ErrEnded) {
		t.Errorf("Start after the end: %v", err)
	}
}

// refusesAll calls what needs a running VM.
func refusesAll(t *testing.T, vm hypervisor.VM, want error) {
	t.Helper()
	ctx := bounded(t)
	_, dial := vm.Dial(ctx, EchoPort)
	_, resize := vm.Resize(ctx, hypervisor.Size{VCPUs: 2})
	for name, err := range map[string]error{
		"Pause": vm.Pause(ctx), "Resume": vm.Resume(ctx), "Dial": dial, "Resize": resize,
		"Attach": vm.Attach(ctx, textDisk(t, "early", "text", false)), "Detach": vm.Detach(ctx, "early"),
	} {
		if !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", name, err, want)
		}
	}
}

// connections checks both directions of vsock.
func connections(t *testing.T, vm hypervisor.VM) {
	t.Helper()
	conn, err := vm.Dial(bounded(t), EchoPort)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	const text = "there and back"
	if _, err := io.WriteString(conn, text); err != nil {
		t.Fatal(err)
	}
	back := make([]byte, len(text))
	if _, err := io.ReadFull(conn, back); err != nil || string(back) != text {
		t.Errorf("echo: %q, %v", back, err)
	}
	_, err = vm.Dial(bounded(t), 9999)
	if !errors.Is(err, syscall.ECONNREFUSED) && !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("dial a port where nobody listens: %v", err)
	}
	listener, err := vm.Listen(2001)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var host sync.WaitGroup
	host.Go(func() {
		conn, err := listener.Accept()
		if err != nil {
			t.Errorf("accept: %v", err)
			return
		}
		defer conn.Close()
		_, _ = io.WriteString(conn, "from the host\n")
		_, _ = io.Copy(io.Discard, conn)
	})
	expect(t, vm, fmt.Sprint("dial ", hypervisor.DialedPort(listener)), "from the host")
	host.Wait()
}

// pauseAndResume checks that both are idempotent and that the guest goes on.
func pauseAndResume(t *testing.T, vm hypervisor.VM) {
	t.Helper()
	ctx := bounded(t)
	for range 2 {
		if err := vm.Pause(ctx); err != nil {
			t.Errorf("Pause: %v", err)
		}
	}
	if state := vm.Info().State; state != hypervisor.StatePaused {
		t.Errorf("after Pause: %v", state)
	}
	for range 2 {
		if err := vm.Resume(ctx); err != nil {
			t.Errorf("Resume: %v", err)
		}
	}
	if state := vm.Info().State; state != hypervisor.StateRunning {
		t.Errorf("after Resume: %v", state)
	}
	expect(t, vm, "print resumed", "printed")
}

// refusesDevices checks the errors of a VM without slots.
func refusesDevices(t *testing.T, vm hypervisor.VM) {
	t.Helper()
	ctx := bounded(t)
	if err := vm.Attach(ctx, textDisk(t, "one", "text", false)); !errors.Is(err, hypervisor.ErrNoSlot) {
		t.Errorf("Attach without slots: %v", err)
	}
	if err := vm.Detach(ctx, "nothing"); !errors.Is(err, hypervisor.ErrNoDevice) {
		t.Errorf("Detach of nothing: %v", err)
	}
}

func testStopBeforeStart(t *testing.T, d Driver) {
	vm := newVM(t, d, Config{})
	listener, err := vm.Listen(ReadyPort)
	if err != nil {
		t.Fatal(err)
	}
	if err := vm.Stop(bounded(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := listener.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v", err)
	}
	if err := vm.Wait(bounded(t)); err != nil {
		t.Errorf("Wait: %v", err)
	}
	if err := vm.Start(t.Context()); !errors.Is(err, hypervisor.ErrEnded) {
		t.Errorf("Start after Stop: %v", err)
	}
}

func testCancelledStart(t *testing.T, d Driver) {
	vm := newVM(t, d, Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := vm.Start(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("Start: %v", err)
	}
	if err := vm.Wait(bounded(t)); err == nil {
		t.Error("Wait: a VM that did not start has ended well")
	}
}

// testStopWhileStarting leaves no VMM behind, whoever comes first.
func testStopWhileStarting(t *testing.T, d Driver) {
	for range 5 {
		vm := newVM(t, d, Config{})
		started := make(chan error, 1)
		go func() { started <- vm.Start(t.Context()) }()
		if err := vm.Stop(bounded(t)); err != nil {
			t.Errorf("Stop: %v", err)
		}
		if err := <-started; err != nil && !errors.Is(err, hypervisor.ErrEnded) {
			t.Errorf("Start: %v", err)
		}
		if state := vm.Info().State; state != hypervisor.StateEnded {
			t.Errorf("after Stop: %v", state)
		}
	}
}

// testBrokenKernel demands the VMM's own words, from Start or from Wait.
func testBrokenKernel(t *testing.T, d Driver) {
	vm := newVM(t, d, Config{BrokenKernel: true})
	err := vm.Start(bounded(t))
	if err == nil {
		err = vm.Wait(bounded(t))
	}
	var exit *hypervisor.ExitError
	if !errors.As(err, &exit) || exit.Stderr == "" || !errors.Is(err, hypervisor.ErrEnded) {
		t.Fatalf("got %v", err)
	}
	if err := vm.Wait(bounded(t)); !errors.Is(err, hypervisor.ErrEnded) {
		t.Errorf("Wait: %v", err)
	}
}

func testGuestPowersOff(t *testing.T, d Driver) {
	vm := boot(t, d, Config{})
	Tell(t, vm, "poweroff")
	var waiters sync.WaitGroup
	for range 3 {
		waiters.Go(func() {
			if err := vm.Wait(bounded(t)); err != nil {
				t.Errorf("Wait: %v", err)
			}
		})
	}
	waiters.Wait()
	refusesAll(t, vm, hypervisor.ErrEnded)
}

func testGuestPanics(t *testing.T, d Driver) {
	console := tail.New(0)
	vm := boot(t, d, Config{Console: console})
	Tell(t, vm, "panic")
	err := vm.Wait(bounded(t))
	if !errors.Is(err, hypervisor.ErrGuestReset) || !errors.Is(err, hypervisor.ErrEnded) {
		t.Errorf("Wait: %v", err)
	}
	if !strings.Contains(console.String(), "Kernel panic") {
		t.Errorf("the console does not tell of the panic: %q", console.Lines(5))
	}
}

func testVMMKilled(t *testing.T, d Driver) {
	vm := boot(t, d, Config{})
	conn, err := vm.Dial(bounded(t), EchoPort)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	d.Kill(t, vm)
	err = vm.Wait(bounded(t))
	var exit *hypervisor.ExitError
	if !errors.As(err, &exit) || !strings.Contains(exit.Status, "killed") {
		t.Errorf("Wait: %v", err)
	}
	refusesAll(t, vm, hypervisor.ErrEnded)
}
