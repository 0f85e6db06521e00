package kmod

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// What WriteIndex makes in a release's directory. The first three are as
// depmod(8) writes them, the last as sha256sum(1) does.
const (
	dependencyFile     = "modules.dep"
	aliasFile          = "modules.alias"
	softDependencyFile = "modules.softdep"
	// DigestFile lists what a guest may load, and with which content.
	DigestFile = "modules.sha256"
	// builtinFile is the kernel's own.
	builtinFile = "modules.builtin"
)

// WriteIndex writes the files by which a guest finds and checks the modules of a
// release's directory: which need which, by what names the kernel asks for them, and
// the digests of all of these. The same modules give the same files.
func WriteIndex(dir string) error {
	tree, err := Open(dir)
	if err != nil {
		return err
	}
	index, err := tree.index()
	if err != nil {
		return fmt.Errorf("index of the modules in %s: %w", dir, err)
	}
	var digests strings.Builder
	for _, name := range slices.Sorted(maps.Keys(index)) {
		if err := replaceFile(filepath.Join(dir, name), index[name]); err != nil {
			return err
		}
		fmt.Fprintf(&digests, "%x  %s\n", sha256.Sum256(index[name]), name)
	}
	builtin, err := os.ReadFile(filepath.Join(dir, builtinFile))
	if err != nil {
		return fmt.Errorf("what is built in: %w", err)
	}
	fmt.Fprintf(&digests, "%x  %s\n", sha256.Sum256(builtin), builtinFile)
	for _, module := range tree.sorted() {
		content, err := os.ReadFile(module.File)
		if err != nil {
			return fmt.Errorf("digest of a module: %w", err)
		}
		fmt.Fprintf(&digests, "%x  %s\n", sha256.Sum256(content), module.Path)
	}
	return replaceFile(filepath.Join(dir, DigestFile), []byte(digests.String()))
}

// IndexDigest is the SHA-256, in hexadecimal digits, of the digests in a release's
// directory, by which an image names the modules that its guest may load.
func IndexDigest(dir string) (string, error) {
	list, err := os.ReadFile(filepath.Join(dir, DigestFile))
	if err != nil {
		return "", fmt.Errorf("digests of the modules: %w", err)
	}
	sum := sha256.Sum256(list)
	return hex.EncodeToString(sum[:]), nil
}

// sorted returns the modules by their paths.
func (t *Tree) sorted() []Module {
	return slices.SortedFunc(maps.Values(t.files), func(a, b Module) int { return strings.Compare(a.Path, b.Path) })
}

// index returns the files of the index by their names.
func (t *Tree) index() (map[string][]byte, error) {
	var dependencies, aliases, soft bytes.Buffer
	for _, module := range t.sorted() {
		described, err := readInfo(module.File)
		if err != nil {
			return nil, err
		}
		needed, err := t.Select([]string{module.Name}, nil)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&dependencies, "%s:", module.Path)
		// Whoever reads depmod's files loads from the last to the first.
		for _, other := range slices.Backward(needed[:len(needed)-1]) {
			fmt.Fprintf(&dependencies, " %s", other.Path)
		}
		dependencies.WriteByte('\n')
		for _, alias := range described.aliases {
			fmt.Fprintf(&aliases, "alias %s %s\n", alias, module.Name)
		}
		if len(described.softDepends) > 0 {
			fmt.Fprintf(&soft, "softdep %s pre: %s\n", module.Name, strings.Join(described.softDepends, " "))
		}
	}
	return map[string][]byte{
		dependencyFile: dependencies.Bytes(), aliasFile: aliases.Bytes(), softDependencyFile: soft.Bytes(),
	}, nil
}

// replaceFile writes a file that readers see the old or the new content of.
func replaceFile(path string, content []byte) (err error) {
	file, err := os.CreateTemp(filepath.Dir(path), ".index.*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("write %s: %w", path, err), os.Remove(file.Name()))
		}
	}()
	_, err = file.Write(content)
	if err == nil {
		err = file.Chmod(0o644)
	}
	err = errors.Join(err, file.Close())
	if err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}
