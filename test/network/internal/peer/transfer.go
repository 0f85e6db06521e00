package main

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"time"
)

// A connection's first bytes say what it is for: a letter, and a size.
const (
	opUpload   = 'u' // the client sends so many bytes, the server answers with their checksum
	opDownload = 'd' // the server sends so many bytes and their checksum
	opEcho     = 'e' // the server sends the size back
)

const headerSize = 9

// patience bounds what a lost packet would make endless.
const patience = 2 * time.Minute

func serve(port string) error {
	listener, err := net.Listen("tcp", ":"+port) //nolint:noctx // ends with the process
	if err != nil {
		return err
	}
	packets, err := net.ListenPacket("udp", ":"+port) //nolint:noctx // ends with the process
	if err != nil {
		return err
	}
	failed := make(chan error, 2)
	go func() { failed <- echoPackets(packets) }()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				failed <- err
				return
			}
			go func() {
				defer conn.Close()
				if err := answer(conn); err != nil {
					fmt.Fprintf(os.Stderr, "%s: %v\n", conn.RemoteAddr(), err)
				}
			}()
		}
	}()
	fmt.Println("ready")
	return <-failed
}

func echoPackets(packets net.PacketConn) error {
	buffer := make([]byte, 64<<10)
	for {
		n, from, err := packets.ReadFrom(buffer)
		if err != nil {
			return err
		}
		if _, err := packets.WriteTo(buffer[:n], from); err != nil {
			fmt.Fprintf(os.Stderr, "answer %s: %v\n", from, err)
		}
	}
}

func answer(conn net.Conn) error {
	var header [headerSize]byte
	if _, err := io.ReadFull(conn, header[:]); err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	amount := binary.BigEndian.Uint64(header[1:])
	switch header[0] {
	case opUpload:
		sum, err := receive(conn, amount)
		if err != nil {
			return err
		}
		_, err = conn.Write(sum)
		return err
	case opDownload:
		sum, err := send(conn, amount)
		if err != nil {
			return err
		}
		_, err = conn.Write(sum)
		return err
	case opEcho:
		_, err := conn.Write(header[1:])
		return err
	default:
		return fmt.Errorf("unknown request %q", header[0])
	}
}

// send sends random bytes and returns their checksum.
func send(to io.Writer, amount uint64) ([]byte, error) {
	var seed [32]byte
	if _, err := crand.Read(seed[:]); err != nil {
		return nil, err
	}
	hash := sha256.New()
	_, err := io.CopyN(io.MultiWriter(to, hash), rand.NewChaCha8(seed), int64(amount))
	if err != nil {
		return nil, fmt.Errorf("send %d bytes: %w", amount, err)
	}
	return hash.Sum(nil), nil
}

// receive returns the checksum of that many bytes.
func receive(from io.Reader, amount uint64) ([]byte, error) {
	hash := sha256.New()
	if n, err := io.CopyN(hash, from, int64(amount)); err != nil {
		return nil, fmt.Errorf("receive %d bytes: %w after %d", amount, err, n)
	}
	return hash.Sum(nil), nil
}

// request connects and says what for.
func request(address string, op byte, amount uint64) (net.Conn, error) {
	dialer := net.Dialer{Timeout: patience}
	conn, err := dialer.DialContext(context.Background(), "tcp", address)
	if err != nil {
		return nil, err
	}
	if _, err := conn.Write(binary.BigEndian.AppendUint64([]byte{op}, amount)); err != nil {
		conn.Close()
		return nil, err
	}
	return conn, nil
}

func upload(address string, amount uint64) error {
	conn, err := request(address, opUpload, amount)
	if err != nil {
		return err
	}
	defer conn.Close()
	sum, err := send(conn, amount)
	if err != nil {
		return err
	}
	return compare(conn, sum)
}

// download returns the bytes per second.
func download(address string, amount uint64) (uint64, error) {
	conn, err := request(address, opDownload, amount)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	began := time.Now()
	sum, err := receive(conn, amount)
	if err != nil {
		return 0, err
	}
	rate := float64(amount) / time.Since(began).Seconds()
	return uint64(rate), compare(conn, sum)
}

func compare(conn net.Conn, sum []byte) error {
	other := make([]byte, len(sum))
	if _, err := io.ReadFull(conn, other); err != nil {
		return fmt.Errorf("read the checksum: %w", err)
	}
	if !bytes.Equal(sum, other) {
		return errors.New("other bytes were received than sent")
	}
	return nil
}

func connections(address string, count uint64) error {
	for i := range count {
		conn, err := request(address, opEcho, i)
		if err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		var echo [8]byte
		_, err = io.ReadFull(conn, echo[:])
		conn.Close()
		if err != nil {
			return fmt.Errorf("connection %d: %w", i, err)
		}
		if got := binary.BigEndian.Uint64(echo[:]); got != i {
			return fmt.Errorf("connection %d: the answer is that of %d", i, got)
		}
	}
	return nil
}

// attempts is how often a packet is sent before it counts as lost for good.
const (
	attempts = 8
	interval = 2 * time.Second
)

func datagrams(address string, count uint64) error {
	conn, err := net.Dial("udp", address) //nolint:noctx // does not wait
	if err != nil {
		return err
	}
	defer conn.Close()
	for i := range count {
		message := make([]byte, 8+i%1200)
		if _, err := crand.Read(message); err != nil {
			return err
		}
		if err := exchange(conn, message); err != nil {
			return fmt.Errorf("datagram %d: %w", i, err)
		}
	}
	return nil
}

// exchange sends the message until it comes back.
func exchange(conn net.Conn, message []byte) error {
	buffer := make([]byte, 64<<10)
	for range attempts {
		if _, err := conn.Write(message); err != nil {
			return err
		}
		if err := conn.SetReadDeadline(time.Now().Add(interval)); err != nil {
			return err
		}
		for {
			n, err := conn.Read(buffer)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return err
			}
			// Another one is an earlier datagram's second answer.
			if bytes.Equal(buffer[:n], message) {
				return nil
			}
		}
	}
	return errors.New("no answer")
}
