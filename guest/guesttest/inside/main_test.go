//go:build inguest

// Package inside holds the tests that run in a guest: its test binary is the
// guest's /init. Package guesttest starts it.
package inside

import (
	"archive/tar"
	"context"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/ttrpc"

	"kata-runtime/guest/container"
	"kata-runtime/guest/network"
	"kata-runtime/guest/pid1"
	"kata-runtime/guest/protocol"
	"kata-runtime/guest/server"
)

// bundleDevice is a disk that holds a tar archive of the containers' root file
// system.
const bundleDevice = "/dev/vda"

const baseRoot = "/run/base"

func TestMain(m *testing.M) {
	container.RunHelper()
	if pid1.Booting() {
		if err := pid1.Boot(); err != nil {
			fmt.Println("boot:", err)
			os.Exit(1)
		}
		if err := container.PrepareCgroups(); err != nil {
			fmt.Println("boot:", err)
			os.Exit(1)
		}
	}
	flag.Parse()
	if err := flag.Set("test.v", "true"); err != nil {
		panic(err)
	}
	// For work on the tests: one of them alone.
	if cmdline, err := os.ReadFile("/proc/cmdline"); err == nil {
		for _, word := range strings.Fields(string(cmdline)) {
			if name, ok := strings.CutPrefix(word, "kata.run="); ok {
				if err := flag.Set("test.run", name); err != nil {
					panic(err)
				}
			}
		}
	}
	if err := unpack(bundleDevice, baseRoot); err != nil {
		fmt.Println("unpack root file system:", err)
		os.Exit(1)
	}
	code := m.Run()
	fmt.Printf("guest tests: exit %d\n", code)
	os.Exit(code)
}

func unpack(device, dir string) error {
	file, err := os.Open(device)
	if err != nil {
		return err
	}
	defer file.Close()
	archive := tar.NewReader(file)
	for {
		header, err := archive.Next()
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := unpackEntry(archive, header, filepath.Join(dir, header.Name)); err != nil {
			return err
		}
	}
}

func unpackEntry(content io.Reader, header *tar.Header, path string) error {
	switch header.Typeflag {
	case tar.TypeDir:
		return os.MkdirAll(path, os.FileMode(header.Mode))
	case tar.TypeSymlink:
		return os.Symlink(header.Linkname, path)
	default:
		out, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY, os.FileMode(header.Mode))
		if err != nil {
			return err
		}
		if _, err := io.Copy(out, content); err != nil {
			return err
		}
		return out.Close()
	}
}

// agent is an agent under test that serves unix sockets.
type agent struct {
	t       *testing.T
	client  protocol.AgentService
	streams string
}

// startAgent runs an agent until the test ends, and greets it.
func startAgent(t *testing.T) *agent {
	t.Helper()
	dir := t.TempDir()
	a := &agent{t: t, streams: filepath.Join(dir, "streams")}
	listen := func(path string) net.Listener {
		l, err := net.Listen("unix", path)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	log := slog.New(slog.NewTextHandler(os.Stderr, nil))
	cfg := server.Config{
		Log: log, StateDir: filepath.Join(dir, "state"), Network: network.New(log),
		Agent: listen(filepath.Join(dir, "agent")), Streams: listen(a.streams),
	}
	go func() { done <- server.Run(ctx, cfg) }()
	conn, err := net.Dial("unix", filepath.Join(dir, "agent"))
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(conn)
	t.Cleanup(func() {
		client.Close()
		cancel()
		if err := <-done; err != nil {
			t.Errorf("agent: %v", err)
		}
	})
	a.client = protocol.NewAgentClient(client)
	if _, err := a.client.Hello(t.Context(), &protocol.HelloRequest{Version: protocol.Version}); err != nil {
		t.Fatal(err)
	}
	return a
}

// open connects a stream.
func (a *agent) open(header protocol.StreamHeader) net.Conn {
	a.t.Helper()
	conn, err := net.Dial("unix", a.streams)
	if err != nil {
		a.t.Fatal(err)
	}
	if err := protocol.WriteStreamHeader(conn, header); err != nil {
		a.t.Fatal(err)
	}
	var answer [1]byte
	if _, err := io.ReadFull(conn, answer[:]); err != nil || answer[0] != protocol.StreamAccepted {
		a.t.Fatalf("stream answered %x, %v", answer, err)
	}
	return conn
}
