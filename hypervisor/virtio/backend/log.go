package backend

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"sync"
	"time"

	"kata-runtime/hypervisor/tail"
)

// What a process may say: it might have been taken over.
const (
	maxLine = 1 << 10
	// burst lines come through at once, then one per refill.
	burst  = 100
	refill = time.Second
)

// levels are those that a process's lines begin with.
func levels() map[string]slog.Level {
	return map[string]slog.Level{"level=DEBUG ": slog.LevelDebug, "level=INFO ": slog.LevelInfo, "level=WARN ": slog.LevelWarn, "level=ERROR ": slog.LevelError}
}

// logTo returns a process's own log, one line per record without the time, which
// the log has that it goes to.
func logTo(w io.Writer, debug bool) *slog.Logger {
	options := &slog.HandlerOptions{
		Level: slog.LevelInfo,
		ReplaceAttr: func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		},
	}
	if debug {
		options.Level = slog.LevelDebug
	}
	return slog.New(slog.NewTextHandler(w, options))
}

// lines writes a process's standard error to a log, line by line.
type lines struct {
	log *slog.Logger
	now func() time.Time

	mu   sync.Mutex // guards the fields below
	line []byte     // that has not ended yet
	long bool       // the rest of it is dropped
	// left lines may come at once; dropped were too many since the last one.
	left    int
	dropped int
	last    time.Time
}

func newLines(log *slog.Logger, role string) *lines {
	return &lines{log: log.With("device", role), now: time.Now, left: burst, last: time.Now()}
}

// Write takes all of p, always.
func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for rest := p; len(rest) > 0; {
		piece, after, ended := bytes.Cut(rest, []byte("\n"))
		rest = after
		room := maxLine - len(l.line)
		l.line = append(l.line, piece[:min(room, len(piece))]...)
		l.long = l.long || len(piece) > room
		if ended {
			l.end()
		}
	}
	return len(p), nil
}

// end passes the line on.
func (l *lines) end() {
	text, long := string(l.line), l.long
	l.line, l.long = l.line[:0], false
	if text == "" {
		return
	}
	now := l.now()
	if earned := int(now.Sub(l.last) / refill); earned > 0 {
		l.left, l.last = min(burst, l.left+earned), now
	}
	if l.left == 0 {
		l.dropped++
		return
	}
	l.left--
	level := slog.LevelWarn // nobody's words but its last
	for prefix, its := range levels() {
		if rest, found := bytes.CutPrefix([]byte(text), []byte(prefix)); found {
			text, level = string(rest), its
		}
	}
	attributes := []slog.Attr{slog.String("line", tail.Sanitize(text))}
	if long {
		attributes = append(attributes, slog.Bool("cut", true))
	}
	if l.dropped > 0 {
		attributes = append(attributes, slog.Int("dropped", l.dropped))
		l.dropped = 0
	}
	l.log.LogAttrs(context.Background(), level, "device process says", attributes...)
}
