package main

import (
	"fmt"
	"time"
)

// set is one run of a test program on the lab's machine.
type set struct {
	name string
	// short sets are part of make test.
	short bool
	pkg   string // below the source tree
	// run is the pattern of the tests to run.
	run string
	env []string
	// tools are what make builds of pinned tools and the tests run, in build/.
	tools []string
	// count is how often each test runs.
	count int
}

// timeout bounds each set's test program, so that the machine is not waited for
// in vain, and the dump of its goroutines says where it hangs. The longest set
// takes half of it where nothing else runs.
const timeout = time.Hour

// sets are what runs in the lab, in order.
func sets() []set {
	return []set{
		{name: "accelerator", short: true, pkg: "hypervisor/accel", run: "."},
		{name: "hardware", short: true, pkg: "test/vm", run: "^TestLabHardware$", env: systemd()},
		{name: "systemd", short: true, pkg: "test/vm", run: "^TestSystemd", env: systemd()},
		{name: "cgroup", pkg: "virtcontainers/cgroup", run: "."},
		{name: "network", pkg: "test/network", run: "^(TestPlugins|TestStackedPlugins)$"},
		// Another test of podman's with systemd, in the container or outside, is to
		// have a name that begins with TestPodmanSystemd.
		{name: "podman", pkg: "test/callers", run: "^(TestPodman|TestPodmanPod|TestPodmanNetavark|TestPodmanSystemd.*)$", env: systemd()},
		{name: "containerd", pkg: "test/cri", run: "^TestPod$", env: systemd()},
		{name: "kubernetes", pkg: "test/cri", run: "^TestKubernetes$", env: systemd(), tools: []string{"containerd", "kubernetes"}},
		{name: "conformance", pkg: "hypervisor/qemu", run: "^(TestConformance|TestShares|TestNothingIsLeft)$"},
		// Reading a tree of 25,000 files takes longer here than a test may.
		{name: "containers", pkg: "test/vm", run: "^(TestRun(Runs|Passes|Forwards|Reports|Ends|Mounts)|TestExec|TestStandIn|TestDetachedLife|TestPod|" +
			"TestResources|TestReservation|TestVolumes|TestNetworkModels|TestSupervisorKilled|TestMachineKilled|TestOutOfMemory)"},
		{name: "podman-cgroupfs", pkg: "test/callers", run: "^TestPodman$"},
	}
}

// systemd says that tests ask systemd: they share the machine's processes.
func systemd() []string { return []string{"KATA_TEST_SYSTEMD=1"} }

// programs are what tests would compile on the spot, where there is a go
// command, by import path.
func programs() []string {
	return []string{
		"kata-runtime/hypervisor/hypervisortest/internal/guest",
		"kata-runtime/test/callers/internal/resolve",
		"kata-runtime/test/hostile",
		"kata-runtime/test/network/internal/peer",
		"kata-runtime/test/vm/internal/socketclient",
	}
}

// tags are the build tags of the test programs: lab has the tests that need it.
const tags = "vm,lab"

func (s set) args() []string {
	return []string{"-test.v=test2json", fmt.Sprint("-test.count=", s.count), "-test.run=" + s.run, fmt.Sprint("-test.timeout=", timeout)}
}
