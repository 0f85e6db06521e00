// Package disk builds the lab's disk: a Debian of the host's own release with
// systemd, Debian's kernel, QEMU and container managers, and a service that
// runs what a boot was prepared for. It is built from Debian's packages, by the
// repositories that the host's apt is configured for, and kept in the cache by
// a hash of all that goes into it.
package disk

import (
	"bufio"
	"context"
	"crypto/sha256"
	"embed"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"kata-runtime/kernel-config/cache"
)

// Disk is what a machine boots from.
type Disk struct{ Image, Kernel, Initrd string }

//go:embed files
var files embed.FS

// recipe is part of the cache's key: it changes when this package does what it
// did not do before.
const recipe = "1"

const size = "8G" // sparse

// smallInitrd is a command of mmdebstrap's, with the new system's directory as
// its argument, that lets the initrd have the modules to mount the root file
// system and no others: each costs time, when it is packed and at each boot.
const smallInitrd = `mkdir -p "$1/etc/initramfs-tools/conf.d" "$1/usr/share/initramfs-tools/modules.d"
echo MODULES=list >"$1/etc/initramfs-tools/conf.d/lab"
printf '%s\n' virtio_pci virtio_blk ext4 crc32c_generic >"$1/usr/share/initramfs-tools/modules.d/lab"`

// packages are what the machine has, with what they depend on. The kernel's
// modules have what no test machine may have: KVM, vhost, each network device.
func packages() []string {
	return []string{
		"systemd-sysv", "dbus", "udev", "kmod", "linux-image-amd64", "procps", "ca-certificates",
		"qemu-system-x86", "busybox-static", "passt",
		"runc", "containerd", "podman", "conmon", "netavark", "aardvark-dns", "containernetworking-plugins",
		"iproute2", "iptables", "nftables",
	}
}

// masked are units that only cost time, or that start what tests start
// themselves.
func masked() []string {
	return []string{
		"apt-daily.timer", "apt-daily-upgrade.timer", "dpkg-db-backup.timer", "e2scrub_all.timer", "e2scrub_reap.service",
		"fstrim.timer", "systemd-tmpfiles-clean.timer", "systemd-timesyncd.service", "systemd-pstore.service",
		"getty@tty1.service", "serial-getty@ttyS0.service", "containerd.service", "podman.service", "podman.socket",
		"podman-auto-update.timer", "podman-restart.service",
	}
}

// Get returns the disk, from the cache or built: a few minutes, as root.
func Get(ctx context.Context, cacheDir string, log io.Writer) (Disk, error) {
	release, err := release()
	if err != nil {
		return Disk{}, err
	}
	key, err := key(release)
	if err != nil {
		return Disk{}, err
	}
	dir, err := cache.Get(ctx, filepath.Join(cacheDir, "lab"), key, func(ctx context.Context, dir string) error {
		fmt.Fprintln(log, "Building the lab's disk (a few minutes, once)")
		return build(ctx, release, dir, log)
	})
	if err != nil {
		return Disk{}, fmt.Errorf("provide the lab's disk: %w", err)
	}
	return at(dir), nil
}

func at(dir string) Disk {
	return Disk{filepath.Join(dir, "disk.img"), filepath.Join(dir, "vmlinuz"), filepath.Join(dir, "initrd.img")}
}

// key names a disk by what it is made of, but for the packages' versions.
func key(release string) (string, error) {
	hash := sha256.New()
	fmt.Fprintln(hash, recipe, size, release, smallInitrd, packages(), masked())
	entries, err := files.ReadDir("files")
	if err != nil {
		return "", err
	}
	for _, entry := range entries {
		data, err := files.ReadFile("files/" + entry.Name())
		if err != nil {
			return "", err
		}
		fmt.Fprintf(hash, "%s %d\n%s", entry.Name(), len(data), data)
	}
	return fmt.Sprintf("%s-%x", release, hash.Sum(nil)[:12]), nil
}

// release is the code name of the host's Debian.
func release() (string, error) {
	data, err := os.ReadFile("/etc/os-release")
	if err != nil {
		return "", fmt.Errorf("find the host's release: %w", err)
	}
	for line := range strings.Lines(string(data)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			return strings.Trim(name, `"`), nil
		}
	}
	return "", errors.New("/etc/os-release has no VERSION_CODENAME: the lab needs Debian")
}

func build(ctx context.Context, release, dir string, log io.Writer) (err error) {
	sources, err := repositories(ctx)
	if err != nil {
		return err
	}
	// Beside the result, on the same disk, which has the room.
	root := filepath.Join(dir, "root")
	defer func() { err = errors.Join(err, os.RemoveAll(root)) }()
	bootstrap := exec.CommandContext(ctx, "mmdebstrap", "--quiet", "--variant=minbase",
		"--include="+strings.Join(packages(), ","), "--essential-hook="+smallInitrd, release, root, "-")
	bootstrap.Stdin = strings.NewReader(sources)
	if err := run(bootstrap, log); err != nil {
		return fmt.Errorf("%w (test/deps.sh lab installs mmdebstrap)", err)
	}
	if err := furnish(root); err != nil {
		return err
	}
	disk := at(dir)
	for pattern, target := range map[string]string{"vmlinuz-*": disk.Kernel, "initrd.img-*": disk.Initrd} {
		found, err := filepath.Glob(filepath.Join(root, "boot", pattern))
		if err != nil || len(found) != 1 {
			return fmt.Errorf("files /boot/%s of the new system: %q, %w", pattern, found, err)
		}
		if err := cache.CopyFile(found[0], target); err != nil {
			return err
		}
	}
	return run(exec.CommandContext(ctx, "mkfs.ext4", "-q", "-d", root, disk.Image, size), log)
}

func run(command *exec.Cmd, log io.Writer) error {
	command.Stdout, command.Stderr = log, log
	if err := command.Run(); err != nil {
		return fmt.Errorf("%s: %w", strings.Join(command.Args, " "), err)
	}
	return nil
}

// furnish adds to the packages what makes the system the lab's.
func furnish(root string) error {
	units := filepath.Join(root, "etc/systemd/system")
	wants := filepath.Join(units, "multi-user.target.wants")
	if err := os.MkdirAll(wants, 0o755); err != nil {
		return err
	}
	entries, err := files.ReadDir("files")
	if err != nil {
		return err
	}
	for _, entry := range entries {
		data, err := files.ReadFile("files/" + entry.Name())
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(units, entry.Name()), data, 0o644); err != nil {
			return err
		}
	}
	links := map[string]string{filepath.Join(wants, "lab.service"): "../lab.service"}
	for _, unit := range masked() {
		links[filepath.Join(units, unit)] = "/dev/null"
	}
	for path, target := range links {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		if err := os.Symlink(target, path); err != nil {
			return err
		}
	}
	for path, text := range map[string]string{
		"etc/hostname": "lab\n",
		"etc/hosts":    "127.0.0.1 localhost lab\n::1 localhost\n",
		// With one, this is no first boot, which would enable more services.
		"etc/machine-id": fmt.Sprintf("%x\n", sha256.Sum256([]byte("lab")))[:32] + "\n",
	} {
		if err := os.WriteFile(filepath.Join(root, path), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// repositories are those of Debian that the host's apt is configured for, as
// lines of sources.list(5). Others may be configured, with keys of their own.
func repositories(ctx context.Context) (string, error) {
	list := exec.CommandContext(ctx, "apt-get", "indextargets", "--format", "deb $(REPO_URI) $(RELEASE) $(COMPONENT)",
		"Created-By: Packages", "Origin: Debian")
	output, err := list.Output()
	if err != nil {
		return "", fmt.Errorf("ask apt for its repositories: %w", err)
	}
	var lines []string
	scanner := bufio.NewScanner(strings.NewReader(string(output)))
	for scanner.Scan() {
		lines = append(lines, scanner.Text())
	}
	slices.Sort(lines)
	lines = slices.Compact(lines)
	if len(lines) == 0 {
		return "", errors.New("apt knows no repository of Debian: run apt-get update")
	}
	return strings.Join(lines, "\n") + "\n", nil
}
