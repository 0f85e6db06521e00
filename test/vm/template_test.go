//go:build vm

package vm

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// templateStatus is what factory status --json says of templates.
type templateStatus struct {
	Templates []struct {
		For, Misfit string
		Bytes       int64
	}
	Counters map[string]struct {
		Restored            int
		Booted              map[string]int
		LastTemplateFailure string
	}
}

// templatesOf returns how many templates there are, and what became of the machines that
// were to begin as copies.
func templatesOf(h *harness.Host) (templates, restored int, booted map[string]int, failure string) {
	h.T.Helper()
	var status templateStatus
	if err := json.Unmarshal([]byte(h.Must("factory", "status", "--json")), &status); err != nil {
		h.T.Fatal(err)
	}
	counts := status.Counters["supervisor"]
	return len(status.Templates), counts.Restored, counts.Booted, counts.LastTemplateFailure
}

// wantTemplates compares how many machines began as copies since a count, and why others
// did not.
func wantTemplates(h *harness.Host, templates, before, restored int, booted map[string]int) (failure string) {
	h.T.Helper()
	have, now, reasons, failure := templatesOf(h)
	if have != templates || now-before != restored || !maps.Equal(reasons, booted) {
		h.T.Errorf("%d templates, %d machines from them, booted %v (%s); want %d, %d, %v",
			have, now-before, reasons, failure, templates, restored, booted)
	}
	return failure
}

// identity lets a container say what no two copies of a machine may have in common, a
// fact a line: what the kernel draws, the addresses at which it has put a program, and the
// random bytes that it has given it (AT_RANDOM is type 25 of the auxiliary vector).
const identity = `
cat /proc/sys/kernel/random/boot_id
cat /proc/sys/kernel/random/uuid
od -An -v -tx1 -N16 /dev/urandom
awk '/\[stack\]/{print $1}' /proc/$$/maps
awk '/\[vdso\]/{print $1}' /proc/$$/maps
at=$(od -An -v -tx8 -w16 /proc/$$/auxv | awk '$1=="0000000000000019"{print $2}')
dd if=/proc/$$/mem bs=1 skip=$((0x$at)) count=16 2>/dev/null | od -An -v -tx1
`

// TestTemplate starts pods from copies of one saved machine: by way of the pool and
// without it, and when that cannot be.
func TestTemplate(t *testing.T) {
	h := harness.New(t)
	dir := "/run/kata-pool-" + h.ID()
	settings := func(dir string, memory int) {
		configure(h, "factory.pool_size = 1", "factory.template = true", "factory.max_load = 0",
			fmt.Sprintf("factory.min_memory = %d", memory), fmt.Sprintf("factory.dir = %q", dir))
	}
	settings(dir, 0)
	t.Cleanup(func() { removeCgroups(t, "kata-test") })
	defer func() {
		h.T = t
		h.Must("factory", "destroy")
		if _, err := os.Stat(dir); err == nil {
			t.Errorf("%s is left", dir)
		}
	}()
	run := func(flags ...string) harness.Result {
		t.Helper()
		result := h.Run(append(flags, "run", "-b", h.Bundle(bundle.Spec("/bin/sh", "-c", identity)), h.ID())...)
		wantCode(t, result, 0)
		return result
	}

	prepared := fillPool(h)
	wantTemplates(h, 1, 0, 1, nil)
	t.Run("a copy is a machine as any other", func(t *testing.T) {
		h.T = t
		testPooledPod(t, h, prepared)
	})
	h.T = t

	t.Run("copies have nothing of what one alone may have", func(t *testing.T) {
		fillPool(h)
		_, before, _, _ := templatesOf(h)
		settings(dir, 16777216) // no machine is made in the place of those that go
		first := run("--debug")
		if !strings.Contains(first.Stderr, "machine from the pool") {
			t.Errorf("it does not come from the pool:\n%s", first.Stderr)
		}
		emptyPool(h)
		second := run("--debug")
		if !strings.Contains(second.Stderr, "no machine from the pool") {
			t.Errorf("it comes from the pool:\n%s", second.Stderr)
		}
		one, other := strings.Split(strings.TrimSpace(first.Stdout), "\n"), strings.Split(strings.TrimSpace(second.Stdout), "\n")
		const facts = 6
		if len(one) != facts || len(other) != facts {
			t.Fatalf("%q and %q", first.Stdout, second.Stdout)
		}
		for i := range one {
			if one[i] == other[i] || one[i] == "" {
				t.Errorf("both have %q", one[i])
			}
		}
		wantTemplates(h, 1, before, 1, nil)
	})

	t.Run("a copy that fails boots", func(t *testing.T) {
		settings(dir, 16777216)
		emptyPool(h)
		_, before, _, _ := templatesOf(h)
		breakState(t, dir)
		run()
		if why := wantTemplates(h, 0, before, 0, map[string]int{"failed": 1}); !strings.Contains(why, "QEMU") {
			t.Errorf("it says: %q", why)
		}
	})

	t.Run("a file system without room", func(t *testing.T) {
		small := h.File("small")
		if err := errors.Join(os.Mkdir(small, 0o700), unix.Mount("small", small, "tmpfs", 0, "size=2m,mode=0700")); err != nil {
			t.Fatal(err)
		}
		defer func() {
			if err := unix.Unmount(small, unix.MNT_DETACH); err != nil {
				t.Error(err)
			}
		}()
		settings(filepath.Join(small, "pool"), 0)
		defer settings(dir, 0)
		defer h.Must("factory", "destroy")
		fillPool(h)
		if why := wantTemplates(h, 0, 0, 0, map[string]int{"empty": 1}); !strings.Contains(why, "no space left") {
			t.Errorf("it says: %q", why)
		}
	})
}

// emptyPool ends the machines of a pool, not its templates.
func emptyPool(h *harness.Host) {
	h.T.Helper()
	for _, machine := range statusOfPool(h).Machines {
		if err := unix.Kill(machine.PID, unix.SIGTERM); err != nil {
			h.T.Fatal(err)
		}
		h.WaitExit(machine.PID)
	}
}

// breakState makes the state of a saved machine what QEMU does not take, and nobody else
// sees.
func breakState(t *testing.T, dir string) {
	t.Helper()
	found, err := filepath.Glob(filepath.Join(dir, "templates", "*", "template.json"))
	if err != nil || len(found) != 1 {
		t.Fatalf("%v, %v", found, err)
	}
	state := []byte("this is no machine")
	sum := sha256.Sum256(state)
	var record map[string]any
	text, err := os.ReadFile(found[0])
	if err == nil {
		err = json.Unmarshal(text, &record)
	}
	if err == nil {
		record["stateSum"] = hex.EncodeToString(sum[:])
		text, err = json.Marshal(record)
	}
	err = errors.Join(err, os.WriteFile(found[0], text, 0o600), os.WriteFile(filepath.Join(filepath.Dir(found[0]), "state"), state, 0o600))
	if err != nil {
		t.Fatal(err)
	}
}
