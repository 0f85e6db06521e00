package guestmem

import (
	"errors"
	"fmt"
	"runtime"
	"runtime/debug"
)

// ErrFault is wrapped by the error of Guard after a fault.
var ErrFault = errors.New("fault on guest memory")

// Guard runs f and turns a memory fault in it, on this goroutine, into an error
// that wraps ErrFault. A region that was whole when it was mapped faults when
// its file is cut short later; without Guard the fault would end the process.
// Deferred calls of f run; nothing else of it does. In a program built with the
// race detector, a fault in an operation of sync/atomic may end the process
// nevertheless.
func Guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		cause := recover()
		if cause == nil {
			return
		}
		fault, ok := cause.(interface {
			runtime.Error
			Addr() uintptr
		})
		if !ok {
			panic(cause)
		}
		err = fmt.Errorf("%w: %w", ErrFault, fault)
	}()
	return f()
}
