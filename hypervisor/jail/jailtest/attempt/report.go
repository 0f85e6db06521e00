// Package attempt is what somebody who has taken a confined process over would try, in
// that process: to reach what is not its own. An attempt does no harm where it succeeds.
package attempt

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Targets are what is tried, besides what every host has.
type Targets struct {
	// Files must not be opened, Sockets (paths, or abstract ones with an @) and
	// Addresses (TCP) not connected to, Processes not signalled.
	Files, Sockets, Addresses []string
	Processes                 []int
	// Handle is the handle of a file, HandleType its type.
	Handle     []byte
	HandleType int32
	// Share is the directory that a file server serves, which it may look into. It has
	// directories mounted, with a link out of it, and readonly.
	Share string
}

// Report is what was found.
type Report struct {
	// Attempts is how many there were.
	Attempts int
	// Reached are those that were not refused, by their names.
	Reached []string
	// Killed are those that the process was ended for.
	Killed []string
	// Descriptors are its open files, by what they are.
	Descriptors []string
	// Files are all that it sees in its root file system, but for the shared
	// directory's content.
	Files []string
}

// Outcome is how a hostile attempt ended.
type Outcome string

// How an attempt ends. Anything else is why it could not be made.
const (
	Reached Outcome = "reached"
	Refused Outcome = "refused"
	Killed  Outcome = "killed"
)

// Try makes one of the hostile attempts, in this process, which it may end.
func Try(t *Targets, name string) Outcome {
	if f := Hostile(t)[name]; f == nil || f() != nil {
		return Refused
	}
	return Reached
}

// Note adds the outcome of a hostile attempt. Done is to follow the last one.
func (r *Report) Note(name string, outcome Outcome) {
	r.Attempts++
	switch outcome {
	case Reached:
		r.Reached = append(r.Reached, name)
	case Killed:
		r.Killed = append(r.Killed, name)
	case Refused:
	default:
		r.Reached = append(r.Reached, fmt.Sprintf("%s was not tried: %s", name, outcome))
	}
}

// Done sorts the report.
func (r *Report) Done() {
	slices.Sort(r.Reached)
	slices.Sort(r.Killed)
}

// Make makes all attempts that are not hostile, and looks at what is there.
func Make(t *Targets) *Report {
	r := &Report{Descriptors: descriptors()}
	_ = filepath.WalkDir("/", func(path string, entry fs.DirEntry, _ error) error {
		if t.Share != "" && path == t.Share || strings.HasPrefix(path, "/proc/self/") {
			return fs.SkipDir
		}
		if entry != nil && !entry.IsDir() && len(r.Files) < 200 {
			r.Files = append(r.Files, path)
		}
		return nil
	})
	for _, group := range []map[string]func() error{
		files(t), sockets(t), processes(t), privileges(), kernel(), devices(), escapes(), shared(t, t.Share),
	} {
		for name, attempt := range group {
			outcome := Refused
			if attempt() == nil {
				outcome = Reached
			}
			r.Note(name, outcome)
		}
	}
	return r
}

// descriptors tells what is open.
func descriptors() []string {
	var found []string
	for fd := range 1024 {
		var stat unix.Stat_t
		if unix.Fstat(fd, &stat) != nil {
			continue
		}
		kind := map[uint32]string{
			unix.S_IFREG: "file", unix.S_IFDIR: "directory", unix.S_IFIFO: "pipe", unix.S_IFBLK: "disk", unix.S_IFLNK: "link",
		}[stat.Mode&unix.S_IFMT]
		switch {
		case stat.Mode&unix.S_IFMT == unix.S_IFCHR:
			kind = fmt.Sprintf("device %d:%d", unix.Major(stat.Rdev), unix.Minor(stat.Rdev))
		case stat.Mode&unix.S_IFMT == unix.S_IFSOCK:
			family, _ := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_DOMAIN)
			kind = fmt.Sprintf("socket %d", family)
		case kind == "":
			kind = "anonymous"
		}
		found = append(found, kind)
	}
	slices.Sort(found)
	return slices.Compact(found)
}
