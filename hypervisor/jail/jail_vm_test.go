//go:build vm

package jail_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/child"
	"kata-runtime/hypervisor/jail"
)

// roleVariable makes the test binary play a part.
const roleVariable = "JAIL_TEST_ROLE"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == jail.Command {
		os.Exit(jail.Become(os.Args[2:]))
	}
	switch os.Getenv(roleVariable) {
	case "probe":
		os.Exit(playProbe())
	case "share":
		os.Exit(playSharer(os.Getenv("JAIL_TEST_SHARE")))
	case "call":
		_ = unix.Unshare(unix.CLONE_NEWUSER)
		os.Exit(3)
	case "parent":
		os.Exit(playParent())
	case "namespaces":
		os.Exit(playNamespaces())
	case "limited", "unfiltered", "ramdisk":
		os.Exit(playHost(os.Getenv(roleVariable)))
	}
	os.Exit(m.Run())
}

// report is what a process in the jail finds.
type report struct {
	PID, Parent, User, Group int
	Groups                   []int
	Hostname                 string
	Files                    []string
	Interfaces               []string
	NoNewPrivs               int
	Securebits               int
	Capabilities             [2]unix.CapUserData
	Bounding                 []int
	Limits                   map[string]uint64
	Environment              []string
	Descriptors              []int
	// Got names what it should not have been able to do.
	Got []string
}

// playProbe tries what a process that was taken over would, and tells.
func playProbe() int {
	var r report
	r.PID, r.Parent, r.User, r.Group = os.Getpid(), os.Getppid(), os.Getuid(), os.Getgid()
	r.Groups, _ = os.Getgroups()
	r.Hostname, _ = os.Hostname()
	_ = filepath.WalkDir("/", func(path string, _ fs.DirEntry, _ error) error {
		r.Files = append(r.Files, path)
		return nil
	})
	interfaces, _ := net.Interfaces()
	for _, i := range interfaces {
		r.Interfaces = append(r.Interfaces, i.Name+" "+i.Flags.String())
	}
	r.NoNewPrivs, _ = unix.PrctlRetInt(unix.PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0)
	r.Securebits, _ = unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	_ = unix.Capget(&header, &r.Capabilities[0])
	for c := range 64 {
		if has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, uintptr(c), 0, 0, 0); err == nil && has == 1 {
			r.Bounding = append(r.Bounding, c)
		}
	}
	r.Limits = make(map[string]uint64)
	for name, resource := range map[string]int{"core": unix.RLIMIT_CORE, "files": unix.RLIMIT_NOFILE, "threads": unix.RLIMIT_NPROC} {
		var limit unix.Rlimit
		_ = unix.Getrlimit(resource, &limit)
		r.Limits[name] = limit.Max
	}
	r.Environment = os.Environ()
	for fd := range 64 {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil {
			r.Descriptors = append(r.Descriptors, fd)
		}
	}
	r.Got = append(tryFiles(), tryKernel()...)
	if filter, _ := unix.PrctlRetInt(unix.PR_GET_SECCOMP, 0, 0, 0, 0); filter == unix.SECCOMP_MODE_DISABLED {
		r.Got = append(r.Got, tryHostile()...)
	} else if _, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0); err == nil {
		// A network namespace does not keep it from one.
		r.Got = append(r.Got, "open a vsock socket")
	}
	if err := json.NewEncoder(os.Stdout).Encode(r); err != nil {
		return 1
	}
	return 0
}

// try lists the names of those attempts that were not refused.
func try(attempts map[string]func() error) []string {
	var got []string
	for name, attempt := range attempts {
		if err := attempt(); err == nil {
			got = append(got, name)
		}
	}
	slices.Sort(got)
	return got
}

func tryFiles() []string {
	attempts := map[string]func() error{
		"make a file": func() error { return os.WriteFile("/new", nil, 0o600) },
		"write to a file": func() error {
			_, err := os.OpenFile("/usr/share/jailed", os.O_WRONLY, 0)
			return err
		},
		"make a device": func() error { return unix.Mknod("/disk", unix.S_IFBLK|0o600, 0x800) },
		"chroot":        func() error { return unix.Chroot("/") },
	}
	for _, path := range []string{"/etc/passwd", "/root", "/proc/self/status", "/proc/1/environ", "/sys/kernel", "/dev/null", "/dev/mem", "/run", "../../etc/passwd"} {
		attempts["open "+path] = func() error {
			_, err := os.Open(path)
			return err
		}
	}
	return try(attempts)
}

func tryKernel() []string {
	return try(map[string]func() error{
		"become root":      func() error { return unix.Setresuid(0, 0, 0) },
		"signal a process": func() error { return unix.Kill(2, 0) },
		"bring loopback up": func() error {
			request, err := unix.NewIfreq("lo")
			if err != nil {
				return err
			}
			request.SetUint16(unix.IFF_UP)
			fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, 0)
			if err != nil {
				return err
			}
			return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, request)
		},
		"open a raw socket": func() error {
			_, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_ICMP)
			return err
		},
		"raise a limit": func() error {
			return unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 1 << 18, Max: 1 << 18})
		},
		"connect to the host's socket": func() error {
			conn, err := net.Dial("unix", "@jail-test")
			if err == nil {
				_ = conn.Close()
			}
			return err
		},
	})
}

// tryHostile makes system calls that a filter ends the process for.
func tryHostile() []string {
	return try(map[string]func() error{
		"mount":               func() error { return unix.Mount("tmpfs", "/", "tmpfs", 0, "") },
		"remount the root":    func() error { return unix.Mount("", "/", "", unix.MS_REMOUNT|unix.MS_BIND, "") },
		"trace the parent":    func() error { return unix.PtraceAttach(os.Getppid()) },
		"change the hostname": func() error { return unix.Sethostname([]byte("x")) },
		"see the parent's keys": func() error {
			_, err := unix.KeyctlSearch(unix.KEY_SPEC_SESSION_KEYRING, "user", "jail-test", 0)
			return err
		},
	})
}

const user = 2_000_001_234

// probe runs the test binary as a probe in a jail.
func probe(t *testing.T, change func(*jail.Spec)) report {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	libraries, err := jail.Libraries(t.Context(), program)
	if err != nil {
		t.Fatal(err)
	}
	spec := jail.Spec{
		Namespaces: jail.Empty, User: user, MaxFiles: 99, MaxThreads: 55,
		Root:        &jail.Root{Files: append(libraries, program), Devices: []string{"/dev/urandom", "/dev/no-such-device"}},
		SystemCalls: &jail.SystemCalls{},
	}
	if change != nil {
		change(&spec)
	}
	inherited, err := os.Open("/dev/null")
	if err != nil {
		t.Fatal(err)
	}
	defer inherited.Close()
	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), program, "-unused")
	cmd.Env = []string{roleVariable + "=probe", "GOMAXPROCS=2"}
	cmd.Stdout, cmd.Stderr, cmd.Dir = &stdout, &stderr, "/"
	cmd.ExtraFiles = []*os.File{inherited}
	if err := jail.Confine(cmd, spec); err != nil {
		t.Fatal(err)
	}
	starter := child.NewStarter()
	defer starter.Close()
	if err := starter.Start(cmd); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %s", err, &stderr)
	}
	var r report
	if err := json.Unmarshal(stdout.Bytes(), &r); err != nil {
		t.Fatalf("%v: %s", err, &stdout)
	}
	return r
}

// A process in the jail finds what it was given, and nothing of the host.
func TestJail(t *testing.T) {
	if _, err := unix.AddKey("user", "jail-test", []byte("secret"), unix.KEY_SPEC_SESSION_KEYRING); err != nil && !errors.Is(err, unix.ENOSYS) {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", "@jail-test")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	readable := filepath.Join(t.TempDir(), "readable")
	if err := os.WriteFile(readable, nil, 0o666); err != nil {
		t.Fatal(err)
	}
	for name, filter := range map[string]*jail.SystemCalls{"with a filter": {}, "without a filter": nil} {
		t.Run(name, func(t *testing.T) {
			r := probe(t, func(spec *jail.Spec) {
				spec.Root.Files, spec.SystemCalls = append(spec.Root.Files, readable, readable), filter
			})
			if !slices.Contains(r.Files, readable) {
				t.Errorf("lacks a file: %q", r.Files)
			}
			// With a filter, nobody can ask for the interfaces.
			if filter == nil && !slices.Equal(r.Interfaces, []string{"lo loopback"}) {
				t.Errorf("interfaces: %q", r.Interfaces)
			}
			checkReport(t, r)
		})
	}
}

func checkReport(t *testing.T, r report) {
	t.Helper()
	if len(r.Got) > 0 {
		t.Errorf("was not refused: %q", r.Got)
	}
	if r.PID != 1 || r.Parent != 0 || r.User != user || r.Group != user || len(r.Groups) != 0 || r.Hostname != "jail" {
		t.Errorf("identity: %+v", r)
	}
	if r.NoNewPrivs != 1 || r.Capabilities != [2]unix.CapUserData{} || len(r.Bounding) > 0 || r.Securebits != 0xef {
		t.Errorf("privileges: no_new_privs %d, capabilities %v, bounding set %v, securebits %#x", r.NoNewPrivs, r.Capabilities, r.Bounding, r.Securebits)
	}
	if r.Limits["core"] != 1 || r.Limits["files"] != 99 || r.Limits["threads"] != 55 {
		t.Errorf("limits: %v", r.Limits)
	}
	if !slices.Contains(r.Files, "/dev/urandom") {
		t.Errorf("lacks a file: %q", r.Files)
	}
	for _, path := range r.Files {
		dir, base := filepath.Split(path)
		switch {
		case dir == "/dev/" && base != "urandom", strings.HasPrefix(path, "/proc"), strings.HasPrefix(path, "/sys"), dir == "/" && base == "root":
			t.Errorf("shows %s", path)
		}
	}
	if len(r.Files) > 60 {
		t.Errorf("shows %d files: %q", len(r.Files), r.Files)
	}
	if !slices.Equal(r.Environment, []string{roleVariable + "=probe", "GOMAXPROCS=2"}) {
		t.Errorf("environment: %q", r.Environment)
	}
	// Above them are what Go's own poller opens.
	if len(r.Descriptors) < 4 || !slices.Equal(r.Descriptors[:4], []int{0, 1, 2, 3}) {
		t.Errorf("descriptors: %v", r.Descriptors)
	}
}

// A system call that only an attacker has a use for ends the process.
func TestHostileSystemCall(t *testing.T) {
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Env, cmd.Stderr = []string{roleVariable + "=call"}, &bytes.Buffer{}
	if err := jail.Confine(cmd, jail.Spec{Namespaces: jail.Names, SystemCalls: &jail.SystemCalls{}}); err != nil {
		t.Fatal(err)
	}
	err = cmd.Run()
	if status, ok := cmd.ProcessState.Sys().(syscall.WaitStatus); !ok || !status.Signaled() || status.Signal() != unix.SIGSYS {
		t.Errorf("%v: %v", err, cmd.Stderr)
	}
}

// A root without capabilities is no more than any user.
func TestJailedRoot(t *testing.T) {
	r := probe(t, func(spec *jail.Spec) { spec.User, spec.MaxThreads = 0, 0 })
	if r.User != 0 || r.Capabilities != [2]unix.CapUserData{} || len(r.Bounding) > 0 {
		t.Errorf("%+v", r)
	}
	// It keeps its own user, and owns the root, which is read-only.
	if !slices.Equal(r.Got, []string{"become root"}) {
		t.Errorf("was not refused: %q", r.Got)
	}
}

// Some capabilities stay, and no others can come back.
func TestKeptCapabilities(t *testing.T) {
	r := probe(t, func(spec *jail.Spec) {
		spec.User, spec.MaxThreads = 0, 0
		spec.Capabilities = []uintptr{unix.CAP_CHOWN, unix.CAP_SETFCAP}
	})
	want := uint32(1<<unix.CAP_CHOWN | 1<<unix.CAP_SETFCAP)
	if has := r.Capabilities; has[0].Effective != want || has[0].Permitted != want || has[1] != (unix.CapUserData{}) ||
		!slices.Equal(r.Bounding, []int{unix.CAP_CHOWN, unix.CAP_SETFCAP}) || r.NoNewPrivs != 1 {
		t.Errorf("capabilities %v, bounding set %v", has, r.Bounding)
	}
}

// What cannot be set up is said, with the step's own exit status.
func TestJailRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		spec jail.Spec
		want string
	}{
		"a missing file":      {jail.Spec{Namespaces: jail.Empty, Root: &jail.Root{Files: []string{"/no/such"}}}, "/no/such"},
		"the root as a file":  {jail.Spec{Namespaces: jail.Empty, Root: &jail.Root{Files: []string{"/"}}}, "show /"},
		"a file as a device":  {jail.Spec{Namespaces: jail.Empty, Root: &jail.Root{Devices: []string{"/etc/passwd"}}}, "no character device"},
		"the program missing": {jail.Spec{Namespaces: jail.Empty, Root: &jail.Root{}}, "execute it"},
	} {
		t.Run(name, func(t *testing.T) {
			var stderr bytes.Buffer
			cmd := exec.CommandContext(t.Context(), "/bin/true")
			cmd.Stderr, cmd.Dir = &stderr, "/"
			if err := jail.Confine(cmd, c.spec); err != nil {
				t.Fatal(err)
			}
			err := cmd.Run()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != 126 || !strings.Contains(stderr.String(), c.want) {
				t.Errorf("%v: %s", err, &stderr)
			}
		})
	}
}

// playParent starts a jailed process that never ends, prints its id, and waits to
// be killed.
func playParent() int {
	cmd := exec.Command("/bin/sleep", "infinity")
	cmd.Stderr, cmd.Dir = &bytes.Buffer{}, "/"
	libraries, err := jail.Libraries(context.Background(), cmd.Path)
	if err == nil {
		err = jail.Confine(cmd, jail.Spec{Namespaces: jail.Empty, User: user, Root: &jail.Root{Files: append(libraries, cmd.Path)}})
	}
	if err == nil {
		err = child.NewStarter().Start(cmd)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(cmd.Process.Pid)
	_ = cmd.Wait()
	return 2
}

// The parent's death ends the process at every step of its start.
func TestJailEndsWithItsParent(t *testing.T) {
	for _, delay := range []time.Duration{0, time.Millisecond, 2 * time.Millisecond, 4 * time.Millisecond, 8 * time.Millisecond, 16 * time.Millisecond, 200 * time.Millisecond} {
		t.Run(delay.String(), func(t *testing.T) {
			parent := exec.CommandContext(t.Context(), os.Args[0])
			parent.Env = append(os.Environ(), roleVariable+"=parent")
			out, err := parent.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := parent.Start(); err != nil {
				t.Fatal(err)
			}
			line := make([]byte, 32)
			n, err := out.Read(line)
			if err != nil {
				t.Fatal(err)
			}
			pid, err := strconv.Atoi(strings.TrimSpace(string(line[:n])))
			if err != nil {
				t.Fatal(err)
			}
			pidfd, err := unix.PidfdOpen(pid, 0)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(pidfd)
			time.Sleep(delay) //nolint:forbidigo // a kill at this moment is what is tested
			if err := parent.Process.Kill(); err != nil {
				t.Fatal(err)
			}
			_ = parent.Wait()
			poll := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
			n, err = unix.Poll(poll, 10_000)
			for errors.Is(err, unix.EINTR) {
				n, err = unix.Poll(poll, 10_000)
			}
			if err != nil || n != 1 {
				_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
				t.Errorf("outlived its parent: %d, %v", n, err)
			}
		})
	}
}

// What the jail adds to a start.
func BenchmarkStart(b *testing.B) {
	libraries, err := jail.Libraries(b.Context(), "/bin/true")
	if err != nil {
		b.Fatal(err)
	}
	for name, confined := range map[string]bool{"plain": false, "jailed": true} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				cmd := exec.CommandContext(b.Context(), "/bin/true")
				cmd.Stderr, cmd.Dir = &bytes.Buffer{}, "/"
				if confined {
					spec := jail.Spec{Namespaces: jail.Empty, User: user, Root: &jail.Root{Files: append(libraries, "/bin/true")}}
					if err := jail.Confine(cmd, spec); err != nil {
						b.Fatal(err)
					}
				}
				if out, err := cmd.Output(); err != nil {
					b.Fatalf("%v: %s", err, out)
				}
			}
		})
	}
}
