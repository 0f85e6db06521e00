package store

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	// DefaultShimRoot holds the stores of containerd's shims, one for each of
	// containerd's namespaces.
	DefaultShimRoot = "/run/kata-containers/shim"
	// ShimRootVariable is the environment variable that names another directory.
	ShimRootVariable = "KATA_SHIM_ROOT"
)

// ShimRoot is the directory with the stores of containerd's shims.
func ShimRoot() string { return cmp.Or(os.Getenv(ShimRootVariable), DefaultShimRoot) }

// OpenShims opens the stores of containerd's shims, of all namespaces.
func OpenShims() ([]*Store, error) {
	root := ShimRoot()
	namespaces, err := os.ReadDir(root)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list the shims' state directories: %w", err)
	}
	var stores []*Store
	for _, namespace := range namespaces {
		if !namespace.IsDir() {
			continue
		}
		s, err := Open(filepath.Join(root, namespace.Name()))
		if err != nil {
			return nil, err
		}
		stores = append(stores, s)
	}
	return stores, nil
}
