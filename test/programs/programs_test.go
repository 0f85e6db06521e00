//go:build vm && full

package programs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }

// TestPrograms runs all of the list with each kernel, in one container per kernel.
func TestPrograms(t *testing.T) {
	share := filepath.Join(harness.Repository(t), "share", "kata-containers")
	rootfs := unpack(t, filepath.Join(harness.Repository(t), "build", "programs.tar"))
	for _, kernel := range []string{"built", "modular", "debian"} {
		t.Run(kernel, func(t *testing.T) {
			h := harness.New(t)
			modules := ""
			if kernel != "built" {
				modules = filepath.Join(share, kernel, "modules")
			}
			configure(h, kernel, modules)
			id := h.ID()
			start(h, machine(h, rootfs, modules), id)
			for _, p := range list(t) {
				if p.modules && modules == "" {
					continue
				}
				t.Run(p.name, func(t *testing.T) {
					began := time.Now()
					command := h.Command("exec", id, "/bin/bash", "-ec", p.script)
					var stdout, stderr strings.Builder
					command.Stdout, command.Stderr = &stdout, &stderr
					if err := command.Run(); err != nil || stdout.String() != p.want {
						t.Errorf("%v\nstandard output, want %q: %s\nstandard error: %s", err, p.want, &stdout, &stderr)
					}
					t.Logf("%v", time.Since(began).Round(time.Second))
				})
			}
			h.Must("delete", "-f", id)
		})
	}
}

// start runs a container that waits. It keeps what the command writes to.
func start(h *harness.Host, dir, id string) {
	h.T.Helper()
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		h.T.Fatal(err)
	}
	defer null.Close()
	command := h.Command("run", "-d", "-b", dir, id)
	command.Stdout, command.Stderr = null, null
	if result := h.Finish(command); result.Code != 0 {
		h.T.Fatalf("%s: exit code %d", command, result.Code)
	}
}

// configure makes the host's commands use a kernel, and its modules if they are named.
func configure(h *harness.Host, kernel, modules string, more ...string) {
	h.T.Helper()
	dir := filepath.Join(harness.Repository(h.T), "share", "kata-containers")
	image := "vmlinux"
	switch kernel {
	case "modular":
		dir = filepath.Join(dir, kernel)
	case "debian":
		dir, image = filepath.Join(dir, kernel), "vmlinuz"
	}
	initrd := filepath.Join(dir, "initrd.img")
	if kernel == "minimal" || kernel == "debug" || kernel == "lsm" {
		image = filepath.Join(kernel, image)
	}
	lines := []string{
		"[hypervisor]", fmt.Sprintf("kernel = %q", filepath.Join(dir, image)), fmt.Sprintf("initrd = %q", initrd), harness.Hypervisor(),
	}
	if modules != "" {
		lines = append(lines, fmt.Sprintf("modules = %q", modules))
	}
	lines = slices.Concat(lines, more, []string{"[agent.kata]", fmt.Sprintf("dial_timeout = %d", harness.DialTimeout)})
	path := h.File("configuration.toml")
	if err := os.WriteFile(path, []byte(strings.Join(lines, "\n")+"\n"), 0o600); err != nil {
		h.T.Fatal(err)
	}
	h.Flags = append(h.Flags, "--config", path)
}

// unpack makes a root file system of an archive.
func unpack(t *testing.T, archive string) string {
	t.Helper()
	if _, err := os.Stat(archive); err != nil {
		t.Fatalf("%v (make programs makes it)", err)
	}
	dir := t.TempDir()
	if output, err := exec.CommandContext(t.Context(), "tar", "-C", dir, "--numeric-owner", "--xattrs", "-xf", archive).CombinedOutput(); err != nil {
		t.Fatalf("unpack %s: %v\n%s", archive, err, output)
	}
	return dir
}

// machine is a bundle of a privileged container that waits.
func machine(h *harness.Host, rootfs, modules string) string {
	spec := bundle.Privileged(bundle.Spec("/bin/sleep", "infinity"))
	volume := h.File("volume")
	if err := os.Mkdir(volume, 0o755); err != nil {
		h.T.Fatal(err)
	}
	spec.Linux.Devices = []specs.LinuxDevice{ // the host's, as managers list all of them
		{Path: "/dev/null", Type: "c", Major: 1, Minor: 3}, {Path: "/dev/net/tun", Type: "c", Major: 10, Minor: 200},
	}
	spec.Root = &specs.Root{Path: rootfs, Readonly: true}
	spec.Process.Env = append(spec.Process.Env, "MODULES="+modules)
	spec.Mounts = append(spec.Mounts, specs.Mount{Destination: "/volume", Type: "bind", Source: volume, Options: []string{"bind"}})
	for _, dir := range []string{"/tmp", "/run", "/var/lib", "/var/log"} {
		spec.Mounts = append(spec.Mounts, specs.Mount{Destination: dir, Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=1777"}})
	}
	return h.Bundle(spec)
}
