package main

import (
	"fmt"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// watch prints the events of files and directories, each as the number of the argument,
// the event, and its name. What merely reads is left out.
func watch(paths []string) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return err
	}
	numbers := map[int32]int{}
	for i, path := range paths {
		wd, err := unix.InotifyAddWatch(fd, path, unix.IN_ALL_EVENTS)
		if err != nil {
			return fmt.Errorf("watch %s: %w", path, err)
		}
		numbers[int32(wd)] = i
	}
	fmt.Println("ready")
	cookies := map[uint32]int{}
	buf := make([]byte, 64<<10)
	for {
		n, err := unix.Read(fd, buf)
		if err != nil {
			return err
		}
		for b := buf[:n]; len(b) > 0; {
			event := (*unix.InotifyEvent)(unsafe.Pointer(&b[0]))
			end := unix.SizeofInotifyEvent + int(event.Len)
			name := strings.TrimRight(string(b[unix.SizeofInotifyEvent:end]), "\x00")
			b = b[end:]
			if name == "END" {
				return nil
			}
			if event.Mask&(unix.IN_OPEN|unix.IN_ACCESS|unix.IN_CLOSE_NOWRITE) != 0 {
				continue
			}
			line := fmt.Sprint(numbers[event.Wd], describe(event.Mask), " ", name)
			if event.Cookie != 0 {
				if cookies[event.Cookie] == 0 {
					cookies[event.Cookie] = len(cookies) + 1
				}
				line += fmt.Sprint(" ", cookies[event.Cookie])
			}
			fmt.Println(strings.TrimSpace(line))
		}
	}
}

func describe(mask uint32) string {
	var text strings.Builder
	for _, each := range []struct {
		bit  uint32
		name string
	}{
		{unix.IN_MODIFY, "MODIFY"},
		{unix.IN_ATTRIB, "ATTRIB"},
		{unix.IN_CLOSE_WRITE, "CLOSE_WRITE"},
		{unix.IN_MOVED_FROM, "MOVED_FROM"},
		{unix.IN_MOVED_TO, "MOVED_TO"},
		{unix.IN_CREATE, "CREATE"},
		{unix.IN_DELETE, "DELETE"},
		{unix.IN_DELETE_SELF, "DELETE_SELF"},
		{unix.IN_MOVE_SELF, "MOVE_SELF"},
		{unix.IN_UNMOUNT, "UNMOUNT"},
		{unix.IN_Q_OVERFLOW, "OVERFLOW"},
		{unix.IN_IGNORED, "IGNORED"},
		{unix.IN_ISDIR, "ISDIR"},
	} {
		if mask&each.bit != 0 {
			text.WriteString(" " + each.name)
		}
	}
	return text.String()
}
