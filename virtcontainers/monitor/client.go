package monitor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/channel"
	"kata-runtime/virtcontainers/metrics"
	"kata-runtime/virtcontainers/store"
)

// MeasureTimeout is how long the figures of a healthy pod's owner take at most:
// also with a guest that does not answer.
const MeasureTimeout = 8 * time.Second

// maxAnswers bounds how many messages of samples are taken: those of some thousand
// containers.
const maxAnswers = 256

// errEndless says that an owner has more to say than there can be.
var errEndless = errors.New("its owner does not come to an end")

// errEnded says that nobody listens any more.
var errEnded = errors.New("its process has ended")

// connect reaches the owner of a pod, whose entry is given. ctx ends the connection.
func connect(ctx context.Context, entry *store.Entry) (_ *channel.Conn, hangUp func(), err error) {
	conn, err := entry.Dial(ctx, socketName, network)
	if errors.Is(err, unix.ECONNREFUSED) {
		err = fmt.Errorf("%w, and the pod's machine with it; delete removes what is left (%w)", errEnded, err)
	}
	if err != nil {
		return nil, nil, fmt.Errorf("reach the owner of pod %s: %w", entry.ID(), err)
	}
	c := channel.FromConn(conn)
	stop := context.AfterFunc(ctx, func() { c.Close() })
	return c, func() {
		stop()
		c.Close()
	}, nil
}

// Measure asks the owner of a pod for its figures.
func Measure(ctx context.Context, entry *store.Entry) (_ []metrics.Sample, err error) {
	defer func() {
		if err != nil && ctx.Err() != nil {
			err = fmt.Errorf("measure pod %s: %w", entry.ID(), context.Cause(ctx))
		}
	}()
	conn, hangUp, err := connect(ctx, entry)
	if err != nil {
		return nil, err
	}
	defer hangUp()
	if err := conn.Send(request{Metrics: true}); err != nil {
		return nil, fmt.Errorf("measure pod %s: %w", entry.ID(), err)
	}
	var samples []metrics.Sample
	for range maxAnswers {
		a, err := receive(conn)
		if err != nil {
			return nil, fmt.Errorf("measure pod %s: %w", entry.ID(), err)
		}
		samples = append(samples, a.Samples...)
		if !a.More {
			return samples, nil
		}
	}
	return nil, fmt.Errorf("measure pod %s: %w", entry.ID(), errEndless)
}

// receive takes an answer that is no error, and no file.
func receive(conn *channel.Conn) (answer, error) {
	var a answer
	files, err := conn.Receive(&a)
	closeAll(files)
	switch {
	case err != nil:
		return answer{}, err
	case a.Forbidden:
		return answer{}, virtcontainers.ErrNoGuestExec
	case a.Error != "":
		return answer{}, errors.New(a.Error)
	}
	return a, nil
}

// ExecOptions are what Exec needs.
type ExecOptions struct {
	// Process is what the guest is to run; its terminal has the size of Sizes'
	// first.
	Process *specs.Process
	// Stdin, Stdout and Stderr are the command's; with a terminal the last is
	// unused.
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Sizes are those that the terminal gets; nil without.
	Sizes <-chan specs.Box
}

// Exec runs a process in the guest of a pod, and returns its exit code once all of
// its output was written. It wraps virtcontainers.ErrNoGuestExec where the pod's
// configuration does not permit it. The process ends with ctx. Stdin may be read
// once more after the return.
func Exec(ctx context.Context, entry *store.Entry, options ExecOptions) (code int, err error) {
	conn, hangUp, err := connect(ctx, entry)
	if err != nil {
		return 0, err
	}
	defer hangUp()
	encoded, err := json.Marshal(options.Process)
	if err != nil {
		return 0, fmt.Errorf("encode the process: %w", err)
	}
	p, err := newPlumbing(options)
	if err != nil {
		return 0, err
	}
	defer p.close()
	err = conn.Send(request{Exec: &execRequest{Process: encoded, Streams: p.names}}, p.theirs...)
	closeAll(p.theirs)
	p.theirs = nil
	if err != nil {
		return 0, fmt.Errorf("exec in the guest of pod %s: %w", entry.ID(), err)
	}
	if _, err = receive(conn); err != nil { // which says what was attempted
		return 0, err
	}
	p.begin(options)
	if options.Sizes != nil {
		go func() {
			for box := range options.Sizes {
				if conn.Send(control{Size: &size{Rows: uint16(box.Height), Columns: uint16(box.Width)}}) != nil {
					return
				}
			}
		}()
	}
	a, err := receive(conn)
	if err == nil && a.Exit == nil {
		err = errors.New("its owner speaks another language")
	}
	if err != nil {
		return 0, fmt.Errorf("exec in the guest of pod %s: wait for the end: %w", entry.ID(), err)
	}
	p.outputs.Wait() // the owner has closed its ends
	return *a.Exit, nil
}

// plumbing is the pipes between a command's streams and the owner.
type plumbing struct {
	names   []string
	theirs  []*os.File // the owner's ends
	ours    [3]*os.File
	outputs sync.WaitGroup
}

func newPlumbing(options ExecOptions) (_ *plumbing, err error) {
	p := &plumbing{}
	for which, wanted := range []bool{options.Stdin != nil, options.Stdout != nil, options.Stderr != nil && !options.Process.Terminal} {
		if !wanted {
			continue
		}
		r, w, err := os.Pipe()
		if err != nil {
			p.close()
			return nil, fmt.Errorf("make a pipe: %w", err)
		}
		ours, theirs := r, w
		if which == unix.Stdin {
			ours, theirs = w, r
		}
		p.names = append(p.names, streams()[which])
		p.ours[which], p.theirs = ours, append(p.theirs, theirs)
	}
	return p, nil
}

// begin copies between the pipes and the command's streams. Whoever reads the
// command's input cannot be told to stop, and ends with the command.
func (p *plumbing) begin(options ExecOptions) {
	if pipe := p.ours[unix.Stdin]; pipe != nil {
		go func() {
			_, _ = io.Copy(pipe, options.Stdin) // an error is an end
			pipe.Close()
		}()
	}
	for which, to := range map[int]io.Writer{unix.Stdout: options.Stdout, unix.Stderr: options.Stderr} {
		if pipe := p.ours[which]; pipe != nil {
			p.outputs.Go(func() {
				_, _ = io.Copy(to, pipe) // likewise
				pipe.Close()             // the process's next write fails, as on a broken pipe
			})
		}
	}
}

func (p *plumbing) close() {
	closeAll(p.theirs)
	for _, file := range p.ours {
		if file != nil {
			file.Close()
		}
	}
}
