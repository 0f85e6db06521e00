package drivertest

import "sync"

// Ports that a Peer serves.
const (
	// EchoPort sends back what it receives.
	EchoPort = 1
	// PipePort joins every two connections into one.
	PipePort = 2
	// DiscardPort takes data and answers nothing.
	DiscardPort = 3
)

// PeerBuffer is the size of a Peer's receive buffer per connection, in bytes.
const PeerBuffer = 64 << 10

// Peer is a small vsock stack in the guest. It keeps to the rules of credit,
// and reports a host that does not.
type Peer struct {
	g     *Guest
	conns map[[2]uint32]*peerConn
	half  *peerConn // waits for the other half of a pipe
	done  sync.WaitGroup
}

// peerConn is one connection. What it receives leaves through to.
type peerConn struct {
	reply            Packet // the addresses
	to               *peerConn
	pending          []byte
	ended            bool // no more will be pending
	told             bool // the host knows that nothing more comes
	received, passed uint32
	sent, alloc, fwd uint32
}

// NewPeer runs a Peer on a guest until the device stops or Close.
func NewPeer(g *Guest) *Peer {
	p := &Peer{g: g, conns: make(map[[2]uint32]*peerConn)}
	p.done.Go(func() {
		for {
			packet, ok := g.Recv()
			if !ok {
				return
			}
			p.handle(&packet)
		}
	})
	return p
}

// Close ends the Peer.
func (p *Peer) Close() {
	p.g.EndRecv()
	p.done.Wait()
}

func (p *Peer) send(c *peerConn, op uint16, flags uint32, data []byte) {
	packet := c.reply
	packet.Op, packet.Flags, packet.Data = op, flags, data
	packet.BufAlloc, packet.FwdCnt = PeerBuffer, c.passed
	p.g.SendPacket(packet)
}

func (p *Peer) handle(packet *Packet) {
	key := [2]uint32{packet.SrcPort, packet.DstPort}
	c := p.conns[key]
	if c == nil {
		p.handleNew(packet, key)
		return
	}
	if packet.Op == Request || packet.Type != 1 || packet.DstCID != p.g.CID || packet.SrcCID != 2 {
		p.g.t.Errorf("unexpected packet %+v", packet)
	}
	c.alloc, c.fwd = packet.BufAlloc, packet.FwdCnt
	switch packet.Op {
	case Data:
		p.data(c, packet.Data)
	case Shutdown:
		c.ended = true
		if packet.Flags&3 == 3 {
			p.send(c, Reset, 0, nil)
			delete(p.conns, key)
		}
		p.pump(c)
	case Reset:
		delete(p.conns, key)
		c.ended = true
		p.pump(c)
	case CreditRequest:
		p.send(c, CreditUpdate, 0, nil)
	}
	// The credit is for what leaves through this connection.
	for _, from := range p.conns {
		if from.to == c {
			p.pump(from)
		}
	}
}

func (p *Peer) handleNew(packet *Packet, key [2]uint32) {
	if packet.Op == Reset {
		return
	}
	c := &peerConn{reply: packet.Answer(Response), alloc: packet.BufAlloc, fwd: packet.FwdCnt}
	if packet.Op != Request || packet.DstPort > DiscardPort {
		p.send(c, Reset, 0, nil)
		return
	}
	p.conns[key] = c
	switch {
	case packet.DstPort == EchoPort:
		c.to = c
	case packet.DstPort == PipePort && p.half == nil:
		p.half = c
	case packet.DstPort == PipePort:
		c.to, p.half.to, p.half = p.half, c, nil
	}
	p.send(c, Response, 0, nil)
}

func (p *Peer) data(c *peerConn, data []byte) {
	c.received += uint32(len(data))
	if c.received-c.passed > PeerBuffer {
		p.g.t.Errorf("host sent %d bytes more than it had credit for", c.received-c.passed-PeerBuffer)
	}
	if c.reply.SrcPort == DiscardPort {
		c.passed = c.received
		p.send(c, CreditUpdate, 0, nil)
		return
	}
	c.pending = append(c.pending, data...)
	p.pump(c)
}

// pump passes on what c received, as far as there is credit.
func (p *Peer) pump(c *peerConn) {
	to := c.to
	if to == nil || to.told {
		return
	}
	before := c.passed
	for len(c.pending) > 0 {
		n := min(uint32(len(c.pending)), to.alloc-(to.sent-to.fwd), 64<<10)
		if n == 0 {
			break
		}
		p.send(to, Data, 0, c.pending[:n])
		c.pending = c.pending[n:]
		to.sent += n
		c.passed += n
	}
	if c.passed-before >= PeerBuffer/4 || c.passed == c.received && c.passed != before {
		p.send(c, CreditUpdate, 0, nil)
	}
	if c.ended && len(c.pending) == 0 {
		to.told = true
		flags := uint32(2)
		if c == to || p.conns[[2]uint32{c.reply.DstPort, c.reply.SrcPort}] != c {
			flags = 3
		}
		p.send(to, Shutdown, flags, nil)
	}
}
