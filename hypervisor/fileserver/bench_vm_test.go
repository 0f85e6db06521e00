//go:build vm

package fileserver

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"strconv"
	"testing"
	"time"

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
