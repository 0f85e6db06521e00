package pid1

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"kata-runtime/guest/bootparam"
	"kata-runtime/guest/protocol"
)

// console is the kernel console. Its driver may be a module, so that it can be
// opened only later: what was printed before is kept until then.
type console struct {
	file    *os.File
	pending []string
	debug   bool // whether step prints
}

// openConsole opens the console if there is one yet. PID 1 has then written its
// marker to it, and otherwise could not.
func openConsole() *console {
	c := &console{}
	file, err := os.OpenFile("/dev/console", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		c.println(protocol.InitMarker)
		return c
	}
	c.file = file
	return c
}

// reopen opens the console if that has not succeeded before. A machine without
// a console is no error.
func (c *console) reopen(path string) error {
	if c.file != nil {
		return nil
	}
	file, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("open console: %w", err)
	}
	c.file = file
	for _, line := range c.pending {
		c.println(line)
	}
	c.pending = nil
	return nil
}

// println writes one line. A console that cannot be written to is no reason to
// stop: there is nowhere to report it.
func (c *console) println(line string) {
	if c.file == nil {
		c.pending = append(c.pending, line)
		return
	}
	_, _ = c.file.WriteString(line + "\n")
}

// step prints, when debugging, that a step is done and when.
func (c *console) step(done string) {
	if c.debug {
		c.println(fmt.Sprintf("kata-init: %v: %s", bootparam.Uptime(), done))
	}
}

// standardStreams makes the console the agent's output, and gives it no input.
func (c *console) standardStreams() error {
	null, err := os.OpenFile("/dev/null", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	output := null
	if c.file != nil {
		output = c.file
		defer c.file.Close()
	}
	for fd, file := range []*os.File{null, output, output} {
		if err := unix.Dup3(int(file.Fd()), fd, 0); err != nil {
			return err
		}
	}
	return nil
}
