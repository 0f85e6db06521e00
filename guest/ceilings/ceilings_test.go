package ceilings

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"kata-runtime/guest/protocol"
)

func TestRaise(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string) {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o700),
			os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	want := func(name, text string) {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || string(data) != text {
			t.Errorf("%s is %q (%v), want %q", name, data, err, text)
		}
	}
	write("fs/nr_open", "1048576\n")
	write("vm/max_map_count", "65530\n")
	write("fs/file-max", "9223372036854775807\n")

	err := Raise(dir, []*protocol.CeilingValue{
		{Name: "fs/nr_open", Value: 1073741816},
		{Name: "vm/max_map_count", Value: 1000},
		{Name: "fs/file-max", Value: 2000},
		{Name: "fs/fanotify/max_user_marks", Value: 7}, // this kernel has none
	})
	if err != nil {
		t.Error(err)
	}
	want("fs/nr_open", "1073741816")
	want("vm/max_map_count", "65530\n")
	want("fs/file-max", "9223372036854775807\n")
}

// Of a parameter whose zero is no limit, zero is the most.
func TestRaiseToNoLimit(t *testing.T) {
	const name = "fs/pipe-user-pages-soft"
	for _, test := range []struct {
		now   string
		value uint64
		want  string
	}{{"16384\n", 0, "0"}, {"0\n", 16384, "0\n"}, {"16384\n", 99999, "99999"}, {"16384\n", 9, "16384\n"}} {
		dir := t.TempDir()
		path := filepath.Join(dir, name)
		if err := errors.Join(os.Mkdir(filepath.Dir(path), 0o700), os.WriteFile(path, []byte(test.now), 0o600)); err != nil {
			t.Fatal(err)
		}
		if err := Raise(dir, []*protocol.CeilingValue{{Name: name, Value: test.value}}); err != nil {
			t.Error(err)
		}
		if data, err := os.ReadFile(path); err != nil || string(data) != test.want {
			t.Errorf("%q raised to %d: %q (%v), want %q", test.now, test.value, data, err, test.want)
		}
	}
}

// A host sets nothing else by it.
func TestRaiseRefuses(t *testing.T) {
	dir := t.TempDir()
	if err := errors.Join(os.Mkdir(filepath.Join(dir, "fs"), 0o700), os.WriteFile(filepath.Join(dir, "fs/nr_open"), []byte("5\n"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for _, bad := range []*protocol.CeilingValue{
		{Name: "kernel/core_pattern", Value: 1},
		{Name: "../sys/fs/nr_open", Value: 100},
		{Name: "fs/nr_open/../nr_open", Value: 100},
		{Name: "fs/nr_open", Value: 1 << 31},
		{Name: "vm/overcommit_memory", Value: 2},
		nil,
	} {
		err := Raise(dir, []*protocol.CeilingValue{{Name: "fs/nr_open", Value: 10}, bad})
		if !errors.Is(err, ErrInvalid) {
			t.Errorf("%v: %v, want ErrInvalid", bad, err)
		}
	}
	if data, err := os.ReadFile(filepath.Join(dir, "fs/nr_open")); err != nil || string(data) != "5\n" {
		t.Errorf("fs/nr_open is %q (%v): something was set", data, err)
	}
}
