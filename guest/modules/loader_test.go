package modules

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// release is a directory of modules whose content is their path.
type release struct {
	dir    string
	digest [sha256.Size]byte
}

func newRelease(t *testing.T, dependencies, aliases, soft string) release {
	t.Helper()
	dir := t.TempDir()
	contents := map[string]string{dependencyFile: dependencies, aliasFile: aliases, softDependencyFile: soft, builtinFile: "kernel/fs/fuse.ko\n"}
	for line := range strings.Lines(dependencies) {
		path, _, _ := strings.Cut(line, ":")
		contents[path] = path
	}
	var list bytes.Buffer
	for name, content := range contents {
		writeFile(t, filepath.Join(dir, name), content)
		fmt.Fprintf(&list, "%x  %s\n", sha256.Sum256([]byte(content)), name)
	}
	writeFile(t, filepath.Join(dir, digestFile), list.String())
	return release{dir, sha256.Sum256(list.Bytes())}
}

func writeFile(t *testing.T, path, content string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

// kernel has what it was given.
type kernel struct {
	mu    sync.Mutex
	order []string
	fail  map[string]error
	// during is called while a module's own code runs.
	during func(name string)
}

func (k *kernel) insert(content []byte, parameters string) error {
	name := strings.TrimSpace(nameOf(string(content)) + " " + parameters)
	if k.during != nil {
		k.during(name)
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if err := k.fail[name]; err != nil {
		return err
	}
	if slices.Contains(k.order, name) {
		return unix.EEXIST
	}
	k.order = append(k.order, name)
	return nil
}

func (k *kernel) present(name string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Contains(k.order, name)
}

func (r release) loader(k *kernel, log *bytes.Buffer, deny ...string) *loader {
	return r.loaderWith(k, log, deny, nil)
}

// loaderWith returns one that has modules to preload.
func (r release) loaderWith(k *kernel, log *bytes.Buffer, deny, first []string) *loader {
	handler := slog.DiscardHandler
	if log != nil {
		handler = slog.NewTextHandler(log, nil)
	}
	l := newLoader(slog.New(handler), deny, first)
	l.open = func() (*index, error) { return openIndex(r.dir, r.digest) }
	l.insert, l.present = k.insert, k.present
	return l
}

const (
	testDependencies = `kernel/fs/xfs/xfs.ko: kernel/lib/libcrc32c.ko
kernel/lib/libcrc32c.ko:
kernel/crypto/crc32c-intel.ko:
kernel/crypto/crc32c_generic.ko:
kernel/drivers/block/loop.ko:
kernel/net/a.ko: kernel/net/b.ko kernel/net/c.ko
kernel/net/b.ko: kernel/net/c.ko
kernel/net/c.ko:
kernel/net/vsock_loopback.ko:
kernel/net/needs-it.ko: kernel/net/vsock_loopback.ko
kernel/net/lacks.ko: kernel/net/gone.ko
`
	testAliases = `# by depmod
alias fs-xfs xfs
alias crc32c crc32c-intel
alias crc32c crc32c_generic
alias block-major-7-* loop
alias pci:v00001AF4d*sv* loop
alias nft-expr-[a-c]-x a
`
	testSoft = "softdep libcrc32c pre: crc32c absent post: a\n"
)

func TestRequests(t *testing.T) {
	tests := map[string]struct {
		name string
		want []string
		err  error
	}{
		"an alias, with what it needs":   {"fs-xfs", []string{"crc32c_intel", "crc32c_generic", "libcrc32c", "xfs"}, nil},
		"depmod's order":                 {"a", []string{"c", "b", "a"}, nil},
		"a name with dashes":             {"crc32c-generic", []string{"crc32c_generic"}, nil},
		"all modules of an alias":        {"crc32c", []string{"crc32c_intel", "crc32c_generic"}, nil},
		"a pattern":                      {"block-major-7-3", []string{"loop"}, nil},
		"a class of characters":          {"nft-expr-b-x", []string{"c", "b", "a"}, nil},
		"an alias of a device":           {"pci:v00001AF4d0svx", nil, errUnknown},
		"what is built in":               {"fuse", nil, nil},
		"nothing":                        {"net-pf-99", nil, errUnknown},
		"a path":                         {"../xfs", nil, errUnknown},
		"what is never loaded":           {"vsock-loopback", nil, errDenied},
		"what depends on that":           {"needs_it", nil, errDenied},
		"a dependency that is not there": {"lacks", nil, errUnknown},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			k := &kernel{}
			l := newRelease(t, testDependencies, testAliases, testSoft).loader(k, nil)
			for range 2 { // the second time it is there
				if err := l.request(test.name); !errors.Is(err, test.err) {
					t.Errorf("error %v, want %v", err, test.err)
				}
			}
			if diff := cmp.Diff(test.want, k.order); diff != "" {
				t.Errorf("inserted (-want +got):\n%s", diff)
			}
		})
	}
}

func TestDeniedModules(t *testing.T) {
	k := &kernel{}
	var log bytes.Buffer
	l := newRelease(t, testDependencies, testAliases, testSoft).loader(k, &log, "c", "crc32c-intel")
	for range 2 {
		if err := l.request("a"); !errors.Is(err, errDenied) {
			t.Errorf("a module that needs a denied one: %v", err)
		}
	}
	if err := l.request("fs-xfs"); err != nil {
		t.Errorf("a module that would like a denied one: %v", err)
	}
	if want := []string{"crc32c_generic", "libcrc32c", "xfs"}; !slices.Equal(k.order, want) {
		t.Errorf("inserted %v, want %v", k.order, want)
	}
	if n := strings.Count(log.String(), "deny_modules"); n != 1 {
		t.Errorf("the log tells of it %d times, want once:\n%s", n, &log)
	}
}

// What is not of the image's build is not loaded, whatever it is.
func TestTampering(t *testing.T) {
	tests := map[string]struct {
		tamper func(t *testing.T, r *release)
		text   string
	}{
		"a module": {func(t *testing.T, r *release) {
			writeFile(t, filepath.Join(r.dir, "kernel/fs/xfs/xfs.ko"), "kernel/fs/xfs/xfs.ko ")
		}, "kernel/fs/xfs/xfs.ko: it is not what the image names"},
		"a module that is a link": {func(t *testing.T, r *release) {
			path := filepath.Join(r.dir, "kernel/fs/xfs/xfs.ko")
			if err := errors.Join(os.Remove(path), os.Symlink("/dev/zero", path)); err != nil {
				t.Fatal(err)
			}
		}, "xfs"},
		"the list of digests": {func(t *testing.T, r *release) {
			list, err := os.ReadFile(filepath.Join(r.dir, digestFile))
			if err != nil {
				t.Fatal(err)
			}
			writeFile(t, filepath.Join(r.dir, digestFile), string(list)+"\n")
		}, "another build"},
		"the aliases": {func(t *testing.T, r *release) {
			writeFile(t, filepath.Join(r.dir, aliasFile), "alias fs-xfs loop\n")
		}, aliasFile},
		"an image of another build": {func(_ *testing.T, r *release) { r.digest[0]++ }, "another build"},
		"no directory":              {func(_ *testing.T, r *release) { r.dir += "/absent" }, "absent"},
	}
	for name, test := range tests {
		t.Run(name, func(t *testing.T) {
			k := &kernel{}
			r := newRelease(t, testDependencies, testAliases, "")
			test.tamper(t, &r)
			err := r.loader(k, nil).request("xfs")
			if err == nil || !strings.Contains(err.Error(), test.text) {
				t.Errorf("error %v, want one with %q", err, test.text)
			}
			if slices.Contains(k.order, "xfs") {
				t.Error("it was loaded")
			}
		})
	}
}

// A module's own code asks for others and waits for them, while others wait for it.
func TestRequestsDuringALoad(t *testing.T) {
	k := &kernel{}
	l := newRelease(t, testDependencies, testAliases, "").loader(k, nil)
	var inside error
	k.during = func(name string) {
		if name == "xfs" {
			inside = l.request("crc32c")
		}
	}
	var waiters sync.WaitGroup
	for range 10 {
		waiters.Go(func() {
			if err := l.request("fs-xfs"); err != nil {
				t.Error(err)
			}
		})
	}
	waiters.Wait()
	if inside != nil {
		t.Error(inside)
	}
	for _, name := range []string{"xfs", "crc32c_generic"} {
		if !k.present(name) {
			t.Errorf("%s was not loaded", name)
		}
	}
}

func TestAModuleThatFails(t *testing.T) {
	k := &kernel{fail: map[string]error{"crc32c_intel": unix.ENODEV, "loop": unix.ENODEV, "c": unix.EEXIST}}
	l := newRelease(t, testDependencies, testAliases, testSoft).loader(k, nil)
	if err := l.request("loop"); !errors.Is(err, unix.ENODEV) {
		t.Errorf("error %v, want ENODEV", err)
	}
	if err := l.request("fs-xfs"); err != nil {
		t.Errorf("one that it would like fails: %v", err)
	}
	if err := l.request("a"); err != nil {
		t.Errorf("one that is there: %v", err)
	}
	// That others were loaded for it does not hide that it was not.
	var log bytes.Buffer
	k = &kernel{fail: map[string]error{"xfs": unix.ENOMEM}}
	l = newRelease(t, testDependencies, testAliases, "").loader(k, &log)
	if err := l.request("fs-xfs"); !errors.Is(err, unix.ENOMEM) {
		t.Errorf("error %v, want ENOMEM", err)
	}
	for _, want := range []string{"modules=[libcrc32c] request=fs-xfs", "level=WARN msg=\"kernel module not loaded\" request=fs-xfs"} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("the log lacks %q:\n%s", want, &log)
		}
	}
}

func TestPreload(t *testing.T) {
	k := &kernel{}
	r := newRelease(t, testDependencies, testAliases, "")
	l := r.loaderWith(k, nil, nil, []string{"loop max_part=4 y=\"1 2\"", "c", "fuse"})
	l.commandLine = "quiet loop.max_loop=8 xfs.x=1"
	if err := l.preload(); err != nil {
		t.Fatal(err)
	}
	if want := []string{`loop max_loop=8 max_part=4 y="1 2"`, "c"}; !slices.Equal(k.order, want) {
		t.Errorf("inserted %q, want %q", k.order, want)
	}
	for name, want := range map[string]error{"gone": errUnknown, "a": errDenied} {
		l := r.loaderWith(k, nil, []string{"a"}, []string{name})
		if err := l.preload(); !errors.Is(err, want) || !strings.Contains(err.Error(), "kernel_modules") {
			t.Errorf("%s: error %v, want %v", name, err, want)
		}
	}
}

// The kernel may ask, with parameters for the module, as soon as it can.
func TestRequestsDuringPreload(t *testing.T) {
	k := &kernel{}
	l := newRelease(t, testDependencies, testAliases, "").loaderWith(k, nil, nil, []string{"c x=1", "loop max_part=4"})
	var asking sync.WaitGroup
	asking.Go(func() {
		if err := l.request("block-major-7-0"); err != nil {
			t.Error(err)
		}
	})
	if err := l.preload(); err != nil {
		t.Error(err)
	}
	asking.Wait()
	if want := []string{"c x=1", "loop max_part=4"}; !slices.Equal(slices.Sorted(slices.Values(k.order)), want) {
		t.Errorf("inserted %q, want %q", k.order, want)
	}
}

// What a module would like, and cannot have, takes nothing away from what it needs.
func TestSoftDependencyThatFailsSharesAModule(t *testing.T) {
	const dependencies = `kernel/net/top.ko: kernel/net/shared.ko
kernel/net/shared.ko:
kernel/net/liked.ko: kernel/net/denied.ko kernel/net/shared.ko
kernel/net/denied.ko:
`
	k := &kernel{}
	l := newRelease(t, dependencies, "", "softdep top pre: liked\n").loader(k, nil, "denied")
	if err := l.request("top"); err != nil {
		t.Error(err)
	}
	if want := []string{"shared", "top"}; !slices.Equal(k.order, want) {
		t.Errorf("inserted %q, want %q", k.order, want)
	}
	// Who needs it fails with it, whatever it was to somebody else first.
	k.order, k.fail = nil, map[string]error{"shared": unix.ENODEV}
	if err := l.request("top"); !errors.Is(err, unix.ENODEV) || len(k.order) != 0 {
		t.Errorf("error %v, want ENODEV; inserted %q", err, k.order)
	}
}

// Containers choose the names.
func TestFailuresThatAreToldAreBounded(t *testing.T) {
	var log bytes.Buffer
	l := newRelease(t, testDependencies, testAliases, "").loader(&kernel{fail: map[string]error{"loop": unix.ENODEV}}, &log)
	for i := range 5 * maxTold {
		if err := l.request(fmt.Sprintf("block-major-7-%d", i)); err == nil {
			t.Fatal("a module that fails was loaded")
		}
	}
	if n := strings.Count(log.String(), "\n"); n != maxTold {
		t.Errorf("%d lines, want %d", n, maxTold)
	}
}
