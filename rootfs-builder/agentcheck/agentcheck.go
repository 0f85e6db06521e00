// Package agentcheck decides whether an agent binary may go into a guest image.
//
// The guest has no dynamic linker, so the agent must be static. And without the
// build tag "seccomp" and cgo, libcontainer silently compiles to a version that
// applies no seccomp filter: containers would run without a protection that
// their specs ask for. Both are seen in the binary itself.
package agentcheck

import (
	"debug/buildinfo"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"
)

// Errors that Check wraps.
var (
	// ErrNoSeccomp: the binary cannot apply seccomp filters.
	ErrNoSeccomp = errors.New("built without seccomp support (needs CGO_ENABLED=1 and -tags seccomp)")
	// ErrNotStatic: the binary needs a dynamic linker or shared libraries.
	ErrNotStatic = errors.New("not statically linked")
)

// Check returns nil if the file at path is a static Go executable that was
// built with seccomp support. The error names the file and what is wrong.
func Check(path string) (err error) {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("agent: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := buildinfo.Read(file)
	if err != nil {
		return fmt.Errorf("agent %s: read the Go build information: %w", path, err)
	}
	binary, err := elf.NewFile(file)
	if err != nil {
		return fmt.Errorf("agent %s: %w", path, err)
	}
	if err := errors.Join(checkStatic(binary), checkSeccomp(info)); err != nil {
		return fmt.Errorf("agent %s: %w", path, err)
	}
	return nil
}

// checkStatic refuses a program interpreter and needed libraries. A static
// position independent executable has a dynamic section, but neither of these.
func checkStatic(binary *elf.File) error {
	for _, program := range binary.Progs {
		if program.Type == elf.PT_INTERP {
			return fmt.Errorf("%w: it asks for a dynamic linker", ErrNotStatic)
		}
	}
	libraries, err := binary.ImportedLibraries()
	if err != nil {
		return fmt.Errorf("read the dynamic section: %w", err)
	}
	if len(libraries) > 0 {
		return fmt.Errorf("%w: it needs %s", ErrNotStatic, strings.Join(libraries, ", "))
	}
	return nil
}

func checkSeccomp(info *debug.BuildInfo) error {
	var cgo, tag bool
	for _, setting := range info.Settings {
		switch setting.Key {
		case "CGO_ENABLED":
			cgo = setting.Value == "1"
		case "-tags":
			tag = slices.Contains(strings.FieldsFunc(setting.Value, isTagSeparator), "seccomp")
		}
	}
	if !cgo || !tag {
		return ErrNoSeccomp
	}
	return nil
}

// isTagSeparator: go build takes tags separated by commas, and by spaces too.
func isTagSeparator(r rune) bool { return r == ',' || r == ' ' }
