//go:build vm

package vm

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
	"golang.org/x/sys/unix"

	"kata-runtime/test/bundle"
	"kata-runtime/test/harness"
)

// TestFeaturesAreNotEmptyPromises makes a container that uses whatever the
// features command promises.
func TestFeaturesAreNotEmptyPromises(t *testing.T) {
	h := harness.New(t)
	var promised features.Features
	decode(h, h.Must("features"), &promised)
	for _, wanted := range []string{"1.0.0", "1.3.0"} {
		if promised.OCIVersionMin != wanted && promised.OCIVersionMax != wanted {
			t.Errorf("versions %s to %s", promised.OCIVersionMin, promised.OCIVersionMax)
		}
	}
	spec := bundle.Spec()
	spec.Version = promised.OCIVersionMax
	for _, kind := range promised.Linux.Namespaces {
		if kind := specs.LinuxNamespaceType(kind); kind != specs.UserNamespace && bundle.Namespace(spec, kind) == nil {
			spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: kind})
		}
	}
	spec.Process.Capabilities.Bounding = promised.Linux.Capabilities
	spec.Linux.Seccomp = everySeccompFeature(promised.Linux.Seccomp)
	outer := nestedMounts(h)
	for _, option := range promised.MountOptions {
		spec.Mounts = append(spec.Mounts, mountWith(option, outer))
	}
	spec.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/bin/touch", Args: []string{"touch", "/tmp/hook"}}}}
	spec.Process.Args = []string{"/bin/sh", "-c", `
		awk '/^CapBnd:/ {print "capabilities", $2} /^Seccomp:/ {print "seccomp", $2}' /proc/self/status
		ls /tmp/hook
		touch /m/rro/inner/file 2>&1
		touch /m/rbind/inner/file && echo writable
		cat /proc/self/mountinfo`}

	result := h.Run("run", "-b", h.Bundle(spec), h.ID())

	wantCode(t, result, 0)
	for _, want := range []string{
		"capabilities 000001ffffffffff\n", "seccomp 2\n", "/tmp/hook\n",
		"touch: /m/rro/inner/file: Read-only file system\n", "writable\n",
	} {
		if !strings.Contains(result.Stdout, want) {
			t.Errorf("no %q in the output", want)
		}
	}
	for _, option := range promised.MountOptions {
		checkMountOption(t, option, result.Stdout)
	}
	if t.Failed() {
		t.Log(result.Stdout)
	}
}

// everySeccompFeature is a filter that lets a shell run.
func everySeccompFeature(promised *features.Seccomp) *specs.LinuxSeccomp {
	filter := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow}
	for _, arch := range promised.Archs {
		filter.Architectures = append(filter.Architectures, specs.Arch(arch))
	}
	for _, flag := range promised.SupportedFlags {
		filter.Flags = append(filter.Flags, specs.LinuxSeccompFlag(flag))
	}
	unused := []string{"swapon", "swapoff", "reboot", "kexec_load", "init_module", "delete_module", "acct", "lookup_dcookie"}
	for i, action := range promised.Actions {
		if action != string(specs.ActAllow) {
			filter.Syscalls = append(filter.Syscalls, specs.LinuxSyscall{Names: unused[i : i+1], Action: specs.LinuxSeccompAction(action)})
		}
	}
	for i, operator := range promised.Operators {
		filter.Syscalls = append(filter.Syscalls, specs.LinuxSyscall{
			Names: []string{"quotactl"}, Action: specs.ActErrno,
			Args: []specs.LinuxSeccompArg{{Index: uint(i % 6), Value: 1, ValueTwo: 1, Op: specs.LinuxSeccompOperator(operator)}},
		})
	}
	return filter
}

// nestedMounts makes a directory of the host with a mount below it.
func nestedMounts(h *harness.Host) string {
	h.T.Helper()
	outer := h.File("outer")
	inner := filepath.Join(outer, "inner")
	if err := os.MkdirAll(inner, 0o755); err != nil {
		h.T.Fatal(err)
	}
	if err := unix.Mount("tmpfs", inner, "tmpfs", 0, "size=1m"); err != nil {
		h.T.Fatal(err)
	}
	h.T.Cleanup(func() {
		if err := unix.Unmount(inner, 0); err != nil {
			h.T.Error(err)
		}
	})
	return outer
}

// isBindOption tells whether an option makes sense for a bind mount only: the
// recursive ones change what is mounted below it too.
func isBindOption(option string) bool {
	return slices.Contains([]string{
		"bind", "rbind", "rro", "rrw", "rsuid", "rnosuid", "rdev", "rnodev", "rexec", "rnoexec", "ratime", "rnoatime",
		"rdiratime", "rnodiratime", "rrelatime", "rnorelatime", "rstrictatime", "rnostrictatime", "rsymfollow", "rnosymfollow",
	}, option)
}

// mountWith is a mount on /m/OPTION with that option.
func mountWith(option, outer string) specs.Mount {
	m := specs.Mount{Destination: "/m/" + option, Type: "tmpfs", Source: "tmpfs", Options: []string{option}}
	if isBindOption(option) {
		m.Type, m.Source, m.Options = "bind", outer, []string{"rbind", option}
	}
	return m
}

// checkMountOption looks at what the kernel says of the option's mount.
func checkMountOption(t *testing.T, option, mountinfo string) {
	t.Helper()
	_, line, ok := strings.Cut(mountinfo, fmt.Sprintf(" / /m/%s ", option))
	if !ok {
		t.Errorf("option %s: not mounted", option)
		return
	}
	line, _, _ = strings.Cut(line, "\n")
	shown := strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == ',' })
	plain := strings.TrimPrefix(option, "r")
	for _, flag := range []string{"nosuid", "nodev", "noexec", "noatime", "nodiratime", "nosymfollow"} {
		if has := slices.Contains(shown, flag); has != (option == flag || plain == flag) {
			t.Errorf("option %s: %s is %v in %q", option, flag, has, line)
		}
	}
	for name, flag := range map[string]string{"ro": "ro", "sync": "sync", "dirsync": "dirsync", "lazytime": "lazytime"} {
		if option == name && !slices.Contains(shown, flag) {
			t.Errorf("option %s: no %s in %q", option, flag, line)
		}
	}
	if shared := slices.ContainsFunc(shown, func(s string) bool { return strings.HasPrefix(s, "shared:") }); shared != strings.HasSuffix(option, "shared") {
		t.Errorf("option %s: shared is %v in %q", option, shared, line)
	}
}
