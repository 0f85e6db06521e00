#ifndef KATA_QUICK_H
#define KATA_QUICK_H

/* The description of a process of an exec; package container's quick.go writes
 * it. Numbers, each of 64 bits, then strings that end with a zero byte. */
#define KATA_QUICK_MAGIC 0x6b61746171756963L
#define KATA_QUICK_FD 3
#define KATA_QUICK_LEVEL "003"

enum {
	KATA_QUICK_IS, /* KATA_QUICK_MAGIC */
	KATA_QUICK_FLAGS,
	KATA_QUICK_UID,
	KATA_QUICK_GID,
	KATA_QUICK_UMASK,
	KATA_QUICK_BOUNDING,
	KATA_QUICK_EFFECTIVE,
	KATA_QUICK_PERMITTED,
	KATA_QUICK_INHERITABLE,
	KATA_QUICK_AMBIENT,
	KATA_QUICK_GROUPS, /* how many of each */
	KATA_QUICK_DIRECTORIES,
	KATA_QUICK_ARGUMENTS,
	KATA_QUICK_VARIABLES,
	KATA_QUICK_NUMBERS /* the groups follow */
};

#define KATA_QUICK_NO_NEW_PRIVILEGES 1
#define KATA_QUICK_SET_UMASK 2
#define KATA_QUICK_FIND_HOME 4

/* kata_quick_process becomes the process that was described, or returns: nothing
 * is described, or libcontainer is to do it. */
void kata_quick_process(void);

#endif
