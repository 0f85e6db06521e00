// Package cmdline changes what a list of processes shows of the calling process, whose
// task was not known when it was started.
package cmdline

import (
	"bytes"
	"fmt"
	"os"
	"strconv"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// memoryMap is the kernel's struct prctl_mm_map, see PR_SET_MM_MAP in prctl(2).
type memoryMap struct {
	startCode, endCode, startData, endData, startBreak, endBreak, startStack uint64
	argStart, argEnd, envStart, envEnd                                       uint64

	auxv     uint64
	auxvSize uint32
	exe      int32
}

// Set replaces the command line that proc_pid_cmdline(5) shows. The memory that it takes
// is never given back. Kernels without CONFIG_CHECKPOINT_RESTORE cannot do it.
func Set(args []string) error {
	current, err := currentMap()
	if err != nil {
		return fmt.Errorf("set the command line: %w", err)
	}
	text := strings.Join(args, "\x00") + "\x00"
	memory, err := unix.Mmap(-1, 0, len(text), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS)
	if err != nil {
		return fmt.Errorf("set the command line: %w", err)
	}
	copy(memory, text)
	current.argStart = uint64(uintptr(unsafe.Pointer(unsafe.SliceData(memory))))
	current.argEnd = current.argStart + uint64(len(text))
	_, _, errno := unix.Syscall6(unix.SYS_PRCTL, unix.PR_SET_MM, unix.PR_SET_MM_MAP,
		uintptr(unsafe.Pointer(current)), unsafe.Sizeof(*current), 0, 0)
	if errno != 0 {
		return fmt.Errorf("set the command line: %w", errno)
	}
	return nil
}

// currentMap is what the kernel knows of this process's memory; its fields that nothing
// is said of stay.
func currentMap() (*memoryMap, error) {
	stat, err := os.ReadFile("/proc/self/stat")
	if err != nil {
		return nil, err
	}
	// Those behind the name in parentheses begin with the third, see proc_pid_stat(5).
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	m := &memoryMap{exe: -1}
	for number, to := range map[int]*uint64{
		26: &m.startCode, 27: &m.endCode, 28: &m.startStack, 45: &m.startData, 46: &m.endData, 47: &m.startBreak,
		48: &m.argStart, 49: &m.argEnd, 50: &m.envStart, 51: &m.envEnd,
	} {
		if number-3 >= len(fields) {
			return nil, fmt.Errorf("malformed process status %q", stat)
		}
		if *to, err = strconv.ParseUint(fields[number-3], 10, 64); err != nil {
			return nil, fmt.Errorf("malformed process status: %w", err)
		}
	}
	end, _, errno := unix.Syscall(unix.SYS_BRK, 0, 0, 0)
	if errno != 0 {
		return nil, fmt.Errorf("find the end of the data: %w", errno)
	}
	m.endBreak = uint64(end)
	return m, nil
}
