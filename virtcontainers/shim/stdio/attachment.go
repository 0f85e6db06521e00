package stdio

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	"kata-runtime/virtcontainers"
)

// drainTimeout is how long, once the process has exited, the guest may leave a
// stream open and silent, and a reader take nothing.
const drainTimeout = 10 * time.Second

// errAbandoned says that the streams were given up before they began.
var errAbandoned = errors.New("the streams were given up")

// Config says what containerd asks for.
type Config struct {
	// ID of the container and its namespace at containerd, for a logging program.
	ID, Namespace string
	// Stdin, Stdout and Stderr are paths, URIs or empty.
	Stdin, Stdout, Stderr string
	// Terminal: the process has one. What it prints all comes by Stdout.
	Terminal bool
	Log      *slog.Logger
}

// Attachment is what a process's streams are attached to. Make it with Open.
type Attachment struct {
	log      *slog.Logger
	input    *input
	outputs  map[string]*output // by "stdout" and "stderr"
	loggers  []*logger
	patience time.Duration // drainTimeout

	exited, abandoned   chan struct{} // closed with the process's end, and by Abandon
	closing, abandoning sync.Once
	copying, passing    sync.WaitGroup // goroutines of input, and of outputs

	mu      sync.Mutex // guards what follows
	streams *virtcontainers.Streams
}

// Open opens what the config names. Close must follow, and Release. ctx bounds the wait for a
// logging program; for others there is none. An error of ErrUnsupported is the
// caller's fault.
func Open(ctx context.Context, config Config) (*Attachment, error) {
	return open(ctx, config, drainTimeout)
}

func open(ctx context.Context, config Config, patience time.Duration) (_ *Attachment, err error) {
	a := &Attachment{
		log: config.Log, outputs: make(map[string]*output), patience: patience,
		exited: make(chan struct{}), abandoned: make(chan struct{}),
	}
	defer func() {
		if err != nil {
			a.Release()
		}
	}()
	stdin, err := parse(config.Stdin)
	if err != nil {
		return nil, fmt.Errorf("stdin: %w", err)
	}
	switch stdin.scheme {
	case "":
	case schemePath:
		if a.input, err = openInput(stdin.path); err != nil {
			return nil, fmt.Errorf("stdin: %w", err)
		}
	default:
		return nil, fmt.Errorf("stdin: %q is %w", config.Stdin, ErrUnsupported)
	}
	stdout, err := parse(config.Stdout)
	if err != nil {
		return nil, fmt.Errorf("stdout: %w", err)
	}
	var stderr target
	if !config.Terminal {
		if stderr, err = parse(config.Stderr); err != nil {
			return nil, fmt.Errorf("stderr: %w", err)
		}
		if stdout.isBinary() && stderr.scheme == "" {
			stderr = stdout // as with runc's shim: the program gets both
		}
	}
	if err := a.openOutputs(ctx, config, stdout, stderr); err != nil {
		return nil, err
	}
	return a, nil
}

func (a *Attachment) openOutputs(ctx context.Context, config Config, stdout, stderr target) error {
	if stdout.isBinary() {
		l, err := startLogger(ctx, stdout, config.ID, config.Namespace)
		if err != nil {
			return fmt.Errorf("stdout: %w", err)
		}
		a.loggers = append(a.loggers, l)
		a.add("stdout", &sink{File: l.stdout})
		l.stdout = nil
		if stderr == stdout {
			a.add("stderr", &sink{File: l.stderr})
			l.stderr, stderr = nil, target{}
		}
		l.closeStreams()
		stdout = target{}
	}
	if stderr.isBinary() {
		l, err := startLogger(ctx, stderr, config.ID, config.Namespace)
		if err != nil {
			return fmt.Errorf("stderr: %w", err)
		}
		a.loggers = append(a.loggers, l)
		a.add("stderr", &sink{File: l.stderr})
		l.stderr, stderr = nil, target{}
		l.closeStreams()
	}
	for name, t := range map[string]target{"stdout": stdout, "stderr": stderr} {
		if t.scheme == "" {
			continue
		}
		s, err := openSink(t)
		if err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
		a.add(name, s)
	}
	return nil
}

func (a *Attachment) add(name string, to *sink) {
	a.outputs[name] = &output{name: name, to: to, log: a.log, patience: a.patience, unblocked: make(chan struct{})}
}

// IO says which streams the process is to have.
func (a *Attachment) IO() virtcontainers.IO {
	return virtcontainers.IO{Stdin: a.input != nil, Stdout: a.outputs["stdout"] != nil, Stderr: a.outputs["stderr"] != nil}
}

// Begin copies between the process's streams, which it takes over, and what was
// opened. It does not wait. Close and Release must follow, also after an error.
func (a *Attachment) Begin(_ context.Context, process *virtcontainers.Process, _ func(context.Context) error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.streams = &process.Streams
	select {
	case <-a.abandoned:
		a.streams.Close()
		return errAbandoned
	case <-a.exited:
		a.streams.Close()
		return errAbandoned
	default:
	}
	if conn := process.Streams.Stdin; conn != nil && a.input != nil {
		a.copying.Go(func() { a.input.copy(conn) })
	}
	for name, conn := range map[string]net.Conn{"stdout": process.Streams.Stdout, "stderr": process.Streams.Stderr} {
		if o := a.outputs[name]; o != nil && conn != nil {
			o.from = conn
			a.passing.Go(func() { a.pass(o) })
		}
	}
	return nil
}

// pass copies an output to its end, and waits for a reader of what is in a fifo then
// that nobody has open.
func (a *Attachment) pass(o *output) {
	waits := o.run()
	o.unblock()
	if !waits {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	a.passing.Go(func() {
		select {
		case <-a.abandoned:
			cancel()
		case <-ctx.Done():
		}
	})
	o.await(ctx)
}

// CloseStdin ends the process's standard input once everything has been passed on
// that was written before. Who has the fifo open then may go on writing, but not
// pause for more than a second. Idempotent.
func (a *Attachment) CloseStdin() {
	if a.input != nil {
		a.input.finish()
	}
}

// Close tells that the process has ended. It returns when its output was taken, waits
// in a fifo that nobody has open, or was given up, and logging programs have ended.
// Without Begin it only closes. Idempotent.
func (a *Attachment) Close(virtcontainers.Exit) {
	a.closing.Do(func() {
		a.mu.Lock()
		close(a.exited)
		streams := a.streams
		a.mu.Unlock()
		if a.input != nil {
			a.input.close()
		}
		if streams != nil && streams.Stdin != nil {
			streams.Stdin.Close() // ends a write that waits for the process
		}
		for _, o := range a.outputs {
			if o.from == nil {
				o.to.Close()
				continue
			}
			o.drain()
		}
		a.copying.Wait()
		for _, o := range a.outputs {
			if o.from != nil {
				<-o.unblocked
			}
		}
		for _, l := range a.loggers {
			if err := l.finish(); err != nil {
				a.log.Warn("logs of a container", "error", err)
			}
		}
	})
}

// Abandon gives up what was not taken, so that Close returns. Idempotent.
func (a *Attachment) Abandon() {
	a.abandoning.Do(func() {
		a.mu.Lock()
		defer a.mu.Unlock()
		close(a.abandoned)
		if a.input != nil {
			a.input.close()
		}
		for _, o := range a.outputs {
			o.abandon()
		}
		if a.streams != nil {
			a.streams.Close()
		}
		for _, l := range a.loggers {
			l.kill()
		}
	})
}

// Release ends what Close has left: output in a fifo for which no reader has come is
// lost. It is for who has called Close, or an Attachment that did. Idempotent.
func (a *Attachment) Release() {
	a.Abandon()
	a.Close(virtcontainers.Exit{})
	a.passing.Wait()
}
