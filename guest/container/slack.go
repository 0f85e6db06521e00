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
// costs as much as it is long: an interrupt, two writes to the timer, and two
// switches of address spaces, which empty the emulator's translations of
// addresses. So all threads of this program sleep by the millisecond, and by ten of
// them in a helper, whose one goroutine is never in another's way (slack.c). The
// thread that becomes a container's process does not.
func restoreSlack() error {
	const usual = uintptr(C.KATA_USUAL_SLACK)
	err := unix.Prctl(unix.PR_SET_TIMERSLACK, usual, 0, 0, 0)
	if err != nil {
		return fmt.Errorf("make timers precise: %w", err)
	}
	return nil
}
