package logfile

import (
	"context"
	"log/slog"
	"slices"
	"sync"
)

// maxHeld bounds the entries that wait for their log.
const maxHeld = 1000

// Later is a handler for a log that is there later: until Follow it keeps entries, and
// passes them on then. Make it with NewLater.
type Later struct {
	shared *later
	wraps  []func(slog.Handler) slog.Handler
}

type later struct {
	mu     sync.Mutex // guards what follows
	target slog.Handler
	held   []held
}

type held struct {
	from   *Later
	record slog.Record
}

// NewLater makes a handler without a log.
func NewLater() *Later { return &Later{shared: &later{}} }

// Follow gives it its log, or another one.
func (l *Later) Follow(ctx context.Context, target slog.Handler) {
	l.shared.mu.Lock()
	defer l.shared.mu.Unlock()
	l.shared.target = target
	for _, h := range l.shared.held {
		if target.Enabled(ctx, h.record.Level) {
			_ = h.from.on(target).Handle(ctx, h.record) // as a Logger does
		}
	}
	l.shared.held = nil
}

// on is the target with the attributes and groups of this handler.
func (l *Later) on(target slog.Handler) slog.Handler {
	for _, wrap := range l.wraps {
		target = wrap(target)
	}
	return target
}

// Enabled implements slog.Handler.
func (l *Later) Enabled(ctx context.Context, level slog.Level) bool {
	l.shared.mu.Lock()
	defer l.shared.mu.Unlock()
	return l.shared.target == nil || l.shared.target.Enabled(ctx, level)
}

// Handle implements slog.Handler.
func (l *Later) Handle(ctx context.Context, record slog.Record) error {
	l.shared.mu.Lock()
	target := l.shared.target
	if target == nil {
		if len(l.shared.held) < maxHeld {
			l.shared.held = append(l.shared.held, held{l, record.Clone()})
		}
		l.shared.mu.Unlock()
		return nil
	}
	l.shared.mu.Unlock()
	return l.on(target).Handle(ctx, record)
}

// WithAttrs implements slog.Handler.
func (l *Later) WithAttrs(attrs []slog.Attr) slog.Handler {
	return l.with(func(h slog.Handler) slog.Handler { return h.WithAttrs(attrs) })
}

// WithGroup implements slog.Handler.
func (l *Later) WithGroup(name string) slog.Handler {
	return l.with(func(h slog.Handler) slog.Handler { return h.WithGroup(name) })
}

func (l *Later) with(wrap func(slog.Handler) slog.Handler) slog.Handler {
	return &Later{l.shared, append(slices.Clone(l.wraps), wrap)}
}
