// The end of libcontainer's setns init, in C: what quick.go has described does not
// need Go's runtime, whose start is most of an exec's cost. It follows
// linuxSetnsInit.Init step by step (setns_init_linux.go and init_linux.go of runc
// 1.5), and speaks to libcontainer's setnsProcess as that does.
//
// Until it says that it is ready, what is out of the ordinary is left to
// libcontainer, which begins anew and reports it. Afterwards errors are its own.

#define _GNU_SOURCE
#include "quick.h"

#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/capability.h>
#include <linux/keyctl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define FAILURE 255 // libcontainer's exit status
#define PASSWD_LIMIT 65536

struct quick {
	const uint64_t *number;
	gid_t *groups;
	char *cwd, *keyring;
	char **directories, **arguments, **variables; // end with NULL
	char path[4096]; // the program's
	char home[PASSWD_LIMIT + sizeof("HOME=")];
	int init_pipe, sync_pipe, log_pipe;
};

// load maps the description; false when there is none, or it is damaged.
static int load(struct quick *q)
{
	struct stat st;
	char *at, *end, ***lists[] = {&q->directories, &q->arguments, &q->variables};
	uint64_t i, list;

	if (fstat(KATA_QUICK_FD, &st) < 0 || st.st_size < (off_t)(KATA_QUICK_NUMBERS * sizeof(uint64_t)))
		return 0;
	at = mmap(NULL, (size_t)st.st_size, PROT_READ | PROT_WRITE, MAP_PRIVATE, KATA_QUICK_FD, 0);
	if (at == MAP_FAILED)
		return 0;
	end = at + st.st_size;
	q->number = (uint64_t *)at;
	if (q->number[KATA_QUICK_IS] != KATA_QUICK_MAGIC || end[-1] != 0)
		return 0;
	for (i = KATA_QUICK_GROUPS; i < KATA_QUICK_NUMBERS; i++)
		if (q->number[i] > (uint64_t)st.st_size)
			return 0;
	at += KATA_QUICK_NUMBERS * sizeof(uint64_t);
	if ((uint64_t)(end - at) < q->number[KATA_QUICK_GROUPS] * sizeof(uint64_t))
		return 0;
	q->groups = calloc(q->number[KATA_QUICK_GROUPS] + 1, sizeof(gid_t));
	if (!q->groups)
		return 0;
	for (i = 0; i < q->number[KATA_QUICK_GROUPS]; i++, at += sizeof(uint64_t))
		q->groups[i] = (gid_t)q->number[KATA_QUICK_NUMBERS + i];
#define NEXT(into) do { \
		if (at >= end) \
			return 0; \
		(into) = at; \
		at += strlen(at) + 1; \
	} while (0)
	NEXT(q->cwd);
	NEXT(q->keyring);
	for (list = 0; list < 3; list++) {
		uint64_t count = q->number[KATA_QUICK_DIRECTORIES + list];

		*lists[list] = calloc(count + 2, sizeof(char *)); // HOME may be added
		if (!*lists[list])
			return 0;
		for (i = 0; i < count; i++)
			NEXT((*lists[list])[i]);
	}
#undef NEXT
	return q->arguments[0] != NULL;
}

static int descriptor(const char *name)
{
	const char *text = getenv(name);

	return text ? atoi(text) : -1;
}

// executable tells, as Go's os/exec does, whether the process may execute path; if
// not, *which is the call that says so, and errno why.
static int executable(const char *path, const char **which)
{
	struct stat st;

	*which = "stat";
	if (stat(path, &st) < 0)
		return 0;
	*which = NULL;
	if (S_ISDIR(st.st_mode)) {
		errno = EISDIR;
		return 0;
	}
	return syscall(SYS_faccessat2, AT_FDCWD, path, X_OK, AT_EACCESS) == 0;
}

// find looks for the program as Go's os/exec does.
static int find(struct quick *q, const char **which)
{
	const char *name = q->arguments[0];
	char **directory;

	if (strchr(name, '/')) {
		if (strlen(name) >= sizeof(q->path))
			return 0;
		strcpy(q->path, name);
		return executable(name, which);
	}
	for (directory = q->directories; *directory; directory++) {
		const char *separator = strcmp(*directory, "/") ? "/" : "";

		if ((size_t)snprintf(q->path, sizeof(q->path), "%s%s%s", *directory, separator, name) < sizeof(q->path) &&
		    executable(q->path, which))
			return 1;
	}
	*which = NULL;
	errno = ENOENT;
	return 0;
}

// field takes a field of a line of /etc/passwd.
static char *field(char **line)
{
	char *begin = *line, *colon;

	if (!begin)
		return NULL;
	colon = strchr(begin, ':');
	if (colon)
		*colon++ = 0;
	*line = colon;
	return begin;
}

// find_home looks the user's home up in the container's /etc/passwd, which may
// hold anything: false for what is not plain.
static int find_home(struct quick *q)
{
	static char text[PASSWD_LIMIT];
	struct stat st;
	char *line, *rest = text, *home = "/";
	size_t length = 0;
	ssize_t n = 0;
	int fd = open("/etc/passwd", O_RDONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);

	if (fd < 0 && errno != ENOENT)
		return 0;
	if (fd >= 0) {
		if (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode)) {
			close(fd);
			return 0;
		}
		while (length < sizeof(text) - 1 && (n = read(fd, text + length, sizeof(text) - 1 - length)) > 0)
			length += (size_t)n;
		close(fd);
		if (n < 0 || length == sizeof(text) - 1 || strlen(text) != length)
			return 0;
	}
	while ((line = strsep(&rest, "\n"))) {
		char *uid, *digit, *directory;

		if (!*line)
			continue;
		field(&line);
		field(&line);
		uid = field(&line);
		field(&line);
		field(&line);
		directory = field(&line);
		if (!directory || !line || !*uid || strlen(uid) > 10)
			return 0;
		for (digit = uid; *digit; digit++)
			if (!isdigit((unsigned char)*digit))
				return 0;
		if (strtoull(uid, NULL, 10) == q->number[KATA_QUICK_UID]) {
			home = directory;
			break;
		}
	}
	snprintf(q->home, sizeof(q->home), "HOME=%s", home);
	q->variables[q->number[KATA_QUICK_VARIABLES]] = q->home;
	return 1;
}

// prepare does what may be done twice; false when libcontainer is to go on.
static int prepare(struct quick *q)
{
	// Until the process is in its cgroup, the parent says nothing.
	struct pollfd configured = {.fd = q->init_pipe, .events = POLLIN};
	char inside[4096];
	const char *which;
	uint64_t flags = q->number[KATA_QUICK_FLAGS];

	while (poll(&configured, 1, -1) < 0)
		if (errno != EINTR)
			return 0;
	if (!(configured.revents & POLLIN))
		return 0;
	// As in verifyCwd: a directory outside of the container has no absolute name.
	if (chdir(q->cwd) < 0 || syscall(SYS_getcwd, inside, sizeof(inside)) < 0 || inside[0] != '/')
		return 0;
	if (!find(q, &which))
		return 0;
	if (flags & KATA_QUICK_FIND_HOME && !find_home(q))
		return 0;
	if (*q->keyring && syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, q->keyring) < 0 && errno != ENOSYS)
		return 0;
	if (flags & KATA_QUICK_NO_NEW_PRIVILEGES && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return 0;
	if (flags & KATA_QUICK_SET_UMASK)
		umask((mode_t)q->number[KATA_QUICK_UMASK]);
	return 1;
}

// say_ready lets the parent set the limits, and waits until it has. It takes the
// configuration, which nobody needs, off the parent's hands.
static int say_ready(struct quick *q)
{
	static const char ready[] = "{\"type\":\"procReady\",\"flags\":0}", run[] = "{\"type\":\"procRun\",\"flags\":0}";
	char buffer[4096];

	if (write(q->sync_pipe, ready, sizeof(ready) - 1) != sizeof(ready) - 1)
		return 0;
	for (;;) {
		struct pollfd fds[] = {{.fd = q->sync_pipe, .events = POLLIN}, {.fd = q->init_pipe, .events = POLLIN}};

		if (poll(fds, 2, -1) < 0) {
			if (errno == EINTR)
				continue;
			return 0;
		}
		if (fds[0].revents) {
			ssize_t n = read(q->sync_pipe, buffer, sizeof(buffer));

			return n == sizeof(run) - 1 && memcmp(buffer, run, sizeof(run) - 1) == 0;
		}
		if (read(q->init_pipe, buffer, sizeof(buffer)) <= 0)
			return 0;
	}
}

static const char *reason(char *text, size_t size)
{
	snprintf(text, size, "%s", strerror(errno));
	text[0] = (char)tolower((unsigned char)text[0]); // as Go has them
	return text;
}

// fail_with tells the parent what libcontainer would. The agent has seen to it that
// nothing that is quoted is long or needs escapes.
static void fail_with(struct quick *q, const char *message)
{
	char text[2048];
	int length = snprintf(text, sizeof(text), "{\"type\":\"procError\",\"flags\":0,\"arg\":{\"message\":\"%s\"}}", message);

	if (length > 0 && write(q->sync_pipe, text, (size_t)length) < 0) {
		// The parent has gone.
	}
	_exit(FAILURE);
}

static void fail(struct quick *q, const char *what)
{
	char message[1024], why[100];

	reason(why, sizeof(why));
	snprintf(message, sizeof(message), "%s%s", what, why);
	fail_with(q, message);
}

static void fail_to_find(struct quick *q, const char *which)
{
	const char *name = q->arguments[0];
	char message[1024], why[100];

	reason(why, sizeof(why));
	if (!strchr(name, '/'))
		snprintf(message, sizeof(message), "exec: \\\"%s\\\": executable file not found in $PATH", name);
	else if (which)
		snprintf(message, sizeof(message), "exec: \\\"%s\\\": %s %s: %s", name, which, name, why);
	else
		snprintf(message, sizeof(message), "exec: \\\"%s\\\": %s", name, why);
	fail_with(q, message);
}

static void give_streams(struct quick *q)
{
	uid_t uid = (uid_t)q->number[KATA_QUICK_UID];
	struct stat st;
	int fd;

	for (fd = 0; fd <= 2; fd++) {
		if (fstat(fd, &st) < 0)
			fail(q, "unable to setup user: fstat: ");
		if (st.st_uid == uid || (S_ISCHR(st.st_mode) && st.st_rdev == makedev(1, 3)))
			continue;
		if (fchown(fd, uid, (gid_t)-1) < 0 && errno != EPERM && errno != EROFS)
			fail(q, "unable to setup user: chown: ");
	}
}

static void drop_bounding(struct quick *q)
{
	unsigned long cap;

	for (cap = 0; cap < 64; cap++) {
		if (q->number[KATA_QUICK_BOUNDING] >> cap & 1)
			continue;
		if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) < 0) {
			if (errno == EINVAL && cap > 31) // the kernel knows no more
				return;
			fail(q, "unable to apply bounding set: ");
		}
	}
}

static void set_capabilities(struct quick *q)
{
	struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct data[2];
	unsigned long cap;
	int half;

	for (half = 0; half < 2; half++) {
		data[half].effective = (uint32_t)(q->number[KATA_QUICK_EFFECTIVE] >> 32 * half);
		data[half].permitted = (uint32_t)(q->number[KATA_QUICK_PERMITTED] >> 32 * half);
		data[half].inheritable = (uint32_t)(q->number[KATA_QUICK_INHERITABLE] >> 32 * half);
	}
	if (syscall(SYS_capset, &header, data) < 0)
		fail(q, "unable to apply caps: can't apply capabilities: ");
	if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 && errno != EINVAL)
		fail(q, "unable to apply caps: ");
	for (cap = 0; cap < 64; cap++)
		if (q->number[KATA_QUICK_AMBIENT] >> cap & 1)
			prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0); // what cannot be is left out
}

// finalize is finalizeNamespace.
static void finalize(struct quick *q)
{
	if (syscall(SYS_close_range, 3U, ~0U, 4U /* CLOSE_RANGE_CLOEXEC */) < 0)
		fail(q, "error closing exec fds: ");
	drop_bounding(q);
	if (prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0)
		fail(q, "unable to set keep caps: ");
	give_streams(q);
	if (setgroups(q->number[KATA_QUICK_GROUPS], q->groups) < 0)
		fail(q, "unable to setup user: setgroups: ");
	if (setgid((gid_t)q->number[KATA_QUICK_GID]) < 0 || setuid((uid_t)q->number[KATA_QUICK_UID]) < 0)
		fail(q, "unable to setup user: ");
	if (prctl(PR_SET_KEEPCAPS, 0, 0, 0, 0) < 0)
		fail(q, "unable to clear keep caps: ");
	set_capabilities(q);
}

void kata_quick_process(void)
{
	static struct quick q;
	const char *level = getenv("_LIBCONTAINER_LOGLEVEL"), *which = NULL;
	char why[100];

	if (!level || strcmp(level, KATA_QUICK_LEVEL) != 0)
		return;
	// Whoever becomes the process, it is not for it.
	if (fcntl(KATA_QUICK_FD, F_SETFD, FD_CLOEXEC) < 0)
		return;
	q.init_pipe = descriptor("_LIBCONTAINER_INITPIPE");
	q.sync_pipe = descriptor("_LIBCONTAINER_SYNCPIPE");
	q.log_pipe = descriptor("_LIBCONTAINER_LOGPIPE");
	if (q.init_pipe < 0 || q.sync_pipe < 0 || q.log_pipe < 0 || !load(&q) || !prepare(&q))
		return;
	if (!say_ready(&q))
		_exit(FAILURE); // the parent knows why
	finalize(&q);
	if (!find(&q, &which))
		fail_to_find(&q, which);
	// As CVE-2024-21626 teaches, nothing of the guest's is open at this point.
	if (syscall(SYS_close_range, 3U, ~0U, 0U) < 0)
		fail(&q, "close files: ");
	execve(q.path, q.arguments, q.variables);
	dprintf(STDERR_FILENO, "exec %s: %s\n", q.path, reason(why, sizeof(why)));
	_exit(FAILURE);
}
