// Package lsm gives the security modules of the guest's kernel their policies.
package lsm

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"kata-runtime/guest/protocol"
)

// ErrUnsupported says that the guest's kernel lacks a module, or does not run it.
var ErrUnsupported = errors.New("disabled or not supported in the guest's kernel")

// kernel is where the kernel shows its security modules.
type kernel struct {
	enabled    string // AppArmor's parameter
	securityfs string
	selinuxfs  string
	cmdline    string
	mount      func(fstype, target string) error
	unmount    func(target string) error
}

// Load gives the kernel what there is. It is called once per boot; after an error,
// nothing may run that relies on it.
func Load(modules *protocol.SecurityModules) error {
	return (&kernel{
		enabled:    "/sys/module/apparmor/parameters/enabled",
		securityfs: "/sys/kernel/security", selinuxfs: "/sys/fs/selinux", cmdline: "/proc/cmdline",
		mount: func(fstype, target string) error {
			return unix.Mount(fstype, target, fstype, unix.MS_NOSUID|unix.MS_NOEXEC, "")
		},
		unmount: func(target string) error { return unix.Unmount(target, unix.MNT_DETACH) },
	}).load(modules)
}

func (k *kernel) load(modules *protocol.SecurityModules) error {
	if apparmor := modules.GetApparmor(); apparmor != nil {
		if err := k.loadAppArmor(apparmor.GetPolicies()); err != nil {
			return fmt.Errorf("apparmor: %w", err)
		}
	}
	if selinux := modules.GetSelinux(); selinux != nil {
		if err := k.loadSELinux(selinux.GetPolicy()); err != nil {
			return fmt.Errorf("selinux: %w", err)
		}
	}
	return nil
}

// loadAppArmor loads profiles in the place of those of the same names. Nobody in the
// guest needs what they are loaded by afterwards: it is not left for containers that
// see the guest's /sys.
func (k *kernel) loadAppArmor(policies []*protocol.SecurityPolicy) (err error) {
	if value, err := os.ReadFile(k.enabled); err != nil || !bytes.HasPrefix(value, []byte("Y")) {
		return fmt.Errorf("%w: it takes CONFIG_SECURITY_APPARMOR, and apparmor in the kernel's list (lsm=)", ErrUnsupported)
	}
	if err := k.mount("securityfs", k.securityfs); err != nil {
		return fmt.Errorf("mount securityfs on %s: %w", k.securityfs, err)
	}
	defer func() {
		if unmountErr := k.unmount(k.securityfs); unmountErr != nil {
			err = errors.Join(err, fmt.Errorf("unmount %s: %w", k.securityfs, unmountErr))
		}
	}()
	for _, policy := range policies {
		if err := give(filepath.Join(k.securityfs, "apparmor", ".replace"), policy.GetData()); err != nil {
			return fmt.Errorf("load the policy %q, as apparmor_parser compiles it: %w", policy.GetName(), err)
		}
	}
	return nil
}

// loadSELinux loads the policy and enforces it, unless the kernel's command line says
// otherwise (enforcing=0). Its file system stays: by it the container library knows
// that there is a policy.
func (k *kernel) loadSELinux(policy *protocol.SecurityPolicy) error {
	if _, err := os.Stat(k.selinuxfs); err != nil {
		return fmt.Errorf("%w: it takes CONFIG_SECURITY_SELINUX, and selinux in the kernel's list (lsm=), without apparmor", ErrUnsupported)
	}
	if err := k.mount("selinuxfs", k.selinuxfs); err != nil {
		return fmt.Errorf("mount selinuxfs on %s: %w", k.selinuxfs, err)
	}
	if err := give(filepath.Join(k.selinuxfs, "load"), policy.GetData()); err != nil {
		return fmt.Errorf("load the policy %q: %w", policy.GetName(), err)
	}
	cmdline, err := os.ReadFile(k.cmdline)
	if err != nil {
		return fmt.Errorf("find how the policy is enforced: %w", err)
	}
	if enforcing := !strings.Contains(" "+strings.TrimSpace(string(cmdline))+" ", " enforcing=0 "); !enforcing {
		return nil
	}
	if err := give(filepath.Join(k.selinuxfs, "enforce"), []byte("1")); err != nil {
		return fmt.Errorf("enforce the policy %q: %w", policy.GetName(), err)
	}
	return nil
}

// give writes all of data at once, as the kernel takes a policy.
func give(path string, data []byte) error {
	fd, err := unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: path, Err: err}
	}
	file := os.NewFile(uintptr(fd), path)
	_, err = file.Write(data)
	return errors.Join(err, file.Close())
}
