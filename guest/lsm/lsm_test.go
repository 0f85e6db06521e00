package lsm

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"kata-runtime/guest/protocol"
)

// fake is a kernel of files, with both modules.
func fake(t *testing.T) (*kernel, *[]string) {
	t.Helper()
	root := t.TempDir()
	var mounts []string
	k := &kernel{
		enabled: filepath.Join(root, "enabled"), cmdline: filepath.Join(root, "cmdline"),
		securityfs: filepath.Join(root, "security"), selinuxfs: filepath.Join(root, "selinux"),
		mount: func(fstype, _ string) error {
			mounts = append(mounts, "mount "+fstype)
			return nil
		},
		unmount: func(target string) error {
			mounts = append(mounts, "unmount "+filepath.Base(target))
			return nil
		},
	}
	for _, dir := range []string{"security/apparmor", "selinux"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{
		"enabled": "Y\n", "cmdline": "quiet\n", "security/apparmor/.replace": "", "selinux/load": "", "selinux/enforce": "0",
	} {
		write(t, filepath.Join(root, name), text)
	}
	return k, &mounts
}

func write(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func read(t *testing.T, elements ...string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(elements...))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func appArmor(data string) *protocol.SecurityModules {
	return &protocol.SecurityModules{Apparmor: &protocol.AppArmor{Policies: []*protocol.SecurityPolicy{{Name: "mine", Data: []byte(data)}}}}
}

func selinux(data string) *protocol.SecurityModules {
	return &protocol.SecurityModules{Selinux: &protocol.SELinux{Policy: &protocol.SecurityPolicy{Name: "policy.33", Data: []byte(data)}}}
}

func TestLoadNothing(t *testing.T) {
	k, mounts := fake(t)
	if err := k.load(nil); err != nil || len(*mounts) != 0 {
		t.Errorf("%v, %q", err, *mounts)
	}
}

// What profiles are loaded by is not left in the guest's /sys, which containers with a
// user namespace see.
func TestLoadAppArmor(t *testing.T) {
	k, mounts := fake(t)
	if err := k.load(appArmor("policy")); err != nil {
		t.Fatal(err)
	}
	if got := read(t, k.securityfs, "apparmor/.replace"); got != "policy" {
		t.Errorf("the kernel was given %q", got)
	}
	if got := strings.Join(*mounts, ", "); got != "mount securityfs, unmount security" {
		t.Errorf("mounts: %s", got)
	}
	if err := os.Remove(filepath.Join(k.securityfs, "apparmor/.replace")); err != nil {
		t.Fatal(err)
	}
	if err := k.load(appArmor("policy")); err == nil || !strings.Contains(err.Error(), `apparmor: load the policy "mine"`) {
		t.Errorf("error %v", err)
	}
	write(t, k.enabled, "N\n")
	if err := k.load(appArmor("policy")); !errors.Is(err, ErrUnsupported) {
		t.Errorf("of a kernel that does not run it: %v", err)
	}
}

func TestLoadSELinux(t *testing.T) {
	k, mounts := fake(t)
	if err := k.load(selinux("policy")); err != nil {
		t.Fatal(err)
	}
	if got := read(t, k.selinuxfs, "load") + " " + read(t, k.selinuxfs, "enforce"); got != "policy 1" {
		t.Errorf("policy and enforcing: %q", got)
	}
	if got := strings.Join(*mounts, ", "); got != "mount selinuxfs" {
		t.Errorf("mounts: %s", got)
	}
	write(t, filepath.Join(k.selinuxfs, "enforce"), "0")
	write(t, k.cmdline, "quiet enforcing=0\n")
	if err := k.load(selinux("policy")); err != nil || read(t, k.selinuxfs, "enforce") != "0" {
		t.Errorf("with enforcing=0: %v", err)
	}
	k.selinuxfs += ".absent"
	if err := k.load(selinux("policy")); !errors.Is(err, ErrUnsupported) {
		t.Errorf("of a kernel without it: %v", err)
	}
}
