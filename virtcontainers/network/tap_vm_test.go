//go:build vm

package network_test

import (
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/network"
)

func TestTapIsInvisibleToTheHost(t *testing.T) {
	before, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	tap, err := network.NewTap(2, true)
	if err != nil {
		t.Fatal(err)
	}
	after, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	if len(after) != len(before) {
		t.Errorf("the host has %d interfaces, and had %d", len(after), len(before))
	}
	if tap.MAC[0]&3 != 2 {
		t.Errorf("MAC %v is not a locally administered unicast address", tap.MAC)
	}
	if len(tap.Files) != 2 {
		t.Fatalf("%d queues, want 2", len(tap.Files))
	}
	for _, file := range tap.Files {
		// TUNGETDEVNETNS: the tap's namespace is neither ours nor gone.
		fd, err := unix.IoctlRetInt(int(file.Fd()), 0x54e3)
		if err != nil {
			t.Fatal(err)
		}
		theirs := os.NewFile(uintptr(fd), "netns")
		defer theirs.Close()
		if inode(t, theirs) == inodeOf(t, "/proc/self/ns/net") {
			t.Error("the tap is in the host's namespace")
		}
	}
	for range 2 {
		if err := tap.Close(); err != nil {
			t.Fatal(err)
		}
	}
}

func inodeOf(t *testing.T, path string) uint64 {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	return inode(t, file)
}

func inode(t *testing.T, file *os.File) uint64 {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		t.Fatal(err)
	}
	return stat.Ino
}
