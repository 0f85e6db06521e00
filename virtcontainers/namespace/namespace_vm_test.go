//go:build vm

package namespace_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/namespace"
)

// The name of a namespace says nothing: a bind mount of the host's is the
// host's, and another process's own is not.
func TestIdentityDecides(t *testing.T) {
	runtime.LockOSThread() // never unlocked: the thread ends with its mount namespace
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	other := exec.CommandContext(t.Context(), "sleep", "1000")
	other.SysProcAttr = &syscall.SysProcAttr{
		Pdeathsig:  unix.SIGKILL,
		Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS | unix.CLONE_NEWPID | unix.CLONE_NEWCGROUP | unix.CLONE_NEWNS,
	}
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = other.Process.Kill()
		_ = other.Wait() // killed
	}()
	for _, kind := range []specs.LinuxNamespaceType{
		specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.PIDNamespace, specs.CgroupNamespace,
	} {
		bound := filepath.Join(t.TempDir(), "default")
		if err := os.WriteFile(bound, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := unix.Mount(namespace.OfProcess(os.Getpid(), kind), bound, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		// Paths are resolved by the thread that is in the mount namespace.
		for path, want := range map[string]bool{
			bound: true, namespace.OfProcess(other.Process.Pid, kind): false,
		} {
			hosts, err := namespace.PathIsHost(kind, path)
			if err != nil || hosts != want {
				t.Errorf("%s namespace at %s: host's %v, want %v: %v", kind, path, hosts, want, err)
			}
		}
		if err := unix.Unmount(bound, 0); err != nil {
			t.Error(err)
		}
	}
}
