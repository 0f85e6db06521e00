//go:build vm

package jail_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/jail"
)

// playSharer waits for a line, tells which marks it finds below its working
// directory, and whether it can write there.
func playSharer(share string) int {
	if _, err := bufio.NewReader(os.Stdin).ReadString('\n'); err != nil {
		return 1
	}
	marks, _ := filepath.Glob(filepath.Join(share, "*", "mark"))
	fmt.Println(len(marks))
	if err := os.WriteFile(filepath.Join(share, "written"), nil, 0o600); err != nil {
		fmt.Println(err)
		return 1
	}
	if err := unix.Mknod(filepath.Join(share, "null"), unix.S_IFCHR|0o666, 0x103); err != nil {
		fmt.Println(err)
		return 1
	}
	if _, err := os.Open(filepath.Join(share, "null")); err == nil {
		fmt.Println("opened a device")
	}
	return 0
}

// What is mounted below a share while the process starts is there afterwards,
// whatever it was doing at that moment.
func TestShareFollowsMounts(t *testing.T) {
	const rounds, mounts = 5, 60
	dir := t.TempDir()
	failed := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends, and its mounts
		failed <- func() error {
			if err := unix.Unshare(unix.CLONE_NEWNS | unix.CLONE_FS); err != nil {
				return err
			}
			if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
				return err
			}
			for range rounds {
				if err := shareWhileMounting(t, dir, mounts); err != nil {
					return err
				}
			}
			return nil
		}()
	}()
	if err := <-failed; err != nil {
		t.Fatal(err)
	}
}

func shareWhileMounting(t *testing.T, dir string, mounts int) error {
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
		return err
	}
	defer func() { _ = unix.Unmount(dir, unix.MNT_DETACH) }()
	if err := unix.Mount("", dir, "", unix.MS_SHARED, ""); err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	libraries, err := jail.Libraries(t.Context(), program)
	if err != nil {
		return err
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(t.Context(), program)
	cmd.Env, cmd.Stderr, cmd.Dir = []string{roleVariable + "=share", "JAIL_TEST_SHARE=" + dir}, &stderr, "/"
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return err
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	err = jail.Confine(cmd, jail.Spec{
		Namespaces: jail.Empty, Capabilities: []uintptr{unix.CAP_MKNOD, unix.CAP_DAC_OVERRIDE},
		Root: &jail.Root{Files: append(libraries, program), Shares: []string{dir}, Self: true},
	})
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	for i := range mounts {
		place := filepath.Join(dir, strconv.Itoa(i))
		if err := os.Mkdir(place, 0o700); err != nil {
			return err
		}
		if err := unix.Mount("tmpfs", place, "tmpfs", 0, ""); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(place, "mark"), nil, 0o600); err != nil {
			return err
		}
		unix.Nanosleep(&unix.Timespec{Nsec: 200_000}, nil) // spreads them over the start
	}
	_, writeErr := io.WriteString(stdin, "\n")
	out, readErr := io.ReadAll(stdout)
	if err := cmd.Wait(); err != nil || writeErr != nil || readErr != nil {
		return fmt.Errorf("%w, %w, %w: %s%s", err, writeErr, readErr, out, &stderr)
	}
	if text := strings.TrimSpace(string(out)); text != strconv.Itoa(mounts) {
		t.Errorf("of %d mounts it found %s", mounts, text)
	}
	return nil
}
