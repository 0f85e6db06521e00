// Package kmod selects kernel modules for a guest image: the wanted ones and
// everything that they need, in an order in which they can be loaded.
//
// Dependencies are read from the modules themselves (the "depends" of their
// .modinfo section), so that a directory that depmod never saw is enough. A
// module that the kernel has built in needs nothing.
package kmod

import (
	"bufio"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// ErrUnknownModule says that the kernel has the module neither built in nor as a file.
var ErrUnknownModule = errors.New("the kernel has no such module")

// Module is a loadable module.
type Module struct {
	// Name is the module's name as the kernel has it, with underscores.
	Name string
	// File is its path on the host.
	File string
	// Path is its path below the release's directory: "kernel/fs/fuse/fuse.ko".
	Path string
}

// Tree is what one kernel release has of modules.
type Tree struct {
	files   map[string]Module
	builtin map[string]bool
}

// Open reads the directory of one release, which is /lib/modules/RELEASE on an
// installed system: the module files below it, and modules.builtin.
func Open(dir string) (*Tree, error) {
	tree := &Tree{files: make(map[string]Module), builtin: make(map[string]bool)}
	if err := tree.readBuiltin(filepath.Join(dir, "modules.builtin")); err != nil {
		return nil, fmt.Errorf("modules in %s: %w", dir, err)
	}
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() || !isModule(path) {
			return err
		}
		relative, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		name := moduleName(path)
		if other, ok := tree.files[name]; ok {
			return fmt.Errorf("two files hold the module %s: %s and %s", name, other.Path, relative)
		}
		tree.files[name] = Module{Name: name, File: path, Path: relative}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("modules in %s: %w", dir, err)
	}
	return tree, nil
}

func (t *Tree) readBuiltin(path string) (err error) {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		t.builtin[moduleName(lines.Text())] = true
	}
	return lines.Err()
}

// isModule reports whether the path is one of a module, compressed or not.
func isModule(path string) bool {
	_, suffix, found := strings.Cut(filepath.Base(path), ".ko")
	return found && (suffix == "" || slices.Contains([]string{".xz", ".zst", ".gz"}, suffix))
}

// moduleName turns a path into the module's name. File names may have dashes
// where the kernel's names have underscores.
func moduleName(path string) string {
	name, _, _ := strings.Cut(filepath.Base(path), ".ko")
	return strings.ReplaceAll(name, "-", "_")
}

// Select returns the required and the optional modules with everything that
// they depend on, each once, dependencies first, otherwise in the order of the
// arguments. Built-in modules are left out. An optional module that the kernel
// lacks is left out too; a required one, or a dependency, that it lacks is an
// error that wraps ErrUnknownModule.
func (t *Tree) Select(required, optional []string) ([]Module, error) {
	walk := selection{tree: t, state: make(map[string]visit)}
	for _, name := range required {
		if err := walk.add(moduleName(name)); err != nil {
			return nil, err
		}
	}
	for _, name := range optional {
		if _, ok := t.files[moduleName(name)]; !ok {
			continue
		}
		if err := walk.add(moduleName(name)); err != nil {
			return nil, err
		}
	}
	return walk.order, nil
}

// visit is how far the selection has come with a module.
type visit int

const (
	unseen visit = iota
	entered
	done
)

type selection struct {
	tree  *Tree
	state map[string]visit
	order []Module
}

// add appends the module behind its dependencies.
func (s *selection) add(name string) error {
	if s.tree.builtin[name] || s.state[name] == done {
		return nil
	}
	if s.state[name] == entered {
		return fmt.Errorf("module %s depends on itself", name)
	}
	module, ok := s.tree.files[name]
	if !ok {
		return fmt.Errorf("module %s: %w", name, ErrUnknownModule)
	}
	s.state[name] = entered
	depends, err := Depends(module.File)
	if err != nil {
		return fmt.Errorf("module %s: %w", name, err)
	}
	for _, dependency := range depends {
		if err := s.add(moduleName(dependency)); err != nil {
			return fmt.Errorf("module %s needs: %w", name, err)
		}
	}
	s.state[name] = done
	s.order = append(s.order, module)
	return nil
}

// Depends returns the names of the modules that the module file needs, in the
// order in which the file lists them. Compressed modules are refused: the
// guest loads the file as it is.
func Depends(file string) ([]string, error) {
	info, err := readInfo(file)
	if err != nil {
		return nil, err
	}
	return info.depends, nil
}

// info is what a module says of itself.
type info struct {
	// depends are modules that have to be there first; softDepends those that
	// should, by their names or aliases.
	depends, softDepends []string
	aliases              []string
}

// readInfo reads the .modinfo section of a module file.
func readInfo(file string) (described info, err error) {
	if !strings.HasSuffix(file, ".ko") {
		return info{}, fmt.Errorf("%s: compressed modules are not supported", file)
	}
	binary, err := elf.Open(file)
	if err != nil {
		return info{}, fmt.Errorf("read %s: %w", file, err)
	}
	defer func() { err = errors.Join(err, binary.Close()) }()
	section := binary.Section(".modinfo")
	if section == nil {
		return info{}, fmt.Errorf("read %s: no .modinfo section", file)
	}
	data, err := section.Data()
	if err != nil {
		return info{}, fmt.Errorf("read the .modinfo section of %s: %w", file, err)
	}
	for field := range strings.SplitSeq(string(data), "\x00") {
		key, value, _ := strings.Cut(field, "=")
		switch key {
		case "depends":
			if value != "" {
				described.depends = append(described.depends, strings.Split(value, ",")...)
			}
		case "alias":
			described.aliases = append(described.aliases, value)
		case "softdep":
			described.softDepends = append(described.softDepends, before(value)...)
		}
	}
	return described, nil
}

// before returns what a soft dependency wants loaded first: "pre: a b post: c".
func before(softdep string) []string {
	var names []string
	first := false
	for _, word := range strings.Fields(softdep) {
		switch {
		case strings.HasSuffix(word, ":"):
			first = word == "pre:"
		case first:
			names = append(names, word)
		}
	}
	return names
}
