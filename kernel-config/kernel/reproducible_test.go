//go:build full

package kernel_test

import (
	"context"
	"encoding/json"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"kata-runtime/kernel-config/cache"
	"kata-runtime/kernel-config/debpkg"
	"kata-runtime/kernel-config/kconfig"
	"kata-runtime/kernel-config/kernel"
)

// buildVariable tells the test's program that it is the second one that builds: what to
// build, and where, as JSON.
const buildVariable = "KATA_TEST_KERNEL_BUILD"

// build is what is built, and where.
type build struct{ Source, Cache string }

// nobody is a user without any rights of his own.
const nobody = 65534

// smallest are the options of a kernel that boots nothing, with all that is written by a
// build: an image, a module, information for debuggers and BTF.
func smallest() kconfig.Options {
	list := options("CONFIG_64BIT", "CONFIG_PRINTK", "CONFIG_BUG", "CONFIG_NET", "CONFIG_BPF_SYSCALL", "CONFIG_DEBUG_KERNEL",
		"CONFIG_DEBUG_INFO_DWARF5", "CONFIG_DEBUG_INFO_BTF", "CONFIG_MODULES", "CONFIG_NETDEVICES", "CONFIG_NET_CORE")
	list = append(list, kconfig.Option{Name: "CONFIG_DEBUG_INFO_NONE", Value: "n"}, kconfig.Option{Name: "CONFIG_DUMMY", Value: "m"})
	return list
}

// TestReproducible compiles a kernel twice, as two users, at two places and times, and
// with another number of compilers at once. It takes minutes.
func TestReproducible(t *testing.T) {
	if text := os.Getenv(buildVariable); text != "" {
		var b build
		if err := json.Unmarshal([]byte(text), &b); err != nil {
			t.Fatal(err)
		}
		compile(t, b, 1)
		return
	}
	first := build{Source: sourceTarball(t), Cache: openDir(t)}
	second := build{Source: first.Source, Cache: filepath.Join(openDir(t), "another", "place")}
	one := compile(t, first, 2)

	if err := os.MkdirAll(second.Cache, 0o755); err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(filepath.Dir(second.Cache), "test")
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := cache.CopyFile(self, program); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(second)
	if err != nil {
		t.Fatal(err)
	}
	command := exec.CommandContext(t.Context(), program, "-test.run=^TestReproducible$", "-test.timeout=1h")
	command.Dir = second.Cache
	command.Env = append(os.Environ(), buildVariable+"="+string(text), "HOME="+second.Cache, "TMPDIR="+second.Cache, "TZ=Asia/Tokyo")
	if os.Geteuid() == 0 {
		if err := os.Chown(second.Cache, nobody, nobody); err != nil {
			t.Fatal(err)
		}
		command.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	}
	if err := os.Chmod(program, 0o755); err != nil { //nolint:gosec // A program.
		t.Fatal(err)
	}
	if out, err := command.CombinedOutput(); err != nil {
		t.Fatalf("the second build: %v\n%s", err, out)
	}
	two, err := filepath.Glob(filepath.Join(second.Cache, "kernel-*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range two {
		if filepath.Ext(dir) == "" {
			compare(t, one, dir)
			return
		}
	}
	t.Fatalf("the second build left %q", two)
}

// openDir is a temporary directory whose path anyone may enter.
func openDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	if err := os.Chmod(filepath.Dir(dir), 0o755); err != nil { //nolint:gosec // See above.
		t.Fatal(err)
	}
	return dir
}

// sourceTarball is Debian's, where any user can read it.
func sourceTarball(t *testing.T) string {
	t.Helper()
	folder := os.Getenv("KATA_CACHE_DIR")
	if folder == "" {
		folder = filepath.Join("..", "..", "build", "cache")
	}
	packages := &debpkg.Source{CacheDir: filepath.Join(folder, "debian")}
	found, err := packages.Resolve(t.Context(), "linux-source-6.1")
	if err != nil {
		t.Fatal(err)
	}
	dir, err := packages.Unpack(t.Context(), found)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(openDir(t), "linux.tar.xz")
	if err := cache.CopyFile(filepath.Join(dir, "usr", "src", "linux-source-6.1.tar.xz"), path); err != nil {
		t.Fatal(err)
	}
	return path
}

// compile returns the directory of the result.
func compile(t *testing.T, b build, jobs int) string {
	t.Helper()
	source, err := kernel.FromTarball(b.Source)
	if err != nil {
		t.Fatal(err)
	}
	builder := &kernel.Builder{CacheDir: b.Cache, Arch: "amd64", Jobs: jobs, Log: io.Discard}
	built, err := builder.Build(context.WithoutCancel(t.Context()), source, smallest())
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(built.Image)
}

// compare compares every file of two results.
func compare(t *testing.T, one, two string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(one, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		files++
		name, err := filepath.Rel(one, path)
		if err != nil {
			return err
		}
		a, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		b, err := os.ReadFile(filepath.Join(two, name))
		if err != nil {
			return err
		}
		if string(a) != string(b) {
			t.Errorf("built again at another time and place, %s is another one", name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 8 { // image, symbols, configuration, a module and its index
		t.Errorf("%d files were built", files)
	}
}
