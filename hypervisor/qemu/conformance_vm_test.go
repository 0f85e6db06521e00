//go:build vm

package qemu_test

import (
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/accel"
	"kata-runtime/hypervisor/hypervisortest"
	"kata-runtime/hypervisor/jail"
	"kata-runtime/hypervisor/qemu"
	"kata-runtime/hypervisor/vsock"
)

// kernel returns the path of the built kernel.
func kernel(t *testing.T) string {
	t.Helper()
	path, err := filepath.Abs("../../share/kata-containers/vmlinux")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Fatalf("%v: run make kernel first", err)
	}
	return path
}

// logger writes to the test's output.
func logger(t *testing.T) *slog.Logger {
	t.Helper()
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// listeningHost is a vsock's host end whose listener of the suite's ReadyPort is
// there before the VM, whose command line names the port.
type listeningHost struct {
	vsock.Host
	ready net.Listener
}

// Listen implements qemu.Vsock.
func (h listeningHost) Listen(port uint32) (net.Listener, error) {
	if port == hypervisortest.ReadyPort {
		return h.ready, nil
	}
	return h.Host.Listen(port)
}

// openVsock opens the host's end of a vsock until the test is over.
func openVsock(t *testing.T) listeningHost {
	t.Helper()
	host := listen(t)
	t.Cleanup(func() {
		if err := host.Close(); err != nil {
			t.Error(err)
		}
	})
	return host
}

// listen opens the host's end of a vsock, which the caller closes.
func listen(t *testing.T) listeningHost {
	t.Helper()
	host, err := vsock.Open(t.Context(), vsock.Options{Log: logger(t)})
	if err != nil {
		t.Fatal(err)
	}
	ready, err := host.Listen(hypervisortest.ReadyPort)
	if err != nil {
		t.Fatal(err)
	}
	return listeningHost{host, ready}
}

// options are those of a small VM with a vsock device.
func options(t *testing.T, initrd string, host listeningHost) qemu.Options {
	t.Helper()
	choice, err := accel.Select(t.Context(), accel.Auto)
	if err != nil {
		t.Fatal(err)
	}
	return qemu.Options{
		Name: "conformance", Accelerator: choice.Name,
		Kernel: kernel(t), Initrd: initrd,
		Size:    hypervisor.Size{VCPUs: 1, MemoryMiB: 256},
		Devices: []hypervisor.Device{host.Device()}, Vsock: host,
		KernelParams: []string{hypervisortest.GuestParam(hypervisor.DialedPort(host.ready))},
		Console:      t.Output(), Log: logger(t),
	}
}

// jailed claims a user for QEMU.
func jailed(t *testing.T) *jail.Options {
	t.Helper()
	dir := t.TempDir()
	user, err := jail.Claim(dir, jail.Range{First: 2_000_000_000, Last: 2_000_000_999})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(user.Release)
	return &jail.Options{Dir: dir, User: user.ID}
}

func TestConformance(t *testing.T) {
	initrd := hypervisortest.BuildGuest(t)
	hypervisortest.Run(t, hypervisortest.Driver{
		New: func(t *testing.T, c hypervisortest.Config) hypervisor.VM {
			o := options(t, initrd, openVsock(t))
			o.Size, o.MaxSize, o.RootPorts, o.Console = c.Size, c.MaxSize, c.Slots, c.Console
			if c.Slots > 4 { // as pods have them: on a bridge
				o.RootPorts, o.Bridges = 0, 1
			}
			o.Jail = jailed(t)
			if c.BrokenKernel {
				o.Kernel = brokenKernel(t)
			}
			vm, err := qemu.New(o)
			if err != nil {
				t.Fatal(err)
			}
			return vm
		},
		Kill: func(t *testing.T, vm hypervisor.VM) {
			if err := syscall.Kill(vm.Info().PID, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		},
		NewTap: newTap,
	})
}

func brokenKernel(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "vmlinux")
	if err := os.WriteFile(path, []byte("this is no kernel"), 0o644); err != nil {
		t.Fatal(err)
	}
	return path
}

// newTap makes a tap in a network namespace of its own, which lives as long as
// the tap.
func newTap(t *testing.T) *os.File {
	t.Helper()
	type result struct {
		file *os.File
		err  error
	}
	made := make(chan result)
	go func() {
		// The goroutine ends with its thread, which is in the namespace.
		runtime.LockOSThread()
		file, err := tapInNewNamespace()
		made <- result{file, err}
	}()
	r := <-made
	if r.err != nil {
		t.Fatal(r.err)
	}
	t.Cleanup(func() { _ = r.file.Close() })
	return r.file
}

func tapInNewNamespace() (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("make a network namespace: %w", err)
	}
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	request, err := unix.NewIfreq("tap0")
	if err != nil {
		return nil, err
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return nil, fmt.Errorf("make a tap: %w", err)
	}
	return os.NewFile(uintptr(fd), "tap0"), nil
}
