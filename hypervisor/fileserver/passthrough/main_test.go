package passthrough_test

import (
	"bufio"
	"encoding/json"
	"io"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
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
			log.Fatal(err)
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			log.Fatal(err)
		}
		// All threads are in that namespace only after an exec.
		env := append(os.Environ(), envMounts+"=private")
		log.Fatal(unix.Exec("/proc/self/exe", os.Args, env))
	}
	os.Exit(m.Run())
}

// served is what a server process is told.
type served struct {
	Source, Mount string
	Options       passthrough.Options
	Debug         bool
}

func serve(text string) {
	var s served
	if err := json.Unmarshal([]byte(text), &s); err != nil {
		log.Fatal(err)
	}
	root, err := os.Open(s.Source)
	if err != nil {
		log.Fatal(err)
	}
	fs, err := passthrough.New(root, s.Options)
	if err != nil {
		log.Fatal(err)
	}
	root.Close()
	mo := fs.MountOptions()
	mo.DirectMountStrict = true
	mo.DirectMountFlags = unix.MS_MGC_VAL
	mo.AllowOther = true
	mo.Options = append(mo.Options, "default_permissions")
	mo.Logger = log.New(os.Stderr, "fuse: ", 0)
	mo.Debug = s.Debug
	server, err := fuse.NewServer(fs, s.Mount, mo)
	if err != nil {
		log.Fatal(err)
	}
	go server.Serve()
	if err := server.WaitMount(); err != nil {
		log.Fatal(err)
	}
	if _, err := os.Stdout.WriteString("ready\n"); err != nil {
		log.Fatal(err)
	}
	_, _ = io.Copy(io.Discard, os.Stdin)
	if err := unix.Unmount(s.Mount, unix.MNT_DETACH); err != nil {
		log.Print(err)
	}
	server.Wait()
	if err := fs.Close(); err != nil {
		log.Fatal(err)
	}
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
	if os.Geteuid() != 0 {
		t.Skip("mounts a file system: run as root")
	}
	text, err := json.Marshal(served{Source: source, Mount: mnt, Options: o, Debug: os.Getenv("FUSE_DEBUG") != ""})
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), envServe+"="+string(text), "GORACE=atexit_sleep_ms=0")
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		in.Close()
		if err := cmd.Wait(); err != nil {
			t.Errorf("the server: %v", err)
		}
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the server says %q: %v", line, err)
	}
	return cmd
}
