package rootfs

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// options are the options of one mount, taken apart.
type options struct {
	flags uintptr // MS_* of mount(2), MS_BIND and MS_REC among them
	// data is the file system's own, in its order.
	data []string
	// loop: the source is a file that becomes a block device.
	loop, directIO bool
	uids, gids     []syscall.SysProcIDMap
}

// flag is what an option of mount(8) means for mount(2).
type flag struct {
	clear bool
	value uintptr
}

func flagOf(option string) (flag, bool) {
	switch option {
	case "async":
		return flag{true, unix.MS_SYNCHRONOUS}, true
	case "atime":
		return flag{true, unix.MS_NOATIME}, true
	case "bind":
		return flag{false, unix.MS_BIND}, true
	case "defaults", "private", "rprivate", "slave", "rslave", "shared", "rshared", "unbindable", "runbindable":
		return flag{}, true // what is mounted is the container's alone, whatever is asked for
	case "dev":
		return flag{true, unix.MS_NODEV}, true
	case "diratime":
		return flag{true, unix.MS_NODIRATIME}, true
	case "dirsync":
		return flag{false, unix.MS_DIRSYNC}, true
	case "exec":
		return flag{true, unix.MS_NOEXEC}, true
	case "noatime":
		return flag{false, unix.MS_NOATIME}, true
	case "nodev":
		return flag{false, unix.MS_NODEV}, true
	case "nodiratime":
		return flag{false, unix.MS_NODIRATIME}, true
	case "noexec":
		return flag{false, unix.MS_NOEXEC}, true
	case "norelatime":
		return flag{true, unix.MS_RELATIME}, true
	case "nostrictatime":
		return flag{true, unix.MS_STRICTATIME}, true
	case "nosuid":
		return flag{false, unix.MS_NOSUID}, true
	case "rbind":
		return flag{false, unix.MS_BIND | unix.MS_REC}, true
	case "relatime":
		return flag{false, unix.MS_RELATIME}, true
	case "ro":
		return flag{false, unix.MS_RDONLY}, true
	case "rw":
		return flag{true, unix.MS_RDONLY}, true
	case "strictatime":
		return flag{false, unix.MS_STRICTATIME}, true
	case "suid":
		return flag{true, unix.MS_NOSUID}, true
	case "sync":
		return flag{false, unix.MS_SYNCHRONOUS}, true
	}
	return flag{}, false
}

// parseOptions takes options apart as containerd does.
func parseOptions(list []string) (options, error) {
	var o options
	for _, element := range list {
		uids, isUIDs := strings.CutPrefix(element, "uidmap=")
		gids, isGIDs := strings.CutPrefix(element, "gidmap=")
		var err error
		switch {
		case isUIDs:
			o.uids, err = parseMapping(uids)
		case isGIDs:
			o.gids, err = parseMapping(gids)
		default:
			for _, option := range split(element, ',') {
				if err = o.add(option); err != nil {
					break
				}
			}
		}
		if err != nil {
			return options{}, fmt.Errorf("option %q: %w", element, err)
		}
	}
	if (o.uids == nil) != (o.gids == nil) {
		return options{}, errors.New("of the options uidmap and gidmap one is missing")
	}
	return o, nil
}

func (o *options) add(option string) error {
	f, known := flagOf(option)
	switch {
	case option == "":
	case known && f.clear:
		o.flags &^= f.value
	case known:
		o.flags |= f.value
	case option == "loop":
		o.loop = true
	case option == "direct-io":
		o.directIO = true
	case option == "remount":
		return errors.New("there is nothing yet to mount again")
	case strings.HasPrefix(option, "X-containerd."):
		return errors.New("it is for containerd's mount manager, which has not resolved it")
	default:
		o.data = append(o.data, option)
	}
	return nil
}

// parseMapping reads CONTAINER:HOST:SIZE, or several with commas between.
func parseMapping(text string) ([]syscall.SysProcIDMap, error) {
	var mapping []syscall.SysProcIDMap
	for entry := range strings.SplitSeq(text, ",") {
		fields := strings.Split(entry, ":")
		var numbers [3]int
		if len(fields) != len(numbers) {
			return nil, fmt.Errorf("%q is not CONTAINER:HOST:SIZE", entry)
		}
		for i, field := range fields {
			number, err := strconv.ParseUint(field, 10, 32)
			if err != nil {
				return nil, fmt.Errorf("%q is not CONTAINER:HOST:SIZE: %w", entry, err)
			}
			numbers[i] = int(number)
		}
		mapping = append(mapping, syscall.SysProcIDMap{ContainerID: numbers[0], HostID: numbers[1], Size: numbers[2]})
	}
	return mapping, nil
}

// split divides text at a separator that is neither escaped by a backslash nor
// in double quotes. The parts keep both.
func split(text string, separator byte) []string {
	var parts []string
	begin, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch text[i] {
		case '\\':
			i++ // what follows means itself
		case '"':
			quoted = !quoted
		case separator:
			if !quoted {
				parts = append(parts, text[begin:i])
				begin = i + 1
			}
		}
	}
	return append(parts, text[begin:])
}

// unescape removes backslashes that make the next character mean itself.
func unescape(text string) string {
	plain := make([]byte, 0, len(text))
	for i := 0; i < len(text); i++ {
		if text[i] == '\\' && i+1 < len(text) {
			i++
		}
		plain = append(plain, text[i])
	}
	return string(plain)
}

// flagNames are the options of mount(8) that stand for flags of mount(2).
func flagNames(flags uintptr) []string {
	var names []string
	for _, f := range []struct {
		flag uintptr
		name string
	}{
		{unix.MS_RDONLY, "ro"},
		{unix.MS_NOSUID, "nosuid"},
		{unix.MS_NODEV, "nodev"},
		{unix.MS_NOEXEC, "noexec"},
		{unix.MS_SYNCHRONOUS, "sync"},
		{unix.MS_DIRSYNC, "dirsync"},
		{unix.MS_NOATIME, "noatime"},
		{unix.MS_NODIRATIME, "nodiratime"},
		{unix.MS_RELATIME, "relatime"},
		{unix.MS_STRICTATIME, "strictatime"},
	} {
		if flags&f.flag != 0 {
			names = append(names, f.name)
		}
	}
	return names
}
