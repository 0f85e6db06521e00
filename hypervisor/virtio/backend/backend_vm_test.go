//go:build vm

package backend_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/jail"
	"kata-runtime/hypervisor/virtio/backend"
)

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case jail.Command:
			os.Exit(jail.Become(os.Args[2:]))
		case backend.Command:
			os.Exit(backend.Run(os.Args[2:], map[string]backend.Role{"echo": echo, "failing": failing}))
		}
	}
	os.Exit(m.Run())
}

// echo writes its settings and what it sees of the host to its file, and then back
// what the VMM sends.
func echo(_ context.Context, in *backend.Inherited) error {
	in.Log.Info("begins")
	var seen []string
	if os.Getpid() != 1 {
		seen = []string{"all"}
	} else {
		seen = walk()
	}
	if _, err := fmt.Fprintf(in.Files[0], "%s %d %d %q\n", in.Settings, os.Getpid(), os.Getuid(), seen); err != nil {
		return err
	}
	_, err := io.Copy(in.VMM, struct{ io.Reader }{in.VMM})
	return err
}

func walk() (seen []string) {
	_ = filepath.WalkDir("/", func(path string, _ fs.DirEntry, _ error) error {
		seen = append(seen, path)
		return nil
	})
	return seen
}

func failing(context.Context, *backend.Inherited) error { return errors.New("the queue is broken") }

const user = 2_000_001_235

func start(t *testing.T, o backend.Options) *backend.Process {
	t.Helper()
	o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	p, err := backend.Start(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Stop(); err != nil {
			t.Error(err)
		}
	})
	return p
}

func confined() *jail.Spec {
	return &jail.Spec{
		Namespaces: jail.Empty, Root: &jail.Root{}, User: user, MaxFiles: 64, MaxThreads: 64,
		// The first three are this test's, to look around.
		SystemCalls: &jail.SystemCalls{Allowed: append(backend.SystemCalls(), unix.SYS_GETDENTS64, unix.SYS_OPENAT, unix.SYS_GETUID)},
	}
}

func TestBackend(t *testing.T) {
	for name, spec := range map[string]*jail.Spec{"confined": confined(), "not confined": nil} {
		t.Run(name, func(t *testing.T) {
			r, w, err := os.Pipe()
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			p := start(t, backend.Options{Role: "echo", Settings: map[string]int{"cid": 7}, Files: []*os.File{w}, Jail: spec})
			_ = w.Close()
			if _, err := io.WriteString(p.Socket(), "hello"); err != nil {
				t.Fatal(err)
			}
			got := make([]byte, 5)
			if _, err := io.ReadFull(p.Socket(), got); err != nil || string(got) != "hello" {
				t.Fatalf("%q, %v; %s", got, err, p.Stderr())
			}
			if spec != nil {
				checkStatus(t, p.PID())
			}
			// The end of the VMM is that of the process.
			_ = p.Socket().Close()
			ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
			defer cancel()
			if err := p.Wait(ctx); err != nil {
				t.Error(err)
			}
			said, err := io.ReadAll(r)
			if err != nil || !strings.HasPrefix(string(said), `{"cid":7} `) {
				t.Errorf("%s, %v", said, err)
			}
			if spec != nil && !strings.HasPrefix(string(said), fmt.Sprintf(`{"cid":7} 1 %d `, user)) {
				t.Errorf("in the jail: %s", said)
			}
			if spec != nil && (strings.Contains(string(said), "/etc/passwd") || strings.Contains(string(said), filepath.Base(os.Args[0]))) {
				t.Errorf("sees the host: %s", said)
			}
		})
	}
}

// checkStatus reads what the kernel says of the process.
func checkStatus(t *testing.T, pid int) {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		fmt.Sprintf("Uid:\t%d\t%[1]d\t%[1]d\t%[1]d\n", user), "Groups:\t \n", "CapBnd:\t0000000000000000\n", "CapPrm:\t0000000000000000\n",
		"NoNewPrivs:\t1\n", "Seccomp:\t2\n",
	} {
		if !strings.Contains(string(status), want) {
			t.Errorf("lacks %q:\n%s", want, status)
		}
	}
	// Not dumpable, it belongs to root.
	var stat unix.Stat_t
	if err := unix.Stat(fmt.Sprintf("/proc/%d/mem", pid), &stat); err != nil || stat.Uid != 0 {
		t.Errorf("memory belongs to %d, %v", stat.Uid, err)
	}
}

func TestEndOfBackend(t *testing.T) {
	for role, want := range map[string]string{"failing": "the queue is broken", "none": "no such device"} {
		p := start(t, backend.Options{Role: role, Jail: confined()})
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		err := p.Wait(ctx)
		cancel()
		var exit *hypervisor.ExitError
		if !errors.As(err, &exit) || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), role+" device") {
			t.Errorf("%s: %v", role, err)
		}
		// Its end has closed the connection.
		if n, err := p.Socket().Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("%s: %d, %v", role, n, err)
		}
	}
	if _, err := backend.Start(t.Context(), backend.Options{Role: "x", Settings: make(chan int), Log: slog.New(slog.DiscardHandler)}); err == nil {
		t.Error("settings that are no JSON were taken")
	} else if syntax := (*json.UnsupportedTypeError)(nil); !errors.As(err, &syntax) {
		t.Error(err)
	}
}
