// Package kernel configures and compiles the guest kernel: an uncompressed
// image, and its modules where it has any, cached by what went into them.
package kernel

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"time"

	"kata-runtime/kernel-config/cache"
	"kata-runtime/kernel-config/kconfig"
	"kata-runtime/rootfs-builder/kmod"
)

// recipe is part of the cache key: change it with whatever this package does
// to the result, apart from source, options and compiler.
const recipe = "2"

// Builder configures and compiles kernels.
type Builder struct {
	// CacheDir keeps unpacked sources and results.
	CacheDir string
	// Arch is the target in Go's naming: amd64 or arm64. Another than the host's takes
	// Debian's cross compiler, or one with the same names.
	Arch string
	// Jobs is how many compilers run at once, at least 1.
	Jobs int
	// Log receives the output of the tools.
	Log io.Writer
}

// target is what make needs to know of an architecture.
type target struct {
	// arch is the kernel's name of it.
	arch string
	// goal is make's goal, image the file that it makes.
	goal, image string
	// tools begins the names of the compiler and its like; empty: they are the host's own.
	tools string
}

func (b *Builder) target() (target, error) {
	var want target
	switch b.Arch {
	case "amd64":
		want = target{arch: "x86_64", goal: "vmlinux", image: "vmlinux", tools: "x86_64-linux-gnu-"}
	case "arm64":
		want = target{arch: "arm64", goal: "Image", image: "arch/arm64/boot/Image", tools: "aarch64-linux-gnu-"}
	default:
		return target{}, fmt.Errorf("cannot build a kernel for the architecture %q", b.Arch)
	}
	if b.Arch == runtime.GOARCH {
		want.tools = ""
	}
	return want, nil
}

// findCompiler says what to install where the compiler is missing.
func (t target) findCompiler() error {
	if _, err := exec.LookPath(t.tools + "gcc"); err != nil {
		return fmt.Errorf("compile for %s: %w (Debian: apt-get install gcc-%s)", t.arch, err,
			strings.ReplaceAll(strings.TrimSuffix(t.tools, "-"), "_", "-"))
	}
	return nil
}

// pahole makes BTF of the information for debuggers.
const pahole = "pahole"

// paholeFlags are those that the kernel's own script has for the versions that the pinned
// sources take, but for -j: with threads, the order of types is another in each build.
const paholeFlags = "--btf_gen_floats --lang_exclude=rust"

// findPahole says what to install where it is missing: without it, the kernel's build
// system drops the option, and does not say why.
func findPahole() error {
	if _, err := exec.LookPath(pahole); err != nil {
		return fmt.Errorf("CONFIG_DEBUG_INFO_BTF: %w (Debian: apt-get install dwarves)", err)
	}
	return nil
}

// Check configures the kernel without compiling it, and returns its complete
// configuration. An option that did not survive is an error that wraps
// kconfig.ErrNotSurvived.
func (b *Builder) Check(ctx context.Context, source Source, options kconfig.Options) (config kconfig.Config, err error) {
	tree, err := b.unpack(ctx, source)
	if err != nil {
		return nil, err
	}
	objects, err := os.MkdirTemp(b.CacheDir, ".check.*")
	if err != nil {
		return nil, fmt.Errorf("create a directory in the cache: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(objects)) }()
	return b.configure(ctx, tree, objects, options)
}

// Built is a compiled kernel in the cache, beside the configuration that it was made
// with.
type Built struct {
	// Image is vmlinux.
	Image string
	// Config is its complete configuration.
	Config string
	// Symbols is the kernel as debuggers read it; empty for one without information for
	// them.
	Symbols string
	// Modules has a directory for the kernel's release, with an index; empty for a
	// kernel without.
	Modules string
}

// Build compiles the kernel, and its modules if the options have CONFIG_MODULES. The
// first build takes minutes, a repeated one no time.
func (b *Builder) Build(ctx context.Context, source Source, options kconfig.Options) (built Built, err error) {
	key, err := b.key(ctx, source, options)
	if err != nil {
		return built, err
	}
	dir, err := cache.Get(ctx, b.CacheDir, "kernel-"+key, func(ctx context.Context, dir string) error {
		return b.build(ctx, source, options, dir)
	})
	if err != nil {
		return built, err
	}
	built.Image, built.Config = filepath.Join(dir, "vmlinux"), filepath.Join(dir, "config")
	if modular(options) {
		built.Modules = filepath.Join(dir, "modules")
	}
	if debuggable(options) {
		built.Symbols = filepath.Join(dir, symbols)
	}
	return built, nil
}

func modular(options kconfig.Options) bool { return has(options, "CONFIG_MODULES", "y") }

// typed tells whether the kernel has its own types in the image (BTF).
func typed(options kconfig.Options) bool { return has(options, "CONFIG_DEBUG_INFO_BTF", "y") }

func debuggable(options kconfig.Options) bool { return has(options, "CONFIG_DEBUG_INFO_NONE", "n") }

func has(options kconfig.Options, name, value string) bool {
	return slices.ContainsFunc(options, func(o kconfig.Option) bool { return o.Name == name && o.Value == value })
}

// symbols is what debuggers read, in the directory of a kernel. The image that is booted
// has none: who starts a guest would read them all.
const symbols = "vmlinux.debug"

// key names the result: a hash of all that it depends on.
func (b *Builder) key(ctx context.Context, source Source, options kconfig.Options) (string, error) {
	want, err := b.target()
	if err != nil {
		return "", err
	}
	if want.tools != "" {
		if err := want.findCompiler(); err != nil {
			return "", err
		}
	}
	programs := []string{want.tools + "gcc", want.tools + "ld"}
	if typed(options) {
		if err := findPahole(); err != nil {
			return "", err
		}
		programs = append(programs, pahole)
	}
	var compiler bytes.Buffer
	for _, program := range programs {
		if err := b.run(ctx, &compiler, program, "--version"); err != nil {
			return "", err
		}
	}
	hash := sha256.New()
	for _, part := range []string{recipe, b.Arch, source.ID, options.AllConfig(), compiler.String()} {
		fmt.Fprintf(hash, "%d:%s", len(part), part)
	}
	return hex.EncodeToString(hash.Sum(nil))[:24], nil
}

// build compiles in a directory of its own and puts the result into dir.
func (b *Builder) build(ctx context.Context, source Source, options kconfig.Options, dir string) (err error) {
	want, err := b.target()
	if err != nil {
		return err
	}
	tree, err := b.unpack(ctx, source)
	if err != nil {
		return err
	}
	objects, err := os.MkdirTemp(b.CacheDir, ".build.*")
	if err != nil {
		return fmt.Errorf("create a directory in the cache: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(objects)) }()
	if _, err := b.configure(ctx, tree, objects, options); err != nil {
		return err
	}
	goals := []string{fmt.Sprintf("-j%d", max(b.Jobs, 1))}
	if debuggable(options) {
		names, err := anyPlace(tree, objects)
		if err != nil {
			return err
		}
		goals = append(goals, "KCFLAGS="+fastCompile+" "+names, "KAFLAGS="+names)
	}
	if modular(options) {
		goals = append(goals, "modules")
	}
	goals = append(goals, want.goal)
	if err := b.make(ctx, tree, objects, want, goals...); err != nil {
		return fmt.Errorf("compile the kernel: %w", err)
	}
	if modular(options) {
		if err := b.installModules(ctx, tree, objects, want, dir); err != nil {
			return err
		}
	}
	if err := b.finish(ctx, filepath.Join(objects, want.image), filepath.Join(dir, "vmlinux")); err != nil {
		return err
	}
	if debuggable(options) {
		if err := cache.CopyFile(filepath.Join(objects, "vmlinux"), filepath.Join(dir, symbols)); err != nil {
			return err
		}
	}
	return cache.CopyFile(filepath.Join(objects, ".config"), filepath.Join(dir, "config"))
}

// installModules puts the modules into dir/modules, without symbols for debuggers, and
// writes the index that a guest needs.
func (b *Builder) installModules(ctx context.Context, tree, objects string, want target, dir string) (err error) {
	staging, err := filepath.Abs(filepath.Join(objects, "staging"))
	if err != nil {
		return fmt.Errorf("find the build directory: %w", err)
	}
	// The index is not depmod's, which not every machine has.
	err = b.make(ctx, tree, objects, want, "INSTALL_MOD_PATH="+staging, "INSTALL_MOD_STRIP=1", "DEPMOD=true", "modules_install")
	if err != nil {
		return fmt.Errorf("install the modules: %w", err)
	}
	releases, err := filepath.Glob(filepath.Join(staging, "lib", "modules", "*"))
	if err != nil || len(releases) != 1 {
		return fmt.Errorf("install the modules: %d releases, want 1: %w", len(releases), err)
	}
	for _, link := range []string{"build", "source"} { // to this machine's directories
		if err := os.Remove(filepath.Join(releases[0], link)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("install the modules: %w", err)
		}
	}
	if err := kmod.WriteIndex(releases[0]); err != nil {
		return err
	}
	if err := os.Rename(filepath.Join(staging, "lib", "modules"), filepath.Join(dir, "modules")); err != nil {
		return fmt.Errorf("install the modules: %w", err)
	}
	return nil
}

// finish copies the image to its place. An ELF image loses its symbols, which
// only make it larger: the kernel has its own table for traces.
func (b *Builder) finish(ctx context.Context, image, output string) error {
	if b.Arch != "amd64" {
		return cache.CopyFile(image, output)
	}
	want, err := b.target()
	if err != nil {
		return err
	}
	if err := b.run(ctx, b.Log, want.tools+"objcopy", "--strip-all", image, output); err != nil {
		return fmt.Errorf("strip the kernel: %w", err)
	}
	return nil
}

// configure turns the options into a complete configuration in the directory
// objects: everything that is not asked for, and that nothing asked for needs,
// is off.
func (b *Builder) configure(ctx context.Context, tree, objects string, options kconfig.Options) (kconfig.Config, error) {
	want, err := b.target()
	if err != nil {
		return nil, err
	}
	if typed(options) {
		if err := findPahole(); err != nil {
			return nil, err
		}
	}
	wanted, err := filepath.Abs(filepath.Join(objects, "wanted.config"))
	if err != nil {
		return nil, fmt.Errorf("find the build directory: %w", err)
	}
	if err := cache.WriteFile(wanted, strings.NewReader(options.AllConfig())); err != nil {
		return nil, err
	}
	if err := b.make(ctx, tree, objects, want, "KCONFIG_ALLCONFIG="+wanted, "allnoconfig"); err != nil {
		return nil, fmt.Errorf("configure the kernel: %w", err)
	}
	text, err := os.ReadFile(filepath.Join(objects, ".config"))
	if err != nil {
		return nil, fmt.Errorf("configure the kernel: %w", err)
	}
	config, err := kconfig.ParseConfig(string(text))
	if err != nil {
		return nil, err
	}
	return config, options.Survival(config)
}

// fastCompile spares the compiler work without use: macro expansions are
// tracked for the sake of warnings, and there is nothing to vectorise in code
// that may not touch vector registers. Together they are a tenth of its time.
const fastCompile = "-ftrack-macro-expansion=0 -fno-tree-vectorize -fno-tree-slp-vectorize"

// anyPlace makes information for debuggers name the source /source, and the directory
// of the build /build: wherever both are, the kernel is the same.
func anyPlace(tree, objects string) (string, error) {
	var flags []string
	for _, place := range []struct{ path, name string }{{tree, "/source"}, {objects, "/build"}} {
		path, err := filepath.Abs(place.path)
		if err != nil {
			return "", fmt.Errorf("find the build directory: %w", err)
		}
		flags = append(flags, fmt.Sprintf("-fdebug-prefix-map=%s=%s", path, place.name))
	}
	return strings.Join(flags, " "), nil
}

// make runs the kernel's build system, out of tree and with nothing of this
// host in the result.
func (b *Builder) make(ctx context.Context, tree, objects string, want target, args ...string) error {
	absolute, err := filepath.Abs(objects)
	if err != nil {
		return fmt.Errorf("find the build directory: %w", err)
	}
	base := []string{
		"-s", "-C", tree, "O=" + absolute, "ARCH=" + want.arch,
		"KBUILD_BUILD_USER=kata", "KBUILD_BUILD_HOST=kata",
		"KBUILD_BUILD_TIMESTAMP=1970-01-01", "KBUILD_BUILD_VERSION=1",
		"KCFLAGS=" + fastCompile, "PAHOLE_FLAGS=" + paholeFlags,
	}
	// Without one, which only Check goes, what depends on the compiler is the host's.
	if want.tools != "" && want.findCompiler() == nil {
		base = append(base, "CROSS_COMPILE="+want.tools)
	}
	return b.run(ctx, b.Log, "make", append(base, args...)...)
}

// tailSize is how much of a failed tool's output an error quotes, in bytes.
const tailSize = 2000

// stopDelay is how long a tool may take to end when it is told to.
const stopDelay = 10 * time.Second

// run executes a program. Its output goes to out, and the end of it into the
// error.
func (b *Builder) run(ctx context.Context, out io.Writer, program string, args ...string) error {
	var tail bytes.Buffer
	command := exec.CommandContext(ctx, program, args...)
	command.Env = append(os.Environ(), "LC_ALL=C", "MAKEFLAGS=", "MAKELEVEL=")
	// make passes the signal on to the compilers and removes half-made files.
	command.Cancel = func() error { return command.Process.Signal(syscall.SIGTERM) }
	command.WaitDelay = stopDelay
	command.Stderr = &tail
	command.Stdout = out
	err := command.Run()
	if b.Log != nil {
		_, logErr := b.Log.Write(tail.Bytes())
		err = errors.Join(err, logErr)
	}
	if err != nil {
		text := tail.String()
		text = text[max(0, len(text)-tailSize):]
		return fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(text))
	}
	return nil
}
