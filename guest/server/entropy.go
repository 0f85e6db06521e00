package server

import (
	"encoding/binary"
	"fmt"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// stir gives the kernel's random generator the host's random bytes, and lets it
// begin anew with them: what comes from /dev/urandom and getrandom(2) from now on is
// this guest's alone.
func stir(entropy []byte) error {
	if len(entropy) == 0 {
		return nil
	}
	device, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		return fmt.Errorf("stir the random generator: %w", err)
	}
	defer device.Close()
	if err := addEntropy(int(device.Fd()), entropy); err != nil {
		return fmt.Errorf("stir the random generator: add entropy: %w", err)
	}
	// Otherwise it would go on as before for up to a minute.
	if err := unix.IoctlSetInt(int(device.Fd()), unix.RNDRESEEDCRNG, 0); err != nil {
		return fmt.Errorf("stir the random generator: reseed: %w", err)
	}
	return nil
}

// addEntropy is RNDADDENTROPY with a struct rand_pool_info: the bits that count, the
// bytes that follow, and these.
func addEntropy(fd int, entropy []byte) error {
	info := binary.NativeEndian.AppendUint32(nil, uint32(8*len(entropy)))
	info = binary.NativeEndian.AppendUint32(info, uint32(len(entropy)))
	info = append(info, entropy...)
	_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.RNDADDENTROPY, uintptr(unsafe.Pointer(&info[0])))
	if errno != 0 {
		return errno
	}
	return nil
}
