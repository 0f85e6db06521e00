package protocol

import (
	"path"
	"slices"
	"strings"
)

// SysctlPath converts the name of a kernel parameter to a clean path below
// /proc/sys, as sysctl(8) does: the first separator decides whether dots or
// slashes separate. ok is false for a name that leads out of there.
func SysctlPath(name string) (parameter string, ok bool) {
	if i := strings.IndexAny(name, "./"); i >= 0 && name[i] == '.' {
		name = strings.NewReplacer(".", "/", "/", ".").Replace(name)
	}
	if name == "" || path.IsAbs(name) || strings.ContainsRune(name, 0) || slices.Contains(strings.Split(name, "/"), "..") {
		return "", false
	}
	return path.Clean(name), true
}
