package container

import (
	"context"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// programInterval is after how long is looked whether a process has become its
// program: the kernel tells nobody. Later it is a quarter of the time that has
// passed: the agent goes before containers, and on a processor that others take
// most of, looking all the time would leave the process none.
const programInterval = time.Millisecond

// neverExecuted is PF_FORKNOEXEC in the flags of /proc/PID/stat: the process was
// forked, as libcontainer's is, and has executed no program since.
const neverExecuted = 0x40

// awaitProgram waits until a process that was let go has become its program, or
// has ended. Until then a signal meets Go's handlers, and SIGTERM ends what as
// process 1 would ignore it, or would handle it later.
func (p *process) awaitProgram(ctx context.Context) error {
	pid, err := p.lp.Pid()
	if err != nil {
		return nil // it has ended
	}
	began := time.Now()
	timer := time.NewTimer(programInterval)
	defer timer.Stop()
	for {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil || hasProgram(string(stat)) {
			return nil
		}
		select {
		case <-p.done:
			return nil
		case <-ctx.Done():
			return fmt.Errorf("wait for the program: %w", context.Cause(ctx))
		case <-timer.C:
			timer.Reset(max(programInterval, time.Since(began)/4))
		}
	}
}

// hasProgram tells from /proc/PID/stat whether a process has executed one. The
// name, in brackets, may be anything.
func hasProgram(stat string) bool {
	const flags = 6 // counted from the state
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) <= flags {
		return true
	}
	value, err := strconv.ParseUint(fields[flags], 10, 32)
	return err != nil || value&neverExecuted == 0
}
