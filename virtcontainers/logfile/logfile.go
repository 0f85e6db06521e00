// Package logfile keeps a log whose size and rate have bounds, whoever causes its
// entries: a guest can make its host say the same again and again.
package logfile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"
)

const (
	// fileSize is at which size a file becomes the older one, whose name has
	// olderSuffix, so that twice as much is kept.
	fileSize    = 4 << 20
	olderSuffix = ".1"
	// maxEntry is how much of an entry is kept.
	maxEntry = 16 << 10

	// burst entries of a kind are kept at once, and one more for each interval.
	burst    = 100
	interval = time.Second
	// maxKinds bounds the kinds that are told apart.
	maxKinds = 1024
)

// File is a log's file. Make it with Open.
type File struct {
	path string
	max  int

	mu   sync.Mutex // guards what follows
	file *os.File
	size int
}

// Open appends to a file, which it makes for its user alone.
func Open(path string) (*File, error) {
	f := &File{path: path, max: fileSize}
	if err := f.open(); err != nil {
		return nil, err
	}
	return f, nil
}

func (f *File) open() error {
	file, err := os.OpenFile(f.path, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("open the log: %w", err)
	}
	info, err := file.Stat()
	if err != nil {
		return errors.Join(fmt.Errorf("open the log: %w", err), file.Close())
	}
	f.file, f.size = file, int(info.Size())
	return nil
}

// Write implements io.Writer for whole entries.
func (f *File) Write(entry []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	kept := entry
	if len(kept) > maxEntry {
		kept = slices.Concat(entry[:maxEntry], []byte(" ...\n"))
	}
	if f.size > 0 && f.size+len(kept) > f.max {
		if err := f.turn(); err != nil {
			return 0, err
		}
	}
	n, err := f.file.Write(kept)
	f.size += n
	if err != nil {
		return 0, fmt.Errorf("write to the log: %w", err)
	}
	return len(entry), nil
}

// turn begins a new file.
func (f *File) turn() error {
	if err := os.Rename(f.path, f.path+olderSuffix); err != nil {
		return fmt.Errorf("put the log aside: %w", err)
	}
	old := f.file
	if err := f.open(); err != nil {
		return err
	}
	return old.Close()
}

// Close ends the log.
func (f *File) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.file.Close()
}

// Limit returns a handler that passes on what it is given, but no more than a
// number of entries of the same text in a time; the next one that is passed on
// tells how many there were meanwhile.
func Limit(handler slog.Handler) slog.Handler {
	return &limited{handler, &rates{kinds: make(map[string]*rate)}}
}

type limited struct {
	slog.Handler

	rates *rates
}

// Handle implements slog.Handler.
func (l *limited) Handle(ctx context.Context, record slog.Record) error {
	ok, missing := l.rates.take(record.Message, record.Time)
	if !ok {
		return nil
	}
	if missing > 0 {
		record = record.Clone()
		record.AddAttrs(slog.Int("left_out", missing))
	}
	return l.Handler.Handle(ctx, record)
}

// WithAttrs implements slog.Handler.
func (l *limited) WithAttrs(attrs []slog.Attr) slog.Handler {
	return &limited{l.Handler.WithAttrs(attrs), l.rates}
}

// WithGroup implements slog.Handler.
func (l *limited) WithGroup(name string) slog.Handler {
	return &limited{l.Handler.WithGroup(name), l.rates}
}

// rates are those of all kinds of entries.
type rates struct {
	mu    sync.Mutex // guards what follows, and each rate
	kinds map[string]*rate
}

type rate struct {
	left    int       // that may pass at once
	at      time.Time // when left was right
	missing int       // since one has passed
}

func (r *rates) take(kind string, now time.Time) (ok bool, missing int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	k := r.kinds[kind]
	if k == nil {
		if len(r.kinds) >= maxKinds {
			clear(r.kinds)
		}
		k = &rate{left: burst, at: now}
		r.kinds[kind] = k
	}
	if more := int(now.Sub(k.at) / interval); more > 0 {
		k.left, k.at = min(burst, k.left+more), k.at.Add(time.Duration(more)*interval)
	}
	if k.left <= 0 {
		k.missing++
		return false, 0
	}
	k.left--
	missing, k.missing = k.missing, 0
	return true, missing
}
