// Package turn lets the boots of a host take turns: as many machines boot at a time as
// there are processors to do it. Twenty that boot at once on two processors each get a
// tenth of one, and reach the time that a boot may take without anything being wrong.
//
// There is no daemon. A line is a directory in which every boot that waits, and every one
// that has its turn, has a file that its process has locked: the kernel unlocks it however
// the process ends, so that what is not locked is a leftover, which whoever looks removes.
// Each step (look, and then join the line or begin) is taken under the lock of the
// directory. Who came first begins first; a machine that nobody waits for comes after
// everybody else, also those who come later.
//
// Nobody polls: the first in line is told by inotify that a boot has ended, each other
// waits for the lock of the one before it. Neither a process that does not move, nor a host
// that is busy otherwise, nor a lost event stops the line for long: a turn keeps others
// waiting for a limited time, and one that nobody has taken for some seconds is had by
// whoever looks.
//
// A host on which this cannot be done is ErrUnavailable, and the boot begins at once.
package turn
