//go:build vm

package bundle_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	caller "kata-runtime/test/bundle"
	"kata-runtime/virtcontainers/bundle"
	"kata-runtime/virtcontainers/namespace"
	"kata-runtime/virtcontainers/osthread"
)

// newNetwork makes a network namespace, which is there as long as its file is open.
func newNetwork(t *testing.T) *os.File {
	t.Helper()
	var file *os.File
	err := osthread.Run(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		file, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

// lead makes a path one of an open file's.
func lead(t *testing.T, path string, file *os.File) {
	t.Helper()
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	if err := os.Symlink(fmt.Sprintf("/proc/self/fd/%d", file.Fd()), path); err != nil {
		t.Fatal(err)
	}
}

// where runs a process that stands for a container, and returns what it says of its
// network namespace.
func where(t *testing.T, namespaces []specs.LinuxNamespace) string {
	t.Helper()
	var output strings.Builder
	cmd := exec.Command("readlink", "/proc/self/ns/net")
	cmd.Stdout = &output
	err := namespace.Start(cmd, namespaces)
	if err == nil {
		err = cmd.Wait()
	}
	if err != nil {
		t.Error(err)
	}
	return strings.TrimSpace(output.String())
}

func name(t *testing.T, file *os.File) string {
	t.Helper()
	text, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", file.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// joined is a pod to which every namespace belongs.
type joined struct{}

func (joined) ID() string                                 { return "pod" }
func (joined) Owner(specs.LinuxNamespace) (string, error) { return "pod", nil }
func (joined) OnHostNetwork() (bool, error)               { return false, nil }

// The network namespace at a path is looked up once: what is there later does not
// count, neither for the pod nor for who stands for the container on the host.
func TestNetworkIsOpenedOnce(t *testing.T) {
	first, second := newNetwork(t), newNetwork(t)
	path := filepath.Join(t.TempDir(), "network")
	spec := caller.Spec("true")
	for i, ns := range spec.Linux.Namespaces {
		if ns.Type == specs.NetworkNamespace {
			spec.Linux.Namespaces[i].Path = path
		}
	}
	for kind, pod := range map[string]bundle.Pod{"first container": nil, "member": joined{}} {
		t.Run(kind, func(t *testing.T) {
			lead(t, path, first)
			copied := *spec
			b := &bundle.Bundle{Dir: t.TempDir(), Rootfs: t.TempDir(), Spec: &copied}
			defer b.Close()
			if err := b.Prepare(bundle.Options{ID: "c1", Pod: pod}); err != nil {
				t.Fatal(err)
			}
			lead(t, path, second)
			if got, want := where(t, b.Namespaces()), name(t, first); got != want {
				t.Errorf("the process on the host is in %s, not %s", got, want)
			}
			if got, want := name(t, b.Network()), name(t, first); got != want {
				t.Errorf("the open one is %s, not %s", got, want)
			}
			if got := copied.Linux.Namespaces; !strings.Contains(fmt.Sprint(got), path) {
				t.Errorf("the caller's specification has %v", got)
			}
			taken := b.TakeNetwork()
			if (taken == nil) != (pod != nil) {
				t.Fatalf("the pod's network is %v", taken)
			}
			if taken == nil {
				return
			}
			b.Close()
			if got, want := name(t, taken.File()), name(t, first); got != want {
				t.Errorf("the pod's network is %s, not %s", got, want)
			}
			if err := taken.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
