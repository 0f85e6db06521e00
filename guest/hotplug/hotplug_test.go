package hotplug

import (
	"context"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"syscall"
	"testing"
)

func write(t *testing.T, dir string, files map[string]string) {
	t.Helper()
	for name, text := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

func TestFindDisks(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"vda/serial": "disk-1", "vda/dev": "254:0\n",
		"vdb/serial": "disk-2\n", "vdb/dev": "254:16\n",
		"vdc/dev":      "254:32\n", // has no serial, or has just left
		"loop0/serial": "disk-3", "loop0/dev": "7:0\n",
	})
	got, err := findDisks(dir)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]Disk{"disk-1": {Number{254, 0}, "vda"}, "disk-2": {Number{254, 16}, "vdb"}}
	if !maps.Equal(got, want) {
		t.Errorf("%v, want %v", got, want)
	}
	write(t, dir, map[string]string{"vdb/dev": "nonsense"})
	if _, err := findDisks(dir); err == nil {
		t.Error("a number that is none is taken")
	}
}

func TestOnlineAll(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{
		"cpu0/topology": "", "cpu1/online": "1\n", "cpu2/online": "0\n", "cpu3/topology": "", "cpufreq/online": "0\n", "online": "0-1\n",
	})
	if n, err := onlineAll(dir, "cpu", "1", writeFile); err != nil || n != 3 {
		t.Errorf("%d processors, %v", n, err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "cpu2/online")); err != nil || string(text) != "1" {
		t.Errorf("the processor that was off: %q, %v", text, err)
	}
	write(t, dir, map[string]string{"memory0/online": "1\n", "memory1/online": "0\n", "memory1/state": "offline\n"})
	if n, err := onlineAll(dir, "memory", "online", writeFile); err != nil || n != 2 {
		t.Errorf("%d blocks, %v", n, err)
	}
	if text, err := os.ReadFile(filepath.Join(dir, "memory1/state")); err != nil || string(text) != "online" {
		t.Errorf("the block that was off: %q, %v", text, err)
	}
}

// The kernel may bring a block on line between our look and our order, which it then
// refuses.
func TestTheKernelIsFaster(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, map[string]string{"memory1/online": "0\n", "memory1/state": "offline\n"})
	refuse := func(string, string) error { return syscall.EINVAL }
	if _, err := onlineAll(dir, "memory", "online", refuse); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("a block that stays off: %v", err)
	}
	n, err := onlineAll(dir, "memory", "online", func(path, value string) error {
		write(t, dir, map[string]string{"memory1/online": "1\n"})
		return refuse(path, value)
	})
	if err != nil || n != 1 {
		t.Errorf("%d blocks, %v", n, err)
	}
	write(t, dir, map[string]string{"memory1/online": "0\n"})
	n, err = onlineAll(dir, "memory", "online", func(path, value string) error {
		if err := os.RemoveAll(filepath.Dir(path)); err != nil {
			t.Error(err)
		}
		return refuse(path, value)
	})
	if err != nil || n != 0 {
		t.Errorf("of a block that has left: %d blocks, %v", n, err)
	}
}

func TestAwait(t *testing.T) {
	looks := 0
	if err := await(t.Context(), func() (bool, error) { looks++; return true, nil }); err != nil || looks != 1 {
		t.Errorf("what is there: %d looks, %v", looks, err)
	}
	wrong := errors.New("wrong")
	if err := await(t.Context(), func() (bool, error) { return false, wrong }); !errors.Is(err, wrong) {
		t.Errorf("a look that fails: %v", err)
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	gone := errors.New("gone")
	if err := await(ctx, func() (bool, error) { cancel(gone); return false, nil }); !errors.Is(err, gone) {
		t.Errorf("whoever waits is gone: %v", err)
	}
	if _, err := AwaitDisks(ctx, []string{"no-such-disk"}); !errors.Is(err, gone) {
		t.Errorf("wait for a disk: %v", err)
	}
	if disks, err := AwaitDisks(ctx, nil); err != nil || len(disks) != 0 {
		t.Errorf("no disks: %v, %v", disks, err)
	}
}
