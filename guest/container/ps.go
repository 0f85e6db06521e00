package container

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"kata-runtime/guest/protocol"
)

// clockTicks is the unit of CPU times in /proc, per second: the same on every
// architecture that guests run on.
const clockTicks = 100

// Processes lists the processes of a container, in order of their ids in the
// guest. User is the numeric id; Time is the CPU time as hours:minutes:seconds.
func (r *Runtime) Processes(ctx context.Context, id string) ([]*protocol.ProcessInfo, error) {
	c, err := r.get(ctx, id)
	if err != nil {
		return nil, err
	}
	pids, err := c.lc.Processes()
	if err != nil {
		return nil, fmt.Errorf("list processes of container %q: %w", id, err)
	}
	slices.Sort(pids)
	var list []*protocol.ProcessInfo
	for _, pid := range pids {
		info, err := processInfo(pid)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
			continue // It ended meanwhile.
		}
		if err != nil {
			return nil, fmt.Errorf("list processes of container %q: %w", id, err)
		}
		list = append(list, info)
	}
	return list, nil
}

func processInfo(pid int) (*protocol.ProcessInfo, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	stat, err := os.ReadFile(dir + "/stat")
	if err != nil {
		return nil, err
	}
	info, err := parseStat(stat)
	if err != nil {
		return nil, fmt.Errorf("%s/stat: %w", dir, err)
	}
	owner, err := os.Stat(dir)
	if err != nil {
		return nil, err
	}
	if sys, ok := owner.Sys().(*syscall.Stat_t); ok {
		info.User = strconv.FormatUint(uint64(sys.Uid), 10)
	}
	cmdline, err := os.ReadFile(dir + "/cmdline")
	if err != nil {
		return nil, err
	}
	if args := strings.TrimRight(string(cmdline), "\x00"); args != "" {
		info.Command = strings.ReplaceAll(args, "\x00", " ")
	}
	return info, nil
}

// parseStat reads the line of /proc/PID/stat. The name of the program, in
// parentheses, may itself hold anything.
func parseStat(line []byte) (*protocol.ProcessInfo, error) {
	open, end := bytes.IndexByte(line, '('), bytes.LastIndexByte(line, ')')
	if open < 0 || end < open {
		return nil, fmt.Errorf("no program name in %q", line)
	}
	const parent, userTime, systemTime = 1, 11, 12 // after the name
	fields := strings.Fields(string(line[end+1:]))
	if len(fields) <= systemTime {
		return nil, fmt.Errorf("%d fields in %q", len(fields), line)
	}
	numbers := []string{string(bytes.TrimSpace(line[:open])), fields[parent], fields[userTime], fields[systemTime]}
	var values [4]int64
	for i, text := range numbers {
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return nil, fmt.Errorf("number %q: %w", text, err)
		}
		values[i] = n
	}
	seconds := (values[2] + values[3]) / clockTicks
	return &protocol.ProcessInfo{
		Pid: int32(values[0]), Ppid: int32(values[1]),
		Time:    fmt.Sprintf("%02d:%02d:%02d", seconds/3600, seconds/60%60, seconds%60),
		Command: "[" + string(line[open+1:end]) + "]",
	}, nil
}
