//go:build vm

package fileserver

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/internal/drivertest"
	"kata-runtime/hypervisor/jail"
)

// BenchmarkProcessorTime is what the server's process takes of the processors for a
// request, which comes right after the other or when the server has fallen asleep.
func BenchmarkProcessorTime(b *testing.B) {
	for _, pause := range []time.Duration{0, 200 * time.Microsecond, 2 * time.Millisecond} {
		b.Run(fmt.Sprint(pause), func(b *testing.B) {
			p, err := Start(b.Context(), Options{SharedDir: b.TempDir(), Jail: &jail.Options{}, Log: slog.New(slog.DiscardHandler)})
			if err != nil {
				b.Fatal(err)
			}
			defer p.Stop()
			g := connect(b, p.Socket(), drivertest.FeatureIndirect|drivertest.FeatureEventIndex)
			for range queueSize { // whose tables stay
				g.want(g.send(opGetAttr, 1, make([]byte, 16), outHeaderSize+104), 0)
			}
			g.mem.Mark()
			begin := processorTime(b, p.PID())
			for b.Loop() {
				g.mem.Rewind()
				g.want(g.send(opGetAttr, 1, make([]byte, 16), outHeaderSize+104), 0)
				if pause > 0 {
					<-time.After(pause)
				}
			}
			b.ReportMetric(float64(processorTime(b, p.PID())-begin)/1e3/float64(b.N), "us-cpu/op")
		})
	}
}

// BenchmarkSmallFile is what the server's process takes of the processors for a small file
// that is read: OPEN, READ, FLUSH and RELEASE, each when it has fallen asleep.
func BenchmarkSmallFile(b *testing.B) {
	share := b.TempDir()
	if err := os.WriteFile(share+"/file", make([]byte, 400), 0o600); err != nil {
		b.Fatal(err)
	}
	p, err := Start(b.Context(), Options{SharedDir: share, Jail: &jail.Options{}, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		b.Fatal(err)
	}
	defer p.Stop()
	g := connect(b, p.Socket(), drivertest.FeatureIndirect|drivertest.FeatureEventIndex)
	for range queueSize { // whose tables stay
		g.want(g.send(opGetAttr, 1, make([]byte, 16), outHeaderSize+104), 0)
	}
	number := binary.LittleEndian.Uint64
	id := number(g.want(g.send(opLookup, 1, []byte("file\x00"), outHeaderSize+128), 0))
	g.mem.Mark()
	ask := func(opcode uint32, body []byte, room int) []byte {
		<-time.After(200 * time.Microsecond)
		return g.want(g.send(opcode, id, body, outHeaderSize+room), 0)
	}
	begin := processorTime(b, p.PID())
	for b.Loop() {
		g.mem.Rewind()
		fh := number(ask(opOpen, drivertest.Put(uint32(unix.O_RDONLY), uint32(0)), 16))
		read := drivertest.Put(fh, uint64(0), uint32(4096), uint32(0), uint64(0), uint32(0), uint32(0))
		if got := ask(opRead, read, 4096); len(got) != 400 {
			b.Fatalf("%d bytes", len(got))
		}
		ask(opFlush, drivertest.Put(fh, uint32(0), uint32(0), uint64(0)), 0)
		ask(opRelease, drivertest.Put(fh, uint32(0), uint32(0), uint64(0)), 0)
	}
	b.ReportMetric(float64(processorTime(b, p.PID())-begin)/1e3/float64(b.N), "us-cpu/op")
}

// processorTime adds up a process's threads.
func processorTime(b *testing.B, pid int) time.Duration {
	b.Helper()
	tasks, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if err != nil {
		b.Fatal(err)
	}
	var sum time.Duration
	for _, task := range tasks {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/schedstat", pid, task.Name()))
		if err != nil {
			b.Fatal(err)
		}
		ns, err := strconv.ParseInt(string(bytes.Fields(text)[0]), 10, 64)
		if err != nil {
			b.Fatal(err)
		}
		sum += time.Duration(ns)
	}
	return sum
}
