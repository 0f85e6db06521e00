package relay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Header opens a connection on the host's port: it names a socket of the host
// that a container is shown. The host answers with Accepted when it has
// connected to that socket, and otherwise closes the connection.
type Header struct {
	// Token is the pod's secret, TokenLength bytes.
	Token string
	// Container and Bind name the bind mount, as protocol.SocketBind does.
	Container, Bind string
	// Path is the socket's in the bind mount; empty when that is the socket.
	Path string
	// UID and GID are the client's, in the guest's first user namespace.
	UID, GID uint32
}

// Accepted is the host's answer to a Header.
const Accepted byte = 0x06

const (
	// TokenLength is the length of every token, in bytes.
	TokenLength = 32
	// MaxName bounds each name and path in a header, in bytes.
	MaxName = 1024

	headerMagic = "KSK1"
)

// ErrMalformed is wrapped by errors about data that no peer of this version
// sends.
var ErrMalformed = errors.New("malformed data of a relayed socket")

// WriteHeader writes h in one call to w.Write.
func WriteHeader(w io.Writer, h Header) error {
	if len(h.Token) != TokenLength {
		return fmt.Errorf("%w: token of %d bytes", ErrMalformed, len(h.Token))
	}
	buf := append([]byte(headerMagic), h.Token...)
	buf = binary.BigEndian.AppendUint32(buf, h.UID)
	buf = binary.BigEndian.AppendUint32(buf, h.GID)
	for _, name := range []string{h.Container, h.Bind, h.Path} {
		if len(name) > MaxName {
			return fmt.Errorf("%w: name of %d bytes", ErrMalformed, len(name))
		}
		buf = binary.BigEndian.AppendUint16(buf, uint16(len(name)))
		buf = append(buf, name...)
	}
	if _, err := w.Write(buf); err != nil {
		return fmt.Errorf("write header of a relayed socket: %w", err)
	}
	return nil
}

// ReadHeader reads one header from r and nothing beyond it.
func ReadHeader(r io.Reader) (Header, error) {
	var fixed [len(headerMagic) + TokenLength + 8]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return Header{}, fmt.Errorf("read header of a relayed socket: %w", err)
	}
	if magic := string(fixed[:len(headerMagic)]); magic != headerMagic {
		return Header{}, fmt.Errorf("%w: magic %x", ErrMalformed, magic)
	}
	rest := fixed[len(headerMagic)+TokenLength:]
	h := Header{
		Token: string(fixed[len(headerMagic) : len(headerMagic)+TokenLength]),
		UID:   binary.BigEndian.Uint32(rest), GID: binary.BigEndian.Uint32(rest[4:]),
	}
	for _, name := range []*string{&h.Container, &h.Bind, &h.Path} {
		text, err := readName(r)
		if err != nil {
			return Header{}, err
		}
		*name = text
	}
	return h, nil
}

func readName(r io.Reader) (string, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return "", fmt.Errorf("read header of a relayed socket: %w", err)
	}
	n := binary.BigEndian.Uint16(length[:])
	if n > MaxName {
		return "", fmt.Errorf("%w: name of %d bytes", ErrMalformed, n)
	}
	name := make([]byte, n)
	if _, err := io.ReadFull(r, name); err != nil {
		return "", fmt.Errorf("read header of a relayed socket: %w", err)
	}
	return string(name), nil
}
