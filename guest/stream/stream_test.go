package stream_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
	"kata-runtime/guest/stream"
)

// host is the host's side of an output: it reads only when told to.
type host struct {
	io.Writer
	closed chan struct{}
}

func (h *host) Close() error {
	close(h.closed)
	return nil
}

func outputPipe(t *testing.T) (agent, process *os.File) {
	t.Helper()
	agent, process, err := stream.OutputPipe()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		agent.Close()
		process.Close()
	})
	return agent, process
}

func TestOutputDeliversEverythingUpToTheEnd(t *testing.T) {
	agent, process := outputPipe(t)
	var got bytes.Buffer
	h := &host{Writer: &got, closed: make(chan struct{})}
	out := stream.NewOutput(agent, h)
	want := bytes.Repeat([]byte("0123456789abcdef"), 1<<18)
	if _, err := process.Write(want); err != nil {
		t.Fatal(err)
	}
	process.Close()
	out.Finish()
	out.Wait()
	<-h.closed
	if !bytes.Equal(got.Bytes(), want) {
		t.Fatalf("%d bytes arrived, want %d", got.Len(), len(want))
	}
}

func TestFinishDoesNotWaitForAWriterInTheBackground(t *testing.T) {
	agent, process := outputPipe(t)
	var got bytes.Buffer
	h := &host{Writer: &got, closed: make(chan struct{})}
	out := stream.NewOutput(agent, h)
	if _, err := process.WriteString("last words"); err != nil {
		t.Fatal(err)
	}
	out.Finish() // process stays open
	out.Wait()
	<-h.closed
	if got.String() != "last words" {
		t.Fatalf("got %q", got.String())
	}
}

func TestFinishDoesNotWaitForAHostThatDoesNotRead(t *testing.T) {
	agent, process := outputPipe(t)
	r, w := io.Pipe() // unbuffered: every write waits for a read
	out := stream.NewOutput(agent, w)
	want := bytes.Repeat([]byte("x"), 700<<10) // fits into the pipe
	if _, err := process.Write(want); err != nil {
		t.Fatal(err)
	}
	out.Finish()
	agent.Close()
	got, err := io.ReadAll(r)
	if err != nil || !bytes.Equal(got, want) {
		t.Fatalf("%d bytes after Finish, want %d: %v", len(got), len(want), err)
	}
	out.Wait()
}

func TestFinishBoundsAnEndlessWriter(t *testing.T) {
	agent, process := outputPipe(t)
	r, w := io.Pipe()
	out := stream.NewOutput(agent, w)
	writer := make(chan struct{})
	go func() {
		defer close(writer)
		for {
			if _, err := process.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	}()
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(io.Discard, r)
	}()
	out.Finish()
	out.Wait()
	<-read
	agent.Close()
	<-writer // ended by the closed pipe
}

func TestAHostThatLeavesBreaksThePipe(t *testing.T) {
	agent, process := outputPipe(t)
	r, w := io.Pipe()
	r.Close()
	out := stream.NewOutput(agent, w)
	if _, err := process.Write(make([]byte, 4<<20)); !errors.Is(err, unix.EPIPE) {
		t.Errorf("a write that nobody reads: %v, want EPIPE", err)
	}
	process.Close()
	out.Finish()
	out.Wait()
}

func TestInputEndsWithTheHost(t *testing.T) {
	agent, process, err := stream.InputPipe()
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	in := stream.NewInput(near, agent, true)
	go func() {
		_, _ = io.WriteString(far, "typed")
		far.Close()
	}()
	got, err := io.ReadAll(process)
	if err != nil || string(got) != "typed" {
		t.Fatalf("read %q, %v", got, err)
	}
	process.Close()
	in.Stop()
}

// pairs are connections of two kinds: that of a socket is spliced.
func pairs() map[string]func(*testing.T) (near, far net.Conn) {
	return map[string]func(*testing.T) (near, far net.Conn){
		"copied":  func(*testing.T) (near, far net.Conn) { return net.Pipe() },
		"spliced": socketPair,
	}
}

func socketPair(t *testing.T) (near, far net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "socket")
		if ends[i], err = net.FileConn(file); err != nil {
			t.Fatal(err)
		}
		file.Close()
	}
	return ends[0], ends[1]
}

// TestMuchInput arrives whole, also where the pipe grows while it is full, and where the
// host pauses.
func TestMuchInput(t *testing.T) {
	for name, pair := range pairs() {
		t.Run(name, func(t *testing.T) {
			agent, process, err := stream.InputPipe()
			if err != nil {
				t.Fatal(err)
			}
			near, far := pair(t)
			in := stream.NewInput(near, agent, true)
			sent := make([]byte, 5<<20)
			for i := range sent {
				sent[i] = byte(i * i >> 8)
			}
			half := make(chan struct{})
			go func() {
				_, _ = far.Write(sent[:3<<20])
				<-half
				_, _ = far.Write(sent[3<<20:])
				far.Close()
			}()
			first := make([]byte, 3<<20)
			if _, err := io.ReadFull(process, first); err != nil {
				t.Fatal(err)
			}
			close(half)
			rest, err := io.ReadAll(process)
			if got := slices.Concat(first, rest); err != nil || !bytes.Equal(got, sent) {
				t.Fatalf("read %d bytes, %v, not the %d that were sent", len(got), err, len(sent))
			}
			process.Close()
			in.Stop()
		})
	}
}

// TestMuchInputThatNobodyReads ends with the process, whether that goes away or is said
// to have ended while the pipe is full.
func TestMuchInputThatNobodyReads(t *testing.T) {
	for name, pair := range pairs() {
		for _, goes := range []bool{true, false} {
			t.Run(fmt.Sprintf("%s, %t", name, goes), func(t *testing.T) {
				agent, process, err := stream.InputPipe()
				if err != nil {
					t.Fatal(err)
				}
				defer process.Close()
				near, far := pair(t)
				in := stream.NewInput(near, agent, true)
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					buffer := make([]byte, 1<<20)
					for {
						if _, err := far.Write(buffer); err != nil {
							return
						}
					}
				}()
				if _, err := io.ReadFull(process, make([]byte, 2<<20)); err != nil {
					t.Fatal(err)
				}
				if goes {
					process.Close()
					<-ended
				}
				in.Stop()
				<-ended
			})
		}
	}
}

func TestInputEndsWithTheProcess(t *testing.T) {
	agent, process, err := stream.InputPipe()
	if err != nil {
		t.Fatal(err)
	}
	near, far := net.Pipe()
	in := stream.NewInput(near, agent, true)
	process.Close()
	_, _ = io.WriteString(far, "nobody reads this")
	if _, err := far.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("the host's connection: %v, want io.EOF", err)
	}
	in.Stop()
}

// serve runs a registry on a unix socket until the test ends.
func serve(t *testing.T) (*stream.Registry, string) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "streams")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	r := stream.NewRegistry(slog.New(slog.DiscardHandler))
	done := make(chan error, 1)
	go func() { done <- r.Serve(t.Context(), l) }()
	t.Cleanup(func() {
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return r, path
}

func dial(t *testing.T, path string) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

// connect opens a stream and returns the agent's answer; 0 for none.
func connect(t *testing.T, path string, header protocol.StreamHeader) (net.Conn, byte) {
	t.Helper()
	conn := dial(t, path)
	if err := protocol.WriteStreamHeader(conn, header); err != nil {
		t.Fatal(err)
	}
	var answer [1]byte
	_, _ = io.ReadFull(conn, answer[:])
	return conn, answer[0]
}

func TestRegistryParksAndHandsOut(t *testing.T) {
	r, path := serve(t)
	header := protocol.StreamHeader{Container: "c", Process: "p", Stream: protocol.Stdout}
	conn, answer := connect(t, path, header)
	if answer != protocol.StreamAccepted {
		t.Fatalf("answer %#x", answer)
	}
	claimed, err := r.Claim(header)
	if err != nil {
		t.Fatal(err)
	}
	defer claimed.Close()
	if _, err := io.WriteString(claimed, "hello"); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(conn, got); err != nil || string(got) != "hello" {
		t.Fatalf("read %q, %v", got, err)
	}
	if _, err := r.Claim(header); !errors.Is(err, stream.ErrNotConnected) {
		t.Fatalf("second claim: %v", err)
	}
}

func TestRegistryReplacesAnAbandonedConnection(t *testing.T) {
	r, path := serve(t)
	header := protocol.StreamHeader{Container: "c", Stream: protocol.Stdin}
	old, _ := connect(t, path, header)
	fresh, _ := connect(t, path, header)
	if _, err := old.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Fatalf("old connection: %v", err)
	}
	claimed, err := r.Claim(header)
	if err != nil {
		t.Fatal(err)
	}
	go fresh.Write([]byte("y"))
	got := make([]byte, 1)
	if _, err := io.ReadFull(claimed, got); err != nil || got[0] != 'y' {
		t.Fatalf("read %q, %v", got, err)
	}
	claimed.Close()
}

func TestRegistryRefusesGarbage(t *testing.T) {
	_, path := serve(t)
	conn := dial(t, path)
	if _, err := io.WriteString(conn, "GET / HTTP/1.1\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	if n, err := conn.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Fatalf("garbage was answered with %d bytes, %v", n, err)
	}
}

func TestRegistryBoundsWhatItParks(t *testing.T) {
	r, path := serve(t)
	const many = 300
	for i := range many {
		header := protocol.StreamHeader{Container: strconv.Itoa(i), Stream: protocol.Stdin}
		if _, answer := connect(t, path, header); answer != protocol.StreamAccepted {
			t.Fatalf("connection %d was not accepted", i)
		}
	}
	if _, err := r.Claim(protocol.StreamHeader{Container: "0", Stream: protocol.Stdin}); err == nil {
		t.Fatal("the oldest connection was kept")
	}
	conn, err := r.Claim(protocol.StreamHeader{Container: strconv.Itoa(many - 1), Stream: protocol.Stdin})
	if err != nil {
		t.Fatal(err)
	}
	conn.Close()
}
