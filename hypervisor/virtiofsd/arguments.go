package virtiofsd

import (
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"strings"
)

// listenFD is the first of os/exec's ExtraFiles in the child.
const listenFD = 3

// wantedDescriptors is the limit that a daemon gets where this process may
// raise limits. The C daemon holds a descriptor for each file that the guest
// remembers, and a guest with a large page cache remembers many. Each takes 1.5 KiB
// of the kernel's memory (ext4, Linux 6.18): 300 MiB in all, which the pod's control
// group has room for. A C daemon that is told to take more than it may ends at once.
const wantedDescriptors = 200_000

var errCache = errors.New("cache mode is not one of auto, brief, relaxed, always, never and metadata")

// arguments returns a daemon's arguments, without the program's name. limit is
// the number of descriptors that it may have, 0 for what it inherits.
func arguments(kind Kind, o Options, limit uint64) ([]string, error) {
	if !filepath.IsAbs(o.SharedDir) {
		return nil, fmt.Errorf("shared directory %q is not absolute", o.SharedDir)
	}
	cache := o.Cache
	if cache == "" {
		cache = "auto"
	}
	switch cache {
	case "auto", "always", "never":
	case "relaxed", "brief": // the shortest time that it has
		cache = "auto"
	case "metadata":
		if kind == C {
			return nil, fmt.Errorf("the C virtiofsd has no cache mode %q: choose auto, always or never", cache)
		}
	default:
		return nil, fmt.Errorf("%w: %q", errCache, cache)
	}
	sandbox, ownLimit := "namespace", limit
	if o.Jail != nil {
		// The jail has made both, and has left no capability to do so.
		sandbox, ownLimit = "chroot", 0
	}
	args := []string{
		"--fd=" + strconv.Itoa(listenFD),
		"--rlimit-nofile=" + strconv.FormatUint(ownLimit, 10),
	}
	if kind == C {
		if cache == "never" {
			cache = "none"
		}
		args = append(args, "-f",
			"-o", "source="+quoteOption(o.SharedDir),
			"-o", "cache="+cache,
			"-o", "sandbox="+sandbox,
			"-o", "xattr",
			"-o", "announce_submounts",
			"-o", "log_level=warn")
		return append(args, o.ExtraArgs...), nil
	}
	args = append(args,
		"--shared-dir="+o.SharedDir,
		"--cache="+cache,
		"--sandbox="+sandbox,
		"--xattr",
		"--announce-submounts",
		"--log-level=warn")
	// It then holds no descriptor per file that the guest knows, where the file system
	// has handles. In a jail it may open no file by one, which would lead out of the
	// share.
	if o.Jail == nil {
		args = append(args, "--inode-file-handles=prefer")
	}
	return append(args, o.ExtraArgs...), nil
}

// quoteOption protects a value in libfuse's comma-separated option list.
func quoteOption(value string) string {
	return strings.NewReplacer(`\`, `\\`, `,`, `\,`).Replace(value)
}
