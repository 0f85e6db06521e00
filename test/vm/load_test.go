//go:build vm

package vm

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// size is a small number in test and a large one in test-full.
func size(small, large int) int {
	if os.Getenv(manyVariable) != "" {
		return large
	}
	return small
}

// TestManyCalls makes many calls on one container, one after the other and at
// once.
func TestManyCalls(t *testing.T) {
	h := harness.New(t)
	d := detach(h, bundle.Spec("/bin/sleep", "100000"))
	for i := range size(10, 100) {
		result := h.RunInput(fmt.Sprint(i), "exec", d.id, "/bin/sh", "-c", "cat; exit "+fmt.Sprint(i%200))
		if result.Code != i%200 || result.Stdout != fmt.Sprint(i) {
			t.Fatalf("call %d: exit code %d, output %q, %q", i, result.Code, result.Stdout, result.Stderr)
		}
	}
	var all sync.WaitGroup
	for i := range size(8, 40) {
		args := [][]string{
			{"exec", d.id, "/bin/echo", "here"},
			{"state", d.id},
			{"ps", d.id},
			{"events", "--stats", d.id},
			{"list"},
			{"update", "--memory", "100000000", d.id},
			{"kill", d.id, "CONT"},
			{"exec", d.id, "/bin/true"},
		}[i%8]
		all.Go(func() {
			if result := h.Run(args...); result.Code != 0 {
				t.Errorf("%s: exit code %d, %s", strings.Join(args, " "), result.Code, result.Stderr)
			}
		})
	}
	all.Wait()
	// One of them removes it, and the others have nothing left to do.
	for range 3 {
		all.Go(func() {
			if result := h.Run("delete", "--force", d.id); result.Code != 0 {
				t.Errorf("delete: exit code %d, %s", result.Code, result.Stderr)
			}
		})
	}
	all.Wait()
}

// TestLongStream sends random bytes through a container and compares what comes
// back.
func TestLongStream(t *testing.T) {
	total := int64(size(32, 1024)) << 20
	h := harness.New(t)
	command := h.Command("run", "-b", h.Bundle(bundle.Spec("/bin/cat")), h.ID())
	command.Stderr = os.Stderr
	stdin, err := command.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := command.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	sent, received := sha256.New(), sha256.New()
	wrote := make(chan error, 1)
	go func() {
		source := rand.NewChaCha8([32]byte{1})
		_, err := io.Copy(io.MultiWriter(sent, stdin), io.LimitReader(source, total))
		wrote <- errors.Join(err, stdin.Close())
	}()
	n, err := io.Copy(received, stdout)
	if err := errors.Join(err, <-wrote); err != nil {
		t.Error(err)
	}
	if code := h.Wait(command); code != 0 {
		t.Errorf("exit code %d", code)
	}
	if n != total || string(sent.Sum(nil)) != string(received.Sum(nil)) {
		t.Errorf("%d bytes went in and %d came out, or others", total, n)
	}
}
