package main

import (
	"bytes"
	crand "crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"syscall"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv4"
	"golang.org/x/net/ipv6"
	"golang.org/x/sys/unix"
)

// What a ping can end with.
const (
	answered = "answered"
	tooBig   = "too big"
)

// ping sends an echo request in an IP packet of that size, which may not be
// fragmented, until it is answered or this host says that it is too big.
func ping(address string, size uint64) (string, error) {
	target, err := net.ResolveIPAddr("ip", address)
	if err != nil {
		return "", err
	}
	network, request, reply, headers := "ip4:icmp", icmp.Type(ipv4.ICMPTypeEcho), icmp.Type(ipv4.ICMPTypeEchoReply), uint64(20+8)
	level, option, discover, protocol := unix.IPPROTO_IP, unix.IP_MTU_DISCOVER, unix.IP_PMTUDISC_DO, unix.IPPROTO_ICMP
	if target.IP.To4() == nil {
		network, request, reply, headers = "ip6:ipv6-icmp", ipv6.ICMPTypeEchoRequest, ipv6.ICMPTypeEchoReply, 40+8
		level, option, discover, protocol = unix.IPPROTO_IPV6, unix.IPV6_MTU_DISCOVER, unix.IPV6_PMTUDISC_DO, unix.IPPROTO_ICMPV6
	}
	if size < headers+8 {
		return "", fmt.Errorf("a packet of %d bytes is too small", size)
	}
	conn, err := net.ListenIP(network, nil)
	if err != nil {
		return "", err
	}
	defer conn.Close()
	if err := setOption(conn, level, option, discover); err != nil {
		return "", fmt.Errorf("forbid fragments: %w", err)
	}
	data := make([]byte, size-headers)
	if _, err := crand.Read(data); err != nil {
		return "", err
	}
	body := &icmp.Echo{ID: int(binary.BigEndian.Uint16(data)), Seq: 1, Data: data}
	message, err := (&icmp.Message{Type: request, Body: body}).Marshal(nil)
	if err != nil {
		return "", err
	}
	buffer := make([]byte, 64<<10)
	for range attempts {
		if _, err := conn.WriteTo(message, target); errors.Is(err, unix.EMSGSIZE) {
			return tooBig, nil
		} else if err != nil {
			return "", err
		}
		if err := conn.SetReadDeadline(time.Now().Add(interval)); err != nil {
			return "", err
		}
		for {
			n, _, err := conn.ReadFrom(buffer)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return "", err
			}
			got, err := icmp.ParseMessage(protocol, buffer[:n])
			if err != nil || got.Type != reply {
				continue
			}
			if echo, ok := got.Body.(*icmp.Echo); ok && bytes.Equal(echo.Data, data) {
				return answered, nil
			}
		}
	}
	return "", errors.New("no answer")
}

func setOption(conn syscall.Conn, level, option, value int) error {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var failed error
	err = raw.Control(func(fd uintptr) { failed = unix.SetsockoptInt(int(fd), level, option, value) })
	return errors.Join(err, failed)
}
