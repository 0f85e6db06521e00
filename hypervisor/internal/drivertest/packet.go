package drivertest

import "encoding/binary"

// Operations of a packet.
const (
	Request = iota + 1
	Response
	Reset
	Shutdown
	Data
	CreditUpdate
	CreditRequest
)

// Packet is a vsock packet.
type Packet struct {
	SrcCID, DstCID   uint64
	SrcPort, DstPort uint32
	Len              uint32
	Type, Op         uint16
	Flags            uint32
	BufAlloc, FwdCnt uint32
	Data             []byte
}

func decode(b []byte) Packet {
	var p Packet
	le := binary.LittleEndian
	p.SrcCID, p.DstCID = le.Uint64(b), le.Uint64(b[8:])
	p.SrcPort, p.DstPort, p.Len = le.Uint32(b[16:]), le.Uint32(b[20:]), le.Uint32(b[24:])
	p.Type, p.Op, p.Flags = le.Uint16(b[28:]), le.Uint16(b[30:]), le.Uint32(b[32:])
	p.BufAlloc, p.FwdCnt = le.Uint32(b[36:]), le.Uint32(b[40:])
	return p
}

func (p *Packet) encode(b []byte) {
	le := binary.LittleEndian
	le.PutUint64(b, p.SrcCID)
	le.PutUint64(b[8:], p.DstCID)
	le.PutUint32(b[16:], p.SrcPort)
	le.PutUint32(b[20:], p.DstPort)
	le.PutUint32(b[24:], p.Len)
	le.PutUint16(b[28:], p.Type)
	le.PutUint16(b[30:], p.Op)
	le.PutUint32(b[32:], p.Flags)
	le.PutUint32(b[36:], p.BufAlloc)
	le.PutUint32(b[40:], p.FwdCnt)
}

// Answer returns a packet with the given operation to the sender of p.
func (p *Packet) Answer(op uint16) Packet {
	return Packet{
		SrcCID: p.DstCID, DstCID: p.SrcCID, SrcPort: p.DstPort, DstPort: p.SrcPort,
		Type: 1, Op: op, BufAlloc: 64 << 10,
	}
}
