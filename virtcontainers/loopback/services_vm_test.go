//go:build vm

package loopback_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/loopback"
)

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
