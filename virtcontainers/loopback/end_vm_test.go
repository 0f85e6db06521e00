//go:build vm

package loopback_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol/relay"
	"kata-runtime/virtcontainers/loopback"
)

// hostile sends bytes to the host's loopback port and returns what is answered
// until the host hangs up.
func (p *pod) hostile(t *testing.T, data []byte) []byte {
	t.Helper()
	conn, err := net.Dial("unix", p.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := conn.Write(data); err != nil && !errors.Is(err, unix.EPIPE) {
		t.Fatal(err)
	}
	if err := conn.(*net.UnixConn).CloseWrite(); err != nil && !errors.Is(err, unix.ENOTCONN) {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(conn)
	if err != nil && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("read the answer: %v", err)
	}
	return answer
}

func TestAHostileGuestReachesServicesAlone(t *testing.T) {
	p := newPod(t, "tcp:8080", "udp:5000")
	reached := make(chan string, 100)
	for _, address := range []string{"127.0.0.1:8080", "127.0.0.1:9090", "127.0.0.11:8080"} {
		serve(t, p.listen(t, address), func(*net.TCPConn) { reached <- address })
	}
	header := func(token string, network relay.Network, address string) []byte {
		var buf bytes.Buffer
		err := relay.WriteServiceHeader(&buf, relay.ServiceHeader{Token: token, Network: network, Address: netip.MustParseAddrPort(address)})
		if err != nil {
			t.Fatal(err)
		}
		return buf.Bytes()
	}
	good := p.host.Token()
	garbage := make([]byte, 4096)
	_, _ = rand.Read(garbage)
	for name, data := range map[string][]byte{
		"nothing":       nil,
		"garbage":       garbage,
		"half a header": header(good, relay.TCP, "127.0.0.1:8080")[:40],
		"wrong token":   header(strings.Repeat("x", relay.TokenLength), relay.TCP, "127.0.0.1:8080"),
		"other port":    header(good, relay.TCP, "127.0.0.1:9090"),
		"other address": header(good, relay.TCP, "127.0.0.11:8080"),
		"other network": header(good, relay.TCP, "127.0.0.1:5000"),
		"another host":  header(good, relay.TCP, "192.0.2.1:8080"),
		"a bad network": header(good, 7, "127.0.0.1:8080"),
	} {
		if answer := p.hostile(t, data); len(answer) != 0 {
			t.Errorf("%s: answer %x", name, answer)
		}
	}
	select {
	case address := <-reached:
		t.Errorf("the guest reached %s", address)
	default:
	}
	// Malformed frames after a good header end the connection.
	frames := bytes.Repeat([]byte{0x7f}, 64)
	p.hostile(t, append(header(good, relay.TCP, "127.0.0.1:8080"), frames...))
	p.hostile(t, append(header(good, relay.UDP, "127.0.0.1:5000"), frames...))
	if address := <-reached; address != "127.0.0.1:8080" {
		t.Errorf("reached %s", address)
	}
}

// Connections that never send their header give way to those that do.
func TestSilentConnectionsAreInNobodysWay(t *testing.T) {
	p := newPod(t, "tcp:8080")
	serve(t, p.listen(t, "127.0.0.1:8080"), echo)
	for range 2000 {
		conn, err := net.Dial("unix", p.socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
	}
	wantEcho(t, dialGuest(t, "127.0.0.1:8080"), "in between")
}

// Without program, the namespace's loopback is the host's alone.
func TestCloseLeavesTheNamespaceAsItWas(t *testing.T) {
	p := newPod(t)
	listener := (*namespace)(nil).listen(t, "127.0.0.1:0")
	serve(t, listener, echo)
	conn := p.mustDial("127.0.0.1:" + port(listener))
	if _, err := io.WriteString(conn, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := p.host.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := io.ReadAll(conn); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the connection ended with %v, want a reset", err)
	}
	wantNothing(t, p.namespace)
}

// wantNothing wants a namespace without program and without sockets that listen.
func wantNothing(t *testing.T, n *namespace) {
	t.Helper()
	if conn, err := n.dial("tcp", "127.0.0.1:80"); !errors.Is(err, unix.ECONNREFUSED) {
		if err == nil {
			conn.Close()
		}
		t.Errorf("a connection is not refused: %v", err)
	}
	err := n.in(func() error {
		for _, path := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
			table, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			for _, line := range strings.Split(string(table), "\n")[1:] {
				if fields := strings.Fields(line); len(fields) > 3 && fields[3] == "0A" {
					t.Errorf("%s: a socket listens: %s", path, line)
				}
			}
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// superviseAndWait is a supervisor that is killed: it has the namespace as
// descriptor 3.
func superviseAndWait() {
	_, err := loopback.New(loopback.Options{
		Namespace: os.NewFile(3, "namespace"), Log: slog.New(slog.NewTextHandler(os.Stderr, nil)),
		Dial: func(ctx context.Context, _ uint32) (net.Conn, error) {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		},
	})
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	fmt.Println("ready")
	select {}
}

func TestTheSupervisorsDeathLeavesNothing(t *testing.T) {
	n := newNamespace(t)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), insideVariable+"=supervisor")
	cmd.ExtraFiles = []*os.File{n.file}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(output).ReadString('\n'); line != "ready\n" {
		t.Errorf("the supervisor says %q, %v", line, err)
	}
	conn := n.mustDial("127.0.0.1:80") // taken by the program, though nobody answers
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait()
	_, _ = io.ReadAll(conn) // returns
	wantNothing(t, n)
}
