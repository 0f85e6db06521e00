package stream

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// pipeSize is the capacity in bytes of a pipe that much goes through: the largest
// that the kernel grants by default, so that a process and the copying to the
// host seldom wait for each other. Its memory is used only while it is full.
const pipeSize = 1 << 20

// OutputPipe returns a pipe for a process's output: the agent's end, which
// takes deadlines, and the process's, which blocks as programs expect.
func OutputPipe() (agent, process *os.File, err error) {
	return pipe(true)
}

// InputPipe returns a pipe for a process's input, its ends as in OutputPipe.
func InputPipe() (agent, process *os.File, err error) {
	return pipe(false)
}

func pipe(output bool) (agent, process *os.File, err error) {
	var fds [2]int
	if err := unix.Pipe2(fds[:], unix.O_CLOEXEC); err != nil {
		return nil, nil, fmt.Errorf("make pipe: %w", err)
	}
	agentFD, processFD := fds[1], fds[0]
	if output {
		agentFD, processFD = fds[0], fds[1]
		// A smaller pipe works too.
		_, _ = unix.FcntlInt(uintptr(agentFD), unix.F_SETPIPE_SZ, pipeSize)
	}
	// Set before NewFile, which then hands the descriptor to the poller.
	if err := unix.SetNonblock(agentFD, true); err != nil {
		unix.Close(agentFD)
		unix.Close(processFD)
		return nil, nil, fmt.Errorf("make pipe: %w", err)
	}
	return os.NewFile(uintptr(agentFD), "pipe"), os.NewFile(uintptr(processFD), "pipe"), nil
}
