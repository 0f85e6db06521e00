package oci

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"kata-runtime/guest/protocol"
)

// validateSpec checks what can be said before anything is started. The order
// is that in which a person fills a config.json.
func validateSpec(spec *specs.Spec, bundle string) error {
	checks := []func(*specs.Spec) error{
		func(s *specs.Spec) error { return validateVersion(s.Version) },
		func(s *specs.Spec) error { return ValidateProcess(s.Process) },
		func(s *specs.Spec) error { return validateRoot(s, bundle) },
		validateMounts,
		validateHooks,
		validateLinux,
	}
	for _, check := range checks {
		if err := check(spec); err != nil {
			return err
		}
	}
	return nil
}

// validateVersion accepts every version 1, also with a suffix as in 1.0.2-dev. A
// later minor version adds fields that a runtime may ignore: a caller that writes
// one runs its containers as before, as with runc.
func validateVersion(version string) error {
	if version == "" {
		return errors.New("ociVersion must not be empty")
	}
	core := version
	if i := strings.IndexAny(version, "-+"); i >= 0 {
		core = version[:i]
	}
	parts := strings.Split(core, ".")
	if len(parts) != 3 || !isNumber(parts[0]) || !isNumber(parts[1]) || !isNumber(parts[2]) {
		return fmt.Errorf("ociVersion %q is not a version such as %s", version, specs.Version)
	}
	if parts[0] != "1" {
		return fmt.Errorf("ociVersion %q is not supported: this runtime knows versions 1.x, up to %s", version, SpecVersion)
	}
	return nil
}

// isNumber tells of the digits of a version, which begin with no zero.
func isNumber(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == "" && (s == "0" || s[0] != '0')
}

// ValidateProcess checks a process as runc does, and what the specification
// adds.
func ValidateProcess(p *specs.Process) error {
	switch {
	case p == nil:
		return errors.New("process must not be empty")
	case p.Cwd == "":
		return errors.New("process.cwd must not be empty")
	case !filepath.IsAbs(p.Cwd):
		return fmt.Errorf("process.cwd %q must be an absolute path", p.Cwd)
	case len(p.Args) == 0:
		return errors.New("process.args must not be empty")
	}
	if err := noNULs("process.args", p.Args...); err != nil {
		return err
	}
	if err := noNULs("process.env", p.Env...); err != nil {
		return err
	}
	if err := noNULs("process.cwd", p.Cwd); err != nil {
		return err
	}
	seen := make(map[string]bool)
	for i, limit := range p.Rlimits {
		if seen[limit.Type] {
			return fmt.Errorf("process.rlimits[%d]: %s is set twice", i, limit.Type)
		}
		seen[limit.Type] = true
	}
	return nil
}

// validateRoot also looks at the directory. An error for a missing one is
// fs.ErrNotExist.
func validateRoot(spec *specs.Spec, bundle string) error {
	if spec.Root == nil {
		return errors.New("root must be specified")
	}
	if spec.Root.Path == "" {
		return errors.New("root.path must not be empty")
	}
	if err := noNULs("root.path", spec.Root.Path); err != nil {
		return err
	}
	info, err := os.Stat(RootfsPath(bundle, spec))
	if err != nil {
		return fmt.Errorf("invalid rootfs: %w", err)
	}
	if !info.IsDir() {
		return fmt.Errorf("invalid rootfs: root.path %q is not a directory", spec.Root.Path)
	}
	return nil
}

func validateMounts(spec *specs.Spec) error {
	for i, m := range spec.Mounts {
		field := fmt.Sprintf("mounts[%d]", i)
		if m.Destination == "" {
			return fmt.Errorf("%s.destination must not be empty", field)
		}
		texts := append([]string{m.Destination, m.Source, m.Type}, m.Options...)
		if err := noNULs(field, texts...); err != nil {
			return err
		}
	}
	return nil
}

func validateHooks(spec *specs.Spec) error {
	if spec.Hooks == nil {
		return nil
	}
	for _, list := range hookLists(spec.Hooks) {
		for i, hook := range *list.hooks {
			field := fmt.Sprintf("hooks.%s[%d]", list.name, i)
			if !filepath.IsAbs(hook.Path) {
				return fmt.Errorf("%s.path %q must be an absolute path", field, hook.Path)
			}
			if hook.Timeout != nil && *hook.Timeout <= 0 {
				return fmt.Errorf("%s.timeout must be positive", field)
			}
		}
	}
	return nil
}

type hookList struct {
	name  string
	hooks *[]specs.Hook
}

func hookLists(h *specs.Hooks) []hookList {
	return []hookList{
		{"prestart", &h.Prestart}, //nolint:staticcheck // deprecated, and in use by every docker before 26
		{"createRuntime", &h.CreateRuntime},
		{"createContainer", &h.CreateContainer},
		{"startContainer", &h.StartContainer},
		{"poststart", &h.Poststart},
		{"poststop", &h.Poststop},
	}
}

// maxNameLength is what the kernel takes for the name of a host or a domain.
const maxNameLength = 64

func validateLinux(spec *specs.Spec) error {
	if spec.Linux == nil {
		return errors.New("linux must be specified")
	}
	present, err := namespaceTypes(spec.Linux.Namespaces)
	if err != nil {
		return err
	}
	linux := spec.Linux
	switch {
	case len(spec.Hostname) > maxNameLength:
		return fmt.Errorf("hostname has %d bytes, at most %d are allowed", len(spec.Hostname), maxNameLength)
	case len(spec.Domainname) > maxNameLength:
		return fmt.Errorf("domainname has %d bytes, at most %d are allowed", len(spec.Domainname), maxNameLength)
	case spec.Hostname != "" && !present[specs.UTSNamespace]:
		return errors.New("hostname: unable to set it without a private UTS namespace")
	case spec.Domainname != "" && !present[specs.UTSNamespace]:
		return errors.New("domainname: unable to set it without a private UTS namespace")
	case len(linux.UIDMappings)+len(linux.GIDMappings) > 0 && !present[specs.UserNamespace]:
		return errors.New("linux.uidMappings, linux.gidMappings: specified without a user namespace")
	case len(linux.TimeOffsets) > 0 && !present[specs.TimeNamespace]:
		return errors.New("linux.timeOffsets: specified without a time namespace")
	default:
		return validateSysctls(linux.Sysctl)
	}
}

// validateSysctls refuses names that would lead to another file than a kernel
// parameter's.
func validateSysctls(sysctls map[string]string) error {
	for _, name := range slices.Sorted(maps.Keys(sysctls)) {
		if _, ok := protocol.SysctlPath(name); !ok {
			return fmt.Errorf("linux.sysctl %q: not the name of a kernel parameter", name)
		}
		if err := noNULs("linux.sysctl "+strconv.Quote(name), sysctls[name]); err != nil {
			return err
		}
	}
	return nil
}

// namespaceTypes is the set of the namespaces' types.
func namespaceTypes(namespaces []specs.LinuxNamespace) (map[specs.LinuxNamespaceType]bool, error) {
	present := make(map[specs.LinuxNamespaceType]bool)
	for i, ns := range namespaces {
		field := fmt.Sprintf("linux.namespaces[%d]", i)
		switch {
		case !knownNamespace(ns.Type):
			return nil, fmt.Errorf("%s.type: namespace %q does not exist", field, ns.Type)
		case present[ns.Type]:
			return nil, fmt.Errorf("%s.type: duplicated namespace %q", field, ns.Type)
		case ns.Path != "" && !filepath.IsAbs(ns.Path):
			return nil, fmt.Errorf("%s.path %q must be an absolute path", field, ns.Path)
		}
		if err := noNULs(field+".path", ns.Path); err != nil {
			return nil, err
		}
		present[ns.Type] = true
	}
	return present, nil
}

func knownNamespace(t specs.LinuxNamespaceType) bool {
	switch t {
	case specs.PIDNamespace, specs.NetworkNamespace, specs.MountNamespace, specs.IPCNamespace,
		specs.UTSNamespace, specs.UserNamespace, specs.CgroupNamespace, specs.TimeNamespace:
		return true
	default:
		return false
	}
}

// noNULs refuses what no system call takes.
func noNULs(field string, texts ...string) error {
	for _, text := range texts {
		if strings.ContainsRune(text, 0) {
			return fmt.Errorf("%s: %q holds a NUL byte", field, text)
		}
	}
	return nil
}
