// Package monitor is the socket of a pod for whoever looks after it: it tells the
// pod's figures, and opens a process, such as a shell, in the guest itself. The
// owner of a pod of either front end serves it (Serve) in the pod's state
// directory; commands connect (Measure, Exec). It is a channel of small messages,
// which carries files, and lets in root and the owner's user alone.
//
// A connection begins with one request, which a command that is newer or older
// than the pod's owner may send: fields are only ever added. What an owner does
// not know, it answers with an error.
//
//	metrics ─► samples, in one message or more
//	exec (with files) ─► started ─► exit
//	                     ▲ size, from the command
//
// The end of a connection is the process's.
package monitor
