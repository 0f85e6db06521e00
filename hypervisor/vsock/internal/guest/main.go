//go:build vm

// Command guest is the first process of the VM in which the vsock device is
// tested. It loads the modules that the image lists, serves a few vsock ports,
// and dials the host's port 1026 once it does. With the argument "vhost" it runs
// the tests in /vhost.test instead, and reports on the console.
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"
)

const (
	anyCID    = 0xffffffff
	readyPort = 1026
)

func main() {
	do := run
	if len(os.Args) > 1 && os.Args[1] == "vhost" {
		do = runTests
	}
	log.Print("guest: ", do())
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run() error {
	if err := os.MkdirAll("/sys", 0o755); err != nil {
		return err
	}
	if err := unix.Mount("sysfs", "/sys", "sysfs", 0, ""); err != nil {
		return fmt.Errorf("mount sysfs: %w", err)
	}
	// Memory that is plugged in is used at once.
	_ = os.WriteFile("/sys/devices/system/memory/auto_online_blocks", []byte("online"), 0o644)
	if err := loadModules(); err != nil {
		return err
	}
	for port, handle := range map[uint32]func(net.Conn) error{
		5000: echo, 5001: source, 5002: sink, 5003: dial, 5004: hog,
	} {
		l, err := vsock.ListenContextID(anyCID, port, nil)
		if err != nil {
			return fmt.Errorf("listen: %w", err)
		}
		go serve(l, handle)
	}
	ready, err := vsock.Dial(vsock.Host, readyPort, nil)
	if err != nil {
		return fmt.Errorf("dial the host: %w", err)
	}
	if _, err := io.WriteString(ready, "ready\n"); err != nil {
		return err
	}
	// The connection stays open until the host ends it.
	_, err = io.Copy(io.Discard, ready)
	return err
}

// runTests runs the tests of vhost-vsock, which this VM has.
func runTests() error {
	for dir, kind := range map[string]string{"/dev": "devtmpfs", "/proc": "proc", "/tmp": "tmpfs"} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(kind, dir, kind, 0, ""); err != nil {
			return fmt.Errorf("mount %s: %w", dir, err)
		}
	}
	if err := loadModules(); err != nil {
		return err
	}
	test := exec.CommandContext(context.Background(), "/vhost.test", "-test.v", "-test.timeout=5m")
	test.Stdout, test.Stderr = os.Stdout, os.Stdout
	if err := test.Run(); err != nil {
		return fmt.Errorf("vhost tests: %w", err)
	}
	return errPassed
}

var errPassed = errors.New("vhost tests passed")

func loadModules() error {
	list, err := os.Open("/modules/list")
	if err != nil {
		return err
	}
	for lines := bufio.NewScanner(list); lines.Scan(); {
		module, err := os.Open("/modules/" + lines.Text())
		if err != nil {
			return err
		}
		err = unix.FinitModule(int(module.Fd()), "", 0)
		if err != nil && !strings.Contains(err.Error(), "exists") {
			return fmt.Errorf("load %s: %w", lines.Text(), err)
		}
		_ = module.Close()
	}
	return nil
}

func serve(l net.Listener, handle func(net.Conn) error) {
	for {
		conn, err := l.Accept()
		if err != nil {
			log.Print("accept: ", err)
			return
		}
		go func() {
			if err := handle(conn); err != nil {
				log.Printf("%v: %v", conn.LocalAddr(), err)
			}
			_ = conn.Close()
		}()
	}
}

// echo sends back what it receives, until the end of that.
func echo(conn net.Conn) error {
	_, err := io.CopyBuffer(struct{ io.Writer }{conn}, struct{ io.Reader }{conn}, make([]byte, 64<<10))
	return err
}

// source sends as many bytes as it is asked for.
func source(conn net.Conn) error {
	var n uint64
	if err := binary.Read(conn, binary.LittleEndian, &n); err != nil {
		return err
	}
	buffer := make([]byte, 64<<10)
	for n > 0 {
		m, err := conn.Write(buffer[:min(n, uint64(len(buffer)))])
		if err != nil {
			return err
		}
		n -= uint64(m)
	}
	return nil
}

// sink counts what it receives, and sends the number.
func sink(conn net.Conn) error {
	n, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{conn}, make([]byte, 64<<10))
	if err != nil {
		return err
	}
	return binary.Write(conn, binary.LittleEndian, uint64(n))
}

// dial connects to a port of the host as often as it is asked, at the same
// time, echoes on each connection, and sends how many worked.
func dial(conn net.Conn) error {
	var ask struct{ Port, Count uint32 }
	if err := binary.Read(conn, binary.LittleEndian, &ask); err != nil {
		return err
	}
	var all sync.WaitGroup
	worked := make(chan struct{}, ask.Count)
	for range ask.Count {
		all.Go(func() {
			c, err := vsock.Dial(vsock.Host, ask.Port, nil)
			if err != nil {
				log.Print("dial: ", err)
				return
			}
			if err := echo(c); err != nil {
				log.Print("echo: ", err)
			} else {
				worked <- struct{}{}
			}
			_ = c.Close()
		})
	}
	all.Wait()
	return binary.Write(conn, binary.LittleEndian, uint32(len(worked)))
}

// hog holds a connection and reads nothing until the host closes it.
func hog(conn net.Conn) error {
	raw, err := conn.(*vsock.Conn).SyscallConn()
	if err != nil {
		return err
	}
	return raw.Read(func(fd uintptr) bool {
		fds := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		_, err := unix.Poll(fds, -1)
		return err == nil && fds[0].Revents != 0
	})
}
