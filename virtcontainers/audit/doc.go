// Package audit reads what the processes of a pod are on the host, from /proc, and
// compares that with what docs/security.md promises of each.
//
// The kernel is asked, and nobody else: a process that was taken over has no say in
// what is read. A process is named by its id and its start time, and everything is
// read by way of one open directory of /proc, which belongs to that process alone:
// once it has ended, its directory is empty, whoever has its id then.
//
// What /proc does not tell is not here: the session keyring of another process, and
// the rules of a system call filter, for which there is the number of filters.
package audit
