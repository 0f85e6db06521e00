package node

import (
	"errors"
	"fmt"
	"io/fs"
	"path"

	"github.com/BurntSushi/toml"
)

// Where CRI-O's configuration is. It merges the files of the directory by itself.
const (
	crioDir    = "/etc/crio"
	crioConfig = crioDir + "/crio.conf"
	crioDropIn = crioDir + "/crio.conf.d/50-kata.conf"
	crioUnit   = "crio.service"
)

// planCRIO returns the text of our file, unless another one has the handler.
func (t tree) planCRIO(h Handler) (string, error) {
	names := []string{inside(crioConfig)}
	err := fs.WalkDir(t.root.FS(), inside(path.Dir(crioDropIn)), func(name string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err == nil && !entry.IsDir() { // as CRI-O does: whatever its name and its depth
			names = append(names, name)
		}
		return err
	})
	if err != nil {
		return "", fmt.Errorf("list CRI-O's configuration: %w", err)
	}
	for _, name := range names {
		if name == inside(crioDropIn) {
			continue
		}
		text, err := t.root.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var settings map[string]any
		if err == nil {
			_, err = toml.Decode(string(text), &settings)
		}
		if err != nil {
			return "", fmt.Errorf("read CRI-O's configuration /%s: %w", name, err)
		}
		if at(settings, "crio", "runtime", "runtimes", h.Name) != nil {
			return "", fmt.Errorf("CRI-O's configuration /%s has a runtime %s already, which this program did not write: take it out, or choose another name with --handler", name, h.Name)
		}
	}
	return "# Written by `kata-runtime node install`, removed by `kata-runtime node remove`.\n" + h.CRIO(), nil
}

// hasCRIO tells whether the node has CRI-O.
func (t tree) hasCRIO() (bool, error) {
	found, err := t.exists(crioDir)
	if err != nil || found {
		return found, err
	}
	program, err := t.find("crio")
	return program != "", err
}
