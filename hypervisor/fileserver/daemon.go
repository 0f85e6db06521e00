package fileserver

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	"kata-runtime/hypervisor/child"
	"kata-runtime/hypervisor/jail"
	"kata-runtime/hypervisor/virtio/backend"
)

const (
	// Role is that of the server's process.
	Role = "fs"
	// Name is what the configuration and the list of processes call the server.
	Name = "kata-" + Role
)

// wantedDescriptors is the limit of open files that the server gets where that can
// be had: see jail.FileLimit.
const wantedDescriptors = 200_000

// FileLimit is how many files the guest may remember. The server has a descriptor for
// no more than half of wantedDescriptors: it is its memory that is bounded by it.
const FileLimit = 64_000

// Options say what to share and how.
type Options struct {
	// SharedDir is the directory to share, an absolute path. The server's mount
	// namespace is a slave of the caller's: what is mounted below a shared mount
	// later reaches the guest.
	SharedDir string
	// Cache is how long the guest may keep what it read: "never", "metadata", "auto"
	// (the default), "brief", "relaxed" or "always".
	Cache string
	// Private are the mounts below the shared directory whose files hardly anybody
	// but the guest changes, as patterns of package path.
	Private []string
	// Steady is that nobody but the runtime changes the files of the shared directory's
	// own mount, and that a name there never gets another meaning.
	Steady bool
	// Notify tells the guest of what others change in mounts that are not Private: see
	// package fsevents. The kernel counts the watches for NotifyUser; 0: for root.
	Notify     bool
	NotifyUser int
	// Program serves it: see backend.Options.
	Program string
	// Jail confines the server, as root with a file server's capabilities, whatever
	// user it names; nil: not.
	Jail *jail.Options
	// Starter forks the server. It must outlive it. Nil: the server gets one for
	// itself.
	Starter *child.Starter
	// Count has the server log, on SIGUSR1, how many requests it has had of each kind.
	Count bool
	// Log gets what the server says.
	Log *slog.Logger

	// limit is that of open files in a jail, which Start finds.
	limit uint64
}

// Start starts a server. Its Wait returns nil when the VMM has hung up. ctx bounds
// the call, not the server's life.
func Start(ctx context.Context, o Options) (*backend.Process, error) {
	if !filepath.IsAbs(o.SharedDir) {
		return nil, fmt.Errorf("start %s: shared directory %q is not absolute", Name, o.SharedDir)
	}
	if info, err := os.Stat(o.SharedDir); err != nil {
		return nil, fmt.Errorf("share a directory: %w", err)
	} else if !info.IsDir() {
		return nil, fmt.Errorf("share %s: %w", o.SharedDir, syscall.ENOTDIR)
	}
	var err error
	if o.limit, err = jail.FileLimit(wantedDescriptors); err != nil {
		return nil, fmt.Errorf("start %s: %w", Name, err)
	}
	s := settings{
		Root: o.SharedDir, Cache: o.Cache, Private: o.Private, Steady: o.Steady,
		Notify: o.Notify, NotifyUser: o.NotifyUser, Count: o.Count,
	}
	if s.Cache == "" {
		s.Cache = CacheAuto
	}
	if _, err := s.options(); err != nil {
		return nil, fmt.Errorf("start %s: %w", Name, err)
	}
	return backend.Start(ctx, options(o, Role, s))
}

// options are those of the server's process, whatever it does there.
func options(o Options, role string, settings any) backend.Options {
	return backend.Options{
		Program: o.Program, Role: role, Settings: settings, Jail: confined(o), Securebits: keepCapabilities, Starter: o.Starter, Log: o.Log,
	}
}

// keepCapabilities lets the server keep its capabilities while it has the user of a
// process in the guest, to make a file that belongs to it. The guest's kernel has
// decided then whether that process may.
const keepCapabilities = 1 << 2 // SECBIT_NO_SETUID_FIXUP

// confined is the server's jail: it finds the shared directory and its own list of
// descriptors, by which it opens files. It is root, since it makes files for all
// users, and never has a capability that would let it mount, open a device, or, by a
// handle that it makes up (CAP_DAC_READ_SEARCH), a file outside the share.
func confined(o Options) *jail.Spec {
	if o.Jail == nil {
		return nil
	}
	return &jail.Spec{
		Namespaces: jail.Empty,
		Root:       &jail.Root{Shares: []string{o.SharedDir}, Self: true},
		Capabilities: []uintptr{
			unix.CAP_CHOWN, unix.CAP_DAC_OVERRIDE, unix.CAP_FOWNER, unix.CAP_FSETID,
			unix.CAP_SETGID, unix.CAP_SETUID, unix.CAP_MKNOD, unix.CAP_SETFCAP,
		},
		SystemCalls: &jail.SystemCalls{Allowed: systemCalls(), Log: o.Jail.LogCalls},
		MaxFiles:    o.limit,
		Without:     o.Jail.Without,
	}
}
