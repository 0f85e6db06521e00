package passthrough

import (
	"log/slog"
	"time"
)

// RootMount is what CacheFor is asked of the mount that has the root.
const RootMount = "."

// Options of a file system. The zero value serves with defaults that suit a directory
// that others change.
type Options struct {
	// ReadOnly refuses every change, whatever the host's mounts permit.
	ReadOnly bool

	// Cache is how long the guest may rely on what it was told, for every mount that
	// CacheFor has no answer for.
	Cache Cache
	// Watch is whether a Cache may have Watch. No file is opened by its handle then: a
	// change is told by names.
	Watch bool
	// CacheFor is asked once for each mount, with the path of its mount point relative to
	// the root: RootMount is the root's own.
	CacheFor func(mountPoint string) (Cache, bool) `json:"-"`
	// Writeback is for a connection with FUSE_WRITEBACK_CACHE: the guest's kernel keeps
	// what was written and reads what it writes in part. For files that nobody else sees.
	Writeback bool

	// MaxNodeDescriptors bounds the descriptors of files that the guest merely
	// remembers. The default is half of the process's limit.
	MaxNodeDescriptors int
	// MaxOpenFiles bounds what the guest has open, with one more for each owner of
	// locks. The default is a little less than the other half.
	MaxOpenFiles int

	// Lasting is how many mounts deep a mount may be and yet have its files remembered
	// by descriptors, which keep it busy until it is unmounted lazily: 0 is the root's
	// mount alone. Deeper ones are those that the host may add and take away while they
	// are served.
	Lasting int
	// Submounts marks the roots of mounts (FUSE_ATTR_SUBMOUNT), so that each is a file
	// system of its own in the guest. Without it, the inode numbers of mounts below the
	// root are changed so that they do not clash.
	Submounts bool

	// XattrPrefix is where attributes are kept that the host must not act on. It begins
	// with "user." and ends with a dot. The default is "user.kata.".
	XattrPrefix string
	// DirectIO opens files with O_DIRECT on the host as well when the guest does, which is
	// of the same architecture: the flag's value depends on it. Otherwise the guest's cache alone is bypassed.
	DirectIO bool

	// MaxWatches bounds the directories and files of which changes by others are told to
	// the guest. The default is 4096. WatchUser is whom the kernel counts them for; 0 is
	// the process's own user.
	MaxWatches, WatchUser int

	// Proc is the directory of this process in procfs. The default is /proc/self.
	Proc string
	// Logger is told of what the host's administrator can mend.
	Logger *slog.Logger `json:"-"`
}

// Cache is how long a guest relies on what it was told of a mount's files.
type Cache struct {
	// Entries is how long a name keeps its meaning, Missing how long it has none.
	Entries, Missing time.Duration
	// Attributes is how long they hold.
	Attributes time.Duration
	// Call lets the attributes that come with a name serve the system call that has
	// asked for it, where Attributes is 0: see brief.
	Call bool
	// Paths lets names of directories hold briefly while the guest walks, and has it walk
	// again where they have changed. It is for where Entries is 0.
	Paths bool
	// Watch tells the guest of what others change there: see package fsevents. It takes
	// Options.Watch.
	Watch bool
	// Data is when the guest's cache of a file's content outlives its last close.
	Data DataCache
}

// DataCache is when cached content is used again.
type DataCache int

// The policies of content.
const (
	// DataAuto uses it again when nobody has changed the file.
	DataAuto DataCache = iota
	// DataAlways uses it again.
	DataAlways
	// DataNever reads through, as O_DIRECT does.
	DataNever
)

// Shared is for files that others change: a change is seen by the next open or stat.
func Shared() Cache { return Cache{Call: true, Data: DataAuto} }

// Private is for files that nobody else changes.
func Private() Cache {
	const long = 24 * time.Hour
	return Cache{Entries: long, Missing: long, Attributes: long, Data: DataAlways}
}

// Uncached keeps nothing.
func Uncached() Cache { return Cache{Data: DataNever} }
