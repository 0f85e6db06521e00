//go:build vm

package virtiofsd

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/jail"
)

// parentVariable makes the test binary the parent of a daemon.
const parentVariable = "VIRTIOFSD_TEST_SHARE"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == jail.Command {
		os.Exit(jail.Become(os.Args[2:]))
	}
	if dir := os.Getenv(parentVariable); dir != "" {
		os.Exit(playParent(dir))
	}
	os.Exit(m.Run())
}

// playParent starts a daemon, waits until it serves, says so, and waits to be
// killed.
func playParent(dir string) int {
	d, err := Start(context.Background(), Options{SharedDir: dir, Jail: &jail.Options{Dir: dir + "-jail"}})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	if err := getFeatures(d); err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println("serving")
	_ = d.Wait(context.Background())
	return 2
}

// TestDaemonDiesWithItsParent kills the parent while the socket is held here, as
// a VMM would hold it: it is the parent's death alone that ends the daemon. The
// daemon's end closes the other end of the socket.
func TestDaemonDiesWithItsParent(t *testing.T) {
	parent := exec.CommandContext(t.Context(), os.Args[0])
	parent.Env = append(os.Environ(), parentVariable+"="+t.TempDir())
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	line, err := bufio.NewReader(out).ReadString('\n')
	if err != nil || line != "serving\n" {
		t.Fatalf("%q, %v", line, err)
	}
	held, err := takeSocket(parent.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	// Blocks until the last process that serves is gone.
	if _, err := io.Copy(io.Discard, held); err != nil {
		t.Logf("the daemon's end is seen as %v", err)
	}
}

// takeSocket duplicates another process's connection to its daemon.
func takeSocket(pid int) (*os.File, error) {
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(pidfd)
	for theirs := range 64 {
		fd, err := unix.PidfdGetfd(pidfd, theirs, 0)
		if err != nil {
			continue
		}
		_, nameErr := unix.Getpeername(fd)
		if nameErr == nil {
			return os.NewFile(uintptr(fd), "socket"), nil
		}
		_ = unix.Close(fd)
	}
	return nil, fmt.Errorf("process %d has no connection: %w", pid, os.ErrNotExist)
}
