package child_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/child"
)

// roleVariable makes the test binary play one of the processes below.
const roleVariable = "CHILD_TEST_ROLE"

func TestMain(m *testing.M) {
	if os.Getenv(roleVariable) == "parent" {
		os.Exit(playParent())
	}
	os.Exit(m.Run())
}

// playParent starts a process that never ends, prints its pid, churns threads
// so that a passing thread would be gone, and waits to be killed.
func playParent() int {
	starter := child.NewStarter()
	cmd := exec.Command("sleep", "infinity")
	if err := starter.Start(cmd); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	churnThreads()
	fmt.Println(cmd.Process.Pid)
	_ = cmd.Wait()
	return 2
}

// churnThreads ends many threads: each goroutine returns locked.
func churnThreads() {
	var group sync.WaitGroup
	for range 50 {
		group.Go(func() { runtime.LockOSThread() })
	}
	group.Wait()
}

// Only the child that asks for securebits has them.
func TestSecurebits(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("setting securebits takes CAP_SETPCAP")
	}
	starter := child.NewStarter()
	defer starter.Close()
	for _, bits := range []int{1 << 2, 0} { // SECBIT_NO_SETUID_FIXUP
		var out strings.Builder
		cmd := exec.Command("setpriv", "--dump")
		cmd.Stdout = &out
		if err := starter.StartWithSecurebits(cmd, bits); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		if has := strings.Contains(out.String(), "no_setuid_fixup"); has != (bits != 0) {
			t.Errorf("bits %#x: %s", bits, out.String())
		}
	}
}

func TestChildDiesWithItsParent(t *testing.T) {
	parent := exec.CommandContext(t.Context(), os.Args[0])
	parent.Env = append(os.Environ(), roleVariable+"=parent")
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil {
		t.Fatalf("read the child's pid: %v", err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(line))
	if err != nil {
		t.Fatal(err)
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		t.Fatalf("the child must live while its parent does: %v", err)
	}
	defer unix.Close(pidfd)
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	poll := []unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}
	for {
		n, err := unix.Poll(poll, int((20 * time.Second).Milliseconds()))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil || n != 1 {
			_ = unix.PidfdSendSignal(pidfd, unix.SIGKILL, nil, 0)
			t.Fatalf("the child outlived its parent (poll: %d, %v)", n, err)
		}
		return
	}
}

func TestChildOutlivesThreads(t *testing.T) {
	starter := child.NewStarter()
	cmd := exec.Command("cat")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := starter.Start(cmd); err != nil {
		t.Fatal(err)
	}
	churnThreads()
	if _, err := io.WriteString(in, "alive\n"); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "alive\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	in.Close()
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	starter.Close()
}

func TestStartKeepsAttributes(t *testing.T) {
	starter := child.NewStarter()
	defer starter.Close()
	for _, setsid := range []bool{false, true} {
		cmd := exec.Command("true")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: setsid}
		if err := starter.Start(cmd); err != nil {
			t.Fatalf("setsid %v: %v", setsid, err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		if cmd.SysProcAttr.Setsid != setsid || cmd.SysProcAttr.Setpgid == setsid {
			t.Errorf("setsid %v became %+v", setsid, cmd.SysProcAttr)
		}
	}
}

func TestStartErrors(t *testing.T) {
	starter := child.NewStarter()
	err := starter.Start(exec.Command("/no/such/program"))
	if !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing program: %v", err)
	}
	starter.Close()
	starter.Close()
	if err := starter.Start(exec.Command("true")); !errors.Is(err, child.ErrClosed) {
		t.Errorf("after Close: %v", err)
	}
}
