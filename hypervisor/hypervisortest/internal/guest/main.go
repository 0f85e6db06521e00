// Command guest is PID 1 of the conformance suite's VMs: it answers the suite's
// questions over vsock. See package hypervisortest for the questions.
package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"

	"github.com/mdlayher/vsock"
	"golang.org/x/sys/unix"
)

// The ports, as package hypervisortest has them.
const (
	echoPort         = 3000
	commandPort      = 3001
	defaultReadyPort = 2000
	hostCID          = 2
	anyCID           = 0xffffffff
)

func main() {
	if err := run(); err != nil {
		fmt.Println("guest: failed:", err)
	}
	// The end of PID 1 would be a panic.
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

func run() error {
	for target, fstype := range map[string]string{"/dev": "devtmpfs", "/proc": "proc", "/sys": "sysfs"} {
		if err := os.MkdirAll(target, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(fstype, target, fstype, 0, ""); err != nil && !errors.Is(err, unix.EBUSY) {
			return fmt.Errorf("mount %s: %w", target, err)
		}
	}
	echo, err := vsock.ListenContextID(anyCID, echoPort, nil)
	if err != nil {
		return err
	}
	commands, err := vsock.ListenContextID(anyCID, commandPort, nil)
	if err != nil {
		return err
	}
	go serve(echo, func(conn net.Conn) { _, _ = io.Copy(conn, conn) })
	fmt.Println("guest: up")
	port, err := readyPort()
	if err != nil {
		return err
	}
	ready, err := vsock.Dial(hostCID, port, nil)
	if err != nil {
		return err
	}
	defer ready.Close()
	serve(commands, answer)
	return nil
}

// readyPort is the port to dial when the guest is up: that of the kernel's
// command line, since not every host end can listen on the port of its choice.
func readyPort() (uint32, error) {
	line, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		return 0, err
	}
	for field := range strings.FieldsSeq(string(line)) {
		if text, ok := strings.CutPrefix(field, "suite.ready="); ok {
			port, err := strconv.ParseUint(text, 10, 32)
			return uint32(port), err
		}
	}
	return defaultReadyPort, nil
}

// serve hands each connection to its own goroutine. They end with the VM.
func serve(l net.Listener, handle func(net.Conn)) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			handle(conn)
		}()
	}
}

// answer answers one question per line.
func answer(conn net.Conn) {
	lines := bufio.NewScanner(conn)
	for lines.Scan() {
		verb, argument, _ := strings.Cut(lines.Text(), " ")
		text, err := do(verb, argument)
		if err != nil {
			text = "error: " + err.Error()
		}
		if _, err := fmt.Fprintln(conn, text); err != nil {
			return
		}
	}
}

func do(verb, argument string) (string, error) {
	switch verb {
	case "cpus":
		return awaitNumber(argument, onlineCPUs)
	case "memory":
		return awaitNumber(argument, memoryMiB)
	case "disk":
		return await(func() (string, error) { return disk(argument) })
	case "gone":
		return await(func() (string, error) { return gone(argument) })
	case "nic":
		return await(func() (string, error) { return nic(argument) })
	case "share":
		return share(argument)
	case "print":
		_, err := fmt.Println(argument)
		return "printed", err
	case "dial":
		return dialHost(argument)
	case "poweroff":
		return "", unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
	case "panic":
		return "", os.WriteFile("/proc/sysrq-trigger", []byte("c"), 0)
	default:
		return "", fmt.Errorf("unknown question %q", verb)
	}
}

// dialHost sends a line to a port of the host and returns the answer.
func dialHost(argument string) (string, error) {
	port, err := strconv.ParseUint(argument, 10, 32)
	if err != nil {
		return "", err
	}
	conn, err := vsock.Dial(hostCID, uint32(port), nil)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if _, err := fmt.Fprintln(conn, "from the guest"); err != nil {
		return "", err
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	return strings.TrimSpace(line), err
}
