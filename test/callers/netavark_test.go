//go:build vm

package callers

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kata-runtime/test/harness"
	"kata-runtime/test/program"
)

// peerPort is where servers of program peer listen: the test's own on the host,
// and those in containers.
const peerPort = "7000"

// peer is a program at both ends of transfers, on the host and in containers.
type peer struct {
	h    *harness.Host
	path string
}

// newPeer builds the program and lets it serve on the host.
func newPeer(h *harness.Host) *peer {
	h.T.Helper()
	p := &peer{h: h, path: filepath.Join(h.File("peer"), "peer")}
	if err := program.Build(h.T.Context(), p.path, "kata-runtime/test/network/internal/peer"); err != nil {
		h.T.Fatal(err)
	}
	command := exec.Command(p.path, "serve", peerPort) // ended below
	command.Stderr = os.Stderr
	stdout, err := command.StdoutPipe()
	if err != nil {
		h.T.Fatal(err)
	}
	if err := command.Start(); err != nil {
		h.T.Fatal(err)
	}
	h.T.Cleanup(func() {
		_ = command.Process.Kill()
		_ = command.Wait() // killed
	})
	h.Expect(stdout, "ready\n")
	go func() { _, _ = io.Copy(io.Discard, stdout) }() // ends with the process
	return p
}

// transfers are peer's arguments for some of each kind with a server.
func transfers(address string) [][]string {
	const mebibyte = "1048576"
	return [][]string{{"upload", address, mebibyte}, {"download", address, mebibyte}, {"datagrams", address, "20"}}
}

// reach does transfers from the host.
func (p *peer) reach(address string) {
	p.h.T.Helper()
	for _, args := range transfers(address) {
		if result := p.h.Finish(exec.CommandContext(p.h.T.Context(), p.path, args...)); result.Code != 0 {
			p.h.T.Errorf("on the host: peer %s: %+v", strings.Join(args, " "), result)
		}
	}
}

// TestPodmanNetavark has a container on podman's default network, which netavark
// makes, with a published port, and connects it to a second network, whose names
// aardvark-dns serves.
func TestPodmanNetavark(t *testing.T) {
	requirePrograms(t, "iptables", "/usr/lib/podman/netavark", "/usr/lib/podman/aardvark-dns")
	p := newPodmanWith(t, "netavark")
	t.Cleanup(func() {
		removeLinks(t, "podman0", "podman1")
		removeOwn(t, "/run/xtables.lock")
	})
	program := newPeer(p.h)
	inside := func(want string, args ...string) {
		t.Helper()
		p.want(0, want, "", append([]string{"exec", "server", "/peer/peer"}, args...)...)
	}
	fromInside := func(address string) {
		t.Helper()
		for _, args := range transfers(address) {
			inside("", args...)
		}
	}
	p.must(p.networked("run", "--detach", "--name", "server", "--volume", filepath.Dir(program.path)+":/peer:ro",
		"--publish", "8080:"+peerPort, "--publish", "8080:"+peerPort+"/udp", image, "/peer/peer", "serve", peerPort)...)
	p.awaitReady("server")
	address := p.must("inspect", "--format", "{{.NetworkSettings.Networks.podman.IPAddress}}", "server")
	gateway := p.must("inspect", "--format", "{{.NetworkSettings.Networks.podman.Gateway}}", "server")
	program.reach(address + ":" + peerPort)
	program.reach("127.0.0.1:8080")
	program.reach(gateway + ":8080")
	fromInside(gateway + ":" + peerPort)
	inside(address+"\n", "resolve", "server")
	p.want(0, "~"+gateway+"\thost.containers.internal", "", "exec", "server", "cat", "/etc/hosts")

	p.must("network", "create", "--subnet", "10.99.0.0/24", "second")
	p.must("network", "connect", "second", "server")
	mac := p.must("inspect", "--format", "{{.NetworkSettings.Networks.second.MacAddress}}", "server")
	inside("seen\n", "follow", "address eth1 10.99.0.2/24 ", "link eth1 mac "+mac+" mtu 1500 up")
	program.reach("10.99.0.2:" + peerPort)
	fromInside("10.99.0.1:" + peerPort)
	lines := strings.Split(p.must("exec", "server", "cat", "/etc/resolv.conf"), "\n")
	if !slices.Contains(lines, "nameserver 10.99.0.1") {
		t.Errorf("/etc/resolv.conf has %q", lines)
	}
	inside("10.99.0.2\n", "resolve", "server.dns.podman")
	p.must("network", "disconnect", "second", "server")
	inside("seen\n", "follow", "!link eth1 ", "!address eth1 ", "address eth0 "+address+"/16 ")
	program.reach("127.0.0.1:8080")
	p.must("rm", "--force", "--time", "0", "server")
	p.must("network", "rm", "second")
}
