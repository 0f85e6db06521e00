// Package tail keeps the last words of a guest's console or of a program's
// standard error, for error messages and for whoever waits for a line. A guest
// is hostile: what it wrote is made harmless before anyone's terminal or log
// sees it.
package tail

import (
	"bytes"
	"context"
	"strings"
	"sync"
)

// DefaultSize is how many bytes a zero Buffer keeps.
const DefaultSize = 16 << 10

// Buffer is an io.Writer that keeps the last bytes written to it. Its methods
// are safe for concurrent use. The zero value keeps DefaultSize bytes.
type Buffer struct {
	mu sync.Mutex
	// size, text and waiters are guarded by mu. text is at most size bytes
	// between calls.
	size    int
	text    []byte
	waiters map[*waiter]struct{}
}

type waiter struct {
	substring []byte
	found     chan struct{}
}

// New returns a Buffer that keeps the last size bytes; a size below 1 means
// DefaultSize.
func New(size int) *Buffer {
	return &Buffer{size: size}
}

// Write takes all of p, always.
func (b *Buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.size < 1 {
		b.size = DefaultSize
	}
	before := len(b.text)
	b.text = append(b.text, p...)
	for w := range b.waiters {
		// Only what a new byte may have completed needs a look.
		start := max(0, before-len(w.substring)+1)
		if bytes.Contains(b.text[start:], w.substring) {
			close(w.found)
			delete(b.waiters, w)
		}
	}
	if extra := len(b.text) - b.size; extra > 0 {
		b.text = append(b.text[:0], b.text[extra:]...)
	}
	if cap(b.text) > 4*b.size {
		b.text = append(make([]byte, 0, 2*b.size), b.text...)
	}
	return len(p), nil
}

// WaitLine blocks until the text holds substring, which must not contain a line
// break, and returns nil, or ctx's error. Text that Buffer still keeps counts,
// so a wait that begins late finds a line that came early, unless more than the
// buffer's size was written since.
func (b *Buffer) WaitLine(ctx context.Context, substring string) error {
	w := &waiter{substring: []byte(substring), found: make(chan struct{})}
	b.mu.Lock()
	if bytes.Contains(b.text, w.substring) {
		b.mu.Unlock()
		return nil
	}
	if b.waiters == nil {
		b.waiters = make(map[*waiter]struct{})
	}
	b.waiters[w] = struct{}{}
	b.mu.Unlock()
	select {
	case <-w.found:
		return nil
	case <-ctx.Done():
		b.mu.Lock()
		delete(b.waiters, w)
		b.mu.Unlock()
		return ctx.Err()
	}
}

// String returns what is kept, as Sanitize leaves it.
func (b *Buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return Sanitize(string(b.text))
}

// Lines returns the last n lines, oldest first, as Sanitize leaves them and
// without those that are empty or blank.
func (b *Buffer) Lines(n int) []string {
	var lines []string
	for line := range strings.Lines(b.String()) {
		if line = strings.TrimRight(line, " \t\n"); line != "" {
			lines = append(lines, line)
		}
	}
	return lines[max(0, len(lines)-max(0, n)):]
}
