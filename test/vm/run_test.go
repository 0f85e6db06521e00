//go:build vm

package vm

import (
	"bytes"
	"crypto/rand"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

func TestRunPassesStreamsAndExitCode(t *testing.T) {
	h := harness.New(t)
	input := make([]byte, 4<<20)
	if _, err := rand.Read(input); err != nil {
		t.Fatal(err)
	}
	dir := h.Bundle(bundle.Spec("/bin/sh", "-c", "cat; echo complaint >&2; exit 7"))

	result := h.RunInput(string(input), "run", "-b", dir, h.ID())

	wantCode(t, result, 7)
	if result.Stdout != string(input) {
		t.Errorf("%d bytes went in and %d came out, or others", len(input), len(result.Stdout))
	}
	if result.Stderr != "complaint\n" {
		t.Errorf("standard error %q", result.Stderr)
	}
}

func TestRunForwardsSignals(t *testing.T) {
	h := harness.New(t)
	script := `trap 'echo interrupted' INT; trap 'echo told to end; exit 4' TERM; echo ready; while :; do sleep 1000 & wait $!; done`
	command := h.Command("run", "-b", h.Bundle(bundle.Spec("/bin/sh", "-c", script)), h.ID())
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	command.Stderr = os.Stderr
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}

	h.Expect(stdout, "ready\n")
	for _, step := range []struct {
		signal unix.Signal
		answer string
	}{{unix.SIGINT, "interrupted\n"}, {unix.SIGTERM, "told to end\n"}} {
		if err := command.Process.Signal(step.signal); err != nil {
			t.Fatal(err)
		}
		h.Expect(stdout, step.answer)
	}
	if rest := h.ReadAll(stdout); rest != "" {
		t.Errorf("unexpected output %q", rest)
	}
	if code := h.Wait(command); code != 4 {
		t.Errorf("exit code %d, want 4", code)
	}
}

func TestRunReportsTheProgramsDeathBySignal(t *testing.T) {
	h := harness.New(t)
	id := h.ID()
	command := h.Command("run", "-b", h.Bundle(bundle.Spec("/bin/sh", "-c", "echo ready; exec sleep 1000")), id)
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	h.Expect(stdout, "ready\n")
	h.Must("kill", id, "KILL")
	h.ReadAll(stdout)
	if code := h.Wait(command); code != 128+9 {
		t.Errorf("exit code %d, want 137", code)
	}
}

// A caller may stop reading, or close, at any time: the container must not
// hang for ever, nor its end be lost.
func TestRunEndsWhenTheReaderIsGone(t *testing.T) {
	h := harness.New(t)
	command := h.Command("run", "-b", h.Bundle(bundle.Spec("/bin/sh", "-c", "yes; exit 9")), h.ID())
	reader, writer, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	command.Stdout = writer
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	writer.Close()
	if _, err := io.ReadFull(reader, make([]byte, 64<<10)); err != nil {
		t.Fatal(err)
	}
	reader.Close()
	if code := h.Wait(command); code != 9 {
		t.Errorf("exit code %d, want 9", code)
	}
}

func TestRunMountsBinds(t *testing.T) {
	h := harness.New(t)
	outside := h.File("volume")
	for _, name := range []string{"rw", "ro/below"} {
		if err := os.MkdirAll(filepath.Join(outside, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	file := filepath.Join(outside, "file")
	for path, text := range map[string]string{file: "one file\n", filepath.Join(outside, "ro/read"): "read only\n"} {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	spec := bundle.Spec("/bin/sh", "-c", `
		cat /file /ro/read
		echo written > /rw/made; mkdir /rw/dir
		(echo no > /ro/new) 2>/dev/null && echo "ro is writable"
		(echo no > /ro/below/new) 2>/dev/null && echo "below ro is writable"
		mount -o remount,rw /ro 2>/dev/null && echo "ro can be remounted"
		(echo no > /rootless) 2>/dev/null && echo "root is writable"
		true`)
	spec.Root.Readonly = true
	spec.Mounts = append(spec.Mounts,
		specs.Mount{Destination: "/rw", Type: "bind", Source: filepath.Join(outside, "rw"), Options: []string{"rbind", "rw"}},
		specs.Mount{Destination: "/ro", Type: "bind", Source: filepath.Join(outside, "ro"), Options: []string{"rbind", "ro"}},
		specs.Mount{Destination: "/file", Type: "bind", Source: file, Options: []string{"bind", "ro"}})
	dir := h.Bundle(spec)
	// Mount points in a read-only root exist beforehand, as with any runtime.
	for _, name := range []string{"rw", "ro"} {
		if err := os.Mkdir(filepath.Join(dir, "rootfs", name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "rootfs", "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}

	result := h.Run("run", "-b", dir, h.ID())

	wantCode(t, result, 0)
	if want := "one file\nread only\n"; result.Stdout != want {
		t.Errorf("output %q, want %q", result.Stdout, want)
	}
	if data, err := os.ReadFile(filepath.Join(outside, "rw/made")); err != nil || string(data) != "written\n" {
		t.Errorf("the host reads %q, %v", data, err)
	}
	for _, name := range []string{"ro/new", "ro/below/new"} {
		if _, err := os.Stat(filepath.Join(outside, name)); err == nil {
			t.Errorf("%s was written through a read-only mount", name)
		}
	}
}

// The share's daemon holds a descriptor for each file that the guest
// remembers, and may not have that many.
func TestRunReadsATreeLargerThanTheDescriptorLimit(t *testing.T) {
	const dirs, files = 250, 100
	h := harness.New(t)
	dir := h.Bundle(bundle.Spec("/bin/sh", "-c", "find /tree -type f -print0 | xargs -0 cat | wc -c"))
	tree := filepath.Join(dir, "rootfs", "tree")
	content := bytes.Repeat([]byte("x"), 10)
	for d := range dirs {
		name := filepath.Join(tree, "d"+strings.Repeat("0", d%10), string(rune('a'+d/10)))
		if err := os.MkdirAll(name, 0o755); err != nil {
			t.Fatal(err)
		}
		for f := range files {
			if err := os.WriteFile(filepath.Join(name, "f"+strings.Repeat("1", f)), content, 0o644); err != nil {
				t.Fatal(err)
			}
		}
	}

	result := h.Run("run", "-b", dir, h.ID())

	wantCode(t, result, 0)
	if want := "250000\n"; result.Stdout != want {
		t.Errorf("output %q, want %q; standard error %q", result.Stdout, want, result.Stderr)
	}
}
