package loopback

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"golang.org/x/sys/unix"
)

// errNoSteering is wrapped by errors about a kernel that cannot choose a
// connection's server by a program.
var errNoSteering = errors.New("the host's kernel has no BPF programs of type sk_lookup (Linux 5.9 with CONFIG_BPF_SYSCALL)")

// Indexes of the map of listeners.
const (
	listenerV4 uint32 = iota
	listenerV6
	listenerCount
)

// steering is a program of the kernel that hands connections to loopback in a
// network namespace to this process's listeners, whatever their port. It is held
// by descriptors alone: when they are closed, or their process has died, the
// namespace is as it was.
type steering struct {
	listeners *ebpf.Map // of sockets, by listenerV4 and listenerV6
	exempt    *ebpf.Map // a set of exemptKeys
	program   *ebpf.Program
	link      *link.NetNsLink
}

// steer begins to hand connections in the namespace to listeners, those to the
// addresses of exempt excepted. The listeners are the caller's, and loopback's.
func steer(namespace *os.File, listeners []*net.TCPListener, exempt []netip.AddrPort) (_ *steering, err error) {
	s := &steering{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	s.listeners, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: "kata_listeners", Type: ebpf.SockMap, KeySize: 4, ValueSize: 8, MaxEntries: listenerCount,
	})
	if err != nil {
		return nil, unsupported("make a map of sockets", err)
	}
	s.exempt, err = ebpf.NewMap(&ebpf.MapSpec{
		Name: "kata_exempt", Type: ebpf.Hash, KeySize: 4, ValueSize: 1, MaxEntries: maxServices,
	})
	if err != nil {
		return nil, unsupported("make a map of ports", err)
	}
	for _, listener := range listeners {
		if err := s.put(listener); err != nil {
			return nil, err
		}
	}
	if err := s.Exempt(exempt); err != nil {
		return nil, err
	}
	s.program, err = ebpf.NewProgram(&ebpf.ProgramSpec{
		Name: "kata_loopback", Type: ebpf.SkLookup, AttachType: ebpf.AttachSkLookup, License: "Apache-2.0",
		Instructions: s.instructions(),
	})
	if err != nil {
		return nil, unsupported("load the program", err)
	}
	s.link, err = link.AttachNetNs(int(namespace.Fd()), s.program)
	if err != nil {
		return nil, unsupported("attach the program to the network namespace", err)
	}
	return s, nil
}

// unsupported says what is missing where that is why the kernel refused.
func unsupported(what string, err error) error {
	if errors.Is(err, ebpf.ErrNotSupported) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EINVAL) {
		err = fmt.Errorf("%w: %w", errNoSteering, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// put makes a listener one that connections of its family are handed to.
func (s *steering) put(listener *net.TCPListener) error {
	index := listenerV6
	if addr, ok := listener.Addr().(*net.TCPAddr); ok && addr.AddrPort().Addr().Unmap().Is4() {
		index = listenerV4
	}
	raw, err := listener.SyscallConn()
	if err != nil {
		return fmt.Errorf("find the socket of listener %v: %w", listener.Addr(), err)
	}
	var putErr error
	err = raw.Control(func(fd uintptr) { putErr = s.listeners.Put(index, uint64(fd)) })
	if err = errors.Join(err, putErr); err != nil {
		return unsupported(fmt.Sprintf("put listener %v into the map of sockets", listener.Addr()), err)
	}
	return nil
}

// exemptKey is how the program looks for an address.
func exemptKey(addr netip.AddrPort) uint32 {
	if addr.Addr().Is4() {
		return uint32(addr.Port())
	}
	return 1<<16 | uint32(addr.Port())
}

// steered tells whether an address is one whose connections are handed over.
func steered(addr netip.Addr) bool {
	return addr == netip.AddrFrom4([4]byte{127, 0, 0, 1}) || addr == netip.IPv6Loopback()
}

// Exempt makes connections to addresses go where they would without the
// program. Those of earlier calls stay exempt.
func (s *steering) Exempt(addrs []netip.AddrPort) error {
	for _, addr := range addrs {
		if !steered(addr.Addr()) {
			continue
		}
		if err := s.exempt.Put(exemptKey(addr), uint8(1)); err != nil {
			return unsupported(fmt.Sprintf("exempt %v", addr), err)
		}
	}
	return nil
}

// Offsets in the kernel's struct bpf_sk_lookup, and the program's verdict to go
// on, with the chosen socket if there is one.
const (
	offsetFamily    = 8
	offsetProtocol  = 12
	offsetLocalIP4  = 40
	offsetLocalIP6  = 44
	offsetLocalPort = 60

	skPass = 1
)

// instructions is the program. It is small enough to be written down:
//
//	if protocol is not TCP: pass
//	if the local address is 127.0.0.1: index, key = listenerV4, port
//	else if it is ::1: index, key = listenerV6, 1<<16 | port
//	else: pass
//	if key is in exempt: pass
//	assign the socket listeners[index]
func (s *steering) instructions() asm.Instructions {
	const context, port, index, socket = asm.R6, asm.R7, asm.R8, asm.R9
	const slot = -4 // the key of a map, on the stack
	lookup := func(m *ebpf.Map, key asm.Register) asm.Instructions {
		return asm.Instructions{
			asm.StoreMem(asm.RFP, slot, key, asm.Word),
			asm.LoadMapPtr(asm.R1, m.FD()),
			asm.Mov.Reg(asm.R2, asm.RFP),
			asm.Add.Imm(asm.R2, slot),
			asm.FnMapLookupElem.Call(),
		}
	}
	program := asm.Instructions{
		asm.Mov.Reg(context, asm.R1),
		asm.LoadMem(asm.R2, context, offsetProtocol, asm.Word),
		asm.JNE.Imm(asm.R2, unix.IPPROTO_TCP, "pass"),
		asm.LoadMem(port, context, offsetLocalPort, asm.Word),
		asm.LoadMem(asm.R2, context, offsetFamily, asm.Word),
		asm.JEq.Imm(asm.R2, unix.AF_INET6, "v6"),
		asm.JNE.Imm(asm.R2, unix.AF_INET, "pass"),

		asm.LoadMem(asm.R2, context, offsetLocalIP4, asm.Word),
		asm.HostTo(asm.BE, asm.R2, asm.Word),
		asm.JNE.Imm(asm.R2, 0x7f000001, "pass"),
		asm.Mov.Imm(index, int32(listenerV4)),
		asm.Ja.Label("choose"),

		asm.LoadMem(asm.R2, context, offsetLocalIP6, asm.Word).WithSymbol("v6"),
		asm.JNE.Imm(asm.R2, 0, "pass"),
		asm.LoadMem(asm.R2, context, offsetLocalIP6+4, asm.Word),
		asm.JNE.Imm(asm.R2, 0, "pass"),
		asm.LoadMem(asm.R2, context, offsetLocalIP6+8, asm.Word),
		asm.JNE.Imm(asm.R2, 0, "pass"),
		asm.LoadMem(asm.R2, context, offsetLocalIP6+12, asm.Word),
		asm.HostTo(asm.BE, asm.R2, asm.Word),
		asm.JNE.Imm(asm.R2, 1, "pass"),
		asm.Mov.Imm(index, int32(listenerV6)),
		asm.Add.Imm(port, 1<<16),
	}
	exempt := lookup(s.exempt, port)
	exempt[0] = exempt[0].WithSymbol("choose")
	program = append(program, exempt...)
	program = append(program, asm.JNE.Imm(asm.R0, 0, "pass"))
	program = append(program, lookup(s.listeners, index)...)
	return append(program,
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
	)
}

// Close ends the handing over; connections that were made stay. Idempotent.
func (s *steering) Close() error {
	var errs []error
	if s.link != nil {
		errs = append(errs, s.link.Close())
	}
	if s.program != nil {
		errs = append(errs, s.program.Close())
	}
	for _, m := range []*ebpf.Map{s.exempt, s.listeners} {
		if m != nil {
			errs = append(errs, m.Close())
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("end the handing over of connections: %w", err)
	}
	return nil
}
