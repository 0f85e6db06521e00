package relay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync/atomic"
	"time"
)

// Network is the kind of a connection to a server on loopback.
type Network byte

// Networks, as ServiceHeader has them.
const (
	TCP Network = 1
	UDP Network = 2
)

// String is what package net calls it.
func (n Network) String() string {
	switch n {
	case TCP:
		return "tcp"
	case UDP:
		return "udp"
	default:
		return fmt.Sprintf("network %d", byte(n))
	}
}

// ParseNetwork is the inverse of String.
func ParseNetwork(name string) (Network, error) {
	for _, n := range []Network{TCP, UDP} {
		if name == n.String() {
			return n, nil
		}
	}
	return 0, fmt.Errorf("%w: network %q", ErrMalformed, name)
}

// ServiceHeader opens a connection of the guest on the host's loopback port: it
// names a server on loopback in the pod's namespace on the host. The host
// answers with Accepted, after which a TCP connection is copied by Copy and UDP
// datagrams follow in the form of WriteDatagram, both ways; or with Refused.
type ServiceHeader struct {
	// Token is the pod's secret, TokenLength bytes.
	Token   string
	Network Network
	// Address is the server's; an IPv4 one is never mapped into IPv6.
	Address netip.AddrPort
}

// ForwardHeader opens a connection of the host on the agent's forward port,
// which was made to loopback in the pod's namespace on the host. The agent
// connects to that port of the guest's loopback, first over the family of the
// original connection, and answers with Accepted or Refused.
type ForwardHeader struct {
	// IPv6 tells the family of the original connection.
	IPv6 bool
	Port uint16
}

// Refused is the answer to a header whose server did not take the connection.
const Refused byte = 0x15

const (
	serviceMagic = "KLS1"
	forwardMagic = "KLF1"

	addressLength = 16
	serviceLength = len(serviceMagic) + TokenLength + 1 + addressLength + 2
	forwardLength = len(forwardMagic) + 1 + 2
)

// WriteServiceHeader writes h in one call to w.Write.
func WriteServiceHeader(w io.Writer, h ServiceHeader) error {
	if len(h.Token) != TokenLength {
		return fmt.Errorf("%w: token of %d bytes", ErrMalformed, len(h.Token))
	}
	buf := append(make([]byte, 0, serviceLength), serviceMagic...)
	buf = append(buf, h.Token...)
	buf = append(buf, byte(h.Network))
	address := h.Address.Addr().As16()
	buf = append(buf, address[:]...)
	buf = binary.BigEndian.AppendUint16(buf, h.Address.Port())
	if _, err := w.Write(buf); err != nil {
		return fmt.Errorf("write header of a loopback connection: %w", err)
	}
	return nil
}

// ReadServiceHeader reads one header from r and nothing beyond it.
func ReadServiceHeader(r io.Reader) (ServiceHeader, error) {
	var buf [serviceLength]byte
	if err := readMagic(r, buf[:], serviceMagic); err != nil {
		return ServiceHeader{}, err
	}
	rest := buf[len(serviceMagic):]
	h := ServiceHeader{Token: string(rest[:TokenLength])}
	rest = rest[TokenLength:]
	h.Network = Network(rest[0])
	if h.Network != TCP && h.Network != UDP {
		return ServiceHeader{}, fmt.Errorf("%w: %v", ErrMalformed, h.Network)
	}
	address := netip.AddrFrom16([addressLength]byte(rest[1:])).Unmap()
	h.Address = netip.AddrPortFrom(address, binary.BigEndian.Uint16(rest[1+addressLength:]))
	return h, nil
}

// WriteForwardHeader writes h in one call to w.Write.
func WriteForwardHeader(w io.Writer, h ForwardHeader) error {
	buf := append(make([]byte, 0, forwardLength), forwardMagic...)
	family := byte(4)
	if h.IPv6 {
		family = 6
	}
	buf = binary.BigEndian.AppendUint16(append(buf, family), h.Port)
	if _, err := w.Write(buf); err != nil {
		return fmt.Errorf("write header of a loopback connection: %w", err)
	}
	return nil
}

// ReadForwardHeader reads one header from r and nothing beyond it.
func ReadForwardHeader(r io.Reader) (ForwardHeader, error) {
	var buf [forwardLength]byte
	if err := readMagic(r, buf[:], forwardMagic); err != nil {
		return ForwardHeader{}, err
	}
	rest := buf[len(forwardMagic):]
	h := ForwardHeader{IPv6: rest[0] == 6, Port: binary.BigEndian.Uint16(rest[1:])}
	if rest[0] != 4 && rest[0] != 6 || h.Port == 0 {
		return ForwardHeader{}, fmt.Errorf("%w: port %d of family %d", ErrMalformed, h.Port, rest[0])
	}
	return h, nil
}

func readMagic(r io.Reader, buf []byte, magic string) error {
	if _, err := io.ReadFull(r, buf); err != nil {
		return fmt.Errorf("read header of a loopback connection: %w", err)
	}
	if got := string(buf[:len(magic)]); got != magic {
		return fmt.Errorf("%w: magic %x", ErrMalformed, got)
	}
	return nil
}

// ErrRefused is wrapped by ReadAnswer's error when the other side found no server.
var ErrRefused = errors.New("connection refused")

// ReadAnswer reads the answer to a header. The other side may also just hang up.
func ReadAnswer(r io.Reader) error {
	var answer [1]byte
	switch _, err := io.ReadFull(r, answer[:]); {
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%w: no answer", ErrRefused)
	case err != nil:
		return fmt.Errorf("read the answer: %w", err)
	case answer[0] == Refused:
		return ErrRefused
	case answer[0] != Accepted:
		return fmt.Errorf("%w: answer %#x", ErrMalformed, answer[0])
	}
	return nil
}

// TCPSocket is a TCP connection as Copy wants it. Where Copy fails, the
// program at the other end sees a reset, and no end of data that was none.
type TCPSocket struct {
	*net.TCPConn
}

// CloseRead is called when the program at the far end takes no more data. With
// TCP that program has reset or lost its connection, which ends both directions.
func (s TCPSocket) CloseRead() error {
	return s.Abort()
}

// Abort closes the connection with a reset.
func (s TCPSocket) Abort() error {
	return errors.Join(s.SetLinger(0), s.Close())
}

// MaxDatagram bounds the data of a datagram.
const MaxDatagram = 0xffff

const datagramHeader = 2

// WriteDatagram writes a datagram's length and its data in one call to w.Write.
func WriteDatagram(w io.Writer, data []byte) error {
	if len(data) > MaxDatagram {
		return fmt.Errorf("%w: datagram of %d bytes", ErrMalformed, len(data))
	}
	buf := binary.BigEndian.AppendUint16(make([]byte, 0, datagramHeader+len(data)), uint16(len(data)))
	if _, err := w.Write(append(buf, data...)); err != nil {
		return fmt.Errorf("write a datagram to the relay: %w", err)
	}
	return nil
}

// ReadDatagram reads a datagram that WriteDatagram wrote into buffer, which it
// may replace by a larger one.
func ReadDatagram(r io.Reader, buffer []byte) ([]byte, error) {
	var header [datagramHeader]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, fmt.Errorf("read a datagram from the relay: %w", err)
	}
	n := int(binary.BigEndian.Uint16(header[:]))
	if n > cap(buffer) {
		buffer = make([]byte, n)
	}
	if _, err := io.ReadFull(r, buffer[:n]); err != nil {
		return nil, broken(err)
	}
	return buffer[:n], nil
}

// Idle ends what nothing has happened to for a while, with no timer to reset for
// each event. Make it with NewIdle.
type Idle struct {
	timer         *time.Timer
	seen, stopped atomic.Bool
}

// NewIdle calls end once, in a goroutine of its own, when between one and two
// periods have passed without a call of Touch. Stop ends it earlier.
func NewIdle(period time.Duration, end func()) *Idle {
	idle := &Idle{}
	idle.seen.Store(true)
	started := make(chan struct{})
	idle.timer = time.AfterFunc(period, func() {
		<-started
		switch {
		case idle.stopped.Load():
		case idle.seen.Swap(false):
			idle.timer.Reset(period)
		default:
			end()
		}
	})
	close(started)
	return idle
}

// Touch says that something has happened.
func (i *Idle) Touch() { i.seen.Store(true) }

// Stop keeps the end from being called, unless it has been.
func (i *Idle) Stop() {
	i.stopped.Store(true)
	i.timer.Stop()
}
