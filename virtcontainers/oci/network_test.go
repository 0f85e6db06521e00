package oci

import (
	"errors"
	"io/fs"
	"net"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func TestCheckNetwork(t *testing.T) {
	network := func(path string) *specs.Spec {
		return &specs.Spec{Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{
			{Type: specs.PIDNamespace, Path: "/other"}, {Type: specs.NetworkNamespace, Path: path},
		}}}
	}
	if mode, err := CheckNetwork(network("")); mode != NetworkNew || err != nil {
		t.Errorf("new: %v, %v", mode, err)
	}
	if mode, err := CheckNetwork(network("/run/netns/x")); mode != NetworkJoin || err != nil || NetworkPath(network("/run/netns/x")) != "/run/netns/x" {
		t.Errorf("join: %v, %v", mode, err)
	}
	for _, spec := range []*specs.Spec{{}, {Linux: &specs.Linux{}}, baseSpec()} {
		if _, err := CheckNetwork(spec); !errors.Is(err, ErrHostNetwork) {
			t.Errorf("host network: %v", err)
		}
		if path := NetworkPath(spec); path != "" {
			t.Errorf("NetworkPath = %q", path)
		}
	}
}

// TestOwnNetworkNamespace compares with what the standard library sees: a
// process may list its own namespace without any privilege.
func TestOwnNetworkNamespace(t *testing.T) {
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var up []string
	for _, i := range interfaces {
		if i.Flags&net.FlagLoopback == 0 && i.Flags&net.FlagUp != 0 {
			up = append(up, i.Name)
		}
	}
	only, others, err := NamespaceHasOnlyLoopback("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	if only != (len(others) == 0) {
		t.Errorf("only = %v with %q", only, others)
	}
	for _, name := range up {
		if !slices.Contains(others, name) {
			t.Errorf("interface %s is missing in %q", name, others)
		}
	}
}

func TestNotANetworkNamespace(t *testing.T) {
	fifo := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"/proc/self/ns/uts", "/dev/null", "/", fifo} {
		if _, _, err := NamespaceHasOnlyLoopback(path); err == nil {
			t.Errorf("%s was taken for a network namespace", path)
		}
	}
	if _, _, err := NamespaceHasOnlyLoopback("/none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing: %v", err)
	}
}
