// Package node makes a Kubernetes node of a machine: it puts the programs, the
// guest's kernels and images and a configuration in place, and names the handler
// to containerd and CRI-O; and it takes all of that away again.
//
// The machine may be another root directory than the program's own, as in a
// container of a DaemonSet. Every path is resolved below that root, so that no
// symbolic link leads out of it.
//
// What was done is written down first, in a receipt on the machine: each file
// with the hash of its content, each directory, each edited configuration, each
// service that has to be restarted. Files appear by being renamed into place. So
// an installation that is killed at any point is finished by the next one, or
// undone, and a removal takes away what was installed and nothing else: a file
// that somebody else has put there or changed is never replaced or removed.
//
// A manager's configuration belongs to the node's owner. Where the manager reads
// a directory of files, one is added. Otherwise a block between two marks is
// added at the end of the file, and what is there stays byte for byte.
// containerd is asked, by `containerd config dump`, what it makes of the result:
// the handler has to be in it, and everything that was there before.
package node
