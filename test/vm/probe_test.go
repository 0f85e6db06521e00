//go:build vm

package vm

import (
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kata-runtime/hypervisor/jail/jailtest"
	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// probeVMM starts a pod in which a probe stands in the place of QEMU, beside
// another pod, d, that runs.
func probeVMM(t *testing.T, h *harness.Host, d detached) {
	secret := filepath.Join(t.TempDir(), "secret")
	if err := os.WriteFile(secret, []byte("a canary"), 0o666); err != nil {
		t.Fatal(err)
	}
	abstract, err := net.Listen("unix", "@kata-test-probe")
	if err != nil {
		t.Fatal(err)
	}
	defer abstract.Close()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	targets := jailtest.Targets{
		Files: []string{secret, d.bundle, filepath.Join(h.Root, d.id, "kata.json"), h.Root}, Sockets: []string{"@kata-test-probe"},
		Addresses: []string{listener.Addr().String()},
	}
	for _, name := range []string{"monitor.sock", "supervisor.sock", "channel.sock"} {
		targets.Sockets = append(targets.Sockets, filepath.Join(h.Root, d.id, "kata."+name))
	}
	for _, p := range h.Processes() {
		targets.Processes = append(targets.Processes, p.PID)
	}
	targets.Handle, targets.HandleType = jailtest.Handle(t, secret)
	program := jailtest.Build(t, "qemu-system-x86_64", targets)

	flags := h.Flags
	defer func() { h.Flags = flags }()
	h.Flags = nil
	configure(h, `hypervisor.qemu.path = "`+program+`"`)
	result := h.Run("run", "-b", h.Bundle(bundle.Spec("/bin/true")), h.ID())
	if result.Code == 0 {
		t.Fatal("a probe runs containers")
	}
	r := jailtest.Decode(t, result.Stderr)
	// What a confined VMM can do, and is of no harm. It locks no more memory than its
	// limit, and starts its own program, which QEMU's own filter forbids it.
	if want := []string{"lock all memory"}; !slices.Equal(r.Reached, want) {
		t.Errorf("it has reached %q, want %q", r.Reached, want)
	}
	if len(r.Killed) < 40 {
		t.Errorf("it was ended for %d attempts only: %q", len(r.Killed), r.Killed)
	}
	for _, kind := range r.Descriptors {
		switch kind {
		case "anonymous", "file", "pipe", "socket 1", "device 1:3", "device 10:200", "device 10:238", "device 10:241":
		default:
			t.Errorf("it has inherited: %s", kind)
		}
	}
	for _, path := range r.Files {
		if strings.HasPrefix(path, "/dev/") && path != "/dev/null" && path != "/dev/urandom" && path != "/dev/kvm" {
			t.Errorf("it sees %s", path)
		}
	}
	t.Logf("of %d attempts, %d ended the process; it saw %d files and had open: %q", r.Attempts, len(r.Killed), len(r.Files), r.Descriptors)
}
