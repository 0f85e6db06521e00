package node

import (
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
	names, err := fs.Glob(t.root.FS(), inside(path.Dir(crioDropIn))+"/*")
	if err != nil {
		return "", fmt.Errorf("list CRI-O's configuration: %w", err)
	}
	for _, name := range append(names, inside(crioConfig)) {
		name = "/" + name
		if name == crioDropIn {
			continue
		}
		text, found, err := t.read(name)
		if err != nil {
			return "", err
		}
		if !found {
			continue
		}
		var settings map[string]any
		if _, err := toml.Decode(text, &settings); err != nil {
			return "", fmt.Errorf("CRI-O's configuration %s: %w", name, err)
		}
		if at(settings, "crio", "runtime", "runtimes", h.Name) != nil {
			return "", fmt.Errorf("CRI-O's configuration %s has a runtime %s already, which this program did not write: take it out, or choose another name with --handler", name, h.Name)
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
