// What the C and the Go half of package modules agree on.

// PID 1's program, which is the agent's: the kernel's helper.
#define KATA_HELPER_PATH "/proc/1/exe"
// Where the agent listens, in the root directory of the kernel's helpers.
#define KATA_MODULES_SOCKET "/modules"
// The longest name that the kernel asks for, with the zero byte (MODULE_NAME_LEN).
#define KATA_MODULE_NAME_MAX 64
