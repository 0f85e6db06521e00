// Command socketclient is what containers of the tests use to connect to unix
// sockets: busybox has nothing that does. It prints one line and exits with 0,
// or with 1 and a complaint.
package main

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

func main() {
	answer, err := run(os.Args[1], os.Args[2:])
	if err != nil {
		fmt.Println("failed:", err)
		os.Exit(1)
	}
	fmt.Println(answer)
}

func run(mode string, args []string) (string, error) {
	path := args[0]
	switch mode {
	case "echo": // PATH BYTES: sends random data and expects them back
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return "", err
		}
		return "same", echo(path, n)
	case "many": // PATH COUNT: as echo, in so many connections at once
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return "", err
		}
		return "same", many(path, n)
	case "ask": // PATH: prints the answer to an empty question
		return ask(path)
	case "await": // PATH ANSWER: as ask, once there is a server that answers so
		return args[1], await(func() bool {
			answer, err := ask(path)
			return err == nil && answer == args[1]
		})
	case "gone": // PATH: waits until nothing is there
		return "gone", await(func() bool {
			_, err := ask(path)
			return errors.Is(err, unix.ENOENT)
		})
	case "dgram": // PATH: connects with a socket of another type
		_, err := net.Dial("unixgram", path) //nolint:noctx // fails at once
		return strconv.FormatBool(errors.Is(err, unix.EPROTOTYPE)), nil
	case "serve": // PATH OTHER...: makes a server at PATH, and asks it, twice: after OTHER was asked too
		return serve(path, args[1:])
	case "ping": // ADDRESS: sends an echo request without a raw socket, and expects the reply
		return "reply", ping(path)
	case "guess": // PORT: keeps connections to the host's port that say nothing or guess
		return "guessed", guess(path)
	default:
		return "", fmt.Errorf("unknown mode %q", mode)
	}
}

func dial(path string) (*net.UnixConn, error) {
	return net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
}

func echo(path string, n int) error {
	conn, err := dial(path)
	if err != nil {
		return err
	}
	defer conn.Close()
	data := make([]byte, n)
	if _, err := rand.Read(data); err != nil {
		return err
	}
	sent := make(chan error, 1)
	go func() {
		_, err := conn.Write(data)
		sent <- errors.Join(err, conn.CloseWrite())
	}()
	back, err := io.ReadAll(conn)
	if err := errors.Join(err, <-sent); err != nil {
		return err
	}
	if !bytes.Equal(back, data) {
		return fmt.Errorf("%d bytes came back of %d, or others", len(back), n)
	}
	return nil
}

func many(path string, n int) error {
	errs := make([]error, n)
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { errs[i] = echo(path, 10_000) })
	}
	all.Wait()
	return errors.Join(errs...)
}

func ask(path string) (string, error) {
	conn, err := dial(path)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := conn.CloseWrite(); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(conn)
	return string(answer), err
}

// await tries whenever the mounts of this namespace have changed, and now and then
// since the kernel remembers for a moment what was at a name, until it succeeds.
func await(try func() bool) error {
	mounts, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer mounts.Close()
	deadline := time.Now().Add(time.Minute)
	for !try() {
		if !time.Now().Before(deadline) {
			return errors.New("it did not happen")
		}
		polled := []unix.PollFd{{Fd: int32(mounts.Fd()), Events: unix.POLLPRI}}
		if _, err := unix.Poll(polled, 500); err != nil && !errors.Is(err, unix.EINTR) {
			return err
		}
	}
	return nil
}

func serve(path string, others []string) (string, error) {
	l, err := net.Listen("unix", path) //nolint:noctx // local
	if err != nil {
		return "", err
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = conn.Write([]byte("own"))
			conn.Close()
		}
	}()
	for _, other := range append([]string{path}, others...) {
		if _, err := ask(other); err != nil {
			return "", err
		}
	}
	return ask(path)
}

func guess(portText string) error {
	port, err := strconv.ParseUint(portText, 10, 32)
	if err != nil {
		return err
	}
	for i := range 200 {
		fd, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0)
		if err != nil {
			return err
		}
		for err = unix.EINTR; errors.Is(err, unix.EINTR); { // the language's own signals
			err = unix.Connect(fd, &unix.SockaddrVM{CID: unix.VMADDR_CID_HOST, Port: uint32(port)})
		}
		if err != nil {
			return err
		}
		if i%2 == 0 {
			_, _ = unix.Write(fd, bytes.Repeat([]byte("KSK1"), 100))
		}
	}
	return echo("/run/direct.sock", 1000)
}

// ping needs no checksum: the kernel fills it in, and the identifier.
func ping(address string) error {
	ip, err := netip.ParseAddr(address)
	if err != nil {
		return err
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, unix.IPPROTO_ICMP)
	if err != nil {
		return fmt.Errorf("make a socket: %w", err)
	}
	defer unix.Close(fd)
	const request = 8
	if err := unix.Sendto(fd, []byte{request, 0, 0, 0, 0, 0, 0, 1}, 0, &unix.SockaddrInet4{Addr: ip.As4()}); err != nil {
		return fmt.Errorf("send: %w", err)
	}
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 60}); err != nil {
		return err
	}
	reply := make([]byte, 64)
	n, _, err := unix.Recvfrom(fd, reply, 0)
	if err != nil || n < 1 || reply[0] != 0 {
		return fmt.Errorf("receive: %x, %w", reply[:max(n, 0)], err)
	}
	return nil
}
