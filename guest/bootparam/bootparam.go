// Package bootparam reads what the host tells the guest on the kernel command
// line: the one-time token of the ready message and debugging switches.
// Nothing about the pod is passed this way, so that a guest can be booted
// before its pod is known.
package bootparam

import (
	"fmt"
	"iter"
	"os"
	"strconv"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

const (
	// ReadyPortParameter overrides the host's port for the ready message, as a
	// decimal number. The default is protocol.ReadyPort.
	ReadyPortParameter = "kata.ready_port"
	// DebugParameter set to 1 makes PID 1 and the agent log at debug level.
	DebugParameter = "kata.debug"
)

// Params is what the agent needs to know before the first call from the host.
type Params struct {
	Token     string // hexadecimal text; empty: the host wants no ready message
	ReadyPort uint32
	Debug     bool
	// MappedRoot is the device mapper's table of a disk image to be the root file system,
	// whose kind is RootType; empty: there is none.
	MappedRoot, RootType string
	// Template: the machine is to be saved, and tells by its console when it can be.
	Template bool
}

// Parse reads a kernel command line. Parameters of others are ignored, and the
// last of several equal names wins, as in the kernel.
func Parse(cmdline string) (Params, error) {
	p := Params{ReadyPort: protocol.ReadyPort}
	for field := range fields(cmdline) {
		name, value, _ := strings.Cut(field, "=")
		switch name {
		case protocol.TokenParameter:
			p.Token = value
		case ReadyPortParameter:
			port, err := strconv.ParseUint(value, 10, 32)
			if err != nil {
				return Params{}, fmt.Errorf("kernel parameter %s: %w", name, err)
			}
			p.ReadyPort = uint32(port)
		case "dm-mod.create":
			p.MappedRoot = value
		case "rootfstype":
			p.RootType = value
		case protocol.TemplateParameter:
			p.Template = value == "1"
		case DebugParameter:
			p.Debug = value == "1"
		}
	}
	return p, nil
}

// fields are the parameters of a command line, without the quotes in which one may have
// spaces, as the kernel splits them.
func fields(cmdline string) iter.Seq[string] {
	return func(yield func(string) bool) {
		var field strings.Builder
		quoted := false
		for _, char := range cmdline + " " {
			switch {
			case char == '"':
				quoted = !quoted
			case unicode.IsSpace(char) && !quoted:
				if field.Len() > 0 && !yield(field.String()) {
					return
				}
				field.Reset()
			default:
				field.WriteRune(char)
			}
		}
	}
}

// Read parses the command line of the running kernel; /proc must be mounted.
func Read() (Params, error) {
	return ReadFrom("/proc/cmdline")
}

// ReadFrom parses the command line in a file.
func ReadFrom(path string) (Params, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return Params{}, fmt.Errorf("read kernel command line: %w", err)
	}
	return Parse(string(data))
}

// Uptime is the time since the kernel started to keep time, rounded to 0.1 ms;
// 0 when the clock cannot be read.
func Uptime() time.Duration {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0
	}
	return time.Duration(now.Nano()).Round(100 * time.Microsecond)
}
