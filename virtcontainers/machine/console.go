package machine

import (
	"context"
	"slices"
	"strings"
)

const (
	// consoleSize is how much of the guest's console is kept, in bytes.
	consoleSize = 64 << 10
	// consoleLines is how much of the guest's console an error quotes.
	consoleLines = 12
	// tracedLines is how far back a kernel's panic is looked for.
	tracedLines = 200
)

// ConsoleTail returns the last lines of the guest's console, made safe to print:
// those that tell why it has ended, if it has.
func (m *Machine) ConsoleTail() string {
	return strings.Join(lastWords(m.console.Lines(tracedLines)), "\n")
}

// lastWords picks the lines that an error quotes: the last ones or, when the
// kernel panicked, those up to the line that says why, which a long trace
// follows.
func lastWords(lines []string) []string {
	panicked := slices.IndexFunc(lines, func(line string) bool { return strings.Contains(line, "Kernel panic") })
	if panicked >= 0 {
		lines = lines[:panicked+1]
	}
	return lines[max(0, len(lines)-consoleLines):]
}

// AwaitConsole returns once a line that contains text was written to the console,
// also before the call.
func (m *Machine) AwaitConsole(ctx context.Context, text string) error {
	return m.console.WaitLine(ctx, text)
}
