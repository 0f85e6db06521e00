package container

// #cgo LDFLAGS: -Wl,--wrap=mmap -Wl,--wrap=__mmap
// #include "quick.h"
// #include "room.h"
import "C"

import (
	"fmt"
	"runtime"
	"runtime/debug"
	"sync"
	"syscall"
	"unsafe"

	"github.com/opencontainers/runc/libcontainer/configs"
	"golang.org/x/sys/unix"
)

const (
	// roomSize is enough for libseccomp, which takes some MiB for docker's
	// profile, and for what Go's runtime keeps beside its heap. What is not used
	// is no memory, only addresses.
	roomSize = 64 << 20
	// spareThreads is how many threads Go may come to want at the same time: for
	// a call that takes long, and for cleaning up.
	spareThreads = 4
	// goArena is by how much Go's runtime reserves addresses for its heap, and
	// goHeapStep by how much the heap grows within.
	goArena, goHeapStep = 64 << 20, 4 << 20
)

// What libcontainer's helper process reports: logrus's warning level, written in
// three ways. It is the only text that libcontainer hands to the helper, before
// anything else, as it is given.
const (
	plainLevel = "3"
	roomyLevel = "03" // the helper makes room first
	quickLevel = C.KATA_QUICK_LEVEL
)

// helperLevel is libcontainer.Process.LogLevel for a process that will have these
// limits. Making room costs an exec a tenth of its time, above all by the
// threads: each is told of every change of the user.
func helperLevel(limits []configs.Rlimit) string {
	// Below this, a user's other processes may leave no thread to Go.
	const fewThreads = 4096
	for _, limit := range limits {
		switch {
		case limit.Type == unix.RLIMIT_AS || limit.Type == unix.RLIMIT_DATA:
			if limit.Soft != unix.RLIM_INFINITY {
				return roomyLevel
			}
		case limit.Type == unix.RLIMIT_NPROC && limit.Soft < fewThreads:
			return roomyLevel
		}
	}
	return plainLevel
}

// makeRoom prepares this process for setting up a container from inside when it
// has the container's resource limits already: libcontainer sets these first and
// makes the system call filter, in this process, afterwards. But Go alone has
// reserved about 1 GiB of addresses, so that with a lower RLIMIT_AS nothing can
// be mapped any more, and with a low RLIMIT_DATA no heap and no stack can grow.
//
// From now on, mappings that the kernel refuses for lack of memory come from a
// reserve; Go's heap has addresses to grow in, and there are threads to spare.
func makeRoom() error {
	if failure := C.kata_make_room(roomSize); failure != 0 {
		return fmt.Errorf("reserve %d bytes of addresses: %w", roomSize, syscall.Errno(failure))
	}
	// The process is short-lived, and collecting takes threads and memory.
	debug.SetGCPercent(-1)
	startThreads(spareThreads)
	growHeap()
	return nil
}

// growHeap makes sure that the arena in which Go's heap grows is not about to
// end. What it allocates is never touched, so that it takes no memory.
func growHeap() {
	for {
		step := make([]byte, goHeapStep)
		if uintptr(unsafe.Pointer(unsafe.SliceData(step)))%goArena < goArena/2 {
			return
		}
	}
}

// startThreads makes Go start threads, which then wait for work.
func startThreads(count int) {
	var started, ended sync.WaitGroup
	started.Add(count)
	release := make(chan struct{})
	for range count {
		ended.Go(func() {
			runtime.LockOSThread() // so that the next one needs another
			defer runtime.UnlockOSThread()
			started.Done()
			<-release
		})
	}
	started.Wait()
	close(release)
	ended.Wait()
}
