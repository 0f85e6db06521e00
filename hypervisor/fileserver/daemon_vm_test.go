//go:build vm

package fileserver

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/internal/drivertest"
	"kata-runtime/hypervisor/jail"
	"kata-runtime/hypervisor/jail/jailtest"
	"kata-runtime/hypervisor/virtio/backend"
)

// parentVariable makes the test binary the parent of a server.
const parentVariable = "FILESERVER_TEST_SHARE"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case jail.Command:
			os.Exit(jail.Become(os.Args[2:]))
		case backend.Command:
			os.Exit(backend.Run(os.Args[2:], map[string]backend.Role{Role: Serve, jailtest.Role: jailtest.BackEnd}))
		}
	}
	if dir := os.Getenv(parentVariable); dir != "" {
		os.Exit(playParent(dir))
	}
	os.Exit(m.Run())
}

// playParent starts a server, says where its connection is, and waits to be killed.
func playParent(dir string) int {
	p, err := Start(context.Background(), Options{SharedDir: dir, Jail: &jail.Options{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		fmt.Println(err)
		return 1
	}
	fmt.Println(p.Socket().Fd())
	_ = p.Wait(context.Background())
	return 2
}

// TestServerInItsJail asks a server for its features, and looks at what it may do.
func TestServerInItsJail(t *testing.T) {
	p, err := Start(t.Context(), Options{SharedDir: t.TempDir(), Jail: &jail.Options{}, Log: slog.New(slog.NewTextHandler(t.Output(), nil))})
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	vmm := drivertest.NewFrontEnd(t, p.Socket())
	vmm.Send(getFeatures, false, nil)
	reply, err := vmm.TryReply(getFeatures)
	if err != nil {
		t.Fatalf("%v; %s", err, p.Stderr())
	}
	if got := binary.LittleEndian.Uint64(reply); got&featureVersion1 == 0 {
		t.Errorf("features %#x", got)
	}
}

// TestServerDiesWithItsParent kills the parent while the socket is held here, as a
// VMM would hold it.
func TestServerDiesWithItsParent(t *testing.T) {
	parent := exec.CommandContext(t.Context(), os.Args[0])
	parent.Env = append(os.Environ(), parentVariable+"="+t.TempDir())
	out, err := parent.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := parent.Start(); err != nil {
		t.Fatal(err)
	}
	var theirs int
	if _, err := fmt.Fscan(bufio.NewReader(out), &theirs); err != nil {
		t.Fatal(err)
	}
	pidfd, err := unix.PidfdOpen(parent.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pidfd)
	fd, err := unix.PidfdGetfd(pidfd, theirs, 0)
	if err != nil {
		t.Fatal(err)
	}
	held := os.NewFile(uintptr(fd), "socket")
	defer held.Close()
	vmm := drivertest.NewFrontEnd(t, held)
	vmm.Send(getFeatures, false, nil)
	vmm.Reply(getFeatures)
	if err := parent.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = parent.Wait()
	// Blocks until the last process that serves is gone.
	if _, err := io.Copy(io.Discard, vmm.Conn); err != nil {
		t.Logf("the server's end is seen as %v", err)
	}
}
