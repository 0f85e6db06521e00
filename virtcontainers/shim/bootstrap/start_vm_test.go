//go:build vm

package bootstrap

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	boot "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	task "github.com/containerd/containerd/api/runtime/task/v2"
	runc "github.com/containerd/containerd/api/types/runc/options"
	runtimeoptions "github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
)

// socketsVariable tells the program under test where sockets belong.
const socketsVariable = "TEST_SOCKETS"

// TestMain is also the program, with a task service that does nothing.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "-test.") {
		p := Program{Version: "1", Commit: "abc", SocketDir: os.Getenv(socketsVariable), Serve: serveFake}
		os.Exit(p.Run(os.Args[1:]))
	}
	os.Exit(m.Run())
}

const (
	sandboxOf   = `{"io.kubernetes.cri.container-type":"sandbox","io.kubernetes.cri.sandbox-id":"pod"}`
	containerOf = `{"io.kubernetes.cri.container-type":"container","io.kubernetes.cri.sandbox-id":"pod"}`
)

func TestStart(t *testing.T) {
	w := newWorld(t)
	dir := w.bundle("pod", sandboxOf)
	address := w.start("pod", nil)
	path, err := socketPath(w.sockets, "/c.sock", "k8s.io", "pod")
	if err != nil || address != scheme+path {
		t.Fatalf("%q, want the address of %s", address, path)
	}
	given, pid := w.given(address)
	if given.Namespace != "k8s.io" || given.ID != "pod" || given.Bundle != dir || given.Address != "/c.sock" ||
		given.TTRPCAddress != "/c.sock.ttrpc" || given.PublishBinary != "/bin/true" || given.StateRoot != filepath.Join(w.root, "k8s.io") || given.Debug {
		t.Errorf("given %+v", given)
	}
	if w.pid("pod") != pid {
		t.Errorf("shim.pid has %d, the server is %d", w.pid("pod"), pid)
	}
	if data, err := os.ReadFile(filepath.Join(dir, "address")); string(data) != address {
		t.Errorf("address has %q, %v", data, err)
	}
	checkProcess(t, pid)

	t.Run("twice", func(t *testing.T) {
		if again := w.start("pod", nil); again != address || w.pid("pod") != pid {
			t.Errorf("%q by %d, want that of %d", again, w.pid("pod"), pid)
		}
	})
	t.Run("container of the pod", func(t *testing.T) {
		member := w.bundle("member", containerOf)
		if got := w.start("member", nil); got != address {
			t.Errorf("%q, want %q", got, address)
		}
		if data, _ := os.ReadFile(filepath.Join(member, "address")); string(data) != address {
			t.Errorf("its bundle has %q", data)
		}
		if w.pid("member") != 0 {
			t.Error("it has a server of its own")
		}
	})
	t.Run("killed, and started again", func(t *testing.T) {
		if err := unix.Kill(pid, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		w.awaitEnd(pid)
		w.bundle("late", containerOf)
		if out, err := w.run(w.command("late", "start")); err == nil || !strings.Contains(out, `sandbox "pod"`) || !strings.Contains(out, path) {
			t.Errorf("a container of a dead pod: %v, %s", err, out)
		}
		if out, err := w.run(w.command("pod", "delete")); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		if again := w.start("pod", nil); again != address {
			t.Errorf("%q, want %q", again, address)
		}
		if _, now := w.given(address); now == pid || now != w.pid("pod") {
			t.Errorf("%d serves", now)
		}
	})
	t.Run("ends orderly", func(t *testing.T) {
		_, pid := w.given(address)
		if _, err := w.client(address).Shutdown(t.Context(), &task.ShutdownRequest{}); err != nil && !errors.Is(err, ttrpc.ErrClosed) {
			t.Error(err)
		}
		w.awaitEnd(pid)
		w.isGone(address)
	})
}

// checkProcess looks at a server from outside.
func checkProcess(t *testing.T, pid int) {
	t.Helper()
	proc := fmt.Sprintf("/proc/%d/", pid)
	if session, err := unix.Getsid(pid); session != pid || err != nil {
		t.Errorf("its session is %d, %v", session, err)
	}
	own, _ := os.Readlink("/proc/self/ns/mnt")
	if theirs, err := os.Readlink(proc + "ns/mnt"); theirs == own || err != nil {
		t.Errorf("it shares the mount namespace %s, %v", theirs, err)
	}
	for _, fd := range []string{"0", "1"} {
		if to, err := os.Readlink(proc + "fd/" + fd); to != os.DevNull {
			t.Errorf("its descriptor %s is %s, %v", fd, to, err)
		}
	}
	if to, err := os.Readlink(proc + "fd/2"); filepath.Base(to) != "log" {
		t.Errorf("its descriptor 2 is %s, %v", to, err)
	}
	data, err := os.ReadFile(proc + "environ")
	if err != nil {
		t.Fatal(err)
	}
	if env := strings.Split(string(data), "\x00"); slices.Contains(env, "GOMAXPROCS=2") {
		t.Errorf("it has its caller's environment: %q", env)
	}
	mine, err := oomScore("/proc/self/oom_score_adj")
	if err != nil {
		t.Fatal(err)
	}
	if theirs, err := oomScore(proc + "oom_score_adj"); theirs != min(mine+1, 1000) || err != nil {
		t.Errorf("its OOM score is %d, %v; the caller's %d", theirs, err, mine)
	}
}

func TestStdin(t *testing.T) {
	options := encode(t, typed(t, &runtimeoptions.Options{ConfigPath: "/etc/kata.toml"}))
	announced := &boot.BootstrapParams{
		InstanceID: "pod", Namespace: "k8s.io", ContainerdTtrpcAddress: "/other.ttrpc", LogLevel: boot.LogLevel_LOG_LEVEL_DEBUG,
		Extensions: []*boot.Extension{{Value: typed(t, &runtimeoptions.Options{ConfigPath: "/etc/kata.toml"})}},
	}
	open, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	defer writer.Close()
	tests := map[string]struct {
		stdin  io.Reader
		config string
	}{
		"nothing":              {},
		"empty":                {stdin: strings.NewReader("")},
		"options":              {stdin: bytes.NewReader(options), config: "/etc/kata.toml"},
		"nonsense":             {stdin: strings.NewReader("\xff\x00nonsense")},
		"a pipe left open":     {stdin: open},
		"unknown options":      {stdin: bytes.NewReader(encode(t, typed(t, &boot.BootstrapParams{})))},
		"of another container": {stdin: bytes.NewReader(encode(t, &boot.BootstrapParams{InstanceID: "other", Namespace: "k8s.io"}))},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.bundle("pod", sandboxOf)
			address := w.start("pod", test.stdin)
			if !strings.HasPrefix(address, scheme+w.sockets) {
				t.Fatalf("%q is no raw address", address)
			}
			if given, _ := w.given(address); given.Options.ConfigPath != test.config {
				t.Errorf("given %+v", given)
			}
		})
	}
	t.Run("closed", func(t *testing.T) {
		w := newWorld(t)
		w.bundle("pod", sandboxOf)
		cmd := w.command("pod", "start")
		cmd.Args = append([]string{"sh", "-c", `exec "$0" "$@" <&-`, "/proc/" + strconv.Itoa(os.Getpid()) + "/exe"}, cmd.Args[1:]...)
		cmd.Path = "/bin/sh"
		address, err := w.run(cmd)
		if err != nil {
			t.Fatalf("%v: %s", err, address)
		}
		w.given(address)
	})
	t.Run("BootstrapParams", func(t *testing.T) {
		w := newWorld(t)
		w.bundle("pod", sandboxOf)
		dir := shortDir(t)
		announced.SocketDir = &dir
		var result boot.BootstrapResult
		out := w.start("pod", bytes.NewReader(encode(t, announced)))
		if err := proto.Unmarshal([]byte(out), &result); err != nil {
			t.Fatalf("%v: %q", err, out)
		}
		if result.GetVersion() != 3 || result.GetProtocol() != "ttrpc" || !strings.HasPrefix(result.GetAddress(), scheme+dir) {
			t.Errorf("%+v", &result)
		}
		given, _ := w.given(result.GetAddress())
		if given.Options.ConfigPath != "/etc/kata.toml" || given.TTRPCAddress != "/other.ttrpc" || !given.Debug {
			t.Errorf("given %+v", given)
		}
		// A containerd that has been downgraded asks for a container of it.
		w.sockets = dir
		w.bundle("member", containerOf)
		if address := w.start("member", nil); address != result.GetAddress() {
			t.Errorf("%q, want %q", address, result.GetAddress())
		}
	})
	t.Run("long path", func(t *testing.T) {
		w := newWorld(t)
		w.bundle("pod", sandboxOf)
		dir := filepath.Join(shortDir(t), strings.Repeat("d", 50))
		announced.SocketDir = &dir
		cmd := w.command("pod", "start")
		cmd.Stdin = bytes.NewReader(encode(t, announced))
		if out, err := w.run(cmd); err == nil || !strings.Contains(out, "socket_dir") {
			t.Errorf("%v: %s", err, out)
		}
		if w.pid("pod") != 0 {
			t.Error("a server was started")
		}
	})
}

// Several starts of one id at the same time have one server.
func TestStartAtOnce(t *testing.T) {
	w := newWorld(t)
	w.bundle("pod", sandboxOf)
	var all sync.WaitGroup
	addresses := make([]string, 6)
	for i := range addresses {
		all.Go(func() {
			out, err := w.run(w.command("pod", "start"))
			if err != nil {
				t.Errorf("%v: %s", err, out)
			}
			addresses[i] = out
		})
	}
	all.Wait()
	if different := slices.Compact(slices.Clone(addresses)); len(different) != 1 {
		t.Fatalf("%q", different)
	}
	if _, pid := w.given(addresses[0]); pid != w.pid("pod") {
		t.Errorf("%d serves, shim.pid has %d", pid, w.pid("pod"))
	}
}

// A start that is killed before its caller has the answer leaves nothing.
func TestStartKilled(t *testing.T) {
	w := newWorld(t)
	w.bundle("pod", sandboxOf)
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	defer writer.Close()
	full := int(writer.Fd()) // which makes it blocking
	if err := unix.SetNonblock(full, true); err != nil {
		t.Fatal(err)
	}
	for { // until no answer fits
		if _, err := unix.Write(full, make([]byte, 4096)); err != nil {
			break
		}
	}
	if err := unix.SetNonblock(full, false); err != nil {
		t.Fatal(err)
	}
	cmd := w.command("pod", "start")
	cmd.Stdout = writer
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	path, err := socketPath(w.sockets, "/c.sock", "k8s.io", "pod")
	if err != nil {
		t.Fatal(err)
	}
	await(t, "the address in the bundle", func() bool { return exists(filepath.Join(w.bundles, "pod", "address")) })
	_, pid := w.given(scheme + path)
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // killed
	w.awaitEnd(pid)
	w.isGone(scheme + path)
	address := w.start("pod", nil)
	if _, again := w.given(address); again == pid {
		t.Error("it has not ended")
	}
}

// A log goes on when containerd is restarted, and a signal ends the server.
func TestLogAndSignals(t *testing.T) {
	w := newWorld(t)
	dir := w.bundle("pod", sandboxOf)
	reader := readFIFO(t, filepath.Join(dir, "log"))
	address := w.start("pod", nil)
	lines := bufio.NewReader(reader)
	if got := line(t, lines); !strings.Contains(got, `level=info msg=serves id=pod`) {
		t.Errorf("%q", got)
	}
	reader.Close()
	_, pid := w.given(address)
	if err := unix.Kill(pid, unix.SIGPIPE); err != nil {
		t.Fatal(err)
	}
	if err := unix.Kill(pid, unix.SIGUSR1); err != nil { // writes a log that nobody reads
		t.Fatal(err)
	}
	w.given(address)
	lines = bufio.NewReader(readFIFO(t, filepath.Join(dir, "log")))
	if got := line(t, lines); !strings.Contains(got, "goroutines") {
		t.Errorf("%q", got)
	}
	if err := unix.Kill(pid, unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	w.awaitEnd(pid)
	w.isGone(address)
}

// What the host mounts later shows in the server, what the server mounts nowhere
// else; and what the host does not share can be reached in its namespace.
func TestMounts(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread ends with its mount namespace
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	shared, private := t.TempDir(), t.TempDir()
	for dir, propagation := range map[string]uintptr{shared: unix.MS_SHARED, private: unix.MS_PRIVATE} {
		if err := unix.Mount("test", dir, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }) // else it goes with the thread
		if err := unix.Mount("", dir, "", propagation, ""); err != nil {
			t.Fatal(err)
		}
	}
	w := newWorld(t)
	w.bundles = filepath.Join(shared, "bundles")
	dir := w.bundle("pod", sandboxOf)
	address := w.start("pod", nil)
	_, pid := w.given(address)
	client := w.client(address)
	theirs := fmt.Sprintf("/proc/%d/root", pid)

	if _, err := client.Pause(t.Context(), &task.PauseRequest{}); err != nil {
		t.Fatal(err)
	}
	if file := filepath.Join(dir, "rootfs", "file"); exists(file) || !exists(theirs+file) {
		t.Errorf("the server's mount: here %v, in its own namespace %v", exists(file), exists(theirs+file))
	}
	for _, volume := range []string{shared, private} {
		volume = filepath.Join(volume, "volume")
		if err := os.Mkdir(volume, 0o700); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount("volume", volume, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(volume, "file")
		if err := os.WriteFile(file, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if wants := strings.HasPrefix(volume, shared); exists(theirs+file) != wants {
			t.Errorf("%s shows in the server's namespace: %v", file, !wants)
		}
		if _, err := client.Resume(t.Context(), &task.ResumeRequest{ID: file}); err != nil {
			t.Errorf("%s in the caller's namespace: %v", file, err)
		}
	}
	// containerd removes the directory, whatever the server has there.
	if err := os.Remove(filepath.Join(dir, "rootfs")); err != nil {
		t.Error(err)
	}
	_ = unix.Kill(pid, unix.SIGKILL) // here, before the bundles' mount goes
	w.awaitEnd(pid)
}

func TestShimCgroup(t *testing.T) {
	w := newWorld(t)
	w.bundle("pod", sandboxOf)
	name := fmt.Sprintf("/kata-bootstrap-test-%d", os.Getpid())
	made := ""
	for _, dir := range []string{"/sys/fs/cgroup/cgroup.controllers", "/sys/fs/cgroup/pids/tasks", "/sys/fs/cgroup/memory/tasks"} {
		group := filepath.Join(filepath.Dir(dir), name)
		if exists(dir) && os.Mkdir(group, 0o755) == nil {
			made = group
			break
		}
	}
	if made == "" {
		t.Skip("no control group can be made here")
	}
	defer func() {
		if err := unix.Rmdir(made); err != nil {
			t.Error(err)
		}
	}()
	options := encode(t, typed(t, &runc.Options{ShimCgroup: name}))
	address := w.start("pod", bytes.NewReader(options))
	_, pid := w.given(address)
	data, err := os.ReadFile(filepath.Join(made, "cgroup.procs"))
	if err != nil || !slices.Contains(strings.Fields(string(data)), strconv.Itoa(pid)) {
		t.Errorf("%d is not in %s: %q, %v", pid, made, data, err)
	}
	_ = unix.Kill(pid, unix.SIGKILL)
	w.awaitEnd(pid)
	await(t, "an empty group", func() bool {
		data, err := os.ReadFile(filepath.Join(made, "cgroup.procs"))
		return err == nil && len(data) == 0
	})
	w.bundle("other", "null")
	cmd := w.command("other", "start")
	cmd.Stdin = bytes.NewReader(encode(t, typed(t, &runc.Options{ShimCgroup: "/no/such/group"})))
	if out, err := w.run(cmd); err == nil || !strings.Contains(out, "ShimCgroup") {
		t.Errorf("a group that is not there: %v, %s", err, out)
	}
	if left, _ := os.ReadDir(w.sockets); len(left) != 1 { // that of the killed one
		t.Errorf("left: %v", left)
	}
}
