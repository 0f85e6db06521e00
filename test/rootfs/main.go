// Command rootfs makes, or takes from the cache, the root file system of a Debian
// for tests, as a tar archive: systemd, whose first program is that, or programs, which
// has what tests run in a guest. It needs mmdebstrap and, for the first time, a network.
package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"

	"kata-runtime/kernel-config/cache"
)

const (
	release = "bookworm"
	archive = "rootfs.tar"
)

// options are mmdebstrap's for an image, apart from the release and the file. A change
// of them is another archive.
func options(image string) ([]string, error) {
	var packages string
	switch image {
	case "systemd":
		packages = "systemd-sysv,dbus" // logind fails without dbus
	case "programs":
		packages = strings.Join([]string{
			"fio", "redis-server", "postgresql-15", "openjdk-17-jre-headless", // what databases and runtimes ask of a kernel
			"iproute2", "iptables", "nftables", "ipset", "ipvsadm", "wireguard-tools", "openvpn", "iputils-ping", // networks
			"docker.io", "busybox-static", // containers in a container
			"e2fsprogs", "nfs-common", "nfs-kernel-server", // file systems
		}, ",")
	default:
		return nil, fmt.Errorf("no image %q: want systemd or programs", image)
	}
	return []string{
		"--variant=minbase", "--include=" + packages,
		"--quiet", `--dpkgopt=path-exclude="/usr/share/doc/*"`, `--dpkgopt=path-exclude="/usr/share/locale/*"`,
		`--dpkgopt=path-exclude="/usr/share/man/*"`,
	}, nil
}

func main() {
	output := flag.String("o", "", "`FILE` to link to the archive (default build/IMAGE.tar)")
	flag.Parse()
	image := flag.Arg(0)
	if *output == "" {
		*output = filepath.Join("build", image+".tar")
	}
	if err := provide(image, *output); err != nil {
		fmt.Fprintln(os.Stderr, "rootfs:", err)
		os.Exit(1)
	}
}

func provide(image, output string) error {
	want, err := options(image)
	if err != nil {
		return err
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	folder := os.Getenv("KATA_CACHE_DIR")
	if folder == "" {
		folder = "build/cache"
	}
	folder, err = filepath.Abs(filepath.Join(folder, "rootfs"))
	if err != nil {
		return fmt.Errorf("find the cache: %w", err)
	}
	hash := sha256.Sum256([]byte(strings.Join(want, "\n")))
	dir, err := cache.Get(ctx, folder, release+"-"+hex.EncodeToString(hash[:12]), func(ctx context.Context, dir string) error {
		return bootstrap(ctx, image, want, dir)
	})
	if err != nil {
		return fmt.Errorf("provide the root file system %s: %w", image, err)
	}
	if err := os.MkdirAll(filepath.Dir(output), 0o755); err != nil {
		return fmt.Errorf("make the output's directory: %w", err)
	}
	temporary := output + ".new"
	if err := os.RemoveAll(temporary); err != nil {
		return fmt.Errorf("remove what an earlier run left: %w", err)
	}
	if err := os.Symlink(filepath.Join(dir, archive), temporary); err != nil {
		return fmt.Errorf("link the archive: %w", err)
	}
	return os.Rename(temporary, output)
}

// bootstrap fills a new directory of the cache.
func bootstrap(ctx context.Context, image string, options []string, dir string) error {
	fmt.Fprintf(os.Stderr, "Building the root file system %s of a Debian (minutes, once)\n", image)
	command := exec.CommandContext(ctx, "mmdebstrap", append(options, release, filepath.Join(dir, archive))...)
	command.Stdout, command.Stderr = os.Stderr, os.Stderr
	if err := command.Run(); err != nil {
		return fmt.Errorf("%s (test/deps.sh test installs it): %w", command, err)
	}
	return nil
}
