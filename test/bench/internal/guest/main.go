// Command guest is PID 1 of the benchmark's plain VM. It does what the
// measured containers do, without a runtime in between: it writes to a vsock
// connection, reads from it, and reads a file of the share. The kernel hands
// it its parameters as environment.
package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"
)

const (
	hostCID    = 2
	mib        = 1 << 20
	mountPoint = "/share"
)

func main() {
	if err := run(); err != nil {
		fmt.Println("guest:", err)
	}
	// The end of PID 1 would be a panic.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run() error {
	port, err := strconv.ParseUint(os.Getenv("BENCH_PORT"), 10, 32)
	if err != nil {
		return err
	}
	size, err := strconv.Atoi(os.Getenv("BENCH_MIB"))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(mountPoint, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(os.Getenv("BENCH_TAG"), mountPoint, "virtiofs", 0, ""); err != nil {
		return fmt.Errorf("mount the share: %w", err)
	}
	conn, err := vsock.Dial(hostCID, uint32(port), nil)
	if err != nil {
		return err
	}
	defer conn.Close()
	buffer := make([]byte, mib)
	for range size {
		if _, err := conn.Write(buffer); err != nil {
			return err
		}
	}
	for left := size * mib; left > 0; {
		n, err := conn.Read(buffer[:min(left, len(buffer))])
		if err != nil {
			return err
		}
		left -= n
	}
	if _, err := conn.Write([]byte{'\n'}); err != nil {
		return err
	}
	took, err := readFile(filepath.Join(mountPoint, os.Getenv("BENCH_FILE")), buffer)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(conn, took.Seconds()); err != nil {
		return err
	}
	_, _ = conn.Read(buffer) // until the host has read the line and hangs up
	return nil
}

// readFile reads a file to its end, a buffer at a time.
func readFile(path string, buffer []byte) (time.Duration, error) {
	begin := time.Now()
	file, err := os.Open(path)
	if err != nil {
		return 0, err
	}
	defer file.Close()
	for {
		switch _, err := file.Read(buffer); err {
		case nil:
		case io.EOF:
			return time.Since(begin), nil
		default:
			return 0, err
		}
	}
}
