#include "room.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdint.h>
#include <sys/mman.h>
#include <unistd.h>

/*
 * The linker lets every call of mmap in this program, of the C library (which
 * calls it __mmap) and of Go's runtime (which calls the C library's) come here.
 * See makeRoom.
 */
void *__real_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset);

static char *room;             /* NULL before kata_make_room */
static size_t room_size;
static _Atomic size_t room_used;

int kata_make_room(size_t size)
{
	void *start = __real_mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (start == MAP_FAILED)
		return errno;
	room_size = size;
	room = start;
	return 0;
}

/*
 * take cuts a piece off the room: it is writable, and zero. A large one is
 * refused: it is for malloc's heap of a further thread, which does without.
 */
static void *take(size_t len)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	if (len == 0 || len > room_size / 4)
		return MAP_FAILED;
	len = (len + page - 1) / page * page;
	size_t used = atomic_load(&room_used);
	do {
		if (len > room_size - used)
			return MAP_FAILED;
	} while (!atomic_compare_exchange_weak(&room_used, &used, used + len));
	return room + used;
}

/*
 * without_accounting does what mmap was asked to when the process is at its
 * limits already: these count when a mapping is made, even one in the place of
 * another.
 */
static void *without_accounting(void *addr, size_t len, int prot, int flags)
{
	if (!(flags & MAP_FIXED))
		return take(len);
	/* Of addresses that are reserved; with RLIMIT_AS alone, or both. */
	if (mprotect(addr, len, prot) == 0)
		return addr;
	/* RLIMIT_DATA does not count what could be shared. */
	flags = (flags & ~MAP_PRIVATE) | MAP_SHARED;
	return __real_mmap(addr, len, prot, flags, -1, 0);
}

void *__wrap_mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
	void *mapped = __real_mmap(addr, len, prot, flags, fd, offset);
	if (mapped != MAP_FAILED || errno != ENOMEM || room == NULL || !(flags & MAP_ANONYMOUS) || !(flags & MAP_PRIVATE))
		return mapped;
	mapped = without_accounting(addr, len, prot, flags);
	if (mapped == MAP_FAILED)
		errno = ENOMEM;
	return mapped;
}

void *__wrap___mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
	return __wrap_mmap(addr, len, prot, flags, fd, offset);
}
