package standin

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/channel"
	"kata-runtime/virtcontainers/supervisor"
)

// drainTimeout is how long, after the exit, a stand-in waits for a guest of which
// no byte comes though everything before was taken, and a detached one for a
// reader that takes nothing. It may be twice as long.
const drainTimeout = 10 * time.Second

// standIn is the process's state.
type standIn struct {
	settings settings
	channel  *channel.Conn

	output   []*output
	patience time.Duration // drainTimeout

	sizing sync.Mutex // held while the terminal's size is read and sent
	// called is set when the supervisor has said something: there is a process.
	called atomic.Bool
}

// output is one of a container's output streams.
type output struct {
	from *os.File
	done chan struct{} // closed when it has ended
	flow
}

// Run is a stand-in's whole life, in the process that Start forked. It returns
// the exit code.
func Run() int {
	signals := make(chan os.Signal, 64)
	signal.Notify(signals)
	signal.Reset(unix.SIGURG, unix.SIGPIPE) // the Go runtime's own
	signal.Ignore(unix.SIGCHLD)             // as init of a PID namespace: reap unseen
	s, err := load()
	if err != nil {
		fmt.Fprintln(os.Stderr, "kata-runtime stand-in:", err)
		return 1
	}
	exit := make(chan int, 1)
	go func() { exit <- s.serve() }()
	for {
		select {
		case received := <-signals:
			s.forward(received)
		case code := <-exit:
			return code
		}
	}
}

func load() (*standIn, error) {
	file := os.NewFile(settingsFD, "settings")
	info, err := file.Stat()
	if err != nil {
		return nil, fmt.Errorf("find the settings (a stand-in is started by the other commands): %w", err)
	}
	data := make([]byte, info.Size())
	if _, err := file.ReadAt(data, 0); err != nil {
		return nil, fmt.Errorf("read the settings: %w", err)
	}
	s := &standIn{patience: drainTimeout}
	if err := json.Unmarshal(data, &s.settings); err != nil {
		return nil, fmt.Errorf("decode the settings: %w", err)
	}
	if s.settings.Hostname != "" {
		if err := unix.Sethostname([]byte(s.settings.Hostname)); err != nil {
			return nil, fmt.Errorf("set the host name: %w", err)
		}
	}
	s.channel, err = channel.FromFile(os.NewFile(channelFD, "channel"))
	return s, errors.Join(err, file.Close())
}

// serve obeys the supervisor until the container's end and returns the exit
// code.
func (s *standIn) serve() int {
	for {
		var message supervisor.ToStandIn
		files, err := s.channel.Receive(&message)
		if err != nil {
			return killedExit
		}
		s.called.Store(true) // before the supervisor, and so the caller, hears of this process
		switch {
		case message.Enter:
			answer := supervisor.FromStandIn{Entered: true}
			if err := enter(s.settings); err != nil {
				answer = supervisor.FromStandIn{Error: err.Error()}
			}
			if err := s.channel.Send(answer); err != nil {
				return killedExit
			}
		case len(message.Streams) == len(files) && len(files) > 0:
			s.connect(message.Streams, files)
			// Whoever got the terminal may have set its size already, before
			// anybody listened.
			s.sendSize()
		case message.Exit != nil:
			s.drain()
			return *message.Exit
		}
	}
}

// connect begins to copy between the container's streams and the caller's.
func (s *standIn) connect(names []string, files []*os.File) {
	for i, name := range names {
		switch stream := files[i]; name {
		case "stdin":
			go func() {
				copyStream(int(stream.Fd()), unix.Stdin, &flow{})
				stream.Close() // end of file
			}()
		case "stdout", "stderr":
			to := unix.Stdout
			if name == "stderr" {
				to = unix.Stderr
			}
			o := &output{from: stream, done: make(chan struct{})}
			s.output = append(s.output, o)
			go func() {
				defer close(o.done)
				copyStream(to, int(stream.Fd()), &o.flow)
				stream.Close() // the container's next write fails, as on a broken pipe
			}()
		}
	}
}

// drain waits for the output's end: as long as it takes when somebody is
// attached and does not read, otherwise as long as bytes flow, and in any case as
// long as the supervisor is there. A guest that has told of the exit has nothing
// left to wait for: one that is silent then and does not end a stream is given
// up.
func (s *standIn) drain() {
	gone := make(chan struct{})
	go func() {
		var message supervisor.ToStandIn
		for {
			if _, err := s.channel.Receive(&message); err != nil {
				close(gone)
				return
			}
		}
	}()
	s.takeRest(gone)
}

func (s *standIn) takeRest(gone <-chan struct{}) {
	ticker := time.NewTicker(s.patience)
	defer ticker.Stop()
	for _, o := range s.output {
		before := o.passed.Load()
		for waiting := true; waiting; {
			select {
			case <-o.done:
				waiting = false
			case <-gone:
				return
			case <-ticker.C:
				silent := o.isSilent()
				now := o.passed.Load()
				if now == before && (silent || !s.settings.Attached) {
					waiting = false
				}
				before = now
			}
		}
	}
}

// isSilent tells whether everything that has come was passed on.
func (o *output) isSilent() bool {
	raw, err := o.from.SyscallConn()
	if err != nil {
		return true // it has ended
	}
	ready := false
	err = raw.Control(func(fd uintptr) {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, 0)
		ready = err != nil || n > 0
	})
	// In this order: what is not there to be read any more has made it busy.
	return err != nil || !ready && !o.busy.Load()
}

// forward reports a received signal to the supervisor.
func (s *standIn) forward(received os.Signal) {
	number, ok := received.(syscall.Signal)
	if !ok || number == unix.SIGCHLD || number == unix.SIGURG || number == unix.SIGPIPE {
		return
	}
	if number == unix.SIGWINCH && s.settings.Terminal {
		s.sendSize()
		return
	}
	if s.settings.Empty && !s.called.Load() {
		giveUp(number)
		return
	}
	// When the supervisor is gone, serve notices.
	_ = s.channel.Send(supervisor.FromStandIn{Signal: int(number)})
}

// giveUp ends the stand-in of an exec of which there is no process yet, nor may be
// for long: its container may be paused. Whoever signals it does not want it any
// more; the supervisor ends what it finds to be nobody's.
func giveUp(number syscall.Signal) {
	switch number {
	case unix.SIGWINCH, unix.SIGCONT, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU: // by default they end nothing
	default:
		_ = unix.Kill(unix.Getpid(), unix.SIGKILL) // it can: the container's init is another
	}
}

// sendSize reports the terminal's size, when there is a terminal that has one.
func (s *standIn) sendSize() {
	if !s.settings.Terminal {
		return
	}
	s.sizing.Lock()
	defer s.sizing.Unlock()
	size, err := unix.IoctlGetWinsize(unix.Stdin, unix.TIOCGWINSZ)
	if err != nil || size.Row == 0 && size.Col == 0 {
		return // not a terminal any more, or nobody has said
	}
	_ = s.channel.Send(supervisor.FromStandIn{Size: &supervisor.Size{Rows: size.Row, Columns: size.Col}})
}
