package needs

import (
	"bytes"
	"errors"
	"maps"
	"slices"
	"strings"
	"testing"

	"kata-runtime/kernel-config/fragments"
	"kata-runtime/kernel-config/kconfig"
)

// built is the configuration that the fragments ask for, with what the options of other
// architectures and the kernel itself have by default.
func built(t *testing.T, modules bool) kconfig.Config {
	t.Helper()
	options, err := fragments.Load("amd64", fragments.Default)
	if err != nil {
		t.Fatal(err)
	}
	if modules {
		own, err := fragments.Modules()
		if err != nil {
			t.Fatal(err)
		}
		options = options.Override(own)
	}
	config, err := kconfig.ParseConfig(options.AllConfig())
	if err != nil {
		t.Fatal(err)
	}
	return config
}

func missing(t *testing.T, config kconfig.Config, modules bool) []string {
	t.Helper()
	gaps, err := Compare(config, modules)
	if err != nil {
		t.Fatal(err)
	}
	if err := Required(gaps); err != nil {
		t.Error(err)
	}
	names := map[string]bool{}
	for _, gap := range gaps {
		names[gap.option()] = true
	}
	return slices.Sorted(maps.Keys(names))
}

// What the kernels of the fragments lack is known: nothing is missing that no pod runs
// without, and of what images need, with modules, what costs each boot or cannot be had.
func TestBuiltKernels(t *testing.T) {
	want := []string{
		"CONFIG_AUDIT", "CONFIG_BPF_EVENTS", "CONFIG_BPF_JIT", "CONFIG_DEBUG_INFO_BTF", "CONFIG_FTRACE_SYSCALLS", "CONFIG_KPROBES",
		"CONFIG_NUMA", "CONFIG_SECURITY_APPARMOR", "CONFIG_SECURITY_SELINUX", "CONFIG_UPROBES",
	}
	if got := missing(t, built(t, true), true); !slices.Equal(got, want) {
		t.Errorf("the kernel with modules lacks %q, want %q", got, want)
	}
	got := missing(t, built(t, false), false)
	for _, name := range append(want, "CONFIG_IP_VS", "CONFIG_NFS_FS", "CONFIG_BRIDGE_NETFILTER") {
		if !slices.Contains(got, name) {
			t.Errorf("%s is not reported of the kernel without modules", name)
		}
	}
	for _, name := range []string{"CONFIG_WIREGUARD", "CONFIG_VXLAN", "CONFIG_IO_URING", "CONFIG_NF_CONNTRACK_ZONES", "CONFIG_COMPAT_32BIT_TIME"} {
		if slices.Contains(got, name) {
			t.Errorf("the kernel without modules lacks %s", name)
		}
	}
}

func TestCompare(t *testing.T) {
	config := built(t, false)
	delete(config, "CONFIG_SECCOMP_FILTER")
	config["CONFIG_VSOCKETS_LOOPBACK"] = "y"
	config["CONFIG_VIRTIO_FS"], config["CONFIG_9P_FS"] = "m", "n" // in the image of a kernel with modules
	config["CONFIG_SQUASHFS"] = "m"
	gaps, err := Compare(config, false)
	if err != nil {
		t.Fatal(err)
	}
	err = Required(gaps)
	if !errors.Is(err, ErrRequired) || !strings.HasSuffix(err.Error(), ": CONFIG_VSOCKETS_LOOPBACK=n, CONFIG_SECCOMP_FILTER") {
		t.Errorf("Required = %v", err)
	}
	var out bytes.Buffer
	if err := Print(&out, gaps); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"every pod:\n  CONFIG_VSOCKETS_LOOPBACK=n ", " missing  a container could pass for the host\n",
		"file systems that a container mounts:\n", " module   squashfs", "docs/kernel-modules.md",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the table lacks %q:\n%s", want, &out)
		}
	}
	if strings.Contains(out.String(), "VIRTIO_FS") {
		t.Errorf("a module that the image has is missing:\n%s", &out)
	}
}

func TestParseErrors(t *testing.T) {
	for text, want := range map[string]string{
		"A what":               "below a heading",
		"[images] x\nA":        "what it is for",
		"[images] x\n! what":   "want an option",
		"[perhaps] x\nA what":  "no heading",
		"[images]\nA what":     "no heading",
		"[required] x\n\n#\nA": "line 4",
	} {
		if _, err := parse(text); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("parse(%q) = %v, want %q", text, err, want)
		}
	}
}
