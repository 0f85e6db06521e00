// Command systemd makes, or takes from the cache, the root file system of a
// Debian whose first program is systemd, as a tar archive for tests. It needs
// mmdebstrap and, for the first time, a network.
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

// options are mmdebstrap's, apart from the release and the file. A change of them
// is another archive.
func options() []string {
	return []string{
		"--variant=minbase", "--include=systemd-sysv,dbus", // logind fails without dbus
		"--quiet", `--dpkgopt=path-exclude="/usr/share/doc/*"`, `--dpkgopt=path-exclude="/usr/share/locale/*"`,
		`--dpkgopt=path-exclude="/usr/share/man/*"`,
	}
}

func main() {
	output := flag.String("o", "build/systemd.tar", "`FILE` to link to the archive")
	flag.Parse()
	if err := provide(*output); err != nil {
		fmt.Fprintln(os.Stderr, "systemd:", err)
		os.Exit(1)
	}
}

func provide(output string) error {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	folder := os.Getenv("KATA_CACHE_DIR")
	if folder == "" {
		folder = "build/cache"
	}
	folder, err := filepath.Abs(filepath.Join(folder, "rootfs"))
	if err != nil {
		return fmt.Errorf("find the cache: %w", err)
	}
	hash := sha256.Sum256([]byte(strings.Join(options(), "\n")))
	dir, err := cache.Get(ctx, folder, release+"-"+hex.EncodeToString(hash[:12]), bootstrap)
	if err != nil {
		return fmt.Errorf("provide Debian with systemd: %w", err)
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
func bootstrap(ctx context.Context, dir string) error {
	fmt.Fprintln(os.Stderr, "Building a Debian with systemd (a minute or two, once)")
	command := exec.CommandContext(ctx, "mmdebstrap", append(options(), release, filepath.Join(dir, archive))...)
	command.Stdout, command.Stderr = os.Stderr, os.Stderr
	if err := command.Run(); err != nil {
		return fmt.Errorf("%s (test/deps.sh test installs it): %w", command, err)
	}
	return nil
}
