package vhostuser

import (
	"encoding/binary"
	"fmt"

	"kata-runtime/hypervisor/virtio/guestmem"
)

// Request is the kind of a message.
type Request uint32

// The requests of the vhost-user protocol that this back end answers.
const (
	GetFeatures         Request = 1
	SetFeatures         Request = 2
	SetOwner            Request = 3
	ResetOwner          Request = 4
	SetMemTable         Request = 5
	SetVringNum         Request = 8
	SetVringAddr        Request = 9
	SetVringBase        Request = 10
	GetVringBase        Request = 11
	SetVringKick        Request = 12
	SetVringCall        Request = 13
	SetVringErr         Request = 14
	GetProtocolFeatures Request = 15
	SetProtocolFeatures Request = 16
	GetQueueNum         Request = 17
	SetVringEnable      Request = 18
	GetConfig           Request = 24
	SetConfig           Request = 25
	GetMaxMemSlots      Request = 36
	AddMemReg           Request = 37
	RemMemReg           Request = 38
)

// Limits and fields of a message.
const (
	headerSize = 12
	// maxPayload is above the largest message that is known here: a memory table
	// of maxTableRegions, and a configuration of 256 bytes.
	maxPayload = 4096
	// maxFiles is how many descriptors one message carries at most.
	maxFiles        = 8
	maxTableRegions = 8
	regionSize      = 32

	version       = 1
	versionMask   = 3
	flagReply     = 1 << 2
	flagNeedReply = 1 << 3

	vringIndexMask = 0xff
	vringNoFile    = 1 << 8
)

// header is the fixed beginning of each message.
type header struct {
	request Request
	flags   uint32
	size    uint32
}

func decodeHeader(b [headerSize]byte) (header, error) {
	h := header{
		request: Request(binary.LittleEndian.Uint32(b[0:])),
		flags:   binary.LittleEndian.Uint32(b[4:]),
		size:    binary.LittleEndian.Uint32(b[8:]),
	}
	if h.flags&versionMask != version {
		return h, fmt.Errorf("message %d has version %d", h.request, h.flags&versionMask)
	}
	if h.flags&flagReply != 0 {
		return h, fmt.Errorf("message %d is a reply", h.request)
	}
	if h.size > maxPayload {
		return h, fmt.Errorf("message %d has %d bytes", h.request, h.size)
	}
	return h, nil
}

func encode(request Request, payload []byte) []byte {
	b := make([]byte, 0, headerSize+len(payload))
	b = binary.LittleEndian.AppendUint32(b, uint32(request))
	b = binary.LittleEndian.AppendUint32(b, version|flagReply)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(payload)))
	return append(b, payload...)
}

// vringState is the payload of the requests that give a queue one number.
type vringState struct {
	index, value uint32
}

// vringAddr is where the parts of a queue lie, in the VMM's address space.
type vringAddr struct {
	index             uint32
	desc, used, avail uint64
}

// config is a piece of the device's configuration space.
type config struct {
	offset, size, flags uint32
}

const configHeader = 12

func decodeU64(b []byte) (uint64, error) {
	if len(b) != 8 {
		return 0, fmt.Errorf("payload of %d bytes, want 8", len(b))
	}
	return binary.LittleEndian.Uint64(b), nil
}

func encodeU64(v uint64) []byte { return binary.LittleEndian.AppendUint64(nil, v) }

func decodeVringState(b []byte) (vringState, error) {
	if len(b) != 8 {
		return vringState{}, fmt.Errorf("queue state of %d bytes, want 8", len(b))
	}
	return vringState{binary.LittleEndian.Uint32(b), binary.LittleEndian.Uint32(b[4:])}, nil
}

func (s vringState) encode() []byte {
	return binary.LittleEndian.AppendUint32(binary.LittleEndian.AppendUint32(nil, s.index), s.value)
}

func decodeVringAddr(b []byte) (vringAddr, error) {
	if len(b) != 40 {
		return vringAddr{}, fmt.Errorf("queue addresses of %d bytes, want 40", len(b))
	}
	// Flags at 4 and the log's address at 32 concern dirty logging only.
	return vringAddr{
		index: binary.LittleEndian.Uint32(b),
		desc:  binary.LittleEndian.Uint64(b[8:]),
		used:  binary.LittleEndian.Uint64(b[16:]),
		avail: binary.LittleEndian.Uint64(b[24:]),
	}, nil
}

func decodeRegion(b []byte) guestmem.Region {
	return guestmem.Region{
		GuestAddress: binary.LittleEndian.Uint64(b),
		Size:         binary.LittleEndian.Uint64(b[8:]),
		UserAddress:  binary.LittleEndian.Uint64(b[16:]),
		Offset:       binary.LittleEndian.Uint64(b[24:]),
	}
}

// decodeMemTable decodes a table of which each region comes with a descriptor.
func decodeMemTable(b []byte, files int) ([]guestmem.Region, error) {
	if len(b) < 8 {
		return nil, fmt.Errorf("memory table of %d bytes", len(b))
	}
	n := int(binary.LittleEndian.Uint32(b))
	if n > maxTableRegions || n != files || len(b) < 8+n*regionSize {
		return nil, fmt.Errorf("memory table of %d regions in %d bytes with %d descriptors", n, len(b), files)
	}
	regions := make([]guestmem.Region, n)
	for i := range regions {
		regions[i] = decodeRegion(b[8+i*regionSize:])
	}
	return regions, nil
}

// decodeMemReg decodes the one region of AddMemReg and RemMemReg.
func decodeMemReg(b []byte) (guestmem.Region, error) {
	if len(b) != 8+regionSize {
		return guestmem.Region{}, fmt.Errorf("memory region of %d bytes, want %d", len(b), 8+regionSize)
	}
	return decodeRegion(b[8:]), nil
}

func decodeConfig(b []byte) (config, error) {
	if len(b) < configHeader {
		return config{}, fmt.Errorf("configuration request of %d bytes", len(b))
	}
	c := config{
		offset: binary.LittleEndian.Uint32(b),
		size:   binary.LittleEndian.Uint32(b[4:]),
		flags:  binary.LittleEndian.Uint32(b[8:]),
	}
	if uint64(c.size) != uint64(len(b)-configHeader) {
		return config{}, fmt.Errorf("configuration request for %d bytes has %d", c.size, len(b)-configHeader)
	}
	return c, nil
}

func (c config) encode(data []byte) []byte {
	b := binary.LittleEndian.AppendUint32(nil, c.offset)
	b = binary.LittleEndian.AppendUint32(b, uint32(len(data)))
	b = binary.LittleEndian.AppendUint32(b, c.flags)
	return append(b, data...)
}
