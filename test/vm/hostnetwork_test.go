//go:build vm

package vm

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
	"kata-runtime/virtcontainers/osthread"
)

// TestHostNetwork runs a container with the network of the test's namespace,
// which has a neighbour in another one.
func TestHostNetwork(t *testing.T) {
	h := harness.New(t)
	configure(h, `runtime.host_network = "passt"`, `runtime.host_network_tcp_ports = "8081"`)
	world := newPodNetwork(h, "world0") // its interface 10.80.0.2, ours 10.80.0.1
	route := &netlink.Route{Gw: net.ParseIP("10.80.0.2"), Dst: &net.IPNet{IP: net.IPv4zero, Mask: net.CIDRMask(0, 32)}}
	if err := netlink.RouteAdd(route); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = netlink.RouteDel(route) })
	// passt's echo requests are those of an unprivileged user.
	if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0); err != nil {
		t.Fatal(err)
	}
	world.serve("10.80.0.2:9000", func(w http.ResponseWriter, r *http.Request) {
		from, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintln(w, "outside has heard", from)
	})
	spec := bundle.Spec("/bin/sh", "-c", `
		ip -o addr show scope global | tr -s ' '
		mkfifo /tmp/request
		exec 9<>/tmp/request # never ends: passt of 2023 forgets a connection that is half closed
		printf 'GET / HTTP/1.0\r\n\r\n' >&9
		nc -w 20 10.80.0.2 9000 < /tmp/request
		ping -c 1 -w 10 10.80.0.2 > /dev/null && echo pinged
		mkdir /tmp/www; echo answer from inside > /tmp/www/index.html
		httpd -p 8081 -h /tmp/www
		echo listening
		read x
		killall httpd
		echo done`)
	spec.Linux.Namespaces = slices.DeleteFunc(spec.Linux.Namespaces, func(n specs.LinuxNamespace) bool { return n.Type == specs.NetworkNamespace })
	before, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	id := h.ID()
	command := h.Command("run", "-b", h.Bundle(spec), id)
	stdin, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	var stderr strings.Builder
	command.Stderr = &stderr
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	said := h.Expect(stdout, "listening\n")
	checkSecurity(h, id, "supervisor", "vmm", harness.FileServerRole(), "passt", "stand-in")
	for _, want := range []string{"10.80.0.1/24", "outside has heard 10.80.0.1\n", "pinged\n"} {
		if !strings.Contains(said, want) {
			t.Errorf("the container said %q, not %q", said, want)
		}
	}
	after, err := netlink.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	if len(after) != len(before) {
		t.Errorf("the host has %d interfaces, and had %d", len(after), len(before))
	}
	if got := world.get("http://10.80.0.1:8081/"); got != "answer from inside\n" {
		t.Errorf("from the container's server: %q", got)
	}
	stdin.Close()
	rest := h.ReadAll(stdout)
	if code := h.Wait(command); code != 0 || rest != "done\n" {
		t.Errorf("exit code %d, then it said %q\n%s", code, rest, stderr.String())
	}
}

// serve answers HTTP requests on an address of the namespace.
func (n *podNetwork) serve(address string, handler http.HandlerFunc) {
	n.t.Helper()
	var listener net.Listener
	n.do(func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	})
	server := &http.Server{Handler: handler, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // until it is closed
	}()
	n.t.Cleanup(func() {
		server.Close()
		<-done
	})
}

// get fetches from the namespace.
func (n *podNetwork) get(url string) string {
	n.t.Helper()
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(_ context.Context, network, address string) (net.Conn, error) {
		return n.dial(network, address)
	}}
	client := http.Client{Timeout: time.Minute, Transport: transport}
	response, err := client.Get(url)
	if err != nil {
		n.t.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		n.t.Fatal(err)
	}
	return string(body)
}

// dial connects from the namespace.
func (n *podNetwork) dial(network, address string) (conn net.Conn, err error) {
	err = n.in(func() (err error) {
		conn, err = net.Dial(network, address)
		return err
	})
	return conn, err
}

// do calls f in the namespace.
func (n *podNetwork) do(f func() error) {
	n.t.Helper()
	if err := n.in(f); err != nil {
		n.t.Fatal(err)
	}
}

func (n *podNetwork) in(f func() error) error {
	return osthread.Run(func() error {
		fd, err := unix.Open(n.path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}
