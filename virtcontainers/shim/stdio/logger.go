package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// loggerFlush is how long a logging program may take to end after its streams
	// have, before it is sent SIGTERM, and loggerStop how long after that, before it is
	// killed.
	loggerFlush = 5 * time.Second
	loggerStop  = 10 * time.Second
)

// logger is a logging program, as containerd defines it: it gets the container's
// stdout and stderr as descriptors 3 and 4, and tells by descriptor 5 that it is
// ready.
type logger struct {
	process        *os.Process
	stdout, stderr *os.File      // to write to; nil when somebody else has them
	done           chan struct{} // closed when it has ended
	err            error         // how; after done
}

// startLogger starts the program and waits until it is ready, or ctx ends.
func startLogger(ctx context.Context, t target, id, namespace string) (_ *logger, err error) {
	l := &logger{done: make(chan struct{})}
	var theirs []*os.File
	defer func() {
		for _, file := range theirs {
			file.Close()
		}
		if err != nil {
			l.closeStreams()
		}
	}()
	ours := func() (*os.File, error) {
		r, w, err := os.Pipe()
		if err != nil {
			return nil, fmt.Errorf("make a pipe: %w", err)
		}
		theirs = append(theirs, r)
		return w, nil
	}
	if l.stdout, err = ours(); err != nil {
		return nil, err
	}
	if l.stderr, err = ours(); err != nil {
		return nil, err
	}
	ready, tell, err := os.Pipe()
	if err != nil {
		return nil, fmt.Errorf("make a pipe: %w", err)
	}
	defer ready.Close()
	theirs = append(theirs, tell)

	arguments, err := loggerArguments(t.query)
	if err != nil {
		return nil, err
	}
	command := exec.CommandContext(context.WithoutCancel(ctx), t.path, arguments...)
	command.Env = []string{"CONTAINER_ID=" + id, "CONTAINER_NAMESPACE=" + namespace}
	command.ExtraFiles = theirs
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("start the logging program: %w", err)
	}
	l.process = command.Process
	go func() {
		l.err = command.Wait()
		close(l.done)
	}()
	tell.Close() // a second time later, which does nothing
	if err := awaitReady(ctx, ready, t.scheme == schemeBinaryV2); err != nil {
		l.kill()
		<-l.done
		return nil, fmt.Errorf("logging program %s: %w", t.path, err)
	}
	return l, nil
}

func awaitReady(ctx context.Context, ready *os.File, strict bool) error {
	stop := context.AfterFunc(ctx, func() { _ = ready.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	n, err := ready.Read(make([]byte, 1))
	switch {
	case ctx.Err() != nil:
		return fmt.Errorf("it does not say that it is ready: %w", context.Cause(ctx))
	case err != nil && !errors.Is(err, io.EOF):
		return fmt.Errorf("wait until it is ready: %w", err)
	case n == 0 && strict:
		return errors.New("it ended, or closed descriptor 5, without writing a byte to it, by which it says that it is ready")
	}
	return nil
}

// loggerArguments returns each key with its first value, in the order of the query.
func loggerArguments(query string) ([]string, error) {
	values, err := url.ParseQuery(query)
	if err != nil {
		return nil, fmt.Errorf("arguments of the logging program: %w", err)
	}
	var arguments []string
	for pair := range strings.SplitSeq(query, "&") {
		key, _, _ := strings.Cut(pair, "=")
		if key, err = url.QueryUnescape(key); err != nil {
			return nil, fmt.Errorf("arguments of the logging program: %w", err)
		}
		if value, ok := values[key]; ok && pair != "" {
			arguments = append(arguments, key, value[0])
			delete(values, key)
		}
	}
	return arguments, nil
}

func (l *logger) closeStreams() {
	for _, file := range []*os.File{l.stdout, l.stderr} {
		if file != nil {
			file.Close()
		}
	}
}

// finish waits for the program's end, once its streams were closed by those who
// have them. It is helped to its end when it takes too long.
func (l *logger) finish() error {
	l.closeStreams()
	for _, step := range []struct {
		patience time.Duration
		then     syscall.Signal
	}{{loggerFlush, unix.SIGTERM}, {loggerStop, unix.SIGKILL}} {
		timer := time.NewTimer(step.patience)
		select {
		case <-l.done:
			timer.Stop()
			return l.ended(step.then == unix.SIGKILL)
		case <-timer.C:
		}
		_ = l.process.Signal(step.then) // fails when it has just ended
	}
	<-l.done
	return fmt.Errorf("logging program: killed, since it does not end %v after its streams", loggerFlush+loggerStop)
}

// ended explains its end. One that was asked to by a signal may end by that.
func (l *logger) ended(asked bool) error {
	var exit *exec.ExitError
	if errors.As(l.err, &exit) && asked {
		if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() && status.Signal() == unix.SIGTERM {
			return nil
		}
	}
	if l.err != nil {
		return fmt.Errorf("logging program: %w", l.err)
	}
	return nil
}

func (l *logger) kill() { _ = l.process.Kill() } // fails when it has ended
