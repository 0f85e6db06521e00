//go:build !vm

package store

import "errors"

// fullDisk needs root: see disk_vm_test.go.
func fullDisk(*Store) error { return errors.New("not built") }
