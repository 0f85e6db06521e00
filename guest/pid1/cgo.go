package pid1

// #include "init.h"
import "C"

const (
	// initMarker is what PID 1 prints; a test compares it with the protocol's.
	initMarker = C.KATA_INIT_MARKER
	// bootArgument is how PID 1 starts the agent.
	bootArgument = C.KATA_BOOT_ARGUMENT
)
