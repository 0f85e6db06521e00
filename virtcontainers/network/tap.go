package network

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"kata-runtime/virtcontainers/osthread"
)

// tunPath is where the kernel makes taps.
const tunPath = "/dev/net/tun"

// tapName is the tap's name in its namespace, where it is alone but for
// loopback.
const tapName = "kata0"

// ErrNoTap says that this host cannot make taps: there is no /dev/net/tun.
var ErrNoTap = errors.New("the host has no " + tunPath)

// Tap is a tap interface with one queue. It goes when its file, and every
// duplicate of it, is closed; so does its namespace, unless it was moved to
// another.
type Tap struct {
	File *os.File
	// MAC is the address that the guest's end is to have, drawn at random.
	MAC net.HardwareAddr
}

// NewTap makes a tap in a new network namespace that nothing else refers to.
// Offloads are negotiated by the VMM (IFF_VNET_HDR). It wraps ErrNoTap on a
// host without taps; it needs CAP_SYS_ADMIN and CAP_NET_ADMIN.
func NewTap() (*Tap, error) {
	var file *os.File
	err := osthread.Run(func() (err error) {
		file, err = newTapFile()
		return err
	})
	if err != nil {
		return nil, err
	}
	mac, err := newMAC()
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return &Tap{File: file, MAC: mac}, nil
}

func newTapFile() (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
		return nil, fmt.Errorf("make a network namespace for a tap: %w", err)
	}
	// The file remembers the namespace of the thread that opens it.
	file, err := os.OpenFile(tunPath, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) {
		return nil, ErrNoTap
	}
	if err != nil {
		return nil, fmt.Errorf("make a tap: %w", err)
	}
	request, err := unix.NewIfreq(tapName)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make a tap: %w", err), file.Close())
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	if err := unix.IoctlIfreq(int(file.Fd()), unix.TUNSETIFF, request); err != nil {
		return nil, errors.Join(fmt.Errorf("make a tap: %w", err), file.Close())
	}
	return file, nil
}

// newMAC draws a locally administered unicast address.
func newMAC() (net.HardwareAddr, error) {
	mac := make(net.HardwareAddr, 6)
	if _, err := rand.Read(mac); err != nil {
		return nil, fmt.Errorf("draw a MAC address: %w", err)
	}
	mac[0] = mac[0]&^1 | 2
	return mac, nil
}

// Close removes the tap. Idempotent.
func (t *Tap) Close() error {
	if err := t.File.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
		return fmt.Errorf("close the tap: %w", err)
	}
	return nil
}
