//go:build vm

package callers

import (
	"context"
	"errors"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }

// caller is a container manager's command line.
type caller struct {
	t *testing.T
	h *harness.Host
	// command is the program and the flags that stand before each subcommand.
	command []string
	env     []string
}

// in returns the caller for a subtest.
func (c *caller) in(t *testing.T) *caller {
	h := *c.h
	h.T = t
	return &caller{t: t, h: &h, command: c.command, env: c.env}
}

// prepare returns a command that the test starts itself.
func (c *caller) prepare(args ...string) *exec.Cmd {
	c.t.Helper()
	ctx, cancel := context.WithTimeout(c.t.Context(), harness.Patience)
	c.t.Cleanup(cancel)
	return c.commandWith(ctx, args)
}

func (c *caller) commandWith(ctx context.Context, args []string) *exec.Cmd {
	all := slices.Concat(c.command[1:], args)
	command := exec.CommandContext(ctx, c.command[0], all...)
	command.Env = append(os.Environ(), c.env...)
	command.WaitDelay = 10 * time.Second
	return command
}

// run runs a command to its end, with input on its standard input.
func (c *caller) run(input string, args ...string) harness.Result {
	c.t.Helper()
	command := c.prepare(args...)
	if input != "" {
		command.Stdin = strings.NewReader(input)
	}
	return c.h.Finish(command)
}

// must runs a command that has to succeed, and returns its standard output
// without the last line end.
func (c *caller) must(args ...string) string {
	c.t.Helper()
	result := c.run("", args...)
	if result.Code != 0 {
		c.t.Fatalf("%s: exit code %d: %s", strings.Join(args, " "), result.Code, result.Stderr)
	}
	return strings.TrimSuffix(result.Stdout, "\n")
}

// want runs a command and checks its exit code and output. A text that begins
// with "~" has to be in the output, another one has to be all of it.
func (c *caller) want(code int, stdout, stderr string, args ...string) {
	c.t.Helper()
	result := c.run("", args...)
	if result.Code != code || !matches(result.Stdout, stdout) || !matches(result.Stderr, stderr) {
		c.t.Errorf("%s:\nexit code %d, want %d\nstandard output %q, want %q\nstandard error %q, want %q",
			strings.Join(args, " "), result.Code, code, result.Stdout, stdout, result.Stderr, stderr)
	}
}

func matches(got, want string) bool {
	if part, ok := strings.CutPrefix(want, "~"); ok {
		return strings.Contains(got, part)
	}
	return got == want
}

// cleanup runs a command after the test, when its context has ended.
func (c *caller) cleanup(args ...string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(c.t.Context()), harness.Patience)
	defer cancel()
	if output, err := c.commandWith(ctx, args).CombinedOutput(); err != nil {
		c.t.Errorf("clean up: %s: %v: %s", strings.Join(args, " "), err, output)
	}
}

// terminal is a dialogue with a command that has a terminal of 33 rows and 99
// columns: the shell in the container sees that size, once its caller, who may
// start the shell first, has told it; ctrl-C interrupts what runs, and the shell's
// exit code is the command's.
func (c *caller) terminal(args ...string) {
	c.t.Helper()
	command := c.prepare(args...)
	master := c.h.StartOnTerminal(command, 33, 99)
	say := func(text string) {
		c.t.Helper()
		if _, err := master.Write([]byte(text)); err != nil {
			c.t.Fatal(err)
		}
	}
	c.h.Expect(master, "# ")
	say("until stty size | grep '^33 99$'; do sleep 0.1; done\n")
	c.h.Expect(master, "33 99\r")
	c.h.Expect(master, "# ")
	// The shell has the terminal raw while it reads a command.
	say("sh -c 'echo go$((0)); exec sleep 1000'\n")
	c.h.Expect(master, "go0\r")
	say("\x03")
	c.h.Expect(master, "# ")
	say("exit 9\n")
	c.h.ReadAll(master)
	if code := c.h.Wait(command); code != 9 {
		c.t.Errorf("%s: exit code %d, want 9", strings.Join(args, " "), code)
	}
}

// requirePrograms fails a test whose programs are not installed: skipping
// would look like a success.
func requirePrograms(t *testing.T, names ...string) {
	t.Helper()
	for _, name := range names {
		if _, err := exec.LookPath(name); err != nil {
			t.Fatalf("%v (make deps-test installs what the tests need)", err)
		}
	}
}

// runtimePath is the checkout's program.
func runtimePath(t *testing.T) string {
	return filepath.Join(harness.Repository(t), "bin", "kata-runtime")
}

// layer packs the busybox root file system and returns the archive's path.
func layer(h *harness.Host) string {
	h.T.Helper()
	rootfs, archive := h.File("rootfs"), h.File("layer.tar")
	if err := bundle.Rootfs(rootfs); err != nil {
		h.T.Fatal(err)
	}
	if output, err := exec.CommandContext(h.T.Context(), "tar", "-C", rootfs, "-cf", archive, ".").CombinedOutput(); err != nil {
		h.T.Fatalf("tar: %v: %s", err, output)
	}
	return archive
}

// ociArchive packs the layer as an OCI image of that name and returns the
// archive's path.
func ociArchive(h *harness.Host, layer, name string) string {
	h.T.Helper()
	archive := h.File("image.tar")
	if err := bundle.Image(archive, name, layer); err != nil {
		h.T.Fatal(err)
	}
	return archive
}

// daemon starts a daemon and waits until it says, as systemd's services do,
// that it is ready. It is told to end after the test.
func daemon(h *harness.Host, name string, args ...string) {
	h.T.Helper()
	socket := filepath.Join("/run", name+".notify") // a short path
	listener, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	if err != nil {
		h.T.Fatal(err)
	}
	defer os.Remove(socket)
	defer listener.Close()
	log, err := os.Create(h.File(name + ".log"))
	if err != nil {
		h.T.Fatal(err)
	}
	defer log.Close()
	command := exec.Command(name, args...) // ended below, after the containers
	command.Env = append(os.Environ(), "NOTIFY_SOCKET="+socket, "TMPDIR="+h.Temp, "HOME="+h.File("home"))
	command.Stdout, command.Stderr = log, log
	if err := command.Start(); err != nil {
		h.T.Fatal(err)
	}
	h.T.Cleanup(func() {
		_ = command.Process.Signal(unix.SIGTERM) // it may have ended
		h.WaitExit(command.Process.Pid)
		_ = command.Wait() // how it ends is its own affair
		if h.T.Failed() {
			text, _ := os.ReadFile(log.Name())
			h.T.Logf("%s's log:\n%s", name, text)
		}
	})
	if err := listener.SetReadDeadline(time.Now().Add(harness.Patience)); err != nil {
		h.T.Fatal(err)
	}
	message := make([]byte, 4096)
	for {
		n, err := listener.Read(message)
		if err != nil {
			text, _ := os.ReadFile(log.Name())
			h.T.Fatalf("%s is not ready: %v\n%s", name, err, text)
		}
		if strings.Contains(string(message[:n]), "READY=1") {
			return
		}
	}
}

// removeCgroups removes the cgroup that a manager made for the test's
// containers, on each hierarchy, with what is in it and whose name matches a
// pattern of the manager's own. A container's that is left makes it fail.
func removeCgroups(t *testing.T, name string, own ...string) {
	t.Helper()
	hierarchies, err := filepath.Glob("/sys/fs/cgroup/*/" + name)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range append(hierarchies, filepath.Join("/sys/fs/cgroup", name)) {
		for _, pattern := range own {
			below, err := filepath.Glob(filepath.Join(dir, pattern))
			if err != nil {
				t.Fatal(err)
			}
			for _, path := range below {
				removeCgroup(t, path)
			}
		}
		removeCgroup(t, dir)
	}
}

func removeCgroup(t *testing.T, dir string) {
	t.Helper()
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Errorf("left behind: %v", err)
	}
}

// unmountBelow unmounts what a manager leaves mounted in its own directory.
func unmountBelow(t *testing.T, dir string) {
	t.Helper()
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(string(data), "\n")
	for _, line := range slices.Backward(lines) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			if err := unix.Unmount(fields[4], 0); err != nil {
				t.Errorf("unmount %s: %v", fields[4], err)
			}
		}
	}
}
