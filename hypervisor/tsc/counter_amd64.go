package tsc

// counter reads the time stamp counter (Intel's manual, volume 2, RDTSC), after all that
// comes before it.
func counter() uint64
