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

func (p *Process) readRoot(proc string) error {
	var theirs, ours unix.Stat_t
	if err := unix.Stat(proc+"root", &theirs); err != nil {
		return err
	}
	if err := unix.Stat("/", &ours); err != nil {
		return err
	}
	if theirs.Dev == ours.Dev && theirs.Ino == ours.Ino {
		p.Root.Host = true
		return nil
	}
	var err error
	if p.Root.Entries, err = list(proc+"root", func(fs.FileMode) bool { return true }); err != nil {
		return err
	}
	device := func(mode fs.FileMode) bool { return mode&fs.ModeDevice != 0 }
	if p.Root.Devices, err = list(proc+"root/dev", device); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
		return err
	}
	data, err := os.ReadFile(proc + "mountinfo")
	if err != nil {
		return err
	}
	p.Root.Mounts = parseMounts(string(data))
	return nil
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

func (p *Process) readFiles(proc string) error {
	entries, err := os.ReadDir(proc + "fd")
	if err != nil {
		return err
	}
	pidfd, err := unix.PidfdOpen(p.PID, 0)
	if err != nil {
		return err
	}
	defer unix.Close(pidfd)
	// From here on it is this process that the pidfd stands for, or none.
	if _, err := os.Lstat(proc + "stat"); err != nil {
		return err
	}
	p.Files = make(map[string]int)
	for _, entry := range entries {
		target, err := os.Readlink(proc + "fd/" + entry.Name())
		if err != nil {
			continue // closed meanwhile
		}
		p.Files[kind(proc, pidfd, entry.Name(), target)]++
	}
	return nil
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
	var stat unix.Stat_t
	if err := unix.Stat(proc+"fd/"+descriptor, &stat); err != nil {
		return "unknown"
	}
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "directory"
	case unix.S_IFCHR:
		return "device " + deviceName(stat.Rdev, target)
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
func deviceName(number uint64, target string) string {
	var stat unix.Stat_t
	if strings.HasPrefix(target, "/dev/") && unix.Stat(target, &stat) == nil && stat.Mode&unix.S_IFMT == unix.S_IFCHR && stat.Rdev == number {
		return target
	}
	return fmt.Sprintf("%d:%d", unix.Major(number), unix.Minor(number))
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
