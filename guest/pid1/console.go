package pid1

import (
	"os"

	"golang.org/x/sys/unix"
)

// console is the kernel console. Its driver may be a module, so that it can be
// opened only later: what was printed before is kept until then.
type console struct {
	file    *os.File
	pending []string
}

func openConsole() *console {
	c := &console{}
	c.reopen("/dev/console")
	return c
}

// reopen opens the console if that has not succeeded before.
func (c *console) reopen(path string) {
	if c.file != nil {
		return
	}
	file, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return
	}
	c.file = file
	for _, line := range c.pending {
		c.println(line)
	}
	c.pending = nil
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
