package oci

import (
	"errors"
	"slices"
	"strings"
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

func TestLeaveOutHost(t *testing.T) {
	spec := &specs.Spec{Linux: &specs.Linux{}}
	for _, kind := range []specs.LinuxNamespaceType{
		specs.PIDNamespace, specs.NetworkNamespace, specs.MountNamespace, specs.IPCNamespace, specs.UTSNamespace,
		specs.UserNamespace, specs.CgroupNamespace, specs.TimeNamespace,
	} {
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: kind, Path: "/host/" + string(kind)})
	}
	all := slices.Clone(spec.Linux.Namespaces)
	pods := func(specs.LinuxNamespace) (bool, error) { return false, nil }
	if notes, err := LeaveOutHost(spec, pods); len(notes) != 0 || err != nil || !slices.Equal(spec.Linux.Namespaces, all) {
		t.Errorf("of a pod: %v, %v, left %v", notes, err, spec.Linux.Namespaces)
	}
	hosts := func(ns specs.LinuxNamespace) (bool, error) { return ns.Path != "", nil }
	notes, err := LeaveOutHost(spec, hosts)
	want := []specs.LinuxNamespace{all[2], all[5]} // whose path is an error in any case
	if len(notes) != 6 || err != nil || !slices.Equal(spec.Linux.Namespaces, want) {
		t.Errorf("of the host: %v, %v, left %v", notes, err, spec.Linux.Namespaces)
	}
	if !strings.Contains(strings.Join(notes, "\n"), "linux.namespaces[1].path: /host/network is the host's network namespace") {
		t.Errorf("notes %q", notes)
	}
	if _, err := CheckNetwork(spec); !errors.Is(err, ErrHostNetwork) {
		t.Errorf("afterwards: %v", err)
	}
	spec.Linux.Namespaces = all
	fault := errors.New("fault")
	if _, err := LeaveOutHost(spec, func(specs.LinuxNamespace) (bool, error) { return false, fault }); !errors.Is(err, fault) {
		t.Errorf("a namespace of which that is not known: %v", err)
	}
}
