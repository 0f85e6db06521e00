package oci

import (
	"errors"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
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
