package logfile

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
)

func TestLaterKeepsWhatComesBeforeItsLog(t *testing.T) {
	later := NewLater()
	log := slog.New(later).With("machine", "m")
	log.Info("early")
	log.Debug("too detailed")
	var text bytes.Buffer
	handler := slog.NewTextHandler(&text, &slog.HandlerOptions{Level: slog.LevelInfo})
	later.Follow(t.Context(), handler.WithAttrs([]slog.Attr{slog.String("id", "pod")}))
	log.WithGroup("g").Info("late", "k", "v")
	log.Debug("too detailed")
	lines := strings.Split(strings.TrimSpace(text.String()), "\n")
	if len(lines) != 2 || !strings.HasSuffix(lines[0], "msg=early id=pod machine=m") || !strings.HasSuffix(lines[1], "msg=late id=pod machine=m g.k=v") {
		t.Errorf("%q", lines)
	}
	for range maxHeld + 10 {
		slog.New(NewLater()).Info("nobody reads it")
	}
}
