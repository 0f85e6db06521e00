package fileserver

import (
	"fmt"
	"path"
	"slices"
	"time"

	"kata-runtime/hypervisor/fileserver/passthrough"
)

// settings is what the server's process is told.
type settings struct {
	// Root is the directory to serve.
	Root string `json:"root"`
	// Cache is one of the constants below.
	Cache string `json:"cache"`
	// Private are the mounts whose files the guest may rely on for a moment, as
	// patterns of package path, below Root.
	Private []string `json:"private,omitempty"`
	// Steady is that the files of Root's own mount, above all others, are nobody's to
	// change but the runtime's, which never gives a name another meaning.
	Steady bool `json:"steady,omitempty"`
	// Notify tells the guest of what others change in other mounts; the watches are
	// counted for NotifyUser.
	Notify     bool `json:"notify,omitempty"`
	NotifyUser int  `json:"notifyUser,omitempty"`
	// Count has the process log how many requests there were on SIGUSR1.
	Count bool `json:"count,omitempty"`
}

// How long a guest may keep what it read.
const (
	CacheNever    = "never"
	CacheMetadata = "metadata"
	CacheAuto     = "auto"
	CacheBrief    = "brief"
	CacheRelaxed  = "relaxed"
	CacheAlways   = "always"
)

// moment is how long a guest relies on names and attributes of files that hardly
// anybody else changes.
const moment = time.Second

// lasting is how many mounts deep a mount may be that is unmounted lazily.
const lasting = 1

// options returns those of the file system.
func (s *settings) options() (passthrough.Options, error) {
	o, err := s.caches()
	if err != nil || !s.Notify {
		return o, err
	}
	o.Watch, o.WatchUser = true, s.NotifyUser
	private, shared := o.CacheFor, o.Cache
	shared.Watch = true
	o.CacheFor = func(mountPoint string) (passthrough.Cache, bool) {
		if private != nil {
			if c, ok := private(mountPoint); ok {
				return c, true
			}
		}
		return shared, !s.private(mountPoint)
	}
	return o, nil
}

// private is whether hardly anybody but the guest changes the files of a mount.
func (s *settings) private(mountPoint string) bool {
	return slices.ContainsFunc(s.Private, func(pattern string) bool {
		matches, _ := path.Match(pattern, mountPoint)
		return matches
	})
}

// caches returns what is kept of which mount.
func (s *settings) caches() (passthrough.Options, error) {
	o := passthrough.Options{Submounts: true, Lasting: lasting}
	private := passthrough.Cache{Entries: moment, Missing: moment, Attributes: moment, Data: passthrough.DataAuto}
	switch s.Cache {
	case CacheNever:
		o.Cache = passthrough.Uncached()
		return o, nil
	case CacheAlways:
		o.Cache = passthrough.Private()
		return o, nil
	case CacheRelaxed:
		o.Cache = private
		return o, nil
	case CacheMetadata:
		o.Cache = passthrough.Shared()
		o.Cache.Data, private.Data = passthrough.DataNever, passthrough.DataNever
	case CacheAuto:
		o.Cache = passthrough.Shared()
	case CacheBrief:
		o.Cache = passthrough.Shared()
		o.Cache.Paths = true
	default:
		return o, fmt.Errorf("cache mode is not one of %s, %s, %s, %s, %s and %s: %q",
			CacheNever, CacheMetadata, CacheAuto, CacheBrief, CacheRelaxed, CacheAlways, s.Cache)
	}
	for _, pattern := range s.Private {
		if _, err := path.Match(pattern, ""); err != nil {
			return o, fmt.Errorf("pattern of private mounts %q: %w", pattern, err)
		}
	}
	o.CacheFor = func(mountPoint string) (passthrough.Cache, bool) {
		if mountPoint == passthrough.RootMount && s.Steady {
			// Each walk to a container's files begins here, and there are many while it is
			// made. That a name has no meaning yet is not relied on: containers come.
			return passthrough.Cache{Entries: moment, Attributes: moment, Data: o.Cache.Data}, true
		}
		return private, s.private(mountPoint)
	}
	return o, nil
}
