package audit

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxEntries bounds how much of a root file system is listed: a container's is as
// its image and its guest want it.
const maxEntries = 64

// Root is the root file system of a process.
type Root struct {
	// Host tells that it is the host's: nothing else is listed then.
	Host bool `json:"host"`
	// Entries are the names in it, Devices the devices in its directory dev. There
	// may be more than are listed.
	Entries []string `json:"entries,omitempty"`
	Devices []string `json:"devices,omitempty"`
	// Mounts are what is mounted there, itself included.
	Mounts []Mount `json:"mounts,omitempty"`
}

// Mount is a mount that a process sees.
type Mount struct {
	Place   string   `json:"place"`
	Type    string   `json:"type"`
	Options []string `json:"options"`
}

// readRoot fills in all but what is in the root.
func (p *Process) readRoot(proc string) error {
	theirs, err := look(proc + "root")
	if err != nil {
		return err
	}
	ours, err := look("/")
	if err != nil {
		return err
	}
	if *theirs == *ours {
		p.Root.Host = true
		return nil
	}
	data, err := os.ReadFile(proc + "mountinfo")
	if err != nil {
		return err
	}
	p.Root.Mounts = parseMounts(string(data))
	return nil
}

// content is what is in a root file system.
type content struct{ entries, devices []string }

func listRoot(proc string) (in content, err error) {
	if in.entries, err = list(proc+"root", func(fs.FileMode) bool { return true }); err != nil {
		return in, err
	}
	device := func(mode fs.FileMode) bool { return mode&fs.ModeDevice != 0 }
	if in.devices, err = list(proc+"root/dev", device); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
		return in, err
	}
	return in, nil
}

// identity is what tells a file from others.
type identity struct {
	major, minor, deviceMajor, deviceMinor uint32
	inode                                  uint64
	kind                                   uint16
}

// look says what a path leads to, by what the kernel knows of it: a file system that
// has to ask another machine, or a program, is not to do so.
func look(path string) (*identity, error) {
	var s unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, unix.AT_STATX_DONT_SYNC, unix.STATX_TYPE|unix.STATX_INO, &s); err != nil {
		return nil, err
	}
	return &identity{
		major: s.Dev_major, minor: s.Dev_minor, inode: s.Ino,
		kind: s.Mode & unix.S_IFMT, deviceMajor: s.Rdev_major, deviceMinor: s.Rdev_minor,
	}, nil
}

// list lists a directory, in which a stranger may make what he likes: its symbolic
// links are not followed, and nothing in it is opened. dir itself may be one of the
// kernel's links, but in a stranger's root it may not be one of his.
func list(dir string, wanted func(fs.FileMode) bool) ([]string, error) {
	flags := unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NONBLOCK
	if filepath.Base(dir) != "root" {
		flags |= unix.O_NOFOLLOW
	}
	file, err := os.OpenFile(dir, flags, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	entries, err := file.ReadDir(maxEntries)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if wanted(entry.Type()) {
			names = append(names, entry.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// parseMounts reads /proc/PID/mountinfo. A line that is none is left out.
func parseMounts(text string) []Mount {
	var mounts []Mount
	for line := range strings.Lines(text) {
		fields := strings.Fields(line)
		const place, options = 4, 5
		separator := slices.Index(fields, "-")
		if separator <= options || len(fields) <= separator+1 {
			continue
		}
		mounts = append(mounts, Mount{
			Place: fields[place], Type: fields[separator+1], Options: strings.Split(fields[options], ","),
		})
	}
	return mounts
}

// countFiles counts the open files of a process by their kinds.
func countFiles(proc string, pid int) (map[string]int, error) {
	entries, err := os.ReadDir(proc + "fd")
	if err != nil {
		return nil, err
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(pidfd)
	// From here on it is this process that the pidfd stands for, or none.
	if _, err := os.Lstat(proc + "stat"); err != nil {
		return nil, err
	}
	files := make(map[string]int)
	for _, entry := range entries {
		target, err := os.Readlink(proc + "fd/" + entry.Name())
		if err != nil {
			continue // closed meanwhile
		}
		files[kind(proc, pidfd, entry.Name(), target)]++
	}
	return files, nil
}

// kind is what is open as a descriptor, of which target is the kernel's description.
func kind(proc string, pidfd int, descriptor, target string) string {
	switch {
	case strings.HasPrefix(target, "socket:"):
		return socketFamily(pidfd, descriptor) + " socket"
	case strings.HasPrefix(target, "pipe:"):
		return "pipe"
	case strings.HasPrefix(target, "anon_inode:"):
		return strings.Trim(strings.TrimPrefix(target, "anon_inode:"), "[]")
	case strings.HasPrefix(target, "/memfd:"):
		return "memory"
	}
	if name, id, found := strings.Cut(target, ":["); found && !strings.Contains(name, "/") && strings.HasSuffix(id, "]") {
		return name + " namespace"
	}
	file, err := look(proc + "fd/" + descriptor)
	if err != nil {
		return "unknown"
	}
	switch file.kind {
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFCHR:
		return "device " + deviceName(file, target)
	case unix.S_IFBLK:
		return "disk"
	case unix.S_IFIFO:
		return "pipe"
	case unix.S_IFLNK:
		return "link"
	case unix.S_IFSOCK:
		return "socket file"
	}
	return "file"
}

// deviceName is the path of a character device, where it is the one that the kernel
// gives that name: others can be made, and called anything.
func deviceName(device *identity, target string) string {
	if strings.HasPrefix(target, "/dev/") {
		named, err := look(target)
		if err == nil && named.kind == unix.S_IFCHR && named.deviceMajor == device.deviceMajor && named.deviceMinor == device.deviceMinor {
			return target
		}
	}
	return fmt.Sprintf("%d:%d", device.deviceMajor, device.deviceMinor)
}

// socketFamily looks at another process's socket by way of a duplicate.
func socketFamily(pidfd int, descriptor string) string {
	number, err := strconv.Atoi(descriptor)
	if err != nil {
		return "unknown"
	}
	fd, err := unix.PidfdGetfd(pidfd, number, 0)
	if err != nil {
		return "unknown"
	}
	defer unix.Close(fd)
	family, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
	if err != nil {
		return "unknown"
	}
	names := map[int]string{
		unix.AF_UNIX: "unix", unix.AF_INET: "inet", unix.AF_INET6: "inet6", unix.AF_NETLINK: "netlink",
		unix.AF_PACKET: "packet", unix.AF_VSOCK: "vsock",
	}
	if name, known := names[family]; known {
		return name
	}
	return "family " + strconv.Itoa(family)
}
