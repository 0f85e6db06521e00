package fragments_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"kata-runtime/kernel-config/fragments"
	"kata-runtime/kernel-config/kconfig"
	"kata-runtime/kernel-config/needs"
)

func TestLoad(t *testing.T) {
	used := make(map[string]bool)
	note := func(options kconfig.Options) {
		for _, option := range options {
			file, _, _ := strings.Cut(option.Origin, ":")
			used[filepath.Base(file)] = true
		}
	}
	for _, arch := range []string{"amd64", "arm64"} {
		for _, profile := range fragments.Profiles() {
			options, err := fragments.Load(arch, profile)
			if err != nil {
				t.Fatalf("Load(%s, %s): %v", arch, profile, err)
			}
			if err := options.Validate(); err != nil {
				t.Errorf("Load(%s, %s): %v", arch, profile, err)
			}
			note(options)
			values := byName(options)
			// What the runtime's security and its transport rest on.
			for name, want := range map[string]string{
				"CONFIG_VSOCKETS_LOOPBACK": "n", "CONFIG_VIRTIO_VSOCKETS": "y", "CONFIG_MODULES": "n",
				"CONFIG_SECCOMP_FILTER": "y", "CONFIG_CGROUP_BPF": "y", "CONFIG_VIRTIO_FS": "y",
			} {
				if values[name] != want {
					t.Errorf("%s, %s: %s=%q, want %q", arch, profile, name, values[name], want)
				}
			}
		}
	}
	modules, err := fragments.Modules()
	if err != nil {
		t.Fatal(err)
	}
	note(modules)
	for _, profile := range fragments.Profiles() {
		if !profile.Modular() {
			continue
		}
		base, err := fragments.Load("amd64", profile)
		if err != nil {
			t.Fatal(err)
		}
		values := byName(base)
		for _, option := range modules {
			// What depends on a built-in option that becomes a module is lost.
			if values[option.Name] == "y" && option.Value != "y" {
				t.Errorf("%s: %s=%s, which is built in by the profile %s", option.Origin, option.Name, option.Value, profile)
			}
			switch option.Name {
			case "CONFIG_VSOCKETS_LOOPBACK", "CONFIG_VHOST_VSOCK":
				t.Errorf("%s is no module for a guest", option.Name)
			}
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
			t.Errorf("no profile uses %s", file)
		}
	}
}

func byName(options kconfig.Options) kconfig.Config {
	values := make(kconfig.Config)
	for _, option := range options {
		values[option.Name] = option.Value
	}
	return values
}

// TestProfiles: none lacks what no pod runs without, and each has what it is for.
func TestProfiles(t *testing.T) {
	list, err := needs.List()
	if err != nil {
		t.Fatal(err)
	}
	values := map[fragments.Profile]kconfig.Config{}
	for _, profile := range fragments.Profiles() {
		options, err := fragments.Load("amd64", profile)
		if err != nil {
			t.Fatal(err)
		}
		values[profile] = byName(options)
		for _, need := range list {
			lost := func(name string) bool { return values[profile][name] == "n" }
			if need.Required && !need.Forbidden && !slices.ContainsFunc(need.Options, func(name string) bool { return !lost(name) }) {
				t.Errorf("%s has not %q, which every pod needs: %s", profile, need.Options, need.What)
			}
		}
	}
	for _, fact := range []struct {
		profile     fragments.Profile
		name, value string
	}{
		{fragments.Minimal, "CONFIG_NF_TABLES", ""},
		{fragments.Minimal, "CONFIG_IA32_EMULATION", "n"},
		{fragments.Default, "CONFIG_NF_TABLES", "y"},
		{fragments.Default, "CONFIG_LSM", `"landlock"`},
		{fragments.Debug, "CONFIG_DEBUG_INFO_NONE", "n"},
		{fragments.Debug, "CONFIG_PROVE_LOCKING", "y"},
		{fragments.LSM, "CONFIG_SECURITY_APPARMOR", "y"},
		{fragments.LSM, "CONFIG_SECURITY_SELINUX", "y"},
	} {
		if got := values[fact.profile][fact.name]; got != fact.value {
			t.Errorf("%s: %s=%q, want %q", fact.profile, fact.name, got, fact.value)
		}
	}
	for _, profile := range fragments.Profiles() {
		if changes := values[fragments.Default].Diff(values[profile]); (len(changes) == 0) != (profile == fragments.Default) {
			t.Errorf("%s differs from the default in %d options", profile, len(changes))
		}
	}
}

func TestLoadRefusesWhatIsUnknown(t *testing.T) {
	if _, err := fragments.Load("mips", fragments.Default); err == nil || !strings.Contains(err.Error(), "mips") {
		t.Errorf("Load(mips) = %v", err)
	}
	if _, err := fragments.Load("amd64", "tiny"); err == nil || !strings.Contains(err.Error(), `no profile "tiny": want one of ["minimal"`) {
		t.Errorf("Load of the profile tiny = %v", err)
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
