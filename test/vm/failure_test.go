//go:build vm

package vm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// wantFailure runs a command that has to fail: with a code of its own, one
// error that holds each text on standard error and, as the only line at that
// level, in the log, and (by New) nothing left behind.
func wantFailure(h *harness.Host, texts []string, args ...string) {
	h.T.Helper()
	log, flags := h.File("log.json"), h.Flags
	h.Flags = append(slices.Clone(flags), "--log", log, "--log-format", "json")
	result := h.Run(args...)
	h.Flags = flags
	defer os.Remove(log) // the next one has a log of its own
	if result.Code != 1 || result.Stdout != "" {
		h.T.Errorf("exit code %d, want 1; standard output %q", result.Code, result.Stdout)
	}
	data, err := os.ReadFile(log)
	if err != nil {
		h.T.Fatalf("the log: %v; standard error %q", err, result.Stderr)
	}
	var entry struct{ Level, Msg, Time string }
	lines := bytes.Split(bytes.TrimSpace(data), []byte("\n"))
	if err := json.Unmarshal(lines[len(lines)-1], &entry); err != nil || len(lines) != 1 || entry.Level != "error" || entry.Time == "" {
		h.T.Errorf("the log has to be one error: %s (%v)", data, err)
	}
	for _, text := range texts {
		if !strings.Contains(result.Stderr, text) {
			h.T.Errorf("standard error lacks %q: %q", text, result.Stderr)
		}
		if !strings.Contains(entry.Msg, text) {
			h.T.Errorf("the log's error lacks %q: %q", text, entry.Msg)
		}
	}
}

func TestBadBundles(t *testing.T) {
	for _, c := range []struct {
		name  string
		spec  func(*specs.Spec)
		spoil func(h *harness.Host, bundle string) // after the bundle was made
		texts []string
	}{
		{name: "no bundle", spoil: func(_ *harness.Host, dir string) { os.RemoveAll(dir) }, texts: []string{"no such file or directory"}},
		{name: "no config", spoil: func(_ *harness.Host, dir string) { os.Remove(filepath.Join(dir, "config.json")) }, texts: []string{"config.json", "no such file or directory"}},
		{name: "malformed config", spoil: overwrite("config.json", `{"process": [`), texts: []string{"config.json"}},
		{name: "config of wrong types", spoil: overwrite("config.json", `{"ociVersion": "1.0.2", "process": {"args": 7}}`), texts: []string{"config.json", "args"}},
		{name: "no root file system", spoil: func(_ *harness.Host, dir string) { os.RemoveAll(filepath.Join(dir, "rootfs")) }, texts: []string{"rootfs", "no such file or directory"}},
		{name: "root file system is a file", spoil: func(h *harness.Host, dir string) {
			os.RemoveAll(filepath.Join(dir, "rootfs"))
			overwrite("rootfs", "")(h, dir)
		}, texts: []string{"rootfs", "not a directory"}},
		{name: "no root", spec: func(s *specs.Spec) { s.Root = nil }, texts: []string{"root"}},
		{name: "no process", spec: func(s *specs.Spec) { s.Process = nil }, texts: []string{"process"}},
		{name: "no arguments", spec: func(s *specs.Spec) { s.Process.Args = nil }, texts: []string{"process.args"}},
		{name: "relative cwd", spec: func(s *specs.Spec) { s.Process.Cwd = "here" }, texts: []string{"process.cwd"}},
		{name: "unknown version", spec: func(s *specs.Spec) { s.Version = "7.0.0" }, texts: []string{"7.0.0"}},
		{name: "missing mount source", spec: func(s *specs.Spec) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Type: "bind", Source: "/no/such/source", Options: []string{"bind"}})
		}, texts: []string{"/no/such/source", "no such file or directory"}},
		{name: "the host's network", spec: func(s *specs.Spec) {
			s.Linux.Namespaces = without(s.Linux.Namespaces, specs.NetworkNamespace)
		}, texts: []string{"network"}},
		{name: "the host's network by a path", spec: func(s *specs.Spec) {
			bundle.Namespace(s, specs.NetworkNamespace).Path = "/proc/1/ns/net"
		}, texts: []string{"the host's network is refused", "/proc/1/ns/net is the host's network namespace"}},
		{name: "the host's processes by a path", spec: func(s *specs.Spec) {
			bundle.Namespace(s, specs.PIDNamespace).Path = "/proc/self/ns/pid"
		}, texts: []string{"the host's processes", "/proc/self/ns/pid is the host's pid namespace"}},
		{name: "another kind of namespace", spec: func(s *specs.Spec) {
			bundle.Namespace(s, specs.NetworkNamespace).Path = "/proc/self/ns/uts"
		}, texts: []string{"/proc/self/ns/uts is not a network namespace"}},
		{name: "missing network namespace", spec: func(s *specs.Spec) {
			bundle.Namespace(s, specs.NetworkNamespace).Path = "/no/such/namespace"
		}, texts: []string{"/no/such/namespace"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := harness.New(t)
			spec := bundle.Spec("/bin/true")
			if c.spec != nil {
				c.spec(spec)
			}
			dir := h.Bundle(spec)
			if c.spoil != nil {
				c.spoil(h, dir)
			}
			wantFailure(h, append(c.texts, "prepare"), "run", "-b", dir, h.ID())
		})
	}
}

func overwrite(name, text string) func(*harness.Host, string) {
	return func(h *harness.Host, dir string) {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			h.T.Fatal(err)
		}
	}
}

func without(all []specs.LinuxNamespace, kind specs.LinuxNamespaceType) []specs.LinuxNamespace {
	var rest []specs.LinuxNamespace
	for _, n := range all {
		if n.Type != kind {
			rest = append(rest, n)
		}
	}
	return rest
}

func TestInvalidIDs(t *testing.T) {
	h := harness.New(t)
	dir := h.Bundle(bundle.Spec("/bin/true"))
	for _, id := range []string{"", ".", "..", "a/b", "../x", "a b", "a\nb", "ü", strings.Repeat("x", 5000)} {
		for _, command := range [][]string{{"run", "-b", dir}, {"state"}, {"kill"}, {"delete"}} {
			result := h.Run(append(command, id)...)
			invalid := strings.Contains(result.Stderr, "invalid container ID") || id == ""
			if unknown := strings.Contains(result.Stderr, "does not exist"); result.Code != 1 || !invalid && (command[0] == "run" || !unknown) {
				t.Errorf("%s %q: exit code %d, %q", command[0], id, result.Code, result.Stderr)
			}
		}
	}
}

// What cannot become a running machine: the error names the stage and quotes
// the last words of whoever failed.
func TestBadMachines(t *testing.T) {
	text := func(h *harness.Host) string {
		path := h.File("text")
		if err := os.WriteFile(path, bytes.Repeat([]byte("this is no kernel\n"), 1000), 0o755); err != nil {
			h.T.Fatal(err)
		}
		return path
	}
	key := func(key, value string) string { return fmt.Sprintf("hypervisor.qemu.%s = %q", key, value) }
	image := func(h *harness.Host, script string) []string {
		return []string{key("kernel", builtAssets(t).kernel), key("initrd", h.Initrd("initrd", script))}
	}
	silent := func(h *harness.Host, script string) []string { // until its time is over
		return append(image(h, script), "agent.kata.dial_timeout = 8")
	}
	// A machine that has no memory: the kernel finds that before it has
	// hvc0, and before it knows that it is to end by its panic.
	early := func(a assets) []string {
		return []string{
			key("kernel", a.kernel), key("initrd", a.initrd), key("kernel_params", "memmap=exactmap"),
			"agent.kata.dial_timeout = 8",
		}
	}
	for _, c := range []struct {
		name   string
		config func(h *harness.Host) []string
		texts  []string
	}{
		{"no QEMU", func(*harness.Host) []string { return []string{key("path", "/no/qemu")} }, []string{"/no/qemu"}},
		{"QEMU that refuses", func(*harness.Host) []string { return []string{key("path", "/bin/false")} }, []string{"start VMM", "exit status 1"}},
		{"no virtiofsd", func(*harness.Host) []string {
			return []string{key("shared_fs", "virtio-fs"), key("virtio_fs_daemon", "/no/virtiofsd")}
		}, []string{"/no/virtiofsd"}},
		{"virtiofsd that refuses", func(*harness.Host) []string {
			return []string{key("shared_fs", "virtio-fs"), key("virtio_fs_daemon", "/bin/false")}
		}, []string{"virtiofsd"}},
		{"no kernel", func(*harness.Host) []string {
			return []string{key("kernel", "/no/kernel"), key("initrd", builtAssets(t).initrd)}
		}, []string{"/no/kernel"}},
		{"no initrd", func(*harness.Host) []string {
			return []string{key("kernel", builtAssets(t).kernel), key("initrd", "/no/initrd")}
		}, []string{"/no/initrd"}},
		{"kernel that is none", func(h *harness.Host) []string {
			return []string{key("kernel", text(h)), key("initrd", builtAssets(t).initrd)}
		}, []string{"start VMM"}},
		{"initrd that is none", func(h *harness.Host) []string {
			return []string{key("kernel", builtAssets(t).kernel), key("initrd", text(h))}
		}, []string{"boot kernel", "panic"}},
		{"kernel that panics at once", func(*harness.Host) []string {
			return early(builtAssets(t))
		}, []string{"boot kernel", "Invalid user supplied memory map"}},
		{"Debian's kernel that panics at once", func(*harness.Host) []string {
			return early(debianAssets(t))
		}, []string{"boot kernel", "Invalid user supplied memory map"}},
		{"guest that panics", func(h *harness.Host) []string {
			return image(h, "echo last words; exit 1\n")
		}, []string{"boot kernel", "last words", "panic"}},
		{"guest that never answers", func(h *harness.Host) []string {
			return silent(h, "echo I sleep; exec /busybox sleep 100000\n")
		}, []string{"boot kernel", "I sleep", "did not answer"}},
		{"guest whose agent never answers", func(h *harness.Host) []string {
			return silent(h, "echo 'kata-init: started'; exec /busybox sleep 100000\n")
		}, []string{"start agent", "did not answer"}},
		{"unknown configuration key", func(*harness.Host) []string {
			return []string{"hypervisor.qemu.no_such_key = 1"}
		}, []string{"no_such_key"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := harness.New(t)
			configure(h, c.config(h)...)
			wantFailure(h, c.texts, "run", "-b", h.Bundle(bundle.Spec("/bin/true")), h.ID())
		})
	}
}

func TestBadPrograms(t *testing.T) {
	for _, c := range []struct {
		name  string
		spec  func(*specs.Spec)
		texts []string
	}{
		{"missing program", func(s *specs.Spec) { s.Process.Args = []string{"/bin/nothing"} }, []string{"start container", "/bin/nothing", "no such file or directory"}},
		{"directory as program", func(s *specs.Spec) { s.Process.Args = []string{"/bin"} }, []string{"is a directory"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := harness.New(t)
			spec := bundle.Spec()
			c.spec(spec)
			wantFailure(h, c.texts, "run", "-b", h.Bundle(spec), h.ID())
		})
	}
}

func TestFullStateDirectory(t *testing.T) {
	h := harness.New(t)
	if err := os.Mkdir(h.Root, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", h.Root, "tmpfs", 0, "size=4k,nr_inodes=4"); err != nil {
		t.Fatal(err)
	}
	wantFailure(h, []string{"no space left on device"}, "run", "-b", h.Bundle(bundle.Spec("/bin/true")), h.ID())
	if err := unix.Unmount(h.Root, 0); err != nil {
		t.Errorf("unmount the state directory: %v", err)
	}
}
