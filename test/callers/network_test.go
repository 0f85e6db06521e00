//go:build vm

package callers

import (
	"io"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"

	"kata-runtime/test/harness"
	"kata-runtime/test/program"
)

// serve is a container's program: an HTTP server whose page is its host name.
const serve = `mkdir /tmp/www; hostname > /tmp/www/index.html; httpd -p 80 -h /tmp/www; echo ready; exec sleep 100000`

// get fetches a page.
func get(t *testing.T, url string) string {
	t.Helper()
	client := http.Client{Timeout: harness.Patience, Transport: &http.Transport{DisableKeepAlives: true}}
	response, err := client.Get(url)
	if err != nil {
		t.Error(err)
		return ""
	}
	defer response.Body.Close()
	page, err := io.ReadAll(response.Body)
	if err != nil {
		t.Error(err)
	}
	return strings.TrimSpace(string(page))
}

// removeLinks removes bridges that a manager leaves, and its firewall's rules.
func removeLinks(t *testing.T, names ...string) {
	for _, name := range names {
		if link, err := netlink.LinkByName(name); err == nil {
			if err := netlink.LinkDel(link); err != nil {
				t.Error(err)
			}
		}
	}
}

// awaitReady waits until a container's program has said that it is ready.
func (c *caller) awaitReady(name string) {
	c.t.Helper()
	command := c.prepare("logs", "--follow", name)
	stdout, err := command.StdoutPipe()
	if err != nil {
		c.t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		c.t.Fatal(err)
	}
	c.h.Expect(stdout, "ready\n")
	_ = command.Process.Kill()
	_ = command.Wait() // killed
}

// TestPodmanNetwork has a container on podman's default network, reached through
// a published port, and connects it to another network while it runs.
func TestPodmanNetwork(t *testing.T) {
	requirePrograms(t, "iptables")
	p := newPodman(t)
	t.Cleanup(func() {
		removeLinks(t, "cni-podman0", "cni-podman1")
		removeOwn(t, "/run/cni", "/run/xtables.lock", "/var/lib/cni")
	})
	p.must(p.networked("run", "--detach", "--name", "web", "--hostname", "web", "--publish", "8080:80", image, "sh", "-c", serve)...)
	p.awaitReady("web")
	address := p.must("inspect", "--format", "{{.NetworkSettings.IPAddress}}", "web")
	if got := get(t, "http://"+address+"/"); got != "web" {
		t.Errorf("at its address: %q", got)
	}
	gateway := p.must("inspect", "--format", "{{.NetworkSettings.Gateway}}", "web")
	if got := get(t, "http://"+gateway+":8080/"); got != "web" {
		t.Errorf("at the published port: %q", got)
	}
	p.want(0, "~ via "+gateway, "", "exec", "web", "ip", "route")
	p.want(0, "~"+address+"\tweb", "", "exec", "web", "cat", "/etc/hosts")

	p.must("network", "create", "--disable-dns", "--subnet", "10.91.0.0/24", "second")
	p.must("network", "connect", "--ip", "10.91.0.7", "second", "web")
	if got := get(t, "http://10.91.0.7/"); got != "web" {
		t.Errorf("at its second address: %q", got)
	}
	p.want(0, "~inet 10.91.0.7/24", "", "exec", "web", "ip", "address")
	p.must("network", "disconnect", "second", "web")
	if got := get(t, "http://"+address+"/"); got != "web" {
		t.Errorf("at its address, afterwards: %q", got)
	}
	p.must("rm", "--force", "--time", "0", "web")
	// podman leaves the host's namespace out, and names another by its path.
	for _, network := range []string{"host", "ns:/proc/1/ns/net"} {
		p.want(126, "", "~the host's network is refused", p.networked("run", "--rm", "--network", network, image, "true")...)
	}
}

// TestDockerNetwork has containers on docker's default network, and two that
// find each other by name on one of their own.
func TestDockerNetwork(t *testing.T) {
	requirePrograms(t, "iptables")
	d := newDocker(t, "--bip", "10.92.0.1/24", "--ip6tables=false")
	t.Cleanup(func() { removeLinks(t, "docker0") })
	t.Cleanup(func() {
		if t.Failed() {
			d.cleanup("rm", "--force", "web", "other", "third")
		}
	})
	programs := d.h.File("programs")
	for _, importPath := range []string{"kata-runtime/test/callers/internal/resolve", "kata-runtime/test/network/internal/peer"} {
		if err := program.Build(t.Context(), filepath.Join(programs, filepath.Base(importPath)), importPath); err != nil {
			t.Fatal(err)
		}
	}
	run := func(name string, flags ...string) {
		t.Helper()
		d.must(slices.Concat([]string{
			"run", "--detach", "--runtime", "kata", "--name", name, "--hostname", name,
			"--volume", programs + ":/programs:ro",
		}, flags, []string{"busybox", "sh", "-c", serve})...)
		d.awaitReady(name)
	}
	run("web", "--publish", "8080:80")
	for _, host := range []string{"10.92.0.1", "127.0.0.1"} { // by the firewall, and by docker-proxy
		if got := get(t, "http://"+host+":8080/"); got != "web" {
			t.Errorf("at the published port of %s: %q", host, got)
		}
	}
	d.must("network", "create", "--subnet", "10.93.0.0/24", "own")
	for _, name := range []string{"other", "third"} {
		run(name, "--network", "own")
	}
	d.want(0, "~nameserver 127.0.0.11", "", "exec", "other", "cat", "/etc/resolv.conf")
	address := d.must("inspect", "--format", "{{.NetworkSettings.Networks.own.IPAddress}}", "third")
	for _, network := range []string{"udp", "tcp"} {
		d.want(0, address+"\n", "", "exec", "other", "/programs/resolve", network, "third")
	}
	d.want(0, "~third", "", "exec", "other", "sh", "-c", "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc "+address+" 80")

	// A container gets docker's nameserver only when it is connected.
	d.must("network", "connect", "own", "web")
	d.want(0, "seen\n", "", "exec", "web", "/programs/peer", "follow", "address eth1 10.93.0.")
	for _, network := range []string{"udp", "tcp"} {
		d.want(0, address+"\n", "", "exec", "web", "/programs/resolve", network, "third")
	}
	d.must("network", "disconnect", "own", "web")
	d.want(0, "seen\n", "", "exec", "web", "/programs/peer", "follow", "!link eth1 ")
	d.must("rm", "--force", "web", "other", "third")
	d.must("network", "rm", "own")
}
