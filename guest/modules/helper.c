// The helper that the kernel starts for each module that it wants: it hands the
// name to the agent and waits until that is done. It runs from a constructor,
// before the Go runtime would start.

#define _GNU_SOURCE
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "helper.h"

// ask returns the agent's answer: 0 when the module is there.
static int ask(const char *name)
{
	struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = KATA_MODULES_SOCKET};
	size_t length = strlen(name);
	char answer = 1;
	int fd;

	if (length == 0 || length >= KATA_MODULE_NAME_MAX)
		return 1;
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return 1;
	if (send(fd, name, length, MSG_NOSIGNAL) != (ssize_t)length)
		return 1;
	if (recv(fd, &answer, 1, 0) != 1)
		return 1;
	return answer;
}

// The kernel's request_module runs "/sbin/modprobe -q -- NAME".
__attribute__((constructor)) static void kata_modules_helper(int argc, char **argv)
{
	if (argc != 4 || strcmp(argv[1], "-q") != 0 || strcmp(argv[2], "--") != 0)
		return;
	_exit(ask(argv[3]));
}
