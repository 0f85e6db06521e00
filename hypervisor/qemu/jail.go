package qemu

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"kata-runtime/hypervisor"
	"kata-runtime/hypervisor/accel"
	"kata-runtime/hypervisor/jail"
	"kata-runtime/hypervisor/tail"
)

const (
	// maxFiles is more than any machine takes: each of a device's queues has two
	// event descriptors, and a device has a queue for each vCPU.
	maxFiles = 1 << 16
	// maxThreads has room for 255 vCPUs, and for those that read and write disks.
	maxThreads = 2048
)

// errNinePJail says why a share by 9p is refused.
var errNinePJail = errors.New("QEMU serves 9p itself, as root and from the host's file tree, which it cannot in a jail: use virtiofs")

// checkJail finds what a jail rules out.
func (o *Options) checkJail() error {
	if o.Jail == nil {
		return nil
	}
	for _, d := range o.Devices {
		if share, ok := d.(*hypervisor.Share); ok && share.Socket == nil {
			return fmt.Errorf("share %s: %w", share.ID, errNinePJail)
		}
	}
	return nil
}

// confine makes cmd, which starts QEMU with these options, one of a jailed QEMU.
func confine(ctx context.Context, cmd *exec.Cmd, o *Options) error {
	if o.Jail == nil {
		return nil
	}
	// It looks for its modules and firmware from where it is itself, which it finds
	// out by its first argument in a jail, and otherwise by a file of procfs.
	path, err := filepath.EvalSymlinks(cmd.Path)
	if err != nil {
		return fmt.Errorf("look for QEMU: %w", err)
	}
	spec, err := JailSpec(ctx, path, o)
	if err != nil {
		return err
	}
	cmd.Path, cmd.Args[0] = path, path
	return jail.Confine(cmd, spec)
}

// JailSpec says what a jailed QEMU at path, which is no symbolic link, keeps: all of it
// is in Arguments or in QEMU itself.
func JailSpec(ctx context.Context, path string, o *Options) (jail.Spec, error) {
	var firmware []string
	files, err := jail.Remember(o.Jail.Dir, path, func() (places []string, err error) {
		// Before it is started: a script that cannot be confined does who knows what.
		if _, err := jail.Libraries(ctx, path); err != nil {
			return nil, err
		}
		if firmware, err = firmwarePlaces(ctx, path); err != nil {
			return nil, err
		}
		places, err = modulePlaces(path)
		return append(places, firmware...), err
	}, func() ([]string, error) { return programFiles(ctx, path, firmware) })
	if err != nil {
		return jail.Spec{}, err
	}
	if err := checkExecutable(path, o.Jail.User); err != nil {
		return jail.Spec{}, err
	}
	for _, name := range []string{o.Kernel, o.Initrd} {
		if name == "" {
			continue
		}
		if err := checkReadable(name, o.Jail.User); err != nil {
			return jail.Spec{}, err
		}
		files = append(files, name)
	}
	// QEMU finds out by /dev/null whether images can be locked.
	devices := []string{"/dev/null", "/dev/urandom"}
	if o.Accelerator == accel.KVM {
		devices = append(devices, "/dev/kvm")
	}
	return jail.Spec{
		Namespaces: jail.Empty, User: o.Jail.User, MaxFiles: maxFiles, MaxThreads: maxThreads,
		// It finds the file of its memory, which it inherits, below /proc/self.
		Root:        &jail.Root{Files: files, Devices: devices, Self: o.Memory != nil},
		SystemCalls: &jail.SystemCalls{Allowed: systemCalls(), Log: o.Jail.LogCalls},
		Without:     o.Jail.Without,
		Step:        o.Jail.Step,
	}, nil
}

// checkReadable finds a file that QEMU's user could not read, for a better message
// than QEMU's. In the jail, the directories on the way to it count for nothing.
func checkReadable(name string, user int) error {
	info, err := os.Stat(name)
	if err != nil {
		return fmt.Errorf("look for what QEMU reads: %w", err)
	}
	if user != 0 && info.Mode()&0o004 == 0 {
		return fmt.Errorf("QEMU, as user %d, cannot read %s: %w (chmod o+r)", user, name, os.ErrPermission)
	}
	return nil
}

// checkExecutable is checkReadable for QEMU itself.
func checkExecutable(path string, user int) error {
	info, err := os.Stat(path)
	if err != nil {
		return fmt.Errorf("look for QEMU: %w", err)
	}
	if user != 0 && info.Mode()&0o005 != 0o005 {
		return fmt.Errorf("QEMU's user %d cannot execute %s: %w (chmod o+rx)", user, path, os.ErrPermission)
	}
	return nil
}

// programFiles lists what QEMU opens by itself: its program and libraries, the
// modules for its accelerators, and of its firmware what is installed.
func programFiles(ctx context.Context, path string, firmware []string) ([]string, error) {
	modules, err := acceleratorModules(path)
	if err != nil {
		return nil, err
	}
	libraries, err := jail.Libraries(ctx, path, modules...)
	if err != nil {
		return nil, err
	}
	files := append([]string{path}, modules...)
	files = append(files, libraries...)
	for _, dir := range firmware {
		if info, err := os.Stat(dir); err == nil && info.IsDir() {
			files = append(files, dir)
		}
	}
	return files, nil
}

// firmwarePlaces asks QEMU where it looks for firmware.
func firmwarePlaces(ctx context.Context, path string) ([]string, error) {
	out, err := ask(ctx, path, "-L", "help")
	if err != nil {
		return nil, fmt.Errorf("ask %s where its firmware is: %w", path, err)
	}
	var dirs []string
	for dir := range strings.Lines(out) {
		if dir = filepath.Clean(strings.TrimSpace(dir)); filepath.IsAbs(dir) {
			dirs = append(dirs, dir)
		}
	}
	return dirs, nil
}

// acceleratorModules finds those that distributions install beside QEMU.
func acceleratorModules(path string) ([]string, error) {
	return globAll(path, "lib*/qemu*/accel-*.so", "lib*/*/qemu/accel-*.so")
}

// modulePlaces lists the directories of modules, and those in which distributions would
// make one: they change when a package with modules is installed or removed.
func modulePlaces(path string) ([]string, error) {
	return globAll(path, ".", "lib*", "lib*/*-linux-*", "lib*/qemu*", "lib*/*/qemu")
}

// globAll finds what matches one of the patterns below where the QEMU at path is
// installed.
func globAll(path string, patterns ...string) ([]string, error) {
	prefix := filepath.Dir(filepath.Dir(path))
	var found []string
	for _, pattern := range patterns {
		matches, err := filepath.Glob(filepath.Join(prefix, pattern))
		if err != nil {
			return nil, fmt.Errorf("find the modules of %s: %w", path, err)
		}
		found = append(found, matches...)
	}
	return found, nil
}

// TryJail starts the QEMU at path in a jail as a VM's would be, with an accelerator and
// no machine, to find out whether this host lets it and it finds what it needs there.
func TryJail(ctx context.Context, path, accelerator string, options jail.Options) error {
	o := Options{Kernel: path, Accelerator: accelerator, Jail: &options}
	cmd := exec.CommandContext(ctx, path, "-machine", "none", "-accel", accelerator, "-nodefaults", "-no-user-config",
		"-display", "none", "-monitor", "stdio")
	var stderr tail.Buffer
	cmd.Stdin, cmd.Stderr, cmd.Dir = strings.NewReader("quit\n"), &stderr, "/"
	cmd.Env, cmd.WaitDelay = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C"}, time.Second
	if err := confine(ctx, cmd, &o); err != nil {
		return err
	}
	if err := jail.Explain(cmd.SysProcAttr.Cloneflags, cmd.Run()); err != nil {
		return fmt.Errorf("start %s in a jail: %w%s", path, err, quoteTail(&stderr))
	}
	return nil
}
