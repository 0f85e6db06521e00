//go:build vm

package loopback_test

import (
	"bufio"
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
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
