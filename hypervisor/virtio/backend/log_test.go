package backend

import (
	"bytes"
	"fmt"
	"log/slog"
	"strings"
	"testing"
	"time"
)

func TestLinesReachTheLog(t *testing.T) {
	var out bytes.Buffer
	l := newLines(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelDebug})), "net")
	inner := logTo(l, false)
	inner.Debug("hidden")
	inner.Error("queue broken", "queue", 1)
	fmt.Fprint(l, "pan")
	fmt.Fprint(l, "ic: \x1b[31mred\n\nhalf")
	got := out.String()
	for _, want := range []string{`level=ERROR msg="device process says" device=net line="msg=\"queue broken\" queue=1"`, "level=WARN", "panic: "} {
		if !strings.Contains(got, want) {
			t.Errorf("lacks %q:\n%s", want, got)
		}
	}
	if strings.Count(got, "\n") != 2 || strings.Contains(got, "\x1b") || strings.Contains(got, `\x1b`) || strings.Contains(got, "half") {
		t.Errorf("got:\n%s", got)
	}
}

// A process that floods its caller fills no log.
func TestLinesAreBounded(t *testing.T) {
	var out bytes.Buffer
	l := newLines(slog.New(slog.NewTextHandler(&out, nil)), "net")
	now := time.Now()
	l.now = func() time.Time { return now }
	long := strings.Repeat("x", 10*maxLine)
	for range 10 * burst {
		fmt.Fprintln(l, long)
	}
	if n := strings.Count(out.String(), "\n"); n != burst || out.Len() > burst*2*maxLine || !strings.Contains(out.String(), "cut=true") {
		t.Errorf("%d lines of %d bytes", n, out.Len())
	}
	now = now.Add(3 * refill)
	out.Reset()
	for range burst {
		fmt.Fprintln(l, "y")
	}
	if n := strings.Count(out.String(), "\n"); n != 3 || strings.Count(out.String(), fmt.Sprintf("dropped=%d", 9*burst)) != 1 {
		t.Errorf("after a while: %s", out.String())
	}
	fmt.Fprint(l, long, long)
	if cap(l.line) > 4*maxLine {
		t.Errorf("keeps %d bytes", cap(l.line))
	}
}
