package loopback

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol/relay"
)

// steering is a program of the kernel that hands what is sent to services to
// their sockets, which are bound to other ports: the services' own stay free for
// containers that listen on all addresses. It is held by descriptors alone.
type steering struct {
	sockets *ebpf.Map // by steeringKey
	program *ebpf.Program
	link    *link.NetNsLink
}

// needsSteering tells whether a service is on an address that containers cannot
// mean when they listen: docker's resolver is, and beside it a DNS server on all
// addresses has to work.
func needsSteering(addr netip.Addr) bool {
	return addr.Is4() && addr != netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// newSteering makes a program without services, for the network namespace of
// the caller.
func newSteering() (_ *steering, err error) {
	s := &steering{}
	defer func() {
		if err != nil {
			s.Close()
		}
	}()
	s.sockets, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: "kata_services", Type: ebpf.SockHash, KeySize: steeringKeySize, ValueSize: 8, MaxEntries: maxServices,
	})
	if err != nil {
		return nil, fmt.Errorf("make a map of sockets: %w", err)
	}
	s.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "kata_services", Type: ebpf.SkLookup, AttachType: ebpf.AttachSkLookup, License: "Apache-2.0",
		Instructions: s.instructions(),
	})
	if err != nil {
		return nil, fmt.Errorf("load a program: %w", err)
	}
	namespace, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, fmt.Errorf("open the network namespace: %w", err)
	}
	defer namespace.Close()
	if s.link, err = link.AttachNetNs(int(namespace.Fd()), s.program); err != nil {
		return nil, fmt.Errorf("attach a program to the network namespace: %w", err)
	}
	return s, nil
}

// A key is the address as it is in memory, and protocol<<16 | port.
const steeringKeySize = 8

func steeringKey(s service) []byte {
	protocol := uint32(unix.IPPROTO_TCP)
	if s.network == relay.UDP {
		protocol = unix.IPPROTO_UDP
	}
	address := s.address.Addr().As4()
	return binary.NativeEndian.AppendUint32(address[:], protocol<<16|uint32(s.address.Port()))
}

// put makes a socket a service's, until it is closed.
func (s *steering) put(key service, socket syscall.Conn) error {
	raw, err := socket.SyscallConn()
	if err != nil {
		return fmt.Errorf("find the socket: %w", err)
	}
	var putErr error
	err = raw.Control(func(fd uintptr) { putErr = s.sockets.Put(steeringKey(key), uint64(fd)) })
	if err = errors.Join(err, putErr); err != nil {
		return fmt.Errorf("put the socket into the map: %w", err)
	}
	return nil
}

// Offsets in the kernel's struct bpf_sk_lookup, and the program's verdict to go
// on, with the chosen socket if there is one.
const (
	offsetFamily    = 8
	offsetProtocol  = 12
	offsetLocalIP4  = 40
	offsetLocalPort = 60

	skPass = 1
)

// instructions is the program:
//
//	if it is IPv4, and there is a socket for address, protocol and port: assign it
func (s *steering) instructions() asm.Instructions {
	const context, socket = asm.R6, asm.R7
	return asm.Instructions{
		asm.Mov.Reg(context, asm.R1),
		asm.LoadMem(asm.R2, context, offsetFamily, asm.Word),
		asm.JNE.Imm(asm.R2, unix.AF_INET, "pass"),
		asm.LoadMem(asm.R2, context, offsetLocalIP4, asm.Word),
		asm.StoreMem(asm.RFP, -steeringKeySize, asm.R2, asm.Word),
		asm.LoadMem(asm.R2, context, offsetProtocol, asm.Word),
		asm.LSh.Imm(asm.R2, 16),
		asm.LoadMem(asm.R3, context, offsetLocalPort, asm.Word),
		asm.Or.Reg(asm.R2, asm.R3),
		asm.StoreMem(asm.RFP, -steeringKeySize+4, asm.R2, asm.Word),
		asm.LoadMapPtr(asm.R1, s.sockets.FD()),
		asm.Mov.Reg(asm.R2, asm.RFP),
		asm.Add.Imm(asm.R2, -steeringKeySize),
		asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "pass"),
		asm.Mov.Reg(socket, asm.R0),
		asm.Mov.Reg(asm.R1, context),
		asm.Mov.Reg(asm.R2, socket),
		asm.Mov.Imm(asm.R3, 0),
		asm.FnSkAssign.Call(),
		asm.Mov.Reg(asm.R1, socket),
		asm.FnSkRelease.Call(),
		asm.Mov.Imm(asm.R0, skPass).WithSymbol("pass"),
		asm.Return(),
	}
}

// Close ends the program.
func (s *steering) Close() {
	// Closing descriptors that were only read has nothing to lose.
	if s.link != nil {
		_ = s.link.Close()
	}
	if s.program != nil {
		_ = s.program.Close()
	}
	if s.sockets != nil {
		_ = s.sockets.Close()
	}
}

// answerer sends a service's datagrams from the port that its socket is not
// bound to.
type answerer struct {
	from netip.AddrPort
	raw  *net.IPConn
}

func newAnswerer(from netip.AddrPort) (*answerer, error) {
	// With this protocol, IPPROTO_RAW, the header is the sender's to write.
	raw, err := net.ListenIP("ip4:255", &net.IPAddr{IP: from.Addr().AsSlice()})
	if err != nil {
		return nil, fmt.Errorf("make a raw socket: %w", err)
	}
	return &answerer{from: from, raw: raw}, nil
}

const (
	ipv4Header = 20
	udpHeader  = 8
)

// send sends a datagram.
func (a *answerer) send(data []byte, to netip.AddrPort) error {
	length := ipv4Header + udpHeader + len(data)
	if length > 0xffff || !to.Addr().Is4() {
		return fmt.Errorf("datagram of %d bytes to %v: %w", len(data), to, unix.EMSGSIZE)
	}
	source, destination := a.from.Addr().As4(), to.Addr().As4()
	packet := make([]byte, ipv4Header, length)
	packet[0] = 0x45 // version 4, a header of 5 words; the kernel adds its sum
	binary.BigEndian.PutUint16(packet[2:], uint16(length))
	packet[8], packet[9] = 64, unix.IPPROTO_UDP // hops, protocol
	copy(packet[12:], source[:])
	copy(packet[16:], destination[:])
	packet = binary.BigEndian.AppendUint16(packet, a.from.Port())
	packet = binary.BigEndian.AppendUint16(packet, to.Port())
	packet = binary.BigEndian.AppendUint16(packet, uint16(udpHeader+len(data)))
	packet = append(packet, 0, 0) // no checksum, as IPv4 allows: it stays on loopback
	_, err := a.raw.WriteToIP(append(packet, data...), &net.IPAddr{IP: destination[:]})
	return err
}
