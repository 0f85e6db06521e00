package supervisor

import (
	"context"
	"errors"
	"io"
	"net"
	"os"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/channel"
	"kata-runtime/virtcontainers/pod"
)

// commandChannel is a command's channel: what it has sent so far, and the
// containers whose lease it is.
type commandChannel struct {
	conn    *channel.Conn
	token   string
	release func() // of its hold on the pod; nil without

	// What follows is guarded by the server's mu.
	files     []*os.File                   // mounts' trees, not yet claimed
	netns     *os.File                     // the pod's network namespace, not yet claimed; nil: none
	standIns  map[processKey]*channel.Conn // not yet claimed
	created   []string
	execs     []*pod.Exec
	committed bool
}

// processKey names a process; an empty process is the container's init.
type processKey struct{ container, process string }

func (s *server) accept(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				s.log.Error("accept a channel", "error", err)
				s.pod.End()
			}
			return
		}
		packets, ok := conn.(*net.UnixConn)
		if !ok { // the listener has no other
			conn.Close()
			continue
		}
		s.background.Go(func() { s.serveCommand(channel.FromConn(packets)) })
	}
}

// serveCommand serves one command's channel to its end, and then undoes what
// the command did not commit.
func (s *server) serveCommand(conn *channel.Conn) {
	c := &commandChannel{conn: conn, standIns: make(map[processKey]*channel.Conn)}
	defer conn.Close()
	if err := s.register(c); err != nil {
		s.log.Error("take a channel", "error", err)
		s.unregister(c) // a command that is gone may have been the only one
		return
	}
	for {
		var message commandMessage
		files, err := conn.Receive(&message)
		if err != nil {
			if !errors.Is(err, io.EOF) && !errors.Is(err, net.ErrClosed) {
				s.log.Warn("command's channel broke", "error", err)
			}
			break
		}
		s.take(c, message, files)
		// The answer lets the command order its calls behind its messages.
		if err := conn.Send(Ready{Token: c.token}); err != nil {
			s.log.Warn("answer a command", "error", err)
			break
		}
	}
	s.unregister(c)
}

func (s *server) register(c *commandChannel) error {
	token, err := newToken()
	if err != nil {
		return err
	}
	release, err := s.pod.Hold()
	if err != nil {
		return err
	}
	c.token, c.release = token, release
	s.mu.Lock()
	s.channels[token] = c
	s.mu.Unlock()
	return c.conn.Send(Ready{Token: token})
}

func (s *server) take(c *commandChannel, message commandMessage, files []*os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case message.Files:
		c.files = append(c.files, files...)
		return
	case message.Network && len(files) == 1 && c.netns == nil:
		c.netns = files[0]
		return
	case message.StandIn != "" && len(files) == 1:
		conn, err := channel.FromFile(files[0])
		if err != nil {
			s.log.Error("take a stand-in's channel", "error", err)
			return
		}
		c.standIns[processKey{message.StandIn, message.Process}] = conn
		return
	case message.Commit:
		c.committed = true
	}
	for _, file := range files {
		file.Close()
	}
}

// Errors about a command that does not keep to the order of things.
var (
	errNoChannel = errors.New("the call names a channel that does not exist")
	errNoStandIn = errors.New("the container's stand-in was not sent")
	errNoNetwork = errors.New("the pod's network namespace was not sent")
)

// claimStandIn takes the stand-in that a command sent for an exec.
func (s *server) claimStandIn(token string, key processKey) (*commandChannel, *channel.Conn, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.channels[token]
	if !ok {
		return nil, nil, errNoChannel
	}
	standIn, ok := c.standIns[key]
	if !ok {
		return nil, nil, errNoStandIn
	}
	delete(c.standIns, key)
	return c, standIn, nil
}

// unregister forgets the channel, closes what was not claimed and removes the
// containers that were not committed.
func (s *server) unregister(c *commandChannel) {
	s.mu.Lock()
	delete(s.channels, c.token)
	for _, file := range c.files {
		file.Close()
	}
	if c.netns != nil {
		c.netns.Close()
	}
	for _, standIn := range c.standIns {
		standIn.Close()
	}
	var abandoned []string
	var execs []*pod.Exec
	if !c.committed {
		abandoned, execs = c.created, c.execs
	}
	s.mu.Unlock()
	for _, process := range execs {
		if err := process.Kill(context.Background()); err != nil {
			s.log.Error("kill an abandoned process", "error", err)
		}
	}
	for _, id := range abandoned {
		if _, err := s.remove(context.Background(), id, true); err != nil && !errors.Is(err, virtcontainers.ErrNotFound) {
			s.log.Error("remove an abandoned container", "container", id, "error", err)
		}
	}
	if c.release != nil {
		c.release()
	}
}
