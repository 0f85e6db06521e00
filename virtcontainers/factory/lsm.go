package factory

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"kata-runtime/guest/protocol"
	"kata-runtime/virtcontainers/config"
)

// policiesLimit is how much all policies may be, in bytes: they are part of a message,
// which 4 MiB bound.
const policiesLimit = 3 << 20

// guestPolicies reads the policies of the guest kernel's security modules; nil for none.
func guestPolicies(settings *config.Config) (modules *protocol.SecurityModules, err error) {
	agent := &settings.Agent
	if agent.AppArmorPolicies == "" && agent.SELinuxPolicy == "" {
		return modules, nil
	}
	modules = &protocol.SecurityModules{}
	if agent.AppArmorPolicies != "" {
		policies, err := readPolicies(agent.AppArmorPolicies)
		if err != nil {
			return nil, fmt.Errorf("AppArmor policies (apparmor_policies in [agent.kata] of the configuration): %w", err)
		}
		modules.Apparmor = &protocol.AppArmor{Policies: policies}
	}
	if agent.SELinuxPolicy != "" {
		policy, err := readPolicy(agent.SELinuxPolicy, selinuxMagic, "checkpolicy", policiesLimit)
		if err != nil {
			return nil, fmt.Errorf("SELinux policy (selinux_policy in [agent.kata] of the configuration): %w", err)
		}
		modules.Selinux = &protocol.SELinux{Policy: policy}
	}
	return modules, nil
}

// readPolicies reads the files of a directory, sorted by name, but hidden ones:
// apparmor_parser puts some beside what it compiles into its cache.
func readPolicies(dir string) ([]*protocol.SecurityPolicy, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	var policies []*protocol.SecurityPolicy
	room := policiesLimit
	for _, entry := range entries {
		if strings.HasPrefix(entry.Name(), ".") {
			continue
		}
		policy, err := readPolicy(filepath.Join(dir, entry.Name()), appArmorMagic, "apparmor_parser -o", room)
		if err != nil {
			return nil, err
		}
		room -= len(policy.GetData())
		policies = append(policies, policy)
	}
	return policies, nil
}

// What a compiled policy begins with.
const (
	appArmorMagic = "\x04\x08\x00version\x00"
	selinuxMagic  = "\x8c\xff\x7c\xf9"
)

func readPolicy(path, magic, compiler string, room int) (_ *protocol.SecurityPolicy, err error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("%s is no file", path)
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	data, err := io.ReadAll(io.LimitReader(file, int64(room)+1))
	switch {
	case err != nil:
		return nil, err
	case len(data) > room:
		return nil, fmt.Errorf("%s: all policies together may have %d bytes at most", path, policiesLimit)
	case !bytes.HasPrefix(data, []byte(magic)):
		return nil, fmt.Errorf("%s is no compiled policy: make one with %s", path, compiler)
	}
	return &protocol.SecurityPolicy{Name: filepath.Base(path), Data: data}, nil
}
