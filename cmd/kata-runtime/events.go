package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"
	"unicode/utf16"

	"github.com/urfave/cli/v2"

	"kata-runtime/virtcontainers"
	"kata-runtime/virtcontainers/store"
	"kata-runtime/virtcontainers/supervisor"
)

func eventsCommand() *cli.Command {
	return &cli.Command{
		Name:      "events",
		Usage:     "print a container's statistics and its lack of memory, as JSON lines, until its end",
		ArgsUsage: "ID",
		Flags: []cli.Flag{
			&cli.DurationFlag{Name: "interval", Value: 5 * time.Second, Usage: "`TIME` between two statistics"},
			&cli.BoolFlag{Name: "stats", Usage: "print the statistics once, and end"},
		},
		Action: func(c *cli.Context) error {
			id, err := containerID(c)
			if err != nil {
				return err
			}
			interval := c.Duration("interval")
			if interval <= 0 {
				return errors.New("duration interval must be greater than 0")
			}
			entry, state, err := openContainerID(c, id)
			if err != nil {
				return err
			}
			if state.Status == virtcontainers.StatusStopped {
				return errNoEvents(id)
			}
			client, err := connect(c.Context, c.String("root"), state)
			if err = inCallersWords(entry, err); errors.Is(err, virtcontainers.ErrNotRunning) {
				return errNoEvents(id)
			}
			if err != nil {
				return err
			}
			defer client.Close()
			events := &eventWriter{id: id, entry: entry, client: client, to: c.App.Writer, log: logger(c)}
			if c.Bool("stats") {
				return events.stats(c.Context)
			}
			return events.follow(c.Context, interval)
		},
	}
}

// errNoEvents is in runc's words.
func errNoEvents(id string) error { return fmt.Errorf("container with id %s is not running", id) }

// event is one line, as runc writes it.
type event struct {
	Type string          `json:"type"`
	ID   string          `json:"id"`
	Data json.RawMessage `json:"data,omitempty"`
}

// eventWriter prints what happens to one container.
type eventWriter struct {
	id     string
	entry  *store.Entry
	client *supervisor.Client
	log    *slog.Logger

	mu sync.Mutex // guards to: a line is whole
	to io.Writer
}

// follow prints until the container's end.
func (w *eventWriter) follow(ctx context.Context, interval time.Duration) error {
	ctx, cancel := context.WithCancelCause(ctx)
	var ticking sync.WaitGroup
	defer ticking.Wait()
	defer cancel(nil)
	err := w.client.Watch(ctx, w.id,
		func() {
			ticking.Go(func() {
				if err := w.tick(ctx, interval); err != nil {
					cancel(err)
				}
			})
		},
		func() error { return w.print(event{Type: "oom", ID: w.id}) })
	switch {
	case errors.Is(err, supervisor.ErrGone):
		return nil // the pod has ended, and with it the container
	case errors.Is(err, virtcontainers.ErrNotRunning):
		return errNoEvents(w.id)
	case err != nil && ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return err
}

// tick prints the statistics now and then, until ctx ends or nobody can be
// written to.
func (w *eventWriter) tick(ctx context.Context, interval time.Duration) error {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
		data, err := w.read(ctx)
		if err != nil {
			w.log.Warn("statistics are left out", "error", err) // as at the container's end
			continue
		}
		if err := w.print(event{Type: "stats", ID: w.id, Data: data}); err != nil {
			return err
		}
	}
}

func (w *eventWriter) stats(ctx context.Context) error {
	data, err := w.read(ctx)
	if err = inCallersWords(w.entry, err); errors.Is(err, virtcontainers.ErrNotRunning) {
		return errNoEvents(w.id)
	}
	if err != nil {
		return err
	}
	return w.print(event{Type: "stats", ID: w.id, Data: data})
}

// read returns the statistics, which are the guest's word: a JSON object, or an
// error.
func (w *eventWriter) read(ctx context.Context) (json.RawMessage, error) {
	data, err := w.client.Stats(ctx, w.id)
	if err != nil {
		return nil, err
	}
	var object map[string]json.RawMessage
	if err := json.Unmarshal(data, &object); err != nil {
		return nil, fmt.Errorf("decode the container's statistics: %w", err)
	}
	return data, nil
}

func (w *eventWriter) print(e event) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	line, err := json.Marshal(e)
	if err == nil {
		_, err = w.to.Write(append(escapeJSON(line), '\n'))
	}
	if err != nil {
		return fmt.Errorf("print an event: %w", err)
	}
	return nil
}

// escapeJSON writes what is not ASCII in a document as escapes, which mean the
// same: names in it are the guest's, and could steer a terminal.
func escapeJSON(document []byte) []byte {
	escaped := make([]byte, 0, len(document))
	for _, r := range string(document) {
		switch {
		case r < 0x7f:
			escaped = append(escaped, byte(r))
		case r > 0xffff:
			high, low := utf16.EncodeRune(r)
			escaped = fmt.Appendf(escaped, `\u%04x\u%04x`, high, low)
		default:
			escaped = fmt.Appendf(escaped, `\u%04x`, r)
		}
	}
	return escaped
}
