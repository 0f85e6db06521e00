package pid1

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// mapDevice makes a read-only mapped device with the image's table, and returns its
// number. dev is where devtmpfs is.
func mapDevice(image *rootImage, dev string) (device uint64, err error) {
	params, err := numberDevices(image.params, dev)
	if err != nil {
		return 0, err
	}
	control, err := os.OpenFile(filepath.Join(dev, "mapper", "control"), os.O_RDWR, 0)
	if err != nil {
		return 0, fmt.Errorf("open the device mapper (has the initrd its modules: rootfs-builder -disk?): %w", err)
	}
	defer control.Close()
	for _, step := range []struct {
		name    string
		request uintptr
		flags   uint32
		table   []byte
	}{
		{"create", unix.DM_DEV_CREATE, unix.DM_READONLY_FLAG, nil},
		{"load the table of", unix.DM_TABLE_LOAD, unix.DM_READONLY_FLAG, mapperTable(image, params)},
		{"resume", unix.DM_DEV_SUSPEND, 0, nil},
	} {
		device, err = mapperCall(control, step.request, mapperMessage(image.name, step.flags, step.table))
		if errors.Is(err, unix.EBUSY) && step.request == unix.DM_DEV_CREATE {
			// A kernel that has all of it built in has read the command line, too.
			return mapperCall(control, unix.DM_DEV_STATUS, mapperMessage(image.name, 0, nil))
		}
		if err != nil {
			return 0, fmt.Errorf("%s the mapped device of the disk image: %w", step.name, err)
		}
	}
	return device, nil
}

// mapperCall returns the number of the device that a message is about.
func mapperCall(control *os.File, request uintptr, message []byte) (device uint64, err error) {
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, control.Fd(), request, uintptr(unsafe.Pointer(&message[0]))); errno != 0 {
		return 0, errno
	}
	return binary.NativeEndian.Uint64(message[unsafe.Offsetof(unix.DmIoctl{}.Dev):]), nil
}

// numberDevices puts numbers in the place of paths in a table's parameters: the kernel
// looks for paths in a root directory that has no devices yet.
func numberDevices(params, dev string) (string, error) {
	words := strings.Split(params, " ")
	for i, word := range words {
		name, isDevice := strings.CutPrefix(word, "/dev/")
		if !isDevice {
			continue
		}
		var stat unix.Stat_t
		if err := unix.Stat(filepath.Join(dev, filepath.Clean("/"+name)), &stat); err != nil {
			return "", fmt.Errorf("find the disk image's device %s: %w", word, err)
		}
		words[i] = fmt.Sprintf("%d:%d", unix.Major(uint64(stat.Rdev)), unix.Minor(uint64(stat.Rdev))) //nolint:unconvert // Its type is the architecture's.
	}
	return strings.Join(words, " "), nil
}

// mapperMessage is a struct dm_ioctl with what follows it.
func mapperMessage(name string, flags uint32, table []byte) []byte {
	const size = unsafe.Sizeof(unix.DmIoctl{})
	head := unix.DmIoctl{
		Version: [3]uint32{unix.DM_VERSION_MAJOR, 0, 0}, Data_start: uint32(size), Data_size: uint32(size) + uint32(len(table)), Flags: flags,
	}
	if len(table) > 0 {
		head.Target_count = 1
	}
	copy(head.Name[:len(head.Name)-1], name)
	message := make([]byte, size, int(size)+len(table))
	copy(message, (*[size]byte)(unsafe.Pointer(&head))[:])
	return append(message, table...)
}

// mapperTable is a struct dm_target_spec with its parameters, which end with a zero, in
// whole words.
func mapperTable(image *rootImage, params string) []byte {
	const size = unsafe.Sizeof(unix.DmTargetSpec{})
	text := append([]byte(params), 0)
	for len(text)%8 != 0 {
		text = append(text, 0)
	}
	head := unix.DmTargetSpec{Length: image.sectors, Next: uint32(size) + uint32(len(text))}
	copy(head.Target_type[:len(head.Target_type)-1], image.kind)
	table := make([]byte, size, int(size)+len(text))
	copy(table, (*[size]byte)(unsafe.Pointer(&head))[:])
	return append(table, text...)
}
