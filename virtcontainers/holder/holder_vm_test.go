//go:build vm

package holder_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/holder"
	"kata-runtime/virtcontainers/namespace"
	"kata-runtime/virtcontainers/osthread"
)

// parentVariable makes the test binary start a holder, print its pid, and wait.
const parentVariable = "KATA_HOLDER_TEST_PARENT"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == holder.Command {
		os.Exit(holder.Run(os.Args[2:]))
	}
	if os.Getenv(parentVariable) != "" {
		h, err := holder.Start(context.Background(), holder.Options{ID: "c1", Namespaces: all()})
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
		fmt.Println(h.PID())
		_, _ = os.Stdin.Read(make([]byte, 1))
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func all() []specs.LinuxNamespace {
	return []specs.LinuxNamespace{
		{Type: specs.PIDNamespace},
		{Type: specs.NetworkNamespace},
		{Type: specs.IPCNamespace},
		{Type: specs.UTSNamespace},
		{Type: specs.CgroupNamespace},
		{Type: specs.MountNamespace},
		{Type: specs.UserNamespace},
	}
}

func start(t *testing.T, options holder.Options) *holder.Holder {
	t.Helper()
	h, err := holder.Start(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(h.Stop)
	return h
}

// same tells whether two processes are in the same namespace.
func same(t *testing.T, kind specs.LinuxNamespaceType, a, b int) bool {
	t.Helper()
	first, err := os.Stat(namespace.OfProcess(a, kind))
	second, err2 := os.Stat(namespace.OfProcess(b, kind))
	if err := errors.Join(err, err2); err != nil {
		t.Fatal(err)
	}
	return os.SameFile(first, second)
}

func TestNamespaces(t *testing.T) {
	sandbox := start(t, holder.Options{ID: "sandbox", Namespaces: all(), Hostname: "pod-1"})
	for _, n := range all() {
		want := n.Type == specs.UserNamespace // of the guest alone
		if same(t, n.Type, os.Getpid(), sandbox.PID()) != want {
			t.Errorf("%s namespace is the host's: %v, want %v", n.Type, !want, want)
		}
	}
	if name := hostname(t, sandbox.PID()); name != "pod-1" {
		t.Errorf("the host name is %q", name)
	}
	// Another container of the pod, as containerd's CRI asks for it.
	path := func(kind specs.LinuxNamespaceType) specs.LinuxNamespace {
		return specs.LinuxNamespace{Type: kind, Path: namespace.OfProcess(sandbox.PID(), kind)}
	}
	container := start(t, holder.Options{ID: "container", Hostname: "unused", Namespaces: []specs.LinuxNamespace{
		{Type: specs.PIDNamespace},
		{Type: specs.MountNamespace},
		path(specs.NetworkNamespace), path(specs.IPCNamespace), path(specs.UTSNamespace),
	}})
	for _, kind := range []specs.LinuxNamespaceType{specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace} {
		if !same(t, kind, container.PID(), sandbox.PID()) {
			t.Errorf("%s namespace is another", kind)
		}
	}
	if same(t, specs.PIDNamespace, container.PID(), sandbox.PID()) {
		t.Error("the PID namespace is the same")
	}
	if name := hostname(t, container.PID()); name != "pod-1" {
		t.Errorf("the host name has become %q", name)
	}
	// And one that shares the PID namespace.
	sharing := start(t, holder.Options{ID: "sharing", Namespaces: []specs.LinuxNamespace{path(specs.PIDNamespace)}})
	if !same(t, specs.PIDNamespace, sharing.PID(), sandbox.PID()) || !same(t, specs.NetworkNamespace, sharing.PID(), os.Getpid()) {
		t.Error("it is in other namespaces")
	}
}

func hostname(t *testing.T, pid int) (name string) {
	t.Helper()
	err := osthread.Run(func() error {
		file, err := namespace.Open(specs.UTSNamespace, namespace.OfProcess(pid, specs.UTSNamespace))
		if err != nil {
			return err
		}
		defer file.Close()
		if err := unix.Setns(int(file.Fd()), unix.CLONE_NEWUTS); err != nil {
			return err
		}
		name, err = os.Hostname()
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return name
}

// Through it nothing of the host can be reached.
func TestNothingOfTheHost(t *testing.T) {
	before, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	h := start(t, holder.Options{ID: "c1", Namespaces: all()})
	proc := fmt.Sprintf("/proc/%d", h.PID())
	for _, dir := range []string{"/root/", "/cwd/", "/root/../"} { // a link into another mount namespace: the kernel is to resolve it
		entries, err := os.ReadDir(proc + dir)
		if err != nil || len(entries) > 0 {
			t.Errorf("%s has %v, %v", dir, entries, err)
		}
	}
	if err := os.Mkdir(filepath.Join(proc, "root/x"), 0o700); !errors.Is(err, unix.EROFS) {
		t.Errorf("make a directory: %v, want EROFS", err)
	}
	mounts, err := os.ReadFile(filepath.Join(proc, "mountinfo"))
	if err != nil || strings.Count(string(mounts), "\n") != 1 {
		t.Errorf("it has the mounts %s %v", mounts, err)
	}
	fds, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range fds {
		target, err := os.Readlink(filepath.Join(proc, "fd", fd.Name()))
		if err != nil || target != "/dev/null" && !strings.HasPrefix(target, "pipe:") && !strings.HasPrefix(target, "anon_inode:") {
			t.Errorf("descriptor %s is %s, %v", fd.Name(), target, err)
		}
	}
	after, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil || string(after) != string(before) {
		t.Errorf("the host's mounts are\n%s\n%v", after, err)
	}
}

// Signals are the container's, and nothing to the holder.
func TestSignals(t *testing.T) {
	h := start(t, holder.Options{ID: "c1", Namespaces: []specs.LinuxNamespace{{Type: specs.NetworkNamespace}}})
	keep := []syscall.Signal{ // the kernel's, faults, and the C library's
		unix.SIGKILL, unix.SIGSTOP, unix.SIGSEGV, unix.SIGBUS, unix.SIGFPE, unix.SIGILL, unix.SIGTRAP, unix.SIGABRT, unix.SIGSYS, 32, 33, 34,
	}
	for number := syscall.Signal(1); number < 65; number++ {
		if slices.Contains(keep, number) {
			continue
		}
		if err := unix.Kill(h.PID(), number); err != nil {
			t.Fatal(err)
		}
	}
	// It is there, and can still be entered.
	if same(t, specs.NetworkNamespace, os.Getpid(), h.PID()) {
		t.Error("it is in the host's network namespace")
	}
	if err := unix.Kill(h.PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	<-h.Done()
	h.Stop()
}

// It ends with the process that started it, however that ends.
func TestParentDies(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe")
	cmd.Env = append(os.Environ(), parentVariable+"=1")
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var pid int
	if _, err := fmt.Fscan(output, &pid); err != nil {
		t.Fatal(err)
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, output)
	_ = cmd.Wait() // killed
	poll := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(poll, 30_000)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n != 1 || err != nil {
			t.Errorf("the holder, process %d, has not ended: %v", pid, err)
		}
		return
	}
}

func TestRefused(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	for _, test := range []struct {
		ctx     context.Context //nolint:containedctx // of a test's case
		options holder.Options
		want    string
	}{
		{t.Context(), holder.Options{Namespaces: []specs.LinuxNamespace{{Type: specs.NetworkNamespace, Path: "/nonexistent"}}}, "open the network namespace"},
		{t.Context(), holder.Options{Namespaces: []specs.LinuxNamespace{{Type: specs.NetworkNamespace, Path: "/proc/self/ns/uts"}}}, "is not a network namespace"},
		{t.Context(), holder.Options{Namespaces: []specs.LinuxNamespace{{Type: specs.IPCNamespace, Path: fifo}}}, "is not a ipc namespace"},
		{t.Context(), holder.Options{Namespaces: all(), Hostname: strings.Repeat("x", 100)}, "set the host name"},
		{cancelled, holder.Options{Namespaces: all()}, "context canceled"},
	} {
		h, err := holder.Start(test.ctx, test.options)
		if err == nil {
			h.Stop()
		}
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%v: %v, want %q", test.options.Namespaces, err, test.want)
		}
	}
}

// What is reported of a process in the guest is no process of the host.
func TestGuestPID(t *testing.T) {
	limit, err := os.ReadFile("/proc/sys/kernel/pid_max")
	if err != nil {
		t.Fatal(err)
	}
	var maximum uint64
	if _, err := fmt.Sscan(string(limit), &maximum); err != nil {
		t.Fatal(err)
	}
	for _, pid := range []uint64{0, 1, 1 << 22, 1<<64 - 1} {
		if got := uint64(holder.GuestPID(pid)); got < maximum || got > 1<<31-1 {
			t.Errorf("%d is reported as %d, of at most %d", pid, got, maximum)
		}
	}
	if holder.GuestPID(1) == holder.GuestPID(2) {
		t.Error("two have the same")
	}
}

// A pod has several of them: they must be small.
func TestSmall(t *testing.T) {
	h := start(t, holder.Options{ID: "c1", Namespaces: all()})
	rollup, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", h.PID()))
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%s", rollup)
	for line := range strings.Lines(string(rollup)) {
		var kilobytes int
		if n, _ := fmt.Sscanf(line, "Pss_Anon: %d kB", &kilobytes); n == 1 && kilobytes > 4096 {
			t.Errorf("%d KiB of memory are its own", kilobytes)
		}
	}
}
