// What the C and the Go half of package pid1 agree on.

#define KATA_INIT_PATH "/init"
#define KATA_AGENT_NAME "kata-agent"
#define KATA_BOOT_ARGUMENT "boot"
#define KATA_INIT_MARKER "kata-init: started"
