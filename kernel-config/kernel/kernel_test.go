package kernel_test

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"kata-runtime/kernel-config/kconfig"
	"kata-runtime/kernel-config/kernel"
)

// fakeMake stands for the kernel's build system: it drops CONFIG_DROPPED, and
// compiles by copying the configuration. It notes each goal.
const fakeMake = `#!/bin/sh
for arg; do
	case $arg in
	O=*) objects=${arg#O=} ;;
	KCONFIG_ALLCONFIG=*) wanted=${arg#KCONFIG_ALLCONFIG=} ;;
	INSTALL_MOD_PATH=*) release=${arg#INSTALL_MOD_PATH=}/lib/modules/6.1-fake ;;
	esac
	goal=$arg
done
for arg; do case $arg in CROSS_COMPILE=*) echo "$arg" >> "$FAKE_LOG" ;; esac; done
echo "$goal" >> "$FAKE_LOG"
for arg; do case $arg in PAHOLE_FLAGS=*) echo "$arg " >> "$FAKE_LOG.flags" ;; esac; done
case $goal in
allnoconfig) grep -v CONFIG_DROPPED "$wanted" > "$objects/.config" ;;
Image) mkdir -p "$objects/arch/arm64/boot" && cp "$objects/.config" "$objects/arch/arm64/boot/Image" ;;
vmlinux) [ -z "$FAKE_FAILURE" ] || { echo "cc: $FAKE_FAILURE" >&2; exit 2; }
	cp "$objects/.config" "$objects/vmlinux" ;;
modules_install) mkdir -p "$release"; echo kernel/a.ko > "$release/modules.builtin"; ln -s "$objects" "$release/build" ;;
esac
`

// fakeTools puts the fakes before the host's tools and returns the path of
// their log.
func fakeTools(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	tools := map[string]string{
		"make": fakeMake,
		"gcc":  "#!/bin/sh\necho \"gcc $FAKE_GCC\"\n",
		"ld":   "#!/bin/sh\necho ld 1\n",
		// objcopy --strip-all FROM TO
		"objcopy": "#!/bin/sh\ncp \"$2\" \"$3\"\n",
	}
	for name, script := range tools {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(script), 0o700); err != nil { //nolint:gosec // A program.
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	log := filepath.Join(dir, "log")
	t.Setenv("FAKE_LOG", log)
	return log
}

func fakeSource(t *testing.T) kernel.Source {
	t.Helper()
	dir := t.TempDir()
	tarball := filepath.Join(dir, "linux.tar")
	// An empty archive: two blocks of zeros.
	if err := os.WriteFile(tarball, make([]byte, 1024), 0o600); err != nil {
		t.Fatal(err)
	}
	source, err := kernel.FromTarball(tarball)
	if err != nil {
		t.Fatal(err)
	}
	return source
}

func options(names ...string) kconfig.Options {
	var list kconfig.Options
	for _, name := range names {
		list = append(list, kconfig.Option{Name: name, Value: "y", Reason: "wanted", Origin: "f:1"})
	}
	return list
}

// goals returns the goals that make was run for so far.
func goals(t *testing.T, log string) string {
	t.Helper()
	text, err := os.ReadFile(log)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	return strings.Join(strings.Fields(string(text)), " ")
}

func TestBuildIsCachedByWhatGoesIntoIt(t *testing.T) {
	log := fakeTools(t)
	builder := &kernel.Builder{CacheDir: t.TempDir(), Arch: "amd64", Jobs: 1, Log: io.Discard}
	source := fakeSource(t)
	build := func(options kconfig.Options) string {
		t.Helper()
		built, err := builder.Build(t.Context(), source, options)
		if err != nil {
			t.Fatal(err)
		}
		if built.Modules != "" {
			t.Errorf("modules in %s of a kernel without", built.Modules)
		}
		return built.Image
	}
	first := build(options("CONFIG_A"))
	text, err := os.ReadFile(first)
	if err != nil || string(text) != "CONFIG_A=y\n" {
		t.Fatalf("kernel = %q, %v", text, err)
	}
	if again := build(options("CONFIG_A")); again != first {
		t.Errorf("the same input gave %s, then %s", first, again)
	}
	if got, want := goals(t, log), "allnoconfig vmlinux"; got != want {
		t.Errorf("make ran for %q, want %q", got, want)
	}
	other := build(options("CONFIG_A", "CONFIG_B"))
	t.Setenv("FAKE_GCC", "99")
	compiler := build(options("CONFIG_A"))
	if first == other || first == compiler || other == compiler {
		t.Errorf("different inputs share a result: %s, %s, %s", first, other, compiler)
	}
	if got, want := goals(t, log), strings.TrimSpace(strings.Repeat("allnoconfig vmlinux ", 3)); got != want {
		t.Errorf("make ran for %q, want %q", got, want)
	}
}

func TestBuildWithModules(t *testing.T) {
	log := fakeTools(t)
	builder := &kernel.Builder{CacheDir: t.TempDir(), Arch: "amd64", Jobs: 1, Log: io.Discard}
	built, err := builder.Build(t.Context(), fakeSource(t), options("CONFIG_A", "CONFIG_MODULES"))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := goals(t, log), "allnoconfig vmlinux modules_install"; got != want {
		t.Errorf("make ran for %q, want %q", got, want)
	}
	release := filepath.Join(built.Modules, "6.1-fake")
	for _, name := range []string{"modules.builtin", "modules.dep", "modules.alias", "modules.softdep", "modules.sha256"} {
		if _, err := os.Stat(filepath.Join(release, name)); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Lstat(filepath.Join(release, "build")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a link to where the kernel was built is left: %v", err)
	}
}

// A kernel with information for debuggers keeps what the image loses.
func TestBuildKeepsSymbols(t *testing.T) {
	fakeTools(t)
	builder := &kernel.Builder{CacheDir: t.TempDir(), Arch: "amd64", Jobs: 1, Log: io.Discard}
	source := fakeSource(t)
	without, err := builder.Build(t.Context(), source, options("CONFIG_A"))
	if err != nil || without.Symbols != "" {
		t.Errorf("symbols %q, %v, of a kernel without", without.Symbols, err)
	}
	debug := append(options("CONFIG_A"), kconfig.Option{Name: "CONFIG_DEBUG_INFO_NONE", Value: "n"})
	built, err := builder.Build(t.Context(), source, debug)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(built.Symbols); err != nil {
		t.Error(err)
	}
}

// The kernel's types take a program that the kernel's build system silently does without.
// Its threads would give them another order in each build.
func TestTypes(t *testing.T) {
	log := fakeTools(t)
	tools := filepath.Dir(log)
	builder := &kernel.Builder{CacheDir: t.TempDir(), Arch: "amd64", Log: io.Discard}
	source, wanted := fakeSource(t), options("CONFIG_DEBUG_INFO_BTF")
	path := os.Getenv("PATH")
	t.Setenv("PATH", tools)
	const missing = "apt-get install dwarves"
	if _, err := builder.Build(t.Context(), source, wanted); err == nil || !strings.Contains(err.Error(), missing) {
		t.Errorf("Build = %v", err)
	}
	t.Setenv("PATH", path)
	keys := map[string]bool{}
	for _, version := range []string{"v1.24", "v1.25"} {
		if err := os.WriteFile(filepath.Join(tools, "pahole"), []byte("#!/bin/sh\necho "+version+"\n"), 0o700); err != nil { //nolint:gosec // A program.
			t.Fatal(err)
		}
		built, err := builder.Build(t.Context(), source, wanted)
		if err != nil {
			t.Fatal(err)
		}
		keys[built.Image] = true
	}
	if len(keys) != 2 {
		t.Errorf("two versions of pahole share a result: %v", keys)
	}
	flags, err := os.ReadFile(log + ".flags")
	if err != nil || !strings.Contains(string(flags), "PAHOLE_FLAGS=--") || strings.Contains(string(flags), "-j ") {
		t.Errorf("make was started with %s, %v", flags, err)
	}
}

func TestBuildFailsWhenAnOptionDoesNotSurvive(t *testing.T) {
	log := fakeTools(t)
	cache := t.TempDir()
	builder := &kernel.Builder{CacheDir: cache, Arch: "amd64", Jobs: 1, Log: io.Discard}
	_, err := builder.Build(t.Context(), fakeSource(t), options("CONFIG_A", "CONFIG_DROPPED"))
	if !errors.Is(err, kconfig.ErrNotSurvived) || !strings.Contains(err.Error(), "CONFIG_DROPPED") {
		t.Errorf("Build = %v, want ErrNotSurvived for CONFIG_DROPPED", err)
	}
	if got := strings.TrimPrefix(goals(t, log), "CROSS_COMPILE=aarch64-linux-gnu- "); got != "allnoconfig" {
		t.Errorf("make ran for %q: it compiled all the same", got)
	}
	leftovers(t, cache)
}

func TestBuildQuotesTheCompiler(t *testing.T) {
	fakeTools(t)
	t.Setenv("FAKE_FAILURE", "no such header")
	cache := t.TempDir()
	builder := &kernel.Builder{CacheDir: cache, Arch: "amd64", Jobs: 1, Log: io.Discard}
	_, err := builder.Build(t.Context(), fakeSource(t), options("CONFIG_A"))
	if err == nil || !strings.Contains(err.Error(), "compile the kernel") || !strings.Contains(err.Error(), "no such header") {
		t.Errorf("Build = %v", err)
	}
	leftovers(t, cache)
}

// leftovers checks that a failure left the cache with sources and locks alone.
func leftovers(t *testing.T, cache string) {
	t.Helper()
	entries, err := os.ReadDir(cache)
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if !strings.HasPrefix(entry.Name(), "tree-") && !strings.HasSuffix(entry.Name(), ".lock") {
			t.Errorf("left behind: %s", entry.Name())
		}
	}
}

func TestCheckCompilesNothing(t *testing.T) {
	log := fakeTools(t)
	builder := &kernel.Builder{CacheDir: t.TempDir(), Arch: "arm64", Log: io.Discard}
	config, err := builder.Check(t.Context(), fakeSource(t), options("CONFIG_A"))
	if err != nil {
		t.Fatal(err)
	}
	if config["CONFIG_A"] != "y" {
		t.Errorf("configuration = %v", config)
	}
	if got := strings.TrimPrefix(goals(t, log), "CROSS_COMPILE=aarch64-linux-gnu- "); got != "allnoconfig" {
		t.Errorf("make ran for %q", got)
	}
}

// A kernel for another architecture is compiled by its own compiler, which counts for
// the cache.
func TestCrossCompile(t *testing.T) {
	foreign, prefix := "arm64", "aarch64-linux-gnu-"
	if runtime.GOARCH == foreign {
		foreign, prefix = "amd64", "x86_64-linux-gnu-"
	}
	log := fakeTools(t)
	tools := filepath.Dir(log)
	builder := &kernel.Builder{CacheDir: t.TempDir(), Arch: foreign, Log: io.Discard}
	t.Setenv("PATH", tools+":/usr/bin/../bin/absent:/bin/absent") // where a cross compiler may be
	if _, err := builder.Build(t.Context(), fakeSource(t), options("CONFIG_A")); err == nil || !strings.Contains(err.Error(), "apt-get install gcc-"+strings.ReplaceAll(strings.TrimSuffix(prefix, "-"), "_", "-")) {
		t.Errorf("Build without a compiler = %v", err)
	}
	for _, name := range []string{"gcc", "ld", "objcopy"} {
		if err := os.Symlink(name, filepath.Join(tools, prefix+name)); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", tools+":/usr/bin:/bin")
	if _, err := builder.Build(t.Context(), fakeSource(t), options("CONFIG_A")); err != nil {
		t.Fatal(err)
	}
	if got := goals(t, log); !strings.Contains(got, "CROSS_COMPILE="+prefix) {
		t.Errorf("make ran for %q", got)
	}
}

func TestFromTarball(t *testing.T) {
	if _, err := kernel.FromTarball(filepath.Join(t.TempDir(), "absent")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("FromTarball of nothing = %v", err)
	}
	one, two := fakeSource(t), fakeSource(t)
	if one.ID != two.ID {
		t.Errorf("the same content has two names: %s, %s", one.ID, two.ID)
	}
}
