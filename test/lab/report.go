package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"kata-runtime/test/lab/internal/wire"
)

// report turns the machine's messages into what go test -json prints. Each set
// is a package of its own there, and the machine's own life is another one.
type report struct {
	out     io.Writer
	sets    []set
	began   time.Time
	current *converter
	next    int // the set that has not begun
}

// machinePackage is the name under which the machine's life is reported.
const machinePackage = "lab/machine"

func newReport(out io.Writer, chosen []set) *report {
	r := &report{out: out, sets: chosen, began: time.Now()}
	r.event(event{Action: "start"})
	return r
}

// event is one line of go test -json; see go doc test2json.
type event struct {
	Time    time.Time
	Action  string
	Package string
	Elapsed *float64 `json:",omitempty"`
	Output  string   `json:",omitempty"`
}

func (r *report) event(e event) {
	e.Time, e.Package = time.Now(), machinePackage
	// Standard output that is gone ends the next write by test2json too.
	_ = json.NewEncoder(r.out).Encode(e)
}

func (r *report) say(text string) {
	for line := range strings.Lines(text) {
		r.event(event{Action: "output", Output: strings.TrimSuffix(line, "\n") + "\n"})
	}
}

// receive takes the machine's messages in order.
func (r *report) receive(ctx context.Context, message wire.Message) error {
	switch {
	case message.Alive:
		return nil
	case message.Failure != "":
		return errors.New(message.Failure)
	case message.Ready != "":
		r.say(fmt.Sprintf("booted after %.0f s: %s\n", time.Since(r.began).Seconds(), message.Ready))
		return nil
	case message.Run < 0 || message.Run >= len(r.sets):
		return fmt.Errorf("a message of run %d of %d", message.Run, len(r.sets))
	}
	if r.current == nil {
		converter, err := convert(ctx, r.out, "lab/"+r.sets[message.Run].name)
		if err != nil {
			return err
		}
		r.current, r.next = converter, message.Run+1
	}
	if err := r.current.write(message.Output); err != nil {
		return err
	}
	if message.Exit == nil {
		return nil
	}
	switch {
	case *message.Exit != 0:
		return r.fail(fmt.Sprintf("exit status %d", *message.Exit))
	case !r.current.passed:
		return r.fail("exit status 0 without PASS")
	}
	err := r.current.close()
	r.current = nil
	return err
}

// marker stands before what the testing package itself says, which test2json
// looks for.
const marker = "\x16"

// fail ends the report of the current test program.
func (r *report) fail(why string) error {
	err := r.current.write([]byte("\n" + why + "\n" + marker + "FAIL\n"))
	err = errors.Join(err, r.current.close())
	r.current = nil
	return err
}

// errUnfinished: the machine did not fail and yet did not all that was planned.
var errUnfinished = errors.New("the machine ended under a test")

// finish ends the report with the machine's own end, and tells whether that was
// as it should be.
func (r *report) finish(err error) bool {
	if r.current != nil { // the machine went away under a test
		err = errors.Join(err, errUnfinished, r.fail("the machine has ended"))
	}
	if err == nil && r.next < len(r.sets) {
		err = fmt.Errorf("the machine ended before %s", r.sets[r.next].name)
	}
	elapsed := time.Since(r.began).Seconds()
	if err != nil {
		r.say(err.Error())
		r.event(event{Action: "fail", Elapsed: &elapsed})
		return false
	}
	r.event(event{Action: "pass", Elapsed: &elapsed})
	return true
}

// converter is a test2json of the go command, for one test program's output.
type converter struct {
	in      io.WriteCloser
	command *exec.Cmd
	last    []byte // of the output
	passed  bool   // as the testing package said
}

func convert(ctx context.Context, out io.Writer, name string) (*converter, error) {
	// It is to end by the end of its input, also when ctx has ended.
	command := exec.CommandContext(context.WithoutCancel(ctx), "go", "tool", "test2json", "-t", "-p", name)
	command.Stdout, command.Stderr = out, os.Stderr
	in, err := command.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("convert a test's output: %w", err)
	}
	if err := command.Start(); err != nil {
		return nil, fmt.Errorf("convert a test's output: %w", err)
	}
	return &converter{in: in, command: command}, nil
}

func (c *converter) write(output []byte) error {
	// The line may come in parts.
	const pass = marker + "PASS\n"
	c.last = append(c.last, output...)
	c.passed = c.passed || bytes.Contains(c.last, []byte(pass))
	c.last = c.last[max(0, len(c.last)-len(pass)):]
	if _, err := c.in.Write(output); err != nil {
		return fmt.Errorf("convert a test's output: %w", err)
	}
	return nil
}

func (c *converter) close() error {
	if err := errors.Join(c.in.Close(), c.command.Wait()); err != nil {
		return fmt.Errorf("convert a test's output: %w", err)
	}
	return nil
}
