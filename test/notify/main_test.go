// Package notify tests the file server's and the agent's halves of events of inotify
// together, on a mount of this host's kernel in the place of a guest's.
package notify

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/notify"
	"kata-runtime/hypervisor/fileserver/passthrough"
)

const (
	envServe  = "NOTIFY_TEST_SERVE"
	envMount  = "NOTIFY_TEST_MOUNT"
	envMounts = "NOTIFY_TEST_MOUNTS"
)

// TestMain gives the tests mounts of their own. The server, and the agent, are processes:
// one that waits for an answer of its own would have it never.
func TestMain(m *testing.M) {
	switch source, mnt := os.Getenv(envServe), os.Getenv(envMount); {
	case source != "":
		fatal(serve(source, mnt))
	case mnt != "":
		fatal(repeat(mnt))
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
		fatal(unix.Exec("/proc/self/exe", os.Args, append(os.Environ(), envMounts+"=private")))
	}
	os.Exit(m.Run())
}

func fatal(err error) {
	if err != nil {
		slog.Error("a test's process", "error", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func serve(source, mnt string) error {
	root, err := os.Open(source)
	if err != nil {
		return err
	}
	cache := passthrough.Shared()
	cache.Watch = true
	fs, err := passthrough.New(root, passthrough.Options{
		Cache: cache, Watch: true, Lasting: 1,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, nil)),
	})
	if err != nil {
		return err
	}
	root.Close()
	o := fs.MountOptions()
	o.DirectMountStrict = true
	o.AllowOther = true
	o.Options = append(o.Options, "default_permissions")
	o.Debug = os.Getenv("FUSE_DEBUG") != ""
	o.DirectMountFlags = 0
	server, err := fuse.NewServer(fs, mnt, o)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	server.Serve()
	return fs.Close()
}

func repeat(mnt string) error {
	r, err := notify.Open(slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug})), mnt)
	if err != nil {
		return err
	}
	fmt.Println("ready")
	r.Run(context.Background())
	return nil
}

// start starts this program as another process.
func start(t *testing.T, env ...string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), append(env, "GORACE=atexit_sleep_ms=0")...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("a process of the test says %q: %v", line, err)
	}
	return cmd
}

// share is a directory of the host, and what a guest sees of it.
type share struct {
	host, guest string
	server      *os.Process
}

// mounted serves a new directory.
func mounted(t *testing.T) share {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("mounts a file system: run as root")
	}
	base := t.TempDir()
	s := share{host: filepath.Join(base, "host"), guest: filepath.Join(base, "guest")}
	for _, dir := range []string{s.host, s.guest, s.host + "/volume"} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	server := start(t, envServe+"="+s.host, envMount+"="+s.guest)
	s.server = server.Process
	agent := start(t, envMount+"="+s.guest)
	t.Cleanup(func() {
		if err := unix.Unmount(s.guest, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		for _, each := range []*exec.Cmd{server, agent} { // which waits for an answer
			_ = each.Process.Kill()
			_ = each.Wait()
		}
	})
	return s
}

// watcher has an inotify instance.
type watcher struct {
	t     *testing.T
	fd    int
	names map[int32]string
}

func watch(t *testing.T, paths ...string) *watcher {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	w := &watcher{t, fd, map[int32]string{}}
	for _, p := range paths {
		wd, err := unix.InotifyAddWatch(fd, p, unix.IN_ALL_EVENTS)
		if err != nil {
			t.Fatal(err)
		}
		w.names[int32(wd)] = filepath.Base(p)
	}
	return w
}

// events are those of linux/inotify.h, by their bits.
func events() []string {
	return []string{
		"ACCESS", "MODIFY", "ATTRIB", "CLOSE_WRITE", "CLOSE_NOWRITE", "OPEN", "MOVED_FROM", "MOVED_TO", "CREATE", "DELETE", "DELETE_SELF", "MOVE_SELF",
	}
}

// read returns the events before the directory last is made.
func (w *watcher) read(last string) []string {
	w.t.Helper()
	made := "CREATE " + last
	return w.readUntil(last, func(list []string) bool { return strings.HasSuffix(list[len(list)-1], made) })
}

// readUntil returns the events before the one with which all are there. What is what a
// failure says is missing.
func (w *watcher) readUntil(what string, all func(list []string) bool) []string {
	w.t.Helper()
	var list []string
	buf := make([]byte, 64<<10)
	cookies := map[uint32]int{}
	poll := []unix.PollFd{{Fd: int32(w.fd), Events: unix.POLLIN}}
	for {
		const patience = 30_000 // milliseconds
		if n, err := unix.Poll(poll, patience); n == 0 {
			w.t.Fatalf("there is no event of %s, but there are %q", what, list[max(0, len(list)-100):])
		} else if err != nil {
			continue
		}
		n, err := unix.Read(w.fd, buf)
		if err != nil {
			w.t.Fatal(err)
		}
		for b := buf[:n]; len(b) > 0; {
			e := (*unix.InotifyEvent)(unsafe.Pointer(&b[0]))
			name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:unix.SizeofInotifyEvent+e.Len]), "\x00")
			b = b[unix.SizeofInotifyEvent+e.Len:]
			for i, what := range events() {
				if e.Mask&(1<<i) == 0 || what == "OPEN" || what == "ACCESS" || what == "CLOSE_NOWRITE" {
					continue
				}
				text := w.names[e.Wd] + " " + what
				if name != "" {
					text += " " + name
				}
				if e.Cookie != 0 {
					if cookies[e.Cookie] == 0 {
						cookies[e.Cookie] = len(cookies) + 1
					}
					text += fmt.Sprint(" ", cookies[e.Cookie])
				}
				list = append(list, text)
				if all(list) {
					return list[:len(list)-1]
				}
			}
			if e.Mask&(unix.IN_IGNORED|unix.IN_UNMOUNT|unix.IN_Q_OVERFLOW) != 0 {
				list = append(list, w.names[e.Wd]+fmt.Sprintf(" %#x", e.Mask))
			}
		}
	}
}

// compare does the same in two directories, and compares what is seen of it. The host
// makes the directories that say that it is done. Two events that are the same are one where nobody has read the first.
func compare(t *testing.T, guest, host *watcher, inGuest, inHost, marks string) {
	t.Helper()
	for i, each := range scenes() {
		each.do(t, inHost)
		each.do(t, inGuest)
		last := fmt.Sprint("last", i)
		for _, dir := range []string{inHost, marks} {
			must(t, os.Mkdir(filepath.Join(dir, last), 0o755))
		}
		got, want := slices.Compact(guest.read(last)), slices.Compact(host.read(last))
		if !slices.Equal(got, want) {
			t.Errorf("%s:\n got %s\nwant %s", each.name, strings.Join(got, ", "), strings.Join(want, ", "))
		}
	}
}
