//go:build vm

package oci

import (
	"fmt"
	"io"
	"os/exec"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
)

// TestOtherNetworkNamespace needs root: a child holds a namespace, into which
// interfaces are put.
func TestOtherNetworkNamespace(t *testing.T) {
	cmd := exec.Command("cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		stdin.Close()
		cmd.Wait()
	})
	// An echo says that it runs, in its namespace.
	if _, err := stdin.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(stdout, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	path := fmt.Sprintf("/proc/%d/ns/net", cmd.Process.Pid)
	only, others, err := NamespaceHasOnlyLoopback(path)
	if err != nil || !only {
		t.Fatalf("a new namespace: %v, %q, %v", only, others, err)
	}

	namespace, err := netns.GetFromPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer namespace.Close()
	handle, err := netlink.NewHandleAt(namespace)
	if err != nil {
		t.Fatal(err)
	}
	defer handle.Close()
	if err := handle.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br0"}}); err != nil {
		t.Fatal(err)
	}
	only, others, err = NamespaceHasOnlyLoopback(path)
	if err != nil || only {
		t.Errorf("with a bridge: %v, %v", only, err)
	}
	if diff := cmp.Diff([]string{"br0"}, others); diff != "" {
		t.Error(diff)
	}
	if _, others, err := NamespaceHasOnlyLoopback("/proc/self/ns/net"); err != nil || cmp.Equal(others, []string{"br0"}) {
		t.Errorf("this process's own namespace: %q, %v", others, err)
	}
}
