//go:build vm

package jail_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/child"
	"kata-runtime/hypervisor/jail"
)

// playNamespaces tells the process's namespaces, and whether it has a filter.
func playNamespaces() int {
	found := make(map[string]string)
	for _, name := range []string{"cgroup", "ipc", "mnt", "net", "pid", "uts"} {
		link, err := os.Readlink("/proc/self/ns/" + name)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		found[name] = link
	}
	if mode, _ := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0); mode == unix.SECCOMP_MODE_DISABLED {
		found["system_calls"] = "all"
	}
	if err := json.NewEncoder(os.Stdout).Encode(found); err != nil {
		return 1
	}
	return 0
}

// Each part can be left out, and then nothing else is.
func TestWithoutAPart(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	libraries, err := jail.Libraries(t.Context(), program)
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range append(jail.Parts(), "") {
		t.Run("without "+part, func(t *testing.T) {
			var stdout, stderr bytes.Buffer
			cmd := exec.CommandContext(t.Context(), program)
			cmd.Env, cmd.Stdout, cmd.Stderr, cmd.Dir = []string{roleVariable + "=namespaces"}, &stdout, &stderr, "/"
			err := jail.Confine(cmd, jail.Spec{
				Namespaces: jail.Empty, Root: &jail.Root{Files: append(libraries, program), Self: true},
				SystemCalls: &jail.SystemCalls{}, Without: []string{part},
			})
			if err == nil {
				err = cmd.Run()
			}
			if err != nil {
				t.Fatalf("%v: %s", err, &stderr)
			}
			found := make(map[string]string)
			if err := json.Unmarshal(stdout.Bytes(), &found); err != nil {
				t.Fatal(err)
			}
			var shared []string
			for name, link := range found {
				if ours, _ := os.Readlink("/proc/self/ns/" + name); link == ours || name == "system_calls" {
					shared = append(shared, name)
				}
			}
			want := map[string][]string{"root": {"mnt"}, "keyring": nil, "": nil}[part]
			if part != "root" && part != "keyring" && part != "" {
				want = []string{part}
			}
			if !slices.Equal(shared, want) {
				t.Errorf("it shares %q with its parent, want %q", shared, want)
			}
		})
	}
}

// directoryVariable names a directory for a part to be played in.
const directoryVariable = "JAIL_TEST_DIRECTORY"

// playHost makes this process's host one that forbids a part, tries to start a confined
// process there, and tells the error.
func playHost(kind string) int {
	runtime.LockOSThread() // all of it is the thread's, and goes on to the child
	forbid := map[string]func() error{"limited": forbidNamespaces, "unfiltered": forbidFilters, "ramdisk": forbidPivot}[kind]
	if err := forbid(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(context.Background(), "/bin/true")
	cmd.Stderr, cmd.Dir = &stderr, "/"
	spec := jail.Spec{Namespaces: jail.Empty, SystemCalls: &jail.SystemCalls{}}
	if kind == "ramdisk" {
		spec.Root = &jail.Root{}
	}
	err := jail.Confine(cmd, spec)
	if err == nil {
		// On this thread, where a Starter would have one of its own.
		err = jail.Explain(cmd.SysProcAttr.Cloneflags, cmd.Run())
	}
	fmt.Println(err, strings.TrimSpace(stderr.String()))
	return 0
}

// forbidNamespaces is what an administrator sets; here for the user namespace alone in
// which this process was started.
func forbidNamespaces() error {
	return os.WriteFile("/proc/sys/user/max_net_namespaces", []byte("0"), 0)
}

// forbidFilters makes the kernel one without filters of system calls, for this thread.
func forbidFilters() error {
	program := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS},
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: unix.SYS_SECCOMP},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.ENOSYS)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	filter := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, errno := unix.RawSyscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&filter)))
	runtime.KeepAlive(program)
	if errno != 0 {
		return errno
	}
	return nil
}

// forbidPivot gives this thread a root that cannot be pivoted away, as the initial RAM
// disk's: the mount above it is shared.
func forbidPivot() error {
	dir := os.Getenv(directoryVariable)
	if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
		return err
	}
	for _, m := range []struct {
		source, target string
		flags          uintptr
	}{{"", "/", unix.MS_REC | unix.MS_PRIVATE}, {"/", dir, unix.MS_BIND | unix.MS_REC}, {"", "/", unix.MS_SHARED}} {
		if err := unix.Mount(m.source, m.target, "", m.flags, ""); err != nil {
			return fmt.Errorf("mount %s: %w", m.target, err)
		}
	}
	if err := unix.Chroot(dir); err != nil {
		return err
	}
	return unix.Chdir("/")
}

// A host that forbids a part says which, and what to do about it.
func TestForbidden(t *testing.T) {
	for kind, want := range map[string][]string{
		"limited":    {"user.max_net_namespaces is 0: set it higher", `confine_without = ["net"]`},
		"unfiltered": {"filter system calls", "CONFIG_SECCOMP_FILTER", `confine_without = ["system_calls"]`},
		"ramdisk":    {"pivot to the empty root", "initial RAM disk", `confine_without = ["root"]`},
	} {
		t.Run(kind, func(t *testing.T) {
			var stderr bytes.Buffer
			cmd := exec.CommandContext(t.Context(), os.Args[0])
			cmd.Env, cmd.Stderr = append(os.Environ(), roleVariable+"="+kind, directoryVariable+"="+t.TempDir()), &stderr
			if kind == "limited" {
				ids := []syscall.SysProcIDMap{{Size: 1}}
				cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids}
			}
			out, err := cmd.Output()
			if err != nil {
				t.Fatalf("%v: %s", err, &stderr)
			}
			for _, text := range want {
				if !strings.Contains(string(out), text) {
					t.Errorf("lacks %q: %s", text, out)
				}
			}
		})
	}
}

// The parent says it too, where it does so for others.
func TestStarterExplains(t *testing.T) {
	starter := child.NewStarter()
	defer starter.Close()
	cmd := exec.CommandContext(t.Context(), filepath.Join(t.TempDir(), "none"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWUSER | unix.CLONE_FS}
	if err := starter.Start(cmd); !errors.Is(err, jail.ErrForbidden) { // which the kernel refuses
		t.Errorf("got %v", err)
	}
}
