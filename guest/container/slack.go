package container

// #cgo LDFLAGS: -Wl,--wrap=nsexec
// #include "slack.h"
import "C"

import (
	"fmt"

	"golang.org/x/sys/unix"
)

// restoreSlack gives the calling thread the timers that programs are used to.
//
// Go's runtime watches its threads from one that sleeps for 20 microseconds at a
// time while there is something to do. In an emulated guest each of its turns
// costs more than that: an interrupt, two writes to the timer, and two switches
// of address spaces, which empty the emulator's translations of addresses. They were
// a tenth of what an exec takes. So all threads of the agent and of its helpers sleep
// by 10 milliseconds (slack.c), two of which a goroutine may have to wait for another
// one's blocking system call on a guest of one processor. The thread that becomes a
// container's process does not.
func restoreSlack() error {
	const usual = uintptr(C.KATA_USUAL_SLACK)
	err := unix.Prctl(unix.PR_SET_TIMERSLACK, usual, 0, 0, 0)
	if err != nil {
		return fmt.Errorf("make timers precise: %w", err)
	}
	return nil
}
