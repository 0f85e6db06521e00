package stream

import (
	"io"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Input copies from the host to a process's standard input. Make it with
// NewInput.
type Input struct {
	host net.Conn
	sink *os.File // nil when it is not the Input's to close
	done chan struct{}
}

// NewInput starts to copy from host to sink and owns host. With closeSink it
// also owns sink, and closes it when the host ends the stream or the process
// closed its end; a terminal is not closed that way, since output still comes
// from it.
func NewInput(host net.Conn, sink *os.File, closeSink bool) *Input {
	in := &Input{host: host, done: make(chan struct{})}
	if closeSink {
		in.sink = sink
	}
	go func() {
		defer close(in.done)
		feed(sink, host)
		in.close()
	}()
	return in
}

// feed copies until either side ends the stream, which is its regular end.
func feed(sink *os.File, host io.Reader) {
	buffer := make([]byte, firstBuffer)
	for {
		n, err := host.Read(buffer)
		if n > 0 {
			if _, err := sink.Write(buffer[:n]); err != nil {
				return
			}
		}
		if err != nil {
			return
		}
		if n == len(buffer) && n < largeBuffer {
			enlarge(sink)
			widen(host)
			if spliceInput(sink, host) {
				return
			}
			buffer = make([]byte, largeBuffer)
		}
	}
}

// enlarge gives a pipe pipeSize, if it may have that. A smaller one works too,
// and a terminal has no size.
func enlarge(sink *os.File) {
	if raw, err := sink.SyscallConn(); err == nil { // Fd would make it block
		_ = raw.Control(func(fd uintptr) { _, _ = unix.FcntlInt(fd, unix.F_SETPIPE_SZ, pipeSize) })
	}
}

// Stop ends the stream when the process has exited. The owner of a sink that
// is not the Input's closes it first, so that a waiting write ends.
func (in *Input) Stop() {
	in.close()
	<-in.done
}

func (in *Input) close() {
	in.host.Close()
	if in.sink != nil {
		in.sink.Close()
	}
}
