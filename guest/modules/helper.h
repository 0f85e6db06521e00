// What the C and the Go half of package modules agree on.

// By which the kernel starts the helper: PID 1's program is the agent's.
#define KATA_HELPER_PATH "/proc/1/exe"
// Where the agent listens, in the root directory of the kernel's helpers.
#define KATA_MODULES_SOCKET "/modules"
// The longest name that the kernel asks for, with the zero byte (MODULE_NAME_LEN).
#define KATA_MODULE_NAME_MAX 64
