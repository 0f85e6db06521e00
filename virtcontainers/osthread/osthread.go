// Package osthread runs functions that change what belongs to a thread, such as
// its namespaces, on a thread that ends with them.
package osthread

import (
	"runtime"

	"golang.org/x/sys/unix"
)

// Run calls f on an operating system thread of its own, which ends afterwards,
// and returns f's error. It is never the process's first thread: that one
// cannot end, and stands for the process in /proc/PID.
func Run(f func() error) error {
	result := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == unix.Getpid() {
			defer runtime.UnlockOSThread() // kept until another thread has done it
			result <- Run(f)
			return
		}
		result <- f() // never unlocked: the thread ends with the goroutine
	}()
	return <-result
}
