// The whole of PID 1, in C: it runs from a constructor, before the Go runtime
// would start, which costs tens of milliseconds under emulation and several MB
// for good. Package pid1 documents what it does and why.

#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/memfd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <sys/wait.h>
#include <unistd.h>

#include "init.h"

// Set on the second start of PID 1, from the sealed program.
#define REAP_ARGUMENT "--kata-reap"

// say writes a line to the console, if that exists yet.
static void say(const char *text)
{
	char line[256];
	int length, fd;

	fd = open("/dev/console", O_WRONLY | O_NOCTTY | O_CLOEXEC);
	if (fd < 0)
		return;
	length = snprintf(line, sizeof(line), "%s\n", text);
	if (length > 0 && write(fd, line, (size_t)length) < 0) {
		// There is nowhere to report this.
	}
	close(fd);
}

static void power_off(void)
{
	// File systems were flushed by the agent; a sync here could hang for ever
	// on a share whose host side is gone.
	reboot(RB_POWER_OFF);
	reboot(RB_AUTOBOOT);
	_exit(1); // The kernel panics: the host sees that too.
}

static void fail(const char *what)
{
	char text[200];

	snprintf(text, sizeof(text), "kata-init: %s: %s", what, strerror(errno));
	say(text);
	power_off();
}

// reap waits for every child, orphans included, until the agent has ended.
static void reap(pid_t agent)
{
	char text[100];
	int status;
	pid_t pid;

	for (;;) {
		pid = wait(&status);
		if (pid < 0 && errno != EINTR)
			fail("wait for children");
		if (pid != agent)
			continue;
		if (WIFSIGNALED(status)) {
			snprintf(text, sizeof(text), "kata-init: the agent was ended by signal %d", WTERMSIG(status));
			say(text);
		} else if (WEXITSTATUS(status) != 0) {
			snprintf(text, sizeof(text), "kata-init: the agent ended with status %d", WEXITSTATUS(status));
			say(text);
		}
		power_off();
	}
}

// open_standard_streams makes sure that no file gets one of their numbers.
static void open_standard_streams(void)
{
	int fd;

	if (mknod("/dev/null", S_IFCHR | 0666, makedev(1, 3)) < 0 && errno != EEXIST)
		fail("make /dev/null");
	do {
		fd = open("/dev/null", O_RDWR);
		if (fd < 0)
			fail("open /dev/null");
	} while (fd <= 2);
	close(fd);
}

// seal_program copies this program into a memory file that nobody can change.
static int seal_program(const char *path)
{
	struct stat st;
	char *program;
	off_t done;
	ssize_t n;
	int in, sealed;

	in = open(path, O_RDONLY | O_CLOEXEC);
	if (in < 0 || fstat(in, &st) < 0)
		fail("open own program");
	program = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, in, 0);
	sealed = memfd_create(KATA_AGENT_NAME, MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (program == MAP_FAILED || sealed < 0)
		fail("copy own program");
	for (done = 0; done < st.st_size; done += n) {
		n = write(sealed, program + done, (size_t)(st.st_size - done));
		if (n <= 0)
			fail("copy own program");
	}
	if (fcntl(sealed, F_ADD_SEALS, F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE) < 0)
		fail("seal own program");
	munmap(program, (size_t)st.st_size);
	close(in);
	return sealed;
}

// raise_limits gives the guest's programs the usual limits of open files in
// place of the kernel's: few unless asked for, many for those that ask.
static void raise_limits(void)
{
	struct rlimit files = {.rlim_cur = 1024, .rlim_max = 1 << 20};

	if (setrlimit(RLIMIT_NOFILE, &files) < 0)
		fail("raise the limit of open files");
}

// on_disk says whether the root file system is an image's, which nobody can write.
static int on_disk(void)
{
	struct statfs fs;

	if (statfs("/", &fs) < 0)
		fail("find what the root file system is");
	return fs.f_type != RAMFS_MAGIC && fs.f_type != TMPFS_MAGIC;
}

// start_on_disk runs the agent from the image: its pages are those of the file, and
// there is no other copy that could be freed.
static void start_on_disk(char *path, char **agent_args, char **environment)
{
	pid_t agent;

	// An image has no device nodes: making one takes privileges. A kernel that mounts
	// them by itself (CONFIG_DEVTMPFS_MOUNT) says that it is busy.
	if (mount("devtmpfs", "/dev", "devtmpfs", MS_NOSUID, "mode=0755") < 0 && errno != EBUSY)
		fail("mount /dev");
	open_standard_streams();
	say(KATA_INIT_MARKER);
	raise_limits();
	agent = fork();
	if (agent < 0)
		fail("start agent");
	if (agent == 0) {
		setsid();
		execve(path, agent_args, environment);
		_exit(127);
	}
	reap(agent);
}

static void start(char *path)
{
	char *agent_args[] = {KATA_AGENT_NAME, KATA_BOOT_ARGUMENT, NULL};
	char *environment[] = {"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", NULL};
	char number[20];
	char *init_args[] = {path, REAP_ARGUMENT, number, NULL};
	int sealed;
	pid_t agent;

	if (on_disk())
		start_on_disk(path, agent_args, environment);
	open_standard_streams();
	say(KATA_INIT_MARKER);
	raise_limits();
	sealed = seal_program(path);
	agent = fork();
	if (agent < 0)
		fail("start agent");
	if (agent == 0) {
		setsid();
		execveat(sealed, "", agent_args, environment, AT_EMPTY_PATH);
		_exit(127);
	}
	// PID 1 leaves the copy in the initramfs too, whose memory is then freed
	// when the agent deletes it.
	snprintf(number, sizeof(number), "%d", (int)agent);
	execveat(sealed, "", init_args, environment, AT_EMPTY_PATH);
	fail("start reaper");
}

// Both conditions are needed: tests and containers have a PID 1 too.
__attribute__((constructor)) static void kata_init(int argc, char **argv)
{
	if (getpid() != 1 || argc < 1 || strcmp(argv[0], KATA_INIT_PATH) != 0)
		return;
	if (argc == 3 && strcmp(argv[1], REAP_ARGUMENT) == 0)
		reap((pid_t)atoi(argv[2]));
	start(argv[0]);
}
