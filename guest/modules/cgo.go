package modules

// #include "helper.h"
import "C"

const (
	// helperPath is PID 1's program, which is the agent's: the kernel's helper.
	helperPath = C.KATA_HELPER_PATH
	// helperSocket is where the agent listens, in helperRoot.
	helperSocket = C.KATA_MODULES_SOCKET
	// maxName is the longest name that the kernel asks for, and a zero byte.
	maxName = C.KATA_MODULE_NAME_MAX
)
