package qemu

// What QEMU's start and the guest's boot cost was measured; the numbers stand
// here beside what follows from them.

// translationMiB is the size of TCG's cache of translated code, in MiB. QEMU's
// default is 1024, all of which a guest that runs long enough fills: the host
// pays for it. When the cache is full QEMU starts it afresh.
const translationMiB = 256

// memoryBlockMiB is the granularity of memory hot-plug: Linux on x86 adds
// memory in blocks of 128 MiB.
const memoryBlockMiB = 128
