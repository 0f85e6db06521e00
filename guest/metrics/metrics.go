// Package metrics measures the guest, the agent and control groups from what the
// kernel shows in files. It never fails: what cannot be read is left out, since a
// kernel without a feature has no file for it, and a container may go meanwhile.
package metrics

import (
	"bufio"
	"bytes"
	"os"
	"path/filepath"
	"runtime/metrics"
	"strconv"
	"strings"

	"kata-runtime/guest/protocol"
)

// ticksPerSecond is USER_HZ, in which /proc counts time on every architecture of
// ours.
const ticksPerSecond = 100

// sectorSize is the unit of /proc/diskstats, whatever the disk's own is.
const sectorSize = 512

// Measurements are collected in it.
type list []*protocol.Measurement

func (l *list) add(figure protocol.Figure, value float64) {
	*l = append(*l, &protocol.Measurement{Figure: figure, Value: value})
}

// Guest measures the machine by the files of a proc file system.
func Guest(proc string) []*protocol.Measurement {
	var l list
	l.memory(filepath.Join(proc, "meminfo"))
	l.load(filepath.Join(proc, "loadavg"))
	l.stat(filepath.Join(proc, "stat"))
	l.uptime(filepath.Join(proc, "uptime"))
	l.pressure(filepath.Join(proc, "pressure"))
	l.network(filepath.Join(proc, "self/net/dev"))
	l.disks(filepath.Join(proc, "diskstats"))
	return l
}

// Agent measures this process by the files of a proc file system.
func Agent(proc string) []*protocol.Measurement {
	var l list
	self := filepath.Join(proc, "self")
	if fields := words(filepath.Join(self, "statm")); len(fields) > 1 {
		if pages, err := strconv.ParseFloat(fields[1], 64); err == nil {
			l.add(protocol.Figure_AGENT_RESIDENT_BYTES, pages*float64(os.Getpagesize()))
		}
	}
	if data, err := os.ReadFile(filepath.Join(self, "stat")); err == nil {
		const user, system, threads = 11, 12, 17 // counted from the state
		fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
		if len(fields) > threads {
			l.add(protocol.Figure_AGENT_CPU_SECONDS, (number(fields[user])+number(fields[system]))/ticksPerSecond)
			l.add(protocol.Figure_AGENT_THREADS, number(fields[threads]))
		}
	}
	if files, err := os.ReadDir(filepath.Join(self, "fd")); err == nil {
		l.add(protocol.Figure_AGENT_OPEN_FILES, float64(len(files)-1)) // without the directory itself
	}
	samples := []metrics.Sample{{Name: "/sched/goroutines:goroutines"}, {Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(samples)
	for i, figure := range []protocol.Figure{protocol.Figure_AGENT_GOROUTINES, protocol.Figure_AGENT_HEAP_BYTES} {
		if samples[i].Value.Kind() == metrics.KindUint64 {
			l.add(figure, float64(samples[i].Value.Uint64()))
		}
	}
	return l
}

// Container measures a control group of version 2 by its directory; none for an
// empty one.
func Container(dir string) []*protocol.Measurement {
	if dir == "" {
		return nil
	}
	var l list
	cpu := pairs(filepath.Join(dir, "cpu.stat"))
	for name, figure := range map[string]protocol.Figure{
		"user_usec": protocol.Figure_CONTAINER_CPU_USER_SECONDS, "system_usec": protocol.Figure_CONTAINER_CPU_SYSTEM_SECONDS,
		"throttled_usec": protocol.Figure_CONTAINER_CPU_THROTTLED_SECONDS,
	} {
		if value, ok := cpu[name]; ok {
			l.add(figure, value/1e6)
		}
	}
	for name, figure := range map[string]protocol.Figure{
		"memory.current": protocol.Figure_CONTAINER_MEMORY_BYTES, "memory.max": protocol.Figure_CONTAINER_MEMORY_LIMIT_BYTES,
		"pids.current": protocol.Figure_CONTAINER_PIDS, "pids.max": protocol.Figure_CONTAINER_PIDS_LIMIT,
	} {
		if fields := words(filepath.Join(dir, name)); len(fields) == 1 && fields[0] != "max" {
			l.add(figure, number(fields[0]))
		}
	}
	if value, ok := pairs(filepath.Join(dir, "memory.stat"))["inactive_file"]; ok {
		l.add(protocol.Figure_CONTAINER_MEMORY_INACTIVE_FILE_BYTES, value)
	}
	if value, ok := pairs(filepath.Join(dir, "memory.events"))["oom_kill"]; ok {
		l.add(protocol.Figure_CONTAINER_OOM_KILLS, value)
	}
	l.traffic(filepath.Join(dir, "io.stat"))
	return l
}

func (l *list) memory(path string) {
	figures := map[string]protocol.Figure{
		"MemTotal:": protocol.Figure_MEMORY_SIZE_BYTES, "MemFree:": protocol.Figure_MEMORY_FREE_BYTES,
		"MemAvailable:": protocol.Figure_MEMORY_AVAILABLE_BYTES, "Buffers:": protocol.Figure_MEMORY_BUFFERS_BYTES,
		"Cached:": protocol.Figure_MEMORY_CACHED_BYTES, "Shmem:": protocol.Figure_MEMORY_SHARED_BYTES,
		"Slab:": protocol.Figure_MEMORY_SLAB_BYTES,
	}
	const kilo = 1024
	for name, value := range pairs(path) {
		if figure, ok := figures[name]; ok {
			l.add(figure, value*kilo)
		}
	}
}

func (l *list) load(path string) {
	fields := words(path)
	if len(fields) < 4 {
		return
	}
	for i, figure := range []protocol.Figure{protocol.Figure_LOAD_1, protocol.Figure_LOAD_5, protocol.Figure_LOAD_15} {
		l.add(figure, number(fields[i]))
	}
	if _, all, ok := strings.Cut(fields[3], "/"); ok { // threads that run, threads
		l.add(protocol.Figure_PROCESSES, number(all))
	}
}

func (l *list) stat(path string) {
	single := map[string]protocol.Figure{
		"ctxt": protocol.Figure_CONTEXT_SWITCHES, "processes": protocol.Figure_FORKS,
		"procs_running": protocol.Figure_PROCESSES_RUNNABLE, "procs_blocked": protocol.Figure_PROCESSES_BLOCKED,
	}
	modes := []protocol.Figure{
		protocol.Figure_CPU_USER_SECONDS, protocol.Figure_CPU_NICE_SECONDS, protocol.Figure_CPU_SYSTEM_SECONDS,
		protocol.Figure_CPU_IDLE_SECONDS, protocol.Figure_CPU_IOWAIT_SECONDS, protocol.Figure_CPU_IRQ_SECONDS,
		protocol.Figure_CPU_SOFTIRQ_SECONDS, protocol.Figure_CPU_STEAL_SECONDS,
	}
	for _, fields := range lines(path) {
		if len(fields) < 2 {
			continue
		}
		if fields[0] == "cpu" {
			for i, figure := range modes {
				if i+1 < len(fields) {
					l.add(figure, number(fields[i+1])/ticksPerSecond)
				}
			}
		} else if figure, ok := single[fields[0]]; ok {
			l.add(figure, number(fields[1]))
		}
	}
}

func (l *list) uptime(path string) {
	if fields := words(path); len(fields) > 0 {
		l.add(protocol.Figure_UPTIME_SECONDS, number(fields[0]))
	}
}

// pressure reads the totals, in microseconds, of "some avg10=.. .. total=N".
func (l *list) pressure(dir string) {
	figures := map[string]protocol.Figure{
		"cpu some":    protocol.Figure_PRESSURE_CPU_SOME_SECONDS,
		"memory some": protocol.Figure_PRESSURE_MEMORY_SOME_SECONDS, "memory full": protocol.Figure_PRESSURE_MEMORY_FULL_SECONDS,
		"io some": protocol.Figure_PRESSURE_IO_SOME_SECONDS, "io full": protocol.Figure_PRESSURE_IO_FULL_SECONDS,
	}
	for _, resource := range []string{"cpu", "memory", "io"} {
		for _, fields := range lines(filepath.Join(dir, resource)) {
			if len(fields) == 0 {
				continue
			}
			figure, ok := figures[resource+" "+fields[0]]
			total, has := strings.CutPrefix(fields[len(fields)-1], "total=")
			if ok && has {
				l.add(figure, number(total)/1e6)
			}
		}
	}
}

// network sums what interfaces have counted, but for loopback.
func (l *list) network(path string) {
	figures := map[int]protocol.Figure{
		0: protocol.Figure_NETWORK_RECEIVE_BYTES, 1: protocol.Figure_NETWORK_RECEIVE_PACKETS,
		2: protocol.Figure_NETWORK_RECEIVE_ERRORS, 3: protocol.Figure_NETWORK_RECEIVE_DROPS,
		8: protocol.Figure_NETWORK_TRANSMIT_BYTES, 9: protocol.Figure_NETWORK_TRANSMIT_PACKETS,
		10: protocol.Figure_NETWORK_TRANSMIT_ERRORS, 11: protocol.Figure_NETWORK_TRANSMIT_DROPS,
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return
	}
	sums := make(map[protocol.Figure]float64)
	for line := range strings.Lines(string(data)) {
		name, counters, ok := strings.Cut(line, ":") // no space need follow it
		fields := strings.Fields(counters)
		if !ok || strings.TrimSpace(name) == "lo" {
			continue
		}
		for i, figure := range figures {
			if i < len(fields) {
				sums[figure] += number(fields[i])
			}
		}
	}
	for _, figure := range figures {
		l.add(figure, sums[figure])
	}
}

// disks sums what whole disks have counted: partitions are parts of them, and
// loop devices and memory are no disks.
func (l *list) disks(path string) {
	var reads, readSectors, writes, writtenSectors, busy float64
	rows := lines(path)
	if rows == nil {
		return
	}
	for _, fields := range rows {
		if len(fields) < 13 || !strings.HasPrefix(fields[2], "vd") || strings.ContainsAny(fields[2], "0123456789") {
			continue
		}
		reads += number(fields[3])
		readSectors += number(fields[5])
		writes += number(fields[7])
		writtenSectors += number(fields[9])
		busy += number(fields[12])
	}
	l.add(protocol.Figure_DISK_READS, reads)
	l.add(protocol.Figure_DISK_READ_BYTES, readSectors*sectorSize)
	l.add(protocol.Figure_DISK_WRITES, writes)
	l.add(protocol.Figure_DISK_WRITTEN_BYTES, writtenSectors*sectorSize)
	l.add(protocol.Figure_DISK_BUSY_SECONDS, busy/1e3)
}

// traffic sums a control group's input and output over devices: "8:0 rbytes=N
// wbytes=N ..".
func (l *list) traffic(path string) {
	rows := lines(path)
	if rows == nil {
		return
	}
	var read, written float64
	for _, fields := range rows {
		for _, field := range fields {
			if value, ok := strings.CutPrefix(field, "rbytes="); ok {
				read += number(value)
			} else if value, ok := strings.CutPrefix(field, "wbytes="); ok {
				written += number(value)
			}
		}
	}
	l.add(protocol.Figure_CONTAINER_READ_BYTES, read)
	l.add(protocol.Figure_CONTAINER_WRITTEN_BYTES, written)
}

// lines returns the words of each line of a file; nil if there is none.
func lines(path string) [][]string {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil
	}
	rows := [][]string{}
	for scanner := bufio.NewScanner(bytes.NewReader(data)); scanner.Scan(); {
		rows = append(rows, strings.Fields(scanner.Text()))
	}
	return rows
}

// words returns those of a file's first line.
func words(path string) []string {
	if rows := lines(path); len(rows) > 0 {
		return rows[0]
	}
	return nil
}

// pairs returns the numbers of a file of "NAME NUMBER" lines.
func pairs(path string) map[string]float64 {
	values := make(map[string]float64)
	for _, fields := range lines(path) {
		if len(fields) >= 2 {
			values[fields[0]] = number(fields[1])
		}
	}
	return values
}

// number reads what the kernel has written.
func number(text string) float64 {
	value, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0
	}
	return value
}
