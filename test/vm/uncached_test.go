//go:build vm

package vm

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// TestUncachedVolume turns the guest's cache of shared files off. Then also one
// who has a file open sees at once what the other side writes, and nobody has to
// close it for that.
func TestUncachedVolume(t *testing.T) {
	h := harness.New(t)
	configure(h, `hypervisor.qemu.virtio_fs_cache = "never"`)
	volume := h.File("volume")
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	const line = 8
	write(t, filepath.Join(volume, "file"), "first..\nsecond.\n")
	// The container reads and writes one line per word that it is told, from
	// and to files that stay open.
	spec := bundle.Spec("/bin/sh", "-c", `
		exec 3</volume/file 4>/volume/answers
		while read word; do
			dd bs=8 count=1 <&3 2>/dev/null
			echo "$word" >&4
			stat -c %s /volume/file
		done`)
	spec.Mounts = append(spec.Mounts,
		specs.Mount{Destination: "/volume", Type: "bind", Source: volume, Options: []string{"rbind"}})
	command := h.Command("run", "-b", h.Bundle(spec), h.ID())
	stdin, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	command.Stderr = os.Stderr
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(filepath.Join(volume, "file"), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	answered := 0
	for i, want := range []string{"first..\n", "changed\n", "added..\n"} {
		if i > 0 { // first what the guest would have in its cache, then what was not there
			if _, err := file.WriteAt([]byte(want), int64(i*line)); err != nil {
				t.Fatal(err)
			}
		}
		word := fmt.Sprintf("word %d\n", i)
		if _, err := io.WriteString(stdin, word); err != nil {
			t.Fatal(err)
		}
		size := max(i+1, 2) * line
		if got := h.Expect(stdout, fmt.Sprintf("\n%d\n", size)); got != fmt.Sprintf("%s%d\n", want, size) {
			t.Errorf("the container reads %q, want %q", got, want)
		}
		answers, err := os.ReadFile(filepath.Join(volume, "answers"))
		if err != nil || string(answers[min(answered, len(answers)):]) != word {
			t.Errorf("the host reads %q, %v, want %q at the end", answers, err, word)
		}
		answered += len(word)
	}
	stdin.Close()
	if code := h.Wait(command); code != 0 {
		t.Errorf("exit code %d", code)
	}
}
