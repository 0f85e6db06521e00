//go:build vm

package loopback_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol/relay"
	"kata-runtime/virtcontainers/loopback"
)

// echo answers with what it reads, and ends when its client does.
func echo(conn *net.TCPConn) {
	_, _ = io.Copy(conn, conn)
}

// wantEcho sends text to an echo, ends, and wants it back.
func wantEcho(t testing.TB, conn *net.TCPConn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Error(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Error(err)
	}
	got, err := io.ReadAll(conn)
	if err != nil || string(got) != text {
		t.Errorf("the echo of %q is %q, %v", text, got, err)
	}
}

func TestLocalhostOfThePodReachesTheGuest(t *testing.T) {
	p := newPod(t)
	for _, server := range []string{"127.0.0.1:0", "[::1]:0", "0.0.0.0:0"} {
		listener := (*namespace)(nil).listen(t, server)
		serve(t, listener, echo)
		// The client may take either family, whatever the server's.
		for _, host := range []string{"127.0.0.1", "::1", "::ffff:127.0.0.1"} {
			conn := p.mustDial(net.JoinHostPort(host, port(listener)))
			wantEcho(t, conn, "from "+host+" to "+server)
		}
	}
}

// The family that the client chose decides between two servers of one port.
func TestTheClientsFamilyComesFirst(t *testing.T) {
	p := newPod(t)
	v4 := (*namespace)(nil).listen(t, "127.0.0.1:0")
	v6 := (*namespace)(nil).listen(t, net.JoinHostPort("::1", port(v4)))
	for _, listener := range []*net.TCPListener{v4, v6} {
		serve(t, listener, func(conn *net.TCPConn) { _, _ = io.WriteString(conn, conn.LocalAddr().String()) })
	}
	for _, listener := range []*net.TCPListener{v4, v6} {
		got, err := io.ReadAll(p.mustDial(listener.Addr().String()))
		if err != nil || string(got) != listener.Addr().String() {
			t.Errorf("dialled %v, reached %q, %v", listener.Addr(), got, err)
		}
	}
}

func TestAPortWithoutServerIsAnError(t *testing.T) {
	p := newPod(t)
	closed := (*namespace)(nil).listen(t, "127.0.0.1:0")
	closed.Close()
	wantReset(t, func() (net.Conn, error) { return p.dial("tcp", "127.0.0.1:"+port(closed)) })
}

// wantReset wants a connection to be reset, at once or when it is used.
func wantReset(t testing.TB, dial func() (net.Conn, error)) {
	t.Helper()
	conn, err := dial()
	if err == nil {
		defer conn.Close()
		_, err = io.ReadAll(conn)
	}
	if !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("error %v, want a reset", err)
	}
}

func TestOtherAddressesOfLoopbackStayTheHosts(t *testing.T) {
	p := newPod(t)
	listener := p.listen(t, "127.0.0.11:0")
	serve(t, listener, echo)
	wantEcho(t, p.mustDial(listener.Addr().String()), "docker's own")
}

// A server that goes on sending after its client's end, and the reverse.
func TestHalfClosedConnections(t *testing.T) {
	p := newPod(t)
	listener := (*namespace)(nil).listen(t, "127.0.0.1:0")
	serve(t, listener, func(conn *net.TCPConn) {
		_, _ = io.WriteString(conn, "hello\n")
		request, _ := io.ReadAll(conn)
		fmt.Fprintf(conn, "you said %q", request)
	})
	conn := p.mustDial("127.0.0.1:" + port(listener))
	in := bufio.NewReader(conn)
	if line, err := in.ReadString('\n'); err != nil || line != "hello\n" {
		t.Fatalf("read %q, %v", line, err)
	}
	if _, err := io.WriteString(conn, "bye"); err != nil {
		t.Fatal(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(in); err != nil || string(rest) != `you said "bye"` {
		t.Errorf("read %q, %v", rest, err)
	}

	// Here the server ends first.
	result := make(chan string, 1)
	other := (*namespace)(nil).listen(t, "127.0.0.1:0")
	serve(t, other, func(conn *net.TCPConn) {
		_ = conn.CloseWrite()
		late, _ := io.ReadAll(conn)
		result <- string(late)
	})
	conn = p.mustDial("127.0.0.1:" + port(other))
	if rest, err := io.ReadAll(conn); err != nil || len(rest) != 0 {
		t.Errorf("read %q, %v", rest, err)
	}
	if _, err := io.WriteString(conn, "late"); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	if late := <-result; late != "late" {
		t.Errorf("the server read %q", late)
	}
}

// A connection that breaks is not mistaken for one that ends.
func TestResetsCross(t *testing.T) {
	p := newPod(t)
	result := make(chan error, 1)
	listener := (*namespace)(nil).listen(t, "127.0.0.1:0")
	serve(t, listener, func(conn *net.TCPConn) {
		_, _ = io.WriteString(conn, "x")
		_, err := io.ReadAll(conn)
		result <- err
	})
	conn := p.mustDial("127.0.0.1:" + port(listener))
	if _, err := io.ReadFull(conn, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(conn.SetLinger(0), conn.Close()); err != nil {
		t.Fatal(err)
	}
	if err := <-result; !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the server sees %v, want a reset", err)
	}

	other := (*namespace)(nil).listen(t, "127.0.0.1:0")
	serve(t, other, func(conn *net.TCPConn) {
		_, _ = io.ReadFull(conn, make([]byte, 1))
		_ = conn.SetLinger(0)
	})
	conn = p.mustDial("127.0.0.1:" + port(other))
	if _, err := io.WriteString(conn, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadAll(conn); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("the client sees %v, want a reset", err)
	}

	// A client that closes while its server sends without end ends the server.
	ended := make(chan struct{})
	endless := (*namespace)(nil).listen(t, "127.0.0.1:0")
	serve(t, endless, func(conn *net.TCPConn) {
		defer close(ended)
		for {
			if _, err := conn.Write(make([]byte, 4096)); err != nil {
				return
			}
		}
	})
	conn = p.mustDial("127.0.0.1:" + port(endless))
	if _, err := io.ReadFull(conn, make([]byte, 1<<20)); err != nil {
		t.Fatal(err)
	}
	conn.Close()
	<-ended
}

// random is a stream of data with its checksum.
func random(size int64) (data []byte, sum [sha256.Size]byte) {
	data = make([]byte, size)
	_, _ = rand.Read(data) // never fails
	return data, sha256.Sum256(data)
}

func transfer(t testing.TB, conn *net.TCPConn) {
	t.Helper()
	data, want := random(16<<20 + 12345)
	var sending sync.WaitGroup
	sending.Go(func() {
		if _, err := conn.Write(data); err != nil {
			t.Error(err)
		}
		if err := conn.CloseWrite(); err != nil {
			t.Error(err)
		}
	})
	sum := sha256.New()
	if _, err := io.Copy(sum, conn); err != nil {
		t.Error(err)
	}
	sending.Wait()
	if !bytes.Equal(sum.Sum(nil), want[:]) {
		t.Error("what came back is not what was sent")
	}
}

func TestLargeTransfers(t *testing.T) {
	p := newPod(t, "tcp:7000")
	listener := (*namespace)(nil).listen(t, "127.0.0.1:0")
	serve(t, listener, echo)
	transfer(t, p.mustDial("127.0.0.1:"+port(listener)))

	serve(t, p.listen(t, "127.0.0.1:7000"), echo)
	transfer(t, dialGuest(t, "127.0.0.1:7000"))
}

func dialGuest(t testing.TB, address string) *net.TCPConn {
	t.Helper()
	conn, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn.(*net.TCPConn)
}

const manyConnections = 200

// Each connection stays open until all have been served.
func TestManyConnectionsAtOnce(t *testing.T) {
	p := newPod(t, "tcp:7000", "tcp:[::1]:7001")
	inGuest := (*namespace)(nil).listen(t, "127.0.0.1:0")
	serve(t, inGuest, echo)
	serve(t, p.listen(t, "127.0.0.1:7000"), echo)
	serve(t, p.listen(t, "[::1]:7001"), echo)
	dialers := map[string]func() (net.Conn, error){
		"inbound": func() (net.Conn, error) { return p.dial("tcp", "127.0.0.1:"+port(inGuest)) },
		"v4":      func() (net.Conn, error) { return net.Dial("tcp", "127.0.0.1:7000") },
		"v6":      func() (net.Conn, error) { return net.Dial("tcp", "[::1]:7001") },
	}
	for name, dial := range dialers {
		count := manyConnections
		if name != "inbound" {
			count /= 2 // below what the agent serves at once
		}
		var ready, done sync.WaitGroup
		ready.Add(count)
		for i := range count {
			done.Go(func() {
				conn, err := dial()
				if err != nil {
					t.Error(name, err)
					ready.Done()
					return
				}
				defer conn.Close()
				text := fmt.Sprintf("%s %d\n", name, i)
				_, err = io.WriteString(conn, text)
				got := make([]byte, len(text))
				if _, readErr := io.ReadFull(conn, got); err != nil || readErr != nil || string(got) != text {
					t.Errorf("%s: %q, %v, %v", name, got, err, readErr)
				}
				ready.Done()
				ready.Wait()
				wantEcho(t, conn.(*net.TCPConn), text+"again")
			})
		}
		done.Wait()
	}
}

func TestServicesOfTheHost(t *testing.T) {
	p := newPod(t, "tcp:127.0.0.11:53", "tcp:8080", "tcp:[::1]:8080")
	for _, address := range []string{"127.0.0.11:53", "127.0.0.1:8080", "[::1]:8080"} {
		serve(t, p.listen(t, address), echo)
		wantEcho(t, dialGuest(t, address), "to "+address)
		// In the namespace, the declared port is the host's own server's.
		wantEcho(t, p.mustDial(address), "beside the guest")
	}
	// The same port on another address has not been declared.
	if conn, err := net.Dial("tcp", "127.0.0.2:8080"); err == nil {
		conn.Close()
		t.Error("a connection to 127.0.0.2 in the guest")
	}
}

func TestAServiceWithoutServerIsAnError(t *testing.T) {
	newPod(t, "tcp:8080")
	wantReset(t, func() (net.Conn, error) { return net.Dial("tcp", "127.0.0.1:8080") })
}

// upperCase answers datagrams.
func upperCase(t testing.TB, conn net.PacketConn) {
	t.Helper()
	var serving sync.WaitGroup
	serving.Go(func() {
		buffer := make([]byte, 1<<16)
		for {
			n, client, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = conn.WriteTo(bytes.ToUpper(buffer[:n]), client)
		}
	})
	t.Cleanup(func() {
		conn.Close()
		serving.Wait()
	})
}

func wantUpperCase(t testing.TB, conn net.Conn, text string) {
	t.Helper()
	if _, err := io.WriteString(conn, text); err != nil {
		t.Error(err)
	}
	buffer := make([]byte, 1<<16)
	n, err := conn.Read(buffer)
	if err != nil || string(buffer[:n]) != strings.ToUpper(text) {
		t.Errorf("answer %.40q to %.40q, %v", buffer[:n], text, err)
	}
}

func TestDatagrams(t *testing.T) {
	p := newPod(t, "udp:127.0.0.11:53", "udp:[::1]:5353")
	for _, address := range []string{"127.0.0.11:53", "[::1]:5353"} {
		upperCase(t, p.listenPackets(t, address))
		// More clients than there may be flows at once, each with an answer of
		// its own.
		for i := range 150 {
			conn, err := net.Dial("udp", address)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { conn.Close() })
			wantUpperCase(t, conn, fmt.Sprintf("client %d", i))
			if i%50 == 0 {
				wantUpperCase(t, conn, "")
				wantUpperCase(t, conn, strings.Repeat("large ", 8000))
			}
		}
	}
}

// As with docker's own resolver, whose port is another one in truth.
func TestAContainersServerOnAllAddressesStandsBeside(t *testing.T) {
	p := newPod(t, "udp:127.0.0.11:53", "tcp:127.0.0.11:53")
	upperCase(t, p.listenPackets(t, "127.0.0.11:53"))
	serve(t, p.listen(t, "127.0.0.11:53"), echo)

	own, err := net.ListenPacket("udp4", "0.0.0.0:53")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		buffer := make([]byte, 100)
		for {
			_, client, err := own.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = own.WriteTo([]byte("OWN"), client)
		}
	})
	t.Cleanup(func() {
		own.Close()
		serving.Wait()
	})
	serve(t, (*namespace)(nil).listen(t, "0.0.0.0:53"), func(conn *net.TCPConn) { _, _ = io.WriteString(conn, "own") })

	for address, want := range map[string]string{"127.0.0.11:53": "HOST", "127.0.0.1:53": "OWN"} {
		conn, err := net.Dial("udp", address)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		if _, err := io.WriteString(conn, "host"); err != nil {
			t.Fatal(err)
		}
		buffer := make([]byte, 100)
		n, err := conn.Read(buffer)
		if err != nil || string(buffer[:n]) != want {
			t.Errorf("answer %q of %s, %v, want %q", buffer[:n], address, err, want)
		}
	}
	wantEcho(t, dialGuest(t, "127.0.0.11:53"), "to the host")
	if got, err := io.ReadAll(dialGuest(t, "127.0.0.1:53")); err != nil || string(got) != "own" {
		t.Errorf("read %q, %v", got, err)
	}
}

// A service whose server comes later is reached then.
func TestDatagramsBeforeTheServer(t *testing.T) {
	p := newPod(t, "udp:5000")
	conn, err := net.Dial("udp", "127.0.0.1:5000")
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "lost"); err != nil {
		t.Fatal(err)
	}
	server := p.listenPackets(t, "127.0.0.1:5000")
	upperCase(t, server)
	if _, err := io.WriteString(conn, "second"); err != nil {
		t.Fatal(err)
	}
	for answer := ""; answer != "SECOND"; { // "lost" has an answer too if it was slow
		buffer := make([]byte, 100)
		n, err := conn.Read(buffer)
		if err != nil {
			t.Fatal(err)
		}
		answer = string(buffer[:n])
	}
}

func TestServicesChange(t *testing.T) {
	p := newPod(t, "tcp:8080")
	serve(t, p.listen(t, "127.0.0.1:8080"), echo)
	serve(t, p.listen(t, "127.0.0.1:9090"), echo)
	old := dialGuest(t, "127.0.0.1:8080")
	if _, err := io.WriteString(old, "x"); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(old, make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
	list, err := loopback.ParseServices([]string{"tcp:9090"})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.host.SetServices(list); err != nil {
		t.Fatal(err)
	}
	if err := p.guest.Set(loopback.Protocol(list)); err != nil {
		t.Fatal(err)
	}
	wantEcho(t, dialGuest(t, "127.0.0.1:9090"), "new")
	wantEcho(t, p.mustDial("127.0.0.1:9090"), "new, beside the guest")
	if _, err := io.ReadAll(old); !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("a connection of the service that is gone: %v, want a reset", err)
	}
	if conn, err := net.Dial("tcp", "127.0.0.1:8080"); err == nil {
		conn.Close()
		t.Error("the guest still listens for the service that is gone")
	}
	// A port that is taken in the guest.
	taken := (*namespace)(nil).listen(t, "127.0.0.1:7777")
	list, err = loopback.ParseServices([]string{"tcp:7777", "tcp:9090"})
	if err != nil {
		t.Fatal(err)
	}
	if err := p.guest.Set(loopback.Protocol(list)); !errors.Is(err, unix.EADDRINUSE) || !strings.Contains(err.Error(), "tcp:127.0.0.1:7777") {
		t.Errorf("error %v, want one that names what is taken", err)
	}
	taken.Close()
	if err := p.guest.Set(loopback.Protocol(list)); err != nil {
		t.Error(err)
	}
}

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
