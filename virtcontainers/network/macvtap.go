package network

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/osthread"
)

// newMacvtap makes a macvtap interface on top of one of the namespace. It takes
// the frames for the interface's own address, as the guest will have it.
func (n *Namespace) newMacvtap(i Interface, queues int, vhost bool) (_ *Tap, err error) {
	t := &Tap{name: tapName(i.Index)}
	if t.MAC, err = newMAC(); err != nil {
		return nil, err
	}
	lower, err := n.netlink.LinkByIndex(i.Index)
	if err != nil {
		return nil, err
	}
	if t.mark, err = n.markMacvtap(i.Index); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	// What a killed runtime has left goes; what another VM uses is an error.
	if err := n.checkFree(lower); err != nil {
		return nil, err
	}
	if err := n.removeMacvtap(lower); err != nil {
		return nil, err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.ParentIndex, attrs.HardwareAddr, attrs.MTU = t.name, i.Index, i.Guest.GetMac(), int(i.Guest.GetMtu())
	link := &netlink.Macvtap{Macvlan: netlink.Macvlan{LinkAttrs: attrs, Mode: netlink.MACVLAN_MODE_PASSTHRU}}
	if err := n.netlink.LinkAdd(link); err != nil {
		return nil, fmt.Errorf("make a macvtap interface: %w", err)
	}
	t.macvtapOf = n
	made, err := n.netlink.LinkByName(t.name)
	if err != nil {
		return nil, err
	}
	t.index = made.Attrs().Index
	_ = n.netlink.LinkSetIP6AddrGenMode(made, 1) // as for a tap
	if err := n.netlink.LinkSetUp(made); err != nil {
		return nil, fmt.Errorf("set the macvtap interface up: %w", err)
	}
	if t.Files, err = n.openMacvtap(t.name, t.index, queues); err != nil {
		return nil, fmt.Errorf("open the macvtap interface: %w", err)
	}
	if vhost {
		t.Vhost, err = openVhost(queues)
	}
	return t, err
}

// markMacvtap marks the macvtap on top of an interface as a living runtime's while
// the file is open. It is a socket with an abstract name, which the namespace
// alone knows: opening the character device would not tell, since several may.
func (n *Namespace) markMacvtap(lower int) (mark *os.File, err error) {
	err = n.Do(func() error {
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			return err
		}
		mark = os.NewFile(uintptr(fd), "mark of a macvtap interface")
		return unix.Bind(fd, &unix.SockaddrUnix{Name: "@kata-runtime/macvtap/" + strconv.Itoa(lower)})
	})
	if err == nil {
		return mark, nil
	}
	if mark != nil {
		mark.Close()
	}
	if errors.Is(err, unix.EADDRINUSE) {
		return nil, errConnected
	}
	return nil, fmt.Errorf("mark a macvtap interface: %w", err)
}

// openMacvtap opens a macvtap interface's character device. Its number is known
// to the sysfs of its namespace alone, and its node is made in a mount namespace
// of the thread's own: a name in /dev could be that of another namespace's.
func (n *Namespace) openMacvtap(name string, index, queues int) (files []*os.File, err error) {
	err = osthread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS); err != nil {
			return err
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return err
		}
		if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNET); err != nil {
			return err
		}
		if err := unix.Mount("sysfs", "/sys", "sysfs", unix.MS_RDONLY, ""); err != nil {
			return err
		}
		data, err := os.ReadFile(filepath.Join("/sys/class/net", name, "macvtap", "tap"+strconv.Itoa(index), "dev"))
		if err != nil {
			return err
		}
		var major, minor uint32
		if _, err := fmt.Sscanf(strings.TrimSpace(string(data)), "%d:%d", &major, &minor); err != nil {
			return fmt.Errorf("read the device's number %q: %w", data, err)
		}
		if err := unix.Mount("tmpfs", "/sys", "tmpfs", 0, "size=4k"); err != nil {
			return err
		}
		if err := unix.Mknod("/sys/tap", unix.S_IFCHR|0o600, int(unix.Mkdev(major, minor))); err != nil {
			return err
		}
		for range queues {
			file, err := os.OpenFile("/sys/tap", os.O_RDWR, 0)
			if err != nil {
				return err
			}
			files = append(files, file)
			if err := setTapFlags(file, name, queues > 1); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		for _, file := range files {
			file.Close()
		}
		return nil, err
	}
	return files, nil
}
