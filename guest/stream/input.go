package stream

import (
	"io"
	"net"
	"os"
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
		// Either side ending the stream is its regular end. The wrappers keep
		// io from trying to splice, which these descriptors do not support.
		_, _ = io.CopyBuffer(struct{ io.Writer }{sink}, struct{ io.Reader }{host}, make([]byte, 32<<10))
		in.close()
	}()
	return in
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
