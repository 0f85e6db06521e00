package jail

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// Threads returns the thread ids of a process as this process knows them, by
// those that it sees itself in its own PID namespace. Whatever the process says
// of its threads is looked up there: no other process's can be found.
func Threads(pid int) (map[int]int, error) {
	dir := filepath.Join("/proc", strconv.Itoa(pid), "task")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, fmt.Errorf("list the threads of process %d: %w", pid, err)
	}
	threads := make(map[int]int, len(entries))
	for _, entry := range entries {
		outer, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		status, err := os.ReadFile(filepath.Join(dir, entry.Name(), "status"))
		if err != nil {
			continue // it has ended
		}
		if inner, ok := innermost(status); ok {
			threads[inner] = outer
		}
	}
	return threads, nil
}

// innermost returns the last field of NSpid, which lists a thread's ids from the
// reader's PID namespace inwards.
func innermost(status []byte) (int, bool) {
	for line := range bytes.Lines(status) {
		if rest, found := bytes.CutPrefix(line, []byte("NSpid:")); found {
			fields := bytes.Fields(rest)
			if len(fields) == 0 {
				return 0, false
			}
			id, err := strconv.Atoi(string(fields[len(fields)-1]))
			return id, err == nil
		}
	}
	return 0, false
}
