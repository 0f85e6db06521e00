package metrics

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
)

// ticksPerSecond is USER_HZ, in which /proc counts time on every architecture of
// ours.
const ticksPerSecond = 100

// maxFamily bounds how many processes are looked at of a helper's.
const maxFamily = 64

// usage is what a process uses, or several.
type usage struct {
	user, system, threads float64 // seconds, but for the last

	memory          bool // whether the next two are known, in bytes
	resident, share float64

	files     bool // likewise
	openFiles float64
}

// measureProcess reads what a process uses, and with family also its children.
// ok is false when it has ended.
func measureProcess(pid int, family bool) (total usage, ok bool) {
	pids := []int{pid}
	for i := 0; i < len(pids); i++ {
		one, alive := measureOne(pids[i], family)
		if i == 0 && !alive {
			return usage{}, false
		}
		total.add(one)
		if family && len(pids) < maxFamily {
			pids = append(pids, children(pids[i])...)
		}
	}
	return total, true
}

func (u *usage) add(other usage) {
	u.user += other.user
	u.system += other.system
	u.threads += other.threads
	u.memory = u.memory || other.memory
	u.resident += other.resident
	u.share += other.share
	u.files = u.files || other.files
	u.openFiles += other.openFiles
}

// measureOne reads what one process uses, and with family the time of those of its
// children that have ended, so that the sum never falls.
func measureOne(pid int, family bool) (u usage, ok bool) {
	dir := "/proc/" + strconv.Itoa(pid) + "/"
	stat, ok := readStat(dir + "stat")
	if !ok {
		return usage{}, false
	}
	u.user, u.system, u.threads = stat.user, stat.system, stat.threads
	if family {
		u.user += stat.endedUser
		u.system += stat.endedSystem
	}
	if rollup, err := os.ReadFile(dir + "smaps_rollup"); err == nil {
		for line := range bytes.Lines(rollup) {
			fields := strings.Fields(string(line))
			if len(fields) < 2 {
				continue
			}
			const kilo = 1024
			switch value, _ := strconv.ParseFloat(fields[1], 64); fields[0] {
			case "Rss:":
				u.resident, u.memory = value*kilo, true
			case "Pss:":
				u.share, u.memory = value*kilo, true
			}
		}
	}
	if files, err := os.ReadDir(dir + "fd"); err == nil {
		u.files, u.openFiles = true, float64(len(files))
		if pid == os.Getpid() {
			u.openFiles-- // the directory itself
		}
	}
	return u, true
}

// children are the processes that the threads of a process have started.
func children(pid int) []int {
	dir := fmt.Sprintf("/proc/%d/task", pid)
	threads, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var pids []int
	for _, thread := range threads {
		data, err := os.ReadFile(dir + "/" + thread.Name() + "/children")
		if err != nil {
			continue
		}
		for field := range strings.FieldsSeq(string(data)) {
			if child, err := strconv.Atoi(field); err == nil {
				pids = append(pids, child)
			}
		}
	}
	return pids
}

// stat is what /proc/PID/stat tells.
type stat struct {
	user, system, threads  float64
	endedUser, endedSystem float64 // of children that have ended
}

// readStat reads it.
func readStat(path string) (stat, bool) {
	data, err := os.ReadFile(path)
	if err != nil {
		return stat{}, false
	}
	return parseStat(data)
}

// parseStat: field 2, the name in parentheses, may hold anything.
func parseStat(data []byte) (stat, bool) {
	const user, system, endedUser, endedSystem, threads = 11, 12, 13, 14, 17 // counted from the state, field 3
	fields := strings.Fields(string(data[bytes.LastIndexByte(data, ')')+1:]))
	if len(fields) <= threads {
		return stat{}, false
	}
	var s stat
	for field, to := range map[int]*float64{
		user: &s.user, system: &s.system, endedUser: &s.endedUser, endedSystem: &s.endedSystem,
	} {
		ticks, err := strconv.ParseFloat(fields[field], 64)
		if err != nil {
			return stat{}, false
		}
		*to = ticks / ticksPerSecond
	}
	var err error
	s.threads, err = strconv.ParseFloat(fields[threads], 64)
	return s, err == nil
}
