package factory

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kata-runtime/virtcontainers/config"
)

func writePolicy(t *testing.T, dir, name, text string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestPolicies: a guest is given the policies that the configuration names, and nothing
// where it names none; what is no compiled policy is refused on the host.
func TestPolicies(t *testing.T) {
	settings := config.Default()
	if modules, err := guestPolicies(settings); modules != nil || err != nil {
		t.Errorf("without a setting: %v, %v", modules, err)
	}
	dir := t.TempDir()
	settings.Agent.AppArmorPolicies = dir
	modules, err := guestPolicies(settings)
	if err != nil || modules.GetApparmor() == nil || len(modules.GetApparmor().GetPolicies()) != 0 || modules.GetSelinux() != nil {
		t.Errorf("of an empty directory: %v, %v", modules, err)
	}
	writePolicy(t, dir, "b", appArmorMagic+"b")
	writePolicy(t, dir, "a", appArmorMagic+"a")
	writePolicy(t, dir, ".features", "no policy")
	modules, err = guestPolicies(settings)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, policy := range modules.GetApparmor().GetPolicies() {
		got = append(got, policy.GetName()+"="+strings.TrimPrefix(string(policy.GetData()), appArmorMagic))
	}
	if want := "a=a b=b"; strings.Join(got, " ") != want {
		t.Errorf("policies %q, want %q", got, want)
	}
	for want, path := range map[string]string{
		"is no compiled policy: make one with apparmor_parser -o": writePolicy(t, t.TempDir(), "source", "profile a {}\n"),
		"may have 3145728 bytes at most":                          writePolicy(t, t.TempDir(), "large", appArmorMagic+strings.Repeat("x", policiesLimit)),
		"is no file":                                              filepath.Join(t.TempDir(), "directory", "below"),
	} {
		if strings.HasSuffix(path, "below") {
			if err := os.MkdirAll(path, 0o700); err != nil {
				t.Fatal(err)
			}
		}
		settings.Agent.AppArmorPolicies = filepath.Dir(path)
		if _, err := guestPolicies(settings); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), "apparmor_policies in [agent.kata]") {
			t.Errorf("error %v, want %q", err, want)
		}
	}

	settings = config.Default()
	settings.Agent.SELinuxPolicy = writePolicy(t, dir, "policy.33", selinuxMagic+"s")
	if modules, err = guestPolicies(settings); err != nil || string(modules.GetSelinux().GetPolicy().GetData()) != selinuxMagic+"s" || modules.GetApparmor() != nil {
		t.Errorf("SELinux: %v, %v", modules, err)
	}
	settings.Agent.SELinuxPolicy = "/dev/null/absent"
	if _, err := guestPolicies(settings); err == nil || !strings.Contains(err.Error(), "selinux_policy in [agent.kata]") {
		t.Errorf("error %v", err)
	}
}
