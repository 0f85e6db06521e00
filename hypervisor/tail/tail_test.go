package tail_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode"

	"kata-runtime/hypervisor/tail"
)

func TestKeepsTheLastBytes(t *testing.T) {
	b := tail.New(8)
	for _, text := range []string{"abc", "defgh", "ij", strings.Repeat("x", 100) + "12345678"} {
		n, err := b.Write([]byte(text))
		if n != len(text) || err != nil {
			t.Fatalf("Write(%q) = %d, %v", text, n, err)
		}
	}
	if got := b.String(); got != "12345678" {
		t.Errorf("kept %q", got)
	}
	var zero tail.Buffer
	fmt.Fprint(&zero, strings.Repeat("y", 3*tail.DefaultSize))
	if got := len(zero.String()); got != tail.DefaultSize {
		t.Errorf("a zero Buffer keeps %d bytes", got)
	}
}

func TestLines(t *testing.T) {
	var b tail.Buffer
	fmt.Fprint(&b, "one\r\n\n  \ntwo\r\nthree")
	for n, want := range map[int][]string{
		-1: {}, 0: {}, 1: {"three"}, 2: {"two", "three"}, 9: {"one", "two", "three"},
	} {
		if got := b.Lines(n); !slices.Equal(got, want) {
			t.Errorf("Lines(%d) = %q", n, got)
		}
	}
}

func TestWaitLine(t *testing.T) {
	var b tail.Buffer
	var group sync.WaitGroup
	for range 3 {
		group.Go(func() {
			if err := b.WaitLine(t.Context(), "kata-init: started"); err != nil {
				t.Error(err)
			}
		})
	}
	// A marker that arrives byte by byte is found too.
	for _, c := range []byte("[    0.5] kata-init: started\n") {
		_, _ = b.Write([]byte{c})
	}
	group.Wait()
	if err := b.WaitLine(t.Context(), "init: started"); err != nil {
		t.Errorf("a line of the past: %v", err)
	}
}

func TestWaitLineInOneBigWrite(t *testing.T) {
	b := tail.New(16)
	done := make(chan error, 1)
	started := make(chan struct{})
	go func() {
		close(started)
		done <- b.WaitLine(t.Context(), "marker")
	}()
	<-started
	// Whether the waiter is registered or not yet, "marker" reaches it.
	fmt.Fprint(b, "marker"+strings.Repeat("z", 10))
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestWaitLineEndsWithContext(t *testing.T) {
	var b tail.Buffer
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := b.WaitLine(ctx, "never"); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

func TestSanitize(t *testing.T) {
	for in, want := range map[string]string{
		"plain\ttext\r\n":             "plain\ttext\n",
		"\x1b[31mred\x1b[0m":          "red",
		"\x1b[2J\x1b[1;1Hcleared":     "cleared",
		"\x1b]0;title\x07":            `\x1b]0;title\x07`,
		"\x1b[31":                     `\x1b[31`,
		"\x1b[3\x1bx":                 `\x1b[3\x1bx`,
		"bell\a nul\x00 del\x7f":      `bell\x07 nul\x00 del\x7f`,
		"bad \xff utf":                `bad \xff utf`,
		"h\u00e9 \u4e16":              "h\u00e9 \u4e16",
		"override \u202egpj.exe":      `override \u{202e}gpj.exe`,
		"c1 control \u009b31m here":   `c1 control \u{9b}31m here`,
		"isolate \u2066x\u2069":       `isolate \u{2066}x\u{2069}`,
		"zero\u200bwidth\u200d\ufeff": `zero\u{200b}width\u{200d}\u{feff}`,
		"soft\u00ad tag\U000e0041":    `soft\u{ad} tag\u{e0041}`,
		"filler\u3164 \u115f\ufe0f":   `filler\u{3164} \u{115f}\u{fe0f}`,
	} {
		if got := tail.Sanitize(in); got != want {
			t.Errorf("Sanitize(%q) = %q, want %q", in, got, want)
		}
	}
}

func TestLine(t *testing.T) {
	if got := tail.Line("\x1b[1mone\ttwo\r\nthree\u202e"); got != `one two three\u{202e}` {
		t.Errorf("got %q", got)
	}
}

func FuzzSanitize(f *testing.F) {
	f.Add("\x1b[31mred\x1b[0m\r\n")
	f.Add("\xff\xfe\x00\u202e")
	f.Fuzz(func(t *testing.T, text string) {
		for _, r := range tail.Sanitize(text) {
			if r != '\n' && r != '\t' && !unicode.IsPrint(r) {
				t.Fatalf("%q leaves %q", text, r)
			}
		}
	})
}
