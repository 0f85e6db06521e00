package stdio

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"kata-runtime/virtcontainers"
)

// program writes a shell script and returns the URI of it as a logging program.
func program(t *testing.T, scheme, text string) (uri, directory string) {
	t.Helper()
	directory = t.TempDir()
	path := filepath.Join(directory, "logger")
	if err := os.WriteFile(path, []byte("#!/bin/sh\ncd "+directory+"\n"+text), 0o700); err != nil {
		t.Fatal(err)
	}
	return scheme + "://" + path, directory
}

func contents(t *testing.T, directory, name string) string {
	t.Helper()
	got, err := os.ReadFile(filepath.Join(directory, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(got)
}

const logs = `
echo "$CONTAINER_ID $CONTAINER_NAMESPACE $* $(/usr/bin/env | /bin/grep -c '^CONTAINER')" > called
printf x >&5
exec 5>&-
/bin/cat <&3 >stdout &
/bin/cat <&4 >stderr
wait
echo >> ended
`

func TestLogger(t *testing.T) {
	for _, scheme := range []string{"binary", "binary-v2"} {
		uri, directory := program(t, scheme, logs)
		uri += "?b=2&a=1%20x&b=3&empty"
		for _, stderr := range []string{uri, ""} {
			a, g, logged := attached(t, Config{ID: "c1", Namespace: "k8s.io", Stdout: uri, Stderr: stderr})
			if a.IO() != (virtcontainers.IO{Stdout: true, Stderr: true}) {
				t.Errorf("streams asked for: %+v", a.IO())
			}
			data, _ := random(3 << 20)
			go func() {
				_, _ = g.stdout.Write(data)
				g.stdout.Close()
			}()
			say(t, g.stderr, "errors")
			g.stderr.Close()
			a.Close(virtcontainers.Exit{}) // waits for the program
			if got := contents(t, directory, "called"); got != "c1 k8s.io b 2 a 1 x empty  2\n" {
				t.Errorf("called with %q", got)
			}
			if contents(t, directory, "stdout") != string(data) || contents(t, directory, "stderr") != "errors" {
				t.Error("logs something else than was written")
			}
			if logged.String() != "" {
				t.Error(logged)
			}
		}
		if got := contents(t, directory, "ended"); got != "\n\n" {
			t.Errorf("ended %q, not twice", got)
		}
	}
}

func TestLoggerOfATerminal(t *testing.T) {
	uri, directory := program(t, "binary", logs)
	a, g, _ := attached(t, Config{Stdout: uri, Stderr: uri, Terminal: true})
	say(t, g.stdout, "both")
	g.stdout.Close()
	a.Close(virtcontainers.Exit{})
	if contents(t, directory, "stdout") != "both" || contents(t, directory, "stderr") != "" {
		t.Error("logs something else than was written")
	}
}

// Each stream may have a program of its own.
func TestTwoLoggers(t *testing.T) {
	uri, directory := program(t, "binary", logs)
	other, elsewhere := program(t, "binary", logs)
	a, g, _ := attached(t, Config{Stdout: uri, Stderr: other})
	say(t, g.stdout, "output")
	say(t, g.stderr, "errors")
	g.stdout.Close()
	g.stderr.Close()
	a.Close(virtcontainers.Exit{})
	if contents(t, directory, "stdout") != "output" || contents(t, elsewhere, "stderr") != "errors" {
		t.Error("logs something else than was written")
	}
}

func TestLoggerThatIsNeverReady(t *testing.T) {
	uri, _ := program(t, "binary", "exec /bin/sleep 1000")
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	_, err := Open(ctx, Config{Stdout: uri, Log: slog.New(slog.DiscardHandler)})
	if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "ready") {
		t.Error(err)
	}
}

func TestLoggerThatEndsAtOnce(t *testing.T) {
	uri, _ := program(t, "binary-v2", "exit 1")
	_, err := Open(t.Context(), Config{Stdout: uri, Log: slog.New(slog.DiscardHandler)})
	if err == nil || !strings.Contains(err.Error(), "without writing a byte") {
		t.Error(err)
	}
	// The first protocol cannot tell. What the process writes has nowhere to go.
	uri, _ = program(t, "binary", "exit 1")
	a, g, logged := attached(t, Config{Stdout: uri})
	for {
		if _, err := g.stdout.Write([]byte("unheard")); err != nil {
			break
		}
	}
	g.stderr.Close()
	a.Close(virtcontainers.Exit{})
	if !strings.Contains(logged.String(), "exit status 1") {
		t.Error(logged)
	}
}

// A program that does not end is asked to, and then made to.
func TestLoggerThatStays(t *testing.T) {
	uri, directory := program(t, "binary", "trap 'echo asked > asked; exit 0' TERM\nexec 5>&-\nwhile :; do /bin/sleep 0.1; done")
	a, g, logged := attached(t, Config{Stdout: uri})
	g.stdout.Close()
	g.stderr.Close()
	a.Close(virtcontainers.Exit{})
	if contents(t, directory, "asked") != "asked\n" || logged.String() != "" {
		t.Error(logged)
	}
	uri, _ = program(t, "binary", "trap '' TERM\nexec 5>&-\nexec /bin/sleep 1000")
	a, _, _ = attached(t, Config{Stdout: uri})
	done := closing(a)
	stillWaits(t, done, 100*time.Millisecond)
	a.Abandon()
	<-done
}

func TestLoggerArguments(t *testing.T) {
	for query, want := range map[string][]string{
		"":             nil,
		"a=1&b=2":      {"a", "1", "b", "2"},
		"b=2&a=1&b=3":  {"b", "2", "a", "1"},
		"--key=%2Fx+y": {"--key", "/x y"},
		"key":          {"key", ""},
	} {
		got, err := loggerArguments(query)
		if diff := cmp.Diff(want, got); err != nil || diff != "" {
			t.Errorf("%q: %v %s", query, err, diff)
		}
	}
	if _, err := loggerArguments("a=%zz"); err == nil {
		t.Error("no error for a malformed query")
	}
}
