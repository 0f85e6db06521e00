package vhostuser

import (
	"errors"
	"fmt"
	"io"
	"net"

	"golang.org/x/sys/unix"
)

// message is a request with its payload and descriptors.
type message struct {
	header
	payload []byte
	// fds are numbers rather than files, because os.File.Fd changes the blocking
	// mode, which the VMM shares.
	fds []int
}

// takeFD removes the only descriptor of m and hands it to the caller.
func (m *message) takeFD() (int, error) {
	if len(m.fds) != 1 {
		return noFD, fmt.Errorf("%d descriptors, want 1", len(m.fds))
	}
	fd := m.fds[0]
	m.fds = nil
	return fd, nil
}

// close closes the descriptors that nobody took.
func (m *message) close() {
	for _, fd := range m.fds {
		closeFD(fd)
	}
	m.fds = nil
}

// noFD stands for no descriptor.
const noFD = -1

func closeFD(fd int) {
	if fd != noFD {
		_ = unix.Close(fd)
	}
}

// receive reads one message. It returns io.EOF itself at the end of the
// session.
func receive(conn *net.UnixConn) (*message, error) {
	var raw [headerSize]byte
	fds, err := receiveHeader(conn, raw[:])
	m := &message{fds: fds}
	if err == nil {
		m.header, err = decodeHeader(raw)
	}
	if err == nil && m.size > 0 {
		m.payload = make([]byte, m.size)
		// Descriptors come with a message's first byte: plain reads from here on.
		if _, err = io.ReadFull(conn, m.payload); errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
	}
	if err != nil {
		m.close()
		return nil, err
	}
	return m, nil
}

func receiveHeader(conn *net.UnixConn, into []byte) ([]int, error) {
	oob := make([]byte, unix.CmsgSpace(maxFiles*4))
	n, oobn, flags, _, err := conn.ReadMsgUnix(into, oob)
	if err != nil {
		return nil, err
	}
	if n == 0 {
		return nil, io.EOF
	}
	fds, err := parseRights(oob[:oobn])
	if err != nil {
		return fds, err
	}
	if flags&unix.MSG_CTRUNC != 0 {
		return fds, errors.New("message carries too many descriptors")
	}
	if _, err := io.ReadFull(conn, into[n:]); err != nil {
		return fds, io.ErrUnexpectedEOF
	}
	return fds, nil
}

// parseRights takes over every descriptor in oob, also when it returns an error.
func parseRights(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	messages, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, fmt.Errorf("control message: %w", err)
	}
	var all []int
	var failed error
	for i := range messages {
		if len(messages[i].Data)%4 != 0 { // of no kernel: ParseUnixRights would panic
			failed = fmt.Errorf("descriptors: %d bytes", len(messages[i].Data))
			continue
		}
		fds, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			failed = fmt.Errorf("descriptors: %w", err)
			continue
		}
		all = append(all, fds...)
	}
	return all, failed
}
