package fragments_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kata-runtime/kernel-config/fragments"
)

func TestLoad(t *testing.T) {
	used := make(map[string]bool)
	for _, arch := range []string{"amd64", "arm64"} {
		options, err := fragments.Load(arch)
		if err != nil {
			t.Fatalf("Load(%s): %v", arch, err)
		}
		values := make(map[string]string)
		for _, option := range options {
			values[option.Name] = option.Value
			file, _, _ := strings.Cut(option.Origin, ":")
			used[filepath.Base(file)] = true
		}
		// What the runtime's security and its transport rest on.
		for name, want := range map[string]string{
			"CONFIG_VSOCKETS_LOOPBACK": "n", "CONFIG_VIRTIO_VSOCKETS": "y", "CONFIG_MODULES": "n",
			"CONFIG_SECCOMP_FILTER": "y", "CONFIG_CGROUP_BPF": "y", "CONFIG_VIRTIO_FS": "y",
		} {
			if values[name] != want {
				t.Errorf("%s: %s=%q, want %q", arch, name, values[name], want)
			}
		}
	}
	modules, err := fragments.Modules()
	if err != nil {
		t.Fatal(err)
	}
	base, err := fragments.Load("amd64")
	if err != nil {
		t.Fatal(err)
	}
	for _, option := range modules {
		// What depends on a built-in option that becomes a module is lost.
		for _, own := range base {
			if own.Name == option.Name && own.Value == "y" && option.Value != "y" {
				t.Errorf("%s: %s=%s, which is built in by %s", option.Origin, option.Name, option.Value, own.Origin)
			}
		}
		file, _, _ := strings.Cut(option.Origin, ":")
		used[filepath.Base(file)] = true
		switch option.Name {
		case "CONFIG_VSOCKETS_LOOPBACK", "CONFIG_VHOST_VSOCK":
			t.Errorf("%s is no module for a guest", option.Name)
		}
	}
	files, err := filepath.Glob("*.config")
	if err != nil {
		t.Fatal(err)
	}
	if len(files) == 0 {
		t.Fatal("no fragment in the package's directory")
	}
	for _, file := range files {
		if !used[file] {
			t.Errorf("no architecture uses %s", file)
		}
	}
}

func TestLoadRefusesAnUnknownArchitecture(t *testing.T) {
	if _, err := fragments.Load("mips"); err == nil || !strings.Contains(err.Error(), "mips") {
		t.Errorf("Load(mips) = %v", err)
	}
}

// A fragment's heading says what its topic is.
func TestEveryFragmentHasAHeading(t *testing.T) {
	files, err := filepath.Glob("*.config")
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(files)
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if !strings.HasPrefix(string(text), "# ") {
			t.Errorf("%s does not start with a comment", file)
		}
	}
}
