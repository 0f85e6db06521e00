package protocol

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// Stream names one of a process's standard streams.
type Stream uint8

// The streams. A stream carries bytes one way only: stdin from the host,
// stdout and stderr to the host. Closing the connection is its end of file.
// With a terminal, stdin and stdout are the two directions of the pty.
const (
	Stdin  Stream = 0
	Stdout Stream = 1
	Stderr Stream = 2
)

// String returns the conventional name of the stream.
func (s Stream) String() string {
	switch s {
	case Stdin:
		return "stdin"
	case Stdout:
		return "stdout"
	case Stderr:
		return "stderr"
	default:
		return fmt.Sprintf("stream %d", uint8(s))
	}
}

// StreamHeader opens a connection on StreamPort. The agent answers a header
// that it accepts with the single byte StreamAccepted, and closes the
// connection on any other. An accepted connection waits in the agent until the
// CreateContainer or ExecProcess call that names its container and process
// claims it.
type StreamHeader struct {
	Container string
	Process   string // empty: the container's init
	Stream    Stream
}

// StreamAccepted is the agent's answer to a valid StreamHeader.
const StreamAccepted byte = 0x06

// maxNameLength bounds the names in a header, in bytes.
const maxNameLength = 1024

// streamMagic opens every header.
const streamMagic = "KST1"

// ErrBadHeader is wrapped by the errors of ReadStreamHeader that are not
// errors of the reader.
var ErrBadHeader = errors.New("malformed stream header")

// WriteStreamHeader writes h in one call to w.Write. Names longer than 1,024
// bytes are refused with ErrBadHeader.
func WriteStreamHeader(w io.Writer, h StreamHeader) error {
	if len(h.Container) > maxNameLength || len(h.Process) > maxNameLength {
		return fmt.Errorf("%w: a name is longer than %d bytes", ErrBadHeader, maxNameLength)
	}
	buf := append(make([]byte, 0, 9+len(h.Container)+len(h.Process)), streamMagic...)
	buf = append(buf, byte(h.Stream))
	buf = binary.BigEndian.AppendUint16(buf, uint16(len(h.Container)))
	buf = append(buf, h.Container...)
	buf = binary.BigEndian.AppendUint16(buf, uint16(len(h.Process)))
	buf = append(buf, h.Process...)
	if _, err := w.Write(buf); err != nil {
		return fmt.Errorf("write stream header: %w", err)
	}
	return nil
}

// ReadStreamHeader reads one header from r and nothing beyond it.
func ReadStreamHeader(r io.Reader) (StreamHeader, error) {
	var fixed [5]byte
	if _, err := io.ReadFull(r, fixed[:]); err != nil {
		return StreamHeader{}, fmt.Errorf("read stream header: %w", err)
	}
	if string(fixed[:4]) != streamMagic {
		return StreamHeader{}, fmt.Errorf("%w: magic %x", ErrBadHeader, fixed[:4])
	}
	h := StreamHeader{Stream: Stream(fixed[4])}
	if h.Stream > Stderr {
		return StreamHeader{}, fmt.Errorf("%w: %v", ErrBadHeader, h.Stream)
	}
	for _, name := range []*string{&h.Container, &h.Process} {
		text, err := readName(r)
		if err != nil {
			return StreamHeader{}, err
		}
		*name = text
	}
	return h, nil
}

func readName(r io.Reader) (string, error) {
	var length [2]byte
	if _, err := io.ReadFull(r, length[:]); err != nil {
		return "", fmt.Errorf("read stream header: %w", err)
	}
	n := binary.BigEndian.Uint16(length[:])
	if n > maxNameLength {
		return "", fmt.Errorf("%w: name of %d bytes", ErrBadHeader, n)
	}
	name := make([]byte, n)
	if _, err := io.ReadFull(r, name); err != nil {
		return "", fmt.Errorf("read stream header: %w", err)
	}
	return string(name), nil
}
