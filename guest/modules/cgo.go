package modules

// #include "helper.h"
import "C"

const (
	// helperPath is how the kernel finds the helper: PID 1's program is the agent's.
	helperPath = C.KATA_HELPER_PATH
	// helperSocket is where the agent listens, in helperRoot.
	helperSocket = C.KATA_MODULES_SOCKET
	// maxName is the longest name that the kernel asks for, and a zero byte.
	maxName = C.KATA_MODULE_NAME_MAX
)
