package oci

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/guest/protocol"
)

func testOptions() GuestOptions {
	return GuestOptions{ContainerID: "c1", SharePath: "/run/kata/shared/c1", BundleDir: "/bundle"}
}

func mustTransform(t *testing.T, spec *specs.Spec, options GuestOptions) *GuestSpec {
	t.Helper()
	guest, err := Transform(spec, options)
	if err != nil {
		t.Fatal(err)
	}
	return guest
}

func TestTransformLeavesTheOriginal(t *testing.T) {
	spec := baseSpec()
	spec.Process.ApparmorProfile = "docker-default"
	spec.Linux.CgroupsPath = "/docker/x"
	spec.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/bin/x"}}}
	before, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	mustTransform(t, spec, testOptions())
	after, err := json.Marshal(spec)
	if err != nil {
		t.Fatal(err)
	}
	if string(before) != string(after) {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

func TestTransformRoot(t *testing.T) {
	guest := mustTransform(t, baseSpec(), testOptions())
	if guest.Spec.Root.Path != "/run/kata/shared/c1/rootfs" {
		t.Errorf("root is %s in the guest", guest.Spec.Root.Path)
	}
	for path, want := range map[string]string{"rootfs": "/bundle/rootfs", "/var//lib/x/": "/var/lib/x", "../x": "/x"} {
		spec := baseSpec()
		spec.Root.Path = path
		if got := RootfsPath("/bundle", spec); got != want {
			t.Errorf("root.path %q is %s on the host, want %s", path, got, want)
		}
	}
}

func TestTransformHooks(t *testing.T) {
	spec := baseSpec()
	spec.Hooks = &specs.Hooks{}
	container := &specs.Hooks{}
	for i, list := range hookLists(spec.Hooks) {
		hooks := []specs.Hook{{Path: "/" + list.name}}
		*list.hooks = hooks
		if list.name == "startContainer" {
			*hookLists(container)[i].hooks = hooks
		}
	}
	guest := mustTransform(t, spec, testOptions())
	if diff := cmp.Diff(container, guest.Spec.Hooks); diff != "" {
		t.Error(diff)
	}
	if none := mustTransform(t, baseSpec(), testOptions()); none.Spec.Hooks != nil {
		t.Errorf("without hooks: %+v", none.Spec.Hooks)
	}
}

func TestTransformNamespaces(t *testing.T) {
	namespace := func(kind specs.LinuxNamespaceType, path string) specs.LinuxNamespace {
		return specs.LinuxNamespace{Type: kind, Path: path}
	}
	pid, user := namespace(specs.PIDNamespace, ""), namespace(specs.UserNamespace, "")
	network := namespace(specs.NetworkNamespace, "/run/netns/x")
	ipc, uts := namespace(specs.IPCNamespace, ""), namespace(specs.UTSNamespace, "")
	joined := namespace(specs.IPCNamespace, "/proc/7/ns/ipc")
	pods := []specs.LinuxNamespace{
		pid, namespace(specs.IPCNamespace, protocol.SandboxNamespace), namespace(specs.UTSNamespace, protocol.SandboxNamespace),
	}
	theirs := func(kind specs.LinuxNamespaceType) specs.LinuxNamespace {
		return namespace(kind, protocol.ContainerNamespace("other"))
	}
	// The pod's containers are in the namespaces of process 7.
	owner := func(ns specs.LinuxNamespace) (string, error) {
		if strings.HasPrefix(ns.Path, "/proc/7/") || ns == network {
			return "other", nil
		}
		if strings.HasPrefix(ns.Path, "/proc/9/") { // of a pod without a container of its own
			return PodItself, nil
		}
		return "", nil
	}
	const alone, sandbox, member = 1, 2, 3
	tests := []struct {
		name       string
		role       int
		namespaces []specs.LinuxNamespace
		want       []specs.LinuxNamespace
		wrong      string
	}{
		{"network is the VM", alone, []specs.LinuxNamespace{pid, network}, []specs.LinuxNamespace{pid}, ""},
		{"no pid namespace", alone, []specs.LinuxNamespace{network}, nil, "linux.namespaces"},
		{"new ones are the pod's", alone, []specs.LinuxNamespace{pid, ipc, uts}, pods, ""},
		{"with a user namespace", alone, []specs.LinuxNamespace{pid, ipc, uts, user}, []specs.LinuxNamespace{pid, ipc, uts, user}, ""},
		{"a path alone", alone, []specs.LinuxNamespace{pid, joined}, nil, "linux.namespaces[1].path"},
		{"a pod's that were made before", sandbox, []specs.LinuxNamespace{pid, joined, namespace(specs.UTSNamespace, "/run/utsns/x")}, pods, ""},
		{"a sandbox with another's processes", sandbox, []specs.LinuxNamespace{namespace(specs.PIDNamespace, "/proc/7/ns/pid")}, nil, "linux.namespaces[0].path"},
		{"new ones in a pod", member, []specs.LinuxNamespace{pid, ipc, uts, network}, []specs.LinuxNamespace{pid, ipc, uts}, ""},
		{
			"those of the pod", member,
			[]specs.LinuxNamespace{namespace(specs.PIDNamespace, "/proc/7/ns/pid"), joined, network},
			[]specs.LinuxNamespace{theirs(specs.PIDNamespace), theirs(specs.IPCNamespace)},
			"",
		},
		{
			"those of the pod itself", member,
			[]specs.LinuxNamespace{
				pid, namespace(specs.IPCNamespace, "/proc/9/ns/ipc"), namespace(specs.UTSNamespace, "/proc/9/ns/uts"),
				namespace(specs.NetworkNamespace, "/proc/9/ns/net"),
			},
			pods, "",
		},
		{"processes of the pod itself", member, []specs.LinuxNamespace{namespace(specs.PIDNamespace, "/proc/9/ns/pid")}, nil, "linux.namespaces[0].path"},
		{"another pod's", member, []specs.LinuxNamespace{pid, network, namespace(specs.IPCNamespace, "/proc/8/ns/ipc")}, nil, "linux.namespaces[2].path"},
		{"another network", member, []specs.LinuxNamespace{pid, namespace(specs.NetworkNamespace, "/run/netns/y")}, nil, "linux.namespaces[1].path"},
		{"a new network in a pod", member, []specs.LinuxNamespace{pid, namespace(specs.NetworkNamespace, "")}, nil, "linux.namespaces[1].path"},
		{
			"the pod's user namespace", member,
			[]specs.LinuxNamespace{pid, namespace(specs.UserNamespace, "/proc/7/ns/user")},
			[]specs.LinuxNamespace{pid, theirs(specs.UserNamespace)},
			"",
		},
		{"another's user namespace", member, []specs.LinuxNamespace{pid, namespace(specs.UserNamespace, "/proc/8/ns/user")}, nil, "linux.namespaces[1].path"},
		{"a user namespace alone", alone, []specs.LinuxNamespace{pid, namespace(specs.UserNamespace, "/run/userns/x")}, nil, "linux.namespaces[1].path"},
		{"a pod's user namespace without mappings", sandbox, []specs.LinuxNamespace{pid, namespace(specs.UserNamespace, "/run/userns/x")}, nil, "linux.namespaces[1].path"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			spec, options := baseSpec(), testOptions()
			spec.Linux.Namespaces, options.Sandbox = test.namespaces, test.role == sandbox
			if test.role == member {
				options.Owner = owner
			}
			guest, err := Transform(spec, options)
			if test.wrong != "" {
				if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), test.wrong) {
					t.Errorf("error = %v", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(test.want, guest.Spec.Linux.Namespaces); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// CRI-O makes a pod's user namespace before the pod, and says what it maps.
func TestTransformAUserNamespaceThatWasMadeForThePod(t *testing.T) {
	spec, options := baseSpec(), testOptions()
	options.Sandbox = true
	user := specs.LinuxNamespace{Type: specs.UserNamespace, Path: "/run/userns/x"}
	spec.Linux.Namespaces = []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace, Path: "/run/ipcns/x"}, user}
	spec.Linux.UIDMappings, spec.Linux.GIDMappings = idMap(7), idMap(8)
	guest := mustTransform(t, spec, options)
	want := []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.IPCNamespace}, {Type: specs.UserNamespace}}
	if diff := cmp.Diff(want, guest.Spec.Linux.Namespaces); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(idMap(7), guest.Spec.Linux.UIDMappings); diff != "" {
		t.Error(diff)
	}
}

func TestTransformDropsListTheirValues(t *testing.T) {
	spec := baseSpec()
	spec.Process.User.Username = "ContainerUser"
	spec.Linux.CgroupsPath = "/docker/x"
	swappiness := uint64(10)
	spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Swappiness: &swappiness}}
	guest := mustTransform(t, spec, testOptions())
	want := []string{
		"process.user.username: ContainerUser",
		"linux.cgroupsPath: /docker/x",
		"linux.resources.memory.swappiness: 10",
	}
	if diff := cmp.Diff(want, guest.Dropped); diff != "" {
		t.Error(diff)
	}
}

func TestTransformOptions(t *testing.T) {
	for _, change := range []func(*GuestOptions){
		func(o *GuestOptions) { o.BundleDir = "bundle" },
		func(o *GuestOptions) { o.SharePath = "share" },
	} {
		options := testOptions()
		change(&options)
		if _, err := Transform(baseSpec(), options); err == nil {
			t.Errorf("relative paths were accepted: %+v", options)
		}
	}
}

func TestTransformProcess(t *testing.T) {
	process := &specs.Process{Args: []string{"true"}, Cwd: "/", ApparmorProfile: "a", SelinuxLabel: "s", CommandLine: "c"}
	guest, dropped, err := TransformProcess(process, nil)
	if err != nil {
		t.Fatal(err)
	}
	if guest.ApparmorProfile != "a" || guest.SelinuxLabel != "s" || guest.CommandLine != "" || len(dropped) != 1 || process.CommandLine != "c" {
		t.Errorf("guest's %+v, dropped %q, original %+v", guest, dropped, process)
	}
}

func TestTransformResources(t *testing.T) {
	limit, swappiness := int64(1<<20), uint64(1)
	resources := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swappiness: &swappiness}}
	guest, dropped, err := TransformResources(resources)
	if err != nil {
		t.Fatal(err)
	}
	if *guest.Memory.Limit != limit || guest.Memory.Swappiness != nil || len(dropped) != 1 || resources.Memory.Swappiness == nil {
		t.Errorf("guest's %+v, dropped %q", guest.Memory, dropped)
	}
	// The guest knows which devices the container has.
	resources.BlockIO = &specs.LinuxBlockIO{WeightDevice: []specs.LinuxWeightDevice{weightDevice(8, 16, 100)}}
	guest, _, err = TransformResources(resources)
	if diff := cmp.Diff(resources.BlockIO, guest.BlockIO); diff != "" || err != nil {
		t.Errorf("%v, %s", err, diff)
	}
}

// TestWeightsOfBlockIO: what is no weight is refused before the guest makes another
// number of it.
func TestWeightsOfBlockIO(t *testing.T) {
	for weight, good := range map[uint16]bool{0: true, 10: true, 1000: true, 1: false, 9: false, 1001: false, 65535: false} {
		for name, limits := range map[string]*specs.LinuxBlockIO{
			"blockIO.weight": {Weight: &weight}, "weightDevice[0].weight": {WeightDevice: []specs.LinuxWeightDevice{weightDevice(8, 16, weight)}},
		} {
			_, _, err := TransformResources(&specs.LinuxResources{BlockIO: limits})
			if (err == nil) != good || (err != nil && !strings.Contains(err.Error(), name)) {
				t.Errorf("%s %d: %v", name, weight, err)
			}
		}
		spec := baseSpec()
		spec.Linux.Resources = &specs.LinuxResources{BlockIO: &specs.LinuxBlockIO{Weight: &weight}}
		_, err := Transform(spec, GuestOptions{ContainerID: "c", SharePath: "/share", BundleDir: "/bundle"})
		if (err == nil) != good {
			t.Errorf("a new container's weight %d: %v", weight, err)
		}
	}
}

func weightDevice(major, minor int64, weight uint16) specs.LinuxWeightDevice {
	w := specs.LinuxWeightDevice{Weight: &weight}
	w.Major, w.Minor = major, minor
	return w
}

func rule(allow bool, kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
	return specs.LinuxDeviceCgroup{Allow: allow, Type: kind, Major: &major, Minor: &minor, Access: access}
}

// A new UTS namespace is a copy of the caller's; of the pod's, the pod decides.
func TestAHostnameIsInherited(t *testing.T) {
	for name, test := range map[string]struct {
		hostname string
		uts      []specs.LinuxNamespace
		member   bool
		want     string
	}{
		"its own":                {"own", []specs.LinuxNamespace{{Type: specs.UTSNamespace}}, true, "own"},
		"a new namespace":        {"", []specs.LinuxNamespace{{Type: specs.UTSNamespace}}, true, "callers"},
		"the pod's":              {"", []specs.LinuxNamespace{{Type: specs.UTSNamespace, Path: "/uts"}}, true, ""},
		"none":                   {"", nil, true, ""},
		"the first container's":  {"", []specs.LinuxNamespace{{Type: specs.UTSNamespace}}, false, ""},
		"its pod's, by its spec": {"own", []specs.LinuxNamespace{{Type: specs.UTSNamespace}}, false, "own"},
	} {
		spec := baseSpec()
		spec.Hostname = test.hostname
		spec.Linux.Namespaces = slices.Concat(test.uts, []specs.LinuxNamespace{{Type: specs.PIDNamespace}})
		options := testOptions()
		options.Hostname = "callers"
		if test.member {
			options.Owner = func(specs.LinuxNamespace) (string, error) { return "sandbox", nil }
		}
		if got := mustTransform(t, spec, options).Spec.Hostname; got != test.want {
			t.Errorf("%s: %q, want %q", name, got, test.want)
		}
	}
}

// With a root file system that the guest cannot write to, devices need a place.
func TestAReadOnlyRootHasADev(t *testing.T) {
	for _, test := range []struct {
		readonly    bool
		destination string
		want        int
	}{{true, "/m", 2}, {true, "/dev/shm", 2}, {true, "dev/", 1}, {false, "/m", 1}} {
		spec := baseSpec()
		spec.Root.Readonly = test.readonly
		spec.Mounts[0].Destination = test.destination
		guest, err := Transform(spec, testOptions())
		if err != nil {
			t.Fatal(err)
		}
		mounts := guest.Spec.Mounts
		if len(mounts) != test.want || test.want == 2 && (mounts[0].Destination != "/dev" || mounts[0].Type != "tmpfs") {
			t.Errorf("with a mount at %s, read-only %t: %+v", test.destination, test.readonly, mounts)
		}
	}
}

// Who leaves the ipc namespace out asks for the host's, and is told.
func TestTheHostsIPCIsNoted(t *testing.T) {
	for _, own := range []bool{false, true} {
		spec := baseSpec()
		if own {
			spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.IPCNamespace})
		}
		guest, err := Transform(spec, testOptions())
		if err != nil {
			t.Fatal(err)
		}
		noted := slices.ContainsFunc(guest.Notes, func(note string) bool { return strings.Contains(note, "without an ipc namespace") })
		if noted == own {
			t.Errorf("with an ipc namespace %t: notes %q", own, guest.Notes)
		}
	}
}

// Where the specification is silent, a process has its caller's limits.
func TestRlimitsOfTheCaller(t *testing.T) {
	callers := []specs.POSIXRlimit{{Type: "RLIMIT_CORE", Soft: 0, Hard: 5}, {Type: "RLIMIT_NOFILE", Soft: 1024, Hard: 524288}}
	listed := specs.POSIXRlimit{Type: "RLIMIT_NOFILE", Soft: 7, Hard: 7}
	for _, test := range []struct {
		name string
		spec []specs.POSIXRlimit
		want []specs.POSIXRlimit
	}{
		{"none listed", nil, callers},
		{"one listed", []specs.POSIXRlimit{listed}, []specs.POSIXRlimit{listed, callers[0]}},
	} {
		t.Run(test.name, func(t *testing.T) {
			spec := baseSpec()
			spec.Process.Rlimits = test.spec
			options := testOptions()
			options.Rlimits = callers

			guest := mustTransform(t, spec, options)
			process, _, err := TransformProcess(spec.Process, callers)
			if err != nil {
				t.Fatal(err)
			}

			if diff := cmp.Diff(test.want, guest.Spec.Process.Rlimits); diff != "" {
				t.Errorf("the container's: %s", diff)
			}
			if diff := cmp.Diff(test.want, process.Rlimits); diff != "" {
				t.Errorf("another process's: %s", diff)
			}
			if len(spec.Process.Rlimits) != len(test.spec) {
				t.Error("the original has changed")
			}
		})
	}
}
