package relay

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func TestHeader(t *testing.T) {
	want := Header{
		Token: strings.Repeat("t", TokenLength), Container: "c1", Bind: "mounts/3",
		Path: "sub/the.sock", UID: 1000, GID: 1 << 31,
	}
	var buf bytes.Buffer
	if err := WriteHeader(&buf, want); err != nil {
		t.Fatal(err)
	}
	buf.WriteString("data")
	got, err := ReadHeader(&buf)
	if err != nil || got != want {
		t.Errorf("read %+v, %v, want %+v", got, err, want)
	}
	if rest := buf.String(); rest != "data" {
		t.Errorf("reading the header left %q", rest)
	}
}

func TestBadHeaders(t *testing.T) {
	token := strings.Repeat("t", TokenLength)
	for name, h := range map[string]Header{
		"long name":   {Token: token, Path: strings.Repeat("x", MaxName+1)},
		"short token": {Token: "t"},
	} {
		if err := WriteHeader(io.Discard, h); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	zeros := strings.Repeat("\x00", 8)
	for name, text := range map[string]string{
		"magic": "XXXX" + token + zeros + zeros,
		"name":  headerMagic + token + zeros + "\xff\xff",
	} {
		if _, err := ReadHeader(strings.NewReader(text)); !errors.Is(err, ErrMalformed) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := ReadHeader(strings.NewReader(headerMagic)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("cut off: %v", err)
	}
}

func FuzzReadHeader(f *testing.F) {
	var buf bytes.Buffer
	_ = WriteHeader(&buf, Header{Token: strings.Repeat("t", TokenLength), Container: "c", Bind: "b", Path: "p"})
	f.Add(buf.Bytes())
	f.Fuzz(func(t *testing.T, data []byte) {
		h, err := ReadHeader(bytes.NewReader(data))
		if err != nil {
			return
		}
		var again bytes.Buffer
		if err := WriteHeader(&again, h); err != nil || !bytes.HasPrefix(data, again.Bytes()) {
			t.Errorf("header %+v is written differently: %v", h, err)
		}
	})
}

// relayed returns the two ends of a connection that goes through a relay, and
// the outcomes of its two Copy calls.
func relayed(t *testing.T) (client, server *net.UnixConn, results chan error) {
	t.Helper()
	client, guest := pair(t)
	host, server := pair(t)
	up, down := pair(t)
	results = make(chan error, 2)
	for local, peer := range map[*net.UnixConn]net.Conn{guest: up, host: down} {
		go func() { results <- Copy(t.Context(), local, peer) }()
	}
	return client, server, results
}

func pair(t *testing.T) (a, b *net.UnixConn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	conns := make([]*net.UnixConn, 2)
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "socket")
		conn, err := net.FileConn(file)
		if err != nil {
			t.Fatal(err)
		}
		file.Close()
		conns[i] = conn.(*net.UnixConn)
		t.Cleanup(func() { conn.Close() })
	}
	return conns[0], conns[1]
}

func settled(t *testing.T, results chan error) {
	t.Helper()
	for range 2 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}

// TestHalfClose sends much one way and, only after its end, much the other way.
func TestHalfClose(t *testing.T) {
	client, server, results := relayed(t)
	data := make([]byte, 5<<20)
	_, _ = rand.Read(data)
	go func() {
		_, _ = client.Write(data)
		_ = client.CloseWrite()
	}()
	hash := sha256.New()
	if n, err := io.Copy(hash, server); n != int64(len(data)) || err != nil {
		t.Fatalf("the server got %d bytes, %v", n, err)
	}
	if [sha256.Size]byte(hash.Sum(nil)) != sha256.Sum256(data) {
		t.Error("the server got other data")
	}
	go func() {
		_, _ = server.Write(data)
		server.Close()
	}()
	answer, err := io.ReadAll(client)
	if err != nil || !bytes.Equal(answer, data) {
		t.Errorf("the client got %d bytes, %v", len(answer), err)
	}
	client.Close()
	settled(t, results)
}

// TestEndOfWish: a server that goes away makes the client's writes fail, also
// when the client never reads.
func TestEndOfWish(t *testing.T) {
	client, server, _ := relayed(t)
	server.Close()
	chunk := make([]byte, 4096)
	for {
		if _, err := client.Write(chunk); err != nil {
			if !errors.Is(err, unix.EPIPE) && !errors.Is(err, unix.ECONNRESET) {
				t.Errorf("write: %v", err)
			}
			return
		}
	}
}

// TestAnswerBeforeTheEnd: what a server said before it went away arrives.
func TestAnswerBeforeTheEnd(t *testing.T) {
	client, server, _ := relayed(t)
	if _, err := server.Write([]byte("too large")); err != nil {
		t.Fatal(err)
	}
	server.Close()
	go func() {
		chunk := make([]byte, 4096)
		for {
			if _, err := client.Write(chunk); err != nil {
				return
			}
		}
	}()
	if answer, err := io.ReadAll(client); string(answer) != "too large" || err != nil {
		t.Errorf("the client got %q, %v", answer, err)
	}
}

func TestALostRelayIsAnEnd(t *testing.T) {
	guest, client := pair(t)
	relay, peer := pair(t)
	peer.Close()
	if err := Copy(t.Context(), guest, relay); err == nil {
		t.Error("the relay's loss went unnoticed")
	}
	if _, err := client.Read(make([]byte, 1)); err == nil {
		t.Error("the client does not see it")
	}
}

func TestCancelled(t *testing.T) {
	guest, _ := pair(t)
	relay, _ := pair(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Copy(ctx, guest, relay); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestHostileFrames(t *testing.T) {
	for name, data := range map[string][]byte{
		"oversized": binary.BigEndian.AppendUint32(nil, maxFrame+1),
		"huge":      binary.BigEndian.AppendUint32(nil, endOfWish-1),
		"cut off":   append(binary.BigEndian.AppendUint32(nil, 5), "1234"...),
	} {
		t.Run(name, func(t *testing.T) {
			host, _ := pair(t)
			relay, peer := pair(t)
			_, _ = peer.Write(data)
			_ = peer.CloseWrite()
			err := Copy(t.Context(), host, relay)
			if !errors.Is(err, ErrMalformed) && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("%v", err)
			}
		})
	}
}

// TestBackpressure: who does not read stops who writes, within a few frames.
func TestBackpressure(t *testing.T) {
	guest, client := pair(t)
	relay, peer := pair(t)
	done := make(chan error, 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() { done <- Copy(ctx, guest, relay) }()
	// Fill what the kernel holds on the way to the peer, which never reads.
	full := make(chan struct{})
	go func() {
		defer close(full)
		_, _ = client.Write(make([]byte, 64<<20))
	}()
	select {
	case <-full:
		t.Error("64 MiB went to nobody")
	case <-peerFull(t, peer):
	}
	cancel()
	if err := <-done; !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
	client.Close()
	<-full
}

// peerFull tells when data has reached the peer.
func peerFull(t *testing.T, peer *net.UnixConn) <-chan struct{} {
	t.Helper()
	ready := make(chan struct{})
	go func() {
		defer close(ready)
		_, _ = peer.Read(make([]byte, 1))
	}()
	return ready
}
