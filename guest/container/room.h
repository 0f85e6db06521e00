#ifndef KATA_ROOM_H
#define KATA_ROOM_H

#include <stddef.h>

/* kata_make_room reserves addresses for later; it returns an errno, 0 for none. */
int kata_make_room(size_t size);

#endif
