//go:build vm

package loopback_test

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	guest "kata-runtime/guest/loopback"
	"kata-runtime/guest/protocol"
	"kata-runtime/virtcontainers/loopback"
	"kata-runtime/virtcontainers/osthread"
)

// insideVariable tells the test binary that it is in a network namespace of its
// own, which stands for the guest's kernel.
const insideVariable = "KATA_LOOPBACK_TEST_INSIDE"

// TestMain runs the tests in a network namespace of their own.
func TestMain(m *testing.M) {
	switch os.Getenv(insideVariable) {
	case "":
		cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
		cmd.Env = append(os.Environ(), insideVariable+"=tests")
		cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
		if err := cmd.Run(); err != nil {
			fmt.Fprintln(os.Stderr, "tests in a network namespace:", err)
			os.Exit(1)
		}
		os.Exit(0)
	case "supervisor":
		superviseAndWait()
	}
	if err := raiseLoopback(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

func raiseLoopback() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find loopback: %w", err)
	}
	if err := netlink.LinkSetUp(lo); err != nil {
		return fmt.Errorf("raise loopback: %w", err)
	}
	return nil
}

// namespace is the pod's on the host.
type namespace struct {
	t    testing.TB
	file *os.File
}

func newNamespace(t testing.TB) *namespace {
	t.Helper()
	n := &namespace{t: t}
	err := osthread.Run(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		if n.file, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		return raiseLoopback()
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { n.file.Close() })
	return n
}

// in calls f in the namespace.
func (n *namespace) in(f func() error) error {
	return osthread.Run(func() error {
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		return f()
	})
}

func (n *namespace) dial(network, address string) (conn net.Conn, err error) {
	err = n.in(func() (err error) {
		conn, err = net.Dial(network, address)
		return err
	})
	return conn, err
}

func (n *namespace) mustDial(address string) *net.TCPConn {
	n.t.Helper()
	conn, err := n.dial("tcp", address)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { conn.Close() })
	return conn.(*net.TCPConn)
}

// listen listens in the namespace, or with a nil one in the guest.
func (n *namespace) listen(t testing.TB, address string) *net.TCPListener {
	t.Helper()
	var listener net.Listener
	f := func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	}
	in := func(f func() error) error { return f() }
	if n != nil {
		in = n.in
	}
	if err := in(f); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	return listener.(*net.TCPListener)
}

func (n *namespace) listenPackets(t testing.TB, address string) net.PacketConn {
	t.Helper()
	var conn net.PacketConn
	err := n.in(func() (err error) {
		conn, err = net.ListenPacket("udp", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// port returns the port of a listener.
func port(listener interface{ Addr() net.Addr }) string {
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		panic(err)
	}
	return port
}

// serve calls handle for each connection of a listener, in the background, and
// waits for all at the test's end.
func serve(t testing.TB, listener *net.TCPListener, handle func(*net.TCPConn)) {
	t.Helper()
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			conn, err := listener.AcceptTCP()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer conn.Close()
				handle(conn)
			})
		}
	})
	t.Cleanup(func() {
		listener.Close()
		serving.Wait()
	})
}

// pod is both sides, joined by unix sockets in the place of vsock.
type pod struct {
	*namespace

	host   *loopback.Loopback
	guest  *guest.Services
	socket string // of the host's loopback port
	log    *lockedBuffer
}

// lockedBuffer is what was logged.
type lockedBuffer struct {
	mu     sync.Mutex
	buffer bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buffer.String()
}

func newPod(t testing.TB, services ...string) *pod {
	t.Helper()
	p := &pod{namespace: newNamespace(t), log: &lockedBuffer{}}
	log := slog.New(slog.NewTextHandler(p.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(p.log.String())
		}
	})
	dir := t.TempDir()
	list, err := loopback.ParseServices(services)
	if err != nil {
		t.Fatal(err)
	}
	listen := func(name string) (net.Listener, string) {
		path := filepath.Join(dir, name)
		listener, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		return listener, path
	}
	var dialer net.Dialer
	forward, forwardPath := listen("forward")
	p.host, err = loopback.New(loopback.Options{
		Namespace: p.file, Services: list, Log: log,
		Dial: func(ctx context.Context, port uint32) (net.Conn, error) {
			if port != protocol.ForwardPort {
				t.Errorf("the host dials port %d", port)
			}
			return dialer.DialContext(ctx, "unix", forwardPath)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	hostPort, hostPath := listen("host")
	p.socket = hostPath
	p.guest = guest.NewServices(log, func(ctx context.Context, _ uint32) (net.Conn, error) {
		return dialer.DialContext(ctx, "unix", hostPath)
	})
	p.guest.Configure(protocol.LoopbackPort, p.host.Token())
	if err := p.guest.Set(loopback.Protocol(list)); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := guest.Forward(ctx, log, forward); err != nil {
			t.Error(err)
		}
	})
	running.Go(func() {
		if err := p.host.Serve(hostPort); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		p.guest.Close()
		if err := p.host.Close(); err != nil {
			t.Error(err)
		}
		cancel()
		running.Wait()
	})
	return p
}
