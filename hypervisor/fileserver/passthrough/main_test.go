package passthrough_test

import (
	"bufio"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"sync/atomic"
	"testing"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/fileserver/passthrough"
)

const (
	envMounts = "PASSTHROUGH_TEST_MOUNTS"
	envServe  = "PASSTHROUGH_TEST_SERVE"
	envAct    = "PASSTHROUGH_TEST_ACT"
)

// TestMain gives the tests mounts of their own where they may have them, and is the
// server of a mount: a process that waits in a system call for an answer of its own
// cannot stop for its garbage collector, and so never answers.
func TestMain(m *testing.M) {
	if s := os.Getenv(envServe); s != "" {
		serve(s)
		return
	}
	if s := os.Getenv(envAct); s != "" {
		act(s)
		return
	}
	if os.Geteuid() == 0 && os.Getenv(envMounts) == "" {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			fatal(err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			fatal(err)
		}
		// All threads are in that namespace only after an exec.
		env := append(os.Environ(), envMounts+"=private")
		fatal(unix.Exec("/proc/self/exe", os.Args, env))
	}
	os.Exit(m.Run())
}

// served is what a server process is told.
type served struct {
	Source, Mount string
	Options       passthrough.Options
	Debug         bool
	// Lookups is where the server writes how many there were, when it ends.
	Lookups string
	// Device is /dev/fuse, mounted: what follows has the capabilities of a jail.
	Device int
}

// jailed are all capabilities that a file server has.
func jailed() []uintptr {
	return []uintptr{
		unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID,
		unix.CAP_SETUID, unix.CAP_SETGID, unix.CAP_MKNOD, unix.CAP_SETFCAP,
	}
}

func serve(text string) {
	var s served
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		fatal(err)
	}
	if s.Device == 0 {
		fatal(mountAndConfine(s))
	}
	root, err := os.Open(s.Source)
	if err != nil {
		fatal(err)
	}
	fs, err := passthrough.New(root, s.Options)
	if err != nil {
		fatal(err)
	}
	root.Close()
	mo := fs.MountOptions()
	mo.Logger = slog.NewLogLogger(slog.NewTextHandler(os.Stderr, nil), slog.LevelDebug)
	mo.Debug = s.Debug
	counted := &counting{FileSystem: fs}
	server, err := fuse.NewServer(counted, "/dev/fd/"+strconv.Itoa(s.Device), mo)
	if err != nil {
		fatal(err)
	}
	go server.Serve()
	if _, err := os.Stdout.WriteString("ready\n"); err != nil {
		fatal(err)
	}
	server.Wait()
	if s.Lookups != "" {
		if err := os.WriteFile(s.Lookups, fmt.Appendf(nil, "%d", counted.lookups.Load()), 0o600); err != nil {
			fatal(err)
		}
	}
	if err := fs.Close(); err != nil {
		fatal(err)
	}
}

// counting counts lookups.
type counting struct {
	*passthrough.FileSystem
	lookups atomic.Int64
}

func (c *counting) Lookup(cancel <-chan struct{}, in *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	c.lookups.Add(1)
	return c.FileSystem.Lookup(cancel, in, name, out)
}

// mountAndConfine mounts what is to be served and becomes the server, with a file
// server's capabilities alone. It returns only with an error.
func mountAndConfine(s served) error {
	runtime.LockOSThread()
	device, err := unix.Open("/dev/fuse", unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	data := "fd=" + strconv.Itoa(device) + ",rootmode=40000,user_id=0,group_id=0,max_read=1048576,default_permissions,allow_other"
	if err := unix.Mount("kata", s.Mount, "fuse.kata", 0, data); err != nil {
		return err
	}
	for c := uintptr(0); c <= unix.CAP_LAST_CAP; c++ {
		if !slices.Contains(jailed(), c) {
			if err := unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0); err != nil {
				return err
			}
		}
	}
	s.Device = device
	text, err := json.Marshal(s)
	if err != nil {
		return err
	}
	if err := os.Setenv(envServe, string(text)); err != nil {
		return err
	}
	return unix.Exec("/proc/self/exe", os.Args, os.Environ())
}

// mounted serves a new directory, mounts it, and returns the directory and the mount
// point.
func mounted(t *testing.T, o passthrough.Options) (source, mnt string) {
	t.Helper()
	base := t.TempDir()
	if err := os.Chmod(base, 0o755); err != nil {
		t.Fatal(err)
	}
	source, mnt = filepath.Join(base, "source"), filepath.Join(base, "mnt")
	for _, d := range []string{source, mnt} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	mountAt(t, source, mnt, o)
	return source, mnt
}

func mountAt(t *testing.T, source, mnt string, o passthrough.Options) *exec.Cmd {
	t.Helper()
	return mountServed(t, served{Source: source, Mount: mnt, Options: o})
}

func mountServed(t *testing.T, s served) *exec.Cmd {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounts a file system: run as root")
	}
	s.Debug = os.Getenv("FUSE_DEBUG") != ""
	text, err := json.Marshal(s)
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), envServe+"="+string(text), "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(s.Mount, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Errorf("the server: %v", err)
		}
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the server says %q: %v", line, err)
	}
	return cmd
}

// fatal ends a process of a test that is not the test's own.
func fatal(what any) {
	slog.Error("a test's process", "error", what)
	os.Exit(1)
}
