// Package backend runs the back end of a virtio device in a process of its own,
// so that whoever reads the guest's memory has nothing else: neither the
// supervisor's privileges nor its view of the host.
//
// The process is this program once more, or a smaller one that does nothing else,
// under a hidden first argument (Command), in a jail that the caller describes. It
// gets the VMM's vhost-user connection, settings as JSON, and whatever other
// descriptors the caller gives. What it writes to its standard error reaches the
// caller's log, line by line, bounded in length and rate: it may have been taken over.
//
// That program calls Run under Command, first of all: it is to inherit descriptors.
// It calls jail.Become under jail.Command too.
//
// The process ends with its parent, and with an error when its device fails; the
// parent sees that in Wait.
package backend
