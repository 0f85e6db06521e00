package storage

import (
	"strings"

	"golang.org/x/sys/unix"
)

type flag struct {
	clear bool
	value uintptr
}

// mountFlags are the options of mount(8) that are flags of mount(2).
func mountFlags() map[string]flag {
	return map[string]flag{
		"defaults": {}, "rw": {true, unix.MS_RDONLY}, "ro": {false, unix.MS_RDONLY},
		"suid": {true, unix.MS_NOSUID}, "nosuid": {false, unix.MS_NOSUID},
		"dev": {true, unix.MS_NODEV}, "nodev": {false, unix.MS_NODEV},
		"exec": {true, unix.MS_NOEXEC}, "noexec": {false, unix.MS_NOEXEC},
		"sync": {false, unix.MS_SYNCHRONOUS}, "async": {true, unix.MS_SYNCHRONOUS},
		"dirsync": {false, unix.MS_DIRSYNC},
		"atime":   {true, unix.MS_NOATIME}, "noatime": {false, unix.MS_NOATIME},
		"diratime": {true, unix.MS_NODIRATIME}, "nodiratime": {false, unix.MS_NODIRATIME},
		"relatime": {false, unix.MS_RELATIME}, "norelatime": {true, unix.MS_RELATIME},
		"strictatime": {false, unix.MS_STRICTATIME}, "nostrictatime": {true, unix.MS_STRICTATIME},
	}
}

// parseOptions splits options of mount(8) into the flags and the data of
// mount(2).
func parseOptions(options []string) (flags uintptr, data string) {
	known := mountFlags()
	var rest []string
	for _, option := range options {
		f, ok := known[option]
		switch {
		case !ok && option != "":
			rest = append(rest, option)
		case f.clear:
			flags &^= f.value
		default:
			flags |= f.value
		}
	}
	return flags, strings.Join(rest, ",")
}
