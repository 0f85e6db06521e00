//go:build vm

package fileserver

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"kata-runtime/hypervisor/internal/drivertest"
	"kata-runtime/hypervisor/jail"
)

// The opcodes of a directory's reading, and the length of what comes before a name of it.
const (
	opOpenDir     = 27
	opReleaseDir  = 29
	opReadDirPlus = 44

	entrySize, direntSize = 128, 24
)

// TestMemory: the server's process, as it is installed, has no more than 8 MiB beside
// another of the program, once the guest has come to know 20,000 files by walking a tree.
func TestMemory(t *testing.T) {
	const directories, each, most = 200, 100, 8 << 10 // KiB
	program := filepath.Join(t.TempDir(), "kata-device")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags", "-s -w", "-o", program, "kata-runtime/cmd/kata-device")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	share, err := os.MkdirTemp("/dev/shm", "fileserver-test-") //nolint:usetesting // so many files take long on a disk
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(share)
	for i := range directories * each {
		dir := filepath.Join(share, strconv.Itoa(i/each))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	options := Options{Program: program, SharedDir: share, Cache: CacheAlways, Jail: &jail.Options{}, Log: slog.New(slog.DiscardHandler)}
	p, err := Start(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	defer p.Stop()
	// The program is that of the vsock device too.
	other, err := Start(t.Context(), options)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Stop()
	connect(t, other.Socket(), drivertest.FeatureIndirect|drivertest.FeatureEventIndex)
	g := connect(t, p.Socket(), drivertest.FeatureIndirect|drivertest.FeatureEventIndex)
	g.initialize()
	g.mem.Mark()
	before, known := pss(t, p.PID()), 0
	for i := range directories {
		g.mem.Rewind()
		known += g.readDirectory(strconv.Itoa(i))
	}
	after := pss(t, p.PID())
	// It gives back what it does not need once nobody has asked for a while.
	ticker := time.NewTicker(quiet)
	defer ticker.Stop()
	for tries := 0; tries < 10 && (tries < 2 || after > most); tries++ {
		<-ticker.C
		after = pss(t, p.PID())
	}
	t.Logf("%d KiB, %d with %d files", before, after, known)
	if known != directories*each {
		t.Errorf("the guest knows %d files, want %d", known, directories*each)
	}
	if after > most {
		t.Errorf("the server has %d KiB, want %d at most", after, most)
	}
}

// initialize says what a guest's kernel says first, and lays out what the rings' tables
// take.
func (g *guest) initialize() {
	g.t.Helper()
	const readDirPlus = 1 << 13
	in := append(drivertest.Put(uint32(7), uint32(38), uint32(1<<20), uint32(readDirPlus)), make([]byte, 48)...)
	g.want(g.send(opInit, 0, in, outHeaderSize+64), 0)
	for range queueSize {
		g.want(g.send(opGetAttr, 1, make([]byte, 16), outHeaderSize+104), 0)
	}
}

// readDirectory reads a directory of the root with its files' attributes, and returns how
// many files the guest knows by it.
func (g *guest) readDirectory(name string) (known int) {
	g.t.Helper()
	number := binary.LittleEndian.Uint64
	id := number(g.want(g.send(opLookup, 1, append([]byte(name), 0), outHeaderSize+entrySize), 0))
	fh := number(g.want(g.send(opOpenDir, id, make([]byte, 8), outHeaderSize+16), 0))
	for offset := uint64(0); ; {
		in := append(drivertest.Put(fh, offset, uint32(segment)), make([]byte, 20)...)
		data := g.want(g.send(opReadDirPlus, id, in, outHeaderSize+segment), 0)
		if len(data) == 0 {
			break
		}
		for len(data) > 0 {
			if number(data) != 0 {
				known++
			}
			offset = number(data[entrySize+8:])
			length := int(binary.LittleEndian.Uint32(data[entrySize+16:]))
			data = data[entrySize+(direntSize+length+7)/8*8:]
		}
	}
	g.want(g.send(opReleaseDir, id, append(drivertest.Put(fh), make([]byte, 16)...), outHeaderSize), 0)
	return known
}

// pss is the proportional set size of a process in KiB, without the guest's memory.
func pss(t *testing.T, pid int) (sum int) {
	t.Helper()
	file, err := os.Open(fmt.Sprintf("/proc/%d/smaps", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	guest := false
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		switch {
		case !strings.HasSuffix(fields[0], ":"): // a mapping's address
			guest = strings.Contains(lines.Text(), "/memfd:")
		case fields[0] == "Pss:" && !guest:
			n, err := strconv.Atoi(fields[1])
			if err != nil {
				t.Fatal(err)
			}
			sum += n
		}
	}
	if err := lines.Err(); err != nil {
		t.Fatal(err)
	}
	return sum
}
