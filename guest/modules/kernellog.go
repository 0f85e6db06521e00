package modules

import (
	"fmt"
	"log/slog"
	"os"
)

// kernelLog writes to the guest kernel's log, where who looks for a fault of a module
// looks first: dmesg(1).
type kernelLog struct{ file *os.File }

// newKernelLog returns a logger there, or the other one.
func newKernelLog(other *slog.Logger) *slog.Logger {
	file, err := os.OpenFile("/dev/kmsg", os.O_WRONLY, 0)
	if err != nil {
		return other
	}
	return slog.New(slog.NewTextHandler(kernelLog{file}, &slog.HandlerOptions{
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && (a.Key == slog.TimeKey || a.Key == slog.LevelKey) {
				return slog.Attr{}
			}
			return a
		},
	}))
}

// Write writes one line.
func (k kernelLog) Write(line []byte) (int, error) {
	if _, err := fmt.Fprintf(k.file, "<5>kata-agent: %s", line); err != nil {
		return 0, err
	}
	return len(line), nil
}
