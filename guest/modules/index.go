package modules

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strings"
)

// Names in a release's directory, which are depmod's, but for the digests.
const (
	digestFile         = "modules.sha256"
	dependencyFile     = "modules.dep"
	aliasFile          = "modules.alias"
	softDependencyFile = "modules.softdep"
	builtinFile        = "modules.builtin" // the kernel's own list
)

// maxFile is how large a module, or a file of the index, can be.
const maxFile = 64 << 20

var (
	errUnknown = errors.New("there is no such module")
	errDigest  = errors.New("it is not what the image names")
	errDenied  = errors.New("deny_modules names it")
)

// module is what the index has of one.
type module struct {
	name  string
	path  string   // below the release's directory
	needs []string // names, of those that have to be there first
	soft  []string // names or aliases, of those that should
}

// pattern is an alias with wildcards.
type pattern struct{ pattern, module string }

// index is what is known of a release's modules.
type index struct {
	root     *os.Root
	digests  map[string][sha256.Size]byte // by path
	modules  map[string]*module           // by name
	aliases  map[string][]string          // names of modules
	patterns []pattern
	builtin  map[string]bool // names of what the kernel has from the start
}

// openIndex reads the index of a release's directory, whose list of digests has the
// given digest.
func openIndex(dir string, digest [sha256.Size]byte) (_ *index, err error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, fmt.Errorf("modules of the kernel: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(fmt.Errorf("modules of the kernel in %s: %w", dir, err), root.Close())
		}
	}()
	x := &index{root: root, digests: map[string][sha256.Size]byte{}, modules: map[string]*module{}, aliases: map[string][]string{}, builtin: map[string]bool{}}
	list, err := readFile(root, digestFile)
	if err != nil {
		return nil, err
	}
	if sha256.Sum256(list) != digest {
		return nil, fmt.Errorf("%s: %w: they are of another build", digestFile, errDigest)
	}
	if err := x.parseDigests(list); err != nil {
		return nil, err
	}
	for _, part := range []struct {
		name  string
		parse func([]byte)
	}{{dependencyFile, x.parseDependencies}, {aliasFile, x.parseAliases}, {softDependencyFile, x.parseSoftDependencies}, {builtinFile, x.parseBuiltin}} {
		if _, listed := x.digests[part.name]; !listed && part.name == builtinFile {
			continue // a kernel's release may come without
		}
		content, err := x.read(part.name)
		if err != nil {
			return nil, err
		}
		part.parse(content)
	}
	return x, nil
}

// read returns the content of a file of which the digest is listed, and right.
func (x *index) read(name string) ([]byte, error) {
	want, ok := x.digests[name]
	if !ok {
		return nil, fmt.Errorf("%s: %w: %s does not list it", name, errDigest, digestFile)
	}
	content, err := readFile(x.root, name)
	if err != nil {
		return nil, err
	}
	if sha256.Sum256(content) != want {
		return nil, fmt.Errorf("%s: %w: it has changed", name, errDigest)
	}
	return content, nil
}

func readFile(root *os.Root, name string) ([]byte, error) {
	file, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() || info.Size() > maxFile {
		return nil, fmt.Errorf("%s: it is no file of at most %d bytes", name, maxFile)
	}
	content := make([]byte, info.Size())
	if _, err := io.ReadFull(file, content); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return content, nil
}

// parseDigests reads lines of sha256sum(1).
func (x *index) parseDigests(list []byte) error {
	for line := range bytes.Lines(list) {
		text := strings.TrimSuffix(string(line), "\n")
		digits, name, found := strings.Cut(text, "  ")
		digest, err := hex.DecodeString(digits)
		if !found || err != nil || len(digest) != sha256.Size {
			return fmt.Errorf("%s: line %q is no digest and name", digestFile, text)
		}
		x.digests[name] = [sha256.Size]byte(digest)
	}
	return nil
}

// parseDependencies reads lines such as "kernel/a.ko: kernel/b.ko kernel/c.ko".
func (x *index) parseDependencies(content []byte) {
	for line := range bytes.Lines(content) {
		file, needed, found := strings.Cut(strings.TrimSpace(string(line)), ":")
		if !found {
			continue
		}
		m := &module{name: nameOf(file), path: file}
		for _, other := range strings.Fields(needed) {
			m.needs = append(m.needs, nameOf(other))
		}
		slices.Reverse(m.needs) // depmod lists last what is to be first
		x.modules[m.name] = m
	}
}

// parseAliases reads lines such as "alias fs-xfs xfs".
func (x *index) parseAliases(content []byte) {
	for line := range bytes.Lines(content) {
		words := strings.Fields(string(line))
		if len(words) != 3 || words[0] != "alias" || ofDevice(words[1]) {
			continue
		}
		alias, name := normalize(words[1]), normalize(words[2])
		if strings.ContainsAny(alias, "*?[") {
			x.patterns = append(x.patterns, pattern{alias, name})
		} else {
			x.aliases[alias] = append(x.aliases[alias], name)
		}
	}
}

// parseSoftDependencies reads lines such as "softdep xts pre: ecb".
func (x *index) parseSoftDependencies(content []byte) {
	for line := range bytes.Lines(content) {
		words := strings.Fields(string(line))
		if len(words) < 3 || words[0] != "softdep" {
			continue
		}
		m := x.modules[normalize(words[1])]
		if m == nil {
			continue
		}
		first := false
		for _, word := range words[2:] {
			if strings.HasSuffix(word, ":") {
				first = word == "pre:"
			} else if first {
				m.soft = append(m.soft, word)
			}
		}
	}
}

// parseBuiltin reads lines such as "kernel/fs/fuse/fuse.ko".
func (x *index) parseBuiltin(content []byte) {
	for line := range bytes.Lines(content) {
		x.builtin[nameOf(strings.TrimSpace(string(line)))] = true
	}
}

// find returns the modules that a name or alias stands for.
func (x *index) find(name string) []string {
	name = normalize(name)
	if _, ok := x.modules[name]; ok {
		return []string{name}
	}
	found := slices.Clone(x.aliases[name])
	for _, p := range x.patterns {
		if ok, err := path.Match(p.pattern, name); ok && err == nil {
			found = append(found, p.module)
		}
	}
	return found
}

// ofDevice tells aliases of buses' devices: udev asks for these, not the kernel.
func ofDevice(alias string) bool {
	bus, _, found := strings.Cut(alias, ":")
	return found && slices.Contains([]string{
		"acpi*", "cpu", "dmi", "dmi*", "hid", "of", "pci", "platform", "scsi", "usb", "virtio", "vmbus", "xen",
	}, bus)
}

// nameOf turns a path into the module's name.
func nameOf(file string) string {
	name, _, _ := strings.Cut(path.Base(file), ".ko")
	return normalize(name)
}

// normalize lets dashes and underscores be the same, but in brackets.
func normalize(name string) string {
	if !strings.Contains(name, "-") {
		return name
	}
	text := []byte(name)
	inside := false
	for i, c := range text {
		switch {
		case c == '[':
			inside = true
		case c == ']':
			inside = false
		case c == '-' && !inside:
			text[i] = '_'
		}
	}
	return string(text)
}
