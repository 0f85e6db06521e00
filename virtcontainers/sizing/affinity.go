package sizing

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ParseCPUs reads a list of CPUs such as "0-2,5". An empty list is an error.
func ParseCPUs(list string) (unix.CPUSet, error) {
	var set unix.CPUSet
	limit := len(set) * strconv.IntSize
	for part := range strings.SplitSeq(list, ",") {
		first, last, ranged := strings.Cut(strings.TrimSpace(part), "-")
		if !ranged {
			last = first
		}
		from, err := strconv.Atoi(first)
		to, err2 := strconv.Atoi(last)
		if err := errors.Join(err, err2); err != nil || from < 0 || to < from || to >= limit {
			return unix.CPUSet{}, fmt.Errorf("%q is no list of CPUs below %d", list, limit)
		}
		for cpu := from; cpu <= to; cpu++ {
			set.Set(cpu)
		}
	}
	return set, nil
}

// Union is what the threads of a machine may run on: all that one of the lists
// names, and everything when a container has no list. Lists that cannot be read
// count as none.
func Union(lists []string, everything unix.CPUSet) unix.CPUSet {
	var union unix.CPUSet
	for _, list := range lists {
		set, err := ParseCPUs(list)
		if err != nil {
			return everything
		}
		for i := range union {
			union[i] |= set[i] & everything[i]
		}
	}
	if union.Count() == 0 {
		return everything
	}
	return union
}

// Pin lets threads of a process run on the CPUs of a set only. A thread that has
// ended is not an error. One that is not the process's is left alone, whoever said so:
// its id may have been given to another process meanwhile.
func Pin(process int, threads []int, set unix.CPUSet) error {
	for _, thread := range threads {
		if !isThreadOf(process, thread) {
			continue
		}
		if err := unix.SchedSetaffinity(thread, &set); err != nil && !errors.Is(err, unix.ESRCH) {
			return fmt.Errorf("pin thread %d: %w", thread, err)
		}
	}
	return nil
}

func isThreadOf(process, thread int) bool {
	if process <= 0 || thread <= 0 { // 0 is the calling thread
		return false
	}
	_, err := os.Stat("/proc/" + strconv.Itoa(process) + "/task/" + strconv.Itoa(thread))
	return err == nil
}
