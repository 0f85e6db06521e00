package main

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// errNotYet says that what is asked for may still come.
var errNotYet = errors.New("not there")

// await repeats look after each device event of the kernel's until its answer
// is not errNotYet. The asker's patience bounds it.
func await(look func() (string, error)) (string, error) {
	events, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_KOBJECT_UEVENT)
	if err != nil {
		return "", err
	}
	defer unix.Close(events)
	if err := unix.Bind(events, &unix.SockaddrNetlink{Family: unix.AF_NETLINK, Groups: 1}); err != nil {
		return "", err
	}
	buffer := make([]byte, 64<<10)
	for {
		text, err := look()
		if !errors.Is(err, errNotYet) {
			return text, err
		}
		if _, _, err := unix.Recvfrom(events, buffer, 0); err != nil && !errors.Is(err, unix.ENOBUFS) {
			return "", err
		}
	}
}

// awaitNumber waits for at least the number in argument.
func awaitNumber(argument string, count func() (int, error)) (string, error) {
	least, err := strconv.Atoi(argument)
	if err != nil {
		return "", err
	}
	return await(func() (string, error) {
		n, err := count()
		if err == nil && n < least {
			err = errNotYet
		}
		return strconv.Itoa(n), err
	})
}

// online switches everything below a pattern on.
func online(pattern string) {
	paths, _ := filepath.Glob(pattern)
	for _, path := range paths {
		// What is on already, or cannot be switched, refuses.
		_ = os.WriteFile(path, []byte("1"), 0)
	}
}

func onlineCPUs() (int, error) {
	online("/sys/devices/system/cpu/cpu*/online")
	text, err := os.ReadFile("/proc/cpuinfo")
	return strings.Count("\n"+string(text), "\nprocessor"), err
}

// memoryMiB is the memory that Linux manages, without what its kernel takes.
func memoryMiB() (int, error) {
	online("/sys/devices/system/memory/memory*/online")
	text, err := os.ReadFile("/proc/meminfo")
	if err != nil {
		return 0, err
	}
	var kib int
	if _, err := fmt.Sscanf(string(text), "MemTotal: %d kB", &kib); err != nil {
		return 0, err
	}
	return kib >> 10, nil
}

// find returns the block device with a serial, "" where there is none.
func find(serial string) string {
	paths, _ := filepath.Glob("/sys/block/*/serial")
	for _, path := range paths {
		if text, err := os.ReadFile(path); err == nil && strings.TrimSpace(string(text)) == serial {
			return filepath.Base(filepath.Dir(path))
		}
	}
	return ""
}

// disk returns "ro" or "rw" and the first line of a disk.
func disk(serial string) (string, error) {
	name := find(serial)
	if name == "" {
		return "", errNotYet
	}
	device, err := os.Open("/dev/" + name)
	if errors.Is(err, os.ErrNotExist) {
		return "", errNotYet
	}
	if err != nil {
		return "", err
	}
	defer device.Close()
	block := make([]byte, 512)
	if _, err := device.Read(block); err != nil {
		return "", err
	}
	first, _, _ := strings.Cut(string(block), "\n")
	mode := "rw"
	if text, err := os.ReadFile("/sys/block/" + name + "/ro"); err == nil && strings.TrimSpace(string(text)) == "1" {
		mode = "ro"
	}
	return mode + " " + first, nil
}

func gone(serial string) (string, error) {
	if find(serial) != "" {
		return "", errNotYet
	}
	return "gone", nil
}

// nic returns the MTU of the interface with a hardware address.
func nic(mac string) (string, error) {
	interfaces, err := net.Interfaces()
	if err != nil {
		return "", err
	}
	for _, i := range interfaces {
		if i.HardwareAddr.String() == mac {
			return strconv.Itoa(i.MTU), nil
		}
	}
	return "", errNotYet
}

// share mounts a share, "FSTYPE TAG", and returns what its file "hello" says.
func share(argument string) (string, error) {
	fstype, tag, _ := strings.Cut(argument, " ")
	target := "/mnt/" + tag
	if err := os.MkdirAll(target, 0o755); err != nil {
		return "", err
	}
	options := ""
	if fstype == "9p" {
		options = "trans=virtio,version=9p2000.L"
	}
	return await(func() (string, error) {
		err := unix.Mount(tag, target, fstype, 0, options)
		if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
			return "", errNotYet
		}
		if err != nil {
			return "", fmt.Errorf("mount %s: %w", argument, err)
		}
		text, err := os.ReadFile(target + "/hello")
		return string(text), err
	})
}
