package vhostuser

import (
	"errors"
	"fmt"
)

// handle carries out a request and returns its reply, nil for requests that
// have none of their own.
func (s *Server) handle(m *message) ([]byte, error) {
	switch m.request {
	case GetFeatures:
		return encodeU64(s.device.Features() | transportFeatures), nil
	case GetProtocolFeatures:
		return encodeU64(s.offered()), nil
	case GetQueueNum:
		return encodeU64(uint64(len(s.vrings))), nil
	case GetMaxMemSlots:
		return encodeU64(memSlots), nil
	case GetConfig:
		return s.getConfig(m)
	case GetVringBase:
		return s.getVringBase(m)
	case SetOwner:
		return nil, nil
	case ResetOwner:
		// Deprecated, and ambiguous: back ends are told to stop the queues.
		for _, v := range s.vrings {
			s.stop(v)
		}
		return nil, nil
	case SetConfig:
		// Nothing of a vsock device's configuration can be written.
		return nil, errors.New("the configuration is read-only")
	default:
		return nil, s.set(m)
	}
}

// set carries out the requests that have no reply of their own.
func (s *Server) set(m *message) error {
	switch m.request {
	case SetFeatures:
		return s.setFeatures(m)
	case SetProtocolFeatures:
		return s.setProtocolFeatures(m)
	case SetMemTable:
		return s.thenStart(s.setMemTable(m))
	case AddMemReg:
		return s.thenStart(s.addMemReg(m))
	case RemMemReg:
		return s.remMemReg(m)
	case SetVringNum, SetVringBase, SetVringEnable:
		return s.setVringState(m)
	case SetVringAddr:
		return s.setVringAddr(m)
	case SetVringKick, SetVringCall, SetVringErr:
		return s.setVringFile(m)
	default:
		return errors.New("unknown request")
	}
}

// thenStart starts the queues that waited for what has just been set.
func (s *Server) thenStart(err error) error {
	if err != nil {
		return err
	}
	for _, v := range s.vrings {
		if err := s.start(v); err != nil {
			return err
		}
	}
	return nil
}

func (s *Server) setFeatures(m *message) error {
	v, err := decodeU64(m.payload)
	if err != nil {
		return err
	}
	if extra := v &^ (s.device.Features() | transportFeatures); extra != 0 {
		return fmt.Errorf("features %#x were not offered", extra)
	}
	s.features = v
	if v&featureProtocol == 0 {
		// Without SetVringEnable queues are enabled from the start.
		for _, v := range s.vrings {
			v.enabled = true
		}
		return s.thenStart(nil)
	}
	return nil
}

// offered are the protocol's features. That of a configuration space is for a device that
// has one: QEMU warns of it in others, as the last that it says before whatever ends it.
func (s *Server) offered() uint64 {
	if len(s.device.Config()) == 0 {
		return protocolFeatures &^ protocolConfig
	}
	return protocolFeatures
}

func (s *Server) setProtocolFeatures(m *message) error {
	v, err := decodeU64(m.payload)
	if err != nil {
		return err
	}
	if extra := v &^ s.offered(); extra != 0 {
		return fmt.Errorf("protocol features %#x were not offered", extra)
	}
	s.protocol = v
	return nil
}

// getConfig answers with the piece asked for, or, as the protocol says an error
// is told, with an empty one.
func (s *Server) getConfig(m *message) ([]byte, error) {
	c, err := decodeConfig(m.payload)
	if err != nil {
		return nil, err
	}
	space := s.device.Config()
	if uint64(c.offset)+uint64(c.size) > uint64(len(space)) {
		return c.encode(nil), nil
	}
	return c.encode(space[c.offset : c.offset+c.size]), nil
}

func (s *Server) vring(index uint32) (*vring, error) {
	if uint64(index) >= uint64(len(s.vrings)) {
		return nil, fmt.Errorf("queue %d of %d", index, len(s.vrings))
	}
	return s.vrings[index], nil
}

func (s *Server) getVringBase(m *message) ([]byte, error) {
	state, err := decodeVringState(m.payload)
	if err != nil {
		return nil, err
	}
	v, err := s.vring(state.index)
	if err != nil {
		return nil, err
	}
	s.stop(v)
	// The next start brings a kick descriptor of its own, before or after it
	// enables the queue.
	v.dropKick()
	return vringState{state.index, uint32(v.base)}.encode(), nil
}

func (s *Server) setVringState(m *message) error {
	state, err := decodeVringState(m.payload)
	if err != nil {
		return err
	}
	v, err := s.vring(state.index)
	if err != nil {
		return err
	}
	if m.request == SetVringEnable {
		return s.enable(v, state.value != 0)
	}
	if v.ring != nil {
		return fmt.Errorf("queue %d is running", v.index)
	}
	if m.request == SetVringNum {
		v.size = state.value
		return nil
	}
	if state.value > 0xffff {
		return fmt.Errorf("queue %d: base %d", v.index, state.value)
	}
	v.base = uint16(state.value)
	return nil
}

func (s *Server) setVringAddr(m *message) error {
	addr, err := decodeVringAddr(m.payload)
	if err != nil {
		return err
	}
	v, err := s.vring(addr.index)
	if err != nil {
		return err
	}
	if v.ring != nil {
		return fmt.Errorf("queue %d is running", v.index)
	}
	v.addr = &addr
	return s.start(v)
}

func (s *Server) setVringFile(m *message) error {
	value, err := decodeU64(m.payload)
	if err != nil {
		return err
	}
	v, err := s.vring(uint32(value & vringIndexMask))
	if err != nil {
		return err
	}
	fd := noFD
	if value&vringNoFile == 0 {
		if fd, err = m.takeFD(); err != nil {
			return err
		}
	}
	switch {
	case m.request == SetVringCall:
		s.setCall(v, fd)
		return nil
	case m.request == SetVringErr:
		closeFD(fd)
		return nil
	case fd == noFD:
		return fmt.Errorf("queue %d: polling without a kick descriptor is not supported", v.index)
	case v.ring != nil:
		closeFD(fd)
		return fmt.Errorf("queue %d is running", v.index)
	}
	if err := v.setKick(fd); err != nil {
		return err
	}
	return s.start(v)
}
