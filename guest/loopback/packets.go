package loopback

import (
	"bufio"
	"container/list"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"

	"kata-runtime/guest/protocol/relay"
)

const (
	// maxFlows bounds the UDP clients of a service that are served at a time;
	// one more ends the one that was silent for longest.
	maxFlows = 128
	// maxQueued bounds the datagrams of a client that wait for the host; more
	// are lost, as UDP's may be.
	maxQueued = 64
	// maxFailures bounds errors of a socket without a datagram in between.
	maxFailures = 100
	// idlePeriod is how long a client must at least be silent, and its server
	// too, until it is forgotten.
	idlePeriod = 30 * time.Second
)

// packets is a service's UDP socket with its clients.
type packets struct {
	server *server
	conn   *net.UDPConn
	// answerer sends to clients where conn is not bound to the service's port.
	answerer *answerer

	mu     sync.Mutex // guards what follows
	flows  map[netip.AddrPort]*flow
	recent *list.List // of *flow, the one that has sent last in front
}

// flow is one client, and its connection through vsock.
type flow struct {
	client netip.AddrPort
	queue  chan []byte // from the client
	place  *list.Element
	life   context.Context //nolint:containedctx // the flow's own life, not a caller's
	end    context.CancelFunc
}

func (s *server) listenUDP() error {
	conn, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(s.bound()))
	if err != nil {
		return err
	}
	p := &packets{server: s, conn: conn, flows: map[netip.AddrPort]*flow{}, recent: list.New()}
	if s.steering != nil {
		p.answerer, err = newAnswerer(s.address)
		if err == nil {
			err = s.steering.put(s.service, conn)
		}
		if err != nil {
			conn.Close()
			if p.answerer != nil {
				p.answerer.raw.Close()
			}
			return err
		}
	}
	s.packets = p
	s.serving.Go(p.serve)
	return nil
}

// serve reads datagrams until the socket is closed, and hands each to its
// client's flow.
func (p *packets) serve() {
	buffer := make([]byte, relay.MaxDatagram)
	failures := 0
	for {
		n, client, err := p.conn.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			if failures++; failures > maxFailures {
				p.server.log.Warn("loopback service is served no more", "error", err)
				return
			}
			continue // of one datagram, as memory may have lacked for it
		}
		failures = 0
		data := append(make([]byte, 0, n), buffer[:n]...)
		select {
		case p.flow(client).queue <- data:
		default:
		}
	}
}

// flow finds or makes the flow of a client.
func (p *packets) flow(client netip.AddrPort) *flow {
	p.mu.Lock()
	defer p.mu.Unlock()
	if f := p.flows[client]; f != nil {
		p.recent.MoveToFront(f.place)
		return f
	}
	for len(p.flows) >= maxFlows {
		if oldest, ok := p.recent.Back().Value.(*flow); ok {
			p.forget(oldest)
		}
	}
	f := &flow{client: client, queue: make(chan []byte, maxQueued)}
	f.life, f.end = context.WithCancel(p.server.life)
	f.place = p.recent.PushFront(f)
	p.flows[client] = f
	p.server.serving.Go(func() {
		if err := p.carry(f); err != nil {
			p.server.log.Debug("loopback datagrams ended", "client", client, "error", err)
		}
		p.mu.Lock()
		defer p.mu.Unlock()
		p.forget(f)
	})
	return f
}

// forget ends a flow; a later datagram of its client begins a new one. The
// caller holds mu.
func (p *packets) forget(f *flow) {
	f.end()
	if p.flows[f.client] == f {
		delete(p.flows, f.client)
		p.recent.Remove(f.place)
	}
}

// carry relays the datagrams of one client until the flow ends or is idle.
func (p *packets) carry(f *flow) error {
	peer, err := p.server.connect()
	if err != nil {
		return err
	}
	stop := context.AfterFunc(f.life, func() { peer.Close() })
	defer stop()
	idle := relay.NewIdle(idlePeriod, f.end)
	defer idle.Stop()
	var answers sync.WaitGroup
	defer answers.Wait()
	defer peer.Close()
	answers.Go(func() {
		defer f.end()
		p.answer(f, peer, idle)
	})
	for {
		select {
		case data := <-f.queue:
			idle.Touch()
			if err := relay.WriteDatagram(peer, data); err != nil {
				if f.life.Err() != nil {
					return nil
				}
				return fmt.Errorf("client %v: %w", f.client, err)
			}
		case <-f.life.Done():
			return nil
		}
	}
}

// answer hands the server's datagrams to the client until the connection ends.
func (p *packets) answer(f *flow, peer net.Conn, idle *relay.Idle) {
	in := bufio.NewReader(peer)
	var buffer []byte
	for {
		data, err := relay.ReadDatagram(in, buffer)
		if err != nil {
			return // the host has ended the flow
		}
		buffer = data
		idle.Touch()
		// A client that is gone loses it.
		if p.answerer != nil {
			_ = p.answerer.send(data, f.client)
		} else {
			_, _ = p.conn.WriteToUDPAddrPort(data, f.client)
		}
	}
}
